#include "core/run/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MASS_ONE 1099511627776.0 /* 2^40: integer weight of the best id; 2^23 ids sum below 2^63 */

#define KEPT_BLOCKS 2048 /* block sums that are remembered; those beyond are summed again */

/* A beginning of the order (logit descending, id ascending): everything up to and including this element. */
struct cut {
    uint32_t key;
    int32_t id;
};

struct dist {
    const struct lb_sampling *s;
    const float *logits;
    int64_t n_vocab;
    double best, floor; /* largest logit; lowest scaled logit that min_p keeps */
};

/* Order-preserving bits of a finite float; -0 equals 0. */
static uint32_t key_of(float x)
{
    float y = x + 0.0f;
    uint32_t b;
    memcpy(&b, &y, sizeof b);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

/* Logit relative to the best, over the temperature: 0 for the best, falling with the logit. */
static double scaled(const struct dist *d, float logit)
{
    return ((double)logit - d->best) / d->s->temperature;
}

static double weight(const struct dist *d, float logit)
{
    return exp(scaled(d, logit));
}

static uint64_t mass(const struct dist *d, float logit)
{
    return (uint64_t)(weight(d, logit) * MASS_ONE);
}

static bool above_floor(const struct dist *d, float logit)
{
    return scaled(d, logit) >= d->floor;
}

static bool inside(const struct cut *c, uint32_t key, int32_t id)
{
    return key > c->key || (key == c->key && id <= c->id);
}

static void dist_init(struct dist *d, const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab)
{
    *d = (struct dist){.s = s, .logits = c->logits, .n_vocab = n_vocab, .best = (double)c->best_logit};
    d->floor = s->min_p > 0 ? log(s->min_p) : -INFINITY;
    if (d->floor > 0)
        d->floor = 0;
}

/* Mass that top_p asks for; the best id always stays. */
static double share(const struct lb_sampling *s, uint64_t total)
{
    double want = s->top_p * (double)total;
    return want > 1 ? want : 1;
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
    double w[LK_TOP], total = 0;
    qsort(e, (size_t)n, sizeof *e, by_id);
    for (int i = 0; i < n;) {
        int64_t block = e[i].id / LK_HEAD_BLOCK;
        double sum = 0;
        for (; i < n && e[i].id / LK_HEAD_BLOCK == block; i++)
            sum += w[i] = weight(d, e[i].logit);
        total += sum;
    }
    double target = u * total, before = 0, sum = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && e[i].id / LK_HEAD_BLOCK != e[i - 1].id / LK_HEAD_BLOCK) {
            before += sum;
            sum = 0;
        }
        sum += w[i];
        if (before + sum > target)
            return e[i].id;
    }
    return e[n - 1].id;
}

/* ---- the whole row ---- */

static uint64_t whole_mass(const struct dist *d)
{
    uint64_t m = 0;
    for (int64_t i = 0; i < d->n_vocab; i++)
        if (above_floor(d, d->logits[i]))
            m += mass(d, d->logits[i]);
    return m;
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
    return q->by_mass ? mass(q->d, logit) : 1;
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
            uint32_t key = key_of(q->d->logits[i]);
            if ((key & mask) == prefix && above_floor(q->d, q->d->logits[i]) && inside(q->limit, key, (int32_t)i))
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
        if (key_of(q->d->logits[i]) != prefix || !inside(q->limit, prefix, (int32_t)i))
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
    return above_floor(d, d->logits[i]) && inside(cut, key_of(d->logits[i]), (int32_t)i);
}

static double block_mass(const struct dist *d, const struct cut *cut, int64_t block)
{
    int64_t begin = block * LK_HEAD_BLOCK;
    int64_t end = begin + LK_HEAD_BLOCK < d->n_vocab ? begin + LK_HEAD_BLOCK : d->n_vocab;
    double sum = 0;
    for (int64_t i = begin; i < end; i++)
        if (survives(d, cut, i))
            sum += weight(d, d->logits[i]);
    return sum;
}

/* The first survivor of the block whose sum, on top of `before`, exceeds target; the last one if rounding hides it. */
static int32_t draw_in_block(const struct dist *d, const struct cut *cut, int64_t block, double before, double target)
{
    double sum = 0;
    int32_t last = 0;
    for (int64_t i = block * LK_HEAD_BLOCK; i < d->n_vocab && i < (block + 1) * LK_HEAD_BLOCK; i++) {
        if (!survives(d, cut, i))
            continue;
        sum += weight(d, d->logits[i]);
        last = (int32_t)i;
        if (before + sum > target)
            break;
    }
    return last;
}

