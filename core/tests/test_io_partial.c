/* Taking over what an earlier run left in OUT.partial: which rows count, what is torn or damaged, what differs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/str.h"
#include "core/io/facts.h"
#include "core/io/journal.h"
#include "core/tests/expectfile.h"

#define PRINT "{\"max_tokens\":16,\"dtype\":\"f32\"}"
#define LINE1 "{\"llmbatch_partial\":1,\"fingerprint\":" PRINT "}\n"
#define ROW(i, hash, more) #i "\t" hash "\t{\"id\":" #i ",\"index\":" #i "," more "}\n"
#define H0 "00000000000000a0"
#define H1 "fffffffffffffff1"
#define STOP "\"text\":\"a\",\"finish_reason\":\"stop\""
#define LENGTH "\"text\":\"a\",\"finish_reason\":\"length\""
#define FAILED "\"finish_reason\":\"error\",\"error\":{\"code\":\"too_long\",\"message\":\"m\"}"

static char dir[64], out[96], partial[128], said[4096];

static void keep_log(void *ctx, enum lb_log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    size_t n = strlen(said);
    snprintf(said + n, sizeof said - n, "%s\n", text);
}

static const struct lb_log keeper = {.level = LB_LOG_WARN, .emit = keep_log};

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/lb-partial-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    sprintf(out, "%s/out.jsonl", dir);
    sprintf(partial, "%s.partial", out);
    said[0] = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(out);
    unlink(partial);
    return rmdir(dir);
}

static void write_bytes(const char *path, const char *data, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static struct lb_journal *start(struct lb_journal_spec spec, const char *bytes, size_t n)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_journal *j = NULL;
    spec.path = out;
    spec.log = &keeper;
    said[0] = 0;
    if (bytes)
        write_bytes(partial, bytes, n);
    if (lb_journal_open(&j, &spec, PRINT, &err) != LB_OK)
        fail_msg("%s", err.text);
    return j;
}

static void put(struct lb_journal *j, int64_t index, const char *line)
{
    struct lb_err err = LB_ERR_INIT;
    bool closed;
    if (lb_journal_put(j, index, 0xAB, line, strlen(line), &closed, &err) != LB_OK)
        fail_msg("%s", err.text);
}

static void end(struct lb_journal *j, bool complete)
{
    struct lb_err err = LB_ERR_INIT;
    if (lb_journal_finish(j, complete, NULL, NULL, NULL, &err) != LB_OK)
        fail_msg("%s", err.text);
}

#define START(spec, text) start(spec, text, sizeof(text) - 1)
#define OLD ((struct lb_journal_spec){0})

static const char whole[] = LINE1 ROW(2, H1, LENGTH) ROW(0, H0, STOP) ROW(3, H1, FAILED);

static void test_take_over(void **state)
{
    (void)state;
    struct lb_journal *j = START(OLD, whole);
    const struct lb_taken *t = lb_journal_taken(j);
    assert_string_equal(said, "");
    assert_int_equal(t->n, 4);
    assert_true(t->hash[0] == 0xA0 && t->hash[1] == 0 && t->hash[2] == 0xfffffffffffffff1 && t->hash[3] != 0);
    assert_int_equal(t->rows, 3);
    assert_int_equal(t->ok, 2);
    assert_int_equal(t->stop, 1);
    assert_int_equal(t->length, 1);
    assert_int_equal(t->error, 1);
    assert_int_equal(t->by_code[LB_ROW_TOO_LONG], 1);
    put(j, 1, "{\"one\":1}");
    put(j, 4, "{\"four\":4}");
    end(j, true);
    expect_file(out, "{\"id\":0,\"index\":0," STOP "}\n{\"one\":1}\n{\"id\":2,\"index\":2," LENGTH "}\n"
                     "{\"id\":3,\"index\":3," FAILED "}\n{\"four\":4}\n");
    assert_false(lb_file_exists(partial));
}

static void test_completion_order(void **state)
{
    (void)state;
    struct lb_journal *j = START(((struct lb_journal_spec){.completion_order = true}), whole);
    put(j, 1, "{\"one\":1}");
    end(j, true);
    expect_file(out, "{\"id\":2,\"index\":2," LENGTH "}\n{\"id\":0,\"index\":0," STOP "}\n"
                     "{\"id\":3,\"index\":3," FAILED "}\n{\"one\":1}\n");
}

static void test_retry(void **state)
{
    (void)state;
    struct lb_journal *j = START(((struct lb_journal_spec){.retry_errors = true}), whole);
    const struct lb_taken *t = lb_journal_taken(j);
    assert_int_equal(t->rows, 2);
    assert_int_equal(t->error, 0);
    assert_true(t->hash[3] == 0);
    put(j, 3, "{\"id\":3,\"index\":3," STOP "}");
    end(j, false);
    j = start(OLD, NULL, 0); /* the second record of the row is the one that counts, also without the option */
    t = lb_journal_taken(j);
    assert_int_equal(t->rows, 3);
    assert_int_equal(t->error, 0);
    put(j, 1, "{\"one\":1}");
    end(j, true);
    expect_file(out, "{\"id\":0,\"index\":0," STOP "}\n{\"one\":1}\n{\"id\":2,\"index\":2," LENGTH "}\n"
                     "{\"id\":3,\"index\":3," STOP "}\n");
}

