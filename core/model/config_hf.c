/* config.json and generation_config.json of a Hugging Face directory (transformers: models/<family>/configuration_*.py,
 * modeling_rope_utils.py). */
#include <stdio.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/model/config_chatglm.h"
#include "core/model/config_mla.h"
#include "core/model/config_moe.h"
#include "core/model/config_quant.h"

static const int64_t head_range[2] = {1, LB_MAX_HEAD};
static const int64_t layer_range[2] = {1, LB_MAX_LAYER};
static const int64_t position_range[2] = {1, LB_MAX_POSITION};
static const double eps_range[2] = {1e-30, 1};
static const double theta_range[2] = {1.001, 1e30};

static enum lb_status read_family(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    const json_t *list = lb_cfg_member(s, "architectures");
    const char *arch = NULL, *type = NULL;
    char shown[LB_SHOW_BYTES], supported[LB_FAMILY_LIST_BYTES];
    LB_TRY(lb_cfg_text(s, "model_type", &type, err));
    if (list) {
        arch = json_string_value(json_array_get(list, 0));
        if (!arch || json_array_size(list) != 1)
            return lb_cfg_wrong(s, "architectures", "a list of one name", err);
    }
    if (!arch && !type)
        return lb_err_set(err, LB_E_INPUT, "%s: architectures and model_type are missing", s->path);
    lb_family_list(0, supported, sizeof supported);
    c->family = lb_family_by_hf(arch, type);
    if (!c->family && arch && lb_family_by_hf(arch, NULL))
        return lb_err_set(err, LB_E_INPUT, "%s: model_type '%s' is not '%s', as architecture %s has it", s->path,
                          lb_wfile_show(shown, type, strlen(type)), lb_family_by_hf(arch, NULL)->hf_type,
                          lb_family_by_hf(arch, NULL)->hf_arch);
    if (!c->family)
        return lb_err_set(err, LB_E_INPUT, "%s: %s '%s' is not supported; supported: %s", s->path,
                          arch ? "architecture" : "model_type",
                          lb_wfile_show(shown, arch ? arch : type, strlen(arch ? arch : type)), supported);
    snprintf(c->architecture, sizeof c->architecture, "%s", c->family->hf_arch);
    return LB_OK;
}

/* What would change the numbers and is not computed. */
static enum lb_status refuse_settings(const struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    const char *act = "silu";
    if (!lb_family_is(c->family, LB_FAM_CHATGLM))
        LB_TRY(lb_cfg_text(s, "hidden_act", &act, err));
    if (strcmp(act, "silu") != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: hidden_act '%s' is not supported; supported: silu", s->path,
                          lb_wfile_show(shown, act, strlen(act)));
    return LB_OK;
}

/* The family's sizes in its words; where the file says nothing, its class's. */
static enum lb_status read_sizes(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    static const int64_t *const range[LB_N_SIZE] = {
        [LB_S_VOCAB] = lb_cfg_size,    [LB_S_DIM] = lb_cfg_size,        [LB_S_FFN] = lb_cfg_size,
        [LB_S_LAYER] = layer_range,    [LB_S_HEAD] = head_range,        [LB_S_KV_HEAD] = head_range,
        [LB_S_HEAD_DIM] = lb_cfg_size, [LB_S_POSITION] = position_range};
    const struct lb_size_key *key = c->family->size;
    double eps = c->family->norm_eps;
    int64_t v[LB_N_SIZE];
    for (int i = 0; i < LB_N_SIZE; i++) {
        v[i] = key[i].value;
        LB_TRY(lb_cfg_int(s, key[i].key, range[i], &v[i], err));
    }
    c->n_vocab = v[LB_S_VOCAB];
    c->dim = v[LB_S_DIM];
    c->ffn_dim = v[LB_S_FFN];
    c->n_layer = v[LB_S_LAYER];
    c->n_head = v[LB_S_HEAD];
    bool as_heads = v[LB_S_KV_HEAD] == 0 || json_is_null(json_object_get(s->object, key[LB_S_KV_HEAD].key));
    c->n_kv_head = as_heads ? c->n_head : v[LB_S_KV_HEAD];
    c->head_dim = v[LB_S_HEAD_DIM];
    /* some classes round down, Llama refuses: every published file of such sizes says head_dim */
    if (c->head_dim == 0 && c->dim % c->n_head != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: %s is missing, and %s %lld is no multiple of %s %lld", s->path,
                          key[LB_S_HEAD_DIM].key, key[LB_S_DIM].key, (long long)c->dim, key[LB_S_HEAD].key,
                          (long long)c->n_head);
    if (c->head_dim == 0)
        c->head_dim = c->dim / c->n_head;
    c->rope.max_position = v[LB_S_POSITION];
    LB_TRY(lb_cfg_real(s, c->family->eps_key, eps_range, &eps, err));
    c->norm_eps = (float)eps;
    return lb_cfg_bool(s, "tie_word_embeddings", &c->tied, err);
}

