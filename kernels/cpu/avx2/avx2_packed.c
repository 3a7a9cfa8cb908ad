/* Products of packed weights. Unpacked numbers are f32, rounded where the type is bf16, as activations are. */
#include <math.h>

#include "kernels/cpu/avx2/avx2_epilogue.h"
#include "kernels/cpu/avx2/avx2_unpack.h"
#include "kernels/cpu/lk_packed_run.h"

#define ROWS LK_AVX2_ROWS
#define PANEL LK_AVX2_PANEL
#define BAND 16   /* activation panels */
#define PIECE 256 /* packed columns: 16 KB */
#define PAIR_ROWS 1
#define FEW_ROWS 3 /* up to here weights are unpacked in registers */

/* Panels with scales that the fast way does not round right. */
LK_INLINE bool unpack_odd(const struct lk_blocks *b, float *out, const enum lk_type type)
{
    if (b->at[b->panel->odd_at] != LK_ODD_SCALES)
        return false;
    for (int64_t n = 0; n < b->n; n += LK_BLOCK, out += LK_BLOCK * PANEL) {
        lk_packed_numbers(b->panel, b->at, b->s, b->k + n, out);
        for (int i = 0; i < LK_BLOCK * PANEL; i += 8)
            _mm256_store_ps(out + i, lk_typed8(_mm256_load_ps(out + i), type));
    }
    return true;
}

/* P weight panels times R rows of activations, unpacked in registers. */
LK_INLINE void few(const int R, const int P, const enum lk_packing kind, const enum lk_type type,
                   const struct lk_blocks b[2], const struct lk_piece *p)
{
    struct lk_sink sink = {.a = p->a};
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 2 * P; j++)
            sink.acc[r][j] = p->begin ? _mm256_setzero_ps() : _mm256_load_ps(p->sums + (r * 2 * P + j) * 8);
    lk_unpack(R, P, kind, type == LK_BF16 ? LK_QUICK : LK_KEEP, b, &sink);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 2 * P; j++)
            _mm256_store_ps(p->sums + (r * 2 * P + j) * 8, sink.acc[r][j]);
}

