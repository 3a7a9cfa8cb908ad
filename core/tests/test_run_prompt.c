#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/io/gguf.h"
#include "core/run/audit.h"
#include "core/run/prompt.h"

/* Prompts of rows against ../shared/goldens, which transformers 5.23.0 made: for every model there the ids of all rows,
 * and the text of the conversations. Then what the beginning of a text may look like. */

#define GOLDENS LB_SOURCE_DIR "/../shared/goldens"

struct model {
    struct lb_gguf gguf;
    bool gguf_open;
    struct lb_tok *tok;
    struct lb_chat *chat;
    struct lb_prompter p;
    struct lb_prompt_ctx *ctx;
};

static void ok(enum lb_status status, const struct lb_err *err)
{
    if (status != LB_OK)
        fail_msg("%s", err->text);
}

/* path: a folder, or a GGUF file. */
static void model_open(struct model *m, const char *path, enum lb_tok_add add)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_chat_spec spec = {0};
    size_t n = strlen(path);
    *m = (struct model){0};
    if (n > 5 && strcmp(path + n - 5, ".gguf") == 0) {
        ok(lb_gguf_open(&m->gguf, path, &err), &err);
        m->gguf_open = true;
        ok(lb_tok_open_vocab(&m->tok, &m->gguf.vocab, &err), &err);
        spec.v = &m->gguf.vocab;
    } else {
        ok(lb_tok_open_dir(&m->tok, path, &err), &err);
        spec.dir = path;
    }
    spec.tok = m->tok;
    ok(lb_chat_open(&m->chat, &spec, &err), &err);
    m->p = (struct lb_prompter){.tok = m->tok, .chat = m->chat, .add = add};
    ok(lb_prompt_ctx_new(&m->ctx, &m->p, &err), &err);
}

static void model_close(struct model *m)
{
    lb_prompt_ctx_free(m->ctx);
    lb_chat_free(m->chat);
    lb_tok_free(m->tok);
    if (m->gguf_open)
        lb_gguf_close(&m->gguf);
}

/* Parses a row and makes its prompt; row and prompt live until lb_row_release. */
static void make(const struct model *m, const char *line, struct lb_row *row, struct lb_prompt *made)
{
    static const struct lb_row_spec spec;
    struct lb_err err = LB_ERR_INIT;
    ok(lb_row_parse(row, &spec, 0, line, strlen(line), &err), &err);
    if (row->code != LB_ROW_OK)
        fail_msg("%s: %s", line, row->message);
    ok(lb_prompt_make(m->ctx, row, made, &err), &err);
}

static void same_ids(const char *name, const struct lb_prompt *made, const json_t *ids)
{
    if (made->n != json_array_size(ids))
        fail_msg("%s: %zu ids, not %zu", name, made->n, json_array_size(ids));
    for (size_t i = 0; i < made->n; i++)
        if (made->id[i] != json_integer_value(json_array_get(ids, i)))
            fail_msg("%s: id %zu is %d, not %lld", name, i, made->id[i],
                     (long long)json_integer_value(json_array_get(ids, i)));
}

/* One row of golden.jsonl; what it has of ids, text and messages gives the same ids. */
static int check_golden(const struct model *m, const json_t *g)
{
    static const char *const forms[] = {"prompt_token_ids", "prompt", "messages"};
    const char *name = json_string_value(json_object_get(g, "id"));
    const json_t *rendered = json_object_get(g, "rendered");
    int n = 0;
    for (size_t i = 0; i < 3; i++) {
        json_t *value = json_object_get(g, forms[i]), *v = json_object();
        if (value) {
            json_object_set(v, forms[i], value);
            char *line = json_dumps(v, JSON_COMPACT);
            struct lb_row row;
            struct lb_prompt made;
            make(m, line, &row, &made);
            if (row.code != LB_ROW_OK)
                fail_msg("%s: %s", name, row.message);
            same_ids(name, &made, json_object_get(g, "prompt_token_ids"));
            if (i == 2) {
                assert_int_equal(made.n_text, json_string_length(rendered));
                assert_memory_equal(made.text, json_string_value(rendered), made.n_text);
            }
            lb_row_release(&row);
            free(line);
            n++;
        }
        json_decref(v);
    }
    return n;
}

