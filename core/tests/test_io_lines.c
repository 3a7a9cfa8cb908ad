/* Lines of inputs: what a reader hands out for files, compressed or not, whole or damaged. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#include "core/base/str.h"
#include "core/io/jsonl_read.h"
#include "core/io/row.h"

static char dir[] = "/tmp/lb-lines-XXXXXX";

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

static const char *place(char *path, const char *name)
{
    sprintf(path, "%s/%s", dir, name);
    return path;
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

/* Reads everything as "FILE:NUMBER#INDEX=TEXT|"; file names without their folder. */
static enum lb_status read_all(const char *const *paths, size_t n, struct lb_str *out, struct lb_err *err)
{
    struct lb_lines *r;
    struct lb_line line;
    enum lb_status status = lb_lines_open(&r, paths, n, err);
    if (status != LB_OK)
        return status;
    for (;;) {
        status = lb_lines_next(r, &line, err);
        if (status != LB_OK || !line.data)
            break;
        const char *slash = strrchr(line.file, '/');
        lb_str_putf(out, "%s:%d#%d=", slash ? slash + 1 : line.file, (int)line.number, (int)line.index);
        lb_str_put(out, line.data, line.len);
        lb_str_puts(out, line.too_long ? "...|" : "|");
    }
    if (status != LB_OK) { /* a failed reader stays failed */
        struct lb_err again = LB_ERR_INIT;
        assert_int_equal(lb_lines_next(r, &line, &again), status);
        assert_string_equal(again.text, err->text);
    }
    lb_lines_close(r);
    return status;
}

static void expect(const char *const *paths, size_t n, const char *want, size_t n_want)
{
    struct lb_str got = {0};
    struct lb_err err = LB_ERR_INIT;
    lb_str_puts(&got, "");
    if (read_all(paths, n, &got, &err) != LB_OK)
        fail_msg("%s", err.text);
    assert_int_equal(got.len, n_want);
    assert_memory_equal(got.data, want, n_want);
    lb_str_release(&got);
}

static void test_plain(void **state)
{
    (void)state;
    char a[64], b[64], c[64];
    static const char first[] = "\xEF\xBB\xBFone\r\n\n \t \r\ntwo\0x\n\xEF\xBB\xBF"
                                "three\n";
    write_file(place(a, "a"), first, sizeof first - 1);
    write_file(place(b, "b"), "", 0);
    static const char third[] = "\xEF\xBB\xBF\n  four\n\r\nlast";
    write_file(place(c, "c"), third, sizeof third - 1);
    const char *paths[] = {a, b, c};
    static const char want[] = "a:1#0=one|a:4#1=two\0x|a:5#2=\xEF\xBB\xBFthree|c:2#3=  four|c:4#4=last|";
    expect(paths, 3, want, sizeof want - 1);
    write_file(a, "\xEF\xBB", 2);
    expect((const char *const[]){a}, 1, "a:1#0=\xEF\xBB|", 9);
    write_file(a, "\xEF\xBB\xBF", 3);
    expect((const char *const[]){a}, 1, "", 0);
    unlink(a);
    unlink(b);
    unlink(c);
}

static void test_stdin(void **state)
{
    (void)state;
    int saved = dup(STDIN_FILENO), ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "x\ny", 3), 3);
    close(ends[1]);
    assert_int_equal(dup2(ends[0], STDIN_FILENO), STDIN_FILENO);
    close(ends[0]);
    static const char want[] = "stdin:1#0=x|stdin:2#1=y|";
    expect((const char *const[]){"-"}, 1, want, sizeof want - 1);
    dup2(saved, STDIN_FILENO);
    close(saved);
}

static void test_missing(void **state)
{
    (void)state;
    char a[64], missing[64];
    struct lb_str got = {0};
    struct lb_err err = LB_ERR_INIT;
    write_file(place(a, "a"), "x\n", 2);
    const char *paths[] = {a, place(missing, "none.jsonl")};
    assert_int_equal(read_all(paths, 2, &got, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "none.jsonl"));
    assert_int_equal(got.len, 0); /* found before the first line */
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(read_all((const char *const[]){dir}, 1, &got, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "directory"));
    unlink(a);
    lb_str_release(&got);
}

/* Numbered lines of uneven length, over 1 MiB, that do not compress away. */
static void make_lines(struct lb_str *text, struct lb_str *want, const char *name)
{
    uint64_t x = 1;
    for (int i = 0; i < 3000; i++) {
        size_t from = text->len;
        lb_str_putf(text, "%d", i);
        for (int k = 0; k < i % 97; k++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            lb_str_putf(text, " %016llx", (unsigned long long)x);
        }
        lb_str_putf(want, "%s:%d#%d=", name, i + 1, i);
        lb_str_put(want, text->data + from, text->len - from);
        lb_str_putc(want, '|');
        lb_str_putc(text, '\n');
    }
}

static void put_gzip(struct lb_str *out, const char *data, size_t n)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t room = deflateBound(&z, n) + 64;
    unsigned char *buf = malloc(room);
    z.next_in = (unsigned char *)(uintptr_t)data;
    z.avail_in = (unsigned)n;
    z.next_out = buf;
    z.avail_out = (unsigned)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    lb_str_put(out, buf, z.total_out);
    deflateEnd(&z);
    free(buf);
}

static void put_zstd(struct lb_str *out, const char *data, size_t n)
{
    size_t room = ZSTD_compressBound(n);
    void *buf = malloc(room);
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    size_t got = ZSTD_compress2(c, buf, room, data, n);
    ZSTD_freeCCtx(c);
    assert_false(ZSTD_isError(got));
    lb_str_put(out, buf, got);
    free(buf);
}

