/* Weights of latent attention and its indexer. A rank holds heads; latents, and the indexer that chooses for all heads,
 * are every rank's. */
#include <string.h>

#include "core/base/mem.h"
#include "core/model/quant.h"
#include "core/model/weights_impl.h"

#define TURNED "each head of kv_b is a matrix of its own"

/* Rows of kv_b_proj: each head's nope_dim rows of keys, then its v_dim rows of values. */
struct head_rows {
    const struct lb_wtensor *t;
    int64_t head, per_head, first, n; /* from `head` on; of a head's per_head rows those from `first` on, n of them */
    bool round;                       /* to bf16, for a matrix that is kept in f32 */
};

static void head_rows_get(const struct lb_rows *r, int64_t row, int64_t n, float *out)
{
    const struct head_rows *h = r->ctx;
    size_t row_bytes = lb_quant_bytes(h->t->type, r->n_col);
    for (int64_t i = 0; i < n; i++, row++) {
        int64_t from = (h->head + row / h->n) * h->per_head + h->first + row % h->n;
        if (h->t->type == LB_W_PACKED)
            lb_pack_read(h->t->pack, from, 1, 0, r->n_col, out + i * r->n_col);
        else
            lb_quant_read(h->t->type, h->t->data + (size_t)from * row_bytes, r->n_col, out + i * r->n_col);
    }
    lb_dtype_round(h->round ? LB_BF16 : LB_F32, out, n * r->n_col);
}

static const void *transposed_at(const struct lb_rows *r, int64_t row)
{
    return (const float *)r->ctx + row * r->n_col;
}

static void transposed_get(const struct lb_rows *r, int64_t row, int64_t n, float *out)
{
    memcpy(out, transposed_at(r, row), (size_t)(n * r->n_col) * sizeof *out);
}

static enum lb_status lay_out_w_uk(struct lb_loader *ld, const struct lb_wtensor *t, struct lb_matrix **out,
                                   struct lb_err *err)
{
    const struct lb_mla *m = &ld->s->config->mla;
    int64_t n_head = ld->s->cols->slice.n_head;
    struct lb_rows rows = {.n_row = n_head * m->kv_rank, .n_col = m->nope_dim};
    struct lb_matrix_spec spec = {.rows = &rows, .cols = &ld->s->cols->nope, .name = t->name, .f32 = true};
    return ld->s->backend->ops->heads_new(ld->s->backend, &spec, n_head, out, err);
}

/* W_uk: queries are multiplied with the keys' rows from the other side, so each head's are turned over. Rounded as any
 * weight, but multiplied in f32, as the query is not rounded yet. */
static enum lb_status load_w_uk(struct lb_loader *ld, const struct lb_wtensor *t, struct lb_matrix **out,
                                struct lb_err *err)
{
    const struct lb_mla *m = &ld->s->config->mla;
    const struct lb_slice *s = &ld->s->cols->slice;
    if (ld->s->mem && !ld->s->mem->reads)
        return lay_out_w_uk(ld, t, out, err);
    struct head_rows keys = {t, s->head_begin, m->nope_dim + m->v_dim,
                             0, m->nope_dim,   ld->s->backend->dtype == LB_BF16};
    struct lb_rows rows = {.get = head_rows_get, .ctx = &keys, .n_col = m->kv_rank};
    size_t head = (size_t)m->nope_dim * (size_t)m->kv_rank;
    float *all = lb_mem_new((size_t)s->n_head * head, sizeof *all), *one = lb_mem_new(head, sizeof *one);
    enum lb_status status = LB_OK;
    if (!all || !one)
        status = lb_err_memory(err, t->name, (unsigned long long)s->n_head * head * sizeof *all);
    for (int64_t ih = 0; ih < s->n_head && status == LB_OK; ih++) {
        float *to = all + (size_t)ih * head;
        head_rows_get(&rows, ih * m->nope_dim, m->nope_dim, one);
        for (int64_t i = 0; i < m->nope_dim; i++)
            for (int64_t k = 0; k < m->kv_rank; k++)
                to[k * m->nope_dim + i] = one[i * m->kv_rank + k];
    }
    if (status == LB_OK) {
        struct lb_rows turned = {.get = transposed_get,
                                 .ctx = all,
                                 .n_row = s->n_head * m->kv_rank,
                                 .n_col = m->nope_dim,
                                 .at = transposed_at,
                                 .data_type = LB_F32};
        struct lb_matrix_spec spec = {.rows = &turned, .cols = &ld->s->cols->nope, .name = t->name, .f32 = true};
        status = ld->s->backend->ops->heads_new(ld->s->backend, &spec, s->n_head, out, err);
    }
    lb_mem_free(all);
    lb_mem_free(one);
    return status;
}

