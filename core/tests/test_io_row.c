/* Rows as llmbatch-jsonl(5) describes them: what is read, and which code and message each kind of bad row gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/str.h"
#include "core/io/row.h"

static const struct lb_row_spec plain = {0};

static void parse_with(struct lb_row *row, const struct lb_row_spec *spec, int64_t index, const char *line)
{
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_row_parse(row, spec, index, line, strlen(line), &err), LB_OK);
}

static void parse(struct lb_row *row, const char *line)
{
    parse_with(row, &plain, 3, line);
}

static void good(struct lb_row *row, const char *line)
{
    parse(row, line);
    if (row->code != LB_ROW_OK)
        fail_msg("%s: %s: %s", line, lb_row_code_name(row->code), row->message);
    assert_null(row->message);
}

static void test_text(void **state)
{
    (void)state;
    struct lb_row row;
    good(&row, "{\"prompt\":\"Hello\"}");
    assert_int_equal(row.form, LB_FORM_TEXT);
    assert_string_equal(row.text, "Hello");
    assert_int_equal(row.n_text, 5);
    assert_int_equal(row.index, 3);
    assert_string_equal(row.id_json, "3");
    assert_int_equal(row.line_hash, 0xd71c355d2720899fULL); /* XXH3-64 by xxHash's own program, also below */
    assert_int_equal(row.key, 0x3bca7bb9fb89c135ULL);       /* of "r:3" */
    assert_int_equal(row.gen.set, 0);
    assert_null(row.kept_json);
    lb_row_release(&row);

    good(&row, " {\"id\":\"a17\", \"prompt\":\"\\u00e4\\ud83d\\ude00\\u0000x\", \"prompt_token_ids\":null} ");
    assert_int_equal(row.n_text, 8);
    assert_memory_equal(row.text, "\xC3\xA4\xF0\x9F\x98\x80\0x", 8);
    assert_string_equal(row.id_json, "\"a17\"");
    assert_int_equal(row.key, 0xebe70db862ac7c72ULL);
    lb_row_release(&row);
}

static void test_ids(void **state)
{
    (void)state;
    struct lb_row row;
    good(&row, "{\"id\":16,\"prompt_token_ids\":[0, 2147483647, 8.0, 1e2],\"prompt\":null}");
    const int32_t want[] = {0, 2147483647, 8, 100};
    assert_int_equal(row.form, LB_FORM_IDS);
    assert_int_equal(row.n_ids, 4);
    assert_memory_equal(row.ids, want, sizeof want);
    assert_string_equal(row.id_json, "16");
    assert_int_equal(row.key, 0xcd6e7140336c5a60ULL);
    lb_row_release(&row);
}

