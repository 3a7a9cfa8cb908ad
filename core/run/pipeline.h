/* One run: rows from the inputs through the model to the journal. With several ranks all call lb_run_rows, or
 * lb_run_follow those that lead no group.
 *
 * The caller of lb_run_rows is the forward thread; reader, tokenizer, window and writer threads (flow.h) live inside
 * the call and are joined before it returns, whatever happened. They run at lower priority. */
#ifndef CORE_RUN_PIPELINE_H
#define CORE_RUN_PIPELINE_H

#include <signal.h>
#include <stdbool.h>

#include "core/base/log.h"
#include "core/dist/world.h"
#include "core/io/journal.h"
#include "core/io/jsonl_read.h"
#include "core/model/decoder.h"
#include "core/run/audit.h"
#include "core/run/flow.h"
#include "core/run/overflow.h"
#include "core/run/plan.h"
#include "core/run/stats.h"
#include "core/run/timeline.h"
#include "core/run/watch.h"
#include "core/text/tok.h"

struct lb_survey; /* core/run/survey.h */

/* Without a model: rows as the model would see them go to the journal, or are counted. */
enum lb_run_mode { LB_RUN_MODEL, LB_RUN_RENDER, LB_RUN_SURVEY };

/* The ranks that run together; a process alone is a world of its own. */
struct lb_run_ranks {
    struct lb_world *world;
    struct lb_comm *comm; /* this rank's group */
    int tp;               /* ranks of a group */
};

/* All lent. Ranks other than 0 read and write no rows: mode is LB_RUN_MODEL, and what reading and writing takes does
 * not count. */
struct lb_run_spec {
    struct lb_run_ranks ranks;
    enum lb_run_mode mode;
    const struct lb_config *config; /* NULL, without a model only: not known */
    const struct lb_plan *plan;     /* the model is reserved for it; without one, only its lengths count */
    struct lb_model *model;
    struct lb_backend *backend;
    const struct lb_tok *tok;
    struct lb_prompter prompter;
    struct lb_audit *audit;
    struct lb_survey *survey; /* LB_RUN_SURVEY */
    struct lb_lines *lines;   /* NULL: `prompt` is the one row */
    const char *const *order; /* [n_order] paths of the lines' inputs, all plain files: rows are read twice and run in
                               * the order of row_index.h; NULL: as they come, window by window */
    size_t n_order;
    const char *prompt;
    int64_t shard_index, n_shard; /* rows that are run: every n_shard-th. The journal counts them without gaps */
    struct lb_row_spec rows;      /* close_name and ctx are set by the run */
    bool stream;                  /* the input may pause: windows are closed after a second */
    int64_t input_bytes;          /* of all inputs; 0 when not known (a stream, compressed files) */
    const struct lb_gen *gen;
    const struct lb_adapters *adapters;
    enum lb_overflow overflow;
    bool token_ids, timing;
    bool no_prefix_cache;
    int64_t verify; /* finished rows that are run again */
    /* opens the same model elsewhere, for steps within the limit, to compare those rows (crosscheck.h); NULL: they are
     * not compared */
    enum lb_status (*open_other)(void *ctx, struct lb_step_limits limit, struct lb_model **out, struct lb_err *err);
    void *other_ctx;
    bool no_fold;               /* rows that would give the same are all run */
    bool no_draft;              /* rows take no drafts */
    bool crowd, bold;           /* tests: see struct lb_sched_spec */
    int64_t created;            /* of OpenAI responses */
    struct lb_journal *journal; /* not for LB_RUN_SURVEY */
    const struct lb_log *log;
    void (*progress)(void *ctx, const struct lb_progress *p); /* NULL: none; called by the forward thread */
    void *progress_ctx;
    const volatile sig_atomic_t *stop; /* NULL: never */
    double deadline;                   /* on the clock of lb_now: the run ends in order; 0: none */
    int64_t max_errors;                /* the run ends when more rows have failed; negative: any number */
    struct lb_watch *watch;            /* NULL: no report is made */
    struct lb_timeline *timeline;      /* NULL: no trace is made */
};

/* How a run ended beside its status. */
struct lb_run_end {
    bool complete;    /* every row was handed to the journal */
    bool closed;      /* the reader of a pipe went away */
    bool peer_failed; /* another rank failed, and has the text of it */
};

/* Fills the parts of stats that a run knows (rows, tokens, times but total and load, steps, kv, latency). LB_OK,
 * LB_E_INTERRUPTED after a stop, LB_E_STOPPED after too many errors, or what failed first. An input that breaks off is
 * LB_E_INPUT after its good rows have been run. */
enum lb_status lb_run_rows(const struct lb_run_spec *spec, struct lb_stats *stats, struct lb_run_end *end,
                           struct lb_err *err);

/* The same of a rank that leads no group: forward passes over the steps that its group's leader packs. */
enum lb_status lb_run_follow(const struct lb_run_spec *spec, struct lb_stats *stats, struct lb_err *err);

#endif
