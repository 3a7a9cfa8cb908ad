#include "core/run/ask.h"

#include <string.h>

static size_t padded(size_t bytes)
{
    return (bytes + 7) / 8 * 8;
}

/* ---- what a row asks ---- */

static struct lb_ask *next(struct lb_asked *a, enum lb_ask_kind kind)
{
    int32_t output = a->next.q.output;
    a->next = (struct lb_ask){.q = {.kind = (int32_t)kind, .output = output}};
    return &a->next;
}

void lb_asked_values(struct lb_asked *a, const int32_t *id, float *value, int64_t n)
{
    struct lb_ask *q = next(a, LB_ASK_VALUES);
    q->q.n_id = (int32_t)n;
    q->id = id;
    q->value = value;
}

void lb_asked_mass(struct lb_asked *a, const struct lk_mass_scale *scale)
{
    next(a, LB_ASK_MASS)->q.scale = *scale;
}

void lb_asked_find(struct lb_asked *a, const struct lk_mass_scale *scale)
{
    struct lb_ask *q = next(a, LB_ASK_FIND);
    q->q.scale = *scale;
    q->q.piece = a->piece;
    q->q.before = a->before;
    q->q.target = a->target;
}

void lb_asked_count(struct lb_asked *a, float x)
{
    next(a, LB_ASK_COUNT)->q.x = x;
}

void lb_asked_depth(struct lb_asked *a, const struct lk_mass_scale *scale, double per_logit, bool by_mass, double want)
{
    struct lb_ask *q = next(a, LB_ASK_DEPTH);
    q->q.scale = *scale;
    q->q.per_logit = a->per_logit = per_logit;
    a->by_mass = by_mass;
    a->want = want;
}

void lb_asked_list(struct lb_asked *a, const struct lk_mass_scale *scale)
{
    struct lb_ask *q = next(a, LB_ASK_LIST);
    q->q.scale = *scale;
    q->q.per_logit = a->per_logit;
    q->q.last = a->last;
    memcpy(q->q.n_list, a->n_part_list, sizeof q->q.n_list);
}

void lb_asked_row(struct lb_asked *a)
{
    next(a, LB_ASK_ROW);
}

/* ---- what a part answers ---- */

struct found {
    int32_t id;
    float logit;
};

struct bin {
    uint64_t n, mass;
};

static int64_t inside(const struct lb_ask *a, int64_t begin, int64_t n)
{
    int64_t count = 0;
    for (int32_t i = 0; i < a->q.n_id; i++)
        count += a->id[i] >= begin && a->id[i] < begin + n;
    return count;
}

size_t lb_ask_bytes(const struct lb_ask *a, int rank, int64_t begin, int64_t n)
{
    switch (a->q.kind) {
    case LB_ASK_VALUES:
        return padded((size_t)inside(a, begin, n) * sizeof(float));
    case LB_ASK_MASS:
        return LB_ASK_PIECES * sizeof(struct lk_mass);
    case LB_ASK_FIND:
        return sizeof(struct found);
    case LB_ASK_COUNT:
        return sizeof(int64_t);
    case LB_ASK_DEPTH:
        return LB_ASK_BINS * sizeof(struct bin);
    case LB_ASK_LIST:
        return (size_t)a->q.n_list[rank] * sizeof(struct found);
    case LB_ASK_ROW:
        return padded((size_t)n * sizeof(float));
    default:
        return 0;
    }
}

static void swap_values(const struct lb_ask *a, const struct lb_logit_part *part)
{
    for (int32_t i = 0; i < a->q.n_id; i++) {
        int64_t at = a->id[i] - part->begin;
        if (at < 0 || at >= part->n)
            continue;
        float other = a->value[i];
        a->value[i] = part->logits[at];
        part->logits[at] = other;
    }
}

/* Where piece k begins, inside the part. */
static int64_t piece_begin(const struct lb_logit_part *part, int k)
{
    return part->n * k / LB_ASK_PIECES;
}

