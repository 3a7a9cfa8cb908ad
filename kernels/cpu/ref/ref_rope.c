/* Rotary angles; rotation, rounding and the write into the cache. */
#include <math.h>

#include "kernels/cpu/ref/lk_ref.h"

/* The base that dynamic NTK scaling gives a sequence of `len` tokens, in float32 as transformers has it. */
static float ntk_base(const struct lk_rope_table *a, int32_t len)
{
    float s = (float)(len > a->max_pos ? (int64_t)len : a->max_pos);
    float ratio = (float)a->factor * s / (float)a->max_pos - (float)(a->factor - 1.0);
    double power = (double)a->n_rot / (double)(a->n_rot - 2);
    return (float)a->base * (float)pow((double)ratio, (double)(float)power);
}

static void rope_table(const struct lk_rope_table *a, int64_t begin, int64_t end)
{
    int64_t n = a->n_rot / 2;
    for (int64_t t = begin; t < end; t++) {
        float base = a->len && a->n_rot > 2 ? ntk_base(a, a->len[t]) : 0;
        for (int64_t i = 0; i < n; i++) {
            float freq = a->inv_freq[i];
            if (base != 0) {
                float e = (float)(2 * i) / (float)a->n_rot;
                freq = 1.0f / (float)pow((double)base, (double)e);
            }
            float angle = freq * (float)a->pos[t];
            a->cos[t * n + i] = cosf(angle) * a->scale;
            a->sin[t * n + i] = sinf(angle) * a->scale;
        }
    }
}

static size_t q_bytes_f32(int64_t n_tok, int64_t n_head, int64_t head_dim)
{
    return (size_t)(n_tok * n_head * head_dim) * sizeof(float);
}

static size_t q_bytes_bf16(int64_t n_tok, int64_t n_head, int64_t head_dim)
{
    return (size_t)(n_tok * n_head * head_dim) * sizeof(uint16_t);
}

static size_t page_bytes_f32(int64_t head_dim)
{
    return (size_t)(LK_PAGE_TOKENS * head_dim) * sizeof(float);
}

static size_t page_bytes_bf16(int64_t head_dim)
{
    return (size_t)(LK_PAGE_TOKENS * head_dim) * sizeof(uint16_t);
}

/* One head of a token: where dimension i comes from and what it is multiplied with. */
struct head {
    const float *x;    /* [head_dim] */
    const float *norm; /* [head_dim] or NULL */
    float inv;         /* 1 / rms, 1 without norm */
    const float *cos, *sin;
};

static struct head head_of(const struct lk_rope_kv *a, int64_t t, const float *x, const float *norm)
{
    int64_t head_dim = a->kv.head_dim;
    struct head h = {x, norm, 1, a->cos + t * (a->n_rot / 2), a->sin + t * (a->n_rot / 2)};
    if (norm) {
        float sum = 0;
        for (int64_t i = 0; i < head_dim; i++)
            sum += x[i] * x[i];
        h.inv = 1.0f / sqrtf(sum / (float)head_dim + a->eps);
    }
    return h;
}

static inline float normed(const struct head *h, int64_t i)
{
    return h->norm ? h->x[i] * h->inv * h->norm[i] : h->x[i];
}

/* Dimension i behind norm and rotation. */
static inline float rotated(const struct lk_rope_kv *a, const struct head *h, int64_t i)
{
    int64_t half = a->n_rot / 2;
    if (i >= 2 * half)
        return normed(h, i);
    if (a->interleaved) {
        int64_t j = i / 2;
        float x = normed(h, 2 * j), y = normed(h, 2 * j + 1);
        return i % 2 == 0 ? x * h->cos[j] - y * h->sin[j] : y * h->cos[j] + x * h->sin[j];
    }
    int64_t j = i % half;
    float x = normed(h, j), y = normed(h, j + half);
    return i < half ? x * h->cos[j] - y * h->sin[j] : y * h->cos[j] + x * h->sin[j];
}

static inline void rope_kv(const struct lk_rope_kv *a, int64_t begin, int64_t end, enum lk_type type)
{
    int64_t head_dim = a->kv.head_dim, v_dim = a->kv.v_dim, n_kv = a->kv.n_kv_head;
    for (int64_t t = begin; t < end; t++) {
        const float *q = a->qkv + t * ((a->n_head + n_kv) * head_dim + n_kv * v_dim);
        const float *k = q + a->n_head * head_dim, *v = k + n_kv * head_dim;
        int64_t slot = a->pos[t] % LK_PAGE_TOKENS;
        for (int64_t ih = 0; ih < a->n_head; ih++) {
            struct head h = head_of(a, t, q + ih * head_dim, a->q_norm);
            for (int64_t i = 0; i < head_dim; i++)
                lk_ref_put(a->q, (t * a->n_head + ih) * head_dim + i, rotated(a, &h, i), type);
        }
        for (int64_t ih = 0; ih < n_kv; ih++) {
            struct head h = head_of(a, t, k + ih * head_dim, a->k_norm);
            uint8_t *k_page = a->kv.k + (a->page[t] * n_kv + ih) * a->kv.k_page_bytes;
            uint8_t *v_page = a->kv.v + (a->page[t] * n_kv + ih) * a->kv.v_page_bytes;
            for (int64_t i = 0; i < head_dim; i++)
                lk_ref_put(k_page, i * LK_PAGE_TOKENS + slot, rotated(a, &h, i), type);
            for (int64_t i = 0; i < v_dim; i++)
                lk_ref_put(v_page, slot * v_dim + i, v[ih * v_dim + i], type);
        }
    }
}

static void rope_kv_f32(const struct lk_rope_kv *a, int64_t begin, int64_t end)
{
    rope_kv(a, begin, end, LK_F32);
}

static void rope_kv_bf16(const struct lk_rope_kv *a, int64_t begin, int64_t end)
{
    rope_kv(a, begin, end, LK_BF16);
}

static void latent(const struct lk_latent *a, int64_t begin, int64_t end)
{
    int64_t n_q = a->nope_dim + a->n_rot, width = a->n_rot + a->kv_rank;
    for (int64_t t = begin; t < end; t++) {
        const float *q = a->q + t * a->n_head * n_q + a->nope_dim, *kv = a->kv + t * width;
        float *to = a->qkv + t * ((a->n_head + 1) * width + a->kv_rank), sum = 0;
        for (int64_t ih = 0; ih < a->n_head; ih++, to += width, q += n_q)
            memcpy(to, q, (size_t)a->n_rot * sizeof *to);
        memcpy(to, kv + a->kv_rank, (size_t)a->n_rot * sizeof *to);
        for (int64_t i = 0; i < a->kv_rank; i++)
            sum += kv[i] * kv[i];
        float inv = 1.0f / sqrtf(sum / (float)a->kv_rank + a->eps);
        for (int64_t i = 0; i < a->kv_rank; i++)
            to[a->n_rot + i] = to[width + i] = kv[i] * inv * a->w[i];
    }
}

void lk_ref_rope_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->q_bytes = f32 ? q_bytes_f32 : q_bytes_bf16;
    t->k_page_bytes = t->v_page_bytes = f32 ? page_bytes_f32 : page_bytes_bf16;
    t->rope_table = rope_table;
    t->latent = latent;
    t->rope_kv = f32 ? rope_kv_f32 : rope_kv_bf16;
}
