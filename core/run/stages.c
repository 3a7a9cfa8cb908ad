#include "core/run/stages.h"

#include "core/base/mem.h"
#include "core/run/adjust.h"
#include "core/run/follow.h"
#include "core/run/sample.h"
#include "core/run/stop.h"

#define WAIT_S 0.05 /* how long a stop may go unnoticed while there is nothing to run */
#define PROGRESS_S 1.0
#define STEPS_MEAN 64 /* steps that the length of a step is a mean of, the older ones less and less */

static double fraction_of(const struct lb_run *r)
{
    double done = r->work_done + (double)atomic_load(&r->work_away), known = (double)atomic_load(&r->work_known),
           part = 1;
    if (!atomic_load(&r->read_all)) {
        if (r->spec->input_bytes <= 0)
            return -1;
        part = (double)atomic_load(&r->bytes_read) / (double)r->spec->input_bytes;
    }
    for (int64_t i = 0; i < r->sched.n_seq; i++)
        if (r->sched.seq[i].work)
            done += (double)r->sched.seq[i].n_fed;
    if (known <= 0)
        return atomic_load(&r->read_all) ? 1 : 0;
    double fraction = done * part / known;
    return fraction < 1 ? fraction : 1;
}

void lb_run_progress(struct lb_run *r, bool now)
{
    double t = lb_now();
    if (!r->spec->progress || (!now && t - r->told_at < PROGRESS_S))
        return;
    int64_t vain = r->sched.n_drafted - r->sched.n_accepted;
    int64_t tokens = r->n_fed - vain + (int64_t)atomic_load(&r->tokens_away);
    struct lb_progress p = {.rows_done = atomic_load(&r->rows_done),
                            .rows_read = atomic_load(&r->rows_read),
                            .rows_final = atomic_load(&r->counted),
                            .fraction = fraction_of(r),
                            .elapsed_s = r->first_step > 0 ? t - r->first_step : 0,
                            .tok_s = t > r->told_at ? (double)(tokens - r->told_tokens) / (t - r->told_at) : 0};
    r->told_at = t;
    r->told_tokens = tokens;
    r->spec->progress(r->spec->progress_ctx, &p);
}

bool lb_run_done(const struct lb_run *r)
{
    return r->over || (r->input_done && !r->waiting && lb_sched_idle(&r->sched));
}

enum lb_status lb_run_read(struct lb_run *r, struct lb_err *err)
{
    LB_TRY(lb_world_failed(r->spec->ranks.world, err));
    if (r->spec->ranks.world->rank == 0 && ((r->spec->stop && *r->spec->stop) || atomic_load(&r->stop_told)))
        r->interrupted = true;
    if (r->spec->deadline > 0 && lb_now() >= r->spec->deadline)
        r->interrupted = r->timed_out = true;
    r->over = r->interrupted || atomic_load(&r->halt) || atomic_load(&r->closed);
    return LB_OK;
}

enum lb_status lb_run_tokenize(struct lb_run *r, struct lb_err *err)
{
    (void)err;
    if (r->over || r->waiting || r->input_done)
        return LB_OK;
    bool idle = lb_sched_idle(&r->sched);
    double begin = lb_now();
    r->input_done = lb_queue_pop(&r->ready, idle ? WAIT_S : 0, &r->waiting) == LB_POP_END;
    if (idle) {
        bool others = r->spec->ranks.world->size > r->spec->ranks.tp; /* whose rows may be the last ones */
        *(others ? &r->stats->mine.idle_s : &r->stats->mine.host_wait_s) += lb_now() - begin;
        lb_run_progress(r, false);
    }
    return LB_OK;
}

/* Whether a row may be expected to end before the deadline: after as many new tokens as others had so far, in steps as
 * long as the last ones. */
static bool in_time(const struct lb_run *r, const struct lb_work *w)
{
    const struct lb_settings *set = &w->set;
    double n = set->ignore_eos ? (double)set->max_tokens : (double)set->min_tokens;
    if (r->spec->deadline <= 0)
        return true;
    double mean = r->n_ended ? (double)r->n_ended_tok / (double)r->n_ended : 0;
    n = n > mean ? n : mean;
    n = n < (double)set->max_tokens ? n : (double)set->max_tokens;
    n += (double)w->n_prompt / (double)r->spec->plan->batch_tokens;
    return lb_now() + n * r->step_s < r->spec->deadline;
}

