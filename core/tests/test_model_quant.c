/* Element types of weight files: halves against their definition, blocks against the formulas of spec/models.md 2.2.1
 * worked by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/model/quant.h"

/* IEEE 754 binary16 by its definition. */
static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static void every_half(void **state)
{
    (void)state;
    uint8_t raw[1 + 2 * 256]; /* odd address: weights need not be aligned */
    float out[256];
    for (unsigned base = 0; base < 65536; base += 256) {
        for (unsigned i = 0; i < 256; i++) {
            uint16_t h = (uint16_t)(base + i);
            memcpy(raw + 1 + 2 * i, &h, 2);
        }
        lb_quant_read(LB_W_F16, raw + 1, 256, out);
        for (unsigned i = 0; i < 256; i++) {
            double want = half_value((uint16_t)(base + i));
            assert_true(isnan(want) ? isnan(out[i]) : (double)out[i] == want && !signbit(out[i]) == !signbit(want));
        }
    }
}

static void wide_types(void **state)
{
    (void)state;
    static const float values[3] = {1.5f, -0.1f, 3e-40f};
    uint8_t raw[1 + sizeof values];
    float out[3];
    memcpy(raw + 1, values, sizeof values);
    lb_quant_read(LB_W_F32, raw + 1, 3, out);
    assert_memory_equal(out, values, sizeof values);
    static const uint8_t bf16[] = {0, 0x80, 0x3f, 0x49, 0xc0, 0x01, 0x00}; /* 1, -3.140625, 2^-133 */
    lb_quant_read(LB_W_BF16, bf16 + 1, 3, out);
    assert_true(out[0] == 1.0f && out[1] == -3.140625f && out[2] == 0x1p-133f);
}

static void blocks(void **state)
{
    (void)state;
    uint8_t q8[2 * 34], q4_0[18], q4_1[20];
    float out[64];
    for (int b = 0; b < 2; b++) {
        q8[34 * b] = 0x00; /* d = 0.5, then -2 */
        q8[34 * b + 1] = b ? 0xc0 : 0x38;
        for (int j = 0; j < 32; j++)
            q8[34 * b + 2 + j] = (uint8_t)(int8_t)(j * 8 - 128);
    }
    lb_quant_read(LB_W_Q8_0, q8, 64, out);
    for (int j = 0; j < 32; j++) {
        assert_true(out[j] == 0.5f * (float)(j * 8 - 128));
        assert_true(out[32 + j] == -2.0f * (float)(j * 8 - 128));
    }

    q4_0[0] = q4_1[0] = 0x00; /* d = 0.25 */
    q4_0[1] = q4_1[1] = 0x34;
    q4_1[2] = 0x00; /* m = -1 */
    q4_1[3] = 0xbc;
    for (int j = 0; j < 16; j++)
        q4_0[2 + j] = q4_1[4 + j] = (uint8_t)(j | (15 - j) << 4);
    lb_quant_read(LB_W_Q4_0, q4_0, 32, out);
    lb_quant_read(LB_W_Q4_1, q4_1, 32, out + 32);
    for (int j = 0; j < 16; j++) {
        assert_true(out[j] == 0.25f * (float)(j - 8) && out[j + 16] == 0.25f * (float)(15 - j - 8));
        assert_true(out[32 + j] == 0.25f * (float)j - 1 && out[48 + j] == 0.25f * (float)(15 - j) - 1);
    }
}

/* ---- blocks of random bytes, against the Python package gguf ---- */

struct recorded {
    enum lb_wtype type;
    int n_half, half[2]; /* where scales that are halves lie in a block */
    float value[4];      /* elements 1, 70, 300 and 511 */
    uint64_t hash;       /* FNV-1a of the 512 numbers' bytes */
};