static void test_id_forms(void **state)
{
    (void)state;
    static const struct {
        const char *json, *id;
        uint64_t key;
    } cases[] = {
        {"\"16\"", "\"16\"", 0xf7e87ebbe9d6921eULL},
        {"16.0", "16", 0xcd6e7140336c5a60ULL},
        {"null", "3", 0x3bca7bb9fb89c135ULL},
        {"-9223372036854775808", "-9223372036854775808", 0},
        {"9223372036854775807", "9223372036854775807", 0},
        {"\"\\u00e9\\\"\\n\\/\"", "\"\xC3\xA9\\\"\\n/\"", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[128];
        struct lb_row row;
        snprintf(line, sizeof line, "{\"prompt\":\"x\",\"id\":%s}", cases[i].json);
        good(&row, line);
        assert_string_equal(row.id_json, cases[i].id);
        if (cases[i].key)
            assert_int_equal(row.key, cases[i].key);
        lb_row_release(&row);
    }
}

static void test_duplicates(void **state)
{
    (void)state;
    struct lb_row row;
    good(&row, "{\"prompt\":\"first\",\"max_tokens\":-1,\"prompt\":\"last\",\"max_tokens\":7}");
    assert_string_equal(row.text, "last");
    assert_int_equal(row.gen.max_tokens, 7);
    lb_row_release(&row);
}

static void test_settings(void **state)
{
    (void)state;
    struct lb_row row;
    good(&row, "{\"prompt\":\"x\",\"max_new_tokens\":16.0,\"max_completion_tokens\":16,\"temperature\":0.5,\"top_p\":1,"
               "\"top_k\":-1,\"min_p\":0.25,\"seed\":-9223372036854775808,\"ignore_eos\":true,\"logprobs\":20,"
               "\"stop\":[\"a\",\"\xC3\xA4\\nb\"],\"stop_token_ids\":[5,6.0],\"skip_special_tokens\":false}");
    const struct lb_gen *g = &row.gen;
    assert_int_equal(g->set, LB_GEN_MAX_TOKENS | LB_GEN_TEMPERATURE | LB_GEN_TOP_P | LB_GEN_TOP_K | LB_GEN_MIN_P |
                                 LB_GEN_SEED | LB_GEN_IGNORE_EOS | LB_GEN_LOGPROBS | LB_GEN_STOP | LB_GEN_STOP_IDS |
                                 LB_GEN_SKIP_SPECIAL);
    assert_int_equal(g->max_tokens, 16);
    assert_true(g->temperature == 0.5 && g->top_p == 1.0 && g->min_p == 0.25);
    assert_int_equal(g->top_k, -1);
    assert_true(g->seed == INT64_MIN);
    assert_true(g->ignore_eos);
    assert_false(g->skip_special);
    assert_int_equal(g->logprobs, 20);
    assert_int_equal(g->n_stop, 2);
    assert_string_equal(g->stop[0], "a");
    assert_string_equal(g->stop[1], "\xC3\xA4\nb");
    assert_int_equal(g->n_stop_ids, 2);
    assert_true(g->stop_ids[0] == 5 && g->stop_ids[1] == 6);
    lb_row_release(&row);

    good(&row, "{\"prompt\":\"x\",\"stop\":\"END\",\"logprobs\":true,\"stop_token_ids\":[],\"temperature\":null}");
    assert_int_equal(row.gen.set, LB_GEN_STOP | LB_GEN_LOGPROBS | LB_GEN_STOP_IDS);
    assert_int_equal(row.gen.n_stop, 1);
    assert_string_equal(row.gen.stop[0], "END");
    assert_int_equal(row.gen.logprobs, 0);
    lb_row_release(&row);

    good(&row, "{\"prompt\":\"x\",\"min_tokens\":3.0,\"repetition_penalty\":1.3,\"presence_penalty\":-2,"
               "\"frequency_penalty\":0.25,\"logit_bias\":{\"50256\":-250,\"0\":1.5,\"7\":100.5,\"0\":2},"
               "\"include_stop_str_in_output\":true}");
    g = &row.gen;
    assert_int_equal(g->set, LB_GEN_MIN_TOKENS | LB_GEN_REPETITION | LB_GEN_PRESENCE | LB_GEN_FREQUENCY | LB_GEN_BIAS |
                                 LB_GEN_INCLUDE_STOP);
    assert_true(g->min_tokens == 3 && g->repetition == 1.3 && g->presence == -2 && g->frequency == 0.25);
    assert_true(g->include_stop);
    float bias[3] = {0}; /* of 0, 7 and 50256 */
    assert_int_equal(g->n_bias, 3);
    for (size_t i = 0; i < 3; i++)
        bias[g->bias[i].id == 50256 ? 2 : g->bias[i].id == 7 ? 1 : 0] = g->bias[i].value;
    assert_true(bias[0] == 2 && bias[1] == 100 && bias[2] == -100);
    struct lb_gen merged = {0};
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_gen_merge(&merged, g, &err), LB_OK);
    lb_row_release(&row);
    assert_true(merged.n_bias == 3 && merged.min_tokens == 3 && merged.repetition == 1.3 && merged.presence == -2);
    assert_true(merged.frequency == 0.25 && merged.include_stop && merged.bias[0].id >= 0);
    lb_gen_release(&merged);

    good(&row, "{\"prompt\":\"x\",\"logprobs\":false}");
    assert_int_equal(row.gen.set, 0);
    lb_row_release(&row);
}

struct bad {
    const char *line;
    enum lb_row_code code;
    const char *says; /* the message holds it */
    const char *id;
};

#define P "{\"id\":\"i\",\"prompt\":\"x\","
#define I "\"i\""

