#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "core/llmbatch.h"
#include "core/model/decoder.h"
#include "core/tests/shallow.h"
#include "core/tests/whole.h"

/* Whole runs through the library on the model of the repository: bytes of OUT whatever the batching, error rows, stops
 * and failures, and what they leave behind. */

#define MODEL LB_SOURCE_DIR "/testdata/tiny-llama"

struct place {
    char dir[32], in[64], out[64], partial[80], stats[80];
    const char *inputs[1];
    char log[4096]; /* messages of the run */
};

static void keep_log(void *ctx, enum lb_log_level level, const char *text)
{
    struct place *p = ctx;
    size_t n = strlen(p->log);
    snprintf(p->log + n, sizeof p->log - n, "%d %s\n", (int)level, text);
}

static void place_init(struct place *p, struct lb_options *o, const char *rows)
{
    *p = (struct place){.dir = "/tmp/lb-run-XXXXXX"};
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->in, sizeof p->in, "%s/in.jsonl", p->dir);
    snprintf(p->out, sizeof p->out, "%s/out.jsonl", p->dir);
    snprintf(p->partial, sizeof p->partial, "%s.partial", p->out);
    snprintf(p->stats, sizeof p->stats, "%s.stats.json", p->out);
    if (rows) {
        FILE *f = fopen(p->in, "w");
        assert_non_null(f);
        fputs(rows, f);
        fclose(f);
    }
    p->inputs[0] = p->in;
    lb_options_init(o);
    o->model = shallow_model(MODEL);
    o->dtype = "f32";
    o->isa = "ref";
    o->threads = 2;
    o->inputs = p->inputs;
    o->n_input = 1;
    o->output = p->out;
    o->token_ids = true;
    o->audit = LB_AUDIT_OFF; /* what it finds is test_run_audit.c's */
    o->log = (struct lb_log){.level = LB_LOG_WARN, .emit = keep_log, .ctx = p};
}

static void place_release(struct place *p)
{
    unlink(p->in);
    unlink(p->out);
    unlink(p->partial);
    unlink(p->stats);
    assert_int_equal(rmdir(p->dir), 0); /* nothing else was left */
}

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return NULL;
    char *text = calloc(1 << 20, 1);
    size_t n = fread(text, 1, (1 << 20) - 1, f);
    fclose(f);
    text[n] = 0;
    return text;
}

/* Opens and runs; *code is the exit code. The error's text stays in err. */
static enum lb_status run(const struct lb_options *o, int *code, struct lb_stats *stats, struct lb_err *err)
{
    struct lb_llm *llm = NULL;
    *err = (struct lb_err)LB_ERR_INIT;
    enum lb_status status = lb_open(&llm, o, err);
    if (status == LB_OK)
        status = lb_run(llm, err);
    *code = lb_exit_code(llm, status);
    if (llm && stats)
        *stats = *lb_stats_of(llm);
    lb_close(llm);
    return status;
}

/* Whether a test may be left out: of a sample under the thread sanitizer those whose runs have no threads that others'
 * have not. */
static bool has_known_threads(void)
{
#ifdef __SANITIZE_THREAD__
    return !is_whole();
#else
    return false;
#endif
}

static char *run_rows(struct lb_options *o, struct place *p, struct lb_stats *stats)
{
    int code;
    struct lb_err err;
    o->overwrite = true;
    if (run(o, &code, stats, &err) != LB_OK)
        fail_msg("the run failed: %s", err.text);
    char *text = read_file(p->out);
    assert_non_null(text);
    return text;
}

static const char rows[] =
    "{\"prompt\":\"Once upon a time\",\"max_tokens\":20}\n"
    "{\"prompt_token_ids\":[696],\"max_tokens\":9,\"logprobs\":3}\n"
    "\n"
    "{\"id\":\"warm\",\"prompt\":\"The dog\",\"temperature\":1.2,\"max_tokens\":12}\n"
    "{\"id\":\"warm too\",\"prompt\":\"The dog\",\"temperature\":1.2,\"max_tokens\":12}\n"
    "{\"prompt\":\"A cat and a mouse went for a walk. They saw a big tree and a little house in the "
    "wood. The cat said hello to the bird in the tree and to the fish in the pond.\","
    "\"max_tokens\":30,\"top_p\":0.9,\"temperature\":0.8,\"logprobs\":0,\"seed\":7}\n"
    "{\"prompt\":\"My name is\",\"stop\":[\"house\",\" a\"],\"max_tokens\":64}\n"
    "{\"prompt\":\"My name is\",\"top_k\":5,\"temperature\":2,\"ignore_eos\":true,"
    "\"max_tokens\":20}\n"
    "{\"prompt\":\"x\",\"min_p\":0.2,\"temperature\":3,\"stop_token_ids\":[13],\"max_tokens\":50}\n"
    "{\"prompt\":\"My name is\",\"repetition_penalty\":1.2,\"frequency_penalty\":0.3,\"min_tokens\":20,"
    "\"max_tokens\":24,\"logprobs\":2}\n"
    "{\"prompt\":\"A cat and\",\"presence_penalty\":1.5,\"logit_bias\":{\"5\":4,\"17\":-100},"
    "\"temperature\":1.1,\"max_tokens\":16}\n";

