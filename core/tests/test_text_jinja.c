/* Jinja: chats of 37 models' templates against ../shared/templates/golden.jsonl, small templates against what Jinja2
 * makes of them (testdata/jinja), and templates that mean harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "core/base/file.h"
#include "core/tests/whole.h"
#include "core/text/jinja/jinja.h"

#define SHARED LB_SOURCE_DIR "/../shared/templates/"
#define MAX_VARS 64

/* The clock of the recorded values. */
static const struct tm now = {
    .tm_year = 125, .tm_mday = 2, .tm_hour = 3, .tm_min = 4, .tm_sec = 5, .tm_wday = 4, .tm_yday = 1};

struct outcome {
    enum lb_status status;
    struct lb_str out;
    struct lb_err err;
};

static struct outcome run(const char *source, size_t n, const json_t *context)
{
    struct outcome o = {.err = LB_ERR_INIT};
    struct lb_jinja_var var[MAX_VARS];
    struct lb_jinja_input in = {.var = var, .now = &now};
    struct lb_jinja *t = NULL;
    struct lb_jinja_ctx *c = NULL;
    json_t *object = (json_t *)(uintptr_t)context;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        assert_true(in.n_var < MAX_VARS);
        var[in.n_var++] = (struct lb_jinja_var){json_object_iter_key(it), json_object_iter_value(it)};
    }
    assert_int_equal(lb_jinja_ctx_new(&c, &o.err), LB_OK);
    o.status = lb_jinja_compile(&t, source, n, &o.err);
    if (o.status == LB_OK)
        o.status = lb_jinja_render(t, c, &in, &o.out, &o.err);
    if (o.status != LB_OK) {
        assert_int_equal(o.err.status, o.status);
        assert_int_equal(o.out.len, 0);
    }
    lb_jinja_free(t);
    lb_jinja_ctx_free(c);
    return o;
}

static struct outcome run_text(const char *source)
{
    return run(source, strlen(source), NULL);
}

static bool gives(const struct outcome *o, const json_t *want)
{
    return o->status == LB_OK && o->out.len == json_string_length(want) &&
           !memcmp(o->out.len ? o->out.data : "", json_string_value(want), o->out.len);
}

/* "line 7: what" */
static bool says(const struct outcome *o, const json_t *line, const json_t *what)
{
    long at = 0;
    int n = 0;
    if (o->status != LB_E_INPUT || sscanf(o->err.text, "line %ld: %n", &at, &n) != 1 || !n)
        return false;
    return (!line || at == json_integer_value(line)) && (!what || !strcmp(o->err.text + n, json_string_value(what)));
}

static void show(const char *what, const struct outcome *o)
{
    print_error("%s\n  gave: %s\n", what, o->status != LB_OK ? o->err.text : o->out.len ? o->out.data : "");
}

/* Calls check for each row of a JSONL file; the number of rows. */
static int each_row(const char *path, bool (*check)(const json_t *row, void *with), void *with)
{
    static char line[1 << 20];
    int n = 0, n_bad = 0;
    FILE *f = fopen(path, "r");
    if (!f)
        fail_msg("cannot open %s", path);
    while (fgets(line, sizeof line, f)) {
        json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(row);
        n_bad += !check(row, with);
        json_decref(row);
        n++;
    }
    fclose(f);
    assert_int_equal(n_bad, 0);
    return n;
}

static bool check_golden(const json_t *row, void *with)
{
    char path[512];
    struct lb_err err = LB_ERR_INIT;
    struct lb_str source = {0};
    (void)with;
    snprintf(path, sizeof path, SHARED "%s", json_string_value(json_object_get(row, "template")));
    assert_int_equal(lb_file_read(path, 1 << 20, &source, &err), LB_OK);
    struct outcome o = run(source.data, source.len, json_object_get(row, "context"));
    const json_t *want = json_object_get(row, "output"), *error = json_object_get(row, "error");
    const char *type = json_string_value(json_object_get(error, "type"));
    bool own_words = type && !strcmp(type, "TemplateError");
    bool good = want ? gives(&o, want) : says(&o, NULL, own_words ? json_object_get(error, "message") : NULL);
    if (!good)
        show(json_string_value(json_object_get(row, "case")), &o);
    lb_str_release(&source);
    lb_str_release(&o.out);
    return good;
}

