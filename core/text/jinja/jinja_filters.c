/* Filters on texts and numbers, and the one list of filters. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

#define FILTER(fn) static struct lb_jval fn(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
#define NOTHING ((struct lb_jval){.kind = LB_J_UNDEFINED})

struct lb_jval lb_jsoft_str(struct lb_jrun *r, struct lb_jval v)
{
    return v.kind == LB_J_STR ? v : lb_jstr(r, v);
}

struct lb_jval lb_jempty(struct lb_jrun *r, const char *hint)
{
    struct lb_jundef *u = lb_jrun_alloc(r, sizeof *u);
    if (u)
        u->hint = hint;
    return (struct lb_jval){.kind = LB_J_UNDEFINED, .u.undef = u};
}

/* The text that a filter works on, after its arguments are bound; failed where not. */
static struct lb_jval text_and(struct lb_jrun *r, const char *name, struct lb_jval v, const struct lb_jargs *args,
                               const char *spec, struct lb_jval *out)
{
    if (!lb_jargs_bind(r, name, args, spec, out))
        return NOTHING;
    v = lb_jsoft_str(r, v);
    return r->failed ? NOTHING : v;
}

/* ---- case, space ---- */

FILTER(do_upper)
{
    v = text_and(r, "upper", v, args, "", NULL);
    return r->failed ? v : lb_jstr_case(r, v, 'u');
}

FILTER(do_lower)
{
    v = text_and(r, "lower", v, args, "", NULL);
    return r->failed ? v : lb_jstr_case(r, v, 'l');
}

FILTER(do_capitalize)
{
    v = text_and(r, "capitalize", v, args, "", NULL);
    return r->failed ? v : lb_jstr_case(r, v, 'c');
}

static bool begins_word(uint32_t c)
{
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || lb_juni_is(c, LB_JUNI_SPACE);
}

/* Unlike str.title, only space and opening marks end a word. */
FILTER(do_title)
{
    v = text_and(r, "title", v, args, "", NULL);
    if (r->failed || !lb_jroom(r, v.u.text->len) || !lb_jscan(r, v.u.text->len))
        return NOTHING;
    const struct lb_jtext *t = v.u.text;
    size_t mark = lb_jscratch_begin(r);
    int bytes;
    for (size_t at = 0, end; at < t->len && !r->failed; at = end) {
        bool gap = begins_word(lb_utf8_decode(t->data + at, t->len - at, &bytes));
        size_t first = at + (size_t)bytes;
        for (end = first; end < t->len; end += (size_t)bytes)
            if (begins_word(lb_utf8_decode(t->data + end, t->len - end, &bytes)) != gap)
                break;
        struct lb_jval head = lb_jstr_case(r, lb_jtext_part(r, t, at, first - at), 'u');
        struct lb_jval tail = lb_jstr_case(r, lb_jtext_part(r, t, first, end - first), 'l');
        if (r->failed)
            break;
        lb_jput_str(r, &r->scratch, head);
        lb_jput_str(r, &r->scratch, tail);
    }
    return lb_jscratch_end(r, mark);
}

FILTER(do_trim)
{
    struct lb_jval chars;
    v = text_and(r, "trim", v, args, "chars?", &chars);
    return r->failed ? v : lb_jstr_strip(r, v, chars, 3);
}

FILTER(do_center)
{
    static const struct lb_jtext blank = {.data = " ", .len = 1};
    struct lb_jval width;
    v = text_and(r, "center", v, args, "width?", &width);
    int64_t n = r->failed ? 0 : lb_jarg_int(r, width, 80);
    return r->failed ? v : lb_jstr_pad(r, v, n, &blank, 0);
}

