/* Order among numbers: keys that compare as integers, the best of a warp, places in order. */
#ifndef KERNELS_CUDA_ORDER_H
#define KERNELS_CUDA_ORDER_H

#include "kernels/cuda/cuda_util.cuh"

/* Keys of numbers ascend with them, -0 equals 0; 0 is below the key of any number. NaN has `nan`. */
static __device__ __forceinline__ uint32_t lk_key(float x, uint32_t nan)
{
    uint32_t u = lk_as_bits(x + 0.0f);
    if (x != x)
        return nan;
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static __device__ __forceinline__ float lk_of_key(uint32_t key)
{
    return lk_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* Ties go to the lower index. */
static __device__ __forceinline__ uint64_t lk_ranked(uint32_t key, uint32_t index)
{
    return (uint64_t)key << 32 | (0xffffffffu - index);
}

static __device__ __forceinline__ uint32_t lk_index_of(uint64_t ranked)
{
    return 0xffffffffu - (uint32_t)ranked;
}

static __device__ __forceinline__ uint64_t lk_shuffle64(uint64_t x, int from, LK_SITE)
{
    uint32_t low = lk_shuffle((uint32_t)x, from, LK_PASS_SITE);
    return (uint64_t)lk_shuffle((uint32_t)(x >> 32), from, LK_PASS_SITE) << 32 | low;
}

static __device__ __forceinline__ uint64_t lk_warp_best(uint64_t x)
{
    for (int step = LK_WARP / 2; step > 0; step /= 2) {
        uint64_t y = lk_shuffle64(x, lk_lane() ^ step);
        x = x > y ? x : y;
    }
    return x;
}

static __device__ __forceinline__ uint64_t lk_warp_total(uint64_t x)
{
    for (int step = LK_WARP / 2; step > 0; step /= 2)
        x += lk_shuffle64(x, lk_lane() ^ step);
    return x;
}

static __device__ __forceinline__ double lk_warp_sum64(double x)
{
    for (int step = LK_WARP / 2; step > 0; step /= 2)
        x += lk_as_double(lk_shuffle64(lk_as_bits64(x), lk_lane() ^ step));
    return x;
}

/* Lanes before this one for which a ballot has a one. */
static __device__ __forceinline__ int lk_before(uint32_t ballot)
{
    return lk_popc(ballot & ((1u << lk_lane()) - 1));
}

/* Over all threads of a block, in the order of threads; `room` holds a number a warp. They begin with a barrier, so
 * that one room serves many of them, and every thread of the block calls. */
static __device__ __forceinline__ uint64_t lk_block_best(uint64_t x, uint64_t *room)
{
    x = lk_warp_best(x);
    __syncthreads();
    if (lk_lane() == 0)
        room[lk_warp()] = x;
    __syncthreads();
    for (int i = 0; i < (int)blockDim.x / LK_WARP; i++)
        x = x > room[i] ? x : room[i];
    return x;
}

static __device__ __forceinline__ uint64_t lk_block_total(uint64_t x, uint64_t *room)
{
    x = lk_warp_total(x);
    __syncthreads();
    if (lk_lane() == 0)
        room[lk_warp()] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < (int)blockDim.x / LK_WARP; i++)
        x += room[i];
    return x;
}

/* How many threads before this one have `x`; *all: how many have it. */
static __device__ __forceinline__ int lk_block_place(bool x, int *all, uint64_t *room)
{
    uint32_t bits = lk_ballot(x);
    int before = lk_before(bits);
    __syncthreads();
    if (lk_lane() == 0)
        room[lk_warp()] = (uint64_t)lk_popc(bits);
    __syncthreads();
    *all = 0;
    for (int i = 0; i < (int)blockDim.x / LK_WARP; i++) {
        before += i < lk_warp() ? (int)room[i] : 0;
        *all += (int)room[i];
    }
    return before;
}

#endif
