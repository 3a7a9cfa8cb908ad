/* Responses of the OpenAI API, byte for byte in the shapes that its reference shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>

#include "core/io/openai_write.h"

/* Tokens 0 to 3, of which 1 and 2 are parts of a character, and one that decodes to nothing. */
static const struct lb_bytes pieces[] = {{" a\"", 3}, {"\xC3", 1}, {"\xA4", 1}, {"<|end|>", 7}, {NULL, 0}};

static struct lb_bytes piece(const void *ctx, int32_t id)
{
    assert_ptr_equal(ctx, &pieces);
    return pieces[id];
}

static struct lb_openai response(enum lb_row_api api)
{
    return (struct lb_openai){.api = api, .model_json = "\"m\"", .created = 1700000000, .piece = piece, .ctx = &pieces};
}

static void expect(const struct lb_openai *o, const struct lb_result *r, const char *want)
{
    struct lb_str s = {0};
    json_error_t why;
    lb_openai_put_result(&s, o, r);
    assert_false(s.failed);
    assert_string_equal(s.data, want);
    json_t *v = json_loadb(s.data, s.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    assert_non_null(v);
    json_decref(v);
    lb_str_release(&s);
}

#define HEAD(status, index)                                                                     \
    "{\"id\":\"batch_req_" index "\",\"custom_id\":\"c\",\"response\":{\"status_code\":" status \
    ",\"request_id\":\"req_" index "\",\"body\":"

static void test_chat(void **state)
{
    (void)state;
    const struct lb_openai o = response(LB_API_CHAT);
    const struct lb_result choice[] = {
        {.text = "Hi \"you\"\n",
         .n_text = 9,
         .finish = LB_FINISH_STOP,
         .has_stop_id = true,
         .stop_id = 3,
         .completion_tokens = 4},
        {.text = "", .finish = LB_FINISH_LENGTH, .completion_tokens = 2},
        {.text = "x", .n_text = 1, .finish = LB_FINISH_STOP, .stop_string = "\"E", .completion_tokens = 3}};
    const struct lb_result r = {
        .id_json = "\"c\"", .index = 16, .prompt_tokens = 9, .choice = choice, .n_choice = 3, .kept_json = "{\"a\":1}"};
    expect(&o, &r,
           HEAD("200",
                "16") "{\"id\":\"chatcmpl-16\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\","
                      "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hi \\\"you\\\"\\n\","
                      "\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":3},"
                      "{\"index\":1,\"message\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
                      "\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null},"
                      "{\"index\":2,\"message\":{\"role\":\"assistant\",\"content\":\"x\",\"refusal\":null},"
                      "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"\\\"E\"}],"
                      "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9,\"total_tokens\":18}}},\"error\":null,"
                      "\"kept\":{\"a\":1}}");
}

static void test_text(void **state)
{
    (void)state;
    struct lb_openai o = response(LB_API_COMPLETION);
    o.model_json = NULL;
    o.created = 0;
    const int32_t prompt[] = {1, 2}, ids[] = {0, 3};
    const struct lb_result choice = {.text = " a\"",
                                     .n_text = 3,
                                     .finish = LB_FINISH_LENGTH,
                                     .prompt_tokens = 2,
                                     .completion_tokens = 2,
                                     .prompt_ids = prompt,
                                     .ids = ids};
    const struct lb_result r = {.id_json = "\"c\"", .index = 0, .prompt_tokens = 2, .choice = &choice, .n_choice = 1};
    expect(&o, &r,
           HEAD("200",
                "0") "{\"id\":\"cmpl-0\",\"object\":\"text_completion\",\"created\":0,\"model\":\"\",\"choices\":["
                     "{\"index\":0,\"text\":\" a\\\"\",\"logprobs\":null,\"finish_reason\":\"length\","
                     "\"stop_reason\":null,\"prompt_token_ids\":[1,2],\"token_ids\":[0,3]}],"
                     "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":2,\"total_tokens\":4}}},\"error\":null}");
}