static enum lb_status read_biases(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    c->attn_bias = lb_family_is(c->family, LB_FAM_QKV_BIAS) || lb_family_is(c->family, LB_FAM_BIASED);
    if (lb_family_is(c->family, LB_FAM_ATTENTION_BIAS))
        LB_TRY(lb_cfg_bool(s, "attention_bias", &c->attn_bias, err));
    c->o_bias = c->attn_bias && lb_family_is(c->family, LB_FAM_O_BIAS);
    c->qk_norm = lb_family_is(c->family, LB_FAM_QK_NORM);
    if (lb_family_is(c->family, LB_FAM_USE_QK_NORM))
        LB_TRY(lb_cfg_bool(s, "use_qk_norm", &c->qk_norm, err));
    return lb_family_is(c->family, LB_FAM_MLP_BIAS) ? lb_cfg_bool(s, "mlp_bias", &c->mlp_bias, err) : LB_OK;
}

/* layer_types, one name a layer. */
static enum lb_status read_layer_types(struct lb_config *c, const struct lb_cfg *s, int64_t window, struct lb_err *err)
{
    const json_t *list = lb_cfg_member(s, "layer_types");
    char shown[LB_SHOW_BYTES];
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->n_layer)
        return lb_cfg_wrong(s, "layer_types", "a list of one name for each layer", err);
    for (int64_t il = 0; il < c->n_layer; il++) {
        const char *name = json_string_value(json_array_get(list, (size_t)il));
        if (!name)
            return lb_cfg_wrong(s, "layer_types", "a list of names", err);
        bool sliding = strcmp(name, "sliding_attention") == 0;
        if (!sliding && strcmp(name, "full_attention") != 0)
            return lb_err_set(err, LB_E_INPUT,
                              "%s: layer_types '%s' is not supported; supported: full_attention, sliding_attention",
                              s->path, lb_wfile_show(shown, name, strlen(name)));
        if (sliding && window == 0)
            return lb_err_set(err, LB_E_INPUT,
                              "%s: layer_types names sliding_attention, but sliding_window is not in use", s->path);
        c->layer[il].window = sliding ? window : 0;
    }
    return LB_OK;
}

/* sliding_window null: no window; absent: the class's. */
static enum lb_status read_window(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    int64_t window = json_is_null(json_object_get(s->object, "sliding_window")) ? 0 : c->family->window, full = 28;
    bool use = lb_family_is(c->family, LB_FAM_WINDOW), some = lb_family_is(c->family, LB_FAM_WINDOW_LAYERS);
    if (some)
        LB_TRY(lb_cfg_bool(s, "use_sliding_window", &use, err));
    if (use)
        LB_TRY(lb_cfg_int(s, "sliding_window", position_range, &window, err));
    LB_TRY(lb_config_new_layers(c, use ? window : 0, err));
    if (!some)
        return LB_OK;
    if (lb_cfg_member(s, "layer_types"))
        return read_layer_types(c, s, use ? window : 0, err);
    LB_TRY(lb_cfg_int(s, "max_window_layers", lb_cfg_any, &full, err));
    for (int64_t il = 0; il < c->n_layer && il < full; il++)
        c->layer[il].window = 0;
    return LB_OK;
}

