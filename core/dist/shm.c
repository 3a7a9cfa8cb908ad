#define _GNU_SOURCE
#include "core/dist/shm.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/dist/memfd.h"
#include "core/dist/tree.h"

/* Pauses before a wait sleeps, some hundreds of microseconds: peers that share a layer come sooner. */
#define SPIN 20000

/* Up to this, one meeting instead of two or three is worth more than adding only a slice. */
#define SMALL_BYTES ((size_t)8 << 10)

#define HUGE_BYTES ((size_t)2 << 20)

/* Parts first: they begin at huge pages. */
static size_t shm_bytes(const struct lb_shm *s)
{
    size_t lines = ((size_t)s->size * sizeof(struct lb_shm_line) + 4095) & ~(size_t)4095;
    return (size_t)s->size * (LB_SHM_PART_BYTES + 3 * LB_SHM_AREA_BYTES) + lines;
}

static void lay_out(struct lb_shm *s, void *map)
{
    s->map = map;
    s->parts = map;
    s->area = s->parts + (size_t)s->size * LB_SHM_PART_BYTES;
    s->line = (void *)(s->area + (size_t)s->size * 3 * LB_SHM_AREA_BYTES);
    madvise(map, (size_t)s->size * LB_SHM_PART_BYTES, MADV_HUGEPAGE); /* advice only */
}

enum lb_status lb_shm_make(struct lb_shm *s, struct lb_err *err)
{
    void *map;
    s->bytes = shm_bytes(s);
    LB_TRY(lb_memfd_make(s->bytes, HUGE_BYTES, &map, &s->fd, err));
    lay_out(s, map);
    return LB_OK;
}

enum lb_status lb_shm_open(struct lb_shm *s, int pid, int fd, struct lb_err *err)
{
    void *map;
    s->bytes = shm_bytes(s);
    s->fd = -1;
    LB_TRY(lb_memfd_open(pid, fd, s->bytes, HUGE_BYTES, &map, err));
    lay_out(s, map);
    return LB_OK;
}

void lb_shm_release(struct lb_shm *s)
{
    if (s->map)
        munmap(s->map, s->bytes);
    if (s->map && s->fd >= 0)
        close(s->fd);
    s->map = NULL;
}

void lb_shm_turn(struct lb_shm *s)
{
    s->flip ^= 1;
}

void *lb_shm_in(const struct lb_shm *s, int member)
{
    return s->area + ((size_t)member * 3 + s->flip) * LB_SHM_AREA_BYTES;
}

void *lb_shm_out(const struct lb_shm *s, int member)
{
    return s->area + ((size_t)member * 3 + 2) * LB_SHM_AREA_BYTES;
}

static bool has_come(const struct lb_shm_line *l, uint32_t count)
{
    return (int32_t)(atomic_load_explicit(&l->count, memory_order_acquire) - count) >= 0;
}

/* Sleeps until the member's count changes, and looks up now and then: a peer that has failed wakes nobody. */
static bool sleep_for(struct lb_shm *s, struct lb_shm_line *l)
{
    static const struct timespec look_up = {0, 20000000};
    bool ok = true;
    atomic_fetch_add_explicit(&l->n_asleep, 1, memory_order_seq_cst);
    while (ok) {
        uint32_t seen = atomic_load_explicit(&l->count, memory_order_seq_cst);
        if ((int32_t)(seen - s->count) >= 0)
            break;
        syscall(SYS_futex, &l->count, FUTEX_WAIT, seen, &look_up, NULL, 0);
        ok = !lb_world_has_failed(s->v);
    }
    atomic_fetch_sub_explicit(&l->n_asleep, 1, memory_order_relaxed);
    return ok;
}

static bool wait_for(struct lb_shm *s, int member)
{
    struct lb_shm_line *l = &s->line[member];
    int spin = s->v->world.oversubscribed ? 0 : SPIN;
    for (int i = 0; i < spin; i++) {
        if (has_come(l, s->count))
            return true;
        __builtin_ia32_pause();
    }
    if (has_come(l, s->count))
        return true;
    if (lb_world_has_failed(s->v))
        return false;
    atomic_store_explicit(&s->v->seat->wait_for, s->base_rank + member, memory_order_relaxed);
    return sleep_for(s, l);
}

