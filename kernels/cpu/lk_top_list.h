/* The LK_TOP largest logits of a row, offered in order of id: equal ones count by the lower id. They are only
 * collected, twice as many as are wanted before the smaller half is dropped: most of a row is refused by one
 * comparison. */
#ifndef KERNELS_CPU_LK_TOP_LIST_H
#define KERNELS_CPU_LK_TOP_LIST_H

#include <math.h>
#include <string.h>

#include "kernels/cpu/lk_cols.h"
#include "kernels/mass.h"

struct lk_top_list {
    int n;
    bool full;   /* there were LK_TOP already: */
    float least; /* what is not larger than this is none of them */
    uint64_t key[2 * LK_TOP];
};

static inline void lk_top_begin(struct lk_top_list *t)
{
    t->n = 0;
    t->full = false;
}

/* The larger the better: the logit, then the id's complement. */
static inline uint64_t lk_top_key(float x, int32_t id)
{
    return (uint64_t)lk_logit_key(x) << 32 | (uint32_t)~id;
}

static inline int32_t lk_top_id(uint64_t key)
{
    return (int32_t) ~(uint32_t)key;
}

/* key[from .. to - 1], two or more, parted around the middle one of three, or the first of two; returns where the
 * smaller ones begin. Both sides hold some. */
static inline int lk_top_part(uint64_t *key, int from, int to)
{
    const uint64_t a = key[from], b = key[from + (to - from - 1) / 2], c = key[to - 1];
    const uint64_t least = a < b ? a : b, most = a < b ? b : a, pivot = c < least ? least : c > most ? most : c;
    for (int i = from - 1, j = to;;) {
        while (key[++i] > pivot) {
        }
        while (key[--j] < pivot) {
        }
        if (i >= j)
            return j + 1;
        const uint64_t x = key[i];
        key[i] = key[j];
        key[j] = x;
    }
}

/* The LK_TOP largest come first, in any order (Hoare's selection; no two keys are equal). */
static inline void lk_top_select(struct lk_top_list *t)
{
    for (int from = 0, to = t->n; to - from > 1;) {
        const int at = lk_top_part(t->key, from, to);
        if (at == LK_TOP)
            break;
        if (at > LK_TOP)
            to = at;
        else
            from = at;
    }
    t->n = LK_TOP;
}

static inline void lk_top_offer(struct lk_top_list *t, const float *x, int64_t id)
{
    t->key[t->n++] = lk_top_key(x[id], (int32_t)id);
    if (t->n < 2 * LK_TOP)
        return;
    lk_top_select(t);
    uint64_t worst = t->key[0];
    for (int i = 1; i < t->n; i++)
        worst = t->key[i] < worst ? t->key[i] : worst;
    t->full = true;
    t->least = x[lk_top_id(worst)];
}

/* Largest first: runs of 1, 2, 4 .. keys merged. */
static inline void lk_top_sort(struct lk_top_list *t)
{
    uint64_t other[LK_TOP], *from = t->key, *to = other;
    for (int run = 1; run < t->n; run *= 2) {
        for (int begin = 0; begin < t->n; begin += 2 * run) {
            const int middle = (int)lk_min(begin + run, t->n), end = (int)lk_min(begin + 2 * run, t->n);
            for (int i = begin, j = middle, k = begin; k < end; k++)
                to[k] = j == end || (i < middle && from[i] > from[j]) ? from[i++] : from[j++];
        }
        uint64_t *done = to;
        to = from;
        from = done;
    }
    if (from != t->key)
        memcpy(t->key, from, (size_t)t->n * sizeof *from);
}

/* id[LK_TOP], value[LK_TOP]: best first; places that stay empty are -1 and -infinity. */
static inline void lk_top_finish(struct lk_top_list *t, const float *x, int32_t *id, float *value)
{
    if (t->n > LK_TOP)
        lk_top_select(t);
    lk_top_sort(t);
    for (int i = 0; i < LK_TOP; i++) {
        id[i] = i < t->n ? lk_top_id(t->key[i]) : -1;
        value[i] = i < t->n ? x[id[i]] : -INFINITY;
    }
}

#endif
