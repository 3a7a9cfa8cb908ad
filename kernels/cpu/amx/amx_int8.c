/* Products in int8 (tdpbssd). Layouts:
 *   activations  panels of up to 16 rows as in bf16; in a panel of r rows a block of 64 columns is [r, 64] int8; then
 *                scales, [n_row, n_seg]
 *   weights      panels of 32 output columns, for each block of 64 columns two tiles [16, 16, 4] int8: fours of
 * columns, output columns, the columns of a four; and their scales A tile has as many bytes as one of bf16 with half
 * the columns, and products go through memory like those of amx_linear.c. */
#include "kernels/cpu/amx/amx_epilogue.h"
#include "kernels/cpu/amx/amx_product.h"
#include "kernels/cpu/avx512/avx512_screen.h"
#include "kernels/cpu/lk_int8.h"
#include "kernels/cpu/lk_lora.h"

#define ROWS LK_AMX_ROWS
#define PANEL LK_AVX512_PANEL
#define BLOCK LK_INT8_BLOCK
#define BLOCK_BYTES (BLOCK * PANEL) /* of weights */
#define CHUNK_PAIRS 8               /* of one item, more where the second cache holds them */
#define BAND 4                      /* pairs of activation panels whose sums are open together */
#define RUN 18                      /* blocks that a larger band takes at a time */
#define BAND_NUMBERS (2 * BAND * ROWS * PANEL)
#define LK_SIXTEEN __attribute__((vector_size(64))) int32_t
#define LK_SIXTEEN_BYTES __attribute__((vector_size(16))) int8_t

static int64_t place(int64_t k, int64_t j)
{
    return k / BLOCK * BLOCK_BYTES + j / 16 * (BLOCK_BYTES / 2) + k % BLOCK / 4 * 64 + j % 16 * 4;
}

static const struct lk_int8_order order = {.panel = PANEL, .run = 4, .at = place};

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

/* An item is a row. */
static int64_t quantize_items(const struct lk_quantize *a)
{
    return a->a.n_row;
}

/* Each lane's partner plus the lane, whose sign is turned in the second of a pair. */
#define STAGE(x, sign, ...) _mm512_fmadd_ps(x, sign, __builtin_shufflevector(x, x, __VA_ARGS__))

/* lk_int8_mix of a block in four registers. */
LK_INLINE void mix(__m512 x[4])
{
    const __m512 sign1 = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
    const __m512 sign2 = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
    const __m512 sign4 = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
    const __m512 sign8 = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        x[i] = STAGE(x[i], sign1, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
        x[i] = STAGE(x[i], sign2, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
        x[i] = STAGE(x[i], sign4, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
        x[i] = STAGE(x[i], sign8, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    __m512 a = _mm512_add_ps(x[0], x[1]), b = _mm512_sub_ps(x[0], x[1]);
    __m512 c = _mm512_add_ps(x[2], x[3]), d = _mm512_sub_ps(x[2], x[3]);
    x[0] = _mm512_add_ps(a, c);
    x[1] = _mm512_add_ps(b, d);
    x[2] = _mm512_sub_ps(a, c);
    x[3] = _mm512_sub_ps(b, d);
}

/* The 64 columns that begin with block b of 32, of which n exist, mixed. */
LK_INLINE void mixed(const struct lk_amx_row *from, int64_t b, int64_t n, __m512 x[4])
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const uint16_t *at = from->at + (b + i / 2) * from->step + i % 2 * 16;
        x[i] = i / 2 * LK_AMX_BLOCK < n ? lk_widen_low(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)))
                                        : _mm512_setzero_ps();
    }
    mix(x);
}

/* A row's columns of a segment: blocks of 32 from block b up to `end`; to its blocks of 64, `step` bytes apart. */
struct segment_row {
    struct lk_amx_row from;
    int64_t b, end;
    int8_t *to;
    int64_t step;
};

#define HELD 64 /* blocks that stay mixed in the first cache; those behind them are mixed again */

