/* Messages between processes: what the rest of core/dist needs from a message passing library, and no more.
 *
 * A table of functions, one per library. Nothing in it blocks but open and close. Lanes are separate orders of
 * messages: each is used by one thread. Between two ranks messages of one lane arrive in the order in which they were
 * sent. */
#ifndef CORE_DIST_WIRE_H
#define CORE_DIST_WIRE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"

enum lb_lane {
    LB_LANE_SETUP, /* world.h's collectives */
    LB_LANE_GROUP, /* the forward threads */
    LB_LANE_ROWS,  /* chan.h */
    LB_LANE_PULSE, /* the watchdogs of different hosts */
    LB_N_LANE
};

#define LB_WIRE_MAX_BYTES ((size_t)1 << 30) /* of one message */

/* A message on its way; its memory is the wire's until it is done. Zero-initialized: done. */
struct lb_wire_req {
    _Alignas(8) unsigned char raw[16];
    bool active;
};

struct lb_wire_head {
    int from, tag; /* from -1: none */
    size_t bytes;
};

struct lb_wire_ops {
    enum lb_status (*open)(int *rank, int *size, struct lb_err *err);
    void (*close)(void);
    void (*abort)(int code); /* ends all processes of the job; may return */
    enum lb_status (*send)(enum lb_lane lane, int to, int tag, const void *data, size_t bytes,
                           struct lb_wire_req *req); /* LB_OK or LB_E_DEVICE */
    enum lb_status (*recv)(enum lb_lane lane, int from, int tag, void *data, size_t bytes, struct lb_wire_req *req);
    /* req->active becomes false when it is done */
    enum lb_status (*test)(struct lb_wire_req *req);
    /* the next message of any rank that is there; it stays until a recv that names its rank and tag */
    enum lb_status (*probe)(enum lb_lane lane, struct lb_wire_head *head);
    const char *(*error)(void); /* text of the last failure of this thread */
};

/* comm.c: NULL when none is built in. */
const struct lb_wire_ops *lb_wire(void);

/* comm_mpi.c */
const struct lb_wire_ops *lb_wire_mpi(void);

#endif
