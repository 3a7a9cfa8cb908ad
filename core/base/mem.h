/* Allocation with overflow checks, and arenas for memory that lives and dies together.
 *
 * lb_mem_new counts allocations of the calling thread, so that a test can prove that the forward thread stops
 * allocating after its first step. */
#ifndef CORE_BASE_MEM_H
#define CORE_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

/* Zeroed array of n elements of `size` bytes; NULL when memory or the multiplication overflows. lb_mem_free frees. */
void *lb_mem_new(size_t n, size_t size);

/* Grows an array to hold at least `need` elements (doubling; new part not zeroed). *cap is the capacity in elements.
 * Returns LB_OK or LB_E_DEVICE; on failure *data is unchanged. */
enum lb_status lb_mem_grow(void **data, size_t *cap, size_t need, size_t size, const char *what, struct lb_err *err);

char *lb_mem_strdup(const char *text); /* NULL without memory */
char *lb_mem_strndup(const char *text, size_t n);
void lb_mem_free(void *p);

/* malloc and free for libraries that take an allocator. jansson writes behind its buffers when one cannot grow (2.14,
 * lex_save ignores it): what malloc refuses comes from a reserve, and lb_mem_blame ends the work soon after. */
void *lb_mem_get(size_t n);
void lb_mem_give_back(void *p);

/* Libraries, jansson above all, do not always tell want of memory from bad data, or say nothing at all. So a piece of
 * work that must not be half done ends with this: when an allocation of the calling thread failed since the last call,
 * through this module, the result is "out of memory (WHAT)", whatever status was made of it; else it is `status`. */
enum lb_status lb_mem_blame(enum lb_status status, const char *what, struct lb_err *err);

/* Gives back to the kernel what has been freed: behind work that allocates much for a while, as loading does. */
void lb_mem_trim(void);

/* Allocations made by the calling thread through this module. */
uint64_t lb_mem_count(void);

/* One mapping of fixed size, zeroed, 64-byte aligned pieces, huge pages where the kernel allows them and they would be
 * filled. Memory is touched only when used, so a large arena costs address space alone. */
struct lb_arena {
    uint8_t *base;
    size_t cap_bytes, used_bytes;
};

enum lb_status lb_arena_init(struct lb_arena *a, size_t bytes, struct lb_err *err);
/* Without huge pages: for what is large and mostly not used. */
enum lb_status lb_arena_init_plain(struct lb_arena *a, size_t bytes, struct lb_err *err);
/* Gives back what a huge page holds beyond the pieces taken; nothing may have been written there. */
void lb_arena_trim(struct lb_arena *a);
void lb_arena_release(struct lb_arena *a);
void *lb_arena_take(struct lb_arena *a, size_t bytes); /* 64-byte aligned; NULL when it does not fit */

/* Bytes of memory that can be had without swapping: the least of MemAvailable and of what the limits of this process's
 * control group, and of those above it, leave when file caches are given back (versions 1 and 2). Below `root` stand
 * the kernel's files: tests make their own. */
size_t lb_mem_available(void);
size_t lb_mem_available_in(const char *root);

/* Most bytes that this program had in memory at a time; 0: not known. getrusage would count what the process held
 * before it became this program. */
size_t lb_mem_peak(void);

#endif
