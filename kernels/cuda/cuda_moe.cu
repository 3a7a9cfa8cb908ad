/* Mixture of experts: which experts a token takes, the rows of each expert, the sum of what they gave. */
#include "kernels/cuda/cuda_order.cuh"
#include "kernels/cuda/lk_cuda.h"

#define THREADS 256
#define PLACE_THREADS 128
#define NAN_KEY 0xffffffffu /* a NaN is larger than any number, so that it is chosen and shows */

/* ---- the router: a warp a token ---- */

/* Shared memory of a block. */
struct router {
    float *s, *c;    /* [n_expert] */
    uint32_t *key;   /* [n_expert] of those that can be chosen, 0 of others, 1 of those that are */
    uint32_t *group; /* [n_group] keys of groups, 0 of those that are kept */
    float *weight;   /* [n_used] */
};

static __device__ router router_of(const lk_route &a)
{
    float *s = (float *)lk_smem(), *c = s + a.n_expert;
    uint32_t *key = (uint32_t *)(c + a.n_expert);
    uint32_t *group = key + a.n_expert;
    return {s, c, key, group, (float *)(group + a.n_group)};
}

static size_t router_bytes(const lk_route &a)
{
    return (size_t)(3 * a.n_expert + a.n_group + a.n_used) * sizeof(float);
}

/* The index of the best key of n, which becomes `mark`. */
static __device__ int take_best(uint32_t *key, int n, uint32_t mark)
{
    uint64_t best = 0;
    for (int i = lk_lane(); i < n; i += LK_WARP) {
        uint64_t x = lk_ranked(key[i], (uint32_t)i);
        best = x > best ? x : best;
    }
    int at = (int)lk_index_of(lk_warp_best(best));
    if (lk_lane() == at % LK_WARP)
        key[at] = mark;
    __syncwarp();
    return at;
}

/* The sum of a group's two largest c. */
static __device__ float group_score(const router &r, int64_t begin, int64_t size)
{
    uint64_t first = 0, second = 0;
    for (int64_t e = begin; e < begin + size; e++) {
        uint64_t x = lk_ranked(lk_key(r.c[e], NAN_KEY), (uint32_t)e);
        if (x > first) {
            second = first;
            first = x;
        } else if (x > second) {
            second = x;
        }
    }
    float score = r.c[lk_index_of(first)];
    return second ? score + r.c[lk_index_of(second)] : score;
}

/* Experts of all groups but the best cannot be chosen. */
static __device__ void mask_groups(const lk_route &a, const router &r)
{
    int64_t size = a.n_expert / a.n_group;
    for (int64_t g = lk_lane(); g < a.n_group; g += LK_WARP)
        r.group[g] = lk_key(group_score(r, g * size, size), NAN_KEY);
    __syncwarp();
    for (int64_t i = 0; i < a.n_group_used; i++)
        take_best(r.group, (int)a.n_group, 0);
    for (int64_t e = lk_lane(); e < a.n_expert; e += LK_WARP)
        if (r.group[e / size] != 0)
            r.key[e] = 0;
    __syncwarp();
}

static __global__ void __launch_bounds__(LK_WARP) route_kernel(const __grid_constant__ lk_route a)
{
    router r = router_of(a);
    int64_t t = blockIdx.x;
    for (int64_t e = lk_lane(); e < a.n_expert; e += LK_WARP) {
        float s = 1.0f / (1.0f + expf(-a.logits[t * a.n_expert + e])), c = a.bias ? s + a.bias[e] : s;
        r.s[e] = s;
        r.c[e] = c;
        r.key[e] = lk_key(c, NAN_KEY);
    }
    __syncwarp();
    if (a.n_group_used < a.n_group)
        mask_groups(a, r);
    for (int64_t i = 0; i < a.n_used; i++) /* no number's key is 1 */
        take_best(r.key, (int)a.n_expert, 1);
    int n = 0;
    for (int64_t begin = 0; begin < a.n_expert; begin += LK_WARP) {
        int64_t e = begin + lk_lane();
        bool chosen = e < a.n_expert && r.key[e] == 1;
        uint32_t bits = lk_ballot(chosen);
        if (chosen) {
            r.weight[n + lk_before(bits)] = r.s[e];
            a.id[t * a.n_used + n + lk_before(bits)] = (int32_t)e;
        }
        n += lk_popc(bits);
    }
    __syncwarp();
    float sum = 0;
    for (int64_t i = 0; i < a.n_used; i++)
        sum += r.weight[i];
    for (int64_t i = lk_lane(); i < a.n_used; i += LK_WARP)
        a.weight[t * a.n_used + i] = (a.normalize ? r.weight[i] / (sum + 1e-20f) : r.weight[i]) * a.scale;
}

/* ---- rows by expert: a block an expert ---- */

static __global__ void __launch_bounds__(PLACE_THREADS) count_kernel(const __grid_constant__ lk_group a)
{
    int32_t e = (int32_t)(a.first + blockIdx.x);
    int64_t n = 0;
    for (int64_t i = threadIdx.x; i < a.n_tok * a.n_used; i += PLACE_THREADS)
        n += a.id[i] == e;
    n = (int64_t)lk_block_total((uint64_t)n, (uint64_t *)lk_smem());
    if (threadIdx.x == 0)
        a.count[blockIdx.x] = (int32_t)n;
}

