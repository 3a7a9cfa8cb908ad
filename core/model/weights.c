#include "core/model/weights.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/model/quant.h"

#define MAX_PART 3 /* tensors in a fused matrix */
#define SUPPORTED "F32, F16, BF16, Q8_0, Q4_0 and Q4_1"

/* Rows of one tensor inside a fused matrix. */
struct part {
    const struct lb_wtensor *t;
    const uint8_t *data; /* the first row, of t's type */
    size_t stride;       /* bytes from row to row: more than a row has where columns are cut */
    int64_t n_row;
    int64_t head_rows; /* rows of a head that GGUF stores in pairs (2i, 2i + 1), 0: as stored */
};

struct fused {
    struct lb_rows rows;
    struct part part[MAX_PART];
    int n_part;
};

struct loader {
    const struct lb_weights_spec *s;
    struct lb_weights *w;
    bool *used; /* [file->n_tensor] */
    bool seen[LB_W_OTHER];
    float *vector; /* scratch for the widest bias or norm */
};

void lb_model_cols_init(struct lb_model_cols *cols, const struct lb_config *c)
{
    int64_t one[2] = {0, c->dim}, begin[LK_MAX_SEG + 1];
    lb_cols_init(&cols->dim, 1, one);
    lb_segments_heads(c, begin);
    for (int is = 0; is <= c->n_seg; is++)
        begin[is] *= c->out_dim;
    lb_cols_init(&cols->heads, c->n_seg, begin);
    lb_segments_units(c->ffn_dim, c->n_seg, begin);
    lb_cols_init(&cols->ffn, c->n_seg, begin);
    lb_segments_units(c->moe.shared_dim, c->n_seg, begin);
    lb_cols_init(&cols->shared, c->n_seg, begin);
    if (c->mla.kv_rank == 0)
        return;
    lb_cols_init(&cols->q_rank, 1, (int64_t[]){0, c->mla.q_rank});
    lb_cols_init(&cols->kv_rank, 1, (int64_t[]){0, c->mla.kv_rank});
    lb_cols_init(&cols->nope, 1, (int64_t[]){0, c->mla.nope_dim});
}

/* Where row `row` of a part lies in its tensor. llama.cpp stores Q and K with rows 2i + b of a head for row
 * b * (head_rows / 2) + i of Hugging Face's order (spec/models.md 2.2.4). */
static int64_t source_row(const struct part *p, int64_t row)
{
    if (p->head_rows == 0)
        return row;
    int64_t half = p->head_rows / 2, at = row % p->head_rows;
    return row - at + 2 * (at % half) + at / half;
}

static void read_part(const struct part *p, int64_t row, int64_t n, int64_t n_col, float *out)
{
    if (p->head_rows == 0 && p->stride == lb_quant_bytes(p->t->type, n_col)) {
        lb_quant_read(p->t->type, p->data + (size_t)row * p->stride, n * n_col, out);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        lb_quant_read(p->t->type, p->data + (size_t)source_row(p, row + i) * p->stride, n_col, out + i * n_col);
}

static void fused_get(const struct lb_rows *r, int64_t row, int64_t n, float *out)
{
    const struct fused *f = r->ctx;
    for (int i = 0; i < f->n_part && n > 0; i++) {
        const struct part *p = &f->part[i];
        if (row < p->n_row) {
            int64_t here = p->n_row - row < n ? p->n_row - row : n;
            read_part(p, row, here, r->n_col, out);
            out += here * r->n_col;
            n -= here;
            row = 0;
        } else {
            row -= p->n_row;
        }
    }
}

static const void *fused_at(const struct lb_rows *r, int64_t row)
{
    const struct fused *f = r->ctx;
    const struct part *p = f->part;
    for (; row >= p->n_row; p++)
        row -= p->n_row;
    return p->data + (size_t)source_row(p, row) * p->stride;
}

/* Rows that are plain numbers of one type need not be turned into f32 first. */
static void lend_rows(struct fused *f)
{
    enum lb_wtype type = f->part[0].t->type;
    bool plain = type == LB_W_F32 || type == LB_W_BF16;
    for (int i = 1; i < f->n_part; i++)
        plain = plain && f->part[i].t->type == type;
    f->rows.at = plain ? fused_at : NULL;
    f->rows.data_type = type == LB_W_F32 ? LB_F32 : LB_BF16;
}

static void put_shape(char *out, size_t n, const int64_t *dim, int n_dim)
{
    int at = snprintf(out, n, "[");
    for (int i = 0; i < n_dim && at > 0 && (size_t)at < n; i++)
        at += snprintf(out + at, n - (size_t)at, "%s%lld", i ? ", " : "", (long long)dim[i]);
    if (at > 0 && (size_t)at < n)
        snprintf(out + at, n - (size_t)at, "]");
}

static const struct lb_wtensor *find_name(struct loader *ld, const char *name)
{
    const struct lb_wtensor *t = lb_wfile_find(ld->s->file, name);
    if (t)
        ld->used[t - ld->s->file->tensor] = true;
    return t;
}

static const struct lb_wtensor *find(struct loader *ld, enum lb_role role, int layer, const char *suffix)
{
    struct lb_tensor_name name = lb_family_tensor(ld->s->config->family, ld->s->config->gguf, role, layer, suffix);
    return find_name(ld, name.text);
}

/* Checks type and shape, outermost dimension first. */
static enum lb_status check_shape(struct loader *ld, const struct lb_wtensor *t, const int64_t *want, int n_dim,
                                  struct lb_err *err)
{
    int64_t n_row = 1, n_col = n_dim == 1 ? 1 : want[n_dim - 1];
    for (int i = 0; i < n_dim - (n_dim > 1); i++)
        n_row *= want[i];
    bool same = t->n_dim == n_dim;
    for (int i = 0; i < n_dim && same; i++)
        same = t->dim[i] == want[i];
    if (!same) {
        char is[96], expected[96];
        put_shape(is, sizeof is, t->dim, t->n_dim);
        put_shape(expected, sizeof expected, want, n_dim);
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has shape %s, the model's configuration asks for %s",
                          t->file, t->name, is, expected);
    }
    size_t row_bytes = lb_quant_bytes(t->type, n_col);
    if (t->type >= LB_W_OTHER || row_bytes == 0)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has type %s, which is not read here: %s are%s", t->file,
                          t->name, t->type_name, SUPPORTED,
                          t->type < LB_W_OTHER ? ", block types in whole blocks of 32" : "");
    if (t->n_bytes / row_bytes < (size_t)n_row)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has %zu bytes, too few for its shape", t->file, t->name,
                          t->n_bytes);
    ld->seen[t->type] = true;
    return LB_OK;
}

