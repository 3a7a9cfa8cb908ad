#include "core/model/config_chatglm.h"

/* Switches that have one supported position; `absent` is the class's. */
static enum lb_status refuse_switches(const struct lb_cfg *s, struct lb_err *err)
{
    static const struct {
        const char *key;
        bool absent, supported;
    } table[] = {
        {"rmsnorm", true, true},
        {"post_layer_norm", true, true},
        {"apply_residual_connection_post_layernorm", false, false},
        {"multi_query_attention", false, true}, /* false: the rows of Q, K and V alternate head by head */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        bool is = table[i].absent;
        LB_TRY(lb_cfg_bool(s, table[i].key, &is, err));
        if (is != table[i].supported)
            return lb_err_set(err, LB_E_INPUT, "%s: %s %s is not supported; supported: %s", s->path, table[i].key,
                              is ? "true" : "false", table[i].supported ? "true" : "false");
    }
    int64_t bits = 0;
    LB_TRY(lb_cfg_int(s, "quantization_bit", lb_cfg_any, &bits, err));
    if (bits != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: quantization_bit %lld is not supported; supported: 0", s->path,
                          (long long)bits);
    if (lb_cfg_member(s, "pre_seq_len"))
        return lb_err_set(err, LB_E_INPUT, "%s: pre_seq_len (a prefix encoder) is not supported", s->path);
    return LB_OK;
}

enum lb_status lb_config_chatglm(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    static const double ratio_range[2] = {1e-3, 1e9};
    struct lb_rope *r = &c->rope;
    double ratio = 1;
    LB_TRY(refuse_switches(s, err));
    LB_TRY(lb_cfg_bool(s, "add_bias_linear", &c->o_bias, err));
    c->mlp_bias = c->attn_bias = c->o_bias;
    bool qkv = false;
    LB_TRY(lb_cfg_bool(s, "add_qkv_bias", &qkv, err));
    c->attn_bias = c->attn_bias || qkv;

    /* the class has no default, and half-split rotation gives other numbers */
    LB_TRY(lb_cfg_need(s, "original_rope", err));
    LB_TRY(lb_cfg_bool(s, "original_rope", &r->interleaved, err));
    LB_TRY(lb_cfg_real(s, "rope_ratio", ratio_range, &ratio, err));
    r->theta = 10000 * ratio;
    r->factor = 1;
    r->n_rot = (int64_t)((double)c->head_dim * c->family->rot_share);
    return LB_OK;
}
