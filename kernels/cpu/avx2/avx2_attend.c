/* Causal attention over the paged cache: one online softmax a split of 512 positions (Dao et al. 2022). An item's
 * rows (query heads of one KV head, of one or several tokens) go through the pages together, up to 12 at once, in
 * register tiles of up to 6; what happens to a row depends on that row alone. */
#include <math.h>

#include "kernels/cpu/avx2/lk_avx2.h"
#include "kernels/cpu/lk_gather.h"
#include "kernels/cpu/lk_spans.h"

#define ROWS 12 /* that products take at once */
#define TILE LK_AVX2_ROWS
#define PAGE LK_PAGE_TOKENS
#define DIMS 512  /* dimensions of V that one pass sums; more take a pass each, which scores anew */
#define SLACK 8.f /* sums are rescaled when a score is 2^8 times above the maximum they were begun with */

/* Sums of one split, or of all: 2^(score - max) in all, and times V. */
struct soft {
    float max[LK_SPAN_ROWS];   /* in powers of two: scaled by log2(e) too */
    float limit[LK_SPAN_ROWS]; /* a score above it, not yet scaled, makes the sums begin anew */
    float sum[LK_SPAN_ROWS];
    _Alignas(32) float lane_sum[LK_SPAN_ROWS * 8]; /* of the rounded probabilities, by position % 8 */
    _Alignas(32) float out[LK_SPAN_ROWS * DIMS];   /* row i at out + i * n_dim */
};

/* An item's rows: the heads of its first token, then those of the next one. */
struct rows {
    const struct lk_attend *a;
    const struct lk_attn_item *item;
    const float *q; /* row i at q + i * q_dims */
    int64_t q_dims, kv_head;
    struct lk_pages_after after;
    float scale; /* of the scores, log2(e) in it */
    struct lk_spans see;
    int64_t dim, n_dim; /* dimensions of V of this pass, n_dim padded to 8 */
};

/* The right-hand side of a block's product, [2 n_pair, n_col], and the left-hand rows. */
struct operand {
    const float *left; /* row i at left + i * ld */
    int64_t ld, n_pair;
    const char *right, *ahead; /* ahead: what is read next; as much as is read is fetched */
    int64_t pair_bytes;
    float *out; /* row i at out + i * out_ld */
    int64_t out_ld;
};

/* out[R, 8 N] (+)= left[R, 2 n_pair] . right[2 n_pair, 8 N], fused multiply-adds in order */
LK_INLINE void tile(const int R, const int N, const enum lk_type type, const bool add, const struct operand *o)
{
    __m256 acc[TILE][4];
    float *out = o->out;
    const float *left0 = o->left, *left1 = left0 + 3 * o->ld;
    const int64_t ld = o->ld, odd_bytes = o->pair_bytes / 2;
    const char *right = o->right, *ahead = o->ahead;
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[i][j] = add ? _mm256_loadu_ps(out + i * o->out_ld + 8 * j) : _mm256_setzero_ps();
    for (int64_t pair = 0; pair < o->n_pair; pair++) {
#pragma GCC unroll 4
        for (int j = 0; j < N; j += 2)
            _mm_prefetch(ahead + 32 * j, _MM_HINT_T0);
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
            __m256 b[4];
            __asm__(
                ""
                : "+r"(right)); /* words are read again for the odd numbers: kept, they would cost sums a register */
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) {
                if (type == LK_F32) {
                    b[j] = _mm256_loadu_ps((const float *)(const void *)(right + odd * odd_bytes) + 8 * j);
                } else {
                    __m256i words = _mm256_loadu_si256((const __m256i *)(const void *)right + j);
                    b[j] = odd ? lk_odd8_in_tile(words) : lk_even8(words);
                }
            }
#pragma GCC unroll 6
            for (int i = 0; i < R; i++) {
                __m256 x = _mm256_broadcast_ss((i < 3 ? left0 : left1) + i % 3 * ld + odd);
#pragma GCC unroll 4
                for (int j = 0; j < N; j++)
                    acc[i][j] = lk_fma_in_place(x, b[j], acc[i][j]);
            }
        }
        right += o->pair_bytes;
        ahead += o->pair_bytes;
        left0 += 2;
        left1 += 2;
    }
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            _mm256_storeu_ps(out + i * o->out_ld + 8 * j, acc[i][j]);
}

