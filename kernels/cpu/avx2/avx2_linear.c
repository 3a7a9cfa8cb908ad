/* y = tree over segments of (A W^T), with its epilogues. */
#include <math.h>

#include "kernels/cpu/avx2/avx2_epilogue.h"
#include "kernels/cpu/avx2/avx2_product.h"
#include "kernels/cpu/lk_transpose.h"

#define ROWS LK_AVX2_ROWS
#define PANEL LK_AVX2_PANEL
#define HEAD_PANELS 16  /* activation panels of one item of the head: their best stay in the first cache */
#define CHUNK_PANELS 16 /* activation panels of an item at least, where there are so many */
#define PAIR_ROWS 2     /* up to here two weight panels at a time, to hide the instruction's latency */

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

/* n <= 8 numbers of a source row from column k on, as f32, zeros behind them. */
static __m256 source8(const struct lk_pack *a, int64_t j, int64_t k, int64_t n)
{
    const char *row = a->row[j];
    if (!row)
        return _mm256_setzero_ps();
    if (a->type == LK_F32)
        return lk_load8((const float *)(const void *)(row + 4 * k), n);
    uint16_t half[8] = {0};
    memcpy(half, row + 2 * k, (size_t)lk_min(n, 8) * 2);
    return lk_widen8(half);
}

/* 16 bf16 numbers of a source row from column k on as pairs; n of them exist. */
static __m256i source16(const struct lk_pack *a, int64_t j, int64_t k, int64_t n)
{
    const char *row = a->row[j];
    uint16_t half[16] = {0};
    if (!row)
        return _mm256_setzero_si256();
    if (a->type == LK_BF16) {
        if (n >= 16)
            return _mm256_loadu_si256((const __m256i *)(const void *)(row + 2 * k));
        memcpy(half, row + 2 * k, (size_t)n * 2);
        return _mm256_loadu_si256((const __m256i *)half);
    }
    __m256i lo = _mm256_castps_si256(lk_rounded8(source8(a, j, k, n)));
    __m256i hi = _mm256_castps_si256(lk_rounded8(n > 8 ? source8(a, j, k + 8, n - 8) : _mm256_setzero_ps()));
    __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(lo, 16), _mm256_srli_epi32(hi, 16));
    return _mm256_permute4x64_epi64(packed, 0xd8);
}

