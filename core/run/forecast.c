#include "core/run/forecast.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/run/probe.h"
#include "core/run/standin.h"

#define LEAST_SAMPLE 4
#define MOST_SAMPLE 64
#define SAMPLE_S 6.0                    /* what all samples together are to take */
#define READ_TOKENS 12                  /* reading the weights takes as long as so many tokens of arithmetic, about */
#define POOL_BYTES ((int64_t)128 << 20) /* of pages that are read: more than caches hold */

/* What a step takes in units of a token's products: only to choose steps by, and to tell the kinds of work apart. */
struct work {
    double linear, attend, head;
};

struct sums {
    struct work work;
    double squares; /* of the steps' work */
    int64_t n_step, n_tok, n_seq;
};

struct caster {
    const struct lb_forecast_spec *spec;
    struct lb_forecast *f;
    struct lb_plan *plan; /* of the whole model */
    struct lb_plan small; /* of the stand-in */
    struct lb_standin model;
    struct lb_probe probe;
    struct work unit;
    struct sums all;
    struct lb_probe_seq *seq; /* [max_seqs] */
    struct lb_step step;
    /* the samples */
    int n_sample;
    double passed; /* work of the steps so far */
    struct lb_probe_time time;
    struct work weight;
    double tokens;
};

/* ---- the steps ---- */

static void set_units(struct caster *c)
{
    const struct lb_config *k = c->spec->config;
    double layers = (double)k->n_layer * c->spec->layer_bytes / 2;
    if (k->moe.n_expert > 0)
        layers *= (double)k->moe.n_used / (double)k->moe.n_expert;
    double heads = (double)(k->n_layer * k->n_head * (k->head_dim + k->v_dim));
    /* sums of attention are a third as fast as products */
    c->unit = (struct work){1, 3 * heads / (layers + 1), (double)(k->n_vocab * k->dim) / (layers + 1)};
}

static struct work work_of(const struct caster *c, const struct lb_step *step)
{
    double seen = 0;
    for (int32_t t = 0; t < step->n_tok; t++)
        seen += step->pos[t] + 1;
    return (struct work){c->unit.linear * (double)(step->n_tok + READ_TOKENS), c->unit.attend * seen,
                         c->unit.head * (double)step->n_out};
}

static double total(const struct work *w)
{
    return w->linear + w->attend + w->head;
}

static enum lb_status count(void *ctx, const struct lb_sched *s, const struct lb_step *step, struct lb_err *err)
{
    struct caster *c = ctx;
    struct work w = work_of(c, step);
    (void)s;
    (void)err;
    c->all.work.linear += w.linear;
    c->all.work.attend += w.attend;
    c->all.work.head += w.head;
    c->all.squares += total(&w) * total(&w);
    c->all.n_step++;
    c->all.n_tok += step->n_tok;
    c->all.n_seq += step->n_seq;
    return LB_OK;
}

/* ---- the samples ---- */

static enum lb_status pass(struct caster *c, const struct lb_step *step, struct lb_probe_time *sum, struct lb_err *err)
{
    *sum = (struct lb_probe_time){0};
    for (int i = 0; i < c->model.n_kind; i++) {
        const struct lb_standin_kind *k = &c->model.kind[i];
        struct lb_probe_time t;
        LB_TRY(lb_probe_pass(&c->probe, step, k->first, k->end, &t, err));
        sum->linear += k->share * t.linear;
        sum->attend += k->share * t.attend;
        sum->norm += k->share * t.norm;
        sum->head = c->model.head_share * t.head;
        sum->total = t.total - t.linear - t.attend - t.norm - t.head; /* what does not come again with each layer */
    }
    return LB_OK;
}