static void take_next(struct lb_run *r)
{
    r->waiting = NULL;
    r->next_part = 0;
    if (!r->input_done)
        r->input_done = lb_queue_pop(&r->ready, 0, &r->waiting) == LB_POP_END;
}

/* The further samples of the prompt of a row's i-th sequence stand behind it. */
static void gather_samples(struct lb_work *lead, int32_t i, struct lb_work *w)
{
    w->n_follow = 0;
    w->follow = lead->part ? lead->part + i + 1 : NULL;
    while (i + 1 + w->n_follow < lead->n_part && w->follow[w->n_follow]->prompt_lent && w->n_follow < LB_MAX_N - 1)
        w->n_follow++;
}

/* The one to pack now: the other of two, where the last one may still fly. Steps are counted through. */
static struct lb_flight *next_flight(struct lb_run *r)
{
    struct lb_flight *last = r->now;
    if (r->ahead)
        r->now = last == r->flight ? r->flight + 1 : r->flight;
    r->now->step.number = last->step.number;
    r->now->note = (struct lb_step_note){.begin = lb_now()};
    return r->now;
}

/* Whether a step may be packed while the last one flies. */
static bool may_follow(const struct lb_run *r, const struct lb_flight *f)
{
    return r->ahead && lb_sched_can_promise(&r->sched, &f->step);
}

static void admit_rows(struct lb_run *r)
{
    while (!r->over && r->waiting) {
        struct lb_work *w = lb_work_part(r->waiting, r->next_part);
        gather_samples(r->waiting, r->next_part, w);
        if (r->next_part == 0 && !in_time(r, w)) {
            r->timed_out = true;
            atomic_fetch_add(&r->n_gone, w->n_part);
            lb_work_free(w);
            take_next(r);
            continue;
        }
        if (!lb_sched_admit(&r->sched, &r->now->step, w))
            break;
        w->time.admitted = lb_now();
        r->next_part += 1 + w->n_follow;
        if (r->next_part == r->waiting->n_part)
            take_next(r);
    }
}

enum lb_status lb_run_pack(struct lb_run *r, struct lb_err *err)
{
    (void)err;
    struct lb_flight *flying = r->flying, *f = next_flight(r);
    if (flying && !may_follow(r, flying)) {
        lb_step_clear(&f->step);
        return LB_OK;
    }
    if (flying)
        lb_sched_promise(&r->sched, &flying->step);
    lb_sched_begin(&r->sched, &f->step);
    admit_rows(r);
    lb_sched_end(&r->sched, &f->step);
    f->outs = r->sched.outs;
    f->n_prefill = r->sched.n_prefill;
    f->n_decode = r->sched.n_decode;
    f->n_again = r->sched.n_again;
    f->n_hit = r->sched.n_hit;
    return LB_OK;
}

static void count_step(struct lb_run *r, const struct lb_flight *f, double seconds)
{
    struct lb_rank_stats *st = &r->stats->mine;
    double n_tok = (double)f->step.n_tok;
    st->forward_s += seconds;
    /* over many steps: a row that one slow step leaves out does not come back */
    double n_mean = st->steps < STEPS_MEAN ? (double)st->steps + 1 : STEPS_MEAN;
    r->step_s += (seconds - r->step_s) / n_mean;
    st->prefill_s += seconds * (double)(f->n_prefill + f->n_again) / n_tok;
    st->decode_s += seconds * (double)f->n_decode / n_tok;
    st->prompt_computed += f->n_prefill;
    st->recomputed += f->n_again;
    st->prefix_hit += f->n_hit;
    if (st->steps++ == 0)
        r->first_allocs = lb_mem_count();
    r->n_fed += f->step.n_tok;
    r->n_wanted += f->step.n_out;
    r->seqs_sum += (double)f->step.n_seq;
    r->waste_sum += f->waste;
}

static void launch(struct lb_run *r, struct lb_flight *f)
{
    f->note.packed = lb_now();
    f->note.pages = lb_kv_used(&r->kv);
    f->waste = (double)lb_kv_waste(&r->kv, r->sched.n_stored) / (double)r->sched.n_seq;
    if (r->first_step <= 0)
        r->first_step = f->note.packed;
    lb_follow_send(r);
    lb_model_launch(r->spec->model, &f->step);
}