#define UNPACK(kind, type, suffix)                                                         \
    static void unpack_##kind##_##suffix(const struct lk_blocks *b, void *out)             \
    {                                                                                      \
        struct lk_sink sink = {.out = out};                                                \
        if (unpack_odd(b, out, type))                                                      \
            return;                                                                        \
        if (type == LK_BF16 && b->at[b->panel->odd_at])                                    \
            lk_unpack(0, 1, LK_PK_##kind, LK_CAREFUL, b, &sink);                           \
        else                                                                               \
            lk_unpack(0, 1, LK_PK_##kind, type == LK_BF16 ? LK_QUICK : LK_KEEP, b, &sink); \
    }
#define FEW(R, P, kind, type, suffix)                                                                   \
    static void few##R##x##P##_##kind##_##suffix(const struct lk_blocks b[2], const struct lk_piece *p) \
    {                                                                                                   \
        few(R, P, LK_PK_##kind, type, b, p);                                                            \
    }
#define EACH_KIND(X) X(S4) X(A4) X(Z4) X(K4) X(K6) X(S8) X(Z8) X(E4M3)
#define EACH_BUT_K6(X) X(S4) X(A4) X(Z4) X(K4) X(S8) X(Z8) X(E4M3) /* its scales leave no registers for more rows */
#define ALL(kind)             \
    UNPACK(kind, LK_F32, f32) \
    UNPACK(kind, LK_BF16, bf16) FEW(1, 2, kind, LK_F32, f32) FEW(1, 2, kind, LK_BF16, bf16)
#define MORE(kind)               \
    FEW(2, 1, kind, LK_F32, f32) \
    FEW(2, 1, kind, LK_BF16, bf16) FEW(3, 1, kind, LK_F32, f32) FEW(3, 1, kind, LK_BF16, bf16)
EACH_KIND(ALL)
EACH_BUT_K6(MORE)

#define NAMES(kind) [LK_PK_##kind] = {[LK_F32] = unpack_##kind##_f32, [LK_BF16] = unpack_##kind##_bf16},
static void (*const unpackers[][2])(const struct lk_blocks *, void *) = {EACH_KIND(NAMES)};

/* By kind, type and rows. */
#define FEW_NAMES(kind)                                                                                 \
    [LK_PK_##kind] = {[LK_F32] = {NULL, few1x2_##kind##_f32, few2x1_##kind##_f32, few3x1_##kind##_f32}, \
                      [LK_BF16] = {NULL, few1x2_##kind##_bf16, few2x1_##kind##_bf16, few3x1_##kind##_bf16}},
static void (*const few_of[][2][FEW_ROWS + 1])(const struct lk_blocks *, const struct lk_piece *) = {
    EACH_BUT_K6(FEW_NAMES)[LK_PK_K6] = {[LK_F32] = {NULL, few1x2_K6_f32}, [LK_BF16] = {NULL, few1x2_K6_bf16}}};

LK_INLINE void tile(const int R, const int N, const struct lk_piece *p)
{
    __m256 acc[ROWS][4];
    const float *a = p->a, *w = p->w, *w2 = w + p->n * PANEL;
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[i][j] = p->begin ? _mm256_setzero_ps() : _mm256_load_ps(p->sums + (i * N + j) * 8);
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
            _mm256_store_ps(p->sums + (i * N + j) * 8, acc[i][j]);
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

static void tile_of(const struct lk_piece *p)
{
    static void (*const one[])(const struct lk_piece *) = {NULL,      packed1x2, packed2x2, packed3x2,
                                                           packed4x2, packed5x2, packed6x2};
    if (p->two)
        packed1x4(p);
    else
        one[p->r](p);
}

LK_INLINE void finish(const struct lk_linear *a, const struct lk_packed_sums *s, void *best, const enum lk_type type)
{
    struct lk_tile t = {s->v, s->ld, s->r, s->row, s->panel};
    if (a->epilogue == LK_EP_SWIGLU)
        lk_swiglu_tile(a, &t, type);
    else if (a->epilogue == LK_EP_HEAD)
        lk_head_tile(a, &t, best);
    else
        lk_store_tile(a, &t);
}

static void finish_f32(const struct lk_linear *a, const struct lk_packed_sums *s, void *best)
{
    finish(a, s, best, LK_F32);
}

static void finish_bf16(const struct lk_linear *a, const struct lk_packed_sums *s, void *best)
{
    finish(a, s, best, LK_BF16);
}

static void best_init(void *best)
{
    lk_best_init(best);
}

static struct lk_best best_finish(const void *best)
{
    return lk_best_finish(best);
}

static const struct lk_packed_set sets[2] = {
#define SET(type_, finish_)                                                                                  \
    {                                                                                                        \
        .rows = ROWS, .width = PANEL, .pair_rows = PAIR_ROWS, .band = BAND, .piece = PIECE, .elem_bytes = 4, \
        .act_bytes = 4, .best_bytes = sizeof(struct lk_lane_best), .tile = tile_of, .finish = (finish_),     \
        .type = (type_), .best_init = best_init, .best_finish = best_finish                                  \
    }
    [LK_F32] = SET(LK_F32, finish_f32),
    [LK_BF16] = SET(LK_BF16, finish_bf16),
};

int64_t lk_avx2_packed_items(const struct lk_linear *a)
{
    return lk_packed_items(&sets[0], a);
}

void lk_avx2_packed_linear(const struct lk_linear *a, int64_t begin, int64_t end, enum lk_type type)
{
    _Alignas(32) float sums[LK_TREE_DEPTH][BAND * ROWS * PANEL], piece[PIECE * PANEL];
    struct lk_lane_best best[BAND * ROWS];
    struct lk_packed_memory m = {.piece = piece, .sums = sums[0], .best = (char *)best};
    struct lk_packed_set set = sets[type];
    set.unpack = unpackers[a->q->kind][type];
    set.few = a->a.n_row <= FEW_ROWS ? few_of[a->q->kind][type][a->a.n_row] : NULL;
    lk_packed_linear(&set, &m, a, begin, end);
}

size_t lk_avx2_packed_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols)
{
    return lk_packed_matrix_bytes(q, n_out, cols, PANEL);
}

void lk_avx2_pack_codes(const struct lk_pack_codes *a)
{
    lk_packed_pack(a, PANEL, LK_BY_WORD);
}
