/* A group whose partial results lie in the memory of GPUs, one a rank: reduce through NCCL, on the backend's stream.
 *
 * Everything else is another communicator's of the same ranks (over MPI), which carries the id that NCCL begins with,
 * and rows, candidates and signs of life after it. NCCL promises no order of additions, so that reduce gathers the
 * ranks' sums and adds them in the tree's order; with `ring` NCCL adds, which sends less and makes a row's bits depend
 * on the number of ranks. */
#ifndef CORE_DIST_NCCL_H
#define CORE_DIST_NCCL_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"
#include "core/dist/comm.h"

struct lb_nccl_spec {
    struct lb_comm *boot; /* taken; its bcast and gather are of host memory, as the new one's are */
    void *stream;         /* cudaStream_t of the device that is current, lent */
    bool ring;
    size_t *free_bytes; /* out: what is left of the device's memory; may be NULL */
};

/* reduce takes device memory, enqueues and returns. A failure to open (LB_E_DEVICE) is one of all ranks; boot is then
 * the caller's again. Collective; the waits end when boot fails. A group of one rank is boot. */
enum lb_status lb_comm_nccl_open(struct lb_comm **out, const struct lb_nccl_spec *spec, struct lb_err *err);

/* To be asked again and again by whoever waits for the stream: a collective that a peer does not join never ends.
 * false: it has failed, and ends soon without a result; err gets why. bcast and gather work on, unless status has a
 * failure. comm is a struct lb_comm; true of other kinds. */
bool lb_comm_nccl_poll(void *comm, struct lb_err *err);

#endif
