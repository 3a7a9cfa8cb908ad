/* The CUDA backend's mixture of experts: tokens are grouped by expert on the device, and all experts' rows are one
 * launch a product, tiles of whole experts. In f32, for exactness alone, an expert is a product of its own.
 *
 * Tokens go through in pieces, so that memory does not grow with steps. */
#include <string.h>

#include "core/backend/backend_cuda_parts.h"
#include "core/base/mem.h"

#define TOKENS 1024 /* at a time */

/* Where the experts of a layer lie, on the device; made when a layer first runs. */
struct layer {
    struct layer *next;
    const struct lb_moe_weights *w;
    const void **gate_up, **down; /* [n_expert here] */
};

struct lb_cuda_moe {
    struct lb_moe_shape shape;
    int first_leaf, n_leaf, n_seg;                             /* the leaves that are here, of n_seg */
    int64_t expert_begin, n_expert;                            /* their experts */
    int64_t dim, n_tok;                                        /* n_tok: at a time */
    struct lk_cols in_cols, ffn_cols, shared_cols[LK_MAX_SEG]; /* one segment each */
    struct layer *layer;
    /* device */
    void *in;      /* [n_tok, dim] norm(x) in f32: the router's input, and in f32 the experts' */
    float *logits; /* [n_tok, n_expert] */
    float *weight; /* [n_tok, n_used] */
    struct lk_group group;
    void *rows;  /* f32: [n_tok * n_used, dim] */
    float *sum;  /* [n_tok * n_used, 2 * ffn_dim] */
    void *gated; /* [n_tok * n_used, ffn_dim] */
    float *y;    /* [n_tok * n_used, dim] */
    void *shared_gated[LK_MAX_SEG];
    float *shared_y[LK_MAX_SEG]; /* [n_tok, dim], NULL where the segment is empty */
    float *minus;                /* [dim] of -0 */
    int32_t *zero;               /* [n_tok] */
    int32_t *begin_host;         /* pinned, f32: [n_expert + 1] */
};

static void one_segment(struct lk_cols *cols, int64_t n)
{
    const int64_t begin[2] = {0, n};
    lb_cols_init(cols, 1, begin);
}

static enum lb_status reserve_shared(struct lb_cuda *c, struct lb_cuda_moe *m, const struct lk_cols *shared,
                                     struct lb_err *err)
{
    size_t n_tok = (size_t)m->n_tok;
    for (int r = 0; r < m->n_leaf; r++) {
        int64_t width = shared->begin[r + 1] - shared->begin[r];
        if (width == 0)
            continue;
        one_segment(&m->shared_cols[r], width);
        size_t packed = (size_t)m->shared_cols[r].packed[1], row = (size_t)m->dim * sizeof(float);
        if ((m->shared_gated[r] = lb_cuda_take(c, LB_CUDA_DEVICE, n_tok * packed, lb_cuda_elem_bytes(c),
                                               "activations of experts", err)) == NULL ||
            (m->shared_y[r] = lb_cuda_take(c, LB_CUDA_DEVICE, n_tok, row, "rows of experts", err)) == NULL)
            return LB_E_DEVICE;
    }
    return LB_OK;
}

