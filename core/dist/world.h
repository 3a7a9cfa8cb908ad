/* The world: all ranks that a launcher started, or one process alone.
 *
 * Opened once a process by the main thread. Calls marked "collective" are made by all ranks in the same order, by one
 * thread (main or forward), outside steps. Waits have no deadline of their own: a watchdog thread looks after the peers
 * (their processes, their signs of life, how long they have been where they are) and, when one is gone or late, makes
 * every wait of this rank fail with one text that names it. With one rank there is no watchdog and nothing waits. */
#ifndef CORE_DIST_WORLD_H
#define CORE_DIST_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/log.h"
#include "core/base/str.h"
#include "core/dist/comm.h"

/* How a group adds up: by itself, or what a test wants to see used. */
enum lb_path {
    LB_PATH_AUTO,   /* shared memory inside a host, recursive doubling between hosts */
    LB_PATH_RANKS,  /* recursive doubling over messages; groups that are no power of two: LB_PATH_GATHER */
    LB_PATH_GATHER, /* every part to every rank over messages */
};

struct lb_world_spec {
    bool use_mpi;             /* false: rank 0 of 1 */
    int n_task;               /* the launcher's number of tasks, 0 when it does not say */
    double timeout_s;         /* without a sign of life, or in one place of a step; 0: however long */
    const struct lb_log *log; /* lent for the life of the world; may be NULL */
    /* From the watchdog thread, once, when a peer is gone or late: what was found. Finished rows can be kept; when the
     * process is still there some seconds later, the watchdog ends it with exit 4. May be NULL. */
    void (*late)(void *ctx, const char *text);
    void *ctx;
    enum lb_path path;
    int ranks_per_host; /* tests: so many consecutive ranks pretend to be a host of their own; 0: as it is */
};

struct lb_world {
    int rank, size;
    const char *host;         /* this rank's */
    int host_rank, host_size; /* among the ranks of this host */
    int host_index, n_host;   /* hosts are numbered by their first ranks */
    bool oversubscribed;      /* ranks outnumber processors: waits give them up at once */
    struct lb_world_impl *impl;
};

/* LB_E_USAGE: the launcher's number of tasks is not the world's (with the hint to --mpi=pmix), or MPI is not built in;
 * LB_E_DEVICE: MPI fails. Collective. */
enum lb_status lb_world_open(struct lb_world **out, const struct lb_world_spec *spec, struct lb_err *err);

/* Orderly, after the last collective: waits for the other ranks to come here too. Collective. NULL is allowed. */
void lb_world_close(struct lb_world *w);

/* The end after lb_world_failed: no MPI_Finalize, which would wait for the peer that is gone. Ends this process and,
 * where the launcher can, those of the other ranks; those that need not tell leave the one that does some seconds for
 * it. */
_Noreturn void lb_world_abort(struct lb_world *w, int code);

/* LB_OK, or what was found about a peer: "rank 3 on host b is gone (layer 7 of step 12)". Any thread, cheap. */
enum lb_status lb_world_failed(struct lb_world *w, struct lb_err *err);

/* After a failure: whether this rank is the one to tell people. Rank 0, or rank 1 if it is about rank 0. */
bool lb_world_tells(const struct lb_world *w);

/* Host of any rank. */
const char *lb_world_host(const struct lb_world *w, int rank);

/* The gravest status of all ranks (device, input, usage, stopped, interrupted, in this order), on every rank; err gets
 * the text of the first rank that has it, as "rank 3 on host b: TEXT" where there are several ranks. err holds this
 * rank's failure when status is one. Collective. */
enum lb_status lb_world_agree(struct lb_world *w, enum lb_status status, struct lb_err *err);

/* data[bytes] of rank 0 to all. Collective. */
enum lb_status lb_world_bcast(struct lb_world *w, void *data, size_t bytes, struct lb_err *err);

/* The same for a string whose length only rank 0 knows; elsewhere it is replaced. Collective. */
enum lb_status lb_world_bcast_str(struct lb_world *w, struct lb_str *s, struct lb_err *err);

/* mine[bytes] of every rank, the same number of bytes on each, to all[size, bytes] on rank 0 (NULL elsewhere).
 * Collective. */
enum lb_status lb_world_gather(struct lb_world *w, const void *mine, size_t bytes, void *all, struct lb_err *err);

/* mine[bytes], any number of bytes, appended to all[rank] of an array of zeroed strings on rank 0 (NULL elsewhere),
 * which the caller releases. Collective. */
enum lb_status lb_world_gather_str(struct lb_world *w, const void *mine, size_t bytes, struct lb_str *all,
                                   struct lb_err *err);

/* The communicator of this rank's group: ranks g*tp … g*tp+tp-1, tp divides size. "self" for tp 1. Once a run.
 * ops->close before lb_world_close. LB_E_USAGE: tp does not divide size or is above LB_COMM_MAX_RANKS. Collective. */
enum lb_status lb_world_group(struct lb_world *w, int tp, struct lb_comm **comm, struct lb_err *err);

struct lb_cpus {
    int n_thread;  /* threads that this rank may have: processors of its mask */
    bool divided;  /* the mask was shared with other ranks and has been divided */
    char why[160]; /* for the log, e.g. "2 ranks of host b share 8 processors: 4 threads each" */
};

/* Divides processors that several ranks of a host may use, so that each has its own, and sets the calling thread's
 * mask, which threads that it starts later inherit. Collective. */
enum lb_status lb_world_cpus(struct lb_world *w, struct lb_cpus *cpus, struct lb_err *err);

/* Where the forward thread is: a short name and a number, e.g. ("step", 17) or ("layer", 3). A rank that stays in one
 * place for timeout_s is late. Cheap; forward thread alone. The step's number is kept beside later places. */
void lb_world_beat(struct lb_world *w, const char *where, int64_t n);

/* The forward thread waits for something that may take any time (rows, a model's files): it is not late until the next
 * beat. Ranks begin like this. */
void lb_world_idle(struct lb_world *w);

#endif
