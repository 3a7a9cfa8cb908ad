/* The CPU backend's LM head: over the whole vocabulary, or over a rank's part of it, whose candidates are merged where
 * the parts meet. */
#include "core/backend/backend_cpu.h"

struct top_job {
    const struct lk_cpu *lk;
    struct lk_top args;
};

static void run_top(void *ctx, int64_t begin, int64_t end)
{
    struct top_job *job = ctx;
    job->lk->top(&job->args, begin, end);
}

/* Log-sum-exp and best candidates of the rows in top_of. */
static void find_top(struct lb_cpu *c, int64_t n_row, const struct lk_cols *seg)
{
    struct top_job top = {&c->lk,
                          {.n_row = n_row,
                           .n_vocab = seg->n_col,
                           .logits = c->head.top_of,
                           .seg = seg->begin,
                           .n_seg = seg->n_seg,
                           .lse = c->head.lse,
                           .id = c->head.top_id,
                           .value = c->head.top_value}};
    lb_team_run(c->team, run_top, &top, n_row, 1);
}

static void whole_product(struct lb_cpu *c, const struct lk_act *a, const struct lb_matrix *w)
{
    struct lk_linear args = {.a = *a, .epilogue = LK_EP_HEAD, .best = c->head.best, .logits = c->head.logits_of};
    lb_cpu_set_weights(&args, w);
    lb_cpu_run_product(c, &args, false);
}

/* Fills head.best, and logits of rows that ask for them. */
static void product(struct lb_cpu *c, const struct lb_actbuf *buf, const struct lb_matrix *w)
{
    const struct lk_act a = {buf->data, c->step->n_out, &buf->cols};
    const bool screens = lb_cpu_screens(c, w);
    const double begin = lb_cpu_now();
    if (!screens || !lb_cpu_screen(c, &a))
        whole_product(c, &a, w);
    if (screens)
        lb_cpu_screen_took(c, a.n_row, lb_cpu_now() - begin);
}

void lb_cpu_head(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c) || c->step->n_out == 0)
        return;
    if (w->n_out != c->head.n_vocab) {
        lb_err_set(&c->err, LB_E_USAGE, "the LM head has %lld rows, reserved were %lld", (long long)w->n_out,
                   (long long)c->head.n_vocab);
        return;
    }
    double begin = lb_cpu_now();
    lb_head_place(&c->head, c->step);
    product(c, a, w);
    if (lb_head_list(&c->head, c->step, LB_OUT_LOGITS | LB_OUT_TOP) > 0)
        find_top(c, c->step->n_out, &c->head.vocab);
    lb_team_run(c->team, lb_head_reduce_rows, &c->head, c->step->n_out, 16);
    c->base.counts.head_s += lb_cpu_now() - begin;
}

void lb_cpu_head_part(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w, int64_t first,
                      void *out)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c) || c->step->n_out == 0)
        return;
    if (first < 0 || w->n_out > c->head.n_vocab - first) {
        lb_err_set(&c->err, LB_E_USAGE, "the LM head has rows %lld to %lld, reserved were %lld", (long long)first,
                   (long long)(first + w->n_out), (long long)c->head.n_vocab);
        return;
    }
    double begin = lb_cpu_now();
    lb_head_place(&c->head, c->step);
    product(c, a, w);
    struct lb_head_put job = {.head = &c->head,
                              .step = c->step,
                              .first = first,
                              .n = w->n_out,
                              .n_block = lb_head_blocks(w->n_out),
                              .count = lb_step_outputs(c->step),
                              .out = out};
    lb_head_own(&c->head, first, w->n_out, &job.own);
    if (lb_head_list(&c->head, c->step, LB_OUT_TOP) > 0)
        find_top(c, c->step->n_out, &job.own);
    lb_team_run(c->team, lb_head_put_rows, &job, c->step->n_out, 16);
    c->base.counts.head_s += lb_cpu_now() - begin;
}

float *lb_cpu_part_logits(struct lb_backend *be, int64_t j)
{
    return lb_cpu_of(be)->head.logits_of[j];
}

const struct lb_cand *lb_cpu_head_merge(struct lb_backend *be, const struct lb_step *step,
                                        const struct lb_head_part *part, int n_part)
{
    struct lb_cpu *c = lb_cpu_of(be);
    double begin = lb_cpu_now();
    lb_head_place(&c->head, step);
    struct lb_head_join job = {&c->head, step, part, lb_step_outputs(step), n_part};
    bool asked = job.count.n_top + job.count.n_row > 0;
    lb_team_run(c->team, lb_head_join_rows, &job, step->n_out, asked ? lb_cpu_grain(c, step->n_out, 4) : step->n_out);
    if (lb_head_list(&c->head, step, LB_OUT_LOGITS) > 0) {
        find_top(c, step->n_out, &c->head.vocab);
        for (int64_t j = 0; j < step->n_out; j++)
            if (c->head.top_of[j])
                lb_head_whole(&c->head, j);
    }
    c->base.counts.head_s += lb_cpu_now() - begin;
    return c->head.cand;
}