/* All of n_col columns for R rows; few rows take more columns at a time, to hide the instruction's latency. */
LK_INLINE void tiles(const int R, const enum lk_type type, const bool add, const struct operand *o, int64_t n_col)
{
    const int64_t col_bytes = 4; /* a pair's column: two bf16 numbers in a word; in f32 the first of its two numbers */
    struct operand at = *o;
    for (int64_t col = 0; col < n_col;) {
        int64_t left = n_col - col;
        int n = R <= 2 && left >= 32 ? 4 : left >= 16 ? 2 : 1;
        at.right = o->right + col * col_bytes;
        at.ahead = o->ahead + col * col_bytes;
        at.out = o->out + col;
        if (R <= 2 && n == 4)
            tile(R, 4, type, add, &at);
        else if (n == 2)
            tile(R, 2, type, add, &at);
        else
            tile(R, 1, type, add, &at);
        col += 8 * n;
    }
}

#define EACH_ROWS(X, type, suffix) \
    X(1, type, suffix) X(2, type, suffix) X(3, type, suffix) X(4, type, suffix) X(5, type, suffix) X(6, type, suffix)
#define TILES(R, type, suffix)                                          \
    static void score##R##_##suffix(const struct operand *o, int64_t n) \
    {                                                                   \
        tiles(R, type, false, o, n);                                    \
    }                                                                   \
    static void value##R##_##suffix(const struct operand *o, int64_t n) \
    {                                                                   \
        tiles(R, type, true, o, n);                                     \
    }
EACH_ROWS(TILES, LK_F32, f32)
EACH_ROWS(TILES, LK_BF16, bf16)

#define SCORE(R, type, suffix) score##R##_##suffix,
#define VALUE(R, type, suffix) value##R##_##suffix,
static void (*const score_of[2][TILE + 1])(const struct operand *, int64_t) = {
    [LK_F32] = {NULL, EACH_ROWS(SCORE, LK_F32, f32)}, [LK_BF16] = {NULL, EACH_ROWS(SCORE, LK_BF16, bf16)}};
static void (*const value_of[2][TILE + 1])(const struct operand *, int64_t) = {
    [LK_F32] = {NULL, EACH_ROWS(VALUE, LK_F32, f32)}, [LK_BF16] = {NULL, EACH_ROWS(VALUE, LK_BF16, bf16)}};

/* `n` rows in tiles of even height. */
LK_INLINE void in_tiles(void (*const of[TILE + 1])(const struct operand *, int64_t), struct operand o, int n,
                        int64_t n_col)
{
    struct lk_panels p = lk_panels_of(n, TILE);
    for (int64_t ip = 0; ip < p.n; ip++) {
        int r = lk_panel_rows(&p, ip);
        of[r](&o, n_col);
        o.left += r * o.ld;
        o.out += r * o.out_ld;
        o.ahead = o.right; /* once is enough */
    }
}

/* The row's sums are begun anew at a higher maximum; `top` is the score behind it, not yet scaled. */
static void rescale(const struct rows *r, struct soft *o, int i, float top)
{
    float max = top * r->scale;
    __m256 shrink = lk_exp2(_mm256_set1_ps(o->max[i] - max));
    float *sum = o->lane_sum + 8 * i;
    _mm256_store_ps(sum, _mm256_mul_ps(_mm256_load_ps(sum), shrink));
    for (float *x = o->out + i * r->n_dim; x < o->out + (i + 1) * r->n_dim; x += 8)
        _mm256_storeu_ps(x, _mm256_mul_ps(_mm256_loadu_ps(x), shrink));
    o->max[i] = max;
    o->limit[i] = top + SLACK / r->scale;
}

/* p: the scores of row i, then its probabilities, 0 where it does not see. */
LK_INLINE void probabilities(const struct rows *r, struct soft *o, float *p, int i, const struct lk_seen seen,
                             const enum lk_type type)
{
    float *sum = o->lane_sum + 8 * i;
    const __m256 none = _mm256_set1_ps(-INFINITY), least = _mm256_set1_ps(-200.0f);
    const bool whole = seen.from <= 0 && seen.to >= PAGE;
    __m256 s[4], keep[4] = {none, none, none, none}, most = none;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        s[j] = _mm256_load_ps(p + 8 * j);
        if (!whole) {
            __m256i hidden = lk_mask8(seen.from - 8 * j), in = lk_mask8(seen.to - 8 * j);
            keep[j] = _mm256_castsi256_ps(_mm256_andnot_si256(hidden, in));
            s[j] = _mm256_blendv_ps(none, s[j], keep[j]);
        }
        most = _mm256_max_ps(s[j], most);
    }
    if (_mm256_movemask_ps(_mm256_cmp_ps(most, _mm256_set1_ps(o->limit[i]), _CMP_GT_OQ)))
        rescale(r, o, i, lk_max8(most));
    __m256 max = _mm256_set1_ps(o->max[i]), scale = _mm256_set1_ps(r->scale), all = _mm256_load_ps(sum);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m256 x = _mm256_max_ps(least, _mm256_fmsub_ps(s[j], scale, max));
        __m256 n = _mm256_round_ps(x, LK_ROUND_NEAREST);
        __m256 e = lk_exp2_poly(_mm256_sub_ps(x, n), n);
        if (type == LK_BF16) { /* a NaN here has at most the payload of a bf16 number: it needs no care */
            __m256i up = lk_round_up8(_mm256_castps_si256(e));
            e = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32((int)0xffff0000u)));
        }
        if (!whole)
            e = _mm256_and_ps(e, keep[j]);
        _mm256_store_ps(p + 8 * j, e);
        all = _mm256_add_ps(all, e);
    }
    _mm256_store_ps(sum, all);
}

