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
    struct lk_row to = lk_row_of(a, row, LK_BF16);
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

void lk_avx512_put_cols_f32(const struct lk_act *a, int64_t row, int64_t col0, const float *v, int64_t n)
{
    const struct lk_cols *c = a->cols;
    struct lk_row to = lk_row_of(a, row, LK_F32);
    for (int64_t col = col0; col < col0 + n;) {
        int s = lk_cols_seg(c, col);
        int64_t k = c->packed[s] + (col - c->begin[s]);
        for (; col < lk_min(c->begin[s + 1], col0 + n); col++, k++)
            to.at[k * to.r] = lk_bits(v[col - col0]);
        if (col == c->begin[s + 1])
            for (; k < c->packed[s + 1]; k++)
                to.at[k * to.r] = 0;
    }
}

LK_INLINE void act_row(const struct lk_act *a, int64_t row, float *out, const enum lk_type type)
{
    const struct lk_cols *c = a->cols;
    struct lk_row from = lk_row_of(a, row, type);
    for (int s = 0; s < c->n_seg; s++) {
        for (int64_t col = c->begin[s]; col < c->begin[s + 1]; col++) {
            int64_t k = c->packed[s] + (col - c->begin[s]);
            uint32_t word = from.at[k / lk_per_word(type) * from.r];
            out[col] = type == LK_F32 ? lk_float(word) : lk_widen((uint16_t)(k % 2 ? word >> 16 : word));
        }
    }
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
    struct lk_panels p = lk_panels_of(a->n_row, LK_AVX512_ROWS);
    return lk_panel_begin(&p, p.n);
}

static void embed_bf16(const struct lk_embed *a, int64_t begin, int64_t end)
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
    return lk_panels_of(a->y.n_row, LK_AVX512_ROWS).n;
}

/* A row that is normed. */
struct row {
    const float *x;
    float inv;
    uint32_t *word; /* what becomes of 32 columns */
};

/* Columns col .. col + 31, n of them real. */
LK_INLINE void norm_words(const struct lk_norm *a, const struct row *r, int64_t col, int64_t n, const enum lk_type type)
{
    uint32_t *word = r->word;
    if (type == LK_BF16) {
        _mm512_store_si512(word, lk_normed32(a, r->x, r->inv, col, n));
        return;
    }
    __m512 v[2];
    lk_norm32(a, r->x, r->inv, col, n, v);
    _mm512_store_si512(word, (__m512i)v[0]);
    _mm512_store_si512(word + 16, (__m512i)v[1]);
}

LK_INLINE void norm_panel(const struct lk_norm *a, int64_t row, int r, const enum lk_type type)
{
    enum { MOST = 32 }; /* words of 32 columns */
    const int words = MOST / lk_per_word(type);
    const struct lk_cols *c = a->y.cols;
    uint32_t *y = (uint32_t *)a->y.data + row * (lk_cols_packed(c) / lk_per_word(type));
    struct row from[LK_AVX512_ROWS];
    _Alignas(64) uint32_t word[LK_AVX512_ROWS * MOST];
    for (int i = 0; i < r; i++) {
        const float *x = a->x + (a->row ? a->row[row + i] : row + i) * c->n_col;
        from[i] = (struct row){x, lk_inverse_rms(x, c->n_col, a->eps), word + i * words};
    }
    for (int s = 0; s < c->n_seg; s++) {
        uint32_t *to = y + c->packed[s] / lk_per_word(type) * r;
        for (int64_t col = c->begin[s]; col < c->begin[s + 1]; col += 32, to += words * r) {
            int64_t n = c->begin[s + 1] - col;
            if (n >= 32) {
                for (int i = 0; i < r; i++)
                    norm_words(a, &from[i], col, 32, type);
            } else {
                for (int i = 0; i < r; i++)
                    norm_words(a, &from[i], col, n, type);
            }
            for (int w = 0; w < words; w += 8)
                lk_put_words8(to + w * r, r, word + w, words);
        }
    }
}

