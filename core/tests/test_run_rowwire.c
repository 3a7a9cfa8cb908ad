#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/run/rowwire.h"
#include "core/tests/whole.h"

#define TICKET 0xF123456789ABCDEFu

static const char *const stops[] = {"\n\n", "Zoë", "."};
static const int32_t stop_ids[] = {0, 32000, 7};
static const struct lb_bias bias[] = {{5, -100}, {2147483647, 0.1f}};

/* Every setting has a value of its own. */
static struct lb_settings full_settings(void)
{
    return (struct lb_settings){
        .sampling = {.greedy = false, .temperature = 0.7, .top_p = 0.9, .min_p = 0.05, .top_k = 41},
        .penalty = {1.1f, -0.3f, 0.7f, bias, 2},
        .max_tokens = 6,
        .min_tokens = 2,
        .max_given = true,
        .seed = 0xFFFFFFFFFFFFFFFEu,
        .ignore_eos = true,
        .skip_special = false,
        .include_stop = false,
        .logprobs = 3,
        .prompt_logprobs = 2,
        .prompt_from = 3,
        .n = 2,
        .stop = (char *const *)stops,
        .n_stop = 3,
        .stop_ids = stop_ids,
        .n_stop_ids = 3};
}

static void give_prompt(struct lb_work *w, int64_t n)
{
    w->n_prompt = n;
    w->n_shared = n - 1;
    w->prompt = lb_mem_new((size_t)n, sizeof *w->prompt);
    for (int64_t i = 0; i < n; i++)
        w->prompt[i] = (int32_t)(1000 * n + i);
}

static void make_room(struct lb_work *w)
{
    size_t n = (size_t)w->set.max_tokens;
    w->out = lb_mem_new(n, sizeof *w->out);
    if (w->set.logprobs >= 0)
        w->logprob = lb_mem_new(n, sizeof *w->logprob);
    if (w->set.logprobs > 0)
        w->top = lb_mem_new(n * (size_t)w->set.logprobs, sizeof *w->top);
    if (!lb_work_scores(w))
        return;
    w->scored = lb_mem_new((size_t)lb_work_n_scored(w), sizeof *w->scored);
    w->scored_top = lb_mem_new((size_t)(lb_work_n_scored(w) * w->set.prompt_logprobs), sizeof *w->scored_top);
}

/* Two prompts with two samples each: the second and fourth sequence lend theirs. */
static struct lb_work *several(void)
{
    struct lb_work *w = lb_work_new();
    w->row.index = (int64_t)1 << 40;
    w->row.key = 0x8000000000000001u;
    w->set = full_settings();
    w->part = lb_mem_new(4, sizeof(struct lb_work *));
    w->part[0] = w;
    give_prompt(w, 5);
    for (int32_t i = 1; i < 4; i++) {
        struct lb_work *p = lb_work_new();
        p->lead = w;
        p->set = w->set;
        p->set.max_tokens = 6 - i / 2;
        p->sample = (uint32_t)i;
        w->part[i] = p;
        if (i == 2) {
            give_prompt(p, 9);
            continue;
        }
        p->prompt_lent = true;
        p->prompt = w->part[i - 1]->prompt;
        p->n_prompt = w->part[i - 1]->n_prompt;
    }
    w->n_part = w->n_left = 4;
    return w;
}

static struct lb_work *plain(void)
{
    struct lb_work *w = lb_work_new();
    w->row.index = 3;
    w->row.key = 17;
    w->set = (struct lb_settings){.sampling = {.greedy = true, .temperature = 1, .top_p = 1},
                                  .penalty = {.repetition = 1},
                                  .max_given = true,
                                  .include_stop = true,
                                  .adapter = 3,
                                  .max_tokens = 4,
                                  .logprobs = -1,
                                  .prompt_logprobs = -1,
                                  .n = 1};
    give_prompt(w, 1);
    return w;
}

static void assert_same_settings(const struct lb_settings *a, const struct lb_settings *b)
{
    assert_int_equal(a->sampling.greedy, b->sampling.greedy);
    assert_memory_equal(&a->sampling.temperature, &b->sampling.temperature, sizeof(double));
    assert_memory_equal(&a->sampling.top_p, &b->sampling.top_p, sizeof(double));
    assert_memory_equal(&a->sampling.min_p, &b->sampling.min_p, sizeof(double));
    assert_int_equal(a->sampling.top_k, b->sampling.top_k);
    assert_memory_equal(&a->penalty.repetition, &b->penalty.repetition, 3 * sizeof(float));
    assert_int_equal(a->penalty.n_bias, b->penalty.n_bias);
    for (size_t i = 0; i < a->penalty.n_bias; i++)
        assert_memory_equal(&a->penalty.bias[i], &b->penalty.bias[i], sizeof *bias);
    assert_int_equal(a->max_tokens, b->max_tokens);
    assert_int_equal(a->min_tokens, b->min_tokens);
    assert_int_equal(a->max_given, b->max_given);
    assert_true(a->seed == b->seed);
    assert_int_equal(a->ignore_eos, b->ignore_eos);
    assert_int_equal(a->skip_special, b->skip_special);
    assert_int_equal(a->include_stop, b->include_stop);
    assert_int_equal(a->adapter, b->adapter);
    assert_int_equal(a->logprobs, b->logprobs);
    assert_int_equal(a->prompt_logprobs, b->prompt_logprobs);
    assert_int_equal(a->prompt_from, b->prompt_from);
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->n_stop, b->n_stop);
    for (size_t i = 0; i < a->n_stop; i++)
        assert_string_equal(a->stop[i], b->stop[i]);
    assert_int_equal(a->n_stop_ids, b->n_stop_ids);
    for (size_t i = 0; i < a->n_stop_ids; i++)
        assert_int_equal(a->stop_ids[i], b->stop_ids[i]);
}

