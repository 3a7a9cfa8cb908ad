/* Where the intrinsics of kernels/cpu/avx512 come from: the compiler, or with LK_ISA_MODEL the model in C, so that
 * tests run the same sources on a processor that lacks them. */
#ifndef KERNELS_CPU_AVX512_LK_AVX512_ISA_H
#define KERNELS_CPU_AVX512_LK_AVX512_ISA_H

/* LK_KEEP: how an empty asm statement holds a vector, for loops whose result nobody reads. LK_DOT: sum =
 * _mm512_dpbusd_epi32(sum, x, y), but the sum stays in its register: of the intrinsic the compiler makes copies until a
 * tile of 24 sums no longer fits. LK_DOT_ALL: the same with the word at `at` in all lanes of y. */
#ifdef LK_ISA_MODEL
#include "kernels/tests/isa_model/avx512_model.h"
#define LK_KEEP "+m"
#define LK_DOT(sum, x, y) ((sum) = _mm512_dpbusd_epi32(sum, x, y))
#define LK_DOT_ALL(sum, x, at) ((sum) = _mm512_dpbusd_epi32(sum, x, _mm512_set1_epi32((int)*(at))))
#else
#include <immintrin.h>
#define LK_KEEP "+v"
#define LK_DOT(sum, x, y) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y))
#define LK_DOT_ALL(sum, x, at) __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(x), "m"(*(at)))
#endif

#endif
