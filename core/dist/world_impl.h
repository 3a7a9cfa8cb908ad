/* What the files of a world share. */
#ifndef CORE_DIST_WORLD_IMPL_H
#define CORE_DIST_WORLD_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "core/dist/world.h"

struct lb_world_impl {
    struct lb_world world; /* what callers see */
    struct lb_world_spec spec;
    char host[256];
    _Atomic int failed; /* set after the failure's text */
    struct lb_err failure;
};

#endif
