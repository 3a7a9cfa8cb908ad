/* What becomes of a tile of f32 sums: stored, added, SwiGLU, or the LM head's best and logits. The sets that share this
 * differ in the order in which activations lie; each gives a function that writes them. */
#ifndef KERNELS_CPU_AVX512_AVX512_EPILOGUE_H
#define KERNELS_CPU_AVX512_AVX512_EPILOGUE_H

#include <math.h>

#include "kernels/cpu/avx512/avx512_power.h"

/* What one register tile gives: r rows from row `row`, all of one activation panel; the 32 columns of weight panel
 * `panel`. */
struct lk_tile {
    float *v; /* row i at v + i * ld: 32 numbers */
    int ld, r;
    int64_t row, panel;
};

/* A tile's 16 numbers from column t->v on, which are columns col ... of `out`, n of which exist: rounded, or as f32. */
void lk_avx512_put_tile(const struct lk_act *out, const struct lk_tile *t, int64_t col, int64_t n);
void lk_avx512_put_tile_f32(const struct lk_act *out, const struct lk_tile *t, int64_t col, int64_t n);

static inline void lk_store(const struct lk_linear *a, const struct lk_tile *t)
{
    int64_t col = t->panel * LK_AVX512_PANEL;
    __mmask16 m0 = lk_mask16(a->n_out - col), m1 = lk_mask16(a->n_out - col - 16);
    __m512 b0 = _mm512_setzero_ps(), b1 = b0;
    if (a->bias) {
        b0 = _mm512_maskz_loadu_ps(m0, a->bias + col);
        b1 = _mm512_maskz_loadu_ps(m1, a->bias + col + 16);
    }
    for (int i = 0; i < t->r; i++) {
        float *y = a->y + (t->row + i) * a->y_ld + col;
        __m512 v0 = _mm512_loadu_ps(t->v + i * t->ld), v1 = _mm512_loadu_ps(t->v + i * t->ld + 16);
        if (a->bias) {
            v0 = _mm512_add_ps(v0, b0);
            v1 = _mm512_add_ps(v1, b1);
        }
        if (a->epilogue == LK_EP_ADD) {
            v0 = _mm512_add_ps(_mm512_maskz_loadu_ps(m0, y), v0);
            v1 = _mm512_add_ps(_mm512_maskz_loadu_ps(m1, y + 16), v1);
        }
        if (m1 == 0xffff) {
            _mm512_storeu_ps(y, v0);
            _mm512_storeu_ps(y + 16, v1);
        } else {
            _mm512_mask_storeu_ps(y, m0, v0);
            _mm512_mask_storeu_ps(y + 16, m1, v1);
        }
    }
}

LK_INLINE __m512 lk_swiglu16(__m512 g, __m512 u)
{
    __m512 e = lk_exp(_mm512_sub_ps(_mm512_setzero_ps(), g));
    return _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1), e)), u);
}

LK_INLINE void lk_swiglu_some(const int R, float *v, int64_t ld)
{
    __m512 y[4];
    lk_swiglu_rows(R, v, ld, y);
#pragma GCC unroll 4
    for (int i = 0; i < R; i++)
        _mm512_storeu_ps(v + i * ld, y[i]);
}

/* The gate columns of a tile become SwiGLU, which is rounded to bf16 behind it: rows a few at a time keep the vector
 * units busy. */
static inline void lk_swiglu_in_place(const struct lk_tile *t)
{
    int i = 0;
    for (; i + 4 <= t->r; i += 4)
        lk_swiglu_some(4, t->v + i * t->ld, t->ld);
    for (; i < t->r; i++)
        lk_swiglu_some(1, t->v + i * t->ld, t->ld);
}

static inline void lk_swiglu_bias(const struct lk_linear *a, const struct lk_tile *t, int64_t col, int64_t n)
{
    __mmask16 m = lk_mask16(n);
    __m512 g = _mm512_maskz_loadu_ps(m, a->bias + col), u = _mm512_maskz_loadu_ps(m, a->bias + a->n_out / 2 + col);
    for (float *v = t->v; v < t->v + t->r * t->ld; v += t->ld) {
        _mm512_storeu_ps(v, _mm512_add_ps(_mm512_loadu_ps(v), g));
        _mm512_storeu_ps(v + 16, _mm512_add_ps(_mm512_loadu_ps(v + 16), u));
    }
}

/* The result takes the place of the gate columns. */
LK_INLINE void lk_swiglu(const struct lk_linear *a, const struct lk_tile *t, const enum lk_type type)
{
    int64_t col = t->panel * 16, n = lk_min(16, a->n_out / 2 - col);
    if (a->bias)
        lk_swiglu_bias(a, t, col, n);
    if (type == LK_F32) {
        for (float *v = t->v; v < t->v + t->r * t->ld; v += t->ld)
            _mm512_storeu_ps(v, lk_swiglu16(_mm512_loadu_ps(v), _mm512_loadu_ps(v + 16)));
        lk_avx512_put_tile_f32(&a->out, t, col, n);
        return;
    }
    lk_swiglu_in_place(t);
    lk_avx512_put_tile(&a->out, t, col, n);
}

/* Running best of a row over a vocabulary block: by lane, and apart from them the tiles with numbers that are not
 * finite, which are rare and taken one by one. */
struct lk_lane_best {
    _Alignas(64) float value[16];
    int32_t id[16];
    struct lk_best odd;
};

static inline void lk_best_init(struct lk_lane_best *b)
{
    _mm512_storeu_ps(b->value, _mm512_set1_ps(-INFINITY));
    _mm512_storeu_si512(b->id, _mm512_set1_epi32(-1));
    b->odd = (struct lk_best){-INFINITY, -1, true};
}

