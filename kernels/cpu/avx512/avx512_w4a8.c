/* Products of weights of 4 bits by activations of 8. VNNI multiplies bytes without sign by bytes with one and adds four
 * products to 32 bits (vpdpbusd): codes are the former as they come out of their words, activations the latter.
 * Activations lie as lk_w4a8.h says, in panels of up to 12 rows; weights are panels of 32 output columns, codes by byte
 * (lk_packed.h). */
#include "kernels/cpu/avx512/avx512_epilogue.h"
#include "kernels/cpu/avx512/avx512_unpack.h"
#include "kernels/cpu/lk_w4a8.h"

#define ROWS LK_AVX512_ROWS
#define PANEL LK_AVX512_PANEL
#define WORDS LK_W4A8_WORDS

static void pack_codes(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_BYTE);
}

static int64_t quantize_items(const struct lk_quantize *a)
{
    return lk_w4a8_quantize_items(a, ROWS);
}

/* m / 127 and 127 / m, and what lk_int8_scale_of makes of those that are none. */
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

/* Half a block of r rows, a lane each, to the block's record; returns s X. */
LK_INLINE __m512 quantize_half(const __m512 x[LK_BLOCK / 2], const int half, int r, uint32_t *to)
{
    const __mmask16 rows = lk_mask16(r);
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff), zero = _mm512_setzero_si512();
    __m512i most = zero, all = zero;
    for (int k = 0; k < LK_BLOCK / 2; k++)
        most = _mm512_max_epu32(most, _mm512_and_si512((__m512i)x[k], no_sign));
    const struct scales of = scales_of(most);
    for (int w = 0; w < WORDS / 2; w++)
        _mm512_mask_storeu_epi32(to + (half * WORDS / 2 + w) * r, rows, word_of(x + 4 * w, of.inverse, &all));
    _mm512_mask_storeu_epi32(to + (LK_W4A8_SCALE + half) * r, rows, (__m512i)of.s);
    _mm512_mask_storeu_epi32(to + (LK_W4A8_SUM + half) * r, rows, _mm512_sub_epi32(zero, _mm512_slli_epi32(all, 3)));
    return _mm512_mul_ps(of.s, _mm512_cvtepi32_ps(all));
}

/* A block, words as the set has them. */
LK_INLINE void quantize_block(const uint32_t *from, int r, uint32_t *to, const enum lk_type type)
{
    const __mmask16 rows = lk_mask16(r);
    const int per = lk_per_word(type);
    __m512 x[LK_BLOCK];
    for (int k = 0; k < LK_BLOCK; k += per) {
        const __m512 v = _mm512_maskz_loadu_ps(rows, from + k / per * r);
        x[k] = type == LK_F32 ? v : lk_widen_low((__m512i)v);
        if (type == LK_BF16)
            x[k + 1] = lk_widen_high((__m512i)v);
    }
    const __m512 first = quantize_half(x, 0, r, to), last = quantize_half(x + LK_BLOCK / 2, 1, r, to);
    _mm512_mask_storeu_epi32(to + LK_W4A8_SCALED_SUM * r, rows, (__m512i)_mm512_add_ps(first, last));
}

LK_INLINE void quantize(const struct lk_quantize *a, int64_t begin, int64_t end, const enum lk_type type)
{
    const int64_t words = LK_BLOCK / lk_per_word(type); /* of a row's block */
    for (int64_t item = begin; item < end; item++) {
        const struct lk_w4a8_piece p = lk_w4a8_piece_of(a, ROWS, item);
        const uint32_t *from = (const uint32_t *)a->a.data + p.row * lk_w4a8_blocks(a->a.cols) * words;
        for (int64_t b = p.first; b < p.last; b++)
            quantize_block(from + b * words * p.r, p.r, lk_w4a8_record(a, &p, b), type);
    }
}
LK_BOTH_TYPES(quantize, lk_quantize)

