#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/tests/golden/golden.h"
#include "core/tests/hardware.h"
#include "core/tests/whole.h"

/* The goldens of ../shared/goldens (README there: Hugging Face, float32, one row at a time) through the whole engine;
 * which of them the contract (golden_contract.c) is held to; what runs when. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens/"

static const char *const models[] = {"llama-mha",
                                     "llama-gqa-tied",
                                     "llama-linear-rope",
                                     "llama-yarn",
                                     "llama-dynamic-ntk",
                                     "llama-bias",
                                     "llama-headdim",
                                     "llama-sharded",
                                     "llama-bf16",
                                     "llama-gguf-f32",
                                     "llama-gguf-f16",
                                     "llama-gguf-bf16",
                                     "llama-gguf-q8_0",
                                     "llama-gguf-q4_0",
                                     "llama-gguf-q4_1",
                                     "llama-gguf-q4_k",
                                     "llama-gguf-q6_k",
                                     "gptq-int4",
                                     "gptq-int4-actorder",
                                     "awq-int4",
                                     "fp8-block",
                                     "fp8-channel-ct",
                                     "int4-packed-ct",
                                     "mistral-swa",
                                     "qwen2",
                                     "qwen3",
                                     "glm",
                                     "glm4",
                                     "glm4-moe",
                                     "glm4-moe-qknorm",
                                     "chatglm",
                                     "glm4-moe-lite",
                                     "glm-moe-dsa",
                                     "glm-moe-dsa-sparse"};
enum { N_MODEL = sizeof models / sizeof *models };

/* Whether a model is among the first n of one of each kind (experts in groups, latent attention, a window, heads, norms
 * of outputs and partial rotation, rope that depends on the length, biases, a quantized GGUF). */
static bool in_sample(const char *name, size_t n)
{
    static const char *const sample[] = {
        "glm4-moe-qknorm",   "glm-moe-dsa-sparse", "mistral-swa", "llama-gqa-tied",  "glm4",
        "llama-dynamic-ntk", "llama-mha",          "llama-bias",  "llama-gguf-q4_0", "glm4-moe",
        "glm4-moe-lite"};
    for (size_t i = 0; i < n && i < sizeof sample / sizeof *sample; i++)
        if (strcmp(name, sample[i]) == 0)
            return true;
    return false;
}

/* Models that were asked for by name; NULL: all. */
static char **only;

static bool is_wanted(const char *name)
{
    for (char **at = only; at && *at; at++)
        if (strcmp(*at, name) == 0)
            return true;
    return !only;
}

/* Path of a model: its folder, or the .gguf in it. */
static void model_path(const char *name, char *path, size_t n)
{
    snprintf(path, n, GOLDENS "%s/%s.gguf", name, name);
    if (access(path, R_OK) != 0)
        snprintf(path, n, GOLDENS "%s", name);
}

static json_t *golden_rows(const char *name, const char *file)
{
    char path[512];
    snprintf(path, sizeof path, GOLDENS "%s/%s", name, file);
    json_t *rows = golden_read(path);
    if (!rows)
        fail_msg("cannot read %s", path);
    return rows;
}

static void check_ids(const char *where, const json_t *want, const json_t *got)
{
    if (json_equal((json_t *)(uintptr_t)want, (json_t *)(uintptr_t)got))
        return;
    char *w = json_dumps(want, JSON_COMPACT), *g = json_dumps(got, JSON_COMPACT);
    fail_msg("%s: ids differ\nwant %s\n got %s", where, w, g ? g : "(absent)");
}

/* Log-probabilities of the chosen ids and logits of the eight best at each step. The logit is the log-probability plus
 * the log-sum-exp, which the golden gives as its best logit minus its log-probability (greedy: the best is chosen). */
