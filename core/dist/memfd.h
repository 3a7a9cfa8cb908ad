/* Memory that processes of a host share: a memfd, opened by the others as /proc/PID/fd/N. */
#ifndef CORE_DIST_MEMFD_H
#define CORE_DIST_MEMFD_H

#include <stddef.h>

#include "core/base/err.h"

/* A new one of `bytes`, zeroed, mapped at *map at a multiple of `align` (a power of two, or 0). Returns the descriptor
 * in *fd. Pages exist once they are touched. */
enum lb_status lb_memfd_make(size_t bytes, size_t align, void **map, int *fd, struct lb_err *err);

/* Process pid's descriptor fd, in the same way. LB_E_DEVICE when it cannot be opened or is smaller. */
enum lb_status lb_memfd_open(int pid, int fd, size_t bytes, size_t align, void **map, struct lb_err *err);

#endif
