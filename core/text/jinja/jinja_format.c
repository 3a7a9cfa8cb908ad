/* Python's format specifications: "{:>8.2f}". */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

struct spec {
    const char *fill;
    size_t fill_bytes;
    char align, group;
    int64_t width;
    struct lb_jnumspec num;
};

/* ---- digits ---- */

static void put_int(struct lb_jrun *r, uint64_t u, char type)
{
    unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
    const char *digits = type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    char text[64];
    size_t at = sizeof text;
    do
        text[--at] = digits[u % base];
    while (u /= base);
    lb_str_put(&r->scratch, text + at, sizeof text - at);
}

/* The type's own form of a finite magnitude, as C prints it too. */
static void put_c_float(struct lb_jrun *r, double x, struct lb_jnumspec spec)
{
    int precision = spec.precision < 0 ? 6 : spec.precision;
    size_t cap = (size_t)precision + 330;
    if (!lb_jroom(r, cap))
        return;
    char *text = lb_jrun_alloc(r, cap);
    if (!text)
        return;
    switch (spec.type) { /* spelled out, so that the compiler checks them */
    case 'e':
        snprintf(text, cap, spec.alternate ? "%#.*e" : "%.*e", precision, x);
        break;
    case 'E':
        snprintf(text, cap, spec.alternate ? "%#.*E" : "%.*E", precision, x);
        break;
    case 'g':
    case 'n':
        snprintf(text, cap, spec.alternate ? "%#.*g" : "%.*g", precision, x);
        break;
    case 'G':
        snprintf(text, cap, spec.alternate ? "%#.*G" : "%.*G", precision, x);
        break;
    default:
        snprintf(text, cap, spec.alternate ? "%#.*f" : "%.*f", precision, x);
        break;
    }
    lb_str_puts(&r->scratch, text);
}

/* No type: as str() does it, or with so many digits where a precision asks for them. */
static void put_plain_float(struct lb_jrun *r, double x, struct lb_jnumspec spec)
{
    int precision = spec.precision;
    if (precision < 0) {
        size_t mark = r->scratch.len;
        lb_jput_float(&r->scratch, x);
        char *e = r->scratch.data ? strchr(r->scratch.data + mark, 'e') : NULL;
        if (spec.alternate && e && !strchr(r->scratch.data + mark, '.')) { /* 1.e+22 */
            char tail[8];
            snprintf(tail, sizeof tail, ".%s", e);
            r->scratch.len = (size_t)(e - r->scratch.data);
            lb_str_puts(&r->scratch, tail);
        }
        return;
    }
    char text[64];
    if (precision == 0)
        precision = 1;
    if (precision > 50)
        precision = 50;
    snprintf(text, sizeof text, spec.alternate ? "%#.*e" : "%.*e", precision - 1, x);
    if (spec.alternate) { /* zeros are kept */
        if (atoi(strchr(text, 'e') + 1) < precision - 1)
            snprintf(text, sizeof text, "%#.*g", precision, x);
        lb_str_puts(&r->scratch, text);
        return;
    }
    lb_jput_decimal(&r->scratch, text, precision - 1);
}

