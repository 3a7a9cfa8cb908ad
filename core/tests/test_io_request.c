/* Requests of the OpenAI batch format: the examples of that API's documentation, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/base/str.h"
#include "core/io/row.h"

static const struct lb_row_spec plain = {0};

static void parse(struct lb_row *row, const struct lb_row_spec *spec, const char *line)
{
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_row_parse(row, spec, 3, line, strlen(line), &err), LB_OK);
}

static void good(struct lb_row *row, const char *line)
{
    parse(row, &plain, line);
    if (row->code != LB_ROW_OK)
        fail_msg("%s: %s: %s", line, lb_row_code_name(row->code), row->message);
}

#define REQUEST(url, body) "{\"custom_id\":\"c\",\"method\":\"POST\",\"url\":\"" url "\",\"body\":{" body "}}"
#define CHAT(more) REQUEST("/v1/chat/completions", "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]" more)
#define TEXT(more) REQUEST("/v1/completions", "\"prompt\":\"Hi\"" more)
#define PROMPT(json) REQUEST("/v1/completions", "\"prompt\":" json)

/* As the guide to the Batch API shows its input file. */
static void test_guide(void **state)
{
    (void)state;
    struct lb_row row, native;
    good(&row,
         "{\"custom_id\": \"request-1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": "
         "{\"model\": \"gpt-3.5-turbo-0125\", \"messages\": [{\"role\": \"system\", \"content\": \"You are a helpful "
         "assistant.\"},{\"role\": \"user\", \"content\": \"Hello world!\"}],\"max_tokens\": 1000}}");
    assert_int_equal(row.api, LB_API_CHAT);
    assert_int_equal(row.form, LB_FORM_CHAT);
    assert_string_equal(row.id_json, "\"request-1\"");
    assert_string_equal(row.model_json, "\"gpt-3.5-turbo-0125\"");
    assert_int_equal(row.gen.max_tokens, 1000);
    assert_int_equal(json_array_size(row.chat.messages), 2);
    assert_false(row.unread);
    good(&native, "{\"id\":\"request-1\",\"prompt\":\"x\"}");
    assert_int_equal(row.key, native.key); /* the same id draws the same numbers */
    assert_true(row.has_id && native.has_id);
    lb_row_release(&row);
    lb_row_release(&native);
}

static void test_parameters(void **state)
{
    (void)state;
    struct lb_row row;
    good(&row,
         CHAT(",\"model\":null,\"frequency_penalty\":0,\"logit_bias\":{},\"logprobs\":true,\"top_logprobs\":5,"
              "\"max_completion_tokens\":7,\"n\":3,\"presence_penalty\":0,\"response_format\":{\"type\":\"text\"},"
              "\"seed\":9,\"service_tier\":\"auto\",\"stop\":[\"a\",\"b\"],\"stream\":true,\"stream_options\":{},"
              "\"temperature\":0.5,\"top_p\":0.9,\"tools\":[],\"tool_choice\":\"none\",\"parallel_tool_calls\":false,"
              "\"user\":\"u\",\"metadata\":{\"a\":\"b\"},\"store\":true,\"safety_identifier\":\"s\","
              "\"prompt_cache_key\":\"k\",\"modalities\":[\"text\"],\"verbosity\":\"medium\",\"prediction\":{},"
              "\"top_k\":4,\"min_p\":0.1,\"ignore_eos\":true,\"stop_token_ids\":[1],\"skip_special_tokens\":false,"
              "\"add_special_tokens\":false,\"chat_template_kwargs\":{\"enable_thinking\":false},\"best_of\":3,"
              "\"documents\":[{}],\"add_generation_prompt\":true,\"continue_final_message\":false,\"echo\":false"));
    assert_int_equal(row.gen.set, LB_GEN_LOGPROBS | LB_GEN_MAX_TOKENS | LB_GEN_N | LB_GEN_SEED | LB_GEN_STOP |
                                      LB_GEN_TEMPERATURE | LB_GEN_TOP_P | LB_GEN_TOP_K | LB_GEN_MIN_P |
                                      LB_GEN_IGNORE_EOS | LB_GEN_STOP_IDS | LB_GEN_SKIP_SPECIAL | LB_GEN_PRESENCE |
                                      LB_GEN_FREQUENCY | LB_GEN_BIAS);
    assert_int_equal(row.gen.logprobs, 5);
    assert_int_equal(row.gen.n, 3);
    assert_null(row.model_json);
    assert_int_equal(json_object_size(row.chat.kwargs), 1);
    lb_row_release(&row);

    good(&row, CHAT(",\"logprobs\":true"));
    assert_int_equal(row.gen.set, LB_GEN_LOGPROBS);
    assert_int_equal(row.gen.logprobs, 0);
    lb_row_release(&row);
    good(&row, CHAT(",\"logprobs\":false,\"top_logprobs\":0"));
    assert_int_equal(row.gen.set, 0);
    lb_row_release(&row);
    good(&row, TEXT(",\"logprobs\":4,\"suffix\":null,\"echo\":true,\"top_logprobs\":9"));
    assert_int_equal(row.gen.logprobs, 4);
    assert_true(row.echo);
    assert_int_equal(row.api, LB_API_COMPLETION);
    lb_row_release(&row);
    good(&row, TEXT(",\"logprobs\":0"));
    assert_int_equal(row.gen.set, LB_GEN_LOGPROBS);
    lb_row_release(&row);
}

