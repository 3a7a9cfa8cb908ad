#define _GNU_SOURCE
#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/other.h"
#include "core/outlook.h"

/* What is known of a run when its files are closed. */
struct ending {
    struct lb_llm *llm;
    enum lb_status status;
    const char *stats_path; /* NULL: none */
    bool written;
};

static enum lb_status write_stats(const struct ending *e, struct lb_err *err)
{
    struct lb_str text = {0};
    if (!e->stats_path)
        return LB_OK;
    lb_stats_put_json(&e->llm->stats, e->llm->o.command, &text);
    enum lb_status status = text.failed ? lb_err_memory(err, "the statistics", text.len)
                                        : lb_file_replace(e->stats_path, text.data, text.len, err);
    lb_str_release(&text);
    return status;
}

static enum lb_status write_report(const struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    struct lb_note note[LB_MAX_FINDING];
    struct lb_view view = {.stats = &llm->stats, .command = o->command, .watch = llm->watch, .note = note};
    struct lb_str text = {0};
    if (!o->report || !o->page)
        return LB_OK;
    view.n_note = llm->stats.audit ? lb_audit_notes(&llm->audit, note) : 0;
    o->page(&view, &text);
    enum lb_status status =
        text.failed ? lb_err_memory(err, "the report", text.len) : lb_file_replace(o->report, text.data, text.len, err);
    lb_str_release(&text);
    return status;
}

/* The files beside OUT. One that cannot be written does not keep the others from being there. */
static enum lb_status write_files(void *ctx, struct lb_err *err)
{
    struct ending *e = ctx;
    struct lb_llm *llm = e->llm;
    llm->stats.total_s = lb_now() - llm->begin;
    llm->stats.exit_code = lb_exit_code(llm, e->status);
    enum lb_status of_stats = write_stats(e, err), of_report = write_report(llm, err),
                   of_trace = lb_trace_finish(llm->trace, true, err);
    llm->trace = NULL;
    enum lb_status status = of_stats != LB_OK ? of_stats : of_report != LB_OK ? of_report : of_trace;
    e->written = status == LB_OK;
    return status;
}

/* Closes the journal and writes the files beside OUT: before that is renamed, and whatever happened. A failure on the
 * way changes the exit code that they hold. */
static enum lb_status finish(struct ending *e, struct lb_journal *j, bool complete, struct lb_err *err)
{
    struct lb_err late = LB_ERR_INIT;
    bool made = false;
    enum lb_status status = j ? lb_journal_finish(j, complete, write_files, e, &made, &late) : LB_OK;
    if (e->status == LB_OK && status != LB_OK) {
        e->status = lb_err_set(err, status, "%s", late.text);
        e->written = made; /* by the statistics the next start knows a complete OUT */
    }
    if (!e->written) {
        struct lb_err again = LB_ERR_INIT;
        status = write_files(e, &again);
        if (e->status == LB_OK && status != LB_OK)
            e->status = lb_err_set(err, status, "%s", again.text);
    }
    return e->status;
}

static struct lb_fingerprint_spec inputs_of(const struct lb_llm *llm)
{
    return (struct lb_fingerprint_spec){.o = &llm->o, .inputs = llm->inputs, .n_input = llm->n_input};
}

/* OUT is of what was read, whatever becomes of the files meanwhile. */
static void watch_inputs(const struct lb_llm *llm)
{
    struct lb_str now = {0};
    struct lb_fingerprint_spec spec = inputs_of(llm);
    lb_fingerprint_put_inputs(&spec, &now);
    if (!now.failed && !llm->input_sizes.failed && strcmp(now.data, llm->input_sizes.data) != 0)
        lb_log_put(&llm->o.log, LB_LOG_WARN,
                   "the inputs were changed during the run: the output is of the rows as they were read");
    lb_str_release(&now);
}

