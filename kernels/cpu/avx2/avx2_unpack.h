/* Packed weights as f32 numbers, rounded to bf16 where that is the type: a block of 32 columns of K by 16 outputs. */
#ifndef KERNELS_CPU_AVX2_AVX2_UNPACK_H
#define KERNELS_CPU_AVX2_AVX2_UNPACK_H

#include "kernels/cpu/avx2/avx2_scales.h"

/* Four vectors on their way to numbers, each operation done to all of them before the next one, so that those which
 * wait for each other stand apart: of one weight panel (P = 1) two columns of K, of two panels one. */
struct lk_quad {
    __m256 x[4];
};
#define LK_FOUR _Pragma("GCC unroll 4") for (int v = 0; v < 4; v++)
#define LK_COLUMN(P, v) ((P) == 1 ? (v) / 2 : 0)
#define LK_WHICH(P, v) ((P) == 1 ? 0 : (v) / 2) /* panel */

/* How numbers become bf16. */
enum lk_rounding { LK_KEEP, LK_QUICK, LK_CAREFUL };

/* LK_QUICK: x holds 2^16 times the number. The sum of both has its last bit where that of bf16 is, and what is left
 * when 2^16 times the number is taken off is rounded to nearest; to even, because a tie has an even last bit itself.
 * Only where the sum reaches the next power of two and the number's last bit is set does it fail: lk_packed_pack finds
 * panels with such numbers. LK_CAREFUL does the same with E, the number less its fraction, times 1.5 2^16. */
LK_INLINE void lk_round_quad(const enum lk_rounding how, struct lk_quad *q)
{
    __m256 t[4];
    if (how == LK_QUICK) {
        LK_FOUR t[v] = _mm256_mul_ps(q->x[v], _mm256_set1_ps(1 + 0x1p-16f));
        LK_FOUR q->x[v] = _mm256_sub_ps(t[v], q->x[v]);
    } else if (how == LK_CAREFUL) {
        const __m256 top = _mm256_castsi256_ps(_mm256_set1_epi32((int)0xff800000u)), far = _mm256_set1_ps(0x1.8p16f);
        LK_FOUR t[v] = _mm256_and_ps(q->x[v], top);
        LK_FOUR q->x[v] = _mm256_fmadd_ps(t[v], far, q->x[v]);
        LK_FOUR q->x[v] = _mm256_fnmadd_ps(t[v], far, q->x[v]);
    }
}

/* Where unpacked numbers go: with R = 0 to memory, else they are multiplied with R rows of activations at once. */
struct lk_sink {
    float *out;     /* [columns, 16], of one panel */
    const float *a; /* activation panel at the next column, a multiple of 8 */
    __m256 acc[LK_AVX2_ROWS][4];
};

/* Column i of the sink's next ones, for P = 1 columns i and i + 1. */
LK_INLINE void lk_sink_take(const int R, const int P, struct lk_sink *s, const int i, const struct lk_quad *q)
{
    if (R == 0)
        LK_FOUR _mm256_store_ps(s->out + i * LK_AVX2_PANEL + 8 * v, q->x[v]);
#pragma GCC unroll 2
    for (int k = 0; k < 2 / P; k++) {
        const float *a = s->a + (i + k) / 8 * 8 * R + (i + k) % 8;
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m256 x = _mm256_broadcast_ss(a + 8 * r);
#pragma GCC unroll 4
            for (int j = 0; j < 2 * P; j++)
                s->acc[r][j] = lk_fma_in_place(x, q->x[2 * k + j], s->acc[r][j]);
        }
    }
}

/* The next n columns are taken; n is a multiple of 8. */
LK_INLINE void lk_sink_step(const int R, struct lk_sink *s, int n)
{
    if (R == 0)
        s->out += n * LK_AVX2_PANEL;
    s->a += n * R;
}

/* Where numbers come from: codes of a block (of K6 a half of it) and scales of each panel and of its outputs 0 .. 7 and
 * 8 .. 15. */
struct lk_source {
    const uint8_t *codes[2];
    struct lk_scales s[2][2];
};

