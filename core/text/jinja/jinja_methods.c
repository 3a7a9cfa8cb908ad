/* The methods of str, dict, list, tuple, int and float, as the sandbox lets templates call them. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

#define METHOD(fn) static struct lb_jval fn(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args)
#define NOTHING ((struct lb_jval){.kind = LB_J_UNDEFINED})

/* ---- case and classes ---- */

static bool no_arguments(struct lb_jrun *r, const char *name, const struct lb_jargs *args)
{
    if (args->n_kwarg)
        lb_jinja_fail(r, "str.%s() takes no keyword arguments", name);
    else if (args->n)
        lb_jinja_fail(r, "str.%s() takes no arguments (%zu given)", name, args->n);
    return !r->failed;
}

/* `name` as messages have it */
static struct lb_jval with_case(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args, const char *name,
                                char how)
{
    return no_arguments(r, name, args) ? lb_jstr_case(r, self, how) : NOTHING;
}

static struct lb_jval is_of(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args, const char *name,
                            char what)
{
    if (!no_arguments(r, name, args) || !lb_jscan(r, self.u.text->len))
        return NOTHING;
    return lb_jbool(lb_jstr_is(self.u.text, what));
}

#define WITH_CASE(fn, how)                             \
    METHOD(fn)                                         \
    {                                                  \
        return with_case(r, self, args, #fn + 4, how); \
    }
#define IS_OF(fn, what)                             \
    METHOD(fn)                                      \
    {                                               \
        return is_of(r, self, args, #fn + 4, what); \
    }

WITH_CASE(str_upper, 'u')
WITH_CASE(str_lower, 'l')
WITH_CASE(str_title, 't')
WITH_CASE(str_capitalize, 'c')
WITH_CASE(str_swapcase, 's')
WITH_CASE(str_casefold, 'f')
IS_OF(str_isupper, 'u')
IS_OF(str_islower, 'l')
IS_OF(str_istitle, 't')
IS_OF(str_isalpha, 'a')
IS_OF(str_isalnum, 'w')
IS_OF(str_isdigit, 'd')
IS_OF(str_isdecimal, 'e')
IS_OF(str_isnumeric, 'n')
IS_OF(str_isspace, 's')
IS_OF(str_isidentifier, 'i')
IS_OF(str_isprintable, 'p')
IS_OF(str_isascii, '7')

/* ---- strip, split, replace ---- */

static struct lb_jval strip(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args, int sides)
{
    struct lb_jval chars;
    return lb_jargs_bind(r, "strip", args, "/ chars?", &chars) ? lb_jstr_strip(r, self, chars, sides) : NOTHING;
}

METHOD(str_strip)
{
    return strip(r, self, args, 3);
}

METHOD(str_lstrip)
{
    return strip(r, self, args, 1);
}

METHOD(str_rstrip)
{
    return strip(r, self, args, 2);
}

METHOD(str_split)
{
    struct lb_jval a[2];
    return lb_jargs_bind(r, "split", args, "sep? maxsplit?", a) ? lb_jstr_split(r, self, a[0], lb_jarg_int(r, a[1], -1))
                                                                : NOTHING;
}

METHOD(str_rsplit)
{
    struct lb_jval a[2];
    return lb_jargs_bind(r, "rsplit", args, "sep? maxsplit?", a)
               ? lb_jstr_rsplit(r, self, a[0], lb_jarg_int(r, a[1], -1))
               : NOTHING;
}

METHOD(str_splitlines)
{
    struct lb_jval keep;
    if (!lb_jargs_bind(r, "splitlines", args, "keepends?", &keep))
        return NOTHING;
    return lb_jstr_splitlines(r, self, lb_jarg_int(r, keep, 0) != 0);
}

METHOD(str_replace)
{
    struct lb_jval a[3];
    if (!lb_jargs_bind(r, "replace", args, "/ old new count?", a))
        return NOTHING;
    if (self.u.text->safe && a[1].kind == LB_J_STR)
        a[1] = lb_jescape(r, a[1]);
    return lb_jstr_replace(r, self, a[0], a[1], lb_jarg_int(r, a[2], -1));
}

/* Both ends and the middle, as partition gives them. */
static struct lb_jval three(struct lb_jrun *r, const struct lb_jtext *t, size_t at, size_t n)
{
    struct lb_jval parts = lb_jlist_new(r, LB_J_TUPLE, 3);
    lb_jlist_push(r, parts, lb_jtext_part(r, t, 0, at));
    lb_jlist_push(r, parts, lb_jtext_part(r, t, at, n));
    lb_jlist_push(r, parts, lb_jtext_part(r, t, at + n, t->len - at - n));
    return parts;
}

static struct lb_jval partition(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args, bool last)
{
    struct lb_jval sep;
    if (!lb_jargs_bind(r, "partition", args, "/ sep", &sep))
        return NOTHING;
    const struct lb_jtext *t = self.u.text, *x = lb_jarg_text(r, "partition", sep);
    if (x->len == 0)
        return lb_jinja_fail(r, "empty separator");
    if (!lb_jscan(r, t->len))
        return NOTHING;
    size_t at =
        last ? lb_jrfind_bytes(r, t->data, t->len, x->data, x->len) : lb_jfind_bytes(t->data, t->len, x->data, x->len);
    if (at <= t->len)
        return three(r, t, at, x->len);
    struct lb_jval parts = lb_jlist_new(r, LB_J_TUPLE, 3), none = lb_jtext_part(r, t, 0, 0);
    lb_jlist_push(r, parts, last ? none : self);
    lb_jlist_push(r, parts, none);
    lb_jlist_push(r, parts, last ? self : none);
    return parts;
}

METHOD(str_partition)
{
    return partition(r, self, args, false);
}

METHOD(str_rpartition)
{
    return partition(r, self, args, true);
}

METHOD(str_removeprefix)
{
    struct lb_jval prefix;
    if (!lb_jargs_bind(r, "removeprefix", args, "/ prefix", &prefix))
        return NOTHING;
    const struct lb_jtext *t = self.u.text, *x = lb_jarg_text(r, "removeprefix", prefix);
    bool has = x->len <= t->len && memcmp(t->data, x->data, x->len) == 0;
    return has && x->len ? lb_jtext_part(r, t, x->len, t->len - x->len) : self;
}

METHOD(str_removesuffix)
{
    struct lb_jval suffix;
    if (!lb_jargs_bind(r, "removesuffix", args, "/ suffix", &suffix))
        return NOTHING;
    const struct lb_jtext *t = self.u.text, *x = lb_jarg_text(r, "removesuffix", suffix);
    bool has = x->len <= t->len && memcmp(t->data + t->len - x->len, x->data, x->len) == 0;
    return has && x->len ? lb_jtext_part(r, t, 0, t->len - x->len) : self;
}

/* ---- search ---- */

/* The bytes of characters [start, end) as Python's search methods take them; false: the range is empty and past the
 * text, where not even "" is found. */
struct window {
    size_t from, to;
    int64_t first_char;
};

static bool find_window(struct lb_jrun *r, struct lb_jtext *t, const struct lb_jval at[2], struct window *w)
{
    int64_t n = lb_jtext_chars(t);
    int64_t from = lb_jgiven(at[0]) && at[0].kind != LB_J_NONE ? lb_jarg_int(r, at[0], 0) : 0;
    int64_t to = lb_jgiven(at[1]) && at[1].kind != LB_J_NONE ? lb_jarg_int(r, at[1], n) : n;
    if (from < 0)
        from = from < -n ? 0 : from + n;
    if (to < 0)
        to = to < -n ? 0 : to + n;
    if (to > n)
        to = n;
    if (r->failed || from > to || !lb_jscan(r, t->len))
        return false;
    *w = (struct window){lb_jtext_offset(t, from), lb_jtext_offset(t, to), from};
    return true;
}

static int64_t chars_in(const char *data, size_t n)
{
    struct lb_jtext t = {.data = data, .len = n, .n_char = -1};
    return lb_jtext_chars(&t);
}

static struct lb_jval search(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args, bool last, bool must)
{
    struct lb_jval a[3];
    struct window w;
    if (!lb_jargs_bind(r, must ? "index" : "find", args, "/ sub start? end?", a))
        return NOTHING;
    struct lb_jtext *t = self.u.text;
    const struct lb_jtext *x = lb_jarg_text(r, must ? "index" : "find", a[0]);
    size_t at = 1, n = 0;
    if (find_window(r, t, a + 1, &w)) {
        n = w.to - w.from;
        at = last ? lb_jrfind_bytes(r, t->data + w.from, n, x->data, x->len)
                  : lb_jfind_bytes(t->data + w.from, n, x->data, x->len);
    }
    if (at > n)
        return must ? lb_jinja_fail(r, "substring not found") : lb_jint(-1);
    return lb_jint(w.first_char + chars_in(t->data + w.from, at));
}

METHOD(str_find)
{
    return search(r, self, args, false, false);
}

METHOD(str_rfind)
{
    return search(r, self, args, true, false);
}

METHOD(str_index)
{
    return search(r, self, args, false, true);
}

METHOD(str_rindex)
{
    return search(r, self, args, true, true);
}

METHOD(str_count)
{
    struct lb_jval a[3];
    struct window w;
    if (!lb_jargs_bind(r, "count", args, "/ sub start? end?", a))
        return NOTHING;
    struct lb_jtext *t = self.u.text;
    const struct lb_jtext *x = lb_jarg_text(r, "count", a[0]);
    if (!find_window(r, t, a + 1, &w))
        return lb_jint(0);
    if (x->len == 0)
        return lb_jint(chars_in(t->data + w.from, w.to - w.from) + 1);
    int64_t count = 0;
    for (size_t at = w.from; lb_jrun_spend(r, 1); count++) {
        size_t hit = lb_jfind_bytes(t->data + at, w.to - at, x->data, x->len);
        if (hit > w.to - at)
            break;
        at += hit + x->len;
    }
    return lb_jint(count);
}

static bool has_end(const struct lb_jtext *t, struct window w, const struct lb_jtext *x, bool end)
{
    if (x->len > w.to - w.from)
        return false;
    return memcmp(t->data + (end ? w.to - x->len : w.from), x->data, x->len) == 0;
}

static struct lb_jval has_affix(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args, bool end)
{
    const char *name = end ? "endswith" : "startswith";
    struct lb_jval a[3];
    struct window w = {0, self.u.text->len, 0};
    if (!lb_jargs_bind(r, name, args, "/ affix start? end?", a))
        return NOTHING;
    lb_jrun_spend(r, self.u.text->len / 1024);
    bool there = (!lb_jgiven(a[1]) && !lb_jgiven(a[2])) || find_window(r, self.u.text, a + 1, &w);
    if (a[0].kind != LB_J_TUPLE && a[0].kind != LB_J_STR)
        return lb_jinja_fail(r, "%s first arg must be str or a tuple of str, not %s", name, lb_jtype_name(a[0]));
    if (a[0].kind == LB_J_STR)
        return lb_jbool(there && has_end(self.u.text, w, a[0].u.text, end));
    for (size_t i = 0; i < a[0].u.list->n && lb_jrun_spend(r, 1 + self.u.text->len / 1024); i++)
        if (has_end(self.u.text, w, lb_jarg_text(r, name, a[0].u.list->item[i]), end) && there && !r->failed)
            return lb_jbool(true);
    return lb_jbool(false);
}

METHOD(str_startswith)
{
    return has_affix(r, self, args, false);
}

METHOD(str_endswith)
{
    return has_affix(r, self, args, true);
}

/* ---- width ---- */

static struct lb_jval pad(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args, int side)
{
    const char *name = side < 0 ? "ljust" : side > 0 ? "rjust" : "center";
    static struct lb_jtext blank = {.data = " ", .len = 1, .n_char = 1};
    struct lb_jval a[2];
    if (!lb_jargs_bind(r, name, args, "/ width fillchar?", a))
        return NOTHING;
    const struct lb_jtext *fill = lb_jgiven(a[1]) ? lb_jarg_text(r, name, a[1]) : &blank;
    if (chars_in(fill->data, fill->len) != 1)
        return lb_jinja_fail(r, "The fill character must be exactly one character long");
    return lb_jstr_pad(r, self, lb_jarg_int(r, a[0], 0), fill, side);
}

METHOD(str_center)
{
    return pad(r, self, args, 0);
}

METHOD(str_ljust)
{
    return pad(r, self, args, -1);
}

METHOD(str_rjust)
{
    return pad(r, self, args, 1);
}

METHOD(str_zfill)
{
    struct lb_jval width;
    if (!lb_jargs_bind(r, "zfill", args, "/ width", &width))
        return NOTHING;
    struct lb_jtext *t = self.u.text;
    int64_t more = lb_jarg_int(r, width, 0) - lb_jtext_chars(t);
    if (r->failed || more <= 0 || !lb_jroom(r, (uint64_t)more + t->len))
        return self;
    size_t mark = lb_jscratch_begin(r), sign = t->len && (t->data[0] == '-' || t->data[0] == '+');
    lb_str_put(&r->scratch, t->data, sign);
    for (; more > 0; more--)
        lb_str_putc(&r->scratch, '0');
    lb_str_put(&r->scratch, t->data + sign, t->len - sign);
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), t->safe);
}

