/* Formulas of spec/models.md 2.2.1 and ggml's dequantize_row_*: d * scale is formed first, in f32, then multiplied with
 * the number, then the minimum is taken off: three roundings, the same as ggml's. */
#include "core/model/quant_k.h"

const int8_t lb_iq4_value[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* scales[16]: 4 bits of scale, 4 of minimum, each of 16 elements; qs[64]; d, dmin. Two bits an element: 32 bytes hold
 * the four quarters of 128 elements. */
void lb_quant_q2_k(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += LB_SUPERBLOCK, src += LB_Q2_K_BYTES, out += LB_SUPERBLOCK) {
        const uint8_t *scales = src, *qs = src + 16;
        float d = lb_half(src + 80), dmin = lb_half(src + 82);
        for (int part = 0; part < 16; part++) {
            const uint8_t *q = qs + part / 8 * 32 + part % 2 * 16;
            int shift = part % 8 / 2 * 2;
            float scale = d * (float)(scales[part] & 15), min = dmin * (float)(scales[part] >> 4);
            for (int l = 0; l < 16; l++)
                out[16 * part + l] = scale * (float)(q[l] >> shift & 3) - min;
        }
    }
}

/* hmask[32], qs[64], scales[12], d. Two bits as in Q2_K, the third in hmask: where it is not set, 4 is taken off.
 * Scales have six bits, 32 taken off: the low four in bytes 0..7, the high two in bytes 8..11. */
void lb_quant_q3_k(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += LB_SUPERBLOCK, src += LB_Q3_K_BYTES, out += LB_SUPERBLOCK) {
        const uint8_t *hmask = src, *qs = src + 32, *scales = src + 96;
        float d = lb_half(src + 108);
        for (int part = 0; part < 16; part++) {
            const uint8_t *q = qs + part / 8 * 32 + part % 2 * 16, *high = hmask + part % 2 * 16;
            int shift = part % 8 / 2 * 2, bit = part / 2;
            int low = scales[part % 8] >> (part < 8 ? 0 : 4) & 15, top = scales[8 + part % 4] >> part / 4 * 2 & 3;
            float scale = d * (float)((low | top << 4) - 32);
            for (int l = 0; l < 16; l++)
                out[16 * part + l] = scale * (float)((q[l] >> shift & 3) - (high[l] >> bit & 1 ? 0 : 4));
        }
    }
}

static void scale_min(const uint8_t *q, int j, float *scale, float *min)
{
    uint8_t sc, mn;
    lb_scale_min(q, j, &sc, &mn);
    *scale = (float)sc;
    *min = (float)mn;
}

/* d, dmin, scales[12], qs[128] */
void lb_quant_q4_k(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += LB_SUPERBLOCK, src += LB_Q4_K_BYTES, out += LB_SUPERBLOCK) {
        float d = lb_half(src), dmin = lb_half(src + 2);
        for (int part = 0; part < 8; part++) {
            const uint8_t *q = src + 16 + part / 2 * 32;
            float scale, min;
            scale_min(src + 4, part, &scale, &min);
            scale *= d;
            min *= dmin;
            for (int l = 0; l < 32; l++)
                out[32 * part + l] = scale * (float)(q[l] >> part % 2 * 4 & 15) - min;
        }
    }
}

/* d, dmin, scales[12], qh[32], qs[128]: as Q4_K, and bit `part` of qh[l] is the fifth. */
void lb_quant_q5_k(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += LB_SUPERBLOCK, src += LB_Q5_K_BYTES, out += LB_SUPERBLOCK) {
        const uint8_t *qh = src + 16;
        float d = lb_half(src), dmin = lb_half(src + 2);
        for (int part = 0; part < 8; part++) {
            const uint8_t *q = src + 48 + part / 2 * 32;
            float scale, min;
            scale_min(src + 4, part, &scale, &min);
            scale *= d;
            min *= dmin;
            for (int l = 0; l < 32; l++)
                out[32 * part + l] = scale * (float)((q[l] >> part % 2 * 4 & 15) | (qh[l] >> part & 1) << 4) - min;
        }
    }
}

/* ql[128], qh[64], scales[16], d. 128 elements at a time: quarter `part` of them has its low four bits in half a byte
 * of ql and its high two in two bits of qh. */
void lb_quant_q6_k(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += LB_SUPERBLOCK, src += LB_Q6_K_BYTES, out += LB_SUPERBLOCK) {
        const int8_t *scales = (const int8_t *)(src + 192);
        float d = lb_half(src + 208);
        for (int part = 0; part < 8; part++) {
            const uint8_t *ql = src + part / 4 * 64 + part % 2 * 32, *qh = src + 128 + part / 4 * 32;
            int low = part % 4 / 2 * 4, high = part % 4 * 2;
            for (int l = 0; l < 32; l++) {
                int q = (ql[l] >> low & 15) | (qh[l] >> high & 3) << 4;
                out[32 * part + l] = d * (float)scales[2 * part + l / 16] * (float)(q - 32);
            }
        }
    }
}

/* d, high bits of the scales, their low bits, qs[128]. Of 32 elements the low nibbles are the first 16. */
void lb_quant_iq4_xs(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += LB_SUPERBLOCK, src += LB_IQ4_XS_BYTES, out += LB_SUPERBLOCK) {
        float d = lb_half(src);
        int high = lb_load_u16(src + 2);
        for (int part = 0; part < 8; part++) {
            const uint8_t *q = src + 8 + 16 * part;
            int scale = (src[4 + part / 2] >> part % 2 * 4 & 15) | (high >> 2 * part & 3) << 4;
            float dl = d * (float)(scale - 32);
            for (int l = 0; l < 16; l++) {
                out[32 * part + l] = dl * (float)lb_iq4_value[q[l] & 15];
                out[32 * part + 16 + l] = dl * (float)lb_iq4_value[q[l] >> 4];
            }
        }
    }
}
