/* core/base/err.h and log.h: the first failure wins, places in front, nothing overflows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/err.h"
#include "core/base/log.h"

static void test_first_wins(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_err_set(&err, LB_E_INPUT, "row %d is bad", 3), LB_E_INPUT);
    assert_int_equal(lb_err_set(&err, LB_E_DEVICE, "later"), LB_E_INPUT);
    assert_int_equal(lb_err_memory(&err, "x", 9), LB_E_INPUT);
    assert_string_equal(err.text, "row 3 is bad");
    assert_int_equal(lb_err_where(&err, "in.jsonl:%d", 17), LB_E_INPUT);
    assert_int_equal(lb_err_where(&err, "rank 5"), LB_E_INPUT);
    assert_string_equal(err.text, "rank 5: in.jsonl:17: row 3 is bad");
}

static void test_memory(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_err_memory(&err, "weights", 123456789012ULL), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "123456789012 bytes for weights"));
}

static void test_long_texts(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    char big[3 * LB_ERR_TEXT_BYTES];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    lb_err_set(&err, LB_E_USAGE, "%s", big);
    assert_int_equal(strlen(err.text), LB_ERR_TEXT_BYTES - 1);
    lb_err_where(&err, "place");
    assert_int_equal(strlen(err.text), LB_ERR_TEXT_BYTES - 1);
    assert_int_equal(strncmp(err.text, "place: xxx", 10), 0);
    lb_err_where(&err, "%s", big);
    assert_int_equal(strlen(err.text), LB_ERR_TEXT_BYTES - 1);
    assert_int_equal(err.status, LB_E_USAGE);
}

static enum lb_status forward(enum lb_status inner, int *after)
{
    LB_TRY(inner);
    (*after)++;
    return LB_OK;
}

static enum lb_status release(enum lb_status inner, int *released)
{
    enum lb_status status;
    LB_TRY_OUT(status, inner);
    status = LB_E_USAGE;
out:
    (*released)++;
    return status;
}

static void test_forwarding(void **state)
{
    (void)state;
    int after = 0, released = 0;
    assert_int_equal(forward(LB_E_DEVICE, &after), LB_E_DEVICE);
    assert_int_equal(after, 0);
    assert_int_equal(forward(LB_OK, &after), LB_OK);
    assert_int_equal(after, 1);
    assert_int_equal(release(LB_E_INPUT, &released), LB_E_INPUT);
    assert_int_equal(release(LB_OK, &released), LB_E_USAGE);
    assert_int_equal(released, 2);
}

static void keep(void *ctx, enum lb_log_level level, const char *text)
{
    snprintf(ctx, 64, "%d %s", (int)level, text);
}

static void test_log(void **state)
{
    (void)state;
    char last[64] = "";
    struct lb_log log = {LB_LOG_WARN, keep, last};
    lb_log_put(&log, LB_LOG_INFO, "dropped");
    assert_string_equal(last, "");
    lb_log_put(&log, LB_LOG_WARN, "kept %d", 5);
    assert_string_equal(last, "1 kept 5");
    log.emit = NULL;
    lb_log_put(&log, LB_LOG_ERROR, "to nobody");
    lb_log_put(NULL, LB_LOG_ERROR, "to nobody");
    assert_string_equal(last, "1 kept 5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_wins), cmocka_unit_test(test_memory), cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_forwarding), cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
