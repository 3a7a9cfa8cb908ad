/* Products of weights of 4 bits by activations of 8. Activations: q [n_row, packed columns], then scales [n_row, half
 * blocks]; weights: panels of 16 output columns, codes by word. */
#include <math.h>

#include "kernels/cpu/lk_int8_block.h"
#include "kernels/cpu/lk_packed.h"
#include "kernels/cpu/ref/lk_ref.h"

#define PANEL LK_REF_PANEL
#define HALF (LK_BLOCK / 2)

static size_t act_bytes(int64_t n_row, const struct lk_cols *cols)
{
    return (size_t)(n_row * (lk_cols_packed(cols) + lk_cols_packed(cols) / HALF * (int64_t)sizeof(float)));
}

static void pack_codes(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_WORD);
}

static int64_t quantize_items(const struct lk_quantize *a)
{
    return a->a.n_row;
}

static float *scales_of(void *q, int64_t n_row, int64_t n_k)
{
    return (float *)(void *)((int8_t *)q + n_row * n_k);
}

static inline void quantize(const struct lk_quantize *a, int64_t begin, int64_t end, enum lk_type type)
{
    int64_t n_k = lk_cols_packed(a->a.cols);
    for (int64_t at = begin * n_k; at < end * n_k; at += HALF) {
        float x[HALF];
        uint32_t most = 0;
        for (int i = 0; i < HALF; i++) {
            x[i] = lk_ref_get(a->a.data, at + i, type);
            most = lk_int8_more(most, x[i]);
        }
        struct lk_int8_scale of = lk_int8_scale_of(most);
        scales_of(a->q, a->a.n_row, n_k)[at / HALF] = of.s;
        for (int i = 0; i < HALF; i++)
            ((int8_t *)a->q)[at + i] = lk_int8_of(x[i], of.inverse);
    }
}

static void quantize_f32(const struct lk_quantize *a, int64_t begin, int64_t end)
{
    quantize(a, begin, end, LK_F32);
}

static void quantize_bf16(const struct lk_quantize *a, int64_t begin, int64_t end)
{
    quantize(a, begin, end, LK_BF16);
}

/* A run of blocks with one d: p and u. */
struct run {
    float p, u;
};

/* One row's numbers of a block and their scales, one output's codes. */
static void add_block(struct run *run, const struct lk_block_codes *b, const int8_t *q, const float s[2])
{
    float scaled[2];
    for (int half = 0; half < 2; half++) {
        int32_t dot = 0, all = 0;
        for (int i = half * HALF; i < (half + 1) * HALF; i++) {
            dot += b->code[i] * q[i];
            all += q[i];
        }
        run->p = fmaf((float)(b->line[0].kind == LK_PK_S4 ? dot - 8 * all : dot), s[half], run->p);
        scaled[half] = s[half] * (float)all;
    }
    run->u += scaled[0] + scaled[1];
}

static float end_run(struct run *run, const struct lk_line *l, float sum)
{
    const float e = l->kind == LK_PK_Z4 ? -(l->d * l->z) : l->m;
    sum = fmaf(run->p, l->d, sum);
    if (l->kind != LK_PK_S4)
        sum = fmaf(e, run->u, sum);
    *run = (struct run){0, 0};
    return sum;
}

/* Whether the block at packed column k of segment s ends a run. */
static bool ends(const struct lk_packed *q, const struct lk_cols *c, int s, int64_t k)
{
    int64_t n, at = lk_packed_col(c, s, k, &n);
    return q->kind == LK_PK_K4 || k + LK_BLOCK >= c->packed[s + 1] ||
           lk_packed_group(q, at) != lk_packed_group(q, at + LK_BLOCK);
}

static void segment(const struct lk_linear *a, const struct lk_ref_place *p, int s, float acc[][PANEL],
                    enum lk_type type)
{
    (void)type;
    const struct lk_cols *c = a->a.cols;
    const struct lk_packed_panel panel = lk_packed_panel_of(a->q, c, PANEL);
    const uint8_t *at = (const uint8_t *)a->w + p->panel * panel.bytes;
    const int64_t n_k = lk_cols_packed(c);
    struct run run[LK_REF_ROWS][PANEL] = {0};
    for (int64_t k = c->packed[s]; k < c->packed[s + 1]; k += LK_BLOCK) {
        const bool last = ends(a->q, c, s, k);
        for (int j = 0; j < PANEL; j++) {
            struct lk_block_codes b;
            lk_packed_block(&panel, at, s, k, j, &b);
            for (int i = 0; i < p->r; i++) {
                const int64_t from = (p->row + i) * n_k + k;
                const float *scales = scales_of(a->a.data, a->a.n_row, n_k) + from / HALF;
                add_block(&run[i][j], &b, (const int8_t *)a->a.data + from, scales);
                if (last)
                    acc[i][j] = end_run(&run[i][j], &b.line[0], acc[i][j]);
            }
        }
    }
}

static void linear_f32(const struct lk_linear *a, int64_t begin, int64_t end)
{
    lk_ref_linear(a, begin, end, LK_F32, segment);
}

static void linear_bf16(const struct lk_linear *a, int64_t begin, int64_t end)
{
    lk_ref_linear(a, begin, end, LK_BF16, segment);
}

void lk_ref_w4a8_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->w4a8 = (struct lk_w4a8){.act_bytes = act_bytes,
                               .pack_codes = pack_codes,
                               .quantize_items = quantize_items,
                               .quantize = f32 ? quantize_f32 : quantize_bf16,
                               .linear_items = lk_ref_linear_items,
                               .linear = f32 ? linear_f32 : linear_bf16};
}
