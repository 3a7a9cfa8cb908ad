/* A run of tile products: one or two panels of rows by one, two or four tiles of columns, over some blocks of 32
 * summed columns.
 *
 * Of the eight tiles 0 to 3 hold sums, 4 and 5 left-hand operands, 6 and 7 right-hand ones; a single panel by four
 * tiles needs 5 for a right-hand operand, three panels by two 4 and 5 for sums and 7 for a left-hand one. Four sums at
 * a time hide the instruction's latency (52 cycles, one may begin every 16), and two by two of them need one load a
 * product. A sum lives in a tile only while a run lasts: stored and loaded again it is the same number, so where a run
 * ends is free. */
#ifndef KERNELS_CPU_AMX_AMX_PRODUCT_H
#define KERNELS_CPU_AMX_AMX_PRODUCT_H

#include "kernels/cpu/amx/amx_run.h"
#include "kernels/cpu/amx/lk_amx.h"

/* Heights of the tiles as configured: of the first panel and of the second, 0 when there is one alone, or of three
 * panels, r1 = LK_AMX_THREE. */
struct lk_amx_shape {
    int r0, r1;
};
#define LK_AMX_THREE -1

/* Intel SDM, LDTILECFG: palette 1. */
struct lk_amx_config {
    _Alignas(64) uint8_t palette;
    uint8_t start_row, zero[14];
    uint16_t colsb[16]; /* bytes of a row */
    uint8_t rows[16];
};

static inline void lk_amx_load_config(const struct lk_amx_config *c)
{
    __asm__ volatile("" : : "r"(c) : "memory"); /* GCC's intrinsic names the first eight bytes only */
    _tile_loadconfig(c);
}

/* Gives the tiles these heights, unless they have them. *now is {0, 0} before a kernel's first call. */
static inline void lk_amx_configure(struct lk_amx_shape *now, int r0, int r1)
{
    if (now->r0 == r0 && now->r1 == r1)
        return;
    const bool three = r1 == LK_AMX_THREE;
    const uint8_t first = (uint8_t)r0, second = (uint8_t)(r1 > 0 ? r1 : r0), left = r1 > 0 || three ? second : 16;
    struct lk_amx_config c = {
        .palette = 1,
        .colsb = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {first, first, second, second, first, left, 16, three ? first : 16},
    };
    lk_amx_load_config(&c);
    *now = (struct lk_amx_shape){r0, r1};
}

/* Blocks block .. block + n_block - 1 of `all` in the product of n_row rows, from `row` on, and a weight panel. */
struct lk_amx_share {
    int64_t block, n_block, all, row, n_row, panel;
};

/* Fetches a share of where the results go: they are stored, or added, in one burst, which else would wait for memory
 * line by line. */
static inline void lk_amx_fetch_y(const struct lk_linear *a, const struct lk_amx_share *of)
{
    const int64_t n = of->n_block * of->n_row, from = of->block * of->n_row;
    if ((a->epilogue != LK_EP_STORE && a->epilogue != LK_EP_ADD) || of->all == 0)
        return;
    const int64_t end = (from + n) / of->all;
    for (int64_t i = from / of->all; i < end; i++) {
        const float *y = a->y + (of->row + i) * a->y_ld + of->panel * LK_AVX512_PANEL;
        _mm_prefetch((const char *)y, _MM_HINT_T1);
        _mm_prefetch((const char *)y + 64, _MM_HINT_T1);
    }
}

LK_INLINE void lk_amx_take_sums(const int A, const int B, const struct lk_amx_run *p)
{
    if (p->begin) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, p->c[0], p->c_row);
    if (B > 1)
        _tile_loadd(1, p->c[0] + 16, p->c_row);
    if (A > 1 || B > 2)
        _tile_loadd(2, p->c[1], p->c_row);
    if ((A > 1 && B > 1) || B > 3)
        _tile_loadd(3, p->c[1] + 16, p->c_row);
}