static enum lb_status read_rope_type(struct lb_rope *r, const struct lb_cfg *s, struct lb_err *err)
{
    static const struct {
        const char *name;
        enum lb_rope_type type;
    } known[] = {{"default", LB_ROPE_DEFAULT},
                 {"linear", LB_ROPE_LINEAR},
                 {"dynamic", LB_ROPE_DYNAMIC},
                 {"llama3", LB_ROPE_LLAMA3},
                 {"yarn", LB_ROPE_YARN}};
    char shown[LB_SHOW_BYTES];
    const char *name = "default";
    LB_TRY(lb_cfg_text(s, "type", &name, err));
    LB_TRY(lb_cfg_text(s, "rope_type", &name, err));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            r->type = known[i].type;
            return LB_OK;
        }
    }
    return lb_err_set(err, LB_E_INPUT,
                      "%s: rope type '%s' is not supported; supported: default, linear, dynamic, llama3, yarn", s->path,
                      lb_wfile_show(shown, name, strlen(name)));
}

/* s: the rope object, top: config.json itself. */
static enum lb_status read_scaling(struct lb_rope *r, const struct lb_cfg *s, const struct lb_cfg *top,
                                   struct lb_err *err)
{
    if (r->type == LB_ROPE_DEFAULT)
        return LB_OK;
    r->original_max = r->max_position;
    if (r->type == LB_ROPE_LLAMA3 || r->type == LB_ROPE_YARN) {
        LB_TRY(lb_cfg_int(s, "original_max_position_embeddings", position_range, &r->original_max, err));
        /* some files keep it on top, where it wins */
        LB_TRY(lb_cfg_int(top, "original_max_position_embeddings", position_range, &r->original_max, err));
    }
    if (r->type == LB_ROPE_YARN)
        r->factor = (double)r->max_position / (double)r->original_max;
    else
        LB_TRY(lb_cfg_need(s, "factor", err));
    LB_TRY(lb_cfg_real(s, "factor", lb_cfg_factor, &r->factor, err));
    LB_TRY(lb_cfg_real(s, "mscale_all_dim", lb_cfg_from_zero, &r->mscale_all_dim, err));
    if (r->type == LB_ROPE_LLAMA3) {
        LB_TRY(lb_cfg_need(s, "low_freq_factor", err));
        LB_TRY(lb_cfg_need(s, "high_freq_factor", err));
        LB_TRY(lb_cfg_real(s, "low_freq_factor", lb_cfg_factor, &r->low_freq, err));
        LB_TRY(lb_cfg_real(s, "high_freq_factor", lb_cfg_factor, &r->high_freq, err));
    }
    if (r->type == LB_ROPE_YARN) {
        LB_TRY(lb_cfg_real(s, "attention_factor", lb_cfg_factor, &r->attention_factor, err));
        LB_TRY(lb_cfg_real(s, "beta_fast", lb_cfg_from_zero, &r->beta_fast, err));
        LB_TRY(lb_cfg_real(s, "beta_slow", lb_cfg_from_zero, &r->beta_slow, err));
        LB_TRY(lb_cfg_real(s, "mscale", lb_cfg_from_zero, &r->mscale, err));
        LB_TRY(lb_cfg_bool(s, "truncate", &r->truncate, err));
        r->beta_fast = r->beta_fast > 0 ? r->beta_fast : 32;
        r->beta_slow = r->beta_slow > 0 ? r->beta_slow : 1;
    }
    return LB_OK;
}

