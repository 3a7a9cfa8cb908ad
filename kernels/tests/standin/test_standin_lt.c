/* The stand-in of cuBLASLt against a product in f64, and which algorithms a user must turn down. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "kernels/tests/standin/standins.h"

#define OK(call) assert_int_equal(call, 0)
#define N_OUT 5
#define K 64
#define ROWS 20

/* y[ROWS, N_OUT] = x[ROWS, K] w[N_OUT, K]^T, all row-major: W transposed times x, column by column */
struct setup {
    cudaStream_t stream;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatmulPreference_t preference;
    void *w, *x, *y, *workspace;
    float *host;
    cublasLtMatmulHeuristicResult_t found[8];
    int n_found;
};

static struct setup s;
static double wide_w[N_OUT][K], wide_x[ROWS][K];

static uint16_t bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return (uint16_t)(u >> 16);
}

/* Numbers that bf16 holds, the same in both types; of sizes so different that sums are rounded. */
static void fill(void *to, double *wide, int n, cudaDataType_t type)
{
    for (int i = 0; i < n; i++) {
        float v = ldexpf((float)(rand() % 255 - 127), rand() % 16);
        uint16_t half = bf16(v);
        memcpy((char *)s.host + (size_t)i * (type == CUDA_R_32F ? 4 : 2), type == CUDA_R_32F ? (void *)&v : &half,
               type == CUDA_R_32F ? 4 : 2);
        wide[i] = v;
    }
    OK(cudaMemcpyAsync(to, s.host, (size_t)n * (type == CUDA_R_32F ? 4 : 2), cudaMemcpyHostToDevice, s.stream));
    OK(cudaStreamSynchronize(s.stream));
}

