/* The part of attention that is the same for every set with AVX-512: rows of Q through the splits of 512 positions, one
 * softmax each (Dao et al. 2022), splits merged in order. A set gives two functions: one sums a split with its own
 * products, one writes a finished head. For a set that goes from page to page there is the running softmax. */
#ifndef KERNELS_CPU_AVX512_AVX512_SOFTMAX_H
#define KERNELS_CPU_AVX512_AVX512_SOFTMAX_H

#include <math.h>

#include "kernels/cpu/avx512/lk_avx512.h"
#include "kernels/cpu/lk_spans.h"

#define LK_ATTN_ROWS LK_SPAN_ROWS /* of an item, in any set */
#define LK_ATTN_DIMS 512          /* dimensions of V that one pass sums; more take a pass each, which scores anew */
#define LK_ATTN_SLACK 8.f /* sums are rescaled when a score is 2^8 times above the maximum they were begun with */

/* A row's running softmax: 2^(score - max) summed. */
struct lk_soft {
    _Alignas(64) float lane_sum[16]; /* of the probabilities as rounded, by lane */
    float sum;                       /* of lane_sum, once the split is done */
    float max;                       /* in powers of two: scaled by log2(e) too */
    float limit;                     /* a score above it, not yet scaled, makes the sums begin anew */
};

/* Sums of one split, or of all. */
struct lk_sums {
    struct lk_soft soft[LK_ATTN_ROWS];
    _Alignas(64) float out[LK_ATTN_ROWS * LK_ATTN_DIMS]; /* times V: row i at out + i * n_dim */
};

/* An item's rows: the heads of its first token, then those of the next one. */
struct lk_rows {
    const struct lk_attend *a;
    const struct lk_attn_item *item;
    const uint32_t *q; /* row i at q + i * n_word */
    int64_t n_word, kv_head;
    struct lk_pages_after after;
    float scale; /* of the scores, log2(e) in it */
    struct lk_spans see;
    int64_t dim, n_dim; /* dimensions of V of this pass, n_dim padded to 16 */
    void *own;          /* the set's */
};

struct lk_attend_set {
    int64_t n_word; /* 32-bit words of a row of Q */
    /* The positions of a split, for the rows that see some of them: their max, sum and out. */
    void (*take_split)(const struct lk_rows *r, const struct lk_split_rows *s, struct lk_sums *o);
    /* Rounds what all rows came to, dimensions r->dim and r->n_dim from there, already over their sums. */
    void (*put)(const struct lk_rows *r, const struct lk_sums *o);
    void *own; /* what take_split finds in lk_rows.own */
};

/* Where a page is, and the k-th one that is read behind it, counted in pages of the layer. */
static inline int64_t lk_rows_page(const struct lk_rows *r, const struct lk_page_rows *p)
{
    return lk_page_at(r->a, r->item, r->kv_head, p);
}

static inline int64_t lk_rows_page_behind(const struct lk_rows *r, const struct lk_page_rows *p, int k)
{
    return lk_page_behind(r->a, r->item, r->kv_head, p, k, &r->after);
}

/* The sums of row i are begun anew at a higher maximum; `top` is the score behind it, not yet scaled. */
static inline void lk_rescale(const struct lk_rows *r, struct lk_sums *o, int i, float top)
{
    struct lk_soft *s = &o->soft[i];
    float max = top * r->scale;
    __m512 shrink = lk_exp2(_mm512_set1_ps(s->max - max));
    _mm512_storeu_ps(s->lane_sum, _mm512_mul_ps(_mm512_loadu_ps(s->lane_sum), shrink));
    for (float *x = o->out + i * r->n_dim; x < o->out + (i + 1) * r->n_dim; x += 16)
        _mm512_storeu_ps(x, _mm512_mul_ps(_mm512_loadu_ps(x), shrink));
    s->max = max;
    s->limit = top + LK_ATTN_SLACK / r->scale;
}

