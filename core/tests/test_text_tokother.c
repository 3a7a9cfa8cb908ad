/* Llama 2's and Llama 3's tokenizers as other files write them: GGUF "llama", and Meta's own tokenizer.model. */
#include <jansson.h>

#include "core/base/file.h"
#include "core/tests/test_text_tiny.h"

#define SHARED LB_SOURCE_DIR "/../shared/"
#define LLAMA2 32000
#define LLAMA3_BASE 128000

static json_t *load_model(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, SHARED "tokenizers/%s/tokenizer.json", name);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, NULL), *model = json_object_get(root, "model");
    assert_non_null(model);
    json_incref(model);
    json_decref(root);
    return model;
}

/* All rows of the name's vectors; want_bad of them differ. */
static void check_vectors(const struct lb_tok *t, const char *name, int want_bad)
{
    static char line[1 << 20];
    struct lb_tok_ctx *c = NULL;
    struct lb_err err = LB_ERR_INIT;
    struct lb_ids ids = {0};
    int n = 0, n_bad = 0;
    snprintf(line, sizeof line, SHARED "goldens/tokenizers/%s.jsonl", name);
    FILE *f = fopen(line, "r");
    assert_non_null(f);
    assert_int_equal(lb_tok_ctx_new(&c, t, &err), LB_OK);
    while (fgets(line, sizeof line, f)) {
        json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL), *text = json_object_get(row, "text");
        json_t *want = json_object_get(row, "ids"), *back = json_object_get(row, "decoded");
        struct lb_detok d = {.tok = t};
        struct lb_str out = {0};
        ids.n = 0;
        assert_int_equal(
            lb_tok_encode(t, c, json_string_value(text), json_string_length(text), LB_TOK_PLAIN, &ids, NULL, &err),
            LB_OK);
        bool same = ids.n == json_array_size(want);
        for (size_t i = 0; same && i < ids.n; i++)
            same = ids.id[i] == json_integer_value(json_array_get(want, i));
        for (size_t i = 0; i < ids.n; i++)
            lb_detok_put(&d, ids.id[i], &out);
        lb_detok_flush(&d, &out);
        same = same && (out.len == json_string_length(back) &&
                        memcmp(out.len ? out.data : "", json_string_value(back), out.len) == 0);
        if (!same && n_bad++ >= want_bad)
            print_error("%s row %d differs\n", name, n);
        n++;
        lb_detok_release(&d);
        lb_str_release(&out);
        json_decref(row);
    }
    fclose(f);
    lb_ids_release(&ids);
    lb_tok_ctx_free(c);
    assert_int_equal(n, 360);
    assert_int_equal(n_bad, want_bad);
}

static void check_text(const struct lb_tok *t, const char *text, enum lb_tok_add add, const char *want)
{
    struct lb_tok_ctx *c = NULL;
    struct lb_err err = LB_ERR_INIT;
    struct lb_ids ids = {0};
    struct lb_str got = {0};
    assert_int_equal(lb_tok_ctx_new(&c, t, &err), LB_OK);
    assert_int_equal(lb_tok_encode(t, c, text, strlen(text), add, &ids, NULL, &err), LB_OK);
    for (size_t i = 0; i < ids.n; i++)
        lb_str_putf(&got, "%s%d", i ? " " : "", (int)ids.id[i]);
    assert_string_equal(got.data, want);
    lb_str_release(&got);
    lb_ids_release(&ids);
    lb_tok_ctx_free(c);
}

/* A piece's score is the place of the first merge that makes it. */
static void test_gguf_llama(void **state)
{
    (void)state;
    static struct lb_bytes token[LLAMA2];
    static int32_t type[LLAMA2];
    static float score[LLAMA2];
    json_t *model = load_model("llama2"), *v;
    const char *key;
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    json_object_foreach(json_object_get(model, "vocab"), key, v)
    {
        json_int_t id = json_integer_value(v);
        token[id] = (struct lb_bytes){key, strlen(key)};
        type[id] = id == 0 ? LB_VOCAB_UNKNOWN : id < 3 ? LB_VOCAB_CONTROL : id < 259 ? LB_VOCAB_BYTE : LB_VOCAB_NORMAL;
        score[id] = -100000;
    }
    const json_t *merges = json_object_get(model, "merges");
    for (size_t i = json_array_size(merges); i-- > 0;) {
        char piece[256];
        snprintf(piece, sizeof piece, "%s%s", json_string_value(json_array_get(json_array_get(merges, i), 0)),
                 json_string_value(json_array_get(json_array_get(merges, i), 1)));
        score[json_integer_value(json_object_get(json_object_get(model, "vocab"), piece))] = -(float)i;
    }
    struct lb_vocab vocab = {.model = {"llama", 5}, .n_token = LLAMA2, .token = token, .type = type, .score = score};
    vocab.bos = 1;
    vocab.eos = 2;
    vocab.eot = vocab.eom = vocab.unk = vocab.pad = vocab.add_bos = vocab.add_space_prefix = -1;
    assert_int_equal(lb_tok_open_vocab(&t, &vocab, &err), LB_OK);
    assert_null(lb_tok_missing(t));
    check_vectors(t, "llama2", 0);
    /* llama.cpp's own vectors (models.md 3.7) */
    check_text(t, "Hello world", LB_TOK_PLAIN, "15043 3186");
    check_text(t, " Hello world", LB_TOK_PLAIN, "29871 15043 3186");
    check_text(t, "Hello, world!", LB_TOK_PLAIN, "15043 29892 3186 29991");
    check_text(t, "\n", LB_TOK_PLAIN, "29871 13");
    check_text(t, "  ", LB_TOK_PLAIN, "1678");
    check_text(t, "\303\204pfel", LB_TOK_PLAIN, "11585 7810 295");
    check_text(t, "w048 7tuijk dsdfhu", LB_TOK_PLAIN, "281 29900 29946 29947 29871 29955 9161 13535 18031 2176 6905");
    check_text(t, " this is \360\237\246\231.cpp", LB_TOK_AUTO, "1 29871 445 338 29871 243 162 169 156 29889 8223");
    assert_int_equal(lb_tok_unk(t), 0);
    lb_tok_free(t);
    vocab.add_bos = vocab.add_space_prefix = 0;
    assert_int_equal(lb_tok_open_vocab(&t, &vocab, &err), LB_OK);
    check_text(t, " Hello", LB_TOK_AUTO, "15043");
    lb_tok_free(t);
    score[5000] = (float)(0.0 / (vocab.add_bos + 0.0));
    assert_int_equal(lb_tok_open_vocab(&t, &vocab, &err), LB_E_INPUT);
    assert_non_null(strstr(err.text, "piece 5000: its score is no finite number"));
    json_decref(model);
}