/* n_col 0 asks for a vector of n_row. */
static enum lb_status check(struct loader *ld, const struct lb_wtensor *t, int64_t n_row, int64_t n_col,
                            struct lb_err *err)
{
    const int64_t want[2] = {n_row, n_col};
    return check_shape(ld, t, want, n_col == 0 ? 1 : 2, err);
}

static struct part whole(const struct lb_wtensor *t, int64_t n_row, int64_t n_col, int64_t head_rows)
{
    return (struct part){t, t->data, lb_quant_bytes(t->type, n_col), n_row, head_rows};
}

/* A tensor that must be there; NULL, and err set, when it is not. */
static const struct lb_wtensor *need(struct loader *ld, enum lb_role role, int layer, const char *suffix,
                                     struct lb_err *err)
{
    const struct lb_wtensor *t = find(ld, role, layer, suffix);
    if (t)
        return t;
    struct lb_tensor_name name = lb_family_tensor(ld->s->config->family, ld->s->config->gguf, role, layer, suffix);
    lb_err_set(err, LB_E_INPUT, "the model has no tensor '%s'", name.text);
    return NULL;
}

/* What a fused matrix or vector is made of: rows of each role, and how many rows a stored head has where the order is
 * GGUF's. */
struct source {
    int layer, n_part;
    struct {
        enum lb_role role;
        int64_t n_row, head_rows;
    } part[MAX_PART];
};

static enum lb_status fuse(struct loader *ld, struct fused *f, const struct source *src, const char *suffix,
                           int64_t n_col, struct lb_err *err)
{
    *f = (struct fused){.rows = {.get = fused_get, .ctx = f, .n_col = n_col ? n_col : 1}, .n_part = src->n_part};
    for (int i = 0; i < src->n_part; i++) {
        const struct lb_wtensor *t = need(ld, src->part[i].role, src->layer, suffix, err);
        if (!t)
            return err->status;
        LB_TRY(check(ld, t, src->part[i].n_row, n_col, err));
        f->part[i] = whole(t, src->part[i].n_row, f->rows.n_col, src->part[i].head_rows);
        f->rows.n_row += src->part[i].n_row;
    }
    ld->w->n_param += f->rows.n_row * f->rows.n_col;
    return LB_OK;
}

static enum lb_status load_matrix(struct loader *ld, const struct source *src, const struct lk_cols *cols,
                                  struct lb_matrix **out, struct lb_err *err)
{
    struct fused f;
    LB_TRY(fuse(ld, &f, src, ".weight", cols->n_col, err));
    lend_rows(&f);
    ld->w->n_layer_product += f.rows.n_row * f.rows.n_col;
    bool gate_up = src->part[0].role == LB_R_GATE || src->part[0].role == LB_R_GATE_UP;
    struct lb_matrix_spec spec = {&f.rows, cols, gate_up, f.part[0].t->name, false};
    return ld->s->backend->ops->matrix_new(ld->s->backend, &spec, out, err);
}