/* Blocks of 8 words (of two columns in bf16) by 8 output columns, transposed in registers. */
LK_INLINE void pack(const struct lk_pack *a, const enum lk_type type)
{
    const struct lk_cols *c = a->cols;
    const int64_t per_word = type == LK_F32 ? 1 : 2, n_word = lk_cols_packed(c) / per_word;
    uint32_t *w = (uint32_t *)a->w + a->panel * PANEL * n_word;
    for (int s = 0; s < c->n_seg; s++) {
        uint32_t *to = w + c->packed[s] / per_word * PANEL;
        int64_t last = c->begin[s + 1], n_block = (c->packed[s + 1] - c->packed[s]) / (8 * per_word);
        for (int64_t block = 0; block < n_block; block++, to += 8 * PANEL) {
            int64_t k = c->begin[s] + block * 8 * per_word, n = last - k;
            for (int64_t j = 0; j < PANEL; j += 8) {
                __m256i from[8], turned[8];
                for (int i = 0; i < 8; i++)
                    from[i] = n <= 0           ? _mm256_setzero_si256()
                              : type == LK_F32 ? _mm256_castps_si256(source8(a, j + i, k, n))
                                               : source16(a, j + i, k, n);
                lk_transpose8(from, turned);
                for (int i = 0; i < 8; i++)
                    _mm256_storeu_si256((__m256i *)(to + i * PANEL + j), turned[i]);
            }
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

#define PRODUCT(R, N, type, suffix)                                                   \
    static void product##R##x##N##_##suffix(struct lk_product *p, struct lk_tiles *t) \
    {                                                                                 \
        lk_product_tile(R, N, type, p, t);                                            \
    }
#define PRODUCTS(type, suffix)                                                                                       \
    PRODUCT(1, 2, type, suffix)                                                                                      \
    PRODUCT(2, 2, type, suffix)                                                                                      \
    PRODUCT(3, 2, type, suffix)                                                                                      \
    PRODUCT(4, 2, type, suffix)                                                                                      \
    PRODUCT(5, 2, type, suffix)                                                                                      \
    PRODUCT(6, 2, type, suffix)                                                                                      \
    PRODUCT(1, 4, type, suffix)                                                                                      \
    PRODUCT(2, 4, type, suffix)                                                                                      \
    static void (*const one_panel_##suffix[])(struct lk_product *, struct lk_tiles *) = {NULL,                       \
                                                                                         product1x2_##suffix,        \
                                                                                         product2x2_##suffix,        \
                                                                                         product3x2_##suffix,        \
                                                                                         product4x2_##suffix,        \
                                                                                         product5x2_##suffix,        \
                                                                                         product6x2_##suffix};       \
    static void (*const two_panels_##suffix[])(struct lk_product *, struct lk_tiles *) = {NULL, product1x4_##suffix, \
                                                                                          product2x4_##suffix};
PRODUCTS(LK_F32, f32)
PRODUCTS(LK_BF16, bf16)

/* How the work is cut: items are chunks of activation panels by groups of weight panels, the groups running fastest. */
struct plan {
    struct lk_panels rows;
    int64_t n_panel, group, n_group, n_chunk;
};

static struct plan plan_of(const struct lk_linear *a)
{
    struct plan p = {.rows = lk_panels_of(a->a.n_row, ROWS), .n_panel = lk_ceil_div(a->n_out, PANEL), .group = 1};
    if (p.rows.n == 0)
        return p;
    int64_t panel_bytes = ROWS * (int64_t)sizeof(float) * lk_cols_packed(a->a.cols);
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

static int64_t linear_items(const struct lk_linear *a)
{
    if (a->q)
        return lk_avx2_packed_items(a);
    struct plan p = plan_of(a);
    return p.n_group * p.n_chunk;
}

/* One item's share of activation panels and weight panels. */
struct piece {
    int64_t row_begin, row_end; /* activation panels */
    int64_t begin, end;         /* weight panels */
    int64_t after;              /* the weight panel that is likely to be read after them */
};

LK_INLINE void epilogue(const struct lk_linear *a, struct lk_tile *t, struct lk_lane_best *best,
                        const enum lk_type type)
{
    if (a->epilogue == LK_EP_SWIGLU)
        lk_swiglu_tile(a, t, type);
    else if (a->epilogue == LK_EP_HEAD)
        lk_head_tile(a, t, best);
    else
        lk_store_tile(a, t);
}

/* The piece's activation panels against weight panel `panel`, and the next one when `two`. */
LK_INLINE void panel_rows(const struct lk_linear *a, const struct plan *plan, const struct piece *piece, int64_t panel,
                          struct lk_lane_best *best, const enum lk_type type)
{
    const int64_t elem = type == LK_F32 ? 4 : 2, line = type == LK_F32 ? 128 : 64;
    bool two = a->a.n_row <= PAIR_ROWS && panel + 1 < piece->end;
    int64_t n_col = lk_cols_packed(a->a.cols), step = n_col * PANEL * elem, first = 0;
    const char *w = (const char *)a->w + panel * step;
    int64_t next = (panel + 1 + two < piece->end ? panel + 1 + two : piece->after) - panel;
    struct lk_tiles tiles;
    for (int64_t ip = piece->row_begin; ip < piece->row_end; ip++) {
        int64_t row = lk_panel_begin(&plan->rows, ip);
        int r = lk_panel_rows(&plan->rows, ip);
        struct lk_product p = {.a = (const float *)a->a.data + row * n_col,
                               .w = w,
                               .w2 = w + step,
                               .cols = a->a.cols,
                               .ahead = lk_ahead_of(a, w + next * step, ip - piece->row_begin,
                                                    piece->row_end - piece->row_begin, n_col / 2, line),
                               .lora = a->lora,
                               .row = row,
                               .strip = panel * (PANEL / LK_LORA_STRIP)};
        if (type == LK_F32)
            (two ? two_panels_f32 : one_panel_f32)[r](&p, &tiles);
        else
            (two ? two_panels_bf16 : one_panel_bf16)[r](&p, &tiles);
        struct lk_tile t = {tiles.tile[0], two ? 2 * PANEL : PANEL, r, row, panel};
        epilogue(a, &t, best + first, type);
        if (two) {
            t.v += PANEL;
            t.panel++;
            epilogue(a, &t, best + first, type);
        }
        first += r;
    }
}

LK_INLINE void linear(const struct lk_linear *a, int64_t begin, int64_t end, const enum lk_type type)
{
    if (a->q) {
        lk_avx2_packed_linear(a, begin, end, type);
        return;
    }
    struct plan plan = plan_of(a);
    struct lk_lane_best best[HEAD_PANELS * ROWS];
    for (int64_t item = begin; item < end; item++) {
        int64_t chunk = item / plan.n_group, group = item % plan.n_group;
        struct piece piece = {
            .row_begin = plan.rows.n * chunk / plan.n_chunk,
            .row_end = plan.rows.n * (chunk + 1) / plan.n_chunk,
            .begin = group * plan.group,
            .end = lk_min((group + 1) * plan.group, plan.n_panel),
            .after = (item + 1 + (item + 1 < end ? 0 : a->skip_items)) % plan.n_group * plan.group,
        };
        int64_t row = lk_panel_begin(&plan.rows, piece.row_begin);
        int64_t n_row = lk_panel_begin(&plan.rows, piece.row_end) - row;
        bool is_head = a->epilogue == LK_EP_HEAD;
        for (int64_t i = 0; i < n_row && is_head; i++)
            lk_best_init(&best[i]);
        int64_t at_once = a->a.n_row <= PAIR_ROWS ? 2 : 1;
        for (int64_t panel = piece.begin; panel < piece.end; panel += at_once)
            panel_rows(a, &plan, &piece, panel, best, type);
        for (int64_t i = 0; i < n_row && is_head; i++)
            a->best[(row + i) * plan.n_group + group] = lk_best_finish(&best[i]);
    }
}

LK_BOTH_TYPES(linear, lk_linear)

static struct lk_lora_row lora_row_of(const struct lk_act *a, int64_t row)
{
    struct lk_row r = lk_row_of(a, row);
    return (struct lk_lora_row){r.at, r.step};
}

static void lora_read(const struct lk_lora_row *r, int64_t k, float x[32])
{
    for (int i = 0; i < 4; i++)
        memcpy(x + 8 * i, (const float *)r->at + (k / 8 + i) * r->step, 8 * sizeof *x);
}

LK_INLINE void lora_down(const struct lk_lora_down *a, int64_t begin, int64_t end, const enum lk_type type)
{
    lk_lora_down_rows(a, begin, end, lora_row_of, lora_read, type);
}

LK_BOTH_TYPES(lora_down, lk_lora_down)

void lk_avx2_linear_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->panel_cols = PANEL;
    t->weight_bytes = f32 ? weight_bytes_f32 : weight_bytes_bf16;
    t->pack = f32 ? pack_f32 : pack_bf16;
    t->packed_bytes = lk_avx2_packed_bytes;
    t->pack_codes = lk_avx2_pack_codes;
    t->linear_items = linear_items;
    t->linear = f32 ? linear_f32 : linear_bf16;
    t->lora_down = f32 ? lora_down_f32 : lora_down_bf16;
}
