#define _GNU_SOURCE
#include "core/backend/team.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/mem.h"

/* The grains of a run that nobody has claimed yet lie in ranges, one a member: a 64-bit word each, the run's number in
 * the upper half, below it where the range ends and where it begins. A grain is claimed with one compare-and-swap on
 * its word, so that a member that slept through a run can never take a grain of it, and the owner never waits for a
 * member that has claimed nothing. Between runs all ranges are empty, and the owner changes the job's fields: a member
 * that read a field of the next job had a word of an older run, and fails its compare-and-swap. */
#define RANGE_BITS 16
#define MAX_GRAINS ((UINT32_C(1) << RANGE_BITS) - 1)

/* Pauses before a wait goes to sleep, some tens of microseconds: longer than the gap between two ops of a pass. Under a
 * sanitizer what is between them takes longer than any such wait. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SPIN 40
#else
#define SPIN 4000
#endif

struct member {
    _Alignas(64) _Atomic uint64_t range;
    struct lb_team *team;
    pthread_t thread; /* not the owner's */
    int index;
};

struct lb_team {
    _Alignas(64) _Atomic uint32_t n_done; /* grains finished in this run; the owner's futex */
    _Atomic uint32_t owner_waits;
    _Alignas(64) _Atomic uint32_t epoch; /* number of the newest run; the members' futex */
    _Atomic uint32_t n_asleep;
    _Atomic bool stop;
    _Alignas(64) _Atomic(void (*)(void *, int64_t, int64_t)) fn;
    _Atomic(void *) ctx;
    _Atomic int64_t n_item, grain;
    _Atomic bool even; /* a range a member, else all grains are in the owner's */
    uint32_t run;
    int n_thread, n_started, spin;
    struct member *member; /* [n_thread], 0 is the owner */
    void *memory;          /* what was allocated: the struct begins at a multiple of 64 inside, the members behind it */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void relax(void)
{
    __builtin_ia32_pause();
}

static uint64_t range_of(uint32_t run, uint32_t begin, uint32_t end)
{
    return (uint64_t)run << 32 | (uint64_t)end << RANGE_BITS | begin;
}

/* Claims grains of one member's range and runs them; returns how many, 0: there is none left. `others`: from its end,
 * where its own member comes last. */
static uint32_t work_some(struct lb_team *t, _Atomic uint64_t *range, bool others)
{
    uint64_t at = atomic_load_explicit(range, memory_order_acquire);
    for (;;) {
        uint32_t begin = at & MAX_GRAINS, end = at >> RANGE_BITS & MAX_GRAINS, n = end - begin;
        if (n == 0)
            return 0;
        void (*fn)(void *, int64_t, int64_t) = atomic_load_explicit(&t->fn, memory_order_acquire);
        void *ctx = atomic_load_explicit(&t->ctx, memory_order_acquire);
        int64_t n_item = atomic_load_explicit(&t->n_item, memory_order_acquire);
        int64_t grain = atomic_load_explicit(&t->grain, memory_order_acquire);
        bool even = atomic_load_explicit(&t->even, memory_order_acquire);
        n = even && n > 1 ? n / 2 : 1;
        uint32_t first = even && others ? end - n : begin, run = (uint32_t)(at >> 32);
        uint64_t left = first == begin ? range_of(run, begin + n, end) : range_of(run, begin, first);
        if (!atomic_compare_exchange_weak_explicit(range, &at, left, memory_order_acq_rel, memory_order_acquire))
            continue;
        int64_t last = (first + n) * grain;
        fn(ctx, first * grain, last < n_item ? last : n_item);
        return n;
    }
}

/* Works on the newest run until no grain is left to claim: those of the member's own range, then what others have. */
static void work(struct lb_team *t, int index)
{
    const bool even = atomic_load_explicit(&t->even, memory_order_acquire);
    const int first = even ? index : 0, n_range = even ? t->n_thread : 1;
    uint32_t n_mine = 0, n;
    for (int i = 0; i < n_range; i++) {
        struct member *m = &t->member[first + i < t->n_thread ? first + i : first + i - t->n_thread];
        while ((n = work_some(t, &m->range, m->index != index)) > 0)
            n_mine += n;
    }
    if (n_mine == 0)
        return;
    /* The owner cannot begin another run before it has seen these grains done. */
    atomic_fetch_add_explicit(&t->n_done, n_mine, memory_order_seq_cst);
    if (atomic_load_explicit(&t->owner_waits, memory_order_seq_cst))
        futex_wake(&t->n_done, 1);
}

static void wait_for_run(struct lb_team *t, uint32_t seen)
{
    for (int i = 0; i < t->spin; i++) {
        if (atomic_load_explicit(&t->epoch, memory_order_acquire) != seen)
            return;
        relax();
    }
    atomic_fetch_add_explicit(&t->n_asleep, 1, memory_order_seq_cst);
    while (atomic_load_explicit(&t->epoch, memory_order_seq_cst) == seen)
        futex_wait(&t->epoch, seen);
    atomic_fetch_sub_explicit(&t->n_asleep, 1, memory_order_seq_cst);
}

static void *run_member(void *arg)
{
    struct member *m = arg;
    struct lb_team *t = m->team;
    uint32_t seen = 0;
    for (;;) {
        wait_for_run(t, seen);
        seen = atomic_load_explicit(&t->epoch, memory_order_acquire);
        if (atomic_load_explicit(&t->stop, memory_order_acquire))
            return NULL;
        work(t, m->index);
    }
}

static void publish_epoch(struct lb_team *t)
{
    atomic_fetch_add_explicit(&t->epoch, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&t->n_asleep, memory_order_seq_cst))
        futex_wake(&t->epoch, t->n_started);
}