/* rope_scaling, when it is there and not empty, is what newer files call rope_parameters. Inside wins over on top. */
static enum lb_status read_rope(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    struct lb_rope *r = &c->rope;
    struct lb_cfg in = {s->path, "rope_scaling.", lb_cfg_member(s, "rope_scaling")};
    double share = c->family->rot_share;
    const char *key;
    json_t *value;
    if (in.object && !json_is_object(in.object))
        return lb_cfg_wrong(s, "rope_scaling", "an object", err);
    if (json_object_size(in.object) == 0) {
        in = (struct lb_cfg){s->path, "rope_parameters.", lb_cfg_member(s, "rope_parameters")};
        if (in.object && !json_is_object(in.object))
            return lb_cfg_wrong(s, "rope_parameters", "an object", err);
    }
    json_object_foreach((json_t *)(uintptr_t)in.object, key, value) if (json_is_object(value)) return lb_err_set(
        err, LB_E_INPUT, "%s: %s settings for each kind of layer are not supported", s->path, in.prefix);
    *r = (struct lb_rope){.theta = 10000,
                          .factor = 1,
                          .truncate = true,
                          .max_position = r->max_position,
                          .interleaved = lb_family_is(c->family, LB_FAM_INTERLEAVED)};
    LB_TRY(lb_cfg_real(s, "rope_theta", theta_range, &r->theta, err));
    LB_TRY(lb_cfg_real(&in, "rope_theta", theta_range, &r->theta, err));
    LB_TRY(lb_cfg_real(s, "partial_rotary_factor", lb_cfg_share, &share, err));
    LB_TRY(lb_cfg_real(&in, "partial_rotary_factor", lb_cfg_share, &share, err));
    if (lb_family_is(c->family, LB_FAM_ROPE_KEY))
        LB_TRY(lb_cfg_bool(s, "rope_interleave", &r->interleaved, err));
    r->n_rot = (int64_t)((double)(c->mla.kv_rank > 0 ? c->mla.rope_dim : c->head_dim) * share);
    LB_TRY(read_rope_type(r, &in, err));
    return read_scaling(r, &in, s, err);
}

/* A begin or pad id: -1 and ids outside the vocabulary count as absent, the latter with a warning. */
static enum lb_status read_id(const struct lb_config *c, const struct lb_cfg *s, const char *key, int64_t *out,
                              const struct lb_log *log, struct lb_err *err)
{
    int64_t id = -1;
    LB_TRY(lb_cfg_int(s, key, lb_cfg_any, &id, err));
    if (id >= 0 && id < c->n_vocab)
        *out = id;
    else if (id != -1)
        lb_log_put(log, LB_LOG_WARN, "%s: %s %lld is left out: the vocabulary has %lld tokens", s->path, key,
                   (long long)id, (long long)c->n_vocab);
    return LB_OK;
}

static enum lb_status read_eos(struct lb_config *c, const struct lb_cfg *s, const char *origin,
                               const struct lb_log *log, struct lb_err *err)
{
    const json_t *v = lb_cfg_member(s, "eos_token_id");
    if (!v)
        return LB_OK;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > LB_MAX_EOS)
        return lb_err_set(err, LB_E_INPUT, "%s: eos_token_id lists %zu ids, more than %d", s->path, n, LB_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id))
            return lb_cfg_wrong(s, "eos_token_id", "a whole number or a list of them", err);
        lb_config_add_eos(c, json_integer_value(id), origin, log);
    }
    return LB_OK;
}

