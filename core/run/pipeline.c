#include "core/run/pipeline.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/run/deal.h"
#include "core/run/follow.h"
#include "core/run/run.h"
#include "core/run/stages.h"

#define RAW_ROWS 256                  /* rows read ahead of the tokenizer, ... */
#define RAW_BYTES ((int64_t)16 << 20) /* ... fewer of long lines */
#define READY_ROWS 256                /* rows whose output buffers are made ahead */
#define BALANCE 12.0                  /* operations for each byte that memory gives, about, of a few cores */
#define MOST_CHEAP 12                 /* where weights have more than 16 bits, or lie here twice */
#define DONE_ROWS 4096                /* finished rows ahead of the writer */

static enum lb_status loop(struct lb_run *r, struct lb_err *err)
{
    while (!lb_run_done(r)) {
        LB_TRY(lb_run_read(r, err));       /* lines      -> requests         */
        LB_TRY(lb_run_tokenize(r, err));   /* text       -> token ids        */
        LB_TRY(lb_run_pack(r, err));       /* requests   -> one flat step    */
        LB_TRY(lb_run_forward(r, err));    /* step       -> candidates       */
        LB_TRY(lb_run_sample(r, err));     /* candidates -> one id a row     */
        LB_TRY(lb_run_detokenize(r, err)); /* ids        -> text, stops      */
        LB_TRY(lb_run_write(r, err));      /* finished   -> lines            */
    }
    return LB_OK;
}

void lb_run_fail(struct lb_run *r, const struct lb_err *err, bool at_once)
{
    pthread_mutex_lock(&r->mutex);
    if (r->err.status == LB_OK)
        r->err = *err;
    pthread_mutex_unlock(&r->mutex);
    if (at_once) {
        atomic_store(&r->halt, true);
        lb_run_abort(r, false);
    }
}

bool lb_run_failed(struct lb_run *r)
{
    pthread_mutex_lock(&r->mutex);
    bool failed = r->err.status != LB_OK;
    pthread_mutex_unlock(&r->mutex);
    return failed;
}

void lb_run_abort(struct lb_run *r, bool writer_too)
{
    if (r->deals)
        lb_queue_abort(&r->sorted);
    lb_queue_abort(&r->raw);
    lb_queue_abort(&r->tokens);
    lb_queue_abort(&r->ready);
    if (writer_too)
        lb_queue_abort(&r->done);
}

/* Bytes of text that one id can give: its piece, bytes that were held back, each perhaps as U+FFFD. */
static size_t text_room(const struct lb_tok *tok)
{
    size_t longest = 0;
    int64_t n = lb_tok_missing(tok) ? 0 : lb_tok_size(tok);
    for (int64_t id = 0; id < n; id++) {
        size_t len = lb_tok_piece(tok, (int32_t)id).len;
        longest = len > longest ? len : longest;
    }
    return 3 * longest + 64;
}

/* Whether rows take drafts, and what these cost and spare here, about: that is known of a model on the host. Each token
 * has experts of its own, whose weights have to be read as well. */
static void weigh_drafts(const struct lb_run *r, struct lb_sched_spec *s)
{
    const struct lb_plan *p = r->spec->plan;
    struct lb_model_size size = lb_model_size_of(r->spec->model);
    bool known = !r->spec->backend->stream && size.n_layer_product > 0;
    s->draft_tokens = !r->spec->no_draft && !r->ahead && (known || s->bold) ? p->draft_tokens : 0;
    if (!known)
        return;
    double position = (double)p->page_bytes / LK_PAGE_TOKENS;
    s->read_cost = position * BALANCE * r->spec->ranks.tp / (2 * (double)size.n_layer_product);
    double cheap = BALANCE * p->need.weights / (2 * (double)size.n_param);
    s->cheap_tokens = r->spec->config->moe.n_expert > 0 ? 0 : cheap < MOST_CHEAP ? (int64_t)cheap : MOST_CHEAP;
}

