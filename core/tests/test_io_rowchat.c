/* Conversations in rows, as llmbatch-jsonl(5) describes them. */
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

static void good(struct lb_row *row, const struct lb_row_spec *spec, const char *line)
{
    parse(row, spec, line);
    if (row->code != LB_ROW_OK)
        fail_msg("%s: %s: %s", line, lb_row_code_name(row->code), row->message);
    assert_int_equal(row->form, LB_FORM_CHAT);
}

/* A value is the JSON text, or absent (NULL). */
static void equal(const json_t *v, const char *json)
{
    if (!json) {
        assert_null(v);
        return;
    }
    json_t *want = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(want);
    if (!json_equal(v, want))
        fail_msg("not %s: %s", json, json_dumps(v, JSON_ENCODE_ANY));
    json_decref(want);
}

#define USER "{\"role\":\"user\",\"content\":\"Hi\"}"
#define CHAT "{\"id\":\"i\",\"messages\":[" USER "]"

static void test_messages(void **state)
{
    (void)state;
    struct lb_row row;
    const char *messages =
        "[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"\"}]},"
        "{\"role\":\"developer\",\"content\":\"\",\"name\":\"x\"},"
        "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]},"
        "{\"role\":\"assistant\",\"content\":null,\"function_call\":{}},{\"role\":\"tool\",\"content\":\"4\"}]";
    struct lb_str line = {0};
    lb_str_putf(&line, "{\"messages\":%s,\"max_tokens\":5,\"prompt\":null}", messages);
    good(&row, &plain, line.data);
    lb_str_release(&line);
    equal(row.chat.messages, messages); /* arguments as they are: a native row is for the template as it stands */
    equal(row.chat.tools, NULL);
    equal(row.chat.documents, NULL);
    equal(row.chat.kwargs, NULL);
    assert_true(row.chat.add_generation_prompt);
    assert_false(row.chat.continue_final_message);
    assert_int_equal(row.gen.max_tokens, 5);
    assert_int_equal(row.api, LB_API_NATIVE);
    lb_row_release(&row);
}

static void test_beside(void **state)
{
    (void)state;
    struct lb_row row;
    good(&row, &plain,
         CHAT
         ",\"tools\":[{\"type\":\"function\"}],\"documents\":[{\"title\":\"t\"}],\"chat_template_kwargs\":{\"a\":[1]},"
         "\"add_generation_prompt\":false,\"tool_choice\":\"auto\"}");
    equal(row.chat.tools, "[{\"type\":\"function\"}]");
    equal(row.chat.documents, "[{\"title\":\"t\"}]");
    equal(row.chat.kwargs, "{\"a\":[1]}");
    assert_false(row.chat.add_generation_prompt);
    lb_row_drop_prompt(&row);
    assert_null(row.chat.messages);
    assert_null(row.chat.kwargs);
    lb_row_release(&row);

    good(&row, &plain,
         CHAT ",\"tools\":[{}],\"tool_choice\":\"none\",\"documents\":[],\"continue_final_message\":true}");
    equal(row.chat.tools, NULL);
    equal(row.chat.documents, "[]");
    assert_true(row.chat.continue_final_message);
    assert_false(row.chat.add_generation_prompt); /* its default gives way */
    lb_row_release(&row);

    good(&row, &plain,
         CHAT ",\"reasoning_effort\":\"low\",\"chat_template_kwargs\":{\"a\":1},\"add_special_tokens\":false}");
    equal(row.chat.kwargs, "{\"a\":1,\"reasoning_effort\":\"low\"}");
    lb_row_release(&row);
    good(&row, &plain, CHAT ",\"reasoning_effort\":\"low\",\"chat_template_kwargs\":{\"reasoning_effort\":\"high\"}}");
    equal(row.chat.kwargs, "{\"reasoning_effort\":\"high\"}");
    lb_row_release(&row);
    good(&row, &plain, CHAT ",\"reasoning_effort\":\"low\"}");
    equal(row.chat.kwargs, "{\"reasoning_effort\":\"low\"}");
    lb_row_release(&row);
}

