/* Tokenizer files that are broken, hostile or of kinds that are not built in, and GGUF vocabularies. */
#include "core/tests/test_text_tiny.h"

/* A tokenizer.json from its parts. */
#define FILE_OF(pre, post, added, model)                                               \
    "{\"added_tokens\":[" added "],\"pre_tokenizer\":" pre ",\"post_processor\":" post \
    ",\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{" model "}}"
#define BYTES BYTE_LEVEL("false", "false")
#define BPE(vocab, merges) "\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]"
#define AB BPE("\"a\":0,\"b\":1,\"ab\":2", "\"a b\"")
#define MODEL(model) FILE_OF(BYTES, "null", "", model)
#define PRE(pre) FILE_OF(pre, "null", "", AB)
#define POST(post) FILE_OF(BYTES, post, "", AB)
#define ADDED(added) FILE_OF(BYTES, "null", added, AB)
#define SPLIT(pattern) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern "\"},\"behavior\":\"Isolated\"}"
#define SINGLE(list) "{\"type\":\"TemplateProcessing\",\"single\":[" list "],\"special_tokens\":{\"s\":{\"ids\":[9]}}}"
#define TEXT_A "{\"Sequence\":{\"id\":\"A\"}}"
#define DECODER(decoder) "{\"decoder\":" decoder ",\"model\":{" AB "}}"
#define TIMES5(x) x x x x x

static void check_error(enum lb_status status, const struct lb_err *err, const char *what)
{
    if (status != LB_E_INPUT || !strstr(err->text, what) || strpbrk(err->text, "\n\r\033"))
        fail_msg("status %d, \"%s\" without \"%s\"", (int)status, err->text, what);
}

static void test_broken_files(void **state)
{
    (void)state;
    static const struct {
        const char *json, *what;
    } rows[] = {
        {"", "not valid JSON"},
        {"{\"model\":", "not valid JSON at line 1"},
        {"{\"model\":\"\xff\"}", "not valid JSON"},
        {"[]", "not a JSON object"},
        {"{}", "model is no object"},
        {"{\"model\":[]}", "model is no object"},
        {MODEL("\"type\":7"), "model is no object with a type"},
        {MODEL("\"type\":\"BPE\""), "model.vocab"},
        {MODEL("\"type\":\"BPE\",\"vocab\":[\"a\"],\"merges\":[]"), "model.vocab"},
        {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0}"), "model.merges"},
        {MODEL(BPE("\"a\":16777216", "")), "model.vocab: the id of \"a\""},
        {MODEL(BPE("\"a\":1e300", "")), "model.vocab: the id of \"a\""},
        {MODEL(BPE("\"a\":-1", "")), "model.vocab: the id of \"a\""},
        {MODEL(BPE("\"a\":0.5", "")), "model.vocab: the id of \"a\""},
        {MODEL(BPE("\"a\\n\\u001b\":\"0\"", "")), "model.vocab: the id of \"a\\n\\u001b\""},
        {MODEL(BPE("\"a\":3,\"b\":3", "")), "model.vocab: \"b\" has id 3, which another token has"},
        {MODEL(BPE("\"a\":0,\"b\":1", "\"a b\"")), "model.merges[0] \"a b\" names a token"},
        {MODEL(BPE("\"a\":0,\"ab\":1", "\"a b\"")), "model.merges[0] \"a b\" names a token"},
        {MODEL(BPE("\"a\":0,\"b\":1,\"ab\":2", "\"a b\",[\"a\",\"q\"]")), "model.merges[1] \"a q\" names a token"},
        {MODEL(BPE("\"a\":0", "\"a\"")), "model.merges[0] is not two tokens"},
        {MODEL(BPE("\"a\":0", "\"a a a\"")), "model.merges[0] is not two tokens"},
        {MODEL(BPE("\"a\":0", "[\"a\"]")), "model.merges[0] is not two tokens"},
        {MODEL(BPE("\"a\":0", "[\"a\",5]")), "model.merges[0] is not two tokens"},
        {MODEL(BPE("\"a\":0", "7")), "model.merges[0] is not two tokens"},
        {MODEL("\"unk_token\":\"u\"," BPE("\"a\":0", "")), "model.unk_token"},
        {ADDED("7"), "added_tokens"},
        {ADDED("{\"id\":16777216,\"content\":\"x\"}"), "added_tokens[0]: id"},
        {ADDED("{\"id\":5}"), "a token without content"},
        {ADDED("{\"id\":5,\"content\":\"x\\u0000y\"}"), "zero byte"},
        {ADDED("{\"id\":5,\"content\":\"x\",\"special\":1}"), "special of a token"},
        {ADDED("{\"id\":1,\"content\":\"x\"}"), "\"x\" has id 1, which another token has"},
        {ADDED("{\"id\":5,\"content\":\"x\"},{\"id\":5,\"content\":\"y\"}"), "\"y\" has id 5"},
        {ADDED("{\"id\":5,\"content\":\"x\"},{\"id\":6,\"content\":\"x\"}"), "\"x\" has two ids"},
        {PRE("7"), "pre_tokenizer is no object"},
        {PRE("{\"type\":\"Sequence\"}"), "pretokenizers"},
        {PRE("{\"type\":\"Split\"}"), "Split without a pattern"},
        {PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"}}"), "behavior"},
        {PRE(SPLIT("(")), "the pattern \"(\" does not compile"},
        {PRE(SPLIT("[b-a]")), "does not compile"},
        {PRE(SPLIT("(?:(?:a{1000}){1000}){1000}")), "does not compile"},
        {PRE("{\"type\":\"Digits\",\"individual_digits\":3}"), "individual_digits"},
        {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[" TIMES5(TIMES5(SPLIT("a") "," SPLIT("b") ",")) BYTES "]}"),
         "more than 32 pre-tokenizer steps"},
        {PRE(TIMES5(TIMES5("{\"type\":\"Sequence\",\"pretokenizers\":[")) BYTES TIMES5(TIMES5("]}"))), "nested more"},
        {POST("{\"type\":\"TemplateProcessing\"}"), "post_processor"},
        {POST(SINGLE("")), "'single' has the text 0 times"},
        {POST(SINGLE(TEXT_A "," TEXT_A)), "'single' has the text 2 times"},
        {POST(SINGLE("{\"Sequence\":{\"id\":\"B\"}}")), "single[0] is neither"},
        {POST(SINGLE("{\"SpecialToken\":{\"id\":\"q\"}}," TEXT_A)), "special_tokens lacks \"q\""},
        {POST(SINGLE("{\"SpecialToken\":{\"id\":\"s\"}}," TEXT_A)), "outside the vocabulary"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        enum lb_status status = tiny_open(&t, rows[i].json, strlen(rows[i].json), NULL, &err);
        check_error(status, &err, rows[i].what);
        check_error(status, &err, "tokenizer.json");
        assert_null(t);
    }
}

