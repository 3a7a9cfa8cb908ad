/* Adapters' matrices, cut and fused as the model's own are. */
#include "core/model/weights_impl.h"

struct adapting {
    struct lb_loader *ld;
    const struct lb_lora_set *set;
};

/* What adapter i has for one matrix. Modules are the runs of parts with the same role: B's rows are cut as the matrix's
 * own, A's columns likewise. */
static enum lb_status adapt_one(const struct adapting *t, int32_t i, const struct lb_source *src, struct lb_matrix *m,
                                const struct lk_cols *cols, struct lb_err *err)
{
    struct lb_fused a[LB_LORA_MAX_PART], b[LB_LORA_MAX_PART];
    struct lb_lora_part part[LB_LORA_MAX_PART];
    struct lb_lora_spec spec = {.part = part, .adapter = i, .n_adapter = t->set->n};
    const struct lb_lora_module *last = NULL;
    int64_t first = 0;
    for (int ip = 0; ip < src->n_part; ip++) {
        struct lb_span span = src->part[ip].span, all;
        const struct lb_lora_module *mod = lb_lora_module_of(&t->set->adapter[i], src->part[ip].role, src->layer);
        span.paired = 0; /* the adapter is in Hugging Face's order, whatever the model's file is */
        if (mod && mod != last) {
            all = lb_span_all(mod->rank);
            lb_fused_init(&a[spec.n_part], cols->n_col);
            lb_fused_init(&b[spec.n_part], mod->rank);
            lb_fused_add(t->ld, &a[spec.n_part], mod->a, &all, src->n_col, src->col);
            part[spec.n_part] = (struct lb_lora_part){&a[spec.n_part].rows, &b[spec.n_part].rows, first, mod->scale};
            spec.name = mod->a->name;
            spec.n_part++;
        }
        if (mod)
            lb_fused_add(t->ld, &b[spec.n_part - 1], mod->b, &span, mod->rank, 0);
        last = mod;
        first += span.n_take;
    }
    struct lb_backend *be = t->ld->s->backend;
    return spec.n_part > 0 ? be->ops->lora_new(be, m, &spec, err) : LB_OK;
}

static enum lb_status adapt(const struct adapting *t, struct lb_source src, struct lb_matrix *m,
                            const struct lk_cols *cols, struct lb_err *err)
{
    for (int32_t i = 0; i < t->set->n && cols->n_col > 0; i++)
        LB_TRY(adapt_one(t, i, &src, m, cols, err));
    return LB_OK;
}

static enum lb_status adapt_layer(const struct adapting *t, int il, const struct lb_layer *l, struct lb_err *err)
{
    const struct lb_loader *ld = t->ld;
    const struct lb_config *c = ld->s->config;
    const struct lb_model_cols *cols = ld->s->cols;
    const struct lb_layer_latent *lat = &l->latent;
    const char *const *name = c->family->hf_tensor;
    if (l->wqkv)
        LB_TRY(adapt(t, lb_source_qkv(ld, il, !name[LB_R_Q]), l->wqkv, &cols->dim, err));
    if (lat->wq_a)
        LB_TRY(adapt(t, lb_source_of(il, LB_R_Q_A, c->mla.q_rank, c->dim), lat->wq_a, &cols->dim, err));
    if (lat->wq_b)
        LB_TRY(adapt(t, lb_source_q_b(ld, il), lat->wq_b, c->mla.q_rank > 0 ? &cols->q_rank : &cols->dim, err));
    if (lat->wkv_a)
        LB_TRY(adapt(t, lb_source_of(il, LB_R_KV_A, c->mla.kv_rank + c->mla.rope_dim, c->dim), lat->wkv_a, &cols->dim,
                     err));
    LB_TRY(adapt(t, lb_source_o(ld, il), l->wo, &cols->heads, err));
    if (c->layer[il].moe)
        return LB_OK;
    LB_TRY(adapt(t, lb_source_gate_up(ld, il, !name[LB_R_GATE]), l->w_gate_up, &cols->dim, err));
    return adapt(t, lb_source_down(ld, il), l->w_down, &cols->ffn, err);
}

enum lb_status lb_weights_adapt(struct lb_weights *w, const struct lb_weights_spec *spec, const struct lb_lora_set *set,
                                struct lb_err *err)
{
    struct lb_loader ld = {.s = spec, .w = w};
    const struct adapting t = {&ld, set};
    for (int il = 0; il < w->n_layer; il++)
        LB_TRY(adapt_layer(&t, il, &w->layer[il], err));
    return LB_OK;
}
