/* Ids that stay on the device for the step behind (cuda_top.cu). */
#ifndef KERNELS_CUDA_LK_CUDA_IDS_H
#define KERNELS_CUDA_LK_CUDA_IDS_H

#include "kernels/cuda/lk_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* id[i] = the id of the largest of row i's best[n_block], the lowest one of those; 0 where none of them is a number. */
struct lk_pick {
    const struct lk_best *best; /* [n_row, n_block] */
    int64_t n_row, n_block;
    int32_t *id; /* out: [n_row] */
};
int lk_cuda_pick(const struct lk_pick *a, void *stream);

/* id[i] = id[i] < 0 ? slot[~id[i]] : id[i]. */
struct lk_resolve {
    int32_t *id; /* [n] */
    const int32_t *slot;
    int64_t n;
};
int lk_cuda_resolve(const struct lk_resolve *a, void *stream);

#ifdef __cplusplus
}
#endif

#endif
