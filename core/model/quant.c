#include "core/model/quant.h"

#include "core/model/quant_k.h"

#define BLOCK 32 /* elements of a block that is no superblock */

static void read_f16(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = lb_half(src + 2 * i);
}

static void read_bf16(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = lb_float_of_bits((uint32_t)lb_load_u16(src + 2 * i) << 16);
}

/* d, qs[32]: y = qs d */
static void read_q8_0(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += BLOCK, src += 2 + BLOCK) {
        float d = lb_half(src);
        const int8_t *qs = (const int8_t *)(src + 2);
        for (int j = 0; j < BLOCK; j++)
            out[i + j] = (float)qs[j] * d;
    }
}

/* d, qs[16]: y[j] = (low nibble - 8) d, y[j + 16] = (high nibble - 8) d */
static void read_q4_0(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += BLOCK, src += 2 + BLOCK / 2) {
        float d = lb_half(src);
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
        float d = lb_half(src), m = lb_half(src + 2);
        const uint8_t *qs = src + 4;
        for (int j = 0; j < BLOCK / 2; j++) {
            out[i + j] = (float)(qs[j] & 15) * d + m;
            out[i + j + BLOCK / 2] = (float)(qs[j] >> 4) * d + m;
        }
    }
}

/* Bits 4 of 32 numbers: bit j of the four bytes, little-endian. */
static int fifth_bit(const uint8_t *qh, int j)
{
    return (qh[j / 8] >> j % 8 & 1) << 4;
}

/* d, qh[4], qs[16]: as Q4_0 with a fifth bit, less 16 */
static void read_q5_0(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += BLOCK, src += 6 + BLOCK / 2) {
        float d = lb_half(src);
        const uint8_t *qh = src + 2, *qs = src + 6;
        for (int j = 0; j < BLOCK / 2; j++) {
            out[i + j] = (float)(((qs[j] & 15) | fifth_bit(qh, j)) - 16) * d;
            out[i + j + BLOCK / 2] = (float)((qs[j] >> 4 | fifth_bit(qh, j + BLOCK / 2)) - 16) * d;
        }
    }
}

/* d, m, qh[4], qs[16]: as Q4_1 with a fifth bit */
static void read_q5_1(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += BLOCK, src += 8 + BLOCK / 2) {
        float d = lb_half(src), m = lb_half(src + 2);
        const uint8_t *qh = src + 4, *qs = src + 8;
        for (int j = 0; j < BLOCK / 2; j++) {
            out[i + j] = (float)((qs[j] & 15) | fifth_bit(qh, j)) * d + m;
            out[i + j + BLOCK / 2] = (float)(qs[j] >> 4 | fifth_bit(qh, j + BLOCK / 2)) * d + m;
        }
    }
}

/* d, qs[16]: as Q4_0, the numbers from a table */
static void read_iq4_nl(const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += BLOCK, src += 2 + BLOCK / 2) {
        float d = lb_half(src);
        const uint8_t *qs = src + 2;
        for (int j = 0; j < BLOCK / 2; j++) {
            out[i + j] = (float)lb_iq4_value[qs[j] & 15] * d;
            out[i + j + BLOCK / 2] = (float)lb_iq4_value[qs[j] >> 4] * d;
        }
    }
}

static void read_f32(const uint8_t *src, int64_t n, float *out)
{
    memcpy(out, src, (size_t)n * sizeof *out);
}

static const struct {
    const char *name;
    int64_t elems;
    size_t bytes;
    void (*read)(const uint8_t *src, int64_t n, float *out);
} block[] = {
    [LB_W_F32] = {"F32", 1, 4, read_f32},
    [LB_W_F16] = {"F16", 1, 2, read_f16},
    [LB_W_BF16] = {"BF16", 1, 2, read_bf16},
    [LB_W_Q8_0] = {"Q8_0", BLOCK, 2 + BLOCK, read_q8_0},
    [LB_W_Q4_0] = {"Q4_0", BLOCK, 2 + BLOCK / 2, read_q4_0},
    [LB_W_Q4_1] = {"Q4_1", BLOCK, 4 + BLOCK / 2, read_q4_1},
    [LB_W_Q5_0] = {"Q5_0", BLOCK, 6 + BLOCK / 2, read_q5_0},
    [LB_W_Q5_1] = {"Q5_1", BLOCK, 8 + BLOCK / 2, read_q5_1},
    [LB_W_IQ4_NL] = {"IQ4_NL", BLOCK, 2 + BLOCK / 2, read_iq4_nl},
    [LB_W_Q2_K] = {"Q2_K", LB_SUPERBLOCK, LB_Q2_K_BYTES, lb_quant_q2_k},
    [LB_W_Q3_K] = {"Q3_K", LB_SUPERBLOCK, LB_Q3_K_BYTES, lb_quant_q3_k},
    [LB_W_Q4_K] = {"Q4_K", LB_SUPERBLOCK, LB_Q4_K_BYTES, lb_quant_q4_k},
    [LB_W_Q5_K] = {"Q5_K", LB_SUPERBLOCK, LB_Q5_K_BYTES, lb_quant_q5_k},
    [LB_W_Q6_K] = {"Q6_K", LB_SUPERBLOCK, LB_Q6_K_BYTES, lb_quant_q6_k},
    [LB_W_IQ4_XS] = {"IQ4_XS", LB_SUPERBLOCK, LB_IQ4_XS_BYTES, lb_quant_iq4_xs},
};

#define N_BLOCK (sizeof block / sizeof *block)

const char *lb_quant_name(enum lb_wtype type)
{
    return type < N_BLOCK ? block[type].name : "other";
}

int64_t lb_quant_block(enum lb_wtype type)
{
    return type < N_BLOCK ? block[type].elems : 0;
}

size_t lb_quant_bytes(enum lb_wtype type, int64_t n)
{
    if (type >= N_BLOCK || n < 0 || n % block[type].elems != 0)
        return 0;
    return (size_t)(n / block[type].elems) * block[type].bytes;
}

void lb_quant_read(enum lb_wtype type, const uint8_t *src, int64_t n, float *out)
{
    if (type < N_BLOCK)
        block[type].read(src, n, out);
}

void lb_quant_read_at(enum lb_wtype type, const uint8_t *src, int64_t col, int64_t n, float *out)
{
    if (type >= N_BLOCK)
        return;
    int64_t elems = block[type].elems, skip = col % elems;
    src += (size_t)(col / elems) * block[type].bytes;
    while (n > 0) {
        int64_t whole = skip == 0 ? n / elems * elems : 0;
        if (whole > 0) {
            lb_quant_read(type, src, whole, out);
            src += lb_quant_bytes(type, whole);
        } else { /* the end of the first block, the beginning of the last */
            float part[LB_SUPERBLOCK];
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
