/* Log-sum-exp and the largest logits of a row. */
#include <math.h>

#include "kernels/cpu/avx2/lk_avx2.h"
#include "kernels/cpu/lk_top_list.h"

/* Offers the numbers of columns begin .. end - 1; returns the largest. */
static float largest(struct lk_top_list *t, const float *x, int64_t begin, int64_t end)
{
    __m256 most = _mm256_set1_ps(-INFINITY); /* the second operand, which stays where the first is no number */
    for (int64_t i = begin; i < end; i += 8) {
        __m256 v = lk_load8(x + i, end - i);
        __m256 take =
            !t->full ? _mm256_cmp_ps(v, v, _CMP_ORD_Q) : _mm256_cmp_ps(v, _mm256_set1_ps(t->least), _CMP_GT_OQ);
        unsigned bits = (unsigned)_mm256_movemask_ps(take) & (end - i >= 8 ? 0xffu : (1u << (end - i)) - 1u);
        if (end - i >= 8)
            most = _mm256_max_ps(v, most);
        for (; bits; bits &= bits - 1) {
            int64_t at = i + __builtin_ctz(bits);
            lk_top_offer(t, x, at);
        }
    }
    float lane[8], max = -INFINITY;
    _mm256_storeu_ps(lane, most);
    for (int k = 0; k < 8; k++)
        max = lane[k] > max ? lane[k] : max;
    for (int64_t i = end - (end - begin) % 8; i < end; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* 2^n of whole n in [-1022, 1023]. */
LK_INLINE __m256d power4(__m128i n)
{
    __m256i wide = _mm256_add_epi64(_mm256_cvtepi32_epi64(n), _mm256_set1_epi64x(1023));
    return _mm256_castsi256_pd(_mm256_slli_epi64(wide, 52));
}

/* e^x for x <= 0, relative error below 2^-50: e^f on |f| <= ln(2) / 2 by its series to f^12. */
LK_INLINE __m256d exp4(__m256d x)
{
    static const double inverse[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
        1.0 / 120,       1.0 / 24,       1.0 / 6,       1.0 / 2,      1.0,         1.0};
    x = _mm256_max_pd(_mm256_set1_pd(-800), x);
    __m256d n = _mm256_round_pd(_mm256_mul_pd(x, _mm256_set1_pd(0x1.71547652b82fep+0)), LK_ROUND_NEAREST);
    __m256d f = _mm256_fnmadd_pd(n, _mm256_set1_pd(0x1.62e42fefa39efp-1), x);
    f = _mm256_fnmadd_pd(n, _mm256_set1_pd(0x1.abc9e3b39803fp-56), f);
    __m256d p = _mm256_set1_pd(inverse[0]);
#pragma GCC unroll 12
    for (int i = 1; i < 13; i++)
        p = _mm256_fmadd_pd(p, f, _mm256_set1_pd(inverse[i]));
    __m128i whole = _mm256_cvtpd_epi32(n), half = _mm_srai_epi32(whole, 1);
    return _mm256_mul_pd(_mm256_mul_pd(p, power4(half)), power4(_mm_sub_epi32(whole, half)));
}

static double log_sum(const float *x, int64_t n, float max)
{
    double sum = 0;
    if (!(max > -INFINITY))
        return -INFINITY;
    const __m256d top = _mm256_set1_pd((double)max);
    for (int64_t begin = 0; begin < n; begin += LK_HEAD_BLOCK) {
        __m256d part = _mm256_setzero_pd();
        int64_t end = lk_min(n, begin + LK_HEAD_BLOCK), i = begin;
        for (; i + 4 <= end; i += 4)
            part = _mm256_add_pd(part, exp4(_mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), top)));
        for (; i < end; i++) /* the tail by the same code, a lane at a time */
            part = _mm256_add_pd(part, _mm256_and_pd(exp4(_mm256_set1_pd((double)x[i] - (double)max)),
                                                     _mm256_castsi256_pd(_mm256_setr_epi64x(
                                                         -(i % 4 == 0), -(i % 4 == 1), -(i % 4 == 2), -(i % 4 == 3)))));
        __m128d s = _mm_add_pd(_mm256_castpd256_pd128(part), _mm256_extractf128_pd(part, 1));
        sum += _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
    }
    return (double)max + log(sum);
}

static void top(const struct lk_top *a, int64_t begin, int64_t end)
{
    for (int64_t row = begin; row < end; row++) {
        const float *x = a->logits[row];
        if (!x)
            continue;
        struct lk_top_list list;
        lk_top_begin(&list);
        for (int s = 0; s < a->n_seg; s++) {
            float max = largest(&list, x, a->seg[s], a->seg[s + 1]);
            a->lse[row * a->n_seg + s] = log_sum(x + a->seg[s], a->seg[s + 1] - a->seg[s], max);
        }
        lk_top_finish(&list, x, a->id + row * LK_TOP, a->value + row * LK_TOP);
    }
}

void lk_avx2_top_init(struct lk_cpu *t)
{
    t->top = top;
}
