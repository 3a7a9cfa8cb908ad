/* Packed weights as f32 numbers, rounded to bf16 where that is the type: a block of 32 columns of K by 16 outputs. */
#ifndef KERNELS_CPU_AVX2_AVX2_UNPACK_H
#define KERNELS_CPU_AVX2_AVX2_UNPACK_H

#include "kernels/cpu/avx2/lk_avx2.h"
#include "kernels/cpu/lk_packed.h"

/* 8 outputs' d and what is added: number = code * d + plus in one rounding, as by the formula, since every other
 * product is exact: at most 11 bits of d, 8 of a subgroup's scale and 5 of a code. */
struct lk_scales {
    __m256 d, plus;
};

/* Half to single, of numbers: exponent and fraction in place, one exact product for the bias. */
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

/* Scales of outputs j .. j + 7: of the group at `group`, for K4 and K6 of the subgroups at `sub`. */
LK_INLINE struct lk_scales lk_scales8(const enum lk_packing kind, enum lk_scale type, const uint8_t *group,
                                      const uint8_t *sub, int64_t j)
{
    const __m256 zero = _mm256_setzero_ps();
    __m256 d = kind == LK_PK_K4 || kind == LK_PK_K6 || type == LK_SC_F16 ? lk_scale8(LK_SC_F16, group, j)
               : type == LK_SC_BF16                                      ? lk_scale8(LK_SC_BF16, group, j)
                                                                         : lk_scale8(LK_SC_F32, group, j);
    if (kind == LK_PK_A4)
        return (struct lk_scales){d, type == LK_SC_F16 ? lk_scale8(LK_SC_F16, group, LK_AVX2_PANEL + j)
                                                       : lk_scale8(LK_SC_BF16, group, LK_AVX2_PANEL + j)};
    if (kind == LK_PK_K4) {
        __m256 m =
            _mm256_mul_ps(lk_scale8(LK_SC_F16, group, LK_AVX2_PANEL + j), lk_bytes8(sub + LK_AVX2_PANEL + j, false));
        return (struct lk_scales){_mm256_mul_ps(d, lk_bytes8(sub + j, false)), _mm256_sub_ps(zero, m)};
    }
    if (kind == LK_PK_K6) {
        d = _mm256_mul_ps(d, lk_bytes8(sub + j, true));
        return (struct lk_scales){d, _mm256_mul_ps(d, _mm256_set1_ps(-32))};
    }
    if (kind == LK_PK_E4M3)
        return (struct lk_scales){_mm256_mul_ps(d, _mm256_set1_ps(0x1p120f)), zero};
    if (kind == LK_PK_S4 || kind == LK_PK_S8)
        return (struct lk_scales){d, _mm256_mul_ps(d, _mm256_set1_ps(kind == LK_PK_S4 ? -8 : -128))};
    __m256 z = lk_bytes8(group + 2 * LK_AVX2_PANEL + j, false);
    return (struct lk_scales){d, _mm256_mul_ps(d, _mm256_sub_ps(zero, z))};
}

/* Nearest even to 8 bits, for numbers between 2^-120 and 2^110: with E, x less its fraction, E 1.5 2^16 + x has its
 * last bit where that of bf16 is. Three operations instead of the five of lk_rounded8. */
LK_INLINE __m256 lk_packed_rounded8(const enum lk_type type, __m256 x)
{
    if (type == LK_F32)
        return x;
    const __m256 far = _mm256_set1_ps(0x1.8p16f);
    __m256 e = _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xff800000u)));
    return _mm256_fnmadd_ps(e, far, _mm256_fmadd_ps(e, far, x));
}

/* What `bits` bits of each word from bit `at` on stand for; d is that of the scales times 2^-at. */
LK_INLINE __m256 lk_number8(const enum lk_type type, __m256i word, const int at, const int bits, __m256 d, __m256 plus)
{
    __m256i code = _mm256_and_si256(word, _mm256_set1_epi32(((1 << bits) - 1) << at));
    return lk_packed_rounded8(type, _mm256_fmadd_ps(_mm256_cvtepi32_ps(code), d, plus));
}

LK_INLINE __m256i lk_words8(const uint8_t *codes, int64_t o)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(codes + o * LK_AVX2_PANEL * 4));
}

/* The block of 8 outputs whose first word is at `codes`: column k to out + 16 k. */
LK_INLINE void lk_unpack4(const enum lk_type type, const uint8_t *codes, const struct lk_scales *s, float *out)
{
    __m256 d[4] = {s->d};
    for (int i = 1; i < 4; i++)
        d[i] = _mm256_mul_ps(d[i - 1], _mm256_set1_ps(0x1p-4f));
    for (int o = 0; o < 4; o++) {
        __m256i word = lk_words8(codes, o);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++, word = _mm256_srli_epi32(word, 16))
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++, out += LK_AVX2_PANEL)
                _mm256_store_ps(out, lk_number8(type, word, 4 * i, 4, d[i], s->plus));
    }
}

