/* Rotation, rounding and the write into the cache. */
#include <math.h>

#include "kernels/cpu/avx2/lk_avx2.h"

#define PAGE LK_PAGE_TOKENS

static size_t q_bytes(int64_t n_tok, int64_t n_head, int64_t head_dim)
{
    return (size_t)(n_tok * n_head * LK_DIMS8(head_dim)) * sizeof(float);
}

static size_t k_page_bytes_f32(int64_t head_dim)
{
    return (size_t)(lk_ceil_div(head_dim, 2) * 2 * PAGE) * sizeof(float);
}

static size_t k_page_bytes_bf16(int64_t head_dim)
{
    return k_page_bytes_f32(head_dim) / 2;
}

static size_t v_page_bytes_f32(int64_t v_dim)
{
    return (size_t)(PAGE * LK_DIMS8(v_dim)) * sizeof(float);
}

static size_t v_page_bytes_bf16(int64_t v_dim)
{
    return v_page_bytes_f32(v_dim) / 2;
}

/* One head of a token. */
struct head {
    const float *x;    /* [head_dim] */
    const float *norm; /* [head_dim] or NULL */
    float inv;         /* 1 / rms */
    const float *cos, *sin;
};

static struct head head_of(const struct lk_rope_kv *a, int64_t t, const float *x, const float *norm)
{
    int64_t n = a->kv.head_dim;
    struct head h = {x, norm, 1, a->cos + t * (a->n_rot / 2), a->sin + t * (a->n_rot / 2)};
    if (norm) {
        __m256 sum = _mm256_setzero_ps();
        for (int64_t i = 0; i < n; i += 8) {
            __m256 v = lk_load8(x + i, n - i);
            sum = _mm256_fmadd_ps(v, v, sum);
        }
        h.inv = 1.0f / sqrtf(lk_sum8(sum) / (float)n + a->eps);
    }
    return h;
}

LK_INLINE float normed(const struct head *h, int64_t i)
{
    return h->norm ? h->x[i] * h->inv * h->norm[i] : h->x[i];
}

LK_INLINE __m256 normed8(const struct head *h, int64_t i, int64_t n)
{
    __m256 x = lk_load8(h->x + i, n);
    if (h->norm)
        x = _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(h->inv)), lk_load8(h->norm + i, n));
    return x;
}

static float rotated(const struct lk_rope_kv *a, const struct head *h, int64_t i)
{
    int64_t half = a->n_rot / 2;
    if (i >= 2 * half)
        return normed(h, i);
    int64_t j = a->interleaved ? i / 2 : i % half;
    float x = normed(h, a->interleaved ? 2 * j : j), y = normed(h, a->interleaved ? 2 * j + 1 : j + half);
    bool first = a->interleaved ? i % 2 == 0 : i < half;
    return first ? fmaf(x, h->cos[j], -(y * h->sin[j])) : fmaf(y, h->cos[j], x * h->sin[j]);
}

/* x[0] x[0] x[1] x[1] ... x[3] x[3] */
LK_INLINE __m256 twice4(const float *x)
{
    __m128 v = _mm_loadu_ps(x);
    return _mm256_set_m128(_mm_unpackhi_ps(v, v), _mm_unpacklo_ps(v, v));
}

/* Dimensions i .. i + 7 behind norm and rotation; zeros beyond the head. */
LK_INLINE __m256 rotated8(const struct lk_rope_kv *a, const struct head *h, int64_t i)
{
    int64_t half = a->n_rot / 2, n = lk_min(8, a->kv.head_dim - i);
    if (i >= 2 * half)
        return normed8(h, i, n);
    bool low = i + n <= half, high = i >= half && i + n <= 2 * half;
    if (!a->interleaved && (low || high)) {
        int64_t j = low ? i : i - half;
        __m256 c = lk_load8(h->cos + j, n), s = lk_load8(h->sin + j, n);
        __m256 x = normed8(h, j, n), y = normed8(h, j + half, n);
        return low ? _mm256_fmsub_ps(x, c, _mm256_mul_ps(y, s)) : _mm256_fmadd_ps(y, c, _mm256_mul_ps(x, s));
    }
    if (a->interleaved && i + 8 <= 2 * half) {
        __m256 x = normed8(h, i, 8), c = twice4(h->cos + i / 2), s = twice4(h->sin + i / 2);
        return _mm256_fmaddsub_ps(x, c, _mm256_mul_ps(_mm256_permute_ps(x, 0xb1), s));
    }
    float out[8] = {0};
    for (int64_t d = 0; d < n; d++)
        out[d] = rotated(a, h, i + d);
    return _mm256_loadu_ps(out);
}

