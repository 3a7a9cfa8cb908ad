/* What tests and benches ask of the set beside the table; free of intrinsics. */
#ifndef KERNELS_CPU_AVX512_LK_AVX512_PROBE_H
#define KERNELS_CPU_AVX512_LK_AVX512_PROBE_H

#include <stdint.h>

/* y[i] = e^x[i] as the set computes it. */
void lk_avx512_exp(const float *x, float *y, int64_t n);

/* n rounds of vdpbf16ps in registers; returns the floating-point operations done. */
double lk_avx512_peak(int64_t n);

#endif
