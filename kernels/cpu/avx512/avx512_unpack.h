/* Packed weights as words of the product in f32: a block of 32 columns of K by 32 outputs, whose codes lie by word. A
 * number is formed as in avx2_unpack.h (code * d + plus, one rounding). avx512_pairs.h does the same for bf16, where
 * numbers are rounded by the instruction that packs plain weights too. */
#ifndef KERNELS_CPU_AVX512_AVX512_UNPACK_H
#define KERNELS_CPU_AVX512_AVX512_UNPACK_H

#include "kernels/cpu/avx512/lk_avx512.h"
#include "kernels/cpu/lk_packed.h"

/* Where words go: word w of outputs 16 h ... at to + w * row + h * half. */
struct lk_unpacked {
    uint32_t *to;
    int64_t row, half;
};

struct lk_scales {
    __m512 d, plus;
};

LK_INLINE __m512 lk_scale16(const enum lk_scale type, const uint8_t *at, int64_t i)
{
    if (type == LK_SC_F32)
        return _mm512_loadu_ps((const float *)(const void *)at + i);
    __m256i half = _mm256_loadu_si256((const void *)(at + 2 * i));
    if (type == LK_SC_F16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

LK_INLINE __m512 lk_bytes16(const uint8_t *at, const bool is_signed)
{
    __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)at));
    return _mm512_cvtepi32_ps(is_signed ? _mm512_srai_epi32(_mm512_slli_epi32(x, 24), 24) : x);
}

/* Scales of outputs j .. j + 15: of the group at `group`, for K4 and K6 of the subgroups at `sub`. */
LK_INLINE struct lk_scales lk_scales16(const enum lk_packing kind, enum lk_scale type, const uint8_t *group,
                                       const uint8_t *sub, int64_t j)
{
    const __m512 zero = _mm512_setzero_ps();
    __m512 d = kind == LK_PK_K4 || kind == LK_PK_K6 || type == LK_SC_F16 ? lk_scale16(LK_SC_F16, group, j)
               : type == LK_SC_BF16                                      ? lk_scale16(LK_SC_BF16, group, j)
                                                                         : lk_scale16(LK_SC_F32, group, j);
    if (kind == LK_PK_A4)
        return (struct lk_scales){d, type == LK_SC_F16 ? lk_scale16(LK_SC_F16, group, LK_AVX512_PANEL + j)
                                                       : lk_scale16(LK_SC_BF16, group, LK_AVX512_PANEL + j)};
    if (kind == LK_PK_K4) {
        __m512 m = _mm512_mul_ps(lk_scale16(LK_SC_F16, group, LK_AVX512_PANEL + j),
                                 lk_bytes16(sub + LK_AVX512_PANEL + j, false));
        return (struct lk_scales){_mm512_mul_ps(d, lk_bytes16(sub + j, false)), _mm512_sub_ps(zero, m)};
    }
    if (kind == LK_PK_K6) {
        d = _mm512_mul_ps(d, lk_bytes16(sub + j, true));
        return (struct lk_scales){d, _mm512_mul_ps(d, _mm512_set1_ps(-32))};
    }
    if (kind == LK_PK_E4M3)
        return (struct lk_scales){_mm512_mul_ps(d, _mm512_set1_ps(0x1p120f)), zero};
    if (kind == LK_PK_S4 || kind == LK_PK_S8)
        return (struct lk_scales){d, _mm512_mul_ps(d, _mm512_set1_ps(kind == LK_PK_S4 ? -8 : -128))};
    __m512 z = lk_bytes16(group + 2 * LK_AVX512_PANEL + j, false);
    return (struct lk_scales){d, _mm512_mul_ps(d, _mm512_sub_ps(zero, z))};
}

/* What `bits` bits of each word from bit `at` on stand for; d is that of the scales times 2^-at. */
LK_INLINE __m512 lk_number16(__m512i word, const int at, const int bits, __m512 d, __m512 plus)
{
    __m512i code = _mm512_and_si512(word, _mm512_set1_epi32(((1 << bits) - 1) << at));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), d, plus);
}

LK_INLINE __m512i lk_words16(const uint8_t *codes, int64_t o)
{
    return _mm512_loadu_si512((const void *)(codes + o * LK_AVX512_PANEL * 4));
}

/* 16 columns of K of 16 outputs, from the codes' first word on. */
LK_INLINE void lk_unpack4(const uint8_t *codes, const struct lk_scales *s, __m512 x[16])
{
    __m512 d[4] = {s->d};
    for (int i = 1; i < 4; i++)
        d[i] = _mm512_mul_ps(d[i - 1], _mm512_set1_ps(0x1p-4f));
#pragma GCC unroll 2
    for (int o = 0; o < 2; o++) {
        __m512i word = lk_words16(codes, o), high = _mm512_srli_epi32(word, 16);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            x[8 * o + i] = lk_number16(word, 4 * i, 4, d[i], s->plus);
            x[8 * o + 4 + i] = lk_number16(high, 4 * i, 4, d[i], s->plus);
        }
    }
}

LK_INLINE void lk_unpack8(const uint8_t *codes, const struct lk_scales *s, __m512 x[16])
{
    __m512 d = _mm512_mul_ps(s->d, _mm512_set1_ps(0x1p-8f));
#pragma GCC unroll 4
    for (int o = 0; o < 4; o++) {
        __m512i word = lk_words16(codes, o), high = _mm512_srli_epi32(word, 16);
        x[4 * o] = lk_number16(word, 0, 8, s->d, s->plus);
        x[4 * o + 1] = lk_number16(word, 8, 8, d, s->plus);
        x[4 * o + 2] = lk_number16(high, 0, 8, s->d, s->plus);
        x[4 * o + 3] = lk_number16(high, 8, 8, d, s->plus);
    }
}

