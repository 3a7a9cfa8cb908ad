/* Memory of the model: known buffers, and for each part of shared memory who wrote and who read it last. */
#include "kernels/tests/simt/simt_state.h"

#include <stdlib.h>

#define MAX_BUFFERS 512
#define MAX_COPIES 32768 /* of a block, under way */
#define WORD 4           /* bytes */
#define HALF 2
#define VECTOR 16
#define PAGE 4096
#define ALWAYS_INLINE __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))

#define ATOMIC ((simt_stamp)1)        /* a write */
#define MANY ((simt_stamp)2)          /* a read: by others of the warp too, since its last barrier */
#define SPLIT ((simt_stamp)1 << 62)   /* a word's writer: its halves were visited by themselves */
#define PENDING ((simt_stamp)1 << 63) /* a word's writer: cp.async may still write */

struct buffer {
    const uint8_t *begin, *end;
    bool writable;
};

/* Visits to a word, or half of one: the last write, and of the reads since the block's last barrier one of the first
 * warp that read, its last. Between two barriers of a block a warp runs after the other: who writes while no other warp
 * has been there is of that first warp, and every other one races with it. SPLIT and PENDING are larger than any time:
 * the usual case is found by comparing with times alone. */
struct cell {
    simt_stamp writer, reader;
};

struct copy {
    uint8_t *to;
    const uint8_t *from;
    int bytes, from_bytes;
    int group, next; /* the thread's next one, or of the free ones */
};

/* What a thread has under way, oldest first. */
struct queue {
    int first, last, group;
};

void (*simt_saw)(const void *at, size_t bytes, bool store);

static buffer buffers[MAX_BUFFERS];
static int n_buffer;
static uint16_t found_at[1024]; /* by the page of an address: threads go back and forth between a few buffers */
static cell words[SIMT_MAX_SHARED / WORD];
static cell halves[SIMT_MAX_SHARED / HALF]; /* of words that are split */
alignas(VECTOR) static uint8_t shared[SIMT_MAX_SHARED];
static copy copies[MAX_COPIES];
static queue queues[SIMT_MAX_THREADS];
static int n_copy, free_copy; /* used so far in this block; -1: none came back yet */

void simt_add(const void *begin, size_t bytes, bool writable)
{
    if (n_buffer == MAX_BUFFERS)
        abort();
    buffers[n_buffer++] = {(const uint8_t *)begin, (const uint8_t *)begin + bytes, writable};
}

void simt_remove(const void *begin)
{
    for (int i = n_buffer - 1; i >= 0; i--) {
        if (buffers[i].begin != begin)
            continue;
        buffers[i] = buffers[--n_buffer];
        return;
    }
}

uint8_t *simt_shared(void)
{
    return shared;
}

static int thread_of(simt_stamp v)
{
    return (int)((v >> SIMT_THREAD_SHIFT) % SIMT_MAX_THREADS);
}

static simt_stamp time_of(simt_stamp v)
{
    return v >> SIMT_TIME_SHIFT;
}

static bool same_warp(simt_stamp a, simt_stamp b)
{
    return thread_of(a) / SIMT_LANES == thread_of(b) / SIMT_LANES;
}

/* Whether visit v is over for the thread that runs. */
static bool over(simt_stamp v)
{
    simt_stamp me = simt_now.stamp;
    return v < simt_the_block.barrier || (thread_of(v) == thread_of(me) && !(v & MANY)) ||
           (same_warp(v, me) && time_of(v) < time_of(me));
}

static void race(simt_stamp v, size_t at, const char *kind)
{
    simt_fail(SIMT_RACE, "%s byte %zu of shared memory, which thread %d used since the last barrier", kind, at,
              thread_of(v));
}

static NEVER_INLINE void check_reading(const cell *c, size_t at)
{
    if (c->writer < simt_the_block.begin)
        simt_fail(SIMT_UNWRITTEN, "reads byte %zu of shared memory, which this block has not written", at);
    if (!over(c->writer))
        race(c->writer, at, "reads");
}