static enum lb_status reserve_group(struct lb_cuda *c, struct lb_cuda_moe *m, struct lb_err *err)
{
    const char *what = "chosen experts";
    enum lb_cuda_place dev = LB_CUDA_DEVICE;
    struct lk_group *g = &m->group;
    size_t n_choice = (size_t)(m->n_tok * m->shape.n_used), n_expert = (size_t)m->n_expert;
    g->n_used = m->shape.n_used;
    g->first = m->expert_begin;
    g->n_expert = m->n_expert;
    size_t n_tile = (size_t)lk_cuda_group_tiles((int64_t)n_choice, m->n_expert);
    int32_t *id = lb_cuda_take(c, dev, n_choice, sizeof *id, what, err);
    g->id = id;
    if (!id || (g->count = lb_cuda_take(c, dev, n_expert, sizeof *g->count, what, err)) == NULL ||
        (g->row_begin = lb_cuda_take(c, dev, n_expert + 1, sizeof *g->row_begin, what, err)) == NULL ||
        (g->row_of = lb_cuda_take(c, dev, n_choice, sizeof *g->row_of, what, err)) == NULL ||
        (g->row = lb_cuda_take(c, dev, n_choice, sizeof *g->row, what, err)) == NULL ||
        (g->tile_group = lb_cuda_take(c, dev, n_tile, sizeof *g->tile_group, what, err)) == NULL ||
        (g->tile_row = lb_cuda_take(c, dev, n_tile, sizeof *g->tile_row, what, err)) == NULL)
        return LB_E_DEVICE;
    return LB_OK;
}

/* Rows that no expert here has are computed with all the same: they begin as zeros. */
static enum lb_status clear_rows(struct lb_cuda *c, struct lb_cuda_moe *m, struct lb_err *err)
{
    size_t n_choice = (size_t)(m->n_tok * m->shape.n_used);
    size_t sum = n_choice * 2 * (size_t)m->shape.ffn_dim * sizeof *m->sum;
    if (m->sum)
        LB_TRY(lb_cuda_try(cudaMemsetAsync(m->sum, 0, sum, c->load_stream), "cudaMemsetAsync", "rows of experts", err));
    c->loads = true;
    return LB_OK;
}

/* A row of -0, which any number may be added to. */
static enum lb_status send_minus(struct lb_cuda *c, struct lb_cuda_moe *m, struct lb_err *err)
{
    size_t n = (size_t)m->dim > (size_t)m->n_tok ? (size_t)m->dim : (size_t)m->n_tok;
    float *host = lb_mem_new(n, sizeof *host);
    if (!host)
        return lb_err_memory(err, "a mixture of experts", n * sizeof *host);
    enum lb_status status =
        lb_cuda_upload(c, m->zero, host, (size_t)m->n_tok * sizeof *m->zero, "a mixture of experts", err);
    for (int64_t i = 0; i < m->dim; i++)
        host[i] = -0.0f;
    if (status == LB_OK)
        status = lb_cuda_upload(c, m->minus, host, (size_t)m->dim * sizeof *host, "a mixture of experts", err);
    lb_mem_free(host);
    return status;
}

enum lb_status lb_cuda_moe_reserve(struct lb_backend *be, const struct lb_moe_shape *shape,
                                   const struct lb_moe_leaves *leaves, int64_t dim, struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    bool f32 = c->base.dtype == LB_F32;
    const char *what = "a mixture of experts";
    enum lb_cuda_place dev = LB_CUDA_DEVICE;
    struct lb_cuda_moe *m = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *m, what, err);
    if (!m)
        return LB_E_DEVICE;
    m->shape = *shape;
    m->n_seg = leaves->n_seg;
    m->first_leaf = leaves->first;
    m->n_leaf = leaves->shared->n_seg;
    m->expert_begin = m->first_leaf * shape->n_expert / m->n_seg;
    m->n_expert = (m->first_leaf + m->n_leaf) * shape->n_expert / m->n_seg - m->expert_begin;
    m->dim = dim;
    m->n_tok = c->limit.n_tok < TOKENS ? c->limit.n_tok : TOKENS;
    one_segment(&m->in_cols, dim);
    one_segment(&m->ffn_cols, shape->ffn_dim);
    size_t n_tok = (size_t)m->n_tok, n_choice = n_tok * (size_t)shape->n_used, elem = lb_cuda_elem_bytes(c);
    size_t in = (size_t)m->in_cols.packed[1], ffn = (size_t)m->ffn_cols.packed[1], d = (size_t)dim;
    if ((m->in = lb_cuda_take(c, dev, n_tok * in, sizeof(float), what, err)) == NULL ||
        (m->logits = lb_cuda_take(c, dev, n_tok * (size_t)shape->n_expert, sizeof(float), what, err)) == NULL ||
        (m->weight = lb_cuda_take(c, dev, n_choice, sizeof(float), what, err)) == NULL ||
        (f32 && (m->rows = lb_cuda_take(c, dev, n_choice * in, elem, what, err)) == NULL) ||
        (!f32 &&
         (m->sum = lb_cuda_take(c, dev, n_choice * 2 * (size_t)shape->ffn_dim, sizeof(float), what, err)) == NULL) ||
        (m->gated = lb_cuda_take(c, dev, n_choice * ffn, elem, what, err)) == NULL ||
        (m->y = lb_cuda_take(c, dev, n_choice * d, sizeof(float), what, err)) == NULL ||
        (m->minus = lb_cuda_take(c, dev, d, sizeof(float), what, err)) == NULL ||
        (m->zero = lb_cuda_take(c, dev, n_tok, sizeof *m->zero, what, err)) == NULL ||
        (m->begin_host = lb_cuda_take(c, LB_CUDA_PINNED, (size_t)m->n_expert + 1, sizeof *m->begin_host, what, err)) ==
            NULL)
        return LB_E_DEVICE;
    LB_TRY(reserve_group(c, m, err));
    LB_TRY(reserve_shared(c, m, leaves->shared, err));
    LB_TRY(clear_rows(c, m, err));
    LB_TRY(send_minus(c, m, err));
    c->moe = m;
    return LB_OK;
}