METHOD(str_expandtabs)
{
    struct lb_jval size;
    if (!lb_jargs_bind(r, "expandtabs", args, "tabsize?", &size))
        return NOTHING;
    const struct lb_jtext *t = self.u.text;
    int64_t tab = lb_jarg_int(r, size, 8), column = 0;
    if (!lb_jroom(r, t->len))
        return NOTHING;
    size_t mark = lb_jscratch_begin(r);
    for (size_t i = 0; i < t->len && !r->failed; i++) {
        char c = t->data[i];
        if (c == '\t') {
            int64_t more = tab > 0 ? tab - column % tab : 0;
            if (!lb_jroom(r, (uint64_t)more))
                break;
            column += more;
            for (; more > 0; more--)
                lb_str_putc(&r->scratch, ' ');
            continue;
        }
        lb_str_putc(&r->scratch, c);
        column = c == '\n' || c == '\r' ? 0 : column + (((unsigned char)c & 0xc0) != 0x80);
    }
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), t->safe);
}

/* ---- join, format ---- */

METHOD(str_join)
{
    struct lb_jval items, item;
    struct lb_jiter it;
    if (!lb_jargs_bind(r, "join", args, "/ iterable", &items) || !lb_jiter_init(r, &it, items))
        return NOTHING;
    const struct lb_jtext *sep = self.u.text;
    size_t mark = lb_jscratch_begin(r);
    for (int64_t i = 0; lb_jiter_next(r, &it, &item); i++) {
        if (sep->safe)
            item = lb_jescape(r, item);
        if (item.kind != LB_J_STR && !r->failed)
            lb_jinja_fail(r, "sequence item %lld: expected str instance, %s found", (long long)i, lb_jtype_name(item));
        if (r->failed || !lb_jroom(r, (uint64_t)sep->len + item.u.text->len))
            break;
        if (i)
            lb_str_put(&r->scratch, sep->data, sep->len);
        lb_str_put(&r->scratch, item.u.text->data, item.u.text->len);
    }
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), sep->safe);
}

