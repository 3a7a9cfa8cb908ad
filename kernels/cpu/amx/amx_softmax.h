/* The softmax of a split in two passes over its scores: the maximum of each row, then 2^(score - maximum). All scores
 * of a split lie side by side, so that nothing is ever rescaled and no row's numbers hang on where a page or a batch
 * begins. */
#ifndef KERNELS_CPU_AMX_AMX_SOFTMAX_H
#define KERNELS_CPU_AMX_AMX_SOFTMAX_H

#include "kernels/cpu/amx/lk_amx.h"
#include "kernels/cpu/avx512/avx512_power.h"
#include "kernels/cpu/avx512/avx512_softmax.h"

#define LK_SCORE_ROWS (2 * LK_AMX_ROWS)
#define LK_SCORE_LD \
    (LK_SPLIT_TOKENS + 16) /* rows a power of two apart would meet in the same sets of the first cache */

/* Of rows first, first + 1, ... of an item: row first + i at i. */
struct lk_scores {
    int first;
    int64_t begin; /* position */
    /* Scores; where a page has been weighed, its 16 pairs of bf16 probabilities are in its first half. */
    _Alignas(64) float at[LK_SCORE_ROWS * LK_SCORE_LD];
    _Alignas(64) float most[LK_SCORE_ROWS * 16]; /* by lane */
};

/* Where the scores of a row and a page are. */
static inline float *lk_scores_at(struct lk_scores *b, int row, int64_t ip)
{
    return b->at + (row - b->first) * LK_SCORE_LD + (ip * LK_PAGE_TOKENS - b->begin);
}

static inline void lk_scores_start(struct lk_scores *b, int n)
{
    for (float *x = b->most; x < b->most + n * 16; x += 16)
        _mm512_storeu_ps(x, _mm512_set1_ps(-INFINITY));
}

/* The n lowest bits; none when n <= 0. */
static inline uint32_t lk_low_bits(int64_t n)
{
    return (uint32_t)((1ull << (n <= 0 ? 0 : n >= 32 ? 32 : n)) - 1);
}

/* The largest scores of a page's rows; what a row does not see becomes -inf. */
static inline void lk_scores_most(const struct lk_rows *r, struct lk_scores *b, const struct lk_page_rows *p)
{
    float *s = lk_scores_at(b, p->first, p->ip), *most = b->most + (p->first - b->first) * 16;
    if (!lk_page_whole(&r->see, p)) {
        const __m512 none = _mm512_set1_ps(-INFINITY);
        for (int i = p->first; i < p->end; i++, s += LK_SCORE_LD, most += 16) {
            const struct lk_seen seen = lk_seen_of(&r->see, p->ip, i);
            const uint32_t m = lk_low_bits(seen.to) & ~lk_low_bits(seen.from);
            __m512 s0 = _mm512_mask_mov_ps(none, (__mmask16)m, _mm512_loadu_ps(s));
            __m512 s1 = _mm512_mask_mov_ps(none, (__mmask16)(m >> 16), _mm512_loadu_ps(s + 16));
            _mm512_storeu_ps(s, s0);
            _mm512_storeu_ps(s + 16, s1);
            _mm512_storeu_ps(most, _mm512_max_ps(s1, _mm512_max_ps(s0, _mm512_loadu_ps(most))));
        }
        return;
    }
    for (int i = p->first; i < p->end; i++, s += LK_SCORE_LD, most += 16)
        _mm512_storeu_ps(
            most, _mm512_max_ps(_mm512_loadu_ps(s + 16), _mm512_max_ps(_mm512_loadu_ps(s), _mm512_loadu_ps(most))));
}

/* The maxima of rows first .. end - 1. They are given one above what they are: a power of two, so nothing is lost, and
 * what lk_power takes apart lies where the remainder is exact. */
static inline void lk_scores_begin(const struct lk_rows *r, struct lk_scores *b, int end, struct lk_sums *o)
{
    for (int i = b->first; i < end; i++) {
        struct lk_soft *soft = &o->soft[i];
        float top = _mm512_reduce_max_ps(_mm512_loadu_ps(b->most + (i - b->first) * 16));
        soft->max = top * r->scale + 1.0f;
        _mm512_storeu_ps(soft->lane_sum, _mm512_setzero_ps());
    }
}

/* Scores of R rows become probabilities, which are summed as rounded. */
LK_INLINE void lk_scores_weigh_rows(const int R, float *s, struct lk_soft *soft, __m512 scale)
{
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    __m512 x[8];
#pragma GCC unroll 4
    for (int i = 0; i < R; i++) {
        const __m512 max = _mm512_set1_ps(soft[i].max);
        x[2 * i] = _mm512_fmsub_ps(_mm512_loadu_ps(s + i * LK_SCORE_LD), scale, max);
        x[2 * i + 1] = _mm512_fmsub_ps(_mm512_loadu_ps(s + i * LK_SCORE_LD + 16), scale, max);
    }
    lk_power(2 * R, x);
#pragma GCC unroll 4
    for (int i = 0; i < R; i++) {
        __m512bh p = _mm512_cvtne2ps_pbh(x[2 * i + 1], x[2 * i]);
        _mm512_storeu_si512(s + i * LK_SCORE_LD, (__m512i)p);
        _mm512_storeu_ps(soft[i].lane_sum, _mm512_dpbf16_ps(_mm512_loadu_ps(soft[i].lane_sum), p, ones));
    }
}

/* The same of a page, for n rows from `first` on. */
LK_INLINE void lk_scores_weigh(struct lk_scores *b, int64_t ip, int first, int n, struct lk_soft *soft, float scale)
{
    const __m512 by = _mm512_set1_ps(scale);
    float *s = lk_scores_at(b, first, ip);
    struct lk_soft *end = soft + n;
    for (; soft + 4 <= end; soft += 4, s += 4 * LK_SCORE_LD)
        lk_scores_weigh_rows(4, s, soft, by);
    if (n % 4 == 3)
        lk_scores_weigh_rows(3, s, soft, by);
    else if (n % 4 == 2)
        lk_scores_weigh_rows(2, s, soft, by);
    else if (n % 4 == 1)
        lk_scores_weigh_rows(1, s, soft, by);
}

#endif
