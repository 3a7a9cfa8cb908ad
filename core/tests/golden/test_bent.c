#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "core/tests/golden/golden.h"
#include "core/tests/scratch.h"

/* Every key of config.json that changes the numbers is read: a golden model's key is bent, and either other numbers
 * come out, or the model is refused with a message that names the key or the tensor that no longer fits. Keys that mean
 * nothing to a family, or nothing mathematically, leave the bytes as they are. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"
#define OTHER NULL /* other numbers */
#define SAME ""    /* the same bytes */

struct bend {
    const char *change; /* see golden_bend */
    const char *want;   /* want: OTHER, SAME, or what the refusal says */
};

static const struct bend llama[] = {
    {"{\"num_hidden_layers\":2}", OTHER},
    {"{\"num_hidden_layers\":4}", "model.layers.3."},
    {"{\"hidden_size\":60}", "model.embed_tokens.weight"},
    {"{\"intermediate_size\":64}", "mlp.gate_proj.weight"},
    {"{\"vocab_size\":500}", "model.embed_tokens.weight"},
    {"{\"num_attention_heads\":8}", "self_attn.q_proj.weight"},
    {"{\"num_key_value_heads\":2}", "self_attn.k_proj.weight"},
    {"{\"head_dim\":32}", "self_attn.q_proj.weight"},
    {"{\"hidden_act\":\"gelu\"}", "hidden_act 'gelu'"},
    {"{\"rms_norm_eps\":1e-5}", OTHER},
    {"{\"rope_theta\":20000}", OTHER},
    {"{\"rope_theta\":20000,\"rope_scaling\":{\"rope_type\":\"default\",\"rope_theta\":10000}}", SAME},
    {"{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", OTHER},
    {"{\"max_position_embeddings\":40}", OTHER}, /* longer rows are refused */
    {"{\"attention_bias\":true}", "self_attn.q_proj.bias"},
    {"{\"mlp_bias\":true}", "mlp.gate_proj.bias"},
    {"{\"pretraining_tp\":4}", SAME},
    {"{\"tie_word_embeddings\":true}", SAME}, /* the file has both tensors, and they differ */
    {"{\"sliding_window\":5}", SAME},
};

static const struct bend mistral[] = {
    {"{\"sliding_window\":19}", OTHER},
    {"{\"sliding_window\":21}", OTHER},
    {"{\"sliding_window\":null}", OTHER},
    {"{\"sliding_window\":\"(absent)\"}", OTHER},
    {"{\"sliding_window\":0}", "sliding_window is 0"},
    {"{\"num_key_value_heads\":null}", "self_attn.k_proj.weight"},
    {"{\"head_dim\":null}", SAME}, /* 64 / 4 */
    {"{\"rms_norm_eps\":\"(absent)\"}", OTHER},
    {"{\"rope_theta\":\"(absent)\"}", SAME},
    {"{\"rope_theta\":500}", OTHER},
    {"{\"hidden_act\":\"relu\"}", "hidden_act 'relu'"},
    {"{\"attention_bias\":true,\"mlp_bias\":true}", SAME},
    {"{\"model_type\":\"llama\"}", "model_type 'llama' is not 'mistral'"},
};

static const struct bend qwen2[] = {
    {"{\"use_sliding_window\":true,\"sliding_window\":20}", SAME}, /* layer_types wins */
    {"{\"use_sliding_window\":true,\"sliding_window\":20,\"layer_types\":null,\"max_window_layers\":1}", OTHER},
    {"{\"use_sliding_window\":true,\"sliding_window\":20,\"layer_types\":null}", SAME}, /* from layer 28 on */
    {"{\"use_sliding_window\":true,\"sliding_window\":20,\"layer_types\":[\"full_attention\",\"full_attention\","
     "\"sliding_attention\"]}",
     OTHER},
    {"{\"sliding_window\":20,\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\"]}",
     "layer_types names sliding_attention"},
    {"{\"sliding_window\":20}", SAME}, /* not in use */
    {"{\"attention_bias\":false}", SAME},
    {"{\"tie_word_embeddings\":false}", "lm_head.weight"},
    {"{\"rope_theta\":\"(absent)\"}", OTHER},
    {"{\"rms_norm_eps\":1e-4}", OTHER},
    {"{\"hidden_act\":\"gelu\"}", "hidden_act 'gelu'"},
};

