/* Products of packed weights with few rows. Weights that are unpacked to left-hand tiles make y^T = W x^T, and the rows
 * are turned into right-hand ones. A sum has the same products in the same order as with plain weights. */
#include "kernels/cpu/amx/amx_packed.h"
#include "kernels/cpu/amx/amx_epilogue.h"
#include "kernels/cpu/amx/amx_product.h"
#include "kernels/cpu/amx/amx_turn.h"
#include "kernels/cpu/amx/amx_unpack.h"
#include "kernels/cpu/lk_lora.h"

#define PANEL LK_AVX512_PANEL
#define SUMS (PANEL * LK_AMX_ROWS)
#define RING 4                    /* unpacked blocks, of which the products come */
#define LAG 2                     /* blocks behind the unpacking, so that a tile's bytes are in the first cache */
#define TURNED_BYTES (256 * 1024) /* of rows that are turned at a time */

#define UNPACK(kind)                                                \
    static void unpack_##kind(struct lk_amx_codes *c, uint32_t *to) \
    {                                                               \
        lk_amx_unpack(LK_PK_##kind, c, to);                         \
    }
#define EACH_KIND(X) X(S4) X(A4) X(Z4) X(K4) X(K6) X(S8) X(Z8) X(E4M3)
EACH_KIND(UNPACK)

struct lk_packed_panel lk_amx_packed_panel_of(const struct lk_packed *q, const struct lk_cols *cols)
{
    struct lk_packed_panel p = lk_packed_panel_of(q, cols, PANEL);
    p.order = LK_BY_TILE;
    return p;
}

void lk_amx_codes_begin(struct lk_amx_codes *c, const struct lk_packed_panel *panel, const uint8_t *at, int s,
                        int64_t block)
{
#define NAME(kind) [LK_PK_##kind] = unpack_##kind,
    static void (*const unpackers[])(struct lk_amx_codes *, uint32_t *) = {EACH_KIND(NAME)};
    const struct lk_blocks b = {.panel = panel, .at = at, .s = s, .k = block * LK_BLOCK};
    c->panel = panel;
    c->at = at;
    c->s = s;
    c->group = lk_groups_of(&b);
    c->block = block;
    c->n_block = lk_cols_packed(panel->cols) / LK_BLOCK;
    c->unpack = at[panel->odd_at] == LK_ODD_SCALES ? lk_amx_unpack_odd : unpackers[panel->q.kind];
    c->tables_of = NULL;
}

void lk_amx_unpack_right(struct lk_amx_codes *c, uint32_t to[LK_AMX_PAIR_WORDS])
{
    _Alignas(64) uint32_t rows[LK_AMX_PAIR_WORDS];
    if (lk_amx_is_right(&c->panel->q)) {
        c->unpack(c, to);
        return;
    }
    c->unpack(c, rows);
    for (int h = 0; h < LK_AMX_PAIR_WORDS; h += 256) {
        __m512i x[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            x[i] = _mm512_loadu_si512(rows + h + 16 * i);
        lk_amx_mix(16, x);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            _mm512_storeu_si512(to + h + 16 * i, x[i]);
    }
}

static size_t packed_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols)
{
    return lk_packed_matrix_bytes(q, n_out, cols, PANEL);
}

static void pack_codes(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_TILE);
}

/* What one thread works with. */
struct work {
    const struct lk_linear *a;
    struct lk_packed_panel packed;
    int64_t n_panel, group;
    bool is_right;                       /* weights are right-hand tiles */
    int r, R;                            /* rows, and how many tiles have: a power of two of right-hand ones */
    uint32_t (*ring)[LK_AMX_PAIR_WORDS]; /* [RING] */
    uint32_t *turned;                    /* right-hand tiles [16 pairs of columns, R] of .. */
    const uint32_t *rows;                /* .. or the rows as they come: left-hand tiles, or R being 1; */
    int64_t first, n;                    /* blocks first .. first + n - 1 */
    float (*sums)[SUMS];                 /* [LK_TREE_DEPTH]: those that .. */
    int s, wait;                         /* .. the segment's in the tiles meet */
    struct lk_amx_codes codes;
    int64_t n_ahead;       /* lines to fetch a block of the weights that come next, */
    const char *ahead_end; /* which end there */
};

/* The tiles' shapes: 0 and 1 sums of 16 outputs each, 4 and 5 weights, 6 rows. */
static void configure(const struct work *t)
{
    const uint16_t width = (uint16_t)(t->is_right ? 64 : 4 * t->R);
    const uint8_t r = (uint8_t)(t->is_right ? t->r : 16);
    struct lk_amx_config c = {
        .palette = 1, .colsb = {width, width, 0, 0, 64, 64, width}, .rows = {r, r, 0, 0, 16, 16, r}};
    lk_amx_load_config(&c);
}

