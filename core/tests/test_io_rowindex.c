/* Rows in the order of their prompts' beginnings: against an order that the test finds by itself, of texts that it
 * made, and what a row is said to be when its file changes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "core/base/hash.h"
#include "core/base/str.h"
#include "core/io/row_index.h"
#include "core/tests/scratch.h"

static const struct lb_row_spec native = {0};

static struct lb_row_look look_at(const struct lb_row_spec *spec, const char *line)
{
    struct lb_row_look look;
    lb_row_scan(&look, spec, line, strlen(line));
    return look;
}

/* The start is a hash of the prompt alone, whatever stands around it. */
static void test_start(void **state)
{
    (void)state;
    static const char *const alike[] = {
        "{\"prompt\":\"abc\"}",
        " {\"id\" : \"x\\\"}\" , \"prompt\"\t: \"abc\" }",
        "{\"n\":[1,{\"prompt\":\"no\"},\"]\"],\"prompt\":\"abc\",\"max_tokens\":3}",
        "{\"prompt\":\"no\",\"prompt\":\"abc\"}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"model\":\"m\",\"prompt\":\"abc\"}}",
        "{\"prompt\":\"abc\" garbage",
    };
    struct lb_row_look first = look_at(&native, alike[0]);
    assert_int_equal(first.n, 5);
    for (size_t i = 1; i < sizeof alike / sizeof *alike; i++) {
        struct lb_row_look look = look_at(&native, alike[i]);
        assert_true(look.start == first.start && look.n == 5);
    }
    static const char *const others[] = {
        "{\"prompt\":\"abd\"}", "{\"a\":{\"prompt\":\"abc\"}}", "{\"prompt_token_ids\":[1]}", "", "{", "{\"prompt\"",
        "{\"prompt\":",         "[\"prompt\",\"abc\"]"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_true(look_at(&native, others[i]).start != first.start);
    const struct lb_row_spec question = {.input_key = "question"};
    assert_true(look_at(&question, "{\"prompt\":\"no\",\"question\":\"abc\"}").start == first.start);

    char line[600] = "{\"prompt\":\"", other[600];
    memset(line + 11, 'a', 400);
    strcpy(line + 411, "\"}");
    strcpy(other, line);
    other[11 + 255] = 'b'; /* the first byte behind the 256 that count, quote among them */
    assert_true(look_at(&native, line).start == look_at(&native, other).start);
    other[11 + 254] = 'b';
    assert_true(look_at(&native, line).start != look_at(&native, other).start);
}

/* Ids that the look knows have the key that a parsed row has; those that it does not know are said to be there. */
static void test_ids(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        bool has, plain;
    } t[] = {
        {"{\"prompt\":\"a\"}", false, false},
        {"{\"id\":null,\"prompt\":\"a\"}", false, false},
        {"{\"id\":\"r1\",\"prompt\":\"a\"}", true, true},
        {"{\"id\":\"\",\"prompt\":\"a\"}", true, true},
        {"{\"prompt\":\"a\",\"id\":7}", true, true},
        {"{\"id\":-9223372036854775808,\"prompt\":\"a\"}", true, false},
        {"{\"id\":0,\"prompt\":\"a\"}", true, true},
        {"{\"id\":8.0,\"prompt\":\"a\"}", true, false},
        {"{\"id\":-0,\"prompt\":\"a\"}", true, false},
        {"{\"id\":\"r\\u0031\",\"prompt\":\"a\"}", true, false},
        {"{\"id\":1,\"id\":\"r1\",\"prompt\":\"a\"}", true, true},
        {"{\"id\":\"r1\",\"prompt\":\"a\"", true, false},
        {"{\"id\":\"r1\",\"prompt\":\"a\"} x", true, false},
        {"{\"id\":[1],\"prompt\":\"a\"}", true, false},
        {"{\"custom_id\":\"c\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"a\"}}", true,
         true},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct lb_row row;
        struct lb_err err = LB_ERR_INIT;
        struct lb_row_look look = look_at(&native, t[i].line);
        assert_int_equal(look.has_id, t[i].has);
        assert_int_equal(look.plain_id, t[i].plain);
        assert_int_equal(lb_row_parse(&row, &native, 3, t[i].line, strlen(t[i].line), &err), LB_OK);
        if (look.plain_id)
            assert_true(row.has_id && row.key == look.key);
        lb_row_release(&row);
    }
}

