/* The configuration from GGUF metadata (llama.cpp: gguf-py/gguf/constants.py, src/llama-model.cpp). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/model/config.h"
#include "core/model/rope.h"
#include "kernels/args.h"

#define KEY_BYTES 96

/* Metadata whose keys begin with the architecture. */
struct source {
    const struct lb_gguf *g;
    const char *arch;
};

static const char *key_of(const struct source *s, const char *name, char *out)
{
    snprintf(out, KEY_BYTES, "%s.%s", s->arch, name);
    return out;
}

static enum lb_status need(const struct source *s, const char *name, struct lb_err *err)
{
    char key[KEY_BYTES];
    if (lb_gguf_find(s->g, key_of(s, name, key)))
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is missing", s->g->path, key);
}

/* These leave *out alone when the key is absent. */
static enum lb_status get_range(const struct source *s, const char *name, const int64_t range[2], int64_t *out,
                                struct lb_err *err)
{
    char key[KEY_BYTES];
    int64_t v;
    if (!lb_gguf_find(s->g, key_of(s, name, key)))
        return LB_OK;
    if (!lb_gguf_i64(s->g, key, &v))
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is not one whole number", s->g->path, key);
    if (v < range[0] || v > range[1])
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is %lld; it must lie between %lld and %lld", s->g->path, key,
                          (long long)v, (long long)range[0], (long long)range[1]);
    *out = v;
    return LB_OK;
}

static enum lb_status get_int(const struct source *s, const char *name, int64_t max, int64_t *out, struct lb_err *err)
{
    const int64_t range[2] = {1, max};
    return get_range(s, name, range, out, err);
}

static enum lb_status get_real(const struct source *s, const char *name, double min, double max, double *out,
                               struct lb_err *err)
{
    char key[KEY_BYTES];
    double v;
    if (!lb_gguf_find(s->g, key_of(s, name, key)))
        return LB_OK;
    if (!lb_gguf_f64(s->g, key, &v))
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is not a number", s->g->path, key);
    if (!(v >= min && v <= max))
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is %g; it must lie between %g and %g", s->g->path, key, v, min,
                          max);
    *out = v;
    return LB_OK;
}

static enum lb_status read_family(struct lb_config *c, const struct lb_gguf *g, struct lb_err *err)
{
    struct lb_bytes arch;
    char shown[LB_SHOW_BYTES], supported[LB_FAMILY_LIST_BYTES];
    if (!lb_gguf_str(g, "general.architecture", &arch))
        return lb_err_set(err, LB_E_INPUT, "%s: key 'general.architecture' is missing or not a string", g->path);
    c->family = lb_family_by_gguf(arch.data, arch.len);
    lb_family_list(1, supported, sizeof supported);
    if (!c->family)
        return lb_err_set(err, LB_E_INPUT, "%s: general.architecture '%s' is not supported; supported: %s", g->path,
                          lb_wfile_show(shown, arch.data, arch.len), supported);
    snprintf(c->architecture, sizeof c->architecture, "%s", c->family->gguf_arch);
    return LB_OK;
}

/* Keys that ask for other mathematics unless they are absent or hold the number that changes nothing. */
static enum lb_status refuse_settings(const struct source *s, const struct lb_family *f, struct lb_err *err)
{
    enum { N_MOE = 2 }; /* rows that a family with a mixture of experts reads */
    static const struct {
        const char *name;
        double neutral;
    } table[] = {
        {"expert_count", 0},
        {"nextn_predict_layers", 0},
        {"attention.scale", 0},
        {"attention.clamp_kqv", 0},
        {"attention.max_alibi_bias", 0},
        {"attention.temperature_scale", 0},
        {"attention.causal", 1},
        {"use_parallel_residual", 0},
        {"logit_scale", 0},
        {"residual_scale", 0},
        {"embedding_scale", 0},
        {"final_logit_softcapping", 0},
        {"attn_logit_softcapping", 0},
        {"rope.scaling.yarn_log_multiplier", 0},
        {"rope.scaling.yarn_ext_factor", 1},
        {"rope.scaling.yarn_attn_factor", 1},
    };
    char key[KEY_BYTES];
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        double v;
        bool known = i < N_MOE && f->moe.n_expert > 0;
        if (known || !lb_gguf_find(s->g, key_of(s, table[i].name, key)))
            continue;
        if (!lb_gguf_f64(s->g, key, &v))
            return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is not a number", s->g->path, key);
        if (v != table[i].neutral)
            return lb_err_set(err, LB_E_INPUT, "%s: key '%s' = %g is not supported; supported: %g", s->g->path, key, v,
                              table[i].neutral);
    }
    static const char *const unknown[] = {"attention.sliding_window_pattern", "rope.dimension_sections"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        if (lb_gguf_find(s->g, key_of(s, unknown[i], key)))
            return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is not supported", s->g->path, key);
    return LB_OK;
}

