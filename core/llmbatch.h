/* The library behind the command: open a model, run rows through it, read the statistics.
 *
 *     lb_open(&llm, &options, &err);   checks options and files, loads the model
 *     lb_run(llm, &err);               reads the inputs, writes OUT and the stats file
 *     lb_close(llm);
 *
 * One run a handle. core never prints, exits or reads the environment: messages go to options.log, progress to
 * options.progress, a request to stop is the flag options.stop. */
#ifndef CORE_LLMBATCH_H
#define CORE_LLMBATCH_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "core/base/err.h"
#include "core/base/log.h"
#include "core/base/str.h"
#include "core/io/row.h"
#include "core/run/overflow.h"
#include "core/run/stats.h"
#include "core/run/watch.h"

struct lb_world; /* core/dist/world.h: ranks that a launcher started */
struct lb_hook;  /* core/model/decoder.h: tests look into a running engine */

enum lb_order { LB_ORDER_INPUT, LB_ORDER_COMPLETION };
enum lb_add_bos { LB_BOS_AUTO, LB_BOS_YES, LB_BOS_NO };

/* What a report is made of, lent for the call that makes it. */
struct lb_view {
    const struct lb_stats *stats; /* as the stats file has them */
    const char *command;          /* NULL: not known */
    const struct lb_watch *watch;
    const struct lb_note *note; /* [n_note] of the audit */
    int n_note;
};

/* Everything is lent until lb_close, apart from gen, which lb_open copies. lb_options_init sets the defaults. */
struct lb_options {
    const char *model;
    const char *const *inputs; /* [n_input] paths, "-" is stdin; none: stdin, unless prompt is given */
    size_t n_input;
    const char *prompt;      /* one row instead of inputs */
    const char *const *lora; /* [n_lora] adapters, "DIR" for rows that name none or "NAME=DIR" */
    size_t n_lora;
    int64_t shard_index, n_shard; /* only rows whose number is shard_index modulo n_shard */
    const char *output;           /* NULL or "-": stdout */
    const char *stats;            /* NULL: OUT.stats.json when OUT is a regular file */
    const char *trace;            /* file of events by time; NULL: none */
    const char *report;           /* file of the text that `page` makes when the run has ended; NULL: none */
    void (*page)(const struct lb_view *v, struct lb_str *out); /* memory failures stick in out */
    bool overwrite; /* an existing OUT is replaced; without, only one that is complete is let be */
    bool restart;   /* what an earlier run left in OUT.partial is discarded, not taken over */

    const char *device;             /* "auto", "cpu", "cuda", "null": made-up logits, no weights are read */
    const char *cuda_library;       /* path of llmbatch-cuda.so; NULL: it is looked for */
    bool nccl_ring;                 /* ranks' sums on devices are added by NCCL, in an order of its own */
    const char *dtype;              /* "auto" (bf16), "f32", "bf16" */
    const char *quantize;           /* NULL, "none", "int8", "w4a8": the layers' matrices and their inputs */
    const char *kv_dtype;           /* "auto" (that of the weights), "f32", "bf16": no other than dtype */
    const char *isa;                /* NULL: what the processor has */
    int graphs;                     /* tests: of decode steps on CUDA, kept at most; 0: as is usual, -1: none */
    bool unpack;                    /* tests: weights that could stay packed do not; the same output, more memory */
    bool no_ahead;                  /* tests: a step begins when the one before has ended, whatever the device can */
    int screens;                    /* tests: of the LM head by int8, see struct lb_backend_spec */
    int64_t threads;                /* 0: the affinity mask */
    struct lb_world *world;         /* from lb_join; NULL: one process alone */
    int64_t tp;                     /* ranks that share one copy of the weights; 0: chosen */
    int64_t batch_tokens, max_seqs; /* 0: chosen */
    int64_t kv_memory;              /* bytes; 0: chosen */
    int64_t max_model_len;          /* 0: the model's */
    enum lb_order order;
    bool no_prefix_cache;
    bool no_fold;  /* rows that would give the same are all run */
    bool no_draft; /* a row's step has one new token, whatever is expected behind it */

