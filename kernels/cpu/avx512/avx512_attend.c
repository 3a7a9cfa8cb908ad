/* Causal attention over the paged cache: one online softmax a split of 512 positions (Dao et al. 2022). Up to 12 rows
 * (query heads of one KV head, of one or several tokens) go through the pages together; what happens to a row depends
 * on that row alone. */
#include <math.h>

#include "kernels/cpu/avx512/lk_avx512.h"

#define ROWS LK_AVX512_ROWS
#define PAGE LK_PAGE_TOKENS
#define DIMS 256  /* dimensions of V that one pass sums: 12 rows of them stay in the first cache */
#define SLACK 8.f /* sums are rescaled when a score is 2^8 times above the maximum they were begun with */

static int64_t attn_tokens(int64_t group)
{
    return group < ROWS ? ROWS / group : 1;
}

/* Sums of one split, or of all: 2^(score - max) in all, and times V. */
struct soft {
    float max[ROWS];   /* in powers of two: scaled by log2(e) too */
    float limit[ROWS]; /* a score above it, not yet scaled, makes the sums begin anew */
    float sum[ROWS];
    _Alignas(64) float out[ROWS * DIMS]; /* row i at out + i * n_dim */
};

/* Rows of one pass: `group` query heads from `head` on, of tokens tok .. tok + n_tok - 1. */
struct rows {
    const struct lk_attend *a;
    const uint32_t *q; /* row i at q + i * n_word */
    int64_t n_word;
    int64_t tok, n_tok, head, group, kv_head;
    const int32_t *page; /* the sequence's pages */
    int64_t after;       /* the page that is read after the last one, as page_at counts */
    float scale;         /* of the scores, log2(e) in it */
    int n;
    int32_t pos[ROWS];
    int64_t dim, n_dim; /* dimensions of V of this pass, n_dim padded to 16 */
};

/* What a block needs beside its rows. */
struct block {
    _Alignas(64) float score[ROWS * PAGE];
    _Alignas(64) uint32_t p[ROWS * PAGE / 2]; /* probabilities as pairs of bf16 */
    _Alignas(64) float lane_sum[ROWS][16];    /* of the rounded probabilities, by pair */
};

/* Rows of Q. */
struct query {
    const uint32_t *q; /* row i at q + i * n_word */
    int64_t n_word;
    const char *ahead; /* the K page that is read next: two lines of it are fetched a word */
};

/* score[R, 16 N] = q[R, head_dim] . the first 16 N positions of a K page; score's rows are 32 long */
LK_INLINE void score_tile(const int R, const int N, const struct query *q, const uint32_t *k, float *score)
{
    __m512 acc[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            acc[i][j] = _mm512_setzero_ps();
    int64_t n_word = q->n_word;
    const char *ahead = q->ahead;
    const uint32_t *q0 = q->q, *q1 = q0 + 3 * n_word, *q2 = q0 + 6 * n_word, *q3 = q0 + 9 * n_word;
    for (int64_t w = 0; w < n_word; w++) {
        __m512bh b[2];
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            b[j] = (__m512bh)_mm512_loadu_si512(k + 16 * j);
        _mm_prefetch(ahead, _MM_HINT_T0);
        _mm_prefetch(ahead + 64, _MM_HINT_T0);
        ahead += 128;
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            const uint32_t *from = i < 3 ? q0 : i < 6 ? q1 : i < 9 ? q2 : q3;
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)from[i % 3 * n_word]);
#pragma GCC unroll 2
            for (int j = 0; j < N; j++)
                acc[i][j] = _mm512_dpbf16_ps(acc[i][j], b[j], x);
        }
        k += PAGE;
        q0++, q1++, q2++, q3++;
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            _mm512_storeu_ps(score + i * PAGE + 16 * j, acc[i][j]);
}

/* The right-hand side of p . V and where it is added. */
struct values {
    const uint32_t *v;
    float *out;
    int64_t n_pair;        /* pairs of positions that count; behind them probabilities are 0 */
    const char *ahead;     /* the V page that is read next */
    int64_t v_dims, n_dim; /* words from one pair of positions to the next; numbers from one row of out to the next */
};

