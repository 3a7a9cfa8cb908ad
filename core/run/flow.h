/* What the stages of a run hand on: a row in flight, and the queues between threads.
 *
 *     reader      lines -> rows                         raw
 *     tokenizer   text -> token ids, checks             tokens      (failed rows: done)
 *     window      windows of rows, longest first        ready
 *     forward     the loop of pipeline.c                done
 *     writer      ids -> text, lines, OUT
 *
 * A struct lb_work belongs to the thread that took it from a queue; it is freed by the writer, or by the one who finds
 * that the run is over. The forward thread allocates nothing: the window thread makes a row's output buffers. */
#ifndef CORE_RUN_FLOW_H
#define CORE_RUN_FLOW_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/io/jsonl_write.h"
#include "core/io/row.h"

#define LB_WINDOW_ROWS 8192                 /* rows that are sorted together, ... */
#define LB_WINDOW_BYTES ((int64_t)32 << 20) /* ... fewer of long prompts: no more than take so much memory */
#define LB_WINDOW_WAIT_S 1.0                /* a window of a stream is closed after this time without a row */

struct lb_sampling {
    bool greedy;
    double temperature, top_p, min_p; /* off: 1, 1, 0 */
    int64_t top_k;                    /* off: 0 */
};

/* What changes logits before an id is chosen. */
struct lb_penalty {
    float repetition, presence, frequency; /* off: 1, 0, 0 */
    const struct lb_bias *bias;            /* [n_bias] lent */
    size_t n_bias;
};

/* Effective settings of a row: row over command line over model. Pointers are lent from the row or the command line. */
struct lb_settings {
    struct lb_sampling sampling;
    struct lb_penalty penalty;
    int64_t max_tokens, min_tokens;
    bool max_given; /* somebody set max_tokens: it is never shortened */
    uint64_t seed;
    bool ignore_eos, skip_special, include_stop;
    int32_t adapter;                      /* from 1; 0: none */
    int64_t logprobs;                     /* K, or -1: not asked for */
    int64_t prompt_logprobs, prompt_from; /* the same of the prompt's tokens, from this position on */
    int64_t n;                            /* samples */
    char *const *stop;                    /* [n_stop] */
    size_t n_stop;
    const int32_t *stop_ids; /* [n_stop_ids] */
    size_t n_stop_ids;
};

struct lb_stop_text; /* core/run/stop.h */
struct lb_adjust;    /* core/run/adjust.h */

/* Seconds of the monotonic clock. */
struct lb_times {
    double read, admitted, first, last;
};

/* A row in flight: its first sequence, the lead, which owns the others. Queues hold leads; each sequence runs by
 * itself, and the lead goes on when all of them have ended. */
struct lb_work {
    struct lb_work *next; /* in a queue or list */
    struct lb_row row;    /* of a lead */
    struct lb_settings set;
    struct lb_work *lead;  /* itself, unless this is a further sequence of a row */
    struct lb_work *twin;  /* of a lead: a row that ends as this one does and is not run (fold.h), and so on; owned */
    struct lb_work **part; /* [n_part] of a lead with several sequences, owned: itself, then the others; else NULL */
    int32_t n_part;        /* of a lead: sequences */
    int32_t n_left;        /* of a lead: sequences that have not ended */
    int32_t n_copy;        /* samples that a sequence stands for: greedy ones are the same */
    uint32_t sample;       /* number among the samples of the row, prompt by prompt: keys the random numbers */
    int32_t *prompt;       /* [n_prompt] owned, unless prompt_lent */
    int64_t n_prompt;
    int64_t n_begin;         /* of its tokens that begin a text: BOS, [gMASK]<sop> */
    int64_t n_cut;           /* tokens that --overflow took from it, or from max_tokens */
    bool prompt_lent;        /* from the prompt's first sample */
    struct lb_work **follow; /* [n_follow] samples of its prompt that begin when the first id of each can be drawn, lent
                              * from the lead's list */
    int32_t n_follow;
    int64_t n_shared; /* tokens that other rows near it in the order begin with too: worth keeping in the cache */
    int64_t course;   /* steps that it takes at most; as all fields down to group_len for order.h */
    int64_t group;    /* rows that begin alike, */
    int64_t group_course, group_len; /* and the longest course and the longest prompt among them */
    int64_t n_before;                /* positions that were fed before the row was evicted; 0: it was not */
    char *echo;                      /* text of the prompt, where it goes before the new text; owned */
    size_t n_echo;
    int32_t *out; /* [set.max_tokens] owned, n_out of them generated */
    int64_t n_out;
    struct lb_logprob *logprob; /* [set.max_tokens] owned, NULL when not asked for */
    struct lb_logprob_top *top; /* [set.max_tokens, K] owned */
    struct lb_logprob *scored;  /* [n_prompt - lb_score_first] of the prompt's tokens, owned, NULL when not asked for */
    struct lb_logprob_top *scored_top; /* [n_prompt - lb_score_first, K] owned */
    int64_t next_scored;               /* the next position of the prompt to be scored */
    struct lb_stop_text *stop_at;      /* owned, NULL without stop strings */
    struct lb_adjust *adjust;          /* owned, NULL where nothing changes the logits */
    /* how it ended; a failed row has row.code or `fail` */
    enum lb_row_code fail; /* found by the forward thread, which makes no message */
    enum lb_finish finish;
    bool ended_by_id;        /* the last id is an end token: not in the text */
    const char *stop_string; /* NULL, or what ended it: text_bytes of the text are kept */
    size_t text_bytes;
    struct lb_times time;
    int64_t steps;
    /* of a lead in a run with ranks */
    int rank;        /* where it ran */
    uint64_t ticket; /* while it runs away from home; when it was written its place, where it is kept (verify.h) */
    int64_t weight;  /* what it adds to a queue's: bytes on the way to the window, behind it tokens */
};