static bool is_golden(const char *folder, char *path, size_t n)
{
    if (strchr(folder, '.') || strcmp(folder, "tokenizers") == 0)
        return false;
    const char *base = strcmp(folder, "llama-lora") == 0 ? "llama-mha" : folder; /* an adapter */
    if (strncmp(folder, "llama-gguf-", 11) == 0)
        snprintf(path, n, "%s/%s/%s.gguf", GOLDENS, folder, folder);
    else
        snprintf(path, n, "%s/%s", GOLDENS, base);
    return access(path, R_OK) == 0;
}

static void test_goldens(void **state)
{
    (void)state;
    static char line[1 << 20];
    char path[1024];
    int n_model = 0, n_prompt = 0, n_missing = 0;
    DIR *dir = opendir(GOLDENS);
    if (!dir)
        skip();
    for (struct dirent *e; (e = readdir(dir));) {
        struct model m;
        if (!is_golden(e->d_name, path, sizeof path))
            continue;
        model_open(&m, path, LB_TOK_AUTO);
        snprintf(path, sizeof path, "%s/%s/golden.jsonl", GOLDENS, e->d_name);
        FILE *f = lb_tok_missing(m.tok) ? NULL : fopen(path, "r");
        n_missing += lb_tok_missing(m.tok) != NULL;
        while (f && fgets(line, sizeof line, f)) {
            json_t *g = json_loads(line, JSON_ALLOW_NUL, NULL);
            assert_non_null(g);
            n_prompt += check_golden(&m, g);
            json_decref(g);
        }
        n_model += f != NULL;
        if (f)
            fclose(f);
        model_close(&m);
    }
    closedir(dir);
    print_message("%d models, %d prompts, %d tokenizers not built in\n", n_model, n_prompt, n_missing);
    assert_int_equal(n_missing, 0);
    assert_int_equal(n_model, 35);
    assert_int_equal(n_prompt, n_model * 16); /* 12 rows of ids, two also of text, two also of messages */
}

struct want {
    const char *row, *same; /* both give the same ids */
    uint32_t notes;         /* of the first */
};

static void check_wants(const char *folder, enum lb_tok_add add, const struct want *w, size_t n)
{
    struct model m;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", GOLDENS, folder);
    if (access(path, R_OK) != 0)
        skip();
    model_open(&m, path, add);
    for (size_t i = 0; i < n; i++) {
        struct lb_row a, b;
        struct lb_prompt made;
        make(&m, w[i].same, &a, &made);
        assert_int_equal(a.code, LB_ROW_OK);
        int32_t *ids = malloc((made.n + 1) * sizeof *ids);
        size_t n_ids = made.n;
        memcpy(ids, made.id, made.n * sizeof *ids);
        make(&m, w[i].row, &b, &made);
        assert_int_equal(b.code, LB_ROW_OK);
        if (made.n != n_ids || memcmp(ids, made.id, n_ids * sizeof *ids) != 0)
            fail_msg("%s: %s gives other ids than %s", folder, w[i].row, w[i].same);
        if (made.notes != w[i].notes)
            fail_msg("%s: %s has notes %x, not %x", folder, w[i].row, made.notes, w[i].notes);
        free(ids);
        lb_row_release(&a);
        lb_row_release(&b);
    }
    model_close(&m);
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* GLM: one [gMASK]<sop>, whoever writes it; 506 and 508 are its ids in ../shared/goldens/glm. */
static void test_glm(void **state)
{
    (void)state;
    static const struct want wants[] = {
        {"{\"prompt\":\"hello\"}", "{\"prompt\":\"[gMASK]<sop>hello\"}", LB_NOTE_RAW},
        {"{\"prompt\":\"[gMASK]<sop>hello\"}", "{\"prompt\":\"hello\"}", LB_NOTE_BEGUN | LB_NOTE_RAW},
        {"{\"prompt\":\"[gMASK] <sop>hello\"}", "{\"prompt\":\"hello\"}", LB_NOTE_BEGUN | LB_NOTE_RAW},
        {"{\"prompt\":\"<sop>\"}", "{\"prompt_token_ids\":[506,508,508]}", 0},
        {"{\"prompt\":\"[gMASK]<sop>[gMASK]<sop>\"}", "{\"prompt_token_ids\":[506,508,506,508]}",
         LB_NOTE_BEGUN | LB_NOTE_TWICE},
        {"{\"prompt_token_ids\":[506,508,506,508]}", "{\"prompt_token_ids\":[506,508,506,508]}", LB_NOTE_TWICE},
        {"{\"prompt\":\"[gMASK]<sop><|user|>\\nHi<|assistant|>\"}",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", LB_NOTE_BEGUN},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", "{\"prompt\":\"<|user|>\\nHi<|assistant|>\"}",
         LB_NOTE_CHAT},
    };
    check_wants("glm", LB_TOK_AUTO, wants, COUNT(wants));
    /* a tokenizer that adds nothing: the reference does not either, and it is noted */
    static const struct want bare[] = {
        {"{\"prompt\":\"<sop>\"}", "{\"prompt_token_ids\":[508]}", LB_NOTE_NOT_BEGUN},
        {"{\"prompt\":\"[gMASK]<sop>hi\"}", "{\"prompt\":\"[gMASK]<sop>hi\"}", LB_NOTE_RAW},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}",
         "{\"prompt\":\"[gMASK]<sop><|user|>\\nHi<|assistant|>\"}", LB_NOTE_CHAT},
    };
    check_wants("glm4-moe", LB_TOK_AUTO, bare, COUNT(bare));
}

