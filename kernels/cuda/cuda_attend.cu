/* Causal attention over the paged cache (Dao et al. 2022): one online softmax a split of 512 positions, splits merged
 * in order, by the block itself or by merge_kernel. */
#include "kernels/cuda/cuda_attend.cuh"

#define MERGE_THREADS 128

/* A kernel's tile: R groups of 16 rows; C warps share a group, each with NT tiles of 8 dimensions of V. Q and K have NS
 * steps of 16 dimensions, Q in registers; NS 0: any number, Q in shared memory. */
template <int R, int C, int NS, int NT> struct tile {
    static constexpr int rows = 16 * R, threads = R * C * LK_WARP, v_ld = C * NT * 8 + 8;
    static constexpr bool keeps = C == 1; /* what earlier splits came to is in shared memory, not in registers */

    static __host__ __device__ constexpr int q_ld(int any)
    {
        return NS > 0 ? NS * 16 + 8 : any;
    }
    static __host__ __device__ constexpr int page(int any) /* elements */
    {
        return PAGE * (q_ld(any) + v_ld);
    }
    static __host__ __device__ constexpr size_t kept(void) /* bytes */
    {
        return keeps ? threads * (2 * NT + 2) * sizeof(float2) : 0;
    }
    /* bytes beside pages and what is kept */
    static __host__ __device__ constexpr size_t rest(int any)
    {
        return rows * (sizeof(span) + (NS > 0 ? 0 : any * sizeof(uint16_t) + (C > 1 ? SCORE_LD * sizeof(float) : 0)));
    }
};

/* Shared memory of a block: buffers of a page's K and V, what rows see, then Q and scores, or what is kept. With NS > 0
 * Q lies in the last buffer until it is in registers. */
struct room {
    uint16_t *page, *q;
    float *score, *kept;
    span *row;
};

template <class T> static __device__ __forceinline__ room room_of(const attend_args &a)
{
    uint16_t *page = (uint16_t *)lk_smem();
    span *row = (span *)(page + a.n_buf * T::page(a.q_ld));
    uint16_t *end = (uint16_t *)(row + T::rows);
    return {page, end, (float *)(end + T::rows * a.q_ld), (float *)end, row};
}

/* What a thread's two rows see. In shared memory, since it is seldom needed and registers are. */
template <int C> struct spans {
    span *room;

    __device__ __forceinline__ span *at(int h) const
    {
        return room + lk_warp() / C * 16 + lk_lane() / 4 + 8 * h;
    }
    __device__ __forceinline__ void put(const seen row[2])
    {
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (lk_warp() % C == 0 && lk_lane() % 4 == 0)
                lk_st<uint2>(at(h), uint2{(uint32_t)row[h].at.from, (uint32_t)row[h].at.last});
    }
    __device__ __forceinline__ span get(int h) const
    {
        uint2 x = lk_ld<uint2>(at(h));
        return {(int)x.x, (int)x.y};
    }
};

/* Heads that this block takes: of KV head blockIdx.y / n_chunk. */
struct heads {
    int kv, first, n;
};

static __device__ __forceinline__ heads heads_of(const attend_args &a, int rows)
{
    int kv = (int)blockIdx.y / a.n_chunk, at = (int)blockIdx.y % a.n_chunk * rows;
    return {kv, kv * a.group + at, a.group - at < rows ? a.group - at : rows};
}

/* Row i of the block: heads of a token side by side. */
static __device__ __forceinline__ seen row_of(const attend_args &a, const lk_attn_work &item, const heads &h, int i)
{
    if (i >= item.n_row * h.n)
        return {-1, 0, 0, {0, INT32_MAX}};
    lk_attn_row row = a.row[item.row + i / h.n];
    return {row.tok, h.first + i % h.n, row.slot, span_of(a, row.tok)};
}

/* The two rows of a thread. */
template <int C>
static __device__ __forceinline__ void rows_of(const attend_args &a, const lk_attn_work &item, const heads &h,
                                               seen row[2])
{
    int i = lk_warp() / C * 16 + lk_lane() / 4;
    row[0] = row_of(a, item, h, i);
    row[1] = row_of(a, item, h, i + 8);
}

