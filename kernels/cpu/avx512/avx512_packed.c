/* Products of packed weights, unpacked to words of the product. */
#include "kernels/cpu/avx512/avx512_epilogue.h"
#include "kernels/cpu/avx512/avx512_pairs.h"
#include "kernels/cpu/lk_packed_run.h"

#define ROWS LK_AVX512_ROWS
#define PANEL LK_AVX512_PANEL
#define BAND 16               /* activation panels */
#define PIECE 256             /* packed columns: 16 KB of bf16, 32 of f32 */
#define PAIR_ROWS 4           /* f32: up to here two weight panels at a time */
#define FEW_ROWS LK_PAIR_ROWS /* bf16: up to here weights are unpacked in registers */

/* Unpacked in registers, one weight panel times R rows of activations. */
LK_INLINE void few(const int R, const enum lk_packing kind, const struct lk_blocks *b, const struct lk_piece *p)
{
    struct lk_pair_sink sink = {.a = p->a};
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++)
            sink.acc[i][h] = p->begin ? _mm512_setzero_ps() : _mm512_loadu_ps(p->sums + (i * 2 + h) * 16);
    lk_unpack_pairs(R, kind, b, &sink);
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++)
            _mm512_storeu_ps(p->sums + (i * 2 + h) * 16, sink.acc[i][h]);
}

