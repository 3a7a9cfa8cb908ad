/* Tokenizers of real and tiny models against ../shared/goldens: ids, decoding, special ids, both ways of loading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/tests/whole.h"
#include "core/text/tok.h"

#define SHARED LB_SOURCE_DIR "/../shared/"

static struct lb_tok *open_dir(const char *dir)
{
    char path[512];
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    snprintf(path, sizeof path, SHARED "%s", dir);
    if (lb_tok_open_dir(&t, path, &err) != LB_OK)
        fail_msg("%s", err.text);
    return t;
}

static struct lb_tok_ctx *open_ctx(const struct lb_tok *t)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok_ctx *c = NULL;
    assert_int_equal(lb_tok_ctx_new(&c, t, &err), LB_OK);
    return c;
}

static FILE *open_rows(const char *path)
{
    char full[512];
    snprintf(full, sizeof full, SHARED "%s", path);
    FILE *f = fopen(full, "r");
    if (!f)
        fail_msg("cannot open %s", full);
    return f;
}

static bool same_ids(const struct lb_ids *got, size_t from, const json_t *want)
{
    bool same = got->n - from == json_array_size(want);
    for (size_t i = 0; same && i < json_array_size(want); i++)
        same = got->id[from + i] == json_integer_value(json_array_get(want, i));
    return same;
}

static bool begins_with(const struct lb_ids *ids, const struct lb_ids *prefix)
{
    return prefix->n > 0 && ids->n >= prefix->n && memcmp(ids->id, prefix->id, prefix->n * sizeof *ids->id) == 0;
}

/* Text of ids, fed one by one; what is out at any time must be whole characters and never change again. */
static void decode(const struct lb_tok *t, const struct lb_ids *ids, bool skip, struct lb_str *out)
{
    struct lb_detok d = {.tok = t, .skip_special = skip};
    for (size_t i = 0; i < ids->n; i++) {
        size_t before = out->len;
        lb_detok_put(&d, ids->id[i], out);
        if (out->len > before)
            assert_int_equal(lb_utf8_valid_prefix(out->data + before, out->len - before), out->len - before);
    }
    lb_detok_flush(&d, out);
    lb_detok_release(&d);
}

static bool decodes_to(const struct lb_tok *t, const struct lb_ids *ids, bool skip, const json_t *want)
{
    struct lb_str out = {0};
    decode(t, ids, skip, &out);
    bool same =
        out.len == json_string_length(want) && memcmp(out.len ? out.data : "", json_string_value(want), out.len) == 0;
    lb_str_release(&out);
    return same;
}

static int encode(const struct lb_tok *t, struct lb_tok_ctx *c, const json_t *text, enum lb_tok_add add,
                  struct lb_ids *ids)
{
    struct lb_err err = LB_ERR_INIT;
    bool doubled = false;
    ids->n = 0;
    if (lb_tok_encode(t, c, json_string_value(text), json_string_length(text), add, ids, &doubled, &err) != LB_OK)
        fail_msg("%s", err.text);
    return doubled;
}

/* One row of a vector file; the name of what is wrong, or NULL. The reference puts the prefix before any text, also
 * before one that begins with it. */
static const char *check_row(const struct lb_tok *t, struct lb_tok_ctx *c, const json_t *row,
                             const struct lb_ids *prefix, int *n_doubled)
{
    const json_t *text = json_object_get(row, "text"), *want = json_object_get(row, "ids");
    struct lb_ids ids = {0}, with = {0};
    const char *bad = NULL;
    encode(t, c, text, LB_TOK_PLAIN, &ids);
    int doubled = encode(t, c, text, LB_TOK_AUTO, &with);
    *n_doubled += doubled;
    if (!same_ids(&ids, 0, want))
        bad = "ids";
    else if (doubled != begins_with(&ids, prefix))
        bad = "doubled";
    else if (!same_ids(&with, 0, doubled ? want : json_object_get(row, "ids_with_special")))
        bad = "ids_with_special";
    else if (!decodes_to(t, &ids, false, json_object_get(row, "decoded")))
        bad = "decoded";
    else if (!decodes_to(t, &ids, true, json_object_get(row, "decoded_skip_special")))
        bad = "decoded_skip_special";
    encode(t, c, text, LB_TOK_BOS, &with);
    if (!bad &&
        !(lb_tok_bos(t) < 0 ? same_ids(&with, 0, want) : with.id[0] == lb_tok_bos(t) && same_ids(&with, 1, want)))
        bad = "ids with BOS";
    lb_ids_release(&ids);
    lb_ids_release(&with);
    return bad;
}