/* Begins to copy 32 rows of n chunks of 8 numbers, zeros behind them; LD: ld where it is known, else 0. */
template <int THREADS, int LD>
static __device__ __forceinline__ void copy_tile(uint16_t *to, int ld, const uint16_t *from, int n)
{
    constexpr int WIDE = (LD - 8) / 8;
    if constexpr (LD > 0 && THREADS % WIDE == 0) {
        constexpr int ROWS = THREADS / WIDE; /* at once */
        if (n == WIDE) {
            int i = (int)threadIdx.x;
            to += i / WIDE * LD + i % WIDE * 8;
#pragma unroll
            for (int row = 0; row < PAGE; row += ROWS)
                lk_cp_async(to + row * LD, from + row * WIDE * 8 + i * 8, 16);
            return;
        }
    }
    int wide = (ld - 8) / 8;
#pragma unroll 1
    for (int row = lk_warp(); row < PAGE; row += THREADS / LK_WARP)
#pragma unroll 1
        for (int chunk = lk_lane(); chunk < wide; chunk += LK_WARP)
            lk_cp_async(to + row * ld + 8 * chunk, from + (chunk < n ? (row * n + chunk) * 8 : 0), chunk < n ? 16 : 0);
}

/* Begins to copy K and V of page `id` into a buffer. */
template <class T> static __device__ __forceinline__ void fetch_page(const attend_args &a, uint16_t *to, int kv, int id)
{
    int64_t page = (int64_t)id * a.kv.n_kv_head + kv;
    int q_ld = T::q_ld(a.q_ld);
    copy_tile<T::threads, T::q_ld(0)>(to, q_ld, (const uint16_t *)(a.kv.k + page * a.kv.k_page_bytes),
                                      (int)a.kv.head_dim / 8);
    copy_tile<T::threads, T::v_ld>(to + PAGE * q_ld, T::v_ld, (const uint16_t *)(a.kv.v + page * a.kv.v_page_bytes),
                                   (int)a.kv.v_dim / 8);
}

template <class T>
static __device__ __forceinline__ void fetch_queries(const attend_args &a, uint16_t *to, const lk_attn_work &item,
                                                     const heads &h)
{
    int n = (int)a.kv.head_dim / 8, ld = T::q_ld(a.q_ld), wide = (ld - 8) / 8;
    for (int i = (int)threadIdx.x; i < T::rows * wide; i += T::threads) {
        int row = i / wide, chunk = i % wide;
        bool real = row < item.n_row * h.n && chunk < n;
        const uint16_t *from = a.q;
        if (real)
            from +=
                ((int64_t)a.row[item.row + row / h.n].tok * a.n_head + h.first + row % h.n) * a.kv.head_dim + 8 * chunk;
        lk_cp_async(to + row * ld + 8 * chunk, from, real ? 16 : 0);
    }
}

/* Waits until at most `open` of the latest groups of copies are on their way. */
static __device__ __forceinline__ void wait_copies(int open)
{
    if (open <= 0)
        lk_cp_wait<0>();
    else if (open == 1)
        lk_cp_wait<1>();
    else
        lk_cp_wait<2>();
}