static void test_broken_config(void **state)
{
    (void)state;
    static const struct {
        const char *json, *what;
    } rows[] = {
        {"{", "tokenizer_config.json': not valid JSON"},
        {"3", "not valid JSON"},
        {"[]", "tokenizer_config.json': not a JSON object"},
        {"{\"added_tokens_decoder\":{\"x\":{\"content\":\"q\"}}}", "\"x\" is no token id"},
        {"{\"added_tokens_decoder\":{\"99999999999999999999\":{\"content\":\"q\"}}}", "is no token id"},
        {"{\"added_tokens_decoder\":{\"7\":{}}}", "a token without content"},
        {"{\"added_tokens_decoder\":{\"1\":{\"content\":\"q\"}}}", "\"q\" has id 1, which another token has"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        check_error(tiny_open(&t, MODEL(AB), strlen(MODEL(AB)), rows[i].json, &err), &err, rows[i].what);
    }
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    check_error(lb_tok_open_dir(&t, "/nonexistent/model", &err), &err, "'/nonexistent/model'");
}

static void test_deep_nesting(void **state)
{
    (void)state;
    struct lb_str json = {0};
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    lb_str_puts(&json, "{\"normalizer\":");
    for (int i = 0; i < 100000; i++)
        lb_str_puts(&json, i % 2 ? "[" : "{\"normalizers\":");
    check_error(tiny_open(&t, json.data, json.len, NULL, &err), &err, "not valid JSON");
    lb_str_release(&json);
}

/* Every truncation is refused; a changed byte is refused or gives a tokenizer that works or refuses the text. */
static void test_bent_files(void **state)
{
    (void)state;
    struct tiny tiny = {.normalizer = "{\"type\":\"NFC\"}",
                        .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT("[a-c]+|\\\\s") "," BYTES "]}",
                        .added = "{\"id\":282,\"content\":\"<x>\",\"lstrip\":true}",
                        .model = "\"unk_token\":\"zz\"",
                        .post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"s\"}}," TEXT_A
                                "],\"special_tokens\":{\"s\":{\"ids\":[282]}}}"};
    struct lb_str json = {0};
    char dir[64];
    int n_refused = 0, n_opened = 0;
    tiny_put(&json, &tiny);
    tiny_dir(dir);
    for (size_t n = 0; n < json.len; n += 13) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        tiny_write(dir, "tokenizer.json", json.data, n);
        check_error(lb_tok_open_dir(&t, dir, &err), &err, "tokenizer.json");
    }
    for (size_t i = 0; i < json.len; i += 3) {
        char was = json.data[i];
        json.data[i] = "\"0[{\xff,a9"[i % 8];
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        struct lb_tok_ctx *c = NULL;
        struct lb_ids ids = {0};
        tiny_write(dir, "tokenizer.json", json.data, json.len);
        json.data[i] = was;
        enum lb_status status = lb_tok_open_dir(&t, dir, &err);
        if (status != LB_OK) {
            check_error(status, &err, "tokenizer.json");
            n_refused++;
            continue;
        }
        n_opened++;
        assert_int_equal(lb_tok_ctx_new(&c, t, &err), LB_OK);
        status = lb_tok_encode(t, c, "ab <x>\303\251Q c", 12, LB_TOK_AUTO, &ids, NULL, &err);
        assert_true(status == LB_OK || status == LB_E_INPUT);
        for (size_t k = 0; k < ids.n; k++)
            assert_in_range(ids.id[k], 0, lb_tok_size(t) - 1);
        lb_ids_release(&ids);
        lb_tok_ctx_free(c);
        lb_tok_free(t);
    }
    tiny_remove(dir);
    rmdir(dir);
    lb_str_release(&json);
    assert_true(n_refused > 400 && n_opened > 50);
}

