/* Products in int8. VNNI multiplies bytes without sign by bytes with one and adds four products to 32 bits (vpdpbusd),
 * so activations are stored with 128 added, and sums begin with what that is too much. Layouts:
 *   activations  panels of up to 12 rows as the set's own; in a panel of r rows word w of row i, four columns, is at
 *                w * r + i, a segment's to a multiple of 64 columns; then scales, [n_row, n_seg]
 *   weights      panels of 32 output columns, [columns / 4, 32, 4] int8, their scales and where sums begin */
#include "kernels/cpu/avx512/avx512_epilogue.h"
#include "kernels/cpu/avx512/avx512_screen.h"
#include "kernels/cpu/lk_int8.h"
#include "kernels/cpu/lk_lora.h"

#define ROWS LK_AVX512_ROWS
#define PANEL LK_AVX512_PANEL

static int64_t place(int64_t k, int64_t j)
{
    return k * PANEL + 4 * j;
}

static const struct lk_int8_order order = {.panel = PANEL, .run = 4, .corrected = true, .at = place};

static size_t weight_bytes(int64_t n_out, const struct lk_cols *cols)
{
    return lk_int8_weight_bytes(n_out, cols, &order);
}

static size_t act_bytes(int64_t n_row, const struct lk_cols *cols)
{
    return lk_int8_act_bytes(n_row, cols, 1);
}

static void pack(const struct lk_pack *a)
{
    lk_int8_pack(a, &order);
}

/* An item is a panel. */
static int64_t quantize_items(const struct lk_quantize *a)
{
    return lk_panels_of(a->a.n_row, ROWS).n;
}

/* A segment of a panel: n columns of r rows, words as the set has them. */
struct segment_panel {
    const uint32_t *word;
    int64_t n;
    int r;
};

/* x[k] = column at + k of all rows, mixed: a lane is a row, so that no stage looks into a vector. */
LK_INLINE void mixed(const struct segment_panel *s, int64_t at, __m512 x[LK_INT8_BLOCK], const enum lk_type type)
{
    const __mmask16 rows = lk_mask16(s->r);
    const int per = lk_per_word(type);
    int64_t n = lk_min(LK_INT8_BLOCK, s->n - at);
    for (int64_t k = 0; k < LK_INT8_BLOCK; k += per) {
        __m512 v = k < n ? _mm512_maskz_loadu_ps(rows, s->word + (at + k) / per * s->r) : _mm512_setzero_ps();
        x[k] = type == LK_F32 ? v : lk_widen_low((__m512i)v);
        if (type == LK_BF16)
            x[k + 1] = lk_widen_high((__m512i)v);
    }
    for (int h = 1; h < LK_INT8_BLOCK; h *= 2) {
        for (int i = 0; i < LK_INT8_BLOCK; i += 2 * h) {
            for (int k = i; k < i + h; k++) {
                __m512 u = x[k], v = x[k + h];
                x[k] = _mm512_add_ps(u, v);
                x[k + h] = _mm512_sub_ps(u, v);
            }
        }
    }
}

/* Writes the words and, of row i, scale[i * scale_ld]. */
LK_INLINE void quantize_segment(const struct segment_panel *s, uint32_t *to, float *scale, int64_t scale_ld,
                                const enum lk_type type)
{
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff), half = _mm512_set1_epi32(128);
    __m512i most = _mm512_setzero_si512();
    __m512 x[LK_INT8_BLOCK];
    for (int64_t at = 0; at < s->n; at += LK_INT8_BLOCK) {
        mixed(s, at, x, type);
        for (int k = 0; k < LK_INT8_BLOCK; k++)
            most = _mm512_max_epu32(most, _mm512_and_si512((__m512i)x[k], no_sign));
    }
    _Alignas(64) uint32_t each[16];
    _Alignas(64) float inverses[16] = {0};
    _mm512_storeu_si512(each, most);
    for (int i = 0; i < s->r; i++) {
        struct lk_int8_scale of = lk_int8_scale_of(each[i]);
        scale[i * scale_ld] = of.s;
        inverses[i] = of.inverse;
    }
    __m512 inverse = _mm512_loadu_ps(inverses);
    for (int64_t at = 0; at < s->n; at += LK_INT8_BLOCK) {
        mixed(s, at, x, type);
        for (int k = 0; k < LK_INT8_BLOCK; k += 4, to += s->r) {
            __m512i word = _mm512_setzero_si512();
            for (int b = 3; b >= 0; b--) {
                __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(x[k + b], inverse));
                word = _mm512_add_epi32(_mm512_slli_epi32(word, 8), _mm512_add_epi32(q, half));
            }
            _mm512_mask_storeu_epi32(to, lk_mask16(s->r), word);
        }
    }
}

