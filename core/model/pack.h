/* Weights that a Hugging Face directory keeps in several tensors: integers packed into words or FP8 numbers, with
 * scales and zero points beside them (spec/models.md 2.3 to 2.5). They are joined into one tensor X.weight [out, in],
 * which is read as f32 by its published formula, W = (q - zero) * scale: one exact difference, one rounding. */
#ifndef CORE_MODEL_PACK_H
#define CORE_MODEL_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/io/wfile.h"

enum lb_pack_kind { LB_PACK_NONE, LB_PACK_GPTQ, LB_PACK_AWQ, LB_PACK_INT, LB_PACK_FP8 };

/* What config.json says of it. */
struct lb_pack_format {
    enum lb_pack_kind kind;
    int bits;           /* of an integer: 2, 4 or 8 */
    int64_t group;      /* inputs that share a scale; 0: all of a row */
    bool zero_less_one; /* GPTQ's first format stores zero points less one */
    bool zeros;         /* LB_PACK_INT: zero points are stored */
    int64_t block[2];   /* LB_PACK_FP8: rows and columns that share a scale; 0: the shape of the scales tells */
};

/* "GPTQ", "AWQ", ...; for the log. */
const char *lb_pack_name(const struct lb_pack_format *f);

/* lb_safetensors_open, and the packed weights of the directory joined: each takes the place of its parts, as a tensor
 * of type LB_W_PACKED. LB_E_INPUT names the tensor that is missing, or whose shape, type or numbers do not fit. */
enum lb_status lb_pack_open(struct lb_wfile *w, const char *dir, const struct lb_pack_format *f, struct lb_err *err);

/* The second half of it. */
enum lb_status lb_pack_join(struct lb_wfile *w, const struct lb_pack_format *f, struct lb_err *err);

/* out[n_row, n_col] = rows `row` on, of each the columns from `col` on. Any thread. */
void lb_pack_read(const struct lb_wpack *p, int64_t row, int64_t n_row, int64_t col, int64_t n_col, float *out);

#endif
