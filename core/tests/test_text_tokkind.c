/* Tokenizers of all kinds against recorded answers of sentencepiece and of the package tokenizers
 * (testdata/make_tokenizers.py), and folders without tokenizer.json. */
#include <jansson.h>

#include "core/tests/test_text_tiny.h"
#include "core/tests/whole.h"

#define DATA LB_SOURCE_DIR "/testdata/tokenizers/"

static json_t *load_kinds(void)
{
    json_error_t why;
    json_t *root = json_load_file(DATA "kinds.json", JSON_ALLOW_NUL, &why);
    if (!root)
        fail_msg("kinds.json: %s", why.text);
    return root;
}

static void read_file(const char *path, struct lb_str *out)
{
    FILE *f = fopen(path, "rb");
    char block[4096];
    size_t n;
    assert_non_null(f);
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        lb_str_put(out, block, n);
    fclose(f);
}

/* Opens a folder of a tokenizer.model and a configuration, which may be NULL. */
static enum lb_status open_model(struct lb_tok **out, const void *data, size_t n, const char *config,
                                 struct lb_err *err)
{
    char dir[64];
    tiny_dir(dir);
    tiny_write(dir, "tokenizer.model", data, n);
    if (config)
        tiny_write(dir, "tokenizer_config.json", config, strlen(config));
    enum lb_status status = lb_tok_open_dir(out, dir, err);
    tiny_remove(dir);
    rmdir(dir);
    return status;
}

static struct lb_tok_ctx *open_ctx(const struct lb_tok *t)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok_ctx *c = NULL;
    assert_int_equal(lb_tok_ctx_new(&c, t, &err), LB_OK);
    return c;
}

static bool encodes_to(const struct lb_tok *t, struct lb_tok_ctx *c, const json_t *text, enum lb_tok_add add,
                       const json_t *want)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_ids ids = {0};
    if (lb_tok_encode(t, c, json_string_value(text), json_string_length(text), add, &ids, NULL, &err) != LB_OK)
        fail_msg("%s", err.text);
    bool same = ids.n == json_array_size(want);
    for (size_t i = 0; same && i < ids.n; i++)
        same = ids.id[i] == json_integer_value(json_array_get(want, i));
    lb_ids_release(&ids);
    return same;
}

/* Ids fed one by one; twice with one decoder, because a flush begins anew. */
static bool decodes_to(const struct lb_tok *t, const json_t *ids, bool skip, const json_t *want)
{
    struct lb_detok d = {.tok = t, .skip_special = skip};
    bool same = true;
    for (int again = 0; again < 2; again++) {
        struct lb_str out = {0};
        for (size_t i = 0; i < json_array_size(ids); i++)
            lb_detok_put(&d, (int32_t)json_integer_value(json_array_get(ids, i)), &out);
        lb_detok_flush(&d, &out);
        same = same && out.len == json_string_length(want) &&
               memcmp(out.len ? out.data : "", json_string_value(want), out.len) == 0;
        lb_str_release(&out);
    }
    lb_detok_release(&d);
    return same;
}

static void test_sentence_models(void **state)
{
    (void)state;
    json_t *root = load_kinds();
    for (size_t i = 0; i < json_array_size(json_object_get(root, "sentence")); i++) {
        const json_t *m = json_array_get(json_object_get(root, "sentence"), i), *rows = json_object_get(m, "rows");
        char path[512];
        struct lb_str file = {0};
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        int n_bad = 0;
        snprintf(path, sizeof path, DATA "%s", json_string_value(json_object_get(m, "file")));
        read_file(path, &file);
        if (open_model(&t, file.data, file.len, NULL, &err) != LB_OK)
            fail_msg("%s: %s", path, err.text);
        assert_null(lb_tok_missing(t));
        assert_int_equal(lb_tok_bos(t), 1);
        assert_int_equal(lb_tok_eos(t), 2);
        assert_int_equal(lb_tok_unk(t), 0);
        assert_int_equal(lb_tok_id(t, "</s>", 4), 2);
        struct lb_tok_ctx *c = open_ctx(t);
        assert_int_equal(json_array_size(rows), 120);
        for (size_t k = 0; k < json_array_size(rows); k++) {
            const json_t *row = json_array_get(rows, k);
            if (!encodes_to(t, c, json_array_get(row, 0), LB_TOK_PLAIN, json_array_get(row, 1)) && n_bad++ < 5)
                print_error("%s: row %zu differs\n", path, k);
        }
        assert_int_equal(n_bad, 0);
        lb_tok_ctx_free(c);
        lb_tok_free(t);
        lb_str_release(&file);
    }
    json_decref(root);
}

