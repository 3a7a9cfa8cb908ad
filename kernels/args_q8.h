/* Products of weights that stay packed by activations of 8 bits, as --quantize int8 has them where a file's codes are
 * whole numbers already: the codes are multiplied as they are, without rounding, and an activation as GGUF's Q8_0 would
 * have it: with a scale for each 32 packed columns (the way of ggml's products; a scale of a whole row would be that
 * of its largest column).
 *
 * Of a row's block x of 32 packed columns of a segment, zeros behind its end, in f32 with a rounding after each
 * operation
 *
 *     m = max |x|,  s = m / 127,  q = x * (127 / m) to the nearest whole number, ties to even,  X = sum of q
 *
 * m < 2^-120: s is 0, and q; a NaN or infinity among x: s is NaN, and so is all that is made of it.
 *
 * A segment's sum of row i and output column j goes through the segment's blocks from left to right; of LK_PK_K6 a
 * block is two of 16 columns with one s. It begins at +0. With c the codes, d and what else is the kind's as in
 * args_packed.h,
 *
 *     sum = fma((f32)(sum over k of c[j, k] * q[i, k] - z * X), d * s, sum)
 *
 * for S4, S8 and K6 (z = 8, 128, 32; d is d sc), and for the others, z being 0 there,
 *
 *     sum = fma(e, s * X, that),   e = m (A4), -(m mn) (K4; d is d sc), -(d z) (Z4, Z8).
 *
 * Whole numbers are exact (below 2^21), and so are d sc, m mn and d z: the same bits in every set. Adapters are added
 * to a segment's sum as in args_int8.h; the rest is struct lk_linear's. */
#ifndef KERNELS_ARGS_Q8_H
#define KERNELS_ARGS_Q8_H

#include "kernels/args_int8.h"

/* Whether codes of this kind are whole numbers. */
static inline bool lk_q8_has(enum lk_packing kind)
{
    return kind != LK_PK_E4M3;
}

/* A set's products. Weights have lk_cpu.packed_bytes bytes; `quantize` takes struct lk_quantize with q of act_bytes;
 * `linear` takes struct lk_linear with `q` and a.data as quantize writes it, all epilogues but the head's, and writes
 * `out` in the table's own order. */
struct lk_q8 {
    size_t (*act_bytes)(int64_t n_row, const struct lk_cols *cols); /* n_row times that of one row */
    void (*pack_codes)(const struct lk_pack_codes *a);
    int64_t (*quantize_items)(const struct lk_quantize *a);
    void (*quantize)(const struct lk_quantize *a, int64_t begin, int64_t end);
    int64_t (*linear_items)(const struct lk_linear *a);
    void (*linear)(const struct lk_linear *a, int64_t begin, int64_t end); /* NULL: the set has none of these */
};

#endif
