/* What adapters add to a product (kernels/args_lora.h), compiled by each set for its own instructions. Vectors of eight
 * f32, multiplied and added apart. */
#ifndef KERNELS_CPU_LK_LORA_H
#define KERNELS_CPU_LK_LORA_H

#include "kernels/cpu/lk_set.h"

#define LK_LORA_EIGHT __attribute__((vector_size(32))) float

/* A row of packed activations: where it begins and what it takes to go on, in the set's own terms. */
struct lk_lora_row {
    const void *at;
    int64_t step;
};

/* Numbers j .. j + 7 of rows i and i + 1, i even, of a matrix as struct lk_lora_pair has it, n numbers wide. */
LK_INLINE void lk_lora_take(LK_LORA_EIGHT row[2], const void *x, int64_t at, int64_t n, const enum lk_type type)
{
    if (type == LK_F32) {
        memcpy(&row[0], (const float *)x + at, sizeof row[0]);
        memcpy(&row[1], (const float *)x + at + n, sizeof row[1]);
        return;
    }
    __attribute__((vector_size(32))) uint32_t word, low, high;
    memcpy(&word, (const uint16_t *)x + at, sizeof word);
    low = word << 16;
    high = word & 0xffff0000u;
    memcpy(&row[0], &low, sizeof low);
    memcpy(&row[1], &high, sizeof high);
}

/* One row against one adapter in one segment: packed columns begin .. end - 1. */
struct lk_lora_segment {
    const struct lk_lora_pair *pair;
    struct lk_lora_row row;
    int64_t begin, end;
    float *u; /* out: [pair->n_u] */
};

/* N times eight numbers of u from number j on. */
LK_INLINE void lk_lora_sums(const int N, const struct lk_lora_segment *t, int64_t j,
                            void (*read)(const struct lk_lora_row *, int64_t, float[32]), const enum lk_type type)
{
    const struct lk_lora_pair *p = t->pair;
    LK_LORA_EIGHT sum[4][2] = {0};
    for (int64_t k = t->begin; k < t->end; k += 32) {
        float x[32];
        read(&t->row, k, x);
        for (int i = 0; i < 32; i += 4) {
#pragma GCC unroll 2
            for (int c = 0; c < 4; c += 2) {
#pragma GCC unroll 2
                for (int n = 0; n < N; n++) {
                    LK_LORA_EIGHT w[2];
                    lk_lora_take(w, p->a, lk_lora_at(type, p->n_u, k + i + c, j + 8 * n), p->n_u, type);
                    sum[c][n] += x[i + c] * w[0];
                    sum[c + 1][n] += x[i + c + 1] * w[1];
                }
            }
        }
    }
    for (int n = 0; n < N; n++) {
        LK_LORA_EIGHT scale, all = (sum[0][n] + sum[1][n]) + (sum[2][n] + sum[3][n]);
        memcpy(&scale, p->scale + j + 8 * n, sizeof scale);
        all *= scale;
        memcpy(t->u + j + 8 * n, &all, sizeof all);
    }
}

/* row_of finds a row, read gives its packed columns k .. k + 31 as f32. */
LK_INLINE void lk_lora_down_rows(const struct lk_lora_down *a, int64_t begin, int64_t end,
                                 struct lk_lora_row (*row_of)(const struct lk_act *, int64_t),
                                 void (*read)(const struct lk_lora_row *, int64_t, float[32]), const enum lk_type type)
{
    const struct lk_cols *c = a->a.cols;
    for (int64_t i = begin; i < end; i++) {
        int32_t row = a->row[i];
        const struct lk_lora_pair *p = &a->lora.pair[a->lora.of_row[row]];
        struct lk_lora_segment t = {.pair = p, .row = row_of(&a->a, row), .u = a->lora.u + row * a->lora.u_ld};
        for (int s = 0; s < c->n_seg; s++, t.u += p->n_u) {
            int64_t j = 0;
            t.begin = c->packed[s];
            t.end = c->packed[s + 1];
            for (; j + 16 <= p->n_u; j += 16)
                lk_lora_sums(2, &t, j, read, type);
            if (j < p->n_u)
                lk_lora_sums(1, &t, j, read, type);
        }
    }
}

/* Sums of a tile: r rows from `row` on by n_strip strips of columns from `strip` on, rows one behind the other. */
struct lk_lora_tile {
    float *v;
    int64_t row, strip;
    int r, n_strip;
};

/* Adds to N strips' sums; all take the same numbers of u, n of them. Two sums a strip, and as many strips together as
 * there are, hide the additions' latency. */
LK_INLINE void lk_lora_strips(const int N, const struct lk_lora_strip *strip, const void *b, const float *u, float *v,
                              const enum lk_type type)
{
    LK_LORA_EIGHT even[4] = {0}, odd[4] = {0}, w[2];
    u += strip->begin;
    for (int j = 0; j < strip->n; j += 2) {
        bool both = j + 1 < strip->n;
#pragma GCC unroll 4
        for (int q = 0; q < N; q++) {
            lk_lora_take(w, b, strip[q].at + (int64_t)j * LK_LORA_STRIP, LK_LORA_STRIP, type);
            even[q] += u[j] * w[0];
            if (both)
                odd[q] += u[j + 1] * w[1];
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < N; q++, v += LK_LORA_STRIP) {
        memcpy(&w[0], v, sizeof w[0]);
        w[0] += even[q] + odd[q];
        memcpy(v, &w[0], sizeof w[0]);
    }
}

/* Strips from this one on, up to `most`, that take the same numbers of u. */
static inline int lk_lora_alike(const struct lk_lora_strip *strip, int most)
{
    int n = 1;
    while (n < most && strip[n].begin == strip->begin && strip[n].n == strip->n)
        n++;
    return n;
}

/* Adds B u_s of each of the tile's rows to its sums of segment s. Not inlined: it stands beside the product's inner
 * loop, which keeps its registers. */
__attribute__((noinline, unused)) static void lk_lora_leaf(const struct lk_lora *l, int s, const struct lk_lora_tile *t,
                                                           const enum lk_type type)
{
    for (int i = 0; i < t->r; i++) {
        int32_t of = l->of_row[t->row + i];
        const struct lk_lora_pair *p = of < 0 ? NULL : &l->pair[of];
        if (!p || p->n_u == 0)
            continue;
        const float *u = l->u + (t->row + i) * l->u_ld + (int64_t)s * p->n_u;
        float *v = t->v + (int64_t)i * t->n_strip * LK_LORA_STRIP;
        const struct lk_lora_strip *strip = p->strip + l->strip + t->strip;
        for (int q = 0; q < t->n_strip;) {
            int n = lk_lora_alike(strip + q, t->n_strip - q);
            n = n >= 4 ? 4 : n >= 2 ? 2 : 1;
            if (strip[q].n == 0)
                n = 1;
            else if (n == 4)
                lk_lora_strips(4, strip + q, p->b, u, v + q * LK_LORA_STRIP, type);
            else if (n == 2)
                lk_lora_strips(2, strip + q, p->b, u, v + q * LK_LORA_STRIP, type);
            else
                lk_lora_strips(1, strip + q, p->b, u, v + q * LK_LORA_STRIP, type);
            q += n;
        }
    }
}

#endif
