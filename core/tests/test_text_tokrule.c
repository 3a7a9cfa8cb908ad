/* The tokenizer's rules on tiny tokenizers: pre-tokenizers, added tokens, merges, decoding.
 *
 * The ids in `cases` were computed with the tokenizers library (0.23.3) on the same JSON. */
#include <pthread.h>

#include "core/tests/test_text_tiny.h"

#define SEQ(steps) "{\"type\":\"Sequence\",\"pretokenizers\":[" steps "," BYTE_LEVEL("false", "false") "]}"
#define SPLIT(kind, pattern, behavior, invert)                                                                        \
    "{\"type\":\"Split\",\"pattern\":{\"" kind "\":\"" pattern "\"},\"behavior\":\"" behavior "\",\"invert\":" invert \
    "}"
#define DIGITS(alone) "{\"type\":\"Digits\",\"individual_digits\":" alone "}"
#define TOKEN(id, content, flags) "{\"id\":" id ",\"content\":\"" content "\",\"special\":true" flags "}"
#define WORD ",\"single_word\":true"
#define LEFT ",\"lstrip\":true"
#define RIGHT ",\"rstrip\":true"
#define NORM ",\"normalized\":true"
#define IDS(...)        \
    {                   \
        __VA_ARGS__, -1 \
    }