static void wait_for_members(struct lb_team *t, uint32_t n_grain)
{
    for (int i = 0; i < t->spin; i++) {
        if (atomic_load_explicit(&t->n_done, memory_order_acquire) == n_grain)
            return;
        relax();
    }
    atomic_store_explicit(&t->owner_waits, 1, memory_order_seq_cst);
    uint32_t done;
    while ((done = atomic_load_explicit(&t->n_done, memory_order_seq_cst)) != n_grain)
        futex_wait(&t->n_done, done);
    atomic_store_explicit(&t->owner_waits, 0, memory_order_seq_cst);
}

/* What a run does, and its grains: a range a member, or all in one. */
struct job {
    void (*fn)(void *ctx, int64_t begin, int64_t end);
    void *ctx;
    int64_t n_item, grain;
    bool even;
    const int64_t *begin; /* of each member's items and their end; NULL: as many for each */
};

/* Where member i's range begins; that of the team's size is the end. */
static uint32_t range_begin(const struct lb_team *t, const struct job *j, uint32_t n_grain, int i)
{
    if (j->begin)
        return (uint32_t)((j->begin[i] + j->grain - 1) / j->grain);
    uint32_t n = (uint32_t)t->n_thread, each = n_grain / n, more = n_grain % n;
    return each * (uint32_t)i + ((uint32_t)i < more ? (uint32_t)i : more);
}

static void publish(struct lb_team *t, const struct job *j, uint32_t n_grain)
{
    atomic_store_explicit(&t->fn, j->fn, memory_order_release);
    atomic_store_explicit(&t->ctx, j->ctx, memory_order_release);
    atomic_store_explicit(&t->n_item, j->n_item, memory_order_release);
    atomic_store_explicit(&t->grain, j->grain, memory_order_release);
    atomic_store_explicit(&t->even, j->even, memory_order_release);
    atomic_store_explicit(&t->n_done, 0, memory_order_relaxed);
    t->run++;
    for (int i = 0; i < (j->even ? t->n_thread : 1); i++) {
        uint64_t range = j->even ? range_of(t->run, range_begin(t, j, n_grain, i), range_begin(t, j, n_grain, i + 1))
                                 : range_of(t->run, 0, n_grain);
        atomic_store_explicit(&t->member[i].range, range, memory_order_release);
    }
    publish_epoch(t);
}

