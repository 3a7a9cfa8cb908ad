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

static void put_int(struct lb_str *out, const char *key, int64_t value, const char *unit)
{
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%lld\">", key, (long long)value);
    lb_html_int(out, (long long)value);
    lb_str_putf(out, "%s</data>", unit);
}

/* What is not finite was not measured. */
static void put_real(struct lb_str *out, const char *key, double value, const char *unit)
{
    if (!isfinite(value)) {
        lb_str_puts(out, "not measured");
        return;
    }
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%.6g\">", key, value);
    lb_html_real(out, value);
    lb_str_putf(out, "%s</data>", unit);
}

static void put_seconds(struct lb_str *out, const char *key, double value)
{
    if (!isfinite(value)) {
        lb_str_puts(out, "not measured");
        return;
    }
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%.6g\">", key, value);
    lb_html_seconds(out, value);
    lb_str_puts(out, "</data>");
}

static void put_flops(struct lb_str *out, const char *key, double value)
{
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%.6g\">", key, value);
    lb_html_real(out, value < 1 ? 1e3 * value : value);
    lb_str_puts(out, value < 1 ? " GFLOP/s</data>" : " TFLOP/s</data>");
}

static void put_percent(struct lb_str *out, const char *key, double value)
{
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%.6g\">%.1f %%</data>", key, value, 100 * value);
}

static void put_bytes(struct lb_str *out, const char *key, int64_t value)
{
    lb_str_putf(out, "<data data-key=\"%s\" value=\"%lld\">", key, (long long)value);
    lb_html_int(out, (long long)((value + (1 << 19)) >> 20));
    lb_str_puts(out, " MiB</data>");
}

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
    put_int(out, "exit_code", s->exit_code, ")");
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
        lb_str_putf(out, ", %.4g million parameters, ", (double)s->n_param / 1e6);
    }
    lb_str_putf(out, "%s on %s (%s), ", s->dtype, s->device, s->isa);
    put_int(out, "engine.threads", s->n_thread, s->n_thread == 1 ? " thread" : " threads");
    if (s->tp * s->dp > 1) {
        lb_str_puts(out, ", ");
        put_int(out, "engine.ranks", s->tp * s->dp, " ranks: ");
        put_int(out, "engine.dp", s->dp, s->dp == 1 ? " group of " : " groups of ");
        put_int(out, "engine.tp", s->tp, "");
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
    put_int(out, "rows.ok", s->ok, "");
    lb_str_puts(out, "</b><span>of ");
    put_int(out, "rows.total", s->rows, " rows are ok");
    lb_str_puts(out, "</span></div>");
    open_tile(out);
    put_int(out, "rows.error", s->error, "");
    lb_str_puts(out, "</b><span>rows failed</span></div>");
    open_tile(out);
    put_seconds(out, "time_s.total", s->total_s);
    lb_str_puts(out, "</b><span>in all, ");
    put_seconds(out, "time_s.load", s->load_s);
    lb_str_puts(out, " of it to load</span></div>");
    open_tile(out);
    put_real(out, "throughput.total_tok_s", rates.total, "");
    lb_str_puts(out, "</b><span>tokens a second</span></div>");
    open_tile(out);
    put_real(out, "throughput.completion_tok_s", rates.completion, "");
    lb_str_puts(out, "</b><span>new tokens a second</span></div>");
    open_tile(out);
    put_seconds(out, "latency_s.p50", s->n_latency ? s->latency_p50 : NAN);
    lb_str_puts(out, "</b><span>median time of a row</span></div></div>");
}

/* ---- time by stage ---- */

struct stage {
    const char *key, *label, *style;
    double seconds;
};

static void put_stages(struct lb_str *out, const struct lb_stats *s)
{
    const struct stage stages[] = {
        {"time_s.load", "Loading the model", "", s->load_s},
        {"time_s.forward", "Forward passes", "", s->forward_s},
        {"time_s.prefill", "for prompts", "sub", s->prefill_s},
        {"time_s.decode", "for new tokens", "sub", s->decode_s},
        {"time_s.collective", "waiting for other ranks", "sub", s->n_rank > 1 ? s->collective_s : NAN},
        {"time_s.sample", "Sampling", "", s->sample_s},
        {"time_s.host_wait", "Waiting for rows", "", s->host_wait_s},
        {"time_s.write", "Writing, beside the rest", "beside", s->write_s},
    };
    lb_str_puts(out, "<section><h2>Time by stage</h2><div class=\"soft\">Of ");
    lb_html_seconds(out, s->total_s);
    lb_str_puts(out, " in all.");
    if (s->dp > 1)
        lb_str_puts(out, " Where groups of ranks run side by side, their mean.");
    lb_str_puts(out, "</div><table class=\"bars\"><tbody>");
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        const struct stage *t = &stages[i];
        if (!isfinite(t->seconds))
            continue;
        double share = s->total_s > 0 ? fmin(t->seconds / s->total_s, 1) : 0;
        lb_str_putf(
            out,
            "<tr class=\"%s\"><th scope=\"row\">%s</th><td><div class=\"meter\" style=\"width:%.2f%%\"></div></td>",
            t->style, t->label, 100 * share);
        lb_str_puts(out, "<td class=\"n\">");
        put_seconds(out, t->key, t->seconds);
        lb_str_puts(out, "</td></tr>");
    }
    lb_str_puts(out, "</tbody></table></section>");
}

