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
    assert_int_equal(lb_quant_bytes(LB_W_OTHER, 32), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half),
        cmocka_unit_test(wide_types),
        cmocka_unit_test(blocks),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