/* LB_E_DEVICE without memory is NULL. */
struct lb_work *lb_work_new(void);
void lb_work_free(struct lb_work *w); /* a lead, with its other sequences; NULL is allowed */

/* The first position of a prompt that is scored: nothing stands before position 0. */
static inline int64_t lb_score_first(const struct lb_settings *set)
{
    return set->prompt_from > 1 ? set->prompt_from : 1;
}

/* Whether the log-probabilities of a sequence's prompt are asked for; samples of one prompt have those of the first. */
static inline bool lb_work_scores(const struct lb_work *w)
{
    return w->set.prompt_logprobs >= 0 && !w->prompt_lent;
}

/* How many of its tokens get one. */
static inline int64_t lb_work_n_scored(const struct lb_work *w)
{
    int64_t n = w->n_prompt - lb_score_first(&w->set);
    return n > 0 ? n : 0;
}

/* The lead's i-th sequence. */
static inline struct lb_work *lb_work_part(struct lb_work *lead, int32_t i)
{
    return lead->part ? lead->part[i] : lead;
}

/* Times of a row: from its first sequence that began to its last that ended. */
struct lb_times lb_work_times(struct lb_work *lead);

/* n sequences of a row have ended: true when they were the last. */
static inline bool lb_work_end(struct lb_work *lead, int32_t n)
{
    lead->n_left -= n;
    return lead->n_left == 0;
}

/* True for rows whose logits are needed on the host. */
static inline bool lb_work_needs_logits(const struct lb_work *w)
{
    return !w->set.sampling.greedy || w->set.logprobs >= 0 || w->adjust;
}

/* Whether nothing of a row that samples is wanted but its ids, so that a device can draw them. */
static inline bool lb_work_draws_alone(const struct lb_work *w)
{
    return !w->set.sampling.greedy && w->set.logprobs < 0 && !w->adjust;
}

/* Whether the choice of an id depends on nothing but its logits and its place: the row may take drafts (draft.h). */
static inline bool lb_work_drafts(const struct lb_work *w)
{
    return w->set.max_tokens > 0 && !w->adjust;
}

/* Monotonic clock in seconds. */
double lb_now(void);

/* A bounded queue of rows. Closed: no more rows come. Aborted: the run is over, nobody waits any more. */
struct lb_queue {
    pthread_mutex_t mutex;
    pthread_cond_t filled, drained;
    struct lb_work *head, *tail;
    size_t n, cap;
    int64_t weight;     /* sum of the rows' */
    int64_t max_weight; /* from which on it is full; 0: its length alone counts. Set after lb_queue_init */
    bool closed, aborted;
};

enum lb_pop { LB_POP_ROW, LB_POP_EMPTY, LB_POP_END };

enum lb_status lb_queue_init(struct lb_queue *q, size_t cap, struct lb_err *err);
void lb_queue_release(struct lb_queue *q); /* frees the rows that are left; nobody uses the queue any more */

/* Waits while the queue is full. false: aborted, the row stays the caller's. */
bool lb_queue_push(struct lb_queue *q, struct lb_work *w);

/* Takes the first row; waits wait_s seconds at most (0: not at all, negative: without end). LB_POP_END: closed and
 * empty, or aborted. */
enum lb_pop lb_queue_pop(struct lb_queue *q, double wait_s, struct lb_work **w);

int64_t lb_queue_weight(struct lb_queue *q);
void lb_queue_close(struct lb_queue *q);
void lb_queue_abort(struct lb_queue *q);

#endif
