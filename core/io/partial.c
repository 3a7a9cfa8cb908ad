#define _GNU_SOURCE
#include "core/io/partial.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "core/base/mem.h"
#include "core/io/json_try.h"

#define HEAD "{\"llmbatch_partial\":1,\"fingerprint\":"
#define MAX_HEAD_BYTES ((size_t)4 << 20)

/* Rows that may be missing before one that is finished: many more than a run has under way, and few enough that a
 * damaged number does not ask for all memory. */
#define MAX_GAP ((size_t)1 << 22)

static enum lb_status cannot_read(const char *path, struct lb_err *err)
{
    return lb_err_set(err, LB_E_DEVICE, "cannot read '%s': %s", path, strerror(errno));
}

static enum lb_status not_ours(const char *path, struct lb_err *err)
{
    return lb_err_set(err, LB_E_USAGE,
                      "'%s' is there, but is no partial output of this program: choose another output, or discard it "
                      "with --restart",
                      path);
}

void lb_partial_put_head(struct lb_str *out, const char *fingerprint_json)
{
    lb_str_putf(out, HEAD "%s}\n", fingerprint_json);
}

void lb_partial_put_record(struct lb_str *out, int64_t index, uint64_t line_hash)
{
    lb_str_putf(out, "%" PRId64 "\t%016" PRIx64 "\t", index, line_hash);
}

