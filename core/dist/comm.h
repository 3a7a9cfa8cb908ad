/* Communicators: the ranks of a group, which hold one copy of the weights, as a table of functions.
 *
 * A communicator adds up the partial results of a row-parallel product. The order of the additions is the product's
 * tree over K segments (engine contract, section 2), so that the sum has the same bits whatever the number of ranks.
 * One thread of each rank, the forward thread, uses a communicator, and all ranks make the same calls in the same
 * order. A failure (a peer that is gone or late) sticks: later calls return at once with numbers that mean nothing, so
 * that a step runs to its end, where status tells. */
#ifndef CORE_DIST_COMM_H
#define CORE_DIST_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

#define LB_COMM_MAX_RANKS 16 /* of a group: segments of a model (engine contract, section 2) are no more */

struct lb_comm;

struct lb_comm_ops {
    void (*close)(struct lb_comm *c);
    /* part[n] f32 holds the sum of this rank's segments and receives that of all ranks' segments, added in the tree's
     * order: balanced for powers of two, else left to right by rank. */
    void (*reduce)(struct lb_comm *c, float *part, int64_t n);
    /* data[bytes] of rank 0 to all; each rank knows the number of bytes. */
    void (*bcast)(struct lb_comm *c, void *data, size_t bytes);
    /* mine[counts[rank]] of every rank to rank 0, one after the other by rank, into all[sum of counts]; elsewhere all
     * is NULL. counts[size] are bytes, the same on every rank. mine may lie in its place inside all. */
    void (*gather)(struct lb_comm *c, const void *mine, void *all, const size_t *counts);
    /* Says where the forward thread is, e.g. "layer" 3; cheap. The watchdog tells late ranks from it. */
    void (*beat)(struct lb_comm *c, const char *where, int64_t n);
    enum lb_status (*status)(struct lb_comm *c, struct lb_err *err); /* the first failure so far */
    /* The one memory [n] f32, zeroed, from which reduce takes parts without a copy when all ranks pass the same place
     * in it; it lives as long as the communicator. NULL: there is none, or not so much, and any memory does. */
    float *(*buffer)(struct lb_comm *c, int64_t n);
};

struct lb_comm {
    const struct lb_comm_ops *ops;
    const char *name; /* "self", "mpi" */
    int rank, size;
    double seconds; /* spent inside reduce, bcast and gather since it was opened */
    bool heard;     /* a reduce has ended because of another rank, which may know why */
};

/* comm_self.c: rank 0 of 1. Its segments are all there are, so reduce leaves part as it is. close does nothing. */
struct lb_comm *lb_comm_self(void);

/* Whether "mpi" is built in; the text for --version. */
const char *lb_comm_names(void);

/* "self" by name, for code that has no world. LB_E_USAGE for any other name. */
enum lb_status lb_comm_open(struct lb_comm **out, const char *name, struct lb_err *err);

#endif
