/* Streams: what is asked for is queued, and done when something waits for it. */
#include "kernels/tests/standin/standin_state.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/tests/standin/standin_bridge.h"

#define MAX_STREAM 1024
#define NAMES 2048 /* operations of a stream whose names are remembered */
#define FILL 0xeb  /* bytes that a copy to the host will write */

struct standin_now standin_now;

static struct standin_clock hosts[STANDIN_MAX_DEVICE];
static uint32_t ticks[STANDIN_MAX_CLOCK]; /* go on when a stream takes the id of one that is gone */
static bool id_taken[STANDIN_MAX_CLOCK];
static const char *names[STANDIN_MAX_CLOCK][NAMES];
static struct CUstream_st *streams[MAX_STREAM];
static int n_stream;
static struct CUstream_st null_streams[STANDIN_MAX_DEVICE];

void standin_join(struct standin_clock *to, const struct standin_clock *from)
{
    for (int i = 0; i < STANDIN_MAX_CLOCK; i++)
        if (from->t[i] > to->t[i])
            to->t[i] = from->t[i];
}

const char *standin_name_of(int id, uint32_t t)
{
    return ticks[id] - t < NAMES ? names[id][t % NAMES] : "something long ago";
}

/* ---- operations ---- */

struct standin_op *standin_op_new(enum standin_kind kind, const char *name, const void *ctx, size_t ctx_bytes)
{
    struct standin_op *op = calloc(1, sizeof *op);
    if (!op)
        abort();
    op->kind = kind;
    op->name = name;
    op->ctx_bytes = ctx_bytes;
    if (ctx_bytes) {
        op->ctx = malloc(ctx_bytes);
        if (!op->ctx)
            abort();
        memcpy(op->ctx, ctx, ctx_bytes);
    }
    return op;
}

static void mark_drop(struct standin_mark *m)
{
    if (m && --m->refs == 0)
        free(m);
}

void standin_op_drop(struct standin_op *op)
{
    mark_drop(op->mark);
    if (op->meeting && --op->meeting->n_ref == 0)
        free(op->meeting);
    free(op->ctx);
    free(op);
}

static uint64_t hash_rect(const struct standin_rect *r, bool from)
{
    uint64_t h = 1469598103934665603u;
    const char *begin = from ? r->from : r->to;
    for (size_t y = 0; y < r->height; y++)
        for (size_t x = 0; x < r->width; x++)
            h = (h ^ (uint8_t)begin[y * (from ? r->from_pitch : r->to_pitch) + x]) * 1099511628211u;
    return h;
}

static size_t span(const struct standin_rect *r, bool from)
{
    return r->height ? (r->height - 1) * (from ? r->from_pitch : r->to_pitch) + r->width : 0;
}

static bool overlaps(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    return (const char *)a < (const char *)b + b_bytes && (const char *)b < (const char *)a + a_bytes;
}

bool standin_pending(const void *p, size_t bytes)
{
    for (int i = 0; i < n_stream; i++)
        for (const struct standin_op *op = streams[i]->head; op; op = op->next)
            if ((op->kind == OP_COPY && overlaps(p, bytes, op->rect.from, span(&op->rect, true))) ||
                ((op->kind == OP_COPY || op->kind == OP_SET) &&
                 overlaps(p, bytes, op->rect.to, span(&op->rect, false))))
                return true;
    return false;
}

bool standin_graph_runs(const void *graph)
{
    for (int i = 0; i < n_stream; i++)
        for (const struct standin_op *op = streams[i]->head; op; op = op->next)
            if (op->graph == graph)
                return true;
    return false;
}

/* What the host may not change, or look at, until it has waited: the one is noticed by a hash, the other gives bytes
 * that no copy brings. */
static void watch_host(struct standin_op *op)
{
    struct standin_rect *r = &op->rect;
    if (op->kind != OP_COPY)
        return;
    if (op->pinned_to && !standin_pending(r->to, span(r, false))) {
        for (size_t y = 0; y < r->height; y++)
            memset(r->to + y * r->to_pitch, FILL, r->width);
        op->hash = hash_rect(r, false);
    } else {
        op->pinned_to = false;
    }
    if (op->pinned_from)
        op->hash = hash_rect(r, true);
}

