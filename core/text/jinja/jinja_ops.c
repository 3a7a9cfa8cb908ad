/* Arithmetic as Python does it. */
#include <math.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

static const char *const op_names[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

static struct lb_jval unsupported(struct lb_jrun *r, enum lb_jop op, struct lb_jval a, struct lb_jval b)
{
    if (a.kind == LB_J_UNDEFINED || b.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, a.kind == LB_J_UNDEFINED ? a : b);
    if (op == LB_JOP_ADD && (a.kind == LB_J_STR || lb_jis_list(a)))
        return lb_jinja_fail(r, "can only concatenate %s (not \"%s\") to %s", lb_jtype_name(a), lb_jtype_name(b),
                             lb_jtype_name(a));
    if (op == LB_JOP_MUL && (a.kind == LB_J_STR || lb_jis_list(a) || b.kind == LB_J_STR || lb_jis_list(b)))
        return lb_jinja_fail(r, "can't multiply sequence by non-int of type '%s'",
                             lb_jtype_name(a.kind == LB_J_STR || lb_jis_list(a) ? b : a));
    return lb_jinja_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", op_names[op], lb_jtype_name(a),
                         lb_jtype_name(b));
}

static struct lb_jval too_big(struct lb_jrun *r)
{
    return lb_jinja_fail(r, "an integer leaves 64 bits, which are all that is supported");
}

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static struct lb_jval int_pow(struct lb_jrun *r, int64_t base, int64_t exponent)
{
    if (exponent < 0) {
        if (base == 0)
            return lb_jinja_fail(r, "0.0 cannot be raised to a negative power");
        return lb_jfloat(pow((double)base, (double)exponent));
    }
    if (base == 0 || base == 1 || base == -1)
        return lb_jint(exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base);
    int64_t result = 1;
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(result, base, &result))
            return too_big(r);
    return lb_jint(result);
}

/* True division of wide integers is rounded once in Python: the wider mantissa keeps both exact. */
static struct lb_jval int_div(struct lb_jrun *r, int64_t a, int64_t b)
{
    if (b == 0)
        return lb_jinja_fail(r, "division by zero");
    return lb_jfloat((double)((long double)a / (long double)b));
}

static struct lb_jval int_op(struct lb_jrun *r, enum lb_jop op, int64_t a, int64_t b)
{
    int64_t c = 0;
    switch (op) {
    case LB_JOP_ADD:
        return __builtin_add_overflow(a, b, &c) ? too_big(r) : lb_jint(c);
    case LB_JOP_SUB:
        return __builtin_sub_overflow(a, b, &c) ? too_big(r) : lb_jint(c);
    case LB_JOP_MUL:
        return __builtin_mul_overflow(a, b, &c) ? too_big(r) : lb_jint(c);
    case LB_JOP_DIV:
        return int_div(r, a, b);
    case LB_JOP_FLOORDIV:
        if (b == 0)
            return lb_jinja_fail(r, "integer division or modulo by zero");
        return a == INT64_MIN && b == -1 ? too_big(r) : lb_jint(floor_div(a, b));
    case LB_JOP_MOD:
        if (b == 0)
            return lb_jinja_fail(r, "integer modulo by zero");
        return lb_jint(b == -1 ? 0 : a - floor_div(a, b) * b);
    case LB_JOP_POW:
        return int_pow(r, a, b);
    }
    return lb_jint(0);
}

static double float_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m == 0)
        return copysign(0.0, b);
    return (b < 0) != (m < 0) ? m + b : m;
}

static double float_floordiv(double a, double b)
{
    double m = fmod(a, b), q = (a - m) / b;
    if (m != 0 && (b < 0) != (m < 0))
        q -= 1.0;
    if (q == 0)
        return copysign(0.0, a / b);
    double whole = floor(q);
    return q - whole > 0.5 ? whole + 1.0 : whole;
}

static struct lb_jval float_pow(struct lb_jrun *r, double a, double b)
{
    if (a == 0 && b < 0)
        return lb_jinja_fail(r, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && floor(b) != b)
        return lb_jinja_fail(r, "complex numbers are not supported");
    double p = pow(a, b);
    if (isinf(p) && isfinite(a) && isfinite(b))
        return lb_jinja_fail(r, "(34, 'Numerical result out of range')");
    return lb_jfloat(p);
}

static struct lb_jval float_op(struct lb_jrun *r, enum lb_jop op, double a, double b)
{
    switch (op) {
    case LB_JOP_ADD:
        return lb_jfloat(a + b);
    case LB_JOP_SUB:
        return lb_jfloat(a - b);
    case LB_JOP_MUL:
        return lb_jfloat(a * b);
    case LB_JOP_DIV:
        return b == 0 ? lb_jinja_fail(r, "float division by zero") : lb_jfloat(a / b);
    case LB_JOP_FLOORDIV:
        return b == 0 ? lb_jinja_fail(r, "float floor division by zero") : lb_jfloat(float_floordiv(a, b));
    case LB_JOP_MOD:
        return b == 0 ? lb_jinja_fail(r, "float modulo by zero") : lb_jfloat(float_mod(a, b));
    case LB_JOP_POW:
        return float_pow(r, a, b);
    }
    return lb_jfloat(0);
}

