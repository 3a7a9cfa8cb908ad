/* The configuration: rope frequencies against worked values and transformers', every golden config.json, defaults, old
 * and new keys, what is refused, end tokens, segments, GGUF metadata. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/model/config.h"
#include "core/model/rope.h"
#include "core/tests/modelfiles.h"

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

static char logged[4096];

static void keep_log(void *ctx, enum lb_log_level level, const char *text)
{
    (void)ctx;
    size_t at = strlen(logged);
    snprintf(logged + at, sizeof logged - at, "%d %s\n", (int)level, text);
}

static const struct lb_log log_all = {LB_LOG_DEBUG, keep_log, NULL};

static void read_ok(struct lb_config *c, const char *dir)
{
    struct lb_err err = LB_ERR_INIT;
    logged[0] = 0;
    if (lb_config_read_dir(c, dir, &log_all, &err) != LB_OK)
        fail_msg("%s", err.text);
}

/* config.json with these members; generation_config.json with those, or none when NULL. */
static void configure(struct lb_config *c, const char *config, const char *generation)
{
    scratch_empty(NULL);
    scratch_text("config.json", config);
    if (generation)
        scratch_text("generation_config.json", generation);
    read_ok(c, scratch);
}

static void refused(const char *config, const char *generation, const char *text)
{
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    scratch_empty(NULL);
    scratch_text("config.json", config);
    if (generation)
        scratch_text("generation_config.json", generation);
    assert_int_equal(lb_config_read_dir(&c, scratch, NULL, &err), LB_E_INPUT);
    if (!strstr(err.text, text) || !strstr(err.text, scratch))
        fail_msg("'%s' lacks '%s'", err.text, text);
    lb_config_release(&c);
}

static void near(double is, double want, double relative)
{
    if (!(fabs(is - want) <= relative * fabs(want)))
        fail_msg("%.9g is not %.9g", is, want);
}

static void fill(struct lb_rope *r)
{
    struct lb_err err = LB_ERR_INIT;
    if (lb_rope_fill(r, "test", &err) != LB_OK)
        fail_msg("%s", err.text);
}

/* spec/models.md 1.2, eight digits. */
static void rope_worked_values(void **state)
{
    (void)state;
    static const struct {
        int model, i;
        double want;
    } t[] = {
        {0, 0, 1.0},
        {0, 1, 0.81461722},
        {0, 28, 3.2114461e-03},
        {0, 29, 2.1665705e-03},
        {0, 30, 1.3718937e-03},
        {0, 31, 8.5675146e-04},
        {0, 32, 5.2484606e-04},
        {0, 33, 3.1269369e-04},
        {0, 34, 1.7850780e-04},
        {0, 35, 9.5562122e-05},
        {0, 63, 3.0689259e-07},
        {1, 14, 3.2114461e-03},
        {1, 15, 1.2905480e-03},
        {1, 16, 4.2955669e-04},
        {1, 17, 9.7082869e-05},
        {1, 18, 1.9461639e-05},
        {1, 31, 9.4183065e-08},
        {2, 23, 6.9783060e-03},
        {2, 24, 5.3753215e-03},
        {2, 31, 8.0295979e-04},
        {2, 39, 6.4903947e-05},
        {2, 40, 4.4456985e-05},
    };
    struct lb_rope r[3] = {
        {.type = LB_ROPE_LLAMA3,
         .theta = 500000,
         .n_rot = 128,
         .factor = 8,
         .low_freq = 1,
         .high_freq = 4,
         .original_max = 8192,
         .max_position = 131072},
        {.type = LB_ROPE_LLAMA3,
         .theta = 500000,
         .n_rot = 64,
         .factor = 32,
         .low_freq = 1,
         .high_freq = 4,
         .original_max = 8192,
         .max_position = 131072},
        {.type = LB_ROPE_YARN,
         .theta = 1e6,
         .n_rot = 128,
         .factor = 4,
         .original_max = 32768,
         .beta_fast = 32,
         .beta_slow = 1,
         .truncate = true,
         .max_position = 131072},
    };
    for (int m = 0; m < 3; m++)
        fill(&r[m]);
    for (size_t k = 0; k < sizeof t / sizeof *t; k++)
        near((double)r[t[k].model].inv_freq[t[k].i], t[k].want, 2e-7);
    assert_true(r[0].scale == 1.0f && r[1].scale == 1.0f);
    near((double)r[2].scale, 1.13862944, 1e-7);
    for (int m = 0; m < 3; m++)
        free(r[m].inv_freq);
}

