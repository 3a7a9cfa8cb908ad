/* Packed weights as pairs of bf16, word by word in the product's order, from codes that lie by pair (lk_packed.h): two
 * registers of 8 outputs, even and odd columns side by side, are rounded into one of 16 outputs' pairs. A number is
 * formed in f32 with one rounding, as in avx512_unpack.h. */
#ifndef KERNELS_CPU_AVX512_AVX512_PAIRS_H
#define KERNELS_CPU_AVX512_AVX512_PAIRS_H

#include "kernels/cpu/avx512/avx512_pair_scales.h"

#define LK_PAIR_ROWS 4 /* rows of activations at most that meet words in registers; sums of more leave too few */
#define LK_PAIR_BOTH 2 /* up to so many the halves of a panel are taken side by side */

/* Where words go, one after another: with rows to their sums, else to memory, [word, 32 outputs]. */
struct lk_pair_sink {
    uint32_t *to;
    const uint32_t *a; /* activation panel */
    __m512 acc[LK_PAIR_ROWS][2];
};

/* Codes of a half: even and odd columns of outputs 0 to 7 and of outputs 8 to 15. */
struct lk_pair_words {
    __m512i v[2];
    const struct lk_pair_scales *s;
};

/* Word of half h. */
LK_INLINE void lk_put_pair(const int R, struct lk_pair_sink *sink, const int h, __m512 low, __m512 high)
{
    const __m512bh w = _mm512_cvtne2ps_pbh(high, low);
    if (R == 0)
        _mm512_storeu_si512(sink->to + 16 * h, (__m512i)w);
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        sink->acc[i][h] = _mm512_dpbf16_ps(sink->acc[i][h], w, (__m512bh)_mm512_set1_epi32((int)sink->a[i]));
}

LK_INLINE void lk_next_word(const int R, struct lk_pair_sink *sink)
{
    sink->a += R;
    sink->to += R == 0 ? LK_AVX512_PANEL : 0;
}

/* Word of half h, from the codes that begin at bit `place` of w, place + their bits <= 23. */
LK_INLINE void lk_put_placed(const int R, const enum lk_packing kind, struct lk_pair_sink *sink, const int h,
                             const struct lk_pair_words *w, const int place)
{
    const int bits = lk_packed_bits(kind), up = place == (bits == 4 ? LK_PLACE4_UP : LK_PLACE8_UP);
    const __m512i mask = _mm512_set1_epi32(((1 << bits) - 1) << place), e = _mm512_set1_epi32((150 - place) << 23);
    __m512 x[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        x[i] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(w->v[i], mask, e, 0xea)); /* w & mask | e */
        if (!lk_is_placed(kind))
            x[i] = _mm512_sub_ps(x[i], _mm512_castsi512_ps(e));
        x[i] = _mm512_fmadd_ps(x[i], w->s->d[i], w->s->plus[up][i]);
    }
    lk_put_pair(R, sink, h, x[0], x[1]);
}

/* Which halves of the panel are unpacked side by side. */
struct lk_halves {
    int begin, end;
};

/* Bytes from a word to the next one of the same half, and to that of the other half. */
#define LK_PAIR_LINE (LK_AVX512_PANEL * 8)
#define LK_PAIR_HALF (LK_AVX512_PANEL * 4)

LK_INLINE struct lk_pair_words lk_pair_load(const uint8_t *codes, const struct lk_pair_scales *s)
{
    return (struct lk_pair_words){{_mm512_loadu_si512(codes), _mm512_loadu_si512(codes + 64)}, s};
}

LK_INLINE void lk_load_halves(struct lk_pair_words w[2], const struct lk_halves n, const uint8_t *codes,
                              const struct lk_block_scales *s)
{
#pragma GCC unroll 2
    for (int h = n.begin; h < n.end; h++)
        w[h] = lk_pair_load(codes + h * LK_PAIR_HALF, s->half[h]);
}

LK_INLINE struct lk_pair_words lk_turned(const struct lk_pair_words *w, const int n)
{
    if (n == 0)
        return *w;
    return (struct lk_pair_words){{_mm512_rol_epi32(w->v[0], n), _mm512_rol_epi32(w->v[1], n)}, w->s};
}

LK_INLINE void lk_pairs4(const int R, const enum lk_packing kind, struct lk_pair_sink *sink, const struct lk_halves n,
                         const uint8_t *codes, const struct lk_block_scales *s)
{
    static const int turns[4] = {0, 8, 24, 16};
    for (int o = 0; o < 2; o++, codes += LK_PAIR_LINE) {
        struct lk_pair_words w[2], x[2];
        lk_load_halves(w, n, codes, s);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
#pragma GCC unroll 2
            for (int h = n.begin; h < n.end; h++) {
                if (i % 2 == 0)
                    x[h] = lk_turned(&w[h], turns[i / 2]);
                lk_put_placed(R, kind, sink, h, &x[h], i % 2 ? LK_PLACE4_UP : LK_PLACE4);
            }
            lk_next_word(R, sink);
        }
    }
}

LK_INLINE void lk_pairs8(const int R, const enum lk_packing kind, struct lk_pair_sink *sink, const struct lk_halves n,
                         const uint8_t *codes, const struct lk_block_scales *s)
{
    static const int up_turns[4] = {8, 0, 24, 16};
#pragma GCC unroll 2
    for (int o = 0; o < 4; o++, codes += LK_PAIR_LINE) {
        struct lk_pair_words w[2];
        lk_load_halves(w, n, codes, s);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
#pragma GCC unroll 2
            for (int h = n.begin; h < n.end; h++) {
                const struct lk_pair_words x = lk_turned(&w[h], kind == LK_PK_Z8 ? up_turns[i] : i / 2 * 16);
                lk_put_placed(R, kind, sink, h, &x, kind == LK_PK_Z8 || i % 2 ? LK_PLACE8_UP : LK_PLACE8);
            }
            lk_next_word(R, sink);
        }
    }
}