LK_INLINE __m256i lk_words8(const int P, const struct lk_source *f, int64_t o, const int v)
{
    const uint8_t *at = f->codes[LK_WHICH(P, v)] + o * LK_AVX2_PANEL * 4;
    return _mm256_loadu_si256((const __m256i *)(const void *)at + v % 2);
}

LK_INLINE __m256i lk_bits8(__m256i word, const int at, const int bits)
{
    return _mm256_and_si256(word, _mm256_set1_epi32(((1 << bits) - 1) << at));
}

/* d[i]: the scales times 2^(-bits i), for LK_QUICK times 2^16 too. */
LK_INLINE void lk_steps8(const int P, const enum lk_rounding how, const struct lk_source *f, const int bits,
                         const int n, __m256 (*d)[4])
{
    const float by = how == LK_QUICK ? 0x1p16f : 1;
#pragma GCC unroll 5
    for (int i = 0; i < n; i++)
        LK_FOUR d[i][v] = _mm256_mul_ps(f->s[LK_WHICH(P, v)][v % 2].d, _mm256_set1_ps(by / (float)(1 << bits * i)));
}

/* Codes to numbers: vector v times d[at[v]][v]. */
LK_INLINE struct lk_quad lk_numbers(const int P, const enum lk_rounding how, const __m256i code[4], const __m256 d[4],
                                    const struct lk_source *f)
{
    struct lk_quad q;
    LK_FOUR q.x[v] = _mm256_cvtepi32_ps(code[v]);
    LK_FOUR q.x[v] = _mm256_fmadd_ps(q.x[v], d[v], f->s[LK_WHICH(P, v)][v % 2].plus);
    lk_round_quad(how, &q);
    return q;
}

LK_INLINE void lk_unpack4(const int R, const int P, const enum lk_rounding how, const struct lk_source *f,
                          struct lk_sink *sink)
{
    __m256 d[4][4];
    lk_steps8(P, how, f, 4, 4, d);
    for (int o = 0; o < 4; o++) {
        __m256i word[4], code[4];
        LK_FOUR word[v] = lk_words8(P, f, o, v);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i += 2 / P) {
            __m256 by[4];
            if (i == 4)
                LK_FOUR word[v] = _mm256_srli_epi32(word[v], 16);
            LK_FOUR code[v] = lk_bits8(word[v], (i + LK_COLUMN(P, v)) % 4 * 4, 4);
            LK_FOUR by[v] = d[(i + LK_COLUMN(P, v)) % 4][v];
            struct lk_quad q = lk_numbers(P, how, code, by, f);
            lk_sink_take(R, P, sink, i, &q);
        }
        lk_sink_step(R, sink, 8);
    }
}

LK_INLINE void lk_unpack8(const int R, const int P, const enum lk_rounding how, const struct lk_source *f,
                          struct lk_sink *sink)
{
    __m256 d[2][4];
    lk_steps8(P, how, f, 8, 2, d);
    for (int o = 0; o < 8; o += 2) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i += 2 / P) {
            __m256i code[4];
            __m256 by[4];
            LK_FOUR code[v] = lk_words8(P, f, o + i / 4, v);
            if (i % 4 > 1)
                LK_FOUR code[v] = _mm256_srli_epi32(code[v], 16);
            LK_FOUR code[v] = lk_bits8(code[v], (i + LK_COLUMN(P, v)) % 2 * 8, 8);
            LK_FOUR by[v] = d[(i + LK_COLUMN(P, v)) % 2][v];
            struct lk_quad q = lk_numbers(P, how, code, by, f);
            lk_sink_take(R, P, sink, i, &q);
        }
        lk_sink_step(R, sink, 8);
    }
}

/* Code i of a half of 16 columns; i is a constant. */
LK_INLINE __m256i lk_code6(const int P, const struct lk_source *f, const int i, const int v)
{
    if (i < 15)
        return lk_bits8(lk_words8(P, f, i / 5, v), i % 5 * 6, 6);
    __m256i top = _mm256_srli_epi32(lk_words8(P, f, 0, v), 30);
    top = _mm256_or_si256(top, _mm256_slli_epi32(_mm256_srli_epi32(lk_words8(P, f, 1, v), 30), 2));
    return _mm256_or_si256(top, _mm256_slli_epi32(_mm256_srli_epi32(lk_words8(P, f, 2, v), 30), 4));
}

