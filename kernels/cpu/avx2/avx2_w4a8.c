/* Products of weights of 4 bits by activations of 8. AVX2 multiplies bytes without sign by bytes with one and adds
 * pairs of products in 16 bits (vpmaddubsw), where the four pairs of half a block stay below 2^15: 4 * 2 * 15 * 127.
 * Activations lie as lk_w4a8.h says, in panels of up to 6 rows; weights are panels of 16 output columns, codes by byte
 * (lk_packed.h). */
#include "kernels/cpu/avx2/avx2_epilogue.h"
#include "kernels/cpu/avx2/avx2_scales.h"
#include "kernels/cpu/lk_w4a8.h"

#define ROWS LK_AVX2_ROWS
#define PANEL LK_AVX2_PANEL

static void pack_codes(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_BYTE);
}

static int64_t quantize_items(const struct lk_quantize *a)
{
    return lk_w4a8_quantize_items(a, ROWS);
}

/* Of all four. */
static int32_t sum_of(__m128i x)
{
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

/* Half of a row's block, two vectors `step` numbers apart, to the block's record, whose words are r apart; returns s X.
 */
static float quantize_half(const float *from, int64_t step, const int half, uint32_t *to, int64_t r)
{
    LK_EIGHT_INT most = {0};
    __m256i q[2];
    for (int i = 0; i < 2; i++) {
        const LK_EIGHT_INT size = (LK_EIGHT_INT)_mm256_loadu_ps(from + i * step) & 0x7fffffff, more = size > most;
        most = (more & size) | (~more & most);
    }
    const struct lk_int8_scale of = lk_int8_scale_of_lanes(&most);
    const __m256 inverse = _mm256_set1_ps(of.inverse);
    for (int i = 0; i < 2; i++)
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + i * step), inverse));
    /* packing goes by halves of vectors: words 0 2 1 3 */
    const __m256i pairs = _mm256_packs_epi32(q[0], q[1]);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    uint32_t words[4];
    _mm_storeu_si128((__m128i *)(void *)words, bytes);
    static const uint8_t from_word[4] = {0, 2, 1, 3};
    for (int w = 0; w < LK_W4A8_WORDS / 2; w++)
        to[(half * LK_W4A8_WORDS / 2 + w) * r] = words[from_word[w]];
    const __m256i both = _mm256_add_epi32(q[0], q[1]);
    const int32_t sum = sum_of(_mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
    to[(LK_W4A8_SCALE + half) * r] = lk_bits(of.s);
    to[(LK_W4A8_SUM + half) * r] = (uint32_t)sum * -8u;
    return of.s * (float)sum;
}

static void quantize(const struct lk_quantize *a, int64_t begin, int64_t end)
{
    const int64_t n_col = lk_cols_packed(a->a.cols);
    for (int64_t item = begin; item < end; item++) {
        const struct lk_w4a8_piece p = lk_w4a8_piece_of(a, ROWS, item);
        const float *from = (const float *)a->a.data + p.row * n_col;
        for (int64_t b = p.first; b < p.last; b++) {
            for (int i = 0; i < p.r; i++) {
                const float *row = from + b * LK_BLOCK * p.r + 8 * i;
                uint32_t *to = lk_w4a8_record(a, &p, b) + i;
                const float first = quantize_half(row, 8 * p.r, 0, to, p.r);
                const float last = quantize_half(row + 16 * p.r, 8 * p.r, 1, to, p.r);
                to[LK_W4A8_SCALED_SUM * p.r] = lk_bits(first + last);
            }
        }
    }
}

/* Bytes of four columns of 8 outputs. */
LK_INLINE __m256i word_at(const uint8_t *codes, const int o)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(codes + o * PANEL * 4));
}

LK_INLINE __m256i all_of(const uint32_t *a)
{
    return _mm256_set1_epi32((int)*a);
}

/* sum + w x, four products of bytes as two of 16 bits. As the intrinsics say, but a product is added at once: the
 * compiler multiplies all of a tile first, and has no registers for that. */
LK_INLINE __m256i add_pairs(__m256i sum, __m256i w, __m256i x)
{
    __m256i t;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(t) : "x"(w), "x"(x));
    return sum;
}

/* Dot products of R rows with half a block of 16 outputs, as f32. */
LK_INLINE void dots(const int R, const enum lk_packing kind, const int half, const uint8_t *codes, const uint32_t *a,
                    __m256 out[2][ROWS])
{
    const __m256i low = _mm256_set1_epi32(0x0f0f0f0f), ones = _mm256_set1_epi16(1);
    __m256i dot[2][ROWS];
    const int first = half * LK_W4A8_WORDS / 2;
#pragma GCC unroll 4
    for (int o = first; o < first + LK_W4A8_WORDS / 2; o++) {
        __m256i w[2] = {word_at(codes, o / 2), word_at(codes + 32, o / 2)};
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++)
            w[h] = _mm256_and_si256(o % 2 ? _mm256_srli_epi32(w[h], 4) : w[h], low);
#pragma GCC unroll 6
        for (int i = 0; i < R; i++) {
            const __m256i x = all_of(a + o * R + i);
            for (int h = 0; h < 2; h++)
                dot[h][i] = o == first ? _mm256_maddubs_epi16(w[h], x) : add_pairs(dot[h][i], w[h], x);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < R; i++) {
        for (int h = 0; h < 2; h++) {
            __m256i x = _mm256_madd_epi16(dot[h][i], ones);
            if (kind == LK_PK_S4)
                x = _mm256_add_epi32(x, all_of(a + (LK_W4A8_SUM + half) * R + i));
            out[h][i] = _mm256_cvtepi32_ps(x);
        }
    }
}