/* A token's bytes are exact where its text cannot be. */
static void test_logprobs(void **state)
{
    (void)state;
    const struct lb_logprob_top first[] = {{0, -0.5f}, {1, -2.0f}}, second[] = {{2, -1.0f}, {1, -3.0f}},
                                third[] = {{3, 0.0f}, {4, -INFINITY}};
    const struct lb_logprob lp[] = {{0, -0.5f, 1, first, 2}, {1, -3.0f, 2, second, 2}, {0, -9.25f, 7, third, 2}};
    const struct lb_result choice = {
        .text = "t", .n_text = 1, .finish = LB_FINISH_LENGTH, .completion_tokens = 3, .logprobs = lp};
    const struct lb_result r = {.id_json = "\"c\"", .index = 1, .prompt_tokens = 1, .choice = &choice, .n_choice = 1};
    struct lb_openai o = response(LB_API_CHAT);
#define A "{\"token\":\" a\\\"\",\"logprob\":-0.5,\"bytes\":[32,97,34]"
#define HALF(x, byte) "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":" x ",\"bytes\":[" byte "]"
    expect(
        &o, &r,
        HEAD("200",
             "1") "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\","
                  "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"t\",\"refusal\":null},"
                  "\"logprobs\":{\"content\":[" A ",\"top_logprobs\":[" A
                  "}," HALF("-2", "195") "}]}," HALF("-3", "195") ",\"top_logprobs\":[" HALF("-1", "164") "}," HALF(
                      "-3", "195") "}]},"
                                   "{\"token\":\" a\\\"\",\"logprob\":-9.25,\"bytes\":[32,97,34],\"top_logprobs\":["
                                   "{\"token\":\"<|end|>\",\"logprob\":0,\"bytes\":[60,124,101,110,100,124,62]},"
                                   "{\"token\":\"\",\"logprob\":-9999,\"bytes\":[]}]}],\"refusal\":null},"
                                   "\"finish_reason\":\"length\",\"stop_reason\":null}],"
                                   "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":3,\"total_tokens\":4}}},"
                                   "\"error\":null}");
    int64_t offset[] = {0, 3, 4}, *list[] = {offset};
    o = response(LB_API_COMPLETION);
    o.text_offset = list;
    /* members of an object have one name each: the second half of a character gives way to the first, which is better;
     * the chosen token stands among the best whatever its rank */
    expect(&o, &r,
           HEAD("200",
                "1") "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\","
                     "\"choices\":[{\"index\":0,\"text\":\"t\",\"logprobs\":{\"tokens\":[\" a\\\"\",\"\xEF\xBF\xBD\","
                     "\" a\\\"\"],\"token_logprobs\":[-0.5,-3,-9.25],\"top_logprobs\":["
                     "{\" a\\\"\":-0.5,\"\xEF\xBF\xBD\":-2},{\"\xEF\xBF\xBD\":-1},"
                     "{\"<|end|>\":0,\"\":-9999,\" a\\\"\":-9.25}],\"text_offset\":[0,3,4]},"
                     "\"finish_reason\":\"length\",\"stop_reason\":null}],"
                     "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":3,\"total_tokens\":4}}},\"error\":null}");
}

static void test_errors(void **state)
{
    (void)state;
    struct lb_openai o = response(LB_API_CHAT);
    o.param = "top_p";
    struct lb_result r = {.id_json = "\"c\"",
                          .index = 7,
                          .finish = LB_FINISH_ERROR,
                          .code = LB_ROW_BAD_PARAM,
                          .message = "top_p \"\xFF\"",
                          .kept_json = "{}"};
    expect(&o, &r,
           HEAD("400", "7") "{\"error\":{\"message\":\"top_p \\\"\xEF\xBF\xBD\\\"\",\"type\":\"invalid_request_error\","
                            "\"param\":\"top_p\",\"code\":\"bad_param\"}}},\"error\":null}");
    o = response(LB_API_OPENAI);
    r = (struct lb_result){.id_json = "\"c\"", .index = 7, .finish = LB_FINISH_ERROR, .code = LB_ROW_NOT_FINITE};
    expect(&o, &r,
           HEAD("500",
                "7") "{\"error\":{\"message\":\"\",\"type\":\"server_error\",\"param\":null,\"code\":\"not_finite\"}}},"
                     "\"error\":null}");
    for (int code = LB_ROW_OK + 1; code < LB_N_ROW_CODE; code++) {
        struct lb_str s = {0};
        r.code = (enum lb_row_code)code;
        lb_openai_put_result(&s, &o, &r);
        bool ours = code == LB_ROW_NO_MEMORY || code == LB_ROW_NOT_FINITE;
        assert_non_null(strstr(s.data, ours ? "\"status_code\":500" : "\"status_code\":400"));
        lb_str_release(&s);
    }
    r = (struct lb_result){.index = 0, .finish = LB_FINISH_ERROR, .code = LB_ROW_BAD_JSON};
    struct lb_str s = {0};
    lb_openai_put_result(&s, &o, &r);
    assert_non_null(strstr(s.data, "\"custom_id\":null"));
    lb_str_release(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
