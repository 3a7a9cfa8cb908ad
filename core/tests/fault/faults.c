#define _GNU_SOURCE
#include "core/tests/fault/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int armed = N_FAULT;
static atomic_long count, fails_at;
static atomic_bool fired, torn;

const char *fault_name(enum fault f)
{
    static const char *const names[N_FAULT] = {"memory", "write", "full disk", "sync",  "rename",
                                               "read",   "map",   "open",      "thread"};
    return names[f];
}

void fault_arm(enum fault f, long n)
{
    atomic_store(&count, 0);
    atomic_store(&fails_at, n);
    atomic_store(&fired, false);
    atomic_store(&torn, false);
    atomic_store(&armed, (int)f);
}

bool fault_disarm(void)
{
    atomic_store(&armed, N_FAULT);
    return atomic_load(&fired);
}

static bool fails(enum fault f)
{
    if (atomic_load(&armed) != (int)f)
        return false;
    long n = atomic_fetch_add(&count, 1) + 1, at = atomic_load(&fails_at);
    if (n != at && !(f == F_FULL && n > at))
        return false;
    atomic_store(&fired, true);
    return true;
}

#define WRAP(type, name, ...)        \
    type __real_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__)

#define FAIL_WITH(f, number, value) \
    if (fails(f)) {                 \
        errno = (number);           \
        return (value);             \
    }

WRAP(void *, malloc, size_t n)
{
    FAIL_WITH(F_MEMORY, ENOMEM, NULL)
    return __real_malloc(n);
}

WRAP(void *, calloc, size_t n, size_t size)
{
    FAIL_WITH(F_MEMORY, ENOMEM, NULL)
    return __real_calloc(n, size);
}

WRAP(void *, realloc, void *p, size_t size)
{
    FAIL_WITH(F_MEMORY, ENOMEM, NULL)
    return __real_realloc(p, size);
}

WRAP(ssize_t, write, int fd, const void *data, size_t n)
{
    if (atomic_exchange(&torn, false) || fails(F_FULL)) {
        errno = ENOSPC;
        return -1;
    }
    if (!fails(F_WRITE))
        return __real_write(fd, data, n);
    if (atomic_load(&fails_at) % 2 == 0 && n > 1) {
        atomic_store(&torn, true);
        return __real_write(fd, data, n / 2);
    }
    errno = ENOSPC;
    return -1;
}

WRAP(int, fsync, int fd)
{
    (void)fd; /* a disk takes its time, and no test loses its power */
    FAIL_WITH(F_SYNC, EIO, -1)
    return 0;
}

WRAP(int, fdatasync, int fd)
{
    (void)fd;
    FAIL_WITH(F_SYNC, EIO, -1)
    return 0;
}

WRAP(int, rename, const char *from, const char *to)
{
    FAIL_WITH(F_RENAME, EACCES, -1)
    return __real_rename(from, to);
}

WRAP(int, unlink, const char *path)
{
    FAIL_WITH(F_RENAME, EACCES, -1)
    return __real_unlink(path);
}

WRAP(int, ftruncate, int fd, off_t size)
{
    FAIL_WITH(F_RENAME, EIO, -1)
    return __real_ftruncate(fd, size);
}

WRAP(ssize_t, read, int fd, void *buf, size_t n)
{
    FAIL_WITH(F_READ, EIO, -1)
    return __real_read(fd, buf, n);
}

WRAP(ssize_t, pread, int fd, void *buf, size_t n, off_t at)
{
    FAIL_WITH(F_READ, EIO, -1)
    return __real_pread(fd, buf, n, at);
}

int __real_ferror(FILE *f);
int __wrap_ferror(FILE *f);
static _Thread_local bool read_failed;

WRAP(size_t, fread, void *buf, size_t size, size_t n, FILE *f)
{
    read_failed = fails(F_READ);
    if (read_failed) {
        errno = EIO;
        return 0;
    }
    return __real_fread(buf, size, n, f);
}

int __wrap_ferror(FILE *f)
{
    return read_failed || __real_ferror(f);
}

WRAP(void *, mmap, void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    FAIL_WITH(F_MAP, ENOMEM, MAP_FAILED)
    return __real_mmap(at, n, prot, flags, fd, offset);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int __wrap_open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    FAIL_WITH(F_OPEN, EMFILE, -1)
    return __real_open(path, flags, mode);
}

WRAP(FILE *, fopen, const char *path, const char *mode)
{
    FAIL_WITH(F_OPEN, EMFILE, NULL)
    return __real_fopen(path, mode);
}

WRAP(int, pthread_create, pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    if (fails(F_THREAD))
        return EAGAIN;
    return __real_pthread_create(thread, attr, run, arg);
}