static void test_chat_option(void **state)
{
    (void)state;
    struct lb_row row;
    struct lb_row_spec spec = {.chat = true};
    good(&row, &spec, "{\"prompt\":\"a\\u0000b\",\"tools\":[{}]}");
    const json_t *content = json_object_get(json_array_get(row.chat.messages, 0), "content");
    assert_int_equal(json_string_length(content), 3);
    assert_memory_equal(json_string_value(content), "a\0b", 3);
    equal(row.chat.tools, "[{}]");
    assert_null(row.text);
    lb_row_release(&row);

    spec.system = "Be \xC3\xA4.";
    good(&row, &spec, "{\"prompt\":\"Hi\"}");
    equal(row.chat.messages, "[{\"role\":\"system\",\"content\":\"Be \xC3\xA4.\"}," USER "]");
    lb_row_release(&row);
    good(&row, &spec, CHAT ",\"x\":1}");
    equal(row.chat.messages, "[{\"role\":\"system\",\"content\":\"Be \xC3\xA4.\"}," USER "]");
    lb_row_release(&row);
    static const char *const own[] = {"[{\"role\":\"system\",\"content\":\"x\"}," USER "]",
                                      "[{\"role\":\"developer\",\"content\":\"x\"}," USER "]"};
    for (size_t i = 0; i < 2; i++) {
        char line[256];
        snprintf(line, sizeof line, "{\"messages\":%s}", own[i]);
        good(&row, &spec, line);
        equal(row.chat.messages, own[i]);
        lb_row_release(&row);
    }
    parse(&row, &spec, "{\"prompt_token_ids\":[1]}"); /* ids are taken as they are */
    assert_int_equal(row.form, LB_FORM_IDS);
    lb_row_release(&row);
    parse(&row, &spec, "{\"prompt\":\"\"}");
    assert_int_equal(row.code, LB_ROW_EMPTY_PROMPT);
    lb_row_release(&row);
    spec.chat = false;
    parse(&row, &spec, "{\"prompt\":\"Hi\"}");
    assert_int_equal(row.form, LB_FORM_TEXT);
    lb_row_release(&row);
}

static void test_input_key(void **state)
{
    (void)state;
    struct lb_row row;
    const struct lb_row_spec spec = {.input_key = "conversations"}, own = {.input_key = "messages"};
    good(&row, &spec, "{\"conversations\":[" USER "],\"prompt\":\"carried\"}");
    equal(row.chat.messages, "[" USER "]");
    lb_row_release(&row);
    good(&row, &own, "{\"messages\":[" USER "]}");
    lb_row_release(&row);
    parse(&row, &own, "{\"messages\":\"a text\"}");
    assert_int_equal(row.code, LB_ROW_OK);
    assert_int_equal(row.form, LB_FORM_TEXT);
    lb_row_release(&row);
    parse(&row, &spec, "{\"conversations\":[{\"from\":\"human\",\"value\":\"Hi\"}]}");
    assert_int_equal(row.code, LB_ROW_BAD_ROW);
    assert_non_null(strstr(row.message, "conversations[0]"));
    assert_non_null(strstr(row.message, "role"));
    lb_row_release(&row);
}

