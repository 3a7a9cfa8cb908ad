/* 2^x as closely as numbers need it that are rounded to bf16 behind it, and SwiGLU of such. */
#ifndef KERNELS_CPU_AVX512_AVX512_POWER_H
#define KERNELS_CPU_AVX512_AVX512_POWER_H

#include "kernels/cpu/avx512/lk_avx512.h"

/* 2^x of N vectors, relative error below 2^-13.6, as bf16 has 8 bits; 0 from x = -150 on down, of -inf too, NaN stays
 * NaN. With x = n + f, f in [0, 1): a polynomial of degree 3 in f, fitted for the least relative error (7.5e-5), times
 * 2^n. Each step is taken for all vectors before the next one, which waits for it: the processor's window is too short
 * to find that order by itself. */
LK_INLINE void lk_power(const int N, __m512 *x)
{
    static const float c[] = {6.958335405064481e-1f, 9.9992521856401e-1f};
    __m512 f[8], p[8];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++)
        f[i] = _mm512_reduce_ps(x[i], _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#pragma GCC unroll 8
    for (int i = 0; i < N; i++)
        p[i] = _mm512_fmadd_ps(_mm512_set1_ps(7.802452266443254e-2f), f[i], _mm512_set1_ps(2.2606715539312935e-1f));
#pragma GCC unroll 2
    for (int step = 0; step < 2; step++)
#pragma GCC unroll 8
        for (int i = 0; i < N; i++)
            p[i] = _mm512_fmadd_ps(p[i], f[i], _mm512_set1_ps(c[step]));
#pragma GCC unroll 8
    for (int i = 0; i < N; i++)
        x[i] = _mm512_scalef_ps(p[i], x[i]);
}

/* silu(g) u of R rows, relative error below 2^-13: 16 numbers of g at v + i * ld, u behind them. y[i] = row i. */
LK_INLINE void lk_swiglu_rows(const int R, const float *v, int64_t ld, __m512 y[4])
{
    __m512 x[8];
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        x[i] = _mm512_mul_ps(_mm512_loadu_ps(v + i * ld), _mm512_set1_ps(-1.44269504f));
    lk_power(R, x);
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        y[i] = _mm512_div_ps(_mm512_loadu_ps(v + i * ld), _mm512_add_ps(x[i], _mm512_set1_ps(1)));
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        y[i] = _mm512_mul_ps(y[i], _mm512_loadu_ps(v + i * ld + 16));
}

#endif
