#include "core/run/probe.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/mem.h"
#include "core/model/kv.h"
#include "core/run/flow.h"

#define LEAST_TOKENS 256
#define MAX_SIZE 8 /* sizes that are compared */
#define MAX_ROUND 9
#define LEAST_ROUND 4  /* the first one touches memory and does not count */
#define SHARE 0.015    /* of the run's expected time */
#define MOST_S 3.0     /* however long the run is */
#define SEQ_TOKENS 128 /* of the made-up prompts */
#define GOOD_ENOUGH 1.03

bool lb_probe_fill(struct lb_step *step, const struct lb_probe_seq *seq, int32_t n_seq, int64_t n_page)
{
    int64_t n_own = 0, next = 0, lent = 0;
    for (int32_t i = 0; i < n_seq; i++)
        n_own += (seq[i].pos + seq[i].n_tok - 1) / LK_PAGE_TOKENS - seq[i].pos / LK_PAGE_TOKENS + 1;
    lb_step_clear(step);
    for (int32_t i = 0; i < n_seq; i++) {
        int32_t first = seq[i].pos / LK_PAGE_TOKENS, n = (seq[i].pos + seq[i].n_tok - 1) / LK_PAGE_TOKENS + 1;
        if (step->n_seq == step->limit.n_seq || step->n_tok + seq[i].n_tok > step->limit.n_tok ||
            step->n_page + n > step->limit.n_page || n_own + (first > 0) > n_page)
            return false;
        step->seq_start[step->n_seq] = step->n_tok;
        step->page_start[step->n_seq++] = step->n_page;
        int32_t *page = step->page + step->n_page;
        for (int32_t k = 0; k < n; k++)
            page[k] = (int32_t)(k < first ? n_own + lent++ % (n_page - n_own) : next++);
        step->n_page += n;
        for (int32_t k = 0; k < seq[i].n_tok; k++) {
            int32_t t = step->n_tok++, pos = seq[i].pos + k;
            step->tok[t] = 0;
            step->pos[t] = pos;
            step->tok_page[t] = page[pos / LK_PAGE_TOKENS];
            step->rope_len[t] = pos + 1;
        }
        if (!seq[i].wanted)
            continue;
        step->out_tok[step->n_out] = step->n_tok - 1;
        step->out_flags[step->n_out++] = 0;
    }
    step->seq_start[step->n_seq] = step->n_tok;
    step->page_start[step->n_seq] = step->n_page;
    return true;
}

enum lb_status lb_probe_pass(const struct lb_probe *p, const struct lb_step *step, int first, int end,
                             struct lb_probe_time *t, struct lb_err *err)
{
    const struct lb_backend_counts was = p->backend->counts, *now = &p->backend->counts;
    const struct lb_cand *cand;
    double waited = p->comm->seconds, begin = lb_now();
    lb_model_set_layers(p->model, first, end);
    enum lb_status status = lb_model_forward(p->model, step, &cand, err);
    lb_model_set_layers(p->model, 0, (int)p->config->n_layer);
    *t = (struct lb_probe_time){.total = lb_now() - begin,
                                .linear = now->linear_s - was.linear_s,
                                .attend = now->attend_s - was.attend_s,
                                .norm = now->norm_s - was.norm_s,
                                .head = now->head_s - was.head_s,
                                .collective = p->comm->seconds - waited};
    p->backend->counts = was;
    p->comm->seconds = waited;
    return status;
}

static bool same_kind(const struct lb_config *c, int64_t il)
{
    return c->layer[il].moe == c->layer[c->n_layer - 1].moe && !c->layer[il].index_shared;
}

int lb_probe_layer(const struct lb_config *c, int i)
{
    int n = 0, il = (int)c->n_layer - 1;
    for (int64_t k = 0; k < c->n_layer; k++)
        n += same_kind(c, k);
    if (n == 0)
        return 0;
    for (int left = i % n; !same_kind(c, il) || left-- > 0; il--)
        ;
    return il;
}

/* ---- the size of steps ---- */

/* What rank 0 decides. */
struct course {
    int64_t size[MAX_SIZE];
    int32_t n_size, n_round;
};

struct chooser {
    const struct lb_probe *p;
    struct lb_world *world;
    struct lb_plan *plan;
    struct lb_step step;
    struct course course;
    double token_s[MAX_SIZE][MAX_ROUND]; /* of one layer */
    int n_pass;
};

