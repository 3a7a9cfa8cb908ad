/* Rotary angles; rotation, rounding and the write into the cache; absorbed latents. */
#include "kernels/cuda/cuda_cols.cuh"
#include "kernels/cuda/lk_cuda.h"

#define WARPS 4 /* heads of a block */
#define THREADS (WARPS * LK_WARP)

/* ---- angles ---- */

/* The base that dynamic NTK scaling gives a sequence of `len` tokens, in float32 as transformers has it. */
static __device__ float ntk_base(const lk_rope_table &a, int32_t len)
{
    float s = (float)(len > a.max_pos ? (int64_t)len : a.max_pos);
    float ratio = (float)a.factor * s / (float)a.max_pos - (float)(a.factor - 1.0);
    double power = (double)a.n_rot / (double)(a.n_rot - 2);
    return (float)a.base * (float)pow((double)ratio, (double)(float)power);
}

/* cos and sin of an angle far below 2^31, in f64, good to 1e-11: the library's functions, in either width, keep a table
 * of bits of pi in local memory for angles that nobody has. Reduced to |r| <= pi / 4 around multiples of pi / 2. */
static __device__ double2 turn_of(double angle)
{
    double k = rint(angle * 0.63661977236758134308);
    double r = angle - k * 1.57079632679489655800 - k * 6.12323399573676603587e-17, s = r * r;
    double sine = r * (1 + s * (-1.0 / 6 + s * (1.0 / 120 + s * (-1.0 / 5040 + s * (1.0 / 362880 - s / 39916800)))));
    double cosine =
        1 + s * (-0.5 + s * (1.0 / 24 + s * (-1.0 / 720 + s * (1.0 / 40320 + s * (-1.0 / 3628800 + s / 479001600)))));
    switch ((int64_t)k & 3) {
    case 0:
        return {cosine, sine};
    case 1:
        return {-sine, cosine};
    case 2:
        return {-cosine, -sine};
    }
    return {sine, -cosine};
}

static __global__ void __launch_bounds__(THREADS) rope_table_kernel(const __grid_constant__ lk_rope_table a)
{
    int64_t t = blockIdx.x, n = a.n_rot / 2;
    float base = a.len && a.n_rot > 2 ? ntk_base(a, a.len[t]) : 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        float freq = a.inv_freq[i];
        if (base != 0)
            freq = 1.0f / (float)pow((double)base, (double)((float)(2 * i) / (float)a.n_rot));
        double2 turn = turn_of((double)(freq * (float)a.pos[t]));
        a.cos[t * n + i] = (float)turn.x * a.scale;
        a.sin[t * n + i] = (float)turn.y * a.scale;
    }
}

/* ---- Q, K, V ---- */

/* One head of a token: where dimension i comes from and what it is multiplied with. */
struct head {
    const float *x;    /* [head_dim] */
    const float *norm; /* [head_dim] or NULL */
    float inv;         /* 1 / rms, 1 without norm */
    const float *cos, *sin;
};

static __device__ __forceinline__ float normed(const head &h, int64_t i)
{
    return h.norm ? h.x[i] * h.inv * h.norm[i] : h.x[i];
}

/* Dimension i behind norm and rotation. */
static __device__ __forceinline__ float rotated(const lk_rope_kv &a, const head &h, int64_t i)
{
    int64_t half = a.n_rot / 2;
    if (i >= 2 * half)
        return normed(h, i);
    int64_t j = a.interleaved ? i / 2 : i % half;
    float x = normed(h, a.interleaved ? 2 * j : j), y = normed(h, a.interleaved ? 2 * j + 1 : j + half);
    bool first = a.interleaved ? i % 2 == 0 : i < half;
    return first ? x * h.cos[j] - y * h.sin[j] : y * h.cos[j] + x * h.sin[j];
}

