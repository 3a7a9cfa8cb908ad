/* The tree, and the communicator of threads that other tests rely on, against additions written out. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/tests/comm_threads.h"

#include "core/dist/tree.h"

#define MAX_N 1100

/* Numbers of very different size, so that any other order of additions gives other bits. */
static float number(int rank, int64_t i)
{
    uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)rank * 40503u + 12345u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    float f = (float)(int32_t)x / 2147483648.0f;
    return f * (x & 1 ? 1.0f : 4096.0f) * (x & 2 ? 1.0f : 0.001f);
}

/* The contract's sum, by recursion for powers of two. */
static float expected(int begin, int end, int64_t i)
{
    if (end - begin == 1)
        return number(begin, i);
    int n = end - begin;
    if (n & (n - 1))
        return expected(begin, end - 1, i) + number(end - 1, i);
    return expected(begin, begin + n / 2, i) + expected(begin + n / 2, end, i);
}

/* As above, for counts that are no power of two: left to right all the way. */
static float expected_sum(int n, int64_t i)
{
    if ((n & (n - 1)) == 0)
        return expected(0, n, i);
    float sum = number(0, i);
    for (int r = 1; r < n; r++)
        sum += number(r, i);
    return sum;
}

static void tree_adds_in_the_contracts_order(void **state)
{
    (void)state;
    static float part[LB_COMM_MAX_RANKS][MAX_N], out[MAX_N];
    static const int64_t sizes[] = {0, 1, 255, 256, 257, 1000, MAX_N};
    const float *parts[LB_COMM_MAX_RANKS];
    int n_other = 0;
    for (int n_part = 1; n_part <= LB_COMM_MAX_RANKS; n_part++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int into = -1; into < n_part; into++) {
                for (int r = 0; r < n_part; r++) {
                    parts[r] = part[r];
                    for (int64_t i = 0; i < MAX_N; i++)
                        part[r][i] = number(r, i);
                }
                memset(out, 0, sizeof out);
                float *to = into < 0 ? out : part[into];
                lb_tree_add(to, parts, n_part, sizes[s]);
                for (int64_t i = 0; i < MAX_N; i++) {
                    float want = i < sizes[s] ? expected_sum(n_part, i) : into < 0 ? 0 : number(into, i);
                    assert_memory_equal(&to[i], &want, sizeof want);
                    float plain = 0;
                    for (int r = 0; r < n_part; r++)
                        plain += number(r, i);
                    n_other += n_part > 3 && i < sizes[s] && plain != want;
                }
            }
    assert_true(n_other > 1000); /* the numbers tell orders apart */
}

struct job {
    struct lb_comm *comm;
    int n_bad;
};

static void *rank_thread(void *arg)
{
    struct job *job = arg;
    struct lb_comm *c = job->comm;
    float part[MAX_N];
    for (int64_t n = 1; n <= MAX_N; n += 157) {
        for (int64_t i = 0; i < n; i++)
            part[i] = number(c->rank, i);
        c->ops->reduce(c, part, n);
        for (int64_t i = 0; i < n; i++) {
            float want = expected_sum(c->size, i);
            job->n_bad += memcmp(&want, &part[i], sizeof want) != 0;
        }
        c->ops->bcast(c, part, sizeof part[0]);
        char mine[LB_COMM_MAX_RANKS], all[LB_COMM_MAX_RANKS * LB_COMM_MAX_RANKS];
        size_t counts[LB_COMM_MAX_RANKS], at = 0;
        memset(mine, 'a' + c->rank, sizeof mine);
        for (int i = 0; i < c->size; i++)
            counts[i] = (size_t)i;
        c->ops->gather(c, mine, c->rank == 0 ? all : NULL, counts);
        for (int i = 0; i < c->size && c->rank == 0; i++)
            for (int k = 0; k < i; k++)
                job->n_bad += all[at++] != 'a' + i;
    }
    struct lb_err err = LB_ERR_INIT;
    job->n_bad += c->ops->status(c, &err) != LB_OK;
    return NULL;
}

static void threads_are_ranks(void **state)
{
    (void)state;
    for (int n = 1; n <= 9; n++) {
        struct lb_comm *comm[LB_COMM_MAX_RANKS];
        pthread_t thread[LB_COMM_MAX_RANKS];
        struct job job[LB_COMM_MAX_RANKS] = {0};
        lb_comm_threads_open(n, comm);
        for (int i = 0; i < n; i++) {
            job[i].comm = comm[i];
            assert_int_equal(pthread_create(&thread[i], NULL, rank_thread, &job[i]), 0);
        }
        for (int i = 0; i < n; i++) {
            pthread_join(thread[i], NULL);
            assert_int_equal(job[i].n_bad, 0);
        }
        for (int i = 0; i < n; i++)
            comm[i]->ops->close(comm[i]);
    }
}

static void *waiting_thread(void *arg)
{
    struct job *job = arg;
    float x = 1;
    job->comm->ops->reduce(job->comm, &x, 1);
    struct lb_err err = LB_ERR_INIT;
    job->n_bad = job->comm->ops->status(job->comm, &err) != LB_E_DEVICE;
    return NULL;
}

static void one_that_fails_frees_the_others(void **state)
{
    (void)state;
    struct lb_comm *comm[2];
    lb_comm_threads_open(2, comm);
    struct job job = {comm[1], 0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, waiting_thread, &job), 0);
    lb_comm_threads_fail(comm[0]);
    pthread_join(thread, NULL);
    assert_int_equal(job.n_bad, 0);
    comm[0]->ops->close(comm[0]);
    comm[1]->ops->close(comm[1]);
}

static void self_is_rank_0_of_1(void **state)
{
    (void)state;
    struct lb_comm *c;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_comm_open(&c, "self", &err), LB_OK);
    assert_int_equal(c->rank, 0);
    assert_int_equal(c->size, 1);
    float x[2] = {1.5f, -0.0f}, all[2] = {0};
    size_t counts[1] = {sizeof x};
    c->ops->reduce(c, x, 2);
    c->ops->bcast(c, x, sizeof x);
    c->ops->gather(c, x, all, counts);
    assert_memory_equal(all, x, sizeof x);
    assert_int_equal(c->ops->status(c, &err), LB_OK);
    assert_int_equal(lb_comm_open(&c, "nccl", &err), LB_E_USAGE);
    assert_non_null(strstr(err.text, "nccl"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tree_adds_in_the_contracts_order),
        cmocka_unit_test(threads_are_ranks),
        cmocka_unit_test(one_that_fails_frees_the_others),
        cmocka_unit_test(self_is_rank_0_of_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
