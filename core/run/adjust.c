#include "core/run/adjust.h"

#include <float.h>
#include <math.h>

#include "core/base/mem.h"
#include "core/run/sample.h"

struct entry {
    int32_t count; /* among the new ids */
    float bias;
    bool in_prompt, end;
};

struct lb_adjust {
    struct entry *entry; /* [most], n of them */
    int32_t *id;         /* [most] whose */
    float *raw, *now;    /* [most] their logits, and what they are changed into */
    int32_t *slot;       /* [1 << bits] number of an entry + 1, 0: free */
    int64_t n, most, n_vocab, n_new;
    int bits; /* slots are at least twice as many as entries */
    bool counting;
};

static bool penalized(const struct lb_penalty *p)
{
    return p->repetition != 1 || p->presence != 0 || p->frequency != 0;
}

bool lb_adjust_wanted(const struct lb_settings *set)
{
    return penalized(&set->penalty) || set->penalty.n_bias > 0 || set->min_tokens > 0;
}

/* The slot of an id: its entry's, or the free one where it belongs. */
static int32_t *find(const struct lb_adjust *a, int32_t id)
{
    uint32_t mask = ((uint32_t)1 << a->bits) - 1, at = ((uint32_t)id * 2654435769u) >> (32 - a->bits);
    while (a->slot[at] && a->id[a->slot[at] - 1] != id)
        at = (at + 1) & mask;
    return &a->slot[at];
}

static struct entry *entry_of(struct lb_adjust *a, int32_t id)
{
    int32_t *slot = find(a, id);
    if (!*slot) {
        a->id[a->n] = id;
        *slot = (int32_t)++a->n;
    }
    return &a->entry[*slot - 1];
}

static void fill(struct lb_adjust *a, const struct lb_settings *set, const int32_t *prompt, int64_t n_prompt,
                 const struct lb_config *config)
{
    const struct lb_penalty *p = &set->penalty;
    for (int64_t i = 0; p->repetition != 1 && i < n_prompt; i++)
        entry_of(a, prompt[i])->in_prompt = true;
    for (size_t i = 0; i < p->n_bias; i++)
        entry_of(a, p->bias[i].id)->bias = p->bias[i].value;
    if (set->min_tokens <= 0)
        return;
    /* Those of the model too where they end nothing (ignore_eos), as in vLLM. */
    for (int i = 0; i < config->n_eos; i++)
        entry_of(a, config->eos[i].id)->end = true;
    for (size_t i = 0; i < set->n_stop_ids; i++)
        if (set->stop_ids[i] >= 0 && set->stop_ids[i] < a->n_vocab)
            entry_of(a, set->stop_ids[i])->end = true;
}

struct lb_adjust *lb_adjust_new(const struct lb_settings *set, const int32_t *prompt, int64_t n_prompt,
                                const struct lb_config *config)
{
    struct lb_adjust *a = lb_mem_new(1, sizeof *a);
    if (!a)
        return NULL;
    a->n_vocab = config->n_vocab;
    a->counting = penalized(&set->penalty);
    int64_t most = (int64_t)set->penalty.n_bias;
    if (set->penalty.repetition != 1)
        most += n_prompt;
    if (a->counting)
        most += set->max_tokens;
    if (set->min_tokens > 0)
        most += (int64_t)set->n_stop_ids + config->n_eos;
    most = most < a->n_vocab ? most : a->n_vocab;
    for (a->bits = 4; (int64_t)1 << a->bits < 2 * most;)
        a->bits++;
    a->entry = lb_mem_new((size_t)most + 1, sizeof *a->entry);
    a->id = lb_mem_new((size_t)most + 1, sizeof *a->id);
    a->raw = lb_mem_new((size_t)most + 1, sizeof *a->raw);
    a->now = lb_mem_new((size_t)most + 1, sizeof *a->now);
    a->slot = lb_mem_new((size_t)1 << a->bits, sizeof *a->slot);
    if (!a->entry || !a->id || !a->raw || !a->now || !a->slot) {
        lb_adjust_free(a);
        return NULL;
    }
    fill(a, set, prompt, n_prompt, config);
    return a;
}

void lb_adjust_free(struct lb_adjust *a)
{
    if (!a)
        return;
    lb_mem_free(a->entry);
    lb_mem_free(a->id);
    lb_mem_free(a->raw);
    lb_mem_free(a->now);
    lb_mem_free(a->slot);
    lb_mem_free(a);
}

void lb_adjust_count(struct lb_adjust *a, int32_t id)
{
    a->n_new++;
    if (a->counting)
        entry_of(a, id)->count++;
}

/* Far numbers must not become infinite or none: equal ones are a tie. */
static float held(float x)
{
    return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
}

static float changed(const struct entry *e, float x, const struct lb_penalty *p, bool too_few)
{
    if (e->end && too_few)
        return -INFINITY;
    x = held(x + e->bias);
    if (e->in_prompt || e->count > 0)
        x = held(x < 0 ? x * p->repetition : x / p->repetition);
    if (e->count > 0) {
        x = held(x - p->frequency * (float)e->count);
        x = held(x - p->presence);
    }
    return x;
}

