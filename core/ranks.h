/* The ranks of a run, as opening a model and running it see them: who does what, and what they must have in common.
 *
 * Rank 0 reads, tokenizes, orders and writes. A group of tp ranks holds one copy of the weights; its first rank leads.
 * All functions but init and release are collective: every rank calls them in the same order, also one that has
 * failed, and all return the same status. A run without a launcher is rank 0 of 1, for which all of them are cheap. */
#ifndef CORE_RANKS_H
#define CORE_RANKS_H

#include "core/base/log.h"
#include "core/dist/world.h"
#include "core/llmbatch.h"
#include "core/run/plan.h"

struct lb_ranks {
    struct lb_world *world;
    bool own_world;       /* made here: one process alone */
    struct lb_comm *comm; /* this rank's group; NULL until lb_ranks_form */
    int rank, size;
    int tp, dp;
    int host_nodes;       /* NUMA nodes of this host that ranks stay in; set by lb_ranks_form */
    struct lb_err agreed; /* once it is a failure it stays: all ranks know it, and go to their ends */
    struct lb_cpus cpus;
};

/* world: lent, NULL is one process alone. */
enum lb_status lb_ranks_init(struct lb_ranks *r, struct lb_world *world, struct lb_err *err);
void lb_ranks_release(struct lb_ranks *r);

/* Closes the group, before the backend whose device it may use. release does so too. */
void lb_ranks_part(struct lb_ranks *r);

static inline bool lb_ranks_leads(const struct lb_ranks *r)
{
    return r->rank % r->tp == 0;
}

/* The gravest status of all ranks, with its text, which names the rank unless it is rank 0. err holds this rank's
 * failure when status is one. */
enum lb_status lb_ranks_agree(struct lb_ranks *r, enum lb_status status, struct lb_err *err);

/* Facts (core/io/facts.h) of every rank are those of rank 0, apart from the ignored names (ended by NULL): LB_E_USAGE
 * says what differs, and where. what: what they are of, e.g. "options". */
enum lb_status lb_ranks_compare(struct lb_ranks *r, const char *what, const char *facts, const char *const *ignored,
                                struct lb_err *err);

/* The same of what changes how ranks work together. */
enum lb_status lb_ranks_compare_options(struct lb_ranks *r, const struct lb_options *o, struct lb_err *err);

/* Kernel sets that every rank may use, as a list for lb_backend_open, in out[n]; "" where all may use the same anyway.
 * wanted: this rank's command line, which lb_backend_open takes (NULL: any). Rank 0 says it once. */
enum lb_status lb_ranks_isa(struct lb_ranks *r, const char *wanted, const struct lb_log *log, char *out, size_t n,
                            struct lb_err *err);

/* *v becomes rank 0's, or the smallest of all. */
enum lb_status lb_ranks_same(const struct lb_ranks *r, void *v, size_t bytes, struct lb_err *err);
enum lb_status lb_ranks_least(struct lb_ranks *r, int64_t *v, struct lb_err *err);

/* Groups of tp ranks, which divides their number; 0: the largest that a rank's plan finds that it needs. */
enum lb_status lb_ranks_form(struct lb_ranks *r, int tp, const struct lb_plan_spec *plan, struct lb_err *err);

#endif
