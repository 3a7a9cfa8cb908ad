/* The device's words as the model on the CPU has them; cuda_ptx.cuh has the same functions for nvcc. */
#ifndef KERNELS_CUDA_SIMT_H
#define KERNELS_CUDA_SIMT_H

#include "kernels/tests/simt/simt.cuh"

/* Where an operation of a warp stands: the place that called the wrapper. */
#define LK_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define LK_PASS_SITE file, line

static inline uint32_t lk_as_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float lk_as_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint64_t lk_as_bits64(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline double lk_as_double(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* cvt.rn.bf16.f32: nearest even, every NaN becomes the same one. */
static inline uint16_t lk_bf16(float x)
{
    uint32_t u = lk_as_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline uint32_t lk_bf16x2(float low, float high)
{
    return (uint32_t)lk_bf16(low) | (uint32_t)lk_bf16(high) << 16;
}

/* 2^x: on the device the processor's own approximation, which flushes subnormal results. */
static inline float lk_exp2(float x)
{
    return exp2f(x);
}

static inline uint8_t *lk_smem(void)
{
    return simt_shared();
}

template <typename T> static inline T lk_ld(const void *from)
{
    T x;
    simt_load(&x, from, (int)sizeof x);
    return x;
}

template <typename T> static inline void lk_st(void *to, T x)
{
    simt_store(to, &x, (int)sizeof x);
}

static inline uint32_t lk_atomic_add(uint32_t *to, uint32_t x)
{
    return simt_atomic_add(to, x);
}

static inline unsigned long long lk_atomic_add64(unsigned long long *to, unsigned long long x)
{
    return simt_atomic_add64(to, x);
}

/* 16 bytes into shared memory: the first from_bytes of them from there, zeros behind. */
static inline void lk_cp_async(void *to, const void *from, int from_bytes)
{
    simt_cp_async(to, from, 16, from_bytes);
}

static inline void lk_cp_commit(void)
{
    simt_cp_commit();
}

template <int open> static inline void lk_cp_wait(void)
{
    simt_cp_wait(open);
}

static inline uint32_t lk_shuffle(uint32_t x, int from, LK_SITE)
{
    return simt_shuffle(x, from, {file, line});
}

static inline uint32_t lk_ballot(bool x, LK_SITE)
{
    return simt_ballot(x, {file, line});
}

static inline int lk_popc(uint32_t x)
{
    return __builtin_popcount(x);
}

static inline void lk_mma(float c[4], const uint32_t a[4], const uint32_t b[2], LK_SITE)
{
    simt_mma(c, a, b, {file, line});
}

static inline void lk_ldmatrix4(uint32_t r[4], const void *row, LK_SITE)
{
    simt_ldmatrix(r, row, 4, false, {file, line});
}

static inline void lk_ldmatrix4_t(uint32_t r[4], const void *row, LK_SITE)
{
    simt_ldmatrix(r, row, 4, true, {file, line});
}

/* Addresses come from lanes 0 .. 15 alone, the others' are not used. */
static inline void lk_ldmatrix2(uint32_t r[2], const void *row, LK_SITE)
{
    simt_ldmatrix(r, row, 2, false, {file, line});
}

static inline void lk_ldmatrix2_t(uint32_t r[2], const void *row, LK_SITE)
{
    simt_ldmatrix(r, row, 2, true, {file, line});
}

struct lk_shape {
    const char *name;
    dim3 grid;
    int threads;
    size_t shared;
    void *stream;
};

template <typename A> static int lk_launch(void (*kernel)(A), const lk_shape &s, const A &args)
{
    struct call {
        void (*kernel)(A);
        A args;
    } c = {kernel, args};
    if (s.grid.x == 0 || s.grid.y == 0 || s.grid.z == 0)
        return 0;
    simt_call call = {s.name,
                      s.grid,
                      s.threads,
                      s.shared,
                      s.stream,
                      [](const void *ctx) {
                          const struct call *k = (const struct call *)ctx;
                          k->kernel(k->args);
                      },
                      &c,
                      sizeof c};
    return simt_enqueue ? simt_enqueue(&call) : simt_run_call(&call);
}

#endif