/* A line break is appended first, as Jinja2 does: an empty last line counts. */
FILTER(do_indent)
{
    struct lb_jval a[3], indention;
    if (!lb_jargs_bind(r, "indent", args, "width? first? blank?", a))
        return NOTHING;
    if (lb_jgiven(a[0]) && a[0].kind == LB_J_STR)
        indention = a[0];
    else
        indention = lb_jbinary(r, LB_JOP_MUL, lb_jtext_puts(r, " "), lb_jgiven(a[0]) ? a[0] : lb_jint(4));
    bool first = lb_jgiven(a[1]) && lb_jtruth(r, a[1]), blank = lb_jgiven(a[2]) && lb_jtruth(r, a[2]);
    bool safe = v.kind == LB_J_STR && v.u.text->safe;
    v = lb_jbinary(r, LB_JOP_ADD, v, lb_jtext_puts(r, "\n"));
    if (r->failed || indention.kind != LB_J_STR || v.kind != LB_J_STR)
        return NOTHING;
    struct lb_jval lines = lb_jstr_splitlines(r, v, false);
    size_t mark = lb_jscratch_begin(r);
    for (size_t i = 0; !r->failed && i < lines.u.list->n; i++) {
        const struct lb_jtext *line = lines.u.list->item[i].u.text;
        if (i)
            lb_str_putc(&r->scratch, '\n');
        if (!lb_jroom(r, (uint64_t)line->len + indention.u.text->len))
            break;
        if (i ? blank || line->len : first)
            lb_str_put(&r->scratch, indention.u.text->data, indention.u.text->len);
        lb_str_put(&r->scratch, line->data, line->len);
    }
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), safe);
}

/* ---- parts ---- */

FILTER(do_replace)
{
    struct lb_jval a[3];
    v = text_and(r, "replace", v, args, "old new count?", a);
    if (r->failed)
        return v;
    int64_t count = lb_jgiven(a[2]) && a[2].kind != LB_J_NONE ? lb_jarg_int(r, a[2], -1) : -1;
    v = lb_jstr(r, v);
    struct lb_jval from = lb_jstr(r, a[0]), to = lb_jstr(r, a[1]);
    return r->failed ? NOTHING : lb_jstr_replace(r, v, from, to, count);
}

FILTER(do_truncate)
{
    struct lb_jval a[4];
    if (!lb_jargs_bind(r, "truncate", args, "length? killwords? end? leeway?", a))
        return NOTHING;
    int64_t length = lb_jarg_int(r, a[0], 255);
    int64_t leeway = lb_jgiven(a[3]) && a[3].kind != LB_J_NONE ? lb_jarg_int(r, a[3], 5) : 5;
    struct lb_jval end = lb_jgiven(a[2]) ? a[2] : lb_jtext_puts(r, "...");
    int64_t tail = lb_jlen(r, end), n = lb_jlen(r, v);
    if (r->failed)
        return NOTHING;
    if (length < tail)
        return lb_jinja_fail(r, "expected length >= %lld, got %lld", (long long)tail, (long long)length);
    if (leeway < 0)
        return lb_jinja_fail(r, "expected leeway >= 0, got %lld", (long long)leeway);
    if (length > n || n - length <= leeway)
        return v;
    struct lb_jval head = lb_jslice(r, v, lb_jnone(), lb_jint(length - tail), lb_jnone());
    if (head.kind == LB_J_STR && !(lb_jgiven(a[1]) && lb_jtruth(r, a[1]))) {
        size_t cut = lb_jrfind_bytes(r, head.u.text->data, head.u.text->len, " ", 1);
        if (cut <= head.u.text->len)
            head = lb_jtext_part(r, head.u.text, 0, cut);
    }
    return lb_jbinary(r, LB_JOP_ADD, head, end);
}

FILTER(do_wordcount)
{
    v = text_and(r, "wordcount", v, args, "", NULL);
    if (r->failed || !lb_jscan(r, v.u.text->len))
        return NOTHING;
    const struct lb_jtext *t = v.u.text;
    int64_t count = 0;
    bool inside = false;
    int bytes;
    for (size_t at = 0; at < t->len; at += (size_t)bytes) {
        uint32_t c = lb_utf8_decode(t->data + at, t->len - at, &bytes);
        bool word = c == '_' || lb_juni_is(c, LB_JUNI_ALPHA) || lb_juni_is(c, LB_JUNI_NUMERIC);
        count += word && !inside;
        inside = word;
    }
    return lb_jint(count);
}