/* Inputs that can be read twice are compared with the rows that an earlier run finished before anything is done. */
static enum lb_status check_taken(const struct lb_llm *llm, const struct lb_taken *t, struct lb_err *err)
{
    struct lb_lines *lines;
    struct lb_line line = {0};
    if (t->n == 0 || llm->stream || !llm->lines)
        return LB_OK;
    LB_TRY(lb_lines_open(&lines, llm->inputs, llm->n_input, err));
    lb_lines_every(lines, llm->o.shard_index, llm->o.n_shard);
    enum lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < t->n; i++) {
        status = lb_lines_next(lines, &line, err);
        bool same = line.data && (!t->hash[i] || t->hash[i] == lb_taken_hash(lb_hash64(line.data, line.len, 0)));
        if (status == LB_OK && !same)
            status = lb_err_set(err, LB_E_USAGE,
                                "the inputs have changed: row %zu is not the one that '%s.partial' holds; discard its "
                                "rows with --restart, or choose another output",
                                i, llm->resume.found.path);
    }
    lb_lines_close(lines);
    return status;
}

static enum lb_status open_journal(struct lb_llm *llm, struct lb_journal **out, struct lb_err *err)
{
    struct lb_journal_spec spec = lb_llm_journal(llm);
    struct lb_fingerprint_spec inputs = inputs_of(llm);
    enum lb_status status = lb_resume_begin(&llm->resume, &inputs, err);
    if (status == LB_OK)
        status = lb_journal_open(out, &spec, llm->resume.print.data, err);
    if (status == LB_OK)
        status = check_taken(llm, lb_journal_taken(*out), err);
    status = lb_mem_blame(status, "opening the output", err);
    if (status != LB_OK && *out) {
        struct lb_err later = LB_ERR_INIT;
        (void)lb_journal_finish(*out, false, NULL, NULL, NULL, &later); /* what the run failed of is said */
        *out = NULL;
    }
    return status;
}

/* Whether rows may run in an order of all of them: they can be read again where they lie, and what is finished early
 * need not be held back. */
static bool orders_all(const struct lb_llm *llm, const struct lb_journal *j)
{
    const struct lb_options *o = &llm->o;
    if (!j || o->render || !llm->lines || llm->stream || llm->input_bytes < 0)
        return false;
    for (size_t i = 0; i < llm->n_input; i++)
        if (strcmp(llm->inputs[i], "-") == 0)
            return false;
    return lb_journal_regular(j) || o->order == LB_ORDER_COMPLETION;
}

/* What a report and a trace are made of; every rank has it. */
static enum lb_status open_watch(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    if (o->report && !(llm->watch = lb_mem_new(1, sizeof *llm->watch)))
        return lb_err_memory(err, "a report", sizeof *llm->watch);
    if (llm->watch)
        lb_watch_init(llm->watch);
    if (o->trace && lb_is_first(llm))
        LB_TRY(lb_trace_open(&llm->trace, o->trace, err));
    if (o->trace && !(llm->timeline = lb_mem_new(1, sizeof *llm->timeline)))
        return lb_err_memory(err, "a trace", sizeof *llm->timeline);
    return o->trace ? lb_timeline_init(llm->timeline, llm->trace, llm->ranks.rank, llm->begin, err) : LB_OK;
}

/* The steps of all groups, on rank 0. */
static enum lb_status gather_watch(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_world *world = llm->ranks.world;
    LB_TRY(lb_timeline_gather(llm->timeline, world, err));
    if (!llm->watch || world->size == 1)
        return LB_OK;
    struct lb_series *all = lb_is_first(llm) ? lb_mem_new((size_t)world->size, sizeof *all) : NULL;
    bool ok = all || !lb_is_first(llm);
    enum lb_status status = ok ? LB_OK : lb_err_memory(err, "the report", (size_t)world->size * sizeof *all);
    status = lb_world_agree(world, status, err);
    if (status == LB_OK)
        status = lb_world_gather(world, &llm->watch->series, sizeof *all, all, err);
    for (int i = 1; all && status == LB_OK && i < world->size; i++)
        lb_series_join(&llm->watch->series, &all[i]);
    lb_mem_free(all);
    return status;
}

static enum lb_status open_outputs(struct lb_llm *llm, struct lb_journal **j, struct lb_err *err)
{
    if (llm->o.plan)
        return LB_OK;
    LB_TRY(open_journal(llm, j, err));
    return open_watch(llm, err);
}