/* Whether the last write was by this block and before its last barrier. */
static inline bool is_settled(simt_stamp writer)
{
    const simt_block *b = &simt_the_block;
    return writer - b->begin < b->barrier - b->begin;
}

static inline ALWAYS_INLINE void read_cell(cell *c, size_t at)
{
    simt_stamp me = simt_now.stamp, barrier = simt_the_block.barrier;
    if (!is_settled(c->writer) && c->writer != me)
        check_reading(c, at);
    simt_stamp r = c->reader;
    if (r < barrier)
        c->reader = me;
    else if (r != me && same_warp(r, me))
        c->reader = time_of(r) == time_of(me) ? r | (thread_of(r) != thread_of(me) ? MANY : 0) : me;
}

static NEVER_INLINE void check_writing(cell *c, size_t at, bool atomic)
{
    if (!(atomic && (c->writer & ATOMIC)) && !over(c->writer))
        race(c->writer, at, "writes");
    if (!over(c->reader))
        race(c->reader, at, "writes");
    if (!atomic) /* for whom this write is over, that is */
        c->reader = 0;
}

static inline ALWAYS_INLINE void write_cell(cell *c, size_t at, bool atomic)
{
    simt_stamp barrier = simt_the_block.barrier;
    if (c->writer >= barrier || c->reader >= barrier)
        check_writing(c, at, atomic);
    c->writer = simt_now.stamp | (atomic ? ATOMIC : 0);
}

static inline ALWAYS_INLINE void visit(cell *c, size_t at, bool store, bool atomic)
{
    if (store)
        write_cell(c, at, atomic);
    else
        read_cell(c, at);
}

/* Halves that all threads have seen written, and nobody has read since: a word again. */
static bool can_join(const cell *h)
{
    simt_stamp barrier = simt_the_block.barrier;
    return is_settled(h[0].writer) && is_settled(h[1].writer) && h[0].reader < barrier && h[1].reader < barrier;
}

/* A visit of a word that is split or pending, or is visited in part. */
static NEVER_INLINE void visit_halves(size_t at, size_t bytes, bool store, bool atomic)
{
    cell *c = &words[at / WORD], *h = &halves[at / WORD * 2];
    bool whole = at % WORD == 0 && bytes == WORD, split = c->writer & SPLIT;
    if (c->writer & PENDING && (c->writer & ~PENDING) >= simt_the_block.begin)
        simt_fail(SIMT_PENDING, "byte %zu of shared memory, which cp.async has not been waited for", at);
    if (split && can_join(h)) {
        *c = h[0];
        split = false;
    } else if (c->writer & PENDING) {
        *c = {0, 0}; /* of a block before */
    }
    if (!split && whole) {
        visit(c, at, store, atomic);
        return;
    }
    if (!split) {
        h[0] = h[1] = *c;
        c->writer = SPLIT;
    }
    for (size_t i = at / HALF; i * HALF < at + bytes; i++)
        visit(&halves[i], i * HALF, store, atomic);
    if (whole && store && !atomic)
        *c = h[0];
}

static inline ALWAYS_INLINE void access_word(size_t at, bool store, bool atomic)
{
    cell *c = &words[at / WORD];
    if (c->writer >= SPLIT)
        visit_halves(at, WORD, store, atomic);
    else
        visit(c, at, store, atomic);
}

/* An access that is not of whole words, or behind the end. */
static NEVER_INLINE void access_parts(size_t at, size_t bytes, bool store, bool atomic)
{
    size_t end = at + bytes;
    if (end > simt_the_block.shared)
        simt_fail(SIMT_BOUNDS, "byte %zu of shared memory, of which the block has %zu", end - 1, simt_the_block.shared);
    while (at < end) {
        size_t next = at / WORD * WORD + WORD, n = (next < end ? next : end) - at;
        if (n == WORD)
            access_word(at, store, atomic);
        else
            visit_halves(at, n, store, atomic);
        at += n;
    }
}

