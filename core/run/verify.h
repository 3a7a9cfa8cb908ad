/* --verify N: N of the finished rows run again, each sequence alone, without shared pages and without batch mates, in
 * the process that made them; their tokens must be the same. The rows are chosen evenly by their numbers. */
#ifndef CORE_RUN_VERIFY_H
#define CORE_RUN_VERIFY_H

#include "core/run/flow.h"

struct lb_run;

/* The writer thread fills it; the forward thread reads it when the writer has ended. */
struct lb_verify {
    int64_t n;             /* rows asked for */
    int64_t stride;        /* rows whose place is a multiple of it are kept */
    struct lb_work **kept; /* [2 n + 1] n_kept leads, owned */
    int64_t n_kept;
    bool running; /* rows are run again: watchers of the run are not told of steps */
};

enum lb_status lb_verify_init(struct lb_verify *v, int64_t n, struct lb_err *err); /* n 0: keeps nothing */
void lb_verify_release(struct lb_verify *v);

/* Takes a row that was written: keeps or frees it. place: its number among the rows of the run, or of the shard. No
 * more than 2 n rows are kept at a time. */
void lb_verify_take(struct lb_verify *v, struct lb_work *w, int64_t place);

/* n of the kept rows, or all where they are fewer: sorted by number, evenly chosen; they stand first in `kept`. */
int64_t lb_verify_choose(struct lb_verify *v);

/* The first token of `again` that differs from `was`, or -1. Where one is the other's beginning: the shorter's end. */
int64_t lb_verify_differs(const struct lb_work *was, const struct lb_work *again);

/* Runs them again, when all rows of the run are written and before the group's other ranks are told that it ends. What
 * differs is said at `error` and counted in r->stats; nothing else of them changes but verify_s. A stop or the deadline
 * ends it early. */
enum lb_status lb_verify_rows(struct lb_run *r, struct lb_err *err);

#endif