static double check_logprobs(const char *where, const json_t *golden, const json_t *row)
{
    const json_t *want = json_object_get(golden, "logprobs"), *top = json_object_get(golden, "step_top8");
    const json_t *got = json_object_get(row, "logprobs");
    double worst = 0;
    assert_int_equal(json_array_size(want), json_array_size(got));
    for (size_t i = 0; i < json_array_size(want); i++) {
        const json_t *g = json_array_get(got, i), *t = json_array_get(top, i);
        double lp = json_number_value(json_array_get(want, i));
        double lse = json_number_value(json_array_get(json_array_get(t, 0), 1)) - lp;
        worst = fmax(worst, fabs(json_number_value(json_object_get(g, "logprob")) - lp));
        assert_int_equal(json_integer_value(json_object_get(g, "rank")), 1);
        for (size_t k = 0; k < 8; k++) {
            const json_t *pair = json_array_get(json_array_get(json_object_get(g, "top"), 0), 0);
            assert_non_null(pair);
            double logit = json_number_value(json_array_get(json_array_get(t, k), 1));
            double mine = json_number_value(json_array_get(json_array_get(json_object_get(g, "top"), k), 1));
            worst = fmax(worst, fabs(mine + lse - logit));
        }
    }
    if (!(worst <= GOLDEN_TOLERANCE))
        fail_msg("%s: logits or log-probabilities are %g off, allowed %g", where, worst, GOLDEN_TOLERANCE);
    return worst;
}

static json_t *greedy_rows(const json_t *golden)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < json_array_size(golden); i++) {
        const json_t *g = json_array_get(golden, i);
        json_t *row = golden_id_row(g, "", (json_int_t)json_array_size(json_object_get(g, "greedy_ids")));
        json_object_set_new(row, "ignore_eos", json_true());
        json_object_set_new(row, "logprobs", json_integer(8));
        json_array_append_new(rows, row);
    }
    return rows;
}

static void greedy_of(const char *name, const char *path, const char *isa, const json_t *golden, const json_t *rows)
{
    struct lb_options o;
    struct golden_out out;
    golden_options(&o, path);
    o.isa = isa;
    golden_run(&o, rows, &out);
    assert_int_equal(out.exit_code, 0);
    assert_int_equal(out.stats.padding, 0);
    double worst = 0;
    for (size_t i = 0; i < json_array_size(golden); i++) {
        const json_t *g = json_array_get(golden, i), *row = json_array_get(out.rows, i);
        const char *id = json_string_value(json_object_get(g, "id"));
        check_ids(id, json_object_get(g, "greedy_ids"), json_object_get(row, "token_ids"));
        worst = fmax(worst, check_logprobs(id, g, row));
        assert_string_equal(json_string_value(json_object_get(row, "finish_reason")), "length");
    }
    print_message("%s on %s: %zu rows equal, worst logit difference %.2g\n", name, out.stats.isa,
                  json_array_size(golden), worst);
    golden_out_release(&out);
}

/* Of a sample: every model, on the last set and every third one on all; one of each kind where it takes long. */
static bool greedy_takes(int m, const char *const *isa)
{
    enum golden_extent extent = golden_extent();
    if (extent == EXTENT_FULL || only)
        return true;
    if (extent < EXTENT_SAMPLE && !in_sample(models[m], extent == EXTENT_MODEL ? 9 : 6))
        return false;
    return !isa[1] || m % 3 == 0;
}

static void test_greedy(void **state)
{
    (void)state;
    for (int m = 0; m < N_MODEL; m++) {
        char path[512];
        if (!is_wanted(models[m]))
            continue;
        model_path(models[m], path, sizeof path);
        json_t *golden = golden_rows(models[m], "golden.jsonl");
        if (golden_extent() < EXTENT_SAMPLE)
            golden_thin(golden, golden_extent() == EXTENT_SANITIZED ? 6 : 3);
        else if (golden_extent() == EXTENT_SAMPLE && !in_sample(models[m], 9)) /* one of its kind has all rows */
            golden_thin(golden, 2);
        if (golden_extent() == EXTENT_SANITIZED)
            golden_shorten(golden, 12);
        json_t *rows = greedy_rows(golden);
        for (const char *const *isa = golden_f32_sets(); *isa; isa++)
            if (greedy_takes(m, isa))
                greedy_of(models[m], path, *isa, golden, rows);
        json_decref(rows);
        json_decref(golden);
    }
}

