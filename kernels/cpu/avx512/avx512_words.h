/* Rows of words: into an activation panel, into a weight panel. */
#ifndef KERNELS_CPU_AVX512_AVX512_WORDS_H
#define KERNELS_CPU_AVX512_AVX512_WORDS_H

#include "kernels/cpu/avx512/lk_avx512.h"
#include "kernels/cpu/lk_transpose.h"

/* 8 rows that are packed, from row `row` on; of their columns from `col` on n exist. */
struct lk_source {
    const struct lk_pack *pack;
    int64_t row, col, n;
};

/* 16 words of the i-th of them, zeros behind the last column. */
LK_INLINE __m512i lk_source_words(const struct lk_source *s, int i, const enum lk_type type)
{
    const char *row = s->pack->row[s->row + i];
    const bool is_bf16 = s->pack->type == LK_BF16;
    if (!row || s->n <= 0)
        return _mm512_setzero_si512();
    row += s->col * (is_bf16 ? 2 : 4);
    if (type == LK_BF16)
        return is_bf16 ? lk_load32(row, (int)lk_min(s->n, 32))
                       : lk_round32((const float *)(const void *)row, (int)lk_min(s->n, 32));
    if (is_bf16)
        return (__m512i)lk_widen_low(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lk_mask16(s->n), row)));
    return (__m512i)_mm512_maskz_loadu_ps(lk_mask16(s->n), row);
}

/* to[w * ld + i] = word w of the i-th row, w < 16 */
LK_INLINE void lk_pack_words8(const struct lk_source *s, uint32_t *to, int64_t ld, const enum lk_type type)
{
    _Alignas(64) uint32_t word[8][16];
    for (int i = 0; i < 8; i++)
        _mm512_storeu_si512(word[i], lk_source_words(s, i, type));
    for (int half = 0; half < 16; half += 8) {
        __m256i from[8], turned[8];
        for (int i = 0; i < 8; i++)
            from[i] = _mm256_loadu_si256((const __m256i *)(word[i] + half));
        lk_transpose8(from, turned);
        for (int w = 0; w < 8; w++)
            _mm256_storeu_si256((__m256i *)(to + (half + w) * ld), turned[w]);
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
