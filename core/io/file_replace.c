#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/io/journal.h"
#include "core/io/target.h"

static enum lb_status write_stream(const struct lb_target *t, const char *data, size_t n, struct lb_err *err)
{
    int fd;
    LB_TRY(lb_target_open(t, &fd, err));
    enum lb_status status = lb_file_write_all(fd, data, n, lb_target_name(t), err);
    close(fd);
    return status;
}

static enum lb_status replace(const char *path, const char *tmp, const char *data, size_t n, struct lb_err *err)
{
    int fd;
    LB_TRY(lb_target_create(path, tmp, &fd, err));
    enum lb_status status = lb_file_write_all(fd, data, n, path, err);
    if (status == LB_OK && fsync(fd) != 0)
        status = lb_err_set(err, LB_E_DEVICE, "cannot write '%s': %s", path, strerror(errno));
    close(fd);
    if (status == LB_OK && rename(tmp, path) != 0)
        status = lb_err_set(err, LB_E_DEVICE, "cannot make '%s': %s", path, strerror(errno));
    if (status != LB_OK) {
        (void)unlink(tmp);
        return status;
    }
    return lb_target_sync_dir(path, err);
}

enum lb_status lb_file_replace(const char *path, const char *data, size_t n, struct lb_err *err)
{
    struct lb_target t;
    LB_TRY(lb_target_resolve(&t, path, err));
    enum lb_status status;
    if (!t.regular) {
        status = write_stream(&t, data, n, err);
    } else {
        char *tmp = lb_target_beside(t.path, ".tmp");
        status = tmp ? replace(t.path, tmp, data, n, err) : lb_err_memory(err, "a path", strlen(t.path));
        lb_mem_free(tmp);
    }
    lb_target_release(&t);
    return status;
}
