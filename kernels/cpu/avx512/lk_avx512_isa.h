/* Where the intrinsics of kernels/cpu/avx512 come from: the compiler, or with LK_ISA_MODEL the model in C, so that
 * tests run the same sources on a processor that lacks them. */
#ifndef KERNELS_CPU_AVX512_LK_AVX512_ISA_H
#define KERNELS_CPU_AVX512_LK_AVX512_ISA_H

/* LK_KEEP: how an empty asm statement holds a vector, for loops whose result nobody reads. */
#ifdef LK_ISA_MODEL
#include "kernels/tests/isa_model/avx512_model.h"
#define LK_KEEP "+m"
#else
#include <immintrin.h>
#define LK_KEEP "+v"
#endif

#endif
