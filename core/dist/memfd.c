#define _GNU_SOURCE
#include "core/dist/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Huge pages need an aligned address, which mmap gives nobody: room is reserved and the file mapped into it. */
static void *map_aligned(int fd, size_t bytes, size_t align)
{
    if (align < 4096)
        return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *room = mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    uint8_t *at = (uint8_t *)(((uintptr_t)room + align - 1) & ~(uintptr_t)(align - 1));
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        munmap(room, bytes + align);
        return MAP_FAILED;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + page - 1) / page * page;
    if (at > room)
        munmap(room, (size_t)(at - room));
    if (room + bytes + align > at + used)
        munmap(at + used, (size_t)(room + bytes + align - (at + used)));
    return at;
}

enum lb_status lb_memfd_make(size_t bytes, size_t align, void **map, int *fd, struct lb_err *err)
{
    *map = NULL;
    *fd = memfd_create("llmbatch", MFD_CLOEXEC);
    if (*fd < 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot make shared memory: %s", strerror(errno));
    void *p = ftruncate(*fd, (off_t)bytes) == 0 ? map_aligned(*fd, bytes, align) : MAP_FAILED;
    if (p == MAP_FAILED) {
        lb_err_set(err, LB_E_DEVICE, "cannot map %zu bytes of shared memory: %s", bytes, strerror(errno));
        close(*fd);
        *fd = -1;
        return LB_E_DEVICE;
    }
    *map = p;
    return LB_OK;
}

enum lb_status lb_memfd_open(int pid, int fd, size_t bytes, size_t align, void **map, struct lb_err *err)
{
    *map = NULL;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    int own = open(path, O_RDWR | O_CLOEXEC);
    if (own < 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot open process %d's memory: %s", pid, strerror(errno));
    struct stat st;
    void *p = MAP_FAILED;
    if (fstat(own, &st) == 0 && st.st_size >= 0 && (size_t)st.st_size >= bytes)
        p = map_aligned(own, bytes, align);
    close(own);
    if (p == MAP_FAILED)
        return lb_err_set(err, LB_E_DEVICE, "cannot map process %d's memory of %zu bytes", pid, bytes);
    *map = p;
    return LB_OK;
}