METHOD(str_format)
{
    return lb_jformat(r, self, args);
}

METHOD(str_format_map)
{
    struct lb_jval map;
    if (!lb_jargs_bind(r, "format_map", args, "/ mapping", &map))
        return NOTHING;
    if (map.kind != LB_J_DICT)
        return lb_jinja_fail(r, "format_map() takes a mapping, not %s", lb_jtype_name(map));
    struct lb_jargs named = {.n_kwarg = map.u.dict->n};
    struct lb_jkwarg *kwarg = lb_jrun_alloc(r, (named.n_kwarg + 1) * sizeof *kwarg);
    if (!kwarg)
        return NOTHING;
    for (size_t i = 0; i < named.n_kwarg; i++)
        kwarg[i] = (struct lb_jkwarg){map.u.dict->pair[i].key, map.u.dict->pair[i].value};
    named.kwarg = kwarg;
    return lb_jformat(r, self, &named);
}

METHOD(str_bytes)
{
    (void)self;
    (void)args;
    return lb_jinja_fail(r, "encode(), translate() and maketrans() are not supported in templates");
}

static const struct lb_jmethod str_methods[] = {
    {"strip", str_strip},
    {"split", str_split},
    {"startswith", str_startswith},
    {"endswith", str_endswith},
    {"replace", str_replace},
    {"join", str_join},
    {"lstrip", str_lstrip},
    {"rstrip", str_rstrip},
    {"upper", str_upper},
    {"lower", str_lower},
    {"title", str_title},
    {"capitalize", str_capitalize},
    {"find", str_find},
    {"rfind", str_rfind},
    {"index", str_index},
    {"rindex", str_rindex},
    {"count", str_count},
    {"format", str_format},
    {"format_map", str_format_map},
    {"rsplit", str_rsplit},
    {"splitlines", str_splitlines},
    {"partition", str_partition},
    {"rpartition", str_rpartition},
    {"removeprefix", str_removeprefix},
    {"removesuffix", str_removesuffix},
    {"swapcase", str_swapcase},
    {"casefold", str_casefold},
    {"zfill", str_zfill},
    {"center", str_center},
    {"ljust", str_ljust},
    {"rjust", str_rjust},
    {"expandtabs", str_expandtabs},
    {"isupper", str_isupper},
    {"islower", str_islower},
    {"istitle", str_istitle},
    {"isalpha", str_isalpha},
    {"isalnum", str_isalnum},
    {"isdigit", str_isdigit},
    {"isdecimal", str_isdecimal},
    {"isnumeric", str_isnumeric},
    {"isspace", str_isspace},
    {"isidentifier", str_isidentifier},
    {"isprintable", str_isprintable},
    {"isascii", str_isascii},
    {"encode", str_bytes},
    {"translate", str_bytes},
    {"maketrans", str_bytes},
    {NULL, NULL},
};

