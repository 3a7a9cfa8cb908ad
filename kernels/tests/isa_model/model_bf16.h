/* Halves to f32. bf16: conversions and the dot product, which neither read nor set MXCSR: subnormal inputs and results
 * are zeros. */
#ifndef KERNELS_TESTS_ISA_MODEL_MODEL_BF16_H
#define KERNELS_TESTS_ISA_MODEL_MODEL_BF16_H

#include <math.h>

#include "kernels/tests/isa_model/model_types.h"

/* Halves; every one is a number of f32. */
LK_MODEL __m512 _mm512_cvtph_ps(__m256i a)
{
    LK_VECTOR(32) uint16_t h = (LK_VECTOR(32) uint16_t)a;
    __m512 r;
    for (int i = 0; i < 16; i++) {
        int exponent = h[i] >> 10 & 31, fraction = h[i] & 1023;
        float x = exponent == 31  ? fraction ? NAN : INFINITY
                  : exponent == 0 ? ldexpf((float)fraction, -24)
                                  : ldexpf((float)(fraction + 1024), exponent - 25);
        r[i] = h[i] >> 15 ? -x : x;
    }
    return r;
}

/* Nearest even; a subnormal becomes zero of its sign, a NaN quiet. In the low halves of the lanes. */
LK_MODEL_STEP LK_U32X16 lk_model_to_bf16(__m512 a)
{
    LK_U32X16 u = (LK_U32X16)a, r;
    for (int i = 0; i < 16; i++) {
        uint32_t size = u[i] & 0x7fffffffu, high = u[i] >> 16;
        uint32_t rounded = (u[i] + 0x7fffu + (high & 1u)) >> 16;
        r[i] = size > 0x7f800000u ? high | 0x40u : size < 0x00800000u ? high & 0x8000u : rounded;
    }
    return r;
}

/* a to lanes 16 .. 31, b to lanes 0 .. 15 */
LK_MODEL __m512bh _mm512_cvtne2ps_pbh(__m512 a, __m512 b)
{
    LK_U32X16 x = lk_model_to_bf16(a), y = lk_model_to_bf16(b);
    LK_VECTOR(64) uint16_t r;
    for (int i = 0; i < 16; i++) {
        r[i] = (uint16_t)y[i];
        r[16 + i] = (uint16_t)x[i];
    }
    return (__m512bh)r;
}

LK_MODEL __m256bh _mm512_cvtneps_pbh(__m512 a)
{
    LK_U32X16 x = lk_model_to_bf16(a);
    LK_VECTOR(32) uint16_t r;
    for (int i = 0; i < 16; i++)
        r[i] = (uint16_t)x[i];
    return (__m256bh)r;
}

LK_MODEL_STEP __m512 lk_model_flush(__m512 a)
{
    LK_U32X16 u = (LK_U32X16)a;
    for (int i = 0; i < 16; i++)
        u[i] = u[i] & 0x7f800000u ? u[i] : u[i] & 0x80000000u;
    return (__m512)u;
}

/* sum + x y, both as f32 in the upper half of a lane */
LK_MODEL_STEP __m512 lk_model_bf16_step(__m512 sum, LK_U32X16 x, LK_U32X16 y)
{
    __m512 a = lk_model_flush((__m512)x), b = lk_model_flush((__m512)y);
    for (int i = 0; i < 16; i++)
        sum[i] = fmaf(a[i], b[i], sum[i]);
    return lk_model_flush(sum);
}

/* Each lane: the odd elements of its pairs, then the even ones, two fused multiply-adds. */
LK_MODEL __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh x, __m512bh y)
{
    LK_U32X16 a = (LK_U32X16)x, b = (LK_U32X16)y;
    sum = lk_model_bf16_step(lk_model_flush(sum), a & 0xffff0000u, b & 0xffff0000u);
    return lk_model_bf16_step(sum, a << 16, b << 16);
}

#endif
