/* Communicators: the ranks that hold one copy of the weights, as a table of functions.
 *
 * A communicator adds up the partial results of a row-parallel product. The order of the additions is the product's
 * tree over K segments (engine contract, section 2), so that the sum has the same bits whatever the number of ranks.
 * One thread, the forward thread, uses a communicator. */
#ifndef CORE_DIST_COMM_H
#define CORE_DIST_COMM_H

#include <stdint.h>

#include "core/base/err.h"

struct lb_comm;

struct lb_comm_ops {
    void (*close)(struct lb_comm *c);
    /* part[n] f32 holds the sum of this rank's segments and receives that of all ranks' segments, added in the tree's
     * order. Failures stick until the step ends. */
    void (*reduce)(struct lb_comm *c, float *part, int64_t n);
};

struct lb_comm {
    const struct lb_comm_ops *ops;
    const char *name; /* "self" */
    int rank, size;
};

/* By name; "self" is one process alone. LB_E_USAGE for a name that is not built in. */
enum lb_status lb_comm_open(struct lb_comm **out, const char *name, struct lb_err *err);

/* comm_self.c: rank 0 of 1. Its segments are all there are, so reduce leaves part as it is. */
struct lb_comm *lb_comm_self(void);

#endif