/* Rows and tiles of the experts before `expert`. */
static __device__ void sum_before(const lk_group &a, int64_t expert, int64_t *rows, int64_t *tiles)
{
    uint64_t n = 0;
    for (int64_t e = threadIdx.x; e < expert; e += PLACE_THREADS)
        n += (uint64_t)a.count[e] << 32 | (uint64_t)((a.count[e] + LK_GROUP_TILE - 1) / LK_GROUP_TILE);
    n = lk_block_total(n, (uint64_t *)lk_smem());
    *rows = (int64_t)(n >> 32);
    *tiles = (int64_t)(n & 0xffffffffu);
}

static __global__ void __launch_bounds__(PLACE_THREADS) place_kernel(const __grid_constant__ lk_group a)
{
    int64_t e = blockIdx.x, row, tile, n = a.n_tok * a.n_used;
    sum_before(a, e, &row, &tile);
    int64_t end = row + a.count[e], n_tile = (a.count[e] + LK_GROUP_TILE - 1) / LK_GROUP_TILE;
    bool last = e == a.n_expert - 1;
    if (threadIdx.x == 0) {
        a.row_begin[e] = (int32_t)row;
        if (last)
            a.row_begin[e + 1] = (int32_t)end;
    }
    for (int64_t i = threadIdx.x; i < (last ? a.n_tile - tile : n_tile); i += PLACE_THREADS) {
        a.tile_group[tile + i] = i < n_tile ? (int32_t)e : -1;
        a.tile_row[tile + i] = (int32_t)(row + i * LK_GROUP_TILE);
    }
    for (int64_t begin = 0; begin < n; begin += PLACE_THREADS) {
        int64_t i = begin + threadIdx.x, id = i < n ? a.id[i] - a.first : -1;
        int all, before = lk_block_place(id == e, &all, (uint64_t *)lk_smem());
        if (id == e) {
            a.row_of[row + before] = (int32_t)(i / a.n_used);
            a.row[i] = (int32_t)(row + before);
        }
        if (e == 0 && i < n && (id < 0 || id >= a.n_expert))
            a.row[i] = -1;
        row += all;
    }
}

/* ---- the sum of what experts gave ---- */

struct combine_args {
    lk_combine c;
    const float *shared[LK_MAX_SEG];
};

/* Leaf r of column j; *i is the first choice that no earlier leaf had. */
static __device__ __forceinline__ float leaf_of(const combine_args &a, int64_t t, int64_t j, int r, int *i)
{
    const lk_combine &c = a.c;
    int64_t end = (c.first + r + 1) * c.n_expert / c.n_seg;
    float leaf = 0;
    for (; *i < c.n_used && c.id[t * c.n_used + *i] < end; ++*i)
        leaf += c.weight[t * c.n_used + *i] * c.y[c.row[t * c.n_used + *i] * c.dim + j];
    if (a.shared[r])
        leaf += a.shared[r][t * c.dim + j];
    return leaf;
}

/* N leaves, a power of two. */
template <int N> static __device__ __forceinline__ float balanced(const combine_args &a, int64_t t, int64_t j, int i)
{
    float v[N];
#pragma unroll
    for (int r = 0; r < N; r++)
        v[r] = leaf_of(a, t, j, r, &i);
#pragma unroll
    for (int step = 1; step < N; step *= 2)
#pragma unroll
        for (int r = 0; r < N; r += 2 * step)
            v[r] += v[r + step];
    return v[0];
}

template <int N>
static __global__ void __launch_bounds__(THREADS, 4) combine_kernel(const __grid_constant__ combine_args a)
{
    const lk_combine &c = a.c;
    int64_t t = blockIdx.x, j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    int i = 0;
    if (j >= c.dim)
        return;
    while (i < c.n_used && c.id[t * c.n_used + i] < c.first * c.n_expert / c.n_seg)
        i++;
    float v;
    if (N > 0) {
        v = balanced<(N > 0 ? N : 1)>(a, t, j, i);
    } else {
        v = leaf_of(a, t, j, 0, &i);
        for (int r = 1; r < c.n_leaf; r++)
            v += leaf_of(a, t, j, r, &i);
    }
    c.x[t * c.dim + j] += v;
}

/* ---- launches ---- */

int lk_cuda_route(const struct lk_route *a, void *stream)
{
    lk_shape s = {"route", dim3((unsigned)a->n_tok), LK_WARP, router_bytes(*a), stream};
    return lk_launch(route_kernel, s, *a);
}

int64_t lk_cuda_group_tiles(int64_t n_choice, int64_t n_expert)
{
    return n_choice / LK_GROUP_TILE + lk_least(n_choice, n_expert);
}

int lk_cuda_group(const struct lk_group *a, void *stream)
{
    size_t room = PLACE_THREADS / LK_WARP * sizeof(uint64_t);
    lk_shape s = {"count", dim3((unsigned)a->n_expert), PLACE_THREADS, room, stream};
    int e = lk_launch(count_kernel, s, *a);
    if (e)
        return e;
    s.name = "place";
    return lk_launch(place_kernel, s, *a);
}

int lk_cuda_combine(const struct lk_combine *a, void *stream)
{
    combine_args x = {*a, {}};
    for (int r = 0; r < a->n_leaf; r++)
        x.shared[r] = a->shared[r];
    lk_shape s = {"combine", dim3((unsigned)a->n_tok, (unsigned)lk_blocks(a->dim, THREADS)), THREADS, 0, stream};
    switch (a->n_leaf) {
    case 1:
        return lk_launch(combine_kernel<1>, s, x);
    case 2:
        return lk_launch(combine_kernel<2>, s, x);
    case 4:
        return lk_launch(combine_kernel<4>, s, x);
    case 8:
        return lk_launch(combine_kernel<8>, s, x);
    case 16:
        return lk_launch(combine_kernel<16>, s, x);
    }
    return lk_launch(combine_kernel<0>, s, x);
}