static void test_golden(void **state)
{
    (void)state;
    assert_int_equal(each_row(SHARED "golden.jsonl", check_golden, NULL), 444);
}

/* A row without a template gives the context of those after it that have none. */
static bool check_snippet(const json_t *row, void *with)
{
    json_t **shared = with;
    const json_t *source = json_object_get(row, "template"), *own = json_object_get(row, "context");
    if (!source) {
        json_decref(*shared);
        *shared = json_deep_copy(own);
        return true;
    }
    struct outcome o = run(json_string_value(source), json_string_length(source), own ? own : *shared);
    const json_t *want = json_object_get(row, "output"), *error = json_object_get(row, "error");
    bool same_words = json_is_true(json_object_get(row, "same_words"));
    bool good = want ? gives(&o, want) : says(&o, json_object_get(row, "line"), same_words ? error : NULL);
    if (!good)
        show(json_string_value(source), &o);
    lb_str_release(&o.out);
    return good;
}

static void test_snippets(void **state)
{
    json_t *shared = NULL;
    (void)state;
    assert_true(each_row(LB_SOURCE_DIR "/testdata/jinja/snippets.jsonl", check_snippet, &shared) > 500);
    json_decref(shared);
}

static void test_library(void **state)
{
    json_t *shared = NULL;
    (void)state;
    assert_true(each_row(LB_SOURCE_DIR "/testdata/jinja/library.jsonl", check_snippet, &shared) > 150);
    json_decref(shared);
}

/* Each of these would take all memory, all stack or for ever. */
static void test_hostile(void **state)
{
    enum { N_SLOW = 3 };
    static const char *const template[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=1) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=1) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s == ns.s }}"
        "{{ ns.s | tojson }}",
        "{{ 'x' * 999999999 }}",
        "{{ 'x' | center(999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        /* the last N_SLOW take as many steps as the first one */
        "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% else %}{{ 'x' * 1000 }}{% endif %}{% endmacro %}"
        "{{ m(60) | length }}",
        "{% for i in range(99999) if i < 0 or loop_forever %}{% endfor %}{% for i in range(99999) %}"
        "{{ range(99999) | list | length }}{% endfor %}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof template / sizeof *template - (is_whole() ? 0 : N_SLOW); i++) {
        struct outcome o = run_text(template[i]);
        if (!says(&o, NULL, NULL))
            show(template[i], &o);
        assert_int_equal(o.status, LB_E_INPUT);
        lb_str_release(&o.out);
    }
}

/* `open` many times, with what closes it: an error or a rendering, but no end of the stack. */
static void test_deep(void **state)
{
    static const char *const open[] = {
        "(",  "[",   "{'a':", "not ", "-",      "f(",  "1+",       "1~",       "1 if 1 else ", "1|abs+",
        "a[", "1**", "1<",    "a.b.", "1 and ", "(1,", "a is eq ", "a|map(x=", "1 if ",        "[1 if 1 else"};
    static const char *const tag[] = {"{% if 1 %}",
                                      "{% for a in b %}",
                                      "{% macro a() %}",
                                      "{% with %}",
                                      "{% set a %}",
                                      "{% call a() %}",
                                      "{% filter e %}",
                                      "{% raw %}",
                                      "{% generation %}",
                                      "{% if 1 %}{% else %}",
                                      "{# ",
                                      "{% if 1 %}{% elif 1 %}"};
    (void)state;
    for (size_t i = 0; i < sizeof open / sizeof *open + sizeof tag / sizeof *tag; i++) {
        bool is_tag = i >= sizeof open / sizeof *open;
        const char *what = is_tag ? tag[i - sizeof open / sizeof *open] : open[i];
        struct lb_str s = {0};
        lb_str_puts(&s, is_tag ? "" : "{{ ");
        for (int k = 0; k < (is_sanitized() && !is_whole() ? 5000 : 30000); k++)
            lb_str_puts(&s, what);
        lb_str_puts(&s, is_tag ? "" : "1 }}");
        struct outcome o = run(s.data, s.len, NULL);
        assert_true(o.status == LB_OK || o.status == LB_E_INPUT);
        lb_str_release(&o.out);
        lb_str_release(&s);
    }
}

