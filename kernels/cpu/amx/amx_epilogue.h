/* What becomes of a tile's sums in the set amx: as in avx512_epilogue.h, written as its activations lie. */
#ifndef KERNELS_CPU_AMX_AMX_EPILOGUE_H
#define KERNELS_CPU_AMX_AMX_EPILOGUE_H

#include "kernels/cpu/amx/lk_amx.h"
#include "kernels/cpu/avx512/avx512_epilogue.h"

static inline void lk_amx_put_tile(const struct lk_act *out, const struct lk_tile *t, int64_t col, int64_t n)
{
    struct lk_amx_rows from = {t->v, t->ld, t->row, t->r};
    lk_amx_put(out, &from, col, n);
}

static inline void lk_amx_epilogue(const struct lk_linear *a, struct lk_tile *t, struct lk_lane_best *best)
{
    lk_epilogue(a, t, best, lk_amx_put_tile);
}

#endif
