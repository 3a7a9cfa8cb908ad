#define _GNU_SOURCE
#include "core/dist/share.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

/* Twice rounded up, so that data can begin at a huge page. */
static enum lb_status map_private(struct lb_shared *mem, struct lb_err *err)
{
    if (mem->bytes > SIZE_MAX / 2 - HUGE_BYTES)
        return lb_err_memory(err, "weights", mem->bytes);
    mem->map_bytes = (mem->bytes + 2 * HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    mem->map = mmap(NULL, mem->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem->map == MAP_FAILED) {
        mem->map = NULL;
        return lb_err_memory(err, "weights", mem->bytes);
    }
    madvise(mem->map, mem->map_bytes, MADV_HUGEPAGE); /* advice only */
    mem->data = (void *)(((uintptr_t)mem->map + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    mem->owner = mem->is_alone = true;
    return LB_OK;
}

enum lb_status lb_world_share(struct lb_world *w, uint64_t key, size_t bytes, struct lb_shared *mem, struct lb_err *err)
{
    (void)key;
    *mem = (struct lb_shared){.bytes = bytes, .owner_rank = w->rank};
    return map_private(mem, err);
}

void lb_shared_ready(struct lb_world *w, struct lb_shared *mem, bool ok)
{
    (void)w;
    (void)mem;
    (void)ok;
}

enum lb_status lb_shared_wait(struct lb_world *w, struct lb_shared *mem, struct lb_err *err)
{
    (void)mem;
    return lb_world_failed(w, err);
}

void lb_shared_release(struct lb_shared *mem)
{
    if (mem->map)
        munmap(mem->map, mem->map_bytes);
    *mem = (struct lb_shared){0};
}
