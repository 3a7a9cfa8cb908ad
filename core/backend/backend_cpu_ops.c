/* The CPU backend's ops: each fills a kernel's argument struct and runs its items on the team. */
#include <math.h>
#include <time.h>

#include "core/backend/backend_cpu.h"

double lb_cpu_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

#define RUN_ITEMS(op)                                           \
    struct op##_job {                                           \
        const struct lk_cpu *lk;                                \
        struct lk_##op args;                                    \
    };                                                          \
    static void run_##op(void *ctx, int64_t begin, int64_t end) \
    {                                                           \
        struct op##_job *job = ctx;                             \
        job->lk->op(&job->args, begin, end);                    \
    }

RUN_ITEMS(embed)
RUN_ITEMS(norm)
RUN_ITEMS(norm_add)
RUN_ITEMS(linear)
RUN_ITEMS(rope_kv)
RUN_ITEMS(attend)
RUN_ITEMS(top)

/* Threads claim in turn, so that a thread's next claim is likely to lie behind one of each other thread. */
static void run_product(const struct lb_cpu *c, struct linear_job *job)
{
    job->args.l2_bytes = c->l2_bytes; /* the items depend on it */
    int64_t n_item = c->lk.linear_items(&job->args), grain = lb_cpu_grain(c, n_item, LB_CPU_CLAIMS);
    job->args.skip_items = (c->base.n_thread - 1) * grain;
    lb_team_run(c->team, run_linear, job, n_item, grain);
}

void lb_cpu_embed(struct lb_backend *be, struct lb_buf *x, const struct lb_table *table)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    struct embed_job job = {
        &c->lk,
        {.x = x->data, .table = table->data, .id = c->id, .n_tok = c->step->n_tok, .dim = table->n_col},
    };
    lb_team_run(c->team, run_embed, &job, c->step->n_tok, lb_cpu_grain(c, c->step->n_tok, 4));
}

void lb_cpu_norm(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, const float *w, float eps,
                 bool wanted)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c) || (wanted && c->step->n_out == 0))
        return;
    double begin = lb_cpu_now();
    struct norm_job job = {
        &c->lk,
        {.y = {y->data, wanted ? c->step->n_out : c->step->n_tok, &y->cols},
         .x = x->data,
         .row = wanted ? c->step->out_tok : NULL,
         .w = w,
         .eps = eps},
    };
    int64_t n_item = c->lk.norm_items(&job.args);
    lb_team_run(c->team, run_norm, &job, n_item, lb_cpu_grain(c, n_item, 8));
    c->base.counts.norm_s += lb_cpu_now() - begin;
}

void lb_cpu_norm_add(struct lb_backend *be, struct lb_buf *x, const struct lb_buf *y, const float *w, float eps)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    int64_t n_tok = c->step->n_tok;
    struct norm_add_job job = {&c->lk,
                               {.x = x->data, .y = y->data, .w = w, .dim = x->width, .n_row = n_tok, .eps = eps}};
    lb_team_run(c->team, run_norm_add, &job, n_tok, lb_cpu_grain(c, n_tok, 8));
    c->base.counts.norm_s += lb_cpu_now() - begin;
}

void lb_cpu_linear(struct lb_backend *be, const struct lb_linear_args *a)
{
    static const enum lk_epilogue of[] = {[LB_STORE] = LK_EP_STORE, [LB_ADD] = LK_EP_ADD, [LB_SWIGLU] = LK_EP_SWIGLU};
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    int64_t n_tok = c->step->n_tok;
    struct linear_job job = {
        &c->lk,
        {.a = {a->a->data, n_tok, &a->a->cols},
         .w = a->w->w,
         .n_out = a->w->n_out,
         .epilogue = of[a->epilogue],
         .bias = a->bias},
    };
    if (a->epilogue == LB_SWIGLU)
        job.args.out = (struct lk_act){a->y_act->data, n_tok, &a->y_act->cols};
    else
        job.args.y = a->y_rows->data;
    run_product(c, &job);
    c->base.counts.product_rows += c->lk.act_rows(&job.args.a);
    c->base.counts.token_rows += n_tok;
    c->base.counts.linear_s += lb_cpu_now() - begin;
}

