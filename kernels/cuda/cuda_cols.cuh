/* Activations as kernels see them: row-major over the packed columns, in pairs. */
#ifndef KERNELS_CUDA_COLS_H
#define KERNELS_CUDA_COLS_H

#include "kernels/cuda/cuda_util.cuh"

/* struct lk_act with its columns by value: the host's pointer means nothing to a kernel. */
struct lk_rows {
    void *data;
    int64_t n_row;
    struct lk_cols cols;
};

static inline lk_rows lk_rows_of(const struct lk_act &a)
{
    return {a.data, a.n_row, *a.cols};
}

static __host__ __device__ __forceinline__ int64_t lk_packed(const lk_cols &c)
{
    return c.packed[c.n_seg];
}

/* The source column of a packed one, or -1: it holds zero. */
static __device__ __forceinline__ int64_t lk_source(const lk_cols &c, int64_t packed)
{
    int s = 0;
    while (packed >= c.packed[s + 1])
        s++;
    int64_t col = c.begin[s] + packed - c.packed[s];
    return col < c.begin[s + 1] ? col : -1;
}

/* Two neighbors of type T, the first at an even index. */
static __device__ __forceinline__ void lk_put2(uint16_t *x, int64_t i, float a, float b)
{
    lk_st<uint32_t>(x + i, lk_pack2(a, b));
}

static __device__ __forceinline__ void lk_put2(float *x, int64_t i, float a, float b)
{
    lk_st<float2>(x + i, float2{a, b});
}

static __device__ __forceinline__ float lk_get(const uint16_t *x, int64_t i)
{
    return lk_widen(x[i]);
}

static __device__ __forceinline__ float lk_get(const float *x, int64_t i)
{
    return x[i];
}

/* The sum over all threads of a block, the same for each: warps' sums in order. `room`: a float a warp; ends with
 * everybody able to write it again only after a barrier. */
static __device__ __forceinline__ float lk_block_sum(float x, float *room)
{
    x = lk_warp_sum(x);
    if (lk_lane() == 0)
        room[lk_warp()] = x;
    __syncthreads();
    float sum = room[0];
    for (int i = 1; i < (int)blockDim.x / LK_WARP; i++)
        sum += room[i];
    return sum;
}

#endif
