/* A block of packed weights as rows. A number is formed in f32 as in avx512_unpack.h (code * d + plus, one rounding)
 * and rounded by the instruction that packs plain weights too. */
#ifndef KERNELS_CPU_AMX_AMX_UNPACK_H
#define KERNELS_CPU_AMX_AMX_UNPACK_H

#include "kernels/cpu/amx/amx_packed.h"
#include "kernels/cpu/avx512/avx512_unpack.h"

/* Of the 32 outputs, for each of them broadcast from memory; [1] is that of LK_PK_K6's upper 16 columns. */
struct lk_amx_scales {
    _Alignas(64) float d[2][32];
    _Alignas(64) float plus[2][32];
};

/* 2^-6 n for the place n in its word of a code of 6 bits; lane j of half h has number 2 (j % 8) + h. */
LK_INLINE __m512 lk_amx_places(const int h)
{
    static const float place[2][16] = {{1, 0x1p-12f, 0x1p-24f, 0x1p-6f, 0x1p-18f, 1, 0x1p-12f, 0x1p-24f, 1, 0x1p-12f,
                                        0x1p-24f, 0x1p-6f, 0x1p-18f, 1, 0x1p-12f, 0x1p-24f},
                                       {0x1p-6f, 0x1p-18f, 1, 0x1p-12f, 0x1p-24f, 0x1p-6f, 0x1p-18f, 1, 0x1p-6f,
                                        0x1p-18f, 1, 0x1p-12f, 0x1p-24f, 0x1p-6f, 0x1p-18f, 1}};
    return _mm512_loadu_ps(place[h]);
}

/* The block's scales; its group is done with. */
LK_INLINE void lk_amx_take_scales(const enum lk_packing kind, struct lk_amx_codes *c, struct lk_amx_scales *s)
{
    const struct lk_packed_panel *p = c->panel;
    const uint8_t *sub = c->at + p->sub_at + c->block * p->sub_bytes;
    for (int h = 0; h < (kind == LK_PK_K6 ? 2 : 1); h++, sub += LK_AVX512_PANEL) {
        for (int j = 0; j < LK_AVX512_PANEL; j += 16) {
            struct lk_scales x = lk_scales16(kind, p->q.scale, c->group.at, sub, j);
            if (kind == LK_PK_K6)
                x.d = _mm512_mul_ps(x.d, lk_amx_places(h));
            _mm512_storeu_ps(s->d[h] + j, x.d);
            _mm512_storeu_ps(s->plus[h] + j, x.plus);
        }
        lk_groups_step(&c->group, kind == LK_PK_K6 ? 16 : LK_BLOCK);
    }
}

/* Where the codes of 4 bits of a block are (lk_packed.h): 0 .. 3: that block of four, 4 and 5: of two, 6: alone. */
enum { LK_AMX_OF_TWO = 4, LK_AMX_ALONE = 6 };

/* 16-bit lanes whose low four bits are the codes of output j; with `upper` plus 16. What the higher ones are does not
 * matter to a permutation. */
LK_INLINE __m512i lk_amx_codes4(const int form, const uint8_t *codes, int64_t j, const bool upper)
{
    const __m512i low = _mm512_set1_epi32(0x000f000f), add = _mm512_set1_epi32(0x00100010);
    __m512i x;
    if (form == LK_AMX_ALONE) {
        x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(codes + 16 * j)));
        x = _mm512_or_si512(x, _mm512_slli_epi32(x, 12));
    } else if (form >= LK_AMX_OF_TWO) {
        x = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)(codes + 32 * j)));
        x = _mm512_srli_epi16(x, 4 * (form - LK_AMX_OF_TWO));
    } else {
        x = _mm512_loadu_si512((const void *)(codes + 64 * j));
        x = form > 0 ? _mm512_srli_epi16(x, 4 * form) : x;
    }
    if (upper)
        return _mm512_ternarylogic_epi32(x, low, add, 0xea); /* (x & low) | add */
    return form == 3 || form == 5 ? x : _mm512_and_si512(x, low);
}

