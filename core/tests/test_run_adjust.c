#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/run/adjust.h"
#include "core/run/sample.h"
#include "core/tests/randomrow.h"
#include "core/tests/whole.h"

/* Against a second implementation that has no table and no candidates: it goes over the whole vocabulary, counts in the
 * lists of ids, and sorts. */

enum { MOST_VOCAB = 3000, MOST_PROMPT = 400, MOST_NEW = 60, MOST_STOP = 40 };

struct trial {
    int64_t n_vocab, n_prompt, n_new;
    int32_t prompt[MOST_PROMPT], new_id[MOST_NEW], stop[MOST_STOP];
    struct lb_bias bias[MOST_STOP];
    struct lb_settings set;
    struct lb_config config;
    float logits[MOST_VOCAB], want[MOST_VOCAB];
    int32_t order[MOST_VOCAB], top_id[LK_TOP];
    float top_logit[LK_TOP];
    struct lb_cand cand;
    bool in_prompt[MOST_VOCAB];
};

static void sort_into(struct trial *t, const float *logits)
{
    for (int64_t i = 0; i < t->n_vocab; i++)
        t->order[i] = (int32_t)i;
    sort_logits = logits;
    qsort(t->order, (size_t)t->n_vocab, sizeof *t->order, by_order);
}

static void next_logits(struct trial *t, double spread, bool ties)
{
    for (int64_t i = 0; i < t->n_vocab; i++) {
        double x = spread * (uniform() + uniform() + uniform() - 1.5);
        t->logits[i] = (float)(ties ? round(x * 2) / 2 : x);
    }
    sort_into(t, t->logits);
    for (int64_t i = 0; i < LK_TOP; i++) {
        t->top_id[i] = i < t->n_vocab ? t->order[i] : -1;
        t->top_logit[i] = i < t->n_vocab ? t->logits[t->order[i]] : 0;
    }
    t->cand = (struct lb_cand){.best = t->order[0],
                               .best_logit = t->logits[t->order[0]],
                               .finite = true,
                               .logits = t->logits,
                               .top_id = t->top_id,
                               .top_logit = t->top_logit};
}

static bool is_end(const struct trial *t, int32_t id)
{
    for (int i = 0; i < t->config.n_eos; i++)
        if (t->config.eos[i].id == id)
            return true;
    for (size_t i = 0; i < t->set.n_stop_ids; i++)
        if (t->stop[i] == id)
            return true;
    return false;
}

static int64_t times(const int32_t *list, int64_t n, int32_t id)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += list[i] == id;
    return count;
}

/* t->want: what models.md 6.2 makes of t->logits. */
static void process(struct trial *t)
{
    const struct lb_penalty *p = &t->set.penalty;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        float x = t->logits[id];
        int64_t count = times(t->new_id, t->n_new, id);
        if (t->n_new < t->set.min_tokens && is_end(t, id)) {
            t->want[id] = -INFINITY;
            continue;
        }
        for (size_t i = 0; i < p->n_bias; i++)
            if (t->bias[i].id == id)
                x = x + t->bias[i].value;
        if (count > 0 || t->in_prompt[id])
            x = x < 0 ? x * p->repetition : x / p->repetition;
        x = x - p->frequency * (float)count;
        if (count > 0)
            x = x - p->presence;
        t->want[id] = x;
    }
    sort_into(t, t->want);
}

static void random_settings(struct trial *t)
{
    static const float repetition[] = {1, 1, 1.3f, 0.7f, 1.05f, 5}, additive[] = {0, 0, 0.5f, 2, -2, 1.1f};
    static const int64_t top_k[] = {0, 0, 1, 40, 300};
    static const double top_p[] = {1, 1, 0.9, 0.3}, min_p[] = {0, 0, 0.05};
    t->set = (struct lb_settings){.sampling = {.greedy = below(2),
                                               .temperature = 0.2 + 2 * uniform(),
                                               .top_p = top_p[below(4)],
                                               .min_p = min_p[below(3)]},
                                  .penalty = {.repetition = repetition[below(6)],
                                              .presence = additive[below(6)],
                                              .frequency = additive[below(6)]},
                                  .max_tokens = MOST_NEW,
                                  .min_tokens = below(2) * below(MOST_NEW)};
    t->set.sampling.top_k = top_k[below(5)];
    t->set.penalty.bias = t->bias;
    t->set.penalty.n_bias = (size_t)(below(2) * below(t->n_vocab < MOST_STOP ? t->n_vocab : MOST_STOP));
    int64_t stride = t->n_vocab / (int64_t)(t->set.penalty.n_bias + 1), at = below(stride);
    for (size_t i = 0; i < t->set.penalty.n_bias; i++) {
        t->bias[i] = (struct lb_bias){(int32_t)at, (float)(uniform() < 0.3 ? -100 : 8 * uniform() - 4)};
        at += stride;
    }
    t->set.stop_ids = t->stop;
    t->set.n_stop_ids = (size_t)(below(2) * below(t->n_vocab - 3 < MOST_STOP ? t->n_vocab - 3 : MOST_STOP));
    for (size_t i = 0; i < t->set.n_stop_ids; i++)
        t->stop[i] = i == 7 ? INT32_MAX : (int32_t)below(t->n_vocab);
    t->config = (struct lb_config){.n_vocab = t->n_vocab, .n_eos = (int)below(3)};
    for (int i = 0; i < t->config.n_eos; i++)
        t->config.eos[i].id = (int32_t)below(t->n_vocab);
}

