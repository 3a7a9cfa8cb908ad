/* Which of many keys are among the first, and their order, by a block of threads. */
#ifndef KERNELS_CUDA_SELECT_H
#define KERNELS_CUDA_SELECT_H

#include "kernels/cuda/cuda_order.cuh"

/* Shared memory of a selection. */
struct lk_select_room {
    uint32_t bin[256];
    uint32_t prefix, wanted;
};

/* The smallest key among the first `wanted` (1 .. how many there are) of key_of(0 .. n - 1), larger ones first, 0:
 * none; in r->prefix, and in r->wanted how many that have it are among them. One byte at a time from the top: four
 * passes. */
template <typename F>
static __device__ __forceinline__ void lk_find_last(F key_of, int64_t n, uint32_t wanted, lk_select_room *r)
{
    if (threadIdx.x == 0) {
        r->prefix = 0;
        r->wanted = wanted;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (unsigned i = threadIdx.x; i < 256; i += blockDim.x)
            r->bin[i] = 0;
        __syncthreads();
        uint32_t prefix = r->prefix, mask = shift == 24 ? 0 : 0xffffffffu << (shift + 8);
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
            uint32_t key = key_of(i);
            if (key && (key & mask) == prefix)
                lk_atomic_add(&r->bin[key >> shift & 255u], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t left = r->wanted;
            int b = 255;
            for (; b > 0 && r->bin[b] < left; b--)
                left -= r->bin[b];
            r->wanted = left;
            r->prefix = prefix | (uint32_t)b << shift;
        }
        __syncthreads();
    }
}

/* The largest of x[n] first, n a power of two: bitonic (Batcher 1968). Behind a barrier, and ends with one. */
static __device__ __forceinline__ void lk_sort_ranked(uint64_t *x, int n)
{
    for (int size = 2; size <= n; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
                int j = i ^ step;
                if (j < i)
                    continue;
                uint64_t a = x[i], b = x[j];
                if ((i & size) == 0 ? a < b : a > b) {
                    x[i] = b;
                    x[j] = a;
                }
            }
            __syncthreads();
        }
    }
}

#endif