/* One case's tokenizer.json from the parts that kinds.json has once. */
static char *case_json(const json_t *root, json_t *one)
{
    json_t *spec = json_object(), *part;
    const char *key;
    json_object_set(spec, "added_tokens", json_object_get(one, "added_tokens"));
    json_object_set(spec, "model",
                    json_object_get(json_object_get(root, "models"), json_string_value(json_object_get(one, "model"))));
    json_object_foreach(json_object_get(one, "parts"), key, part)
    {
        const json_t *all = json_object_get(json_object_get(root, "parts"), key);
        json_object_set(spec, key, json_object_get(all, json_string_value(part)));
    }
    char *text = json_dumps(spec, 0);
    json_decref(spec);
    assert_non_null(text);
    return text;
}

static int check_case(const struct lb_tok *t, const json_t *rows)
{
    struct lb_tok_ctx *c = open_ctx(t);
    int n_bad = 0;
    for (size_t k = 0; k < json_array_size(rows); k++) {
        const json_t *row = json_array_get(rows, k), *text = json_array_get(row, 0);
        const char *bad = NULL;
        if (!encodes_to(t, c, text, LB_TOK_PLAIN, json_array_get(row, 1)))
            bad = "ids";
        else if (!encodes_to(t, c, text, LB_TOK_AUTO, json_array_get(row, 2)))
            bad = "ids with special";
        else if (!decodes_to(t, json_array_get(row, 3), false, json_array_get(row, 4)))
            bad = "text";
        else if (!decodes_to(t, json_array_get(row, 3), true, json_array_get(row, 5)))
            bad = "text without special";
        if (bad && n_bad++ < 3)
            print_error("row %zu: %s differ\n", k, bad);
    }
    lb_tok_ctx_free(c);
    return n_bad;
}

static void test_tokenizer_json(void **state)
{
    (void)state;
    json_t *root = load_kinds(), *cases = json_object_get(root, "cases");
    int n_bad = 0;
    assert_int_equal(json_array_size(cases), 20);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *one = json_array_get(cases, i);
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        char *text = case_json(root, one);
        if (tiny_open(&t, text, strlen(text), NULL, &err) != LB_OK)
            fail_msg("%s", err.text);
        assert_null(lb_tok_missing(t));
        int bad = check_case(t, json_object_get(one, "rows"));
        if (bad)
            print_error("%s: %d rows differ\n", json_string_value(json_object_get(one, "name")), bad);
        n_bad += bad;
        lb_tok_free(t);
        free(text);
    }
    json_decref(root);
    assert_int_equal(n_bad, 0);
}

static void check_text(const struct lb_tok *t, const char *text, enum lb_tok_add add, const char *want)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok_ctx *c = open_ctx(t);
    struct lb_ids ids = {0};
    struct lb_str got = {0};
    if (lb_tok_encode(t, c, text, strlen(text), add, &ids, NULL, &err) != LB_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < ids.n; i++)
        lb_str_putf(&got, "%s%d", i ? " " : "", (int)ids.id[i]);
    assert_string_equal(got.data ? got.data : "", want);
    lb_str_release(&got);
    lb_ids_release(&ids);
    lb_tok_ctx_free(c);
}