static const struct bend qwen3[] = {
    {"{\"attention_bias\":true}", "self_attn.q_proj.bias"},
    {"{\"head_dim\":\"(absent)\"}", "self_attn.q_proj.weight"},
    {"{\"rope_parameters\":{\"rope_theta\":10000,\"rope_type\":\"default\"}}", OTHER},
    {"{\"rope_parameters\":{\"rope_type\":\"default\"},\"rope_theta\":1000000}", SAME},
    {"{\"use_sliding_window\":true,\"sliding_window\":20,\"layer_types\":null,\"max_window_layers\":0}", OTHER},
    {"{\"rms_norm_eps\":1e-4}", OTHER},
};

static const struct bend glm[] = {
    {"{\"attention_bias\":false}", OTHER},
    {"{\"attention_bias\":\"(absent)\"}", SAME},
    {"{\"partial_rotary_factor\":0.25}", OTHER},
    {"{\"partial_rotary_factor\":1.0}", OTHER},
    {"{\"partial_rotary_factor\":\"(absent)\"}", SAME},
    {"{\"rope_theta\":10000}", OTHER},
    {"{\"rms_norm_eps\":1e-6}", OTHER},
    {"{\"rms_norm_eps\":\"(absent)\"}", SAME},
    {"{\"head_dim\":\"(absent)\"}", "self_attn.q_proj.weight"},
    {"{\"intermediate_size\":100}", "mlp.gate_up_proj.weight"},
    {"{\"hidden_act\":\"gelu\"}", "hidden_act 'gelu'"},
    {"{\"architectures\":[\"Glm4ForCausalLM\"],\"model_type\":\"glm4\"}", "post_self_attn_layernorm.weight"},
    {"{\"architectures\":[\"Glm5ForCausalLM\"]}", "architecture 'Glm5ForCausalLM' is not supported; supported: Llama"},
};

static const struct bend glm4[] = {
    {"{\"attention_bias\":true}", "self_attn.q_proj.bias"},
    {"{\"attention_bias\":\"(absent)\"}", "self_attn.q_proj.bias"},
    {"{\"rope_parameters\":{\"partial_rotary_factor\":1.0}}", OTHER},
    {"{\"rope_parameters\":{\"partial_rotary_factor\":0.5,\"rope_theta\":500}}", OTHER},
    {"{\"rope_parameters\":null}", SAME}, /* 0.5 and 10000 are the class's */
    {"{\"rms_norm_eps\":1e-3}", OTHER},
    {"{\"architectures\":[\"GlmForCausalLM\"],\"model_type\":\"glm\"}", OTHER},
};

