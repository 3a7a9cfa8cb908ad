#include "core/model/decoder.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/dist/comm.h"
#include "core/model/gather.h"
#include "core/model/weights.h"

#define LATENT_EPS 1e-6f /* transformers builds the latents' norms without the configuration's */

struct lb_model {
    const struct lb_config *config;
    struct lb_backend *be;
    struct lb_comm *comm; /* the group; alone: of one rank */
    struct lb_weights weights;
    struct lb_shared shared; /* what they lie in, where ranks share them */
    struct lb_model_cols cols;
    int64_t vocab[LB_COMM_MAX_RANKS + 1]; /* where the ranks' parts of the vocabulary begin */
    struct lb_gather gather;
    struct lb_step_limits limit;
    int32_t max_out;
    int first_layer, end_layer; /* of a pass */
    struct lb_rope_args rope;
    struct lb_kv_mem *kv;
    const struct lb_hook *hook;
    bool no_memory; /* a hook's copy could not be made, since the last step was collected */
    /* the step's numbers, in the paper's letters; heads and ffn_dim are this rank's */
    struct lb_buf x;    /* [n_tok, dim] residual stream */
    struct lb_buf y;    /* [n_tok, dim] a product on its way to x: a norm stands before, or ranks have parts of it */
    struct lb_buf qkv;  /* [n_tok, (n_head + n_kv_head) * head_dim + n_kv_head * v_dim] */
    struct lb_actbuf h; /* [n_tok, dim] normalized */
    struct lb_actbuf a; /* [n_tok, n_head * out_dim] attention output */
    struct lb_actbuf f; /* [n_tok, ffn_dim] gated */
    /* latent attention */
    struct lb_buf q_a;       /* [n_tok, q_rank] */
    struct lb_buf q;         /* [n_tok, n_head * (nope_dim + rope_dim)] */
    struct lb_buf kv_a;      /* [n_tok, kv_rank + rope_dim] */
    struct lb_buf o;         /* [n_tok, n_head * out_dim] */
    struct lb_buf index_q;   /* [n_tok, index heads * index head_dim] */
    struct lb_buf index_kw;  /* [n_tok, index head_dim + index heads] */
    struct lb_actbuf q_lat;  /* [n_tok, q_rank] normalized */
    struct lb_actbuf q_head; /* for each head [n_tok, nope_dim], f32: the query is rounded once, when it is absorbed */
    struct lb_actbuf lat;    /* for each head [n_tok, kv_rank]: attention output in the latent's space */
};

/* One forward pass. */
struct lb_pass {
    struct lb_model *m;
    struct lb_backend *be;
    const struct lb_backend_ops *op;
    const struct lb_step *step;
    bool fits;     /* the step is within the reserved limits; if not, no rank does anything */
    int64_t n_row; /* that ops take: the step's tokens, of the end of the last layer the wanted ones */
    int n_choice;  /* layers behind that chose positions */
    float *probs;  /* hooks: [n_tok, n_head, probs_ld] */
    int64_t probs_ld;
    bool no_memory; /* a hook's copy could not be made */
};

static void rms_norm(struct lb_pass *p, struct lb_actbuf *h, const struct lb_buf *x, const float *w)
{
    p->op->norm(p->be, h, x, w, p->m->config->norm_eps, false);
}

static void linear(struct lb_pass *p, struct lb_buf *y, const struct lb_actbuf *a, const struct lb_matrix *w,
                   const float *bias)
{
    p->op->linear(p->be, &(struct lb_linear_args){.y_rows = y, .a = a, .w = w, .bias = bias, .epilogue = LB_STORE});
}

static void swiglu(struct lb_pass *p, struct lb_actbuf *f, const struct lb_actbuf *a, const struct lb_matrix *w,
                   const float *bias)
{
    p->op->linear(p->be, &(struct lb_linear_args){.y_act = f, .a = a, .w = w, .bias = bias, .epilogue = LB_SWIGLU});
}

/* Whether other ranks have parts of what row-parallel products give. */
static bool shared(const struct lb_pass *p)
{
    return p->m->comm->size > 1;
}