/* ---- dict, list, numbers ---- */

/* what: 'k' keys, 'v' values, 'i' pairs */
static struct lb_jval view(struct lb_jrun *r, struct lb_jval self, const struct lb_jargs *args, char what)
{
    if (!lb_jargs_bind(r, "dict view", args, "/", NULL))
        return NOTHING;
    const struct lb_jdict *d = self.u.dict;
    struct lb_jval list = lb_jlist_new(r, LB_J_LIST, d->n);
    for (size_t i = 0; i < d->n && lb_jrun_spend(r, 1); i++)
        lb_jlist_push(r, list,
                      what == 'k'   ? d->pair[i].key
                      : what == 'v' ? d->pair[i].value
                                    : lb_jpair_of(r, d->pair[i].key, d->pair[i].value));
    return lb_jstream_new(r, what == 'k' ? "dict_keys" : what == 'v' ? "dict_values" : "dict_items", list, true);
}

METHOD(dict_keys)
{
    return view(r, self, args, 'k');
}

METHOD(dict_values)
{
    return view(r, self, args, 'v');
}

METHOD(dict_items)
{
    return view(r, self, args, 'i');
}

METHOD(dict_get)
{
    struct lb_jval a[2], found;
    if (!lb_jargs_bind(r, "get", args, "/ key default?", a))
        return NOTHING;
    return lb_jdict_get(r, self, a[0], &found) ? found : lb_jgiven(a[1]) ? a[1] : lb_jnone();
}

