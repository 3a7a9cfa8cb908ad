/* Whole runs of rows with several samples or prompts, and of rows in several forms, through the library on the model of
 * the repository. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/llmbatch.h"
#include "core/model/decoder.h"
#include "core/tests/shallow.h"
#include "core/tests/whole.h"

#define MODEL LB_SOURCE_DIR "/testdata/tiny-llama"

struct place {
    char dir[32], in[64], out[64];
    const char *inputs[1];
    char log[4096];
};

static void keep_log(void *ctx, enum lb_log_level level, const char *text)
{
    struct place *p = ctx;
    size_t n = strlen(p->log);
    snprintf(p->log + n, sizeof p->log - n, "%d %s\n", (int)level, text);
}

static void place_init(struct place *p, struct lb_options *o, const char *rows)
{
    *p = (struct place){.dir = "/tmp/lb-samples-XXXXXX"};
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->in, sizeof p->in, "%s/in.jsonl", p->dir);
    snprintf(p->out, sizeof p->out, "%s/out.jsonl", p->dir);
    FILE *f = fopen(p->in, "w");
    assert_non_null(f);
    fputs(rows, f);
    fclose(f);
    p->inputs[0] = p->in;
    lb_options_init(o);
    o->model = shallow_model(MODEL);
    o->dtype = "f32";
    o->isa = "ref";
    o->threads = 2;
    o->inputs = p->inputs;
    o->n_input = 1;
    o->output = p->out;
    o->overwrite = o->restart = true;
    o->log = (struct lb_log){.level = LB_LOG_WARN, .emit = keep_log, .ctx = p};
}

static void place_release(struct place *p)
{
    char path[96];
    static const char *const ends[] = {"", ".partial", ".stats.json"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", p->out, ends[i]);
        unlink(path);
    }
    unlink(p->in);
    assert_int_equal(rmdir(p->dir), 0);
}

static enum lb_status try_run(const struct lb_options *o, struct lb_stats *stats)
{
    struct lb_llm *llm = NULL;
    struct lb_err err = LB_ERR_INIT;
    enum lb_status status = lb_open(&llm, o, &err);
    if (status == LB_OK)
        status = lb_run(llm, &err);
    if (llm && stats)
        *stats = *lb_stats_of(llm);
    lb_close(llm);
    if (status != LB_OK && status != LB_E_INTERRUPTED)
        fail_msg("%s", err.text);
    return status;
}

/* The output rows, parsed; the caller owns them. */
static json_t *run(const struct lb_options *o, struct lb_stats *stats)
{
    assert_int_equal(try_run(o, stats), LB_OK);
    json_t *rows = json_array();
    FILE *f = fopen(o->output, "r");
    assert_non_null(f);
    for (json_t *v; (v = json_loadf(f, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, NULL));)
        json_array_append_new(rows, v);
    fclose(f);
    return rows;
}

static json_t *run_text(const char *rows, struct lb_stats *stats)
{
    struct place p;
    struct lb_options o;
    place_init(&p, &o, rows);
    json_t *got = run(&o, stats);
    place_release(&p);
    return got;
}

static json_t *at(const json_t *row, const char *name)
{
    return json_object_get(row, name);
}

static void equal(const json_t *a, const json_t *b)
{
    if (!a || !b || !json_equal(a, b))
        fail_msg("%s is not %s", json_dumps(a, JSON_ENCODE_ANY), json_dumps(b, JSON_ENCODE_ANY));
}

#define WARM \
    "\"prompt\":\"Once upon a time\",\"temperature\":1.5,\"max_tokens\":12,\"logprobs\":1,\"frequency_penalty\":0.8"

