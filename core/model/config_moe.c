#include "core/model/config_moe.h"

#include <string.h>

#include "core/io/wfile.h"
#include "kernels/args.h"

/* Words that have one supported value. */
static enum lb_status refuse_words(const struct lb_cfg *s, struct lb_err *err)
{
    static const char *const table[][2] = {{"topk_method", "noaux_tc"}, {"scoring_func", "sigmoid"}};
    char shown[LB_SHOW_BYTES];
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const char *is = table[i][1];
        LB_TRY(lb_cfg_text(s, table[i][0], &is, err));
        if (strcmp(is, table[i][1]) != 0)
            return lb_err_set(err, LB_E_INPUT, "%s: %s '%s' is not supported; supported: %s", s->path, table[i][0],
                              lb_wfile_show(shown, is, strlen(is)), table[i][1]);
    }
    return LB_OK;
}

/* mlp_layer_types, one word a layer. */
static enum lb_status read_layer_types(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    const json_t *list = lb_cfg_member(s, "mlp_layer_types");
    char shown[LB_SHOW_BYTES];
    bool any = false;
    if (!list)
        return LB_OK;
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->n_layer)
        return lb_cfg_wrong(s, "mlp_layer_types", "a list of one name for each layer", err);
    for (int64_t il = 0; il < c->n_layer; il++) {
        const char *name = json_string_value(json_array_get(list, (size_t)il));
        if (!name)
            return lb_cfg_wrong(s, "mlp_layer_types", "a list of names", err);
        c->layer[il].moe = strcmp(name, "sparse") == 0;
        any = any || c->layer[il].moe;
        if (!c->layer[il].moe && strcmp(name, "dense") != 0)
            return lb_err_set(err, LB_E_INPUT, "%s: mlp_layer_types '%s' is not supported; supported: dense, sparse",
                              s->path, lb_wfile_show(shown, name, strlen(name)));
    }
    if (!any)
        c->moe = (struct lb_moe_shape){0};
    return LB_OK;
}

enum lb_status lb_config_moe(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    static const int64_t expert_range[2] = {1, LK_MAX_EXPERT}, shared_range[2] = {0, LB_MAX_DIM};
    const struct lb_family_moe *f = &c->family->moe;
    struct lb_moe_shape *m = &c->moe;
    int64_t n_shared = f->n_shared, n_dense = f->n_dense;
    double scale = f->scale;
    *m = (struct lb_moe_shape){.n_expert = f->n_expert,
                               .n_used = f->n_used,
                               .n_group = 1,
                               .n_group_used = 1,
                               .ffn_dim = f->ffn_dim,
                               .normalize = true};
    LB_TRY(refuse_words(s, err));
    LB_TRY(lb_cfg_int(s, "n_routed_experts", expert_range, &m->n_expert, err));
    LB_TRY(lb_cfg_int(s, "num_experts_per_tok", expert_range, &m->n_used, err));
    LB_TRY(lb_cfg_int(s, "n_group", expert_range, &m->n_group, err));
    LB_TRY(lb_cfg_int(s, "topk_group", expert_range, &m->n_group_used, err));
    LB_TRY(lb_cfg_int(s, "moe_intermediate_size", lb_cfg_size, &m->ffn_dim, err));
    LB_TRY(lb_cfg_int(s, "n_shared_experts", shared_range, &n_shared, err));
    LB_TRY(lb_cfg_int(s, "first_k_dense_replace", lb_cfg_any, &n_dense, err));
    LB_TRY(lb_cfg_real(s, "routed_scaling_factor", lb_cfg_factor, &scale, err));
    LB_TRY(lb_cfg_bool(s, "norm_topk_prob", &m->normalize, err));
    m->scale = (float)scale;
    LB_TRY(lb_config_new_moe(c, n_shared, lb_cfg_member(s, "mlp_layer_types") ? 0 : n_dense, s->path, err));
    return read_layer_types(c, s, err);
}
