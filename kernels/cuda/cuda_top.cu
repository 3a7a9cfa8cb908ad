/* Candidates: the best of each block of columns, the best of a row, log-sum-exp, log-probabilities; ids that stay on
 * the device for the next step. */
#include "kernels/cuda/cuda_select.cuh"
#include "kernels/cuda/lk_cuda_ids.h"

#define THREADS 512
#define WARPS (THREADS / LK_WARP)
#define BEST_WARPS 4

static __device__ __forceinline__ bool is_finite(float x)
{
    return (lk_as_bits(x) & 0x7f800000u) != 0x7f800000u;
}

/* ---- the best of each block: a warp a block ---- */

static __global__ void __launch_bounds__(BEST_WARPS *LK_WARP) best_kernel(const __grid_constant__ lk_blocks_best a)
{
    int64_t n_block = lk_blocks(a.n_vocab, LK_HEAD_BLOCK), block = (int64_t)blockIdx.y * BEST_WARPS + lk_warp();
    if (block >= n_block)
        return;
    const float *x = a.logits + blockIdx.x * a.ld;
    int64_t end = lk_least(a.n_vocab, (block + 1) * LK_HEAD_BLOCK);
    uint64_t best = 0;
    bool finite = true;
    for (int64_t j = block * LK_HEAD_BLOCK + lk_lane(); j < end; j += LK_WARP) {
        uint32_t key = lk_key(x[j], 0);
        uint64_t ranked = key ? lk_ranked(key, (uint32_t)j) : 0;
        best = best > ranked ? best : ranked;
        finite = finite && is_finite(x[j]);
    }
    best = lk_warp_best(best);
    uint32_t all = lk_ballot(finite);
    if (lk_lane() != 0)
        return;
    lk_best *to = a.best + blockIdx.x * n_block + block;
    to->id = best ? (int32_t)lk_index_of(best) : -1;
    to->value = best ? x[to->id] : -INFINITY;
    to->finite = all == 0xffffffffu;
}

/* ---- ids for the next step: a warp a row ---- */

static __global__ void __launch_bounds__(LK_WARP) pick_kernel(const __grid_constant__ lk_pick a)
{
    const lk_best *best = a.best + blockIdx.x * a.n_block;
    uint64_t ranked = 0;
    for (int64_t b = lk_lane(); b < a.n_block; b += LK_WARP)
        if (best[b].id >= 0) {
            uint64_t r = lk_ranked(lk_key(best[b].value, 0), (uint32_t)best[b].id);
            ranked = ranked > r ? ranked : r;
        }
    ranked = lk_warp_best(ranked);
    if (lk_lane() == 0)
        a.id[blockIdx.x] = ranked ? (int32_t)lk_index_of(ranked) : 0;
}

static __global__ void __launch_bounds__(THREADS) resolve_kernel(const __grid_constant__ lk_resolve a)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < a.n && a.id[i] < 0)
        a.id[i] = a.slot[~a.id[i]];
}

/* ---- the best of a row and the sum of its exponentials ---- */

/* Shared memory of a block. */
struct top_room {
    uint64_t sorted[LK_TOP]; /* key, then the lower id first */
    uint64_t warp[WARPS];
    double sum[WARPS];
    lk_select_room select;
    uint32_t n_sorted;
};

/* All keys above the prefix, and the first of those that have it. */
static __device__ void collect(const float *x, int64_t n, top_room *r)
{
    uint32_t last = r->select.prefix, wanted = r->select.wanted;
    if (threadIdx.x == 0)
        r->n_sorted = 0;
    for (int i = (int)threadIdx.x; i < LK_TOP; i += THREADS)
        r->sorted[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        uint32_t key = lk_key(x[i], 0);
        if (key > last)
            r->sorted[lk_atomic_add(&r->n_sorted, 1)] = lk_ranked(key, (uint32_t)i);
    }
    __syncthreads();
    uint32_t found = r->n_sorted, end = found + wanted;
    for (int64_t begin = 0; begin < n && found < end; begin += THREADS) {
        int64_t i = begin + threadIdx.x;
        bool has = i < n && lk_key(x[i], 0) == last;
        int all, before = lk_block_place(has, &all, r->warp);
        if (has && found + (uint32_t)before < end)
            r->sorted[found + (uint32_t)before] = lk_ranked(last, (uint32_t)i);
        found += (uint32_t)all;
    }
    __syncthreads();
}

/* The largest of x[n]; -infinity where there is none above it. All threads get it. */
static __device__ float largest(const float *x, int64_t n, uint64_t *room)
{
    uint64_t best = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        uint32_t key = lk_key(x[i], 0);
        uint64_t ranked = key ? lk_ranked(key, (uint32_t)i) : 0;
        best = best > ranked ? best : ranked;
    }
    best = lk_warp_best(best);
    if (lk_lane() == 0)
        room[lk_warp()] = best;
    __syncthreads();
    for (int i = 0; i < WARPS; i++)
        best = best > room[i] ? best : room[i];
    __syncthreads();
    return best ? x[lk_index_of(best)] : -INFINITY;
}