LK_INLINE void quantize(const struct lk_quantize *a, int64_t begin, int64_t end, const enum lk_type type)
{
    const struct lk_cols *c = a->a.cols;
    const struct lk_panels panels = lk_panels_of(a->a.n_row, ROWS);
    int64_t n_word = lk_cols_packed(c) / lk_per_word(type), n_to = lk_int8_cols(c) / 4;
    float *scales = (float *)(void *)((uint32_t *)a->q + a->a.n_row * n_to);
    for (int64_t ip = begin; ip < end; ip++) {
        int64_t row = lk_panel_begin(&panels, ip);
        int r = lk_panel_rows(&panels, ip);
        const uint32_t *from = (const uint32_t *)a->a.data + row * n_word;
        uint32_t *to = (uint32_t *)a->q + row * n_to;
        for (int s = 0; s < c->n_seg; s++) {
            struct segment_panel segment = {from + c->packed[s] / lk_per_word(type) * r,
                                            c->packed[s + 1] - c->packed[s], r};
            quantize_segment(&segment, to + lk_int8_begin(c, s) / 4 * r, scales + row * c->n_seg + s, c->n_seg, type);
        }
    }
}
LK_BOTH_TYPES(quantize, lk_quantize)

/* An activation panel against a weight panel. */
struct int8_product {
    const uint32_t *a;    /* what comes next of it */
    const float *a_scale; /* [r, n_seg] */
    const int8_t *w;      /* likewise */
    const float *w_scale; /* [n_seg, 32]; then where sums begin, the same */
    const struct lk_cols *cols;
    const char *ahead; /* memory that will be read next: as much as is read is fetched into the second cache */
    int64_t ahead_step;
    const struct lk_lora *lora; /* NULL: none */
    int64_t row, strip;         /* the tile's first row, its first columns in strips of adapters */
    enum lk_type type;          /* of adapters */
};

/* Tiles on the way up the tree; the result is tile[0]. */
struct int8_tiles {
    _Alignas(64) float tile[LK_TREE_DEPTH][ROWS * PANEL];
};

/* The next n columns, a segment. 2^16 products of bytes fit 32 bits. */
LK_INLINE void sums(const int R, struct int8_product *p, int64_t n, const int32_t *begin, __m512i acc[ROWS][2])
{
    const uint32_t *a = p->a;
    const int8_t *w = p->w;
    const char *ahead = p->ahead;
#pragma GCC unroll 12
    for (int i = 0; i < R; i++) {
        acc[i][0] = _mm512_loadu_si512(begin);
        acc[i][1] = _mm512_loadu_si512(begin + 16);
    }
    for (int64_t k = 0; k < n; k += 4, a += R, w += 4 * PANEL) {
        _mm_prefetch(ahead, _MM_HINT_T1);
        _mm_prefetch(ahead + 64, _MM_HINT_T1);
        ahead += p->ahead_step;
        __m512i b0 = _mm512_loadu_si512(w), b1 = _mm512_loadu_si512(w + 64);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            __m512i x = _mm512_set1_epi32((int)a[i]);
            LK_DOT(acc[i][0], x, b0);
            LK_DOT(acc[i][1], x, b1);
        }
    }
    p->a = a;
    p->w = w;
    p->ahead = ahead;
}

/* Adapters' part of a segment's sums v. */
LK_INLINE void add_adapters(const int R, const struct int8_product *p, int s, __m512 v[ROWS][2])
{
    _Alignas(64) float sum[ROWS * PANEL];
    const struct lk_lora_tile tile = {sum, p->row, p->strip, R, PANEL / LK_LORA_STRIP};
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
        for (int j = 0; j < 2; j++)
            _mm512_storeu_ps(sum + (i * 2 + j) * 16, v[i][j]);
    if (p->type == LK_F32)
        lk_lora_leaf(p->lora, s, &tile, LK_F32);
    else
        lk_lora_leaf(p->lora, s, &tile, LK_BF16);
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
        for (int j = 0; j < 2; j++)
            v[i][j] = _mm512_loadu_ps(sum + (i * 2 + j) * 16);
}

