/* What the codes of a packed row stand for, by the formulas of kernels/args_packed.h. */
#ifndef CORE_TESTS_CODEVALUE_H
#define CORE_TESTS_CODEVALUE_H

#include <math.h>

#include "core/model/quant.h"
#include "kernels/args_packed.h"

static inline float code_scale(const struct lk_packed *how, const void *from, int64_t i)
{
    static const enum lb_wtype type[] = {[LK_SC_F16] = LB_W_F16, [LK_SC_BF16] = LB_W_BF16, [LK_SC_F32] = LB_W_F32};
    enum lb_wtype t = type[how->scale];
    float x;
    lb_quant_read(t, (const uint8_t *)from + (size_t)i * lb_quant_bytes(t, 1), 1, &x);
    return x;
}

/* OCP's E4M3 by its definition. */
static inline float code_e4m3(uint8_t b)
{
    int exponent = b >> 3 & 15, fraction = b & 7;
    float size = exponent ? ldexpf((float)(8 + fraction), exponent - 10) : ldexpf((float)fraction, -9);
    return (b & 0x7f) == 0x7f ? NAN : b & 0x80 ? -size : size;
}

/* Column k of those taken apart. */
static inline float code_value(const struct lk_packed *how, const struct lk_codes *c, int64_t k)
{
    int64_t n = how->kind == LK_PK_K6 ? 16 : 32, first = how->first;
    int64_t group = (first + k) / how->group - first / how->group, sub = (first + k) / n - first / n;
    int q = c->q[k];
    float d = code_scale(how, c->d, group);
    switch (how->kind) {
    case LK_PK_S4:
        return (float)(q - 8) * d;
    case LK_PK_A4:
        return (float)q * d + code_scale(how, c->m, group);
    case LK_PK_K4: {
        float scale = d * (float)c->sc[sub], least = code_scale(how, c->m, group) * (float)c->mn[sub];
        return scale * (float)q - least;
    }
    case LK_PK_K6:
        return d * (float)(int8_t)c->sc[sub] * (float)(q - 32);
    case LK_PK_S8:
        return (float)(q - 128) * d;
    case LK_PK_E4M3:
        return code_e4m3((uint8_t)q) * d;
    default:
        return (float)(q - c->z[group]) * d;
    }
}

#endif
