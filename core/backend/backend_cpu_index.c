/* The CPU backend's sparse attention: tokens that see more positions than the indexer keeps. Their chosen positions' K
 * and V are gathered into pages, a few tokens at a time, and attention goes over those. */
#include <math.h>
#include <string.h>

#include "core/backend/backend_cpu.h"

/* Tokens at a time, a thread: enough that threads seldom wait for the last one. */
#define TOKENS 2

struct lb_cpu_index {
    struct lb_index_shape shape;
    int64_t plane_bytes, page_bytes; /* of one layer's index keys, of a page of them */
    int64_t n_page, most;            /* pages that hold topk positions; tokens at a time */
    uint8_t *key;                    /* [n_plane, pages of the cache] */
    struct lk_kv gathered;           /* [most, n_page] */
    int32_t *chosen;                 /* [n_tok, topk] */
    float *score;                    /* [n_tok, topk] */
    int32_t *pos;                    /* [n_tok] topk - 1: as the gathered pages count */
    int32_t *page, *page_start;      /* [most * n_page], [most] of the gathered pages */
    struct lk_attn_item *item;       /* [n_tok] tokens of the step that choose */
    int64_t n_item;
};

size_t lb_cpu_index_page_bytes(const struct lb_cpu *c, const struct lb_kv_spec *spec)
{
    return (size_t)spec->index.n_plane * (size_t)spec->index.dim * LK_PAGE_TOKENS * lb_cpu_elem_bytes(c);
}

enum lb_status lb_cpu_index_new(struct lb_cpu *c, struct lb_kv_mem *kv, struct lb_err *err)
{
    const struct lb_index_shape *s = &kv->spec.index;
    struct lb_cpu_index *x = lb_cpu_take(c, 1, sizeof *x, "the indexer", err);
    if (!x)
        return LB_E_DEVICE;
    size_t n_tok = (size_t)c->limit.n_tok, topk = (size_t)s->topk;
    x->shape = *s;
    x->n_page = (s->topk + LK_PAGE_TOKENS - 1) / LK_PAGE_TOKENS;
    x->most = c->base.n_thread * TOKENS;
    x->page_bytes = s->dim * LK_PAGE_TOKENS * (int64_t)lb_cpu_elem_bytes(c);
    x->plane_bytes = x->page_bytes * kv->spec.n_page;
    x->gathered = (struct lk_kv){.k_page_bytes = kv->k_page_bytes,
                                 .v_page_bytes = kv->v_page_bytes,
                                 .n_kv_head = 1,
                                 .head_dim = kv->spec.head_dim,
                                 .v_dim = kv->spec.v_dim};
    size_t n_page = (size_t)(x->most * x->n_page), most = (size_t)x->most;
    x->key = lb_arena_take(&kv->arena, (size_t)(x->plane_bytes * s->n_plane));
    kv->index = x;
    if ((x->gathered.k = lb_cpu_take(c, n_page, (size_t)kv->k_page_bytes, "chosen keys", err)) == NULL ||
        (x->gathered.v = lb_cpu_take(c, n_page, (size_t)kv->v_page_bytes, "chosen values", err)) == NULL ||
        (x->chosen = lb_cpu_take(c, n_tok * topk, sizeof *x->chosen, "chosen positions", err)) == NULL ||
        (x->score = lb_cpu_take(c, n_tok * topk, sizeof *x->score, "chosen positions", err)) == NULL ||
        (x->pos = lb_cpu_take(c, n_tok, sizeof *x->pos, "chosen positions", err)) == NULL ||
        (x->page = lb_cpu_take(c, n_page, sizeof *x->page, "chosen pages", err)) == NULL ||
        (x->page_start = lb_cpu_take(c, most, sizeof *x->page_start, "chosen pages", err)) == NULL ||
        (x->item = lb_cpu_take(c, n_tok, sizeof *x->item, "attention items", err)) == NULL)
        return LB_E_DEVICE;
    for (size_t t = 0; t < n_tok; t++)
        x->pos[t] = (int32_t)(s->topk - 1);
    for (size_t i = 0; i < n_page; i++)
        x->page[i] = (int32_t)i;
    for (size_t i = 0; i < most; i++)
        x->page_start[i] = (int32_t)((int64_t)i * x->n_page);
    return LB_OK;
}

void lb_cpu_index_copy(struct lb_cpu_index *x, const struct lb_step *s)
{
    for (int64_t plane = 0; plane < x->shape.n_plane; plane++) {
        uint8_t *key = x->key + plane * x->plane_bytes;
        for (int32_t i = 0; i < s->n_copy; i++)
            memcpy(key + s->copy_to[i] * x->page_bytes, key + s->copy_from[i] * x->page_bytes, (size_t)x->page_bytes);
    }
}

