/* checkkernels --bench int8 [SET]: products in int8 against the same set's plain ones, 2048 columns by 8192 outputs as
 * in a model of 1B, one thread, weights cold, in turns so that both see the same machine. Quantizing the rows is part
 * of int8's time. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <time.h>

#include "kernels/tests/check.h"

enum { N_COL = 2048, N_OUT = 8192, N_MANY = 512 };
#define COLD_BYTES ((int64_t)80 << 20)

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* Copies of a matrix that are used in turn. */
struct copies {
    uint8_t *w;
    size_t bytes;
    int64_t n, next;
};

static void copies_new(struct copies *c, const struct lk_cpu *as, const float *w, const struct lk_cols *cols)
{
    uint8_t *one = check_pack(as, w, N_OUT, cols, 0);
    *c = (struct copies){.bytes = as->weight_bytes(N_OUT, cols)};
    c->n = lk_ceil_div(COLD_BYTES, (int64_t)c->bytes);
    c->w = mmap(NULL, (size_t)c->n * c->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->w == MAP_FAILED) {
        fprintf(stderr, "checkkernels: no memory\n");
        exit(1);
    }
    madvise(c->w, (size_t)c->n * c->bytes, MADV_HUGEPAGE);
    for (int64_t i = 0; i < c->n; i++)
        memcpy(c->w + (size_t)i * c->bytes, one, c->bytes);
    free(one);
}

static const void *copies_next(struct copies *c)
{
    return c->w + (size_t)(c->next++ % c->n) * c->bytes;
}

static void compare(const struct lk_cpu *t, struct copies *plain, struct copies *int8, int64_t n_row)
{
    struct lk_cols cols;
    check_even_cols(&cols, N_COL, 1, 32);
    float *values = check_new((size_t)(n_row * N_COL), sizeof *values);
    float *y = check_new((size_t)(n_row * N_OUT), sizeof *y);
    struct lk_act a = check_random_act(t, n_row, &cols, values);
    struct lk_quantize quantize = {check_new(t->int8.act_bytes(n_row, &cols), 1), a};
    struct lk_linear args = {.a = a, .n_out = N_OUT, .y = y, .y_ld = N_OUT, .l2_bytes = lk_cpu_l2_bytes()};
    double best = 1e9, quantized = 1e9, multiplied = 1e9;
    for (int round = 0; round < (n_row < N_MANY ? 30 : 3); round++) {
        args.w = copies_next(plain);
        args.a.data = a.data;
        double begin = now();
        t->linear(&args, 0, t->linear_items(&args));
        best = fmin(best, now() - begin);
        args.w = copies_next(int8);
        args.a.data = quantize.q;
        begin = now();
        t->int8.quantize(&quantize, 0, t->int8.quantize_items(&quantize));
        double middle = now();
        t->int8.linear(&args, 0, t->int8.linear_items(&args));
        quantized = fmin(quantized, middle - begin);
        multiplied = fmin(multiplied, now() - middle);
    }
    double flop = 2.0 * (double)n_row * N_COL * N_OUT, both = quantized + multiplied;
    printf("M %4lld  plain %9.1f us %6.1f GFLOP/s %5.1f GB/s\n", (long long)n_row, best * 1e6, flop / best * 1e-9,
           (double)plain->bytes / best * 1e-9);
    printf("         int8 %9.1f us %6.1f GFLOP/s %5.1f GB/s  %.2f of plain's rate (quantizing %.1f us)\n", both * 1e6,
           flop / both * 1e-9, (double)int8->bytes / both * 1e-9, best / both, quantized * 1e6);
    free(quantize.q);
    free(a.data);
    free(values);
    free(y);
}

void check_bench_int8(const struct lk_cpu *t)
{
    static const int64_t row_of[] = {1, 2, 4, 8, 16, 64, N_MANY};
    struct lk_cols cols;
    struct lk_cpu as = *t; /* check_pack with the int8 order */
    struct copies plain, int8;
    float *w = check_new((size_t)N_COL * N_OUT, sizeof *w);
    check_even_cols(&cols, N_COL, 1, 32);
    check_fill(w, (int64_t)N_COL * N_OUT, -0.1f, 0.1f);
    copies_new(&plain, t, w, &cols);
    as.weight_bytes = t->int8.weight_bytes;
    as.pack = t->int8.pack;
    copies_new(&int8, &as, w, &cols);
    free(w);
    for (size_t i = 0; i < sizeof row_of / sizeof row_of[0]; i++)
        compare(t, &plain, &int8, row_of[i]);
    munmap(plain.w, (size_t)plain.n * plain.bytes);
    munmap(int8.w, (size_t)int8.n * int8.bytes);
}