static struct lb_run_spec run_spec(struct lb_llm *llm, struct lb_journal *j)
{
    static const enum lb_tok_add add[] = {
        [LB_BOS_AUTO] = LB_TOK_AUTO, [LB_BOS_YES] = LB_TOK_BOS, [LB_BOS_NO] = LB_TOK_PLAIN};
    const struct lb_options *o = &llm->o;
    return (struct lb_run_spec){
        .ranks = {.world = llm->ranks.world, .comm = llm->ranks.comm, .tp = llm->ranks.tp},
        .mode = o->plan     ? LB_RUN_SURVEY
                : o->render ? LB_RUN_RENDER
                            : LB_RUN_MODEL,
        .config = llm->config_known ? &llm->config : NULL,
        .plan = &llm->plan,
        .model = llm->model,
        .backend = llm->backend,
        .tok = llm->tok,
        .prompter = {.tok = llm->tok, .chat = llm->chat, .add = add[o->add_bos]},
        .audit = &llm->audit,
        .survey = &llm->survey,
        .lines = llm->lines,
        .order = orders_all(llm, j) ? llm->inputs : NULL,
        .n_order = llm->n_input,
        .prompt = o->prompt,
        .shard_index = o->shard_index,
        .n_shard = o->n_shard,
        .rows = {.input_key = o->input_key,
                 .format = o->format,
                 .chat = o->chat,
                 .system = o->system,
                 .keep = o->keep,
                 .n_keep = o->n_keep,
                 .keep_all = o->keep_all},
        .stream = llm->stream,
        .input_bytes = llm->input_bytes,
        .gen = &llm->gen,
        .adapters = &llm->adapters,
        .overflow = o->overflow,
        .no_prefix_cache = o->no_prefix_cache,
        .verify = o->verify,
        .open_other = llm->backend && llm->backend->stream ? lb_other_open : NULL,
        .other_ctx = llm,
        .no_fold = o->no_fold,
        .no_draft = o->no_draft,
        .bold = o->bold_drafts,
        .crowd = o->crowd_pages > 0,
        .token_ids = o->token_ids,
        .timing = o->timing,
        .created = o->created,
        .journal = j,
        .log = &o->log,
        .progress = o->progress,
        .progress_ctx = o->progress_ctx,
        .stop = o->stop,
        .deadline = o->time_limit_s ? llm->begin + (double)o->time_limit_s : 0,
        .max_errors = o->max_errors,
        .watch = llm->watch,
        .timeline = llm->timeline,
    };
}

/* A plan that does not fit is told in full, and fails. */
static enum lb_status make_plan_text(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_str outlook = {0};
    enum lb_status status = lb_outlook_make(llm, &outlook, err);
    struct lb_survey_view view = {.model = llm->o.model,
                                  .config = llm->config_known ? &llm->config : NULL,
                                  .tok = llm->tok,
                                  .chat = llm->chat,
                                  .audit = &llm->audit,
                                  .stats = &llm->stats,
                                  .max_model_len = llm->plan.max_model_len,
                                  .outlook = &outlook};
    lb_survey_put(&llm->survey, &view, &llm->plan_text);
    lb_str_release(&outlook);
    LB_TRY(status);
    return llm->plan_text.failed ? lb_err_memory(err, "the plan", llm->plan_text.len) : LB_OK;
}

/* What all ranks did, on rank 0; where they cannot be asked any more, what this one did. */
static enum lb_status gather_stats(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_stats *s = &llm->stats;
    bool many = llm->ranks.size > 1 && !lb_text_only(llm);
    enum lb_status status = LB_OK;
    if (many)
        status = lb_world_gather(llm->ranks.world, &s->mine, sizeof s->mine, llm->rank_stats, err);
    if (!many || status != LB_OK)
        llm->rank_stats[0] = s->mine;
    s->rank = llm->rank_stats;
    s->n_rank = many && status == LB_OK && lb_is_first(llm) ? llm->ranks.size : 1;
    lb_stats_join(s);
    return status;
}

