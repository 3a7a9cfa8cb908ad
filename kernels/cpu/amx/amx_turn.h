/* Rows of 32-bit words in registers, turned. */
#ifndef KERNELS_CPU_AMX_AMX_TURN_H
#define KERNELS_CPU_AMX_AMX_TURN_H

#include "kernels/cpu/avx512/lk_avx512.h"

/* Of x[R][16], R being a power of two up to 16, makes [16][R] in one run. */
LK_INLINE void lk_amx_mix(const int R, __m512i x[16])
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#pragma GCC unroll 4
    for (int n = 1; n < R; n *= 2) {
        __m512i y[16];
#pragma GCC unroll 8
        for (int i = 0; i < R / 2; i++) {
            y[2 * i] = _mm512_permutex2var_epi32(x[i], low, x[i + R / 2]);
            y[2 * i + 1] = _mm512_permutex2var_epi32(x[i], high, x[i + R / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; i++)
            x[i] = y[i];
    }
}

/* The other way: x holds [16][R] in one run, and then [R][16]. */
LK_INLINE void lk_amx_part(const int R, __m512i x[16])
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#pragma GCC unroll 4
    for (int n = 1; n < R; n *= 2) {
        __m512i y[16];
#pragma GCC unroll 8
        for (int i = 0; i < R / 2; i++) {
            y[i] = _mm512_permutex2var_epi32(x[2 * i], even, x[2 * i + 1]);
            y[i + R / 2] = _mm512_permutex2var_epi32(x[2 * i], odd, x[2 * i + 1]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; i++)
            x[i] = y[i];
    }
}

#endif