/* Cut at every byte: the rows before the cut are there, the one that is cut is run again, OUT is the same. */
static void test_cut_everywhere(void **state)
{
    (void)state;
    static const char *const lines[] = {"{\"id\":0,\"index\":0," STOP "}", NULL, "{\"id\":2,\"index\":2," LENGTH "}",
                                        "{\"id\":3,\"index\":3," FAILED "}"};
    size_t row2 = strlen(LINE1 ROW(2, H1, LENGTH)), row0 = strlen(LINE1 ROW(2, H1, LENGTH) ROW(0, H0, STOP));
    for (size_t n = 0; n <= strlen(whole); n++) {
        struct lb_journal *j = start(OLD, whole, n);
        const struct lb_taken *t = lb_journal_taken(j);
        bool on_end = n == 0 || whole[n - 1] == '\n';
        assert_int_equal(t->rows, (n >= row2) + (n >= row0) + (n == strlen(whole)));
        assert_int_equal(strstr(said, "torn") == NULL, on_end || n < strlen(LINE1));
        for (size_t i = 0; i < 4; i++)
            if (i >= t->n || !t->hash[i])
                put(j, (int64_t)i, lines[i] ? lines[i] : "{\"one\":1}");
        end(j, true);
        expect_file(out, "{\"id\":0,\"index\":0," STOP "}\n{\"one\":1}\n{\"id\":2,\"index\":2," LENGTH "}\n"
                         "{\"id\":3,\"index\":3," FAILED "}\n");
        unlink(out);
    }
}

/* What a machine leaves that lost its power: blocks of zeros, also before whole rows. */
static void test_damaged(void **state)
{
    (void)state;
    char text[sizeof whole];
    memcpy(text, whole, sizeof whole);
    memset(text + strlen(LINE1) + 3, 0, strlen(ROW(2, H1, LENGTH)) + 4);
    struct lb_journal *j = START(OLD, text);
    assert_int_equal(lb_journal_taken(j)->rows, 1);
    assert_non_null(strstr(said, "1 damaged lines"));
    end(j, false);
    static const char *const bad[] = {
        "1\t" H0 "\t{\"id\":1\n",
        "1\t" H0 "\n",
        "1\t00000000000000A0\t{}\n",
        "-1\t" H0 "\t{}\n",
        "\n",
        "x\n",
        "1\t" H0 "\t[]\n",
        "9000000000\t" H0 "\t{}\n",
        "99999999999999999999\t" H0 "\t{}\n",
        "1\t" H0 "\t{\"error\":{\"code\":\"unheard_of\"}}\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct lb_str s = {0};
        lb_str_putf(&s, LINE1 "%s" ROW(0, H0, STOP) "%s", bad[i], bad[i]);
        j = start(OLD, s.data, s.len);
        assert_int_equal(lb_journal_taken(j)->rows, 1);
        assert_int_equal(lb_journal_taken(j)->n, 1);
        assert_non_null(strstr(said, "damaged"));
        assert_non_null(strstr(said, "torn"));
        end(j, false);
        s.len -= strlen(bad[i]);
        s.data[s.len] = 0;
        expect_file(partial, s.data);
        lb_str_release(&s);
    }
}

static void expect_refused(const char *bytes, size_t n, const char *now, const char *says)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_journal *j = NULL;
    const struct lb_journal_spec spec = {.path = out, .log = &keeper};
    write_bytes(partial, bytes, n);
    assert_int_equal(lb_journal_open(&j, &spec, now, &err), LB_E_USAGE);
    if (!strstr(err.text, says))
        fail_msg("'%s' does not say '%s'", err.text, says);
    struct lb_str s = {0};
    assert_int_equal(lb_file_read(partial, 1 << 20, &s, &err), LB_OK);
    assert_int_equal(s.len, n);
    assert_memory_equal(s.data, bytes, n);
    lb_str_release(&s);
}

