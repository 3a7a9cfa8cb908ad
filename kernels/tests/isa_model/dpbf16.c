#include "kernels/tests/isa_model/dpbf16.h"

#include <math.h>
#include <string.h>

static float flush(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

static float widen(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return flush(x);
}

float lk_model_dpbf16(float sum, const uint16_t x[2], const uint16_t y[2])
{
    sum = flush(fmaf(widen(x[1]), widen(y[1]), flush(sum)));
    return flush(fmaf(widen(x[0]), widen(y[0]), sum));
}

float lk_model_tdpbf16(float sum, const uint16_t *x, const uint16_t *y, int64_t n)
{
    float even = 0, odd = 0;
    for (int64_t k = 0; k < n; k += 2) {
        even = flush(fmaf(widen(x[k]), widen(y[k]), even));
        odd = flush(fmaf(widen(x[k + 1]), widen(y[k + 1]), odd));
    }
    return flush(flush(sum) + flush(even + odd));
}