/* What goes around a text of a tokenizer.model depends on the class that the configuration names. */
static void test_model_prefix(void **state)
{
    (void)state;
    struct lb_str file = {0};
    read_file(DATA "plain.model", &file);
    static const struct {
        const char *config, *text, *want;
    } rows[] = {
        {NULL, "", "1"},
        {"{}", "<s>", "1"},
        {"{\"tokenizer_class\":\"LlamaTokenizer\"}", "", "1"},
        {"{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":false}", "", ""},
        {"{\"tokenizer_class\":\"LlamaTokenizer\",\"add_eos_token\":true}", "", "1 2"},
        {"{\"tokenizer_class\":\"T5Tokenizer\"}", "", ""},
        {"{\"tokenizer_class\":\"ChatGLMTokenizer\"}", "", "409 411"},
        {"{\"tokenizer_class\":\"ChatGLMTokenizer\"}", "[gMASK]sop<|user|>", "409 411 414"},
        {"{\"added_tokens_decoder\":{\"420\":{\"content\":\"<new>\",\"special\":true}},\"eos_token\":\"<new>\"}",
         "<new>", "1 420"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        if (open_model(&t, file.data, file.len, rows[i].config, &err) != LB_OK)
            fail_msg("%s", err.text);
        check_text(t, rows[i].text, LB_TOK_AUTO, rows[i].want);
        if (i + 1 == sizeof rows / sizeof rows[0])
            assert_int_equal(lb_tok_eos(t), 420);
        lb_tok_free(t);
    }
    lb_str_release(&file);
}

/* "sop" is a command where it stands alone, and letters inside of a word. */
static void test_chatglm_commands(void **state)
{
    (void)state;
    struct lb_str file = {0};
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    struct lb_ids ids = {0};
    read_file(DATA "plain.model", &file);
    assert_int_equal(open_model(&t, file.data, file.len, "{\"tokenizer_class\":\"ChatGLMTokenizer\"}", &err), LB_OK);
    struct lb_tok_ctx *c = open_ctx(t);
    assert_int_equal(lb_tok_encode(t, c, "philosophy", 10, LB_TOK_PLAIN, &ids, NULL, &err), LB_OK);
    for (size_t i = 0; i < ids.n; i++)
        assert_true(ids.id[i] < 408);
    assert_int_equal(lb_tok_id(t, "<|assistant|>", 13), 415);
    assert_int_equal(lb_tok_size(t), 417);
    lb_ids_release(&ids);
    lb_tok_ctx_free(c);
    lb_tok_free(t);
    lb_str_release(&file);
}

/* Ranks decide, whole words go first; the ids are those of the package tiktoken (0.14.0). */
static void test_tiktoken(void **state)
{
    (void)state;
    static const char file[] = "YQ== 0\nYg== 1\nYw== 2\nIA== 3\nYmM= 4\nYWI= 5\nIGFiYw== 6\nYWJj 7\n";
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    assert_int_equal(open_model(&t, file, sizeof file - 1, NULL, &err), LB_OK);
    assert_null(lb_tok_missing(t));
    check_text(t, "abc", LB_TOK_AUTO, "7");
    check_text(t, "abc abcab", LB_TOK_AUTO, "7 6 5"); /* " abcab": bc merges before ab, then " abc" */
    check_text(t, " abc", LB_TOK_AUTO, "6");
    check_text(t, "cabcc  bab", LB_TOK_AUTO, "2 7 2 3 3 1 5");
    assert_int_equal(lb_tok_size(t), 8);
    lb_tok_free(t);
    static const char *const broken[][2] = {
        {"", "the file is empty"},
        {"YQ==\n", "line 1 is not base64"},
        {"YQ== 0\nYg== x\n", "line 2 is not base64"},
        {"YQ== 0\nYQ== 1\n", "line 2 has a token"},
        {"YQ== 0\nYg== 0\n", "line 2 has a token"},
        {"YQ== 2\nYg== 0\n", "line 1 is not base64 and a rank below 2"},
        {"Y*== 0\n", "line 1 is not base64"},
        {"== 0\n", "line 1 is not base64"},
        {"YQ== 99999999999999999999\n", "line 1 is not base64"},
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        err = (struct lb_err)LB_ERR_INIT;
        assert_int_equal(open_model(&t, broken[i][0], strlen(broken[i][0]), NULL, &err), LB_E_INPUT);
        if (!strstr(err.text, broken[i][1]) || !strstr(err.text, "tokenizer.model"))
            fail_msg("\"%s\" without \"%s\"", err.text, broken[i][1]);
    }
}

/* Small protobuf messages: a piece is field 1, the trainer 2, the normalizer 3. */
#define PIECE_A        \
    "\x0a\x0a\x0a\x01" \
    "a\x15\0\0\x80\xbf\x18\x01"
#define PIECE_UNK "\x0a\x09\x0a\x05<unk>\x18\x02"
#define BPE_TRAINER "\x12\x02\x18\x02"

static void test_broken_models(void **state)
{
    (void)state;
#define BYTES_OF(text) text, sizeof text - 1
    static const struct {
        const char *data;
        size_t n;
        const char *what;
    } rows[] = {
        {BYTES_OF("\x0a"), "a number is cut off at byte 1"},
        {BYTES_OF("\x0a\x05zz"), "a field is longer than what holds it at byte 2"},
        {BYTES_OF("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "longer than what holds it"},
        {BYTES_OF("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "more than 64 bits"},
        {BYTES_OF("\x0a\x02\x0b\x00"), "a field of a type that is not known"},
        {BYTES_OF("\x0a\x02\x18\x07"), "a piece of a type that is not known"},
        {BYTES_OF("\x0a\x03\x15\x00\x00"), "a number is cut off"},
        {BYTES_OF("\x0a\x05\x15\0\0\xc0\x7f"), "piece 0: its score is no finite number"},
        {BYTES_OF("\x0a\x05\x15\0\0\x80\xff" BPE_TRAINER), "piece 0: its score is no finite number"},
        {BYTES_OF(PIECE_A BPE_TRAINER), "no piece is the unknown one"},
        {BYTES_OF(PIECE_UNK PIECE_A "\x1a\x05\x12\x03\x01\0\0"), "precompiled_charsmap of 3 bytes"},
        {BYTES_OF(PIECE_UNK PIECE_A "\x1a\x0a\x12\x08\x08\0\0\0\0\0\0\0"), "a trie of 8 does not fit"},
        {BYTES_OF(PIECE_UNK PIECE_A "\x1a\x0a\x12\x08\x04\0\0\0\0\x05\0\0"), "node 0 points outside"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        assert_int_equal(open_model(&t, rows[i].data, rows[i].n, NULL, &err), LB_E_INPUT);
        assert_null(t);
        if (!strstr(err.text, rows[i].what) || !strstr(err.text, "tokenizer.model"))
            fail_msg("\"%s\" without \"%s\"", err.text, rows[i].what);
    }
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    assert_int_equal(open_model(&t, BYTES_OF(PIECE_UNK PIECE_A "\x12\x02\x18\x03"), NULL, &err), LB_OK);
    assert_string_equal(lb_tok_missing(t), "SentencePiece model of type 3");
    lb_tok_free(t);
}

/* Every truncation and every changed byte gives an error or a tokenizer that works or refuses the text. */
static void test_bent_models(void **state)
{
    (void)state;
    static const char *const names[] = {"bpe.model", "unigram.model"};
    static const char text[] = "The foo  says: \357\254\201ne \342\221\240 \360\237\231\201 bar";
    for (int k = 0; k < 2; k++) {
        char path[512];
        struct lb_str file = {0};
        snprintf(path, sizeof path, DATA "%s", names[k]);
        read_file(path, &file);
        const bool all = is_whole();
        for (size_t i = 0; i < file.len; i += i < 600 ? (all ? 3 : 7) : (all ? 61 : 131)) {
            for (int how = 0; how < 2; how++) {
                struct lb_err err = LB_ERR_INIT;
                struct lb_tok *t = NULL;
                char old = file.data[i];
                if (how)
                    file.data[i] = (char)((unsigned char)old ^ (1u << (i % 8)));
                if (open_model(&t, file.data, how ? file.len : i, NULL, &err) == LB_OK && !lb_tok_missing(t)) {
                    struct lb_tok_ctx *c = open_ctx(t);
                    struct lb_ids ids = {0};
                    struct lb_str out = {0};
                    struct lb_detok d = {.tok = t};
                    if (lb_tok_encode(t, c, text, sizeof text - 1, LB_TOK_AUTO, &ids, NULL, &err) == LB_OK)
                        for (size_t n = 0; n < ids.n; n++)
                            lb_detok_put(&d, ids.id[n], &out);
                    lb_detok_flush(&d, &out);
                    assert_int_equal(lb_utf8_valid_prefix(out.data ? out.data : "", out.len), out.len);
                    lb_detok_release(&d);
                    lb_str_release(&out);
                    lb_ids_release(&ids);
                    lb_tok_ctx_free(c);
                }
                lb_tok_free(t);
                file.data[i] = old;
            }
        }
        lb_str_release(&file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentence_models), cmocka_unit_test(test_tokenizer_json),
        cmocka_unit_test(test_model_prefix),    cmocka_unit_test(test_chatglm_commands),
        cmocka_unit_test(test_tiktoken),        cmocka_unit_test(test_broken_models),
        cmocka_unit_test(test_bent_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
