/* config.json and generation_config.json of a Hugging Face directory (transformers: configuration_llama.py,
 * modeling_rope_utils.py). A member that is null counts as absent. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/model/config.h"

#define JSON_MAX_BYTES ((size_t)16 << 20)

/* An object of a file, and how messages name its members. */
struct source {
    const char *path;
    const char *prefix; /* "", "rope_scaling." */
    const json_t *object;
};

static const json_t *member(const struct source *s, const char *key)
{
    const json_t *v = json_object_get(s->object, key);
    return json_is_null(v) ? NULL : v;
}

static enum lb_status wrong(const struct source *s, const char *key, const char *want, struct lb_err *err)
{
    return lb_err_set(err, LB_E_INPUT, "%s: %s%s is not %s", s->path, s->prefix, key, want);
}

/* These leave *out alone when the member is absent. */
static enum lb_status get_int(const struct source *s, const char *key, const int64_t range[2], int64_t *out,
                              struct lb_err *err)
{
    const json_t *v = member(s, key);
    if (!v)
        return LB_OK;
    if (!json_is_integer(v))
        return wrong(s, key, "a whole number", err);
    int64_t n = json_integer_value(v);
    if (n < range[0] || n > range[1])
        return lb_err_set(err, LB_E_INPUT, "%s: %s%s is %lld; it must lie between %lld and %lld", s->path, s->prefix,
                          key, (long long)n, (long long)range[0], (long long)range[1]);
    *out = n;
    return LB_OK;
}

static enum lb_status get_real(const struct source *s, const char *key, const double range[2], double *out,
                               struct lb_err *err)
{
    const json_t *v = member(s, key);
    if (!v)
        return LB_OK;
    if (!json_is_number(v))
        return wrong(s, key, "a number", err);
    double x = json_number_value(v);
    if (!(x >= range[0] && x <= range[1]))
        return lb_err_set(err, LB_E_INPUT, "%s: %s%s is %g; it must lie between %g and %g", s->path, s->prefix, key, x,
                          range[0], range[1]);
    *out = x;
    return LB_OK;
}

static enum lb_status get_bool(const struct source *s, const char *key, bool *out, struct lb_err *err)
{
    const json_t *v = member(s, key);
    if (!v)
        return LB_OK;
    if (!json_is_boolean(v))
        return wrong(s, key, "true or false", err);
    *out = json_is_true(v);
    return LB_OK;
}

static enum lb_status get_text(const struct source *s, const char *key, const char **out, struct lb_err *err)
{
    const json_t *v = member(s, key);
    if (!v)
        return LB_OK;
    if (!json_is_string(v))
        return wrong(s, key, "a string", err);
    *out = json_string_value(v);
    return LB_OK;
}

static const int64_t size_range[2] = {1, LB_MAX_DIM};
static const int64_t head_range[2] = {1, LB_MAX_HEAD};
static const int64_t layer_range[2] = {1, LB_MAX_LAYER};
static const int64_t position_range[2] = {1, LB_MAX_POSITION};
static const int64_t any_range[2] = {INT64_MIN, INT64_MAX};
static const double eps_range[2] = {1e-30, 1};
static const double theta_range[2] = {1.001, 1e30};
static const double factor_range[2] = {1e-6, 1e6};
static const double from_zero[2] = {0, 1e6};
static const double share_range[2] = {1e-6, 1};

static enum lb_status parse_file(const char *path, json_t **out, struct lb_err *err)
{
    struct lb_str text = {0};
    json_error_t je;
    char shown[LB_SHOW_BYTES];
    *out = NULL;
    enum lb_status status = lb_file_read(path, JSON_MAX_BYTES, &text, err);
    if (status == LB_OK) {
        *out = json_loadb(text.data ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &je);
        if (!*out)
            status = lb_err_set(err, LB_E_INPUT, "%s: not valid JSON: %s (line %d)", path,
                                lb_wfile_show(shown, je.text, strlen(je.text)), je.line);
        else if (!json_is_object(*out))
            status = lb_err_set(err, LB_E_INPUT, "%s: not a JSON object", path);
    }
    lb_str_release(&text);
    return status;
}

