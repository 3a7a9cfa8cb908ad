/* The f32 product, for cuda_linear.cu, which makes epilogues of it. */
#ifndef KERNELS_CUDA_F32_H
#define KERNELS_CUDA_F32_H

#include "kernels/cuda/cuda_util.cuh"

/* y = A W^T of segment s at y + s * y_seg. */
struct lk_f32_product {
    const float *a, *w; /* [n_row, k], [n_out, k] */
    float *y;
    int64_t y_ld, y_seg, n_row, n_out, k;
    int64_t packed[LK_MAX_SEG + 1];
};

int lk_launch_f32_product(const lk_f32_product &a, int n_seg, void *stream);

#endif