/* inv_freq and attention_scaling of transformers 5.23.0's LlamaRotaryEmbedding, head_dim 16, theta 10000 unless said.
 * Its power function may differ from libm's in the last bit. */
static void rope_as_transformers(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        double scale;
        float inv_freq[8];
    } t[] = {
        {"\"rope_theta\":10000.0",
         1,
         {1.0f, 0.316227764f, 0.100000001f, 0.0316227786f, 0.00999999978f, 0.00316227786f, 0.00100000005f,
          0.000316227786f}},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":3.0}",
         1,
         {0.333333343f, 0.105409257f, 0.0333333351f, 0.0105409259f, 0.00333333318f, 0.00105409266f, 0.000333333359f,
          0.000105409265f}},
        {"\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2},\"max_position_embeddings\":32",
         1,
         {1.0f, 0.316227764f, 0.100000001f, 0.0316227786f, 0.00999999978f, 0.00316227786f, 0.00100000005f,
          0.000316227786f}},
        {"\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500,\"factor\":8,\"low_freq_factor\":1.0,"
         "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}",
         1,
         {1.0f, 0.459863275f, 0.0976166278f, 0.0121561559f, 0.00559017016f, 0.0025707141f, 0.00118217699f,
          0.000543639821f}},
        {"\"max_position_embeddings\":163840,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,"
         "\"original_max_position_embeddings\":4096,\"mscale\":0.707,\"mscale_all_dim\":1.0,\"beta_fast\":24,"
         "\"beta_slow\":2,\"truncate\":false}",
         0.9210423553163399,
         {1.0f, 0.316227764f, 0.100000001f, 0.0297362674f, 0.0048861187f, 0.00011662647f, 2.49999994e-05f,
          7.90569447e-06f}},
        {"\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":10000,\"factor\":40,"
         "\"original_max_position_embeddings\":4096,\"attention_factor\":1.25}",
         1.25,
         {1.0f, 0.316227764f, 0.100000001f, 0.0239147246f, 0.00512499968f, 0.000849862176f, 2.49999994e-05f,
          7.90569447e-06f}},
        /* the range's end lies behind the last frequency, at 9 and at 15, where it is cut to head_dim - 1 */
        {"\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":131072}",
         1.138629436111989,
         {1.0f, 0.316227764f, 0.100000001f, 0.0316227786f, 0.00999999978f, 0.00316227786f, 0.000812500017f,
          0.000197642366f}},
        {"\"rope_theta\":100,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,"
         "\"original_max_position_embeddings\":131072}",
         1.138629436111989,
         {1.0f, 0.562341332f, 0.316227764f, 0.177827939f, 0.100000001f, 0.0562341288f, 0.0316227786f, 0.0177827943f}},
        /* factor null: max_position_embeddings / original; the top-level original wins; betas of 0 are the defaults */
        {"\"max_position_embeddings\":163840,\"original_max_position_embeddings\":4096,\"rope_scaling\":{"
         "\"rope_type\":\"yarn\",\"factor\":null,\"original_max_position_embeddings\":77,\"attention_factor\":1.25,"
         "\"beta_fast\":0,\"beta_slow\":null}",
         1.25,
         {1.0f, 0.316227764f, 0.100000001f, 0.0239147246f, 0.00512499968f, 0.000849862176f, 2.49999994e-05f,
          7.90569447e-06f}},
    };
    for (size_t k = 0; k < sizeof t / sizeof *t; k++) {
        struct lb_config c;
        char text[640];
        snprintf(text, sizeof text, "{\"model_type\":\"llama\",\"hidden_size\":64,\"num_attention_heads\":4,%s}",
                 t[k].config);
        configure(&c, text, NULL);
        assert_int_equal(c.rope.n_rot, 16);
        near((double)c.rope.scale, t[k].scale, 1e-7);
        for (int i = 0; i < 8; i++)
            near((double)c.rope.inv_freq[i], (double)t[k].inv_freq[i], 2e-7);
        lb_config_release(&c);
    }
}

