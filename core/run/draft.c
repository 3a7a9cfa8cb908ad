#include "core/run/draft.h"

static int32_t id_at(const struct lb_work *w, int64_t pos)
{
    return pos < w->n_prompt ? w->prompt[pos] : w->out[pos - w->n_prompt];
}

/* How many ids up to position a are the same as those up to b > a; LB_DRAFT_GRAM at most. */
static int n_alike(const struct lb_work *w, int64_t a, int64_t b)
{
    int n = 0;
    while (n < LB_DRAFT_GRAM && a - n >= 0 && id_at(w, a - n) == id_at(w, b - n))
        n++;
    return n;
}

/* The position behind the place that ends with most of the ids that the row ends with, the newest of such places; -1:
 * the last id is new. */
static int64_t look(const struct lb_work *w)
{
    int64_t last = w->n_prompt + w->n_out - 1, found = -1;
    int most = 0;
    for (int64_t pos = last - 1; pos >= 0 && most < LB_DRAFT_GRAM; pos--) {
        int n = n_alike(w, pos, last);
        if (n <= most)
            continue;
        most = n;
        found = pos + 1;
    }
    return found;
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
    d->from = look(w);
    if (d->from < 0 && bold)
        d->from = 0;
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
