/* The CUDA backend's sparse attention: tokens that see more positions than the indexer keeps. Their chosen positions' K
 * and V are gathered into pages, some tokens at a time, and attention goes over those. */
#include <math.h>

#include "core/backend/backend_cuda_parts.h"
#include "core/base/mem.h"

#define SUMS ((int64_t)8 << 20) /* of positions, at a time, or those of one token */

/* Tokens item .. item + n - 1 of those that choose. */
struct batch {
    int64_t item, n;
    struct lk_attn_plan plan; /* bf16 */
};

struct lb_cuda_index {
    struct lb_index_shape shape;
    int64_t plane_bytes, page_bytes; /* of one layer's index keys, of a page of them */
    int64_t n_page, most;            /* pages that hold topk positions; tokens at a time */
    uint8_t *key;                    /* device: [n_plane, pages of the cache] */
    struct lk_kv gathered;           /* device: [most, n_page] */
    int32_t *chosen;                 /* device: [n_tok, topk] */
    float *sum;                      /* device: [sum_room] */
    int64_t sum_room;
    int32_t *pos;               /* device: [n_tok] topk - 1, as the gathered pages count */
    int32_t *page, *page_start; /* device: [most * n_page], [most] of the gathered pages */
    int32_t *page_host;         /* [most * n_page] */
    struct batch *batch;        /* [n_tok] */
    /* of the step */
    struct lk_attn_item *item;  /* device: [n_item] tokens that choose */
    struct lk_attn_item *whole; /* device, f32: [n_item] all heads of each, by its place in its batch */
    int64_t n_item, n_batch, sum_ld;
};

size_t lb_cuda_index_page_bytes(const struct lb_cuda *c, const struct lb_kv_spec *spec)
{
    return (size_t)spec->index.n_plane * (size_t)spec->index.dim * LK_PAGE_TOKENS * lb_cuda_elem_bytes(c);
}

/* A token's splits, twice, are its plan's items; rounded up for each batch. */
size_t lb_cuda_index_block_bytes(const struct lb_cuda *c)
{
    const struct lb_cuda_index *x = c->kv->index;
    size_t n_tok = (size_t)c->limit.n_tok;
    if (!x)
        return 0;
    size_t items = 2 * (size_t)((x->shape.topk - 1) / LK_SPLIT_TOKENS + 1);
    size_t of_token = 2 * sizeof(struct lk_attn_item) + items * sizeof(struct lk_attn_work) +
                      2 * sizeof(struct lk_attn_row) + 4 * (size_t)64;
    return n_tok * of_token + 4 * (size_t)64;
}

/* Lists that are the same in every step. */
static enum lb_status send_lists(struct lb_cuda *c, struct lb_cuda_index *x, struct lb_err *err)
{
    int64_t n_tok = c->limit.n_tok, n_page = x->most * x->n_page, longest = n_tok > n_page ? n_tok : n_page;
    int32_t *list = lb_mem_new((size_t)longest, sizeof *list);
    if (!list)
        return lb_err_memory(err, "the indexer", (size_t)longest * sizeof *list);
    for (int64_t t = 0; t < n_tok; t++)
        list[t] = (int32_t)(x->shape.topk - 1);
    enum lb_status status = lb_cuda_upload(c, x->pos, list, (size_t)n_tok * sizeof *list, "chosen positions", err);
    for (int64_t i = 0; i < x->most; i++)
        list[i] = (int32_t)(i * x->n_page);
    if (status == LB_OK)
        status = lb_cuda_upload(c, x->page_start, list, (size_t)x->most * sizeof *list, "chosen pages", err);
    for (int64_t i = 0; i < n_page; i++)
        x->page_host[i] = (int32_t)i;
    if (status == LB_OK)
        status = lb_cuda_upload(c, x->page, x->page_host, (size_t)n_page * sizeof *list, "chosen pages", err);
    lb_mem_free(list);
    return status;
}