FILTER(do_format)
{
    if (args->n && args->n_kwarg)
        return lb_jinja_fail(r, "can't handle positional and keyword arguments at the same time");
    v = lb_jsoft_str(r, v);
    struct lb_jval with = args->n_kwarg ? lb_jdict_new(r, LB_J_DICT) : lb_jlist_new(r, LB_J_TUPLE, args->n);
    for (size_t i = 0; i < args->n; i++)
        lb_jlist_push(r, with, args->arg[i]);
    for (size_t i = 0; i < args->n_kwarg; i++)
        lb_jdict_set(r, with, args->kwarg[i].name, args->kwarg[i].value);
    return r->failed ? NOTHING : lb_jpercent(r, v, with);
}

FILTER(do_string)
{
    return text_and(r, "string", v, args, "", NULL);
}

/* ---- HTML ---- */

static struct lb_jval escape_text(struct lb_jrun *r, struct lb_jval v)
{
    if (r->failed || !lb_jroom(r, v.u.text->len) || !lb_jscan(r, v.u.text->len))
        return NOTHING;
    size_t mark = lb_jscratch_begin(r);
    for (size_t i = 0; i < v.u.text->len; i++) {
        char c = v.u.text->data[i];
        const char *as = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : "&#39;";
        if (c == '&' || c == '<' || c == '>' || c == '"' || c == '\'')
            lb_str_puts(&r->scratch, as);
        else
            lb_str_putc(&r->scratch, c);
    }
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), true);
}

struct lb_jval lb_jescape(struct lb_jrun *r, struct lb_jval v)
{
    return v.kind == LB_J_STR && v.u.text->safe ? v : escape_text(r, lb_jsoft_str(r, v));
}

FILTER(do_escape)
{
    return lb_jargs_bind(r, "escape", args, "", NULL) ? lb_jescape(r, v) : NOTHING;
}

FILTER(do_forceescape)
{
    return lb_jargs_bind(r, "forceescape", args, "", NULL) ? escape_text(r, lb_jstr(r, v)) : NOTHING;
}

FILTER(do_safe)
{
    return lb_jmark_safe(r, text_and(r, "safe", v, args, "", NULL), true);
}

