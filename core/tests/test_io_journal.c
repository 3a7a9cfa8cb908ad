/* The output of a run: what lies on the disk at every moment, and what is never touched. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/str.h"
#include "core/io/journal.h"
#include "core/tests/expectfile.h"

static char dir[64], out[96], partial[128], tmp[128];

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/lb-journal-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    sprintf(out, "%s/out.jsonl", dir);
    sprintf(partial, "%s.partial", out);
    sprintf(tmp, "%s.tmp", out);
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

/* Nothing but these may be left: a file that a test does not expect makes rmdir fail. */
static int teardown(void **state)
{
    (void)state;
    unlink(out);
    unlink(partial);
    return rmdir(dir);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static struct lb_journal *start(const struct lb_journal_spec *spec)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_journal *j = NULL;
    if (lb_journal_open(&j, spec, "{\"v\":1}", &err) != LB_OK)
        fail_msg("%s", err.text);
    return j;
}

static void put(struct lb_journal *j, int64_t index, const char *line)
{
    struct lb_err err = LB_ERR_INIT;
    bool closed = true;
    if (lb_journal_put(j, index, 0xAB00 + (uint64_t)index, line, strlen(line), &closed, &err) != LB_OK)
        fail_msg("%s", err.text);
    assert_false(closed);
}

static void end(struct lb_journal *j, bool complete)
{
    struct lb_err err = LB_ERR_INIT;
    if (lb_journal_finish(j, complete, NULL, NULL, NULL, &err) != LB_OK)
        fail_msg("%s", err.text);
}

/* What opening alone refuses, since it takes a fingerprint or the caller's word. */
static void expect_not_opened(const struct lb_journal_spec *spec, enum lb_status status, const char *says)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_journal *j = NULL;
    assert_int_equal(lb_journal_open(&j, spec, "{}", &err), status);
    assert_null(j);
    if (!strstr(err.text, says))
        fail_msg("'%s' does not say '%s'", err.text, says);
}

static void expect_refused(const struct lb_journal_spec *spec, enum lb_status status, const char *says)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_journal_found found;
    assert_int_equal(lb_journal_check(spec, &found, &err), status);
    lb_journal_found_release(&found);
    if (!strstr(err.text, says))
        fail_msg("'%s' does not say '%s'", err.text, says);
    expect_not_opened(spec, status, says);
}

static void expect_found(const struct lb_journal_spec *spec, bool is_there, const char *fingerprint)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_journal_found found;
    if (lb_journal_check(spec, &found, &err) != LB_OK)
        fail_msg("%s", err.text);
    assert_int_equal(found.out, is_there);
    assert_int_equal(found.fingerprint != NULL, fingerprint != NULL);
    if (fingerprint)
        assert_string_equal(found.fingerprint, fingerprint);
    lb_journal_found_release(&found);
}

static enum lb_status look_before_rename(void *ctx, struct lb_err *err)
{
    (void)err;
    ++*(int *)ctx;
    assert_false(lb_file_exists(out));
    expect_file(tmp, "zero\none\ntwo\n");
    assert_true(lb_file_exists(partial));
    return LB_OK;
}

#define LINE1 "{\"llmbatch_partial\":1,\"fingerprint\":{\"v\":1}}\n"

static void test_order(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    const struct lb_journal_spec spec = {.path = out};
    int calls = 0;
    expect_found(&spec, false, NULL);
    assert_false(lb_file_exists(partial));
    struct lb_journal *j = start(&spec);
    assert_true(lb_journal_regular(j));
    assert_string_equal(lb_journal_path(j), out);
    expect_file(partial, LINE1);
    put(j, 2, "two");
    put(j, 0, "zero");
    expect_file(partial, LINE1 "2\t000000000000ab02\ttwo\n0\t000000000000ab00\tzero\n");
    put(j, 1, "one");
    assert_false(lb_file_exists(out));
    assert_int_equal(lb_journal_finish(j, true, look_before_rename, &calls, NULL, &err), LB_OK);
    assert_int_equal(calls, 1);
    expect_file(out, "zero\none\ntwo\n");
    assert_false(lb_file_exists(partial));
}

static void test_completion_order(void **state)
{
    (void)state;
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = out, .completion_order = true});
    put(j, 2, "two");
    put(j, 0, "zero");
    put(j, 1, "one");
    end(j, true);
    expect_file(out, "two\nzero\none\n");
}

