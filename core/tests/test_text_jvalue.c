/* Values of Jinja through their own interface; what templates see of them is in testdata/jinja/library.jsonl
 * (test_text_jinja). Expected texts are CPython 3.11's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/text/jinja/jinja_help.h"

static struct lb_jrun run;

static int begin(void **state)
{
    (void)state;
    lb_jrun_init(&run, NULL);
    return 0;
}

static int end(void **state)
{
    (void)state;
    lb_jrun_release(&run);
    return 0;
}

static struct lb_jval text(const char *s)
{
    return lb_jtext_copy(&run, s, strlen(s));
}

static const char *repr(struct lb_jval v)
{
    static struct lb_str out;
    lb_str_clear(&out);
    lb_jput_repr(&run, &out, v);
    assert_false(run.failed);
    return out.data;
}

static void fails(const char *message)
{
    assert_true(run.failed);
    assert_int_equal(run.status, LB_E_INPUT);
    if (message)
        assert_string_equal(run.message, message);
    lb_jrun_reset(&run);
    assert_false(run.failed);
}

/* repr() of the shortest, the longest, the last before an exponent, powers of two whose intervals are lopsided,
 * subnormals. */
static void test_floats(void **state)
{
    static const struct {
        double x;
        const char *repr;
    } want[] = {
        {0.1, "0.1"},
        {-0.0, "-0.0"},
        {1.0, "1.0"},
        {1e15, "1000000000000000.0"},
        {1e16, "1e+16"},
        {123456789012345680.0, "1.2345678901234568e+17"},
        {0.0001, "0.0001"},
        {0.00001234, "1.234e-05"},
        {0x1p-44, "5.684341886080802e-14"},
        {0x1p-1022, "2.2250738585072014e-308"},
        {0x1p-1074, "5e-324"},
        {0x1.fffffffffffffp1023, "1.7976931348623157e+308"},
        {2.0 / 3, "0.6666666666666666"},
        {9007199254740993.0, "9007199254740992.0"},
        {5e-324 * 9, "4.4e-323"},
        {1e23, "1e+23"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_string_equal(repr(lb_jfloat(want[i].x)), want[i].repr);
}

/* A dict of many keys keeps their order, finds each and counts 1, 1.0 and True as one. */
static void test_dict(void **state)
{
    (void)state;
    struct lb_jval d = lb_jdict_new(&run, LB_J_DICT), found;
    for (int i = 0; i < 5000; i++) {
        char name[16];
        snprintf(name, sizeof name, "key%d", i * 7919 % 5000);
        lb_jdict_set(&run, d, text(name), lb_jint(i));
    }
    assert_int_equal(d.u.dict->n, 5000);
    assert_string_equal(repr(d.u.dict->pair[4999].key), "'key2081'");
    assert_true(lb_jdict_get(&run, d, text("key2081"), &found));
    assert_int_equal(found.u.i, 4999);
    assert_false(lb_jdict_get(&run, d, text("key5000"), &found));
    lb_jdict_set(&run, d, lb_jint(1), text("int"));
    lb_jdict_set(&run, d, lb_jfloat(1.0), text("float"));
    lb_jdict_set(&run, d, lb_jbool(true), text("bool"));
    assert_int_equal(d.u.dict->n, 5001);
    assert_true(lb_jdict_get(&run, d, lb_jint(1), &found));
    assert_string_equal(repr(found), "'bool'");
    assert_string_equal(repr(d.u.dict->pair[5000].key), "1"); /* the first key stays */
    assert_false(lb_jdict_get(&run, d, lb_jfloat(0.5), &found));
    lb_jdict_set(&run, d, lb_jlist_new(&run, LB_J_LIST, 0), lb_jnone());
    fails("unhashable type: 'list'");
}

static void test_json(void **state)
{
    static const char source[] = "{\"b\": [1, -2.5, true, null, \"x\\u0000y\\u00e9\"], \"a\": {}, \"a\\u00e9\": \"\"}";
    (void)state;
    json_t *json = json_loads(source, JSON_ALLOW_NUL, NULL);
    assert_non_null(json);
    struct lb_jval v = lb_jfrom_json(&run, json);
    assert_string_equal(repr(v), "{'b': [1, -2.5, True, None, 'x\\x00y\xc3\xa9'], 'a': {}, 'a\xc3\xa9': ''}");
    struct lb_jval s = lb_jgetitem(&run, lb_jgetattr(&run, v, "b", 1), lb_jint(-1));
    assert_int_equal(lb_jlen(&run, s), 4);
    assert_ptr_equal(s.u.text->data, json_string_value(json_array_get(json_object_get(json, "b"), 4)));
    json_decref(json);

    struct lb_str deep = {0};
    for (int i = 0; i < 1000; i++)
        lb_str_putc(&deep, '[');
    for (int i = 0; i < 1000; i++)
        lb_str_putc(&deep, ']');
    json = json_loads(deep.data, 0, NULL);
    assert_non_null(json);
    lb_jfrom_json(&run, json);
    fails("maximum recursion depth exceeded");
    json_decref(json);
    lb_str_release(&deep);
}

/* A generator is true when it has nothing, has no length and gives its items once; a view is as its dict. */
static void test_streams(void **state)
{
    (void)state;
    struct lb_jval list = lb_jlist_new(&run, LB_J_LIST, 0), none = lb_jlist_new(&run, LB_J_LIST, 0);
    lb_jlist_push(&run, list, lb_jint(1));
    struct lb_jval generator = lb_jstream_new(&run, "generator", list, false);
    assert_string_equal(repr(lb_jlist_of(&run, generator)), "[1]");
    assert_string_equal(repr(lb_jlist_of(&run, generator)), "[]");
    assert_true(lb_jtruth(&run, lb_jstream_new(&run, "generator", none, false)));
    struct lb_jval view = lb_jgetattr(&run, lb_jdict_new(&run, LB_J_DICT), "keys", 4);
    view = lb_jcall_value(&run, view, &(struct lb_jargs){0});
    assert_false(lb_jtruth(&run, view));
    assert_string_equal(repr(view), "dict_keys([])");
    assert_int_equal(lb_jlen(&run, view), 0);
    lb_jlen(&run, generator);
    fails("object of type 'generator' has no len()");
}

/* What is undefined says what is missing; what the sandbox hides is undefined until it is used. */
static void test_undefined(void **state)
{
    (void)state;
    struct lb_jval d = lb_jdict_new(&run, LB_J_DICT);
    lb_jgetattr(&run, lb_jundefined(&run, "x", 1), "y", 1);
    fails("'x' is undefined");
    d = lb_jdict_new(&run, LB_J_DICT);
    lb_jcall_value(&run, lb_jgetattr(&run, d, "zz", 2), &(struct lb_jargs){0});
    fails("'dict object' has no attribute 'zz'");
    struct lb_jval list = lb_jlist_new(&run, LB_J_LIST, 0), hidden = lb_jgetattr(&run, list, "append", 6);
    assert_int_equal(hidden.kind, LB_J_UNDEFINED);
    lb_jcall_value(&run, hidden, &(struct lb_jargs){0});
    fails("access to attribute 'append' of 'list' object is unsafe.");
    lb_jgetitem(&run, lb_jgetitem(&run, lb_jlist_new(&run, LB_J_LIST, 0), lb_jint(3)), lb_jint(0));
    fails("list object has no element 3");
    lb_jinja_fail(&run, "first");
    lb_jinja_fail(&run, "second");
    fails("first");
}

/* Each would take gigabytes: it fails before it takes them. */
static void test_bounds(void **state)
{
    (void)state;
    struct lb_jval x = text("xxxxxxxx"), list = lb_jlist_new(&run, LB_J_LIST, 0);
    lb_jbinary(&run, LB_JOP_MUL, x, lb_jint(INT64_MAX));
    fails("the template makes a value of more than 128 MiB");
    lb_jlist_push(&run, list = lb_jlist_new(&run, LB_J_LIST, 0), lb_jint(1));
    lb_jbinary(&run, LB_JOP_MUL, list, lb_jint(1 << 30));
    fails("the template makes a value of more than 128 MiB");
    static const char *const method[] = {"center", "ljust", "zfill", "expandtabs"};
    for (size_t i = 0; i < sizeof method / sizeof *method; i++) {
        struct lb_jval big = lb_jint(10000000000), call = lb_jgetattr(&run, text("a\tb"), method[i], strlen(method[i]));
        lb_jcall_value(&run, call, &(struct lb_jargs){.arg = &big, .n = 1});
        fails(NULL);
    }
    struct lb_jval range, huge = lb_jint(INT64_MAX);
    assert_true(lb_jinja_find_global(&run, "range", 5, &range));
    lb_jcall_value(&run, range, &(struct lb_jargs){.arg = &huge, .n = 1});
    fails("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    struct lb_jval ends[2] = {lb_jint(INT64_MIN), lb_jint(INT64_MAX)};
    lb_jcall_value(&run, range, &(struct lb_jargs){.arg = ends, .n = 2});
    fails(NULL);
    for (int i = 0; i < 100 && !run.failed; i++) { /* text that doubles itself in lists that share it */
        struct lb_jval both = lb_jlist_new(&run, LB_J_LIST, 2);
        lb_jlist_push(&run, both, list);
        lb_jlist_push(&run, both, list);
        list = i ? both : lb_jlist_new(&run, LB_J_LIST, 0);
    }
    lb_jstr(&run, list);
    fails(NULL);
    lb_jbinary(&run, LB_JOP_MUL, lb_jint(INT64_MAX), lb_jint(2));
    fails("an integer leaves 64 bits, which are all that is supported");
    lb_jbinary(&run, LB_JOP_FLOORDIV, lb_jint(INT64_MIN), lb_jint(-1));
    fails("an integer leaves 64 bits, which are all that is supported");
    assert_int_equal(lb_jbinary(&run, LB_JOP_MOD, lb_jint(INT64_MIN), lb_jint(-1)).u.i, 0);
    assert_false(lb_jrun_spend(&run, (size_t)LB_JINJA_MAX_STEPS + 1));
    fails(NULL);
}

static struct tm day(int year, int month, int mday, int hour, int wday, int yday)
{
    return (struct tm){.tm_year = year - 1900,
                       .tm_mon = month - 1,
                       .tm_mday = mday,
                       .tm_hour = hour,
                       .tm_min = 7,
                       .tm_sec = 9,
                       .tm_wday = wday,
                       .tm_yday = yday};
}

/* Days at the ends of years, where the weeks' numbers differ; datetime.strftime in the C locale. */
static void test_strftime(void **state)
{
    static const char format[] = "%U %W %V %G %g %j %u %w %y %C|%a %A %b %e|%I %p %l|%c";
    const struct {
        struct tm t;
        const char *text;
    } want[] = {
        {day(2024, 12, 30, 0, 1, 364),
         "52 53 01 2025 25 365 1 1 24 20|Mon Monday Dec 30|12 AM 12|Mon Dec 30 00:07:09 2024"},
        {day(2025, 12, 29, 12, 1, 362),
         "52 52 01 2026 26 363 1 1 25 20|Mon Monday Dec 29|12 PM 12|Mon Dec 29 12:07:09 2025"},
        {day(2021, 1, 3, 13, 0, 2),
         "01 00 53 2020 20 003 7 0 21 20|Sun Sunday Jan  3|01 PM  1|Sun Jan  3 13:07:09 2021"},
        {day(2020, 12, 31, 23, 4, 365),
         "52 52 53 2020 20 366 4 4 20 20|Thu Thursday Dec 31|11 PM 11|Thu Dec 31 23:07:09 2020"},
        {day(2016, 1, 1, 1, 5, 0),
         "00 00 53 2015 15 001 5 5 16 20|Fri Friday Jan  1|01 AM  1|Fri Jan  1 01:07:09 2016"},
        {day(2017, 1, 1, 11, 0, 0),
         "01 00 52 2016 16 001 7 0 17 20|Sun Sunday Jan  1|11 AM 11|Sun Jan  1 11:07:09 2017"},
        {day(2000, 2, 29, 12, 2, 59),
         "09 09 09 2000 00 060 2 2 00 20|Tue Tuesday Feb 29|12 PM 12|Tue Feb 29 12:07:09 2000"},
        {day(1999, 12, 31, 0, 5, 364),
         "52 52 52 1999 99 365 5 5 99 19|Fri Friday Dec 31|12 AM 12|Fri Dec 31 00:07:09 1999"},
    };
    struct lb_str out = {0};
    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        lb_str_clear(&out);
        lb_jput_strftime(&out, &(struct lb_jtext){.data = format, .len = sizeof format - 1}, &want[i].t);
        assert_string_equal(out.data, want[i].text);
    }
    lb_str_release(&out);
}

/* A text of many backslashes, quotes and control characters, and what the scratch holds meanwhile, are kept apart. */
static void test_scratch(void **state)
{
    (void)state;
    size_t outer = lb_jscratch_begin(&run);
    lb_str_puts(&run.scratch, "outer ");
    size_t inner = lb_jscratch_begin(&run);
    lb_str_puts(&run.scratch, "inner");
    struct lb_jval v = lb_jscratch_end(&run, inner);
    lb_jput_repr(&run, &run.scratch, v);
    assert_string_equal(repr(lb_jscratch_end(&run, outer)), "\"outer 'inner'\"");
    assert_int_equal(run.scratch.len, 0);
    const char *data = text("kept").u.text->data;
    lb_jrun_alloc(&run, 1 << 20);
    assert_string_equal(data, "kept");
    for (int i = 0; i < 64; i++) {
        const unsigned char *zero = lb_jrun_alloc(&run, 1000);
        for (int k = 0; k < 1000; k++)
            assert_int_equal(zero[k], 0);
        memset((void *)(uintptr_t)zero, 0xff, 1000);
        if (i % 8 == 7)
            lb_jrun_reset(&run);
    }
    assert_null(lb_jrun_alloc(&run, LB_JINJA_MAX_MEMORY + 1));
    fails("the template needs more than 512 MiB of memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_floats, begin, end),
        cmocka_unit_test_setup_teardown(test_dict, begin, end),
        cmocka_unit_test_setup_teardown(test_json, begin, end),
        cmocka_unit_test_setup_teardown(test_streams, begin, end),
        cmocka_unit_test_setup_teardown(test_undefined, begin, end),
        cmocka_unit_test_setup_teardown(test_bounds, begin, end),
        cmocka_unit_test(test_strftime),
        cmocka_unit_test_setup_teardown(test_scratch, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