enum lb_status lb_cuda_index_new(struct lb_cuda *c, struct lb_kv_mem *kv, struct lb_err *err)
{
    const struct lb_index_shape *s = &kv->spec.index;
    const char *what = "the indexer";
    struct lb_cuda_index *x = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *x, what, err);
    if (!x)
        return LB_E_DEVICE;
    size_t n_tok = (size_t)c->limit.n_tok, topk = (size_t)s->topk;
    int64_t of_cache = kv->spec.n_page < c->limit.n_page ? kv->spec.n_page : c->limit.n_page;
    x->shape = *s;
    x->n_page = (s->topk + LK_PAGE_TOKENS - 1) / LK_PAGE_TOKENS;
    x->most = c->limit.n_tok < LB_CUDA_INDEX_TOKENS ? c->limit.n_tok : LB_CUDA_INDEX_TOKENS;
    x->page_bytes = s->dim * LK_PAGE_TOKENS * (int64_t)lb_cuda_elem_bytes(c);
    x->plane_bytes = x->page_bytes * kv->spec.n_page;
    x->sum_room = of_cache * LK_PAGE_TOKENS > SUMS ? of_cache * LK_PAGE_TOKENS : SUMS;
    if (x->sum_room > x->most * of_cache * LK_PAGE_TOKENS)
        x->sum_room = x->most * of_cache * LK_PAGE_TOKENS;
    x->gathered = (struct lk_kv){.k_page_bytes = kv->k_page_bytes,
                                 .v_page_bytes = kv->v_page_bytes,
                                 .n_kv_head = 1,
                                 .head_dim = kv->spec.head_dim,
                                 .v_dim = kv->spec.v_dim};
    size_t n_page = (size_t)(x->most * x->n_page), most = (size_t)x->most, planes = (size_t)s->n_plane;
    enum lb_cuda_place dev = LB_CUDA_DEVICE;
    if ((x->key = lb_cuda_take(c, dev, planes, (size_t)x->plane_bytes, what, err)) == NULL ||
        (x->gathered.k = lb_cuda_take(c, dev, n_page, (size_t)kv->k_page_bytes, what, err)) == NULL ||
        (x->gathered.v = lb_cuda_take(c, dev, n_page, (size_t)kv->v_page_bytes, what, err)) == NULL ||
        (x->chosen = lb_cuda_take(c, dev, n_tok * topk, sizeof *x->chosen, what, err)) == NULL ||
        (x->sum = lb_cuda_take(c, dev, (size_t)x->sum_room, sizeof *x->sum, what, err)) == NULL ||
        (x->pos = lb_cuda_take(c, dev, n_tok, sizeof *x->pos, what, err)) == NULL ||
        (x->page = lb_cuda_take(c, dev, n_page, sizeof *x->page, what, err)) == NULL ||
        (x->page_start = lb_cuda_take(c, dev, most, sizeof *x->page_start, what, err)) == NULL ||
        (x->page_host = lb_cuda_take(c, LB_CUDA_HOST, n_page, sizeof *x->page_host, what, err)) == NULL ||
        (x->batch = lb_cuda_take(c, LB_CUDA_HOST, n_tok, sizeof *x->batch, what, err)) == NULL)
        return LB_E_DEVICE;
    kv->index = x;
    return send_lists(c, x, err);
}

struct lb_cuda_planes lb_cuda_index_planes(const struct lb_cuda_index *x)
{
    return (struct lb_cuda_planes){x->key, x->plane_bytes, x->page_bytes, x->shape.n_plane};
}

/* Batches of tokens: as many as gathered pages and sums have room for. */
static void cut_batches(struct lb_cuda_index *x)
{
    int64_t per = x->sum_ld > 0 ? x->sum_room / x->sum_ld : 1;
    per = per < 1 ? 1 : per < x->most ? per : x->most;
    x->n_batch = 0;
    for (int64_t i = 0; i < x->n_item; i += per)
        x->batch[x->n_batch++] = (struct batch){i, x->n_item - i < per ? x->n_item - i : per, {0}};
}

static void plan_batches(struct lb_cuda *c, struct lb_cuda_index *x, const struct lk_attn_item *item, int64_t n_head)
{
    struct lk_attn_shape shape = {n_head, 1, c->kv->spec.v_dim, 0, c->shared_bytes, false};
    for (int64_t b = 0; b < x->n_batch; b++) {
        struct batch *batch = &x->batch[b];
        for (int64_t i = 0; i < batch->n; i++)
            c->seq[i] = (struct lk_attn_seq){item[batch->item + i].tok, 1, (int32_t)(x->shape.topk - 1),
                                             x->page_host + i * x->n_page};
        if (!lb_cuda_plan_make(c, c->seq, batch->n, &shape, &batch->plan))
            return;
    }
}

