#include "core/model/lora.h"

#include <math.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/model/config_json.h"
#include "core/model/lora_match.h"

#define PREFIX "base_model.model."
#define MAX_MATCHES 20000 /* of patterns that are more than names, each of which may take a millisecond */

/* An adapter being read. */
struct reader {
    struct lb_lora *l;
    const struct lb_config *c;
    struct lb_cfg s;
    int64_t r;
    double alpha;
    bool rslora;
    struct lb_lora_module *all; /* [n_layer, LB_N_ROLE] */
    int n_match;
};

/* Whether a JSON value says nothing: null, false, an empty text, list or object. */
static bool says_nothing(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0) || (json_is_string(v) && json_string_length(v) == 0);
}

/* Members that change what is computed. */
static enum lb_status refuse_settings(const struct reader *r, struct lb_err *err)
{
    static const char *const list[][2] = {
        {"use_dora", "DoRA is not done"},
        {"lora_bias", "biases of adapters are not done"},
        {"modules_to_save", "whole modules beside the adapter are not done"},
        {"layer_replication", "repeated layers are not done"},
        {"target_parameters", "adapters of parameters, as of fused experts, are not done"},
        {"trainable_token_indices", "adapters of embeddings are not done"},
        {"alora_invocation_tokens", "adapters that begin at a token are not done"},
        {"megatron_config", "Megatron's layers are not done"},
        {"loftq_config", "it asks for a base model that is quantized in LoftQ's way"},
    };
    const char *key, *start = NULL;
    const json_t *v;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (!says_nothing(json_object_get(r->s.object, list[i][0])))
            return lb_err_set(err, LB_E_INPUT, "%s: %s is set: %s", r->s.path, list[i][0], list[i][1]);
    json_object_foreach((json_t *)(uintptr_t)r->s.object, key, v)
    {
        char shown[LB_SHOW_BYTES];
        if (strncmp(key, "use_", 4) == 0 && strcmp(key, "use_rslora") != 0 && !says_nothing(v))
            return lb_err_set(err, LB_E_INPUT, "%s: %s is set, which is not done", r->s.path,
                              lb_wfile_show(shown, key, strlen(key)));
    }
    const json_t *init = lb_cfg_member(&r->s, "init_lora_weights");
    if (init && !json_is_boolean(init)) {
        char shown[LB_SHOW_BYTES];
        LB_TRY(lb_cfg_text(&r->s, "init_lora_weights", &start, err));
        if (strcmp(start, "gaussian") != 0 && strcmp(start, "eva") != 0 && strcmp(start, "orthogonal") != 0)
            return lb_err_set(err, LB_E_INPUT, "%s: init_lora_weights '%s' changes the base model, which is not done",
                              r->s.path, lb_wfile_show(shown, start, strlen(start)));
    }
    return LB_OK;
}

static enum lb_status check_patterns(const struct reader *r, const char *key, bool ranks, struct lb_err *err)
{
    const json_t *object = lb_cfg_member(&r->s, key);
    const char *pattern;
    const json_t *v;
    if (!object)
        return LB_OK;
    if (!json_is_object(object))
        return lb_cfg_wrong(&r->s, key, "an object", err);
    json_object_foreach((json_t *)(uintptr_t)object, pattern, v)
    {
        bool fits = ranks
                        ? json_is_integer(v) && json_integer_value(v) >= 1 && json_integer_value(v) <= LB_LORA_MAX_RANK
                        : json_is_number(v) && fabs(json_number_value(v)) <= 1e6;
        if (!fits)
            return lb_cfg_wrong(&r->s, key, ranks ? "an object of ranks between 1 and 1024" : "an object of numbers",
                                err);
    }
    return LB_OK;
}

