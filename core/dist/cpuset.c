#define _GNU_SOURCE
#include "core/dist/cpuset.h"

#include <ctype.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has(const struct lb_cpuset *s, int cpu)
{
    return s->bits[cpu / 64] >> (cpu % 64) & 1;
}

static void put(struct lb_cpuset *s, int cpu)
{
    s->bits[cpu / 64] |= UINT64_C(1) << (cpu % 64);
}

int lb_cpuset_count(const struct lb_cpuset *s)
{
    int n = 0;
    for (int i = 0; i < LB_CPUSET_MAX / 64; i++)
        n += __builtin_popcountll(s->bits[i]);
    return n;
}

struct lb_cpuset lb_cpuset_mine(void)
{
    struct lb_cpuset s = {0};
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) == 0)
        for (int cpu = 0; cpu < LB_CPUSET_MAX; cpu++)
            if (CPU_ISSET((size_t)cpu, &mask))
                put(&s, cpu);
    return s;
}

/* "0-3,8": false when the text is something else. */
static bool parse_list(const char *at, struct lb_cpuset *s)
{
    *s = (struct lb_cpuset){0};
    while (isdigit((unsigned char)*at)) {
        char *end;
        long from = strtol(at, &end, 10), to = from;
        if (*end == '-')
            to = strtol(end + 1, &end, 10);
        for (long cpu = from; cpu <= to && cpu < LB_CPUSET_MAX; cpu++)
            put(s, (int)cpu);
        at = *end == ',' ? end + 1 : end;
    }
    return *at == 0 || *at == '\n';
}

int lb_cpuset_node(void)
{
    struct lb_cpuset mine = lb_cpuset_mine(), near;
    for (int node = 0; node < 1024; node++) {
        char path[80], list[4096] = "";
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node);
        FILE *f = fopen(path, "re");
        if (!f)
            continue;
        bool ok = fgets(list, sizeof list, f) && parse_list(list, &near);
        fclose(f);
        for (int i = 0; i < LB_CPUSET_MAX / 64; i++)
            ok = ok && !(mine.bits[i] & ~near.bits[i]);
        if (ok && lb_cpuset_count(&mine))
            return node;
    }
    return -1;
}

struct place {
    long package, core;
    int cpu;
};

static long number_in(int cpu, const char *file)
{
    char path[120];
    long n = 0;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, file);
    FILE *f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%ld", &n) != 1)
            n = 0;
        fclose(f);
    }
    return n;
}

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->package != y->package)
        return x->package < y->package ? -1 : 1;
    if (x->core != y->core)
        return x->core < y->core ? -1 : 1;
    return x->cpu - y->cpu;
}

void lb_cpuset_order(const struct lb_cpuset *which, int order[static LB_CPUSET_MAX])
{
    static struct place place[LB_CPUSET_MAX];
    for (int cpu = 0; cpu < LB_CPUSET_MAX; cpu++)
        place[cpu] = (struct place){has(which, cpu) ? number_in(cpu, "physical_package_id") : 0,
                                    has(which, cpu) ? number_in(cpu, "core_id") : 0, cpu};
    qsort(place, LB_CPUSET_MAX, sizeof *place, by_place);
    for (int i = 0; i < LB_CPUSET_MAX; i++)
        order[i] = place[i].cpu;
}

static bool equal(const struct lb_cpuset *a, const struct lb_cpuset *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static bool meets(const struct lb_cpuset *a, const struct lb_cpuset *b)
{
    for (int i = 0; i < LB_CPUSET_MAX / 64; i++)
        if (a->bits[i] & b->bits[i])
            return true;
    return false;
}

/* own: rank `at` of `n` with the same mask. */
static struct lb_cpuset part_of(const struct lb_cpuset *mask, int at, int n, const int *order)
{
    struct lb_cpuset own = {0};
    int count = lb_cpuset_count(mask), begin = at * (count / n) + (at < count % n ? at : count % n);
    int end = begin + count / n + (at < count % n), nth = 0;
    if (count < n) {
        begin = at % count;
        end = begin + 1;
    }
    for (int i = 0; i < LB_CPUSET_MAX; i++)
        if (has(mask, order[i]) && nth++ >= begin && nth <= end)
            put(&own, order[i]);
    return own;
}

/* Each processor goes to the rank that has the fewest so far. */
static void take_turns(const struct lb_cpuset *old, struct lb_cpuset *mask, const bool *in, int n, const int *order)
{
    for (int i = 0; i < n; i++)
        if (in[i])
            mask[i] = (struct lb_cpuset){0};
    for (int k = 0; k < LB_CPUSET_MAX; k++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (in[i] && has(&old[i], order[k]) &&
                (best < 0 || lb_cpuset_count(&mask[i]) < lb_cpuset_count(&mask[best])))
                best = i;
        if (best >= 0)
            put(&mask[best], order[k]);
    }
}

/* Divides among the ranks that hang together with rank `first`; in[] says which. */
static int divide_some(const struct lb_cpuset *old, struct lb_cpuset *mask, const bool *in, int n, const int *order)
{
    int n_in = 0, first = -1, shares = 0;
    bool is_even = true;
    for (int i = 0; i < n; i++) {
        n_in += in[i];
        first = in[i] && first < 0 ? i : first;
        is_even = is_even && (!in[i] || equal(&old[i], &old[first]));
    }
    if (is_even) {
        for (int i = 0, at = 0; i < n; i++)
            if (in[i])
                mask[i] = part_of(&old[i], at++, n_in, order);
        return lb_cpuset_count(&old[first]) < n_in;
    }
    take_turns(old, mask, in, n, order);
    for (int i = 0; i < n; i++)
        if (in[i] && lb_cpuset_count(&mask[i]) == 0) { /* nothing was left: it shares its first one */
            mask[i] = part_of(&old[i], 0, lb_cpuset_count(&old[i]), order);
            shares = 1;
        }
    return shares;
}

int lb_cpuset_divide(struct lb_cpuset *mask, int n, const int *order)
{
    struct lb_cpuset *old = malloc((size_t)n * sizeof *old);
    bool *in = calloc((size_t)n, sizeof *in), *done = calloc((size_t)n, sizeof *done);
    int shares = 0;
    for (int i = 0; old && in && done && i < n; i++) {
        if (i == 0)
            memcpy(old, mask, (size_t)n * sizeof *old);
        if (done[i] || lb_cpuset_count(&old[i]) == 0)
            continue;
        memset(in, 0, (size_t)n * sizeof *in);
        int n_in = in[i] = 1;
        for (bool grew = true; grew;) {
            grew = false;
            for (int a = 0; a < n; a++)
                for (int b = 0; b < n && !in[a]; b++)
                    if (in[b] && meets(&old[a], &old[b])) {
                        in[a] = grew = true;
                        n_in++;
                    }
        }
        for (int a = 0; a < n; a++)
            done[a] |= in[a];
        if (n_in > 1)
            shares |= divide_some(old, mask, in, n, order);
    }
    free(old);
    free(in);
    free(done);
    return shares;
}
