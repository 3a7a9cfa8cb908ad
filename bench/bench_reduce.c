/* The group's ordered sum against MPI_Allreduce of the same vectors, in turn in one run:
 *   mpirun -n 2 bench_reduce [ROUNDS [MOST_KIB]]
 * Medians and bests of each rank's clock, the slowest rank of each call. */
#include <mpi.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/dist/world.h"

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* n_call sums one after the other; seconds of one, as the slowest rank sees them. */
static double time_sums(struct lb_comm *c, float *part, int64_t n, int n_call)
{
    double mine, slowest;
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = now_s();
    for (int i = 0; i < n_call; i++) {
        if (c)
            c->ops->reduce(c, part, n);
        else
            MPI_Allreduce(MPI_IN_PLACE, part, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
    mine = (now_s() - begin) / n_call;
    MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return slowest;
}

int main(int argc, char **argv)
{
    static const int64_t sizes[] = {1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20};
    struct lb_err err = LB_ERR_INIT;
    struct lb_world_spec spec = {.use_mpi = true, .timeout_s = 60};
    struct lb_world *w;
    struct lb_comm *c;
    struct lb_cpus cpus;
    int n_round = argc > 1 ? atoi(argv[1]) : 101;
    int64_t most = argc > 2 ? atoll(argv[2]) << 10 : sizes[5];
    if (lb_world_open(&w, &spec, &err) != LB_OK || lb_world_cpus(w, &cpus, &err) != LB_OK ||
        lb_world_group(w, w->size, &c, &err) != LB_OK) {
        fprintf(stderr, "bench_reduce: %s\n", err.text);
        return 4;
    }
    float *part = c->ops->buffer(c, sizes[5] / (int64_t)sizeof *part), *own = part ? NULL : calloc(4 << 20, 1);
    part = part ? part : own;
    double *ours = calloc((size_t)n_round, sizeof *ours), *theirs = calloc((size_t)n_round, sizeof *theirs);
    if (!part || !ours || !theirs || n_round < 1)
        return 4;
    if (w->rank == 0)
        printf("%d ranks, %d rounds in turn, microseconds a sum\n%8s %10s %10s %12s %12s\n", w->size, n_round, "KiB",
               "best", "median", "MPI best", "MPI median");
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes && sizes[s] <= most; s++) {
        int64_t n = sizes[s] / (int64_t)sizeof *part;
        int n_call = sizes[s] <= 64 << 10 ? 20 : 2;
        for (int i = 0; i < n_round; i++) {
            ours[i] = time_sums(c, part, n, n_call);
            theirs[i] = time_sums(NULL, part, n, n_call);
        }
        qsort(ours, (size_t)n_round, sizeof *ours, by_size);
        qsort(theirs, (size_t)n_round, sizeof *theirs, by_size);
        if (w->rank == 0)
            printf("%8lld %10.1f %10.1f %12.1f %12.1f\n", (long long)(sizes[s] >> 10), ours[0] * 1e6,
                   ours[n_round / 2] * 1e6, theirs[0] * 1e6, theirs[n_round / 2] * 1e6);
    }
    free(own);
    free(ours);
    free(theirs);
    c->ops->close(c);
    lb_world_close(w);
    return 0;
}