static float quantize_segment(const struct segment_row *s)
{
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
    _Alignas(64) float held[HELD][BLOCK];
    _Alignas(64) uint32_t each[16];
    __m512i most = _mm512_setzero_si512();
    __m512 x[4];
    for (int64_t b = s->b; b < s->end; b += 2) {
        mixed(&s->from, b, (s->end - b) * LK_AMX_BLOCK, x);
        for (int i = 0; i < 4; i++) {
            most = _mm512_max_epu32(most, _mm512_and_si512((__m512i)x[i], no_sign));
            if (b - s->b < 2 * HELD)
                _mm512_storeu_ps(held[(b - s->b) / 2] + 16 * i, x[i]);
        }
    }
    _mm512_storeu_si512(each, most);
    for (int i = 1; i < 16; i++)
        each[0] = each[i] > each[0] ? each[i] : each[0];
    struct lk_int8_scale of = lk_int8_scale_of(each[0]);
    int8_t *to = s->to;
    for (int64_t b = s->b; b < s->end; b += 2, to += s->step) {
        if (b - s->b >= 2 * HELD)
            mixed(&s->from, b, (s->end - b) * LK_AMX_BLOCK, x);
        for (int i = 0; i < 4; i++) {
            __m512 v = b - s->b < 2 * HELD ? _mm512_loadu_ps(held[(b - s->b) / 2] + 16 * i) : x[i];
            __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(of.inverse)));
            LK_SIXTEEN_BYTES bytes = __builtin_convertvector((LK_SIXTEEN)q, LK_SIXTEEN_BYTES);
            memcpy(to + 16 * i, &bytes, sizeof bytes);
        }
    }
    return of.s;
}

static void quantize(const struct lk_quantize *a, int64_t begin, int64_t end)
{
    const struct lk_cols *c = a->a.cols;
    const struct lk_panels panels = lk_panels_of(a->a.n_row, ROWS);
    int64_t n_to = lk_int8_cols(c);
    float *scales = (float *)(void *)((int8_t *)a->q + a->a.n_row * n_to);
    for (int64_t row = begin; row < end; row++) {
        int64_t ip = lk_panel_of(&panels, row), first = lk_panel_begin(&panels, ip), r = lk_panel_rows(&panels, ip);
        struct segment_row s = {.from = lk_amx_row_of(&a->a, row),
                                .to = (int8_t *)a->q + first * n_to + (row - first) * BLOCK,
                                .step = BLOCK * r};
        for (int i = 0; i < c->n_seg; i++) {
            s.b = c->packed[i] / LK_AMX_BLOCK;
            s.end = c->packed[i + 1] / LK_AMX_BLOCK;
            scales[row * c->n_seg + i] = quantize_segment(&s);
            s.to += lk_int8_width(c, i) * r;
        }
    }
}

/* How the work is cut: items are chunks of pairs of activation panels by groups of weight panels, the groups running
 * fastest. */
struct plan {
    struct lk_panels rows;
    int64_t n_pair, n_panel, group, n_group, n_chunk;
};

static struct plan plan_of(const struct lk_linear *a)
{
    struct plan p = {.rows = lk_panels_of(a->a.n_row, ROWS), .n_panel = lk_ceil_div(a->n_out, PANEL), .group = 1};
    if (p.rows.n == 0)
        return p;
    if (p.rows.n == 1 || a->epilogue == LK_EP_SWIGLU)
        p.group = 2; /* SwiGLU: half a line each, and no two threads write to one */
    p.n_pair = lk_ceil_div(p.rows.n, 2);
    p.n_group = lk_ceil_div(p.n_panel, p.group);
    p.n_chunk = lk_ceil_div(p.n_pair, lk_chunk_panels(a->l2_bytes, 2 * ROWS * lk_int8_cols(a->a.cols), CHUNK_PAIRS));
    return p;
}

static int64_t linear_items(const struct lk_linear *a)
{
    struct plan p = plan_of(a);
    return p.n_group * p.n_chunk;
}

/* What one thread works with: a chunk's activation panels against a weight panel, or two when there is a single
 * activation panel. */
struct work {
    const struct lk_linear *a;
    struct plan plan;
    struct lk_amx_shape shape;
    int64_t n_col, panel_bytes;  /* columns in whole blocks; bytes of a weight panel */
    int64_t row_begin, row_end;  /* the chunk's activation panels */
    int64_t panel;               /* the weight panel, */
    bool two;                    /* and the one behind it */
    const char *next;            /* the weights that come next */
    struct lk_amx_far far;       /* what is not fetched yet */
    float (*sums)[BAND_NUMBERS]; /* [LK_TREE_DEPTH] on the way up the tree; the result is sums[0] */
};

static int64_t width_of(const struct work *t)
{
    return t->two ? 2 * PANEL : PANEL;
}

/* Some blocks of one segment. */
struct part {
    int64_t block, n_block;
    bool begin;
};

