/* One id from a row's logits, to the bit the one that core/run/sample.c draws: filters in vLLM's order, then the first
 * survivor in id order whose cumulative mass exceeds u of them all. Masses are whole numbers (kernels/mass.h), so that
 * any thread may add any of them. A block of threads a row.
 *
 * Blocks of columns whose best is cut off are not read: top_k looks at those alone that are among the k best, a draw at
 * those that have survivors. top_p reads the row once for masses by how far below the best they lie, then what lies in
 * the bin in which the share ends. Where a bin or the k best are more than can be sorted, the end is found byte by byte
 * of the key. */
#include "kernels/cuda/cuda_select.cuh"
#include "kernels/cuda/lk_cuda_ids.h"

#define THREADS 512
#define WARPS (THREADS / LK_WARP)
#define LIST 2048   /* elements that are sorted */
#define BINS 1024   /* of BIN_SCALED together: what is below has no whole mass */
#define CHUNKS 1024 /* of columns, whose masses are kept */
#define BIN_SCALED 28.0
#define LANE_COLS (LK_HEAD_BLOCK / LK_WARP)

/* A beginning of the order (logit descending, id ascending): everything up to and including this element. */
struct cut {
    uint32_t key;
    int32_t id;
};

/* Shared memory of a block. */
struct sample_room {
    uint64_t list[LIST]; /* ranked */
    unsigned long long bin[BINS], hi[CHUNKS], lo[CHUNKS];
    uint64_t warp[WARPS];
    lk_select_room select;
    lk_mass before; /* of what stands in front of `at` */
    int64_t at;
    uint32_t n_list, prefix;
    bool found;
    cut end;
};

struct dist {
    const float *x;
    const lk_best *best; /* [n_block] */
    int64_t n, n_block;
    lk_mass_scale scale;
    cut c;
};

static __device__ __forceinline__ bool survives(const dist &d, float x, int64_t i)
{
    uint32_t key = lk_key(x, 0);
    return lk_above_floor(&d.scale, x) && (key > d.c.key || (key == d.c.key && i <= d.c.id));
}

/* f(x, i) for the survivors of a block of columns, by a warp. */
template <typename F> static __device__ __forceinline__ void for_cols(const dist &d, int64_t block, F f)
{
    float x[LANE_COLS];
    int64_t first = block * LK_HEAD_BLOCK + lk_lane();
    for (int k = 0; k < LANE_COLS; k++)
        x[k] = first + k * LK_WARP < d.n ? d.x[first + k * LK_WARP] : -INFINITY;
    for (int k = 0; k < LANE_COLS; k++)
        if (first + k * LK_WARP < d.n && survives(d, x[k], first + k * LK_WARP))
            f(x[k], first + k * LK_WARP);
}

/* f(block) by a warp for each block that has survivors and whose best `enter` takes. */
template <typename E, typename F> static __device__ __forceinline__ void for_blocks(const dist &d, E enter, F f)
{
    for (int64_t begin = 0; begin < d.n_block; begin += THREADS) {
        int64_t own = begin + lk_lane() * WARPS + lk_warp();
        float best = own < d.n_block ? d.best[own].value : 0;
        bool in = own < d.n_block && lk_above_floor(&d.scale, best) && lk_key(best, 0) >= d.c.key && enter(best);
        for (uint32_t left = lk_ballot(in); left; left &= left - 1)
            f(begin + lk_popc((left & (0 - left)) - 1) * WARPS + lk_warp());
    }
}