/* A block of 16 outputs, whose first codes are at `codes`, word by word. */
LK_INLINE void codes_of(const uint8_t *codes, __m512i w[WORDS])
{
    const __m512i low = _mm512_set1_epi32(0x0f0f0f0f);
#pragma GCC unroll 4
    for (int o = 0; o < WORDS / 2; o++) {
        const __m512i both = _mm512_loadu_si512(codes + o * PANEL * 4);
        w[2 * o] = _mm512_and_si512(both, low);
        w[2 * o + 1] = _mm512_and_si512(_mm512_srli_epi32(both, 4), low);
    }
}

LK_INLINE __m512 all_of(const uint32_t *a)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)*a));
}

/* A row of a block's half for 16 outputs; `a` is its first word. */
LK_INLINE __m512 dot_of(const int R, const enum lk_packing kind, const int half, const __m512i w[WORDS],
                        const uint32_t *a)
{
    __m512i dot = kind == LK_PK_S4 ? (__m512i)all_of(a + (LK_W4A8_SUM + half) * R) : _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int o = half * WORDS / 2; o < (half + 1) * WORDS / 2; o++)
        LK_DOT_ALL(dot, w[o], a + o * R);
    return _mm512_cvtepi32_ps(dot);
}

/* The block added to its run. */
LK_INLINE __m512 add_block(const int R, const enum lk_packing kind, const __m512i w[WORDS], const uint32_t *a,
                           __m512 run)
{
    const __m512 first = dot_of(R, kind, 0, w, a), last = dot_of(R, kind, 1, w, a);
    run = _mm512_fmadd_ps(first, all_of(a + LK_W4A8_SCALE * R), run);
    return _mm512_fmadd_ps(last, all_of(a + (LK_W4A8_SCALE + 1) * R), run);
}

/* The next segment's sums, [R, 32], where each block is a run: they stay in registers. */
LK_INLINE void short_runs(const int R, const enum lk_packing kind, struct lk_w4a8_product *p, int s, float *to)
{
    struct lk_w4a8_segment seg = lk_w4a8_segment_of(p, s);
    __m512 acc[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    while (seg.n_block > 0) {
        lk_w4a8_fetch(p);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            const struct lk_scales scales = lk_scales16(kind, p->panel->q.scale, seg.groups.at, seg.next_sub, 16 * h);
            __m512i w[WORDS];
            codes_of(seg.codes + 64 * h, w);
#pragma GCC unroll 12
            for (int i = 0; i < R; i++) {
                const uint32_t *a = p->a + i;
                const __m512 run = add_block(R, kind, w, a, _mm512_setzero_ps());
                acc[i][h] = _mm512_fmadd_ps(run, scales.d, acc[i][h]);
                if (kind != LK_PK_S4)
                    acc[i][h] = _mm512_fmadd_ps(scales.plus, all_of(a + LK_W4A8_SCALED_SUM * R), acc[i][h]);
            }
        }
        lk_w4a8_next(&seg, p, R);
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
        for (int h = 0; h < 2; h++)
            _mm512_storeu_ps(to + (i * 2 + h) * 16, acc[i][h]);
}

/* Runs of the rows and their u. */
struct runs {
    __m512 v[ROWS][2];
    float u[ROWS];
};

LK_INLINE void begin_runs(const int R, struct runs *run)
{
#pragma GCC unroll 12
    for (int i = 0; i < R; i++) {
        run->v[i][0] = run->v[i][1] = _mm512_setzero_ps();
        run->u[i] = 0;
    }
}

/* Adds them to the sums, [R, 32], and begins anew. */
LK_INLINE void end_runs(const int R, const enum lk_packing kind, const struct lk_w4a8_segment *s, enum lk_scale type,
                        struct runs *run, float *to)
{
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const struct lk_scales scales = lk_scales16(kind, type, s->group, s->sub, 16 * h);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            float *at = to + (i * 2 + h) * 16;
            __m512 sum = _mm512_fmadd_ps(run->v[i][h], scales.d, _mm512_loadu_ps(at));
            if (kind != LK_PK_S4)
                sum = _mm512_fmadd_ps(scales.plus, _mm512_set1_ps(run->u[i]), sum);
            _mm512_storeu_ps(at, sum);
        }
    }
    begin_runs(R, run);
}