/* part = the sum of all ranks' parts. Ranks make the same calls whatever happened to each, so that none waits. */
static void reduce(struct lb_pass *p, struct lb_buf *part)
{
    if (p->fits && p->n_row > 0)
        p->m->comm->ops->reduce(p->m->comm, part->data, p->n_row * part->width);
}

/* x += W a + bias, where the columns of W are cut into segments and the segments' sums are added in a fixed tree. A
 * rank alone owns the whole tree, so that the product's epilogue is tree, bias and residual in one. */
static void linear_reduce(struct lb_pass *p, struct lb_buf *x, const struct lb_actbuf *a, const struct lb_matrix *w,
                          const float *bias)
{
    if (!shared(p)) {
        p->op->linear(p->be, &(struct lb_linear_args){.y_rows = x, .a = a, .w = w, .bias = bias, .epilogue = LB_ADD});
        return;
    }
    linear(p, &p->m->y, a, w, NULL);
    reduce(p, &p->m->y);
    p->op->finish(p->be, x, &p->m->y, bias, LB_ADD);
}

/* The same where a norm stands before the residual: x += norm(W a + bias). */
static void linear_reduce_norm(struct lb_pass *p, const struct lb_actbuf *a, const struct lb_matrix *w,
                               const float *bias, const float *norm)
{
    struct lb_model *m = p->m;
    linear(p, &m->y, a, w, shared(p) ? NULL : bias);
    if (shared(p)) {
        reduce(p, &m->y);
        if (bias)
            p->op->finish(p->be, &m->y, &m->y, bias, LB_STORE);
    }
    p->op->norm_add(p->be, &m->x, &m->y, norm, m->config->norm_eps);
}

/* Whether this layer is the last one, behind whose K and V only wanted tokens matter: of a prompt its last one. All
 * ranks see the same step. */
static bool keeps_wanted(const struct lb_pass *p, int il)
{
    const struct lb_step *s = p->step;
    return il + 1 == (int)p->m->config->n_layer && p->op->keep_wanted && !p->m->hook && p->fits &&
           p->n_row == s->n_tok && s->n_out < s->n_tok;
}

static void keep_wanted(struct lb_pass *p, const struct lb_attend_args *before)
{
    p->op->keep_wanted(p->be, &p->m->x, before);
    p->n_row = p->step->n_out;
}

/* RoPE, cache write, attention. */
static void attend(struct lb_pass *p, struct lb_actbuf *out, const struct lb_layer *l, int il)
{
    const struct lb_config *c = p->m->config;
    const struct lb_slice *s = &p->m->cols.slice;
    struct lb_attend_args args = {
        .out = out,
        .qkv = &p->m->qkv,
        .kv = p->m->kv,
        .layer = il,
        .n_head = s->n_head,
        .n_kv_head = s->n_kv_head,
        .head_dim = c->head_dim,
        .scale = c->attn_scale,
        .window = c->layer[il].window,
        .rope = &p->m->rope,
        .q_norm = l->q_norm,
        .k_norm = l->k_norm,
        .eps = c->norm_eps,
        .probs = p->probs,
        .probs_ld = p->probs_ld,
    };
    if (keeps_wanted(p, il) && c->index.topk == 0)
        keep_wanted(p, &args);
    p->op->attend(p->be, &args);
}

/* Chooses the positions that tokens attend to, here and in the layers that share the choice. */
static void choose(struct lb_pass *p, const struct lb_layer_latent *l, int plane)
{
    struct lb_model *m = p->m;
    linear(p, &m->index_q, &m->q_lat, l->w_index_q, NULL);
    linear(p, &m->index_kw, &m->h, l->w_index_k, NULL);
    struct lb_index_args args = {.q = &m->index_q,
                                 .kw = &m->index_kw,
                                 .norm = l->index_norm,
                                 .norm_bias = l->index_norm_bias,
                                 .kv = m->kv,
                                 .plane = plane,
                                 .rope = &m->rope,
                                 .eps = LATENT_EPS};
    p->op->index(p->be, &args);
}

/* Attention over the latents themselves (DeepSeek-V2, arXiv 2405.04434, appendix B): what would make keys of them is
 * multiplied into the query, what would make values of them into the output, head by head. So the cache holds one
 * narrow row a token, and a decoded token reads that alone. */
