/* core/base/file.h on files of a directory of its own. */
#include <errno.h>
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
#include "core/base/mem.h"

static char dir[] = "/tmp/lb_base_XXXXXX";

static char *path_of(const char *name)
{
    char *p = lb_path_join(dir, name);
    assert_non_null(p);
    return p;
}

static char *make(const char *name, const void *data, size_t n)
{
    struct lb_err err = LB_ERR_INIT;
    char *path = path_of(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(lb_file_write_all(fd, data, n, path, &err), LB_OK);
    assert_int_equal(close(fd), 0);
    return path;
}

static void drop(char *path)
{
    assert_int_equal(unlink(path), 0);
    lb_mem_free(path);
}

static void test_map(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_map m;
    char *path = make("data", "abc\0def", 7), *empty = make("empty", "", 0);
    assert_int_equal(lb_map_open(&m, path, &err), LB_OK);
    assert_int_equal(m.size_bytes, 7);
    assert_memory_equal(m.data, "abc\0def", 7);
    lb_map_close(&m);
    assert_null(m.data);
    lb_map_close(&m);
    assert_int_equal(lb_map_open(&m, empty, &err), LB_OK);
    assert_null(m.data);
    assert_int_equal(m.size_bytes, 0);
    lb_map_close(&m);
    drop(path);
    drop(empty);
}

/* File pages that the process has mapped in, in KiB. */
static long file_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*d %*d %ld", &pages) != 1)
        fail_msg("/proc/self/statm says nothing");
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void test_forget(void **state)
{
    (void)state;
    enum { N = 8 << 20, ODD = 12345, KIB = N / 1024 };
    struct lb_err err = LB_ERR_INIT;
    struct lb_map m;
    char *data = lb_mem_new(N, 1), other[64] = "elsewhere";
    for (size_t i = 0; i < N; i++)
        data[i] = (char)(i * 2654435761u >> 24);
    char *path = make("large", data, N);
    assert_int_equal(lb_map_open(&m, path, &err), LB_OK);
    long before = file_kib();
    assert_memory_equal(m.data, data, N);
    assert_true(file_kib() > before + KIB / 2);
    lb_map_forget(&m, m.data + ODD, N - ODD + 1); /* not in the mapping */
    lb_map_forget(&m, (const uint8_t *)other, sizeof other);
    assert_true(file_kib() > before + KIB / 2);
    lb_map_forget(&m, m.data + ODD, N - 2 * ODD);
    assert_true(file_kib() < before + KIB / 4);
    assert_memory_equal(m.data, data, N);
    assert_string_equal(other, "elsewhere");
    lb_map_close(&m);
    lb_mem_free(data);
    drop(path);
}

static void check_refused(const char *path, const char *what)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_map m;
    assert_int_equal(lb_map_open(&m, path, &err), LB_E_INPUT);
    assert_null(m.data);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, what));
}

static void test_map_refused(void **state)
{
    (void)state;
    char *fifo = path_of("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    check_refused("/nonexistent/file", strerror(ENOENT));
    check_refused(dir, "not a regular file");
    check_refused(fifo, "not a regular file"); /* and is not waited for */
    drop(fifo);
}

static void test_read(void **state)
{
    (void)state;
    const size_t n = 200000;
    char *big = malloc(n);
    assert_non_null(big);
    for (size_t i = 0; i < n; i++)
        big[i] = (char)(i * 7);
    char *path = make("big", big, n);
    struct lb_err err = LB_ERR_INIT;
    struct lb_str s = {0};
    lb_str_puts(&s, "before");
    assert_int_equal(lb_file_read(path, n, &s, &err), LB_OK);
    assert_int_equal(s.len, n + 6);
    assert_memory_equal(s.data + 6, big, n);
    assert_int_equal(lb_file_read(path, n - 1, &s, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "larger than 199999 bytes"));
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_file_read("/nonexistent/file", 10, &s, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "'/nonexistent/file'"));
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_file_read(dir, 10, &s, &err), LB_E_INPUT);
    lb_str_release(&s);
    free(big);
    drop(path);
}

static void test_exists(void **state)
{
    (void)state;
    char *path = make("here", "x", 1);
    assert_true(lb_file_exists(path));
    assert_true(lb_file_exists(dir));
    assert_true(lb_file_is_dir(dir));
    assert_false(lb_file_is_dir(path));
    drop(path);
    assert_false(lb_file_exists("/nonexistent/file"));
    assert_false(lb_file_is_dir("/nonexistent"));
}

static void test_join(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}, {"a/c", "", "a/c/"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *p = lb_path_join(rows[i][0], rows[i][1]);
        assert_string_equal(p, rows[i][2]);
        lb_mem_free(p);
    }
}

static void test_write_fails(void **state)
{
    (void)state;
    int fd = open("/dev/full", O_WRONLY);
    if (fd < 0)
        skip();
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_file_write_all(fd, "x", 1, "out.jsonl", &err), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "'out.jsonl'"));
    assert_non_null(strstr(err.text, strerror(ENOSPC)));
    close(fd);
}

int main(void)
{
    if (!mkdtemp(dir)) {
        perror(dir);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),         cmocka_unit_test(test_forget), cmocka_unit_test(test_map_refused),
        cmocka_unit_test(test_read),        cmocka_unit_test(test_exists), cmocka_unit_test(test_join),
        cmocka_unit_test(test_write_fails),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return n_failed;
}
