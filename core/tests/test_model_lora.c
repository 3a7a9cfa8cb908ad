/* Adapters' files: what is read of PEFT's configuration, and that everything that is not done, or does not fit, is
 * refused with one line that names the file and the field or tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "core/model/lora.h"
#include "core/model/lora_match.h"
#include "core/tests/modelfiles.h"

#define LLAMA                                                                                \
    "{\"model_type\":\"llama\",\"vocab_size\":8,\"hidden_size\":8,\"intermediate_size\":12," \
    "\"num_hidden_layers\":3,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":6}"
#define Q0 "base_model.model.model.layers.0.self_attn.q_proj"
#define Q1 "base_model.model.model.layers.1.self_attn.q_proj"
#define DOWN1 "base_model.model.model.layers.1.mlp.down_proj"
#define LORA "\"peft_type\":\"LORA\""

struct tensor {
    const char *name, *dtype;
    int n_dim;
    int64_t dim[3];
};

static const struct tensor q0[] = {
    {Q0 ".lora_A.weight", "F32", 2, {4, 8}},
    {Q0 ".lora_B.weight", "F32", 2, {12, 4}},
};

static void put_tensors(const struct tensor *t, size_t n)
{
    static const char zeros[4096];
    struct lb_str header = {0};
    size_t at = 0;
    lb_str_puts(&header, "{");
    for (size_t i = 0; i < n; i++) {
        size_t bytes = strcmp(t[i].dtype, "F32") == 0 ? 4 : strcmp(t[i].dtype, "F64") == 0 ? 8 : 2;
        lb_str_putf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t[i].name, t[i].dtype);
        for (int d = 0; d < t[i].n_dim; d++) {
            lb_str_putf(&header, "%s%lld", d ? "," : "", (long long)t[i].dim[d]);
            bytes *= (size_t)t[i].dim[d];
        }
        lb_str_putf(&header, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes);
        at += bytes;
    }
    lb_str_puts(&header, "}");
    assert_true(at <= sizeof zeros);
    scratch_safetensors("adapter_model.safetensors", header.data, zeros, at);
    lb_str_release(&header);
}

/* The adapter in the scratch folder. */
static enum lb_status open_set(struct lb_lora_set *set, struct lb_config *c, const char *config, struct lb_err *err)
{
    static const struct lb_log silent;
    const struct lb_lora_source source = {"x", scratch};
    *err = (struct lb_err)LB_ERR_INIT;
    scratch_text("config.json", config);
    assert_int_equal(lb_config_read_dir(c, scratch, &silent, err), LB_OK);
    return lb_lora_open(set, &source, 1, c, err);
}

static void refused(const char *config, const struct tensor *t, size_t n, const char *says)
{
    struct lb_lora_set set;
    struct lb_config c;
    struct lb_err err;
    scratch_text("adapter_config.json", config);
    put_tensors(t, n);
    enum lb_status status = open_set(&set, &c, LLAMA, &err);
    if (status != LB_E_INPUT || !strstr(err.text, says) || strchr(err.text, '\n') || !strstr(err.text, scratch))
        fail_msg("%s: status %d, '%s' instead of '%s'", config, (int)status, err.text, says);
    lb_lora_close(&set);
    lb_config_release(&c);
}

