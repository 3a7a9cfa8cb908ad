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

/* Codes of 4 bits of all outputs. */
struct lk_amx_codes4 {
    const uint8_t *codes;
    const uint8_t (*tables)[64]; /* of two outputs each */
    int64_t at;                  /* where in a lane of 64 bits its eight bytes begin */
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
            if (kind == LK_PK_S8)
                x.plus = _mm512_mul_ps(x.d, _mm512_set1_ps(-0x1p15f - 128));
            _mm512_storeu_ps(s->d[h] + j, x.d);
            _mm512_storeu_ps(s->plus[h] + j, x.plus);
        }
        lk_groups_step(&c->group, kind == LK_PK_K6 ? 16 : LK_BLOCK);
    }
}

/* Where the codes of 4 bits of a block are (lk_packed.h): among those of four blocks, of two, or alone. */
enum lk_amx_form { LK_AMX_OF_FOUR, LK_AMX_OF_TWO, LK_AMX_ALONE };

/* Both bytes of a 16-bit lane hold twice the code of its column: `at` says from which bit on a byte is taken. */
LK_INLINE __m512i lk_amx_codes4(const enum lk_amx_form form, const uint8_t *codes, int64_t j, __m512i at)
{
    if (form == LK_AMX_OF_FOUR)
        return _mm512_multishift_epi64_epi8(at, _mm512_loadu_si512((const void *)(codes + 64 * j)));
    __m512i x = form == LK_AMX_OF_TWO ? _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)(codes + 32 * j)))
                                      : _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(codes + 16 * j)));
    return _mm512_multishift_epi64_epi8(at, x);
}

/* What the 16 codes stand for; both ways of LK_PK_S4 are exact, and the product reads one number less. */
LK_INLINE __m512 lk_amx_numbers4(const enum lk_packing kind, float d, float plus)
{
    static const float code[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const float minus_8[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    if (kind == LK_PK_S4)
        return _mm512_mul_ps(_mm512_loadu_ps(minus_8), _mm512_set1_ps(d));
    return _mm512_fmadd_ps(_mm512_loadu_ps(code), _mm512_set1_ps(d), _mm512_set1_ps(plus));
}

/* The tables of outputs j and j + 1 side by side. */
LK_INLINE __m512i lk_amx_tables4(const enum lk_packing kind, const struct lk_amx_scales *s, int64_t j)
{
    __m512 even = lk_amx_numbers4(kind, s->d[0][j], s->plus[0][j]);
    __m512 odd = lk_amx_numbers4(kind, s->d[0][j + 1], s->plus[0][j + 1]);
    return (__m512i)_mm512_cvtne2ps_pbh(odd, even);
}

/* Bytes 2 code and 2 code + 1 of a table are the number of a code. s: NULL where tables are kept. */
LK_INLINE void lk_amx_rows4(const enum lk_packing kind, const enum lk_amx_form form, const struct lk_amx_codes4 *from,
                            const struct lk_amx_scales *s, uint32_t *to)
{
    const __m512i at = _mm512_set1_epi64(from->at), code = _mm512_set1_epi32(0x1e1e1e1e);
    const __m512i even = _mm512_set1_epi32(0x01000100), odd = _mm512_set1_epi32(0x21202120);
#pragma GCC unroll 4
    for (int64_t j = 0; j < LK_AVX512_PANEL; j += 2, to += 32) {
        __m512i table = s ? lk_amx_tables4(kind, s, j) : _mm512_loadu_si512(from->tables[j / 2]);
        __m512i x = lk_amx_codes4(form, from->codes, j, at), y = lk_amx_codes4(form, from->codes, j + 1, at);
        x = _mm512_ternarylogic_epi32(x, code, even, 0xea); /* (x & code) | even */
        y = _mm512_ternarylogic_epi32(y, code, odd, 0xea);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi8(x, table));
        _mm512_storeu_si512(to + 16, _mm512_permutexvar_epi8(y, table));
    }
}

/* Group by group the same tables, where a group is more than a block. */
LK_INLINE bool lk_amx_keeps_tables(const enum lk_packing kind, const struct lk_packed *q)
{
    return kind != LK_PK_K4 && q->group > LK_BLOCK;
}

LK_INLINE void lk_amx_any_rows4(const enum lk_packing kind, const struct lk_amx_codes *c, const struct lk_amx_scales *s,
                                uint32_t *to)
{
    /* bits 16 i - 1 + 4 (which of the blocks) of a lane of 64 bits for its column i */
    const int64_t first = 0x2f2f1f1f0f0f3f3f, step = 0x0404040404040404, alone = 0x23231f1f03033f3f;
    const struct lk_packed_panel *p = c->panel;
    const int64_t whole = c->n_block / 4 * 4, pair = c->n_block - whole >= 2 ? 2 : 0, in = c->block % 4;
    struct lk_amx_codes4 from = {c->at + p->code_at + (c->block - in) * p->code_bytes, c->tables, first + in * step};
    if (c->block < whole) {
        lk_amx_rows4(kind, LK_AMX_OF_FOUR, &from, s, to);
    } else if (c->block < whole + pair) {
        lk_amx_rows4(kind, LK_AMX_OF_TWO, &from, s, to);
    } else {
        from.codes += pair * p->code_bytes;
        from.at = alone;
        lk_amx_rows4(kind, LK_AMX_ALONE, &from, s, to);
    }
}

LK_INLINE void lk_amx_unpack4(const enum lk_packing kind, struct lk_amx_codes *c, uint32_t *to)
{
    struct lk_amx_scales s;
    const uint8_t *group = c->group.at;
    if (!lk_amx_keeps_tables(kind, &c->panel->q)) {
        lk_amx_take_scales(kind, c, &s);
        lk_amx_any_rows4(kind, c, &s, to);
        return;
    }
    if (c->tables_of == group) {
        lk_groups_step(&c->group, LK_BLOCK);
    } else {
        lk_amx_take_scales(kind, c, &s);
        for (int64_t j = 0; j < LK_AVX512_PANEL; j += 2)
            _mm512_storeu_si512(c->tables[j / 2], lk_amx_tables4(kind, &s, j));
        c->tables_of = group;
    }
    lk_amx_any_rows4(kind, c, NULL, to);
}

/* Byte `to` of a 32-bit lane i is byte from + i of the codes. */
LK_INLINE __m512i lk_amx_spread(const int to, const int from)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(from)), 8 * (unsigned)to);
}

