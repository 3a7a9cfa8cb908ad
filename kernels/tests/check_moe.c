/* route and combine: the router against its formula in double, the sum against the contract's order in f32. */
#include "kernels/tests/check.h"

enum { MAX_E = 64, MAX_K = 8 };

/* Larger first; a NaN before all numbers; ties in order of index. */
static bool goes_before(double x, int i, double y, int j)
{
    if (isnan(x) || isnan(y))
        return isnan(x) && (!isnan(y) || i < j);
    return x > y || (x == y && i < j);
}

/* How many of [begin, end) go before element i. */
static int rank_of(const double *c, int i, int begin, int end)
{
    int n = 0;
    for (int j = begin; j < end; j++)
        n += j != i && goes_before(c[j], j, c[i], i);
    return n;
}

/* By ranks instead of picking one after the other: an expert is chosen when its group is among the best and fewer than
 * n_used experts of those groups go before it. weight[e] is 0 where it is not. */
static void want_route(const struct lk_route *a, const float *logits, bool *chosen, double *weight)
{
    int n = (int)a->n_expert, size = (int)(a->n_expert / a->n_group);
    double c[MAX_E], score[MAX_E], sum = 0;
    for (int e = 0; e < n; e++) {
        float s = 1.0f / (1.0f + expf(-logits[e])); /* f32, as the contract has it: choices hang on it */
        c[e] = (double)(a->bias ? s + a->bias[e] : s);
        weight[e] = (double)s;
    }
    for (int g = 0; g < a->n_group; g++) {
        float two[2] = {0, 0};
        for (int e = g * size; e < (g + 1) * size; e++) {
            int rank = rank_of(c, e, g * size, (g + 1) * size);
            if (rank < 2)
                two[rank] = (float)c[e];
        }
        score[g] = (double)(two[0] + two[1]);
    }
    for (int e = 0; e < n; e++) {
        int before = 0;
        for (int j = 0; j < n; j++)
            before += rank_of(score, j / size, 0, (int)a->n_group) < a->n_group_used && j != e &&
                      goes_before(c[j], j, c[e], e);
        chosen[e] = rank_of(score, e / size, 0, (int)a->n_group) < a->n_group_used && before < a->n_used;
        sum += chosen[e] ? weight[e] : 0;
    }
    for (int e = 0; e < n; e++)
        weight[e] = !chosen[e] ? 0 : (double)a->scale * (a->normalize ? weight[e] / (sum + 1e-20) : weight[e]);
}

static void route_case(const struct lk_cpu *t, struct lk_route *a, const float *logits)
{
    a->id = check_new((size_t)(a->n_tok * a->n_used), sizeof *a->id);
    a->weight = check_new((size_t)(a->n_tok * a->n_used), sizeof *a->weight);
    a->logits = logits;
    CHECK_SPLIT(t->route, a, a->n_tok);
    for (int64_t i = 0; i < a->n_tok; i++) {
        bool chosen[MAX_E];
        double weight[MAX_E];
        const int32_t *id = a->id + i * a->n_used;
        want_route(a, logits + i * a->n_expert, chosen, weight);
        for (int64_t k = 0; k < a->n_used; k++) {
            bool valid = id[k] >= 0 && id[k] < a->n_expert && (k == 0 || id[k] > id[k - 1]);
            check_that(valid && chosen[id[k]], t, "route", "token %lld: choice %lld is expert %d", (long long)i,
                       (long long)k, id[k]);
            double got = (double)a->weight[i * a->n_used + k], want = valid ? weight[id[k]] : 0;
            check_that(isnan(want) ? isnan(got) : fabs(got - want) <= 0x1p-20 * fabs(want) + 1e-30, t, "route",
                       "token %lld: weight of expert %d is %g, not %g", (long long)i, id[k], got, want);
        }
    }
    free(a->id);
    free(a->weight);
}

/* spec/models.md 1.8: logits 0, 1, -1, 2 with this bias choose 2 and 0, not 3. */
static void route_example(const struct lk_cpu *t)
{
    static const float logits[] = {0, 1, -1, 2}, bias[] = {0.5f, 0, 0.9f, -0.6f};
    int32_t id[2];
    float weight[2];
    struct lk_route a = {.logits = logits,
                         .bias = bias,
                         .id = id,
                         .weight = weight,
                         .n_tok = 1,
                         .n_expert = 4,
                         .n_used = 2,
                         .n_group = 1,
                         .n_group_used = 1,
                         .scale = 2.5f,
                         .normalize = true};
    t->route(&a, 0, 1);
    check_that(id[0] == 0 && id[1] == 2, t, "route", "the example chooses %d and %d", id[0], id[1]);
    check_that(fabsf(weight[0] - 1.625611f) < 2e-6f && fabsf(weight[1] - 0.874389f) < 2e-6f, t, "route",
               "the example's weights are %g and %g", (double)weight[0], (double)weight[1]);
}

