/* Filters that apply tests and filters to each item, and filters on numbers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

#define FILTER(fn) static struct lb_jval fn(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
#define NOTHING ((struct lb_jval){.kind = LB_J_UNDEFINED})

/* ---- map, select, reject ---- */

static struct lb_jargs without(const struct lb_jargs *args, size_t first)
{
    struct lb_jargs rest = *args;
    rest.n -= first;
    rest.arg = rest.n > 0 ? args->arg + first : NULL;
    return rest;
}

/* map(attribute=..., default=...) */
static bool bind_map(struct lb_jrun *r, const struct lb_jargs *args, struct lb_jgetter *getter)
{
    struct lb_jval a[2];
    if (!lb_jargs_bind(r, "map", args, "attribute default?", a) || !lb_jgetter_init(r, getter, a[0], false))
        return false;
    getter->otherwise = a[1];
    return true;
}

static const struct lb_jfilter *filter_named(struct lb_jrun *r, struct lb_jval name)
{
    const struct lb_jfilter *f = NULL;
    if (name.kind == LB_J_STR)
        f = lb_jinja_find_filter(name.u.text->data, name.u.text->len);
    if (!f && name.kind == LB_J_STR)
        lb_jinja_fail(r, "No filter named '%.*s'.", (int)name.u.text->len, name.u.text->data);
    else if (!f)
        lb_jinja_fail(r, "a filter's name must be str, not %s", lb_jtype_name(name));
    return f;
}

FILTER(do_map)
{
    struct lb_jgetter getter = {0};
    const struct lb_jfilter *f = NULL;
    struct lb_jiter it;
    struct lb_jval item, list = lb_jlist_new(r, LB_J_LIST, 0);
    if (!lb_jtruth(r, v))
        return lb_jstream_new(r, "generator", list, false);
    bool named = false;
    for (size_t i = 0; i < args->n_kwarg; i++)
        named = named || lb_jtext_equal(args->kwarg[i].name, lb_jtext_puts(r, "attribute"));
    if (args->n == 0 && !named)
        return lb_jinja_fail(r, "map requires a filter argument");
    if (args->n == 0 ? !bind_map(r, args, &getter) : !(f = filter_named(r, args->arg[0])))
        return NOTHING;
    struct lb_jargs rest = without(args, args->n != 0);
    if (!lb_jiter_init(r, &it, v) || !lb_jrun_enter(r))
        return NOTHING;
    while (lb_jiter_next(r, &it, &item))
        lb_jlist_push(r, list, f ? f->fn(r, item, &rest) : lb_jgetter_get(r, &getter, item));
    lb_jrun_leave(r);
    return lb_jstream_new(r, "generator", list, false);
}

static const struct lb_jtest *test_named(struct lb_jrun *r, struct lb_jval name)
{
    const struct lb_jtest *t = NULL;
    if (name.kind == LB_J_STR)
        t = lb_jinja_find_test(name.u.text->data, name.u.text->len);
    if (!t && name.kind == LB_J_STR)
        lb_jinja_fail(r, "No test named '%.*s'.", (int)name.u.text->len, name.u.text->data);
    else if (!t)
        lb_jinja_fail(r, "a test's name must be str, not %s", lb_jtype_name(name));
    return t;
}

static struct lb_jval select_items(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args, bool keep,
                                   bool attribute)
{
    struct lb_jgetter getter = {0};
    struct lb_jiter it;
    struct lb_jval item, list = lb_jlist_new(r, LB_J_LIST, 0);
    if (!lb_jtruth(r, v))
        return lb_jstream_new(r, "generator", list, false);
    if (attribute && args->n == 0)
        return lb_jinja_fail(r, "Missing parameter for attribute name");
    if (attribute && !lb_jgetter_init(r, &getter, args->arg[0], false))
        return NOTHING;
    size_t off = attribute;
    const struct lb_jtest *test = NULL;
    if (args->n > off && !(test = test_named(r, args->arg[off])))
        return NOTHING;
    struct lb_jargs rest = without(args, off + (test != NULL));
    if (!lb_jiter_init(r, &it, v) || !lb_jrun_enter(r))
        return NOTHING;
    while (lb_jiter_next(r, &it, &item)) {
        struct lb_jval x = lb_jgetter_get(r, &getter, item);
        bool yes = !r->failed && (test ? test->fn(r, x, &rest) : lb_jtruth(r, x));
        if (yes == keep && !r->failed)
            lb_jlist_push(r, list, item);
    }
    lb_jrun_leave(r);
    return lb_jstream_new(r, "generator", list, false);
}

