/* Attention over pages by a tile of rows: R * 16 rows (a row is a query head of a token), each 16 of them by C warps
 * that share out the positions of a score and the dimensions of V, at most NT * 8 dimensions a warp. Which R and C
 * computes a row changes none of its bits: a score sums head_dim in steps of 16, the softmax sees a page's 32 scores in
 * one arrangement of lanes, and an output sums positions in steps of 16. */
#ifndef KERNELS_CUDA_ATTEND_H
#define KERNELS_CUDA_ATTEND_H

#include "kernels/cuda/cuda_cols.cuh"
#include "kernels/cuda/lk_cuda_attend.h"

#define PAGE LK_PAGE_TOKENS
#define SPLIT_PAGES (LK_SPLIT_TOKENS / LK_PAGE_TOKENS)
#define SCORE_LD (PAGE + 4) /* floats from row to row of exchanged scores */
#define SLACK 8             /* binary digits */
#define STATE_HEAD 4        /* floats before a state's dimensions: maximum, sum, two unused */

struct attend_args {
    lk_rows out;
    int64_t out_head_bytes;
    const uint16_t *q;
    lk_kv kv;
    const lk_attn_work *item;
    const lk_attn_row *row;
    const int32_t *pos, *page_start, *page;
    float *state; /* [slot, n_head, STATE_HEAD + v_dim] */
    int64_t n_head, window;
    float scale;              /* with log2(e): exponentials are powers of two */
    int n_buf, n_chunk, q_ld; /* buffers of a page; blocks a KV head; elements from row to row of Q and K */
    int group;                /* query heads a KV head */
};

/* A running softmax in base 2. */
struct soft {
    float max, sum;
};

/* Positions that a row sees; all of them where the row does not exist, whose result goes nowhere. */
struct span {
    int from, last;
};

/* A row of a block. */
struct seen {
    int tok, head, slot; /* tok -1: it does not exist */
    span at;
};

static __device__ __forceinline__ span span_of(const attend_args &a, int tok)
{
    int last = a.pos[tok];
    return {a.window > 0 && last >= a.window ? (int)(last - a.window + 1) : 0, last};
}

static __device__ __forceinline__ float *state_of(const attend_args &a, const seen &s, int split)
{
    return a.state + ((int64_t)(s.slot + split) * a.n_head + s.head) * (STATE_HEAD + a.kv.v_dim);
}

/* Factors of two softmaxes in their sum; all becomes that sum. */
static __device__ __forceinline__ float2 merge_soft(soft *all, const soft &one)
{
    float max = fmaxf(all->max, one.max);
    float2 f = {lk_exp2(all->max - max), lk_exp2(one.max - max)};
    all->max = max;
    all->sum = all->sum * f.x + one.sum * f.y;
    return f;
}

static __device__ __forceinline__ float merge_out(float all, float one, float2 f)
{
    return all * f.x + one * f.y;
}

/* Two neighboring dimensions of a head's output, rounded; with a segment's last ones its zero columns. */
static __device__ __forceinline__ void put_out(const attend_args &a, int tok, int head, int dim, float x, float y)
{
    const lk_cols &c = a.out.cols;
    int64_t col = dim + (a.out_head_bytes > 0 ? 0 : head * a.kv.v_dim);
    int s = 0;
    while (col >= c.begin[s + 1])
        s++;
    uint16_t *to = (uint16_t *)((uint8_t *)a.out.data + head * a.out_head_bytes) + tok * lk_packed(c);
    int64_t at = c.packed[s] + col - c.begin[s];
    lk_put2(to, at, x, y);
    if (col + 2 == c.begin[s + 1])
        for (at += 2; at < c.packed[s + 1]; at += 2)
            lk_put2(to, at, 0, 0);
}

/* Two rows of a page's scores as a warp holds them: tile t, columns 8t + 2 * (lane % 4) and the next, of row lane / 4
 * in elements 0 and 1, of the row 8 below in 2 and 3. */
struct scores {
    float x[4][4];
};

