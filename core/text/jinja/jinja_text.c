/* Texts: counting code points, str() and repr() of every value, numbers as Python prints them. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

int64_t lb_jtext_chars(struct lb_jtext *t)
{
    if (t->n_char < 0) {
        size_t more = 0;
        for (size_t i = 0; i < t->len; i++)
            more += ((unsigned char)t->data[i] & 0xc0) == 0x80;
        t->n_char = (int64_t)(t->len - more);
    }
    return t->n_char;
}

size_t lb_jtext_offset(struct lb_jtext *t, int64_t at_char)
{
    int64_t n = lb_jtext_chars(t);
    if (at_char >= n)
        return t->len;
    if ((size_t)n == t->len)
        return (size_t)at_char;
    size_t at = 0;
    for (int64_t left = at_char; at < t->len; at++)
        if (((unsigned char)t->data[at] & 0xc0) != 0x80 && left-- == 0)
            break;
    return at;
}

struct lb_jval lb_jtext_part(struct lb_jrun *r, const struct lb_jtext *whole, size_t from, size_t n)
{
    struct lb_jval part = lb_jtext_lend(r, whole->data + from, n);
    if (part.kind == LB_J_STR) {
        part.u.text->safe = whole->safe;
        if (whole->n_char == (int64_t)whole->len)
            part.u.text->n_char = (int64_t)n;
    }
    return part;
}

bool lb_jtext_equal(struct lb_jval a, struct lb_jval b)
{
    if (a.kind != LB_J_STR || b.kind != LB_J_STR)
        return false;
    const struct lb_jtext *x = a.u.text, *y = b.u.text;
    return x->len == y->len && (x->data == y->data || memcmp(x->data, y->data, x->len) == 0);
}

/* The shortest digits that read back as x, in the form d.ddde+xx. Where the interval that rounds to x is lopsided
 * (powers of two) the nearest 16 digits may lie outside it and the next ones inside. Subnormal
 * numbers have fewer than 15 digits. */
static void shortest(double x, char text[32])
{
    for (int precision = fabs(x) < DBL_MIN ? 0 : 14; precision <= 15; precision++) {
        snprintf(text, 32, "%.*e", precision, x);
        if (strtod(text, NULL) == x)
            return;
    }
    char up[32], *last = text;
    memcpy(up, text, sizeof up);
    last = strchr(up, 'e') - 1;
    if (*last < '9') {
        ++*last;
        if (strtod(up, NULL) == x) {
            memcpy(text, up, sizeof up);
            return;
        }
    }
    snprintf(text, 32, "%.16e", x);
}

