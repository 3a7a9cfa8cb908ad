/* Inside the reference set: plain C for both types. Layouts:
 *   activations  [n_row, packed columns] row-major
 *   weights      panels of 16 output columns, [packed columns, 16] each
 *   Q            [n_tok, n_head, head_dim]
 *   K page       [head_dim, 32 positions];  V page [32 positions, v_dim]
 * Sums run in f32, in ascending order of the summed index, one addition after the other. */
#ifndef KERNELS_CPU_REF_LK_REF_H
#define KERNELS_CPU_REF_LK_REF_H

#include "kernels/cpu/lk_cols.h"
#include "kernels/cpu/lk_cpu.h"

#define LK_REF_PANEL 16
#define LK_REF_ROWS 4 /* of a tile of sums */

static inline float lk_ref_get(const void *x, int64_t i, enum lk_type type)
{
    return type == LK_F32 ? ((const float *)x)[i] : lk_widen(((const uint16_t *)x)[i]);
}

static inline void lk_ref_put(void *x, int64_t i, float v, enum lk_type type)
{
    if (type == LK_F32)
        ((float *)x)[i] = v;
    else
        ((uint16_t *)x)[i] = lk_round(v);
}

static inline float lk_ref_rounded(float v, enum lk_type type)
{
    return type == LK_F32 ? v : lk_widen(lk_round(v));
}

static inline size_t lk_ref_elem_bytes(enum lk_type type)
{
    return type == LK_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* Source columns col0 .. col0 + n - 1 of one row; with the last column of a segment its zero columns too. */
void lk_ref_put_cols(const struct lk_act *a, int64_t row, int64_t col0, const float *v, int64_t n, enum lk_type type);

/* Rows row .. row + r - 1 against one panel. */
struct lk_ref_place {
    int64_t panel, row;
    int r;
};

/* Parameter of functions: adds segment s of these rows' products to acc[r], which is zero. */
#define LK_REF_SUMS                                                                                         \
    void (*sums)(const struct lk_linear *a, const struct lk_ref_place *p, int s, float acc[][LK_REF_PANEL], \
                 enum lk_type type)

/* Items of a product, whose segments `sums` adds. */
int64_t lk_ref_linear_items(const struct lk_linear *a);
void lk_ref_linear(const struct lk_linear *a, int64_t begin, int64_t end, enum lk_type type, LK_REF_SUMS);

/* Overrides of the table, one a file. */
void lk_ref_act_init(struct lk_cpu *t, enum lk_type type);
void lk_ref_linear_init(struct lk_cpu *t, enum lk_type type);
void lk_ref_rope_init(struct lk_cpu *t, enum lk_type type);
void lk_ref_attend_init(struct lk_cpu *t, enum lk_type type);
void lk_ref_index_init(struct lk_cpu *t, enum lk_type type);
void lk_ref_top_init(struct lk_cpu *t, enum lk_type type);
void lk_ref_moe_init(struct lk_cpu *t);
void lk_ref_int8_init(struct lk_cpu *t, enum lk_type type);
void lk_ref_w4a8_init(struct lk_cpu *t, enum lk_type type);

#endif
