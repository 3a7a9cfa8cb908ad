/* What the sets' products of weights of 4 bits by activations of 8 share (args_w4a8.h): how activations lie, how the
 * work is cut.
 *
 * Activations are panels of rows as the set's own. Of a panel of r rows there is block after block of 32 columns: words
 * of four columns, [8, r] int8; then what the block has besides, [5, r]: s of its halves, the sum of their s X, and
 * their -8 X. */
#ifndef KERNELS_CPU_LK_W4A8_H
#define KERNELS_CPU_LK_W4A8_H

#include "kernels/args_w4a8.h"
#include "kernels/cpu/lk_int8.h"
#include "kernels/cpu/lk_lora.h"
#include "kernels/cpu/lk_packed.h"

#define LK_W4A8_WORDS (LK_BLOCK / 4)
/* Which of a block's [.., r] words of 32 bits are what; LK_W4A8_RECORD of them in all. */
enum {
    LK_W4A8_SCALE = LK_W4A8_WORDS, /* two */
    LK_W4A8_SCALED_SUM = LK_W4A8_SCALE + 2,
    LK_W4A8_SUM, /* two */
    LK_W4A8_RECORD = LK_W4A8_SUM + 2
};

static inline int64_t lk_w4a8_blocks(const struct lk_cols *c)
{
    return lk_cols_packed(c) / LK_BLOCK;
}

static inline size_t lk_w4a8_act_bytes(int64_t n_row, const struct lk_cols *cols)
{
    return (size_t)(n_row * lk_w4a8_blocks(cols) * LK_W4A8_RECORD) * sizeof(uint32_t);
}

/* An item quantizes some blocks of a panel of at most `rows` rows: there may be no other panel for another thread. */
#define LK_W4A8_PIECE 16

struct lk_w4a8_piece {
    int64_t row, first, last; /* the panel's first row; blocks first .. last - 1 */
    int r;
};

static inline int64_t lk_w4a8_quantize_items(const struct lk_quantize *a, int rows)
{
    return lk_panels_of(a->a.n_row, rows).n * lk_ceil_div(lk_w4a8_blocks(a->a.cols), LK_W4A8_PIECE);
}

static inline struct lk_w4a8_piece lk_w4a8_piece_of(const struct lk_quantize *a, int rows, int64_t item)
{
    const struct lk_panels panels = lk_panels_of(a->a.n_row, rows);
    const int64_t n_block = lk_w4a8_blocks(a->a.cols), n_piece = lk_ceil_div(n_block, LK_W4A8_PIECE);
    const int64_t panel = item / n_piece, first = item % n_piece * LK_W4A8_PIECE;
    return (struct lk_w4a8_piece){lk_panel_begin(&panels, panel), first, lk_min(first + LK_W4A8_PIECE, n_block),
                                  lk_panel_rows(&panels, panel)};
}

/* Where block b of the piece's rows goes. */
static inline uint32_t *lk_w4a8_record(const struct lk_quantize *a, const struct lk_w4a8_piece *p, int64_t b)
{
    return (uint32_t *)a->q + (p->row * lk_w4a8_blocks(a->a.cols) + b * p->r) * LK_W4A8_RECORD;
}

/* Items as products in int8 have them. */
static inline struct lk_int8_plan lk_w4a8_plan_of(const struct lk_linear *a, int rows, int panel)
{
    const int64_t row_bytes = (int64_t)lk_w4a8_act_bytes(1, a->a.cols);
    struct lk_int8_plan p = {.rows = lk_panels_of(a->a.n_row, rows), .n_panel = lk_ceil_div(a->n_out, panel)};
    p.n_chunk = lk_ceil_div(p.rows.n, lk_chunk_panels(a->l2_bytes, rows * row_bytes, LK_INT8_CHUNK));
    return p;
}

/* An activation panel against a weight panel. */
struct lk_w4a8_product {
    const uint32_t *a; /* what comes next of it */
    int r;
    const struct lk_packed_panel *panel;
    const uint8_t *w;              /* the panel */
    const char *ahead, *ahead_end; /* memory that will be read next: some lines a block into the second cache */
    int64_t lines;                 /* a block */
    const struct lk_lora *lora;    /* NULL: none */
    int64_t row, strip;            /* the tile's first row, its first columns in strips of adapters */
    enum lk_type type;             /* of adapters */
};

/* Activation panel ip of the item's, which fetches its share of the next panel of weights. */
static inline struct lk_w4a8_product lk_w4a8_product_of(const struct lk_linear *a, const struct lk_packed_panel *panel,
                                                        const struct lk_panels *rows, const struct lk_int8_item *item,
                                                        int64_t ip)
{
    const int64_t n_block = lk_w4a8_blocks(a->a.cols), n = item->last - item->first, at = ip - item->first;
    const int64_t lines = panel->bytes / 64, begin = lines * at / n, end = lines * (at + 1) / n;
    const int64_t row = lk_panel_begin(rows, ip);
    const char *next = (const char *)a->w + item->next * panel->bytes;
    return (struct lk_w4a8_product){.a = (const uint32_t *)a->a.data + row * n_block * LK_W4A8_RECORD,
                                    .r = lk_panel_rows(rows, ip),
                                    .panel = panel,
                                    .w = (const uint8_t *)a->w + item->panel * panel->bytes,
                                    .ahead = next + begin * 64,
                                    .ahead_end = next + end * 64,
                                    .lines = n_block > 0 ? lk_ceil_div(end - begin, n_block) : 0,
                                    .lora = a->lora,
                                    .row = row,
                                    .strip = item->panel * (panel->width / LK_LORA_STRIP)};
}