/* The 16th number, whose bits are the upper two of three words. */
LK_INLINE __m512i lk_last6(__m512i a, __m512i b, __m512i c)
{
    b = _mm512_slli_epi32(_mm512_srli_epi32(b, 30), 2);
    c = _mm512_slli_epi32(_mm512_srli_epi32(c, 30), 4);
    return _mm512_or_si512(_mm512_srli_epi32(a, 30), _mm512_or_si512(b, c));
}

/* Scales of the first 16 columns of K and of the others. */
LK_INLINE void lk_pairs6(const int R, struct lk_pair_sink *sink, const int h, const uint8_t *codes,
                         const struct lk_pair_scales s[2])
{
    struct lk_pair_words w[3];
#pragma GCC unroll 3
    for (int o = 0; o < 3; o++)
        w[o] = lk_pair_load(codes + h * LK_PAIR_HALF + o * LK_PAIR_LINE, s);
#pragma GCC unroll 15
    for (int i = 0; i < 15; i++) {
        struct lk_pair_words x = w[i / 5];
        if (i % 5 >= 3)
            x = (struct lk_pair_words){{_mm512_srli_epi32(x.v[0], 18), _mm512_srli_epi32(x.v[1], 18)}, s};
        x.s = s + (i >= 8);
        lk_put_placed(R, LK_PK_K6, sink, h, &x, i % 5 % 3 * 6);
        lk_next_word(R, sink);
    }
    const struct lk_pair_words last = {
        {lk_last6(w[0].v[0], w[1].v[0], w[2].v[0]), lk_last6(w[0].v[1], w[1].v[1], w[2].v[1])}, s + 1};
    lk_put_placed(R, LK_PK_K6, sink, h, &last, 0);
    lk_next_word(R, sink);
}

/* E4M3: sign, exponent and fraction in place; d holds the 2^120 for the bias. */
LK_INLINE void lk_pairs_fp8(const int R, struct lk_pair_sink *sink, const int h, const uint8_t *codes,
                            const struct lk_pair_scales *s)
{
    codes += h * LK_PAIR_HALF;
    for (int o = 0; o < 4; o++, codes += LK_PAIR_LINE) {
        const struct lk_pair_words w = lk_pair_load(codes, s);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const struct lk_pair_words top = lk_turned(&w, (20 - 8 * i) & 31);
            __m512 x[2];
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) {
                __m512i bits = _mm512_srai_epi32(top.v[j], 4);
                bits = _mm512_and_si512(bits, _mm512_set1_epi32((int)0x87f00000u));
                x[j] = _mm512_mul_ps(_mm512_castsi512_ps(bits), s->d[j]);
            }
            lk_put_pair(R, sink, h, x[0], x[1]);
            lk_next_word(R, sink);
        }
    }
}

LK_INLINE void lk_pair_block(const int R, const enum lk_packing kind, struct lk_pair_sink *sink,
                             const struct lk_halves n, const uint8_t *codes, const struct lk_block_scales *s)
{
    if (kind == LK_PK_K6)
        lk_pairs6(R, sink, n.begin, codes, s->half[n.begin]);
    else if (kind == LK_PK_E4M3)
        lk_pairs_fp8(R, sink, n.begin, codes, s->half[n.begin]);
    else if (lk_packed_bits(kind) == 8)
        lk_pairs8(R, kind, sink, n, codes, s);
    else
        lk_pairs4(R, kind, sink, n, codes, s);
}

/* Of few rows both halves side by side, since sums of one wait for each other. */
LK_INLINE bool lk_both_halves(const int R, const enum lk_packing kind)
{
    return R > 0 && R <= LK_PAIR_BOTH && kind != LK_PK_K6 && kind != LK_PK_E4M3;
}

/* Blocks whose panel has ordinary scales. */
LK_INLINE void lk_unpack_pairs(const int R, const enum lk_packing kind, const struct lk_blocks *b,
                               struct lk_pair_sink *sink)
{
    const struct lk_packed_panel *p = b->panel;
    const int64_t block = b->k / LK_BLOCK;
    const uint8_t *codes = b->at + p->code_at + block * p->code_bytes, *sub = b->at + p->sub_at + block * p->sub_bytes;
    const uint8_t *scales_of = NULL;
    struct lk_groups g = lk_groups_of(b);
    struct lk_block_scales s = {0};
    for (int64_t n = 0; n < b->n; n += LK_BLOCK, codes += p->code_bytes, sub += p->sub_bytes) {
        const struct lk_pair_sink begin = {.to = sink->to, .a = sink->a};
        lk_fetch_ahead(b, n / LK_BLOCK);
        if (p->sub_bytes > 0 || scales_of != g.at) {
            scales_of = g.at;
            lk_pair_block_scales(kind, &p->q, sub, &g, &s);
        } else {
            lk_groups_step(&g, LK_BLOCK);
        }
        if (lk_both_halves(R, kind)) {
            lk_pair_block(R, kind, sink, (struct lk_halves){0, 2}, codes, &s);
            continue;
        }
        lk_pair_block(R, kind, sink, (struct lk_halves){0, 1}, codes, &s);
        sink->to = begin.to;
        sink->a = begin.a;
        lk_pair_block(R, kind, sink, (struct lk_halves){1, 2}, codes, &s);
    }
}

#endif
