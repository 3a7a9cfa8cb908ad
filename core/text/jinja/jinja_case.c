/* Case and character classes of texts, and numbers read from them, as Python's str, int() and float() have them. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

static bool is_cased(uint32_t c)
{
    return lb_juni_is(c, LB_JUNI_LOWER) || lb_juni_is(c, LB_JUNI_UPPER) || lb_juni_is(c, LB_JUNI_TITLE);
}

/* A capital sigma at the end of a word: a cased letter before it, none after it, ignorable marks apart. */
static bool is_final(const struct lb_jtext *t, size_t at)
{
    size_t i = at;
    uint32_t c = 0;
    int bytes;
    do {
        if (i == 0)
            return false;
        for (i--; i > 0 && ((unsigned char)t->data[i] & 0xc0) == 0x80;)
            i--;
        c = lb_utf8_decode(t->data + i, t->len - i, &bytes);
    } while (lb_juni_is(c, LB_JUNI_CASE_IGNORABLE));
    if (!is_cased(c))
        return false;
    for (i = at + 2; i < t->len; i += (size_t)bytes) {
        c = lb_utf8_decode(t->data + i, t->len - i, &bytes);
        if (!lb_juni_is(c, LB_JUNI_CASE_IGNORABLE))
            return !is_cased(c);
    }
    return true;
}

static void put_mapped(struct lb_jrun *r, const struct lb_jtext *t, size_t at, uint32_t c, char how)
{
    uint32_t to[3];
    if (c == 0x3a3 && how == 'l') {
        lb_str_put_codepoint(&r->scratch, is_final(t, at) ? 0x3c2 : 0x3c3);
        return;
    }
    int n = lb_juni_map(c, how, to);
    for (int i = 0; i < n; i++)
        lb_str_put_codepoint(&r->scratch, to[i]);
}

/* The mapping that a character gets: as `how` says, for 's' by its own case, for 't' and 'c' by where it stands. */
static char mapping(char how, uint32_t c, bool first, bool after_cased)
{
    switch (how) {
    case 's':
        return lb_juni_is(c, LB_JUNI_UPPER) ? 'l' : lb_juni_is(c, LB_JUNI_LOWER) ? 'u' : 0;
    case 't':
        return after_cased ? 'l' : 't';
    case 'c':
        return first ? 't' : 'l';
    default:
        return how;
    }
}

struct lb_jval lb_jstr_case(struct lb_jrun *r, struct lb_jval s, char how)
{
    const struct lb_jtext *t = s.u.text;
    if (!lb_jroom(r, t->len) || !lb_jscan(r, t->len))
        return lb_jnone();
    size_t mark = lb_jscratch_begin(r);
    bool cased = false;
    int bytes;
    for (size_t at = 0; at < t->len && !r->failed; at += (size_t)bytes) {
        uint32_t c = lb_utf8_decode(t->data + at, t->len - at, &bytes);
        char to = mapping(how, c, at == 0, cased);
        if (to)
            put_mapped(r, t, at, c, to);
        else
            lb_str_put_codepoint(&r->scratch, c);
        if (how == 't')
            cased = is_cased(c);
    }
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), t->safe);
}

static bool is_class(uint32_t c, char what, bool first)
{
    switch (what) {
    case 'a':
        return lb_juni_is(c, LB_JUNI_ALPHA);
    case 'd':
        return lb_juni_is(c, LB_JUNI_DIGIT);
    case 'e':
        return lb_juni_is(c, LB_JUNI_DECIMAL);
    case 'n':
        return lb_juni_is(c, LB_JUNI_NUMERIC);
    case 'w':
        return lb_juni_is(c, LB_JUNI_ALPHA) || lb_juni_is(c, LB_JUNI_DIGIT) || lb_juni_is(c, LB_JUNI_NUMERIC);
    case 's':
        return lb_juni_is(c, LB_JUNI_SPACE);
    case 'i':
        return lb_juni_is(c, first ? LB_JUNI_ID_START : LB_JUNI_ID_CONTINUE);
    case 'p':
        return lb_juni_is(c, LB_JUNI_PRINT);
    default:
        return c < 0x80;
    }
}

/* isupper, islower, istitle: something is cased, and nothing is cased otherwise. */
static bool has_case(const struct lb_jtext *t, char what)
{
    bool found = false, after_cased = false;
    int bytes;
    for (size_t at = 0; at < t->len; at += (size_t)bytes) {
        uint32_t c = lb_utf8_decode(t->data + at, t->len - at, &bytes);
        bool lower = lb_juni_is(c, LB_JUNI_LOWER), title = lb_juni_is(c, LB_JUNI_TITLE);
        bool upper = lb_juni_is(c, LB_JUNI_UPPER);
        if (what == 't') {
            if (((upper || title) && after_cased) || (lower && !after_cased))
                return false;
            after_cased = upper || title || lower;
            found = found || after_cased;
            continue;
        }
        if (title || (what == 'u' ? lower : upper))
            return false;
        found = found || upper || lower;
    }
    return found;
}

bool lb_jstr_is(const struct lb_jtext *t, char what)
{
    if (what == 'u' || what == 'l' || what == 't')
        return has_case(t, what);
    int bytes;
    for (size_t at = 0; at < t->len; at += (size_t)bytes)
        if (!is_class(lb_utf8_decode(t->data + at, t->len - at, &bytes), what, at == 0))
            return false;
    return t->len > 0 || what == 'p' || what == '7';
}

/* ---- numbers ---- */

