#include "core/model/config_mla.h"

#include <string.h>

/* Which layers choose positions: indexer_types, index_topk_pattern or a frequency, in this order. */
static enum lb_status read_index_layers(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    static const int64_t count_range[2] = {0, LB_MAX_LAYER};
    const json_t *types = lb_cfg_member(s, "indexer_types"), *pattern = lb_cfg_member(s, "index_topk_pattern");
    const char *key = types ? "indexer_types" : "index_topk_pattern",
               *letters = json_string_value(types ? NULL : pattern);
    const json_t *list = types ? types : pattern;
    int64_t freq = 1, offset = 2;
    size_t n = letters ? strlen(letters) : json_array_size(list);
    if (list && n != (size_t)c->n_layer)
        return lb_cfg_wrong(s, key, "one entry for each layer", err);
    LB_TRY(lb_cfg_int(s, "index_topk_freq", count_range, &freq, err));
    LB_TRY(lb_cfg_int(s, "index_skip_topk_offset", count_range, &offset, err));
    for (int64_t il = 0; il < c->n_layer; il++) {
        int64_t behind = il - offset + 1;
        bool full = behind <= 0 || behind % (freq > 0 ? freq : 1) == 0;
        if (list) {
            const char *word = json_string_value(json_array_get(list, (size_t)il));
            full = letters ? letters[il] == 'F' : word && strcmp(word, "full") == 0;
            if (!full && !(letters ? letters[il] == 'S' : word && strcmp(word, "shared") == 0))
                return lb_cfg_wrong(s, key, "a list of full and shared", err);
        }
        c->layer[il].index_shared = !full;
    }
    if (c->layer[0].index_shared)
        return lb_err_set(err, LB_E_INPUT, "%s: layer 0 takes the positions that an earlier layer chose", s->path);
    return LB_OK;
}

static enum lb_status read_index(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    static const int64_t topk_range[2] = {1, LB_MAX_DIM};
    struct lb_index *x = &c->index;
    *x = c->family->index;
    LB_TRY(lb_cfg_int(s, "index_topk", topk_range, &x->topk, err));
    LB_TRY(lb_cfg_int(s, "index_n_heads", lb_cfg_size, &x->n_head, err));
    LB_TRY(lb_cfg_int(s, "index_head_dim", lb_cfg_size, &x->head_dim, err));
    LB_TRY(read_index_layers(c, s, err));
    return lb_config_finish_index(c, s->path, err);
}

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
    return c->family->index.topk > 0 ? read_index(c, s, err) : LB_OK;
}
