/* x.name, x[key], x[a:b:c], calls and arguments. */
#include <stdio.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

/* ---- what is missing ---- */

static const char *owner_name(struct lb_jrun *r, struct lb_jval x)
{
    if (x.kind == LB_J_NONE)
        return "None";
    if (x.kind == LB_J_DICT)
        return "dict object";
    if (x.kind == LB_J_STR)
        return "str object";
    char *text = lb_jrun_alloc(r, 64);
    if (text)
        snprintf(text, 64, "%s object", lb_jtype_name(x));
    return text;
}

static struct lb_jval lacks(struct lb_jrun *r, struct lb_jval x, struct lb_jval key)
{
    struct lb_jundef *u = lb_jrun_alloc(r, sizeof *u);
    if (u) {
        u->owner = owner_name(r, x);
        u->name = key;
    }
    return (struct lb_jval){.kind = LB_J_UNDEFINED, .u.undef = u};
}

static struct lb_jval unsafe(struct lb_jrun *r, struct lb_jval x, const char *name, size_t n)
{
    struct lb_jundef *u = lb_jrun_alloc(r, sizeof *u);
    char *hint = lb_jrun_alloc(r, n + 80);
    if (u && hint) {
        snprintf(hint, n + 80, "access to attribute '%.*s' of '%s' object is unsafe.", (int)n, name, lb_jtype_name(x));
        u->hint = hint;
    }
    return (struct lb_jval){.kind = LB_J_UNDEFINED, .u.undef = u};
}

/* ---- attributes ---- */

static bool one_of(const char *names, const char *name, size_t n)
{
    for (const char *at = names; *at; at += strlen(at) + 1)
        if (strlen(at) == n && memcmp(at, name, n) == 0)
            return true;
    return false;
}

/* Attributes that every Python object has, or that the sandbox's own list forbids: there, and not to be touched. */
static bool is_hidden(struct lb_jval x, const char *name, size_t n)
{
    if (n > 4 && name[0] == '_' && name[1] == '_')
        return one_of("__class__\0__init__\0__doc__\0__dict__\0__getattribute__\0__len__\0__iter__\0__eq__\0__hash__\0"
                      "__repr__\0__str__\0__new__\0__reduce__\0__setattr__\0__subclasshook__\0__dir__\0__ne__\0"
                      "__format__\0__contains__\0__getitem__\0__delattr__\0__sizeof__\0__init_subclass__\0"
                      "__call__\0__globals__\0__code__\0__module__\0__name__\0__self__\0__add__\0__mul__\0",
                      name, n);
    if (x.kind == LB_J_DICT)
        return one_of("clear\0pop\0popitem\0setdefault\0update\0", name, n);
    if (x.kind == LB_J_LIST)
        return one_of("append\0clear\0pop\0reverse\0insert\0sort\0extend\0remove\0", name, n);
    return false;
}

/* Nearly every x.name asks a message for its own key: one look at the first letter and the length tells that no
 * attribute of dicts (clear copy fromkeys get items keys pop popitem setdefault update values) is meant. */
static bool no_dict_attribute(const char *name, size_t n)
{
    switch (n ? name[0] : 0) {
    case '_':
        return false;
    case 'c':
        return n != 4 && n != 5;
    case 'f':
        return n != 8;
    case 'g':
        return n != 3;
    case 'i':
        return n != 5;
    case 'k':
        return n != 4;
    case 'p':
        return n != 3 && n != 7;
    case 's':
        return n != 10;
    case 'u':
    case 'v':
        return n != 6;
    default:
        return true;
    }
}

