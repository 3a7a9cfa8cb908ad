#include "core/tests/fuzz/fuzz_model.h"

/* adapter_config.json and, behind a zero byte, adapter_model.safetensors, beside a small Llama and a model with latent
 * attention and experts: what is read fits the model's matrices, and every number of it is read. */

static const char *const models[] = {
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":12,\"vocab_size\":4,\"num_hidden_layers\":2,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":6}",
    "{\"model_type\":\"glm4_moe_lite\",\"hidden_size\":8,\"intermediate_size\":12,\"vocab_size\":4,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"q_lora_rank\":4,\"kv_lora_rank\":4,\"qk_nope_head_dim\":4,"
    "\"qk_rope_head_dim\":2,\"v_head_dim\":4,\"n_routed_experts\":2,\"num_experts_per_tok\":1,"
    "\"moe_intermediate_size\":4,\"mlp_layer_types\":[\"dense\",\"sparse\"]}",
};

static enum lb_status take(struct lb_backend *be, struct lb_matrix *m, const struct lb_lora_spec *spec,
                           struct lb_err *err)
{
    int64_t first = 0;
    (void)be, (void)err;
    FUZZ_REQUIRE(m && spec->n_part >= 1 && spec->n_part <= LB_LORA_MAX_PART && spec->adapter == 0 && spec->name);
    for (int i = 0; i < spec->n_part; i++) {
        const struct lb_lora_part *p = &spec->part[i];
        FUZZ_REQUIRE(p->first >= first && p->a->n_row == p->b->n_col && isfinite(p->scale));
        FUZZ_REQUIRE(p->a->n_row >= 1 && p->a->n_row <= LB_LORA_MAX_RANK);
        first = p->first + p->b->n_row;
        fuzz_rows(p->a);
        fuzz_rows(p->b);
    }
    return LB_OK;
}

static void adapt(const struct lb_config *c, const struct lb_lora_set *set)
{
    static const struct lb_backend_ops ops = {.lora_new = take};
    struct lb_err err = LB_ERR_INIT;
    struct lb_backend be = {.ops = &ops, .dtype = LB_BF16};
    struct lb_matrix *any = (struct lb_matrix *)&be; /* not looked into */
    struct lb_layer layer[2];
    struct lb_weights w = {.layer = layer, .n_layer = c->n_layer};
    struct lb_model_cols cols;
    FUZZ_REQUIRE(c->n_layer == 2);
    for (int il = 0; il < 2; il++) {
        layer[il] = (struct lb_layer){.wo = any, .w_gate_up = any, .w_down = any};
        if (c->mla.kv_rank > 0)
            layer[il].latent = (struct lb_layer_latent){.wq_a = any, .wq_b = any, .wkv_a = any};
        else
            layer[il].wqkv = any;
    }
    for (int tp = 1; tp <= c->n_seg; tp *= 2) {
        FUZZ_REQUIRE(lb_model_cols_init(&cols, c, tp - 1, tp, &err) == LB_OK);
        const struct lb_weights_spec spec = {.config = c, .backend = &be, .cols = &cols};
        FUZZ_REQUIRE(lb_weights_adapt(&w, &spec, set, &err) == LB_OK);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *config;
    size_t n_config = fuzz_part(&data, &size, &config);
    const struct lb_log log = {0};
    fuzz_file("adapter_config.json", config, n_config);
    fuzz_file("adapter_model.safetensors", data, size);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const struct lb_lora_source source = {"a", fuzz_files()};
        struct lb_config c;
        struct lb_lora_set set;
        struct lb_err err = LB_ERR_INIT;
        fuzz_file("config.json", models[i], strlen(models[i]));
        FUZZ_REQUIRE(lb_config_read_dir(&c, fuzz_files(), &log, &err) == LB_OK);
        if (fuzz_ok(lb_lora_open(&set, &source, 1, &c, &err), &err)) {
            FUZZ_REQUIRE(set.n == 1 && set.adapter[0].n_module >= 1 && lb_lora_elements(&set) > 0);
            adapt(&c, &set);
        }
        lb_lora_close(&set);
        lb_config_release(&c);
    }
    return 0;
}
