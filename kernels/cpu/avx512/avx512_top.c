/* Log-sum-exp and the largest logits of a row. */
#include <math.h>

#include "kernels/cpu/avx512/lk_avx512.h"
#include "kernels/cpu/lk_top_list.h"

/* Offers the numbers of columns begin .. end - 1; returns the largest. */
static float largest(struct lk_top_list *t, const float *x, int64_t begin, int64_t end)
{
    __m512 most = _mm512_set1_ps(-INFINITY); /* the second operand, which stays where the first is no number */
    for (int64_t i = begin; i < end; i += 16) {
        __mmask16 m = lk_mask16(end - i);
        __m512 v = _mm512_maskz_loadu_ps(m, x + i);
        unsigned take = !t->full ? _mm512_mask_cmp_ps_mask(m, v, v, _CMP_ORD_Q)
                                 : _mm512_mask_cmp_ps_mask(m, v, _mm512_set1_ps(t->least), _CMP_GT_OQ);
        if (end - i >= 16)
            most = _mm512_max_ps(v, most);
        for (; take; take &= take - 1) {
            int64_t at = i + __builtin_ctz(take);
            lk_top_offer(t, x, at);
        }
    }
    float max = _mm512_reduce_max_ps(most);
    for (int64_t i = end - (end - begin) % 16; i < end; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* e^x for x <= 0, relative error below 2^-50: e^f on |f| <= ln(2) / 2 by its series to f^12. */
LK_INLINE __m512d exp8(__m512d x)
{
    static const double inverse[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
        1.0 / 120,       1.0 / 24,       1.0 / 6,       1.0 / 2,      1.0,         1.0};
    x = _mm512_max_pd(_mm512_set1_pd(-800), x);
    __m512d n = _mm512_roundscale_pd(_mm512_mul_pd(x, _mm512_set1_pd(0x1.71547652b82fep+0)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512d f = _mm512_fnmadd_pd(n, _mm512_set1_pd(0x1.62e42fefa39efp-1), x);
    f = _mm512_fnmadd_pd(n, _mm512_set1_pd(0x1.abc9e3b39803fp-56), f);
    __m512d p = _mm512_set1_pd(inverse[0]);
#pragma GCC unroll 12
    for (int i = 1; i < 13; i++)
        p = _mm512_fmadd_pd(p, f, _mm512_set1_pd(inverse[i]));
    return _mm512_scalef_pd(p, n);
}

static double log_sum(const float *x, int64_t n, float max)
{
    double sum = 0;
    if (!(max > -INFINITY))
        return -INFINITY;
    const __m512d top = _mm512_set1_pd((double)max);
    for (int64_t begin = 0; begin < n; begin += LK_HEAD_BLOCK) {
        __m512d part = _mm512_setzero_pd();
        for (int64_t i = begin; i < lk_min(n, begin + LK_HEAD_BLOCK); i += 8) {
            __mmask8 m = (__mmask8)lk_mask16(lk_min(8, n - i));
            __m512d v = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(m, x + i));
            part = _mm512_mask_add_pd(part, m, part, exp8(_mm512_sub_pd(v, top)));
        }
        sum += _mm512_reduce_add_pd(part);
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

void lk_avx512_top_init(struct lk_cpu *t)
{
    t->top = top;
}
