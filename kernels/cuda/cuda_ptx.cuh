/* The device's words for nvcc, in PTX where C++ has none; cuda_simt.cuh has the same functions for the model. PTX ISA
 * 8.0: "Matrix multiply-accumulate", "ldmatrix", "cp.async". */
#ifndef KERNELS_CUDA_PTX_H
#define KERNELS_CUDA_PTX_H

#include <cuda_runtime.h>
#include <math.h>

#define LK_SITE int = 0
#define LK_PASS_SITE 0

static __device__ __forceinline__ uint32_t lk_as_bits(float x)
{
    return __float_as_uint(x);
}

static __device__ __forceinline__ float lk_as_float(uint32_t u)
{
    return __uint_as_float(u);
}

static __device__ __forceinline__ uint64_t lk_as_bits64(double x)
{
    return (uint64_t)__double_as_longlong(x);
}

static __device__ __forceinline__ double lk_as_double(uint64_t u)
{
    return __longlong_as_double((long long)u);
}

/* Nearest even, every NaN becomes 0x7fff. */
static __device__ __forceinline__ uint16_t lk_bf16(float x)
{
    uint16_t y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

/* The same of two, the first in the low half. */
static __device__ __forceinline__ uint32_t lk_bf16x2(float low, float high)
{
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

static __device__ __forceinline__ float lk_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

extern __shared__ __align__(16) uint8_t lk_shared_memory[];

static __device__ __forceinline__ uint8_t *lk_smem(void)
{
    return lk_shared_memory;
}

static __device__ __forceinline__ uint32_t lk_shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

template <typename T> static __device__ __forceinline__ T lk_ld(const void *from)
{
    return *(const T *)from;
}

template <typename T> static __device__ __forceinline__ void lk_st(void *to, T x)
{
    *(T *)to = x;
}

static __device__ __forceinline__ uint32_t lk_atomic_add(uint32_t *to, uint32_t x)
{
    return atomicAdd(to, x);
}

static __device__ __forceinline__ unsigned long long lk_atomic_add64(unsigned long long *to, unsigned long long x)
{
    return atomicAdd(to, x);
}

/* 16 bytes into shared memory: the first from_bytes of them from there, zeros behind. */
static __device__ __forceinline__ void lk_cp_async(void *to, const void *from, int from_bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(lk_shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(from_bytes)
                 : "memory");
}

static __device__ __forceinline__ void lk_cp_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int open> static __device__ __forceinline__ void lk_cp_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
}

static __device__ __forceinline__ uint32_t lk_shuffle(uint32_t x, int from, LK_SITE)
{
    return __shfl_sync(0xffffffffu, x, from);
}

static __device__ __forceinline__ uint32_t lk_ballot(bool x, LK_SITE)
{
    return __ballot_sync(0xffffffffu, x);
}

static __device__ __forceinline__ int lk_popc(uint32_t x)
{
    return __popc(x);
}

static __device__ __forceinline__ void lk_mma(float c[4], const uint32_t a[4], const uint32_t b[2], LK_SITE)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void lk_ldmatrix4(uint32_t r[4], const void *row, LK_SITE)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(lk_shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void lk_ldmatrix4_t(uint32_t r[4], const void *row, LK_SITE)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(lk_shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void lk_ldmatrix2(uint32_t r[2], const void *row, LK_SITE)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(lk_shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void lk_ldmatrix2_t(uint32_t r[2], const void *row, LK_SITE)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(lk_shared_address(row))
                 : "memory");
}

struct lk_shape {
    const char *name;
    dim3 grid;
    int threads;
    size_t shared;
    void *stream;
};

/* 0 or the runtime's error code. */
template <typename A> static int lk_launch(void (*kernel)(A), const lk_shape &s, const A &args)
{
    if (s.grid.x == 0 || s.grid.y == 0 || s.grid.z == 0)
        return 0;
    if (s.shared > 48 * 1024) {
        cudaError_t e =
            cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)s.shared);
        if (e != cudaSuccess)
            return (int)e;
    }
    kernel<<<s.grid, s.threads, s.shared, (cudaStream_t)s.stream>>>(args);
    return (int)cudaGetLastError();
}

#endif