static void defaults_of_the_class(void **state)
{
    (void)state;
    struct lb_config c;
    configure(&c, "{\"architectures\":[\"LlamaForCausalLM\"],\"rope_scaling\":null,\"head_dim\":null}", NULL);
    assert_string_equal(c.family->name, "llama");
    assert_string_equal(c.architecture, "LlamaForCausalLM");
    assert_true(c.n_vocab == 32000 && c.dim == 4096 && c.ffn_dim == 11008 && c.n_layer == 32 && c.n_head == 32);
    assert_true(c.n_kv_head == 32 && c.head_dim == 128 && c.norm_eps == 1e-6f && c.bos == 1 && c.pad == -1);
    assert_true(!c.tied && !c.attn_bias && !c.o_bias && !c.mlp_bias && !c.gguf && c.n_seg == 8);
    assert_true(c.rope.type == LB_ROPE_DEFAULT && c.rope.theta == 10000 && c.rope.max_position == 2048);
    assert_true(c.rope.n_rot == 128 && !c.rope.interleaved);
    assert_true(c.n_eos == 1 && c.eos[0].id == 2);
    assert_string_equal(c.eos[0].origin, "class default");
    assert_false(c.gen.do_sample || c.gen.has_temperature || c.gen.has_top_p || c.gen.has_top_k || c.gen.has_min_p);
    lb_config_release(&c);
    /* said to be none: no default */
    configure(&c, "{\"model_type\":\"llama\",\"eos_token_id\":null,\"bos_token_id\":null}", NULL);
    assert_true(c.n_eos == 0 && c.bos == -1);
    lb_config_release(&c);
}

static void old_and_new_keys(void **state)
{
    (void)state;
    static const char *const same[] = {
        "{\"model_type\":\"llama\",\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
        "{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_theta\":500000,\"rope_type\":\"linear\",\"factor\":2.0}"
        "}",
        "{\"model_type\":\"llama\",\"rope_theta\":77,\"rope_scaling\":{\"rope_theta\":5e5,\"type\":\"default\","
        "\"rope_type\":\"linear\",\"factor\":2},\"rope_parameters\":{\"rope_type\":\"default\"}}",
        "{\"model_type\":\"llama\",\"rope_theta\":5e5,\"rope_scaling\":{},\"rope_parameters\":{\"type\":\"linear\","
        "\"factor\":2}}",
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct lb_config c;
        configure(&c, same[i], NULL);
        assert_true(c.rope.type == LB_ROPE_LINEAR && c.rope.theta == 500000 && c.rope.factor == 2);
        near((double)c.rope.inv_freq[1], pow(500000, -2.0 / 128) / 2, 2e-7);
        lb_config_release(&c);
    }
    struct lb_config c;
    configure(&c, "{\"model_type\":\"llama\",\"partial_rotary_factor\":0.5}", NULL);
    assert_int_equal(c.rope.n_rot, 64);
    near((double)c.rope.inv_freq[1], pow(10000, -2.0 / 64), 2e-7);
    lb_config_release(&c);
    configure(&c, "{\"model_type\":\"llama\",\"rope_parameters\":{\"partial_rotary_factor\":0.25}}", NULL);
    assert_int_equal(c.rope.n_rot, 32);
    lb_config_release(&c);
}

