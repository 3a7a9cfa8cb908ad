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

/* A fork shares what is full and asks for a copy of what is not, whatever becomes of the sequence that it came from. */
static void forks(void **state)
{
    (void)state;
    struct lb_kv kv;
    struct lb_err err = LB_ERR_INIT;
    int32_t from[MAX_SEQ], to[MAX_SEQ], fresh[N_PAGE];
    assert_int_equal(lb_kv_init(&kv, 6, 4, MAX_LEN, &err), LB_OK);
    int32_t a = lb_kv_open(&kv);
    assert_true(lb_kv_extend(&kv, a, 70));
    int32_t b = lb_kv_fork(&kv, a);
    assert_true(b >= 0 && b != a);
    assert_int_equal(kv.seq[b].n_tok, 70);
    assert_int_equal(kv.seq[b].n_page, 3);
    assert_memory_equal(kv.seq[a].page, kv.seq[b].page, 2 * sizeof(int32_t));
    assert_true(kv.seq[a].page[2] != kv.seq[b].page[2]);
    assert_int_equal(lb_kv_used(&kv), 4);
    assert_int_equal(lb_kv_waste(&kv, 140), 2 * (96 - 70));
    int32_t last = kv.seq[a].page[2], copy = kv.seq[b].page[2], shared = kv.seq[a].page[0];
    lb_kv_close(&kv, a); /* the page that is copied is free now, and may be anybody's */
    assert_int_equal(lb_kv_used(&kv), 3);
    assert_int_equal(kv.refs[shared], 1);
    int32_t c = lb_kv_open(&kv);
    assert_true(lb_kv_extend(&kv, c, 1));
    assert_int_equal(kv.seq[c].page[0], last);
    assert_int_equal(lb_kv_take_copies(&kv, from, to, MAX_SEQ), 1);
    assert_int_equal(from[0], last);
    assert_int_equal(to[0], copy);
    assert_int_equal(lb_kv_take_copies(&kv, from, to, MAX_SEQ), 0);
    int32_t n = lb_kv_take_new(&kv, fresh, N_PAGE);
    for (int32_t i = 0; i < n; i++)
        assert_int_not_equal(fresh[i], copy); /* it would be zeroed behind the copy */

    /* a page that was handed out and given back in the same step is not zeroed either */
    assert_true(lb_kv_extend(&kv, c, 33));
    int32_t back = kv.seq[c].page[1];
    lb_kv_close(&kv, c);
    int32_t d = lb_kv_fork(&kv, b);
    assert_true(kv.seq[d].page[2] == back || kv.seq[d].page[2] == last);
    n = lb_kv_take_new(&kv, fresh, N_PAGE);
    for (int32_t i = 0; i < n; i++)
        assert_int_not_equal(fresh[i], kv.seq[d].page[2]);

    /* full pages need no copy, and no page */
    assert_int_equal(lb_kv_take_copies(&kv, from, to, MAX_SEQ), 1);
    assert_true(lb_kv_extend(&kv, b, 96));
    assert_true(lb_kv_extend(&kv, d, 160));
    assert_int_equal(lb_kv_used(&kv), 6);
    int32_t e = lb_kv_fork(&kv, b);
    assert_true(e >= 0 && kv.n_copy == 0);
    assert_memory_equal(kv.seq[b].page, kv.seq[e].page, 3 * sizeof(int32_t));
    lb_kv_close(&kv, e);
    lb_kv_close(&kv, b);

    /* refused, with nothing changed: no page for a copy; no sequence */
    assert_int_equal(kv.seq[d].n_page, 5);
    assert_true(lb_kv_extend(&kv, (c = lb_kv_open(&kv)), 1));
    assert_int_equal(kv.n_free, 0);
    int64_t entries = kv.n_entry;
    assert_int_equal(lb_kv_fork(&kv, c), -1);
    assert_int_equal(lb_kv_open(&kv) >= 0 && lb_kv_open(&kv) >= 0, 1);
    assert_int_equal(lb_kv_fork(&kv, d), -1);
    assert_true(kv.n_entry == entries && kv.n_copy == 0);
    lb_kv_release(&kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forks),
        cmocka_unit_test(random_operations),
        cmocka_unit_test(bad_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
