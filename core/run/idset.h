/* Ids that rows had, as their 64-bit hashes, to find one that comes again. One thread uses a set. */
#ifndef CORE_RUN_IDSET_H
#define CORE_RUN_IDSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

/* Rows that are remembered: 64 MiB. Later ones are compared with these. */
#define LB_ID_SET_MAX ((size_t)3500000)

/* Where a row stands: file by file, line by line. */
struct lb_id_place {
    uint32_t file, line;
};

struct lb_id_slot {
    uint64_t key; /* 0: free */
    struct lb_id_place at;
};

/* Zero-initialize. */
struct lb_id_set {
    struct lb_id_slot *slot; /* [cap] */
    size_t n, cap;           /* cap is a power of two */
};

/* Adds a row's key. *again: it is there already, *first says where. */
enum lb_status lb_id_set_add(struct lb_id_set *s, uint64_t key, struct lb_id_place at, bool *again,
                             struct lb_id_place *first, struct lb_err *err);
void lb_id_set_release(struct lb_id_set *s);

#endif
