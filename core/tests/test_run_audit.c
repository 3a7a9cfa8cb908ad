#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/run/audit.h"

/* Findings of small models that are wrong in one way each: the tokenizer is that of ../shared/goldens/llama-bias
 * (496 <|begin_of_text|>, added to texts; 505 <|eot_id|>), with a template and a configuration of the test's own. */

#define LLAMA LB_SOURCE_DIR "/../shared/goldens/llama-bias"
#define GLM LB_SOURCE_DIR "/../shared/goldens/glm4-moe"

struct model {
    char dir[32], log[4096];
    struct lb_log to;
    struct lb_tok *tok;
    struct lb_chat *chat;
    struct lb_config config;
    struct lb_audit audit;
    struct lb_prompter p;
    struct lb_prompt_ctx *ctx;
};

static void keep_log(void *ctx, enum lb_log_level level, const char *text)
{
    struct model *m = ctx;
    size_t n = strlen(m->log);
    snprintf(m->log + n, sizeof m->log - n, "%d %s\n", (int)level, text);
}

static void ok(enum lb_status status, const struct lb_err *err)
{
    if (status != LB_OK)
        fail_msg("%s", err->text);
}

/* template NULL: the model has none. */
static void model_open(struct model *m, const char *base, const char *template, enum lb_audit_mode mode)
{
    struct lb_err err = LB_ERR_INIT;
    char file[64];
    *m = (struct model){.dir = "/tmp/lb-audit-XXXXXX"};
    assert_non_null(mkdtemp(m->dir));
    m->to = (struct lb_log){LB_LOG_INFO, keep_log, m};
    ok(lb_tok_open_dir(&m->tok, base, &err), &err);
    snprintf(file, sizeof file, "%s/chat_template.jinja", m->dir);
    if (template) {
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        fputs(template, f);
        fclose(f);
    }
    struct lb_chat_spec spec = {.dir = m->dir};
    snprintf(file, sizeof file, "%s/tokenizer_config.json", m->dir);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs("{\"bos_token\":\"<|begin_of_text|>\"}", f);
    fclose(f);
    ok(lb_chat_open(&m->chat, &spec, &err), &err);
    m->config = (struct lb_config){.n_vocab = 512, .bos = 496, .pad = -1, .n_eos = 1, .eos = {{.id = 497}}};
    m->p = (struct lb_prompter){.tok = m->tok, .chat = m->chat, .add = LB_TOK_AUTO};
    ok(lb_prompt_ctx_new(&m->ctx, &m->p, &err), &err);
    lb_audit_init(&m->audit, mode, &m->to);
}

static void model_close(struct model *m)
{
    char command[64];
    lb_prompt_ctx_free(m->ctx);
    lb_audit_release(&m->audit);
    lb_chat_free(m->chat);
    lb_tok_free(m->tok);
    snprintf(command, sizeof command, "rm -r %s", m->dir);
    assert_int_equal(system(command), 0);
}

static enum lb_status audit_model(struct model *m, struct lb_err *err)
{
    *err = (struct lb_err)LB_ERR_INIT;
    return lb_audit_model(&m->audit, &(struct lb_audit_spec){m->tok, m->chat, &m->config}, err);
}

static enum lb_status audit_row(struct model *m, int64_t index, const char *line, struct lb_err *err)
{
    static const struct lb_row_spec spec;
    struct lb_row row;
    struct lb_prompt made;
    *err = (struct lb_err)LB_ERR_INIT;
    ok(lb_row_parse(&row, &spec, index, line, strlen(line), err), err);
    ok(lb_prompt_make(m->ctx, &row, &made, err), err);
    assert_int_equal(row.code, LB_ROW_OK);
    enum lb_status status = lb_audit_prompt(&m->audit, &m->p, index, &made, err);
    lb_row_release(&row);
    return status;
}

/* Codes with their severity in the order found, "warn end_token, info ...". */
static void expect(const struct model *m, const char *want)
{
    char got[512] = "";
    for (int i = 0; i < m->audit.n; i++) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s%s %s", i ? ", " : "", lb_severity_name(m->audit.item[i].severity),
                 m->audit.item[i].code);
    }
    assert_string_equal(got, want);
}

#define TURNS(before, end) \
    before "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}" end "{% endfor %}"