/* ---- the order ---- */

enum { N_FILE = 3, N_ROW = 900 };

struct made {
    int64_t index;
    char *line, *prompt;
    size_t longest; /* of its group */
    int64_t first;  /* the group's longest row, the first of several */
};

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Prompts of few kinds for 256 bytes, and of all lengths. */
static void make_row(struct made *m, int64_t index, uint32_t *random)
{
    struct lb_str prompt = {0}, line = {0};
    size_t n = next_random(random) % 2 ? next_random(random) % 40 : 250 + next_random(random) % 600;
    char kind = (char)('a' + next_random(random) % 3);
    for (size_t i = 0; i < n; i++)
        lb_str_putc(&prompt, i < 300 ? kind : 'x');
    lb_str_putf(&line, "{\"k\":%u,\"prompt\":\"%s\"}", next_random(random), n ? prompt.data : "");
    *m = (struct made){.index = index, .line = line.data, .prompt = n ? prompt.data : strdup("")};
}

static size_t start_of(const struct made *m)
{
    size_t n = strlen(m->prompt) + 2; /* quotes */
    return n < LB_ROW_START_BYTES ? n : LB_ROW_START_BYTES;
}

static bool alike(const struct made *a, const struct made *b)
{
    return start_of(a) == start_of(b) && memcmp(a->prompt, b->prompt, start_of(a) - 1) == 0;
}

static int by_order(const void *x, const void *y)
{
    const struct made *a = x, *b = y;
    size_t na = strlen(a->prompt), nb = strlen(b->prompt);
    if (a->first != b->first)
        return a->longest != b->longest ? (a->longest < b->longest ? 1 : -1) : a->first < b->first ? -1 : 1;
    return na != nb ? (na < nb ? 1 : -1) : a->index < b->index ? -1 : 1;
}

static void sort_made(struct made *m)
{
    for (int i = 0; i < N_ROW; i++) {
        m[i].first = -1;
        for (int k = 0; k < N_ROW; k++) {
            if (!alike(&m[i], &m[k]) || (m[i].first >= 0 && strlen(m[k].prompt) <= m[i].longest))
                continue;
            m[i].longest = strlen(m[k].prompt);
            m[i].first = k;
        }
    }
    qsort(m, N_ROW, sizeof *m, by_order);
}

/* Files with a BOM, blank lines and both line endings; the last line of the last one has none. */
static void write_files(const struct made *m, char path[N_FILE][512])
{
    for (int f = 0; f < N_FILE; f++) {
        struct lb_str text = {0};
        char name[8];
        lb_str_puts(&text, f == 1 ? "\xEF\xBB\xBF" : "");
        for (int i = f; i < N_ROW; i += N_FILE) {
            lb_str_puts(&text, i % 7 ? "" : i % 2 ? " \t\r\n" : "\n");
            lb_str_puts(&text, m[i / N_FILE + f * (N_ROW / N_FILE)].line);
            lb_str_puts(&text, i == N_ROW - 1 ? "" : i % 5 ? "\n" : "\r\n");
        }
        snprintf(name, sizeof name, "%d", f);
        scratch_write(name, text.data, text.len);
        strcpy(path[f], scratch_path(name));
        lb_str_release(&text);
    }
}