/* Adds a part's products to the whole numbers at `sums` of activation panels ip and, where there is one, ip + 1. */
static void take_part(struct work *t, const struct part *part, int64_t ip, float *sums)
{
    int r0 = lk_panel_rows(&t->plan.rows, ip), r1 = ip + 1 < t->row_end ? lk_panel_rows(&t->plan.rows, ip + 1) : 0;
    const char *a0 = (const char *)t->a->a.data + lk_panel_begin(&t->plan.rows, ip) * t->n_col;
    const char *w = (const char *)t->a->w + t->panel * t->panel_bytes + part->block * BLOCK_BYTES;
    struct lk_amx_run p = {
        .a = {a0 + part->block * r0 * BLOCK, a0 + t->n_col * r0 + part->block * r1 * BLOCK},
        .a_row = BLOCK,
        .a_step = {r0 * BLOCK, r1 * BLOCK},
        .w = {w, w + t->panel_bytes},
        .w_row = 64,
        .w_next = BLOCK_BYTES / 2,
        .w_step = BLOCK_BYTES,
        .n_block = part->n_block,
        .c = {sums, sums + (t->two ? PANEL : r0 * PANEL)},
        .c_row = width_of(t) * 4,
        .begin = part->begin,
        .far = &t->far,
    };
    if (ip == t->row_begin && t->far.near)
        lk_amx_come_near(&p, part->block + part->n_block == t->n_col / BLOCK, t->next);
    lk_amx_fetch_y(t->a, &(struct lk_amx_share){part->block, part->n_block, t->n_col / BLOCK,
                                                lk_panel_begin(&t->plan.rows, ip), r0 + r1, t->panel});
    lk_amx_configure(&t->shape, r0, r1);
    lk_amx_run_pair(&t->shape, t->two, lk_amx_once_of(t->a, t->row_end - t->row_begin), true, &p);
}

/* The whole numbers of segment s become numbers: n rows from `row` on. */
static void scale(const struct work *t, int s, int64_t row, int64_t n, float *sums)
{
    const struct lk_cols *c = t->a->a.cols;
    const int64_t width = width_of(t);
    const char *end_of_w = (const char *)t->a->w + t->panel * t->panel_bytes + PANEL * t->n_col;
    const float *a_scale = (const float *)(const void *)((const char *)t->a->a.data + t->a->a.n_row * t->n_col);
    a_scale += row * c->n_seg + s;
    for (int64_t j = 0; j < width; j += 32) {
        const char *at = end_of_w + j / PANEL * t->panel_bytes + (s * PANEL + j % PANEL) * 4;
        const __m512 w0 = _mm512_loadu_ps(at), w1 = _mm512_loadu_ps(at + 64);
        for (int64_t i = 0; i < n; i++) {
            float *v = sums + i * width + j;
            __m512 x = _mm512_set1_ps(a_scale[i * c->n_seg]);
            __m512 v0 = _mm512_cvtepi32_ps(_mm512_loadu_si512(v)), v1 = _mm512_cvtepi32_ps(_mm512_loadu_si512(v + 16));
            _mm512_storeu_ps(v, _mm512_mul_ps(v0, _mm512_mul_ps(x, w0)));
            _mm512_storeu_ps(v + 16, _mm512_mul_ps(v1, _mm512_mul_ps(x, w1)));
        }
    }
}

/* Segment s of the pairs of activation panels begin .. end - 1, the first one's sums at `sums`. A pair's whole numbers
 * become numbers behind the next one's products, so that the tiles do not wait. */
static void take_segment(struct work *t, int s, int64_t first, int64_t begin, int64_t end, float *sums)
{
    int64_t n_block = lk_int8_width(t->a->a.cols, s) / BLOCK, row = lk_panel_begin(&t->plan.rows, begin);
    int64_t n_part = end - begin > 4 ? lk_ceil_div(n_block, RUN) : lk_min(1, n_block), done = row;
    for (int64_t i = 0; i < n_part; i++) {
        int64_t from = n_block * i / n_part, to = n_block * (i + 1) / n_part;
        struct part part = {first + from, to - from, i == 0};
        for (int64_t ip = begin; ip < end; ip += 2) {
            int64_t at = lk_panel_begin(&t->plan.rows, ip);
            take_part(t, &part, ip, sums + (at - row) * width_of(t));
            if (i + 1 == n_part) {
                scale(t, s, done, at - done, sums + (done - row) * width_of(t));
                done = at;
            }
        }
    }
    scale(t, s, done, lk_panel_begin(&t->plan.rows, end) - done, sums + (done - row) * width_of(t));
}