/* ---- a layer's experts ---- */

static const void **send_addresses(struct lb_cuda *c, struct lb_matrix *const *of, int64_t n)
{
    const void **device = lb_cuda_take(c, LB_CUDA_DEVICE, (size_t)n, sizeof *device, "experts' addresses", &c->err);
    const void **host = lb_mem_new((size_t)n, sizeof *host);
    if (!host)
        lb_err_memory(&c->err, "experts' addresses", (size_t)n * sizeof *host);
    for (int64_t e = 0; host && e < n; e++)
        host[e] = of[e]->w;
    if (host && device)
        lb_cuda_upload(c, device, host, (size_t)n * sizeof *host, "experts' addresses", &c->err);
    lb_mem_free(host);
    return c->err.status == LB_OK ? device : NULL;
}

static const struct layer *layer_of(struct lb_cuda *c, const struct lb_moe_weights *w)
{
    struct lb_cuda_moe *m = c->moe;
    for (struct layer *l = m->layer; l; l = l->next)
        if (l->w == w)
            return l;
    struct layer *l = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *l, "experts' addresses", &c->err);
    if (!l || (l->gate_up = send_addresses(c, w->gate_up + m->expert_begin, m->n_expert)) == NULL ||
        (l->down = send_addresses(c, w->down + m->expert_begin, m->n_expert)) == NULL ||
        lb_cuda_loaded(c, &c->err) != LB_OK)
        return NULL;
    l->w = w;
    l->next = m->layer;
    m->layer = l;
    return l;
}

/* ---- the steps of a mixture, for n tokens from t on ---- */

static bool route(struct lb_cuda *c, const struct lb_moe_args *a, int64_t t, int64_t n)
{
    struct lb_cuda_moe *m = c->moe;
    const struct lb_moe_shape *s = &m->shape;
    struct lk_norm norm = {.y = {m->in, n, &m->in_cols}, .x = a->x->data + t * m->dim, .w = a->norm, .eps = a->eps};
    struct lk_linear product = {.a = norm.y, .epilogue = LK_EP_STORE, .y = m->logits, .y_ld = s->n_expert};
    struct lk_route choice = {.logits = m->logits,
                              .bias = a->w->bias,
                              .id = (int32_t *)(uintptr_t)m->group.id,
                              .weight = m->weight,
                              .n_tok = n,
                              .n_expert = s->n_expert,
                              .n_used = s->n_used,
                              .n_group = s->n_group,
                              .n_group_used = s->n_group_used,
                              .scale = s->scale,
                              .normalize = s->normalize};
    m->group.n_tok = n;
    m->group.n_tile = lk_cuda_group_tiles(n * s->n_used, m->n_expert);
    return lb_cuda_ok(c, lk_cuda_norm(&norm, LK_F32, c->stream), "kernel", "a router's norm") &&
           lb_cuda_product(c, product, a->w->router, 0) &&
           lb_cuda_ok(c, lk_cuda_route(&choice, c->stream), "kernel", "route");
}

