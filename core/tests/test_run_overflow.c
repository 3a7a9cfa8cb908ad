#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "core/base/mem.h"
#include "core/run/flow.h"
#include "core/run/overflow.h"
#include "core/run/settings.h"

/* Every small row, and what must hold of whatever becomes of it. */

struct shape {
    int64_t limit, n_prompt, n_begin, max_tokens, min_tokens;
    bool given;
    enum lb_overflow how;
};

static struct lb_work *new_row(const struct shape *s)
{
    struct lb_work *w = lb_work_new();
    w->prompt = lb_mem_new((size_t)s->n_prompt, sizeof *w->prompt);
    for (int64_t i = 0; i < s->n_prompt; i++)
        w->prompt[i] = (int32_t)i;
    w->n_prompt = s->n_prompt;
    w->n_begin = s->n_begin < s->n_prompt ? s->n_begin : s->n_prompt;
    w->set.max_tokens = s->max_tokens;
    w->set.min_tokens = s->min_tokens;
    w->set.max_given = s->given;
    return w;
}

static int64_t least_new(const struct shape *s)
{
    int64_t one = s->max_tokens > 0;
    return s->min_tokens > one ? s->min_tokens : one;
}

/* How many tokens stand in front and behind when so many are kept. */
static int64_t in_front(const struct shape *s, const struct lb_work *w, int64_t n_keep)
{
    int64_t n = n_keep - w->n_begin;
    return s->how == LB_OVERFLOW_CUT_LEFT ? w->n_begin : w->n_begin + n - n / 2;
}

static void check_cut(const struct shape *s, const struct lb_work *w)
{
    int64_t front = in_front(s, w, w->n_prompt);
    assert_int_equal(w->n_cut, s->n_prompt - w->n_prompt);
    assert_int_equal(w->n_prompt + w->set.max_tokens, s->limit); /* no more than needed */
    for (int64_t i = 0; i < w->n_prompt; i++)
        assert_int_equal(w->prompt[i], i < front ? i : i + w->n_cut);
    if (s->given)
        assert_int_equal(w->set.max_tokens, s->max_tokens);
    else
        assert_true(s->n_prompt + least_new(s) > s->limit && w->set.max_tokens >= least_new(s) &&
                    (w->set.max_tokens == s->limit / 2 || w->set.max_tokens == least_new(s)));
}

static void check_failed(const struct shape *s, const struct lb_work *w)
{
    bool cuts = s->how == LB_OVERFLOW_CUT_LEFT || s->how == LB_OVERFLOW_CUT_MIDDLE;
    int64_t room = s->limit - s->n_prompt;
    assert_int_equal(w->lead->row.code, LB_ROW_TOO_LONG);
    assert_true(s->max_tokens > room);
    if (cuts && s->given)
        assert_true(s->limit - s->max_tokens <= w->n_begin);
    else if (cuts)
        assert_true(room < least_new(s) &&
                    (s->limit - s->limit / 2 <= w->n_begin || s->limit - least_new(s) <= w->n_begin));
    else
        assert_true(room < least_new(s) || (s->given && s->how == LB_OVERFLOW_ERROR));
}

static void check(const struct shape *s)
{
    struct lb_work *w = new_row(s);
    int64_t room = s->limit - s->n_prompt;
    lb_overflow_fit(w, s->how, s->limit);
    if (w->row.code != LB_ROW_OK) {
        check_failed(s, w);
    } else if (w->n_prompt < s->n_prompt) {
        check_cut(s, w);
    } else {
        int64_t want = s->max_tokens < room ? s->max_tokens : room;
        assert_int_equal(w->set.max_tokens, want);
        assert_true(want >= least_new(s) || s->max_tokens <= room);
        assert_int_equal(w->n_cut, s->given ? s->max_tokens - want : 0);
        assert_true(w->n_cut == 0 || s->how == LB_OVERFLOW_SHORTEN);
    }
    lb_work_free(w);
}

static void test_all(void **state)
{
    (void)state;
    struct shape s;
    for (s.limit = 1; s.limit <= 12; s.limit++)
        for (s.n_prompt = 1; s.n_prompt <= 16; s.n_prompt++)
            for (s.n_begin = 0; s.n_begin <= 2; s.n_begin++)
                for (s.max_tokens = 0; s.max_tokens <= 14; s.max_tokens++)
                    for (int k = 0; k < 32; k++) {
                        s.min_tokens = k / 8 < s.max_tokens ? k / 8 : s.max_tokens;
                        s.given = k % 2 || s.max_tokens == 0;
                        s.how = (enum lb_overflow)(k / 2 % 4);
                        check(&s);
                    }
}

/* The position from which a prompt is scored goes with its token; one that was cut out is the first behind the cut. */
static void test_from(void **state)
{
    (void)state;
    for (int64_t from = 0; from < 24; from++) {
        for (int how = LB_OVERFLOW_CUT_LEFT; how <= LB_OVERFLOW_CUT_MIDDLE; how++) {
            struct shape s = {10, 20, 1, 3, 0, true, (enum lb_overflow)how};
            struct lb_work *w = new_row(&s);
            w->set.prompt_from = from;
            lb_overflow_fit(w, s.how, s.limit);
            assert_int_equal(w->n_prompt, 7);
            int64_t at = 0;
            while (at < w->n_prompt && w->prompt[at] < from)
                at++;
            if (from < 20)
                assert_int_equal(w->set.prompt_from, at);
            else
                assert_true(w->set.prompt_from >= w->n_prompt);
            lb_work_free(w);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all), cmocka_unit_test(test_from)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
