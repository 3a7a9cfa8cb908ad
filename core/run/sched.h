/* Continuous batching: which tokens of which rows the next step takes. Pure bookkeeping over the page allocator, no
 * clocks and no threads.
 *
 * A step first takes one decode token of every running row, then chunks of prompts in order of admission, then new
 * rows, until its budget of tokens is full. Where there are more decoding rows than budget they take turns. A row is
 * admitted only when the pages of its longest possible course can be set aside, so that no row is ever evicted. Its
 * result depends on none of this. */
#ifndef CORE_RUN_SCHED_H
#define CORE_RUN_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "core/backend/step.h"
#include "core/base/err.h"
#include "core/model/kv.h"
#include "core/run/flow.h"

/* A running row. Its fed positions lie in the cache; the newest generated id is not fed yet. */
struct lb_seq {
    struct lb_work *work; /* NULL: finished, swept by the next lb_sched_begin */
    int32_t kv_seq;
    int64_t n_fed;     /* positions in the cache, with those of the step being built */
    int64_t n_page;    /* set aside */
    int64_t slot_step; /* step whose sample slot holds the newest id */
    int32_t slot;
};

struct lb_sched {
    struct lb_kv *kv;
    int64_t batch_tokens, max_seqs;
    struct lb_seq *seq;              /* [max_seqs], n_seq of them, in order of admission */
    int64_t n_seq, n_page, n_stored; /* pages set aside; positions in the cache */
    int64_t turn;                    /* where decoding begins when the budget is too small for all */
    int32_t *out_seq;                /* [step->n_out] index into seq */
    int64_t n_prefill, n_decode;     /* tokens of the step */
};

/* Pages of the longest course of a row: the last generated id is never fed. */
static inline int64_t lb_sched_peak_pages(int64_t n_prompt, int64_t max_tokens)
{
    return lb_kv_pages_of(n_prompt + max_tokens - 1);
}

/* kv is lent, without open sequences; max_seqs sequences at most. */
enum lb_status lb_sched_init(struct lb_sched *s, struct lb_kv *kv, int64_t batch_tokens, int64_t max_seqs,
                             struct lb_err *err);
void lb_sched_release(struct lb_sched *s); /* frees the rows that still run, unless sequences of theirs are elsewhere */

/* Starts a step: tokens of the running rows. */
void lb_sched_begin(struct lb_sched *s, struct lb_step *step);

/* Takes a sequence of a row (which belongs to the scheduler then) and its first tokens into the step. false: no room
 * now. */
bool lb_sched_admit(struct lb_sched *s, struct lb_step *step, struct lb_work *w);

/* Closes the step: its tables are complete. */
void lb_sched_end(struct lb_sched *s, struct lb_step *step);

/* Adds the id of output j to its row and returns the row. */
struct lb_work *lb_sched_advance(struct lb_sched *s, const struct lb_step *step, int32_t j, int32_t id);

/* The row of output j has ended: gives back its pages and its place. The row is the caller's. */
void lb_sched_finish(struct lb_sched *s, int32_t j);

static inline bool lb_sched_idle(const struct lb_sched *s)
{
    for (int64_t i = 0; i < s->n_seq; i++)
        if (s->seq[i].work)
            return false;
    return true;
}

#endif
