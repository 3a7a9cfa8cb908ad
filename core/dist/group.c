/* The communicator of a group of ranks: shared memory where its ranks share a host, messages between hosts. */
#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "core/dist/shm.h"
#include "core/dist/tree.h"
#include "core/dist/world_impl.h"

/* Numbers that are exchanged at once. */
#define WIRE_N (LB_SHM_AREA_BYTES / sizeof(float))

enum path {
    BLOCKS,  /* shared memory inside blocks of ranks of one host, recursive doubling between the blocks */
    DOUBLES, /* recursive doubling between ranks */
    ALL      /* every part to every rank */
};

struct group {
    struct lb_comm comm;
    struct lb_comm_ops alone; /* a group of one among others: self's, but it says where it is */
    struct lb_world_impl *v;
    enum path path;
    int base;          /* rank of the world that is the group's rank 0 */
    int block;         /* ranks of a block; 1 without shared memory */
    struct lb_shm shm; /* this rank's block */
    float *buffer;     /* BLOCKS and DOUBLES: [WIRE_N]; ALL: [size, WIRE_N] */
    struct lb_wire_req req[2 * LB_COMM_MAX_RANKS];
};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* Both ways at once with one other rank of the group. */
static bool swap(struct group *g, int other, const void *out, void *in, size_t bytes)
{
    struct lb_world_impl *v = g->v;
    int peer = g->base + other;
    atomic_store_explicit(&v->seat->wait_for, peer, memory_order_relaxed);
    if (v->wire->recv(LB_LANE_GROUP, peer, 0, in, bytes, &g->req[0]) != LB_OK ||
        v->wire->send(LB_LANE_GROUP, peer, 0, out, bytes, &g->req[1]) != LB_OK)
        return lb_world_broken(v, peer), false;
    return lb_world_wait(v, g->req, 2, peer) == LB_OK;
}

/* sum[n] of this rank's block (or rank) becomes that of all: at each level with the neighbor subtree. */
static bool double_up(void *ctx, float *sum, int64_t n)
{
    struct group *g = ctx;
    for (int64_t at = 0; at < n; at += (int64_t)WIRE_N) {
        int64_t m = n - at < (int64_t)WIRE_N ? n - at : (int64_t)WIRE_N;
        float *part = sum + at;
        for (int dist = g->block; dist < g->comm.size; dist *= 2) {
            int other = g->comm.rank ^ dist;
            if (!swap(g, other, part, g->buffer, (size_t)m * sizeof *part))
                return false;
            bool is_low = g->comm.rank < other;
            lb_tree_add2(part, is_low ? part : g->buffer, is_low ? g->buffer : part, m);
        }
    }
    return true;
}

static bool all_to_all(struct group *g, float *part, int64_t n)
{
    struct lb_world_impl *v = g->v;
    const float *parts[LB_COMM_MAX_RANKS];
    size_t bytes = (size_t)n * sizeof *part;
    int n_req = 0;
    for (int i = 0; i < g->comm.size; i++) {
        float *in = g->buffer + (size_t)i * WIRE_N;
        parts[i] = i == g->comm.rank ? part : in;
        if (i == g->comm.rank)
            continue;
        if (v->wire->recv(LB_LANE_GROUP, g->base + i, 0, in, bytes, &g->req[n_req++]) != LB_OK ||
            v->wire->send(LB_LANE_GROUP, g->base + i, 0, part, bytes, &g->req[n_req++]) != LB_OK)
            return lb_world_broken(v, g->base + i), false;
    }
    if (lb_world_wait(v, g->req, n_req, g->base) != LB_OK)
        return false;
    lb_tree_add(part, parts, g->comm.size, n);
    return true;
}

static void group_reduce(struct lb_comm *c, float *part, int64_t n)
{
    struct group *g = (struct group *)c;
    double begin = now_s();
    int before = lb_seat_enter(g->v, "reduce", LB_SEAT_WAIT, c->rank == 0 ? g->base + 1 : g->base);
    bool ok = !lb_world_has_failed(g->v);
    int64_t most = g->block > 1 && lb_shm_holds(&g->shm, part, n) ? n : (int64_t)WIRE_N;
    for (int64_t at = 0; at < n && ok; at += most) {
        int64_t m = n - at < most ? n - at : most;
        if (g->path == ALL)
            ok = all_to_all(g, part + at, m);
        else if (g->block > 1)
            ok = lb_shm_reduce(&g->shm, part + at, m, g->block < c->size ? double_up : NULL, g);
        else
            ok = double_up(g, part + at, m);
    }
    lb_seat_leave(g->v, before);
    c->seconds += now_s() - begin;
}

