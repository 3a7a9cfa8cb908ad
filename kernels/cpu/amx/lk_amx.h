/* Inside the set amx: products and attention by AMX tiles (tdpbf16ps), the rest by AVX-512 as in the set avx512bf16,
 * whose headers it shares (Xeon from Sapphire Rapids). Layouts, all bf16:
 *   activations  panels of up to 16 rows, heights balanced, one after another; inside a panel of r rows, block b of 32
 *                packed columns is [r, 32]: a tile is one run of memory, and a segment begins with a block
 *   weights      panels of 32 output columns, for each block of 32 packed columns two tiles [16, 16, 2]: pairs of
 *                columns, output columns, the elements of a pair; gate-up panels: a tile of gate, one of up columns
 *   packed       panels of 32 output columns, codes by output (lk_packed.h): rows of tiles of the transposed product
 *   Q            [kv head, n_tok, query heads of the KV head, head_dim padded to 32]
 *   K page       [head_dim padded to 32 / 2, 32 positions, 2]; what is padded stays zero as it was handed out
 *   V page       [32 / 2 positions, v_dim padded to 16, 2] */
#ifndef KERNELS_CPU_AMX_LK_AMX_H
#define KERNELS_CPU_AMX_LK_AMX_H

#include "kernels/cpu/amx/lk_amx_isa.h"
#include "kernels/cpu/avx512/lk_avx512.h"

#define LK_AMX_ROWS 16  /* rows of a tile */
#define LK_AMX_BLOCK 32 /* packed columns of a tile of activations */

#define LK_AMX_DIMS(head_dim) (((head_dim) + 31) / 32 * 32) /* dimensions of Q and of a K page, padding included */

/* Where a row is: packed column k at at[k / 32 * step + k % 32]; the panel's next row is 32 elements behind. */
struct lk_amx_row {
    uint16_t *at;
    int64_t step;
};

static inline struct lk_amx_row lk_amx_row_of(const struct lk_act *a, int64_t row)
{
    struct lk_panels p = lk_panels_of(a->n_row, LK_AMX_ROWS);
    int64_t panel = lk_panel_of(&p, row), begin = lk_panel_begin(&p, panel);
    uint16_t *at = (uint16_t *)a->data + begin * lk_cols_packed(a->cols);
    return (struct lk_amx_row){at + (row - begin) * LK_AMX_BLOCK, lk_panel_rows(&p, panel) * LK_AMX_BLOCK};
}

/* r rows of numbers, from row `row` on, all of one panel: row i at v + i * ld. */
struct lk_amx_rows {
    const float *v;
    int64_t ld, row;
    int r;
};

/* Source columns col .. col + n - 1 of these rows, rounded; with the last column of a segment its zero columns too. */
void lk_amx_put(const struct lk_act *a, const struct lk_amx_rows *from, int64_t col, int64_t n);

/* Overrides of the table, one a file. */
void lk_amx_linear_init(struct lk_cpu *t);
void lk_amx_packed_init(struct lk_cpu *t);
void lk_amx_attend_init(struct lk_cpu *t);
void lk_amx_int8_init(struct lk_cpu *t);

#endif
