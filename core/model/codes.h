/* Weights that products can take as the file packs them: codes, scales and zero points of rows, taken apart
 * (kernels/args_packed.h). */
#ifndef CORE_MODEL_CODES_H
#define CORE_MODEL_CODES_H

#include <stdbool.h>

#include "core/io/wfile.h"
#include "kernels/args_packed.h"

/* How a tensor's rows are packed, `first` being where the columns that are taken begin. False: numbers of this type are
 * formed otherwise than any product does it, or its groups are not contiguous. */
bool lb_codes_of(const struct lb_wtensor *t, int64_t first, struct lk_packed *how);

/* About what a matrix takes in memory that stays packed; 0: it does not. */
double lb_codes_kept_bytes(const struct lb_wtensor *t);

/* Bytes of n_col columns of a row taken apart. */
size_t lb_codes_bytes(const struct lk_packed *how, int64_t n_col);

/* Columns how->first .. how->first + n_col - 1 of row `row` of a tensor, counted over all its outer dimensions, taken
 * apart in `mem`, which what `out` points to lies in. Any thread. */
void lb_codes_read(const struct lb_wtensor *t, const struct lk_packed *how, int64_t row, int64_t n_col, uint8_t *mem,
                   struct lk_codes *out);

#endif