/* Down a binomial tree of messages from rank 0. */
static bool wire_bcast(struct group *g, void *data, size_t bytes)
{
    struct lb_world_impl *v = g->v;
    int rank = g->comm.rank, size = g->comm.size, n_req = 0, dist = 1;
    while (dist < size && !(rank & dist))
        dist *= 2;
    if (rank != 0) { /* dist is rank's lowest bit */
        int from = g->base + rank - dist;
        if (v->wire->recv(LB_LANE_GROUP, from, 0, data, bytes, &g->req[0]) != LB_OK)
            return lb_world_broken(v, from), false;
        if (lb_world_wait(v, g->req, 1, from) != LB_OK)
            return false;
    }
    for (dist /= 2; dist > 0; dist /= 2)
        if (rank + dist < size &&
            v->wire->send(LB_LANE_GROUP, g->base + rank + dist, 0, data, bytes, &g->req[n_req++]) != LB_OK)
            return lb_world_broken(v, g->base + rank + dist), false;
    return lb_world_wait(v, g->req, n_req, g->base) == LB_OK;
}

static bool shm_bcast(struct lb_shm *s, void *data, size_t bytes)
{
    lb_shm_turn(s);
    if (s->me == 0)
        memcpy(lb_shm_in(s, 0), data, bytes);
    if (!lb_shm_meet(s))
        return false;
    if (s->me != 0)
        memcpy(data, lb_shm_in(s, 0), bytes);
    return true;
}

static void group_bcast(struct lb_comm *c, void *data, size_t bytes)
{
    struct group *g = (struct group *)c;
    bool in_host = g->block == c->size, ok = !lb_world_has_failed(g->v);
    size_t most = in_host ? LB_SHM_AREA_BYTES : LB_WIRE_MAX_BYTES;
    double begin = now_s();
    int before = lb_seat_enter(g->v, "bcast", LB_SEAT_OPEN, g->base);
    for (size_t at = 0; at < bytes && ok; at += most) {
        size_t n = bytes - at < most ? bytes - at : most;
        ok = in_host ? shm_bcast(&g->shm, (char *)data + at, n) : wire_bcast(g, (char *)data + at, n);
    }
    lb_seat_leave(g->v, before);
    c->seconds += now_s() - begin;
}

static bool wire_gather(struct group *g, const void *mine, void *all, const size_t *counts)
{
    struct lb_world_impl *v = g->v;
    int n_req = 0;
    if (g->comm.rank != 0) {
        if (v->wire->send(LB_LANE_GROUP, g->base, 0, mine, counts[g->comm.rank], &g->req[0]) != LB_OK)
            return lb_world_broken(v, g->base), false;
        return lb_world_wait(v, g->req, 1, g->base) == LB_OK;
    }
    char *at = (char *)all + counts[0];
    for (int i = 1; i < g->comm.size; at += counts[i++])
        if (v->wire->recv(LB_LANE_GROUP, g->base + i, 0, at, counts[i], &g->req[n_req++]) != LB_OK)
            return lb_world_broken(v, g->base + i), false;
    return lb_world_wait(v, g->req, n_req, g->base + 1) == LB_OK;
}

/* In turns of an area; each rank knows how many from counts. */
static bool shm_gather(struct lb_shm *s, const void *mine, void *all, const size_t *counts)
{
    size_t most = 0;
    for (int i = 1; i < s->size; i++)
        most = counts[i] > most ? counts[i] : most;
    for (size_t at = 0; at < most; at += LB_SHM_AREA_BYTES) {
        lb_shm_turn(s);
        size_t left = counts[s->me] > at ? counts[s->me] - at : 0;
        if (s->me != 0 && left)
            memcpy(lb_shm_in(s, s->me), (const char *)mine + at, left < LB_SHM_AREA_BYTES ? left : LB_SHM_AREA_BYTES);
        if (!lb_shm_meet(s))
            return false;
        char *to = (char *)all + at;
        for (int i = 0; i < s->size && s->me == 0; to += counts[i++]) {
            left = counts[i] > at ? counts[i] - at : 0;
            if (i != 0 && left)
                memcpy(to, lb_shm_in(s, i), left < LB_SHM_AREA_BYTES ? left : LB_SHM_AREA_BYTES);
        }
    }
    return true;
}

static void group_gather(struct lb_comm *c, const void *mine, void *all, const size_t *counts)
{
    struct group *g = (struct group *)c;
    double begin = now_s();
    if (c->rank == 0 && mine != all && counts[0])
        memcpy(all, mine, counts[0]);
    int before = lb_seat_enter(g->v, "gather", LB_SEAT_WAIT, c->rank == 0 ? g->base + 1 : g->base);
    if (!lb_world_has_failed(g->v)) {
        if (g->block == c->size)
            shm_gather(&g->shm, mine, all, counts);
        else
            wire_gather(g, mine, all, counts);
    }
    lb_seat_leave(g->v, before);
    c->seconds += now_s() - begin;
}

static void group_beat(struct lb_comm *c, const char *where, int64_t n)
{
    lb_world_beat(&((struct group *)c)->v->world, where, n);
}

