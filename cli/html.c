#include "cli/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- head ---- */

static void put_end(struct lb_str *out, const struct lb_stats *s)
{
    const char *style = "bad", *text = "failed";
    switch (s->exit_code) {
    case 0:
        style = "good";
        text = "all rows are ok";
        break;
    case 1:
        style = "warn";
        text = "done, some rows failed";
        break;
    case 5:
        text = "stopped: too many rows failed, or an answer was not the same again";
        break;
    case 130:
        style = "warn";
        text = "interrupted: the same command goes on";
        break;
    default:
        break;
    }
    lb_str_putf(out, "<div class=\"end %s\">%s (exit status ", style, text);
    lb_html_count(out, "exit_code", s->exit_code, ")");
    lb_str_puts(out, "</div>");
}

static const char *last_part(const char *path)
{
    const char *at = path + strlen(path);
    while (at > path && (at[-1] != '/' || !at[0] || (at[0] == '/' && !at[1])))
        at--;
    return at;
}

static void put_head(struct lb_str *out, const struct lb_stats *s)
{
    lb_str_puts(out, "<header><div class=\"brand\">llmbatch ");
    lb_html_text(out, lb_version());
    lb_str_puts(out, "</div><h1><bdi>");
    lb_html_text(out, last_part(s->model_path));
    lb_str_puts(out, "</bdi></h1><div class=\"soft\">");
    if (s->architecture) {
        lb_html_text(out, s->architecture);
        if (s->n_param)
            lb_str_putf(out, ", %.4g million parameters", (double)s->n_param / 1e6);
        lb_str_puts(out, ", ");
    }
    lb_str_putf(out, "%s%s%s on %s, ", s->dtype, s->quantization ? " and " : "", s->quantization ? s->quantization : "",
                s->device);
    if (s->isa)
        lb_str_putf(out, "kernels %s, ", s->isa);
    lb_html_count(out, "engine.threads", s->n_thread, s->n_thread == 1 ? " thread" : " threads");
    if (s->tp * s->dp > 1) {
        lb_str_puts(out, ", ");
        lb_html_count(out, "engine.ranks", s->tp * s->dp, " ranks: ");
        lb_html_count(out, "engine.dp", s->dp, s->dp == 1 ? " group of " : " groups of ");
        lb_html_count(out, "engine.tp", s->tp, "");
    }
    lb_str_puts(out, "</div>");
    put_end(out, s);
    lb_str_puts(out, "</header>");
}

static void open_tile(struct lb_str *out)
{
    lb_str_puts(out, "<div class=\"tile\"><b>");
}

static void put_tiles(struct lb_str *out, const struct lb_stats *s)
{
    struct lb_rates rates = lb_stats_rates(s);
    lb_str_puts(out, "<div class=\"tiles\">");
    open_tile(out);
    lb_html_count(out, "rows.ok", s->ok, "");
    lb_str_puts(out, "</b><span>of ");
    lb_html_count(out, "rows.total", s->rows, " rows are ok");
    lb_str_puts(out, "</span></div>");
    open_tile(out);
    lb_html_count(out, "rows.error", s->error, "");
    lb_str_puts(out, "</b><span>rows failed</span></div>");
    open_tile(out);
    lb_html_time(out, "time_s.total", s->total_s);
    lb_str_puts(out, "</b><span>in all, ");
    lb_html_time(out, "time_s.load", s->load_s);
    lb_str_puts(out, " of it to load</span></div>");
    open_tile(out);
    lb_html_measure(out, "throughput.total_tok_s", rates.total, "");
    lb_str_puts(out, "</b><span>tokens a second</span></div>");
    open_tile(out);
    lb_html_measure(out, "throughput.completion_tok_s", rates.completion, "");
    lb_str_puts(out, "</b><span>new tokens a second</span></div>");
    open_tile(out);
    lb_html_time(out, "latency_s.p50", s->n_latency ? s->latency_p50 : NAN);
    lb_str_puts(out, "</b><span>median time of a row</span></div></div>");
}

/* ---- settings and audit ---- */

