/* The CUDA backend's attention: which blocks of threads do it is planned on the host, once a step for all layers of a
 * window. */
#include "core/backend/backend_cuda.h"

#define SPLIT_PAGES (LK_SPLIT_TOKENS / LK_PAGE_TOKENS)

/* A decoding token has a slot for each split that it sees: no more than one, and one for each of its pages' splits. */
int64_t lb_cuda_plan_slots(const struct lb_cuda *c)
{
    int64_t of_pages = c->limit.n_page / SPLIT_PAGES + c->limit.n_seq, of_index = 0;
    if (c->kv->index) /* every token of a step may choose */
        of_index = c->limit.n_tok * ((c->kv->spec.index.topk - 1) / LK_SPLIT_TOKENS + 1);
    return of_pages > of_index ? of_pages : of_index;
}

int64_t lb_cuda_plan_items(const struct lb_cuda *c)
{
    return c->limit.n_tok + 2 * (c->limit.n_page / SPLIT_PAGES + c->limit.n_seq);
}

int64_t lb_cuda_plan_rows(const struct lb_cuda *c)
{
    return c->limit.n_tok + 2 * (int64_t)c->limit.n_seq;
}

bool lb_cuda_plan_make(struct lb_cuda *c, int64_t n_seq, int64_t n_head, int64_t window, struct lk_attn_plan *plan)
{
    const struct lb_kv_spec *kv = &c->kv->spec;
    struct lk_attn_shape shape = {n_head, kv->n_kv_head, kv->v_dim, window, c->shared_bytes};
    size_t from = c->block_used;
    void *items, *rows;
    struct lk_attn_work *item = lb_cuda_block_take(c, (size_t)lk_attn_plan_items(c->seq, n_seq) * sizeof *item, &items);
    struct lk_attn_row *row =
        item ? lb_cuda_block_take(c, (size_t)lk_attn_plan_rows(c->seq, n_seq) * sizeof *row, &rows) : NULL;
    if (!row)
        return false;
    lk_attn_plan_step(c->seq, n_seq, &shape, item, row, plan);
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

/* The step's plan for a window. Where a step has more windows than plans have room, the last one is made anew: its old
 * memory is free once the device is through with it. */
static const struct lk_attn_plan *plan_of(struct lb_cuda *c, int64_t n_head, int64_t window)
{
    const struct lb_step *s = c->step;
    for (int i = 0; i < c->n_plan; i++)
        if (c->plan[i].window == window)
            return &c->plan[i].plan;
    if (c->n_plan == LB_CUDA_PLANS) {
        if (!lb_cuda_ok(c, cudaStreamSynchronize(c->stream), "cudaStreamSynchronize", "attention"))
            return NULL;
        c->n_plan--;
        c->block_used = c->plan[c->n_plan].block_used;
    }
    for (int32_t is = 0; is < s->n_seq; is++)
        c->seq[is] = (struct lk_attn_seq){s->seq_start[is], lb_cuda_n_dense(c, is), s->pos[s->seq_start[is]],
                                          s->page + s->page_start[is]};
    struct lb_cuda_plan *p = &c->plan[c->n_plan];
    p->window = window;
    p->block_used = c->block_used;
    if (!lb_cuda_plan_make(c, s->n_seq, n_head, window, &p->plan))
        return NULL;
    c->n_plan++;
    return &p->plan;
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
        const struct lk_attn_plan *plan = plan_of(c, a->n_head, a->window);
        if (plan)
            lb_cuda_ok(c, lk_cuda_attend(&args, plan, c->stream), "kernel", "attend");
    }
    if (mem->index)
        lb_cuda_attend_chosen(c, mem->index, &args);
}