static void put_float(struct lb_jrun *r, double x, struct lb_jnumspec spec)
{
    if (spec.type == '%')
        x *= 100;
    if (isinf(x) || isnan(x)) {
        bool upper = spec.type == 'F' || spec.type == 'E' || spec.type == 'G';
        lb_str_puts(&r->scratch, isnan(x) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf"));
    } else if (spec.type == 0)
        put_plain_float(r, x, spec);
    else
        put_c_float(r, x, spec);
    if (spec.type == '%')
        lb_str_putc(&r->scratch, '%');
}

static bool only_zeros(const struct lb_str *s, size_t mark)
{
    for (size_t i = mark; i < s->len && s->data[i] != 'e' && s->data[i] != 'E'; i++)
        if (s->data[i] >= '1' && s->data[i] <= '9')
            return false;
    return s->len > mark;
}

void lb_jput_digits(struct lb_jrun *r, char head[4], struct lb_jval v, struct lb_jnumspec spec)
{
    bool negative, whole = lb_jis_int(v) && (!spec.type || strchr("dboxXn", spec.type));
    size_t mark = lb_jscratch_begin(r), n = 0;
    if (whole) {
        int64_t i = lb_jint_of(v);
        negative = i < 0;
        put_int(r, negative ? 0 - (uint64_t)i : (uint64_t)i, spec.type);
    } else {
        double x = lb_jdouble_of(v);
        negative = signbit(x) && !isnan(x);
        put_float(r, fabs(x), spec);
        if (spec.no_minus_zero && negative && only_zeros(&r->scratch, mark))
            negative = false;
    }
    if (negative)
        head[n++] = '-';
    else if (spec.sign == '+' || spec.sign == ' ')
        head[n++] = spec.sign;
    if (whole && spec.alternate && spec.type && strchr("boxX", spec.type)) {
        head[n++] = '0';
        head[n++] = spec.type;
    }
    head[n] = 0;
}

/* ---- the specification ---- */

static bool is_align(char c)
{
    return c == '<' || c == '>' || c == '=' || c == '^';
}

static size_t read_count(struct lb_jrun *r, const char *spec, size_t n, size_t at, int64_t *count)
{
    size_t from = at;
    int64_t value = 0;
    for (; at < n && spec[at] >= '0' && spec[at] <= '9'; at++) {
        value = value * 10 + (spec[at] - '0');
        if (value > INT32_MAX) {
            lb_jinja_fail(r, "Too many decimal digits in format string");
            return at;
        }
    }
    if (at > from)
        *count = value;
    return at;
}

static size_t read_fill(const char *spec, size_t n, struct spec *s)
{
    int bytes = 1;
    if (n)
        lb_utf8_decode(spec, n, &bytes);
    if ((size_t)bytes < n && is_align(spec[bytes])) {
        s->fill = spec;
        s->fill_bytes = (size_t)bytes;
        s->align = spec[bytes];
        return (size_t)bytes + 1;
    }
    if (n && is_align(spec[0])) {
        s->align = spec[0];
        return 1;
    }
    return 0;
}

static void read_spec(struct lb_jrun *r, const char *spec, size_t n, bool number, struct spec *s)
{
    *s = (struct spec){.num = {.precision = -1}};
    int64_t precision = -1;
    size_t at = read_fill(spec, n, s);
    if (at < n && (spec[at] == '+' || spec[at] == '-' || spec[at] == ' '))
        s->num.sign = spec[at++];
    if (at < n && spec[at] == 'z') {
        s->num.no_minus_zero = true;
        at++;
    }
    if (at < n && spec[at] == '#') {
        s->num.alternate = true;
        at++;
    }
    if (!s->fill && at < n && spec[at] == '0') {
        s->fill = "0";
        s->fill_bytes = 1;
        if (!s->align && number)
            s->align = '=';
        at++;
    }
    at = read_count(r, spec, n, at, &s->width);
    if (at < n && (spec[at] == ',' || spec[at] == '_'))
        s->group = spec[at++];
    if (at < n && spec[at] == '.') {
        at = read_count(r, spec, n, at + 1, &precision);
        if (precision < 0)
            lb_jinja_fail(r, "Format specifier missing precision");
    }
    s->num.precision = (int)precision;
    if (at < n)
        s->num.type = spec[at++];
    if (at < n)
        lb_jinja_fail(r, "Invalid format specifier");
    if (!s->fill) {
        s->fill = " ";
        s->fill_bytes = 1;
    }
    if (!s->align)
        s->align = number ? '>' : '<';
}

static void put_times(struct lb_str *out, const char *text, size_t n, int64_t times)
{
    for (; times > 0; times--)
        lb_str_put(out, text, n);
}

/* head (sign, prefix) comes before '=' padding. */
static void put_padded(struct lb_jrun *r, struct lb_str *out, const struct spec *s, const char *head,
                       struct lb_jval body)
{
    int64_t more = s->width - lb_jtext_chars(body.u.text) - (int64_t)strlen(head);
    if (more < 0)
        more = 0;
    if (!lb_jroom(r, body.u.text->len + (uint64_t)more * s->fill_bytes))
        return;
    int64_t left = s->align == '<' ? 0 : s->align == '^' ? more / 2 : more;
    if (s->align == '=')
        lb_str_puts(out, head);
    put_times(out, s->fill, s->fill_bytes, left);
    if (s->align != '=')
        lb_str_puts(out, head);
    lb_str_put(out, body.u.text->data, body.u.text->len);
    put_times(out, s->fill, s->fill_bytes, more - left);
}

/* Separators into the whole part of digits, with zeros before it until it is min_width wide. It is built from its
 * end, reversed. */
static struct lb_jval group_digits(struct lb_jrun *r, const struct spec *s, struct lb_jval body, int64_t min_width)
{
    const char *text = body.u.text->data;
    int64_t n = 0, each = s->num.type && strchr("boxX", s->num.type) ? 4 : 3;
    bool hex = s->num.type == 'x' || s->num.type == 'X';
    while (n < (int64_t)body.u.text->len &&
           ((text[n] >= '0' && text[n] <= '9') ||
            (hex && ((text[n] >= 'a' && text[n] <= 'f') || (text[n] >= 'A' && text[n] <= 'F')))))
        n++;
    if (n == 0 || !lb_jroom(r, 2 * (uint64_t)(n + (min_width > 0 ? min_width : 0))))
        return body;
    size_t mark = lb_jscratch_begin(r);
    int64_t left = n, in_group = 0;
    while (left > 0 || min_width > 0) {
        if (in_group == each) {
            lb_str_putc(&r->scratch, s->group);
            in_group = 0;
            min_width--;
            if (left <= 0 && min_width <= 0)
                min_width = 1; /* a separator never stands first */
        }
        lb_str_putc(&r->scratch, left > 0 ? text[left - 1] : '0');
        left--;
        min_width--;
        in_group++;
    }
    if (r->scratch.failed)
        return lb_jscratch_end(r, mark);
    for (size_t i = mark, k = r->scratch.len; i + 1 < k; i++) {
        char c = r->scratch.data[--k];
        r->scratch.data[k] = r->scratch.data[i];
        r->scratch.data[i] = c;
    }
    lb_str_put(&r->scratch, text + n, body.u.text->len - (size_t)n);
    return lb_jscratch_end(r, mark);
}

static bool check_number(struct lb_jrun *r, const struct spec *s, struct lb_jval v)
{
    char type = s->num.type;
    bool whole = lb_jis_int(v);
    if (type && !strchr(whole ? "bcdoxXneEfFgG%" : "eEfFgGn%", type)) {
        lb_jinja_fail(r, "Unknown format code '%c' for object of type '%s'", type, lb_jtype_name(v));
        return false;
    }
    bool as_int = whole && (!type || strchr("bcdoxXn", type));
    if (as_int && s->num.precision >= 0)
        lb_jinja_fail(r, "Precision not allowed in integer format specifier");
    else if (as_int && s->num.no_minus_zero)
        lb_jinja_fail(r, "Negative zero coercion (z) not allowed in format specifier with integer");
    else if (type == 'c' && (s->num.sign || s->num.alternate))
        lb_jinja_fail(r, "%s not allowed with integer format specifier 'c'",
                      s->num.sign ? "Sign" : "Alternate form (#)");
    else if (s->group && type && strchr(s->group == ',' ? "bcoxXn" : "cn", type))
        lb_jinja_fail(r, "Cannot specify '%c' with '%c'.", s->group, type);
    return !r->failed;
}

static void format_number(struct lb_jrun *r, struct lb_str *out, struct lb_jval v, struct spec *s)
{
    char head[4] = "";
    if (!check_number(r, s, v))
        return;
    size_t mark = lb_jscratch_begin(r);
    if (s->num.type == 'c') {
        int64_t code = lb_jint_of(v);
        if (code < 0 || code > 0x10ffff) {
            lb_jinja_fail(r, "%%c arg not in range(0x110000)");
            return;
        }
        lb_str_put_codepoint(&r->scratch, (uint32_t)code);
    } else
        lb_jput_digits(r, head, v, s->num);
    struct lb_jval body = lb_jscratch_end(r, mark);
    if (r->failed)
        return;
    if (s->group) {
        bool fills = s->align == '=' && s->fill_bytes == 1 && *s->fill == '0';
        size_t rest = body.u.text->len - strspn(body.u.text->data, "0123456789abcdefABCDEF");
        if (!s->num.type || !strchr("xX", s->num.type))
            rest = body.u.text->len - strspn(body.u.text->data, "0123456789");
        body = group_digits(r, s, body, fills ? s->width - (int64_t)(rest + strlen(head)) : 0);
    }
    if (!r->failed)
        put_padded(r, out, s, head, body);
}

static void format_text(struct lb_jrun *r, struct lb_str *out, struct lb_jval v, const struct spec *s)
{
    if (s->num.type && s->num.type != 's')
        lb_jinja_fail(r, "Unknown format code '%c' for object of type 'str'", s->num.type);
    else if (s->num.sign)
        lb_jinja_fail(r, "Sign not allowed in string format specifier");
    else if (s->num.no_minus_zero)
        lb_jinja_fail(r, "Negative zero coercion (z) not allowed in string format specifier");
    else if (s->num.alternate)
        lb_jinja_fail(r, "Alternate form (#) not allowed in string format specifier");
    else if (s->align == '=')
        lb_jinja_fail(r, "'=' alignment not allowed in string format specifier");
    else if (s->group)
        lb_jinja_fail(r, "Cannot specify '%c' with 's'.", s->group);
    if (r->failed)
        return;
    if (s->num.precision >= 0)
        v = lb_jtext_part(r, v.u.text, 0, lb_jtext_offset(v.u.text, s->num.precision));
    if (!r->failed)
        put_padded(r, out, s, "", v);
}

/* out may be the scratch: what is worked out on the way is ended before out is put to. */
void lb_jformat_value(struct lb_jrun *r, struct lb_str *out, struct lb_jval v, const char *spec, size_t n)
{
    struct spec s;
    if (n == 0) {
        lb_jput_str(r, out, v);
        return;
    }
    if (v.kind != LB_J_STR && !lb_jis_number(v)) {
        lb_jinja_fail(r, "unsupported format string passed to %s.__format__", lb_jtype_name(v));
        return;
    }
    read_spec(r, spec, n, v.kind != LB_J_STR, &s);
    if (r->failed)
        return;
    if (v.kind == LB_J_STR)
        format_text(r, out, v, &s);
    else
        format_number(r, out, v, &s);
}
