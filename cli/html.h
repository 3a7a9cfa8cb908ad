/* The page of --report: one file, without scripts and without links to anything outside it. */
#ifndef CLI_HTML_H
#define CLI_HTML_H

#include "core/llmbatch.h"

/* Appends the page. A number that the stats file has too stands in <data data-key="rows.total" value="64">, where value
 * is as the file writes it. Memory failures stick in out. */
void lb_html_page(const struct lb_view *v, struct lb_str *out);

/* The page's style sheet (html_style.c), in pieces, ended by NULL. */
extern const char *const lb_html_style[];

/* ---- parts of it, for the files html*.c alone ---- */

/* Text that may hold anything: what HTML would read is escaped, what is no UTF-8 or no character is U+FFFD. */
void lb_html_text(struct lb_str *out, const char *text);

/* For people: a whole number with commas; at most four digits that count; a time with its unit, seconds or, below one,
 * milliseconds. */
void lb_html_int(struct lb_str *out, long long value);
void lb_html_real(struct lb_str *out, double value);
void lb_html_seconds(struct lb_str *out, double value);

/* The same of numbers that the stats file has, under their names there ("rows.total"). What is not finite was not
 * measured, which is said. */
void lb_html_count(struct lb_str *out, const char *key, int64_t value, const char *unit);
void lb_html_measure(struct lb_str *out, const char *key, double value, const char *unit);
void lb_html_time(struct lb_str *out, const char *key, double value);
void lb_html_flops(struct lb_str *out, const char *key, double value);
void lb_html_percent(struct lb_str *out, const char *key, double value);
void lb_html_bytes(struct lb_str *out, const char *key, int64_t value);

/* Sections: html_chart.c ... */
void lb_html_charts(struct lb_str *out, const struct lb_view *v);
void lb_html_lengths(struct lb_str *out, const struct lb_view *v);

/* ... and html_table.c. */
void lb_html_stages(struct lb_str *out, const struct lb_stats *s);
void lb_html_errors(struct lb_str *out, const struct lb_stats *s);
void lb_html_slow(struct lb_str *out, const struct lb_view *v);
void lb_html_numbers(struct lb_str *out, const struct lb_stats *s);
void lb_html_ranks(struct lb_str *out, const struct lb_stats *s);

#endif