/* why: how it was chosen, NULL where the command line says it. */
static void put_size(struct lb_str *out, const char *key, const char *label_text, int64_t value, const char *why)
{
    char name[48];
    snprintf(name, sizeof name, "engine.%s", key);
    lb_str_putf(out, "<tr><th scope=\"row\">%s</th><td class=\"n\">", label_text);
    lb_html_count(out, name, value, "");
    lb_str_puts(out, "</td><td class=\"origin\">");
    lb_html_text(out, why ? why : "command line");
    lb_str_puts(out, "</td></tr>");
}

static void put_settings(struct lb_str *out, const struct lb_view *v)
{
    const struct lb_stats *s = v->stats;
    lb_str_puts(out, "<section><h2>Settings</h2><div class=\"two\"><div class=\"group\"><h3>Generation</h3>"
                     "<table><tbody>");
    for (int i = 0; i < s->n_setting; i++) {
        const struct lb_setting *t = &s->setting[i];
        lb_str_putf(out, "<tr><th scope=\"row\">%s</th><td class=\"n\"><data data-key=\"sampling.%s.value\" value=\"",
                    t->name, t->name);
        lb_html_text(out, t->value);
        lb_str_puts(out, "\">");
        lb_html_text(out, t->value);
        lb_str_putf(out, "</data></td><td class=\"origin\">%s</td></tr>", t->origin);
    }
    lb_str_puts(out, "</tbody></table></div><div class=\"group\"><h3>Engine</h3><table><tbody>");
    put_size(out, "batch_tokens", "Tokens a step, at most", s->batch_tokens, s->why_batch);
    put_size(out, "max_seqs", "Rows at a time, at most", s->max_seqs, s->why_seqs);
    put_size(out, "kv_pages", "Pages of the KV cache", s->kv_pages, s->why_kv);
    put_size(out, "segments", "Segments of sums", s->segments, "model");
    lb_str_puts(out, "</tbody></table></div></div>");
    if (v->command) {
        lb_str_puts(out, "<div class=\"group\"><h3>Command</h3></div><pre>");
        lb_html_text(out, v->command);
        lb_str_puts(out, "</pre>");
    }
    lb_str_puts(out, "</section>");
}

static void put_audit(struct lb_str *out, const struct lb_view *v)
{
    char key[32];
    if (!v->stats->audit)
        return;
    lb_str_puts(out, "<section><h2>Audit</h2>");
    if (v->n_note == 0) {
        lb_str_puts(out, "<div class=\"soft\">Nothing was found.</div></section>");
        return;
    }
    lb_str_puts(out, "<table><tbody>");
    for (int i = 0; i < v->n_note; i++) {
        const struct lb_note *n = &v->note[i];
        lb_str_putf(out, "<tr><td class=\"%s\">%s</td><td>", strcmp(n->severity, "warn") == 0 ? "warn" : "origin",
                    n->severity);
        lb_html_text(out, n->code);
        lb_str_puts(out, "</td><td class=\"wrap\"><bdi>");
        lb_html_text(out, n->message);
        lb_str_puts(out, "</bdi></td><td class=\"n\">");
        snprintf(key, sizeof key, "audit.%d.count", i);
        if (n->count)
            lb_html_count(out, key, n->count, n->count == 1 ? " row" : " rows");
        lb_str_puts(out, "</td></tr>");
    }
    lb_str_puts(out, "</tbody></table></section>");
}

void lb_html_page(const struct lb_view *v, struct lb_str *out)
{
    lb_str_puts(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                     "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
                     "<meta name=\"color-scheme\" content=\"light dark\">"
                     "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
                     "'unsafe-inline'\"><title>llmbatch: ");
    lb_html_text(out, last_part(v->stats->model_path));
    lb_str_puts(out, "</title><style>\n");
    for (const char *const *piece = lb_html_style; *piece; piece++)
        lb_str_puts(out, *piece);
    lb_str_puts(out, "</style></head><body><main>\n");
    put_head(out, v->stats);
    put_tiles(out, v->stats);
    lb_html_charts(out, v);
    lb_html_lengths(out, v);
    lb_str_puts(out, "<div class=\"two\">");
    lb_html_stages(out, v->stats);
    lb_html_errors(out, v->stats);
    lb_str_puts(out, "</div>");
    lb_html_slow(out, v);
    lb_html_numbers(out, v->stats);
    lb_html_ranks(out, v->stats);
    put_settings(out, v);
    put_audit(out, v);
    lb_str_puts(out, "</main></body></html>\n");
}
