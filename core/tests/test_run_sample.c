#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/run/philox.h"
#include "core/run/sample.h"
#include "core/tests/randomrow.h"
#include "core/tests/whole.h"

/* Known answers of Random123's philox4x32 with 10 rounds (kat_vectors of that library). */
static void test_philox(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t got[4];
        lb_philox(kat[i].counter, kat[i].key, got);
        assert_memory_equal(got, kat[i].want, sizeof got);
    }
    assert_true(lb_philox_u(0, 0, 0, 0) == (0x6627e8d5 + 0.5) / 4294967296.0);
    assert_true(lb_philox_u(1, 2, 0, 3) != lb_philox_u(1, 2, 0, 4));
    assert_true(lb_philox_u(1, 2, 0, 3) != lb_philox_u(1, 3, 0, 3));
    assert_true(lb_philox_u(1, 2, 0, 3) != lb_philox_u((uint64_t)1 << 40 | 1, 2, 0, 3));
}

/* An ulp of what the C library gives, which is half an ulp off itself; nothing where there is no mass. */
static void test_exp(void **state)
{
    (void)state;
    random_state = 3;
    for (int i = 0; i < 200000; i++) {
        double v = -uniform() * (i % 3 ? 56 : 1), want = exp(v), got = lk_mass_exp(v);
        if (fabs(got - want) > 1.5 * (want - nextafter(want, 0)) || got > 1)
            fail_msg("e^%.17g is %.17g, not %.17g", v, got, want);
    }
    assert_true(lk_mass_exp(0) == 1 && lk_mass_exp(-0.0) == 1);
    assert_true(lk_mass_exp(-56) > 0 && exp(-56) * LK_MASS_ONE * LK_MASS_ONE < 1);
    assert_true(lk_mass_exp(-56.1) == 0 && lk_mass_exp(-INFINITY) == 0 && lk_mass_exp(NAN) == 0);
}

/* ---- a naive sampler: sorts everything ---- */

struct row {
    int64_t n;
    float *logits;
    int32_t *order; /* ids by logit descending, id ascending */
    int32_t top_id[LK_TOP];
    float top_logit[LK_TOP];
    struct lb_cand cand;
};

static void row_init(struct row *r, int64_t n, double spread, bool ties)
{
    *r = (struct row){.n = n};
    r->logits = malloc((size_t)n * sizeof *r->logits);
    r->order = malloc((size_t)n * sizeof *r->order);
    for (int64_t i = 0; i < n; i++) {
        double x = spread * (uniform() + uniform() + uniform() - 1.5);
        r->logits[i] = (float)(ties ? round(x * 2) / 2 : x);
        r->order[i] = (int32_t)i;
    }
    sort_logits = r->logits;
    qsort(r->order, (size_t)n, sizeof *r->order, by_order);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)r->logits[i] - (double)r->logits[r->order[0]]);
    for (int i = 0; i < LK_TOP; i++) {
        r->top_id[i] = i < n ? r->order[i] : -1;
        r->top_logit[i] = i < n ? r->logits[r->order[i]] : 0;
    }
    r->cand = (struct lb_cand){.best = r->order[0],
                               .best_logit = r->logits[r->order[0]],
                               .finite = true,
                               .logits = r->logits,
                               .lse = log(sum) + (double)r->logits[r->order[0]],
                               .top_id = r->top_id,
                               .top_logit = r->top_logit};
}

static void row_release(struct row *r)
{
    free(r->logits);
    free(r->order);
}

