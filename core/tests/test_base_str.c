/* core/base/str.h: strings, UTF-8 against RFC 3629, numbers, sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/str.h"

static void test_growing(void **state)
{
    (void)state;
    struct lb_str s = {0};
    for (int i = 0; i < 5000; i++) {
        lb_str_putc(&s, (char)('a' + i % 26));
        assert_int_equal(s.len, i + 1);
        assert_int_equal(s.data[s.len], 0);
    }
    for (int i = 0; i < 5000; i++)
        assert_int_equal(s.data[i], 'a' + i % 26);
    lb_str_clear(&s);
    assert_int_equal(s.len, 0);
    assert_string_equal(s.data, "");
    lb_str_putf(&s, "%d-%s", 7, "x");
    lb_str_put(&s, "a\0b", 3);
    lb_str_puts(&s, "!");
    assert_int_equal(s.len, 7);
    assert_memory_equal(s.data, "7-xa\0b!", 8);
    lb_str_release(&s);
    assert_null(s.data);
}

/* A put that cannot be had sticks, and later puts leave the text as it was. */
static void test_failure_sticks(void **state)
{
    (void)state;
    struct lb_str s = {0};
    lb_str_puts(&s, "ab");
    lb_str_put(&s, "x", SIZE_MAX - 4);
    assert_true(s.failed);
    lb_str_puts(&s, "cd");
    assert_string_equal(s.data, "ab");
    lb_str_clear(&s);
    lb_str_puts(&s, "cd");
    assert_false(s.failed);
    assert_string_equal(s.data, "cd");
    lb_str_release(&s);
}

/* UTF8-2, UTF8-3 and UTF8-4 of RFC 3629, section 4. */
static bool rfc_valid(const unsigned char *b, int n)
{
    bool tail[4];
    for (int i = 0; i < n; i++)
        tail[i] = b[i] >= 0x80 && b[i] <= 0xBF;
    if (n == 2)
        return b[0] >= 0xC2 && b[0] <= 0xDF && tail[1];
    if (n == 3)
        return tail[2] &&
               ((b[0] == 0xE0 && b[1] >= 0xA0 && b[1] <= 0xBF) || (b[0] >= 0xE1 && b[0] <= 0xEC && tail[1]) ||
                (b[0] == 0xED && b[1] >= 0x80 && b[1] <= 0x9F) || (b[0] >= 0xEE && b[0] <= 0xEF && tail[1]));
    return tail[2] && tail[3] &&
           ((b[0] == 0xF0 && b[1] >= 0x90 && b[1] <= 0xBF) || (b[0] >= 0xF1 && b[0] <= 0xF3 && tail[1]) ||
            (b[0] == 0xF4 && b[1] >= 0x80 && b[1] <= 0x8F));
}

static void test_utf8_valid(void **state)
{
    (void)state;
    unsigned char b[4];
    for (int i = 0; i < 1 << 16; i++) {
        b[0] = (unsigned char)(i >> 8);
        b[1] = (unsigned char)i;
        bool whole = b[0] < 0x80 ? b[1] < 0x80 : rfc_valid(b, 2);
        if ((lb_utf8_valid_prefix((char *)b, 2) == 2) != whole)
            fail_msg("%02x %02x", b[0], b[1]);
    }
    static const unsigned char ends[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
    for (int i = 0xE0; i < 0x100; i++) {
        for (int k = 0; k < 10000; k++) {
            int n = i < 0xF0 ? 3 : 4;
            b[0] = (unsigned char)i;
            b[1] = ends[k % 10];
            b[2] = ends[k / 10 % 10];
            b[3] = ends[k / 100 % 10];
            bool whole = lb_utf8_valid_prefix((char *)b, (size_t)n) == (size_t)n;
            if (whole != rfc_valid(b, n))
                fail_msg("%02x %02x %02x %02x", b[0], b[1], b[2], b[3]);
            for (int m = 1; m < n; m++) /* cut short, it is not whole */
                assert_true(!whole || lb_utf8_valid_prefix((char *)b, (size_t)m) == 0);
        }
    }
    assert_int_equal(lb_utf8_valid_prefix("", 0), 0);
    assert_int_equal(lb_utf8_valid_prefix("ab\303\251\303x", 6), 4);
}

static void test_utf8_codepoints(void **state)
{
    (void)state;
    struct lb_str s = {0};
    for (uint32_t cp = 0; cp < 0x110010; cp++) {
        bool scalar = cp < 0x110000 && (cp < 0xD800 || cp > 0xDFFF);
        int n = 0;
        lb_str_clear(&s);
        lb_str_put_codepoint(&s, cp);
        if (lb_utf8_valid_prefix(s.data, s.len) != s.len ||
            lb_utf8_decode(s.data, s.len, &n) != (scalar ? cp : 0xFFFD) || n != (int)s.len)
            fail_msg("U+%04X", (unsigned)cp);
    }
    int n = 0;
    assert_int_equal(lb_utf8_decode("\xE2\x82", 2, &n), 0xFFFD);
    assert_int_equal(n, 1);
    lb_str_release(&s);
}

static void check_lossy(const char *text, size_t n, const char *want)
{
    struct lb_str s = {0};
    lb_str_put_utf8_lossy(&s, text, n);
    assert_string_equal(s.data ? s.data : "", want);
    lb_str_release(&s);
}

/* Maximal parts: the examples of the Unicode standard 15, tables 3-8 to 3-11. */
static void test_lossy(void **state)
{
    (void)state;
#define R "\357\277\275"
    check_lossy("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", 13, "a" R R R "b" R "c" R R "d");
    check_lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", 9, R R R R R R R R "A");
    check_lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", 9, R R R R R R R R "A");
    check_lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", 9, R R R R R "A" R R "B");
    check_lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 9, R R R R "A");
    check_lossy("", 0, "");
    check_lossy("na\303\257ve", 6, "na\303\257ve");
}