/* Rows of the goldens that have this member, as rows with `name` in its place. */
static json_t *text_rows(const json_t *golden, const char *key, const char *name, json_t *want)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < json_array_size(golden); i++) {
        json_t *g = json_array_get(golden, i);
        if (!json_object_get(g, key))
            continue;
        json_array_append_new(
            rows, json_pack("{s:O,s:i,s:b}", name, json_object_get(g, key), "max_tokens", 24, "ignore_eos", 1));
        json_array_append(want, g);
    }
    return rows;
}

static void text_of(const char *model, const char *path, const json_t *golden, int form)
{
    static const char *const keys[] = {"prompt", "rendered", "messages"}, *const names[] = {"prompt", "prompt",
                                                                                            "messages"};
    json_t *want = json_array(), *rows = text_rows(golden, keys[form], names[form], want);
    struct lb_options o;
    struct golden_out out;
    golden_options(&o, path);
    o.add_bos = form == 1 ? LB_BOS_NO : LB_BOS_AUTO;
    golden_run(&o, rows, &out);
    for (size_t i = 0; i < json_array_size(want); i++) {
        const json_t *g = json_array_get(want, i), *row = json_array_get(out.rows, i);
        const char *id = json_string_value(json_object_get(g, "id")),
                   *text = json_string_value(json_object_get(row, "text"));
        check_ids(id, json_object_get(g, "prompt_token_ids"), json_object_get(row, "prompt_token_ids"));
        check_ids(id, json_object_get(g, "greedy_ids"), json_object_get(row, "token_ids"));
        assert_string_equal(json_string_value(json_object_get(g, "output_text")), text ? text : "(absent)");
    }
    print_message("%s: %zu %s rows equal as text\n", model, json_array_size(want), keys[form]);
    golden_out_release(&out);
    json_decref(rows);
    json_decref(want);
}

/* Text in, text out, whatever the kind of tokenizer: raw prompts, rendered chats as raw text without added tokens,
 * conversations through the model's template. */
static void test_text(void **state)
{
    (void)state;
    for (int m = 0; m < N_MODEL; m++) {
        char path[512];
        model_path(models[m], path, sizeof path);
        json_t *golden = golden_rows(models[m], "golden.jsonl");
        /* a sample has all of one of each kind, of the others one form in turn; a sanitizer these of the first */
        bool kind = in_sample(models[m], 9), sanitized = golden_extent() == EXTENT_SANITIZED;
        bool all = golden_extent() == EXTENT_FULL || (kind && !sanitized);
        for (int form = 0; form < 3; form++)
            if (all || (form == m % 3 && (kind || !sanitized)))
                text_of(models[m], path, golden, form);
        json_decref(golden);
    }
}

static void end_tokens_of(const char *name)
{
    char path[512];
    model_path(name, path, sizeof path);
    json_t *golden = golden_rows(name, "golden_eos.jsonl"), *rows = json_array();
    for (size_t i = 0; i < json_array_size(golden); i++) {
        const json_t *g = json_array_get(golden, i);
        json_array_append_new(rows, golden_id_row(g, "", json_integer_value(json_object_get(g, "max_new_tokens"))));
    }
    struct lb_options o;
    struct golden_out out;
    golden_options(&o, path);
    golden_run(&o, rows, &out);
    for (size_t i = 0; i < json_array_size(golden); i++) {
        const json_t *g = json_array_get(golden, i), *row = json_array_get(out.rows, i);
        const char *id = json_string_value(json_object_get(g, "id"));
        check_ids(id, json_object_get(g, "output_ids"), json_object_get(row, "token_ids"));
        assert_string_equal(json_string_value(json_object_get(g, "finish_reason")),
                            json_string_value(json_object_get(row, "finish_reason")));
        if (json_is_integer(json_object_get(g, "stop_token_id")))
            check_ids(id, json_object_get(g, "stop_token_id"), json_object_get(row, "stop_reason"));
    }
    golden_out_release(&out);
    json_decref(rows);
    json_decref(golden);
}

