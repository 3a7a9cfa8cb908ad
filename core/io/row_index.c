#define _GNU_SOURCE
#include "core/io/row_index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/mem.h"

#define BLOCK_BYTES ((size_t)256 << 10) /* read at once where rows follow each other in the file */
#define MAX_SKIP ((uint64_t)4096)       /* bytes between such rows */
#define MAX_OPEN 16

/* Widths in bits of what a row is known by. */
#define AT_BITS 47
#define CHECK_BITS (64 - AT_BITS)
#define LEN_BITS 27
#define MAX_AT ((uint64_t)1 << AT_BITS)
#define MAX_INDEX ((uint64_t)1 << (64 - LEN_BITS))

_Static_assert(LB_LINE_MAX_BYTES + 1 < (size_t)1 << LEN_BITS, "the longest line's length has its bits");

/* at: place in all inputs one behind the other, of AT_BITS, under bits of the line's hash; what: length, of LEN_BITS,
 * under the row's number. While rows are sorted: hash or rank of the group; length and row number. */
struct ref {
    uint64_t at, what;
};

struct input {
    const char *path;
    uint64_t begin; /* bytes of those before */
    int64_t size;
    struct timespec changed;
    dev_t dev;
    ino_t ino;
    int fd; /* -1: not open */
    uint64_t used;
};

struct lb_row_index {
    struct input *input; /* [n_input] */
    size_t n_input;
    int n_open;
    uint64_t clock;
    struct ref *ref, *key; /* [n]; key only until they are sorted */
    size_t n, cap_ref, cap_key, next;
    char *buf; /* [cap] */
    size_t cap;
    const struct input *buf_of;
    uint64_t buf_at, buf_n, last_end; /* in the file */
};

