/* A block of codes of 4 bits as rows: each output has a table of the 16 numbers that its codes stand for. */
#ifndef KERNELS_CPU_AMX_AMX_UNPACK4_H
#define KERNELS_CPU_AMX_AMX_UNPACK4_H

#include "kernels/cpu/amx/amx_scales.h"

/* Codes of 4 bits of all outputs. */
struct lk_amx_codes4 {
    struct lk_amx_codes *c; /* with tables of two outputs each */
    const uint8_t *codes;
    int64_t at; /* where in a lane of 64 bits its eight bytes begin */
};

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

/* 16 numbers each, which are rounded together. */
struct lk_amx_pair {
    __m512 x, y;
};

/* What the 16 codes stand for; both ways of LK_PK_S4 are exact, and the product reads one number less. */
LK_INLINE __m512 lk_amx_number4(const enum lk_packing kind, float d, float plus)
{
    static const float code[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    static const float minus_8[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    if (kind == LK_PK_S4)
        return _mm512_mul_ps(_mm512_loadu_ps(minus_8), _mm512_set1_ps(d));
    return _mm512_fmadd_ps(_mm512_loadu_ps(code), _mm512_set1_ps(d), _mm512_set1_ps(plus));
}

/* Those of outputs j and j + 1, */
LK_INLINE struct lk_amx_pair lk_amx_numbers4(const enum lk_packing kind, const struct lk_amx_scales *s, int64_t j)
{
    return (struct lk_amx_pair){lk_amx_number4(kind, s->d[0][j], s->plus[0][j]),
                                lk_amx_number4(kind, s->d[0][j + 1], s->plus[0][j + 1])};
}

/* and as tables side by side. */
LK_INLINE __m512i lk_amx_table4(const struct lk_amx_pair *number)
{
    return (__m512i)_mm512_cvtne2ps_pbh(number->y, number->x);
}

/* Bytes 2 code and 2 code + 1 of a table are the number of a code. s: NULL where tables are kept. */
LK_INLINE void lk_amx_rows4(const enum lk_packing kind, const enum lk_amx_form form, const struct lk_amx_codes4 *from,
                            const struct lk_amx_scales *s, uint32_t *to)
{
    enum { INDEX = 1, LOOK_UP = 3, PAIRS = LK_AVX512_PANEL / 2 }; /* steps behind a pair's first one */
    const __m512i at = _mm512_set1_epi64(from->at), code = _mm512_set1_epi32(0x1e1e1e1e);
    const __m512i even = _mm512_set1_epi32(0x01000100), odd = _mm512_set1_epi32(0x21202120);
    __m512i x[LK_AMX_UNDER_WAY], y[LK_AMX_UNDER_WAY], table[LK_AMX_UNDER_WAY];
    struct lk_amx_pair number[LK_AMX_UNDER_WAY];
#pragma GCC unroll 20
    for (int j = 0; j < PAIRS + LOOK_UP; j++) {
        const int in = j % LK_AMX_UNDER_WAY, i = (j - INDEX) % LK_AMX_UNDER_WAY, out = j - LOOK_UP;
        lk_amx_fetch_at(from->c, j, PAIRS);
        if (out >= 0) {
            const int l = out % LK_AMX_UNDER_WAY;
            _mm512_storeu_si512(to + 32 * out, _mm512_permutexvar_epi8(x[l], table[l]));
            _mm512_storeu_si512(to + 32 * out + 16, _mm512_permutexvar_epi8(y[l], table[l]));
        }
        if (j >= INDEX && j < PAIRS + INDEX) {
            table[i] = s ? lk_amx_table4(&number[i]) : _mm512_loadu_si512(from->c->tables[j - INDEX]);
            x[i] = _mm512_ternarylogic_epi32(x[i], code, even, 0xea); /* (x & code) | even */
            y[i] = _mm512_ternarylogic_epi32(y[i], code, odd, 0xea);
        }
        if (j < PAIRS) {
            if (s)
                number[in] = lk_amx_numbers4(kind, s, 2 * j);
            x[in] = lk_amx_codes4(form, from->codes, 2 * j, at);
            y[in] = lk_amx_codes4(form, from->codes, 2 * j + 1, at);
        }
    }
}

/* Group by group the same tables, where a group is more than a block. */
LK_INLINE bool lk_amx_keeps_tables(const enum lk_packing kind, const struct lk_packed *q)
{
    return kind != LK_PK_K4 && q->group > LK_BLOCK;
}

LK_INLINE void lk_amx_any_rows4(const enum lk_packing kind, struct lk_amx_codes *c, const struct lk_amx_scales *s,
                                uint32_t *to)
{
    /* bits 16 i - 1 + 4 (which of the blocks) of a lane of 64 bits for its column i */
    const int64_t first = 0x2f2f1f1f0f0f3f3f, step = 0x0404040404040404, alone = 0x23231f1f03033f3f;
    const struct lk_packed_panel *p = c->panel;
    const int64_t whole = c->n_block / 4 * 4, pair = c->n_block - whole >= 2 ? 2 : 0, in = c->block % 4;
    struct lk_amx_codes4 from = {c, c->at + p->code_at + (c->block - in) * p->code_bytes, first + in * step};
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
        for (int64_t j = 0; j < LK_AVX512_PANEL; j += 2) {
            const struct lk_amx_pair number = lk_amx_numbers4(kind, &s, j);
            _mm512_storeu_si512(c->tables[j / 2], lk_amx_table4(&number));
        }
        c->tables_of = group;
    }
    lk_amx_any_rows4(kind, c, NULL, to);
}

#endif
