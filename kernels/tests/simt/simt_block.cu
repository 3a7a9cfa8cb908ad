/* Fibers, barriers, and the search for a thread that can go on. */
#include "kernels/tests/simt/simt_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kernels/tests/simt/simt_switch.h"

#define STACK (96 * 1024)
#define STACK_APART (STACK + 13 * 64) /* their ends lie in different sets of the host's caches */
#define MAX_KERNELS 256

const simt_thread *simt_now;
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
    if (simt_now)
        n += snprintf(now.message + n, sizeof now.message - (size_t)n,
                      "block (%u, %u, %u), thread %d: ", simt_now->block.x, simt_now->block.y, simt_now->block.z,
                      simt_current()->id);
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
    simt_fiber *f = simt_current();
    f->wait = SIMT_DONE;
    simt_switch_last(&f->where, now.where);
    abort();
}

void simt_yield(enum simt_wait wait)
{
    simt_fiber *f = simt_current();
    f->wait = wait;
    simt_switch(&f->where, now.where);
}

static void fiber_main(void)
{
    simt_switched();
    now.kernel(now.ctx);
    simt_fiber *f = simt_current();
    f->wait = SIMT_DONE;
    simt_switch_last(&f->where, now.where);
    abort();
}

void simt_sync_block(simt_site at)
{
    simt_current()->at = at;
    simt_yield(SIMT_AT_BARRIER);
}

static bool same_file(simt_site a, simt_site b)
{
    return a.file == b.file || strcmp(a.file, b.file) == 0;
}

/* The lane's part is in f->lane. The last lane of a warp to come does the work of all. */
static void join_warp(simt_fiber *f)
{
    simt_fiber *lanes = simt_the_block.fiber + f->id / SIMT_LANES * SIMT_LANES;
    int *n_come = &simt_the_block.n_come[f->id / SIMT_LANES];
    f->wait = SIMT_IN_WARP;
    if (++*n_come < SIMT_LANES) {
        simt_yield(SIMT_IN_WARP);
        return;
    }
    for (int i = 0; i < SIMT_LANES; i++)
        if (lanes[i].lane.op != f->lane.op || lanes[i].lane.at.line != f->lane.at.line ||
            !same_file(lanes[i].lane.at, f->lane.at))
            simt_fail(SIMT_WARP, "lane %d is at %s:%d, this one at %s:%d", i, lanes[i].lane.at.file,
                      lanes[i].lane.at.line, f->lane.at.file, f->lane.at.line);
    simt_warp_run(lanes);
    *n_come = 0;
    for (int i = 0; i < SIMT_LANES; i++)
        lanes[i].wait = SIMT_RUNS;
}

static simt_lane *begin_op(enum simt_op op, simt_site at)
{
    simt_lane *l = &simt_current()->lane;
    l->op = op;
    l->at = at;
    return l;
}

void simt_sync_warp(simt_site at)
{
    begin_op(SIMT_SYNC, at);
    join_warp(simt_current());
}

uint32_t simt_shuffle(uint32_t x, int from, simt_site at)
{
    simt_lane *l = begin_op(SIMT_SHUFFLE, at);
    l->x = x;
    l->from = from;
    join_warp(simt_current());
    return l->x;
}

uint32_t simt_ballot(bool x, simt_site at)
{
    simt_lane *l = begin_op(SIMT_BALLOT, at);
    l->x = x;
    join_warp(simt_current());
    return l->x;
}

void simt_mma(float c[4], const uint32_t a[4], const uint32_t b[2], simt_site at)
{
    simt_lane *l = begin_op(SIMT_MMA, at);
    l->c = c;
    l->a = a;
    l->b = b;
    join_warp(simt_current());
}

void simt_ldmatrix(uint32_t *r, const void *row, int n, bool transposed, simt_site at)
{
    simt_lane *l = begin_op(SIMT_LDMATRIX, at);
    l->r = r;
    l->row = row;
    l->n = n;
    l->transposed = transposed;
    join_warp(simt_current());
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
        b->fiber[i].id = i;
        b->fiber[i].stack = (char *)stacks + (size_t)i * STACK_APART;
        b->fiber[i].stack_begin = (const uint8_t *)b->fiber[i].stack;
        b->fiber[i].stack_end = b->fiber[i].stack_begin + STACK;
    }
}

/* A barrier opens when every thread of the block waits at it. Nobody can run when this is called. */
static bool open_barrier(void)
{
    simt_block *b = &simt_the_block;
    const simt_fiber *first = NULL;
    int n_done = 0, n_warp = 0;
    for (int i = 0; i < b->n_thread; i++) {
        const simt_fiber *f = &b->fiber[i];
        n_done += f->wait == SIMT_DONE;
        n_warp += f->wait == SIMT_IN_WARP;
        if (f->wait != SIMT_AT_BARRIER)
            continue;
        first = first ? first : f;
        if (f->at.line != first->at.line || !same_file(f->at, first->at))
            found(SIMT_BARRIER, "thread %d waits at %s:%d, thread %d at %s:%d", first->id, first->at.file,
                  first->at.line, f->id, f->at.file, f->at.line);
    }
    if (n_warp > 0)
        found(SIMT_WARP, "%d threads wait in operations that lanes of their warps do not join", n_warp);
    if (n_done > 0 && first)
        found(SIMT_BARRIER, "%d threads have left, others wait at %s:%d", n_done, first->at.file, first->at.line);
    if (!first || now.fault != SIMT_OK)
        return false;
    for (int i = 0; i < b->n_thread; i++)
        b->fiber[i].wait = SIMT_RUNS;
    b->barrier++;
    return true;
}

/* Warps take turns in this order or, in every other launch, in the opposite one: what hangs on it shows. */
static void run_threads(bool backward)
{
    simt_block *b = &simt_the_block;
    do {
        for (bool ran = true; ran && now.fault == SIMT_OK;) {
            ran = false;
            for (int i = 0; i < b->n_thread && now.fault == SIMT_OK; i++) {
                simt_fiber *f = &b->fiber[backward ? b->n_thread - 1 - i : i];
                if (f->wait != SIMT_RUNS)
                    continue;
                ran = true;
                simt_now = &f->self;
                simt_enter(&now.where, f->where, f->stack, STACK);
                simt_now = NULL;
            }
        }
    } while (now.fault == SIMT_OK && open_barrier());
}

static void run_block(dim3 grid, uint3 at, bool backward)
{
    simt_block *b = &simt_the_block;
    b->number++;
    b->barrier++;
    memset(b->n_come, 0, sizeof b->n_come);
    simt_memory_begin();
    for (int i = 0; i < b->n_thread; i++) {
        simt_fiber *f = &b->fiber[i];
        f->self = {{(unsigned)i, 0, 0}, at, {grid.x, grid.y, grid.z}, {(unsigned)b->n_thread, 1, 1}};
        f->wait = SIMT_RUNS;
        f->where = simt_fresh(f->stack, STACK, fiber_main);
    }
    run_threads(backward);
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
    bool backward = now.n_launch++ % 2 == 1;
    uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    simt_is_here = true;
    for (uint64_t i = 0; i < n && now.fault == SIMT_OK; i++) {
        uint64_t k = backward ? n - 1 - i : i;
        run_block(grid, {(unsigned)(k % grid.x), (unsigned)(k / grid.x % grid.y), (unsigned)(k / grid.x / grid.y)},
                  backward);
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