LK_INLINE void lk_amx_put_sums(const int A, const int B, const struct lk_amx_run *p)
{
    _tile_stored(0, p->c[0], p->c_row);
    if (B > 1)
        _tile_stored(1, p->c[0] + 16, p->c_row);
    if (A > 1 || B > 2)
        _tile_stored(2, p->c[1], p->c_row);
    if ((A > 1 && B > 1) || B > 3)
        _tile_stored(3, p->c[1] + 16, p->c_row);
}

/* Names of tiles have to be constants for the intrinsics. */
#define LK_AMX_DOT(int8, c, a, b)    \
    do {                             \
        if (int8)                    \
            _tile_dpbssd(c, a, b);   \
        else                         \
            _tile_dpbf16ps(c, a, b); \
    } while (0)

#define LK_AMX_LOAD(once, tile, at, row)       \
    do {                                       \
        if (once)                              \
            _tile_stream_loadd(tile, at, row); \
        else                                   \
            _tile_loadd(tile, at, row);        \
    } while (0)

/* The products of one block: the panels' tiles are at a, the columns' at w as in lk_amx_run. */
LK_INLINE void lk_amx_block(const int A, const int B, const struct lk_amx_kind kind, const struct lk_amx_run *p,
                            struct lk_amx_at *at)
{
    const bool rows = kind.once == LK_AMX_ROWS_ONCE, cols = kind.once == LK_AMX_COLS_ONCE;
    LK_AMX_LOAD(rows, 4, at->a[0], p->a_row);
    lk_amx_fetch(A, B, 0, kind, p, at);
    LK_AMX_LOAD(cols, 6, at->w[0], p->w_row);
    lk_amx_fetch(A, B, 1, kind, p, at);
    LK_AMX_DOT(kind.int8, 0, 4, 6);
    if (B > 1) {
        LK_AMX_LOAD(cols, 7, at->w[0] + p->w_next, p->w_row);
        lk_amx_fetch(A, B, 2, kind, p, at);
        LK_AMX_DOT(kind.int8, 1, 4, 7);
    }
    if (A > 1) {
        LK_AMX_LOAD(rows, 5, at->a[1], p->a_row);
        lk_amx_fetch(A, B, A + B - 1, kind, p, at);
        LK_AMX_DOT(kind.int8, 2, 5, 6);
        if (B > 1)
            LK_AMX_DOT(kind.int8, 3, 5, 7);
    }
    if (B > 2) {
        LK_AMX_LOAD(cols, 5, at->w[1], p->w_row);
        lk_amx_fetch(A, B, 3, kind, p, at);
        LK_AMX_DOT(kind.int8, 2, 4, 5);
    }
    if (B > 3) {
        LK_AMX_LOAD(cols, 6, at->w[1] + p->w_next, p->w_row);
        lk_amx_fetch(A, B, 4, kind, p, at);
        LK_AMX_DOT(kind.int8, 3, 4, 6);
    }
}

/* A panels by B tiles: 1 or 2 by 1 or 2, or 1 by 3 or 4. The tiles have the panels' heights. int8: a block is 64
 * columns of bytes, and sums are whole numbers of 32 bits, which lie where the others' do. */
LK_INLINE void lk_amx_run_tiles(const int A, const int B, const struct lk_amx_kind kind, const struct lk_amx_run *p)
{
    struct lk_amx_at at = lk_amx_start(A, B, kind, p);
    __asm__ volatile("" : : : "memory"); /* tile loads do not tell the compiler that they read memory */
    lk_amx_take_sums(A, B, p);
    for (int64_t i = 0; i < p->n_block; i++) {
        lk_amx_block(A, B, kind, p, &at);
        lk_amx_step(kind, p, &at, i);
    }
    lk_amx_put_sums(A, B, p);
    if (p->far)
        p->far->at = at.far;
}

/* Three panels by two tiles, from zero: what comes from memory is read once, and the panels' tiles twice, the second
 * time from the first cache. The tiles have the height of the first panel; of one that is a row less the row in front
 * of it is read too, and the sums of that row are stored and overwritten with the right ones. */
