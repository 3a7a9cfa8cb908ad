/* The communicator over NCCL, with ranks as threads and NCCL, runtime and devices as the stand-ins have them. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "core/dist/nccl.h"
#include "core/dist/tree.h"
#include "core/tests/comm_threads.h"
#include "core/tests/whole.h"
#include "kernels/tests/standin/standins.h"

#define MAX_N 3000
#define MAX_RANKS 8
#define N_ROUND 3 /* reductions of a run, one behind the other without a wait */

struct rank {
    pthread_t thread;
    int number, n_rank, n;
    bool ring;
    struct lb_comm *boot;
    const float *mine; /* [n] */
    float *got;        /* [N_ROUND, n] */
    enum lb_status status;
    struct lb_err err;
};

static struct rank ranks[MAX_RANKS];
static float numbers[MAX_RANKS][MAX_N], results[MAX_RANKS][N_ROUND * MAX_N];

static enum lb_status call(struct rank *r, const char *name, cudaError_t e)
{
    return e ? lb_err_set(&r->err, LB_E_DEVICE, "%s: %s", name, cudaGetErrorString(e)) : LB_OK;
}

#define CALL(function, ...) LB_TRY(call(r, #function, function(__VA_ARGS__)))

struct device {
    cudaStream_t stream;
    cudaEvent_t done;
    float *x;    /* the device's [N_ROUND, n] */
    float *host; /* pinned */
    struct lb_comm *comm;
};

/* As a backend waits. */
static enum lb_status await(struct rank *r, struct device *d)
{
    cudaError_t e;
    CALL(cudaEventRecord, d->done, d->stream);
    while ((e = cudaEventQuery(d->done)) == cudaErrorNotReady) {
        lb_comm_nccl_poll(d->comm, false, &r->err);
        nanosleep(&(struct timespec){0, 20000}, NULL);
    }
    LB_TRY(call(r, "cudaEventQuery", e));
    if (!lb_comm_nccl_poll(d->comm, false, &r->err))
        return r->err.status;
    return d->comm->ops->status(d->comm, &r->err);
}

static enum lb_status work(struct rank *r, struct device *d)
{
    size_t bytes = (size_t)r->n * sizeof(float);
    CALL(cudaSetDevice, r->number);
    CALL(cudaStreamCreateWithFlags, &d->stream, cudaStreamNonBlocking);
    CALL(cudaEventCreateWithFlags, &d->done, cudaEventDisableTiming);
    CALL(cudaMalloc, (void **)&d->x, N_ROUND * bytes);
    CALL(cudaMallocHost, (void **)&d->host, N_ROUND * bytes);
    struct lb_nccl_spec spec = {r->boot, d->stream, r->ring, NULL};
    LB_TRY(lb_comm_nccl_open(&d->comm, &spec, &r->err));
    for (int i = 0; i < N_ROUND; i++)
        memcpy(d->host + i * r->n, r->mine, bytes);
    CALL(cudaMemcpyAsync, d->x, d->host, N_ROUND * bytes, cudaMemcpyHostToDevice, d->stream);
    for (int i = 0; i < N_ROUND; i++)
        d->comm->ops->reduce(d->comm, d->x + i * r->n, r->n);
    CALL(cudaMemcpyAsync, d->host, d->x, N_ROUND * bytes, cudaMemcpyDeviceToHost, d->stream);
    LB_TRY(await(r, d));
    memcpy(r->got, d->host, N_ROUND * bytes);
    return LB_OK;
}

static void *run_rank(void *ctx)
{
    struct rank *r = ctx;
    struct device d = {0};
    struct lb_err late = LB_ERR_INIT;
    r->err = (struct lb_err)LB_ERR_INIT;
    r->status = work(r, &d);
    if (r->status != LB_OK)
        lb_comm_threads_fail(r->boot);
    if (d.comm)
        lb_comm_nccl_poll(d.comm, false, &late); /* a peer may have failed since */
    if (d.comm)
        d.comm->ops->close(d.comm);
    else
        r->boot->ops->close(r->boot);
    cudaFree(d.x);
    cudaFreeHost(d.host);
    if (d.done)
        cudaEventDestroy(d.done);
    if (d.stream)
        cudaStreamDestroy(d.stream);
    return NULL;
}

static void start(int n_rank, int n, bool ring)
{
    struct lb_comm *boot[MAX_RANKS];
    lb_comm_threads_open(n_rank, boot);
    memset(results, 0, sizeof results);
    for (int i = 0; i < n_rank; i++) {
        for (int j = 0; j < n; j++)
            numbers[i][j] = ldexpf((float)(rand() % 20001 - 10000), rand() % 16);
        ranks[i] = (struct rank){0};
        ranks[i].number = i;
        ranks[i].n_rank = n_rank;
        ranks[i].n = n;
        ranks[i].ring = ring;
        ranks[i].boot = boot[i];
        ranks[i].mine = numbers[i];
        ranks[i].got = results[i];
    }
    for (int i = 0; i < n_rank; i++)
        assert_int_equal(pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]), 0);
}