/* ---- rows ---- */

static void put_errors(struct lb_str *out, const struct lb_stats *s)
{
    char key[64];
    lb_str_puts(out, "<section><h2>Failed rows</h2>");
    if (!s->error) {
        lb_str_puts(out, "<div class=\"soft\">None.</div></section>");
        return;
    }
    lb_str_puts(out, "<table class=\"bars fail\"><tbody>");
    for (int code = LB_ROW_OK + 1; code < LB_N_ROW_CODE; code++) {
        const char *name = lb_row_code_name((enum lb_row_code)code);
        if (!s->by_code[code])
            continue;
        lb_str_putf(out, "<tr><th scope=\"row\">%s</th><td><div class=\"meter\" style=\"width:%.2f%%\"></div></td>",
                    name, 100 * (double)s->by_code[code] / (double)s->error);
        lb_str_puts(out, "<td class=\"n\">");
        snprintf(key, sizeof key, "rows.errors_by_code.%s", name);
        put_int(out, key, s->by_code[code], "");
        lb_str_puts(out, "</td></tr>");
    }
    lb_str_puts(out, "</tbody></table></section>");
}

static void put_cell(struct lb_str *out, double seconds)
{
    lb_str_puts(out, "<td class=\"n\">");
    lb_html_seconds(out, seconds);
    lb_str_puts(out, "</td>");
}

static void put_slow(struct lb_str *out, const struct lb_view *v)
{
    const struct lb_watch *w = v->watch;
    bool ranks = v->stats->n_rank > 1;
    if (!w->n_slow)
        return;
    lb_str_puts(out, "<section><h2>Slowest rows</h2><div class=\"soft\">From the first step of a row to its last "
                     "token.</div><div class=\"scroll\"><table class=\"fit\"><thead><tr><th "
                     "class=\"n\">Row</th><th>Id</th><th class=\"n\">"
                     "Prompt</th><th class=\"n\">New</th><th class=\"n\">Waited</th><th class=\"n\">Took</th>");
    lb_str_puts(out, ranks ? "<th class=\"n\">Rank</th></tr></thead><tbody>" : "</tr></thead><tbody>");
    for (int i = 0; i < w->n_slow; i++) {
        const struct lb_slow_row *r = &w->slow[i];
        lb_str_puts(out, "<tr><td class=\"n\">");
        lb_html_int(out, (long long)r->index);
        lb_str_puts(out, "</td><td class=\"wrap\"><bdi>");
        lb_html_text(out, r->id);
        lb_str_puts(out, "</bdi></td><td class=\"n\">");
        lb_html_int(out, (long long)r->n_prompt);
        lb_str_puts(out, "</td><td class=\"n\">");
        lb_html_int(out, (long long)r->n_new);
        lb_str_puts(out, "</td>");
        put_cell(out, r->wait_s);
        put_cell(out, r->latency_s);
        if (ranks)
            lb_str_putf(out, "<td class=\"n\">%d</td>", r->rank);
        lb_str_puts(out, "</tr>");
    }
    lb_str_puts(out, "</tbody></table></div></section>");
}

static void put_ranks(struct lb_str *out, const struct lb_stats *s)
{
    char key[48];
    lb_str_puts(out, "<section><h2>Ranks</h2><div class=\"scroll\"><table class=\"fit\"><thead><tr><th "
                     "class=\"n\">Rank</th><th>Host</th>"
                     "<th class=\"n\">Busy</th><th class=\"n\">Idle</th>");
    lb_str_puts(out, s->n_rank > 1 ? "<th class=\"n\">For other ranks</th>" : "");
    lb_str_puts(out, "<th class=\"n\">Memory, at most</th></tr></thead><tbody>");
    for (int i = 0; i < s->n_rank; i++) {
        const struct lb_rank_stats *k = &s->rank[i];
        lb_str_puts(out, "<tr><td class=\"n\">");
        snprintf(key, sizeof key, "ranks.%d.rank", i);
        put_int(out, key, k->rank, "");
        lb_str_puts(out, "</td><td class=\"wrap\">");
        lb_html_text(out, k->host);
        lb_str_puts(out, "</td><td class=\"n\">");
        snprintf(key, sizeof key, "ranks.%d.busy_s", i);
        put_seconds(out, key, k->busy_s);
        lb_str_puts(out, "</td><td class=\"n\">");
        snprintf(key, sizeof key, "ranks.%d.idle_s", i);
        put_seconds(out, key, k->idle_s);
        if (s->n_rank > 1) {
            lb_str_puts(out, "</td><td class=\"n\">");
            snprintf(key, sizeof key, "ranks.%d.collective_s", i);
            put_seconds(out, key, k->collective_s);
        }
        lb_str_puts(out, "</td><td class=\"n\">");
        snprintf(key, sizeof key, "ranks.%d.peak_rss_bytes", i);
        put_bytes(out, key, k->peak_rss_bytes);
        lb_str_puts(out, "</td></tr>");
    }
    lb_str_puts(out, "</tbody></table></div></section>");
}

