/* Looks after the peers: a thread of each rank that wakes twenty times a second.
 *
 * On this host it sees every rank's process (a pidfd tells at once that one is gone), the pulse that every rank's
 * watchdog counts up (a stopped process has none) and where every forward thread is, and how long. The first ranks of
 * the hosts exchange notes with rank 0, which are the pulse of a host, and hold a connection with it, which ends with
 * the process (lifeline.h). Times are counted in turns of this thread, so that a machine that was paused as a whole
 * finds nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/dist/lifeline.h"
#include "core/dist/world_impl.h"

#define TURN_MS 50
#define MAX_TURN_S 0.5 /* of a turn, as far as it counts: this thread may have been stopped itself */
#define NOTE_S 0.25    /* between two notes to another host */
#define CUT_S 3        /* without notes, once the connection with the host has ended */
#define END_S 5        /* what the run has to keep its rows once something was found */
/* Of the timeout, until a peer is late: the rest is for ending in time. */
#define LATE 0.8

struct watched {
    uint32_t pulse, beat;
    double quiet_s, stay_s;
    int pidfd;
};

struct note {
    int failed, rank;
    char text[LB_BOARD_TEXT];
};

struct remote {
    int rank;
    double quiet_s;
    struct note out;
    struct lb_wire_req req;
};

struct lb_watchdog {
    pthread_t thread;
    bool started;
    int wake; /* eventfd: stop */
    double limit_s, note_s, failed_s;
    bool has_told;
    struct watched *watched; /* [host_size] */
    struct remote *remote;   /* [n_remote] */
    int n_remote;
    struct pollfd *fds; /* [host_size + 1] */
};

static int rank_of_seat(const struct lb_world_impl *v, int seat)
{
    for (int r = 0; r < v->world.size; r++)
        if (v->peer[r].host_index == v->world.host_index && v->peer[r].host_rank == seat)
            return r;
    return v->world.rank;
}

/* "reduce, layer 7 of step 12" */
static const char *place_text(struct lb_seat *s, char *text, size_t bytes)
{
    char place[LB_PLACE_BYTES + 1], doing[LB_PLACE_BYTES + 1] = "", where[64] = "";
    int state = atomic_load(&s->state);
    long long n = atomic_load(&s->n), step = atomic_load(&s->step);
    lb_seat_read(s->place, place);
    if (state == LB_SEAT_OPEN || state == LB_SEAT_WAIT)
        lb_seat_read(s->doing, doing);
    if (strcmp(place, "step") == 0)
        snprintf(where, sizeof where, "step %lld", step);
    else if (place[0])
        snprintf(where, sizeof where, "%s %lld of step %lld", place, n, step);
    snprintf(text, bytes, "%s%s%s", doing, doing[0] && where[0] ? ", " : "", where);
    if (!text[0])
        snprintf(text, bytes, "the beginning");
    return text;
}

static void check_place(struct lb_world_impl *v, int seat)
{
    struct lb_watchdog *d = v->dog;
    struct watched *p = &d->watched[seat];
    struct lb_seat *s = &v->board.board->seat[seat];
    char place[128];
    int rank = rank_of_seat(v, seat), state = atomic_load(&s->state), other = atomic_load(&s->wait_for);
    /* who waits is told later than who is waited for */
    if (state == LB_SEAT_BUSY && p->stay_s > d->limit_s)
        lb_world_found(v, rank, "rank %d on host %s is late: for %.1f s in %s", rank, v->world.host, p->stay_s,
                       place_text(s, place, sizeof place));
    if (state == LB_SEAT_WAIT && p->stay_s > d->limit_s * 1.1 + 0.2 && other >= 0 && other < v->world.size)
        lb_world_found(v, other, "rank %d on host %s is late: rank %d on host %s has waited for it for %.1f s in %s",
                       other, v->peer[other].host, rank, v->world.host, p->stay_s, place_text(s, place, sizeof place));
}

