/* What a run did, as the stats file and the end summary say it. Times in seconds, memory in bytes. */
#ifndef CORE_RUN_STATS_H
#define CORE_RUN_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/str.h"
#include "core/io/row.h"

struct lb_setting { /* one effective sampling value */
    const char *name;
    char value[64];     /* JSON */
    const char *origin; /* "model", "command line", "default" */
};

#define LB_MAX_SETTING 20

struct lb_note { /* what the audit found and said */
    const char *code, *severity, *message;
    int64_t count; /* rows; 0: of the model */
};

struct lb_audit;    /* core/run/audit.h */
struct lb_adapters; /* core/run/adapter.h */

enum lb_audit_mode { LB_AUDIT_WARN, LB_AUDIT_ERROR, LB_AUDIT_OFF };

/* What one rank did; ranks send it as it lies in memory. */
struct lb_rank_stats {
    int32_t rank, leads;
    char host[64];
    double busy_s, idle_s, collective_s;
    int64_t peak_rss_bytes;
    /* of the leader of a group: its forward thread */
    int64_t steps, n_fed, n_wanted, prompt_computed, prefix_hit, recomputed, drafted, accepted, padding, peak_pages;
    double forward_s, prefill_s, decode_s, sample_s, host_wait_s;
    double flop, seqs_sum, waste_sum;
};

struct lb_stats {
    struct lb_rank_stats mine;        /* this rank's */
    const struct lb_rank_stats *rank; /* [n_rank] of all, lent; on rank 0 when the run has ended */
    int n_rank;
    int tp, dp;                   /* ranks of a group, groups */
    const char *fingerprint;      /* JSON object; NULL: none */
    bool no_model;                /* --render, --plan: what a model would have done is absent */
    const struct lb_audit *audit; /* NULL: none */
    const char *plan;             /* JSON object: what --plan found; NULL: none */
    /* model, engine */
    const char *model_path, *architecture, *dtype, *device, *isa;
    const char *quantization;           /* NULL: none */
    const struct lb_adapters *adapters; /* lent; NULL: none */
    int64_t n_param;
    int n_thread, segments;
    int64_t batch_tokens, max_seqs, kv_pages;
    const char *why_batch, *why_seqs, *why_kv; /* why they were chosen, lent; NULL: they were not */
    struct lb_setting setting[LB_MAX_SETTING];
    int n_setting;
    /* rows */
    int64_t rows, ok, stop, length, error, by_code[LB_N_ROW_CODE]; /* those of an earlier run among them */
    int64_t resumed;                                               /* rows of an earlier run */
    int64_t folded;                                                /* rows that were the same as one that ran */
    bool input_known; /* all rows were read, and input_hash is theirs (lb_row_chain) */
    uint64_t input_hash;
    /* tokens: of this run, as all that follows */
    int64_t prompt_tokens, prompt_computed, prefix_hit, completion_tokens, recomputed, padding;
    int64_t drafted, accepted; /* tokens of drafts, and those of them that gave an id of their row (draft.h) */
    int64_t scored_tokens;     /* of prompts, with a log-probability, whose sum is -scored_nll */
    double scored_nll;
    /* time: of forward threads the mean over the groups */
    double total_s, load_s, forward_s, prefill_s, decode_s, sample_s, host_wait_s, collective_s, write_s;
    double model_tflops;                                       /* products of weights only, over forward_s */
    int64_t n_latency;                                         /* rows that have one */
    double latency_p50, latency_p90, latency_p99, latency_max; /* admission to last token, of ok rows */
    /* steps */
    int64_t steps;
    double tokens_mean, seqs_mean, fill; /* fill: tokens over budget */
    /* kv */
    int64_t peak_pages;
    double waste;                    /* mean over steps of allocated and empty slots a running row */
    int64_t peak_rss_bytes;          /* of the rank that has most */
    int64_t verified, verify_differ; /* rows that were run again, and those of them that came out otherwise */
    double verify_s;
    bool verifies; /* it was asked for */
    int exit_code;
};

/* Progress, given about once a second from the forward thread. */
struct lb_progress {
    int64_t rows_done, rows_read;
    bool rows_final;         /* rows_read is the total */
    double fraction;         /* of the input's work, 0..1; negative when not known (streams) */
    double elapsed_s, tok_s; /* since the first step; prompt and completion tokens a second of the last seconds */
};

/* Tokens a second of the time after loading; not finite: not measured. */
struct lb_rates {
    double prompt, completion, total;
};

struct lb_rates lb_stats_rates(const struct lb_stats *s);

/* Sums up what the ranks did: s->rank is set. */
void lb_stats_join(struct lb_stats *s);

/* One JSON object as cli.md 5 says; members that were not measured are absent. command: the command line, as text. */
void lb_stats_put_json(const struct lb_stats *s, const char *command, struct lb_str *out);

#endif