/* Takes one page into the sums of some of its rows. A decoding row reads pages faster than the processor's own
 * prefetching follows: they lie apart, and one is soon read. So the next page is asked for while this one is worked on.
 */
LK_INLINE void take_page(const struct rows *r, const struct lk_page_rows *p, struct soft *o, const enum lk_type type)
{
    _Alignas(32) float prob[ROWS * PAGE];
    const int64_t ip = p->ip;
    const int first = p->first, n = p->end - first;
    const struct lk_kv *kv = &r->a->kv;
    const int64_t elem = type == LK_F32 ? 4 : 2, v_dims = LK_DIMS8(kv->v_dim);
    int64_t at = lk_page_at(r->a, r->item, r->kv_head, p);
    int64_t next = lk_page_behind(r->a, r->item, r->kv_head, p, 1, &r->after);
    int64_t most = lk_page_most(&r->see, p);
    bool whole = lk_page_whole(&r->see, p);
    struct operand scores = {.left = r->q + first * r->q_dims,
                             .ld = r->q_dims,
                             .n_pair = lk_ceil_div(kv->head_dim, 2),
                             .right = (const char *)kv->k + at * kv->k_page_bytes,
                             .ahead = (const char *)kv->k + next * kv->k_page_bytes,
                             .pair_bytes = 2 * PAGE * elem,
                             .out = prob,
                             .out_ld = PAGE};
    in_tiles(score_of[type], scores, n, most <= PAGE / 2 ? PAGE / 2 : PAGE);
    for (int i = first; i < p->end; i++) {
        if (whole)
            probabilities(r, o, prob + (i - first) * PAGE, i, (struct lk_seen){0, PAGE}, type);
        else
            probabilities(r, o, prob + (i - first) * PAGE, i, lk_seen_of(&r->see, ip, i), type);
    }
    int64_t skip = r->dim * 4; /* as a column of a pair in tiles() */
    struct operand values = {.left = prob,
                             .ld = PAGE,
                             .n_pair = (most + 1) / 2,
                             .right = (const char *)kv->v + at * kv->v_page_bytes + skip,
                             .ahead = (const char *)kv->v + next * kv->v_page_bytes + skip,
                             .pair_bytes = 2 * v_dims * elem,
                             .out = o->out + first * r->n_dim,
                             .out_ld = r->n_dim};
    in_tiles(value_of[type], values, n, r->n_dim);
}

/* The positions of a split, for the rows that see some of them. */
LK_INLINE void take_split(const struct rows *r, const struct lk_split_rows *s, struct soft *o, const enum lk_type type)
{
    for (int i = s->first; i < s->end; i++) {
        o->max[i] = o->limit[i] = -INFINITY;
        _mm256_store_ps(o->lane_sum + 8 * i, _mm256_setzero_ps());
    }
    memset(o->out + s->first * r->n_dim, 0, (size_t)((s->end - s->first) * r->n_dim) * sizeof(float));
    for (struct lk_page_rows p = lk_page_start(&r->see, s); lk_page_next(&r->see, s, &p);) {
        struct lk_panels parts = lk_panels_of(p.end - p.first, ROWS);
        for (int64_t i = 0; i < parts.n; i++) {
            struct lk_page_rows part = lk_page_part(&p, &parts, i);
            take_page(r, &part, o, type);
        }
    }
    for (int i = s->first; i < s->end; i++)
        o->sum[i] = lk_sum8(_mm256_load_ps(o->lane_sum + 8 * i));
}

