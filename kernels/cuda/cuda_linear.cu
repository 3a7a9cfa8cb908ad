/* y = A W^T by tensor cores, a segment of K at a time. An element is summed in steps of 16 columns in order, whatever
 * the tile it falls into: no split of K but the segments', so that a row's bits do not depend on the rows beside it. */
#include "kernels/cuda/cuda_f32.cuh"
#include "kernels/cuda/cuda_weight.cuh"

struct linear_args {
    const uint16_t *a;
    const uint8_t *w;
    const float *scale, *zero, *least; /* [n_out, k / 32] each, or NULL: 1, 0, 0 */
    int64_t k, n_row, n_out;           /* k: packed columns, of all segments */
    float *y;                          /* segment s at y + s * y_seg */
    int64_t y_ld, y_seg;
    const float *bias; /* with one segment */
    bool add;
    int64_t packed[LK_MAX_SEG + 1];
    const int32_t *tile_group, *tile_row, *row_begin, *row_of; /* grouped: see struct lk_grouped */
    const void *const *w_of;
    int64_t n_tile;
};

/* A block's rows of A and y, and its weights. */
struct span {
    int64_t row, end;
    const uint8_t *w;
};

template <int BM> static __device__ __forceinline__ bool span_of(const linear_args &a, span *s)
{
    *s = {(int64_t)blockIdx.x * BM, a.n_row, a.w};
    if (!a.tile_group)
        return true;
    int group = a.tile_group[blockIdx.x];
    if (group < 0)
        return false;
    *s = {a.tile_row[blockIdx.x], a.row_begin[group + 1], (const uint8_t *)a.w_of[group]};
    return true;
}

/* Stage `stage` gets columns k .. k + 31. */
template <lk_weight_format F, int BM, int BN>
static __device__ __forceinline__ void fetch(const linear_args &a, const span &s, uint8_t *stage, int64_t k)
{
    constexpr int W = lk_tile_row_bytes<F>(), CHUNKS = W / 16;
    for (int i = (int)threadIdx.x; i < BM * 4; i += (int)blockDim.x) {
        int64_t row = s.row + i / 4;
        bool real = row < s.end;
        if (real && a.row_of)
            row = a.row_of[row];
        lk_cp_async(stage + lk_swizzle(i / 4, i % 4), real ? a.a + row * a.k + k + i % 4 * 8 : a.a, real ? 16 : 0);
    }
    stage += BM * 64;
    for (int i = (int)threadIdx.x; i < BN * CHUNKS; i += (int)blockDim.x) {
        int64_t row = (int64_t)blockIdx.y * BN + i / CHUNKS;
        bool real = row < a.n_out;
        int64_t at = (row * a.k + k) * W / LK_K_TILE + i % CHUNKS * 16;
        int to = F == LK_W_BF16 ? lk_swizzle(i / CHUNKS, i % CHUNKS) : i * 16;
        lk_cp_async(stage + to, real ? s.w + at : s.w, real ? 16 : 0);
    }
}

