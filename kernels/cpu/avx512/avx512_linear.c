/* y = tree over segments of (A W^T), with its epilogues. */
#include "kernels/cpu/avx512/avx512_epilogue.h"
#include "kernels/cpu/avx512/avx512_product.h"
#include "kernels/cpu/avx512/avx512_words.h"

#define ROWS LK_AVX512_ROWS
#define PANEL LK_AVX512_PANEL
#define HEAD_PANELS 8 /* activation panels of one item of the head: their best stay in the first cache */
#define CHUNK_BYTES ((int64_t)384 << 10) /* activations of one item: they stay in the second cache */
#define PAIR_ROWS 4                      /* up to here two weight panels at a time, to hide the instruction's latency */

static size_t weight_bytes(int64_t n_out, const struct lk_cols *cols)
{
    return (size_t)(lk_ceil_div(n_out, PANEL) * PANEL * lk_cols_packed(cols)) * sizeof(uint16_t);
}

static void pack(const struct lk_pack *a)
{
    const struct lk_cols *c = a->cols;
    uint32_t *w = (uint32_t *)a->w + a->panel * PANEL * (lk_cols_packed(c) / 2);
    for (int s = 0; s < c->n_seg; s++) {
        for (int64_t k = c->begin[s]; k < c->begin[s + 1]; k += 32) {
            int n = (int)lk_min(32, c->begin[s + 1] - k);
            uint32_t *to = w + (c->packed[s] + (k - c->begin[s])) / 2 * PANEL;
            for (int64_t j = 0; j < PANEL; j++) {
                uint32_t word[16];
                const char *row = a->row[j];
                __m512i x = _mm512_setzero_si512();
                if (row && a->type == LK_BF16)
                    x = lk_load32(row + 2 * k, n);
                else if (row)
                    x = lk_round32((const float *)(const void *)(row + 4 * k), n);
                _mm512_storeu_si512(word, x);
                for (int i = 0; i < 16; i++)
                    to[i * PANEL + j] = word[i];
            }
        }
    }
}

/* Where columns col .. col + 15 of `out` begin as words of a packed row; -1 when they have no even place of their own
 * or zero columns follow them. */
static int64_t whole_words(const struct lk_cols *c, int64_t col)
{
    if (col + 16 > c->n_col)
        return -1;
    int s = lk_cols_seg(c, col);
    int64_t at = c->packed[s] + (col - c->begin[s]), end = c->begin[s + 1];
    bool alone = col + 16 < end || (col + 16 == end && at + 16 == c->packed[s + 1]);
    return alone && at % 2 == 0 ? at / 2 : -1;
}

static void put_tile(const struct lk_act *out, const struct lk_tile *t, int64_t col, int64_t n)
{
    int64_t at = whole_words(out->cols, col);
    if (at < 0) {
        for (int i = 0; i < t->r; i++)
            lk_avx512_put_cols(out, t->row + i, col, t->v + i * t->ld, n);
        return;
    }
    _Alignas(64) uint32_t word[ROWS][8];
    for (int i = 0; i < t->r; i++)
        _mm256_storeu_si256((__m256i *)word[i], (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(t->v + i * t->ld)));
    struct lk_row to = lk_row_of(out, t->row);
    lk_put_words8(to.at + at * to.r, t->r, word[0], 8);
}

#define EACH_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)

#define ONE_PANEL(R)                                                       \
    static void product##R(const struct lk_product *p, struct lk_tiles *t) \
    {                                                                      \
        lk_product_tile(R, 2, p, t);                                       \
    }
EACH_ROWS(ONE_PANEL)

#define TWO_PANELS(R)                                                        \
    static void product2_##R(const struct lk_product *p, struct lk_tiles *t) \
    {                                                                        \
        lk_product_tile(R, 4, p, t);                                         \
    }
TWO_PANELS(1)
TWO_PANELS(2)
TWO_PANELS(3)
TWO_PANELS(4)

#define NAME(R) product##R,
static void (*const one_panel[])(const struct lk_product *, struct lk_tiles *) = {NULL, EACH_ROWS(NAME)};
static void (*const two_panels[])(const struct lk_product *, struct lk_tiles *) = {NULL, product2_1, product2_2,
                                                                                   product2_3, product2_4};

/* How the work is cut: items are chunks of activation panels by groups of weight panels, the groups running fastest. */
struct plan {
    struct lk_panels rows;
    int64_t n_panel, group, n_group, n_chunk;
};

