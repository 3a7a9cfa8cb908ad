/* Activations and norm; the set's init. */
#include "kernels/cpu/amx/amx_product.h"
#include "kernels/cpu/avx512/avx512_norm.h"

void lk_amx_put(const struct lk_act *a, const struct lk_amx_rows *from, int64_t col, int64_t n)
{
    const struct lk_cols *c = a->cols;
    struct lk_amx_row to = lk_amx_row_of(a, from->row);
    for (int64_t end = col + n, some; col < end; col += some) {
        int s = lk_cols_seg(c, col);
        int64_t k = c->packed[s] + (col - c->begin[s]), left = LK_AMX_BLOCK - k % LK_AMX_BLOCK;
        some = lk_min(left, lk_min(c->begin[s + 1], end) - col);
        int64_t width = col + some == c->begin[s + 1] ? left : some; /* zero columns never leave the block */
        __mmask32 m = (__mmask32)(0xffffffffu >> (32 - width));
        const float *v = from->v + (n - (end - col));
        uint16_t *at = to.at + k / LK_AMX_BLOCK * to.step + k % LK_AMX_BLOCK;
        for (int i = 0; i < from->r; i++, v += from->ld, at += LK_AMX_BLOCK)
            _mm512_mask_storeu_epi16(at, m, lk_round32(v, (int)some));
    }
}

static void act_row(const struct lk_act *a, int64_t row, float *out)
{
    const struct lk_cols *c = a->cols;
    struct lk_amx_row from = lk_amx_row_of(a, row);
    for (int s = 0; s < c->n_seg; s++) {
        for (int64_t col = c->begin[s]; col < c->begin[s + 1]; col++) {
            int64_t k = c->packed[s] + (col - c->begin[s]);
            out[col] = lk_widen(from.at[k / LK_AMX_BLOCK * from.step + k % LK_AMX_BLOCK]);
        }
    }
}

static int64_t act_rows(const struct lk_act *a)
{
    struct lk_panels p = lk_panels_of(a->n_row, LK_AMX_ROWS);
    return lk_panel_begin(&p, p.n);
}

/* An item is a row: no two rows share a cache line. */
static int64_t norm_items(const struct lk_norm *a)
{
    return a->y.n_row;
}

static void norm(const struct lk_norm *a, int64_t begin, int64_t end)
{
    const struct lk_cols *c = a->y.cols;
    for (int64_t row = begin; row < end; row++) {
        const float *x = a->x + (a->row ? a->row[row] : row) * c->n_col;
        float inv = lk_inverse_rms(x, c->n_col, a->eps);
        struct lk_amx_row y = lk_amx_row_of(&a->y, row);
        for (int s = 0; s < c->n_seg; s++) {
            uint16_t *to = y.at + c->packed[s] / LK_AMX_BLOCK * y.step;
            for (int64_t col = c->begin[s]; col < c->begin[s + 1]; col += LK_AMX_BLOCK, to += y.step)
                _mm512_storeu_si512(to, lk_normed32(a, x, inv, col, c->begin[s + 1] - col));
        }
    }
}

static double peak(bool from_l1, int64_t n)
{
    enum { BLOCKS = 4, TILE = 1024 }; /* operands of 16 KB */
    _Alignas(64) static const uint16_t a[2 * BLOCKS * TILE / 2], w[2 * BLOCKS * TILE / 2];
    _Alignas(64) float c[4 * 256] = {0};
    struct lk_amx_shape shape = {0, 0};
    lk_amx_configure(&shape, LK_AMX_ROWS, LK_AMX_ROWS);
    struct lk_amx_run p = {
        .a = {(const char *)a, (const char *)a + BLOCKS * TILE},
        .a_row = 64,
        .a_step = {TILE, TILE},
        .w = {(const char *)w},
        .w_row = 64,
        .w_next = TILE,
        .w_step = 2 * TILE,
        .n_block = BLOCKS,
        .c = {c, c + 512},
        .c_row = 128,
    };
    lk_amx_run_tiles(2, 2, (struct lk_amx_kind){.once = LK_AMX_ROWS_ONCE}, &p);
    for (int64_t i = 0; i < n; i++) {
        if (from_l1) {
            const int64_t at = i % BLOCKS * TILE;
            _tile_loadd(4, p.a[0] + at, 64);
            _tile_loadd(6, p.w[0] + 2 * at, 64);
            _tile_loadd(7, p.w[0] + 2 * at + TILE, 64);
            _tile_loadd(5, p.a[1] + at, 64);
        }
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * 16 * 16 * 32 * 2 * (double)n;
}

static void round_rows(const struct lk_round *a, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        struct lk_amx_rows from = {a->x + i * a->x_ld, 0, i, 1};
        lk_amx_put(&a->y, &from, 0, a->y.cols->n_col);
    }
}

void lk_amx_init(struct lk_cpu *t, enum lk_type type)
{
    if (type != LK_BF16)
        return;
    lk_avx512_init(t, type);
    t->name = "amx";
    t->near_rows_from = 3 * LK_AMX_ROWS + 1;
    t->thread_rows = 0;
    t->tile_rows = 0;
    t->act_row = act_row;
    t->act_rows = act_rows;
    t->norm_items = norm_items;
    t->norm = norm;
    t->round = round_rows;
    t->peak = peak;
    lk_amx_linear_init(t);
    lk_amx_packed_init(t);
    lk_amx_attend_init(t);
    lk_amx_int8_init(t);
    t->w4a8 = (struct lk_w4a8){0}; /* int8 by row has tiles, which are faster */
}