static void expect_bad(const struct bad *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct lb_row row;
        parse(&row, cases[i].line);
        if (row.code != cases[i].code || !strstr(row.message, cases[i].says) || strcmp(row.id_json, cases[i].id) != 0)
            fail_msg("%s: id %s, %s: %s", cases[i].line, row.id_json, lb_row_code_name(row.code), row.message);
        assert_null(row.text);
        assert_null(row.ids);
        lb_row_release(&row);
    }
}

static void test_unreadable(void **state)
{
    (void)state;
    static const struct bad cases[] = {
        {"{\"prompt\":\"x\"", LB_ROW_BAD_JSON, "byte", "null"},
        {"{\"prompt\":\"x\"} {}", LB_ROW_BAD_JSON, "byte", "null"},
        {"{\"prompt\":\"\\ud800 x\"}", LB_ROW_BAD_JSON, "D800", "null"},
        {"{\"prompt\":\"x\",\"a\":1e999}", LB_ROW_BAD_JSON, "overflow", "null"},
        {"{\"prompt\":\"\xFF\"}", LB_ROW_BAD_UTF8, "byte 12", "null"},
        {"{\"prompt\":\"\xED\xA0\x80\"}", LB_ROW_BAD_UTF8, "byte 12", "null"},
        {"[\"x\"]", LB_ROW_BAD_ROW, "array", "null"},
        {"\"x\"", LB_ROW_BAD_ROW, "string", "null"},
        {"7", LB_ROW_BAD_ROW, "number", "null"},
    };
    expect_bad(cases, sizeof cases / sizeof *cases);

    struct lb_row row;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_row_parse(&row, &plain, 0, "{\"prompt\":\"a\0b\"}", 16, &err), LB_OK);
    assert_int_equal(row.code, LB_ROW_BAD_JSON);
    lb_row_release(&row);

    enum { DEEP = 1000000 };
    char *deep = malloc(DEEP + 1);
    memset(deep, '[', DEEP);
    deep[DEEP] = 0;
    parse(&row, deep);
    assert_int_equal(row.code, LB_ROW_BAD_JSON);
    assert_non_null(strstr(row.message, "depth"));
    lb_row_release(&row);
    free(deep);
}

static void test_bad_rows(void **state)
{
    (void)state;
    static const struct bad cases[] = {
        {"{\"id\":\"i\"}", LB_ROW_BAD_ROW, "--input-key", I},
        {"{\"id\":\"i\",\"prompt\":null}", LB_ROW_BAD_ROW, "--input-key", I},
        {"{\"text\":\"x\"}", LB_ROW_BAD_ROW, "--input-key", "3"},
        {P "\"prompt_token_ids\":[1]}", LB_ROW_BAD_ROW, "'prompt', 'prompt_token_ids'", I},
        {P "\"messages\":[]}", LB_ROW_BAD_ROW, "'messages'", I},
        {"{\"id\":\"i\",\"prompt\":7}", LB_ROW_BAD_ROW, "not 7", I},
        {"{\"id\":\"i\",\"prompt\":[1,2]}", LB_ROW_BAD_ROW, "prompt_token_ids", I},
        {"{\"id\":\"i\",\"prompt\":[\"a\"]}", LB_ROW_BAD_ROW, "an array", I},
        {"{\"id\":\"i\",\"prompt_token_ids\":\"1\"}", LB_ROW_BAD_ROW, "list of integers", I},
        {"{\"id\":true,\"prompt\":\"x\"}", LB_ROW_BAD_ROW, "id must", "3"},
        {"{\"id\":1.5,\"prompt\":\"x\"}", LB_ROW_BAD_ROW, "1.5", "3"},
        {"{\"id\":9223372036854775808,\"prompt\":\"x\"}", LB_ROW_BAD_ROW, "64-bit", "3"},
        {"{\"id\":-9223372036854775809,\"prompt\":\"x\"}", LB_ROW_BAD_ROW, "64-bit", "3"},
        {"{\"id\":\"i\",\"prompt\":\"\"}", LB_ROW_EMPTY_PROMPT, "prompt", I},
        {"{\"id\":\"i\",\"prompt_token_ids\":[]}", LB_ROW_EMPTY_PROMPT, "prompt_token_ids", I},
        {"{\"id\":\"i\",\"prompt_token_ids\":[1,-1]}", LB_ROW_BAD_TOKEN, "[1] is -1", I},
        {"{\"id\":\"i\",\"prompt_token_ids\":[1.5]}", LB_ROW_BAD_TOKEN, "1.5", I},
        {"{\"id\":\"i\",\"prompt_token_ids\":[true]}", LB_ROW_BAD_TOKEN, "true", I},
        {"{\"id\":\"i\",\"prompt_token_ids\":[2147483648]}", LB_ROW_BAD_TOKEN, "2147483648", I},
        {"{\"id\":\"i\",\"prompt_token_ids\":[99999999999999999999]}", LB_ROW_BAD_TOKEN, "1e+20", I},
    };
    expect_bad(cases, sizeof cases / sizeof *cases);
}

