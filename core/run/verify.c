#include "core/run/verify.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "core/run/crosscheck.h"
#include "core/run/run.h"
#include "core/run/stages.h"

enum lb_status lb_verify_init(struct lb_verify *v, int64_t n, struct lb_err *err)
{
    *v = (struct lb_verify){.n = n, .stride = 1};
    if (n == 0)
        return LB_OK;
    v->kept = lb_mem_new(2 * (size_t)n + 1, sizeof(struct lb_work *));
    return v->kept ? LB_OK : lb_err_memory(err, "rows to verify", 2 * (size_t)n * sizeof(struct lb_work *));
}

void lb_verify_release(struct lb_verify *v)
{
    for (int64_t i = 0; i < v->n_kept; i++)
        lb_work_free(v->kept[i]);
    lb_mem_free(v->kept);
    *v = (struct lb_verify){0};
}

void lb_verify_take(struct lb_verify *v, struct lb_work *w, int64_t place)
{
    if (v->n == 0 || w->row.code != LB_ROW_OK || w->n_out == 0 || place % v->stride != 0) {
        lb_work_free(w);
        return;
    }
    w->ticket = (uint64_t)place;
    v->kept[v->n_kept++] = w;
    if (v->n_kept <= 2 * v->n)
        return;
    /* halved, so that those that stay are as even as before */
    int64_t n = 0;
    v->stride *= 2;
    for (int64_t i = 0; i < v->n_kept; i++) {
        if ((int64_t)v->kept[i]->ticket % v->stride == 0)
            v->kept[n++] = v->kept[i];
        else
            lb_work_free(v->kept[i]);
    }
    v->n_kept = n;
    if (n > 2 * v->n) /* none of them was at an odd place */
        lb_work_free(v->kept[--v->n_kept]);
}

static int by_place(const void *x, const void *y)
{
    const struct lb_work *a = *(struct lb_work *const *)x, *b = *(struct lb_work *const *)y;
    return (a->ticket > b->ticket) - (a->ticket < b->ticket);
}

int64_t lb_verify_choose(struct lb_verify *v)
{
    if (v->n_kept == 0)
        return 0;
    qsort(v->kept, (size_t)v->n_kept, sizeof *v->kept, by_place);
    int64_t n = v->n < v->n_kept ? v->n : v->n_kept;
    for (int64_t i = 0; i < n; i++) {
        int64_t from = i * v->n_kept / n;
        struct lb_work *w = v->kept[i];
        v->kept[i] = v->kept[from];
        v->kept[from] = w;
    }
    return n;
}

int64_t lb_verify_differs(const struct lb_work *was, const struct lb_work *again)
{
    int64_t n = was->n_out < again->n_out ? was->n_out : again->n_out;
    for (int64_t i = 0; i < n; i++)
        if (was->out[i] != again->out[i])
            return i;
    return was->n_out == again->n_out && again->fail == LB_ROW_OK ? -1 : n;
}

/* A sequence of a finished row, as if it were a row. Text and settings are the row's. */
static struct lb_work *copy_of(const struct lb_run *r, struct lb_work *part, struct lb_err *err)
{
    struct lb_work *w = lb_work_new();
    if (!w) {
        lb_err_memory(err, "a row", sizeof *w);
        return NULL;
    }
    w->row.key = part->lead->row.key;
    w->row.index = part->lead->row.index;
    w->set = part->set;
    w->sample = part->sample;
    w->prompt = part->prompt;
    w->n_prompt = part->n_prompt;
    w->prompt_lent = true;
    if (lb_run_make_room(r, w, err) == LB_OK)
        return w;
    lb_work_free(w);
    return NULL;
}

/* Through the stages of a run. *done false: it was stopped before its end. */
static enum lb_status run_alone(struct lb_run *r, struct lb_work *w, bool *done, struct lb_err *err)
{
    r->waiting = w;
    r->next_part = 0;
    r->input_done = true;
    while (!r->finished && !r->over && (r->waiting || !lb_sched_idle(&r->sched))) {
        LB_TRY(lb_run_read(r, err));
        LB_TRY(lb_run_pack(r, err));
        LB_TRY(lb_run_forward(r, err));
        LB_TRY(lb_run_sample(r, err));
        LB_TRY(lb_run_detokenize(r, err));
    }
    *done = r->finished != NULL;
    r->finished = NULL;
    return LB_OK;
}

static void tell(struct lb_run *r, const struct lb_work *was, const struct lb_work *again, int64_t at)
{
    long long then = at < was->n_out ? was->out[at] : -1, now = at < again->n_out ? again->out[at] : -1;
    lb_log_put(r->spec->log, LB_LOG_ERROR,
               "--verify: row %lld: run alone, new token %lld of sample %u is %lld, not %lld (-1: none)",
               (long long)was->lead->row.index, (long long)at, was->sample, now, then);
}

static enum lb_status verify_row(struct lb_run *r, struct lb_work *lead, bool *done, struct lb_err *err)
{
    bool differs = false;
    *done = true;
    for (int32_t i = 0; i < lead->n_part && *done && !differs; i++) {
        struct lb_work *was = lb_work_part(lead, i), *again = copy_of(r, was, err);
        if (!again)
            return LB_E_DEVICE;
        LB_TRY(run_alone(r, again, done, err));
        if (!*done) /* the scheduler's, or freed */
            return LB_OK;
        int64_t at = lb_verify_differs(was, again);
        differs = at >= 0;
        if (differs)
            tell(r, was, again, at);
        lb_work_free(again);
    }
    r->stats->verified += *done;
    r->stats->verify_differ += differs;
    return LB_OK;
}

/* With pages of its own, and none that rows share. */
static enum lb_status begin(struct lb_run *r, struct lb_kv *kv, struct lb_sched *sched, struct lb_err *err)
{
    const struct lb_plan *p = r->spec->plan;
    struct lb_sched_spec spec = r->sched.spec;
    LB_TRY(lb_kv_init(kv, p->kv_pages, 1, p->max_model_len, err));
    spec.kv = kv;
    spec.prefix = NULL;
    spec.max_seqs = 1;
    spec.draft_tokens = 0; /* it is how rows run with them that is to be checked */
    return lb_sched_init(sched, &spec, err);
}

enum lb_status lb_verify_rows(struct lb_run *r, struct lb_err *err)
{
    struct lb_kv kv = {0};
    struct lb_sched sched = {0}, was = r->sched;
    struct lb_rank_stats mine = r->stats->mine;
    bool interrupted = r->interrupted, timed_out = r->timed_out, done = true;
    double began = lb_now();
    enum lb_status status = begin(r, &kv, &sched, err);
    r->sched = sched;
    bool ahead = r->ahead;
    r->ahead = false; /* it is how rows run together that is to be checked */
    r->verify.running = true;
    int64_t n = lb_verify_choose(&r->verify);
    for (int64_t i = 0; i < n && done && status == LB_OK; i++)
        status = verify_row(r, r->verify.kept[i], &done, err);
    if (done && status == LB_OK && n > 0 && r->spec->open_other)
        status = lb_cross_rows(r, r->verify.kept, n, err);
    if (!done)
        lb_log_put(r->spec->log, LB_LOG_WARN, "--verify was stopped after %lld of %lld rows",
                   (long long)r->stats->verified, (long long)n);
    lb_sched_release(&r->sched);
    r->sched = was;
    r->verify.running = false;
    r->ahead = ahead;
    lb_kv_release(&kv);
    r->stats->mine = mine;
    r->interrupted = interrupted;
    r->timed_out = timed_out;
    r->over = false;
    r->stats->verify_s = lb_now() - began;
    return status;
}
