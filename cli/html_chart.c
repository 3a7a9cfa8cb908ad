#include "cli/html.h"

#include <math.h>
#include <stddef.h>

/* Charts are drawn into a plane of 1000 x 100 that the page stretches; their words stand beside it, as text of the
 * page, which keeps its size. Each piece of a chart says its numbers when it is pointed at. */

#define MAX_POINT 120
#define MAX_BAR 40
#define PLANE_W 1000.0
#define PLANE_H 100.0

struct point {
    double from, to; /* seconds */
    double prompt, made, fill, pages, rows;
};

/* The run in at most MAX_POINT spans. */
static int make_points(const struct lb_series *s, struct point *out)
{
    int64_t each = (s->n + MAX_POINT - 1) / MAX_POINT;
    int n = 0;
    for (int64_t i = 0; i < s->n; i += each) {
        int64_t end = i + each < s->n ? i + each : s->n;
        struct point *p = &out[n++];
        double tok = 0, room = 0;
        *p = (struct point){.from = (double)i * s->width_s, .to = fmin((double)end * s->width_s, s->end_s)};
        for (int64_t k = i; k < end; k++) {
            const struct lb_span *a = &s->span[k];
            p->prompt += a->n_prompt;
            p->made += a->n_new;
            p->rows += a->seq_s;
            p->pages = fmax(p->pages, a->pages);
            tok += a->n_tok;
            room += a->room;
        }
        double length = p->to - p->from;
        p->fill = room > 0 ? 100 * tok / room : NAN;
        if (length <= 0) { /* the run ended where the span begins */
            n--;
            continue;
        }
        p->prompt /= length;
        p->made /= length;
        p->rows /= length;
    }
    return n;
}

/* The next of 1, 2, 2.5, 5, 10, ... */
static double round_up(double x)
{
    if (!(x > 0))
        return 1;
    double unit = pow(10, floor(log10(x))), part = x / unit;
    return unit * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 2.5 ? 2.5 : part <= 5 ? 5 : 10);
}

/* The top of an axis of values: a little more than the largest, and half of it is a short number too. */
static double top_of(double x)
{
    static const double tops[] = {1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10};
    if (!(x > 0))
        return 1;
    double unit = pow(10, floor(log10(x)));
    size_t i = 0;
    while (i + 1 < sizeof tops / sizeof *tops && tops[i] * unit < x)
        i++;
    return tops[i] * unit;
}

struct curve {
    const char *name, *style; /* style: a class */
    size_t at;                /* of its value in struct point */
};

struct chart {
    const char *title, *unit;
    struct curve curve[2];
    int n_curve;
    double top; /* of the axis; 0: what the values need */
};

static double value_of(const struct point *p, const struct curve *c)
{
    return *(const double *)(const void *)((const char *)p + c->at);
}

static void put_y(struct lb_str *out, double top, const char *unit)
{
    lb_str_puts(out, "<div class=\"y\">");
    for (int i = 0; i <= 2; i++) {
        lb_str_putf(out, "<span style=\"bottom:%d%%\">", 50 * i);
        lb_html_real(out, top * i / 2);
        lb_str_putf(out, "%s</span>", unit);
    }
    lb_str_puts(out, "</div>");
}

static void open_plane(struct lb_str *out)
{
    lb_str_putf(out, "<svg viewBox=\"0 0 %g %g\" preserveAspectRatio=\"none\" role=\"img\"><g class=\"grid\">", PLANE_W,
                PLANE_H);
    for (int i = 0; i <= 2; i++)
        lb_str_putf(out, "<line x1=\"0\" x2=\"%g\" y1=\"%g\" y2=\"%g\"/>", PLANE_W, PLANE_H * i / 2, PLANE_H * i / 2);
    lb_str_puts(out, "</g>");
}

/* The axis of time: seconds, minutes or hours, at round numbers. */
static void put_time_axis(struct lb_str *out, double seconds)
{
    double unit = seconds < 180 ? 1 : seconds < 3 * 3600 ? 60 : 3600;
    double step = round_up(seconds / unit / 5);
    lb_str_puts(out, "<div class=\"x\">");
    for (int i = 0; i <= 5 && step * i <= seconds / unit * 1.0001; i++) {
        lb_str_putf(out, "<span style=\"left:%.2f%%\">", 100 * step * i * unit / seconds);
        lb_html_real(out, step * i);
        lb_str_puts(out, unit > 3000 ? " h</span>" : unit > 50 ? " min</span>" : " s</span>");
    }
    lb_str_puts(out, "</div>");
}

