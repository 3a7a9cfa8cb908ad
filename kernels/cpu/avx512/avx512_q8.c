/* Products by activations of 8 bits. VNNI multiplies bytes without sign by bytes with one and adds four products to 32
 * bits (vpdpbusd): codes are the former as they come out of their words, activations the latter. Layouts:
 *   activations  panels of up to 12 rows as the set's own; of a panel of r rows block after block of 32 columns: words
 * of 4 columns, [8, r]; the blocks' scales s, s X, -8 X, and -8 X of the first 16 columns alone, [4, r] weights panels
 * of 32 output columns, codes by byte (lk_packed.h) */
#include "kernels/cpu/avx512/avx512_epilogue.h"
#include "kernels/cpu/avx512/avx512_unpack.h"
#include "kernels/cpu/lk_int8.h"
#include "kernels/cpu/lk_lora.h"

#define ROWS LK_AVX512_ROWS
#define PANEL LK_AVX512_PANEL
#define WORDS (LK_BLOCK / 4) /* of a row's block; what follows them: */
enum { SCALE = WORDS, SCALED_SUM, SUM, FIRST_SUM, RECORD };
#define BLOCKS 16 /* of a panel of rows that an item quantizes */

static size_t act_bytes(int64_t n_row, const struct lk_cols *cols)
{
    return (size_t)(n_row * (lk_cols_packed(cols) / LK_BLOCK) * RECORD) * sizeof(uint32_t);
}

static void pack_codes(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_BYTE);
}

static int64_t pieces_of(const struct lk_quantize *a)
{
    return lk_ceil_div(lk_cols_packed(a->a.cols), BLOCKS * LK_BLOCK);
}

static int64_t quantize_items(const struct lk_quantize *a)
{
    return lk_panels_of(a->a.n_row, ROWS).n * pieces_of(a);
}

/* 1 and 127 over m, both by the scalar's formulas (lk_int8_scale_of). */
struct scales {
    __m512 s, inverse;
};

LK_INLINE struct scales scales_of(__m512i most)
{
    const __m512 m = _mm512_castsi512_ps(most), full = _mm512_set1_ps(127);
    const __mmask16 none = _mm512_cmp_ps_mask(_mm512_set1_ps(0x1p-120f), m, _CMP_GT_OQ);
    const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_set1_ps(INFINITY), m, _CMP_GT_OQ);
    const __m512 s = _mm512_mask_mov_ps(_mm512_set1_ps(NAN), finite, _mm512_div_ps(m, full));
    return (struct scales){_mm512_maskz_mov_ps((__mmask16)~none, s),
                           _mm512_maskz_mov_ps((__mmask16)(finite & ~none), _mm512_div_ps(full, m))};
}

/* Four columns as bytes of a word; adds them to *sum. */
LK_INLINE __m512i word_of(const __m512 x[4], __m512 inverse, __m512i *sum)
{
    const __m512i byte = _mm512_set1_epi32(255);
    __m512i word = _mm512_setzero_si512();
    for (int b = 3; b >= 0; b--) {
        const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(x[b], inverse));
        *sum = _mm512_add_epi32(*sum, q);
        word = _mm512_or_si512(_mm512_slli_epi32(word, 8), _mm512_and_si512(q, byte));
    }
    return word;
}

/* One block of r rows, words as the set has them: a lane is a row. */
LK_INLINE void quantize_block(const uint32_t *from, int r, uint32_t *to, const enum lk_type type)
{
    const __mmask16 rows = lk_mask16(r);
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff), zero = _mm512_setzero_si512();
    const int per = lk_per_word(type);
    __m512i most = zero, sum[2];
    __m512 x[LK_BLOCK];
    for (int k = 0; k < LK_BLOCK; k += per) {
        const __m512 v = _mm512_maskz_loadu_ps(rows, from + k / per * r);
        x[k] = type == LK_F32 ? v : lk_widen_low((__m512i)v);
        if (type == LK_BF16)
            x[k + 1] = lk_widen_high((__m512i)v);
    }
    for (int k = 0; k < LK_BLOCK; k++)
        most = _mm512_max_epu32(most, _mm512_and_si512((__m512i)x[k], no_sign));
    const struct scales of = scales_of(most);
    __m512i all = zero;
    for (int w = 0; w < WORDS; w++) {
        _mm512_mask_storeu_epi32(to + w * r, rows, word_of(x + 4 * w, of.inverse, &all));
        sum[w / (WORDS / 2)] = all;
    }
    const __m512 scaled = _mm512_mul_ps(of.s, _mm512_cvtepi32_ps(all));
    _mm512_mask_storeu_epi32(to + SCALE * r, rows, (__m512i)of.s);
    _mm512_mask_storeu_epi32(to + SCALED_SUM * r, rows, (__m512i)scaled);
    _mm512_mask_storeu_epi32(to + SUM * r, rows, _mm512_sub_epi32(zero, _mm512_slli_epi32(all, 3)));
    _mm512_mask_storeu_epi32(to + FIRST_SUM * r, rows, _mm512_sub_epi32(zero, _mm512_slli_epi32(sum[0], 3)));
}

