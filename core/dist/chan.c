#define _GNU_SOURCE
#include "core/dist/chan.h"

#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "core/dist/world_impl.h"

#define MAX_TAG 32767

/* A message that has not left yet, or one to this rank itself that has not been received. */
struct letter {
    struct letter *next;
    struct lb_wire_req req;
    int to, tag;
    size_t bytes;
    uint8_t data[];
};

struct queue {
    struct letter *first, **end;
};

struct lb_chan {
    struct lb_world_impl *v;
    struct queue own, sent;
    void *held; /* what the caller looks at */
    size_t n_sent, sent_bytes;
};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void append(struct queue *q, struct letter *l)
{
    l->next = NULL;
    *q->end = l;
    q->end = &l->next;
}

static struct letter *take(struct queue *q, struct letter **at)
{
    struct letter *l = *at;
    *at = l->next;
    if (!*at)
        q->end = at;
    return l;
}

enum lb_status lb_chan_open(struct lb_chan **out, struct lb_world *w, struct lb_err *err)
{
    *out = NULL;
    struct lb_chan *c = lb_mem_new(1, sizeof *c);
    if (!c)
        return lb_err_memory(err, "a channel", sizeof *c);
    c->v = w->impl;
    c->own.end = &c->own.first;
    c->sent.end = &c->sent.first;
    *out = c;
    return LB_OK;
}

/* Forgets the messages that have left. */
static enum lb_status progress(struct lb_chan *c, struct lb_err *err)
{
    LB_TRY(lb_world_failed(&c->v->world, err));
    for (struct letter **at = &c->sent.first; *at;) {
        struct letter *l = *at;
        if (c->v->wire->test(&l->req) != LB_OK) {
            lb_world_broken(c->v, l->to);
            return lb_world_failed(&c->v->world, err);
        }
        if (l->req.active) {
            at = &l->next;
            continue;
        }
        c->n_sent--;
        c->sent_bytes -= l->bytes;
        lb_mem_free(take(&c->sent, at));
    }
    return LB_OK;
}

void lb_chan_close(struct lb_chan *c)
{
    if (!c)
        return;
    struct lb_err err = LB_ERR_INIT;
    struct lb_pause pause = {0};
    double end = now_s() + c->v->spec.timeout_s;
    while (c->sent.first && progress(c, &err) == LB_OK && c->sent.first && now_s() < end)
        lb_pause_turn(&pause, c->v->world.oversubscribed);
    if (c->sent.first && err.status == LB_OK)
        lb_log_put(c->v->spec.log, LB_LOG_WARN, "rank %d never took a message of rank %d", c->sent.first->to,
                   c->v->world.rank);
    while (c->own.first)
        lb_mem_free(take(&c->own, &c->own.first));
    lb_mem_free(c->held);
    lb_mem_free(c); /* what has not left stays with the wire */
}

enum lb_status lb_chan_send(struct lb_chan *c, int to, int tag, const void *data, size_t bytes, struct lb_err *err)
{
    struct lb_world_impl *v = c->v;
    if (bytes > LB_WIRE_MAX_BYTES || to < 0 || to >= v->world.size || tag < 0 || tag > MAX_TAG)
        return lb_err_set(err, LB_E_DEVICE, "cannot send %zu bytes with tag %d to rank %d", bytes, tag, to);
    LB_TRY(progress(c, err));
    struct letter *l = lb_mem_new(1, sizeof *l + bytes);
    if (!l)
        return lb_err_memory(err, "a message", bytes);
    l->to = to;
    l->tag = tag;
    l->bytes = bytes;
    if (bytes)
        memcpy(l->data, data, bytes);
    if (to == v->world.rank) {
        append(&c->own, l);
        return LB_OK;
    }
    if (v->wire->send(LB_LANE_ROWS, to, tag, l->data, bytes, &l->req) != LB_OK) {
        lb_world_broken(v, to);
        return lb_world_failed(&v->world, err);
    }
    append(&c->sent, l);
    c->n_sent++;
    c->sent_bytes += bytes;
    return LB_OK;
}

static enum lb_status take_wire(struct lb_chan *c, const struct lb_wire_head *head, struct lb_msg *msg,
                                struct lb_err *err)
{
    struct lb_world_impl *v = c->v;
    struct lb_wire_req req = {0};
    uint8_t *data = lb_mem_new(head->bytes, 1);
    if (!data)
        return lb_err_memory(err, "a message", head->bytes);
    enum lb_status status = v->wire->recv(LB_LANE_ROWS, head->from, head->tag, data, head->bytes, &req);
    status = status == LB_OK ? lb_world_wait(v, &req, 1, head->from) : lb_world_broken(v, head->from);
    if (status != LB_OK) {
        if (!req.active) /* else the wire may still write there */
            lb_mem_free(data);
        return lb_world_failed(&v->world, err);
    }
    c->held = data;
    *msg = (struct lb_msg){head->from, head->tag, data, head->bytes};
    return LB_OK;
}

/* What is there now. */
static enum lb_status look(struct lb_chan *c, struct lb_msg *msg, struct lb_err *err)
{
    struct lb_wire_head head = {.from = -1};
    LB_TRY(progress(c, err));
    struct letter *own = c->own.first;
    if (own) {
        c->held = take(&c->own, &c->own.first);
        *msg = (struct lb_msg){c->v->world.rank, own->tag, own->data, own->bytes};
        return LB_OK;
    }
    if (c->v->wire && c->v->wire->probe(LB_LANE_ROWS, &head) != LB_OK) {
        lb_world_broken(c->v, c->v->world.rank);
        return lb_world_failed(&c->v->world, err);
    }
    return head.from >= 0 ? take_wire(c, &head, msg, err) : LB_OK;
}

enum lb_status lb_chan_recv(struct lb_chan *c, struct lb_msg *msg, double wait_s, struct lb_err *err)
{
    *msg = (struct lb_msg){.from = -1};
    lb_mem_free(c->held);
    c->held = NULL;
    struct lb_pause pause = {0};
    double end = wait_s > 0 ? now_s() + wait_s : 0;
    for (;;) {
        LB_TRY(look(c, msg, err));
        if (msg->from >= 0 || wait_s <= 0 || now_s() >= end)
            return LB_OK;
        lb_pause_turn(&pause, true); /* processors belong to the forward threads */
    }
}

size_t lb_chan_pending(const struct lb_chan *c, size_t *bytes)
{
    if (bytes)
        *bytes = c->sent_bytes;
    return c->n_sent;
}
