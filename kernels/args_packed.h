/* Weights that stay packed as their file has them: integers of 4, 6 or 8 bits or FP8 numbers with scales of groups of
 * columns, unpacked inside the product. The number that a code stands for is formed in f32 with one rounding, as the
 * formats' own formulas do (spec/models.md 2.2.1, 2.3 to 2.5), and rounded to bf16 where that is the set's type: the
 * product has the bits of the one over the same numbers packed plain.
 *
 * Valid as C and C++. */
#ifndef KERNELS_ARGS_PACKED_H
#define KERNELS_ARGS_PACKED_H

#include "kernels/types.h"

/* What code q stands for; d, m, z belong to its group, sc and mn to its subgroup. */
enum lk_packing {
    LK_PK_S4,   /* (q - 8) d                  q of 4 bits: Q4_0, symmetric int4 */
    LK_PK_A4,   /* q d + m                    q of 4 bits: Q4_1 */
    LK_PK_Z4,   /* (q - z) d                  q and z of 4 bits: GPTQ, AWQ */
    LK_PK_K4,   /* q (d sc) - m mn            q of 4 bits, sc and mn of 6 bits for 32 columns: Q4_K */
    LK_PK_K6,   /* (d sc) (q - 32)            q of 6 bits, sc of 8 with a sign for 16 columns: Q6_K */
    LK_PK_S8,   /* (q - 128) d                q of 8 bits: Q8_0, symmetric int8 */
    LK_PK_Z8,   /* (q - z) d                  q and z of 8 bits */
    LK_PK_E4M3, /* q as an FP8 number times d */
};

/* Type of d and m. Integers have F16 or BF16, with which every product before the last sum is exact. */
enum lk_scale { LK_SC_F16, LK_SC_BF16, LK_SC_F32 };

/* How a matrix is packed. */
struct lk_packed {
    enum lk_packing kind;
    enum lk_scale scale;
    int64_t group; /* source columns that share d, a multiple of 32; at least first + n_col: all of a row */
    int64_t first; /* where the operand's source column 0 is in its tensor's row: 0, or where a slice begins */
};

/* The source of one output column, as small numbers. With c = first + k for source column k: its group is c / group -
 * first / group, its subgroup c / n - first / n with n = 32 (LK_PK_K4) or 16 (LK_PK_K6). No alignment is needed. */
struct lk_codes {
    const uint8_t *q;  /* [n_col], a code a byte; NULL: a column of zeros */
    const void *d;     /* a number of the scale's type a group */
    const void *m;     /* LK_PK_A4, LK_PK_K4: the same */
    const uint8_t *z;  /* LK_PK_Z4, LK_PK_Z8: a byte a group */
    const uint8_t *sc; /* LK_PK_K4, LK_PK_K6 (int8): a byte a subgroup */
    const uint8_t *mn; /* LK_PK_K4: a byte a subgroup */
};

/* Packs one panel of `panel_cols` output columns, which come in the order of struct lk_pack's rows. */
struct lk_pack_codes {
    void *w;                    /* the whole packed matrix, lk_cpu.packed_bytes long, 64-byte aligned */
    int64_t panel;              /* which panel */
    const struct lk_codes *col; /* [panel_cols] */
    const struct lk_packed *q;
    const struct lk_cols *cols; /* segments of K, lk_packed_fits */
};

#endif
