/* tojson as transformers defines it: json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False).
 */
#include <math.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

struct dump {
    struct lb_jrun *r;
    struct lb_str *out;
    const struct lb_jtext *item, *colon;
    struct lb_jval indent; /* STR, or NONE: all in one line */
    bool ascii, sort;
};

static void put_break(struct dump *d, int level)
{
    if (d->indent.kind != LB_J_STR)
        return;
    lb_str_putc(d->out, '\n');
    for (int i = 0; i < level && lb_jroom(d->r, d->indent.u.text->len); i++)
        lb_str_put(d->out, d->indent.u.text->data, d->indent.u.text->len);
}

static void put_unit(struct lb_str *out, uint32_t unit)
{
    lb_str_putf(out, "\\u%04x", unit);
}

static void put_escape(struct lb_str *out, uint32_t c)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *at = c && c < 0x80 ? strchr(from, (int)c) : NULL;
    if (at) {
        lb_str_putc(out, '\\');
        lb_str_putc(out, to[at - from]);
    } else if (c < 0x10000)
        put_unit(out, c);
    else {
        put_unit(out, 0xd800 + ((c - 0x10000) >> 10));
        put_unit(out, 0xdc00 + ((c - 0x10000) & 0x3ff));
    }
}

static void put_text(struct dump *d, const struct lb_jtext *t)
{
    if (!lb_jroom(d->r, t->len))
        return;
    lb_str_putc(d->out, '"');
    for (size_t i = 0, from = 0; i <= t->len;) {
        unsigned char c = i < t->len ? (unsigned char)t->data[i] : 0;
        if (i < t->len && c >= ' ' && c != '"' && c != '\\' && (!d->ascii || c < 0x7f)) {
            i++;
            continue;
        }
        lb_str_put(d->out, t->data + from, i - from);
        if (i == t->len)
            break;
        int bytes;
        put_escape(d->out, lb_utf8_decode(t->data + i, t->len - i, &bytes));
        i += (size_t)bytes;
        from = i;
    }
    lb_str_putc(d->out, '"');
}

static void put_number(struct dump *d, struct lb_jval v)
{
    if (v.kind == LB_J_FLOAT && !isfinite(v.u.f))
        lb_str_puts(d->out, isnan(v.u.f) ? "NaN" : v.u.f > 0 ? "Infinity" : "-Infinity");
    else
        lb_jput_repr(d->r, d->out, v);
}

static void put_constant(struct dump *d, struct lb_jval v)
{
    lb_str_puts(d->out, v.kind == LB_J_NONE ? "null" : v.u.b ? "true" : "false");
}

static void put_key(struct dump *d, struct lb_jval key)
{
    if (key.kind == LB_J_STR) {
        put_text(d, key.u.text);
        return;
    }
    if (key.kind != LB_J_NONE && !lb_jis_number(key)) {
        lb_jinja_fail(d->r, "keys must be str, int, float, bool or None, not %s", lb_jtype_name(key));
        return;
    }
    lb_str_putc(d->out, '"');
    if (key.kind == LB_J_NONE || key.kind == LB_J_BOOL)
        put_constant(d, key);
    else
        put_number(d, key);
    lb_str_putc(d->out, '"');
}

static void put_value(struct dump *d, struct lb_jval v, int level);

static void put_list(struct dump *d, const struct lb_jlist *l, int level)
{
    lb_str_putc(d->out, '[');
    for (size_t i = 0; i < l->n && !d->r->failed; i++) {
        if (i)
            lb_str_put(d->out, d->item->data, d->item->len);
        put_break(d, level + 1);
        put_value(d, l->item[i], level + 1);
    }
    if (l->n)
        put_break(d, level);
    lb_str_putc(d->out, ']');
}

