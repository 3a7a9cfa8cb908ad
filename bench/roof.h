/* What the benches of layers share: random weights, what the machine can do at most (measured between the rounds, so
 * that other work on the machine meets both), the dense FFN that layers are held against, and the telling.
 *
 * An op's bound is the longer of its arithmetic at the peak of the product's instruction in registers and its weights
 * and cache at what reading memory gives, both of as many threads; each weight and each page counted once, however
 * often it is read. share = bound / time taken. Layers are compared by their shares: a mixture at few tokens reads many
 * times the weights of the dense FFN for the same arithmetic, which no kernel can mend. The plain ratio of the rates of
 * arithmetic is told too. */
#ifndef BENCH_ROOF_H
#define BENCH_ROOF_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/backend/backend.h"
#include "core/base/mem.h"
#include "kernels/cpu/lk_cpu.h"

enum {
    DIM = 2048,  /* GLM-4.7-Flash */
    WIDE = 7680, /* of the dense FFN: the experts that a token takes, the shared one among them */
    MAX_TOK = 1024,
    N_COPY = 4,     /* of weights that the third cache might hold: used in turn, so that they are cold */
    POOL = 1 << 20, /* random numbers that all matrices are cut from */
    MAX_COL = 8192
};
#define READ_BYTES ((size_t)128 << 20) /* a thread */

struct roof {
    struct lb_backend *be;
    struct lk_cpu lk;
    struct lb_arena arena; /* what is read */
    double *flop;          /* [n_thread] */
    uint64_t *sum;         /* [n_thread] */
    double flops, bytes;   /* a second, the best so far */
    /* the dense FFN */
    struct lb_buf x;
    struct lb_actbuf h, f;
    const float *ones; /* [DIM] */
    struct lb_matrix *gate_up[N_COPY], *down[N_COPY];
};

/* What was done in which time at best. */
struct figure {
    double flop, bytes, took;
};

static uint16_t pool[POOL + MAX_COL];
static struct lb_err err = LB_ERR_INIT;

static void must(enum lb_status status)
{
    if (status == LB_OK)
        return;
    fprintf(stderr, "bench: %s\n", err.text);
    exit(4);
}