static void test_same_bytes(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    struct lb_stats stats;
    place_init(&p, &o, rows);
    char *want = run_rows(&o, &p, &stats);
    assert_int_equal(stats.rows, 10);
    assert_int_equal(stats.ok, 10);
    assert_int_equal(stats.padding, 0);
    assert_int_equal(stats.prompt_computed, stats.prompt_tokens);
    assert_true(strstr(want, "\"stop_reason\":\" a\"") != NULL);
    static const int variants[][3] = {{16, 1, 256}, {512, 1, 3}, {16, 2, 4}, {512, 3, 256}, {3, 3, 256}, {1, 1, 1}};
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v += is_sanitized() && !is_whole() ? 3 : 1) {
        o.batch_tokens = variants[v][0];
        o.threads = variants[v][1];
        o.max_seqs = variants[v][2];
        char *got = run_rows(&o, &p, &stats);
        assert_string_equal(got, want);
        assert_true(stats.tokens_mean <= variants[v][0] && stats.seqs_mean <= variants[v][2]);
        free(got);
    }
    free(want);
    place_release(&p);
}

/* One row at a time, with ids so that the random numbers are the row's own. */
static void test_alone(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    char all[4096] = "", line[4096];
    const int n_row = is_sanitized() ? 6 / whole_or(2) : 6;
    for (int i = 0; i < n_row; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all),
                 "{\"id\":%d,\"prompt\":\"The %s\",\"temperature\":%d,\"max_tokens\":%d,\"logprobs\":1}\n", i,
                 i % 2 ? "dog is in the little house and" : "cat", i % 3, 10 + i * 7);
    place_init(&p, &o, all);
    json_t *want = json_array();
    char *text = run_rows(&o, &p, NULL);
    for (char *at = strtok(text, "\n"); at; at = strtok(NULL, "\n"))
        json_array_append_new(want, json_loads(at, 0, NULL));
    free(text);
    assert_int_equal(json_array_size(want), n_row);
    const char *at = all;
    for (size_t i = 0; i < (size_t)n_row; i++) {
        size_t n = strcspn(at, "\n");
        memcpy(line, at, n + 1);
        line[n + 1] = 0;
        at += n + 1;
        FILE *f = fopen(p.in, "w");
        fputs(line, f);
        fclose(f);
        text = run_rows(&o, &p, NULL);
        json_t *got = json_loads(text, 0, NULL);
        json_object_del(got, "index");
        json_object_del(json_array_get(want, i), "index");
        assert_true(json_equal(got, json_array_get(want, i)));
        json_decref(got);
        free(text);
    }
    json_decref(want);
    place_release(&p);
}

static void test_no_allocation(void **state)
{
    (void)state;
    if (has_known_threads())
        return;
    struct place p;
    struct lb_options o;
    place_init(&p, &o, rows);
    o.log.level = LB_LOG_DEBUG;
    o.batch_tokens = 16;
    free(run_rows(&o, &p, NULL));
    assert_non_null(strstr(p.log, "allocations of the forward thread after the first step: 0\n"));
    place_release(&p);
}

static void check_error(const char *line, const char *code)
{
    json_t *row = json_loads(line, 0, NULL);
    const char *got = json_string_value(json_object_get(json_object_get(row, "error"), "code"));
    if (!got || strcmp(got, code) != 0)
        fail_msg("not %s: %s", code, line);
    json_decref(row);
}