static enum lb_status read_vocab_size(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    const struct lb_gguf *g = s->g;
    struct lb_tensor_name name = lb_family_tensor(c->family, 1, LB_R_EMBED, 0, ".weight");
    const struct lb_wtensor *t = lb_wfile_find(&g->w, name.text);
    if (!t)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' is missing", g->path, name.text);
    if (t->n_dim != 2 || t->dim[0] < 1 || t->dim[0] > LB_MAX_DIM || t->dim[1] != c->dim)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' is not a matrix of 1 to %lld rows of %lld", g->path,
                          name.text, (long long)LB_MAX_DIM, (long long)c->dim);
    c->n_vocab = t->dim[0];
    int64_t said = c->n_vocab;
    LB_TRY(get_int(s, "vocab_size", LB_MAX_DIM, &said, err));
    if (said != c->n_vocab)
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s.vocab_size' is %lld, but tensor '%s' has %lld rows", g->path,
                          s->arch, (long long)said, name.text, (long long)c->n_vocab);
    if ((int64_t)g->vocab.n_token > c->n_vocab)
        return lb_err_set(err, LB_E_INPUT, "%s: %zu tokens, but tensor '%s' has only %lld rows", g->path,
                          g->vocab.n_token, name.text, (long long)c->n_vocab);
    return LB_OK;
}

/* block_count counts the layers of multi-token prediction behind the model's own. */
static enum lb_status read_layers(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    int64_t n_next = 0;
    LB_TRY(get_int(s, "block_count", LB_MAX_LAYER, &c->n_layer, err));
    const int64_t range[2] = {0, c->n_layer - 1};
    LB_TRY(get_range(s, "nextn_predict_layers", range, &n_next, err));
    c->n_layer -= n_next;
    return LB_OK;
}

static enum lb_status read_moe(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    static const char *const needed[] = {"expert_count", "expert_used_count", "expert_feed_forward_length"};
    static const int64_t any[2] = {0, LB_MAX_DIM}, sigmoid[2] = {2, 2}, flag[2] = {0, 1};
    struct lb_moe_shape *m = &c->moe;
    int64_t n_shared = 0, n_dense = 0, normalize = 0, gating = 2;
    double scale = 1;
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        LB_TRY(need(s, needed[i], err));
    m->n_group = m->n_group_used = 1;
    LB_TRY(get_int(s, "expert_count", LK_MAX_EXPERT, &m->n_expert, err));
    LB_TRY(get_int(s, "expert_used_count", LK_MAX_EXPERT, &m->n_used, err));
    LB_TRY(get_int(s, "expert_group_count", LK_MAX_EXPERT, &m->n_group, err));
    LB_TRY(get_int(s, "expert_group_used_count", LK_MAX_EXPERT, &m->n_group_used, err));
    LB_TRY(get_int(s, "expert_feed_forward_length", LB_MAX_DIM, &m->ffn_dim, err));
    LB_TRY(get_range(s, "expert_shared_count", any, &n_shared, err));
    LB_TRY(get_range(s, "leading_dense_block_count", any, &n_dense, err));
    LB_TRY(get_range(s, "expert_weights_norm", flag, &normalize, err));
    LB_TRY(get_range(s, "expert_gating_func", sigmoid, &gating, err));
    LB_TRY(get_real(s, "expert_weights_scale", 1e-6, 1e6, &scale, err));
    m->normalize = normalize == 1;
    m->scale = (float)scale;
    return lb_config_new_moe(c, n_shared, n_dense, s->g->path, err);
}

static bool has(const struct lb_config *c, const struct lb_gguf *g, enum lb_role role, int64_t layer,
                const char *suffix)
{
    struct lb_tensor_name name = lb_family_tensor(c->family, 1, role, (int)layer, suffix);
    return name.text[0] && lb_wfile_find(&g->w, name.text);
}

/* Older files, whose keys and values are not absorbed, have a head's widths in key_length and value_length; where the
 * `_mla` keys are, those two are the cache's. */
