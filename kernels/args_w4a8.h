/* Products of weights of 4 bits that stay packed by activations of 8 (W4A8), as --quantize w4a8 has them: the codes are
 * multiplied as they are, without rounding, and an activation is as GGUF's Q8_0 would have it, with a scale for each 16
 * packed columns (ggml's products have one for 32, which costs SmolLM2 some 0.3 % of perplexity more: all that share a
 * scale with a column far larger than they are become rough).
 *
 * Of a row's half block x of 16 packed columns of a segment, zeros behind its end, in f32 with a rounding after each
 * operation
 *
 *     m = max |x|,  s = m / 127,  q = x * (127 / m) to the nearest whole number, ties to even,  X = sum of q
 *
 * m < 2^-120: s is 0, and q; a NaN or infinity among x: s is NaN, and so is all that is made of it.
 *
 * A segment's sum of row i and output column j begins at +0 and goes from left to right through runs of the segment's
 * blocks of 32 that share their d (Q4_K: d and d sc, a block alone). With c the codes, d and what else is the kind's as
 * in args_packed.h, and from +0, block by block,
 *
 *     p = fma((f32)(sum over k of c[j, k] * q[i, k]), s, p)  for its halves in turn; of S4 (sum - 8 X)
 *     u = u + (s X of the first half + s X of the other)
 *
 * a run adds
 *
 *     S4:         sum = fma(p, d, sum)
 *     the others: sum = fma(e, u, fma(p, d, sum)),  e = m (A4), -(d z) (Z4), -(m mn) (K4, whose d is d sc)
 *
 * Whole numbers are exact, and so are d sc, m mn and d z: the same bits in every set. Adapters are added to a segment's
 * sum as in args_int8.h; the rest is struct lk_linear's. */
#ifndef KERNELS_ARGS_W4A8_H
#define KERNELS_ARGS_W4A8_H

#include "kernels/args_int8.h"

/* Codes of 4 bits. */
static inline bool lk_w4a8_has(enum lk_packing kind)
{
    return kind <= LK_PK_K4;
}

/* A set's products. Weights have lk_cpu.packed_bytes bytes; `quantize` takes struct lk_quantize with q of act_bytes;
 * `linear` takes struct lk_linear with `q` and a.data as quantize writes it, all epilogues but the head's, and writes
 * `out` in the table's own order. */
struct lk_w4a8 {
    size_t (*act_bytes)(int64_t n_row, const struct lk_cols *cols); /* n_row times that of one row */
    void (*pack_codes)(const struct lk_pack_codes *a);
    int64_t (*quantize_items)(const struct lk_quantize *a);
    void (*quantize)(const struct lk_quantize *a, int64_t begin, int64_t end);
    int64_t (*linear_items)(const struct lk_linear *a);
    void (*linear)(const struct lk_linear *a, int64_t begin, int64_t end); /* NULL: the set has none of these */
};

#endif
