/* A block of CUDA threads on the CPU: what nvcc and the device give a kernel, for sources that the host compiler takes.
 *
 * Threads are fibers, blocks run one after another. A launch ends at the first thing that a device would not forgive
 * (enum simt_fault); kernels run on otherwise as on the device. The kernels' objects are compiled with
 * -fsanitize=thread but linked without its runtime: simt_shadow.cu has those functions, so that every load and store of
 * a kernel, plain C++ as it is, is checked against the known buffers, and in shared memory against what other threads
 * did since the last barrier. One host thread at a time runs kernels; others may launch meanwhile. */
#ifndef KERNELS_TESTS_SIMT_H
#define KERNELS_TESTS_SIMT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline /* the compiler takes four times as long over a copy for each call */
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c)
    {
    }
};

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

struct alignas(8) uint2 {
    uint32_t x, y;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

struct alignas(8) float2 {
    float x, y;
};

struct alignas(16) double2 {
    double x, y;
};

enum simt_fault {
    SIMT_OK,
    SIMT_BOUNDS,    /* outside every known buffer, or behind the block's shared memory */
    SIMT_READONLY,  /* a store into a buffer that the kernel may only read */
    SIMT_ALIGNMENT, /* a vector access that is not aligned to its size */
    SIMT_RACE,      /* two threads met at a place in shared memory without a barrier between them */
    SIMT_UNWRITTEN, /* shared memory read before this block wrote it */
    SIMT_PENDING,   /* shared memory touched while cp.async may still write it */
    SIMT_BARRIER,   /* threads of a block wait at different barriers, or some have left */
    SIMT_WARP,      /* lanes of a warp meet in different operations, or some have left */
    SIMT_LAUNCH,    /* a shape that no device takes */
};

/* ---- for tests ---- */

/* Device memory of a test: kernels may touch what lies in known buffers alone. */
void simt_add(const void *begin, size_t bytes, bool writable);
void simt_remove(const void *begin);

/* Shared memory that a block may have: 227 KB until this is called. */
void simt_limit_shared(size_t bytes);

/* What the last launch ended with, and in words. */
enum simt_fault simt_fault_of_last(void);
const char *simt_message(void);

/* Calls see(...) for each kernel that was launched so far: most threads and shared memory of a block. */
void simt_each_kernel(void (*see)(const char *name, int threads, size_t shared));

/* ---- for a stand-in of the runtime (kernels/tests/standin) ---- */

/* A launch: what lk_launch was given. ctx[ctx_bytes] may be copied and the kernel run from the copy. */
struct simt_call {
    const char *name;
    dim3 grid;
    int threads;
    size_t shared;
    void *stream;
    void (*kernel)(const void *ctx);
    const void *ctx;
    size_t ctx_bytes;
};

/* What takes launches, in place of running them at once; what sees a kernel's accesses to known buffers. NULL: nobody.
 */
extern int (*simt_enqueue)(const struct simt_call *call);
extern void (*simt_saw)(const void *at, size_t bytes, bool store);

/* Runs a launch: ctx is a buffer that the kernel may read. 0 or the fault. */
int simt_run_call(const struct simt_call *call);

/* ---- for cuda_util.cuh ---- */

/* Where the thread stands that runs: x, y << 32, z << 48. The same for as long as it runs, so that a compiler may ask
 * once; no load of the kernel's, so that no hook is called. */
uint64_t simt_thread_index(void) __attribute__((const));
uint64_t simt_block_index(void) __attribute__((const));
uint64_t simt_grid(void) __attribute__((const));
uint64_t simt_block_threads(void) __attribute__((const));

static inline uint3 simt_unpack(uint64_t v)
{
    return {(unsigned)v, (unsigned)(v >> 32 & 0xffff), (unsigned)(v >> 48)};
}

#define threadIdx simt_unpack(simt_thread_index())
#define blockIdx simt_unpack(simt_block_index())
#define gridDim simt_unpack(simt_grid())
#define blockDim simt_unpack(simt_block_threads())

/* Runs kernel(ctx) on every thread; 0 or the fault. */
int simt_launch(const char *name, dim3 grid, int threads, size_t shared, void (*kernel)(const void *ctx),
                const void *ctx);

uint8_t *simt_shared(void);

/* Each place in the source is its own barrier or operation. */
struct simt_site {
    const char *file;
    int line;
};

#define SIMT_HERE (simt_site{__FILE__, __LINE__})

void simt_sync_block(simt_site at);
void simt_sync_warp(simt_site at);

#define __syncthreads() simt_sync_block(SIMT_HERE)
#define __syncwarp() simt_sync_warp(SIMT_HERE)

/* Checked accesses: a vector of 4, 8 or 16 bytes, aligned to its size. */
void simt_load(void *to, const void *from, int bytes);
void simt_store(void *to, const void *from, int bytes);
uint32_t simt_atomic_add(uint32_t *to, uint32_t x);
unsigned long long simt_atomic_add64(unsigned long long *to, unsigned long long x);

void simt_cp_async(void *to, const void *from, int bytes, int from_bytes);
void simt_cp_commit(void);
void simt_cp_wait(int open);

/* Operations of a whole warp. */
uint32_t simt_shuffle(uint32_t x, int from, simt_site at);
uint32_t simt_ballot(bool x, simt_site at);
void simt_mma(float c[4], const uint32_t a[4], const uint32_t b[2], simt_site at);
void simt_ldmatrix(uint32_t *r, const void *row, int n, bool transposed, simt_site at);

#endif