static void end_tokens_are_a_union(void **state)
{
    (void)state;
    struct lb_config c;
    const char *base = "{\"model_type\":\"llama\",\"vocab_size\":100,\"eos_token_id\":[7,9],\"pad_token_id\":-1}";
    configure(
        &c, base,
        "{\"eos_token_id\":[9,8],\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.9,\"top_k\":20,\"min_p\":null,"
        "\"repetition_penalty\":1.05,\"bos_token_id\":5}");
    assert_int_equal(c.n_eos, 3);
    assert_true(c.eos[0].id == 9 && c.eos[1].id == 8 && c.eos[2].id == 7 && c.bos == 5 && c.pad == -1);
    assert_string_equal(c.eos[0].origin, "generation_config.json");
    assert_string_equal(c.eos[2].origin, "config.json");
    assert_true(c.gen.do_sample && c.gen.temperature == 0.6 && c.gen.top_p == 0.9 && c.gen.top_k == 20);
    assert_true(c.gen.has_temperature && c.gen.has_top_p && c.gen.has_top_k && !c.gen.has_min_p);
    assert_true(c.gen.has_repetition && c.gen.repetition == 1.05);
    lb_config_add_eos(&c, 8, "tokenizer", &log_all);
    assert_int_equal(c.n_eos, 3);
    lb_config_add_eos(&c, 11, "tokenizer", &log_all);
    assert_true(c.n_eos == 4 && logged[0] == 0);
    lb_config_add_eos(&c, 100, "tokenizer", &log_all);
    lb_config_add_eos(&c, -1, "tokenizer", &log_all);
    assert_int_equal(c.n_eos, 4);
    assert_non_null(strstr(logged, "end token 100 (tokenizer) is left out"));
    for (int i = 20; i < 60; i++)
        lb_config_add_eos(&c, i, "tokenizer", &log_all);
    assert_int_equal(c.n_eos, LB_MAX_EOS);
    assert_non_null(strstr(logged, "end token 59 (tokenizer) is left out"));
    lb_config_release(&c);
    /* with another vocabulary id 2 would be an ordinary token */
    configure(&c, "{\"model_type\":\"llama\",\"vocab_size\":100}", "{\"eos_token_id\":9}");
    assert_true(c.n_eos == 1 && c.eos[0].id == 9);
    lb_config_release(&c);
    refused(base, "{\"eos_token_id\":[9,1.5]}", "generation_config.json: eos_token_id is not a whole number");
    refused(base, "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0,1,2,3]}",
            "lists 33 ids");
    refused(base, "{\"temperature\":-1}", "temperature is -1");
    refused(base, "{\"top_p\":1.5}", "top_p is 1.5");
    refused(base, "{\"top_k\":-2}", "top_k is -2");
    refused(base, "{\"repetition_penalty\":0}", "repetition_penalty is 0");
    refused(base, "{\"do_sample\":1}", "do_sample is not true or false");
    refused(base, "[]", "generation_config.json: not a JSON object");
}

static void unsupported_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *config, *text;
    } t[] = {
        {"{\"architectures\":[\"PhiForCausalLM\"],\"model_type\":\"phi\"}",
         "architecture 'PhiForCausalLM' is not supported; supported: LlamaForCausalLM"},
        {"{\"architectures\":[\"Qwen2MoeForCausalLM\"]}", "architecture 'Qwen2MoeForCausalLM' is not supported"},
        {"{\"model_type\":\"gemma\"}", "model_type 'gemma' is not supported; supported: LlamaForCausalLM"},
        {"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"mistral\"}",
         "model_type 'mistral' is not 'llama'"},
        {"{\"architectures\":[\"LlamaModel\\n\"],\"model_type\":\"llama\"}", "architecture 'LlamaModel?'"},
        {"{\"architectures\":\"LlamaForCausalLM\"}", "architectures is not a list of one name"},
        {"{}", "architectures and model_type are missing"},
        {"{\"model_type\":\"llama\",\"hidden_act\":\"gelu\"}", "hidden_act 'gelu' is not supported; supported: silu"},
        {"{\"model_type\":\"llama\",\"quantization_config\":{\"quant_method\":\"hqq\"}}", "quant_method 'hqq'"},
        {"{\"model_type\":\"llama\",\"quantization_config\":{}}", "quantization_config"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"longrope\"}}",
         "rope type 'longrope' is not supported; supported: default, linear, dynamic, llama3, yarn"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\"}}", "rope_scaling.factor is missing"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", "rope_scaling.factor is 0"},
        {"{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_theta\":-1}}", "rope_parameters.rope_theta is -1"},
        {"{\"model_type\":\"llama\",\"rope_parameters\":{\"full_attention\":{}}}", "each kind of layer"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":[1]}", "rope_scaling is not an object"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4}}",
         "low_freq_factor 4 is not below high_freq_factor 4"},
        {"{\"model_type\":\"llama\",\"head_dim\":2,\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":8}}",
         "more than 2 rotary dimensions"},
        {"{\"model_type\":\"llama\",\"head_dim\":15}", "15 rotary dimensions"},
        {"{\"model_type\":\"llama\",\"partial_rotary_factor\":0.01}", "1 rotary dimensions of a head of 128"},
        {"{\"model_type\":\"llama\",\"num_attention_heads\":33}",
         "head_dim is missing, and hidden_size 4096 is no multiple of"},
        {"{\"model_type\":\"glm4_moe\"}",
         "head_dim is missing, and hidden_size 4096 is no multiple of num_attention_heads 96"},
        {"{\"model_type\":\"glm4_moe\",\"head_dim\":null,\"hidden_size\":100,\"num_attention_heads\":8}",
         "head_dim is missing"},
        {"{\"model_type\":\"llama\",\"num_key_value_heads\":5}", "32 attention heads are no multiple of 5"},
        {"{\"model_type\":\"llama\",\"head_dim\":16777216}", "32 heads of 16777216 dimensions"},
        {"{\"model_type\":\"llama\",\"tie_word_embeddings\":1}", "tie_word_embeddings is not true or false"},
        {"{\"model_type\":\"llama\",\"rope_theta\":1e999}", "not valid JSON"},
        {"{\"model_type\":\"llama\",\"vocab_size\":5,\"vocab_size\":6}", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        refused(t[i].config, NULL, t[i].text);
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    scratch_empty(NULL);
    assert_int_equal(lb_config_read_dir(&c, scratch, NULL, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "config.json"));
}

