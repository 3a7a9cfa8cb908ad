/* The families beside Llama: what config.json and GGUF keys mean to each, class defaults against transformers',
 * windows, ChatGLM's words and switches, tensor names. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/model/config.h"
#include "core/tests/modelfiles.h"

static char logged[4096];

static void keep_log(void *ctx, enum lb_log_level level, const char *text)
{
    (void)ctx;
    size_t at = strlen(logged);
    snprintf(logged + at, sizeof logged - at, "%d %s\n", (int)level, text);
}

static const struct lb_log log_all = {LB_LOG_DEBUG, keep_log, NULL};

static void configure(struct lb_config *c, const char *config)
{
    struct lb_err err = LB_ERR_INIT;
    scratch_empty(NULL);
    scratch_text("config.json", config);
    logged[0] = 0;
    if (lb_config_read_dir(c, scratch, &log_all, &err) != LB_OK)
        fail_msg("%s", err.text);
}

static void refused(const char *config, const char *text)
{
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    scratch_empty(NULL);
    scratch_text("config.json", config);
    if (lb_config_read_dir(&c, scratch, NULL, &err) != LB_E_INPUT)
        fail_msg("%s is not refused", config);
    if (!strstr(err.text, text) || !strstr(err.text, "config.json"))
        fail_msg("'%s' lacks '%s'", err.text, text);
    lb_config_release(&c);
}

/* The to_dict() of transformers 5.24.0's configuration classes without arguments (Qwen's sliding_window 4096 shows only
 * where it is in use); ChatGLM's as its own configuration_chatglm.py has them, with what it needs said. */
static const struct {
    const char *config;
    int64_t n_vocab, ffn_dim, n_layer, n_kv, head_dim, max_position, n_rot, window, bos;
    float eps;
    bool interleaved, attn_bias, o_bias;
    int n_eos;
    int32_t eos[3];
} defaults[] = {
    {"{\"model_type\":\"mistral\"}",
     32000,
     14336,
     32,
     8,
     128,
     131072,
     128,
     4096,
     1,
     1e-6f,
     false,
     false,
     false,
     1,
     {2}},
    {"{\"model_type\":\"qwen2\"}", 151936, 22016, 32, 32, 128, 32768, 128, 0, -1, 1e-6f, false, true, false, 0, {0}},
    {"{\"model_type\":\"qwen3\"}", 151936, 22016, 32, 32, 128, 32768, 128, 0, -1, 1e-6f, false, false, false, 0, {0}},
    {"{\"architectures\":[\"GlmForCausalLM\"]}",
     151552,
     13696,
     40,
     2,
     128,
     131072,
     64,
     0,
     -1,
     1.5625e-7f,
     true,
     true,
     false,
     3,
     {151329, 151336, 151338}},
    {"{\"model_type\":\"glm4\"}",
     151552,
     13696,
     40,
     2,
     128,
     131072,
     64,
     0,
     -1,
     1.5625e-7f,
     true,
     true,
     false,
     3,
     {151329, 151336, 151338}},
    {"{\"architectures\":[\"ChatGLMForConditionalGeneration\"],\"original_rope\":true,"
     "\"multi_query_attention\":true}",
     65024,
     13696,
     28,
     1,
     128,
     2048,
     64,
     0,
     -1,
     1e-5f,
     true,
     false,
     false,
     0,
     {0}},
};

static void class_defaults(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        struct lb_config c;
        configure(&c, defaults[i].config);
        assert_true(c.n_vocab == defaults[i].n_vocab && c.dim == 4096 && c.ffn_dim == defaults[i].ffn_dim &&
                    c.n_head == 32);
        assert_true(c.n_layer == defaults[i].n_layer && c.n_kv_head == defaults[i].n_kv &&
                    c.head_dim == defaults[i].head_dim);
        assert_true(c.rope.max_position == defaults[i].max_position && c.rope.n_rot == defaults[i].n_rot);
        assert_true(c.rope.theta == 10000 && c.rope.interleaved == defaults[i].interleaved &&
                    c.norm_eps == defaults[i].eps);
        assert_true(c.attn_bias == defaults[i].attn_bias && c.o_bias == defaults[i].o_bias && !c.mlp_bias && !c.tied);
        assert_true(c.bos == defaults[i].bos && c.n_eos == defaults[i].n_eos);
        for (int k = 0; k < c.n_eos; k++)
            assert_int_equal(c.eos[k].id, defaults[i].eos[k]);
        for (int64_t il = 0; il < c.n_layer; il++)
            assert_int_equal(c.layer[il].window, defaults[i].window);
        lb_config_release(&c);
    }
}

