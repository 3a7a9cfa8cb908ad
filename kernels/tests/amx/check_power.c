/* 2^x before numbers that are rounded to bf16 (sets amx and avx512bf16) against libm: over floats of the whole range
 * that scores below their maximum have, and of what SwiGLU raises, which may be above 0. */
#include <math.h>
#include <stdio.h>

#include "kernels/cpu/avx512/avx512_power.h"

enum { N = 10, EVERY = 61 };

/* The largest relative error over floats of a sign, from 2^-30 to `end` in magnitude. */
static double worst_of(float sign, float end)
{
    double worst = 0;
    for (uint32_t u = lk_bits(0x1p-30f); u < lk_bits(end); u += 16 * EVERY) {
        float x[16];
        __m512 y[1];
        for (uint32_t i = 0; i < 16; i++)
            x[i] = sign * lk_float(u + i * EVERY);
        y[0] = _mm512_loadu_ps(x);
        lk_power(1, y);
        float got[16];
        _mm512_storeu_ps(got, y[0]);
        for (int i = 0; i < 16; i++)
            worst = fmax(worst, fabs((double)got[i] / exp2((double)x[i]) - 1));
    }
    return worst;
}

static int specials_wrong(void)
{
    static const float odd[N] = {-150.0f, -1e9f, -INFINITY, NAN, -1.0f, 0.0f, -126.0f, -0x1p-30f, 1e9f, INFINITY};
    float got[16] = {0};
    __m512 y[1];
    int wrong = 0;
    for (int i = 0; i < N; i++)
        got[i] = odd[i];
    y[0] = _mm512_loadu_ps(got);
    lk_power(1, y);
    _mm512_storeu_ps(got, y[0]);
    for (int i = 0; i < N; i++) {
        const float want = exp2f(odd[i]);
        bool same = isinf(want) ? got[i] == want : fabsf(got[i] - want) <= 0x1p-13f * want;
        wrong += isnan(want) ? !isnan(got[i]) : !same && !(i == 0 && got[i] == 0);
    }
    return wrong;
}

int main(void)
{
    double below = worst_of(-1, 126), above = worst_of(1, 127);
    int wrong = specials_wrong();
    printf("2^x: relative error at most 2^%.2f below 0, 2^%.2f above, %d special values wrong\n", log2(below),
           log2(above), wrong);
    return wrong > 0 || fmax(below, above) > 0x1p-13 * 0.66; /* 2^-13.6 */
}
