/* Causal attention over the paged cache (Dao et al. 2022): one online softmax a split of 512 positions, splits merged
 * in order, by the block itself or by merge_kernel. */
#include "kernels/cuda/cuda_attend.cuh"

#define MERGE_THREADS 128

/* Shared memory of a block. */
struct room {
    uint16_t *q, *k, *v;
    float *score;
};

static __device__ __forceinline__ room room_of(const attend_args &a, int rows)
{
    uint16_t *q = (uint16_t *)lk_smem(), *k = q + rows * a.q_ld, *v = k + a.n_buf * PAGE * a.q_ld;
    return {q, k, v, (float *)(v + a.n_buf * PAGE * a.v_ld)};
}

/* Heads that this block takes: of KV head blockIdx.y / n_chunk. */
struct heads {
    int kv, first, n;
};

static __device__ __forceinline__ heads heads_of(const attend_args &a, int rows)
{
    int group = (int)(a.n_head / a.kv.n_kv_head), kv = (int)blockIdx.y / a.n_chunk;
    int at = (int)blockIdx.y % a.n_chunk * rows, n = group - at < rows ? group - at : rows;
    return {kv, kv * group + at, n};
}

/* Row i of the block: heads of a token side by side. */
static __device__ __forceinline__ seen row_of(const attend_args &a, const lk_attn_work &item, const heads &h, int i)
{
    if (i >= item.n_row * h.n)
        return {0, 0, 0, 1, -1};
    lk_attn_row row = a.row[item.row + i / h.n];
    int last = a.pos[row.tok];
    int from = a.window > 0 && last >= a.window ? (int)(last - a.window + 1) : 0;
    return {row.tok, h.first + i % h.n, row.slot, from, last};
}

/* Begins to copy `rows` rows of n chunks of 8 numbers, an even number of chunks in shared memory. */
static __device__ __forceinline__ void copy_tile(uint16_t *to, int ld, const uint16_t *from, int n)
{
    int wide = (n + 1) / 2 * 2;
    for (int i = (int)threadIdx.x; i < PAGE * wide; i += (int)blockDim.x) {
        int row = i / wide, chunk = i % wide;
        lk_cp_async(to + row * ld + 8 * chunk, chunk < n ? from + (int64_t)(row * n + chunk) * 8 : from,
                    chunk < n ? 16 : 0);
    }
}

static __device__ __forceinline__ void fetch_page(const attend_args &a, const room &m, const lk_attn_work &item, int kv,
                                                  int ip)
{
    int64_t page = a.page[a.page_start[item.seq] + ip] * a.kv.n_kv_head + kv;
    int buf = (ip - item.page_begin) % a.n_buf;
    copy_tile(m.k + buf * PAGE * a.q_ld, a.q_ld, (const uint16_t *)(a.kv.k + page * a.kv.k_page_bytes),
              (int)a.kv.head_dim / 8);
    copy_tile(m.v + buf * PAGE * a.v_ld, a.v_ld, (const uint16_t *)(a.kv.v + page * a.kv.v_page_bytes),
              (int)a.kv.v_dim / 8);
}

static __device__ __forceinline__ void fetch_queries(const attend_args &a, const room &m, const lk_attn_work &item,
                                                     const heads &h, int rows)
{
    int n = (int)a.kv.head_dim / 8, wide = (n + 1) / 2 * 2;
    for (int i = (int)threadIdx.x; i < rows * wide; i += (int)blockDim.x) {
        int row = i / wide, chunk = i % wide;
        bool real = row < item.n_row * h.n && chunk < n;
        const uint16_t *from = a.q;
        if (real)
            from +=
                ((int64_t)a.row[item.row + row / h.n].tok * a.n_head + h.first + row % h.n) * a.kv.head_dim + 8 * chunk;
        lk_cp_async(m.q + row * a.q_ld + 8 * chunk, from, real ? 16 : 0);
    }
}