static void attend_latent(struct lb_pass *p, const struct lb_layer *layer, int il)
{
    struct lb_model *m = p->m;
    const struct lb_config *c = m->config;
    const struct lb_mla *mla = &c->mla;
    const struct lb_layer_latent *l = &layer->latent;
    const struct lb_actbuf *from = &m->h;
    if (l->wq_a) {
        linear(p, &m->q_a, &m->h, l->wq_a, l->bq_a);
        p->op->norm(p->be, &m->q_lat, &m->q_a, l->q_a_norm, LATENT_EPS, false);
        from = &m->q_lat;
    }
    linear(p, &m->q, from, l->wq_b, NULL);
    linear(p, &m->kv_a, &m->h, l->wkv_a, l->bkv_a);
    struct lb_latent_args latent = {&m->qkv,       &m->q,         &m->kv_a,     l->kv_a_norm, m->cols.slice.n_head,
                                    mla->nope_dim, mla->rope_dim, mla->kv_rank, LATENT_EPS};
    p->op->latent(p->be, &latent);
    p->op->round(p->be, &m->q_head, &m->q, 0, mla->nope_dim + mla->rope_dim);
    struct lb_heads_args query = {&m->qkv, mla->rope_dim, c->head_dim, &m->q_head, l->w_uk};
    p->op->linear_heads(p->be, &query);
    if (l->w_index_q)
        choose(p, l, p->n_choice++);
    attend(p, &m->lat, layer, il);
    struct lb_heads_args value = {&m->o, 0, mla->v_dim, &m->lat, l->w_uv};
    p->op->linear_heads(p->be, &value);
    p->op->round(p->be, &m->a, &m->o, 0, 0);
}

/* x += the mixture of experts of h = norm(x). */
static void mixture(struct lb_pass *p, const struct lb_layer *l)
{
    struct lb_model *m = p->m;
    struct lb_moe_args args = {.x = &m->x, .h = &m->h, .norm = l->ffn_norm, .eps = m->config->norm_eps, .w = &l->moe};
    args.part = shared(p) ? &m->y : NULL;
    p->op->moe(p->be, &args);
    if (!shared(p))
        return;
    reduce(p, &m->y);
    p->op->finish(p->be, &m->x, &m->y, NULL, LB_ADD);
}

static void layer_forward(struct lb_pass *p, const struct lb_layer *l, int il)
{
    struct lb_model *m = p->m;
    rms_norm(p, &m->h, &m->x, l->attn_norm);
    if (m->config->mla.kv_rank > 0) {
        attend_latent(p, l, il);
    } else {
        linear(p, &m->qkv, &m->h, l->wqkv, l->bqkv);
        attend(p, &m->a, l, il);
    }
    if (l->post_attn_norm)
        linear_reduce_norm(p, &m->a, l->wo, l->bo, l->post_attn_norm);
    else
        linear_reduce(p, &m->x, &m->a, l->wo, l->bo);
    if (keeps_wanted(p, il))
        keep_wanted(p, NULL);

    rms_norm(p, &m->h, &m->x, l->ffn_norm);
    if (m->config->layer[il].moe) {
        mixture(p, l);
        return;
    }
    swiglu(p, &m->f, &m->h, l->w_gate_up, l->b_gate_up);
    if (l->post_ffn_norm)
        linear_reduce_norm(p, &m->f, l->w_down, l->b_down, l->post_ffn_norm);
    else
        linear_reduce(p, &m->x, &m->f, l->w_down, l->b_down);
}

/* A copy for hooks; NULL when there is nothing to hand out, or no memory for it. */
static float *hook_memory(struct lb_pass *p, int64_t width)
{
    float *copy = lb_mem_new((size_t)p->step->n_tok * (size_t)width, sizeof *copy);
    p->no_memory = p->no_memory || !copy;
    return copy;
}

static void hook_embedding(struct lb_pass *p)
{
    const struct lb_hook *hook = p->m->hook;
    if (!hook || !hook->embedding)
        return;
    float *x = hook_memory(p, p->m->x.width);
    if (x) {
        p->op->read_rows(p->be, &p->m->x, p->step->n_tok, x);
        hook->embedding(hook->ctx, p->step, x);
    }
    lb_mem_free(x);
}