/* p = 2^(score - max) of row i for the 32 scores of a page, 0 where it does not see. */
LK_INLINE void lk_weights(const struct lk_rows *r, struct lk_sums *o, int i, const float *score,
                          const struct lk_seen seen, __m512 p[2])
{
    const bool whole = seen.from <= 0 && seen.to >= LK_PAGE_TOKENS;
    __m512 s0 = _mm512_loadu_ps(score), s1 = _mm512_loadu_ps(score + 16);
    __mmask16 m0 = (__mmask16)(lk_mask16(seen.to) & ~lk_mask16(seen.from));
    __mmask16 m1 = (__mmask16)(lk_mask16(seen.to - 16) & ~lk_mask16(seen.from - 16));
    if (!whole) {
        const __m512 none = _mm512_set1_ps(-INFINITY);
        s0 = _mm512_mask_mov_ps(none, m0, s0);
        s1 = _mm512_mask_mov_ps(none, m1, s1);
    }
    __m512 most = _mm512_max_ps(s0, s1);
    if (_mm512_cmp_ps_mask(most, _mm512_set1_ps(o->soft[i].limit), _CMP_GT_OQ))
        lk_rescale(r, o, i, _mm512_reduce_max_ps(most));
    __m512 max = _mm512_set1_ps(o->soft[i].max), scale = _mm512_set1_ps(r->scale);
    __m512 x0 = _mm512_fmsub_ps(s0, scale, max), x1 = _mm512_fmsub_ps(s1, scale, max);
    __m512 n0 = _mm512_roundscale_ps(x0, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 n1 = _mm512_roundscale_ps(x1, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    p[0] = lk_exp2_poly(_mm512_sub_ps(x0, n0), n0);
    p[1] = lk_exp2_poly(_mm512_sub_ps(x1, n1), n1);
    if (!whole) {
        p[0] = _mm512_maskz_mov_ps(m0, p[0]);
        p[1] = _mm512_maskz_mov_ps(m1, p[1]);
    }
}

/* The same rounded to bf16, 16 pairs, and summed as rounded. */
LK_INLINE __m512i lk_probabilities(const struct lk_rows *r, struct lk_sums *o, int i, const float *score,
                                   const struct lk_seen seen)
{
    __m512 weight[2];
    lk_weights(r, o, i, score, seen, weight);
    __m512bh p = _mm512_cvtne2ps_pbh(weight[1], weight[0]);
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    float *sum = o->soft[i].lane_sum;
    _mm512_storeu_ps(sum, _mm512_dpbf16_ps(_mm512_loadu_ps(sum), p, ones));
    return (__m512i)p;
}

/* A split page by page, take_page taking one into the sums of at most `rows` rows. */
LK_INLINE void lk_take_pages(const struct lk_rows *r, const struct lk_split_rows *s, struct lk_sums *o, int64_t rows,
                             void (*take_page)(const struct lk_rows *, const struct lk_page_rows *, struct lk_sums *))
{
    for (int i = s->first; i < s->end; i++) {
        o->soft[i].max = o->soft[i].limit = -INFINITY;
        _mm512_storeu_ps(o->soft[i].lane_sum, _mm512_setzero_ps());
        for (int64_t d = 0; d < r->n_dim; d += 16)
            _mm512_storeu_ps(o->out + i * r->n_dim + d, _mm512_setzero_ps());
    }
    for (struct lk_page_rows p = lk_page_start(&r->see, s); lk_page_next(&r->see, s, &p);) {
        struct lk_panels parts = lk_panels_of(p.end - p.first, rows);
        for (int64_t i = 0; i < parts.n; i++) {
            struct lk_page_rows part = lk_page_part(&p, &parts, i);
            take_page(r, &part, o);
        }
    }
    for (int i = s->first; i < s->end; i++)
        o->soft[i].sum = _mm512_reduce_add_ps(_mm512_loadu_ps(o->soft[i].lane_sum));
}

/* all = all merged with one split; for the rows that begin in it, the split. */
static inline void lk_merge_split(const struct lk_rows *r, const struct lk_split_rows *s, struct lk_sums *all,
                                  const struct lk_sums *o)
{
    for (int i = s->begun; i < s->end; i++) {
        all->soft[i] = o->soft[i];
        memcpy(all->out + i * r->n_dim, o->out + i * r->n_dim, (size_t)r->n_dim * sizeof(float));
    }
    for (int i = s->first; i < s->begun; i++) {
        struct lk_soft *a = &all->soft[i];
        const struct lk_soft *b = &o->soft[i];
        float max = a->max > b->max ? a->max : b->max;
        __m512 x = lk_exp2(_mm512_set1_ps(a->max - max)), y = lk_exp2(_mm512_set1_ps(b->max - max));
        a->max = max;
        a->sum = a->sum * _mm512_cvtss_f32(x) + b->sum * _mm512_cvtss_f32(y);
        for (int64_t d = 0; d < r->n_dim; d += 16) {
            __m512 p = _mm512_mul_ps(_mm512_loadu_ps(all->out + i * r->n_dim + d), x);
            __m512 q = _mm512_mul_ps(_mm512_loadu_ps(o->out + i * r->n_dim + d), y);
            _mm512_storeu_ps(all->out + i * r->n_dim + d, _mm512_add_ps(p, q));
        }
    }
}

/* put_row writes source columns col .. col + n - 1 of one row, all of one head; with a segment's last its zero columns
 * too. */
LK_INLINE void lk_put_rows(const struct lk_rows *r, const struct lk_sums *o,
                           void (*put_row)(const struct lk_act *out, int64_t row, int64_t col, const float *v,
                                           int64_t n))
{
    int64_t n = lk_min(LK_ATTN_DIMS, r->a->kv.v_dim - r->dim);
    for (int i = 0; i < r->see.n; i++) {
        int64_t col;
        struct lk_act out = lk_head_out(r->a, r->item->head + i % r->item->n_head, &col);
        put_row(&out, r->item->tok + i / r->item->n_head, col + r->dim, o->out + i * r->n_dim, n);
    }
}

static inline void lk_divide_rows(const struct lk_rows *r, struct lk_sums *o)
{
    for (int i = 0; i < r->see.n; i++) {
        float *v = o->out + i * r->n_dim;
        __m512 inv = _mm512_set1_ps(1.0f / o->soft[i].sum);
        for (int64_t d = 0; d < r->n_dim; d += 16)
            _mm512_storeu_ps(v + d, _mm512_mul_ps(_mm512_loadu_ps(v + d), inv));
    }
}

LK_INLINE void lk_attend_rows(const struct lk_attend_set *set, struct lk_rows *r)
{
    struct lk_sums all, one;
    int64_t v_dims = LK_V_DIMS(r->a->kv.v_dim);
    lk_spans_init(&r->see, r->a, r->item);
    for (r->dim = 0; r->dim < v_dims; r->dim += LK_ATTN_DIMS) {
        r->n_dim = lk_min(LK_ATTN_DIMS, v_dims - r->dim);
        for (struct lk_split_rows s = lk_split_start(&r->see); lk_split_next(&r->see, &s);) {
            struct lk_sums *to = s.begun == s.first ? &all : &one;
            set->take_split(r, &s, to);
            if (to == &one)
                lk_merge_split(r, &s, &all, &one);
        }
        lk_divide_rows(r, &all);
        set->put(r, &all);
    }
}

/* Items begin .. end - 1. */
LK_INLINE void lk_attend_items(const struct lk_attend_set *set, const struct lk_attend *a, int64_t begin, int64_t end)
{
    int64_t group = a->n_head / a->kv.n_kv_head;
    for (int64_t i = begin; i < end; i++) {
        const struct lk_attn_item *item = &a->item[i];
        int64_t kv_head = item->head / group, row = (kv_head * a->n_tok + item->tok) * group + item->head % group;
        struct lk_rows r = {
            .a = a,
            .item = item,
            .q = (const uint32_t *)a->q + row * set->n_word,
            .n_word = set->n_word,
            .kv_head = kv_head,
            .after = lk_pages_after(a, i, end),
            .scale = a->scale * 1.44269504f,
            .own = set->own,
        };
        lk_attend_rows(set, &r);
    }
}

#endif
