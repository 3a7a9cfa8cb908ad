/* Which processors a rank computes on. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>

#include "core/base/mem.h"
#include "core/dist/cpuset.h"
#include "core/dist/world_impl.h"

static void set_mask(const struct lb_cpuset *s)
{
    cpu_set_t mask;
    CPU_ZERO(&mask);
    for (int cpu = 0; cpu < LB_CPUSET_MAX; cpu++)
        if (s->bits[cpu / 64] >> (cpu % 64) & 1)
            CPU_SET((size_t)cpu, &mask);
    sched_setaffinity(0, sizeof mask, &mask); /* a matter of speed: where it is not allowed, ranks share */
}

/* Ranks of this machine by rank, in all[]: containers of one machine count as hosts of their own, but its processors
 * are the same. Returns how many; *mine is this rank's place. */
static int keep_machine(const struct lb_world_impl *v, struct lb_cpuset *all, int *mine)
{
    int n = 0;
    for (int r = 0; r < v->world.size; r++) {
        if (v->peer[r].machine != v->peer[v->world.rank].machine)
            continue;
        if (r == v->world.rank)
            *mine = n;
        all[n++] = all[r];
    }
    return n;
}

enum lb_status lb_world_cpus(struct lb_world *w, struct lb_cpus *cpus, struct lb_err *err)
{
    struct lb_cpuset own = lb_cpuset_mine(), *all = lb_mem_new((size_t)w->size, sizeof *all);
    int order[LB_CPUSET_MAX], n_before = lb_cpuset_count(&own), mine = 0;
    *cpus = (struct lb_cpus){.n_thread = n_before > 0 ? n_before : 1};
    enum lb_status status = all ? LB_OK : lb_err_memory(err, "the ranks", (unsigned)w->size);
    status = lb_world_agree(w, status, err);
    if (status == LB_OK)
        status = lb_world_share_out(w->impl, &own, sizeof own, all, err);
    if (status == LB_OK) {
        int n = keep_machine(w->impl, all, &mine);
        struct lb_cpuset any = {0};
        for (int i = 0; i < n; i++)
            for (int k = 0; k < LB_CPUSET_MAX / 64; k++)
                any.bits[k] |= all[i].bits[k];
        lb_cpuset_order(&any, order);
        w->oversubscribed = lb_cpuset_divide(all, n, order) != 0;
        int count = lb_cpuset_count(&all[mine]);
        cpus->n_thread = count > 0 ? count : 1;
        cpus->divided = count != n_before;
        if (cpus->divided)
            set_mask(&all[mine]);
        snprintf(cpus->why, sizeof cpus->why, "%d of %d processors allowed%s", cpus->n_thread, n_before,
                 w->oversubscribed ? ": ranks outnumber processors, several share one"
                 : cpus->divided   ? ": other ranks of this machine have the others"
                                   : "");
    }
    lb_mem_free(all);
    return status;
}
