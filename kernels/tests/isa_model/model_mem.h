/* Constants, loads and stores. A masked access touches the bytes of its lanes and no other. */
#ifndef KERNELS_TESTS_ISA_MODEL_MODEL_MEM_H
#define KERNELS_TESTS_ISA_MODEL_MODEL_MEM_H

#include "kernels/tests/isa_model/model_types.h"

#define _MM_HINT_T0 3
#define _MM_HINT_T1 2

LK_MODEL_MEM void _mm_prefetch(const void *p, int hint)
{
    (void)p;
    (void)hint;
}

#define LK_MODEL_SET1(name, vector, number, lanes) \
    LK_MODEL vector name(number x)                 \
    {                                              \
        vector r;                                  \
        for (int i = 0; i < (lanes); i++)          \
            r[i] = x;                              \
        return r;                                  \
    }
LK_MODEL_SET1(_mm512_set1_ps, __m512, float, 16)
LK_MODEL_SET1(_mm512_set1_pd, __m512d, double, 8)
LK_MODEL_SET1(lk_model_set1_epi32, LK_I32X16, int, 16)
#define _mm512_set1_epi32(x) ((__m512i)lk_model_set1_epi32(x))
LK_MODEL_SET1(_mm512_set1_epi64, __m512i, long long, 8)

#define _mm512_setr_epi32(...) ((__m512i)(LK_I32X16){__VA_ARGS__})

#define LK_MODEL_SETZERO(name, vector) \
    LK_MODEL vector name(void)         \
    {                                  \
        return (vector){0};            \
    }
LK_MODEL_SETZERO(_mm512_setzero_ps, __m512)
LK_MODEL_SETZERO(_mm512_setzero_pd, __m512d)
LK_MODEL_SETZERO(_mm512_setzero_si512, __m512i)
LK_MODEL_SETZERO(_mm256_setzero_si256, __m256i)

#define LK_MODEL_LOAD(name, vector)         \
    LK_MODEL_MEM vector name(const void *p) \
    {                                       \
        vector r;                           \
        memcpy(&r, p, sizeof r);            \
        return r;                           \
    }
LK_MODEL_LOAD(_mm512_loadu_ps, __m512)
LK_MODEL_LOAD(_mm512_loadu_si512, __m512i)
LK_MODEL_LOAD(_mm256_loadu_si256, __m256i)
LK_MODEL_LOAD(_mm_loadu_si128, __m128i)

#define LK_MODEL_STORE(name, vector)          \
    LK_MODEL_MEM void name(void *p, vector x) \
    {                                         \
        memcpy(p, &x, sizeof x);              \
    }
LK_MODEL_STORE(_mm512_storeu_ps, __m512)
LK_MODEL_STORE(_mm512_storeu_si512, __m512i)
LK_MODEL_STORE(_mm256_storeu_si256, __m256i)

/* Aligned, or the processor faults. */
LK_MODEL_MEM void _mm512_store_si512(void *p, __m512i x)
{
    if ((uintptr_t)p % 64 != 0)
        __builtin_trap();
    memcpy(p, &x, sizeof x);
}

/* The lanes of `bytes` each whose mask bit is set; a whole register at once, which is faster and no different. */
LK_MODEL_MEM void lk_model_copy(void *to, const void *from, uint32_t mask, int lanes, size_t bytes)
{
    if (mask == (lanes < 32 ? (1u << lanes) - 1u : 0xffffffffu)) {
        memcpy(to, from, (size_t)lanes * bytes);
        return;
    }
    for (int i = 0; i < lanes; i++)
        if (mask >> i & 1u)
            memcpy((char *)to + (size_t)i * bytes, (const char *)from + (size_t)i * bytes, bytes);
}

#define LK_MODEL_MASKED_LOAD(name, vector, mask, lanes, bytes) \
    LK_MODEL_MEM vector name(mask m, const void *p)            \
    {                                                          \
        vector r = {0};                                        \
        lk_model_copy(&r, p, m, lanes, bytes);                 \
        return r;                                              \
    }
LK_MODEL_MASKED_LOAD(_mm512_maskz_loadu_ps, __m512, __mmask16, 16, 4)
LK_MODEL_MASKED_LOAD(_mm512_maskz_loadu_epi16, __m512i, __mmask32, 32, 2)
LK_MODEL_MASKED_LOAD(_mm256_maskz_loadu_ps, __m256, __mmask8, 8, 4)
LK_MODEL_MASKED_LOAD(_mm256_maskz_loadu_epi16, __m256i, __mmask16, 16, 2)

#define LK_MODEL_MASKED_STORE(name, vector, mask, lanes, bytes) \
    LK_MODEL_MEM void name(void *p, mask m, vector x)           \
    {                                                           \
        lk_model_copy(p, &x, m, lanes, bytes);                  \
    }
LK_MODEL_MASKED_STORE(_mm512_mask_storeu_ps, __m512, __mmask16, 16, 4)
LK_MODEL_MASKED_STORE(_mm512_mask_storeu_epi32, __m512i, __mmask16, 16, 4)
LK_MODEL_MASKED_STORE(_mm512_mask_storeu_epi16, __m512i, __mmask32, 32, 2)
LK_MODEL_MASKED_STORE(_mm256_mask_storeu_epi32, __m256i, __mmask8, 8, 4)

#endif
