/* The stand-in of NCCL: each kind of misuse is seen. What is right is in core/tests/cuda/test_comm_nccl.c. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <nccl.h>

#include "kernels/tests/standin/standins.h"

#define N 64
#define OK(call) assert_int_equal(call, 0)

struct rank {
    pthread_t thread;
    int number;
    ncclUniqueId id;
    ncclComm_t comm;
    cudaStream_t stream;
    float *x, *y;
    ncclResult_t result;
};

static struct rank ranks[2];

static void *open_rank(void *ctx)
{
    struct rank *r = ctx;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    cudaSetDevice(r->number);
    r->result = ncclCommInitRankConfig(&r->comm, 2, r->id, r->number, &config);
    return NULL;
}

/* One thread has both ranks' devices from here on: whatever waits, waits for what the other was asked for already. */
static int begin(void **state)
{
    (void)state;
    ncclUniqueId id;
    OK(ncclGetUniqueId(&id));
    for (int i = 0; i < 2; i++) {
        ranks[i] = (struct rank){.number = i, .id = id};
        OK(pthread_create(&ranks[i].thread, NULL, open_rank, &ranks[i]));
    }
    for (int i = 0; i < 2; i++) {
        struct rank *r = &ranks[i];
        OK(pthread_join(r->thread, NULL));
        OK(r->result);
        OK(cudaSetDevice(i));
        OK(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking));
        OK(cudaMalloc((void **)&r->x, N * sizeof *r->x));
        OK(cudaMalloc((void **)&r->y, 2 * N * sizeof *r->y));
        OK(cudaMemsetAsync(r->x, i, N * sizeof *r->x, r->stream));
    }
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct rank *r = &ranks[i];
        OK(cudaSetDevice(i));
        OK(cudaStreamSynchronize(r->stream));
        if (r->comm)
            OK(ncclCommDestroy(r->comm));
        OK(cudaStreamDestroy(r->stream));
        OK(cudaFree(r->x));
        OK(cudaFree(r->y));
    }
    assert_string_equal(standin_reports(), "");
    assert_int_equal(standin_end(), 0);
    return 0;
}

static void expect(const char *text)
{
    if (!strstr(standin_reports(), text))
        fail_msg("'%s' was expected, and reported is '%s'", text, standin_reports());
    standin_forget();
}

static void gather(struct rank *r, size_t n)
{
    OK(ncclAllGather(r->x, r->y, n, ncclFloat32, r->comm, r->stream));
}

static void test_whole(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        gather(&ranks[i], N);
    uint8_t got[2 * N * sizeof(float)];
    for (int i = 0; i < 2; i++) {
        OK(cudaSetDevice(i));
        OK(cudaMemcpyAsync(got, ranks[i].y, sizeof got, cudaMemcpyDeviceToHost, ranks[i].stream));
        assert_int_equal(got[N * sizeof(float) - 1], 0);
        assert_int_equal(got[N * sizeof(float)], 1);
    }
}

static void test_other_counts(void **state)
{
    (void)state;
    gather(&ranks[0], N);
    gather(&ranks[1], N - 1);
    OK(cudaStreamSynchronize(ranks[0].stream));
    expect("meets another collective");
    ncclResult_t async;
    OK(ncclCommGetAsyncError(ranks[0].comm, &async));
    assert_int_equal(async, ncclRemoteError);
}

static void test_other_memory(void **state)
{
    (void)state;
    struct rank *r = &ranks[0];
    float host[N] = {0};
    assert_int_equal(ncclAllGather(host, r->y, N, ncclFloat32, r->comm, r->stream), ncclInvalidArgument);
    expect("not in device memory");
    assert_int_equal(ncclAllGather(r->x, r->y, N + 1, ncclFloat32, r->comm, r->stream), ncclInvalidArgument);
    expect("not in device memory");
}

/* Its stream reads what another stream is to write. */
static void test_unordered(void **state)
{
    (void)state;
    cudaStream_t other;
    OK(cudaSetDevice(0));
    OK(cudaStreamSynchronize(ranks[0].stream));
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    OK(cudaMemsetAsync(ranks[0].x, 1, N, other));
    for (int i = 0; i < 2; i++)
        gather(&ranks[i], N);
    OK(cudaStreamSynchronize(ranks[0].stream));
    OK(cudaStreamDestroy(other));
    expect("no event orders them");
}

static void test_destroyed_early(void **state)
{
    (void)state;
    gather(&ranks[0], N);
    OK(ncclCommDestroy(ranks[0].comm));
    expect("1 collectives of the communicator are still to be done");
    assert_int_equal(ncclCommDestroy(ranks[0].comm), ncclInvalidArgument);
    expect("is no communicator that is open");
    ranks[0].comm = NULL;
}

/* NCCL wants graphs to go before the communicator whose collectives they have. */
static void test_graph_outlives(void **state)
{
    (void)state;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    struct rank *r = &ranks[0];
    OK(cudaSetDevice(0));
    OK(cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal));
    ncclResult_t result = ncclAllGather(r->x, r->y, N, ncclFloat32, r->comm, r->stream);
    assert_true(result == ncclSuccess || result == ncclInProgress);
    OK(cudaStreamEndCapture(r->stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    OK(ncclCommDestroy(r->comm));
    expect("a graph has collectives of the communicator still");
    r->comm = NULL;
    assert_int_equal(cudaGraphLaunch(exec, r->stream), cudaErrorInvalidValue);
    expect("is no communicator that is open");
    OK(cudaGraphExecDestroy(exec));
    cudaGetLastError();
}

/* A collective that one rank alone came to ends when that rank gives up. */
static void test_abort(void **state)
{
    (void)state;
    gather(&ranks[0], N);
    assert_int_equal(cudaStreamQuery(ranks[0].stream), cudaErrorNotReady);
    OK(ncclCommAbort(ranks[0].comm));
    ranks[0].comm = NULL;
    OK(cudaSetDevice(0));
    OK(cudaStreamSynchronize(ranks[0].stream));
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_whole),           T(test_other_counts),   T(test_other_memory), T(test_unordered),
        T(test_destroyed_early), T(test_graph_outlives), T(test_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
