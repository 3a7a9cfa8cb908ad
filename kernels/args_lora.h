/* Low-rank adapters (LoRA; Hu et al. 2021): W x becomes W x + scale * B (A x), A [n_u, K], B [n_out, n_u], for those
 * rows of a step that have an adapter, each row its own.
 *
 * A leaf of the product's tree is W_s x_s + B u_s with u_s = scale * (A_s x_s): so a row's bits are the same in any
 * company and on any number of ranks. lk_cpu.lora_down makes u before the product, row by row; the product adds B u_s
 * to a segment's sums behind the segment, in memory, before they climb the tree. All of it is multiplications and
 * additions in f32, not fused, in an order that the set does not decide: every set gives the same u and adds the same
 * numbers.
 *
 * Two other ways were weighed. Merged weights (W + scale * B A) cost nothing a token, but a copy of the model for each
 * adapter, and one adapter a step. A product of its own behind the tree would need no place inside the kernel, but then
 * its leaves are added in another order than the contract's when ranks own subtrees, and the result is read and written
 * once more. */
#ifndef KERNELS_ARGS_LORA_H
#define KERNELS_ARGS_LORA_H

#include "kernels/types.h"

#define LK_LORA_STRIP 8 /* output columns that take the same numbers of u; n_u is a multiple of it too */

/* Eight output columns, in the order of the packed matrix: the sum over even i < n of u[begin + i] * B[i], in ascending
 * order, plus that over odd i; row i of eight numbers of B lies as in struct lk_lora_pair, from b[at] on, n rounded up
 * to an even number. A fused matrix has parts with their own A and B, so that a column takes some of u alone. */
struct lk_lora_strip {
    int32_t begin, n;
    int64_t at;
};

/* What one adapter adds to one matrix. */
struct lk_lora_pair {
    const void *a; /* A turned over, zeros where K is padded: f32 [packed columns of K, n_u]; bf16 in pairs of columns,
                    * [packed columns / 2, n_u, 2] */
    const void *b; /* f32 [*, 8]; bf16 in pairs of rows, [* / 2, 8, 2] */
    const struct lk_lora_strip *strip; /* [panels * panel_cols / 8] */
    const float *scale;                /* [n_u] */
    int32_t n_u;                       /* 0: nothing, the rest is NULL */
};

/* Where number j of row i stands in a matrix of such rows, n numbers wide. */
static inline int64_t lk_lora_at(enum lk_type type, int64_t n, int64_t i, int64_t j)
{
    return type == LK_F32 ? i * n + j : (i / 2 * n + j) * 2 + i % 2;
}

/* A step's adapters in front of one matrix. */
struct lk_lora {
    const struct lk_lora_pair *pair;
    const int32_t *of_row; /* [n_row] index into pair, -1: no adapter */
    float *u;              /* [n_row, u_ld]: row i's numbers for segment s at i * u_ld + s * n_u of its pair */
    int64_t u_ld;
    int64_t strip; /* of the product's first column in the matrix that the pairs are for */
};

/* u of rows row[begin .. end - 1]. Four sums for each number, over columns k of a segment with k mod 4 = 0, 1, 2, 3,
 * each in ascending order; then (0 + 1) + (2 + 3), times the scale. items: as many rows as there are. */
struct lk_lora_down {
    struct lk_act a;
    struct lk_lora lora;
    const int32_t *row; /* those of `a` with an adapter; neighbors with the same one share its reading */
};

#endif
