/* Broken model files: cut at every place, each header field bent in turn, bytes flipped. Whatever is done, opening ends
 * in success or in LB_E_INPUT with one line that names the file; run under ASan and UBSan it is also a memory check.
 *
 * Cuts must always be refused. A bent field must be refused where the file cannot mean anything else (strict); other
 * fields may leave a valid file: another version that reads alike, a type of the same size, a number in its range.
 * LB_TEST_FULL=1 tries every cut instead of 64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/model/config.h"
#include "core/tests/modelfiles.h"
#include "core/tests/whole.h"

#define CONFIG                                                                                                        \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":8,\"hidden_size\":4,"          \
    "\"intermediate_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"            \
    "\"head_dim\":2,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"                    \
    "\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"attention_bias\":false,\"mlp_bias\":false,"               \
    "\"bos_token_id\":0,\"eos_token_id\":1,\"pad_token_id\":1,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":" \
    "8.0,"                                                                                                            \
    "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":32}}"
#define CONFIG_QWEN                                                                                                   \
    "{\"model_type\":\"qwen2\",\"vocab_size\":8,\"hidden_size\":4,\"num_hidden_layers\":2,\"num_attention_heads\":2," \
    "\"num_key_value_heads\":1,\"use_sliding_window\":true,\"sliding_window\":5,\"max_window_layers\":1,"             \
    "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}"
#define CONFIG_CHATGLM                                                                                            \
    "{\"architectures\":[\"ChatGLMModel\"],\"model_type\":\"chatglm\",\"padded_vocab_size\":8,\"hidden_size\":4," \
    "\"num_layers\":1,\"num_attention_heads\":2,\"kv_channels\":4,\"ffn_hidden_size\":8,\"seq_length\":64,"       \
    "\"multi_query_attention\":true,\"multi_query_group_num\":1,\"original_rope\":true,\"rope_ratio\":4,"         \
    "\"rmsnorm\":true,\"post_layer_norm\":true,\"apply_residual_connection_post_layernorm\":false,"               \
    "\"add_bias_linear\":false,\"add_qkv_bias\":true,\"layernorm_epsilon\":1e-05,\"quantization_bit\":0,"         \
    "\"pre_seq_len\":null}"
#define GENERATION                                                                                             \
    "{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.9,\"top_k\":20,\"min_p\":0.1,\"eos_token_id\":[1,2]," \
    "\"repetition_penalty\":1.1,\"bos_token_id\":0,\"pad_token_id\":1}"
#define HEADER                                                           \
    "{\"__metadata__\":{\"format\":\"pt\"},"                             \
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_offsets\":[0,32]}," \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[32,40]}," \
    "\"c\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[40,48]}}  "
#define HEADER_GPTQ                                                               \
    "{\"w.qweight\":{\"dtype\":\"I32\",\"shape\":[1,8],\"data_offsets\":[0,32]}," \
    "\"w.qzeros\":{\"dtype\":\"I32\",\"shape\":[1,1],\"data_offsets\":[32,36]},"  \
    "\"w.scales\":{\"dtype\":\"F16\",\"shape\":[1,8],\"data_offsets\":[36,52]},"  \
    "\"w.g_idx\":{\"dtype\":\"I32\",\"shape\":[8],\"data_offsets\":[52,84]}}"
#define INDEX "{\"metadata\":{\"total_size\":48},\"weight_map\":{\"a\":\"one\",\"b\":\"one\",\"c\":\"one\"}}"

static const unsigned char tensors[48];

/* What opens and closes the model that a broken file is part of. */
static enum lb_status open_gguf(struct lb_err *err)
{
    struct lb_gguf g;
    struct lb_config c;
    enum lb_status status = lb_gguf_open(&g, scratch_path("m.gguf"), err);
    if (status == LB_OK) {
        status = lb_config_read_gguf(&c, &g, NULL, err);
        lb_config_release(&c);
    }
    lb_gguf_close(&g);
    return status;
}

static enum lb_status open_safetensors(struct lb_err *err)
{
    struct lb_wfile w;
    enum lb_status status = lb_safetensors_open(&w, scratch, err);
    lb_wfile_close(&w);
    return status;
}

static enum lb_status open_config(struct lb_err *err)
{
    struct lb_config c;
    enum lb_status status = lb_config_read_dir(&c, scratch, NULL, err);
    lb_config_release(&c);
    return status;
}

