/* Inside the stand-ins. Functions are called with the one lock held, which standin_enter takes and standin_leave gives
 * back. */
#ifndef KERNELS_TESTS_STANDIN_STATE_H
#define KERNELS_TESTS_STANDIN_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#include "kernels/tests/standin/standins.h"

#define STANDIN_MAX_DEVICE 16
#define STANDIN_MAX_CLOCK 256 /* streams at a time */

/* How far each stream is, as far as this one, or the host, knows from waiting for it. */
struct standin_clock {
    uint32_t t[STANDIN_MAX_CLOCK];
};

void standin_join(struct standin_clock *to, const struct standin_clock *from);

/* ---- calls and reports: standin_calls.c ---- */

/* 0, or what the call returns because it must fail or the device has. A call that only gives something back (release)
 * does so all the same. */
cudaError_t standin_enter(const char *call);
cudaError_t standin_leave(cudaError_t code);
/* For libraries with codes of their own: true when the call must fail. */
bool standin_enter_other(const char *call);
void standin_leave_other(void);
/* Lets other threads in until one of them did something, or for some milliseconds; ends the process when nothing
 * happens for a minute. */
void standin_await(void);
void standin_news(void);

void standin_report(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* All calls fail from now on: what is queued is never done. */
bool standin_lost(void);
/* A call has failed on purpose: what was to be written by it is not. */
bool standin_has_failed(void);

int standin_device(void); /* the calling thread's */
void standin_device_set(int device);
int standin_n_device(void);
size_t standin_device_bytes(void);
enum standin_order standin_ordered(void);
/* A kernel's fault: every later call on the device returns it. */
void standin_device_fail(int device, cudaError_t code);
cudaError_t standin_device_error(int device);

/* Handles that live, by kind: "stream". False, with a report: it does not, or not any more. */
void standin_made(const char *kind, const void *handle);
bool standin_lives(const char *kind, const void *handle);
bool standin_gone(const char *kind, const void *handle);

/* ---- memory: standin_memory.c ---- */

enum standin_place { STANDIN_PAGEABLE, STANDIN_PINNED, STANDIN_ON_DEVICE, STANDIN_NOWHERE };

/* Where bytes lie; NOWHERE: in part inside an allocation. */
enum standin_place standin_place(const void *p, size_t bytes, int *device);
/* Between these two device memory can be touched. */
void standin_open(void);
void standin_shut(void);
/* The operation that runs now reads or writes these bytes. */
void standin_touch(const void *p, size_t bytes, bool store);
void standin_memory_leaks(void);

/* ---- work: standin_queue.c ---- */

enum standin_kind { OP_COPY, OP_SET, OP_LAUNCH, OP_RECORD, OP_WAIT, OP_CALL, OP_MEET };

/* The point of a stream that an event stands for; the event and those that wait share it. */
struct standin_mark {
    int refs, device;
    bool done;
    struct CUstream_st *stream;
    struct standin_clock clock;
    double at_ms;
};

struct standin_rect {
    char *to;
    const char *from; /* NULL: set to value */
    int value;
    size_t to_pitch, from_pitch, width, height;
};

struct standin_op;

/* A collective: all ranks' operations are done at once, when each is the first of its stream. */
struct standin_meeting {
    int n_rank, n_come, n_ref;
    struct standin_op *op[STANDIN_MAX_DEVICE]; /* NULL: has not come, or has given up */
    struct CUstream_st *stream[STANDIN_MAX_DEVICE];
    bool never;                               /* nobody gets on */
    bool (*there)(struct standin_meeting *m); /* whether those of other processes have come too; NULL: there are none */
    double at_ms;                             /* not before */
    void (*run)(struct standin_meeting *m);
};

struct standin_op {
    struct standin_op *next;
    enum standin_kind kind;
    const char *name;
    struct standin_clock host; /* what the host knew when it asked for this */
    struct standin_rect rect;
    bool pinned_from, pinned_to;
    uint64_t hash;                  /* of pinned memory as it was then */
    struct standin_mark *mark;      /* OP_RECORD, OP_WAIT */
    int (*run)(void *ctx, void *s); /* OP_LAUNCH, OP_CALL, OP_MEET if aborted: 0 or an error code */
    void *ctx;                      /* the op's own, freed with it */
    size_t ctx_bytes;
    bool aborted;                    /* OP_MEET: nothing is done but run */
    struct standin_meeting *meeting; /* OP_MEET: joined when the op is queued, by join(ctx, op, stream) */
    void (*join)(void *ctx, struct standin_op *op, struct CUstream_st *s);
    const void *comm;  /* whose collective it is */
    const void *graph; /* executable one that it was queued from */
};

struct CUstream_st {
    int device, id;
    struct standin_op *head, **tail;
    struct standin_clock clock;
    struct CUgraph_st *capture; /* what it is recorded into, or NULL */
};

/* What runs now; stream NULL: nothing. */
struct standin_now {
    struct CUstream_st *stream;
    const struct standin_op *op;
    uint32_t t;
};
extern struct standin_now standin_now;

/* What the operation t of the stream with this clock was. */
const char *standin_name_of(int id, uint32_t t);

struct standin_op *standin_op_new(enum standin_kind kind, const char *name, const void *ctx, size_t ctx_bytes);
/* Takes the op. */
cudaError_t standin_enqueue(struct CUstream_st *s, struct standin_op *op);
/* Whether an operation that is still to be done reads or writes these bytes. */
bool standin_pending(const void *p, size_t bytes);
/* Whether something that was queued from the executable graph is still to be done. */
bool standin_graph_runs(const void *graph);
/* Does all that s has to do; the host knows then. */
cudaError_t standin_drain(struct CUstream_st *s);
void standin_drain_device(int device);
/* The stream of blocking copies. */
struct CUstream_st *standin_null_stream(void);
/* For a meeting: what is touched from here on is touched by s's op. */
void standin_begin_op(struct CUstream_st *s, const struct standin_op *op);

/* ---- graphs: standin_graph.c ---- */

/* False, and reported, while the thread records a stream: calls that wait, or touch all of a device, break it. */
bool standin_may_touch_all(const char *call);
void standin_break_recording(void);
/* Whether an executable graph has collectives of the communicator. */
bool standin_graph_has(const void *comm);
/* The op of a stream that is recorded; takes it. */
cudaError_t standin_capture(struct CUstream_st *s, struct standin_op *op);
void standin_op_drop(struct standin_op *op);

#endif
