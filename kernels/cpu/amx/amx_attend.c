/* Causal attention over the paged cache: the walk and the softmax of avx512_softmax.h, products by tiles. An item's
 * rows (query heads of one KV head, of one or several tokens) go through the pages together, up to 32 at once as two
 * panels of a tile's height; what happens to a row depends on that row alone. Rotation and the write into the cache are
 * AVX-512's. */
#include "kernels/cpu/amx/amx_product.h"
#include "kernels/cpu/avx512/avx512_softmax.h"

#define PAGE LK_PAGE_TOKENS
#define ROWS (2 * LK_AMX_ROWS)

static int64_t attn_rows(int64_t v_dim)
{
    return lk_item_rows(v_dim, ROWS);
}

static size_t q_bytes(int64_t n_tok, int64_t n_head, int64_t head_dim)
{
    return (size_t)(n_tok * n_head * LK_AMX_DIMS(head_dim)) * sizeof(uint16_t);
}

static size_t k_page_bytes(int64_t head_dim)
{
    return (size_t)(LK_AMX_DIMS(head_dim) * PAGE) * sizeof(uint16_t);
}

static void rope_kv(const struct lk_rope_kv *a, int64_t begin, int64_t end)
{
    lk_avx512_rope_words(a, LK_AMX_DIMS(a->kv.head_dim) / 2, begin, end);
}

/* Two panels or one, by 32 columns or 16. */
static void run(const struct lk_amx_run *p, bool two, bool half)
{
    if (two && half)
        lk_amx_run_tiles(2, 1, p);
    else if (two)
        lk_amx_run_tiles(2, 2, p);
    else if (half)
        lk_amx_run_tiles(1, 1, p);
    else
        lk_amx_run_tiles(1, 2, p);
}

/* score[n, 32] = q . K, the second half of a row only when more than 16 positions count */
static void scores(const struct lk_rows *r, const struct lk_page_rows *rows, float *score)
{
    const int first = rows->first, n = rows->end - first;
    const struct lk_kv *kv = &r->a->kv;
    const char *page = (const char *)kv->k;
    struct lk_amx_run p = {
        .a = {(const char *)(r->q + first * r->n_word), (const char *)(r->q + (first + LK_AMX_ROWS) * r->n_word)},
        .a_row = r->n_word * 4,
        .a_step = {64, 64},
        .w = {page + lk_rows_page(r, rows) * kv->k_page_bytes},
        .w_row = PAGE * 4,
        .w_next = 64,
        .w_step = 16 * PAGE * 4,
        .n_block = r->n_word / 16,
        .c = {score, score + LK_AMX_ROWS * PAGE},
        .c_row = PAGE * 4,
        .begin = true,
        .ahead = page + lk_rows_next_page(r, rows) * kv->k_page_bytes,
        .n_ahead = 32,
    };
    p.ahead_end = p.ahead + kv->k_page_bytes;
    run(&p, n > LK_AMX_ROWS, lk_page_most(&r->see, rows) <= PAGE / 2);
}

/* out[n, n_dim] += p[n, 32] . V. Behind a token's position its probability is 0 and V is a number. */
static void values(const struct lk_rows *r, const struct lk_page_rows *rows, const uint32_t *p, struct lk_sums *o)
{
    const int first = rows->first, n = rows->end - first;
    const struct lk_kv *kv = &r->a->kv;
    const char *page = (const char *)kv->v;
    const char *next = page + lk_rows_next_page(r, rows) * kv->v_page_bytes;
    float *out = o->out + first * r->n_dim;
    page += lk_rows_page(r, rows) * kv->v_page_bytes;
    for (int64_t d = 0; d < r->n_dim; d += 32) {
        int64_t dim = r->dim + d;
        struct lk_amx_run run_of = {
            .a = {(const char *)p, (const char *)(p + LK_AMX_ROWS * PAGE / 2)},
            .a_row = 64,
            .w = {page + dim * 4},
            .w_row = LK_V_DIMS(kv->v_dim) * 4,
            .w_next = 64,
            .n_block = 1,
            .c = {out + d, out + LK_AMX_ROWS * r->n_dim + d},
            .c_row = r->n_dim * 4,
            .ahead = next + dim * 64,
            .ahead_end = next + kv->v_page_bytes,
            .n_ahead = 32,
        };
        run(&run_of, n > LK_AMX_ROWS, d + 16 == r->n_dim);
    }
}

static void take_page(const struct lk_rows *r, const struct lk_page_rows *rows, struct lk_sums *o)
{
    _Alignas(64) float score[ROWS * PAGE];
    _Alignas(64) uint32_t p[ROWS * PAGE / 2]; /* probabilities as pairs of bf16 */
    const int first = rows->first, n = rows->end - first;
    lk_amx_configure(r->own, n < LK_AMX_ROWS ? n : LK_AMX_ROWS, n > LK_AMX_ROWS ? n - LK_AMX_ROWS : 0);
    scores(r, rows, score);
    if (lk_page_whole(&r->see, rows)) {
        const struct lk_seen all = {0, PAGE};
        for (int i = 0; i < n; i++)
            _mm512_storeu_si512(p + i * PAGE / 2, lk_probabilities(r, o, first + i, score + i * PAGE, all));
    } else {
        for (int i = 0; i < n; i++) {
            struct lk_seen seen = lk_seen_of(&r->see, rows->ip, first + i);
            _mm512_storeu_si512(p + i * PAGE / 2, lk_probabilities(r, o, first + i, score + i * PAGE, seen));
        }
    }
    values(r, rows, p, o);
}

static void put_head(const struct lk_act *out, int64_t row, int64_t col, const float *v, int64_t n)
{
    struct lk_amx_rows from = {v, 0, row, 1};
    lk_amx_put(out, &from, col, n);
}

static void attend(const struct lk_attend *a, int64_t begin, int64_t end)
{
    struct lk_amx_shape shape = {0, 0};
    struct lk_attend_set set = {ROWS, LK_AMX_DIMS(a->kv.head_dim) / 2, take_page, put_head, &shape};
    lk_attend_items(&set, a, begin, end);
    _tile_release(); /* else each context switch of the thread would carry eight tiles */
}

void lk_amx_attend_init(struct lk_cpu *t)
{
    t->q_bytes = q_bytes;
    t->k_page_bytes = k_page_bytes;
    t->rope_kv = rope_kv;
    t->attn_rows = attn_rows;
    t->attend = attend;
}
