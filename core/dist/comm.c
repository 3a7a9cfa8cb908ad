#include "core/dist/comm.h"

#include <stddef.h>
#include <string.h>

#include "core/dist/wire.h"

#ifdef LB_WITH_MPI
const struct lb_wire_ops *lb_wire(void)
{
    return lb_wire_mpi();
}
#else
const struct lb_wire_ops *lb_wire(void)
{
    return NULL;
}
#endif

const char *lb_comm_names(void)
{
    return lb_wire() ? "self mpi" : "self";
}

enum lb_status lb_comm_open(struct lb_comm **out, const char *name, struct lb_err *err)
{
    *out = NULL;
    if (strcmp(name, "self") != 0)
        return lb_err_set(err, LB_E_USAGE, "unknown communicator '%s': without a world there is self", name);
    *out = lb_comm_self();
    return LB_OK;
}
