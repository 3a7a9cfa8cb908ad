#define _GNU_SOURCE
#include "core/dist/world.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/dist/lifeline.h"
#include "core/dist/world_impl.h"

/* What the others leave the rank that tells people, which keeps finished rows too, before they end the job. */
#define GRACE_S 3

static int telling_rank(const struct lb_world_impl *v)
{
    return v->failed_rank == 0 ? 1 : 0;
}

static void release(struct lb_world_impl *v)
{
    lb_lifeline_close(v->lifeline);
    lb_board_release(&v->board);
    lb_mem_free(v->peer);
    lb_mem_free(v->first);
    pthread_mutex_destroy(&v->lock);
    lb_mem_free(v);
}

static enum lb_status join(struct lb_world_impl *v, struct lb_err *err)
{
    struct lb_world *w = &v->world;
    LB_TRY(v->wire->open(&w->rank, &w->size, err));
    if (v->spec.n_task > 0 && v->spec.n_task != w->size)
        return lb_err_set(err, LB_E_USAGE,
                          "the launcher started %d tasks, but MPI sees %d: with srun pass --mpi=pmix; --no-mpi runs "
                          "each task alone",
                          v->spec.n_task, w->size);
    LB_TRY(lb_peers_meet(v, err));
    LB_TRY(lb_lifeline_open(v, err));
    return w->size > 1 ? lb_watchdog_start(v, err) : LB_OK;
}

enum lb_status lb_world_open(struct lb_world **out, const struct lb_world_spec *spec, struct lb_err *err)
{
    *out = NULL;
    if (spec->use_mpi && !lb_wire())
        return lb_err_set(err, LB_E_USAGE, "this build has no MPI: run one process, or pass --no-mpi");
    struct lb_world_impl *v = lb_mem_new(1, sizeof *v);
    if (!v)
        return lb_err_memory(err, "the world", sizeof *v);
    v->spec = *spec;
    v->board.fd = -1;
    v->seat = &v->own;
    pthread_mutex_init(&v->lock, NULL);
    v->wire = spec->use_mpi ? lb_wire() : NULL;
    v->world = (struct lb_world){.size = 1, .host_size = 1, .n_host = 1, .impl = v};
    enum lb_status status = v->wire ? join(v, err) : lb_peers_meet(v, err);
    if (status != LB_OK) {
        lb_watchdog_stop(v);
        if (v->wire && status == LB_E_USAGE) /* every rank sees it */
            v->wire->close();
        release(v);
        return status;
    }
    *out = &v->world;
    return LB_OK;
}

void lb_world_close(struct lb_world *w)
{
    if (!w)
        return;
    struct lb_world_impl *v = w->impl;
    struct lb_err err = LB_ERR_INIT;
    if (lb_world_agree(w, LB_OK, &err) != LB_OK)
        lb_world_abort(w, LB_E_DEVICE);
    atomic_store(&v->seat->left, 1);
    lb_watchdog_stop(v);
    if (v->wire)
        v->wire->close();
    release(v);
}

static volatile sig_atomic_t alarm_code;

static void end_now(int signal)
{
    (void)signal;
    _exit(alarm_code);
}

_Noreturn void lb_world_abort(struct lb_world *w, int code)
{
    struct lb_world_impl *v = w->impl;
    atomic_store(&v->is_ending, true);
    if (!v->wire)
        _exit(code);
    int teller = telling_rank(v);
    for (int i = 0; i < 50 * GRACE_S && w->rank != teller && !lb_watchdog_is_gone(v, teller); i++)
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    alarm_code = code; /* the library's own way out may wait for peers that do not answer */
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = end_now}, NULL);
    alarm(2);
    v->wire->abort(code);
    _exit(code);
}

void lb_world_heard(struct lb_world_impl *v, int rank, const char *text)
{
    pthread_mutex_lock(&v->lock);
    if (!v->failed) {
        v->failed_rank = rank;
        lb_err_set(&v->failure, LB_E_DEVICE, "%s", text);
        atomic_store_explicit(&v->failed, 1, memory_order_release);
    }
    pthread_mutex_unlock(&v->lock);
}

void lb_world_found(struct lb_world_impl *v, int rank, const char *fmt, ...)
{
    char text[LB_BOARD_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct lb_board *b = v->board.board;
    int none = 0;
    if (!b || atomic_compare_exchange_strong(&b->failed, &none, 1)) {
        if (b) {
            b->rank = rank;
            memcpy(b->text, text, sizeof b->text);
            atomic_store(&b->failed, 2);
        }
    } else {
        for (int i = 0; i < 100 && atomic_load(&b->failed) != 2; i++)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        if (atomic_load(&b->failed) == 2) {
            rank = b->rank;
            memcpy(text, b->text, sizeof text);
        }
        text[sizeof text - 1] = 0;
    }
    lb_world_heard(v, rank, text);
}

enum lb_status lb_world_failed(struct lb_world *w, struct lb_err *err)
{
    struct lb_world_impl *v = w->impl;
    return lb_world_has_failed(v) ? lb_err_set(err, v->failure.status, "%s", v->failure.text) : LB_OK;
}

bool lb_world_tells(const struct lb_world *w)
{
    return lb_world_has_failed(w->impl) && w->rank == telling_rank(w->impl);
}

const char *lb_world_host(const struct lb_world *w, int rank)
{
    return w->impl->peer[rank].host;
}

int lb_seat_enter(struct lb_world_impl *v, const char *doing, int state, int wait_for)
{
    struct lb_seat *s = v->seat;
    int before = atomic_load_explicit(&s->state, memory_order_relaxed);
    lb_seat_text(s->doing, doing);
    atomic_store_explicit(&s->wait_for, wait_for, memory_order_relaxed);
    atomic_store_explicit(&s->state, state, memory_order_relaxed);
    atomic_store_explicit(&s->beat, atomic_load_explicit(&s->beat, memory_order_relaxed) + 1, memory_order_release);
    return before;
}

void lb_seat_leave(struct lb_world_impl *v, int before)
{
    struct lb_seat *s = v->seat;
    atomic_store_explicit(&s->state, before, memory_order_relaxed);
    atomic_store_explicit(&s->beat, atomic_load_explicit(&s->beat, memory_order_relaxed) + 1, memory_order_release);
}

void lb_world_beat(struct lb_world *w, const char *where, int64_t n)
{
    struct lb_seat *s = w->impl->seat;
    lb_seat_text(s->place, where);
    atomic_store_explicit(&s->n, n, memory_order_relaxed);
    if (strcmp(where, "step") == 0)
        atomic_store_explicit(&s->step, n, memory_order_relaxed);
    lb_seat_leave(w->impl, LB_SEAT_BUSY);
}

void lb_world_idle(struct lb_world *w)
{
    lb_seat_leave(w->impl, LB_SEAT_IDLE);
}
