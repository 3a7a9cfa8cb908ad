/* Fibers, barriers, and the search for a thread that can go on. */
#include "kernels/tests/simt/simt_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kernels/tests/simt/simt_switch.h"

#define STACK_APART (SIMT_STACK + 13 * 64) /* their ends lie in different sets of the host's caches */
#define MAX_KERNELS 256

simt_running simt_now;
simt_block simt_the_block;
__thread bool simt_is_here;
int (*simt_enqueue)(const struct simt_call *call);

static struct {
    enum simt_fault fault;
    char message[400];
    void *where; /* the scheduler */
    void (*kernel)(const void *ctx);
    const void *ctx;
    const char *name;
    unsigned n_launch;
    bool backward;
    simt_stamp time;
} now;

static struct {
    const char *name;
    int threads;
    size_t shared;
} kernels[MAX_KERNELS];

static int n_kernel;
static size_t most_shared = SIMT_MAX_SHARED;

void simt_limit_shared(size_t bytes)
{
    most_shared = bytes < SIMT_MAX_SHARED ? bytes : SIMT_MAX_SHARED;
}

enum simt_fault simt_fault_of_last(void)
{
    return now.fault;
}

const char *simt_message(void)
{
    return now.message;
}

/* A fault may be found by the scheduler too, which then just goes on to the end. */
static void note(enum simt_fault fault, const char *format, va_list args)
{
    if (now.fault != SIMT_OK)
        return;
    now.fault = fault;
    int n = snprintf(now.message, sizeof now.message, "%s: ", now.name);
    if (simt_now.fiber) {
        uint3 at = simt_unpack(simt_the_block.index);
        n += snprintf(now.message + n, sizeof now.message - (size_t)n, "block (%u, %u, %u), thread %d: ", at.x, at.y,
                      at.z, simt_now.fiber->id);
    }
    vsnprintf(now.message + n, sizeof now.message - (size_t)n, format, args);
}

