#define _GNU_SOURCE
#include "core/base/mem.h"

#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SMALL_BYTES ((size_t)4096) /* pages */
#define HUGE_BYTES ((size_t)2 << 20)

static _Thread_local uint64_t n_allocated;
static _Thread_local bool failed;

static void *noted(void *p)
{
    failed = failed || !p;
    return p;
}

/* Pieces are taken one behind another; when all are back it is whole again. */
static struct {
    pthread_mutex_t mutex;
    size_t used, n_out;
    _Alignas(16) unsigned char data[(size_t)1 << 18];
} reserve = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void *take_reserve(size_t n)
{
    void *p = NULL;
    pthread_mutex_lock(&reserve.mutex);
    if (n <= sizeof reserve.data - reserve.used) {
        p = reserve.data + reserve.used;
        n = (n + 15) & ~(size_t)15;
        reserve.used = n < sizeof reserve.data - reserve.used ? reserve.used + n : sizeof reserve.data;
        reserve.n_out++;
    }
    pthread_mutex_unlock(&reserve.mutex);
    return p;
}

void *lb_mem_get(size_t n)
{
    void *p = noted(malloc(n));
    return p ? p : take_reserve(n);
}

void lb_mem_give_back(void *p)
{
    uintptr_t at = (uintptr_t)p, begin = (uintptr_t)reserve.data;
    if (at < begin || at >= begin + sizeof reserve.data) {
        free(p);
        return;
    }
    pthread_mutex_lock(&reserve.mutex);
    if (--reserve.n_out == 0)
        reserve.used = 0;
    pthread_mutex_unlock(&reserve.mutex);
}

enum lb_status lb_mem_blame(enum lb_status status, const char *what, struct lb_err *err)
{
    bool memory = failed;
    failed = false;
    if (!memory || status == LB_E_DEVICE)
        return status;
    err->status = LB_OK;
    return lb_err_set(err, LB_E_DEVICE, "out of memory (%s)", what);
}

void *lb_mem_new(size_t n, size_t size)
{
    n_allocated++;
    if (size && n > SIZE_MAX / size) /* sanitizers end the program where calloc itself finds this */
        return NULL;
    return noted(calloc(n ? n : 1, size ? size : 1));
}

enum lb_status lb_mem_grow(void **data, size_t *cap, size_t need, size_t size, const char *what, struct lb_err *err)
{
    if (need <= *cap)
        return LB_OK;
    size_t want = *cap ? *cap : 16;
    while (want < need) {
        if (want > SIZE_MAX / 2)
            return lb_err_memory(err, what, need);
        want *= 2;
    }
    if (want > SIZE_MAX / size)
        return lb_err_memory(err, what, want);
    void *p = noted(realloc(*data, want * size));
    if (!p)
        return lb_err_memory(err, what, want * size);
    n_allocated++;
    *data = p;
    *cap = want;
    return LB_OK;
}

char *lb_mem_strndup(const char *text, size_t n)
{
    char *p = lb_mem_new(n + 1, 1);
    if (p)
        memcpy(p, text, n);
    return p;
}

char *lb_mem_strdup(const char *text)
{
    return lb_mem_strndup(text, strlen(text));
}

void lb_mem_free(void *p)
{
    free(p);
}

uint64_t lb_mem_count(void)
{
    return n_allocated;
}

static enum lb_status map_arena(struct lb_arena *a, size_t bytes, size_t unit, struct lb_err *err)
{
    *a = (struct lb_arena){0};
    if (bytes > SIZE_MAX - unit)
        return lb_err_memory(err, "an arena", bytes);
    bytes = bytes == 0 ? unit : (bytes + unit - 1) / unit * unit;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return lb_err_memory(err, "an arena", bytes);
    a->base = p;
    a->cap_bytes = bytes;
    return LB_OK;
}

enum lb_status lb_arena_init(struct lb_arena *a, size_t bytes, struct lb_err *err)
{
    if (bytes < HUGE_BYTES / 8 * 7)
        return lb_arena_init_plain(a, bytes, err);
    LB_TRY(map_arena(a, bytes, HUGE_BYTES, err));
    /* a last huge page that would be mostly empty is left to small ones */
    size_t rest = bytes % HUGE_BYTES, huge = rest > bytes / 8 || rest > HUGE_BYTES / 2 ? a->cap_bytes : bytes - rest;
    madvise(a->base + huge, a->cap_bytes - huge, MADV_NOHUGEPAGE);
    madvise(a->base, huge, MADV_HUGEPAGE); /* advice only: a kernel without huge pages is slower, not wrong */
    return LB_OK;
}

enum lb_status lb_arena_init_plain(struct lb_arena *a, size_t bytes, struct lb_err *err)
{
    LB_TRY(map_arena(a, bytes, SMALL_BYTES, err));
    madvise(a->base, a->cap_bytes, MADV_NOHUGEPAGE); /* some kernels give them to all */
    return LB_OK;
}

void lb_arena_trim(struct lb_arena *a)
{
    size_t used = (a->used_bytes + SMALL_BYTES - 1) / SMALL_BYTES * SMALL_BYTES;
    if (used < a->cap_bytes)
        madvise(a->base + used, a->cap_bytes - used, MADV_DONTNEED); /* advice only: memory, not numbers */
}

void lb_mem_trim(void)
{
    malloc_trim(0);
}

void lb_arena_release(struct lb_arena *a)
{
    if (a->base)
        munmap(a->base, a->cap_bytes);
    *a = (struct lb_arena){0};
}

void *lb_arena_take(struct lb_arena *a, size_t bytes)
{
    size_t at = (a->used_bytes + 63) & ~(size_t)63;
    if (at > a->cap_bytes || bytes > a->cap_bytes - at)
        return NULL;
    a->used_bytes = at + bytes;
    return a->base + at;
}
