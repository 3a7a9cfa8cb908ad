#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "core/tests/golden/golden.h"
#include "core/tests/modelfiles.h"

/* A golden model written as GGUF the way llama.cpp's converter does (names, keys, order of Q and K rows: spec/models.md
 * 2.2): the same ids and log-probabilities come out, to the last bit. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

struct pair {
    const char *hf, *gguf;
};

static const struct pair ends[] = {
    {"model.embed_tokens.", "token_embd."},
    {"model.norm.", "output_norm."},
    {"lm_head.", "output."},
    {"transformer.embedding.word_embeddings.", "token_embd."},
    {"transformer.encoder.final_layernorm.", "output_norm."},
    {"transformer.output_layer.", "output."},
};

static const struct pair parts[] = {
    {"input_layernorm.", "attn_norm."},
    {"self_attn.q_proj.", "attn_q."},
    {"self_attn.k_proj.", "attn_k."},
    {"self_attn.v_proj.", "attn_v."},
    {"self_attn.q_norm.", "attn_q_norm."},
    {"self_attn.k_norm.", "attn_k_norm."},
    {"self_attn.o_proj.", "attn_output."},
    {"post_attention_layernorm.", "ffn_norm."},
    {"post_self_attn_layernorm.", "post_attention_norm."},
    {"post_mlp_layernorm.", "post_ffw_norm."},
    {"mlp.gate_proj.", "ffn_gate."},
    {"mlp.up_proj.", "ffn_up."},
    {"mlp.gate_up_proj.", "ffn_up."},
    {"mlp.down_proj.", "ffn_down."},
    {"self_attention.query_key_value.", "attn_qkv."},
    {"self_attention.dense.", "attn_output."},
    {"mlp.dense_h_to_4h.", "ffn_up."},
    {"mlp.dense_4h_to_h.", "ffn_down."},
    {"mlp.gate.weight", "ffn_gate_inp.weight"},
    {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
    {"mlp.experts.0.gate_proj.", "ffn_gate_exps."}, /* and behind it the other experts */
    {"mlp.experts.0.up_proj.", "ffn_up_exps."},
    {"mlp.experts.0.down_proj.", "ffn_down_exps."},
    {"mlp.shared_experts.gate_proj.", "ffn_gate_shexp."},
    {"mlp.shared_experts.up_proj.", "ffn_up_shexp."},
    {"mlp.shared_experts.down_proj.", "ffn_down_shexp."},
    {"self_attn.q_a_proj.", "attn_q_a."},
    {"self_attn.q_a_layernorm.", "attn_q_a_norm."},
    {"self_attn.q_b_proj.", "attn_q_b."},
    {"self_attn.kv_a_proj_with_mqa.", "attn_kv_a_mqa."},
    {"self_attn.kv_a_layernorm.", "attn_kv_a_norm."},
    {"self_attn.kv_b_proj.", "attn_kv_b."}, /* in two as a rule: see split */
    {"self_attn.indexer.wq_b.", "indexer.attn_q_b."},
    {"self_attn.indexer.wk.", "indexer.attn_k."},
    {"self_attn.indexer.k_norm.", "indexer.k_norm."},
    {"self_attn.indexer.weights_proj.", "indexer.proj."},
    {"eh_proj.", "nextn.eh_proj."},
    {"enorm.", "nextn.enorm."},
};

/* Sizes of all goldens with latent attention. */
enum { N_HEAD = 4, Q_RANK = 32, KV_RANK = 24, NOPE = 12, ROPE = 8, V_DIM = 20 };

static const struct latent {
    bool split; /* kv_b_proj is in two tensors */
    float scale;
    uint32_t n_layer, index_head, index_dim, index_topk;
    const char *types; /* says which layers choose positions */
} lite = {true, 1.8f, 3, 0, 0, 0, NULL}, lite_whole = {false, 1.8f, 3, 0, 0, 0, NULL},
  dsa = {true, 2.5f, 3, 4, 16, 2048, NULL}, sparse = {true, 2.5f, 4, 8, 24, 24, NULL},
  sparse_said = {true, 2.5f, 4, 8, 24, 24, "\1\1\0\1"};