static const struct rule {
    const char *name, *normalizer, *pre, *added, *model, *text;
    int32_t id[32]; /* ends with -1 */
} cases[] = {
    {"split Removed", NULL, SEQ(SPLIT("Regex", "-", "Removed", "false")), "", "", "ab--c--- a1-11",
     IDS(256, 99, 258, 49, 260)},
    {"split Removed inverted", NULL, SEQ(SPLIT("Regex", "-", "Removed", "true")), "", "", "ab--c--- a1-11",
     IDS(45, 45, 45, 45, 45, 45)},
    {"split Isolated", NULL, SEQ(SPLIT("Regex", "-", "Isolated", "false")), "", "", "ab--c--- a1-11",
     IDS(256, 45, 45, 99, 45, 45, 45, 258, 49, 45, 260)},
    {"split Isolated inverted", NULL, SEQ(SPLIT("Regex", "-", "Isolated", "true")), "", "", "ab--c--- a1-11",
     IDS(256, 45, 45, 99, 45, 45, 45, 258, 49, 45, 260)},
    {"split MergedWithPrevious", NULL, SEQ(SPLIT("Regex", "-", "MergedWithPrevious", "false")), "", "",
     "ab--c--- a1-11", IDS(274, 45, 275, 45, 45, 258, 277, 260)},
    {"split MergedWithPrevious inverted", NULL, SEQ(SPLIT("Regex", "-", "MergedWithPrevious", "true")), "", "",
     "ab--c--- a1-11", IDS(256, 45, 276, 45, 45, 45, 258, 49, 278)},
    {"split MergedWithNext", NULL, SEQ(SPLIT("Regex", "-", "MergedWithNext", "false")), "", "", "ab--c--- a1-11",
     IDS(256, 45, 276, 45, 45, 45, 258, 49, 278)},
    {"split MergedWithNext inverted", NULL, SEQ(SPLIT("Regex", "-", "MergedWithNext", "true")), "", "",
     "ab--c--- a1-11", IDS(274, 45, 275, 45, 45, 258, 277, 260)},
    {"split Contiguous", NULL, SEQ(SPLIT("Regex", "-", "Contiguous", "false")), "", "", "ab--c--- a1-11",
     IDS(256, 268, 99, 268, 45, 258, 49, 45, 260)},
    {"split Contiguous inverted", NULL, SEQ(SPLIT("Regex", "-", "Contiguous", "true")), "", "", "ab--c--- a1-11",
     IDS(256, 268, 99, 268, 45, 258, 49, 45, 260)},
    {"split by a text", NULL, SEQ(SPLIT("String", "..", "Isolated", "false")), "", "", "a....b..ab.c",
     IDS(97, 266, 266, 98, 266, 256, 46, 99)},
    {"split at empty matches", NULL, SEQ(SPLIT("Regex", "(?=b)", "Isolated", "false")), "", "", "abcab",
     IDS(97, 98, 264, 98)},
    {"digits alone", NULL, SEQ(DIGITS("true")), "", "", " 111a\302\2751", IDS(32, 49, 49, 49, 97, 194, 189, 49)},
    {"digits in runs", NULL, SEQ(DIGITS("false")), "", "", " 111a\302\2751", IDS(32, 261, 97, 194, 189, 49)},
    {"gpt-2 pattern", NULL, BYTE_LEVEL("false", "true"), "", "", "ab's  a 111es...",
     IDS(256, 270, 32, 258, 32, 261, 271, 267)},
    {"prefix space", NULL, BYTE_LEVEL("true", "true"), TOKEN("282", "<x>", ""), "", "a<x>a<x> a",
     IDS(258, 282, 258, 282, 258)},
    {"white space is Unicode's", NULL, SEQ(SPLIT("Regex", "\\\\s", "Isolated", "false")), "", "",
     "a\341\240\216b\342\200\250a\302\205b", IDS(279, 160, 142, 98, 226, 128, 168, 97, 194, 133, 98)},
    {"word characters", NULL, SEQ(SPLIT("Regex", "\\\\w+", "Removed", "false")), "", "",
     "a\302\275_\314\201\342\205\253-\342\200\215-", IDS(45, 226, 128, 141, 45)},
    {"decimal numbers", NULL, SEQ(SPLIT("Regex", "\\\\d+", "Removed", "false")), "", "", "a\331\2411b\302\2752c",
     IDS(97, 98, 194, 189, 99)},
    {"any case", NULL, SEQ(SPLIT("Regex", "(?i:\\\\u00e9|k)+", "Removed", "false")), "", "",
     "a\303\211\303\251b\342\204\252Kc", IDS(97, 98, 99)},
    {"NFC on each piece", "NFC", BYTE_LEVEL("false", "false"), TOKEN("282", "<x>", ""), "",
     "e\314\201<x>\314\201e\314\201 \341\204\200\341\205\241\341\206\250 q\314\243\314\207 q\314\207\314\243",
     IDS(272, 282, 204, 129, 272, 32, 234, 176, 129, 32, 113, 204, 163, 204, 135, 32, 113, 204, 163, 204, 135)},
    {"added token", NULL, BYTE_LEVEL("false", "false"), TOKEN("282", "<x>", ""), "",
     "a <x>\343\200\200b<x> \011<x>c.<x>. <x>",
     IDS(97, 32, 282, 227, 128, 128, 98, 282, 32, 9, 282, 99, 46, 282, 46, 32, 282)},
    {"added token lstrip", NULL, BYTE_LEVEL("false", "false"), TOKEN("282", "<x>", LEFT), "",
     "a <x>\343\200\200b<x> \011<x>c.<x>. <x>", IDS(97, 282, 227, 128, 128, 98, 282, 282, 99, 46, 282, 46, 282)},
    {"added token rstrip", NULL, BYTE_LEVEL("false", "false"), TOKEN("282", "<x>", RIGHT), "",
     "a <x>\343\200\200b<x> \011<x>c.<x>. <x>", IDS(97, 32, 282, 98, 282, 282, 99, 46, 282, 46, 32, 282)},
    {"added token single_word", NULL, BYTE_LEVEL("false", "false"), TOKEN("282", "<x>", WORD), "",
     "a <x>\343\200\200b<x> \011<x>c.<x>. <x>",
     IDS(97, 32, 282, 227, 128, 128, 98, 60, 120, 62, 32, 9, 60, 120, 62, 99, 46, 282, 46, 32, 282)},
    {"added token all flags", NULL, BYTE_LEVEL("false", "false"), TOKEN("282", "<x>", WORD LEFT RIGHT), "",
     "a <x>\343\200\200b<x> \011<x>c.<x>. <x>",
     IDS(97, 282, 98, 60, 120, 62, 32, 9, 60, 120, 62, 99, 46, 282, 46, 282)},
    {"longest added token", NULL, BYTE_LEVEL("false", "false"),
     TOKEN("282", "<x", "") "," TOKEN("283", "<x>", "") "," TOKEN("284", "<x><x>y", "") "," TOKEN("285", "x><", ""), "",
     "<x><x><x><x>y<x<", IDS(283, 283, 284, 282, 60)},
    {"rejected token hides a shorter one", NULL, BYTE_LEVEL("false", "false"),
     TOKEN("282", "xy", "") "," TOKEN("283", "xyz", WORD), "", "xyzxy xyz.", IDS(120, 121, 122, 282, 32, 283, 46)},
    {"normalized added token", "NFC", BYTE_LEVEL("false", "false"),
     TOKEN("282", "x\303\251", "") "," TOKEN("283", "xe\314\200", NORM), "",
     "xe\314\201 x\303\251 xe\314\200 x\303\250", IDS(120, 272, 32, 282, 32, 283, 32, 283)},
    {"added token of the vocabulary", NULL, BYTE_LEVEL("false", "false"), TOKEN("256", "ab", ""), "", "aabc",
     IDS(97, 256, 99)},
    {"text eaten as space", NULL, BYTE_LEVEL("false", "false"),
     TOKEN("282", "<x>", RIGHT) "," TOKEN("283", "\\n", LEFT RIGHT), "", "<x> \012 a\012", IDS(282, 97, 283)},
    {"ignore_merges off", NULL, SEQ(SPLIT("Regex", "z+", "Isolated", "false")), "", "", "azzab",
     IDS(97, 122, 122, 256)},
    {"ignore_merges on", NULL, SEQ(SPLIT("Regex", "z+", "Isolated", "false")), "", "\"ignore_merges\":true", "azzab",
     IDS(97, 281, 256)},
    {"unknown bytes fused", NULL, BYTE_LEVEL("false", "false"), "", "\"unk_token\":\"zz\",\"fuse_unk\":true", "aQQbQ",
     IDS(97, 281, 98, 281)},
    {"unknown bytes alone", NULL, BYTE_LEVEL("false", "false"), "", "\"unk_token\":\"zz\",\"fuse_unk\":false", "aQQbQ",
     IDS(97, 281, 281, 98, 281)},
    {"unknown bytes vanish", NULL, BYTE_LEVEL("false", "false"), "", "\"unk_token\":null", "aQQbQ", IDS(256)},
};

