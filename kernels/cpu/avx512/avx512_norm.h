/* RMS norm of a row, wherever its words go. */
#ifndef KERNELS_CPU_AVX512_AVX512_NORM_H
#define KERNELS_CPU_AVX512_AVX512_NORM_H

#include <math.h>

#include "kernels/cpu/avx512/lk_avx512.h"

static inline float lk_inverse_rms(const float *x, int64_t n, float eps)
{
    __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512 v = _mm512_loadu_ps(x + i + 16 * j);
            sum[j] = _mm512_fmadd_ps(v, v, sum[j]);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512 v = _mm512_maskz_loadu_ps(lk_mask16(n - i - 16 * j), x + i + 16 * j);
        sum[j] = _mm512_fmadd_ps(v, v, sum[j]);
    }
    float all = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
    return 1.0f / sqrtf(all / (float)n + eps);
}

/* Columns col .. col + 31 (n of them real) of one row, normed. */
LK_INLINE void lk_norm32(const struct lk_norm *a, const float *x, float inv, int64_t col, int64_t n, __m512 v[2])
{
    __mmask16 m0 = 0xffff, m1 = 0xffff;
    if (n < 32) {
        m0 = lk_mask16(n);
        m1 = lk_mask16(n - 16);
    }
    __m512 s = _mm512_set1_ps(inv);
    __m512 lo = _mm512_mul_ps(_mm512_maskz_loadu_ps(m0, x + col), s);
    __m512 hi = _mm512_mul_ps(_mm512_maskz_loadu_ps(m1, x + col + 16), s);
    v[0] = _mm512_mul_ps(lo, _mm512_maskz_loadu_ps(m0, a->w + col));
    v[1] = _mm512_mul_ps(hi, _mm512_maskz_loadu_ps(m1, a->w + col + 16));
}

/* The same rounded to bf16. */
LK_INLINE __m512i lk_normed32(const struct lk_norm *a, const float *x, float inv, int64_t col, int64_t n)
{
    __m512 v[2];
    lk_norm32(a, x, inv, col, n, v);
    return (__m512i)_mm512_cvtne2ps_pbh(v[1], v[0]);
}

#endif
