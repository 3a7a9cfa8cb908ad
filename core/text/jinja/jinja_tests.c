/* Jinja2's tests ("x is defined"). */
#include <string.h>

#include "core/text/jinja/jinja_help.h"

#define TEST(fn) static bool fn(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)

static bool none(struct lb_jrun *r, const struct lb_jargs *args)
{
    return lb_jargs_bind(r, "test", args, "", NULL);
}

TEST(is_defined)
{
    return none(r, args) && v.kind != LB_J_UNDEFINED;
}

TEST(is_undefined)
{
    return none(r, args) && v.kind == LB_J_UNDEFINED;
}

TEST(is_none)
{
    return none(r, args) && v.kind == LB_J_NONE;
}

TEST(is_boolean)
{
    return none(r, args) && v.kind == LB_J_BOOL;
}

TEST(is_true)
{
    return none(r, args) && v.kind == LB_J_BOOL && v.u.b;
}

TEST(is_false)
{
    return none(r, args) && v.kind == LB_J_BOOL && !v.u.b;
}

TEST(is_integer)
{
    return none(r, args) && v.kind == LB_J_INT;
}

TEST(is_float)
{
    return none(r, args) && v.kind == LB_J_FLOAT;
}

TEST(is_number)
{
    return none(r, args) && lb_jis_number(v);
}

TEST(is_string)
{
    return none(r, args) && v.kind == LB_J_STR;
}

TEST(is_mapping)
{
    return none(r, args) && v.kind == LB_J_DICT;
}

/* What has a length and items by number or key; of undefined values both can be asked. */
TEST(is_sequence)
{
    return none(r, args) && (v.kind == LB_J_STR || lb_jis_list(v) || v.kind == LB_J_DICT || v.kind == LB_J_RANGE ||
                             v.kind == LB_J_UNDEFINED);
}

TEST(is_iterable)
{
    bool loop = v.kind == LB_J_OBJECT && strcmp(v.u.object->type_name, "LoopContext") == 0;
    return none(r, args) && (v.kind == LB_J_STR || lb_jis_list(v) || v.kind == LB_J_DICT || v.kind == LB_J_RANGE ||
                             v.kind == LB_J_UNDEFINED || v.kind == LB_J_STREAM || loop);
}

TEST(is_callable)
{
    return none(r, args) &&
           (v.kind == LB_J_CALL || v.kind == LB_J_UNDEFINED || (v.kind == LB_J_OBJECT && v.u.object->call));
}

TEST(is_escaped)
{
    return none(r, args) && v.kind == LB_J_STR && v.u.text->safe;
}

/* Small integers and texts that Python interns are one object; what is one object here is told by value for numbers and
 * by place for the rest. */
TEST(is_sameas)
{
    struct lb_jval other;
    if (!lb_jargs_bind(r, "sameas", args, "other", &other) || v.kind != other.kind)
        return false;
    switch ((enum lb_jkind)v.kind) {
    case LB_J_NONE:
        return true;
    case LB_J_BOOL:
    case LB_J_INT:
    case LB_J_FLOAT:
    case LB_J_STR:
        return lb_jequal(r, v, other);
    default:
        return v.u.list == other.u.list;
    }
}

static bool remainder_is(struct lb_jrun *r, struct lb_jval v, struct lb_jval by, int64_t what)
{
    struct lb_jval rest = lb_jbinary(r, LB_JOP_MOD, v, by);
    return !r->failed && lb_jequal(r, rest, lb_jint(what));
}

TEST(is_odd)
{
    return none(r, args) && remainder_is(r, v, lb_jint(2), 1);
}

TEST(is_even)
{
    return none(r, args) && remainder_is(r, v, lb_jint(2), 0);
}

TEST(is_divisibleby)
{
    struct lb_jval by;
    return lb_jargs_bind(r, "divisibleby", args, "num", &by) && remainder_is(r, v, by, 0);
}