/* The same where runs are longer: they stay in registers, and sums in memory. */
LK_INLINE void long_runs(const int R, const enum lk_packing kind, struct lk_w4a8_product *p, int s, float *to)
{
    struct lk_w4a8_segment seg = lk_w4a8_segment_of(p, s);
    struct runs run;
    memset(to, 0, (size_t)(R * PANEL) * sizeof *to);
    begin_runs(R, &run);
    while (seg.n_block > 0) {
        lk_w4a8_fetch(p);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m512i w[WORDS];
            codes_of(seg.codes + 64 * h, w);
#pragma GCC unroll 12
            for (int i = 0; i < R; i++)
                run.v[i][h] = add_block(R, kind, w, p->a + i, run.v[i][h]);
        }
#pragma GCC unroll 12
        for (int i = 0; i < R && kind != LK_PK_S4; i++)
            run.u[i] += lk_float(p->a[LK_W4A8_SCALED_SUM * R + i]);
        if (lk_w4a8_next(&seg, p, R))
            end_runs(R, kind, &seg, p->panel->q.scale, &run, to);
    }
}

/* tiles: on the way up the tree; the result is the first one. */
LK_INLINE void product_tile(const int R, const enum lk_packing kind, const bool is_short, struct lk_w4a8_product *p,
                            float *tiles)
{
    int wait = 0;
    for (int s = 0; s < p->panel->cols->n_seg; s++) {
        float *to = tiles + wait * ROWS * PANEL;
        if (is_short)
            short_runs(R, kind, p, s, to);
        else
            long_runs(R, kind, p, s, to);
        wait = lk_w4a8_leaf(p, s, tiles, ROWS * PANEL, wait);
    }
}

#define EACH_ROWS(X, K) \
    X(1, K) X(2, K) X(3, K) X(4, K) X(5, K) X(6, K) X(7, K) X(8, K) X(9, K) X(10, K) X(11, K) X(12, K)
LK_W4A8_TABLE(EACH_ROWS, ROWS)

static int64_t linear_items(const struct lk_linear *a)
{
    const struct lk_int8_plan p = lk_w4a8_plan_of(a, ROWS, PANEL);
    return p.n_panel * p.n_chunk;
}

LK_INLINE void linear(const struct lk_linear *a, int64_t begin, int64_t end, const enum lk_type type)
{
    const struct lk_int8_plan plan = lk_w4a8_plan_of(a, ROWS, PANEL);
    const struct lk_packed_panel panel = lk_packed_panel_of(a->q, a->a.cols, PANEL);
    _Alignas(64) float tiles[LK_TREE_DEPTH * ROWS * PANEL];
    for (int64_t i = begin; i < end; i++) {
        const struct lk_int8_item item = lk_int8_item_of(a, &plan, i, end);
        for (int64_t ip = item.first; ip < item.last; ip++) {
            struct lk_w4a8_product p = lk_w4a8_product_of(a, &panel, &plan.rows, &item, ip);
            p.type = type;
            products[lk_w4a8_short(a->q)][a->q->kind][p.r](&p, tiles);
            struct lk_tile t = {tiles, PANEL, p.r, p.row, item.panel};
            lk_epilogue(a, &t, NULL, type);
        }
    }
}
LK_BOTH_TYPES(linear, lk_linear)

void lk_avx512_w4a8_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->w4a8 = (struct lk_w4a8){.act_bytes = lk_w4a8_act_bytes,
                               .pack_codes = pack_codes,
                               .quantize_items = quantize_items,
                               .quantize = f32 ? quantize_f32 : quantize_bf16,
                               .linear_items = linear_items,
                               .linear = f32 ? linear_f32 : linear_bf16};
}