static const struct conversion {
    const char *model, *arch;
    bool paired;
    uint32_t n_head, n_kv, head_dim, n_rot, window;
    float eps, theta;
    uint32_t n_expert, n_next;
    const struct latent *latent; /* NULL: other attention */
} conversions[] = {
    {"llama-bias", "llama", true, 4, 2, 16, 16, 0, 1e-5f, 1e4f, 0, 0, NULL},
    {"mistral-swa", "llama", true, 4, 2, 16, 16, 20, 1e-5f, 1e4f, 0, 0, NULL},
    {"qwen2", "qwen2", false, 4, 2, 16, 16, 0, 1e-6f, 1e6f, 0, 0, NULL},
    {"qwen3", "qwen3", false, 4, 2, 32, 32, 0, 1e-6f, 1e6f, 0, 0, NULL},
    {"glm", "chatglm", false, 4, 2, 16, 8, 0, 1.5625e-07f, 4e4f, 0, 0, NULL},
    {"chatglm", "chatglm", false, 4, 2, 16, 8, 0, 1.5625e-07f, 4e4f, 0, 0, NULL},
    {"glm4", "glm4", false, 4, 2, 24, 12, 0, 1e-5f, 1e4f, 0, 0, NULL},
    {"glm4-moe", "glm4moe", false, 4, 2, 16, 8, 0, 1e-5f, 1e6f, 8, 1, NULL},
    {"glm4-moe-lite", "deepseek2", false, N_HEAD, 1, KV_RANK + ROPE, ROPE, 0, 1e-5f, 1e6f, 8, 1, &lite},
    {"glm4-moe-lite", "deepseek2", false, N_HEAD, N_HEAD, NOPE + ROPE, ROPE, 0, 1e-5f, 1e6f, 8, 0, &lite_whole},
    {"glm-moe-dsa", "glm-dsa", false, N_HEAD, 1, KV_RANK + ROPE, ROPE, 0, 1e-5f, 1e6f, 8, 0, &dsa},
    {"glm-moe-dsa-sparse", "glm-dsa", false, N_HEAD, 1, KV_RANK + ROPE, ROPE, 0, 1e-5f, 1e6f, 8, 0, &sparse},
    {"glm-moe-dsa-sparse", "glm-dsa", false, N_HEAD, 1, KV_RANK + ROPE, ROPE, 0, 1e-5f, 1e6f, 8, 1, &sparse_said},
};

/* false: a tensor that GGUF has not (rotary frequencies) */
static bool gguf_name(const char *hf, char *out, size_t n)
{
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t len = strlen(ends[i].hf);
        if (strncmp(hf, ends[i].hf, len) == 0) {
            snprintf(out, n, "%s%s", ends[i].gguf, hf + len);
            return true;
        }
    }
    const char *at = strstr(hf, "layers.");
    if (!at)
        return false;
    int layer = atoi(at + 7);
    at = strchr(at + 7, '.') + 1;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t len = strlen(parts[i].hf);
        if (strncmp(at, parts[i].hf, len) == 0) {
            snprintf(out, n, "blk.%d.%s%s", layer, parts[i].gguf, at + len);
            return true;
        }
    }
    return false;
}

/* glm4moe writes the FFN's norm under the name that others have for the attention output's. */
static bool name_of(const struct conversion *c, const char *hf, char *out, size_t n)
{
    char *at;
    if (!gguf_name(hf, out, n))
        return false;
    if (strcmp(c->arch, "glm4moe") == 0 && (at = strstr(out, "ffn_norm.")) != NULL)
        snprintf(at, n - (size_t)(at - out), "post_attention_norm.weight");
    return true;
}

/* Experts are stacked behind the first. */
static uint64_t n_stacked(const struct conversion *c, const char *hf)
{
    return strstr(hf, "mlp.experts.0.") ? c->n_expert : 1;
}

static void put_data(struct gguf_out *o, const struct conversion *c, const struct lb_wtensor *t, const char *name)
{
    bool head = strstr(name, "attn_q.") || strstr(name, "attn_k.");
    size_t row_bytes = t->n_bytes / (size_t)t->dim[0], half = c->head_dim / 2;
    for (size_t row = 0; row < (size_t)t->dim[0]; row++) {
        size_t at = row % c->head_dim, from = row;
        if (c->paired && head) /* row 2i + b is row b * half + i of Hugging Face's order */
            from = row - at + at % 2 * half + at / 2;
        lb_str_put(&o->s, (const char *)t->data + from * row_bytes, row_bytes);
    }
    gguf_pad(o);
}

/* kv_b_proj as two tensors: the keys' rows of each head turned over, [head, latent, key], and the values'. */
static bool split(const struct conversion *c, const char *name)
{
    return c->latent && c->latent->split && strstr(name, "attn_kv_b.");
}

static void put_split_names(struct gguf_out *o, const char *name)
{
    static const uint64_t ne[2][4] = {{NOPE, KV_RANK, N_HEAD}, {KV_RANK, V_DIM, N_HEAD}};
    for (int i = 0; i < 2; i++) {
        char part[128];
        snprintf(part, sizeof part, "%.*s%s", (int)(strstr(name, "attn_kv_b.") - name), name,
                 i ? "attn_v_b.weight" : "attn_k_b.weight");
        gguf_tensor(o, part, 0, ne[i], ne[i][0] * ne[i][1] * ne[i][2] * 4);
    }
}