static void test_prompts(void **state)
{
    (void)state;
    struct lb_row row;
    good(&row, PROMPT("[5,6.0]"));
    assert_int_equal(row.form, LB_FORM_IDS);
    assert_true(row.n_ids == 2 && row.ids[1] == 6 && row.n_more == 0);
    lb_row_release(&row);
    good(&row, PROMPT("[\"one\"]"));
    assert_int_equal(row.form, LB_FORM_TEXT);
    assert_string_equal(row.text, "one");
    assert_int_equal(row.n_more, 0);
    lb_row_release(&row);
    good(&row, PROMPT("[[5],[6,7],[8]]"));
    assert_true(row.form == LB_FORM_IDS && row.n_more == 2 && row.n_ids == 1 && row.ids[0] == 5);
    lb_row_take_prompt(&row, 0);
    assert_true(row.n_ids == 2 && row.ids[1] == 7);
    lb_row_take_prompt(&row, 1);
    assert_true(row.n_ids == 1 && row.ids[0] == 8);
    lb_row_release(&row);
    good(&row, PROMPT("[\"a\",\"b\",\"cd\"]")); /* released with prompts that nobody took */
    assert_string_equal(row.text, "a");
    assert_true(row.n_more == 2 && row.more[1].n_text == 2);
    lb_row_release(&row);
}

/* Templates want an object where the API has a text of JSON. */
static void test_arguments(void **state)
{
    (void)state;
    struct lb_row row;
    static const struct {
        const char *sent, *want;
    } cases[] = {
        {"\"{\\\"a\\\":[1,2]}\"", "{\"a\":[1,2]}"},
        {"\"{\"", "\"{\""},
        {"\"[1]\"", "\"[1]\""},
        {"{\"a\":1}", "{\"a\":1}"},
        {"\"\"", "\"\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[512];
        const struct lb_row_spec spec = {.keep_all = true};
        snprintf(line, sizeof line,
                 REQUEST("/v1/chat/completions",
                         "\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
                         "{\"id\":\"x\",\"function\":{\"name\":\"f\",\"arguments\":%s}}]}]"),
                 cases[i].sent);
        parse(&row, &spec, line);
        assert_int_equal(row.code, LB_ROW_OK);
        const json_t *call = json_array_get(json_object_get(json_array_get(row.chat.messages, 0), "tool_calls"), 0);
        json_t *want = json_loads(cases[i].want, JSON_DECODE_ANY, NULL);
        assert_true(json_equal(json_object_get(json_object_get(call, "function"), "arguments"), want));
        assert_non_null(strstr(row.kept_json, cases[i].sent)); /* what is kept is what was sent */
        json_decref(want);
        lb_row_release(&row);
    }
}

struct bad {
    const char *line;
    enum lb_row_code code;
    const char *says, *param;
    enum lb_row_api api;
};

static void expect_bad(const struct lb_row_spec *spec, const struct bad *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct lb_row row;
        const struct bad *b = &cases[i];
        parse(&row, spec, b->line);
        if (row.code != b->code || !strstr(row.message, b->says) || row.api != b->api || !row.param != !b->param ||
            (b->param && strcmp(row.param, b->param) != 0))
            fail_msg("%s: api %d, %s: %s (%s)", b->line, row.api, lb_row_code_name(row.code),
                     row.message ? row.message : "", row.param ? row.param : "none");
        lb_row_release(&row);
    }
}