static enum lb_status read_mla(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    static const char *const needed[] = {"attention.kv_lora_rank", "rope.dimension_count"};
    struct lb_mla *m = &c->mla;
    char key[KEY_BYTES];
    int64_t query = c->dim / c->n_head;
    bool absorbed = lb_gguf_find(s->g, key_of(s, "attention.key_length_mla", key));
    m->v_dim = query;
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        LB_TRY(need(s, needed[i], err));
    LB_TRY(get_int(s, "attention.kv_lora_rank", LB_MAX_DIM, &m->kv_rank, err));
    LB_TRY(get_int(s, "attention.q_lora_rank", LB_MAX_DIM, &m->q_rank, err));
    LB_TRY(get_int(s, "rope.dimension_count", LB_MAX_DIM, &m->rope_dim, err));
    LB_TRY(get_int(s, absorbed ? "attention.key_length_mla" : "attention.key_length", LB_MAX_DIM, &query, err));
    LB_TRY(get_int(s, absorbed ? "attention.value_length_mla" : "attention.value_length", LB_MAX_DIM, &m->v_dim, err));
    if (absorbed)
        LB_TRY(need(s, "attention.value_length_mla", err));
    m->nope_dim = query - m->rope_dim;
    if (m->nope_dim < 1)
        return lb_err_set(err, LB_E_INPUT, "%s: a query head of %lld dimensions, of which %lld turn: not supported",
                          s->g->path, (long long)query, (long long)m->rope_dim);
    return LB_OK;
}

/* Which layers choose positions: the key says it, or else the tensors do. */
static enum lb_status read_index_layers(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    char key[KEY_BYTES];
    const struct lb_gguf_kv *kv = lb_gguf_find(s->g, key_of(s, "attention.indexer.types", key));
    const bool wide = kv && (kv->elem == LB_GGUF_U32 || kv->elem == LB_GGUF_I32);
    if (kv && (kv->type != LB_GGUF_ARRAY || kv->n < (uint64_t)c->n_layer || !(wide || kv->elem == LB_GGUF_BOOL)))
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is not a list of true and false for each layer", s->g->path,
                          key);
    for (int64_t il = 0; il < c->n_layer; il++) {
        bool full = has(c, s->g, LB_R_INDEX_K, il, ".weight");
        if (kv)
            full = kv->data[il * (wide ? 4 : 1)] != 0; /* 0 or 1, little-endian */
        c->layer[il].index_shared = !full;
    }
    if (c->layer[0].index_shared)
        return lb_err_set(err, LB_E_INPUT, "%s: layer 0 takes the positions that an earlier layer chose", s->g->path);
    return LB_OK;
}

static enum lb_status read_index(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    static const char *const needed[] = {"attention.indexer.head_count", "attention.indexer.key_length",
                                         "attention.indexer.top_k"};
    struct lb_index *x = &c->index;
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        LB_TRY(need(s, needed[i], err));
    LB_TRY(get_int(s, "attention.indexer.head_count", LB_MAX_HEAD, &x->n_head, err));
    LB_TRY(get_int(s, "attention.indexer.key_length", LB_MAX_DIM, &x->head_dim, err));
    LB_TRY(get_int(s, "attention.indexer.top_k", LB_MAX_DIM, &x->topk, err));
    LB_TRY(read_index_layers(c, s, err));
    return lb_config_finish_index(c, s->g->path, err);
}

