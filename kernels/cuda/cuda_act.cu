/* Rows: embedding, norm, rounding, activation, the tree of partial sums. */
#include "kernels/cuda/cuda_cols.cuh"
#include "kernels/cuda/lk_cuda.h"

#define THREADS 256

/* ---- embedding ---- */

template <typename T> static __global__ void __launch_bounds__(THREADS) embed_kernel(const __grid_constant__ lk_embed a)
{
    int64_t t = blockIdx.x;
    const T *from = (const T *)a.table + a.id[t] * a.dim;
    for (int64_t i = threadIdx.x; i < a.dim; i += THREADS)
        a.x[t * a.dim + i] = lk_get(from, i);
}

/* ---- norm ---- */

/* Each thread its columns, in order; then the block. The order depends on dim alone. */
static __device__ float inverse_rms(const float *x, int64_t dim, float eps, float *room)
{
    float sum = 0;
    if (dim % 4 == 0) {
        for (int64_t i = 4 * (int64_t)threadIdx.x; i < dim; i += 4 * THREADS) {
            float4 v = lk_ld<float4>(x + i);
            sum += v.x * v.x;
            sum += v.y * v.y;
            sum += v.z * v.z;
            sum += v.w * v.w;
        }
    } else {
        for (int64_t i = threadIdx.x; i < dim; i += THREADS)
            sum += x[i] * x[i];
    }
    return 1.0f / sqrtf(lk_block_sum(sum, room) / (float)dim + eps);
}

struct norm_args {
    lk_rows y;
    const float *x, *w;
    const int32_t *row;
    float eps;
};

template <typename T> static __global__ void __launch_bounds__(THREADS) norm_kernel(const __grid_constant__ norm_args a)
{
    int64_t i = blockIdx.x, dim = a.y.cols.n_col, n = lk_packed(a.y.cols);
    const float *x = a.x + (a.row ? a.row[i] : i) * dim;
    float inv = inverse_rms(x, dim, a.eps, (float *)lk_smem());
    for (int64_t k = 2 * (int64_t)threadIdx.x; k < n; k += 2 * THREADS) {
        int64_t c0 = lk_source(a.y.cols, k), c1 = lk_source(a.y.cols, k + 1);
        float v0 = c0 < 0 ? 0 : x[c0] * inv * a.w[c0], v1 = c1 < 0 ? 0 : x[c1] * inv * a.w[c1];
        lk_put2((T *)a.y.data, i * n + k, v0, v1);
    }
}

static __global__ void __launch_bounds__(THREADS) norm_add_kernel(const __grid_constant__ lk_norm_add a)
{
    const float *y = a.y + (int64_t)blockIdx.x * a.dim;
    float *x = a.x + (int64_t)blockIdx.x * a.dim;
    float inv = inverse_rms(y, a.dim, a.eps, (float *)lk_smem());
    for (int64_t k = threadIdx.x; k < a.dim; k += THREADS)
        x[k] += y[k] * inv * a.w[k];
}

/* ---- rounding ---- */

struct round_args {
    lk_rows y;
    const float *x;
    int64_t x_ld;
};

template <typename T>
static __global__ void __launch_bounds__(THREADS) round_kernel(const __grid_constant__ round_args a)
{
    int64_t i = blockIdx.x, n = lk_packed(a.y.cols);
    const float *x = a.x + i * a.x_ld;
    for (int64_t k = 2 * (int64_t)threadIdx.x; k < n; k += 2 * THREADS) {
        int64_t c0 = lk_source(a.y.cols, k), c1 = lk_source(a.y.cols, k + 1);
        lk_put2((T *)a.y.data, i * n + k, c0 < 0 ? 0 : x[c0], c1 < 0 ? 0 : x[c1]);
    }
}

/* ---- SwiGLU ---- */

struct swiglu_args {
    lk_rows out;
    const float *x, *bias;
};

