/* Prompts that are scored, in whole runs on the model of the repository: which positions have numbers, that they are
 * the same bits however the prompt was cut, and what is counted. What the numbers are is the goldens' to say. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/llmbatch.h"
#include "core/model/decoder.h"
#include "core/run/plan.h"
#include "core/tests/scratch.h"
#include "core/tests/shallow.h"
#include "core/tests/whole.h"

#define MODEL LB_SOURCE_DIR "/testdata/tiny-llama"

static void write_rows(const char *rows)
{
    char path[160];
    snprintf(path, sizeof path, "%s/in.jsonl", scratch);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(rows, f);
    fclose(f);
}

static void options(struct lb_options *o)
{
    static char in[160], out[160];
    static const char *inputs[] = {in};
    snprintf(in, sizeof in, "%s/in.jsonl", scratch);
    snprintf(out, sizeof out, "%s/out.jsonl", scratch);
    lb_options_init(o);
    o->model = shallow_model(MODEL);
    o->dtype = "f32";
    o->isa = "ref";
    o->threads = 2;
    o->inputs = inputs;
    o->n_input = 1;
    o->output = out;
    o->overwrite = true;
    o->restart = true;
    o->audit = LB_AUDIT_OFF;
}

/* The output rows, parsed; the caller owns them. */
static json_t *run(const struct lb_options *o, struct lb_stats *stats)
{
    struct lb_llm *llm = NULL;
    struct lb_err err = LB_ERR_INIT;
    enum lb_status status = lb_open(&llm, o, &err);
    if (status == LB_OK)
        status = lb_run(llm, &err);
    if (llm)
        *stats = *lb_stats_of(llm);
    lb_close(llm);
    if (status != LB_OK)
        fail_msg("%s", err.text);
    json_t *rows = json_array();
    FILE *f = fopen(o->output, "r");
    assert_non_null(f);
    for (json_t *v; (v = json_loadf(f, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL));)
        json_array_append_new(rows, v);
    fclose(f);
    return rows;
}

static json_t *at(const json_t *row, const char *name)
{
    return json_object_get(row, name);
}

static json_t *row_at(const json_t *rows, size_t i)
{
    return json_array_get(rows, i);
}

static double number(const json_t *v)
{
    return json_number_value(v);
}

#define TALE "Once upon a time there was a cat who lived in a little house with a dog and a mouse."

/* The numbers of a part of the prompt are those of the whole, and say nothing of what stands before it. */
static void test_from(void **state)
{
    (void)state;
    struct lb_options o;
    struct lb_stats stats;
    options(&o);
    write_rows("{\"prompt\":\"" TALE "\",\"max_tokens\":0,\"prompt_logprobs\":3}\n"
               "{\"prompt\":\"" TALE "\",\"max_tokens\":0,\"prompt_logprobs\":3,\"prompt_logprobs_from\":1}\n"
               "{\"prompt\":\"" TALE "\",\"max_tokens\":0,\"prompt_logprobs\":0,\"prompt_logprobs_from\":12}\n"
               "{\"prompt\":\"" TALE "\",\"max_tokens\":3,\"prompt_logprobs\":3,\"prompt_logprobs_from\":999}\n"
               "{\"prompt_token_ids\":[5],\"max_tokens\":0,\"prompt_logprobs\":3}\n"
               "{\"prompt\":\"" TALE "\",\"max_tokens\":3}\n");
    json_t *rows = run(&o, &stats), *whole = at(row_at(rows, 0), "prompt_logprobs"), *v;
    size_t n = json_array_size(whole), i;
    double nll = 0, late = 0;
    assert_true(n > 20);
    assert_int_equal(json_integer_value(at(row_at(rows, 0), "prompt_tokens")), n);
    assert_string_equal(json_string_value(at(row_at(rows, 0), "text")), "");
    assert_string_equal(json_string_value(at(row_at(rows, 0), "finish_reason")), "length");
    assert_int_equal(json_integer_value(at(row_at(rows, 0), "completion_tokens")), 0);
    assert_true(json_is_null(json_array_get(whole, 0)));
    json_array_foreach(whole, i, v)
    {
        const json_t *part = json_array_get(at(row_at(rows, 2), "prompt_logprobs"), i);
        nll -= number(at(v, "logprob"));
        late -= number(at(part, "logprob"));
        assert_int_equal(json_is_null(part), i < 12);
        if (i < 12)
            continue;
        assert_true(json_equal(at(part, "logprob"), at(v, "logprob")) && json_equal(at(part, "rank"), at(v, "rank")));
        assert_int_equal(json_array_size(at(v, "top")), 3);
        assert_null(at(part, "top"));
    }
    assert_true(json_equal(whole, at(row_at(rows, 1), "prompt_logprobs")));
    assert_true(fabs(number(at(row_at(rows, 0), "prompt_nll")) - nll) < 1e-5 * nll);
    assert_true(fabs(number(at(row_at(rows, 2), "prompt_nll")) - late) < 1e-5 * late);
    json_array_foreach(at(row_at(rows, 3), "prompt_logprobs"), i, v) assert_true(json_is_null(v));
    assert_int_equal(json_array_size(at(row_at(rows, 3), "prompt_logprobs")), n);
    assert_true(number(at(row_at(rows, 3), "prompt_nll")) == 0);
    assert_true(json_equal(at(row_at(rows, 3), "text"), at(row_at(rows, 5), "text")));
    assert_int_equal(json_array_size(at(row_at(rows, 4), "prompt_logprobs")), 1);
    assert_null(at(row_at(rows, 5), "prompt_logprobs"));
    assert_int_equal(stats.scored_tokens, 2 * (n - 1) + n - 12);
    assert_true(fabs(stats.scored_nll - 2 * nll - late) < 1e-5 * nll);
    assert_int_equal(stats.completion_tokens, 6);
    json_decref(rows);
}

