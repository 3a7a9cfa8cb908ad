/* Which columns of a vocabulary may be a row's largest logit, by AVX-512 (struct lk_screen). */
#ifndef KERNELS_CPU_AVX512_AVX512_SCREEN_H
#define KERNELS_CPU_AVX512_AVX512_SCREEN_H

#include "kernels/cpu/avx512/lk_avx512.h"
#include "kernels/cpu/lk_screen.h"

/* Columns at .. end - 1 of a group, `all`: it has them all. Raises the lanes' lower bounds, returns the largest upper
 * one. */
LK_INLINE float lk_avx512_screen_group(const struct lk_screen *a, int64_t at, int64_t end, const bool all,
                                       __m512 low[2])
{
    const __m512 exact = _mm512_set1_ps(a->row.exact), error = _mm512_set1_ps(a->row.error);
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 high[2] = {none, none};
#pragma GCC unroll 4
    for (int i = 0; i < LK_SCREEN_GROUP / 16; i++) {
        int64_t j = at + 16 * i;
        __mmask16 m = all ? 0xffff : lk_mask16(end - j);
        __m512 far = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, a->error + j), exact, _mm512_set1_ps(0x1p-100f));
        far = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, a->whole + j), error, far);
        __m512 y = _mm512_mask_mov_ps(none, m, _mm512_maskz_loadu_ps(m, a->y + j));
        high[i % 2] = _mm512_max_ps(_mm512_add_ps(y, far), high[i % 2]);
        low[i % 2] = _mm512_max_ps(_mm512_sub_ps(y, far), low[i % 2]);
    }
    return _mm512_reduce_max_ps(_mm512_max_ps(high[0], high[1]));
}

static inline int64_t lk_avx512_screen(const struct lk_screen *a, float *least, struct lk_may *may)
{
    float high[LK_SCREEN_COLS / LK_SCREEN_GROUP];
    __m512 low[2] = {_mm512_set1_ps(*least), _mm512_set1_ps(*least)};
    for (int64_t at = 0; at < a->n; at += LK_SCREEN_GROUP)
        high[at / LK_SCREEN_GROUP] = at + LK_SCREEN_GROUP <= a->n ? lk_avx512_screen_group(a, at, a->n, true, low)
                                                                  : lk_avx512_screen_group(a, at, a->n, false, low);
    *least = _mm512_reduce_max_ps(_mm512_max_ps(low[0], low[1]));
    return lk_screen_list(a, high, *least, may);
}

#endif