/* Byte of a character of byte-level files, counted out as models.md 3.6 does. */
static int byte_of(uint32_t cp)
{
    uint32_t next = 256;
    for (int b = 0; b < 256; b++) {
        bool own = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (cp == (own ? (uint32_t)b : next))
            return b;
        next += !own;
    }
    return -1;
}

static void put_line(struct lb_str *out, const char *text, json_int_t rank)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    int n_bits = 0, n = 0, len;
    for (size_t i = 0, all = strlen(text); i < all; i += (size_t)len, n++) {
        bits = bits << 8 | (uint32_t)byte_of(lb_utf8_decode(text + i, all - i, &len));
        for (n_bits += 8; n_bits >= 6; n_bits -= 6)
            lb_str_putc(out, digits[bits >> (n_bits - 6) & 63]);
    }
    if (n_bits > 0)
        lb_str_putc(out, digits[bits << (6 - n_bits) & 63]);
    lb_str_putf(out, "%s %lld\n", n % 3 == 1 ? "==" : n % 3 == 2 ? "=" : "", (long long)rank);
}

/* Meta's file has the base tokens alone; the 256 special ones and BOS come from its code. */
static void test_meta_llama3(void **state)
{
    (void)state;
    json_t *model = load_model("llama3"), *v;
    const char *key;
    char dir[64];
    struct lb_str file = {0};
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    json_object_foreach(json_object_get(model, "vocab"), key, v) if (json_integer_value(v) < LLAMA3_BASE)
        put_line(&file, key, json_integer_value(v));
    assert_false(file.failed);
    tiny_dir(dir);
    tiny_write(dir, "tokenizer.model", file.data, file.len);
    if (lb_tok_open_dir(&t, dir, &err) != LB_OK)
        fail_msg("%s", err.text);
    tiny_remove(dir);
    rmdir(dir);
    assert_null(lb_tok_missing(t));
    assert_int_equal(lb_tok_size(t), 128256);
    assert_int_equal(lb_tok_bos(t), 128000);
    assert_int_equal(lb_tok_eos(t), 128001);
    assert_int_equal(lb_tok_id(t, "<|eot_id|>", 10), 128009);
    assert_int_equal(lb_tok_id(t, "<|python_tag|>", 14), 128010);
    assert_int_equal(lb_tok_id(t, "<|reserved_special_token_246|>", 30), 128255);
    int64_t more[4];
    assert_int_equal(lb_tok_more_eos(t, more), 2);
    check_vectors(t, "llama3", 2); /* two texts are tokens of Meta's that Llama 3's tokenizer.json lacks */
    check_text(t, "Hello world<|eot_id|>", LB_TOK_AUTO, "128000 9906 1917 128009");
    lb_tok_free(t);
    lb_str_release(&file);
    json_decref(model);
}

/* GPT-2's and Qwen2's older folders: vocab.json with merges.txt, the pipeline by the class's name. */
static void test_pair(void **state)
{
    (void)state;
    static const char vocab[] = "{\"a\":0,\"b\":1,\"ab\":2,\"1\":3,\"11\":4,\"\\u0120\":5}";
    static const char merges[] = "#version: 0.2\na b\n1 1\n";
    static const char *const classes[][2] = {{"GPT2Tokenizer", "2 5 4 3 6"}, {"Qwen2Tokenizer", "2 5 3 3 3 6"}};
    for (int i = 0; i < 3; i++) {
        char dir[64], config[256], path[128];
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        tiny_dir(dir);
        tiny_write(dir, "vocab.json", vocab, strlen(vocab));
        tiny_write(dir, "merges.txt", merges, strlen(merges));
        snprintf(config, sizeof config,
                 "{\"tokenizer_class\":\"%s\",\"added_tokens_decoder\":{\"6\":{\"content\":\"<e>\",\"special\":true}}}",
                 i < 2 ? classes[i][0] : "XTokenizer");
        tiny_write(dir, "tokenizer_config.json", config, strlen(config));
        if (lb_tok_open_dir(&t, dir, &err) != LB_OK)
            fail_msg("%s", err.text);
        if (i < 2)
            check_text(t, "ab 111<e>", LB_TOK_AUTO, classes[i][1]);
        else
            assert_string_equal(lb_tok_missing(t), "vocab.json without tokenizer.json");
        lb_tok_free(t);
        snprintf(path, sizeof path, "%s/vocab.json", dir);
        unlink(path);
        snprintf(path, sizeof path, "%s/merges.txt", dir);
        unlink(path);
        tiny_remove(dir);
        rmdir(dir);
    }
}

int main(void)
{
    if (!lb_file_is_dir(SHARED)) {
        printf("skip: test_text_tokother: no ../shared\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_llama),
        cmocka_unit_test(test_meta_llama3),
        cmocka_unit_test(test_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