static enum lb_status read_settings(struct reader *r, struct lb_err *err)
{
    static const int64_t ranks[2] = {1, LB_LORA_MAX_RANK};
    static const double alphas[2] = {-1e6, 1e6};
    const char *type = "", *bias = "none";
    char shown[LB_SHOW_BYTES];
    LB_TRY(lb_cfg_text(&r->s, "peft_type", &type, err));
    if (strcmp(type, "LORA") != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: peft_type is '%s'; LORA is read", r->s.path,
                          lb_wfile_show(shown, type, strlen(type)));
    LB_TRY(refuse_settings(r, err));
    LB_TRY(lb_cfg_text(&r->s, "bias", &bias, err));
    if (strcmp(bias, "none") != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: bias is '%s': biases of adapters are not done", r->s.path,
                          lb_wfile_show(shown, bias, strlen(bias)));
    r->r = 8;
    r->alpha = 8;
    LB_TRY(lb_cfg_int(&r->s, "r", ranks, &r->r, err));
    LB_TRY(lb_cfg_real(&r->s, "lora_alpha", alphas, &r->alpha, err));
    LB_TRY(lb_cfg_bool(&r->s, "use_rslora", &r->rslora, err));
    LB_TRY(check_patterns(r, "rank_pattern", true, err));
    return check_patterns(r, "alpha_pattern", false, err);
}

/* Time for one more pattern. */
static enum lb_status spend(struct reader *r, const char *key, const char *pattern, struct lb_err *err)
{
    r->n_match += !lb_lora_is_name(pattern);
    if (r->n_match <= MAX_MATCHES)
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: %s: so many patterns take too long", r->s.path, key);
}

/* The value of the first pattern that matches, in the file's order; NULL: none does. */
static enum lb_status find_pattern(struct reader *r, const char *key, const char *path, const json_t **value,
                                   struct lb_err *err)
{
    const char *pattern;
    const json_t *v, *object = lb_cfg_member(&r->s, key);
    *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)object, pattern, v)
    {
        bool matches;
        LB_TRY(spend(r, key, pattern, err));
        if (lb_lora_match(pattern, true, path, &matches, err) != LB_OK)
            return lb_err_where(err, "%s: %s", r->s.path, key);
        if (matches) {
            *value = v;
            return LB_OK;
        }
    }
    return LB_OK;
}

/* Whether a list of names or one pattern has the module. PEFT's peft.tuners.tuners_utils.check_target_module_exists:
 * names are the end of a path, a pattern is all of it. */
static enum lb_status is_among(struct reader *r, const char *key, const char *path, bool *among, struct lb_err *err)
{
    const json_t *v = lb_cfg_member(&r->s, key), *one;
    size_t i, n = strlen(path);
    *among = false;
    if (json_is_string(v)) {
        const char *pattern = json_string_value(v);
        *among = strcmp(pattern, "all-linear") == 0;
        LB_TRY(spend(r, key, pattern, err));
        if (!*among && lb_lora_match(pattern, false, path, among, err) != LB_OK)
            return lb_err_where(err, "%s: %s", r->s.path, key);
        return LB_OK;
    }
    if (v && !json_is_array(v))
        return lb_cfg_wrong(&r->s, key, "a text or a list of texts", err);
    json_array_foreach(v, i, one)
    {
        const char *name = json_string_value(one);
        size_t len = json_string_length(one);
        if (!name)
            return lb_cfg_wrong(&r->s, key, "a text or a list of texts", err);
        *among = *among || (len <= n && strcmp(path + n - len, name) == 0 && (len == n || path[n - len - 1] == '.'));
    }
    return LB_OK;
}

static enum lb_status is_transformed(const struct reader *r, int layer, bool *is, struct lb_err *err)
{
    const json_t *v = lb_cfg_member(&r->s, "layers_to_transform"), *one;
    size_t i;
    *is = !v || (json_is_integer(v) && json_integer_value(v) == layer);
    if (!v || json_is_integer(v))
        return LB_OK;
    if (!json_is_array(v))
        return lb_cfg_wrong(&r->s, "layers_to_transform", "a whole number or a list of them", err);
    json_array_foreach(v, i, one)
    {
        if (!json_is_integer(one))
            return lb_cfg_wrong(&r->s, "layers_to_transform", "a whole number or a list of them", err);
        *is = *is || json_integer_value(one) == layer;
    }
    return LB_OK;
}

