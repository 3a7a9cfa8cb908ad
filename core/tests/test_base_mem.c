/* core/base/mem.h and hash.h. */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "core/base/hash.h"
#include "core/base/mem.h"

static void test_new(void **state)
{
    (void)state;
    uint64_t before = lb_mem_count();
    unsigned char *p = lb_mem_new(1000, 3);
    assert_non_null(p);
    for (int i = 0; i < 3000; i++)
        assert_int_equal(p[i], 0);
    assert_int_equal(lb_mem_count(), before + 1);
    lb_mem_free(p);
    p = lb_mem_new(0, 8);
    assert_non_null(p);
    lb_mem_free(p);
    size_t huge = SIZE_MAX / 2; /* the product overflows */
    assert_null(lb_mem_new(huge, 4));
    char *text = lb_mem_strndup("abc", 2);
    assert_string_equal(text, "ab");
    lb_mem_free(text);
}

static void test_grow(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    int32_t *data = NULL;
    size_t cap = 0;
    for (size_t n = 1; n <= 10000; n++) {
        assert_int_equal(lb_mem_grow((void **)&data, &cap, n, sizeof *data, "numbers", &err), LB_OK);
        assert_true(cap >= n);
        data[n - 1] = (int32_t)n;
    }
    for (int32_t i = 0; i < 10000; i++)
        assert_int_equal(data[i], i + 1);
    uint64_t before = lb_mem_count();
    assert_int_equal(lb_mem_grow((void **)&data, &cap, 5, sizeof *data, "numbers", &err), LB_OK);
    assert_int_equal(lb_mem_count(), before); /* enough already: no allocation */
    int32_t *was = data;
    size_t was_cap = cap;
    assert_int_equal(lb_mem_grow((void **)&data, &cap, SIZE_MAX - 3, sizeof *data, "numbers", &err), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "numbers"));
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_mem_grow((void **)&data, &cap, SIZE_MAX / 3, sizeof *data, "numbers", &err), LB_E_DEVICE);
    assert_ptr_equal(data, was);
    assert_int_equal(cap, was_cap);
    lb_mem_free(data);
}

static void test_arena(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_arena a;
    assert_int_equal(lb_arena_init(&a, 3 << 20, &err), LB_OK);
    assert_true(a.cap_bytes >= 3 << 20);
    unsigned char *p = lb_arena_take(&a, 1), *q = lb_arena_take(&a, 100), *r = lb_arena_take(&a, 0);
    assert_true(p && q && r);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_int_equal((uintptr_t)q % 64, 0);
    assert_true(q >= p + 1 && r >= q + 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(q[i], 0);
    memset(q, 1, 100);
    assert_null(lb_arena_take(&a, a.cap_bytes));
    assert_null(lb_arena_take(&a, SIZE_MAX));
    unsigned char *rest = lb_arena_take(&a, a.cap_bytes - 192 - 64); /* what refused ones left is still there */
    assert_non_null(rest);
    rest[a.cap_bytes - 192 - 64 - 1] = 1;
    lb_arena_release(&a);
    assert_null(a.base);
    assert_int_equal(lb_arena_init(&a, SIZE_MAX - 5, &err), LB_E_DEVICE);
}

/* Pages of an arena that are in memory, in KiB. */
static size_t resident_kib(const struct lb_arena *a)
{
    size_t n = a->cap_bytes / 4096, kib = 0;
    unsigned char *in = malloc(n);
    assert_non_null(in);
    assert_int_equal(mincore(a->base, a->cap_bytes, in), 0);
    for (size_t i = 0; i < n; i++)
        kib += in[i] & 1 ? 4 : 0;
    free(in);
    return kib;
}

static void test_arena_memory(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_arena a;
    /* small ones, plain ones, and the last quarter of a huge page: what is touched and no more */
    assert_int_equal(lb_arena_init(&a, 100000, &err), LB_OK);
    *(char *)lb_arena_take(&a, 1) = 1;
    assert_int_equal(resident_kib(&a), 4);
    lb_arena_release(&a);
    assert_int_equal(lb_arena_init_plain(&a, 64 << 20, &err), LB_OK);
    *(char *)lb_arena_take(&a, 1) = 1;
    assert_int_equal(resident_kib(&a), 4);
    lb_arena_release(&a);
    assert_int_equal(lb_arena_init(&a, (4 << 20) + (512 << 10), &err), LB_OK);
    char *p = lb_arena_take(&a, (4 << 20) + 1);
    p[4 << 20] = 1;
    assert_true(resident_kib(&a) <= 4);
    lb_arena_release(&a);
    /* what is behind the last piece is given back, what is in it stays */
    assert_int_equal(lb_arena_init(&a, 2 << 20, &err), LB_OK);
    p = lb_arena_take(&a, 8193);
    memset(p, 7, 8193);
    lb_arena_trim(&a);
    assert_true(resident_kib(&a) <= 12);
    assert_int_equal(p[0] + p[8192], 14);
    lb_arena_release(&a);
}

static void test_available(void **state)
{
    (void)state;
    assert_true(lb_mem_available() > (size_t)1 << 20);
    assert_true(lb_mem_available() < (size_t)1 << 50);
}

/* Test vectors of XXH3-64 with seed 0 (xxHash's specification: the empty input). */
static void test_hash(void **state)
{
    (void)state;
    assert_true(lb_hash64("", 0, 0) == 0x2D06800538D394C2u);
    assert_true(lb_hash64("abc", 3, 0) == lb_hash64("abc", 3, 0));
    assert_true(lb_hash64("abc", 3, 0) != lb_hash64("abc", 3, 1));
    assert_true(lb_hash64("abc", 3, 0) != lb_hash64("abd", 3, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new),          cmocka_unit_test(test_grow),      cmocka_unit_test(test_arena),
        cmocka_unit_test(test_arena_memory), cmocka_unit_test(test_available), cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
