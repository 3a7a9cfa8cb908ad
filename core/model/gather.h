/* Where the ranks of a group meet at the end of a step: each tells the leader, rank 0, how its step went and what its
 * part of the vocabulary says of the wanted tokens; the leader makes of it what one rank alone would have found.
 *
 * A rank that failed tells that as any other does, and the leader's step fails. */
#ifndef CORE_MODEL_GATHER_H
#define CORE_MODEL_GATHER_H

#include "core/backend/backend.h"
#include "core/base/err.h"
#include "core/base/mem.h"
#include "core/dist/comm.h"

struct lb_gather {
    struct lb_comm *comm;         /* lent */
    struct lb_backend *be;        /* lent */
    struct lb_arena arena;        /* the leader's holds all messages, the others' their own */
    const int64_t *vocab;         /* [comm->size + 1] ids where the ranks' parts begin, lent */
    uint32_t flags, flags_of_all; /* what this rank tells with its next step; what all told with the last one */
};

/* vocab is lent. max_out: wanted tokens of a step at most. */
enum lb_status lb_gather_init(struct lb_gather *g, struct lb_comm *comm, struct lb_backend *be, const int64_t *vocab,
                              int32_t max_out, struct lb_err *err);
void lb_gather_release(struct lb_gather *g);

/* Where this rank's struct lb_head_part goes. */
void *lb_gather_part(struct lb_gather *g);

/* After step_end, by all ranks. own: how the step ended here, err with it. *cand is the leader's, NULL elsewhere. The
 * leader gets the first failure of any rank, the others their own. fits: the step is within the limits, else nothing
 * of it is read. */
enum lb_status lb_gather_step(struct lb_gather *g, const struct lb_step *step, bool fits, const struct lb_cand **cand,
                              struct lb_err *err);

#endif
