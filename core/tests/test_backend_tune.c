/* Which way is taken: by times that are made up, no clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend/tune.h"

static const int64_t work[4] = {576, 3072, 256, 2};

/* n calls whose false way takes 1 s and whose true way takes `other` s; says how many took the true one. */
static int calls(struct lb_tune *t, int n, double other)
{
    int n_true = 0;
    for (int i = 0; i < n; i++) {
        bool way = lb_tune_way(t);
        n_true += way;
        lb_tune_took(t, way ? other : 1);
    }
    return n_true;
}

static void test_better(void **state)
{
    (void)state;
    struct lb_tunes all = {.n = 0};
    struct lb_tune *t = lb_tune_of(&all, work);
    const int rest = LB_TUNE_CYCLE - LB_TUNE_TRIAL;
    assert_int_equal(calls(t, LB_TUNE_TRIAL, 0.9), LB_TUNE_TRIAL / 2);
    assert_int_equal(calls(t, rest, 0.9), rest);
    /* what was better may become worse: the next trial sees it */
    assert_int_equal(calls(t, LB_TUNE_TRIAL, 1.1), LB_TUNE_TRIAL / 2);
    assert_int_equal(calls(t, rest, 1.1), 0);
    /* and where both are alike nothing changes */
    assert_int_equal(calls(t, LB_TUNE_TRIAL, 0.9), LB_TUNE_TRIAL / 2);
    assert_int_equal(calls(t, rest, 1), rest);
    assert_int_equal(calls(t, LB_TUNE_CYCLE, 1), LB_TUNE_TRIAL / 2 + rest);
}

/* A trial is decided by the number of pairs: one call that takes long, for whatever reason, is one pair. */
static void test_outlier(void **state)
{
    (void)state;
    struct lb_tunes all = {.n = 0};
    struct lb_tune *t = lb_tune_of(&all, work);
    for (int i = 0; i < LB_TUNE_TRIAL; i++)
        lb_tune_took(t, i == 1 ? 1000 : lb_tune_way(t) ? 0.9 : 1);
    assert_true(lb_tune_way(t));
}

/* What grows steadily favours neither way: each comes first in every other pair. */
static void test_drift(void **state)
{
    (void)state;
    struct lb_tunes all = {.n = 0};
    struct lb_tune *t = lb_tune_of(&all, work);
    int first[2] = {0, 0};
    for (int i = 0; i < LB_TUNE_TRIAL; i++) {
        first[lb_tune_way(t)] += i % 2 == 0;
        lb_tune_took(t, 1 + i);
    }
    assert_int_equal(first[0], first[1]);
    assert_int_equal(t->wins, 0);
}

static void test_kinds(void **state)
{
    (void)state;
    struct lb_tunes all = {.n = 0};
    const int n = sizeof all.of / sizeof *all.of;
    for (int64_t i = 0; i < n; i++)
        calls(lb_tune_of(&all, (int64_t[4]){1, 2, i, 3}), LB_TUNE_TRIAL, i % 2 ? 0.5 : 2);
    for (int64_t i = 0; i < n; i++)
        assert_int_equal(lb_tune_way(lb_tune_of(&all, (int64_t[4]){1, 2, i, 3})), i % 2);
    /* one more takes the place of the first, whose trial begins anew */
    assert_int_equal(lb_tune_of(&all, work)->n, 0);
    assert_int_equal(lb_tune_of(&all, (int64_t[4]){1, 2, 2, 3})->n, LB_TUNE_TRIAL);
    assert_int_equal(lb_tune_of(&all, (int64_t[4]){1, 2, 0, 3})->n, 0);
}

static void test_size(void **state)
{
    (void)state;
    static const int64_t of[][2] = {{1, 1}, {2, 2}, {3, 2}, {4, 4}, {7, 4}, {8, 8}, {512, 512}, {1000, 512}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        assert_int_equal(lb_tune_size(of[i][0]), of[i][1]);
}

/* What is likely to be better is taken until its trial says otherwise. */
static void test_likely(void **state)
{
    (void)state;
    struct lb_tunes all = {.n = 0};
    const int rest = LB_TUNE_CYCLE - LB_TUNE_TRIAL;
    assert_int_equal(calls(lb_tune_likely(&all, work, true), rest, 1.1), rest);
    assert_int_equal(calls(lb_tune_likely(&all, work, true), LB_TUNE_TRIAL, 1.1), LB_TUNE_TRIAL / 2);
    assert_int_equal(calls(lb_tune_likely(&all, work, true), rest, 1.1), 0);
    calls(lb_tune_likely(&all, work, true), LB_TUNE_TRIAL, 0.9);
    assert_int_equal(calls(lb_tune_likely(&all, work, true), rest, 0.9), rest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size),    cmocka_unit_test(test_likely), cmocka_unit_test(test_better),
        cmocka_unit_test(test_outlier), cmocka_unit_test(test_drift),  cmocka_unit_test(test_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