/* Samples of a row differ, and are the same whatever runs beside them, however many are asked for. */
static void test_samples(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    struct lb_stats stats;
    place_init(&p, &o,
               "{\"id\":1,\"n\":5," WARM "}\n{\"id\":2,\"prompt\":\"The dog\",\"n\":3,\"temperature\":1}\n"
               "{\"id\":3,\"prompt\":\"A cat\",\"max_tokens\":9}\n");
    o.gen.set = LB_GEN_MAX_TOKENS;
    o.gen.max_tokens = 30;
    o.token_ids = true;
    json_t *want = run(&o, &stats), *choices = at(json_array_get(want, 0), "choices");
    assert_int_equal(json_array_size(choices), 5);
    assert_int_equal(json_array_size(at(json_array_get(want, 1), "choices")), 3);
    assert_null(at(json_array_get(want, 2), "choices"));
    assert_int_equal(stats.rows, 3);
    assert_int_equal(stats.ok, 3);
    int64_t completion = json_integer_value(at(json_array_get(want, 2), "completion_tokens")), prompt = 0;
    for (size_t i = 0; i < 3; i++) {
        size_t k;
        json_t *c;
        prompt += json_integer_value(at(json_array_get(want, i), "prompt_tokens"));
        assert_int_equal(json_integer_value(at(json_array_get(want, i), "prompt_tokens")),
                         json_array_size(at(json_array_get(want, i), "prompt_token_ids")));
        json_array_foreach(at(json_array_get(want, i), "choices"), k, c)
        {
            completion += json_integer_value(at(c, "completion_tokens"));
            assert_int_equal(json_integer_value(at(c, "completion_tokens")), json_array_size(at(c, "token_ids")));
        }
    }
    assert_int_equal(stats.completion_tokens, completion);
    assert_int_equal(stats.prompt_tokens, prompt);
    for (size_t i = 0; i < 5; i++)
        for (size_t k = 0; k < i; k++)
            assert_false(json_equal(json_array_get(choices, i), json_array_get(choices, k)));
    static const int64_t variants[][3] = {{16, 1, 256}, {512, 1, 3}, {3, 3, 2}, {1, 1, 1}};
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        o.batch_tokens = variants[v][0];
        o.threads = variants[v][1];
        o.max_seqs = variants[v][2];
        json_t *got = run(&o, NULL);
        equal(got, want);
        json_decref(got);
    }
    json_t *few = run_text("{\"id\":1,\"n\":2," WARM "}\n", NULL), *one = run_text("{\"id\":1," WARM "}\n", NULL);
    for (size_t i = 0; i < 2; i++) {
        json_t *c = json_array_get(at(json_array_get(few, 0), "choices"), i);
        equal(at(c, "text"), at(json_array_get(choices, i), "text"));
        equal(at(c, "logprobs"), at(json_array_get(choices, i), "logprobs"));
    }
    equal(at(json_array_get(one, 0), "text"), at(json_array_get(choices, 0), "text"));
    json_decref(one);
    json_decref(few);
    json_decref(want);
    place_release(&p);
}

/* However many samples a prompt has, and whatever it shares with others, it is computed once. */
static void test_computed_once(void **state)
{
    (void)state;
    static const char rows[] =
        "{\"prompt\":\"Once upon a time there was a "
        "cat\",\"n\":6,\"temperature\":1.5,\"max_tokens\":9,\"logprobs\":1}\n"
        "{\"prompt_token_ids\":[5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,"
        "35,"
        "36,37,38,39,40,41,42,43,44],\"n\":4,\"temperature\":1,\"max_tokens\":40,\"presence_penalty\":0.5}\n"
        "{\"prompt_token_ids\":[5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,"
        "35,"
        "36],\"n\":3,\"temperature\":1,\"max_tokens\":3,\"stop\":[\"e\"]}\n";
    struct place p;
    struct lb_options o;
    struct lb_stats stats;
    place_init(&p, &o, rows);
    json_t *want = run(&o, &stats);
    assert_int_equal(stats.prompt_computed + stats.prefix_hit, stats.prompt_tokens);
    o.no_prefix_cache = true;
    json_t *got = run(&o, &stats);
    equal(got, want);
    assert_int_equal(stats.prompt_computed, stats.prompt_tokens);
    assert_int_equal(stats.prefix_hit, 0);
    json_decref(got);
    /* with few pages and few sequences some samples run alone, and give the same */
    for (int few = 0; few < 2; few++) {
        o.no_prefix_cache = few;
        o.crowd_pages = 6;
        o.max_seqs = few ? 3 : 256;
        got = run(&o, &stats);
        equal(got, want);
        json_decref(got);
    }
    json_decref(want);
    place_release(&p);
}

static void test_greedy(void **state)
{
    (void)state;
    struct lb_stats once, thrice;
    json_t *one = run_text("{\"prompt\":\"The dog\",\"max_tokens\":9}\n", &once);
    json_t *three = run_text("{\"prompt\":\"The dog\",\"max_tokens\":9,\"n\":3}\n", &thrice);
    json_t *choices = at(json_array_get(three, 0), "choices");
    assert_int_equal(json_array_size(choices), 3);
    for (size_t i = 0; i < 3; i++)
        equal(at(json_array_get(choices, i), "text"), at(json_array_get(one, 0), "text"));
    assert_int_equal(thrice.prompt_computed, once.prompt_computed); /* it ran once */
    assert_int_equal(thrice.steps, once.steps);
    assert_int_equal(thrice.completion_tokens, 3 * once.completion_tokens);
    assert_int_equal(thrice.prompt_tokens, once.prompt_tokens);
    json_decref(one);
    json_decref(three);
}

#define REQUEST(body) "{\"custom_id\":\"c\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{" body "}}\n"

static json_t *choice_of(const json_t *rows, size_t row, size_t i)
{
    return json_array_get(at(at(at(json_array_get(rows, row), "response"), "body"), "choices"), i);
}