/* Blocks of columns by warps in turn; lanes, then warps, in order. */
static __device__ double log_sum(const float *x, int64_t n, float max, double *room)
{
    double sum = 0;
    for (int64_t block = lk_warp(); block * LK_HEAD_BLOCK < n; block += WARPS) {
        double part = 0;
        for (int64_t i = block * LK_HEAD_BLOCK + lk_lane(); i < lk_least(n, (block + 1) * LK_HEAD_BLOCK); i += LK_WARP)
            part += exp((double)x[i] - (double)max);
        sum += lk_warp_sum64(part);
    }
    if (lk_lane() == 0)
        room[lk_warp()] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < WARPS; i++)
        sum += room[i];
    __syncthreads();
    return (double)max + log(sum);
}

static __global__ void __launch_bounds__(THREADS, 1) top_kernel(const __grid_constant__ lk_top a)
{
    top_room *r = (top_room *)lk_smem();
    int64_t row = blockIdx.x, n = a.n_vocab;
    const float *x = a.logits[row];
    if (!x)
        return;
    uint64_t count = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS)
        count += x[i] == x[i];
    count = lk_block_total(count, r->warp);
    uint32_t wanted = (uint32_t)(count < LK_TOP ? count : LK_TOP);
    if (wanted > 0)
        lk_find_last([x](int64_t i) { return lk_key(x[i], 0); }, n, wanted, &r->select);
    else if (threadIdx.x == 0) {
        r->select.prefix = 0xffffffffu;
        r->select.wanted = 0;
    }
    __syncthreads();
    collect(x, n, r);
    lk_sort_ranked(r->sorted, LK_TOP);
    for (int i = (int)threadIdx.x; i < LK_TOP; i += THREADS) {
        int32_t id = r->sorted[i] ? (int32_t)lk_index_of(r->sorted[i]) : -1;
        a.id[row * LK_TOP + i] = id;
        a.value[row * LK_TOP + i] = id < 0 ? -INFINITY : x[id];
    }
    for (int is = 0; is < a.n_seg; is++) {
        const float *seg = x + a.seg[is];
        int64_t n_col = a.seg[is + 1] - a.seg[is];
        float max = largest(seg, n_col, r->warp);
        double lse = max > -INFINITY ? log_sum(seg, n_col, max, r->sum) : -INFINITY;
        if (threadIdx.x == 0)
            a.lse[row * a.n_seg + is] = lse;
    }
}

/* ---- log-probabilities ---- */

static __global__ void __launch_bounds__(THREADS) logprobs_kernel(const __grid_constant__ lk_logprobs a)
{
    int64_t row = blockIdx.x;
    const float *x = a.logits + row * a.ld;
    float chosen = a.id ? x[a.id[row]] : 0;
    uint64_t rank = 0;
    for (int64_t i = threadIdx.x; i < a.n_vocab; i += THREADS) {
        rank += x[i] >= chosen;
        if (a.out)
            a.out[row * a.n_vocab + i] = (float)((double)x[i] - a.lse[row]);
    }
    rank = lk_block_total(rank, (uint64_t *)lk_smem());
    if (!a.id || threadIdx.x != 0)
        return;
    a.rank[row] = (int64_t)rank;
    a.logprob[row] = (float)((double)chosen - a.lse[row]);
}

/* ---- launches ---- */

int lk_cuda_best(const struct lk_blocks_best *a, void *stream)
{
    int64_t n_block = lk_blocks(a->n_vocab, LK_HEAD_BLOCK);
    dim3 grid((unsigned)a->n_row, (unsigned)lk_blocks(n_block, BEST_WARPS));
    lk_shape s = {"best", grid, BEST_WARPS * LK_WARP, 0, stream};
    return lk_launch(best_kernel, s, *a);
}

int lk_cuda_pick(const struct lk_pick *a, void *stream)
{
    lk_shape s = {"pick", dim3((unsigned)a->n_row), LK_WARP, 0, stream};
    return lk_launch(pick_kernel, s, *a);
}

int lk_cuda_resolve(const struct lk_resolve *a, void *stream)
{
    lk_shape s = {"resolve", dim3((unsigned)lk_blocks(a->n, THREADS)), THREADS, 0, stream};
    return lk_launch(resolve_kernel, s, *a);
}

int lk_cuda_top(const struct lk_top *a, void *stream)
{
    lk_shape s = {"top", dim3((unsigned)a->n_row), THREADS, sizeof(top_room), stream};
    return lk_launch(top_kernel, s, *a);
}

int lk_cuda_logprobs(const struct lk_logprobs *a, void *stream)
{
    lk_shape s = {"logprobs", dim3((unsigned)a->n_row), THREADS, WARPS * sizeof(uint64_t), stream};
    return lk_launch(logprobs_kernel, s, *a);
}
