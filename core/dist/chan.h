/* Row traffic: messages between any two ranks of the world, beside the collectives of the forward threads.
 *
 * One thread of each rank uses its channel. Nothing in here blocks for longer than it is told to: a message that is
 * sent is copied and on its way while the thread sends or receives further ones. Messages from one rank arrive in the
 * order in which they were sent. A rank may send to itself. */
#ifndef CORE_DIST_CHAN_H
#define CORE_DIST_CHAN_H

#include <stddef.h>

#include "core/base/err.h"
#include "core/dist/world.h"

struct lb_chan;

struct lb_msg {
    int from, tag;
    const void *data; /* valid until the next call of lb_chan_recv */
    size_t bytes;
};

/* One channel a process at a time. Not collective. */
enum lb_status lb_chan_open(struct lb_chan **out, struct lb_world *w, struct lb_err *err);

/* Waits until what was sent has left (or a peer has failed), then frees. NULL is allowed. */
void lb_chan_close(struct lb_chan *c);

/* tag 0 … 32767, data[bytes] copied, at most 1 GiB. Fails when the world has failed. */
enum lb_status lb_chan_send(struct lb_chan *c, int to, int tag, const void *data, size_t bytes, struct lb_err *err);

/* The next message of any rank. Waits at most wait_s (0: looks once); no message then: LB_OK, from = -1. Fails when the
 * world has failed. */
enum lb_status lb_chan_recv(struct lb_chan *c, struct lb_msg *msg, double wait_s, struct lb_err *err);

/* Messages and bytes that have not left yet: a sender that must bound its memory looks here. */
size_t lb_chan_pending(const struct lb_chan *c, size_t *bytes);

#endif