static enum lb_status load_vector(struct loader *ld, const struct source *src, const char *suffix, const float **out,
                                  struct lb_err *err)
{
    struct fused f;
    struct lb_backend *be = ld->s->backend;
    LB_TRY(fuse(ld, &f, src, suffix, 0, err));
    fused_get(&f.rows, 0, f.rows.n_row, ld->vector);
    if (be->dtype == LB_BF16)
        for (int64_t i = 0; i < f.rows.n_row; i++)
            ld->vector[i] = lb_bf16_widen(lb_bf16_round(ld->vector[i]));
    return be->ops->vector_new(be, ld->vector, f.rows.n_row, out, err);
}

/* NULL where the model has no such bias. */
static enum lb_status load_bias(struct loader *ld, const struct source *src, bool named, const float **out,
                                struct lb_err *err)
{
    *out = NULL;
    if (!named)
        return LB_OK;
    return load_vector(ld, src, ".bias", out, err);
}

static enum lb_status load_norm(struct loader *ld, int il, enum lb_role role, int64_t n, const float **out,
                                struct lb_err *err)
{
    const struct source src = {il, 1, {{role, n, 0}}};
    return load_vector(ld, &src, ".weight", out, err);
}

/* Whether the file has a role's tensors fused: then their parts are not looked for. */
static bool fused_in_file(const struct loader *ld, int il, enum lb_role role)
{
    const struct lb_config *c = ld->s->config;
    struct lb_tensor_name name = lb_family_tensor(c->family, c->gguf, role, il, ".weight");
    bool only = !lb_family_tensor(c->family, c->gguf, role == LB_R_QKV ? LB_R_Q : LB_R_GATE, il, "").text[0];
    return only || (name.text[0] && lb_wfile_find(ld->s->file, name.text));
}

static bool has_role(const struct loader *ld, enum lb_role role, int il)
{
    const struct lb_config *c = ld->s->config;
    struct lb_tensor_name name = lb_family_tensor(c->family, c->gguf, role, il, "");
    return name.text[0] && lb_wfile_find(ld->s->file, name.text);
}

/* Rows of kv_b_proj: each head's nope_dim rows of keys, then its v_dim rows of values. */
struct head_rows {
    const struct lb_wtensor *t;
    int64_t per_head, first, n; /* of a head's per_head rows those from `first` on, n of them */
    bool round;                 /* to bf16, for a matrix that is kept in f32 */
};

static void head_rows_get(const struct lb_rows *r, int64_t row, int64_t n, float *out)
{
    const struct head_rows *h = r->ctx;
    size_t row_bytes = lb_quant_bytes(h->t->type, r->n_col);
    for (int64_t i = 0; i < n; i++, row++) {
        int64_t from = row / h->n * h->per_head + h->first + row % h->n;
        lb_quant_read(h->t->type, h->t->data + (size_t)from * row_bytes, r->n_col, out + i * r->n_col);
    }
    for (int64_t i = 0; h->round && i < n * r->n_col; i++)
        out[i] = lb_bf16_widen(lb_bf16_round(out[i]));
}

static const void *transposed_at(const struct lb_rows *r, int64_t row)
{
    return (const float *)r->ctx + row * r->n_col;
}

static void transposed_get(const struct lb_rows *r, int64_t row, int64_t n, float *out)
{
    memcpy(out, transposed_at(r, row), (size_t)(n * r->n_col) * sizeof *out);
}

/* W_uk: queries are multiplied with the keys' rows from the other side, so each head's are turned over. Rounded as any
 * weight, but multiplied in f32, as the query is not rounded yet. */
static enum lb_status load_w_uk(struct loader *ld, const struct lb_wtensor *t, struct lb_matrix **out,
                                struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_mla *m = &c->mla;
    struct head_rows keys = {t, m->nope_dim + m->v_dim, 0, m->nope_dim, ld->s->backend->dtype == LB_BF16};
    struct lb_rows rows = {.get = head_rows_get, .ctx = &keys, .n_col = m->kv_rank};
    size_t head = (size_t)m->nope_dim * (size_t)m->kv_rank;
    float *all = lb_mem_new((size_t)c->n_head * head, sizeof *all), *one = lb_mem_new(head, sizeof *one);
    enum lb_status status = LB_OK;
    if (!all || !one)
        status = lb_err_memory(err, t->name, (unsigned long long)c->n_head * head * sizeof *all);
    for (int64_t ih = 0; ih < c->n_head && status == LB_OK; ih++) {
        float *to = all + (size_t)ih * head;
        head_rows_get(&rows, ih * m->nope_dim, m->nope_dim, one);
        for (int64_t i = 0; i < m->nope_dim; i++)
            for (int64_t k = 0; k < m->kv_rank; k++)
                to[k * m->nope_dim + i] = one[i * m->kv_rank + k];
    }
    if (status == LB_OK) {
        struct lb_rows turned = {.get = transposed_get,
                                 .ctx = all,
                                 .n_row = c->n_head * m->kv_rank,
                                 .n_col = m->nope_dim,
                                 .at = transposed_at,
                                 .data_type = LB_F32};
        struct lb_matrix_spec spec = {&turned, &ld->s->cols->nope, false, t->name, true};
        status = ld->s->backend->ops->heads_new(ld->s->backend, &spec, c->n_head, out, err);
    }
    lb_mem_free(all);
    lb_mem_free(one);
    return status;
}

