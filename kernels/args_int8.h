/* Products in int8: weights and activations are whole numbers of -127 .. 127 with a scale for each output channel or
 * row and segment of K. Of the numbers x of one such segment, m the largest |x|, in f32 with a rounding after each
 * operation:
 *
 *     s = m / 127,  q = x * (127 / m) rounded to the nearest whole number, ties to even
 *     m < 2^-120: all q and s are 0;  a NaN or infinity among them: s is NaN, and so is all that is made of it
 *
 * A product is that of struct lk_linear with
 *
 *     (f32)(sum over k in s of qa[i, k] * qw[j, k]) * (sa[i, s] * sw[j, s])
 *
 * in place of a segment's sum. The sum of whole numbers is exact, so these are the same bits in every set. Scales are
 * of a segment, not of a whole channel, so that a rank quantizes its slice without the others. */
#ifndef KERNELS_ARGS_INT8_H
#define KERNELS_ARGS_INT8_H

#include "kernels/args.h"

#define LK_INT8_COLS (1 << 16) /* columns of a segment at most: any sums of products of bytes stay below 2^31 */

/* Activations for an int8 product. items: lk_int8.quantize_items. */
struct lk_quantize {
    void *q;         /* out: lk_int8.act_bytes(a.n_row, a.cols) bytes in the set's int8 order */
    struct lk_act a; /* as norm, SwiGLU and attention write them */
};

#endif
