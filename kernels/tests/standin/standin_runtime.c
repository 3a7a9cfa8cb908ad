/* Devices, copies, launches and what errors are called. */
#include "kernels/tests/standin/standin_state.h"

#include <stdio.h>
#include <string.h>

#include "kernels/tests/standin/standin_bridge.h"

#define SHARED_OPTIN 101376 /* of an sm_120: the least that kernels count on */
#define VERSION 13000

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *n)
{
    cudaError_t e = standin_enter("cudaGetDeviceCount");
    *n = standin_n_device();
    return standin_leave(e ? e : *n == 0 ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int device)
{
    cudaError_t e = standin_enter("cudaSetDevice");
    if (!e && (device < 0 || device >= standin_n_device()))
        e = cudaErrorInvalidDevice;
    if (!e)
        standin_device_set(device);
    return standin_leave(e);
}

cudaError_t cudaGetDevice(int *device)
{
    cudaError_t e = standin_enter("cudaGetDevice");
    *device = standin_device();
    return standin_leave(e);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    cudaError_t e = standin_enter("cudaGetDeviceProperties");
    *p = (struct cudaDeviceProp){0};
    if (!e && (device < 0 || device >= standin_n_device()))
        e = cudaErrorInvalidDevice;
    if (e)
        return standin_leave(e);
    snprintf(p->name, sizeof p->name, "stand-in");
    p->totalGlobalMem = standin_device_bytes();
    p->sharedMemPerBlock = 49152;
    p->sharedMemPerBlockOptin = SHARED_OPTIN;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->major = 9;
    p->multiProcessorCount = 4;
    p->memPitch = 0x7fffffff;
    p->textureAlignment = 512;
    p->l2CacheSize = 1 << 20;
    return standin_leave(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int device)
{
    cudaError_t e = standin_enter("cudaDeviceGetAttribute");
    *value = 0;
    if (!e && (device < 0 || device >= standin_n_device()))
        e = cudaErrorInvalidDevice;
    if (what == cudaDevAttrMaxSharedMemoryPerBlockOptin)
        *value = SHARED_OPTIN;
    else if (what == cudaDevAttrMultiProcessorCount)
        *value = 4;
    else if (what == cudaDevAttrComputeCapabilityMajor)
        *value = 9;
    else if (what != cudaDevAttrComputeCapabilityMinor)
        standin_report("attribute %d is not modeled", (int)what);
    return standin_leave(e);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    cudaError_t e = standin_enter("cudaRuntimeGetVersion");
    *version = VERSION;
    return standin_leave(e);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    cudaError_t e = standin_enter("cudaDriverGetVersion");
    *version = VERSION;
    return standin_leave(e);
}

/* ---- copies ---- */

static cudaError_t bad_copy(const char *why)
{
    standin_report("%s", why);
    return cudaErrorInvalidValue;
}

static size_t span(const struct standin_rect *r, size_t pitch)
{
    return r->height ? (r->height - 1) * pitch + r->width : 0;
}

static bool kind_is(enum cudaMemcpyKind kind, bool from_device, bool to_device)
{
    return kind == cudaMemcpyDefault ||
           kind == (from_device ? to_device ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost
                    : to_device ? cudaMemcpyHostToDevice
                                : cudaMemcpyHostToHost);
}

/* blocking: the runtime's own, from any memory; else from pinned memory, or to any: then the call returns when it is
 * done. */
static cudaError_t copy(const char *name, const struct standin_rect *r, enum cudaMemcpyKind kind, cudaStream_t s,
                        bool blocking)
{
    int device;
    if (r->width == 0 || r->height == 0)
        return cudaSuccess;
    enum standin_place from = standin_place(r->from, span(r, r->from_pitch), &device);
    enum standin_place to = standin_place(r->to, span(r, r->to_pitch), &device);
    if (from == STANDIN_NOWHERE || to == STANDIN_NOWHERE)
        return bad_copy("a copy from or to outside of an allocation");
    if (r->width > r->to_pitch || r->width > r->from_pitch)
        return bad_copy("rows that are longer than their pitch");
    if (!kind_is(kind, from == STANDIN_ON_DEVICE, to == STANDIN_ON_DEVICE))
        return bad_copy("memory is not where the kind of the copy says");
    if (from == STANDIN_PAGEABLE && !blocking)
        return bad_copy("an asynchronous copy from memory that is not pinned");
    struct standin_op *op = standin_op_new(OP_COPY, name, NULL, 0);
    op->rect = *r;
    op->pinned_from = from == STANDIN_PINNED;
    op->pinned_to = to == STANDIN_PINNED;
    if (s && s->capture && (blocking || to == STANDIN_PAGEABLE)) {
        standin_op_drop(op);
        standin_break_recording();
        return bad_copy("a blocking copy in a stream that is recorded");
    }
    cudaError_t e = standin_enqueue(s, op);
    return e || !(blocking || to == STANDIN_PAGEABLE) ? e : standin_drain(s);
}

static struct standin_rect line(void *to, const void *from, size_t bytes)
{
    return (struct standin_rect){
        .to = to, .from = from, .to_pitch = bytes, .from_pitch = bytes, .width = bytes, .height = 1};
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s)
{
    cudaError_t e = standin_enter("cudaMemcpyAsync");
    struct standin_rect r = line(to, from, bytes);
    return standin_leave(e ? e : copy("cudaMemcpyAsync", &r, kind, s, false));
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    cudaError_t e = standin_enter("cudaMemcpy");
    if (!standin_may_touch_all("cudaMemcpy"))
        e = cudaErrorStreamCaptureUnsupported;
    struct standin_rect r = line(to, from, bytes);
    return standin_leave(e ? e : copy("cudaMemcpy", &r, kind, standin_null_stream(), true));
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t s)
{
    cudaError_t e = standin_enter("cudaMemcpy2DAsync");
    struct standin_rect r = {to, from, 0, to_pitch, from_pitch, width, height};
    return standin_leave(e ? e : copy("cudaMemcpy2DAsync", &r, kind, s, false));
}

static cudaError_t set(const char *name, const struct standin_rect *r, cudaStream_t s)
{
    int device;
    if (r->width == 0 || r->height == 0)
        return cudaSuccess;
    if (r->width > r->to_pitch || standin_place(r->to, span(r, r->to_pitch), &device) != STANDIN_ON_DEVICE)
        return bad_copy("bytes that are not device memory are set");
    struct standin_op *op = standin_op_new(OP_SET, name, NULL, 0);
    op->rect = *r;
    return standin_enqueue(s, op);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    cudaError_t e = standin_enter("cudaMemsetAsync");
    struct standin_rect r = line(to, NULL, bytes);
    r.value = value;
    return standin_leave(e ? e : set("cudaMemsetAsync", &r, s));
}

cudaError_t cudaMemset2DAsync(void *to, size_t pitch, int value, size_t width, size_t height, cudaStream_t s)
{
    cudaError_t e = standin_enter("cudaMemset2DAsync");
    struct standin_rect r = {to, NULL, value, pitch, 0, width, height};
    return standin_leave(e ? e : set("cudaMemset2DAsync", &r, s));
}

/* ---- kernels ---- */

static int run_kernel(void *call, void *stream)
{
    (void)stream;
    if (standin_bridge_run(call) == 0)
        return 0;
    standin_report("%s", standin_bridge_message());
    return cudaErrorIllegalAddress;
}

int standin_bridge_queue(const char *name, void *stream, const void *call, size_t bytes)
{
    cudaError_t e = standin_enter(name);
    if (e)
        return standin_leave(e);
    struct standin_op *op = standin_op_new(OP_LAUNCH, name, call, bytes);
    op->run = run_kernel;
    return standin_leave(standin_enqueue(stream, op));
}

void standin_bridge_saw(const void *at, size_t bytes, bool store)
{
    standin_touch(at, bytes, store);
}

/* ---- errors ---- */

static const struct {
    cudaError_t code;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work"},
};

const char *cudaGetErrorName(cudaError_t code)
{
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].code == code)
            return errors[i].name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t code)
{
    if (code == cudaErrorIllegalAddress && *standin_bridge_message())
        return standin_bridge_message();
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].code == code)
            return errors[i].text;
    return "unrecognized error code";
}
