#define _GNU_SOURCE
#include "core/dist/share.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/dist/cpuset.h"
#include "core/dist/memfd.h"
#include "core/dist/world_impl.h"

#define HUGE_BYTES ((size_t)2 << 20)

enum { FILLING, FILLED, FAILED };

/* What every rank asks for, and what came of it. */
struct wish {
    uint64_t key, bytes;
    int node, fd, ok;
};

/* The word on which ranks wait for the owner lies behind the data. */
static _Atomic uint32_t *flag_of(const struct lb_shared *mem)
{
    return (_Atomic uint32_t *)((char *)mem->map + mem->map_bytes - sizeof(uint32_t));
}

static enum lb_status map_private(struct lb_shared *mem, struct lb_err *err)
{
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

static bool same(const struct lb_world_impl *v, const struct wish *all, int a, int b)
{
    return all[a].key != 0 && all[a].key == all[b].key && all[a].bytes == all[b].bytes && all[a].node == all[b].node &&
           v->peer[a].host_index == v->peer[b].host_index;
}

/* One step in which owners make memory, one in which the others open it, one in which all know where it failed. */
static enum lb_status map_shared(struct lb_world_impl *v, struct lb_shared *mem, struct wish *all, struct lb_err *err)
{
    struct lb_world *w = &v->world;
    struct wish mine = all[w->rank];
    struct lb_err why = LB_ERR_INIT;
    int fd = -1, n_same = 0, owner = w->rank;
    for (int r = w->size - 1; r >= 0; r--) {
        if (!same(v, all, r, w->rank))
            continue;
        n_same++;
        owner = r;
    }
    mem->map_bytes = (mem->bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES + 4096;
    mine.ok = n_same > 1;
    if (mine.ok && owner == w->rank)
        mine.ok = lb_memfd_make(mem->map_bytes, HUGE_BYTES, &mem->map, &fd, &why) == LB_OK;
    mine.fd = fd;
    enum lb_status status = lb_world_share_out(v, &mine, sizeof mine, all, err);
    if (status == LB_OK && mine.ok && owner != w->rank)
        mine.ok = all[owner].ok && lb_memfd_open(v->peer[owner].pid, all[owner].fd, mem->map_bytes, HUGE_BYTES,
                                                 &mem->map, &why) == LB_OK;
    if (status == LB_OK)
        status = lb_world_share_out(v, &mine, sizeof mine, all, err);
    if (fd >= 0)
        close(fd);
    if (status != LB_OK)
        return status;
    mem->data = mem->map;
    mem->owner = owner == w->rank;
    mem->owner_rank = owner;
    if (mine.ok)
        madvise(mem->map, mem->map_bytes - 4096, MADV_HUGEPAGE); /* advice only */
    else if (n_same > 1)
        lb_log_put(v->spec.log, LB_LOG_WARN, "rank %d keeps weights of its own: %s", w->rank,
                   why.status ? why.text : "the first rank with them has no memory to share");
    return LB_OK;
}

enum lb_status lb_world_share(struct lb_world *w, uint64_t key, size_t bytes, struct lb_shared *mem, struct lb_err *err)
{
    struct lb_world_impl *v = w->impl;
    *mem = (struct lb_shared){.bytes = bytes, .owner_rank = w->rank};
    bool is_absurd = bytes > SIZE_MAX / 4;
    if (w->size > 1) {
        struct wish mine = {.key = is_absurd ? 0 : key, .bytes = bytes, .node = lb_cpuset_node(), .fd = -1};
        struct wish *all = lb_mem_new((size_t)w->size, sizeof *all);
        enum lb_status status = all ? LB_OK : lb_err_memory(err, "the ranks", (unsigned)w->size);
        status = lb_world_agree(w, status, err);
        if (status == LB_OK)
            status = lb_world_share_out(v, &mine, sizeof mine, all, err);
        if (status == LB_OK)
            status = map_shared(v, mem, all, err);
        if (status != LB_OK) {
            lb_mem_free(all);
            lb_shared_release(mem);
            return status;
        }
        lb_mem_free(all);
    }
    if (mem->map)
        return LB_OK;
    mem->owner_rank = w->rank;
    return is_absurd ? lb_err_memory(err, "weights", bytes) : map_private(mem, err);
}

void lb_shared_ready(struct lb_world *w, struct lb_shared *mem, bool ok)
{
    (void)w;
    if (mem->is_alone || !mem->owner || !mem->map)
        return;
    _Atomic uint32_t *flag = flag_of(mem);
    atomic_store(flag, ok ? FILLED : FAILED);
    syscall(SYS_futex, flag, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

enum lb_status lb_shared_wait(struct lb_world *w, struct lb_shared *mem, struct lb_err *err)
{
    static const struct timespec look_up = {0, 20000000};
    if (mem->is_alone || mem->owner)
        return LB_OK;
    _Atomic uint32_t *flag = flag_of(mem);
    uint32_t seen;
    while ((seen = atomic_load(flag)) == FILLING) {
        LB_TRY(lb_world_failed(w, err));
        syscall(SYS_futex, flag, FUTEX_WAIT, seen, &look_up, NULL, 0);
    }
    if (seen == FILLED)
        return LB_OK;
    return lb_err_set(err, LB_E_DEVICE, "rank %d could not load the weights that this rank shares with it",
                      mem->owner_rank);
}

void lb_shared_release(struct lb_shared *mem)
{
    if (mem->map)
        munmap(mem->map, mem->map_bytes);
    *mem = (struct lb_shared){0};
}