static void check_route(const struct lk_cpu *t)
{
    static const int shapes[][4] = {{8, 3, 1, 1}, {12, 3, 4, 2}, {64, 8, 8, 4},
                                    {5, 5, 1, 1}, {6, 2, 3, 1},  {1, 1, 1, 1}};
    enum { N_TOK = 40 };
    route_example(t);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        struct lk_route a = {.n_tok = N_TOK,
                             .n_expert = shapes[s][0],
                             .n_used = shapes[s][1],
                             .n_group = shapes[s][2],
                             .n_group_used = shapes[s][3]};
        float *logits = check_new((size_t)(N_TOK * a.n_expert), sizeof *logits), bias[MAX_E];
        for (int kind = 0; kind < 4; kind++) { /* numbers, ties, NaN and infinities, without bias */
            for (int64_t i = 0; i < N_TOK * a.n_expert; i++) {
                logits[i] = kind == 1 ? (float)(check_random() % 3) : check_uniform(-4, 4);
                if (kind == 2 && check_random() % 7 == 0)
                    logits[i] = check_random() % 3 ? NAN : check_random() % 2 ? INFINITY : -INFINITY;
            }
            check_fill(bias, a.n_expert, -1, 1);
            a.bias = kind == 1 || kind == 3 ? NULL : bias;
            a.normalize = kind != 3;
            a.scale = kind ? 2.5f : 1;
            route_case(t, &a, logits);
        }
        free(logits);
    }
}

/* The tree of n leaves: halves of halves, or left to right. */
static float tree(const float *leaf, int n, bool balanced)
{
    if (n == 1)
        return leaf[0];
    int left = balanced ? n / 2 : n - 1;
    return tree(leaf, left, balanced) + tree(leaf + left, n - left, balanced);
}

static float want_combine(const struct lk_combine *a, int64_t t, int64_t j)
{
    float leaf[LK_MAX_SEG] = {0};
    for (int r = 0; r < a->n_leaf; r++) {
        int64_t begin = (a->first + r) * a->n_expert / a->n_seg, end = (a->first + r + 1) * a->n_expert / a->n_seg;
        for (int64_t e = begin; e < end; e++)
            for (int64_t i = t * a->n_used; i < (t + 1) * a->n_used; i++)
                if (a->id[i] == e)
                    leaf[r] += a->weight[i] * a->y[a->row[i] * a->dim + j];
        if (a->shared[r])
            leaf[r] += a->shared[r][t * a->dim + j];
    }
    return a->x[t * a->dim + j] + tree(leaf, a->n_leaf, (a->n_leaf & (a->n_leaf - 1)) == 0);
}

static void combine_case(const struct lk_cpu *t, int n_seg, int64_t n_expert, int64_t n_used, int64_t dim)
{
    enum { N_TOK = 7 };
    int64_t n_row = N_TOK * n_used, n = N_TOK * dim;
    float *y = check_new((size_t)(n_row * dim), sizeof *y), *x = check_new((size_t)n, sizeof *x);
    float *weight = check_new((size_t)n_row, sizeof *weight), *got = check_new((size_t)n, sizeof *got);
    float *memory = check_new((size_t)(n * n_seg), sizeof *memory);
    int32_t *id = check_new((size_t)n_row, sizeof *id), *row = check_new((size_t)n_row, sizeof *row);
    const float *shared[LK_MAX_SEG];
    check_fill(y, n_row * dim, -2, 2);
    check_fill(x, n, -2, 2);
    check_fill(weight, n_row, 0, 1);
    check_fill(memory, n * n_seg, -2, 2);
    for (int r = 0; r < n_seg; r++)
        shared[r] = r % 3 == 1 ? NULL : memory + r * n;
    for (int64_t i = 0; i < n_row; i++) {
        int64_t k = i % n_used, spare = n_expert - n_used;
        id[i] = (int32_t)(k + (k == 0 ? 0 : id[i - 1] - (k - 1))); /* ascending: the shift never falls */
        if (id[i] - k < spare)
            id[i] += (int32_t)(check_random() % 2);
        row[i] = (int32_t)((i * 5 + 3) % n_row);
    }
    struct lk_combine a = {.x = x,
                           .y = y,
                           .id = id,
                           .row = row,
                           .weight = weight,
                           .shared = shared,
                           .n_tok = N_TOK,
                           .n_used = n_used,
                           .n_expert = n_expert,
                           .dim = dim,
                           .n_seg = n_seg};
    for (int tp = 1; tp <= n_seg; tp++) { /* each rank's leaves, if it can be so many */
        for (a.first = 0, a.n_leaf = n_seg / tp; n_seg % tp == 0 && a.first < n_seg; a.first += a.n_leaf) {
            for (int64_t i = 0; i < n; i++)
                got[i] = want_combine(&a, i / dim, i % dim);
            CHECK_SPLIT(t->combine, &a, N_TOK);
            check_that(memcmp(got, x, (size_t)n * sizeof *x) == 0, t, "combine",
                       "%d leaves of %d, %lld of %lld experts, dim %lld", a.n_leaf, n_seg, (long long)n_used,
                       (long long)n_expert, (long long)dim);
        }
    }
    free(y);
    free(x);
    free(weight);
    free(got);
    free(memory);
    free(id);
    free(row);
}

void check_moe(const struct lk_cpu *t)
{
    check_route(t);
    static const int segments[] = {1, 2, 3, 4, 7, 8, 16};
    for (size_t s = 0; s < sizeof segments / sizeof *segments; s++) {
        combine_case(t, segments[s], 12, 3, 64 + (int64_t)s * 9);
        combine_case(t, segments[s], 5, 2, 1 + (int64_t)s);
        combine_case(t, segments[s], 8, 8, 130);
    }
}