/* Filters on probabilities, in vLLM's order, and the draw in id order. *edge: how near the draw came to another id. */
static int32_t naive_draw(const struct lb_sampling *s, const struct row *r, double u, double *edge)
{
    double *p = malloc((size_t)r->n * sizeof *p), sum = 0, before = 0, total = 0;
    bool *keep = calloc((size_t)r->n, sizeof *keep);
    int64_t kept = 0;
    for (int64_t i = 0; i < r->n; i++)
        sum += p[i] = exp(((double)r->logits[i] - (double)r->cand.best_logit) / s->temperature);
    for (int64_t i = 0; i < r->n; i++)
        p[i] /= sum;
    *edge = 1;
    for (int64_t k = 0; k < r->n; k++) {
        double floor = s->min_p * p[r->order[0]];
        *edge = fmin(*edge, fabs(p[r->order[k]] - floor) / p[r->order[0]]);
        if (k > 0 && p[r->order[k]] < floor)
            break;
        if (s->top_k > 0 && kept == s->top_k)
            break;
        kept++;
    }
    sum = 0;
    for (int64_t k = 0; k < kept; k++)
        sum += p[r->order[k]];
    for (int64_t k = 0; k < kept; k++) {
        *edge = fmin(*edge, fabs(before / sum - s->top_p));
        if (k > 0 && s->top_p < 1 && before / sum >= s->top_p)
            break;
        keep[r->order[k]] = true;
        total += p[r->order[k]];
        before += p[r->order[k]];
    }
    double cum = 0;
    int32_t found = -1;
    for (int64_t i = 0; i < r->n; i++) {
        if (!keep[i])
            continue;
        cum += p[i] / total;
        *edge = fmin(*edge, fabs(cum - u));
        if (found < 0 && cum > u)
            found = (int32_t)i;
    }
    free(p);
    free(keep);
    return found;
}

static const struct lb_sampling settings[] = {
    {.temperature = 1, .top_p = 1},
    {.temperature = 0.7, .top_p = 1},
    {.temperature = 1, .top_p = 0.9},
    {.temperature = 1.7, .top_p = 0.95},
    {.temperature = 3, .top_p = 0.999},
    {.temperature = 1, .top_p = 1, .top_k = 1},
    {.temperature = 1, .top_p = 1, .top_k = 40},
    {.temperature = 1, .top_p = 1, .top_k = 256},
    {.temperature = 2, .top_p = 1, .top_k = 257},
    {.temperature = 2, .top_p = 0.8, .top_k = 600},
    {.temperature = 0.9, .top_p = 0.5, .top_k = 50},
    {.temperature = 1, .top_p = 1, .min_p = 0.05},
    {.temperature = 4, .top_p = 1, .min_p = 0.001},
    {.temperature = 1, .top_p = 0.9, .min_p = 0.02, .top_k = 20},
    {.temperature = 5, .top_p = 0.9, .min_p = 1e-4},
    {.temperature = 1, .top_p = 1, .min_p = 1},
    {.temperature = 1, .top_p = 1e-9},
    {.temperature = 2, .top_p = 0.7, .top_k = 100000000},
};

static void check_row(const struct row *r, int64_t *n_edge)
{
    for (size_t c = 0; c < sizeof settings / sizeof *settings; c++) {
        for (int t = 0; t < 6 / whole_or(2); t++) {
            double u = uniform(), edge;
            int32_t want = naive_draw(&settings[c], r, u, &edge);
            int32_t got = lb_sample_draw(&settings[c], &r->cand, r->n, u, NULL);
            assert_int_equal(got, lb_sample_draw_whole(&settings[c], &r->cand, r->n, u));
            /* Where a bound is met to the last bits (min_p = 1, ties), rounding decides for the naive sums. */
            if (edge < 1e-9)
                ++*n_edge;
            else if (got != want)
                fail_msg("settings %zu, %lld ids, u %.17g: %d instead of %d", c, (long long)r->n, u, got, want);
        }
    }
}

static void test_filters(void **state)
{
    (void)state;
    static const int64_t sizes[] = {1, 2, 5, 255, 256, 257, 515, 1001, 5000};
    static const double spreads[] = {0.1, 3, 12};
    int64_t n_edge = 0, n = 0;
    random_state = 42;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t k = 0; k < sizeof spreads / sizeof *spreads; k++) {
            for (int ties = 0; ties < 2; ties++) {
                struct row r;
                row_init(&r, sizes[i], spreads[k], ties);
                check_row(&r, &n_edge);
                n += (int64_t)(6 * sizeof settings / sizeof *settings);
                row_release(&r);
            }
        }
    }
    assert_true(n_edge < n / 2);
}