static void assert_same_rows(struct lb_work *a, struct lb_work *b)
{
    assert_true(a->row.index == b->row.index && a->row.key == b->row.key);
    assert_int_equal(a->n_part, b->n_part);
    assert_int_equal(b->n_left, b->n_part);
    for (int32_t i = 0; i < a->n_part; i++) {
        struct lb_work *x = lb_work_part(a, i), *y = lb_work_part(b, i);
        assert_ptr_equal(y->lead, b);
        assert_same_settings(&x->set, &y->set);
        assert_int_equal(x->sample, y->sample);
        assert_int_equal(x->prompt_lent, y->prompt_lent);
        assert_int_equal(x->n_prompt, y->n_prompt);
        assert_int_equal(x->n_shared, y->n_shared);
        assert_memory_equal(x->prompt, y->prompt, (size_t)x->n_prompt * sizeof *x->prompt);
        if (y->prompt_lent)
            assert_ptr_equal(y->prompt, b->part[i - 1]->prompt);
    }
}

static struct lb_work *sent(struct lb_work *w, struct lb_str *bytes)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_work *got;
    uint64_t ticket = 0;
    lb_str_clear(bytes);
    lb_rowwire_put_row(bytes, TICKET, w);
    assert_false(bytes->failed);
    assert_int_equal(lb_rowwire_take_row(bytes->data, bytes->len, &ticket, &got, &err), LB_OK);
    assert_true(ticket == TICKET);
    return got;
}

static void test_rows(void **state)
{
    (void)state;
    struct lb_str bytes = {0};
    struct lb_work *row[] = {plain(), several()};
    for (int i = 0; i < 2; i++) {
        struct lb_work *got = sent(row[i], &bytes);
        assert_same_rows(row[i], got);
        lb_work_free(row[i]); /* nothing of the copy is lent from it */
        assert_true(got->set.max_tokens > 0 && (got->set.n_stop == 0 || strcmp(got->set.stop[1], "Zoë") == 0));
        lb_work_free(got);
    }
    lb_str_release(&bytes);
}

static void pretend_logprobs(struct lb_logprob *list, int64_t n, struct lb_logprob_top *all, int64_t most)
{
    for (int64_t k = 0; k < n; k++) {
        struct lb_logprob_top *top = all + k * most;
        size_t n_top = k % 2 ? (size_t)most : 0;
        for (size_t t = 0; t < n_top; t++)
            top[t] = (struct lb_logprob_top){(int32_t)(k + 10 * (int64_t)t), -0.5f * (float)t - 0.1f};
        list[k] = (struct lb_logprob){(int32_t)(k + 70), -1.5f - (float)k, k + 1, n_top ? top : NULL, n_top};
    }
}

static void assert_same_logprobs(const struct lb_logprob *a, const struct lb_logprob *b, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        const struct lb_logprob *p = &a[k], *q = &b[k];
        assert_int_equal(p->id, q->id);
        assert_true(p->logprob == q->logprob && p->rank == q->rank && p->n_top == q->n_top);
        for (size_t t = 0; t < p->n_top; t++)
            assert_true(p->top[t].id == q->top[t].id && p->top[t].logprob == q->top[t].logprob);
    }
}

/* What a forward thread leaves in a row: sequence i gave 6 - i ids, or none. */
static void pretend_run(struct lb_work *lead, double now)
{
    for (int32_t i = 0; i < lead->n_part; i++) {
        struct lb_work *w = lb_work_part(lead, i);
        make_room(w);
        w->n_out = i == 3 ? 0 : w->set.max_tokens - i;
        for (int64_t k = 0; k < w->n_out; k++)
            w->out[k] = (int32_t)(100 * i + k);
        if (w->logprob)
            pretend_logprobs(w->logprob, w->n_out, w->top, w->set.logprobs);
        if (w->scored)
            pretend_logprobs(w->scored, lb_work_n_scored(w), w->scored_top, w->set.prompt_logprobs);
        w->fail = i == 3 ? LB_ROW_NOT_FINITE : LB_ROW_OK;
        w->finish = i == 0 ? LB_FINISH_LENGTH : LB_FINISH_STOP;
        w->ended_by_id = i == 1;
        w->stop_string = i == 2 ? w->set.stop[1] : NULL;
        w->text_bytes = (size_t)(7 * i);
        w->steps = 11 + i;
        w->time = (struct lb_times){0, now - 30 - i, now - 20, now - 10};
    }
}