static int32_t draw_whole(const struct dist *d, const struct cut *cut, double u)
{
    double kept[KEPT_BLOCKS], total = 0, before = 0;
    int64_t n_block = (d->n_vocab + LK_HEAD_BLOCK - 1) / LK_HEAD_BLOCK, last = 0;
    for (int64_t b = 0; b < n_block; b++) {
        double sum = block_mass(d, cut, b);
        total += sum;
        if (b < KEPT_BLOCKS)
            kept[b] = sum;
    }
    double target = u * total, last_before = 0;
    for (int64_t b = 0; b < n_block; b++) {
        double sum = b < KEPT_BLOCKS ? kept[b] : block_mass(d, cut, b);
        if (sum > 0) {
            last = b;
            last_before = before;
        }
        before += sum;
        if (before > target)
            break;
    }
    return draw_in_block(d, cut, last, last_before, target);
}

static int32_t draw_from_row(const struct dist *d, double u)
{
    const struct lb_sampling *s = d->s;
    struct cut cut = {0, INT32_MAX}, end;
    if (s->top_k > 0 && s->top_k < d->n_vocab) {
        struct seek q = {.d = d, .limit = &cut, .want = (double)s->top_k};
        if (seek_end(&q, &end))
            cut = end;
    }
    if (s->top_p < 1) {
        uint64_t total = 0;
        for (int64_t i = 0; i < d->n_vocab; i++)
            if (survives(d, &cut, i))
                total += mass(d, d->logits[i]);
        struct seek q = {.d = d, .limit = &cut, .by_mass = true, .want = share(s, total)};
        if (seek_end(&q, &end))
            cut = end;
    }
    return draw_whole(d, &cut, u);
}

/* Survivors among the candidates: how many of the first n min_p and top_k keep; *covered: nothing beyond them survives.
 */
static int narrow(const struct dist *d, const struct lb_cand *c, int n, bool *covered)
{
    int all = n;
    for (n = 0; n < all && above_floor(d, c->top_logit[n]);)
        n++;
    *covered = n < all || all == d->n_vocab;
    if (d->s->top_k > 0 && d->s->top_k <= n) {
        n = (int)d->s->top_k;
        *covered = true;
    }
    return n;
}

int32_t lb_sample_draw_top(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, int n_top, double u)
{
    struct dist d;
    dist_init(&d, s, c, n_vocab);
    bool covered;
    int n = narrow(&d, c, n_top, &covered);
    bool whole_total = s->top_k <= 0 || s->top_k >= n_vocab; /* else top_k > LK_TOP has a share of its own */
    if (s->top_p < 1 && (covered || whole_total)) {
        uint64_t total = 0, sum = 0;
        if (!covered)
            total = whole_mass(&d);
        for (int i = 0; covered && i < n; i++)
            total += mass(&d, c->top_logit[i]);
        double want = share(s, total);
        for (int i = 0; i < n; i++) {
            sum += mass(&d, c->top_logit[i]);
            if ((double)sum >= want) {
                n = i + 1;
                covered = true;
            }
        }
    }
    if (!covered)
        return draw_from_row(&d, u);
    struct chosen e[LK_TOP];
    for (int i = 0; i < n; i++)
        e[i] = (struct chosen){c->top_id[i], c->top_logit[i]};
    return draw_chosen(&d, e, n, u);
}

int32_t lb_sample_draw(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, double u)
{
    return lb_sample_draw_top(s, c, n_vocab, (int)(n_vocab < LK_TOP ? n_vocab : LK_TOP), u);
}

int32_t lb_sample_draw_whole(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, double u)
{
    struct dist d;
    dist_init(&d, s, c, n_vocab);
    return draw_from_row(&d, u);
}

void lb_sample_logprob(const struct lb_cand *c, int64_t n_vocab, int32_t id, size_t n_top, struct lb_logprob_top *top,
                       struct lb_logprob *out)
{
    float logit = c->logits[id];
    int64_t n_cand = n_vocab < LK_TOP ? n_vocab : LK_TOP, rank = 0;
    if (n_cand == n_vocab || logit > c->top_logit[n_cand - 1]) {
        while (rank < n_cand && c->top_logit[rank] >= logit)
            rank++;
    } else {
        for (int64_t i = 0; i < n_vocab; i++)
            rank += c->logits[i] >= logit;
    }
    if ((int64_t)n_top > n_cand)
        n_top = (size_t)n_cand;
    for (size_t i = 0; i < n_top; i++)
        top[i] = (struct lb_logprob_top){c->top_id[i], (float)((double)c->top_logit[i] - c->lse)};
    *out = (struct lb_logprob){
        .id = id, .logprob = (float)((double)logit - c->lse), .rank = rank, .top = n_top ? top : NULL, .n_top = n_top};
}
