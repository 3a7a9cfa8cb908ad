#include "core/run/crosscheck.h"

#include <math.h>

#include "core/base/mem.h"
#include "core/run/run.h"

#define CHUNK 64 /* tokens of a step */

/* Differences of all tokens so far. */
struct gap {
    double worst, sum;
    int64_t n;
};

/* A sequence, and what both models say of its new tokens. */
struct cross {
    struct lb_run *r;
    struct lb_model *model[2]; /* the run's, the other one */
    int64_t most;              /* tokens of a step */
    struct lb_step step;
};

static int32_t id_at(const struct lb_work *w, int64_t pos)
{
    return pos < w->n_prompt ? w->prompt[pos] : w->out[pos - w->n_prompt];
}

/* Positions begin .. end - 1, with all pages up to there; pages count from 0. */
static void fill_step(struct lb_step *s, const struct lb_work *w, int64_t begin, int64_t end)
{
    lb_step_clear(s);
    s->n_seq = 1;
    s->n_page = (int32_t)((end + LK_PAGE_TOKENS - 1) / LK_PAGE_TOKENS);
    for (int32_t i = 0; i < s->n_page; i++) {
        s->page[i] = i;
        if ((int64_t)i * LK_PAGE_TOKENS >= begin)
            s->new_page[s->n_new++] = i;
    }
    for (int64_t pos = begin; pos < end; pos++) {
        int32_t t = s->n_tok++;
        s->tok[t] = id_at(w, pos);
        s->pos[t] = (int32_t)pos;
        s->tok_page[t] = (int32_t)(pos / LK_PAGE_TOKENS);
        s->rope_len[t] = (int32_t)(pos < w->n_prompt ? w->n_prompt : pos + 1);
        if (pos + 1 < w->n_prompt || pos + 1 >= w->n_prompt + w->n_out)
            continue;
        s->out_tok[s->n_out] = t;
        s->out_flags[s->n_out++] = LB_OUT_LOGITS;
    }
    s->seq_start[0] = s->page_start[0] = 0;
    s->seq_start[1] = s->n_tok;
    s->page_start[1] = s->n_page;
}

/* One step through one model: the log-probabilities of the ids that follow. */
static enum lb_status score(struct lb_model *m, const struct lb_step *s, const struct lb_work *w, double *out,
                            struct lb_err *err)
{
    const struct lb_cand *cand;
    LB_TRY(lb_model_forward(m, s, &cand, err));
    for (int32_t j = 0; j < s->n_out; j++) {
        int32_t id = id_at(w, s->pos[s->out_tok[j]] + 1);
        out[j] = (double)cand[j].logits[id] - cand[j].lse;
    }
    return LB_OK;
}

static enum lb_status compare(struct cross *x, const struct lb_work *w, struct gap *gap, struct lb_err *err)
{
    double logprob[2][CHUNK];
    int64_t n = w->n_prompt + w->n_out - 1; /* nothing comes behind the last one */
    for (int64_t begin = 0, end; begin < n; begin = end) {
        end = n - begin < x->most ? n : begin + x->most;
        fill_step(&x->step, w, begin, end);
        for (int k = 0; k < 2; k++)
            LB_TRY(score(x->model[k], &x->step, w, logprob[k], err));
        for (int32_t j = 0; j < x->step.n_out; j++) {
            double d = fabs(logprob[0][j] - logprob[1][j]);
            gap->worst = d <= gap->worst ? gap->worst : d; /* a NaN stays */
            gap->sum += d;
            gap->n++;
        }
    }
    return LB_OK;
}

static enum lb_status compare_row(struct cross *x, struct lb_work *lead, struct gap *all, struct lb_err *err)
{
    struct lb_run *r = x->r;
    bool f32 = r->spec->backend->dtype == LB_F32;
    double most = f32 ? LB_CROSS_MOST_F32 : LB_CROSS_MOST_BF16, mean = f32 ? LB_CROSS_MEAN_F32 : LB_CROSS_MEAN_BF16;
    struct gap gap = {0};
    for (int32_t i = 0; i < lead->n_part; i++)
        LB_TRY(compare(x, lb_work_part(lead, i), &gap, err));
    all->worst = gap.worst <= all->worst ? all->worst : gap.worst;
    all->sum += gap.sum;
    all->n += gap.n;
    if (gap.worst <= most && (gap.n == 0 || gap.sum / (double)gap.n <= mean))
        return LB_OK;
    r->stats->verify_differ++;
    lb_log_put(
        r->spec->log, LB_LOG_ERROR,
        "--verify: row %lld: log-probabilities on cpu and %s differ by up to %.3g, by %.3g in the mean; %.3g and "
        "%.3g are allowed",
        (long long)lead->row.index, r->spec->backend->device, gap.worst, gap.sum / (double)gap.n, most, mean);
    return LB_OK;
}

enum lb_status lb_cross_rows(struct lb_run *r, struct lb_work *const *lead, int64_t n, struct lb_err *err)
{
    const struct lb_run_spec *spec = r->spec;
    struct lb_err why = LB_ERR_INIT;
    struct gap gap = {0};
    struct cross x = {.r = r, .model = {spec->model, NULL}, .most = CHUNK};
    if (x.most > spec->plan->max_out)
        x.most = spec->plan->max_out;
    struct lb_step_limits limit = {(int32_t)x.most, 1, (int32_t)((spec->plan->max_model_len - 1) / LK_PAGE_TOKENS + 1)};
    if (spec->open_other(spec->other_ctx, limit, &x.model[1], &why) != LB_OK) {
        lb_log_put(spec->log, LB_LOG_WARN, "--verify: rows are not compared with the CPU's: %s", why.text);
        return LB_OK;
    }
    enum lb_status status = lb_step_init(&x.step, limit, err);
    for (int64_t i = 0; i < n && status == LB_OK; i++)
        status = compare_row(&x, lead[i], &gap, err);
    lb_step_release(&x.step);
    if (status == LB_OK)
        lb_log_put(
            spec->log, LB_LOG_INFO,
            "--verify: %lld rows on cpu and %s: %lld log-probabilities differ by up to %.3g, by %.3g in the mean",
            (long long)n, spec->backend->device, (long long)gap.n, gap.worst, gap.n > 0 ? gap.sum / (double)gap.n : 0);
    return status;
}
