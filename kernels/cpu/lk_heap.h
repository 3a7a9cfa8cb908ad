/* The best of a row, offered in order of id. */
#ifndef KERNELS_CPU_LK_HEAP_H
#define KERNELS_CPU_LK_HEAP_H

#include <math.h>

#include "kernels/cpu/lk_cols.h"

/* A heap of the best so far, the worst of them at its root. */
struct lk_heap {
    int n;
    int32_t *id;
    float *value;
};

/* Whether candidate (x, i) stands behind (y, j): smaller, or equal with the higher id. */
static inline bool lk_behind(float x, int32_t i, float y, int32_t j)
{
    return x < y || (x == y && i > j);
}

static inline void lk_heap_swap(struct lk_heap *h, int a, int b)
{
    int32_t id = h->id[a];
    float value = h->value[a];
    h->id[a] = h->id[b];
    h->value[a] = h->value[b];
    h->id[b] = id;
    h->value[b] = value;
}

static inline void lk_heap_sift(struct lk_heap *h, int at, int n)
{
    for (;;) {
        int worst = at;
        for (int child = 2 * at + 1; child <= 2 * at + 2 && child < n; child++)
            if (lk_behind(h->value[child], h->id[child], h->value[worst], h->id[worst]))
                worst = child;
        if (worst == at)
            return;
        lk_heap_swap(h, at, worst);
        at = worst;
    }
}

/* Offers a candidate to a heap of at most `most`. */
static inline void lk_heap_take(struct lk_heap *h, int most, float x, int32_t id)
{
    if (h->n == most) {
        if (!lk_behind(h->value[0], h->id[0], x, id))
            return;
        h->value[0] = x;
        h->id[0] = id;
        lk_heap_sift(h, 0, h->n);
        return;
    }
    int at = h->n++;
    h->value[at] = x;
    h->id[at] = id;
    for (; at > 0 && lk_behind(h->value[at], h->id[at], h->value[(at - 1) / 2], h->id[(at - 1) / 2]); at = (at - 1) / 2)
        lk_heap_swap(h, at, (at - 1) / 2);
}

/* Best first: the worst goes to the end, again and again. */
static inline void lk_heap_sort(struct lk_heap *h)
{
    for (int n = h->n; n > 1; n--) {
        lk_heap_swap(h, 0, n - 1);
        lk_heap_sift(h, 0, n - 1);
    }
}

#endif
