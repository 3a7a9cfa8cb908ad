/* Continuous batching: which tokens of which rows the next step takes. Pure bookkeeping over the page allocator, no
 * clocks and no threads.
 *
 * A step first takes one decode token of every running row, then chunks of prompts in order of admission, then rows
 * that were evicted, then new rows, until its budget of tokens is full.
 *
 * A row is admitted when the pages that the running rows are expected to need leave room for those that it is expected
 * to need itself: at first its longest course, later as much of it as rows have come to use. Where that was too little,
 * the youngest row is evicted: its pages go, its ids stay, and it is fed again, ids and all, when there is room. The
 * oldest row is never evicted, so that there is an end. A row's result depends on none of this.
 *
 * A row whose prompt is scored asks for the logits of its prompt's tokens, of so many in a step as there is memory for.
 * It starts on pages of its own, since all its positions must be computed, and what was scored before an eviction is
 * not scored again.
 *
 * A step may be begun while the outputs of the one before are not known yet, where a device runs a step ahead: rows go
 * on with "the sample of slot j" then, those whose ids end with it for certain apart. Where one turns out to have
 * ended, it has a token in the newer step that nobody wants. Such a step evicts no row.
 *
 * A row whose logits nothing changes may take a draft into the step behind its newest id (draft.h), where the budget
 * and the free pages have room for it. It has an output behind each of its tokens then; the first one whose id is not
 * the one that the draft fed drops the outputs and the positions behind it. Not where a device runs a step ahead.
 *
 * Samples of a prompt run it once: the first one is admitted for all of them, and the others begin when it is done, on
 * its full pages and on copies of the last one. */
#ifndef CORE_RUN_SCHED_H
#define CORE_RUN_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "core/backend/step.h"
#include "core/base/err.h"
#include "core/model/kv.h"
#include "core/model/prefix.h"
#include "core/run/draft.h"
#include "core/run/flow.h"

#define LB_IDLE_SHARE 4 /* of all pages as many hold shared beginnings that no row uses: memory stays untouched */

/* A running row. Its fed positions lie in the cache; the newest generated id is not fed yet. */
struct lb_seq {
    struct lb_work *work; /* NULL: finished or evicted, swept before new rows come */
    int32_t kv_seq;
    int64_t n_fed;     /* positions in the cache, with those of the step being built */
    int64_t slot_step; /* step whose sample slot holds the newest id */
    int32_t slot;
    int64_t step;  /* the last step that has tokens of it */
    bool promised; /* the newest id of `out` is not known yet: only its slot is */
    struct lb_draft draft;
    int32_t expected[LB_DRAFT_MOST]; /* the draft in the newest step */
    struct lb_prefix_place known;    /* pages that others can take */
};

struct lb_sched_spec {
    struct lb_kv *kv;         /* lent, without open sequences */
    struct lb_prefix *prefix; /* lent; NULL: prompts share nothing */
    int64_t dynamic_above;    /* prompts beyond this length have a rotary base of their own; 0: none has */
    int64_t batch_tokens, max_seqs;
    int64_t score_tokens; /* of prompts, whose logits a step can ask for beside one token of each row */
    int64_t draft_tokens; /* of drafts in a step at most; 0: none */
    int64_t cheap_tokens; /* a step of so many takes hardly longer than one of a single token */
    double read_cost;     /* of a position in the cache, in the time of a token's products */
    bool bold;            /* tests: rows take drafts that are not worth it */
    int32_t out_flag;     /* of rows whose id the LM head alone does not give */
    bool draws;           /* the device draws ids itself where nothing else of a row is wanted */
    bool crowd;           /* tests: admission expects no row to go on, so that rows are evicted */
};

/* Which rows the outputs of a step are for. Valid until the next step but one begins. */
struct lb_outs {
    int32_t *seq;    /* [n] index into the scheduler's seq; -1: its row has ended before */
    int32_t *scored; /* [n] position of the prompt's token that is scored; 0: a new token */
    int32_t *draft;  /* [n] the id of a draft that the step feeds behind it; -1: none */
    int32_t n;
    int64_t step; /* the step's number */
};

/* How many outputs of the same row are before output j: those in front of it in a draft. */
static inline int32_t lb_outs_ahead(const struct lb_outs *o, int32_t j)
{
    int32_t n = 0;
    while (n < j && o->draft[j - n - 1] >= 0)
        n++;
    return n;
}

