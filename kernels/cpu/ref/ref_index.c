/* The indexer of sparse attention. Its numbers are laid out the same in every set: a set has from here what it does not
 * make faster. */
#include <math.h>

#include "kernels/cpu/lk_gather.h"
#include "kernels/cpu/lk_index.h"
#include "kernels/cpu/ref/lk_ref.h"

#define PAGE LK_PAGE_TOKENS

/* x[dim] with its first n_rot dimensions turned; pairs (2i, 2i + 1) or (i, i + n_rot / 2) as in struct lk_rope_kv. */
static void turn(const struct lk_index_key *a, int64_t t, float *x)
{
    int64_t half = a->n_rot / 2, step = a->interleaved ? 1 : half;
    for (int64_t j = 0; j < half; j++) {
        int64_t i = a->interleaved ? 2 * j : j;
        float c = a->cos[t * half + j], s = a->sin[t * half + j], u = x[i], v = x[i + step];
        x[i] = u * c - v * s;
        x[i + step] = v * c + u * s;
    }
}

/* The normalized key is made in the plane itself, a number at a time; those that turn are met in pairs. */
static inline void put_key(const struct lk_index_key *a, int64_t t, enum lk_type type)
{
    int64_t n = a->plane.dim, half = a->n_rot / 2, step = a->interleaved ? 1 : half;
    const float *k = a->k + t * a->k_ld;
    void *page = a->plane.key + a->page[t] * a->plane.page_bytes;
    int64_t slot = a->pos[t] % PAGE;
    float sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++)
        sum += k[i];
    float mean = sum / (float)n;
    for (int64_t i = 0; i < n; i++)
        squares += (k[i] - mean) * (k[i] - mean);
    float inv = 1.0f / sqrtf(squares / (float)n + a->eps);
    for (int64_t j = 0; j < half; j++) {
        int64_t i = a->interleaved ? 2 * j : j;
        float c = a->cos[t * half + j], s = a->sin[t * half + j];
        float u = (k[i] - mean) * inv * a->norm[i] + a->norm_bias[i];
        float v = (k[i + step] - mean) * inv * a->norm[i + step] + a->norm_bias[i + step];
        lk_ref_put(page, i * PAGE + slot, u * c - v * s, type);
        lk_ref_put(page, (i + step) * PAGE + slot, v * c + u * s, type);
    }
    for (int64_t i = 2 * half; i < n; i++)
        lk_ref_put(page, i * PAGE + slot, (k[i] - mean) * inv * a->norm[i] + a->norm_bias[i], type);
}

static inline void index_key(const struct lk_index_key *a, int64_t begin, int64_t end, enum lk_type type)
{
    int64_t n = a->plane.dim;
    for (int64_t t = begin; t < end; t++) {
        put_key(a, t, type);
        for (int64_t ih = 0; ih < a->n_head; ih++) {
            float *q = a->q + (t * a->n_head + ih) * n;
            turn(a, t, q);
            for (int64_t i = 0; i < n; i++)
                q[i] = lk_ref_rounded(q[i], type);
        }
    }
}

static void index_key_f32(const struct lk_index_key *a, int64_t begin, int64_t end)
{
    index_key(a, begin, end, LK_F32);
}

static void index_key_bf16(const struct lk_index_key *a, int64_t begin, int64_t end)
{
    index_key(a, begin, end, LK_BF16);
}

static inline void score_page(const struct lk_index_select *a, const float *q, const float *w, const void *page,
                              float out[PAGE], enum lk_type type)
{
    int64_t n = a->plane.dim;
    for (int j = 0; j < PAGE; j++)
        out[j] = 0;
    for (int64_t ih = 0; ih < a->n_head; ih++, q += n) {
        float s[PAGE] = {0};
        for (int64_t i = 0; i < n; i++)
            for (int j = 0; j < PAGE; j++)
                s[j] += q[i] * lk_ref_get(page, i * PAGE + j, type);
        for (int j = 0; j < PAGE; j++) {
            float x = s[j] * a->scale;
            out[j] += w[ih] * (x < 0 ? 0 : x);
        }
    }
}

static void index_select_f32(const struct lk_index_select *a, int64_t begin, int64_t end)
{
    lk_index_choose(a, begin, end, LK_F32, score_page);
}

static void index_select_bf16(const struct lk_index_select *a, int64_t begin, int64_t end)
{
    lk_index_choose(a, begin, end, LK_BF16, score_page);
}

void lk_ref_index_init(struct lk_cpu *t, enum lk_type type)
{
    bool f32 = type == LK_F32;
    t->index_key = f32 ? index_key_f32 : index_key_bf16;
    t->index_select = f32 ? index_select_f32 : index_select_bf16;
    t->gather = f32 ? lk_gather_f32 : lk_gather_bf16;
}