/* With one thread its own time, which other work on the machine does not lengthen. */
static double now(const struct roof *r)
{
    struct timespec ts;
    clock_gettime(r->be->n_thread == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static float random_part(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / 16777216.0f - 0.5f;
}

static const uint16_t *pool_row(int64_t seed, int64_t row)
{
    return pool + (uint64_t)(seed * 7919 + row * 104729) % POOL;
}

static const void *row_at(const struct lb_rows *r, int64_t row)
{
    return pool_row(*(const int64_t *)r->ctx, row);
}

static const struct lk_cols *one_segment(int64_t n_col)
{
    static struct lk_cols cols;
    lb_cols_init(&cols, 1, (const int64_t[]){0, n_col});
    return &cols;
}

struct matrix_kind {
    int64_t n_head; /* 1: one matrix */
    bool gate_up, f32;
};

static const struct matrix_kind PLAIN = {1, false, false}, GATE_UP = {1, true, false};

/* *seed, if asked for, tells rows of the matrix again: pool_row(*seed, row). */
static struct lb_matrix *matrix(struct roof *r, int64_t n_row, int64_t n_col, struct matrix_kind kind, int64_t *seed)
{
    static int64_t count;
    struct lb_matrix *m;
    int64_t mine = ++count;
    struct lb_rows rows = {.ctx = &mine, .n_row = n_row, .n_col = n_col, .data_type = LB_BF16, .at = row_at};
    struct lb_matrix_spec spec = {
        .rows = &rows, .cols = one_segment(n_col), .gate_up = kind.gate_up, .name = "a matrix", .f32 = kind.f32};
    if (kind.n_head > 1)
        must(r->be->ops->heads_new(r->be, &spec, kind.n_head, &m, &err));
    else
        must(r->be->ops->matrix_new(r->be, &spec, &m, &err));
    if (seed)
        *seed = mine;
    return m;
}

static void act(struct roof *r, struct lb_actbuf *a, int64_t n_col)
{
    must(r->be->ops->act_new(r->be, one_segment(n_col), a, &err));
}

static const float *ones(struct roof *r, int64_t n)
{
    static float vector[MAX_COL];
    const float *v;
    for (int i = 0; i < MAX_COL; i++)
        vector[i] = 1;
    must(r->be->ops->vector_new(r->be, vector, n, &v, &err));
    return v;
}

/* Opens the backend and loads the dense FFN: [THREADS [SET]]. */
static void roof_open(struct roof *r, int argc, char **argv)
{
    struct lb_backend_spec spec = {
        .device = "cpu", .dtype = LB_BF16, .isa = argc > 2 ? argv[2] : NULL, .n_thread = argc > 1 ? atoi(argv[1]) : 0};
    uint32_t state = 7;
    must(lb_backend_open(&r->be, &spec, &err));
    size_t n_thread = (size_t)r->be->n_thread;
    for (size_t i = 0; i < sizeof pool / sizeof *pool; i++)
        pool[i] = lb_bf16_round(random_part(&state) * 0.05f);
    lk_cpu_init(&r->lk, LK_BF16, lk_cpu_parse(r->be->isa));
    r->flop = lb_mem_new(n_thread, sizeof *r->flop);
    r->sum = lb_mem_new(n_thread, sizeof *r->sum);
    must(lb_arena_init(&r->arena, n_thread * READ_BYTES, &err));
    if (!r->flop || !r->sum)
        must(lb_err_memory(&err, "a bench", n_thread));
    uint64_t *data = lb_arena_take(&r->arena, n_thread * READ_BYTES);
    for (size_t i = 0; i < n_thread * READ_BYTES / sizeof *data; i++)
        data[i] = i;
    for (int i = 0; i < N_COPY; i++) {
        r->gate_up[i] = matrix(r, 2 * WIDE, DIM, GATE_UP, NULL);
        r->down[i] = matrix(r, DIM, WIDE, PLAIN, NULL);
    }
    r->ones = ones(r, DIM);
}

/* Behind the backend's reserve. */
static void roof_reserve(struct roof *r)
{
    must(r->be->ops->buf_new(r->be, DIM, &r->x, &err));
    act(r, &r->h, DIM);
    act(r, &r->f, WIDE);
}

static void roof_close(struct roof *r)
{
    lb_arena_release(&r->arena);
    lb_mem_free(r->flop);
    lb_mem_free(r->sum);
    r->be->ops->close(r->be);
}

static void multiply(void *ctx, int64_t begin, int64_t end)
{
    struct roof *r = ctx;
    for (int64_t i = begin; i < end && r->lk.peak; i++)
        r->flop[i] = r->lk.peak(false, 100000);
}

static void read_share(void *ctx, int64_t begin, int64_t end)
{
    struct roof *r = ctx;
    enum { N_STREAM = 4 }; /* pages of several streams are fetched ahead side by side */
    const size_t n = READ_BYTES / sizeof(uint64_t) / N_STREAM;
    for (int64_t i = begin; i < end; i++) {
        const uint64_t *data = (const uint64_t *)(const void *)r->arena.base + (size_t)i * N_STREAM * n;
        uint64_t sum[8] = {0};
        for (size_t j = 0; j < n; j += 8)
            for (size_t s = 0; s < N_STREAM; s++)
                for (size_t k = 0; k < 8; k++)
                    sum[k] += data[s * n + j + k];
        r->sum[i] = sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
    }
}

static void roof_measure(struct roof *r)
{
    double begin = now(r);
    r->be->ops->parallel(r->be, multiply, r, r->be->n_thread);
    double middle = now(r), flops = r->flop[0] * r->be->n_thread / (middle - begin);
    r->be->ops->parallel(r->be, read_share, r, r->be->n_thread);
    double bytes = (double)READ_BYTES * r->be->n_thread / (now(r) - middle);
    r->flops = flops > r->flops ? flops : r->flops;
    r->bytes = bytes > r->bytes ? bytes : r->bytes;
}

static void dense(struct roof *r, int copy)
{
    const struct lb_backend_ops *op = r->be->ops;
    op->norm(r->be, &r->h, &r->x, r->ones, 1e-5f, false);
    op->linear(r->be, &(struct lb_linear_args){NULL, &r->f, &r->h, r->gate_up[copy], NULL, LB_SWIGLU});
    op->linear(r->be, &(struct lb_linear_args){&r->x, NULL, &r->f, r->down[copy], NULL, LB_ADD});
}

/* The residual stream that the step begins with. */
static void fill(struct roof *r, int32_t n_tok)
{
    uint32_t state = 1;
    for (int64_t i = 0; i < (int64_t)n_tok * DIM; i++)
        r->x.data[i] = random_part(&state);
}

static double share_of(const struct roof *r, const struct figure *f)
{
    double compute = f->flop / r->flops, memory = f->bytes / r->bytes;
    return (compute > memory ? compute : memory) / f->took;
}

static void tell(const struct roof *r, const char *name, const struct figure *f, const struct figure *base)
{
    printf("  %-9s %9.3f ms %6.1f GFLOP/s %5.1f GB/s, bound %9.3f ms: share %5.1f %%", name, f->took * 1e3,
           f->flop / f->took * 1e-9, f->bytes / f->took * 1e-9, share_of(r, f) * f->took * 1e3, 100 * share_of(r, f));
    if (f != base)
        printf(", of the dense share %5.1f %%, of its GFLOP/s %5.1f %%", 100 * share_of(r, f) / share_of(r, base),
               100 * f->flop / f->took / (base->flop / base->took));
    printf("\n");
}

#endif
