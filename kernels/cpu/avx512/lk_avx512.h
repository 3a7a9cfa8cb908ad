/* Inside the set avx512bf16: AVX-512 with vdpbf16ps (EPYC from Zen 4, Xeon from Cooper Lake). Everything that a product
 * reads consists of 32-bit words: a pair of bf16 (elements k and k + 1, k even), or one f32. So both types are the same
 * loops, with vdpbf16ps or a fused multiply-add. n_word counts the words of a row: columns / 2, or columns. Layouts:
 *   activations  panels of up to 12 rows, heights balanced, one after another; inside a panel of r rows word w of row i
 *                is at w * r + i: the product broadcasts such words
 *   weights      panels of 32 output columns, [n_word, 32] words; gate-up panels: 16 gate, 16 up columns
 *   Q            [kv head, n_tok, query heads of the KV head, n_word]
 *   K page       [n_word, 32 positions] words: the right-hand operand of q . K
 *   V page       words of positions, [32 or 32 / 2, v_dim padded to 16]: the right-hand operand of p . V */
#ifndef KERNELS_CPU_AVX512_LK_AVX512_H
#define KERNELS_CPU_AVX512_LK_AVX512_H

#include "kernels/cpu/avx512/lk_avx512_isa.h"
#include "kernels/cpu/lk_panels.h"
#include "kernels/cpu/lk_set.h"

#define LK_AVX512_ROWS 12  /* rows of a panel at most: 12 x 32 sums fill 24 of 32 registers */
#define LK_AVX512_PANEL 32 /* output columns of a weight panel */

#define LK_V_DIMS(v_dim) (((v_dim) + 15) / 16 * 16) /* dimensions of a V page, padding included */

/* Elements of a word. */
LK_INLINE int lk_per_word(const enum lk_type type)
{
    return type == LK_BF16 ? 2 : 1;
}

/* sum + the products of two words' elements, lane by lane. */
LK_INLINE __m512 lk_step(const enum lk_type type, __m512 sum, __m512i x, __m512i y)
{
    return type == LK_BF16 ? _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y)
                           : _mm512_fmadd_ps((__m512)x, (__m512)y, sum);
}

/* Where a row's words are: word w at at[w * r]. */
struct lk_row {
    uint32_t *at;
    int64_t r;
};

LK_INLINE struct lk_row lk_row_of(const struct lk_act *a, int64_t row, const enum lk_type type)
{
    struct lk_panels p = lk_panels_of(a->n_row, LK_AVX512_ROWS);
    int64_t panel = lk_panel_of(&p, row), begin = lk_panel_begin(&p, panel);
    uint32_t *words = (uint32_t *)a->data + begin * (lk_cols_packed(a->cols) / lk_per_word(type));
    return (struct lk_row){words + (row - begin), lk_panel_rows(&p, panel)};
}

/* The n <= 32 numbers at x as bf16, zeros behind them: word i holds 2 i and 2 i + 1. */
LK_INLINE __m512i lk_round32(const float *x, int n)
{
    __mmask32 m = n >= 32 ? 0xffffffffu : (1u << n) - 1u;
    __m512 lo = _mm512_maskz_loadu_ps((__mmask16)m, x);
    __m512 hi = _mm512_maskz_loadu_ps((__mmask16)(m >> 16), x + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
}

/* The n <= 32 bf16 numbers at x, zeros behind them. */
LK_INLINE __m512i lk_load32(const void *x, int n)
{
    return _mm512_maskz_loadu_epi16(n >= 32 ? 0xffffffffu : (1u << n) - 1u, x);
}

/* Mask of the n <= 16 lowest lanes; none when n <= 0. */
static inline __mmask16 lk_mask16(int64_t n)
{
    unsigned count = n >= 16 ? 16 : n <= 0 ? 0 : (unsigned)n;
    return (__mmask16)((1u << count) - 1u);
}

static inline __m512 lk_widen_low(__m512i words)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

static inline __m512 lk_widen_high(__m512i words)
{
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u)));
}

/* 2^(f + n), |f| <= 1/2, n whole: 1 + f q(f) with q of degree 4, fitted for the least relative error (9.2e-8). */
LK_INLINE __m512 lk_exp2_poly(__m512 f, __m512 n)
{
    __m512 p = _mm512_set1_ps(1.3264723820611835e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.671512991189957e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.550733581185341e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022242426872253e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931470036506653e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* 2^x, relative error below 2^-22; 0 from x = -150 on down, inf from 128 on up, NaN stays NaN. */
LK_INLINE __m512 lk_exp2(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return lk_exp2_poly(_mm512_sub_ps(x, n), n);
}

/* e^x. The product x log2(e) is taken apart exactly but for the rounding of log2(e) to float, so that the relative
 * error stays below 2^-18 on [-104, 88.8] and below 2^-20 where |x| <= 16. */
LK_INLINE __m512 lk_exp(__m512 x)
{
    const __m512 log2e = _mm512_set1_ps(1.44269504f);
    x = _mm512_min_ps(_mm512_set1_ps(128.0f), _mm512_max_ps(_mm512_set1_ps(-128.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return lk_exp2_poly(_mm512_fmsub_ps(x, log2e, n), n);
}

/* Source columns col0 .. col0 + n - 1 of one row, rounded; with the last column of a segment its zero columns too. */
void lk_avx512_put_cols(const struct lk_act *a, int64_t row, int64_t col0, const float *v, int64_t n);
void lk_avx512_put_cols_f32(const struct lk_act *a, int64_t row, int64_t col0, const float *v, int64_t n);

/* rope_kv in bf16 for tokens begin .. end - 1, a row of Q being n_word words, zeros behind the head. */
void lk_avx512_rope_words(const struct lk_rope_kv *a, int64_t n_word, int64_t begin, int64_t end);

/* Of packed weights (avx512_packed.c). */
size_t lk_avx512_packed_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols);
void lk_avx512_pack_codes_f32(const struct lk_pack_codes *a);
void lk_avx512_pack_codes_bf16(const struct lk_pack_codes *a);
int64_t lk_avx512_packed_items(const struct lk_linear *a, enum lk_type type);
void lk_avx512_packed_linear(const struct lk_linear *a, int64_t begin, int64_t end, enum lk_type type);

/* Overrides of the table, one a file. */
void lk_avx512_act_init(struct lk_cpu *t, enum lk_type type);
void lk_avx512_linear_init(struct lk_cpu *t, enum lk_type type);
void lk_avx512_rope_init(struct lk_cpu *t, enum lk_type type);
void lk_avx512_attend_init(struct lk_cpu *t, enum lk_type type);
void lk_avx512_top_init(struct lk_cpu *t);
void lk_avx512_int8_init(struct lk_cpu *t, enum lk_type type);
void lk_avx512_w4a8_init(struct lk_cpu *t, enum lk_type type);

#endif
