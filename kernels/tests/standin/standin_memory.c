/* Memory of the devices, pinned memory, and for each part of both who wrote and read it last. */
#define _GNU_SOURCE
#include "kernels/tests/standin/standin_state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/tests/standin/standin_bridge.h"

#define PAGE 4096
#define PART 32 /* bytes whose use is told apart */
#define MAX_READERS 4
#define MAX_ALLOCATIONS 16384
#define POISON_BYTES 65536 /* of an allocation, at most: it becomes real memory by that */

struct part {
    uint32_t written, read[MAX_READERS];
    uint8_t writer, reader[MAX_READERS];
};

struct allocation {
    char *begin;
    size_t bytes, mapped;
    int device; /* -1: pinned */
    long number;
    struct part *part;
};

static struct allocation allocations[MAX_ALLOCATIONS];
static int n_allocation;
static uint16_t found_at[1024]; /* by the page of an address */
static long n_made;
static size_t used[STANDIN_MAX_DEVICE];
static int opened;

static bool has(const struct allocation *a, const void *p)
{
    return (const char *)p >= a->begin && (const char *)p < a->begin + a->bytes;
}

static struct allocation *find(const void *p)
{
    uint16_t *guess = &found_at[(uintptr_t)p / PAGE % (sizeof found_at / sizeof *found_at)];
    if (*guess < n_allocation && has(&allocations[*guess], p))
        return &allocations[*guess];
    for (int i = 0; i < n_allocation; i++) {
        if (!has(&allocations[i], p))
            continue;
        *guess = (uint16_t)i;
        return &allocations[i];
    }
    return NULL;
}

enum standin_place standin_place(const void *p, size_t bytes, int *device)
{
    const struct allocation *a = find(p);
    *device = a ? a->device : -1;
    if (!a)
        return bytes > 0 && find((const char *)p + bytes - 1) ? STANDIN_NOWHERE : STANDIN_PAGEABLE;
    if (bytes > (size_t)(a->begin + a->bytes - (const char *)p))
        return STANDIN_NOWHERE;
    return a->device < 0 ? STANDIN_PINNED : STANDIN_ON_DEVICE;
}

/* A key of the processor's, which opens and shuts all device memory for a thread in no time; -1: it has none, and the
 * pages are protected. */
static int key(void)
{
    static int found = -2;
    if (found == -2)
        found = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    return found;
}