void lb_cuda_index_begin(struct lb_cuda *c, struct lb_cuda_index *x, const struct lb_step *s, int64_t n_head)
{
    void *items, *wholes;
    size_t from = c->block_used, n = (size_t)s->n_tok;
    struct lk_attn_item *item = lb_cuda_block_take(c, n * sizeof *item, &items);
    struct lk_attn_item *whole = item ? lb_cuda_block_take(c, n * sizeof *whole, &wholes) : NULL;
    if (!whole)
        return;
    x->item = items;
    x->whole = wholes;
    x->n_item = x->sum_ld = 0;
    for (int32_t is = 0; is < s->n_seq; is++)
        for (int32_t t = s->seq_start[is]; t < s->seq_start[is + 1]; t++)
            if (s->pos[t] >= x->shape.topk) {
                item[x->n_item++] = (struct lk_attn_item){.seq = is, .tok = t, .n_tok = 1};
                int64_t ld = (s->pos[t] / LK_PAGE_TOKENS + 1) * LK_PAGE_TOKENS;
                x->sum_ld = ld > x->sum_ld ? ld : x->sum_ld;
            }
    cut_batches(x);
    for (int64_t b = 0; b < x->n_batch; b++)
        for (int64_t i = 0; i < x->batch[b].n; i++)
            whole[x->batch[b].item + i] =
                (struct lk_attn_item){(int32_t)i, item[x->batch[b].item + i].tok, 1, 0, (int32_t)n_head, 0};
    lb_cuda_block_send(c, from, "tokens that choose positions");
    if (c->base.dtype == LB_BF16)
        plan_batches(c, x, item, n_head);
}

void lb_cuda_index(struct lb_backend *be, const struct lb_index_args *a)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    struct lb_cuda_index *x = a->kv->index;
    struct lk_index_plane plane = {x->key + a->plane * x->plane_bytes, x->page_bytes, x->shape.dim};
    struct lk_index_key key = {.q = a->q->data,
                               .k = a->kw->data,
                               .k_ld = a->kw->width,
                               .norm = a->norm,
                               .norm_bias = a->norm_bias,
                               .cos = c->cos,
                               .sin = c->sin,
                               .plane = plane,
                               .pos = c->t.pos,
                               .page = c->t.tok_page,
                               .n_tok = c->step->n_tok,
                               .n_head = x->shape.n_head,
                               .n_rot = a->rope->n_rot,
                               .interleaved = a->rope->interleaved,
                               .eps = a->eps};
    if (!lb_cuda_ok(c, lk_cuda_index_key(&key, lb_cuda_type(c), c->stream), "kernel", "index_key"))
        return;
    struct lk_index_select select = {.q = a->q->data,
                                     .w = a->kw->data + x->shape.dim,
                                     .w_ld = a->kw->width,
                                     .plane = plane,
                                     .pos = c->t.pos,
                                     .page_start = c->t.page_start,
                                     .page = c->t.page,
                                     .n_head = x->shape.n_head,
                                     .topk = x->shape.topk,
                                     .scale = 1.0f / sqrtf((float)x->shape.dim),
                                     .chosen = x->chosen};
    for (int64_t b = 0; b < x->n_batch; b++) {
        struct lk_index_scratch scratch = {x->sum, x->sum_ld, x->batch[b].n};
        select.item = x->item + x->batch[b].item;
        if (!lb_cuda_ok(c, lk_cuda_index_select(&select, &scratch, lb_cuda_type(c), c->stream), "kernel",
                        "index_select"))
            return;
    }
}

void lb_cuda_attend_chosen(struct lb_cuda *c, struct lb_cuda_index *x, const struct lk_attend *all)
{
    for (int64_t b = 0; b < x->n_batch && c->err.status == LB_OK; b++) {
        const struct batch *batch = &x->batch[b];
        struct lk_gather gather = {.from = all->kv,
                                   .to = x->gathered,
                                   .item = x->item + batch->item,
                                   .chosen = x->chosen,
                                   .page_start = all->page_start,
                                   .page = all->page,
                                   .topk = x->shape.topk,
                                   .n_page = x->n_page};
        if (!lb_cuda_ok(c, lk_cuda_gather(&gather, batch->n, c->stream), "kernel", "gather"))
            return;
        struct lk_attend args = *all;
        args.kv = x->gathered;
        args.pos = x->pos;
        args.page_start = x->page_start;
        args.page = x->page;
        args.item = x->whole + batch->item;
        args.n_item = batch->n;
        if (c->base.dtype == LB_F32)
            lb_cuda_ok(c, lk_cuda_attend_f32(&args, c->stream), "kernel", "attend_f32");
        else
            lb_cuda_ok(c, lk_cuda_attend(&args, &batch->plan, c->stream), "kernel", "attend");
    }
}
