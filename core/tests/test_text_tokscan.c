/* The scan of vocabulary and merges against jansson: whatever the scan takes must be what jansson reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/tests/whole.h"
#include "core/text/tok_impl.h"

#define FLAGS (JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL)

static void check_bytes(const char *written, size_t n, const char *raw, size_t n_raw, bool plain)
{
    struct lb_str s = {0};
    assert_int_equal(!lb_tok_unmap(written, n, &s), plain);
    assert_int_equal(s.len, n_raw);
    if (n_raw > 0)
        assert_memory_equal(s.data, raw, n_raw);
    lb_str_release(&s);
}

static void check_vocab(const struct lb_tok_scan *s, json_t *vocab)
{
    const char *key;
    json_t *v;
    size_t i = 0;
    assert_int_equal(json_object_size(vocab), s->n_token);
    json_object_foreach(vocab, key, v)
    {
        const struct lb_scan_token *k = &s->token[i++];
        assert_int_equal(lb_tok_json_id(v), k->id);
        assert_true(k->id <= s->top_id);
        check_bytes(key, strlen(key), s->bytes.data + k->at, k->len, k->plain);
    }
}

static void check_merges(const struct lb_tok_scan *s, json_t *merges)
{
    json_t *v;
    size_t i;
    assert_int_equal(json_array_size(merges), s->n_merge);
    json_array_foreach(merges, i, v)
    {
        const struct lb_scan_merge *m = &s->merge[i];
        const char *raw = s->bytes.data + m->at;
        struct lb_bytes side[2] = {{0}};
        if (json_is_array(v)) {
            assert_int_equal(json_array_size(v), 2);
            for (size_t k = 0; k < 2; k++)
                side[k] = (struct lb_bytes){json_string_value(json_array_get(v, k)),
                                            json_string_length(json_array_get(v, k))};
        } else {
            const char *text = json_string_value(v), *space = strchr(text, ' ');
            assert_non_null(space);
            assert_null(strchr(space + 1, ' '));
            assert_int_not_equal(strncmp(text, "#version", 8), 0);
            side[0] = (struct lb_bytes){text, (size_t)(space - text)};
            side[1] = (struct lb_bytes){space + 1, strlen(space + 1)};
        }
        check_bytes(side[0].data, side[0].len, raw, m->n_left, m->plain);
        check_bytes(side[1].data, side[1].len, raw + m->n_left, m->n_right, m->plain);
    }
}

/* Tokens that come twice are left to lb_scan_fill, which sees it by the number of different ones. */
static bool twice(const struct lb_tok_scan *s)
{
    for (size_t i = 0; i < s->n_token; i++)
        if (lb_scan_find(s, s->bytes.data + s->token[i].at, s->token[i].len, s->token[i].plain) != s->token[i].id)
            return true;
    for (size_t i = 0; i < s->n_token; i++)
        for (size_t j = 0; j < i; j++)
            if (s->token[i].id == s->token[j].id)
                return true;
    return false;
}

/* Returns whether the scan took the text; if so, it must agree with jansson. */
static bool compare(const char *text, size_t n, bool small)
{
    struct lb_tok_scan s;
    json_error_t why;
    bool took = lb_scan_cut(&s, text, n);
    json_t *rest = took ? json_loadb(s.rest.data, s.rest.len, FLAGS, &why) : NULL;
    took = rest && !(small && twice(&s));
    if (took) {
        json_t *all = json_loadb(text, n, FLAGS, &why);
        if (!all)
            fail_msg("jansson refuses %.*s: %s", (int)n, text, why.text);
        json_t *model = json_object_get(all, "model");
        check_vocab(&s, json_object_get(model, "vocab"));
        check_merges(&s, json_object_get(model, "merges"));
        json_object_clear(json_object_get(model, "vocab"));
        json_array_clear(json_object_get(model, "merges"));
        assert_true(json_equal(all, rest));
        json_decref(all);
    }
    json_decref(rest);
    lb_scan_release(&s);
    return took;
}

static void test_files(void **state)
{
    (void)state;
    static const char *const files[] = {
        "/../shared/tokenizers/llama3/tokenizer.json",          "/../shared/tokenizers/qwen3/tokenizer.json",
        "/../shared/tokenizers/smollm2/tokenizer.json",         "/../shared/tokenizers/llama2/tokenizer.json",
        "/../shared/tokenizers/mistral-7b-v0.1/tokenizer.json", "/testdata/tiny-llama/tokenizer.json"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct lb_str path = {0}, text = {0};
        struct lb_err err = LB_ERR_INIT;
        lb_str_puts(&path, LB_SOURCE_DIR);
        lb_str_puts(&path, files[i]);
        /* a sample has no second one of a kind that is as large */
        bool again = strstr(files[i], "qwen3") || strstr(files[i], "mistral");
        if (again && !is_whole()) {
            print_message("of a sample no %s\n", files[i]);
        } else if (!lb_file_exists(path.data)) {
            print_message("skip: test_text_tokscan: no ../shared\n");
        } else {
            assert_int_equal(lb_file_read(path.data, SIZE_MAX / 2, &text, &err), LB_OK);
            bool sides = strstr(files[i], "llama2") || strstr(files[i], "mistral"); /* of merges: bytes beside text */
            if (compare(text.data, text.len, false) == sides)
                fail_msg("%s: %d", files[i], sides);
        }
        lb_str_release(&path);
        lb_str_release(&text);
    }
}

