/* Packed weights as tiles: a block of 32 packed columns of 32 outputs is two of them. Codes of 4 and 6 bits make
 * left-hand ones, of which a row is a block of one output: it has one scale (LK_PK_K6: two), and codes of 4 bits one
 * table of 16 numbers. Codes of 8 bits, where a scale is a lane's, make right-hand ones: with few rows on the left a
 * product takes half the time. */
#ifndef KERNELS_CPU_AMX_AMX_PACKED_H
#define KERNELS_CPU_AMX_AMX_PACKED_H

#include "kernels/cpu/amx/lk_amx.h"
#include "kernels/cpu/lk_packed.h"

#define LK_AMX_PAIR_WORDS (2 * 16 * 16) /* of the two tiles */

static inline bool lk_amx_is_right(const struct lk_packed *q)
{
    return lk_packed_bits(q->kind) == 8;
}

/* The next block of a weight panel. */
struct lk_amx_codes {
    const struct lk_packed_panel *panel;
    const uint8_t *at; /* the panel */
    int s;             /* the block's segment */
    struct lk_groups group;
    int64_t block, n_block; /* counted over all segments */
    /* Unpacks it as [32 outputs, 16 words], or to right-hand tiles as [2, 16 pairs of columns, 16 outputs], and goes to
     * the one behind it. */
    void (*unpack)(struct lk_amx_codes *c, uint32_t to[LK_AMX_PAIR_WORDS]);
    /* What is fetched meanwhile, as many lines as the codes of a block have: `step` bytes apart, 0 where
     * nothing else is wanted. In one burst they would keep memory from answering what the unpacking reads. */
    const char *ahead;
    int64_t step;
    const uint8_t *tables_of; /* group whose tables are kept, those of two outputs in 64 bytes */
    uint8_t tables[LK_AVX512_PANEL / 2][64];
};

/* Goes to block `block`, one of segment s, of the weight panel at `at`. */
void lk_amx_codes_begin(struct lk_amx_codes *c, const struct lk_packed_panel *panel, const uint8_t *at, int s,
                        int64_t block);

/* The same as right-hand tiles. */
void lk_amx_unpack_right(struct lk_amx_codes *c, uint32_t to[LK_AMX_PAIR_WORDS]);

struct lk_packed_panel lk_amx_packed_panel_of(const struct lk_packed *q, const struct lk_cols *cols);

/* Products of packed weights with up to LK_AMX_ROWS rows. */
int64_t lk_amx_few_items(const struct lk_linear *a);
void lk_amx_few_linear(const struct lk_linear *a, int64_t begin, int64_t end);

#endif
