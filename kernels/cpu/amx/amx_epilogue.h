/* What becomes of a tile's sums in the set amx: as in avx512_epilogue.h, but for SwiGLU, which takes as long as a third
 * of a product of 576 columns when it divides: 16 cycles a vector, and each result stored and loaded again to be
 * rounded. */
#ifndef KERNELS_CPU_AMX_AMX_EPILOGUE_H
#define KERNELS_CPU_AMX_AMX_EPILOGUE_H

#include "kernels/cpu/amx/lk_amx.h"
#include "kernels/cpu/avx512/avx512_epilogue.h"

static inline void lk_amx_put_tile(const struct lk_act *out, const struct lk_tile *t, int64_t col, int64_t n)
{
    struct lk_amx_rows from = {t->v, t->ld, t->row, t->r};
    lk_amx_put(out, &from, col, n);
}

/* 1 / x for 1 <= x <= 2^126, relative error below 2^-18: a line through the logarithm (12 %), a cubic step, a quadratic
 * one. NaN stays NaN. */
LK_INLINE __m512 lk_amx_inverse(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1);
    __m512 r = (__m512)_mm512_sub_epi32(_mm512_set1_epi32(0x7ef311c7), (__m512i)x);
    __m512 e = _mm512_fnmadd_ps(x, r, one);
    r = _mm512_fmadd_ps(r, _mm512_fmadd_ps(e, e, e), r);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(x, r, one), r);
}

/* g / (1 + e^-g) u; below g = -80, where g / (1 + e^-g) is less than 2^-108, the divisor stays what it is there. */
LK_INLINE __m512 lk_amx_swiglu16(__m512 g, __m512 u)
{
    __m512 x = _mm512_min_ps(_mm512_set1_ps(80), _mm512_sub_ps(_mm512_setzero_ps(), g));
    return _mm512_mul_ps(_mm512_mul_ps(g, lk_amx_inverse(_mm512_add_ps(_mm512_set1_ps(1), lk_exp(x)))), u);
}

/* Whether columns col .. col + 15 of `out` are half of a row of a block, with no zeros to be written behind them; then
 * that half of the first row's is at *at, and the next row's is LK_AMX_BLOCK elements behind. */
static inline bool lk_amx_whole_half(const struct lk_act *out, int64_t row, int64_t col, uint16_t **at)
{
    const struct lk_cols *c = out->cols;
    if (col + 16 > c->n_col)
        return false;
    int s = lk_cols_seg(c, col);
    int64_t k = c->packed[s] + (col - c->begin[s]), half = k % LK_AMX_BLOCK;
    struct lk_amx_row to = lk_amx_row_of(out, row);
    *at = to.at + k / LK_AMX_BLOCK * to.step + half;
    return half == 16 ? col + 16 <= c->begin[s + 1] : half == 0 && col + 16 < c->begin[s + 1];
}

static inline void lk_amx_swiglu(const struct lk_linear *a, const struct lk_tile *t)
{
    int64_t ffn = a->n_out / 2, col = t->panel * 16, n = lk_min(16, ffn - col);
    __mmask16 m = lk_mask16(n);
    __m512 bg = _mm512_setzero_ps(), bu = bg;
    uint16_t *at;
    if (a->bias) {
        bg = _mm512_maskz_loadu_ps(m, a->bias + col);
        bu = _mm512_maskz_loadu_ps(m, a->bias + ffn + col);
    }
    bool half = lk_amx_whole_half(&a->out, t->row, col, &at);
    for (int i = 0; i < t->r; i++) {
        float *v = t->v + i * t->ld;
        __m512 g = _mm512_loadu_ps(v), u = _mm512_loadu_ps(v + 16);
        if (a->bias) {
            g = _mm512_add_ps(g, bg);
            u = _mm512_add_ps(u, bu);
        }
        g = lk_amx_swiglu16(g, u);
        if (half)
            _mm256_storeu_si256((void *)(at + i * LK_AMX_BLOCK), (__m256i)_mm512_cvtneps_pbh(g));
        else
            _mm512_storeu_ps(v, g);
    }
    if (!half)
        lk_amx_put_tile(&a->out, t, col, n);
}

static inline void lk_amx_epilogue(const struct lk_linear *a, struct lk_tile *t, struct lk_lane_best *best)
{
    if (a->epilogue == LK_EP_SWIGLU)
        lk_amx_swiglu(a, t);
    else
        lk_epilogue(a, t, best, lk_amx_put_tile);
}

#endif