/* N neighboring tiles of 8 positions from `tile` on: q times K, in steps of 16 dimensions. */
template <int N>
static __device__ __forceinline__ void score_tiles(float s[N][4], const uint16_t *q, const uint16_t *k, int ld,
                                                   int n_step)
{
    int lane = lk_lane();
    q += lane % 16 * ld + lane / 16 * 8;
    k += (N == 1 ? lane % 8 : lane % 8 + lane / 16 * 8) * ld + lane / 8 % 2 * 8;
#pragma unroll
    for (int t = 0; t < N; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[t][i] = 0;
    for (int step = 0; step < n_step; step++) {
        uint32_t fq[4], fk[4];
        lk_ldmatrix4(fq, q + step * 16);
        if constexpr (N == 1) {
            lk_ldmatrix2(fk, k + step * 16);
            lk_mma(s[0], fq, fk);
        } else {
#pragma unroll
            for (int t = 0; t + 1 < N; t += 2) {
                lk_ldmatrix4(fk, k + t * 8 * ld + step * 16);
                lk_mma(s[t], fq, fk);
                lk_mma(s[t + 1], fq, fk + 2);
            }
        }
    }
}

/* A page's scores of the warp's 16 rows. Warps that share rows make 4 / C tiles each and exchange them. */
template <int C>
static __device__ __forceinline__ void score_page(const attend_args &a, const room &m, int group, int part,
                                                  const uint16_t *k, scores *s)
{
    int n_step = ((int)a.kv.head_dim + 15) / 16, lane = lk_lane();
    const uint16_t *q = m.q + group * 16 * a.q_ld;
    if constexpr (C == 1) {
        score_tiles<4>(s->x, q, k, a.q_ld, n_step);
        return;
    }
    constexpr int N = 4 / C;
    float own[N][4];
    score_tiles<N>(own, q, k + part * N * 8 * a.q_ld, a.q_ld, n_step);
    float *to = m.score + (group * 16 + lane / 4) * SCORE_LD + lane % 4 * 2;
#pragma unroll
    for (int t = 0; t < N; t++) {
        lk_st<float2>(to + (part * N + t) * 8, float2{own[t][0], own[t][1]});
        lk_st<float2>(to + (part * N + t) * 8 + 8 * SCORE_LD, float2{own[t][2], own[t][3]});
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < 4; t++) {
        float2 x = lk_ld<float2>(to + t * 8), y = lk_ld<float2>(to + t * 8 + 8 * SCORE_LD);
        s->x[t][0] = x.x;
        s->x[t][1] = x.y;
        s->x[t][2] = y.x;
        s->x[t][3] = y.y;
    }
}

/* o += p V, in steps of 16 positions; the warp's dimensions begin with dim. */
template <int NT>
static __device__ __forceinline__ void add_values(const attend_args &a, float o[NT][4], const scores &p,
                                                  const uint16_t *v, int dim)
{
    int lane = lk_lane(), n = (int)a.kv.v_dim;
    v += (lane % 8 + lane / 8 % 2 * 8) * a.v_ld + dim + lane / 16 * 8;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float(*x)[4] = p.x + 2 * half;
        uint32_t fp[4] = {lk_pack2(x[0][0], x[0][1]), lk_pack2(x[0][2], x[0][3]), lk_pack2(x[1][0], x[1][1]),
                          lk_pack2(x[1][2], x[1][3])};
#pragma unroll
        for (int t = 0; t < NT; t += 2) {
            if (dim + t * 8 >= n)
                break;
            uint32_t fv[4];
            lk_ldmatrix4_t(fv, v + half * 16 * a.v_ld + t * 8);
            lk_mma(o[t], fp, fv);
            lk_mma(o[t + 1], fp, fv + 2);
        }
    }
}

/* A thread's share of two rows: their softmax and the dimensions of its warp. */
template <int NT> struct part {
    soft row[2];
    float o[NT][4];
};

template <int NT> static __device__ __forceinline__ void clear(part<NT> *p)
{
    p->row[0] = p->row[1] = {-INFINITY, 0};
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            p->o[t][i] = 0;
}

/* A split is over: rows that saw something of it take it in. */
template <int NT>
static __device__ __forceinline__ void end_split(part<NT> *all, const part<NT> &one, const seen row[2], int split)
{
    int begin = split * LK_SPLIT_TOKENS;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        bool part_of_it = sees(row[h], begin, begin + LK_SPLIT_TOKENS), first = row[h].from >= begin;
        if (!part_of_it)
            continue;
        float2 f = {0, 1};
        if (first)
            all->row[h] = one.row[h];
        else
            f = merge_soft(&all->row[h], one.row[h]);
#pragma unroll
        for (int t = 0; t < NT; t++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++)
                all->o[t][i] = first ? one.o[t][i] : merge_out(all->o[t][i], one.o[t][i], f);
    }
}

template <int NT>
static __device__ __forceinline__ void write_out(const attend_args &a, const part<NT> &all, const seen row[2], int dim)
{
#pragma unroll
    for (int t = 0; t < NT; t++) {
        int d = dim + t * 8 + lk_lane() % 4 * 2;
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (row[h].last >= 0 && d < a.kv.v_dim)
                put_out(a, row[h].tok, row[h].head, d, all.o[t][2 * h] / all.row[h].sum,
                        all.o[t][2 * h + 1] / all.row[h].sum);
    }
}