LK_INLINE void quantize(const struct lk_quantize *a, int64_t begin, int64_t end, const enum lk_type type)
{
    const struct lk_panels panels = lk_panels_of(a->a.n_row, ROWS);
    const int64_t n_block = lk_cols_packed(a->a.cols) / LK_BLOCK, n_piece = pieces_of(a);
    const int64_t words = LK_BLOCK / lk_per_word(type); /* of a row's block */
    for (int64_t item = begin; item < end; item++) {
        const int64_t panel = item / n_piece, first = item % n_piece * BLOCKS, row = lk_panel_begin(&panels, panel);
        const int r = lk_panel_rows(&panels, panel);
        const uint32_t *from = (const uint32_t *)a->a.data + row * n_block * words;
        uint32_t *to = (uint32_t *)a->q + row * n_block * RECORD;
        for (int64_t b = first; b < lk_min(first + BLOCKS, n_block); b++)
            quantize_block(from + b * words * r, r, to + b * RECORD * r, type);
    }
}
LK_BOTH_TYPES(quantize, lk_quantize)

/* An activation panel against a weight panel. */
struct q8_product {
    const uint32_t *a; /* what comes next of it */
    const struct lk_packed_panel *panel;
    const uint8_t *w;              /* the panel */
    const char *ahead, *ahead_end; /* memory that will be read next: some lines a block into the second cache */
    int64_t lines;                 /* a block */
    const struct lk_lora *lora;    /* NULL: none */
    int64_t row, strip;            /* the tile's first row, its first columns in strips of adapters */
    enum lk_type type;             /* of adapters */
};

/* Tiles on the way up the tree; the result is tile[0]. */
struct q8_tiles {
    _Alignas(64) float tile[LK_TREE_DEPTH][ROWS * PANEL];
};

/* The codes of 16 outputs' block, word by word: `codes` is that of the panel's block for the half. */
LK_INLINE void codes_of(const enum lk_packing kind, const uint8_t *codes, __m512i w[WORDS])
{
    const __m512i low = _mm512_set1_epi32(0x0f0f0f0f), up = _mm512_set1_epi32(0x30303030);
    const int64_t line = PANEL * 4;
    if (lk_packed_bits(kind) == 8) {
#pragma GCC unroll 8
        for (int o = 0; o < WORDS; o++)
            w[o] = _mm512_loadu_si512(codes + o * line);
        return;
    }
#pragma GCC unroll 4
    for (int o = 0; o < WORDS / 2; o++) {
        const __m512i both = _mm512_loadu_si512(codes + o * line);
        w[2 * o] = _mm512_and_si512(both, low);
        w[2 * o + 1] = _mm512_and_si512(_mm512_srli_epi32(both, 4), low);
    }
    if (kind != LK_PK_K6)
        return;
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const __m512i top = _mm512_loadu_si512(codes + (4 + h) * line);
        const __m512i at[4] = {_mm512_slli_epi32(top, 4), _mm512_slli_epi32(top, 2), top, _mm512_srli_epi32(top, 2)};
#pragma GCC unroll 4
        for (int o = 0; o < 4; o++)
            w[4 * h + o] = _mm512_ternarylogic_epi32(w[4 * h + o], at[o], up, 0xf8); /* w | at & up */
    }
}

/* What one line of 16 outputs, words first .. last - 1 of a row, adds to its sums; `start` is what the dot product
 * begins with. */
LK_INLINE __m512 line_step(const __m512i w[WORDS], const int first, const int last, const uint32_t *a, const int R,
                           __m512i start)
{
    __m512i dot = start;
#pragma GCC unroll 8
    for (int o = first; o < last; o++)
        LK_DOT_ALL(dot, w[o], a + o * R);
    return _mm512_cvtepi32_ps(dot);
}