/* Fragments of B for columns `step` * 16 ... of tiles n .. n + N - 1, of 8 weight rows each. */
template <lk_weight_format F, int N>
static __device__ __forceinline__ void load_weights(uint32_t b[N][2], const uint8_t *tile, int n, int step,
                                                    const lk_block_scale *scale)
{
    int lane = lk_lane();
    if constexpr (F == LK_W_BF16 && N == 1) {
        lk_ldmatrix2(b[0], tile + lk_swizzle(n * 8 + lane % 8, step * 2 + lane / 8 % 2));
    } else if constexpr (F == LK_W_BF16) {
#pragma unroll
        for (int t = 0; t + 1 < N; t += 2) {
            uint32_t r[4];
            lk_ldmatrix4(r, tile + lk_swizzle((n + t) * 8 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
            b[t][0] = r[0];
            b[t][1] = r[1];
            b[t + 1][0] = r[2];
            b[t + 1][1] = r[3];
        }
    } else {
#pragma unroll
        for (int t = 0; t < N; t++) {
            const uint8_t *row = tile + ((n + t) * 8 + lane / 4) * lk_tile_row_bytes<F>();
            b[t][0] = lk_unpack2<F>(row, step * 16 + lane % 4 * 2, scale[t]);
            b[t][1] = lk_unpack2<F>(row, step * 16 + lane % 4 * 2 + 8, scale[t]);
        }
    }
}

/* What packed weights of the warp's rows are scaled by in the block of columns k / 32. */
template <lk_weight_format F, int N>
static __device__ __forceinline__ void load_scales(lk_block_scale s[N], const linear_args &a, int64_t row, int64_t k)
{
    if constexpr (F != LK_W_BF16) {
#pragma unroll
        for (int t = 0; t < N; t++) {
            int64_t r = lk_least(row + t * 8 + lk_lane() / 4, a.n_out - 1), at = (r * a.k + k) / LK_K_TILE;
            s[t] = {a.scale ? a.scale[at] : 1, a.zero ? a.zero[at] : 0, a.least ? a.least[at] : 0};
        }
    }
}

static __device__ __forceinline__ void put_sum(const linear_args &a, float *y, int64_t col, float v)
{
    if (col >= a.n_out)
        return;
    if (a.bias)
        v += a.bias[col];
    *y = a.add ? *y + v : v;
}

/* Warps stand side by side over the block's columns, then its rows; each makes WM * WN elements. */
template <lk_weight_format F, int BM, int BN, int WM, int WN, int STAGES>
static __global__ void __launch_bounds__(BM / WM * BN / WN * LK_WARP)
    linear_kernel(const __grid_constant__ linear_args a)
{
    constexpr int STAGE = BM * 64 + BN * lk_tile_row_bytes<F>(), MT = WM / 16, NT = WN / 8;
    int m0 = lk_warp() / (BN / WN) * WM, n0 = lk_warp() % (BN / WN) * WN, lane = lk_lane();
    int64_t begin = a.packed[blockIdx.z], n_tile = (a.packed[blockIdx.z + 1] - begin) / LK_K_TILE;
    uint8_t *smem = lk_smem();
    span s;
    if (!span_of<BM>(a, &s))
        return;
    float acc[MT][NT][4] = {};
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < n_tile)
            fetch<F, BM, BN>(a, s, smem + i * STAGE, begin + i * LK_K_TILE);
        lk_cp_commit();
    }
    for (int64_t i = 0; i < n_tile; i++) {
        lk_cp_wait<STAGES - 2>();
        __syncthreads();
        if (i + STAGES - 1 < n_tile)
            fetch<F, BM, BN>(a, s, smem + (i + STAGES - 1) % STAGES * STAGE, begin + (i + STAGES - 1) * LK_K_TILE);
        lk_cp_commit();
        const uint8_t *stage = smem + i % STAGES * STAGE;
        lk_block_scale scale[NT];
        load_scales<F, NT>(scale, a, (int64_t)blockIdx.y * BN + n0, begin + i * LK_K_TILE);
#pragma unroll
        for (int step = 0; step < 2; step++) {
            uint32_t fa[MT][4], fb[NT][2];
#pragma unroll
            for (int t = 0; t < MT; t++)
                lk_ldmatrix4(fa[t], stage + lk_swizzle(m0 + t * 16 + lane % 16, step * 2 + lane / 16));
            load_weights<F, NT>(fb, stage + BM * 64, n0 / 8, step, scale);
#pragma unroll
            for (int t = 0; t < MT; t++)
#pragma unroll
                for (int u = 0; u < NT; u++)
                    lk_mma(acc[t][u], fa[t], fb[u]);
        }
    }
#pragma unroll
    for (int t = 0; t < MT; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int64_t row = s.row + m0 + t * 16 + lane / 4 + h * 8;
            if (row >= s.end)
                continue;
            float *y = a.y + blockIdx.z * a.y_seg + row * a.y_ld;
#pragma unroll
            for (int u = 0; u < NT; u++) {
                int64_t col = (int64_t)blockIdx.y * BN + n0 + u * 8 + lane % 4 * 2;
                put_sum(a, y + col, col, acc[t][u][2 * h]);
                put_sum(a, y + col + 1, col + 1, acc[t][u][2 * h + 1]);
            }
        }
    }
}

/* ---- launches ---- */

template <lk_weight_format F, int BM, int BN, int WM, int WN, int STAGES>
static int launch(const linear_args &a, const char *name, int n_seg, void *stream)
{
    int64_t n_tile = a.tile_group ? a.n_tile : lk_blocks(a.n_row, BM);
    dim3 grid((unsigned)n_tile, (unsigned)lk_blocks(a.n_out, BN), (unsigned)n_seg);
    lk_shape s = {name, grid, BM / WM * (BN / WN) * LK_WARP, STAGES * (BM * 64 + BN * lk_tile_row_bytes<F>()), stream};
    return lk_launch(linear_kernel<F, BM, BN, WM, WN, STAGES>, s, a);
}

template <lk_weight_format F> static int launch_packed(const linear_args &a, int n_seg, void *stream)
{
    static const char *const few[] = {"linear<0, 16, 32, 16, 8, 6>", "linear<1, 16, 32, 16, 8, 6>",
                                      "linear<2, 16, 32, 16, 8, 6>", "linear<3, 16, 32, 16, 8, 6>"};
    static const char *const more[] = {"linear<0, 64, 64, 32, 32, 4>", "linear<1, 64, 64, 32, 32, 4>",
                                       "linear<2, 64, 64, 32, 32, 4>", "linear<3, 64, 64, 32, 32, 4>"};
    return a.n_row <= 16 ? launch<F, 16, 32, 16, 8, 6>(a, few[F], n_seg, stream)
                         : launch<F, 64, 64, 32, 32, 4>(a, more[F], n_seg, stream);
}

