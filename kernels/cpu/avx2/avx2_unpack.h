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
 * last bit where that of bf16 is. */
LK_INLINE __m256 lk_packed_rounded8(const enum lk_type type, const bool few, __m256 x)
{
    if (type == LK_F32)
        return x;
    __m256 e = _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xff800000u)));
    if (!few) {
        const __m256 far = _mm256_set1_ps(0x1.8p16f);
        return _mm256_fnmadd_ps(e, far, _mm256_fmadd_ps(e, far, x));
    }
    /* one operation more, but none where the products are computed */
    __m256i far = _mm256_add_epi32(_mm256_castps_si256(e), _mm256_set1_epi32((16 << 23) + (1 << 22)));
    return _mm256_sub_ps(_mm256_add_ps(_mm256_castsi256_ps(far), x), _mm256_castsi256_ps(far));
}

/* What is done with unpacked columns: R = 0: stored; else multiplied with R rows of activations at once. */
struct lk_sink {
    float *out;     /* [columns, 16] */
    const float *a; /* activation panel at the next column, a multiple of 8 */
    __m256 acc[LK_AVX2_ROWS][2];
};

/* Column i of the sink's next ones. */
LK_INLINE void lk_sink_take(const int R, struct lk_sink *s, int i, __m256 x0, __m256 x1)
{
    if (R == 0) {
        _mm256_store_ps(s->out + i * LK_AVX2_PANEL, x0);
        _mm256_store_ps(s->out + i * LK_AVX2_PANEL + 8, x1);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        __m256 a = _mm256_broadcast_ss(s->a + i / 8 * 8 * R + 8 * r + i % 8);
        s->acc[r][0] = lk_fma_in_place(a, x0, s->acc[r][0]);
        s->acc[r][1] = lk_fma_in_place(a, x1, s->acc[r][1]);
    }
}

/* The next n columns are taken; n is a multiple of 8. */
LK_INLINE void lk_sink_step(const int R, struct lk_sink *s, int n)
{
    if (R == 0)
        s->out += n * LK_AVX2_PANEL;
    s->a += n * R;
}

/* What `bits` bits of each word from bit `at` on stand for; d is that of the scales times 2^-at. */
LK_INLINE __m256 lk_number8(const enum lk_type type, const bool few, __m256i code, __m256 d, __m256 plus)
{
    return lk_packed_rounded8(type, few, _mm256_fmadd_ps(_mm256_cvtepi32_ps(code), d, plus));
}

LK_INLINE __m256i lk_bits8(__m256i word, const int at, const int bits)
{
    return _mm256_and_si256(word, _mm256_set1_epi32(((1 << bits) - 1) << at));
}

LK_INLINE __m256i lk_words8(const uint8_t *codes, int64_t o, const int j)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(codes + o * LK_AVX2_PANEL * 4) + j);
}

/* d times 2^(-bits i), i < n. */
LK_INLINE void lk_steps8(__m256 d, const float step, const int n, __m256 *to)
{
    to[0] = d;
#pragma GCC unroll 5
    for (int i = 1; i < n; i++)
        to[i] = _mm256_mul_ps(to[i - 1], _mm256_set1_ps(step));
}

/* A block of 32 columns, whose codes begin at `codes`; s: of outputs 0 .. 7 and 8 .. 15. */
LK_INLINE void lk_unpack4(const int R, const enum lk_type type, const uint8_t *codes, const struct lk_scales s[2],
                          struct lk_sink *sink)
{
    __m256 d0[4], d1[4];
    lk_steps8(s[0].d, 0x1p-4f, 4, d0);
    lk_steps8(s[1].d, 0x1p-4f, 4, d1);
    for (int o = 0; o < 4; o++) {
        __m256i w0 = lk_words8(codes, o, 0), w1 = lk_words8(codes, o, 1);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            if (i == 4) {
                w0 = _mm256_srli_epi32(w0, 16);
                w1 = _mm256_srli_epi32(w1, 16);
            }
            lk_sink_take(R, sink, i, lk_number8(type, R > 0, lk_bits8(w0, i % 4 * 4, 4), d0[i % 4], s[0].plus),
                         lk_number8(type, R > 0, lk_bits8(w1, i % 4 * 4, 4), d1[i % 4], s[1].plus));
        }
        lk_sink_step(R, sink, 8);
    }
}

LK_INLINE void lk_unpack8(const int R, const enum lk_type type, const uint8_t *codes, const struct lk_scales s[2],
                          struct lk_sink *sink)
{
    __m256 d0[2], d1[2];
    lk_steps8(s[0].d, 0x1p-8f, 2, d0);
    lk_steps8(s[1].d, 0x1p-8f, 2, d1);
    for (int o = 0; o < 8; o += 2) {
#pragma GCC unroll 4
        for (int half = 0; half < 4; half++) {
            __m256i w0 = lk_words8(codes, o + half / 2, 0), w1 = lk_words8(codes, o + half / 2, 1);
            if (half % 2) {
                w0 = _mm256_srli_epi32(w0, 16);
                w1 = _mm256_srli_epi32(w1, 16);
            }
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++)
                lk_sink_take(R, sink, 2 * half + i, lk_number8(type, R > 0, lk_bits8(w0, 8 * i, 8), d0[i], s[0].plus),
                             lk_number8(type, R > 0, lk_bits8(w1, 8 * i, 8), d1[i], s[1].plus));
        }
        lk_sink_step(R, sink, 8);
    }
}

