#include "core/tests/fuzz/fuzz_model.h"

/* A safetensors file, alone or behind an index: model.safetensors.index.json, a zero byte, the file. With an index the
 * file is a.safetensors and b.safetensors is a good one beside it. The tensors are those of a Llama, should they fit.
 */

static const char config[] = "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":16,\"vocab_size\":4,"
                             "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
                             "\"attention_bias\":true,\"tie_word_embeddings\":true}";
static const char other[] = "\x50\0\0\0\0\0\0\0"
                            "{\"model.norm.weight\":{\"dtype\":\"BF16\",\"shape\":[8],\"data_offsets\":[0,16]}}        "
                            "0123456789abcdef";

static void check_tensors(const struct lb_wfile *w)
{
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < w->n_tensor; i++) {
        const struct lb_wtensor *t = &w->tensor[i];
        FUZZ_REQUIRE(lb_wfile_find(w, t->name) == t && *t->name);
        FUZZ_REQUIRE(t->n_dim >= 0 && t->n_dim <= LB_W_MAX_DIM && t->type <= LB_W_OTHER);
        FUZZ_REQUIRE(i == 0 || strcmp(w->tensor[i - 1].name, t->name) < 0);
        for (int d = 0; d < t->n_dim; d++)
            FUZZ_REQUIRE(t->dim[d] >= 0);
        for (size_t at = 0; at < t->n_bytes; at++)
            sum = (uint8_t)(sum + t->data[at]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *index;
    size_t n_index = fuzz_part(&data, &size, &index);
    struct lb_wfile w;
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    const struct lb_log log = {0};
    fuzz_file("config.json", config, strlen(config));
    fuzz_file("model.safetensors.index.json", n_index ? index : NULL, n_index);
    fuzz_file("model.safetensors", n_index ? NULL : (const void *)data, size);
    fuzz_file("a.safetensors", n_index ? (const void *)data : NULL, size);
    fuzz_file("b.safetensors", other, sizeof other - 1);
    if (fuzz_ok(lb_safetensors_open(&w, fuzz_files(), &err), &err)) {
        check_tensors(&w);
        FUZZ_REQUIRE(lb_config_read_dir(&c, fuzz_files(), &log, &err) == LB_OK);
        fuzz_weights(&c, &w);
        lb_config_release(&c);
    }
    lb_wfile_close(&w);
    return 0;
}
