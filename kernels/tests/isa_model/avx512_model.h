/* A model in C of the part of AVX-512 that kernels/cpu/avx512 uses, under the intrinsics' own names, so that the same
 * kernel sources are compiled against it and run on any processor (kernels/cpu/avx512/lk_avx512_isa.h). Results are
 * those of Intel's SDM and, for reductions, of GCC 12's order of additions, bit for bit but for the payload of a NaN.
 * What a kernel passes and the model does not cover ends the program. */
#ifndef KERNELS_TESTS_ISA_MODEL_AVX512_MODEL_H
#define KERNELS_TESTS_ISA_MODEL_AVX512_MODEL_H

#include "kernels/tests/isa_model/model_bf16.h"
#include "kernels/tests/isa_model/model_float.h"
#include "kernels/tests/isa_model/model_int.h"
#include "kernels/tests/isa_model/model_mem.h"

#endif