LK_INLINE void lk_unpack6(const int R, const int P, const enum lk_rounding how, const struct lk_source *f,
                          struct lk_sink *sink)
{
    __m256 d[5][4];
    lk_steps8(P, how, f, 6, 5, d);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2 / P) {
        __m256i code[4];
        __m256 by[4];
        LK_FOUR code[v] = lk_code6(P, f, i + LK_COLUMN(P, v), v);
        LK_FOUR by[v] = d[(i + LK_COLUMN(P, v)) % 15 % 5][v];
        struct lk_quad q = lk_numbers(P, how, code, by, f);
        lk_sink_take(R, P, sink, i, &q);
    }
    lk_sink_step(R, sink, 16);
}

/* Byte i of E4M3: sign, exponent and fraction in place; the scales hold the 2^120 for the bias. */
LK_INLINE __m256 lk_fp8(__m256i word, const int i)
{
    __m256i x = _mm256_srai_epi32(i < 3 ? _mm256_slli_epi32(word, 24 - 8 * i) : word, 4);
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0x87f00000u)));
}

LK_INLINE void lk_unpack_fp8(const int R, const int P, const enum lk_rounding how, const struct lk_source *f,
                             struct lk_sink *sink)
{
    for (int o = 0; o < 8; o += 2) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i += 2 / P) {
            struct lk_quad q;
            LK_FOUR q.x[v] = lk_fp8(lk_words8(P, f, o + i / 4, v), (i + LK_COLUMN(P, v)) % 4);
            LK_FOUR q.x[v] = _mm256_mul_ps(q.x[v], f->s[LK_WHICH(P, v)][v % 2].d);
            if (how == LK_QUICK)
                LK_FOUR q.x[v] = _mm256_mul_ps(q.x[v], _mm256_set1_ps(0x1p16f));
            lk_round_quad(how, &q);
            lk_sink_take(R, P, sink, i, &q);
        }
        lk_sink_step(R, sink, 8);
    }
}

/* The same blocks of P panels, one block after another, to the sink. Columns behind the segment's end become some
 * number. */
LK_INLINE void lk_unpack(const int R, const int P, const enum lk_packing kind, const enum lk_rounding how,
                         const struct lk_blocks *b, struct lk_sink *sink)
{
    const struct lk_packed_panel *p = b->panel;
    const int halves = kind == LK_PK_K6 ? 2 : 1;
    const float by = how == LK_QUICK ? 0x1p16f : 1;
    const int64_t apart = P == 2 ? b[1].at - b[0].at : 0;
    int64_t code_at = p->code_at + b->k / LK_BLOCK * p->code_bytes, sub_at = p->sub_at + b->k / LK_BLOCK * p->sub_bytes;
    struct lk_groups g = lk_groups_of(b);
    for (int64_t n = 0; n < b->n; n += LK_BLOCK, code_at += p->code_bytes, sub_at += p->sub_bytes) {
#pragma GCC unroll 2
        for (int i = 0; i < P; i++)
            lk_fetch_ahead(&b[i], n / LK_BLOCK);
        for (int half = 0; half < halves; half++, lk_groups_step(&g, LK_BLOCK / halves)) {
            struct lk_source f;
#pragma GCC unroll 2
            for (int i = 0; i < P; i++) {
                const uint8_t *own = b[i].at + sub_at + half * LK_AVX2_PANEL;
                f.codes[i] = b[i].at + code_at + half * 3 * LK_AVX2_PANEL * 4;
#pragma GCC unroll 2
                for (int h = 0; h < 2; h++)
                    f.s[i][h] = lk_scales_of(kind, p->q.scale, g.at + i * apart, own, 8 * h, by);
            }
            if (kind == LK_PK_K6)
                lk_unpack6(R, P, how, &f, sink);
            else if (kind == LK_PK_E4M3)
                lk_unpack_fp8(R, P, how, &f, sink);
            else if (kind == LK_PK_S8 || kind == LK_PK_Z8)
                lk_unpack8(R, P, how, &f, sink);
            else
                lk_unpack4(R, P, how, &f, sink);
        }
    }
}

#endif