static void print_ids(const struct lb_ids *ids)
{
    for (size_t i = 0; i < ids->n; i++)
        print_error(" %d", (int)ids->id[i]);
    print_error("\n");
}

static struct lb_tok *open_tiny(const struct tiny *tiny, const char *config)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_str json = {0};
    struct lb_tok *t = NULL;
    tiny_put(&json, tiny);
    if (tiny_open(&t, json.data, json.len, config, &err) != LB_OK)
        fail_msg("%s", err.text);
    assert_null(lb_tok_missing(t));
    lb_str_release(&json);
    return t;
}

static struct lb_tok_ctx *open_ctx(const struct lb_tok *t)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok_ctx *c = NULL;
    assert_int_equal(lb_tok_ctx_new(&c, t, &err), LB_OK);
    return c;
}

static void test_rules(void **state)
{
    (void)state;
    int n_bad = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct rule *r = &cases[i];
        struct tiny tiny = {r->normalizer ? "{\"type\":\"NFC\"}" : NULL, r->pre, r->added,
                            r->model[0] ? r->model : NULL, NULL};
        struct lb_tok *t = open_tiny(&tiny, NULL);
        struct lb_tok_ctx *c = open_ctx(t);
        struct lb_err err = LB_ERR_INIT;
        struct lb_ids ids = {0};
        assert_int_equal(lb_tok_encode(t, c, r->text, strlen(r->text), LB_TOK_PLAIN, &ids, NULL, &err), LB_OK);
        size_t n = 0;
        while (r->id[n] >= 0)
            n++;
        if (ids.n != n || memcmp(ids.id, r->id, n * sizeof *r->id) != 0) {
            print_error("%s: got", r->name);
            print_ids(&ids);
            n_bad++;
        }
        lb_ids_release(&ids);
        lb_tok_ctx_free(c);
        lb_tok_free(t);
    }
    assert_int_equal(n_bad, 0);
}