/* The state of the rows in one split; the first warp of those that share a row writes maximum and sum. */
template <int NT>
static __device__ __forceinline__ void save(const attend_args &a, const part<NT> &one, const seen row[2], int split,
                                            int dim)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row[h].last < 0)
            continue;
        float *to = state_of(a, row[h], split);
        if (dim == 0 && lk_lane() % 4 == 0)
            lk_st<float2>(to, float2{one.row[h].max, one.row[h].sum});
#pragma unroll
        for (int t = 0; t < NT; t++) {
            int d = dim + t * 8 + lk_lane() % 4 * 2;
            if (d < a.kv.v_dim)
                lk_st<float2>(to + STATE_HEAD + d, float2{one.o[t][2 * h], one.o[t][2 * h + 1]});
        }
    }
}

template <int NT>
static __device__ __forceinline__ void load(const attend_args &a, part<NT> *one, const seen row[2], int split, int dim)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row[h].last < 0)
            continue;
        const float *from = state_of(a, row[h], split);
        float2 x = lk_ld<float2>(from);
        one->row[h] = {x.x, x.y};
#pragma unroll
        for (int t = 0; t < NT; t++) {
            int d = dim + t * 8 + lk_lane() % 4 * 2;
            if (d >= a.kv.v_dim)
                continue;
            x = lk_ld<float2>(from + STATE_HEAD + d);
            one->o[t][2 * h] = x.x;
            one->o[t][2 * h + 1] = x.y;
        }
    }
}

template <int R, int C, int NT>
static __global__ void __launch_bounds__(R *C *LK_WARP) attend_kernel(const __grid_constant__ attend_args a)
{
    lk_attn_work item = a.item[blockIdx.x];
    if (item.n_row == 0)
        return;
    heads h = heads_of(a, R * 16);
    room m = room_of(a, R * 16);
    int group = lk_warp() / C, share = lk_warp() % C, dim = share * NT * 8;
    seen row[2] = {row_of(a, item, h, group * 16 + lk_lane() / 4), row_of(a, item, h, group * 16 + lk_lane() / 4 + 8)};
    part<NT> one, all;
    clear(&one);
    clear(&all);
    if (item.kind == LK_ATTN_RESUME)
        load(a, &one, row, item.page_begin / SPLIT_PAGES, dim);
    fetch_queries(a, m, item, h, R * 16);
    fetch_page(a, m, item, h.kv, item.page_begin);
    lk_cp_commit();
    for (int ip = item.page_begin; ip < item.page_end; ip++) {
        if (ip % SPLIT_PAGES == 0 && ip > item.page_begin) {
            end_split(&all, one, row, ip / SPLIT_PAGES - 1);
            clear(&one);
        }
        if (a.n_buf == 1 && ip > item.page_begin) {
            __syncthreads();
            fetch_page(a, m, item, h.kv, ip);
            lk_cp_commit();
        }
        lk_cp_wait<0>();
        __syncthreads();
        if (a.n_buf == 2 && ip + 1 < item.page_end) {
            fetch_page(a, m, item, h.kv, ip + 1);
            lk_cp_commit();
        }
        int buf = (ip - item.page_begin) % a.n_buf;
        scores s;
        score_page<C>(a, m, group, share, m.k + buf * PAGE * a.q_ld, &s);
        float2 shrink = soften(a, row, ip * PAGE, &s, one.row);
#pragma unroll
        for (int t = 0; t < NT; t++) {
            one.o[t][0] *= shrink.x;
            one.o[t][1] *= shrink.x;
            one.o[t][2] *= shrink.y;
            one.o[t][3] *= shrink.y;
        }
        add_values<NT>(a, one.o, s, m.v + buf * PAGE * a.v_ld, dim);
    }
    if (item.kind == LK_ATTN_WHOLE) {
        end_split(&all, one, row, (item.page_end - 1) / SPLIT_PAGES);
        write_out(a, all, row, dim);
    } else {
        save(a, one, row, item.page_begin / SPLIT_PAGES, dim);
    }
}