/* Its time counts from when the device was through with the step before. */
static enum lb_status collect(struct lb_run *r, struct lb_flight *f, struct lb_err *err)
{
    LB_TRY(lb_model_collect(r->spec->model, &f->step, &r->cand, err));
    struct lb_step_note *note = &f->note;
    note->computed = lb_now();
    note->packed = note->packed > r->landed ? note->packed : r->landed;
    note->begin = note->begin > r->landed ? note->begin : r->landed;
    count_step(r, f, note->computed - note->packed);
    r->landed = note->computed;
    return LB_OK;
}

enum lb_status lb_run_forward(struct lb_run *r, struct lb_err *err)
{
    struct lb_flight *f = r->now->step.n_tok > 0 ? r->now : NULL;
    r->got = NULL;
    if (r->over || (!f && !r->flying))
        return LB_OK;
    lb_world_beat(r->spec->ranks.world, "step", r->now->step.number);
    if (f)
        launch(r, f);
    r->n_ahead += f && r->flying;
    bool stays = f && (r->flying || may_follow(r, f));
    r->got = r->flying ? r->flying : stays ? NULL : f;
    r->flying = stays ? f : NULL;
    return r->got ? collect(r, r->got, err) : LB_OK;
}

enum lb_status lb_run_land(struct lb_run *r, struct lb_err *err)
{
    struct lb_flight *f = r->flying;
    r->flying = NULL;
    return f ? lb_model_collect(r->spec->model, &f->step, &r->cand, err) : LB_OK;
}

/* The logit of an id, where a row's logits or candidates hold it. */
static bool known_logit(const struct lb_cand *c, int32_t id, float *logit)
{
    if (c->logits) {
        *logit = c->logits[id];
        return true;
    }
    for (int i = 0; i < LK_TOP && c->top_id[i] >= 0; i++) {
        if (c->top_id[i] != id)
            continue;
        *logit = c->top_logit[i];
        return true;
    }
    return false;
}

/* A logit as it was before penalties. */
static float raw_logit(const struct lb_cand *c, const struct lb_work *w, int32_t id, const struct lb_asked *q)
{
    float x;
    if (!c->logits && w->adjust && lb_adjust_raw(w->adjust, id, &x))
        return x;
    return known_logit(c, id, &x) ? x : q->logit; /* no candidate: it was found by asking */
}

/* What a row wants to know of out->id, and of the out->n_top best, which go to `top`. false: q is to be answered first.
 */
static bool tell(const struct lb_run *r, const struct lb_cand *c, float logit, struct lb_logprob *out,
                 struct lb_logprob_top *top, struct lb_asked *q)
{
    out->rank = lb_sample_rank(c, r->spec->config->n_vocab, logit);
    if (out->rank < 0 && !q->has_count) {
        lb_asked_count(q, logit);
        return false;
    }
    if (out->rank < 0)
        out->rank = q->count;
    lb_sample_fill(c, logit, out->n_top, top, out);
    return true;
}

/* The prompt's token at a position, of which c is the distribution. Returns as draw does. */
static int32_t score(const struct lb_run *r, struct lb_work *w, const struct lb_cand *c, int64_t pos,
                     struct lb_asked *q)
{
    int64_t i = pos - lb_score_first(&w->set), k = w->set.prompt_logprobs;
    struct lb_logprob_top *top = w->scored_top ? w->scored_top + i * k : NULL;
    float logit;
    if (!known_logit(c, w->prompt[pos], &logit)) {
        if (!q->has_values) {
            lb_asked_values(q, &w->prompt[pos], &q->logit, 1);
            return LB_SAMPLE_ASKS;
        }
        logit = q->logit;
    }
    w->scored[i] = (struct lb_logprob){.id = w->prompt[pos], .n_top = (size_t)k};
    return tell(r, c, logit, &w->scored[i], top, q) ? 0 : LB_SAMPLE_ASKS;
}

/* A sequence's next id, or that which is `ahead` ids behind it, from the distribution c, and what it wants to know of
 * it; LB_SAMPLE_ASKS: q is to be answered first. */