static enum lb_status read_start(int fd, const char *path, char *buf, size_t *n, struct lb_err *err)
{
    size_t got = 0;
    while (got < MAX_HEAD_BYTES) {
        ssize_t r = pread(fd, buf + got, MAX_HEAD_BYTES - got, (off_t)got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return cannot_read(path, err);
        if (r == 0)
            break;
        got += (size_t)r;
        if (memchr(buf + got - (size_t)r, '\n', (size_t)r))
            break;
    }
    *n = got;
    return LB_OK;
}

static enum lb_status parse_head(const char *line, size_t n, const char *path, struct lb_str *fingerprint,
                                 struct lb_err *err)
{
    json_t *root;
    LB_TRY(lb_json_try(&root, line, n, 0, err));
    json_t *print = json_object_get(root, "fingerprint");
    char *text = NULL;
    enum lb_status status = LB_OK;
    if (json_integer_value(json_object_get(root, "llmbatch_partial")) != 1 || !json_is_object(print))
        status = not_ours(path, err);
    else if ((text = json_dumps(print, JSON_COMPACT)) == NULL)
        status = lb_err_memory(err, "a fingerprint", n);
    if (text)
        lb_str_puts(fingerprint, text);
    lb_mem_give_back(text);
    json_decref(root);
    if (status == LB_OK && fingerprint->failed)
        status = lb_err_memory(err, "a fingerprint", n);
    return status;
}

enum lb_status lb_partial_head(int fd, const char *path, bool *fresh, struct lb_str *fingerprint, int64_t *end,
                               struct lb_err *err)
{
    size_t n = 0;
    *fresh = false;
    char *buf = lb_mem_new(MAX_HEAD_BYTES, 1);
    if (!buf)
        return lb_err_memory(err, "a fingerprint", MAX_HEAD_BYTES);
    enum lb_status status = read_start(fd, path, buf, &n, err);
    const char *lf = status == LB_OK ? memchr(buf, '\n', n) : NULL;
    size_t known = n < strlen(HEAD) ? n : strlen(HEAD);
    if (status == LB_OK && lf) {
        *end = lf - buf + 1;
        status = parse_head(buf, (size_t)(lf - buf), path, fingerprint, err);
    } else if (status == LB_OK && n < MAX_HEAD_BYTES && memcmp(buf, HEAD, known) == 0) {
        *fresh = true;
    } else if (status == LB_OK) {
        status = not_ours(path, err);
    }
    lb_mem_free(buf);
    return status;
}

/* ---- output lines ---- */

static enum lb_row_code code_of(const json_t *error)
{
    const char *name = json_string_value(json_object_get(error, "code"));
    for (int code = LB_ROW_OK + 1; name && code < LB_N_ROW_CODE; code++)
        if (strcmp(name, lb_row_code_name((enum lb_row_code)code)) == 0)
            return (enum lb_row_code)code;
    return LB_N_ROW_CODE;
}

static void read_end(struct lb_outcome *o, const json_t *choice)
{
    const char *how = json_string_value(json_object_get(choice, "finish_reason"));
    if (!how)
        return;
    o->length = o->length || strcmp(how, "stop") != 0;
    o->stopped = !o->length;
}

/* The native form has an index, a response of the API "batch_req_INDEX". */
static int64_t index_of(const json_t *root)
{
    static const char before[] = "batch_req_";
    const json_t *index = json_object_get(root, "index");
    const char *id = json_string_value(json_object_get(root, "id"));
    char *end = NULL;
    if (json_is_integer(index))
        return json_integer_value(index);
    if (!id || strncmp(id, before, strlen(before)) != 0)
        return -1;
    long long v = strtoll(id + strlen(before), &end, 10);
    return *end ? -1 : v;
}

enum lb_status lb_outcome_read(struct lb_outcome *o, const char *line, size_t n, bool *ok, struct lb_err *err)
{
    json_t *root;
    *o = (struct lb_outcome){.index = -1};
    LB_TRY(lb_json_try(&root, line, n, JSON_ALLOW_NUL, err));
    const json_t *body = json_object_get(json_object_get(root, "response"), "body");
    const json_t *row = body ? body : root, *error = json_object_get(row, "error");
    json_t *choices = json_object_get(row, "choices"), *choice;
    size_t i;
    read_end(o, row);
    json_array_foreach(choices, i, choice) read_end(o, choice);
    if (json_is_object(error))
        o->code = code_of(error);
    o->index = index_of(root);
    *ok = json_is_object(root) && o->code < LB_N_ROW_CODE;
    json_decref(root);
    return LB_OK;
}

/* ---- records ---- */

struct record {
    int64_t index;
    uint64_t hash;
    const char *line;
    size_t n;
};

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* INDEX TAB HASH TAB LINE, without its LF. */
static bool read_record(struct record *r, const char *at, size_t n)
{
    size_t i = 0;
    *r = (struct record){0};
    for (; i < n && i < 18 && at[i] >= '0' && at[i] <= '9'; i++)
        r->index = 10 * r->index + (at[i] - '0');
    if (i == 0 || n < i + 18 || at[i] != '\t' || at[i + 17] != '\t')
        return false;
    for (const char *p = at + i + 1; p < at + i + 17; p++) {
        int digit = hex(*p);
        if (digit < 0)
            return false;
        r->hash = r->hash << 4 | (uint64_t)digit;
    }
    r->line = at + i + 18;
    r->n = n - i - 18;
    return true;
}

/* How rows ended, by row number, while a file is read. */
struct scanner {
    struct lb_partial_scan *s;
    struct lb_outcome *outcome; /* [s->n_place] */
    size_t cap_outcome, cap_hash;
    int64_t n_bad;
};

static enum lb_status grow(struct scanner *c, size_t n, struct lb_err *err)
{
    struct lb_partial_scan *s = c->s;
    void *place = s->place, *hash = s->taken.hash, *outcome = c->outcome;
    enum lb_status status = lb_mem_grow(&place, &s->cap_place, n, sizeof *s->place, "the places of rows", err);
    if (status == LB_OK)
        status = lb_mem_grow(&hash, &c->cap_hash, n, sizeof *s->taken.hash, "the rows of an earlier run", err);
    if (status == LB_OK)
        status = lb_mem_grow(&outcome, &c->cap_outcome, n, sizeof *c->outcome, "the rows of an earlier run", err);
    s->place = place;
    s->taken.hash = hash;
    c->outcome = outcome;
    for (; status == LB_OK && s->n_place < n; s->n_place++) {
        s->place[s->n_place] = (struct lb_place){-1, -1};
        s->taken.hash[s->n_place] = 0;
    }
    return status;
}

static enum lb_status take_record(struct scanner *c, const char *base, const char *at, size_t n, struct lb_err *err)
{
    struct lb_partial_scan *s = c->s;
    struct record r;
    struct lb_outcome outcome;
    bool good = read_record(&r, at, n) && (uint64_t)r.index < s->n_place + MAX_GAP;
    if (good)
        LB_TRY(lb_outcome_read(&outcome, r.line, r.n, &good, err));
    if (!good) {
        c->n_bad++;
        return LB_OK;
    }
    size_t index = (size_t)r.index;
    if (index >= s->n_place)
        LB_TRY(grow(c, index + 1, err));
    s->place[index] = (struct lb_place){r.line - base, (int64_t)r.n};
    s->taken.hash[index] = lb_taken_hash(r.hash);
    c->outcome[index] = outcome;
    s->end = at + n + 1 - base;
    return LB_OK;
}

static void count_rows(struct scanner *c)
{
    struct lb_partial_scan *s = c->s;
    struct lb_taken *t = &s->taken;
    for (size_t i = 0; i < s->n_place; i++) {
        const struct lb_outcome *o = &c->outcome[i];
        if (s->place[i].len < 0)
            continue;
        if (o->code != LB_ROW_OK && s->retry_errors) {
            s->place[i] = (struct lb_place){-1, -1};
            t->hash[i] = 0;
            continue;
        }
        t->rows++;
        t->ok += o->code == LB_ROW_OK;
        t->error += o->code != LB_ROW_OK;
        t->by_code[o->code] += o->code != LB_ROW_OK;
        t->stop += o->code == LB_ROW_OK && o->stopped;
        t->length += o->code == LB_ROW_OK && o->length;
    }
    t->n = s->n_place;
}

enum lb_status lb_partial_scan(int fd, struct lb_partial_scan *s, struct lb_err *err)
{
    struct stat st;
    struct scanner c = {.s = s};
    s->end = s->begin;
    if (fstat(fd, &st) != 0)
        return cannot_read(s->path, err);
    if (st.st_size <= s->begin)
        return LB_OK;
    size_t size = (size_t)st.st_size;
    char *base = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (base == MAP_FAILED)
        return cannot_read(s->path, err);
    (void)madvise(base, size, MADV_SEQUENTIAL);
    enum lb_status status = LB_OK;
    int64_t n_bad = 0;
    for (const char *at = base + s->begin, *end = base + size; status == LB_OK && at < end;) {
        const char *lf = memchr(at, '\n', (size_t)(end - at));
        if (!lf)
            break;
        int64_t whole = s->end;
        status = take_record(&c, base, at, (size_t)(lf - at), err);
        if (s->end > whole)
            n_bad = c.n_bad;
        at = lf + 1;
    }
    (void)munmap(base, size);
    if (status == LB_OK)
        count_rows(&c);
    if (status == LB_OK && n_bad)
        lb_log_put(s->log, LB_LOG_WARN, "%" PRId64 " damaged lines of '%s' are left out: their rows are run again",
                   n_bad, s->path);
    lb_mem_free(c.outcome);
    return status;
}

void lb_taken_release(struct lb_taken *t)
{
    lb_mem_free(t->hash);
    *t = (struct lb_taken){0};
}