static void put_split(struct gguf_out *o, const struct lb_wtensor *t)
{
    const size_t row = KV_RANK * 4, head = (NOPE + V_DIM) * row;
    const char *data = (const char *)t->data;
    for (size_t h = 0; h < N_HEAD; h++)
        for (size_t k = 0; k < KV_RANK; k++)
            for (size_t i = 0; i < NOPE; i++)
                lb_str_put(&o->s, data + h * head + i * row + k * 4, 4);
    gguf_pad(o);
    for (size_t h = 0; h < N_HEAD; h++)
        lb_str_put(&o->s, data + h * head + NOPE * row, V_DIM * row);
    gguf_pad(o);
}

/* The experts of one tensor, one behind the other. */
static void put_experts(struct gguf_out *o, const struct conversion *c, const struct lb_wfile *w, const char *first)
{
    const char *at = strstr(first, "experts.0.") + strlen("experts.");
    char name[128];
    for (uint32_t e = 0; e < c->n_expert; e++) {
        snprintf(name, sizeof name, "%.*s%u%s", (int)(at - first), first, e, at + 1);
        const struct lb_wtensor *t = lb_wfile_find(w, name);
        assert_non_null(t);
        lb_str_put(&o->s, (const char *)t->data, t->n_bytes);
    }
    gguf_pad(o);
}

enum { N_KEY = 21, N_LATENT_KEY = 10 };

/* Absorbed, a cached key is the latent and the part that turns, a cached value the latent, for all heads at once. */
static void put_latent_keys(struct gguf_out *o, const struct latent *c, const char *arch)
{
    const struct {
        const char *name;
        uint64_t v;
    } key[] = {{"attention.q_lora_rank", Q_RANK},
               {"attention.kv_lora_rank", KV_RANK},
               {"attention.indexer.head_count", c->index_head},
               {"attention.indexer.key_length", c->index_dim},
               {"attention.indexer.top_k", c->index_topk},
               {c->split ? "attention.value_length" : "unused_a", c->split ? KV_RANK : V_DIM},
               {c->split ? "attention.key_length_mla" : "unused_b", NOPE + ROPE},
               {c->split ? "attention.value_length_mla" : "attention.value_length", V_DIM}};
    char name[64];
    for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
        snprintf(name, sizeof name, "%s.%s", arch, key[i].name);
        gguf_number(o, name, LB_GGUF_U32, key[i].v);
    }
    snprintf(name, sizeof name, "%s.expert_weights_scale", arch);
    gguf_float(o, name, c->scale);
    snprintf(name, sizeof name, "%s.%s", arch, c->types ? "attention.indexer.types" : "unused_c");
    gguf_array(o, name, LB_GGUF_BOOL, c->n_layer);
    lb_str_put(&o->s, c->types ? c->types : "\0\0\0\0", c->n_layer);
}

static void put_keys(struct gguf_out *o, const struct conversion *c, uint64_t n_layer)
{
    const struct {
        const char *name;
        uint64_t v;
    } key[] = {{"context_length", 256},
               {"embedding_length", 64},
               {"feed_forward_length", 96},
               {"block_count", n_layer + c->n_next},
               {"attention.head_count", c->n_head},
               {"attention.head_count_kv", c->n_kv},
               {"attention.key_length", c->head_dim},
               {c->latent ? "unused" : "attention.value_length", c->head_dim},
               {"rope.dimension_count", c->n_rot},
               {"attention.sliding_window", c->window},
               {"expert_count", c->n_expert},
               {"nextn_predict_layers", c->n_next},
               {"expert_used_count", c->latent ? 2 : 3},
               {"expert_shared_count", 1},
               {"expert_feed_forward_length", 24},
               {"leading_dense_block_count", 1},
               {"expert_gating_func", 2}};
    char name[64];
    gguf_string(o, "general.architecture", c->arch);
    for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
        snprintf(name, sizeof name, "%s.%s", c->arch, key[i].name);
        gguf_number(o, name, LB_GGUF_U32, key[i].v);
    }
    snprintf(name, sizeof name, "%s.expert_weights_norm", c->arch);
    gguf_number(o, name, LB_GGUF_BOOL, 1);
    snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", c->arch);
    gguf_float(o, name, c->eps);
    snprintf(name, sizeof name, "%s.rope.freq_base", c->arch);
    gguf_float(o, name, c->theta);
    if (c->latent)
        put_latent_keys(o, c->latent, c->arch);
}

