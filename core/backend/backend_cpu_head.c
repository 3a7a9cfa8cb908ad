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

/* Log-sum-exp and best candidates of the rows in top_of. */
static void find_top(struct lb_cpu *c, int64_t n_row, const struct lk_cols *seg)
{
    struct top_job top = {&c->lk,
                          {.n_row = n_row,
                           .n_vocab = seg->n_col,
                           .logits = c->top_of,
                           .seg = seg->begin,
                           .n_seg = seg->n_seg,
                           .lse = c->lse,
                           .id = c->top_id,
                           .value = c->top_value}};
    lb_team_run(c->team, run_top, &top, n_row, 1);
}

/* Which of the two flags a row goes by. */
static int32_t kind_of(const struct lb_step *s, int64_t j)
{
    return s->out_flags[j] & LB_OUT_LOGITS ? LB_OUT_LOGITS : s->out_flags[j] & LB_OUT_TOP;
}

/* Where the step's rows have their logits: the i-th that asks for anything at i * ld_logits. */
static void place_logits(struct lb_cpu *c, const struct lb_step *s)
{
    float *base = (float *)(void *)c->logits.base;
    for (int64_t j = 0, i = 0; j < s->n_out; j++)
        c->logits_of[j] = kind_of(s, j) ? base + i++ * c->ld_logits : NULL;
}

/* Rows of which kinds get their candidates here. Returns how many they are. */
static int64_t list_top(struct lb_cpu *c, const struct lb_step *s, int32_t kinds)
{
    int64_t n = 0;
    for (int64_t j = 0; j < s->n_out; j++) {
        c->top_of[j] = kind_of(s, j) & kinds ? c->logits_of[j] : NULL;
        n += c->top_of[j] != NULL;
    }
    return n;
}

/* The log of the sum of exponentials of all segments from those of each; it goes by the segments, not by who had them.
 */
static double join_lse(const double *lse, int n, double max)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        if (lse[i] != -INFINITY)
            sum += exp(lse[i] - max);
    return max + log(sum);
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
    *cand = (struct lb_cand){.best = -1, .best_logit = -INFINITY, .finite = true};
    if (c->logits_of[j]) {
        cand->top_id = c->top_id + j * LK_TOP;
        cand->top_logit = c->top_value + j * LK_TOP;
    }
}

/* Of a row that is here as a whole. */
static void cand_row(const struct lb_cpu *c, int64_t j, struct lb_cand *cand)
{
    cand->logits = c->logits_of[j];
    cand->lse = join_lse(c->lse + j * c->vocab.n_seg, c->vocab.n_seg, (double)cand->best_logit);
}

static void product(struct lb_cpu *c, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    struct lk_linear args = {
        .a = {a->data, c->step->n_out, &a->cols}, .epilogue = LK_EP_HEAD, .best = c->best, .logits = c->logits_of};
    lb_cpu_set_weights(&args, w);
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
        if (c->logits_of[j])
            cand_row(c, j, &c->cand[j]);
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
    place_logits(c, c->step);
    product(c, a, w);
    if (list_top(c, c->step, LB_OUT_LOGITS | LB_OUT_TOP) > 0)
        find_top(c, c->step->n_out, &c->vocab);
    lb_team_run(c->team, reduce_rows, c, c->step->n_out, 16);
    c->base.counts.head_s += lb_cpu_now() - begin;
}

/* ---- a part of the vocabulary ---- */

/* The segments that lie in ids first .. first + n - 1; an empty one between two parts is in both. */
static void own_segments(const struct lb_cpu *c, int64_t first, int64_t n, struct lk_cols *own)
{
    *own = (struct lk_cols){.n_col = n};
    for (int is = 0; is < c->vocab.n_seg; is++)
        if (c->vocab.begin[is] >= first && c->vocab.begin[is + 1] <= first + n) {
            own->begin[own->n_seg++] = c->vocab.begin[is] - first;
            own->begin[own->n_seg] = c->vocab.begin[is + 1] - first;
        }
}

static void put_top(const struct lb_cpu *c, int64_t j, int64_t first, int n_seg, struct lb_head_top *top)
{
    for (int is = 0; is < LK_MAX_SEG; is++)
        top->lse[is] = is < n_seg ? c->lse[j * n_seg + is] : -INFINITY;
    for (int64_t i = j * LK_TOP, k = 0; k < LK_TOP; i++, k++) {
        top->id[k] = c->top_id[i] < 0 ? -1 : (int32_t)(first + c->top_id[i]);
        top->value[k] = c->top_value[i];
    }
}

struct part_job {
    struct lb_cpu *c;
    const struct lb_step *step;
    int64_t first, n, n_block;
    struct lk_cols own;
    struct lb_out_counts count;
    uint8_t *out;
};

