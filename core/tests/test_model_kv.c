/* The page allocator against a plain account of who owns what, through thousands of random operations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/mem.h"
#include "core/model/kv.h"

enum { N_PAGE = 40, MAX_SEQ = 7, MAX_LEN = 330 };

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Every page has one owner or is free, tables hold what positions need, counts agree. */
static void check_account(const struct lb_kv *kv, const int64_t *len)
{
    int owner[N_PAGE];
    int64_t used = 0, tokens = 0;
    memset(owner, -1, sizeof owner);
    for (int s = 0; s < MAX_SEQ; s++) {
        int64_t pages = len[s] < 0 ? 0 : (len[s] + 31) / 32;
        assert_int_equal(kv->seq[s].n_page, pages);
        for (int i = 0; i < kv->seq[s].n_page; i++) {
            int32_t page = kv->seq[s].page[i];
            assert_in_range(page, 0, N_PAGE - 1);
            assert_int_equal(owner[page], -1);
            owner[page] = s;
        }
        used += pages;
        tokens += len[s] < 0 ? 0 : len[s];
    }
    assert_int_equal(lb_kv_used(kv), used);
    assert_int_equal(lb_kv_waste(kv, tokens), used * 32 - tokens);
}

static void random_operations(void **state)
{
    (void)state;
    struct lb_kv kv;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_kv_init(&kv, N_PAGE, MAX_SEQ, MAX_LEN, &err), LB_OK);
    int64_t len[MAX_SEQ], peak = 0;
    bool zeroed[N_PAGE] = {false}; /* since its owner got it */
    for (int s = 0; s < MAX_SEQ; s++)
        len[s] = -1;
    uint32_t random = 7;
    int refused = 0, full = 0;
    uint64_t allocated = lb_mem_count();
    for (int round = 0; round < 20000; round++) {
        int s = (int)(next_random(&random) % MAX_SEQ);
        if (len[s] < 0) {
            int32_t got = lb_kv_open(&kv);
            int n_open = 0;
            for (int i = 0; i < MAX_SEQ; i++)
                n_open += len[i] >= 0;
            assert_true(got >= 0);
            assert_int_equal(len[got], -1);
            len[got] = 0;
            if (n_open + 1 == MAX_SEQ) {
                assert_int_equal(lb_kv_open(&kv), -1);
                full++;
            }
        } else if (next_random(&random) % 8 == 0) {
            for (int i = 0; i < kv.seq[s].n_page; i++)
                zeroed[kv.seq[s].page[i]] = false;
            lb_kv_close(&kv, s);
            len[s] = -1;
        } else {
            int64_t want = (int64_t)(next_random(&random) % (MAX_LEN + 40));
            int64_t more = (want + 31) / 32 - (len[s] + 31) / 32;
            bool fits = want <= 352 && more <= N_PAGE - lb_kv_used(&kv);
            assert_int_equal(lb_kv_extend(&kv, s, want), fits);
            refused += !fits;
            if (fits && want > len[s])
                len[s] = want;
        }
        if (lb_kv_used(&kv) > peak)
            peak = lb_kv_used(&kv);
        check_account(&kv, len);
        if (next_random(&random) % 4 != 0)
            continue;
        int32_t fresh[N_PAGE], n;
        bool listed[N_PAGE] = {false};
        while ((n = lb_kv_take_new(&kv, fresh, 5)) > 0) {
            for (int i = 0; i < n; i++) {
                assert_false(listed[fresh[i]]);
                assert_false(zeroed[fresh[i]]); /* a page in use keeps its numbers */
                listed[fresh[i]] = zeroed[fresh[i]] = true;
            }
        }
        for (int i = 0; i < MAX_SEQ; i++)
            for (int p = 0; p < kv.seq[i].n_page; p++)
                assert_true(zeroed[kv.seq[i].page[p]]);
    }
    assert_int_equal(kv.peak_used, peak);
    assert_int_equal(lb_mem_count(), allocated);
    assert_true(refused > 100 && full > 10);
    lb_kv_release(&kv);
}

static void bad_sizes(void **state)
{
    (void)state;
    struct lb_kv kv;
    static const int64_t bad[][3] = {{0, 1, 1}, {1, 0, 1}, {1, 1, 0}, {INT64_MAX, 1, 1}, {1, 1, INT64_MAX}, {-1, 1, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lb_err err = LB_ERR_INIT;
        assert_int_equal(lb_kv_init(&kv, bad[i][0], (int32_t)bad[i][1], bad[i][2], &err), LB_E_USAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations),
        cmocka_unit_test(bad_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