/* out[R, 16 N] += p[R, 32] . V page, from dimension `dim` on */
LK_INLINE void value_tile(const int R, const int N, const uint32_t *p, const struct values *to, int64_t dim)
{
    const uint32_t *v = to->v + dim;
    float *out = to->out + dim;
    const char *ahead = to->ahead + dim * PAGE * 2;
    int64_t ld = to->n_dim;
    __m512 acc[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            acc[i][j] = _mm512_loadu_ps(out + i * ld + j * 16);
    for (int64_t w = 0; w < to->n_pair; w++) {
        __m512bh b[2];
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            b[j] = (__m512bh)_mm512_loadu_si512(v + j * 16);
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            _mm_prefetch(ahead + 64 * j, _MM_HINT_T0);
        ahead += 64 * N;
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)p[i * PAGE / 2 + w]);
#pragma GCC unroll 2
            for (int j = 0; j < N; j++)
                acc[i][j] = _mm512_dpbf16_ps(acc[i][j], b[j], x);
        }
        v += to->v_dims;
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            _mm512_storeu_ps(out + i * ld + j * 16, acc[i][j]);
}

#define EACH_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)

#define TILES(R)                                                                            \
    static void score##R(const struct query *q, const uint32_t *k, float *score, bool half) \
    {                                                                                       \
        if (half)                                                                           \
            score_tile(R, 1, q, k, score);                                                  \
        else                                                                                \
            score_tile(R, 2, q, k, score);                                                  \
    }                                                                                       \
    static void value##R(const uint32_t *p, const struct values *to)                        \
    {                                                                                       \
        int64_t d = 0;                                                                      \
        for (; d + 32 <= to->n_dim; d += 32)                                                \
            value_tile(R, 2, p, to, d);                                                     \
        if (d < to->n_dim)                                                                  \
            value_tile(R, 1, p, to, d);                                                     \
    }
EACH_ROWS(TILES)

#define SCORE(R) score##R,
#define VALUE(R) value##R,
static void (*const score_of[])(const struct query *, const uint32_t *, float *, bool) = {NULL, EACH_ROWS(SCORE)};
static void (*const value_of[])(const uint32_t *, const struct values *) = {NULL, EACH_ROWS(VALUE)};

/* The row's sums are begun anew at a higher maximum; `top` is the score behind it, not yet scaled. */
static void rescale(const struct rows *r, struct soft *o, struct block *b, int i, float top)
{
    float max = top * r->scale;
    __m512 shrink = lk_exp2(_mm512_set1_ps(o->max[i] - max));
    _mm512_storeu_ps(b->lane_sum[i], _mm512_mul_ps(_mm512_loadu_ps(b->lane_sum[i]), shrink));
    for (float *x = o->out + i * r->n_dim; x < o->out + (i + 1) * r->n_dim; x += 16)
        _mm512_storeu_ps(x, _mm512_mul_ps(_mm512_loadu_ps(x), shrink));
    o->max[i] = max;
    o->limit[i] = top + SLACK / r->scale;
}