/* Packed weights are joined, and all of their numbers are read. */
static enum lb_status open_packed(struct lb_err *err)
{
    static const struct lb_pack_format format = {.kind = LB_PACK_GPTQ, .bits = 4};
    struct lb_wfile w;
    enum lb_status status = lb_pack_open(&w, scratch, &format, err);
    for (size_t i = 0; status == LB_OK && i < w.n_tensor; i++) {
        const struct lb_wtensor *t = &w.tensor[i];
        float *all = t->pack ? malloc((size_t)(t->dim[0] * t->dim[1]) * sizeof *all) : NULL;
        if (all)
            lb_pack_read(t->pack, 0, t->dim[0], 0, t->dim[1], all);
        free(all);
    }
    lb_wfile_close(&w);
    return status;
}

struct subject {
    const char *file; /* the one that is broken, and that messages name */
    enum lb_status (*open)(struct lb_err *err);
};

static const struct subject gguf = {"m.gguf", open_gguf};
static const struct subject single = {"model.safetensors", open_safetensors};
static const struct subject packed = {"model.safetensors", open_packed};
static const struct subject sharded = {"model.safetensors.index.json", open_safetensors};
static const struct subject config = {"config.json", open_config};
static const struct subject qwen = {"config.json", open_config};
static const struct subject chatglm = {"config.json", open_config};
static const struct subject generation = {"generation_config.json", open_config};

/* Writes the file, opens the model and checks how it ends; `what` tells the case. */
static enum lb_status attempt(const struct subject *s, const void *data, size_t n, bool must_fail, const char *what)
{
    struct lb_err err = LB_ERR_INIT;
    scratch_write(s->file, data, n);
    enum lb_status status = s->open(&err);
    if (status == LB_OK && !must_fail && err.status == LB_OK)
        return status;
    if (status != LB_E_INPUT || err.status != status)
        fail_msg("%s: %s: status %d, '%s'", s->file, what, (int)status, err.text);
    size_t len = strlen(err.text);
    if (!len || strlen(err.text) != strcspn(err.text, "\r\n\t\v\f\033") || lb_utf8_valid_prefix(err.text, len) != len)
        fail_msg("%s: %s: not one line of text: '%s'", s->file, what, err.text);
    if (!strstr(err.text, s->file))
        fail_msg("%s: %s: the file is not named: '%s'", s->file, what, err.text);
    return status;
}

static void cut(const struct subject *s, const char *data, size_t n)
{
    size_t n_cut = is_whole() ? n : 64;
    char what[64];
    for (size_t i = 0; i < n_cut; i++) {
        size_t len = n_cut == n ? i : i * n / n_cut + i % 7 * (i < n_cut - 8);
        len = len < n ? len : n - 1;
        snprintf(what, sizeof what, "cut to %zu of %zu bytes", len, n);
        attempt(s, data, len, true, what);
    }
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* One or two bytes of the first n changed. */
static void flip(const struct subject *s, const char *data, size_t n, size_t total)
{
    uint32_t seed = 17;
    char *copy = malloc(total), what[64];
    assert_non_null(copy);
    for (int i = 0; i < 1500; i++) {
        memcpy(copy, data, total);
        for (int k = 0; k <= i % 2; k++) {
            size_t at = next_random(&seed) % n;
            copy[at] = (char)next_random(&seed);
        }
        snprintf(what, sizeof what, "bytes flipped, try %d", i);
        attempt(s, copy, total, false, what);
    }
    free(copy);
}

static const uint64_t extremes[] = {0,          UINT64_MAX,     UINT64_C(1) << 31,         INT64_MAX,
                                    UINT32_MAX, INT32_MAX,      UINT64_C(1) << 63,         UINT64_C(1) << 32,
                                    255,        0x7FFFFFFFFFFF, UINT64_C(0xFFFFFFFF) << 32};

static void gguf_broken(void **state)
{
    scratch_empty(state);
    struct gguf_out o;
    gguf_tiny(&o);
    assert_true(o.n_field > 150 && o.n_field < 256);
    assert_int_equal(attempt(&gguf, o.s.data, o.s.len, false, "whole"), LB_OK);
    cut(&gguf, o.s.data, o.s.len);
    size_t header = o.field[o.n_field - 1].at + 8, n_refused = 0, n_strict = 0;
    char *copy = malloc(o.s.len), what[128];
    assert_non_null(copy);
    for (size_t i = 0; i < o.n_field; i++) {
        const struct gguf_field *f = &o.field[i];
        uint64_t old = 0, mask = f->n_bytes == 8 ? UINT64_MAX : (UINT64_C(1) << 8 * f->n_bytes) - 1;
        memcpy(&old, o.s.data + f->at, (size_t)f->n_bytes);
        for (size_t k = 0; k < sizeof extremes / sizeof *extremes + 4; k++) {
            const uint64_t near[4] = {old + 1, old - 1, old * 2, old + 64};
            uint64_t v = (k < 4 ? near[k] : extremes[k - 4]) & mask;
            if (v == old)
                continue;
            memcpy(copy, o.s.data, o.s.len);
            memcpy(copy + f->at, &v, (size_t)f->n_bytes);
            snprintf(what, sizeof what, "%s = %llu", f->name, (unsigned long long)v);
            n_refused += attempt(&gguf, copy, o.s.len, f->strict, what) != LB_OK;
            n_strict += f->strict;
        }
    }
    assert_true(n_strict > 1000 && n_refused > n_strict);
    free(copy);
    flip(&gguf, o.s.data, header, o.s.len);
    lb_str_release(&o.s);
}

/* Fields that no other number may stand for, however plausible: sizes that contradict the tensors. */
static void gguf_sizes_bent(void **state)
{
    scratch_empty(state);
    static const char *const sizes[] = {
        "value of llama.vocab_size",
        "value of llama.embedding_length",
        "value of llama.attention.head_count",
        "value of llama.rope.dimension_count",
    };
    struct gguf_out o;
    gguf_tiny(&o);
    for (size_t i = 0; i < o.n_field; i++)
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            for (uint32_t v = 0; v < 40 && strcmp(o.field[i].name, sizes[k]) == 0; v++) {
                uint32_t old;
                memcpy(&old, o.s.data + o.field[i].at, 4);
                memcpy(o.s.data + o.field[i].at, &v, 4);
                attempt(&gguf, o.s.data, o.s.len, v != old, sizes[k]);
                memcpy(o.s.data + o.field[i].at, &old, 4);
            }
    lb_str_release(&o.s);
}

/* The text with what follows `"key":` up to the next of ,]} at the same depth replaced. */
static void bend(struct lb_str *out, const char *text, const char *key, const char *value)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(text, quoted);
    assert_non_null(at);
    at += strlen(quoted);
    lb_str_clear(out);
    lb_str_put(out, text, (size_t)(at - text));
    lb_str_puts(out, value);
    for (int depth = 0; depth > 0 || !strchr(",}]", *at); at++) {
        depth += *at == '[' || *at == '{';
        depth -= *at == ']' || *at == '}';
    }
    lb_str_puts(out, at);
}

