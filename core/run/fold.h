/* Rows that would give the same run once: what a greedy row generates follows from its prompt and settings. The others
 * hang on the one that runs (struct lb_work.twin) and are written with its result: each with its own id, number, form
 * and kept members. */
#ifndef CORE_RUN_FOLD_H
#define CORE_RUN_FOLD_H

#include "core/run/flow.h"

/* Zero-initialize. One thread uses it. */
struct lb_fold {
    uint32_t *slot; /* [mask + 1] rows by hash, from 1; 0: free */
    size_t mask;
};

/* For n_row rows at a time at most. */
enum lb_status lb_fold_init(struct lb_fold *f, size_t n_row, struct lb_err *err);
void lb_fold_release(struct lb_fold *f);

/* Hangs those of rows[n] that would give what one before them gives on that one, and frees their prompts. Returns how
 * many are left, in the order that they had. */
size_t lb_fold_rows(struct lb_fold *f, struct lb_work **rows, size_t n);

/* Gives a row the result (and prompt) of the one that it hangs on, until it is taken back. */
void lb_fold_lend(struct lb_work *twin, const struct lb_work *ran);
void lb_fold_take_back(struct lb_work *twin);

#endif
