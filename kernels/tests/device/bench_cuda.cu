/* bench_cuda [--tflops N] [--gbs N] [NAME ...]: each kernel at shapes of an 8B model, as a share of what bounds it: the
 * device's bf16 peak or its memory, by name or as given. Times are of CUDA events around 20 launches, after 3. */
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <vector>

#include "kernels/cuda/lk_cuda_attend.h"
#include "kernels/cuda/lk_cuda_ids.h"

#define PAGE LK_PAGE_TOKENS

static double peak_flops, peak_bytes;
static int n_name;
static char **names;

static void must(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "bench_cuda: %s\n", cudaGetErrorString(e));
    exit(e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver ? 77 : 1);
}

/* Device memory with a pattern of small finite numbers, kept until the end. */
template <typename T> static T *room(int64_t n)
{
    void *p = NULL;
    must(cudaMalloc(&p, (size_t)n * sizeof(T)));
    must(cudaMemset(p, 0x3c, (size_t)n * sizeof(T)));
    return (T *)p;
}

template <typename T> static T *copied(const std::vector<T> &v)
{
    T *p = room<T>((int64_t)v.size());
    must(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

static bool wanted(const char *name)
{
    for (int i = 0; i < n_name; i++)
        if (strncmp(name, names[i], strlen(names[i])) == 0)
            return true;
    return n_name == 0;
}

/* One line: time, rates and the share of the bound that is nearer. */
static void time_it(const char *name, double flops, double bytes, const std::function<int()> &launch)
{
    enum { WARM = 3, RUNS = 20 };
    cudaEvent_t begin, end;
    float ms;
    must(cudaEventCreate(&begin));
    must(cudaEventCreate(&end));
    for (int i = 0; i < WARM; i++)
        must((cudaError_t)launch());
    must(cudaEventRecord(begin));
    for (int i = 0; i < RUNS; i++)
        must((cudaError_t)launch());
    must(cudaEventRecord(end));
    must(cudaEventSynchronize(end));
    must(cudaEventElapsedTime(&ms, begin, end));
    double s = (double)ms / 1e3 / RUNS, by_flops = flops / peak_flops, by_bytes = bytes / peak_bytes;
    double bound = by_flops > by_bytes ? by_flops : by_bytes;
    printf("%-44s %9.1f us %8.1f TFLOP/s %8.0f GB/s  %5.1f %% of %s\n", name, s * 1e6, flops / s / 1e12,
           bytes / s / 1e9, 100 * bound / s, by_flops > by_bytes ? "peak" : "memory");
}

static lk_cols one_segment(int64_t n)
{
    lk_cols c = {};
    c.n_col = c.begin[1] = c.packed[1] = n;
    c.n_seg = 1;
    return c;
}

static void bench_linear(int64_t n_row, int64_t n_out, int64_t k, lk_weight_format format)
{
    static const char *const formats[] = {"bf16", "int8", "int4", "fp8"};
    char name[80];
    snprintf(name, sizeof name, "linear %s %lld x %lld x %lld", formats[format], (long long)n_row, (long long)n_out,
             (long long)k);
    if (!wanted(name))
        return;
    lk_cols cols = one_segment(k);
    double w_bytes = (double)n_out * (double)k * (format == LK_W_BF16 ? 2 : format == LK_W_INT4 ? 0.5 : 1);
    lk_weight w = {room<uint8_t>((int64_t)w_bytes), format, NULL, NULL, NULL};
    if (format != LK_W_BF16) {
        w.scale = room<float>(n_out * k / 32);
        w_bytes += (double)(n_out * k / 8);
    }
    lk_linear a = {};
    a.a.data = room<uint16_t>(n_row * k);
    a.a.n_row = n_row;
    a.a.cols = &cols;
    a.n_out = a.y_ld = n_out;
    a.y = room<float>(n_row * n_out);
    time_it(name, 2.0 * (double)n_row * (double)n_out * (double)k,
            w_bytes + 2.0 * (double)(n_row * k) + 4.0 * (double)(n_row * n_out),
            [&] { return lk_cuda_linear(&a, &w, NULL, NULL); });
}

struct heads {
    int64_t n_head, n_kv, head_dim, v_dim;
};

/* n_seq sequences of `len` positions, the last n_tok of each in the step; the first `shared` pages are one sequence's.
 */
static void bench_attend(const char *kind, const heads &h, int64_t n_seq, int64_t len, int64_t n_tok, int64_t shared)
{
    char name[96];
    snprintf(name, sizeof name, "attend %s %lldx%lld %lld/%lld, %lld of %lld", kind, (long long)h.n_head,
             (long long)h.n_kv, (long long)h.head_dim, (long long)n_seq, (long long)n_tok, (long long)len);
    if (!wanted(name))
        return;
    int64_t pages = (len + PAGE - 1) / PAGE, n = n_seq * n_tok;
    std::vector<int32_t> page, start, pos;
    std::vector<lk_attn_seq> seq;
    for (int64_t i = 0; i < n_seq; i++) {
        start.push_back((int32_t)(i * pages));
        for (int64_t j = 0; j < pages; j++)
            page.push_back((int32_t)(j < shared ? j : i * pages + j));
        for (int64_t j = len - n_tok; j < len; j++)
            pos.push_back((int32_t)j);
    }
    for (int64_t i = 0; i < n_seq; i++)
        seq.push_back({(int32_t)(i * n_tok), (int32_t)n_tok, (int32_t)(len - n_tok), page.data() + i * pages});
    std::vector<lk_attn_work> item((size_t)lk_attn_plan_items(seq.data(), n_seq));
    std::vector<lk_attn_row> row((size_t)lk_attn_plan_rows(seq.data(), n_seq));
    int device = 0, most = 0;
    must(cudaGetDevice(&device));
    must(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    lk_attn_shape shape = {h.n_head, h.n_kv, h.v_dim, 0, (size_t)most, false};
    lk_attn_plan plan = {};
    lk_attn_plan_step(seq.data(), n_seq, &shape, item.data(), row.data(), &plan);
    plan.item = copied(item);
    plan.row = copied(row);
    plan.state = room<float>((int64_t)(lk_attn_state_bytes(plan.n_slot, h.n_head, h.v_dim) / sizeof(float)) + 1);
    lk_cols cols = one_segment(h.n_head * h.v_dim);
    lk_attend a = {};
    a.out.data = room<uint16_t>(n * h.n_head * h.v_dim);
    a.out.n_row = a.n_tok = n;
    a.out.cols = &cols;
    a.q = room<uint16_t>(n * h.n_head * h.head_dim);
    a.kv.k_page_bytes = PAGE * h.head_dim * 2;
    a.kv.v_page_bytes = PAGE * h.v_dim * 2;
    a.kv.k = room<uint8_t>(n_seq * pages * h.n_kv * a.kv.k_page_bytes);
    a.kv.v = room<uint8_t>(n_seq * pages * h.n_kv * a.kv.v_page_bytes);
    a.kv.n_kv_head = h.n_kv;
    a.kv.head_dim = h.head_dim;
    a.kv.v_dim = h.v_dim;
    a.n_head = h.n_head;
    a.pos = copied(pos);
    a.page_start = copied(start);
    a.page = copied(page);
    a.scale = 0.1f;
    double seen = (double)n_seq * (double)n_tok * ((double)len - (double)(n_tok - 1) / 2);
    double read = (double)(n_seq * pages - (n_seq - 1) * shared) * (double)h.n_kv *
                  (double)(a.kv.k_page_bytes + a.kv.v_page_bytes);
    time_it(name, 2 * seen * (double)h.n_head * (double)(h.head_dim + h.v_dim), read,
            [&] { return lk_cuda_attend(&a, &plan, NULL); });
}

static void bench_rows(int64_t n_row, int64_t dim)
{
    lk_cols cols = one_segment(dim);
    double n = (double)n_row * (double)dim;
    lk_norm norm = {
        {room<uint16_t>(n_row * dim), n_row, &cols}, room<float>(n_row * dim), NULL, room<float>(dim), 1e-5f};
    if (wanted("norm"))
        time_it("norm 4096 x 4096", 0, 6 * n, [&] { return lk_cuda_norm(&norm, LK_BF16, NULL); });
    lk_swiglu act = {{room<uint16_t>(n_row * dim), n_row, &cols}, room<float>(2 * n_row * dim), NULL};
    if (wanted("swiglu"))
        time_it("swiglu 4096 x 4096", 0, 10 * n, [&] { return lk_cuda_swiglu(&act, LK_BF16, NULL); });
    lk_tree tree = {
        room<float>(n_row * dim), dim, room<float>(8 * n_row * dim), n_row * dim, NULL, n_row, dim, 8, true};
    if (wanted("tree"))
        time_it("tree of 8, 4096 x 4096", 0, 40 * n, [&] { return lk_cuda_tree(&tree, NULL); });
}

static void bench_vocab(int64_t n_row, int64_t n_vocab)
{
    double bytes = 4.0 * (double)n_row * (double)n_vocab;
    float *logits = room<float>(n_row * n_vocab);
    std::vector<float> random((size_t)n_vocab);
    uint32_t state = 1;
    for (float &x : random) {
        state = state * 1664525u + 1013904223u;
        x = (float)(state >> 8) / (float)(1 << 24) * 20 - 10;
    }
    std::vector<const float *> rows;
    for (int64_t i = 0; i < n_row; i++) {
        must(cudaMemcpy(logits + i * n_vocab, random.data(), (size_t)n_vocab * sizeof(float), cudaMemcpyHostToDevice));
        rows.push_back(logits + i * n_vocab);
    }
    lk_blocks_best best = {logits, n_vocab, n_row, n_vocab, room<lk_best>(n_row * ((n_vocab + 255) / 256))};
    if (wanted("best"))
        time_it("best 256 x 151936", 0, bytes, [&] { return lk_cuda_best(&best, NULL); });
    lk_top top = {};
    top.n_row = n_row;
    top.n_vocab = n_vocab;
    top.logits = copied(rows);
    top.seg = copied(std::vector<int64_t>{0, n_vocab});
    top.n_seg = 1;
    top.lse = room<double>(n_row);
    top.id = room<int32_t>(n_row * LK_TOP);
    top.value = room<float>(n_row * LK_TOP);
    if (wanted("top"))
        time_it("top 256 x 151936", 0, bytes, [&] { return lk_cuda_top(&top, NULL); });
    static const struct {
        const char *name;
        lk_draw draw;
    } draws[] = {{"sample 256 x 151936", {1 / 0.7, -INFINITY, 1, 0.4, 0}},
                 {"sample 256 x 151936, top_k 40, top_p 0.9", {1 / 0.7, -INFINITY, 0.9, 0.4, 40}},
                 {"sample 256 x 151936, top_p 0.95", {1, -INFINITY, 0.95, 0.4, 0}},
                 {"sample 256 x 151936, min_p 0.05", {1, -3, 1, 0.4, 0}}};
    must((cudaError_t)lk_cuda_best(&best, NULL));
    for (const auto &d : draws) {
        std::vector<lk_draw> all((size_t)n_row, d.draw);
        lk_sample sample = {logits, n_vocab, n_row, n_vocab, best.best, copied(all), room<int32_t>(n_row)};
        if (wanted("sample"))
            time_it(d.name, 0, bytes, [&] { return lk_cuda_sample(&sample, NULL); });
    }
}

/* A device's peaks by its name: dense bf16, memory. */
static void find_peaks(void)
{
    static const struct {
        const char *name;
        double tflops, gbs;
    } known[] = {{"H200", 989, 4800}, {"H100 PCIe", 756, 2000}, {"H100", 989, 3350}, {"A100", 312, 2039}};
    cudaDeviceProp p;
    must(cudaGetDeviceProperties(&p, 0));
    for (const auto &k : known)
        if (peak_flops == 0 && strstr(p.name, k.name)) {
            peak_flops = k.tflops * 1e12;
            peak_bytes = k.gbs * 1e9;
        }
    printf("%s: %.0f TFLOP/s, %.0f GB/s\n", p.name, peak_flops / 1e12, peak_bytes / 1e9);
}

int main(int argc, char **argv)
{
    while (argc > 2 && argv[1][0] == '-') {
        double value = atof(argv[2]);
        if (strcmp(argv[1], "--tflops") == 0)
            peak_flops = value * 1e12;
        else
            peak_bytes = value * 1e9;
        argv += 2;
        argc -= 2;
    }
    n_name = argc - 1;
    names = argv + 1;
    find_peaks();
    static const int64_t rows[] = {1, 16, 64, 256, 1024, 4096};
    for (int64_t n : rows) {
        bench_linear(n, 4096, 4096, LK_W_BF16);
        bench_linear(n, 28672, 4096, LK_W_BF16);
    }
    for (lk_weight_format f : {LK_W_INT8, LK_W_INT4, LK_W_FP8}) {
        bench_linear(1, 28672, 4096, f);
        bench_linear(64, 28672, 4096, f);
    }
    static const heads shapes[] = {{32, 8, 64, 64}, {32, 8, 128, 128}, {16, 4, 256, 256}};
    for (const heads &h : shapes) {
        bench_attend("prompt", h, 8, 2048, 2048, 0);
        bench_attend("chunk", h, 4, 8192, 1024, 0);
        bench_attend("decode", h, 256, 2048, 1, 0);
        bench_attend("shared", h, 256, 2048, 1, 48);
    }
    bench_attend("prompt mla", {16, 1, 576, 512}, 4, 2048, 2048, 0);
    bench_attend("decode mla", {16, 1, 576, 512}, 256, 2048, 1, 0);
    bench_rows(4096, 4096);
    bench_vocab(256, 151936);
    return 0;
}
