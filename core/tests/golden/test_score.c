#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/tests/golden/golden.h"

/* Prompts that are scored, against the goldens: a golden row's prompt and the ids that transformers gave it are one
 * prompt here, and what that recorded of each new id is what scoring must find. (Not with dynamic NTK, whose numbers
 * depend on the length of the prompt.) */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"
#define SCORE_TOLERANCE 1e-4 /* the goldens' own distance from double precision is 3e-5 */
#define N_TOP 8

static const char *const models[] = {
    "llama-gqa-tied", "llama-yarn",    "mistral-swa",        "qwen2",         "qwen3", "glm", "glm4",
    "glm4-moe",       "glm4-moe-lite", "glm-moe-dsa-sparse", "llama-gguf-f32"};

static json_t *joined(const json_t *golden)
{
    json_t *ids = json_copy(json_object_get(golden, "prompt_token_ids"));
    json_array_extend(ids, json_object_get(golden, "greedy_ids"));
    return ids;
}

static json_t *rows_of(const json_t *golden)
{
    json_t *rows = json_array(), *g;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)golden, i, g)
    {
        json_int_t from = (json_int_t)json_array_size(json_object_get(g, "prompt_token_ids"));
        json_array_append_new(rows, json_pack("{s:O,s:o,s:i,s:i,s:I}", "id", json_object_get(g, "id"),
                                              "prompt_token_ids", joined(g), "max_tokens", 0, "prompt_logprobs", N_TOP,
                                              "prompt_logprobs_from", from));
    }
    return rows;
}

/* How far the row's numbers are from the recorded ones. */
static double distance(const json_t *golden, const json_t *row)
{
    const json_t *want = json_object_get(golden, "logprobs"), *steps = json_object_get(golden, "step_top8");
    const json_t *got = json_object_get(row, "prompt_logprobs"), *ids = json_object_get(golden, "greedy_ids");
    size_t n = json_array_size(want), from = json_array_size(got) - n;
    double worst = 0, nll = 0;
    assert_int_equal(json_array_size(got), json_array_size(json_object_get(golden, "prompt_token_ids")) + n);
    for (size_t i = 0; i < from; i++)
        assert_true(json_is_null(json_array_get(got, i)));
    for (size_t i = 0; i < n; i++) {
        const json_t *g = json_array_get(got, from + i), *top = json_array_get(steps, i);
        double lp = json_number_value(json_array_get(want, i));
        double lse = json_number_value(json_array_get(json_array_get(top, 0), 1)) - lp;
        assert_int_equal(json_integer_value(json_object_get(g, "id")), json_integer_value(json_array_get(ids, i)));
        assert_int_equal(json_integer_value(json_object_get(g, "rank")), 1);
        worst = fmax(worst, fabs(json_number_value(json_object_get(g, "logprob")) - lp));
        nll -= lp;
        for (size_t k = 0; k < N_TOP; k++) {
            const json_t *a = json_array_get(top, k), *b = json_array_get(json_object_get(g, "top"), k);
            worst = fmax(worst,
                         fabs(json_number_value(json_array_get(b, 1)) + lse - json_number_value(json_array_get(a, 1))));
        }
    }
    assert_true(fabs(json_number_value(json_object_get(row, "prompt_nll")) - nll) <= SCORE_TOLERANCE * (double)n);
    return worst;
}

static void score_of(const char *name, const char *isa)
{
    char path[512], file[512];
    struct lb_options o;
    struct golden_out out;
    snprintf(path, sizeof path, GOLDENS "%s/%s.gguf", name, name);
    if (access(path, R_OK) != 0)
        snprintf(path, sizeof path, GOLDENS "%s", name);
    snprintf(file, sizeof file, GOLDENS "%s/golden.jsonl", name);
    json_t *golden = golden_read(file);
    if (golden_extent() < EXTENT_SAMPLE)
        golden_thin(golden, golden_extent() == EXTENT_SANITIZED ? 6 : 3);
    else if (golden_extent() == EXTENT_SAMPLE && strcmp(isa, "ref") == 0)
        golden_thin(golden, 2);
    if (golden_extent() == EXTENT_SANITIZED)
        golden_shorten(golden, 12);
    json_t *rows = rows_of(golden);
    golden_options(&o, path);
    o.isa = isa;
    golden_run(&o, rows, &out);
    assert_int_equal(out.exit_code, 0);
    double worst = 0;
    int64_t n = 0;
    for (size_t i = 0; i < json_array_size(golden); i++) {
        worst = fmax(worst, distance(json_array_get(golden, i), json_array_get(out.rows, i)));
        n += (int64_t)json_array_size(json_object_get(json_array_get(golden, i), "greedy_ids"));
    }
    assert_int_equal(out.stats.scored_tokens, n);
    assert_int_equal(out.stats.completion_tokens, 0);
    if (!(worst <= SCORE_TOLERANCE))
        fail_msg("%s on %s: log-probabilities of the prompt are %g off, allowed %g", name, isa, worst, SCORE_TOLERANCE);
    print_message("%s on %s: %lld scored tokens, worst difference %.2g\n", name, out.stats.isa, (long long)n, worst);
    golden_out_release(&out);
    json_decref(rows);
    json_decref(golden);
}

static void test_score(void **state)
{
    (void)state;
    size_t step = golden_extent() < EXTENT_SAMPLE ? 3 : 1;
    for (size_t m = 0; m < sizeof models / sizeof *models; m += step)
        for (const char *const *isa = golden_f32_sets(); *isa; isa++)
            score_of(models[m], *isa);
}

int golden_score(void);

int golden_score(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_score)};
    return cmocka_run_group_tests_name("scored prompts", tests, NULL, NULL);
}
