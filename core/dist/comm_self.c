/* One process alone. */
#include "core/dist/comm.h"

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

struct lb_comm *lb_comm_self(void)
{
    static const struct lb_comm_ops ops = {self_close, self_reduce};
    static struct lb_comm self = {&ops, "self", 0, 1};
    return &self;
}