static void hook_layer(struct lb_pass *p, int il)
{
    const struct lb_hook *hook = p->m->hook;
    if (!hook)
        return;
    if (hook->probs && p->probs)
        hook->probs(hook->ctx, il, p->step, p->probs, p->probs_ld);
    if (hook->attn) {
        float *a = hook_memory(p, p->m->a.cols.n_col);
        if (a) {
            p->op->read_act(p->be, &p->m->a, p->step->n_tok, a);
            hook->attn(hook->ctx, il, p->step, a);
        }
        lb_mem_free(a);
    }
    if (hook->layer) {
        float *x = hook_memory(p, p->m->x.width);
        if (x) {
            p->op->read_rows(p->be, &p->m->x, p->step->n_tok, x);
            hook->layer(hook->ctx, il, p->step, x);
        }
        lb_mem_free(x);
    }
}

/* Probabilities are written by the reference's attention alone. */
static void hook_begin(struct lb_pass *p)
{
    const struct lb_hook *hook = p->m->hook;
    if (!hook || !hook->probs || !p->be->isa || strcmp(p->be->isa, "ref") != 0)
        return;
    for (int32_t t = 0; t < p->step->n_tok; t++)
        if (p->probs_ld <= p->step->pos[t])
            p->probs_ld = p->step->pos[t] + 1;
    p->probs = hook_memory(p, p->m->cols.slice.n_head * p->probs_ld);
}

static bool fits(const struct lb_model *m, const struct lb_step *s)
{
    return s->n_tok >= 0 && s->n_tok <= m->limit.n_tok && s->n_out >= 0 && s->n_out <= m->max_out;
}

/* A row is one rank's; the others add -0. */
static void embed(struct lb_pass *p)
{
    p->op->embed(p->be, &p->m->x, p->m->weights.embed);
    if (shared(p))
        reduce(p, &p->m->x);
}

static void layers_run(struct lb_pass *p)
{
    struct lb_model *m = p->m;
    embed(p);
    hook_embedding(p);
    for (int il = m->first_layer; il < m->end_layer; il++) {
        m->comm->ops->beat(m->comm, "layer", il);
        layer_forward(p, &m->weights.layer[il], il);
        hook_layer(p, il);
    }
    p->op->norm(p->be, &m->h, &m->x, m->weights.norm, m->config->norm_eps, true);
}

/* Steps whose launches are the same are recorded, unless somebody looks into them. */
static void layers_forward(struct lb_pass *p)
{
    struct lb_model *m = p->m;
    bool whole = m->first_layer == 0 && m->end_layer == (int)m->config->n_layer;
    if (!p->op->layers_begin || m->hook || !whole) {
        layers_run(p);
        return;
    }
    if (p->op->layers_begin(p->be)) {
        m->comm->ops->beat(m->comm, "layer", m->end_layer - 1);
        return;
    }
    do
        layers_run(p);
    while (p->op->layers_end(p->be));
}

void lb_model_launch(struct lb_model *m, const struct lb_step *step)
{
    struct lb_pass p = {
        .m = m, .be = m->be, .op = m->be->ops, .step = step, .fits = fits(m, step), .n_row = step->n_tok};
    p.op->step_begin(p.be, step, m->kv, &m->rope, m->cols.slice.n_head);
    hook_begin(&p);

    if (m->weights.layer)
        layers_forward(&p);
    if (shared(&p))
        p.op->head_part(p.be, &m->h, m->weights.head, m->cols.vocab_begin, lb_gather_part(&m->gather));
    else
        p.op->head(p.be, &m->h, m->weights.head);

    lb_mem_free(p.probs);
    m->no_memory = m->no_memory || p.no_memory;
}

enum lb_status lb_model_collect(struct lb_model *m, const struct lb_step *step, const struct lb_cand **cand,
                                struct lb_err *err)
{
    enum lb_status status = m->be->ops->step_end(m->be, cand, err);
    if (status == LB_OK && m->no_memory)
        status = lb_err_memory(err, "a test hook", 0);
    m->no_memory = false;
    return m->comm->size > 1 ? lb_gather_step(&m->gather, step, fits(m, step), cand, err) : status;
}

enum lb_status lb_model_forward(struct lb_model *m, const struct lb_step *step, const struct lb_cand **cand,
                                struct lb_err *err)
{
    lb_model_launch(m, step);
    return lb_model_collect(m, step, cand, err);
}

