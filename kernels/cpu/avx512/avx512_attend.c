/* Causal attention over the paged cache: one online softmax a split of 512 positions (Dao et al. 2022). An item's
 * rows (query heads of one KV head, of one or several tokens) go through the pages together, up to 12 at once; what
 * happens to a row depends on that row alone. */
#include "kernels/cpu/avx512/avx512_softmax.h"
#include "kernels/cpu/lk_gather.h"

#define ROWS LK_AVX512_ROWS
#define PAGE LK_PAGE_TOKENS

static int64_t attn_rows(int64_t v_dim)
{
    return lk_item_rows(v_dim, ROWS);
}

/* Rows of Q. */
struct query {
    const uint32_t *q; /* row i at q + i * n_word */
    int64_t n_word;
    const char *ahead; /* the K page that is read next: two lines of it are fetched a word */
};

/* score[R, 16 N] = q[R, head_dim] . the first 16 N positions of a K page; score's rows are 32 long */
LK_INLINE void score_tile(const int R, const int N, const enum lk_type type, const struct query *q, const uint32_t *k,
                          float *score)
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
        __m512i b[2];
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            b[j] = _mm512_loadu_si512(k + 16 * j);
        _mm_prefetch(ahead, _MM_HINT_T1);
        _mm_prefetch(ahead + 64, _MM_HINT_T1);
        ahead += 128;
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            const uint32_t *from = i < 3 ? q0 : i < 6 ? q1 : i < 9 ? q2 : q3;
            __m512i x = _mm512_set1_epi32((int)from[i % 3 * n_word]);
#pragma GCC unroll 2
            for (int j = 0; j < N; j++)
                acc[i][j] = lk_step(type, acc[i][j], b[j], x);
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
    int64_t n_word;        /* words of positions that count; behind them probabilities are 0 */
    const char *ahead;     /* the V page that is read next */
    int64_t v_dims, n_dim; /* words from one word of positions to the next; numbers from one row of out to the next */
};

/* out[R, 16 N] += p[R, 32] . V page, from dimension `dim` on */
LK_INLINE void value_tile(const int R, const int N, const enum lk_type type, const uint32_t *p, const struct values *to,
                          int64_t dim)
{
    const int page_words = PAGE / lk_per_word(type);
    const uint32_t *v = to->v + dim;
    float *out = to->out + dim;
    const char *ahead = to->ahead + dim * page_words * 4;
    int64_t ld = to->n_dim;
    __m512 acc[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            acc[i][j] = _mm512_loadu_ps(out + i * ld + j * 16);
    for (int64_t w = 0; w < to->n_word; w++) {
        __m512i b[2];
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            b[j] = _mm512_loadu_si512(v + j * 16);
#pragma GCC unroll 2
        for (int j = 0; j < N; j++)
            _mm_prefetch(ahead + 64 * j, _MM_HINT_T1);
        ahead += 64 * N;
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            __m512i x = _mm512_set1_epi32((int)p[i * page_words + w]);
#pragma GCC unroll 2
            for (int j = 0; j < N; j++)
                acc[i][j] = lk_step(type, acc[i][j], b[j], x);
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

#define TILES(R, name, type)                                                                         \
    static void score##R##_##name(const struct query *q, const uint32_t *k, float *score, bool half) \
    {                                                                                                \
        if (half)                                                                                    \
            score_tile(R, 1, type, q, k, score);                                                     \
        else                                                                                         \
            score_tile(R, 2, type, q, k, score);                                                     \
    }                                                                                                \
    static void value##R##_##name(const uint32_t *p, const struct values *to)                        \
    {                                                                                                \
        int64_t d = 0;                                                                               \
        for (; d + 32 <= to->n_dim; d += 32)                                                         \
            value_tile(R, 2, type, p, to, d);                                                        \
        if (d < to->n_dim)                                                                           \
            value_tile(R, 1, type, p, to, d);                                                        \
    }
#define BOTH(R) TILES(R, f32, LK_F32) TILES(R, bf16, LK_BF16)
EACH_ROWS(BOTH)

#define SCORE_F32(R) score##R##_f32,
#define SCORE_BF16(R) score##R##_bf16,
#define VALUE_F32(R) value##R##_f32,
#define VALUE_BF16(R) value##R##_bf16,
static void (*const score_of[2][ROWS + 1])(const struct query *, const uint32_t *, float *, bool) = {
    [LK_F32] = {NULL, EACH_ROWS(SCORE_F32)},
    [LK_BF16] = {NULL, EACH_ROWS(SCORE_BF16)},
};
static void (*const value_of[2][ROWS + 1])(const uint32_t *, const struct values *) = {
    [LK_F32] = {NULL, EACH_ROWS(VALUE_F32)},
    [LK_BF16] = {NULL, EACH_ROWS(VALUE_BF16)},
};

/* Scores of rows first, first + 1, ... and their probabilities as words, those of a page side by side. */
struct block {
    int first;
    _Alignas(64) float score[ROWS * PAGE];
    _Alignas(64) uint32_t p[ROWS * PAGE];
};

/* Row i's probabilities from its scores; 0 where it does not see. */
LK_INLINE void weigh(const struct lk_rows *r, struct lk_sums *o, struct block *b, int i, const struct lk_seen seen,
                     const enum lk_type type)
{
    const float *score = b->score + (i - b->first) * PAGE;
    uint32_t *p = b->p + (i - b->first) * (PAGE / lk_per_word(type));
    if (type == LK_BF16) {
        _mm512_storeu_si512(p, lk_probabilities(r, o, i, score, seen));
        return;
    }
    __m512 weight[2];
    float *sum = o->soft[i].lane_sum;
    lk_weights(r, o, i, score, seen, weight);
    _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), _mm512_add_ps(weight[0], weight[1])));
    _mm512_storeu_si512(p, (__m512i)weight[0]);
    _mm512_storeu_si512(p + 16, (__m512i)weight[1]);
}