/* A tensor's module must be one that the configuration asks for: PEFT would leave it out with a warning. */
static enum lb_status check_target(struct reader *r, const char *path, int layer, struct lb_err *err)
{
    bool asked = true, left_out = false, transformed;
    if (lb_cfg_member(&r->s, "target_modules"))
        LB_TRY(is_among(r, "target_modules", path, &asked, err));
    LB_TRY(is_among(r, "exclude_modules", path, &left_out, err));
    LB_TRY(is_transformed(r, layer, &transformed, err));
    const char *why = !asked        ? "target_modules does not name it"
                      : left_out    ? "exclude_modules names it"
                      : transformed ? NULL
                                    : "layers_to_transform leaves its layer out";
    if (!why)
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: the adapter has tensors of '%s', but %s", r->s.path, path, why);
}

/* Rows and columns of a module's weight; false: the layer has none. */
static bool module_shape(const struct lb_config *c, enum lb_role role, int layer, int64_t *n_row, int64_t *n_col)
{
    bool latent = c->mla.kv_rank > 0, ffn = !c->layer[layer].moe;
    int64_t q_dim = latent ? c->mla.nope_dim + c->mla.rope_dim : c->head_dim, kv = c->n_kv_head * c->head_dim;
    *n_col = c->dim;
    switch (role) {
    case LB_R_Q:
        *n_row = c->n_head * q_dim;
        return !latent || c->mla.q_rank == 0;
    case LB_R_K:
    case LB_R_V:
        *n_row = kv;
        return !latent;
    case LB_R_QKV:
        *n_row = c->n_head * q_dim + 2 * kv;
        return !latent;
    case LB_R_Q_A:
        *n_row = c->mla.q_rank;
        return latent && c->mla.q_rank > 0;
    case LB_R_Q_B:
        *n_row = c->n_head * q_dim;
        *n_col = c->mla.q_rank;
        return latent && c->mla.q_rank > 0;
    case LB_R_KV_A:
        *n_row = c->mla.kv_rank + c->mla.rope_dim;
        return latent;
    case LB_R_O:
        *n_row = c->dim;
        *n_col = c->n_head * c->out_dim;
        return true;
    case LB_R_GATE:
    case LB_R_UP:
        *n_row = c->ffn_dim;
        return ffn;
    case LB_R_GATE_UP:
        *n_row = 2 * c->ffn_dim;
        return ffn;
    case LB_R_DOWN:
        *n_row = c->dim;
        *n_col = c->ffn_dim;
        return ffn;
    default:
        return false;
    }
}

/* Role and layer of a module's path; false: the family knows none of that name. */
static bool find_role(const struct lb_config *c, const char *path, enum lb_role *role, int64_t *layer)
{
    for (int i = 0; i < LB_N_ROLE; i++) {
        const char *pattern = c->family->hf_tensor[i], *at = pattern ? strstr(pattern, "%d") : NULL;
        if (!at || strncmp(path, pattern, (size_t)(at - pattern)) != 0)
            continue;
        const char *digit = path + (at - pattern), *p = digit;
        for (*layer = 0; *p >= '0' && *p <= '9' && *layer < INT32_MAX; p++)
            *layer = 10 * *layer + (*p - '0');
        bool plain = p > digit && (*digit != '0' || p == digit + 1); /* one way to write a layer */
        if (plain && strcmp(p, at + 2) == 0) {
            *role = (enum lb_role)i;
            return true;
        }
    }
    return false;
}

/* Why a module that exists, or looks as if, has no adapter here. */
static const char *why_not(const struct lb_config *c, const char *path)
{
    const char *head = c->family->hf_tensor[LB_R_HEAD], *embed = c->family->hf_tensor[LB_R_EMBED];
    if ((head && strcmp(path, head) == 0) || (embed && strcmp(path, embed) == 0) || strstr(path, "embed_tokens"))
        return "adapters of embeddings and of the LM head are not done";
    if (strstr(path, ".mlp.experts") || strstr(path, ".mlp.shared_experts"))
        return "adapters of experts are not done";
    if (strstr(path, ".kv_b_proj"))
        return "latent attention takes this matrix apart: an adapter of it is not done";
    if (strstr(path, ".indexer.") || strstr(path, ".mlp.gate"))
        return "adapters of routers and indexers are not done";
    return "the model has no such module";
}