static bool grouped(struct lb_cuda *c, struct lk_grouped g)
{
    const struct lk_group *by = &c->moe->group;
    g.row_begin = by->row_begin;
    g.tile_group = by->tile_group;
    g.tile_row = by->tile_row;
    g.n_row = by->n_tok * by->n_used;
    g.n_tile = by->n_tile;
    return lb_cuda_ok(c, lk_cuda_grouped(&g, c->stream), "kernel", "products of experts");
}

/* Rows behind those that have an expert here hold whatever was there: nobody reads what becomes of them. */
static bool experts_bf16(struct lb_cuda *c, const struct lb_moe_args *a, int64_t t)
{
    struct lb_cuda_moe *m = c->moe;
    const struct layer *l = layer_of(c, a->w);
    if (!l)
        return false;
    const uint8_t *h = (const uint8_t *)a->h->data + (size_t)(t * m->in_cols.packed[1]) * sizeof(uint16_t);
    int64_t n_row = m->group.n_tok * m->group.n_used;
    struct lk_swiglu gate = {{m->gated, n_row, &m->ffn_cols}, m->sum, NULL};
    return grouped(c, (struct lk_grouped){.a = h,
                                          .w = l->gate_up,
                                          .y = m->sum,
                                          .row_of = m->group.row_of,
                                          .n_out = 2 * m->shape.ffn_dim,
                                          .k = m->in_cols.packed[1]}) &&
           lb_cuda_ok(c, lk_cuda_swiglu(&gate, LK_BF16, c->stream), "kernel", "swiglu") &&
           grouped(c, (struct lk_grouped){
                          .a = m->gated, .w = l->down, .y = m->y, .n_out = m->dim, .k = m->ffn_cols.packed[1]});
}

/* The host learns which rows are whose, and takes one expert after the other. */
static bool experts_f32(struct lb_cuda *c, const struct lb_moe_args *a, int64_t t)
{
    struct lb_cuda_moe *m = c->moe;
    size_t bytes = (size_t)(m->n_expert + 1) * sizeof *m->begin_host;
    if (!lb_cuda_ok(c, cudaMemcpyAsync(m->begin_host, m->group.row_begin, bytes, cudaMemcpyDeviceToHost, c->stream),
                    "cudaMemcpyAsync", "rows by expert") ||
        !lb_cuda_wait(c, "rows by expert"))
        return false;
    struct lk_norm norm = {.y = {m->rows, m->begin_host[m->n_expert], &m->in_cols},
                           .x = a->x->data + t * m->dim,
                           .row = m->group.row_of,
                           .w = a->norm,
                           .eps = a->eps};
    if (!lb_cuda_ok(c, lk_cuda_norm(&norm, LK_F32, c->stream), "kernel", "experts' norm"))
        return false;
    for (int64_t e = 0; e < m->n_expert; e++) {
        int64_t begin = m->begin_host[e], n = m->begin_host[e + 1] - begin;
        struct lk_linear up = {.a = {(float *)m->rows + begin * m->in_cols.packed[1], n, &m->in_cols},
                               .epilogue = LK_EP_SWIGLU,
                               .out = {(float *)m->gated + begin * m->ffn_cols.packed[1], n, &m->ffn_cols}};
        struct lk_linear down = {.a = up.out, .epilogue = LK_EP_STORE, .y = m->y + begin * m->dim, .y_ld = m->dim};
        if (n > 0 && (!lb_cuda_product(c, up, a->w->gate_up[m->expert_begin + e], 0) ||
                      !lb_cuda_product(c, down, a->w->down[m->expert_begin + e], 0)))
            return false;
    }
    return true;
}