/* spec/engine.md 2 */
static void segments(void **state)
{
    (void)state;
    static const int t[][2] = {{1, 1},   {2, 2},   {3, 3},  {4, 4},  {6, 2},   {7, 7},    {8, 8},  {9, 3},  {12, 4},
                               {13, 13}, {14, 2},  {15, 3}, {17, 1}, {25, 5},  {32, 8},   {48, 8}, {56, 8}, {63, 3},
                               {64, 16}, {96, 16}, {71, 1}, {72, 8}, {80, 16}, {128, 16}, {34, 2}, {289, 1}};
    int64_t b[17];
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        assert_int_equal(lb_config_segments(t[i][0]), t[i][1]);
    const struct lb_config c = {.n_head = 12, .head_dim = 80, .n_seg = 4};
    lb_segments_heads(&c, b);
    for (int s = 0; s <= 4; s++)
        assert_int_equal(b[s], 3 * s);
    lb_segments_units(160, 4, b); /* 5 units: 0, 1, 2, 3, 5 */
    assert_true(b[0] == 0 && b[1] == 32 && b[2] == 64 && b[3] == 96 && b[4] == 160);
    lb_segments_units(1000, 3, b); /* 32 units, the last of 8 columns */
    assert_true(b[0] == 0 && b[1] == 320 && b[2] == 672 && b[3] == 1000);
    lb_segments_units(40, 8, b); /* 2 units: six segments are empty */
    assert_true(b[3] == 0 && b[4] == 32 && b[7] == 32 && b[8] == 40);
}