LK_INLINE void product_tile(const int R, struct int8_product *p, struct int8_tiles *t)
{
    const struct lk_cols *cols = p->cols;
    const int32_t *begin = (const int32_t *)(const void *)(p->w_scale + cols->n_seg * PANEL);
    int wait = 0;
    for (int s = 0; s < cols->n_seg; s++) {
        __m512i acc[ROWS][2];
        __m512 v[ROWS][2], scale[2];
        sums(R, p, lk_int8_width(cols, s), begin + s * PANEL, acc);
        for (int j = 0; j < 2; j++)
            scale[j] = _mm512_loadu_ps(p->w_scale + s * PANEL + 16 * j);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            __m512 x = _mm512_set1_ps(p->a_scale[i * cols->n_seg + s]);
            for (int j = 0; j < 2; j++)
                v[i][j] = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[i][j]), _mm512_mul_ps(x, scale[j]));
        }
        if (p->lora)
            add_adapters(R, p, s, v);
        for (int n = lk_merges(cols, s); n > 0; n--) {
            const float *left = t->tile[--wait];
#pragma GCC unroll 12
            for (int i = 0; i < R; i++)
                for (int j = 0; j < 2; j++)
                    v[i][j] = _mm512_add_ps(_mm512_loadu_ps(left + (i * 2 + j) * 16), v[i][j]);
        }
        float *to = t->tile[wait++];
#pragma GCC unroll 12
        for (int i = 0; i < R; i++)
            for (int j = 0; j < 2; j++)
                _mm512_storeu_ps(to + (i * 2 + j) * 16, v[i][j]);
    }
}

#define EACH_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#define PRODUCT(R)                                                                \
    static void product##R##_int8(struct int8_product * p, struct int8_tiles * t) \
    {                                                                             \
        product_tile(R, p, t);                                                    \
    }
#define NAME(R) product##R##_int8,
EACH_ROWS(PRODUCT)
static void (*const products[ROWS + 1])(struct int8_product *, struct int8_tiles *) = {NULL, EACH_ROWS(NAME)};

static struct lk_int8_plan plan_of(const struct lk_linear *a)
{
    return lk_int8_plan_of(a, &order, ROWS, 1);
}

static int64_t linear_items(const struct lk_linear *a)
{
    struct lk_int8_plan p = plan_of(a);
    return p.n_panel * p.n_chunk;
}

LK_INLINE void panel_rows(const struct lk_linear *a, const struct lk_int8_plan *plan, const struct lk_int8_item *item,
                          const enum lk_type type)
{
    const struct lk_cols *c = a->a.cols;
    int64_t n_col = lk_int8_cols(c), step = lk_int8_panel_bytes(c, &order);
    const int8_t *w = (const int8_t *)a->w + item->panel * step;
    const float *scales = (const float *)(const void *)((const int8_t *)a->a.data + a->a.n_row * n_col);
    int64_t ahead_step = lk_ceil_div(4 * PANEL, item->last - item->first);
    struct int8_tiles tiles;
    for (int64_t ip = item->first; ip < item->last; ip++) {
        int64_t row = lk_panel_begin(&plan->rows, ip);
        int r = lk_panel_rows(&plan->rows, ip);
        struct int8_product p = {.a = (const uint32_t *)a->a.data + row * (n_col / 4),
                                 .a_scale = scales + row * c->n_seg,
                                 .w = w,
                                 .w_scale = (const float *)(const void *)(w + PANEL * n_col),
                                 .cols = c,
                                 .ahead = (const char *)a->w + item->next * step +
                                          (ip - item->first) * ahead_step * (n_col / 4),
                                 .ahead_step = ahead_step,
                                 .lora = a->lora,
                                 .row = row,
                                 .strip = item->panel * (PANEL / LK_LORA_STRIP),
                                 .type = type};
        products[r](&p, &tiles);
        struct lk_tile t = {tiles.tile[0], PANEL, r, row, item->panel};
        lk_epilogue(a, &t, NULL, type);
    }
}

LK_INLINE void linear(const struct lk_linear *a, int64_t begin, int64_t end, const enum lk_type type)
{
    struct lk_int8_plan plan = plan_of(a);
    for (int64_t i = begin; i < end; i++) {
        struct lk_int8_item item = lk_int8_item_of(a, &plan, i, end);
        panel_rows(a, &plan, &item, type);
    }
}
LK_BOTH_TYPES(linear, lk_linear)

static void norms(const void *row, enum lk_type type, const struct lk_cols *cols, struct lk_int8_norms *out)
{
    lk_norms(row, type, cols, out);
}

void lk_avx512_int8_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->int8 = (struct lk_int8){.weight_bytes = weight_bytes,
                               .act_bytes = act_bytes,
                               .pack = pack,
                               .quantize_items = quantize_items,
                               .quantize = f32 ? quantize_f32 : quantize_bf16,
                               .linear_items = linear_items,
                               .linear = f32 ? linear_f32 : linear_bf16,
                               .norms = norms,
                               .screen = lk_avx512_screen};
}