LK_INLINE __m512 all_of(const uint32_t *a)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)*a));
}

/* Row i of a block for 16 outputs; `a` is the row's first word, `s` what the kind has: of K6 one a half. */
LK_INLINE __m512 row_step(const int R, const enum lk_packing kind, const __m512i w[WORDS], const uint32_t *a,
                          const struct lk_scales s[2], __m512 sum)
{
    const __m512 scale = all_of(a + SCALE * R);
    const __m512i minus8 = _mm512_set1_epi32((int)a[SUM * R]);
    if (kind == LK_PK_K6) {
        const __m512i first = _mm512_set1_epi32((int)a[FIRST_SUM * R]), last = _mm512_sub_epi32(minus8, first);
        __m512 x = line_step(w, 0, WORDS / 2, a, R, _mm512_slli_epi32(first, 2));
        sum = _mm512_fmadd_ps(x, _mm512_mul_ps(s[0].d, scale), sum);
        x = line_step(w, WORDS / 2, WORDS, a, R, _mm512_slli_epi32(last, 2));
        return _mm512_fmadd_ps(x, _mm512_mul_ps(s[1].d, scale), sum);
    }
    const __m512i start = kind == LK_PK_S4   ? minus8
                          : kind == LK_PK_S8 ? _mm512_slli_epi32(minus8, 4)
                                             : _mm512_setzero_si512();
    const __m512 x = line_step(w, 0, WORDS, a, R, start);
    sum = _mm512_fmadd_ps(x, _mm512_mul_ps(s[0].d, scale), sum);
    if (kind == LK_PK_S4 || kind == LK_PK_S8)
        return sum;
    return _mm512_fmadd_ps(s[0].plus, all_of(a + SCALED_SUM * R), sum);
}

/* The next segment's sums. */
LK_INLINE void segment_sums(const int R, const enum lk_packing kind, struct q8_product *p, int s, __m512 acc[ROWS][2])
{
    const struct lk_packed_panel *panel = p->panel;
    const struct lk_cols *cols = panel->cols;
    const struct lk_blocks all = {.panel = panel, .at = p->w, .s = s, .k = cols->packed[s]};
    const int64_t first = cols->packed[s] / LK_BLOCK, last = cols->packed[s + 1] / LK_BLOCK;
    const uint8_t *codes = p->w + panel->code_at + first * panel->code_bytes;
    const uint8_t *sub = p->w + panel->sub_at + first * panel->sub_bytes;
    const uint32_t *a = p->a;
    struct lk_groups g = lk_groups_of(&all);
    for (int64_t b = first; b < last; b++, a += RECORD * R, codes += panel->code_bytes, sub += panel->sub_bytes) {
        for (int64_t line = 0; line < p->lines && p->ahead < p->ahead_end; line++, p->ahead += 64)
            _mm_prefetch(p->ahead, _MM_HINT_T1);
        struct lk_scales scales[2][2] = {0};
        for (int part = 0; part < (kind == LK_PK_K6 ? 2 : 1); part++) {
            for (int h = 0; h < 2; h++)
                scales[h][part] = lk_scales16(kind, panel->q.scale, g.at, sub + part * PANEL, 16 * h);
            lk_groups_step(&g, kind == LK_PK_K6 ? LK_BLOCK / 2 : LK_BLOCK);
        }
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m512i w[WORDS];
            codes_of(kind, codes + 64 * h, w);
#pragma GCC unroll 12
            for (int i = 0; i < R; i++)
                acc[i][h] = row_step(R, kind, w, a + i, scales[h], acc[i][h]);
        }
    }
    p->a = a;
}

LK_INLINE void product_tile(const int R, const enum lk_packing kind, struct q8_product *p, struct q8_tiles *t)
{
    const struct lk_cols *cols = p->panel->cols;
    int wait = 0;
    for (int s = 0; s < cols->n_seg; s++) {
        __m512 acc[ROWS][2];
#pragma GCC unroll 12
        for (int i = 0; i < R; i++)
            acc[i][0] = acc[i][1] = _mm512_setzero_ps();
        segment_sums(R, kind, p, s, acc);
        float *to = t->tile[wait];
#pragma GCC unroll 12
        for (int i = 0; i < R; i++)
            for (int j = 0; j < 2; j++)
                _mm512_storeu_ps(to + (i * 2 + j) * 16, acc[i][j]);
        const struct lk_lora_tile tile = {to, p->row, p->strip, R, PANEL / LK_LORA_STRIP};
        if (p->lora)
            lk_lora_leaf(p->lora, s, &tile, p->type);
        wait = lk_climb(t->tile[0], ROWS * PANEL, cols, s, wait, R * PANEL);
    }
}

