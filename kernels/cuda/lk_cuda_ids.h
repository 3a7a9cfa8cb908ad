/* Ids that stay on the device for the step behind (cuda_top.cu, cuda_sample.cu). */
#ifndef KERNELS_CUDA_LK_CUDA_IDS_H
#define KERNELS_CUDA_LK_CUDA_IDS_H

#include "kernels/cuda/lk_cuda.h"
#include "kernels/mass.h"

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

/* The id of each row that draws: the one that core/run/sample.h describes, to the bit. 0 where a logit is no finite
 * number. */
struct lk_sample {
    const float *logits; /* [n_row, n_vocab], rows ld apart */
    int64_t ld, n_row, n_vocab;
    const struct lk_best *best; /* [n_row, ceil(n_vocab / LK_HEAD_BLOCK)] of these */
    const struct lk_draw *draw; /* [n_row] */
    int32_t *id;                /* [n_row]; those of other rows stay */
};
int lk_cuda_sample(const struct lk_sample *a, void *stream);

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