static enum lb_status group_status(struct lb_comm *c, struct lb_err *err)
{
    return lb_world_failed(&((struct group *)c)->v->world, err);
}

static float *group_buffer(struct lb_comm *c, int64_t n)
{
    struct group *g = (struct group *)c;
    bool fits = g->block > 1 && n >= 0 && (size_t)n <= LB_SHM_PART_BYTES / sizeof(float);
    return fits ? lb_shm_part(&g->shm, g->shm.me) : NULL;
}

static void group_close(struct lb_comm *c)
{
    struct group *g = (struct group *)c;
    lb_shm_release(&g->shm);
    if (!lb_world_has_failed(g->v)) { /* else a message may still arrive there */
        lb_mem_free(g->buffer);
        lb_mem_free(g);
    }
}

/* The largest block such that every aligned block of so many ranks lies on one host: a power of two that divides the
 * group, or the whole group. */
static int block_of(const struct lb_world_impl *v, int base, int size)
{
    int block = size;
    while (block > 1) {
        bool fits = true;
        for (int i = 0; i < size; i++)
            fits = fits && v->peer[base + i].host_index == v->peer[base + i / block * block].host_index;
        if (fits)
            return block;
        if (size & (size - 1))
            return 1;
        block /= 2;
    }
    return 1;
}

static void choose_path(struct group *g)
{
    int size = g->comm.size;
    bool is_power = (size & (size - 1)) == 0;
    enum lb_path want = g->v->spec.path;
    g->block = want == LB_PATH_AUTO ? block_of(g->v, g->base, size) : 1;
    g->path = g->block > 1 ? BLOCKS : DOUBLES;
    if (want == LB_PATH_GATHER || (g->block == 1 && !is_power))
        g->path = ALL;
}

/* Shared memory for each block. All ranks of the world agree on whether it can be had, so that none is left waiting. */
static enum lb_status open_block(struct group *g, struct lb_err *err)
{
    struct lb_world_impl *v = g->v;
    struct lb_world *w = &v->world;
    int in_block = g->comm.rank % g->block, fd = -1, *all = lb_mem_new((size_t)w->size, sizeof *all);
    if (!all)
        return lb_err_memory(err, "the ranks", (unsigned)w->size);
    enum lb_status status = LB_OK;
    g->shm = (struct lb_shm){.v = v, .size = g->block, .me = in_block, .base_rank = w->rank - in_block, .fd = -1};
    if (g->block > 1 && in_block == 0) {
        status = lb_shm_make(&g->shm, err);
        fd = g->shm.fd;
    }
    status = lb_world_agree(w, status, err);
    if (status == LB_OK)
        status = lb_world_share_out(v, &fd, sizeof fd, all, err);
    int first = w->rank - in_block;
    if (status == LB_OK) {
        if (g->block > 1 && in_block != 0)
            status = lb_shm_open(&g->shm, v->peer[first].pid, all[first], err);
        status = lb_world_agree(w, status, err);
    }
    lb_mem_free(all);
    return status;
}

enum lb_status lb_world_group(struct lb_world *w, int tp, struct lb_comm **comm, struct lb_err *err)
{
    static const struct lb_comm_ops ops = {group_close, group_reduce, group_bcast, group_gather,
                                           group_beat,  group_status, group_buffer};
    *comm = NULL;
    if (tp < 1 || tp > LB_COMM_MAX_RANKS || w->size % tp != 0)
        return lb_err_set(err, LB_E_USAGE, "tp %d: it must divide the %d ranks and be at most %d", tp, w->size,
                          LB_COMM_MAX_RANKS);
    if (w->size == 1) {
        *comm = lb_comm_self();
        return LB_OK;
    }
    struct group *g = lb_mem_new(1, sizeof *g);
    enum lb_status status = g ? LB_OK : lb_err_memory(err, "a group", sizeof *g);
    if (g) {
        g->comm = (struct lb_comm){&ops, "mpi", w->rank % tp, tp, 0, false};
        g->v = w->impl;
        g->base = w->rank - g->comm.rank;
        if (tp == 1) {
            g->alone = *lb_comm_self()->ops;
            g->alone.close = group_close;
            g->alone.beat = group_beat;
            g->alone.status = group_status;
            g->comm.ops = &g->alone;
            g->comm.name = "self";
        }
        choose_path(g);
        size_t n = g->block == tp ? 0 : g->path == ALL ? (size_t)tp : 1;
        if (n && !(g->buffer = lb_mem_new(n * WIRE_N, sizeof *g->buffer)))
            status = lb_err_memory(err, "a group", n * WIRE_N * sizeof *g->buffer);
    }
    status = lb_world_agree(w, status, err);
    if (status == LB_OK)
        status = open_block(g, err);
    if (status != LB_OK) {
        if (g)
            group_close(&g->comm);
        return status;
    }
    *comm = &g->comm;
    return LB_OK;
}
