#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/io/journal.h"
#include "core/io/jsonl_read.h"
#include "core/io/target.h"

#define BLOCK_BYTES ((size_t)1 << 20)

struct reopening {
    const char *out, *tmp;
    const uint64_t *hash; /* [n_row] */
    size_t n_row;
    int64_t n_shard;
    int fd;
    struct lb_str text; /* not written yet */
};

static enum lb_status write_text(struct reopening *r, struct lb_err *err)
{
    if (r->text.failed)
        return lb_err_memory(err, "the output", r->text.len);
    LB_TRY(lb_file_write_all(r->fd, r->text.data, r->text.len, r->tmp, err));
    lb_str_clear(&r->text);
    return LB_OK;
}

static enum lb_status not_such(const struct reopening *r, int64_t number, struct lb_err *err)
{
    return lb_err_set(err, LB_E_USAGE, "line %lld of '%s' is no row of this run: replace the file with --overwrite",
                      (long long)number, r->out);
}

static enum lb_status copy_lines(struct reopening *r, struct lb_lines *lines, struct lb_err *err)
{
    for (;;) {
        struct lb_line line;
        struct lb_outcome o;
        bool ok;
        LB_TRY(lb_lines_next(lines, &line, err));
        if (!line.data)
            return write_text(r, err);
        LB_TRY(lb_outcome_read(&o, line.data, line.len, &ok, err));
        o.index = o.index < 0 ? -1 : o.index / r->n_shard;
        if (!ok || line.too_long || o.index < 0 || (uint64_t)o.index >= r->n_row)
            return not_such(r, line.number, err);
        if (o.code != LB_ROW_OK)
            continue;
        lb_partial_put_record(&r->text, o.index, r->hash[o.index]);
        lb_str_put(&r->text, line.data, line.len);
        lb_str_putc(&r->text, '\n');
        if (r->text.len > BLOCK_BYTES || r->text.failed)
            LB_TRY(write_text(r, err));
    }
}

/* The file comes into being whole, under its name at last: until then OUT alone is there. */
static enum lb_status make(struct reopening *r, const char *partial, struct lb_err *err)
{
    struct lb_lines *lines = NULL;
    LB_TRY(lb_target_create(r->out, r->tmp, &r->fd, err));
    enum lb_status status = lb_lines_open(&lines, &r->out, 1, err);
    if (status == LB_OK)
        status = copy_lines(r, lines, err);
    lb_lines_close(lines);
    if (status == LB_OK && fsync(r->fd) != 0)
        status = lb_err_set(err, LB_E_DEVICE, "cannot write '%s': %s", r->tmp, strerror(errno));
    close(r->fd);
    if (status == LB_OK && rename(r->tmp, partial) != 0)
        status = lb_err_set(err, LB_E_DEVICE, "cannot make '%s': %s", partial, strerror(errno));
    if (status != LB_OK)
        (void)unlink(r->tmp);
    return status;
}

enum lb_status lb_journal_reopen(const char *path, const char *fingerprint, const uint64_t *hash, size_t n_row,
                                 int64_t n_shard, struct lb_err *err)
{
    char *partial = lb_target_beside(path, ".partial"), *tmp = lb_target_beside(path, ".tmp");
    struct reopening r = {.out = path, .tmp = tmp, .hash = hash, .n_row = n_row, .n_shard = n_shard, .fd = -1};
    lb_partial_put_head(&r.text, fingerprint);
    enum lb_status status = partial && tmp ? make(&r, partial, err) : lb_err_memory(err, "a path", strlen(path));
    lb_str_release(&r.text);
    lb_mem_free(partial);
    lb_mem_free(tmp);
    return status;
}