FILTER(do_select)
{
    return select_items(r, v, args, true, false);
}

FILTER(do_reject)
{
    return select_items(r, v, args, false, false);
}

FILTER(do_selectattr)
{
    return select_items(r, v, args, true, true);
}

FILTER(do_rejectattr)
{
    return select_items(r, v, args, false, true);
}

/* ---- numbers ---- */

static struct lb_jval too_big(struct lb_jrun *r)
{
    return lb_jinja_fail(r, "an integer leaves 64 bits, which are all that is supported");
}

static struct lb_jval int_of_float(struct lb_jrun *r, double x)
{
    return fabs(x) < 0x1p63 ? lb_jint((int64_t)x) : too_big(r);
}

FILTER(do_int)
{
    struct lb_jval a[2];
    if (!lb_jargs_bind(r, "int", args, "default? base?", a))
        return NOTHING;
    struct lb_jval otherwise = lb_jgiven(a[0]) ? a[0] : lb_jint(0);
    int64_t i, base = lb_jarg_int(r, a[1], 10);
    double x;
    if (v.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, v);
    if (lb_jis_int(v))
        return lb_jint(lb_jint_of(v));
    if (v.kind == LB_J_FLOAT && isinf(v.u.f))
        return lb_jinja_fail(r, "cannot convert float infinity to integer");
    if (v.kind == LB_J_FLOAT)
        return isnan(v.u.f) ? otherwise : int_of_float(r, v.u.f);
    if (v.kind != LB_J_STR)
        return otherwise;
    if (lb_jparse_int(r, v.u.text, base, &i))
        return lb_jint(i);
    if (!r->failed && lb_jparse_float(r, v.u.text, &x))
        return isfinite(x) ? int_of_float(r, x) : otherwise;
    return otherwise;
}

FILTER(do_float)
{
    struct lb_jval otherwise;
    double x;
    if (!lb_jargs_bind(r, "float", args, "default?", &otherwise))
        return NOTHING;
    if (v.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, v);
    if (lb_jis_number(v))
        return lb_jfloat(lb_jdouble_of(v));
    if (v.kind == LB_J_STR && lb_jparse_float(r, v.u.text, &x))
        return lb_jfloat(x);
    return lb_jgiven(otherwise) ? otherwise : lb_jfloat(0);
}

FILTER(do_abs)
{
    if (!lb_jargs_bind(r, "abs", args, "/", NULL))
        return NOTHING;
    if (v.kind == LB_J_FLOAT)
        return lb_jfloat(fabs(v.u.f));
    if (lb_jis_int(v))
        return lb_jint_of(v) < 0 ? lb_jnegative(r, v) : lb_jpositive(r, v);
    if (v.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, v);
    return lb_jinja_fail(r, "bad operand type for abs(): '%s'", lb_jtype_name(v));
}

/* To so many decimals, ties to even where x is exactly between: what printf does with the exact value. */
static double round_float(double x, int64_t places)
{
    char text[700];
    if (!isfinite(x) || places > 323 || x == 0)
        return x;
    if (places < -308)
        return copysign(0.0, x);
    if (places >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)places, x);
        return strtod(text, NULL);
    }
    snprintf(text, sizeof text, "%.17e", fabs(x));
    int64_t digits = atoi(strchr(text, 'e') + 1) + 1 + places;
    if (digits > 0) {
        snprintf(text, sizeof text, "%.*e", (int)digits - 1, x);
        return strtod(text, NULL);
    }
    double unit = pow(10, (double)-places);
    return copysign(digits == 0 && fabs(x) > unit / 2 ? unit : 0.0, x);
}

