#include "core/run/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/run/philox.h"

#define KEPT_BLOCKS 2048 /* block sums that are remembered; those beyond are summed again */

/* A beginning of the order (logit descending, id ascending): everything up to and including this element. */
struct cut {
    uint32_t key;
    int32_t id;
};

struct dist {
    const struct lb_sampling *s;
    const float *logits; /* NULL: with the ranks */
    int64_t n_vocab;
    struct lk_mass_scale scale; /* the floor is what min_p keeps */
};

static bool inside(const struct cut *c, uint32_t key, int32_t id)
{
    return key > c->key || (key == c->key && id <= c->id);
}

double lb_sample_u(const struct lb_work *w, int64_t ahead)
{
    return lb_philox_u(w->set.seed, w->lead->row.key, w->sample, (uint32_t)(w->n_out + ahead));
}

struct lk_draw lb_sample_draw_of(const struct lb_sampling *s, double u)
{
    double floor = s->min_p > 0 ? log(s->min_p) : -INFINITY;
    return (struct lk_draw){
        .inverse = 1 / s->temperature, .floor = floor > 0 ? 0 : floor, .top_p = s->top_p, .u = u, .top_k = s->top_k};
}

static void dist_init(struct dist *d, const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab)
{
    struct lk_draw draw = lb_sample_draw_of(s, 0);
    *d = (struct dist){
        .s = s, .logits = c->logits, .n_vocab = n_vocab, .scale = {(double)c->best_logit, draw.inverse, draw.floor}};
}

/* ---- the candidates alone ---- */

struct chosen {
    int32_t id;
    float logit;
};

static int by_id(const void *a, const void *b)
{
    int32_t x = ((const struct chosen *)a)->id, y = ((const struct chosen *)b)->id;
    return (x > y) - (x < y);
}

static int32_t draw_chosen(const struct dist *d, struct chosen *e, int n, double u)
{
    struct lk_mass total = {0}, sum = {0};
    qsort(e, (size_t)n, sizeof *e, by_id);
    for (int i = 0; i < n; i++)
        lk_mass_add_id(&total, &d->scale, e[i].logit);
    double target = u * lk_mass_value(&total);
    for (int i = 0; i < n; i++) {
        lk_mass_add_id(&sum, &d->scale, e[i].logit);
        if (lk_mass_value(&sum) > target)
            return e[i].id;
    }
    return e[n - 1].id;
}

/* ---- the whole row ---- */

/* The compiler makes the loop below of vectors, for each of these processors, and what they sum is the same to the last
 * bit. Sanitizers and clang have not this way to choose one as the program begins. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_PROCESSOR
#endif

/* Of all n ids above the floor, as lk_mass_add_id has each. No branches: a scaled logit that is too low has a number
 * that means nothing, of which no bit is left. */
EACH_PROCESSOR static struct lk_mass mass_of_all(const struct lk_mass_scale *s, const float *logits, int64_t n)
{
    const double best = s->best, inverse = s->inverse, least = s->floor > LK_MASS_LEAST ? s->floor : LK_MASS_LEAST;
    struct lk_mass sum = {0};
    for (int64_t i = 0; i < n; i++) {
        const double x = ((double)logits[i] - best) * inverse;
        double w = lk_mass_exp_above(x) * LK_MASS_ONE;
        uint64_t bits;
        memcpy(&bits, &w, sizeof bits);
        bits &= -(uint64_t)(x >= least);
        memcpy(&w, &bits, sizeof w);
        lk_mass_add_units(&sum, w);
    }
    return sum;
}

static uint64_t whole_mass(const struct dist *d)
{
    return mass_of_all(&d->scale, d->logits, d->n_vocab).hi;
}

/* Walks the elements inside `limit` in order until `enough` holds after one: by count (top_k) or by mass (top_p). One
 * byte of the key at a time from the top, so that four passes and no memory find the element. */
struct seek {
    const struct dist *d;
    const struct cut *limit;
    bool by_mass;
    double want; /* stop at the first element after which the sum is at least this */
};

static uint64_t unit(const struct seek *q, float logit)
{
    return q->by_mass ? lk_mass_whole(&q->d->scale, logit) : 1;
}

static bool reached(const struct seek *q, uint64_t sum)
{
    return (double)sum >= q->want;
}