LK_INLINE void lk_w4a8_fetch(struct lk_w4a8_product *p)
{
    for (int64_t line = 0; line < p->lines && p->ahead < p->ahead_end; line++, p->ahead += 64)
        __builtin_prefetch(p->ahead, 0, 2);
}

/* Segment s's sums, [r, width] at tile + wait * level, get what adapters add and go up the tree; returns the next
 * `wait`. */
static inline int lk_w4a8_leaf(const struct lk_w4a8_product *p, int s, float *tiles, int64_t level, int wait)
{
    const int width = (int)p->panel->width;
    const struct lk_lora_tile tile = {tiles + wait * level, p->row, p->strip, p->r, width / LK_LORA_STRIP};
    if (p->lora && p->type == LK_F32)
        lk_lora_leaf(p->lora, s, &tile, LK_F32);
    else if (p->lora)
        lk_lora_leaf(p->lora, s, &tile, LK_BF16);
    return lk_climb(tiles, level, p->panel->cols, s, wait, p->r * width);
}

/* A segment's blocks: codes of the next one, and what `group` and `sub` the last one has. */
struct lk_w4a8_segment {
    const uint8_t *codes, *group, *sub, *next_sub;
    struct lk_groups groups;
    int64_t n_block; /* that are left */
};

static inline struct lk_w4a8_segment lk_w4a8_segment_of(const struct lk_w4a8_product *p, int s)
{
    const struct lk_packed_panel *panel = p->panel;
    const int64_t k = panel->cols->packed[s], block = k / LK_BLOCK;
    const struct lk_blocks all = {.panel = panel, .at = p->w, .s = s, .k = k};
    return (struct lk_w4a8_segment){.codes = p->w + panel->code_at + block * panel->code_bytes,
                                    .next_sub = p->w + panel->sub_at + block * panel->sub_bytes,
                                    .groups = lk_groups_of(&all),
                                    .n_block = panel->cols->packed[s + 1] / LK_BLOCK - block};
}

/* Whether each block is a run of its own. */
static inline bool lk_w4a8_short(const struct lk_packed *q)
{
    return q->kind == LK_PK_K4 || q->group == LK_BLOCK;
}

/* Behind a block of r rows; returns whether a longer run ends with it. */
LK_INLINE bool lk_w4a8_next(struct lk_w4a8_segment *s, struct lk_w4a8_product *p, const int r)
{
    p->a += LK_W4A8_RECORD * r;
    s->codes += p->panel->code_bytes;
    s->sub = s->next_sub;
    s->next_sub += p->panel->sub_bytes;
    s->group = s->groups.at;
    lk_groups_step(&s->groups, LK_BLOCK);
    s->n_block--;
    return s->group != s->groups.at || s->n_block == 0;
}

/* A set's table of products by whether runs are short, kind and rows, for EACH_ROWS(X, K), which has X(1, K) to X(ROWS,
 * K): they are product_tile(R, kind, is_short, p, tiles), R, kind and is_short constants. */
#define LK_W4A8_SHORT(R, K)                                             \
    static void short##R##_##K(struct lk_w4a8_product *p, float *tiles) \
    {                                                                   \
        product_tile(R, LK_PK_##K, true, p, tiles);                     \
    }
#define LK_W4A8_LONG(R, K)                                             \
    static void long##R##_##K(struct lk_w4a8_product *p, float *tiles) \
    {                                                                  \
        product_tile(R, LK_PK_##K, false, p, tiles);                   \
    }
#define LK_W4A8_SHORT_NAME(R, K) short##R##_##K,
#define LK_W4A8_LONG_NAME(R, K) long##R##_##K,
#define LK_W4A8_SHORTS(EACH_ROWS, K) [LK_PK_##K] = {NULL, EACH_ROWS(LK_W4A8_SHORT_NAME, K)},
#define LK_W4A8_LONGS(EACH_ROWS, K) [LK_PK_##K] = {NULL, EACH_ROWS(LK_W4A8_LONG_NAME, K)},
#define LK_W4A8_TABLE(EACH_ROWS, ROWS)                                                              \
    EACH_ROWS(LK_W4A8_SHORT, S4)                                                                    \
    EACH_ROWS(LK_W4A8_SHORT, A4)                                                                    \
    EACH_ROWS(LK_W4A8_SHORT, Z4)                                                                    \
    EACH_ROWS(LK_W4A8_SHORT, K4)                                                                    \
    EACH_ROWS(LK_W4A8_LONG, S4)                                                                     \
    EACH_ROWS(LK_W4A8_LONG, A4)                                                                     \
    EACH_ROWS(LK_W4A8_LONG, Z4)                                                                     \
    static void (*const products[2][LK_PK_K4 + 1][ROWS + 1])(struct lk_w4a8_product *, float *) = { \
        {LK_W4A8_LONGS(EACH_ROWS, S4) LK_W4A8_LONGS(EACH_ROWS, A4) LK_W4A8_LONGS(EACH_ROWS, Z4)},   \
        {LK_W4A8_SHORTS(EACH_ROWS, S4) LK_W4A8_SHORTS(EACH_ROWS, A4) LK_W4A8_SHORTS(EACH_ROWS, Z4)  \
             LK_W4A8_SHORTS(EACH_ROWS, K4)}};

#endif
