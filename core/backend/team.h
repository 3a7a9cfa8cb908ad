/* The thread team of the forward pass: n - 1 pthreads and the caller. One thread, the owner, calls lb_team_run.
 * Items are claimed atomically in grains; waiting threads spin for a while, then sleep on a futex. */
#ifndef CORE_BACKEND_TEAM_H
#define CORE_BACKEND_TEAM_H

#include <stdint.h>

#include "core/base/err.h"

struct lb_team;

/* n_thread 0: the number of processors in the affinity mask. The members that the team
 * starts are bound to the mask's processors in order, from the second on, when the team has as many threads as the mask
 * has processors; the owner, member 0, is left as it is, because threads that it starts later inherit its mask.
 * LB_E_USAGE: n_thread out of range; LB_E_DEVICE: no memory or no thread. */
enum lb_status lb_team_new(struct lb_team **out, int n_thread, struct lb_err *err);
void lb_team_free(struct lb_team *t);
int lb_team_size(const struct lb_team *t);

/* Calls fn(ctx, begin, end) until [0, n_item) is covered, in order, at most `grain` items a call; returns when all is
 * done and all writes are visible to the caller. */
void lb_team_run(struct lb_team *t, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx, int64_t n_item,
                 int64_t grain);

/* The same for items of like cost, the next one best met by who had the one before: each member has a range of its own
 * and takes half of what is left of it at a time, `grain` items at least; in the end it takes from others' ends. */
void lb_team_run_even(struct lb_team *t, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx, int64_t n_item,
                      int64_t grain);

/* The same with ranges as the caller cuts them: member i has items begin[i] to begin[i + 1] - 1, and begin[the team's
 * size] is n_item. */
void lb_team_run_ranges(struct lb_team *t, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx,
                        const int64_t *begin);

#endif
