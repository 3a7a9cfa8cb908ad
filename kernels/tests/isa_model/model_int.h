/* Integers, permutations, selections by mask. */
#ifndef KERNELS_TESTS_ISA_MODEL_MODEL_INT_H
#define KERNELS_TESTS_ISA_MODEL_MODEL_INT_H

#include "kernels/tests/isa_model/model_types.h"

LK_MODEL __m512i _mm512_add_epi32(__m512i a, __m512i b)
{
    return (__m512i)((LK_U32X16)a + (LK_U32X16)b);
}

LK_MODEL __m512i _mm512_sub_epi32(__m512i a, __m512i b)
{
    return (__m512i)((LK_U32X16)a - (LK_U32X16)b);
}

LK_MODEL __m512i _mm512_max_epu32(__m512i a, __m512i b)
{
    LK_U32X16 x = (LK_U32X16)a, y = (LK_U32X16)b;
    for (int i = 0; i < 16; i++)
        x[i] = x[i] > y[i] ? x[i] : y[i];
    return (__m512i)x;
}

/* Each lane: sum + the four products of a's bytes without sign and b's bytes with theirs, modulo 2^32. */
LK_MODEL __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b)
{
    LK_VECTOR(64) uint8_t x = (LK_VECTOR(64) uint8_t)a;
    LK_VECTOR(64) int8_t y = (LK_VECTOR(64) int8_t)b;
    LK_U32X16 r = (LK_U32X16)sum;
    for (int i = 0; i < 64; i++)
        r[i / 4] += (uint32_t)(x[i] * y[i]);
    return (__m512i)r;
}

LK_MODEL __m512i _mm512_and_si512(__m512i a, __m512i b)
{
    return a & b;
}

LK_MODEL __m512i _mm512_slli_epi32(__m512i a, unsigned n)
{
    return n < 32 ? (__m512i)((LK_U32X16)a << n) : a ^ a;
}

LK_MODEL __m512i _mm512_rol_epi32(__m512i a, int n)
{
    n &= 31;
    return n > 0 ? (__m512i)((LK_U32X16)a << n | (LK_U32X16)a >> (32 - n)) : a;
}

LK_MODEL __m512i _mm512_srli_epi32(__m512i a, unsigned n)
{
    return n < 32 ? (__m512i)((LK_U32X16)a >> n) : a ^ a;
}

/* The sign comes in. */
LK_MODEL __m512i _mm512_srai_epi32(__m512i a, unsigned n)
{
    return (__m512i)((LK_I32X16)a >> (n < 32 ? n : 31));
}

LK_MODEL __m512i _mm512_or_si512(__m512i a, __m512i b)
{
    return a | b;
}

LK_MODEL __m512i _mm512_cvtepu8_epi32(__m128i a)
{
    LK_VECTOR(16) uint8_t x = (LK_VECTOR(16) uint8_t)a;
    LK_I32X16 r;
    for (int i = 0; i < 16; i++)
        r[i] = x[i];
    return (__m512i)r;
}

/* Lane i is that of `a` whose number is in the low five bits of lane i of `at`. */
LK_MODEL __m512i _mm512_permutexvar_epi16(__m512i at, __m512i a)
{
    LK_VECTOR(64) uint16_t x = (LK_VECTOR(64) uint16_t)a, i = (LK_VECTOR(64) uint16_t)at, r;
    for (int lane = 0; lane < 32; lane++)
        r[lane] = x[i[lane] & 31];
    return (__m512i)r;
}

/* Byte i is that of `a` whose number is in the low six bits of byte i of `at`; without a mask bit that of `other`. */
LK_MODEL __m512i _mm512_mask_permutexvar_epi8(__m512i other, __mmask64 m, __m512i at, __m512i a)
{
    LK_VECTOR(64) uint8_t x = (LK_VECTOR(64) uint8_t)a, i = (LK_VECTOR(64) uint8_t)at, r = (LK_VECTOR(64) uint8_t)other;
    for (int lane = 0; lane < 64; lane++)
        r[lane] = m >> lane & 1 ? x[i[lane] & 63] : r[lane];
    return (__m512i)r;
}

LK_MODEL __m512i _mm512_maskz_permutexvar_epi8(__mmask64 m, __m512i at, __m512i a)
{
    return _mm512_mask_permutexvar_epi8(a ^ a, m, at, a);
}

LK_MODEL __m512i _mm512_permutexvar_epi8(__m512i at, __m512i a)
{
    return _mm512_mask_permutexvar_epi8(a, ~(__mmask64)0, at, a);
}

/* Byte i of a lane of 64 bits: the eight from that bit of a's on whose number is in the low six bits of byte i of `at`,
 * the lowest behind the highest. */