static void golden_configs(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t n_layer, ffn, n_head, n_kv, head_dim, max_position;
        enum lb_rope_type rope;
        double theta, factor;
        bool tied, bias;
        int n_eos, n_seg;
    } t[] = {
        {"llama-mha", 3, 96, 4, 4, 16, 256, LB_ROPE_DEFAULT, 1e4, 1, false, false, 1, 4},
        {"llama-gqa-tied", 4, 96, 8, 2, 8, 256, LB_ROPE_LLAMA3, 500, 8, true, false, 3, 8},
        {"llama-linear-rope", 3, 96, 4, 2, 16, 256, LB_ROPE_LINEAR, 1e4, 4, false, false, 1, 4},
        {"llama-yarn", 3, 96, 4, 2, 32, 128, LB_ROPE_YARN, 1e4, 4, false, false, 3, 4},
        {"llama-dynamic-ntk", 3, 96, 4, 2, 16, 32, LB_ROPE_DYNAMIC, 1e4, 2, false, false, 1, 4},
        {"llama-bias", 3, 96, 4, 2, 16, 256, LB_ROPE_DEFAULT, 1e4, 1, false, true, 3, 4},
        {"llama-headdim", 3, 96, 4, 2, 24, 256, LB_ROPE_DEFAULT, 5e5, 1, false, false, 3, 4},
        {"llama-sharded", 3, 96, 4, 2, 16, 256, LB_ROPE_DEFAULT, 1e4, 1, false, false, 1, 4},
        {"llama-bf16", 4, 160, 4, 2, 16, 256, LB_ROPE_DEFAULT, 1e4, 1, false, false, 3, 4},
    };
    if (access(GOLDENS, R_OK) != 0) {
        print_message("skip: test_model_config: no ../shared\n");
        skip();
    }
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char path[512];
        struct lb_config c;
        snprintf(path, sizeof path, GOLDENS "%s", t[i].name);
        read_ok(&c, path);
        assert_true(c.n_vocab == 512 && c.dim == 64 && c.ffn_dim == t[i].ffn && c.n_layer == t[i].n_layer);
        assert_true(c.n_head == t[i].n_head && c.n_kv_head == t[i].n_kv && c.head_dim == t[i].head_dim);
        assert_true(c.rope.type == t[i].rope && c.rope.theta == t[i].theta && c.rope.factor == t[i].factor);
        assert_true(c.rope.max_position == t[i].max_position && c.rope.n_rot == t[i].head_dim);
        assert_true(c.tied == t[i].tied && c.attn_bias == t[i].bias && c.o_bias == t[i].bias);
        assert_true(c.mlp_bias == t[i].bias && c.n_eos == t[i].n_eos && c.n_seg == t[i].n_seg);
        assert_true(c.norm_eps == (strcmp(t[i].name, "llama-mha") == 0 ? 1e-6f : 1e-5f));
        if (t[i].n_eos == 3)
            assert_true(c.eos[0].id == 497 && c.eos[1].id == 504 && c.eos[2].id == 505 && c.bos == 496 &&
                        c.pad == 500 && c.gen.do_sample && c.gen.temperature == 0.6 && c.gen.top_p == 0.9);
        if (strcmp(t[i].name, "llama-mha") == 0)
            assert_true(c.pad == 2 && c.eos[0].id == 2);
        if (t[i].rope == LB_ROPE_YARN)
            near((double)c.rope.scale, 1.138629436111989, 1e-7);
        assert_string_equal(logged, "");
        lb_config_release(&c);
    }
}

static void read_gguf(struct lb_gguf *g, struct lb_config *c, const char *path)
{
    struct lb_err err = LB_ERR_INIT;
    logged[0] = 0;
    if (lb_gguf_open(g, path, &err) != LB_OK || lb_config_read_gguf(c, g, &log_all, &err) != LB_OK)
        fail_msg("%s", err.text);
}

/* rope_freqs.weight turns the plain frequencies into those of llama3 scaling: the file's divisors, one by one. */
static void golden_gguf(void **state)
{
    (void)state;
    struct lb_gguf g;
    struct lb_config c;
    const char *path = GOLDENS "llama-gguf-q8_0/llama-gguf-q8_0.gguf";
    if (access(path, R_OK) != 0)
        skip();
    read_gguf(&g, &c, path);
    assert_true(c.gguf && c.tied && c.n_vocab == 512 && c.dim == 256 && c.ffn_dim == 256 && c.n_layer == 2);
    assert_true(c.n_head == 8 && c.n_kv_head == 2 && c.head_dim == 32 && c.norm_eps == 1e-5f && c.n_seg == 8);
    assert_true(!c.attn_bias && !c.o_bias && !c.mlp_bias && !c.rope.interleaved && c.rope.divided);
    assert_true(c.rope.theta == 5000 && c.rope.max_position == 256 && c.bos == 496 && c.pad == 500);
    assert_true(c.n_eos == 1 && c.eos[0].id == 505);
    assert_string_equal(c.eos[0].origin, "gguf");
    const struct lb_wtensor *t = lb_wfile_find(&g.w, "rope_freqs.weight");
    for (int i = 0; i < 16; i++) {
        float divisor;
        memcpy(&divisor, t->data + 4 * i, 4);
        near((double)c.rope.inv_freq[i], pow(5000, -2.0 * i / 32) / (double)divisor, 3e-7);
    }
    lb_config_log(&c, &log_all);
    assert_non_null(strstr(logged, "llama"));
    assert_non_null(strstr(logged, "505 (gguf)"));
    assert_non_null(strstr(logged, "8 segments"));
    assert_non_null(strstr(logged, "rope_freqs.weight applied"));
    lb_config_release(&c);
    lb_gguf_close(&g);
}

