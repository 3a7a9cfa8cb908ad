/* A trace of a run as a file that viewers of Chrome's trace events open (the "Trace Event Format", JSON object form):
 * {"traceEvents":[...]}, one event a line. Processes are ranks, threads are stages.
 *
 * The file is written as it grows, through a buffer of fixed size, beside its place (PATH.tmp), and renamed by
 * lb_trace_finish; a stream (a FIFO, /dev/stdout) is written as it is. Putting an event takes no memory. Any thread may
 * put events; the first failure sticks and is told by lb_trace_finish, so that a full disk does not stop the run.
 *
 * Times are seconds from the trace's origin, which is 0; the file has microseconds. */
#ifndef CORE_IO_TRACE_H
#define CORE_IO_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

struct lb_trace;

/* Where an event stands. */
struct lb_trace_at {
    int rank;          /* process */
    int thread;        /* number of a thread of it, from 1; 0: of the process */
    double begin, end; /* seconds */
};

enum lb_status lb_trace_open(struct lb_trace **out, const char *path, struct lb_err *err);

/* complete: the file is closed, synced and renamed. Otherwise what there is of it goes. Frees always. NULL is allowed.
 * LB_E_DEVICE: it could not be written. */
enum lb_status lb_trace_finish(struct lb_trace *t, bool complete, struct lb_err *err);

/* A process's name and place among others, a thread's name and place. name may be anything. */
void lb_trace_process(struct lb_trace *t, int rank, const char *name);
void lb_trace_thread(struct lb_trace *t, int rank, int thread, const char *name);

/* Work of a thread ("X"). Of spans of a thread one that begins inside another ends there too. args: members of a JSON
 * object by printf, at most 256 bytes; "" for none. */
__attribute__((format(printf, 4, 5))) void lb_trace_span(struct lb_trace *t, struct lb_trace_at at, const char *name,
                                                         const char *args, ...);

/* A value from `begin` on ("C"). */
void lb_trace_value(struct lb_trace *t, struct lb_trace_at at, const char *name, int64_t value);

/* A part of the life of something with a number ("b" and "e"): parts of one id share a track. args as above. */
__attribute__((format(printf, 5, 6))) void lb_trace_life(struct lb_trace *t, struct lb_trace_at at, int64_t id,
                                                         const char *name, const char *args, ...);

#endif