/* Rows through the model, on all ranks. Its end is agreed on: *end is as rank 0 has it. */
static enum lb_status run_all(struct lb_llm *llm, struct lb_journal *j, struct lb_run_end *end, struct lb_err *err)
{
    struct lb_run_spec spec = run_spec(llm, j);
    enum lb_status status = LB_OK;
    if (lb_text_only(llm))
        status = lb_is_first(llm) ? lb_run_rows(&spec, &llm->stats, end, err) : LB_OK;
    else if (lb_ranks_leads(&llm->ranks))
        status = lb_run_rows(&spec, &llm->stats, end, err);
    else
        status = lb_run_follow(&spec, &llm->stats, err);
    status = lb_llm_agree(llm, status, err);
    if (status == LB_OK && end->peer_failed)
        status = lb_err_set(err, LB_E_DEVICE, "another rank failed and did not say why");
    end->complete = end->complete && status == LB_OK;
    struct lb_err late = LB_ERR_INIT;
    enum lb_status of_stats = gather_stats(llm, &late);
    if (of_stats == LB_OK)
        of_stats = gather_watch(llm, &late);
    return status == LB_OK && of_stats != LB_OK ? lb_err_set(err, of_stats, "%s", late.text) : status;
}

/* The ranks that write nothing: they learn how the run ended. */
static enum lb_status run_beside(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_run_end end = {0};
    LB_TRY(lb_llm_agree(llm, open_watch(llm, err), err)); /* the journal is open */
    enum lb_status status = run_all(llm, NULL, &end, err);
    status = lb_llm_agree(llm, status, err);
    return status == LB_OK ? lb_ranks_same(&llm->ranks, &llm->exit_code, sizeof llm->exit_code, err) : status;
}

static enum lb_status run_first(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_journal *j = NULL;
    enum lb_status status = lb_llm_agree(llm, open_outputs(llm, &j, err), err);
    if (status != LB_OK) {
        struct lb_err later = LB_ERR_INIT;
        if (j)
            (void)lb_journal_finish(j, false, NULL, NULL, NULL, &later);
        return status;
    }
    struct lb_str path = {0};
    if (llm->o.stats)
        lb_str_puts(&path, llm->o.stats);
    else if (j && lb_journal_regular(j))
        lb_str_putf(&path, "%s.stats.json", lb_journal_path(j));
    struct lb_run_end end = {0};
    status = run_all(llm, j, &end, err);
    if (status == LB_OK && path.failed)
        status = lb_err_memory(err, "a path", path.len);
    llm->closed = end.closed;
    if (end.complete && !llm->o.plan)
        watch_inputs(llm);
    if (end.complete && llm->stats.rows == 0)
        lb_log_put(&llm->o.log, LB_LOG_WARN, "the input holds no rows");
    if (status == LB_OK && llm->o.plan)
        status = make_plan_text(llm, err);
    struct ending e = {.llm = llm, .status = status, .stats_path = path.failed ? NULL : path.data};
    status = finish(&e, j, end.complete && status == LB_OK, err);
    lb_str_release(&path);
    status = lb_llm_agree(llm, status, err);
    llm->exit_code = lb_exit_code(llm, status);
    return status == LB_OK ? lb_ranks_same(&llm->ranks, &llm->exit_code, sizeof llm->exit_code, err) : status;
}

enum lb_status lb_run(struct lb_llm *llm, struct lb_err *err)
{
    if (llm->resume.complete)
        return lb_ranks_same(&llm->ranks, &llm->resume.done.exit_code, sizeof llm->resume.done.exit_code, err);
    llm->rank_stats = lb_mem_new((size_t)llm->ranks.size, sizeof *llm->rank_stats);
    enum lb_status status = llm->rank_stats ? LB_OK : lb_err_memory(err, "statistics", sizeof *llm->rank_stats);
    LB_TRY(lb_llm_agree(llm, status, err));
    return lb_is_first(llm) ? run_first(llm, err) : run_beside(llm, err);
}

int lb_exit_code(const struct lb_llm *llm, enum lb_status status)
{
    if (status != LB_OK || !llm)
        return (int)status;
    if (llm->resume.complete)
        return (int)llm->resume.done.exit_code;
    if (!lb_is_first(llm))
        return llm->exit_code;
    if (llm->stats.verify_differ > 0)
        return LB_E_STOPPED;
    return llm->stats.error > 0 && !llm->closed ? 1 : 0;
}

const char *lb_complete_output(const struct lb_llm *llm)
{
    return llm->resume.complete ? llm->resume.found.path : NULL;
}

const struct lb_stats *lb_stats_of(const struct lb_llm *llm)
{
    return &llm->stats;
}

const char *lb_plan_text(const struct lb_llm *llm)
{
    return llm->plan_text.data ? llm->plan_text.data : "";
}
