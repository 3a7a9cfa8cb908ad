/* Arithmetic of f32 and f64 with the rounding and the subnormals of MXCSR's default: nearest even, kept. */
#ifndef KERNELS_TESTS_ISA_MODEL_MODEL_FLOAT_H
#define KERNELS_TESTS_ISA_MODEL_MODEL_FLOAT_H

#include <math.h>

#include "kernels/tests/isa_model/model_types.h"

#define LK_MODEL_BINARY(name, vector, op)    \
    LK_MODEL vector name(vector a, vector b) \
    {                                        \
        return a op b;                       \
    }
LK_MODEL_BINARY(_mm512_add_ps, __m512, +)
LK_MODEL_BINARY(_mm512_sub_ps, __m512, -)
LK_MODEL_BINARY(_mm512_mul_ps, __m512, *)
LK_MODEL_BINARY(_mm512_div_ps, __m512, /)
LK_MODEL_BINARY(_mm512_sub_pd, __m512d, -)
LK_MODEL_BINARY(_mm512_mul_pd, __m512d, *)

/* a where the comparison holds, else b: so it is b when either is a NaN or both are zeros. */
#define LK_MODEL_PICK(name, vector, lanes, op) \
    LK_MODEL vector name(vector a, vector b)   \
    {                                          \
        for (int i = 0; i < (lanes); i++)      \
            b[i] = a[i] op b[i] ? a[i] : b[i]; \
        return b;                              \
    }
LK_MODEL_PICK(_mm512_max_ps, __m512, 16, >)
LK_MODEL_PICK(_mm512_min_ps, __m512, 16, <)
LK_MODEL_PICK(_mm512_max_pd, __m512d, 8, >)

/* One rounding. */
#define LK_MODEL_FMA(name, vector, lanes, expression)  \
    LK_MODEL vector name(vector a, vector b, vector c) \
    {                                                  \
        for (int i = 0; i < (lanes); i++)              \
            c[i] = expression;                         \
        return c;                                      \
    }
LK_MODEL_FMA(_mm512_fmadd_ps, __m512, 16, fmaf(a[i], b[i], c[i]))
LK_MODEL_FMA(_mm512_fmsub_ps, __m512, 16, fmaf(a[i], b[i], -c[i]))
LK_MODEL_FMA(_mm512_fmadd_pd, __m512d, 8, fma(a[i], b[i], c[i]))
LK_MODEL_FMA(_mm512_fnmadd_pd, __m512d, 8, fma(-a[i], b[i], c[i]))

LK_MODEL __m512d _mm512_mask_add_pd(__m512d other, __mmask8 m, __m512d a, __m512d b)
{
    for (int i = 0; i < 8; i++)
        other[i] = m >> i & 1 ? a[i] + b[i] : other[i];
    return other;
}

LK_MODEL __m512 _mm512_cvtepi32_ps(__m512i a)
{
    LK_I32X16 x = (LK_I32X16)a;
    __m512 r;
    for (int i = 0; i < 16; i++)
        r[i] = (float)x[i];
    return r;
}

LK_MODEL __m512d _mm512_cvtps_pd(__m256 a)
{
    __m512d r;
    for (int i = 0; i < 8; i++)
        r[i] = (double)a[i];
    return r;
}

/* To nearest even; INT32_MIN for what does not fit and for NaN. */
LK_MODEL __m512i _mm512_cvtps_epi32(__m512 a)
{
    LK_I32X16 r;
    for (int i = 0; i < 16; i++)
        r[i] = a[i] >= -0x1p31f && a[i] < 0x1p31f ? (int32_t)rintf(a[i]) : INT32_MIN;
    return (__m512i)r;
}

LK_MODEL float _mm512_cvtss_f32(__m512 a)
{
    return a[0];
}

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_FROUND_TO_NEG_INF 1
#define _MM_FROUND_NO_EXC 8