static void test_bad(void **state)
{
    (void)state;
    const enum lb_row_api none = LB_API_OPENAI, chat = LB_API_CHAT, text = LB_API_COMPLETION;
    const struct bad cases[] = {
        {REQUEST("/v1/embeddings", "\"input\":\"x\""), LB_ROW_UNSUPPORTED, "\"/v1/embeddings\"", "url", none},
        {REQUEST("/v1/responses", "\"input\":\"x\""), LB_ROW_UNSUPPORTED, "/v1/chat/completions", "url", none},
        {"{\"custom_id\":\"c\",\"body\":{}}", LB_ROW_BAD_ROW, "url must be", "url", none},
        {"{\"custom_id\":\"c\",\"url\":5,\"body\":{}}", LB_ROW_BAD_ROW, "url must be", "url", none},
        {"{\"custom_id\":\"c\",\"method\":\"GET\",\"url\":\"/v1/completions\",\"body\":{}}", LB_ROW_BAD_ROW,
         "method must be POST, not \"GET\"", "method", text},
        {"{\"custom_id\":\"c\",\"url\":\"/v1/completions\"}", LB_ROW_BAD_ROW, "body must be an object, not null",
         "body", text},
        {"{\"custom_id\":\"c\",\"url\":\"/v1/completions\",\"body\":[]}", LB_ROW_BAD_ROW, "body must be an object",
         "body", text},
        {"{\"custom_id\":[],\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"x\"}}", LB_ROW_BAD_ROW, "custom_id must",
         "custom_id", text},
        {TEXT(",\"model\":7"), LB_ROW_BAD_PARAM, "model must be a string, not 7", "model", text},
        {TEXT(",\"temperature\":-1"), LB_ROW_BAD_PARAM, "temperature", "temperature", text},
        {TEXT(",\"max_tokens\":\"9\""), LB_ROW_BAD_PARAM, "max_tokens", "max_tokens", text},
        {TEXT(",\"logprobs\":true"), LB_ROW_BAD_PARAM, "logprobs must be an integer from 0 to 20, not true", "logprobs",
         text},
        {TEXT(",\"logprobs\":21"), LB_ROW_BAD_PARAM, "not 21", "logprobs", text},
        {TEXT(",\"echo\":1"), LB_ROW_BAD_PARAM, "echo", "echo", text},
        {TEXT(",\"best_of\":2"), LB_ROW_UNSUPPORTED, "best_of (2)", "best_of", text},
        {TEXT(",\"suffix\":\"x\""), LB_ROW_UNSUPPORTED, "suffix", "suffix", text},
        {TEXT(",\"messages\":[{}]"), LB_ROW_BAD_ROW, "belongs to /v1/chat/completions", "messages", text},
        {REQUEST("/v1/completions", "\"n\":1"), LB_ROW_BAD_ROW, "no prompt", "prompt", text},
        {PROMPT("7"), LB_ROW_BAD_ROW, "prompt must be a string, not 7", "prompt", text},
        {PROMPT("\"\""), LB_ROW_EMPTY_PROMPT, "prompt is empty", "prompt", text},
        {PROMPT("[]"), LB_ROW_EMPTY_PROMPT, "prompt is empty", "prompt", text},
        {PROMPT("[\"a\",7]"), LB_ROW_BAD_ROW, "prompt[1] must be a string, not 7", "prompt", text},
        {PROMPT("[\"a\",\"\"]"), LB_ROW_EMPTY_PROMPT, "prompt[1] is empty", "prompt", text},
        {PROMPT("[7,\"a\"]"), LB_ROW_BAD_TOKEN, "prompt[1] is \"a\"", "prompt", text},
        {PROMPT("[[7],\"a\"]"), LB_ROW_BAD_ROW, "prompt[1] must be a list of integers", "prompt", text},
        {PROMPT("[[7],[-1]]"), LB_ROW_BAD_TOKEN, "prompt[1][0] is -1", "prompt", text},
        {PROMPT("[{\"a\":1}]"), LB_ROW_BAD_TOKEN, "prompt[0] is an object", "prompt", text},
        {CHAT(",\"logprobs\":2"), LB_ROW_BAD_PARAM, "logprobs must be true or false, not 2", "logprobs", chat},
        {CHAT(",\"top_logprobs\":2"), LB_ROW_BAD_PARAM, "top_logprobs needs logprobs", "top_logprobs", chat},
        {CHAT(",\"logprobs\":true,\"top_logprobs\":21"), LB_ROW_BAD_PARAM, "top_logprobs", "top_logprobs", chat},
        {CHAT(",\"echo\":true"), LB_ROW_UNSUPPORTED, "echo", "echo", chat},
        {CHAT(",\"prompt\":\"x\""), LB_ROW_BAD_ROW, "belongs to /v1/completions", "prompt", chat},
        {CHAT(",\"response_format\":{\"type\":\"json_object\"}"), LB_ROW_UNSUPPORTED, "response_format",
         "response_format", chat},
        {CHAT(",\"modalities\":[\"text\",\"audio\"]"), LB_ROW_UNSUPPORTED, "modalities", "modalities", chat},
        {CHAT(",\"web_search_options\":{}"), LB_ROW_UNSUPPORTED, "web_search_options", "web_search_options", chat},
        {CHAT(",\"tool_choice\":\"required\""), LB_ROW_UNSUPPORTED, "tool_choice", "tool_choice", chat},
        {CHAT(",\"tools\":5"), LB_ROW_BAD_PARAM, "tools", "tools", chat},
        {REQUEST("/v1/chat/completions", "\"n\":1"), LB_ROW_BAD_ROW, "messages must be a list", "messages", chat},
        {REQUEST("/v1/chat/completions", "\"messages\":\"Hi\""), LB_ROW_BAD_ROW, "messages must be a list", "messages",
         chat},
        {REQUEST("/v1/chat/completions", "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]"),
         LB_ROW_UNSUPPORTED, "input_audio", "messages", chat},
    };
    expect_bad(&plain, cases, sizeof cases / sizeof *cases);
}