LK_INLINE void put_q(const struct lk_rope_kv *a, int64_t t, const float *x, const enum lk_type type)
{
    int64_t n_dim = LK_DIMS8(a->kv.head_dim), n_kv = a->kv.n_kv_head, group = a->n_head / n_kv;
    for (int64_t kv = 0; kv < n_kv; kv++) {
        float *to = (float *)a->q + (kv * a->n_tok + t) * group * n_dim;
        for (int64_t ih = kv * group; ih < (kv + 1) * group; ih++, to += n_dim) {
            struct head h = head_of(a, t, x + ih * a->kv.head_dim, a->q_norm);
            for (int64_t i = 0; i < n_dim; i += 8)
                _mm256_storeu_ps(to + i, lk_typed8(rotated8(a, &h, i), type));
        }
    }
}

/* Number d of position `slot` in a K page. */
LK_INLINE void put_k(const struct lk_rope_kv *a, const struct head *h, uint8_t *page, int64_t slot,
                     const enum lk_type type)
{
    int64_t n = a->kv.head_dim;
    for (int64_t i = 0; i < n; i += 8) {
        _Alignas(32) uint32_t bits[8];
        _mm256_store_si256((__m256i *)bits, _mm256_castps_si256(lk_typed8(rotated8(a, h, i), type)));
        if (type == LK_F32) {
            for (int64_t j = 0; j < lk_min(8, n - i); j++)
                ((uint32_t *)(void *)page)[(i + j) * PAGE + slot] = bits[j];
        } else {
            for (int64_t j = 0; j < lk_min(8, n - i); j += 2) /* the word behind an odd head_dim is zero */
                ((uint32_t *)(void *)page)[(i + j) / 2 * PAGE + slot] = bits[j] >> 16 | bits[j + 1];
        }
    }
}

/* In bf16 a position is one half of its words: stores must not touch the other, which may be another thread's token. */
LK_INLINE void put_v(const float *v, int64_t v_dim, uint8_t *page, int64_t slot, const enum lk_type type)
{
    int64_t n_dim = LK_DIMS8(v_dim);
    if (type == LK_F32) {
        float *to = (float *)(void *)page + slot * n_dim;
        memcpy(to, v, (size_t)v_dim * sizeof *to);
        return;
    }
    uint16_t *to = (uint16_t *)(void *)page + slot / 2 * n_dim * 2 + slot % 2;
    for (int64_t d = 0; d < v_dim; d += 8) {
        int64_t n = lk_min(8, v_dim - d);
        _Alignas(32) uint32_t bits[8];
        _mm256_store_si256((__m256i *)bits, _mm256_castps_si256(lk_rounded8(lk_load8(v + d, n))));
        for (int64_t j = 0; j < n; j++)
            to[2 * (d + j)] = (uint16_t)(bits[j] >> 16);
    }
}

LK_INLINE void rope_kv(const struct lk_rope_kv *a, int64_t begin, int64_t end, const enum lk_type type)
{
    int64_t head_dim = a->kv.head_dim, v_dim = a->kv.v_dim, n_kv = a->kv.n_kv_head;
    for (int64_t t = begin; t < end; t++) {
        const float *q = a->qkv + t * ((a->n_head + n_kv) * head_dim + n_kv * v_dim);
        const float *k = q + a->n_head * head_dim, *v = k + n_kv * head_dim;
        int64_t slot = a->pos[t] % PAGE;
        put_q(a, t, q, type);
        for (int64_t ih = 0; ih < n_kv; ih++) {
            int64_t at = a->page[t] * n_kv + ih;
            struct head h = head_of(a, t, k + ih * head_dim, a->k_norm);
            put_k(a, &h, a->kv.k + at * a->kv.k_page_bytes, slot, type);
            put_v(v + ih * v_dim, v_dim, a->kv.v + at * a->kv.v_page_bytes, slot, type);
        }
    }
}

LK_BOTH_TYPES(rope_kv, lk_rope_kv)

void lk_avx2_rope_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->q_bytes = q_bytes;
    t->k_page_bytes = f32 ? k_page_bytes_f32 : k_page_bytes_bf16;
    t->v_page_bytes = f32 ? v_page_bytes_f32 : v_page_bytes_bf16;
    t->rope_kv = f32 ? rope_kv_f32 : rope_kv_bf16;
}
