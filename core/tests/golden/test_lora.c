#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/tests/golden/golden.h"
#include "core/tests/whole.h"

/* Adapters: the recorded one; made ones against the same model with W + scale * B A as its weights, in families of
 * every kind; and many in one batch, each row as it is alone. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"
#define MERGED_TOLERANCE 2e-4 /* as the goldens have it: merged weights are rounded to f32 once more */

static char scratch[] = "/tmp/lb-lora-XXXXXX";

static void remove_all(const char *dir)
{
    DIR *d = opendir(dir);
    char path[1024];
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && unlink(path) != 0)
            remove_all(path);
    }
    closedir(d);
    rmdir(dir);
}

static void folder(char *path, size_t n, const char *name)
{
    char command[600];
    snprintf(path, n, "%s/%s", scratch, name);
    snprintf(command, sizeof command, "mkdir -p %s", path);
    if (system(command) != 0)
        abort();
}

static json_t *prompts_of(const char *name, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, GOLDENS "%s/golden.jsonl", name);
    json_t *golden = golden_read(path), *rows = json_array();
    const int n_new = golden_extent() < EXTENT_SAMPLE ? 4 : 16;
    for (size_t i = 0; i < n; i++)
        json_array_append_new(rows, json_pack("{s:O,s:i,s:b,s:i}", "prompt_token_ids",
                                              json_object_get(json_array_get(golden, i), "prompt_token_ids"),
                                              "max_tokens", n_new, "ignore_eos", 1, "logprobs", 4));
    if (golden_extent() < EXTENT_SAMPLE)
        golden_thin(rows, 3);
    json_decref(golden);
    return rows;
}

/* The largest distance of a log-probability; ids must be equal. */
static double distance(const char *where, const json_t *a, const json_t *b)
{
    double worst = 0;
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *x = json_array_get(a, i), *y = json_array_get(b, i);
        if (!json_equal(json_object_get(x, "token_ids"), json_object_get(y, "token_ids")))
            fail_msg("%s: row %zu has other ids than with merged weights", where, i);
        x = json_object_get(x, "logprobs");
        y = json_object_get(y, "logprobs");
        for (size_t k = 0; k < json_array_size(x); k++)
            worst = fmax(worst, fabs(json_number_value(json_object_get(json_array_get(x, k), "logprob")) -
                                     json_number_value(json_object_get(json_array_get(y, k), "logprob"))));
    }
    return worst;
}

struct family {
    const char *name;
    int n_layer;
    const char *target[9]; /* NULL behind the last */
    int n_module;
};