LK_INLINE void lk_amx_run_three(const struct lk_amx_run *p)
{
    const struct lk_amx_kind kind = {.once = LK_AMX_COLS_ONCE, .near = true};
    struct lk_amx_at at = lk_amx_start(3, 2, kind, p);
    __asm__ volatile("" : : : "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (int64_t i = 0; i < p->n_block; i++) {
        _tile_stream_loadd(6, at.w[0], p->w_row);
        lk_amx_fetch(3, 2, 0, kind, p, &at);
        _tile_loadd(7, at.a[0], p->a_row);
        _tile_dpbf16ps(0, 7, 6);
        lk_amx_fetch(3, 2, 1, kind, p, &at);
        _tile_loadd(7, at.a[1], p->a_row);
        _tile_dpbf16ps(1, 7, 6);
        lk_amx_fetch(3, 2, 2, kind, p, &at);
        _tile_loadd(7, at.a[2], p->a_row);
        _tile_dpbf16ps(2, 7, 6);
        _tile_stream_loadd(6, at.w[0] + p->w_next, p->w_row);
        lk_amx_fetch(3, 2, 3, kind, p, &at);
        _tile_dpbf16ps(5, 7, 6);
        _tile_loadd(7, at.a[0], p->a_row);
        _tile_dpbf16ps(3, 7, 6);
        lk_amx_fetch(3, 2, 4, kind, p, &at);
        _tile_loadd(7, at.a[1], p->a_row);
        _tile_dpbf16ps(4, 7, 6);
        lk_amx_step(kind, p, &at, i);
    }
    _tile_stored(2, p->c[2], p->c_row);
    _tile_stored(5, p->c[2] + 16, p->c_row);
    _tile_stored(1, p->c[1], p->c_row);
    _tile_stored(4, p->c[1] + 16, p->c_row);
    _tile_stored(0, p->c[0], p->c_row);
    _tile_stored(3, p->c[0] + 16, p->c_row);
    if (p->far)
        p->far->at = at.far;
}

/* What comes once in a product of so many panels of rows. */
static inline enum lk_amx_once lk_amx_once_of(const struct lk_linear *a, int64_t n_panel)
{
    if (n_panel <= 2)
        return LK_AMX_COLS_ONCE;
    return a->near_rows ? LK_AMX_ROWS_NEAR : LK_AMX_ROWS_ONCE;
}

/* A pair of panels against two tiles; a panel without a second one, whose columns come once, against four, or two. */
LK_INLINE void lk_amx_run_pair(const struct lk_amx_shape *s, bool four, enum lk_amx_once once, const bool int8,
                               const struct lk_amx_run *p)
{
    const bool near = p->then[0];
    if (s->r1 > 0 && once == LK_AMX_ROWS_NEAR && near)
        lk_amx_run_tiles(2, 2, (struct lk_amx_kind){LK_AMX_ROWS_NEAR, int8, true, false}, p);
    else if (s->r1 > 0 && once == LK_AMX_ROWS_NEAR)
        lk_amx_run_tiles(2, 2, (struct lk_amx_kind){LK_AMX_ROWS_NEAR, int8, false, false}, p);
    else if (s->r1 > 0 && once == LK_AMX_ROWS_ONCE && near)
        lk_amx_run_tiles(2, 2, (struct lk_amx_kind){LK_AMX_ROWS_ONCE, int8, true, false}, p);
    else if (s->r1 > 0 && once == LK_AMX_ROWS_ONCE)
        lk_amx_run_tiles(2, 2, (struct lk_amx_kind){LK_AMX_ROWS_ONCE, int8, false, false}, p);
    else if (s->r1 > 0 && near)
        lk_amx_run_tiles(2, 2, (struct lk_amx_kind){LK_AMX_COLS_ONCE, int8, true, false}, p);
    else if (s->r1 > 0)
        lk_amx_run_tiles(2, 2, (struct lk_amx_kind){LK_AMX_COLS_ONCE, int8, false, false}, p);
    else if (four)
        lk_amx_run_tiles(1, 4, (struct lk_amx_kind){LK_AMX_COLS_ONCE, int8, true, false}, p);
    else
        lk_amx_run_tiles(1, 2, (struct lk_amx_kind){LK_AMX_COLS_ONCE, int8, false, false}, p);
}

#endif