/* A deep expression inside of a macro that calls itself: neither bound alone would hold. */
static void test_deep_calls(void **state)
{
    struct lb_str s = {0};
    (void)state;
    lb_str_puts(&s, "{% macro m() %}{{ m()");
    for (int k = 0; k < 900; k++)
        lb_str_puts(&s, " + ''");
    lb_str_puts(&s, " }}{% endmacro %}{{ m() }}");
    struct outcome o = run(s.data, s.len, NULL);
    assert_true(says(&o, NULL, NULL));
    lb_str_release(&o.out);
    lb_str_release(&s);
}

/* Every prefix of every template, and every template with bytes exchanged, ends. */
static void test_broken(void **state)
{
    static const char source[] =
        "{% macro m(a, b=1) -%}\n {{ a | default('x', true) | upper }}{{ caller(b) }}{% endmacro %}{# c #}"
        "{% set ns = namespace(v=[1, 'a', {'k': (1, 2.5e3)}]) %}{% for x, (y, z) in d.items() if x is not none "
        "recursive %}{{ loop.index ~ loop(y) }}{% break %}{%+ else -%}{% continue %}{% endfor %}{% raw %}{{{% endraw "
        "%}{% call(q) m(*[1], **{'b': 2}) %}{{ q[1:-1:2] ** -x.y['z'] // 3 if not t else none }}{% endcall %}"
        "{% filter indent(2) | trim %}{% with a = 1 %}{{ a in [1] and a != 2 }}{% endwith %}{% endfilter %}";
    static const char change[] = "{}%#()[]'\"|.,-+=\n\\x0 \xff";
    char copy[sizeof source];
    (void)state;
    for (size_t n = 0; n < sizeof source; n++) {
        struct outcome o = run(source, n, NULL);
        lb_str_release(&o.out);
        const size_t step = (size_t)whole_or(3); /* of a sample other bytes at each place */
        for (size_t k = n % step; k < sizeof change - 1 && n < sizeof source - 1; k += step) {
            memcpy(copy, source, sizeof source);
            copy[n] = change[k];
            o = run(copy, sizeof source - 1, NULL);
            assert_true(o.status == LB_OK || says(&o, NULL, NULL) || strstr(o.err.text, "UTF-8"));
            lb_str_release(&o.out);
        }
    }
}

static void test_interface(void **state)
{
    static const char source[] = "{% for m in messages %}{{ m.tools }}{% endfor %}{{ x }}{% if 0 %}{{ q }}{% endif %}";
    struct lb_err err = LB_ERR_INIT;
    struct lb_jinja *t = NULL;
    struct lb_jinja_ctx *c = NULL;
    struct lb_str out = {0};
    json_t *one = json_string("1"), *two = json_string("2"), *bad = json_integer(3);
    struct lb_jinja_var var[] = {{"x", one}, {"unused", two}, {"x", two}, {"messages", NULL}};
    struct lb_jinja_input in = {var, 4, &now};
    (void)state;
    assert_int_equal(lb_jinja_compile(&t, source, strlen(source), &err), LB_OK);
    assert_int_equal(lb_jinja_ctx_new(&c, &err), LB_OK);
    assert_true(lb_jinja_names(t, "messages") && lb_jinja_names(t, "q"));
    assert_false(lb_jinja_names(t, "tools") || lb_jinja_names(t, "unused"));

    /* of equal names the last wins; what was there stays before what is rendered */
    lb_str_puts(&out, "before ");
    assert_int_equal(lb_jinja_render(t, c, &in, &out, &err), LB_OK);
    assert_string_equal(out.data, "before 2");

    var[3].value = bad;
    assert_int_equal(lb_jinja_render(t, c, &in, &out, &err), LB_E_INPUT);
    assert_string_equal(out.data, "before 2");
    assert_string_equal(err.text, "line 1: 'int' object is not iterable");

    /* a failure leaves nothing behind */
    var[3].value = NULL;
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_jinja_render(t, c, &in, &out, &err), LB_OK);
    assert_string_equal(out.data, "before 22");

    lb_str_release(&out);
    lb_jinja_free(t);
    lb_jinja_free(NULL);
    lb_jinja_ctx_free(c);
    lb_jinja_ctx_free(NULL);
    json_decref(one);
    json_decref(two);
    json_decref(bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),  cmocka_unit_test(test_snippets),  cmocka_unit_test(test_library),
        cmocka_unit_test(test_hostile), cmocka_unit_test(test_deep),      cmocka_unit_test(test_deep_calls),
        cmocka_unit_test(test_broken),  cmocka_unit_test(test_interface),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
