/* Small arithmetic over columns, segments and bf16 that every set shares. */
#ifndef KERNELS_CPU_LK_COLS_H
#define KERNELS_CPU_LK_COLS_H

#include <stdbool.h>
#include <string.h>

#include "kernels/args.h"

static inline int64_t lk_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t lk_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static inline uint32_t lk_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float lk_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float lk_widen(uint16_t b)
{
    return lk_float((uint32_t)b << 16);
}

/* Nearest even; a NaN stays one and becomes quiet; subnormals are kept. */
static inline uint16_t lk_round(float x)
{
    uint32_t u = lk_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* Packed columns of an operand. */
static inline int64_t lk_cols_packed(const struct lk_cols *c)
{
    return c->packed[c->n_seg];
}

/* The segment that holds source column `col`, col < n_col. */
static inline int lk_cols_seg(const struct lk_cols *c, int64_t col)
{
    int s = 0;
    while (col >= c->begin[s + 1])
        s++;
    return s;
}

/* Whether the segments' sums are added as a balanced tree: s with s + 1, then pairs of those. */
static inline bool lk_cols_balanced(const struct lk_cols *c)
{
    return (c->n_seg & (c->n_seg - 1)) == 0;
}

/* The first position that a token at `pos` sees; window 0: all. */
static inline int64_t lk_window_begin(int64_t window, int64_t pos)
{
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

/* Where a head's attention output goes: to source columns *col ... of what is returned. */
static inline struct lk_act lk_head_out(const struct lk_attend *a, int64_t head, int64_t *col)
{
    struct lk_act out = a->out;
    *col = a->out_head_bytes > 0 ? 0 : head * a->kv.v_dim;
    out.data = (char *)out.data + head * a->out_head_bytes;
    return out;
}

/* The second cache's size, and what most have where it is unknown. */
static inline int64_t lk_l2_size(int64_t l2_bytes)
{
    return l2_bytes > 0 ? l2_bytes : 1 << 20;
}

/* Activation panels that an item takes, of panel_bytes each: they stay in 3/8 of the second cache, the weights beside
 * them; unless that were fewer than `least`, which a weight panel must meet to be worth reading. */
static inline int64_t lk_chunk_panels(int64_t l2_bytes, int64_t panel_bytes, int64_t least)
{
    int64_t most = lk_l2_size(l2_bytes) * 3 / 8 / (panel_bytes > 0 ? panel_bytes : 1);
    return most < least ? least : most;
}

#endif
