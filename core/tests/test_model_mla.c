/* Latent attention in config.json: class defaults and the layers that choose positions as transformers 5.24.0's
 * Glm4MoeLiteConfig and GlmMoeDsaConfig have them, the scale of scores, what is refused, tensor names. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/model/config.h"
#include "core/tests/modelfiles.h"

static void configure(struct lb_config *c, const char *config)
{
    struct lb_err err = LB_ERR_INIT;
    scratch_empty(NULL);
    scratch_text("config.json", config);
    if (lb_config_read_dir(c, scratch, NULL, &err) != LB_OK)
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

static void class_defaults(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        int64_t dim, ffn_dim, n_layer, n_head, q_rank, n_dense, n_expert, topk;
        int n_seg;
    } t[] = {
        {"{\"model_type\":\"glm4_moe_lite\"}", 2048, 10240, 47, 20, 768, 1, 64, 0, 4},
        {"{\"architectures\":[\"GlmMoeDsaForCausalLM\"]}", 6144, 12288, 78, 64, 2048, 3, 256, 2048, 16},
    };
    for (int i = 0; i < 2; i++) {
        struct lb_config c;
        configure(&c, t[i].config);
        assert_true(c.n_vocab == 154880 && c.dim == t[i].dim && c.ffn_dim == t[i].ffn_dim);
        assert_true(c.n_layer == t[i].n_layer && c.n_head == t[i].n_head && c.n_seg == t[i].n_seg);
        assert_true(c.mla.kv_rank == 512 && c.mla.q_rank == t[i].q_rank && c.mla.nope_dim == 192);
        assert_true(c.mla.rope_dim == 64 && c.mla.v_dim == 256);
        /* as the cache has it: one key of latent and turned part, whose value is the latent */
        assert_true(c.n_kv_head == 1 && c.head_dim == 576 && c.v_dim == 512 && c.out_dim == 256);
        assert_true(c.attn_scale == 1.0f / 16 && c.rope.n_rot == 64 && c.rope.interleaved);
        assert_true(c.rope.max_position == 202752 && c.norm_eps == 1e-5f && !c.attn_bias && !c.o_bias);
        assert_true(c.bos == 0 && c.n_eos == 1 && c.eos[0].id == 1 && !c.tied);
        assert_true(c.index.topk == t[i].topk && c.moe.n_expert == t[i].n_expert);
        for (int64_t il = 0; il < c.n_layer; il++)
            assert_true(c.layer[il].moe == (il >= t[i].n_dense) && c.layer[il].window == 0);
        assert_int_equal(lb_config_index_layers(&c), t[i].topk > 0 ? c.n_layer : 0);
        lb_config_release(&c);
    }
}

static void settings(void **state)
{
    (void)state;
    struct lb_config c;
    configure(&c, "{\"model_type\":\"glm4_moe_lite\",\"q_lora_rank\":null,\"rope_interleave\":false,"
                  "\"kv_lora_rank\":24,\"qk_nope_head_dim\":12,\"qk_rope_head_dim\":8,\"v_head_dim\":20,"
                  "\"num_key_value_heads\":20,\"head_dim\":8,\"attention_bias\":true}");
    assert_true(c.mla.q_rank == 0 && !c.rope.interleaved && c.head_dim == 32 && c.v_dim == 24 && c.out_dim == 20);
    assert_true(c.attn_bias && c.o_bias && c.rope.n_rot == 8 && c.attn_scale == 1 / sqrtf(20));
    lb_config_release(&c);

#define YARN "\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":4096,\"rope_theta\":1e4"
    configure(&c, "{\"model_type\":\"glm4_moe_lite\",\"rope_parameters\":{" YARN ",\"mscale_all_dim\":0.7}}");
    double m = 0.1 * 0.7 * log(4) + 1; /* yarn_get_mscale */
    assert_true(fabs((double)c.attn_scale * 16 - m * m) < 1e-6);
    lb_config_release(&c);
    configure(&c, "{\"model_type\":\"glm4_moe_lite\",\"rope_parameters\":{" YARN "}}");
    assert_true(c.attn_scale == 1.0f / 16);
    lb_config_release(&c);
    configure(&c, "{\"model_type\":\"glm4_moe_lite\",\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4,"
                  "\"mscale_all_dim\":0.7}}");
    assert_true(fabs((double)c.attn_scale * 16 - m * m) < 1e-6);
    lb_config_release(&c);
}