int lb_model_ahead(const struct lb_model *m)
{
    return m->comm->size > 1 ? 0 : m->be->n_ahead;
}

static void rope_init(struct lb_model *m)
{
    const struct lb_rope *r = &m->config->rope;
    m->rope = (struct lb_rope_args){
        .inv_freq = r->inv_freq,
        .n_rot = r->n_rot,
        .max_pos = r->max_position,
        .base = r->theta,
        .factor = r->factor,
        .scale = r->scale,
        .dynamic = r->type == LB_ROPE_DYNAMIC,
        .interleaved = r->interleaved,
    };
}

/* This rank's slice, and where the others' parts of the vocabulary begin. */
static enum lb_status slice_init(struct lb_model *m, struct lb_err *err)
{
    for (int i = m->comm->size - 1; i >= 0; i--) {
        LB_TRY(lb_model_cols_init(&m->cols, m->config, i, m->comm->size, err));
        m->vocab[i] = m->cols.vocab_begin;
    }
    m->vocab[m->comm->size] = m->config->n_vocab;
    return lb_model_cols_init(&m->cols, m->config, m->comm->rank, m->comm->size, err);
}

enum lb_status lb_model_open(struct lb_model **out, const struct lb_model_spec *spec, struct lb_err *err)
{
    *out = NULL;
    struct lb_model *m = lb_mem_new(1, sizeof *m);
    if (!m)
        return lb_err_memory(err, "a model", sizeof *m);
    m->config = spec->config;
    m->be = spec->backend;
    m->comm = spec->comm ? spec->comm : lb_comm_self();
    m->end_layer = (int)spec->config->n_layer;
    rope_init(m);
    enum lb_status status = slice_init(m, err);
    struct lb_weights_spec weights = {spec->config, spec->weights, spec->backend, &m->cols, spec->log, NULL};
    /* what lies in a device's memory is not shared */
    bool alone = !spec->world || spec->world->size == 1 || spec->backend->stream;
    if (status == LB_OK && spec->weights)
        status = alone ? lb_weights_load(&m->weights, &weights, err)
                       : lb_weights_share(&m->weights, &weights, spec->world, &m->shared, err);
    if (status == LB_OK && spec->weights && spec->lora)
        status = lb_weights_adapt(&m->weights, &weights, spec->lora, err);
    if (status != LB_OK) {
        lb_model_free(m);
        return status;
    }
    *out = m;
    return LB_OK;
}

void lb_model_free(struct lb_model *m)
{
    if (!m)
        return;
    if (m->be->ops->layers_forget)
        m->be->ops->layers_forget(m->be);
    lb_gather_release(&m->gather);
    lb_weights_release(&m->weights);
    lb_shared_release(&m->shared);
    lb_mem_free(m);
}

struct lb_model_size lb_model_size_of(const struct lb_model *m)
{
    return (struct lb_model_size){m->weights.n_param, m->weights.n_layer_product, m->weights.n_head_product};
}

static struct lb_kv_spec kv_spec(const struct lb_config *c, int64_t n_kv_head, int64_t n_page)
{
    struct lb_kv_spec spec = {c->n_layer, n_kv_head, c->head_dim,
                              c->v_dim,   n_page,    {0, c->index.topk, c->index.n_head, c->index.head_dim}};
    spec.index.n_plane = lb_config_index_layers(c);
    return spec;
}

size_t lb_config_page_bytes(const struct lb_config *c, int64_t n_kv_head, const struct lb_backend *be)
{
    struct lb_kv_spec spec = kv_spec(c, n_kv_head, 1);
    return be->ops->kv_page_bytes(be, &spec);
}

size_t lb_model_page_bytes(const struct lb_model *m)
{
    return lb_config_page_bytes(m->config, m->cols.slice.n_kv_head, m->be);
}