static void add_masses(const struct lb_ask *a, const struct lb_logit_part *part, struct lk_mass *sum)
{
    for (int k = 0; k < LB_ASK_PIECES; k++) {
        sum[k] = (struct lk_mass){0};
        for (int64_t i = piece_begin(part, k); i < piece_begin(part, k + 1); i++)
            if (lk_above_floor(&a->q.scale, part->logits[i]))
                lk_mass_add_id(&sum[k], &a->q.scale, part->logits[i]);
    }
}

static struct found find(const struct lb_ask *a, const struct lb_logit_part *part, int k)
{
    struct lk_mass sum = a->q.before;
    struct found f = {-1, 0};
    for (int64_t i = piece_begin(part, k); i < piece_begin(part, k + 1); i++) {
        if (!lk_above_floor(&a->q.scale, part->logits[i]))
            continue;
        lk_mass_add_id(&sum, &a->q.scale, part->logits[i]);
        f = (struct found){(int32_t)(part->begin + i), part->logits[i]};
        if (lk_mass_value(&sum) > a->q.target)
            break;
    }
    return f;
}

/* How far below the best a logit lies; falls with nothing but the logit, so that bins are a beginning of the order. */
static int bin_of(const struct lb_question *q, float logit)
{
    double at = (q->scale.best - (double)logit) * q->per_logit;
    return at < LB_ASK_BINS - 1 ? (int)at : LB_ASK_BINS - 1;
}

static void fill_bins(const struct lb_ask *a, const struct lb_logit_part *part, struct bin *bin)
{
    memset(bin, 0, LB_ASK_BINS * sizeof *bin);
    for (int64_t i = 0; i < part->n; i++) {
        if (!lk_above_floor(&a->q.scale, part->logits[i]))
            continue;
        struct bin *b = &bin[bin_of(&a->q, part->logits[i])];
        b->n++;
        b->mass += lk_mass_whole(&a->q.scale, part->logits[i]);
    }
}

static void fill_list(const struct lb_ask *a, int rank, const struct lb_logit_part *part, struct found *list)
{
    int32_t n = 0;
    for (int64_t i = 0; i < part->n && n < a->q.n_list[rank]; i++)
        if (lk_above_floor(&a->q.scale, part->logits[i]) && bin_of(&a->q, part->logits[i]) <= a->q.last)
            list[n++] = (struct found){(int32_t)(part->begin + i), part->logits[i]};
}

/* Of questions that may change logits; they are changed. */
static void answer_changed(const struct lb_ask *a, int rank, const struct lb_logit_part *part, void *out)
{
    switch (a->q.kind) {
    case LB_ASK_MASS:
        add_masses(a, part, out);
        break;
    case LB_ASK_FIND:
        *(struct found *)out = (struct found){-1, 0};
        if (a->q.piece / LB_ASK_PIECES == rank)
            *(struct found *)out = find(a, part, a->q.piece % LB_ASK_PIECES);
        break;
    case LB_ASK_DEPTH:
        fill_bins(a, part, out);
        break;
    default:
        fill_list(a, rank, part, out);
        break;
    }
}

void lb_ask_answer(const struct lb_ask *a, int rank, const struct lb_logit_part *part, void *out)
{
    float *value = out;
    if (lb_ask_changes(&a->q)) {
        swap_values(a, part);
        answer_changed(a, rank, part, out);
        swap_values(a, part);
        return;
    }
    switch (a->q.kind) {
    case LB_ASK_VALUES:
        for (int32_t i = 0; i < a->q.n_id; i++)
            if (a->id[i] >= part->begin && a->id[i] < part->begin + part->n)
                *value++ = part->logits[a->id[i] - part->begin];
        break;
    case LB_ASK_COUNT:
        *(int64_t *)out = 0;
        for (int64_t i = 0; i < part->n; i++)
            *(int64_t *)out += part->logits[i] >= a->q.x;
        break;
    case LB_ASK_ROW:
        memcpy(value, part->logits, (size_t)part->n * sizeof *value);
        break;
    default:
        break;
    }
}

/* ---- what the answers say together ---- */