static void test_bad_params(void **state)
{
    (void)state;
    static const struct bad cases[] = {
        {P "\"max_tokens\":\"16\"}", LB_ROW_BAD_PARAM, "max_tokens must be an integer, not \"16\"", I},
        {P "\"max_tokens\":1.5}", LB_ROW_BAD_PARAM, "1.5", I},
        {P "\"max_new_tokens\":-1}", LB_ROW_BAD_PARAM, "max_new_tokens must be from 0", I},
        {P "\"max_tokens\":16,\"max_new_tokens\":32}", LB_ROW_BAD_PARAM, "max_new_tokens is 32", I},
        {P "\"max_tokens\":99999999999}", LB_ROW_BAD_PARAM, "99999999999", I},
        {P "\"temperature\":-0.5}", LB_ROW_BAD_PARAM, "temperature must be 0 or more, not -0.5", I},
        {P "\"temperature\":\"0\"}", LB_ROW_BAD_PARAM, "a number", I},
        {P "\"temperature\":true}", LB_ROW_BAD_PARAM, "true", I},
        {P "\"top_p\":0}", LB_ROW_BAD_PARAM, "top_p", I},
        {P "\"top_p\":1.01}", LB_ROW_BAD_PARAM, "1.01", I},
        {P "\"top_k\":-2}", LB_ROW_BAD_PARAM, "-2", I},
        {P "\"min_p\":2}", LB_ROW_BAD_PARAM, "min_p", I},
        {P "\"seed\":18446744073709551615}", LB_ROW_BAD_PARAM, "seed", I},
        {P "\"ignore_eos\":1}", LB_ROW_BAD_PARAM, "true or false", I},
        {P "\"logprobs\":21}", LB_ROW_BAD_PARAM, "from 0 to 20", I},
        {P "\"logprobs\":-1}", LB_ROW_BAD_PARAM, "-1", I},
        {P "\"stop\":\"\"}", LB_ROW_BAD_PARAM, "empty", I},
        {P "\"stop\":[\"a\",5]}", LB_ROW_BAD_PARAM, "not 5", I},
        {P "\"stop\":\"a\\u0000\"}", LB_ROW_BAD_PARAM, "NUL", I},
        {P "\"stop\":{\"a\":1}}", LB_ROW_BAD_PARAM, "an object", I},
        {P "\"stop_token_ids\":5}", LB_ROW_BAD_PARAM, "list of token ids", I},
        {P "\"stop_token_ids\":[1,-5]}", LB_ROW_BAD_PARAM, "-5", I},
        {P "\"skip_special_tokens\":\"yes\"}", LB_ROW_BAD_PARAM, "yes", I},
        {P "\"n\":0}", LB_ROW_BAD_PARAM, "n must be from 1 to 128, not 0", I},
        {P "\"n\":129}", LB_ROW_BAD_PARAM, "129", I},
        {P "\"n\":\"2\"}", LB_ROW_BAD_PARAM, "an integer", I},
    };
    expect_bad(cases, sizeof cases / sizeof *cases);

    struct lb_str many = {0};
    lb_str_puts(&many, P "\"stop\":[\"0\"");
    for (int i = 1; i <= LB_MAX_STOP; i++)
        lb_str_putf(&many, ",\"%d\"", i);
    lb_str_puts(&many, "]}");
    const struct bad too_many = {many.data, LB_ROW_BAD_PARAM, "65", I};
    expect_bad(&too_many, 1);
    lb_str_release(&many);
}

