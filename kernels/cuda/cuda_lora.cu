/* Adapters beside a product (kernels/args_lora.h): u = scale * (A x) by segment, then B u onto the segments' sums. Both
 * are plain sums in f32 in the order that the CPU's sets have, by tiles of rows of one adapter, so that a tile reads A
 * and B once. What is in a tile decides no bit: each row has sums of its own. */
#include "kernels/cuda/cuda_cols.cuh"
#include "kernels/cuda/lk_cuda_lora.h"

#define ROWS LK_ADAPT_TILE
#define WARPS 4
#define THREADS (WARPS * LK_WARP)
#define COLS 128 /* of K that are in shared memory at a time */
#define DEEP 64  /* numbers of u likewise; even, as even and odd ones are summed apart */

struct down_args {
    lk_adapt l;
    const void *x; /* [*, k] */
    int64_t k, packed[LK_MAX_SEG + 1];
};

/* Rows of a tile; those it has not are -1. */
static __device__ __forceinline__ int row_of(const lk_adapt &l, const lk_adapt_tile &t, int r)
{
    return r < t.n ? l.row[t.first + r] : -1;
}

/* Columns k .. k + n - 1 of the tile's rows as f32, zeros for rows that are not there. */
template <typename T>
static __device__ __forceinline__ void fetch_rows(float *to, const down_args &a, const lk_adapt_tile &t, int64_t k,
                                                  int64_t n)
{
    for (int i = (int)threadIdx.x; i < ROWS * COLS; i += THREADS) {
        int row = row_of(a.l, t, i / COLS);
        to[i] = row >= 0 && i % COLS < n ? lk_get((const T *)a.x, row * a.k + k + i % COLS) : 0;
    }
}

/* A lane a number of u, a warp the columns k with the same k mod 4: the four sums of the contract. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) lora_down_kernel(const __grid_constant__ down_args a)
{
    float *x = (float *)lk_smem(), *sums = x + ROWS * COLS, acc[ROWS] = {};
    lk_adapt_tile t = a.l.tile[blockIdx.x];
    const lk_adapter &p = a.l.adapter[t.adapter];
    int64_t j = (int64_t)blockIdx.z * LK_WARP + lk_lane(), end = a.packed[blockIdx.y + 1];
    if ((int64_t)blockIdx.z * LK_WARP >= p.n_u)
        return;
    const T *w = (const T *)p.a + lk_least(j, p.n_u - 1);
    for (int64_t k = a.packed[blockIdx.y]; k < end; k += COLS) {
        int n = (int)lk_least(COLS, end - k);
        __syncthreads();
        fetch_rows<T>(x, a, t, k, n);
        __syncthreads();
#pragma unroll 8
        for (int i = lk_warp(); i < n; i += WARPS) {
            float v = lk_get(w, (k + i) * p.n_u);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                acc[r] += x[r * COLS + i] * v;
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        sums[(lk_warp() * ROWS + r) * LK_WARP + lk_lane()] = acc[r];
    __syncthreads();
    for (int r = lk_warp(); r < t.n && j < p.n_u; r += WARPS) {
        const float *s = sums + r * LK_WARP + lk_lane();
        float sum = (s[0] + s[ROWS * LK_WARP]) + (s[2 * ROWS * LK_WARP] + s[3 * ROWS * LK_WARP]);
        a.l.u[row_of(a.l, t, r) * a.l.u_ld + blockIdx.y * p.n_u + j] = sum * p.scale[j];
    }
}

struct up_args {
    lk_adapt l;
    lk_adapt_sums y;
};

/* Numbers i .. i + n - 1 of a part's u for the tile's rows. */
static __device__ __forceinline__ void fetch_u(float *to, const up_args &a, const lk_adapt_tile &t, int64_t at, int n)
{
    for (int i = (int)threadIdx.x; i < ROWS * DEEP; i += THREADS) {
        int row = row_of(a.l, t, i / DEEP);
        to[i] = row >= 0 && i % DEEP < n ? a.l.u[row * a.l.u_ld + at + i % DEEP] : 0;
    }
}

/* A thread an output column. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) lora_up_kernel(const __grid_constant__ up_args a)
{
    float *u = (float *)lk_smem(), even[ROWS] = {}, odd[ROWS] = {};
    lk_adapt_tile t = a.l.tile[blockIdx.x];
    const lk_adapter &p = a.l.adapter[t.adapter];
    int64_t first = (int64_t)blockIdx.y * THREADS, col = first + threadIdx.x;
    bool mine = false;
    for (int ip = 0; ip < p.n_part; ip++) {
        lk_adapter_part part = p.part[ip];
        if (part.first >= first + THREADS || part.first + part.n <= first)
            continue;
        bool here = col >= part.first && col < part.first + part.n;
        const T *b = (const T *)p.b + part.at + (here ? col - part.first : 0);
        for (int64_t i = 0; i < part.n_u; i += DEEP) {
            int n = (int)lk_least(DEEP, part.n_u - i);
            __syncthreads();
            fetch_u(u, a, t, blockIdx.z * p.n_u + part.begin + i, n);
            __syncthreads();
            for (int d = 0; here && d < n; d += 2) {
                float w = lk_get(b, (i + d) * part.n);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    even[r] += u[r * DEEP + d] * w;
                if (d + 1 == n)
                    break;
                w = lk_get(b, (i + d + 1) * part.n);
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    odd[r] += u[r * DEEP + d + 1] * w;
            }
        }
        mine = mine || here;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int64_t row = row_of(a.l, t, r) - a.y.row;
        if (mine && r < t.n && row >= 0 && row < a.y.n_row)
            a.y.part[blockIdx.z * a.y.part_ld + row * a.y.n_out + col] += even[r] + odd[r];
    }
}

int lk_cuda_lora_down(const struct lk_adapt *l, const struct lk_act *x, enum lk_type type, void *stream)
{
    const struct lk_cols *c = x->cols;
    down_args a = {*l, x->data, lk_packed(*c), {}};
    for (int s = 0; s <= c->n_seg; s++)
        a.packed[s] = c->packed[s];
    dim3 grid((unsigned)l->n_tile, (unsigned)c->n_seg, (unsigned)lk_blocks(l->n_u, LK_WARP));
    lk_shape s = {"lora_down", grid, THREADS, (ROWS * COLS + WARPS * ROWS * LK_WARP) * sizeof(float), stream};
    return lk_launch(type == LK_F32 ? lora_down_kernel<float> : lora_down_kernel<uint16_t>, s, a);
}

int lk_cuda_lora_up(const struct lk_adapt *l, const struct lk_adapt_sums *y, enum lk_type type, void *stream)
{
    up_args a = {*l, *y};
    dim3 grid((unsigned)l->n_tile, (unsigned)lk_blocks(y->n_out, THREADS), (unsigned)y->n_seg);
    lk_shape s = {"lora_up", grid, THREADS, ROWS * DEEP * sizeof(float), stream};
    return lk_launch(type == LK_F32 ? lora_up_kernel<float> : lora_up_kernel<uint16_t>, s, a);
}