static int part_of(const int64_t *begin, int n_part, int32_t id)
{
    int p = 0;
    while (p < n_part - 1 && id >= begin[p + 1])
        p++;
    return p;
}

static void take_values(struct lb_asked *a, const int64_t *begin, int n_part, const uint8_t *const *answer)
{
    const float *at[LB_COMM_MAX_RANKS];
    for (int p = 0; p < n_part; p++)
        at[p] = (const float *)(const void *)answer[p];
    for (int32_t i = 0; i < a->next.q.n_id; i++)
        a->next.value[i] = *at[part_of(begin, n_part, a->next.id[i])]++;
    a->has_values = true;
}

/* Finds the piece in which the sum passes u of it all. */
static void take_masses(struct lb_asked *a, int n_part, const uint8_t *const *answer)
{
    struct lk_mass total = {0};
    for (int p = 0; p < n_part; p++)
        for (int k = 0; k < LB_ASK_PIECES; k++)
            lk_mass_add(&total, (const struct lk_mass *)(const void *)answer[p] + k);
    a->total = total.hi;
    a->target = a->u * lk_mass_value(&total);
    a->before = (struct lk_mass){0};
    a->has_mass = true;
    for (int i = 0; i < n_part * LB_ASK_PIECES; i++) {
        struct lk_mass sum = ((const struct lk_mass *)(const void *)answer[i / LB_ASK_PIECES])[i % LB_ASK_PIECES];
        lk_mass_add(&sum, &a->before);
        a->piece = i;
        if (lk_mass_value(&sum) > a->target)
            break;
        a->before = sum;
    }
}

/* The first bin down to which there is enough, or the last one. */
static void take_bins(struct lb_asked *a, int n_part, const uint8_t *const *answer)
{
    uint64_t sum = 0;
    a->n_list = 0;
    memset(a->n_part_list, 0, sizeof a->n_part_list);
    for (int b = 0; b < LB_ASK_BINS; b++) {
        for (int p = 0; p < n_part; p++) {
            const struct bin *bin = (const struct bin *)(const void *)answer[p] + b;
            sum += a->by_mass ? bin->mass : bin->n;
            a->n_part_list[p] += (int32_t)bin->n;
            a->n_list += (int64_t)bin->n;
        }
        a->last = b;
        if ((double)sum >= a->want)
            break;
    }
    a->has_depth = true;
}

static void take_list(struct lb_asked *a, int n_part, const uint8_t *const *answer)
{
    int64_t n = 0;
    for (int p = 0; p < n_part; p++) {
        const struct found *f = (const struct found *)(const void *)answer[p];
        for (int32_t i = 0; i < a->n_part_list[p]; i++) {
            a->list_id[n] = f[i].id;
            a->list_logit[n++] = f[i].logit;
        }
    }
    a->has_list = true;
}

void lb_asked_take(struct lb_asked *a, const int64_t *begin, int n_part, const uint8_t *const *answer)
{
    switch (a->next.q.kind) {
    case LB_ASK_VALUES:
        take_values(a, begin, n_part, answer);
        break;
    case LB_ASK_MASS:
        take_masses(a, n_part, answer);
        break;
    case LB_ASK_FIND: {
        const struct found *f = (const struct found *)(const void *)answer[a->next.q.piece / LB_ASK_PIECES];
        a->id = f->id;
        a->logit = f->logit;
        a->has_found = true;
        break;
    }
    case LB_ASK_COUNT:
        a->count = 0;
        for (int p = 0; p < n_part; p++)
            a->count += *(const int64_t *)(const void *)answer[p];
        a->has_count = true;
        break;
    case LB_ASK_DEPTH:
        take_bins(a, n_part, answer);
        break;
    case LB_ASK_LIST:
        take_list(a, n_part, answer);
        break;
    case LB_ASK_ROW:
        for (int p = 0; p < n_part; p++)
            memcpy(a->row + begin[p], answer[p], (size_t)(begin[p + 1] - begin[p]) * sizeof(float));
        break;
    default:
        break;
    }
    next(a, LB_ASK_NOTHING);
}
