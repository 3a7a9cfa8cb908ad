/* Products of packed weights: a piece of a weight panel is unpacked to the first cache, then all activation panels of
 * the item meet it, their sums kept between pieces. The order of additions is that of plain weights. */
#include <math.h>

#include "kernels/cpu/avx2/avx2_epilogue.h"
#include "kernels/cpu/avx2/avx2_unpack.h"

#define ROWS LK_AVX2_ROWS
#define PANEL LK_AVX2_PANEL
#define BAND 16     /* activation panels of an item at most */
#define PAIR_ROWS 2 /* up to here two weight panels at a time, to hide the instruction's latency */
#define PIECE 256   /* packed columns that are unpacked at a time: 16 KB */
#define BAND_NUMBERS (BAND * ROWS * PANEL)

struct work {
    const struct lk_linear *a;
    enum lk_type type;
    struct lk_panels rows;
    int64_t n_panel, group, n_group, n_chunk; /* items: chunks of activation panels by groups of weight panels */
    int64_t row_begin, row_end;               /* activation panels of the item */
    struct lk_packed_panel packed;
    const char *ahead;   /* memory that will be read next */
    int64_t ahead_lines; /* of it to fetch a block */
    void (*unpack)(const struct lk_blocks *b, float *out);
    float (*sums)[BAND_NUMBERS]; /* [LK_TREE_DEPTH] on the way up the tree; the result is sums[0] */
    float *piece;                /* [PIECE, 16], or twice half of it */
};

static void cut(struct work *t, const struct lk_linear *a)
{
    *t = (struct work){
        .a = a, .rows = lk_panels_of(a->a.n_row, ROWS), .n_panel = lk_ceil_div(a->n_out, PANEL), .group = 1};
    if (t->rows.n == 0)
        return;
    if (a->epilogue == LK_EP_HEAD)
        t->group = LK_HEAD_BLOCK / PANEL;
    else if (a->a.n_row <= PAIR_ROWS)
        t->group = 2;
    t->n_group = lk_ceil_div(t->n_panel, t->group);
    t->n_chunk = lk_ceil_div(t->rows.n, BAND);
}

int64_t lk_avx2_packed_items(const struct lk_linear *a)
{
    struct work t;
    cut(&t, a);
    return t.n_group * t.n_chunk;
}

