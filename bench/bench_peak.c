/* bench_peak [THREADS]: what the machine can do at most, to compare products with: each set's product instruction in
 * registers and with operands from the first cache, and reading memory, by one thread and by all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/backend/team.h"
#include "core/base/mem.h"
#include "kernels/cpu/lk_cpu.h"

#define READ_BYTES ((size_t)256 << 20) /* a thread */

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

struct multiplying {
    const struct lk_cpu *lk;
    bool from_l1;
    double *flop; /* [n_thread] */
};

static void multiply(void *ctx, int64_t begin, int64_t end)
{
    const struct multiplying *m = ctx;
    for (int64_t i = begin; i < end; i++)
        m->flop[i] = m->lk->peak(m->from_l1, 400000);
}

struct reading {
    const uint64_t *data;
    uint64_t *sum;
};

static void read_share(void *ctx, int64_t begin, int64_t end)
{
    const struct reading *r = ctx;
    const size_t n = READ_BYTES / sizeof *r->data;
    for (int64_t i = begin; i < end; i++) {
        uint64_t sum[8] = {0};
        for (size_t j = 0; j < n; j += 8)
            for (int k = 0; k < 8; k++)
                sum[k] += r->data[(size_t)i * n + j + (size_t)k];
        r->sum[i] = sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
    }
}

/* Seconds of the fastest of a few runs of one item a thread. */
static double fastest(struct lb_team *team, void (*fn)(void *, int64_t, int64_t), void *ctx, int n)
{
    double best = 1e9;
    for (int i = 0; i < 8; i++) {
        double begin = now();
        lb_team_run(team, fn, ctx, n, 1);
        double took = now() - begin;
        best = took < best ? took : best;
    }
    return best;
}

static void show_sets(struct lb_team *team, double *flop, int n)
{
    unsigned bit;
    const char *name;
    for (int i = 0; (name = lk_cpu_set(i, &bit)) != NULL; i++) {
        for (int type = LK_F32; type <= LK_BF16; type++) {
            struct lk_cpu lk;
            lk_cpu_init(&lk, (enum lk_type)type, lk_cpu_detect() & bit);
            if (!lk.peak || strcmp(lk.name, name) != 0)
                continue;
            for (int from_l1 = 0; from_l1 < 2; from_l1++) {
                struct multiplying m = {&lk, from_l1, flop};
                double took = fastest(team, multiply, &m, n);
                printf("%s %s, operands %s, %d threads: %.1f GFLOP/s\n", name, type == LK_F32 ? "f32" : "bf16",
                       from_l1 ? "from the first cache" : "in registers", n, flop[0] * n / took * 1e-9);
            }
        }
    }
}

int main(int argc, char **argv)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_team *team;
    struct lb_arena arena;
    if (lb_team_new(&team, argc > 1 ? atoi(argv[1]) : 0, &err) != LB_OK) {
        fprintf(stderr, "bench_peak: %s\n", err.text);
        return 2;
    }
    int n_thread = lb_team_size(team);
    double *flop = lb_mem_new((size_t)n_thread, sizeof *flop);
    uint64_t *sum = lb_mem_new((size_t)n_thread, sizeof *sum);
    if (!flop || !sum || lb_arena_init(&arena, READ_BYTES * (size_t)n_thread, &err) != LB_OK) {
        fprintf(stderr, "bench_peak: no memory\n");
        return 4;
    }
    uint64_t *data = lb_arena_take(&arena, READ_BYTES * (size_t)n_thread);
    for (size_t i = 0; i < READ_BYTES / sizeof *data * (size_t)n_thread; i++)
        data[i] = i;
    struct reading reading = {data, sum};
    for (int n = 1; n <= n_thread; n += n_thread > 1 ? n_thread - 1 : 1) {
        show_sets(team, flop, n);
        double took = fastest(team, read_share, &reading, n);
        printf("memory read, %d threads: %.1f GB/s\n", n, (double)READ_BYTES * n / took * 1e-9);
    }
    lb_arena_release(&arena);
    lb_mem_free(flop);
    lb_mem_free(sum);
    lb_team_free(team);
    return 0;
}