static enum lb_status run_init(struct lb_run *r, const struct lb_run_spec *spec, struct lb_stats *stats,
                               struct lb_err *err)
{
    const struct lb_plan *p = spec->plan;
    *r = (struct lb_run){.spec = spec, .stats = stats, .begin = lb_now(), .wake = -1};
    r->told_at = r->begin;
    r->taken = spec->journal ? lb_journal_taken(spec->journal) : NULL;
    if (pthread_mutex_init(&r->mutex, NULL) != 0)
        return lb_err_memory(err, "a mutex", sizeof r->mutex);
    r->wake = eventfd(0, EFD_CLOEXEC);
    if (r->wake < 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot make an eventfd: %s", strerror(errno));
    if (spec->lines)
        lb_lines_wake_on(spec->lines, r->wake);
    r->room = text_room(spec->tok);
    if (r->taken && spec->max_errors >= 0 && r->taken->error > spec->max_errors)
        return lb_err_set(
            err, LB_E_STOPPED,
            "%lld rows of an earlier run failed, more than --max-errors %lld: --retry-errors runs them again",
            (long long)r->taken->error, (long long)spec->max_errors);
    LB_TRY(lb_queue_init(&r->raw, RAW_ROWS, err));
    LB_TRY(lb_queue_init(&r->tokens, LB_WINDOW_ROWS, err));
    r->raw.max_weight = RAW_BYTES;
    r->tokens.max_weight = LB_WINDOW_BYTES;
    LB_TRY(lb_queue_init(&r->ready, READY_ROWS, err));
    LB_TRY(lb_queue_init(&r->done, DONE_ROWS, err));
    r->done.max_weight = LB_WINDOW_BYTES;
    LB_TRY(lb_verify_init(&r->verify, spec->mode == LB_RUN_MODEL ? spec->verify : 0, err));
    if (spec->mode != LB_RUN_MODEL)
        return LB_OK;
    r->deals = spec->ranks.world->rank == 0 && spec->ranks.world->size > spec->ranks.tp;
    if (r->deals)
        LB_TRY(lb_queue_init(&r->sorted, READY_ROWS, err));
    LB_TRY(lb_kv_init(&r->kv, p->kv_pages, (int32_t)p->max_seqs, p->max_model_len, err));
    if (!spec->no_prefix_cache)
        LB_TRY(lb_prefix_init(&r->prefix, &r->kv, err));
    r->kv.max_idle = p->kv_pages / LB_IDLE_SHARE;
    const struct lb_rope *rope = &spec->config->rope;
    struct lb_sched_spec sched = {.kv = &r->kv,
                                  .prefix = spec->no_prefix_cache ? NULL : &r->prefix,
                                  .dynamic_above = rope->type == LB_ROPE_DYNAMIC ? rope->max_position : 0,
                                  .batch_tokens = p->batch_tokens,
                                  .max_seqs = p->max_seqs,
                                  .score_tokens = p->score_tokens,
                                  .out_flag = spec->ranks.tp > 1 ? LB_OUT_TOP : LB_OUT_LOGITS,
                                  .bold = spec->bold,
                                  .crowd = spec->crowd};
    sched.draws = r->ahead = lb_model_ahead(spec->model) > 0;
    weigh_drafts(r, &sched);
    LB_TRY(lb_sched_init(&r->sched, &sched, err));
    r->now = r->flight;
    for (int i = 0; i <= r->ahead; i++)
        LB_TRY(lb_step_init(&r->flight[i].step, p->limit, err));
    LB_TRY(lb_follow_init(r, err));
    r->drawn = lb_mem_new((size_t)p->max_out, sizeof *r->drawn);
    return r->drawn ? LB_OK : lb_err_memory(err, "samples", (size_t)p->max_out * sizeof *r->drawn);
}

static void run_release(struct lb_run *r)
{
    if (r->waiting && lb_work_end(r->waiting, r->waiting->n_part - r->next_part))
        lb_work_free(r->waiting);
    while (r->finished) {
        struct lb_work *w = r->finished;
        r->finished = w->next;
        lb_work_free(w);
    }
    lb_verify_release(&r->verify);
    lb_sched_release(&r->sched);
    lb_prefix_release(&r->prefix);
    lb_kv_release(&r->kv);
    for (int i = 0; i < 2; i++)
        lb_step_release(&r->flight[i].step);
    lb_follow_release(r);
    lb_mem_free(r->drawn);
    lb_mem_free(r->tally.latency);
    lb_queue_release(&r->raw);
    lb_queue_release(&r->tokens);
    lb_queue_release(&r->ready);
    lb_queue_release(&r->done);
    lb_queue_release(&r->sorted);
    if (r->wake >= 0)
        close(r->wake);
    pthread_mutex_destroy(&r->mutex);
}

/* The threads of a rank. */
static bool wanted(const struct lb_run *r, int thread)
{
    const struct lb_world *w = r->spec->ranks.world;
    if (thread == LB_T_DEAL)
        return r->spec->mode == LB_RUN_MODEL && w->size > 1;
    if (thread == LB_T_WINDOW && r->spec->mode != LB_RUN_MODEL)
        return false;
    return w->rank == 0;
}

static enum lb_status start(struct lb_run *r, struct lb_err *err)
{
    void *(*const body[LB_N_THREAD])(void *) = {
        [LB_T_READER] = lb_run_reader, [LB_T_TOKENIZER] = lb_run_tokenizer,
        [LB_T_WINDOW] = lb_run_window, [LB_T_DEAL] = r->spec->ranks.world->rank == 0 ? lb_deal_rank0 : lb_deal_leader,
        [LB_T_WRITER] = lb_run_writer,
    };
    for (int i = 0; i < LB_N_THREAD; i++) {
        if (!wanted(r, i))
            continue;
        int rc = pthread_create(&r->thread[i], NULL, body[i], r);
        if (rc != 0)
            return lb_err_set(err, LB_E_DEVICE, "cannot start a thread: %s", strerror(rc));
        r->started[i] = true;
    }
    return LB_OK;
}

static void join(struct lb_run *r, int thread)
{
    if (r->started[thread])
        pthread_join(r->thread[thread], NULL);
    r->started[thread] = false;
}

/* Row traffic goes on until the other ranks know that this one ends: where its thread could not be started, here. */
static void end_traffic(struct lb_run *r)
{
    if (!wanted(r, LB_T_DEAL))
        return;
    if (r->started[LB_T_DEAL])
        join(r, LB_T_DEAL);
    else if (r->spec->ranks.world->rank == 0)
        lb_deal_rank0(r);
    else
        lb_deal_leader(r);
}

/* Ends all threads: in order when the rows ran out, else at once; finished rows are written in either case. */
static void stop(struct lb_run *r, bool at_once)
{
    atomic_store(&r->leaving, true);
    if (at_once) {
        lb_run_abort(r, false);
        if (eventfd_write(r->wake, 1) != 0)
            lb_log_put(r->spec->log, LB_LOG_WARN, "the reader cannot be woken: %s", strerror(errno));
    }
    join(r, LB_T_READER);
    join(r, LB_T_TOKENIZER);
    join(r, LB_T_WINDOW);
    end_traffic(r);
    lb_queue_close(&r->done);
    join(r, LB_T_WRITER);
}

/* Whether rows are to be verified: all were run, and this is where they were written. */
static bool verifies(const struct lb_run *r, enum lb_status status)
{
    return r->verify.n > 0 && r->spec->ranks.world->rank == 0 && status == LB_OK && !r->over;
}

/* Before the group is told of the end, so that it takes part; after the last row of any group is written. */
static enum lb_status verify(struct lb_run *r, struct lb_err *err)
{
    stop(r, false);
    if (lb_run_failed(r) || atomic_load(&r->closed) || atomic_load(&r->peer_failed) || atomic_load(&r->left_out))
        return LB_OK;
    return lb_verify_rows(r, err);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank: the smallest value that at least `share` of all do not exceed. */
static double percentile(const struct lb_tally *t, int percent)
{
    size_t i = (t->n_latency * (size_t)percent + 99) / 100;
    return t->latency[i > 0 ? i - 1 : 0];
}

static void count_latency(struct lb_run *r)
{
    struct lb_stats *s = r->stats;
    struct lb_tally *t = &r->tally;
    s->n_latency = (int64_t)t->n_latency;
    if (!t->n_latency)
        return;
    qsort(t->latency, t->n_latency, sizeof *t->latency, by_value);
    s->latency_p50 = percentile(t, 50);
    s->latency_p90 = percentile(t, 90);
    s->latency_p99 = percentile(t, 99);
    s->latency_max = t->latency[t->n_latency - 1];
}

static void count_forward(struct lb_run *r)
{
    struct lb_rank_stats *m = &r->stats->mine;
    const struct lb_backend_counts *c = &r->spec->backend->counts;
    lb_log_put(r->spec->log, LB_LOG_DEBUG,
               "forward: layer products %.6g s, attention and cache %.6g s, norms %.6g s, head %.6g s", c->linear_s,
               c->attend_s, c->norm_s, c->head_s);
    if (c->screened_rows > 0)
        lb_log_put(r->spec->log, LB_LOG_DEBUG,
                   "head: %lld rows were screened by int8, which left %.1f logits a row to be computed",
                   (long long)c->screened_rows, (double)c->exact_logits / (double)c->screened_rows);
    lb_log_put(r->spec->log, LB_LOG_DEBUG, "steps launched while another one was on its way: %lld",
               (long long)r->n_ahead);
    const int64_t *n = r->asker.n_put;
    if (r->asked)
        lb_log_put(r->spec->log, LB_LOG_DEBUG,
                   "sampling: the group's ranks were asked for %lld sets of logits, %lld masses, %lld ids, %lld ranks, "
                   "%lld depths, %lld lists and %lld rows, %.6g MB in all",
                   (long long)n[LB_ASK_VALUES], (long long)n[LB_ASK_MASS], (long long)n[LB_ASK_FIND],
                   (long long)n[LB_ASK_COUNT], (long long)n[LB_ASK_DEPTH], (long long)n[LB_ASK_LIST],
                   (long long)n[LB_ASK_ROW], 1e-6 * (double)r->asker.put_bytes);
    struct lb_model_size size = lb_model_size_of(r->spec->model);
    m->leads = 1;
    m->padding = c->product_rows - c->token_rows;
    m->n_fed = r->n_fed;
    m->n_wanted = r->n_wanted;
    m->drafted = r->sched.n_drafted;
    m->accepted = r->sched.n_accepted;
    double wrong = (double)(m->drafted - m->accepted); /* nobody is served by them */
    m->flop = 2 * ((double)size.n_layer_product * ((double)r->n_fed - wrong) +
                   (double)size.n_head_product * ((double)r->n_wanted - wrong));
    m->seqs_sum = r->seqs_sum;
    m->waste_sum = r->waste_sum;
    m->peak_pages = r->kv.peak_used;
    m->idle_s += m->host_wait_s;
    m->busy_s = lb_now() - r->begin - m->idle_s;
}

static void add_taken(struct lb_stats *s, const struct lb_taken *t)
{
    s->resumed = t->rows;
    s->rows += t->rows;
    s->ok += t->ok;
    s->stop += t->stop;
    s->length += t->length;
    s->error += t->error;
    for (int code = 0; code < LB_N_ROW_CODE; code++)
        s->by_code[code] += t->by_code[code];
}

static void count_run(struct lb_run *r)
{
    struct lb_stats *s = r->stats;
    struct lb_tally *t = &r->tally;
    s->rows = t->rows;
    s->ok = t->ok;
    s->stop = t->stop;
    s->length = t->length;
    s->error = t->error;
    s->folded = t->folded;
    memcpy(s->by_code, t->by_code, sizeof s->by_code);
    if (r->taken)
        add_taken(s, r->taken);
    s->prompt_tokens = t->prompt_tokens;
    s->completion_tokens = t->completion_tokens;
    s->scored_tokens = t->scored_tokens;
    s->scored_nll = t->scored_nll;
    s->write_s = t->write_s;
    count_latency(r);
    if (r->spec->mode == LB_RUN_MODEL)
        count_forward(r);
    lb_follow_count(r->spec, &s->mine);
}

enum lb_status lb_run_rows(const struct lb_run_spec *spec, struct lb_stats *stats, struct lb_run_end *end,
                           struct lb_err *err)
{
    struct lb_run *r = lb_mem_new(1, sizeof *r);
    *end = (struct lb_run_end){0};
    if (!r)
        return lb_err_memory(err, "a run", sizeof *r);
    struct lb_err why = LB_ERR_INIT;
    enum lb_status status = run_init(r, spec, stats, &why);
    if (spec->mode == LB_RUN_MODEL)
        status = lb_follow_agree(spec, status, &why);
    bool ready = status == LB_OK, stopped = false;
    lb_watch_begin(spec->watch);
    lb_timeline_begin(spec->timeline, spec->ranks.world->host, spec->plan->batch_tokens, stats->load_s);
    if (status == LB_OK)
        status = start(r, &why);
    if (status == LB_OK)
        status = spec->mode == LB_RUN_MODEL ? loop(r, &why) : lb_run_wait(r, &why);
    if (status == LB_OK)
        status = lb_run_land(r, &why);
    else
        lb_run_land(r, &(struct lb_err)LB_ERR_INIT);
    if (stats->mine.steps)
        lb_log_put(spec->log, LB_LOG_DEBUG, "allocations of the forward thread after the first step: %llu",
                   (unsigned long long)(lb_mem_count() - r->first_allocs));
    if (verifies(r, status)) {
        stopped = true;
        status = verify(r, &why);
    }
    if (status != LB_OK)
        lb_run_fail(r, &why, ready);
    if (ready && spec->mode == LB_RUN_MODEL)
        lb_follow_end(r);
    if (ready && !stopped)
        stop(r, status != LB_OK || r->over);
    lb_timeline_end(spec->timeline);
    if (status == LB_OK)
        lb_run_progress(r, true);
    r->timed_out = r->timed_out || atomic_load(&r->left_out);
    count_run(r);
    end->closed = atomic_load(&r->closed);
    status = r->err.status;
    if (status != LB_OK) {
        lb_err_set(err, status, "%s", r->err.text);
    } else if (spec->ranks.world->rank == 0 && !end->closed && !atomic_load(&r->peer_failed) &&
               (r->interrupted || r->timed_out)) {
        status = lb_err_set(err, LB_E_INTERRUPTED, "%s: %lld finished rows are kept",
                            r->timed_out ? "the time limit is reached" : "interrupted", (long long)stats->rows);
    }
    stats->input_hash = r->input_hash;
    stats->input_known = status == LB_OK && !end->closed && !atomic_load(&r->peer_failed);
    end->peer_failed = atomic_load(&r->peer_failed);
    end->complete = status == LB_OK && !end->closed && !end->peer_failed;
    run_release(r);
    lb_mem_free(r);
    return status;
}