static enum lb_status check_tensor(const struct lb_wtensor *t, int64_t n_row, int64_t n_col, struct lb_err *err)
{
    if (t->type != LB_W_F32 && t->type != LB_W_F16 && t->type != LB_W_BF16)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has type %s; F32, F16 and BF16 are read in adapters",
                          t->file, t->name, t->type_name);
    if (t->n_dim == 2 && t->dim[0] == n_row && t->dim[1] == n_col)
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has shape [%lld, %lld]%s, [%lld, %lld] is right", t->file,
                      t->name, (long long)t->dim[0], t->n_dim > 1 ? (long long)t->dim[1] : 0LL,
                      t->n_dim == 2 ? "" : " in other dimensions", (long long)n_row, (long long)n_col);
}

/* Files A and B under their module. */
static enum lb_status take_tensor(struct reader *r, const struct lb_wtensor *t, struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    const char *name = lb_wfile_show(shown, t->name, strlen(t->name));
    static const char suffix_a[] = ".lora_A.weight", suffix_b[] = ".lora_B.weight";
    size_t n = strlen(t->name), suffix = sizeof suffix_a - 1, prefix = sizeof PREFIX - 1;
    const struct lb_config *c = r->c;
    if (strncmp(t->name, PREFIX, prefix) != 0 || n == prefix)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' is none of an adapter's: they begin with '" PREFIX "'",
                          t->file, name);
    const char *end = t->name + (n > prefix + suffix ? n - suffix : n);
    bool is_a = strcmp(end, suffix_a) == 0, is_b = strcmp(end, suffix_b) == 0;
    char path[256];
    size_t len = n - prefix - (is_a || is_b ? suffix : 0);
    if (len >= sizeof path)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s': the model has no such module", t->file, name);
    memcpy(path, t->name + prefix, len);
    path[len] = '\0';
    if (!is_a && !is_b)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' is neither lora_A.weight nor lora_B.weight: %s", t->file,
                          name,
                          strstr(path, "lora_embedding") ? "adapters of embeddings are not done"
                          : strstr(path, "lora_")        ? "this kind is not done"
                                                         : "whole modules beside the adapter are not done");
    enum lb_role role = LB_N_ROLE;
    int64_t layer = 0, n_row, n_col;
    bool known = find_role(c, path, &role, &layer);
    if (known && layer >= c->n_layer)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s': the model has %lld layers", t->file, name,
                          (long long)c->n_layer);
    if (!known || !module_shape(c, role, (int)layer, &n_row, &n_col))
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s': %s", t->file, name, why_not(c, path));
    struct lb_lora_module *m = &r->all[layer * LB_N_ROLE + role];
    m->role = role;
    m->layer = (int)layer;
    *(is_a ? &m->a : &m->b) = t;
    return LB_OK;
}

static enum lb_status finish_module(struct reader *r, struct lb_lora_module *m, struct lb_err *err)
{
    const struct lb_wtensor *one = m->a ? m->a : m->b;
    const json_t *rank, *alpha;
    int64_t n_row, n_col;
    if (!m->a || !m->b)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has no lora_%c beside it", one->file, one->name,
                          m->a ? 'B' : 'A');
    struct lb_tensor_name path = lb_family_tensor(r->c->family, 0, m->role, m->layer, "");
    LB_TRY(check_target(r, path.text, m->layer, err));
    LB_TRY(find_pattern(r, "rank_pattern", path.text, &rank, err));
    LB_TRY(find_pattern(r, "alpha_pattern", path.text, &alpha, err));
    m->rank = rank ? json_integer_value(rank) : r->r;
    double a = alpha ? json_number_value(alpha) : r->alpha;
    m->scale = (float)(a / (r->rslora ? sqrt((double)m->rank) : (double)m->rank));
    module_shape(r->c, m->role, m->layer, &n_row, &n_col);
    LB_TRY(check_tensor(m->a, m->rank, n_col, err));
    LB_TRY(check_tensor(m->b, n_row, m->rank, err));
    r->l->max_rank = m->rank > r->l->max_rank ? m->rank : r->l->max_rank;
    return LB_OK;
}