static const struct bend glm4_moe[] = {
    {"{\"n_routed_experts\":7}", "mlp.gate.weight"},
    {"{\"num_experts_per_tok\":2}", OTHER},
    {"{\"num_experts_per_tok\":9}", "9 experts, but may choose among 8"},
    {"{\"n_group\":4}", "3 experts, but may choose among 2"},
    {"{\"n_group\":4,\"topk_group\":2}", OTHER},
    {"{\"n_group\":3}", "8 experts in 3 groups"},
    {"{\"n_group\":8,\"topk_group\":8}", "a group of experts has 1"},
    {"{\"moe_intermediate_size\":32}", "mlp.experts.0.gate_proj.weight"},
    {"{\"n_shared_experts\":2}", "mlp.shared_experts.gate_proj.weight"},
    {"{\"n_shared_experts\":0}", OTHER},
    {"{\"first_k_dense_replace\":2}", "model.layers.1.mlp.gate_proj.weight"},
    {"{\"first_k_dense_replace\":0}", "model.layers.0.mlp.gate.weight"},
    {"{\"first_k_dense_replace\":\"(absent)\"}", SAME},
    {"{\"mlp_layer_types\":[\"dense\",\"sparse\",\"sparse\"],\"first_k_dense_replace\":0}", SAME},
    {"{\"mlp_layer_types\":[\"dense\",\"dense\",\"sparse\"]}", "model.layers.1.mlp.gate_proj.weight"},
    {"{\"mlp_layer_types\":[\"dense\",\"sparse\"]}", "mlp_layer_types"},
    {"{\"mlp_layer_types\":[\"dense\",\"sparse\",\"odd\"]}", "mlp_layer_types 'odd'"},
    {"{\"norm_topk_prob\":false}", OTHER},
    {"{\"routed_scaling_factor\":2}", OTHER},
    {"{\"use_qk_norm\":true}", "self_attn.q_norm.weight"},
    {"{\"attention_bias\":false}", OTHER},
    {"{\"partial_rotary_factor\":1.0}", OTHER},
    {"{\"partial_rotary_factor\":\"(absent)\"}", SAME},
    {"{\"num_hidden_layers\":4}", "model.layers.3.mlp.experts.0.gate_proj.weight"}, /* the MTP layer has no experts */
    {"{\"num_nextn_predict_layers\":0}", SAME},
    {"{\"topk_method\":\"greedy\"}", "topk_method 'greedy'"},
    {"{\"scoring_func\":\"softmax\"}", "scoring_func 'softmax'"},
    {"{\"rms_norm_eps\":1e-4}", OTHER},
};

static const struct bend glm4_moe_groups[] = {
    {"{\"topk_group\":3}", OTHER},
    {"{\"topk_group\":5}", "4 groups of which 5"},
    {"{\"topk_group\":1,\"num_experts_per_tok\":4}", "4 experts, but may choose among 3"},
    {"{\"n_group\":1,\"topk_group\":1}", OTHER},
    {"{\"use_qk_norm\":false}", OTHER},
    {"{\"routed_scaling_factor\":\"(absent)\"}", OTHER},
    {"{\"n_shared_experts\":\"(absent)\"}", "mlp.shared_experts.gate_proj.weight"},
};

/* rope objects with one member more or another one */
#define LLAMA3(more)                                                                                         \
    "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4,\"low_freq_factor\":1," \
    "\"original_max_position_embeddings\":64" more "}}"
#define YARN(more)                                                                                                     \
    "{\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":1e4,\"original_max_position_embeddings\":32" more "}" \
    "}"

static const struct bend llama3[] = {
    {LLAMA3(""), SAME},
    {"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":16,\"high_freq_factor\":4,\"low_freq_factor\":1,"
     "\"original_max_position_embeddings\":64}}",
     OTHER},
    {"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"high_freq_factor\":3,\"low_freq_factor\":1,"
     "\"original_max_position_embeddings\":64}}",
     OTHER},
    {"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4,\"low_freq_factor\":2,"
     "\"original_max_position_embeddings\":64}}",
     OTHER},
    {"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4,\"low_freq_factor\":1,"
     "\"original_max_position_embeddings\":32}}",
     OTHER},
    {"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4,\"low_freq_factor\":4,"
     "\"original_max_position_embeddings\":64}}",
     "low_freq_factor 4 is not below high_freq_factor 4"},
    {"{\"rope_scaling\":{\"type\":\"llama3\",\"high_freq_factor\":4,\"low_freq_factor\":1}}",
     "rope_scaling.factor is missing"},
    {"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1}}",
     "rope_scaling.high_freq_factor is missing"},
    {"{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"high_freq_factor\":4}}",
     "rope_scaling.low_freq_factor is missing"},
    {LLAMA3(",\"rope_theta\":1000"), OTHER},
    {LLAMA3(",\"partial_rotary_factor\":0.5"), OTHER},
    {"{\"rope_scaling\":null}", OTHER},
    {"{\"rope_scaling\":{}}", OTHER}, /* counts as absent */
    {"{\"rope_scaling\":[]}", "rope_scaling is not an object"},
    {"{\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":4}}", "rope type 'longrope' is not supported"},
    {"{\"partial_rotary_factor\":0.5}", OTHER},
    {"{\"tie_word_embeddings\":false}", "lm_head.weight"},
    {"{\"torch_dtype\":\"bfloat16\",\"dtype\":\"float16\"}", SAME}, /* --dtype says what is computed */
    {"{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}", "group_size is missing"},
    {"{\"quantization_config\":{\"quant_method\":\"mxfp4\"}}", "quant_method 'mxfp4' is not supported"},
    {"{\"quantization_config\":{\"quant_method\":\"fp8\"}}", SAME}, /* no tensor is FP8 */
    {"{\"quantization_config\":null}", SAME},
};