/* KV_B as GGUF has it, in two tensors, the keys' turned over already. */
static enum lb_status load_kv_parts(struct lb_loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_mla *m = &c->mla;
    const struct lb_slice *s = &ld->s->cols->slice;
    const int64_t want[2][3] = {{c->n_head, m->kv_rank, m->nope_dim}, {c->n_head, m->v_dim, m->kv_rank}};
    const struct lk_cols *cols[2] = {&ld->s->cols->nope, &ld->s->cols->kv_rank};
    struct lb_matrix **out[2] = {&l->w_uk, &l->w_uv};
    for (int i = 0; i < 2; i++) {
        const struct lb_wtensor *t = lb_load_need(ld, i ? LB_R_V_B : LB_R_K_B, il, "", err);
        if (!t)
            return err->status;
        LB_TRY(lb_load_check_shape(ld, t, want[i], 3, err));
        int64_t n = want[i][1];
        lb_load_count(ld, t->type, TURNED);
        struct head_rows all = {t, s->head_begin, n, 0, n, i == 0 && ld->s->backend->dtype == LB_BF16};
        struct lb_rows rows = {.get = head_rows_get, .ctx = &all, .n_row = s->n_head * n, .n_col = want[i][2]};
        struct lb_matrix_spec spec = {.rows = &rows, .cols = cols[i], .name = t->name, .f32 = i == 0};
        LB_TRY(ld->s->backend->ops->heads_new(ld->s->backend, &spec, s->n_head, out[i], err));
    }
    return LB_OK;
}

static enum lb_status load_kv_b(struct lb_loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_mla *m = &c->mla;
    const struct lb_slice *s = &ld->s->cols->slice;
    int64_t per_head = m->nope_dim + m->v_dim, n_weight = c->n_head * per_head * m->kv_rank;
    ld->w->n_param += n_weight;
    ld->w->n_layer_product += n_weight;
    if (lb_load_has(ld, LB_R_K_B, il))
        return load_kv_parts(ld, il, l, err);
    const struct lb_wtensor *t = lb_load_need(ld, LB_R_KV_B, il, ".weight", err);
    if (!t)
        return err->status;
    LB_TRY(lb_load_check(ld, t, c->n_head * per_head, m->kv_rank, err));
    lb_load_count(ld, t->type, TURNED);
    LB_TRY(load_w_uk(ld, t, &l->w_uk, err));
    struct head_rows values = {t, s->head_begin, per_head, m->nope_dim, m->v_dim, false};
    struct lb_rows rows = {.get = head_rows_get, .ctx = &values, .n_row = s->n_head * m->v_dim, .n_col = m->kv_rank};
    const struct lb_matrix_spec spec = {.rows = &rows, .cols = &ld->s->cols->kv_rank, .name = t->name};
    return ld->s->backend->ops->heads_new(ld->s->backend, &spec, s->n_head, &l->w_uv, err);
}

static enum lb_status load_index(struct lb_loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_index *x = &c->index;
    const struct lb_source q = lb_source_of(il, LB_R_INDEX_Q, x->n_head * x->head_dim, c->mla.q_rank);
    const struct lb_source norm = lb_source_of(il, LB_R_INDEX_K_NORM, x->head_dim, 0);
    const struct lb_source kw = {
        il, 2, c->dim, 0, {{LB_R_INDEX_K, lb_span_all(x->head_dim)}, {LB_R_INDEX_W, lb_span_all(x->n_head)}}};
    LB_TRY(lb_load_matrix(ld, &q, &ld->s->cols->q_rank, &l->w_index_q, err));
    LB_TRY(lb_load_matrix(ld, &kw, &ld->s->cols->dim, &l->w_index_k, err));
    LB_TRY(lb_load_vector(ld, &norm, ".weight", &l->index_norm, err));
    return lb_load_vector(ld, &norm, ".bias", &l->index_norm_bias, err);
}

struct lb_source lb_source_q_b(const struct lb_loader *ld, int il)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_mla *m = &c->mla;
    int64_t q_dim = m->nope_dim + m->rope_dim;
    struct lb_source q_b = m->q_rank > 0 ? lb_source_of(il, LB_R_Q_B, c->n_head * q_dim, m->q_rank)
                                         : lb_source_of(il, LB_R_Q, c->n_head * q_dim, c->dim);
    q_b.part[0].span.row = ld->s->cols->slice.head_begin * q_dim;
    q_b.part[0].span.n_take = ld->s->cols->slice.n_head * q_dim;
    return q_b;
}

enum lb_status lb_load_latent(struct lb_loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_mla *m = &c->mla;
    const struct lk_cols *from = &ld->s->cols->dim;
    const struct lb_source q_a = lb_source_of(il, LB_R_Q_A, m->q_rank, c->dim);
    const struct lb_source kv_a = lb_source_of(il, LB_R_KV_A, m->kv_rank + m->rope_dim, c->dim);
    const struct lb_source q_b = lb_source_q_b(ld, il);
    if (m->q_rank > 0) {
        LB_TRY(lb_load_matrix(ld, &q_a, from, &l->wq_a, err));
        LB_TRY(lb_load_bias(ld, &q_a, c->attn_bias, &l->bq_a, err));
        LB_TRY(lb_load_norm(ld, il, LB_R_Q_A_NORM, m->q_rank, &l->q_a_norm, err));
        from = &ld->s->cols->q_rank;
    }
    LB_TRY(lb_load_matrix(ld, &q_b, from, &l->wq_b, err));
    LB_TRY(lb_load_matrix(ld, &kv_a, &ld->s->cols->dim, &l->wkv_a, err));
    LB_TRY(lb_load_bias(ld, &kv_a, c->attn_bias, &l->bkv_a, err));
    LB_TRY(lb_load_norm(ld, il, LB_R_KV_A_NORM, m->kv_rank, &l->kv_a_norm, err));
    LB_TRY(load_kv_b(ld, il, l, err));
    return c->index.topk > 0 && !c->layer[il].index_shared ? load_index(ld, il, l, err) : LB_OK;
}
