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

/* Numbers at .. at + 7 of x. */
LK_INLINE void lk_lora_take(LK_LORA_EIGHT *to, const void *x, int64_t at, const enum lk_type type)
{
    if (type == LK_F32) {
        memcpy(to, (const float *)x + at, sizeof *to);
        return;
    }
    __attribute__((vector_size(16))) uint16_t half;
    memcpy(&half, (const uint16_t *)x + at, sizeof half);
    __attribute__((vector_size(32))) uint32_t word =
        __builtin_convertvector(half, __attribute__((vector_size(32))) uint32_t) << 16;
    memcpy(to, &word, sizeof *to);
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
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++) {
#pragma GCC unroll 2
                for (int n = 0; n < N; n++) {
                    LK_LORA_EIGHT w;
                    lk_lora_take(&w, p->a, (k + i + c) * p->n_u + j + 8 * n, type);
                    sum[c][n] += x[i + c] * w;
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
        for (int q = 0; q < t->n_strip; q++, v += LK_LORA_STRIP) {
            const struct lk_lora_strip *strip = &p->strip[l->strip + t->strip + q];
            if (strip->n == 0)
                continue;
            LK_LORA_EIGHT sum = {0}, w;
            for (int j = 0; j < strip->n; j++) {
                lk_lora_take(&w, p->b, strip->at + (int64_t)j * LK_LORA_STRIP, type);
                sum += u[strip->begin + j] * w;
            }
            memcpy(&w, v, sizeof w);
            w += sum;
            memcpy(v, &w, sizeof w);
        }
    }
}

#endif
