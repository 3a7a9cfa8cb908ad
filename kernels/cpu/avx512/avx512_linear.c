/* y = tree over segments of (A W^T), with its epilogues. */
#include "kernels/cpu/avx512/avx512_epilogue.h"
#include "kernels/cpu/avx512/avx512_product.h"
#include "kernels/cpu/avx512/avx512_words.h"

#define ROWS LK_AVX512_ROWS
#define PANEL LK_AVX512_PANEL
#define HEAD_PANELS 8   /* activation panels of one item of the head: their best stay in the first cache */
#define CHUNK_PANELS 16 /* activation panels of an item at least, where there are so many */
#define PAIR_ROWS 4     /* up to here two weight panels at a time, to hide the instruction's latency */

static size_t weight_elems(int64_t n_out, const struct lk_cols *cols)
{
    return (size_t)(lk_ceil_div(n_out, PANEL) * PANEL * lk_cols_packed(cols));
}

static size_t weight_bytes_f32(int64_t n_out, const struct lk_cols *cols)
{
    return weight_elems(n_out, cols) * sizeof(float);
}

static size_t weight_bytes_bf16(int64_t n_out, const struct lk_cols *cols)
{
    return weight_elems(n_out, cols) * sizeof(uint16_t);
}

LK_INLINE void pack(const struct lk_pack *a, const enum lk_type type)
{
    const struct lk_cols *c = a->cols;
    const int per = lk_per_word(type);
    uint32_t *w = (uint32_t *)a->w + a->panel * PANEL * (lk_cols_packed(c) / per);
    for (int s = 0; s < c->n_seg; s++) {
        for (int64_t at = c->packed[s]; at < c->packed[s + 1]; at += 16 * per) {
            int64_t k = c->begin[s] + (at - c->packed[s]);
            uint32_t *to = w + at / per * PANEL;
            struct lk_source from = {a, 0, k, c->begin[s + 1] - k};
            for (; from.row < PANEL; from.row += 8)
                lk_pack_words8(&from, to + from.row, PANEL, type);
        }
    }
}

static void pack_f32(const struct lk_pack *a)
{
    pack(a, LK_F32);
}

static void pack_bf16(const struct lk_pack *a)
{
    pack(a, LK_BF16);
}

/* Where columns col .. col + 15 of `out` begin as words of a packed row; -1 when they are not whole words or zero
 * columns follow them. */
LK_INLINE int64_t whole_words(const struct lk_cols *c, int64_t col, const enum lk_type type)
{
    const int per = lk_per_word(type);
    if (col + 16 > c->n_col)
        return -1;
    int s = lk_cols_seg(c, col);
    int64_t at = c->packed[s] + (col - c->begin[s]), end = c->begin[s + 1];
    bool alone = col + 16 < end || (col + 16 == end && at + 16 == c->packed[s + 1]);
    return alone && at % per == 0 ? at / per : -1;
}

void lk_avx512_put_tile_f32(const struct lk_act *out, const struct lk_tile *t, int64_t col, int64_t n)
{
    int64_t at = whole_words(out->cols, col, LK_F32);
    if (at < 0) {
        for (int i = 0; i < t->r; i++)
            lk_avx512_put_cols_f32(out, t->row + i, col, t->v + i * t->ld, n);
        return;
    }
    struct lk_row to = lk_row_of(out, t->row, LK_F32);
    for (int w = 0; w < 16; w += 8)
        lk_put_words8(to.at + (at + w) * to.r, t->r, t->v + w, t->ld);
}

void lk_avx512_put_tile(const struct lk_act *out, const struct lk_tile *t, int64_t col, int64_t n)
{
    int64_t at = whole_words(out->cols, col, LK_BF16);
    if (at < 0) {
        for (int i = 0; i < t->r; i++)
            lk_avx512_put_cols(out, t->row + i, col, t->v + i * t->ld, n);
        return;
    }
    _Alignas(64) uint32_t word[ROWS][8];
    for (int i = 0; i < t->r; i++)
        _mm256_storeu_si256((__m256i *)word[i], (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(t->v + i * t->ld)));
    struct lk_row to = lk_row_of(out, t->row, LK_BF16);
    lk_put_words8(to.at + at * to.r, t->r, word[0], 8);
}

#define EACH_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)

#define PRODUCT(name, R, N, type)                                    \
    static void name(const struct lk_product *p, struct lk_tiles *t) \
    {                                                                \
        lk_product_tile(R, N, type, p, t);                           \
    }