/* Takes one page into the sums of its rows. A decoding row reads pages faster than the processor's own
 * prefetching follows: they lie apart, and one is soon read. So the next page is asked for while this one is worked on,
 * into the second cache: the first one waits for far fewer lines at a time (EPYC, Zen 4: 12 GB/s a thread, 20). */
LK_INLINE void take_page(const struct lk_rows *r, const struct lk_page_rows *p, struct lk_sums *o,
                         const enum lk_type type)
{
    const int per = lk_per_word(type), page_words = PAGE / per;
    struct block b;
    const int first = p->first, n = p->end - first;
    b.first = first;
    const struct lk_kv *kv = &r->a->kv;
    int64_t at = lk_rows_page(r, p), next = lk_rows_page_behind(r, p, 1), most = lk_page_most(&r->see, p);
    const uint32_t *k = (const uint32_t *)(const void *)(kv->k + at * kv->k_page_bytes);
    const uint32_t *v = (const uint32_t *)(const void *)(kv->v + at * kv->v_page_bytes);
    struct query q = {r->q + first * r->n_word, r->n_word, (const char *)kv->k + next * kv->k_page_bytes};
    score_of[type][n](&q, k, b.score, most <= PAGE / 2);
    if (lk_page_whole(&r->see, p)) {
        for (int i = first; i < p->end; i++)
            weigh(r, o, &b, i, (struct lk_seen){0, PAGE}, type);
    } else {
        for (int i = first; i < p->end; i++)
            weigh(r, o, &b, i, lk_seen_of(&r->see, p->ip, i), type);
    }
    struct values to = {v + r->dim,
                        o->out + first * r->n_dim,
                        lk_ceil_div(most, per),
                        (const char *)kv->v + next * kv->v_page_bytes + r->dim * page_words * 4,
                        LK_V_DIMS(kv->v_dim),
                        r->n_dim};
    value_of[type][n](b.p, &to);
}

static void take_page_f32(const struct lk_rows *r, const struct lk_page_rows *p, struct lk_sums *o)
{
    take_page(r, p, o, LK_F32);
}

static void take_split_f32(const struct lk_rows *r, const struct lk_split_rows *s, struct lk_sums *o)
{
    lk_take_pages(r, s, o, ROWS, take_page_f32);
}

static void take_page_bf16(const struct lk_rows *r, const struct lk_page_rows *p, struct lk_sums *o)
{
    take_page(r, p, o, LK_BF16);
}

static void take_split_bf16(const struct lk_rows *r, const struct lk_split_rows *s, struct lk_sums *o)
{
    lk_take_pages(r, s, o, ROWS, take_page_bf16);
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

static void put_head(const struct lk_act *out, int64_t row, int64_t col, const float *v, int64_t n)
{
    int64_t word;
    if (!whole_words(out->cols, col, n, &word)) {
        lk_avx512_put_cols(out, row, col, v, n);
        return;
    }
    struct lk_row to = lk_row_of(out, row, LK_BF16);
    uint32_t *at = to.at + word * to.r;
    for (int64_t d = 0; d < n; d += 32) {
        _Alignas(64) uint32_t words[16];
        _mm512_storeu_si512(words, lk_round32(v + d, (int)lk_min(32, n - d)));
        for (int64_t w = 0; w < lk_min(16, (n - d) / 2); w++, at += to.r)
            *at = words[w];
    }
}

static void put_rows_f32(const struct lk_rows *r, const struct lk_sums *o)
{
    lk_put_rows(r, o, lk_avx512_put_cols_f32);
}

static void put_rows_bf16(const struct lk_rows *r, const struct lk_sums *o)
{
    lk_put_rows(r, o, put_head);
}

static void attend_f32(const struct lk_attend *a, int64_t begin, int64_t end)
{
    struct lk_attend_set set = {.n_word = a->kv.head_dim, .take_split = take_split_f32, .put = put_rows_f32};
    lk_attend_items(&set, a, begin, end);
}

static void attend_bf16(const struct lk_attend *a, int64_t begin, int64_t end)
{
    struct lk_attend_set set = {
        .n_word = lk_ceil_div(a->kv.head_dim, 2), .take_split = take_split_bf16, .put = put_rows_bf16};
    lk_attend_items(&set, a, begin, end);
}

void lk_avx512_attend_init(struct lk_cpu *t, enum lk_type type)
{
    t->attn_rows = attn_rows;
    t->attend = type == LK_F32 ? attend_f32 : attend_bf16;
    if (type == LK_BF16)
        t->gather = lk_gather_pairs;
}
