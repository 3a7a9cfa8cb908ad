/* Draws from rows whose logits lie in parts against draws from the same rows as a whole: ids, ranks and the logits of
 * chosen ids, for every kind of filter and penalty, however the vocabulary is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/run/adjust.h"
#include "core/run/sample.h"
#include "core/tests/randomrow.h"
#include "core/tests/whole.h"

enum { MOST_VOCAB = 5000, MOST_PART = 16, MOST_ROUND = 8 };

struct row {
    int64_t n;
    float logits[MOST_VOCAB], split[MOST_VOCAB], gathered[2 * MOST_VOCAB];
    int32_t order[MOST_VOCAB], top_id[LK_TOP];
    float top_logit[LK_TOP];
    int n_part;
    int64_t begin[MOST_PART + 1];
    struct lb_cand whole, parts;
    int64_t n_asked[LB_ASK_ROW + 1];
};

static void row_make(struct row *r, int64_t n, double spread, bool ties)
{
    r->n = n;
    for (int64_t i = 0; i < n; i++) {
        double x = spread * (uniform() + uniform() + uniform() - 1.5);
        r->logits[i] = (float)(ties ? round(x * 2) / 2 : x);
        r->order[i] = (int32_t)i;
    }
    memcpy(r->split, r->logits, sizeof r->split);
    sort_logits = r->logits;
    qsort(r->order, (size_t)n, sizeof *r->order, by_order);
    for (int64_t i = 0; i < LK_TOP; i++) {
        r->top_id[i] = i < n ? r->order[i] : -1;
        r->top_logit[i] = i < n ? r->logits[r->order[i]] : -INFINITY;
    }
    r->whole = (struct lb_cand){.best = r->order[0],
                                .best_logit = r->logits[r->order[0]],
                                .finite = true,
                                .logits = r->logits,
                                .top_id = r->top_id,
                                .top_logit = r->top_logit};
    r->parts = r->whole;
    r->parts.logits = NULL;
}

/* As ranks of a group hold it: units of 32 ids, some parts empty where ids are few. */
static void row_cut(struct row *r, int n_part)
{
    int64_t units = (r->n + 31) / 32;
    r->n_part = n_part;
    for (int p = 0; p <= n_part; p++) {
        int64_t at = 32 * (p * units / n_part);
        r->begin[p] = at < r->n ? at : r->n;
    }
}

/* Answers what is asked, as ranks do, each from its own part. */
static void answer(struct row *r, struct lb_asked *q)
{
    static uint64_t room[MOST_PART][MOST_VOCAB];
    const uint8_t *out[MOST_PART];
    r->n_asked[q->next.q.kind]++;
    for (int p = 0; p < r->n_part; p++) {
        const struct lb_logit_part part = {r->split + r->begin[p], r->begin[p], r->begin[p + 1] - r->begin[p]};
        size_t bytes = lb_ask_bytes(&q->next, p, part.begin, part.n);
        assert_true(bytes % 8 == 0 && bytes < sizeof room[p]);
        memset(room[p], 0xa5, bytes + 8);
        lb_ask_answer(&q->next, p, &part, room[p]);
        assert_true(room[p][bytes / 8] == 0xa5a5a5a5a5a5a5a5);
        out[p] = (const uint8_t *)room[p];
    }
    assert_memory_equal(r->split, r->logits, (size_t)r->n * sizeof(float)); /* all logits are back */
    if (q->next.q.kind == LB_ASK_ROW)
        q->row = r->gathered;
    if (q->next.q.kind == LB_ASK_LIST) { /* as asker.c gives room */
        assert_true(r->n_part == 1 || r->begin[1] + 2 * q->n_list <= r->n);
        q->list_id = (int32_t *)(void *)(r->gathered + r->begin[1]);
        q->list_logit = r->gathered + r->begin[1] + q->n_list;
    }
    lb_asked_take(q, r->begin, r->n_part, out);
}