static void convert(const struct conversion *c)
{
    char dir[512], name[128];
    struct lb_wfile w;
    struct lb_err err = LB_ERR_INIT;
    snprintf(dir, sizeof dir, GOLDENS "%s", c->model);
    if (lb_safetensors_open(&w, dir, &err) != LB_OK)
        fail_msg("%s", err.text);
    struct gguf_out o = {0};
    uint64_t n = 0;
    for (size_t i = 0; i < w.n_tensor; i++)
        if (name_of(c, w.tensor[i].name, name, sizeof name))
            n += split(c, name) ? 2 : 1;
    gguf_begin(&o, n, N_KEY + (c->latent ? N_LATENT_KEY : 0));
    put_keys(&o, c, c->latent ? c->latent->n_layer : 3);
    for (size_t i = 0; i < w.n_tensor; i++) {
        const struct lb_wtensor *t = &w.tensor[i];
        const uint64_t n_stack = n_stacked(c, t->name);
        const uint64_t ne[4] = {(uint64_t)t->dim[t->n_dim - 1], t->n_dim == 2 ? (uint64_t)t->dim[0] : 0,
                                n_stack > 1 ? n_stack : 0};
        assert_int_equal(t->type, LB_W_F32);
        if (!name_of(c, t->name, name, sizeof name))
            continue;
        if (split(c, name))
            put_split_names(&o, name);
        else
            gguf_tensor(&o, name, 0, ne, n_stack * t->n_bytes);
    }
    gguf_pad(&o);
    for (size_t i = 0; i < w.n_tensor; i++)
        if (n_stacked(c, w.tensor[i].name) > 1)
            put_experts(&o, c, &w, w.tensor[i].name);
        else if (name_of(c, w.tensor[i].name, name, sizeof name))
            split(c, name) ? put_split(&o, &w.tensor[i]) : put_data(&o, c, &w.tensor[i], name);
    scratch_write("m.gguf", o.s.data, o.s.len);
    lb_str_release(&o.s);
    lb_wfile_close(&w);
}

static json_t *short_rows(const char *model)
{
    char path[512];
    size_t i;
    json_t *row;
    snprintf(path, sizeof path, GOLDENS "%s/golden.jsonl", model);
    json_t *rows = golden_read(path);
    if (golden_extent() < EXTENT_SAMPLE)
        golden_thin(rows, golden_extent() == EXTENT_SANITIZED ? 6 : 3);
    json_array_foreach(rows, i, row)
    {
        json_t *ids = json_object_get(row, "prompt_token_ids");
        json_array_set_new(
            rows, i,
            json_pack("{s:O,s:i,s:b,s:i}", "prompt_token_ids", ids, "max_tokens", 6, "ignore_eos", 1, "logprobs", 4));
    }
    return rows;
}

static void compare(const struct conversion *c, const char *dtype, const json_t *rows)
{
    char path[512];
    struct lb_options o;
    struct golden_out dir, gguf;
    json_t *row;
    size_t i;
    snprintf(path, sizeof path, GOLDENS "%s", c->model);
    golden_options(&o, path);
    o.dtype = dtype;
    golden_run(&o, rows, &dir);
    o.model = scratch_path("m.gguf");
    o.log = (struct lb_log){0};
    golden_run(&o, rows, &gguf);
    assert_int_equal(json_array_size(gguf.rows), json_array_size(rows));
    json_array_foreach(gguf.rows, i, row)
    {
        const json_t *want = json_array_get(dir.rows, i);
        if (!json_object_get(row, "token_ids") ||
            !json_equal(json_object_get(row, "token_ids"), json_object_get(want, "token_ids")) ||
            !json_equal(json_object_get(row, "logprobs"), json_object_get(want, "logprobs")))
            fail_msg("%s as %s in %s: row %zu differs: %s", c->model, c->arch, dtype, i, gguf.text);
    }
    golden_out_release(&dir);
    golden_out_release(&gguf);
}

static void same_as_directory(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof conversions / sizeof *conversions; m++) {
        json_t *rows = short_rows(conversions[m].model);
        convert(&conversions[m]);
        if (golden_extent() == EXTENT_FULL || (golden_extent() == EXTENT_SAMPLE && m % 2))
            compare(&conversions[m], "f32", rows);
        compare(&conversions[m], "bf16", rows);
        json_decref(rows);
    }
}

int golden_ggufs(void);

int golden_ggufs(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_directory)};
    int failed = cmocka_run_group_tests_name("gguf", tests, scratch_make, NULL);
    scratch_remove(NULL);
    return failed;
}