static void found(enum simt_fault fault, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void found(enum simt_fault fault, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    note(fault, format, args);
    va_end(args);
}

void simt_fail(enum simt_fault fault, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    note(fault, format, args);
    va_end(args);
    simt_switch_last(&simt_now.fiber->where, now.where);
    abort();
}

simt_stamp simt_next_time(void)
{
    return now.time += (simt_stamp)1 << SIMT_TIME_SHIFT;
}

uint64_t simt_thread_index(void)
{
    return (uint64_t)simt_now.fiber->id;
}

uint64_t simt_block_index(void)
{
    return simt_the_block.index;
}

uint64_t simt_grid(void)
{
    return simt_the_block.grid;
}

uint64_t simt_block_threads(void)
{
    return (uint64_t)simt_the_block.n_thread | (uint64_t)1 << 32 | (uint64_t)1 << 48;
}

/* The lane of a warp that runs first; some do. Lanes and warps take turns in ascending order or, in every other launch,
 * in descending order: what hangs on it shows. */
static simt_fiber *first_lane(const simt_warp *w)
{
    int lane = now.backward ? 31 - __builtin_clz(w->runs) : __builtin_ctz(w->runs);
    return &w->first[lane];
}

/* Lanes of a warp hand over to each other: only one that finds none that runs goes back to the scheduler. */
void simt_yield(void)
{
    simt_fiber *f = simt_now.fiber;
    const simt_warp *w = f->warp;
    if (w->runs == 0) {
        simt_switch(&f->where, now.where);
        return;
    }
    simt_fiber *next = first_lane(w);
    simt_become(next);
    simt_pass(&f->where, next->where, next->stack, SIMT_STACK);
}

/* A thread of each block that is launched. */
static void fiber_main(void)
{
    simt_switched();
    for (;;) {
        now.kernel(now.ctx);
        simt_now.fiber->warp->runs &= ~simt_now.fiber->lane;
        simt_yield();
    }
}

static bool same_place(simt_site a, simt_site b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

/* The last thread to come finds the others waiting: the scheduler opens the barrier. */
void simt_sync_block(simt_site at)
{
    simt_block *b = &simt_the_block;
    const simt_fiber *f = simt_now.fiber;
    if (b->n_wait++ == 0) {
        b->waits = f->id;
        b->at = at;
    } else if (!same_place(at, b->at)) {
        simt_fail(SIMT_BARRIER, "waits at %s:%d, thread %d at %s:%d", at.file, at.line, b->waits, b->at.file,
                  b->at.line);
    }
    simt_warp *w = f->warp;
    w->runs &= ~f->lane;
    w->waits |= f->lane;
    simt_yield();
}

/* The lane that runs comes to an operation of its warp, with what that needs. */
static void join_warp(enum simt_op op, int kind, simt_site at)
{
    simt_warp *w = simt_now.fiber->warp;
    uint32_t me = simt_now.fiber->lane;
    if (w->come == 0) {
        w->op = op;
        w->kind = kind;
        w->at = at;
    } else if (w->op != op || w->kind != kind || !same_place(w->at, at)) {
        simt_fail(SIMT_WARP, "lane %d is at %s:%d, this one at %s:%d", __builtin_ctz(w->come), w->at.file, w->at.line,
                  at.file, at.line);
    }
    w->come |= me;
    w->runs &= ~me;
    if (~w->come != 0) {
        simt_yield();
        return;
    }
    simt_warp_run(w);
    w->come = 0;
    w->runs = ~(uint32_t)0;
}

static int lane_now(void)
{
    return (int)((unsigned)simt_now.fiber->id % SIMT_LANES);
}

void simt_sync_warp(simt_site at)
{
    join_warp(SIMT_SYNC, 0, at);
}

uint32_t simt_shuffle(uint32_t x, int from, simt_site at)
{
    simt_warp *w = simt_now.fiber->warp;
    int lane = lane_now();
    w->x[lane] = x;
    w->from[lane] = from;
    join_warp(SIMT_SHUFFLE, 0, at);
    return w->y[lane];
}

uint32_t simt_ballot(bool x, simt_site at)
{
    simt_warp *w = simt_now.fiber->warp;
    int lane = lane_now();
    w->x[lane] = x;
    join_warp(SIMT_BALLOT, 0, at);
    return w->y[lane];
}

void simt_mma(float c[4], const uint32_t a[4], const uint32_t b[2], simt_site at)
{
    simt_warp *w = simt_now.fiber->warp;
    int lane = lane_now();
    w->c[lane] = c;
    w->a[lane] = a;
    w->b[lane] = b;
    join_warp(SIMT_MMA, 0, at);
}

void simt_ldmatrix(uint32_t *r, const void *row, int n, bool transposed, simt_site at)
{
    simt_warp *w = simt_now.fiber->warp;
    int lane = lane_now();
    w->r[lane] = r;
    w->row[lane] = row;
    join_warp(SIMT_LDMATRIX, n | (transposed ? SIMT_TRANSPOSED : 0), at);
}

static void make_fibers(void)
{
    simt_block *b = &simt_the_block;
    if (b->fiber)
        return;
    b->fiber = (simt_fiber *)calloc(SIMT_MAX_THREADS, sizeof *b->fiber);
    void *stacks = mmap(NULL, (size_t)SIMT_MAX_THREADS * STACK_APART, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!b->fiber || stacks == MAP_FAILED) {
        fprintf(stderr, "simt: no memory\n");
        exit(1);
    }
    for (int i = 0; i < SIMT_MAX_THREADS; i++) {
        simt_warp *w = &b->warp[i / SIMT_LANES];
        b->fiber[i] = {i, (uint32_t)1 << i % SIMT_LANES, w, (char *)stacks + (size_t)i * STACK_APART, NULL};
        w->first = &b->fiber[i / SIMT_LANES * SIMT_LANES];
    }
}

/* What no thread leaves behind that is where it should be. */
static void find_who_waits(void)
{
    simt_block *b = &simt_the_block;
    int n_warp = 0;
    for (int i = 0; i < b->n_thread / SIMT_LANES; i++)
        n_warp += __builtin_popcount(b->warp[i].come);
    if (n_warp > 0)
        found(SIMT_WARP, "%d threads wait in operations that lanes of their warps do not join", n_warp);
    if (b->n_wait > 0)
        found(SIMT_BARRIER, "%d threads have left, others wait at %s:%d", b->n_thread - b->n_wait, b->at.file,
              b->at.line);
}

/* From now on visits of before are over for everyone. */
static void pass_barrier(void)
{
    simt_block *b = &simt_the_block;
    b->barrier = simt_next_time();
    b->n_wait = 0;
    for (int i = 0; i < b->n_thread / SIMT_LANES; i++) {
        simt_warp *w = &b->warp[i];
        w->time = b->barrier;
        w->waits = 0;
        w->come = 0;
        w->runs = ~(uint32_t)0;
    }
}

static void run_warps(void)
{
    simt_block *b = &simt_the_block;
    int n = b->n_thread / SIMT_LANES;
    for (int i = 0; i < n; i++) {
        const simt_warp *w = &b->warp[now.backward ? n - 1 - i : i];
        while (w->runs != 0) {
            simt_fiber *f = first_lane(w);
            simt_become(f);
            simt_enter(&now.where, f->where, f->stack, SIMT_STACK);
            simt_now.fiber = NULL;
            if (now.fault != SIMT_OK)
                return;
        }
    }
}

static void run_block(uint64_t index)
{
    simt_block *b = &simt_the_block;
    b->index = index;
    for (int i = 0; i < b->n_thread; i++)
        if (!b->fiber[i].where)
            b->fiber[i].where = simt_fresh(b->fiber[i].stack, SIMT_STACK, fiber_main);
    pass_barrier();
    b->begin = b->barrier;
    simt_memory_begin();
    run_warps();
    while (b->n_wait == b->n_thread && now.fault == SIMT_OK) {
        pass_barrier();
        run_warps();
    }
    if (now.fault == SIMT_OK)
        find_who_waits();
    for (int i = 0; i < b->n_thread && now.fault != SIMT_OK; i++)
        b->fiber[i].where = NULL; /* somewhere in the kernel */
}

static void count_kernel(const char *name, int threads, size_t shared)
{
    int i = 0;
    while (i < n_kernel && strcmp(kernels[i].name, name) != 0)
        i++;
    if (i == n_kernel && n_kernel < MAX_KERNELS)
        kernels[n_kernel++] = {name, threads, shared};
    if (i < n_kernel && threads > kernels[i].threads)
        kernels[i].threads = threads;
    if (i < n_kernel && shared > kernels[i].shared)
        kernels[i].shared = shared;
}

void simt_each_kernel(void (*see)(const char *name, int threads, size_t shared))
{
    for (int i = 0; i < n_kernel; i++)
        see(kernels[i].name, kernels[i].threads, kernels[i].shared);
}

static uint64_t pack(uint64_t x, uint64_t y, uint64_t z)
{
    return x | y << 32 | z << 48;
}

int simt_launch(const char *name, dim3 grid, int threads, size_t shared, void (*kernel)(const void *ctx),
                const void *ctx)
{
    make_fibers();
    now.fault = SIMT_OK;
    now.message[0] = '\0';
    now.name = name;
    now.kernel = kernel;
    now.ctx = ctx;
    count_kernel(name, threads, shared);
    if (threads < SIMT_LANES || threads % SIMT_LANES != 0 || threads > SIMT_MAX_THREADS || shared > most_shared ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        found(SIMT_LAUNCH, "%u x %u x %u blocks of %d threads, %zu bytes of shared memory", grid.x, grid.y, grid.z,
              threads, shared);
    simt_the_block.n_thread = threads;
    simt_the_block.shared = shared;
    simt_the_block.grid = pack(grid.x, grid.y, grid.z);
    now.backward = now.n_launch++ % 2 == 1;
    uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    simt_is_here = true;
    for (uint64_t i = 0; i < n && now.fault == SIMT_OK; i++) {
        uint64_t k = now.backward ? n - 1 - i : i;
        run_block(pack(k % grid.x, k / grid.x % grid.y, k / grid.x / grid.y));
    }
    simt_is_here = false;
    return now.fault;
}

int simt_run_call(const struct simt_call *call)
{
    simt_add(call->ctx, call->ctx_bytes, false);
    int fault = simt_launch(call->name, call->grid, call->threads, call->shared, call->kernel, call->ctx);
    simt_remove(call->ctx);
    return fault;
}
