/* Processors: dividing them among ranks, and which memory is near to them. */
#ifndef CORE_DIST_CPUSET_H
#define CORE_DIST_CPUSET_H

#include <stdint.h>

#define LB_CPUSET_MAX 1024 /* processors, as glibc's cpu_set_t */

struct lb_cpuset {
    uint64_t bits[LB_CPUSET_MAX / 64];
};

int lb_cpuset_count(const struct lb_cpuset *s);

/* The calling thread's mask; with more processors than fit, or without an answer, an empty one. */
struct lb_cpuset lb_cpuset_mine(void);

/* The NUMA node that holds the calling thread's whole mask; -1 where there is none. */
int lb_cpuset_node(void);

/* Gives every processor that several of mask[n] name to one of them. order[LB_CPUSET_MAX] says which processors lie
 * beside each other (siblings of a core first). Ranks with equal masks get runs of neighbors of equal length (one more
 * for the first ones where it does not divide); ranks whose masks overlap otherwise take turns. Empty masks stay empty;
 * where ranks outnumber processors, several get the same one. Returns whether that happened to any. */
int lb_cpuset_divide(struct lb_cpuset *mask, int n, const int *order);

/* Processors of this machine by package, core, number; those that are not in `which` anywhere. One thread. */
void lb_cpuset_order(const struct lb_cpuset *which, int order[static LB_CPUSET_MAX]);

#endif