static void check_host(struct lb_world_impl *v, double turn_s)
{
    struct lb_watchdog *d = v->dog;
    for (int i = 0; i < v->world.host_size; i++) {
        struct watched *p = &d->watched[i];
        struct lb_seat *s = &v->board.board->seat[i];
        if (atomic_load(&s->left))
            continue;
        uint32_t pulse = atomic_load(&s->pulse), beat = atomic_load(&s->beat);
        p->quiet_s = pulse == p->pulse ? p->quiet_s + turn_s : 0;
        p->stay_s = beat == p->beat ? p->stay_s + turn_s : 0;
        p->pulse = pulse;
        p->beat = beat;
        char place[128];
        if (p->pidfd >= 0 && (d->fds[i].revents & POLLIN)) {
            if (atomic_load(&s->left))
                continue;
            lb_world_found(v, rank_of_seat(v, i), "rank %d on host %s is gone (it was in %s)", rank_of_seat(v, i),
                           v->world.host, place_text(s, place, sizeof place));
        } else if (p->quiet_s > d->limit_s) {
            lb_world_found(v, rank_of_seat(v, i), "rank %d on host %s gives no sign of life for %.1f s (it was in %s)",
                           rank_of_seat(v, i), v->world.host, p->quiet_s, place_text(s, place, sizeof place));
        } else {
            check_place(v, i);
        }
    }
}

static void send_note(struct lb_world_impl *v, struct remote *r)
{
    if (v->wire->test(&r->req) != LB_OK || r->req.active)
        return; /* its silence is noticed in the other direction */
    memset(&r->out, 0, sizeof r->out);
    if (lb_world_has_failed(v)) {
        r->out.failed = 1;
        r->out.rank = v->failed_rank;
        snprintf(r->out.text, sizeof r->out.text, "%.*s", LB_BOARD_TEXT - 1, v->failure.text);
    }
    if (v->wire->send(LB_LANE_PULSE, r->rank, 0, &r->out, sizeof r->out, &r->req) != LB_OK)
        lb_world_broken(v, r->rank);
}

static void take_notes(struct lb_world_impl *v)
{
    struct lb_watchdog *d = v->dog;
    struct lb_wire_head head;
    while (v->wire->probe(LB_LANE_PULSE, &head) == LB_OK && head.from >= 0 && head.bytes == sizeof(struct note)) {
        struct note in;
        struct lb_wire_req req = {0};
        if (v->wire->recv(LB_LANE_PULSE, head.from, head.tag, &in, sizeof in, &req) != LB_OK)
            return;
        while (req.active) /* it has arrived */
            if (v->wire->test(&req) != LB_OK)
                return;
        for (int i = 0; i < d->n_remote; i++)
            if (d->remote[i].rank == head.from)
                d->remote[i].quiet_s = 0;
        in.text[sizeof in.text - 1] = 0;
        if (in.failed)
            lb_world_found(v, in.rank, "%s", in.text);
    }
}

static void check_remote(struct lb_world_impl *v, double turn_s)
{
    struct lb_watchdog *d = v->dog;
    if (d->n_remote == 0)
        return;
    for (int i = 0; i < d->n_remote; i++)
        d->remote[i].quiet_s += turn_s;
    take_notes(v);
    lb_lifeline_turn(v);
    d->note_s += turn_s;
    bool is_time = d->note_s >= NOTE_S;
    if (is_time)
        d->note_s = 0;
    for (int i = 0; i < d->n_remote; i++) {
        struct remote *r = &d->remote[i];
        if (is_time)
            send_note(v, r);
        if (r->quiet_s > CUT_S && lb_lifeline_is_cut(v->lifeline, r->rank))
            lb_world_found(v, r->rank, "rank %d on host %s is gone: its connection has ended", r->rank,
                           v->peer[r->rank].host);
        else if (r->quiet_s > d->limit_s)
            lb_world_found(v, r->rank, "rank %d on host %s gives no sign of life for %.1f s, nor does that host",
                           r->rank, v->peer[r->rank].host, r->quiet_s);
    }
}

static void check_failed(struct lb_world_impl *v, double turn_s)
{
    struct lb_watchdog *d = v->dog;
    struct lb_board *b = v->board.board;
    if (atomic_load(&b->failed) == 2 && !lb_world_has_failed(v)) {
        char text[LB_BOARD_TEXT];
        memcpy(text, b->text, sizeof text);
        text[sizeof text - 1] = 0;
        lb_world_heard(v, b->rank, text);
    }
    if (!lb_world_has_failed(v))
        return;
    if (!d->has_told) {
        d->has_told = true;
        for (int i = 0; i < d->n_remote; i++)
            send_note(v, &d->remote[i]);
        if (v->spec.late)
            v->spec.late(v->spec.ctx, v->failure.text);
    }
    d->failed_s += turn_s;
    if (d->failed_s > END_S && !atomic_load(&v->is_ending))
        lb_world_abort(&v->world, LB_E_DEVICE);
}

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void *watch(void *arg)
{
    struct lb_world_impl *v = arg;
    struct lb_watchdog *d = v->dog;
    int n = v->world.host_size;
    double last = now_s();
    for (;;) {
        int rc = poll(d->fds, (nfds_t)n + 1, TURN_MS);
        if (rc > 0 && d->fds[n].revents)
            return NULL;
        if (rc < 0 && errno != EINTR)
            return NULL;
        double now = now_s(), turn_s = now - last < MAX_TURN_S ? now - last : MAX_TURN_S;
        last = now;
        atomic_fetch_add(&v->seat->pulse, 1);
        if (!lb_world_has_failed(v))
            check_host(v, turn_s);
        check_remote(v, turn_s);
        check_failed(v, turn_s);
        for (int i = 0; i < n; i++) /* a process that is gone is gone for good: no further wake-ups */
            if (d->fds[i].revents)
                d->fds[i].fd = -1;
    }
}

