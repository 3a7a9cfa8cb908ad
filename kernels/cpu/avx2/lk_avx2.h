/* Inside the set avx2: AVX2 with FMA, f32 and bf16. The instruction has no bf16: activations and queries are f32 that
 * were rounded to bf16 where that is the type, weights and cache pages are bf16 in memory and widened in registers.
 * Layouts:
 *   activations  panels of up to 6 rows, heights balanced, one after another; inside a panel of r rows blocks of 8
 *                columns, [packed columns / 8, r, 8] f32: a row's block is one store, the product broadcasts single
 * ones weights      panels of 16 output columns; f32: [packed columns, 16]; bf16: [packed columns / 2, 16, 2]; gate-up
 *                panels: 8 gate, 8 up columns
 *   Q            [kv head, n_tok, query heads of the KV head, head_dim padded to 8] f32
 *   K page       f32: [head_dim padded to 2, 32 positions]; bf16: [head_dim padded to 2 / 2, 32 positions, 2]
 *   V page       f32: [32 positions, v_dim padded to 8]; bf16: [32 / 2 positions, v_dim padded to 8, 2] */
#ifndef KERNELS_CPU_AVX2_LK_AVX2_H
#define KERNELS_CPU_AVX2_LK_AVX2_H

#include <immintrin.h>

#include "kernels/cpu/lk_panels.h"
#include "kernels/cpu/lk_set.h"

#define LK_AVX2_ROWS 6   /* rows of a panel at most: 6 x 16 sums fill 12 of 16 registers */
#define LK_AVX2_PANEL 16 /* output columns of a weight panel */

#define LK_DIMS8(head_dim) (((head_dim) + 7) / 8 * 8)

/* Where a row's numbers are: packed column k at at[k / 8 * step + k % 8], step = 8 rows of its panel. */
struct lk_row {
    float *at;
    int64_t step;
};

static inline struct lk_row lk_row_of(const struct lk_act *a, int64_t row)
{
    struct lk_panels p = lk_panels_of(a->n_row, LK_AVX2_ROWS);
    int64_t panel = lk_panel_of(&p, row), begin = lk_panel_begin(&p, panel);
    float *at = (float *)a->data + begin * lk_cols_packed(a->cols) + (row - begin) * 8;
    return (struct lk_row){at, 8 * lk_panel_rows(&p, panel)};
}

static inline float *lk_row_col(const struct lk_row *r, int64_t k)
{
    return r->at + k / 8 * r->step + k % 8;
}

/* Lanes 0 .. n - 1 set; none when n <= 0. */
static inline __m256i lk_mask8(int64_t n)
{
    static const int32_t table[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(table + (n >= 8 ? 0 : n <= 0 ? 8 : 8 - n)));
}

/* The n numbers at x, zeros behind them. */
LK_INLINE __m256 lk_load8(const float *x, int64_t n)
{
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, lk_mask8(n));
}

LK_INLINE void lk_store8(float *to, __m256 v, int64_t n)
{
    if (n >= 8)
        _mm256_storeu_ps(to, v);
    else
        _mm256_maskstore_ps(to, lk_mask8(n), v);
}

/* The bits before the lower half is cut off, for numbers and the NaN that arithmetic makes. */
LK_INLINE __m256i lk_round_up8(__m256i u)
{
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
}

/* f32 rounded to bf16, nearest even, as f32; NaN stays one. */
LK_INLINE __m256 lk_rounded8(__m256 x)
{
    __m256i u = _mm256_castps_si256(x), up = lk_round_up8(u);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    up = _mm256_blendv_epi8(up, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    return _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32((int)0xffff0000u)));
}

/* As the type has it. */
LK_INLINE __m256 lk_typed8(__m256 x, const enum lk_type type)
{
    return type == LK_BF16 ? lk_rounded8(x) : x;
}

/* bf16 numbers as f32: those in the lower, in the upper halves of the words. */
LK_INLINE __m256 lk_even8(__m256i words)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

