/* Bounds of what int8 makes of products (args_int8.h): plain loops that each set's compiler flags make vectors of. */
#ifndef KERNELS_CPU_LK_SCREEN_H
#define KERNELS_CPU_LK_SCREEN_H

#include "kernels/cpu/lk_int8.h"

/* Sums of squares by lane; the latter two of mixed numbers, which are eight times as large. */
struct lk_norm_sums {
    LK_EIGHT exact, whole, error;
    bool finite;
};

/* n columns, a segment. */
LK_INLINE void lk_norm_segment(const char *row, const enum lk_type type, int64_t n, struct lk_norm_sums *s)
{
    LK_EIGHT x[LK_NORM_COLS / 8], exact = s->exact, whole = s->whole, error = s->error;
    LK_EIGHT_INT most = {0};
    int64_t n_block = lk_ceil_div(n, LK_INT8_BLOCK);
    for (int64_t b = 0; b < n_block; b++) {
        LK_EIGHT *v = x + 8 * b;
        int64_t k = b * LK_INT8_BLOCK;
        lk_int8_load(row + k * (type == LK_F32 ? 4 : 2), type, n - k, v);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            exact += v[i] * v[i];
        lk_int8_mix(v);
        lk_int8_most(v, &most);
    }
    struct lk_int8_scale scale = lk_int8_scale_of_lanes(&most);
    for (int64_t i = 0; i < 8 * n_block; i++) {
        LK_EIGHT q = ((x[i] * scale.inverse + 0x1.8p23f) - 0x1.8p23f) * scale.s, rest = x[i] - q;
        whole += q * q;
        error += rest * rest;
    }
    *s = (struct lk_norm_sums){exact, whole, error, s->finite && scale.s == scale.s};
}

LK_INLINE float lk_norm_of(const LK_EIGHT *sum)
{
    float all = 0;
    for (int j = 0; j < 8; j++)
        all += (*sum)[j];
    return sqrtf(all);
}

/* Upper bounds. A sum of n squares in eight parts is off by n / 8 roundings, less than 2^-10 of it. The transform's six
 * stages, a scale's and its inverse's rounding, and two or three operations on a sum: less than 2^-19 of the row. An
 * exact product is off by a rounding a column at most, 2^-24 of what it has summed, relative to both norms; the same
 * again for the one in int8. Squares of numbers below 2^-63 may vanish: less than 2^-50 in all. */
LK_INLINE void lk_norms(const void *row, enum lk_type type, const struct lk_cols *c, struct lk_int8_norms *out)
{
    struct lk_norm_sums sums = {.finite = true};
    for (int s = 0; s < c->n_seg; s++) {
        int64_t n = c->begin[s + 1] - c->begin[s];
        if (type == LK_F32)
            lk_norm_segment((const char *)row + 4 * c->begin[s], LK_F32, n, &sums);
        else
            lk_norm_segment((const char *)row + 2 * c->begin[s], LK_BF16, n, &sums);
    }
    const float up = 1.0f + 0x1p-9f, n = (float)c->n_col + 64.0f;
    out->exact = lk_norm_of(&sums.exact) * up + 0x1p-50f;
    out->whole = lk_norm_of(&sums.whole) * (up / 8) + 0x1p-50f;
    out->error = lk_norm_of(&sums.error) * (up / 8) + out->exact * (0x1p-18f + n * 0x1p-23f) + 0x1p-50f;
    if (!sums.finite || !(out->exact < 0x1p100f))
        *out = (struct lk_int8_norms){INFINITY, INFINITY, INFINITY};
}

#define LK_SCREEN_GROUP 64

LK_INLINE LK_EIGHT lk_eight(const float *x)
{
    LK_EIGHT v;
    memcpy(&v, x, sizeof v);
    return v;
}

LK_INLINE void lk_larger(LK_EIGHT *x, LK_EIGHT y)
{
    LK_EIGHT_INT more = y > *x;
    *x = (LK_EIGHT)((more & (LK_EIGHT_INT)y) | (~more & (LK_EIGHT_INT)*x));
}

LK_INLINE float lk_largest(LK_EIGHT x)
{
    lk_larger(&x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));
    lk_larger(&x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5));
    lk_larger(&x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6));
    return x[0];
}

/* How far the exact logit of column i can be from y[i]. */
LK_INLINE float lk_screen_far(const struct lk_screen *a, int64_t i)
{
    return a->whole[i] * a->row.error + (a->error[i] * a->row.exact + 0x1p-100f);
}

#define LK_SCREEN_LANES 4 /* vectors of running bounds, so that no comparison waits for the one before it */

/* Columns at .. end - 1: raises the lower bounds, returns the largest upper one. */
LK_INLINE float lk_screen_group(const struct lk_screen *a, int64_t at, int64_t end, LK_EIGHT low[LK_SCREEN_LANES])
{
    LK_EIGHT high[LK_SCREEN_LANES];
    for (int i = 0; i < LK_SCREEN_LANES; i++)
        high[i] = (LK_EIGHT){-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (; at + 8 * LK_SCREEN_LANES <= end; at += 8 * LK_SCREEN_LANES)
#pragma GCC unroll 4
        for (int i = 0; i < LK_SCREEN_LANES; i++) {
            int64_t j = at + 8 * i;
            LK_EIGHT far = lk_eight(a->whole + j) * a->row.error + (lk_eight(a->error + j) * a->row.exact + 0x1p-100f);
            LK_EIGHT y = lk_eight(a->y + j);
            lk_larger(&high[i], y + far);
            lk_larger(&low[i], y - far);
        }
    for (; at < end; at++) {
        float far = lk_screen_far(a, at), least = a->y[at] - far, most = a->y[at] + far;
        high[0][0] = most > high[0][0] ? most : high[0][0];
        low[0][0] = least > low[0][0] ? least : low[0][0];
    }
    for (int i = 1; i < LK_SCREEN_LANES; i++)
        lk_larger(&high[0], high[i]);
    return lk_largest(high[0]);
}

/* What reaches `least`, high being the groups' upper bounds. */
static inline int64_t lk_screen_list(const struct lk_screen *a, const float *high, float least, struct lk_may *may)
{
    int64_t n = 0;
    for (int64_t at = 0; at < a->n; at += LK_SCREEN_GROUP) {
        if (high[at / LK_SCREEN_GROUP] < least)
            continue;
        for (int64_t i = at; i < lk_min(a->n, at + LK_SCREEN_GROUP); i++) {
            float most = a->y[i] + lk_screen_far(a, i);
            if (most >= least)
                may[n++] = (struct lk_may){most, a->id + (int32_t)i};
        }
    }
    return n;
}

LK_INLINE int64_t lk_screen_columns(const struct lk_screen *a, float *least, struct lk_may *may)
{
    float high[LK_SCREEN_COLS / LK_SCREEN_GROUP];
    LK_EIGHT low[LK_SCREEN_LANES];
    for (int i = 0; i < 8 * LK_SCREEN_LANES; i++)
        low[i / 8][i % 8] = *least;
    for (int64_t at = 0; at < a->n; at += LK_SCREEN_GROUP)
        high[at / LK_SCREEN_GROUP] = lk_screen_group(a, at, lk_min(a->n, at + LK_SCREEN_GROUP), low);
    for (int i = 1; i < LK_SCREEN_LANES; i++)
        lk_larger(&low[0], low[i]);
    *least = lk_largest(low[0]);
    return lk_screen_list(a, high, *least, may);
}

#endif