LK_INLINE void lk_unpack6(const uint8_t *codes, const struct lk_scales *s, __m512 x[16])
{
    __m512 d[5] = {s->d};
    __m512i last = _mm512_setzero_si512();
    for (int i = 1; i < 5; i++)
        d[i] = _mm512_mul_ps(d[i - 1], _mm512_set1_ps(0x1p-6f));
#pragma GCC unroll 3
    for (int o = 0; o < 3; o++) {
        __m512i word = lk_words16(codes, o);
        last = _mm512_or_si512(last, _mm512_slli_epi32(_mm512_srli_epi32(word, 30), 2 * (unsigned)o));
#pragma GCC unroll 5
        for (int i = 0; i < 5; i++)
            x[5 * o + i] = lk_number16(word, 6 * i, 6, d[i], s->plus);
    }
    x[15] = lk_number16(last, 0, 6, s->d, s->plus);
}

/* E4M3: sign, exponent and fraction in place; d holds the 2^120 for the bias. */
LK_INLINE void lk_unpack_fp8(const uint8_t *codes, const struct lk_scales *s, __m512 x[16])
{
#pragma GCC unroll 4
    for (int o = 0; o < 4; o++) {
        __m512i word = lk_words16(codes, o);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __m512i bits = _mm512_srai_epi32(i < 3 ? _mm512_slli_epi32(word, 24 - 8 * (unsigned)i) : word, 4);
            bits = _mm512_and_si512(bits, _mm512_set1_epi32((int)0x87f00000u));
            x[4 * o + i] = _mm512_mul_ps(_mm512_castsi512_ps(bits), s->d);
        }
    }
}

/* x of columns k and k + 1 as words of pairs. */
LK_INLINE __m512i lk_pairs(__m512 even, __m512 odd)
{
    static const uint16_t in_turn[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                         8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(in_turn), (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* 16 columns of K as words: 16 of them in f32, 8 in bf16. */
LK_INLINE void lk_put16(const enum lk_type type, const __m512 x[16], uint32_t *to, int64_t row)
{
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += lk_per_word(type))
        _mm512_storeu_si512(to + i / lk_per_word(type) * row,
                            type == LK_BF16 ? lk_pairs(x[i], x[i + 1]) : (__m512i)x[i]);
}

/* 16 columns of K from column 16 `part` of the block on, 16 outputs whose codes' first word is at `codes`. */
LK_INLINE void lk_unpack_part(const enum lk_packing kind, const uint8_t *codes, const int part,
                              const struct lk_scales *s, __m512 x[16])
{
    const int64_t line = LK_AVX512_PANEL * 4;
    if (kind == LK_PK_K6)
        lk_unpack6(codes + part * 3 * line, s, x);
    else if (kind == LK_PK_E4M3)
        lk_unpack_fp8(codes + part * 4 * line, s, x);
    else if (kind == LK_PK_S8 || kind == LK_PK_Z8)
        lk_unpack8(codes + part * 4 * line, s, x);
    else
        lk_unpack4(codes + part * 2 * line, s, x);
}

/* A panel with scales that the fast way does not round right. */
LK_INLINE void lk_unpack_odd(const enum lk_type type, const struct lk_blocks *b, const struct lk_unpacked *u)
{
    _Alignas(64) float x[LK_BLOCK * LK_AVX512_PANEL];
    const int64_t words = LK_BLOCK / lk_per_word(type);
    uint32_t *to = u->to;
    for (int64_t n = 0; n < b->n; n += LK_BLOCK, to += words * LK_AVX512_PANEL) {
        lk_packed_numbers(b->panel, b->at, b->s, b->k + n, x);
        for (int at = 0; at < 4; at++) { /* parts and halves */
            __m512 v[16];
            for (int i = 0; i < 16; i++)
                v[i] = _mm512_loadu_ps(x + (at / 2 * 16 + i) * LK_AVX512_PANEL + at % 2 * 16);
            lk_put16(type, v, to + at / 2 * words / 2 * u->row + at % 2 * u->half, u->row);
        }
    }
}

/* Blocks as words of f32, each one's 32 outputs in one run of memory. */
LK_INLINE void lk_unpack(const enum lk_packing kind, const struct lk_blocks *b, const struct lk_unpacked *u)
{
    const struct lk_packed_panel *p = b->panel;
    const int64_t block = b->k / LK_BLOCK;
    if (b->at[p->odd_at] == LK_ODD_SCALES) {
        lk_unpack_odd(LK_F32, b, u);
        return;
    }
    const uint8_t *codes = b->at + p->code_at + block * p->code_bytes, *sub = b->at + p->sub_at + block * p->sub_bytes;
    struct lk_groups g = lk_groups_of(b);
    uint32_t *to = u->to;
    for (int64_t n = 0; n < b->n; n += LK_BLOCK, codes += p->code_bytes, sub += p->sub_bytes) {
        lk_fetch_ahead(b, n / LK_BLOCK);
        for (int part = 0; part < 2; part++) {
            for (int h = 0; h < 2; h++) {
                __m512 x[16];
                const uint8_t *own = sub + (kind == LK_PK_K6 ? part * LK_AVX512_PANEL : 0);
                struct lk_scales s = lk_scales16(kind, p->q.scale, g.at, own, 16 * h);
                lk_unpack_part(kind, codes + 64 * h, part, &s, x);
                lk_put16(LK_F32, x, to + part * 16 * u->row + h * u->half, u->row);
            }
            if (kind == LK_PK_K6 || part == 1)
                lk_groups_step(&g, kind == LK_PK_K6 ? 16 : LK_BLOCK);
        }
        to += LK_BLOCK * LK_AVX512_PANEL;
    }
}

#endif
