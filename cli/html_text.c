#include "cli/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- text and numbers ---- */

void lb_html_text(struct lb_str *out, const char *text)
{
    struct lb_str clean = {0};
    lb_str_put_utf8_lossy(&clean, text, strlen(text));
    for (size_t i = 0; i < clean.len; i++) {
        char c = clean.data[i];
        if (c == '&')
            lb_str_puts(out, "&amp;");
        else if (c == '<')
            lb_str_puts(out, "&lt;");
        else if (c == '>')
            lb_str_puts(out, "&gt;");
        else if (c == '"')
            lb_str_puts(out, "&quot;");
        else if (c == '\'')
            lb_str_puts(out, "&#39;");
        else if ((unsigned char)c < 0x20 || c == 0x7F)
            lb_str_puts(out, c == '\n' || c == '\t' ? " " : "\xEF\xBF\xBD");
        else
            lb_str_putc(out, c);
    }
    out->failed = out->failed || clean.failed;
    lb_str_release(&clean);
}

/* Digits of a whole number, with a comma before each group of three. */
static void put_grouped(struct lb_str *out, const char *digits)
{
    size_t n = strlen(digits);
    if (*digits == '-') {
        lb_str_putc(out, '-');
        digits++;
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            lb_str_putc(out, ',');
        lb_str_putc(out, digits[i]);
    }
}

void lb_html_int(struct lb_str *out, long long value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", value);
    put_grouped(out, text);
}

void lb_html_real(struct lb_str *out, double value)
{
    char text[32];
    if (fabs(value) >= 999.5 && fabs(value) < 1e15) {
        snprintf(text, sizeof text, "%.0f", value);
        put_grouped(out, text);
        return;
    }
    snprintf(text, sizeof text, "%.4g", value);
    lb_str_puts(out, text);
}

void lb_html_seconds(struct lb_str *out, double value)
{
    if (fabs(value) < 1 && value != 0)
        lb_str_putf(out, "%.3g ms", 1e3 * value);
    else if (fabs(value) < 1000)
        lb_str_putf(out, fabs(value) < 100 ? "%.2f s" : "%.1f s", value);
    else {
        lb_html_real(out, value);
        lb_str_puts(out, " s");
    }
}

/* ---- numbers that the stats file has, under their names there ---- */

void lb_html_count(struct lb_str *out, const char *key, int64_t value, const char *unit)
{
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%lld\">", key, (long long)value);
    lb_html_int(out, (long long)value);
    lb_str_putf(out, "%s</data>", unit);
}

void lb_html_measure(struct lb_str *out, const char *key, double value, const char *unit)
{
    if (!isfinite(value)) {
        lb_str_puts(out, "not measured");
        return;
    }
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%.6g\">", key, value);
    lb_html_real(out, value);
    lb_str_putf(out, "%s</data>", unit);
}

void lb_html_time(struct lb_str *out, const char *key, double value)
{
    if (!isfinite(value)) {
        lb_str_puts(out, "not measured");
        return;
    }
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%.6g\">", key, value);
    lb_html_seconds(out, value);
    lb_str_puts(out, "</data>");
}

void lb_html_flops(struct lb_str *out, const char *key, double value)
{
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%.6g\">", key, value);
    lb_html_real(out, value < 1 ? 1e3 * value : value);
    lb_str_puts(out, value < 1 ? " GFLOP/s</data>" : " TFLOP/s</data>");
}

void lb_html_percent(struct lb_str *out, const char *key, double value)
{
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%.6g\">%.1f %%</data>", key, value, 100 * value);
}

void lb_html_bytes(struct lb_str *out, const char *key, int64_t value)
{
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%lld\">", key, (long long)value);
    lb_html_int(out, (long long)((value + (1 << 19)) >> 20));
    lb_str_puts(out, " MiB</data>");
}