static void test_refused(void **state)
{
    (void)state;
    const char torn[] = LINE1 "0\t";
    expect_refused(torn, strlen(torn), "{\"max_tokens\":17,\"dtype\":\"f32\"}", "max_tokens (16 then, 17 now)");
    expect_refused(torn, strlen(torn), "{\"max_tokens\":16}", "dtype (\"f32\" then, not set now)");
    expect_refused(torn, strlen(torn), "{\"n\":2,\"dtype\":\"f32\",\"max_tokens\":16}", "n (not set then, 2 now)");
    static const char *const alien[] = {"x",
                                        "\n",
                                        "{}\n",
                                        "{\"llmbatch_partial\":2,\"fingerprint\":{}}\n",
                                        "{\"llmbatch_partial\":1}\n",
                                        "{\"llmbatch_partial\":1,\"fingerprint\":[]}\n"};
    for (size_t i = 0; i < sizeof alien / sizeof *alien; i++)
        expect_refused(alien[i], strlen(alien[i]), PRINT, "no partial output");
}

static void test_outcomes(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        struct lb_outcome want;
    } cases[] = {
        {"{" STOP "}", {LB_ROW_OK, true, false, -1}},
        {"{\"choices\":[{" STOP "},{" STOP "}]}", {LB_ROW_OK, true, false, -1}},
        {"{\"choices\":[{" STOP "},{" LENGTH "},{" STOP "}]}", {LB_ROW_OK, false, true, -1}},
        {"{\"response\":{\"status_code\":200,\"body\":{\"choices\":[{" LENGTH "}]}},\"error\":null}",
         {LB_ROW_OK, false, true, -1}},
        {"{\"response\":{\"status_code\":400,\"body\":{\"error\":{\"code\":\"bad_row\"}}},\"error\":null}",
         {LB_ROW_BAD_ROW, false, false, -1}},
        {"{\"id\":0,\"index\":7,\"prompt\":\"\\u0000\",\"prompt_token_ids\":[1]}", {LB_ROW_OK, false, false, 7}},
        {"{\"id\":\"batch_req_12\",\"custom_id\":\"x\"}", {LB_ROW_OK, false, false, 12}},
        {"{\"id\":\"batch_req_1x\"}", {LB_ROW_OK, false, false, -1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_outcome got;
        struct lb_err err = LB_ERR_INIT;
        bool ok = false;
        assert_int_equal(lb_outcome_read(&got, cases[i].line, strlen(cases[i].line), &ok, &err), LB_OK);
        assert_true(ok);
        assert_int_equal(got.code, cases[i].want.code);
        assert_int_equal(got.stopped, cases[i].want.stopped);
        assert_int_equal(got.length, cases[i].want.length);
        assert_int_equal(got.index, cases[i].want.index);
    }
}

static void test_earlier(void **state)
{
    (void)state;
    struct lb_earlier e;
    struct lb_err err = LB_ERR_INIT;
    const char stats[] = "{\"fingerprint\":{\"n\":1},\"rows\":{\"total\":7},\"input_hash\":\"00000000000000ff\","
                         "\"exit_code\":1}";
    assert_int_equal(lb_earlier_read(&e, out, &err), LB_OK);
    assert_null(e.fingerprint);
    static const char *const others[] = {"", "[]", "{\"exit_code\":0}", "{\"fingerprint\":{},\"exit_code\":0}", "{"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        write_bytes(out, others[i], strlen(others[i]));
        assert_int_equal(lb_earlier_read(&e, out, &err), LB_OK);
        assert_null(e.fingerprint);
    }
    write_bytes(out, stats, strlen(stats));
    assert_int_equal(lb_earlier_read(&e, out, &err), LB_OK);
    assert_string_equal(e.fingerprint, "{\"n\":1}");
    assert_true(e.exit_code == 1 && e.rows == 7 && e.has_input_hash && e.input_hash == 0xFF);
    lb_earlier_release(&e);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_take_over), T(test_completion_order), T(test_retry),    T(test_cut_everywhere),
        T(test_damaged),   T(test_refused),          T(test_outcomes), T(test_earlier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