static enum lb_status read_tensors(struct reader *r, struct lb_err *err)
{
    struct lb_lora *l = r->l;
    char *path = lb_path_join(l->dir, "adapter_model.safetensors");
    if (!path)
        return lb_err_memory(err, l->dir, strlen(l->dir));
    enum lb_status status = LB_OK;
    if (!lb_file_exists(path))
        status = lb_err_set(err, LB_E_INPUT, "%s: no adapter_model.safetensors; other files of weights are not read",
                            l->dir);
    if (status == LB_OK)
        status = lb_safetensors_open_file(&l->file, path, err);
    lb_mem_free(path);
    LB_TRY(status);
    size_t n = (size_t)r->c->n_layer * LB_N_ROLE;
    l->module = r->all = lb_mem_new(n, sizeof *r->all);
    if (!r->all)
        return lb_err_memory(err, l->dir, n * sizeof *r->all);
    if (l->file.n_tensor == 0)
        return lb_err_set(err, LB_E_INPUT, "%s: adapter_model.safetensors has no tensors", l->dir);
    for (size_t i = 0; i < l->file.n_tensor; i++)
        LB_TRY(take_tensor(r, &l->file.tensor[i], err));
    for (size_t i = 0; i < n; i++) {
        if (!r->all[i].a && !r->all[i].b)
            continue;
        LB_TRY(finish_module(r, &r->all[i], err));
        l->module[l->n_module++] = r->all[i];
    }
    return LB_OK;
}

static enum lb_status open_one(struct lb_lora *l, const struct lb_lora_source *source, const struct lb_config *c,
                               struct lb_err *err)
{
    struct reader r = {.l = l, .c = c};
    json_t *object = NULL;
    l->name = lb_mem_strdup(source->name);
    l->dir = lb_mem_strdup(source->dir);
    char *path = lb_path_join(source->dir, "adapter_config.json");
    enum lb_status status = LB_OK;
    if (!l->name || !l->dir || !path)
        status = lb_err_memory(err, source->dir, strlen(source->dir));
    if (status == LB_OK)
        status = lb_cfg_open(path, &object, err);
    r.s = (struct lb_cfg){path, "", object};
    if (status == LB_OK)
        status = read_settings(&r, err);
    if (status == LB_OK)
        status = read_tensors(&r, err);
    json_decref(object);
    lb_mem_free(path);
    return status;
}

enum lb_status lb_lora_open(struct lb_lora_set *set, const struct lb_lora_source *source, int32_t n,
                            const struct lb_config *config, struct lb_err *err)
{
    *set = (struct lb_lora_set){0};
    if (n == 0)
        return LB_OK;
    if (n > LB_LORA_MAX_SET)
        return lb_err_set(err, LB_E_USAGE, "%d adapters; %d is the limit", n, LB_LORA_MAX_SET);
    set->adapter = lb_mem_new((size_t)n, sizeof *set->adapter);
    if (!set->adapter)
        return lb_err_memory(err, "adapters", (size_t)n * sizeof *set->adapter);
    set->n = n;
    enum lb_status status = LB_OK;
    for (int32_t i = 0; i < n && status == LB_OK; i++)
        status = open_one(&set->adapter[i], &source[i], config, err);
    if (status != LB_OK)
        lb_lora_close(set);
    return lb_mem_blame(status, "adapters", err);
}

void lb_lora_close(struct lb_lora_set *set)
{
    for (int32_t i = 0; i < set->n; i++) {
        struct lb_lora *l = &set->adapter[i];
        lb_wfile_close(&l->file);
        lb_mem_free(l->module);
        lb_mem_free(l->name);
        lb_mem_free(l->dir);
    }
    lb_mem_free(set->adapter);
    *set = (struct lb_lora_set){0};
}

const struct lb_lora_module *lb_lora_module_of(const struct lb_lora *l, enum lb_role role, int layer)
{
    for (size_t i = 0; i < l->n_module; i++)
        if (l->module[i].role == role && l->module[i].layer == layer)
            return &l->module[i];
    return NULL;
}

int64_t lb_lora_elements(const struct lb_lora_set *set)
{
    int64_t n = 0;
    for (int32_t i = 0; i < set->n; i++)
        for (size_t j = 0; j < set->adapter[i].n_module; j++)
            n += lb_wtensor_elements(set->adapter[i].module[j].a) + lb_wtensor_elements(set->adapter[i].module[j].b);
    return n;
}