/* Several prompts in one request give what single requests give, in order of prompts, then samples. */
static void test_prompts(void **state)
{
    (void)state;
    json_t *got =
        run_text(REQUEST("\"prompt\":[\"The dog\",\"A cat and a mouse\",\"My name is\"],\"max_tokens\":9,\"n\":2,"
                         "\"logprobs\":1") REQUEST("\"prompt\":\"The dog\",\"max_tokens\":9,\"logprobs\":1")
                     REQUEST("\"prompt\":\"A cat and a mouse\",\"max_tokens\":9,\"logprobs\":1")
                         REQUEST("\"prompt\":\"My name is\",\"max_tokens\":9,\"logprobs\":1"),
                 NULL);
    int64_t prompt = 0, completion = 0;
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(json_integer_value(at(choice_of(got, 0, i), "index")), i);
        equal(at(choice_of(got, 0, i), "text"), at(choice_of(got, 1 + i / 2, 0), "text"));
        equal(at(choice_of(got, 0, i), "logprobs"), at(choice_of(got, 1 + i / 2, 0), "logprobs"));
    }
    for (size_t i = 1; i < 4; i++) {
        const json_t *one = at(at(at(json_array_get(got, i), "response"), "body"), "usage");
        prompt += json_integer_value(at(one, "prompt_tokens"));
        completion += 2 * json_integer_value(at(one, "completion_tokens"));
    }
    const json_t *usage = at(at(at(json_array_get(got, 0), "response"), "body"), "usage");
    assert_int_equal(json_integer_value(at(usage, "prompt_tokens")), prompt);
    assert_int_equal(json_integer_value(at(usage, "completion_tokens")), completion);
    assert_int_equal(json_integer_value(at(usage, "total_tokens")), prompt + completion);
    json_decref(got);

    /* every prompt and sample draws its own numbers; the prompt's text goes before each */
    got = run_text(
        REQUEST("\"prompt\":[\"The dog\",\"The dog\"],\"max_tokens\":9,\"n\":2,\"temperature\":2,\"echo\":true"), NULL);
    for (size_t i = 0; i < 4; i++) {
        assert_memory_equal(json_string_value(at(choice_of(got, 0, i), "text")), "The dog", 7);
        for (size_t k = 0; k < i; k++)
            assert_false(json_equal(at(choice_of(got, 0, i), "text"), at(choice_of(got, 0, k), "text")));
    }
    json_decref(got);

    /* one prompt that is no good fails the request */
    struct lb_stats stats;
    got = run_text(REQUEST("\"prompt\":[[5,6],[7,9999]],\"n\":2")
                       REQUEST("\"prompt\":[[5,6],[7,9]],\"n\":128,\"temperature\":1,"
                               "\"max_tokens\":1"),
                   &stats);
    const json_t *error = at(at(at(json_array_get(got, 0), "response"), "body"), "error");
    assert_string_equal(json_string_value(at(error, "code")), "bad_token");
    assert_non_null(choice_of(got, 1, 255));
    assert_null(choice_of(got, 1, 256));
    assert_int_equal(stats.error, 1);
    json_decref(got);
}

/* Characters before a token, in a text whose characters are split over tokens. */
static void test_text_offset(void **state)
{
    (void)state;
    json_t *got = run_text(
        REQUEST("\"prompt\":\"Once upon a time\",\"max_tokens\":40,\"logprobs\":0,\"temperature\":9,\"n\":8"), NULL);
    for (size_t i = 0; i < 8; i++) {
        const json_t *lp = at(choice_of(got, 0, i), "logprobs"), *tokens = at(lp, "tokens");
        const char *text = json_string_value(at(choice_of(got, 0, i), "text"));
        int64_t n_char = 0, last = 0;
        for (const char *c = text; *c; c++)
            n_char += ((unsigned char)*c & 0xC0) != 0x80;
        for (size_t k = 0; k < json_array_size(tokens); k++) {
            const char *token = json_string_value(json_array_get(tokens, k));
            int64_t offset = json_integer_value(json_array_get(at(lp, "text_offset"), k));
            assert_true(offset >= last && offset <= n_char);
            last = offset;
            if (strstr(token, "\xEF\xBF\xBD") || strstr(token, "<|"))
                continue; /* a part of a character, or a token that the text does not show */
            const char *c = text;
            for (int64_t skip = offset; skip > 0; skip -= ((unsigned char)*c & 0xC0) != 0x80)
                c++;
            while (((unsigned char)*c & 0xC0) == 0x80)
                c++;
            assert_memory_equal(c, token, strlen(token));
        }
    }
    json_decref(got);
}

/* ---- forms ---- */

