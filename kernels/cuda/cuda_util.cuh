/* What kernels use of the device: nvcc's words and PTX, or the model of both on the CPU (kernels/tests/simt). Kernels
 * are the same source for either, and keep these rules so that the model sees what they do:
 *   - shared memory is lk_smem(), cut up by the kernel; stores into it are of 2 bytes at least;
 *   - vectors are loaded and stored with lk_ld and lk_st;
 *   - warps are whole, and operations of a warp are done by all its lanes;
 *   - a kernel takes one struct by value and is launched by lk_launch.
 * Nothing contracts a product and a sum (-fmad=false): fmaf is written where it is meant. */
#ifndef KERNELS_CUDA_UTIL_H
#define KERNELS_CUDA_UTIL_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/types.h"

#ifdef LK_SIMT
#include "kernels/cuda/cuda_simt.cuh"
#else
#include "kernels/cuda/cuda_ptx.cuh"
#endif

#define LK_WARP 32

static __device__ __forceinline__ int lk_lane(void)
{
    return (int)(threadIdx.x % LK_WARP);
}

static __device__ __forceinline__ int lk_warp(void)
{
    return (int)(threadIdx.x / LK_WARP);
}

static __device__ __forceinline__ float lk_widen(uint16_t x)
{
    return lk_as_float((uint32_t)x << 16);
}

static __device__ __forceinline__ uint32_t lk_pack2(float low, float high)
{
    return lk_bf16x2(low, high);
}

/* The same number for every lane, from the lane `from`. */
static __device__ __forceinline__ float lk_shuffle_f32(float x, int from, LK_SITE)
{
    return lk_as_float(lk_shuffle(lk_as_bits(x), from, LK_PASS_SITE));
}

/* Sums and maxima over a warp: lane l with l ^ 16, then 8, 4, 2, 1; every lane gets the result. */
static __device__ __forceinline__ float lk_warp_sum(float x)
{
    for (int step = LK_WARP / 2; step > 0; step /= 2)
        x += lk_shuffle_f32(x, lk_lane() ^ step);
    return x;
}

static __device__ __forceinline__ float lk_warp_max(float x)
{
    for (int step = LK_WARP / 2; step > 0; step /= 2)
        x = fmaxf(x, lk_shuffle_f32(x, lk_lane() ^ step));
    return x;
}

static __host__ __device__ __forceinline__ int64_t lk_blocks(int64_t n, int64_t per)
{
    return (n + per - 1) / per;
}

static __host__ __device__ __forceinline__ int64_t lk_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