#define ONE_PANEL(R) PRODUCT(product##R##_f32, R, 2, LK_F32) PRODUCT(product##R##_bf16, R, 2, LK_BF16)
#define TWO_PANELS(R) PRODUCT(product2_##R##_f32, R, 4, LK_F32) PRODUCT(product2_##R##_bf16, R, 4, LK_BF16)
EACH_ROWS(ONE_PANEL)
TWO_PANELS(1)
TWO_PANELS(2)
TWO_PANELS(3)
TWO_PANELS(4)

#define NAME_F32(R) product##R##_f32,
#define NAME_BF16(R) product##R##_bf16,
static void (*const one_panel[2][ROWS + 1])(const struct lk_product *, struct lk_tiles *) = {
    [LK_F32] = {NULL, EACH_ROWS(NAME_F32)},
    [LK_BF16] = {NULL, EACH_ROWS(NAME_BF16)},
};
static void (*const two_panels[2][PAIR_ROWS + 1])(const struct lk_product *, struct lk_tiles *) = {
    [LK_F32] = {NULL, product2_1_f32, product2_2_f32, product2_3_f32, product2_4_f32},
    [LK_BF16] = {NULL, product2_1_bf16, product2_2_bf16, product2_3_bf16, product2_4_bf16},
};

/* How the work is cut: items are chunks of activation panels by groups of weight panels, the groups running fastest. */
struct plan {
    struct lk_panels rows;
    int64_t n_panel, group, n_group, n_chunk;
};

LK_INLINE struct plan plan_of(const struct lk_linear *a, const enum lk_type type)
{
    struct plan p = {.rows = lk_panels_of(a->a.n_row, ROWS), .n_panel = lk_ceil_div(a->n_out, PANEL), .group = 1};
    if (p.rows.n == 0)
        return p;
    int64_t panel_bytes = ROWS * 4 * (lk_cols_packed(a->a.cols) / lk_per_word(type));
    int64_t most = lk_chunk_panels(a->l2_bytes, panel_bytes, CHUNK_PANELS);
    if (a->epilogue == LK_EP_HEAD) {
        p.group = LK_HEAD_BLOCK / PANEL;
        most = lk_min(most, HEAD_PANELS);
    } else if (a->a.n_row <= PAIR_ROWS) {
        p.group = 2;
    }
    p.n_group = lk_ceil_div(p.n_panel, p.group);
    p.n_chunk = lk_ceil_div(p.rows.n, most);
    return p;
}

static int64_t linear_items_f32(const struct lk_linear *a)
{
    if (a->q)
        return lk_avx512_packed_items(a, LK_F32);
    struct plan p = plan_of(a, LK_F32);
    return p.n_group * p.n_chunk;
}

static int64_t linear_items_bf16(const struct lk_linear *a)
{
    if (a->q)
        return lk_avx512_packed_items(a, LK_BF16);
    struct plan p = plan_of(a, LK_BF16);
    return p.n_group * p.n_chunk;
}

/* One item's share of activation panels and weight panels. */
struct piece {
    int64_t row_begin, row_end; /* activation panels */
    int64_t begin, end;         /* weight panels */
    int64_t after;              /* the weight panel that is likely to be read after them */
    struct lk_lane_best *best;  /* LK_EP_HEAD: of the rows */
};

/* The piece's activation panels against weight panel `panel`, and the next one when `two`. */
LK_INLINE void panel_rows(const struct lk_linear *a, const struct plan *plan, const struct piece *piece, int64_t panel,
                          bool two, const enum lk_type type)
{
    int64_t n_word = lk_cols_packed(a->a.cols) / lk_per_word(type), step = n_word * PANEL, first = 0;
    const uint32_t *w = (const uint32_t *)a->w + panel * step;
    int64_t next = (panel + 1 + two < piece->end ? panel + 1 + two : piece->after) - panel;
    struct lk_tiles tiles;
    for (int64_t ip = piece->row_begin; ip < piece->row_end; ip++) {
        int64_t row = lk_panel_begin(&plan->rows, ip);
        int r = lk_panel_rows(&plan->rows, ip);
        struct lk_product p = {
            .a = (const uint32_t *)a->a.data + row * n_word,
            .w = w,
            .w2 = w + step,
            .cols = a->a.cols,
            .ahead = lk_ahead_of(a, (const char *)(w + next * step), ip - piece->row_begin,
                                 piece->row_end - piece->row_begin, n_word, PANEL * 4),
            .beside = lk_beside_of(a, panel * plan->rows.n + ip, w),
            .lora = a->lora,
            .row = row,
            .strip = panel * (PANEL / LK_LORA_STRIP),
        };
        (two ? two_panels[type] : one_panel[type])[r](&p, &tiles);
        struct lk_tile t = {tiles.tile[0], two ? 2 * PANEL : PANEL, r, row, panel};
        for (int i = 0; i <= two; i++, t.v += PANEL, t.panel++)
            lk_epilogue(a, &t, piece->best + first, type);
        first += r;
    }
}