static struct plan plan_of(const struct lk_linear *a)
{
    struct plan p = {.rows = lk_panels_of(a->a.n_row), .n_panel = lk_ceil_div(a->n_out, PANEL), .group = 1};
    if (p.rows.n == 0)
        return p;
    int64_t most = CHUNK_BYTES / (ROWS * 2 * (lk_cols_packed(a->a.cols) + 1));
    if (a->epilogue == LK_EP_HEAD) {
        p.group = LK_HEAD_BLOCK / PANEL;
        most = lk_min(most, HEAD_PANELS);
    } else if (a->a.n_row <= PAIR_ROWS) {
        p.group = 2;
    }
    p.n_group = lk_ceil_div(p.n_panel, p.group);
    p.n_chunk = lk_ceil_div(p.rows.n, most < 1 ? 1 : most);
    return p;
}

static int64_t linear_items(const struct lk_linear *a)
{
    struct plan p = plan_of(a);
    return p.n_group * p.n_chunk;
}

/* One item's share of activation panels and weight panels. */
struct piece {
    int64_t row_begin, row_end; /* activation panels */
    int64_t begin, end;         /* weight panels */
};

/* The piece's activation panels against weight panel `panel`, and the next one when `two`. */
static void panel_rows(const struct lk_linear *a, const struct plan *plan, const struct piece *piece, int64_t panel,
                       bool two, struct lk_lane_best *best)
{
    int64_t n_pair = lk_cols_packed(a->a.cols) / 2, step = n_pair * PANEL, first = 0;
    const uint32_t *w = (const uint32_t *)a->w + panel * step;
    int64_t next = panel + 1 + two < plan->n_panel ? 1 + two : 0;
    struct lk_tiles tiles;
    for (int64_t ip = piece->row_begin; ip < piece->row_end; ip++) {
        int64_t row = lk_panel_begin(&plan->rows, ip);
        int r = lk_panel_rows(&plan->rows, ip);
        struct lk_product p = {
            .a = (const uint32_t *)a->a.data + row * n_pair,
            .w = w,
            .w2 = w + step,
            .cols = a->a.cols,
            .ahead = (const char *)(w + next * step),
        };
        if (ip == piece->row_begin)
            p.ahead_step = two ? 256 : 128;
        (two ? two_panels : one_panel)[r](&p, &tiles);
        struct lk_tile t = {tiles.tile[0], two ? 2 * PANEL : PANEL, r, row, panel};
        lk_epilogue(a, &t, best + first, put_tile);
        if (two) {
            t.v += PANEL;
            t.panel++;
            lk_epilogue(a, &t, best + first, put_tile);
        }
        first += r;
    }
}

static void linear(const struct lk_linear *a, int64_t begin, int64_t end)
{
    struct plan plan = plan_of(a);
    struct lk_lane_best best[HEAD_PANELS * ROWS];
    for (int64_t item = begin; item < end; item++) {
        int64_t chunk = item / plan.n_group, group = item % plan.n_group;
        struct piece piece = {
            .row_begin = plan.rows.n * chunk / plan.n_chunk,
            .row_end = plan.rows.n * (chunk + 1) / plan.n_chunk,
            .begin = group * plan.group,
            .end = lk_min((group + 1) * plan.group, plan.n_panel),
        };
        int64_t row = lk_panel_begin(&plan.rows, piece.row_begin);
        int64_t n_row = lk_panel_begin(&plan.rows, piece.row_end) - row;
        if (a->epilogue == LK_EP_HEAD)
            for (int64_t i = 0; i < n_row; i++)
                lk_best_init(&best[i]);
        for (int64_t panel = piece.begin; panel < piece.end;) {
            bool two = a->a.n_row <= PAIR_ROWS && panel + 1 < piece.end;
            panel_rows(a, &plan, &piece, panel, two, best);
            panel += 1 + two;
        }
        if (a->epilogue == LK_EP_HEAD)
            for (int64_t i = 0; i < n_row; i++)
                a->best[(row + i) * plan.n_group + group] = lk_best_finish(&best[i]);
    }
}

void lk_avx512_linear_init(struct lk_cpu *t)
{
    t->panel_cols = PANEL;
    t->weight_bytes = weight_bytes;
    t->pack = pack;
    t->linear_items = linear_items;
    t->linear = linear;
}