LK_INLINE void turn_rows(const int R, const struct work *t)
{
    const char *from = (const char *)t->a->a.data + t->first * t->r * 64;
    uint32_t *to = t->turned;
    for (int64_t b = 0; b < t->n; b++, from += t->r * 64, to += 16 * R) {
        __m512i x[16];
#pragma GCC unroll 16
        for (int i = 0; i < R; i++)
            x[i] = i < t->r ? _mm512_loadu_si512(from + 64 * i) : _mm512_setzero_si512();
        lk_amx_mix(R, x);
#pragma GCC unroll 16
        for (int i = 0; i < R; i++)
            _mm512_storeu_si512(to + 16 * i, x[i]);
    }
}

/* Makes tiles of blocks from `block` on. */
static void turn_from(struct work *t, int64_t block)
{
    const int64_t all = lk_cols_packed(t->a->a.cols) / LK_BLOCK;
    if (t->is_right || t->R == 1) {
        t->n = all;
        t->rows = t->a->a.data;
        return;
    }
    t->first = block;
    t->n = lk_min(all - block, TURNED_BYTES / (64 * t->R));
    t->rows = t->turned;
    if (t->R == 2)
        turn_rows(2, t);
    else if (t->R == 4)
        turn_rows(4, t);
    else if (t->R == 8)
        turn_rows(8, t);
    else
        turn_rows(16, t);
}

LK_INLINE void turn_half(const int R, const float *from, float *to)
{
    __m512i x[16];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
        x[i] = _mm512_loadu_si512(from + 16 * i);
    lk_amx_part(R, x);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
        _mm512_storeu_si512(to + PANEL * i, x[i]);
}

/* to[R, 32] = sums of [32, R]. */
static void turn_sums(int R, const float *from, float *to)
{
    for (int h = 0; h < 2; h++, from += 16 * R, to += 16) {
        if (R == 1)
            turn_half(1, from, to);
        else if (R == 2)
            turn_half(2, from, to);
        else if (R == 4)
            turn_half(4, from, to);
        else if (R == 8)
            turn_half(8, from, to);
        else
            turn_half(16, from, to);
    }
}

/* Adds a block's products to the sums in tiles 0 and 1. */
static inline void take_block(struct work *t, int64_t block)
{
    const uint32_t *w = t->ring[block % RING];
    if ((uint64_t)(block - t->first) >= (uint64_t)t->n)
        turn_from(t, block);
    __asm__ volatile("" : : : "memory"); /* tile loads do not tell the compiler that they read memory */
    if (t->is_right) {
        _tile_loadd(6, t->rows + block * 16 * t->r, 64);
        _tile_loadd(4, w, 64);
        _tile_dpbf16ps(0, 6, 4);
        _tile_loadd(5, w + LK_AMX_PAIR_WORDS / 2, 64);
        _tile_dpbf16ps(1, 6, 5);
        return;
    }
    _tile_loadd(6, t->rows + (block - t->first) * 16 * t->R, 4 * t->R);
    _tile_loadd(4, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, w + LK_AMX_PAIR_WORDS / 2, 64);
    _tile_dpbf16ps(1, 5, 6);
}

/* The sums in the tiles as [r, 32], or as [32, R] where weights are left-hand tiles. */
static void take_sums(const struct work *t, float *to)
{
    if (t->is_right) {
        _tile_stored(0, to, 4 * PANEL);
        _tile_stored(1, to + 16, 4 * PANEL);
    } else {
        _tile_stored(0, to, 4 * t->R);
        _tile_stored(1, to + 16 * t->R, 4 * t->R);
    }
}

/* Segments that end before block `end`: their sums go up the tree as they come out of the tiles, unless an adapter adds
 * to them on the way. */
static void finish_segments(struct work *t, int64_t panel, int64_t end)
{
    _Alignas(64) float turned[SUMS];
    const struct lk_linear *a = t->a;
    const struct lk_cols *c = a->a.cols;
    for (; t->s < c->n_seg && c->packed[t->s + 1] == end * LK_BLOCK; t->s++) {
        float *to = t->sums[t->wait], *sums = a->lora && !t->is_right ? turned : to;
        if (c->packed[t->s] == c->packed[t->s + 1])
            memset(sums, 0, (size_t)(PANEL * t->R) * sizeof *sums);
        else
            take_sums(t, sums);
        if (a->lora) {
            if (!t->is_right)
                turn_sums(t->R, sums, to);
            struct lk_lora_tile tile = {to, 0, panel * (PANEL / LK_LORA_STRIP), t->r, PANEL / LK_LORA_STRIP};
            lk_lora_leaf(a->lora, t->s, &tile, LK_BF16);
        }
        t->wait = lk_climb(t->sums[0], SUMS, c, t->s, t->wait, PANEL * t->R);
    }
}

/* Unpacks block `block` of a weight panel, which one after another does. */
static void unpack_block(struct work *t, int64_t panel, int64_t block)
{
    const struct lk_cols *c = t->a->a.cols;
    int s = block > 0 ? t->codes.s : -1;
    if (s < 0 || c->packed[s + 1] == block * LK_BLOCK) {
        for (s++; c->packed[s + 1] == block * LK_BLOCK;)
            s++;
        lk_amx_codes_begin(&t->codes, &t->packed, (const uint8_t *)t->a->w + panel * t->packed.bytes, s, block);
    }
    const char *end = t->codes.ahead + t->n_ahead * 64;
    end = end < t->ahead_end ? end : t->ahead_end;
    t->codes.unpack(&t->codes, t->ring[block % RING]);
    for (; t->codes.ahead < end; t->codes.ahead += 64)
        _mm_prefetch(t->codes.ahead, _MM_HINT_T1);
}