/* KV_B as GGUF has it, in two tensors, the keys' turned over already. */
static enum lb_status load_kv_parts(struct loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_mla *m = &c->mla;
    const int64_t want[2][3] = {{c->n_head, m->kv_rank, m->nope_dim}, {c->n_head, m->v_dim, m->kv_rank}};
    const struct lk_cols *cols[2] = {&ld->s->cols->nope, &ld->s->cols->kv_rank};
    struct lb_matrix **out[2] = {&l->w_uk, &l->w_uv};
    for (int i = 0; i < 2; i++) {
        const struct lb_wtensor *t = need(ld, i ? LB_R_V_B : LB_R_K_B, il, "", err);
        if (!t)
            return err->status;
        LB_TRY(check_shape(ld, t, want[i], 3, err));
        struct head_rows all = {t, want[i][1], 0, want[i][1], i == 0 && ld->s->backend->dtype == LB_BF16};
        struct lb_rows rows = {.get = head_rows_get, .ctx = &all, .n_row = c->n_head * want[i][1], .n_col = want[i][2]};
        struct lb_matrix_spec spec = {&rows, cols[i], false, t->name, i == 0};
        LB_TRY(ld->s->backend->ops->heads_new(ld->s->backend, &spec, c->n_head, out[i], err));
    }
    return LB_OK;
}

static enum lb_status load_kv_b(struct loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_mla *m = &c->mla;
    int64_t per_head = m->nope_dim + m->v_dim, n_weight = c->n_head * per_head * m->kv_rank;
    ld->w->n_param += n_weight;
    ld->w->n_layer_product += n_weight;
    if (has_role(ld, LB_R_K_B, il))
        return load_kv_parts(ld, il, l, err);
    const struct lb_wtensor *t = need(ld, LB_R_KV_B, il, ".weight", err);
    if (!t)
        return err->status;
    LB_TRY(check(ld, t, c->n_head * per_head, m->kv_rank, err));
    LB_TRY(load_w_uk(ld, t, &l->w_uk, err));
    struct head_rows values = {t, per_head, m->nope_dim, m->v_dim, false};
    struct lb_rows rows = {.get = head_rows_get, .ctx = &values, .n_row = c->n_head * m->v_dim, .n_col = m->kv_rank};
    struct lb_matrix_spec spec = {&rows, &ld->s->cols->kv_rank, false, t->name, false};
    return ld->s->backend->ops->heads_new(ld->s->backend, &spec, c->n_head, &l->w_uv, err);
}

static enum lb_status load_index(struct loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err)
{
    const struct lb_index *x = &ld->s->config->index;
    const struct source q = {il, 1, {{LB_R_INDEX_Q, x->n_head * x->head_dim, 0}}};
    const struct source kw = {il, 2, {{LB_R_INDEX_K, x->head_dim, 0}, {LB_R_INDEX_W, x->n_head, 0}}};
    const struct source norm = {il, 1, {{LB_R_INDEX_K_NORM, x->head_dim, 0}}};
    LB_TRY(load_matrix(ld, &q, &ld->s->cols->q_rank, &l->w_index_q, err));
    LB_TRY(load_matrix(ld, &kw, &ld->s->cols->dim, &l->w_index_k, err));
    LB_TRY(load_vector(ld, &norm, ".weight", &l->index_norm, err));
    return load_vector(ld, &norm, ".bias", &l->index_norm_bias, err);
}