static struct lb_jval repeat(struct lb_jrun *r, struct lb_jval v, int64_t times)
{
    if (times < 0)
        times = 0;
    uint64_t size = v.kind == LB_J_STR ? v.u.text->len : v.u.list->n * sizeof(struct lb_jval), total;
    if (__builtin_mul_overflow(size, (uint64_t)times, &total))
        total = UINT64_MAX;
    if (!lb_jroom(r, total))
        return lb_jnone();
    if (v.kind == LB_J_STR) {
        char *data = lb_jrun_alloc(r, (size_t)total + 1);
        for (size_t at = 0, n = size; data && at < total; at += n, n = at < total - at ? at : total - at)
            memcpy(data + at, at == 0 ? v.u.text->data : data, n); /* what is there doubles */
        struct lb_jval text = data ? lb_jtext_lend(r, data, (size_t)total) : lb_jnone();
        if (text.kind == LB_J_STR)
            text.u.text->safe = v.u.text->safe;
        return text;
    }
    size_t n = v.u.list->n;
    struct lb_jval list = lb_jlist_new(r, (enum lb_jkind)v.kind, n * (n ? (size_t)times : 0));
    for (int64_t t = 0; n && t < times && !r->failed; t++)
        for (size_t i = 0; i < n; i++)
            lb_jlist_push(r, list, v.u.list->item[i]);
    return list;
}

static struct lb_jval concatenate(struct lb_jrun *r, struct lb_jval a, struct lb_jval b)
{
    if (a.kind == LB_J_STR) {
        bool safe = a.u.text->safe || b.u.text->safe;
        if (safe) { /* Markup escapes what it is not sure of */
            a = lb_jescape(r, a);
            b = lb_jescape(r, b);
        }
        if (r->failed || !lb_jroom(r, (uint64_t)a.u.text->len + b.u.text->len))
            return lb_jnone();
        size_t n = a.u.text->len, m = b.u.text->len;
        char *data = lb_jrun_alloc(r, n + m + 1);
        if (!data)
            return lb_jnone();
        if (n)
            memcpy(data, a.u.text->data, n);
        if (m)
            memcpy(data + n, b.u.text->data, m);
        struct lb_jval text = lb_jtext_lend(r, data, n + m);
        if (text.kind == LB_J_STR)
            text.u.text->safe = safe;
        return text;
    }
    size_t n = a.u.list->n, m = b.u.list->n;
    if (!lb_jroom(r, (uint64_t)(n + m) * sizeof(struct lb_jval)))
        return lb_jnone();
    struct lb_jval list = lb_jlist_new(r, (enum lb_jkind)a.kind, n + m);
    for (size_t i = 0; i < n + m; i++)
        lb_jlist_push(r, list, i < n ? a.u.list->item[i] : b.u.list->item[i - n]);
    return list;
}

static bool repeatable(struct lb_jval v)
{
    return v.kind == LB_J_STR || lb_jis_list(v);
}

struct lb_jval lb_jbinary(struct lb_jrun *r, enum lb_jop op, struct lb_jval a, struct lb_jval b)
{
    if (r->failed)
        return lb_jnone();
    if (lb_jis_int(a) && lb_jis_int(b))
        return int_op(r, op, lb_jint_of(a), lb_jint_of(b));
    if (lb_jis_number(a) && lb_jis_number(b))
        return float_op(r, op, lb_jdouble_of(a), lb_jdouble_of(b));
    if (op == LB_JOP_ADD && a.kind == b.kind && repeatable(a))
        return concatenate(r, a, b);
    if (op == LB_JOP_MUL && repeatable(a) && lb_jis_int(b))
        return repeat(r, a, lb_jint_of(b));
    if (op == LB_JOP_MUL && lb_jis_int(a) && repeatable(b))
        return repeat(r, b, lb_jint_of(a));
    if (op == LB_JOP_MOD && a.kind == LB_J_STR)
        return lb_jpercent(r, a, b);
    return unsupported(r, op, a, b);
}

struct lb_jval lb_jnegative(struct lb_jrun *r, struct lb_jval v)
{
    if (v.kind == LB_J_FLOAT)
        return lb_jfloat(-v.u.f);
    if (lb_jis_int(v))
        return int_op(r, LB_JOP_SUB, 0, lb_jint_of(v));
    if (v.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, v);
    return lb_jinja_fail(r, "bad operand type for unary -: '%s'", lb_jtype_name(v));
}

struct lb_jval lb_jpositive(struct lb_jrun *r, struct lb_jval v)
{
    if (lb_jis_number(v))
        return lb_jis_int(v) ? lb_jint(lb_jint_of(v)) : v;
    if (v.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, v);
    return lb_jinja_fail(r, "bad operand type for unary +: '%s'", lb_jtype_name(v));
}
