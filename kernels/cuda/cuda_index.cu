/* The indexer of sparse attention: its keys and queries, and the positions that it chooses. */
#include "kernels/cuda/cuda_cols.cuh"
#include "kernels/cuda/cuda_select.cuh"
#include "kernels/cuda/lk_cuda.h"

#define KEY_WARPS 4
#define THREADS 256
#define PAGE LK_PAGE_TOKENS

/* ---- keys and queries: a block a token, a warp the key or a head ---- */

static __device__ __forceinline__ void put(uint16_t *to, float x)
{
    *to = lk_bf16(x);
}

static __device__ __forceinline__ void put(float *to, float x)
{
    *to = x;
}

static __device__ __forceinline__ float as_stored(float x, const uint16_t *)
{
    return lk_widen(lk_bf16(x));
}

static __device__ __forceinline__ float as_stored(float x, const float *)
{
    return x;
}

/* Dimension i of the normalized key. */
struct normed_key {
    const float *k, *norm, *bias;
    float mean, inv;
};

static __device__ __forceinline__ float normed(const normed_key &k, int64_t i)
{
    return (k.k[i] - k.mean) * k.inv * k.norm[i] + k.bias[i];
}

static __device__ __forceinline__ normed_key key_of(const lk_index_key &a, int64_t t)
{
    const float *k = a.k + t * a.k_ld;
    int64_t n = a.plane.dim;
    float sum = 0, squares = 0;
    for (int64_t i = lk_lane(); i < n; i += LK_WARP)
        sum += k[i];
    float mean = lk_warp_sum(sum) / (float)n;
    for (int64_t i = lk_lane(); i < n; i += LK_WARP)
        squares += (k[i] - mean) * (k[i] - mean);
    return {k, a.norm, a.norm_bias, mean, 1.0f / sqrtf(lk_warp_sum(squares) / (float)n + a.eps)};
}

template <typename T>
static __global__ void __launch_bounds__(KEY_WARPS *LK_WARP, 8) index_key_kernel(const __grid_constant__ lk_index_key a)
{
    int64_t t = blockIdx.x, n = a.plane.dim, half = a.n_rot / 2, step = a.interleaved ? 1 : half;
    const float *cos = a.cos + t * half, *sin = a.sin + t * half;
    T *page = (T *)(a.plane.key + a.page[t] * a.plane.page_bytes) + a.pos[t] % PAGE;
    for (int64_t h = lk_warp(); h <= a.n_head; h += KEY_WARPS) {
        if (h == a.n_head) {
            normed_key k = key_of(a, t);
            for (int64_t j = lk_lane(); j < half; j += LK_WARP) {
                int64_t i = a.interleaved ? 2 * j : j;
                float u = normed(k, i), v = normed(k, i + step);
                put(page + i * PAGE, u * cos[j] - v * sin[j]);
                put(page + (i + step) * PAGE, v * cos[j] + u * sin[j]);
            }
            for (int64_t i = 2 * half + lk_lane(); i < n; i += LK_WARP)
                put(page + i * PAGE, normed(k, i));
            continue;
        }
        float *q = a.q + (t * a.n_head + h) * n;
        for (int64_t j = lk_lane(); j < half; j += LK_WARP) {
            int64_t i = a.interleaved ? 2 * j : j;
            float u = q[i], v = q[i + step];
            q[i] = as_stored(u * cos[j] - v * sin[j], page);
            q[i + step] = as_stored(v * cos[j] + u * sin[j], page);
        }
        for (int64_t i = 2 * half + lk_lane(); i < n; i += LK_WARP)
            q[i] = as_stored(q[i], page);
    }
}

/* ---- the choice ---- */

struct select_args {
    lk_index_select s;
    float *sum; /* [n_item, sum_ld] of all positions */
    int64_t sum_ld;
};

/* A warp a page: a lane sums one position, heads and dimensions in order. */
template <typename T>
static __global__ void __launch_bounds__(LK_WARP) index_score_kernel(const __grid_constant__ select_args x)
{
    const lk_index_select &a = x.s;
    lk_attn_item item = a.item[blockIdx.x];
    int64_t ip = blockIdx.y, n = a.plane.dim, at = ip * PAGE + lk_lane();
    if (ip * PAGE > a.pos[item.tok])
        return;
    const T *key = (const T *)(a.plane.key + a.page[a.page_start[item.seq] + ip] * a.plane.page_bytes) + lk_lane();
    const float *q = a.q + item.tok * a.n_head * n, *w = a.w + item.tok * a.w_ld;
    float out = 0;
    for (int64_t h = 0; h < a.n_head; h++) {
        float s = 0;
        for (int64_t i = 0; i < n; i++)
            s += q[h * n + i] * lk_get(key, i * PAGE);
        s *= a.scale;
        out += w[h] * (s < 0 ? 0 : s);
    }
    if (at <= a.pos[item.tok])
        x.sum[blockIdx.x * x.sum_ld + at] = out;
}

/* Shared memory of index_choose. */
struct choose_room {
    lk_select_room select;
    uint64_t warp[THREADS / LK_WARP];
};

static __global__ void __launch_bounds__(THREADS) index_choose_kernel(const __grid_constant__ select_args x)
{
    choose_room *r = (choose_room *)lk_smem();
    int64_t t = x.s.item[blockIdx.x].tok, n = x.s.pos[t] + 1;
    const float *sum = x.sum + blockIdx.x * x.sum_ld;
    uint32_t least = lk_key(-INFINITY, 0);
    auto key = [&](int64_t i) { return lk_key(sum[i], least); };
    lk_find_last(key, n, (uint32_t)x.s.topk, &r->select);
    uint32_t last = r->select.prefix, equal = r->select.wanted;
    int n_above = 0, n_equal = 0;
    for (int64_t begin = 0; begin < n; begin += THREADS) { /* in order of position: nothing is left to sort */
        int64_t i = begin + threadIdx.x;
        uint32_t k = i < n ? key(i) : 0;
        int all_above, all_equal;
        int above = n_above + lk_block_place(k > last, &all_above, r->warp);
        int same = n_equal + lk_block_place(k == last, &all_equal, r->warp);
        bool takes = k > last || (k == last && (uint32_t)same < equal);
        int before = above + (same < (int)equal ? same : (int)equal);
        if (takes)
            x.s.chosen[t * x.s.topk + before] = (int32_t)i;
        n_above += all_above;
        n_equal += all_equal;
    }
}

/* ---- launches ---- */

int lk_cuda_index_key(const struct lk_index_key *a, enum lk_type type, void *stream)
{
    lk_shape s = {"index_key", dim3((unsigned)a->n_tok), KEY_WARPS * LK_WARP, 0, stream};
    return lk_launch(type == LK_F32 ? index_key_kernel<float> : index_key_kernel<uint16_t>, s, *a);
}

int lk_cuda_index_select(const struct lk_index_select *a, const struct lk_index_scratch *x, enum lk_type type,
                         void *stream)
{
    select_args args = {*a, x->sum, x->sum_ld};
    dim3 grid((unsigned)x->n_item, (unsigned)lk_blocks(x->sum_ld, PAGE));
    lk_shape s = {"index_score", grid, LK_WARP, 0, stream};
    int e = lk_launch(type == LK_F32 ? index_score_kernel<float> : index_score_kernel<uint16_t>, s, args);
    if (e)
        return e;
    s = {"index_choose", dim3((unsigned)x->n_item), THREADS, sizeof(choose_room), stream};
    return lk_launch(index_choose_kernel, s, args);
}