/* null is not absent: key/value heads as many as heads, no window; a head's width stays the class's. */
static void null_is_said(void **state)
{
    (void)state;
    struct lb_config c;
    configure(&c, "{\"model_type\":\"mistral\",\"num_key_value_heads\":null,\"sliding_window\":null}");
    assert_true(c.n_kv_head == 32 && c.layer[0].window == 0);
    lb_config_release(&c);
    configure(&c, "{\"model_type\":\"qwen3\",\"num_key_value_heads\":null,\"head_dim\":null,\"hidden_size\":64}");
    assert_true(c.n_kv_head == 32 && c.head_dim == 128);
    lb_config_release(&c);
}

#define QWEN(more) "{\"model_type\":\"qwen2\",\"num_hidden_layers\":4," more "}"

/* Which layers have a window, as transformers' Qwen2Config makes layer_types. */
static void windows(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        int64_t window[4];
    } t[] = {
        {QWEN("\"use_sliding_window\":false,\"sliding_window\":9,\"max_window_layers\":1"), {0, 0, 0, 0}},
        {QWEN("\"use_sliding_window\":true,\"sliding_window\":9,\"max_window_layers\":1"), {0, 9, 9, 9}},
        {QWEN("\"use_sliding_window\":true,\"sliding_window\":9,\"max_window_layers\":0"), {9, 9, 9, 9}},
        {QWEN("\"use_sliding_window\":true,\"sliding_window\":9"), {0, 0, 0, 0}},
        {QWEN("\"use_sliding_window\":true,\"max_window_layers\":3"), {0, 0, 0, 4096}},
        {QWEN("\"use_sliding_window\":true,\"sliding_window\":null,\"max_window_layers\":0"), {0, 0, 0, 0}},
        {QWEN("\"use_sliding_window\":true,\"sliding_window\":9,\"max_window_layers\":0,\"layer_types\":["
              "\"full_attention\",\"sliding_attention\",\"full_attention\",\"sliding_attention\"]"),
         {0, 9, 0, 9}},
        {"{\"model_type\":\"qwen3\",\"num_hidden_layers\":4,\"use_sliding_window\":true,\"sliding_window\":5,"
         "\"max_window_layers\":2}",
         {0, 0, 5, 5}},
        {"{\"model_type\":\"mistral\",\"num_hidden_layers\":4,\"sliding_window\":7}", {7, 7, 7, 7}},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":4,\"sliding_window\":7}", {0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_config c;
        configure(&c, t[i].config);
        for (int il = 0; il < 4; il++)
            assert_int_equal(c.layer[il].window, t[i].window[il]);
        lb_config_log(&c, &log_all);
        assert_true(!strstr(logged, "attention window") == (t[i].window[3] == 0));
        lb_config_release(&c);
    }
    refused(QWEN("\"layer_types\":[\"full_attention\"]"), "layer_types is not a list of one name for each layer");
    refused(QWEN("\"layer_types\":\"full_attention\""), "layer_types is not a list");
    refused(QWEN("\"layer_types\":[1,2,3,4]"), "layer_types is not a list of names");
    refused(QWEN("\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"chunked_attention\"]"),
            "layer_types 'chunked_attention' is not supported; supported: full_attention, sliding_attention");
    refused(QWEN("\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"sliding_attention\"]"),
            "layer_types names sliding_attention, but sliding_window is not in use");
    refused("{\"model_type\":\"mistral\",\"sliding_window\":0}", "sliding_window is 0");
    refused("{\"model_type\":\"mistral\",\"sliding_window\":true}", "sliding_window is not a whole number");
}