static void run_rect(const struct standin_op *op)
{
    const struct standin_rect *r = &op->rect;
    if (op->pinned_from && op->hash != hash_rect(r, true))
        standin_report("%s: the host changed the pinned memory before it was copied", op->name);
    if (op->pinned_to && op->hash != hash_rect(r, false))
        standin_report("%s: the host wrote into the pinned memory before the copy came there", op->name);
    for (size_t y = 0; y < r->height; y++) {
        char *to = r->to + y * r->to_pitch;
        if (r->from) {
            standin_touch(r->from + y * r->from_pitch, r->width, false);
            standin_touch(to, r->width, true);
            memmove(to, r->from + y * r->from_pitch, r->width);
        } else {
            standin_touch(to, r->width, true);
            memset(to, r->value, r->width);
        }
    }
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

void standin_begin_op(struct CUstream_st *s, const struct standin_op *op)
{
    standin_join(&s->clock, &op->host);
    uint32_t t = s->clock.t[s->id] = ++ticks[s->id];
    names[s->id][t % NAMES] = op->name;
    standin_now = (struct standin_now){s, op, t};
}

static void run_op(struct CUstream_st *s, struct standin_op *op)
{
    int code = 0;
    standin_begin_op(s, op);
    bool lost = standin_lost() || standin_device_error(s->device) != cudaSuccess;
    if (op->kind == OP_WAIT)
        standin_join(&s->clock, &op->mark->clock);
    if (op->kind == OP_RECORD) {
        op->mark->clock = s->clock;
        op->mark->at_ms = now_ms();
        op->mark->done = true;
    }
    if (!lost && (op->kind == OP_COPY || op->kind == OP_SET))
        run_rect(op);
    if (op->run && (!lost || op->kind == OP_MEET))
        code = op->run(op->ctx, s);
    if (code)
        standin_device_fail(s->device, (cudaError_t)code);
    standin_now = (struct standin_now){0};
    standin_news();
}

static struct standin_op *pop(struct CUstream_st *s)
{
    struct standin_op *op = s->head;
    s->head = op->next;
    if (!s->head)
        s->tail = &s->head;
    return op;
}

static bool step(struct CUstream_st *s, bool may_wait);

/* Whether all have come to m, or what there is to do before that, in which case *on is whether it was done. */
static bool is_met(struct standin_meeting *m, bool may_wait, bool *on)
{
    bool there = !m->never && (m->at_ms == 0 || now_ms() >= m->at_ms);
    for (int i = 0; i < m->n_rank; i++) {
        if (m->op[i] && m->stream[i]->head != m->op[i]) {
            *on = step(m->stream[i], may_wait);
            return false;
        }
        there = there && m->op[i];
    }
    there = there && (!m->there || m->there(m));
    *on = may_wait;
    if (!there && may_wait) {
        standin_shut();
        standin_await();
        standin_open();
    }
    return there;
}

/* The first of s is a collective: other ranks' work before it, then it. */
static bool step_meeting(struct CUstream_st *s, bool may_wait)
{
    struct standin_meeting *m = s->head->meeting;
    bool on;
    for (int i = 0; i < m->n_rank && standin_lost(); i++)
        if (m->op[i] == s->head) {
            s->head->aborted = true;
            m->op[i] = NULL;
        }
    if (s->head->aborted) {
        struct standin_op *op = pop(s);
        run_op(s, op);
        standin_op_drop(op);
        return true;
    }
    if (!is_met(m, may_wait, &on))
        return on;
    m->run(m);
    standin_now = (struct standin_now){0};
    struct standin_op *done[STANDIN_MAX_DEVICE] = {0};
    for (int i = 0; i < m->n_rank; i++) {
        done[i] = pop(m->stream[i]);
        m->op[i] = NULL;
    }
    for (int i = 0; i < STANDIN_MAX_DEVICE; i++)
        if (done[i])
            standin_op_drop(done[i]);
    standin_news();
    return true;
}

/* Does one thing so that s gets on. Nothing is known after it: other threads may have done more. false: it would have
 * had to wait for another rank. */
static bool step(struct CUstream_st *s, bool may_wait)
{
    if (s->head->kind == OP_WAIT && !s->head->mark->done && !standin_lost())
        return step(s->head->mark->stream, may_wait);
    if (s->head->kind == OP_MEET)
        return step_meeting(s, may_wait);
    struct standin_op *op = pop(s);
    run_op(s, op);
    standin_op_drop(op);
    return true;
}

/* STANDIN_SOON: all that can be done. */
static void do_all(void)
{
    standin_open();
    for (bool did = true; did;) {
        did = false;
        for (int i = n_stream - 1; i >= 0; i--)
            did |= streams[i]->head && step(streams[i], false);
    }
    standin_shut();
}

cudaError_t standin_drain(struct CUstream_st *s)
{
    standin_open();
    while (s->head)
        step(s, true);
    standin_shut();
    standin_join(&hosts[s->device], &s->clock);
    return standin_device_error(s->device);
}

static cudaError_t drain_mark(const struct standin_mark *m)
{
    standin_open();
    while (!m->done)
        step(m->stream, true);
    standin_shut();
    standin_join(&hosts[m->device], &m->clock);
    return standin_device_error(m->device);
}

void standin_drain_device(int device)
{
    for (int i = 0; i < n_stream; i++)
        if (streams[i]->device == device)
            standin_drain(streams[i]);
}

/* ---- streams ---- */

static bool open_stream(struct CUstream_st *s, int device)
{
    int id = 0;
    while (id < STANDIN_MAX_CLOCK && id_taken[id])
        id++;
    if (id == STANDIN_MAX_CLOCK || n_stream == MAX_STREAM)
        return false;
    *s = (struct CUstream_st){.device = device, .id = id};
    s->tail = &s->head;
    id_taken[id] = true;
    streams[n_stream++] = s;
    return true;
}

struct CUstream_st *standin_null_stream(void)
{
    struct CUstream_st *s = &null_streams[standin_device()];
    if (!s->tail && !open_stream(s, standin_device()))
        abort();
    return s;
}

/* op belongs to s, or to the graph that s is recorded into. */
cudaError_t standin_enqueue(struct CUstream_st *s, struct standin_op *op)
{
    bool known = s && (s->tail && s == &null_streams[s->device]);
    if (!s)
        standin_report("%s: the default stream is not used here", op->name);
    if (!s || (!known && !standin_lives("stream", s))) {
        standin_op_drop(op);
        return cudaErrorInvalidResourceHandle;
    }
    if (s->capture)
        return standin_capture(s, op);
    op->host = hosts[s->device];
    watch_host(op);
    *s->tail = op;
    s->tail = &op->next;
    if (op->kind == OP_MEET)
        op->join(op->ctx, op, s);
    standin_news();
    if (standin_ordered() == STANDIN_SOON)
        do_all();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    cudaError_t e = standin_enter("cudaStreamCreateWithFlags");
    *out = NULL;
    if (e)
        return standin_leave(e);
    if (flags != cudaStreamNonBlocking)
        standin_report("streams that wait for the default one are not modeled");
    struct CUstream_st *s = malloc(sizeof *s);
    if (!s || !open_stream(s, standin_device())) {
        free(s);
        return standin_leave(cudaErrorMemoryAllocation);
    }
    standin_made("stream", s);
    *out = s;
    return standin_leave(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    cudaError_t e = standin_enter("cudaStreamDestroy");
    if (s && s->capture)
        standin_report("a stream is destroyed while it is recorded");
    if (!standin_gone("stream", s))
        return standin_leave(cudaErrorInvalidResourceHandle);
    standin_drain(s);
    for (int i = 0; i < n_stream; i++)
        if (streams[i] == s)
            streams[i--] = streams[--n_stream];
    id_taken[s->id] = false;
    free(s);
    return standin_leave(e);
}

/* A stream that work can be waited for in. */
static cudaError_t enter_stream(const char *call, cudaStream_t s)
{
    cudaError_t e = standin_enter(call);
    if (e)
        return e;
    if (!standin_lives("stream", s))
        return cudaErrorInvalidResourceHandle;
    if (!s->capture)
        return cudaSuccess;
    standin_report("the stream is recorded");
    standin_break_recording();
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    cudaError_t e = enter_stream("cudaStreamSynchronize", s);
    return standin_leave(e ? e : standin_drain(s));
}

/* "Not ready" twice, then what can be done without waiting for other ranks. */
static bool is_patient(void)
{
    static int n_query;
    return n_query++ % 3 == 2;
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    cudaError_t e = enter_stream("cudaStreamQuery", s);
    if (e)
        return standin_leave(e);
    standin_open();
    for (bool on = is_patient(); on && s->head;)
        on = step(s, false);
    standin_shut();
    if (s->head)
        return standin_leave(standin_device_error(s->device) ? standin_device_error(s->device) : cudaErrorNotReady);
    return standin_leave(standin_drain(s));
}

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t e = standin_enter("cudaDeviceSynchronize");
    if (!standin_may_touch_all("cudaDeviceSynchronize"))
        e = cudaErrorStreamCaptureUnsupported;
    if (!e)
        standin_drain_device(standin_device());
    return standin_leave(e ? e : standin_device_error(standin_device()));
}

/* ---- events ---- */

struct CUevent_st {
    struct standin_mark *mark; /* NULL: never recorded */
    bool timed;
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    cudaError_t e = standin_enter("cudaEventCreateWithFlags");
    *out = NULL;
    if (e)
        return standin_leave(e);
    *out = calloc(1, sizeof **out);
    if (!*out)
        abort();
    (*out)->timed = !(flags & cudaEventDisableTiming);
    standin_made("event", *out);
    return standin_leave(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t ev)
{
    cudaError_t e = standin_enter("cudaEventDestroy");
    if (!standin_gone("event", ev))
        return standin_leave(cudaErrorInvalidResourceHandle);
    mark_drop(ev->mark);
    free(ev);
    return standin_leave(e);
}

static cudaError_t enter_event(const char *call, cudaEvent_t ev)
{
    cudaError_t e = standin_enter(call);
    if (e)
        return e;
    return standin_lives("event", ev) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaEventRecord(cudaEvent_t ev, cudaStream_t s)
{
    cudaError_t e = enter_event("cudaEventRecord", ev);
    if (e || !standin_lives("stream", s))
        return standin_leave(e ? e : cudaErrorInvalidResourceHandle);
    if (s->capture) {
        standin_report("events in a stream that is recorded are not modeled");
        standin_break_recording();
        return standin_leave(cudaErrorStreamCaptureUnsupported);
    }
    struct standin_op *op = standin_op_new(OP_RECORD, "cudaEventRecord", NULL, 0);
    op->mark = calloc(1, sizeof *op->mark);
    if (!op->mark)
        abort();
    op->mark->refs = 2;
    op->mark->stream = s;
    op->mark->device = s->device;
    mark_drop(ev->mark);
    ev->mark = op->mark;
    return standin_leave(standin_enqueue(s, op));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t ev, unsigned flags)
{
    cudaError_t e = enter_event("cudaStreamWaitEvent", ev);
    if (e || !ev->mark)
        return standin_leave(e);
    if (flags)
        standin_report("flags %u are not modeled", flags);
    struct standin_op *op = standin_op_new(OP_WAIT, "cudaStreamWaitEvent", NULL, 0);
    op->mark = ev->mark;
    op->mark->refs++;
    return standin_leave(standin_enqueue(s, op));
}

cudaError_t cudaEventSynchronize(cudaEvent_t ev)
{
    cudaError_t e = enter_event("cudaEventSynchronize", ev);
    if (!standin_may_touch_all("cudaEventSynchronize"))
        e = cudaErrorStreamCaptureUnsupported;
    if (!e && !ev->mark)
        standin_report("the event was never recorded");
    return standin_leave(e || !ev->mark ? e : drain_mark(ev->mark));
}

cudaError_t cudaEventQuery(cudaEvent_t ev)
{
    cudaError_t e = enter_event("cudaEventQuery", ev);
    if (!standin_may_touch_all("cudaEventQuery"))
        e = cudaErrorStreamCaptureUnsupported;
    const struct standin_mark *m = ev ? ev->mark : NULL;
    if (e || !m)
        return standin_leave(e);
    standin_open();
    for (bool on = is_patient(); on && !m->done;)
        on = step(m->stream, false);
    standin_shut();
    if (!m->done)
        return standin_leave(standin_device_error(m->device) ? standin_device_error(m->device) : cudaErrorNotReady);
    return standin_leave(drain_mark(m));
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    cudaError_t e = enter_event("cudaEventElapsedTime", begin);
    if (e || !standin_lives("event", end))
        return standin_leave(e ? e : cudaErrorInvalidResourceHandle);
    if (!begin->timed || !end->timed || !begin->mark || !end->mark) {
        standin_report("events that take no times, or were never recorded");
        return standin_leave(cudaErrorInvalidResourceHandle);
    }
    if (!begin->mark->done || !end->mark->done)
        return standin_leave(cudaErrorNotReady);
    *ms = (float)(end->mark->at_ms - begin->mark->at_ms);
    return standin_leave(cudaSuccess);
}
