/* Blocks of 256 elements (ggml's K-quants and IQ4_XS), each a superblock with scales of its parts. */
#ifndef CORE_MODEL_QUANT_K_H
#define CORE_MODEL_QUANT_K_H

#include <stdint.h>
#include <string.h>

#define LB_SUPERBLOCK 256

/* Lays of ggml's blocks in order (ggml/src/ggml-common.h). */
#define LB_Q2_K_BYTES (16 + 64 + 2 + 2)
#define LB_Q3_K_BYTES (32 + 64 + 12 + 2)
#define LB_Q4_K_BYTES (2 + 2 + 12 + 128)
#define LB_Q5_K_BYTES (2 + 2 + 12 + 32 + 128)
#define LB_Q6_K_BYTES (128 + 64 + 16 + 2)
#define LB_IQ4_XS_BYTES (2 + 2 + 4 + 128)

static inline float lb_float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint16_t lb_load_u16(const uint8_t *p)
{
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* IEEE half to single without branches: exponent and fraction move into place and one exact product by 2^112 mends the
 * bias, of subnormals too; an exponent of ones becomes one again. */
static inline float lb_half(const uint8_t *p)
{
    uint16_t h = lb_load_u16(p);
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, bits;
    float scaled = lb_float_of_bits(magnitude) * 0x1p112f;
    memcpy(&bits, &scaled, sizeof bits);
    bits = magnitude >= 0x0f800000 ? (magnitude | 0x7f800000) : bits;
    return lb_float_of_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

/* Scale and minimum j of eight, six bits each, in the 12 bytes at q that Q4_K and Q5_K have. */
static inline void lb_scale_min(const uint8_t *q, int j, uint8_t *scale, uint8_t *min)
{
    *scale = (uint8_t)(j < 4 ? q[j] & 63 : (q[j + 4] & 15) | q[j - 4] >> 6 << 4);
    *min = (uint8_t)(j < 4 ? q[j + 4] & 63 : q[j + 4] >> 4 | q[j] >> 6 << 4);
}

/* What the four bits of IQ4_NL and IQ4_XS stand for. */
extern const int8_t lb_iq4_value[16];

/* out[n] = the superblocks at src; n is a multiple of 256. */
void lb_quant_q2_k(const uint8_t *src, int64_t n, float *out);
void lb_quant_q3_k(const uint8_t *src, int64_t n, float *out);
void lb_quant_q4_k(const uint8_t *src, int64_t n, float *out);
void lb_quant_q5_k(const uint8_t *src, int64_t n, float *out);
void lb_quant_q6_k(const uint8_t *src, int64_t n, float *out);
void lb_quant_iq4_xs(const uint8_t *src, int64_t n, float *out);

#endif
