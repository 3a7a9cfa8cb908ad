#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/io/row_impl.h"

bool lb_json_int(const json_t *v, int64_t *out)
{
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return true;
    }
    double x = json_is_real(v) ? json_real_value(v) : NAN;
    /* -2^63 is left out: an integer below it, read as a real, would round to it. */
    if (!(x > -0x1p63 && x < 0x1p63) || x != floor(x))
        return false;
    *out = (int64_t)x;
    return true;
}

static void put_real(struct lb_str *out, double x)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            break;
    }
    lb_str_puts(out, text);
    if (!strpbrk(text, ".e"))
        lb_str_puts(out, ".0"); /* a real stays one */
}

void lb_json_put(struct lb_str *out, const json_t *v)
{
    json_t *lent = (json_t *)(uintptr_t)v; /* jansson's iterators want a pointer that they could write through */
    const char *name;
    json_t *item;
    size_t i;
    bool first = true;
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        lb_str_putc(out, '{');
        json_object_foreach(lent, name, item)
        {
            if (!first)
                lb_str_putc(out, ',');
            first = false;
            lb_str_put_json(out, name, strlen(name));
            lb_str_putc(out, ':');
            lb_json_put(out, item);
        }
        lb_str_putc(out, '}');
        break;
    case JSON_ARRAY:
        lb_str_putc(out, '[');
        json_array_foreach(lent, i, item)
        {
            if (i)
                lb_str_putc(out, ',');
            lb_json_put(out, item);
        }
        lb_str_putc(out, ']');
        break;
    case JSON_STRING:
        lb_str_put_json(out, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        lb_str_putf(out, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL:
        put_real(out, json_real_value(v));
        break;
    case JSON_TRUE:
        lb_str_puts(out, "true");
        break;
    case JSON_FALSE:
        lb_str_puts(out, "false");
        break;
    case JSON_NULL:
        lb_str_puts(out, "null");
        break;
    }
}

void lb_json_show(char *buf, size_t n, const json_t *v)
{
    if (json_is_object(v) || json_is_array(v)) {
        snprintf(buf, n, "%s", json_is_array(v) ? "an array" : "an object");
        return;
    }
    struct lb_str s = {0};
    const size_t room = 40;
    if (json_is_string(v) && json_string_length(v) > room) {
        const char *text = json_string_value(v);
        lb_str_put_json(&s, text, lb_utf8_valid_prefix(text, room));
        lb_str_puts(&s, "...");
    } else {
        lb_json_put(&s, v);
    }
    snprintf(buf, n, "%s", s.data ? s.data : "");
    lb_str_release(&s);
}

/* Whether n digits are more than a 64-bit integer holds. */
static bool too_big(const char *digits, size_t n, bool negative)
{
    while (n > 0 && *digits == '0') {
        digits++;
        n--;
    }
    if (n != 19)
        return n > 19;
    return memcmp(digits, negative ? "9223372036854775808" : "9223372036854775807", 19) > 0;
}

/* Copies a line, giving integers beyond 64 bits a fraction of zero, so that the parser takes them as reals. */
static void widen(struct lb_str *out, const char *p, size_t n)
{
    bool quoted = false;
    for (size_t i = 0; i < n;) {
        size_t from = i;
        if (quoted || !(p[i] == '-' || (p[i] >= '0' && p[i] <= '9'))) {
            if (p[i] == '"')
                quoted = !quoted;
            else if (quoted && p[i] == '\\' && i + 1 < n)
                i++;
            i++;
            lb_str_put(out, p + from, i - from);
            continue;
        }
        size_t first = p[i] == '-' ? ++i : i;
        while (i < n && p[i] >= '0' && p[i] <= '9')
            i++;
        bool whole = i == n || !memchr(".eE", p[i], 3);
        bool wide = whole && too_big(p + first, i - first, first > from);
        while (i < n && p[i] && strchr("0123456789.eE+-", p[i]))
            i++;
        lb_str_put(out, p + from, i - from);
        if (wide)
            lb_str_puts(out, ".0");
    }
}

json_t *lb_json_load(const char *line, size_t n, json_error_t *why, bool *memory)
{
    const size_t flags = JSON_ALLOW_NUL | JSON_DECODE_ANY;
    json_t *v = json_loadb(line, n, flags, why);
    if (!v && json_error_code(why) == json_error_numeric_overflow) {
        struct lb_str wide = {0};
        widen(&wide, line, n);
        if (wide.failed)
            *memory = true;
        else
            v = json_loadb(wide.data, wide.len, flags, why);
        lb_str_release(&wide);
    }
    if (!v && json_error_code(why) == json_error_out_of_memory)
        *memory = true;
    return v;
}