static inline void lk_best_take_odd(struct lk_best *b, const float *v, int64_t n, int64_t col)
{
    b->finite = false;
    for (int64_t j = 0; j < n; j++)
        if (v[j] == v[j])
            lk_best_take_one(b, v[j], (int32_t)(col + j));
}

/* 16 columns; m: those that exist. */
LK_INLINE void lk_best_take(struct lk_lane_best *b, __m512 v, __mmask16 m, int64_t col)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (__builtin_expect(_mm512_mask_fpclass_ps_mask(m, v, 0x99) != 0, 0)) { /* NaN, infinity */
        float x[16];
        _mm512_storeu_ps(x, v);
        lk_best_take_odd(&b->odd, x, __builtin_popcount(m), col);
        return;
    }
    __m512 value = _mm512_loadu_ps(b->value);
    __mmask16 more = _mm512_mask_cmp_ps_mask(m, v, value, _CMP_GT_OQ);
    __m512i id = _mm512_add_epi32(_mm512_set1_epi32((int32_t)col), lane);
    _mm512_storeu_ps(b->value, _mm512_mask_mov_ps(value, more, v));
    _mm512_storeu_si512(b->id, _mm512_mask_mov_epi32(_mm512_loadu_si512(b->id), more, id));
}

static inline struct lk_best lk_best_finish(const struct lk_lane_best *b)
{
    struct lk_best best = b->odd;
    for (int i = 0; i < 16; i++)
        lk_best_take_one(&best, b->value[i], b->id[i]);
    return best;
}

/* A tile of 32 existing columns without NaN or infinity: the larger of lanes j and j + 16, then against the best. */
LK_INLINE void lk_best_take_tile(const struct lk_tile *t, struct lk_lane_best *best)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i id0 = _mm512_add_epi32(_mm512_set1_epi32((int32_t)(t->panel * LK_AVX512_PANEL)), lane);
    __m512i id1 = _mm512_add_epi32(id0, _mm512_set1_epi32(16));
    for (int i = 0; i < t->r; i++) {
        __m512 v0 = _mm512_loadu_ps(t->v + i * t->ld), v1 = _mm512_loadu_ps(t->v + i * t->ld + 16);
        __mmask16 right = _mm512_cmp_ps_mask(v1, v0, _CMP_GT_OQ);
        __m512 v = _mm512_max_ps(v1, v0), value = _mm512_loadu_ps(best[i].value);
        __m512i id = _mm512_mask_mov_epi32(id0, right, id1);
        __mmask16 more = _mm512_cmp_ps_mask(v, value, _CMP_GT_OQ);
        _mm512_storeu_ps(best[i].value, _mm512_max_ps(v, value));
        _mm512_storeu_si512(best[i].id, _mm512_mask_mov_epi32(_mm512_loadu_si512(best[i].id), more, id));
    }
}

/* Whether every number of the tile is finite. A sum of two that is not makes the caller look closer, no more. */
static inline bool lk_finite_tile(const struct lk_tile *t)
{
    unsigned odd = 0;
    for (int i = 0; i < t->r; i++) {
        __m512 v = _mm512_add_ps(_mm512_loadu_ps(t->v + i * t->ld), _mm512_loadu_ps(t->v + i * t->ld + 16));
        odd |= _mm512_fpclass_ps_mask(v, 0x99);
    }
    return odd == 0;
}

static inline void lk_head_logits(const struct lk_linear *a, const struct lk_tile *t)
{
    int64_t col = t->panel * LK_AVX512_PANEL;
    __mmask16 m0 = lk_mask16(a->n_out - col), m1 = lk_mask16(a->n_out - col - 16);
    for (int i = 0; i < t->r; i++) {
        if (!a->logits[t->row + i])
            continue;
        float *to = a->logits[t->row + i] + col;
        _mm512_mask_storeu_ps(to, m0, _mm512_loadu_ps(t->v + i * t->ld));
        _mm512_mask_storeu_ps(to + 16, m1, _mm512_loadu_ps(t->v + i * t->ld + 16));
    }
}

static inline void lk_head(const struct lk_linear *a, struct lk_tile *t, struct lk_lane_best *best)
{
    int64_t col = t->panel * LK_AVX512_PANEL;
    if (a->bias) {
        __m512 b0 = _mm512_maskz_loadu_ps(lk_mask16(a->n_out - col), a->bias + col);
        __m512 b1 = _mm512_maskz_loadu_ps(lk_mask16(a->n_out - col - 16), a->bias + col + 16);
        for (float *v = t->v; v < t->v + t->r * t->ld; v += t->ld) {
            _mm512_storeu_ps(v, _mm512_add_ps(_mm512_loadu_ps(v), b0));
            _mm512_storeu_ps(v + 16, _mm512_add_ps(_mm512_loadu_ps(v + 16), b1));
        }
    }
    if (a->logits)
        lk_head_logits(a, t);
    if (col + LK_AVX512_PANEL <= a->n_out && lk_finite_tile(t)) {
        lk_best_take_tile(t, best);
        return;
    }
    for (int i = 0; i < t->r; i++)
        for (int h = 0; h < 2; h++)
            lk_best_take(&best[i], _mm512_loadu_ps(t->v + i * t->ld + h * 16), lk_mask16(a->n_out - col - h * 16),
                         col + h * 16);
}

LK_INLINE void lk_epilogue(const struct lk_linear *a, struct lk_tile *t, struct lk_lane_best *best,
                           const enum lk_type type)
{
    if (a->epilogue == LK_EP_SWIGLU)
        lk_swiglu(a, t, type);
    else if (a->epilogue == LK_EP_HEAD)
        lk_head(a, t, best);
    else
        lk_store(a, t);
}

#endif