/* The tiny model with n more keys, which `extra` holds and which this releases. */
static void tiny_plus(struct gguf_out *extra, uint64_t n)
{
    struct gguf_out o;
    gguf_tiny(&o);
    /* behind the counts; one more key fills up to a multiple of 32, so that the tensors stay aligned: its length, name,
     * type and value are 13 bytes and the name */
    size_t gap = 64 - extra->s.len % 32;
    struct lb_str s = {0};
    lb_str_put(&s, o.s.data, 16);
    put_le(&s, 22 + n + 1, 8);
    lb_str_put(&s, extra->s.data, extra->s.len);
    put_le(&s, gap - 13, 8);
    for (size_t i = 0; i < gap - 13; i++)
        lb_str_putc(&s, 'x');
    put_le(&s, LB_GGUF_U8, 4);
    put_le(&s, 0, 1);
    lb_str_put(&s, o.s.data + 24, o.s.len - 24);
    scratch_write("tiny.gguf", s.data, s.len);
    lb_str_release(&s);
    lb_str_release(&extra->s);
    lb_str_release(&o.s);
}

static void tiny_with(const char *key, enum lb_gguf_type type, const char *text, float number)
{
    struct gguf_out extra = {0};
    if (type == LB_GGUF_STRING)
        gguf_string(&extra, key, text);
    else if (type == LB_GGUF_F32)
        gguf_float(&extra, key, number);
    else
        gguf_number(&extra, key, type, (uint64_t)number);
    tiny_plus(&extra, 1);
}