/* ---- numbers ---- */

/* One table of a name and a number a line. */
static void open_numbers(struct lb_str *out, const char *title)
{
    lb_str_putf(out, "<div class=\"group\"><h3>%s</h3><table><tbody>", title);
}

static void close_numbers(struct lb_str *out)
{
    lb_str_puts(out, "</td></tr></tbody></table></div>");
}

static void label(struct lb_str *out, const char *text)
{
    if (out->len < 7 || memcmp(out->data + out->len - 7, "<tbody>", 7) != 0)
        lb_str_puts(out, "</td></tr>");
    lb_str_putf(out, "<tr><th scope=\"row\">%s</th><td class=\"n\">", text);
}

static void put_counts(struct lb_str *out, const struct lb_stats *s)
{
    open_numbers(out, "Rows");
    label(out, "Ended at a stop");
    put_int(out, "rows.stop", s->stop, "");
    label(out, "Ended at their limit of tokens");
    put_int(out, "rows.length", s->length, "");
    label(out, "Finished by an earlier run");
    put_int(out, "rows.resumed", s->resumed, "");
    close_numbers(out);
    open_numbers(out, "Tokens of this run");
    label(out, "Of prompts");
    put_int(out, "tokens.prompt", s->prompt_tokens, "");
    label(out, "Of prompts, computed");
    put_int(out, "tokens.prompt_computed", s->prompt_computed, "");
    label(out, "Of prompts, found in pages of other rows");
    put_int(out, "tokens.prefix_hit", s->prefix_hit, "");
    label(out, "New");
    put_int(out, "tokens.completion", s->completion_tokens, "");
    label(out, "Computed again after an eviction");
    put_int(out, "tokens.recomputed", s->recomputed, "");
    label(out, "Padding");
    put_int(out, "tokens.padding", s->padding, "");
    close_numbers(out);
}

static void put_latency(struct lb_str *out, const struct lb_stats *s)
{
    if (!s->n_latency)
        return;
    open_numbers(out, "Time of a row, first step to last token");
    label(out, "90 of 100 rows are faster than");
    put_seconds(out, "latency_s.p90", s->latency_p90);
    label(out, "99 of 100 rows are faster than");
    put_seconds(out, "latency_s.p99", s->latency_p99);
    label(out, "Slowest row");
    put_seconds(out, "latency_s.max", s->latency_max);
    close_numbers(out);
}

static void put_speeds(struct lb_str *out, const struct lb_stats *s)
{
    open_numbers(out, "Rates");
    label(out, "Prompt tokens a second");
    put_real(out, "throughput.prompt_tok_s", lb_stats_rates(s).prompt, "");
    if (s->forward_s > 0) {
        label(out, "Products of weights");
        put_flops(out, "throughput.model_tflops", s->model_tflops);
    }
    close_numbers(out);
    open_numbers(out, "Steps and cache");
    label(out, "Steps");
    put_int(out, "steps.count", s->steps, "");
    if (s->steps) {
        label(out, "Tokens a step");
        put_real(out, "steps.tokens_mean", s->tokens_mean, "");
        label(out, "Rows a step");
        put_real(out, "steps.seqs_mean", s->seqs_mean, "");
        label(out, "Share of the token budget used");
        put_percent(out, "steps.fill", s->fill);
        label(out, "Empty cache slots a row");
        put_real(out, "kv.waste", s->waste, "");
    }
    label(out, "Cache pages in use, at most");
    put_int(out, "kv.peak_pages", s->peak_pages, "");
    close_numbers(out);
}

static void put_numbers(struct lb_str *out, const struct lb_stats *s)
{
    lb_str_puts(out, "<section><h2>Numbers</h2><div class=\"two\"><div>");
    put_counts(out, s);
    lb_str_puts(out, "</div><div>");
    put_latency(out, s);
    put_speeds(out, s);
    lb_str_puts(out, "</div></div></section>");
}

/* ---- settings and audit ---- */

/* why: how it was chosen, NULL where the command line says it. */
static void put_size(struct lb_str *out, const char *key, const char *label_text, int64_t value, const char *why)
{
    char name[48];
    snprintf(name, sizeof name, "engine.%s", key);
    lb_str_putf(out, "<tr><th scope=\"row\">%s</th><td class=\"n\">", label_text);
    put_int(out, name, value, "");
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
            put_int(out, key, n->count, n->count == 1 ? " row" : " rows");
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
    put_stages(out, v->stats);
    put_errors(out, v->stats);
    lb_str_puts(out, "</div>");
    put_slow(out, v);
    put_numbers(out, v->stats);
    put_ranks(out, v->stats);
    put_settings(out, v);
    put_audit(out, v);
    lb_str_puts(out, "</main></body></html>\n");
}
