#define _GNU_SOURCE
#include "core/run/follow.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/run/deal.h"

enum lb_status lb_follow_init(struct lb_run *r, struct lb_err *err)
{
    if (r->spec->ranks.tp == 1)
        return LB_OK;
    size_t n = lb_step_pack_max(&r->now->step);
    r->packed = lb_mem_new(n, sizeof *r->packed);
    if (!r->packed)
        return lb_err_memory(err, "a step", n * sizeof *r->packed);
    const struct lb_run_spec *spec = r->spec;
    size_t n_out = (size_t)spec->plan->max_out;
    LB_TRY(lb_asker_init(&r->asker, spec->ranks.comm, spec->backend, spec->model, spec->plan->max_out, err));
    if (spec->ranks.comm->rank != 0)
        return LB_OK;
    r->asked = lb_mem_new(n_out, sizeof *r->asked);
    return r->asked ? LB_OK : lb_err_memory(err, "samples", n_out * sizeof *r->asked);
}

void lb_follow_release(struct lb_run *r)
{
    lb_mem_free(r->packed);
    lb_mem_free(r->asked);
    lb_asker_release(&r->asker);
}

enum lb_status lb_follow_agree(const struct lb_run_spec *spec, enum lb_status status, struct lb_err *err)
{
    return spec->ranks.world->size > 1 ? lb_world_agree(spec->ranks.world, status, err) : status;
}

void lb_follow_send(struct lb_run *r)
{
    struct lb_comm *c = r->spec->ranks.comm;
    struct lb_step_head head;
    if (c->size == 1)
        return;
    lb_step_pack(&r->now->step, lb_model_slots(r->spec->model), r->n_slot, &head, r->packed);
    c->ops->bcast(c, &head, sizeof head);
    c->ops->bcast(c, r->packed, (size_t)head.n_int * sizeof *r->packed);
}

void lb_follow_end(struct lb_run *r)
{
    struct lb_comm *c = r->spec->ranks.comm;
    struct lb_step_head head = {.over = 1};
    if (c->size > 1)
        c->ops->bcast(c, &head, sizeof head);
}

void lb_follow_count(const struct lb_run_spec *spec, struct lb_rank_stats *mine)
{
    mine->rank = spec->ranks.world->rank;
    snprintf(mine->host, sizeof mine->host, "%s", spec->ranks.world->host);
    if (spec->ranks.comm)
        mine->collective_s = spec->ranks.comm->seconds;
    mine->peak_rss_bytes = (int64_t)lb_mem_peak();
}

/* ---- ranks that lead no group ---- */

/* What the leader sends next: a step, the end, or questions about the last step. */
static enum lb_status take_head(struct lb_run *r, struct lb_step_head *head, struct lb_err *err)
{
    struct lb_comm *c = r->spec->ranks.comm;
    lb_world_idle(r->spec->ranks.world);
    double begin = lb_now();
    c->ops->bcast(c, head, sizeof *head);
    r->stats->mine.idle_s += lb_now() - begin;
    return c->ops->status(c, err);
}

static enum lb_status take_step(struct lb_run *r, bool *over, struct lb_err *err)
{
    struct lb_comm *c = r->spec->ranks.comm;
    struct lb_step_head head = {0};
    LB_TRY(take_head(r, &head, err));
    while (head.n_ask > 0) {
        lb_world_beat(r->spec->ranks.world, "question", head.n_ask);
        LB_TRY(lb_asker_answer(&r->asker, &head, err));
        LB_TRY(take_head(r, &head, err));
    }
    *over = head.over != 0;
    if (*over)
        return LB_OK;
    lb_world_beat(r->spec->ranks.world, "step", head.number);
    LB_TRY(lb_step_head_check(&r->now->step, &head, err));
    c->ops->bcast(c, r->packed, (size_t)head.n_int * sizeof *r->packed);
    LB_TRY(c->ops->status(c, err));
    lb_step_unpack(&r->now->step, lb_model_slots(r->spec->model), &head, r->packed);
    return LB_OK;
}

/* A pass that fails here fails on the leader too, which then sends the end: so the steps go on until that. */
static enum lb_status follow(struct lb_run *r, struct lb_err *err)
{
    enum lb_status status = LB_OK;
    for (bool over = false; !over;) {
        const struct lb_cand *none;
        LB_TRY(take_step(r, &over, err));
        if (over)
            break;
        double begin = lb_now();
        const struct lb_step *step = &r->now->step;
        enum lb_status pass = lb_model_forward(r->spec->model, step, &none, err);
        status = status == LB_OK ? pass : status;
        double end = lb_now();
        r->stats->mine.busy_s += end - begin;
        const struct lb_step_note note = {.begin = begin,
                                          .packed = begin,
                                          .computed = end,
                                          .sampled = end,
                                          .end = end,
                                          .number = step->number,
                                          .n_tok = step->n_tok,
                                          .n_out = step->n_out,
                                          .n_seq = step->n_seq};
        lb_timeline_step(r->spec->timeline, &note);
    }
    return status;
}

enum lb_status lb_run_follow(const struct lb_run_spec *spec, struct lb_stats *stats, struct lb_err *err)
{
    struct lb_run *r = lb_mem_new(1, sizeof *r);
    enum lb_status status = r ? LB_OK : lb_err_memory(err, "a run", sizeof *r);
    bool watched = false;
    if (r) {
        *r = (struct lb_run){.spec = spec, .stats = stats, .begin = lb_now(), .wake = -1};
        r->now = r->flight;
        status = pthread_mutex_init(&r->mutex, NULL) == 0 ? LB_OK : lb_err_memory(err, "a mutex", sizeof r->mutex);
        if (status == LB_OK)
            status = lb_step_init(&r->now->step, spec->plan->limit, err);
        if (status == LB_OK)
            status = lb_follow_init(r, err);
    }
    status = lb_follow_agree(spec, status, err);
    lb_timeline_begin(spec->timeline, spec->ranks.world->host, spec->plan->batch_tokens, stats->load_s);
    if (status == LB_OK) {
        watched = pthread_create(&r->thread[LB_T_DEAL], NULL, lb_deal_follower, r) == 0;
        if (!watched)
            lb_log_put(spec->log, LB_LOG_WARN, "signals to this rank are not seen: its thread cannot be started");
        status = follow(r, err);
    }
    if (watched) {
        atomic_store(&r->leaving, true);
        pthread_join(r->thread[LB_T_DEAL], NULL);
    }
    lb_follow_count(spec, &stats->mine);
    if (r) {
        lb_follow_release(r);
        lb_step_release(&r->now->step);
        pthread_mutex_destroy(&r->mutex);
        lb_mem_free(r);
    }
    return status;
}