static void protect(bool open)
{
    if (key() >= 0) {
        pkey_set(key(), open ? 0 : PKEY_DISABLE_ACCESS);
        return;
    }
    for (int i = 0; i < n_allocation; i++)
        if (allocations[i].device >= 0)
            mprotect(allocations[i].begin, allocations[i].mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static void lock_up(const struct allocation *a)
{
    if (key() >= 0)
        pkey_mprotect(a->begin, a->mapped, PROT_READ | PROT_WRITE, key());
    else if (!opened)
        mprotect(a->begin, a->mapped, PROT_NONE);
}

void standin_open(void)
{
    if (opened++ == 0)
        protect(true);
}

void standin_shut(void)
{
    if (--opened == 0)
        protect(false);
}

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static size_t whole(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static cudaError_t allocate(void **p, size_t bytes, int device)
{
    struct allocation a = {.bytes = bytes, .mapped = whole(bytes, PAGE), .device = device, .number = ++n_made};
    *p = NULL;
    if (bytes == 0)
        return cudaSuccess;
    if (n_allocation == MAX_ALLOCATIONS || bytes > SIZE_MAX / 2)
        return cudaErrorMemoryAllocation;
    if (device >= 0 && bytes > standin_device_bytes() - used[device])
        return cudaErrorMemoryAllocation;
    a.begin = map(a.mapped);
    a.part = map(whole(whole(bytes, PART) / PART * sizeof *a.part, PAGE));
    if (!a.begin || !a.part)
        abort();
    memset(a.begin, 0xff, bytes < POISON_BYTES ? bytes : POISON_BYTES);
    if (device >= 0) {
        used[device] += bytes;
        standin_bridge_add(a.begin, bytes);
        lock_up(&a);
    }
    allocations[n_allocation++] = a;
    *p = a.begin;
    return cudaSuccess;
}

static cudaError_t release(void *p, bool pinned)
{
    struct allocation *a = find(p);
    if (!p)
        return cudaSuccess;
    if (!a || a->begin != p || (a->device < 0) != pinned) {
        standin_report("%p is no such allocation", p);
        return cudaErrorInvalidValue;
    }
    for (int i = 0; standin_lost() && i < standin_n_device(); i++)
        standin_drain_device(i);
    a = find(p);
    if (pinned && standin_pending(a->begin, a->bytes))
        standin_report("pinned memory %ld is used by work that is still to be done", a->number);
    if (!pinned) { /* cudaFree waits for the device */
        standin_drain_device(a->device);
        a = find(p);
        used[a->device] -= a->bytes;
        standin_bridge_remove(a->begin);
    }
    munmap(a->begin, a->mapped);
    munmap(a->part, whole(whole(a->bytes, PART) / PART * sizeof *a->part, PAGE));
    *a = allocations[--n_allocation];
    return cudaSuccess;
}

void standin_memory_leaks(void)
{
    for (int i = 0; i < n_allocation; i++)
        standin_report("%zu bytes of %s memory (allocation %ld) are not freed", allocations[i].bytes,
                       allocations[i].device < 0 ? "pinned" : "device", allocations[i].number);
}

/* ---- who touched what ---- */

/* Of each kind of complaint, one an operation. */
static bool is_new(int kind)
{
    static struct {
        int id;
        uint32_t t;
    } told[2];
    if (told[kind].id == standin_now.stream->id && told[kind].t == standin_now.t)
        return false;
    told[kind].id = standin_now.stream->id;
    told[kind].t = standin_now.t;
    return true;
}

static void race(const struct allocation *a, size_t i, bool store, int id, uint32_t t)
{
    if (is_new(0))
        standin_report("%s %s bytes at %zu of allocation %ld (%s, %zu bytes), which %s of another stream uses, and no "
                       "event orders them",
                       standin_now.op->name, store ? "writes" : "reads", i * PART, a->number,
                       a->device < 0 ? "pinned" : "device", a->bytes, standin_name_of(id, t));
}

static bool is_before(int id, uint32_t t)
{
    return t == 0 || id == standin_now.stream->id || standin_now.stream->clock.t[id] >= t;
}

static void note_read(struct part *p)
{
    int at = 0;
    for (int r = MAX_READERS - 1; r >= 0; r--)
        if (is_before(p->reader[r], p->read[r]))
            at = r;
    for (int r = 0; r < MAX_READERS; r++)
        if (p->read[r] && p->reader[r] == standin_now.stream->id)
            at = r;
    p->reader[at] = (uint8_t)standin_now.stream->id;
    p->read[at] = standin_now.t;
}

static void touch_part(struct allocation *a, size_t i, bool store)
{
    struct part *p = &a->part[i];
    int me = standin_now.stream->id;
    if (p->written == standin_now.t && p->writer == me)
        return;
    if (!store && p->read[0] == standin_now.t && p->reader[0] == me) /* by this operation too */
        return;
    if (!is_before(p->writer, p->written))
        race(a, i, store, p->writer, p->written);
    if (!store) {
        if (p->written == 0 && a->device >= 0 && !standin_has_failed() && is_new(1))
            standin_report("%s reads bytes at %zu of allocation %ld (%zu bytes), which nothing has written",
                           standin_now.op->name, i * PART, a->number, a->bytes);
        note_read(p);
        return;
    }
    for (int r = 0; r < MAX_READERS; r++) {
        if (!is_before(p->reader[r], p->read[r]))
            race(a, i, store, p->reader[r], p->read[r]);
        p->read[r] = 0;
    }
    p->writer = (uint8_t)me;
    p->written = standin_now.t;
}

void standin_touch(const void *at, size_t bytes, bool store)
{
    struct allocation *a = bytes && standin_now.stream ? find(at) : NULL;
    if (!a)
        return;
    if (a->device >= 0 && a->device != standin_now.stream->device)
        standin_report("%s of device %d touches memory of device %d", standin_now.op->name, standin_now.stream->device,
                       a->device);
    size_t begin = (size_t)((const char *)at - a->begin), end = begin + bytes < a->bytes ? begin + bytes : a->bytes;
    for (size_t i = begin / PART; i * PART < end; i++)
        touch_part(a, i, store);
}

/* ---- the runtime's functions ---- */

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    cudaError_t e = standin_enter("cudaMalloc");
    if (!standin_may_touch_all("cudaMalloc"))
        e = cudaErrorStreamCaptureUnsupported;
    return standin_leave(e ? e : allocate(p, bytes, standin_device()));
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    cudaError_t e = standin_enter("cudaMallocHost");
    if (!standin_may_touch_all("cudaMallocHost"))
        e = cudaErrorStreamCaptureUnsupported;
    return standin_leave(e ? e : allocate(p, bytes, -1));
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    cudaError_t e = standin_enter("cudaMallocHost");
    if (flags)
        standin_report("flags %u are not modeled", flags);
    return standin_leave(e ? e : allocate(p, bytes, -1));
}

cudaError_t cudaFree(void *p)
{
    standin_may_touch_all("cudaFree");
    cudaError_t e = standin_enter("cudaFree"), freed = release(p, false);
    return standin_leave(e ? e : freed);
}

cudaError_t cudaFreeHost(void *p)
{
    standin_may_touch_all("cudaFreeHost");
    cudaError_t e = standin_enter("cudaFreeHost"), freed = release(p, true);
    return standin_leave(e ? e : freed);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    cudaError_t e = standin_enter("cudaMemGetInfo");
    if (!e) {
        *total = standin_device_bytes();
        *free_bytes = *total - used[standin_device()];
    }
    return standin_leave(e);
}
