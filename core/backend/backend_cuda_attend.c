/* The CUDA backend's attention: which blocks of threads do it is planned on the host, once a step for all layers of a
 * window. */
#include "core/backend/backend_cuda_parts.h"

#define SPLIT_PAGES (LK_SPLIT_TOKENS / LK_PAGE_TOKENS)

/* A decoding token has a slot for each split that it sees. As many as the cache's pages have, and a sequence more, so
 * that a plan takes all sequences of a step but where many share long beginnings. */
int64_t lb_cuda_plan_slots(const struct lb_cuda *c)
{
    const struct lb_kv_spec *kv = &c->kv->spec;
    int64_t of_pages = kv->n_page / SPLIT_PAGES + 2 * (int64_t)c->limit.n_seq, of_index = 0;
    if (c->kv->index)
        of_index = LB_CUDA_INDEX_TOKENS * ((kv->index.topk - 1) / LK_SPLIT_TOKENS + 1);
    return of_pages > of_index ? of_pages : of_index;
}

/* Of one plan of all sequences; of its pieces, rounded up. */
static size_t whole_plan_bytes(const struct lb_cuda *c)
{
    size_t n_tok = (size_t)c->limit.n_tok, n_seq = (size_t)c->limit.n_seq, n_page = (size_t)c->limit.n_page;
    size_t n_item = n_tok + 2 * (n_page / SPLIT_PAGES + n_seq) + 8, n_row = n_tok + 2 * n_seq + 4;
    /* what lk_attn_plan_step may round up */
    return (n_item + n_item / 3 + 8) * sizeof(struct lk_attn_work) + (n_row + n_row / 8) * sizeof(struct lk_attn_row);
}

size_t lb_cuda_plan_bytes(const struct lb_cuda *c)
{
    return 2 * whole_plan_bytes(c) + (size_t)LB_CUDA_PLANS * 2 * 64;
}

bool lb_cuda_plan_make(struct lb_cuda *c, const struct lk_attn_seq *seq, int64_t n_seq,
                       const struct lk_attn_shape *shape, struct lk_attn_plan *plan)
{
    size_t from = c->block_used;
    void *items, *rows;
    struct lk_attn_work *item = lb_cuda_block_take(c, (size_t)lk_attn_plan_items(seq, n_seq) * sizeof *item, &items);
    struct lk_attn_row *row =
        item ? lb_cuda_block_take(c, (size_t)lk_attn_plan_rows(seq, n_seq) * sizeof *row, &rows) : NULL;
    if (!row)
        return false;
    lk_attn_plan_step(seq, n_seq, shape, item, row, plan);
    plan->item = items;
    plan->row = rows;
    plan->state = c->state;
    if (plan->n_slot > c->n_slot) {
        lb_err_set(&c->err, LB_E_USAGE, "step %lld: attention needs %lld states, %lld were reserved",
                   (long long)c->step->number, (long long)plan->n_slot, (long long)c->n_slot);
        return false;
    }
    lb_cuda_block_send(c, from, "a plan of attention");
    return c->err.status == LB_OK;
}

static bool has_room(const struct lb_cuda *c, const struct lk_attn_seq *seq, int64_t n_seq)
{
    size_t need = (size_t)lk_attn_plan_items(seq, n_seq) * sizeof(struct lk_attn_work) +
                  (size_t)lk_attn_plan_rows(seq, n_seq) * sizeof(struct lk_attn_row) + 2 * (size_t)64;
    return c->n_plan < LB_CUDA_PLANS && need <= c->block_bytes - c->block_used;
}

/* Room in the block for another plan. Where there is none, all are forgotten: their memory is free once the device is
 * through with them. */
static bool make_room(struct lb_cuda *c, const struct lk_attn_seq *seq, int64_t n_seq)
{
    if (has_room(c, seq, n_seq))
        return true;
    if (!lb_cuda_wait(c, "attention"))
        return false;
    c->n_plan = 0;
    c->forgets = true;
    c->block_used = c->plan_base;
    return true;
}

/* Sequences from `begin` on whose states have room together: one at least. */
static int64_t fitting(const struct lb_cuda *c, int64_t begin, int64_t n_seq)
{
    int64_t n = 0, n_slot = 0;
    for (; begin + n < n_seq; n++) {
        const struct lk_attn_seq *s = &c->seq[begin + n];
        n_slot += s->n_tok == 1 ? s->pos / LK_SPLIT_TOKENS + 1 : 0;
        if (n > 0 && n_slot > c->n_slot)
            break;
    }
    return n;
}

static bool run_plan(struct lb_cuda *c, const struct lk_attend *all, const struct lb_cuda_plan *p)
{
    struct lk_attend args = *all;
    args.page_start += p->seq;
    return lb_cuda_ok(c, lk_cuda_attend(&args, &p->plan, c->stream), "kernel", "attend");
}