static enum lb_status read_family(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    const json_t *list = member(s, "architectures");
    const char *arch = NULL, *type = NULL;
    char shown[LB_SHOW_BYTES], supported[256];
    LB_TRY(get_text(s, "model_type", &type, err));
    if (list) {
        arch = json_string_value(json_array_get(list, 0));
        if (!arch || json_array_size(list) != 1)
            return wrong(s, "architectures", "a list of one name", err);
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
static enum lb_status refuse_settings(const struct source *s, struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    const char *act = "silu", *method = "unknown";
    LB_TRY(get_text(s, "hidden_act", &act, err));
    if (strcmp(act, "silu") != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: hidden_act '%s' is not supported; supported: silu", s->path,
                          lb_wfile_show(shown, act, strlen(act)));
    const json_t *q = member(s, "quantization_config");
    if (!q)
        return LB_OK;
    struct source quant = {s->path, "quantization_config.", q};
    if (!json_is_object(q))
        return wrong(s, "quantization_config", "an object", err);
    LB_TRY(get_text(&quant, "quant_method", &method, err));
    return lb_err_set(err, LB_E_INPUT,
                      "%s: quantization_config: quant_method '%s' is not supported; supported: F32, F16 and BF16 "
                      "weights without quantization",
                      s->path, lb_wfile_show(shown, method, strlen(method)));
}

static enum lb_status read_sizes(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    double eps = 1e-6;
    c->n_vocab = 32000;
    c->dim = 4096;
    c->ffn_dim = 11008;
    c->n_layer = c->n_head = 32;
    LB_TRY(get_int(s, "vocab_size", size_range, &c->n_vocab, err));
    LB_TRY(get_int(s, "hidden_size", size_range, &c->dim, err));
    LB_TRY(get_int(s, "intermediate_size", size_range, &c->ffn_dim, err));
    LB_TRY(get_int(s, "num_hidden_layers", layer_range, &c->n_layer, err));
    LB_TRY(get_int(s, "num_attention_heads", head_range, &c->n_head, err));
    c->n_kv_head = c->n_head;
    LB_TRY(get_int(s, "num_key_value_heads", head_range, &c->n_kv_head, err));
    if (!member(s, "head_dim") && c->dim % c->n_head != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: hidden_size %lld is no multiple of num_attention_heads %lld", s->path,
                          (long long)c->dim, (long long)c->n_head);
    c->head_dim = c->dim / c->n_head;
    LB_TRY(get_int(s, "head_dim", size_range, &c->head_dim, err));
    LB_TRY(get_real(s, "rms_norm_eps", eps_range, &eps, err));
    c->norm_eps = (float)eps;
    LB_TRY(get_bool(s, "tie_word_embeddings", &c->tied, err));
    LB_TRY(get_bool(s, "attention_bias", &c->attn_bias, err));
    LB_TRY(get_bool(s, "mlp_bias", &c->mlp_bias, err));
    c->o_bias = c->attn_bias;
    return LB_OK;
}

static enum lb_status read_rope_type(struct lb_rope *r, const struct source *s, struct lb_err *err)
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
    LB_TRY(get_text(s, "type", &name, err));
    LB_TRY(get_text(s, "rope_type", &name, err));
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

static enum lb_status need(const struct source *s, const char *key, struct lb_err *err)
{
    if (member(s, key))
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: %s%s is missing", s->path, s->prefix, key);
}

/* s: the rope object, top: config.json itself. */
static enum lb_status read_scaling(struct lb_rope *r, const struct source *s, const struct source *top,
                                   struct lb_err *err)
{
    if (r->type == LB_ROPE_DEFAULT)
        return LB_OK;
    r->original_max = r->max_position;
    if (r->type == LB_ROPE_LLAMA3 || r->type == LB_ROPE_YARN) {
        LB_TRY(get_int(s, "original_max_position_embeddings", position_range, &r->original_max, err));
        /* some files keep it on top, where it wins */
        LB_TRY(get_int(top, "original_max_position_embeddings", position_range, &r->original_max, err));
    }
    if (r->type == LB_ROPE_YARN)
        r->factor = (double)r->max_position / (double)r->original_max;
    else
        LB_TRY(need(s, "factor", err));
    LB_TRY(get_real(s, "factor", factor_range, &r->factor, err));
    if (r->type == LB_ROPE_LLAMA3) {
        LB_TRY(need(s, "low_freq_factor", err));
        LB_TRY(need(s, "high_freq_factor", err));
        LB_TRY(get_real(s, "low_freq_factor", factor_range, &r->low_freq, err));
        LB_TRY(get_real(s, "high_freq_factor", factor_range, &r->high_freq, err));
    }
    if (r->type == LB_ROPE_YARN) {
        LB_TRY(get_real(s, "attention_factor", factor_range, &r->attention_factor, err));
        LB_TRY(get_real(s, "beta_fast", from_zero, &r->beta_fast, err));
        LB_TRY(get_real(s, "beta_slow", from_zero, &r->beta_slow, err));
        LB_TRY(get_real(s, "mscale", from_zero, &r->mscale, err));
        LB_TRY(get_real(s, "mscale_all_dim", from_zero, &r->mscale_all_dim, err));
        LB_TRY(get_bool(s, "truncate", &r->truncate, err));
        r->beta_fast = r->beta_fast > 0 ? r->beta_fast : 32;
        r->beta_slow = r->beta_slow > 0 ? r->beta_slow : 1;
    }
    return LB_OK;
}

/* rope_scaling, when it is there and not empty, is what newer files call rope_parameters. Inside wins over on top. */
static enum lb_status read_rope(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    struct lb_rope *r = &c->rope;
    struct source in = {s->path, "rope_scaling.", member(s, "rope_scaling")};
    double share = 1;
    const char *key;
    json_t *value;
    if (in.object && !json_is_object(in.object))
        return wrong(s, "rope_scaling", "an object", err);
    if (json_object_size(in.object) == 0) {
        in = (struct source){s->path, "rope_parameters.", member(s, "rope_parameters")};
        if (in.object && !json_is_object(in.object))
            return wrong(s, "rope_parameters", "an object", err);
    }
    json_object_foreach((json_t *)(uintptr_t)in.object, key, value) if (json_is_object(value)) return lb_err_set(
        err, LB_E_INPUT, "%s: %s settings for each kind of layer are not supported", s->path, in.prefix);
    *r = (struct lb_rope){.theta = 10000, .factor = 1, .truncate = true, .max_position = 2048};
    LB_TRY(get_int(s, "max_position_embeddings", position_range, &r->max_position, err));
    LB_TRY(get_real(s, "rope_theta", theta_range, &r->theta, err));
    LB_TRY(get_real(&in, "rope_theta", theta_range, &r->theta, err));
    LB_TRY(get_real(s, "partial_rotary_factor", share_range, &share, err));
    LB_TRY(get_real(&in, "partial_rotary_factor", share_range, &share, err));
    r->n_rot = (int64_t)((double)c->head_dim * share);
    LB_TRY(read_rope_type(r, &in, err));
    return read_scaling(r, &in, s, err);
}

/* A begin or pad id: -1 and ids outside the vocabulary count as absent, the latter with a warning. */
static enum lb_status read_id(const struct lb_config *c, const struct source *s, const char *key, int64_t *out,
                              const struct lb_log *log, struct lb_err *err)
{
    int64_t id = -1;
    LB_TRY(get_int(s, key, any_range, &id, err));
    if (id >= 0 && id < c->n_vocab)
        *out = id;
    else if (id != -1)
        lb_log_put(log, LB_LOG_WARN, "%s: %s %lld is left out: the vocabulary has %lld tokens", s->path, key,
                   (long long)id, (long long)c->n_vocab);
    return LB_OK;
}

static enum lb_status read_eos(struct lb_config *c, const struct source *s, const char *origin,
                               const struct lb_log *log, struct lb_err *err)
{
    const json_t *v = member(s, "eos_token_id");
    if (!v)
        return LB_OK;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > LB_MAX_EOS)
        return lb_err_set(err, LB_E_INPUT, "%s: eos_token_id lists %zu ids, more than %d", s->path, n, LB_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id))
            return wrong(s, "eos_token_id", "a whole number or a list of them", err);
        lb_config_add_eos(c, json_integer_value(id), origin, log);
    }
    return LB_OK;
}

