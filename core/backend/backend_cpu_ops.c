/* The CPU backend's ops: each fills a kernel's argument struct and runs its items on the team. */
#include <string.h>
#include <time.h>

#include "core/backend/backend_cpu_int8.h"

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

RUN_ITEMS(norm)
RUN_ITEMS(norm_add)
RUN_ITEMS(linear)
RUN_ITEMS(rope_kv)
RUN_ITEMS(attend)
RUN_ITEMS(latent)

/* Each thread goes through panels of its own, one behind the other: what comes next is what it fetches. */
static void run_product(const struct lb_cpu *c, const struct lk_linear *args)
{
    struct linear_job job = {&c->lk, *args};
    int64_t n_item = c->lk.linear_items(args);
    lb_team_run_even(c->team, run_linear, &job, n_item, lb_cpu_grain(c, n_item, LB_CPU_CLAIMS));
}

/* Whether rows come near is measured by kinds of products, of numbers of rows that differ by less than twice; NULL:
 * there are too few of them, or no difference. */
static struct lb_tune *near_of(struct lb_cpu *c, const struct lk_linear *a, bool int8)
{
    int64_t n_row = a->a.n_row, form = a->q ? 2 + (int64_t)a->q->kind : int8;
    if (c->lk.near_rows_from == 0 || n_row < c->lk.near_rows_from)
        return NULL;
    const int64_t size = lb_tune_size(n_row);
    return lb_tune_of(&c->near_rows, (const int64_t[4]){a->n_out, a->a.cols->n_col, size, 8 * form + a->epilogue});
}

/* Halves of the next layer's pages that this product fetches beside its weights, a register tile one. */
static int64_t fetches(const struct lb_cpu *c, const struct lk_linear *a, bool int8)
{
    const int64_t tile = c->lk.tile_rows, panel = c->lk.panel_cols;
    if (int8 || a->q || c->soon.first >= c->soon.n)
        return 0;
    return (a->n_out + panel - 1) / panel * ((a->a.n_row + tile - 1) / tile);
}

void lb_cpu_run_product(struct lb_cpu *c, struct lk_linear *args, bool int8)
{
    args->l2_bytes = c->l2_bytes; /* the items depend on it */
    const int64_t n_half = fetches(c, args, int8);
    args->soon = n_half > 0 ? &c->soon : NULL;
    struct lb_tune *near = near_of(c, args, int8);
    args->near_rows = near && lb_tune_way(near);
    const double begin = near ? lb_cpu_now() : 0;
    if (int8)
        lb_cpu_run_int8(c, args);
    else
        run_product(c, args);
    c->soon.first += n_half;
    if (near)
        lb_tune_took(near, (lb_cpu_now() - begin) / (double)args->a.n_row);
}

struct embed_job {
    const struct lk_cpu *lk;
    const struct lb_table *table;
    const int32_t *id;
    float *x;
};

static void run_embed(void *ctx, int64_t begin, int64_t end)
{
    const struct embed_job *job = ctx;
    int64_t dim = job->table->n_col;
    for (int64_t t = begin; t < end; t++) {
        float *x = job->x + t * dim;
        int32_t id = (int32_t)(job->id[t] - job->table->first);
        if (id < 0 || id >= job->table->n_row) {
            for (int64_t k = 0; k < dim; k++)
                x[k] = -0.0f;
            continue;
        }
        if (!job->table->data) {
            job->table->rows->get(job->table->rows, id, 1, x);
            lb_dtype_round((enum lb_dtype)job->lk->type, x, dim);
            continue;
        }
        struct lk_embed args = {.x = x, .table = job->table->data, .id = &id, .n_tok = 1, .dim = dim};
        job->lk->embed(&args, 0, 1);
    }
}

/* A token reads a row of the file, and the kernel maps some 64 KiB around it: a whole table would soon be in memory
 * that the head holds too, so they are given back behind some tokens, and at the end of a step. */
#define EMBED_MANY 32