#define UNPACK(kind)                                                        \
    static void unpack_##kind##_f32(const struct lk_blocks *b, float *out)  \
    {                                                                       \
        lk_unpack(LK_PK_##kind, LK_F32, b, out);                            \
    }                                                                       \
    static void unpack_##kind##_bf16(const struct lk_blocks *b, float *out) \
    {                                                                       \
        lk_unpack(LK_PK_##kind, LK_BF16, b, out);                           \
    }
#define EACH_KIND(X) X(S4) X(A4) X(Z4) X(K4) X(K6) X(S8) X(Z8) X(E4M3)
EACH_KIND(UNPACK)

#define NAMES(kind) [LK_PK_##kind] = {unpack_##kind##_f32, unpack_##kind##_bf16},
static void (*const unpackers[][2])(const struct lk_blocks *, float *) = {EACH_KIND(NAMES)};

/* A panel with scales that the fast way does not round right. */
static void unpack_odd(const struct lk_blocks *b, float *out, enum lk_type type)
{
    for (int64_t n = 0; n < b->n; n += LK_BLOCK, out += LK_BLOCK * PANEL) {
        lk_packed_numbers(b->panel, b->at, b->s, b->k + n, out);
        for (int i = 0; i < LK_BLOCK * PANEL && type == LK_BF16; i++)
            out[i] = lk_widen(lk_round(out[i]));
    }
}

struct lk_piece {
    const float *a;      /* activation panel at the piece */
    const float *w, *w2; /* [n, 16]; with two weight panels the second one's */
    int64_t n;
    float *sums; /* [R, 8 N] */
    bool begin;  /* from zero, not from what is there */
};

LK_INLINE void tile(const int R, const int N, const struct lk_piece *p)
{
    __m256 acc[ROWS][4];
    const float *a = p->a, *w = p->w, *w2 = p->w2;
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[i][j] = p->begin ? _mm256_setzero_ps() : _mm256_loadu_ps(p->sums + (i * N + j) * 8);
    for (int64_t k = 0; k < p->n; k += 8, a += 8 * R, w += 8 * PANEL, w2 += 8 * PANEL) {
#pragma GCC unroll 8
        for (int kk = 0; kk < 8; kk++) {
            __m256 b[4];
#pragma GCC unroll 4
            for (int j = 0; j < N; j++)
                b[j] = _mm256_load_ps((j < 2 ? w : w2) + kk * PANEL + j % 2 * 8);
#pragma GCC unroll 6
            for (int i = 0; i < R; i++) {
                __m256 x = _mm256_broadcast_ss(a + 8 * i + kk);
#pragma GCC unroll 4
                for (int j = 0; j < N; j++)
                    acc[i][j] = lk_fma_in_place(x, b[j], acc[i][j]);
            }
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            _mm256_storeu_ps(p->sums + (i * N + j) * 8, acc[i][j]);
}

#define TILE(R, N)                                        \
    static void packed##R##x##N(const struct lk_piece *p) \
    {                                                     \
        tile(R, N, p);                                    \
    }
TILE(1, 2)
TILE(2, 2)
TILE(3, 2)
TILE(4, 2)
TILE(5, 2)
TILE(6, 2)
TILE(1, 4)
TILE(2, 4)
static void (*const one_panel[])(const struct lk_piece *) = {NULL,      packed1x2, packed2x2, packed3x2,
                                                             packed4x2, packed5x2, packed6x2};
static void (*const two_panels[])(const struct lk_piece *) = {NULL, packed1x4, packed2x4};

/* Unpacks n packed columns of a weight panel. */
static void take_weights(struct work *t, int64_t panel, const struct lk_blocks *blocks, float *out)
{
    struct lk_blocks b = *blocks;
    b.at = (const uint8_t *)t->a->w + panel * t->packed.bytes;
    for (int64_t line = b.n / LK_BLOCK * t->ahead_lines; line > 0; line--, t->ahead += 64)
        _mm_prefetch(t->ahead, _MM_HINT_T1);
    if (b.at[t->packed.odd_at])
        unpack_odd(&b, out, t->type);
    else
        t->unpack(&b, out);
}

/* Adds the n sums at sums[wait] to those that wait for them; returns how many levels are in use then. */
static int climb(struct work *t, int s, int wait, int64_t n)
{
    for (int left = lk_merges(t->a->a.cols, s); left > 0; left--, wait--) {
        float *x = t->sums[wait - 1], *y = t->sums[wait];
        for (int64_t i = 0; i < n; i += 8)
            _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    }
    return wait + 1;
}

/* sums[0] = the item's activation panels times weight panel `panel`, and with `two` the one behind it. */
static void take_panel(struct work *t, int64_t panel, bool two)
{
    const struct lk_cols *c = t->a->a.cols;
    const int64_t width = two ? 2 * PANEL : PANEL, most = two ? PIECE / 2 : PIECE, n_col = lk_cols_packed(c);
    const int64_t row = lk_panel_begin(&t->rows, t->row_begin);
    const int64_t n_sum = (lk_panel_begin(&t->rows, t->row_end) - row) * width;
    int wait = 0;
    for (int s = 0; s < c->n_seg; s++) {
        float *sums = t->sums[wait];
        if (c->packed[s] == c->packed[s + 1])
            memset(sums, 0, (size_t)n_sum * sizeof *sums);
        for (int64_t k = c->packed[s]; k < c->packed[s + 1]; k += most) {
            struct lk_blocks b = {&t->packed, NULL, s, k, lk_min(most, c->packed[s + 1] - k)};
            take_weights(t, panel, &b, t->piece);
            if (two)
                take_weights(t, panel + 1, &b, t->piece + most * PANEL);
            for (int64_t ip = t->row_begin; ip < t->row_end; ip++) {
                int64_t begin = lk_panel_begin(&t->rows, ip);
                int r = lk_panel_rows(&t->rows, ip);
                struct lk_piece p = {.a = (const float *)t->a->a.data + begin * n_col + k * r,
                                     .w = t->piece,
                                     .w2 = t->piece + most * PANEL,
                                     .n = b.n,
                                     .sums = sums + (begin - row) * width,
                                     .begin = k == c->packed[s]};
                (two ? two_panels : one_panel)[r](&p);
            }
        }
        wait = climb(t, s, wait, n_sum);
    }
}

LK_INLINE void finish(const struct work *t, int64_t panel, bool two, struct lk_lane_best *best)
{
    const struct lk_linear *a = t->a;
    const int width = two ? 2 * PANEL : PANEL;
    float *v = t->sums[0];
    for (int64_t ip = t->row_begin; ip < t->row_end; ip++) {
        struct lk_tile tile = {v, width, lk_panel_rows(&t->rows, ip), lk_panel_begin(&t->rows, ip), panel};
        v += tile.r * width;
        for (int i = 0; i <= two; i++, tile.v += PANEL, tile.panel++) {
            if (a->epilogue == LK_EP_SWIGLU)
                lk_swiglu_tile(a, &tile, t->type);
            else if (a->epilogue == LK_EP_HEAD)
                lk_head_tile(a, &tile, best);
            else
                lk_store_tile(a, &tile);
        }
        best += a->epilogue == LK_EP_HEAD ? tile.r : 0;
    }
}

void lk_avx2_packed_linear(const struct lk_linear *a, int64_t begin, int64_t end, enum lk_type type)
{
    _Alignas(32) float sums[LK_TREE_DEPTH][BAND_NUMBERS], weights[PIECE * PANEL];
    struct lk_lane_best best[BAND * ROWS];
    struct work t;
    const bool is_head = a->epilogue == LK_EP_HEAD;
    cut(&t, a);
    t.type = type;
    t.packed = lk_packed_panel_of(a->q, a->a.cols, PANEL);
    t.unpack = unpackers[a->q->kind][type];
    t.sums = sums;
    t.piece = weights;
    int64_t n_block = lk_cols_packed(a->a.cols) / LK_BLOCK;
    t.ahead_lines = n_block > 0 ? lk_ceil_div(t.packed.bytes / 64, n_block) : 0;
    for (int64_t item = begin; item < end; item++) {
        int64_t chunk = item / t.n_group, group = item % t.n_group, last = lk_min((group + 1) * t.group, t.n_panel);
        int64_t after = (item + 1 + (item + 1 < end ? 0 : a->skip_items)) % t.n_group * t.group;
        t.row_begin = t.rows.n * chunk / t.n_chunk;
        t.row_end = t.rows.n * (chunk + 1) / t.n_chunk;
        int64_t row = lk_panel_begin(&t.rows, t.row_begin), n_row = lk_panel_begin(&t.rows, t.row_end) - row;
        for (int64_t i = 0; i < n_row && is_head; i++)
            lk_best_init(&best[i]);
        for (int64_t panel = group * t.group; panel < last;) {
            bool two = a->a.n_row <= PAIR_ROWS && panel + 1 < last;
            int64_t next = panel + 1 + two < last ? panel + 1 + two : after;
            t.ahead = (const char *)a->w + next * t.packed.bytes;
            take_panel(&t, panel, two);
            finish(&t, panel, two, best);
            panel += 1 + two;
        }
        for (int64_t i = 0; i < n_row && is_head; i++)
            a->best[(row + i) * t.n_group + group] = lk_best_finish(&best[i]);
    }
}

size_t lk_avx2_packed_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols)
{
    return lk_packed_matrix_bytes(q, n_out, cols, PANEL);
}

void lk_avx2_pack_codes(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL);
}
