#define _GNU_SOURCE
#include "core/io/jsonl_read.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/io/compress.h"

#define READ_BYTES ((size_t)256 << 10)

/* A line of the largest size and its CR: from one byte more on, a line without an end is surely too long. */
#define RAW_MAX_BYTES (LB_LINE_MAX_BYTES + 1)

struct lb_lines {
    const char *const *paths;
    size_t n_path, next_path;
    int wake;                 /* -1: nobody stops a wait */
    struct lb_source *source; /* of the current file; NULL between files */
    const char *file;
    bool fresh; /* nothing of the current file was looked at: a BOM may come */
    bool eof;   /* of the current file */
    int64_t index, number;
    int64_t got;                   /* bytes of the current file that are or were in buf */
    int64_t first, step;           /* lines that are handed out */
    char *buf;                     /* [cap] */
    size_t cap, at, end, searched; /* unread part; bytes behind `at` known to hold no LF */
    struct lb_err failed;
};

static bool is_stdin(const char *path)
{
    return strcmp(path, "-") == 0;
}

static const char *name_of(const char *path)
{
    return is_stdin(path) ? "stdin" : path;
}

static enum lb_status refuse_dir(const char *path, const struct stat *st, struct lb_err *err)
{
    if (S_ISDIR(st->st_mode))
        return lb_err_set(err, LB_E_INPUT, "cannot read '%s': it is a directory; name the files in it", name_of(path));
    return LB_OK;
}

/* Finds out whether a path can be read without taking anything from it. */
static enum lb_status try_path(const char *path, struct lb_err *err)
{
    struct stat st;
    if (is_stdin(path)) {
        if (fstat(STDIN_FILENO, &st) != 0)
            return lb_err_set(err, LB_E_INPUT, "cannot read stdin: %s", strerror(errno));
        return refuse_dir(path, &st, err);
    }
    if (stat(path, &st) != 0)
        return lb_err_set(err, LB_E_INPUT, "cannot open '%s': %s", path, strerror(errno));
    LB_TRY(refuse_dir(path, &st, err));
    if (!S_ISREG(st.st_mode)) {
        if (access(path, R_OK) != 0)
            return lb_err_set(err, LB_E_INPUT, "cannot open '%s': %s", path, strerror(errno));
        return LB_OK;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return lb_err_set(err, LB_E_INPUT, "cannot open '%s': %s", path, strerror(errno));
    close(fd);
    return LB_OK;
}

enum lb_status lb_lines_open(struct lb_lines **out, const char *const *paths, size_t n_path, struct lb_err *err)
{
    *out = NULL;
    for (size_t i = 0; i < n_path; i++)
        LB_TRY(try_path(paths[i], err));
    struct lb_lines *r = lb_mem_new(1, sizeof *r);
    if (!r)
        return lb_err_memory(err, "the input reader", sizeof *r);
    r->paths = paths;
    r->n_path = n_path;
    r->wake = -1;
    r->step = 1;
    *out = r;
    return LB_OK;
}

void lb_lines_wake_on(struct lb_lines *r, int fd)
{
    r->wake = fd;
}

void lb_lines_every(struct lb_lines *r, int64_t first, int64_t step)
{
    r->first = first;
    r->step = step;
}

static enum lb_status open_next(struct lb_lines *r, struct lb_err *err)
{
    const char *path = r->paths[r->next_path++];
    int flags = O_RDONLY | O_CLOEXEC | (r->wake >= 0 ? O_NONBLOCK : 0); /* a FIFO's writer is waited for by poll */
    int fd = is_stdin(path) ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : open(path, flags);
    r->file = name_of(path);
    if (fd < 0)
        return lb_err_set(err, LB_E_INPUT, "cannot open '%s': %s", r->file, strerror(errno));
    LB_TRY(lb_source_open_until(&r->source, fd, r->file, r->wake, err));
    r->fresh = true;
    r->eof = false;
    r->number = r->got = 0;
    r->at = r->end = r->searched = 0;
    return LB_OK;
}

/* Reads more behind the unread part. */
static enum lb_status more(struct lb_lines *r, struct lb_err *err)
{
    if (r->at > 0) {
        memmove(r->buf, r->buf + r->at, r->end - r->at);
        r->end -= r->at;
        r->at = 0;
    }
    LB_TRY(lb_mem_grow((void **)&r->buf, &r->cap, r->end + READ_BYTES, 1, "a line of input", err));
    struct lb_err why = LB_ERR_INIT;
    size_t got;
    enum lb_status status = lb_source_read(r->source, r->buf + r->end, READ_BYTES, &got, &why);
    if (status == LB_E_INPUT)
        return lb_err_set(err, status, "%s after line %lld", why.text, (long long)r->number);
    if (status != LB_OK)
        return lb_err_set(err, status, "%s", why.text);
    r->eof = got == 0;
    r->end += got;
    r->got += (int64_t)got;
    return LB_OK;
}

/* Skips to behind the next LF (or the end of the file). Keeps the first `keep` bytes of the buffer in place. */
static enum lb_status skip_line(struct lb_lines *r, size_t keep, struct lb_err *err)
{
    r->at = 0;
    r->end = keep;
    while (!r->eof) {
        r->end = keep;
        LB_TRY(more(r, err));
        const char *lf = r->end > keep ? memchr(r->buf + keep, '\n', r->end - keep) : NULL;
        if (lf) {
            r->at = (size_t)(lf - r->buf) + 1;
            return LB_OK;
        }
    }
    r->at = r->end;
    return LB_OK;
}

/* The next line of the current file, blank or not, without its LF; false at the end. */
static enum lb_status raw_line(struct lb_lines *r, struct lb_line *out, bool *found, struct lb_err *err)
{
    for (;;) {
        size_t have = r->end - r->at;
        const char *from = r->buf + r->at;
        const char *lf = have > r->searched ? memchr(from + r->searched, '\n', have - r->searched) : NULL;
        if (r->fresh && (have >= 3 || lf || r->eof)) {
            r->fresh = false;
            if (have >= 3 && memcmp(from, "\xEF\xBB\xBF", 3) == 0) {
                r->at += 3;
                r->searched = 0;
                continue;
            }
        }
        out->offset = r->got - (int64_t)have;
        if (lf || (r->eof && have > 0)) {
            out->len = lf ? (size_t)(lf - from) : have;
            out->data = from;
            r->at += out->len + (lf != NULL);
            break;
        }
        r->searched = have;
        if (have > RAW_MAX_BYTES) {
            memmove(r->buf, from, LB_LINE_MAX_BYTES + 1);
            LB_TRY(skip_line(r, LB_LINE_MAX_BYTES + 1, err));
            out->data = r->buf;
            out->len = LB_LINE_MAX_BYTES + 1;
            out->too_long = true;
            break;
        }
        if (r->eof) {
            *found = false;
            return LB_OK;
        }
        LB_TRY(more(r, err));
    }
    r->searched = 0;
    r->number++;
    *found = true;
    return LB_OK;
}

static bool blank(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != ' ' && p[i] != '\t')
            return false;
    return true;
}