/* A pattern that backtracks for ever ends with an error, and the context still serves the next text. */
static void test_endless_pattern(void **state)
{
    (void)state;
    static const char json[] = PRE("{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT("(a|a)+$|b") "," BYTES "]}");
    struct lb_err err = LB_ERR_INIT, none = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    struct lb_tok_ctx *c = NULL;
    struct lb_ids ids = {0};
    char text[64];
    memset(text, 'a', sizeof text);
    text[63] = 'c';
    assert_int_equal(tiny_open(&t, json, sizeof json - 1, NULL, &none), LB_OK);
    assert_int_equal(lb_tok_ctx_new(&c, t, &none), LB_OK);
    check_error(lb_tok_encode(t, c, text, sizeof text, LB_TOK_PLAIN, &ids, NULL, &err), &err, "pattern gave up");
    assert_int_equal(ids.n, 0);
    assert_int_equal(lb_tok_encode(t, c, "ab", 2, LB_TOK_PLAIN, &ids, NULL, &none), LB_OK);
    assert_int_equal(ids.n, 2);
    err = (struct lb_err)LB_ERR_INIT;
    check_error(lb_tok_encode(t, c, "a\xc3", 2, LB_TOK_PLAIN, &ids, NULL, &err), &err, "not valid UTF-8 at byte 1");
    assert_int_equal(ids.n, 2);
    lb_ids_release(&ids);
    lb_tok_ctx_free(c);
    lb_tok_free(t);
}

