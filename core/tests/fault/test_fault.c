/* Whole runs in which one call fails, of every kind of call and at every place: the error is clear, the exit code
 * right, nothing that was finished is lost, nothing leaks, and the same command goes on to the same bytes. A
 * fixed sample of the places where memory is asked for (fewer under a sanitizer), of other calls the first few and a
 * sample; all with LB_TEST_FULL=1. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/llmbatch.h"
#include "core/tests/fault/faults.h"
#include "core/tests/shallow.h"
#include "core/tests/whole.h"

enum { N_FIRST = 4 }; /* of other calls than for memory, in front of the sample */

#define TINY LB_SOURCE_DIR "/testdata/tiny-llama"

static const char id_rows[] = "{\"prompt_token_ids\":[5,6,7],\"max_tokens\":3}\n"
                              "{bad\n"
                              "{\"id\":\"a\",\"prompt_token_ids\":[8],\"max_tokens\":2,\"n\":2,\"temperature\":1}\n"
                              "{\"prompt_token_ids\":[9,10],\"max_tokens\":2,\"logprobs\":1,\"prompt_logprobs\":2}\n"
                              "{\"prompt_token_ids\":[11,12],\"max_tokens\":5,\"ignore_eos\":true,"
                              "\"repetition_penalty\":1.1}\n";
static const char text_rows[] =
    "{\"prompt\":\"Once upon\",\"max_tokens\":3,\"stop\":[\"zz\"]}\n"
    "{bad\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"max_tokens\":2,\"top_p\":0.5}\n"
    "{\"custom_id\":\"c\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"model\":"
    "\"m\",\"prompt\":[\"a\",\"b\"],\"max_tokens\":2,\"echo\":true,\"logprobs\":1}}\n";

/* Files of a run as bytes; data NULL: not there. */
enum file { IN, OUT, PARTIAL, STATS, TMP, STATS_TMP, PAGE, PAGE_TMP, TRACE, TRACE_TMP, N_FILE };

struct files {
    struct lb_str text[N_FILE];
    bool there[N_FILE];
};

static char dir[64], model[96], path[N_FILE][96];
static const char *inputs[1];
static struct lb_options options;
static struct files want, begun; /* what an undisturbed run makes, and what a scenario begins with */

