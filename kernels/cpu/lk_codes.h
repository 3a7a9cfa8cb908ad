/* Where a block's codes lie, in each of a set's orders (lk_packed.h). */
#ifndef KERNELS_CPU_LK_CODES_H
#define KERNELS_CPU_LK_CODES_H

#include "kernels/cpu/lk_packed.h"

/* The codes of column j of a block; `codes` are the panel's, zeros before anything is put there. */
void lk_codes_put(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block, uint8_t *codes);
void lk_codes_get(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j, uint8_t q[LK_BLOCK]);

#endif