static const char *const json_values[] = {"0",
                                          "-1",
                                          "2147483648",
                                          "9223372036854775807",
                                          "18446744073709551615",
                                          "1.5",
                                          "\"\"",
                                          "\"x\\ny\"",
                                          "[]",
                                          "{}",
                                          "true",
                                          "null",
                                          "1e999",
                                          "NaN",
                                          "-0.0",
                                          "[[1]]",
                                          "",
                                          "1e-320",
                                          "99999999999999999999"};

static const char *whole_of(const struct subject *s)
{
    return s == &config ? CONFIG : s == &qwen ? CONFIG_QWEN : s == &chatglm ? CONFIG_CHATGLM : GENERATION;
}

static void config_broken(void **state)
{
    /* a value that is none of the member's kind, or out of any range, is refused: ok lists those that may pass */
    static const struct {
        const struct subject *s;
        const char *key, *ok;
    } t[] = {
        {&config, "architectures", "null"},
        {&config, "model_type", "null"},
        {&config, "vocab_size", "null"},
        {&config, "hidden_size", "null"},
        {&config, "intermediate_size", "null"},
        {&config, "num_hidden_layers", "null"},
        {&config, "num_attention_heads", "null"},
        {&config, "num_key_value_heads", "null"},
        {&config, "head_dim", "null"},
        {&config, "max_position_embeddings", "null"},
        {&config, "rms_norm_eps", "null"},
        {&config, "rope_theta", "null 2147483648 9223372036854775807 1.5"},
        {&config, "hidden_act", "null"},
        {&config, "tie_word_embeddings", "null true"},
        {&config, "attention_bias", "null true"},
        {&config, "mlp_bias", "null true"},
        {&config, "bos_token_id", "null 0 -1 2147483648 9223372036854775807"},
        {&config, "eos_token_id", "null [] 0 -1 2147483648 9223372036854775807"},
        {&config, "pad_token_id", "null 0 -1 2147483648 9223372036854775807"},
        {&config, "rope_scaling", "null {}"},
        {&config, "rope_type", "null"},
        {&config, "factor", "1.5"},
        {&config, "low_freq_factor", "1.5"},
        {&config, "high_freq_factor", "1.5"},
        {&config, "original_max_position_embeddings", "null"},
        {&qwen, "use_sliding_window", ""}, /* then layer_types names what is not in use */
        {&qwen, "sliding_window", ""},
        {&qwen, "max_window_layers", "null 0 -1 2147483648 9223372036854775807"},
        {&qwen, "layer_types", "null"},
        {&chatglm, "padded_vocab_size", "null"},
        {&chatglm, "num_layers", "null"},
        {&chatglm, "kv_channels", "null"},
        {&chatglm, "ffn_hidden_size", "null"},
        {&chatglm, "seq_length", "null"},
        {&chatglm, "multi_query_attention", "true"},
        {&chatglm, "multi_query_group_num", "null"},
        {&chatglm, "original_rope", "true"},
        {&chatglm, "rope_ratio", "null 1.5"},
        {&chatglm, "rmsnorm", "null true"},
        {&chatglm, "apply_residual_connection_post_layernorm", "null"},
        {&chatglm, "add_bias_linear", "null true"},
        {&chatglm, "layernorm_epsilon", "null"},
        {&chatglm, "quantization_bit", "null 0"},
        {&chatglm, "pre_seq_len", "null"},
        {&generation, "do_sample", "null true"},
        {&generation, "temperature", "null 0 -0.0 1.5 1e-320"},
        {&generation, "top_p", "null"},
        {&generation, "top_k", "null 0 -1"},
        {&generation, "min_p", "null 0 -0.0 1e-320"},
        {&generation, "repetition_penalty", "null 1.5"},
        {&generation, "eos_token_id", "null [] 0 -1 2147483648 9223372036854775807"},
        {&generation, "bos_token_id", "null 0 -1 2147483648 9223372036854775807"},
    };
    struct lb_str text = {0};
    scratch_empty(state);
    scratch_text("generation_config.json", GENERATION);
    assert_int_equal(attempt(&config, CONFIG, strlen(CONFIG), false, "whole"), LB_OK);
    cut(&config, CONFIG, strlen(CONFIG));
    flip(&config, CONFIG, strlen(CONFIG), strlen(CONFIG));
    flip(&qwen, CONFIG_QWEN, strlen(CONFIG_QWEN), strlen(CONFIG_QWEN));
    flip(&chatglm, CONFIG_CHATGLM, strlen(CONFIG_CHATGLM), strlen(CONFIG_CHATGLM));
    scratch_text("config.json", CONFIG);
    cut(&generation, GENERATION, strlen(GENERATION));
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        const char *whole = whole_of(t[i].s);
        for (size_t k = 0; k < sizeof json_values / sizeof *json_values; k++) {
            char ok[96], word[40], what[128];
            snprintf(ok, sizeof ok, " %s ", t[i].ok);
            snprintf(word, sizeof word, " %s ", json_values[k]);
            snprintf(what, sizeof what, "%s = %s", t[i].key, json_values[k]);
            bend(&text, whole, t[i].key, json_values[k]);
            attempt(t[i].s, text.data, text.len, !strstr(ok, word), what);
        }
        scratch_text(t[i].s->file, t[i].s == &generation ? GENERATION : CONFIG);
    }
    /* deep nesting ends in a message, not in the stack's end */
    lb_str_clear(&text);
    for (int i = 0; i < 200000; i++)
        lb_str_putc(&text, '[');
    attempt(&config, text.data, text.len, true, "200000 brackets");
    lb_str_release(&text);
}

