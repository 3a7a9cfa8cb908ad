/* The f32 set's product and attention: for exactness, so in the reference's order and without tensor cores. */
#include "kernels/cuda/cuda_cols.cuh"
#include "kernels/cuda/cuda_f32.cuh"
#include "kernels/cuda/lk_cuda_attend.h"

#define TILE 32
#define THREADS 256
#define WARPS 4
#define DIMS 16 /* dimensions of V that a lane sums, 32 apart */
#define PAGE LK_PAGE_TOKENS

/* ---- y = A W^T, one addition after the other in each segment ---- */

/* Rows row .. row + 31 of x[n, k], columns col .. col + 31, into to[column][row]; zeros behind the last row. */
static __device__ void fetch(float *to, const float *x, int64_t n, int64_t k, int64_t row, int64_t col)
{
    for (int i = (int)threadIdx.x; i < TILE * TILE; i += THREADS) {
        int64_t r = row + i / TILE;
        to[i % TILE * (TILE + 1) + i / TILE] = r < n ? x[r * k + col + i % TILE] : 0;
    }
}

static __global__ void __launch_bounds__(THREADS) product_kernel(const __grid_constant__ lk_f32_product a)
{
    float *ta = (float *)lk_smem(), *tw = ta + TILE * (TILE + 1), acc[4] = {};
    int row = (int)threadIdx.x / 8, col = (int)threadIdx.x % 8 * 4;
    int64_t row0 = (int64_t)blockIdx.x * TILE, col0 = (int64_t)blockIdx.y * TILE;
    for (int64_t k = a.packed[blockIdx.z]; k < a.packed[blockIdx.z + 1]; k += TILE) {
        __syncthreads();
        fetch(ta, a.a, a.n_row, a.k, row0, k);
        fetch(tw, a.w, a.n_out, a.k, col0, k);
        __syncthreads();
        for (int i = 0; i < TILE; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                acc[j] += ta[i * (TILE + 1) + row] * tw[i * (TILE + 1) + col + j];
    }
    for (int j = 0; j < 4; j++)
        if (row0 + row < a.n_row && col0 + col + j < a.n_out)
            a.y[blockIdx.z * a.y_seg + (row0 + row) * a.y_ld + col0 + col + j] = acc[j];
}

/* ---- attention: a warp a head of a token ---- */

struct attend_args {
    lk_attend a;
    lk_rows out;
};

/* A running softmax and a lane's dimensions of its product with V. */
struct soft {
    float max, sum, o[DIMS];
};

static __device__ __forceinline__ void scale_out(soft *s, float by)
{
    s->sum *= by;
#pragma unroll
    for (int i = 0; i < DIMS; i++)
        s->o[i] *= by;
}

/* all = all merged with one split. */
static __device__ __forceinline__ void merge(soft *all, const soft &one)
{
    float max = fmaxf(all->max, one.max), a = expf(all->max - max), b = expf(one.max - max);
    all->max = max;
    all->sum = all->sum * a + one.sum * b;
#pragma unroll
    for (int i = 0; i < DIMS; i++)
        all->o[i] = all->o[i] * a + one.o[i] * b;
}

/* Takes a page into the softmax; lane i has position i of it, which is seen or not. */
static __device__ __forceinline__ void take_page(soft *s, const attend_args &x, const float *q, int64_t page, bool seen)
{
    const lk_kv &kv = x.a.kv;
    const float *k = (const float *)(kv.k + page * kv.k_page_bytes) + lk_lane() * kv.head_dim;
    const float *v = (const float *)(kv.v + page * kv.v_page_bytes);
    float score = 0;
    for (int64_t d = 0; d < kv.head_dim; d++)
        score += q[d] * k[d];
    score = seen ? score * x.a.scale : -INFINITY;
    float max = fmaxf(s->max, lk_warp_max(score)), p = seen ? expf(score - max) : 0;
    if (max > s->max)
        scale_out(s, expf(s->max - max));
    s->max = max;
    s->sum += lk_warp_sum(p);
    uint32_t bits = lk_ballot(seen);
    for (int j = 0; j < PAGE; j++) {
        float pj = lk_shuffle_f32(p, j);
        if ((bits >> j & 1u) == 0)
            continue;
#pragma unroll
        for (int i = 0; i < DIMS; i++)
            if (lk_lane() + 32 * i < kv.v_dim)
                s->o[i] += pj * v[j * kv.v_dim + lk_lane() + 32 * i];
    }
}

static __device__ __forceinline__ void write_out(const attend_args &x, const soft &all, int64_t tok, int64_t head)
{
    const lk_cols &c = x.out.cols;
    float *to = (float *)((uint8_t *)x.out.data + head * x.a.out_head_bytes) + tok * lk_packed(c);
#pragma unroll
    for (int i = 0; i < DIMS; i++) {
        int64_t d = lk_lane() + 32 * i, col = d + (x.a.out_head_bytes > 0 ? 0 : head * x.a.kv.v_dim);
        if (d >= x.a.kv.v_dim)
            continue;
        int s = 0;
        while (col >= c.begin[s + 1])
            s++;
        int64_t at = c.packed[s] + col - c.begin[s];
        to[at] = all.o[i] / all.sum;
        if (col + 1 == c.begin[s + 1])
            while (++at < c.packed[s + 1])
                to[at] = 0;
    }
}

static __global__ void __launch_bounds__(WARPS *LK_WARP) attend_f32_kernel(const __grid_constant__ attend_args x)
{
    lk_attn_item item = x.a.item[blockIdx.x];
    int64_t group = x.a.n_head / x.a.kv.n_kv_head;
    for (int64_t r = lk_warp(); r < item.n_tok * item.n_head; r += WARPS) {
        int64_t i = r / item.n_head, tok = item.tok + i, head = item.head + r % item.n_head;
        int64_t seq = item.n_shared > 0 ? item.seq + i : item.seq;
        int64_t last = x.a.pos[tok], from = x.a.window > 0 && last >= x.a.window ? last - x.a.window + 1 : 0;
        const float *q = (const float *)x.a.q + (tok * x.a.n_head + head) * x.a.kv.head_dim;
        soft all = {-INFINITY, 0, {}}, one = all;
        for (int64_t ip = from / PAGE; ip * PAGE <= last; ip++) {
            int64_t page = x.a.page[x.a.page_start[seq] + ip] * x.a.kv.n_kv_head + head / group;
            int64_t at = ip * PAGE + lk_lane();
            take_page(&one, x, q, page, at >= from && at <= last);
            bool ends = (ip + 1) * PAGE % LK_SPLIT_TOKENS == 0 || (ip + 1) * PAGE > last;
            if (!ends)
                continue;
            if (ip / (LK_SPLIT_TOKENS / PAGE) == from / LK_SPLIT_TOKENS)
                all = one;
            else
                merge(&all, one);
            one = {-INFINITY, 0, {}};
        }
        write_out(x, all, tok, head);
    }
}

/* ---- launches ---- */

int lk_launch_f32_product(const lk_f32_product &a, int n_seg, void *stream)
{
    dim3 grid((unsigned)lk_blocks(a.n_row, TILE), (unsigned)lk_blocks(a.n_out, TILE), (unsigned)n_seg);
    lk_shape s = {"product", grid, THREADS, 2 * TILE * (TILE + 1) * sizeof(float), stream};
    return lk_launch(product_kernel, s, a);
}

int lk_cuda_attend_f32(const struct lk_attend *a, void *stream)
{
    attend_args x = {*a, lk_rows_of(a->out)};
    lk_shape s = {"attend_f32", dim3((unsigned)a->n_item), WARPS * LK_WARP, 0, stream};
    return lk_launch(attend_f32_kernel, s, x);
}