/* Merging by the definition: the lowest rank, leftmost, by looking at every pair each time. */
static size_t merge_plainly(int32_t *id, size_t n, const int32_t (*merge)[3], size_t n_merge)
{
    for (;;) {
        size_t best = n_merge, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t m = 0; m < best; m++)
                if (id[i] == merge[m][0] && id[i + 1] == merge[m][1]) {
                    best = m;
                    at = i;
                }
        if (best == n_merge)
            return n;
        id[at] = merge[best][2];
        n--;
        memmove(id + at + 1, id + at + 2, (n - at - 1) * sizeof *id);
    }
}

static int32_t tiny_id(const char *text, size_t n)
{
    for (size_t i = 0; n > 1 && i < TINY_MERGES; i++) {
        const char *space = strchr(tiny_merges[i], ' ');
        size_t left = (size_t)(space - tiny_merges[i]), right = strlen(space + 1);
        if (n == left + right && memcmp(text, tiny_merges[i], left) == 0 && memcmp(text + left, space + 1, right) == 0)
            return 256 + (int32_t)i;
    }
    return n == 1 ? (int32_t)(unsigned char)text[0] : ' ';
}

/* Long words go through the heap, short ones through scanning: both against the definition, on random letters. */
static void test_merges_as_defined(void **state)
{
    (void)state;
    int32_t merge[TINY_MERGES][3];
    size_t n_merge = 0;
    for (size_t i = 0; i < TINY_MERGES; i++) { /* those of letters alone; others never meet here */
        const char *space = strchr(tiny_merges[i], ' ');
        if (tiny_merges[i][0] > 0 && space[1] > 0) {
            merge[n_merge][0] = tiny_id(tiny_merges[i], (size_t)(space - tiny_merges[i]));
            merge[n_merge][1] = tiny_id(space + 1, strlen(space + 1));
            merge[n_merge++][2] = 256 + (int32_t)i;
        }
    }
    assert_true(n_merge > 15);
    struct tiny tiny = {0};
    struct lb_tok *t = open_tiny(&tiny, NULL);
    struct lb_tok_ctx *c = open_ctx(t);
    uint32_t seed = 1;
    static char text[2000];
    static int32_t want[2000];
    for (int round = 0; round < 300; round++) {
        size_t n = round < 290 ? (size_t)round / 3 + 1 : sizeof text;
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            text[i] = "abc1.-'ses"[(seed >> 16) % 10];
            want[i] = text[i];
        }
        size_t n_want = merge_plainly(want, n, (const int32_t(*)[3])merge, n_merge);
        struct lb_err err = LB_ERR_INIT;
        struct lb_ids ids = {0};
        for (int again = 0; again < 2; again++) { /* the second time from the cache of words */
            ids.n = 0;
            assert_int_equal(lb_tok_encode(t, c, text, n, LB_TOK_PLAIN, &ids, NULL, &err), LB_OK);
            assert_int_equal(ids.n, n_want);
            assert_memory_equal(ids.id, want, n_want * sizeof *want);
        }
        lb_ids_release(&ids);
    }
    lb_tok_ctx_free(c);
    lb_tok_free(t);
}