static enum lb_status load_latent(struct loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_mla *m = &c->mla;
    const struct lk_cols *from = &ld->s->cols->dim;
    const struct source q_a = {il, 1, {{LB_R_Q_A, m->q_rank, 0}}};
    const struct source kv_a = {il, 1, {{LB_R_KV_A, m->kv_rank + m->rope_dim, 0}}};
    struct source q_b = {il, 1, {{LB_R_Q, c->n_head * (m->nope_dim + m->rope_dim), 0}}};
    if (m->q_rank > 0) {
        LB_TRY(load_matrix(ld, &q_a, from, &l->wq_a, err));
        LB_TRY(load_bias(ld, &q_a, c->attn_bias, &l->bq_a, err));
        LB_TRY(load_norm(ld, il, LB_R_Q_A_NORM, m->q_rank, &l->q_a_norm, err));
        from = &ld->s->cols->q_rank;
        q_b.part[0].role = LB_R_Q_B;
    }
    LB_TRY(load_matrix(ld, &q_b, from, &l->wq_b, err));
    LB_TRY(load_matrix(ld, &kv_a, &ld->s->cols->dim, &l->wkv_a, err));
    LB_TRY(load_bias(ld, &kv_a, c->attn_bias, &l->bkv_a, err));
    LB_TRY(load_norm(ld, il, LB_R_KV_A_NORM, m->kv_rank, &l->kv_a_norm, err));
    LB_TRY(load_kv_b(ld, il, l, err));
    return c->index.topk > 0 && !c->layer[il].index_shared ? load_index(ld, il, l, err) : LB_OK;
}

static enum lb_status load_qkv(struct loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    int64_t q_rows = c->n_head * c->head_dim, kv_rows = c->n_kv_head * c->head_dim;
    int64_t stored = c->gguf && lb_family_is(c->family, LB_FAM_GGUF_PAIRED) ? c->head_dim : 0;
    const struct source parts = {il, 3, {{LB_R_Q, q_rows, stored}, {LB_R_K, kv_rows, stored}, {LB_R_V, kv_rows, 0}}};
    const struct source whole = {il, 1, {{LB_R_QKV, q_rows + 2 * kv_rows, 0}}};
    const struct source *qkv = fused_in_file(ld, il, LB_R_QKV) ? &whole : &parts;
    LB_TRY(load_matrix(ld, qkv, &ld->s->cols->dim, &l->wqkv, err));
    LB_TRY(load_bias(ld, qkv, c->attn_bias, &l->bqkv, err));
    if (!c->qk_norm)
        return LB_OK;
    LB_TRY(load_norm(ld, il, LB_R_Q_NORM, c->head_dim, &l->q_norm, err));
    return load_norm(ld, il, LB_R_K_NORM, c->head_dim, &l->k_norm, err);
}

static enum lb_status load_attention(struct loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct source o = {il, 1, {{LB_R_O, c->dim, 0}}};
    LB_TRY(load_norm(ld, il, LB_R_ATTN_NORM, c->dim, &l->attn_norm, err));
    if (c->mla.kv_rank > 0)
        LB_TRY(load_latent(ld, il, &l->latent, err));
    else
        LB_TRY(load_qkv(ld, il, l, err));
    LB_TRY(load_matrix(ld, &o, &ld->s->cols->heads, &l->wo, err));
    LB_TRY(load_bias(ld, &o, c->o_bias, &l->bo, err));
    if (!lb_family_is(c->family, LB_FAM_SANDWICH))
        return LB_OK;
    return load_norm(ld, il, LB_R_POST_ATTN_NORM, c->dim, &l->post_attn_norm, err);
}

static enum lb_status load_ffn(struct loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct source parts = {il, 2, {{LB_R_GATE, c->ffn_dim, 0}, {LB_R_UP, c->ffn_dim, 0}}};
    const struct source whole = {il, 1, {{LB_R_GATE_UP, 2 * c->ffn_dim, 0}}};
    const struct source *gate_up = fused_in_file(ld, il, LB_R_GATE_UP) ? &whole : &parts;
    const struct source down = {il, 1, {{LB_R_DOWN, c->dim, 0}}};

    LB_TRY(load_norm(ld, il, LB_R_FFN_NORM, c->dim, &l->ffn_norm, err));
    LB_TRY(load_matrix(ld, gate_up, &ld->s->cols->dim, &l->w_gate_up, err));
    LB_TRY(load_bias(ld, gate_up, c->mlp_bias, &l->b_gate_up, err));
    LB_TRY(load_matrix(ld, &down, &ld->s->cols->ffn, &l->w_down, err));
    LB_TRY(load_bias(ld, &down, c->mlp_bias, &l->b_down, err));
    if (!lb_family_is(c->family, LB_FAM_SANDWICH))
        return LB_OK;
    return load_norm(ld, il, LB_R_POST_FFN_NORM, c->dim, &l->post_ffn_norm, err);
}

/* A cut of a matrix that stands in a tensor alone or, in order of experts, behind others. */
struct cut {
    int il;
    int64_t expert;           /* of EXPERT and EXPERTS roles */
    int64_t n_row, n_col;     /* the whole matrix */
    int64_t row, n_take, col; /* n_take rows from `row` on, columns from `col` on */
};

