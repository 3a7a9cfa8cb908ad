#define _GNU_SOURCE
#include "core/io/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/io/compress.h"
#include "core/io/facts.h"
#include "core/io/target.h"

#define SYNC_SECONDS 3

/* A row that waits for those before it. */
struct held {
    int64_t index;
    char *line; /* owned, with LF */
    size_t n;
};

struct lb_journal {
    struct lb_target target;
    bool completion_order, overwrite;
    const struct lb_log *log;
    /* a regular file */
    char *partial, *tmp;
    int fd;                 /* of partial, the only one: closing a second one would drop the lock */
    int64_t head, end;      /* bytes of partial: of line 1, and all that are whole */
    struct lb_place *place; /* [n_place] by index, or in order of completion */
    size_t n_place, cap_place;
    struct lb_str record;
    struct timespec synced;
    struct lb_taken taken;
    /* a stream */
    struct lb_sink *sink;
    struct held *held; /* [n_held] heap, lowest index first */
    size_t n_held, cap_held;
    int64_t next; /* index of the row that may go out */
};

static enum lb_status cannot(struct lb_err *err, const char *what, const char *path)
{
    return lb_err_set(err, LB_E_DEVICE, "cannot %s '%s': %s", what, path, strerror(errno));
}

static enum lb_status locked_by(const char *partial, const struct flock *lock, struct lb_err *err)
{
    char host[256] = "";
    if (gethostname(host, sizeof host - 1) != 0)
        host[0] = 0;
    if (lock->l_pid <= 0) /* a process of another host or container has no id here */
        return lb_err_set(err, LB_E_USAGE, "'%s' is being written by another run, not seen from host %s", partial,
                          host);
    return lb_err_set(err, LB_E_USAGE, "'%s' is being written by another run, process %ld on host %s", partial,
                      (long)lock->l_pid, host);
}

