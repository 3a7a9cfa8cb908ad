/* Activations, embedding and norm. */
#include <math.h>

#include "kernels/cpu/ref/lk_ref.h"

void lk_ref_put_cols(const struct lk_act *a, int64_t row, int64_t col0, const float *v, int64_t n, enum lk_type type)
{
    const struct lk_cols *c = a->cols;
    int64_t at = row * lk_cols_packed(c);
    for (int64_t i = 0; i < n;) {
        int64_t col = col0 + i;
        int s = lk_cols_seg(c, col);
        int64_t end = lk_min(c->begin[s + 1], col0 + n);
        int64_t to = at + c->packed[s] + (col - c->begin[s]);
        for (; col < end; col++, i++)
            lk_ref_put(a->data, to++, v[i], type);
        if (end == c->begin[s + 1])
            while (to < at + c->packed[s + 1])
                lk_ref_put(a->data, to++, 0, type);
    }
}

static void act_row(const struct lk_act *a, int64_t row, float *out, enum lk_type type)
{
    const struct lk_cols *c = a->cols;
    for (int s = 0; s < c->n_seg; s++)
        for (int64_t k = c->begin[s]; k < c->begin[s + 1]; k++)
            out[k] = lk_ref_get(a->data, row * lk_cols_packed(c) + c->packed[s] + (k - c->begin[s]), type);
}

static void act_row_f32(const struct lk_act *a, int64_t row, float *out)
{
    act_row(a, row, out, LK_F32);
}

static void act_row_bf16(const struct lk_act *a, int64_t row, float *out)
{
    act_row(a, row, out, LK_BF16);
}

static int64_t act_rows(const struct lk_act *a)
{
    return a->n_row;
}

static void embed_f32(const struct lk_embed *a, int64_t begin, int64_t end)
{
    for (int64_t t = begin; t < end; t++)
        memcpy(a->x + t * a->dim, (const float *)a->table + a->id[t] * a->dim, (size_t)a->dim * sizeof(float));
}

static void embed_bf16(const struct lk_embed *a, int64_t begin, int64_t end)
{
    for (int64_t t = begin; t < end; t++) {
        const uint16_t *from = (const uint16_t *)a->table + a->id[t] * a->dim;
        for (int64_t i = 0; i < a->dim; i++)
            a->x[t * a->dim + i] = lk_widen(from[i]);
    }
}

static int64_t norm_items(const struct lk_norm *a)
{
    return a->y.n_row;
}

/* Eight partial sums, so that the loop can be vectorized; the order depends on n alone. */
static float sum_of_squares(const float *x, int64_t n)
{
    float part[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            part[j] += x[i + j] * x[i + j];
    for (int j = 0; i < n; i++, j++)
        part[j] += x[i] * x[i];
    return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

static inline void norm(const struct lk_norm *a, int64_t begin, int64_t end, enum lk_type type)
{
    int64_t dim = a->y.cols->n_col;
    for (int64_t i = begin; i < end; i++) {
        const float *x = a->x + (a->row ? a->row[i] : i) * dim;
        float inv = 1.0f / sqrtf(sum_of_squares(x, dim) / (float)dim + a->eps);
        float part[64];
        for (int64_t k = 0; k < dim; k += 64) {
            int64_t n = lk_min(64, dim - k);
            for (int64_t j = 0; j < n; j++)
                part[j] = x[k + j] * inv * a->w[k + j];
            lk_ref_put_cols(&a->y, i, k, part, n, type);
        }
    }
}

static void norm_add(const struct lk_norm_add *a, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        const float *y = a->y + i * a->dim;
        float *x = a->x + i * a->dim;
        float inv = 1.0f / sqrtf(sum_of_squares(y, a->dim) / (float)a->dim + a->eps);
        for (int64_t k = 0; k < a->dim; k++)
            x[k] += y[k] * inv * a->w[k];
    }
}

static void round_f32(const struct lk_round *a, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        lk_ref_put_cols(&a->y, i, 0, a->x + i * a->x_ld, a->y.cols->n_col, LK_F32);
}

static void round_bf16(const struct lk_round *a, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        lk_ref_put_cols(&a->y, i, 0, a->x + i * a->x_ld, a->y.cols->n_col, LK_BF16);
}

static void norm_f32(const struct lk_norm *a, int64_t begin, int64_t end)
{
    norm(a, begin, end, LK_F32);
}

static void norm_bf16(const struct lk_norm *a, int64_t begin, int64_t end)
{
    norm(a, begin, end, LK_BF16);
}

void lk_ref_act_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->act_row = f32 ? act_row_f32 : act_row_bf16;
    t->act_rows = act_rows;
    t->embed = f32 ? embed_f32 : embed_bf16;
    t->norm_items = norm_items;
    t->norm = f32 ? norm_f32 : norm_bf16;
    t->norm_add = norm_add;
    t->round = f32 ? round_f32 : round_bf16;
}

static void exp_each(const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = expf(x[i]);
}

void lk_ref_init(struct lk_cpu *t, enum lk_type type)
{
    *t = (struct lk_cpu){
        .name = "ref", .type = type, .act_bytes = lk_ref_elem_bytes(type), .thread_rows = 32, .exp = exp_each};
    lk_ref_act_init(t, type);
    lk_ref_linear_init(t, type);
    lk_ref_rope_init(t, type);
    lk_ref_attend_init(t, type);
    lk_ref_index_init(t, type);
    lk_ref_top_init(t, type);
    lk_ref_moe_init(t);
    lk_ref_int8_init(t, type);
    lk_ref_w4a8_init(t, type);
}