static enum lb_status reserve_latent(struct lb_model *m, struct lb_err *err)
{
    const struct lb_config *c = m->config;
    const struct lb_backend_ops *op = m->be->ops;
    const struct lb_mla *mla = &c->mla;
    int64_t n_head = m->cols.slice.n_head;
    if (mla->q_rank > 0) {
        LB_TRY(op->buf_new(m->be, mla->q_rank, &m->q_a, err));
        LB_TRY(op->act_new(m->be, &m->cols.q_rank, &m->q_lat, err));
    }
    LB_TRY(op->buf_new(m->be, n_head * (mla->nope_dim + mla->rope_dim), &m->q, err));
    LB_TRY(op->buf_new(m->be, mla->kv_rank + mla->rope_dim, &m->kv_a, err));
    LB_TRY(op->buf_new(m->be, m->cols.heads.n_col, &m->o, err));
    if (c->index.topk > 0) {
        LB_TRY(op->buf_new(m->be, c->index.n_head * c->index.head_dim, &m->index_q, err));
        LB_TRY(op->buf_new(m->be, c->index.head_dim + c->index.n_head, &m->index_kw, err));
    }
    m->q_head = (struct lb_actbuf){.cols = m->cols.nope, .n_head = n_head, .f32 = true};
    m->lat = (struct lb_actbuf){.cols = m->cols.kv_rank, .n_head = n_head};
    LB_TRY(op->head_acts_new(m->be, &m->q_head, err));
    return op->head_acts_new(m->be, &m->lat, err);
}

enum lb_status lb_model_reserve(struct lb_model *m, struct lb_step_limits limit, int32_t max_out, int64_t n_page,
                                struct lb_err *err)
{
    const struct lb_config *c = m->config;
    const struct lb_backend_ops *op = m->be->ops;
    const struct lb_slice *s = &m->cols.slice;
    struct lb_kv_spec spec = kv_spec(m->config, m->cols.slice.n_kv_head, n_page);
    m->limit = limit;
    m->max_out = max_out;
    if (m->comm->size > 1)
        LB_TRY(lb_gather_init(&m->gather, m->comm, m->be, m->vocab, max_out, err));
    LB_TRY(op->reserve(m->be, limit, max_out, &m->cols.vocab, err));
    if (!m->weights.layer) /* nothing stands between a token and its logits */
        return LB_OK;
    LB_TRY(op->buf_new(m->be, c->dim, &m->x, err));
    /* other ranks read parts where they lie, if they lie there */
    m->y = (struct lb_buf){m->comm->ops->buffer(m->comm, limit.n_tok * c->dim), c->dim};
    if (!m->y.data && (lb_family_is(c->family, LB_FAM_SANDWICH) || m->comm->size > 1))
        LB_TRY(op->buf_new(m->be, c->dim, &m->y, err));
    int64_t qkv = (s->n_head + s->n_kv_head) * c->head_dim + s->n_kv_head * c->v_dim;
    LB_TRY(op->buf_new(m->be, qkv, &m->qkv, err));
    if (c->mla.kv_rank > 0)
        LB_TRY(reserve_latent(m, err));
    LB_TRY(op->act_new(m->be, &m->cols.dim, &m->h, err));
    LB_TRY(op->act_new(m->be, &m->cols.heads, &m->a, err));
    LB_TRY(op->act_new(m->be, &m->cols.ffn, &m->f, err));
    struct lb_moe_leaves leaves = {&m->cols.shared, s->seg_begin, s->n_seg};
    if (c->moe.n_expert > 0)
        LB_TRY(op->moe_reserve(m->be, &c->moe, &leaves, c->dim, err));
    return op->kv_new(m->be, &spec, &m->kv, err);
}

int32_t *lb_model_slots(struct lb_model *m)
{
    return m->be->ops->slots(m->be);
}

float *lb_model_logits(struct lb_model *m, int64_t j)
{
    return m->be->ops->part_logits(m->be, j);
}

const int64_t *lb_model_parts(const struct lb_model *m)
{
    return m->vocab;
}

void lb_model_tell(struct lb_model *m, uint32_t flags)
{
    m->gather.flags = flags;
    if (m->comm->size == 1)
        m->gather.flags_of_all = flags;
}

uint32_t lb_model_told(const struct lb_model *m)
{
    return m->gather.flags_of_all;
}

void lb_model_set_layers(struct lb_model *m, int first, int end)
{
    m->first_layer = first;
    m->end_layer = end;
}

void lb_model_set_hook(struct lb_model *m, const struct lb_hook *hook)
{
    m->hook = hook;
}