static void test_llama(void **state)
{
    (void)state;
    static const struct want wants[] = {
        {"{\"prompt\":\"<|begin_of_text|>The dog\"}", "{\"prompt\":\"The dog\"}", LB_NOTE_BEGUN | LB_NOTE_RAW},
        {"{\"prompt\":\"The dog \"}", "{\"prompt\":\"<|begin_of_text|>The dog \"}", LB_NOTE_RAW | LB_NOTE_SPACE},
        {"{\"prompt\":\"The dog\\n\"}", "{\"prompt\":\"The dog\\n\"}", LB_NOTE_RAW},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}",
         "{\"prompt\":\"<|start_header_id|>user<|end_header_id|>\\n\\nHi<|eot_id|><|start_header_id|>assistant"
         "<|end_header_id|>\\n\\n\"}",
         LB_NOTE_CHAT},
        /* tools that the template never names */
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"tools\":[{\"name\":\"f\"}]}",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", LB_NOTE_CHAT | LB_NOTE_TOOLS},
    };
    check_wants("llama-bias", LB_TOK_AUTO, wants, COUNT(wants));
    static const struct want with[] = {
        {"{\"prompt\":\"<|eot_id|>\"}", "{\"prompt_token_ids\":[496,505]}", 0},
        {"{\"prompt\":\"<|begin_of_text|>\"}", "{\"prompt_token_ids\":[496,496]}", LB_NOTE_TWICE},
    };
    check_wants("llama-bias", LB_TOK_BOS, with, COUNT(with));
    static const struct want without[] = {
        {"{\"prompt\":\"<|end_of_text|>\"}", "{\"prompt_token_ids\":[497]}", 0},
        {"{\"prompt\":\"<|begin_of_text|>\"}", "{\"prompt_token_ids\":[496]}", 0},
    };
    check_wants("llama-bias", LB_TOK_PLAIN, without, COUNT(without));
}

static void test_no_template(void **state)
{
    (void)state;
    char dir[] = "/tmp/lb-prompt-XXXXXX", command[600];
    struct model m;
    struct lb_row row;
    struct lb_prompt made;
    assert_non_null(mkdtemp(dir));
    snprintf(command, sizeof command, "cp %s/glm4/tokenizer.json %s/ 2>/dev/null", GOLDENS, dir);
    bool copied = system(command) == 0;
    if (copied) {
        model_open(&m, dir, LB_TOK_AUTO);
        make(&m, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", &row, &made);
        assert_int_equal(row.code, LB_ROW_BAD_TEMPLATE);
        assert_non_null(strstr(row.message, "--chat-template FILE"));
        lb_row_release(&row);
        make(&m, "{\"prompt\":\"Hi\"}", &row, &made);
        assert_int_equal(made.notes, 0);
        lb_row_release(&row);
        model_close(&m);
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    if (!copied)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_glm),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_no_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