LK_INLINE void norm(const struct lk_norm *a, int64_t begin, int64_t end, const enum lk_type type)
{
    struct lk_panels panels = lk_panels_of(a->y.n_row, LK_AVX512_ROWS);
    for (int64_t panel = begin; panel < end; panel++)
        norm_panel(a, lk_panel_begin(&panels, panel), lk_panel_rows(&panels, panel), type);
}
LK_BOTH_TYPES(norm, lk_norm)

static void exp_each(const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lk_mask16(n - i);
        _mm512_mask_storeu_ps(y + i, m, lk_exp(_mm512_maskz_loadu_ps(m, x + i)));
    }
}

/* Sums fill 24 registers, as in the product's tile; from_l1 takes its operands from memory as the tile does. */
LK_INLINE double rounds(const bool from_l1, int64_t n, const enum lk_type type)
{
    enum { ROWS = LK_AVX512_ROWS, STEPS = 8 };
    static uint32_t memory[STEPS * (ROWS + LK_AVX512_PANEL)];
    const uint32_t *a = memory, *w = memory + STEPS * ROWS;
    __asm__ volatile("" : "+r"(a), "+r"(w)); /* else the compiler knows what stands there */
    __m512 sum[ROWS][2];
    __m512i x = _mm512_setzero_si512(), y[2] = {x, x};
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++) { /* sums that were equal would be one */
        sum[i][0] = _mm512_set1_ps((float)i);
        sum[i][1] = _mm512_set1_ps((float)-i);
    }
    for (int64_t at = 0; at < n; at++) {
        int step = (int)(at % STEPS);
#pragma GCC unroll 2
        for (int j = 0; j < 2 && from_l1; j++)
            y[j] = _mm512_loadu_si512(w + step * LK_AVX512_PANEL + 16 * j);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            if (from_l1)
                x = _mm512_set1_epi32((int)a[step * ROWS + i]);
            sum[i][0] = lk_step(type, sum[i][0], y[0], x);
            sum[i][1] = lk_step(type, sum[i][1], y[1], x);
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
    return ROWS * 2 * 32.0 * lk_per_word(type) * (double)n;
}

static double peak_f32(bool from_l1, int64_t n)
{
    return from_l1 ? rounds(true, n, LK_F32) : rounds(false, n, LK_F32);
}

static double peak_bf16(bool from_l1, int64_t n)
{
    return from_l1 ? rounds(true, n, LK_BF16) : rounds(false, n, LK_BF16);
}

static void round_f32(const struct lk_round *a, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        lk_avx512_put_cols_f32(&a->y, i, 0, a->x + i * a->x_ld, a->y.cols->n_col);
}

static void round_bf16(const struct lk_round *a, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        lk_avx512_put_cols(&a->y, i, 0, a->x + i * a->x_ld, a->y.cols->n_col);
}

void lk_avx512_act_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->act_row = f32 ? act_row_f32 : act_row_bf16;
    t->act_rows = act_rows;
    if (!f32)
        t->embed = embed_bf16; /* in f32 the reference copies */
    t->norm_items = norm_items;
    t->norm = f32 ? norm_f32 : norm_bf16;
    t->round = f32 ? round_f32 : round_bf16;
    t->exp = exp_each;
    t->peak = f32 ? peak_f32 : peak_bf16;
}

void lk_avx512_init(struct lk_cpu *t, enum lk_type type)
{
    t->name = "avx512bf16";
    t->act_bytes = type == LK_F32 ? sizeof(float) : sizeof(uint16_t);
    lk_avx512_act_init(t, type);
    lk_avx512_linear_init(t, type);
    lk_avx512_rope_init(t, type);
    lk_avx512_attend_init(t, type);
    lk_avx512_top_init(t);
    lk_avx512_int8_init(t, type);
    lk_avx512_w4a8_init(t, type);
}
