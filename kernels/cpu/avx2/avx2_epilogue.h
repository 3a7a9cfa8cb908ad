/* What is done with a tile of sums: stored, added, SwiGLU, the head's running best. */
#ifndef KERNELS_CPU_AVX2_AVX2_EPILOGUE_H
#define KERNELS_CPU_AVX2_AVX2_EPILOGUE_H

#include <math.h>

#include "kernels/cpu/avx2/lk_avx2.h"

/* What one register tile gives: r rows from row `row`, the columns of weight panel `panel`. */
struct lk_tile {
    float *v; /* row i at v + i * ld: 16 numbers */
    int ld, r;
    int64_t row, panel;
};

/* Running best of a row over a vocabulary block: by lane, and apart from them the tiles with numbers that are not
 * finite, which are rare and taken one by one. */
struct lk_lane_best {
    _Alignas(32) float value[8];
    int32_t id[8];
    struct lk_best odd;
};

static inline void lk_store_tile(const struct lk_linear *a, const struct lk_tile *t)
{
    int64_t col = t->panel * LK_AVX2_PANEL;
    for (int j = 0; j < 2 && col < a->n_out; j++, col += 8) {
        int64_t n = a->n_out - col;
        __m256 bias = a->bias ? lk_load8(a->bias + col, n) : _mm256_setzero_ps();
        for (int i = 0; i < t->r; i++) {
            float *y = a->y + (t->row + i) * a->y_ld + col;
            __m256 v = _mm256_loadu_ps(t->v + i * t->ld + 8 * j);
            if (a->bias)
                v = _mm256_add_ps(v, bias);
            if (a->epilogue == LK_EP_ADD)
                v = _mm256_add_ps(lk_load8(y, n), v);
            lk_store8(y, v, n);
        }
    }
}

LK_INLINE __m256 lk_swiglu8(__m256 g, __m256 u)
{
    __m256 e = lk_exp(_mm256_sub_ps(_mm256_setzero_ps(), g));
    return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1), e)), u);
}

/* Where columns col .. col + 7 of an operand stand as one block; -1 when they do not, or zero columns follow them. */
static inline int64_t lk_whole_block(const struct lk_cols *c, int64_t col)
{
    if (col + 8 > c->n_col)
        return -1;
    int s = lk_cols_seg(c, col);
    int64_t at = c->packed[s] + (col - c->begin[s]), end = c->begin[s + 1];
    bool alone = col + 8 < end || (col + 8 == end && at + 8 == c->packed[s + 1]);
    return alone && at % 8 == 0 ? at : -1;
}

LK_INLINE void lk_swiglu_tile(const struct lk_linear *a, const struct lk_tile *t, const enum lk_type type)
{
    int64_t ffn = a->n_out / 2, col = t->panel * 8, n = lk_min(8, ffn - col), at = lk_whole_block(a->out.cols, col);
    __m256 bg = _mm256_setzero_ps(), bu = bg;
    if (a->bias) {
        bg = lk_load8(a->bias + col, n);
        bu = lk_load8(a->bias + ffn + col, n);
    }
    struct lk_row to = lk_row_of(&a->out, t->row); /* the tile's rows are one panel's */
    float *block = at >= 0 ? lk_row_col(&to, at) : NULL;
    for (int i = 0; i < t->r; i++) {
        __m256 g = _mm256_loadu_ps(t->v + i * t->ld), u = _mm256_loadu_ps(t->v + i * t->ld + 8);
        if (a->bias) {
            g = _mm256_add_ps(g, bg);
            u = _mm256_add_ps(u, bu);
        }
        __m256 y = lk_typed8(lk_swiglu8(g, u), type);
        if (block) {
            _mm256_storeu_ps(block + 8 * i, y);
        } else {
            float v[8];
            _mm256_storeu_ps(v, y);
            lk_avx2_put_cols(&a->out, t->row + i, col, v, n);
        }
    }
}

static inline void lk_best_init(struct lk_lane_best *b)
{
    for (int i = 0; i < 8; i++) {
        b->value[i] = -INFINITY;
        b->id[i] = -1;
    }
    b->odd = (struct lk_best){-INFINITY, -1, true};
}

/* A group of columns that is not full, or has a number that is not finite. */
static inline void lk_best_take_odd(struct lk_best *b, const float *v, int64_t n, int64_t col)
{
    for (int64_t j = 0; j < n; j++) {
        b->finite = b->finite && isfinite(v[j]);
        if (v[j] == v[j])
            lk_best_take_one(b, v[j], (int32_t)(col + j));
    }
}

static inline struct lk_best lk_best_finish(const struct lk_lane_best *b)
{
    struct lk_best best = b->odd;
    for (int i = 0; i < 8; i++)
        lk_best_take_one(&best, b->value[i], b->id[i]);
    return best;
}

/* 16 columns that exist and are finite: the larger of lanes j and j + 8, then against the best. */
LK_INLINE void lk_best_take16(struct lk_lane_best *b, __m256 v0, __m256 v1, int64_t col)
{
    __m256i id0 = _mm256_add_epi32(_mm256_set1_epi32((int32_t)col), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i id1 = _mm256_add_epi32(id0, _mm256_set1_epi32(8));
    __m256i right = _mm256_castps_si256(_mm256_cmp_ps(v1, v0, _CMP_GT_OQ));
    __m256 v = _mm256_max_ps(v1, v0), value = _mm256_load_ps(b->value);
    __m256i id = _mm256_blendv_epi8(id0, id1, right), *ids = (__m256i *)(void *)b->id;
    __m256i more = _mm256_castps_si256(_mm256_cmp_ps(v, value, _CMP_GT_OQ));
    _mm256_store_ps(b->value, _mm256_max_ps(v, value));
    _mm256_storeu_si256(ids, _mm256_blendv_epi8(_mm256_loadu_si256(ids), id, more));
}

static inline void lk_head_tile(const struct lk_linear *a, const struct lk_tile *t, struct lk_lane_best *best)
{
    int64_t col = t->panel * LK_AVX2_PANEL, n = lk_min(LK_AVX2_PANEL, a->n_out - col);
    const __m256 infinite = _mm256_set1_ps(INFINITY), no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (int i = 0; i < t->r; i++) {
        float *v = t->v + i * t->ld;
        for (int64_t j = 0; a->bias && j < n; j++)
            v[j] += a->bias[col + j];
        if (a->logits && a->logits[t->row + i])
            memcpy(a->logits[t->row + i] + col, v, (size_t)n * sizeof *v);
        __m256 v0 = _mm256_loadu_ps(v), v1 = _mm256_loadu_ps(v + 8);
        /* below infinity: false for NaN too */
        __m256 ok = _mm256_and_ps(_mm256_cmp_ps(_mm256_and_ps(v0, no_sign), infinite, _CMP_LT_OQ),
                                  _mm256_cmp_ps(_mm256_and_ps(v1, no_sign), infinite, _CMP_LT_OQ));
        if (n == LK_AVX2_PANEL && _mm256_movemask_ps(ok) == 0xff)
            lk_best_take16(&best[i], v0, v1, col);
        else
            lk_best_take_odd(&best[i].odd, v, n, col);
    }
}

#endif
