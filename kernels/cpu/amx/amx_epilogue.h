/* What becomes of a tile's sums in the set amx: as in avx512_epilogue.h, written as its activations lie. SwiGLU is its
 * own: what rounds to bf16 needs no closer a power, and rows a few at a time keep the vector units busy. */
#ifndef KERNELS_CPU_AMX_AMX_EPILOGUE_H
#define KERNELS_CPU_AMX_AMX_EPILOGUE_H

#include "kernels/cpu/amx/amx_power.h"
#include "kernels/cpu/amx/lk_amx.h"
#include "kernels/cpu/avx512/avx512_epilogue.h"

/* silu(g) u of R rows, relative error below 2^-13: 16 numbers of g at v + i * ld, u behind them. y[i] = row i. */
LK_INLINE void lk_amx_swiglu_rows(const int R, const float *v, int64_t ld, __m512 y[4])
{
    __m512 x[8];
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        x[i] = _mm512_mul_ps(_mm512_loadu_ps(v + i * ld), _mm512_set1_ps(-1.44269504f));
    lk_amx_power(R, x);
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        y[i] = _mm512_div_ps(_mm512_loadu_ps(v + i * ld), _mm512_add_ps(x[i], _mm512_set1_ps(1)));
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        y[i] = _mm512_mul_ps(y[i], _mm512_loadu_ps(v + i * ld + 16));
}

/* R of the tile's rows from row i on, row j at to + j * LK_AMX_BLOCK; without `to` in the place of the gate columns. */
LK_INLINE void lk_amx_swiglu_some(const int R, const struct lk_tile *t, int i, uint16_t *to)
{
    float *v = t->v + i * t->ld;
    __m512 y[4];
    lk_amx_swiglu_rows(R, v, t->ld, y);
#pragma GCC unroll 4
    for (int j = 0; j < R; j++) {
        if (to)
            _mm256_storeu_si256((__m256i *)(to + (i + j) * LK_AMX_BLOCK), (__m256i)_mm512_cvtneps_pbh(y[j]));
        else
            _mm512_storeu_ps(v + j * t->ld, y[j]);
    }
}

/* Where 16 columns of `out` from col on are, when they lie in one block and no zero columns behind them; else NULL. */
static inline uint16_t *lk_amx_half_block(const struct lk_act *out, const struct lk_tile *t, int64_t col, int64_t n)
{
    const struct lk_cols *c = out->cols;
    int s = lk_cols_seg(c, col);
    int64_t k = c->packed[s] + (col - c->begin[s]), left = c->begin[s + 1] - col,
            in_block = LK_AMX_BLOCK - k % LK_AMX_BLOCK;
    if (n < 16 || left < 16 || in_block < 16 || (left == 16 && in_block > 16))
        return NULL;
    struct lk_amx_row row = lk_amx_row_of(out, t->row);
    return row.at + k / LK_AMX_BLOCK * row.step + k % LK_AMX_BLOCK;
}

static inline void lk_amx_add_bias(const struct lk_linear *a, const struct lk_tile *t, int64_t col, int64_t n)
{
    __mmask16 m = lk_mask16(n);
    __m512 g = _mm512_maskz_loadu_ps(m, a->bias + col), u = _mm512_maskz_loadu_ps(m, a->bias + a->n_out / 2 + col);
    for (float *v = t->v; v < t->v + t->r * t->ld; v += t->ld) {
        _mm512_storeu_ps(v, _mm512_add_ps(_mm512_loadu_ps(v), g));
        _mm512_storeu_ps(v + 16, _mm512_add_ps(_mm512_loadu_ps(v + 16), u));
    }
}

static inline void lk_amx_swiglu(const struct lk_linear *a, const struct lk_tile *t)
{
    int64_t col = t->panel * 16, n = lk_min(16, a->n_out / 2 - col);
    uint16_t *to = lk_amx_half_block(&a->out, t, col, n);
    int i = 0;
    if (a->bias)
        lk_amx_add_bias(a, t, col, n);
    for (; i + 4 <= t->r; i += 4)
        lk_amx_swiglu_some(4, t, i, to);
    if (t->r % 4 == 3)
        lk_amx_swiglu_some(3, t, i, to);
    else if (t->r % 4 == 2)
        lk_amx_swiglu_some(2, t, i, to);
    else if (t->r % 4 == 1)
        lk_amx_swiglu_some(1, t, i, to);
    if (!to) {
        struct lk_amx_rows from = {t->v, t->ld, t->row, t->r};
        lk_amx_put(&a->out, &from, col, n);
    }
}

static inline void lk_amx_epilogue(const struct lk_linear *a, struct lk_tile *t, struct lk_lane_best *best)
{
    if (a->epilogue == LK_EP_SWIGLU)
        lk_amx_swiglu(a, t);
    else if (a->epilogue == LK_EP_HEAD)
        lk_head(a, t, best);
    else
        lk_store(a, t);
}

#endif