/* Every step-th row from `first` on goes into an index. */
static struct lb_row_index *index_files(const char *const *paths, size_t n, int64_t first, int64_t step)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_row_index *ix;
    struct lb_lines *lines;
    struct lb_line line;
    assert_int_equal(lb_row_index_new(&ix, paths, n, &err), LB_OK);
    assert_int_equal(lb_lines_open(&lines, paths, n, &err), LB_OK);
    lb_lines_every(lines, first, step);
    while (lb_lines_next(lines, &line, &err) == LB_OK && line.data) {
        struct lb_row_look look;
        lb_row_scan(&look, &native, line.data, line.len);
        assert_int_equal(lb_row_index_add(ix, &line, &look, lb_hash64(line.data, line.len, 0), &err), LB_OK);
    }
    lb_lines_close(lines);
    assert_int_equal(err.status, LB_OK);
    assert_int_equal(lb_row_index_sort(ix, &err), LB_OK);
    return ix;
}

static void check_order(const struct made *m, const char *const *paths, int64_t first, int64_t step)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_line line;
    struct lb_row_index *ix = index_files(paths, N_FILE, first, step);
    for (int i = 0; i < N_ROW; i++) {
        if (m[i].index % step != first)
            continue;
        assert_int_equal(lb_row_index_next(ix, &line, &err), LB_OK);
        assert_non_null(line.data);
        assert_int_equal(line.index, m[i].index);
        assert_int_equal(line.len, strlen(m[i].line));
        assert_memory_equal(line.data, m[i].line, line.len);
        assert_string_equal(line.file, paths[line.index / (N_ROW / N_FILE)]);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(lb_row_index_next(ix, &line, &err), LB_OK);
        assert_null(line.data);
    }
    lb_row_index_free(ix);
}

static void test_order(void **state)
{
    (void)state;
    static struct made m[N_ROW];
    char path[N_FILE][512];
    uint32_t random = 1;
    for (int i = 0; i < N_ROW; i++)
        make_row(&m[i], i, &random);
    write_files(m, path);
    sort_made(m);
    const char *paths[N_FILE] = {path[0], path[1], path[2]};
    check_order(m, paths, 0, 1);
    for (int i = 0; i < N_ROW; i++) {
        free(m[i].line);
        free(m[i].prompt);
    }
}

/* A shard's rows keep their numbers. */
static void test_shard(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_line line;
    static const char text[] = "{\"prompt\":\"a\"}\n\n{\"prompt\":\"bb\"}\n{\"prompt\":\"c\"}\n{\"prompt\":\"ddd\"}\n";
    scratch_write("in", text, sizeof text - 1);
    const char *paths[] = {scratch_path("in")};
    struct lb_row_index *ix = index_files(paths, 1, 1, 2);
    assert_int_equal(lb_row_index_next(ix, &line, &err), LB_OK);
    assert_int_equal(line.index, 3);
    assert_int_equal(lb_row_index_next(ix, &line, &err), LB_OK);
    assert_int_equal(line.index, 1);
    lb_row_index_free(ix);
}

static void test_empty(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_line line;
    scratch_write("in", "\n\n", 2);
    const char *paths[] = {scratch_path("in")};
    struct lb_row_index *ix = index_files(paths, 1, 0, 1);
    assert_int_equal(lb_row_index_next(ix, &line, &err), LB_OK);
    assert_null(line.data);
    lb_row_index_free(ix);
    lb_row_index_free(NULL);
}

/* More files than may be open, rows in turn from each of them. */
static void test_many_files(void **state)
{
    (void)state;
    enum { N = 40 };
    static char path[N][512];
    const char *paths[N];
    struct lb_err err = LB_ERR_INIT;
    struct lb_line line;
    for (int f = 0; f < N; f++) {
        struct lb_str text = {0};
        char name[8];
        snprintf(name, sizeof name, "%02d", f);
        for (int i = 0; i < 5; i++)
            lb_str_putf(&text, "{\"prompt\":\"%0*d\"}\n", 10 - i, f);
        scratch_write(name, text.data, text.len);
        lb_str_release(&text);
        strcpy(path[f], scratch_path(name));
        paths[f] = path[f];
    }
    struct lb_row_index *ix = index_files(paths, N, 0, 1);
    for (int i = 0; i < 5; i++) {
        for (int f = 0; f < N; f++) {
            assert_int_equal(lb_row_index_next(ix, &line, &err), LB_OK);
            assert_int_equal(line.index, 5 * f + i);
            assert_string_equal(line.file, paths[f]);
        }
    }
    lb_row_index_free(ix);
}