static enum lb_status read_generation(struct lb_config *c, const struct source *s, const struct lb_log *log,
                                      struct lb_err *err)
{
    static const int64_t top_k_range[2] = {-1, INT32_MAX};
    static const double unit_range[2] = {0, 1};
    struct lb_gen_defaults *g = &c->gen;
    g->has_temperature = member(s, "temperature");
    g->has_top_p = member(s, "top_p");
    g->has_top_k = member(s, "top_k");
    g->has_min_p = member(s, "min_p");
    LB_TRY(get_bool(s, "do_sample", &g->do_sample, err));
    LB_TRY(get_real(s, "temperature", from_zero, &g->temperature, err));
    LB_TRY(get_real(s, "top_p", share_range, &g->top_p, err));
    LB_TRY(get_int(s, "top_k", top_k_range, &g->top_k, err));
    LB_TRY(get_real(s, "min_p", unit_range, &g->min_p, err));
    LB_TRY(read_id(c, s, "bos_token_id", &c->bos, log, err));
    LB_TRY(read_id(c, s, "pad_token_id", &c->pad, log, err));
    return read_eos(c, s, "generation_config.json", log, err);
}

static enum lb_status read_config(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    LB_TRY(read_family(c, s, err));
    LB_TRY(refuse_settings(s, err));
    LB_TRY(read_sizes(c, s, err));
    LB_TRY(read_rope(c, s, err));
    return lb_config_finish(c, s->path, err);
}

/* config.json's ids, after those of generation_config.json. The class has defaults, bos 1 and eos 2; the latter would
 * end texts of another vocabulary anywhere, so it counts only where no file says anything. */
static enum lb_status read_ids(struct lb_config *c, const struct source *s, const struct lb_log *log,
                               struct lb_err *err)
{
    bool bos_said = c->bos >= 0 || json_object_get(s->object, "bos_token_id");
    bool eos_said = c->n_eos > 0 || json_object_get(s->object, "eos_token_id");
    LB_TRY(read_id(c, s, "bos_token_id", &c->bos, log, err));
    LB_TRY(read_id(c, s, "pad_token_id", &c->pad, log, err));
    LB_TRY(read_eos(c, s, "config.json", log, err));
    if (!bos_said && c->n_vocab > 1)
        c->bos = 1;
    if (!eos_said)
        lb_config_add_eos(c, 2, "class default", log);
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
    LB_TRY_OUT(status, parse_file(path, &config, err));
    const struct source s = {path, "", config};
    LB_TRY_OUT(status, read_config(c, &s, err));
    if (lb_file_exists(gen_path)) {
        LB_TRY_OUT(status, parse_file(gen_path, &generation, err));
        const struct source g = {gen_path, "", generation};
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
