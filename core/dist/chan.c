#define _GNU_SOURCE
#include "core/dist/chan.h"

#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "core/dist/world_impl.h"

#define MAX_BYTES ((size_t)1 << 30)

/* A message to this rank itself. */
struct letter {
    struct letter *next;
    int tag;
    size_t bytes;
    uint8_t data[];
};

struct lb_chan {
    struct lb_world *world;
    struct letter *first, **end; /* sent to itself, not received yet */
    struct letter *held;         /* what the caller looks at */
};

enum lb_status lb_chan_open(struct lb_chan **out, struct lb_world *w, struct lb_err *err)
{
    *out = NULL;
    struct lb_chan *c = lb_mem_new(1, sizeof *c);
    if (!c)
        return lb_err_memory(err, "a channel", sizeof *c);
    c->world = w;
    c->end = &c->first;
    *out = c;
    return LB_OK;
}

void lb_chan_close(struct lb_chan *c)
{
    if (!c)
        return;
    while (c->first) {
        struct letter *next = c->first->next;
        lb_mem_free(c->first);
        c->first = next;
    }
    lb_mem_free(c->held);
    lb_mem_free(c);
}

enum lb_status lb_chan_send(struct lb_chan *c, int to, int tag, const void *data, size_t bytes, struct lb_err *err)
{
    if (bytes > MAX_BYTES || to < 0 || to >= c->world->size || tag < 0 || tag > 32767)
        return lb_err_set(err, LB_E_DEVICE, "cannot send %zu bytes with tag %d to rank %d", bytes, tag, to);
    LB_TRY(lb_world_failed(c->world, err));
    struct letter *l = lb_mem_new(1, sizeof *l + bytes);
    if (!l)
        return lb_err_memory(err, "a message", bytes);
    l->tag = tag;
    l->bytes = bytes;
    if (bytes)
        memcpy(l->data, data, bytes);
    *c->end = l;
    c->end = &l->next;
    return LB_OK;
}

static bool take_own(struct lb_chan *c, struct lb_msg *msg)
{
    struct letter *l = c->first;
    if (!l)
        return false;
    c->first = l->next;
    if (!c->first)
        c->end = &c->first;
    c->held = l;
    *msg = (struct lb_msg){c->world->rank, l->tag, l->data, l->bytes};
    return true;
}

enum lb_status lb_chan_recv(struct lb_chan *c, struct lb_msg *msg, double wait_s, struct lb_err *err)
{
    *msg = (struct lb_msg){.from = -1};
    lb_mem_free(c->held);
    c->held = NULL;
    LB_TRY(lb_world_failed(c->world, err));
    if (!take_own(c, msg) && wait_s > 0) { /* alone: nobody else sends */
        struct timespec ts = {(time_t)wait_s, (long)((wait_s - (double)(time_t)wait_s) * 1e9)};
        nanosleep(&ts, NULL);
    }
    return LB_OK;
}

size_t lb_chan_pending(const struct lb_chan *c, size_t *bytes)
{
    (void)c;
    if (bytes)
        *bytes = 0;
    return 0;
}
