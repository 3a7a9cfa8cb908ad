/* Where the tile intrinsics of kernels/cpu/amx come from: the compiler, or with LK_ISA_MODEL the model in C, so that
 * tests run the same sources on a processor that lacks them. */
#ifndef KERNELS_CPU_AMX_LK_AMX_ISA_H
#define KERNELS_CPU_AMX_LK_AMX_ISA_H

#ifdef LK_ISA_MODEL
#include "kernels/tests/isa_model/amx_model.h"
#else
#include <immintrin.h>
#endif

#endif
