#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/tests/golden/golden.h"

/* Rows that take drafts, right ones and far more wrong ones: in f32 their ids are those of Hugging Face, and long
 * texts, sampled ones and log-probabilities among them, are, byte for byte, those of runs without drafts, whatever the
 * type, the steps' size, the threads and the pages. One model of each way to attend, to place positions and to mix
 * experts. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"
#define N_LONG 150

static const char *const models[] = {"llama-mha", "llama-dynamic-ntk",  "mistral-swa",     "qwen3",
                                     "glm4-moe",  "glm-moe-dsa-sparse", "llama-gguf-q4_0", "chatglm"};

static json_t *rows_of(const json_t *golden, int64_t n_new)
{
    json_t *rows = json_array(), *g;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)golden, i, g)
    {
        json_int_t n = n_new ? n_new : (json_int_t)json_array_size(json_object_get(g, "greedy_ids"));
        json_t *row = json_pack("{s:O,s:I,s:b}", "prompt_token_ids", json_object_get(g, "prompt_token_ids"),
                                "max_tokens", n, "ignore_eos", 1);
        json_array_append_new(rows, row);
        if (!n_new)
            continue;
        json_t *other = json_copy(row);
        json_object_update_new(other, json_pack("{s:f,s:i,s:i}", "temperature", i % 2 ? 0.3 : 0, "logprobs",
                                                (int)(i % 3), "n", i % 4 == 1 ? 2 : 1));
        json_array_append_new(rows, other);
    }
    return rows;
}

static void check_ids(const char *path, const char *isa, const json_t *golden)
{
    struct lb_options o;
    struct golden_out out;
    json_t *rows = rows_of(golden, 0);
    golden_options(&o, path);
    o.isa = isa;
    o.bold_drafts = true;
    golden_run(&o, rows, &out);
    assert_true(out.stats.drafted > out.stats.accepted);
    for (size_t i = 0; i < json_array_size(golden); i++)
        if (!json_equal(json_object_get(json_array_get(golden, i), "greedy_ids"),
                        json_object_get(json_array_get(out.rows, i), "token_ids")))
            fail_msg("%s on %s: row %zu has other ids", path, isa, i);
    golden_out_release(&out);
    json_decref(rows);
}

/* Returns how many drafted tokens were accepted. */
static int64_t check_text(const char *path, const char *isa, const char *dtype, const json_t *golden)
{
    static const struct {
        int64_t budget, threads, seqs;
        bool bold, few;
    } ways[] = {
        {512, 2, 256, false, false}, {512, 2, 256, true, false}, {16, 3, 5, true, true}, {40, 1, 3, true, false}};
    struct lb_options o;
    struct golden_out base, out;
    int64_t accepted = 0;
    json_t *rows = rows_of(golden, N_LONG);
    golden_options(&o, path);
    o.isa = isa;
    o.dtype = dtype;
    o.no_draft = true;
    golden_run(&o, rows, &base);
    assert_int_equal(base.stats.drafted, 0);
    o.no_draft = false;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        o.batch_tokens = ways[i].budget;
        o.threads = ways[i].threads;
        o.max_seqs = ways[i].seqs;
        o.bold_drafts = ways[i].bold;
        o.crowd_pages = ways[i].few ? golden_longest_pages(rows) + 2 : 0;
        golden_run(&o, rows, &out);
        assert_true(!ways[i].bold || out.stats.drafted > out.stats.accepted);
        accepted += out.stats.accepted;
        if (strcmp(base.text, out.text) != 0)
            fail_msg("%s on %s in %s, way %zu: another text with drafts", path, isa, dtype, i);
        golden_out_release(&out);
    }
    golden_out_release(&base);
    json_decref(rows);
    return accepted;
}

static void test_drafts(void **state)
{
    (void)state;
    const size_t n_model = sizeof models / sizeof *models;
    enum golden_extent extent = golden_extent();
    int64_t accepted = 0;
    for (size_t m = 0; m < n_model; m += extent == EXTENT_SANITIZED ? 5 : 1) {
        char path[512], file[600];
        snprintf(path, sizeof path, GOLDENS "%s", models[m]);
        snprintf(file, sizeof file, "%s/golden.jsonl", path);
        json_t *golden = golden_read(file);
        assert_non_null(golden);
        if (extent != EXTENT_FULL)
            golden_thin(golden, 3);
        if (strstr(models[m], "gguf"))
            snprintf(path, sizeof path, GOLDENS "%s/%s.gguf", models[m], models[m]);
        size_t nth = m;
        for (const char *const *isa = golden_sets(); *isa; isa++, nth++) {
            if (extent != EXTENT_FULL && (nth % 3 || (extent < EXTENT_SAMPLE && isa[1])))
                continue;
            if (!golden_falls_back(*isa))
                check_ids(path, *isa, golden);
            accepted += check_text(path, *isa, "bf16", golden);
            if (extent == EXTENT_FULL && !golden_falls_back(*isa))
                accepted += check_text(path, *isa, "f32", golden);
        }
        json_decref(golden);
    }
    print_message("accepted tokens of drafts: %lld\n", (long long)accepted);
    assert_true(extent < EXTENT_SAMPLE || accepted > 100);
}

int golden_drafts(void);

int golden_drafts(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_drafts)};
    return cmocka_run_group_tests_name("drafts", tests, NULL, NULL);
}