static void test_empty(void **state)
{
    (void)state;
    end(start(&(struct lb_journal_spec){.path = out}), true);
    expect_file(out, "");
}

static void test_compressed(void **state)
{
    (void)state;
    char path[128], back[160] = "";
    sprintf(path, "%s.gz", out);
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = path});
    put(j, 1, "one");
    sprintf(back, "%s.partial", path);
    expect_file(back, LINE1 "1\t000000000000ab01\tone\n"); /* never compressed */
    put(j, 0, "zero");
    end(j, true);
    gzFile f = gzopen(path, "r");
    int n = gzread(f, back, sizeof back - 1);
    assert_int_equal(n, 9);
    assert_int_equal(gzdirect(f), 0);
    gzclose(f);
    assert_memory_equal(back, "zero\none\n", 9);
    unlink(path);
}

static void test_many(void **state)
{
    (void)state;
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = out});
    struct lb_str want = {0};
    char line[400];
    for (int64_t i = 0; i < 2000; i++) {
        int64_t index = i * 1237 % 2000; /* a permutation: 1237 and 2000 share no factor */
        snprintf(line, sizeof line, "{\"row\":%d,\"text\":\"%*d\"}", (int)index, (int)(index % 300), 7);
        put(j, index, line);
    }
    for (int i = 0; i < 2000; i++)
        lb_str_putf(&want, "{\"row\":%d,\"text\":\"%*d\"}\n", i, i % 300, 7);
    end(j, true);
    expect_file(out, want.data);
    lb_str_release(&want);
}