#define QUANT(method, rest) "{\"quantization_config\":{\"quant_method\":\"" method "\"" rest "}}"

static const struct bend gptq[] = {
    {QUANT("gptq", ",\"bits\":4,\"group_size\":32"), SAME}, /* g_idx tells the order, the words the zero points */
    {QUANT("gptq", ",\"bits\":4,\"group_size\":32,\"checkpoint_format\":\"gptq_v2\""), OTHER},
    {QUANT("gptq", ",\"bits\":4,\"group_size\":64"), "scales' has another shape"},
    {QUANT("gptq", ",\"bits\":8,\"group_size\":32"), "scales' has another shape"},
    {QUANT("gptq", ",\"bits\":4,\"group_size\":32,\"checkpoint_format\":\"marlin\""), "checkpoint_format 'marlin'"},
    {QUANT("awq", ",\"bits\":4,\"group_size\":32"), "scales' has another shape"},
    {"{\"quantization_config\":null}", "no tensor 'model.layers.0.self_attn.q_proj.weight'"},
};

static const struct bend fp8[] = {
    {QUANT("fp8", ",\"weight_block_size\":[64,64],\"activation_scheme\":\"static\""), SAME},
    {QUANT("fp8", ",\"weight_block_size\":[32,64]"), "weight_scale_inv' has another shape"},
    {QUANT("fp8", ""), "weight_scale_inv' has another shape"},
    {"{\"quantization_config\":null}", "type F8_E4M3"},
};

static const struct bend yarn[] = {
    {YARN(",\"factor\":4"), SAME},
    {YARN(""), SAME}, /* 128 / 32 */
    {YARN(",\"factor\":2"), OTHER},
    {YARN(",\"attention_factor\":1.5"), OTHER},
    {YARN(",\"beta_fast\":2"), OTHER},
    {YARN(",\"beta_fast\":32,\"beta_slow\":1"), SAME},
    {YARN(",\"beta_fast\":0"), SAME}, /* 32 */
    {YARN(",\"beta_slow\":2"), OTHER},
    {YARN(",\"truncate\":false"), OTHER},
    {YARN(",\"truncate\":true"), SAME},
    {YARN(",\"mscale\":1"), SAME}, /* counts with mscale_all_dim alone */
    {YARN(",\"mscale_all_dim\":1"), SAME},
    {YARN(",\"mscale\":1,\"mscale_all_dim\":0.5"), OTHER},
    {"{\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":1e4,\"factor\":4}}", OTHER}, /* original length 128 */
    {"{\"original_max_position_embeddings\":64}", OTHER},
};

static const struct bend dynamic[] = {
    {"{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", SAME},
    {"{\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":3}}", OTHER},
    {"{\"rope_scaling\":{\"type\":\"dynamic\"}}", "rope_scaling.factor is missing"},
    {"{\"max_position_embeddings\":48}", OTHER},
};

