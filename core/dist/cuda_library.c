/* What llmbatch-cuda.so exports. */
#include <cuda_runtime_api.h>
#include <stdio.h>

#include "core/backend/backend_cuda_open.h"
#include "core/dist/nccl.h"

static const char *libraries(void)
{
    static char text[64];
    int runtime = 0;
    cudaRuntimeGetVersion(&runtime);
    snprintf(text, sizeof text, "CUDA %d.%d", runtime / 1000, runtime % 1000 / 10);
    return text;
}

extern const struct lb_cuda_library lb_cuda_library;

__attribute__((visibility("default"))) const struct lb_cuda_library lb_cuda_library = {.abi = LB_CUDA_ABI,
                                                                                       .version = LB_VERSION,
                                                                                       .open = lb_cuda_open,
                                                                                       .comm_open = lb_comm_nccl_open,
                                                                                       .comm_alive = lb_comm_nccl_poll,
                                                                                       .libraries = libraries};
