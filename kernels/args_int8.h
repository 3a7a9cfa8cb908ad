/* Products in int8: weights and activations are whole numbers of -127 .. 127 with a scale for each output channel or
 * row and segment of K, made in three steps, all in f32 with a rounding after each operation.
 *
 * Mixed: a segment's columns, zero-filled to blocks of 64, go through a Hadamard transform block by block: for h = 1,
 * 2, 4, ..., 32 each pair x[i], x[i + h], where i does not have bit h, becomes x[i] + x[i + h], x[i] - x[i + h]. It
 * leaves products as they are but for a factor of 64, and a column that is far larger than others, as some are in
 * language models, is spread over its block: without it a row's scale would be that column's (QuaRot, Ashkboos et al.
 * 2024).
 *
 * Scaled: with m the largest |x| of the segment, s = m / 127, and s / 64 for weights; m < 2^-120: s is 0; a NaN or
 * infinity among them: s is NaN, and so is all that is made of it.
 *
 * Rounded: q = x * (127 / m) to the nearest whole number, ties to even; 0 where s is 0.
 *
 * A product is that of struct lk_linear with
 *
 *     (f32)(sum over k in s of qa[i, k] * qw[j, k]) * (sa[i, s] * sw[j, s])
 *
 * in place of a segment's sum, which an adapter's B u is added to (args_lora.h): u is made of the activations as they
 * were before they became whole numbers, rounded to the set's type alone, so that an adapter loses nothing by int8. The
 * sum of whole numbers is exact, so these are the same bits in every set. Scales are of a segment, not of a whole
 * channel, so that a rank quantizes its slice without the others. */
#ifndef KERNELS_ARGS_INT8_H
#define KERNELS_ARGS_INT8_H

#include "kernels/args.h"

#define LK_INT8_BLOCK 64       /* columns that are mixed */
#define LK_INT8_COLS (1 << 16) /* columns of a segment at most: any sums of products of bytes stay below 2^31 */

/* Activations for an int8 product. items: lk_int8.quantize_items. */
struct lk_quantize {
    void *q;         /* out: lk_int8.act_bytes(a.n_row, a.cols) bytes in the set's int8 order */
    struct lk_act a; /* as norm, SwiGLU and attention write them */
};

/* How far a product in int8 can be from the same product in the set's type. With w and x as the type has them, W and X
 * what int8 makes of them,
 *
 *     |w . x - W . X| <= ||W|| ||x - X|| + ||w - W|| ||x||
 *
 * (w . x - W . X = W . (x - X) + (w - W) . x, and Cauchy-Schwarz). The norms of a row or an output channel: `error` of
 * the difference, and in it what f32 sums of up to LK_INT8_COLS columns are off in any order, in either product, in the
 * transform and in these norms, and what subnormal numbers are worth. All are upper bounds; infinite where a number is
 * not finite. */
#define LK_NORM_COLS 1024 /* columns of a segment at most, where norms are asked for */
struct lk_int8_norms {
    float exact, whole, error; /* ||x||, ||X||, ||x - X|| */
};

/* Of a row's approximate logits y, W . X for n columns of a vocabulary, those whose exact ones can be the row's
 * largest: y + m >= the largest y - m of all columns, m as above. */
struct lk_screen {
    const float *y, *whole, *error; /* [n], the latter two the columns' norms */
    struct lk_int8_norms row;
    int64_t n;  /* at most LK_SCREEN_COLS */
    int32_t id; /* of column 0 */
};

#define LK_SCREEN_COLS 512

struct lk_may {
    float most; /* that the exact logit can be */
    int32_t id;
};

#endif