METHOD(dict_copy)
{
    struct lb_jval copy = lb_jdict_new(r, LB_J_DICT);
    if (!lb_jargs_bind(r, "copy", args, "/", NULL))
        return NOTHING;
    for (size_t i = 0; i < self.u.dict->n && lb_jrun_spend(r, 1); i++)
        lb_jdict_set(r, copy, self.u.dict->pair[i].key, self.u.dict->pair[i].value);
    return copy;
}

METHOD(dict_fromkeys)
{
    struct lb_jval a[2], key, made = lb_jdict_new(r, LB_J_DICT);
    struct lb_jiter it;
    (void)self;
    if (!lb_jargs_bind(r, "fromkeys", args, "/ iterable value?", a) || !lb_jiter_init(r, &it, a[0]))
        return NOTHING;
    while (lb_jiter_next(r, &it, &key))
        lb_jdict_set(r, made, key, lb_jgiven(a[1]) ? a[1] : lb_jnone());
    return made;
}

static const struct lb_jmethod dict_methods[] = {
    {"items", dict_items}, {"get", dict_get},           {"keys", dict_keys}, {"values", dict_values},
    {"copy", dict_copy},   {"fromkeys", dict_fromkeys}, {NULL, NULL},
};

METHOD(list_index)
{
    struct lb_jval a[3];
    if (!lb_jargs_bind(r, "index", args, "/ value start? stop?", a))
        return NOTHING;
    int64_t n = (int64_t)self.u.list->n, from = lb_jarg_int(r, a[1], 0), to = lb_jarg_int(r, a[2], n);
    from = from < 0 ? (from < -n ? 0 : from + n) : from;
    to = to < 0 ? to + n : to > n ? n : to;
    for (int64_t i = from; i < to && lb_jrun_spend(r, 1); i++)
        if (lb_jequal(r, self.u.list->item[i], a[0]))
            return lb_jint(i);
    if (self.kind == LB_J_TUPLE)
        return lb_jinja_fail(r, "tuple.index(x): x not in tuple");
    size_t mark = lb_jscratch_begin(r);
    lb_jput_repr(r, &r->scratch, a[0]);
    lb_jinja_fail(r, "%s is not in list", r->scratch.data ? r->scratch.data + mark : "");
    r->scratch.len = mark;
    return NOTHING;
}