static enum lb_status look_at(struct input *in, struct lb_err *err)
{
    struct stat st;
    if (stat(in->path, &st) != 0)
        return lb_err_set(err, LB_E_INPUT, "cannot open '%s': %s", in->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return lb_err_set(err, LB_E_INPUT, "cannot read '%s' twice: not a regular file", in->path);
    in->size = st.st_size;
    in->changed = st.st_mtim;
    in->dev = st.st_dev;
    in->ino = st.st_ino;
    return LB_OK;
}

enum lb_status lb_row_index_new(struct lb_row_index **out, const char *const *paths, size_t n_path, struct lb_err *err)
{
    *out = NULL;
    struct lb_row_index *ix = lb_mem_new(1, sizeof *ix);
    if (ix)
        ix->input = lb_mem_new(n_path ? n_path : 1, sizeof *ix->input);
    if (!ix || !ix->input) {
        lb_row_index_free(ix);
        return lb_err_memory(err, "the places of rows", n_path * sizeof *ix->input);
    }
    uint64_t begin = 0;
    enum lb_status status = LB_OK;
    for (; ix->n_input < n_path && status == LB_OK; ix->n_input++) {
        struct input *in = &ix->input[ix->n_input];
        *in = (struct input){.path = paths[ix->n_input], .begin = begin, .fd = -1};
        status = look_at(in, err);
        begin += (uint64_t)in->size;
    }
    if (status == LB_OK && begin >= MAX_AT)
        status = lb_err_set(err, LB_E_INPUT, "the inputs have %llu bytes: more than can be kept in order",
                            (unsigned long long)begin);
    if (status == LB_OK)
        *out = ix;
    else
        lb_row_index_free(ix);
    return status;
}

void lb_row_index_free(struct lb_row_index *ix)
{
    if (!ix)
        return;
    for (size_t i = 0; i < ix->n_input; i++)
        if (ix->input[i].fd >= 0)
            close(ix->input[i].fd);
    lb_mem_free(ix->input);
    lb_mem_free(ix->ref);
    lb_mem_free(ix->key);
    lb_mem_free(ix->buf);
    lb_mem_free(ix);
}

/* ---- a row that is not what it was ---- */

/* Lines of the file before a place, counted anew: the first one is 1. */
static int64_t line_at(const struct input *in, uint64_t at)
{
    char block[4096];
    int64_t n = 1;
    int fd = open(in->path, O_RDONLY | O_CLOEXEC);
    for (uint64_t done = 0; fd >= 0 && done < at;) {
        size_t want = at - done < sizeof block ? (size_t)(at - done) : sizeof block;
        ssize_t got = pread(fd, block, want, (off_t)done);
        if (got <= 0)
            break;
        for (ssize_t i = 0; i < got; i++)
            n += block[i] == '\n';
        done += (uint64_t)got;
    }
    if (fd >= 0)
        close(fd);
    return n;
}

static enum lb_status changed(const struct input *in, uint64_t at, struct lb_err *err)
{
    return lb_err_set(
        err, LB_E_INPUT,
        "%s:%lld: the file was changed during the run: rows that are read when their turn comes must stay "
        "as they are",
        in->path, (long long)line_at(in, at));
}

/* ---- adding and sorting ---- */

enum lb_status lb_row_index_add(struct lb_row_index *ix, const struct lb_line *line, const struct lb_row_look *look,
                                uint64_t line_hash, struct lb_err *err)
{
    const struct input *in = &ix->input[line->input];
    if (line->offset < 0 || line->offset + (int64_t)line->len > in->size)
        return changed(in, (uint64_t)line->offset, err);
    if ((uint64_t)line->index >= MAX_INDEX || ix->n >= UINT32_MAX)
        return lb_err_set(err, LB_E_INPUT, "the inputs have more rows than can be kept in order");
    void *ref = ix->ref, *key = ix->key;
    enum lb_status status = lb_mem_grow(&ref, &ix->cap_ref, ix->n + 1, sizeof *ix->ref, "the places of rows", err);
    if (status == LB_OK)
        status = lb_mem_grow(&key, &ix->cap_key, ix->n + 1, sizeof *ix->key, "the places of rows", err);
    ix->ref = ref;
    ix->key = key;
    if (status != LB_OK)
        return status;
    uint64_t at = in->begin + (uint64_t)line->offset, n = look->n < UINT32_MAX ? look->n : UINT32_MAX;
    ix->ref[ix->n].at = at | line_hash >> AT_BITS << AT_BITS;
    ix->ref[ix->n].what = (uint64_t)line->len | (uint64_t)line->index << LEN_BITS;
    ix->key[ix->n] = (struct ref){look->start, (UINT32_MAX - n) << 32 | ix->n};
    ix->n++;
    return LB_OK;
}

static int by_key(const void *x, const void *y)
{
    const struct ref *a = x, *b = y;
    if (a->at != b->at)
        return a->at < b->at ? -1 : 1;
    return (a->what > b->what) - (a->what < b->what);
}

enum lb_status lb_row_index_sort(struct lb_row_index *ix, struct lb_err *err)
{
    (void)err;
    if (ix->n)
        qsort(ix->key, ix->n, sizeof *ix->key, by_key);
    /* The first of a group is its longest, and its rank among the groups' first ones is the group's. */
    for (size_t i = 0; i < ix->n;) {
        uint64_t group = ix->key[i].at, rank = ix->key[i].what;
        for (; i < ix->n && ix->key[i].at == group; i++)
            ix->key[i].at = rank;
    }
    if (ix->n)
        qsort(ix->key, ix->n, sizeof *ix->key, by_key);
    for (size_t i = 0; i < ix->n; i++)
        ix->key[i] = ix->ref[ix->key[i].what & UINT32_MAX];
    lb_mem_free(ix->ref);
    ix->ref = ix->key;
    ix->key = NULL;
    return LB_OK;
}

/* ---- reading ---- */

static struct input *input_of(struct lb_row_index *ix, uint64_t at)
{
    size_t lo = 0, hi = ix->n_input; /* the last one that begins at or before `at`; empty ones hold no row */
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (ix->input[mid].begin <= at)
            lo = mid;
        else
            hi = mid;
    }
    return &ix->input[lo];
}