/* All rows of goldens/tokenizers/NAME.jsonl; the first text is empty and so shows the prefix. */
static void check_vectors(const struct lb_tok *t, const char *name, int want_doubled)
{
    char path[256];
    static char line[1 << 20];
    struct lb_tok_ctx *c = open_ctx(t);
    struct lb_ids prefix = {0};
    int n = 0, n_bad = 0, n_doubled = 0;
    snprintf(path, sizeof path, "goldens/tokenizers/%s.jsonl", name);
    FILE *f = open_rows(path);
    json_t *empty = json_string("");
    encode(t, c, empty, LB_TOK_AUTO, &prefix);
    json_decref(empty);
    while (fgets(line, sizeof line, f)) {
        json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(row);
        const char *bad = check_row(t, c, row, &prefix, &n_doubled);
        if (bad && n_bad++ < 10)
            print_error("%s row %d: %s differ\n", name, n, bad);
        n++;
        json_decref(row);
    }
    fclose(f);
    lb_ids_release(&prefix);
    lb_tok_ctx_free(c);
    assert_int_equal(n, 360);
    assert_int_equal(n_bad, 0);
    assert_int_equal(n_doubled, want_doubled);
}

struct known {
    const char *name, *dir;
    int64_t size, bos, eos, pad;
    int n_doubled;   /* rows whose text begins with the prefix */
    const char *pre; /* its name in GGUF files; NULL: not of byte-level kind */
};

static const struct known knowns[] = {
    {"llama3", "tokenizers/llama3", 128256, 128000, 128009, -1, 1, "llama-bpe"},
    {"qwen3", "tokenizers/qwen3", 151669, -1, 151645, 151643, 0, "qwen2"},
    {"smollm2", "tokenizers/smollm2", 49152, 1, 2, 2, 0, "smollm"},
    {"tiny-llama3", "goldens/llama-bias", 512, 496, 505, 500, 1, "llama3"},
    {"tiny-glm4", "goldens/glm", 520, -1, 504, 504, 1, "glm4"},
    {"tiny-glm4-noprefix", "goldens/glm4-moe", 520, -1, 504, 504, 0, "chatglm-bpe"},
    {"tiny-qwen", "goldens/qwen3", 512, -1, 507, 505, 0, "qwen2"},
    {"llama2", "tokenizers/llama2", 32000, 1, 2, -1, 3, NULL},
    {"mistral-7b-v0.1", "tokenizers/mistral-7b-v0.1", 32000, 1, 2, -1, 3, NULL},
    {"tiny-llama2", "goldens/llama-linear-rope", 512, 1, 2, -1, 3, NULL},
    {"glm-4-9b-chat", "tokenizers/glm-4-9b-chat", 151343, -1, 151329, 151329, 1, NULL},
};
#define N_KNOWN (sizeof knowns / sizeof knowns[0])
enum { LLAMA3 = 0, QWEN3 = 1, LLAMA2 = 7 };

/* Reads in seconds where a sanitizer watches. A sample has each of these as it is, and once more, in another form, the
 * small ones: of each kind there is one. */
static bool is_large(const struct known *k)
{
    return k->size > 100000;
}

/* Long words: of llama3, qwen3 and llama2, which test_vectors has read. */
static struct lb_tok *has_long_words[N_KNOWN];

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_KNOWN; i++) {
        struct lb_tok *t = open_dir(knowns[i].dir);
        assert_null(lb_tok_missing(t));
        assert_int_equal(lb_tok_size(t), knowns[i].size);
        assert_int_equal(lb_tok_bos(t), knowns[i].bos);
        assert_int_equal(lb_tok_eos(t), knowns[i].eos);
        assert_int_equal(lb_tok_pad(t), knowns[i].pad);
        check_vectors(t, knowns[i].name, knowns[i].n_doubled);
        if (i == LLAMA3 || i == QWEN3 || i == LLAMA2)
            has_long_words[i] = t;
        else
            lb_tok_free(t);
    }
}

