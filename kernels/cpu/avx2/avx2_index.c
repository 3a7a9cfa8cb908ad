/* Scores of the indexer of sparse attention: the reference's numbers to the bit, product and sum rounded apart, in
 * register tiles of heads by 16 positions. */
#include "kernels/cpu/avx2/lk_avx2.h"
#include "kernels/cpu/lk_index.h"

#define PAGE LK_PAGE_TOKENS

/* Index heads of one token against 16 positions of a page: head i's query at q + i * dim, its weight w[i]. */
struct heads {
    const float *q, *w;
    const char *key; /* number d of the first of them at key + d * step */
    int64_t dim, step;
    float scale;
};

/* out += sum over R heads, ascending, of w max(0, scale q . key) */
LK_INLINE void tile(const int R, const enum lk_type type, const struct heads *h, __m256 out[2])
{
    __m256 acc[LK_AVX2_ROWS][2];
    const float *q0 = h->q, *q1 = q0 + 3 * h->dim;
    const char *key = h->key;
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
        acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (int64_t d = 0; d < h->dim; d++, key += h->step, q0++, q1++) {
        __m256 k[2];
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++)
            k[j] = type == LK_F32 ? _mm256_loadu_ps((const float *)(const void *)key + 8 * j)
                                  : lk_widen8((const uint16_t *)(const void *)key + 8 * j);
#pragma GCC unroll 6
        for (int i = 0; i < R; i++) {
            __m256 x = _mm256_broadcast_ss((i < 3 ? q0 : q1) + i % 3 * h->dim);
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++)
                acc[i][j] = _mm256_add_ps(acc[i][j], _mm256_mul_ps(x, k[j]));
        }
    }
    const __m256 zero = _mm256_setzero_ps(), scale = _mm256_set1_ps(h->scale);
#pragma GCC unroll 6
    for (int i = 0; i < R; i++) {
        __m256 w = _mm256_broadcast_ss(h->w + i);
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            __m256 x = _mm256_mul_ps(acc[i][j], scale);
            x = _mm256_andnot_ps(_mm256_cmp_ps(x, zero, _CMP_LT_OQ), x); /* NaN stays, as the reference has it */
            out[j] = _mm256_add_ps(out[j], _mm256_mul_ps(w, x));
        }
    }
}

#define EACH_ROWS(X, type, suffix) \
    X(1, type, suffix) X(2, type, suffix) X(3, type, suffix) X(4, type, suffix) X(5, type, suffix) X(6, type, suffix)
#define TILE(R, type, suffix)                                            \
    static void tile##R##_##suffix(const struct heads *h, __m256 out[2]) \
    {                                                                    \
        tile(R, type, h, out);                                           \
    }
EACH_ROWS(TILE, LK_F32, f32)
EACH_ROWS(TILE, LK_BF16, bf16)

#define NAME(R, type, suffix) tile##R##_##suffix,
static void (*const tile_of[2][LK_AVX2_ROWS + 1])(const struct heads *, __m256 *) = {
    [LK_F32] = {NULL, EACH_ROWS(NAME, LK_F32, f32)}, [LK_BF16] = {NULL, EACH_ROWS(NAME, LK_BF16, bf16)}};

LK_INLINE void score_page(const struct lk_index_select *a, const float *q, const float *w, const void *page,
                          float to[PAGE], enum lk_type type)
{
    const int64_t elem = type == LK_F32 ? 4 : 2;
    struct lk_panels p = lk_panels_of(a->n_head, LK_AVX2_ROWS);
    for (int64_t pos = 0; pos < PAGE; pos += 16) {
        __m256 out[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        struct heads h = {q, w, (const char *)page + pos * elem, a->plane.dim, PAGE * elem, a->scale};
        for (int64_t ip = 0; ip < p.n; ip++) {
            int r = lk_panel_rows(&p, ip);
            tile_of[type][r](&h, out);
            h.q += r * h.dim;
            h.w += r;
        }
        _mm256_storeu_ps(to + pos, out[0]);
        _mm256_storeu_ps(to + pos + 8, out[1]);
    }
}

static void index_select_f32(const struct lk_index_select *a, int64_t begin, int64_t end)
{
    lk_index_choose(a, begin, end, LK_F32, score_page);
}

static void index_select_bf16(const struct lk_index_select *a, int64_t begin, int64_t end)
{
    lk_index_choose(a, begin, end, LK_BF16, score_page);
}

void lk_avx2_index_init(struct lk_cpu *t, enum lk_type type)
{
    t->index_select = type == LK_F32 ? index_select_f32 : index_select_bf16;
}