METHOD(list_count)
{
    struct lb_jval value;
    if (!lb_jargs_bind(r, "count", args, "/ value", &value))
        return NOTHING;
    int64_t count = 0;
    for (size_t i = 0; i < self.u.list->n && lb_jrun_spend(r, 1); i++)
        count += lb_jequal(r, self.u.list->item[i], value);
    return lb_jint(count);
}

METHOD(range_index)
{
    return list_index(r, lb_jlist_of(r, self), args);
}

METHOD(range_count)
{
    return list_count(r, lb_jlist_of(r, self), args);
}

METHOD(list_copy)
{
    return lb_jargs_bind(r, "copy", args, "/", NULL) ? lb_jlist_of(r, self) : NOTHING;
}

static const struct lb_jmethod list_methods[] = {
    {"index", list_index}, {"count", list_count}, {"copy", list_copy}, {NULL, NULL}};
static const struct lb_jmethod tuple_methods[] = {{"index", list_index}, {"count", list_count}, {NULL, NULL}};
static const struct lb_jmethod range_methods[] = {{"index", range_index}, {"count", range_count}, {NULL, NULL}};

METHOD(number_is_integer)
{
    if (!lb_jargs_bind(r, "is_integer", args, "/", NULL))
        return NOTHING;
    return lb_jbool(isfinite(self.u.f) && floor(self.u.f) == self.u.f);
}

METHOD(int_bit_length)
{
    if (!lb_jargs_bind(r, "bit_length", args, "/", NULL))
        return NOTHING;
    int64_t i = lb_jint_of(self);
    uint64_t size = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    return lb_jint(size ? 64 - __builtin_clzll(size) : 0);
}

METHOD(int_bit_count)
{
    if (!lb_jargs_bind(r, "bit_count", args, "/", NULL))
        return NOTHING;
    int64_t i = lb_jint_of(self);
    return lb_jint(__builtin_popcountll(i < 0 ? 0 - (uint64_t)i : (uint64_t)i));
}

METHOD(number_conjugate)
{
    return lb_jargs_bind(r, "conjugate", args, "/", NULL) ? lb_jpositive(r, self) : NOTHING;
}

static const struct lb_jmethod int_methods[] = {
    {"bit_length", int_bit_length}, {"bit_count", int_bit_count}, {"conjugate", number_conjugate}, {NULL, NULL}};
static const struct lb_jmethod float_methods[] = {
    {"is_integer", number_is_integer}, {"conjugate", number_conjugate}, {NULL, NULL}};

const struct lb_jmethod *lb_jfind_method(struct lb_jval x, const char *name, size_t n)
{
    const struct lb_jmethod *m = NULL;
    switch ((enum lb_jkind)x.kind) {
    case LB_J_STR:
        m = str_methods;
        break;
    case LB_J_DICT:
        m = dict_methods;
        break;
    case LB_J_LIST:
        m = list_methods;
        break;
    case LB_J_TUPLE:
        m = tuple_methods;
        break;
    case LB_J_RANGE:
        m = range_methods;
        break;
    case LB_J_BOOL:
    case LB_J_INT:
        m = int_methods;
        break;
    case LB_J_FLOAT:
        m = float_methods;
        break;
    default:
        return NULL;
    }
    for (; m->name; m++)
        if (n && m->name[0] == name[0] && strlen(m->name) == n && memcmp(m->name, name, n) == 0)
            return m;
    return NULL;
}