/* Groups the choices by expert, and takes the experts. Of more ranks than experts some have none. */
static bool experts(struct lb_cuda *c, const struct lb_moe_args *a, int64_t t)
{
    if (c->moe->n_expert == 0)
        return true;
    return lb_cuda_ok(c, lk_cuda_group(&c->moe->group, c->stream), "kernel", "group") &&
           (c->base.dtype == LB_F32 ? experts_f32(c, a, t) : experts_bf16(c, a, t));
}

static bool shared_experts(struct lb_cuda *c, const struct lb_moe_args *a, int64_t t, int64_t n)
{
    struct lb_cuda_moe *m = c->moe;
    uint8_t *h = (uint8_t *)a->h->data + (size_t)(t * a->h->cols.packed[a->h->cols.n_seg]) * lb_cuda_elem_bytes(c);
    for (int r = 0; r < m->n_leaf; r++) {
        if (!m->shared_y[r])
            continue;
        struct lk_linear up = {
            .a = {h, n, &a->h->cols}, .epilogue = LK_EP_SWIGLU, .out = {m->shared_gated[r], n, &m->shared_cols[r]}};
        struct lk_linear down = {.a = up.out, .epilogue = LK_EP_STORE, .y = m->shared_y[r], .y_ld = m->dim};
        if (!lb_cuda_product(c, up, a->w->shared_gate_up[r], 0) || !lb_cuda_product(c, down, a->w->shared_down[r], 0))
            return false;
        c->base.counts.product_rows += 2 * n;
        c->base.counts.token_rows += 2 * n;
    }
    return true;
}

static bool combine(struct lb_cuda *c, const struct lb_moe_args *a, int64_t t, int64_t n)
{
    struct lb_cuda_moe *m = c->moe;
    struct lk_combine sum = {.x = (a->part ? a->part->data : a->x->data) + t * m->dim,
                             .y = m->y,
                             .id = m->group.id,
                             .row = m->group.row,
                             .weight = m->weight,
                             .shared = (const float *const *)m->shared_y,
                             .n_tok = n,
                             .n_used = m->shape.n_used,
                             .n_expert = m->shape.n_expert,
                             .dim = m->dim,
                             .n_seg = m->n_seg,
                             .first = m->first_leaf,
                             .n_leaf = m->n_leaf};
    struct lk_embed fill = {.x = sum.x, .table = m->minus, .id = m->zero, .n_tok = n, .dim = m->dim};
    return (!a->part || lb_cuda_ok(c, lk_cuda_embed(&fill, LK_F32, c->stream), "kernel", "an empty sum")) &&
           lb_cuda_ok(c, lk_cuda_combine(&sum, c->stream), "kernel", "combine");
}

void lb_cuda_moe(struct lb_backend *be, const struct lb_moe_args *a)
{
    struct lb_cuda *c = lb_cuda_of(be);
    struct lb_cuda_moe *m = c->moe;
    if (lb_cuda_idle(c))
        return;
    if (!m) {
        lb_err_set(&c->err, LB_E_USAGE, "a mixture of experts ran before its memory was reserved");
        return;
    }
    for (int64_t t = 0, n; t < c->step->n_tok; t += n) {
        n = c->step->n_tok - t < m->n_tok ? c->step->n_tok - t : m->n_tok;
        if (!route(c, a, t, n) || !experts(c, a, t) || !shared_experts(c, a, t, n) || !combine(c, a, t, n))
            return;
        c->base.counts.product_rows += 2 * n * m->shape.n_used;
        c->base.counts.token_rows += 2 * n * m->shape.n_used;
    }
}
