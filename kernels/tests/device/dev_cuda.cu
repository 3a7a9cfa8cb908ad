/* The device's memory on a device. */
#include <cuda_runtime.h>

#include "kernels/tests/cuda/checkcuda.cuh"

static void must(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "checkcuda: %s\n", cudaGetErrorString(e));
    exit(e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver ? 77 : 1);
}

void *dev_alloc(size_t bytes, bool)
{
    void *p = NULL;
    must(cudaMalloc(&p, bytes ? bytes : 1));
    return p;
}

void dev_free(void *p)
{
    must(cudaFree(p));
}

void dev_write(void *to, const void *from, size_t bytes)
{
    must(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}

void dev_read(void *to, const void *from, size_t bytes)
{
    must(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}

const char *dev_error(int code)
{
    cudaError_t e = code ? (cudaError_t)code : cudaDeviceSynchronize();
    return e == cudaSuccess ? NULL : cudaGetErrorString(e);
}

void dev_print_kernels(void)
{
}

void dev_limit_shared(size_t)
{
}