/* The row's id, as stages.c finds it. */
static int32_t draw_parts(struct row *r, struct lb_adjust *a, const struct lb_settings *set, double u,
                          struct lb_asked *q)
{
    int32_t id = LB_SAMPLE_ASKS;
    *q = (struct lb_asked){.u = u};
    for (int i = 0; id == LB_SAMPLE_ASKS; i++) {
        struct lb_cand c = r->parts;
        if (q->row)
            c.logits = q->row;
        id = a ? lb_adjust_draw(a, set, &c, u, q) : lb_sample_draw(&set->sampling, &c, r->n, u, q);
        if (id != LB_SAMPLE_ASKS)
            break;
        assert_true(i < MOST_ROUND && q->next.q.kind != LB_ASK_NOTHING);
        answer(r, q);
        assert_int_equal(q->next.q.kind, LB_ASK_NOTHING);
    }
    return id;
}

static void same(const struct row *r, const struct lb_settings *s, double u, int32_t got, int32_t want)
{
    const struct lb_sampling *f = &s->sampling;
    if (got != want)
        fail_msg("%lld ids in %d parts, t %g, k %lld, p %g, min %g, u %.9g: %d instead of %d", (long long)r->n,
                 r->n_part, f->temperature, (long long)f->top_k, f->top_p, f->min_p, u, got, want);
}

/* An id that is no candidate: what finding it told, and its rank. */
static void check_beyond(struct row *r, int32_t id, struct lb_asked *q)
{
    float x = r->logits[id];
    int64_t rank = lb_sample_rank(&r->parts, r->n, x), want = lb_sample_rank(&r->whole, r->n, x);
    if (q->has_found)
        assert_true(q->id == id && q->logit == x);
    if (rank < 0) {
        lb_asked_count(q, x);
        answer(r, q);
        rank = q->count;
    }
    assert_int_equal(rank, want);
}

static const int64_t sizes[] = {1, 2, 31, 40, 255, 256, 257, 300, 515, 1001, MOST_VOCAB};
static const int parts[] = {1, 2, 3, 4, 8, 16};

static void test_filters(void **state)
{
    (void)state;
    static const double temperature[] = {0.3, 1, 2, 50}, top_p[] = {1, 1, 0.9, 0.999, 0.3},
                        min_p[] = {0, 0, 0.05, 1e-6};
    static const int64_t top_k[] = {0, 0, 1, 40, 256, 257, 600, 100000};
    static struct row r;
    random_state = 21;
    memset(&r, 0, sizeof r);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int k = 0; k < 300; k++) {
            if (k % 20 == 0)
                row_make(&r, sizes[i], (double[]){0.1, 3, 12}[below(3)], below(2));
            row_cut(&r, parts[below(6)]);
            struct lb_asked q;
            struct lb_settings set = {
                .sampling = {false, temperature[below(4)], top_p[below(5)], min_p[below(4)], top_k[below(8)]}};
            double u = k % 50 == 0 ? 0.5 / 4294967296.0 : k % 50 == 1 ? 1 - 0.5 / 4294967296.0 : uniform();
            int32_t want = lb_sample_draw_whole(&set.sampling, &r.whole, r.n, u);
            int32_t got = draw_parts(&r, NULL, &set, u, &q);
            same(&r, &set, u, got, want);
            same(&r, &set, u, lb_sample_draw(&set.sampling, &r.whole, r.n, u, NULL), want);
            check_beyond(&r, got, &q);
        }
    }
    for (int kind = LB_ASK_MASS; kind <= LB_ASK_ROW; kind++)
        assert_true(r.n_asked[kind] > 50);
}