static void test_bad(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        enum lb_row_code code;
        const char *says;
    } cases[] = {
        {"{\"messages\":[]}", LB_ROW_EMPTY_PROMPT, "messages is empty"},
        {"{\"messages\":{}}", LB_ROW_BAD_ROW, "messages must be a list of messages, not an object"},
        {"{\"messages\":\"Hi\"}", LB_ROW_BAD_ROW, "list of messages"},
        {"{\"messages\":[7]}", LB_ROW_BAD_ROW, "messages[0]"},
        {"{\"messages\":[" USER ",{\"content\":\"x\"}]}", LB_ROW_BAD_ROW,
         "messages[1] must be an object with a \"role\""},
        {"{\"messages\":[{\"role\":1,\"content\":\"x\"}]}", LB_ROW_BAD_ROW, "role"},
        {"{\"messages\":[{\"role\":\"user\"}]}", LB_ROW_BAD_ROW,
         "content must be a string or a list of parts, not null"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":5}]}", LB_ROW_BAD_ROW, "not 5"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]}", LB_ROW_BAD_ROW, "messages[0].content[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", LB_ROW_BAD_ROW, "no text"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\","
         "\"image_url\":{\"url\":\"data:\"}}]}]}",
         LB_ROW_UNSUPPORTED, "messages[0].content[1] is of type \"image_url\""},
        {CHAT ",\"prompt\":\"x\"}", LB_ROW_BAD_ROW,
         "several prompts: 'prompt', 'messages'; a row has one (--input-key"},
        {CHAT ",\"prompt_token_ids\":[1]}", LB_ROW_BAD_ROW, "'prompt_token_ids', 'messages'"},
        {CHAT ",\"tools\":{}}", LB_ROW_BAD_PARAM, "tools must be a list of objects, not an object"},
        {CHAT ",\"tools\":[{},1]}", LB_ROW_BAD_PARAM, "tools must be a list of objects, not 1"},
        {CHAT ",\"documents\":\"x\"}", LB_ROW_BAD_PARAM, "documents"},
        {CHAT ",\"chat_template_kwargs\":[]}", LB_ROW_BAD_PARAM, "chat_template_kwargs must be an object"},
        {CHAT ",\"reasoning_effort\":3}", LB_ROW_BAD_PARAM, "reasoning_effort must be a string, not 3"},
        {CHAT ",\"add_generation_prompt\":1}", LB_ROW_BAD_PARAM, "add_generation_prompt must be true or false, not 1"},
        {CHAT ",\"continue_final_message\":\"no\"}", LB_ROW_BAD_PARAM, "continue_final_message"},
        {CHAT ",\"continue_final_message\":true,\"add_generation_prompt\":true}", LB_ROW_BAD_PARAM,
         "exclude each other"},
        {CHAT ",\"tool_choice\":\"required\"}", LB_ROW_UNSUPPORTED, "tool_choice (\"required\")"},
        {CHAT ",\"tool_choice\":{\"type\":\"function\"}}", LB_ROW_UNSUPPORTED, "tool_choice"},
        {CHAT ",\"add_special_tokens\":true}", LB_ROW_UNSUPPORTED, "add_special_tokens"},
        {CHAT ",\"chat_template\":\"x\"}", LB_ROW_UNSUPPORTED, "chat_template"},
        {CHAT ",\"temperature\":-1}", LB_ROW_BAD_PARAM, "temperature"},
        {"{\"prompt\":\"x\",\"tools\":[{}]}", LB_ROW_UNSUPPORTED, "tools"},
        {"{\"prompt\":\"x\",\"chat_template_kwargs\":{\"a\":1}}", LB_ROW_UNSUPPORTED, "chat_template_kwargs"},
        {"{\"prompt\":\"x\",\"reasoning_effort\":\"low\"}", LB_ROW_UNSUPPORTED, "reasoning_effort"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_row row;
        parse(&row, &plain, cases[i].line);
        if (row.code != cases[i].code || !strstr(row.message, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].line, lb_row_code_name(row.code), row.message ? row.message : "");
        assert_null(row.chat.messages);
        assert_null(row.chat.tools);
        lb_row_release(&row);
    }
}

/* Values of every kind in every place of a conversation and of a request: something is said or taken, nothing else
 * happens (the sanitizers watch). */