static void test_error_rows(void **state)
{
    (void)state;
    if (has_known_threads())
        return;
    static const struct {
        const char *row, *code;
    } cases[] = {
        {"{\"prompt_token_ids\":[1,700]}", "bad_token"},
        {"{\"prompt_token_ids\":[]}", "empty_prompt"},
        {"{\"prompt\":\"a\",\"max_tokens\":100}", "too_long"},
        {"{\"prompt_token_ids\":[1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,"
         "8,"
         "9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9]}",
         "too_long"},
        {"{\"prompt\":\"a\",\"max_tokens\":66}", "no_memory"},
        {"{\"prompt\":\"a\",\"temperature\":-1}", "bad_param"},
        {"{\"text\":\"a\"}", "bad_row"},
        {"[1]", "bad_row"},
    };
    enum { N = sizeof cases / sizeof *cases };
#define GOOD "{\"prompt\":\"The dog\",\"max_tokens\":8}\n"
    char all[4096] = GOOD;
    for (size_t i = 0; i < N; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s\n" GOOD, cases[i].row);
    struct place p;
    struct lb_options o;
    struct lb_stats stats;
    struct lb_err err;
    int code;
    place_init(&p, &o, all);
    o.model = MODEL;
    o.max_model_len = 80;
    o.kv_memory = 2 * 4 * 2 * 2 * 16 * 32 * 4; /* two pages of 4 layers, K and V, 2 heads of 16, f32 */
    assert_int_equal(run(&o, &code, &stats, &err), LB_OK);
    assert_int_equal(code, 1);
    assert_int_equal(stats.kv_pages, 2);
    assert_int_equal(stats.error, N);
    assert_int_equal(stats.by_code[LB_ROW_TOO_LONG], 2);
    char *text = read_file(p.out), *save, *good = strtok_r(text, "\n", &save);
    json_t *first = json_loads(good, 0, NULL), *want = json_object_get(first, "token_ids");
    assert_int_equal(json_array_size(want), 8);
    for (size_t i = 0; i < N; i++) {
        check_error(strtok_r(NULL, "\n", &save), cases[i].code);
        json_t *row = json_loads(strtok_r(NULL, "\n", &save), 0, NULL);
        assert_true(json_equal(json_object_get(row, "token_ids"), want));
        json_decref(row);
    }
    json_decref(first);
    free(text);
    place_release(&p);
}

static json_t *read_stats(const struct place *p)
{
    json_t *stats = json_load_file(p->stats, 0, NULL);
    assert_non_null(stats);
    return stats;
}

static void test_stats(void **state)
{
    (void)state;
    if (has_known_threads())
        return;
    struct place p;
    struct lb_options o;
    place_init(&p, &o, rows);
    o.timing = true;
    o.command = "llmbatch \"-x\"";
    char *text = run_rows(&o, &p, NULL), *save;
    json_int_t prompt = 0, completion = 0;
    for (char *at = strtok_r(text, "\n", &save); at; at = strtok_r(NULL, "\n", &save)) {
        json_t *row = json_loads(at, 0, NULL);
        prompt += json_integer_value(json_object_get(row, "prompt_tokens"));
        completion += json_integer_value(json_object_get(row, "completion_tokens"));
        assert_int_equal(json_array_size(json_object_get(row, "token_ids")),
                         json_integer_value(json_object_get(row, "completion_tokens")));
        assert_true(json_real_value(json_object_get(json_object_get(row, "timing"), "total_s")) > 0);
        json_decref(row);
    }
    free(text);
    json_t *s = read_stats(&p), *tokens = json_object_get(s, "tokens"), *r = json_object_get(s, "rows");
    assert_int_equal(json_integer_value(json_object_get(tokens, "prompt")), prompt);
    assert_int_equal(json_integer_value(json_object_get(tokens, "completion")), completion);
    assert_int_equal(json_integer_value(json_object_get(tokens, "padding")), 0);
    assert_int_equal(json_integer_value(json_object_get(r, "total")), 10);
    assert_int_equal(json_integer_value(json_object_get(s, "exit_code")), 0);
    assert_string_equal(json_string_value(json_object_get(s, "command")), o.command);
    double total = json_number_value(json_object_get(json_object_get(s, "time_s"), "total"));
    double forward = json_number_value(json_object_get(json_object_get(s, "time_s"), "forward"));
    assert_true(forward > 0 && forward < total);
    double waste = json_number_value(json_object_get(json_object_get(s, "kv"), "waste"));
    assert_true(waste >= 0 && waste < 32);
    json_decref(s);
    place_release(&p);
}

static void test_empty(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    struct lb_stats stats;
    place_init(&p, &o, "\n  \n");
    char *text = run_rows(&o, &p, &stats);
    assert_string_equal(text, "");
    assert_int_equal(stats.rows, 0);
    assert_non_null(strstr(p.log, "no rows"));
    json_decref(read_stats(&p));
    free(text);
    place_release(&p);
}

static void test_prompt_option(void **state)
{
    (void)state;
    if (has_known_threads())
        return;
    struct place p;
    struct lb_options o;
    place_init(&p, &o, "{\"prompt\":\"The \\\"dog\\\"\"}\n");
    char *want = run_rows(&o, &p, NULL);
    o.n_input = 0;
    o.prompt = "The \"dog\"";
    char *got = run_rows(&o, &p, NULL);
    assert_string_equal(got, want);
    o.input_key = "story";
    free(got);
    got = run_rows(&o, &p, NULL);
    assert_string_equal(got, want);
    free(got);
    free(want);
    place_release(&p);
}

/* ---- stops and failures ---- */

static volatile sig_atomic_t stop_flag;
static int64_t stop_after;

static void stop_soon(void *ctx, int il, const struct lb_step *step, const float *x)
{
    (void)ctx;
    (void)x;
    if (il == 0 && step->number >= stop_after)
        stop_flag = 1;
}

/* Once there were two rows and one of them has ended. */
static void stop_after_one(void *ctx, int il, const struct lb_step *step, const float *x)
{
    bool *both = ctx;
    (void)x;
    *both = *both || step->n_seq == 2;
    if (il == 0 && *both && step->n_seq == 1)
        stop_flag = 1;
}

static void test_interrupted(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    struct lb_stats stats;
    struct lb_err err;
    int code;
    bool both = false;
    struct lb_hook hook = {.ctx = &both, .layer = stop_after_one};
    place_init(
        &p, &o,
        "{\"prompt\":\"a\",\"max_tokens\":2}\n{\"prompt\":\"The cat\",\"max_tokens\":999,\"ignore_eos\":true}\n");
    o.hook = &hook;
    o.stop = &stop_flag;
    stop_flag = 0;
    assert_int_equal(run(&o, &code, &stats, &err), LB_E_INTERRUPTED);
    assert_int_equal(code, 130);
    assert_int_equal(stats.rows, 1); /* the finished one is kept */
    char *partial = read_file(p.partial);
    assert_non_null(partial);
    assert_non_null(strstr(partial, "\n0\t"));
    assert_null(strstr(partial, "\n1\t"));
    free(partial);
    assert_null(read_file(p.out));
    json_t *s = read_stats(&p);
    assert_int_equal(json_integer_value(json_object_get(s, "exit_code")), 130);
    json_decref(s);
    place_release(&p);
}

/* The reader waits for a line that never comes: a stop ends the run all the same. */
static void test_interrupted_stream(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    struct lb_stats stats;
    struct lb_err err;
    int code;
    struct lb_hook hook = {.layer = stop_soon};
    place_init(&p, &o, NULL);
    assert_int_equal(mkfifo(p.in, 0600), 0);
    int fd = open(p.in, O_RDWR | O_CLOEXEC);
    static const char line[] = "{\"prompt\":\"The cat\",\"max_tokens\":999,\"ignore_eos\":true}\n";
    assert_int_equal(write(fd, line, sizeof line - 1), sizeof line - 1);
    o.hook = &hook;
    o.stop = &stop_flag;
    stop_flag = 0;
    stop_after = 3;
    assert_int_equal(run(&o, &code, &stats, &err), LB_E_INTERRUPTED);
    assert_int_equal(stats.rows, 0);
    stop_flag = 1; /* before there is anything to run */
    o.restart = o.overwrite = true;
    assert_int_equal(run(&o, &code, &stats, &err), LB_E_INTERRUPTED);
    close(fd);
    place_release(&p);
}

/* The good rows of a compressed input that breaks off are run and kept. */
static void test_truncated_input(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    struct lb_stats stats;
    struct lb_err err;
    int code;
    place_init(&p, &o, NULL);
    gzFile z = gzopen(p.in, "wb");
    for (int i = 0; i < 5; i++)
        gzputs(z, "{\"prompt\":\"The dog\",\"max_tokens\":4}\n");
    gzflush(z, Z_FULL_FLUSH);
    for (int i = 0; i < 20000; i++)
        gzprintf(z, "{\"prompt\":\"%d\",\"max_tokens\":1}\n", i * 7919);
    gzclose(z);
    struct stat st;
    assert_int_equal(stat(p.in, &st), 0);
    assert_int_equal(truncate(p.in, 120), 0);
    assert_int_equal(run(&o, &code, &stats, &err), LB_E_INPUT);
    assert_int_equal(code, 3);
    assert_true(stats.ok >= 5);
    assert_non_null(strstr(err.text, p.in));
    char *partial = read_file(p.partial);
    assert_non_null(partial);
    assert_non_null(strstr(partial, "\n4\t"));
    free(partial);
    assert_null(read_file(p.out));
    place_release(&p);
}

/* A pipe whose reader has gone ends the run without a word. */
static void test_closed_pipe(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o;
    struct lb_err err;
    char path[32];
    int code, fd[2];
    place_init(&p, &o,
               "{\"prompt\":\"The dog\",\"max_tokens\":4}\n{\"prompt\":\"a\",\"max_tokens\":2}\n"
               "{\"prompt\":\"The cat\",\"max_tokens\":9,\"ignore_eos\":true}\n");
    assert_int_equal(pipe(fd), 0);
    close(fd[0]);
    signal(SIGPIPE, SIG_IGN);
    snprintf(path, sizeof path, "/dev/fd/%d", fd[1]);
    o.output = path;
    assert_int_equal(run(&o, &code, NULL, &err), LB_OK);
    assert_int_equal(code, 0);
    assert_string_equal(p.log, "");
    close(fd[1]);
    place_release(&p);
}

static void refuse(const struct place *p, const struct lb_options *o, int want_code, const char *part)
{
    struct lb_err err;
    int code;
    run(o, &code, NULL, &err);
    assert_int_equal(code, want_code);
    if (!strstr(err.text, part))
        fail_msg("'%s' is not in '%s'", part, err.text);
    assert_null(read_file(p->out)); /* nothing was touched */
    assert_null(read_file(p->partial));
    assert_null(read_file(p->stats));
}

static void test_refusals(void **state)
{
    (void)state;
    struct place p;
    struct lb_options o, base;
    place_init(&p, &base, rows);
    o = base;
    o.model = "/nonexistent";
    refuse(&p, &o, 3, "cannot open model '/nonexistent'");
    o = base;
    o.model = p.dir;
    refuse(&p, &o, 3, "config.json");
    o = base;
    o.model = p.in;
    refuse(&p, &o, 3, p.in);
    o = base;
    o.model = NULL;
    refuse(&p, &o, 2, "model");
    o = base;
    o.dtype = "f16";
    refuse(&p, &o, 2, "f16");
    o = base;
    o.device = "tpu";
    refuse(&p, &o, 2, "tpu");
    o = base;
    o.isa = "mmx";
    refuse(&p, &o, 2, "mmx");
    o = base;
    o.threads = -1;
    refuse(&p, &o, 2, "threads");
    o = base;
    o.batch_tokens = -1;
    refuse(&p, &o, 2, "--batch-tokens");
    o = base;
    o.max_seqs = -4;
    refuse(&p, &o, 2, "--max-seqs");
    o = base;
    o.kv_memory = 1000;
    refuse(&p, &o, 2, "KV memory");
    o = base;
    o.kv_memory = (int64_t)1 << 60;
    refuse(&p, &o, 4, "--kv-memory");
    o = base;
    o.max_model_len = 4096;
    refuse(&p, &o, 2, "2048");
    o = base;
    o.stats = p.in;
    refuse(&p, &o, 2, "input");
    o = base;
    o.stats = "/nonexistent/stats.json";
    refuse(&p, &o, 2, "/nonexistent/stats.json");
    o = base;
    p.inputs[0] = "/nonexistent";
    refuse(&p, &o, 3, "/nonexistent");
    p.inputs[0] = p.in;
    o = base;
    o.prompt = "a";
    refuse(&p, &o, 2, "together");
    o = base;
    o.output = p.in;
    refuse(&p, &o, 2, "in.jsonl");
    o = base;
    o.gen.set = LB_GEN_TOP_P;
    o.gen.top_p = 2;
    refuse(&p, &o, 2, "top_p");
    place_release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_error_rows),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_prompt_option),
        cmocka_unit_test(test_interrupted),
        cmocka_unit_test(test_interrupted_stream),
        cmocka_unit_test(test_truncated_input),
        cmocka_unit_test(test_closed_pipe),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
