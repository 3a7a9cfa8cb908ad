/* A communicator for tests: the ranks of a group as threads of one process, with the same operations and the same tree
 * as the real ones. */
#ifndef CORE_TESTS_COMM_THREADS_H
#define CORE_TESTS_COMM_THREADS_H

#include "core/dist/comm.h"

/* comm[n]: rank i's communicator, for thread i alone. NULL memory ends the test program. */
void lb_comm_threads_open(int n, struct lb_comm **comm);

/* Every rank's ops->close has the same effect on its own; the last one frees. A rank that gives up early calls this, so
 * that the others do not wait for it: their status becomes LB_E_DEVICE. */
void lb_comm_threads_fail(struct lb_comm *c);

#endif