void lb_cpu_embed(struct lb_backend *be, struct lb_buf *x, const struct lb_table *table)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    int64_t n_tok = c->step->n_tok;
    for (int64_t t = 0, n; t < n_tok; t += n) {
        n = n_tok - t < EMBED_MANY ? n_tok - t : EMBED_MANY;
        struct embed_job job = {&c->lk, table, c->id + t, x->data + t * table->n_col};
        lb_team_run_even(c->team, run_embed, &job, n, lb_cpu_grain(c, n, 4));
        if (table->rows->forget && !lb_cpu_screen_reads(c, table))
            table->rows->forget(table->rows);
    }
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
    lb_team_run_even(c->team, run_norm, &job, n_item, lb_cpu_grain(c, n_item, 8));
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
    lb_team_run_even(c->team, run_norm_add, &job, n_tok, lb_cpu_grain(c, n_tok, 8));
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
    if (a->w->cols.n_col == 0 && a->epilogue == LB_STORE && !a->bias) { /* a rank's segments may all be empty: +0 */
        memset(a->y_rows->data, 0, (size_t)(n_tok * a->w->n_all) * sizeof *a->y_rows->data);
        return;
    }
    struct lk_act act = {a->a->data, n_tok, &a->a->cols};
    struct lk_lora lora = {.strip = 0};
    bool adapted = lb_cpu_lora_down(c, &act, a->w, &lora);
    int64_t at = 0;
    for (const struct lb_matrix *m = a->w; m; at += m->n_out, m = m->next) {
        struct lk_linear args = {.a = {a->a->data, n_tok, &a->a->cols},
                                 .epilogue = of[a->epilogue],
                                 .bias = a->bias ? a->bias + at : NULL,
                                 .y_ld = a->w->n_all};
        lb_cpu_set_weights(&args, m);
        if (a->epilogue == LB_SWIGLU)
            args.out = (struct lk_act){a->y_act->data, n_tok, &a->y_act->cols};
        else
            args.y = a->y_rows->data + at;
        if (adapted)
            args.lora = &lora;
        lb_cpu_run_product(c, &args, m->int8);
        lora.strip += lb_cpu_lora_strips(m);
    }
    c->base.counts.product_rows += c->lk.act_rows(&act);
    c->base.counts.token_rows += n_tok;
    c->base.counts.linear_s += lb_cpu_now() - begin;
}

struct finish_job {
    float *y;
    const float *part, *bias;
    int64_t width;
    bool add;
};

/* The order of the products' own epilogues: bias first, then the residual. Items are rows. */
static void run_finish(void *ctx, int64_t begin, int64_t end)
{
    const struct finish_job *job = ctx;
    for (int64_t t = begin; t < end; t++) {
        const float *part = job->part + t * job->width, *bias = job->bias;
        float *y = job->y + t * job->width;
        for (int64_t j = 0; j < job->width; j++) {
            float v = bias ? part[j] + bias[j] : part[j];
            y[j] = job->add ? y[j] + v : v;
        }
    }
}

void lb_cpu_finish(struct lb_backend *be, struct lb_buf *y, const struct lb_buf *part, const float *bias,
                   enum lb_epilogue epilogue)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    struct finish_job job = {y->data, part->data, bias, y->width, epilogue == LB_ADD};
    lb_team_run_even(c->team, run_finish, &job, c->step->n_tok, lb_cpu_grain(c, c->step->n_tok, 8));
    c->base.counts.linear_s += lb_cpu_now() - begin;
}

/* Bytes from one head's activations of this step to the next one's. */
static int64_t head_act_bytes(const struct lb_cpu *c, const struct lb_actbuf *a)
{
    int64_t n = c->step->n_tok * a->cols.packed[a->cols.n_seg];
    return a->n_head > 0 ? n * (int64_t)lb_cpu_table_of(c, a)->act_bytes : 0;
}

/* Items of all heads, n_item of them a head. */
struct heads_job {
    const struct lk_cpu *lk;
    const struct lb_heads_args *a;
    struct lk_linear first; /* of head 0 */
    int64_t n_item, act_bytes;
};

