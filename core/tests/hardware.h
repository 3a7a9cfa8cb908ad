/* What the processor itself has, also in a program whose kernel sets run on modeled instructions. */
#ifndef CORE_TESTS_HARDWARE_H
#define CORE_TESTS_HARDWARE_H

#include "kernels/cpu/lk_cpu.h"

/* All sets that are ever modeled: each needs the ones before it. */
static inline bool hardware_has_modeled_sets(void)
{
    return (lk_cpu_hardware() & LK_ISA_AMX) != 0;
}

#endif