static void test_end_tokens(void **state)
{
    (void)state;
    end_tokens_of("llama-gqa-tied");
    end_tokens_of("glm");
}

/* ChatGLM's names, keys and fused tensors hold the same model: the same bytes come out. */
static void test_two_names(void **state)
{
    (void)state;
    if (!is_wanted("chatglm"))
        return;
    json_t *golden = golden_rows("glm", "golden.jsonl");
    if (golden_extent() != EXTENT_FULL)
        golden_thin(golden, golden_extent() == EXTENT_SANITIZED ? 6 : 3);
    json_t *rows = greedy_rows(golden);
    for (const char *const *isa = golden_sets(); *isa; isa++) {
        for (int bf16 = golden_extent() < EXTENT_SAMPLE || golden_falls_back(*isa); bf16 < 2; bf16++) {
            struct golden_out out[2];
            for (int k = 0; k < 2; k++) {
                struct lb_options o;
                golden_options(&o, k ? GOLDENS "chatglm" : GOLDENS "glm");
                o.isa = *isa;
                o.dtype = bf16 ? "bf16" : "f32";
                golden_run(&o, rows, &out[k]);
            }
            assert_string_equal(out[0].text, out[1].text);
            golden_out_release(&out[0]);
            golden_out_release(&out[1]);
        }
    }
    json_decref(rows);
    json_decref(golden);
}

static void test_contract(void **state)
{
    (void)state;
    for (int m = 0; m < N_MODEL; m++) {
        char path[512];
        if (!is_wanted(models[m]) || (!only && golden_extent() != EXTENT_FULL &&
                                      !in_sample(models[m], golden_extent() == EXTENT_SAMPLE ? 9 : 3)))
            continue;
        model_path(models[m], path, sizeof path);
        json_t *golden = golden_rows(models[m], "golden.jsonl"), *rows = golden_contract_rows(golden);
        bool windows_or_outputs = strcmp(models[m], "mistral-swa") == 0 || strncmp(models[m], "glm4", 4) == 0;
        bool singles =
            golden_extent() == EXTENT_FULL || (golden_extent() == EXTENT_SAMPLE && (m == 0 || windows_or_outputs));
        golden_contract(path, rows, singles, singles);
        json_decref(rows);
        json_decref(golden);
    }
}

/* With layers in int8 a row's output depends on the row alone too. */
static void test_int8_contract(void **state)
{
    (void)state;
    /* those with codes of 4 bits keep them, of which the reference is what a sanitizer sees */
    static const char *const names[] = {"llama-mha", "llama-gguf-q4_k", "glm4-moe", "gptq-int4"};
    const int n = golden_extent() < EXTENT_SAMPLE ? 2 : 4;
    for (int m = 0; m < n; m++) {
        char path[512];
        model_path(names[m], path, sizeof path);
        json_t *golden = golden_rows(names[m], "golden.jsonl"), *rows = golden_contract_rows(golden);
        for (const char *const *isa = golden_sets(); *isa; isa++) {
            const bool sanitized_packed = golden_extent() == EXTENT_SANITIZED && m == 1;
            if ((strcmp(*isa, "ref") == 0) != sanitized_packed && golden_extent() != EXTENT_FULL)
                continue;
            /* whole numbers are the same in every set: of a sample the last one has rows alone */
            golden_contract_of(path, &(struct golden_way){*isa, "bf16", m % 2 ? "w4a8" : "int8"}, rows,
                               golden_extent() == EXTENT_FULL || (golden_extent() == EXTENT_SAMPLE && !isa[1]));
        }
        json_decref(rows);
        json_decref(golden);
    }
}

