/* Test programs of several ranks: each rank checks, and one that finds a defect says so and ends the job. */
#ifndef CORE_TESTS_MPI_MPI_CHECK_H
#define CORE_TESTS_MPI_MPI_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/dist/world.h"

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            _exit(1);                                                       \
        }                                                                   \
    } while (0)

#define CHECK_OK(call, err)                                                             \
    do {                                                                                \
        if ((call) != LB_OK) {                                                          \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, (err)->text); \
            _exit(1);                                                                   \
        }                                                                               \
    } while (0)

/* PROGRAM RANKS [RANKS_PER_HOST]: the world, which must have so many ranks. */
static inline struct lb_world *open_world(int argc, char **argv)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_world *w;
    struct lb_world_spec spec = {.use_mpi = true, .timeout_s = 60};
    CHECK(argc >= 2);
    spec.n_task = atoi(argv[1]);
    spec.ranks_per_host = argc > 2 ? atoi(argv[2]) : 0;
    CHECK_OK(lb_world_open(&w, &spec, &err), &err);
    CHECK(w->size == spec.n_task);
    return w;
}

#endif