/* Refuses a partial file that another process has locked. */
static enum lb_status refuse_locked(const char *partial, struct lb_err *err)
{
    int fd = open(partial, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return LB_OK; /* opening it for real will say why */
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    bool locked = fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
    close(fd);
    return locked ? locked_by(partial, &lock, err) : LB_OK;
}

static enum lb_status refuse_input(const struct lb_journal_spec *spec, const char *path, int fd, const char *name,
                                   struct lb_err *err)
{
    for (size_t i = 0; i < spec->n_input; i++)
        if (lb_target_is_input(path, fd, spec->inputs[i]))
            return lb_err_set(err, LB_E_USAGE, "the output '%s' is also an input", name);
    return LB_OK;
}

/* Reads the fingerprint of a partial file that nobody has locked. */
static enum lb_status look_into(const char *partial, char **fingerprint, struct lb_err *err)
{
    struct lb_str text = {0};
    bool fresh;
    int64_t end;
    int fd = open(partial, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return cannot(err, "open", partial);
    enum lb_status status = lb_partial_head(fd, partial, &fresh, &text, &end, err);
    close(fd);
    if (status == LB_OK && !fresh && (*fingerprint = lb_mem_strdup(text.data)) == NULL)
        status = lb_err_memory(err, "a fingerprint", text.len);
    lb_str_release(&text);
    return status;
}

static enum lb_status check_regular(const struct lb_journal_spec *spec, const struct lb_target *t,
                                    struct lb_journal_found *found, struct lb_err *err)
{
    enum lb_status status;
    struct stat st;
    char *partial = lb_target_beside(t->path, ".partial"), *tmp = lb_target_beside(t->path, ".tmp");
    found->path = lb_mem_strdup(t->path);
    if (!partial || !tmp || !found->path)
        LB_TRY_OUT(status, lb_err_memory(err, "a path", strlen(t->path)));
    LB_TRY_OUT(status, refuse_input(spec, t->path, -1, t->path, err));
    LB_TRY_OUT(status, refuse_input(spec, partial, -1, partial, err));
    LB_TRY_OUT(status, refuse_input(spec, tmp, -1, tmp, err));
    found->out = t->exists;
    if (lstat(partial, &st) == 0) {
        LB_TRY_OUT(status, refuse_locked(partial, err));
        if (!spec->restart)
            LB_TRY_OUT(status, look_into(partial, &found->fingerprint, err));
    }
    status = LB_OK;
out:
    lb_mem_free(partial);
    lb_mem_free(tmp);
    return status;
}

static enum lb_status check_target(const struct lb_journal_spec *spec, const struct lb_target *t,
                                   struct lb_journal_found *found, struct lb_err *err)
{
    LB_TRY(lb_target_writable(t, err));
    if (t->regular)
        return check_regular(spec, t, found, err);
    return refuse_input(spec, t->path, t->fd, lb_target_name(t), err);
}

enum lb_status lb_journal_check(const struct lb_journal_spec *spec, struct lb_journal_found *found, struct lb_err *err)
{
    struct lb_target t;
    *found = (struct lb_journal_found){0};
    LB_TRY(lb_target_resolve(&t, spec->path, err));
    enum lb_status status = check_target(spec, &t, found, err);
    lb_target_release(&t);
    return status;
}

void lb_journal_found_release(struct lb_journal_found *found)
{
    lb_mem_free(found->path);
    lb_mem_free(found->fingerprint);
    *found = (struct lb_journal_found){0};
}

enum lb_status lb_journal_refuse(const char *path, struct lb_err *err)
{
    return lb_err_set(err, LB_E_USAGE, "'%s' exists: replace it with --overwrite", path);
}

static enum lb_status compare(const char *partial, const char *then, const char *now, struct lb_err *err)
{
    static const char *const none[] = {NULL};
    struct lb_str text = {0};
    enum lb_status status = lb_facts_differ(then, now, none, &text, err);
    if (status == LB_OK && text.len)
        status = lb_err_set(err, LB_E_USAGE,
                            "'%s' holds rows of a run with other settings: %s; discard them with --restart, or choose "
                            "another output",
                            partial, text.data);
    lb_str_release(&text);
    return status;
}

enum lb_status lb_journal_compare(const struct lb_journal_found *found, const char *now, struct lb_err *err)
{
    if (!found->fingerprint)
        return LB_OK;
    char *partial = lb_target_beside(found->path, ".partial");
    enum lb_status status =
        partial ? compare(partial, found->fingerprint, now, err) : lb_err_memory(err, "a path", strlen(found->path));
    lb_mem_free(partial);
    return status;
}

enum lb_status lb_journal_forget(const struct lb_journal_found *found, struct lb_err *err)
{
    if (!found->fingerprint)
        return LB_OK;
    char *partial = lb_target_beside(found->path, ".partial");
    if (!partial)
        return lb_err_memory(err, "a path", strlen(found->path));
    enum lb_status status = lb_target_sync_dir(partial, err); /* OUT's name first */
    if (status == LB_OK)
        status = unlink(partial) == 0 || errno == ENOENT ? LB_OK : cannot(err, "remove", partial);
    lb_mem_free(partial);
    return status;
}

/* Locks the open partial file. *gone: the run that held it has finished and removed it meanwhile. */
static enum lb_status lock_partial(struct lb_journal *j, bool *gone, struct lb_err *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat mine, there;
    *gone = false;
    if (fcntl(j->fd, F_SETLK, &lock) != 0) {
        if (errno == EACCES || errno == EAGAIN) {
            struct flock holder = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
            if (fcntl(j->fd, F_GETLK, &holder) != 0 || holder.l_type == F_UNLCK)
                holder.l_pid = 0;
            return locked_by(j->partial, &holder, err);
        }
        lb_log_put(j->log, LB_LOG_WARN, "cannot lock '%s' (%s): make sure that no second run writes it", j->partial,
                   strerror(errno));
    }
    if (fstat(j->fd, &mine) != 0)
        return cannot(err, "read", j->partial);
    if (!S_ISREG(mine.st_mode))
        return lb_err_set(err, LB_E_USAGE, "cannot write '%s': not a regular file", j->partial);
    *gone = lstat(j->partial, &there) != 0 || there.st_dev != mine.st_dev || there.st_ino != mine.st_ino;
    return LB_OK;
}

static enum lb_status open_partial(struct lb_journal *j, struct lb_err *err)
{
    bool gone;
    do {
        if (j->fd >= 0)
            close(j->fd);
        j->fd = open(j->partial, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
        if (j->fd < 0)
            return cannot(err, "create", j->partial);
        LB_TRY(lock_partial(j, &gone, err));
    } while (gone);
    return LB_OK;
}

static enum lb_status begin_partial(struct lb_journal *j, const char *fingerprint_json, struct lb_err *err)
{
    if (ftruncate(j->fd, 0) != 0)
        return cannot(err, "write", j->partial);
    lb_partial_put_head(&j->record, fingerprint_json);
    if (j->record.failed)
        return lb_err_memory(err, "the output", j->record.len);
    LB_TRY(lb_file_write_all(j->fd, j->record.data, j->record.len, j->partial, err));
    j->head = j->end = (int64_t)j->record.len;
    if (fsync(j->fd) != 0)
        return cannot(err, "write", j->partial);
    return lb_target_sync_dir(j->partial, err);
}

static int by_offset(const void *a, const void *b)
{
    const struct lb_place *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Makes the places, which are by row number, those of the rows in the order in which they finished. */
static void order_by_completion(struct lb_journal *j)
{
    size_t n = 0;
    for (size_t i = 0; i < j->n_place; i++)
        if (j->place[i].len >= 0)
            j->place[n++] = j->place[i];
    j->n_place = n;
    if (n)
        qsort(j->place, n, sizeof *j->place, by_offset);
}

static enum lb_status take_over(struct lb_journal *j, bool retry_errors, struct lb_err *err)
{
    struct lb_partial_scan s = {.path = j->partial, .log = j->log, .retry_errors = retry_errors, .begin = j->head};
    struct stat st;
    enum lb_status status = lb_partial_scan(j->fd, &s, err);
    j->place = s.place;
    j->n_place = s.n_place;
    j->cap_place = s.cap_place;
    j->taken = s.taken;
    j->end = s.end;
    if (status != LB_OK)
        return status;
    if (j->completion_order)
        order_by_completion(j);
    if (fstat(j->fd, &st) != 0)
        return cannot(err, "read", j->partial);
    if (st.st_size == j->end)
        return LB_OK;
    lb_log_put(j->log, LB_LOG_WARN,
               "the end of '%s' is torn: %" PRId64 " bytes are removed, and their row is run again", j->partial,
               (int64_t)st.st_size - j->end);
    return ftruncate(j->fd, j->end) == 0 && fsync(j->fd) == 0 ? LB_OK : cannot(err, "mend", j->partial);
}

static enum lb_status open_regular(struct lb_journal *j, const struct lb_journal_spec *spec,
                                   const char *fingerprint_json, struct lb_err *err)
{
    struct lb_str then = {0};
    struct stat st;
    bool fresh = spec->restart;
    j->partial = lb_target_beside(j->target.path, ".partial");
    j->tmp = lb_target_beside(j->target.path, ".tmp");
    if (!j->partial || !j->tmp)
        return lb_err_memory(err, "a path", strlen(j->target.path));
    LB_TRY(open_partial(j, err));
    (void)clock_gettime(CLOCK_MONOTONIC, &j->synced);
    enum lb_status status = fresh ? LB_OK : lb_partial_head(j->fd, j->partial, &fresh, &then, &j->head, err);
    if (status == LB_OK && fresh) {
        status = begin_partial(j, fingerprint_json, err);
    } else if (status == LB_OK) {
        status = compare(j->partial, then.data, fingerprint_json, err);
        if (status == LB_OK)
            status = take_over(j, spec->retry_errors, err);
    }
    /* Ours and without a row: the next start need not ask about it. */
    if (status != LB_OK && (fresh || (fstat(j->fd, &st) == 0 && st.st_size == 0)))
        (void)unlink(j->partial);
    lb_str_release(&then);
    return status;
}

static enum lb_status open_stream(struct lb_journal *j, struct lb_err *err)
{
    int fd;
    LB_TRY(lb_target_open(&j->target, &fd, err));
    return lb_sink_open(&j->sink, fd, lb_target_name(&j->target), err);
}

static void journal_free(struct lb_journal *j)
{
    if (j->fd >= 0)
        close(j->fd);
    for (size_t i = 0; i < j->n_held; i++)
        lb_mem_free(j->held[i].line);
    lb_mem_free(j->held);
    lb_mem_free(j->place);
    lb_taken_release(&j->taken);
    lb_str_release(&j->record);
    lb_mem_free(j->partial);
    lb_mem_free(j->tmp);
    lb_target_release(&j->target);
    lb_mem_free(j);
}

enum lb_status lb_journal_open(struct lb_journal **out, const struct lb_journal_spec *spec,
                               const char *fingerprint_json, struct lb_err *err)
{
    struct lb_journal_found found = {0};
    *out = NULL;
    struct lb_journal *j = lb_mem_new(1, sizeof *j);
    if (!j)
        return lb_err_memory(err, "the output", sizeof *j);
    j->fd = j->target.fd = -1;
    j->completion_order = spec->completion_order;
    j->overwrite = spec->overwrite;
    j->log = spec->log;
    enum lb_status status;
    LB_TRY_OUT(status, lb_target_resolve(&j->target, spec->path, err));
    LB_TRY_OUT(status, check_target(spec, &j->target, &found, err));
    if (found.out && !spec->overwrite)
        LB_TRY_OUT(status, lb_journal_refuse(found.path, err));
    LB_TRY_OUT(status, j->target.regular ? open_regular(j, spec, fingerprint_json, err) : open_stream(j, err));
    *out = j;
out:
    lb_journal_found_release(&found);
    if (status != LB_OK)
        journal_free(j);
    return status;
}

const struct lb_taken *lb_journal_taken(const struct lb_journal *j)
{
    return &j->taken;
}

bool lb_journal_regular(const struct lb_journal *j)
{
    return j->target.regular;
}

const char *lb_journal_path(const struct lb_journal *j)
{
    return j->target.path;
}

static enum lb_status sync_sometimes(struct lb_journal *j, struct lb_err *err)
{
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0 || now.tv_sec - j->synced.tv_sec < SYNC_SECONDS)
        return LB_OK;
    j->synced = now;
    return fdatasync(j->fd) == 0 ? LB_OK : cannot(err, "write", j->partial);
}

static enum lb_status remember(struct lb_journal *j, int64_t index, int64_t offset, size_t n, struct lb_err *err)
{
    size_t at = j->completion_order ? j->n_place : (size_t)index;
    LB_TRY(lb_mem_grow((void **)&j->place, &j->cap_place, at + 1, sizeof *j->place, "the places of rows", err));
    for (; j->n_place <= at; j->n_place++)
        j->place[j->n_place] = (struct lb_place){-1, -1};
    j->place[at] = (struct lb_place){offset, (int64_t)n};
    return LB_OK;
}

static enum lb_status put_regular(struct lb_journal *j, int64_t index, uint64_t line_hash, const char *line, size_t n,
                                  struct lb_err *err)
{
    lb_str_clear(&j->record);
    lb_partial_put_record(&j->record, index, line_hash);
    int64_t offset = j->end + (int64_t)j->record.len;
    lb_str_put(&j->record, line, n);
    lb_str_putc(&j->record, '\n');
    if (j->record.failed)
        return lb_err_memory(err, "an output row", n);
    if (lb_file_write_all(j->fd, j->record.data, j->record.len, j->partial, err) != LB_OK) {
        /* The part of the row that was written goes; the rows before it are whole. */
        if (ftruncate(j->fd, j->end) != 0)
            lb_log_put(j->log, LB_LOG_WARN, "the last row of '%s' is torn: %s", j->partial, strerror(errno));
        return err->status;
    }
    j->end += (int64_t)j->record.len;
    LB_TRY(remember(j, index, offset, n, err));
    return sync_sometimes(j, err);
}

static bool earlier(const struct lb_journal *j, size_t a, size_t b)
{
    return j->held[a].index < j->held[b].index;
}

static void swap_held(struct lb_journal *j, size_t a, size_t b)
{
    struct held h = j->held[a];
    j->held[a] = j->held[b];
    j->held[b] = h;
}

static enum lb_status hold(struct lb_journal *j, int64_t index, const char *line, size_t n, struct lb_err *err)
{
    LB_TRY(lb_mem_grow((void **)&j->held, &j->cap_held, j->n_held + 1, sizeof *j->held, "rows held back", err));
    char *copy = lb_mem_strndup(line, n);
    if (!copy)
        return lb_err_memory(err, "a row held back", n);
    size_t at = j->n_held++;
    j->held[at] = (struct held){index, copy, n};
    for (; at > 0 && earlier(j, at, (at - 1) / 2); at = (at - 1) / 2)
        swap_held(j, at, (at - 1) / 2);
    return LB_OK;
}

/* Takes the lowest row out of the heap. */
static struct held unhold(struct lb_journal *j)
{
    struct held top = j->held[0];
    j->held[0] = j->held[--j->n_held];
    for (size_t at = 0;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < j->n_held; child++)
            if (earlier(j, child, least))
                least = child;
        if (least == at)
            return top;
        swap_held(j, at, least);
        at = least;
    }
}

static enum lb_status write_line(struct lb_journal *j, const char *line, size_t n, struct lb_err *err)
{
    LB_TRY(lb_sink_write(j->sink, line, n, err));
    return lb_sink_write(j->sink, "\n", 1, err);
}

/* Writes the rows held back whose turn has come, or all of them. */
static enum lb_status release_held(struct lb_journal *j, bool all, struct lb_err *err)
{
    enum lb_status status = LB_OK;
    while (status == LB_OK && j->n_held && (all || j->held[0].index == j->next)) {
        struct held h = unhold(j);
        status = write_line(j, h.line, h.n, err);
        lb_mem_free(h.line);
        j->next++;
    }
    return status;
}

static enum lb_status put_stream(struct lb_journal *j, int64_t index, const char *line, size_t n, struct lb_err *err)
{
    if (!j->completion_order && index != j->next)
        return hold(j, index, line, n, err);
    LB_TRY(write_line(j, line, n, err));
    j->next++;
    if (!j->completion_order)
        LB_TRY(release_held(j, false, err));
    return lb_sink_flush(j->sink, err);
}

enum lb_status lb_journal_put(struct lb_journal *j, int64_t index, uint64_t line_hash, const char *line, size_t n,
                              bool *closed, struct lb_err *err)
{
    *closed = false;
    if (j->target.regular)
        return put_regular(j, index, line_hash, line, n, err);
    struct lb_err why = LB_ERR_INIT;
    enum lb_status status = put_stream(j, index, line, n, &why);
    *closed = lb_sink_errno(j->sink) == EPIPE;
    if (status == LB_OK || *closed)
        return LB_OK;
    return lb_err_set(err, status, "%s", why.text);
}

static enum lb_status read_place(struct lb_journal *j, const struct lb_place *p, struct lb_err *err)
{
    size_t n = (size_t)p->len + 1, got = 0;
    lb_str_clear(&j->record);
    LB_TRY(lb_mem_grow((void **)&j->record.data, &j->record.cap, n, 1, "an output row", err));
    while (got < n) {
        ssize_t r = pread(j->fd, j->record.data + got, n - got, p->offset + (int64_t)got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return cannot(err, "read", j->partial);
        if (r == 0)
            break;
        got += (size_t)r;
    }
    if (got != n || j->record.data[n - 1] != '\n')
        return lb_err_set(err, LB_E_DEVICE, "cannot read '%s': it was changed during the run", j->partial);
    return LB_OK;
}

static enum lb_status copy_rows(struct lb_journal *j, struct lb_sink *sink, struct lb_err *err)
{
    for (size_t i = 0; i < j->n_place; i++) {
        if (j->place[i].len < 0)
            return lb_err_set(err, LB_E_DEVICE, "row %zu was never written: '%s' is kept", i, j->partial);
        LB_TRY(read_place(j, &j->place[i], err));
        LB_TRY(lb_sink_write(sink, j->record.data, (size_t)j->place[i].len + 1, err));
    }
    return LB_OK;
}

static enum lb_status write_tmp(struct lb_journal *j, struct lb_err *err)
{
    int fd;
    struct lb_sink *sink;
    LB_TRY(lb_target_create(j->target.path, j->tmp, &fd, err));
    LB_TRY(lb_sink_open(&sink, fd, j->target.path, err));
    enum lb_status status = copy_rows(j, sink, err);
    enum lb_status closed = lb_sink_close(sink, status == LB_OK, err);
    return status != LB_OK ? status : closed;
}

/* OUT.partial goes last, so that at any moment either it or a whole OUT is on the disk. */
static enum lb_status make_out(struct lb_journal *j, enum lb_status (*before_rename)(void *ctx, struct lb_err *err),
                               void *ctx, bool *renamed, struct lb_err *err)
{
    const char *out = j->target.path;
    struct stat st;
    enum lb_status status = fdatasync(j->fd) == 0 ? LB_OK : cannot(err, "write", j->partial);
    if (status == LB_OK)
        status = write_tmp(j, err);
    if (status == LB_OK && before_rename)
        status = before_rename(ctx, err);
    if (status == LB_OK && !j->overwrite && lstat(out, &st) == 0)
        status =
            lb_err_set(err, LB_E_USAGE, "'%s' was made by somebody else during the run: '%s' is kept", out, j->partial);
    if (status == LB_OK && rename(j->tmp, out) != 0)
        status = cannot(err, "make", out);
    if (status != LB_OK) {
        (void)unlink(j->tmp);
        return status;
    }
    *renamed = true;
    LB_TRY(lb_target_sync_dir(out, err));
    return unlink(j->partial) == 0 ? LB_OK : cannot(err, "remove", j->partial);
}

static enum lb_status finish_stream(struct lb_journal *j, struct lb_err *err)
{
    struct lb_err why = LB_ERR_INIT;
    enum lb_status status = release_held(j, true, &why);
    errno = lb_sink_errno(j->sink);
    enum lb_status closed = lb_sink_close(j->sink, 0, &why);
    if (status == LB_OK)
        status = closed;
    if (status == LB_OK || errno == EPIPE)
        return LB_OK;
    return lb_err_set(err, status, "%s", why.text);
}

/* A file without rows is of no use to anybody. */
static enum lb_status keep_partial(struct lb_journal *j, struct lb_err *err)
{
    if (j->end == j->head && unlink(j->partial) == 0)
        return LB_OK;
    return fsync(j->fd) == 0 ? LB_OK : cannot(err, "write", j->partial);
}

enum lb_status lb_journal_finish(struct lb_journal *j, bool complete,
                                 enum lb_status (*before_rename)(void *ctx, struct lb_err *err), void *ctx, bool *made,
                                 struct lb_err *err)
{
    enum lb_status status;
    bool making = j->target.regular && complete, renamed = false;
    if (making)
        status = make_out(j, before_rename, ctx, &renamed, err);
    else if (j->target.regular)
        status = keep_partial(j, err);
    else
        status = finish_stream(j, err);
    if (status == LB_OK && !making && before_rename)
        status = before_rename(ctx, err);
    if (made)
        *made = renamed;
    journal_free(j);
    return status;
}