/* A half of 16 columns, each of which has scales of its own. */
LK_INLINE void lk_unpack6(const int R, const enum lk_type type, const uint8_t *codes, const struct lk_scales s[2],
                          struct lk_sink *sink)
{
    __m256 d0[5], d1[5];
    __m256i last0 = _mm256_setzero_si256(), last1 = last0;
    lk_steps8(s[0].d, 0x1p-6f, 5, d0);
    lk_steps8(s[1].d, 0x1p-6f, 5, d1);
#pragma GCC unroll 3
    for (int o = 0; o < 3; o++) {
        __m256i w0 = lk_words8(codes, o, 0), w1 = lk_words8(codes, o, 1);
        last0 = _mm256_or_si256(last0, _mm256_slli_epi32(_mm256_srli_epi32(w0, 30), 2 * o));
        last1 = _mm256_or_si256(last1, _mm256_slli_epi32(_mm256_srli_epi32(w1, 30), 2 * o));
#pragma GCC unroll 5
        for (int i = 0; i < 5; i++)
            lk_sink_take(R, sink, 5 * o + i, lk_number8(type, R > 0, lk_bits8(w0, 6 * i, 6), d0[i], s[0].plus),
                         lk_number8(type, R > 0, lk_bits8(w1, 6 * i, 6), d1[i], s[1].plus));
    }
    lk_sink_take(R, sink, 15, lk_number8(type, R > 0, last0, s[0].d, s[0].plus),
                 lk_number8(type, R > 0, last1, s[1].d, s[1].plus));
    lk_sink_step(R, sink, 16);
}

/* Byte i of E4M3: sign, exponent and fraction in place; d holds the 2^120 for the bias. */
LK_INLINE __m256 lk_fp8(const enum lk_type type, const bool few, __m256i word, const int i, __m256 d)
{
    __m256i x = _mm256_srai_epi32(i < 3 ? _mm256_slli_epi32(word, 24 - 8 * i) : word, 4);
    x = _mm256_and_si256(x, _mm256_set1_epi32((int)0x87f00000u));
    return lk_packed_rounded8(type, few, _mm256_mul_ps(_mm256_castsi256_ps(x), d));
}

LK_INLINE void lk_unpack_fp8(const int R, const enum lk_type type, const uint8_t *codes, const struct lk_scales s[2],
                             struct lk_sink *sink)
{
    for (int o = 0; o < 8; o += 2) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            lk_sink_take(R, sink, i, lk_fp8(type, R > 0, lk_words8(codes, o + i / 4, 0), i % 4, s[0].d),
                         lk_fp8(type, R > 0, lk_words8(codes, o + i / 4, 1), i % 4, s[1].d));
        lk_sink_step(R, sink, 8);
    }
}

/* The blocks of b, one after another, to the sink. Columns behind the segment's end become some number. */
LK_INLINE void lk_unpack(const int R, const enum lk_packing kind, const enum lk_type type, const struct lk_blocks *b,
                         struct lk_sink *sink)
{
    const struct lk_packed_panel *p = b->panel;
    const int64_t block = b->k / LK_BLOCK;
    const int halves = kind == LK_PK_K6 ? 2 : 1;
    const uint8_t *codes = b->at + p->code_at + block * p->code_bytes, *sub = b->at + p->sub_at + block * p->sub_bytes;
    struct lk_groups g = lk_groups_of(b);
    for (int64_t n = 0; n < b->n; n += LK_BLOCK, codes += p->code_bytes, sub += p->sub_bytes) {
        for (int half = 0; half < halves; half++, lk_groups_step(&g, LK_BLOCK / halves)) {
            const uint8_t *own = sub + half * LK_AVX2_PANEL, *at = codes + half * 3 * LK_AVX2_PANEL * 4;
            const struct lk_scales s[2] = {lk_scales8(kind, p->q.scale, g.at, own, 0),
                                           lk_scales8(kind, p->q.scale, g.at, own, 8)};
            if (kind == LK_PK_K6)
                lk_unpack6(R, type, at, s, sink);
            else if (kind == LK_PK_E4M3)
                lk_unpack_fp8(R, type, at, s, sink);
            else if (kind == LK_PK_S8 || kind == LK_PK_Z8)
                lk_unpack8(R, type, at, s, sink);
            else
                lk_unpack4(R, type, at, s, sink);
        }
    }
}

#endif
