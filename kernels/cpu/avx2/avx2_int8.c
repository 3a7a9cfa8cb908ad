/* Products in int8. AVX2 multiplies pairs of 16-bit numbers and adds the two products exactly (vpmaddwd), so bytes of
 * weights are widened in registers, and activations are stored wide. (vpmaddubsw takes bytes, but wants an operand
 * without sign: with the instructions that see to it, it is no faster here.) Layouts:
 *   activations  panels of up to 6 rows as in f32; in a panel of r rows blocks of 8 columns, [r, 8] int16, a
 *                segment's to a multiple of 64 columns; then scales, [n_row, n_seg]
 *   weights      panels of 16 output columns, [columns / 2, 16, 2] int8, and their scales */
#include "kernels/cpu/avx2/avx2_epilogue.h"
#include "kernels/cpu/avx2/avx2_product.h"
#include "kernels/cpu/lk_int8.h"
#include "kernels/cpu/lk_lora.h"
#include "kernels/cpu/lk_screen.h"

#define ROWS LK_AVX2_ROWS
#define PANEL LK_AVX2_PANEL
#define PAIR_BYTES (2 * PANEL)

static int64_t place(int64_t k, int64_t j)
{
    return k * PANEL + 2 * j;
}

static const struct lk_int8_order order = {.panel = PANEL, .run = 2, .at = place};

static size_t weight_bytes(int64_t n_out, const struct lk_cols *cols)
{
    return lk_int8_weight_bytes(n_out, cols, &order);
}

static size_t act_bytes(int64_t n_row, const struct lk_cols *cols)
{
    return lk_int8_act_bytes(n_row, cols, sizeof(int16_t));
}

static void pack(const struct lk_pack *a)
{
    lk_int8_pack(a, &order);
}

/* An item is a panel: its rows share cache lines. */
static int64_t quantize_items(const struct lk_quantize *a)
{
    return lk_panels_of(a->a.n_row, ROWS).n;
}

/* A segment of a row, n columns of it, in a panel of r rows. */
struct segment_row {
    const float *from;
    int64_t n, r;
};

/* The block that begins with column `at`, mixed. A segment has an even number of vectors of 8, but may end with half a
 * block. */
LK_INLINE void mixed(const struct segment_row *s, int64_t at, LK_EIGHT x[8])
{
    const float *from = s->from + at * s->r;
    const int n = at + LK_INT8_BLOCK <= s->n ? 8 : 4;
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        x[i] = i < n ? _mm256_loadu_ps(from + i * 8 * s->r) : _mm256_setzero_ps();
    lk_int8_mix(x);
}

static float quantize_row(const struct segment_row *s, int16_t *to)
{
    LK_EIGHT_INT most = {0};
    LK_EIGHT x[8];
    for (int64_t at = 0; at < s->n; at += LK_INT8_BLOCK) {
        mixed(s, at, x);
        lk_int8_most(x, &most);
    }
    struct lk_int8_scale of = lk_int8_scale_of_lanes(&most);
    __m256 inverse = _mm256_set1_ps(of.inverse);
    for (int64_t at = 0; at < s->n; at += LK_INT8_BLOCK) {
        mixed(s, at, x);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse));
            __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
            _mm_storeu_si128((__m128i *)(void *)(to + (at + 8 * i) * s->r), half);
        }
    }
    return of.s;
}

