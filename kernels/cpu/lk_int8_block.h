/* A block of 64 numbers, eight vectors of eight, on its way to int8 (args_int8.h). Vectors of the compiler's, so that
 * each set has them in its own registers. */
#ifndef KERNELS_CPU_LK_INT8_BLOCK_H
#define KERNELS_CPU_LK_INT8_BLOCK_H

#include <math.h>

#include "kernels/args_int8.h"
#include "kernels/cpu/lk_set.h"

#define LK_EIGHT __attribute__((vector_size(32))) float
#define LK_EIGHT_INT __attribute__((vector_size(32))) int32_t

/* Mixes a block. The first three stages pair numbers of one vector: each is added to its partner, the second of a pair
 * with its sign turned. */
LK_INLINE void lk_int8_mix(LK_EIGHT x[8])
{
    const LK_EIGHT sign1 = {1, -1, 1, -1, 1, -1, 1, -1}, sign2 = {1, 1, -1, -1, 1, 1, -1, -1};
    const LK_EIGHT sign4 = {1, 1, 1, 1, -1, -1, -1, -1};
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        x[i] = __builtin_shufflevector(x[i], x[i], 1, 0, 3, 2, 5, 4, 7, 6) + x[i] * sign1;
        x[i] = __builtin_shufflevector(x[i], x[i], 2, 3, 0, 1, 6, 7, 4, 5) + x[i] * sign2;
        x[i] = __builtin_shufflevector(x[i], x[i], 4, 5, 6, 7, 0, 1, 2, 3) + x[i] * sign4;
    }
#pragma GCC unroll 3
    for (int h = 1; h < 8; h *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            if (i & h)
                continue;
            LK_EIGHT u = x[i], v = x[i + h];
            x[i] = u + v;
            x[i + h] = u - v;
        }
    }
}

/* The next 64 numbers of a row of which n are left, zeros behind them. */
LK_INLINE void lk_int8_load(const char *row, enum lk_type type, int64_t n, LK_EIGHT x[8])
{
    char few[LK_INT8_BLOCK * sizeof(float)];
    if (n < LK_INT8_BLOCK) {
        memset(few, 0, sizeof few);
        row = memcpy(few, row, (size_t)(n * (type == LK_F32 ? 4 : 2)));
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        if (type == LK_F32) {
            memcpy(&x[i], row + 32 * i, 32);
        } else {
            __attribute__((vector_size(16))) uint16_t half;
            memcpy(&half, row + 16 * i, 16);
            x[i] = (LK_EIGHT)(__builtin_convertvector(half, LK_EIGHT_INT) << 16);
        }
    }
}

/* Of each lane the bits of the largest |x|. */
LK_INLINE void lk_int8_most(const LK_EIGHT x[8], LK_EIGHT_INT *most)
{
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        LK_EIGHT_INT size = (LK_EIGHT_INT)x[i] & 0x7fffffff, more = size > *most;
        *most = (more & size) | (~more & *most);
    }
}

struct lk_int8_scale {
    float s, inverse;
};

/* most: the bits of the largest |x|. */
static inline struct lk_int8_scale lk_int8_scale_of(uint32_t most)
{
    float m = lk_float(most);
    if (most >= 0x7f800000u)
        return (struct lk_int8_scale){NAN, 0};
    if (m < 0x1p-120f)
        return (struct lk_int8_scale){0, 0};
    return (struct lk_int8_scale){m / 127.0f, 127.0f / m};
}

static inline uint32_t lk_int8_more(uint32_t most, float x)
{
    uint32_t size = lk_bits(x) & 0x7fffffffu;
    return size > most ? size : most;
}

LK_INLINE struct lk_int8_scale lk_int8_scale_of_lanes(const LK_EIGHT_INT *most)
{
    int32_t all = 0;
    for (int i = 0; i < 8; i++)
        all = (*most)[i] > all ? (*most)[i] : all;
    return lk_int8_scale_of((uint32_t)all);
}

/* |x * inverse| <= 127.5; the number that a NaN gives is not looked at. Behind 2^23 floats are whole numbers. */
static inline int8_t lk_int8_of(float x, float inverse)
{
    return (int8_t)(uint8_t)(lk_bits(x * inverse + 0x1.8p23f) & 0xffu);
}

/* The same of a block; adds the whole numbers to *sum. */
LK_INLINE void lk_int8_whole(const LK_EIGHT x[8], float inverse, int8_t q[LK_INT8_BLOCK], LK_EIGHT_INT *sum)
{
    int32_t bits[LK_INT8_BLOCK];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        LK_EIGHT_INT of = (LK_EIGHT_INT)(x[i] * inverse + 0x1.8p23f);
        memcpy(bits + 8 * i, &of, sizeof of);
        *sum += of << 24 >> 24;
    }
    for (int i = 0; i < LK_INT8_BLOCK; i++)
        q[i] = (int8_t)bits[i];
}

#endif