static void test_unsupported(void **state)
{
    (void)state;
    static const struct bad cases[] = {
        {P "\"max_tokens\":-1}", LB_ROW_BAD_PARAM, "max_tokens must be from 0", I},
        {P "\"n\":2,\"best_of\":3}", LB_ROW_UNSUPPORTED, "best_of (3)", I},
        {P "\"best_of\":2}", LB_ROW_UNSUPPORTED, "best_of (2)", I},
        {P "\"presence_penalty\":2.1}", LB_ROW_BAD_PARAM, "presence_penalty must be from -2 to 2, not 2.1", I},
        {P "\"frequency_penalty\":-3}", LB_ROW_BAD_PARAM, "frequency_penalty must be from -2 to 2, not -3", I},
        {P "\"frequency_penalty\":\"1\"}", LB_ROW_BAD_PARAM, "frequency_penalty must be a number", I},
        {P "\"repetition_penalty\":0}", LB_ROW_BAD_PARAM, "repetition_penalty must be above 0", I},
        {P "\"repetition_penalty\":1e-60}", LB_ROW_BAD_PARAM, "repetition_penalty must be above 0", I},
        {P "\"repetition_penalty\":1e60}", LB_ROW_BAD_PARAM, "repetition_penalty must be", I},
        {P "\"logit_bias\":[5]}", LB_ROW_BAD_PARAM, "logit_bias must be an object of token ids and numbers", I},
        {P "\"logit_bias\":{\"5\":\"1\"}}", LB_ROW_BAD_PARAM, "logit_bias must be an object", I},
        {P "\"logit_bias\":{\"the\":1}}", LB_ROW_BAD_PARAM, "logit_bias: \"the\" is no token id", I},
        {P "\"logit_bias\":{\"-5\":1}}", LB_ROW_BAD_PARAM, "\"-5\" is no token id", I},
        {P "\"logit_bias\":{\"05\":1}}", LB_ROW_BAD_PARAM, "\"05\" is no token id", I},
        {P "\"logit_bias\":{\"2147483648\":1}}", LB_ROW_BAD_PARAM, "\"2147483648\" is no token id", I},
        {P "\"logit_bias\":{\"99999999999999999999\":1}}", LB_ROW_BAD_PARAM, "is no token id", I},
        {P "\"logit_bias\":{\"\":1}}", LB_ROW_BAD_PARAM, "is no token id", I},
        {P "\"prompt_logprobs\":21}", LB_ROW_BAD_PARAM, "prompt_logprobs must be from 0 to 20", I},
        {P "\"prompt_logprobs\":-1}", LB_ROW_BAD_PARAM, "prompt_logprobs must be from 0", I},
        {P "\"prompt_logprobs\":\"all\"}", LB_ROW_BAD_PARAM, "prompt_logprobs must be an integer", I},
        {P "\"prompt_logprobs_from\":-1}", LB_ROW_BAD_PARAM, "prompt_logprobs_from must be from 0", I},
        {P "\"prompt_logprobs_from\":true}", LB_ROW_BAD_PARAM, "prompt_logprobs_from must be an integer", I},
        {P "\"min_tokens\":-1}", LB_ROW_BAD_PARAM, "min_tokens must be from 0", I},
        {P "\"min_tokens\":1.5}", LB_ROW_BAD_PARAM, "min_tokens must be an integer", I},
        {P "\"include_stop_str_in_output\":1}", LB_ROW_BAD_PARAM, "include_stop_str_in_output must be true", I},
        {P "\"lora\":1}", LB_ROW_BAD_PARAM, "lora must be the name of an adapter, not 1", I},
        {P "\"lora\":\"a\\u0000\"}", LB_ROW_BAD_PARAM, "lora must be the name", I},
        {P "\"response_format\":{\"type\":\"json_object\"}}", LB_ROW_UNSUPPORTED, "response_format", I},
        {P "\"structured_outputs\":{\"regex\":\"a\"}}", LB_ROW_UNSUPPORTED, "structured_outputs", I},
        {P "\"bad_words\":[\"a\"]}", LB_ROW_UNSUPPORTED, "bad_words", I},
        {P "\"tool_choice\":\"required\"}", LB_ROW_UNSUPPORTED, "tool_choice", I},
        {P "\"tools\":[{}]}", LB_ROW_UNSUPPORTED, "tools", I},
        {P "\"echo\":true}", LB_ROW_UNSUPPORTED, "echo", I},
        {P "\"use_beam_search\":true}", LB_ROW_UNSUPPORTED, "use_beam_search", I},
        {P "\"chat_template_kwargs\":{\"a\":1}}", LB_ROW_UNSUPPORTED, "chat_template_kwargs", I},
        {P "\"eos_token_id\":2}", LB_ROW_UNSUPPORTED, "stop_token_ids", I},
    };
    expect_bad(cases, sizeof cases / sizeof *cases);

    struct lb_row row;
    good(&row, P "\"n\":1,\"best_of\":1.0,\"presence_penalty\":0,\"frequency_penalty\":0.0,\"repetition_penalty\":1,"
                 "\"min_tokens\":0,\"logit_bias\":{},\"include_stop_str_in_output\":false,\"prompt_logprobs\":null,"
                 "\"lora\":null,\"response_format\":{\"type\":\"text\"},\"tool_choice\":\"auto\",\"tools\":[],"
                 "\"bad_words\":[],\"stream\":true,\"echo\":false,\"suffix\":\"\",\"use_beam_search\":false,"
                 "\"structured_outputs\":null,\"guided_json\":null,\"top_a\":0,\"documents\":[],"
                 "\"prompt_logprobs_from\":null,\"messages\":null,\"add_generation_prompt\":true}");
    lb_row_release(&row);
    good(&row, P "\"body\":{\"a\":1},\"method\":\"POST\",\"custom\":[{\"n\":2}]}"); /* data of the user's own */
    lb_row_release(&row);
}

