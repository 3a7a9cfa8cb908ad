/* The set of ids against what it must say of a million keys, and where it stops to grow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/run/idset.h"

/* Distinct for distinct i: a bijection of 64 bits. */
static uint64_t key_of(uint64_t i)
{
    return (i + 1) * 0x9E3779B97F4A7C15u;
}

static bool add(struct lb_id_set *s, uint64_t key, uint32_t line, struct lb_id_place *first)
{
    struct lb_err err = LB_ERR_INIT;
    bool again;
    assert_int_equal(lb_id_set_add(s, key, (struct lb_id_place){7, line}, &again, first, &err), LB_OK);
    return again;
}

static void test_many(void **state)
{
    (void)state;
    struct lb_id_set s = {0};
    struct lb_id_place first;
    enum { N = 1000000 };
    for (uint32_t i = 0; i < N; i++)
        assert_false(add(&s, key_of(i), i, &first));
    for (uint32_t i = 0; i < N; i += 997) {
        assert_true(add(&s, key_of(i), N + i, &first));
        assert_true(first.file == 7 && first.line == i);
    }
    assert_false(add(&s, key_of(N), 0, &first));
    assert_false(add(&s, 0, 3, &first)); /* a key like any other */
    assert_true(add(&s, 0, 4, &first));
    assert_int_equal(first.line, 3);
    assert_true(s.cap * sizeof *s.slot <= (size_t)64 << 20);
    lb_id_set_release(&s);
    assert_false(add(&s, key_of(0), 0, &first));
    lb_id_set_release(&s);
}

static void test_full(void **state)
{
    (void)state;
    struct lb_id_set s = {0};
    struct lb_id_place first;
    for (uint32_t i = 0; i < LB_ID_SET_MAX + 1000; i++)
        assert_false(add(&s, key_of(i), i, &first));
    assert_int_equal(s.n, LB_ID_SET_MAX);
    assert_true(s.cap * sizeof *s.slot <= (size_t)64 << 20);
    assert_true(add(&s, key_of(5), 0, &first)); /* still compared with what is remembered */
    assert_false(add(&s, key_of(LB_ID_SET_MAX + 5), 0, &first));
    lb_id_set_release(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_many), cmocka_unit_test(test_full)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