static const char *form_of(const json_t *row)
{
    return at(row, "response") ? "openai" : at(row, "finish_reason") ? "native" : "none";
}

static void check_forms(const char *rows, const char *want)
{
    json_t *got = run_text(rows, NULL), *row;
    size_t i;
    char forms[64] = "";
    json_array_foreach(got, i, row)
    {
        forms[i] = form_of(row)[0];
    }
    assert_string_equal(forms, want);
    json_decref(got);
}

#define NATIVE "{\"prompt_token_ids\":[5],\"max_tokens\":1}\n"

static void test_forms(void **state)
{
    (void)state;
    check_forms("x\n{\n" REQUEST("\"prompt\":\"a\",\"max_tokens\":1") "y\n" NATIVE "z\n", "oooono");
    check_forms("x\n" NATIVE REQUEST("\"prompt\":\"a\",\"max_tokens\":1") "y\n", "nnon");
    check_forms("x\n{\"nothing\":1}\n" REQUEST("\"prompt\":\"a\",\"max_tokens\":1"), "nno");
    check_forms("x\n{\"custom_id\":\"c\",\"url\":\"/v1/embeddings\",\"body\":{}}\n" NATIVE, "oon");
    check_forms("x\ny\n", "nn");
}

/* Unreadable lines without end are not held without end. */
static void test_many_unreadable(void **state)
{
    (void)state;
    enum { N = 6000 };
    char *rows = calloc(N, 2), *end = rows;
    for (int i = 0; i < N - 100; i++)
        end = stpcpy(end, "x\n");
    stpcpy(end, REQUEST("\"prompt\":\"a\",\"max_tokens\":1") "y\n");
    json_t *got = run_text(rows, NULL);
    assert_int_equal(json_array_size(got), N - 98);
    assert_string_equal(form_of(json_array_get(got, 0)), "native");
    assert_string_equal(form_of(json_array_get(got, N - 100)), "openai");
    assert_string_equal(form_of(json_array_get(got, N - 99)), "native");
    json_decref(got);
    free(rows);
}

static void test_same_ids(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    char rows[10000] = "\n{\"id\":\"a\",\"prompt_token_ids\":[5]}\n{\"id\":7,\"prompt_token_ids\":[5]}\n\n";
    for (int i = 0; i < 200; i++)
        snprintf(rows + strlen(rows), 48, "{\"id\":\"%d\",\"prompt_token_ids\":[5]}\n", i);
    place_init(&p, &o, rows);
    o.gen.set = LB_GEN_MAX_TOKENS;
    o.gen.max_tokens = 1;
    json_decref(run(&o, NULL));
    assert_string_equal(p.log, ""); /* 7 and "7" differ */
    FILE *f = fopen(p.in, "a");
    fputs("{\"id\":7.0,\"prompt_token_ids\":[5]}\n{\"id\":\"a\",\"prompt_token_ids\":[5]}\n", f);
    fclose(f);
    json_decref(run(&o, NULL));
    char want[256];
    snprintf(want, sizeof want, "%s:205: the id 7 is that of %s:3 too", p.in, p.in);
    assert_non_null(strstr(p.log, want));
    assert_ptr_equal(strchr(p.log, '\n'), p.log + strlen(p.log) - 1); /* once */
    place_release(&p);
}

/* ---- a stop in the middle of a row's samples ---- */

static volatile sig_atomic_t stop_flag;
static int64_t stop_after;

static void stop_soon(void *ctx, int il, const struct lb_step *step, const float *x)
{
    (void)ctx;
    (void)x;
    if (il == 0 && step->number >= stop_after)
        stop_flag = 1;
}

static void test_interrupted(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    struct lb_hook hook = {.layer = stop_soon};
    struct lb_stats stats;
    place_init(&p, &o,
               "{\"prompt\":\"a\",\"n\":9,\"temperature\":5,\"max_tokens\":40}\n"
               "{\"prompt\":\"a\",\"n\":2,\"temperature\":5,\"max_tokens\":3}\n"
               "{\"prompt\":\"a\",\"n\":2,\"temperature\":5,\"max_tokens\":30}\n");
    o.hook = &hook;
    o.stop = &stop_flag;
    o.max_seqs = 4;
    for (stop_after = 0; stop_after < 60; stop_after += 7 * whole_or(2)) {
        stop_flag = 0;
        assert_int_equal(try_run(&o, &stats), LB_E_INTERRUPTED);
        assert_int_equal(stats.rows, stats.ok);
    }
    place_release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),         cmocka_unit_test(test_computed_once),
        cmocka_unit_test(test_greedy),          cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_text_offset),     cmocka_unit_test(test_forms),
        cmocka_unit_test(test_many_unreadable), cmocka_unit_test(test_same_ids),
        cmocka_unit_test(test_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
