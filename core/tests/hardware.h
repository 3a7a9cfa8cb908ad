/* What the processor itself has, also in a program whose kernel sets run on modeled instructions; and what a set
 * covers. */
#ifndef CORE_TESTS_HARDWARE_H
#define CORE_TESTS_HARDWARE_H

#include <string.h>

#include "kernels/cpu/lk_cpu.h"

/* All sets that are ever modeled: each needs the ones before it. */
static inline bool hardware_has_modeled_sets(void)
{
    return (lk_cpu_hardware() & LK_ISA_AMX) != 0;
}

/* false: runs in f32 with this set are ref's. */
static inline bool hardware_covers_f32(const char *set)
{
    struct lk_cpu t;
    lk_cpu_init(&t, LK_F32, lk_cpu_parse(set));
    return strcmp(t.name, set) == 0;
}

#endif