void lb_cpu_index_begin(struct lb_cpu_index *x, const struct lb_step *s)
{
    x->n_item = 0;
    for (int32_t is = 0; is < s->n_seq; is++)
        for (int32_t t = s->seq_start[is]; t < s->seq_start[is + 1]; t++)
            if (s->pos[t] >= x->shape.topk)
                x->item[x->n_item++] = (struct lk_attn_item){.seq = is, .tok = t, .n_tok = 1};
}

#define RUN_ITEMS(op, args_struct)                              \
    struct op##_job {                                           \
        const struct lk_cpu *lk;                                \
        struct args_struct args;                                \
    };                                                          \
    static void run_##op(void *ctx, int64_t begin, int64_t end) \
    {                                                           \
        struct op##_job *job = ctx;                             \
        job->lk->op(&job->args, begin, end);                    \
    }

RUN_ITEMS(index_key, lk_index_key)
RUN_ITEMS(index_select, lk_index_select)
RUN_ITEMS(gather, lk_gather)

void lb_cpu_index(struct lb_backend *be, const struct lb_index_args *a)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    const struct lb_step *s = c->step;
    struct lb_cpu_index *x = a->kv->index;
    struct lk_index_plane plane = {x->key + a->plane * x->plane_bytes, x->page_bytes, x->shape.dim};
    struct index_key_job key = {&c->lk,
                                {.q = a->q->data,
                                 .k = a->kw->data,
                                 .k_ld = a->kw->width,
                                 .norm = a->norm,
                                 .norm_bias = a->norm_bias,
                                 .cos = c->cos,
                                 .sin = c->sin,
                                 .plane = plane,
                                 .pos = s->pos,
                                 .page = s->tok_page,
                                 .n_tok = s->n_tok,
                                 .n_head = x->shape.n_head,
                                 .n_rot = a->rope->n_rot,
                                 .interleaved = a->rope->interleaved,
                                 .eps = a->eps}};
    lb_team_run(c->team, run_index_key, &key, s->n_tok, lb_cpu_grain(c, s->n_tok, 8));
    struct index_select_job select = {&c->lk,
                                      {.q = a->q->data,
                                       .w = a->kw->data + x->shape.dim,
                                       .w_ld = a->kw->width,
                                       .plane = plane,
                                       .item = x->item,
                                       .pos = s->pos,
                                       .page_start = s->page_start,
                                       .page = s->page,
                                       .n_head = x->shape.n_head,
                                       .topk = x->shape.topk,
                                       .scale = 1.0f / sqrtf((float)x->shape.dim),
                                       .chosen = x->chosen,
                                       .score = x->score}};
    lb_team_run(c->team, run_index_select, &select, x->n_item, 1);
    c->base.counts.attend_s += lb_cpu_now() - begin;
}

/* Items are parts of the heads of the tokens whose positions lie gathered. */
struct chosen_job {
    const struct lk_cpu *lk;
    struct lk_attend args;
    const struct lk_attn_item *item;
    int64_t n_part;
};

static void attend_parts(void *ctx, int64_t begin, int64_t end)
{
    const struct chosen_job *job = ctx;
    for (int64_t i = begin; i < end; i++) {
        int64_t here = i / job->n_part, part = i % job->n_part, n_head = job->args.n_head;
        int64_t from = n_head * part / job->n_part, to = n_head * (part + 1) / job->n_part;
        struct lk_attn_item item = {(int32_t)here, job->item[here].tok, 1, (int32_t)from, (int32_t)(to - from), 0};
        struct lk_attend args = job->args;
        args.item = &item;
        args.n_item = 1;
        job->lk->attend(&args, 0, 1);
    }
}

void lb_cpu_attend_chosen(struct lb_cpu *c, struct lb_cpu_index *x, const struct lk_attend *all)
{
    for (int64_t from = 0; from < x->n_item; from += x->most) {
        int64_t n = x->n_item - from < x->most ? x->n_item - from : x->most;
        struct gather_job gather = {&c->lk,
                                    {.from = all->kv,
                                     .to = x->gathered,
                                     .item = x->item + from,
                                     .chosen = x->chosen,
                                     .page_start = all->page_start,
                                     .page = all->page,
                                     .topk = x->shape.topk,
                                     .n_page = x->n_page}};
        lb_team_run(c->team, run_gather, &gather, n * x->n_page, lb_cpu_grain(c, n * x->n_page, 4));
        struct chosen_job attend = {&c->lk, *all, x->item + from, lb_cpu_attn_parts(c, all->n_head, n)};
        attend.args.kv = x->gathered;
        attend.args.pos = x->pos;
        attend.args.page_start = x->page_start;
        attend.args.page = x->page;
        attend.args.probs = NULL; /* those of the chosen positions would stand in the wrong places */
        lb_team_run(c->team, attend_parts, &attend, n * attend.n_part, 1);
    }
}
