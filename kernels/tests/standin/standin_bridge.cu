#include "kernels/tests/standin/standin_bridge.h"

#include <stdlib.h>

#include "kernels/tests/simt/simt.cuh"

/* The call, and behind it what ctx points to. */
static int enqueue(const struct simt_call *call)
{
    size_t bytes = sizeof *call + call->ctx_bytes;
    char *copy = (char *)malloc(bytes);
    if (!copy)
        abort();
    memcpy(copy, call, sizeof *call);
    memcpy(copy + sizeof *call, call->ctx, call->ctx_bytes);
    int code = standin_bridge_queue(call->name, call->stream, copy, bytes);
    free(copy);
    return code;
}

void standin_bridge_add(void *begin, size_t bytes)
{
    simt_enqueue = enqueue;
    simt_saw = standin_bridge_saw;
    simt_add(begin, bytes, true);
}

void standin_bridge_remove(void *begin)
{
    simt_remove(begin);
}

int standin_bridge_run(void *call)
{
    struct simt_call c;
    memcpy(&c, call, sizeof c);
    c.ctx = (char *)call + sizeof c;
    return simt_run_call(&c);
}

const char *standin_bridge_message(void)
{
    return simt_message();
}
