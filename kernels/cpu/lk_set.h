/* What the files of the vector sets share: how a kernel is written for both types, the tree over segments, the best of
 * two logits. */
#ifndef KERNELS_CPU_LK_SET_H
#define KERNELS_CPU_LK_SET_H

#include "kernels/cpu/lk_cols.h"
#include "kernels/cpu/lk_cpu.h"

/* Sanitized or modeled, one copy for all constants does the same, and a copy for each takes the compiler minutes. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(LK_ISA_MODEL)
#define LK_INLINE static inline
#else
#define LK_INLINE static inline __attribute__((always_inline))
#endif

/* Defines NAME_f32 and NAME_bf16 of a kernel that takes its type as a last, constant argument. */
#define LK_BOTH_TYPES(name, args_struct)                                             \
    static void name##_f32(const struct args_struct *a, int64_t begin, int64_t end)  \
    {                                                                                \
        name(a, begin, end, LK_F32);                                                 \
    }                                                                                \
    static void name##_bf16(const struct args_struct *a, int64_t begin, int64_t end) \
    {                                                                                \
        name(a, begin, end, LK_BF16);                                                \
    }

#define LK_TREE_DEPTH 5 /* sums that wait for their right-hand neighbor: log2(LK_MAX_SEG) + 1 */

/* How many waiting left-hand neighbors the sums of segment s are added to. */
LK_INLINE int lk_merges(const struct lk_cols *cols, int s)
{
    return lk_cols_balanced(cols) ? __builtin_ctz(~(unsigned)s) : s > 0;
}

/* Adds segment s's n sums, at `wait` of the levels that lie `level` numbers apart, to those that wait for them; returns
 * how many levels are in use then. */
LK_INLINE int lk_climb(float *sums, int64_t level, const struct lk_cols *cols, int s, int wait, int64_t n)
{
    for (int left = lk_merges(cols, s); left > 0; left--, wait--) {
        float *x = sums + (wait - 1) * level;
        const float *y = x + level;
        for (int64_t i = 0; i < n; i++)
            x[i] += y[i];
    }
    return wait + 1;
}

/* The larger of *b and logit x of token id, ties to the lower id; id < 0: there is none. */
static inline void lk_best_take_one(struct lk_best *b, float x, int32_t id)
{
    if (id >= 0 && (b->id < 0 || x > b->value || (x == b->value && id < b->id))) {
        b->value = x;
        b->id = id;
    }
}

#endif