/* Penalties of a sequence that goes on, on a row of its own each time. */
static void go_on(struct row *r, const struct lb_settings *set, const int32_t *prompt, int64_t n_prompt)
{
    struct lb_config config = {.n_vocab = r->n, .n_eos = 1, .eos = {{.id = (int32_t)below(r->n)}}};
    struct lb_adjust *one = lb_adjust_new(set, prompt, n_prompt, &config);
    struct lb_adjust *two = lb_adjust_new(set, prompt, n_prompt, &config);
    assert_true(one && two);
    double spread = (double[]){2, 12}[below(2)];
    const int n_new = is_sanitized() ? 12 / whole_or(2) : 12;
    for (int i = 0; i < n_new; i++) {
        struct lb_asked q;
        row_make(r, r->n, spread, below(3) == 0);
        double u = uniform();
        int32_t want = lb_adjust_draw(one, set, &r->whole, u, NULL), got = draw_parts(r, two, set, u, &q);
        same(r, set, u, got, want);
        if (want < 0)
            break;
        float x = NAN;
        if (lb_adjust_raw(two, got, &x))
            assert_true(x == r->logits[got]);
        check_beyond(r, got, &(struct lb_asked){0});
        lb_adjust_count(one, got);
        lb_adjust_count(two, got);
    }
    lb_adjust_free(one);
    lb_adjust_free(two);
}

static void test_penalties(void **state)
{
    (void)state;
    static const double temperature[] = {0.5, 1, 30}, top_p[] = {1, 1, 0.9, 0.5}, min_p[] = {0, 0, 0.01};
    static const int64_t top_k[] = {0, 0, 20, 300};
    static struct row r;
    int32_t prompt[600], stop[8];
    struct lb_bias bias[8];
    random_state = 4;
    memset(&r, 0, sizeof r);
    for (int k = 0; k < 500; k++) {
        r.n = sizes[below(sizeof sizes / sizeof *sizes)];
        row_cut(&r, parts[below(6)]);
        int64_t n_prompt = 1 + below(k % 3 ? 600 : 20), stride = r.n / 8;
        for (int64_t i = 0; i < n_prompt; i++)
            prompt[i] = (int32_t)below(r.n);
        struct lb_settings set = {
            .sampling = {below(4) == 0, temperature[below(3)], top_p[below(4)], min_p[below(3)], top_k[below(4)]},
            .penalty = {.repetition = (float[]){1, 1.2f, 0.8f, 4}[below(4)],
                        .presence = (float[]){0, 1, -1}[below(3)],
                        .frequency = (float[]){0, 0.5f}[below(2)],
                        .bias = bias},
            .max_tokens = 12,
            .min_tokens = 1 + below(6),
            .stop_ids = stop,
            .n_stop_ids = (size_t)below(8)};
        for (int i = 0; stride > 0 && i < 8; i++, set.penalty.n_bias = (size_t)i)
            bias[i] = (struct lb_bias){(int32_t)(i * stride + below(stride)),
                                       (float)(uniform() < 0.2 ? -100 : 6 * uniform())};
        for (size_t i = 0; i < set.n_stop_ids; i++)
            stop[i] = (int32_t)below(r.n);
        go_on(&r, &set, prompt, n_prompt);
    }
    for (int kind = LB_ASK_VALUES; kind <= LB_ASK_ROW; kind++)
        assert_true(r.n_asked[kind] > 50);
}

/* Every candidate is changed: the largest of all lies in the row alone. */
static void test_all_changed(void **state)
{
    (void)state;
    static struct row r;
    random_state = 8;
    for (int greedy = 0; greedy < 2; greedy++) {
        row_make(&r, 2000, 6, false);
        row_cut(&r, 4);
        struct lb_settings set = {.sampling = {greedy, 1, 1, 0, 0}, .penalty = {.repetition = 3}, .max_tokens = 4};
        struct lb_config config = {.n_vocab = r.n};
        struct lb_adjust *a = lb_adjust_new(&set, r.order, 400, &config);
        struct lb_asked q;
        assert_non_null(a);
        for (int i = 0; i < 20; i++) {
            double u = uniform();
            same(&r, &set, u, draw_parts(&r, a, &set, u, &q), lb_adjust_draw(a, &set, &r.whole, u, NULL));
            assert_non_null(q.row);
        }
        lb_adjust_free(a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_all_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
