/* Which weights a register tile's product fetches into the second cache beside its sums. */
#ifndef KERNELS_CPU_LK_AHEAD_H
#define KERNELS_CPU_LK_AHEAD_H

#include "kernels/cpu/lk_cols.h"
#include "kernels/cpu/lk_cpu.h"

/* Lines from `at` on, `step` bytes further with each step of the product; of two weight panels those `hop` bytes behind
 * as well. near: of the panel itself the segment behind the one that is summed, and `at` behind the last one. */
struct lk_ahead {
    const char *at;
    int64_t step, hop;
    bool near;
};

/* For activation panel i of n that meet a weight panel of n_step steps, `line` bytes each; `next` comes behind it. One
 * alone fetches a segment ahead: of what lies a whole panel ahead, or two, much is out of the second cache when its
 * turn comes. So does the first of several where a panel fills a quarter of that cache; elsewhere each fetches its
 * share of the next panel, since all at once would wait for memory. */
static inline struct lk_ahead lk_ahead_of(const struct lk_linear *a, const char *next, int64_t i, int64_t n,
                                          int64_t n_step, int64_t line)
{
    const int64_t bytes = n_step * line, share = lk_ceil_div(line, n);
    if (n == 1 || bytes >= lk_l2_size(a->l2_bytes) / 4)
        return (struct lk_ahead){next, i == 0 ? line : 0, bytes, i == 0};
    return (struct lk_ahead){next + i * share * n_step, share, bytes, false};
}

/* Lines of other memory, one with each step, up to the last one. */
struct lk_beside {
    const char *at, *last;
};

/* For the i-th tile of a product; `none`: what may be fetched for nothing. */
static inline struct lk_beside lk_beside_of(const struct lk_linear *a, int64_t i, const void *none)
{
    const struct lk_soon *s = a->soon;
    if (!s || s->first + i >= s->n)
        return (struct lk_beside){none, none};
    int64_t half = s->first + i, page = s->page[half / 2], bytes = half % 2 ? s->v_bytes : s->k_bytes;
    const char *at = (half % 2 ? s->v : s->k) + page * bytes;
    return (struct lk_beside){at, at + bytes - 64};
}

#endif
