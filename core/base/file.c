#define _GNU_SOURCE
#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"

enum lb_status lb_map_open(struct lb_map *m, const char *path, struct lb_err *err)
{
    *m = (struct lb_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused below, not waited for */
    if (fd < 0)
        return lb_err_set(err, LB_E_INPUT, "cannot open '%s': %s", path, strerror(errno));
    enum lb_status status = LB_OK;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        status = lb_err_set(err, LB_E_INPUT, "cannot read '%s': %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        status = lb_err_set(err, LB_E_INPUT, "cannot map '%s': not a regular file", path);
        goto out;
    }
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            status = lb_err_set(err, LB_E_INPUT, "cannot map '%s': %s", path, strerror(errno));
            goto out;
        }
        m->data = p;
        m->size_bytes = (size_t)st.st_size;
    }
out:
    close(fd);
    return status;
}

void lb_map_close(struct lb_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size_bytes);
    *m = (struct lb_map){0};
}

void lb_map_forget(const struct lb_map *m, const uint8_t *data, size_t n)
{
    uintptr_t base = (uintptr_t)m->data, begin = (uintptr_t)data, page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (!m->data || begin < base || begin - base > m->size_bytes || n > m->size_bytes - (begin - base))
        return;
    uintptr_t from = (begin + page - 1) / page * page, to = (begin + n) / page * page;
    if (from < to)
        (void)madvise((void *)from, to - from, MADV_DONTNEED); /* advice only: memory, not numbers */
}

enum lb_status lb_file_read(const char *path, size_t max_bytes, struct lb_str *out, struct lb_err *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return lb_err_set(err, LB_E_INPUT, "cannot open '%s': %s", path, strerror(errno));
    char block[65536];
    size_t n, total = 0;
    enum lb_status status = LB_OK;
    while ((n = fread(block, 1, sizeof block, f)) > 0) {
        total += n;
        if (total > max_bytes) {
            status = lb_err_set(err, LB_E_INPUT, "cannot read '%s': larger than %zu bytes", path, max_bytes);
            break;
        }
        lb_str_put(out, block, n);
    }
    if (status == LB_OK && ferror(f))
        status = lb_err_set(err, LB_E_INPUT, "cannot read '%s': %s", path, strerror(errno));
    if (status == LB_OK && out->failed)
        status = lb_err_memory(err, path, total);
    fclose(f);
    return status;
}

bool lb_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool lb_file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *lb_path_join(const char *dir, const char *name)
{
    size_t nd = strlen(dir), nn = strlen(name);
    char *p = lb_mem_new(nd + nn + 2, 1);
    if (!p)
        return NULL;
    snprintf(p, nd + nn + 2, "%s%s%s", dir, nd == 0 || dir[nd - 1] == '/' ? "" : "/", name);
    return p;
}

enum lb_status lb_file_write_all(int fd, const void *data, size_t n, const char *path, struct lb_err *err)
{
    const char *p = data;
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return lb_err_set(err, LB_E_DEVICE, "cannot write '%s': %s", path, strerror(errno));
        p += w;
        n -= (size_t)w;
    }
    return LB_OK;
}
