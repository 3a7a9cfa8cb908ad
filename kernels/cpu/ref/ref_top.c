/* Log-sum-exp and the largest logits of a row. */
#include <math.h>

#include "kernels/cpu/lk_top_list.h"
#include "kernels/cpu/ref/lk_ref.h"

/* Offers the numbers of columns begin .. end - 1; returns the largest. */
static float largest(struct lk_top_list *t, const float *x, int64_t begin, int64_t end)
{
    float max = -INFINITY;
    for (int64_t i = begin; i < end; i++) {
        if (x[i] == x[i] && (!t->full || x[i] > t->least))
            lk_top_offer(t, x, i);
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

static double log_sum(const float *x, int64_t n, float max)
{
    double sum = 0;
    if (!(max > -INFINITY))
        return -INFINITY;
    for (int64_t begin = 0; begin < n; begin += LK_HEAD_BLOCK) {
        double block = 0;
        for (int64_t i = begin; i < lk_min(n, begin + LK_HEAD_BLOCK); i++)
            block += exp((double)x[i] - (double)max);
        sum += block;
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

void lk_ref_top_init(struct lk_cpu *t, enum lk_type type)
{
    (void)type;
    t->top = top;
}