static const char *base(void)
{
    return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

static void read_all(struct files *f)
{
    for (int i = 0; i < N_FILE; i++) {
        struct lb_err err = LB_ERR_INIT;
        lb_str_clear(&f->text[i]);
        lb_str_puts(&f->text[i], "");
        f->there[i] = lb_file_exists(path[i]);
        if (f->there[i] && lb_file_read(path[i], 1 << 24, &f->text[i], &err) != LB_OK)
            fail_msg("%s", err.text);
    }
}

static void write_all(const struct files *f)
{
    for (int i = 0; i < N_FILE; i++) {
        (void)unlink(path[i]);
        if (!f->there[i])
            continue;
        FILE *file = fopen(path[i], "w");
        assert_non_null(file);
        assert_int_equal(fwrite(f->text[i].data, 1, f->text[i].len, file), f->text[i].len);
        fclose(file);
    }
}

static void files_release(struct files *f)
{
    for (int i = 0; i < N_FILE; i++)
        lb_str_release(&f->text[i]);
}

/* Whole rows of the partial file. */
static int64_t count_rows(const struct files *f)
{
    int64_t n = 0;
    for (size_t i = 0; f->there[PARTIAL] && i < f->text[PARTIAL].len; i++)
        n += f->text[PARTIAL].data[i] == '\n';
    return n > 0 ? n - 1 : 0;
}

static int count_entries(const char *of)
{
    int n = 0;
    DIR *d = opendir(of);
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* The kernel lists a thread for a moment after it was joined. */
static bool back_to(const char *of, int n)
{
    for (int i = 0; i < 1000 && count_entries(of) != n; i++)
        usleep(5000);
    return count_entries(of) == n;
}

static enum lb_status run(int *code, struct lb_stats *stats, struct lb_err *err)
{
    struct lb_llm *llm = NULL;
    *err = (struct lb_err)LB_ERR_INIT;
    enum lb_status status = lb_open(&llm, &options, err);
    if (status == LB_OK)
        status = lb_run(llm, err);
    *code = lb_exit_code(llm, status);
    *stats = llm ? *lb_stats_of(llm) : (struct lb_stats){0};
    lb_close(llm);
    return status;
}

static void run_well(struct lb_stats *stats)
{
    int code;
    struct lb_err err;
    if (run(&code, stats, &err) != LB_OK)
        fail_msg("a run without a fault fails: %s", err.text);
}

/* The codes that a failure of the kind may have: a file of the model or of the inputs is 3, all else 4. */
static bool right_code(enum fault f, int code)
{
    bool reads = f == F_READ || f == F_MAP || f == F_OPEN;
    return code == 4 || (reads && code == 3);
}

static void check_files(const char *what)
{
    struct files now = {0};
    read_all(&now);
    if (!now.there[OUT] || now.text[OUT].len != want.text[OUT].len ||
        memcmp(now.text[OUT].data, want.text[OUT].data, now.text[OUT].len) != 0)
        fail_msg("%s: OUT is not what an undisturbed run makes", what);
    if (now.there[PARTIAL] || now.there[TMP] || now.there[STATS_TMP] || now.there[PAGE_TMP] || now.there[TRACE_TMP])
        fail_msg("%s: a file is left over", what);
    if (now.there[PAGE] != (options.report != NULL) || now.there[TRACE] != (options.trace != NULL))
        fail_msg("%s: report or trace is not there", what);
    files_release(&now);
}

/* One run from `begun` with a fault, and the next without. false: the run makes fewer calls of the kind. */
static bool disturb(enum fault f, long n)
{
    char what[96];
    int code, fds = count_entries("/proc/self/fd"), tasks = count_entries("/proc/self/task");
    struct lb_stats stats;
    struct lb_err err;
    struct files left = {0};
    snprintf(what, sizeof what, "%s %ld", fault_name(f), n);
    write_all(&begun);
    fault_arm(f, n);
    enum lb_status status = run(&code, &stats, &err);
    bool fired = fault_disarm();
    if (!back_to("/proc/self/fd", fds) || !back_to("/proc/self/task", tasks))
        fail_msg("%s: there were %d descriptors and %d threads, and there are %d and %d", what, fds, tasks,
                 count_entries("/proc/self/fd"), count_entries("/proc/self/task"));
    if (status != LB_OK && (!err.text[0] || strchr(err.text, '\n') || !right_code(f, code)))
        fail_msg("%s: exit code %d, '%s'", what, code, err.text);
    read_all(&left);
    if (status == LB_OK) {
        check_files(what);
    } else {
        if (!left.there[OUT] && count_rows(&left) < count_rows(&begun))
            fail_msg("%s: %d rows became %d ('%s')", what, (int)count_rows(&begun), (int)count_rows(&left), err.text);
        if (begun.there[OUT] && !left.there[OUT])
            fail_msg("%s: OUT is gone ('%s')", what, err.text);
        int64_t kept = left.there[OUT] ? 0 : count_rows(&left);
        run_well(&stats);
        check_files(what);
        if (stats.resumed < kept)
            fail_msg("%s: of %d rows %d were taken over ('%s')", what, (int)kept, (int)stats.resumed, err.text);
    }
    files_release(&left);
    return fired;
}

static void disturb_everywhere(void)
{
    for (int f = 0; f < N_FAULT; f++) {
        long step = whole_or(f != F_MEMORY ? 29 : is_sanitized() ? 211 : 41), n = 1;
        while (disturb((enum fault)f, n))
            n += n < N_FIRST ? 1 : step;
        printf("%s: about %ld places, behind the first one in %ld of them\n", fault_name((enum fault)f), n, step);
    }
}

/* ---- scenarios ---- */

static void link_file(const char *name)
{
    char from[160], to[160];
    snprintf(from, sizeof from, "%s/%s", shallow_model(TINY), name);
    snprintf(to, sizeof to, "%s/%s", model, name);
    assert_int_equal(symlink(from, to), 0);
}

static int setup(void **state)
{
    (void)state;
    static const char *const names[N_FILE] = {
        "in",   "out",      "out.partial", "out.stats.json", "out.tmp", "out.stats.json.tmp",
        "page", "page.tmp", "trace",       "trace.tmp"};
    snprintf(dir, sizeof dir, "%s/lb-fault-XXXXXX", base());
    if (!mkdtemp(dir))
        return -1;
    for (int i = 0; i < N_FILE; i++)
        snprintf(path[i], sizeof path[i], "%s/%s", dir, names[i]);
    snprintf(model, sizeof model, "%s/model", dir);
    if (mkdir(model, 0700) != 0)
        return -1;
    link_file("config.json");
    link_file("model.safetensors");
    inputs[0] = path[IN];
    lb_options_init(&options);
    options.model = model;
    options.threads = 2;
    options.inputs = inputs;
    options.n_input = 1;
    options.output = path[OUT];
    options.audit = LB_AUDIT_OFF;
    want = begun = (struct files){0};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char file[160];
    for (int i = 0; i < N_FILE; i++)
        (void)unlink(path[i]);
    snprintf(file, sizeof file, "%s/config.json", model);
    (void)unlink(file);
    snprintf(file, sizeof file, "%s/model.safetensors", model);
    (void)unlink(file);
    files_release(&want);
    files_release(&begun);
    return rmdir(model) != 0 || rmdir(dir) != 0;
}

static void begin_fresh(const char *rows)
{
    struct lb_stats stats;
    read_all(&begun);
    lb_str_puts(&begun.text[IN], rows);
    begun.there[IN] = true;
    write_all(&begun);
    run_well(&stats);
    read_all(&want);
}

/* All rows in OUT.partial, the last of them torn. */
static void begin_torn(const char *rows)
{
    int code;
    struct lb_stats stats;
    struct lb_err err;
    begin_fresh(rows);
    write_all(&begun);
    options.stats = "/dev/full";
    assert_int_equal(run(&code, &stats, &err), LB_E_DEVICE);
    options.stats = NULL;
    read_all(&begun);
    assert_true(begun.there[PARTIAL] && !begun.there[OUT]);
    begun.text[PARTIAL].len -= 20;
    begun.text[PARTIAL].data[begun.text[PARTIAL].len] = 0;
}

static void test_first_run(void **state)
{
    (void)state;
    begin_fresh(id_rows);
    disturb_everywhere();
}

static void test_next_run(void **state)
{
    (void)state;
    begin_torn(id_rows);
    disturb_everywhere();
}

/* Failed rows of a complete OUT. */
static void test_retry(void **state)
{
    (void)state;
    begin_fresh(id_rows);
    read_all(&begun);
    options.retry_errors = true;
    disturb_everywhere();
}

static void test_already_complete(void **state)
{
    (void)state;
    begin_fresh(id_rows);
    read_all(&begun);
    disturb_everywhere();
}

/* Tokenizer, templates and text. */
static void test_texts(void **state)
{
    (void)state;
    options.model = shallow_model(TINY);
    begin_torn(text_rows);
    disturb_everywhere();
}

static void make_page(const struct lb_view *v, struct lb_str *out)
{
    lb_str_putf(out, "%lld rows, %d slow\n", (long long)v->stats->rows, v->watch->n_slow);
}

/* A report and a trace beside OUT. */
static void test_pages(void **state)
{
    (void)state;
    begin_torn(id_rows);
    options.report = path[PAGE];
    options.trace = path[TRACE];
    options.page = make_page;
    disturb_everywhere();
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* An argument is a pattern of tests to run. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_first_run), T(test_next_run), T(test_retry), T(test_already_complete), T(test_texts), T(test_pages),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