#define DSA(more) "{\"model_type\":\"glm_moe_dsa\",\"num_hidden_layers\":8," more "}"

static void choosing_layers(void **state)
{
    (void)state;
    static const struct {
        const char *config, *layers; /* F: chooses, S: shares */
    } t[] = {
        {DSA("\"index_topk_freq\":1"), "FFFFFFFF"},
        {DSA("\"index_topk_freq\":3"), "FFSSFSSF"},
        {DSA("\"index_topk_freq\":2,\"index_skip_topk_offset\":3"), "FFFSFSFS"},
        {DSA("\"index_topk_freq\":3,\"index_skip_topk_offset\":1"), "FSSFSSFS"},
        {DSA("\"index_topk_freq\":0"), "FFFFFFFF"},
        {DSA("\"index_topk_freq\":2,\"index_topk_pattern\":\"FSSFFSFS\""), "FSSFFSFS"},
        {DSA("\"index_topk_pattern\":\"FSSFFSFS\",\"indexer_types\":[\"full\",\"full\",\"shared\",\"shared\",\"full\","
             "\"shared\",\"shared\",\"full\"]"),
         "FFSSFSSF"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_config c;
        int64_t n = 0;
        configure(&c, t[i].config);
        for (int il = 0; il < 8; il++) {
            if (c.layer[il].index_shared != (t[i].layers[il] == 'S'))
                fail_msg("%s: layer %d", t[i].config, il);
            n += t[i].layers[il] == 'F';
        }
        assert_int_equal(lb_config_index_layers(&c), n);
        lb_config_release(&c);
    }
    /* a context within index_topk: nothing to choose */
    struct lb_config c;
    configure(&c, DSA("\"index_topk\":256,\"max_position_embeddings\":256"));
    assert_true(c.index.topk == 0 && lb_config_index_layers(&c) == 0);
    lb_config_release(&c);
    configure(&c, DSA("\"index_topk\":255,\"max_position_embeddings\":256"));
    assert_true(c.index.topk == 255);
    lb_config_release(&c);
}

static void refusals(void **state)
{
    (void)state;
    refused(DSA("\"index_topk_freq\":4,\"index_skip_topk_offset\":0"), "layer 0 takes the positions");
    refused(DSA("\"index_topk_pattern\":\"FSSF\""), "index_topk_pattern is not one entry for each layer");
    refused(DSA("\"index_topk_pattern\":\"FSSFFSFX\""), "index_topk_pattern is not a list of full and shared");
    refused(DSA("\"indexer_types\":[\"full\",1,\"full\",\"full\",\"full\",\"full\",\"full\",\"full\"]"),
            "indexer_types is not a list of full and shared");
    refused(DSA("\"indexer_types\":\"full\""), "indexer_types is not one entry for each layer");
    refused(DSA("\"index_topk\":0"), "index_topk is 0");
    refused(DSA("\"q_lora_rank\":null"), "needs q_lora_rank");
    refused(DSA("\"index_head_dim\":63"), "index_head_dim >= qk_rope_head_dim");
    refused(DSA("\"index_head_dim\":16777216"), "32 index heads of 16777216");
    refused(DSA("\"kv_lora_rank\":0"), "kv_lora_rank is 0");
    refused(DSA("\"kv_lora_rank\":16777216"), "heads of 16777280 dimensions");
    refused(DSA("\"v_head_dim\":16777216"), "heads of 16777216 dimensions");
    refused(DSA("\"qk_rope_head_dim\":63"), "63 rotary dimensions");
    refused(DSA("\"partial_rotary_factor\":0.5"), "partial_rotary_factor is not supported where attention is latent");
    refused(DSA("\"q_lora_rank\":\"x\""), "q_lora_rank is not a whole number");
}

static void names(void **state)
{
    (void)state;
    static const struct {
        enum lb_role role;
        const char *suffix, *lite, *dsa;
    } t[] = {
        {LB_R_Q_A, ".bias", "q_a_proj.bias", "q_a_proj.bias"},
        {LB_R_Q_A_NORM, ".weight", "q_a_layernorm.weight", "q_a_layernorm.weight"},
        {LB_R_Q_B, ".weight", "q_b_proj.weight", "q_b_proj.weight"},
        {LB_R_KV_A, ".weight", "kv_a_proj_with_mqa.weight", "kv_a_proj_with_mqa.weight"},
        {LB_R_KV_B, ".weight", "kv_b_proj.weight", "kv_b_proj.weight"},
        {LB_R_INDEX_Q, ".weight", NULL, "indexer.wq_b.weight"},
        {LB_R_INDEX_K_NORM, ".bias", NULL, "indexer.k_norm.bias"},
        {LB_R_INDEX_W, ".weight", NULL, "indexer.weights_proj.weight"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        for (int dsa = 0; dsa < 2; dsa++) {
            const struct lb_family *f = lb_family_by_hf(NULL, dsa ? "glm_moe_dsa" : "glm4_moe_lite");
            const char *want = dsa ? t[i].dsa : t[i].lite;
            char full[128] = "";
            if (want)
                snprintf(full, sizeof full, "model.layers.7.self_attn.%s", want);
            assert_string_equal(lb_family_tensor(f, 0, t[i].role, 7, t[i].suffix).text, full);
        }
    }
}

/* ---- the same in GGUF: four layers, the last one of multi-token prediction ---- */

struct number {
    const char *key;
    uint32_t value;
};

/* The published keys, one of them (NULL: none) taken out or set to another value; types: attention.indexer.types, as
 * many bytes, NULL: absent. Tensors: the embedding, and index keys in the layers of `index` ("0", "012"). */
static void gguf_of(const char *without, struct number change, const char *types, size_t n_type, const char *index)
{
    static const struct number key[] = {{"context_length", 4096},
                                        {"embedding_length", 32},
                                        {"block_count", 4},
                                        {"nextn_predict_layers", 1},
                                        {"feed_forward_length", 64},
                                        {"attention.head_count", 2},
                                        {"attention.head_count_kv", 1},
                                        {"attention.q_lora_rank", 24},
                                        {"attention.kv_lora_rank", 16},
                                        {"attention.key_length", 20},
                                        {"attention.value_length", 16},
                                        {"attention.key_length_mla", 12},
                                        {"attention.value_length_mla", 10},
                                        {"rope.dimension_count", 4},
                                        {"expert_count", 8},
                                        {"expert_used_count", 2},
                                        {"expert_feed_forward_length", 24},
                                        {"leading_dense_block_count", 1},
                                        {"attention.indexer.head_count", 2},
                                        {"attention.indexer.key_length", 8},
                                        {"attention.indexer.top_k", 100}};
    struct gguf_out o = {0};
    char name[64];
    const size_t n = sizeof key / sizeof *key, n_tensor = 1 + strlen(index);
    gguf_begin(&o, n_tensor, n + 2 + (types != NULL) - (without != NULL));
    gguf_string(&o, "general.architecture", "glm-dsa");
    gguf_float(&o, "glm-dsa.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "glm-dsa.%s", key[i].key);
        bool other = change.key && strcmp(change.key, key[i].key) == 0;
        if (!without || strcmp(without, key[i].key) != 0)
            gguf_number(&o, name, LB_GGUF_U32, other ? change.value : key[i].value);
    }
    if (types) {
        gguf_array(&o, "glm-dsa.attention.indexer.types", LB_GGUF_BOOL, n_type);
        lb_str_put(&o.s, types, n_type);
    }
    gguf_tensor(&o, "token_embd.weight", 0, (const uint64_t[4]){32, 8}, 1024);
    for (size_t i = 1; i < n_tensor; i++) {
        snprintf(name, sizeof name, "blk.%c.indexer.attn_k.weight", index[i - 1]);
        gguf_tensor(&o, name, 0, (const uint64_t[4]){32, 8}, 1024);
    }
    gguf_pad(&o);
    for (size_t i = 0; i < n_tensor * 1024; i++)
        lb_str_putc(&o.s, 0);
    scratch_empty(NULL);
    scratch_write("m.gguf", o.s.data, o.s.len);
    lb_str_release(&o.s);
}

static void gguf_is(const char *without, struct number change, const char *types, size_t n_type, const char *index,
                    const char *want)
{
    struct lb_gguf g;
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    const struct lb_log log = {0};
    gguf_of(without, change, types, n_type, index);
    if (lb_gguf_open(&g, scratch_path("m.gguf"), &err) != LB_OK)
        fail_msg("%s", err.text);
    enum lb_status status = lb_config_read_gguf(&c, &g, &log, &err);
    const char *is = err.text;
    char layers[4] = "";
    for (int64_t il = 0; status == LB_OK && il < c.n_layer && il < 3; il++)
        layers[il] = c.layer[il].index_shared ? 'S' : 'F';
    if (status == LB_OK) {
        assert_true(c.n_layer == 3 && c.mla.kv_rank == 16 && c.mla.rope_dim == 4 && c.index.topk == 100);
        assert_true(c.mla.nope_dim == 8 && c.mla.v_dim == 10 && c.head_dim == 20 && c.v_dim == 16);
        assert_true(c.index.n_head == 2 && c.index.head_dim == 8 && c.rope.interleaved && !c.layer[0].moe);
        is = layers;
    }
    if (!strstr(is, want))
        fail_msg("'%s' is not '%s'", is, want);
    lb_config_release(&c);
    lb_gguf_close(&g);
}

static void gguf_metadata(void **state)
{
    (void)state;
    const struct number none = {NULL, 0};
    gguf_is(NULL, none, NULL, 0, "012", "FFF");
    gguf_is(NULL, none, NULL, 0, "02", "FSF");
    gguf_is(NULL, none, "\1\0\0", 3, "012", "FSS");
    gguf_is(NULL, none, "\1\0\1\1", 4, "012", "FSF");
    gguf_is("attention.value_length_mla", none, NULL, 0, "012", "'glm-dsa.attention.value_length_mla' is missing");
    gguf_is(NULL, none, NULL, 0, "12", "layer 0 takes the positions that an earlier layer chose");
    gguf_is(NULL, none, "\0\1\1", 3, "012", "layer 0 takes the positions");
    gguf_is(NULL, none, "\1\1", 2, "012", "attention.indexer.types' is not a list of true and false for each layer");
    gguf_is("attention.kv_lora_rank", none, NULL, 0, "012", "key 'glm-dsa.attention.kv_lora_rank' is missing");
    gguf_is("rope.dimension_count", none, NULL, 0, "012", "key 'glm-dsa.rope.dimension_count' is missing");
    gguf_is("attention.indexer.top_k", none, NULL, 0, "012", "key 'glm-dsa.attention.indexer.top_k' is missing");
    gguf_is("attention.q_lora_rank", none, NULL, 0, "012", "an indexer needs q_lora_rank");
    gguf_is(NULL, (struct number){"attention.key_length_mla", 4}, NULL, 0, "012", "of which 4 turn: not supported");
    gguf_is(NULL, (struct number){"rope.dimension_count", 3}, NULL, 0, "012", "3 rotary dimensions");
    gguf_is(NULL, (struct number){"attention.indexer.key_length", 3}, NULL, 0, "012", "index_head_dim >=");
    gguf_is(NULL, (struct number){"attention.kv_lora_rank", 1 << 24}, NULL, 0, "012", "heads of 16777220 dimensions");
    gguf_is(NULL, (struct number){"nextn_predict_layers", 4}, NULL, 0, "012", "nextn_predict_layers' is 4");
    gguf_is(NULL, (struct number){"expert_used_count", 9}, NULL, 0, "012", "9 experts, but may choose among 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(class_defaults), cmocka_unit_test(settings), cmocka_unit_test(choosing_layers),
        cmocka_unit_test(refusals),       cmocka_unit_test(names),    cmocka_unit_test(gguf_metadata),
    };
    int failed = cmocka_run_group_tests(tests, scratch_make, NULL);
    scratch_remove(NULL);
    return failed;
}
