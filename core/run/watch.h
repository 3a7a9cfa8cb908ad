/* What a report shows beside the statistics: the run over time, how long prompts and answers are, the slowest rows. All
 * of it in memory of a fixed size, whatever the run's length: spans of time and classes of length double when they are
 * used up. The structs are plain memory, so that ranks send them as they lie. */
#ifndef CORE_RUN_WATCH_H
#define CORE_RUN_WATCH_H

#include <stdint.h>

struct lb_work;      /* core/run/flow.h */
struct lb_step_note; /* core/run/timeline.h */

#define LB_WATCH_SPANS 480
#define LB_WATCH_CLASSES 1024
#define LB_WATCH_SLOW 10

/* What steps did in a span of time; a step counts in each span as much as it lies in it. */
struct lb_span {
    double n_prompt, n_new; /* tokens of prompts that were computed, and new tokens */
    double n_tok, room;     /* tokens of the steps, and their budgets */
    double seq_s, busy_s;   /* seconds times rows; seconds */
    double pages;           /* of the KV cache, the most at a time */
};

struct lb_series {
    double begin;   /* on the clock of lb_now */
    double width_s; /* of a span */
    double end_s;   /* of the last step, since begin */
    int64_t n;      /* spans in use: the last one only so far */
    struct lb_span span[LB_WATCH_SPANS];
};

/* Lengths from i * width on, below (i + 1) * width, in class i. */
struct lb_lengths {
    int64_t width, longest, n;
    int64_t count[LB_WATCH_CLASSES];
};

struct lb_slow_row {
    int64_t index, n_prompt, n_new;
    double latency_s, wait_s; /* admission to last token, and reading to admission */
    int rank;
    char id[64]; /* JSON, cut where it is longer */
};

struct lb_watch {
    struct lb_series series;
    struct lb_lengths prompt, answer;       /* of sequences that are ok */
    struct lb_slow_row slow[LB_WATCH_SLOW]; /* the slowest first */
    int n_slow;
};

void lb_watch_init(struct lb_watch *w);

/* Steps come from now on. */
void lb_watch_begin(struct lb_watch *w);

/* The forward thread's, after every step of at most batch_tokens tokens. */
void lb_watch_step(struct lb_watch *w, const struct lb_step_note *note, int64_t batch_tokens);

/* A row that has ended. Writer thread. */
void lb_watch_row(struct lb_watch *w, struct lb_work *row);

/* Adds the steps of another rank, which began at the same time. */
void lb_series_join(struct lb_series *s, const struct lb_series *other);

#endif