static void test_json(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *want;
    } rows[] = {
        {"", 0, "\"\""},
        {"a\"b\\c/", 6, "\"a\\\"b\\\\c/\""},
        {"\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\""},
        {"\0\1\37\177", 4, "\"\\u0000\\u0001\\u001f\177\""},
        {"\360\237\230\200\342\200\250", 7, "\"\360\237\230\200\342\200\250\""},
        {"a\xE2\x82\nb\xFF", 6, "\"a" R "\\nb" R "\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_str s = {0};
        lb_str_put_json(&s, rows[i].text, rows[i].n);
        assert_string_equal(s.data, rows[i].want);
        lb_str_release(&s);
    }
}

static void check_f32(float x, const char *want)
{
    struct lb_str s = {0};
    lb_str_put_f32(&s, x);
    if (want)
        assert_string_equal(s.data, want);
    assert_true(strtof(s.data, NULL) == x);
    lb_str_release(&s);
}

static void test_f32(void **state)
{
    (void)state;
    check_f32(1.0f, "1");
    check_f32(-0.25f, "-0.25");
    check_f32(0.1f, "0.1");
    check_f32(1e-7f, "1e-07");
    check_f32(16777216.0f, "16777216");
    check_f32(3.40282347e38f, "3.4028235e+38");
    check_f32(1.40129846e-45f, "1e-45");
    uint32_t bits = 1;
    for (int i = 0; i < 100000; i++) {
        float x;
        bits = bits * 1664525u + 1013904223u;
        memcpy(&x, &bits, sizeof x);
        if (x - x == 0)
            check_f32(x, NULL);
    }
    struct lb_str s = {0};
    lb_str_put_f32(&s, strtof("nan", NULL));
    lb_str_put_f32(&s, strtof("-inf", NULL));
    assert_string_equal(s.data, "nullnull");
    lb_str_release(&s);
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t bytes;
    } good[] = {{"0", 0},        {"512", 512}, {"8K", 8192}, {"8k", 8192}, {"1.5G", 1610612736},
                {"3M", 3145728}, {"0.5K", 512}};
    static const char *const bad[] = {"",    "K",  "-1", "+1",    " 1",  "1 ",  "1KB",          "1T", "0x10",
                                      "1e3", "1.", ".5", "1.5.5", "inf", "nan", "99999999999G", "1K1"};
    size_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(lb_parse_size(good[i].text, &bytes));
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (lb_parse_size(bad[i], &bytes))
            fail_msg("'%s' was taken as %zu", bad[i], bytes);
}

static void test_edit_distance(void **state)
{
    (void)state;
    char big[80];
    memset(big, 'x', sizeof big);
    big[79] = 0;
    assert_int_equal(lb_edit_distance("", ""), 0);
    assert_int_equal(lb_edit_distance("kitten", "sitting"), 3);
    assert_int_equal(lb_edit_distance("sitting", "kitten"), 3);
    assert_int_equal(lb_edit_distance("", "abc"), 3);
    assert_int_equal(lb_edit_distance("max-tokens", "max-token"), 1);
    assert_int_equal(lb_edit_distance(big, "a"), 99);
    assert_int_equal(lb_edit_distance("a", big), 99);
}

static void test_durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t seconds;
    } good[] = {{"90s", 90},         {"15m", 900},          {"4h", 14400},         {"1h30m", 5400},
                {"2d", 172800},      {"1d2h3m4s", 93784},   {"1h1s", 3601},        {"00:00:07", 7},
                {"03:50:00", 13800}, {"1-00:00:00", 86400}, {"100:00:01", 360001}, {"0h5s", 5}};
    static const char *const bad[] = {"",        "5",        "0",           "0s",        "s",      "1h30",
                                      "30m1h",   "1h1h",     "-5s",         "1.5h",      "5 s",    "1:30",
                                      "1:2:3:4", "00:60:00", "00:00:60",    "-00:00:01", "1-",     "1-2h",
                                      "5H",      "1e3s",     "1-00:00:00s", "a:b:c",     "00:00:", "9999999999s"};
    int64_t seconds;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!lb_parse_duration(good[i].text, &seconds))
            fail_msg("'%s' is refused", good[i].text);
        assert_int_equal(seconds, good[i].seconds);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (lb_parse_duration(bad[i], &seconds))
            fail_msg("'%s' is taken for %lld s", bad[i], (long long)seconds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_failure_sticks),
        cmocka_unit_test(test_utf8_valid),
        cmocka_unit_test(test_utf8_codepoints),
        cmocka_unit_test(test_lossy),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_edit_distance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