static void run_heads(void *ctx, int64_t begin, int64_t end)
{
    const struct heads_job *job = ctx;
    while (begin < end) {
        int64_t head = begin / job->n_item, from = begin % job->n_item;
        int64_t to = from + end - begin < job->n_item ? from + end - begin : job->n_item;
        struct lk_linear args = job->first;
        args.a.data = (char *)args.a.data + head * job->act_bytes;
        args.w = (const char *)args.w + (size_t)head * job->a->w->head_bytes;
        args.y += head * job->a->y_step;
        job->lk->linear(&args, from, to);
        begin += to - from;
    }
}

void lb_cpu_linear_heads(struct lb_backend *be, const struct lb_heads_args *a)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    int64_t n_tok = c->step->n_tok;
    struct heads_job job = {
        .lk = a->w->lk,
        .a = a,
        .first = {.a = {a->a->data, n_tok, &a->a->cols},
                  .epilogue = LK_EP_STORE,
                  .y = a->y->data + a->y_col,
                  .y_ld = a->y->width,
                  .l2_bytes = c->l2_bytes},
        .act_bytes = head_act_bytes(c, a->a),
    };
    lb_cpu_set_weights(&job.first, a->w);
    job.n_item = job.lk->linear_items(&job.first);
    int64_t n_item = job.n_item * a->w->n_head;
    lb_team_run(c->team, run_heads, &job, n_item, lb_cpu_grain(c, n_item, LB_CPU_CLAIMS));
    c->base.counts.product_rows += job.lk->act_rows(&job.first.a);
    c->base.counts.token_rows += n_tok;
    c->base.counts.linear_s += lb_cpu_now() - begin;
}

/* Items are tokens of all heads. */
struct round_job {
    const struct lk_cpu *lk;
    struct lk_round first; /* of head 0 */
    int64_t act_bytes, x_step;
};

static void run_round(void *ctx, int64_t begin, int64_t end)
{
    const struct round_job *job = ctx;
    int64_t n_tok = job->first.y.n_row;
    while (begin < end) {
        int64_t head = begin / n_tok, from = begin % n_tok,
                to = from + end - begin < n_tok ? from + end - begin : n_tok;
        struct lk_round args = job->first;
        args.y.data = (char *)args.y.data + head * job->act_bytes;
        args.x += head * job->x_step;
        job->lk->round(&args, from, to);
        begin += to - from;
    }
}

void lb_cpu_round(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, int64_t x_col, int64_t x_step)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    struct round_job job = {
        lb_cpu_table_of(c, y), {{y->data, c->step->n_tok, &y->cols}, x->data + x_col, x->width}, 0, x_step};
    job.act_bytes = head_act_bytes(c, y);
    int64_t n_item = c->step->n_tok * (y->n_head > 0 ? y->n_head : 1);
    lb_team_run_even(c->team, run_round, &job, n_item, lb_cpu_grain(c, n_item, 8));
    c->base.counts.norm_s += lb_cpu_now() - begin;
}

void lb_cpu_latent(struct lb_backend *be, const struct lb_latent_args *a)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    struct latent_job job = {&c->lk,
                             {.qkv = a->qkv->data,
                              .q = a->q->data,
                              .kv = a->kv->data,
                              .w = a->w,
                              .n_tok = c->step->n_tok,
                              .n_head = a->n_head,
                              .nope_dim = a->nope_dim,
                              .n_rot = a->n_rot,
                              .kv_rank = a->kv_rank,
                              .eps = a->eps}};
    lb_team_run_even(c->team, run_latent, &job, c->step->n_tok, lb_cpu_grain(c, c->step->n_tok, 8));
    c->base.counts.norm_s += lb_cpu_now() - begin;
}

/* A decoding row reads pages that no other reads, once a layer: products until then may fetch them. Whether they
 * should depends on how much the processor's last cache keeps for so long, which others may use as well, and is found
 * out layer by layer, both ways in turn: by what attention took since `begin`, and what products lose to the fetches,
 * which is less than their times differ by. Not where attention takes so little that nothing could be gained. */
#define FETCH_COSTS (1.0 / 48) /* of the time between two layers' attention */
#define LEAST_SHARE (1.0 / 16) /* of the same time */

