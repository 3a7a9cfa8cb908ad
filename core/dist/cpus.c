/* Which processors a rank computes on. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>

#include "core/dist/world.h"

enum lb_status lb_world_cpus(struct lb_world *w, struct lb_cpus *cpus, struct lb_err *err)
{
    cpu_set_t mask;
    CPU_ZERO(&mask);
    *cpus = (struct lb_cpus){.n_thread = 1};
    if (sched_getaffinity(0, sizeof mask, &mask) == 0)
        cpus->n_thread = CPU_COUNT(&mask);
    snprintf(cpus->why, sizeof cpus->why, "%d processors", cpus->n_thread);
    return lb_world_failed(w, err);
}