static const struct bend lite[] = {
    {"{\"kv_lora_rank\":16}", "self_attn.kv_a_proj_with_mqa.weight"},
    {"{\"q_lora_rank\":16}", "self_attn.q_a_proj.weight"},
    {"{\"q_lora_rank\":null}", "self_attn.q_proj.weight"},
    {"{\"qk_nope_head_dim\":8}", "self_attn.q_b_proj.weight"},
    {"{\"qk_rope_head_dim\":4}", "self_attn.q_b_proj.weight"},
    {"{\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":4}", "self_attn.kv_a_proj_with_mqa.weight"},
    {"{\"v_head_dim\":16}", "self_attn.kv_b_proj.weight"},
    {"{\"num_attention_heads\":8}", "self_attn.q_b_proj.weight"},
    {"{\"num_key_value_heads\":2}", SAME}, /* attention is over one latent */
    {"{\"head_dim\":16}", SAME},           /* as the class's, whose numbers are qk_nope and qk_rope */
    {"{\"rope_interleave\":false}", OTHER},
    {"{\"rope_interleave\":\"(absent)\"}", SAME},
    {"{\"attention_bias\":true}", "self_attn.q_a_proj.bias"},
    {"{\"rms_norm_eps\":1e-3}", OTHER},
    {"{\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":\"default\"}}", OTHER},
    {"{\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"linear\",\"factor\":2}}", OTHER},
    {"{\"partial_rotary_factor\":0.5}", "partial_rotary_factor is not supported"},
    {"{\"mlp_layer_types\":null}", SAME}, /* the first is dense */
    {"{\"mlp_layer_types\":null,\"first_k_dense_replace\":2}", "model.layers.1.mlp.gate_proj.weight"},
    {"{\"mlp_layer_types\":[\"sparse\",\"sparse\",\"sparse\"]}", "model.layers.0.mlp.gate.weight"},
    {"{\"n_routed_experts\":7}", "mlp.gate.weight"},
    {"{\"num_experts_per_tok\":3}", OTHER},
    {"{\"num_experts_per_tok\":\"(absent)\"}", OTHER},
    {"{\"n_group\":2,\"topk_group\":1}", OTHER},
    {"{\"n_shared_experts\":2}", "mlp.shared_experts.gate_proj.weight"},
    {"{\"moe_intermediate_size\":32}", "mlp.experts.0.gate_proj.weight"},
    {"{\"routed_scaling_factor\":1}", OTHER},
    {"{\"routed_scaling_factor\":\"(absent)\"}", SAME}, /* 1.8 */
    {"{\"norm_topk_prob\":false}", OTHER},
    {"{\"hidden_act\":\"gelu\"}", "hidden_act 'gelu'"},
    {"{\"num_nextn_predict_layers\":1}", SAME},
    {"{\"max_position_embeddings\":40}", OTHER},
    {"{\"tie_word_embeddings\":true}", SAME}, /* the file has both tensors */
};

static const struct bend sparse[] = {
    {"{\"index_topk\":23}", OTHER},
    {"{\"index_topk\":256}", OTHER}, /* all positions */
    {"{\"index_topk\":\"(absent)\"}", OTHER},
    {"{\"index_n_heads\":4}", "self_attn.indexer.wq_b.weight"},
    {"{\"index_head_dim\":16}", "self_attn.indexer.wq_b.weight"},
    {"{\"indexer_types\":[\"full\",\"full\",\"shared\",\"shared\"]}", OTHER},
    {"{\"indexer_types\":[\"full\",\"full\",\"full\",\"full\"]}", "model.layers.2.self_attn.indexer.wq_b.weight"},
    {"{\"indexer_types\":[\"full\",\"full\",\"shared\"]}", "indexer_types is not one entry for each layer"},
    {"{\"indexer_types\":null,\"index_topk_pattern\":\"FFSF\"}", SAME},
    {"{\"indexer_types\":null,\"index_topk_pattern\":\"FSSF\"}", OTHER},
    {"{\"index_topk_pattern\":\"FSSS\"}", SAME}, /* indexer_types wins */
    {"{\"indexer_types\":null,\"index_topk_freq\":2}", SAME},
    {"{\"indexer_types\":null,\"index_topk_freq\":3,\"index_skip_topk_offset\":1}", OTHER},
    {"{\"indexer_types\":null,\"index_topk_freq\":2,\"index_skip_topk_offset\":1}",
     "model.layers.2.self_attn.indexer.wq_b.weight"},
    {"{\"indexer_types\":null,\"index_topk_freq\":4}", OTHER},
    {"{\"indexer_types\":null}", "model.layers.2.self_attn.indexer.wq_b.weight"},
    {"{\"q_lora_rank\":null}", "an indexer needs q_lora_rank"},
    {"{\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":\"default\"}}", OTHER},
    {"{\"mlp_layer_types\":null}", SAME}, /* first_k_dense_replace 1 */
    {"{\"mlp_layer_types\":null,\"first_k_dense_replace\":\"(absent)\"}", "model.layers.1.mlp.gate_proj.weight"},
    {"{\"routed_scaling_factor\":1}", OTHER},
    {"{\"layer_types\":null,\"mlp_bias\":true}", SAME},
};

