/* Finds and opens the CUDA backend's library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/backend/backend_cuda_open.h"

#define PATH_BYTES 4096

/* Where the library may lie, as seen from the program's folder. */
static const char *const places[] = {"", LB_CUDA_LIBRARY_FROM_BIN "/"};

static bool program_folder(char *out, size_t n)
{
    ssize_t got = readlink("/proc/self/exe", out, n - 1);
    if (got <= 0)
        return false;
    out[got] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash)
        return false;
    slash[1] = '\0';
    return true;
}

/* The path of the library, or NULL and an error that says where it was looked for. */
static const char *find(char *path, size_t n, struct lb_err *err)
{
    char folder[PATH_BYTES];
    if (program_folder(folder, sizeof folder))
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            int len = snprintf(path, n, "%s%s" LB_CUDA_LIBRARY_NAME, folder, places[i]);
            if (len > 0 && (size_t)len < n && access(path, R_OK) == 0)
                return path;
        }
    else
        folder[0] = '\0';
    lb_err_set(err, LB_E_DEVICE,
               "this installation has no " LB_CUDA_LIBRARY_NAME " (looked for in %s and %s" LB_CUDA_LIBRARY_FROM_BIN
               "): build it where nvcc is, see llmbatch-cuda(7), or use --device cpu",
               folder, folder);
    return NULL;
}

bool lb_cuda_library_found(const char *path)
{
    char found[PATH_BYTES + sizeof LB_CUDA_LIBRARY_FROM_BIN + sizeof LB_CUDA_LIBRARY_NAME];
    struct lb_err err = LB_ERR_INIT;
    return path ? access(path, R_OK) == 0 : find(found, sizeof found, &err) != NULL;
}

static enum lb_status check(const struct lb_cuda_library *lib, const char *path, struct lb_err *err)
{
    if (!lib)
        return lb_err_set(err, LB_E_DEVICE, "'%s' is not llmbatch's CUDA library", path);
    if (lib->abi != LB_CUDA_ABI || strcmp(lib->version, LB_VERSION) != 0)
        return lb_err_set(err, LB_E_DEVICE, "'%s' belongs to llmbatch %s, this is %s: install both from the same build",
                          path, lib->abi == LB_CUDA_ABI ? lib->version : "of another version", LB_VERSION);
    return LB_OK;
}

enum lb_status lb_cuda_library_open(const struct lb_cuda_library **out, const char *path, struct lb_err *err)
{
    char found[PATH_BYTES + sizeof LB_CUDA_LIBRARY_FROM_BIN + sizeof LB_CUDA_LIBRARY_NAME];
    *out = NULL;
    if (!path && (path = find(found, sizeof found, err)) == NULL)
        return err->status;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        return lb_err_set(err, LB_E_DEVICE,
                          "cannot load the CUDA library: %s: install the CUDA libraries that it names, or use --device "
                          "cpu",
                          why ? why : path);
    }
    const struct lb_cuda_library *lib = dlsym(handle, LB_CUDA_LIBRARY_SYMBOL);
    enum lb_status status = check(lib, path, err);
    if (status != LB_OK) {
        dlclose(handle);
        return status;
    }
    *out = lib; /* it is never closed: CUDA keeps threads of its own */
    return LB_OK;
}
