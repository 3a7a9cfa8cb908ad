/* XXH3-64 of a byte range (xxHash), the project's one hash. */
#ifndef CORE_BASE_HASH_H
#define CORE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t lb_hash64(const void *data, size_t n, uint64_t seed);

#endif
