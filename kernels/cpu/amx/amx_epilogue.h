/* What becomes of a tile's sums in the set amx: as in avx512_epilogue.h, written as its activations lie. */
#ifndef KERNELS_CPU_AMX_AMX_EPILOGUE_H
#define KERNELS_CPU_AMX_AMX_EPILOGUE_H

#include "kernels/cpu/amx/lk_amx.h"
#include "kernels/cpu/avx512/avx512_epilogue.h"

/* R of the tile's rows from row i on, row j at to + j * LK_AMX_BLOCK. */
LK_INLINE void lk_amx_swiglu_some(const int R, const struct lk_tile *t, int i, uint16_t *to)
{
    float *v = t->v + i * t->ld;
    __m512 y[4];
    lk_swiglu_rows(R, v, t->ld, y);
#pragma GCC unroll 4
    for (int j = 0; j < R; j++)
        _mm256_storeu_si256((__m256i *)(to + (i + j) * LK_AMX_BLOCK), (__m256i)_mm512_cvtneps_pbh(y[j]));
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

static inline void lk_amx_swiglu(const struct lk_linear *a, const struct lk_tile *t)
{
    int64_t col = t->panel * 16, n = lk_min(16, a->n_out / 2 - col);
    uint16_t *to = lk_amx_half_block(&a->out, t, col, n);
    int i = 0;
    if (a->bias)
        lk_swiglu_bias(a, t, col, n);
    if (!to) {
        struct lk_amx_rows from = {t->v, t->ld, t->row, t->r};
        lk_swiglu_in_place(t);
        lk_amx_put(&a->out, &from, col, n);
        return;
    }
    for (; i + 4 <= t->r; i += 4)
        lk_amx_swiglu_some(4, t, i, to);
    if (t->r % 4 == 3)
        lk_amx_swiglu_some(3, t, i, to);
    else if (t->r % 4 == 2)
        lk_amx_swiglu_some(2, t, i, to);
    else if (t->r % 4 == 1)
        lk_amx_swiglu_some(1, t, i, to);
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
