/* Vocabulary shared by all kernels and by the code that calls them; valid as C and C++.
 *
 * bf16 numbers are stored as uint16_t, the upper half of a float32, rounded to nearest even (subnormals as the
 * instruction set of a kernel has them). */
#ifndef KERNELS_TYPES_H
#define KERNELS_TYPES_H

#include <stdint.h>

enum lk_type { LK_F32, LK_BF16 };

#define LK_MAX_SEG 16       /* segments of one operand at most */
#define LK_SEG_ALIGN 32     /* a segment's columns are zero-filled to a multiple of this when packed */
#define LK_PAGE_TOKENS 32   /* positions in a page of the KV cache */
#define LK_SPLIT_TOKENS 512 /* positions that one online softmax covers */
#define LK_SHARED_ROWS 60   /* query rows that go through a shared page together */
#define LK_HEAD_BLOCK 256   /* vocabulary columns per block of the LM head's running best */
#define LK_TOP 256          /* candidates kept for a row whose logits are asked for */

/* How the columns (the summed dimension K) of an operand are cut into segments and packed.
 * Source columns of segment s: begin[s] .. begin[s+1]-1, n_col == begin[n_seg].
 * Packed columns of segment s: packed[s] .. packed[s+1]-1, a multiple of LK_SEG_ALIGN each; the part beyond the
 * source columns holds zeros. An empty segment has no packed columns and contributes +0. */
struct lk_cols {
    int64_t n_col;
    int n_seg;
    int64_t begin[LK_MAX_SEG + 1];
    int64_t packed[LK_MAX_SEG + 1];
};

/* Activations in the kernel set's own packed order: n_row rows over the packed columns of *cols. Storage is exactly
 * n_row * cols->packed[cols->n_seg] elements of the set's size (lk_cpu.act_bytes): no row is ever added. */
struct lk_act {
    void *data;
    int64_t n_row;
    const struct lk_cols *cols;
};

#endif