static void gguf_settings(void **state)
{
    (void)state;
    struct lb_gguf g;
    struct lb_config c;
    tiny_with("llama.attention.causal", LB_GGUF_BOOL, NULL, 1);
    read_gguf(&g, &c, scratch_path("tiny.gguf"));
    assert_true(c.n_vocab == 8 && c.dim == 32 && c.ffn_dim == 64 && c.n_head == 2 && c.n_kv_head == 1);
    assert_true(c.head_dim == 16 && c.rope.type == LB_ROPE_DEFAULT && c.n_eos == 2 && c.eos[1].id == 7 && c.n_seg == 2);
    for (int i = 0; i < 8; i++)
        near((double)c.rope.inv_freq[i], pow(10000, -i / 8.0) / (i < 4 ? 1 : 4), 2e-7);
    lb_config_release(&c);
    lb_gguf_close(&g);

    tiny_with("llama.rope.scaling.factor", LB_GGUF_F32, NULL, 4); /* no type: linear */
    read_gguf(&g, &c, scratch_path("tiny.gguf"));
    assert_int_equal(c.rope.type, LB_ROPE_LINEAR);
    near((double)c.rope.inv_freq[1], pow(10000, -1 / 8.0) / 4, 2e-7);
    lb_config_release(&c);
    lb_gguf_close(&g);

    static const struct {
        const char *key;
        enum lb_gguf_type type;
        const char *string;
        float number;
        const char *text;
    } bad[] = {
        {"llama.expert_count", LB_GGUF_U32, NULL, 8, "key 'llama.expert_count' = 8 is not supported; supported: 0"},
        {"llama.attention.sliding_window", LB_GGUF_F32, NULL, 64.5f, "'llama.attention.sliding_window' is not one"},
        {"llama.attention.sliding_window_pattern", LB_GGUF_U32, NULL, 6, "'llama.attention.sliding_window_pattern'"},
        {"llama.rope.dimension_sections", LB_GGUF_U32, NULL, 8, "'llama.rope.dimension_sections' is not supported"},
        {"llama.attention.causal", LB_GGUF_BOOL, NULL, 0, "'llama.attention.causal' = 0"},
        {"llama.attention.key_length", LB_GGUF_U32, NULL, 24, "key_length 24 and value_length 16 differ"},
        {"llama.logit_scale", LB_GGUF_STRING, "x", 0, "'llama.logit_scale' is not a number"},
        {"llama.rope.scaling.type", LB_GGUF_STRING, "longrope", 0, "'longrope' is not supported"},
        {"llama.rope.scaling.type", LB_GGUF_U32, NULL, 1, "'llama.rope.scaling.type' is not a string"},
        {"llama.rope.scaling.factor", LB_GGUF_F32, NULL, -1, "'llama.rope.scaling.factor' is -1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lb_err err = LB_ERR_INIT;
        tiny_with(bad[i].key, bad[i].type, bad[i].string, bad[i].number);
        if (lb_gguf_open(&g, scratch_path("tiny.gguf"), &err) != LB_OK)
            fail_msg("%s", err.text);
        assert_int_equal(lb_config_read_gguf(&c, &g, NULL, &err), LB_E_INPUT);
        if (!strstr(err.text, bad[i].text) || !strstr(err.text, "tiny.gguf"))
            fail_msg("'%s' lacks '%s'", err.text, bad[i].text);
        lb_gguf_close(&g);
    }
}

/* config.json's yarn and the same from GGUF keys; the divisors of rope_freqs.weight, 1 and 4, come on top, and GGUF's
 * attn_factor multiplies what the factor gives. */
static void gguf_yarn(void **state)
{
    (void)state;
    struct gguf_out extra = {0};
    struct lb_gguf g;
    struct lb_config c, hf;
    gguf_string(&extra, "llama.rope.scaling.type", "yarn");
    gguf_float(&extra, "llama.rope.scaling.factor", 4);
    gguf_float(&extra, "llama.rope.scaling.attn_factor", 2);
    gguf_number(&extra, "llama.rope.scaling.original_context_length", LB_GGUF_U32, 4096);
    tiny_plus(&extra, 4);
    read_gguf(&g, &c, scratch_path("tiny.gguf"));
    assert_true(c.rope.type == LB_ROPE_YARN && c.rope.factor == 4 && c.rope.original_max == 4096);
    near((double)c.rope.scale, 2 * 1.13862944, 1e-7);
    configure(&hf,
              "{\"model_type\":\"llama\",\"head_dim\":16,\"max_position_embeddings\":16384,\"rope_scaling\":{"
              "\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":4096}}",
              NULL);
    assert_true(hf.rope.inv_freq[7] < 3e-4f / 3); /* stretched */
    for (int i = 0; i < 8; i++)
        near((double)c.rope.inv_freq[i], (double)hf.rope.inv_freq[i] / (i < 4 ? 1 : 4), 2e-7);
    lb_config_release(&hf);
    lb_config_release(&c);
    lb_gguf_close(&g);
}

static void family_names(void **state)
{
    (void)state;
    const struct lb_family *f = lb_family_by_gguf("llama4", 5);
    assert_ptr_equal(f, lb_family_by_hf("LlamaForCausalLM", NULL));
    assert_null(lb_family_by_gguf("llama4", 6));
    assert_null(lb_family_by_hf(NULL, NULL));
    struct lb_tensor_name name = lb_family_tensor(f, 0, LB_R_Q, 11, ".bias");
    assert_string_equal(name.text, "model.layers.11.self_attn.q_proj.bias");
    name = lb_family_tensor(f, 1, LB_R_O, 0, ".weight");
    assert_string_equal(name.text, "blk.0.attn_output.weight");
    name = lb_family_tensor(f, 1, LB_R_EMBED, 5, ".weight");
    assert_string_equal(name.text, "token_embd.weight");
    name = lb_family_tensor(f, 0, LB_R_QKV, 5, ".weight"); /* it has none */
    assert_string_equal(name.text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_worked_values),
        cmocka_unit_test(rope_as_transformers),
        cmocka_unit_test(defaults_of_the_class),
        cmocka_unit_test(old_and_new_keys),
        cmocka_unit_test(end_tokens_are_a_union),
        cmocka_unit_test(unsupported_is_named),
        cmocka_unit_test(segments),
        cmocka_unit_test(golden_configs),
        cmocka_unit_test(golden_gguf),
        cmocka_unit_test(gguf_settings),
        cmocka_unit_test(gguf_yarn),
        cmocka_unit_test(family_names),
    };
    int failed = cmocka_run_group_tests(tests, scratch_make, NULL);
    scratch_remove(NULL);
    return failed;
}
