/* Graphs: a stream's operations recorded, and queued again as often as wanted. */
#include "kernels/tests/standin/standin_state.h"

#include <stdlib.h>

struct CUgraph_st {
    struct standin_op *head, **tail;
};

struct CUgraphExec_st {
    struct standin_op *head;
    struct CUgraphExec_st *next; /* of all */
};

static struct CUgraphExec_st *execs;

static struct standin_op *op_copy(const struct standin_op *op)
{
    struct standin_op *copy = standin_op_new(op->kind, op->name, op->ctx, op->ctx_bytes);
    copy->rect = op->rect;
    copy->pinned_from = op->pinned_from;
    copy->pinned_to = op->pinned_to;
    copy->run = op->run;
    copy->join = op->join;
    copy->comm = op->comm;
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
static _Thread_local bool is_broken; /* they are not worth anything any more */

void standin_break_recording(void)
{
    is_broken = true;
}

bool standin_may_touch_all(const char *call)
{
    if (n_recorded == 0)
        return true;
    standin_report("%s while a stream is recorded", call);
    is_broken = true;
    return false;
}

bool standin_graph_has(const void *comm)
{
    for (const struct CUgraphExec_st *x = execs; x; x = x->next)
        for (const struct standin_op *op = x->head; op; op = op->next)
            if (op->comm == comm)
                return true;
    return false;
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
    if (n_recorded++ == 0)
        is_broken = false;
    return standin_leave(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    cudaError_t e = standin_enter("cudaStreamEndCapture");
    *graph = NULL;
    if (!standin_lives("stream", s) || !s->capture)
        return standin_leave(e ? e : cudaErrorIllegalState);
    if (!e && is_broken)
        e = cudaErrorStreamCaptureInvalidated;
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
    x->next = execs;
    execs = x;
    *out = x;
    return standin_leave(cudaSuccess);
}

/* What was there when it was recorded may be gone. */
static bool is_there(const struct standin_op *op)
{
    int device;
    const struct standin_rect *r = &op->rect;
    if (op->comm && !standin_lives("communicator", op->comm))
        return false;
    if (r->to && (standin_place(r->to, r->width, &device) != (op->pinned_to ? STANDIN_PINNED : STANDIN_ON_DEVICE) ||
                  (r->from && standin_place(r->from, r->width, &device) !=
                                  (op->pinned_from ? STANDIN_PINNED : STANDIN_ON_DEVICE)))) {
        standin_report("%s of a graph, whose memory is freed", op->name);
        return false;
    }
    return true;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    cudaError_t e = standin_enter("cudaGraphLaunch");
    if (!e && !standin_lives("executable graph", x))
        e = cudaErrorInvalidValue;
    for (const struct standin_op *op = e ? NULL : x->head; op && !e; op = op->next)
        e = is_there(op) ? cudaSuccess : cudaErrorInvalidValue;
    for (const struct standin_op *op = e ? NULL : x->head; op && !e; op = op->next) {
        struct standin_op *copy = op_copy(op);
        copy->graph = x;
        e = standin_enqueue(s, copy);
    }
    return standin_leave(e);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    cudaError_t e = standin_enter("cudaGraphExecDestroy");
    if (!standin_gone("executable graph", x))
        return standin_leave(cudaErrorInvalidValue);
    if (!standin_lost() && standin_graph_runs(x))
        standin_report("the graph has work that is still to be done");
    struct CUgraphExec_st **at = &execs;
    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
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