static void test_existing(void **state)
{
    (void)state;
    struct stat st;
    struct lb_journal_spec spec = {.path = out};
    write_file(out, "precious\n");
    chmod(out, 0640);
    expect_found(&spec, true, NULL);
    expect_not_opened(&spec, LB_E_USAGE, "--overwrite");
    expect_file(out, "precious\n");
    assert_false(lb_file_exists(partial));
    spec.overwrite = true;
    expect_found(&spec, true, NULL);
    struct lb_journal *j = start(&spec);
    put(j, 0, "new");
    expect_file(out, "precious\n"); /* until the new one is whole */
    end(j, true);
    expect_file(out, "new\n");
    assert_int_equal(stat(out, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
}

static void test_partial_found(void **state)
{
    (void)state;
    struct lb_journal_spec spec = {.path = out};
    struct lb_journal *j = start(&spec);
    put(j, 0, "zero");
    end(j, false);
    expect_file(partial, LINE1 "0\t000000000000ab00\tzero\n");
    assert_false(lb_file_exists(out));
    expect_found(&spec, false, "{\"v\":1}");
    expect_not_opened(&spec, LB_E_USAGE, "v (1 then, not set now); discard them with --restart");
    expect_file(partial, LINE1 "0\t000000000000ab00\tzero\n");
    spec.restart = true;
    j = start(&spec);
    expect_file(partial, LINE1);
    put(j, 0, "again");
    end(j, true);
    expect_file(out, "again\n");
}

/* Another process holds the journal; it is named. Killed without warning, it leaves its finished rows whole. */
static void test_second_run(void **state)
{
    (void)state;
    int ready[2];
    char c, who[64], host[65] = "";
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_journal *j;
        bool closed;
        const struct lb_journal_spec mine = {.path = out};
        if (lb_journal_open(&j, &mine, "{\"v\":1}", &err) == LB_OK &&
            lb_journal_put(j, 1, 0xAB01, "one", 3, &closed, &err) == LB_OK && write(ready[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    snprintf(who, sizeof who, "process %d on host ", (int)pid);
    const struct lb_journal_spec spec = {.path = out, .restart = true};
    expect_refused(&spec, LB_E_USAGE, who);
    gethostname(host, sizeof host - 1);
    expect_refused(&spec, LB_E_USAGE, host);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    expect_file(partial, LINE1 "1\t000000000000ab01\tone\n");
    end(start(&spec), true);
    expect_file(out, "");
}

static void test_links(void **state)
{
    (void)state;
    char real[128], link[128], real_partial[160];
    struct stat st;
    sprintf(real, "%s/real", dir);
    sprintf(link, "%s/link", dir);
    sprintf(real_partial, "%s.partial", real);
    assert_int_equal(symlink("real", link), 0); /* relative, and to nothing yet */
    for (int i = 0; i < 2; i++) {
        struct lb_journal *j = start(&(struct lb_journal_spec){.path = link, .overwrite = i == 1});
        assert_true(lb_file_exists(real_partial));
        put(j, 0, i ? "second" : "first");
        end(j, true);
        assert_int_equal(lstat(link, &st), 0);
        assert_true(S_ISLNK(st.st_mode));
        assert_int_equal(lstat(real, &st), 0);
        assert_true(S_ISREG(st.st_mode));
        expect_file(real, i ? "second\n" : "first\n");
    }
    unlink(link);
    unlink(real);
    assert_int_equal(symlink("link", link), 0);
    expect_refused(&(struct lb_journal_spec){.path = link}, LB_E_USAGE, "link");
    unlink(link);
}

static void test_bad_places(void **state)
{
    (void)state;
    char path[128];
    expect_refused(&(struct lb_journal_spec){.path = dir}, LB_E_USAGE, "directory");
    expect_refused(&(struct lb_journal_spec){.path = ""}, LB_E_USAGE, "no file");
    sprintf(path, "%s/none/out.jsonl", dir);
    expect_refused(&(struct lb_journal_spec){.path = path}, LB_E_USAGE, "no folder");
    sprintf(path, "%s/", dir);
    expect_refused(&(struct lb_journal_spec){.path = path}, LB_E_USAGE, "no file");
    if (geteuid() != 0) {
        chmod(dir, 0500);
        expect_refused(&(struct lb_journal_spec){.path = out}, LB_E_DEVICE, "Permission denied");
        chmod(dir, 0700);
    }
}

static void test_inputs(void **state)
{
    (void)state;
    char in[128], other[128];
    sprintf(in, "%s/in", dir);
    sprintf(other, "%s/other", dir);
    write_file(in, "x\n");
    assert_int_equal(link(in, other), 0);
    const char *inputs[] = {"-", in};
    struct lb_journal_spec spec = {.path = other, .overwrite = true, .restart = true, .inputs = inputs, .n_input = 2};
    expect_refused(&spec, LB_E_USAGE, "also an input");
    unlink(other);
    write_file(partial, "x\n");
    inputs[1] = partial;
    spec.path = out;
    expect_refused(&spec, LB_E_USAGE, "also an input");
    expect_file(partial, "x\n");
    unlink(partial);
    int fd = open(in, O_WRONLY | O_APPEND); /* llmbatch -i in >> in */
    sprintf(other, "/dev/fd/%d", fd);
    inputs[1] = in;
    spec.path = other;
    expect_refused(&spec, LB_E_USAGE, "also an input");
    close(fd);
    unlink(in);
}

/* Rows in a pipe so far, without waiting. */
static void expect_pipe(int fd, const char *want)
{
    char buf[256];
    ssize_t n = read(fd, buf, sizeof buf - 1);
    buf[n > 0 ? n : 0] = 0;
    assert_string_equal(buf, want);
}

static struct lb_journal *start_pipe(int ends[2], char *path, bool completion_order)
{
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    sprintf(path, "/dev/fd/%d", ends[1]);
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = path, .completion_order = completion_order});
    assert_false(lb_journal_regular(j));
    return j;
}

static void test_stream(void **state)
{
    (void)state;
    int ends[2];
    char path[32];
    struct lb_journal *j = start_pipe(ends, path, false);
    put(j, 2, "two");
    put(j, 1, "one");
    expect_pipe(ends[0], "");
    put(j, 0, "zero");
    expect_pipe(ends[0], "zero\none\ntwo\n");
    put(j, 9, "nine");
    put(j, 6, "six");
    put(j, 7, "seven");
    put(j, 3, "three");
    expect_pipe(ends[0], "three\n");
    end(j, false);
    expect_pipe(ends[0], "six\nseven\nnine\n");
    assert_true(fcntl(ends[1], F_GETFD) >= 0); /* the descriptor is its owner's */
    close(ends[0]);
    close(ends[1]);

    j = start_pipe(ends, path, true);
    put(j, 2, "two");
    expect_pipe(ends[0], "two\n");
    put(j, 0, "zero");
    expect_pipe(ends[0], "zero\n");
    end(j, true);
    close(ends[0]);
    close(ends[1]);
}

static void test_closed_pipe(void **state)
{
    (void)state;
    int ends[2];
    char path[32];
    bool closed = false;
    struct lb_err err = LB_ERR_INIT;
    struct lb_journal *j = start_pipe(ends, path, false);
    put(j, 0, "zero");
    put(j, 2, "two");
    close(ends[0]);
    assert_int_equal(lb_journal_put(j, 1, 1, "one", 3, &closed, &err), LB_OK);
    assert_true(closed);
    assert_int_equal(lb_journal_finish(j, false, NULL, NULL, NULL, &err), LB_OK);
    close(ends[1]);
}

static void test_stdout(void **state)
{
    (void)state;
    static const char *const names[] = {NULL, "-", "/dev/stdout"};
    int saved = dup(STDOUT_FILENO);
    fflush(stdout);
    for (size_t i = 0; i < 3; i++) {
        int fd = open(out, O_RDWR | O_CREAT | O_TRUNC, 0600); /* > out: a regular file, and yet a stream */
        dup2(fd, STDOUT_FILENO);
        assert_int_equal(write(fd, "before\n", 7), 7);
        struct lb_journal *j = start(&(struct lb_journal_spec){.path = names[i]});
        put(j, 0, "zero");
        bool regular = lb_journal_regular(j);
        end(j, true);
        dup2(saved, STDOUT_FILENO);
        close(fd);
        assert_false(regular);
        expect_file(out, "before\nzero\n");
    }
    close(saved);
}

static void test_devices(void **state)
{
    (void)state;
    char link[128];
    struct stat before, after;
    struct lb_err err = LB_ERR_INIT;
    sprintf(link, "%s/null", dir);
    assert_int_equal(symlink("/dev/null", link), 0);
    assert_int_equal(stat("/dev/null", &before), 0);
    const char *const names[] = {"/dev/null", link};
    for (size_t i = 0; i < 2; i++) {
        struct lb_journal *j = start(&(struct lb_journal_spec){.path = names[i], .overwrite = true, .restart = true});
        assert_false(lb_journal_regular(j));
        put(j, 0, "zero");
        end(j, true);
        assert_int_equal(lb_file_replace(names[i], "{}", 2, &err), LB_OK);
    }
    assert_int_equal(lstat("/dev/null", &after), 0);
    assert_true(S_ISCHR(after.st_mode));
    assert_true(before.st_ino == after.st_ino && before.st_rdev == after.st_rdev);
    unlink(link);

    int full = open("/dev/full", O_WRONLY);
    if (full < 0)
        return;
    close(full);
    bool closed;
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = "/dev/full"});
    assert_int_equal(lb_journal_put(j, 0, 0, "zero", 4, &closed, &err), LB_E_DEVICE);
    assert_string_equal(err.text, "cannot write '/dev/full': No space left on device");
    assert_false(closed);
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_journal_finish(j, false, NULL, NULL, NULL, &err), LB_E_DEVICE);
}