/* A page's scores of the warp's 16 rows. Warps that share rows make 4 / C tiles each and exchange them. */
template <int R, int C, int NS, int NT>
static __device__ __forceinline__ void score_page(const attend_args &a, const room &m, const uint32_t (*fq)[4],
                                                  const uint16_t *k, scores *s)
{
    if constexpr (NS > 0) {
        score_tiles<NS>(s->x, fq, k);
        return;
    }
    constexpr int N = 4 / C;
    int n_step = ((int)a.kv.head_dim + 15) / 16, lane = lk_lane(), group = lk_warp() / C, share = lk_warp() % C;
    float own[N][4];
    score_any<N>(own, m.q + group * 16 * a.q_ld, k + share * N * 8 * a.q_ld, a.q_ld, n_step);
    float *to = m.score + (group * 16 + lane / 4) * SCORE_LD + lane % 4 * 2;
#pragma unroll
    for (int t = 0; t < N; t++) {
        lk_st<float2>(to + (share * N + t) * 8, float2{own[t][0], own[t][1]});
        lk_st<float2>(to + (share * N + t) * 8 + 8 * SCORE_LD, float2{own[t][2], own[t][3]});
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

/* A thread's share of two rows: their softmax and the dimensions of its warp. sum is the product with a V of ones. */
template <int NT> struct part {
    float max[2], sum[4], o[NT][4];
};

template <int NT> static __device__ __forceinline__ void clear(part<NT> *p)
{
    p->max[0] = p->max[1] = -INFINITY;
#pragma unroll
    for (int i = 0; i < 4; i++)
        p->sum[i] = 0;
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            p->o[t][i] = 0;
}

/* What the splits before came to, two numbers at a time: NT * 2 of the output, then maximum and sum of either row. */
template <class T, int NT> struct kept {
    float *room;
    part<NT> own;

    __device__ __forceinline__ float *at(int i)
    {
        return room + (i * T::threads + (int)threadIdx.x) * 2;
    }
    __device__ __forceinline__ void put(const part<NT> &p)
    {
        if constexpr (T::keeps) {
#pragma unroll
            for (int i = 0; i < 2 * NT; i++)
                lk_st<float2>(at(i), float2{p.o[i / 2][i % 2 * 2], p.o[i / 2][i % 2 * 2 + 1]});
#pragma unroll
            for (int h = 0; h < 2; h++)
                lk_st<float2>(at(2 * NT + h), float2{p.max[h], p.sum[2 * h]});
        } else {
            own = p;
        }
    }
    __device__ __forceinline__ float2 out(int t, int h)
    {
        return T::keeps ? lk_ld<float2>(at(2 * t + h)) : float2{own.o[t][2 * h], own.o[t][2 * h + 1]};
    }
    __device__ __forceinline__ soft state(int h)
    {
        float2 x = T::keeps ? lk_ld<float2>(at(2 * NT + h)) : float2{own.max[h], own.sum[2 * h]};
        return {x.x, x.y};
    }
};

/* A split is over: *one becomes what all came to so far. */
template <class T, int NT, int C>
static __device__ __forceinline__ void end_split(part<NT> *one, kept<T, NT> *all, const spans<C> &rows, int split)
{
    int begin = split * LK_SPLIT_TOKENS;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        span row = rows.get(h);
        if (row.from >= begin || row.last == INT32_MAX)
            continue; /* the row's first, or it is yet to come, or there is no such row */
        bool over = row.last < begin;
        soft sum = all->state(h);
        float2 f = {1, 0};
        if (!over)
            f = merge_soft(&sum, {one->max[h], one->sum[2 * h]});
        one->max[h] = sum.max;
        one->sum[2 * h] = one->sum[2 * h + 1] = sum.sum;
#pragma unroll
        for (int t = 0; t < NT; t++) {
            float2 was = all->out(t, h);
            float *o = one->o[t] + 2 * h;
            o[0] = over ? was.x : merge_out(was.x, o[0], f);
            o[1] = over ? was.y : merge_out(was.y, o[1], f);
        }
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
            if (row[h].tok >= 0 && d < a.kv.v_dim)
                put_out(a, row[h].tok, row[h].head, d, all.o[t][2 * h] / all.sum[2 * h],
                        all.o[t][2 * h + 1] / all.sum[2 * h]);
    }
}

/* The state of the rows in one split; the first warp of those that share a row writes maximum and sum. */
template <int NT>
static __device__ __forceinline__ void save(const attend_args &a, const part<NT> &one, const seen row[2], int split,
                                            int dim)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row[h].tok < 0)
            continue;
        float *to = state_of(a, row[h], split);
        if (dim == 0 && lk_lane() % 4 == 0)
            lk_st<float2>(to, float2{one.max[h], one.sum[2 * h]});
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
        if (row[h].tok < 0)
            continue;
        const float *from = state_of(a, row[h], split);
        float2 x = lk_ld<float2>(from);
        one->max[h] = x.x;
        one->sum[2 * h] = one->sum[2 * h + 1] = x.y;
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

/* A page in shared memory, the position that it begins with, and positions that all rows of the warp see. */
struct view {
    const uint16_t *page;
    int begin;
    span whole;
};

/* Scores, softmax and values of a page. */
template <int R, int C, int NS, int NT>
static __device__ __forceinline__ void take_page(const attend_args &a, const room &m, const uint32_t (*fq)[4],
                                                 const view &x, part<NT> *one)
{
    using T = tile<R, C, NS, NT>;
    scores s;
    score_page<R, C, NS, NT>(a, m, fq, x.page, &s);
    /* where warps share rows, there is no register for the difference */
    if (C > 1 || x.begin < x.whole.from || x.begin + PAGE - 1 > x.whole.last) {
        const spans<C> rows = {m.row};
        span row[2] = {rows.get(0), rows.get(1)};
        mask(row, x.begin, &s);
    }
    float2 shrink = soften(a.scale, &s, one->max);
    if (lk_ballot(shrink.x != 1 || shrink.y != 1)) {
#pragma unroll
        for (int t = 0; t < NT; t++) {
            one->o[t][0] *= shrink.x;
            one->o[t][1] *= shrink.x;
            one->o[t][2] *= shrink.y;
            one->o[t][3] *= shrink.y;
        }
        one->sum[0] *= shrink.x;
        one->sum[1] *= shrink.x;
        one->sum[2] *= shrink.y;
        one->sum[3] *= shrink.y;
    }
    add_values<NT>(one->o, one->sum, s, x.page + PAGE * T::q_ld(a.q_ld) + lk_warp() % C * NT * 8, T::v_ld);
}