static const struct family families[] = {
    {"llama-mha", 3, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, 21},
    {"llama-gqa-tied", 4, {"self_attn.v_proj", "o_proj", "up_proj"}, 12},
    {"llama-headdim", 4, {"q_proj", "k_proj", "down_proj"}, -1}, /* heads of 24: strips of two modules */
    {"mistral-swa", 4, {"k_proj", "v_proj", "gate_proj"}, -1},
    {"qwen2", 4, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, -1},
    {"qwen3", 4, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, -1},
    {"glm", 4, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}, -1},
    {"glm4", 4, {"v_proj", "o_proj", "gate_up_proj", "down_proj"}, -1},
    {"chatglm", 4, {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}, -1},
    {"glm4-moe", 3, {"q_proj", "k_proj", "v_proj", "o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}, 15},
    {"glm4-moe-lite", 3, {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "mlp.down_proj"}, -1},
    {"glm-moe-dsa-sparse", 3, {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"}, -1},
    {"llama-gguf-f32", 2, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, 14},
};

static int layers_of(const char *model, int known)
{
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", model);
    json_t *config = json_load_file(path, 0, NULL);
    const json_t *n = json_object_get(config, "num_hidden_layers");
    int layers = (int)json_integer_value(n ? n : json_object_get(config, "num_layers"));
    json_decref(config);
    return layers > 0 ? layers : known;
}

static void merged_of(const struct family *f, uint32_t seed)
{
    char model[512], adapter[512], merged[512], changed[600];
    bool gguf = strstr(f->name, "gguf");
    snprintf(model, sizeof model, gguf ? GOLDENS "%s/%s.gguf" : GOLDENS "%s", f->name, f->name);
    folder(adapter, sizeof adapter, "adapter");
    folder(merged, sizeof merged, f->name);
    json_t *same = json_object();
    if (!gguf)
        golden_bend(model, merged, same);
    json_decref(same);
    struct golden_adapter a = {.model = model,
                               .into = adapter,
                               .merged = merged,
                               .target = f->target,
                               .n_layer = layers_of(model, f->n_layer),
                               .rank = seed % 3 == 0   ? 3
                                       : seed % 3 == 1 ? 8
                                                       : 17,
                               .alpha = 1.5,
                               .head_dim = 32,
                               .rslora = seed % 2,
                               .bf16 = seed % 4 == 2,
                               .patterned = seed % 5 == 1,
                               .seed = seed};
    int n = golden_adapter(&a);
    assert_true(n > 0 && (f->n_module < 0 || n == f->n_module));
    snprintf(changed, sizeof changed, gguf ? "%s/merged.gguf" : "%s", merged);

    const char *lora[] = {adapter};
    json_t *rows = prompts_of(f->name, 6);
    struct golden_out out[3];
    for (int k = 0; k < 3; k++) { /* with the adapter; merged; neither */
        struct lb_options o;
        golden_options(&o, k == 1 ? changed : model);
        o.lora = lora;
        o.n_lora = k == 0;
        golden_run(&o, rows, &out[k]);
        assert_int_equal(out[k].exit_code, 0);
    }
    double worst = distance(f->name, out[0].rows, out[1].rows);
    assert_string_not_equal(out[0].text, out[2].text);
    if (!(worst <= MERGED_TOLERANCE))
        fail_msg("%s: log-probabilities are %g off merged weights, allowed %g", f->name, worst, MERGED_TOLERANCE);
    print_message("%s: adapter of rank %lld for %d modules, %.2g off merged weights\n", f->name, (long long)a.rank, n,
                  worst);
    for (int k = 0; k < 3; k++)
        golden_out_release(&out[k]);
    json_decref(rows);
}

static void test_merged(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (golden_extent() > EXTENT_SANITIZED || i % 3 == 0)
            merged_of(&families[i], (uint32_t)i + 1);
}

/* transformers' own numbers, on every set. */
static void test_recorded(void **state)
{
    (void)state;
    const char *lora[] = {GOLDENS "llama-lora"};
    json_t *golden = golden_read(GOLDENS "llama-lora/golden.jsonl"), *rows = json_array(), *g;
    size_t i;
    while (golden_cuda && golden_extent() != EXTENT_FULL &&
           json_array_size(golden) > (is_sanitized() ? 1 : 2)) /* its threads are modeled */
        json_array_remove(golden, json_array_size(golden) - 1);
    if (!golden_cuda && golden_extent() < EXTENT_SAMPLE)
        golden_thin(golden, 3);
    if (golden_extent() == EXTENT_SANITIZED)
        golden_shorten(golden, 8);
    json_array_foreach(golden, i, g) json_array_append_new(
        rows, json_pack("{s:O,s:I,s:b,s:i}", "prompt_token_ids", json_object_get(g, "prompt_token_ids"), "max_tokens",
                        (json_int_t)json_array_size(json_object_get(g, "greedy_ids")), "ignore_eos", 1, "logprobs", 8));
    for (const char *const *isa = golden_f32_sets(); *isa; isa++) {
        struct lb_options o;
        struct golden_out out;
        golden_options(&o, GOLDENS "llama-mha");
        o.lora = lora;
        o.n_lora = 1;
        o.isa = *isa;
        golden_run(&o, rows, &out);
        double worst = 0;
        json_array_foreach(golden, i, g)
        {
            const json_t *row = json_array_get(out.rows, i), *lp = json_object_get(row, "logprobs");
            if (!json_equal(json_object_get(row, "token_ids"), json_object_get(g, "greedy_ids")))
                fail_msg("llama-lora on %s: row %zu has other ids", *isa, i);
            for (size_t k = 0; k < json_array_size(lp); k++)
                worst = fmax(worst, fabs(json_number_value(json_object_get(json_array_get(lp, k), "logprob")) -
                                         json_number_value(json_array_get(json_object_get(g, "logprobs"), k))));
        }
        if (!(worst <= GOLDEN_TOLERANCE))
            fail_msg("llama-lora on %s: log-probabilities are %g off", *isa, worst);
        print_message("llama-lora on %s: %zu rows equal, worst difference %.2g\n", out.stats.isa,
                      json_array_size(golden), worst);
        golden_out_release(&out);
    }
    json_decref(rows);
    json_decref(golden);
}

/* Rows over eight adapters and none, 72 of them where all is run: their prompts are the same ones again and again. */
static void mixed_of(const char *name, const char *const *target, int n_layer)
{
    enum { N = 8 };
    char model[512], dir[N][512], text[N][600], word[16];
    const char *lora[N];
    snprintf(model, sizeof model, GOLDENS "%s", name);
    for (int i = 0; i < N; i++) {
        snprintf(word, sizeof word, "a%d", i);
        folder(dir[i], sizeof dir[i], word);
        golden_adapter(&(struct golden_adapter){.model = model,
                                                .into = dir[i],
                                                .target = target + i % 3, /* not all have all modules */
                                                .n_layer = n_layer,
                                                .rank = 1 + 5 * i,
                                                .alpha = 2,
                                                .seed = (uint32_t)i + 77});
        snprintf(text[i], sizeof text[i], "%s=%s", word, dir[i]);
        lora[i] = text[i];
    }
    char path[512];
    snprintf(path, sizeof path, GOLDENS "%s/golden.jsonl", name);
    json_t *golden = golden_read(path), *rows = json_array();
    for (size_t i = json_array_size(golden); golden_extent() != EXTENT_FULL && i-- > 0;)
        if (i % 3 != 0 && json_array_size(json_object_get(json_array_get(golden, i), "prompt_token_ids")) <= 2 * 32)
            json_array_remove(golden, i); /* of those that share no pages, a few do */
    for (int round = 0; round < (golden_extent() < EXTENT_SAMPLE ? 1 : 3); round++) {
        json_t *more = golden_contract_rows(golden), *row;
        size_t i, n = json_array_size(more);
        json_array_foreach(more, i, row)
        {
            snprintf(word, sizeof word, "a%zu", (i % (n / 2) + (size_t)round * 3) % (N + 1));
            if (strcmp(word, "a8") != 0)
                json_object_set_new(row, "lora", json_string(word));
        }
        json_array_extend(rows, more);
        json_decref(more);
    }
    golden_lora = lora;
    golden_n_lora = N;
    golden_contract(model, rows, golden_extent() >= EXTENT_SAMPLE, false);
    golden_n_lora = 0;
    json_decref(rows);
    json_decref(golden);
}

static void test_mixed(void **state)
{
    (void)state;
    static const char *const llama[] = {"q_proj", "o_proj", "up_proj", "down_proj", "v_proj", NULL};
    static const char *const lite[] = {"q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "o_proj", NULL};
    mixed_of("llama-mha", llama, 3);
    if (golden_extent() == EXTENT_FULL)
        mixed_of("glm4-moe-lite", lite, layers_of(GOLDENS "glm4-moe-lite", 3));
}

/* Weights that stay packed, with an adapter beside them: the bytes of weights that do not. */
static void test_packed_weights(void **state)
{
    (void)state;
    static const struct family packed[] = {
        {"llama-gguf-q4_k", 2, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, 14},
        {"fp8-block", 3, {"q_proj", "v_proj", "up_proj", "down_proj"}, -1},
    };
    size_t n = golden_extent() < EXTENT_SAMPLE ? 1 : sizeof packed / sizeof *packed;
    for (size_t i = 0; i < n; i++) {
        const struct family *f = &packed[i];
        char model[512], adapter[512];
        const char *lora[] = {adapter};
        snprintf(model, sizeof model, strstr(f->name, "gguf") ? GOLDENS "%s/%s.gguf" : GOLDENS "%s", f->name, f->name);
        folder(adapter, sizeof adapter, "packed");
        struct golden_adapter a = {.model = model,
                                   .into = adapter,
                                   .target = f->target,
                                   .n_layer = layers_of(model, f->n_layer),
                                   .rank = 5,
                                   .alpha = 4,
                                   .seed = 3};
        assert_true(golden_adapter(&a) > 0);
        json_t *rows = prompts_of(f->name, 6);
        for (const char *const *isa = golden_sets(); *isa; isa++) {
            struct golden_out out[3];
            for (int k = 0; k < 3; k++) { /* packed; unpacked; packed without the adapter */
                struct lb_options o;
                golden_options(&o, model);
                o.isa = *isa;
                o.dtype = "bf16";
                o.lora = lora;
                o.n_lora = k < 2;
                o.unpack = k == 1;
                golden_run(&o, rows, &out[k]);
                assert_int_equal(out[k].exit_code, 0);
            }
            assert_string_equal(out[0].text, out[1].text);
            assert_string_not_equal(out[0].text, out[2].text);
            for (int k = 0; k < 3; k++)
                golden_out_release(&out[k]);
        }
        json_decref(rows);
    }
}

int golden_adapters(void);

int golden_adapters(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_packed_weights),
    };
    const struct CMUnitTest once[] = {cmocka_unit_test(test_merged)};
    const struct CMUnitTest recorded[] = {cmocka_unit_test(test_recorded)};
    bool modeled = golden_cuda && golden_extent() != EXTENT_FULL; /* minutes: cli/tests has a tiny model's */
    if (modeled)
        return cmocka_run_group_tests_name("adapters", recorded, NULL, NULL);
    if (!mkdtemp(scratch))
        abort();
    int failed = cmocka_run_group_tests_name("adapters", tests, NULL, NULL);
    if (!golden_without)
        failed += cmocka_run_group_tests_name("adapters and merged weights", once, NULL, NULL);
    remove_all(scratch);
    return failed;
}