/* 16 codes of 8 bits as numbers: byte i of `at` of the 64 at `codes`. LK_PK_S8: the code is put where a float of
 * 2^15 has its last bits, and `plus` has that taken off. */
LK_INLINE __m512 lk_amx_number8(const enum lk_packing kind, const uint8_t *codes, const int first, float d, float plus)
{
    const __m512i x = _mm512_loadu_si512((const void *)codes);
    if (kind == LK_PK_S8) {
        __m512i v = _mm512_mask_permutexvar_epi8(_mm512_set1_epi32(0x47000000), 0x2222222222222222u,
                                                 lk_amx_spread(1, first), x);
        return _mm512_fmadd_ps(_mm512_castsi512_ps(v), _mm512_set1_ps(d), _mm512_set1_ps(plus));
    }
    if (kind == LK_PK_E4M3) {
        __m512i v = _mm512_maskz_permutexvar_epi8(0x8888888888888888u, lk_amx_spread(3, first), x);
        v = _mm512_and_si512(_mm512_srai_epi32(v, 4), _mm512_set1_epi32((int)0x87f00000u));
        return _mm512_mul_ps(_mm512_castsi512_ps(v), _mm512_set1_ps(d));
    }
    __m512i v = _mm512_maskz_permutexvar_epi8(0x1111111111111111u, lk_amx_spread(0, first), x);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(v), _mm512_set1_ps(d), _mm512_set1_ps(plus));
}

LK_INLINE void lk_amx_unpack8(const enum lk_packing kind, const struct lk_amx_codes *c, const struct lk_amx_scales *s,
                              uint32_t *to)
{
    const uint8_t *codes = c->at + c->panel->code_at + c->block * c->panel->code_bytes;
#pragma GCC unroll 4
    for (int64_t j = 0; j < LK_AVX512_PANEL; j += 2, codes += 64, to += 32) {
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const float d = s->d[0][j + i], plus = s->plus[0][j + i];
            __m512 low = lk_amx_number8(kind, codes, 32 * i, d, plus);
            __m512 high = lk_amx_number8(kind, codes, 32 * i + 16, d, plus);
            _mm512_storeu_si512(to + 16 * i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
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
    if (lk_packed_bits(kind) == 4) {
        lk_amx_unpack4(kind, c, to);
    } else {
        lk_amx_take_scales(kind, c, &s);
        if (kind == LK_PK_K6)
            lk_amx_unpack6(c, &s, to);
        else
            lk_amx_unpack8(kind, c, &s, to);
    }
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

#endif