/* Sets *end to the element where the walk stops; false when it passes all elements without stopping. */
static bool seek_end(const struct seek *q, struct cut *end)
{
    uint32_t prefix = 0, mask = 0;
    uint64_t before = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint64_t bin[256] = {0};
        for (int64_t i = 0; i < q->d->n_vocab; i++) {
            uint32_t key = lk_logit_key(q->d->logits[i]);
            if ((key & mask) == prefix && lk_above_floor(&q->d->scale, q->d->logits[i]) &&
                inside(q->limit, key, (int32_t)i))
                bin[key >> shift & 255] += unit(q, q->d->logits[i]);
        }
        int b = 255;
        for (; b >= 0 && !reached(q, before + bin[b]); b--)
            before += bin[b];
        if (b < 0)
            return false;
        prefix |= (uint32_t)b << shift;
        mask |= (uint32_t)255 << shift;
    }
    for (int64_t i = 0; i < q->d->n_vocab; i++) {
        if (lk_logit_key(q->d->logits[i]) != prefix || !inside(q->limit, prefix, (int32_t)i))
            continue;
        before += unit(q, q->d->logits[i]);
        if (reached(q, before)) {
            *end = (struct cut){prefix, (int32_t)i};
            return true;
        }
    }
    return false;
}

static bool survives(const struct dist *d, const struct cut *cut, int64_t i)
{
    return lk_above_floor(&d->scale, d->logits[i]) && inside(cut, lk_logit_key(d->logits[i]), (int32_t)i);
}

/* Of survivors begin .. end - 1. */
static struct lk_mass mass_of(const struct dist *d, const struct cut *cut, int64_t begin, int64_t end)
{
    struct lk_mass sum = {0};
    if (cut->key == 0)
        return mass_of_all(&d->scale, d->logits + begin, end - begin);
    for (int64_t i = begin; i < end; i++)
        if (survives(d, cut, i))
            lk_mass_add_id(&sum, &d->scale, d->logits[i]);
    return sum;
}

static int64_t block_begin(const struct dist *d, int64_t block)
{
    return block * LK_HEAD_BLOCK < d->n_vocab ? block * LK_HEAD_BLOCK : d->n_vocab;
}

/* Block sums only say where to look: a sum is the same however it is cut. */
static int32_t draw_whole(const struct dist *d, const struct cut *cut, double u)
{
    struct lk_mass kept[KEPT_BLOCKS], total = {0}, before = {0};
    int64_t n_block = (d->n_vocab + LK_HEAD_BLOCK - 1) / LK_HEAD_BLOCK, b;
    for (b = 0; b < n_block; b++) {
        struct lk_mass sum = mass_of(d, cut, block_begin(d, b), block_begin(d, b + 1));
        lk_mass_add(&total, &sum);
        if (b < KEPT_BLOCKS)
            kept[b] = sum;
    }
    double target = u * lk_mass_value(&total);
    for (b = 0; b < n_block - 1; b++) {
        struct lk_mass sum = b < KEPT_BLOCKS ? kept[b] : mass_of(d, cut, block_begin(d, b), block_begin(d, b + 1));
        lk_mass_add(&sum, &before);
        if (lk_mass_value(&sum) > target)
            break;
        before = sum;
    }
    int32_t last = (int32_t)block_begin(d, b);
    for (int64_t i = block_begin(d, b); i < block_begin(d, b + 1); i++) {
        if (!survives(d, cut, i))
            continue;
        lk_mass_add_id(&before, &d->scale, d->logits[i]);
        last = (int32_t)i;
        if (lk_mass_value(&before) > target)
            break;
    }
    return last;
}

/* whole: the mass that top_p is a share of, NULL: that of what is left here. */
static int32_t draw_from(const struct dist *d, double u, const uint64_t *whole)
{
    const struct lb_sampling *s = d->s;
    struct cut cut = {0, INT32_MAX}, end;
    if (s->top_k > 0 && s->top_k < d->n_vocab) {
        struct seek q = {.d = d, .limit = &cut, .want = (double)s->top_k};
        if (seek_end(&q, &end))
            cut = end;
    }
    if (s->top_p < 1) {
        uint64_t total = whole ? *whole : mass_of(d, &cut, 0, d->n_vocab).hi;
        struct seek q = {.d = d, .limit = &cut, .by_mass = true, .want = lk_mass_share(s->top_p, total)};
        if (seek_end(&q, &end))
            cut = end;
    }
    return draw_whole(d, &cut, u);
}

static int32_t draw_from_row(const struct dist *d, double u)
{
    return draw_from(d, u, NULL);
}

/* Survivors among the candidates: how many of the first n min_p and top_k keep; *covered: nothing beyond them survives.
 */
static int narrow(const struct dist *d, const struct lb_cand *c, int n, bool *covered)
{
    int all = n;
    for (n = 0; n < all && lk_above_floor(&d->scale, c->top_logit[n]);)
        n++;
    *covered = n < all || all == d->n_vocab;
    if (d->s->top_k > 0 && d->s->top_k <= n) {
        n = (int)d->s->top_k;
        *covered = true;
    }
    return n;
}

/* The mass of all ids that min_p keeps. false: the ranks are to be asked. */
static bool total_mass(const struct dist *d, struct lb_asked *q, uint64_t *total)
{
    if (d->logits) {
        *total = whole_mass(d);
        return true;
    }
    if (!q->has_mass)
        lb_asked_mass(q, &d->scale);
    *total = q->total;
    return q->has_mass;
}

