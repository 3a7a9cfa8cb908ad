/* Log-sum-exp and the largest logits of a row. */
#include <math.h>

#include "kernels/cpu/avx512/lk_avx512.h"
#include "kernels/cpu/lk_heap.h"

static void largest(struct lk_heap *h, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = lk_mask16(n - i);
        __m512 v = _mm512_maskz_loadu_ps(m, x + i);
        unsigned take = h->n < LK_TOP ? _mm512_mask_cmp_ps_mask(m, v, v, _CMP_ORD_Q)
                                      : _mm512_mask_cmp_ps_mask(m, v, _mm512_set1_ps(h->value[0]), _CMP_GT_OQ);
        for (; take; take &= take - 1) {
            int64_t at = i + __builtin_ctz(take);
            lk_heap_offer(h, x[at], (int32_t)at);
        }
    }
}

static double log_sum(const float *x, int64_t n, float max)
{
    double sum = 0;
    for (int64_t begin = 0; begin < n; begin += LK_HEAD_BLOCK) {
        __m512d part = _mm512_setzero_pd();
        for (int64_t i = begin; i < lk_min(n, begin + LK_HEAD_BLOCK); i += 16) {
            __mmask16 m = lk_mask16(n - i);
            __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_set1_ps(max));
            v = _mm512_maskz_mov_ps(m, lk_exp(v));
            __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
            __m512d hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
            part = _mm512_add_pd(part, _mm512_add_pd(lo, hi));
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
        struct lk_heap h = {0, a->id + row * LK_TOP, a->value + row * LK_TOP};
        largest(&h, x, a->n_vocab);
        lk_heap_finish(&h);
        a->lse[row] = log_sum(x, a->n_vocab, h.n > 0 ? h.value[0] : 0);
    }
}

void lk_avx512_top_init(struct lk_cpu *t)
{
    t->top = top;
}