static enum lb_status pass_of(struct chooser *c, int64_t n_tok, double *token_s, struct lb_err *err)
{
    const struct lb_plan *plan = c->plan;
    struct lb_probe_seq seq[LB_MOST_BATCH_TOKENS / SEQ_TOKENS];
    int32_t n = 0;
    for (int64_t left = n_tok; left > 0; left -= seq[n++].n_tok)
        seq[n] = (struct lb_probe_seq){0, (int32_t)(left < SEQ_TOKENS ? left : SEQ_TOKENS), false};
    struct lb_probe_time t;
    int il = lb_probe_layer(c->p->config, c->n_pass++);
    if (!lb_probe_fill(&c->step, seq, n, plan->kv_pages))
        return lb_err_set(err, LB_E_USAGE, "steps of %lld tokens cannot be measured", (long long)n_tok);
    lb_world_beat(c->world, "measurement", c->n_pass);
    LB_TRY(lb_probe_pass(c->p, &c->step, il, il + 1, &t, err));
    *token_s = (t.linear + t.attend + t.norm + t.collective) / (double)n_tok;
    return LB_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* As many sizes and rounds as the run is worth, by the time of a first pass. */
static void set_course(struct chooser *c, double token_s)
{
    const struct lb_plan *plan = c->plan;
    double run = plan->expect.work_tokens * token_s * (double)c->p->config->n_layer, allowed = SHARE * run;
    allowed = allowed < MOST_S ? allowed : MOST_S;
    double tokens = 0;
    struct course *k = &c->course;
    *k = (struct course){0};
    if (!(token_s > 0)) /* a device that computes nothing */
        return;
    for (int64_t n = LEAST_TOKENS; n <= plan->batch_most && k->n_size < MAX_SIZE; n *= 2) {
        bool fits = n / SEQ_TOKENS <= plan->limit.n_seq && lb_kv_pages_of(n) <= plan->kv_pages;
        if (!fits || LEAST_ROUND * (tokens + (double)n) * token_s > allowed)
            break;
        tokens += (double)n;
        k->size[k->n_size++] = n;
    }
    double rounds = tokens > 0 ? allowed / (tokens * token_s) : 0;
    k->n_round = rounds < MAX_ROUND ? (int32_t)rounds : MAX_ROUND;
}

/* Rounds over all sizes, there and back, so that what slows the machine down for a while meets all of them. A rank
 * whose pass fails goes on, so that none waits for it. */
static enum lb_status rounds(struct chooser *c, struct lb_err *err)
{
    const struct course *k = &c->course;
    enum lb_status status = LB_OK;
    for (int r = 0; r < k->n_round; r++)
        for (int i = 0; i < k->n_size; i++) {
            int at = r % 2 ? k->n_size - 1 - i : i;
            enum lb_status pass = pass_of(c, k->size[at], &c->token_s[at][r], err);
            status = status == LB_OK ? pass : status;
        }
    return status;
}

static void decide(struct chooser *c, double begin)
{
    const struct course *k = &c->course;
    double mid[MAX_SIZE], best = 0;
    int at = 0;
    for (int i = 0; i < k->n_size; i++) {
        mid[i] = median(c->token_s[i] + 1, k->n_round - 1);
        best = i == 0 || mid[i] < best ? mid[i] : best;
    }
    while (mid[at] > GOOD_ENOUGH * best)
        at++;
    c->course.size[0] = k->size[at];
    snprintf(c->plan->why_batch, sizeof c->plan->why_batch,
             "measured: %.0f %% of the best rate of 256 to %lld (%.1f s)", 100 * best / mid[at],
             (long long)k->size[k->n_size - 1], lb_now() - begin);
}

/* The course of rank 0 to all, unless one has failed. */
static enum lb_status share(struct chooser *c, enum lb_status status, struct lb_err *err)
{
    if (c->world->size == 1)
        return status;
    LB_TRY(lb_world_agree(c->world, status, err));
    return lb_world_bcast(c->world, &c->course, sizeof c->course, err);
}

static enum lb_status choose(struct chooser *c, struct lb_err *err)
{
    double token_s = 0, begin = lb_now();
    enum lb_status status = pass_of(c, LEAST_TOKENS, &token_s, err), again; /* touches memory */
    again = pass_of(c, LEAST_TOKENS, &token_s, err);
    set_course(c, token_s);
    LB_TRY(share(c, status == LB_OK ? again : status, err));
    if (c->course.n_size < 2) {
        snprintf(c->plan->why_batch, sizeof c->plan->why_batch, "the run is too short to measure it");
        lb_plan_take_batch(c->plan, c->plan->batch_tokens);
        return LB_OK;
    }
    status = rounds(c, err);
    decide(c, begin);
    LB_TRY(share(c, status, err));
    lb_plan_take_batch(c->plan, c->course.size[0]);
    return LB_OK;
}

enum lb_status lb_probe_choose_batch(const struct lb_probe *p, struct lb_world *world, struct lb_plan *plan,
                                     struct lb_err *err)
{
    if (!plan->auto_batch || plan->batch_most <= plan->batch_tokens)
        return LB_OK;
    struct chooser *c = lb_mem_new(1, sizeof *c);
    bool small = plan->limit.n_seq < LEAST_TOKENS / SEQ_TOKENS || plan->kv_pages < lb_kv_pages_of(LEAST_TOKENS) ||
                 plan->max_model_len < SEQ_TOKENS;
    enum lb_status status = LB_OK;
    if (c)
        *c = (struct chooser){.p = p, .world = world, .plan = plan};
    if (!c)
        status = lb_err_memory(err, "the measurement", sizeof *c);
    else if (!small)
        status = lb_step_init(&c->step, plan->limit, err);
    if (world->size > 1)
        status = lb_world_agree(world, status, err);
    if (status == LB_OK && small)
        lb_plan_take_batch(plan, plan->batch_tokens);
    else if (status == LB_OK)
        status = choose(c, err);
    if (c)
        lb_step_release(&c->step);
    lb_mem_free(c);
    return status;
}
