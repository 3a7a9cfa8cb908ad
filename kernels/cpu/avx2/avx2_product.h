/* Register tiles: sums of R rows by 8 N columns, fused multiply-adds in the order of k whatever the tile. */
#ifndef KERNELS_CPU_AVX2_AVX2_PRODUCT_H
#define KERNELS_CPU_AVX2_AVX2_PRODUCT_H

#include "kernels/cpu/avx2/lk_avx2.h"
#include "kernels/cpu/lk_ahead.h"
#include "kernels/cpu/lk_lora.h"

/* Tiles on the way up the tree; the result is tile[0]. For two panels the second one's columns follow the first's. */
struct lk_tiles {
    _Alignas(32) float tile[LK_TREE_DEPTH][LK_AVX2_ROWS * LK_AVX2_PANEL];
};

struct lk_product {
    const float *a;     /* activation panel */
    const char *w, *w2; /* weight panel; with two, the second one */
    const struct lk_cols *cols;
    struct lk_ahead ahead;      /* as much a pair of k as is read */
    const struct lk_lora *lora; /* NULL: none */
    int64_t row, strip;         /* the tile's first row, its first columns in strips of adapters */
};

/* Columns 8 j .. 8 j + 7 of the right-hand operand's pair of k at w, the first or (odd) the second k; n_col columns lie
 * side by side. */
LK_INLINE __m256 lk_right(const enum lk_type type, const int odd, const char *w, const int j, const int n_col)
{
    if (type == LK_F32)
        return _mm256_loadu_ps((const float *)(const void *)w + odd * n_col + 8 * j);
    __m256i words = _mm256_loadu_si256((const __m256i *)(const void *)w + j);
    return odd ? lk_odd8(words) : lk_even8(words);
}

/* One segment from zero: packed columns of segment s, a multiple of 8. */
LK_INLINE void lk_segment(const int R, const int N, const enum lk_type type, struct lk_product *p, int s,
                          __m256 acc[LK_AVX2_ROWS][4])
{
    int64_t k = p->cols->packed[s], end = p->cols->packed[s + 1];
    const int64_t pair_bytes = LK_AVX2_PANEL * (type == LK_F32 ? 8 : 4);
    const char *ahead = p->ahead.at;
    if (p->ahead.near && s + 1 < p->cols->n_seg)
        ahead = p->w + end / 2 * pair_bytes;
    const float *a = p->a + k * R;
    const char *w = p->w + k / 2 * pair_bytes, *w2 = N == 4 ? p->w2 + k / 2 * pair_bytes : w;
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[i][j] = _mm256_setzero_ps();
    for (; k < end; k += 8, a += 8 * R) {
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; pair++) {
            _mm_prefetch(ahead, _MM_HINT_T1);
            if (type == LK_F32)
                _mm_prefetch(ahead + 64, _MM_HINT_T1);
            if (N == 4)
                _mm_prefetch(ahead + p->ahead.hop, _MM_HINT_T1);
            if (N == 4 && type == LK_F32)
                _mm_prefetch(ahead + p->ahead.hop + 64, _MM_HINT_T1);
            ahead += p->ahead.step;
#pragma GCC unroll 2
            for (int odd = 0; odd < 2; odd++) {
                __m256 b[4];
#pragma GCC unroll 4
                for (int j = 0; j < N; j++)
                    b[j] = lk_right(type, odd, j < 2 ? w : w2, j % 2, LK_AVX2_PANEL);
#pragma GCC unroll 6
                for (int i = 0; i < R; i++) {
                    __m256 x = _mm256_broadcast_ss(a + 8 * i + 2 * pair + odd);
#pragma GCC unroll 4
                    for (int j = 0; j < N; j++)
                        acc[i][j] = lk_fma_in_place(x, b[j], acc[i][j]);
                }
            }
            w += pair_bytes;
            w2 += pair_bytes;
        }
    }
    if (!p->ahead.near)
        p->ahead.at = ahead;
}

/* Adapters' part of a segment's sums. */
LK_INLINE void lk_lora_acc(const int R, const int N, const enum lk_type type, const struct lk_product *p, int s,
                           __m256 acc[LK_AVX2_ROWS][4])
{
    _Alignas(32) float v[LK_AVX2_ROWS * 4 * 8];
    const struct lk_lora_tile tile = {v, p->row, p->strip, R, N};
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            _mm256_store_ps(v + (i * N + j) * 8, acc[i][j]);
    lk_lora_leaf(p->lora, s, &tile, type);
#pragma GCC unroll 6
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[i][j] = _mm256_load_ps(v + (i * N + j) * 8);
}

LK_INLINE void lk_product_tile(const int R, const int N, const enum lk_type type, struct lk_product *p,
                               struct lk_tiles *t)
{
    const struct lk_cols *cols = p->cols;
    int wait = 0;
    for (int s = 0; s < cols->n_seg; s++) {
        __m256 acc[LK_AVX2_ROWS][4];
        lk_segment(R, N, type, p, s, acc);
        if (p->lora)
            lk_lora_acc(R, N, type, p, s, acc);
        for (int n = lk_merges(cols, s); n > 0; n--) {
            const float *left = t->tile[--wait];
#pragma GCC unroll 6
            for (int i = 0; i < R; i++)
#pragma GCC unroll 4
                for (int j = 0; j < N; j++)
                    acc[i][j] = _mm256_add_ps(_mm256_load_ps(left + (i * N + j) * 8), acc[i][j]);
        }
        float *to = t->tile[wait++];
#pragma GCC unroll 6
        for (int i = 0; i < R; i++)
#pragma GCC unroll 4
            for (int j = 0; j < N; j++)
                _mm256_store_ps(to + (i * N + j) * 8, acc[i][j]);
    }
}

#endif
