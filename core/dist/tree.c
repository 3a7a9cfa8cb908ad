#include "core/dist/tree.h"

#include <string.h>

#include "core/dist/comm.h"

/* Numbers that are taken through the whole tree at once: sums between the levels stay in the first cache. */
#define BLOCK 256

void lb_tree_add2(float *out, const float *low, const float *high, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = low[i] + high[i];
}

static void left_to_right(float *out, const float *const *part, int n_part, int64_t at, int64_t n)
{
    float sum[BLOCK];
    lb_tree_add2(sum, part[0] + at, part[1] + at, n);
    for (int i = 2; i < n_part; i++)
        lb_tree_add2(sum, sum, part[i] + at, n);
    memcpy(out + at, sum, (size_t)n * sizeof *sum);
}

static void balanced(float *out, const float *const *part, int n_part, int64_t at, int64_t n)
{
    float sum[LB_COMM_MAX_RANKS / 2][BLOCK];
    for (int i = 0; i < n_part / 2; i++)
        lb_tree_add2(sum[i], part[2 * i] + at, part[2 * i + 1] + at, n);
    for (int left = n_part / 2; left > 1; left /= 2)
        for (int i = 0; i < left / 2; i++)
            lb_tree_add2(sum[i], sum[2 * i], sum[2 * i + 1], n);
    memcpy(out + at, sum[0], (size_t)n * sizeof *out);
}

void lb_tree_add(float *out, const float *const *part, int n_part, int64_t n)
{
    if (n_part == 1 && out != part[0] && n > 0)
        memcpy(out, part[0], (size_t)n * sizeof *out);
    if (n_part == 2)
        lb_tree_add2(out, part[0], part[1], n);
    if (n_part <= 2)
        return;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t m = n - at < BLOCK ? n - at : BLOCK;
        if (n_part & (n_part - 1))
            left_to_right(out, part, n_part, at, m);
        else
            balanced(out, part, n_part, at, m);
    }
}
