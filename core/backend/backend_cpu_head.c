/* The CPU backend's LM head: over the whole vocabulary, or over a rank's part of it, whose candidates are merged where
 * the parts meet. Both go by the same blocks and ties, so that a token's candidates do not tell which it was. */
#include <math.h>
#include <string.h>

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

/* Log-sum-exp and best candidates of the rows that asked for logits. */
static void find_top(struct lb_cpu *c, int64_t n_row)
{
    struct top_job top = {&c->lk,
                          {.n_row = n_row,
                           .n_vocab = c->n_vocab,
                           .logits = (const float *const *)c->logits_of,
                           .lse = c->lse,
                           .id = c->top_id,
                           .value = c->top_value}};
    lb_team_run(c->team, run_top, &top, n_row, 1);
}

/* Where the step's rows have their logits: the i-th that asks at base + i * ld. Returns how many ask. */
static int64_t place_logits(struct lb_cpu *c, const struct lb_step *s, float *base, int64_t ld)
{
    int64_t n_asked = 0;
    for (int64_t j = 0; j < s->n_out; j++)
        c->logits_of[j] = (s->out_flags[j] & LB_OUT_LOGITS) != 0 ? base + n_asked++ * ld : NULL;
    return n_asked;
}

/* A later candidate wins where it is larger: ids ascend, so that ties stay with the lower one. */
static void take_best(struct lb_cand *cand, float value, int32_t id, bool finite)
{
    cand->finite = cand->finite && finite;
    if (id >= 0 && (cand->best < 0 || value > cand->best_logit)) {
        cand->best = id;
        cand->best_logit = value;
    }
}

static void cand_init(const struct lb_cpu *c, int64_t j, struct lb_cand *cand)
{
    *cand = (struct lb_cand){.best = -1, .best_logit = -INFINITY, .finite = true, .logits = c->logits_of[j]};
    if (cand->logits) {
        cand->lse = c->lse[j];
        cand->top_id = c->top_id + j * LK_TOP;
        cand->top_logit = c->top_value + j * LK_TOP;
    }
}

static void product(struct lb_cpu *c, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    struct lk_linear args = {.a = {a->data, c->step->n_out, &a->cols},
                             .w = w->w,
                             .n_out = w->n_out,
                             .epilogue = LK_EP_HEAD,
                             .best = c->best,
                             .logits = c->logits_of};
    lb_cpu_run_product(c, &args);
}

static int64_t blocks_of(int64_t n)
{
    return (n + LK_HEAD_BLOCK - 1) / LK_HEAD_BLOCK;
}

/* The candidates of rows begin .. end. */
static void reduce_rows(void *ctx, int64_t begin, int64_t end)
{
    struct lb_cpu *c = ctx;
    for (int64_t j = begin; j < end; j++) {
        const struct lk_best *best = c->best + j * c->n_block;
        cand_init(c, j, &c->cand[j]);
        for (int64_t b = 0; b < c->n_block; b++)
            take_best(&c->cand[j], best[b].value, best[b].id, best[b].finite);
    }
}

void lb_cpu_head(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c) || c->step->n_out == 0)
        return;
    if (w->n_out != c->n_vocab) {
        lb_err_set(&c->err, LB_E_USAGE, "the LM head has %lld rows, reserved were %lld", (long long)w->n_out,
                   (long long)c->n_vocab);
        return;
    }
    double begin = lb_cpu_now();
    int64_t n_asked = place_logits(c, c->step, (float *)(void *)c->logits.base, c->ld_logits);
    product(c, a, w);
    if (n_asked > 0)
        find_top(c, c->step->n_out);
    lb_team_run(c->team, reduce_rows, c, c->step->n_out, 16);
    c->base.counts.head_s += lb_cpu_now() - begin;
}

void lb_cpu_head_part(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w, int64_t first,
                      void *out)
{
    struct lb_cpu *c = lb_cpu_of(be);
    if (lb_cpu_idle(c) || c->step->n_out == 0)
        return;
    if (first < 0 || w->n_out > c->n_vocab - first) {
        lb_err_set(&c->err, LB_E_USAGE, "the LM head has rows %lld to %lld, reserved were %lld", (long long)first,
                   (long long)(first + w->n_out), (long long)c->n_vocab);
        return;
    }
    double begin = lb_cpu_now();
    struct lb_head_best *best = out;
    place_logits(c, c->step, (float *)(void *)(best + c->step->n_out), w->n_out);
    product(c, a, w);
    int64_t n_block = blocks_of(w->n_out);
    for (int64_t j = 0; j < c->step->n_out; j++) {
        struct lb_cand cand;
        cand_init(c, j, &cand);
        for (const struct lk_best *b = c->best + j * n_block, *end = b + n_block; b < end; b++)
            take_best(&cand, b->value, b->id, b->finite);
        int32_t id = cand.best < 0 ? -1 : (int32_t)(first + cand.best);
        best[j] = (struct lb_head_best){cand.best_logit, id, cand.finite};
    }
    c->base.counts.head_s += lb_cpu_now() - begin;
}

struct merge_job {
    struct lb_cpu *c;
    const struct lb_head_part *part;
    int64_t n_row;
    int n_part;
};

/* Rows of the parts' logits begin .. end, one behind the other: their places in the whole row. */
static void merge_rows(void *ctx, int64_t begin, int64_t end)
{
    const struct merge_job *job = ctx;
    for (int64_t j = 0, i = 0; j < job->n_row && i < end; j++) {
        float *to = job->c->logits_of[j];
        if (!to || i++ < begin)
            continue;
        for (int p = 0; p < job->n_part; p++) {
            const struct lb_head_part *part = &job->part[p];
            const float *from = (const float *)(const void *)((const struct lb_head_best *)part->data + job->n_row);
            memcpy(to + part->begin, from + (i - 1) * part->n, (size_t)part->n * sizeof *to);
        }
    }
}

const struct lb_cand *lb_cpu_head_merge(struct lb_backend *be, const struct lb_step *step,
                                        const struct lb_head_part *part, int n_part)
{
    struct lb_cpu *c = lb_cpu_of(be);
    double begin = lb_cpu_now();
    int64_t n_asked = place_logits(c, step, (float *)(void *)c->logits.base, c->ld_logits);
    struct merge_job job = {c, part, step->n_out, n_part};
    if (n_asked > 0) {
        lb_team_run(c->team, merge_rows, &job, n_asked, lb_cpu_grain(c, n_asked, 4));
        find_top(c, step->n_out);
    }
    for (int64_t j = 0; j < step->n_out; j++) {
        cand_init(c, j, &c->cand[j]);
        for (int p = 0; p < n_part; p++) {
            const struct lb_head_best *best = (const struct lb_head_best *)part[p].data + j;
            take_best(&c->cand[j], best->value, best->id, best->finite != 0);
        }
    }
    c->base.counts.head_s += lb_cpu_now() - begin;
    return c->cand;
}
