/* Node shared memory with threads as members, so that a thread checker sees what processes do with it: sums bit for bit
 * in the tree's order from any memory and in place, and a failure that frees who waits. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/dist/shm.h"
#include "core/dist/tree.h"

#define MOST 40000
#define N_ROUND 60

struct member {
    struct lb_world_impl v;
    struct lb_shm s;
    int n_bad;
};

static float number(int rank, int64_t i, int round)
{
    uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)rank * 40503u + (uint32_t)round * 97u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    return (float)(int32_t)x / 2147483648.0f * (x & 1 ? 1.0f : 4096.0f) * (x & 2 ? 1.0f : 0.001f);
}

static bool twice(void *ctx, float *slice, int64_t n)
{
    (void)ctx;
    for (int64_t i = 0; i < n; i++)
        slice[i] *= 2;
    return true;
}

static void fill(float *part, int rank, int64_t n, int round)
{
    for (int64_t i = 0; i < n; i++)
        part[i] = number(rank, i, round);
}

static void *sums(void *arg)
{
    static const int64_t sizes[] = {1, 15, 100, 2048, 2049, 5000, MOST};
    struct member *m = arg;
    float *part[LB_COMM_MAX_RANKS], *own = malloc(MOST * sizeof *own), *want = malloc(MOST * sizeof *want);
    for (int i = 0; i < m->s.size; i++)
        part[i] = malloc(MOST * sizeof *part[i]);
    for (int round = 0; round < N_ROUND; round++) {
        int64_t n = sizes[round % 7];
        bool in_place = round / 7 % 2, doubles = round / 14 % 2;
        for (int i = 0; i < m->s.size; i++)
            fill(part[i], i, n, round);
        lb_tree_add(want, (const float *const *)part, m->s.size, n);
        float *mine = in_place ? lb_shm_part(&m->s, m->s.me) + round : own;
        fill(mine, m->s.me, n, round);
        m->n_bad += !lb_shm_reduce(&m->s, mine, n, doubles ? twice : NULL, NULL);
        if (doubles)
            twice(NULL, want, n);
        m->n_bad += memcmp(mine, want, (size_t)n * sizeof *mine) != 0;
    }
    for (int i = 0; i < m->s.size; i++)
        free(part[i]);
    free(own);
    free(want);
    return NULL;
}

static void open_members(struct member *m, int n)
{
    struct lb_err err = LB_ERR_INIT;
    memset(m, 0, (size_t)n * sizeof *m);
    for (int i = 0; i < n; i++) {
        m[i].v.seat = &m[i].v.own;
        m[i].v.world.oversubscribed = i % 2; /* who sleeps at once beside who spins */
        m[i].s.size = n;
        if (i == 0)
            assert_int_equal(lb_shm_make(&m[0].s, &err), LB_OK);
        m[i].s = m[0].s; /* one mapping: the checker goes by addresses */
        m[i].s.v = &m[i].v;
        m[i].s.me = i;
    }
}

static void members_add_up(void **state)
{
    (void)state;
    static struct member m[5];
    for (int n = 2; n <= 5; n++) {
        pthread_t thread[5];
        open_members(m, n);
        for (int i = 0; i < n; i++)
            assert_int_equal(pthread_create(&thread[i], NULL, sums, &m[i]), 0);
        for (int i = 0; i < n; i++) {
            pthread_join(thread[i], NULL);
            assert_int_equal(m[i].n_bad, 0);
        }
        lb_shm_release(&m[0].s);
    }
}

static void *waits(void *arg)
{
    struct member *m = arg;
    float part[5000] = {0};
    m->n_bad = lb_shm_reduce(&m->s, part, 5000, NULL, NULL); /* the other never comes */
    return NULL;
}

static void a_failure_frees_who_waits(void **state)
{
    (void)state;
    static struct member m[2];
    for (int which = 0; which < 2; which++) { /* 0 spins first, 1 sleeps at once */
        pthread_t thread;
        open_members(m, 2);
        m[which].n_bad = 1;
        assert_int_equal(pthread_create(&thread, NULL, waits, &m[which]), 0);
        usleep(50000);
        atomic_store(&m[which].v.failed, 1);
        pthread_join(thread, NULL);
        assert_int_equal(m[which].n_bad, 0);
        assert_int_equal(atomic_load(&m[which].v.own.wait_for), 1 - which); /* what the watchdog will say */
        lb_shm_release(&m[0].s);
    }
}

static void another_process_opens_it(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_shm a = {.size = 2}, b = {.size = 2, .me = 1}, c = {.size = 3};
    assert_int_equal(lb_shm_make(&a, &err), LB_OK);
    assert_int_equal(lb_shm_open(&b, (int)getpid(), a.fd, &err), LB_OK);
    lb_shm_part(&b, 1)[7] = 42;
    assert_true(lb_shm_part(&a, 1)[7] == 42);
    assert_true(lb_shm_holds(&a, lb_shm_part(&a, 0), 100));
    assert_false(lb_shm_holds(&a, lb_shm_part(&a, 1), 100));
    assert_false(lb_shm_holds(&a, lb_shm_part(&a, 0) + 1, LB_SHM_PART_BYTES / sizeof(float)));
    assert_int_equal(lb_shm_open(&c, (int)getpid(), a.fd, &err), LB_E_DEVICE); /* smaller than three need */
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_shm_open(&c, (int)getpid(), -1, &err), LB_E_DEVICE);
    lb_shm_release(&a);
    lb_shm_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_add_up),
        cmocka_unit_test(a_failure_frees_who_waits),
        cmocka_unit_test(another_process_opens_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