    bool render;                      /* rows as the model would see them, without a model */
    bool plan;                        /* nothing is run or written but the stats file: see lb_plan_text */
    const char *chat_template;        /* file; NULL: the model's */
    const char *chat_template_kwargs; /* text of a JSON object, or NULL */
    bool retry_errors;                /* failed rows of OUT.partial, or else of OUT, are run again */
    int64_t time_limit_s;             /* since lb_open; 0: none */
    int64_t verify;                   /* finished rows that are run again, alone; 0: none */
    int64_t max_errors;               /* failed rows that do not stop the run; -1: any number */
    struct tm now;                    /* strftime_now of templates */
    enum lb_audit_mode audit;
    enum lb_add_bos add_bos;
    enum lb_overflow overflow; /* where prompt and max_tokens exceed the limit */
    const char *input_key;     /* NULL: "prompt" */
    bool chat;                 /* a prompt of text becomes one user message */
    const char *system;        /* first message of conversations that have no system message; NULL: none */
    enum lb_row_format format;
    int64_t created;   /* what OpenAI responses say, seconds of the epoch */
    char *const *keep; /* [n_keep] */
    size_t n_keep;
    bool keep_all, keep_special, timing, token_ids;
    struct lb_gen gen; /* what the command line sets */

    const char *command; /* the command line as text, for the stats */
    struct lb_log log;
    void (*progress)(void *ctx, const struct lb_progress *p); /* NULL: none */
    void *progress_ctx;
    const volatile sig_atomic_t *stop; /* not 0: stop admitting, keep finished rows; NULL: never */
    const struct lb_hook *hook;        /* tests only; NULL as a rule */
    int64_t lt_weights;                /* tests only: see struct lb_backend_spec */
    bool bold_drafts;                  /* tests only: rows take drafts that are not worth it */
    int64_t crowd_pages; /* tests only: a cache of so many pages, and rows admitted until they are evicted; 0 */
};

void lb_options_init(struct lb_options *o);

/* Ranks that a launcher started run as one: every rank joins, agrees, opens, runs and leaves, in this order, also one
 * that has failed. */
struct lb_launch {
    int n_task;               /* as the launcher says; 0: it does not */
    double timeout_s;         /* how long a rank may show no progress */
    const struct lb_log *log; /* lent until lb_leave */
    /* From a thread of the world, once, when another rank is gone or late: `tell` is true on one rank, for people. This
     * rank's calls fail from now on. */
    void (*late)(void *ctx, const char *text, bool tell);
    void *ctx;
};

struct lb_rank_place {
    int rank, size;
    const char *host;
};

enum lb_status lb_join(struct lb_world **out, const struct lb_launch *l, struct lb_err *err);
struct lb_rank_place lb_rank_of(const struct lb_world *w);

/* The gravest status of all ranks with its text, which names the rank. */
enum lb_status lb_agree(struct lb_world *w, enum lb_status status, struct lb_err *err);

/* code: how this process ends. Does not return when another rank is gone. */
void lb_leave(struct lb_world *w, int code);

struct lb_llm;

/* Order of checks: settings, output files (nothing is touched), inputs, model files, memory. */
enum lb_status lb_open(struct lb_llm **out, const struct lb_options *o, struct lb_err *err);

/* Runs all rows. LB_OK also when rows failed: lb_exit_code tells. LB_E_INTERRUPTED after a stop: finished rows are in
 * OUT.partial (or on stdout), the stats file is written. The same after the time limit, and for LB_E_STOPPED: too many
 * rows failed. */
enum lb_status lb_run(struct lb_llm *llm, struct lb_err *err);

/* The program's exit code for how the run ended, given what lb_open or lb_run returned: 0, 1 (some rows failed), 2, 3,
 * 4, 5, 130. llm may be NULL. */
int lb_exit_code(const struct lb_llm *llm, enum lb_status status);

/* OUT, when lb_open found it complete, made by the same command of the same rows, so that lb_run does nothing; else
 * NULL. */
const char *lb_complete_output(const struct lb_llm *llm);

/* Puts the outputs of all shards (o->inputs, in the order of their numbers) together as o->output: line k of the I-th
 * is row k * N + I. No model is needed. LB_E_INPUT: they do not fit together. */
enum lb_status lb_merge(const struct lb_options *o, struct lb_err *err);

const struct lb_stats *lb_stats_of(const struct lb_llm *llm);

/* With options.plan, after lb_run: what would be done, as lines for people; "" otherwise. Lent until lb_close. */
const char *lb_plan_text(const struct lb_llm *llm);
void lb_close(struct lb_llm *llm);

const char *lb_version(void);

/* Kernel sets of this processor as text ("ref avx512bf16"), for --version. */
const char *lb_isa_list(void);

#endif
