/* The tree in which partial results of ranks are added (engine contract, section 2). */
#ifndef CORE_DIST_TREE_H
#define CORE_DIST_TREE_H

#include <stdint.h>

/* out[n] = sum of part[0] … part[n_part-1], each [n] f32: for powers of two balanced, ((p0 + p1) + (p2 + p3)) + …, else
 * left to right, ((p0 + p1) + p2) + …. out may be one of the parts. 1 <= n_part <= LB_COMM_MAX_RANKS. */
void lb_tree_add(float *out, const float *const *part, int n_part, int64_t n);

/* low[n] + high[n], in this order, to out, which may be either. */
void lb_tree_add2(float *out, const float *low, const float *high, int64_t n);

#endif