/* How near a draw came to another id is not known here: the plain sampler, tested by itself, reads the whole row. */
static int32_t naive_draw(struct trial *t, double u)
{
    if (t->set.sampling.greedy)
        return t->order[0];
    struct lb_cand c = {.best = t->order[0], .best_logit = t->want[t->order[0]], .logits = t->want};
    return lb_sample_draw_whole(&t->set.sampling, &c, t->n_vocab, u);
}

static void run_trial(struct trial *t, double spread, bool ties, int64_t *n_other)
{
    random_settings(t);
    memset(t->in_prompt, 0, sizeof t->in_prompt);
    for (int64_t i = 0; i < t->n_prompt; i++) {
        t->prompt[i] = (int32_t)below(t->n_vocab);
        t->in_prompt[t->prompt[i]] = true;
    }
    t->n_new = 0;
    if (!lb_adjust_wanted(&t->set))
        return;
    struct lb_adjust *a = lb_adjust_new(&t->set, t->prompt, t->n_prompt, &t->config);
    assert_non_null(a);
    for (; t->n_new < MOST_NEW; t->n_new++) {
        next_logits(t, spread, ties);
        process(t);
        float before[MOST_VOCAB];
        memcpy(before, t->logits, sizeof before);
        double u = uniform();
        int32_t want = naive_draw(t, u), got = lb_adjust_draw(a, &t->set, &t->cand, u, NULL);
        if (got != want)
            fail_msg("%lld ids, %lld new: %d instead of %d", (long long)t->n_vocab, (long long)t->n_new, got, want);
        assert_true(t->want[got] > -INFINITY);
        assert_memory_equal(before, t->logits, (size_t)t->n_vocab * sizeof *before);
        *n_other += got != t->cand.best;
        lb_adjust_count(a, got);
        t->new_id[t->n_new] = got;
    }
    lb_adjust_free(a);
}

static void test_random(void **state)
{
    (void)state;
    static const int64_t sizes[] = {5, 40, 256, 257, 700, MOST_VOCAB};
    static struct trial t;
    int64_t n_other = 0;
    random_state = 7;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        /* a large vocabulary costs most in the other implementation, which a sanitizer watches too */
        const bool few = is_sanitized() && !is_whole() && sizes[i] >= 700;
        for (int k = 0; k < (few ? 3 : 24 / whole_or(2)); k++) {
            t.n_vocab = sizes[i];
            t.n_prompt = 1 + below(k % 2 ? MOST_PROMPT : 8);
            run_trial(&t, k % 3 ? 12 : 2, k % 4 == 0, &n_other);
        }
    }
    assert_true(n_other > 1000);
}

