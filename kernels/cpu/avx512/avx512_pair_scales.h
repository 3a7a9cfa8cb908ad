/* What numbers of packed weights that lie by pair are made with (avx512_pairs.h).
 *
 * A code becomes a number without a conversion: its bits, where they stand, are the last ones of a fraction whose other
 * bits are zero, and with the exponent e of the place beside them the word is 2^e + code, e = 23 - place. Times d, less
 * (2^e + z) d, is (code - z) d, as long as (2^e + z) d has 24 bits at most; d has 11. */
#ifndef KERNELS_CPU_AVX512_AVX512_PAIR_SCALES_H
#define KERNELS_CPU_AVX512_AVX512_PAIR_SCALES_H

#include "kernels/cpu/avx512/avx512_unpack.h"

/* Of the two registers of a half; plus[1] belongs to codes at the upper one of the kind's two places. */
struct lk_pair_scales {
    __m512 d[2], plus[2][2];
};

/* Of a block: those of halves, [1] of K6's upper 16 columns. */
struct lk_block_scales {
    struct lk_pair_scales half[2][2];
};

/* Where codes of 4 and 8 bits come to rest. */
enum { LK_PLACE4 = 12, LK_PLACE4_UP = 16, LK_PLACE8 = 4, LK_PLACE8_UP = 12 };

/* Lanes 8 h ... 8 h + 7 of x, each twice. */
LK_INLINE __m512 lk_twice(__m512 x, const int h)
{
    static const int32_t at[2][16] = {{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7},
                                      {8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15}};
    return _mm512_permutexvar_ps(_mm512_loadu_si512(at[h]), x);
}

/* Whether numbers are (2^e + code) d + plus. Where a sum is rounded or (2^e + z) d too long, 2^e is taken off first. */
LK_INLINE bool lk_is_placed(const enum lk_packing kind)
{
    return kind == LK_PK_S4 || kind == LK_PK_Z4 || kind == LK_PK_S8 || kind == LK_PK_Z8;
}

/* Scales of outputs j .. j + 15, for K4 and K6 of the subgroup at `sub`. */
LK_INLINE struct lk_pair_scales lk_pair_scales16(const enum lk_packing kind, enum lk_scale type, const uint8_t *group,
                                                 const uint8_t *sub, int64_t j)
{
    const bool is_z = lk_packed_has_z(kind), wide = lk_packed_bits(kind) == 8;
    const __m512 low = _mm512_set1_ps(wide ? -0x1p19f : -0x1p11f), up = _mm512_set1_ps(wide ? -0x1p11f : -0x1p7f);
    struct lk_pair_scales s;
    if (!lk_is_placed(kind)) {
        const struct lk_scales x = lk_scales16(kind, type, group, sub, j);
        for (int h = 0; h < 2; h++) {
            s.d[h] = lk_twice(x.d, h);
            s.plus[0][h] = s.plus[1][h] = lk_twice(x.plus, h);
        }
        return s;
    }
    const __m512 d = type == LK_SC_F16 ? lk_scale16(LK_SC_F16, group, j) : lk_scale16(LK_SC_BF16, group, j);
    __m512 z = _mm512_set1_ps(wide ? 128 : 8);
    if (is_z)
        z = lk_bytes16(group + 2 * LK_AVX512_PANEL + j, false);
    for (int h = 0; h < 2; h++) {
        const __m512 zh = is_z ? lk_twice(z, h) : z;
        s.d[h] = lk_twice(d, h);
        s.plus[0][h] = _mm512_mul_ps(s.d[h], _mm512_sub_ps(low, zh));
        s.plus[1][h] = _mm512_mul_ps(s.d[h], _mm512_sub_ps(up, zh));
    }
    return s;
}

/* Scales of the block at `sub` and g's group, which is then done with: of halves, for K6 of each one's 16 columns. */
LK_INLINE void lk_pair_block_scales(const enum lk_packing kind, const struct lk_packed *q, const uint8_t *sub,
                                    struct lk_groups *g, struct lk_block_scales *s)
{
    for (int part = 0; part < (kind == LK_PK_K6 ? 2 : 1); part++, sub += LK_AVX512_PANEL) {
        for (int h = 0; h < 2; h++)
            s->half[h][part] = lk_pair_scales16(kind, q->scale, g->at, sub, 16 * h);
        lk_groups_step(g, kind == LK_PK_K6 ? 16 : LK_BLOCK);
    }
}

#endif