/* The one that was used least recently makes room. */
static void close_one(struct lb_row_index *ix)
{
    struct input *oldest = NULL;
    for (size_t i = 0; i < ix->n_input; i++)
        if (ix->input[i].fd >= 0 && (!oldest || ix->input[i].used < oldest->used))
            oldest = &ix->input[i];
    close(oldest->fd);
    oldest->fd = -1;
    ix->n_open--;
}

static enum lb_status open_input(struct lb_row_index *ix, struct input *in, struct lb_err *err)
{
    in->used = ix->clock++;
    if (in->fd >= 0)
        return LB_OK;
    if (ix->n_open == MAX_OPEN)
        close_one(ix);
    in->fd = open(in->path, O_RDONLY | O_CLOEXEC);
    if (in->fd < 0)
        return lb_err_set(err, LB_E_INPUT, "cannot open '%s' again: %s", in->path, strerror(errno));
    ix->n_open++;
    return LB_OK;
}

static bool same_file(const struct input *in)
{
    struct stat st;
    return fstat(in->fd, &st) == 0 && st.st_dev == in->dev && st.st_ino == in->ino && st.st_size == in->size &&
           st.st_mtim.tv_sec == in->changed.tv_sec && st.st_mtim.tv_nsec == in->changed.tv_nsec;
}

/* Bytes at .. at + n - 1 of the file, and more behind them where the row before ended close by. */
static enum lb_status fill(struct lb_row_index *ix, struct input *in, uint64_t at, size_t n, struct lb_err *err)
{
    bool follows = ix->buf_of == in && at >= ix->last_end && at - ix->last_end <= MAX_SKIP;
    size_t want = follows && n < BLOCK_BYTES ? BLOCK_BYTES : n, got = 0;
    LB_TRY(open_input(ix, in, err));
    LB_TRY(lb_mem_grow((void **)&ix->buf, &ix->cap, want, 1, "a line of input", err));
    ix->buf_of = NULL;
    while (got < n) {
        ssize_t r = pread(in->fd, ix->buf + got, want - got, (off_t)(at + got));
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return lb_err_set(err, LB_E_INPUT, "cannot read '%s': %s", in->path, strerror(errno));
        if (r == 0)
            break;
        got += (size_t)r;
    }
    if (got < n || !same_file(in))
        return changed(in, at, err);
    ix->buf_of = in;
    ix->buf_at = at;
    ix->buf_n = got;
    return LB_OK;
}

enum lb_status lb_row_index_next(struct lb_row_index *ix, struct lb_line *out, struct lb_err *err)
{
    *out = (struct lb_line){0};
    if (ix->next == ix->n)
        return LB_OK;
    const struct ref r = ix->ref[ix->next++];
    struct input *in = input_of(ix, r.at & (MAX_AT - 1));
    uint64_t at = (r.at & (MAX_AT - 1)) - in->begin;
    size_t len = (size_t)(r.what & (((uint64_t)1 << LEN_BITS) - 1));
    bool there = ix->buf_of == in && at >= ix->buf_at && at + len <= ix->buf_at + ix->buf_n;
    if (!there)
        LB_TRY(fill(ix, in, at, len, err));
    ix->last_end = at + len;
    const char *data = ix->buf + (at - ix->buf_at);
    if (lb_hash64(data, len, 0) >> AT_BITS != r.at >> AT_BITS)
        return changed(in, at, err);
    *out = (struct lb_line){.data = data,
                            .len = len,
                            .index = (int64_t)(r.what >> LEN_BITS),
                            .file = in->path,
                            .input = (size_t)(in - ix->input),
                            .too_long = len > LB_LINE_MAX_BYTES};
    return LB_OK;
}
