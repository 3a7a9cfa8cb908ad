/* vdpbf16ps in C: Intel SDM, volume 2, VDPBF16PS. */
#ifndef KERNELS_TESTS_ISA_MODEL_DPBF16_H
#define KERNELS_TESTS_ISA_MODEL_DPBF16_H

#include <stdint.h>

/* sum + x[1] y[1], then + x[0] y[0]: two fused multiply-adds to nearest even; subnormal inputs and results are zeros
 * of their sign. */
float lk_model_dpbf16(float sum, const uint16_t x[2], const uint16_t y[2]);

#endif
