/* --verify: which rows are run again, and that a difference is seen. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/llmbatch.h"
#include "core/model/decoder.h"
#include "core/run/verify.h"
#include "core/tests/scratch.h"
#include "core/tests/shallow.h"
#include "core/tests/whole.h"

#define MODEL LB_SOURCE_DIR "/testdata/tiny-llama"

static struct lb_work *finished(int64_t index)
{
    struct lb_work *w = lb_work_new();
    assert_non_null(w);
    w->row.index = index;
    w->n_out = 1;
    return w;
}

/* Of any number of rows, in any order, n are chosen, and they lie about as far apart as they could. */
static void test_choice(void **state)
{
    (void)state;
    static const int64_t rows[] = {0, 1, 3, 4, 5, 9, 64, 1000, 1777};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
        for (int64_t n = 1; n <= 7; n += 3) {
            struct lb_err err = LB_ERR_INIT;
            struct lb_verify v;
            assert_int_equal(lb_verify_init(&v, n, &err), LB_OK);
            for (int64_t i = 0; i < rows[k]; i++) {
                int64_t at = (i * 7) % rows[k]; /* all of them: no number here is a multiple of 7 */
                at = rows[k] % 7 == 0 ? i : at;
                lb_verify_take(&v, finished(at), at);
                assert_true(v.n_kept <= 2 * n);
            }
            int64_t want = n < rows[k] ? n : rows[k], got = lb_verify_choose(&v);
            assert_int_equal(got, want);
            for (int64_t i = 1; i < got; i++) {
                int64_t gap = v.kept[i]->row.index - v.kept[i - 1]->row.index;
                if (gap < 1 || gap > 4 * rows[k] / n)
                    fail_msg("%lld of %lld rows: a gap of %lld", (long long)n, (long long)rows[k], (long long)gap);
            }
            lb_verify_release(&v);
        }
}

static void test_what_is_not_kept(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_verify v;
    assert_int_equal(lb_verify_init(&v, 0, &err), LB_OK);
    lb_verify_take(&v, finished(0), 0);
    assert_int_equal(lb_verify_choose(&v), 0);
    lb_verify_release(&v);
    assert_int_equal(lb_verify_init(&v, 5, &err), LB_OK);
    struct lb_work *failed = finished(0), *empty = finished(1);
    failed->row.code = LB_ROW_TOO_LONG;
    empty->n_out = 0;
    lb_verify_take(&v, failed, 0);
    lb_verify_take(&v, empty, 1);
    assert_int_equal(v.n_kept, 0);
    lb_verify_release(&v);
}

static void test_difference(void **state)
{
    (void)state;
    int32_t a[] = {1, 2, 3}, b[] = {1, 2, 4};
    struct lb_work was = {.out = a, .n_out = 3}, again = {.out = b, .n_out = 3};
    assert_int_equal(lb_verify_differs(&was, &again), 2);
    was.n_out = again.n_out = 2;
    assert_int_equal(lb_verify_differs(&was, &again), -1);
    again.n_out = 1;
    assert_int_equal(lb_verify_differs(&was, &again), 1);
    again.n_out = 2;
    again.fail = LB_ROW_NOT_FINITE;
    assert_int_equal(lb_verify_differs(&was, &again), 2);
}

/* ---- whole runs ---- */

static char text[4096];

static void keep_log(void *ctx, enum lb_log_level level, const char *message)
{
    (void)ctx;
    size_t n = strlen(text);
    if (level == LB_LOG_ERROR)
        snprintf(text + n, sizeof text - n, "%s\n", message);
}

static void copy_file(const char *name, const char *to)
{
    char path[512], buffer[4096];
    snprintf(path, sizeof path, "%s/%s", shallow_model(MODEL), name);
    FILE *in = fopen(path, "rb"), *out = fopen(to, "wb");
    assert_true(in && out);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, in)) > 0;)
        assert_int_equal(fwrite(buffer, 1, n, out), n);
    fclose(in);
    fclose(out);
}

