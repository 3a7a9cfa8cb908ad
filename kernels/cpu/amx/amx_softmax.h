/* The softmax of a split in two passes over its scores: the maximum of each row, then 2^(score - maximum). All scores
 * of a split lie side by side, so that nothing is ever rescaled and no row's numbers hang on where a page or a batch
 * begins. */
#ifndef KERNELS_CPU_AMX_AMX_SOFTMAX_H
#define KERNELS_CPU_AMX_AMX_SOFTMAX_H

#include "kernels/cpu/amx/lk_amx.h"
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

/* The largest scores of a page's rows; what a row does not see becomes -inf. */
static inline void lk_scores_most(const struct lk_rows *r, struct lk_scores *b, const struct lk_page_rows *p)
{
    if (!lk_page_whole(&r->see, p)) {
        const __m512 none = _mm512_set1_ps(-INFINITY);
        for (int i = p->first; i < p->end; i++) {
            float *s = lk_scores_at(b, i, p->ip);
            struct lk_seen seen = lk_seen_of(&r->see, p->ip, i);
            __mmask16 m0 = (__mmask16)(lk_mask16(seen.to) & ~lk_mask16(seen.from));
            __mmask16 m1 = (__mmask16)(lk_mask16(seen.to - 16) & ~lk_mask16(seen.from - 16));
            _mm512_storeu_ps(s, _mm512_mask_mov_ps(none, m0, _mm512_loadu_ps(s)));
            _mm512_storeu_ps(s + 16, _mm512_mask_mov_ps(none, m1, _mm512_loadu_ps(s + 16)));
        }
    }
    const float *s = lk_scores_at(b, p->first, p->ip);
    float *most = b->most + (p->first - b->first) * 16;
    for (int i = p->first; i < p->end; i++, s += LK_SCORE_LD, most += 16)
        _mm512_storeu_ps(
            most, _mm512_max_ps(_mm512_loadu_ps(s + 16), _mm512_max_ps(_mm512_loadu_ps(s), _mm512_loadu_ps(most))));
}

/* The maxima of rows first .. end - 1. They are given one above what they are: a power of two, so nothing is lost, and
 * what lk_amx_power takes apart lies where the remainder is exact. */
static inline void lk_scores_begin(const struct lk_rows *r, struct lk_scores *b, int end, struct lk_sums *o)
{
    for (int i = b->first; i < end; i++) {
        struct lk_soft *soft = &o->soft[i];
        float top = _mm512_reduce_max_ps(_mm512_loadu_ps(b->most + (i - b->first) * 16));
        soft->max = top * r->scale + 1.0f;
        _mm512_storeu_ps(soft->lane_sum, _mm512_setzero_ps());
    }
}

/* 2^x, relative error below 2^-13.6, as bf16 has 8 bits; 0 from x = -150 on down, of -inf too, NaN stays NaN. With
 * x = n + f, f in [0, 1): a polynomial of degree 3 in f, fitted for the least relative error (7.5e-5), times 2^n. */
LK_INLINE __m512 lk_amx_power(__m512 x)
{
    __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_set1_ps(7.802452266443254e-2f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.2606715539312935e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.958335405064481e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992521856401e-1f));
    return _mm512_scalef_ps(p, x);
}

/* Scores of a page become probabilities, for n rows from `first` on; they are summed as rounded. */
LK_INLINE void lk_scores_weigh(struct lk_scores *b, int64_t ip, int first, int n, struct lk_soft *soft, float by)
{
    const __m512 scale = _mm512_set1_ps(by);
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    float *s = lk_scores_at(b, first, ip);
    for (struct lk_soft *end = soft + n; soft < end; soft++, s += LK_SCORE_LD) {
        __m512 max = _mm512_set1_ps(soft->max);
        __m512 p0 = lk_amx_power(_mm512_fmsub_ps(_mm512_loadu_ps(s), scale, max));
        __m512 p1 = lk_amx_power(_mm512_fmsub_ps(_mm512_loadu_ps(s + 16), scale, max));
        __m512bh p = _mm512_cvtne2ps_pbh(p1, p0);
        _mm512_storeu_si512(s, (__m512i)p);
        _mm512_storeu_ps(soft->lane_sum, _mm512_dpbf16_ps(_mm512_loadu_ps(soft->lane_sum), p, ones));
    }
}

#endif