/* A copy of a tokenizer's folder whose configuration says that special tokens in text are text. */
static struct lb_tok *open_splitting(const char *dir)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"};
    char own[] = "/tmp/lb_text_XXXXXX", from[512], to[64];
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok *t = NULL;
    assert_non_null(mkdtemp(own));
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof from, SHARED "%s/%s", dir, names[i]);
        snprintf(to, sizeof to, "%s/%s", own, names[i]);
        if (i < 2 && lb_file_exists(from))
            assert_int_equal(symlink(from, to), 0);
    }
    json_t *config = json_load_file(from, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
    assert_non_null(config);
    assert_int_equal(json_object_set_new(config, "split_special_tokens", json_true()), 0);
    assert_int_equal(json_dump_file(config, to, 0), 0);
    json_decref(config);
    if (lb_tok_open_dir(&t, own, &err) != LB_OK)
        fail_msg("%s", err.text);
    for (int i = 0; i < 3; i++) {
        snprintf(to, sizeof to, "%s/%s", own, names[i]);
        unlink(to);
    }
    rmdir(own);
    return t;
}

static void test_special_as_text(void **state)
{
    (void)state;
    static char line[1 << 20];
    for (size_t i = 0; i < N_KNOWN; i++) {
        char path[256];
        if (is_large(&knowns[i]) && !is_whole())
            continue;
        struct lb_tok *t = open_splitting(knowns[i].dir);
        struct lb_tok_ctx *c = open_ctx(t);
        struct lb_ids ids = {0};
        int n_bad = 0, n_other = 0;
        snprintf(path, sizeof path, "goldens/tokenizers/%s.jsonl", knowns[i].name);
        FILE *f = open_rows(path);
        while (fgets(line, sizeof line, f)) {
            json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL), *want = json_object_get(row, "ids_no_special_parse");
            encode(t, c, json_object_get(row, "text"), LB_TOK_PLAIN, &ids);
            n_bad += !same_ids(&ids, 0, want);
            n_other += !json_equal(want, json_object_get(row, "ids"));
            json_decref(row);
        }
        fclose(f);
        lb_ids_release(&ids);
        lb_tok_ctx_free(c);
        lb_tok_free(t);
        if (n_bad)
            fail_msg("%s: %d rows differ", knowns[i].name, n_bad);
        assert_true(n_other > 5);
    }
}

/* A GGUF file's vocabulary made from a tokenizer.json. */
struct made {
    json_t *root;
    struct lb_vocab v;
    struct lb_bytes *token, *merge;
    int32_t *type;
    struct lb_str *joined; /* merges that the file writes as pairs */
};

static struct lb_bytes bytes_of(const json_t *v)
{
    return (struct lb_bytes){json_string_value(v), json_string_length(v)};
}

static void make_merges(struct made *m, const json_t *merges)
{
    size_t n = json_array_size(merges);
    m->v.n_merge = n;
    m->v.merge = m->merge = lb_mem_new(n, sizeof *m->merge);
    m->joined = lb_mem_new(n, sizeof *m->joined);
    assert_true(m->merge && m->joined);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(merges, i);
        m->merge[i] = bytes_of(v);
        if (!json_is_array(v))
            continue;
        lb_str_putf(&m->joined[i], "%s %s", json_string_value(json_array_get(v, 0)),
                    json_string_value(json_array_get(v, 1)));
        m->merge[i] = (struct lb_bytes){m->joined[i].data, m->joined[i].len};
    }
}

