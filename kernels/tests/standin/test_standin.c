/* The stand-in of the runtime: what is right passes, and each kind of misuse is seen. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/lk_cuda.h"
#include "kernels/tests/standin/standins.h"

#define N 256

static cudaStream_t one, two;
static cudaEvent_t event;
static float *x, *y, *host, *back;

#define OK(call) assert_int_equal(call, 0)

static int begin(void **state)
{
    (void)state;
    standin_order(STANDIN_LATE);
    OK(cudaSetDevice(0));
    OK(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking));
    OK(cudaStreamCreateWithFlags(&two, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    OK(cudaMalloc((void **)&x, N * sizeof *x));
    OK(cudaMalloc((void **)&y, N * sizeof *y));
    OK(cudaMallocHost((void **)&host, N * sizeof *host));
    OK(cudaMallocHost((void **)&back, N * sizeof *back));
    for (int i = 0; i < N; i++)
        host[i] = (float)i;
    return 0;
}

static int end(void **state)
{
    (void)state;
    OK(cudaStreamDestroy(one));
    OK(cudaStreamDestroy(two));
    OK(cudaEventDestroy(event));
    OK(cudaFree(x));
    OK(cudaFree(y));
    OK(cudaFreeHost(host));
    OK(cudaFreeHost(back));
    assert_string_equal(standin_reports(), "");
    assert_int_equal(standin_end(), 0);
    return 0;
}

/* What was reported says this, and nothing else was. */
static void expect(const char *text)
{
    const char *all = standin_reports();
    if (!strstr(all, text) || strchr(all, '\n') != all + strlen(all) - 1)
        fail_msg("'%s' was expected, and reported is '%s'", text, all);
    standin_forget();
}

static void up(cudaStream_t s)
{
    OK(cudaMemcpyAsync(x, host, N * sizeof *x, cudaMemcpyHostToDevice, s));
}

/* y = part 0 + part 1 of x, of half its numbers each */
static int kernel(cudaStream_t s)
{
    struct lk_tree t = {.y = y, .y_ld = N / 2, .part = x, .part_ld = N / 2, .n_row = 1, .n_col = N / 2, .n_part = 2};
    return lk_cuda_tree(&t, s);
}

static void down(cudaStream_t s)
{
    OK(cudaMemcpyAsync(back, y, N / 2 * sizeof *y, cudaMemcpyDeviceToHost, s));
}

static void check_back(void)
{
    for (int i = 0; i < N / 2; i++)
        assert_true(back[i] == (float)(i + i + N / 2));
}

static void order(cudaStream_t first, cudaStream_t then)
{
    OK(cudaEventRecord(event, first));
    OK(cudaStreamWaitEvent(then, event, 0));
}

static void test_ordered(void **state)
{
    (void)state;
    for (int o = STANDIN_LATE; o <= STANDIN_SOON; o++) {
        standin_order((enum standin_order)o);
        up(one);
        order(one, two);
        OK(kernel(two));
        order(two, one);
        down(one);
        OK(cudaStreamSynchronize(one));
        check_back();
    }
}

static void test_late(void **state)
{
    (void)state;
    up(one);
    OK(kernel(one));
    down(one);
    OK(cudaEventRecord(event, one));
    assert_true(back[0] != (float)(N / 2)); /* nobody has waited */
    int n = 0;
    while (cudaEventQuery(event) == cudaErrorNotReady)
        n++;
    assert_true(n > 0);
    check_back();
}

static void test_stream_reads_early(void **state)
{
    (void)state;
    up(one);
    OK(cudaStreamSynchronize(one));
    up(one);
    OK(kernel(two));
    OK(cudaStreamSynchronize(one));
    OK(cudaStreamSynchronize(two));
    expect("cudaMemcpyAsync of another stream");
}

static void test_stream_writes_early(void **state)
{
    (void)state;
    up(one);
    OK(kernel(one));
    up(two); /* x is read still */
    OK(cudaStreamSynchronize(one));
    OK(cudaStreamSynchronize(two));
    expect("cudaMemcpyAsync writes");
}

static void test_host_changes_source(void **state)
{
    (void)state;
    up(one);
    host[3] = 7;
    OK(cudaStreamSynchronize(one));
    expect("the host changed the pinned memory");
}

static void test_unwritten(void **state)
{
    (void)state;
    OK(kernel(one));
    OK(cudaStreamSynchronize(one));
    expect("which nothing has written");
}

