#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/tests/golden/golden.h"

/* Weights that stay packed give the bytes of weights that are unpacked when they are loaded, log-probabilities
 * included, with every kernel set and type. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

static const struct {
    const char *name, *file;
    bool some; /* not all of its matrices can stay packed */
} models[] = {
    {"llama-gguf-q4_0", "/llama-gguf-q4_0.gguf", false},
    {"fp8-block", "", false},
    {"awq-int4", "", true},
    {"llama-gguf-q6_k", "/llama-gguf-q6_k.gguf", false},
    {"llama-gguf-q4_k", "/llama-gguf-q4_k.gguf", false},
    {"llama-gguf-q4_1", "/llama-gguf-q4_1.gguf", false},
    {"llama-gguf-q8_0", "/llama-gguf-q8_0.gguf", false},
    {"gptq-int4", "", true},
    {"fp8-channel-ct", "", false},
    {"int4-packed-ct", "", true},
};

/* Which of the log's lines came. */
struct heard {
    bool kept, unpacked;
};

static void listen(void *ctx, enum lb_log_level level, const char *text)
{
    struct heard *h = ctx;
    (void)level;
    h->kept = h->kept || strstr(text, "matrices kept packed");
    h->unpacked = h->unpacked || strstr(text, "matrices unpacked at load");
}

static char *run(const char *path, const char *isa, const char *dtype, const json_t *rows, struct heard *heard)
{
    struct lb_options o;
    struct golden_out out;
    golden_options(&o, path);
    o.isa = isa;
    o.dtype = dtype;
    o.unpack = heard->unpacked;
    *heard = (struct heard){false, false};
    o.log = (struct lb_log){.level = LB_LOG_INFO, .emit = listen, .ctx = heard};
    golden_run(&o, rows, &out);
    assert_int_equal(out.exit_code, 0);
    char *text = out.text;
    out.text = NULL;
    golden_out_release(&out);
    return text;
}

/* of a sample; the reference unpacks a weight at each product, and has half as many rows */
static json_t *rows_of(const char *name, bool ref)
{
    char path[512];
    snprintf(path, sizeof path, GOLDENS "%s/golden.jsonl", name);
    json_t *golden = golden_read(path), *rows = json_array();
    const int n_new = golden_extent() < EXTENT_SAMPLE ? 3 : 8;
    assert_non_null(golden);
    if (golden_extent() != EXTENT_FULL)
        golden_thin(golden, golden_extent() == EXTENT_SANITIZED ? 6
                            : golden_extent() == EXTENT_MODEL   ? 3
                            : ref                               ? 4
                                                                : 2);
    for (size_t i = 0; i < json_array_size(golden); i++)
        json_array_append_new(rows, json_pack("{s:O,s:i,s:b,s:i}", "prompt_token_ids",
                                              json_object_get(json_array_get(golden, i), "prompt_token_ids"),
                                              "max_tokens", n_new, "ignore_eos", 1, "logprobs", 8));
    json_decref(golden);
    return rows;
}

static void test_packed(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "bf16"};
    size_t n = sizeof models / sizeof *models;
    if (golden_extent() < EXTENT_SAMPLE)
        n = 4; /* one of each kind of scale */
    for (size_t m = 0; m < n; m++) {
        char path[512];
        snprintf(path, sizeof path, GOLDENS "%s%s", models[m].name, models[m].file);
        for (const char *const *isa = golden_sets(); *isa; isa++) {
            json_t *rows = rows_of(models[m].name, strcmp(*isa, "ref") == 0);
            for (int t = golden_falls_back(*isa); t < 2; t++) {
                /* of a sample a set has every second model in f32, the others in bf16; sanitized these alone */
                const int other = (int)((m + (size_t)(isa - golden_sets())) % 2);
                if (golden_extent() < EXTENT_FULL &&
                    (t != other || (golden_extent() == EXTENT_SANITIZED && other == 0)))
                    continue;
                struct heard packed = {false, false}, plain = {false, true};
                char *a = run(path, *isa, types[t], rows, &packed), *b = run(path, *isa, types[t], rows, &plain);
                assert_true(packed.kept && packed.unpacked == models[m].some && plain.unpacked && !plain.kept);
                if (strcmp(a, b) != 0)
                    fail_msg("%s, %s, %s: packed\n%.400s\nunpacked\n%.400s", models[m].name, *isa, types[t], a, b);
                free(a);
                free(b);
            }
            json_decref(rows);
        }
    }
}

int golden_packed(void);

int golden_packed(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_packed)};
    return cmocka_run_group_tests_name("packed", tests, NULL, NULL);
}
