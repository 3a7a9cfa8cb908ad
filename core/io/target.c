#define _GNU_SOURCE
#include "core/io/target.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/mem.h"

#define MAX_LINKS 40 /* as many as Linux follows */

/* The descriptor that a path names, or -1. Following such a path's links instead would lead to the file behind the
 * descriptor, and away from its position. */
static int named_fd(const char *path)
{
    static const char *const folders[] = {"/dev/fd/", "/proc/self/fd/"};
    if (strcmp(path, "/dev/stdout") == 0)
        return STDOUT_FILENO;
    if (strcmp(path, "/dev/stderr") == 0)
        return STDERR_FILENO;
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(folders[i]);
        if (strncmp(path, folders[i], n) != 0 || path[n] < '0' || path[n] > '9')
            continue;
        char *end;
        long fd = strtol(path + n, &end, 10);
        if (!*end && fd <= INT_MAX)
            return (int)fd;
    }
    return -1;
}

/* The folder of a path in new memory. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return lb_mem_strdup(".");
    return lb_mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

/* Where a link leads, in new memory; *failed errno. */
static char *follow(const char *path, int *failed)
{
    char to[PATH_MAX];
    ssize_t n = readlink(path, to, sizeof to - 1);
    *failed = n < 0 ? errno : ENOMEM;
    if (n < 0)
        return NULL;
    to[n] = 0;
    if (to[0] == '/')
        return lb_mem_strdup(to);
    char *dir = folder_of(path);
    char *joined = dir ? lb_path_join(dir, to) : NULL;
    lb_mem_free(dir);
    return joined;
}

static enum lb_status resolve(struct lb_target *t, const char *path, struct lb_err *err)
{
    struct stat st;
    for (int i = 0; i <= MAX_LINKS; i++) {
        t->fd = named_fd(t->path);
        if (t->fd >= 0)
            return LB_OK;
        if (lstat(t->path, &st) != 0) {
            if (errno != ENOENT)
                return lb_err_set(err, LB_E_USAGE, "cannot write '%s': %s", path, strerror(errno));
            t->regular = true;
            return LB_OK;
        }
        if (!S_ISLNK(st.st_mode)) {
            t->exists = true;
            t->regular = S_ISREG(st.st_mode);
            if (S_ISDIR(st.st_mode))
                return lb_err_set(err, LB_E_USAGE, "cannot write '%s': it is a directory", path);
            return LB_OK;
        }
        int failed;
        char *next = follow(t->path, &failed);
        if (!next)
            return lb_err_set(err, LB_E_DEVICE, "cannot follow '%s': %s", path, strerror(failed));
        lb_mem_free(t->path);
        t->path = next;
    }
    return lb_err_set(err, LB_E_USAGE, "cannot write '%s': too many links", path);
}

enum lb_status lb_target_resolve(struct lb_target *t, const char *path, struct lb_err *err)
{
    *t = (struct lb_target){.fd = -1};
    if (!path || strcmp(path, "-") == 0) {
        t->fd = STDOUT_FILENO;
        return LB_OK;
    }
    size_t n = strlen(path);
    if (n == 0 || path[n - 1] == '/')
        return lb_err_set(err, LB_E_USAGE, "cannot write '%s': it names no file", path);
    t->path = lb_mem_strdup(path);
    enum lb_status status = t->path ? resolve(t, path, err) : lb_err_memory(err, "a path", n);
    if (status != LB_OK)
        lb_target_release(t);
    return status;
}

void lb_target_release(struct lb_target *t)
{
    lb_mem_free(t->path);
    *t = (struct lb_target){.fd = -1};
}

const char *lb_target_name(const struct lb_target *t)
{
    return t->path ? t->path : "stdout";
}

enum lb_status lb_target_writable(const struct lb_target *t, struct lb_err *err)
{
    const char *name = lb_target_name(t);
    if (t->fd >= 0) {
        int flags = fcntl(t->fd, F_GETFL);
        if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
            return lb_err_set(err, LB_E_DEVICE, "cannot write '%s': %s", name,
                              flags < 0 ? strerror(errno) : "it is open for reading alone");
        return LB_OK;
    }
    if (!t->regular) {
        if (access(t->path, W_OK) != 0)
            return lb_err_set(err, LB_E_DEVICE, "cannot write '%s': %s", name, strerror(errno));
        return LB_OK;
    }
    char *dir = folder_of(t->path);
    enum lb_status status = LB_OK;
    if (!dir)
        return lb_err_memory(err, "a path", strlen(t->path));
    if (!lb_file_is_dir(dir))
        status = lb_err_set(err, LB_E_USAGE, "cannot write '%s': there is no folder '%s'", name, dir);
    else if (access(dir, W_OK | X_OK) != 0)
        status = lb_err_set(err, LB_E_DEVICE, "cannot write into '%s': %s", dir, strerror(errno));
    lb_mem_free(dir);
    return status;
}

enum lb_status lb_target_open(const struct lb_target *t, int *fd, struct lb_err *err)
{
    *fd = t->fd >= 0 ? fcntl(t->fd, F_DUPFD_CLOEXEC, 3) : open(t->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (*fd < 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot open '%s': %s", lb_target_name(t), strerror(errno));
    return LB_OK;
}

char *lb_target_beside(const char *path, const char *suffix)
{
    size_t n = strlen(path) + strlen(suffix) + 1;
    char *out = lb_mem_new(n, 1);
    if (out)
        snprintf(out, n, "%s%s", path, suffix);
    return out;
}

enum lb_status lb_target_create(const char *path, const char *tmp, int *fd, struct lb_err *err)
{
    struct stat st;
    *fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (*fd < 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot create '%s': %s", tmp, strerror(errno));
    if (stat(path, &st) == 0)
        (void)fchmod(*fd, st.st_mode & 0777); /* a courtesy: file systems without rights refuse it */
    return LB_OK;
}

enum lb_status lb_target_sync_dir(const char *path, struct lb_err *err)
{
    char *dir = folder_of(path);
    if (!dir)
        return lb_err_memory(err, "a path", strlen(path));
    enum lb_status status = LB_OK;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* EINVAL: a file system whose folders need no sync; EACCES: a folder that may be written but not read. */
    if ((fd < 0 && errno != EACCES) || (fd >= 0 && fsync(fd) != 0 && errno != EINVAL))
        status = lb_err_set(err, LB_E_DEVICE, "cannot sync '%s': %s", dir, strerror(errno));
    if (fd >= 0)
        close(fd);
    lb_mem_free(dir);
    return status;
}

bool lb_target_is_input(const char *path, int fd, const char *input)
{
    struct stat a, b;
    if ((fd >= 0 ? fstat(fd, &a) : stat(path, &a)) != 0 || !S_ISREG(a.st_mode))
        return false;
    if ((strcmp(input, "-") == 0 ? fstat(STDIN_FILENO, &b) : stat(input, &b)) != 0)
        return false;
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}