/* The first of n masses behind which `passes` holds of the sum, in r->at, and the sum before it; n where none is. */
template <typename M, typename T>
static __device__ __forceinline__ void find_first(M mass, int64_t n, lk_mass before, T passes, sample_room *r)
{
    __syncthreads();
    if (lk_warp() == 0) {
        if (lk_lane() == 0)
            r->at = n;
        __syncwarp();
        uint32_t found = 0;
        for (int64_t begin = 0; begin < n && !found; begin += LK_WARP) {
            lk_mass own = {0, 0};
            if (begin + lk_lane() < n)
                own = mass(begin + lk_lane());
            lk_mass sum = own;
            for (int step = 1; step < LK_WARP; step *= 2) {
                bool has = lk_lane() >= step;
                int from = has ? lk_lane() - step : lk_lane();
                lk_mass more = {lk_shuffle64(sum.hi, from), lk_shuffle64(sum.lo, from)};
                if (has)
                    lk_mass_add(&sum, &more);
            }
            lk_mass_add(&sum, &before);
            found = lk_ballot(begin + lk_lane() < n && passes(sum));
            if (found && lk_lane() == lk_popc((found & (0 - found)) - 1)) {
                r->at = begin + lk_lane();
                r->before = {sum.hi - own.hi, sum.lo - own.lo};
            }
            before = {lk_shuffle64(sum.hi, LK_WARP - 1), lk_shuffle64(sum.lo, LK_WARP - 1)};
        }
    }
    __syncthreads();
}

/* ---- where filters end ---- */

/* What a walk sums: elements, or their masses. */
static __device__ __forceinline__ uint64_t unit(const dist &d, float x, bool by_mass)
{
    return by_mass ? lk_mass_whole(&d.scale, x) : 1;
}

/* Walks survivors in order until their sum is at least `want` and cuts there; where it never is, nothing is cut. */
static __device__ void cut_at(dist *d, bool by_mass, double want, sample_room *r)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        r->prefix = 0;
        r->before.hi = 0;
        r->found = true;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = (int)threadIdx.x; i < 256; i += THREADS)
            r->bin[i] = 0;
        __syncthreads();
        uint32_t prefix = r->prefix, mask = shift == 24 ? 0 : 0xffffffffu << (shift + 8);
        auto count = [=](float x, int64_t) {
            uint32_t key = lk_key(x, 0);
            if ((key & mask) == prefix)
                lk_atomic_add64(&r->bin[key >> shift & 255u], unit(*d, x, by_mass));
        };
        for_blocks(
            *d, [](float) { return true; }, [=](int64_t block) { for_cols(*d, block, count); });
        __syncthreads();
        if (threadIdx.x == 0 && r->found) {
            uint64_t before = r->before.hi;
            int b = 255;
            for (; b >= 0 && (double)(before + r->bin[b]) < want; b--)
                before += r->bin[b];
            r->found = b >= 0;
            r->before.hi = before;
            r->prefix = prefix | (uint32_t)(b < 0 ? 0 : b) << shift;
        }
        __syncthreads();
    }
    if (!r->found)
        return;
    /* all that have the key weigh the same: how many of them, then the last of these in id order */
    uint32_t key = r->prefix;
    uint64_t one = unit(*d, lk_of_key(key), by_mass), before = r->before.hi;
    int64_t need = 1, seen = 0;
    while ((double)(before + (uint64_t)need * one) < want && one > 0)
        need++;
    for (int64_t begin = 0; begin < d->n && seen < need; begin += THREADS) {
        int64_t i = begin + threadIdx.x;
        bool has = i < d->n && lk_key(d->x[i], 0) == key && survives(*d, d->x[i], i);
        int all, at = lk_block_place(has, &all, r->warp);
        if (has && seen + at == need - 1)
            r->end = {key, (int32_t)i};
        seen += all;
    }
    __syncthreads();
    d->c = r->end;
}

/* Survivors that `takes`, of blocks whose best `enter` takes, in order, in r->list; how many they are. More than LIST:
 * no list. */
template <typename E, typename T>
static __device__ __forceinline__ uint32_t fill_list(const dist &d, E enter, T takes, sample_room *r)
{
    __syncthreads();
    if (threadIdx.x == 0)
        r->n_list = 0;
    __syncthreads();
    auto put = [=](float x, int64_t i) {
        if (!takes(x))
            return;
        uint32_t at = lk_atomic_add(&r->n_list, 1);
        if (at < LIST)
            r->list[at] = lk_ranked(lk_key(x, 0), (uint32_t)i);
    };
    for_blocks(d, enter, [=](int64_t block) { for_cols(d, block, put); });
    __syncthreads();
    uint32_t n = r->n_list;
    if (n > LIST)
        return n;
    int size = 1;
    while (size < (int)n)
        size *= 2;
    for (int i = (int)(n + threadIdx.x); i < size; i += THREADS)
        r->list[i] = 0;
    __syncthreads();
    lk_sort_ranked(r->list, size);
    return n;
}

