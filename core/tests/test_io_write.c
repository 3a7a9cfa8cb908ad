/* Output rows, byte for byte as the contract shows them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>

#include "core/io/jsonl_write.h"

static void expect(const struct lb_result *r, const char *want)
{
    struct lb_str s = {0};
    json_error_t why;
    lb_jsonl_put_result(&s, r);
    assert_false(s.failed);
    assert_string_equal(s.data, want);
    json_t *v =
        json_loadb(s.data, s.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why); /* whatever it says, it is JSON */
    assert_non_null(v);
    json_decref(v);
    lb_str_release(&s);
}

static void test_least(void **state)
{
    (void)state;
    const struct lb_result r = {.id_json = "16",
                                .index = 16,
                                .finish = LB_FINISH_LENGTH,
                                .text = "",
                                .prompt_tokens = 1,
                                .completion_tokens = 5};
    expect(&r, "{\"id\":16,\"index\":16,\"text\":\"\",\"finish_reason\":\"length\",\"prompt_tokens\":1,"
               "\"completion_tokens\":5}");
}

static void test_all(void **state)
{
    (void)state;
    const int32_t prompt[] = {1, 2, 3}, ids[] = {128000, 128009};
    const struct lb_logprob_top top[] = {{128000, -0.1f}, {7, -1e-10f}};
    const struct lb_logprob lp[] = {{128000, -0.1f, 1, top, 2}, {128009, -12.345678f, 50257, NULL, 0}};
    const struct lb_timing timing = {0.1, 1.0 / 3, 1234567.0, NAN, 2, 1, 99};
    const struct lb_result r = {.id_json = "\"a17\"",
                                .index = 3,
                                .finish = LB_FINISH_STOP,
                                .text = "a\"b\\c\n\x01\x7F\xC3\xA4\xF0\x9F\x98\x80/\xE2\x80\xA8\xF0\x9F\0z",
                                .n_text = 22,
                                .has_stop_id = true,
                                .stop_id = 128009,
                                .prompt_tokens = 3,
                                .completion_tokens = 2,
                                .prompt_ids = prompt,
                                .ids = ids,
                                .logprobs = lp,
                                .timing = &timing,
                                .kept_json = "{\"a\":1}"};
    expect(&r, "{\"id\":\"a17\",\"index\":3,"
               "\"text\":\"a\\\"b\\\\c\\n\\u0001\x7F\xC3\xA4\xF0\x9F\x98\x80/\xE2\x80\xA8\xEF\xBF\xBD\\u0000z\","
               "\"finish_reason\":\"stop\",\"stop_reason\":128009,\"prompt_tokens\":3,\"completion_tokens\":2,"
               "\"prompt_token_ids\":[1,2,3],\"token_ids\":[128000,128009],"
               "\"logprobs\":[{\"id\":128000,\"logprob\":-0.1,\"rank\":1,\"top\":[[128000,-0.1],[7,-1e-10]]},"
               "{\"id\":128009,\"logprob\":-12.345678,\"rank\":50257}],"
               "\"timing\":{\"queue_s\":0.1,\"prefill_s\":0.333333,\"decode_s\":1.23457e+06,\"total_s\":2,"
               "\"rank\":1,\"steps\":99},\"kept\":{\"a\":1}}");
}

static void test_stop_string(void **state)
{
    (void)state;
    const struct lb_result r = {.id_json = "0",
                                .finish = LB_FINISH_STOP,
                                .stop_string = "\n\"Q\xC3\xA4",
                                .prompt_tokens = 2,
                                .completion_tokens = 1};
    expect(&r, "{\"id\":0,\"index\":0,\"finish_reason\":\"stop\",\"stop_reason\":\"\\n\\\"Q\xC3\xA4\","
               "\"prompt_tokens\":2,\"completion_tokens\":1}");
}

