/* Causal attention over the paged cache: one online softmax a split of 512 positions (Dao et al. 2022). Up to 12 rows
 * (query heads of one KV head, of one or several tokens) go through the pages together; what happens to a row depends
 * on that row alone. */
#include "kernels/cpu/avx512/avx512_softmax.h"

#define ROWS LK_AVX512_ROWS
#define PAGE LK_PAGE_TOKENS

static int64_t attn_tokens(int64_t group)
{
    return group < ROWS ? ROWS / group : 1;
}

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

/* Takes one page into the sums of rows first .. n - 1. A decoding row reads pages faster than the processor's own
 * prefetching follows: they lie apart, and one is soon read. So the next page is asked for while this one is worked on.
 */
static void take_page(const struct lk_rows *r, int64_t ip, int first, struct lk_sums *o)
{
    _Alignas(64) float score[ROWS * PAGE];
    _Alignas(64) uint32_t p[ROWS * PAGE / 2]; /* probabilities as pairs of bf16 */
    const struct lk_kv *kv = &r->a->kv;
    int64_t at = lk_page_at(r, ip), next = lk_page_after(r, ip);
    const uint32_t *k = (const uint32_t *)(const void *)(kv->k + at * kv->k_page_bytes);
    const uint32_t *v = (const uint32_t *)(const void *)(kv->v + at * kv->v_page_bytes);
    int n = r->n - first;
    struct query q = {r->q + first * r->n_word, r->n_word, (const char *)kv->k + next * kv->k_page_bytes};
    int64_t seen = r->pos[first] + 1 - ip * PAGE, most = lk_min(PAGE, r->pos[r->n - 1] + 1 - ip * PAGE);
    score_of[n](&q, k, score, most <= PAGE / 2);
    if (seen >= PAGE) { /* then so it is for the rows behind it */
        for (int i = 0; i < n; i++)
            _mm512_storeu_si512(p + i * PAGE / 2, lk_probabilities(r, o, first + i, score + i * PAGE, PAGE));
    } else {
        for (int i = 0; i < n; i++) {
            seen = r->pos[first + i] + 1 - ip * PAGE;
            _mm512_storeu_si512(p + i * PAGE / 2, lk_probabilities(r, o, first + i, score + i * PAGE, seen));
        }
    }
    struct values to = {v + r->dim,
                        o->out + first * r->n_dim,
                        (most + 1) / 2,
                        (const char *)kv->v + next * kv->v_page_bytes + r->dim * PAGE * 2,
                        LK_V_DIMS(kv->head_dim),
                        r->n_dim};
    value_of[n](p, &to);
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
    struct lk_row to = lk_row_of(out, row);
    uint32_t *at = to.at + word * to.r;
    for (int64_t d = 0; d < n; d += 32) {
        _Alignas(64) uint32_t words[16];
        _mm512_storeu_si512(words, lk_round32(v + d, (int)lk_min(32, n - d)));
        for (int64_t w = 0; w < lk_min(16, (n - d) / 2); w++, at += to.r)
            *at = words[w];
    }
}

static void attend(const struct lk_attend *a, int64_t begin, int64_t end)
{
    struct lk_attend_set set = {ROWS, lk_ceil_div(a->kv.head_dim, 2), take_page, put_head, NULL};
    lk_attend_items(&set, a, begin, end);
}

void lk_avx512_attend_init(struct lk_cpu *t)
{
    t->attn_tokens = attn_tokens;
    t->attend = attend;
}