/* More different words than the cache of words has room for: each keeps its ids. */
static void test_cache_bounded(void **state)
{
    (void)state;
    struct tiny tiny = {.pre = BYTE_LEVEL("false", "true")};
    struct lb_tok *t = open_tiny(&tiny, NULL);
    struct lb_tok_ctx *c = open_ctx(t);
    struct lb_err err = LB_ERR_INIT;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 100000; i++) {
            char word[16];
            int32_t want[16];
            int n = snprintf(word, sizeof word, "%dx", i * 7 + 200000), m = 0;
            for (int k = 0; k < n - 1; k++) {
                bool one = word[k] == '1' && word[k + 1] == '1';
                want[m++] = one && word[k + 2] == '1' ? 261 : one ? 260 : word[k];
                k += one ? (word[k + 2] == '1' ? 2 : 1) : 0;
            }
            if (strstr(word, "1111"))
                continue; /* several merges: test_merges_as_defined */
            want[m++] = 'x';
            struct lb_ids ids = {0};
            assert_int_equal(lb_tok_encode(t, c, word, (size_t)n, LB_TOK_PLAIN, &ids, NULL, &err), LB_OK);
            assert_int_equal(ids.n, m);
            assert_memory_equal(ids.id, want, (size_t)m * sizeof *want);
            lb_ids_release(&ids);
        }
    }
    lb_tok_ctx_free(c);
    lb_tok_free(t);
}

static void check_decode(const struct lb_tok *t, bool skip, const int32_t *id, size_t n, const char *want)
{
    struct lb_detok d = {.tok = t, .skip_special = skip};
    struct lb_str out = {0};
    for (size_t i = 0; i < n; i++) {
        lb_detok_put(&d, id[i], &out);
        assert_int_equal(lb_utf8_valid_prefix(out.data ? out.data : "", out.len), out.len);
    }
    lb_detok_flush(&d, &out);
    assert_string_equal(out.data ? out.data : "", want);
    lb_detok_release(&d);
    lb_str_release(&out);
}

