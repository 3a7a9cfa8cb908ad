#include "core/base/str.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

static bool grow(struct lb_str *s, size_t more)
{
    struct lb_err err = LB_ERR_INIT;
    if (s->failed || more > SIZE_MAX - s->len - 1) {
        s->failed = true;
        return false;
    }
    if (lb_mem_grow((void **)&s->data, &s->cap, s->len + more + 1, 1, "text", &err) != LB_OK)
        s->failed = true;
    return !s->failed;
}

/* Nearly always there is room: the error's text is not cleared for it. */
static inline bool reserve(struct lb_str *s, size_t more)
{
    return (!s->failed && more < s->cap - s->len) || grow(s, more);
}

void lb_str_release(struct lb_str *s)
{
    lb_mem_free(s->data);
    *s = (struct lb_str){0};
}

void lb_str_clear(struct lb_str *s)
{
    s->len = 0;
    s->failed = false;
    if (s->data)
        s->data[0] = 0;
}

void lb_str_put(struct lb_str *s, const void *bytes, size_t n)
{
    if (!reserve(s, n))
        return;
    if (n)
        memcpy(s->data + s->len, bytes, n);
    s->len += n;
    s->data[s->len] = 0;
}

void lb_str_puts(struct lb_str *s, const char *text)
{
    lb_str_put(s, text, strlen(text));
}

void lb_str_putc(struct lb_str *s, char c)
{
    lb_str_put(s, &c, 1);
}

void lb_str_putf(struct lb_str *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !reserve(s, (size_t)n))
        return;
    va_start(ap, fmt);
    vsnprintf(s->data + s->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    s->len += (size_t)n;
}

/* Bytes of the valid sequence at p, or 0; *skip is then the length of the maximal invalid part (at least 1). */
static int sequence(const unsigned char *p, size_t n, size_t *skip)
{
    *skip = 1;
    if (p[0] < 0x80)
        return 1;
    int len = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4)
        return 0;
    unsigned lo = 0x80, hi = 0xBF;
    if (p[0] == 0xE0)
        lo = 0xA0;
    else if (p[0] == 0xED)
        hi = 0x9F;
    else if (p[0] == 0xF0)
        lo = 0x90;
    else if (p[0] == 0xF4)
        hi = 0x8F;
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n || p[i] < lo || p[i] > hi) {
            *skip = (size_t)i;
            return 0;
        }
        lo = 0x80;
        hi = 0xBF;
    }
    return len;
}

size_t lb_utf8_valid_prefix(const char *text, size_t n)
{
    size_t i = 0, skip;
    while (i < n) {
        uint64_t eight;
        while (n - i >= sizeof eight) { /* eight bytes of ASCII at once */
            memcpy(&eight, text + i, sizeof eight);
            if (eight & 0x8080808080808080u)
                break;
            i += sizeof eight;
        }
        if (i == n)
            break;
        int len = sequence((const unsigned char *)text + i, n - i, &skip);
        if (!len)
            break;
        i += (size_t)len;
    }
    return i;
}

void lb_str_put_utf8_lossy(struct lb_str *s, const char *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        size_t ok = lb_utf8_valid_prefix(text + i, n - i), skip;
        lb_str_put(s, text + i, ok);
        i += ok;
        if (i < n) {
            (void)sequence((const unsigned char *)text + i, n - i, &skip);
            lb_str_put(s, "\xEF\xBF\xBD", 3);
            i += skip;
        }
    }
}

void lb_str_put_codepoint(struct lb_str *s, uint32_t cp)
{
    char b[4];
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF))
        cp = 0xFFFD;
    if (cp < 0x80) {
        lb_str_putc(s, (char)cp);
        return;
    }
    int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, cp >>= 6)
        b[i] = (char)(0x80 | (cp & 0x3F));
    b[0] = (char)((0xF00 >> n) | cp);
    lb_str_put(s, b, (size_t)n);
}

uint32_t lb_utf8_decode(const char *text, size_t n, int *n_bytes)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t skip;
    int len = sequence(p, n, &skip);
    *n_bytes = len ? len : 1;
    switch (len) {
    case 1:
        return p[0];
    case 2:
        return (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F);
    case 3:
        return (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    case 4:
        return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6 |
               (p[3] & 0x3F);
    default:
        return 0xFFFD;
    }
}

