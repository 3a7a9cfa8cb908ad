/* The ids that the kernel of cuda_sample.cu draws, on the model of a block, and those of the host (core/run/sample.h),
 * by candidates and by reading whole rows: all the same. LB_TEST_FULL=1: forty times as many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cuda_runtime_api.h>
#include <math.h>

#include "core/run/sample.h"
#include "core/tests/randomrow.h"
#include "core/tests/whole.h"
#include "kernels/cuda/lk_cuda_ids.h"
#include "kernels/tests/standin/standins.h"

enum { N_ROW = 24, MOST = 4000, BLOCKS = (MOST + LK_HEAD_BLOCK - 1) / LK_HEAD_BLOCK };

static struct lb_sampling set[N_ROW];
/* pinned */
static float (*x)[MOST]; /* [N_ROW] */
static struct lk_draw *draw;
static int32_t *got;

static struct lb_sampling some_settings(int64_t n)
{
    static const double temperature[] = {1, 0.7, 0.3, 1.8, 1e-4, 50}, top_p[] = {1, 1, 0.9, 0.95, 0.4, 1e-12, 0.9999},
                        min_p[] = {0, 0, 0, 0.05, 0.5, 1, 1e-6};
    const int64_t top_k[] = {0, 0, 0, 1, 2, 20, 50, 256, 257, 1000, 2049, n - 1, n, n + 1};
    return (struct lb_sampling){.temperature = temperature[below(6)],
                                .top_p = top_p[below(7)],
                                .min_p = min_p[below(7)],
                                .top_k = top_k[below(14)]};
}

/* As many logits, spread so far, those that are nearest to each other equal: apart by `step`. */
static void some_row(float *row, int64_t n, double spread, double step)
{
    for (int64_t i = 0; i < n; i++) {
        double v = spread * (uniform() + uniform() + uniform() - 1.5);
        row[i] = (float)(step > 0 ? floor(v / step) * step : v);
    }
    if (below(4) == 0)
        row[below(n)] = (float)(3 * spread);
}

#define OK(call) assert_int_equal(call, 0)

static void *device(size_t bytes)
{
    void *p;
    OK(cudaMalloc(&p, bytes));
    return p;
}

/* got[i] of x[i] by draw[i]. */
static void draw_all(cudaStream_t stream, int64_t n)
{
    size_t x_bytes = N_ROW * sizeof *x, draw_bytes = N_ROW * sizeof *draw, id_bytes = N_ROW * sizeof *got;
    float *dx = device(x_bytes);
    struct lk_draw *ddraw = device(draw_bytes);
    struct lk_best *best = device(N_ROW * BLOCKS * sizeof *best);
    int32_t *id = device(id_bytes);
    struct lk_blocks_best b = {dx, MOST, N_ROW, n, best};
    struct lk_sample s = {dx, MOST, N_ROW, n, best, ddraw, id};
    OK(cudaMemcpyAsync(dx, x, x_bytes, cudaMemcpyHostToDevice, stream));
    OK(cudaMemcpyAsync(ddraw, draw, draw_bytes, cudaMemcpyHostToDevice, stream));
    OK(lk_cuda_best(&b, stream));
    OK(lk_cuda_sample(&s, stream));
    OK(cudaMemcpyAsync(got, id, id_bytes, cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaFree(dx));
    OK(cudaFree(ddraw));
    OK(cudaFree(best));
    OK(cudaFree(id));
}

static void check_row(int i, int64_t n)
{
    static int32_t order[MOST];
    int32_t top_id[LK_TOP];
    float top_logit[LK_TOP];
    for (int64_t k = 0; k < n; k++)
        order[k] = (int32_t)k;
    sort_logits = x[i];
    qsort(order, (size_t)n, sizeof *order, by_order);
    for (int64_t k = 0; k < LK_TOP; k++) {
        top_id[k] = k < n ? order[k] : -1;
        top_logit[k] = k < n ? x[i][order[k]] : -INFINITY;
    }
    const struct lb_cand cand = {.best = order[0],
                                 .best_logit = x[i][order[0]],
                                 .finite = true,
                                 .logits = x[i],
                                 .top_id = top_id,
                                 .top_logit = top_logit};
    int32_t whole = lb_sample_draw_whole(&set[i], &cand, n, draw[i].u);
    if (got[i] != whole || got[i] != lb_sample_draw(&set[i], &cand, n, draw[i].u, NULL))
        fail_msg("of %lld ids, temperature %g, top_k %lld, top_p %g, min_p %g, u %.17g: %d instead of %d", (long long)n,
                 set[i].temperature, (long long)set[i].top_k, set[i].top_p, set[i].min_p, draw[i].u, got[i], whole);
}

static void test_as_the_host(void **state)
{
    (void)state;
    static const double spreads[] = {0.01, 1, 3, 10, 60}, steps[] = {0, 0, 0.25, 2, 100};
    int n_batch = is_whole() ? 480 : is_sanitized() ? 4 : 12;
    cudaStream_t stream;
    random_state = 2;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    OK(cudaMallocHost((void **)&x, N_ROW * sizeof *x));
    OK(cudaMallocHost((void **)&draw, N_ROW * sizeof *draw));
    OK(cudaMallocHost((void **)&got, N_ROW * sizeof *got));
    memset(x, 0, N_ROW * sizeof *x);
    for (int k = 0; k < n_batch; k++) {
        int64_t n = k % 4 == 0 ? MOST - below(1000) : 1 + below(k % 4 == 1 ? 20 : 1500);
        for (int i = 0; i < N_ROW; i++) {
            some_row(x[i], n, spreads[below(5)], steps[below(5)]);
            set[i] = some_settings(n);
            static const double least = 0.5 / 4294967296.0;
            double u = ((double)below((int64_t)1 << 32) + 0.5) / 4294967296.0;
            draw[i] = lb_sample_draw_of(&set[i], i == 0 ? least : i == 1 ? 1 - least : u);
        }
        draw_all(stream, n);
        for (int i = 0; i < N_ROW; i++)
            check_row(i, n);
    }
    OK(cudaStreamDestroy(stream));
    OK(cudaFreeHost(x));
    OK(cudaFreeHost(draw));
    OK(cudaFreeHost(got));
    assert_string_equal(standin_reports(), "");
    assert_int_equal(standin_end(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_the_host)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