static void partial_rope(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        int64_t n_rot;
        double theta;
    } t[] = {
        {"{\"model_type\":\"glm\",\"partial_rotary_factor\":0.25,\"rope_theta\":77}", 32, 77},
        {"{\"model_type\":\"glm\",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":5.5}}", 64, 5.5},
        {"{\"model_type\":\"glm4\",\"partial_rotary_factor\":0.25,\"rope_theta\":77,\"rope_parameters\":{"
         "\"partial_rotary_factor\":1.0,\"rope_theta\":5.5}}",
         128, 5.5},
        {"{\"model_type\":\"glm4\",\"head_dim\":24}", 12, 10000},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_config c;
        configure(&c, t[i].config);
        assert_true(c.rope.n_rot == t[i].n_rot && c.rope.theta == t[i].theta && c.rope.interleaved);
        assert_true(fabs((double)c.rope.inv_freq[1] / pow(t[i].theta, -2.0 / (double)t[i].n_rot) - 1) < 3e-7);
        lb_config_release(&c);
    }
    refused("{\"model_type\":\"glm\",\"head_dim\":6}", "3 rotary dimensions of a head of 6");
}

static void biases(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        bool attn, o, mlp;
    } t[] = {
        {"{\"model_type\":\"llama\",\"attention_bias\":true,\"mlp_bias\":true}", true, true, true},
        {"{\"model_type\":\"mistral\",\"attention_bias\":true,\"mlp_bias\":true}", false, false, false},
        {"{\"model_type\":\"qwen2\",\"attention_bias\":false,\"mlp_bias\":true}", true, false, false},
        {"{\"model_type\":\"qwen3\",\"attention_bias\":true,\"mlp_bias\":true}", true, true, false},
        {"{\"model_type\":\"glm\",\"attention_bias\":true}", true, false, false},
        {"{\"model_type\":\"glm\",\"attention_bias\":false}", false, false, false},
        {"{\"model_type\":\"glm4\",\"attention_bias\":false,\"mlp_bias\":true}", false, false, false},
        {"{\"model_type\":\"chatglm\",\"original_rope\":true,\"multi_query_attention\":true,\"add_qkv_bias\":true}",
         true, false, false},
        {"{\"model_type\":\"chatglm\",\"original_rope\":true,\"multi_query_attention\":true,\"add_bias_linear\":true}",
         true, true, true},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_config c;
        configure(&c, t[i].config);
        if (c.attn_bias != t[i].attn || c.o_bias != t[i].o || c.mlp_bias != t[i].mlp)
            fail_msg("%s: %d %d %d", t[i].config, c.attn_bias, c.o_bias, c.mlp_bias);
        lb_config_release(&c);
    }
    refused("{\"model_type\":\"glm\",\"attention_bias\":1}", "attention_bias is not true or false");
    refused("{\"model_type\":\"qwen2\",\"hidden_act\":\"gelu\"}", "hidden_act 'gelu'");
}

#define CHATGLM(more) \
    "{\"architectures\":[\"ChatGLMModel\"],\"original_rope\":true,\"multi_query_attention\":true," more "}"

static void chatglm(void **state)
{
    (void)state;
    struct lb_config c;
    /* glm-4-9b-chat's file */
    configure(&c, CHATGLM("\"model_type\":\"chatglm\",\"num_layers\":40,\"padded_vocab_size\":151552,"
                          "\"vocab_size\":1,\"seq_length\":131072,\"layernorm_epsilon\":1.5625e-07,"
                          "\"multi_query_group_num\":2,\"rope_ratio\":500,\"ffn_hidden_size\":13696,"
                          "\"kv_channels\":128,\"rmsnorm\":true,\"post_layer_norm\":true,\"add_bias_linear\":false,"
                          "\"apply_residual_connection_post_layernorm\":false,\"add_qkv_bias\":true,"
                          "\"eos_token_id\":[151329,151336,151338],\"quantization_bit\":0,\"pre_seq_len\":null"));
    assert_true(c.n_layer == 40 && c.n_vocab == 151552 && c.rope.max_position == 131072 && c.norm_eps == 1.5625e-07f);
    assert_true(c.n_kv_head == 2 && c.rope.theta == 5e6 && c.ffn_dim == 13696 && c.attn_bias && c.n_eos == 3);
    assert_true(c.rope.n_rot == 64 && c.rope.interleaved && c.n_seg == 8);
    assert_string_equal(c.family->name, "chatglm");
    lb_config_release(&c);
    /* half-split: cogagent-9b */
    configure(&c, "{\"model_type\":\"chatglm\",\"original_rope\":false,\"multi_query_attention\":true}");
    assert_false(c.rope.interleaved);
    lb_config_release(&c);

    refused("{\"model_type\":\"chatglm\",\"multi_query_attention\":true}", "original_rope is missing");
    refused("{\"model_type\":\"chatglm\",\"original_rope\":true}", "multi_query_attention false is not supported");
    refused(CHATGLM("\"rmsnorm\":false"), "rmsnorm false is not supported; supported: true");
    refused(CHATGLM("\"post_layer_norm\":false"), "post_layer_norm false is not supported");
    refused(CHATGLM("\"apply_residual_connection_post_layernorm\":true"),
            "apply_residual_connection_post_layernorm true is not supported; supported: false");
    refused(CHATGLM("\"quantization_bit\":4"), "quantization_bit 4 is not supported; supported: 0");
    refused(CHATGLM("\"pre_seq_len\":128"), "pre_seq_len");
    refused(CHATGLM("\"rope_ratio\":0"), "rope_ratio is 0");
    refused(CHATGLM("\"multi_query_group_num\":3"), "32 attention heads are no multiple of 3");
    refused(CHATGLM("\"kv_channels\":6"), "3 rotary dimensions of a head of 6");
}

