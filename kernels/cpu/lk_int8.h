/* What the sets' int8 products share: scales, the packing of weights, where scales lie. */
#ifndef KERNELS_CPU_LK_INT8_H
#define KERNELS_CPU_LK_INT8_H

#include <math.h>

#include "kernels/args_int8.h"
#include "kernels/cpu/lk_panels.h"
#include "kernels/cpu/lk_set.h"

/* A set's order of weights. A panel's numbers are followed by its scales, f32 [n_seg, panel], and with `corrected` by
 * what sums have to begin with where activations are stored with 128 added: -128 times the sum of q over the segment,
 * int32 [n_seg, panel]. */
struct lk_int8_order {
    int panel;      /* output columns */
    int run;        /* columns of K that lie side by side */
    bool corrected; /* whether they are there */
    /* Where (k, j) is, k a multiple of `run`, counted from the segment's first block. */
    int64_t (*at)(int64_t k, int64_t j);
};

#define LK_EIGHT __attribute__((vector_size(32))) float

/* Mixes a block. The first three stages pair numbers of one vector: each is added to its partner, the second of a pair
 * with its sign turned. */
LK_INLINE void lk_int8_mix(LK_EIGHT x[8])
{
    const LK_EIGHT sign1 = {1, -1, 1, -1, 1, -1, 1, -1}, sign2 = {1, 1, -1, -1, 1, 1, -1, -1};
    const LK_EIGHT sign4 = {1, 1, 1, 1, -1, -1, -1, -1};
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        x[i] = __builtin_shufflevector(x[i], x[i], 1, 0, 3, 2, 5, 4, 7, 6) + x[i] * sign1;
        x[i] = __builtin_shufflevector(x[i], x[i], 2, 3, 0, 1, 6, 7, 4, 5) + x[i] * sign2;
        x[i] = __builtin_shufflevector(x[i], x[i], 4, 5, 6, 7, 0, 1, 2, 3) + x[i] * sign4;
    }
#pragma GCC unroll 3
    for (int h = 1; h < 8; h *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            if (i & h)
                continue;
            LK_EIGHT u = x[i], v = x[i + h];
            x[i] = u + v;
            x[i + h] = u - v;
        }
    }
}

struct lk_int8_scale {
    float s, inverse;
};

/* most: the bits of the largest |x|. */
static inline struct lk_int8_scale lk_int8_scale_of(uint32_t most)
{
    float m = lk_float(most);
    if (most >= 0x7f800000u)
        return (struct lk_int8_scale){NAN, 0};
    if (m < 0x1p-120f)
        return (struct lk_int8_scale){0, 0};
    return (struct lk_int8_scale){m / 127.0f, 127.0f / m};
}

static inline uint32_t lk_int8_more(uint32_t most, float x)
{
    uint32_t size = lk_bits(x) & 0x7fffffffu;
    return size > most ? size : most;
}

/* |x * inverse| <= 127.5; the number that a NaN gives is not looked at. Behind 2^23 floats are whole numbers. */
static inline int8_t lk_int8_of(float x, float inverse)
{
    return (int8_t)(uint8_t)(lk_bits(x * inverse + 0x1.8p23f) & 0xffu);
}

/* Columns of segment s in whole blocks, of those before it, and of all. */
static inline int64_t lk_int8_width(const struct lk_cols *c, int s)
{
    return lk_ceil_div(c->packed[s + 1] - c->packed[s], LK_INT8_BLOCK) * LK_INT8_BLOCK;
}

static inline int64_t lk_int8_begin(const struct lk_cols *c, int s)
{
    int64_t sum = 0;
    for (int i = 0; i < s; i++)
        sum += lk_int8_width(c, i);
    return sum;
}

static inline int64_t lk_int8_cols(const struct lk_cols *c)
{
    return lk_int8_begin(c, c->n_seg);
}

/* Bytes of activations of so many bytes a number. */
static inline size_t lk_int8_act_bytes(int64_t n_row, const struct lk_cols *c, size_t each)
{
    return (size_t)n_row * ((size_t)lk_int8_cols(c) * each + (size_t)c->n_seg * sizeof(float));
}

/* Bytes of a panel. */
static inline int64_t lk_int8_panel_bytes(const struct lk_cols *c, const struct lk_int8_order *o)
{
    return o->panel * (lk_int8_cols(c) + (int64_t)sizeof(float) * c->n_seg * (1 + o->corrected));
}

static inline size_t lk_int8_weight_bytes(int64_t n_out, const struct lk_cols *c, const struct lk_int8_order *o)
{
    return (size_t)(lk_ceil_div(n_out, o->panel) * lk_int8_panel_bytes(c, o));
}

/* How the sets with one register tile cut the work: items are chunks of activation panels by weight panels, the latter
 * running fastest. A chunk has CHUNK panels at least, where there are so many. */
#define LK_INT8_CHUNK 16

struct lk_int8_plan {
    struct lk_panels rows;
    int64_t n_panel, n_chunk;
};