static void put_file(struct lb_str *out, const char *header)
{
    lb_str_clear(out);
    put_le(out, strlen(header), 8);
    lb_str_puts(out, header);
    lb_str_put(out, tensors, sizeof tensors);
}

static void safetensors_broken(void **state)
{
    static const char *const bent[][2] = {
        {"[2,4]", "[0,4]"},
        {"[2,4]", "[2,-1]"},
        {"[2,4]", "[2147483648,4]"},
        {"[2,4]", "[9223372036854775807,4]"},
        {"[2,4]", "[18446744073709551615,4]"},
        {"[2,4]", "[2305843009213693953,4]"},
        {"[2,4]", "[2,4,2]"},
        {"[2,4]", "[]"},
        {"[2,4]", "[2,4.0]"},
        {"[2,4]", "{}"},
        {"[0,32]", "[-1,31]"},
        {"[0,32]", "[1,33]"},
        {"[0,32]", "[0,2147483648]"},
        {"[0,32]", "[0,9223372036854775807]"},
        {"[0,32]", "[0,18446744073709551615]"},
        {"[0,32]", "[9223372036854775807,32]"},
        {"[0,32]", "[32,0]"},
        {"[0,32]", "[0,48]"},
        {"[0,32]", "[0,32,48]"},
        {"[0,32]", "[16,48]"},
        {"[32,40]", "[24,32]"},
        {"[32,40]", "[40,48]"},
        {"[40,48]", "[40,56]"},
        {"[40,48]", "[32,40]"},
        {"[40,48]", "[0,8]"},
        {"\"F32\"", "\"F64\""},
        {"\"F32\"", "\"BF16\""},
        {"\"F32\"", "\"f32\""},
        {"\"F32\"", "\"F32\\n\""},
        {"\"F32\"", "32"},
        {"\"F32\"", "\"F4\""},
        {"\"I64\"", "\"I32\""},
        {"\"b\":", "\"a\":"},
        {"\"b\":", "\"\":"},
        {"\"shape\"", "\"Shape\""},
        {"\"data_offsets\"", "\"offsets\""},
        {"\"dtype\"", "\"type\""},
        {"\"pt\"", "1"},
    };
    struct lb_str s = {0}, header = {0};
    scratch_empty(state);
    put_file(&s, HEADER);
    assert_int_equal(attempt(&single, s.data, s.len, false, "whole"), LB_OK);
    cut(&single, s.data, s.len);
    flip(&single, s.data, 8 + strlen(HEADER), s.len);
    lb_str_putc(&s, 0);
    attempt(&single, s.data, s.len, true, "a byte too many");
    for (size_t k = 0; k < sizeof extremes / sizeof *extremes + 4; k++) {
        const uint64_t n = strlen(HEADER), near[4] = {n - 1, n + 1, n + 48, n + 49};
        put_file(&s, HEADER);
        s.len = 0;
        put_le(&s, k < 4 ? near[k] : extremes[k - 4], 8);
        attempt(&single, s.data, 8 + strlen(HEADER) + sizeof tensors, true, "header length");
    }
    for (size_t i = 0; i < sizeof bent / sizeof *bent; i++) {
        const char *at = strstr(HEADER, bent[i][0]);
        assert_non_null(at);
        lb_str_clear(&header);
        lb_str_put(&header, HEADER, (size_t)(at - HEADER));
        lb_str_puts(&header, bent[i][1]);
        lb_str_puts(&header, at + strlen(bent[i][0]));
        put_file(&s, header.data);
        attempt(&single, s.data, s.len, true, bent[i][1]);
    }
    lb_str_release(&header);
    lb_str_release(&s);
}

