/* Writing rows of words into an activation panel. */
#ifndef KERNELS_CPU_AVX512_AVX512_WORDS_H
#define KERNELS_CPU_AVX512_AVX512_WORDS_H

#include "kernels/cpu/avx512/lk_avx512.h"

/* to[j] = row j of the transposed 8 x 8 words from[0 .. 7]. */
LK_INLINE void lk_transpose8(const __m256i from[8], __m256i to[8])
{
    __m256i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(from[i], from[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(from[i], from[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        to[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        to[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

/* to[w * r + i] = word w of row i for w < 8, i < r; row i at `rows` + i * ld words. Every store but the last two may
 * write behind its word, where the next ones write after it. */
static inline void lk_put_words8(uint32_t *to, int r, const void *rows, int64_t ld)
{
    const char *row = rows;
    __m256i from[8], low[8], high[8];
    for (int i = 0; i < 8; i++)
        from[i] = i < r ? _mm256_loadu_si256((const void *)(row + 4 * i * ld)) : _mm256_setzero_si256();
    lk_transpose8(from, low);
    if (r > 8) {
        for (int i = 0; i < 8; i++)
            from[i] = i < LK_AVX512_ROWS - 8 && i < r - 8 ? _mm256_loadu_si256((const void *)(row + 4 * (8 + i) * ld))
                                                          : _mm256_setzero_si256();
        lk_transpose8(from, high);
#pragma GCC unroll 7
        for (int w = 0; w < 7; w++) {
            _mm256_storeu_si256((__m256i *)(to + w * r), low[w]);
            _mm256_storeu_si256((__m256i *)(to + w * r + 8), high[w]);
        }
        _mm256_storeu_si256((__m256i *)(to + 7 * r), low[7]);
        _mm256_mask_storeu_epi32(to + 7 * r + 8, (__mmask8)((1u << (r - 8)) - 1u), high[7]);
        return;
    }
    /* the words of less than 8 rows behind word w: stores reach at most 8 - r words further */
    __mmask8 m = (__mmask8)((1u << r) - 1u);
#pragma GCC unroll 8
    for (int w = 0; w < 8; w++)
        _mm256_mask_storeu_epi32(to + w * r, m, low[w]);
}

#endif