static void test_input_key(void **state)
{
    (void)state;
    struct lb_row row;
    const struct lb_row_spec spec = {.input_key = "question"};
    parse_with(&row, &spec, 0, "{\"question\":\"Why?\",\"prompt\":\"carried\"}");
    assert_int_equal(row.code, LB_ROW_OK);
    assert_string_equal(row.text, "Why?");
    lb_row_release(&row);
    parse_with(&row, &spec, 0, "{\"prompt\":\"x\"}");
    assert_int_equal(row.code, LB_ROW_BAD_ROW);
    assert_non_null(strstr(row.message, "'question'"));
    assert_non_null(strstr(row.message, "--input-key"));
    lb_row_release(&row);
}

static void test_keep(void **state)
{
    (void)state;
    char *names[] = {"b", "a", "absent", "big"};
    const struct lb_row_spec some = {.keep = names, .n_keep = 4};
    const struct lb_row_spec all = {.keep_all = true};
    struct lb_row row;
    parse_with(&row, &some, 0,
               "{ \"a\" : [0.1, 1.0, 1e300, -0.0, null, true], \"c\":1, \"prompt\":\"x\", "
               "\"b\":{\"k\":\"\\u00e9\\/\\u0001\"}, "
               "\"big\":[18446744073709551615,-9223372036854775808,\"99999999999999999999\"]}");
    assert_int_equal(row.code, LB_ROW_OK);
    assert_string_equal(row.kept_json,
                        "{\"a\":[0.1,1.0,1e+300,-0.0,null,true],\"b\":{\"k\":\"\xC3\xA9/\\u0001\"},"
                        "\"big\":[1.8446744073709552e+19,-9223372036854775808,\"99999999999999999999\"]}");
    lb_row_release(&row);
    parse_with(&row, &some, 0, "{\"prompt\":\"x\"}");
    assert_string_equal(row.kept_json, "{}");
    lb_row_release(&row);
    parse_with(&row, &all, 0, "{\"z\":null,\"prompt\":\"x\",\"id\":4}");
    assert_string_equal(row.kept_json, "{\"z\":null,\"prompt\":\"x\",\"id\":4}");
    lb_row_release(&row);
}

static void note_close(void *ctx, int64_t index, const char *member, const char *known)
{
    lb_str_putf(ctx, "%d %s=%s;", (int)index, member, known);
}