static __device__ __forceinline__ lk_mass listed_mass(const dist &d, const sample_room *r, int64_t i)
{
    return {lk_mass_whole(&d.scale, lk_of_key((uint32_t)(r->list[i] >> 32))), 0};
}

static __device__ __forceinline__ void cut_behind(dist *d, uint64_t ranked)
{
    d->c = {(uint32_t)(ranked >> 32), (int32_t)lk_index_of(ranked)};
}

/* The first top_k. Returns how many survive, where they are in r->list, else 0. The k-th best of all is not below the
 * k-th best of the blocks' best. */
static __device__ uint32_t cut_count(dist *d, int64_t top_k, sample_room *r)
{
    uint32_t least = 1, n = LIST + 1;
    if (top_k <= d->n_block && top_k <= LIST) {
        const lk_best *best = d->best;
        lk_find_last([=](int64_t i) { return lk_key(best[i].value, 0); }, d->n_block, (uint32_t)top_k, &r->select);
        least = r->select.prefix;
    }
    auto among = [=](float x) { return lk_key(x, 0) >= least; };
    if (least > 1 || d->n <= LIST)
        n = fill_list(*d, among, among, r);
    if (n > LIST) {
        cut_at(d, false, (double)top_k, r);
        return 0;
    }
    if ((int64_t)n < top_k) /* min_p leaves less */
        return n;
    cut_behind(d, r->list[top_k - 1]);
    return (uint32_t)top_k;
}

/* The share top_p of the survivors, the first n_list of r->list. */
static __device__ void cut_listed(dist *d, double top_p, uint32_t n_list, sample_room *r)
{
    uint64_t total = 0;
    for (uint32_t i = threadIdx.x; i < n_list; i += THREADS)
        total += listed_mass(*d, r, i).hi;
    double want = lk_mass_share(top_p, lk_block_total(total, r->warp));
    find_first([=](int64_t i) { return listed_mass(*d, r, i); }, n_list, {0, 0},
               [=](const lk_mass &m) { return (double)m.hi >= want; }, r);
    cut_behind(d, r->list[r->at]);
}

/* How far below the best, of what has a whole mass; falls with nothing but the logit. */
static __device__ __forceinline__ int bin_of(const dist &d, float x)
{
    double at = lk_scaled(&d.scale, x) * -(BINS / BIN_SCALED);
    return at < BINS - 1 ? (int)at : BINS - 1;
}

/* The share top_p of the survivors, of which there is no list. */
static __device__ void cut_share(dist *d, double top_p, sample_room *r)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < BINS; i += THREADS)
        r->bin[i] = 0;
    __syncthreads();
    auto add = [=](float x, int64_t) {
        uint64_t m = lk_mass_whole(&d->scale, x);
        if (m)
            lk_atomic_add64(&r->bin[bin_of(*d, x)], m);
    };
    for_blocks(
        *d, [](float) { return true; }, [=](int64_t block) { for_cols(*d, block, add); });
    __syncthreads();
    uint64_t total = 0;
    for (int i = (int)threadIdx.x; i < BINS; i += THREADS)
        total += r->bin[i];
    double want = lk_mass_share(top_p, lk_block_total(total, r->warp));
    auto enough = [=](const lk_mass &m) { return (double)m.hi >= want; };
    find_first([=](int64_t i) { return lk_mass{r->bin[i], 0}; }, BINS, {0, 0}, enough, r);
    int bin = (int)r->at;
    lk_mass before = r->before;
    auto above = [=](float x) { return bin_of(*d, x) <= bin; };
    uint32_t n = fill_list(
        *d, above, [=](float x) { return bin_of(*d, x) == bin; }, r);
    if (n > LIST) {
        cut_at(d, true, want, r);
        return;
    }
    find_first([=](int64_t i) { return listed_mass(*d, r, i); }, n, before, enough, r);
    cut_behind(d, r->list[r->at]);
}