#define EACH_ROWS(X, K) \
    X(1, K) X(2, K) X(3, K) X(4, K) X(5, K) X(6, K) X(7, K) X(8, K) X(9, K) X(10, K) X(11, K) X(12, K)
#define PRODUCT(R, K)                                                      \
    static void product##R##_##K(struct q8_product *p, struct q8_tiles *t) \
    {                                                                      \
        product_tile(R, LK_PK_##K, p, t);                                  \
    }
#define NAME(R, K) product##R##_##K,
#define EACH_KIND(X) X(S4) X(A4) X(Z4) X(K4) X(K6) X(S8) X(Z8)
#define PRODUCTS(K) EACH_ROWS(PRODUCT, K)
#define NAMES(K) [LK_PK_##K] = {NULL, EACH_ROWS(NAME, K)},
EACH_KIND(PRODUCTS)
static void (*const products[][ROWS + 1])(struct q8_product *, struct q8_tiles *) = {EACH_KIND(NAMES)};

static struct lk_int8_plan plan_of(const struct lk_linear *a)
{
    const int64_t row_bytes = lk_cols_packed(a->a.cols) / LK_BLOCK * RECORD * (int64_t)sizeof(uint32_t);
    struct lk_int8_plan p = {.rows = lk_panels_of(a->a.n_row, ROWS), .n_panel = lk_ceil_div(a->n_out, PANEL)};
    p.n_chunk = lk_ceil_div(p.rows.n, lk_chunk_panels(a->l2_bytes, ROWS * row_bytes, LK_INT8_CHUNK));
    return p;
}

static int64_t linear_items(const struct lk_linear *a)
{
    struct lk_int8_plan p = plan_of(a);
    return p.n_panel * p.n_chunk;
}

/* Each panel of rows fetches its share of the next panel of weights. */
LK_INLINE void panel_rows(const struct lk_linear *a, const struct lk_int8_plan *plan, const struct lk_int8_item *item,
                          const enum lk_type type)
{
    const struct lk_packed_panel panel = lk_packed_panel_of(a->q, a->a.cols, PANEL);
    const int64_t n_block = lk_cols_packed(a->a.cols) / LK_BLOCK, n = item->last - item->first;
    const int64_t lines = panel.bytes / 64;
    const char *next = (const char *)a->w + item->next * panel.bytes;
    struct q8_tiles tiles;
    for (int64_t ip = item->first; ip < item->last; ip++) {
        const int64_t row = lk_panel_begin(&plan->rows, ip), at = ip - item->first;
        const int r = lk_panel_rows(&plan->rows, ip);
        const int64_t begin = lines * at / n, end = lines * (at + 1) / n;
        struct q8_product p = {.a = (const uint32_t *)a->a.data + row * n_block * RECORD,
                               .panel = &panel,
                               .w = (const uint8_t *)a->w + item->panel * panel.bytes,
                               .ahead = next + begin * 64,
                               .ahead_end = next + end * 64,
                               .lines = n_block > 0 ? lk_ceil_div(end - begin, n_block) : 0,
                               .lora = a->lora,
                               .row = row,
                               .strip = item->panel * (PANEL / LK_LORA_STRIP),
                               .type = type};
        products[a->q->kind][r](&p, &tiles);
        struct lk_tile t = {tiles.tile[0], PANEL, r, row, item->panel};
        lk_epilogue(a, &t, NULL, type);
    }
}

LK_INLINE void linear(const struct lk_linear *a, int64_t begin, int64_t end, const enum lk_type type)
{
    const struct lk_int8_plan plan = plan_of(a);
    for (int64_t i = begin; i < end; i++) {
        const struct lk_int8_item item = lk_int8_item_of(a, &plan, i, end);
        panel_rows(a, &plan, &item, type);
    }
}
LK_BOTH_TYPES(linear, lk_linear)

void lk_avx512_q8_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->q8 = (struct lk_q8){.act_bytes = act_bytes,
                           .pack_codes = pack_codes,
                           .quantize_items = quantize_items,
                           .quantize = f32 ? quantize_f32 : quantize_bf16,
                           .linear_items = linear_items,
                           .linear = f32 ? linear_f32 : linear_bf16};
}
