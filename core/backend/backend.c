#include "core/backend/backend.h"

#include <stdio.h>
#include <string.h>

#include "core/backend/backend_cpu.h"
#include "core/backend/backend_cuda_open.h"
#include "core/backend/backend_null.h"

const char *lb_backend_isa_list(void)
{
    static _Thread_local char list[64];
    unsigned have = lk_cpu_detect(), bit;
    const char *name;
    size_t at = 0;
    for (int i = 0; (name = lk_cpu_set(i, &bit)) != NULL; i++)
        if (have & bit)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", at ? " " : "", name);
    return list;
}

static enum lb_status open_cuda(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err)
{
    const struct lb_cuda_library *lib;
    LB_TRY(lb_cuda_library_open(&lib, spec->cuda_library, err));
    return lib->open(out, spec, err);
}

/* CUDA where it can be had. That it cannot is no failure, and news only where somebody installed it. */
static enum lb_status open_auto(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err)
{
    struct lb_err why = LB_ERR_INIT;
    if (spec->isa)
        return lb_cpu_open(out, spec, err);
    if (open_cuda(out, spec, &why) == LB_OK)
        return LB_OK;
    if (spec->log)
        lb_log_put(spec->log, lb_cuda_library_found(spec->cuda_library) ? LB_LOG_INFO : LB_LOG_DEBUG,
                   "device auto: cpu, as there is no CUDA: %s", why.text);
    return lb_cpu_open(out, spec, err);
}

/* The registry of devices: name -> open. */
enum lb_status lb_backend_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err)
{
    *out = NULL;
    const char *device = spec->device ? spec->device : "auto";
    if (strcmp(device, "auto") == 0)
        return open_auto(out, spec, err);
    if (strcmp(device, "cpu") == 0)
        return lb_cpu_open(out, spec, err);
    if (strcmp(device, "cuda") == 0)
        return open_cuda(out, spec, err);
    if (strcmp(device, "null") == 0)
        return lb_null_open(out, spec, err);
    return lb_err_set(err, LB_E_USAGE, "unknown device '%s': there are cpu, cuda and null", device);
}