static bool before(float x, int32_t i, float y, int32_t j)
{
    return x > y || (x == y && i < j);
}

struct best {
    int32_t id; /* -1: there is none */
    float logit;
};

/* The largest of the changed logits. The candidates hold the largest that nobody changed, as a rule; *known is false
 * where they do not, and the row, in which logits lie changed already, is not here. */
static struct best best_of(const struct lb_adjust *a, const struct lb_cand *c, bool *known)
{
    int64_t n_top = a->n_vocab < LK_TOP ? a->n_vocab : LK_TOP, i = 0;
    struct best best = {-1, -INFINITY};
    *known = true;
    while (i < n_top && *find(a, c->top_id[i]))
        i++;
    if (i < n_top) {
        best = (struct best){c->top_id[i], c->top_logit[i]};
    } else if (n_top < a->n_vocab) {
        *known = c->logits != NULL;
        for (int64_t id = 0; *known && id < a->n_vocab; id++)
            if (c->logits[id] > best.logit)
                best = (struct best){(int32_t)id, c->logits[id]};
        return best;
    }
    for (int64_t k = 0; k < a->n; k++)
        if (before(a->now[k], a->id[k], best.logit, best.id) && a->now[k] > -INFINITY)
            best = (struct best){a->id[k], a->now[k]};
    return best;
}

/* The beginning of the order of the changed logits. */
struct ranking {
    int32_t id[LK_TOP];
    float logit[LK_TOP];
    int n;
};

static void insert(struct ranking *r, int32_t id, float x)
{
    if (r->n == LK_TOP && !before(x, id, r->logit[LK_TOP - 1], r->id[LK_TOP - 1]))
        return;
    int at = r->n < LK_TOP ? r->n++ : LK_TOP - 1;
    for (; at > 0 && before(x, id, r->logit[at - 1], r->id[at - 1]); at--) {
        r->id[at] = r->id[at - 1];
        r->logit[at] = r->logit[at - 1];
    }
    r->id[at] = id;
    r->logit[at] = x;
}

/* The order as far as it is known: what nobody changed and is no candidate comes behind the last candidate. */
static void rank(struct ranking *r, const struct lb_adjust *a, const struct lb_cand *c)
{
    int n_top = (int)(a->n_vocab < LK_TOP ? a->n_vocab : LK_TOP);
    float last = c->top_logit[n_top - 1];
    int32_t last_id = c->top_id[n_top - 1];
    r->n = 0;
    for (int i = 0; i < n_top; i++)
        if (!*find(a, c->top_id[i]))
            insert(r, c->top_id[i], c->top_logit[i]);
    for (int64_t k = 0; k < a->n; k++)
        if (a->now[k] > -INFINITY && before(a->now[k], a->id[k], last, last_id))
            insert(r, a->id[k], a->now[k]);
}

static int32_t draw(const struct lb_adjust *a, const struct lb_settings *set, const struct lb_cand *c, double u,
                    struct lb_asked *q)
{
    bool known;
    struct best best = best_of(a, c, &known);
    if (!known) {
        lb_asked_row(q);
        return LB_SAMPLE_ASKS;
    }
    if (best.id < 0 || set->sampling.greedy)
        return best.id;
    struct ranking r;
    rank(&r, a, c);
    struct lb_cand mine = *c;
    mine.best = best.id;
    mine.best_logit = best.logit;
    mine.top_id = r.id;
    mine.top_logit = r.logit;
    int32_t id = lb_sample_draw_top(&set->sampling, &mine, a->n_vocab, r.n, u, q);
    if (id == LB_SAMPLE_ASKS && lb_ask_changes(&q->next.q)) {
        q->next.q.n_id = (int32_t)a->n;
        q->next.id = a->id;
        q->next.value = a->now;
    }
    return id;
}

int32_t lb_adjust_draw(struct lb_adjust *a, const struct lb_settings *set, const struct lb_cand *c, double u,
                       struct lb_asked *q)
{
    bool too_few = a->n_new < set->min_tokens;
    if (!c->logits && a->n > 0 && !q->has_values) {
        lb_asked_values(q, a->id, a->raw, a->n);
        return LB_SAMPLE_ASKS;
    }
    for (int64_t k = 0; k < a->n; k++) {
        if (c->logits)
            a->raw[k] = c->logits[a->id[k]];
        a->now[k] = changed(&a->entry[k], a->raw[k], &set->penalty, too_few);
    }
    for (int64_t k = 0; c->logits && k < a->n; k++)
        c->logits[a->id[k]] = a->now[k];
    int32_t id = draw(a, set, c, u, q);
    for (int64_t k = 0; c->logits && k < a->n; k++)
        c->logits[a->id[k]] = a->raw[k];
    return id;
}

bool lb_adjust_raw(const struct lb_adjust *a, int32_t id, float *logit)
{
    int32_t slot = *find(a, id);
    if (slot)
        *logit = a->raw[slot - 1];
    return slot != 0;
}