static inline ALWAYS_INLINE void access_shared(size_t at, size_t bytes, bool store, bool atomic)
{
    if (at % WORD != 0 || bytes % WORD != 0 || at + bytes > simt_the_block.shared) {
        access_parts(at, bytes, store, atomic);
        return;
    }
    for (size_t i = 0; i < bytes; i += WORD)
        access_word(at + i, store, atomic);
}

/* The buffer that has all of these bytes, or NULL. */
static const buffer *find(const uint8_t *p, size_t bytes)
{
    uint16_t *guess = &found_at[(uintptr_t)p / PAGE % (sizeof found_at / sizeof *found_at)];
    if (*guess < n_buffer && p >= buffers[*guess].begin && p + bytes <= buffers[*guess].end)
        return &buffers[*guess];
    for (int i = 0; i < n_buffer; i++) {
        if (p < buffers[i].begin || p + bytes > buffers[i].end)
            continue;
        *guess = (uint16_t)i;
        return &buffers[i];
    }
    return NULL;
}

static void access_global(const uint8_t *p, size_t bytes, bool store)
{
    const buffer *b = find(p, bytes);
    if (b) {
        if (store && !b->writable)
            simt_fail(SIMT_READONLY, "stores into a buffer that is only read, byte %zu", (size_t)(p - b->begin));
        if (simt_saw)
            simt_saw(p, bytes, store);
        return;
    }
    const buffer *best = NULL; /* the one that ends nearest before */
    for (int i = 0; i < n_buffer; i++)
        if (buffers[i].begin <= p && (!best || buffers[i].end > best->end))
            best = &buffers[i];
    simt_fail(SIMT_BOUNDS, "%s %zu bytes at %p, in no buffer (byte %zd of one of %zu)", store ? "stores" : "loads",
              bytes, (const void *)p, best ? p - best->begin : (ptrdiff_t)0,
              best ? (size_t)(best->end - best->begin) : 0);
}

static inline ALWAYS_INLINE void access_any(const void *at, size_t bytes, bool store, bool atomic)
{
    const uint8_t *p = (const uint8_t *)at;
    if (!simt_is_here || (size_t)(p - simt_now.stack) < SIMT_STACK)
        return;
    size_t in_shared = (size_t)(p - shared);
    if (in_shared < sizeof shared)
        access_shared(in_shared, bytes, store, atomic);
    else
        access_global(p, bytes, store);
}

void simt_access(const void *at, size_t bytes, bool store, bool atomic)
{
    access_any(at, bytes, store, atomic);
}

static void check_vector(const void *at, int bytes)
{
    if ((uintptr_t)at % (size_t)bytes != 0)
        simt_fail(SIMT_ALIGNMENT, "a vector of %d bytes at %p", bytes, at);
}

void simt_load(void *to, const void *from, int bytes)
{
    check_vector(from, bytes);
    simt_access(from, (size_t)bytes, false, false);
    memcpy(to, from, (size_t)bytes);
}

void simt_store(void *to, const void *from, int bytes)
{
    check_vector(to, bytes);
    simt_access(to, (size_t)bytes, true, false);
    memcpy(to, from, (size_t)bytes);
}

uint32_t simt_atomic_add(uint32_t *to, uint32_t x)
{
    check_vector(to, sizeof *to);
    simt_access(to, sizeof *to, true, true);
    uint32_t old = *to;
    *to += x;
    return old;
}

unsigned long long simt_atomic_add64(unsigned long long *to, unsigned long long x)
{
    check_vector(to, sizeof *to);
    simt_access(to, sizeof *to, true, true);
    unsigned long long old = *to;
    *to += x;
    return old;
}

/* ---- cp.async: bytes arrive when they are waited for, as late as a device may have them ---- */

void simt_memory_begin(void)
{
    n_copy = 0;
    free_copy = -1;
    for (int i = 0; i < simt_the_block.n_thread; i++)
        queues[i] = {-1, -1, 0};
}

static int new_copy(void)
{
    int i = free_copy;
    if (i >= 0) {
        free_copy = copies[i].next;
        return i;
    }
    if (n_copy == MAX_COPIES)
        simt_fail(SIMT_LAUNCH, "more than %d copies under way", MAX_COPIES);
    return n_copy++;
}

