#include "core/tests/comm_threads.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/dist/tree.h"

/* A barrier of its own: pthread's cannot be left by threads whose peer has failed. */
struct group {
    pthread_mutex_t lock;
    pthread_cond_t turned;
    int size, n_arrived, n_open;
    unsigned turn;
    bool failed;
    const void *given[LB_COMM_MAX_RANKS];
};

struct thread_comm {
    struct lb_comm comm;
    struct group *group;
    float *sum; /* [cap] */
    size_t cap;
};

static bool meet(struct group *g)
{
    pthread_mutex_lock(&g->lock);
    unsigned turn = g->turn;
    if (++g->n_arrived == g->size) {
        g->n_arrived = 0;
        g->turn++;
        pthread_cond_broadcast(&g->turned);
    }
    while (g->turn == turn && !g->failed)
        pthread_cond_wait(&g->turned, &g->lock);
    bool ok = !g->failed;
    pthread_mutex_unlock(&g->lock);
    return ok;
}

static bool show(struct lb_comm *c, const void *what)
{
    struct group *g = ((struct thread_comm *)c)->group;
    g->given[c->rank] = what;
    return meet(g);
}

static void threads_reduce(struct lb_comm *c, float *part, int64_t n)
{
    struct thread_comm *t = (struct thread_comm *)c;
    if (t->cap < (size_t)n) {
        free(t->sum);
        t->sum = malloc((size_t)n * sizeof *t->sum);
        t->cap = (size_t)n;
        if (!t->sum)
            abort();
    }
    if (!show(c, part))
        return;
    const float *parts[LB_COMM_MAX_RANKS];
    for (int i = 0; i < c->size; i++)
        parts[i] = t->group->given[i];
    lb_tree_add(t->sum, parts, c->size, n);
    if (meet(t->group) && n > 0) /* all have read */
        memcpy(part, t->sum, (size_t)n * sizeof *part);
}

static void threads_bcast(struct lb_comm *c, void *data, size_t bytes)
{
    struct group *g = ((struct thread_comm *)c)->group;
    if (!show(c, data))
        return;
    if (c->rank != 0 && bytes)
        memcpy(data, g->given[0], bytes);
    meet(g);
}

static void threads_gather(struct lb_comm *c, const void *mine, void *all, const size_t *counts)
{
    struct group *g = ((struct thread_comm *)c)->group;
    if (!show(c, mine))
        return;
    char *to = all;
    for (int i = 0; i < c->size && c->rank == 0; to += counts[i++])
        if (counts[i])
            memmove(to, g->given[i], counts[i]);
    meet(g);
}

static void threads_beat(struct lb_comm *c, const char *where, int64_t n)
{
    (void)c;
    (void)where;
    (void)n;
}

static enum lb_status threads_status(struct lb_comm *c, struct lb_err *err)
{
    struct group *g = ((struct thread_comm *)c)->group;
    pthread_mutex_lock(&g->lock);
    bool failed = g->failed;
    pthread_mutex_unlock(&g->lock);
    return failed ? lb_err_set(err, LB_E_DEVICE, "another rank has failed") : LB_OK;
}

static float *threads_buffer(struct lb_comm *c, int64_t n)
{
    (void)c;
    (void)n;
    return NULL;
}

static void threads_close(struct lb_comm *c)
{
    struct thread_comm *t = (struct thread_comm *)c;
    struct group *g = t->group;
    pthread_mutex_lock(&g->lock);
    bool last = --g->n_open == 0;
    pthread_mutex_unlock(&g->lock);
    if (last) {
        pthread_cond_destroy(&g->turned);
        pthread_mutex_destroy(&g->lock);
        free(g);
    }
    free(t->sum);
    free(t);
}

void lb_comm_threads_fail(struct lb_comm *c)
{
    struct group *g = ((struct thread_comm *)c)->group;
    pthread_mutex_lock(&g->lock);
    g->failed = true;
    pthread_cond_broadcast(&g->turned);
    pthread_mutex_unlock(&g->lock);
}

void lb_comm_threads_open(int n, struct lb_comm **comm)
{
    static const struct lb_comm_ops ops = {threads_close, threads_reduce, threads_bcast, threads_gather,
                                           threads_beat,  threads_status, threads_buffer};
    struct group *g = calloc(1, sizeof *g);
    if (!g || n < 1 || n > LB_COMM_MAX_RANKS)
        abort();
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->turned, NULL);
    g->size = g->n_open = n;
    for (int i = 0; i < n; i++) {
        struct thread_comm *t = calloc(1, sizeof *t);
        if (!t)
            abort();
        t->comm = (struct lb_comm){&ops, "threads", i, n, 0, false};
        t->group = g;
        comm[i] = &t->comm;
    }
}