/* The metadata of a GGUF file of one layer without a vocabulary, and the tensors that the configuration looks at. */
static void gguf_of(const char *arch, const char *const *tensor, size_t n_tensor, uint32_t n_rot, uint32_t window)
{
    static const char *const u32[] = {"context_length",       "embedding_length",        "block_count",
                                      "feed_forward_length",  "attention.head_count",    "attention.head_count_kv",
                                      "rope.dimension_count", "attention.sliding_window"};
    const uint64_t value[] = {64, 32, 1, 64, 2, 1, n_rot, window};
    struct gguf_out o = {0};
    char key[64];
    gguf_begin(&o, n_tensor, 11);
    gguf_string(&o, "general.architecture", arch);
    for (int i = 0; i < 8; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, u32[i]);
        gguf_number(&o, key, LB_GGUF_U32, value[i]);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_float(&o, key, 1e-5f);
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    gguf_float(&o, key, 40000);
    for (size_t i = 0; i < n_tensor; i++) {
        const uint64_t ne[4] = {32, 8};
        gguf_tensor(&o, tensor[i], 0, ne, 1024);
    }
    gguf_pad(&o);
    for (size_t i = 0; i < n_tensor * 1024; i++)
        lb_str_putc(&o.s, 0);
    scratch_write("m.gguf", o.s.data, o.s.len);
    lb_str_release(&o.s);
}

static void gguf_architectures(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *tensor[3];
        uint32_t n_rot, window;
        bool interleaved, attn_bias, mlp_bias, tied;
    } t[] = {
        {"llama", {"token_embd.weight", "output.weight", NULL}, 16, 9, false, false, false, false},
        {"qwen2", {"token_embd.weight", "blk.0.attn_v.bias", NULL}, 16, 0, false, true, false, true},
        {"qwen3", {"token_embd.weight", "output.weight", NULL}, 16, 0, false, false, false, false},
        {"chatglm", {"token_embd.weight", "blk.0.attn_qkv.bias", "output.weight"}, 8, 0, true, true, false, false},
        {"glm4", {"token_embd.weight", "blk.0.ffn_up.bias", "output.weight"}, 8, 0, true, false, true, false},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_gguf g;
        struct lb_config c;
        struct lb_err err = LB_ERR_INIT;
        scratch_empty(NULL);
        gguf_of(t[i].arch, t[i].tensor, t[i].tensor[2] ? 3 : 2, t[i].n_rot, t[i].window);
        if (lb_gguf_open(&g, scratch_path("m.gguf"), &err) != LB_OK ||
            lb_config_read_gguf(&c, &g, &log_all, &err) != LB_OK)
            fail_msg("%s: %s", t[i].arch, err.text);
        assert_string_equal(c.architecture, t[i].arch);
        assert_true(c.rope.interleaved == t[i].interleaved && c.rope.n_rot == t[i].n_rot && c.rope.theta == 40000);
        assert_true(c.attn_bias == t[i].attn_bias && c.mlp_bias == t[i].mlp_bias && c.tied == t[i].tied && !c.o_bias);
        assert_true(c.layer[0].window == t[i].window && c.n_vocab == 8 && c.norm_eps == 1e-5f);
        lb_config_release(&c);
        lb_gguf_close(&g);
    }
    struct lb_gguf g;
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    scratch_empty(NULL);
    gguf_of("llama", t[0].tensor, 2, 8, 0); /* half of a head whose rows are stored in pairs over all of it */
    assert_int_equal(lb_gguf_open(&g, scratch_path("m.gguf"), &err), LB_OK);
    assert_int_equal(lb_config_read_gguf(&c, &g, NULL, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "key 'llama.rope.dimension_count' is 8"));
    lb_gguf_close(&g);
    err = (struct lb_err)LB_ERR_INIT;
    gguf_of("glm5moe", t[0].tensor, 2, 8, 0);
    assert_int_equal(lb_gguf_open(&g, scratch_path("m.gguf"), &err), LB_OK);
    assert_int_equal(lb_config_read_gguf(&c, &g, NULL, &err), LB_E_INPUT);
    assert_non_null(strstr(
        err.text,
        "'glm5moe' is not supported; supported: llama, qwen2, qwen3, glm4, glm4moe, chatglm, deepseek2, glm-dsa"));
    lb_gguf_close(&g);
}

