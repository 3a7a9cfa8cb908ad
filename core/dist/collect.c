/* The world's collectives: few, small, between steps; all through rank 0. */
#define _GNU_SOURCE
#include <sched.h>
#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "core/dist/world_impl.h"

void lb_pause_turn(struct lb_pause *p, bool oversubscribed)
{
    uint32_t turn = p->turn++;
    if (turn < 1000 && !oversubscribed)
        return;
    if (turn < 2000) {
        sched_yield();
        return;
    }
    long us = turn < 4000 ? 20 : turn < 10000 ? 100 : 1000;
    nanosleep(&(struct timespec){0, us * 1000}, NULL);
}

enum lb_status lb_world_broken(struct lb_world_impl *v, int peer)
{
    lb_world_found(v, peer, "messages of rank %d on host %s and rank %d on host %s break off: %s", v->world.rank,
                   v->world.host ? v->world.host : "?", peer, v->first && v->world.host ? v->peer[peer].host : "?",
                   v->wire->error());
    return LB_E_DEVICE;
}

enum lb_status lb_world_wait(struct lb_world_impl *v, struct lb_wire_req *req, int n, int peer)
{
    struct lb_pause p = {0};
    for (int i = 0; i < n;) {
        if (v->wire->test(&req[i]) != LB_OK)
            return lb_world_broken(v, peer);
        if (!req[i].active) {
            i++;
            continue;
        }
        if (lb_world_has_failed(v))
            return LB_E_DEVICE;
        lb_pause_turn(&p, v->world.oversubscribed);
    }
    return LB_OK;
}

/* Messages of one size between rank 0 and each other rank: to them from data, or from them into data + rank * stride.
 */
static enum lb_status star(struct lb_world_impl *v, bool to_all, void *data, size_t bytes, size_t stride)
{
    const struct lb_wire_ops *wire = v->wire;
    int size = v->world.size;
    struct lb_wire_req *req = lb_mem_new((size_t)size, sizeof *req);
    if (!req) {
        lb_world_found(v, v->world.rank, "rank %d is out of memory", v->world.rank);
        return LB_E_DEVICE;
    }
    enum lb_status status = LB_OK;
    for (int r = 1; r < size && status == LB_OK; r++) {
        char *at = (char *)data + (size_t)r * stride;
        status = to_all ? wire->send(LB_LANE_SETUP, r, 0, at, bytes, &req[r])
                        : wire->recv(LB_LANE_SETUP, r, 0, at, bytes, &req[r]);
        if (status != LB_OK)
            lb_world_broken(v, r);
    }
    if (status == LB_OK)
        status = lb_world_wait(v, req, size, 0);
    lb_mem_free(req);
    return status;
}

static enum lb_status to_zero(struct lb_world_impl *v, const void *mine, size_t bytes)
{
    struct lb_wire_req req = {0};
    if (v->wire->send(LB_LANE_SETUP, 0, 0, mine, bytes, &req) != LB_OK)
        return lb_world_broken(v, 0);
    return lb_world_wait(v, &req, 1, 0);
}

static enum lb_status from_zero(struct lb_world_impl *v, void *data, size_t bytes)
{
    struct lb_wire_req req = {0};
    if (v->wire->recv(LB_LANE_SETUP, 0, 0, data, bytes, &req) != LB_OK)
        return lb_world_broken(v, 0);
    return lb_world_wait(v, &req, 1, 0);
}

/* Ends a collective that other ranks may be waiting in. */
static enum lb_status ended(struct lb_world_impl *v, int before, enum lb_status status, struct lb_err *err)
{
    lb_seat_leave(v, before);
    return status == LB_OK ? LB_OK : lb_world_failed(&v->world, err);
}

enum lb_status lb_world_bcast(struct lb_world *w, void *data, size_t bytes, struct lb_err *err)
{
    struct lb_world_impl *v = w->impl;
    LB_TRY(lb_world_failed(w, err));
    if (w->size == 1)
        return LB_OK;
    int before = lb_seat_enter(v, "bcast", LB_SEAT_OPEN, 0);
    enum lb_status status = LB_OK;
    for (size_t at = 0; at < bytes && status == LB_OK;) {
        size_t n = bytes - at < LB_WIRE_MAX_BYTES ? bytes - at : LB_WIRE_MAX_BYTES;
        char *part = (char *)data + at;
        status = w->rank == 0 ? star(v, true, part, n, 0) : from_zero(v, part, n);
        at += n;
    }
    return ended(v, before, status, err);
}

enum lb_status lb_world_bcast_str(struct lb_world *w, struct lb_str *s, struct lb_err *err)
{
    uint64_t len = s->len;
    LB_TRY(lb_world_bcast(w, &len, sizeof len, err));
    if (w->rank == 0)
        return lb_world_bcast(w, s->data, s->len, err);
    char *data = lb_mem_new((size_t)len + 1, 1);
    if (!data) { /* the others are on their way into the broadcast */
        lb_world_found(w->impl, w->rank, "rank %d on host %s is out of memory", w->rank, w->host);
        return lb_err_memory(err, "what rank 0 says", len);
    }
    enum lb_status status = lb_world_bcast(w, data, (size_t)len, err);
    lb_str_clear(s);
    if (status == LB_OK)
        lb_str_put(s, data, (size_t)len);
    lb_mem_free(data);
    if (status == LB_OK && s->failed)
        return lb_err_memory(err, "what rank 0 says", len);
    return status;
}