static void test_settings(void **state)
{
    (void)state;
    static const struct {
        const char *config, *says;
    } bad[] = {
        {"{}", "peft_type is ''"},
        {"{\"peft_type\":\"IA3\"}", "peft_type is 'IA3'"},
        {"{\"peft_type\":1}", "peft_type is not a string"},
        {"[]", "not a JSON object"},
        {"{" LORA ",\"use_dora\":true}", "use_dora is set: DoRA"},
        {"{" LORA ",\"lora_bias\":true}", "lora_bias is set"},
        {"{" LORA ",\"bias\":\"all\"}", "bias is 'all'"},
        {"{" LORA ",\"bias\":\"lora_only\"}", "bias is 'lora_only'"},
        {"{" LORA ",\"modules_to_save\":[\"lm_head\"]}", "modules_to_save is set"},
        {"{" LORA ",\"layer_replication\":[[0,2],[1,3]]}", "layer_replication is set"},
        {"{" LORA ",\"target_parameters\":[\"mlp.experts.gate_up_proj\"]}", "target_parameters is set"},
        {"{" LORA ",\"trainable_token_indices\":[1]}", "trainable_token_indices is set"},
        {"{" LORA ",\"alora_invocation_tokens\":[1]}", "alora_invocation_tokens is set"},
        {"{" LORA ",\"use_qalora\":true}", "use_qalora is set"},
        {"{" LORA ",\"use_whatever\":1}", "use_whatever is set"},
        {"{" LORA ",\"init_lora_weights\":\"pissa_niter_4\"}", "init_lora_weights 'pissa_niter_4'"},
        {"{" LORA ",\"init_lora_weights\":\"olora\"}", "init_lora_weights 'olora'"},
        {"{" LORA ",\"init_lora_weights\":[]}", "init_lora_weights is not a string"},
        {"{" LORA ",\"r\":0}", "r is 0"},
        {"{" LORA ",\"r\":1025}", "r is 1025"},
        {"{" LORA ",\"r\":4.5}", "r is not a whole number"},
        {"{" LORA ",\"r\":5}", "shape [4, 8], [5, 8] is right"},
        {"{" LORA ",\"lora_alpha\":\"8\"}", "lora_alpha is not a number"},
        {"{" LORA ",\"lora_alpha\":1e300}", "lora_alpha is 1e+300"},
        {"{" LORA ",\"r\":4,\"rank_pattern\":[]}", "rank_pattern is not an object"},
        {"{" LORA ",\"r\":4,\"rank_pattern\":{\"q_proj\":0}}", "rank_pattern is not an object of ranks"},
        {"{" LORA ",\"r\":4,\"rank_pattern\":{\"q_proj\":3}}", "[3, 8] is right"},
        {"{" LORA ",\"r\":4,\"alpha_pattern\":{\"q_proj\":\"x\"}}", "alpha_pattern is not an object of numbers"},
        {"{" LORA ",\"r\":4,\"rank_pattern\":{\"(\":3}}", "rank_pattern: '(' is no pattern"},
        {"{" LORA ",\"r\":4,\"rank_pattern\":{\"(.*.*.*.*.*.*.*.*.*x)*y\":3}}", "takes too long"},
        {"{" LORA ",\"r\":4,\"target_modules\":[\"k_proj\"]}", "but target_modules does not name it"},
        {"{" LORA ",\"r\":4,\"target_modules\":[\"proj\"]}", "but target_modules does not name it"},
        {"{" LORA ",\"r\":4,\"target_modules\":\"q_proj\"}", "but target_modules does not name it"},
        {"{" LORA ",\"r\":4,\"target_modules\":[1]}", "target_modules is not a text or a list of texts"},
        {"{" LORA ",\"r\":4,\"target_modules\":7}", "target_modules is not a text or a list of texts"},
        {"{" LORA ",\"r\":4,\"exclude_modules\":[\"q_proj\"]}", "but exclude_modules names it"},
        {"{" LORA ",\"r\":4,\"layers_to_transform\":[1,2]}", "but layers_to_transform leaves its layer out"},
        {"{" LORA ",\"r\":4,\"layers_to_transform\":\"1\"}", "layers_to_transform is not a whole number"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(bad[i].config, q0, 2, bad[i].says);
}

static void test_tensors(void **state)
{
    (void)state;
#define PAIR(path, a, r, b)                                                \
    {                                                                      \
        {"base_model.model." path ".lora_A.weight", "F32", 2, {r, a}},     \
            {"base_model.model." path ".lora_B.weight", "F32", 2, {b, r}}, \
    }
    static const struct {
        struct tensor t[2];
        const char *says;
    } pairs[] = {
        {PAIR("lm_head", 8, 4, 8), "adapters of embeddings and of the LM head"},
        {PAIR("model.embed_tokens", 8, 4, 8), "adapters of embeddings and of the LM head"},
        {PAIR("model.layers.3.self_attn.q_proj", 8, 4, 12), "the model has 3 layers"},
        {PAIR("model.layers.00.self_attn.q_proj", 8, 4, 12), "the model has no such module"},
        {PAIR("model.layers.0.self_attn.q_proj.x", 8, 4, 12), "the model has no such module"},
        {PAIR("model.layers.99999999999999999999.self_attn.q_proj", 8, 4, 12), "the model has"},
        {PAIR("model.layers.0.self_attn.qkv_proj", 8, 4, 12), "the model has no such module"},
        {PAIR("model.layers.0.mlp.experts.0.up_proj", 8, 4, 12), "adapters of experts"},
        {PAIR("model.layers.0.input_layernorm", 8, 4, 12), "the model has no such module"},
        {PAIR("model.layers.0.self_attn.q_proj", 7, 4, 12), "lora_A.weight' has shape [4, 7], [4, 8] is right"},
        {PAIR("model.layers.0.self_attn.q_proj", 8, 4, 11), "lora_B.weight' has shape [11, 4], [12, 4] is right"},
        {PAIR("model.layers.0.self_attn.q_proj", 8, 3, 12), "has shape [3, 8], [4, 8] is right"},
        {{{Q0 ".lora_A.weight", "F32", 2, {4, 8}}, {Q1 ".lora_B.weight", "F32", 2, {12, 4}}},
         "q_proj.lora_A.weight' has no lora_B beside it"},
        {{{Q0 ".lora_A.weight", "F32", 3, {4, 8, 1}}, {Q0 ".lora_B.weight", "F32", 2, {12, 4}}}, "[4, 8] is right"},
        {{{Q0 ".lora_A.weight", "F32", 1, {32}}, {Q0 ".lora_B.weight", "F32", 2, {12, 4}}}, "[4, 8] is right"},
        {{{Q0 ".lora_A.weight", "F64", 2, {4, 8}}, {Q0 ".lora_B.weight", "F32", 2, {12, 4}}}, "has type F64"},
        {{{Q0 ".lora_magnitude_vector", "F32", 1, {12}}, {Q0 ".lora_B.weight", "F32", 2, {12, 4}}},
         "neither lora_A.weight nor lora_B.weight"},
        {{{"base_model.model.model.embed_tokens.lora_embedding_A", "F32", 2, {4, 8}},
          {Q0 ".lora_B.weight", "F32", 2, {12, 4}}},
         "adapters of embeddings are not done"},
        {{{"base_model.model.lm_head.weight", "F32", 2, {4, 8}}, {Q0 ".lora_B.weight", "F32", 2, {12, 4}}},
         "whole modules beside the adapter"},
        {{{"model.layers.0.self_attn.q_proj.lora_A.weight", "F32", 2, {4, 8}},
          {Q0 ".lora_B.weight", "F32", 2, {12, 4}}},
         "they begin with 'base_model.model.'"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        refused("{" LORA ",\"r\":4}", pairs[i].t, 2, pairs[i].says);
    refused("{" LORA ",\"r\":4}", q0, 1, "has no lora_B beside it");
    refused("{" LORA ",\"r\":4}", q0 + 1, 1, "has no lora_A beside it");
    refused("{" LORA ",\"r\":4}", q0, 0, "has no tensors");
}

/* A folder without one of the files, or with one that is cut. */
static void test_files(void **state)
{
    (void)state;
    struct lb_lora_set set;
    struct lb_config c;
    struct lb_err err;
    assert_int_equal(open_set(&set, &c, LLAMA, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "adapter_config.json"));
    lb_config_release(&c);
    scratch_text("adapter_config.json", "{" LORA "}");
    assert_int_equal(open_set(&set, &c, LLAMA, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "no adapter_model.safetensors"));
    lb_config_release(&c);
    scratch_text("adapter_model.safetensors", "12345678");
    assert_int_equal(open_set(&set, &c, LLAMA, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "adapter_model.safetensors: "));
    lb_config_release(&c);
}

static const struct lb_lora_module *module(const struct lb_lora_set *set, enum lb_role role, int layer)
{
    const struct lb_lora_module *m = lb_lora_module_of(&set->adapter[0], role, layer);
    assert_non_null(m);
    return m;
}

/* Ranks and scales of each module; the first pattern that fits counts, in the file's order. */
static void test_scales(void **state)
{
    (void)state;
    static const struct tensor t[] = {
        {Q0 ".lora_A.weight", "F32", 2, {4, 8}},     {Q0 ".lora_B.weight", "F16", 2, {12, 4}},
        {Q1 ".lora_A.weight", "BF16", 2, {9, 8}},    {Q1 ".lora_B.weight", "F32", 2, {12, 9}},
        {DOWN1 ".lora_A.weight", "F32", 2, {2, 12}}, {DOWN1 ".lora_B.weight", "F32", 2, {8, 2}},
    };
    static const struct {
        const char *config;
        double scale[3];
    } good[] = {
        {"{" LORA ",\"r\":4,\"lora_alpha\":10,\"rank_pattern\":{\"model.layers.1.self_attn.q_proj\":9,\"down_proj\":2},"
         "\"target_modules\":[\"q_proj\",\"mlp.down_proj\"],\"modules_to_save\":null,\"lora_dropout\":0.1,"
         "\"init_lora_weights\":true,\"use_dora\":false,\"fan_in_fan_out\":true}",
         {10.0 / 4, 10.0 / 9, 10.0 / 2}},
        {"{" LORA
         ",\"r\":4,\"lora_alpha\":10,\"use_rslora\":true,\"rank_pattern\":{\"1\\\\.self_attn\\\\.[qk]_proj\":9,"
         "\"q_proj\":4,\".*\":2},\"alpha_pattern\":{\"self_attn.q_proj\":3.5},"
         "\"target_modules\":\".*\\\\.(q|down)_proj\",\"layers_to_transform\":[0,1]}",
         {3.5 / 2, 3.5 / 3, 10 / 1.4142135623730951}},
        {"{" LORA
         ",\"lora_alpha\":-1,\"rank_pattern\":{\"(^model.layers.0.*)\":4,\"layers.1.mlp.down_proj\":2,\"q_proj\":9,"
         "\"self_attn.q_proj\":5},\"target_modules\":\"all-linear\",\"exclude_modules\":[\"lm_head\"]}",
         {-1.0 / 4, -1.0 / 9, -1.0 / 2}},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct lb_lora_set set;
        struct lb_config c;
        struct lb_err err;
        scratch_text("adapter_config.json", good[i].config);
        put_tensors(t, 6);
        if (open_set(&set, &c, LLAMA, &err) != LB_OK)
            fail_msg("%s: %s", good[i].config, err.text);
        assert_int_equal(set.adapter[0].n_module, 3);
        assert_int_equal(set.adapter[0].max_rank, 9);
        assert_int_equal(lb_lora_elements(&set), 4 * (8 + 12) + 9 * (8 + 12) + 2 * (12 + 8));
        const struct lb_lora_module *m[] = {module(&set, LB_R_Q, 0), module(&set, LB_R_Q, 1),
                                            module(&set, LB_R_DOWN, 1)};
        for (int k = 0; k < 3; k++)
            if (fabs((double)m[k]->scale - good[i].scale[k]) > 1e-6 * fabs(good[i].scale[k]))
                fail_msg("case %zu, module %d: scale %g, not %g", i, k, (double)m[k]->scale, good[i].scale[k]);
        assert_null(lb_lora_module_of(&set.adapter[0], LB_R_K, 0));
        lb_lora_close(&set);
        lb_config_release(&c);
    }
}

/* Against Python's re.match and re.fullmatch, evaluated by hand. */
static void test_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *path;
        bool behind, whole;
    } cases[] = {
        {"q_proj", "model.layers.1.self_attn.q_proj", true, false},
        {"proj", "model.layers.1.self_attn.q_proj", false, false},
        {"layers.1.self_attn.q_proj", "model.layers.1.self_attn.q_proj", true, false},
        {"layersx1", "model.layers.1", false, false},
        {"layers.1", "model.layersx1", true, false}, /* a period stands for any character */
        {"model.layers.1", "model.layers.1", true, true},
        {"model.layers.1", "model.layers.11", false, false},
        {"q_proj|k_proj", "model.k_proj", true, false},
        {"q_proj|model.k_proj", "model.k_proj", true, true},
        {".*\\.[0-4]\\..*q_proj", "model.layers.3.self_attn.q_proj", true, true},
        {".*\\.[0-4]\\..*q_proj", "model.layers.5.self_attn.q_proj", false, false},
        {"", "model", false, false},
        {"", "", true, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_err err = LB_ERR_INIT;
        bool behind, whole;
        assert_int_equal(lb_lora_match(cases[i].pattern, true, cases[i].path, &behind, &err), LB_OK);
        assert_int_equal(lb_lora_match(cases[i].pattern, false, cases[i].path, &whole, &err), LB_OK);
        if (behind != cases[i].behind || whole != cases[i].whole)
            fail_msg("'%s' on '%s': %d, %d", cases[i].pattern, cases[i].path, behind, whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_settings, scratch_empty),
        cmocka_unit_test_teardown(test_tensors, scratch_empty),
        cmocka_unit_test_teardown(test_files, scratch_empty),
        cmocka_unit_test_teardown(test_scales, scratch_empty),
        cmocka_unit_test(test_patterns),
    };
    return cmocka_run_group_tests_name("model/lora", tests, scratch_make, scratch_remove);
}
