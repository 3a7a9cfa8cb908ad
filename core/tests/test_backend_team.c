/* The thread team: every item runs once, whatever the sizes, and writes are visible to the caller. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/backend/team.h"

#define MAX_ITEMS 5000

struct tally {
    int64_t grain, calls_too_long; /* grain 0: a call may have any length */
    int count[MAX_ITEMS];          /* each item is written by the one thread that runs it */
};

static void count_items(void *ctx, int64_t begin, int64_t end)
{
    struct tally *t = ctx;
    if ((t->grain > 0 && end - begin > t->grain) || end <= begin)
        t->calls_too_long++;
    for (int64_t i = begin; i < end; i++)
        t->count[i]++;
}

static void covers(struct lb_team *team, int64_t n_item, int64_t grain, bool even)
{
    static struct tally t;
    memset(&t, 0, sizeof t);
    t.grain = even ? 0 : grain;
    (even ? lb_team_run_even : lb_team_run)(team, count_items, &t, n_item, grain);
    assert_int_equal(t.calls_too_long, 0);
    for (int64_t i = 0; i < MAX_ITEMS; i++)
        assert_int_equal(t.count[i], i < n_item);
}

/* Ranges as a caller cuts them, empty ones among them. */
static void covers_ranges(struct lb_team *team, int64_t n_item, int cut)
{
    static struct tally t;
    memset(&t, 0, sizeof t);
    const int n = lb_team_size(team);
    int64_t begin[6] = {0};
    for (int i = 1; i < n; i++)
        begin[i] = cut == 0 ? 0 : cut == 1 ? n_item : n_item * i * i / (n * n);
    begin[n] = n_item;
    lb_team_run_ranges(team, count_items, &t, begin);
    assert_int_equal(t.calls_too_long, 0);
    for (int64_t i = 0; i < MAX_ITEMS; i++)
        assert_int_equal(t.count[i], i < n_item);
}

static void every_item_once(void **state)
{
    (void)state;
    static const int64_t items[] = {0, 1, 2, 3, 7, 64, 1000, MAX_ITEMS}, grains[] = {1, 2, 3, 64, MAX_ITEMS + 1};
    for (int n_thread = 1; n_thread <= 5; n_thread++) {
        struct lb_team *team;
        struct lb_err err = LB_ERR_INIT;
        assert_int_equal(lb_team_new(&team, n_thread, &err), LB_OK);
        assert_int_equal(lb_team_size(team), n_thread);
        for (size_t i = 0; i < sizeof items / sizeof *items; i++)
            for (int cut = 0; cut < 3; cut++)
                covers_ranges(team, items[i], cut);
        for (size_t i = 0; i < sizeof items / sizeof *items; i++)
            for (size_t g = 0; g < sizeof grains / sizeof *grains; g++)
                for (int even = 0; even < 2; even++)
                    covers(team, items[i], grains[g], even);
        lb_team_free(team);
    }
}

/* More items than a range can count as grains of one. */
static void sum_items(void *ctx, int64_t begin, int64_t end)
{
    _Atomic int64_t *sum = ctx;
    atomic_fetch_add(sum, (begin + end - 1) * (end - begin) / 2);
}

static void very_many_items(void **state)
{
    (void)state;
    struct lb_team *team;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_team_new(&team, 3, &err), LB_OK);
    const int64_t n = 1000003, begin[] = {0, 77777, 700001, n};
    _Atomic int64_t sum[3] = {0};
    lb_team_run(team, sum_items, &sum[0], n, 1);
    lb_team_run_even(team, sum_items, &sum[1], n, 1);
    lb_team_run_ranges(team, sum_items, &sum[2], begin);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sum[i], n * (n - 1) / 2);
    lb_team_free(team);
}

struct chain {
    const int64_t *from;
    int64_t *to;
};

static void copy_plus_one(void *ctx, int64_t begin, int64_t end)
{
    struct chain *c = ctx;
    for (int64_t i = begin; i < end; i++)
        c->to[i] = c->from[MAX_ITEMS / 100 - 1 - i] + 1;
}

/* Each run reads what other threads wrote in the run before: many tiny runs one after another, now and then with a
 * pause in which the members fall asleep. */
static void runs_are_ordered(void **state)
{
    (void)state;
    enum { N = MAX_ITEMS / 100 };
    static int64_t buf[2][N];
    memset(buf, 0, sizeof buf);
    struct lb_team *team;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_team_new(&team, 3, &err), LB_OK);
    enum { RUNS = 4000 };
    for (int run = 0; run < RUNS; run++) {
        struct chain c = {buf[run % 2], buf[(run + 1) % 2]};
        (run % 3 ? lb_team_run_even : lb_team_run)(team, copy_plus_one, &c, N, 1 + run % 4);
        if (run % 500 == 499)
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(buf[RUNS % 2][i], RUNS);
    lb_team_free(team);
}

static void bad_sizes(void **state)
{
    (void)state;
    struct lb_team *team;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_team_new(&team, -1, &err), LB_E_USAGE);
    assert_null(team);
    lb_team_free(NULL);
    struct lb_err ok = LB_ERR_INIT;
    assert_int_equal(lb_team_new(&team, 0, &ok), LB_OK);
    assert_in_range(lb_team_size(team), 1, 4096);
    lb_team_free(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_once),
        cmocka_unit_test(very_many_items),
        cmocka_unit_test(runs_are_ordered),
        cmocka_unit_test(bad_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
