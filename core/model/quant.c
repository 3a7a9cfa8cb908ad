#include "core/model/quant.h"

#include <string.h>

#define BLOCK 32 /* elements of a Q8_0, Q4_0, Q4_1 block */

static uint16_t load_u16(const uint8_t *p)
{
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* IEEE half to single without branches: exponent and fraction move into place and one exact product by 2^112 mends the
 * bias, of subnormals too; an exponent of ones becomes one again. */
static float from_f16(uint16_t h)
{
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    float scaled = from_bits(magnitude) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &scaled, sizeof bits);
    bits = magnitude >= 0x0f800000 ? (magnitude | 0x7f800000) : bits;
    return from_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

static void read_f16(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = from_f16(load_u16(src + 2 * i));
}

static void read_bf16(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = from_bits((uint32_t)load_u16(src + 2 * i) << 16);
}

/* d, qs[32]: y = qs d */
static void read_q8_0(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += BLOCK, src += 2 + BLOCK) {
        float d = from_f16(load_u16(src));
        const int8_t *qs = (const int8_t *)(src + 2);
        for (int j = 0; j < BLOCK; j++)
            out[i + j] = (float)qs[j] * d;
    }
}

/* d, qs[16]: y[j] = (low nibble - 8) d, y[j + 16] = (high nibble - 8) d */
static void read_q4_0(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += BLOCK, src += 2 + BLOCK / 2) {
        float d = from_f16(load_u16(src));
        const uint8_t *qs = src + 2;
        for (int j = 0; j < BLOCK / 2; j++) {
            out[i + j] = (float)((qs[j] & 15) - 8) * d;
            out[i + j + BLOCK / 2] = (float)((qs[j] >> 4) - 8) * d;
        }
    }
}

/* d, m, qs[16]: y[j] = low nibble d + m, y[j + 16] = high nibble d + m */
static void read_q4_1(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += BLOCK, src += 4 + BLOCK / 2) {
        float d = from_f16(load_u16(src)), m = from_f16(load_u16(src + 2));
        const uint8_t *qs = src + 4;
        for (int j = 0; j < BLOCK / 2; j++) {
            out[i + j] = (float)(qs[j] & 15) * d + m;
            out[i + j + BLOCK / 2] = (float)(qs[j] >> 4) * d + m;
        }
    }
}

static const struct {
    int64_t elems;
    size_t bytes;
} block[] = {
    [LB_W_F32] = {1, 4},
    [LB_W_F16] = {1, 2},
    [LB_W_BF16] = {1, 2},
    [LB_W_Q8_0] = {BLOCK, 2 + BLOCK},
    [LB_W_Q4_0] = {BLOCK, 2 + BLOCK / 2},
    [LB_W_Q4_1] = {BLOCK, 4 + BLOCK / 2},
};

size_t lb_quant_bytes(enum lb_wtype type, int64_t n)
{
    if (type >= LB_W_OTHER || n < 0 || n % block[type].elems != 0)
        return 0;
    return (size_t)(n / block[type].elems) * block[type].bytes;
}

void lb_quant_read(enum lb_wtype type, const uint8_t *src, int64_t n, float *out)
{
    switch (type) {
    case LB_W_F32:
        memcpy(out, src, (size_t)n * sizeof *out);
        break;
    case LB_W_F16:
        read_f16(src, n, out);
        break;
    case LB_W_BF16:
        read_bf16(src, n, out);
        break;
    case LB_W_Q8_0:
        read_q8_0(src, n, out);
        break;
    case LB_W_Q4_0:
        read_q4_0(src, n, out);
        break;
    case LB_W_Q4_1:
        read_q4_1(src, n, out);
        break;
    case LB_W_OTHER:
        break;
    }
}

void lb_quant_read_at(enum lb_wtype type, const uint8_t *src, int64_t col, int64_t n, float *out)
{
    if (type >= LB_W_OTHER)
        return;
    int64_t elems = block[type].elems, skip = col % elems;
    src += (size_t)(col / elems) * block[type].bytes;
    while (n > 0) {
        int64_t whole = skip == 0 ? n / elems * elems : 0;
        if (whole > 0) {
            lb_quant_read(type, src, whole, out);
            src += lb_quant_bytes(type, whole);
        } else { /* the end of the first block, the beginning of the last */
            float part[BLOCK];
            whole = elems - skip < n ? elems - skip : n;
            lb_quant_read(type, src, elems, part);
            memcpy(out, part + skip, (size_t)whole * sizeof *out);
            src += block[type].bytes;
            skip = 0;
        }
        out += whole;
        n -= whole;
    }
}