LK_INLINE __m256 lk_odd8(__m256i words)
{
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000u)));
}

/* The same with the mask in memory: where 12 sums, two operands and one of the other side are in registers, there is
 * none for it. */
LK_INLINE __m256 lk_odd8_in_tile(__m256i words)
{
    static const uint32_t mask[8] __attribute__((aligned(32))) = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                                  0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
    __m256 odd;
    __asm__("vandps %1, %2, %0" : "=x"(odd) : "m"(mask), "x"(words));
    return odd;
}

/* The 8 bf16 numbers at x. */
LK_INLINE __m256 lk_widen8(const uint16_t *x)
{
    return lk_even8(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)));
}

/* sum + x * y in one rounding. As the intrinsic says, but the sum stays in its register: the compiler's choice among
 * the instruction's forms moves sums about until a tile of 12 no longer fits. */
LK_INLINE __m256 lk_fma_in_place(__m256 x, __m256 y, __m256 sum)
{
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y));
    return sum;
}

/* Lanes added as a tree: 0 + 4, 1 + 5, ...; then 0 + 2, 1 + 3; then 0 + 1. */
LK_INLINE float lk_sum8(__m256 x)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

LK_INLINE float lk_max8(__m256 x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}

/* 2^(f + n), |f| <= 1/2, n whole in [-300, 254]: 1 + f q(f) with q of degree 4, fitted for the least relative error
 * (9.2e-8); scaled in two steps, so that a subnormal result is rounded once. */
LK_INLINE __m256 lk_exp2_poly(__m256 f, __m256 n)
{
    __m256 p = _mm256_set1_ps(1.3264723820611835e-3f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.671512991189957e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.550733581185341e-2f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.4022242426872253e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.931470036506653e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}

#define LK_ROUND_NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

/* 2^x for x <= 128, relative error below 2^-22; 0 from x = -150 on down, NaN stays NaN. */
LK_INLINE __m256 lk_exp2(__m256 x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-200.0f), x);
    __m256 n = _mm256_round_ps(x, LK_ROUND_NEAREST);
    return lk_exp2_poly(_mm256_sub_ps(x, n), n);
}

/* e^x. The product x log2(e) is taken apart exactly but for the rounding of log2(e) to float, so that the relative
 * error stays below 2^-18 on [-104, 88.8] and below 2^-20 where |x| <= 16. */
LK_INLINE __m256 lk_exp(__m256 x)
{
    const __m256 log2e = _mm256_set1_ps(1.44269504f);
    x = _mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-128.0f), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, log2e), LK_ROUND_NEAREST);
    return lk_exp2_poly(_mm256_fmsub_ps(x, log2e, n), n);
}

/* Source columns col0 .. col0 + n - 1 of one row, as they are; with the last column of a segment its zero columns too.
 */
void lk_avx2_put_cols(const struct lk_act *a, int64_t row, int64_t col0, const float *v, int64_t n);

/* Of packed weights (avx2_packed.c). */
size_t lk_avx2_packed_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols);
void lk_avx2_pack_codes(const struct lk_pack_codes *a);
int64_t lk_avx2_packed_items(const struct lk_linear *a);
void lk_avx2_packed_linear(const struct lk_linear *a, int64_t begin, int64_t end, enum lk_type type);

/* Overrides of the table, one a file. */
void lk_avx2_act_init(struct lk_cpu *t, enum lk_type type);
void lk_avx2_linear_init(struct lk_cpu *t, enum lk_type type);
void lk_avx2_rope_init(struct lk_cpu *t, enum lk_type type);
void lk_avx2_attend_init(struct lk_cpu *t, enum lk_type type);
void lk_avx2_index_init(struct lk_cpu *t, enum lk_type type);
void lk_avx2_top_init(struct lk_cpu *t);
void lk_avx2_int8_init(struct lk_cpu *t, enum lk_type type);
void lk_avx2_w4a8_init(struct lk_cpu *t, enum lk_type type);

#endif
