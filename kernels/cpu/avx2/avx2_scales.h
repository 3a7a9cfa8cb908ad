/* Scales of packed weights, of 8 outputs each. */
#ifndef KERNELS_CPU_AVX2_AVX2_SCALES_H
#define KERNELS_CPU_AVX2_AVX2_SCALES_H

#include "kernels/cpu/avx2/lk_avx2.h"
#include "kernels/cpu/lk_packed.h"

/* 8 outputs' d and what is added: number = code * d + plus in one rounding, as by the formula, since every other
 * product is exact: at most 11 bits of d, 8 of a subgroup's scale and 5 of a code. */
struct lk_scales {
    __m256 d, plus;
};

/* Numbers i .. i + 7. Half to single, of numbers: exponent and fraction in place, one exact product for the bias. */
LK_INLINE __m256 lk_scale8(const enum lk_scale type, const uint8_t *at, int64_t i)
{
    if (type == LK_SC_F32)
        return _mm256_loadu_ps((const float *)(const void *)at + i);
    __m256i top =
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(at + 2 * i))), 16);
    if (type == LK_SC_BF16)
        return _mm256_castsi256_ps(top);
    __m256i small = _mm256_and_si256(_mm256_srai_epi32(top, 3), _mm256_set1_epi32((int)0x8fffe000u));
    return _mm256_mul_ps(_mm256_castsi256_ps(small), _mm256_set1_ps(0x1p112f));
}

LK_INLINE __m256 lk_bytes8(const uint8_t *at, const bool is_signed)
{
    __m128i x = _mm_loadl_epi64((const __m128i *)(const void *)at);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(x) : _mm256_cvtepu8_epi32(x));
}

/* Scales of outputs j .. j + 7: of the group at `group`, for K4 and K6 of the subgroups at `sub`. What is added comes
 * times `by`, a power of two. */
LK_INLINE struct lk_scales lk_scales8(const enum lk_packing kind, const enum lk_scale type, const uint8_t *group,
                                      const uint8_t *sub, const int j, const float by)
{
    __m256 d = lk_scale8(type, group, j), m;
    switch (kind) {
    case LK_PK_A4:
        return (struct lk_scales){d, _mm256_mul_ps(lk_scale8(type, group, LK_AVX2_PANEL + j), _mm256_set1_ps(by))};
    case LK_PK_K4:
        d = _mm256_mul_ps(d, lk_bytes8(sub + j, false));
        m = _mm256_mul_ps(lk_scale8(type, group, LK_AVX2_PANEL + j), lk_bytes8(sub + LK_AVX2_PANEL + j, false));
        return (struct lk_scales){d, _mm256_mul_ps(m, _mm256_set1_ps(-by))};
    case LK_PK_K6:
        d = _mm256_mul_ps(d, lk_bytes8(sub + j, true));
        return (struct lk_scales){d, _mm256_mul_ps(d, _mm256_set1_ps(-32 * by))};
    case LK_PK_Z4:
    case LK_PK_Z8:
        m = _mm256_mul_ps(lk_bytes8(group + 2 * LK_AVX2_PANEL + j, false), _mm256_set1_ps(-by));
        return (struct lk_scales){d, _mm256_mul_ps(d, m)};
    case LK_PK_E4M3:
        return (struct lk_scales){_mm256_mul_ps(d, _mm256_set1_ps(0x1p120f)), _mm256_setzero_ps()};
    default:
        return (struct lk_scales){d, _mm256_mul_ps(d, _mm256_set1_ps((kind == LK_PK_S4 ? -8 : -128) * by))};
    }
}

LK_INLINE struct lk_scales lk_scales_of(const enum lk_packing kind, enum lk_scale type, const uint8_t *group,
                                        const uint8_t *sub, const int j, const float by)
{
    if (type == LK_SC_F16)
        return lk_scales8(kind, LK_SC_F16, group, sub, j, by);
    if (type == LK_SC_BF16)
        return lk_scales8(kind, LK_SC_BF16, group, sub, j, by);
    return lk_scales8(kind, LK_SC_F32, group, sub, j, by);
}

#endif