/* False: x has no such attribute. */
static bool attribute(struct lb_jrun *r, struct lb_jval x, const char *name, size_t n, struct lb_jval *out)
{
    if (x.kind == LB_J_DICT && no_dict_attribute(name, n))
        return false;
    if (x.kind == LB_J_OBJECT)
        return x.u.object->get && x.u.object->get(r, x.u.object, name, n, out);
    if (x.kind == LB_J_NAMESPACE) {
        struct lb_jtext t = {.data = name, .len = n, .n_char = -1};
        return lb_jdict_get(r, x, (struct lb_jval){.kind = LB_J_STR, .u.text = &t}, out);
    }
    if (x.kind == LB_J_TUPLE && x.u.list->group && (one_of("grouper\0", name, n) || one_of("list\0", name, n))) {
        *out = x.u.list->item[name[0] == 'l'];
        return true;
    }
    if (is_hidden(x, name, n)) {
        *out = unsafe(r, x, name, n);
        return true;
    }
    if (lb_jis_number(x) && ((n == 4 && memcmp(name, "real", 4) == 0) || (n == 4 && memcmp(name, "imag", 4) == 0))) {
        *out = name[0] == 'r' ? lb_jpositive(r, x) : x.kind == LB_J_FLOAT ? lb_jfloat(0) : lb_jint(0);
        return true;
    }
    const struct lb_jmethod *m = lb_jfind_method(x, name, n);
    if (m)
        *out = lb_jfunction(r, m->name, m->fn, x, NULL);
    return m != NULL;
}

struct lb_jval lb_jgetattr(struct lb_jrun *r, struct lb_jval x, const char *name, size_t n)
{
    struct lb_jval out = {.kind = LB_J_UNDEFINED};
    if (r->failed)
        return out;
    if (x.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, x);
    if (attribute(r, x, name, n, &out) || r->failed)
        return out;
    if (x.kind == LB_J_DICT) {
        struct lb_jtext t = {.data = name, .len = n, .n_char = -1};
        if (lb_jdict_get(r, x, (struct lb_jval){.kind = LB_J_STR, .u.text = &t}, &out))
            return out;
    }
    return lacks(r, x, lb_jtext_copy(r, name, n));
}

/* ---- items ---- */

static bool at_index(int64_t *i, int64_t n)
{
    if (*i < 0)
        *i += n;
    return *i >= 0 && *i < n;
}

static bool item(struct lb_jrun *r, struct lb_jval x, struct lb_jval key, struct lb_jval *out)
{
    if (x.kind == LB_J_DICT)
        return key.kind != LB_J_LIST && key.kind != LB_J_DICT && lb_jdict_get(r, x, key, out);
    if (!lb_jis_int(key))
        return false;
    int64_t i = lb_jint_of(key);
    switch ((enum lb_jkind)x.kind) {
    case LB_J_LIST:
    case LB_J_TUPLE:
        if (!at_index(&i, (int64_t)x.u.list->n))
            return false;
        *out = x.u.list->item[i];
        return true;
    case LB_J_STR: {
        if (!at_index(&i, lb_jtext_chars(x.u.text)) || !lb_jrun_spend(r, x.u.text->len / 32))
            return false;
        size_t from = lb_jtext_offset(x.u.text, i);
        int bytes;
        lb_utf8_decode(x.u.text->data + from, x.u.text->len - from, &bytes);
        *out = lb_jtext_part(r, x.u.text, from, (size_t)bytes);
        return true;
    }
    case LB_J_RANGE:
        if (!at_index(&i, lb_jlen(r, x)))
            return false;
        *out = lb_jint(x.u.range->start + i * x.u.range->step);
        return true;
    default:
        return false;
    }
}

struct lb_jval lb_jgetitem(struct lb_jrun *r, struct lb_jval x, struct lb_jval key)
{
    struct lb_jval out = {.kind = LB_J_UNDEFINED};
    if (r->failed)
        return out;
    if (x.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, x);
    if (item(r, x, key, &out) || r->failed)
        return out;
    if (key.kind == LB_J_STR && (attribute(r, x, key.u.text->data, key.u.text->len, &out) || r->failed))
        return out;
    return lacks(r, x, key);
}

/* ---- slices ---- */

/* Python's rules for indices of a slice over n items; how many items it has. */
struct bounds {
    int64_t from, to, step, n;
};

static bool slice_index(struct lb_jrun *r, struct lb_jval v, int64_t *i)
{
    if (lb_jis_int(v)) {
        *i = lb_jint_of(v);
        return true;
    }
    if (v.kind != LB_J_NONE)
        lb_jinja_fail(r, "slice indices must be integers or None or have an __index__ method");
    return false;
}

