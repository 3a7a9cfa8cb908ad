/* Rotation, rounding and the write into the cache. */
#include <math.h>

#include "kernels/cpu/avx512/lk_avx512.h"

#define PAGE LK_PAGE_TOKENS

#define SIZES(type_name, type)                                                           \
    static size_t q_bytes_##type_name(int64_t n_tok, int64_t n_head, int64_t head_dim)   \
    {                                                                                    \
        return (size_t)(n_tok * n_head * n_words(head_dim, type)) * sizeof(uint32_t);    \
    }                                                                                    \
    static size_t k_page_bytes_##type_name(int64_t head_dim)                             \
    {                                                                                    \
        return (size_t)(n_words(head_dim, type) * PAGE) * sizeof(uint32_t);              \
    }                                                                                    \
    static size_t v_page_bytes_##type_name(int64_t v_dim)                                \
    {                                                                                    \
        return (size_t)(PAGE / lk_per_word(type) * LK_V_DIMS(v_dim)) * sizeof(uint32_t); \
    }

LK_INLINE int64_t n_words(int64_t head_dim, const enum lk_type type)
{
    return lk_ceil_div(head_dim, lk_per_word(type));
}
SIZES(f32, LK_F32)
SIZES(bf16, LK_BF16)

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
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < n; i += 16) {
            __m512 v = _mm512_maskz_loadu_ps(lk_mask16(n - i), x + i);
            sum = _mm512_fmadd_ps(v, v, sum);
        }
        h.inv = 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)n + a->eps);
    }
    return h;
}

LK_INLINE float normed(const struct head *h, int64_t i)
{
    return h->norm ? h->x[i] * h->inv * h->norm[i] : h->x[i];
}

LK_INLINE __m512 normed16(const struct head *h, int64_t i, __mmask16 m)
{
    __m512 x = _mm512_maskz_loadu_ps(m, h->x + i);
    if (h->norm)
        x = _mm512_mul_ps(_mm512_mul_ps(x, _mm512_set1_ps(h->inv)), _mm512_maskz_loadu_ps(m, h->norm + i));
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

/* Dimensions i .. i + 15 behind norm and rotation; zeros beyond the head. */
LK_INLINE __m512 rotated16(const struct lk_rope_kv *a, const struct head *h, int64_t i)
{
    int64_t half = a->n_rot / 2, n = lk_min(16, a->kv.head_dim - i);
    if (n <= 0)
        return _mm512_setzero_ps();
    __mmask16 m = lk_mask16(n);
    if (i >= 2 * half)
        return normed16(h, i, m);
    bool low = i + n <= half, high = i >= half && i + n <= 2 * half;
    if (!a->interleaved && (low || high)) {
        int64_t j = low ? i : i - half;
        __m512 c = _mm512_maskz_loadu_ps(m, h->cos + j), s = _mm512_maskz_loadu_ps(m, h->sin + j);
        __m512 x = normed16(h, j, m), y = normed16(h, j + half, m);
        return low ? _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)) : _mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s));
    }
    float out[16] = {0};
    for (int64_t d = 0; d < n; d++)
        out[d] = rotated(a, h, i + d);
    return _mm512_loadu_ps(out);
}