/* With several samples what each of them gave stands in a list, in the place of the text. */
static void test_choices(void **state)
{
    (void)state;
    const int32_t prompt[] = {1, 2}, ids[] = {7};
    const struct lb_logprob lp[] = {{7, -1.5f, 1, NULL, 0}};
    const struct lb_result choice[] = {{.text = "a",
                                        .n_text = 1,
                                        .finish = LB_FINISH_STOP,
                                        .has_stop_id = true,
                                        .stop_id = 7,
                                        .completion_tokens = 1,
                                        .prompt_ids = prompt,
                                        .ids = ids,
                                        .logprobs = lp},
                                       {.finish = LB_FINISH_LENGTH, .completion_tokens = 3}};
    const struct lb_result r = {.id_json = "\"i\"",
                                .index = 2,
                                .prompt_tokens = 2,
                                .prompt_ids = prompt,
                                .choice = choice,
                                .n_choice = 2,
                                .kept_json = "{}"};
    expect(&r, "{\"id\":\"i\",\"index\":2,\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\",\"stop_reason\":7,"
               "\"completion_tokens\":1,\"token_ids\":[7],\"logprobs\":[{\"id\":7,\"logprob\":-1.5,\"rank\":1}]},"
               "{\"finish_reason\":\"length\",\"completion_tokens\":3}],\"prompt_tokens\":2,"
               "\"prompt_token_ids\":[1,2],\"kept\":{}}");
}

static void test_prompt_logprobs(void **state)
{
    (void)state;
    const struct lb_logprob_top top[] = {{9, -0.25f}, {4, -2.0f}};
    const struct lb_logprob lp[] = {{4, -2.0f, 2, top, 2}, {5, -0.125f, 1, NULL, 0}};
    struct lb_result r = {.id_json = "1",
                          .index = 1,
                          .text = "",
                          .finish = LB_FINISH_LENGTH,
                          .prompt_tokens = 4,
                          .prompt_logprobs = lp,
                          .prompt_first = 2};
#define BEFORE                                                                                                    \
    "{\"id\":1,\"index\":1,\"text\":\"\",\"finish_reason\":\"length\",\"prompt_tokens\":4,\"completion_tokens\":" \
    "0,\"prompt_logprobs\":[null,null,"
    expect(&r, BEFORE "{\"id\":4,\"logprob\":-2,\"rank\":2,\"top\":[[9,-0.25],[4,-2]]},"
                      "{\"id\":5,\"logprob\":-0.125,\"rank\":1}],\"prompt_nll\":2.125}");
    r.prompt_first = 9;
    expect(&r, BEFORE "null,null],\"prompt_nll\":0}");
}

static void test_error(void **state)
{
    (void)state;
    const struct lb_result r = {.id_json = "null",
                                .index = 8,
                                .finish = LB_FINISH_ERROR,
                                .code = LB_ROW_BAD_JSON,
                                .message = "near '\"\xFF'",
                                .kept_json = "{}",
                                .text = "x",
                                .n_text = 1};
    expect(&r, "{\"id\":null,\"index\":8,\"finish_reason\":\"error\",\"error\":{\"code\":\"bad_json\","
               "\"message\":\"near '\\\"\xEF\xBF\xBD'\"}}");
}

/* A float32 reads back as itself from at most nine digits. */
static void test_floats(void **state)
{
    (void)state;
    uint32_t x = 12345;
    for (int i = 0; i < 20000; i++) {
        x = x * 1664525u + 1013904223u;
        float f;
        uint32_t bits = x & 0xBFFFFFFFu; /* magnitude below 2 */
        memcpy(&f, &bits, sizeof f);
        const struct lb_logprob lp = {1, f, 1, NULL, 0};
        const struct lb_result r = {
            .id_json = "0", .finish = LB_FINISH_LENGTH, .completion_tokens = 1, .logprobs = &lp};
        struct lb_str s = {0};
        lb_jsonl_put_result(&s, &r);
        const char *at = strstr(s.data, "\"logprob\":");
        assert_non_null(at);
        assert_true(strtof(at + 10, NULL) == f);
        assert_true(strcspn(at + 10, ",") <= 15);
        lb_str_release(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least),           cmocka_unit_test(test_all),
        cmocka_unit_test(test_stop_string),     cmocka_unit_test(test_choices),
        cmocka_unit_test(test_prompt_logprobs), cmocka_unit_test(test_error),
        cmocka_unit_test(test_floats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
