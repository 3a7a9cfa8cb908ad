/* Compressed streams against zlib's and zstd's own readers, and what a sink says when it cannot write. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/str.h"
#include "core/io/compress.h"

static char dir[] = "/tmp/lb-compress-XXXXXX";
static struct lb_str text; /* 600 KB, some of it repetitive */

static int setup(void **state)
{
    (void)state;
    uint64_t x = 7;
    for (int i = 0; text.len < 600000; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        lb_str_putf(&text, "{\"id\":%d,\"text\":\"%016llx\"}\n", i, (unsigned long long)x);
    }
    return mkdtemp(dir) && !text.failed ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    lb_str_release(&text);
    return rmdir(dir);
}

/* Writes the text in pieces of uneven size, some empty, and reads the file back as it is. */
static void write_text(const char *path, struct lb_str *file)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_sink *s;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(lb_sink_open(&s, fd, path, &err), LB_OK);
    for (size_t at = 0, n = 0; at < text.len; at += n, n = (n * 5 + 3) % 200003) {
        if (n > text.len - at)
            n = text.len - at;
        assert_int_equal(lb_sink_write(s, text.data + at, n, &err), LB_OK);
    }
    assert_int_equal(lb_sink_close(s, 1, &err), LB_OK);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    assert_int_equal(lb_file_read(path, 1 << 24, file, &err), LB_OK);
}

static void check_read(const char *path)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_source *s;
    struct lb_str got = {0};
    char buf[1000];
    size_t n;
    assert_int_equal(lb_source_open(&s, open(path, O_RDONLY), path, &err), LB_OK);
    do {
        assert_int_equal(lb_source_read(s, buf, got.len % sizeof buf + 1, &n, &err), LB_OK);
        lb_str_put(&got, buf, n);
    } while (n);
    lb_source_close(s);
    assert_int_equal(got.len, text.len);
    assert_memory_equal(got.data, text.data, text.len);
    lb_str_release(&got);
}

static void test_plain(void **state)
{
    (void)state;
    char path[64];
    struct lb_str file = {0};
    sprintf(path, "%s/gz", dir); /* a name that ends in letters of a suffix is none */
    write_text(path, &file);
    assert_int_equal(file.len, text.len);
    assert_memory_equal(file.data, text.data, text.len);
    check_read(path);
    unlink(path);
    lb_str_release(&file);
}

static void test_gzip(void **state)
{
    (void)state;
    char path[64], *back = malloc(text.len + 1);
    struct lb_str file = {0};
    sprintf(path, "%s/x.jsonl.gz", dir);
    write_text(path, &file);
    assert_true(file.len < text.len / 2);
    gzFile f = gzopen(path, "r");
    assert_int_equal(gzread(f, back, (unsigned)text.len + 1), text.len);
    assert_int_equal(gzdirect(f), 0);
    assert_int_equal(gzclose(f), Z_OK);
    assert_memory_equal(back, text.data, text.len);
    check_read(path);
    unlink(path);
    free(back);
    lb_str_release(&file);
}

static void test_zstd(void **state)
{
    (void)state;
    char path[64], *back = malloc(text.len + 1);
    struct lb_str file = {0};
    sprintf(path, "%s/x.jsonl.zst", dir);
    write_text(path, &file);
    assert_true(file.len < text.len / 2);
    assert_int_equal(ZSTD_decompress(back, text.len + 1, file.data, file.len), text.len);
    assert_memory_equal(back, text.data, text.len);
    assert_true(file.data[4] & 4); /* RFC 8878 3.1.1.1.1: Content_Checksum_flag */
    check_read(path);

    /* Parallel compressors begin with a skippable frame. */
    FILE *f = fopen(path, "w");
    fwrite("\x50\x2A\x4D\x18\x03\0\0\0abc", 1, 11, f);
    fwrite(file.data, 1, file.len, f);
    fclose(f);
    check_read(path);
    unlink(path);
    free(back);
    lb_str_release(&file);
}

static void test_empty(void **state)
{
    (void)state;
    static const char *const names[] = {"e", "e.gz", "e.zst"};
    for (size_t i = 0; i < 3; i++) {
        char path[64], c;
        size_t n;
        struct lb_err err = LB_ERR_INIT;
        struct lb_sink *s;
        struct lb_source *r;
        sprintf(path, "%s/%s", dir, names[i]);
        assert_int_equal(lb_sink_open(&s, open(path, O_WRONLY | O_CREAT, 0600), path, &err), LB_OK);
        assert_int_equal(lb_sink_close(s, 0, &err), LB_OK);
        assert_int_equal(lb_source_open(&r, open(path, O_RDONLY), path, &err), LB_OK);
        assert_int_equal(lb_source_read(r, &c, 1, &n, &err), LB_OK);
        assert_int_equal(n, 0);
        lb_source_close(r);
        unlink(path);
    }
}

static void test_full(void **state)
{
    (void)state;
    int fd = open("/dev/full", O_WRONLY);
    if (fd < 0)
        skip();
    close(fd);
    static const char *const names[] = {"out", "out.gz", "out.zst"};
    for (size_t i = 0; i < 3; i++) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_sink *s;
        char says[64];
        assert_int_equal(lb_sink_open(&s, open("/dev/full", O_WRONLY), names[i], &err), LB_OK);
        enum lb_status status = lb_sink_write(s, text.data, text.len, &err);
        enum lb_status closed = lb_sink_close(s, 0, &err);
        assert_int_equal(errno, ENOSPC);
        assert_int_equal(closed, LB_E_DEVICE);
        assert_true(status == LB_E_DEVICE || i == 2); /* zstd may have gathered all of it */
        snprintf(says, sizeof says, "cannot write '%s': No space left on device", names[i]);
        assert_string_equal(err.text, says);
    }
}

static void test_pipe(void **state)
{
    (void)state;
    int ends[2];
    struct lb_err err = LB_ERR_INIT;
    struct lb_sink *s;
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    assert_int_equal(lb_sink_open(&s, ends[1], "stdout", &err), LB_OK);
    assert_int_equal(lb_sink_write(s, "x\n", 2, &err), LB_OK); /* gathered */
    assert_int_equal(lb_sink_errno(s), 0);
    assert_int_equal(lb_sink_flush(s, &err), LB_E_DEVICE);
    assert_int_equal(lb_sink_errno(s), EPIPE);
    assert_int_equal(lb_sink_close(s, 0, &err), LB_E_DEVICE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain), cmocka_unit_test(test_gzip), cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_empty), cmocka_unit_test(test_full), cmocka_unit_test(test_pipe),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
