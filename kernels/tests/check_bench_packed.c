/* checkkernels --bench packed [SET]: products of packed weights against the same set's plain ones, 2048 columns by 8192
 * outputs as in a model of 1B, one thread, weights cold, in turns so that both see the same machine. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <time.h>

#include "kernels/cpu/lk_packed.h"
#include "kernels/tests/check.h"

enum { N_COL = 2048, N_OUT = 8192, N_MANY = 512 };

static const struct form {
    const char *name;
    struct lk_packed q;
} forms[] = {
    {"Q8_0", {LK_PK_S8, LK_SC_F16, 32, 0}},  {"Q4_0", {LK_PK_S4, LK_SC_F16, 32, 0}},
    {"Q4_1", {LK_PK_A4, LK_SC_F16, 32, 0}},  {"Q4_K", {LK_PK_K4, LK_SC_F16, 256, 0}},
    {"Q6_K", {LK_PK_K6, LK_SC_F16, 256, 0}}, {"GPTQ", {LK_PK_Z4, LK_SC_F16, 128, 0}},
    {"int8", {LK_PK_Z8, LK_SC_F16, 128, 0}}, {"FP8", {LK_PK_E4M3, LK_SC_F32, 128, 0}},
};
enum { N_FORM = sizeof forms / sizeof forms[0] };

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* Copies of a matrix, so that each run finds its own in memory. */
struct copies {
    uint8_t *w;
    size_t bytes;
    int64_t n, next;
};

static bool copies_new(struct copies *c, size_t bytes)
{
    *c = (struct copies){.bytes = (bytes + 63) / 64 * 64};
    c->n = lk_ceil_div((int64_t)80 << 20, (int64_t)c->bytes);
    c->w = mmap(NULL, (size_t)c->n * c->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->w == MAP_FAILED) {
        printf("no memory\n");
        return false;
    }
    madvise(c->w, (size_t)c->n * c->bytes, MADV_HUGEPAGE);
    return true;
}

static void copies_fill(struct copies *c)
{
    for (int64_t i = 1; i < c->n; i++)
        memcpy(c->w + (size_t)i * c->bytes, c->w, c->bytes);
}

static void plain_new(struct copies *c, const struct lk_cpu *t, const struct lk_cols *cols)
{
    size_t bytes = t->weight_bytes(N_OUT, cols);
    if (!copies_new(c, bytes))
        exit(1);
    for (size_t i = 0; i < bytes / (t->type == LK_F32 ? 4 : 2); i++) {
        float x = check_uniform(-0.1f, 0.1f);
        if (t->type == LK_F32)
            ((float *)(void *)c->w)[i] = x;
        else
            ((uint16_t *)(void *)c->w)[i] = lk_round(x);
    }
    copies_fill(c);
}

static void packed_new(struct copies *c, const struct lk_cpu *t, const struct lk_cols *cols, const struct lk_packed *q)
{
    static uint8_t code[N_COL], byte[N_COL / 16];
    static uint32_t d[N_COL / 32];
    struct lk_codes col[64];
    if (!copies_new(c, t->packed_bytes(q, N_OUT, cols)))
        exit(1);
    for (int i = 0; i < N_COL / 32; i++)
        d[i] = q->scale == LK_SC_F16 ? 0x1c001c00u : 0x3a800000u;
    for (int i = 0; i < N_COL / 16; i++)
        byte[i] = (uint8_t)(check_random() % 16);
    for (int i = 0; i < N_COL; i++)
        code[i] = (uint8_t)(q->kind == LK_PK_E4M3 ? 8 + check_random() % 112 /* real ones are seldom subnormal */
                                                  : check_random() % (1u << lk_packed_bits(q->kind)));
    for (int j = 0; j < 64; j++)
        col[j] = (struct lk_codes){code, d, d, byte, byte, byte};
    for (int64_t p = 0; p * t->panel_cols < N_OUT; p++) {
        struct lk_pack_codes a = {c->w, p, col, q, cols};
        t->pack_codes(&a);
    }
    copies_fill(c);
}

/* One run in seconds. */
static double run(const struct lk_cpu *t, struct lk_linear *args, struct copies *c)
{
    args->w = c->w + (size_t)(c->next++ % c->n) * c->bytes;
    double begin = now();
    t->linear(args, 0, t->linear_items(args));
    return now() - begin;
}

static void compare(const struct lk_cpu *t, struct copies *plain, struct copies packed[N_FORM], int64_t n_row)
{
    struct lk_cols cols;
    check_even_cols(&cols, N_COL, 1, 32);
    float *values = check_new((size_t)(n_row * N_COL), sizeof *values);
    float *y = check_new((size_t)(n_row * N_OUT), sizeof *y);
    struct lk_linear args = {.a = check_random_act(t, n_row, &cols, values),
                             .n_out = N_OUT,
                             .y = y,
                             .y_ld = N_OUT,
                             .l2_bytes = lk_cpu_l2_bytes()};
    double best[N_FORM + 1];
    for (int f = 0; f <= N_FORM; f++)
        best[f] = 1e9;
    for (int round = 0; round < (n_row < N_MANY ? 30 : 3); round++) {
        args.q = NULL;
        best[N_FORM] = fmin(best[N_FORM], run(t, &args, plain));
        for (int f = 0; f < N_FORM; f++) {
            args.q = &forms[f].q;
            best[f] = fmin(best[f], run(t, &args, &packed[f]));
        }
    }
    double flop = 2.0 * (double)n_row * N_COL * N_OUT;
    printf("M %4lld  plain %9.1f us %6.1f GFLOP/s %5.1f GB/s\n", (long long)n_row, best[N_FORM] * 1e6,
           flop / best[N_FORM] * 1e-9, (double)plain->bytes / best[N_FORM] * 1e-9);
    for (int f = 0; f < N_FORM; f++)
        printf("        %5s %9.1f us %6.1f GFLOP/s %5.1f GB/s  %.2f of plain's rate\n", forms[f].name, best[f] * 1e6,
               flop / best[f] * 1e-9, (double)packed[f].bytes / best[f] * 1e-9, best[N_FORM] / best[f]);
    free(args.a.data);
    free(values);
    free(y);
}

void check_bench_packed(const struct lk_cpu *t)
{
    static const int64_t row_of[] = {1, 2, 4, 8, 16, 64, N_MANY};
    struct lk_cols cols;
    struct copies plain, packed[N_FORM];
    check_even_cols(&cols, N_COL, 1, 32);
    plain_new(&plain, t, &cols);
    for (int f = 0; f < N_FORM; f++)
        packed_new(&packed[f], t, &cols, &forms[f].q);
    for (size_t i = 0; i < sizeof row_of / sizeof row_of[0]; i++)
        compare(t, &plain, packed, row_of[i]);
    munmap(plain.w, (size_t)plain.n * plain.bytes);
    for (int f = 0; f < N_FORM; f++)
        munmap(packed[f].w, (size_t)packed[f].n * packed[f].bytes);
}