/* A warp takes a head: those of Q, then of K, then of V. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) rope_kv_kernel(const __grid_constant__ lk_rope_kv a)
{
    int64_t t = blockIdx.x, ih = (int64_t)blockIdx.y * WARPS + lk_warp();
    int64_t head_dim = a.kv.head_dim, v_dim = a.kv.v_dim, n_kv = a.kv.n_kv_head, n_qk = a.n_head + n_kv;
    if (ih >= n_qk + n_kv)
        return;
    const float *x = a.qkv + t * (n_qk * head_dim + n_kv * v_dim);
    int64_t slot = a.pos[t] % LK_PAGE_TOKENS;
    if (ih >= n_qk) {
        const float *v = x + n_qk * head_dim + (ih - n_qk) * v_dim;
        T *to = (T *)(a.kv.v + (a.page[t] * n_kv + ih - n_qk) * a.kv.v_page_bytes) + slot * v_dim;
        for (int64_t i = 2 * lk_lane(); i < v_dim; i += 2 * LK_WARP)
            lk_put2(to, i, v[i], v[i + 1]);
        return;
    }
    bool is_q = ih < a.n_head;
    head h = {x + ih * head_dim, is_q ? a.q_norm : a.k_norm, 1, a.cos + t * (a.n_rot / 2), a.sin + t * (a.n_rot / 2)};
    if (h.norm) {
        float sum = 0;
        for (int64_t i = lk_lane(); i < head_dim; i += LK_WARP)
            sum += h.x[i] * h.x[i];
        h.inv = 1.0f / sqrtf(lk_warp_sum(sum) / (float)head_dim + a.eps);
    }
    T *to = is_q ? (T *)a.q + (t * a.n_head + ih) * head_dim
                 : (T *)(a.kv.k + (a.page[t] * n_kv + ih - a.n_head) * a.kv.k_page_bytes) + slot * head_dim;
    for (int64_t i = 2 * lk_lane(); i < head_dim; i += 2 * LK_WARP)
        lk_put2(to, i, rotated(a, h, i), rotated(a, h, i + 1));
}

/* ---- latents ---- */

static __global__ void __launch_bounds__(THREADS) latent_kernel(const __grid_constant__ lk_latent a)
{
    int64_t t = blockIdx.x, n_q = a.nope_dim + a.n_rot, width = a.n_rot + a.kv_rank;
    const float *kv = a.kv + t * width;
    float *to = a.qkv + t * ((a.n_head + 1) * width + a.kv_rank), *k = to + a.n_head * width, sum = 0;
    for (int64_t i = threadIdx.x; i < a.n_head * a.n_rot; i += THREADS) {
        int64_t ih = i / a.n_rot, d = i % a.n_rot;
        to[ih * width + d] = a.q[(t * a.n_head + ih) * n_q + a.nope_dim + d];
    }
    for (int64_t i = threadIdx.x; i < a.n_rot; i += THREADS)
        k[i] = kv[a.kv_rank + i];
    for (int64_t i = threadIdx.x; i < a.kv_rank; i += THREADS)
        sum += kv[i] * kv[i];
    float inv = 1.0f / sqrtf(lk_block_sum(sum, (float *)lk_smem()) / (float)a.kv_rank + a.eps);
    for (int64_t i = threadIdx.x; i < a.kv_rank; i += THREADS)
        k[a.n_rot + i] = k[width + i] = kv[i] * inv * a.w[i];
}

/* ---- launches ---- */

int lk_cuda_rope_table(const struct lk_rope_table *a, void *stream)
{
    lk_shape s = {"rope_table", dim3((unsigned)a->n_tok), THREADS, 0, stream};
    return lk_launch(rope_table_kernel, s, *a);
}

int lk_cuda_rope_kv(const struct lk_rope_kv *a, enum lk_type type, void *stream)
{
    dim3 grid((unsigned)a->n_tok, (unsigned)lk_blocks(a->n_head + 2 * a->kv.n_kv_head, WARPS));
    lk_shape s = {"rope_kv", grid, THREADS, 0, stream};
    return lk_launch(type == LK_F32 ? rope_kv_kernel<float> : rope_kv_kernel<uint16_t>, s, *a);
}

int lk_cuda_latent(const struct lk_latent *a, void *stream)
{
    lk_shape s = {"latent", dim3((unsigned)a->n_tok), THREADS, WARPS * sizeof(float), stream};
    return lk_launch(latent_kernel, s, *a);
}
