/* Packed weights in memory, the same for every set but for the width of a panel: scales of groups, scales of subgroups
 * by blocks of 32 packed columns, then the codes of the blocks in 32-bit words, one of each output column side by side:
 *   4 bits  [4, width]: word o holds columns 8 o ..., column 8 o + i in bits 4 i .. 4 i + 3
 *   6 bits  [2, 3, width], a half of 16 columns each: word o holds columns 5 o ... in bits 6 i .. 6 i + 5, and the
 *           upper two bits of the three words are the bits of column 15, the first word's lowest
 *   8 bits  [8, width]: word o holds columns 4 o ...
 * so that a mask, a conversion and a multiplication by a scale times 2^-n unpack a column of all outputs.
 *
 * LK_BY_TILE (the set amx) has the codes of a tile's row together. Of 4 and 6 bits a row is a block of one output,
 * of 8 bits two columns of 16 outputs:
 *   4 bits  four blocks [width, 32] in 16-bit lanes: lane i holds column i of block b in bits 4 b .. 4 b + 3; of up to
 *           three last blocks first two [width, 32] in bytes, then one [width, 16], byte i holding columns 2 i and
 *           2 i + 1
 *   6 bits  eight outputs [3, 16] in 32-bit lanes: lane i of word w holds numbers 5 w ... in bits 6 n .. 6 n + 5,
 *           number 2 j + h being column 16 h + i of output j; and number 15 in the upper two bits, as above
 *   8 bits  [width / 16, 16 pairs of columns, 16 outputs, 2]
 *
 * LK_BY_PAIR (avx512bf16 where its type is bf16) has words [bits / 2, width / 16, 2, 8 outputs, 2], of each
 * output one for even columns and one for odd ones, so that two numbers rounded side by side are a pair. Column 2 i or
 * 2 i + 1 is number i of its 16:
 *   4 bits  word o holds numbers 8 o ..., in four bits from bit 12, 16, 4, 8, 20, 24, 28 and 0 on: of each rotation to
 *           the left by 0, 8, 24 and 16 bits two come to rest at bits 12 and 16
 *   6 bits  words 0 to 2 hold the 16 numbers as above
 *   8 bits  word o holds numbers 4 o ..., from bit 4, 12, 20 and 28 on, the last one's upper half in bits 0 to 3
 *
 * LK_BY_BYTE (products of args_w4a8.h, of 4 bits alone) has words [4, width] whose bytes are four columns: byte i of
 * word o holds column 8 o + i in its lower and column 8 o + 4 + i in its upper half. */
#ifndef KERNELS_CPU_LK_PACKED_H
#define KERNELS_CPU_LK_PACKED_H

#include "kernels/cpu/lk_cols.h"
#include "kernels/cpu/lk_cpu.h"

#define LK_BLOCK 32 /* packed columns */
#define LK_WIDEST 32

enum lk_code_order { LK_BY_WORD, LK_BY_TILE, LK_BY_PAIR, LK_BY_BYTE };

/* What a panel's byte `odd` says: scales that only lk_packed_numbers takes right; numbers that a quick way to round to
 * bf16 (avx2_unpack.h) does not. */
enum { LK_ODD_SCALES = 1, LK_ODD_NUMBERS = 2 };

/* Where everything is in a panel of `width` columns. */
struct lk_packed_panel {
    struct lk_packed q;
    const struct lk_cols *cols;
    int64_t width;
    enum lk_code_order order;                   /* how the codes lie */
    int64_t group_bytes, sub_bytes, code_bytes; /* of a group, of a block's subgroups, of a block's codes */
    int64_t sub_at, code_at, odd_at, bytes;     /* where they begin; the byte that says `odd`; of the panel */
};

static inline int lk_packed_bits(enum lk_packing kind)
{
    return kind == LK_PK_K6 ? 6 : kind >= LK_PK_S8 ? 8 : 4;
}

/* Elements of a subgroup; 0: there are none. */
static inline int64_t lk_packed_sub(enum lk_packing kind)
{
    return kind == LK_PK_K4 ? 32 : kind == LK_PK_K6 ? 16 : 0;
}

