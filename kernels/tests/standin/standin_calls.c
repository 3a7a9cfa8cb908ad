/* Calls, faults on purpose, reports, devices and handles. */
#include "kernels/tests/standin/standin_state.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REPORTS_BYTES 16384
#define MAX_HANDLES 16384
#define HANG_S 60
#define AWAIT_NS 5000000
#define EXIT_REPORTS 99

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;

static struct {
    int n_device;
    size_t bytes;
    enum standin_order order;
    long n_call, fail_at;
    bool dead, has_died;
    const char *failed, *fail_call; /* fail_call NULL: any */
    cudaError_t device_error[STANDIN_MAX_DEVICE];
    char reports[REPORTS_BYTES];
    size_t n_text;
    int n_report;
} all = {.n_device = 4, .bytes = (size_t)256 << 20};

static struct {
    const char *kind;
    const void *handle;
} handles[MAX_HANDLES];
static int n_handle;

static _Thread_local int this_device;
static _Thread_local cudaError_t last_error;
static _Thread_local const char *this_call = "";

static void at_end(void)
{
    if (standin_end() > 0)
        _exit(EXIT_REPORTS);
}

static void from_environment(void)
{
    const char *text;
    if ((text = getenv("STANDIN_DEVICES")))
        all.n_device = atoi(text);
    if ((text = getenv("STANDIN_BYTES")))
        all.bytes = strtoull(text, NULL, 10);
    if ((text = getenv("STANDIN_FAIL")))
        all.fail_at = atol(text);
    if ((text = getenv("STANDIN_ORDER")))
        all.order = atoi(text) ? STANDIN_SOON : STANDIN_LATE;
    all.dead = getenv("STANDIN_DEAD") != NULL;
    if (all.n_device > STANDIN_MAX_DEVICE)
        all.n_device = STANDIN_MAX_DEVICE;
    atexit(at_end);
}

static void take(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, from_environment);
    pthread_mutex_lock(&lock);
}

static bool must_fail(const char *call)
{
    all.n_call++;
    if (all.has_died)
        return true;
    if (all.fail_at == 0 || (all.fail_call && strcmp(call, all.fail_call) != 0) || --all.fail_at > 0)
        return false;
    all.failed = call;
    all.has_died = all.dead;
    return true;
}

bool standin_enter_other(const char *call)
{
    take();
    this_call = call;
    return must_fail(call);
}

void standin_leave_other(void)
{
    this_call = "";
    pthread_mutex_unlock(&lock);
}

cudaError_t standin_enter(const char *call)
{
    if (standin_enter_other(call)) {
        bool allocates = strcmp(call, "cudaMalloc") == 0 || strcmp(call, "cudaMallocHost") == 0;
        return allocates && !all.has_died ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure;
    }
    return this_device < all.n_device ? all.device_error[this_device] : cudaSuccess;
}

cudaError_t standin_leave(cudaError_t code)
{
    if (code != cudaSuccess && code != cudaErrorNotReady)
        last_error = code;
    standin_leave_other();
    return code;
}

void standin_await(void)
{
    static double quiet_s;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += AWAIT_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    quiet_s = pthread_cond_timedwait(&news, &lock, &until) == ETIMEDOUT ? quiet_s + 1e-9 * AWAIT_NS : 0;
    if (quiet_s > HANG_S) {
        fprintf(stderr, "stand-in: %s waits for ranks that do not come\n", this_call);
        _exit(EXIT_REPORTS);
    }
}

void standin_news(void)
{
    pthread_cond_broadcast(&news);
}

void standin_report(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    all.n_report++;
    if (strstr(all.reports, line))
        return;
    fprintf(stderr, "stand-in: %s%s%s\n", this_call, *this_call ? ": " : "", line);
    size_t room = sizeof all.reports - all.n_text;
    int n = snprintf(all.reports + all.n_text, room, "%s%s%s\n", this_call, *this_call ? ": " : "", line);
    all.n_text += (size_t)n < room ? (size_t)n : 0;
    all.reports[all.n_text] = '\0';
}

/* ---- for tests ---- */

void standin_devices(int n, size_t bytes)
{
    take();
    all.n_device = n < STANDIN_MAX_DEVICE ? n : STANDIN_MAX_DEVICE;
    all.bytes = bytes;
    standin_leave_other();
}

void standin_order(enum standin_order order)
{
    take();
    all.order = order;
    standin_leave_other();
}

void standin_fail_at(const char *call, long n, bool dead)
{
    take();
    all.fail_call = call;
    all.fail_at = n;
    all.dead = dead;
    all.has_died = false;
    all.failed = NULL;
    standin_leave_other();
}

void standin_fail(long n, bool dead)
{
    standin_fail_at(NULL, n, dead);
}

long standin_calls(void)
{
    take();
    long n = all.n_call;
    standin_leave_other();
    return n;
}

const char *standin_failed(void)
{
    return all.failed;
}

const char *standin_reports(void)
{
    return all.reports;
}

void standin_forget(void)
{
    take();
    all.n_report = 0;
    all.n_text = 0;
    all.reports[0] = '\0';
    memset(all.device_error, 0, sizeof all.device_error);
    standin_leave_other();
}

int standin_end(void)
{
    take();
    standin_memory_leaks();
    for (int i = 0; i < n_handle; i++)
        standin_report("%s %p is open still", handles[i].kind, handles[i].handle);
    int n = all.n_report;
    standin_leave_other();
    return n;
}

/* ---- devices and handles ---- */

bool standin_lost(void)
{
    return all.has_died;
}

bool standin_has_failed(void)
{
    return all.failed != NULL;
}

int standin_device(void)
{
    return this_device;
}

void standin_device_set(int device)
{
    this_device = device;
}

int standin_n_device(void)
{
    return all.n_device;
}

size_t standin_device_bytes(void)
{
    return all.bytes;
}

enum standin_order standin_ordered(void)
{
    return all.order;
}

void standin_device_fail(int device, cudaError_t code)
{
    if (all.device_error[device] == cudaSuccess)
        all.device_error[device] = code;
}

cudaError_t standin_device_error(int device)
{
    return all.device_error[device];
}

void standin_made(const char *kind, const void *handle)
{
    if (n_handle == MAX_HANDLES)
        abort();
    handles[n_handle].kind = kind;
    handles[n_handle++].handle = handle;
}

static int find(const char *kind, const void *handle)
{
    int i = n_handle - 1;
    while (i >= 0 && (handles[i].handle != handle || strcmp(handles[i].kind, kind) != 0))
        i--;
    if (i < 0)
        standin_report("%p is no %s that is open", handle, kind);
    return i;
}

bool standin_lives(const char *kind, const void *handle)
{
    return find(kind, handle) >= 0;
}

bool standin_gone(const char *kind, const void *handle)
{
    int i = find(kind, handle);
    if (i < 0)
        return false;
    handles[i] = handles[--n_handle];
    return true;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}
