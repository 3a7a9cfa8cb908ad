/* A block of packed weights as tiles. A number is formed in f32 as in avx512_unpack.h (code * d + plus, one rounding)
 * and rounded by the instruction that packs plain weights too. */
#ifndef KERNELS_CPU_AMX_AMX_UNPACK_H
#define KERNELS_CPU_AMX_AMX_UNPACK_H

#include "kernels/cpu/amx/amx_scales.h"
#include "kernels/cpu/amx/amx_unpack4.h"

/* Byte `to` of a 32-bit lane i is byte from + i of the codes. */
LK_INLINE __m512i lk_amx_spread(const int to, const int from)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(from)), 8 * (unsigned)to);
}

/* 16 of the 64 codes of 8 bits at `codes`, those from `first` on, where the formula has them. LK_PK_S8: where a float
 * of 2^15 has its last bits; what is around them is that of v, which keeps it. */
LK_INLINE __m512i lk_amx_codes8(const enum lk_packing kind, __m512i v, const uint8_t *codes, const int first)
{
    const __m512i x = _mm512_loadu_si512((const void *)codes);
    if (kind == LK_PK_S8)
        return _mm512_mask_permutexvar_epi8(v, 0x2222222222222222u, lk_amx_spread(1, first), x);
    if (kind == LK_PK_E4M3)
        return _mm512_maskz_permutexvar_epi8(0x8888888888888888u, lk_amx_spread(3, first), x);
    return _mm512_maskz_permutexvar_epi8(0x1111111111111111u, lk_amx_spread(0, first), x);
}

/* What they stand for; `plus` of LK_PK_S8 has 2^15 taken off. */
LK_INLINE __m512 lk_amx_number8(const enum lk_packing kind, __m512i v, __m512 d, __m512 plus)
{
    if (kind == LK_PK_S8)
        return _mm512_fmadd_ps(_mm512_castsi512_ps(v), d, plus);
    if (kind == LK_PK_E4M3) {
        v = _mm512_and_si512(_mm512_srai_epi32(v, 4), _mm512_set1_epi32((int)0x87f00000u));
        return _mm512_mul_ps(_mm512_castsi512_ps(v), d);
    }
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(v), d, plus);
}

LK_INLINE void lk_amx_unpack8(const enum lk_packing kind, struct lk_amx_codes *c, uint32_t *to)
{
    enum { NUMBER = 2, ROUND = 4, PAIRS = 32 }; /* steps behind a pair of columns' first one; pairs of both tiles */
    const uint8_t *codes = c->at + c->panel->code_at + c->block * c->panel->code_bytes;
    __m512i low[LK_AMX_UNDER_WAY], high[LK_AMX_UNDER_WAY];
    struct lk_amx_pair number[LK_AMX_UNDER_WAY];
    struct lk_amx_scales8 s;
    lk_amx_take_scales8(kind, c, &s);
#pragma GCC unroll 4
    for (int i = 0; i < LK_AMX_UNDER_WAY; i++)
        low[i] = high[i] = _mm512_set1_epi32(0x47000000);
#pragma GCC unroll 36
    for (int j = 0; j < PAIRS + ROUND; j++) {
        const int in = j % LK_AMX_UNDER_WAY, k = j - NUMBER, n = k % LK_AMX_UNDER_WAY;
        if (j < PAIRS) {
            low[in] = lk_amx_codes8(kind, low[in], codes + j / 2 * 64, j % 2 * 32);
            high[in] = lk_amx_codes8(kind, high[in], codes + j / 2 * 64, j % 2 * 32 + 16);
        }
        lk_amx_fetch_at(c, j, PAIRS);
        if (j >= ROUND)
            _mm512_storeu_si512(to + 16 * (j - ROUND), (__m512i)_mm512_cvtne2ps_pbh(number[in].y, number[in].x));
        if (k >= 0 && k < PAIRS)
            number[n] = (struct lk_amx_pair){lk_amx_number8(kind, low[n], s.d[k / 16][0], s.plus[k / 16][0]),
                                             lk_amx_number8(kind, high[n], s.d[k / 16][1], s.plus[k / 16][1])};
    }
}

/* 16 columns of an output of eight: those of half h of output j. */
LK_INLINE __m512 lk_amx_number6(const __m512i word[4], const int j, const int h, float d, float plus)
{
    const int n = 2 * j + h;
    __m512i code = n == 15 ? word[3] : _mm512_and_si512(word[n / 5], _mm512_set1_epi32(63 << n % 5 * 6));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), _mm512_set1_ps(d), _mm512_set1_ps(plus));
}

LK_INLINE void lk_amx_unpack6(struct lk_amx_codes *c, const struct lk_amx_scales *s, uint32_t *to)
{
    const uint8_t *codes = c->at + c->panel->code_at + c->block * c->panel->code_bytes;
    for (int64_t j = 0; j < LK_AVX512_PANEL; j += 8, codes += 3 * 64) {
        __m512i word[4];
        word[3] = _mm512_setzero_si512();
        for (int w = 0; w < 3; w++) {
            word[w] = _mm512_loadu_si512((const void *)(codes + 64 * w));
            word[3] = _mm512_or_si512(word[3], _mm512_slli_epi32(_mm512_srli_epi32(word[w], 30), 2 * (unsigned)w));
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++, to += 16) {
            lk_amx_fetch_at(c, i, 6);
            __m512 low = lk_amx_number6(word, i, 0, s->d[0][j + i], s->plus[0][j + i]);
            __m512 high = lk_amx_number6(word, i, 1, s->d[1][j + i], s->plus[1][j + i]);
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
}

LK_INLINE void lk_amx_unpack(const enum lk_packing kind, struct lk_amx_codes *c, uint32_t *to)
{
    struct lk_amx_scales s;
    if (lk_packed_bits(kind) == 4) {
        lk_amx_unpack4(kind, c, to);
    } else if (lk_packed_bits(kind) == 8) {
        lk_amx_unpack8(kind, c, to);
    } else {
        lk_amx_take_scales(kind, c, &s);
        lk_amx_unpack6(c, &s, to);
    }
    c->block++;
}

/* A panel with scales that the fast way does not round right. */
static void lk_amx_unpack_odd(struct lk_amx_codes *c, uint32_t *to)
{
    float x[LK_BLOCK * LK_AVX512_PANEL], row[LK_BLOCK];
    const bool right = lk_amx_is_right(&c->panel->q);
    lk_packed_numbers(c->panel, c->at, c->s, c->block * LK_BLOCK, x);
    for (int j = 0; j < LK_AVX512_PANEL; j++, to += 16) {
        for (int i = 0; i < LK_BLOCK; i++)
            row[i] =
                right ? x[(j % 16 * 2 + i % 2) * LK_AVX512_PANEL + j / 16 * 16 + i / 2] : x[i * LK_AVX512_PANEL + j];
        _mm512_storeu_si512(to, lk_round32(row, LK_BLOCK));
    }
    c->block++;
}

#endif