/* ---- files that change ---- */

enum change { SAME_TIME, OTHER_TIME, LONGER, SHORTER, REPLACED, GONE, N_CHANGE };

/* Overwrites a letter of the third row, then: as the change says. */
static void change_file(enum change how, const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    const struct timespec before[2] = {st.st_atim, st.st_mtim}, later[2] = {st.st_atim, {st.st_mtim.tv_sec + 5, 0}};
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    if (how == SAME_TIME) {
        fseek(f, 52, SEEK_SET);
        fputc('X', f);
    }
    if (how == LONGER) {
        fseek(f, 0, SEEK_END);
        fputs("{\"prompt\":\"new\"}\n", f);
    }
    fclose(f);
    if (how == SHORTER)
        assert_int_equal(truncate(path, st.st_size - 4), 0);
    if (how == GONE || how == REPLACED)
        assert_int_equal(unlink(path), 0);
    if (how == REPLACED)
        scratch_write("in", "{\"prompt\":\"0\"}", 14);
    if (how != GONE)
        assert_int_equal(utimensat(AT_FDCWD, path, how == OTHER_TIME ? later : before, 0), 0);
}

static void test_changed(void **state)
{
    (void)state;
    /* 20 bytes each, the third behind a blank line: line 4 */
    static const char text[] = "{\"prompt\":\"aaaaaa\"}\n{\"prompt\":\"bbbbbb\"}\n\n{\"prompt\":\"cccccc\"}\n";
    char path[512];
    strcpy(path, scratch_path("in"));
    for (int how = 0; how < N_CHANGE; how++) {
        const char *paths[] = {path};
        struct lb_err err = LB_ERR_INIT;
        struct lb_line line = {0};
        scratch_write("in", text, sizeof text - 1);
        struct lb_row_index *ix = index_files(paths, 1, 0, 1);
        change_file((enum change)how, path);
        int n = 0;
        enum lb_status status = LB_OK;
        while ((status = lb_row_index_next(ix, &line, &err)) == LB_OK && line.data)
            n++;
        assert_int_equal(status, LB_E_INPUT);
        assert_int_equal(n, how == SAME_TIME ? 2 : 0);
        assert_true(how == GONE ? strstr(err.text, "again") != NULL : strstr(err.text, "was changed during") != NULL);
        if (how != GONE) {
            char place[600];
            snprintf(place, sizeof place, "%s:%d: ", path, how == SAME_TIME ? 4 : 1);
            assert_int_equal(strncmp(err.text, place, strlen(place)), 0);
        }
        lb_row_index_free(ix);
    }
}

/* A file that grew between the two looks at it is not read as its neighbor. */
static void test_grown(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_row_index *ix;
    scratch_write("in", "{}\n", 3);
    const char *paths[] = {scratch_path("in")};
    assert_int_equal(lb_row_index_new(&ix, paths, 1, &err), LB_OK);
    const struct lb_line line = {.data = "{\"prompt\":\"a\"}", .len = 14, .index = 1, .number = 2, .offset = 3};
    const struct lb_row_look look = {0};
    assert_int_equal(lb_row_index_add(ix, &line, &look, 0, &err), LB_E_INPUT);
    lb_row_index_free(ix);
    const char *folder[] = {scratch};
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_row_index_new(&ix, folder, 1, &err), LB_E_INPUT);
    assert_null(ix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_ids),
        cmocka_unit_test_setup(test_order, scratch_empty),
        cmocka_unit_test_setup(test_shard, scratch_empty),
        cmocka_unit_test_setup(test_empty, scratch_empty),
        cmocka_unit_test_setup(test_many_files, scratch_empty),
        cmocka_unit_test_setup(test_changed, scratch_empty),
        cmocka_unit_test_setup(test_grown, scratch_empty),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