static int32_t draw(const struct lb_run *r, struct lb_work *w, int64_t ahead, const struct lb_cand *c,
                    struct lb_asked *q)
{
    const struct lb_settings *set = &w->set;
    int32_t id = c->best;
    double u = set->sampling.greedy ? 0 : lb_sample_u(w, ahead);
    if (q)
        q->u = u;
    if (w->adjust)
        id = lb_adjust_draw(w->adjust, set, c, u, q);
    else if (!set->sampling.greedy)
        id = lb_sample_draw(&set->sampling, c, r->spec->config->n_vocab, u, q);
    if (id < 0)
        return id;
    if (w->logprob) {
        int64_t k = set->logprobs, n = w->n_out + ahead;
        struct lb_logprob *out = &w->logprob[n];
        *out = (struct lb_logprob){.id = id, .n_top = (size_t)k};
        if (!tell(r, c, raw_logit(c, w, id, q), out, w->top ? w->top + n * k : NULL, q))
            return LB_SAMPLE_ASKS;
    }
    if (w->adjust)
        lb_adjust_count(w->adjust, id);
    return id;
}

/* The id of output j, 0 where none is wanted; LB_SAMPLE_ASKS as above. A prompt that is done gives the first id of each
 * of its samples: then c has all logits, and nothing is asked. Any thread of the team. */
static int32_t take_logits(struct lb_run *r, int64_t j, struct lb_asked *q)
{
    struct lb_cand c = r->cand[j];
    struct lb_seq *seq = lb_sched_seq(&r->sched, r->got->outs, (int32_t)j);
    if (!seq)
        return 0;
    struct lb_work *w = seq->work;
    if (!c.finite || c.best < 0)
        return -1;
    if (q && q->row)
        c.logits = q->row;
    if (r->got->outs->scored[j] > 0)
        return score(r, w, &c, r->got->outs->scored[j], q);
    if (w->set.max_tokens == 0)
        return 0;
    if (r->got->step.out_flags[j] & LB_OUT_DRAW)
        return c.drawn;
    for (int32_t i = 0; i < w->n_follow; i++)
        w->follow[i]->out[0] = draw(r, w->follow[i], 0, &c, q);
    return draw(r, w, lb_outs_ahead(r->got->outs, (int32_t)j), &c, q);
}

static void draw_range(void *ctx, int64_t begin, int64_t end)
{
    struct lb_run *r = ctx;
    for (int64_t j = begin; j < end; j++)
        if (r->drawn[j] == LB_SAMPLE_ASKS)
            r->drawn[j] = take_logits(r, j, r->asked ? &r->asked[j] : NULL);
}

/* Draws, asks the ranks of the group what draws lack, and draws again. */
static enum lb_status draw_all(struct lb_run *r, bool logits, struct lb_err *err)
{
    struct lb_backend *be = r->spec->backend;
    for (int32_t j = 0; j < r->got->step.n_out; j++) {
        r->drawn[j] = LB_SAMPLE_ASKS;
        if (r->asked)
            r->asked[j] = (struct lb_asked){.next.q.output = j};
    }
    for (bool asks = true; asks;) {
        if (logits)
            be->ops->parallel(be, draw_range, r, r->got->step.n_out);
        else
            draw_range(r, 0, r->got->step.n_out);
        asks = false;
        for (int32_t j = 0; j < r->got->step.n_out; j++)
            asks = asks || r->drawn[j] == LB_SAMPLE_ASKS;
        if (asks)
            LB_TRY(lb_asker_put(&r->asker, r->asked, r->got->step.n_out, err));
    }
    return LB_OK;
}

enum lb_status lb_run_sample(struct lb_run *r, struct lb_err *err)
{
    if (r->over || !r->got)
        return LB_OK;
    double begin = lb_now();
    bool logits = false;
    for (int32_t j = 0; j < r->got->step.n_out; j++)
        logits = logits || (r->got->step.out_flags[j] & ~LB_OUT_DRAW) != 0;
    LB_TRY(draw_all(r, logits, err));
    int32_t *slot = lb_model_slots(r->spec->model);
    for (int32_t j = 0; j < r->got->step.n_out; j++)
        slot[j] = r->drawn[j] < 0 ? 0 : r->drawn[j];
    r->n_slot = r->got->step.n_out;
    r->got->note.sampled = lb_now();
    r->stats->mine.sample_s += r->got->note.sampled - begin;
    return LB_OK;
}