/* A sequence that says the same again and again, by hand. */
static void test_by_hand(void **state)
{
    (void)state;
    static struct trial t;
    t.n_vocab = 6;
    t.n_prompt = 2;
    t.prompt[0] = 4;
    t.prompt[1] = 5;
    static const float logits[] = {1, 3, 2.5f, -1, 2.9f, -8};
    t.config = (struct lb_config){.n_vocab = 6, .n_eos = 1, .eos = {{.id = 1}}};
    const struct lb_bias bias[] = {{0, 1.75f}};
    t.set = (struct lb_settings){
        .sampling = {.greedy = true},
        .penalty = {.repetition = 2, .presence = 0.25f, .frequency = 0.5f, .bias = bias, .n_bias = 1},
        .max_tokens = 8,
        .min_tokens = 3};
    struct lb_adjust *a = lb_adjust_new(&t.set, t.prompt, t.n_prompt, &t.config);
    /* 0: 2.75 with its bias; 1 may not end yet; 2: 2.5; 4 was halved. Then 0 is 1.375 - 0.75 = 0.625, and 2, once said,
     * 1.25 - 0.75 = 0.5, so that 4 at 1.45 comes; it sinks to 0.7, and 1 may end at 3. */
    static const int32_t want[] = {0, 2, 4, 1};
    for (int i = 0; i < 4; i++) {
        next_logits(&t, 1, false);
        memcpy(t.logits, logits, sizeof logits);
        sort_into(&t, t.logits);
        for (int k = 0; k < 6; k++) {
            t.top_id[k] = t.order[k];
            t.top_logit[k] = t.logits[t.order[k]];
        }
        assert_int_equal(lb_adjust_draw(a, &t.set, &t.cand, 0, NULL), want[i]);
        lb_adjust_count(a, want[i]);
    }
    lb_adjust_free(a);
}

/* Numbers at the end of float32 stay numbers; equal ones are a tie; masked ids are never drawn, none is left at the
 * end. */
static void test_far(void **state)
{
    (void)state;
    static struct trial t;
    t.n_vocab = 300;
    t.n_prompt = 1;
    t.prompt[0] = 0;
    t.config = (struct lb_config){.n_vocab = t.n_vocab};
    t.set = (struct lb_settings){
        .sampling = {.temperature = 1, .top_p = 1}, .penalty = {.repetition = FLT_MIN}, .max_tokens = 4};
    random_state = 3;
    next_logits(&t, 1, false);
    for (int i = 0; i < 40; i++)
        t.prompt[i] = i;
    t.n_prompt = 40;
    t.logits[7] = t.logits[9] = 1e38f;
    t.logits[8] = -1e38f;
    sort_into(&t, t.logits);
    for (int i = 0; i < LK_TOP; i++) {
        t.top_id[i] = t.order[i];
        t.top_logit[i] = t.logits[t.order[i]];
    }
    struct lb_adjust *a = lb_adjust_new(&t.set, t.prompt, t.n_prompt, &t.config);
    bool seen[300] = {false};
    for (int i = 0; i < 2000; i++)
        seen[lb_adjust_draw(a, &t.set, &t.cand, (i + 0.5) / 2000, NULL)] = true;
    assert_true(seen[7] && seen[9]);
    assert_false(seen[8] || seen[200]);
    lb_adjust_free(a);

    t.set = (struct lb_settings){
        .sampling = {.temperature = 1, .top_p = 1}, .penalty = {.repetition = 1}, .max_tokens = 4, .min_tokens = 1};
    int32_t stop[300];
    for (int i = 0; i < 300; i++)
        stop[i] = i;
    t.set.stop_ids = stop;
    t.set.n_stop_ids = 299;
    a = lb_adjust_new(&t.set, t.prompt, t.n_prompt, &t.config);
    assert_int_equal(lb_adjust_draw(a, &t.set, &t.cand, 0.5, NULL), 299);
    lb_adjust_free(a);
    t.set.n_stop_ids = 300;
    for (int greedy = 0; greedy < 2; greedy++) {
        t.set.sampling.greedy = greedy;
        a = lb_adjust_new(&t.set, t.prompt, t.n_prompt, &t.config);
        assert_int_equal(lb_adjust_draw(a, &t.set, &t.cand, 0.5, NULL), -1);
        lb_adjust_free(a);
    }
}

static void test_wanted(void **state)
{
    (void)state;
    const struct lb_bias bias = {1, 0};
    struct lb_settings s = {.penalty = {.repetition = 1}};
    assert_false(lb_adjust_wanted(&s));
    s.min_tokens = 1;
    assert_true(lb_adjust_wanted(&s));
    s = (struct lb_settings){.penalty = {.repetition = 1, .bias = &bias, .n_bias = 1}};
    assert_true(lb_adjust_wanted(&s));
    s = (struct lb_settings){.penalty = {.repetition = 1.01f}};
    assert_true(lb_adjust_wanted(&s));
    s = (struct lb_settings){.penalty = {.repetition = 1, .presence = -0.1f}};
    assert_true(lb_adjust_wanted(&s));
    s = (struct lb_settings){.penalty = {.repetition = 1, .frequency = 0.1f}};
    assert_true(lb_adjust_wanted(&s));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_far),
        cmocka_unit_test(test_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