static void test_close_names(void **state)
{
    (void)state;
    struct lb_str seen = {0};
    struct lb_row_spec spec = {.close_name = note_close, .ctx = &seen};
    struct lb_row row;
    parse_with(&row, &spec, 5,
               "{\"prompt\":\"x\",\"max_token\":5,\"Temperature\":1,\"topk\":1,\"repetiton_penalty\":2,\"ID\":1,"
               "\"category\":\"a\",\"m\":1,\"name\":\"y\",\"text\":\"z\",\"note\":1,\"idx\":7}");
    assert_int_equal(row.code, LB_ROW_OK);
    assert_string_equal(seen.data, "5 max_token=max_tokens;5 Temperature=temperature;5 topk=top_k;"
                                   "5 repetiton_penalty=repetition_penalty;5 ID=id;");
    lb_row_release(&row);
    lb_str_clear(&seen);
    parse_with(&row, &spec, 6, "{\"promt\":\"x\"}");
    assert_int_equal(row.code, LB_ROW_BAD_ROW);
    assert_string_equal(seen.data, "6 promt=prompt;");
    lb_row_release(&row);
    lb_str_release(&seen);
}

static void test_gen_check(void **state)
{
    (void)state;
    char message[256] = "";
    struct lb_gen g = {.set = LB_GEN_TEMPERATURE | LB_GEN_TOP_P, .temperature = -1, .top_p = 7};
    assert_int_equal(lb_gen_check(&g, message, sizeof message), LB_ROW_BAD_PARAM);
    assert_string_equal(message, "temperature must be 0 or more, not -1");
    g.temperature = 0;
    assert_int_equal(lb_gen_check(&g, message, sizeof message), LB_ROW_BAD_PARAM);
    assert_string_equal(message, "top_p must be above 0 and at most 1, not 7");
    g.set = LB_GEN_TEMPERATURE; /* what is not set is not checked */
    assert_int_equal(lb_gen_check(&g, message, sizeof message), LB_ROW_OK);
    g = (struct lb_gen){.set = LB_GEN_MAX_TOKENS, .max_tokens = -1};
    assert_int_equal(lb_gen_check(&g, message, sizeof message), LB_ROW_BAD_PARAM);
    assert_non_null(strstr(message, "max_tokens must be from 0"));
}

static void test_gen_merge(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_row low, high;
    struct lb_gen g = {0};
    good(&low, P "\"temperature\":0.5,\"seed\":7,\"stop\":[\"a\",\"b\"],\"stop_token_ids\":[1]}");
    good(&high, P "\"temperature\":2,\"max_tokens\":9,\"stop\":\"c\",\"stop_token_ids\":[]}");
    assert_int_equal(lb_gen_merge(&g, &low.gen, &err), LB_OK);
    assert_int_equal(lb_gen_merge(&g, &high.gen, &err), LB_OK);
    lb_row_release(&low);
    lb_row_release(&high);
    assert_int_equal(g.set, LB_GEN_TEMPERATURE | LB_GEN_SEED | LB_GEN_STOP | LB_GEN_STOP_IDS | LB_GEN_MAX_TOKENS);
    assert_true(g.temperature == 2 && g.seed == 7 && g.max_tokens == 9);
    assert_int_equal(g.n_stop, 1);
    assert_string_equal(g.stop[0], "c");
    assert_int_equal(g.n_stop_ids, 0);
    lb_gen_release(&g);
}

static void test_fail(void **state)
{
    (void)state;
    struct lb_row row;
    good(&row, P "\"max_tokens\":1}");
    lb_row_fail(&row, LB_ROW_TOO_LONG, "prompt of %d tokens", 9000);
    assert_int_equal(row.code, LB_ROW_TOO_LONG);
    assert_string_equal(row.message, "prompt of 9000 tokens");
    lb_row_fail(&row, LB_ROW_NO_MEMORY, "again: %s", row.message);
    assert_string_equal(row.message, "again: prompt of 9000 tokens");
    assert_null(row.text);
    assert_string_equal(row.id_json, "\"i\"");
    lb_row_release(&row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),       cmocka_unit_test(test_ids),        cmocka_unit_test(test_id_forms),
        cmocka_unit_test(test_duplicates), cmocka_unit_test(test_settings),   cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_bad_rows),   cmocka_unit_test(test_bad_params), cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_input_key),  cmocka_unit_test(test_keep),       cmocka_unit_test(test_close_names),
        cmocka_unit_test(test_gen_check),  cmocka_unit_test(test_gen_merge),  cmocka_unit_test(test_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