static void quantize(const struct lk_quantize *a, int64_t begin, int64_t end)
{
    const struct lk_cols *c = a->a.cols;
    const struct lk_panels panels = lk_panels_of(a->a.n_row, ROWS);
    int64_t n_col = lk_cols_packed(c), n_to = lk_int8_cols(c);
    float *scales = (float *)(void *)((int16_t *)a->q + a->a.n_row * n_to);
    for (int64_t ip = begin; ip < end; ip++) {
        int64_t row = lk_panel_begin(&panels, ip);
        int r = lk_panel_rows(&panels, ip);
        const float *from = (const float *)a->a.data + row * n_col;
        int16_t *to = (int16_t *)a->q + row * n_to;
        for (int s = 0; s < c->n_seg; s++) {
            int64_t first = lk_int8_begin(c, s);
            for (int i = 0; i < r; i++) {
                struct segment_row segment = {from + c->packed[s] * r + 8 * i, c->packed[s + 1] - c->packed[s], r};
                scales[(row + i) * c->n_seg + s] = quantize_row(&segment, to + first * r + 8 * i);
            }
        }
    }
}

/* An activation panel against a weight panel. */
struct int8_product {
    const int16_t *a;     /* what comes next of it */
    const float *a_scale; /* [r, n_seg] */
    const int8_t *w;      /* likewise */
    const float *w_scale; /* [n_seg, 16] */
    const struct lk_cols *cols;
    const char *ahead; /* memory that will be read next: as much as is read is fetched into the second cache */
    int64_t ahead_step;
    const struct lk_lora *lora; /* NULL: none */
    int64_t row, strip;         /* the tile's first row, its first columns in strips of adapters */
    enum lk_type type;          /* of adapters */
};

/* sum + x y, pairs of 16-bit numbers. As the intrinsics say, but a product is added at once: the compiler multiplies
 * all of a tile first, and has no registers for that. */
LK_INLINE __m256i madd_in_place(__m256i x, __m256i y, __m256i sum)
{
    __m256i both;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(both) : "x"(x), "x"(y));
    return sum;
}

/* The next n columns, a segment, from zero: 2^16 products of bytes fit 32 bits. */
LK_INLINE void sums(const int R, struct int8_product *p, int64_t n, __m256i acc[ROWS][2])
{
    const int16_t *a = p->a;
    const int8_t *w = p->w;
    const char *ahead = p->ahead;
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
        acc[i][0] = acc[i][1] = _mm256_setzero_si256();
    for (int64_t k = 0; k < n; k += 8, a += 8 * R) {
        _mm_prefetch(ahead, _MM_HINT_T1);
        _mm_prefetch(ahead + 64, _MM_HINT_T1);
        ahead += p->ahead_step;
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; pair++, w += PAIR_BYTES) {
            __m256i b0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)w));
            __m256i b1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(w + 16)));
#pragma GCC unroll 6
            for (int i = 0; i < R; i++) {
                int32_t two;
                memcpy(&two, a + 8 * i + 2 * pair, sizeof two);
                __m256i x = _mm256_set1_epi32(two);
                acc[i][0] = madd_in_place(x, b0, acc[i][0]);
                acc[i][1] = madd_in_place(x, b1, acc[i][1]);
            }
        }
    }
    p->a = a;
    p->w = w;
    p->ahead = ahead;
}

/* Adapters' part of a segment's sums v. */
LK_INLINE void add_adapters(const int R, const struct int8_product *p, int s, __m256 v[ROWS][2])
{
    _Alignas(64) float sum[ROWS * PANEL];
    const struct lk_lora_tile tile = {sum, p->row, p->strip, R, PANEL / LK_LORA_STRIP};
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
        for (int j = 0; j < 2; j++)
            _mm256_store_ps(sum + (i * 2 + j) * 8, v[i][j]);
    if (p->type == LK_F32)
        lk_lora_leaf(p->lora, s, &tile, LK_F32);
    else
        lk_lora_leaf(p->lora, s, &tile, LK_BF16);
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
        for (int j = 0; j < 2; j++)
            v[i][j] = _mm256_load_ps(sum + (i * 2 + j) * 8);
}