static void test_forms(void **state)
{
    (void)state;
#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":12}"
#define MERGES "\"merges\":[\"a b\"]"
    static const struct {
        const char *text;
        bool takes;
    } rows[] = {
        {"{\"model\":{" VOCAB "," MERGES "}}", true},
        {" {\"x\" : [1,{\"}\":\"]\\\"\"}] ,\n\"model\":{" MERGES ", \"y\":null," VOCAB "}, \"z\":-1.5e3}\r\n", true},
        {"{\"model\":{\"vocab\":{\"\\u0120\\n\":1,\"\\\"\":2,\"\\\\\\/\":3,\"é字\":4,\"\":5},\"merges\":[[\"a b\",\"字 "
         "\"]]}}",
         true},
        {"{\"model\":{" VOCAB "," MERGES "}},", false},
        {"{\"model\":{" VOCAB "," MERGES "}", false},
        {"{\"model\":{" VOCAB "," MERGES "," VOCAB "}}", false},
        {"{\"model\":{" VOCAB "," MERGES "},\"model\":{}}", true}, /* below */
        {"{\"model\":{" VOCAB "," MERGES "},\"mode\\u006c\":{}}", false},
        {"{\"model\":{" VOCAB "," MERGES ",\"\\u0076ocab\":{}}}", false},
        {"{\"model\":{" VOCAB ",\"merges\":[]}}", false},
        {"{\"model\":{\"vocab\":{},\"merges\":[\"a b\"]}}", false},
        {"{\"model\":{\"vocab\":{\"a\":01},\"merges\":[\"a b\"]}}", false},
        {"{\"model\":{\"vocab\":{\"a\":1.0},\"merges\":[\"a b\"]}}", false},
        {"{\"model\":{\"vocab\":{\"a\":16777216},\"merges\":[\"a b\"]}}", false},
        {"{\"model\":{\"vocab\":{\"a\\u0000\":1},\"merges\":[\"a b\"]}}", false},
        {"{\"model\":{\"vocab\":{\"a\\ud83d\\ude00\":1},\"merges\":[\"a b\"]}}", false},
        {"{\"model\":{\"vocab\":{\"a\n\":1},\"merges\":[\"a b\"]}}", false},
        {"{\"model\":{\"vocab\":{\"a\xed\xa0\x80\":1},\"merges\":[\"a b\"]}}", false},
        {"{\"model\":{" VOCAB ",\"merges\":[\"#version: 0.2\"]}}", false},
        {"{\"model\":{" VOCAB ",\"merges\":[\"# a\"]}}", true},
        {"{\"model\":{" VOCAB ",\"merges\":[\"a b c\"]}}", false},
        {"{\"model\":{" VOCAB ",\"merges\":[\"a\\u0020b c\\u0020d\"]}}", false},
        {"{\"model\":{" VOCAB ",\"merges\":[\"a b\",]}}", false},
        {"{\"model\":{" VOCAB ",\"merges\":[[\"a\",\"b\",\"c\"]]}}", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_tok_scan s;
        bool second_model = strstr(rows[i].text, "\"model\":{}") != NULL; /* jansson keeps the later one */
        if (second_model) {
            assert_false(lb_scan_cut(&s, rows[i].text, strlen(rows[i].text)));
            lb_scan_release(&s);
        } else if (compare(rows[i].text, strlen(rows[i].text), true) != rows[i].takes) {
            fail_msg("%s: not %d", rows[i].text, rows[i].takes);
        }
    }
}

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* A regular file with a few bytes changed, taken out or put in: some still scan, most do not. */
static void test_mutations(void **state)
{
    (void)state;
    static const char text[] =
        "{\"a\":[{\"content\":\"<s>\"}],\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,"
        "\"\\u0120ab\": 2,\"Ġ\":10,\"é字\":7,\"\\\\\":31},\n \"merges\":[\"a b\", [\"Ġ\",\"a\"] ,"
        "\"字 字\"],\"unk\":null},\"z\":1}";
    static const char bytes[] = "\"\"\\{}[]:, \n\tu0019eE-.#aé\xff";
    uint64_t seed = 20251122;
    size_t n_took = 0;
    const int n_round = 300000 / whole_or(10);
    for (int round = 0; round < n_round; round++) {
        char copy[sizeof text + 8];
        size_t n = sizeof text - 1;
        memcpy(copy, text, sizeof text);
        for (uint64_t k = 1 + next(&seed) % 3; k > 0; k--) {
            size_t at = next(&seed) % n;
            char c = bytes[next(&seed) % (sizeof bytes - 1)];
            uint64_t how = next(&seed) % 4;
            if (how == 0)
                memmove(copy + at, copy + at + 1, n-- - at);
            else if (how == 1)
                memmove(copy + at + 1, copy + at, ++n - at);
            if (how != 0)
                copy[at] = how == 3 ? copy[next(&seed) % n] : c;
        }
        n_took += compare(copy, n, true);
    }
    assert_in_range(n_took, n_round / 30, n_round - n_round / 30); /* else this tests nothing */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
