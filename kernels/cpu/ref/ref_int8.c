/* Products in int8. Activations: q [n_row, columns in whole blocks], then scales [n_row, n_seg]; weights: panels of 16
 * output columns, [columns, 16] each and their scales. */
#include "kernels/cpu/lk_int8.h"
#include "kernels/cpu/ref/lk_ref.h"

#define PANEL LK_REF_PANEL

static int64_t place(int64_t k, int64_t j)
{
    return k * PANEL + j;
}

static const struct lk_int8_order order = {.panel = PANEL, .run = 1, .at = place};

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

static int64_t quantize_items(const struct lk_quantize *a)
{
    return a->a.n_row;
}

/* Block `at` of segment s of a row, mixed. */
static inline void mixed(const struct lk_act *a, int64_t row, int s, int64_t at, float x[LK_INT8_BLOCK],
                         enum lk_type type)
{
    const struct lk_cols *c = a->cols;
    int64_t k = row * lk_cols_packed(c) + c->packed[s] + at, n = c->packed[s + 1] - c->packed[s] - at;
    for (int i = 0; i < LK_INT8_BLOCK; i++)
        x[i] = i < n ? lk_ref_get(a->data, k + i, type) : 0;
    for (int h = 1; h < LK_INT8_BLOCK; h *= 2) {
        for (int i = 0; i < LK_INT8_BLOCK; i++) {
            if (i & h)
                continue;
            float u = x[i], v = x[i + h];
            x[i] = u + v;
            x[i + h] = u - v;
        }
    }
}

static inline void quantize(const struct lk_quantize *a, int64_t begin, int64_t end, enum lk_type type)
{
    const struct lk_cols *c = a->a.cols;
    int64_t n_k = lk_int8_cols(c);
    float x[LK_INT8_BLOCK], *scales = (float *)(void *)((int8_t *)a->q + a->a.n_row * n_k);
    for (int64_t row = begin; row < end; row++) {
        int8_t *q = (int8_t *)a->q + row * n_k;
        for (int s = 0; s < c->n_seg; s++) {
            int64_t width = lk_int8_width(c, s);
            uint32_t most = 0;
            for (int64_t at = 0; at < width; at += LK_INT8_BLOCK) {
                mixed(&a->a, row, s, at, x, type);
                for (int i = 0; i < LK_INT8_BLOCK; i++)
                    most = lk_int8_more(most, x[i]);
            }
            struct lk_int8_scale of = lk_int8_scale_of(most);
            scales[row * c->n_seg + s] = of.s;
            for (int64_t at = 0; at < width; at += LK_INT8_BLOCK) {
                mixed(&a->a, row, s, at, x, type);
                for (int i = 0; i < LK_INT8_BLOCK; i++)
                    *q++ = lk_int8_of(x[i], of.inverse);
            }
        }
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

static void segment(const struct lk_linear *a, const struct lk_ref_place *p, int s, float acc[][PANEL],
                    enum lk_type type)
{
    (void)type;
    const struct lk_cols *c = a->a.cols;
    int64_t n_k = lk_int8_cols(c), first = lk_int8_begin(c, s), end = first + lk_int8_width(c, s);
    const int8_t *w = (const int8_t *)a->w + p->panel * lk_int8_panel_bytes(c, &order);
    const float *w_scale = (const float *)(const void *)(w + PANEL * n_k) + s * PANEL;
    for (int i = 0; i < p->r; i++) {
        const int8_t *q = (const int8_t *)a->a.data + (p->row + i) * n_k;
        const float *scales = (const float *)(const void *)((const int8_t *)a->a.data + a->a.n_row * n_k);
        float a_scale = scales[(p->row + i) * c->n_seg + s];
        int32_t sum[PANEL] = {0};
        for (int64_t k = first; k < end; k++)
            for (int j = 0; j < PANEL; j++)
                sum[j] += q[k] * w[k * PANEL + j];
        for (int j = 0; j < PANEL; j++)
            acc[i][j] = (float)sum[j] * (a_scale * w_scale[j]);
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

void lk_ref_int8_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->int8 = (struct lk_int8){.weight_bytes = weight_bytes,
                               .act_bytes = act_bytes,
                               .pack = pack,
                               .quantize_items = quantize_items,
                               .quantize = f32 ? quantize_f32 : quantize_bf16,
                               .linear_items = lk_ref_linear_items,
                               .linear = f32 ? linear_f32 : linear_bf16};
}
