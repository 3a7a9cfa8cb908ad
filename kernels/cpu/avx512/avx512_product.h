/* The register tile of the product: R rows by 16 * N columns, summed over one segment after another, word by word
 * whatever the tile. vdpbf16ps adds the products of the odd and then of the even element of a pair to each sum. */
#ifndef KERNELS_CPU_AVX512_AVX512_PRODUCT_H
#define KERNELS_CPU_AVX512_AVX512_PRODUCT_H

#include "kernels/cpu/avx512/lk_avx512.h"
#include "kernels/cpu/lk_ahead.h"
#include "kernels/cpu/lk_lora.h"

/* Tiles on the way up the tree; the result is tile[0]. For N = 4 the second panel's columns follow the first's. */
struct lk_tiles {
    _Alignas(64) float tile[LK_TREE_DEPTH][LK_AVX512_ROWS * LK_AVX512_PANEL];
};

struct lk_product {
    const uint32_t *a;  /* activation panel */
    const uint32_t *w;  /* weight panel, [n_word, 32] */
    const uint32_t *w2; /* N = 4: the second panel */
    const struct lk_cols *cols;
    struct lk_ahead ahead;   /* two lines of each panel a word; of one panel that moves on by no more than a line ... */
    struct lk_beside beside; /* ... one, and one of these */
    const struct lk_lora *lora; /* NULL: none */
    int64_t row, strip;         /* the tile's first row, its first columns in strips of adapters */
};

/* Adapters' part of a segment's sums. */
LK_INLINE void lk_lora_acc(const int R, const int N, const enum lk_type type, const struct lk_product *p, int s,
                           __m512 acc[LK_AVX512_ROWS][4])
{
    float v[LK_AVX512_ROWS * LK_AVX512_PANEL];
    const struct lk_lora_tile tile = {v, p->row, p->strip, R, 16 / LK_LORA_STRIP * N};
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            _mm512_storeu_ps(v + (i * N + j) * 16, acc[i][j]);
    lk_lora_leaf(p->lora, s, &tile, type);
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
            acc[i][j] = _mm512_loadu_ps(v + (i * N + j) * 16);
}

LK_INLINE void lk_product_tile(const int R, const int N, const enum lk_type type, const struct lk_product *p,
                               struct lk_tiles *t)
{
    const struct lk_cols *cols = p->cols;
    const char *ahead = p->ahead.at, *beside = p->beside.at;
    const bool lines = N == 4 || p->ahead.step > 64;
    int wait = 0;
    for (int s = 0; s < cols->n_seg; s++) {
        int64_t word = cols->packed[s] / lk_per_word(type), end = cols->packed[s + 1] / lk_per_word(type);
        const uint32_t *a = p->a + word * R;
        const uint32_t *w = p->w + word * LK_AVX512_PANEL;
        const uint32_t *w2 = N == 4 ? p->w2 + word * LK_AVX512_PANEL : NULL;
        __m512 acc[LK_AVX512_ROWS][4];
        if (p->ahead.near)
            ahead = s + 1 < cols->n_seg ? (const char *)(p->w + end * LK_AVX512_PANEL) : p->ahead.at;
#pragma GCC unroll 12
        for (int i = 0; i < R; i++)
#pragma GCC unroll 4
            for (int j = 0; j < N; j++)
                acc[i][j] = _mm512_setzero_ps();
        for (; word < end; word++) {
            __m512i b[4];
            b[0] = _mm512_loadu_si512(w);
            b[1] = _mm512_loadu_si512(w + 16);
            if (N == 4) {
                b[2] = _mm512_loadu_si512(w2);
                b[3] = _mm512_loadu_si512(w2 + 16);
                w2 += LK_AVX512_PANEL;
            }
            _mm_prefetch(ahead, _MM_HINT_T1);
            _mm_prefetch(lines ? ahead + 64 : beside, _MM_HINT_T1);
            if (N == 4) {
                _mm_prefetch(ahead + p->ahead.hop, _MM_HINT_T1);
                _mm_prefetch(ahead + p->ahead.hop + 64, _MM_HINT_T1);
            } else {
                beside = beside < p->beside.last ? beside + 64 : beside;
            }
#pragma GCC unroll 12
            for (int i = 0; i < R; i++) {
                __m512i x = _mm512_set1_epi32((int)a[i]);
#pragma GCC unroll 4
                for (int j = 0; j < N; j++)
                    acc[i][j] = lk_step(type, acc[i][j], b[j], x);
            }
            a += R;
            w += LK_AVX512_PANEL;
            ahead += p->ahead.step;
        }
        if (p->lora)
            lk_lora_acc(R, N, type, p, s, acc);
        for (int n = lk_merges(cols, s); n > 0; n--) {
            const float *left = t->tile[--wait];
#pragma GCC unroll 12
            for (int i = 0; i < R; i++)
#pragma GCC unroll 4
                for (int j = 0; j < N; j++)
                    acc[i][j] = _mm512_add_ps(_mm512_loadu_ps(left + (i * N + j) * 16), acc[i][j]);
        }
        float *to = t->tile[wait++];
#pragma GCC unroll 12
        for (int i = 0; i < R; i++)
#pragma GCC unroll 4
            for (int j = 0; j < N; j++)
                _mm512_storeu_ps(to + (i * N + j) * 16, acc[i][j]);
    }
}

#endif
