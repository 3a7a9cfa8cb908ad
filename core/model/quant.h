/* Rows of weight files as f32, every value exact but for the one rounding that a block format's own formula has
 * (spec/models.md 2.2.1; ggml's block layouts). */
#ifndef CORE_MODEL_QUANT_H
#define CORE_MODEL_QUANT_H

#include <stddef.h>
#include <stdint.h>

#include "core/io/wfile.h"

const char *lb_quant_name(enum lb_wtype type);
int64_t lb_quant_block(enum lb_wtype type); /* elements of a block; 0 for a type that is not read */

/* Bytes of n consecutive elements; 0 when n is no whole number of the type's blocks or the type is not read. */
size_t lb_quant_bytes(enum lb_wtype type, int64_t n);

/* out[n] = the n elements at src, which may be unaligned. n is a whole number of blocks. Any thread. */
void lb_quant_read(enum lb_wtype type, const uint8_t *src, int64_t n, float *out);

/* out[n] = elements col .. col + n - 1 of the row at src, which need not begin or end with a block. Any thread. */
void lb_quant_read_at(enum lb_wtype type, const uint8_t *src, int64_t col, int64_t n, float *out);

#endif
