#include "core/backend/tune.h"

#include <string.h>

#define N_TUNE (int)(sizeof((struct lb_tunes *)0)->of / sizeof(struct lb_tune))

int64_t lb_tune_size(int64_t n)
{
    int64_t size = 1;
    while (2 * size <= n)
        size *= 2;
    return size;
}

/* A new one begins like `fresh`. */
static struct lb_tune *find(struct lb_tunes *t, const int64_t kind[4], struct lb_tune fresh)
{
    for (int i = 0; i < t->n; i++)
        if (memcmp(t->of[i].kind, kind, sizeof t->of[i].kind) == 0)
            return &t->of[i];
    struct lb_tune *now = &t->of[t->next];
    *now = fresh;
    memcpy(now->kind, kind, sizeof now->kind);
    t->next = (t->next + 1) % N_TUNE;
    t->n += t->n < N_TUNE;
    return now;
}

struct lb_tune *lb_tune_of(struct lb_tunes *t, const int64_t kind[4])
{
    return find(t, kind, (struct lb_tune){.n = 0});
}

struct lb_tune *lb_tune_likely(struct lb_tunes *t, const int64_t kind[4], bool way)
{
    return find(t, kind, (struct lb_tune){.n = LB_TUNE_TRIAL, .better = way});
}

bool lb_tune_way(const struct lb_tune *t)
{
    return t->n < LB_TUNE_TRIAL ? (t->n / 2 + t->n) % 2 != 0 : t->better;
}

void lb_tune_took(struct lb_tune *t, double seconds)
{
    const bool way = lb_tune_way(t);
    if (t->n < LB_TUNE_TRIAL) {
        if (t->n % 2 == 0)
            t->first = seconds;
        else if (seconds != t->first)
            t->wins += (seconds < t->first) == way ? 1 : -1;
        if (t->n == LB_TUNE_TRIAL - 1 && t->wins != 0)
            t->better = t->wins > 0;
    }
    if (++t->n == LB_TUNE_CYCLE)
        t->n = t->wins = 0;
}