/* Blocks of decimal digits begin with their zero and hold whole tens. */
static int digit_value(uint32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9'   ? (int)c - '0'
               : c >= 'a' && c <= 'z' ? (int)c - 'a' + 10
               : c >= 'A' && c <= 'Z' ? (int)c - 'A' + 10
                                      : 99;
    if (!lb_juni_is(c, LB_JUNI_DECIMAL))
        return 99;
    uint32_t first = c;
    while (first > 0 && lb_juni_is(first - 1, LB_JUNI_DECIMAL))
        first--;
    return (int)((c - first) % 10);
}

/* The text without space around it, in ASCII, in the scratch; false: it cannot be a number. */
static bool plain_number(struct lb_jrun *r, const struct lb_jtext *t)
{
    struct lb_jval whole = {.kind = LB_J_STR, .u.text = &(struct lb_jtext){.data = t->data, .len = t->len}};
    struct lb_jval core = lb_jstr_strip(r, whole, lb_jabsent(), 3);
    if (core.kind != LB_J_STR || core.u.text->len == 0 || !lb_jscan(r, core.u.text->len))
        return false;
    int bytes;
    for (size_t at = 0; at < core.u.text->len; at += (size_t)bytes) {
        uint32_t c = lb_utf8_decode(core.u.text->data + at, core.u.text->len - at, &bytes);
        if (c >= 0x80)
            c = digit_value(c) < 10 ? (uint32_t)('0' + digit_value(c)) : 0;
        if (c == 0)
            return false;
        lb_str_putc(&r->scratch, (char)c);
    }
    return true;
}

static const char *int_prefix(const char *at, int64_t *base)
{
    int64_t named = 0;
    if (at[0] == '0')
        named = at[1] == 'x' || at[1] == 'X'   ? 16
                : at[1] == 'o' || at[1] == 'O' ? 8
                : at[1] == 'b' || at[1] == 'B' ? 2
                                               : 0;
    if (named && (*base == 0 || *base == named)) {
        *base = named;
        at += 2;
        return *at == '_' ? at + 1 : at;
    }
    if (*base == 0) {
        *base = 10;
        if (*at == '0' && at[strspn(at, "0_")] != 0) /* 012 is no literal */
            return "";
    }
    return at;
}

static bool read_digits(struct lb_jrun *r, const char *at, int64_t base, bool negative, int64_t *out)
{
    int64_t value = 0;
    bool digit = false, over = false;
    for (; *at; at++) {
        if (*at == '_' && digit) {
            digit = false;
            continue;
        }
        int d = digit_value((unsigned char)*at);
        if (d >= base)
            return false;
        digit = true;
        over = over || __builtin_mul_overflow(value, base, &value) ||
               (negative ? __builtin_sub_overflow(value, d, &value) : __builtin_add_overflow(value, d, &value));
    }
    if (over && digit)
        lb_jinja_fail(r, "an integer leaves 64 bits, which are all that is supported");
    *out = value;
    return digit;
}

bool lb_jparse_int(struct lb_jrun *r, const struct lb_jtext *t, int64_t base, int64_t *out)
{
    size_t mark = lb_jscratch_begin(r);
    bool ok = false;
    if (base != 0 && (base < 2 || base > 36))
        return false;
    if (plain_number(r, t) && !r->scratch.failed) {
        const char *at = r->scratch.data + mark;
        bool negative = *at == '-';
        at += negative || *at == '+';
        ok = strlen(at) + (size_t)(at - r->scratch.data) == r->scratch.len;
        at = int_prefix(at, &base);
        ok = ok && read_digits(r, at, base, negative, out);
    }
    r->scratch.len = mark;
    return ok;
}

static const char *skip_digits(const char *at)
{
    while (isdigit((unsigned char)*at) ||
           (*at == '_' && isdigit((unsigned char)at[-1]) && isdigit((unsigned char)at[1])))
        at++;
    return at;
}

/* digits [. digits] [e [sign] digits], where the first or the second may be missing; underscores between digits */
static bool is_decimal(const char *at)
{
    bool whole = isdigit((unsigned char)*at), fraction = false;
    if (whole)
        at = skip_digits(at);
    if (*at == '.') {
        at++;
        fraction = isdigit((unsigned char)*at);
        if (fraction)
            at = skip_digits(at);
    }
    if (!whole && !fraction)
        return false;
    if (*at == 'e' || *at == 'E') {
        at++;
        at += *at == '+' || *at == '-';
        if (!isdigit((unsigned char)*at))
            return false;
        at = skip_digits(at);
    }
    return *at == 0;
}

static bool is_word(const char *at, const char *word)
{
    for (; *at && *word; at++, word++)
        if (tolower((unsigned char)*at) != *word)
            return false;
    return *at == *word;
}

bool lb_jparse_float(struct lb_jrun *r, const struct lb_jtext *t, double *out)
{
    size_t mark = lb_jscratch_begin(r);
    bool ok = false;
    if (plain_number(r, t) && !r->scratch.failed && strlen(r->scratch.data + mark) == r->scratch.len - mark) {
        char *at = r->scratch.data + mark;
        double sign = *at == '-' ? -1 : 1;
        at += *at == '-' || *at == '+';
        ok = true;
        if (is_word(at, "inf") || is_word(at, "infinity"))
            *out = sign * (double)INFINITY;
        else if (is_word(at, "nan"))
            *out = (double)NAN;
        else if ((ok = is_decimal(at))) {
            char *to = at;
            for (const char *from = at; *from; from++)
                if (*from != '_')
                    *to++ = *from;
            *to = 0;
            *out = sign * strtod(at, NULL);
        }
    }
    r->scratch.len = mark;
    return ok;
}