static bool filters_k(const struct dist *d)
{
    return d->s->top_k > 0 && d->s->top_k < d->n_vocab;
}

/* From the ids down to where the filters end, which stand for a row: they ascend, so that places have the order of ids.
 */
static int32_t draw_listed(const struct dist *d, double u, struct lb_asked *q)
{
    struct dist list = *d;
    list.logits = q->list_logit;
    list.n_vocab = q->n_list;
    int32_t at = draw_from(&list, u, filters_k(d) ? NULL : &q->total);
    q->logit = q->list_logit[at];
    return q->list_id[at];
}

/* A filter that goes beyond the candidates c. Bins are so wide that candidates end in the 32nd. */
static int32_t draw_filtered(const struct dist *d, const struct lb_cand *c, int n_top, double u, struct lb_asked *q)
{
    if (q->has_list)
        return draw_listed(d, u, q);
    double width = n_top > 0 ? (d->scale.best - (double)c->top_logit[n_top - 1]) / 32 : 0;
    if (!q->has_depth && width > 0 && 1 / width < 1e30)
        lb_asked_depth(q, &d->scale, 1 / width, !filters_k(d),
                       filters_k(d) ? (double)d->s->top_k : lk_mass_share(d->s->top_p, q->total));
    else if (q->has_depth && 4 * q->n_list + 64 <= d->n_vocab) /* its room is what the leader's row lacks */
        lb_asked_list(q, &d->scale);
    else
        lb_asked_row(q);
    return LB_SAMPLE_ASKS;
}

/* Where the candidates do not say it, and the row is not here. */
static int32_t draw_asking(const struct dist *d, struct lb_asked *q)
{
    if (!q->has_mass)
        lb_asked_mass(q, &d->scale);
    else if (!q->has_found)
        lb_asked_find(q, &d->scale);
    return q->has_found ? q->id : LB_SAMPLE_ASKS;
}

int32_t lb_sample_draw_top(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, int n_top, double u,
                           struct lb_asked *q)
{
    struct dist d;
    dist_init(&d, s, c, n_vocab);
    bool covered;
    int n = narrow(&d, c, n_top, &covered);
    bool whole_total = s->top_k <= 0 || s->top_k >= n_vocab; /* else top_k > LK_TOP has a share of its own */
    if (s->top_p < 1 && (covered || whole_total)) {
        uint64_t total = 0, sum = 0;
        if (!covered && !total_mass(&d, q, &total))
            return LB_SAMPLE_ASKS;
        for (int i = 0; covered && i < n; i++)
            total += lk_mass_whole(&d.scale, c->top_logit[i]);
        double want = lk_mass_share(s->top_p, total);
        for (int i = 0; i < n; i++) {
            sum += lk_mass_whole(&d.scale, c->top_logit[i]);
            if ((double)sum >= want) {
                n = i + 1;
                covered = true;
            }
        }
    }
    if (!covered && d.logits)
        return draw_from_row(&d, u);
    if (!covered)
        return s->top_p < 1 || filters_k(&d) ? draw_filtered(&d, c, n_top, u, q) : draw_asking(&d, q);
    struct chosen e[LK_TOP];
    for (int i = 0; i < n; i++)
        e[i] = (struct chosen){c->top_id[i], c->top_logit[i]};
    return draw_chosen(&d, e, n, u);
}

int32_t lb_sample_draw(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, double u,
                       struct lb_asked *q)
{
    return lb_sample_draw_top(s, c, n_vocab, (int)(n_vocab < LK_TOP ? n_vocab : LK_TOP), u, q);
}

int32_t lb_sample_draw_whole(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, double u)
{
    struct dist d;
    dist_init(&d, s, c, n_vocab);
    return draw_from_row(&d, u);
}

int64_t lb_sample_rank(const struct lb_cand *c, int64_t n_vocab, float logit)
{
    int64_t n_cand = n_vocab < LK_TOP ? n_vocab : LK_TOP, rank = 0;
    if (n_cand == n_vocab || logit > c->top_logit[n_cand - 1]) {
        while (rank < n_cand && c->top_logit[rank] >= logit)
            rank++;
        return rank;
    }
    if (!c->logits)
        return -1;
    for (int64_t i = 0; i < n_vocab; i++)
        rank += c->logits[i] >= logit;
    return rank;
}

void lb_sample_fill(const struct lb_cand *c, float logit, size_t n_top, struct lb_logprob_top *top,
                    struct lb_logprob *out)
{
    size_t n = 0;
    for (; n < n_top && n < LK_TOP && c->top_id[n] >= 0; n++)
        top[n] = (struct lb_logprob_top){c->top_id[n], (float)((double)c->top_logit[n] - c->lse)};
    out->logprob = (float)((double)logit - c->lse);
    out->top = n ? top : NULL;
    out->n_top = n;
}