static bool is_stacked(enum lb_role role)
{
    return role == LB_R_EXPERTS_GATE || role == LB_R_EXPERTS_UP || role == LB_R_EXPERTS_GATE_UP ||
           role == LB_R_EXPERTS_DOWN;
}

static enum lb_status add_cut(struct loader *ld, struct fused *f, enum lb_role role, const struct cut *cut,
                              struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    bool stacked = is_stacked(role);
    struct lb_tensor_name name = stacked ? lb_family_tensor(c->family, c->gguf, role, cut->il, "")
                                         : lb_family_expert_tensor(c->family, c->gguf, role, cut->il, (int)cut->expert);
    const struct lb_wtensor *t = find_name(ld, name.text);
    if (!t)
        return lb_err_set(err, LB_E_INPUT, "the model has no tensor '%s'", name.text);
    const int64_t want[3] = {c->moe.n_expert, cut->n_row, cut->n_col};
    LB_TRY(check_shape(ld, t, stacked ? want : want + 1, stacked ? 3 : 2, err));
    size_t stride = lb_quant_bytes(t->type, cut->n_col), skip = lb_quant_bytes(t->type, cut->col);
    int64_t row = cut->row + (stacked ? cut->expert * cut->n_row : 0);
    f->part[f->n_part++] = (struct part){t, t->data + (size_t)row * stride + skip, stride, cut->n_take, 0};
    f->rows.n_row += cut->n_take;
    return LB_OK;
}

/* The matrix of one or two cuts; the second is an up matrix behind its gate. */
static enum lb_status load_cuts(struct loader *ld, const enum lb_role role[2], const struct cut *cut,
                                const struct lk_cols *cols, struct lb_matrix **out, struct lb_err *err)
{
    struct fused f = {.rows = {.get = fused_get, .ctx = &f, .n_col = cols->n_col}};
    for (int i = 0; i < 2 && role[i] != LB_N_ROLE; i++)
        LB_TRY(add_cut(ld, &f, role[i], cut, err));
    lend_rows(&f);
    ld->w->n_param += f.rows.n_row * f.rows.n_col;
    bool gate_up = role[1] != LB_N_ROLE || role[0] == LB_R_EXPERTS_GATE_UP;
    struct lb_matrix_spec spec = {&f.rows, cols, gate_up, f.part[0].t->name, role[0] == LB_R_ROUTER};
    return ld->s->backend->ops->matrix_new(ld->s->backend, &spec, out, err);
}

static enum lb_status load_experts(struct loader *ld, int il, struct lb_matrix **gate_up, struct lb_matrix **down,
                                   struct lb_err *err)
{
    static const enum lb_role each[] = {LB_R_EXPERT_GATE, LB_R_EXPERT_UP}, each_down[] = {LB_R_EXPERT_DOWN, LB_N_ROLE};
    static const enum lb_role all[] = {LB_R_EXPERTS_GATE, LB_R_EXPERTS_UP}, all_down[] = {LB_R_EXPERTS_DOWN, LB_N_ROLE};
    static const enum lb_role merged[] = {LB_R_EXPERTS_GATE_UP, LB_N_ROLE};
    const struct lb_config *c = ld->s->config;
    int64_t dim = c->dim, ffn = c->moe.ffn_dim, one[2] = {0, ffn};
    bool fused = has_role(ld, LB_R_EXPERTS_GATE_UP, il);
    const enum lb_role *in = fused ? merged : has_role(ld, LB_R_EXPERTS_GATE, il) ? all : each;
    const enum lb_role *out = has_role(ld, LB_R_EXPERTS_DOWN, il) ? all_down : each_down;
    int64_t n_row = fused ? 2 * ffn : ffn;
    struct lk_cols cols;
    lb_cols_init(&cols, 1, one);
    for (int64_t e = 0; e < c->moe.n_expert; e++) {
        const struct cut up = {il, e, n_row, dim, 0, n_row, 0}, back = {il, e, dim, ffn, 0, dim, 0};
        LB_TRY(load_cuts(ld, in, &up, &ld->s->cols->dim, &gate_up[e], err));
        LB_TRY(load_cuts(ld, out, &back, &cols, &down[e], err));
    }
    return LB_OK;
}

