/* The page of --report: one file, without scripts and without links to anything outside it. */
#ifndef CLI_HTML_H
#define CLI_HTML_H

#include "core/llmbatch.h"

/* Appends the page. A number that the stats file has too stands in <data data-key="rows.total" value="64">, where value
 * is as the file writes it. Memory failures stick in out. */
void lb_html_page(const struct lb_view *v, struct lb_str *out);

/* The page's style sheet (html_style.c), in pieces, ended by NULL. */
extern const char *const lb_html_style[];

/* ---- parts, for html.c and html_chart.c ---- */

/* Text that may hold anything: what HTML would read is escaped, what is no UTF-8 or no character is U+FFFD. */
void lb_html_text(struct lb_str *out, const char *text);

/* A whole number with commas, or at most four digits that count. */
void lb_html_int(struct lb_str *out, long long value);
void lb_html_real(struct lb_str *out, double value);

/* A time with its unit: seconds, below one milliseconds. */
void lb_html_seconds(struct lb_str *out, double value);

/* The run over time, and the lengths of prompts and answers: charts. */
void lb_html_charts(struct lb_str *out, const struct lb_view *v);
void lb_html_lengths(struct lb_str *out, const struct lb_view *v);

#endif