/* Panels of at most `rows` rows, of `each` bytes a number. */
static inline struct lk_int8_plan lk_int8_plan_of(const struct lk_linear *a, const struct lk_int8_order *o, int rows,
                                                  int each)
{
    struct lk_int8_plan p = {.rows = lk_panels_of(a->a.n_row, rows), .n_panel = lk_ceil_div(a->n_out, o->panel)};
    int64_t most = lk_chunk_panels(a->l2_bytes, rows * each * lk_int8_cols(a->a.cols), LK_INT8_CHUNK);
    p.n_chunk = lk_ceil_div(p.rows.n, most);
    return p;
}

/* An item: activation panels first .. last - 1 against weight panel `panel`, `next` being read after it. */
struct lk_int8_item {
    int64_t first, last, panel, next;
};

/* Of the call that goes up to `end`. */
static inline struct lk_int8_item lk_int8_item_of(const struct lk_linear *a, const struct lk_int8_plan *p, int64_t item,
                                                  int64_t end)
{
    int64_t chunk = item / p->n_panel, after = item + 1 + (item + 1 < end ? 0 : a->skip_items);
    return (struct lk_int8_item){p->rows.n * chunk / p->n_chunk, p->rows.n * (chunk + 1) / p->n_chunk,
                                 item % p->n_panel, after % p->n_panel};
}

/* Columns k .. k + 63 of source row j, of which n exist, mixed. */
static inline void lk_int8_source(const struct lk_pack *a, int j, int64_t k, int64_t n, float x[LK_INT8_BLOCK])
{
    const char *row = a->row[j];
    memset(x, 0, LK_INT8_BLOCK * sizeof *x);
    if (!row || n <= 0)
        return;
    if (a->type == LK_F32) {
        memcpy(x, row + 4 * k, (size_t)lk_min(n, LK_INT8_BLOCK) * sizeof *x);
    } else {
        uint16_t half[LK_INT8_BLOCK] = {0};
        memcpy(half, row + 2 * k, (size_t)lk_min(n, LK_INT8_BLOCK) * sizeof *half);
        for (int i = 0; i < LK_INT8_BLOCK; i++)
            x[i] = lk_widen(half[i]);
    }
    LK_EIGHT v[8];
    memcpy(v, x, sizeof v);
    lk_int8_mix(v);
    memcpy(x, v, sizeof v);
}

static inline struct lk_int8_scale lk_int8_source_scale(const struct lk_pack *a, int j, int64_t begin, int64_t end)
{
    uint32_t most = 0;
    float x[LK_INT8_BLOCK];
    for (int64_t k = begin; k < end; k += LK_INT8_BLOCK) {
        lk_int8_source(a, j, k, end - k, x);
        for (int i = 0; i < LK_INT8_BLOCK; i++)
            most = lk_int8_more(most, x[i]);
    }
    return lk_int8_scale_of(most);
}

#define LK_INT8_PANEL 32 /* of any set, at most */

/* Segment s of a panel at `w`, its scales at `scale`, what corrects its sums to `begin`. */
LK_INLINE void lk_int8_pack_segment(const struct lk_pack *a, const struct lk_int8_order *o, int s, int8_t *w,
                                    float *scale, int32_t begin[LK_INT8_PANEL])
{
    const struct lk_cols *c = a->cols;
    float inverse[LK_INT8_PANEL];
    for (int j = 0; j < o->panel; j++) {
        struct lk_int8_scale of = lk_int8_source_scale(a, j, c->begin[s], c->begin[s + 1]);
        scale[j] = of.s / LK_INT8_BLOCK;
        inverse[j] = of.inverse;
        begin[j] = 0;
    }
    int64_t width = lk_int8_width(c, s);
    for (int64_t at = 0; at < width; at += LK_INT8_BLOCK) {
        int8_t q[LK_INT8_PANEL][LK_INT8_BLOCK];
        for (int j = 0; j < o->panel; j++) {
            float x[LK_INT8_BLOCK];
            lk_int8_source(a, j, c->begin[s] + at, c->begin[s + 1] - c->begin[s] - at, x);
            for (int i = 0; i < LK_INT8_BLOCK; i++) {
                q[j][i] = lk_int8_of(x[i], inverse[j]);
                begin[j] -= 128 * q[j][i];
            }
        }
        for (int i = 0; i < LK_INT8_BLOCK; i += o->run)
            for (int j = 0; j < o->panel; j++)
                memcpy(w + o->at(at + i, j), &q[j][i], (size_t)o->run);
    }
}

LK_INLINE void lk_int8_pack(const struct lk_pack *a, const struct lk_int8_order *o)
{
    const struct lk_cols *c = a->cols;
    int8_t *w = (int8_t *)a->w + a->panel * lk_int8_panel_bytes(c, o);
    char *scales = (char *)w + o->panel * lk_int8_cols(c);
    const size_t n = (size_t)o->panel * sizeof(float);
    for (int s = 0; s < c->n_seg; s++) {
        float scale[LK_INT8_PANEL];
        int32_t begin[LK_INT8_PANEL];
        lk_int8_pack_segment(a, o, s, w + o->panel * lk_int8_begin(c, s), scale, begin);
        memcpy(scales + (size_t)s * n, scale, n);
        if (o->corrected)
            memcpy(scales + (size_t)(c->n_seg + s) * n, begin, n);
    }
}

#endif