static int64_t clamp(int64_t i, int64_t n, bool down)
{
    if (i < 0)
        i = i < -n ? (down ? -1 : 0) : i + n;
    else if (i >= n)
        i = down ? n - 1 : n;
    return i;
}

static struct bounds find_bounds(struct lb_jrun *r, int64_t n, const struct lb_jval at[3])
{
    struct bounds b = {.step = 1};
    if (slice_index(r, at[2], &b.step) && b.step == 0)
        lb_jinja_fail(r, "slice step cannot be zero");
    if (b.step < -INT64_MAX)
        b.step = -INT64_MAX;
    bool down = b.step < 0;
    b.from = slice_index(r, at[0], &b.from) ? clamp(b.from, n, down) : down ? n - 1 : 0;
    b.to = slice_index(r, at[1], &b.to) ? clamp(b.to, n, down) : down ? -1 : n;
    if (r->failed)
        return (struct bounds){.step = 1};
    if (!down && b.to > b.from)
        b.n = (b.to - b.from - 1) / b.step + 1;
    else if (down && b.from > b.to)
        b.n = (b.from - b.to - 1) / -b.step + 1;
    return b;
}

static struct lb_jval slice_text(struct lb_jrun *r, struct lb_jval x, struct bounds b)
{
    struct lb_jtext *t = x.u.text;
    if (b.n == 0)
        return lb_jtext_part(r, t, 0, 0);
    if (b.step == 1) {
        size_t from = lb_jtext_offset(t, b.from);
        return lb_jtext_part(r, t, from, lb_jtext_offset(t, b.to) - from);
    }
    int64_t n_char = lb_jtext_chars(t);
    uint32_t *start = lb_jrun_alloc(r, (size_t)(n_char + 1) * sizeof *start);
    if (!start || t->len > UINT32_MAX)
        return lb_jnone();
    for (size_t i = 0, c = 0; i < t->len; i++)
        if (((unsigned char)t->data[i] & 0xc0) != 0x80)
            start[c++] = (uint32_t)i;
    start[n_char] = (uint32_t)t->len;
    size_t mark = lb_jscratch_begin(r);
    for (int64_t i = 0, c = b.from; i < b.n; i++, c += b.step)
        lb_str_put(&r->scratch, t->data + start[c], start[c + 1] - start[c]);
    struct lb_jval out = lb_jscratch_end(r, mark);
    if (out.kind == LB_J_STR)
        out.u.text->safe = t->safe;
    return out;
}

struct lb_jval lb_jslice(struct lb_jrun *r, struct lb_jval x, struct lb_jval from, struct lb_jval to,
                         struct lb_jval step)
{
    if (r->failed)
        return lb_jnone();
    if (x.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, x);
    if (x.kind == LB_J_DICT)
        return lb_jinja_fail(r, "unhashable type: 'slice'");
    if (x.kind != LB_J_STR && !lb_jis_list(x) && x.kind != LB_J_RANGE)
        return lb_jinja_fail(r, "'%s' object is not subscriptable", lb_jtype_name(x));
    struct bounds b = find_bounds(r, lb_jlen(r, x), (struct lb_jval[3]){from, to, step});
    if (r->failed || !lb_jroom(r, x.kind == LB_J_STR ? x.u.text->len : (uint64_t)b.n * sizeof x))
        return lb_jnone();
    if (x.kind == LB_J_STR)
        return slice_text(r, x, b);
    if (x.kind == LB_J_RANGE) {
        struct lb_jrange *part = lb_jrun_alloc(r, sizeof *part);
        if (!part)
            return lb_jnone();
        const struct lb_jrange *whole = x.u.range;
        *part = (struct lb_jrange){whole->start + b.from * whole->step, whole->start + b.to * whole->step,
                                   whole->step * b.step};
        return (struct lb_jval){.kind = LB_J_RANGE, .u.range = part};
    }
    struct lb_jval list = lb_jlist_new(r, (enum lb_jkind)x.kind, (size_t)b.n);
    for (int64_t i = 0, at = b.from; i < b.n; i++, at += b.step)
        lb_jlist_push(r, list, x.u.list->item[at]);
    return list;
}