static void assert_same_results(struct lb_work *a, struct lb_work *b, double a_now, double b_now)
{
    for (int32_t i = 0; i < a->n_part; i++) {
        struct lb_work *x = lb_work_part(a, i), *y = lb_work_part(b, i);
        assert_int_equal(x->fail, y->fail);
        assert_int_equal(x->finish, y->finish);
        assert_int_equal(x->ended_by_id, y->ended_by_id);
        assert_int_equal(!x->stop_string, !y->stop_string);
        if (x->stop_string)
            assert_ptr_equal(y->stop_string, b->set.stop[1]);
        assert_int_equal(x->text_bytes, y->text_bytes);
        assert_int_equal(x->steps, y->steps);
        assert_true(a_now - x->time.last == b_now - y->time.last);
        assert_true(a_now - x->time.admitted == b_now - y->time.admitted);
        assert_int_equal(x->n_out, y->n_out);
        assert_memory_equal(x->out, y->out, (size_t)x->n_out * sizeof *x->out);
        if (x->logprob)
            assert_same_logprobs(x->logprob, y->logprob, x->n_out);
        assert_int_equal(!x->scored, !y->scored);
        if (x->scored && x->fail == LB_ROW_OK)
            assert_same_logprobs(x->scored, y->scored, lb_work_n_scored(x));
    }
}

static void test_results(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_str bytes = {0};
    struct lb_work *home[] = {plain(), several()};
    for (int i = 0; i < 2; i++) {
        struct lb_work *away = sent(home[i], &bytes);
        uint64_t ticket = 0;
        pretend_run(away, 1000);
        for (int32_t k = 0; k < home[i]->n_part; k++)
            make_room(lb_work_part(home[i], k));
        lb_str_clear(&bytes);
        lb_rowwire_put_result(&bytes, TICKET, away, 1000);
        assert_int_equal(lb_rowwire_ticket(bytes.data, bytes.len, &ticket, &err), LB_OK);
        assert_true(ticket == TICKET);
        assert_int_equal(lb_rowwire_take_result(bytes.data, bytes.len, home[i], 5, 3000, &err), LB_OK);
        assert_same_results(away, home[i], 1000, 3000);
        assert_int_equal(home[i]->rank, 5);
        /* a row that was read 15 s ago was not admitted 30 s ago, whatever the clocks say */
        home[i]->time.read = 2985;
        assert_int_equal(lb_rowwire_take_result(bytes.data, bytes.len, home[i], 5, 3000, &err), LB_OK);
        assert_true(home[i]->time.admitted == 2985 && home[i]->time.last == 2990);
        lb_work_free(home[i]);
        lb_work_free(away);
    }
    lb_str_release(&bytes);
}

/* Every shorter message is refused; every changed byte gives a row or a refusal, and memory stays whole (the sanitizers
 * look). */
static void test_bytes(void **state)
{
    (void)state;
    struct lb_str row = {0}, result = {0};
    struct lb_work *home = several(), *away = sent(home, &row);
    pretend_run(away, 50);
    lb_rowwire_put_result(&result, TICKET, away, 60);
    for (int32_t k = 0; k < home->n_part; k++)
        make_room(lb_work_part(home, k));
    for (size_t n = 0; n <= row.len; n++) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_work *got = NULL;
        uint64_t ticket;
        char *copy = malloc(n + 1); /* reading far beyond it is seen */
        memcpy(copy, row.data, n);
        assert_int_equal(lb_rowwire_take_row(copy, n, &ticket, &got, &err), n < row.len ? LB_E_DEVICE : LB_OK);
        lb_work_free(got);
        free(copy);
    }
    for (size_t at = 0; at < 256 * (row.len > result.len ? row.len : result.len);
         at += (size_t)whole_or(is_sanitized() ? 5 : 1)) { /* 5: each place has others of the 256 */
        struct lb_err err = LB_ERR_INIT;
        struct lb_work *got = NULL;
        uint64_t ticket;
        struct lb_str *s[] = {&row, &result};
        for (int i = 0; i < 2; i++) {
            if (at / 256 >= s[i]->len)
                continue;
            char was = s[i]->data[at / 256];
            s[i]->data[at / 256] = (char)(at % 256);
            if (i == 0)
                lb_rowwire_take_row(row.data, row.len, &ticket, &got, &err);
            else
                lb_rowwire_take_result(result.data, result.len, home, 1, 1, &err);
            s[i]->data[at / 256] = was;
        }
        lb_work_free(got);
    }
    for (size_t n = 0; n < result.len; n++) {
        struct lb_err err = LB_ERR_INIT;
        assert_int_equal(lb_rowwire_take_result(result.data, n, home, 1, 1, &err), LB_E_DEVICE);
    }
    lb_work_free(home);
    lb_work_free(away);
    lb_str_release(&row);
    lb_str_release(&result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_results),
                                       cmocka_unit_test(test_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