static void names(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        enum lb_role role;
        const char *hf, *gguf;
    } t[] = {
        {"MistralForCausalLM", LB_R_GATE, "model.layers.7.mlp.gate_proj.weight", "blk.7.ffn_gate.weight"},
        {"Qwen3ForCausalLM", LB_R_Q_NORM, "model.layers.7.self_attn.q_norm.weight", "blk.7.attn_q_norm.weight"},
        {"GlmForCausalLM", LB_R_GATE_UP, "model.layers.7.mlp.gate_up_proj.weight", "blk.7.ffn_up.weight"},
        {"GlmForCausalLM", LB_R_GATE, "", ""},
        {"Glm4ForCausalLM", LB_R_POST_ATTN_NORM, "model.layers.7.post_self_attn_layernorm.weight",
         "blk.7.post_attention_norm.weight"},
        {"Glm4ForCausalLM", LB_R_POST_FFN_NORM, "model.layers.7.post_mlp_layernorm.weight",
         "blk.7.post_ffw_norm.weight"},
        {"Glm4MoeForCausalLM", LB_R_FFN_NORM, "model.layers.7.post_attention_layernorm.weight",
         "blk.7.post_attention_norm.weight"},
        {"Glm4MoeForCausalLM", LB_R_SHARED_UP, "model.layers.7.mlp.shared_experts.up_proj.weight",
         "blk.7.ffn_up_shexp.weight"},
        {"ChatGLMModel", LB_R_QKV, "transformer.encoder.layers.7.self_attention.query_key_value.weight",
         "blk.7.attn_qkv.weight"},
        {"ChatGLMModel", LB_R_HEAD, "transformer.output_layer.weight", "output.weight"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        const struct lb_family *f = lb_family_by_hf(t[i].arch, NULL);
        struct lb_tensor_name hf = lb_family_tensor(f, 0, t[i].role, 7, ".weight");
        struct lb_tensor_name gguf = lb_family_tensor(f, 1, t[i].role, 7, ".weight");
        assert_string_equal(hf.text, t[i].hf);
        assert_string_equal(gguf.text, t[i].gguf);
    }
    const struct lb_family *moe = lb_family_by_hf(NULL, "glm4_moe");
    assert_string_equal(lb_family_expert_tensor(moe, 0, LB_R_EXPERT_DOWN, 7, 103).text,
                        "model.layers.7.mlp.experts.103.down_proj.weight");
    char list[LB_FAMILY_LIST_BYTES];
    lb_family_list(0, list, sizeof list);
    assert_non_null(strstr(list, "ChatGLMForConditionalGeneration")); /* the last one still fits */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(class_defaults), cmocka_unit_test(null_is_said),
        cmocka_unit_test(windows),        cmocka_unit_test(partial_rope),
        cmocka_unit_test(biases),         cmocka_unit_test(chatglm),
        cmocka_unit_test(names),          cmocka_unit_test(gguf_architectures),
    };
    int failed = cmocka_run_group_tests(tests, scratch_make, NULL);
    scratch_remove(NULL);
    return failed;
}
