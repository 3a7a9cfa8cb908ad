/* Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter-based generator, so
 * that a row's random numbers do not depend on what else runs. */
#ifndef CORE_RUN_PHILOX_H
#define CORE_RUN_PHILOX_H

#include <stdint.h>

/* Ten rounds: out[4] of counter[4] under key[2]. */
void lb_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The number in (0, 1) for a row's generated token `position`: key = seed (low word first), counter = position, sample,
 * row key (low word first); u = (x + 0.5) / 2^32 of the first word. */
double lb_philox_u(uint64_t seed, uint64_t row_key, uint32_t sample, uint32_t position);

#endif