static void list_sequences(struct lb_cuda *c)
{
    const struct lb_step *s = c->step;
    for (int32_t is = 0; is < s->n_seq; is++)
        c->seq[is] = (struct lk_attn_seq){s->seq_start[is], lb_cuda_n_dense(c, is), s->pos[s->seq_start[is]],
                                          s->page + s->page_start[is]};
}

bool lb_cuda_plan_all(struct lb_cuda *c)
{
    int64_t n_seq = c->step->n_seq;
    list_sequences(c);
    for (int i = 0; i < c->n_shape; i++) {
        struct lb_cuda_plan *p = &c->plan[c->n_plan];
        if (fitting(c, 0, n_seq) < n_seq || !has_room(c, c->seq, n_seq) ||
            !lb_cuda_plan_make(c, c->seq, n_seq, &c->shape[i], &p->plan))
            return false;
        p->window = c->shape[i].window;
        p->seq = 0;
        c->n_plan++;
    }
    return c->n_shape > 0;
}

/* A window of the model's layers, of which a step that is to be recorded has its plan before the layers begin. */
static void know_shape(struct lb_cuda *c, const struct lk_attn_shape *shape)
{
    for (int i = 0; i < c->n_shape; i++)
        if (c->shape[i].window == shape->window)
            return;
    if (c->n_shape == LB_CUDA_PLANS)
        return;
    c->shape[c->n_shape] = *shape;
    c->shape[c->n_shape++].rounds = true;
}

/* With the plans for the window, which are made when it is first asked for. */
static void attend_bf16(struct lb_cuda *c, const struct lk_attend *args)
{
    const struct lb_step *s = c->step;
    const struct lb_kv_spec *kv = &c->kv->spec;
    const struct lk_attn_shape shape = {args->n_head, kv->n_kv_head, kv->v_dim, args->window, c->shared_bytes, false};
    bool found = false;
    for (int i = 0; i < c->n_plan; i++) {
        bool same = c->plan[i].window == args->window;
        if (same && !run_plan(c, args, &c->plan[i]))
            return;
        found = found || same;
    }
    if (found)
        return;
    know_shape(c, &shape);
    list_sequences(c);
    for (int64_t is = 0, n; is < s->n_seq; is += n) {
        n = fitting(c, is, s->n_seq);
        if (!make_room(c, c->seq + is, n))
            return;
        struct lb_cuda_plan *p = &c->plan[c->n_plan++];
        *p = (struct lb_cuda_plan){.window = c->forgets ? -1 : args->window, .seq = (int32_t)is};
        if (!lb_cuda_plan_make(c, c->seq + is, n, &shape, &p->plan) || !run_plan(c, args, p))
            return;
    }
}

static void rope_kv(struct lb_cuda *c, const struct lb_attend_args *a, const struct lk_kv *kv)
{
    struct lk_rope_kv args = {.qkv = a->qkv->data,
                              .cos = c->cos,
                              .sin = c->sin,
                              .q = c->q,
                              .kv = *kv,
                              .pos = c->t.pos,
                              .page = c->t.tok_page,
                              .n_tok = c->step->n_tok,
                              .n_head = a->n_head,
                              .n_rot = a->rope->n_rot,
                              .interleaved = a->rope->interleaved,
                              .q_norm = a->q_norm,
                              .k_norm = a->k_norm,
                              .eps = a->eps};
    lb_cuda_ok(c, lk_cuda_rope_kv(&args, lb_cuda_type(c), c->stream), "kernel", "rope_kv");
}

void lb_cuda_attend(struct lb_backend *be, const struct lb_attend_args *a)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    struct lb_kv_mem *mem = a->kv;
    int64_t first_page = a->layer * mem->spec.n_page * mem->spec.n_kv_head;
    struct lk_kv kv = {.k = mem->k + first_page * mem->k_page_bytes,
                       .v = mem->v + first_page * mem->v_page_bytes,
                       .k_page_bytes = mem->k_page_bytes,
                       .v_page_bytes = mem->v_page_bytes,
                       .n_kv_head = mem->spec.n_kv_head,
                       .head_dim = mem->spec.head_dim,
                       .v_dim = mem->spec.v_dim};
    rope_kv(c, a, &kv);
    struct lk_attend args = {.out = {a->out->data, c->step->n_tok, &a->out->cols},
                             .out_head_bytes = lb_cuda_head_bytes(c, a->out),
                             .q = c->q,
                             .kv = kv,
                             .item = c->t.item,
                             .n_item = c->t.n_item,
                             .n_tok = c->step->n_tok,
                             .n_head = a->n_head,
                             .pos = c->t.pos,
                             .page_start = c->t.page_start,
                             .page = c->t.page,
                             .window = a->window,
                             .scale = a->scale};
    if (c->base.dtype == LB_F32) {
        lb_cuda_ok(c, lk_cuda_attend_f32(&args, c->stream), "kernel", "attend_f32");
    } else {
        attend_bf16(c, &args);
    }
    if (mem->index)
        lb_cuda_attend_chosen(c, mem->index, &args);
}