/* Cut, flipped in the header and in the groups that its inputs name. */
static void packed_broken(void **state)
{
    struct lb_str s = {0};
    scratch_empty(state);
    put_le(&s, strlen(HEADER_GPTQ), 8);
    lb_str_puts(&s, HEADER_GPTQ);
    for (int i = 0; i < 84; i++)
        lb_str_putc(&s, 0);
    assert_int_equal(attempt(&packed, s.data, s.len, false, "whole"), LB_OK);
    cut(&packed, s.data, s.len);
    flip(&packed, s.data, 8 + strlen(HEADER_GPTQ), s.len);
    for (size_t k = 0; k < sizeof extremes / sizeof *extremes; k++) {
        uint32_t v = (uint32_t)extremes[k];
        memcpy(s.data + s.len - 12, &v, sizeof v);
        attempt(&packed, s.data, s.len, v != 0, "a group of g_idx");
    }
    lb_str_release(&s);
}

static void index_broken(void **state)
{
    struct lb_str text = {0};
    scratch_empty(state);
    scratch_safetensors("one", HEADER, tensors, sizeof tensors);
    assert_int_equal(attempt(&sharded, INDEX, strlen(INDEX), false, "whole"), LB_OK);
    cut(&sharded, INDEX, strlen(INDEX));
    static const char *const keys[] = {"metadata", "weight_map", "a", "b", "c"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        for (size_t k = 0; k < sizeof json_values / sizeof *json_values; k++) {
            bool ok = i == 0 && strcmp(json_values[k], "{}") == 0; /* what metadata says is not used */
            bend(&text, INDEX, keys[i], json_values[k]);
            attempt(&sharded, text.data, text.len, !ok, json_values[k]);
        }
    /* a shard that is broken itself is named beside the index */
    const struct subject shard = {"one", open_safetensors};
    scratch_text(sharded.file, INDEX);
    struct lb_str s = {0};
    put_file(&s, HEADER);
    cut(&shard, s.data, s.len);
    lb_str_release(&s);
    lb_str_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_broken),        cmocka_unit_test(gguf_sizes_bent), cmocka_unit_test(config_broken),
        cmocka_unit_test(safetensors_broken), cmocka_unit_test(packed_broken),   cmocka_unit_test(index_broken),
    };
    int failed = cmocka_run_group_tests(tests, scratch_make, NULL);
    scratch_remove(NULL);
    return failed;
}
