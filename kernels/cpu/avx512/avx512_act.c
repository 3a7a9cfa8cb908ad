/* Activations, embedding and norm; the set's init. */
#include "kernels/cpu/avx512/avx512_norm.h"
#include "kernels/cpu/avx512/avx512_words.h"

static void put_half(uint32_t *word, int64_t half, uint16_t v)
{
    memcpy((char *)word + 2 * half, &v, sizeof v);
}

void lk_avx512_put_cols(const struct lk_act *a, int64_t row, int64_t col0, const float *v, int64_t n)
{
    const struct lk_cols *c = a->cols;
    struct lk_row to = lk_row_of(a, row);
    for (int64_t i = 0; i < n;) {
        int64_t col = col0 + i;
        int s = lk_cols_seg(c, col);
        int64_t some = lk_min(32, lk_min(c->begin[s + 1], col0 + n) - col);
        int64_t k = c->packed[s] + (col - c->begin[s]);
        uint16_t half[32];
        _mm512_storeu_si512(half, lk_round32(v + i, (int)some));
        i += some;
        int64_t j = 0;
        if (k % 2 == 0) {
            for (; j + 2 <= some; j += 2, k += 2)
                memcpy(to.at + k / 2 * to.r, half + j, sizeof(uint32_t));
        }
        for (; j < some; j++, k++)
            put_half(to.at + k / 2 * to.r, k % 2, half[j]);
        if (col + some < c->begin[s + 1])
            continue;
        for (; k < c->packed[s + 1]; k++)
            put_half(to.at + k / 2 * to.r, k % 2, 0);
    }
}

static void act_row(const struct lk_act *a, int64_t row, float *out)
{
    const struct lk_cols *c = a->cols;
    struct lk_row from = lk_row_of(a, row);
    for (int s = 0; s < c->n_seg; s++) {
        for (int64_t col = c->begin[s]; col < c->begin[s + 1]; col++) {
            int64_t k = c->packed[s] + (col - c->begin[s]);
            uint32_t word = from.at[k / 2 * from.r];
            out[col] = lk_widen((uint16_t)(k % 2 ? word >> 16 : word));
        }
    }
}

static int64_t act_rows(const struct lk_act *a)
{
    struct lk_panels p = lk_panels_of(a->n_row);
    return lk_panel_begin(&p, p.n);
}

static void embed(const struct lk_embed *a, int64_t begin, int64_t end)
{
    for (int64_t t = begin; t < end; t++) {
        const uint16_t *from = (const uint16_t *)a->table + a->id[t] * a->dim;
        float *to = a->x + t * a->dim;
        for (int64_t i = 0; i < a->dim; i += 16) {
            __mmask16 m = lk_mask16(a->dim - i);
            __m512i x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, from + i));
            _mm512_mask_storeu_ps(to + i, m, lk_widen_low(x));
        }
    }
}

/* An item is a panel: its rows share cache lines. */
static int64_t norm_items(const struct lk_norm *a)
{
    return lk_panels_of(a->y.n_row).n;
}

static void norm_panel(const struct lk_norm *a, int64_t row, int r)
{
    const struct lk_cols *c = a->y.cols;
    uint32_t *y = (uint32_t *)a->y.data + row * (lk_cols_packed(c) / 2);
    const float *x[LK_AVX512_ROWS];
    float inv[LK_AVX512_ROWS];
    for (int i = 0; i < r; i++) {
        x[i] = a->x + (a->row ? a->row[row + i] : row + i) * c->n_col;
        inv[i] = lk_inverse_rms(x[i], c->n_col, a->eps);
    }
    for (int s = 0; s < c->n_seg; s++) {
        uint32_t *to = y + c->packed[s] / 2 * r;
        for (int64_t col = c->begin[s]; col < c->begin[s + 1]; col += 32, to += 16 * r) {
            _Alignas(64) uint32_t word[LK_AVX512_ROWS][16];
            int64_t n = c->begin[s + 1] - col;
            if (n >= 32) {
                for (int i = 0; i < r; i++)
                    _mm512_store_si512(word[i], lk_normed32(a, x[i], inv[i], col, 32));
            } else {
                for (int i = 0; i < r; i++)
                    _mm512_store_si512(word[i], lk_normed32(a, x[i], inv[i], col, n));
            }
            lk_put_words8(to, r, word[0], 16);
            lk_put_words8(to + 8 * r, r, word[0] + 8, 16);
        }
    }
}

static void norm(const struct lk_norm *a, int64_t begin, int64_t end)
{
    struct lk_panels panels = lk_panels_of(a->y.n_row);
    for (int64_t panel = begin; panel < end; panel++)
        norm_panel(a, lk_panel_begin(&panels, panel), lk_panel_rows(&panels, panel));
}

static void exp_each(const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lk_mask16(n - i);
        _mm512_mask_storeu_ps(y + i, m, lk_exp(_mm512_maskz_loadu_ps(m, x + i)));
    }
}

/* Sums fill 24 registers, as in the product's tile; from_l1 takes its operands from memory as the tile does. */
LK_INLINE double rounds(const bool from_l1, int64_t n)
{
    enum { ROWS = LK_AVX512_ROWS, STEPS = 8 };
    static uint32_t memory[STEPS * (ROWS + LK_AVX512_PANEL)];
    const uint32_t *a = memory, *w = memory + STEPS * ROWS;
    __asm__ volatile("" : "+r"(a), "+r"(w)); /* else the compiler knows what stands there */
    __m512 sum[ROWS][2];
    __m512bh x = (__m512bh)_mm512_setzero_si512(), y[2] = {x, x};
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++) { /* sums that were equal would be one */
        sum[i][0] = _mm512_set1_ps((float)i);
        sum[i][1] = _mm512_set1_ps((float)-i);
    }
    for (int64_t at = 0; at < n; at++) {
        int step = (int)(at % STEPS);
#pragma GCC unroll 2
        for (int j = 0; j < 2 && from_l1; j++)
            y[j] = (__m512bh)_mm512_loadu_si512(w + step * LK_AVX512_PANEL + 16 * j);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            if (from_l1)
                x = (__m512bh)_mm512_set1_epi32((int)a[step * ROWS + i]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], y[0], x);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], y[1], x);
        }
        if (!from_l1) /* else the loop is empty to the compiler */
            __asm__ volatile("" : LK_KEEP(x), LK_KEEP(y[0]), LK_KEEP(y[1]));
        __asm__ volatile("" ::: "memory");
    }
    __m512 all = _mm512_setzero_ps();
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++)
        all = _mm512_add_ps(all, _mm512_add_ps(sum[i][0], sum[i][1]));
    volatile float keep = _mm512_reduce_add_ps(all);
    (void)keep;
    return ROWS * 2 * 64.0 * (double)n;
}

static double peak(bool from_l1, int64_t n)
{
    return from_l1 ? rounds(true, n) : rounds(false, n);
}

void lk_avx512_act_init(struct lk_cpu *t)
{
    t->act_row = act_row;
    t->act_rows = act_rows;
    t->embed = embed;
    t->norm_items = norm_items;
    t->norm = norm;
}

void lk_avx512_init(struct lk_cpu *t, enum lk_type type)
{
    if (type != LK_BF16)
        return;
    t->name = "avx512bf16";
    t->act_bytes = sizeof(uint16_t);
    t->exp = exp_each;
    t->peak = peak;
    lk_avx512_act_init(t);
    lk_avx512_linear_init(t);
    lk_avx512_rope_init(t);
    lk_avx512_attend_init(t);
    lk_avx512_top_init(t);
}
