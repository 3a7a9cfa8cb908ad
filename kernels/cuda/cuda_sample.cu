/* One id from a row's logits, as core/run/sample.c draws it by reading the whole row: filters in vLLM's order, shares
 * for top_p in integers, whose sum has no order, probabilities in f64 over blocks of the vocabulary. A block of threads
 * a row. */
#include "kernels/cuda/cuda_order.cuh"
#include "kernels/cuda/lk_cuda.h"

#define THREADS 512
#define MASS_ONE 1099511627776.0 /* 2^40: integer weight of the best id; 2^23 ids sum below 2^63 */

/* A beginning of the order (logit descending, id ascending): everything up to and including this element. */
struct cut {
    uint32_t key;
    int32_t id;
};

/* Shared memory of a block. */
struct sample_room {
    unsigned long long bin[256];
    uint64_t warp[THREADS / LK_WARP];
    uint64_t before; /* units before the prefix's */
    uint32_t prefix;
    bool found;
    cut end;
};

struct dist {
    const float *x;
    int64_t n;
    double best, temperature, floor; /* floor: the lowest scaled logit that min_p keeps */
};

/* Logit relative to the best, over the temperature: 0 for the best, falling with the logit. */
static __device__ __forceinline__ double scaled(const dist &d, float logit)
{
    return ((double)logit - d.best) / d.temperature;
}

static __device__ __forceinline__ double weight(const dist &d, float logit)
{
    return exp(scaled(d, logit));
}

static __device__ __forceinline__ uint64_t mass(const dist &d, float logit)
{
    return (uint64_t)(weight(d, logit) * MASS_ONE);
}

static __device__ __forceinline__ bool survives(const dist &d, const cut &c, int64_t i)
{
    uint32_t key = lk_key(d.x[i], 0);
    return scaled(d, d.x[i]) >= d.floor && (key > c.key || (key == c.key && i <= c.id));
}

/* What a walk sums: elements, or their masses. */
static __device__ __forceinline__ uint64_t unit(const dist &d, float logit, bool by_mass)
{
    return by_mass ? mass(d, logit) : 1;
}

/* Walks survivors of *c in order until their sum is at least `want` and cuts there; where it never is, *c stays. */
static __device__ void cut_at(const dist &d, cut *c, bool by_mass, double want, sample_room *r)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        r->prefix = 0;
        r->before = 0;
        r->found = true;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = (int)threadIdx.x; i < 256; i += THREADS)
            r->bin[i] = 0;
        __syncthreads();
        uint32_t prefix = r->prefix, mask = shift == 24 ? 0 : 0xffffffffu << (shift + 8);
        for (int64_t i = threadIdx.x; i < d.n; i += THREADS) {
            uint32_t key = lk_key(d.x[i], 0);
            if ((key & mask) == prefix && survives(d, *c, i))
                lk_atomic_add64(&r->bin[key >> shift & 255u], unit(d, d.x[i], by_mass));
        }
        __syncthreads();
        if (threadIdx.x == 0 && r->found) {
            uint64_t before = r->before;
            int b = 255;
            for (; b >= 0 && (double)(before + r->bin[b]) < want; b--)
                before += r->bin[b];
            r->found = b >= 0;
            r->before = before;
            r->prefix = prefix | (uint32_t)(b < 0 ? 0 : b) << shift;
        }
        __syncthreads();
    }
    if (!r->found)
        return;
    /* all that have the key weigh the same: how many of them, then the last of these in id order */
    uint32_t key = r->prefix;
    uint64_t one = unit(d, lk_of_key(key), by_mass), before = r->before;
    int64_t need = 1, seen = 0;
    while ((double)(before + (uint64_t)need * one) < want && one > 0)
        need++;
    for (int64_t begin = 0; begin < d.n && seen < need; begin += THREADS) {
        int64_t i = begin + threadIdx.x;
        bool has = i < d.n && lk_key(d.x[i], 0) == key && survives(d, *c, i);
        int all, at = lk_block_place(has, &all, r->warp);
        if (has && seen + at == need - 1)
            r->end = {key, (int32_t)i};
        seen += all;
    }
    __syncthreads();
    *c = r->end;
}

/* ---- the draw ---- */