/* llama-mha's pad token is its end token: a ragged batch equals single rows, nothing is flooded or cut. */
static void test_pad_is_eos(void **state)
{
    (void)state;
    char path[512];
    model_path("llama-mha", path, sizeof path);
    json_t *golden = golden_rows("llama-mha", "golden.jsonl"), *rows = json_array();
    json_t *config = json_load_file(GOLDENS "llama-mha/generation_config.json", 0, NULL);
    const json_t *eos = json_object_get(config, "eos_token_id");
    for (size_t i = 0; i < json_array_size(golden); i++) {
        json_t *row = golden_id_row(json_array_get(golden, i), "", 24), *ids = json_object_get(row, "prompt_token_ids");
        json_t *inside = json_deep_copy(ids); /* an end token inside the prompt is ordinary */
        json_array_insert(inside, json_array_size(inside) / 2,
                          (json_t *)(uintptr_t)(json_is_array(eos) ? json_array_get(eos, 0) : eos));
        json_array_append(rows, row);
        json_object_set_new(row, "ignore_eos", json_true());
        json_t *other = json_copy(row);
        json_object_set_new(other, "prompt_token_ids", inside);
        json_array_append_new(rows, other);
        json_decref(row);
    }
    struct lb_options o;
    struct golden_out out;
    golden_options(&o, path);
    golden_run(&o, rows, &out);
    for (size_t i = 0; i < json_array_size(golden); i++)
        check_ids("pad = eos", json_object_get(json_array_get(golden, i), "greedy_ids"),
                  json_object_get(json_array_get(out.rows, 2 * i), "token_ids"));
    assert_int_equal(out.stats.padding, 0);
    golden_one_at_a_time("pad = eos, alone", &o, rows, out.rows);
    golden_out_release(&out);
    json_decref(config);
    json_decref(rows);
    json_decref(golden);
}

int golden_layers(void);    /* test_layers.c */
int golden_packed(void);    /* test_packed.c */
int golden_drift(void);     /* test_drift.c */
int golden_penalties(void); /* test_penalties.c */
int golden_shapes(void);    /* test_shapes.c */
int golden_bent(void);      /* test_bent.c */
int golden_ggufs(void);     /* test_ggufs.c */
int golden_score(void);     /* test_score.c */
int golden_drafts(void);    /* test_drafts.c */
int golden_adapters(void);  /* test_lora.c */

/* What was said of products, in order. */
struct said {
    char text[4096];
    size_t n;
};

static void note_products(void *ctx, enum lb_log_level level, const char *text)
{
    struct said *s = ctx;
    (void)level;
    if (strstr(text, "algorithms of cuBLASLt") && s->n < sizeof s->text)
        s->n += (size_t)snprintf(s->text + s->n, sizeof s->text - s->n, "%s\n", text);
}

/* The stand-in for cuBLASLt offers an algorithm whose rows depend on their number, which must not be taken, one that
 * has the bits of our own kernel, and one that has others: the rows are those of our own kernel, all of them. */
