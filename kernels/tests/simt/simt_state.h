/* Inside the model: what the scheduler of fibers (simt_block.cu), the operations of warps (simt_warp.cu) and the memory
 * (simt_shadow.cu) know of each other. */
#ifndef KERNELS_TESTS_SIMT_STATE_H
#define KERNELS_TESTS_SIMT_STATE_H

#include "kernels/tests/simt/simt.cuh"

#define SIMT_MAX_THREADS 1024
#define SIMT_MAX_SHARED (227 * 1024)
#define SIMT_LANES 32

enum simt_op { SIMT_NO_OP, SIMT_SYNC, SIMT_SHUFFLE, SIMT_BALLOT, SIMT_MMA, SIMT_LDMATRIX };

/* What a lane brings to an operation of its warp. */
struct simt_lane {
    enum simt_op op;
    simt_site at;
    uint32_t x; /* shuffle, ballot: given and taken */
    int from;   /* shuffle */
    float *c;   /* mma */
    const uint32_t *a, *b;
    uint32_t *r; /* ldmatrix */
    const void *row;
    int n;
    bool transposed;
};

enum simt_wait { SIMT_RUNS, SIMT_AT_BARRIER, SIMT_IN_WARP, SIMT_DONE };

/* Clocks grow over all blocks and launches: of two accesses the first is over for the second thread where a barrier of
 * the block, or of both threads' warp, lies between. */
struct simt_clock {
    uint32_t block, warp;
};

struct simt_fiber {
    simt_thread self; /* the first member: simt_now points to it */
    int id;
    enum simt_wait wait;
    simt_site at; /* of the barrier */
    simt_lane lane;
    void *stack, *where;
    const uint8_t *stack_begin, *stack_end;
};

struct simt_block {
    int n_thread;
    size_t shared;
    uint32_t number; /* of the block, over all launches; 0 outside of a kernel */
    uint32_t barrier;
    uint32_t warp[SIMT_MAX_THREADS / SIMT_LANES];
    int n_come[SIMT_MAX_THREADS / SIMT_LANES]; /* lanes that stand in the warp's operation */
    simt_fiber *fiber;                         /* [SIMT_MAX_THREADS] */
};

extern simt_block simt_the_block;

/* Whether this host thread is the one that runs a kernel: what others load and store is no kernel's. */
extern __thread bool simt_is_here __attribute__((tls_model("initial-exec"))); /* read at every load and store */

inline simt_fiber *simt_current(void)
{
    return (simt_fiber *)const_cast<simt_thread *>(simt_now);
}

inline simt_clock simt_clock_of(const simt_fiber *f)
{
    return {simt_the_block.barrier, simt_the_block.warp[f->id / SIMT_LANES]};
}

/* Ends the launch with the first fault; returns to the scheduler and never to the caller. */
[[noreturn]] void simt_fail(enum simt_fault fault, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Lets other threads run; returns when this one may go on. */
void simt_yield(enum simt_wait wait);

/* All lanes of a warp stand in `lane`: does their operation. */
void simt_warp_run(simt_fiber *lanes);

/* An access by thread f; vector: has to be aligned to its size. */
void simt_access(const void *at, size_t bytes, bool store, bool atomic);

/* The block begins: no copies are under way. */
void simt_memory_begin(void);

#endif
