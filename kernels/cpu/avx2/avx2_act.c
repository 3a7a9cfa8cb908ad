/* Activations, embedding and norm; the set's init. */
#include <math.h>

#include "kernels/cpu/avx2/lk_avx2.h"

void lk_avx2_put_cols(const struct lk_act *a, int64_t row, int64_t col0, const float *v, int64_t n)
{
    const struct lk_cols *c = a->cols;
    struct lk_row to = lk_row_of(a, row);
    for (int64_t i = 0; i < n;) {
        int64_t col = col0 + i;
        int s = lk_cols_seg(c, col);
        int64_t end = lk_min(c->begin[s + 1], col0 + n);
        int64_t k = c->packed[s] + (col - c->begin[s]);
        for (; col < end; k++, i++, col++)
            *lk_row_col(&to, k) = v[i];
        if (end == c->begin[s + 1])
            for (; k < c->packed[s + 1]; k++)
                *lk_row_col(&to, k) = 0;
    }
}

static void act_row(const struct lk_act *a, int64_t row, float *out)
{
    const struct lk_cols *c = a->cols;
    struct lk_row from = lk_row_of(a, row);
    for (int s = 0; s < c->n_seg; s++)
        for (int64_t col = c->begin[s]; col < c->begin[s + 1]; col++)
            out[col] = *lk_row_col(&from, c->packed[s] + (col - c->begin[s]));
}

static int64_t act_rows(const struct lk_act *a)
{
    struct lk_panels p = lk_panels_of(a->n_row, LK_AVX2_ROWS);
    return lk_panel_begin(&p, p.n);
}

static void embed_bf16(const struct lk_embed *a, int64_t begin, int64_t end)
{
    for (int64_t t = begin; t < end; t++) {
        const uint16_t *from = (const uint16_t *)a->table + a->id[t] * a->dim;
        float *to = a->x + t * a->dim;
        int64_t i = 0;
        for (; i + 8 <= a->dim; i += 8)
            _mm256_storeu_ps(to + i, lk_widen8(from + i));
        for (; i < a->dim; i++)
            to[i] = lk_widen(from[i]);
    }
}

static int64_t norm_items(const struct lk_norm *a)
{
    return a->y.n_row;
}

static float inverse_rms(const float *x, int64_t n, float eps)
{
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256 v = _mm256_loadu_ps(x + i + 8 * j);
            sum[j] = _mm256_fmadd_ps(v, v, sum[j]);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        if (i + 8 * j >= n)
            break;
        __m256 v = lk_load8(x + i + 8 * j, n - i - 8 * j);
        sum[j] = _mm256_fmadd_ps(v, v, sum[j]);
    }
    float all = lk_sum8(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
    return 1.0f / sqrtf(all / (float)n + eps);
}

LK_INLINE void norm(const struct lk_norm *a, int64_t begin, int64_t end, const enum lk_type type)
{
    const struct lk_cols *c = a->y.cols;
    for (int64_t i = begin; i < end; i++) {
        const float *x = a->x + (a->row ? a->row[i] : i) * c->n_col;
        struct lk_row row = lk_row_of(&a->y, i);
        __m256 inv = _mm256_set1_ps(inverse_rms(x, c->n_col, a->eps));
        for (int s = 0; s < c->n_seg; s++) {
            float *to = lk_row_col(&row, c->packed[s]), *stop = lk_row_col(&row, c->packed[s + 1]);
            int64_t col = c->begin[s], last = c->begin[s + 1];
            for (; col + 8 <= last; col += 8, to += row.step) {
                __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + col), inv);
                _mm256_storeu_ps(to, lk_typed8(_mm256_mul_ps(v, _mm256_loadu_ps(a->w + col)), type));
            }
            for (; to < stop; col += 8, to += row.step) { /* zeros behind the last column */
                __m256 v = _mm256_mul_ps(lk_load8(x + lk_min(col, last), last - col), inv);
                v = _mm256_mul_ps(v, lk_load8(a->w + lk_min(col, last), last - col));
                _mm256_storeu_ps(to, lk_typed8(v, type));
            }
        }
    }
}

LK_BOTH_TYPES(norm, lk_norm)