LK_MODEL __m512 _mm512_roundscale_ps(__m512 a, int imm)
{
    if (imm != (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
        __builtin_trap();
    for (int i = 0; i < 16; i++)
        a[i] = rintf(a[i]);
    return a;
}

/* a - floor(a), rounded down; -0 for whole numbers (SDM, "VREDUCEPD/PS Special Cases") and 0 for infinities, as
 * processors have it. The sum is taken back in double, exactly, to see which way it was rounded. */
LK_MODEL __m512 _mm512_reduce_ps(__m512 a, int imm)
{
    if (imm != (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC))
        __builtin_trap();
    for (int i = 0; i < 16; i++) {
        float n = floorf(a[i]), r = a[i] - n;
        r = (double)r + (double)n > (double)a[i] ? nextafterf(r, -1.0f) : r;
        a[i] = isinf(a[i]) ? 0.0f : a[i] == n ? -0.0f : r;
    }
    return a;
}

LK_MODEL __m512d _mm512_roundscale_pd(__m512d a, int imm)
{
    if (imm != (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
        __builtin_trap();
    for (int i = 0; i < 8; i++)
        a[i] = rint(a[i]);
    return a;
}

/* 2^n as a double, |n| <= 1000. */
LK_MODEL_STEP double lk_model_power(int n)
{
    uint64_t u = (uint64_t)(1023 + n) << 52;
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* What vscalefps says of operands that are not finite (SDM, table "VSCALEFPS/PD Special Cases"); else 0. quiet: of a,
 * if it is a NaN. */
LK_MODEL_STEP int lk_model_scalef_odd(double a, int quiet, double b, double *r)
{
    if (isfinite(a) && isfinite(b))
        return 0;
    if (isnan(a) || isnan(b)) /* a quiet NaN yields to an infinite exponent */
        *r = isnan(a) && quiet && isinf(b) ? (b > 0 ? INFINITY : 0.0) : a + b;
    else if (isinf(b))
        *r = b > 0 ? (a == 0.0 ? NAN : copysign(INFINITY, a)) : (isinf(a) ? NAN : copysign(0.0, a));
    else
        *r = a;
    return 1;
}

/* a 2^floor(b), rounded once: the product is exact in double. Beyond 2^+-400 there is only overflow or zero. */
LK_MODEL_STEP float lk_model_scalef(float a, float b)
{
    double r;
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    if (lk_model_scalef_odd((double)a, (int)(bits >> 22 & 1), (double)b, &r))
        return (float)r;
    float n = floorf(b);
    return (float)((double)a * lk_model_power((int)(n < -400.0f ? -400.0f : n > 400.0f ? 400.0f : n)));
}

LK_MODEL __m512 _mm512_scalef_ps(__m512 a, __m512 b)
{
    for (int i = 0; i < 16; i++)
        a[i] = lk_model_scalef(a[i], b[i]);
    return a;
}

LK_MODEL __m512d _mm512_scalef_pd(__m512d a, __m512d b)
{
    for (int i = 0; i < 8; i++) {
        double r, n = floor(b[i]);
        if (!lk_model_scalef_odd(a[i], (int)(((LK_I64X8)a)[i] >> 51 & 1), b[i], &r))
            r = ldexp(a[i], (int)(n < -4000.0 ? -4000.0 : n > 4000.0 ? 4000.0 : n));
        a[i] = r;
    }
    return a;
}

#define _CMP_ORD_Q 0x07
#define _CMP_GT_OQ 0x1e

/* Bits of a predicate's answers: 1 when a is below b, 2 equal, 4 above, 8 unordered. Bit 4 of the predicate is about
 * exceptions alone. */
LK_MODEL __mmask16 _mm512_mask_cmp_ps_mask(__mmask16 m, __m512 a, __m512 b, int predicate)
{
    static const unsigned char holds[16] = {2, 1, 3, 8, 13, 14, 12, 7, 10, 9, 11, 0, 5, 6, 4, 15};
    unsigned r = 0;
    for (int i = 0; i < 16; i++) {
        unsigned is = a[i] < b[i] ? 1 : a[i] == b[i] ? 2 : a[i] > b[i] ? 4 : 8;
        r |= (unsigned)((holds[predicate & 15] & is) != 0) << i;
    }
    return (__mmask16)(r & m);
}

LK_MODEL __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate)
{
    return _mm512_mask_cmp_ps_mask(0xffff, a, b, predicate);
}

/* Classes by bit of imm: quiet NaN, +0, -0, +inf, -inf, subnormal, negative and finite (not zero), signaling NaN. */
LK_MODEL __mmask16 _mm512_mask_fpclass_ps_mask(__mmask16 m, __m512 a, int imm)
{
    LK_U32X16 bits = (LK_U32X16)a;
    unsigned r = 0;
    for (int i = 0; i < 16; i++) {
        uint32_t negative = bits[i] >> 31, exponent = bits[i] >> 23 & 0xff, fraction = bits[i] & 0x7fffff;
        unsigned is;
        if (exponent == 0xff)
            is = fraction ? (fraction >> 22 ? 0x01 : 0x80) : negative ? 0x10 : 0x08;
        else if (exponent == 0 && fraction == 0)
            is = negative ? 0x04 : 0x02;
        else
            is = (exponent == 0 ? 0x20u : 0) | (negative ? 0x40u : 0);
        r |= (unsigned)((is & (unsigned)imm) != 0) << i;
    }
    return (__mmask16)(r & m);
}

LK_MODEL __mmask16 _mm512_fpclass_ps_mask(__m512 a, int imm)
{
    return _mm512_mask_fpclass_ps_mask(0xffff, a, imm);
}

/* The order of GCC's avx512fintrin.h: halves, halves of those, lanes 0 + 2 and 1 + 3, then the two that are left. */
LK_MODEL float _mm512_reduce_add_ps(__m512 a)
{
    for (int i = 0; i < 8; i++)
        a[i] = a[8 + i] + a[i];
    for (int i = 0; i < 4; i++)
        a[i] = a[4 + i] + a[i];
    return (a[0] + a[2]) + (a[1] + a[3]);
}

LK_MODEL double _mm512_reduce_add_pd(__m512d a)
{
    for (int i = 0; i < 4; i++)
        a[i] = a[4 + i] + a[i];
    return (a[2] + a[0]) + (a[3] + a[1]);
}

/* The larger of two as the instruction picks it: the first operand is the upper half. */
LK_MODEL float _mm512_reduce_max_ps(__m512 a)
{
    for (int n = 8; n >= 4; n /= 2)
        for (int i = 0; i < n; i++)
            a[i] = a[n + i] > a[i] ? a[n + i] : a[i];
    float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
    return x > y ? x : y;
}

#endif
