/* Stand-ins for CUDA's runtime, cuBLASLt and NCCL, on the host: the functions of the real headers, to be linked in
 * place of the libraries. Kernels run on the model of a block (kernels/tests/simt).
 *
 * Strict where a device is forgiving by luck: work of a stream is done when something waits for it and not before;
 * what two streams, or a stream and the host, do to the same bytes must be ordered by events or waits. The host cannot
 * touch device memory (it ends with SIGSEGV). What is wrong is reported: kept as text, said on stderr, and at the end
 * of the process leaks too, with exit status 99. Any host thread may call; each has its device (cudaSetDevice), and the
 * host's threads of one device count as one.
 *
 * Environment, read once: STANDIN_DEVICES (count, 4), STANDIN_BYTES (memory of a device, 256 MiB), STANDIN_FAIL (the
 * n-th call fails), STANDIN_DEAD (so do all later ones), STANDIN_ORDER (0, 1: enum standin_order),
 * STANDIN_PROCESSES (NCCL's ranks are processes of this host, not threads of this process). */
#ifndef KERNELS_TESTS_STANDINS_H
#define KERNELS_TESTS_STANDINS_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default) /* also found in a library that has the stand-ins inside */

enum standin_order {
    STANDIN_LATE, /* work is done when it is waited for */
    STANDIN_SOON, /* as soon as what it depends on is done */
};

void standin_devices(int n, size_t bytes);
void standin_order(enum standin_order order);

/* The n-th call from now on fails (1: the next); dead: and every later one, as of a device that is lost. 0: none. */
void standin_fail(long n, bool dead);
/* The same of calls of this name alone, which is lent until the next of either. */
void standin_fail_at(const char *call, long n, bool dead);
/* Calls so far; the name of the one that failed, or NULL. */
long standin_calls(void);
const char *standin_failed(void);

/* What was wrong since the last call of standin_forget, one line each; "" for nothing. */
const char *standin_reports(void);

/* Reports what is allocated or open still, forgets all reports, and returns how many there were. */
int standin_end(void);
void standin_forget(void);

/* NCCL: rank `rank` comes to collective n (from 0, of each communicator) ms late; -1: never; -2: nor do the others, and
 * all hear of it as of an asynchronous error. A negative rank: no such trouble any more. */
void standin_delay(int rank, long n, long ms);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
