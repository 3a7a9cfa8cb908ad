/* The device's memory on the model: exactly as long as asked for, and known to it. */
#include "kernels/tests/cuda/checkcuda.cuh"
#include "kernels/tests/simt/simt.cuh"

void *dev_alloc(size_t bytes, bool writable)
{
    void *p = NULL;
    if (posix_memalign(&p, 256, bytes ? bytes : 1) != 0)
        abort();
    simt_add(p, bytes, writable);
    return p;
}

void dev_free(void *p)
{
    simt_remove(p);
    free(p);
}

void dev_write(void *to, const void *from, size_t bytes)
{
    if (bytes)
        memcpy(to, from, bytes);
}

void dev_read(void *to, const void *from, size_t bytes)
{
    if (bytes)
        memcpy(to, from, bytes);
}

const char *dev_error(int code)
{
    return code ? simt_message() : NULL;
}

void dev_print_kernels(void)
{
    simt_each_kernel(
        [](const char *name, int threads, size_t shared) { printf("kernel %d %zu %s\n", threads, shared, name); });
}

void dev_limit_shared(size_t bytes)
{
    simt_limit_shared(bytes);
}