static __device__ double block_mass(const dist &d, const cut &c, int64_t block)
{
    double sum = 0;
    for (int64_t i = block * LK_HEAD_BLOCK; i < lk_least(d.n, (block + 1) * LK_HEAD_BLOCK); i++)
        if (survives(d, c, i))
            sum += weight(d, d.x[i]);
    return sum;
}

/* The first survivor of the block whose sum, on top of `before`, exceeds target; the last one if rounding hides it. */
static __device__ int32_t draw_in_block(const dist &d, const cut &c, int64_t block, double before, double target)
{
    double sum = 0;
    int32_t last = 0;
    for (int64_t i = block * LK_HEAD_BLOCK; i < lk_least(d.n, (block + 1) * LK_HEAD_BLOCK); i++) {
        if (!survives(d, c, i))
            continue;
        sum += weight(d, d.x[i]);
        last = (int32_t)i;
        if (before + sum > target)
            break;
    }
    return last;
}

/* One thread: blocks in order. */
static __device__ int32_t draw(const dist &d, const cut &c, const double *block_sum, double u)
{
    double total = 0, before = 0, last_before = 0;
    int64_t n_block = lk_blocks(d.n, LK_HEAD_BLOCK), last = 0;
    for (int64_t b = 0; b < n_block; b++)
        total += block_sum[b];
    double target = u * total;
    for (int64_t b = 0; b < n_block; b++) {
        if (block_sum[b] > 0) {
            last = b;
            last_before = before;
        }
        before += block_sum[b];
        if (before > target)
            break;
    }
    return draw_in_block(d, c, last, last_before, target);
}

/* Philox-4x32-10 (Salmon et al. 2011), the first word: counter position, sample, row key; key the seed. */
static __device__ double uniform(const lk_sampling &s)
{
    uint32_t c0 = s.position, c1 = s.sample, c2 = (uint32_t)s.row_key, c3 = (uint32_t)(s.row_key >> 32);
    uint32_t k0 = (uint32_t)s.seed, k1 = (uint32_t)(s.seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return ((double)c0 + 0.5) / 4294967296.0;
}

static __global__ void __launch_bounds__(THREADS, 1) sample_kernel(const __grid_constant__ lk_sample a)
{
    sample_room *r = (sample_room *)lk_smem();
    int64_t row = blockIdx.x, n_block = lk_blocks(a.n_vocab, LK_HEAD_BLOCK);
    lk_sampling s = a.set[row];
    dist d = {a.logits + row * a.ld, a.n_vocab, 0, s.temperature, 0};
    uint64_t best = 0;
    for (int64_t i = threadIdx.x; i < d.n; i += THREADS) {
        uint64_t x = lk_ranked(lk_key(d.x[i], 0), (uint32_t)i);
        best = best > x ? best : x;
    }
    best = lk_block_best(best, r->warp);
    if (s.temperature < 1e-5) {
        if (threadIdx.x == 0)
            a.id[row] = (int32_t)lk_index_of(best);
        return;
    }
    d.best = (double)d.x[lk_index_of(best)];
    d.floor = s.min_p > 0 ? fmin(log(s.min_p), 0.0) : -INFINITY;
    cut c = {0, 0x7fffffff};
    if (s.top_k > 0 && s.top_k < d.n)
        cut_at(d, &c, false, (double)s.top_k, r);
    if (s.top_p < 1) {
        uint64_t total = 0;
        for (int64_t i = threadIdx.x; i < d.n; i += THREADS)
            total += survives(d, c, i) ? mass(d, d.x[i]) : 0;
        total = lk_block_total(total, r->warp);
        cut_at(d, &c, true, fmax(s.top_p * (double)total, 1.0), r);
    }
    double *sums = a.block_sum + row * n_block;
    for (int64_t b = threadIdx.x; b < n_block; b += THREADS)
        sums[b] = block_mass(d, c, b);
    __syncthreads();
    if (threadIdx.x == 0)
        a.id[row] = draw(d, c, sums, uniform(s));
}

int lk_cuda_sample(const struct lk_sample *a, void *stream)
{
    lk_shape s = {"sample", dim3((unsigned)a->n_row), THREADS, sizeof(sample_room), stream};
    return lk_launch(sample_kernel, s, *a);
}