static enum lb_status sample(struct caster *c, const struct lb_step *from, const struct work *w, struct lb_err *err)
{
    int32_t j = 0;
    for (int32_t i = 0; i < from->n_seq; i++) {
        int32_t t = from->seq_start[i], last = from->seq_start[i + 1] - 1;
        while (j < from->n_out && from->out_tok[j] < last)
            j++;
        c->seq[i] = (struct lb_probe_seq){from->pos[t], last - t + 1, j < from->n_out && from->out_tok[j] == last};
    }
    if (!lb_probe_fill(&c->step, c->seq, from->n_seq, c->small.kv_pages))
        return LB_OK; /* cannot be timed here: others stand for it */
    struct lb_probe_time t;
    LB_TRY(pass(c, &c->step, &t, err));
    /* a step is chosen the more often the more work it is: so each counts by its shares */
    double by = 1 / total(w);
    c->time.linear += by * (t.linear + t.norm);
    c->time.attend += by * t.attend;
    c->time.head += by * t.head;
    c->time.total += by * t.total;
    c->weight.linear += by * w->linear;
    c->weight.attend += by * w->attend;
    c->weight.head += by * w->head;
    c->tokens += by * (double)from->n_tok;
    c->f->n_sample++;
    return LB_OK;
}

/* Steps at even distances of work. */
static enum lb_status watch(void *ctx, const struct lb_sched *s, const struct lb_step *step, struct lb_err *err)
{
    struct caster *c = ctx;
    struct work w = work_of(c, step);
    double each = total(&c->all.work) / c->n_sample, before = c->passed;
    (void)s;
    c->passed += total(&w);
    bool chosen = (int64_t)(before / each + 0.5) != (int64_t)(c->passed / each + 0.5);
    return chosen ? sample(c, step, &w, err) : LB_OK;
}

/* Touches the pages, which were never written, and the buffers of a step; says how long a pass takes a unit of work. */
static enum lb_status warm_up(struct caster *c, double *unit_s, struct lb_err *err)
{
    int64_t at = 0, n = c->plan->batch_tokens, of_seq = 64;
    struct lb_probe_time t;
    for (int i = 0; i < 2; i++) {
        int32_t n_seq = 0;
        for (int64_t left = n; left > 0 && n_seq < c->step.limit.n_seq; left -= c->seq[n_seq++].n_tok)
            c->seq[n_seq] = (struct lb_probe_seq){0, (int32_t)(left < of_seq ? left : of_seq), true};
        if (!lb_probe_fill(&c->step, c->seq, n_seq, c->small.kv_pages))
            return LB_OK;
        for (; i == 0 && at < c->small.kv_pages && c->step.n_new < c->step.limit.n_page; at++)
            c->step.new_page[c->step.n_new++] = (int32_t)at;
        double begin = lb_now();
        struct work w = work_of(c, &c->step);
        LB_TRY(pass(c, &c->step, &t, err));
        *unit_s = (lb_now() - begin) / total(&w);
    }
    return LB_OK;
}

static enum lb_status open_standin(struct caster *c, struct lb_err *err)
{
    const struct lb_forecast_spec *s = c->spec;
    LB_TRY(lb_standin_open(&c->model, s->header, s->backend, err));
    c->small = *c->plan;
    int64_t page = (int64_t)lb_model_page_bytes(c->model.model), own = 2 * (int64_t)c->plan->limit.n_seq;
    int64_t pool = own + c->plan->batch_most / LK_PAGE_TOKENS + POOL_BYTES / (page > 0 ? page : 1) + 1;
    c->small.kv_pages = pool < c->plan->kv_pages ? pool : c->plan->kv_pages;
    c->probe = (struct lb_probe){c->model.model, s->backend, lb_comm_self(), &c->model.config, &c->small};
    c->seq = lb_mem_new((size_t)c->plan->limit.n_seq + 1, sizeof *c->seq);
    if (!c->seq)
        return lb_err_memory(err, "a measurement", (size_t)c->plan->limit.n_seq * sizeof *c->seq);
    LB_TRY(lb_step_init(&c->step, c->plan->limit, err));
    return lb_model_reserve(c->model.model, c->plan->limit, c->plan->max_out, c->small.kv_pages, err);
}

/* The size of steps is chosen as a run chooses it. */
static enum lb_status choose_batch(struct caster *c, struct lb_err *err)
{
    struct lb_plan *plan = c->plan;
    if (!plan->auto_batch || plan->batch_most == plan->batch_tokens)
        return LB_OK;
    c->small.expect.work_tokens *= (double)c->spec->config->n_layer / (double)c->model.config.n_layer;
    LB_TRY(lb_probe_choose_batch(&c->probe, c->spec->world, &c->small, err));
    memcpy(plan->why_batch, c->small.why_batch, sizeof plan->why_batch);
    lb_plan_take_batch(plan, c->small.batch_tokens);
    return LB_OK;
}

