#include "core/run/draft.h"

static int32_t id_at(const struct lb_work *w, int64_t pos)
{
    return pos < w->n_prompt ? w->prompt[pos] : w->out[pos - w->n_prompt];
}

static bool alike(const struct lb_work *w, int64_t a, int64_t b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (id_at(w, a - i) != id_at(w, b - i))
            return false;
    return true;
}

/* The position behind the newest place that ends with the same `gram` ids as the row does; -1: there is none. */
static int64_t look(const struct lb_work *w, int64_t gram)
{
    int64_t last = w->n_prompt + w->n_out - 1;
    for (int64_t pos = last - 1; pos >= gram - 1; pos--)
        if (alike(w, pos, last, gram))
            return pos + 1;
    return -1;
}

void lb_draft_see(struct lb_draft *d, const struct lb_work *w, bool bold)
{
    int64_t last = w->n_prompt + w->n_out - 1;
    if (d->from >= 0 && id_at(w, d->from) == id_at(w, last)) {
        d->from++;
        d->hits++;
        return;
    }
    d->hits = 0;
    d->from = look(w, LB_DRAFT_GRAM);
    if (d->from < 0 && bold)
        d->from = look(w, 1) < 0 ? 0 : look(w, 1);
}

int64_t lb_draft_worth(const struct lb_draft *d, int64_t cheap, double read)
{
    double square = 8 * read * (double)d->hits;
    int64_t n = cheap;
    if (d->from < 0)
        return 0;
    while (n < LB_DRAFT_MOST && (double)((n + 2) * (n + 2)) <= square)
        n++;
    return n < LB_DRAFT_MOST ? n : LB_DRAFT_MOST;
}

void lb_draft_ids(const struct lb_draft *d, const struct lb_work *w, int64_t n, int32_t *id)
{
    int64_t end = w->n_prompt + w->n_out;
    for (int64_t i = 0; i < n; i++)
        id[i] = d->from + i < end ? id_at(w, d->from + i) : id[d->from + i - end]; /* a text that goes round */
}