enum lb_status lb_world_gather(struct lb_world *w, const void *mine, size_t bytes, void *all, struct lb_err *err)
{
    struct lb_world_impl *v = w->impl;
    LB_TRY(lb_world_failed(w, err));
    if (bytes > LB_WIRE_MAX_BYTES)
        return lb_err_set(err, LB_E_DEVICE, "ranks cannot send %zu bytes at once", bytes);
    if (w->rank == 0 && mine != all && bytes)
        memcpy(all, mine, bytes);
    if (w->size == 1)
        return LB_OK;
    int before = lb_seat_enter(v, "gather", LB_SEAT_OPEN, 0);
    return ended(v, before, w->rank == 0 ? star(v, false, all, bytes, bytes) : to_zero(v, mine, bytes), err);
}

static enum lb_status take_str(struct lb_world_impl *v, int from, size_t bytes, struct lb_str *to)
{
    struct lb_wire_req req = {0};
    char *data = lb_mem_new(bytes ? bytes : 1, 1);
    if (!data) {
        lb_world_found(v, 0, "rank 0 on host %s is out of memory", v->world.host);
        return LB_E_DEVICE;
    }
    enum lb_status status = v->wire->recv(LB_LANE_SETUP, from, 0, data, bytes, &req);
    status = status == LB_OK ? lb_world_wait(v, &req, 1, from) : lb_world_broken(v, from);
    if (status == LB_OK)
        lb_str_put(to, data, bytes);
    if (status == LB_OK || !req.active) /* else the wire may still write there */
        lb_mem_free(data);
    return status;
}

enum lb_status lb_world_gather_str(struct lb_world *w, const void *mine, size_t bytes, struct lb_str *all,
                                   struct lb_err *err)
{
    struct lb_world_impl *v = w->impl;
    uint64_t len = bytes, *lens = NULL;
    if (bytes > LB_WIRE_MAX_BYTES)
        return lb_err_set(err, LB_E_DEVICE, "ranks cannot send %zu bytes at once", bytes);
    if (w->rank == 0 && !(lens = lb_mem_new((size_t)w->size, sizeof *lens)))
        return lb_err_memory(err, "the ranks", (unsigned)w->size);
    enum lb_status status = lb_world_gather(w, &len, sizeof len, lens, err);
    if (status == LB_OK && w->rank == 0)
        lb_str_put(&all[0], mine, bytes);
    if (status == LB_OK && w->size > 1) {
        int before = lb_seat_enter(v, "gather", LB_SEAT_OPEN, 0);
        if (w->rank != 0)
            status = to_zero(v, mine, bytes);
        for (int r = 1; r < w->size && w->rank == 0 && status == LB_OK; r++)
            status = take_str(v, r, (size_t)lens[r], &all[r]);
        status = ended(v, before, status, err);
    }
    for (int r = 0; r < w->size && w->rank == 0 && status == LB_OK; r++)
        if (all[r].failed)
            status = lb_err_memory(err, "what ranks report", lens[r]);
    lb_mem_free(lens);
    return status;
}

enum lb_status lb_world_share_out(struct lb_world_impl *v, const void *mine, size_t bytes, void *all,
                                  struct lb_err *err)
{
    LB_TRY(lb_world_gather(&v->world, mine, bytes, all, err));
    return lb_world_bcast(&v->world, all, bytes * (size_t)v->world.size, err);
}

static int gravity(enum lb_status status)
{
    static const enum lb_status order[] = {LB_OK, LB_E_INTERRUPTED, LB_E_STOPPED, LB_E_USAGE, LB_E_INPUT, LB_E_DEVICE};
    for (int i = 0; i < 6; i++)
        if (order[i] == status)
            return i;
    return 6; /* a status that this list does not know must not be lost */
}

struct verdict {
    int rank;
    struct lb_err err;
};

enum lb_status lb_world_agree(struct lb_world *w, enum lb_status status, struct lb_err *err)
{
    if (w->size == 1)
        return status;
    struct verdict mine = {w->rank, LB_ERR_INIT}, worst, *all = NULL;
    if (status != LB_OK) {
        mine.err = *err;
        mine.err.status = status;
    }
    if (w->rank == 0 && !(all = lb_mem_new((size_t)w->size, sizeof *all))) {
        lb_world_found(w->impl, 0, "rank 0 on host %s is out of memory", w->host);
        return lb_err_memory(err, "the ranks", (unsigned)w->size);
    }
    worst = mine;
    struct lb_err own = LB_ERR_INIT;
    enum lb_status heard = lb_world_gather(w, &mine, sizeof mine, all, &own);
    for (int r = 1; r < w->size && w->rank == 0 && heard == LB_OK; r++)
        if (gravity(all[r].err.status) > gravity(worst.err.status))
            worst = all[r];
    if (heard == LB_OK)
        heard = lb_world_bcast(w, &worst, sizeof worst, &own);
    lb_mem_free(all);
    if (heard != LB_OK)
        return lb_err_set(err, own.status, "%s", own.text);
    if (worst.err.status == LB_OK)
        return LB_OK;
    *err = worst.err;
    lb_err_where(err, "rank %d on host %s", worst.rank, lb_world_host(w, worst.rank));
    return err->status;
}
