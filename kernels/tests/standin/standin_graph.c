/* Graphs: a stream's operations recorded, and queued again as often as wanted. */
#include "kernels/tests/standin/standin_state.h"

#include <stdlib.h>

struct CUgraph_st {
    struct standin_op *head, **tail;
};

struct CUgraphExec_st {
    struct standin_op *head;
};

static struct standin_op *op_copy(const struct standin_op *op)
{
    struct standin_op *copy = standin_op_new(op->kind, op->name, op->ctx, op->ctx_bytes);
    copy->rect = op->rect;
    copy->pinned_from = op->pinned_from;
    copy->pinned_to = op->pinned_to;
    copy->run = op->run;
    copy->join = op->join;
    return copy;
}

static void ops_free(struct standin_op *op)
{
    while (op) {
        struct standin_op *next = op->next;
        standin_op_drop(op);
        op = next;
    }
}

cudaError_t standin_capture(struct CUstream_st *s, struct standin_op *op)
{
    if (op->kind == OP_WAIT) {
        standin_report("events in a stream that is recorded are not modeled");
        standin_op_drop(op);
        return cudaErrorStreamCaptureIsolation;
    }
    *s->capture->tail = op;
    s->capture->tail = &op->next;
    return cudaSuccess;
}

static _Thread_local int n_recorded; /* streams that this thread records now */

bool standin_may_touch_all(const char *call)
{
    if (n_recorded > 0)
        standin_report("%s while a stream is recorded", call);
    return n_recorded == 0;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    cudaError_t e = standin_enter("cudaStreamBeginCapture");
    if (mode != cudaStreamCaptureModeThreadLocal)
        standin_report("a recording that other threads' calls may end");
    if (e || !standin_lives("stream", s))
        return standin_leave(e ? e : cudaErrorInvalidResourceHandle);
    if (s->capture) {
        standin_report("the stream is recorded already");
        return standin_leave(cudaErrorIllegalState);
    }
    s->capture = calloc(1, sizeof *s->capture);
    if (!s->capture)
        abort();
    s->capture->tail = &s->capture->head;
    n_recorded++;
    return standin_leave(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    cudaError_t e = standin_enter("cudaStreamEndCapture");
    *graph = NULL;
    if (!standin_lives("stream", s) || !s->capture)
        return standin_leave(e ? e : cudaErrorIllegalState);
    if (e) {
        ops_free(s->capture->head);
        free(s->capture);
    } else {
        *graph = s->capture;
        standin_made("graph", *graph);
    }
    s->capture = NULL;
    n_recorded--;
    return standin_leave(e);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    cudaError_t e = standin_enter("cudaGraphInstantiate");
    *out = NULL;
    if (flags)
        standin_report("flags %llu are not modeled", flags);
    if (e || !standin_lives("graph", graph))
        return standin_leave(e ? e : cudaErrorInvalidValue);
    cudaGraphExec_t x = calloc(1, sizeof *x);
    if (!x)
        abort();
    struct standin_op **tail = &x->head;
    for (const struct standin_op *op = graph->head; op; op = op->next) {
        *tail = op_copy(op);
        tail = &(*tail)->next;
    }
    standin_made("executable graph", x);
    *out = x;
    return standin_leave(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    cudaError_t e = standin_enter("cudaGraphLaunch");
    if (!e && !standin_lives("executable graph", x))
        e = cudaErrorInvalidValue;
    for (const struct standin_op *op = e ? NULL : x->head; op && !e; op = op->next)
        e = standin_enqueue(s, op_copy(op));
    return standin_leave(e);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    cudaError_t e = standin_enter("cudaGraphExecDestroy");
    if (!standin_gone("executable graph", x))
        return standin_leave(cudaErrorInvalidValue);
    ops_free(x->head);
    free(x);
    return standin_leave(e);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    cudaError_t e = standin_enter("cudaGraphDestroy");
    if (!standin_gone("graph", graph))
        return standin_leave(cudaErrorInvalidValue);
    ops_free(graph->head);
    free(graph);
    return standin_leave(e);
}