static void make_vocab(struct made *m, const struct known *k)
{
    char path[512];
    const char *key;
    json_t *v;
    size_t i;
    snprintf(path, sizeof path, SHARED "%s/tokenizer.json", k->dir);
    m->root = json_load_file(path, JSON_ALLOW_NUL, NULL);
    json_t *model = json_object_get(m->root, "model");
    assert_non_null(model);
    m->v.model = (struct lb_bytes){"gpt2", 4};
    m->v.pre = (struct lb_bytes){k->pre, strlen(k->pre)};
    m->v.n_token = (size_t)k->size;
    m->v.token = m->token = lb_mem_new(m->v.n_token, sizeof *m->token);
    m->v.type = m->type = lb_mem_new(m->v.n_token, sizeof *m->type);
    assert_true(m->token && m->type);
    for (i = 0; i < m->v.n_token; i++)
        m->type[i] = LB_VOCAB_UNUSED;
    json_object_foreach(json_object_get(model, "vocab"), key, v)
    {
        m->token[json_integer_value(v)] = (struct lb_bytes){key, strlen(key)};
        m->type[json_integer_value(v)] = LB_VOCAB_NORMAL;
    }
    json_array_foreach(json_object_get(m->root, "added_tokens"), i, v)
    {
        json_int_t id = json_integer_value(json_object_get(v, "id"));
        m->token[id] = bytes_of(json_object_get(v, "content"));
        m->type[id] = json_is_true(json_object_get(v, "special")) ? LB_VOCAB_CONTROL : LB_VOCAB_USER;
    }
    make_merges(m, json_object_get(model, "merges"));
    m->v.bos = k->bos;
    m->v.eos = k->eos;
    m->v.pad = k->pad;
    m->v.eot = m->v.eom = m->v.unk = -1;
    m->v.add_bos = m->v.add_space_prefix = -1;
}

static void release_vocab(struct made *m)
{
    for (size_t i = 0; i < m->v.n_merge; i++)
        lb_str_release(&m->joined[i]);
    lb_mem_free(m->joined);
    lb_mem_free(m->merge);
    lb_mem_free(m->token);
    lb_mem_free(m->type);
    json_decref(m->root);
}

/* Every tokenizer again, as a GGUF file of it says it. All but the prefix of tiny-glm4, which GGUF has no words for. */
static void test_vectors_gguf(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_KNOWN; i++) {
        const struct known *k = &knowns[i];
        if (!k->pre || strcmp(k->name, "tiny-glm4") == 0 || (is_large(k) && !is_whole()))
            continue;
        struct made m = {0};
        struct lb_err err = LB_ERR_INIT;
        struct lb_tok *t = NULL;
        make_vocab(&m, k);
        if (lb_tok_open_vocab(&t, &m.v, &err) != LB_OK)
            fail_msg("%s: %s", k->name, err.text);
        release_vocab(&m); /* the tokenizer keeps nothing of it */
        assert_null(lb_tok_missing(t));
        assert_int_equal(lb_tok_size(t), k->size);
        assert_int_equal(lb_tok_bos(t), k->bos);
        assert_int_equal(lb_tok_eos(t), k->eos);
        check_vectors(t, k->name, k->n_doubled);
        lb_tok_free(t);
    }
}

/* Prompts of the golden models: a text with special tokens added, a rendered chat without; and the text of what random
 * weights generated, which is full of broken characters. */
static void test_golden_prompts(void **state)
{
    (void)state;
    static const char *const dirs[] = {"llama-bias",
                                       "llama-gqa-tied",
                                       "llama-bf16",
                                       "qwen2",
                                       "qwen3",
                                       "glm",
                                       "glm4",
                                       "glm4-moe",
                                       "chatglm",
                                       "llama-linear-rope",
                                       "llama-dynamic-ntk",
                                       "llama-mha",
                                       "llama-sharded",
                                       "mistral-swa"};
    static char line[1 << 20];
    int n_text = 0, n_chat = 0, n_out = 0;
    for (size_t k = 0; k < sizeof dirs / sizeof dirs[0]; k++) {
        char path[128];
        snprintf(path, sizeof path, "goldens/%s", dirs[k]);
        struct lb_tok *t = open_dir(path);
        assert_null(lb_tok_missing(t));
        struct lb_tok_ctx *c = open_ctx(t);
        snprintf(path, sizeof path, "goldens/%s/golden.jsonl", dirs[k]);
        FILE *f = open_rows(path);
        while (fgets(line, sizeof line, f)) {
            json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL), *out = json_object_get(row, "greedy_ids");
            const json_t *prompt = json_object_get(row, "prompt"), *chat = json_object_get(row, "rendered");
            struct lb_ids ids = {0};
            if (prompt || chat) {
                encode(t, c, prompt ? prompt : chat, prompt ? LB_TOK_AUTO : LB_TOK_PLAIN, &ids);
                assert_true(same_ids(&ids, 0, json_object_get(row, "prompt_token_ids")));
                n_text += prompt != NULL;
                n_chat += chat != NULL;
            }
            lb_ids_release(&ids);
            ids = (struct lb_ids){lb_mem_new(json_array_size(out), sizeof(int32_t)), json_array_size(out), 0};
            for (size_t i = 0; i < ids.n; i++)
                ids.id[i] = (int32_t)json_integer_value(json_array_get(out, i));
            assert_true(decodes_to(t, &ids, true, json_object_get(row, "output_text")));
            n_out++;
            lb_ids_release(&ids);
            json_decref(row);
        }
        fclose(f);
        lb_tok_ctx_free(c);
        lb_tok_free(t);
    }
    assert_true(n_text == 28 && n_chat == 28 && n_out == 168);
}