static void check_compressed(const char *name, void (*put)(struct lb_str *out, const char *data, size_t n),
                             const char *padding, size_t n_padding)
{
    char path[64];
    struct lb_str text = {0}, want = {0}, file = {0}, got = {0};
    make_lines(&text, &want, name);
    size_t half = text.len / 2; /* two members, the border inside a line */
    put(&file, text.data, half);
    size_t border = file.len;
    put(&file, text.data + half, text.len - half);
    lb_str_put(&file, padding, n_padding);
    place(path, name);
    write_file(path, file.data, file.len);
    expect((const char *const[]){path}, 1, want.data, want.len);

    /* Cut anywhere inside a member: whole lines come out, then one message. */
    const size_t cuts[] = {20, border / 2, border - 3, border + 11, border + (file.len - border) / 2};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct lb_err err = LB_ERR_INIT;
        char says[128];
        int lines = 0;
        write_file(path, file.data, cuts[i]);
        lb_str_clear(&got);
        lb_str_puts(&got, "");
        assert_int_equal(read_all((const char *const[]){path}, 1, &got, &err), LB_E_INPUT);
        assert_true(got.len < want.len);
        assert_memory_equal(got.data, want.data, got.len);
        for (size_t k = 0; k < got.len; k++)
            lines += got.data[k] == '|';
        snprintf(says, sizeof says, "%s: compressed data ends early after line %d", path, lines);
        assert_string_equal(err.text, says);
        if (i == 4)
            assert_true(lines > 1000);
    }

    struct lb_err err = LB_ERR_INIT;
    lb_str_clear(&got);
    memset(file.data + border + (file.len - border) / 2, 0x55, 64);
    write_file(path, file.data, file.len);
    assert_int_equal(read_all((const char *const[]){path}, 1, &got, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "damaged"));
    assert_memory_equal(got.data, want.data, half / 2);
    unlink(path);
    lb_str_release(&text);
    lb_str_release(&want);
    lb_str_release(&file);
    lb_str_release(&got);
}

static void test_gzip(void **state)
{
    (void)state;
    check_compressed("a.gz", put_gzip, "\0\0\0\0\0\0", 6);
}

static void test_zstd(void **state)
{
    (void)state;
    check_compressed("by-content", put_zstd, "", 0);
}

static void test_gzip_trailer(void **state)
{
    (void)state;
    char path[64];
    struct lb_str file = {0}, got = {0};
    struct lb_err err = LB_ERR_INIT;
    put_gzip(&file, "a\nb\n", 4);
    lb_str_puts(&file, "garbage");
    write_file(place(path, "g.gz"), file.data, file.len);
    assert_int_equal(read_all((const char *const[]){path}, 1, &got, &err), LB_E_INPUT);
    assert_string_equal(got.data, "g.gz:1#0=a|g.gz:2#1=b|");
    assert_non_null(strstr(err.text, "after line 2"));
    unlink(path);
    lb_str_release(&file);
    lb_str_release(&got);
}

/* Lines at the limit, and far beyond it: the reader's memory must not follow the line. */
static void test_too_long(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        const char *end;
        bool too_long;
    } cases[] = {
        {LB_LINE_MAX_BYTES, "\r\n", false},
        {LB_LINE_MAX_BYTES + 1, "\n", true},
        {LB_LINE_MAX_BYTES * 2 + 77, "\r\n", true},
        {LB_LINE_MAX_BYTES + LB_LINE_MAX_BYTES / 2, "", true},
    };
    char path[64], *block = malloc(1 << 20);
    memset(block, 'x', 1 << 20);
    block[(1 << 20) - 1] = '\r'; /* a carriage return at the cut is no line ending */
    gzFile f = gzopen(place(path, "long"), "w1");
    for (size_t i = 0; i < 4; i++) {
        for (size_t left = cases[i].n; left > 0; left -= left < 1 << 20 ? left : 1 << 20)
            gzwrite(f, block, left < 1 << 20 ? (unsigned)left : 1 << 20);
        gzputs(f, cases[i].end);
        if (i < 3)
            gzputs(f, "{\"prompt\":\"short\"}\n");
    }
    gzclose(f);
    free(block);

    struct lb_lines *r;
    struct lb_line line;
    struct lb_err err = LB_ERR_INIT;
    const char *paths[] = {path};
    const struct lb_row_spec spec = {0};
    assert_int_equal(lb_lines_open(&r, paths, 1, &err), LB_OK);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(lb_lines_next(r, &line, &err), LB_OK);
        assert_int_equal(line.too_long, cases[i].too_long);
        assert_int_equal(line.len, LB_LINE_MAX_BYTES + cases[i].too_long);
        assert_int_equal(line.index, 2 * i);
        if (line.too_long) {
            struct lb_row row;
            assert_int_equal(lb_row_parse(&row, &spec, line.index, line.data, line.len, &err), LB_OK);
            assert_int_equal(row.code, LB_ROW_BAD_ROW);
            assert_non_null(strstr(row.message, "64 MiB"));
            assert_string_equal(row.id_json, "null");
            lb_row_release(&row);
        }
        if (i == 3)
            break;
        assert_int_equal(lb_lines_next(r, &line, &err), LB_OK);
        assert_int_equal(line.len, 18);
        assert_memory_equal(line.data, "{\"prompt\":\"short\"}", 18);
        assert_false(line.too_long);
        assert_int_equal(line.number, 2 * i + 2);
    }
    assert_int_equal(lb_lines_next(r, &line, &err), LB_OK);
    assert_null(line.data);
    lb_lines_close(r);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),    cmocka_unit_test(test_stdin), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_gzip),     cmocka_unit_test(test_zstd),  cmocka_unit_test(test_gzip_trailer),
        cmocka_unit_test(test_too_long),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
