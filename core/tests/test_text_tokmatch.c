/* Matchers written by hand against the patterns in PCRE2: the same pieces, on every character and on random texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/tests/whole.h"
#include "core/text/tok_impl.h"

static const struct pattern {
    const char *text;
    enum lb_match_kind kind;
} patterns[] = {{lb_pattern_llama3, LB_MATCH_LLAMA3},
                {lb_pattern_qwen2, LB_MATCH_QWEN2},
                {lb_pattern_qwen35, LB_MATCH_QWEN35},
                {lb_pattern_gpt2, LB_MATCH_GPT2},
                {"\\p{N}", LB_MATCH_NUMBER}};
#define N_PATTERN (sizeof patterns / sizeof patterns[0])

static struct lb_tok tok;
static pcre2_match_data *match;

static int setup(void **state)
{
    (void)state;
    const char *unsupported;
    struct lb_err err = LB_ERR_INIT;
    match = pcre2_match_data_create(1, NULL);
    for (size_t i = 0; i < N_PATTERN; i++) {
        assert_int_equal(lb_split_add(&tok, patterns[i].text, false, LB_SPLIT_ISOLATED, false, &unsupported, &err),
                         LB_OK);
        assert_int_equal(tok.step[i].by_hand, patterns[i].kind);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pcre2_match_data_free(match);
    for (size_t i = 0; i < N_PATTERN; i++)
        pcre2_code_free(tok.step[i].re);
    return 0;
}

static void fail_at(size_t i, const struct lb_str *text, size_t at, size_t stop, size_t want)
{
    struct lb_str shown = {0};
    lb_str_put_json(&shown, text->data, text->len);
    fail_msg("%s: at %zu of %s: piece ends at %zu, PCRE2's at %zu", patterns[i].text, at, shown.data, stop, want);
}

static void compare(const struct lb_str *text)
{
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
    for (size_t i = 0; i < N_PATTERN; i++) {
        for (size_t at = 0; at < text->len;) {
            int rc =
                pcre2_match(tok.step[i].re, (PCRE2_SPTR)text->data, text->len, at, PCRE2_NO_UTF_CHECK, match, NULL);
            /* a gap before the match, or up to the end, is a piece too */
            size_t want = rc < 0 ? text->len : range[0] > at ? range[0] : range[1];
            size_t stop = lb_match_next(patterns[i].kind, text->data, text->len, at);
            if (stop != want)
                fail_at(i, text, at, stop, want);
            at = stop;
        }
    }
}

/* Each code point in places where its class matters. */
static void test_characters(void **state)
{
    (void)state;
    struct lb_str text = {0};
    for (uint32_t cp = 0; cp < 0x110000; cp += cp < 0x3400 ? 1 : (uint32_t)whole_or(31)) {
        if (cp >= 0xD800 && cp <= 0xDFFF)
            continue;
        lb_str_clear(&text);
        lb_str_put_codepoint(&text, cp);
        lb_str_puts(&text, "a 1");
        lb_str_put_codepoint(&text, cp);
        lb_str_puts(&text, "9 ");
        lb_str_put_codepoint(&text, cp);
        lb_str_puts(&text, "!'");
        lb_str_put_codepoint(&text, cp);
        lb_str_puts(&text, "  ");
        lb_str_put_codepoint(&text, cp);
        compare(&text);
    }
    lb_str_release(&text);
}

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Characters of every class, those that a rule names more often than others. */
static uint32_t random_char(uint64_t *seed)
{
    static const uint32_t common[] = {
        ' ',    ' ',    ' ',     '\n',   '\n',     '\r',   '\t',   0x0B,   0x0C,   0x85,   0xA0,    0x2028,
        0x3000, 0x180E, 0x200B,  0x1680, '\'',     '\'',   's',    'S',    't',    'm',    'd',     'r',
        'e',    'E',    'v',     'V',    'l',      'L',    0x17F,  0x212A, 'a',    'Z',    0xE9,    0x4E2D,
        0x6587, 0x5D0,  0x1F600, '0',    '9',      '1',    0xB2,   0x660,  0x2160, 0x4E00, 0x1D7CE, 0x10107,
        '.',    ',',    '!',     '(',    '-',      '_',    '$',    0x3002, 0xFF0C, 0x301,  0x93E,   0x20DD,
        0xFE0F, 0x200D, 0,       0x7F,   0x10FFFF, 0xE000, 0xE0101};
    for (;;) {
        if (next(seed) % 16)
            return common[next(seed) % (sizeof common / sizeof common[0])];
        uint32_t cp = (uint32_t)(next(seed) % (next(seed) % 2 ? 0x3000 : 0x110000));
        if (cp < 0xD800 || cp > 0xDFFF)
            return cp;
    }
}

static void test_random(void **state)
{
    (void)state;
    struct lb_str text = {0};
    uint64_t seed = 20251122;
    for (int round = 0; round < 400000 / whole_or(10); round++) {
        lb_str_clear(&text);
        for (uint64_t n = 1 + next(&seed) % 14; n > 0; n--) {
            uint32_t cp = random_char(&seed);
            for (uint64_t k = next(&seed) % 4 ? 1 : 1 + next(&seed) % 4; k > 0; k--)
                lb_str_put_codepoint(&text, cp);
        }
        compare(&text);
    }
    lb_str_release(&text);
}

static void test_which(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        enum lb_split_behavior behavior;
        bool literal, invert;
        enum lb_match_kind kind;
    } rows[] = {
        {lb_pattern_llama3, LB_SPLIT_REMOVED, false, true, LB_MATCH_LLAMA3},
        {lb_pattern_llama3, LB_SPLIT_REMOVED, false, false, LB_MATCH_PCRE2},
        {lb_pattern_llama3, LB_SPLIT_CONTIGUOUS, false, false, LB_MATCH_PCRE2},
        {lb_pattern_gpt2, LB_SPLIT_MERGED_NEXT, false, false, LB_MATCH_PCRE2},
        {"\\p{N}", LB_SPLIT_REMOVED, false, true, LB_MATCH_PCRE2},
        {"\\p{N}", LB_SPLIT_CONTIGUOUS, false, false, LB_MATCH_PCRE2},
        {"\\p{N}", LB_SPLIT_ISOLATED, true, false, LB_MATCH_PCRE2},
        {"\\p{N}+", LB_SPLIT_ISOLATED, false, false, LB_MATCH_PCRE2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_tok t = {0};
        struct lb_err err = LB_ERR_INIT;
        const char *unsupported;
        assert_int_equal(
            lb_split_add(&t, rows[i].pattern, rows[i].literal, rows[i].behavior, rows[i].invert, &unsupported, &err),
            LB_OK);
        assert_int_equal(t.step[0].by_hand, rows[i].kind);
        pcre2_code_free(t.step[0].re);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_which),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_characters),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