/* ---- calls ---- */

struct lb_jval lb_jcall_value(struct lb_jrun *r, struct lb_jval callee, const struct lb_jargs *args)
{
    struct lb_jval out = {.kind = LB_J_UNDEFINED};
    if (r->failed)
        return out;
    if (callee.kind == LB_J_UNDEFINED)
        return lb_jinja_fail_undefined(r, callee);
    bool object = callee.kind == LB_J_OBJECT && callee.u.object->call;
    if (callee.kind != LB_J_CALL && !object)
        return lb_jinja_fail(r, "'%s' object is not callable", lb_jtype_name(callee));
    if (lb_jrun_enter(r))
        out = object ? callee.u.object->call(r, callee, args) : callee.u.call->fn(r, callee.u.call->self, args);
    lb_jrun_leave(r);
    return out;
}

/* One word of a binding's description; moves past it. */
static const char *next_word(const char **spec, size_t *n, bool *optional)
{
    while (**spec == ' ')
        ++*spec;
    const char *word = *spec;
    *n = strcspn(word, " ?");
    *optional = word[*n] == '?';
    *spec = word + *n + *optional;
    return word;
}

static int find_word(const char *spec, const struct lb_jtext *name)
{
    size_t n;
    bool optional;
    for (int i = 0; *spec; i++) {
        const char *word = next_word(&spec, &n, &optional);
        if (n == name->len && memcmp(word, name->data, n) == 0)
            return i;
    }
    return -1;
}

bool lb_jargs_bind(struct lb_jrun *r, const char *fn, const struct lb_jargs *args, const char *spec,
                   struct lb_jval *out)
{
    bool nameless = spec[0] == '/', optional;
    if (nameless) {
        spec++;
        if (args->n_kwarg)
            lb_jinja_fail(r, "%s() takes no keyword arguments", fn);
    }
    size_t n_word = 0, n;
    for (const char *at = spec; *at; n_word++) {
        next_word(&at, &n, &optional);
        out[n_word] = n_word < args->n ? args->arg[n_word] : lb_jabsent();
    }
    if (args->n > n_word)
        lb_jinja_fail(r, "%s() takes at most %zu argument%s (%zu given)", fn, n_word, n_word == 1 ? "" : "s", args->n);
    for (size_t i = 0; i < args->n_kwarg && !r->failed; i++) {
        const struct lb_jtext *name = args->kwarg[i].name.u.text;
        int at = find_word(spec, name);
        if (at < 0)
            lb_jinja_fail(r, "%s() got an unexpected keyword argument '%.*s'", fn, (int)name->len, name->data);
        else if (lb_jgiven(out[at]))
            lb_jinja_fail(r, "%s() got multiple values for argument '%.*s'", fn, (int)name->len, name->data);
        else
            out[at] = args->kwarg[i].value;
    }
    const char *at = spec;
    for (size_t i = 0; i < n_word && !r->failed; i++) {
        const char *word = next_word(&at, &n, &optional);
        if (!optional && !lb_jgiven(out[i]))
            lb_jinja_fail(r, "%s() missing required argument: '%.*s'", fn, (int)n, word);
    }
    return !r->failed;
}

int64_t lb_jarg_int(struct lb_jrun *r, struct lb_jval v, int64_t when_absent)
{
    if (!lb_jgiven(v))
        return when_absent;
    if (lb_jis_int(v))
        return lb_jint_of(v);
    if (v.kind == LB_J_UNDEFINED)
        lb_jinja_fail_undefined(r, v);
    else
        lb_jinja_fail(r, "'%s' object cannot be interpreted as an integer", lb_jtype_name(v));
    return when_absent;
}

const struct lb_jtext *lb_jarg_text(struct lb_jrun *r, const char *fn, struct lb_jval v)
{
    static const struct lb_jtext nothing = {.data = ""};
    if (v.kind == LB_J_STR)
        return v.u.text;
    lb_jinja_fail(r, "%s() argument must be str, not %s", fn, lb_jtype_name(v));
    return &nothing;
}
