#include "core/base/hash.h"

#define XXH_INLINE_ALL /* a call into the library costs as much as hashing a word */
#include <xxhash.h>

uint64_t lb_hash64(const void *data, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, n, seed);
}