static void test_fifo(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(mkfifo(out, 0600), 0);
    expect_found(&(struct lb_journal_spec){.path = out}, false, NULL); /* does not wait */
    int fd = open(out, O_RDONLY | O_NONBLOCK);
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = out});
    put(j, 0, "zero");
    end(j, true);
    expect_pipe(fd, "zero\n");
    close(fd);
    assert_int_equal(lstat(out, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_false(lb_file_exists(partial));
}

/* A disk that fills up, as far as a process may bring one about: a limit on the size of files. */
static void limit_files(rlim_t bytes)
{
    struct rlimit now;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &now), 0);
    now.rlim_cur = bytes < now.rlim_max ? bytes : now.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &now), 0);
}

static void test_full_disk(void **state)
{
    (void)state;
    char row[101], says[160];
    struct lb_str want = {0};
    struct lb_err err = LB_ERR_INIT;
    bool closed;
    enum lb_status status = LB_OK;
    memset(row, 'r', 100);
    row[100] = 0;
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = out});
    lb_str_puts(&want, LINE1);
    limit_files(1000);
    int n = 0;
    while (status == LB_OK && n < 20) {
        status = lb_journal_put(j, n, 1, row, 100, &closed, &err);
        if (status == LB_OK)
            lb_str_putf(&want, "%d\t0000000000000001\t%s\n", n++, row);
    }
    assert_int_equal(status, LB_E_DEVICE);
    assert_true(n > 5 && n < 9);
    snprintf(says, sizeof says, "cannot write '%s': ", partial);
    assert_memory_equal(err.text, says, strlen(says));
    expect_file(partial, want.data); /* the rows before, and nothing of the torn one */
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_journal_finish(j, false, NULL, NULL, NULL, &err), LB_OK);
    limit_files(RLIM_INFINITY);
    expect_file(partial, want.data);
    lb_str_release(&want);
}

