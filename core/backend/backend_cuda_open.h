/* The CUDA backend is a library of its own, llmbatch-cuda.so, so that the program starts where there is no driver. It
 * exports one table, by which the program knows whether the two were built for each other. */
#ifndef CORE_BACKEND_BACKEND_CUDA_OPEN_H
#define CORE_BACKEND_BACKEND_CUDA_OPEN_H

#include "core/backend/backend.h"

#define LB_CUDA_LIBRARY_NAME "llmbatch-cuda.so"
#define LB_CUDA_LIBRARY_SYMBOL "lb_cuda_library"
#define LB_CUDA_ABI 1 /* raised when backend.h or what it includes changes what lies where */

struct lb_comm;
struct lb_nccl_spec;

struct lb_cuda_library {
    uint32_t abi;
    const char *version; /* of llmbatch */
    enum lb_status (*open)(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err);
    /* NCCL's communicator (core/dist), and whether it still works: backend.h's `alive` */
    enum lb_status (*comm_open)(struct lb_comm **out, const struct lb_nccl_spec *spec, struct lb_err *err);
    bool (*comm_alive)(void *comm, struct lb_err *err);
    /* "CUDA 13.0, cuBLASLt 13.0.1, NCCL 2.27": what it was linked with */
    const char *(*libraries)(void);
};

/* In the program: opens the library at `path`, or NULL: beside the program, then where it is installed. It stays open.
 * LB_E_DEVICE: it is not there, or is not this program's; the text says what to do. */
enum lb_status lb_cuda_library_open(const struct lb_cuda_library **out, const char *path, struct lb_err *err);

/* Whether the library's file is there. */
bool lb_cuda_library_found(const char *path);

/* In the library. A device that is missing or too old is LB_E_DEVICE with what to do about it. */
enum lb_status lb_cuda_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err);

#endif
