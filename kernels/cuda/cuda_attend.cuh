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
    float scale;                    /* with log2(e): exponentials are powers of two */
    int n_buf, n_chunk, q_ld, v_ld; /* buffers of a page; blocks a KV head; elements from row to row */
};

/* A running softmax in base 2. */
struct soft {
    float max, sum;
};

/* What a thread knows of one of its two rows. */
struct seen {
    int tok, head, slot;
    int from, last; /* positions; nothing where the row does not exist */
};

static __device__ __forceinline__ bool sees(const seen &s, int begin, int end)
{
    return s.from < end && s.last >= begin;
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

/* Makes probabilities of scores; returns what the rows' sums so far shrink by. */
static __device__ __forceinline__ float2 soften(const attend_args &a, const seen row[2], int begin, scores *s,
                                                soft o[2])
{
    float shrink[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float max = -INFINITY, sum = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int at = begin + i / 2 * 8 + lk_lane() % 4 * 2 + i % 2;
            float *x = &s->x[i / 2][2 * h + i % 2];
            *x = at >= row[h].from && at <= row[h].last ? *x * a.scale : -INFINITY;
            max = fmaxf(max, *x);
        }
        max = fmaxf(max, lk_shuffle_f32(max, lk_lane() ^ 1));
        max = fmaxf(max, lk_shuffle_f32(max, lk_lane() ^ 2));
        max = fmaxf(max, o[h].max);
        shrink[h] = max > o[h].max ? lk_exp2(o[h].max - max) : 1;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int at = begin + i / 2 * 8 + lk_lane() % 4 * 2 + i % 2;
            float *x = &s->x[i / 2][2 * h + i % 2];
            *x = at >= row[h].from && at <= row[h].last ? lk_widen(lk_bf16(lk_exp2(*x - max))) : 0;
            sum += *x;
        }
        sum += lk_shuffle_f32(sum, lk_lane() ^ 1);
        sum += lk_shuffle_f32(sum, lk_lane() ^ 2);
        o[h].max = max;
        o[h].sum = o[h].sum * shrink[h] + sum;
    }
    return {shrink[0], shrink[1]};
}

#endif