static void look_ahead(struct lb_cpu *c, const struct lb_attend_args *a, const struct lk_kv *kv, double begin)
{
    const struct lb_kv_mem *mem = a->kv;
    const struct lb_step *s = c->step;
    const int64_t n_page = mem->spec.n_page * mem->spec.n_kv_head; /* of a layer */
    const double now = lb_cpu_now(), between = begin - c->attended;
    if (c->soon_tune)
        lb_tune_took(c->soon_tune, now - begin + (lb_tune_way(c->soon_tune) ? FETCH_COSTS * between : 0));
    c->attended = now;
    c->soon_tune = NULL;
    c->soon.n = 0;
    if (c->lk.tile_rows == 0 || a->layer == 0 || a->layer + 1 == mem->spec.n_layer ||
        now - begin < LEAST_SHARE * between)
        return;
    c->soon_tune = lb_tune_of(&c->soons, (const int64_t[4]){lb_tune_size(s->n_tok), lb_tune_size(s->n_page)});
    if (lb_tune_way(c->soon_tune))
        c->soon = (struct lk_soon){.k = (const char *)kv->k + n_page * kv->k_page_bytes,
                                   .v = (const char *)kv->v + n_page * kv->v_page_bytes,
                                   .k_bytes = kv->n_kv_head * kv->k_page_bytes,
                                   .v_bytes = kv->n_kv_head * kv->v_page_bytes,
                                   .page = s->page,
                                   .n = 2 * (int64_t)s->n_page};
}

/* The layer's planes. */
static struct lk_kv plane_of(const struct lb_attend_args *a)
{
    const struct lb_kv_mem *mem = a->kv;
    const int64_t n_before = a->layer * mem->spec.n_page * mem->spec.n_kv_head;
    return (struct lk_kv){
        .k = mem->k + n_before * mem->k_page_bytes,
        .v = mem->v + n_before * mem->v_page_bytes,
        .k_page_bytes = mem->k_page_bytes,
        .v_page_bytes = mem->v_page_bytes,
        .n_kv_head = mem->spec.n_kv_head,
        .head_dim = mem->spec.head_dim,
        .v_dim = mem->spec.v_dim,
    };
}

void lb_cpu_rope_kv(struct lb_cpu *c, const struct lb_attend_args *a)
{
    const struct lb_step *s = c->step;
    struct rope_kv_job rope = {
        &c->lk,
        {.qkv = a->qkv->data,
         .cos = c->cos,
         .sin = c->sin,
         .q = c->q,
         .kv = plane_of(a),
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
    lb_team_run_even(c->team, run_rope_kv, &rope, s->n_tok, lb_cpu_grain(c, s->n_tok, 8));
}

void lb_cpu_attend(struct lb_backend *be, const struct lb_attend_args *a)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c))
        return;
    double begin = lb_cpu_now();
    const struct lb_step *s = c->step;
    const struct lb_kv_mem *mem = a->kv;
    const struct lk_kv kv = plane_of(a);
    lb_cpu_rope_kv(c, a);
    /* from one queue threads claim in turn, so that a thread's next claim is likely to lie behind one of each other */
    const int64_t grain = lb_cpu_grain(c, c->n_item, LB_CPU_CLAIMS);
    struct attend_job attend = {
        &c->lk,
        {.out = {a->out->data, s->n_tok, &a->out->cols},
         .out_head_bytes = head_act_bytes(c, a->out),
         .q = c->q,
         .kv = kv,
         .item = c->item,
         .n_item = c->n_item,
         .skip_items = c->in_ranges ? 0 : (c->base.n_thread - 1) * grain,
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
    if (c->in_ranges)
        lb_team_run_ranges(c->team, run_attend, &attend, c->item_range);
    else
        lb_team_run(c->team, run_attend, &attend, c->n_item, grain);
    if (mem->index)
        lb_cpu_attend_chosen(c, mem->index, &attend.args);
    look_ahead(c, a, &kv, begin);
    c->base.counts.attend_s += lb_cpu_now() - begin;
}