/* ---- the draw ---- */

/* Chunks of columns only say where to look. */
static __device__ int64_t draw(const dist &d, double u, sample_room *r)
{
    int64_t per = lk_blocks(d.n_block, CHUNKS), n_chunk = lk_blocks(d.n_block, per);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < CHUNKS; i += THREADS)
        r->hi[i] = r->lo[i] = 0;
    __syncthreads();
    auto add_block = [=](int64_t block) {
        lk_mass sum = {0, 0};
        for_cols(d, block, [&](float x, int64_t) { lk_mass_add_id(&sum, &d.scale, x); });
        sum = {lk_warp_total(sum.hi), lk_warp_total(sum.lo)};
        if (lk_lane() == 0) {
            lk_atomic_add64(&r->hi[block / per], sum.hi);
            lk_atomic_add64(&r->lo[block / per], sum.lo);
        }
    };
    for_blocks(
        d, [](float) { return true; }, add_block);
    __syncthreads();
    lk_mass total = {0, 0};
    for (int i = (int)threadIdx.x; i < CHUNKS; i += THREADS) {
        total.hi += r->hi[i];
        total.lo += r->lo[i];
    }
    total = {lk_block_total(total.hi, r->warp), lk_block_total(total.lo, r->warp)};
    double target = u * lk_mass_value(&total);
    auto beyond = [=](const lk_mass &m) { return lk_mass_value(&m) > target; };
    find_first([=](int64_t i) { return lk_mass{r->hi[i], r->lo[i]}; }, n_chunk, {0, 0}, beyond, r);
    int64_t begin = r->at * per * LK_HEAD_BLOCK, end = lk_least(d.n, begin + per * LK_HEAD_BLOCK);
    auto mass = [=](int64_t i) {
        lk_mass m = {0, 0};
        if (survives(d, d.x[begin + i], begin + i))
            lk_mass_add_id(&m, &d.scale, d.x[begin + i]);
        return m;
    };
    find_first(mass, end - begin, r->before, beyond, r);
    return begin + r->at;
}

static __global__ void __launch_bounds__(THREADS, 2) sample_kernel(const __grid_constant__ lk_sample a)
{
    sample_room *r = (sample_room *)lk_smem();
    int64_t row = blockIdx.x;
    lk_draw s = a.draw[row];
    if (s.inverse == 0)
        return;
    int64_t n_block = lk_blocks(a.n_vocab, LK_HEAD_BLOCK);
    const lk_best *block = a.best + row * n_block;
    uint64_t best = 0, no_number = 0;
    for (int64_t b = threadIdx.x; b < n_block; b += THREADS) {
        uint64_t ranked = lk_ranked(lk_key(block[b].value, 0), (uint32_t)block[b].id);
        best = best > ranked ? best : ranked;
        no_number += !block[b].finite;
    }
    best = lk_block_best(best, r->warp);
    if (lk_block_total(no_number, r->warp) > 0) { /* nobody wants it */
        if (threadIdx.x == 0)
            a.id[row] = 0;
        return;
    }
    dist d = {a.logits + row * a.ld,
              block,
              a.n_vocab,
              n_block,
              {(double)lk_of_key((uint32_t)(best >> 32)), s.inverse, s.floor},
              {0, 0x7fffffff}};
    uint32_t n_list = 0;
    if (s.top_k > 0 && s.top_k < d.n)
        n_list = cut_count(&d, s.top_k, r);
    if (s.top_p < 1 && n_list > 0)
        cut_listed(&d, s.top_p, n_list, r);
    else if (s.top_p < 1)
        cut_share(&d, s.top_p, r);
    int64_t id = draw(d, s.u, r);
    if (threadIdx.x == 0)
        a.id[row] = (int32_t)id;
}

int lk_cuda_sample(const struct lk_sample *a, void *stream)
{
    lk_shape s = {"sample", dim3((unsigned)a->n_row), THREADS, sizeof(sample_room), stream};
    return lk_launch(sample_kernel, s, *a);
}