static void test_products(void **state)
{
    (void)state;
    char path[512];
    model_path("llama-gqa-tied", path, sizeof path);
    json_t *golden = golden_rows("llama-gqa-tied", "golden.jsonl"), *all = golden_contract_rows(golden);
    while (json_array_size(all) > (is_sanitized() ? 1 : 2))
        json_array_remove(all, 0);
    struct said said = {0};
    struct lb_options o;
    struct golden_out own, tried;
    golden_options(&o, path);
    o.dtype = "bf16";
    o.log = (struct lb_log){.level = LB_LOG_DEBUG, .emit = note_products, .ctx = &said};
    golden_run(&o, all, &own);
    assert_string_equal(said.text, "");
    o.lt_weights = 1;
    golden_run(&o, all, &tried);
    golden_check_same("products by cuBLASLt", own.rows, tried.rows);
    int n_line = 0, n_whole = 0;
    for (char *line = said.text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1, n_line++) {
        *end = '\0';
        assert_non_null(strstr(line, "of 3 algorithms of cuBLASLt are fit, our own kernel is too"));
        assert_null(strstr(line, "at 0 of 4")); /* it costs less than a kernel that is modeled */
        bool whole = strstr(line, "in 1 segments") != NULL;
        if (whole) /* segments of eight columns are added up at once, whatever the order of what is larger */
            assert_non_null(strstr(line, "in 1 segments: 1 of 3"));
        n_whole += whole;
    }
    assert_int_equal(n_line, 4); /* qkv, output, gate-up, head; down's segments are not alike */
    assert_int_equal(n_whole, 3);
    golden_out_release(&own);
    golden_out_release(&tried);
    json_decref(all);
    json_decref(golden);
}

/* What depends on the device: test_golden --cuda LIBRARY greedy|layers|products|adapters|contract [[sample] MODEL ...];
 * a sample is all of them with LB_TEST_FULL=1. */
static int run_cuda(const char *part, char **names)
{
    const struct CMUnitTest greedy[] = {cmocka_unit_test(test_greedy), cmocka_unit_test(test_two_names)};
    const struct CMUnitTest contract[] = {cmocka_unit_test(test_contract)};
    const struct CMUnitTest products[] = {cmocka_unit_test(test_products)};
    bool sample = names[0] && strcmp(names[0], "sample") == 0;
    only = sample && golden_extent() == EXTENT_FULL ? NULL : names[sample] ? names + sample : NULL;
    if (strcmp(part, "layers") == 0)
        return golden_layers();
    if (strcmp(part, "adapters") == 0)
        return golden_adapters();
    if (strcmp(part, "products") == 0)
        return cmocka_run_group_tests_name("products", products, NULL, NULL);
    if (strcmp(part, "greedy") == 0)
        return cmocka_run_group_tests_name("greedy", greedy, NULL, NULL);
    return cmocka_run_group_tests_name("contract", contract, NULL, NULL);
}

/* test_golden [--without SET | --only PATTERN]: with the first only what depends on the kernel sets, with the other
 * only tests whose names match. */
int main(int argc, char **argv)
{
    golden_without = argc == 3 && strcmp(argv[1], "--without") == 0 ? argv[2] : NULL;
    golden_cuda = argc >= 4 && strcmp(argv[1], "--cuda") == 0 ? argv[2] : NULL;
    if (argc == 3 && strcmp(argv[1], "--only") == 0)
        cmocka_set_test_filter(argv[2]);
    const struct CMUnitTest shared[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_two_names),
        cmocka_unit_test(test_contract),
        cmocka_unit_test(test_int8_contract),
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_end_tokens),
        cmocka_unit_test(test_pad_is_eos),
    };
    if (golden_without && golden_extent() != EXTENT_FULL && hardware_has_modeled_sets()) {
        printf("skip: test_golden_model: the processor has these sets, test_golden runs them\n");
        return 77;
    }
    bool recorded = access(GOLDENS "README.md", R_OK) == 0;
    if (golden_cuda && recorded)
        return run_cuda(argv[3], argv + 4);
    int failed = golden_cuda ? 0 : golden_penalties() + golden_drift() + golden_shapes();
    if (!recorded) {
        printf("skip: test_golden: no ../shared/goldens\n");
        return failed ? failed : 77;
    }
    failed += golden_layers();
    failed += cmocka_run_group_tests_name("sets", shared, NULL, NULL);
    failed += golden_score() + golden_drafts() + golden_packed() + golden_adapters();
    if (golden_without)
        return failed;
    failed += golden_bent();
    failed += golden_ggufs();
    return failed + cmocka_run_group_tests_name("goldens", once, NULL, NULL);
}
