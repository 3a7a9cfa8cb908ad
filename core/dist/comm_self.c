/* One process alone. */
#include "core/dist/comm.h"

#include <string.h>

static void self_close(struct lb_comm *c)
{
    (void)c;
}

static void self_reduce(struct lb_comm *c, float *part, int64_t n)
{
    (void)c;
    (void)part;
    (void)n;
}

static void self_bcast(struct lb_comm *c, void *data, size_t bytes)
{
    (void)c;
    (void)data;
    (void)bytes;
}

static void self_gather(struct lb_comm *c, const void *mine, void *all, const size_t *counts)
{
    (void)c;
    if (mine != all && counts[0])
        memcpy(all, mine, counts[0]);
}

static void self_beat(struct lb_comm *c, const char *where, int64_t n)
{
    (void)c;
    (void)where;
    (void)n;
}

static enum lb_status self_status(struct lb_comm *c, struct lb_err *err)
{
    (void)c;
    (void)err;
    return LB_OK;
}

static float *self_buffer(struct lb_comm *c, int64_t n)
{
    (void)c;
    (void)n;
    return NULL;
}

struct lb_comm *lb_comm_self(void)
{
    static const struct lb_comm_ops ops = {self_close, self_reduce, self_bcast, self_gather,
                                           self_beat,  self_status, self_buffer};
    static struct lb_comm self = {&ops, "self", 0, 1, 0, false};
    return &self;
}