/* sums[0] = the products of activation panels begin .. end - 1, one behind the other. */
static void take_band(struct work *t, int64_t begin, int64_t end)
{
    const struct lk_cols *c = t->a->a.cols;
    int64_t row = lk_panel_begin(&t->plan.rows, begin), n = lk_panel_begin(&t->plan.rows, end) - row, first = 0;
    int wait = 0;
    for (int s = 0; s < c->n_seg; s++) {
        float *sums = t->sums[wait];
        if (lk_int8_width(c, s) == 0)
            memset(sums, 0, (size_t)(n * width_of(t)) * sizeof *sums);
        else
            take_segment(t, s, first, begin, end, sums);
        first += lk_int8_width(c, s) / BLOCK;
        struct lk_lora_tile tile = {sums, row, t->panel * (PANEL / LK_LORA_STRIP), (int)n,
                                    (int)width_of(t) / LK_LORA_STRIP};
        if (t->a->lora)
            lk_lora_leaf(t->a->lora, s, &tile, LK_BF16);
        wait = lk_climb(t->sums[0], BAND_NUMBERS, c, s, wait, n * width_of(t));
    }
}

/* The chunk against its weight panel; `next` is read after it. */
static void take_panel(struct work *t, int64_t next)
{
    int64_t n_pair = lk_ceil_div(t->row_end - t->row_begin, 2);
    const char *panel = (const char *)t->a->w + t->panel * t->panel_bytes;
    t->next = (const char *)t->a->w + next * t->panel_bytes;
    t->far = lk_amx_far_of(panel, t->next, t->panel_bytes, t->two, n_pair, t->n_col / BLOCK);
    for (int64_t begin = t->row_begin, end; begin < t->row_end; begin = end) {
        end = lk_min(begin + 2 * BAND, t->row_end);
        take_band(t, begin, end);
        float *v = t->sums[0];
        for (int64_t ip = begin; ip < end; ip++) {
            int r = lk_panel_rows(&t->plan.rows, ip);
            struct lk_tile tile = {v, (int)width_of(t), r, lk_panel_begin(&t->plan.rows, ip), t->panel};
            for (int i = 0; i <= t->two; i++, tile.v += PANEL, tile.panel++)
                lk_amx_epilogue(t->a, &tile, NULL);
            v += r * width_of(t);
        }
    }
}

static void linear(const struct lk_linear *a, int64_t begin, int64_t end)
{
    _Alignas(64) float sums[LK_TREE_DEPTH][BAND_NUMBERS];
    struct work t = {.a = a,
                     .plan = plan_of(a),
                     .n_col = lk_int8_cols(a->a.cols),
                     .panel_bytes = lk_int8_panel_bytes(a->a.cols, &order),
                     .sums = sums};
    const struct plan *plan = &t.plan;
    for (int64_t item = begin; item < end; item++) {
        int64_t chunk = item / plan->n_group, group = item % plan->n_group;
        t.row_begin = 2 * (plan->n_pair * chunk / plan->n_chunk);
        t.row_end = lk_min(2 * (plan->n_pair * (chunk + 1) / plan->n_chunk), plan->rows.n);
        int64_t panel_end = lk_min((group + 1) * plan->group, plan->n_panel);
        int64_t after = (item + 1 + (item + 1 < end ? 0 : a->skip_items)) % plan->n_group * plan->group;
        for (t.panel = group * plan->group; t.panel < panel_end; t.panel += 1 + t.two) {
            t.two = plan->rows.n == 1 && t.panel + 1 < panel_end;
            take_panel(&t, t.panel + 1 + t.two < panel_end ? t.panel + 1 + t.two : after);
        }
    }
    _tile_release(); /* else each context switch of the thread would carry eight tiles */
}

static void norms(const void *row, enum lk_type type, const struct lk_cols *cols, struct lk_int8_norms *out)
{
    lk_norms(row, type, cols, out);
}

void lk_amx_int8_init(struct lk_cpu *t)
{
    t->int8 = (struct lk_int8){.weight_bytes = weight_bytes,
                               .act_bytes = act_bytes,
                               .pack = pack,
                               .quantize_items = quantize_items,
                               .quantize = quantize,
                               .linear_items = linear_items,
                               .linear = linear,
                               .norms = norms,
                               .screen = lk_avx512_screen};
}