/* The places of the pairs in the order of their keys. */
static struct lb_jval sorted_places(struct lb_jrun *r, const struct lb_jdict *dict)
{
    struct lb_jval keys = lb_jlist_new(r, LB_J_LIST, dict->n), places = lb_jlist_new(r, LB_J_LIST, dict->n);
    for (size_t i = 0; i < dict->n; i++) {
        lb_jlist_push(r, keys, dict->pair[i].key);
        lb_jlist_push(r, places, lb_jint((int64_t)i));
    }
    lb_jsort(r, places, keys, false);
    return places;
}

static void put_dict(struct dump *d, const struct lb_jdict *dict, int level)
{
    struct lb_jval places = d->sort ? sorted_places(d->r, dict) : lb_jnone();
    lb_str_putc(d->out, '{');
    for (size_t i = 0; i < dict->n && !d->r->failed; i++) {
        const struct lb_jpair *pair = &dict->pair[d->sort ? (size_t)places.u.list->item[i].u.i : i];
        if (i)
            lb_str_put(d->out, d->item->data, d->item->len);
        put_break(d, level + 1);
        put_key(d, pair->key);
        lb_str_put(d->out, d->colon->data, d->colon->len);
        put_value(d, pair->value, level + 1);
    }
    if (dict->n)
        put_break(d, level);
    lb_str_putc(d->out, '}');
}

static void put_value(struct dump *d, struct lb_jval v, int level)
{
    if (!lb_jroom(d->r, 0))
        return;
    if (v.kind == LB_J_STR)
        put_text(d, v.u.text);
    else if (v.kind == LB_J_NONE || v.kind == LB_J_BOOL)
        put_constant(d, v);
    else if (v.kind == LB_J_INT || v.kind == LB_J_FLOAT)
        put_number(d, v);
    else if (!lb_jis_list(v) && v.kind != LB_J_DICT)
        lb_jinja_fail(d->r, "Object of type %s is not JSON serializable", lb_jtype_name(v));
    else {
        if (lb_jrun_enter(d->r)) {
            if (v.kind == LB_J_DICT)
                put_dict(d, v.u.dict, level);
            else
                put_list(d, v.u.list, level);
        }
        lb_jrun_leave(d->r);
    }
}

static bool read_separators(struct dump *d, struct lb_jval pair)
{
    pair = lb_jlist_of(d->r, pair);
    if (d->r->failed)
        return false;
    if (pair.u.list->n != 2 || pair.u.list->item[0].kind != LB_J_STR || pair.u.list->item[1].kind != LB_J_STR) {
        lb_jinja_fail(d->r, "separators must be two texts");
        return false;
    }
    d->item = pair.u.list->item[0].u.text;
    d->colon = pair.u.list->item[1].u.text;
    return true;
}

struct lb_jval lb_jfilter_tojson(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
{
    static const struct lb_jtext comma = {.data = ", ", .len = 2}, colon = {.data = ": ", .len = 2};
    static const struct lb_jtext bare_comma = {.data = ",", .len = 1};
    struct lb_jval a[4];
    struct dump d = {.r = r, .out = &r->scratch, .item = &comma, .colon = &colon, .indent = lb_jnone()};
    if (!lb_jargs_bind(r, "tojson", args, "ensure_ascii? indent? separators? sort_keys?", a))
        return lb_jnone();
    d.ascii = lb_jgiven(a[0]) && lb_jtruth(r, a[0]);
    d.sort = lb_jgiven(a[3]) && lb_jtruth(r, a[3]);
    if (lb_jgiven(a[1]) && a[1].kind != LB_J_NONE) {
        d.indent = a[1].kind == LB_J_STR ? a[1] : lb_jbinary(r, LB_JOP_MUL, lb_jtext_puts(r, " "), a[1]);
        d.item = &bare_comma;
    }
    if (lb_jgiven(a[2]) && a[2].kind != LB_J_NONE && !read_separators(&d, a[2]))
        return lb_jnone();
    size_t mark = lb_jscratch_begin(r);
    put_value(&d, v, 0);
    return lb_jscratch_end(r, mark);
}