/* Positions that all rows of the warp see. */
static __device__ __forceinline__ span whole_of(const span &a, const span &b)
{
    span s = {a.from > b.from ? a.from : b.from, a.last < b.last ? a.last : b.last};
    for (int step = 4; step < LK_WARP; step *= 2) {
        int from = (int)lk_shuffle((uint32_t)s.from, lk_lane() ^ step);
        int last = (int)lk_shuffle((uint32_t)s.last, lk_lane() ^ step);
        s.from = from > s.from ? from : s.from;
        s.last = last < s.last ? last : s.last;
    }
    return s;
}

template <int R, int C, int NS, int NT, int BLOCKS>
static __global__ void __launch_bounds__(R *C *LK_WARP, BLOCKS) attend_kernel(const __grid_constant__ attend_args a)
{
    using T = tile<R, C, NS, NT>;
    lk_attn_work item = a.item[blockIdx.x];
    if (item.n_row == 0)
        return;
    heads h = heads_of(a, T::rows);
    room m = room_of<T>(a);
    int dim = lk_warp() % C * NT * 8, elems = T::page(a.q_ld);
    seen row[2];
    rows_of<C>(a, item, h, row);
    span whole = whole_of(row[0].at, row[1].at);
    spans<C> span = {m.row};
    span.put(row);
    part<NT> one;
    kept<T, NT> all = {m.kept, {}};
    uint32_t fq[NS > 0 ? NS : 1][4];
    int first_id = a.page_start[item.seq], ahead = a.n_buf - 1; /* pages that are fetched before they are needed */
    clear(&one);
    if (item.kind == LK_ATTN_RESUME)
        load(a, &one, row, item.page_begin / SPLIT_PAGES, dim);
    fetch_queries<T>(a, NS > 0 ? m.page + ahead * elems : m.q, item, h);
    if (NS > 0)
        lk_cp_commit();
    for (int i = 0; i < ahead; i++) {
        if (item.page_begin + i < item.page_end)
            fetch_page<T>(a, m.page + i * elems, h.kv, a.page[first_id + item.page_begin + i]);
        lk_cp_commit();
    }
    if constexpr (NS > 0) {
        wait_copies(ahead);
        __syncthreads();
        load_queries<NS>(fq, m.page + ahead * elems + lk_warp() * 16 * T::q_ld(0));
    }
    int next = item.page_begin + ahead, id = next < item.page_end ? a.page[first_id + next] : 0, buf = 0;
    for (int ip = item.page_begin; ip < item.page_end; ip++) {
        if (ip % SPLIT_PAGES == 0 && ip > item.page_begin) {
            end_split(&one, &all, span, ip / SPLIT_PAGES - 1);
            all.put(one);
            clear(&one);
        }
        wait_copies(ahead - 1);
        __syncthreads();
        if (ip + ahead < item.page_end)
            fetch_page<T>(a, m.page + (buf > 0 ? buf - 1 : ahead) * elems, h.kv, id);
        id = ip + ahead + 1 < item.page_end ? a.page[first_id + ip + ahead + 1] : 0;
        lk_cp_commit();
        if (a.n_buf == 1) {
            lk_cp_wait<0>();
            __syncthreads();
        }
        take_page<R, C, NS, NT>(a, m, fq, {m.page + buf * elems, ip * PAGE, whole}, &one);
        buf = buf + 1 < a.n_buf ? buf + 1 : 0;
    }
    item = a.item[blockIdx.x]; /* again: in the loop registers are dear */
    rows_of<C>(a, item, heads_of(a, T::rows), row);
    if (item.kind == LK_ATTN_WHOLE) {
        end_split(&one, &all, span, (item.page_end - 1) / SPLIT_PAGES);
        write_out(a, one, row, dim);
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
    seen s = {r.tok, (int)blockIdx.y, r.slot, span_of(a, r.tok)};
    int first = s.at.from / LK_SPLIT_TOKENS;
    for (int d = 2 * (int)threadIdx.x; d < a.kv.v_dim; d += 2 * MERGE_THREADS) {
        soft all = {0, 0};
        float2 o = {0, 0};
        for (int split = first; split <= s.at.last / LK_SPLIT_TOKENS; split++) {
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
    x.group = (int)(a.n_head / a.kv.n_kv_head);
    x.scale = a.scale * 1.44269504f;
    x.q_ld = (int)((a.kv.head_dim + 15) / 16 * 16 + 8); /* an odd number of 16 bytes: rows in different banks */
    return x;
}

/* Items of a launch, and how many buffers of pages are worth their room. */
struct works {
    const char *name;
    const lk_attn_work *item;
    int64_t n;
    int n_buf;
    bool splits; /* an item may be more than one */
};

template <int R, int C, int NS, int NT, int BLOCKS = 1>
static int launch(attend_args x, const works &w, const lk_attn_plan &p, void *stream)
{
    using T = tile<R, C, NS, NT>;
    static_assert(NS == 0 || T::rows * T::q_ld(0) <= T::page(0), "Q fits into a buffer");
    size_t page = (size_t)T::page(x.q_ld) * sizeof(uint16_t), rest = T::rest(x.q_ld) + (w.splits ? T::kept() : 0);
    x.item = w.item;
    x.n_buf = w.n_buf;
    while (x.n_buf > 1 && rest + (size_t)x.n_buf * page > p.shared_bytes)
        x.n_buf--;
    x.n_chunk = (int)lk_blocks(x.group, T::rows);
    dim3 grid((unsigned)w.n, (unsigned)(x.kv.n_kv_head * x.n_chunk));
    lk_shape s = {w.name, grid, T::threads, rest + (size_t)x.n_buf * page, stream};
    return lk_launch(attend_kernel<R, C, NS, NT, BLOCKS>, s, x);
}

static int launch_many(const attend_args &x, const lk_attn_plan &p, void *stream)
{
    int64_t v = x.kv.v_dim, most = v > x.kv.head_dim ? v : x.kv.head_dim;
    const lk_attn_work *item = p.item;
    int64_t n = p.n_many;
    return most <= 64    ? launch<4, 1, 4, 8, 4>(x, {"attend<4, 1, 4, 8, 4>", item, n, 3, true}, p, stream)
           : most <= 128 ? launch<4, 1, 8, 16, 3>(x, {"attend<4, 1, 8, 16, 3>", item, n, 2, true}, p, stream)
           : v <= 256    ? launch<4, 2, 0, 16>(x, {"attend<4, 2, 0, 16, 1>", item, n, 2, true}, p, stream)
           : lk_cuda_attn_rows(v, p.shared_bytes) == 32
               ? launch<2, 4, 0, 16>(x, {"attend<2, 4, 0, 16, 1>", item, n, 2, true}, p, stream)
               : launch<1, 4, 0, 16>(x, {"attend<1, 4, 0, 16, 1>", item, n, 2, true}, p, stream);
}

static int launch_few(const attend_args &x, const lk_attn_plan &p, void *stream)
{
    int64_t v = x.kv.v_dim, most = v > x.kv.head_dim ? v : x.kv.head_dim;
    const lk_attn_work *item = p.item + p.n_many;
    int64_t n = p.n_few;
    return most <= 64    ? launch<1, 1, 4, 8>(x, {"attend<1, 1, 4, 8, 1>", item, n, 4, false}, p, stream)
           : most <= 128 ? launch<1, 1, 8, 16>(x, {"attend<1, 1, 8, 16, 1>", item, n, 3, false}, p, stream)
           : v <= 256    ? launch<1, 4, 0, 8>(x, {"attend<1, 4, 0, 8, 1>", item, n, 3, false}, p, stream)
                         : launch<1, 4, 0, 16>(x, {"attend<1, 4, 0, 16, 1>", item, n, 3, false}, p, stream);
}

int lk_cuda_attend(const struct lk_attend *a, const struct lk_attn_plan *p, void *stream)
{
    attend_args x = args_of(*a, *p);
    int e = launch_many(x, *p, stream);
    if (e)
        return e;
    e = launch_few(x, *p, stream);
    if (e)
        return e;
    x.row = p->row + p->merge_row;
    lk_shape s = {"merge", dim3((unsigned)p->n_merge, (unsigned)a->n_head), MERGE_THREADS, 0, stream};
    return lk_launch(merge_kernel, s, x);
}