/* The embedding table is read where the file lies (tensor.h): a file that is written over changes the model. */
static int bend_at = -1;

static void bend(void *ctx, const struct lb_step *step, const float *x)
{
    (void)ctx;
    (void)x;
    static char other[100000];
    if (step->number != bend_at)
        return;
    int fd = open(scratch_path("model.safetensors"), O_RDWR);
    assert_true(fd >= 0);
    off_t end = lseek(fd, 0, SEEK_END);
    assert_true(pread(fd, other, sizeof other, end / 2) > 0);
    /* the embedding stands first, behind the header */
    assert_int_equal(pwrite(fd, other, sizeof other, 16384), sizeof other);
    close(fd);
}

static void run(struct lb_options *o, int64_t *rows, int64_t *differ, int code)
{
    static const char *const files[] = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    struct lb_err err = LB_ERR_INIT;
    struct lb_llm *llm;
    static char model[128], in[512], out[512];
    static const char *inputs[1] = {in};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        copy_file(files[i], scratch_path(files[i]));
    snprintf(model, sizeof model, "%s", scratch);
    snprintf(in, sizeof in, "%s", scratch_path("in.jsonl"));
    snprintf(out, sizeof out, "%s", scratch_path("out.jsonl"));
    FILE *f = fopen(in, "w");
    for (int i = 0; i < 40; i++)
        fprintf(f, "{\"prompt\":\"row %d\",\"max_tokens\":%d,\"temperature\":%d,\"n\":%d}\n", i, 3 + i % 9, i % 2,
                1 + (i % 5 == 0));
    fclose(f);
    text[0] = 0;
    o->model = model;
    o->inputs = inputs;
    o->n_input = 1;
    o->output = out;
    o->overwrite = true;
    o->audit = LB_AUDIT_OFF;
    o->threads = 2;
    o->batch_tokens = 16;
    o->max_seqs = 8;
    o->log = (struct lb_log){LB_LOG_ERROR, keep_log, NULL};
    assert_int_equal(lb_open(&llm, o, &err), LB_OK);
    enum lb_status status = lb_run(llm, &err);
    if (status != LB_OK)
        fail_msg("%s", err.text);
    const struct lb_stats *s = lb_stats_of(llm);
    assert_int_equal(s->ok, 40);
    *rows = s->verified;
    *differ = s->verify_differ;
    assert_int_equal(lb_exit_code(llm, status), code);
    lb_close(llm);
    assert_int_equal(access(out, F_OK), 0);
}

static void test_same(void **state)
{
    (void)state;
    struct lb_options o;
    int64_t rows, differ;
    for (int64_t n = 0; n <= 50; n += is_whole() ? 10 : n == 0 ? 30 : 20) { /* a sample: 0, 30, 50 */
        lb_options_init(&o);
        o.verify = n;
        o.crowd_pages = n == 30 ? 9 : 0; /* rows that were evicted */
        o.bold_drafts = n == 50;
        run(&o, &rows, &differ, 0);
        assert_int_equal(rows, n < 40 ? n : 40);
        assert_int_equal(differ, 0);
        assert_string_equal(text, "");
    }
}

static void test_changed(void **state)
{
    (void)state;
    struct lb_options o;
    const struct lb_hook hook = {.embedding = bend};
    int64_t rows, differ;
    lb_options_init(&o);
    o.verify = 40;
    o.hook = &hook;
    bend_at = 12;
    run(&o, &rows, &differ, 5);
    bend_at = -1;
    assert_int_equal(rows, 40);
    assert_in_range(differ, 1, 40);
    assert_non_null(strstr(text, "--verify: row "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_what_is_not_kept),
        cmocka_unit_test(test_difference),
        cmocka_unit_test_teardown(test_same, scratch_empty),
        cmocka_unit_test_teardown(test_changed, scratch_empty),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
