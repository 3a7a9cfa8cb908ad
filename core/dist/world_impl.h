/* What the files of a world share. */
#ifndef CORE_DIST_WORLD_IMPL_H
#define CORE_DIST_WORLD_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "core/dist/board.h"
#include "core/dist/wire.h"
#include "core/dist/world.h"

#define LB_HOST_BYTES 64

struct lb_peer {
    char host[LB_HOST_BYTES];
    int host_index, host_rank, pid;
    int machine; /* first rank under the same kernel */
};

struct lb_watchdog;
struct lb_lifeline; /* lifeline.h */

struct lb_world_impl {
    struct lb_world world; /* what callers see */
    struct lb_world_spec spec;
    const struct lb_wire_ops *wire; /* NULL: one rank */
    struct lb_peer *peer;           /* [size] */
    int *first;                     /* [n_host] the hosts' first ranks */
    struct lb_board_map board;
    struct lb_seat *seat; /* this rank's, on the board */
    struct lb_seat own;   /* the same without a board */
    pthread_mutex_t lock; /* failure, until it is set */
    _Atomic int failed;   /* set after the failure's text */
    struct lb_err failure;
    int failed_rank; /* what was found is about this one */
    _Atomic bool is_ending;
    struct lb_watchdog *dog;
    struct lb_lifeline *lifeline; /* of a host's first rank where there are several hosts */
};

/* Something was found about a rank; the first finding counts, and every rank of this host learns of it. Any thread. */
__attribute__((format(printf, 3, 4))) void lb_world_found(struct lb_world_impl *v, int rank, const char *fmt, ...);

/* A finding of another rank or host, to fail with here. Any thread. */
void lb_world_heard(struct lb_world_impl *v, int rank, const char *text);

static inline bool lb_world_has_failed(const struct lb_world_impl *v)
{
    return atomic_load_explicit(&v->failed, memory_order_acquire) != 0;
}

/* A wire call failed: found, with the rank and the wire's text. Returns LB_E_DEVICE. */
enum lb_status lb_world_broken(struct lb_world_impl *v, int peer);

/* Waits for all of req[n]; LB_E_DEVICE when the world fails first. The requests' memory is then lost to the wire. */
enum lb_status lb_world_wait(struct lb_world_impl *v, struct lb_wire_req *req, int n, int peer);

/* One turn of a wait: spins, then yields, then sleeps, longer each time. Zero-initialized. */
struct lb_pause {
    uint32_t turn;
};
void lb_pause_turn(struct lb_pause *p, bool oversubscribed);

/* The forward thread waits inside `doing` (state LB_SEAT_OPEN or LB_SEAT_WAIT); lb_seat_leave brings back what was
 * before. */
int lb_seat_enter(struct lb_world_impl *v, const char *doing, int state, int wait_for);
void lb_seat_leave(struct lb_world_impl *v, int before);

/* mine[bytes] of every rank to all[size, bytes] on every rank. Collective. */
enum lb_status lb_world_share_out(struct lb_world_impl *v, const void *mine, size_t bytes, void *all,
                                  struct lb_err *err);

/* watchdog.c */
enum lb_status lb_watchdog_start(struct lb_world_impl *v, struct lb_err *err);
void lb_watchdog_stop(struct lb_world_impl *v);
/* Whether the process of a rank of this host is known to be gone. */
bool lb_watchdog_is_gone(const struct lb_world_impl *v, int rank);

/* peers.c: who is where, and the board of each host. Collective. */
enum lb_status lb_peers_meet(struct lb_world_impl *v, struct lb_err *err);

#endif