static enum lb_status read_generation(struct lb_config *c, const struct lb_cfg *s, const struct lb_log *log,
                                      struct lb_err *err)
{
    static const int64_t top_k_range[2] = {-1, INT32_MAX};
    static const double unit_range[2] = {0, 1};
    struct lb_gen_defaults *g = &c->gen;
    g->has_temperature = lb_cfg_member(s, "temperature");
    g->has_top_p = lb_cfg_member(s, "top_p");
    g->has_top_k = lb_cfg_member(s, "top_k");
    g->has_min_p = lb_cfg_member(s, "min_p");
    g->has_repetition = lb_cfg_member(s, "repetition_penalty");
    LB_TRY(lb_cfg_bool(s, "do_sample", &g->do_sample, err));
    LB_TRY(lb_cfg_real(s, "temperature", lb_cfg_from_zero, &g->temperature, err));
    LB_TRY(lb_cfg_real(s, "top_p", lb_cfg_share, &g->top_p, err));
    LB_TRY(lb_cfg_int(s, "top_k", top_k_range, &g->top_k, err));
    LB_TRY(lb_cfg_real(s, "min_p", unit_range, &g->min_p, err));
    LB_TRY(lb_cfg_real(s, "repetition_penalty", lb_cfg_factor, &g->repetition, err));
    LB_TRY(read_id(c, s, "bos_token_id", &c->bos, log, err));
    LB_TRY(read_id(c, s, "pad_token_id", &c->pad, log, err));
    return read_eos(c, s, "generation_config.json", log, err);
}

static enum lb_status read_config(struct lb_config *c, const struct lb_cfg *s, struct lb_err *err)
{
    LB_TRY(read_family(c, s, err));
    LB_TRY(refuse_settings(c, s, err));
    LB_TRY(read_sizes(c, s, err));
    LB_TRY(read_window(c, s, err));
    if (c->family->moe.n_expert > 0)
        LB_TRY(lb_config_moe(c, s, err));
    if (lb_family_is(c->family, LB_FAM_CHATGLM)) {
        LB_TRY(lb_config_chatglm(c, s, err));
    } else {
        LB_TRY(read_biases(c, s, err));
        if (c->family->mla.kv_rank > 0)
            LB_TRY(lb_config_mla(c, s, err));
        LB_TRY(read_rope(c, s, err));
    }
    return lb_config_finish(c, s->path, err);
}

/* config.json's ids, after those of generation_config.json. The class's end tokens would end texts of another
 * vocabulary anywhere, so they count only where no file says anything. */
static enum lb_status read_ids(struct lb_config *c, const struct lb_cfg *s, const struct lb_log *log,
                               struct lb_err *err)
{
    bool bos_said = c->bos >= 0 || json_object_get(s->object, "bos_token_id");
    bool eos_said = c->n_eos > 0 || json_object_get(s->object, "eos_token_id");
    LB_TRY(read_id(c, s, "bos_token_id", &c->bos, log, err));
    LB_TRY(read_id(c, s, "pad_token_id", &c->pad, log, err));
    LB_TRY(read_eos(c, s, "config.json", log, err));
    if (!bos_said && c->family->bos < c->n_vocab)
        c->bos = c->family->bos;
    for (int i = 0; !eos_said && i < c->family->n_eos; i++)
        lb_config_add_eos(c, c->family->eos[i], "class default", log);
    return LB_OK;
}

enum lb_status lb_config_read_dir(struct lb_config *c, const char *dir, const struct lb_log *log, struct lb_err *err)
{
    *c = (struct lb_config){.bos = -1, .pad = -1};
    json_t *config = NULL, *generation = NULL;
    char *path = lb_path_join(dir, "config.json"), *gen_path = lb_path_join(dir, "generation_config.json");
    enum lb_status status = LB_OK;
    if (!path || !gen_path) {
        status = lb_err_memory(err, dir, strlen(dir));
        goto out;
    }
    LB_TRY_OUT(status, lb_cfg_open(path, &config, err));
    const struct lb_cfg s = {path, "", config};
    LB_TRY_OUT(status, read_config(c, &s, err));
    LB_TRY_OUT(status, lb_config_read_quant(&c->pack, &s, dir, err));
    if (lb_file_exists(gen_path)) {
        LB_TRY_OUT(status, lb_cfg_open(gen_path, &generation, err));
        const struct lb_cfg g = {gen_path, "", generation};
        LB_TRY_OUT(status, read_generation(c, &g, log, err));
    }
    status = read_ids(c, &s, log, err);
out:
    json_decref(config);
    json_decref(generation);
    lb_mem_free(path);
    lb_mem_free(gen_path);
    if (status != LB_OK)
        lb_config_release(c);
    return status;
}