static void test_hostile(void **state)
{
    (void)state;
    static const char *const values[] = {"null",
                                         "true",
                                         "-1",
                                         "1e308",
                                         "\"\"",
                                         "\"\\u0000\"",
                                         "[]",
                                         "{}",
                                         "[[]]",
                                         "[{}]",
                                         "[null]",
                                         "{\"type\":\"text\",\"text\":null}",
                                         "[{\"role\":\"user\"}]",
                                         "[\"a\",[1]]",
                                         "[[1],\"a\"]",
                                         "[1,\"a\"]",
                                         "[[],[]]"};
    static const char *const places[] = {
        "{\"messages\":%s}",
        "{\"messages\":[%s]}",
        "{\"messages\":[{\"role\":%s}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":%s}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[%s]}]}",
        "{\"messages\":[{\"role\":\"user\",\"tool_calls\":%s}]}",
        CHAT ",\"tools\":%s}",
        CHAT ",\"documents\":%s}",
        CHAT ",\"chat_template_kwargs\":%s}",
        CHAT ",\"tool_choice\":%s}",
        CHAT ",\"reasoning_effort\":%s}",
        CHAT ",\"continue_final_message\":%s}",
        CHAT ",\"n\":%s}",
        "{\"custom_id\":%s,\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"x\"}}",
        "{\"custom_id\":\"a\",\"url\":%s,\"body\":{\"prompt\":\"x\"}}",
        "{\"custom_id\":\"a\",\"method\":%s,\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"x\"}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":%s}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":%s}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[5,%s]}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[\"a\",%s]}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[[5],%s]}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"a\",\"logprobs\":%s}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"a\",\"echo\":%s,\"best_of\":2}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"a\",\"model\":%s}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":%s}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":[" USER "],\"logprobs\":%s}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":[" USER "],\"top_logprobs\":%s}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/chat/"
        "completions\",\"body\":{\"messages\":[{\"role\":\"a\",\"tool_calls\":%s}]}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/chat/"
        "completions\",\"body\":{\"messages\":[{\"role\":\"a\",\"tool_calls\":[%s]}]}}",
        "{\"custom_id\":\"a\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":[{\"role\":\"a\",\"tool_calls\":"
        "[{\"function\":{\"arguments\":%s}}]}]}}",
    };
    const struct lb_row_spec specs[] = {{0},
                                        {.chat = true, .system = "s", .keep_all = true},
                                        {.format = LB_FORMAT_OPENAI},
                                        {.format = LB_FORMAT_NATIVE},
                                        {.input_key = "body", .chat = true}};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            struct lb_str line = {0};
            const char *hole = strstr(places[p], "%s");
            lb_str_put(&line, places[p], (size_t)(hole - places[p]));
            lb_str_puts(&line, values[v]);
            lb_str_puts(&line, hole + 2);
            for (size_t s = 0; s < sizeof specs / sizeof *specs; s++) {
                struct lb_row row;
                parse(&row, &specs[s], line.data);
                assert_true((row.code == LB_ROW_OK) == (row.message == NULL));
                if (row.code == LB_ROW_OK)
                    assert_true((row.text != NULL) + (row.ids != NULL) + (row.chat.messages != NULL) == 1);
                lb_row_release(&row);
            }
            lb_str_release(&line);
        }
    }
}

/* Deep and wide lines cost no more than their length. */
static void test_large(void **state)
{
    (void)state;
    struct lb_row row;
    struct lb_str line = {0};
    enum { DEEP = 1900, WIDE = 200000 };
    lb_str_puts(&line, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"extra\":");
    for (int i = 0; i < DEEP; i++)
        lb_str_putc(&line, '[');
    for (int i = 0; i < DEEP; i++)
        lb_str_putc(&line, ']');
    lb_str_puts(&line, "}]}");
    good(&row, &plain, line.data);
    lb_row_release(&row);
    lb_str_clear(&line);
    lb_str_puts(&line, "{\"messages\":[" USER);
    for (int i = 0; i < WIDE; i++)
        lb_str_puts(&line, "," USER);
    lb_str_puts(&line, "]}");
    good(&row, &plain, line.data);
    assert_int_equal(json_array_size(row.chat.messages), WIDE + 1);
    lb_row_release(&row);
    lb_str_clear(&line);
    lb_str_puts(&line, "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":[[1]");
    for (int i = 0; i < WIDE; i++)
        lb_str_puts(&line, ",[1]");
    lb_str_puts(&line, "]}}");
    parse(&row, &plain, line.data);
    assert_int_equal(row.code, LB_ROW_BAD_PARAM);
    assert_non_null(strstr(row.message, "200001 prompts"));
    lb_row_release(&row);
    lb_str_release(&line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),  cmocka_unit_test(test_beside), cmocka_unit_test(test_chat_option),
        cmocka_unit_test(test_input_key), cmocka_unit_test(test_bad),    cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
