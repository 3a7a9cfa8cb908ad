/* Equality, order and membership. */
#include <math.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

static int sign_of(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int compare_int_float(int64_t i, double f)
{
    if (isnan(f))
        return 2;
    if (f >= 0x1p63)
        return -1;
    if (f < -0x1p63)
        return 1;
    int64_t whole = (int64_t)f;
    double rest = f - (double)whole;
    return i != whole ? sign_of(i, whole) : (rest < 0) - (rest > 0);
}

int lb_jcompare_numbers(struct lb_jval a, struct lb_jval b)
{
    if (lb_jis_int(a) && lb_jis_int(b))
        return sign_of(lb_jint_of(a), lb_jint_of(b));
    if (lb_jis_int(a))
        return compare_int_float(lb_jint_of(a), b.u.f);
    if (lb_jis_int(b)) {
        int c = compare_int_float(lb_jint_of(b), a.u.f);
        return c == 2 ? 2 : -c;
    }
    if (isnan(a.u.f) || isnan(b.u.f))
        return 2;
    return (a.u.f > b.u.f) - (a.u.f < b.u.f);
}

/* What Python's `is` says where it can be told: containers take an item for equal to itself, NaN too. */
static bool same_object(struct lb_jval a, struct lb_jval b)
{
    if (a.kind != b.kind)
        return false;
    switch ((enum lb_jkind)a.kind) {
    case LB_J_UNDEFINED:
    case LB_J_NONE:
    case LB_J_ABSENT:
        return true;
    case LB_J_BOOL:
        return a.u.b == b.u.b;
    case LB_J_INT:
        return a.u.i == b.u.i;
    case LB_J_FLOAT:
        return false;
    default:
        return a.u.text == b.u.text;
    }
}

static bool equal_lists(struct lb_jrun *r, struct lb_jval a, struct lb_jval b)
{
    bool same = a.kind == b.kind && a.u.list->n == b.u.list->n;
    for (size_t i = 0; same && i < a.u.list->n; i++)
        same = lb_jequal(r, a.u.list->item[i], b.u.list->item[i]);
    return same;
}

static bool equal_dicts(struct lb_jrun *r, struct lb_jval a, struct lb_jval b)
{
    bool same = a.kind == b.kind && a.u.dict->n == b.u.dict->n;
    for (size_t i = 0; same && i < a.u.dict->n; i++) {
        struct lb_jval other;
        same = lb_jdict_get(r, b, a.u.dict->pair[i].key, &other) && lb_jequal(r, a.u.dict->pair[i].value, other);
    }
    return same;
}

static bool equal_ranges(struct lb_jrun *r, struct lb_jval a, struct lb_jval b)
{
    int64_t n = lb_jlen(r, a);
    if (n != lb_jlen(r, b))
        return false;
    return n == 0 || (a.u.range->start == b.u.range->start && (n == 1 || a.u.range->step == b.u.range->step));
}

bool lb_jequal(struct lb_jrun *r, struct lb_jval a, struct lb_jval b)
{
    if (lb_jis_number(a) && lb_jis_number(b))
        return lb_jcompare_numbers(a, b) == 0;
    if (a.kind != b.kind)
        return false;
    if (a.kind == LB_J_STR) /* long texts take their time */
        return (a.u.text->len < 1024 || lb_jrun_spend(r, a.u.text->len / 1024)) && lb_jtext_equal(a, b);
    if (same_object(a, b))
        return true;
    if (!lb_jrun_spend(r, 1))
        return false;
    bool same = false;
    if (lb_jrun_enter(r)) {
        if (lb_jis_list(a))
            same = equal_lists(r, a, b);
        else if (a.kind == LB_J_DICT)
            same = equal_dicts(r, a, b);
        else if (a.kind == LB_J_RANGE)
            same = equal_ranges(r, a, b);
    }
    lb_jrun_leave(r);
    return same && !r->failed;
}

static int unordered(struct lb_jrun *r, struct lb_jval a, struct lb_jval b, const char *op)
{
    if (a.kind == LB_J_UNDEFINED || b.kind == LB_J_UNDEFINED)
        lb_jinja_fail_undefined(r, a.kind == LB_J_UNDEFINED ? a : b);
    else
        lb_jinja_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, lb_jtype_name(a),
                      lb_jtype_name(b));
    return 2;
}

static int compare_lists(struct lb_jrun *r, struct lb_jval a, struct lb_jval b, const char *op)
{
    for (size_t i = 0; i < a.u.list->n && i < b.u.list->n && lb_jrun_spend(r, 1); i++) {
        struct lb_jval x = a.u.list->item[i], y = b.u.list->item[i];
        if (!lb_jequal(r, x, y))
            return r->failed ? 2 : lb_jcompare(r, x, y, op);
    }
    return sign_of((int64_t)a.u.list->n, (int64_t)b.u.list->n);
}

/* Code points order as UTF-8's bytes do. */
int lb_jcompare(struct lb_jrun *r, struct lb_jval a, struct lb_jval b, const char *op)
{
    if (r->failed)
        return 2;
    if (lb_jis_number(a) && lb_jis_number(b))
        return lb_jcompare_numbers(a, b);
    if (a.kind == LB_J_STR && b.kind == LB_J_STR) {
        size_t n = a.u.text->len < b.u.text->len ? a.u.text->len : b.u.text->len;
        if (n >= 1024 && !lb_jrun_spend(r, n / 1024))
            return 2;
        int c = n ? memcmp(a.u.text->data, b.u.text->data, n) : 0;
        return c ? (c > 0) - (c < 0) : sign_of((int64_t)a.u.text->len, (int64_t)b.u.text->len);
    }
    if (!lb_jis_list(a) || a.kind != b.kind)
        return unordered(r, a, b, op);
    int c = 2;
    if (lb_jrun_enter(r))
        c = compare_lists(r, a, b, op);
    lb_jrun_leave(r);
    return r->failed ? 2 : c;
}

static bool text_contains(struct lb_jrun *r, struct lb_jval container, struct lb_jval item)
{
    if (item.kind != LB_J_STR) {
        lb_jinja_fail(r, "'in <string>' requires string as left operand, not %s", lb_jtype_name(item));
        return false;
    }
    const struct lb_jtext *t = container.u.text, *x = item.u.text;
    return lb_jscan(r, t->len) && lb_jfind_bytes(t->data, t->len, x->data, x->len) < t->len + 1;
}

bool lb_jcontains(struct lb_jrun *r, struct lb_jval container, struct lb_jval item)
{
    struct lb_jval other;
    if (container.kind == LB_J_STR)
        return text_contains(r, container, item);
    if (container.kind == LB_J_DICT)
        return lb_jdict_get(r, container, item, &other);
    struct lb_jiter it;
    if (container.kind == LB_J_NAMESPACE || container.kind == LB_J_NONE || container.kind == LB_J_OBJECT ||
        container.kind == LB_J_CALL || lb_jis_number(container)) {
        lb_jinja_fail(r, "argument of type '%s' is not iterable", lb_jtype_name(container));
        return false;
    }
    if (!lb_jiter_init(r, &it, container))
        return false;
    while (lb_jiter_next(r, &it, &other))
        if (lb_jequal(r, other, item))
            return true;
    return false;
}