LK_INLINE __m256 scale_of(const int R, const int half, const uint32_t *a)
{
    return _mm256_castsi256_ps(all_of(a + (LK_W4A8_SCALE + half) * R));
}

/* A block that is a run, added to the sums [R, 16]. These are in memory: the registers are dot products'. */
LK_INLINE void add_short(const int R, const enum lk_packing kind, const uint8_t *codes, const uint32_t *a,
                         const struct lk_scales s[2], float *to)
{
    __m256 run[2][ROWS], x[2][ROWS];
    dots(R, kind, 0, codes, a, run);
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
        for (int h = 0; h < 2; h++)
            run[h][i] = _mm256_mul_ps(run[h][i], scale_of(R, 0, a + i));
    dots(R, kind, 1, codes, a, x);
#pragma GCC unroll 6
    for (int i = 0; i < R; i++, a++) {
        const __m256 scaled = _mm256_castsi256_ps(all_of(a + LK_W4A8_SCALED_SUM * R));
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++, to += 8) {
            const __m256 both = _mm256_fmadd_ps(x[h][i], scale_of(R, 1, a), run[h][i]);
            const __m256 sum = _mm256_fmadd_ps(both, s[h].d, _mm256_load_ps(to));
            _mm256_store_ps(to, kind == LK_PK_S4 ? sum : _mm256_fmadd_ps(s[h].plus, scaled, sum));
        }
    }
}

/* Longer runs of the rows and their u. */
struct runs {
    _Alignas(32) float v[ROWS * PANEL];
    float u[ROWS];
};

LK_INLINE void add_long(const int R, const enum lk_packing kind, const uint8_t *codes, const uint32_t *a,
                        struct runs *run)
{
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m256 x[2][ROWS];
        float *at = run->v;
        dots(R, kind, half, codes, a, x);
#pragma GCC unroll 6
        for (int i = 0; i < R; i++)
            for (int h = 0; h < 2; h++, at += 8)
                _mm256_store_ps(at, _mm256_fmadd_ps(x[h][i], scale_of(R, half, a + i), _mm256_load_ps(at)));
    }
#pragma GCC unroll 6
    for (int i = 0; i < R && kind != LK_PK_S4; i++)
        run->u[i] += lk_float(a[LK_W4A8_SCALED_SUM * R + i]);
}

/* Adds runs to the sums, [R, 16], and begins anew. */
LK_INLINE void end_runs(const int R, const enum lk_packing kind, const struct lk_w4a8_segment *s, enum lk_scale type,
                        struct runs *run, float *to)
{
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        const struct lk_scales scales = lk_scales_of(kind, type, s->group, s->sub, 8 * h, 1);
#pragma GCC unroll 6
        for (int i = 0; i < R; i++) {
            const int at = (i * 2 + h) * 8;
            __m256 sum = _mm256_fmadd_ps(_mm256_load_ps(run->v + at), scales.d, _mm256_load_ps(to + at));
            if (kind != LK_PK_S4)
                sum = _mm256_fmadd_ps(scales.plus, _mm256_set1_ps(run->u[i]), sum);
            _mm256_store_ps(to + at, sum);
        }
    }
    memset(run->v, 0, (size_t)(R * PANEL) * sizeof *run->v);
    memset(run->u, 0, (size_t)R * sizeof *run->u);
}

/* The next segment's sums, [R, 16]. */
LK_INLINE void segment_sums(const int R, const enum lk_packing kind, const bool is_short, struct lk_w4a8_product *p,
                            int s, float *to)
{
    struct lk_w4a8_segment seg = lk_w4a8_segment_of(p, s);
    struct runs run = {.u = {0}};
    memset(to, 0, (size_t)(R * PANEL) * sizeof *to);
    while (seg.n_block > 0) {
        lk_w4a8_fetch(p);
        if (is_short) {
            struct lk_scales scales[2];
            for (int h = 0; h < 2; h++)
                scales[h] = lk_scales_of(kind, p->panel->q.scale, seg.groups.at, seg.next_sub, 8 * h, 1);
            add_short(R, kind, seg.codes, p->a, scales, to);
        } else {
            add_long(R, kind, seg.codes, p->a, &run);
        }
        if (lk_w4a8_next(&seg, p, R) && !is_short)
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
        segment_sums(R, kind, is_short, p, s, to);
        wait = lk_w4a8_leaf(p, s, tiles, ROWS * PANEL, wait);
    }
}

#define EACH_ROWS(X, K) X(1, K) X(2, K) X(3, K) X(4, K) X(5, K) X(6, K)
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
    _Alignas(32) float tiles[LK_TREE_DEPTH * ROWS * PANEL];
    for (int64_t i = begin; i < end; i++) {
        const struct lk_int8_item item = lk_int8_item_of(a, &plan, i, end);
        for (int64_t ip = item.first; ip < item.last; ip++) {
            struct lk_w4a8_product p = lk_w4a8_product_of(a, &panel, &plan.rows, &item, ip);
            p.type = type;
            products[lk_w4a8_short(a->q)][a->q->kind][p.r](&p, tiles);
            struct lk_tile t = {tiles, PANEL, p.r, p.row, item.panel};
            if (a->epilogue == LK_EP_SWIGLU)
                lk_swiglu_tile(a, &t, type);
            else
                lk_store_tile(a, &t);
        }
    }
}
LK_BOTH_TYPES(linear, lk_linear)

void lk_avx2_w4a8_init(struct lk_cpu *t, enum lk_type type)
{
    t->w4a8 = (struct lk_w4a8){.act_bytes = lk_w4a8_act_bytes,
                               .pack_codes = pack_codes,
                               .quantize_items = quantize_items,
                               .quantize = quantize,
                               .linear_items = linear_items,
                               .linear = type == LK_F32 ? linear_f32 : linear_bf16};
}