static __device__ float gated(const swiglu_args &a, const float *x, int64_t col)
{
    if (col < 0)
        return 0;
    int64_t ffn = a.out.cols.n_col;
    float g = x[col], u = x[ffn + col];
    if (a.bias) {
        g += a.bias[col];
        u += a.bias[ffn + col];
    }
    return g / (1.0f + expf(-g)) * u;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) swiglu_kernel(const __grid_constant__ swiglu_args a)
{
    int64_t i = blockIdx.x, n = lk_packed(a.out.cols);
    const float *x = a.x + i * 2 * a.out.cols.n_col;
    int64_t k = 2 * ((int64_t)blockIdx.y * THREADS + threadIdx.x);
    if (k < n)
        lk_put2((T *)a.out.data, i * n + k, gated(a, x, lk_source(a.out.cols, k)),
                gated(a, x, lk_source(a.out.cols, k + 1)));
}

/* ---- the tree of partial sums ---- */

/* N parts, N a power of two: neighbors, then pairs of those. */
template <int N> static __device__ float balanced(const float *part, int64_t ld)
{
    float v[N];
#pragma unroll
    for (int s = 0; s < N; s++)
        v[s] = part[s * ld];
#pragma unroll
    for (int step = 1; step < N; step *= 2)
#pragma unroll
        for (int s = 0; s < N; s += 2 * step)
            v[s] += v[s + step];
    return v[0];
}

static __device__ float tree_of(const float *part, int64_t ld, int n)
{
    switch (n) {
    case 1:
        return balanced<1>(part, ld);
    case 2:
        return balanced<2>(part, ld);
    case 4:
        return balanced<4>(part, ld);
    case 8:
        return balanced<8>(part, ld);
    case 16:
        return balanced<16>(part, ld);
    }
    float v = part[0];
    for (int s = 1; s < n; s++)
        v += part[s * ld];
    return v;
}

static __global__ void __launch_bounds__(THREADS) tree_kernel(const __grid_constant__ lk_tree a)
{
    int64_t i = blockIdx.x, j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (j >= a.n_col)
        return;
    float v = tree_of(a.part + i * a.n_col + j, a.part_ld, a.n_part);
    if (a.bias)
        v += a.bias[j];
    float *y = a.y + i * a.y_ld + j;
    *y = a.add ? *y + v : v;
}

/* ---- launches ---- */

#define ROOM (THREADS / LK_WARP * sizeof(float))

int lk_cuda_embed(const struct lk_embed *a, enum lk_type type, void *stream)
{
    lk_shape s = {"embed", dim3((unsigned)a->n_tok), THREADS, 0, stream};
    return lk_launch(type == LK_F32 ? embed_kernel<float> : embed_kernel<uint16_t>, s, *a);
}

int lk_cuda_norm(const struct lk_norm *a, enum lk_type type, void *stream)
{
    norm_args args = {lk_rows_of(a->y), a->x, a->w, a->row, a->eps};
    lk_shape s = {"norm", dim3((unsigned)a->y.n_row), THREADS, ROOM, stream};
    return lk_launch(type == LK_F32 ? norm_kernel<float> : norm_kernel<uint16_t>, s, args);
}

int lk_cuda_norm_add(const struct lk_norm_add *a, void *stream)
{
    lk_shape s = {"norm_add", dim3((unsigned)a->n_row), THREADS, ROOM, stream};
    return lk_launch(norm_add_kernel, s, *a);
}

int lk_cuda_round(const struct lk_round *a, enum lk_type type, void *stream)
{
    round_args args = {lk_rows_of(a->y), a->x, a->x_ld};
    lk_shape s = {"round", dim3((unsigned)a->y.n_row), THREADS, 0, stream};
    return lk_launch(type == LK_F32 ? round_kernel<float> : round_kernel<uint16_t>, s, args);
}

int lk_cuda_swiglu(const struct lk_swiglu *a, enum lk_type type, void *stream)
{
    swiglu_args args = {lk_rows_of(a->out), a->x, a->bias};
    dim3 grid((unsigned)a->out.n_row, (unsigned)lk_blocks(lk_packed(args.out.cols), 2 * THREADS));
    lk_shape s = {"swiglu", grid, THREADS, 0, stream};
    return lk_launch(type == LK_F32 ? swiglu_kernel<float> : swiglu_kernel<uint16_t>, s, args);
}

int lk_cuda_tree(const struct lk_tree *a, void *stream)
{
    dim3 grid((unsigned)a->n_row, (unsigned)lk_blocks(a->n_col, THREADS));
    lk_shape s = {"tree", grid, THREADS, 0, stream};
    return lk_launch(tree_kernel, s, *a);
}