static int launch_f32(const linear_args &a, int n_seg, void *stream)
{
    lk_f32_product p = {(const float *)(const void *)a.a,
                        (const float *)(const void *)a.w,
                        a.y,
                        a.y_ld,
                        a.y_seg,
                        a.n_row,
                        a.n_out,
                        a.k,
                        {}};
    for (int s = 0; s <= n_seg; s++)
        p.packed[s] = a.packed[s];
    return lk_launch_f32_product(p, n_seg, stream);
}

static int launch_format(const linear_args &a, lk_weight_format format, int n_seg, void *stream)
{
    switch (format) {
    case LK_W_INT8:
        return launch_packed<LK_W_INT8>(a, n_seg, stream);
    case LK_W_INT4:
        return launch_packed<LK_W_INT4>(a, n_seg, stream);
    case LK_W_FP8:
        return launch_packed<LK_W_FP8>(a, n_seg, stream);
    case LK_W_F32:
        return launch_f32(a, n_seg, stream);
    case LK_W_BF16:
        break;
    }
    if (a.n_row > 64)
        return launch<LK_W_BF16, 128, 128, 64, 32, 4>(a, "linear<0, 128, 128, 64, 32, 4>", n_seg, stream);
    return launch_packed<LK_W_BF16>(a, n_seg, stream);
}

/* Whether the product itself writes y: one segment, and an epilogue that it has. */
static bool is_direct(const struct lk_linear *a, lk_weight_format format)
{
    return a->a.cols->n_seg == 1 && a->epilogue != LK_EP_SWIGLU && format != LK_W_F32;
}

size_t lk_cuda_linear_scratch(const struct lk_linear *a, enum lk_weight_format format)
{
    if (is_direct(a, format))
        return 0;
    int64_t n = a->epilogue == LK_EP_SWIGLU && a->a.cols->n_seg > 1 ? a->a.cols->n_seg + 1 : a->a.cols->n_seg;
    return (size_t)(n * a->a.n_row * a->n_out) * sizeof(float);
}

static linear_args args_of(const struct lk_linear *a, const struct lk_weight *w)
{
    const struct lk_cols *c = a->a.cols;
    linear_args x = {};
    x.a = (const uint16_t *)a->a.data;
    x.w = (const uint8_t *)w->data;
    x.scale = w->scale;
    x.zero = w->zero;
    x.least = w->least;
    x.k = c->packed[c->n_seg];
    x.n_row = a->a.n_row;
    x.n_out = a->n_out;
    for (int s = 0; s <= c->n_seg; s++)
        x.packed[s] = c->packed[s];
    x.y_ld = a->n_out;
    x.y_seg = a->a.n_row * a->n_out;
    return x;
}

int lk_cuda_linear_sums(const struct lk_linear *a, const struct lk_weight *w, float *sums, void *stream)
{
    linear_args x = args_of(a, w);
    x.y = sums;
    return launch_format(x, w->format, a->a.cols->n_seg, stream);
}

int lk_cuda_linear_finish(const struct lk_linear *a, float *sums, enum lk_type type, void *stream)
{
    int n_seg = a->a.cols->n_seg, e = 0;
    bool gated = a->epilogue == LK_EP_SWIGLU;
    int64_t n = a->a.n_row * a->n_out;
    float *sum = n_seg > 1 ? sums + n_seg * n : sums;
    if (n_seg > 1 || !gated) {
        struct lk_tree t = {gated ? sum : a->y,
                            gated ? a->n_out : a->y_ld,
                            sums,
                            n,
                            gated ? NULL : a->bias,
                            a->a.n_row,
                            a->n_out,
                            n_seg,
                            a->epilogue == LK_EP_ADD};
        e = lk_cuda_tree(&t, stream);
    }
    if (e || !gated)
        return e;
    struct lk_swiglu g = {a->out, sum, a->bias};
    return lk_cuda_swiglu(&g, type, stream);
}

int lk_cuda_linear(const struct lk_linear *a, const struct lk_weight *w, float *scratch, void *stream)
{
    if (is_direct(a, w->format)) {
        linear_args x = args_of(a, w);
        x.y = a->y;
        x.y_ld = a->y_ld;
        x.bias = a->bias;
        x.add = a->epilogue == LK_EP_ADD;
        return launch_format(x, w->format, 1, stream);
    }
    int e = lk_cuda_linear_sums(a, w, scratch, stream);
    return e ? e : lk_cuda_linear_finish(a, scratch, w->format == LK_W_F32 ? LK_F32 : LK_BF16, stream);
}

int lk_cuda_grouped(const struct lk_grouped *a, void *stream)
{
    linear_args x = {};
    x.a = (const uint16_t *)a->a;
    x.w_of = a->w;
    x.k = x.packed[1] = a->k;
    x.n_row = a->n_row;
    x.n_out = a->n_out;
    x.y = a->y;
    x.y_ld = a->n_out;
    x.tile_group = a->tile_group;
    x.tile_row = a->tile_row;
    x.n_tile = a->n_tile;
    x.row_begin = a->row_begin;
    x.row_of = a->row_of;
    return launch<LK_W_BF16, LK_GROUP_TILE, 64, 16, 32, 4>(x, "linear<0, 32, 64, 16, 32, 4>", 1, stream);
}
