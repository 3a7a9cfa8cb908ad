/* bench_kernels [THREADS [SET [bf16 | f32]]]: the products of SmolLM2-135M through the thread team, weights cold, as
 * the engine runs them. checkkernels --bench times single ops on one thread and compares them with the peak. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/backend/team.h"
#include "core/backend/tensor.h"
#include "core/base/mem.h"
#include "kernels/cpu/lk_cpu.h"

enum { DIM = 576, FFN = 1536, QKV = 960, N_VOCAB = 49152, MAX_ROW = 512, N_SEG = 3 };
#define COLD_BYTES ((size_t)96 << 20) /* more than the caches: copies of a matrix are used in turn */
#define CLAIMS 32                     /* claims a thread, as the CPU backend has them */

static const struct product {
    const char *name;
    int64_t n_col, n_out;
    int n_seg;
    enum lk_epilogue epilogue;
} products[] = {
    {"qkv", DIM, QKV, 1, LK_EP_STORE},          {"out", DIM, DIM, N_SEG, LK_EP_ADD},
    {"gate-up", DIM, 2 * FFN, 1, LK_EP_SWIGLU}, {"down", FFN, DIM, N_SEG, LK_EP_ADD},
    {"head", DIM, N_VOCAB, 1, LK_EP_HEAD},
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

struct job {
    const struct lk_cpu *lk;
    struct lk_linear args;
};

static void run(void *ctx, int64_t begin, int64_t end)
{
    const struct job *job = ctx;
    job->lk->linear(&job->args, begin, end);
}

static void fill(void *data, size_t n, enum lk_type type)
{
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float x = (float)(state >> 8) / 16777216.0f - 0.5f;
        if (type == LK_F32)
            ((float *)data)[i] = x;
        else
            ((uint16_t *)data)[i] = lb_bf16_round(x);
    }
}

static void cut(struct lk_cols *c, int64_t n_col, int n_seg)
{
    int64_t begin[LK_MAX_SEG + 1];
    for (int s = 0; s <= n_seg; s++)
        begin[s] = n_col * s / n_seg;
    lb_cols_init(c, n_seg, begin);
}

static void bench(struct lb_team *team, const struct lk_cpu *lk, const struct product *p, uint8_t *memory)
{
    struct lk_cols cols, out_cols;
    cut(&cols, p->n_col, p->n_seg);
    cut(&out_cols, FFN, N_SEG);
    size_t elem = lk->type == LK_F32 ? 4 : 2, bytes = lk->weight_bytes(p->n_out, &cols),
           n_copy = COLD_BYTES / bytes + 1;
    uint8_t *a = memory, *out = a + MAX_ROW * FFN * 4, *y = out + MAX_ROW * FFN * 4, *w = y + MAX_ROW * 2 * FFN * 4;
    fill(a, (size_t)(MAX_ROW * p->n_col), lk->type);
    fill(w, bytes / elem, lk->type);
    for (size_t i = 1; i < n_copy; i++)
        memcpy(w + i * bytes, w, bytes);
    for (int64_t n_row = 1; n_row <= MAX_ROW; n_row *= 2) {
        struct job job = {lk,
                          {.a = {a, n_row, &cols},
                           .n_out = p->n_out,
                           .epilogue = p->epilogue,
                           .y = (float *)(void *)y,
                           .out = {out, n_row, &out_cols},
                           .best = (struct lk_best *)(void *)y,
                           .l2_bytes = lk_cpu_l2_bytes()}};
        int64_t n_item = lk->linear_items(&job.args), grain = n_item / (CLAIMS * lb_team_size(team));
        grain = grain < 1 ? 1 : grain;
        const bool near = lk->near_rows_from > 0 && n_row >= lk->near_rows_from;
        double best[2] = {1e9, 1e9}, stop = now() + 0.15; /* far and near rows in turn, where it matters */
        for (size_t i = 0; i < 4 || now() < stop; i++) {
            job.args.w = w + i % n_copy * bytes;
            job.args.near_rows = near && i % 2;
            double begin = now();
            lb_team_run_even(team, run, &job, n_item, grain);
            double took = now() - begin, *least = &best[job.args.near_rows];
            *least = took < *least ? took : *least;
        }
        printf("%-8s M %4lld  %10.1f us  %8.1f GFLOP/s  %5.1f GB/s of weights", p->name, (long long)n_row,
               best[0] * 1e6, 2e-9 * (double)(n_row * p->n_col * p->n_out) / best[0], 1e-9 * (double)bytes / best[0]);
        if (near)
            printf("; near rows %.1f us", best[1] * 1e6);
        putchar('\n');
    }
}

int main(int argc, char **argv)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_team *team;
    struct lb_arena arena;
    struct lk_cpu lk;
    unsigned allowed = argc > 2 ? lk_cpu_parse(argv[2]) : lk_cpu_detect();
    bool f32 = argc > 3 && strcmp(argv[3], "f32") == 0;
    if (allowed == 0 || (allowed & lk_cpu_detect()) != allowed) {
        fprintf(stderr, "bench_kernels: this processor has no kernel set '%s'\n", argv[2]);
        return 2;
    }
    lk_cpu_init(&lk, f32 ? LK_F32 : LK_BF16, allowed);
    size_t bytes = COLD_BYTES + (size_t)MAX_ROW * FFN * 16 + (size_t)2 * N_VOCAB * DIM * 4;
    if (lb_team_new(&team, argc > 1 ? atoi(argv[1]) : 0, &err) != LB_OK ||
        lb_arena_init(&arena, bytes, &err) != LB_OK) {
        fprintf(stderr, "bench_kernels: %s\n", err.text);
        return 4;
    }
    uint8_t *memory = lb_arena_take(&arena, bytes - 64);
    printf("%s %s, %d threads\n", lk.name, f32 ? "f32" : "bf16", lb_team_size(team));
    for (size_t i = 0; i < sizeof products / sizeof products[0]; i++)
        bench(team, &lk, &products[i], memory);
    lb_arena_release(&arena);
    lb_team_free(team);
    return 0;
}