/* 16 words of the head from word w on. */
LK_INLINE __m512i rotated_words(const struct lk_rope_kv *a, const struct head *h, int64_t w, const enum lk_type type)
{
    if (type == LK_F32)
        return (__m512i)rotated16(a, h, w);
    __m512 lo = rotated16(a, h, 2 * w), hi = rotated16(a, h, 2 * w + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(hi, lo);
}

/* Half-split rotation of a whole head in steps of 32, the usual case. */
static bool is_plain(const struct lk_rope_kv *a)
{
    return !a->interleaved && a->n_rot == a->kv.head_dim && a->n_rot % 64 == 0;
}

/* Plain case: 16 words from word w on and those half a head behind them. */
LK_INLINE void rotate_plain(const struct lk_rope_kv *a, const struct head *h, int64_t w, __m512i words[2],
                            const enum lk_type type)
{
    const int per = lk_per_word(type);
    int64_t half = a->n_rot / 2;
    __m512 first[2], second[2];
#pragma GCC unroll 2
    for (int j = 0; j < per; j++) {
        int64_t at = per * w + 16 * j;
        __m512 c = _mm512_loadu_ps(h->cos + at), s = _mm512_loadu_ps(h->sin + at);
        __m512 x = normed16(h, at, 0xffff), y = normed16(h, at + half, 0xffff);
        first[j] = _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s));
        second[j] = _mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s));
    }
    if (type == LK_F32) {
        words[0] = (__m512i)first[0];
        words[1] = (__m512i)second[0];
    } else {
        words[0] = (__m512i)_mm512_cvtne2ps_pbh(first[1], first[0]);
        words[1] = (__m512i)_mm512_cvtne2ps_pbh(second[1], second[0]);
    }
}

LK_INLINE void put_q(const struct lk_rope_kv *a, int64_t n_word, int64_t t, const float *x, const enum lk_type type)
{
    int64_t n_kv = a->kv.n_kv_head, group = a->n_head / n_kv, half = n_words(a->kv.head_dim, type) / 2;
    bool plain = is_plain(a);
    for (int64_t kv = 0; kv < n_kv; kv++) {
        uint32_t *to = (uint32_t *)a->q + (kv * a->n_tok + t) * group * n_word;
        for (int64_t ih = kv * group; ih < (kv + 1) * group; ih++, to += n_word) {
            struct head h = head_of(a, t, x + ih * a->kv.head_dim, a->q_norm);
            if (!plain) {
                for (int64_t w = 0; w < n_word; w += 16)
                    _mm512_mask_storeu_epi32(to + w, lk_mask16(n_word - w), rotated_words(a, &h, w, type));
                continue;
            }
            for (int64_t w = 0; w < half; w += 16) {
                __m512i words[2];
                rotate_plain(a, &h, w, words, type);
                _mm512_storeu_si512(to + w, words[0]);
                _mm512_storeu_si512(to + w + half, words[1]);
            }
        }
    }
}

/* to[i * PAGE] = word i, i < n <= 16 */
LK_INLINE void put_k_words(uint32_t *to, __m512i words, int64_t n)
{
    _Alignas(64) uint32_t word[16];
    _mm512_store_si512(word, words);
    for (int64_t i = 0; i < n; i++)
        to[i * PAGE] = word[i];
}

LK_INLINE void put_k(const struct lk_rope_kv *a, const struct head *h, uint32_t *page, const enum lk_type type)
{
    int64_t n_word = n_words(a->kv.head_dim, type);
    if (!is_plain(a)) {
        for (int64_t w = 0; w < n_word; w += 16)
            put_k_words(page + w * PAGE, rotated_words(a, h, w, type), lk_min(16, n_word - w));
        return;
    }
    for (int64_t w = 0; w < n_word / 2; w += 16) {
        __m512i words[2];
        rotate_plain(a, h, w, words, type);
        put_k_words(page + w * PAGE, words[0], 16);
        put_k_words(page + (w + n_word / 2) * PAGE, words[1], 16);
    }
}

/* Position slot's row of a page in f32. */
static void put_v_f32(const float *v, int64_t v_dim, uint32_t *page, int64_t slot)
{
    uint32_t *to = page + slot * LK_V_DIMS(v_dim);
    for (int64_t d = 0; d < v_dim; d += 16)
        _mm512_storeu_si512(to + d, (__m512i)_mm512_maskz_loadu_ps(lk_mask16(v_dim - d), v + d));
}

/* Position slot's halves of the words of a pair of positions: stores must not touch the other half, which may be
 * another thread's token. */
