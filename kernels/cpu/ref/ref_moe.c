/* Mixture of experts: which experts a token takes, and the sum of what they gave. Rows are f32 whatever the type. */
#include <math.h>

#include "kernels/cpu/ref/lk_ref.h"

#define BLOCK 64 /* columns of a token at a time: the leaves of a block stay in the first cache */

/* Whether x goes before y, which has the lower id. */
static inline bool before(float x, float y)
{
    return x > y || (x != x && y == y);
}

/* The best candidate of [begin, end) that is not taken, ties to the lower index; -1: all are taken. */
static int64_t best_of(const float *c, const bool *taken, int64_t begin, int64_t end)
{
    int64_t best = -1;
    for (int64_t i = begin; i < end; i++)
        if (!taken[i] && (best < 0 || before(c[i], c[best])))
            best = i;
    return best;
}

/* Marks the experts of all groups but the best as taken. */
static void mask_groups(const struct lk_route *a, const float *c, bool *taken)
{
    float score[LK_MAX_EXPERT];
    bool kept[LK_MAX_EXPERT] = {false};
    int64_t size = a->n_expert / a->n_group;
    for (int64_t g = 0; g < a->n_group; g++) {
        int64_t begin = g * size, first = best_of(c, taken, begin, begin + size);
        taken[first] = true;
        int64_t second = best_of(c, taken, begin, begin + size);
        taken[first] = false;
        score[g] = second < 0 ? c[first] : c[first] + c[second];
    }
    for (int64_t i = 0; i < a->n_group_used; i++)
        kept[best_of(score, kept, 0, a->n_group)] = true;
    for (int64_t e = 0; e < a->n_expert; e++)
        taken[e] = !kept[e / size];
}

static void route_token(const struct lk_route *a, int64_t t)
{
    float s[LK_MAX_EXPERT], c[LK_MAX_EXPERT], sum = 0;
    bool taken[LK_MAX_EXPERT] = {false}, chosen[LK_MAX_EXPERT] = {false};
    const float *logits = a->logits + t * a->n_expert;
    for (int64_t e = 0; e < a->n_expert; e++) {
        s[e] = 1.0f / (1.0f + expf(-logits[e]));
        c[e] = a->bias ? s[e] + a->bias[e] : s[e];
    }
    if (a->n_group_used < a->n_group)
        mask_groups(a, c, taken);
    for (int64_t i = 0; i < a->n_used; i++) {
        int64_t best = best_of(c, taken, 0, a->n_expert);
        taken[best] = chosen[best] = true;
    }
    int32_t *id = a->id + t * a->n_used;
    float *weight = a->weight + t * a->n_used;
    for (int64_t e = 0, i = 0; e < a->n_expert; e++) {
        if (!chosen[e])
            continue;
        id[i] = (int32_t)e;
        weight[i++] = s[e];
        sum += s[e];
    }
    for (int64_t i = 0; i < a->n_used; i++)
        weight[i] = (a->normalize ? weight[i] / (sum + 1e-20f) : weight[i]) * a->scale;
}

static void route(const struct lk_route *a, int64_t begin, int64_t end)
{
    for (int64_t t = begin; t < end; t++)
        route_token(a, t);
}

static void add_weighted(float *to, const float *y, float w, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        to[j] += w * y[j];
}

static void add(float *to, const float *from, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        to[j] += from[j];
}

/* Columns col .. col + n - 1 of token t: the leaves, then their tree in leaf[0]. */
static void sum_block(const struct lk_combine *a, int64_t t, int64_t col, int64_t n, float leaf[][BLOCK])
{
    const int32_t *id = a->id + t * a->n_used, *row = a->row + t * a->n_used;
    int64_t i = 0, first = a->first * a->n_expert / a->n_seg;
    memset(leaf, 0, (size_t)a->n_leaf * sizeof *leaf);
    while (i < a->n_used && id[i] < first)
        i++;
    for (int r = 0; r < a->n_leaf; r++) {
        for (int64_t end = (a->first + r + 1) * a->n_expert / a->n_seg; i < a->n_used && id[i] < end; i++)
            add_weighted(leaf[r], a->y + row[i] * a->dim + col, a->weight[t * a->n_used + i], n);
        if (a->shared[r])
            add(leaf[r], a->shared[r] + t * a->dim + col, n);
    }
    if ((a->n_leaf & (a->n_leaf - 1)) == 0) {
        for (int step = 1; step < a->n_leaf; step *= 2)
            for (int r = 0; r < a->n_leaf; r += 2 * step)
                add(leaf[r], leaf[r + step], n);
    } else {
        for (int r = 1; r < a->n_leaf; r++)
            add(leaf[0], leaf[r], n);
    }
}

static void combine(const struct lk_combine *a, int64_t begin, int64_t end)
{
    float leaf[LK_MAX_SEG][BLOCK];
    for (int64_t t = begin; t < end; t++) {
        for (int64_t col = 0; col < a->dim; col += BLOCK) {
            int64_t n = lk_min(BLOCK, a->dim - col);
            sum_block(a, t, col, n, leaf);
            add(a->x + t * a->dim + col, leaf[0], n);
        }
    }
}

void lk_ref_moe_init(struct lk_cpu *t)
{
    t->route = route;
    t->combine = combine;
}