/* No room for OUT beside OUT.partial: every row stays in OUT.partial, an old OUT stays too. */
static void test_full_at_end(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    write_file(out, "old\n");
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = out, .overwrite = true});
    put(j, 0, "zero");
    put(j, 1, "one");
    limit_files(6);
    assert_int_equal(lb_journal_finish(j, true, NULL, NULL, NULL, &err), LB_E_DEVICE);
    limit_files(RLIM_INFINITY);
    assert_non_null(strstr(err.text, "cannot write"));
    expect_file(partial, LINE1 "0\t000000000000ab00\tzero\n1\t000000000000ab01\tone\n");
    expect_file(out, "old\n");
    assert_false(lb_file_exists(tmp));
}

static enum lb_status refuse(void *ctx, struct lb_err *err)
{
    (void)ctx;
    return lb_err_set(err, LB_E_DEVICE, "no stats");
}

static enum lb_status make_out(void *ctx, struct lb_err *err)
{
    (void)ctx;
    (void)err;
    write_file(out, "somebody else's\n");
    return LB_OK;
}

static void test_not_finished(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_journal *j = start(&(struct lb_journal_spec){.path = out});
    put(j, 0, "zero");
    assert_int_equal(lb_journal_finish(j, true, refuse, NULL, NULL, &err), LB_E_DEVICE);
    assert_string_equal(err.text, "no stats");
    assert_false(lb_file_exists(out));
    assert_false(lb_file_exists(tmp));
    expect_file(partial, LINE1 "0\t000000000000ab00\tzero\n");

    err = (struct lb_err)LB_ERR_INIT;
    j = start(&(struct lb_journal_spec){.path = out, .restart = true});
    put(j, 1, "one"); /* row 0 is missing: nothing that looks whole may come out */
    assert_int_equal(lb_journal_finish(j, true, NULL, NULL, NULL, &err), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "row 0"));
    assert_false(lb_file_exists(out));
    assert_true(lb_file_exists(partial));

    err = (struct lb_err)LB_ERR_INIT;
    j = start(&(struct lb_journal_spec){.path = out, .restart = true});
    put(j, 0, "mine");
    assert_int_equal(lb_journal_finish(j, true, make_out, NULL, NULL, &err), LB_E_USAGE);
    expect_file(out, "somebody else's\n");
    expect_file(partial, LINE1 "0\t000000000000ab00\tmine\n");
}

static void test_replace(void **state)
{
    (void)state;
    char link[128];
    struct stat st;
    struct lb_err err = LB_ERR_INIT;
    sprintf(link, "%s/link", dir);
    assert_int_equal(symlink("out.jsonl", link), 0);
    assert_int_equal(lb_file_replace(link, "{}\n", 3, &err), LB_OK);
    expect_file(out, "{}\n");
    assert_int_equal(lb_file_replace(out, "{1}\n", 4, &err), LB_OK);
    expect_file(link, "{1}\n");
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    unlink(link);
    sprintf(link, "%s/none/stats", dir);
    assert_int_equal(lb_file_replace(link, "{}", 2, &err), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "none/stats"));
    err = (struct lb_err)LB_ERR_INIT;
    limit_files(2);
    assert_int_equal(lb_file_replace(out, "{22}\n", 5, &err), LB_E_DEVICE);
    limit_files(RLIM_INFINITY);
    expect_file(out, "{1}\n");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_order),    T(test_completion_order), T(test_empty),       T(test_compressed),   T(test_many),
        T(test_existing), T(test_partial_found),    T(test_second_run),  T(test_links),        T(test_bad_places),
        T(test_inputs),   T(test_stream),           T(test_closed_pipe), T(test_stdout),       T(test_devices),
        T(test_fifo),     T(test_full_disk),        T(test_full_at_end), T(test_not_finished), T(test_replace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
