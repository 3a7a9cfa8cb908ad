/* Inside the model: what the scheduler of fibers (simt_block.cu), the operations of warps (simt_warp.cu) and the memory
 * (simt_shadow.cu) know of each other. */
#ifndef KERNELS_TESTS_SIMT_STATE_H
#define KERNELS_TESTS_SIMT_STATE_H

#include "kernels/tests/simt/simt.cuh"

#define SIMT_MAX_THREADS 1024
#define SIMT_MAX_SHARED (227 * 1024)
#define SIMT_LANES 32
#define SIMT_STACK (96 * 1024)
#define SIMT_TRANSPOSED 8
#define SIMT_HIDDEN __attribute__((visibility("hidden"))) /* found without the dynamic linker */

enum simt_op { SIMT_SYNC, SIMT_SHUFFLE, SIMT_BALLOT, SIMT_MMA, SIMT_LDMATRIX };

/* A visit to shared memory: when, and by which thread. Times grow over all blocks and launches, with each barrier of a
 * block or a warp: of two visits the first is over for the second thread where a barrier of the block, or of both
 * threads' warp, lies between. */
using simt_stamp = uint64_t;

#define SIMT_THREAD_SHIFT 2 /* below: what simt_shadow.cu notes of the visit */
#define SIMT_TIME_SHIFT 12

struct simt_fiber {
    int id;
    uint32_t lane; /* its bit */
    struct simt_warp *warp;
    void *stack, *where; /* where: NULL until it begins anew */
};

/* Lanes are bits. Each lane is in one of four sets: it runs, has come to an operation, waits at the block's barrier, or
 * is in none since it has left. */
struct simt_warp {
    uint32_t runs, come, waits;
    simt_fiber *first; /* of 32 lanes */
    simt_stamp time;   /* of the last barrier, of no thread */
    enum simt_op op;   /* of the lanes that have come, and where that stands */
    int kind;          /* ldmatrix: matrices, and SIMT_TRANSPOSED */
    simt_site at;
    uint32_t x[SIMT_LANES]; /* shuffle, ballot: given */
    uint32_t y[SIMT_LANES]; /* and taken */
    int from[SIMT_LANES];   /* shuffle */
    float *c[SIMT_LANES];   /* mma */
    const uint32_t *a[SIMT_LANES], *b[SIMT_LANES];
    uint32_t *r[SIMT_LANES]; /* ldmatrix */
    const void *row[SIMT_LANES];
};

struct simt_block {
    int n_thread;
    size_t shared;
    uint64_t index, grid; /* packed, as kernels ask for them */
    simt_stamp begin;     /* of the block */
    simt_stamp barrier;   /* the last one */
    int n_wait, waits;    /* threads at the barrier, the first of them, and where that stands */
    simt_site at;
    simt_warp warp[SIMT_MAX_THREADS / SIMT_LANES];
    simt_fiber *fiber; /* [SIMT_MAX_THREADS] */
};

/* The thread that runs. */
struct simt_running {
    simt_fiber *fiber; /* NULL outside of a kernel */
    simt_stamp stamp;
    const uint8_t *stack;
};

extern simt_block simt_the_block SIMT_HIDDEN;
extern simt_running simt_now SIMT_HIDDEN;

/* Whether this host thread is the one that runs a kernel: what others load and store is no kernel's. */
extern __thread bool simt_is_here SIMT_HIDDEN __attribute__((tls_model("initial-exec"))); /* read at every load */

inline void simt_become(simt_fiber *f)
{
    simt_now = {f, f->warp->time | (simt_stamp)f->id << SIMT_THREAD_SHIFT, (const uint8_t *)f->stack};
}

/* Another time begins. */
simt_stamp simt_next_time(void);

/* Ends the launch with the first fault; returns to the scheduler and never to the caller. */
[[noreturn]] void simt_fail(enum simt_fault fault, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The thread that runs has left `runs`: lets others run; returns when this one may go on. */
void simt_yield(void);

/* All lanes of a warp have come: does their operation. */
void simt_warp_run(simt_warp *w);

/* An access by the thread that runs. */
void simt_access(const void *at, size_t bytes, bool store, bool atomic);

/* The block begins: no copies are under way. */
void simt_memory_begin(void);

#endif