static void test_missing_kinds(void **state)
{
    (void)state;
    static const struct {
        const char *json, *what;
    } rows[] = {
        {MODEL("\"type\":\"WordPiece\",\"vocab\":{\"a\":0}"), "\"WordPiece\" model"},
        {MODEL("\"dropout\":0.1," AB), "BPE with dropout"},
        {PRE("{\"type\":\"UnicodeScripts\"}"), "pre-tokenizer \"UnicodeScripts\""},
        {PRE(SPLIT("[a&&[b]]")), "pre-tokenizer pattern with a class inside a class"},
        {POST("{\"type\":\"PairProcessing\"}"), "post-processor \"PairProcessing\""},
        {"{\"normalizer\":{\"type\":\"BertNormalizer\"},\"model\":{" AB "}}", "normalizer \"BertNormalizer\""},
        {DECODER("{\"type\":\"WordPiece\"}"), "decoder \"WordPiece\""},
        {DECODER("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]}"),
         "decoder \"ByteFallback\" on the joined text"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        if (tiny_open(&t, rows[i].json, strlen(rows[i].json), "{\"eos_token\":\"b\"}", &err) != LB_OK)
            fail_msg("%s", err.text);
        assert_non_null(lb_tok_missing(t));
        assert_string_equal(lb_tok_missing(t), rows[i].what);
        assert_int_equal(lb_tok_eos(t), strstr(rows[i].json, "\"b\":1") ? 1 : -1);
        lb_tok_free(t);
    }
}

static struct lb_bytes text_of(const char *text)
{
    return (struct lb_bytes){text, strlen(text)};
}

#define N_GGUF 11
static struct lb_bytes gguf_token[N_GGUF];
static int32_t gguf_type[N_GGUF];
static struct lb_bytes gguf_merge[2];

/* A small GGUF vocabulary: a control token, one user-defined with a space, one unused, one without valid UTF-8. */
static struct lb_vocab gguf_vocab(void)
{
    static const char *const tokens[N_GGUF] = {"a",     "b",   "ab",   "\304\240", "\304\240a", "<s>",
                                               "<u v>", "<e>", "\xff", "a",        "1"};
    static const int32_t types[N_GGUF] = {1, 1, 1, 1, 1, 3, 4, 3, 3, 5, 1};
    for (int i = 0; i < N_GGUF; i++)
        gguf_token[i] = text_of(tokens[i]);
    memcpy(gguf_type, types, sizeof types);
    gguf_merge[0] = text_of("a b");
    gguf_merge[1] = text_of("\304\240 a");
    return (struct lb_vocab){.model = text_of("gpt2"),
                             .pre = text_of("gpt-2"),
                             .n_token = N_GGUF,
                             .n_merge = 2,
                             .token = gguf_token,
                             .type = gguf_type,
                             .merge = gguf_merge,
                             .bos = 5,
                             .eos = 7,
                             .eot = -1,
                             .eom = -1,
                             .unk = -1,
                             .pad = -1,
                             .add_bos = -1,
                             .add_space_prefix = -1};
}

static void check_gguf(const struct lb_vocab *v, const char *text, enum lb_tok_add add, const char *want)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    struct lb_tok_ctx *c = NULL;
    struct lb_ids ids = {0};
    struct lb_str got = {0};
    if (lb_tok_open_vocab(&t, v, &err) != LB_OK)
        fail_msg("%s", err.text);
    assert_null(lb_tok_missing(t));
    assert_int_equal(lb_tok_ctx_new(&c, t, &err), LB_OK);
    assert_int_equal(lb_tok_encode(t, c, text, strlen(text), add, &ids, NULL, &err), LB_OK);
    for (size_t i = 0; i < ids.n; i++)
        lb_str_putf(&got, "%s%d", i ? " " : "", (int)ids.id[i]);
    assert_string_equal(got.data ? got.data : "", want);
    lb_str_release(&got);
    lb_ids_release(&ids);
    lb_tok_ctx_free(c);
    lb_tok_free(t);
}

static void test_gguf(void **state)
{
    (void)state;
    struct lb_vocab v = gguf_vocab();
    check_gguf(&v, "ab a<u v>b<s>q", LB_TOK_AUTO, "2 4 6 1 5");
    v.add_bos = 1;
    check_gguf(&v, "ab", LB_TOK_AUTO, "5 2");
    v.pre = text_of("llama-bpe");
    v.add_bos = -1;
    check_gguf(&v, "ab", LB_TOK_AUTO, "5 2");
    v.add_bos = 0;
    check_gguf(&v, "ab", LB_TOK_AUTO, "2");
    check_gguf(&v, "ab", LB_TOK_BOS, "5 2");
    v.bos = -1;
    v.add_bos = 1;
    check_gguf(&v, "ab", LB_TOK_AUTO, "2");
    v = gguf_vocab();
    v.type = NULL; /* then the special ids alone are added tokens */
    check_gguf(&v, "ab<s><u v>", LB_TOK_AUTO, "2 5 3");

    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    int64_t more[4];
    v = gguf_vocab();
    v.eot = 6;
    v.eom = 7;
    v.pad = 4294967295;
    assert_int_equal(lb_tok_open_vocab(&t, &v, &err), LB_OK);
    assert_int_equal(lb_tok_more_eos(t, more), 1);
    assert_int_equal(more[0], 6);
    assert_int_equal(lb_tok_pad(t), -1);
    assert_int_equal(lb_tok_piece(t, 9).len, 0);
    assert_int_equal(lb_tok_piece(t, 6).len, 5);
    assert_true(lb_tok_special(t, 5));
    assert_false(lb_tok_special(t, 6));
    lb_tok_free(t);
}