static void run(struct lb_team *t, struct job j)
{
    if (j.n_item <= 0)
        return;
    if (j.grain < 1)
        j.grain = 1;
    if (j.n_item / j.grain >= MAX_GRAINS)
        j.grain = j.n_item / MAX_GRAINS + 1;
    if (t->n_started == 0 || j.n_item <= j.grain) {
        for (int64_t i = 0; i < j.n_item; i += j.grain)
            j.fn(j.ctx, i, j.n_item - i < j.grain ? j.n_item : i + j.grain);
        return;
    }
    uint32_t n_grain = (uint32_t)((j.n_item + j.grain - 1) / j.grain);
    publish(t, &j, n_grain);
    work(t, 0);
    wait_for_members(t, n_grain);
}

void lb_team_run(struct lb_team *t, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx, int64_t n_item,
                 int64_t grain)
{
    run(t, (struct job){fn, ctx, n_item, grain, false, NULL});
}

void lb_team_run_even(struct lb_team *t, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx, int64_t n_item,
                      int64_t grain)
{
    run(t, (struct job){fn, ctx, n_item, grain, true, NULL});
}

void lb_team_run_ranges(struct lb_team *t, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx,
                        const int64_t *begin)
{
    run(t, (struct job){fn, ctx, begin[t->n_thread], 1, true, begin});
}

/* Starts member `index`, bound to the mask's processor of that index when `mask` is given. Binding is a matter of
 * speed: where it is not allowed, the thread runs unbound. */
static enum lb_status start_member(struct lb_team *t, int index, const cpu_set_t *mask, struct lb_err *err)
{
    struct member *m = &t->member[index];
    int rc = pthread_create(&m->thread, NULL, run_member, m);
    if (rc != 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot start thread %d of %d: %s", index + 1, t->n_thread, strerror(rc));
    t->n_started++;
    if (!mask)
        return LB_OK;
    int nth = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, mask) || nth++ != index)
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(m->thread, sizeof one, &one);
    }
    return LB_OK;
}

enum lb_status lb_team_new(struct lb_team **out, int n_thread, struct lb_err *err)
{
    *out = NULL;
    cpu_set_t mask;
    CPU_ZERO(&mask);
    int n_cpu = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 1;
    if (n_thread < 0 || n_thread > 4096)
        return lb_err_set(err, LB_E_USAGE, "cannot run on %d threads: ask for 1 to 4096", n_thread);
    if (n_thread == 0)
        n_thread = n_cpu;

    void *memory = lb_mem_new(1, sizeof(struct lb_team) + (size_t)n_thread * sizeof(struct member) + 64);
    if (!memory)
        return lb_err_memory(err, "the thread team", sizeof(struct lb_team));
    struct lb_team *t = (void *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    t->memory = memory;
    t->n_thread = n_thread;
    t->member = (void *)(t + 1);
    for (int i = 0; i < n_thread; i++) {
        t->member[i].team = t;
        t->member[i].index = i;
    }
    t->spin = n_thread > n_cpu ? SPIN / 64 : SPIN;
    enum lb_status status = LB_OK;
    for (int i = 1; i < n_thread && status == LB_OK; i++)
        status = start_member(t, i, n_thread == n_cpu ? &mask : NULL, err);
    if (status != LB_OK) {
        lb_team_free(t);
        return status;
    }
    *out = t;
    return LB_OK;
}

void lb_team_free(struct lb_team *t)
{
    if (!t)
        return;
    atomic_store_explicit(&t->stop, true, memory_order_release);
    publish_epoch(t);
    for (int i = 1; i <= t->n_started; i++)
        pthread_join(t->member[i].thread, NULL);
    lb_mem_free(t->memory);
}

int lb_team_size(const struct lb_team *t)
{
    return t->n_thread;
}