/* A line through the middles of the spans, from edge to edge, with the area below it. A gap where there is no value. */
static void put_curve(struct lb_str *out, const struct point *p, int n, const struct curve *c, double top)
{
    double whole = p[n - 1].to;
    struct lb_str line = {0};
    double first = 0, last = 0;
    bool open = false;
    for (int i = 0; i <= n; i++) {
        double v = i < n ? value_of(&p[i], c) : NAN;
        if (isfinite(v)) {
            double x = PLANE_W * (p[i].from + p[i].to) / 2 / whole, y = PLANE_H * (1 - fmin(v / top, 1));
            if (!open) {
                first = PLANE_W * p[i].from / whole;
                lb_str_putf(&line, "M%.2f %.2f", first, y);
            }
            last = PLANE_W * p[i].to / whole;
            lb_str_putf(&line, "L%.2f %.2f", x, y);
            if (i + 1 == n || !isfinite(value_of(&p[i + 1], c)))
                lb_str_putf(&line, "L%.2f %.2f", last, y);
            open = true;
        } else if (open) {
            lb_str_putf(out, "<path class=\"area %s\" d=\"%sL%.2f %gL%.2f %gZ\"/>", c->style,
                        line.failed ? "" : line.data, last, PLANE_H, first, PLANE_H);
            lb_str_putf(out, "<path class=\"line %s\" d=\"%s\"/>", c->style, line.failed ? "" : line.data);
            lb_str_clear(&line);
            open = false;
        }
    }
    out->failed = out->failed || line.failed;
    lb_str_release(&line);
}

/* What is said where it is pointed at. */
static void put_hits(struct lb_str *out, const struct chart *c, const struct point *p, int n)
{
    double whole = p[n - 1].to;
    for (int i = 0; i < n; i++) {
        lb_str_putf(out, "<rect class=\"hit\" x=\"%.2f\" width=\"%.2f\" y=\"0\" height=\"%g\"><title>%.4g to %.4g s",
                    PLANE_W * p[i].from / whole, PLANE_W * (p[i].to - p[i].from) / whole, PLANE_H, p[i].from, p[i].to);
        for (int k = 0; k < c->n_curve; k++) {
            double v = value_of(&p[i], &c->curve[k]);
            if (!isfinite(v))
                continue;
            lb_str_putf(out, "\n%s: ", c->curve[k].name);
            lb_html_real(out, v);
            lb_str_puts(out, c->unit);
        }
        lb_str_puts(out, "</title></rect>");
    }
}

static void put_chart(struct lb_str *out, const struct chart *c, const struct point *p, int n)
{
    double top = c->top;
    if (!(top > 0)) {
        for (int i = 0; i < n; i++)
            for (int k = 0; k < c->n_curve; k++)
                top = fmax(top, value_of(&p[i], &c->curve[k]));
        top = top_of(top);
    }
    lb_str_putf(out, "<figure class=\"chart\"><figcaption><h3>%s</h3><span class=\"legend\">", c->title);
    for (int k = 0; k < c->n_curve && c->n_curve > 1; k++)
        lb_str_putf(out, "<i class=\"%s\"></i>%s ", c->curve[k].style, c->curve[k].name);
    lb_str_puts(out, "</span></figcaption><div class=\"plot\">");
    put_y(out, top, c->unit[0] == ' ' && c->unit[1] == '%' ? c->unit : "");
    open_plane(out);
    for (int k = 0; k < c->n_curve; k++)
        put_curve(out, p, n, &c->curve[k], top);
    put_hits(out, c, p, n);
    lb_str_puts(out, "</svg>");
    put_time_axis(out, p[n - 1].to);
    lb_str_puts(out, "</div></figure>");
}

