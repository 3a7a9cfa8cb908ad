#include "core/run/flow.h"

#include <errno.h>
#include <time.h>

#include "core/base/mem.h"
#include "core/run/adjust.h"
#include "core/run/stop.h"

/* Where rows come one by one to a thread that is faster than they come, waking it for each costs more than the row
 * does: once woken it lets some more come. */
#define NAP_NS 200000
#define NAP_ROWS 32

struct lb_work *lb_work_new(void)
{
    struct lb_work *w = lb_mem_new(1, sizeof *w);
    if (w) {
        w->lead = w;
        w->n_part = w->n_left = w->n_copy = 1;
    }
    return w;
}

void lb_work_free(struct lb_work *w)
{
    if (!w)
        return;
    for (struct lb_work *twin = w->twin, *next; twin; twin = next) {
        next = twin->twin;
        twin->twin = NULL;
        lb_work_free(twin);
    }
    for (int32_t i = 1; w->part && i < w->n_part; i++)
        lb_work_free(w->part[i]);
    lb_mem_free(w->part);
    lb_row_release(&w->row);
    lb_mem_free(w->echo);
    if (!w->prompt_lent)
        lb_mem_free(w->prompt);
    lb_mem_free(w->out);
    lb_mem_free(w->logprob);
    lb_mem_free(w->top);
    lb_mem_free(w->scored);
    lb_mem_free(w->scored_top);
    lb_stop_text_free(w->stop_at);
    lb_adjust_free(w->adjust);
    lb_mem_free(w);
}

struct lb_times lb_work_times(struct lb_work *lead)
{
    struct lb_times t = lead->time;
    for (int32_t i = 1; i < lead->n_part; i++) {
        const struct lb_times *p = &lb_work_part(lead, i)->time;
        t.admitted = p->admitted < t.admitted ? p->admitted : t.admitted;
        t.first = p->first < t.first ? p->first : t.first;
        t.last = p->last > t.last ? p->last : t.last;
    }
    return t;
}

double lb_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum lb_status lb_queue_init(struct lb_queue *q, size_t cap, struct lb_err *err)
{
    *q = (struct lb_queue){.cap = cap};
    pthread_condattr_t attr;
    if (pthread_mutex_init(&q->mutex, NULL) != 0 || pthread_condattr_init(&attr) != 0)
        return lb_err_memory(err, "a queue", sizeof *q);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int failed = pthread_cond_init(&q->filled, &attr) || pthread_cond_init(&q->drained, &attr);
    pthread_condattr_destroy(&attr);
    return failed ? lb_err_memory(err, "a queue", sizeof *q) : LB_OK;
}

void lb_queue_release(struct lb_queue *q)
{
    if (q->cap == 0)
        return;
    while (q->head) {
        struct lb_work *w = q->head;
        q->head = w->next;
        lb_work_free(w);
    }
    pthread_cond_destroy(&q->filled);
    pthread_cond_destroy(&q->drained);
    pthread_mutex_destroy(&q->mutex);
    *q = (struct lb_queue){0};
}

static bool full(const struct lb_queue *q)
{
    return q->n == q->cap || (q->max_weight > 0 && q->weight >= q->max_weight);
}

/* A queue that was full takes rows again when half of it is gone, for the same reason. */
static bool half_full(const struct lb_queue *q)
{
    return q->n > q->cap / 2 || (q->max_weight > 0 && q->weight > q->max_weight / 2);
}

bool lb_queue_push(struct lb_queue *q, struct lb_work *w)
{
    pthread_mutex_lock(&q->mutex);
    if (full(q))
        while (half_full(q) && !q->aborted)
            pthread_cond_wait(&q->drained, &q->mutex);
    bool taken = !q->aborted;
    if (taken) {
        w->next = NULL;
        if (q->tail)
            q->tail->next = w;
        else
            q->head = w;
        q->tail = w;
        q->n++;
        q->weight += w->weight;
        pthread_cond_signal(&q->filled);
    }
    pthread_mutex_unlock(&q->mutex);
    return taken;
}

static struct timespec after(double wait_s)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    long long ns = (long long)t.tv_nsec + (long long)(wait_s * 1e9);
    t.tv_sec += (time_t)(ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    return t;
}

static void nap(struct lb_queue *q)
{
    pthread_mutex_unlock(&q->mutex);
    nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    pthread_mutex_lock(&q->mutex);
}

enum lb_pop lb_queue_pop(struct lb_queue *q, double wait_s, struct lb_work **w)
{
    enum lb_pop found = LB_POP_ROW;
    *w = NULL;
    pthread_mutex_lock(&q->mutex);
    if (wait_s != 0 && !q->head && !q->closed && !q->aborted) {
        struct timespec until = wait_s > 0 ? after(wait_s) : (struct timespec){0};
        int rc = 0;
        while (rc != ETIMEDOUT && !q->head && !q->closed && !q->aborted)
            rc = wait_s > 0 ? pthread_cond_timedwait(&q->filled, &q->mutex, &until)
                            : pthread_cond_wait(&q->filled, &q->mutex);
        if (q->head && q->n < NAP_ROWS && !q->closed && !q->aborted)
            nap(q);
    }
    if (q->aborted) {
        found = LB_POP_END;
    } else if (q->head) {
        *w = q->head;
        q->head = (*w)->next;
        if (!q->head)
            q->tail = NULL;
        (*w)->next = NULL;
        q->n--;
        q->weight -= (*w)->weight;
        if (!half_full(q))
            pthread_cond_signal(&q->drained);
    } else {
        found = q->closed ? LB_POP_END : LB_POP_EMPTY;
    }
    pthread_mutex_unlock(&q->mutex);
    return found;
}

int64_t lb_queue_weight(struct lb_queue *q)
{
    pthread_mutex_lock(&q->mutex);
    int64_t weight = q->weight;
    pthread_mutex_unlock(&q->mutex);
    return weight;
}

void lb_queue_close(struct lb_queue *q)
{
    pthread_mutex_lock(&q->mutex);
    q->closed = true;
    pthread_cond_broadcast(&q->filled);
    pthread_mutex_unlock(&q->mutex);
}

void lb_queue_abort(struct lb_queue *q)
{
    pthread_mutex_lock(&q->mutex);
    q->aborted = true;
    pthread_cond_broadcast(&q->filled);
    pthread_cond_broadcast(&q->drained);
    pthread_mutex_unlock(&q->mutex);
}
