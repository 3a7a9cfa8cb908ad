/* Inside a run: what its threads share. The files pipeline.c (the loop), stages.c, host_read.c (reader), host_in.c
 * (tokenizer, window), host_out.c (writer) and render.c include it, nobody else. */
#ifndef CORE_RUN_RUN_H
#define CORE_RUN_RUN_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/run/ask.h"
#include "core/run/pipeline.h"
#include "core/run/sched.h"
#include "core/run/timeline.h"
#include "core/run/verify.h"

enum { LB_T_READER, LB_T_TOKENIZER, LB_T_WINDOW, LB_T_DEAL, LB_T_WRITER, LB_N_THREAD };

/* Written by the writer thread, read by others after it is joined. */
struct lb_tally {
    int64_t rows, ok, stop, length, error, by_code[LB_N_ROW_CODE], folded;
    int64_t prompt_tokens, completion_tokens, scored_tokens;
    double scored_nll, write_s;
    double *latency; /* [n_latency] seconds */
    size_t n_latency, cap_latency;
};

/* A step from its packing to the end of what became of it. */
struct lb_flight {
    struct lb_step step;
    struct lb_outs *outs; /* the scheduler's */
    struct lb_step_note note;
    int64_t n_prefill, n_decode, n_again, n_hit; /* as the scheduler counts them */
    double waste;                                /* of the cache, a row */
};

struct lb_run {
    const struct lb_run_spec *spec;
    struct lb_queue raw, tokens, ready, done;
    struct lb_queue sorted; /* rank 0 with several groups: rows ready to be dealt, its own group's too */
    bool deals;             /* this is so */
    int wake;               /* eventfd that ends the reader's waiting for input */
    pthread_t thread[LB_N_THREAD];
    bool started[LB_N_THREAD];

    /* forward thread */
    struct lb_kv kv;
    struct lb_prefix prefix;
    struct lb_sched sched;
    struct lb_flight flight[2];
    struct lb_flight *now;              /* it is packed in this round */
    struct lb_flight *flying;           /* launched in an earlier round, not collected; NULL: none */
    struct lb_flight *got;              /* it was collected in this round; NULL: none */
    bool ahead;                         /* a step may fly while the next one is packed */
    const struct lb_cand *cand;         /* [got->step.n_out] */
    int32_t *drawn;                     /* [max_out] ids; -1: logits that are no numbers */
    struct lb_work *waiting;            /* next row to be admitted ... */
    int32_t next_part;                  /* ... from this sequence on */
    struct lb_work *finished;           /* rows of this step that ended */
    bool input_done, interrupted, over; /* over: end after this round */
    bool timed_out;                     /* the deadline came, or was too near for rows that were then left out */
    int64_t n_ahead;                    /* steps that were launched while another one flew */
    double landed;                      /* when the last step was collected */
    double step_s;                      /* of late, for what can be done before the deadline */
    int64_t n_ended, n_ended_tok;       /* sequences that have ended, and their new tokens */
    struct lb_stats *stats;
    double begin, first_step;
    double fill_sum, seqs_sum, waste_sum;
    int64_t n_wanted, n_fed;
    uint64_t first_allocs; /* allocations of this thread after the first step */
    double work_done;      /* tokens of finished rows, as the progress counts them */
    double told_at;        /* time and tokens of the last progress */
    int64_t told_tokens;

    /* forward thread of a group with several ranks */
    int32_t *packed;        /* [lb_step_pack_max] */
    int32_t n_slot;         /* samples of the step before */
    struct lb_asker asker;  /* what samples ask of the group's ranks */
    struct lb_asked *asked; /* [max_out] of the leader; NULL: rows are whole */

    /* shared */
    pthread_mutex_t mutex;
    struct lb_err err;    /* first failure, under the mutex */
    atomic_bool halt;     /* a thread failed: end at once */
    atomic_bool closed;   /* the reader of the output went away: end at once, quietly */
    atomic_bool read_all; /* no more rows come from the reader */
    atomic_bool counted;  /* rows_read is final */
    atomic_llong rows_read, rows_done, bytes_read, work_known;
    atomic_bool warned_name;
    atomic_bool stop_told;   /* a signal came to another rank */
    atomic_bool peer_failed; /* another leader has failed, and says why when all agree */
    atomic_bool leaving;     /* the forward thread has left its loop */
    atomic_bool left_out;    /* another leader did not run rows that would not have ended before the deadline */
    atomic_llong n_gone;     /* sequences of rows that this group has done with */
    atomic_llong work_away, tokens_away; /* of rows that ended in other groups, for the progress */
    const struct lb_taken *taken;        /* rows that an earlier run finished; NULL: no journal */
    uint64_t input_hash;                 /* of all rows read; the reader's until it is joined */
    struct lb_tally tally;
    struct lb_verify verify; /* the writer's until it is joined */
    bool stopped;            /* too many rows failed; the writer's */
    size_t room;             /* bytes of text that one id gives at most */
};

/* Records a failure (the first wins). at_once: nothing goes on; else the run ends after the rows that were read. */
void lb_run_fail(struct lb_run *r, const struct lb_err *err, bool at_once);

/* Ends all waiting; rows in queues are dropped, finished rows still reach the writer unless it is the one to stop. */
void lb_run_abort(struct lb_run *r, bool writer_too);

bool lb_run_failed(struct lb_run *r);

/* A sequence's output buffers, and what its stop strings and penalties need beside them. */
enum lb_status lb_run_make_room(const struct lb_run *r, struct lb_work *w, struct lb_err *err);
void lb_run_drop_helpers(struct lb_work *w); /* the latter: it runs elsewhere */

/* Tokens that a row may come to, as the progress counts them. */
int64_t lb_run_work_of(const struct lb_work *w);

/* Lowers the priority of the calling thread; without the right to do so it stays. */
void lb_run_be_nice(void);

/* The loop of a run without a model: waits until every row is tokenized, or the run is to end (render.c). */
enum lb_status lb_run_wait(struct lb_run *r, struct lb_err *err);

/* Appends the row as --render writes it: a prompt, or an error. */
void lb_run_put_rendered(const struct lb_run *r, struct lb_work *w, struct lb_str *out);

void *lb_run_reader(void *run);
void *lb_run_tokenizer(void *run);
void *lb_run_window(void *run);
void *lb_run_writer(void *run);

#endif
