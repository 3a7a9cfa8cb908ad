/* The trace file: whole JSON whatever threads put and whatever names hold, nothing of it where it is not wanted, and a
 * disk that is full is told at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/io/trace.h"
#include "core/tests/scratch.h"
#include "core/tests/whole.h"

enum { N_THREAD = 4 };

static int n_event; /* of each thread */

static struct lb_trace *open_trace(void)
{
    struct lb_trace *t;
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_trace_open(&t, scratch_path("t.json"), &err), LB_OK);
    return t;
}

static void *put_events(void *arg)
{
    struct lb_trace *t = arg;
    for (int i = 0; i < n_event; i++) {
        struct lb_trace_at at = {.rank = 3, .thread = 2, .begin = 1e-6 * i, .end = 1e-6 * (i + 1)};
        lb_trace_span(t, at, "step", "\"n\":%d", i);
        lb_trace_life(t, at, i, "row", "\"n\":%d", i);
        lb_trace_value(t, at, "pages", i);
    }
    return NULL;
}

static json_t *load(void)
{
    json_error_t error;
    json_t *root = json_load_file(scratch_path("t.json"), 0, &error);
    if (!root)
        fail_msg("line %d: %s", error.line, error.text);
    assert_true(json_is_array(json_object_get(root, "traceEvents")));
    return root;
}

static void threads_write_one_file(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_trace *t = open_trace();
    pthread_t thread[N_THREAD];
    uint64_t before = lb_mem_count();
    n_event = 20000 / whole_or(10);
    for (int i = 0; i < N_THREAD; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, put_events, t), 0);
    put_events(t);
    assert_int_equal(lb_mem_count(), before); /* the forward thread may put events */
    for (int i = 0; i < N_THREAD; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(access(scratch_path("t.json"), F_OK), -1); /* not there before it is whole */
    assert_int_equal(lb_trace_finish(t, true, &err), LB_OK);
    json_t *root = load(), *e;
    size_t i, count[128] = {0};
    json_array_foreach(json_object_get(root, "traceEvents"), i, e)
    {
        const char *ph = json_string_value(json_object_get(e, "ph"));
        count[(unsigned char)ph[0]]++;
        if (ph[0] == 'X') {
            double n = (double)json_integer_value(json_object_get(json_object_get(e, "args"), "n"));
            assert_true(json_number_value(json_object_get(e, "ts")) == n);
            assert_true(json_number_value(json_object_get(e, "dur")) == 1);
        }
    }
    size_t each = (N_THREAD + 1) * (size_t)n_event;
    assert_int_equal(count['X'], each);
    assert_int_equal(count['C'], each);
    assert_int_equal(count['b'], each);
    assert_int_equal(count['e'], each);
    json_decref(root);
    assert_int_equal(access(scratch_path("t.json.tmp"), F_OK), -1);
}

static void names_and_times_are_hostile(void **state)
{
    (void)state;
    static const char name[] = "a \"host\"\n\\ \xFF</script>";
    static const double times[] = {0, -5, 1e300, 1e-300, 0.0 / 1.0, 123456.789012};
    struct lb_err err = LB_ERR_INIT;
    struct lb_trace *t = open_trace();
    lb_trace_process(t, 0, name);
    lb_trace_thread(t, 0, 1, name);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        for (size_t k = 0; k < sizeof times / sizeof *times; k++) {
            struct lb_trace_at at = {.rank = INT32_MAX, .thread = INT32_MIN, .begin = times[i], .end = times[k]};
            lb_trace_span(t, at, "name", "\"n\":%lld", (long long)INT64_MIN);
            lb_trace_life(t, at, INT64_MIN, "name", "%s", "");
        }
    assert_int_equal(lb_trace_finish(t, true, &err), LB_OK);
    json_t *root = load(), *list = json_object_get(root, "traceEvents"), *e;
    const char *got = json_string_value(json_object_get(json_object_get(json_array_get(list, 0), "args"), "name"));
    assert_string_equal(got, "a \"host\"\n\\ \xEF\xBF\xBD</script>");
    size_t i;
    json_array_foreach(list, i, e)
    {
        assert_true(json_number_value(json_object_get(e, "ts")) >= 0);
        assert_true(json_number_value(json_object_get(e, "dur")) >= 0);
    }
    json_decref(root);
}

static void what_is_not_wanted_goes(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_trace *t = open_trace();
    put_events(t);
    assert_int_equal(access(scratch_path("t.json.tmp"), F_OK), 0);
    assert_int_equal(lb_trace_finish(t, false, &err), LB_OK);
    assert_int_equal(access(scratch_path("t.json.tmp"), F_OK), -1);
    assert_int_equal(access(scratch_path("t.json"), F_OK), -1);
    assert_int_equal(lb_trace_finish(NULL, true, &err), LB_OK);
}

static void full_disk_is_told_at_the_end(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_trace *t;
    assert_int_equal(lb_trace_open(&t, "/dev/full", &err), LB_OK);
    put_events(t);
    assert_int_equal(lb_trace_finish(t, true, &err), LB_E_DEVICE);
    assert_non_null(strstr(err.text, "/dev/full"));
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_trace_open(&t, "/no/folder/t", &err), LB_E_DEVICE);
    assert_null(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(threads_write_one_file, scratch_empty),
        cmocka_unit_test_teardown(names_and_times_are_hostile, scratch_empty),
        cmocka_unit_test_teardown(what_is_not_wanted_goes, scratch_empty),
        cmocka_unit_test(full_disk_is_told_at_the_end),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