/* Each segment of the shared expert is an expert of its own: its sum is a leaf of the contract's tree. */
static enum lb_status load_shared(struct loader *ld, int il, struct lb_matrix **gate_up, struct lb_matrix **down,
                                  struct lb_err *err)
{
    static const enum lb_role in[] = {LB_R_SHARED_GATE, LB_R_SHARED_UP}, out[] = {LB_R_SHARED_DOWN, LB_N_ROLE};
    const struct lb_config *c = ld->s->config;
    int64_t dim = c->dim, ffn = c->moe.shared_dim;
    const struct lk_cols *shared = &ld->s->cols->shared;
    for (int r = 0; r < shared->n_seg; r++) {
        int64_t begin = shared->begin[r], one[2] = {0, shared->begin[r + 1] - begin};
        if (one[1] == 0)
            continue;
        struct lk_cols cols;
        lb_cols_init(&cols, 1, one);
        const struct cut up = {il, 0, ffn, dim, begin, one[1], 0}, back = {il, 0, dim, ffn, 0, dim, begin};
        LB_TRY(load_cuts(ld, in, &up, &ld->s->cols->dim, &gate_up[r], err));
        LB_TRY(load_cuts(ld, out, &back, &cols, &down[r], err));
    }
    return LB_OK;
}

/* The correction bias and the router stay in f32, whatever the backend's type. */
static enum lb_status load_router(struct loader *ld, int il, struct lb_moe_weights *w, struct lb_err *err)
{
    static const enum lb_role router[] = {LB_R_ROUTER, LB_N_ROLE};
    const struct lb_config *c = ld->s->config;
    int64_t n = c->moe.n_expert;
    const struct cut all = {il, 0, n, c->dim, 0, n, 0};
    struct lb_matrix *m;
    LB_TRY(load_cuts(ld, router, &all, &ld->s->cols->dim, &m, err));
    w->router = m;
    const struct lb_wtensor *t = need(ld, LB_R_ROUTER_BIAS, il, "", err);
    if (!t)
        return err->status;
    LB_TRY(check(ld, t, n, 0, err));
    lb_quant_read(t->type, t->data, n, ld->vector);
    return ld->s->backend->ops->vector_new(ld->s->backend, ld->vector, n, &w->bias, err);
}

static enum lb_status load_moe(struct loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_moe_shape *m = &c->moe;
    size_t n = 2 * (size_t)m->n_expert, n_seg = (size_t)c->n_seg;
    l->expert = lb_mem_new(n + 2 * n_seg, sizeof *l->expert);
    if (!l->expert)
        return lb_err_memory(err, "the experts' directory", (n + 2 * n_seg) * sizeof *l->expert);
    struct lb_matrix **gate_up = l->expert, **down = gate_up + m->n_expert, **shared = gate_up + n;
    l->moe.gate_up = gate_up;
    l->moe.down = down;
    l->moe.shared_gate_up = shared;
    l->moe.shared_down = shared + n_seg;
    LB_TRY(load_norm(ld, il, LB_R_FFN_NORM, c->dim, &l->ffn_norm, err));
    LB_TRY(load_router(ld, il, &l->moe, err));
    LB_TRY(load_experts(ld, il, gate_up, down, err));
    LB_TRY(load_shared(ld, il, shared, shared + n_seg, err));
    ld->w->n_layer_product += c->dim * (3 * (m->n_used * m->ffn_dim + m->shared_dim) + m->n_expert);
    return LB_OK;
}

static enum lb_status load_layer(struct loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    LB_TRY(load_attention(ld, il, l, err));
    return ld->s->config->layer[il].moe ? load_moe(ld, il, l, err) : load_ffn(ld, il, l, err);
}

/* Which tensors serve as embedding and head (spec/models.md 1.1.6): both present means both are used, whatever the
 * configuration says of tying; one alone serves for both where tying is asked for, in GGUF always. */
static enum lb_status choose_ends(struct loader *ld, const struct lb_wtensor **embed, const struct lb_wtensor **head,
                                  struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    *embed = find(ld, LB_R_EMBED, 0, ".weight");
    *head = find(ld, LB_R_HEAD, 0, ".weight");
    bool may_tie = c->tied || c->gguf;
    if (!*head && may_tie)
        *head = *embed;
    if (!*embed && may_tie)
        *embed = *head;
    if (!*embed) {
        need(ld, LB_R_EMBED, 0, ".weight", err);
        return err->status;
    }
    if (!*head) {
        need(ld, LB_R_HEAD, 0, ".weight", err);
        return lb_err_where(err, "untied embeddings (tie_word_embeddings is false)");
    }
    LB_TRY(check(ld, *embed, c->n_vocab, c->dim, err));
    LB_TRY(check(ld, *head, c->n_vocab, c->dim, err));
    if (c->tied && *embed != *head && ld->s->log &&
        ((*embed)->n_bytes != (*head)->n_bytes || memcmp((*embed)->data, (*head)->data, (*head)->n_bytes) != 0))
        lb_log_put(ld->s->log, LB_LOG_WARN,
                   "the configuration ties '%s' to '%s', but the file has both and they differ: not tied",
                   (*head)->name, (*embed)->name);
    return LB_OK;
}

