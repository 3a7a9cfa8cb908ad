/* One memory for all ranks of a host (and of one NUMA node) that need the same bytes, e.g. packed weights: a memfd that
 * the first of them makes and the others open through /proc, in huge pages where the system allows them for shared
 * memory. Where that cannot be had, or nobody else needs the bytes, each rank gets private memory and owns it. */
#ifndef CORE_DIST_SHARE_H
#define CORE_DIST_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/dist/world.h"

struct lb_shared {
    void *data;    /* [bytes] zeroed, at a multiple of 2 MiB; only its owner writes */
    size_t bytes;  /* as asked for */
    bool owner;    /* this rank fills it and calls ready; the others call wait before they read */
    bool is_alone; /* private memory */
    int owner_rank;
    void *map;
    size_t map_bytes;
};

/* Ranks of one host and NUMA node with the same key and size share; key 0 never shares. Collective. */
enum lb_status lb_world_share(struct lb_world *w, uint64_t key, size_t bytes, struct lb_shared *mem,
                              struct lb_err *err);

/* By the owner, once: the bytes are there, or (ok false) never will be. */
void lb_shared_ready(struct lb_world *w, struct lb_shared *mem, bool ok);

/* By the others: waits until then. LB_E_DEVICE when the owner could not fill it or is gone. The owner returns at once.
 */
enum lb_status lb_shared_wait(struct lb_world *w, struct lb_shared *mem, struct lb_err *err);

void lb_shared_release(struct lb_shared *mem);

#endif
