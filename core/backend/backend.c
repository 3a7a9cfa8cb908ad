#include "core/backend/backend.h"

#include <string.h>

#include "core/backend/backend_cpu.h"

const char *lb_backend_isa_list(void)
{
    return lk_cpu_detect() & LK_ISA_AVX512BF16 ? "ref avx512bf16" : "ref";
}

/* The registry of devices: name -> open. "auto" is the first one that opens. */
enum lb_status lb_backend_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err)
{
    *out = NULL;
    const char *device = spec->device ? spec->device : "auto";
    if (strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0)
        return lb_cpu_open(out, spec, err);
    return lb_err_set(err, LB_E_USAGE, "unknown device '%s': this build has cpu", device);
}
