/* Packed weights as rows of left-hand tiles: a block of 32 packed columns of 32 outputs is two tiles, and a row of one
 * is a block of one output. So it has one scale (LK_PK_K6: two), and its codes of 4 bits one table of 16 numbers. */
#ifndef KERNELS_CPU_AMX_AMX_PACKED_H
#define KERNELS_CPU_AMX_AMX_PACKED_H

#include "kernels/cpu/amx/lk_amx.h"
#include "kernels/cpu/lk_packed.h"

#define LK_AMX_PAIR_WORDS (2 * 16 * 16) /* of the two tiles */

/* The next block of a weight panel. */
struct lk_amx_codes {
    const struct lk_packed_panel *panel;
    const uint8_t *at; /* the panel */
    int s;             /* the block's segment */
    struct lk_groups group;
    int64_t block, n_block; /* counted over all segments */
    /* Unpacks it as [32 outputs, 16 words], and goes to the one behind it. */
    void (*unpack)(struct lk_amx_codes *c, uint32_t to[LK_AMX_PAIR_WORDS]);
    const uint8_t *tables_of; /* group whose tables are kept, those of two outputs in 64 bytes */
    uint8_t tables[LK_AVX512_PANEL / 2][64];
};

/* Goes to block `block`, one of segment s, of the weight panel at `at`. */
void lk_amx_codes_begin(struct lk_amx_codes *c, const struct lk_packed_panel *panel, const uint8_t *at, int s,
                        int64_t block);

/* The same as right-hand tiles: [2, 16 pairs of columns, 16 outputs]. */
void lk_amx_unpack_right(struct lk_amx_codes *c, uint32_t to[LK_AMX_PAIR_WORDS]);

struct lk_packed_panel lk_amx_packed_panel_of(const struct lk_packed *q, const struct lk_cols *cols);

/* Products of packed weights with up to LK_AMX_ROWS rows. */
int64_t lk_amx_few_items(const struct lk_linear *a);
void lk_amx_few_linear(const struct lk_linear *a, int64_t begin, int64_t end);

#endif