struct lb_sched {
    struct lb_sched_spec spec;
    struct lb_seq *seq;       /* [max_seqs], n_seq of them, in order of admission */
    int64_t n_seq, n_stored;  /* n_stored: sum of n_fed */
    struct lb_work **evicted; /* [max_seqs] n_evicted of them, the oldest last */
    int64_t n_evicted;
    int64_t most_seq;              /* at a time: so many can decode in one step */
    int64_t step;                  /* the number of the step that is being filled */
    bool crowded;                  /* a row was evicted in this step: none comes */
    bool held;                     /* a row has to wait for a part of its prompt: none comes after it */
    bool ahead;                    /* the step is begun before the outputs of the one before are known */
    bool short_of_pages;           /* a row has to wait for pages, since such a step evicts none */
    struct lb_outs out[2];         /* of the newest step and of the one before */
    struct lb_outs *outs;          /* of the newest step */
    int32_t *moved;                /* [max_seqs] where rows went when those that ended were swept out */
    int64_t n_scored;              /* of the step */
    int64_t n_prefill, n_decode;   /* tokens of the step: of prompts, and generated */
    int64_t n_again;               /* tokens of the step that had been fed before an eviction, in neither of them */
    int64_t n_draft, n_cheap;      /* tokens of the step that may yet be drafts; of one row at hardly any cost */
    int64_t n_drafted, n_accepted; /* of all steps: tokens of drafts, and those of them whose outputs rows took */
    int64_t n_hit;                 /* prompt tokens that the step did not have to take: they were in shared pages */
    /* how much of max_tokens rows have used */
    double used_sum, caution;
    int64_t n_used;
};

/* Pages of the longest course of a row: the last generated id is never fed. */
static inline int64_t lb_sched_peak_pages(int64_t n_prompt, int64_t max_tokens)
{
    return lb_kv_pages_of(n_prompt + (max_tokens > 1 ? max_tokens - 1 : 0));
}

enum lb_status lb_sched_init(struct lb_sched *s, const struct lb_sched_spec *spec, struct lb_err *err);
void lb_sched_release(struct lb_sched *s); /* frees the rows that still run, unless sequences of theirs are elsewhere */

/* Whether the outputs of the newest step, which is closed, can be left for later: nobody has to see them to know how
 * its rows go on. lb_sched_promise says that they are, so that the next step begins without them; they are taken before
 * the step behind that begins. */
bool lb_sched_can_promise(const struct lb_sched *s, const struct lb_step *step);
void lb_sched_promise(struct lb_sched *s, const struct lb_step *step);

/* Starts a step: tokens of the running rows, and of evicted ones where there is room again. */
void lb_sched_begin(struct lb_sched *s, struct lb_step *step);

/* Takes a sequence of a row and its first tokens into the step. false: no room now. It belongs to the scheduler then,
 * as the samples that follow it do; where there is not room for all of them, w->n_follow is made smaller, and the first
 * of the others runs the prompt again. */
bool lb_sched_admit(struct lb_sched *s, struct lb_step *step, struct lb_work *w);

/* Closes the step: its tables are complete. */
void lb_sched_end(struct lb_sched *s, struct lb_step *step);

/* The sequence of output j; NULL: its row has ended before. */
static inline struct lb_seq *lb_sched_seq(struct lb_sched *s, const struct lb_outs *o, int32_t j)
{
    struct lb_seq *q = o->seq[j] < 0 ? NULL : &s->seq[o->seq[j]];
    return q && q->work ? q : NULL;
}

/* Adds the id of output j to its row and returns the row. Where a draft had another id behind it, later outputs of the
 * row are dropped. In the order of outputs. */
struct lb_work *lb_sched_advance(struct lb_sched *s, struct lb_outs *o, int32_t j, int32_t id);

/* A sample of the prompt that output j's row has just run, with its first id (w->out[0]): it begins where that stands.
 * Called for each of those that follow the row and have not ended with that id, before the row itself may end. */
void lb_sched_fork(struct lb_sched *s, const struct lb_outs *o, int32_t j, struct lb_work *w);

/* The row of output j has ended: gives back its pages and its place. The row is the caller's. A token of it in a newer
 * step is no step of the row. */
void lb_sched_finish(struct lb_sched *s, const struct lb_outs *o, int32_t j);

static inline bool lb_sched_idle(const struct lb_sched *s)
{
    for (int64_t i = 0; i < s->n_seq; i++)
        if (s->seq[i].work)
            return false;
    return s->n_evicted == 0;
}

#endif
