/* What a block of packed weights is unpacked with. */
#ifndef KERNELS_CPU_AMX_AMX_SCALES_H
#define KERNELS_CPU_AMX_AMX_SCALES_H

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
    /* they are broadcast from memory: from a register each would take an operation more */
    __asm__ volatile("" : : "r"(s) : "memory");
}

/* The same for codes of 8 bits, of which a lane is one of two columns of an output: [h][i] is that of outputs
 * 16 h + 8 i ... */
struct lk_amx_scales8 {
    __m512 d[2][2], plus[2][2];
};

/* Each of x twice: the first eight, the others. */
LK_INLINE void lk_amx_double(__m512 x, __m512 to[2])
{
    const __m512i first = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8)), v = (__m512i)x;
    to[0] = _mm512_castsi512_ps(_mm512_permutex2var_epi32(v, first, v));
    to[1] = _mm512_castsi512_ps(_mm512_permutex2var_epi32(v, second, v));
}

LK_INLINE void lk_amx_take_scales8(const enum lk_packing kind, struct lk_amx_codes *c, struct lk_amx_scales8 *s)
{
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        struct lk_scales x = lk_scales16(kind, c->panel->q.scale, c->group.at, NULL, 16 * h);
        if (kind == LK_PK_S8)
            x.plus = _mm512_mul_ps(x.d, _mm512_set1_ps(-0x1p15f - 128));
        lk_amx_double(x.d, s->d[h]);
        lk_amx_double(x.plus, s->plus[h]);
    }
    lk_groups_step(&c->group, LK_BLOCK);
}

/* Rows go through their steps in a staggered order, a step of one beside an earlier one of a row behind it, so that few
 * operations wait for another's result when the processor takes them up. Up to so many rows are under way. */
#define LK_AMX_UNDER_WAY 4

/* Step j of so many: a line ahead with every other one. */
LK_INLINE void lk_amx_fetch_at(struct lk_amx_codes *c, const int j, const int n_step)
{
    if (j < n_step && j % 2 == 0) {
        _mm_prefetch(c->ahead, _MM_HINT_T1);
        c->ahead += c->step;
    }
}

#endif