/* Draws with evenly spread u take each id as often as its probability says. */
static void test_distribution(void **state)
{
    (void)state;
    enum { N = 6, DRAWS = 60000 };
    float logits[N] = {0.5f, -1, 2, 2, -0.25f, 1};
    struct row r;
    row_init(&r, N, 1, false);
    memcpy(r.logits, logits, sizeof logits);
    sort_logits = r.logits;
    qsort(r.order, N, sizeof *r.order, by_order);
    for (int i = 0; i < N; i++) {
        r.top_id[i] = r.order[i];
        r.top_logit[i] = r.logits[r.order[i]];
    }
    r.cand.best = 2;
    r.cand.best_logit = 2;
    const struct lb_sampling s = {.temperature = 0.5, .top_p = 1};
    int count[N] = {0};
    for (int i = 0; i < DRAWS; i++)
        count[lb_sample_draw(&s, &r.cand, N, (i + 0.5) / DRAWS, NULL)]++;
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += exp((double)logits[i] * 2);
    for (int i = 0; i < N; i++)
        assert_true(fabs((double)count[i] - DRAWS * exp((double)logits[i] * 2) / sum) <= 1);
    row_release(&r);
}

/* Ties at a boundary: the lower id stays. */
static void test_ties(void **state)
{
    (void)state;
    struct row r;
    row_init(&r, 1000, 1, false);
    for (int i = 0; i < 1000; i++)
        r.logits[i] = i == 700 ? 1.0f : 0.0f;
    r.order[0] = 700;
    for (int i = 1; i < 1000; i++)
        r.order[i] = i <= 700 ? i - 1 : i;
    for (int i = 0; i < LK_TOP; i++) {
        r.top_id[i] = r.order[i];
        r.top_logit[i] = r.logits[r.order[i]];
    }
    r.cand.best = 700;
    r.cand.best_logit = 1;
    const struct lb_sampling narrow = {.temperature = 1, .top_p = 1, .top_k = 3};
    const struct lb_sampling wide = {.temperature = 1, .top_p = 1, .top_k = 500};
    for (int i = 0; i < 2000; i++) {
        double u = (i + 0.5) / 2000;
        int32_t id = lb_sample_draw(&narrow, &r.cand, 1000, u, NULL);
        assert_true(id == 0 || id == 1 || id == 700);
        id = lb_sample_draw(&wide, &r.cand, 1000, u, NULL);
        assert_true(id <= 498 || id == 700);
    }
    assert_int_equal(lb_sample_draw(&wide, &r.cand, 1000, 0.999, NULL), 700);
    r.logits[3] = -0.0f; /* equals 0: order by id is kept */
    assert_int_equal(lb_sample_draw(&wide, &r.cand, 1000, 0.007, NULL), 3);
    row_release(&r);
}

/* As a run tells of an id. */
static void tell(const struct row *r, int32_t id, size_t n_top, struct lb_logprob_top *top, struct lb_logprob *out)
{
    *out = (struct lb_logprob){.id = id, .rank = lb_sample_rank(&r->cand, r->n, r->logits[id])};
    lb_sample_fill(&r->cand, r->logits[id], n_top, top, out);
}

static void test_logprobs(void **state)
{
    (void)state;
    static const int64_t sizes[] = {3, 256, 2000};
    random_state = 5;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct row r;
        row_init(&r, sizes[i], 4, i == 2);
        for (int64_t id = 0; id < r.n; id += 1 + r.n / 100) {
            struct lb_logprob out;
            struct lb_logprob_top top[20];
            tell(&r, (int32_t)id, 20, top, &out);
            int64_t rank = 0;
            for (int64_t k = 0; k < r.n; k++)
                rank += r.logits[k] >= r.logits[id];
            assert_int_equal(out.rank, rank);
            assert_int_equal(out.id, id);
            assert_true(out.logprob == (float)((double)r.logits[id] - r.cand.lse));
            assert_int_equal(out.n_top, r.n < 20 ? r.n : 20);
            for (size_t k = 0; k < out.n_top; k++) {
                assert_int_equal(out.top[k].id, r.order[k]);
                assert_true(out.top[k].logprob == (float)((double)r.logits[r.order[k]] - r.cand.lse));
            }
            tell(&r, (int32_t)id, 0, NULL, &out);
            assert_int_equal(out.n_top, 0);
        }
        row_release(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),       cmocka_unit_test(test_exp),  cmocka_unit_test(test_filters),
        cmocka_unit_test(test_distribution), cmocka_unit_test(test_ties), cmocka_unit_test(test_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