void lb_html_charts(struct lb_str *out, const struct lb_view *v)
{
    static const struct chart rate = {
        "Tokens a second",
        " tok/s",
        {{"of prompts", "c2", offsetof(struct point, prompt)}, {"new", "c1", offsetof(struct point, made)}},
        2,
        0};
    static const struct chart fill = {
        "Share of the token budget used", " %", {{"budget used", "c1", offsetof(struct point, fill)}}, 1, 100};
    static const struct chart rows = {"Rows at a time", "", {{"rows", "c1", offsetof(struct point, rows)}}, 1, 0};
    struct chart pages = {
        "KV cache, share of pages in use", " %", {{"pages", "c1", offsetof(struct point, pages)}}, 1, 0};
    struct point p[MAX_POINT];
    int n = make_points(&v->watch->series, p);
    if (n == 0)
        return;
    double all = (double)v->stats->kv_pages * v->stats->dp;
    for (int i = 0; i < n; i++)
        p[i].pages = all > 0 ? 100 * p[i].pages / all : NAN;
    lb_str_puts(out, "<section><h2>Over time</h2><div class=\"wide\">");
    put_chart(out, &rate, p, n);
    lb_str_puts(out, "</div><div class=\"three\">");
    put_chart(out, &fill, p, n);
    put_chart(out, &rows, p, n);
    put_chart(out, &pages, p, n);
    lb_str_puts(out, "</div></section>");
}

/* ---- lengths ---- */

/* Bars of lengths: the last of them may hold all that are longer. */
struct bars {
    int64_t each; /* classes of a bar */
    int n;
    bool more;
    int64_t count[MAX_BAR];
};

static int64_t round_count(int64_t n)
{
    int64_t unit = 1;
    for (;; unit *= 10) {
        if (n <= unit)
            return unit;
        if (n <= 2 * unit)
            return 2 * unit;
        if (n <= 5 * unit)
            return 5 * unit;
    }
}

/* A few that are much longer than the others do not make the others a single bar. */
static void make_bars(const struct lb_lengths *l, struct bars *b)
{
    int64_t last = 0, seen = 0;
    for (int64_t i = 0; i < LB_WATCH_CLASSES && seen * 100 < l->n * 99; i++) {
        seen += l->count[i];
        last = i;
    }
    *b = (struct bars){.each = round_count((last + MAX_BAR - 8) / (MAX_BAR - 8))};
    int64_t needed = l->longest / l->width / b->each + 1;
    b->more = needed > MAX_BAR;
    b->n = b->more ? (int)(last / b->each + 2) : (int)needed;
    for (int64_t i = 0; i < LB_WATCH_CLASSES; i++) {
        int64_t at = i / b->each;
        b->count[at < b->n ? at : b->n - 1] += l->count[i];
    }
}

static void put_bars(struct lb_str *out, const struct lb_lengths *l, const char *title, const char *style)
{
    struct bars b;
    make_bars(l, &b);
    int64_t width = b.each * l->width;
    double top = 0;
    for (int i = 0; i < b.n; i++)
        top = fmax(top, (double)b.count[i]);
    top = top < 4 ? 4 : top_of(top);
    lb_str_putf(out, "<figure class=\"chart\"><figcaption><h3>%s</h3></figcaption><div class=\"plot\">", title);
    put_y(out, top, "");
    open_plane(out);
    for (int i = 0; i < b.n; i++) {
        double x = PLANE_W * i / b.n, h = PLANE_H * (double)b.count[i] / top;
        lb_str_putf(out, "<rect class=\"bar %s\" x=\"%.2f\" width=\"%.2f\" y=\"%.2f\" height=\"%.2f\"><title>", style,
                    x + 0.06 * PLANE_W / b.n, 0.88 * PLANE_W / b.n, PLANE_H - h, h);
        lb_html_int(out, (long long)(i * width));
        if (b.more && i == b.n - 1) {
            lb_str_puts(out, " or more");
        } else if (width > 1) {
            lb_str_puts(out, " to ");
            lb_html_int(out, (long long)((i + 1) * width - 1));
        }
        lb_str_puts(out, " tokens: ");
        lb_html_int(out, (long long)b.count[i]);
        lb_str_puts(out, "</title></rect>");
    }
    lb_str_puts(out, "</svg><div class=\"x\">");
    int step = (int)round_count((b.n + 4) / 5);
    for (int at = 0; at <= b.n; at += step) {
        lb_str_putf(out, "<span style=\"left:%.2f%%\">", 100.0 * at / b.n);
        lb_html_int(out, (long long)(at * width));
        lb_str_puts(out, "</span>");
    }
    lb_str_puts(out, "</div></div></figure>");
}

void lb_html_lengths(struct lb_str *out, const struct lb_view *v)
{
    if (v->watch->answer.n == 0)
        return;
    lb_str_puts(out, "<section><h2>Lengths in tokens</h2><div class=\"two cards\">");
    put_bars(out, &v->watch->prompt, "Prompts", "c2");
    put_bars(out, &v->watch->answer, "Completions", "c1");
    lb_str_puts(out, "</div></section>");
}