static void finish(int n_rank)
{
    for (int i = 0; i < n_rank; i++)
        pthread_join(ranks[i].thread, NULL);
    if (*standin_reports())
        fail_msg("%s", standin_reports());
    if (standin_end() != 0)
        fail_msg("left over: %s", standin_reports());
}

static void check_bits(int n_rank, int n)
{
    const float *part[MAX_RANKS] = {0};
    float want[MAX_N];
    for (int i = 0; i < n_rank; i++)
        part[i] = numbers[i];
    lb_tree_add(want, part, n_rank, n);
    for (int i = 0; i < n_rank; i++) {
        if (ranks[i].status != LB_OK)
            fail_msg("rank %d: %s", i, ranks[i].err.text);
        for (int k = 0; k < N_ROUND; k++)
            assert_memory_equal(results[i] + k * n, want, (size_t)n * sizeof *want);
    }
}

static void test_tree_order(void **state)
{
    (void)state;
    static const int sizes[] = {1, 7, 256, MAX_N};
    for (int n_rank = 2; n_rank <= MAX_RANKS; n_rank++)
        for (int i = 0; i < 4; i++)
            for (int o = STANDIN_LATE; o <= STANDIN_SOON; o++) {
                standin_order((enum standin_order)o);
                start(n_rank, sizes[i], false);
                finish(n_rank);
                check_bits(n_rank, sizes[i]);
            }
    standin_order(STANDIN_LATE);
}

/* The ring adds in its own order: nearly the same numbers, the same on all ranks. */
static void test_ring(void **state)
{
    (void)state;
    int n_other = 0;
    start(4, MAX_N, true);
    finish(4);
    const float *part[] = {numbers[0], numbers[1], numbers[2], numbers[3]};
    float want[MAX_N];
    lb_tree_add(want, part, 4, MAX_N);
    for (int j = 0; j < MAX_N; j++) {
        float size = 0;
        for (int i = 0; i < 4; i++)
            size += fabsf(numbers[i][j]);
        n_other += results[0][j] != want[j];
        assert_true(fabsf(results[0][j] - want[j]) <= 4e-7f * size);
    }
    assert_true(n_other > 0);
    for (int i = 1; i < 4; i++)
        assert_memory_equal(results[i], results[0], sizeof results[0]);
}

static void test_late_rank(void **state)
{
    (void)state;
    standin_delay(1, 1, 60);
    start(3, 100, false);
    finish(3);
    standin_delay(-1, 0, 0);
    check_bits(3, 100);
}

static void *fail_later(void *comm)
{
    nanosleep(&(struct timespec){0, 50000000}, NULL);
    lb_comm_threads_fail(comm);
    return NULL;
}

/* A peer that never comes: what watches over the peers says so, and everybody gets out. */
static void test_absent_rank(void **state)
{
    (void)state;
    pthread_t watchdog;
    standin_delay(1, 1, -1);
    start(2, 100, false);
    assert_int_equal(pthread_create(&watchdog, NULL, fail_later, ranks[0].boot), 0);
    pthread_join(watchdog, NULL);
    finish(2);
    standin_delay(-1, 0, 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ranks[i].status, LB_E_DEVICE);
        assert_non_null(strstr(ranks[i].err.text, "another rank has failed"));
    }
}

static void test_asynchronous_error(void **state)
{
    (void)state;
    standin_delay(1, 1, -2);
    start(2, 100, false);
    finish(2);
    standin_delay(-1, 0, 0);
    int n_told = 0;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ranks[i].status, LB_E_DEVICE);
        n_told += strstr(ranks[i].err.text, "remote process exited") != NULL;
    }
    assert_true(n_told > 0);
}

/* The n-th call of all ranks together fails, for every n: an error of each rank, or of none that it did not reach. */
static void test_every_fault(void **state)
{
    (void)state;
    long step = whole_or(5);
    for (int dead = 0; dead < 2; dead++) {
        long n = 1;
        for (bool fired = true; fired; n += step) {
            standin_fail(n, dead);
            start(2, 50, false);
            finish(2);
            fired = standin_failed() != NULL;
            standin_fail(0, false);
            if (fired && ranks[0].status == LB_OK && ranks[1].status == LB_OK)
                check_bits(2, 50); /* something was given back, or asked whether it is done */
            for (int i = 0; i < 2; i++)
                assert_true((ranks[i].status == LB_OK) == (ranks[i].err.text[0] == '\0'));
        }
        assert_true(n > 40);
    }
}

static void test_alone(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_comm *comm;
    struct lb_nccl_spec spec = {lb_comm_self(), NULL, false, NULL};
    assert_int_equal(lb_comm_nccl_open(&comm, &spec, &err), LB_OK);
    assert_ptr_equal(comm, lb_comm_self());
    assert_true(lb_comm_nccl_poll(comm, false, &err));
}

static int setup(void **state)
{
    (void)state;
    standin_devices(MAX_RANKS, (size_t)256 << 20);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree_order),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_late_rank),
        cmocka_unit_test(test_absent_rank),
        cmocka_unit_test(test_asynchronous_error),
        cmocka_unit_test(test_every_fault),
        cmocka_unit_test(test_alone),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