static enum lb_status list_peers(struct lb_world_impl *v, struct lb_err *err)
{
    struct lb_watchdog *d = v->dog;
    struct lb_world *w = &v->world;
    d->watched = lb_mem_new((size_t)w->host_size, sizeof *d->watched);
    d->fds = lb_mem_new((size_t)w->host_size + 1, sizeof *d->fds);
    d->remote = lb_mem_new((size_t)w->n_host, sizeof *d->remote);
    if (!d->watched || !d->fds || !d->remote)
        return lb_err_memory(err, "the watchdog", sizeof *d);
    for (int i = 0; i < w->host_size; i++) {
        /* without pidfd_open (before Linux 5.3) the pulse alone tells */
        int pidfd = i == w->host_rank ? -1 : (int)syscall(SYS_pidfd_open, v->peer[rank_of_seat(v, i)].pid, 0);
        d->watched[i].pidfd = pidfd;
        d->fds[i] = (struct pollfd){pidfd, POLLIN, 0};
    }
    d->fds[w->host_size] = (struct pollfd){d->wake, POLLIN, 0};
    if (w->host_rank != 0)
        return LB_OK;
    for (int h = 0; h < w->n_host; h++)
        if (h != w->host_index && (w->rank == 0 || v->first[h] == 0))
            d->remote[d->n_remote++].rank = v->first[h];
    return LB_OK;
}

enum lb_status lb_watchdog_start(struct lb_world_impl *v, struct lb_err *err)
{
    struct lb_watchdog *d = lb_mem_new(1, sizeof *d);
    if (!d)
        return lb_err_memory(err, "the watchdog", sizeof *d);
    v->dog = d;
    d->limit_s = v->spec.timeout_s > 0 ? v->spec.timeout_s * LATE : INFINITY;
    d->wake = eventfd(0, EFD_CLOEXEC);
    if (d->wake < 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot start the watchdog: %s", strerror(errno));
    LB_TRY(list_peers(v, err));
    sigset_t all, old;
    sigfillset(&all); /* signals are for the threads that expect them */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&d->thread, NULL, watch, v);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot start the watchdog: %s", strerror(rc));
    d->started = true;
    return LB_OK;
}

void lb_watchdog_stop(struct lb_world_impl *v)
{
    struct lb_watchdog *d = v->dog;
    if (!d)
        return;
    if (d->started) {
        uint64_t one = 1;
        while (write(d->wake, &one, sizeof one) < 0 && errno == EINTR)
            continue;
        pthread_join(d->thread, NULL);
    }
    for (int i = 0; i < d->n_remote; i++) { /* the receivers are past their last wait too: a second is plenty */
        for (int k = 0; k < 1000 && d->remote[i].req.active; k++) {
            if (v->wire->test(&d->remote[i].req) != LB_OK)
                break;
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        }
        take_notes(v);
    }
    for (int i = 0; d->watched && i < v->world.host_size; i++)
        if (d->watched[i].pidfd > 0)
            close(d->watched[i].pidfd);
    if (d->wake >= 0)
        close(d->wake);
    lb_mem_free(d->watched);
    lb_mem_free(d->remote);
    lb_mem_free(d->fds);
    lb_mem_free(d);
    v->dog = NULL;
}

bool lb_watchdog_is_gone(const struct lb_world_impl *v, int rank)
{
    const struct lb_watchdog *d = v->dog;
    for (int i = 0; d && i < v->world.host_size; i++) {
        struct pollfd fd = {d->watched[i].pidfd, POLLIN, 0};
        if (rank_of_seat(v, i) == rank && fd.fd >= 0 && poll(&fd, 1, 0) > 0)
            return true;
    }
    return false;
}