static void test_model(void **state)
{
    (void)state;
    static const struct {
        const char *template;
        int64_t n_vocab, pad;
        int32_t eos;
        const char *want;
    } cases[] = {
        {TURNS("{{ bos_token }}", "<|eot_id|>"), 512, -1, 505, "info beginning_twice"},
        {TURNS("{{ bos_token }}", "<|eot_id|>"), 512, 505, 505, "info pad_is_end, info beginning_twice"},
        {TURNS("{{ bos_token }}", "<|eot_id|>"), 512, 500, 497, "info beginning_twice, warn end_token"},
        {TURNS("{{ bos_token }}", "\\n <|eot_id|>"), 520, -1, 505, "info vocab_padded, info beginning_twice"},
        {TURNS("{{ bos_token }}", "{{ '\\n ' }}<|eot_id|>"), 512, -1, 497, "info beginning_twice, warn end_token"},
        {TURNS("{{ bos_token }}", " and more <|eot_id|>"), 512, -1, 497, "info beginning_twice"},
        {TURNS("{{ bos_token }}{{ bos_token }}", "<|eot_id|>"), 500, -1, 505,
         "warn vocab_larger, warn beginning_twice"},
        {TURNS("", "<|eot_id|>"), 512, -1, 505, "warn beginning_missing"},
        {TURNS("{{ bos_token }}", "<|im_end|>"), 512, -1, 505, "info beginning_twice, warn token_split"},
        {"{{ raise_exception('no') }}", 512, -1, 505, ""},
        {"{% for %}", 512, -1, 505, ""},
        {NULL, 512, -1, 505, ""},
    };
    if (access(LLAMA, R_OK) != 0)
        skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m;
        struct lb_err err;
        bool refused = strstr(cases[i].want, "warn") != NULL;
        model_open(&m, LLAMA, cases[i].template, LB_AUDIT_WARN);
        m.config.n_vocab = cases[i].n_vocab;
        m.config.pad = cases[i].pad;
        m.config.eos[0].id = cases[i].eos;
        ok(audit_model(&m, &err), &err);
        expect(&m, cases[i].want);
        assert_null(strstr(m.log, "end_token")); /* nobody talks yet */
        if (strstr(cases[i].want, "end_token"))
            ok(audit_row(&m, 0, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", &err), &err);
        if (strstr(cases[i].want, "end_token"))
            assert_non_null(strstr(m.log, "--stop-token-ids 505"));
        lb_audit_release(&m.audit);
        lb_audit_init(&m.audit, LB_AUDIT_ERROR, &m.to);
        assert_int_equal(audit_model(&m, &err), refused ? LB_E_USAGE : LB_OK);
        assert_true(!refused || strstr(err.text, "--audit error"));
        lb_audit_release(&m.audit);
        lb_audit_init(&m.audit, LB_AUDIT_OFF, &m.to);
        m.log[0] = 0;
        ok(audit_model(&m, &err), &err);
        expect(&m, "");
        assert_string_equal(m.log, "");
        model_close(&m);
    }
}

/* Each finding of rows is said once, with the row it was first seen in, and counted. */
static void test_rows(void **state)
{
    (void)state;
    struct model m;
    struct lb_err err;
    struct lb_str json = {0};
    if (access(LLAMA, R_OK) != 0)
        skip();
    model_open(&m, LLAMA, TURNS("{{ bos_token }}", "<|eot_id|>"), LB_AUDIT_WARN);
    ok(audit_row(&m, 3, "{\"prompt_token_ids\":[5]}", &err), &err);
    ok(audit_row(&m, 4, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", &err), &err);
    expect(&m, "");
    ok(audit_row(&m, 5, "{\"prompt\":\"The dog \"}", &err), &err);
    ok(audit_row(&m, 6, "{\"prompt\":\"The cat \"}", &err), &err);
    ok(audit_row(&m, 7, "{\"prompt\":\"<|begin_of_text|>The cat\"}", &err), &err);
    ok(audit_row(&m, 8, "{\"prompt_token_ids\":[496,496]}", &err), &err);
    expect(&m, "warn raw_prompt, warn space_at_end, note begun_already, warn beginning_twice_in_row");
    assert_int_equal(m.audit.item[0].count, 3);
    assert_int_equal(m.audit.item[1].count, 2);
    assert_non_null(strstr(m.log, "row 5"));
    assert_null(strstr(m.log, "row 6"));
    lb_audit_put_json(&m.audit, &json);
    json_t *list = json_loads(json.data, 0, NULL);
    assert_int_equal(json_array_size(list), 4);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 1), "code")), "space_at_end");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 1), "count")), 2);
    json_decref(list);
    lb_str_release(&json);
    lb_audit_release(&m.audit);
    lb_audit_init(&m.audit, LB_AUDIT_ERROR, &m.to);
    ok(audit_row(&m, 0, "{\"prompt\":\"<|begin_of_text|><|eot_id|>\"}", &err), &err);
    assert_int_equal(audit_row(&m, 1, "{\"prompt\":\"The dog\"}", &err), LB_E_USAGE);
    assert_non_null(strstr(err.text, "row 1"));
    model_close(&m);
}

/* A template that the probe of the model cannot try. */
static void test_template_without_probe(void **state)
{
    (void)state;
    struct model m;
    struct lb_err err;
    if (access(LLAMA, R_OK) != 0)
        skip();
    model_open(&m, LLAMA,
               "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}",
               LB_AUDIT_WARN);
    m.config.eos[0].id = 505;
    ok(audit_model(&m, &err), &err);
    expect(&m, "");
    ok(audit_row(&m, 2, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", &err), &err);
    expect(&m, "warn beginning_missing_in_row");
    model_close(&m);
}

static void test_glm_rows(void **state)
{
    (void)state;
    struct model m;
    struct lb_err err;
    if (access(GLM, R_OK) != 0)
        skip();
    model_open(&m, GLM, NULL, LB_AUDIT_WARN);
    ok(audit_row(&m, 0, "{\"prompt\":\"[gMASK]<sop>Hi\"}", &err), &err);
    expect(&m, "");
    ok(audit_row(&m, 1, "{\"prompt\":\"Hi\"}", &err), &err);
    expect(&m, "warn beginning_missing_in_row");
    assert_non_null(strstr(m.log, "[gMASK]<sop>"));
    model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_template_without_probe),
        cmocka_unit_test(test_glm_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