LK_INLINE void product_tile(const int R, struct int8_product *p, struct lk_tiles *t)
{
    const struct lk_cols *cols = p->cols;
    int wait = 0;
    for (int s = 0; s < cols->n_seg; s++) {
        __m256i acc[ROWS][2];
        __m256 v[ROWS][2], scale[2];
        sums(R, p, lk_int8_width(cols, s), acc);
        for (int j = 0; j < 2; j++)
            scale[j] = _mm256_loadu_ps(p->w_scale + s * PANEL + 8 * j);
#pragma GCC unroll 6
        for (int i = 0; i < R; i++) {
            __m256 x = _mm256_set1_ps(p->a_scale[i * cols->n_seg + s]);
            for (int j = 0; j < 2; j++)
                v[i][j] = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[i][j]), _mm256_mul_ps(x, scale[j]));
        }
        if (p->lora)
            add_adapters(R, p, s, v);
        for (int n = lk_merges(cols, s); n > 0; n--) {
            const float *left = t->tile[--wait];
#pragma GCC unroll 6
            for (int i = 0; i < R; i++)
                for (int j = 0; j < 2; j++)
                    v[i][j] = _mm256_add_ps(_mm256_load_ps(left + (i * 2 + j) * 8), v[i][j]);
        }
        float *to = t->tile[wait++];
#pragma GCC unroll 6
        for (int i = 0; i < R; i++)
            for (int j = 0; j < 2; j++)
                _mm256_store_ps(to + (i * 2 + j) * 8, v[i][j]);
    }
}

#define PRODUCT(R)                                                              \
    static void product##R##x2_int8(struct int8_product *p, struct lk_tiles *t) \
    {                                                                           \
        product_tile(R, p, t);                                                  \
    }
PRODUCT(1)
PRODUCT(2)
PRODUCT(3)
PRODUCT(4)
PRODUCT(5)
PRODUCT(6)

static void (*const products[ROWS + 1])(struct int8_product *, struct lk_tiles *) = {
    NULL, product1x2_int8, product2x2_int8, product3x2_int8, product4x2_int8, product5x2_int8, product6x2_int8};

static struct lk_int8_plan plan_of(const struct lk_linear *a)
{
    return lk_int8_plan_of(a, &order, ROWS, 2);
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
    const float *scales = (const float *)(const void *)((const int16_t *)a->a.data + a->a.n_row * n_col);
    int64_t ahead_step = lk_ceil_div(8 * PANEL, item->last - item->first);
    struct lk_tiles tiles;
    for (int64_t ip = item->first; ip < item->last; ip++) {
        int64_t row = lk_panel_begin(&plan->rows, ip);
        int r = lk_panel_rows(&plan->rows, ip);
        struct int8_product p = {.a = (const int16_t *)a->a.data + row * n_col,
                                 .a_scale = scales + row * c->n_seg,
                                 .w = w,
                                 .w_scale = (const float *)(const void *)(w + PANEL * n_col),
                                 .cols = c,
                                 .ahead = (const char *)a->w + item->next * step +
                                          (ip - item->first) * ahead_step * (n_col / 8),
                                 .ahead_step = ahead_step,
                                 .lora = a->lora,
                                 .row = row,
                                 .strip = item->panel * (PANEL / LK_LORA_STRIP),
                                 .type = type};
        products[r](&p, &tiles);
        struct lk_tile t = {tiles.tile[0], PANEL, r, row, item->panel};
        if (a->epilogue == LK_EP_SWIGLU)
            lk_swiglu_tile(a, &t, type);
        else
            lk_store_tile(a, &t);
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

static int64_t screen(const struct lk_screen *a, float *least, struct lk_may *may)
{
    return lk_screen_columns(a, least, may);
}

void lk_avx2_int8_init(struct lk_cpu *t, enum lk_type type)
{
    t->int8 = (struct lk_int8){.weight_bytes = weight_bytes,
                               .act_bytes = act_bytes,
                               .pack = pack,
                               .quantize_items = quantize_items,
                               .quantize = quantize,
                               .linear_items = linear_items,
                               .linear = type == LK_F32 ? linear_f32 : linear_bf16,
                               .norms = norms,
                               .screen = screen};
}
