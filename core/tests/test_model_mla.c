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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(class_defaults), cmocka_unit_test(settings), cmocka_unit_test(choosing_layers),
        cmocka_unit_test(refusals),       cmocka_unit_test(names),
    };
    int failed = cmocka_run_group_tests(tests, scratch_make, NULL);
    scratch_remove(NULL);
    return failed;
}
