/* What the sets' int8 products share: scales, the packing of weights, where scales lie. */
#ifndef KERNELS_CPU_LK_INT8_H
#define KERNELS_CPU_LK_INT8_H

#include "kernels/cpu/lk_int8_block.h"
#include "kernels/cpu/lk_panels.h"

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

/* Columns k .. k + 63 of source row j, of which n are left, mixed. */
LK_INLINE void lk_int8_source(const struct lk_pack *a, int j, int64_t k, int64_t n, LK_EIGHT x[8])
{
    const char *row = a->row[j];
    if (!row)
        memset(x, 0, 8 * sizeof *x);
    else if (a->type == LK_F32)
        lk_int8_load(row + 4 * k, LK_F32, n, x);
    else
        lk_int8_load(row + 2 * k, LK_BF16, n, x);
    lk_int8_mix(x);
}

LK_INLINE struct lk_int8_scale lk_int8_source_scale(const struct lk_pack *a, int j, int64_t begin, int64_t end)
{
    LK_EIGHT_INT most = {0};
    LK_EIGHT x[8];
    for (int64_t k = begin; k < end; k += LK_INT8_BLOCK) {
        lk_int8_source(a, j, k, end - k, x);
        lk_int8_most(x, &most);
    }
    return lk_int8_scale_of_lanes(&most);
}

#define LK_INT8_PANEL 32 /* of any set, at most */

/* Segment s of a panel at `w`, its scales at `scale`, what corrects its sums to `begin`. */
LK_INLINE void lk_int8_pack_segment(const struct lk_pack *a, const struct lk_int8_order *o, int s, int8_t *w,
                                    float *scale, int32_t begin[LK_INT8_PANEL])
{
    const struct lk_cols *c = a->cols;
    float inverse[LK_INT8_PANEL];
    LK_EIGHT_INT sum[LK_INT8_PANEL];
    for (int j = 0; j < o->panel; j++) {
        struct lk_int8_scale of = lk_int8_source_scale(a, j, c->begin[s], c->begin[s + 1]);
        scale[j] = of.s / LK_INT8_BLOCK;
        inverse[j] = of.inverse;
        sum[j] = (LK_EIGHT_INT){0};
    }
    int64_t width = lk_int8_width(c, s);
    for (int64_t at = 0; at < width; at += LK_INT8_BLOCK) {
        int8_t q[LK_INT8_PANEL][LK_INT8_BLOCK];
        for (int j = 0; j < o->panel; j++) {
            LK_EIGHT x[8];
            lk_int8_source(a, j, c->begin[s] + at, c->begin[s + 1] - c->begin[s] - at, x);
            lk_int8_whole(x, inverse[j], q[j], &sum[j]);
        }
        for (int i = 0; i < LK_INT8_BLOCK; i += o->run)
            for (int j = 0; j < o->panel; j++)
                memcpy(w + o->at(at + i, j), &q[j][i], (size_t)o->run);
    }
    for (int j = 0; j < o->panel; j++) {
        begin[j] = 0;
        for (int i = 0; i < 8; i++)
            begin[j] -= 128 * sum[j][i];
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