static const struct bend chatglm[] = {
    {"{\"num_layers\":2}", OTHER},
    {"{\"num_layers\":\"(absent)\"}", "transformer.encoder.layers.3."},
    {"{\"num_hidden_layers\":2}", SAME}, /* the class reads num_layers */
    {"{\"padded_vocab_size\":500}", "transformer.embedding.word_embeddings.weight"},
    {"{\"hidden_size\":32}", "transformer.embedding.word_embeddings.weight"},
    {"{\"ffn_hidden_size\":64}", "mlp.dense_h_to_4h.weight"},
    {"{\"kv_channels\":8}", "self_attention.query_key_value.weight"},
    {"{\"num_attention_heads\":8}", "self_attention.query_key_value.weight"},
    {"{\"multi_query_group_num\":1}", "self_attention.query_key_value.weight"},
    {"{\"multi_query_attention\":false}", "multi_query_attention false is not supported"},
    {"{\"multi_query_attention\":\"(absent)\"}", "multi_query_attention false is not supported"},
    {"{\"seq_length\":40}", OTHER},
    {"{\"layernorm_epsilon\":1e-6}", OTHER},
    {"{\"layernorm_epsilon\":\"(absent)\"}", OTHER},
    {"{\"rmsnorm\":false}", "rmsnorm false is not supported"},
    {"{\"apply_residual_connection_post_layernorm\":true}", "apply_residual_connection_post_layernorm true"},
    {"{\"post_layer_norm\":false}", "post_layer_norm false is not supported"},
    {"{\"add_bias_linear\":true}", "self_attention.dense.bias"},
    {"{\"add_qkv_bias\":false}", OTHER},
    {"{\"add_qkv_bias\":\"(absent)\"}", OTHER},
    {"{\"rope_ratio\":2}", OTHER},
    {"{\"rope_ratio\":\"(absent)\"}", OTHER},
    {"{\"original_rope\":false}", OTHER},
    {"{\"original_rope\":\"(absent)\"}", "original_rope is missing"},
    {"{\"apply_query_key_layer_scaling\":false}", SAME}, /* divides, and multiplies back */
    {"{\"attention_softmax_in_fp32\":false}", SAME},     /* here it always is */
    {"{\"fp32_residual_connection\":true}", SAME},       /* the same */
    {"{\"architectures\":[\"ChatGLMForConditionalGeneration\"]}", SAME},
    {"{\"tie_word_embeddings\":true}", SAME}, /* the file has both tensors */
    {"{\"quantization_bit\":4}", "quantization_bit 4 is not supported"},
    {"{\"pre_seq_len\":16}", "pre_seq_len"},
    {"{\"add_bias_linear\":\"(absent)\"}", SAME},
    {"{\"kv_channels\":\"(absent)\"}", "self_attention.query_key_value.weight"},
    {"{\"hidden_act\":\"gelu\"}", SAME}, /* the class has no such key */
};

#define SUBJECT(name, list)                               \
    {                                                     \
        GOLDENS name, list, sizeof(list) / sizeof *(list) \
    }