/* What is said of rows begin .. end. */
static void put_rows(void *ctx, int64_t begin, int64_t end)
{
    const struct part_job *job = ctx;
    const struct lb_cpu *c = job->c;
    struct lb_head_best *best = (struct lb_head_best *)(void *)job->out;
    struct lb_head_top *top = (struct lb_head_top *)(void *)(job->out + lb_head_top_at(job->count.n_out));
    float *row = (float *)(void *)(job->out + lb_head_row_at(&job->count));
    for (int64_t j = 0; j < end; j++) {
        int32_t kind = kind_of(job->step, j);
        if (j >= begin) {
            struct lb_cand cand;
            cand_init(c, j, &cand);
            for (const struct lk_best *b = c->best + j * job->n_block, *last = b + job->n_block; b < last; b++)
                take_best(&cand, b->value, b->id, b->finite);
            int32_t id = cand.best < 0 ? -1 : (int32_t)(job->first + cand.best);
            best[j] = (struct lb_head_best){cand.best_logit, id, cand.finite};
            if (kind == LB_OUT_TOP)
                put_top(c, j, job->first, job->own.n_seg, top);
            if (kind == LB_OUT_LOGITS)
                memcpy(row, c->logits_of[j], (size_t)job->n * sizeof *row);
        }
        top += kind == LB_OUT_TOP;
        row += kind == LB_OUT_LOGITS ? job->n : 0;
    }
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
    place_logits(c, c->step);
    product(c, a, w);
    struct part_job job = {.c = c,
                           .step = c->step,
                           .first = first,
                           .n = w->n_out,
                           .n_block = blocks_of(w->n_out),
                           .count = lb_step_outputs(c->step),
                           .out = out};
    own_segments(c, first, w->n_out, &job.own);
    if (list_top(c, c->step, LB_OUT_TOP) > 0)
        find_top(c, c->step->n_out, &job.own);
    lb_team_run(c->team, put_rows, &job, c->step->n_out, 16);
    c->base.counts.head_s += lb_cpu_now() - begin;
}

float *lb_cpu_part_logits(struct lb_backend *be, int64_t j)
{
    return lb_cpu_of(be)->logits_of[j];
}

/* ---- all parts ---- */

struct merge_job {
    struct lb_cpu *c;
    const struct lb_step *step;
    const struct lb_head_part *part;
    struct lb_out_counts count;
    int n_part;
};

/* The candidates of a row from those of its parts, whose ids ascend from part to part. */
static void merge_top(const struct merge_job *job, int64_t j, size_t at)
{
    const struct lb_head_top *top[LK_MAX_SEG];
    double lse[LK_MAX_SEG * LK_MAX_SEG];
    int next[LK_MAX_SEG] = {0}, n_lse = 0;
    for (int p = 0; p < job->n_part; p++) {
        top[p] = (const struct lb_head_top *)(const void *)((const uint8_t *)job->part[p].data + at);
        for (int is = 0; is < LK_MAX_SEG; is++)
            lse[n_lse++] = top[p]->lse[is];
    }
    struct lb_cand *cand = &job->c->cand[j];
    cand->lse = join_lse(lse, n_lse, (double)cand->best_logit);
    int32_t *id = job->c->top_id + j * LK_TOP;
    float *value = job->c->top_value + j * LK_TOP;
    for (int k = 0; k < LK_TOP; k++) {
        int from = -1;
        for (int p = 0; p < job->n_part; p++)
            if (next[p] < LK_TOP && top[p]->id[next[p]] >= 0 &&
                (from < 0 || top[p]->value[next[p]] > top[from]->value[next[from]]))
                from = p;
        id[k] = from < 0 ? -1 : top[from]->id[next[from]];
        value[k] = from < 0 ? -INFINITY : top[from]->value[next[from]++];
    }
}

/* Rows begin .. end from what the parts say of them; whole rows get their logits alone. */
static void merge_rows(void *ctx, int64_t begin, int64_t end)
{
    const struct merge_job *job = ctx;
    struct lb_cpu *c = job->c;
    size_t top_at = lb_head_top_at(job->count.n_out), row_at = lb_head_row_at(&job->count);
    for (int64_t j = 0, i_top = 0, i_row = 0; j < end; j++) {
        int32_t kind = kind_of(job->step, j);
        if (j >= begin) {
            struct lb_cand *cand = &c->cand[j];
            cand_init(c, j, cand);
            for (int p = 0; p < job->n_part; p++) {
                const struct lb_head_best *best = (const struct lb_head_best *)job->part[p].data + j;
                take_best(cand, best->value, best->id, best->finite != 0);
            }
            if (kind == LB_OUT_TOP)
                merge_top(job, j, top_at + (size_t)i_top * sizeof(struct lb_head_top));
            for (int p = 0; p < job->n_part && kind == LB_OUT_LOGITS; p++) {
                const struct lb_head_part *part = &job->part[p];
                const float *from = (const float *)(const void *)((const uint8_t *)part->data + row_at);
                memcpy(c->logits_of[j] + part->begin, from + i_row * part->n, (size_t)part->n * sizeof *from);
            }
        }
        i_top += kind == LB_OUT_TOP;
        i_row += kind == LB_OUT_LOGITS;
    }
}

const struct lb_cand *lb_cpu_head_merge(struct lb_backend *be, const struct lb_step *step,
                                        const struct lb_head_part *part, int n_part)
{
    struct lb_cpu *c = lb_cpu_of(be);
    double begin = lb_cpu_now();
    place_logits(c, step);
    struct merge_job job = {c, step, part, lb_step_outputs(step), n_part};
    bool asked = job.count.n_top + job.count.n_row > 0;
    lb_team_run(c->team, merge_rows, &job, step->n_out, asked ? lb_cpu_grain(c, step->n_out, 4) : step->n_out);
    if (list_top(c, step, LB_OUT_LOGITS) > 0) {
        find_top(c, step->n_out, &c->vocab);
        for (int64_t j = 0; j < step->n_out; j++)
            if (c->top_of[j])
                cand_row(c, j, &c->cand[j]);
    }
    c->base.counts.head_s += lb_cpu_now() - begin;
    return c->cand;
}
