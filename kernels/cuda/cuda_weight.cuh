/* Weights of a tile as fragments of B: bf16 as they lie, packed formats made bf16 on the way. */
#ifndef KERNELS_CUDA_WEIGHT_H
#define KERNELS_CUDA_WEIGHT_H

#include "kernels/cuda/cuda_util.cuh"
#include "kernels/cuda/lk_cuda.h"

#define LK_K_TILE 32 /* columns of K that a stage holds; the block of packed formats */

/* Bytes that a row of weights takes in a stage. */
template <lk_weight_format F> static __host__ __device__ constexpr int lk_tile_row_bytes(void)
{
    return F == LK_W_BF16 ? 64 : F == LK_W_INT4 ? 16 : 32;
}

/* Where 16 bytes of a row of 64 lie: eight rows of a matrix that ldmatrix reads are in different banks. */
static __device__ __forceinline__ int lk_swizzle(int row, int chunk)
{
    return row * 64 + (chunk ^ (row / 2 % 4)) * 16;
}

/* E4M3 (Micikevicius et al. 2022): 0x7f and 0xff are NaN, all else finite. The bits are those of a float 2^120 times
 * too small. */
static __device__ __forceinline__ float lk_of_fp8(uint32_t x)
{
    float v = lk_as_float((x & 0x7fu) << 20) * 0x1p120f;
    v = (x & 0x7fu) == 0x7fu ? NAN : v;
    return x & 0x80u ? -v : v;
}

/* One block's numbers: value = (q - zero) * scale + least. */
struct lk_block_scale {
    float scale, zero, least;
};

static __device__ __forceinline__ float lk_scaled(float q, const lk_block_scale &s)
{
    return (q - s.zero) * s.scale + s.least;
}

/* Columns k and k + 1 (even k) of a packed row in shared memory as bf16. */
template <lk_weight_format F>
static __device__ __forceinline__ uint32_t lk_unpack2(const uint8_t *row, int k, const lk_block_scale &s)
{
    if (F == LK_W_INT4) {
        uint32_t x = row[k / 2];
        return lk_pack2(lk_scaled((float)(x & 15u), s), lk_scaled((float)(x >> 4), s));
    }
    uint32_t x = *(const uint16_t *)(row + k);
    if (F == LK_W_FP8)
        return lk_pack2(lk_scaled(lk_of_fp8(x & 255u), s), lk_scaled(lk_of_fp8(x >> 8), s));
    return lk_pack2(lk_scaled((float)(int8_t)(x & 255u), s), lk_scaled((float)(int8_t)(x >> 8), s));
}

#endif