/* What the 16 codes stand for; both ways of LK_PK_S4 are exact, and the product reads one number less. */
LK_INLINE __m512 lk_amx_table4(const enum lk_packing kind, float d, float plus)
{
    static const float code[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const float minus_8[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    if (kind == LK_PK_S4)
        return _mm512_mul_ps(_mm512_loadu_ps(minus_8), _mm512_set1_ps(d));
    return _mm512_fmadd_ps(_mm512_loadu_ps(code), _mm512_set1_ps(d), _mm512_set1_ps(plus));
}

/* Two outputs at a time: their tables fill one register. */
LK_INLINE void lk_amx_rows4(const enum lk_packing kind, const int form, const uint8_t *codes,
                            const struct lk_amx_scales *s, uint32_t *to)
{
#pragma GCC unroll 4
    for (int64_t j = 0; j < LK_AVX512_PANEL; j += 2, to += 32) {
        __m512 even = lk_amx_table4(kind, s->d[0][j], s->plus[0][j]);
        __m512 odd = lk_amx_table4(kind, s->d[0][j + 1], s->plus[0][j + 1]);
        __m512i table = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi16(lk_amx_codes4(form, codes, j, false), table));
        _mm512_storeu_si512(to + 16, _mm512_permutexvar_epi16(lk_amx_codes4(form, codes, j + 1, true), table));
    }
}

LK_INLINE void lk_amx_unpack4(const enum lk_packing kind, const struct lk_amx_codes *c, const struct lk_amx_scales *s,
                              uint32_t *to)
{
    const struct lk_packed_panel *p = c->panel;
    const int64_t whole = c->n_block / 4 * 4, pair = c->n_block - whole >= 2 ? 2 : 0, in = c->block % 4;
    const uint8_t *codes = c->at + p->code_at;
    const uint8_t *four = codes + (c->block - in) * p->code_bytes, *rest = codes + (whole + pair) * p->code_bytes;
    if (c->block >= whole + pair)
        lk_amx_rows4(kind, LK_AMX_ALONE, rest, s, to);
    else if (c->block >= whole)
        in == 0 ? lk_amx_rows4(kind, LK_AMX_OF_TWO, four, s, to) : lk_amx_rows4(kind, LK_AMX_OF_TWO + 1, four, s, to);
    else if (in < 2)
        in == 0 ? lk_amx_rows4(kind, 0, four, s, to) : lk_amx_rows4(kind, 1, four, s, to);
    else
        in == 2 ? lk_amx_rows4(kind, 2, four, s, to) : lk_amx_rows4(kind, 3, four, s, to);
}

/* 16 codes of 8 bits as numbers. */
LK_INLINE __m512 lk_amx_number8(const enum lk_packing kind, const uint8_t *codes, float d, float plus)
{
    __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)codes));
    if (kind != LK_PK_E4M3)
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(x), _mm512_set1_ps(d), _mm512_set1_ps(plus));
    x = _mm512_and_si512(_mm512_srai_epi32(_mm512_slli_epi32(x, 24), 4), _mm512_set1_epi32((int)0x87f00000u));
    return _mm512_mul_ps(_mm512_castsi512_ps(x), _mm512_set1_ps(d));
}

LK_INLINE void lk_amx_unpack8(const enum lk_packing kind, const struct lk_amx_codes *c, const struct lk_amx_scales *s,
                              uint32_t *to)
{
    const uint8_t *codes = c->at + c->panel->code_at + c->block * c->panel->code_bytes;
#pragma GCC unroll 4
    for (int64_t j = 0; j < LK_AVX512_PANEL; j++, codes += LK_BLOCK, to += 16) {
        __m512 low = lk_amx_number8(kind, codes, s->d[0][j], s->plus[0][j]);
        __m512 high = lk_amx_number8(kind, codes + 16, s->d[0][j], s->plus[0][j]);
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* 16 columns of an output of eight: those of half h of output j. */
LK_INLINE __m512 lk_amx_number6(const __m512i word[4], const int j, const int h, float d, float plus)
{
    const int n = 2 * j + h;
    __m512i code = n == 15 ? word[3] : _mm512_and_si512(word[n / 5], _mm512_set1_epi32(63 << n % 5 * 6));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), _mm512_set1_ps(d), _mm512_set1_ps(plus));
}

LK_INLINE void lk_amx_unpack6(const struct lk_amx_codes *c, const struct lk_amx_scales *s, uint32_t *to)
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
            __m512 low = lk_amx_number6(word, i, 0, s->d[0][j + i], s->plus[0][j + i]);
            __m512 high = lk_amx_number6(word, i, 1, s->d[1][j + i], s->plus[1][j + i]);
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
}

LK_INLINE void lk_amx_unpack(const enum lk_packing kind, struct lk_amx_codes *c, uint32_t *to)
{
    struct lk_amx_scales s;
    lk_amx_take_scales(kind, c, &s);
    if (kind == LK_PK_K6)
        lk_amx_unpack6(c, &s, to);
    else if (lk_packed_bits(kind) == 8)
        lk_amx_unpack8(kind, c, &s, to);
    else
        lk_amx_unpack4(kind, c, &s, to);
    c->block++;
}

/* A panel with scales that the fast way does not round right. */
static void lk_amx_unpack_odd(struct lk_amx_codes *c, uint32_t *to)
{
    float x[LK_BLOCK * LK_AVX512_PANEL], row[LK_BLOCK];
    lk_packed_numbers(c->panel, c->at, c->s, c->block * LK_BLOCK, x);
    for (int j = 0; j < LK_AVX512_PANEL; j++, to += 16) {
        for (int i = 0; i < LK_BLOCK; i++)
            row[i] = x[i * LK_AVX512_PANEL + j];
        _mm512_storeu_si512(to, lk_round32(row, LK_BLOCK));
    }
    c->block++;
}

/* Reads x[R][16] of `from` column after column, R being a power of two up to 16: to[16][R] in one run. */
LK_INLINE void lk_amx_mix(const int R, __m512i x[16])
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#pragma GCC unroll 4
    for (int n = 1; n < R; n *= 2) {
        __m512i y[16];
#pragma GCC unroll 8
        for (int i = 0; i < R / 2; i++) {
            y[2 * i] = _mm512_permutex2var_epi32(x[i], low, x[i + R / 2]);
            y[2 * i + 1] = _mm512_permutex2var_epi32(x[i], high, x[i + R / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; i++)
            x[i] = y[i];
    }
}

/* The other way: x holds [16][R] in one run, and then [R][16]. */
LK_INLINE void lk_amx_part(const int R, __m512i x[16])
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#pragma GCC unroll 4
    for (int n = 1; n < R; n *= 2) {
        __m512i y[16];
#pragma GCC unroll 8
        for (int i = 0; i < R / 2; i++) {
            y[i] = _mm512_permutex2var_epi32(x[2 * i], even, x[2 * i + 1]);
            y[i + R / 2] = _mm512_permutex2var_epi32(x[2 * i], odd, x[2 * i + 1]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; i++)
            x[i] = y[i];
    }
}

#endif