/* Probabilities of row i from its scores, of which the first `seen` are not behind the token. */
LK_INLINE void probabilities(const struct rows *r, struct soft *o, struct block *b, int i, int64_t seen)
{
    __m512 s0 = _mm512_loadu_ps(b->score + i * PAGE), s1 = _mm512_loadu_ps(b->score + i * PAGE + 16);
    __mmask16 m0 = lk_mask16(seen), m1 = lk_mask16(seen - 16);
    if (seen < PAGE) {
        const __m512 none = _mm512_set1_ps(-INFINITY);
        s0 = _mm512_mask_mov_ps(none, m0, s0);
        s1 = _mm512_mask_mov_ps(none, m1, s1);
    }
    __m512 most = _mm512_max_ps(s0, s1);
    if (_mm512_cmp_ps_mask(most, _mm512_set1_ps(o->limit[i]), _CMP_GT_OQ))
        rescale(r, o, b, i, _mm512_reduce_max_ps(most));
    __m512 max = _mm512_set1_ps(o->max[i]), scale = _mm512_set1_ps(r->scale);
    __m512 x0 = _mm512_fmsub_ps(s0, scale, max), x1 = _mm512_fmsub_ps(s1, scale, max);
    __m512 n0 = _mm512_roundscale_ps(x0, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 n1 = _mm512_roundscale_ps(x1, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 p0 = lk_exp2_poly(_mm512_sub_ps(x0, n0), n0), p1 = lk_exp2_poly(_mm512_sub_ps(x1, n1), n1);
    if (seen < PAGE) {
        p0 = _mm512_maskz_mov_ps(m0, p0);
        p1 = _mm512_maskz_mov_ps(m1, p1);
    }
    __m512bh p = _mm512_cvtne2ps_pbh(p1, p0);
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    _mm512_storeu_si512(b->p + i * PAGE / 2, (__m512i)p);
    _mm512_storeu_ps(b->lane_sum[i], _mm512_dpbf16_ps(_mm512_loadu_ps(b->lane_sum[i]), p, ones));
}

/* Where page number ip of the sequence begins, counted in pages of the layer. */
static int64_t page_at(const struct rows *r, int64_t ip)
{
    return r->page[ip] * r->a->kv.n_kv_head + r->kv_head;
}

/* Takes one page into the sums of rows first .. n - 1. A decoding row reads pages faster than the processor's own
 * prefetching follows: they lie apart, and one is soon read. So the next page is asked for while this one is worked on.
 */
static void take_page(const struct rows *r, int64_t ip, int first, struct soft *o, struct block *b)
{
    const struct lk_kv *kv = &r->a->kv;
    int64_t at = page_at(r, ip), next = (ip + 1) * PAGE <= r->pos[r->n - 1] ? page_at(r, ip + 1) : r->after;
    const uint32_t *k = (const uint32_t *)(const void *)(kv->k + at * kv->k_page_bytes);
    const uint32_t *v = (const uint32_t *)(const void *)(kv->v + at * kv->v_page_bytes);
    int n = r->n - first;
    struct query q = {r->q + first * r->n_word, r->n_word, (const char *)kv->k + next * kv->k_page_bytes};
    int64_t seen = r->pos[first] + 1 - ip * PAGE, most = lk_min(PAGE, r->pos[r->n - 1] + 1 - ip * PAGE);
    score_of[n](&q, k, b->score + first * PAGE, most <= PAGE / 2);
    if (seen >= PAGE) { /* then so it is for the rows behind it */
        for (int i = first; i < r->n; i++)
            probabilities(r, o, b, i, PAGE);
    } else {
        for (int i = first; i < r->n; i++)
            probabilities(r, o, b, i, r->pos[i] + 1 - ip * PAGE);
    }
    struct values to = {v + r->dim,
                        o->out + first * r->n_dim,
                        (most + 1) / 2,
                        (const char *)kv->v + next * kv->v_page_bytes + r->dim * PAGE * 2,
                        LK_V_DIMS(kv->head_dim),
                        r->n_dim};
    value_of[n](b->p + first * PAGE / 2, &to);
}

/* The positions of one split, rows first .. n - 1. */
static void take_split(const struct rows *r, int64_t begin, int first, struct soft *o)
{
    struct block b;
    for (int i = first; i < r->n; i++) {
        o->max[i] = o->limit[i] = -INFINITY;
        _mm512_storeu_ps(b.lane_sum[i], _mm512_setzero_ps());
        for (int64_t d = 0; d < r->n_dim; d += 16)
            _mm512_storeu_ps(o->out + i * r->n_dim + d, _mm512_setzero_ps());
    }
    int64_t end = lk_min(begin + LK_SPLIT_TOKENS, r->pos[r->n - 1] + 1);
    int active = first;
    for (int64_t ip = begin / PAGE; ip * PAGE < end; ip++) {
        while (r->pos[active] < ip * PAGE)
            active++;
        take_page(r, ip, active, o, &b);
    }
    for (int i = first; i < r->n; i++)
        o->sum[i] = _mm512_reduce_add_ps(_mm512_loadu_ps(b.lane_sum[i]));
}

/* all = all merged with one split, for rows first .. n - 1. */
static void merge(const struct rows *r, int first, struct soft *all, const struct soft *o)
{
    for (int i = first; i < r->n; i++) {
        float max = all->max[i] > o->max[i] ? all->max[i] : o->max[i];
        __m512 x = lk_exp2(_mm512_set1_ps(all->max[i] - max)), y = lk_exp2(_mm512_set1_ps(o->max[i] - max));
        all->max[i] = max;
        all->sum[i] = all->sum[i] * _mm512_cvtss_f32(x) + o->sum[i] * _mm512_cvtss_f32(y);
        for (int64_t d = 0; d < r->n_dim; d += 16) {
            __m512 p = _mm512_mul_ps(_mm512_loadu_ps(all->out + i * r->n_dim + d), x);
            __m512 q = _mm512_mul_ps(_mm512_loadu_ps(o->out + i * r->n_dim + d), y);
            _mm512_storeu_ps(all->out + i * r->n_dim + d, _mm512_add_ps(p, q));
        }
    }
}

/* Whether source columns col .. col + n - 1 are whole words of one segment that no zero columns follow; then *word is
 * the first. */
static bool whole_words(const struct lk_cols *c, int64_t col, int64_t n, int64_t *word)
{
    int s = lk_cols_seg(c, col);
    int64_t at = c->packed[s] + (col - c->begin[s]), end = c->begin[s + 1];
    *word = at / 2;
    return at % 2 == 0 && n % 2 == 0 && (col + n < end || (col + n == end && at + n == c->packed[s + 1]));
}

static void write_out(const struct rows *r, struct soft *o)
{
    int64_t n = lk_min(DIMS, r->a->kv.head_dim - r->dim);
    for (int64_t it = 0; it < r->n_tok; it++) {
        struct lk_row to = lk_row_of(&r->a->out, r->tok + it);
        for (int64_t ih = 0; ih < r->group; ih++) {
            int64_t i = it * r->group + ih, col = (r->head + ih) * r->a->kv.head_dim + r->dim, word;
            bool whole = whole_words(r->a->out.cols, col, n, &word);
            float *v = o->out + i * r->n_dim;
            __m512 inv = _mm512_set1_ps(1.0f / o->sum[i]);
            for (int64_t d = 0; d < r->n_dim; d += 16)
                _mm512_storeu_ps(v + d, _mm512_mul_ps(_mm512_loadu_ps(v + d), inv));
            if (!whole) {
                lk_avx512_put_cols(&r->a->out, r->tok + it, col, v, n);
                continue;
            }
            uint32_t *at = to.at + word * to.r;
            for (int64_t d = 0; d < n; d += 32) {
                _Alignas(64) uint32_t words[16];
                _mm512_storeu_si512(words, lk_round32(v + d, (int)lk_min(32, n - d)));
                for (int64_t w = 0; w < lk_min(16, (n - d) / 2); w++, at += to.r)
                    *at = words[w];
            }
        }
    }
}

static void attend_rows(struct rows *r)
{
    struct soft all, one;
    r->n = (int)(r->n_tok * r->group);
    for (int i = 0; i < r->n; i++)
        r->pos[i] = r->a->pos[r->tok + i / r->group];
    int64_t last = r->pos[r->n - 1], v_dims = LK_V_DIMS(r->a->kv.head_dim);
    for (r->dim = 0; r->dim < v_dims; r->dim += DIMS) {
        int first = 0;
        r->n_dim = lk_min(DIMS, v_dims - r->dim);
        take_split(r, 0, 0, &all);
        for (int64_t begin = LK_SPLIT_TOKENS; begin <= last; begin += LK_SPLIT_TOKENS) {
            while (r->pos[first] < begin)
                first++;
            take_split(r, begin, first, &one);
            merge(r, first, &all, &one);
        }
        write_out(r, &all);
    }
}

static void attend(const struct lk_attend *a, int64_t begin, int64_t end)
{
    int64_t group = a->n_head / a->kv.n_kv_head, n_word = lk_ceil_div(a->kv.head_dim, 2);
    int64_t n_part = lk_ceil_div(group, ROWS);
    for (int64_t i = begin; i < end; i++) {
        const struct lk_attn_item *item = &a->item[i], *next = i + 1 < end ? item + 1 : item;
        for (int64_t part = 0; part < n_part; part++) {
            int64_t from = group * part / n_part, to = group * (part + 1) / n_part;
            struct rows r = {
                .a = a,
                .q = (const uint32_t *)a->q + ((item->kv_head * a->n_tok + item->tok) * group + from) * n_word,
                .n_word = n_word,
                .tok = item->tok,
                .n_tok = item->n_tok,
                .head = item->kv_head * group + from,
                .group = to - from,
                .kv_head = item->kv_head,
                .page = a->page + a->page_start[item->seq],
                .after = a->page[a->page_start[next->seq]] * a->kv.n_kv_head + next->kv_head,
                .scale = a->scale * 1.44269504f,
            };
            attend_rows(&r);
        }
    }
}

void lk_avx512_attend_init(struct lk_cpu *t)
{
    t->attn_tokens = attn_tokens;
    t->attend = attend;
}
