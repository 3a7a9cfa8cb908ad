/* Rows of blocks taken apart: what codes, scales and minima stand for is what the row is read as, wherever columns are
 * taken. Packed weights of directories: test_model_pack.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/model/codes.h"
#include "core/tests/codevalue.h"

enum { N_ROW = 3, N_COL = 1024 };

static const struct {
    enum lb_wtype type;
    int64_t group;
    bool taken;
} types[] = {
    {LB_W_Q8_0, 32, true},   {LB_W_Q4_0, 32, true},   {LB_W_Q4_1, 32, true},   {LB_W_Q4_K, 256, true},
    {LB_W_Q6_K, 256, true},  {LB_W_Q5_0, 32, false},  {LB_W_Q5_1, 32, false},  {LB_W_IQ4_NL, 32, false},
    {LB_W_Q2_K, 256, false}, {LB_W_Q3_K, 256, false}, {LB_W_Q5_K, 256, false}, {LB_W_IQ4_XS, 256, false},
    {LB_W_BF16, 0, false},   {LB_W_F16, 0, false},    {LB_W_F32, 0, false},
};

static uint32_t seed = 1;

static uint32_t draw(uint32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
}

/* NaN compares equal to itself here: scales are any bytes. */
static bool same(float a, float b)
{
    return a == b || (isnan(a) && isnan(b));
}

static void check_cut(const struct lb_wtensor *t, int64_t row, int64_t first, int64_t n)
{
    static float want[N_COL];
    struct lk_packed how;
    struct lk_codes c;
    assert_true(lb_codes_of(t, first, &how));
    uint8_t *mem = malloc(lb_codes_bytes(&how, n));
    lb_codes_read(t, &how, row, n, mem, &c);
    size_t row_bytes = lb_quant_bytes(t->type, N_COL);
    lb_quant_read_at(t->type, t->data + (size_t)row * row_bytes, first, n, want);
    for (int64_t k = 0; k < n; k++)
        if (!same(code_value(&how, &c, k), want[k]))
            fail_msg("%s: column %lld behind %lld is %g, not %g", lb_quant_name(t->type), (long long)k,
                     (long long)first, (double)code_value(&how, &c, k), (double)want[k]);
    free(mem);
}

static void blocks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        size_t bytes = lb_quant_bytes(types[i].type, N_ROW * N_COL);
        uint8_t *data = malloc(bytes);
        for (size_t k = 0; k < bytes; k++)
            data[k] = (uint8_t)draw(256);
        struct lb_wtensor t = {
            .type = types[i].type, .n_dim = 2, .dim = {N_ROW, N_COL}, .data = data, .n_bytes = bytes};
        struct lk_packed how;
        assert_int_equal(lb_codes_of(&t, 0, &how), types[i].taken);
        assert_true((lb_codes_kept_bytes(&t) > 0) == types[i].taken);
        if (types[i].taken) {
            assert_int_equal(how.group, types[i].group);
            /* a few bytes beside what the file has: subgroups of Q4_K have six bits there */
            assert_true(fabs(lb_codes_kept_bytes(&t) / (double)bytes - 1) < 0.03);
            check_cut(&t, N_ROW - 1, 0, N_COL);
        }
        for (int cut = 0; cut < 40 && types[i].taken; cut++) {
            int64_t first = draw(N_COL), n = 1 + draw((uint32_t)(N_COL - first));
            check_cut(&t, draw(N_ROW), first, n);
        }
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(blocks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