static void test_host_reads_device(void **state)
{
    (void)state;
    up(one);
    OK(cudaStreamSynchronize(one));
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*(volatile float *)x == 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void test_kernel_leaves_buffer(void **state)
{
    (void)state;
    up(one);
    struct lk_tree t = {.y = y, .y_ld = N, .part = x, .part_ld = N, .n_row = 1, .n_col = N, .n_part = 2};
    OK(lk_cuda_tree(&t, one));
    assert_int_equal(cudaStreamSynchronize(one), cudaErrorIllegalAddress);
    assert_non_null(strstr(cudaGetErrorString(cudaErrorIllegalAddress), "tree"));
    assert_int_equal(cudaMemsetAsync(y, 0, 4, one), cudaErrorIllegalAddress); /* for good */
    standin_forget();
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(cudaMemcpyAsync(x, host, N * sizeof *x + 1, cudaMemcpyHostToDevice, one), cudaErrorInvalidValue);
    expect("outside of an allocation");
    assert_int_equal(cudaMemcpyAsync(host, x, 4, cudaMemcpyHostToDevice, one), cudaErrorInvalidValue);
    expect("not where the kind");
    float local = 0;
    assert_int_equal(cudaMemcpyAsync(x, &local, 4, cudaMemcpyHostToDevice, one), cudaErrorInvalidValue);
    expect("not pinned");
    assert_int_equal(cudaMemsetAsync(x + 1, 0, N * sizeof *x, one), cudaErrorInvalidValue);
    expect("not device memory");
}

static void test_handles(void **state)
{
    (void)state;
    cudaEvent_t e;
    OK(cudaEventCreateWithFlags(&e, 0));
    OK(cudaEventDestroy(e));
    assert_int_equal(cudaEventDestroy(e), cudaErrorInvalidResourceHandle);
    expect("is no event that is open");
    assert_int_equal(cudaEventRecord(event, NULL), cudaErrorInvalidResourceHandle);
    expect("is no stream that is open");
    assert_int_equal(kernel(NULL), cudaErrorInvalidResourceHandle);
    expect("default stream");
    void *p;
    OK(cudaMalloc(&p, 8));
    OK(cudaFree(p));
    assert_int_equal(cudaFree(p), cudaErrorInvalidValue);
    expect("no such allocation");
    assert_int_equal(cudaFreeHost(x), cudaErrorInvalidValue);
    expect("no such allocation");
}

static void test_leaks(void **state)
{
    (void)state;
    cudaEvent_t e;
    void *p;
    standin_end(); /* the group's own */
    standin_forget();
    OK(cudaEventCreateWithFlags(&e, 0));
    OK(cudaMalloc(&p, 1234));
    standin_end();
    assert_non_null(strstr(standin_reports(), "1234 bytes of device memory"));
    OK(cudaFree(p));
    OK(cudaEventDestroy(e));
    standin_forget();
}

static void test_pinned_freed_early(void **state)
{
    (void)state;
    void *p;
    OK(cudaMallocHost(&p, 16));
    memset(p, 0, 16);
    OK(cudaMemcpyAsync(x, p, 16, cudaMemcpyHostToDevice, one));
    pid_t child = fork(); /* the copy itself would crash */
    if (child == 0) {
        cudaFreeHost(p);
        _exit(strstr(standin_reports(), "used by work") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    OK(cudaStreamSynchronize(one));
    OK(cudaFreeHost(p));
}

static void test_memory_ends(void **state)
{
    (void)state;
    size_t left, total;
    void *p;
    standin_devices(2, 1 << 20);
    OK(cudaMemGetInfo(&left, &total));
    assert_int_equal(total, 1 << 20);
    assert_int_equal(left, (1 << 20) - 2 * N * (int)sizeof *x);
    assert_int_equal(cudaMalloc(&p, left + 1), cudaErrorMemoryAllocation);
    OK(cudaMalloc(&p, left));
    OK(cudaFree(p));
    assert_int_equal(cudaSetDevice(2), cudaErrorInvalidDevice);
    standin_devices(4, (size_t)256 << 20);
}

static void test_other_device(void **state)
{
    (void)state;
    cudaStream_t s;
    up(one);
    OK(cudaStreamSynchronize(one));
    OK(cudaSetDevice(1));
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    OK(kernel(s));
    OK(cudaStreamSynchronize(s));
    assert_non_null(strstr(standin_reports(), "device 1 touches memory of device 0"));
    OK(cudaStreamDestroy(s));
    standin_forget();
}

static void test_graph(void **state)
{
    (void)state;
    cudaGraph_t graph;
    cudaGraphExec_t x2;
    OK(cudaStreamBeginCapture(one, cudaStreamCaptureModeThreadLocal));
    OK(kernel(one));
    down(one);
    OK(cudaStreamEndCapture(one, &graph));
    OK(cudaGraphInstantiate(&x2, graph, 0));
    OK(cudaGraphDestroy(graph));
    for (int i = 0; i < 2; i++) {
        memset(back, 0, N * sizeof *back);
        up(one);
        OK(cudaGraphLaunch(x2, one));
        OK(cudaStreamSynchronize(one));
        check_back();
    }
    OK(cudaGraphExecDestroy(x2));
}

/* Calls that a stream which is recorded does not bear: each is an error, and so is the recording's end. */
enum forbidden {
    SYNC,
    QUERY,
    DEVICE_SYNC,
    ALLOCATE,
    ALLOCATE_PINNED,
    COPY,
    TO_PAGEABLE,
    RECORD,
    ASK_EVENT,
    AWAIT_EVENT
};

static cudaError_t forbidden(enum forbidden which)
{
    static float pageable[1];
    void *p;
    switch (which) {
    case SYNC:
        return cudaStreamSynchronize(one);
    case QUERY:
        return cudaStreamQuery(one);
    case DEVICE_SYNC:
        return cudaDeviceSynchronize();
    case ALLOCATE:
        return cudaMalloc(&p, 8);
    case ALLOCATE_PINNED:
        return cudaMallocHost(&p, 8);
    case COPY:
        return cudaMemcpy(x, host, 8, cudaMemcpyHostToDevice);
    case TO_PAGEABLE:
        return cudaMemcpyAsync(pageable, x, 4, cudaMemcpyDeviceToHost, one);
    case RECORD:
        return cudaEventRecord(event, one);
    case ASK_EVENT:
        return cudaEventQuery(event);
    default:
        return cudaEventSynchronize(event);
    }
}

static void test_graph_forbids(void **state)
{
    (void)state;
    OK(cudaEventRecord(event, one));
    for (enum forbidden i = SYNC; i <= AWAIT_EVENT; i++) {
        cudaGraph_t graph;
        OK(cudaStreamBeginCapture(one, cudaStreamCaptureModeThreadLocal));
        OK(kernel(one));
        assert_int_not_equal(forbidden(i), cudaSuccess);
        expect("is recorded");
        assert_int_equal(cudaStreamEndCapture(one, &graph), cudaErrorStreamCaptureInvalidated);
        assert_null(graph);
    }
    cudaGetLastError();
}

static cudaGraphExec_t recorded(void)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaStreamBeginCapture(one, cudaStreamCaptureModeThreadLocal));
    up(one);
    OK(kernel(one));
    OK(cudaStreamEndCapture(one, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    return exec;
}

static void test_graph_handles(void **state)
{
    (void)state;
    cudaGraphExec_t exec = recorded();
    assert_int_not_equal(standin_end(), 0);
    assert_non_null(strstr(standin_reports(), "executable graph"));
    standin_forget();
    OK(cudaGraphLaunch(exec, one));
    OK(cudaGraphExecDestroy(exec)); /* nobody has waited */
    expect("work that is still to be done");
    OK(cudaStreamSynchronize(one));
    assert_int_equal(cudaGraphLaunch(exec, one), cudaErrorInvalidValue);
    expect("is no executable graph");
    assert_int_equal(cudaGraphExecDestroy(exec), cudaErrorInvalidValue);
    expect("is no executable graph");
    cudaGetLastError();
}

static void test_graph_of_freed(void **state)
{
    (void)state;
    cudaGraphExec_t exec = recorded();
    OK(cudaFree(x));
    assert_int_equal(cudaGraphLaunch(exec, one), cudaErrorInvalidValue);
    expect("whose memory is freed");
    OK(cudaGraphExecDestroy(exec));
    OK(cudaMalloc((void **)&x, N * sizeof *x));
    cudaGetLastError();
}

/* A graph's work is its stream's: what another one does to the same bytes is to be ordered with each replay. */
static void test_graph_unordered(void **state)
{
    (void)state;
    cudaGraphExec_t exec = recorded();
    OK(cudaGraphLaunch(exec, one));
    order(one, two);
    down(two);
    OK(cudaStreamSynchronize(two));
    check_back();
    OK(cudaGraphLaunch(exec, one));
    down(two);
    OK(cudaStreamSynchronize(one));
    OK(cudaStreamSynchronize(two));
    expect("no event orders them");
    OK(cudaGraphExecDestroy(exec));
}

static void test_faults(void **state)
{
    (void)state;
    standin_fail(2, false);
    up(one);
    assert_int_equal(kernel(one), cudaErrorLaunchFailure);
    assert_string_equal(standin_failed(), "tree");
    OK(cudaStreamSynchronize(one));
    standin_fail(1, true);
    assert_int_equal(cudaStreamSynchronize(one), cudaErrorLaunchFailure);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    void *p = &p;
    assert_int_equal(cudaMalloc(&p, 8), cudaErrorLaunchFailure);
    standin_fail(0, false);
}

static void test_rows_apart(void **state)
{
    (void)state;
    up(one);
    OK(cudaMemset2DAsync(y, 16, 0, 8, N / 4, one));
    OK(cudaMemcpy2DAsync((char *)y + 8, 16, x, 8, 8, N / 4, cudaMemcpyDeviceToDevice, one));
    OK(cudaMemcpyAsync(back, y, N * sizeof *y, cudaMemcpyDeviceToHost, one));
    OK(cudaStreamSynchronize(one));
    for (int i = 0; i < N; i++)
        assert_true(back[i] == (i % 4 < 2 ? 0 : (float)(i / 4 * 2 + i % 2)));
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_ordered),
        T(test_late),
        T(test_stream_reads_early),
        T(test_stream_writes_early),
        T(test_host_changes_source),
        T(test_unwritten),
        T(test_host_reads_device),
        T(test_kernel_leaves_buffer),
        T(test_sizes),
        T(test_handles),
        T(test_leaks),
        T(test_pinned_freed_early),
        T(test_memory_ends),
        T(test_other_device),
        T(test_graph),
        T(test_graph_forbids),
        T(test_graph_handles),
        T(test_graph_of_freed),
        T(test_graph_unordered),
        T(test_faults),
        T(test_rows_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