static bool cased(struct lb_jrun *r, struct lb_jval v, char what)
{
    v = lb_jstr(r, v);
    return !r->failed && lb_jscan(r, v.u.text->len) && lb_jstr_is(v.u.text, what);
}

TEST(is_lower)
{
    return none(r, args) && cased(r, v, 'l');
}

TEST(is_upper)
{
    return none(r, args) && cased(r, v, 'u');
}

TEST(is_in)
{
    struct lb_jval seq;
    return lb_jargs_bind(r, "in", args, "seq", &seq) && lb_jcontains(r, seq, v);
}

/* What the value is compared to; the message as operator.eq has it. */
static bool compared(struct lb_jrun *r, const char *name, const struct lb_jargs *args, struct lb_jval *other)
{
    if (args->n_kwarg)
        lb_jinja_fail(r, "%s() takes no keyword arguments", name);
    else if (args->n != 1)
        lb_jinja_fail(r, "%s expected 2 arguments, got %zu", name, args->n + 1);
    else
        *other = args->arg[0];
    return !r->failed;
}

TEST(is_eq)
{
    struct lb_jval other;
    return compared(r, "eq", args, &other) && lb_jequal(r, v, other);
}

TEST(is_ne)
{
    struct lb_jval other;
    return compared(r, "ne", args, &other) && !lb_jequal(r, v, other);
}

static int order(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args, const char *op)
{
    struct lb_jval other;
    const char *name = op[0] == '<' ? (op[1] ? "le" : "lt") : op[1] ? "ge" : "gt";
    return compared(r, name, args, &other) ? lb_jcompare(r, v, other, op) : 2;
}

TEST(is_lt)
{
    return order(r, v, args, "<") == -1;
}

TEST(is_le)
{
    int c = order(r, v, args, "<=");
    return c == -1 || c == 0;
}

TEST(is_gt)
{
    return order(r, v, args, ">") == 1;
}

TEST(is_ge)
{
    int c = order(r, v, args, ">=");
    return c == 1 || c == 0;
}

/* Names are looked up in a dict: what cannot be a key fails. */
static bool is_name(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
{
    struct lb_jval found, names = lb_jdict_new(r, LB_J_DICT);
    return none(r, args) && !lb_jdict_get(r, names, v, &found) && !r->failed && v.kind == LB_J_STR;
}

TEST(is_filter)
{
    return is_name(r, v, args) && lb_jinja_find_filter(v.u.text->data, v.u.text->len);
}

TEST(is_test)
{
    return is_name(r, v, args) && lb_jinja_find_test(v.u.text->data, v.u.text->len);
}

static const struct lb_jtest tests[] = {
    {"defined", is_defined},
    {"undefined", is_undefined},
    {"none", is_none},
    {"string", is_string},
    {"mapping", is_mapping},
    {"iterable", is_iterable},
    {"sequence", is_sequence},
    {"boolean", is_boolean},
    {"true", is_true},
    {"false", is_false},
    {"number", is_number},
    {"integer", is_integer},
    {"float", is_float},
    {"callable", is_callable},
    {"sameas", is_sameas},
    {"escaped", is_escaped},
    {"in", is_in},
    {"odd", is_odd},
    {"even", is_even},
    {"divisibleby", is_divisibleby},
    {"lower", is_lower},
    {"upper", is_upper},
    {"equalto", is_eq},
    {"eq", is_eq},
    {"==", is_eq},
    {"ne", is_ne},
    {"!=", is_ne},
    {"lessthan", is_lt},
    {"lt", is_lt},
    {"<", is_lt},
    {"le", is_le},
    {"<=", is_le},
    {"greaterthan", is_gt},
    {"gt", is_gt},
    {">", is_gt},
    {"ge", is_ge},
    {">=", is_ge},
    {"filter", is_filter},
    {"test", is_test},
};

const struct lb_jtest *lb_jinja_find_test(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (strlen(tests[i].name) == n && memcmp(tests[i].name, name, n) == 0)
            return &tests[i];
    return NULL;
}