/* all = all merged with one split; for the rows that begin in it, the split. */
static void merge(const struct rows *r, const struct lk_split_rows *s, struct soft *all, const struct soft *o)
{
    for (int i = s->begun; i < s->end; i++) {
        all->max[i] = o->max[i];
        all->sum[i] = o->sum[i];
        memcpy(all->out + i * r->n_dim, o->out + i * r->n_dim, (size_t)r->n_dim * sizeof(float));
    }
    for (int i = s->first; i < s->begun; i++) {
        float max = all->max[i] > o->max[i] ? all->max[i] : o->max[i];
        __m256 x = lk_exp2(_mm256_set1_ps(all->max[i] - max)), y = lk_exp2(_mm256_set1_ps(o->max[i] - max));
        all->max[i] = max;
        all->sum[i] = all->sum[i] * _mm256_cvtss_f32(x) + o->sum[i] * _mm256_cvtss_f32(y);
        for (int64_t d = i * r->n_dim; d < (i + 1) * r->n_dim; d += 8) {
            __m256 p = _mm256_mul_ps(_mm256_loadu_ps(all->out + d), x);
            __m256 q = _mm256_mul_ps(_mm256_loadu_ps(o->out + d), y);
            _mm256_storeu_ps(all->out + d, _mm256_add_ps(p, q));
        }
    }
}

LK_INLINE void write_out(const struct rows *r, struct soft *o, const enum lk_type type)
{
    const struct lk_cols *c = r->a->out.cols;
    int64_t n = lk_min(DIMS, r->a->kv.v_dim - r->dim);
    for (int64_t it = 0; it < r->item->n_tok; it++) {
        for (int64_t ih = 0; ih < r->item->n_head; ih++) {
            int64_t i = it * r->item->n_head + ih, col;
            struct lk_act out = lk_head_out(r->a, r->item->head + ih, &col);
            struct lk_row to = lk_row_of(&out, r->item->tok + it);
            col += r->dim;
            int s = lk_cols_seg(c, col);
            int64_t k = c->packed[s] + (col - c->begin[s]), last = c->begin[s + 1];
            float *v = o->out + i * r->n_dim;
            __m256 inv = _mm256_set1_ps(1.0f / o->sum[i]);
            for (int64_t d = 0; d < r->n_dim; d += 8)
                _mm256_storeu_ps(v + d, lk_typed8(_mm256_mul_ps(_mm256_loadu_ps(v + d), inv), type));
            if (k % 8 || n % 8 || (col + n == last && k + n != c->packed[s + 1])) {
                lk_avx2_put_cols(&out, r->item->tok + it, col, v, n);
                continue;
            }
            for (int64_t d = 0; d < n; d += 8)
                _mm256_storeu_ps(lk_row_col(&to, k + d), _mm256_loadu_ps(v + d));
        }
    }
}

LK_INLINE void attend_rows(struct rows *r, const enum lk_type type)
{
    struct soft all, one;
    int64_t v_dims = LK_DIMS8(r->a->kv.v_dim);
    lk_spans_init(&r->see, r->a, r->item);
    for (r->dim = 0; r->dim < v_dims; r->dim += DIMS) {
        r->n_dim = lk_min(DIMS, v_dims - r->dim);
        for (struct lk_split_rows s = lk_split_start(&r->see); lk_split_next(&r->see, &s);) {
            struct soft *to = s.begun == s.first ? &all : &one;
            take_split(r, &s, to, type);
            if (to == &one)
                merge(r, &s, &all, &one);
        }
        write_out(r, &all, type);
    }
}

LK_INLINE void attend(const struct lk_attend *a, int64_t begin, int64_t end, const enum lk_type type)
{
    int64_t group = a->n_head / a->kv.n_kv_head, q_dims = LK_DIMS8(a->kv.head_dim);
    for (int64_t i = begin; i < end; i++) {
        const struct lk_attn_item *item = &a->item[i];
        int64_t kv_head = item->head / group;
        struct rows r = {
            .a = a,
            .item = item,
            .q = (const float *)a->q + ((kv_head * a->n_tok + item->tok) * group + item->head % group) * q_dims,
            .q_dims = q_dims,
            .kv_head = kv_head,
            .after = lk_pages_after(a, i, end),
            .scale = a->scale * 1.44269504f,
        };
        attend_rows(&r, type);
    }
}

LK_BOTH_TYPES(attend, lk_attend)

static int64_t attn_rows(int64_t v_dim)
{
    return lk_item_rows(v_dim, ROWS);
}

void lk_avx2_attend_init(struct lk_cpu *t, enum lk_type type)
{
    t->attn_rows = attn_rows;
    t->attend = type == LK_F32 ? attend_f32 : attend_bf16;
    if (type == LK_BF16)
        t->gather = lk_gather_pairs;
}