/* The splits of a row and head, in order. */
static __global__ void __launch_bounds__(MERGE_THREADS) merge_kernel(const __grid_constant__ attend_args a)
{
    lk_attn_row r = a.row[blockIdx.x];
    if (r.tok < 0)
        return;
    int last = a.pos[r.tok], from = a.window > 0 && last >= a.window ? (int)(last - a.window + 1) : 0;
    seen s = {r.tok, (int)blockIdx.y, r.slot, from, last};
    int first = from / LK_SPLIT_TOKENS;
    for (int d = 2 * (int)threadIdx.x; d < a.kv.v_dim; d += 2 * MERGE_THREADS) {
        soft all = {0, 0};
        float2 o = {0, 0};
        for (int split = first; split <= last / LK_SPLIT_TOKENS; split++) {
            const float *state = state_of(a, s, split);
            float2 x = lk_ld<float2>(state), v = lk_ld<float2>(state + STATE_HEAD + d);
            soft one = {x.x, x.y};
            if (split == first) {
                all = one;
                o = v;
                continue;
            }
            float2 f = merge_soft(&all, one);
            o = {merge_out(o.x, v.x, f), merge_out(o.y, v.y, f)};
        }
        put_out(a, s.tok, s.head, d, o.x / all.sum, o.y / all.sum);
    }
}

/* ---- launches ---- */

static attend_args args_of(const lk_attend &a, const lk_attn_plan &p)
{
    attend_args x = {};
    x.out = lk_rows_of(a.out);
    x.out_head_bytes = a.out_head_bytes;
    x.q = (const uint16_t *)a.q;
    x.kv = a.kv;
    x.row = p.row;
    x.pos = a.pos;
    x.page_start = a.page_start;
    x.page = a.page;
    x.state = p.state;
    x.n_head = a.n_head;
    x.window = a.window;
    x.scale = a.scale * 1.44269504f;
    x.q_ld = (int)((a.kv.head_dim + 15) / 16 * 16 + 8); /* an odd number of 16 bytes: rows in different banks */
    x.v_ld = (int)((a.kv.v_dim + 15) / 16 * 16 + 8);
    return x;
}

/* Items of a launch. */
struct works {
    const char *name;
    const lk_attn_work *item;
    int64_t n;
};

template <int R, int C, int NT> static int launch(attend_args x, const works &w, const lk_attn_plan &p, void *stream)
{
    int64_t group = x.n_head / x.kv.n_kv_head;
    size_t page = (size_t)PAGE * (size_t)(x.q_ld + x.v_ld) * sizeof(uint16_t);
    size_t rest = R * 16 * ((size_t)x.q_ld * sizeof(uint16_t) + (C > 1 ? SCORE_LD * sizeof(float) : 0));
    x.item = w.item;
    x.n_buf = rest + 2 * page <= p.shared_bytes ? 2 : 1;
    x.n_chunk = (int)lk_blocks(group, R * 16);
    dim3 grid((unsigned)w.n, (unsigned)(x.kv.n_kv_head * x.n_chunk));
    lk_shape s = {w.name, grid, R * C * LK_WARP, rest + (size_t)x.n_buf * page, stream};
    return lk_launch(attend_kernel<R, C, NT>, s, x);
}

int lk_cuda_attend(const struct lk_attend *a, const struct lk_attn_plan *p, void *stream)
{
    attend_args x = args_of(*a, *p);
    int64_t v = a->kv.v_dim;
    const lk_attn_work *many = p->item, *few = p->item + p->n_many;
    int64_t m = p->n_many, f = p->n_few;
    int e = v <= 64    ? launch<4, 1, 8>(x, {"attend<4, 1, 8>", many, m}, *p, stream)
            : v <= 128 ? launch<4, 1, 16>(x, {"attend<4, 1, 16>", many, m}, *p, stream)
            : v <= 256 ? launch<4, 2, 16>(x, {"attend<4, 2, 16>", many, m}, *p, stream)
            : lk_cuda_attn_rows(v, p->shared_bytes) == 32
                ? launch<2, 4, 16>(x, {"attend<2, 4, 16>", many, m}, *p, stream)
                : launch<1, 4, 16>(x, {"attend<1, 4, 16>", many, m}, *p, stream);
    if (e)
        return e;
    e = v <= 64    ? launch<1, 4, 2>(x, {"attend<1, 4, 2>", few, f}, *p, stream)
        : v <= 128 ? launch<1, 4, 4>(x, {"attend<1, 4, 4>", few, f}, *p, stream)
        : v <= 256 ? launch<1, 4, 8>(x, {"attend<1, 4, 8>", few, f}, *p, stream)
                   : launch<1, 4, 16>(x, {"attend<1, 4, 16>", few, f}, *p, stream);
    if (e)
        return e;
    x.row = p->row + p->merge_row;
    lk_shape s = {"merge", dim3((unsigned)p->n_merge, (unsigned)a->n_head), MERGE_THREADS, 0, stream};
    return lk_launch(merge_kernel, s, x);
}
