#include "core/model/config_mla.h"

enum lb_status lb_config_mla(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    struct lb_mla *m = &c->mla;
    *m = c->family->mla;
    LB_TRY(lb_cfg_int(s, "kv_lora_rank", lb_cfg_size, &m->kv_rank, err));
    LB_TRY(lb_cfg_int(s, "q_lora_rank", lb_cfg_size, &m->q_rank, err));
    LB_TRY(lb_cfg_int(s, "qk_nope_head_dim", lb_cfg_size, &m->nope_dim, err));
    LB_TRY(lb_cfg_int(s, "qk_rope_head_dim", lb_cfg_size, &m->rope_dim, err));
    LB_TRY(lb_cfg_int(s, "v_head_dim", lb_cfg_size, &m->v_dim, err));
    if (json_is_null(json_object_get(s->object, "q_lora_rank"))) /* said, unlike absent: no latent of queries */
        m->q_rank = 0;
    return LB_OK;
}