static enum lb_status read_sizes(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    static const char *const needed[] = {"embedding_length", "feed_forward_length",
                                         "block_count",      "attention.head_count",
                                         "context_length",   "attention.layer_norm_rms_epsilon"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        LB_TRY(need(s, needed[i], err));
    double eps = 0;
    LB_TRY(get_int(s, "embedding_length", LB_MAX_DIM, &c->dim, err));
    LB_TRY(get_int(s, "feed_forward_length", LB_MAX_DIM, &c->ffn_dim, err));
    LB_TRY(read_layers(c, s, err));
    LB_TRY(get_int(s, "attention.head_count", LB_MAX_HEAD, &c->n_head, err));
    c->n_kv_head = c->n_head;
    LB_TRY(get_int(s, "attention.head_count_kv", LB_MAX_HEAD, &c->n_kv_head, err));
    LB_TRY(get_real(s, "attention.layer_norm_rms_epsilon", 1e-30, 1, &eps, err));
    c->norm_eps = (float)eps;

    if (c->family->mla.kv_rank > 0) {
        LB_TRY(read_mla(c, s, err));
        return read_vocab_size(c, s, err);
    }
    char key[KEY_BYTES];
    if (!lb_gguf_find(s->g, key_of(s, "attention.key_length", key)) && c->dim % c->n_head != 0)
        return lb_err_set(err, LB_E_INPUT, "%s: embedding_length %lld is no multiple of attention.head_count %lld",
                          s->g->path, (long long)c->dim, (long long)c->n_head);
    int64_t value_dim = c->dim / c->n_head;
    c->head_dim = value_dim;
    LB_TRY(get_int(s, "attention.key_length", LB_MAX_DIM, &c->head_dim, err));
    LB_TRY(get_int(s, "attention.value_length", LB_MAX_DIM, &value_dim, err));
    if (value_dim != c->head_dim)
        return lb_err_set(err, LB_E_INPUT, "%s: attention.key_length %lld and value_length %lld differ: not supported",
                          s->g->path, (long long)c->head_dim, (long long)value_dim);
    return read_vocab_size(c, s, err);
}

/* The metadata does not say which tensors exist; layer 0 does. */
static void read_presence(struct lb_config *c, const struct lb_gguf *g)
{
    c->tied = !has(c, g, LB_R_HEAD, 0, ".weight");
    static const enum lb_role qkv[] = {LB_R_QKV, LB_R_Q, LB_R_K, LB_R_V}, latent[] = {LB_R_Q_A, LB_R_KV_A};
    static const enum lb_role mlp[] = {LB_R_GATE_UP, LB_R_GATE, LB_R_UP, LB_R_DOWN};
    for (int i = 0; i < 4; i++) {
        c->attn_bias = c->attn_bias || has(c, g, qkv[i], 0, ".bias");
        c->mlp_bias = c->mlp_bias || has(c, g, mlp[i], 0, ".bias");
    }
    for (int i = 0; i < 2; i++)
        c->attn_bias = c->attn_bias || has(c, g, latent[i], 0, ".bias");
    c->o_bias = has(c, g, LB_R_O, 0, ".bias");
    c->qk_norm = lb_family_is(c->family, LB_FAM_QK_NORM) ||
                 (lb_family_is(c->family, LB_FAM_USE_QK_NORM) && has(c, g, LB_R_Q_NORM, 0, ".weight"));
}

/* One window for all layers; 0: none. */
static enum lb_status read_window(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    char key[KEY_BYTES];
    int64_t window = 0;
    if (lb_gguf_i64(s->g, key_of(s, "attention.sliding_window", key), &window) && window == 0)
        return lb_config_new_layers(c, 0, err);
    LB_TRY(get_int(s, "attention.sliding_window", LB_MAX_POSITION, &window, err));
    return lb_config_new_layers(c, window, err);
}

/* As llama.cpp: a factor without a type is linear, a type without a factor changes nothing. */
static enum lb_status read_rope_type(struct lb_rope *r, const struct source *s, struct lb_err *err)
{
    char key[KEY_BYTES], shown[LB_SHOW_BYTES];
    struct lb_bytes name = {"linear", 6};
    if (lb_gguf_find(s->g, key_of(s, "rope.scaling.type", key)) && !lb_gguf_str(s->g, key, &name))
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s' is not a string", s->g->path, key);
    LB_TRY(get_real(s, "rope.scale_linear", 0, 1e6, &r->factor, err));
    LB_TRY(get_real(s, "rope.scaling.factor", 0, 1e6, &r->factor, err));
    if (r->factor == 0)
        r->factor = 1;
    if (name.len == 4 && memcmp(name.data, "none", 4) == 0)
        r->type = LB_ROPE_DEFAULT;
    else if (name.len == 6 && memcmp(name.data, "linear", 6) == 0)
        r->type = r->factor == 1 ? LB_ROPE_DEFAULT : LB_ROPE_LINEAR;
    else if (name.len == 4 && memcmp(name.data, "yarn", 4) == 0)
        r->type = LB_ROPE_YARN;
    else
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s': '%s' is not supported; supported: none, linear, yarn",
                          s->g->path, key, lb_wfile_show(shown, name.data, name.len));
    return LB_OK;
}

static enum lb_status read_yarn(struct lb_rope *r, const struct source *s, struct lb_err *err)
{
    char key[KEY_BYTES];
    double attn = 1;
    r->original_max = r->max_position;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    LB_TRY(get_int(s, "rope.scaling.original_context_length", LB_MAX_POSITION, &r->original_max, err));
    LB_TRY(get_real(s, "rope.scaling.yarn_beta_fast", 1e-6, 1e6, &r->beta_fast, err));
    LB_TRY(get_real(s, "rope.scaling.yarn_beta_slow", 1e-6, 1e6, &r->beta_slow, err));
    if (!lb_gguf_find(s->g, key_of(s, "rope.scaling.attn_factor", key)))
        return LB_OK;
    LB_TRY(get_real(s, "rope.scaling.attn_factor", 1e-6, 1e6, &attn, err));
    /* here it multiplies what YaRN's factor gives, while config.json's attention_factor replaces it */
    r->attention_factor = attn * (r->factor > 1 ? 0.1 * log(r->factor) + 1 : 1);
    return LB_OK;
}