/* A warp's 16 rows of Q. */
template <int NS> static __device__ __forceinline__ void load_queries(uint32_t fq[NS][4], const uint16_t *q)
{
    constexpr int LD = NS * 16 + 8;
    q += lk_lane() % 16 * LD + lk_lane() / 16 * 8;
#pragma unroll
    for (int step = 0; step < NS; step++)
        lk_ldmatrix4(fq[step], q + step * 16);
}

/* Scores of a page: Q in registers times K, in steps of 16 dimensions. */
template <int NS>
static __device__ __forceinline__ void score_tiles(float s[4][4], const uint32_t (*fq)[4], const uint16_t *k)
{
    constexpr int LD = NS * 16 + 8;
    int lane = lk_lane();
    k += (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < 16; i++)
        s[i / 4][i % 4] = 0;
#pragma unroll
    for (int step = 0; step < NS; step++) {
#pragma unroll
        for (int t = 0; t < 4; t += 2) {
            uint32_t fk[4];
            lk_ldmatrix4(fk, k + t * 8 * LD + step * 16);
            lk_mma(s[t], fq[step], fk);
            lk_mma(s[t + 1], fq[step], fk + 2);
        }
    }
}

/* N neighboring tiles of 8 positions: Q in shared memory times K. */
template <int N>
static __device__ __forceinline__ void score_any(float s[N][4], const uint16_t *q, const uint16_t *k, int ld,
                                                 int n_step)
{
    int lane = lk_lane();
    q += lane % 16 * ld + lane / 16 * 8;
    k += (N == 1 ? lane % 8 : lane % 8 + lane / 16 * 8) * ld + lane / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
        s[i / 4][i % 4] = 0;
#pragma unroll 1
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

/* o += p V and sum += p, in steps of 16 positions; v: the warp's first dimension. */
template <int NT>
static __device__ __forceinline__ void add_values(float o[NT][4], float sum[4], const scores &p, const uint16_t *v,
                                                  int ld)
{
    int lane = lk_lane();
    v += (lane % 8 + lane / 8 % 2 * 8) * ld + lane / 16 * 8;
    const uint32_t ones[2] = {0x3f803f80, 0x3f803f80};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float(*x)[4] = p.x + 2 * half;
        uint32_t fp[4] = {lk_pack2(x[0][0], x[0][1]), lk_pack2(x[0][2], x[0][3]), lk_pack2(x[1][0], x[1][1]),
                          lk_pack2(x[1][2], x[1][3])};
#pragma unroll
        for (int t = 0; t < NT; t += 2) {
            uint32_t fv[4];
            lk_ldmatrix4_t(fv, v + half * 16 * ld + t * 8);
            lk_mma(o[t], fp, fv);
            lk_mma(o[t + 1], fp, fv + 2);
        }
        lk_mma(sum, fp, ones);
    }
}

/* Scores of positions that a row does not see become -infinity. */
static __device__ __forceinline__ void mask(const span row[2], int begin, scores *s)
{
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int at = begin + i / 4 * 8 + lk_lane() % 4 * 2 + i % 2;
        const span &r = row[i / 2 % 2];
        s->x[i / 4][i % 4] = at >= r.from && at <= r.last ? s->x[i / 4][i % 4] : -INFINITY;
    }
}

/* Makes probabilities of scores; returns what the rows' sums so far shrink by. A row's reference follows its maximum
 * when that has grown by more than SLACK: below, probabilities are at most 2^SLACK, and rounding is as fine as ever. */
static __device__ __forceinline__ float2 soften(float scale, scores *s, float max[2])
{
    float shrink[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < 8; i++)
            top = fmaxf(top, s->x[i / 2][2 * h + i % 2]);
        top = fmaxf(top, lk_shuffle_f32(top, lk_lane() ^ 1));
        top = fmaxf(top, lk_shuffle_f32(top, lk_lane() ^ 2)) * scale;
        bool grows = top > max[h] + SLACK;
        shrink[h] = grows ? lk_exp2(max[h] - top) : 1;
        max[h] = grows ? top : max[h];
        float base = max[h] == -INFINITY ? 0 : -max[h]; /* a row that sees nothing yet */
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float *x = &s->x[i / 2][2 * h + i % 2];
            *x = lk_exp2(fmaf(*x, scale, base));
        }
    }
    return {shrink[0], shrink[1]};
}

#endif
