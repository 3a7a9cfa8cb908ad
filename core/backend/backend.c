#include "core/backend/backend.h"

#include <stdio.h>
#include <string.h>

#include "core/backend/backend_cpu.h"
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

/* The registry of devices: name -> open. "auto" is the first one that opens and computes. */
enum lb_status lb_backend_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err)
{
    *out = NULL;
    const char *device = spec->device ? spec->device : "auto";
    if (strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0)
        return lb_cpu_open(out, spec, err);
    if (strcmp(device, "null") == 0)
        return lb_null_open(out, spec, err);
    return lb_err_set(err, LB_E_USAGE, "unknown device '%s': this build has cpu and null", device);
}