static enum lb_status read_rope(struct lb_config *c, const struct source *s, struct lb_err *err)
{
    struct lb_rope *r = &c->rope;
    bool paired = lb_family_is(c->family, LB_FAM_GGUF_PAIRED);
    *r = (struct lb_rope){
        .theta = 10000, .factor = 1, .n_rot = c->head_dim, .interleaved = lb_family_is(c->family, LB_FAM_INTERLEAVED)};
    LB_TRY(get_int(s, "context_length", LB_MAX_POSITION, &r->max_position, err));
    LB_TRY(get_real(s, "rope.freq_base", 1.001, 1e30, &r->theta, err));
    LB_TRY(get_int(s, "rope.dimension_count", LB_MAX_DIM, &r->n_rot, err));
    /* Q and K rows were reordered over the whole head, so a part of it can no longer be rotated half-split */
    if (paired && r->n_rot != c->head_dim)
        return lb_err_set(err, LB_E_INPUT,
                          "%s: key '%s.rope.dimension_count' is %lld, but a head has %lld dimensions: not supported",
                          s->g->path, s->arch, (long long)r->n_rot, (long long)c->head_dim);
    LB_TRY(read_rope_type(r, s, err));
    return r->type == LB_ROPE_YARN ? read_yarn(r, s, err) : LB_OK;
}

/* rope_freqs.weight: divisors of the angles, how llama3 scaling is written in GGUF. */
static enum lb_status apply_rope_freqs(struct lb_config *c, const struct lb_gguf *g, struct lb_err *err)
{
    const struct lb_wtensor *t = lb_wfile_find(&g->w, "rope_freqs.weight");
    int64_t n = c->rope.n_rot / 2;
    if (!t)
        return LB_OK;
    if (t->type != LB_W_F32 || t->n_dim != 1 || t->dim[0] != n)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor 'rope_freqs.weight' is not a vector of %lld F32 numbers",
                          g->path, (long long)n);
    float *divisor = lb_mem_new((size_t)n, sizeof *divisor);
    if (!divisor)
        return lb_err_memory(err, "rope_freqs.weight", t->n_bytes);
    memcpy(divisor, t->data, t->n_bytes);
    enum lb_status status = lb_rope_divide(&c->rope, divisor, g->path, err);
    lb_mem_free(divisor);
    return status;
}

static int64_t checked_id(const struct lb_config *c, const char *what, int64_t id, const struct lb_log *log)
{
    if (id < c->n_vocab)
        return id;
    lb_log_put(log, LB_LOG_WARN, "%s token %lld is left out: the vocabulary has %lld tokens", what, (long long)id,
               (long long)c->n_vocab);
    return -1;
}

static void read_ids(struct lb_config *c, const struct lb_vocab *v, const struct lb_log *log)
{
    const int64_t ends[] = {v->eos, v->eot, v->eom};
    c->bos = checked_id(c, "begin", v->bos, log);
    c->pad = checked_id(c, "pad", v->pad, log);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends[i] >= 0)
            lb_config_add_eos(c, ends[i], "gguf", log);
}

enum lb_status lb_config_read_gguf(struct lb_config *c, const struct lb_gguf *g, const struct lb_log *log,
                                   struct lb_err *err)
{
    enum lb_status status;
    *c = (struct lb_config){.bos = -1, .pad = -1, .gguf = true};
    LB_TRY_OUT(status, read_family(c, g, err));
    const struct source s = {g, c->family->gguf_arch};
    LB_TRY_OUT(status, refuse_settings(&s, c->family, err));
    LB_TRY_OUT(status, read_sizes(c, &s, err));
    read_presence(c, g);
    LB_TRY_OUT(status, read_window(c, &s, err));
    if (c->family->moe.n_expert > 0)
        LB_TRY_OUT(status, read_moe(c, &s, err));
    LB_TRY_OUT(status, read_rope(c, &s, err));
    if (c->family->index.topk > 0)
        LB_TRY_OUT(status, read_index(c, &s, err));
    LB_TRY_OUT(status, lb_config_finish(c, g->path, err));
    LB_TRY_OUT(status, apply_rope_freqs(c, g, err));
    read_ids(c, &g->vocab, log);
out:
    if (status != LB_OK)
        lb_config_release(c);
    return status;
}