static enum lb_status measure(struct caster *c, struct lb_err *err)
{
    double begin = lb_now(), unit_s = 0;
    struct lb_forecast *f = c->f;
    const struct lb_sim_watch on_step = {watch, c};
    int64_t peak;
    LB_TRY(warm_up(c, &unit_s, err));
    double each = unit_s * c->all.squares / total(&c->all.work); /* of a step that is chosen, in the mean */
    double n = each > 0 ? SAMPLE_S / each : MOST_SAMPLE;
    c->n_sample = n < LEAST_SAMPLE ? LEAST_SAMPLE : n > MOST_SAMPLE ? MOST_SAMPLE : (int)n;
    LB_TRY(lb_sim_run(c->spec->rows, c->plan, c->spec->shares, &on_step, &peak, err));
    const struct work *all = &c->all.work;
    f->measured = f->n_sample > 0;
    if (!f->measured)
        return LB_OK;
    f->linear_s = c->time.linear / c->weight.linear * all->linear;
    f->attend_s = c->time.attend / c->weight.attend * all->attend;
    f->head_s = c->weight.head > 0 ? c->time.head / c->weight.head * all->head : 0;
    f->other_s = c->time.total / c->tokens * (double)c->all.n_tok;
    f->run_s = f->linear_s + f->attend_s + f->head_s + f->other_s;
    f->measure_s = lb_now() - begin;
    return LB_OK;
}

/* ---- both ---- */

static enum lb_status simulate(struct caster *c, struct lb_err *err)
{
    const struct lb_sim_watch on_step = {count, c};
    struct lb_forecast *f = c->f;
    const struct sums *all = &c->all;
    set_units(c);
    for (size_t i = 0; i < c->spec->rows->n; i++) {
        const struct lb_sim_row *row = &c->spec->rows->row[i];
        f->n_never += lb_sched_peak_pages(row->n_prompt, row->n_new) > c->plan->kv_pages;
    }
    LB_TRY(lb_sim_run(c->spec->rows, c->plan, c->spec->shares, &on_step, &f->peak_pages, err));
    f->n_step = all->n_step;
    f->n_tok = all->n_tok;
    if (all->n_step == 0)
        return LB_OK;
    f->tokens_mean = (double)all->n_tok / (double)all->n_step;
    f->seqs_mean = (double)all->n_seq / (double)all->n_step;
    f->fill = f->tokens_mean / (double)c->plan->batch_tokens;
    return LB_OK;
}

enum lb_status lb_forecast_make(struct lb_forecast *f, const struct lb_forecast_spec *spec, struct lb_plan *plan,
                                struct lb_err *err)
{
    struct caster c = {.spec = spec, .f = f, .plan = plan};
    *f = (struct lb_forecast){0};
    lb_standin_cut(&c.model, spec->config, spec->layer_bytes);
    double bytes = (double)c.model.config.n_layer * spec->layer_bytes, room = (double)lb_mem_available() / 2;
    enum lb_status status = LB_OK;
    bool fits = bytes < room && spec->header;
    if (!spec->header)
        snprintf(f->no_time, sizeof f->no_time, "none: this device computes nothing");
    else if (!fits)
        snprintf(f->no_time, sizeof f->no_time, "not measured: some layers need %.1f GiB, half of what is free is %.1f",
                 bytes / 1073741824, room / 1073741824);
    if (fits)
        status = open_standin(&c, err);
    if (status == LB_OK && fits)
        status = choose_batch(&c, err);
    else if (plan->auto_batch)
        lb_plan_take_batch(plan, plan->batch_tokens);
    if (status == LB_OK)
        status = simulate(&c, err);
    if (status == LB_OK && fits && f->n_step > 0)
        status = measure(&c, err);
    lb_mem_free(c.seq);
    lb_step_release(&c.step);
    lb_standin_close(&c.model);
    return status;
}