static inline int64_t lk_scale_bytes(enum lk_scale scale)
{
    return scale == LK_SC_F32 ? 4 : 2;
}

static inline bool lk_packed_has_m(enum lk_packing kind)
{
    return kind == LK_PK_A4 || kind == LK_PK_K4;
}

static inline bool lk_packed_has_z(enum lk_packing kind)
{
    return kind == LK_PK_Z4 || kind == LK_PK_Z8;
}

/* The group of source column k, counted from that of column 0. */
static inline int64_t lk_packed_group(const struct lk_packed *p, int64_t k)
{
    return (p->first + k) / p->group - p->first / p->group;
}

struct lk_packed_panel lk_packed_panel_of(const struct lk_packed *q, const struct lk_cols *cols, int64_t width);

size_t lk_packed_matrix_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols, int64_t width);
void lk_packed_pack(const struct lk_pack_codes *a, int64_t width, enum lk_code_order order);

/* The source column of packed column kp, a multiple of 32, of segment s; *n of the 32 exist. */
static inline int64_t lk_packed_col(const struct lk_cols *c, int s, int64_t kp, int64_t *n)
{
    int64_t k = c->begin[s] + (kp - c->packed[s]), left = c->begin[s + 1] - k;
    *n = left < 0 ? 0 : lk_min(left, LK_BLOCK);
    return k;
}

/* Some blocks of one segment of a panel. */
struct lk_blocks {
    const struct lk_packed_panel *panel;
    const uint8_t *at; /* the panel */
    int s;             /* segment */
    int64_t k, n;      /* packed columns k .. k + n - 1, multiples of LK_BLOCK */
    const char *ahead; /* memory that will be read next, */
    int64_t n_ahead;   /* lines of it to fetch a block */
};

/* Fetches the share of the block i blocks behind the first one. */
static inline __attribute__((always_inline)) void lk_fetch_ahead(const struct lk_blocks *b, int64_t i)
{
    const char *at = b->ahead + i * b->n_ahead * 64;
    for (int64_t line = 0; line < b->n_ahead; line++)
        __builtin_prefetch(at + 64 * line, 0, 2);
}

/* The groups that these meet, one after another: without a division each. */
struct lk_groups {
    const uint8_t *at, *last;
    int64_t left, size, bytes;
};

static inline struct lk_groups lk_groups_of(const struct lk_blocks *b)
{
    const struct lk_packed_panel *p = b->panel;
    int64_t col = p->cols->begin[b->s] + (b->k - p->cols->packed[b->s]);
    const uint8_t *at = b->at + lk_packed_group(&p->q, col) * p->group_bytes;
    return (struct lk_groups){at, b->at + p->sub_at - p->group_bytes, p->q.group - (p->q.first + col) % p->q.group,
                              p->q.group, p->group_bytes};
}

static inline void lk_groups_step(struct lk_groups *g, int64_t n_col)
{
    g->left -= n_col;
    if (g->left > 0 || g->at == g->last)
        return;
    g->left = g->size;
    g->at += g->bytes;
}

/* What the codes of one output column of a subgroup stand for: (code - z) d, + m where there is one; E4M3: the number
 * of 8 bits times d. */
struct lk_line {
    enum lk_packing kind;
    float d, m, z;
};

/* One output column of a block: its codes, zeros behind the segment's end, and its first and last 16 columns' line. */
struct lk_block_codes {
    uint8_t code[LK_BLOCK];
    struct lk_line line[2];
};

/* Output column j of the block at packed column kp of segment s; `at` is the panel. */
void lk_packed_block(const struct lk_packed_panel *p, const uint8_t *at, int s, int64_t kp, int64_t j,
                     struct lk_block_codes *out);

/* Numbers of the block at packed column kp of segment s: out[32, width], rounded once, zeros behind the segment's end;
 * `at` is the panel. */
void lk_packed_numbers(const struct lk_packed_panel *p, const uint8_t *at, int s, int64_t kp, float *out);

#endif
