/* Registers of the model: GCC's vectors, which any processor computes piece by piece. */
#ifndef KERNELS_TESTS_ISA_MODEL_MODEL_TYPES_H
#define KERNELS_TESTS_ISA_MODEL_MODEL_TYPES_H

#include <stdint.h>
#include <string.h>

#define LK_VECTOR(bytes) __attribute__((vector_size(bytes)))

#define __m128i LK_VECTOR(16) long long
#define __m256 LK_VECTOR(32) float
#define __m256i LK_VECTOR(32) long long
#define __m256bh LK_VECTOR(32) short
#define __m512 LK_VECTOR(64) float
#define __m512d LK_VECTOR(64) double
#define __m512i LK_VECTOR(64) long long
#define __m512bh LK_VECTOR(64) short
#define __mmask8 unsigned char
#define __mmask16 unsigned short
#define __mmask32 unsigned int
#define __mmask64 unsigned long long

/* The same bits by lane. */
#define LK_I32X8 LK_VECTOR(32) int32_t
#define LK_I32X16 LK_VECTOR(64) int32_t
#define LK_U32X16 LK_VECTOR(64) uint32_t
#define LK_I64X8 LK_VECTOR(64) int64_t

/* Operations on registers alone have nothing for a sanitizer to find, and lane by lane its checks would be most of the
 * program; they are calls, because tiles hold hundreds of them and would be compiled for minutes. LK_MODEL_STEP: parts
 * of them. What touches memory is LK_MODEL_MEM: there a sanitizer looks at every byte. */
#define LK_MODEL static __attribute__((noinline, unused, no_sanitize("address", "undefined")))
#define LK_MODEL_STEP static inline __attribute__((always_inline, no_sanitize("address", "undefined")))
#define LK_MODEL_MEM static inline

#endif