LK_INLINE void linear(const struct lk_linear *a, int64_t begin, int64_t end, const enum lk_type type)
{
    if (a->q) {
        lk_avx512_packed_linear(a, begin, end, type);
        return;
    }
    struct plan plan = plan_of(a, type);
    struct lk_lane_best best[HEAD_PANELS * ROWS];
    for (int64_t item = begin; item < end; item++) {
        int64_t chunk = item / plan.n_group, group = item % plan.n_group;
        struct piece piece = {
            .row_begin = plan.rows.n * chunk / plan.n_chunk,
            .row_end = plan.rows.n * (chunk + 1) / plan.n_chunk,
            .begin = group * plan.group,
            .end = lk_min((group + 1) * plan.group, plan.n_panel),
            .after = (item + 1 + (item + 1 < end ? 0 : a->skip_items)) % plan.n_group * plan.group,
            .best = best,
        };
        int64_t row = lk_panel_begin(&plan.rows, piece.row_begin);
        int64_t n_row = lk_panel_begin(&plan.rows, piece.row_end) - row;
        if (a->epilogue == LK_EP_HEAD)
            for (int64_t i = 0; i < n_row; i++)
                lk_best_init(&best[i]);
        for (int64_t panel = piece.begin; panel < piece.end;) {
            bool two = a->a.n_row <= PAIR_ROWS && panel + 1 < piece.end;
            panel_rows(a, &plan, &piece, panel, two, type);
            panel += 1 + two;
        }
        if (a->epilogue == LK_EP_HEAD)
            for (int64_t i = 0; i < n_row; i++)
                a->best[(row + i) * plan.n_group + group] = lk_best_finish(&best[i]);
    }
}
LK_BOTH_TYPES(linear, lk_linear)

static struct lk_lora_row lora_row_of_f32(const struct lk_act *a, int64_t row)
{
    struct lk_row r = lk_row_of(a, row, LK_F32);
    return (struct lk_lora_row){r.at, r.r};
}

static struct lk_lora_row lora_row_of_bf16(const struct lk_act *a, int64_t row)
{
    struct lk_row r = lk_row_of(a, row, LK_BF16);
    return (struct lk_lora_row){r.at, r.r};
}

static void lora_read_f32(const struct lk_lora_row *r, int64_t k, float x[32])
{
    for (int i = 0; i < 32; i++)
        x[i] = lk_float(((const uint32_t *)r->at)[(k + i) * r->step]);
}

static void lora_read_bf16(const struct lk_lora_row *r, int64_t k, float x[32])
{
    for (int i = 0; i < 16; i++) {
        uint32_t word = ((const uint32_t *)r->at)[(k / 2 + i) * r->step];
        x[2 * i] = lk_float(word << 16);
        x[2 * i + 1] = lk_float(word & 0xffff0000u);
    }
}

static void lora_down_f32(const struct lk_lora_down *a, int64_t begin, int64_t end)
{
    lk_lora_down_rows(a, begin, end, lora_row_of_f32, lora_read_f32, LK_F32);
}

static void lora_down_bf16(const struct lk_lora_down *a, int64_t begin, int64_t end)
{
    lk_lora_down_rows(a, begin, end, lora_row_of_bf16, lora_read_bf16, LK_BF16);
}

void lk_avx512_linear_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->panel_cols = PANEL;
    t->tile_rows = ROWS;
    t->weight_bytes = f32 ? weight_bytes_f32 : weight_bytes_bf16;
    t->pack = f32 ? pack_f32 : pack_bf16;
    t->packed_bytes = lk_avx512_packed_bytes;
    t->pack_codes = f32 ? lk_avx512_pack_codes_f32 : lk_avx512_pack_codes_bf16;
    t->linear_items = f32 ? linear_items_f32 : linear_items_bf16;
    t->linear = f32 ? linear_f32 : linear_bf16;
    t->lora_down = f32 ? lora_down_f32 : lora_down_bf16;
}