static const struct {
    const char *dir;
    const struct bend *bend;
    size_t n;
} subjects[] = {SUBJECT("llama-mha", llama),
                SUBJECT("mistral-swa", mistral),
                SUBJECT("qwen2", qwen2),
                SUBJECT("qwen3", qwen3),
                SUBJECT("glm", glm),
                SUBJECT("glm4", glm4),
                SUBJECT("glm4-moe", glm4_moe),
                SUBJECT("glm4-moe-qknorm", glm4_moe_groups),
                SUBJECT("chatglm", chatglm),
                SUBJECT("llama-gqa-tied", llama3),
                SUBJECT("llama-yarn", yarn),
                SUBJECT("llama-dynamic-ntk", dynamic),
                SUBJECT("glm4-moe-lite", lite),
                SUBJECT("glm-moe-dsa-sparse", sparse),
                SUBJECT("gptq-int4-actorder", gptq),
                SUBJECT("fp8-block", fp8)};

static void write_config(const char *dir, const char *change)
{
    json_t *bent = json_loads(change, 0, NULL);
    scratch_empty(NULL);
    golden_bend(dir, scratch, bent);
    json_decref(bent);
}

/* The longest prompts, as the window and the context length show there; where the bytes read are the question one. */
static json_t *long_rows(const char *dir)
{
    char path[512];
    snprintf(path, sizeof path, "%s/golden.jsonl", dir);
    json_t *golden = golden_read(path), *rows = json_array();
    size_t least = 48;
    for (size_t i = 0; i < json_array_size(golden); i++) {
        json_t *ids = json_object_get(json_array_get(golden, i), "prompt_token_ids");
        if (json_array_size(ids) < least)
            continue;
        if (golden_extent() < EXTENT_SAMPLE) {
            json_array_clear(rows);
            least = json_array_size(ids);
        }
        json_array_append_new(rows, json_pack("{s:O,s:i,s:b,s:i}", "prompt_token_ids", ids, "max_tokens", 3,
                                              "ignore_eos", 1, "logprobs", 8));
    }
    assert_true(json_array_size(rows) > 0);
    json_decref(golden);
    return rows;
}

static void bent_keys(void **state)
{
    (void)state;
    /* the release build has all models; how their keys are read, test_model_config shows the sanitizers */
    const size_t step_m = golden_extent() == EXTENT_SANITIZED ? 2 : 1;
    for (size_t m = 0; m < sizeof subjects / sizeof *subjects; m += step_m) {
        struct lb_options o;
        struct golden_out base, out;
        json_t *rows = long_rows(subjects[m].dir);
        golden_options(&o, scratch);
        o.log = (struct lb_log){0};
        write_config(subjects[m].dir, "{}");
        golden_run(&o, rows, &base);
        size_t step = golden_extent() == EXTENT_FULL ? 1 : golden_extent() == EXTENT_SAMPLE ? 3 : 11;
        for (size_t i = m % step; i < subjects[m].n; i += step) {
            const struct bend *b = &subjects[m].bend[i];
            struct lb_err err = LB_ERR_INIT;
            write_config(subjects[m].dir, b->change);
            enum lb_status status = golden_try(&o, rows, &out, &err);
            bool refusal = b->want && *b->want;
            if (refusal ? status != LB_E_INPUT || !strstr(err.text, b->want) : status != LB_OK)
                fail_msg("%s with %s: status %d, '%s'", subjects[m].dir, b->change, (int)status, err.text);
            if (!refusal && (strcmp(base.text, out.text) == 0) != (b->want != OTHER))
                fail_msg("%s with %s: the numbers are %s", subjects[m].dir, b->change, b->want ? "others" : "the same");
            if (status == LB_OK)
                golden_out_release(&out);
        }
        golden_out_release(&base);
        json_decref(rows);
    }
}

int golden_bent(void);

int golden_bent(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bent_keys)};
    int failed = cmocka_run_group_tests_name("bent keys", tests, scratch_make, NULL);
    scratch_remove(NULL);
    return failed;
}