static void exp_each(const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += 8)
        lk_store8(y + i, lk_exp(lk_load8(x + i, n - i)), n - i);
}

/* Sums fill 12 registers, as in the product's tile; from_l1 takes its operands from memory as the tile does in f32. */
LK_INLINE double rounds(const bool from_l1, int64_t n)
{
    enum { ROWS = LK_AVX2_ROWS, STEPS = 8 };
    static float memory[STEPS * (ROWS + LK_AVX2_PANEL)];
    const float *a = memory, *w = memory + STEPS * ROWS;
    __asm__ volatile("" : "+r"(a), "+r"(w)); /* else the compiler knows what stands there */
    __m256 sum[ROWS][2], x = _mm256_setzero_ps(), y[2] = {x, x};
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++) { /* sums that were equal would be one */
        sum[i][0] = _mm256_set1_ps((float)i);
        sum[i][1] = _mm256_set1_ps((float)-i);
    }
    for (int64_t at = 0; at < n; at++) {
#pragma GCC unroll 8
        for (int step = 0; step < STEPS; step++) {
            if (from_l1) {
                y[0] = _mm256_loadu_ps(w + step * LK_AVX2_PANEL);
                y[1] = _mm256_loadu_ps(w + step * LK_AVX2_PANEL + 8);
            }
#pragma GCC unroll 6
            for (int i = 0; i < ROWS; i++) {
                if (from_l1)
                    x = _mm256_broadcast_ss(a + step * ROWS + i);
                sum[i][0] = _mm256_fmadd_ps(y[0], x, sum[i][0]);
                sum[i][1] = _mm256_fmadd_ps(y[1], x, sum[i][1]);
            }
            if (!from_l1) /* else the loop is empty to the compiler */
                __asm__ volatile("" : "+x"(x), "+x"(y[0]), "+x"(y[1]));
            __asm__ volatile("" ::: "memory");
        }
    }
    __m256 all = _mm256_setzero_ps();
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++)
        all = _mm256_add_ps(all, _mm256_add_ps(sum[i][0], sum[i][1]));
    volatile float keep = lk_sum8(all);
    (void)keep;
    return ROWS * 2 * 16.0 * STEPS * (double)n;
}

static double peak(bool from_l1, int64_t n)
{
    return from_l1 ? rounds(true, n) : rounds(false, n);
}

static void round_f32(const struct lk_round *a, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        lk_avx2_put_cols(&a->y, i, 0, a->x + i * a->x_ld, a->y.cols->n_col);
}

static void round_bf16(const struct lk_round *a, int64_t begin, int64_t end)
{
    int64_t n_col = a->y.cols->n_col;
    float part[64];
    for (int64_t i = begin; i < end; i++) {
        const float *x = a->x + i * a->x_ld;
        for (int64_t k = 0; k < n_col; k += 64) {
            int64_t n = lk_min(64, n_col - k);
            for (int64_t j = 0; j < n; j += 8)
                _mm256_storeu_ps(part + j, lk_rounded8(lk_load8(x + k + j, n - j)));
            lk_avx2_put_cols(&a->y, i, k, part, n);
        }
    }
}

void lk_avx2_act_init(struct lk_cpu *t, enum lk_type type)
{
    t->act_row = act_row;
    t->act_rows = act_rows;
    if (type == LK_BF16)
        t->embed = embed_bf16; /* in f32 the reference copies */
    t->norm_items = norm_items;
    t->norm = type == LK_F32 ? norm_f32 : norm_bf16;
    t->round = type == LK_F32 ? round_f32 : round_bf16;
    t->exp = exp_each;
    t->peak = peak;
}

void lk_avx2_init(struct lk_cpu *t, enum lk_type type)
{
    t->name = "avx2";
    t->act_bytes = sizeof(float);
    lk_avx2_act_init(t, type);
    lk_avx2_linear_init(t, type);
    lk_avx2_rope_init(t, type);
    lk_avx2_attend_init(t, type);
    lk_avx2_index_init(t, type);
    lk_avx2_top_init(t);
    lk_avx2_int8_init(t, type);
    lk_avx2_w4a8_init(t, type);
}