/* Rows of many kinds, some of them over several pages. */
static void write_many(void)
{
    char *rows = NULL;
    size_t size;
    FILE *f = open_memstream(&rows, &size);
    for (int i = 0; i < 14; i++) {
        fprintf(f, "{\"id\":%d,\"prompt_token_ids\":[%d", i, 5 + i % 3);
        for (int k = 0; k < i * 31 % 150; k++)
            fprintf(f, ",%d", 3 + (k * 7 + i % 3) % 600);
        fprintf(f, "],\"ignore_eos\":true,\"max_tokens\":%d", i % 4 ? 9 + i * 5 : 0);
        if (i % 3)
            fprintf(f, ",\"prompt_logprobs\":%d", i % 3 - 1);
        if (i % 6 == 2)
            fprintf(f, ",\"prompt_logprobs_from\":%d", i * 7);
        fprintf(f, "%s}\n", i % 5 == 1 ? ",\"temperature\":1,\"n\":3" : "");
    }
    fclose(f);
    write_rows(rows);
    free(rows);
}

static void test_same(void **state)
{
    (void)state;
    struct lb_options o;
    struct lb_stats stats, other;
    options(&o);
    write_many();
    json_t *want = run(&o, &stats);
    assert_int_equal(stats.ok, 14);
    static const int64_t variants[][4] = {{1, 1, 1, 0},     {3, 3, 2, 0},     {16, 1, 256, 0},
                                          {64, 2, 256, 0},  {512, 1, 3, 0},   {16, 2, 256, 8},
                                          {512, 2, 256, 8}, {64, 2, 256, 12}, {2048, 2, 2000, 0}};
    int64_t recomputed = 0;
    size_t step = (size_t)whole_or(is_sanitized() ? 8 : 2);
    for (size_t v = step - 1; v < sizeof variants / sizeof *variants; v += step) {
        o.batch_tokens = variants[v][0];
        o.threads = variants[v][1];
        o.max_seqs = variants[v][2];
        o.crowd_pages = variants[v][3];
        json_t *got = run(&o, &other);
        assert_true(json_equal(got, want));
        assert_int_equal(other.scored_tokens, stats.scored_tokens);
        recomputed += variants[v][3] ? other.recomputed : 0;
        json_decref(got);
    }
    assert_true(recomputed > 0); /* rows were evicted */
    json_decref(want);
}

