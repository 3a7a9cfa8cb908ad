/* y = tree over segments of (A W^T), with its epilogues. */
#include <math.h>

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

/* What one register tile gives: r rows from row `row`, the columns of weight panel `panel`. */
struct tile {
    float *v; /* row i at v + i * ld: 32 numbers */
    int ld, r;
    int64_t row, panel;
};

static void store(const struct lk_linear *a, const struct tile *t)
{
    int64_t col = t->panel * PANEL;
    __mmask16 m0 = lk_mask16(a->n_out - col), m1 = lk_mask16(a->n_out - col - 16);
    __m512 b0 = _mm512_setzero_ps(), b1 = b0;
    if (a->bias) {
        b0 = _mm512_maskz_loadu_ps(m0, a->bias + col);
        b1 = _mm512_maskz_loadu_ps(m1, a->bias + col + 16);
    }
    for (int i = 0; i < t->r; i++) {
        float *y = a->y + (t->row + i) * a->n_out + col;
        __m512 v0 = _mm512_loadu_ps(t->v + i * t->ld), v1 = _mm512_loadu_ps(t->v + i * t->ld + 16);
        if (a->bias) {
            v0 = _mm512_add_ps(v0, b0);
            v1 = _mm512_add_ps(v1, b1);
        }
        if (a->epilogue == LK_EP_ADD) {
            v0 = _mm512_add_ps(_mm512_maskz_loadu_ps(m0, y), v0);
            v1 = _mm512_add_ps(_mm512_maskz_loadu_ps(m1, y + 16), v1);
        }
        if (m1 == 0xffff) {
            _mm512_storeu_ps(y, v0);
            _mm512_storeu_ps(y + 16, v1);
        } else {
            _mm512_mask_storeu_ps(y, m0, v0);
            _mm512_mask_storeu_ps(y + 16, m1, v1);
        }
    }
}

LK_INLINE __m512 swiglu16(__m512 g, __m512 u)
{
    __m512 e = lk_exp(_mm512_sub_ps(_mm512_setzero_ps(), g));
    return _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1), e)), u);
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

static void swiglu(const struct lk_linear *a, const struct tile *t)
{
    int64_t ffn = a->n_out / 2, col = t->panel * 16, n = lk_min(16, ffn - col);
    int64_t at = whole_words(a->out.cols, col);
    __mmask16 m = lk_mask16(n);
    __m512 bg = _mm512_setzero_ps(), bu = bg;
    if (a->bias) {
        bg = _mm512_maskz_loadu_ps(m, a->bias + col);
        bu = _mm512_maskz_loadu_ps(m, a->bias + ffn + col);
    }
    _Alignas(64) uint32_t word[ROWS][8];
    for (int i = 0; i < t->r; i++) {
        __m512 g = _mm512_loadu_ps(t->v + i * t->ld), u = _mm512_loadu_ps(t->v + i * t->ld + 16);
        if (a->bias) {
            g = _mm512_add_ps(g, bg);
            u = _mm512_add_ps(u, bu);
        }
        __m512 y = swiglu16(g, u);
        if (at >= 0) {
            _mm256_storeu_si256((__m256i *)word[i], (__m256i)_mm512_cvtneps_pbh(y));
        } else {
            float v[16];
            _mm512_storeu_ps(v, y);
            lk_avx512_put_cols(&a->out, t->row + i, col, v, n);
        }
    }
    if (at < 0)
        return;
    struct lk_row to = lk_row_of(&a->out, t->row);
    lk_put_words8(to.at + at * to.r, t->r, word[0], 8);
}

/* Running best of a row over a vocabulary block: by lane, and apart from them the tiles with numbers that are not
 * finite, which are rare and taken one by one. */
struct lane_best {
    _Alignas(64) float value[16];
    int32_t id[16];
    struct lk_best odd;
};

static void best_init(struct lane_best *b)
{
    _mm512_storeu_ps(b->value, _mm512_set1_ps(-INFINITY));
    _mm512_storeu_si512(b->id, _mm512_set1_epi32(-1));
    b->odd = (struct lk_best){-INFINITY, -1, true};
}

static void best_take_one(struct lk_best *b, float x, int32_t id)
{
    if (id >= 0 && (b->id < 0 || x > b->value || (x == b->value && id < b->id))) {
        b->value = x;
        b->id = id;
    }
}

static void best_take_odd(struct lk_best *b, const float *v, int64_t n, int64_t col)
{
    b->finite = false;
    for (int64_t j = 0; j < n; j++)
        if (v[j] == v[j])
            best_take_one(b, v[j], (int32_t)(col + j));
}

/* 16 columns; m: those that exist. */
LK_INLINE void best_take(struct lane_best *b, __m512 v, __mmask16 m, int64_t col)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (__builtin_expect(_mm512_mask_fpclass_ps_mask(m, v, 0x99) != 0, 0)) { /* NaN, infinity */
        float x[16];
        _mm512_storeu_ps(x, v);
        best_take_odd(&b->odd, x, __builtin_popcount(m), col);
        return;
    }
    __m512 value = _mm512_loadu_ps(b->value);
    __mmask16 more = _mm512_mask_cmp_ps_mask(m, v, value, _CMP_GT_OQ);
    __m512i id = _mm512_add_epi32(_mm512_set1_epi32((int32_t)col), lane);
    _mm512_storeu_ps(b->value, _mm512_mask_mov_ps(value, more, v));
    _mm512_storeu_si512(b->id, _mm512_mask_mov_epi32(_mm512_loadu_si512(b->id), more, id));
}