/* n sequences of a row have ended, w the last of them. */
static void end_sequences(struct lb_run *r, struct lb_work *w, int32_t n)
{
    r->n_ended += n;
    r->n_ended_tok += w->n_out;
    r->work_done += (double)(n * (w->n_prompt + w->set.max_tokens));
    atomic_fetch_add(&r->n_gone, n);
    if (!lb_work_end(w->lead, n))
        return;
    w->lead->next = r->finished;
    r->finished = w->lead;
}

/* The samples that follow output j's row begin, each with the id that was drawn for it. */
static void begin_samples(struct lb_run *r, int32_t j, struct lb_work *w, double now)
{
    for (int32_t i = 0; i < w->n_follow; i++) {
        struct lb_work *f = w->follow[i];
        f->time.admitted = w->time.admitted;
        f->time.first = f->time.last = now;
        f->steps = w->steps;
        f->fail = f->out[0] < 0 ? LB_ROW_NOT_FINITE : LB_ROW_OK;
        f->n_out = f->fail == LB_ROW_OK;
        r->got->note.n_new += (int32_t)f->n_out;
        if (f->n_out && !lb_stop_check(f, r->spec->config))
            lb_sched_fork(&r->sched, r->got->outs, j, f);
        else
            end_sequences(r, f, 1);
    }
    w->n_follow = 0;
}

/* What output j is for its row. True when the row has ended. */
static bool take_output(struct lb_run *r, int32_t j, const struct lb_seq *q, double now)
{
    struct lb_work *w = q->work;
    if (r->drawn[j] < 0) {
        w->fail = LB_ROW_NOT_FINITE;
        return true;
    }
    if (r->got->outs->scored[j] > 0)
        return false;
    if (w->n_out == q->promised)
        w->time.first = now;
    if (w->set.max_tokens == 0) {
        w->finish = LB_FINISH_LENGTH;
        return true;
    }
    lb_sched_advance(&r->sched, r->got->outs, j, r->drawn[j]);
    r->got->note.n_new++;
    begin_samples(r, j, w, now);
    return lb_stop_check(w, r->spec->config);
}

/* Samples that were to follow it end as it did. */
static void end_row(struct lb_run *r, int32_t j, struct lb_work *w, double now)
{
    w->time.last = now;
    for (int32_t i = 0; i < w->n_follow; i++) {
        w->follow[i]->finish = w->finish;
        w->follow[i]->time = w->time;
    }
    int32_t n = 1 + w->n_follow;
    w->n_follow = 0;
    lb_sched_finish(&r->sched, r->got->outs, j);
    end_sequences(r, w, n);
}

/* Tells of the step, which has ended. */
static void tell_step(struct lb_run *r)
{
    struct lb_step_note *s = &r->got->note;
    if (r->verify.running)
        return;
    s->end = lb_now();
    s->number = r->got->step.number;
    s->n_tok = r->got->step.n_tok;
    s->n_prompt = (int32_t)r->got->n_prefill;
    s->n_out = r->got->step.n_out;
    s->n_seq = r->got->step.n_seq;
    lb_watch_step(r->spec->watch, s, r->spec->plan->batch_tokens);
    lb_timeline_step(r->spec->timeline, s);
}

enum lb_status lb_run_detokenize(struct lb_run *r, struct lb_err *err)
{
    (void)err;
    if (r->over || !r->got)
        return LB_OK;
    double now = lb_now();
    for (int32_t j = 0; j < r->got->step.n_out; j++) {
        struct lb_seq *q = lb_sched_seq(&r->sched, r->got->outs, j);
        struct lb_work *w =
            q ? q->work : NULL; /* NULL: it has ended with an earlier output, of this step or the last */
        if (w && take_output(r, j, q, now))
            end_row(r, j, w, now);
    }
    tell_step(r);
    return LB_OK;
}

enum lb_status lb_run_write(struct lb_run *r, struct lb_err *err)
{
    (void)err;
    lb_world_idle(r->spec->ranks.world); /* rows and the writer may take their time */
    double begin = lb_now();
    bool any = r->finished != NULL;
    while (r->finished) {
        struct lb_work *w = r->finished;
        r->finished = w->next;
        if (!lb_queue_push(&r->done, w))
            lb_work_free(w);
    }
    if (any)
        r->stats->mine.host_wait_s += lb_now() - begin;
    lb_run_progress(r, false);
    return LB_OK;
}
