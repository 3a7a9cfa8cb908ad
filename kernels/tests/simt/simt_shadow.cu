/* Memory of the model: known buffers, and for each two bytes of shared memory who wrote and who read them last. */
#include "kernels/tests/simt/simt_state.h"

#include <stdlib.h>

#define MAX_BUFFERS 512
#define MAX_COPIES 32768 /* of a block, under way */
#define CELL 2           /* bytes */
#define VECTOR 16
#define PAGE 4096

struct buffer {
    const uint8_t *begin, *end;
    bool writable;
};

/* When, and by whom. */
struct visit {
    simt_clock clock;
    uint16_t thread;
    bool many; /* reads: others of the warp too, since its last barrier */
};

struct cell {
    uint32_t written_in, copied_in; /* number of the block */
    int copies;                     /* under way to here */
    bool atomic;
    visit writer, reader[2]; /* readers of two different warps, the later ones */
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
static cell cells[SIMT_MAX_SHARED / CELL];
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

static bool over(const visit *v, const simt_fiber *f, simt_clock c)
{
    return v->clock.block < c.block || (v->thread == f->id && !v->many) ||
           (v->thread / SIMT_LANES == f->id / SIMT_LANES && v->clock.warp < c.warp);
}

static void race(const visit *v, size_t at, const char *kind)
{
    simt_fail(SIMT_RACE, "%s byte %zu of shared memory, which thread %d used since the last barrier", kind, at,
              v->thread);
}

static void read_cell(cell *c, const simt_fiber *f, simt_clock now, size_t at)
{
    if (c->written_in != simt_the_block.number)
        simt_fail(SIMT_UNWRITTEN, "reads byte %zu of shared memory, which this block has not written", at);
    if (!over(&c->writer, f, now))
        race(&c->writer, at, "reads");
    int warp = f->id / SIMT_LANES;
    visit *r = c->reader[0].thread / SIMT_LANES == warp || over(&c->reader[0], f, now) ? &c->reader[0] : &c->reader[1];
    if (r->thread / SIMT_LANES == warp && r->clock.block == now.block && r->clock.warp == now.warp)
        r->many |= r->thread != f->id;
    else
        *r = {now, (uint16_t)f->id, false};
}

static void write_cell(cell *c, const simt_fiber *f, simt_clock now, size_t at, bool atomic)
{
    bool same_block = c->written_in == simt_the_block.number;
    if (same_block && !(atomic && c->atomic) && !over(&c->writer, f, now))
        race(&c->writer, at, "writes");
    for (int i = 0; i < 2; i++)
        if (same_block && !over(&c->reader[i], f, now))
            race(&c->reader[i], at, "writes");
    c->written_in = simt_the_block.number;
    c->atomic = atomic;
    c->writer = {now, (uint16_t)f->id, false};
}

static void access_shared(size_t at, size_t bytes, bool store, bool atomic)
{
    const simt_fiber *f = simt_current();
    simt_clock now = simt_clock_of(f);
    if (at + bytes > simt_the_block.shared)
        simt_fail(SIMT_BOUNDS, "byte %zu of shared memory, of which the block has %zu", at + bytes - 1,
                  simt_the_block.shared);
    for (size_t i = at / CELL; i * CELL < at + bytes; i++) {
        cell *c = &cells[i];
        if (c->copies > 0 && c->copied_in == simt_the_block.number)
            simt_fail(SIMT_PENDING, "byte %zu of shared memory, which cp.async has not been waited for", i * CELL);
        if (store)
            write_cell(c, f, now, i * CELL, atomic);
        else
            read_cell(c, f, now, i * CELL);
    }
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

/* What threadIdx and its like are read from. */
static bool of_the_model(const uint8_t *p)
{
    const uint8_t *fibers = (const uint8_t *)simt_the_block.fiber;
    return p == (const uint8_t *)&simt_now || (p >= fibers && p < fibers + SIMT_MAX_THREADS * sizeof(simt_fiber));
}

void simt_access(const void *at, size_t bytes, bool store, bool atomic)
{
    const uint8_t *p = (const uint8_t *)at;
    if (!simt_now || !simt_is_here)
        return;
    const simt_fiber *f = simt_current();
    if (p >= f->stack_begin && p < f->stack_end)
        return;
    if (p >= shared && p < shared + sizeof shared)
        access_shared((size_t)(p - shared), bytes, store, atomic);
    else if (!of_the_model(p))
        access_global(p, bytes, store);
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
    queue *q = &queues[simt_current()->id];
    check_vector(to, bytes);
    check_vector(from, bytes);
    if (from_bytes > 0)
        simt_access(from, (size_t)from_bytes, false, false);
    simt_access(to, (size_t)bytes, true, false);
    int i = new_copy();
    copies[i] = {(uint8_t *)to, (const uint8_t *)from, bytes, from_bytes, q->group, -1};
    if (q->first < 0)
        q->first = i;
    else
        copies[q->last].next = i;
    q->last = i;
    for (int at = 0; at < bytes; at += CELL) {
        cell *c = &cells[((uint8_t *)to - shared + at) / CELL];
        c->copies = c->copied_in == simt_the_block.number ? c->copies + 1 : 1;
        c->copied_in = simt_the_block.number;
    }
}

void simt_cp_commit(void)
{
    queues[simt_current()->id].group++;
}

static void arrive(const copy *c)
{
    for (int i = 0; i < c->bytes; i += CELL)
        cells[(c->to - shared + i) / CELL].copies--;
    simt_access(c->to, (size_t)c->bytes, true, false);
    memset(c->to, 0, (size_t)c->bytes);
    memcpy(c->to, c->from, (size_t)c->from_bytes);
}

void simt_cp_wait(int open)
{
    queue *q = &queues[simt_current()->id];
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
        simt_access(p, bytes, store, false);    \
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
