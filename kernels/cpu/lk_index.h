/* The indexer's choice among scores, which is the same in every set. */
#ifndef KERNELS_CPU_LK_INDEX_H
#define KERNELS_CPU_LK_INDEX_H

#include "kernels/args_sparse.h"
#include "kernels/cpu/lk_heap.h"
#include "kernels/cpu/lk_set.h"

/* Shell's sort, by thirds: a few thousand numbers at most, and nothing to allocate. */
static inline void lk_sort_ascending(int32_t *x, int64_t n)
{
    for (int64_t gap = n / 3 + 1; gap > 0; gap = gap == 1 ? 0 : gap / 3 + 1) {
        for (int64_t i = gap; i < n; i++) {
            int32_t v = x[i];
            int64_t at = i;
            for (; at >= gap && x[at - gap] > v; at -= gap)
                x[at] = x[at - gap];
            x[at] = v;
        }
    }
}

/* Items begin .. end - 1. `score` writes the sums of a page's positions for one token; w are its heads' weights, `type`
 * is that of the keys. */
LK_INLINE void lk_index_choose(const struct lk_index_select *a, int64_t begin, int64_t end, enum lk_type type,
                               void (*score)(const struct lk_index_select *a, const float *q, const float *w,
                                             const void *page, float out[LK_PAGE_TOKENS], enum lk_type type))
{
    for (int64_t i = begin; i < end; i++) {
        int64_t t = a->item[i].tok, last = a->pos[t];
        const int32_t *pages = a->page + a->page_start[a->item[i].seq];
        struct lk_heap best = {0, a->chosen + t * a->topk, a->score + t * a->topk};
        for (int64_t ip = 0; ip * LK_PAGE_TOKENS <= last; ip++) {
            _Alignas(32) float s[LK_PAGE_TOKENS];
            score(a, a->q + t * a->n_head * a->plane.dim, a->w + t * a->w_ld,
                  a->plane.key + pages[ip] * a->plane.page_bytes, s, type);
            int64_t n = lk_min(LK_PAGE_TOKENS, last + 1 - ip * LK_PAGE_TOKENS);
            for (int64_t j = 0; j < n; j++)
                lk_heap_take(&best, (int)a->topk, s[j] == s[j] ? s[j] : -INFINITY, (int32_t)(ip * LK_PAGE_TOKENS + j));
        }
        lk_sort_ascending(best.id, best.n);
    }
}

#endif