/* The rows against a weight panel; `next` is likely to be read after it. */
static void take_panel(struct work *t, int64_t panel, int64_t next, struct lk_lane_best *best)
{
    _Alignas(64) float turned[SUMS];
    const struct lk_linear *a = t->a;
    const int64_t n_block = lk_cols_packed(a->a.cols) / LK_BLOCK;
    t->codes.ahead = (const char *)a->w + next * t->packed.bytes;
    t->codes.step = 64;
    t->ahead_end = t->codes.ahead + t->packed.bytes;
    t->s = t->wait = 0;
    finish_segments(t, panel, 0);
    for (int64_t i = 0; i < n_block + LAG; i++) {
        if (i < n_block)
            unpack_block(t, panel, i);
        if (i < LAG)
            continue;
        if (a->a.cols->packed[t->s] == (i - LAG) * LK_BLOCK) {
            _tile_zero(0);
            _tile_zero(1);
        }
        take_block(t, i - LAG);
        finish_segments(t, panel, i - LAG + 1);
    }
    const bool as_rows = a->lora || t->is_right;
    if (!as_rows)
        turn_sums(t->R, t->sums[0], turned);
    struct lk_tile tile = {as_rows ? t->sums[0] : turned, PANEL, t->r, 0, panel};
    lk_amx_epilogue(a, &tile, best);
}

/* Weight panels of an item. Where each call turns the rows, which with 16 of them costs as much as unpacking half a
 * panel, there are more of them if that leaves items enough. Two of SwiGLU share lines of the output. */
static int64_t group_of(const struct lk_linear *a)
{
    const int64_t most = a->a.n_row > 8 ? 8 : a->a.n_row > 4 ? 4 : 2, some = lk_ceil_div(a->n_out, PANEL) / 128 * 2;
    if (a->epilogue == LK_EP_HEAD)
        return LK_HEAD_BLOCK / PANEL;
    if (a->a.n_row <= 2 || lk_amx_is_right(a->q))
        return a->epilogue == LK_EP_SWIGLU ? 2 : 1;
    return lk_min(most, some > 2 ? some : 2);
}

int64_t lk_amx_few_items(const struct lk_linear *a)
{
    return lk_ceil_div(lk_ceil_div(a->n_out, PANEL), group_of(a));
}

static void take_items(struct work *t, int64_t begin, int64_t end)
{
    const struct lk_linear *a = t->a;
    const int64_t n_group = lk_ceil_div(t->n_panel, t->group);
    struct lk_lane_best best[LK_AMX_ROWS];
    for (int64_t item = begin; item < end; item++) {
        int64_t last = lk_min((item + 1) * t->group, t->n_panel);
        int64_t after = (item + 1 + (item + 1 < end ? 0 : a->skip_items)) % n_group * t->group;
        for (int i = 0; a->epilogue == LK_EP_HEAD && i < t->r; i++)
            lk_best_init(&best[i]);
        for (int64_t panel = item * t->group; panel < last; panel++)
            take_panel(t, panel, panel + 1 < last ? panel + 1 : after, best);
        for (int i = 0; a->epilogue == LK_EP_HEAD && i < t->r; i++)
            a->best[i * n_group + item] = lk_best_finish(&best[i]);
    }
}

void lk_amx_few_linear(const struct lk_linear *a, int64_t begin, int64_t end)
{
    _Alignas(64) float sums[LK_TREE_DEPTH][SUMS];
    _Alignas(64) uint32_t ring[RING][LK_AMX_PAIR_WORDS], turned[TURNED_BYTES / 4];
    const int64_t n_block = lk_cols_packed(a->a.cols) / LK_BLOCK;
    struct work t = {.a = a,
                     .packed = lk_amx_packed_panel_of(a->q, a->a.cols),
                     .n_panel = lk_ceil_div(a->n_out, PANEL),
                     .group = group_of(a),
                     .is_right = lk_amx_is_right(a->q),
                     .r = (int)a->a.n_row,
                     .R = lk_amx_is_right(a->q) ? (int)a->a.n_row : 1,
                     .ring = ring,
                     .turned = turned,
                     .sums = sums};
    while (t.R < t.r)
        t.R *= 2;
    t.n_ahead = n_block > 0 ? lk_ceil_div(t.packed.bytes / 64, n_block) : 0;
    configure(&t);
    take_items(&t, begin, end);
    _tile_release(); /* else each context switch of the thread would carry eight tiles */
}

void lk_amx_packed_init(struct lk_cpu *t)
{
    t->packed_bytes = packed_bytes;
    t->pack_codes = pack_codes;
}