LK_MODEL __m512i _mm512_multishift_epi64_epi8(__m512i at, __m512i a)
{
    LK_VECTOR(64) uint8_t i = (LK_VECTOR(64) uint8_t)at, r;
    for (int lane = 0; lane < 64; lane++) {
        uint64_t x = (uint64_t)a[lane / 8];
        int n = i[lane] & 63;
        r[lane] = (uint8_t)(x >> n | x << (64 - n) % 64);
    }
    return (__m512i)r;
}

LK_MODEL __m512i _mm512_cvtepu8_epi16(__m256i a)
{
    LK_VECTOR(32) uint8_t x = (LK_VECTOR(32) uint8_t)a;
    LK_VECTOR(64) uint16_t r;
    for (int i = 0; i < 32; i++)
        r[i] = x[i];
    return (__m512i)r;
}

/* Bit i of imm is the result where the bits of a, b and c are i, a's the highest. */
LK_MODEL __m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int imm)
{
    __m512i r = a ^ a;
    for (int i = 0; i < 8; i++)
        if (imm >> i & 1)
            r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return r;
}

/* Lane i is that of a (0 .. 15) or b (16 .. 31) whose number is in the low five bits of lane i of `at`. */
LK_MODEL __m512i _mm512_permutex2var_epi32(__m512i a, __m512i at, __m512i b)
{
    LK_U32X16 x = (LK_U32X16)a, y = (LK_U32X16)b, i = (LK_U32X16)at, r;
    for (int lane = 0; lane < 16; lane++)
        r[lane] = i[lane] & 16 ? y[i[lane] & 15] : x[i[lane] & 15];
    return (__m512i)r;
}

LK_MODEL __m512 _mm512_permutexvar_ps(__m512i at, __m512 a)
{
    LK_U32X16 x = (LK_U32X16)a, i = (LK_U32X16)at, r;
    for (int lane = 0; lane < 16; lane++)
        r[lane] = x[i[lane] & 15];
    return (__m512)r;
}

LK_MODEL __m512i _mm512_cvtepu16_epi32(__m256i a)
{
    LK_VECTOR(32) uint16_t x = (LK_VECTOR(32) uint16_t)a;
    LK_I32X16 r;
    for (int i = 0; i < 16; i++)
        r[i] = x[i];
    return (__m512i)r;
}

LK_MODEL __m512 _mm512_castsi512_ps(__m512i a)
{
    return (__m512)a;
}

/* Lanes of b where the mask says so, else of a. */
LK_MODEL __m512 _mm512_mask_mov_ps(__m512 a, __mmask16 m, __m512 b)
{
    for (int i = 0; i < 16; i++)
        a[i] = m >> i & 1 ? b[i] : a[i];
    return a;
}

LK_MODEL __m512i _mm512_mask_mov_epi32(__m512i a, __mmask16 m, __m512i b)
{
    return (__m512i)_mm512_mask_mov_ps((__m512)a, m, (__m512)b);
}

LK_MODEL __m512 _mm512_maskz_mov_ps(__mmask16 m, __m512 b)
{
    return _mm512_mask_mov_ps((__m512){0}, m, b);
}

/* Within each half of 16 bytes: the numbers of the low (first) or high parts of a and b in turn. */
LK_MODEL_STEP __m256i lk_model_unpack32(__m256i a, __m256i b, int first)
{
    LK_I32X8 x = (LK_I32X8)a, y = (LK_I32X8)b, r;
    for (int half = 0; half < 8; half += 4) {
        for (int i = 0; i < 2; i++) {
            r[half + 2 * i] = x[half + first + i];
            r[half + 2 * i + 1] = y[half + first + i];
        }
    }
    return (__m256i)r;
}

LK_MODEL __m256i _mm256_unpacklo_epi32(__m256i a, __m256i b)
{
    return lk_model_unpack32(a, b, 0);
}

LK_MODEL __m256i _mm256_unpackhi_epi32(__m256i a, __m256i b)
{
    return lk_model_unpack32(a, b, 2);
}

LK_MODEL __m256i _mm256_unpacklo_epi64(__m256i a, __m256i b)
{
    return (__m256i){a[0], b[0], a[2], b[2]};
}

LK_MODEL __m256i _mm256_unpackhi_epi64(__m256i a, __m256i b)
{
    return (__m256i){a[1], b[1], a[3], b[3]};
}

/* Halves of 16 bytes: each is chosen by four bits of imm from a (0, 1) and b (2, 3), or zero (8). */
LK_MODEL __m256i _mm256_permute2x128_si256(__m256i a, __m256i b, int imm)
{
    __m256i r;
    for (int half = 0; half < 2; half++, imm >>= 4) {
        for (int i = 0; i < 2; i++) {
            long long x = imm & 2 ? b[2 * (imm & 1) + i] : a[2 * (imm & 1) + i];
            r[2 * half + i] = imm & 8 ? 0 : x;
        }
    }
    return r;
}

#endif