/* &amp; &#39; &#x27; and the few named entities that escaping makes, or that texts have for marks and spaces. */
static size_t entity(const char *text, size_t n, uint32_t *cp)
{
    static const struct {
        const char *name;
        uint32_t cp;
    } names[] = {{"amp;", '&'},      {"lt;", '<'},       {"gt;", '>'},       {"quot;", '"'},  {"apos;", '\''},
                 {"nbsp;", 0xa0},    {"raquo;", 0xbb},   {"laquo;", 0xab},   {"copy;", 0xa9}, {"reg;", 0xae},
                 {"mdash;", 0x2014}, {"ndash;", 0x2013}, {"hellip;", 0x2026}};
    if (n > 2 && text[0] == '#') {
        bool hex = text[1] == 'x' || text[1] == 'X';
        size_t at = hex ? 2 : 1, from = at;
        uint32_t value = 0;
        for (; at < n && at < from + 7; at++) {
            char c = text[at];
            int d = c >= '0' && c <= '9'                        ? c - '0'
                    : hex && (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                                : -1;
            if (d < 0)
                break;
            value = value * (hex ? 16 : 10) + (uint32_t)d;
        }
        *cp = value;
        return at > from && value ? at + (at < n && text[at] == ';') : 0;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t m = strlen(names[i].name);
        if (m <= n && memcmp(names[i].name, text, m) == 0) {
            *cp = names[i].cp;
            return m;
        }
    }
    return 0;
}

static void put_untagged(struct lb_jrun *r, const struct lb_jtext *t)
{
    size_t at = 0;
    while (at < t->len && lb_jrun_spend(r, 1)) {
        size_t open = lb_jfind_bytes(t->data + at, t->len - at, "<", 1), left = t->len - at;
        if (open > left)
            break;
        bool comment = left - open >= 4 && memcmp(t->data + at + open, "<!--", 4) == 0;
        size_t from = open + (comment ? 4 : 0), close;
        close = comment ? lb_jfind_bytes(t->data + at + from, left - from, "-->", 3)
                        : lb_jfind_bytes(t->data + at + from, left - from, ">", 1);
        if (close > left - from)
            break;
        lb_str_put(&r->scratch, t->data + at, open);
        at += from + close + (comment ? 3 : 1);
    }
    lb_str_put(&r->scratch, t->data + at, t->len - at);
}

FILTER(do_striptags)
{
    v = text_and(r, "striptags", v, args, "", NULL);
    if (r->failed || !lb_jroom(r, v.u.text->len) || !lb_jscan(r, v.u.text->len))
        return NOTHING;
    size_t mark = lb_jscratch_begin(r);
    put_untagged(r, v.u.text);
    struct lb_jval words = lb_jscratch_end(r, mark);
    if (!r->failed)
        words = lb_jstr_split(r, words, lb_jabsent(), -1);
    for (size_t i = 0; !r->failed && i < words.u.list->n; i++) {
        const struct lb_jtext *t = words.u.list->item[i].u.text;
        if (i)
            lb_str_putc(&r->scratch, ' ');
        for (size_t at = 0; at < t->len;) {
            uint32_t cp;
            size_t n = t->data[at] == '&' ? entity(t->data + at + 1, t->len - at - 1, &cp) : 0;
            if (n)
                lb_str_put_codepoint(&r->scratch, cp);
            else
                lb_str_putc(&r->scratch, t->data[at]);
            at += n + 1;
        }
    }
    return lb_jscratch_end(r, mark);
}

FILTER(do_xmlattr)
{
    struct lb_jval autospace;
    if (!lb_jargs_bind(r, "xmlattr", args, "autospace?", &autospace))
        return NOTHING;
    if (v.kind != LB_J_DICT)
        return lb_jinja_fail(r, "'%s' object has no attribute 'items'", lb_jtype_name(v));
    bool space = !lb_jgiven(autospace) || lb_jtruth(r, autospace);
    size_t mark = lb_jscratch_begin(r);
    for (size_t i = 0; i < v.u.dict->n && lb_jrun_spend(r, 1); i++) {
        struct lb_jval key = v.u.dict->pair[i].key, value = v.u.dict->pair[i].value;
        if (value.kind == LB_J_NONE || value.kind == LB_J_UNDEFINED)
            continue;
        const struct lb_jtext *name = lb_jarg_text(r, "xmlattr", key);
        for (size_t k = 0; k < name->len; k++)
            if (memchr(" \t\n\r\f\v/>=", name->data[k], 9))
                lb_jinja_fail(r, "Invalid character in attribute name: '%.*s'", (int)name->len, name->data);
        key = lb_jescape(r, key);
        value = lb_jescape(r, value);
        if (r->failed)
            break;
        if (space || r->scratch.len > mark)
            lb_str_putc(&r->scratch, ' ');
        lb_jput_str(r, &r->scratch, key);
        lb_str_puts(&r->scratch, "=\"");
        lb_jput_str(r, &r->scratch, value);
        lb_str_putc(&r->scratch, '"');
    }
    return lb_jscratch_end(r, mark);
}

static void put_quoted(struct lb_jrun *r, struct lb_jval v, bool query)
{
    v = lb_jstr(r, v);
    if (r->failed || !lb_jroom(r, v.u.text->len * 3) || !lb_jscan(r, v.u.text->len))
        return;
    for (size_t i = 0; i < v.u.text->len; i++) {
        unsigned char c = (unsigned char)v.u.text->data[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                     c == '.' || c == '-' || c == '~' || (c == '/' && !query);
        if (plain || (c == ' ' && query))
            lb_str_putc(&r->scratch, c == ' ' ? '+' : (char)c);
        else
            lb_str_putf(&r->scratch, "%%%02X", c);
    }
}

FILTER(do_urlencode)
{
    if (!lb_jargs_bind(r, "urlencode", args, "", NULL))
        return NOTHING;
    size_t mark = lb_jscratch_begin(r);
    struct lb_jiter it;
    struct lb_jval pair;
    if (v.kind == LB_J_STR || lb_jis_number(v) || v.kind == LB_J_NONE || v.kind == LB_J_NAMESPACE) {
        put_quoted(r, v, false);
        return lb_jscratch_end(r, mark);
    }
    if (v.kind == LB_J_DICT) {
        struct lb_jargs none = {0};
        v = lb_jfind_method(v, "items", 5)->fn(r, v, &none);
    }
    if (!lb_jiter_init(r, &it, v))
        return NOTHING;
    while (lb_jiter_next(r, &it, &pair)) {
        pair = lb_jlist_of(r, pair);
        if (!r->failed && pair.u.list->n != 2)
            lb_jinja_fail(r, "%s to unpack (expected 2)", pair.u.list->n < 2 ? "not enough values" : "too many values");
        if (r->failed)
            break;
        if (r->scratch.len > mark)
            lb_str_putc(&r->scratch, '&');
        put_quoted(r, pair.u.list->item[0], true);
        lb_str_putc(&r->scratch, '=');
        put_quoted(r, pair.u.list->item[1], true);
    }
    return lb_jscratch_end(r, mark);
}

FILTER(do_unsupported)
{
    (void)v;
    (void)args;
    return lb_jinja_fail(r, "the filters random and urlize are not supported: chats must render the same every time");
}

/* ---- what values are missing, how long they are ---- */

FILTER(do_default)
{
    struct lb_jval a[2];
    if (!lb_jargs_bind(r, "default", args, "default_value? boolean?", a))
        return NOTHING;
    bool boolean = lb_jgiven(a[1]) && lb_jtruth(r, a[1]);
    if (v.kind == LB_J_UNDEFINED || (boolean && !lb_jtruth(r, v)))
        return lb_jgiven(a[0]) ? a[0] : lb_jtext_puts(r, "");
    return v;
}

FILTER(do_length)
{
    return lb_jargs_bind(r, "len", args, "/", NULL) ? lb_jint(lb_jlen(r, v)) : NOTHING;
}

const struct lb_jfilter lb_jtext_filters[] = {
    {"trim", do_trim},
    {"length", do_length},
    {"default", do_default},
    {"d", do_default},
    {"string", do_string},
    {"replace", do_replace},
    {"upper", do_upper},
    {"lower", do_lower},
    {"capitalize", do_capitalize},
    {"title", do_title},
    {"safe", do_safe},
    {"count", do_length},
    {"indent", do_indent},
    {"center", do_center},
    {"truncate", do_truncate},
    {"wordcount", do_wordcount},
    {"format", do_format},
    {"e", do_escape},
    {"escape", do_escape},
    {"forceescape", do_forceescape},
    {"striptags", do_striptags},
    {"xmlattr", do_xmlattr},
    {"urlencode", do_urlencode},
    {"random", do_unsupported},
    {"urlize", do_unsupported},
    {"tojson", lb_jfilter_tojson},
    {"pprint", lb_jfilter_pprint},
    {"wordwrap", lb_jfilter_wordwrap},
    {NULL, NULL},
};

const struct lb_jfilter *lb_jfind_in(const struct lb_jfilter *table, const char *name, size_t n)
{
    for (; table->name; table++)
        if (strlen(table->name) == n && memcmp(table->name, name, n) == 0)
            return table;
    return NULL;
}

const struct lb_jfilter *lb_jinja_find_filter(const char *name, size_t n)
{
    const struct lb_jfilter *f = lb_jfind_in(lb_jtext_filters, name, n);
    if (!f)
        f = lb_jfind_in(lb_jseq_filters, name, n);
    return f ? f : lb_jfind_in(lb_jselect_filters, name, n);
}