static void test_format(void **state)
{
    (void)state;
    const struct lb_row_spec native = {.format = LB_FORMAT_NATIVE}, openai = {.format = LB_FORMAT_OPENAI};
    const struct bad in_native[] = {
        {TEXT(""), LB_ROW_BAD_ROW, "--format is native", NULL, LB_API_NATIVE},
        {"{", LB_ROW_BAD_JSON, "", NULL, LB_API_NATIVE},
    };
    const struct bad in_openai[] = {
        {"{\"id\":\"i\",\"prompt\":\"x\"}", LB_ROW_BAD_ROW, "--format is openai", "custom_id", LB_API_OPENAI},
        {"{", LB_ROW_BAD_JSON, "", NULL, LB_API_OPENAI},
        {"[]", LB_ROW_BAD_ROW, "object", NULL, LB_API_OPENAI},
    };
    expect_bad(&native, in_native, 2);
    expect_bad(&openai, in_openai, 3);
    const struct bad both[] = {
        {"{\"prompt\":\"x\",\"url\":\"u\",\"body\":{}}", LB_ROW_BAD_ROW, "'prompt', 'body'", NULL, LB_API_NATIVE}};
    expect_bad(&plain, both, 1);
    static const char *const rows[] = {"{\"prompt\":\"x\",\"custom_id\":\"a\",\"url\":\"http://x\"}", /* a data set's */
                                       "{\"prompt\":\"x\",\"body\":{\"a\":1}}"};
    for (size_t i = 0; i < 2; i++) {
        struct lb_row row;
        good(&row, rows[i]);
        assert_int_equal(row.api, LB_API_NATIVE);
        lb_row_release(&row);
    }
    struct lb_row row;
    parse(&row, &plain, "[]");
    assert_true(row.unread);
    lb_row_release(&row);
    parse(&row, &plain, "{\"a\":1}");
    assert_false(row.unread);
    assert_string_equal(row.id_json, "3");
    lb_row_release(&row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guide),     cmocka_unit_test(test_parameters), cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_arguments), cmocka_unit_test(test_bad),        cmocka_unit_test(test_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