void lb_cpu_attend(struct lb_backend *be, const struct lb_attend_args *a)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    const struct lb_step *s = c->step;
    const struct lb_kv_mem *mem = a->kv;
    int64_t n_plane_page = a->layer * mem->spec.n_page * mem->spec.n_kv_head;
    struct lk_kv kv = {
        .k = mem->k + n_plane_page * mem->k_page_bytes,
        .v = mem->v + n_plane_page * mem->v_page_bytes,
        .k_page_bytes = mem->k_page_bytes,
        .v_page_bytes = mem->v_page_bytes,
        .n_kv_head = mem->spec.n_kv_head,
        .head_dim = mem->spec.head_dim,
    };
    struct rope_kv_job rope = {
        &c->lk,
        {.qkv = a->qkv->data,
         .cos = c->cos,
         .sin = c->sin,
         .q = c->q,
         .kv = kv,
         .pos = s->pos,
         .page = s->tok_page,
         .n_tok = s->n_tok,
         .n_head = a->n_head,
         .n_rot = a->rope->n_rot,
         .interleaved = a->rope->interleaved,
         .q_norm = a->q_norm,
         .k_norm = a->k_norm,
         .eps = a->eps},
    };
    lb_team_run(c->team, run_rope_kv, &rope, s->n_tok, lb_cpu_grain(c, s->n_tok, 8));
    struct attend_job attend = {
        &c->lk,
        {.out = {a->out->data, s->n_tok, &a->out->cols},
         .q = c->q,
         .kv = kv,
         .item = c->item,
         .n_item = c->n_item,
         .n_tok = s->n_tok,
         .n_head = a->n_head,
         .pos = s->pos,
         .page_start = s->page_start,
         .page = s->page,
         .window = a->window,
         .scale = a->scale,
         .probs = a->probs,
         .probs_ld = a->probs_ld},
    };
    lb_team_run(c->team, run_attend, &attend, c->n_item, lb_cpu_grain(c, c->n_item, LB_CPU_CLAIMS));
    c->base.counts.attend_s += lb_cpu_now() - begin;
}

/* The candidates of rows begin .. end: blocks in ascending order, so that ties stay with the lower id. */
static void reduce_rows(void *ctx, int64_t begin, int64_t end)
{
    struct lb_cpu *c = ctx;
    for (int64_t j = begin; j < end; j++) {
        const struct lk_best *best = c->best + j * c->n_block;
        struct lb_cand *cand = &c->cand[j];
        *cand = (struct lb_cand){.best = -1, .best_logit = -INFINITY, .finite = true, .logits = c->logits_of[j]};
        for (int64_t b = 0; b < c->n_block; b++) {
            cand->finite = cand->finite && best[b].finite;
            if (best[b].id >= 0 && (cand->best < 0 || best[b].value > cand->best_logit)) {
                cand->best = best[b].id;
                cand->best_logit = best[b].value;
            }
        }
        if (cand->logits) {
            cand->lse = c->lse[j];
            cand->top_id = c->top_id + j * LK_TOP;
            cand->top_logit = c->top_value + j * LK_TOP;
        }
    }
}

void lb_cpu_head(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    struct lb_cpu *c = lb_cpu_of(be);
    int64_t n_out = c->step->n_out;
    if (lb_cpu_idle(c) || n_out == 0)
        return;
    if (w->n_out != c->n_vocab) {
        lb_err_set(&c->err, LB_E_USAGE, "the LM head has %lld rows, reserved were %lld", (long long)w->n_out,
                   (long long)c->n_vocab);
        return;
    }
    double begin = lb_cpu_now();
    int64_t n_asked = 0;
    for (int64_t j = 0; j < n_out; j++) {
        bool asked = (c->step->out_flags[j] & LB_OUT_LOGITS) != 0;
        c->logits_of[j] = asked ? (float *)(void *)c->logits.base + n_asked++ * c->ld_logits : NULL;
    }
    struct linear_job job = {
        &c->lk,
        {.a = {a->data, n_out, &a->cols},
         .w = w->w,
         .n_out = w->n_out,
         .epilogue = LK_EP_HEAD,
         .best = c->best,
         .logits = c->logits_of},
    };
    run_product(c, &job);
    if (n_asked > 0) {
        struct top_job top = {
            &c->lk,
            {.n_row = n_out,
             .n_vocab = c->n_vocab,
             .logits = (const float *const *)c->logits_of,
             .lse = c->lse,
             .id = c->top_id,
             .value = c->top_value},
        };
        lb_team_run(c->team, run_top, &top, n_out, 1);
    }
    lb_team_run(c->team, reduce_rows, c, n_out, 16);
    c->base.counts.head_s += lb_cpu_now() - begin;
}
