/* 2^x of attention on AMX against libm, over floats of the whole range that scores below their maximum have. */
#include <math.h>
#include <stdio.h>

#include "kernels/cpu/amx/amx_softmax.h"

enum { N = 8, EVERY = 61 };

int main(void)
{
    static const float odd[N] = {-150.0f, -1e9f, -INFINITY, NAN, -1.0f, 0.0f, -126.0f, -0x1p-30f};
    const uint32_t end = lk_bits(126.0f);
    double worst = 0;
    int failed = 0;
    for (uint32_t u = lk_bits(0x1p-30f); u < end; u += N * EVERY) {
        float in[16], out[16];
        __m512 x[1];
        for (uint32_t i = 0; i < 16; i++)
            in[i] = -lk_float(u + i % N * EVERY);
        x[0] = _mm512_loadu_ps(in);
        lk_amx_power(1, x);
        _mm512_storeu_ps(out, x[0]);
        for (int i = 0; i < N; i++)
            worst = fmax(worst, fabs((double)out[i] / exp2((double)in[i]) - 1));
    }
    float out[16] = {0};
    __m512 x[1];
    for (int i = 0; i < N; i++)
        out[i] = odd[i];
    x[0] = _mm512_loadu_ps(out);
    lk_amx_power(1, x);
    _mm512_storeu_ps(out, x[0]);
    for (int i = 0; i < N; i++) {
        const float want = exp2f(odd[i]);
        failed += isnan(want) ? !isnan(out[i]) : !(fabsf(out[i] - want) <= 0x1p-13f * want) && !(i == 0 && out[i] == 0);
    }
    printf("2^x: relative error at most 2^%.2f, %d special values wrong\n", log2(worst), failed);
    return failed > 0 || worst > 0x1p-13 * 0.66; /* 2^-13.6 */
}