void lb_str_put_json(struct lb_str *s, const char *text, size_t n)
{
    lb_str_putc(s, '"');
    size_t i = 0;
    while (i < n) {
        size_t run = i;
        unsigned char c = 0;
        while (run < n) {
            c = (unsigned char)text[run];
            if (c < 0x20 || c == '"' || c == '\\')
                break;
            run++;
        }
        lb_str_put_utf8_lossy(s, text + i, run - i);
        i = run;
        if (i == n)
            break;
        static const char *const names = "\"\"\\\\\bb\ff\nn\rr\tt";
        const char *at = names;
        while (*at && (unsigned char)at[0] != c)
            at += 2;
        if (*at)
            lb_str_putf(s, "\\%c", at[1]);
        else
            lb_str_putf(s, "\\u%04x", c);
        i++;
    }
    lb_str_putc(s, '"');
}

void lb_str_put_f32(struct lb_str *s, float x)
{
    char text[32];
    if (!isfinite(x)) {
        lb_str_puts(s, "null");
        return;
    }
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            break;
    }
    lb_str_puts(s, text);
}

bool lb_parse_size(const char *text, size_t *bytes)
{
    /* digits with at most one point; strtod alone would take 0x10, 1e3 and inf as well */
    size_t n = strspn(text, "0123456789");
    if (n == 0)
        return false;
    if (text[n] == '.') {
        size_t fraction = strspn(text + n + 1, "0123456789");
        if (fraction == 0)
            return false;
        n += 1 + fraction;
    }
    if (text[n] && text[n + 1])
        return false;
    char *end;
    double v = strtod(text, &end);
    if (end != text + n)
        return false;
    double unit = 1;
    if (*end == 'K' || *end == 'k')
        unit = 1024.0;
    else if (*end == 'M' || *end == 'm')
        unit = 1024.0 * 1024;
    else if (*end == 'G' || *end == 'g')
        unit = 1024.0 * 1024 * 1024;
    if (unit > 1)
        end++;
    if (*end || !(v * unit < 9e18))
        return false;
    *bytes = (size_t)(v * unit);
    return true;
}

/* At most nine digits, moved over; -1: none or too many. */
static int64_t take_digits(const char **at)
{
    int64_t v = 0;
    size_t n = strspn(*at, "0123456789");
    for (size_t i = 0; i < n && n <= 9; i++)
        v = 10 * v + (*at)[i] - '0';
    *at += n;
    return n >= 1 && n <= 9 ? v : -1;
}

/* "[D-]HH:MM:SS", as Slurm writes it. */
static bool parse_clock(const char *text, int64_t *seconds)
{
    int64_t days = 0, part[3];
    if (strchr(text, '-')) {
        days = take_digits(&text);
        if (*text++ != '-')
            return false;
    }
    for (int i = 0; i < 3; i++) {
        part[i] = take_digits(&text);
        if (part[i] < 0 || (i > 0 && part[i] > 59) || *text != (i < 2 ? ':' : 0))
            return false;
        text++;
    }
    *seconds = ((days * 24 + part[0]) * 60 + part[1]) * 60 + part[2];
    return days >= 0;
}

bool lb_parse_duration(const char *text, int64_t *seconds)
{
    static const char units[] = "dhms";
    static const int64_t length[] = {86400, 3600, 60, 1};
    if (strchr(text, ':'))
        return parse_clock(text, seconds);
    int64_t sum = 0;
    for (size_t next = 0; *text; text++) {
        int64_t v = take_digits(&text);
        const char *unit = *text ? strchr(units, *text) : NULL;
        if (v < 0 || !unit || (size_t)(unit - units) < next)
            return false;
        sum += v * length[unit - units];
        next = (size_t)(unit - units) + 1;
        if (!text[1])
            *seconds = sum;
    }
    return sum > 0;
}

int lb_edit_distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    int row[64];
    if (na >= 64 || nb >= 64)
        return 99;
    for (size_t j = 0; j <= nb; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int diag = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int best = diag + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diag = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}