static enum lb_status next_line(struct lb_lines *r, struct lb_line *out, struct lb_err *err)
{
    for (;;) {
        bool found = false;
        *out = (struct lb_line){0};
        if (!r->source) {
            if (r->next_path == r->n_path)
                return LB_OK;
            LB_TRY(open_next(r, err));
        }
        LB_TRY(raw_line(r, out, &found, err));
        if (!found) {
            lb_source_close(r->source);
            r->source = NULL;
            continue;
        }
        if (!out->too_long && out->len > 0 && out->data[out->len - 1] == '\r')
            out->len--;
        if (out->len > LB_LINE_MAX_BYTES) {
            out->len = LB_LINE_MAX_BYTES + 1;
            out->too_long = true;
        }
        if (blank(out->data, out->len))
            continue;
        out->file = r->file;
        out->input = r->next_path - 1;
        out->number = r->number;
        out->index = r->index++;
        if (out->index % r->step == r->first)
            return LB_OK;
    }
}

enum lb_status lb_lines_next(struct lb_lines *r, struct lb_line *out, struct lb_err *err)
{
    if (r->failed.status == LB_OK)
        (void)next_line(r, out, &r->failed);
    if (r->failed.status == LB_OK)
        return LB_OK;
    *out = (struct lb_line){0};
    return lb_err_set(err, r->failed.status, "%s", r->failed.text);
}

void lb_lines_close(struct lb_lines *r)
{
    if (!r)
        return;
    lb_source_close(r->source);
    lb_mem_free(r->buf);
    lb_mem_free(r);
}