static void put_v_bf16(const float *v, int64_t v_dim, uint32_t *page, int64_t slot)
{
    uint32_t *to = page + slot / 2 * LK_V_DIMS(v_dim);
    __mmask32 halves = slot % 2 ? 0xaaaaaaaau : 0x55555555u;
    for (int64_t d = 0; d < v_dim; d += 16) {
        __m512 x = _mm512_maskz_loadu_ps(lk_mask16(v_dim - d), v + d);
        __m512i word = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
        _mm512_mask_storeu_epi16(to + d, halves, slot % 2 ? _mm512_slli_epi32(word, 16) : word);
    }
}

/* A token's lines of the cache, one for each word of K: nobody has read them for a step, and its stores would wait for
 * one after the other. Tokens of one sequence share lines of 16. */
LK_INLINE void fetch_places(const struct lk_rope_kv *a, int64_t n_word, int64_t t, const enum lk_type type)
{
    const int64_t slot = a->pos[t] % PAGE, v_dims = LK_V_DIMS(a->kv.v_dim);
    for (int64_t ih = 0; ih < a->kv.n_kv_head; ih++) {
        const int64_t at = a->page[t] * a->kv.n_kv_head + ih;
        const uint32_t *k = (const uint32_t *)(const void *)(a->kv.k + at * a->kv.k_page_bytes) + slot;
        const uint32_t *v = (const uint32_t *)(const void *)(a->kv.v + at * a->kv.v_page_bytes);
        v += slot / lk_per_word(type) * v_dims;
        for (int64_t w = 0; w < n_word; w++)
            _mm_prefetch(k + w * PAGE, _MM_HINT_T0);
        for (int64_t d = 0; d < v_dims; d += 16)
            _mm_prefetch(v + d, _MM_HINT_T0);
    }
}

LK_INLINE void rope_words(const struct lk_rope_kv *a, int64_t n_word, int64_t begin, int64_t end,
                          const enum lk_type type)
{
    int64_t head_dim = a->kv.head_dim, v_dim = a->kv.v_dim, n_kv = a->kv.n_kv_head;
    for (int64_t t = begin; t < end; t++) {
        const float *q = a->qkv + t * ((a->n_head + n_kv) * head_dim + n_kv * v_dim);
        const float *k = q + a->n_head * head_dim, *v = k + n_kv * head_dim;
        int64_t slot = a->pos[t] % PAGE;
        if (t == begin)
            fetch_places(a, n_words(head_dim, type), t, type);
        if (t + 1 < end && (a->page[t + 1] != a->page[t] || slot % 16 == 15))
            fetch_places(a, n_words(head_dim, type), t + 1, type);
        put_q(a, n_word, t, q, type);
        for (int64_t ih = 0; ih < n_kv; ih++) {
            int64_t at = a->page[t] * n_kv + ih;
            struct head h = head_of(a, t, k + ih * head_dim, a->k_norm);
            put_k(a, &h, (uint32_t *)(void *)(a->kv.k + at * a->kv.k_page_bytes) + slot, type);
            uint32_t *to = (uint32_t *)(void *)(a->kv.v + at * a->kv.v_page_bytes);
            (type == LK_F32 ? put_v_f32 : put_v_bf16)(v + ih * v_dim, v_dim, to, slot);
        }
    }
}

void lk_avx512_rope_words(const struct lk_rope_kv *a, int64_t n_word, int64_t begin, int64_t end)
{
    rope_words(a, n_word, begin, end, LK_BF16);
}

static void rope_kv_f32(const struct lk_rope_kv *a, int64_t begin, int64_t end)
{
    rope_words(a, a->kv.head_dim, begin, end, LK_F32);
}

static void rope_kv_bf16(const struct lk_rope_kv *a, int64_t begin, int64_t end)
{
    lk_avx512_rope_words(a, n_words(a->kv.head_dim, LK_BF16), begin, end);
}

void lk_avx512_rope_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->q_bytes = f32 ? q_bytes_f32 : q_bytes_bf16;
    t->k_page_bytes = f32 ? k_page_bytes_f32 : k_page_bytes_bf16;
    t->v_page_bytes = f32 ? v_page_bytes_f32 : v_page_bytes_bf16;
    t->rope_kv = f32 ? rope_kv_f32 : rope_kv_bf16;
}