void lb_jput_decimal(struct lb_str *out, const char *text, int limit)
{
    char digits[64];
    const char *from = text;
    int n = 0;
    for (; *from != 'e'; from++)
        if (*from != '.' && n < (int)sizeof digits)
            digits[n++] = *from;
    int exponent = atoi(from + 1);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    if (exponent < -4 || exponent >= limit) {
        lb_str_putc(out, digits[0]);
        if (n > 1)
            lb_str_putc(out, '.');
        lb_str_put(out, digits + 1, (size_t)(n - 1));
        lb_str_putf(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    if (exponent < 0) {
        lb_str_puts(out, "0.");
        for (int i = -1; i > exponent; i--)
            lb_str_putc(out, '0');
        lb_str_put(out, digits, (size_t)n);
        return;
    }
    for (int i = 0; i <= exponent || i < n; i++) {
        if (i == exponent + 1)
            lb_str_putc(out, '.');
        lb_str_putc(out, i < n ? digits[i] : '0');
    }
    if (n <= exponent + 1)
        lb_str_puts(out, ".0");
}

void lb_jput_float(struct lb_str *out, double x)
{
    if (isnan(x) || isinf(x)) {
        lb_str_puts(out, isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
        return;
    }
    char text[32];
    shortest(fabs(x), text);
    if (signbit(x))
        lb_str_putc(out, '-');
    lb_jput_decimal(out, text, 16);
}

static bool put_escape(struct lb_str *out, uint32_t cp, char quote)
{
    if (cp == (uint32_t)quote || cp == '\\')
        lb_str_putf(out, "\\%c", (char)cp);
    else if (cp == '\n' || cp == '\r' || cp == '\t')
        lb_str_puts(out, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
    else if (lb_juni_is(cp, LB_JUNI_PRINT))
        return false;
    else if (cp < 0x100)
        lb_str_putf(out, "\\x%02x", cp);
    else
        lb_str_putf(out, cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    return true;
}

static void repr_text(struct lb_str *out, const struct lb_jtext *t)
{
    char quote = memchr(t->data, '\'', t->len) && !memchr(t->data, '"', t->len) ? '"' : '\'';
    if (t->safe)
        lb_str_puts(out, "Markup(");
    lb_str_putc(out, quote);
    for (size_t i = 0, bytes; i < t->len; i += bytes) {
        unsigned char c = (unsigned char)t->data[i];
        bytes = 1;
        if (c >= ' ' && c < 0x7f && c != (unsigned char)quote && c != '\\') {
            while (i + bytes < t->len && t->data[i + bytes] >= ' ' && t->data[i + bytes] < 0x7f &&
                   t->data[i + bytes] != quote && t->data[i + bytes] != '\\')
                bytes++;
            lb_str_put(out, t->data + i, bytes);
            continue;
        }
        int n;
        uint32_t cp = lb_utf8_decode(t->data + i, t->len - i, &n);
        bytes = (size_t)n;
        if (!put_escape(out, cp, quote))
            lb_str_put(out, t->data + i, bytes);
    }
    lb_str_putc(out, quote);
    if (t->safe)
        lb_str_putc(out, ')');
}

static bool room_in(struct lb_jrun *r, const struct lb_str *out, size_t more)
{
    if (out->failed || out->len > LB_JINJA_MAX_VALUE || more > LB_JINJA_MAX_VALUE)
        lb_jinja_fail(r, "the template makes a value of more than %zu MiB", LB_JINJA_MAX_VALUE >> 20);
    return lb_jrun_spend(r, 1 + more / 64);
}

static void put_int(struct lb_str *out, int64_t i)
{
    char text[24];
    size_t at = sizeof text;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    do
        text[--at] = (char)('0' + u % 10);
    while (u /= 10);
    if (i < 0)
        text[--at] = '-';
    lb_str_put(out, text + at, sizeof text - at);
}

static void repr_items(struct lb_jrun *r, struct lb_str *out, struct lb_jval v, const char *open, const char *close)
{
    lb_str_puts(out, open);
    for (size_t i = 0; i < v.u.list->n && !r->failed; i++) {
        if (i)
            lb_str_puts(out, ", ");
        lb_jput_repr(r, out, v.u.list->item[i]);
    }
    if (v.kind == LB_J_TUPLE && v.u.list->n == 1)
        lb_str_putc(out, ',');
    lb_str_puts(out, close);
}

static void repr_dict(struct lb_jrun *r, struct lb_str *out, struct lb_jval v)
{
    lb_str_puts(out, v.kind == LB_J_NAMESPACE ? "<Namespace {" : "{");
    for (size_t i = 0; i < v.u.dict->n && !r->failed; i++) {
        if (i)
            lb_str_puts(out, ", ");
        lb_jput_repr(r, out, v.u.dict->pair[i].key);
        lb_str_puts(out, ": ");
        lb_jput_repr(r, out, v.u.dict->pair[i].value);
    }
    lb_str_puts(out, v.kind == LB_J_NAMESPACE ? "}>" : "}");
}

static void repr_stream(struct lb_jrun *r, struct lb_str *out, const struct lb_jstream *s)
{
    if (!s->view) {
        lb_str_putf(out, "<%s object>", s->type_name);
        return;
    }
    lb_str_puts(out, s->type_name);
    repr_items(r, out, s->items, "([", "])");
}

static void repr_range(struct lb_str *out, const struct lb_jrange *x)
{
    lb_str_putf(out, "range(%lld, %lld", (long long)x->start, (long long)x->stop);
    if (x->step != 1)
        lb_str_putf(out, ", %lld", (long long)x->step);
    lb_str_putc(out, ')');
}

static void repr_container(struct lb_jrun *r, struct lb_str *out, struct lb_jval v)
{
    if (lb_jrun_enter(r)) {
        if (v.kind == LB_J_LIST)
            repr_items(r, out, v, "[", "]");
        else if (v.kind == LB_J_TUPLE)
            repr_items(r, out, v, "(", ")");
        else if (v.kind == LB_J_STREAM)
            repr_stream(r, out, v.u.stream);
        else
            repr_dict(r, out, v);
    }
    lb_jrun_leave(r);
}

void lb_jput_repr(struct lb_jrun *r, struct lb_str *out, struct lb_jval v)
{
    if (!room_in(r, out, v.kind == LB_J_STR ? v.u.text->len : 0))
        return;
    switch ((enum lb_jkind)v.kind) {
    case LB_J_UNDEFINED:
        lb_str_puts(out, "Undefined");
        return;
    case LB_J_NONE:
    case LB_J_ABSENT:
        lb_str_puts(out, "None");
        return;
    case LB_J_BOOL:
        lb_str_puts(out, v.u.b ? "True" : "False");
        return;
    case LB_J_INT:
        put_int(out, v.u.i);
        return;
    case LB_J_FLOAT:
        lb_jput_float(out, v.u.f);
        return;
    case LB_J_STR:
        repr_text(out, v.u.text);
        return;
    case LB_J_RANGE:
        repr_range(out, v.u.range);
        return;
    case LB_J_CALL:
        lb_str_putf(out, "<function %s>", v.u.call->name);
        return;
    case LB_J_OBJECT:
        lb_str_putf(out, "<%s object>", v.u.object->type_name);
        return;
    case LB_J_LIST:
    case LB_J_TUPLE:
    case LB_J_DICT:
    case LB_J_NAMESPACE:
    case LB_J_STREAM:
        repr_container(r, out, v);
        return;
    }
}

void lb_jput_str(struct lb_jrun *r, struct lb_str *out, struct lb_jval v)
{
    if (v.kind == LB_J_UNDEFINED)
        return;
    if (v.kind != LB_J_STR)
        lb_jput_repr(r, out, v);
    else if (room_in(r, out, v.u.text->len))
        lb_str_put(out, v.u.text->data, v.u.text->len);
}

struct lb_jval lb_jstr(struct lb_jrun *r, struct lb_jval v)
{
    if (v.kind == LB_J_STR)
        return v.u.text->safe ? lb_jtext_lend(r, v.u.text->data, v.u.text->len) : v;
    size_t mark = lb_jscratch_begin(r);
    lb_jput_str(r, &r->scratch, v);
    return lb_jscratch_end(r, mark);
}
