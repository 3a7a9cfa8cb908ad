/* strftime in the C locale, of our own: a chat must not depend on the process's. */
#include <string.h>

#include "core/text/jinja/jinja_help.h"

static const char *const days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};

/* flag: '-' no padding, '_' blanks, '0' zeros, 0 the directive's own */
static void put_number(struct lb_str *out, long value, int width, char pad, char flag)
{
    if (flag == '-')
        width = 0;
    else if (flag)
        pad = flag == '_' ? ' ' : '0';
    lb_str_putf(out, pad == '0' ? "%0*ld" : "%*ld", width, value);
}

static long full_year(const struct tm *t)
{
    return 1900L + t->tm_year;
}

static bool leap(long year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* ISO 8601: weeks begin on Monday, the first of a year holds its first Thursday. */
static int iso_week(const struct tm *t, long *year)
{
    int weekday = (t->tm_wday + 6) % 7, week = (t->tm_yday - weekday + 10) / 7;
    *year = full_year(t);
    if (week < 1) {
        --*year;
        int yday = t->tm_yday + (leap(*year) ? 366 : 365);
        return (yday - weekday + 10) / 7;
    }
    int days_in_year = leap(*year) ? 366 : 365;
    if (week == 53 && t->tm_yday - weekday + 3 >= days_in_year) {
        ++*year;
        return 1;
    }
    return week;
}

static void put_name(struct lb_str *out, const char *const *names, int i, int n, bool whole)
{
    const char *name = i >= 0 && i < n ? names[i] : "?";
    lb_str_put(out, name, whole ? strlen(name) : strlen(name) < 3 ? strlen(name) : 3);
}

/* Directives that others are made of; NULL: it is none of them. */
static const char *composite(char c)
{
    switch (c) {
    case 'c':
        return "%a %b %e %H:%M:%S %Y";
    case 'x':
    case 'D':
        return "%m/%d/%y";
    case 'X':
    case 'T':
        return "%H:%M:%S";
    case 'r':
        return "%I:%M:%S %p";
    case 'R':
        return "%H:%M";
    case 'F':
        return "%Y-%m-%d";
    default:
        return NULL;
    }
}

static bool put_count(struct lb_str *out, char c, char flag, const struct tm *t)
{
    long iso_year;
    int week = iso_week(t, &iso_year), hour = t->tm_hour % 12 ? t->tm_hour % 12 : 12;
    long century = full_year(t) / 100;
    const struct {
        char c;
        long value;
        int width;
        char pad;
    } numbers[] = {
        {'Y', full_year(t), 0, '0'},
        {'y', full_year(t) % 100, 2, '0'},
        {'C', century, 2, '0'},
        {'m', t->tm_mon + 1, 2, '0'},
        {'d', t->tm_mday, 2, '0'},
        {'e', t->tm_mday, 2, ' '},
        {'H', t->tm_hour, 2, '0'},
        {'k', t->tm_hour, 2, ' '},
        {'I', hour, 2, '0'},
        {'l', hour, 2, ' '},
        {'M', t->tm_min, 2, '0'},
        {'S', t->tm_sec, 2, '0'},
        {'j', t->tm_yday + 1, 3, '0'},
        {'U', (t->tm_yday + 7 - t->tm_wday) / 7, 2, '0'},
        {'W', (t->tm_yday + 7 - (t->tm_wday + 6) % 7) / 7, 2, '0'},
        {'w', t->tm_wday, 1, '0'},
        {'u', t->tm_wday ? t->tm_wday : 7, 1, '0'},
        {'V', week, 2, '0'},
        {'G', iso_year, 4, '0'},
        {'g', iso_year % 100, 2, '0'},
        {'f', 0, 6, '0'},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (numbers[i].c != c)
            continue;
        put_number(out, numbers[i].value, numbers[i].width, numbers[i].pad, flag);
        return true;
    }
    return false;
}

static bool put_word(struct lb_str *out, char c, const struct tm *t)
{
    switch (c) {
    case 'a':
    case 'A':
        put_name(out, days, t->tm_wday, 7, c == 'A');
        return true;
    case 'b':
    case 'h':
    case 'B':
        put_name(out, months, t->tm_mon, 12, c == 'B');
        return true;
    case 'p':
    case 'P':
        lb_str_puts(out, c == 'p' ? (t->tm_hour < 12 ? "AM" : "PM") : (t->tm_hour < 12 ? "am" : "pm"));
        return true;
    case 'n':
    case 't':
        lb_str_putc(out, c == 'n' ? '\n' : '\t');
        return true;
    case '%':
        lb_str_putc(out, '%');
        return true;
    case 'z': /* the time that transformers formats has no zone */
    case 'Z':
        return true;
    default:
        return false;
    }
}

static void upper_from(struct lb_str *out, size_t mark)
{
    for (size_t i = mark; i < out->len; i++)
        if (out->data[i] >= 'a' && out->data[i] <= 'z')
            out->data[i] = (char)(out->data[i] - 32);
}

void lb_jput_strftime(struct lb_str *out, const struct lb_jtext *format, const struct tm *t)
{
    for (size_t i = 0; i < format->len; i++) {
        char c = format->data[i], flag = 0;
        if (c != '%' || i + 1 == format->len) {
            lb_str_putc(out, c);
            continue;
        }
        size_t from = i, mark = out->len;
        c = format->data[++i];
        if ((c == '-' || c == '_' || c == '0' || c == '^' || c == '#') && i + 1 < format->len) {
            flag = c;
            c = format->data[++i];
        }
        if ((c == 'E' || c == 'O') && i + 1 < format->len) /* other calendars and digits: none in the C locale */
            c = format->data[++i];
        const char *parts = composite(c);
        char pad = flag == '^' || flag == '#' ? 0 : flag;
        if (parts)
            lb_jput_strftime(out, &(struct lb_jtext){.data = parts, .len = strlen(parts)}, t);
        else if (!put_word(out, c, t) && !put_count(out, c, pad, t))
            lb_str_put(out, format->data + from, i - from + 1);
        if (flag == '^' && !out->failed)
            upper_from(out, mark);
    }
}