void simt_cp_async(void *to, const void *from, int bytes, int from_bytes)
{
    queue *q = &queues[simt_now.fiber->id];
    check_vector(to, bytes);
    check_vector(from, bytes);
    if (from_bytes > 0)
        simt_access(from, (size_t)from_bytes, false, false);
    if ((size_t)((uint8_t *)to - shared) >= sizeof shared)
        simt_fail(SIMT_BOUNDS, "cp.async to %p, which is not in shared memory", to);
    simt_access(to, (size_t)bytes, true, false);
    int i = new_copy();
    copies[i] = {(uint8_t *)to, (const uint8_t *)from, bytes, from_bytes, q->group, -1};
    if (q->first < 0)
        q->first = i;
    else
        copies[q->last].next = i;
    q->last = i;
    for (size_t at = (size_t)((uint8_t *)to - shared) / WORD, n = (size_t)bytes / WORD; n > 0; at++, n--)
        words[at].writer |= PENDING;
}

void simt_cp_commit(void)
{
    queues[simt_now.fiber->id].group++;
}

static void arrive(const copy *c)
{
    for (size_t at = (size_t)(c->to - shared) / WORD, n = (size_t)c->bytes / WORD; n > 0; at++, n--)
        words[at] = {simt_now.stamp, 0}; /* nobody else was there */
    memset(c->to, 0, (size_t)c->bytes);
    memcpy(c->to, c->from, (size_t)c->from_bytes);
}

void simt_cp_wait(int open)
{
    queue *q = &queues[simt_now.fiber->id];
    while (q->first >= 0 && copies[q->first].group < q->group - open) {
        int i = q->first;
        arrive(&copies[i]);
        q->first = copies[i].next;
        copies[i].next = free_copy;
        free_copy = i;
    }
}

/* ---- what the compiler calls at loads and stores (-fsanitize=thread) ---- */

/* Under names of our own: with a sanitizer on, the compiler knows the other ones, with parameters of its own. */
#define SIMT_NAMED(name, ...) extern "C" void simt_##name(__VA_ARGS__) __asm__("__tsan_" #name)

#define SIMT_HOOK(name, bytes, store)           \
    SIMT_NAMED(name##bytes, void *p);           \
    extern "C" void simt_##name##bytes(void *p) \
    {                                           \
        access_any(p, bytes, store, false);     \
    }

SIMT_HOOK(read, 1, false)
SIMT_HOOK(read, 2, false)
SIMT_HOOK(read, 4, false)
SIMT_HOOK(read, 8, false)
SIMT_HOOK(read, 16, false)
SIMT_HOOK(write, 1, true)
SIMT_HOOK(write, 2, true)
SIMT_HOOK(write, 4, true)
SIMT_HOOK(write, 8, true)
SIMT_HOOK(write, 16, true)
SIMT_HOOK(unaligned_read, 2, false)
SIMT_HOOK(unaligned_read, 4, false)
SIMT_HOOK(unaligned_read, 8, false)
SIMT_HOOK(unaligned_read, 16, false)
SIMT_HOOK(unaligned_write, 2, true)
SIMT_HOOK(unaligned_write, 4, true)
SIMT_HOOK(unaligned_write, 8, true)
SIMT_HOOK(unaligned_write, 16, true)

SIMT_NAMED(read_range, void *p, unsigned long bytes);
extern "C" void simt_read_range(void *p, unsigned long bytes)
{
    simt_access(p, bytes, false, false);
}

SIMT_NAMED(write_range, void *p, unsigned long bytes);
extern "C" void simt_write_range(void *p, unsigned long bytes)
{
    simt_access(p, bytes, true, false);
}

SIMT_NAMED(func_entry, void *);
extern "C" void simt_func_entry(void *)
{
}

SIMT_NAMED(func_exit, void);
extern "C" void simt_func_exit(void)
{
}

SIMT_NAMED(init, void);
extern "C" void simt_init(void)
{
}

SIMT_NAMED(vptr_update, void **, void *);
extern "C" void simt_vptr_update(void **, void *)
{
}
