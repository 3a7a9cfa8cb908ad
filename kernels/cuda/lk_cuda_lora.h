/* Adapters on CUDA: the algebra and the order of sums are those of kernels/args_lora.h, layouts and conventions those
 * of lk_cuda.h. A product goes in parts: lk_cuda_lora_down makes u of its input, lk_cuda_linear_sums or cuBLASLt the
 * segments' sums, lk_cuda_lora_up adds B u to them, lk_cuda_linear_finish does the rest. */
#ifndef KERNELS_CUDA_LK_CUDA_LORA_H
#define KERNELS_CUDA_LK_CUDA_LORA_H

#include "kernels/cuda/lk_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LK_ADAPT_TILE 8  /* rows of a tile at most */
#define LK_ADAPT_PARTS 3 /* modules in a fused matrix */

/* Output columns first .. first + n - 1 take n_u numbers of u from `begin` on; their B, [n_u, n], is at b[at]. */
struct lk_adapter_part {
    int64_t first, n, begin, n_u, at;
};

/* What one adapter adds to one matrix; parts do not overlap. */
struct lk_adapter {
    const void *a; /* A turned over: [packed columns of K, n_u], of the type of the activations; zeros are padding */
    const void *b; /* [numbers of all parts] likewise */
    const float *scale; /* [n_u] */
    int64_t n_u;        /* 0: nothing, and no part */
    int n_part;
    struct lk_adapter_part part[LK_ADAPT_PARTS];
};

/* Rows row[first .. first + n - 1] have the same adapter. */
struct lk_adapt_tile {
    int32_t adapter, first, n;
};

/* A step's adapters in front of one matrix. */
struct lk_adapt {
    const struct lk_adapter *adapter; /* the device's array */
    const int32_t *row;               /* those with an adapter */
    const struct lk_adapt_tile *tile; /* [n_tile] */
    int64_t n_tile, n_u;              /* n_u: of the adapter that has most */
    float *u;                         /* scratch: [*, u_ld]; row i's numbers for segment s at i * u_ld + s * n_u */
    int64_t u_ld;
};

/* Segments' sums of rows row .. row + n_row - 1 of a step. */
struct lk_adapt_sums {
    float *part; /* in and out: [n_seg] each [n_row, n_out], part_ld elements apart */
    int64_t part_ld, row, n_row, n_out;
    int n_seg;
};
int lk_cuda_lora_down(const struct lk_adapt *l, const struct lk_act *x, enum lk_type type, void *stream);
int lk_cuda_lora_up(const struct lk_adapt *l, const struct lk_adapt_sums *y, enum lk_type type, void *stream);

#ifdef __cplusplus
}
#endif

#endif