static int begin(void **state)
{
    (void)state;
    cublasOperation_t t = CUBLAS_OP_T;
    uint64_t workspace = 8192;
    memset(&s, 0, sizeof s);
    OK(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking));
    OK(cublasLtCreate(&s.handle));
    OK(cublasLtMatmulDescCreate(&s.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    OK(cublasLtMatmulDescSetAttribute(s.desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t));
    OK(cublasLtMatmulPreferenceCreate(&s.preference));
    OK(cublasLtMatmulPreferenceSetAttribute(s.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                            sizeof workspace));
    OK(cudaMalloc(&s.w, N_OUT * K * 4));
    OK(cudaMalloc(&s.x, ROWS * K * 4));
    OK(cudaMalloc(&s.y, ROWS * N_OUT * 4));
    OK(cudaMalloc(&s.workspace, workspace));
    OK(cudaMallocHost((void **)&s.host, ROWS * K * 4));
    return 0;
}

static int end(void **state)
{
    (void)state;
    OK(cudaStreamDestroy(s.stream));
    OK(cublasLtDestroy(s.handle));
    OK(cublasLtMatmulDescDestroy(s.desc));
    OK(cublasLtMatmulPreferenceDestroy(s.preference));
    OK(cudaFree(s.w));
    OK(cudaFree(s.x));
    OK(cudaFree(s.y));
    OK(cudaFree(s.workspace));
    OK(cudaFreeHost(s.host));
    assert_string_equal(standin_reports(), "");
    assert_int_equal(standin_end(), 0);
    return 0;
}

/* Rows first .. first + n - 1 by the algorithm of this number, into y; -1: only the list of algorithms. */
static void product(int which, int first, int n, cudaDataType_t type, float *y)
{
    cublasLtMatrixLayout_t w, x, out;
    float one = 1, zero = 0;
    size_t size = type == CUDA_R_32F ? 4 : 2;
    OK(cublasLtMatrixLayoutCreate(&w, type, K, N_OUT, K));
    OK(cublasLtMatrixLayoutCreate(&x, type, K, (uint64_t)n, K));
    OK(cublasLtMatrixLayoutCreate(&out, CUDA_R_32F, N_OUT, (uint64_t)n, N_OUT));
    OK(cublasLtMatmulAlgoGetHeuristic(s.handle, s.desc, w, x, out, out, s.preference, 8, s.found, &s.n_found));
    if (which >= 0) {
        OK(cublasLtMatmul(s.handle, s.desc, &one, s.w, w, (char *)s.x + (size_t)first * K * size, x, &zero, s.y, out,
                          s.y, out, &s.found[which].algo, s.workspace, 8192, s.stream));
        OK(cudaMemcpyAsync(s.host, s.y, (size_t)n * N_OUT * 4, cudaMemcpyDeviceToHost, s.stream));
        OK(cudaStreamSynchronize(s.stream));
        memcpy(y, s.host, (size_t)n * N_OUT * 4);
    }
    OK(cublasLtMatrixLayoutDestroy(w));
    OK(cublasLtMatrixLayoutDestroy(x));
    OK(cublasLtMatrixLayoutDestroy(out));
}

static int n_splits(int which)
{
    int32_t n;
    size_t written;
    OK(cublasLtMatmulAlgoConfigGetAttribute(&s.found[which].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &n, sizeof n,
                                            &written));
    return n;
}

static void check_type(cudaDataType_t type)
{
    float all[ROWS * N_OUT], alone[N_OUT];
    int n_steady = 0, n_split = 0;
    fill(s.w, wide_w[0], N_OUT * K, type);
    fill(s.x, wide_x[0], ROWS * K, type);
    product(-1, 0, ROWS, type, NULL);
    assert_true(s.n_found >= 4);
    for (int which = 0; which < s.n_found; which++) {
        bool steady = true;
        product(which, 0, ROWS, type, all);
        for (int i = 0; i < ROWS; i++) {
            product(which, i, 1, type, alone);
            steady &= memcmp(alone, all + i * N_OUT, sizeof alone) == 0;
            for (int j = 0; j < N_OUT; j++) {
                double sum = 0, size = 0;
                for (int k = 0; k < K; k++) {
                    sum += wide_x[i][k] * wide_w[j][k];
                    size += fabs(wide_x[i][k] * wide_w[j][k]);
                }
                assert_true(fabs(sum - (double)all[i * N_OUT + j]) <= 4e-6 * size);
            }
        }
        n_steady += steady && n_splits(which) == 1;
        n_split += n_splits(which) != 1;
    }
    assert_int_equal(n_split, 1);
    assert_in_range(n_steady, 1, s.n_found - 2); /* one varies, one splits */
}

static void test_bf16(void **state)
{
    (void)state;
    check_type(CUDA_R_16BF);
}

static void test_f32(void **state)
{
    (void)state;
    check_type(CUDA_R_32F);
}

static void test_misuse(void **state)
{
    (void)state;
    cublasLtMatrixLayout_t w, x, out;
    float one = 1, zero = 0;
    OK(cublasLtMatrixLayoutCreate(&w, CUDA_R_16BF, K, N_OUT, K));
    OK(cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, K - 1, 1, K));
    OK(cublasLtMatrixLayoutCreate(&out, CUDA_R_32F, N_OUT, 1, N_OUT));
    assert_int_equal(
        cublasLtMatmul(s.handle, s.desc, &one, s.w, w, s.x, x, &zero, s.y, out, s.y, out, NULL, NULL, 0, s.stream),
        CUBLAS_STATUS_INVALID_VALUE);
    assert_non_null(strstr(standin_reports(), "is not 5 x 1"));
    standin_forget();
    OK(cublasLtMatrixLayoutDestroy(x));
    assert_int_equal(cublasLtMatrixLayoutDestroy(x), CUBLAS_STATUS_INVALID_VALUE);
    assert_non_null(strstr(standin_reports(), "is no layout that is open"));
    standin_forget();
    OK(cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, K, 1, K));
    assert_int_equal(cublasLtMatmul(s.handle, s.desc, &one, s.w, w, (char *)s.x + ROWS * K * 4 - 8, x, &zero, s.y, out,
                                    s.y, out, NULL, NULL, 0, s.stream),
                     CUBLAS_STATUS_INVALID_VALUE);
    assert_non_null(strstr(standin_reports(), "is not in device memory"));
    standin_forget();
    standin_fail(1, false);
    assert_int_equal(
        cublasLtMatmul(s.handle, s.desc, &one, s.w, w, s.x, x, &zero, s.y, out, s.y, out, NULL, NULL, 0, s.stream),
        CUBLAS_STATUS_EXECUTION_FAILED);
    assert_string_equal(standin_failed(), "cublasLtMatmul");
    standin_fail(0, false);
    OK(cublasLtMatrixLayoutDestroy(w));
    OK(cublasLtMatrixLayoutDestroy(x));
    OK(cublasLtMatrixLayoutDestroy(out));
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {T(test_bf16), T(test_f32), T(test_misuse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
