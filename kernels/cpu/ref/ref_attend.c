/* Causal attention over the paged cache: one online softmax a split of 512 positions (Dao et al. 2022). */
#include <math.h>

#include "kernels/cpu/ref/lk_ref.h"

#define DIMS 512 /* dimensions of V that one pass sums */
#define PAGE LK_PAGE_TOKENS

/* One query head of one token. */
struct query {
    const struct lk_attend *a;
    int64_t tok, head, kv_head;
    const int32_t *page; /* the sequence's pages */
    int64_t q_at;        /* of its first element */
    int64_t first, last; /* positions that it sees */
};

/* A running softmax and its product with dimensions dim .. dim + n - 1 of V. */
struct soft {
    float max, sum;
    int64_t dim, n;
    float out[DIMS];
};

/* Scores of the positions of page `ip`; -inf where the token does not see. */
static inline void scores(const struct query *q, int64_t ip, float s[PAGE], enum lk_type type)
{
    const struct lk_kv *kv = &q->a->kv;
    const void *page = kv->k + (q->page[ip] * kv->n_kv_head + q->kv_head) * kv->k_page_bytes;
    for (int j = 0; j < PAGE; j++)
        s[j] = 0;
    for (int64_t d = 0; d < kv->head_dim; d++) {
        float x = lk_ref_get(q->a->q, q->q_at + d, type);
        for (int j = 0; j < PAGE; j++)
            s[j] += x * lk_ref_get(page, d * PAGE + j, type);
    }
    for (int j = 0; j < PAGE; j++)
        s[j] = ip * PAGE + j >= q->first && ip * PAGE + j <= q->last ? s[j] * q->a->scale : -INFINITY;
}

/* Takes page `ip` into the softmax. */
static inline void take_page(const struct query *q, int64_t ip, struct soft *o, enum lk_type type)
{
    const struct lk_kv *kv = &q->a->kv;
    const void *page = kv->v + (q->page[ip] * kv->n_kv_head + q->kv_head) * kv->v_page_bytes;
    float s[PAGE], max = o->max;
    scores(q, ip, s, type);
    for (int j = 0; j < PAGE; j++)
        max = s[j] > max ? s[j] : max;
    float shrink = max > o->max ? expf(o->max - max) : 1;
    o->max = max;
    o->sum *= shrink;
    for (int64_t d = 0; d < o->n; d++)
        o->out[d] *= shrink;
    int64_t end = lk_min(PAGE, q->last + 1 - ip * PAGE);
    for (int64_t j = q->first > ip * PAGE ? q->first - ip * PAGE : 0; j < end; j++) {
        float p = lk_ref_rounded(expf(s[j] - max), type);
        o->sum += p;
        for (int64_t d = 0; d < o->n; d++)
            o->out[d] += p * lk_ref_get(page, j * kv->v_dim + o->dim + d, type);
    }
}

/* all = all merged with one split. */
static void merge(struct soft *all, const struct soft *o)
{
    float max = all->max > o->max ? all->max : o->max;
    float a = expf(all->max - max), b = expf(o->max - max);
    all->max = max;
    all->sum = all->sum * a + o->sum * b;
    for (int64_t d = 0; d < o->n; d++)
        all->out[d] = all->out[d] * a + o->out[d] * b;
}

static inline void attend_query(const struct query *q, struct soft *all, enum lk_type type)
{
    for (int64_t split = q->first / LK_SPLIT_TOKENS; split * LK_SPLIT_TOKENS <= q->last; split++) {
        struct soft o = {.max = -INFINITY, .dim = all->dim, .n = all->n};
        int64_t begin = split * LK_SPLIT_TOKENS, end = lk_min(begin + LK_SPLIT_TOKENS, q->last + 1);
        for (int64_t ip = (q->first > begin ? q->first : begin) / PAGE; ip * PAGE < end; ip++)
            take_page(q, ip, &o, type);
        if (begin <= q->first)
            *all = o;
        else
            merge(all, &o);
    }
}

static inline void write_probs(const struct query *q, const struct soft *all, enum lk_type type)
{
    float *to = q->a->probs + (q->tok * q->a->n_head + q->head) * q->a->probs_ld;
    for (int64_t j = 0; j < q->a->probs_ld; j++)
        to[j] = 0;
    for (int64_t ip = q->first / PAGE; ip * PAGE <= q->last; ip++) {
        float s[PAGE];
        scores(q, ip, s, type);
        for (int64_t j = 0; j < PAGE && ip * PAGE + j < lk_min(q->last + 1, q->a->probs_ld); j++)
            to[ip * PAGE + j] = expf(s[j] - all->max) / all->sum;
    }
}

static inline void attend_head(const struct query *q, enum lk_type type)
{
    int64_t v_dim = q->a->kv.v_dim, col;
    struct lk_act out = lk_head_out(q->a, q->head, &col);
    struct soft all;
    for (int64_t dim = 0; dim < v_dim; dim += DIMS) {
        all.dim = dim;
        all.n = lk_min(DIMS, v_dim - dim);
        attend_query(q, &all, type);
        for (int64_t d = 0; d < all.n; d++)
            all.out[d] /= all.sum;
        lk_ref_put_cols(&out, q->tok, col + dim, all.out, all.n, type);
    }
    if (q->a->probs)
        write_probs(q, &all, type);
}

static inline void attend(const struct lk_attend *a, int64_t begin, int64_t end, enum lk_type type)
{
    int64_t group = a->n_head / a->kv.n_kv_head;
    for (int64_t i = begin; i < end; i++) {
        const struct lk_attn_item *item = &a->item[i];
        for (int64_t tok = item->tok; tok < item->tok + item->n_tok; tok++)
            for (int64_t ih = item->head; ih < item->head + item->n_head; ih++) {
                struct query q = {.a = a,
                                  .tok = tok,
                                  .head = ih,
                                  .kv_head = ih / group,
                                  .page =
                                      a->page + a->page_start[item->seq + (item->n_shared > 0 ? tok - item->tok : 0)],
                                  .q_at = (tok * a->n_head + ih) * a->kv.head_dim,
                                  .first = lk_window_begin(a->window, a->pos[tok]),
                                  .last = a->pos[tok]};
                attend_head(&q, type);
            }
    }
}

static int64_t attn_rows(int64_t v_dim)
{
    (void)v_dim;
    return 12;
}

static void attend_f32(const struct lk_attend *a, int64_t begin, int64_t end)
{
    attend(a, begin, end, LK_F32);
}

static void attend_bf16(const struct lk_attend *a, int64_t begin, int64_t end)
{
    attend(a, begin, end, LK_BF16);
}

void lk_ref_attend_init(struct lk_cpu *t, enum lk_type type)
{
    t->attn_rows = attn_rows;
    t->attend = type == LK_F32 ? attend_f32 : attend_bf16;
}