#define UNPACK(kind)                                                       \
    static void unpack_##kind##_f32(const struct lk_blocks *b, void *out)  \
    {                                                                      \
        const struct lk_unpacked u = {out, PANEL, 16};                     \
        lk_unpack(LK_PK_##kind, b, &u);                                    \
    }                                                                      \
    static void unpack_##kind##_bf16(const struct lk_blocks *b, void *out) \
    {                                                                      \
        const struct lk_unpacked u = {out, PANEL, 16};                     \
        struct lk_pair_sink sink = {.to = out};                            \
        if (b->at[b->panel->odd_at] == LK_ODD_SCALES)                      \
            lk_unpack_odd(LK_BF16, b, &u);                                 \
        else                                                               \
            lk_unpack_pairs(0, LK_PK_##kind, b, &sink);                    \
    }
#define FEW(R, kind)                                                                   \
    static void few##R##_##kind(const struct lk_blocks b[2], const struct lk_piece *p) \
    {                                                                                  \
        few(R, LK_PK_##kind, b, p);                                                    \
    }
#define ALL(kind) UNPACK(kind) FEW(1, kind) FEW(2, kind) FEW(3, kind) FEW(4, kind)
#define EACH_KIND(X) X(S4) X(A4) X(Z4) X(K4) X(K6) X(S8) X(Z8) X(E4M3)
EACH_KIND(ALL)

#define NAMES(kind) [LK_PK_##kind] = {[LK_F32] = unpack_##kind##_f32, [LK_BF16] = unpack_##kind##_bf16},
static void (*const unpackers[][2])(const struct lk_blocks *, void *) = {EACH_KIND(NAMES)};

/* By kind and rows. */
#define FEW_NAMES(kind) [LK_PK_##kind] = {NULL, few1_##kind, few2_##kind, few3_##kind, few4_##kind},
static void (*const few_of[][FEW_ROWS + 1])(const struct lk_blocks *, const struct lk_piece *) = {EACH_KIND(FEW_NAMES)};

LK_INLINE void tile(const int R, const int N, const enum lk_type type, const struct lk_piece *p)
{
    __m512 acc[ROWS][4];
    const uint32_t *a = p->a, *w = p->w, *end = w + p->n / lk_per_word(type) * PANEL, *w2 = end;
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[i][j] = p->begin ? _mm512_setzero_ps() : _mm512_loadu_ps(p->sums + (i * N + j) * 16);
    for (; w < end; w += PANEL, w2 += PANEL, a += R) {
        __m512i b[4];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            b[j] = _mm512_loadu_si512((j < 2 ? w : w2) + j % 2 * 16);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++) {
            __m512i x = _mm512_set1_epi32((int)a[i]);
#pragma GCC unroll 4
            for (int j = 0; j < N; j++)
                acc[i][j] = lk_step(type, acc[i][j], b[j], x);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            _mm512_storeu_ps(p->sums + (i * N + j) * 16, acc[i][j]);
}

#define EACH_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#define TILE(name, R, N, type)                 \
    static void name(const struct lk_piece *p) \
    {                                          \
        tile(R, N, type, p);                   \
    }
#define ONE_PANEL(R) TILE(packed##R##_f32, R, 2, LK_F32) TILE(packed##R##_bf16, R, 2, LK_BF16)
#define TWO_PANELS(R) TILE(packed2_##R##_f32, R, 4, LK_F32)
EACH_ROWS(ONE_PANEL)
TWO_PANELS(1)
TWO_PANELS(2)
TWO_PANELS(3)
TWO_PANELS(4)

static void tile_f32(const struct lk_piece *p)
{
#define NAME_F32(R) packed##R##_f32,
    static void (*const one[])(const struct lk_piece *) = {NULL, EACH_ROWS(NAME_F32)};
    static void (*const two[])(const struct lk_piece *) = {NULL, packed2_1_f32, packed2_2_f32, packed2_3_f32,
                                                           packed2_4_f32};
    (p->two ? two : one)[p->r](p);
}

static void tile_bf16(const struct lk_piece *p)
{
#define NAME_BF16(R) packed##R##_bf16,
    static void (*const one[])(const struct lk_piece *) = {NULL, EACH_ROWS(NAME_BF16)};
    one[p->r](p);
}

static void finish_f32(const struct lk_linear *a, const struct lk_packed_sums *s, void *best)
{
    struct lk_tile t = {s->v, s->ld, s->r, s->row, s->panel};
    lk_epilogue(a, &t, best, LK_F32);
}

static void finish_bf16(const struct lk_linear *a, const struct lk_packed_sums *s, void *best)
{
    struct lk_tile t = {s->v, s->ld, s->r, s->row, s->panel};
    lk_epilogue(a, &t, best, LK_BF16);
}

static void best_init(void *best)
{
    lk_best_init(best);
}

static struct lk_best best_finish(const void *best)
{
    return lk_best_finish(best);
}

#define SHARED                                                                                             \
    .rows = ROWS, .width = PANEL, .band = BAND, .piece = PIECE, .best_bytes = sizeof(struct lk_lane_best), \
    .best_init = best_init, .best_finish = best_finish
static const struct lk_packed_set sets[2] = {
    [LK_F32] = {SHARED, .pair_rows = PAIR_ROWS, .elem_bytes = 4, .act_bytes = 4, .tile = tile_f32, .finish = finish_f32,
                .type = LK_F32},
    [LK_BF16] = {SHARED, .elem_bytes = 2, .act_bytes = 2, .tile = tile_bf16, .finish = finish_bf16, .type = LK_BF16,
                 .order = LK_BY_PAIR},
};

int64_t lk_avx512_packed_items(const struct lk_linear *a, enum lk_type type)
{
    return lk_packed_items(&sets[type], a);
}

void lk_avx512_packed_linear(const struct lk_linear *a, int64_t begin, int64_t end, enum lk_type type)
{
    _Alignas(64) float sums[LK_TREE_DEPTH][BAND * ROWS * PANEL];
    _Alignas(64) uint32_t piece[PIECE * PANEL];
    struct lk_lane_best best[BAND * ROWS];
    struct lk_packed_memory m = {.piece = piece, .sums = sums[0], .best = (char *)best};
    struct lk_packed_set set = sets[type];
    set.unpack = unpackers[a->q->kind][type];
    if (type == LK_BF16 && a->a.n_row <= FEW_ROWS)
        set.few = few_of[a->q->kind][a->a.n_row];
    lk_packed_linear(&set, &m, a, begin, end);
}

size_t lk_avx512_packed_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols)
{
    return lk_packed_matrix_bytes(q, n_out, cols, PANEL);
}

void lk_avx512_pack_codes_f32(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_WORD);
}

void lk_avx512_pack_codes_bf16(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_PAIR);
}
