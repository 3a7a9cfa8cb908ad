/* Node shared memory of ranks that add up: a line of flags, three areas and room for parts for each rank.
 *
 * All members make the same calls in the same order. Every exchange ends with a meeting of all members, so that what a
 * member wrote before it is there for the others after it. */
#ifndef CORE_DIST_SHM_H
#define CORE_DIST_SHM_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "core/dist/world_impl.h"

#define LB_SHM_AREA_BYTES ((size_t)512 << 10)
#define LB_SHM_PART_BYTES ((size_t)1 << 30) /* of addresses: pages exist once they are touched */

struct lb_shm_line {
    _Alignas(128) _Atomic uint32_t count; /* meetings that the member has come to; the others' futex */
    _Atomic uint32_t n_asleep;            /* members that sleep on count */
};

struct lb_shm {
    struct lb_world_impl *v;
    int size, me, base_rank; /* members are consecutive ranks of the world */
    uint32_t count, flip;
    void *map;
    size_t bytes;
    int fd;
    struct lb_shm_line *line; /* [size] */
    uint8_t *area;            /* [size, 3, LB_SHM_AREA_BYTES] */
    uint8_t *parts;           /* [size, LB_SHM_PART_BYTES] */
};

/* The first member's, which the others open by its process and fd. */
enum lb_status lb_shm_make(struct lb_shm *s, struct lb_err *err);
enum lb_status lb_shm_open(struct lb_shm *s, int pid, int fd, struct lb_err *err);
void lb_shm_release(struct lb_shm *s);

/* A member's area of the current exchange, into which it writes before a meeting and from which the others read after
 * it. lb_shm_turn begins an exchange: of the two such areas the one that nobody reads any longer. */
void lb_shm_turn(struct lb_shm *s);
void *lb_shm_in(const struct lb_shm *s, int member);

/* The third area: written between two meetings of one exchange, read after the second. */
void *lb_shm_out(const struct lb_shm *s, int member);

/* False when the world fails before all members have come. */
bool lb_shm_meet(struct lb_shm *s);

/* A member's memory for parts, which lb_shm_reduce takes as they are: the others read them there. */
float *lb_shm_part(const struct lb_shm *s, int member);

/* Whether part[n] lies in this member's. */
bool lb_shm_holds(const struct lb_shm *s, const float *part, int64_t n);

/* part[n] f32, in the tree's order over members. n is at most an area, unless all members' parts lie at the same place
 * of lb_shm_part. finish(ctx, slice[m]) may complete the slice that this member adds up before all get it; NULL:
 * nothing to complete. False as above. */
bool lb_shm_reduce(struct lb_shm *s, float *part, int64_t n, bool (*finish)(void *ctx, float *slice, int64_t n),
                   void *ctx);

#endif