static struct lb_jval round_int(struct lb_jrun *r, int64_t i, int64_t places)
{
    if (places >= 0)
        return lb_jint(i);
    if (places < -18)
        return lb_jint(0);
    int64_t unit = 1;
    for (; places < 0; places++)
        unit *= 10;
    int64_t down = i % unit < 0 ? i % unit + unit : i % unit, floor = 0;
    if (__builtin_sub_overflow(i, down, &floor))
        return too_big(r);
    bool up = down > unit - down || (down == unit - down && (floor / unit) % 2 != 0);
    return up && __builtin_add_overflow(floor, unit, &floor) ? too_big(r) : lb_jint(floor);
}

FILTER(do_round)
{
    struct lb_jval a[2];
    if (!lb_jargs_bind(r, "round", args, "precision? method?", a))
        return NOTHING;
    int64_t places = lb_jarg_int(r, a[0], 0);
    struct lb_jval method = lb_jgiven(a[1]) ? a[1] : lb_jtext_puts(r, "common");
    bool up = lb_jtext_equal(method, lb_jtext_puts(r, "ceil")),
         down = lb_jtext_equal(method, lb_jtext_puts(r, "floor"));
    if (!up && !down && !lb_jtext_equal(method, lb_jtext_puts(r, "common")))
        return lb_jinja_fail(r, "method must be common, ceil or floor");
    if (v.kind == LB_J_UNDEFINED && (up || down))
        return lb_jinja_fail_undefined(r, v);
    if (!lb_jis_number(v))
        return lb_jinja_fail(r, "type %s doesn't define __round__ method", lb_jtype_name(v));
    if (!up && !down)
        return v.kind == LB_J_FLOAT ? lb_jfloat(round_float(v.u.f, places)) : round_int(r, lb_jint_of(v), places);
    struct lb_jval scale = lb_jbinary(r, LB_JOP_POW, lb_jint(10), lb_jint(places));
    struct lb_jval x = lb_jbinary(r, LB_JOP_MUL, v, scale);
    if (r->failed)
        return NOTHING;
    double whole = up ? ceil(lb_jdouble_of(x)) : floor(lb_jdouble_of(x));
    if (!isfinite(whole))
        return lb_jinja_fail(r, "cannot convert float %s to integer", isnan(whole) ? "NaN" : "infinity");
    return lb_jfloat((whole + 0.0) / lb_jdouble_of(scale));
}

FILTER(do_filesizeformat)
{
    static const char *const decimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    static const char *const binary[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
    struct lb_jval flag;
    double bytes;
    if (!lb_jargs_bind(r, "filesizeformat", args, "binary?", &flag))
        return NOTHING;
    if (lb_jis_number(v))
        bytes = lb_jdouble_of(v);
    else if (v.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, v);
    else if (v.kind != LB_J_STR || !lb_jparse_float(r, v.u.text, &bytes))
        return lb_jinja_fail(r, "could not convert a %s to float", lb_jtype_name(v));
    bool two = lb_jgiven(flag) && lb_jtruth(r, flag);
    double base = two ? 1024 : 1000, unit = base;
    size_t mark = lb_jscratch_begin(r);
    if (bytes == 1)
        lb_str_puts(&r->scratch, "1 Byte");
    else if (bytes < base)
        lb_str_putf(&r->scratch, "%.0f Bytes", trunc(bytes) + 0.0);
    else {
        int i = 0;
        for (unit = base * base; i < 7 && !(bytes < unit); i++)
            unit *= base;
        lb_str_putf(&r->scratch, "%.1f %s", base * bytes / unit, two ? binary[i] : decimal[i]);
    }
    return lb_jscratch_end(r, mark);
}

const struct lb_jfilter lb_jselect_filters[] = {
    {"map", do_map},
    {"select", do_select},
    {"reject", do_reject},
    {"selectattr", do_selectattr},
    {"rejectattr", do_rejectattr},
    {"int", do_int},
    {"float", do_float},
    {"abs", do_abs},
    {"round", do_round},
    {"filesizeformat", do_filesizeformat},
    {NULL, NULL},
};