/* U+FFFD for each maximal invalid part, as the Unicode standard's table 3-8 and Rust's from_utf8_lossy cut them. */
static void test_decode_invalid(void **state)
{
    (void)state;
    struct tiny tiny = {.added = TOKEN("282", "<x>", "") ",{\"id\":283,\"content\":\"<y>\"}"};
    struct lb_tok *t = open_tiny(&tiny, NULL);
#define FFFD "\357\277\275"
    static const struct {
        int32_t id[12];
        size_t n;
        const char *want;
    } rows[] = {
        {{0xE6, 0x88, 0x91}, 3, "\346\210\221"},
        {{0xE6, 0x88}, 2, FFFD},
        {{0xE6, 0x88, 'a'}, 3, FFFD "a"},
        {{0xF0, 0x9F, 0x98, 0x80}, 4, "\360\237\230\200"},
        {{0xF0, 0x9F, 0x98, 0xF0, 0x9F, 0x98, 0x80}, 7, FFFD "\360\237\230\200"},
        {{0x61, 0xF1, 0x80, 0x80, 0xE1, 0x80, 0xC2, 0x62, 0x80, 0x63, 0x80, 0xBF},
         12,
         "a" FFFD FFFD FFFD "b" FFFD "c" FFFD FFFD},
        {{0xE0, 0x80, 'a'}, 3, FFFD FFFD "a"},
        {{0xED, 0xA0, 0x80}, 3, FFFD FFFD FFFD},
        {{0xF4, 0x90, 0x80, 0x80}, 4, FFFD FFFD FFFD FFFD},
        {{0xC0, 0xAF, 0xFF}, 3, FFFD FFFD FFFD},
        {{0xE6, 282, 0x88, 0x91}, 4, FFFD "<x>" FFFD FFFD},
        {{'a', 400, -1, 1 << 30, 'b'}, 5, "ab"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check_decode(t, false, rows[i].id, rows[i].n, rows[i].want);
    /* a skipped token between the bytes of a character is as if it were not there; one that is not special stays */
    const int32_t across[] = {0xE6, 282, 0x88, 0x91, 283};
    check_decode(t, true, across, 5, "\346\210\221<y>");
    assert_true(lb_tok_special(t, 282));
    assert_false(lb_tok_special(t, 283));
    assert_int_equal(lb_tok_size(t), 284);
    lb_tok_free(t);
}

/* Bytes that no later byte can complete come out at once. */
static void test_decode_prompt(void **state)
{
    (void)state;
    struct tiny tiny = {0};
    struct lb_tok *t = open_tiny(&tiny, NULL);
    struct lb_detok d = {.tok = t};
    struct lb_str out = {0};
    lb_detok_put(&d, 0xE0, &out);
    assert_int_equal(out.len, 0);
    lb_detok_put(&d, 0x80, &out);
    assert_string_equal(out.data, FFFD FFFD);
    lb_detok_put(&d, 0xF0, &out);
    lb_detok_put(&d, 0x9F, &out);
    assert_int_equal(out.len, 6);
    lb_detok_put(&d, 'a', &out);
    assert_string_equal(out.data, FFFD FFFD FFFD "a");
    lb_detok_release(&d);
    lb_str_release(&out);
    lb_tok_free(t);
}

/* models.md 3.4: an added token whose characters are all in the byte map stands for those bytes. */
static void test_pieces(void **state)
{
    (void)state;
    struct tiny tiny = {.added = TOKEN("282", "\303\251\303\251", "") "," TOKEN("283", "\303\251 ", "")};
    struct lb_tok *t = open_tiny(&tiny, NULL);
    struct lb_bytes piece = lb_tok_piece(t, 282);
    assert_int_equal(piece.len, 2);
    assert_memory_equal(piece.data, "\351\351", 2);
    piece = lb_tok_piece(t, 283);
    assert_int_equal(piece.len, 3);
    assert_memory_equal(piece.data, "\303\251 ", 3);
    piece = lb_tok_piece(t, 258);
    assert_int_equal(piece.len, 2);
    assert_memory_equal(piece.data, " a", 2);
    assert_int_equal(lb_tok_piece(t, 284).len, 0);
    lb_tok_free(t);
}

static void check_ids(const struct lb_tok *t, const char *text, enum lb_tok_add add, bool doubled, const char *want)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok_ctx *c = open_ctx(t);
    struct lb_ids ids = {0};
    struct lb_str got = {0};
    bool was = !doubled;
    assert_int_equal(lb_tok_encode(t, c, text, strlen(text), add, &ids, &was, &err), LB_OK);
    for (size_t i = 0; i < ids.n; i++)
        lb_str_putf(&got, "%s%d", i ? " " : "", (int)ids.id[i]);
    assert_string_equal(got.data ? got.data : "", want);
    assert_int_equal(was, doubled);
    lb_str_release(&got);
    lb_ids_release(&ids);
    lb_tok_ctx_free(c);
}

#define PIECE(name) "{\"SpecialToken\":{\"id\":\"" name "\",\"type_id\":0}}"
#define TEXT_A "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define TEMPLATE                                                                                        \
    "{\"type\":\"TemplateProcessing\",\"single\":[" PIECE("<g>") "," PIECE("<s>") "," TEXT_A "," PIECE( \
        "<e>") "],"                                                                                     \
               "\"special_tokens\":{\"<g>\":{\"ids\":[282]},\"<s>\":{\"ids\":[283]},\"<e>\":{\"ids\":[284,284]}}}"
#define THREE TOKEN("282", "<g>", "") "," TOKEN("283", "<s>", "") "," TOKEN("284", "<e>", "")

static void test_template(void **state)
{
    (void)state;
    struct tiny tiny = {.added = THREE, .post = TEMPLATE};
    struct lb_tok *t = open_tiny(&tiny, "{\"bos_token\":{\"content\":\"<g>\",\"lstrip\":false},\"eos_token\":\"<e>\","
                                        "\"pad_token\":null,\"model_max_length\":1000000000000000019884624838656}");
    assert_int_equal(lb_tok_bos(t), 282);
    assert_int_equal(lb_tok_eos(t), 284);
    assert_int_equal(lb_tok_pad(t), -1);
    check_ids(t, "x", LB_TOK_AUTO, false, "282 283 120 284 284");
    check_ids(t, "", LB_TOK_AUTO, false, "282 283 284 284");
    check_ids(t, "<g><s>x", LB_TOK_AUTO, true, "282 283 120 284 284");
    check_ids(t, "<g>x", LB_TOK_AUTO, true, "282 120 284 284");
    check_ids(t, "<s>x", LB_TOK_AUTO, false, "282 283 283 120 284 284");
    check_ids(t, "x<g><s>", LB_TOK_AUTO, false, "282 283 120 282 283 284 284");
    check_ids(t, "x", LB_TOK_BOS, false, "282 120");
    check_ids(t, "x", LB_TOK_PLAIN, false, "120");
    lb_tok_free(t);
    t = open_tiny(&tiny, NULL);
    check_ids(t, "x", LB_TOK_BOS, false, "120");
    check_ids(t, "<g><s>x", LB_TOK_AUTO, true, "282 283 120 284 284");
    lb_tok_free(t);
    /* processors of a Sequence put theirs around each other, the later outside */
    tiny.post = "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," TEMPLATE "," TEMPLATE "]}";
    t = open_tiny(&tiny, NULL);
    check_ids(t, "x", LB_TOK_AUTO, false, "282 283 282 283 120 284 284 284 284");
    lb_tok_free(t);
}

/* models.md 3.1: the two flags replace the post-processor; added_tokens_decoder adds what tokenizer.json lacks. */
static void test_config_overrides(void **state)
{
    (void)state;
    struct tiny tiny = {.added = THREE, .post = TEMPLATE};
    struct lb_tok *t = open_tiny(&tiny, "{\"bos_token\":\"<s>\",\"eos_token\":\"<e>\",\"add_bos_token\":true,"
                                        "\"add_eos_token\":true}");
    check_ids(t, "x", LB_TOK_AUTO, false, "283 120 284");
    check_ids(t, "<s>x", LB_TOK_AUTO, true, "283 120 284");
    lb_tok_free(t);
    t = open_tiny(&tiny, "{\"bos_token\":\"<s>\",\"add_bos_token\":false}");
    check_ids(t, "x", LB_TOK_AUTO, false, "120");
    lb_tok_free(t);
    t = open_tiny(&tiny, "{\"added_tokens_decoder\":{\"284\":{\"content\":\"<e>\",\"special\":false},"
                         "\"290\":{\"content\":\"<new>\",\"special\":true}},\"pad_token\":\"<new>\"}");
    check_ids(t, "x<new><e>", LB_TOK_PLAIN, false, "120 290 284");
    assert_int_equal(lb_tok_pad(t), 290);
    assert_int_equal(lb_tok_size(t), 291);
    assert_true(lb_tok_special(t, 290));
    assert_true(lb_tok_special(t, 284));
    lb_tok_free(t);
    t = open_tiny(&tiny, "{\"split_special_tokens\":true}");
    check_ids(t, "<g>", LB_TOK_PLAIN, false, "60 103 62");
    lb_tok_free(t);
}

static void check_named(const struct lb_tok *t, const char *content, int64_t id)
{
    struct lb_bytes text = lb_tok_token_text(t, id);
    assert_int_equal(lb_tok_id(t, content, strlen(content)), id);
    assert_int_equal(text.len, strlen(content));
    assert_memory_equal(text.data, content, text.len);
}

static void test_token_text(void **state)
{
    (void)state;
    struct tiny tiny = {.added = THREE "," TOKEN("285", "\303\251", NORM), .post = TEMPLATE};
    struct lb_tok *t = open_tiny(&tiny, "{\"unk_token\":{\"content\":\"<s>\"}}");
    assert_int_equal(lb_tok_unk(t), 283);
    check_named(t, "<g>", 282);
    check_named(t, "<e>", 284);
    check_named(t, "\303\251", 233); /* its character stands for a byte, which has a token */
    assert_int_equal(lb_tok_id(t, "<g", 2), -1);
    assert_int_equal(lb_tok_id(t, "ab", 2), -1);
    assert_memory_equal(lb_tok_token_text(t, 258).data, " a", 2);
    assert_int_equal(lb_tok_token_text(t, 300).len, 0);
    assert_int_equal(lb_tok_token_text(t, -1).len, 0);
    assert_int_equal(lb_tok_prefix(t)->n, 2);
    assert_int_equal(lb_tok_prefix(t)->id[1], 283);
    assert_int_equal(lb_tok_suffix(t)->n, 2);
    lb_tok_free(t);
}

/* Canonical ordering of a long run of marks, as short runs have it (UAX 15): classes 220 before 230, else in order. */
static void test_nfc_long_marks(void **state)
{
    (void)state;
    struct tiny tiny = {.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"};
    struct lb_tok *t = open_tiny(&tiny, NULL);
    struct lb_tok_ctx *c = open_ctx(t);
    struct lb_err err = LB_ERR_INIT;
    struct lb_str text = {0};
    struct lb_ids ids = {0};
    const int n = 100000;
    lb_str_putc(&text, 'q');
    for (int i = 0; i < n; i++)
        lb_str_puts(&text, "\314\201\314\226"); /* U+0301, class 230; U+0316, class 220 */
    assert_int_equal(lb_tok_encode(t, c, text.data, text.len, LB_TOK_PLAIN, &ids, NULL, &err), LB_OK);
    assert_int_equal(ids.n, 1 + 4 * n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(ids.id[1 + 2 * i], 0xCC);
        assert_int_equal(ids.id[2 + 2 * i], 0x96);
        assert_int_equal(ids.id[2 + 2 * (n + i)], 0x81);
    }
    lb_ids_release(&ids);
    lb_str_release(&text);
    lb_tok_ctx_free(c);
    lb_tok_free(t);
}

struct worker {
    const struct lb_tok *t;
    uint64_t sum;
};

static void *encode_many(void *arg)
{
    struct worker *w = arg;
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok_ctx *c = NULL;
    struct lb_ids ids = {0};
    enum lb_status status = lb_tok_ctx_new(&c, w->t, &err);
    for (int i = 0; i < 2000 && status == LB_OK; i++) {
        char text[64];
        int n = snprintf(text, sizeof text, "ab 11%d e\314\201 --c<x>111a", i);
        ids.n = 0;
        status = lb_tok_encode(w->t, c, text, (size_t)n, LB_TOK_AUTO, &ids, NULL, &err);
        for (size_t k = 0; k < ids.n; k++)
            w->sum = w->sum * 31 + (uint64_t)ids.id[k];
    }
    if (status != LB_OK)
        w->sum = 0;
    lb_ids_release(&ids);
    lb_tok_ctx_free(c);
    return NULL;
}

/* One tokenizer, a context a thread: every thread gets what one thread gets. */
static void test_threads(void **state)
{
    (void)state;
    struct tiny tiny = {
        .normalizer = "{\"type\":\"NFC\"}", .pre = BYTE_LEVEL("false", "true"), .added = TOKEN("282", "<x>", "")};
    struct lb_tok *t = open_tiny(&tiny, NULL);
    struct worker w[5] = {{t, 0}, {t, 0}, {t, 0}, {t, 0}, {t, 0}};
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, encode_many, &w[i]), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    encode_many(&w[4]);
    assert_true(w[4].sum != 0);
    for (int i = 0; i < 4; i++)
        assert_true(w[i].sum == w[4].sum);
    lb_tok_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),          cmocka_unit_test(test_merges_as_defined),
        cmocka_unit_test(test_cache_bounded),  cmocka_unit_test(test_decode_invalid),
        cmocka_unit_test(test_decode_prompt),  cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_template),       cmocka_unit_test(test_config_overrides),
        cmocka_unit_test(test_nfc_long_marks), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_token_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
