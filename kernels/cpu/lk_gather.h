/* Copies of cache slots in the layouts that the sets share: in f32 K is [n, 32 positions] and V [32 positions, n] in
 * all of them; in bf16 the reference has numbers there, the vector sets pairs. */
#ifndef KERNELS_CPU_LK_GATHER_H
#define KERNELS_CPU_LK_GATHER_H

#include "kernels/args_sparse.h"

void lk_gather_f32(const struct lk_gather *a, int64_t begin, int64_t end);
void lk_gather_bf16(const struct lk_gather *a, int64_t begin, int64_t end);
/* K: words of two dimensions, [n / 2, 32 positions]; V: words of two positions, [32 / 2, n]. */
void lk_gather_pairs(const struct lk_gather *a, int64_t begin, int64_t end);

#endif