/* gguf.quants.dequantize of gguf 0.19.0 (numpy) on the same bytes. */
static const struct recorded recorded[] = {
    {LB_W_Q8_0, 1, {0}, {-0.46270752f, -0.038793087f, 0.0468969345f, -0.793762207f}, UINT64_C(0x208469c3381bfe64)},
    {LB_W_Q4_0, 1, {0}, {-0.0243530273f, -11.3134766f, -6.77929688f, -0.0f}, UINT64_C(0x85ecd91c23e7b3fd)},
    {LB_W_Q4_1, 2, {0, 2}, {-0.196258545f, -2.97153091f, -0.0066652298f, 1.18386078f}, UINT64_C(0x47b6db13442d952d)},
    {LB_W_Q5_0, 1, {0}, {-0.0121765137f, 0.0888061523f, 0.0102353096f, 0.000549435616f}, UINT64_C(0x48b79b9aad479eff)},
    {LB_W_Q5_1, 2, {0, 2}, {-0.26322937f, -0.155585051f, -0.222835541f, 1.42944074f}, UINT64_C(0x2a088a4ee6955eff)},
    {LB_W_IQ4_NL, 1, {0}, {-0.298324585f, -182.631836f, -93.7802734f, -3.57627869e-5f}, UINT64_C(0x9c061138663d7a70)},
    {LB_W_Q2_K,
     2,
     {80, 82},
     {-0.041731596f, -0.0135726929f, -0.0208711624f, -0.00896561146f},
     UINT64_C(0x9a4c9f735386d164)},
    {LB_W_Q3_K, 1, {108}, {-0.000559926033f, -0.00111985207f, 3.48815918f, 4.88342285f}, UINT64_C(0x86700fe1130e9ead)},
    {LB_W_Q4_K, 2, {0, 2}, {1.34515381f, 0.146118164f, 3.26506615f, 6.8760252f}, UINT64_C(0x4507de6adca96ac4)},
    {LB_W_Q5_K, 2, {0, 2}, {3.39080811f, 0.073059082f, -1.31365061f, -8.22901726f}, UINT64_C(0x80e88f46d50be74e)},
    {LB_W_Q6_K, 1, {208}, {149.746094f, -4959.88281f, 0.174027205f, -0.278354168f}, UINT64_C(0xb52c3946e1760df8)},
    {LB_W_IQ4_XS, 1, {0}, {1.58294678f, -9.75338745f, 0.291770697f, -0.189353228f}, UINT64_C(0xb3e0208c022d3b95)},
};

static uint64_t fnv1a(const void *data, size_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* Bytes of a linear congruential generator; halves lose the exponent's top bit, so that they are below 2. */
static size_t random_blocks(const struct recorded *r, uint8_t *out)
{
    size_t n = lb_quant_bytes(r->type, 512), block = lb_quant_bytes(r->type, lb_quant_block(r->type));
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        out[i] = (uint8_t)(state >> 24);
        for (int k = 0; k < r->n_half; k++)
            if (i % block == (size_t)r->half[k] + 1)
                out[i] &= 0xbf;
    }
    return n;
}

static void random_bytes(void **state)
{
    (void)state;
    static const int at[] = {1, 70, 300, 511};
    for (size_t i = 0; i < sizeof recorded / sizeof *recorded; i++) {
        const struct recorded *r = &recorded[i];
        uint8_t raw[2048];
        float out[512], part[512];
        assert_true(random_blocks(r, raw) <= sizeof raw);
        lb_quant_read(r->type, raw, 512, out);
        for (int k = 0; k < 4; k++)
            if (out[at[k]] != r->value[k])
                fail_msg("%s: element %d is %.9g, not %.9g", lb_quant_name(r->type), at[k], (double)out[at[k]],
                         (double)r->value[k]);
        if (fnv1a(out, sizeof out) != r->hash)
            fail_msg("%s: other numbers: %llx", lb_quant_name(r->type), (unsigned long long)fnv1a(out, sizeof out));
        static const int cut[][2] = {{0, 512}, {0, 1}, {31, 2}, {96, 160}, {255, 2}, {100, 400}, {32, 480}, {511, 1}};
        for (size_t k = 0; k < sizeof cut / sizeof *cut; k++) {
            lb_quant_read_at(r->type, raw, cut[k][0], cut[k][1], part);
            assert_memory_equal(part, out + cut[k][0], (size_t)cut[k][1] * sizeof *part);
        }
    }
}

static void sizes(void **state)
{
    (void)state;
    assert_int_equal(lb_quant_bytes(LB_W_F32, 7), 28);
    assert_int_equal(lb_quant_bytes(LB_W_F16, 7), 14);
    assert_int_equal(lb_quant_bytes(LB_W_BF16, 7), 14);
    assert_int_equal(lb_quant_bytes(LB_W_Q8_0, 64), 68);
    assert_int_equal(lb_quant_bytes(LB_W_Q4_0, 64), 36);
    assert_int_equal(lb_quant_bytes(LB_W_Q4_1, 64), 40);
    assert_int_equal(lb_quant_bytes(LB_W_Q8_0, 33), 0);
    assert_int_equal(lb_quant_bytes(LB_W_Q6_K, 512), 420);
    assert_int_equal(lb_quant_bytes(LB_W_Q6_K, 288), 0);
    assert_int_equal(lb_quant_bytes(LB_W_OTHER, 32), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half),   cmocka_unit_test(wide_types), cmocka_unit_test(blocks),
        cmocka_unit_test(random_bytes), cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