bool lb_shm_meet(struct lb_shm *s)
{
    struct lb_shm_line *mine = &s->line[s->me];
    s->count++;
    atomic_store_explicit(&mine->count, s->count, memory_order_seq_cst);
    if (atomic_load_explicit(&mine->n_asleep, memory_order_seq_cst))
        syscall(SYS_futex, &mine->count, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    for (int i = 1; i < s->size; i++)
        if (!wait_for(s, (s->me + i) % s->size))
            return false;
    return true;
}

/* Numbers of the slice that a member adds up begin here: whole cache lines. */
static int64_t slice_begin(const struct lb_shm *s, int64_t n, int member)
{
    int64_t lines = (n + 15) / 16, at = lines * member / s->size * 16;
    return at < n ? at : n;
}

float *lb_shm_part(const struct lb_shm *s, int member)
{
    return (float *)(void *)(s->parts + (size_t)member * LB_SHM_PART_BYTES);
}

bool lb_shm_holds(const struct lb_shm *s, const float *part, int64_t n)
{
    uintptr_t own = (uintptr_t)lb_shm_part(s, s->me), at = (uintptr_t)part;
    return at >= own && at - own <= LB_SHM_PART_BYTES && (size_t)n <= (LB_SHM_PART_BYTES - (at - own)) / sizeof *part;
}

/* Everybody adds everything: one meeting. */
static bool reduce_small(struct lb_shm *s, float *part, int64_t n)
{
    const float *parts[LB_COMM_MAX_RANKS];
    lb_shm_turn(s);
    memcpy(lb_shm_in(s, s->me), part, (size_t)n * sizeof *part);
    if (!lb_shm_meet(s))
        return false;
    for (int i = 0; i < s->size; i++)
        parts[i] = i == s->me ? part : lb_shm_in(s, i);
    lb_tree_add(part, parts, s->size, n);
    return true;
}

/* The members' slices of from[member][n], but for this member's own. */
static void take_slices(struct lb_shm *s, float *part, int64_t n, const float *const *from)
{
    for (int i = 0; i < s->size; i++) {
        int64_t begin = slice_begin(s, n, i), end = slice_begin(s, n, i + 1);
        if (i != s->me)
            memcpy(part + begin, from[i] + begin, (size_t)(end - begin) * sizeof *part);
    }
}

/* Each adds its slice, reading the others' parts where they are and writing into its own; the last meeting is for the
 * owners, who may write into their parts again. */
static bool reduce_in_place(struct lb_shm *s, float *part, int64_t n, bool (*finish)(void *, float *, int64_t),
                            void *ctx)
{
    const float *whole[LB_COMM_MAX_RANKS], *parts[LB_COMM_MAX_RANKS];
    int64_t begin = slice_begin(s, n, s->me), end = slice_begin(s, n, s->me + 1), at = part - lb_shm_part(s, s->me);
    for (int i = 0; i < s->size; i++) {
        whole[i] = lb_shm_part(s, i) + at;
        parts[i] = whole[i] + begin;
    }
    if (!lb_shm_meet(s))
        return false;
    lb_tree_add(part + begin, parts, s->size, end - begin);
    if ((finish && !finish(ctx, part + begin, end - begin)) || !lb_shm_meet(s))
        return false;
    take_slices(s, part, n, whole);
    return lb_shm_meet(s);
}

bool lb_shm_reduce(struct lb_shm *s, float *part, int64_t n, bool (*finish)(void *ctx, float *slice, int64_t n),
                   void *ctx)
{
    const float *parts[LB_COMM_MAX_RANKS];
    if (!finish && (size_t)n * sizeof *part <= SMALL_BYTES)
        return reduce_small(s, part, n);
    if (lb_shm_holds(s, part, n))
        return reduce_in_place(s, part, n, finish, ctx);
    lb_shm_turn(s);
    float *in = lb_shm_in(s, s->me), *out = lb_shm_out(s, s->me);
    int64_t begin = slice_begin(s, n, s->me), end = slice_begin(s, n, s->me + 1);
    memcpy(in, part, (size_t)begin * sizeof *part);
    memcpy(in + end, part + end, (size_t)(n - end) * sizeof *part);
    if (!lb_shm_meet(s))
        return false;
    for (int i = 0; i < s->size; i++)
        parts[i] = (i == s->me ? part : (const float *)lb_shm_in(s, i)) + begin;
    lb_tree_add(out + begin, parts, s->size, end - begin);
    if ((finish && !finish(ctx, out + begin, end - begin)) || !lb_shm_meet(s))
        return false;
    for (int i = 0; i < s->size; i++)
        parts[i] = lb_shm_out(s, i);
    take_slices(s, part, n, parts);
    memcpy(part + begin, out + begin, (size_t)(end - begin) * sizeof *part);
    return true;
}