/* Rows whose prompts are scored compute them; others still share what those computed. */
static void test_no_hits(void **state)
{
    (void)state;
    struct lb_options o;
    struct lb_stats stats;
    char rows[4096] = "", ids[1024] = "5";
    options(&o);
    for (int i = 0; i < 100; i++)
        snprintf(ids + strlen(ids), sizeof ids - strlen(ids), ",%d", 7 + i);
    for (int i = 0; i < 3; i++)
        snprintf(rows + strlen(rows), sizeof rows - strlen(rows), "{\"prompt_token_ids\":[%s],\"max_tokens\":2%s}\n",
                 ids, i < 2 ? ",\"prompt_logprobs\":0" : "");
    write_rows(rows);
    o.no_fold = true;
    json_t *got = run(&o, &stats);
    assert_int_equal(stats.prompt_tokens, 303);
    assert_int_equal(stats.prefix_hit, 96);
    assert_int_equal(stats.prompt_computed, 303 - 96);
    assert_int_equal(stats.scored_tokens, 200);
    assert_true(json_equal(at(row_at(got, 0), "prompt_logprobs"), at(row_at(got, 1), "prompt_logprobs")));

    /* of the same rows one runs, and all have what it found; the row that is not scored is another */
    o.no_fold = false;
    json_t *folded = run(&o, &stats);
    assert_true(json_equal(folded, got));
    assert_int_equal(stats.folded, 1);
    assert_int_equal(stats.scored_tokens, 200);
    json_decref(folded);
    json_decref(got);
}

static int64_t most_out, most_tok;

static void watch_step(void *ctx, int il, const struct lb_step *step, const float *x)
{
    (void)ctx;
    (void)x;
    if (il > 0)
        return;
    int64_t n = 0;
    for (int32_t j = 0; j < step->n_out; j++)
        n += (step->out_flags[j] & LB_OUT_LOGITS) != 0;
    most_out = n > most_out ? n : most_out;
    most_tok = step->n_tok > most_tok ? step->n_tok : most_tok;
}

/* Logits are never asked for of more tokens than there is memory for, however long prompts and steps are; steps stay
 * full where nothing is scored. */
static void test_bound(void **state)
{
    enum { N_BOUND = 4 };
    (void)state;
    struct lb_options o;
    struct lb_stats stats;
    struct lb_hook hook = {.layer = watch_step};
    options(&o);
    o.hook = &hook;
    o.batch_tokens = 700;
    char *rows = NULL;
    size_t size;
    for (int scored = 0; scored < 2; scored++) {
        FILE *f = open_memstream(&rows, &size);
        for (int i = 0; i < N_BOUND; i++) { /* the first may begin before the second is read */
            fprintf(f, "{\"prompt_token_ids\":[%d", 5 + i);
            for (int k = 0; k < 400; k++)
                fprintf(f, ",%d", 3 + (k * 7 + i) % 600);
            fprintf(f, "],\"max_tokens\":2%s}\n", scored ? ",\"prompt_logprobs\":0" : "");
        }
        fclose(f);
        write_rows(rows);
        free(rows);
        most_out = most_tok = 0;
        json_decref(run(&o, &stats));
        assert_int_equal(stats.scored_tokens, scored ? 400 * N_BOUND : 0);
        assert_int_equal(most_out, scored ? LB_SCORE_TOKENS : 0);
        assert_int_equal(most_tok == 700, !scored);
        assert_int_equal(stats.padding, 0);
    }
}

/* Samples of a prompt have one list, which is counted once. */
static void test_samples(void **state)
{
    (void)state;
    struct lb_options o;
    struct lb_stats stats;
    options(&o);
    write_rows("{\"id\":1,\"prompt\":\"" TALE "\",\"max_tokens\":5,\"prompt_logprobs\":1,\"n\":3,\"temperature\":1.5}\n"
               "{\"id\":2,\"prompt\":\"" TALE "\",\"max_tokens\":5,\"prompt_logprobs\":1,\"n\":2}\n"
               "{\"id\":3,\"prompt\":\"" TALE "\",\"max_tokens\":0,\"prompt_logprobs\":1,\"n\":2,\"temperature\":1}\n");
    json_t *got = run(&o, &stats);
    json_int_t n = json_integer_value(at(row_at(got, 0), "prompt_tokens"));
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(json_array_size(at(row_at(got, i), "prompt_logprobs")), n);
        assert_true(json_equal(at(row_at(got, i), "prompt_logprobs"), at(row_at(got, 0), "prompt_logprobs")));
        assert_int_equal(json_array_size(at(row_at(got, i), "choices")), i == 0 ? 3 : 2);
        assert_null(at(row_at(at(row_at(got, i), "choices"), 0), "prompt_logprobs"));
    }
    assert_int_equal(stats.scored_tokens, 3 * (n - 1));
    json_decref(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_from, scratch_empty),    cmocka_unit_test_teardown(test_same, scratch_empty),
        cmocka_unit_test_teardown(test_no_hits, scratch_empty), cmocka_unit_test_teardown(test_bound, scratch_empty),
        cmocka_unit_test_teardown(test_samples, scratch_empty),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