static void test_gguf_broken(void **state)
{
    (void)state;
    struct lb_vocab v = gguf_vocab();
    struct lb_err err[4] = {LB_ERR_INIT, LB_ERR_INIT, LB_ERR_INIT, LB_ERR_INIT};
    struct lb_tok *t = NULL;
    gguf_merge[1] = text_of("a q\n");
    check_error(lb_tok_open_vocab(&t, &v, &err[0]), &err[0], "merges[1] \"a q\\n\" names a token");
    gguf_merge[1] = text_of("ab");
    check_error(lb_tok_open_vocab(&t, &v, &err[1]), &err[1], "merges[1] \"ab\" is not two tokens");
    v.n_token = 0;
    check_error(lb_tok_open_vocab(&t, &v, &err[2]), &err[2], "tokens is empty");
    v.n_token = (size_t)1 << 24;
    check_error(lb_tok_open_vocab(&t, &v, &err[3]), &err[3], "more than a tokenizer may have");

    static const char *const kinds[][3] = {{"t5", "default", "GGUF tokenizer \"t5\""},
                                           {"bert", "", "GGUF tokenizer \"bert\""},
                                           {"", "", "no tokenizer in the GGUF file"},
                                           {"gpt2", "kimi-k2\n", "GGUF pre-tokenizer \"kimi-k2\\n\""}};
    for (int i = 0; i < 4; i++) {
        struct lb_err none = LB_ERR_INIT;
        v = gguf_vocab();
        v.model = text_of(kinds[i][0]);
        v.pre = text_of(kinds[i][1]);
        assert_int_equal(lb_tok_open_vocab(&t, &v, &none), LB_OK);
        assert_non_null(lb_tok_missing(t));
        assert_string_equal(lb_tok_missing(t), kinds[i][2]);
        assert_int_equal(lb_tok_bos(t), 5);
        assert_int_equal(lb_tok_eos(t), 7);
        assert_int_equal(lb_tok_size(t), N_GGUF);
        lb_tok_free(t);
    }
}

/* Every name whose pattern is known cuts digits as its pattern says (models.md 3.5). */
static void test_gguf_names(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"llama-bpe", "2 0"},
        {"llama3", "2 0"},
        {"llama-v3", "2 0"},
        {"glm4", "2 0"},
        {"chatglm-bpe", "2 0"},
        {"qwen2", "0 0 0 0"},
        {"qwen35", "0 0 0 0"},
        {"deepseek-r1-qwen", "0 0 0 0"},
        {"deepseek-v3", "2 0"},
        {"smollm", "0 0 0 0"},
        {"tekken", "0 0 0 0"},
        {"gpt-4o", "2 0"},
        {"llama4", "2 0"},
        {"seed-coder", "0 0 0 0"},
        {"bailingmoe", "0 0 0 0"},
        {"deepseek-llm", "1 1"},
        {"deepseek-coder", "0 0 0 0"},
        {"falcon", "2 0"},
        {"starcoder", "0 0 0 0"},
        {"bloom", "1 1"},
        {"viking", "0 0 0 0"},
        {"gpt-2", "1 1"},
        {"default", "2 0"},
        {"", "2 0"},
    };
    static struct lb_bytes token[4], merge[3];
    const char *const tokens[4] = {"1", "11", "111", "1111"};
    for (int i = 0; i < 4; i++)
        token[i] = text_of(tokens[i]);
    merge[0] = text_of("1 1");
    merge[1] = text_of("11 1");
    merge[2] = text_of("111 1");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_vocab v = {.model = text_of("gpt2"),
                             .pre = text_of(rows[i][0]),
                             .n_token = 4,
                             .n_merge = 3,
                             .token = token,
                             .merge = merge,
                             .bos = -1,
                             .eos = -1,
                             .eot = -1,
                             .eom = -1,
                             .unk = -1,
                             .pad = -1,
                             .add_bos = -1,
                             .add_space_prefix = -1};
        check_gguf(&v, "1111", LB_TOK_PLAIN, rows[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_files),
        cmocka_unit_test(test_broken_config),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_bent_files),
        cmocka_unit_test(test_endless_pattern),
        cmocka_unit_test(test_missing_kinds),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_gguf_broken),
        cmocka_unit_test(test_gguf_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