static enum lb_status load_ends(struct loader *ld, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    struct lb_backend *be = ld->s->backend;
    const struct lb_wtensor *embed, *head;
    LB_TRY(choose_ends(ld, &embed, &head, err));
    const struct source norm = {0, 1, {{LB_R_NORM, c->dim, 0}}};
    LB_TRY(load_vector(ld, &norm, ".weight", &ld->w->norm, err));

    struct fused f = {.rows = {.get = fused_get, .ctx = &f, .n_row = c->n_vocab, .n_col = c->dim}, .n_part = 1};
    f.part[0] = whole(embed, c->n_vocab, c->dim, 0);
    if (embed->type == LB_W_F32 || embed->type == LB_W_BF16) {
        f.rows.data = embed->data;
        f.rows.data_type = embed->type == LB_W_F32 ? LB_F32 : LB_BF16;
    }
    LB_TRY(be->ops->table_new(be, &f.rows, &ld->w->embed, err));

    f.part[0] = whole(head, c->n_vocab, c->dim, 0);
    f.rows.data = NULL;
    lend_rows(&f);
    struct lb_matrix_spec spec = {&f.rows, &ld->s->cols->dim, false, head->name, false};
    LB_TRY(be->ops->matrix_new(be, &spec, &ld->w->head, err));
    ld->w->n_head_product = c->n_vocab * c->dim;
    ld->w->n_param += ld->w->n_head_product * (embed == head ? 1 : 2);
    return LB_OK;
}

static void say(const struct loader *ld)
{
    static const char *const name[] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"};
    const struct lb_wfile *file = ld->s->file;
    if (!ld->s->log)
        return;
    bool bf16 = ld->s->backend->dtype == LB_BF16;
    char list[64] = "";
    size_t at = 0;
    for (int type = 0; type < LB_W_OTHER; type++)
        if (ld->seen[type] && type != (bf16 ? LB_W_BF16 : LB_W_F32) && (bf16 || type >= LB_W_Q8_0))
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", name[type]);
    if (at > 0)
        lb_log_put(ld->s->log, LB_LOG_INFO, "weights of type %s are %s once, at load", list,
                   bf16 ? "rounded to bf16" : "turned into f32");
    size_t n_unused = 0, first = 0;
    for (size_t i = file->n_tensor; i-- > 0;) {
        if (ld->used[i] || strstr(file->tensor[i].name, "rotary_emb.inv_freq") ||
            strcmp(file->tensor[i].name, "rope_freqs.weight") == 0)
            continue;
        n_unused++;
        first = i;
    }
    if (n_unused > 0)
        lb_log_put(ld->s->log, LB_LOG_INFO, "%zu tensors of the file are not part of the model and stay unread: '%s'%s",
                   n_unused, file->tensor[first].name, n_unused > 1 ? " ..." : "");
}

enum lb_status lb_weights_load(struct lb_weights *w, const struct lb_weights_spec *spec, struct lb_err *err)
{
    const struct lb_config *c = spec->config;
    *w = (struct lb_weights){0};
    int64_t widest = c->dim;
    if (widest < 2 * c->ffn_dim)
        widest = 2 * c->ffn_dim;
    if (widest < (c->n_head + 2 * c->n_kv_head) * c->head_dim) /* latents are no wider: one KV head is made of one */
        widest = (c->n_head + 2 * c->n_kv_head) * c->head_dim;
    if (widest < c->mla.q_rank)
        widest = c->mla.q_rank;
    if (widest < c->index.head_dim)
        widest = c->index.head_dim;
    if (widest < c->moe.n_expert)
        widest = c->moe.n_expert;
    struct loader ld = {.s = spec, .w = w};
    ld.used = lb_mem_new(spec->file->n_tensor, sizeof *ld.used);
    ld.vector = lb_mem_new((size_t)widest, sizeof *ld.vector);
    w->layer = lb_mem_new((size_t)c->n_layer, sizeof *w->layer);
    w->n_layer = w->layer ? c->n_layer : 0;
    enum lb_status status = LB_OK;
    if (!ld.used || !ld.vector || !w->layer)
        status = lb_err_memory(err, "the weights' directory", (size_t)c->n_layer * sizeof *w->layer);
    if (status == LB_OK)
        status = load_ends(&ld, err);
    for (int il = 0; il < c->n_layer && status == LB_OK; il++)
        status = load_layer(&ld, il, &w->layer[il], err);
    if (status == LB_OK)
        say(&ld);
    lb_mem_free(ld.used);
    lb_mem_free(ld.vector);
    if (status != LB_OK)
        lb_weights_release(w);
    return status;
}

void lb_weights_release(struct lb_weights *w)
{
    for (int64_t il = 0; il < w->n_layer; il++)
        lb_mem_free(w->layer[il].expert);
    lb_mem_free(w->layer);
    *w = (struct lb_weights){0};
}