/* Kinds that are not built in open all the same, know their special ids, and refuse text. */
static void test_missing(void **state)
{
    (void)state;
    static const struct {
        const char *dir, *what;
        int64_t bos, eos, pad;
    } rows[] = {
        {"goldens/llama-lora", "no tokenizer files", -1, -1, -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lb_tok *t = open_dir(rows[i].dir);
        struct lb_tok_ctx *c = open_ctx(t);
        struct lb_err err = LB_ERR_INIT;
        struct lb_ids ids = {0};
        assert_non_null(lb_tok_missing(t));
        assert_string_equal(lb_tok_missing(t), rows[i].what);
        assert_int_equal(lb_tok_bos(t), rows[i].bos);
        assert_int_equal(lb_tok_eos(t), rows[i].eos);
        assert_int_equal(lb_tok_pad(t), rows[i].pad);
        assert_int_equal(lb_tok_encode(t, c, "x", 1, LB_TOK_AUTO, &ids, NULL, &err), LB_E_INPUT);
        assert_non_null(strstr(err.text, rows[i].what));
        assert_int_equal(ids.n, 0);
        assert_int_equal(lb_tok_piece(t, 5).len, 0);
        lb_tok_ctx_free(c);
        lb_tok_free(t);
    }
}

/* A million bytes (a sample: 50,000) without a place to cut: encoding must finish and lose nothing. */
static void test_long_words(void **state)
{
    (void)state;
    int n_tok = 0;
    const size_t n = 1000000 / (size_t)whole_or(20);
    for (size_t k = 0; k < N_KNOWN; k++) {
        struct lb_tok *t = has_long_words[k];
        if (!t)
            continue;
        n_tok++;
        struct lb_tok_ctx *c = open_ctx(t);
        for (int kind = 0; kind < 4; kind++) {
            struct lb_str text = {0}, back = {0};
            struct lb_ids ids = {0};
            struct lb_err err = LB_ERR_INIT;
            uint32_t seed = 7;
            while (text.len < n) {
                seed = seed * 1664525u + 1013904223u;
                if (kind == 0)
                    lb_str_putc(&text, 'a');
                else if (kind == 1)
                    lb_str_put_codepoint(&text, 0x4E00 + (seed >> 8) % 20000);
                else if (kind == 2)
                    lb_str_putc(&text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[seed >> 26]);
                else
                    lb_str_putc(&text, ' ');
            }
            assert_int_equal(lb_tok_encode(t, c, text.data, text.len, LB_TOK_PLAIN, &ids, NULL, &err), LB_OK);
            decode(t, &ids, false, &back);
            assert_int_equal(back.len, text.len);
            assert_memory_equal(back.data, text.data, text.len);
            if (kind == 0 && k == LLAMA3) /* "aaaaaaaa", merged from the left, is 70540 in Llama 3 */
                for (size_t i = 0; i < ids.n; i++)
                    assert_int_equal(ids.id[i], 70540);
            lb_ids_release(&ids);
            lb_str_release(&text);
            lb_str_release(&back);
        }
        lb_tok_ctx_free(c);
        lb_tok_free(t);
    }
    assert_int_equal(n_tok, 3);
}

int main(void)
{
    if (!lb_file_is_dir(SHARED)) {
        printf("skip: test_text_tok: no ../shared\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors), cmocka_unit_test(test_vectors_gguf), cmocka_unit_test(test_golden_prompts),
        cmocka_unit_test(test_missing), cmocka_unit_test(test_long_words),   cmocka_unit_test(test_special_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
