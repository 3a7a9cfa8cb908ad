/* One sum of vdpbf16ps and of tdpbf16ps in C: Intel SDM, volume 2. */
#ifndef KERNELS_TESTS_ISA_MODEL_DPBF16_H
#define KERNELS_TESTS_ISA_MODEL_DPBF16_H

#include <stdint.h>

/* sum + x[1] y[1], then + x[0] y[0]: two fused multiply-adds to nearest even; subnormal inputs and results are zeros
 * of their sign. */
float lk_model_dpbf16(float sum, const uint16_t x[2], const uint16_t y[2]);

/* sum + (products of even elements + products of odd elements), each of the two summed from zero by fused multiply-adds
 * in order; x[n], y[n], n even and at most 32. Roundings and subnormals as above. */
float lk_model_tdpbf16(float sum, const uint16_t *x, const uint16_t *y, int64_t n);

#endif