LK_INLINE void lk_unpack8(const enum lk_type type, const uint8_t *codes, const struct lk_scales *s, float *out)
{
    __m256 d = _mm256_mul_ps(s->d, _mm256_set1_ps(0x1p-8f));
    for (int o = 0; o < 8; o++, out += 4 * LK_AVX2_PANEL) {
        __m256i word = lk_words8(codes, o), high = _mm256_srli_epi32(word, 16);
        _mm256_store_ps(out, lk_number8(type, word, 0, 8, s->d, s->plus));
        _mm256_store_ps(out + LK_AVX2_PANEL, lk_number8(type, word, 8, 8, d, s->plus));
        _mm256_store_ps(out + 2 * LK_AVX2_PANEL, lk_number8(type, high, 0, 8, s->d, s->plus));
        _mm256_store_ps(out + 3 * LK_AVX2_PANEL, lk_number8(type, high, 8, 8, d, s->plus));
    }
}

/* A half of 16 columns, each of which has scales of its own. */
LK_INLINE void lk_unpack6(const enum lk_type type, const uint8_t *codes, const struct lk_scales *s, float *out)
{
    __m256 d[5] = {s->d};
    __m256i last = _mm256_setzero_si256();
    for (int i = 1; i < 5; i++)
        d[i] = _mm256_mul_ps(d[i - 1], _mm256_set1_ps(0x1p-6f));
#pragma GCC unroll 3
    for (int o = 0; o < 3; o++) {
        __m256i word = lk_words8(codes, o);
        last = _mm256_or_si256(last, _mm256_slli_epi32(_mm256_srli_epi32(word, 30), 2 * o));
#pragma GCC unroll 5
        for (int i = 0; i < 5; i++, out += LK_AVX2_PANEL)
            _mm256_store_ps(out, lk_number8(type, word, 6 * i, 6, d[i], s->plus));
    }
    _mm256_store_ps(out, lk_number8(type, last, 0, 6, s->d, s->plus));
}

/* E4M3: sign, exponent and fraction in place; d holds the 2^120 for the bias. */
LK_INLINE void lk_unpack_fp8(const enum lk_type type, const uint8_t *codes, const struct lk_scales *s, float *out)
{
    for (int o = 0; o < 8; o++) {
        __m256i word = lk_words8(codes, o);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++, out += LK_AVX2_PANEL) {
            __m256i x = _mm256_srai_epi32(i < 3 ? _mm256_slli_epi32(word, 24 - 8 * i) : word, 4);
            x = _mm256_and_si256(x, _mm256_set1_epi32((int)0x87f00000u));
            _mm256_store_ps(out, lk_packed_rounded8(type, _mm256_mul_ps(_mm256_castsi256_ps(x), s->d)));
        }
    }
}

/* The block's outputs j .. j + 7; of K6 its half of 16 columns. */
LK_INLINE void lk_unpack_block(const enum lk_packing kind, const enum lk_type type, const uint8_t *codes,
                               const struct lk_scales *s, float *out)
{
    if (kind == LK_PK_K6)
        lk_unpack6(type, codes, s, out);
    else if (kind == LK_PK_E4M3)
        lk_unpack_fp8(type, codes, s, out);
    else if (kind == LK_PK_S8 || kind == LK_PK_Z8)
        lk_unpack8(type, codes, s, out);
    else
        lk_unpack4(type, codes, s, out);
}

/* out[b->n, 16], 32-byte aligned. Columns behind the segment's end become some number. */
LK_INLINE void lk_unpack(const enum lk_packing kind, const enum lk_type type, const struct lk_blocks *b, float *out)
{
    const struct lk_packed_panel *p = b->panel;
    const int64_t block = b->k / LK_BLOCK;
    const int halves = kind == LK_PK_K6 ? 2 : 1, step = LK_BLOCK / halves;
    const uint8_t *codes = b->at + p->code_at + block * p->code_bytes, *sub = b->at + p->sub_at + block * p->sub_bytes;
    struct lk_groups g = lk_groups_of(b);
    for (int64_t n = 0; n < b->n; n += LK_BLOCK, codes += p->code_bytes) {
        for (int half = 0; half < halves; half++, out += step * LK_AVX2_PANEL, lk_groups_step(&g, step)) {
            for (int j = 0; j < LK_AVX2_PANEL; j += 8) {
                struct lk_scales s = lk_scales8(kind, p->q.scale, g.at, sub + half * LK_AVX2_PANEL, j);
                lk_unpack_block(kind, type, codes + (half * 3 * LK_AVX2_PANEL + j) * 4, &s, out + j);
            }
        }
        sub += p->sub_bytes;
    }
}

#endif