static struct lk_best best_finish(const struct lane_best *b)
{
    struct lk_best best = b->odd;
    for (int i = 0; i < 16; i++)
        best_take_one(&best, b->value[i], b->id[i]);
    return best;
}

/* A tile of 32 existing columns without NaN or infinity: the larger of lanes j and j + 16, then against the best. */
LK_INLINE void best_take_tile(const struct tile *t, struct lane_best *best)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i id0 = _mm512_add_epi32(_mm512_set1_epi32((int32_t)(t->panel * PANEL)), lane);
    __m512i id1 = _mm512_add_epi32(id0, _mm512_set1_epi32(16));
    for (int i = 0; i < t->r; i++) {
        __m512 v0 = _mm512_loadu_ps(t->v + i * t->ld), v1 = _mm512_loadu_ps(t->v + i * t->ld + 16);
        __mmask16 right = _mm512_cmp_ps_mask(v1, v0, _CMP_GT_OQ);
        __m512 v = _mm512_max_ps(v1, v0), value = _mm512_loadu_ps(best[i].value);
        __m512i id = _mm512_mask_mov_epi32(id0, right, id1);
        __mmask16 more = _mm512_cmp_ps_mask(v, value, _CMP_GT_OQ);
        _mm512_storeu_ps(best[i].value, _mm512_max_ps(v, value));
        _mm512_storeu_si512(best[i].id, _mm512_mask_mov_epi32(_mm512_loadu_si512(best[i].id), more, id));
    }
}

/* Whether every number of the tile is finite. A sum of two that is not makes the caller look closer, no more. */
static bool finite_tile(const struct tile *t)
{
    unsigned odd = 0;
    for (int i = 0; i < t->r; i++) {
        __m512 v = _mm512_add_ps(_mm512_loadu_ps(t->v + i * t->ld), _mm512_loadu_ps(t->v + i * t->ld + 16));
        odd |= _mm512_fpclass_ps_mask(v, 0x99);
    }
    return odd == 0;
}

static void head_logits(const struct lk_linear *a, const struct tile *t)
{
    int64_t col = t->panel * PANEL;
    __mmask16 m0 = lk_mask16(a->n_out - col), m1 = lk_mask16(a->n_out - col - 16);
    for (int i = 0; i < t->r; i++) {
        if (!a->logits[t->row + i])
            continue;
        float *to = a->logits[t->row + i] + col;
        _mm512_mask_storeu_ps(to, m0, _mm512_loadu_ps(t->v + i * t->ld));
        _mm512_mask_storeu_ps(to + 16, m1, _mm512_loadu_ps(t->v + i * t->ld + 16));
    }
}

static void head(const struct lk_linear *a, struct tile *t, struct lane_best *best)
{
    int64_t col = t->panel * PANEL;
    if (a->bias) {
        __m512 b0 = _mm512_maskz_loadu_ps(lk_mask16(a->n_out - col), a->bias + col);
        __m512 b1 = _mm512_maskz_loadu_ps(lk_mask16(a->n_out - col - 16), a->bias + col + 16);
        for (float *v = t->v; v < t->v + t->r * t->ld; v += t->ld) {
            _mm512_storeu_ps(v, _mm512_add_ps(_mm512_loadu_ps(v), b0));
            _mm512_storeu_ps(v + 16, _mm512_add_ps(_mm512_loadu_ps(v + 16), b1));
        }
    }
    if (a->logits)
        head_logits(a, t);
    if (col + PANEL <= a->n_out && finite_tile(t)) {
        best_take_tile(t, best);
        return;
    }
    for (int i = 0; i < t->r; i++)
        for (int h = 0; h < 2; h++)
            best_take(&best[i], _mm512_loadu_ps(t->v + i * t->ld + h * 16), lk_mask16(a->n_out - col - h * 16),
                      col + h * 16);
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

static void epilogue(const struct lk_linear *a, struct tile *t, struct lane_best *best)
{
    if (a->epilogue == LK_EP_SWIGLU)
        swiglu(a, t);
    else if (a->epilogue == LK_EP_HEAD)
        head(a, t, best);
    else
        store(a, t);
}

/* The piece's activation panels against weight panel `panel`, and the next one when `two`. */
static void panel_rows(const struct lk_linear *a, const struct plan *plan, const struct piece *piece, int64_t panel,
                       bool two, struct lane_best *best)
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
        struct tile t = {tiles.tile[0], two ? 2 * PANEL : PANEL, r, row, panel};
        epilogue(a, &t, best + first);
        if (two) {
            t.v += PANEL;
            t.panel++;
            epilogue(a, &t, best + first);
        }
        first += r;
    }
}

static void linear(const struct lk_linear *a, int64_t begin, int64_t end)
{
    struct plan plan = plan_of(a);
    struct lane_best best[HEAD_PANELS * ROWS];
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
                best_init(&best[i]);
        for (int64_t panel = piece.begin; panel < piece.end;) {
            bool two = a->a.n_row <= PAIR_ROWS && panel + 1 < piece.end;
            panel_rows(a, &plan, &piece, panel, two, best);
            panel += 1 + two;
        }
        if (a->epilogue == LK_EP_HEAD)
            for (int64_t i = 0; i < n_row; i++)
                a->best[(row + i) * plan.n_group + group] = best_finish(&best[i]);
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
