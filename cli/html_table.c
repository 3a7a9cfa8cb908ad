#include "cli/html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- time by stage ---- */

struct stage {
    const char *key, *label, *style;
    double seconds;
};

void lb_html_stages(struct lb_str *out, const struct lb_stats *s)
{
    const struct stage stages[] = {
        {"time_s.load", "Loading the model", "", s->load_s},
        {"time_s.forward", "Forward passes", "", s->forward_s},
        {"time_s.prefill", "for prompts", "sub", s->prefill_s},
        {"time_s.decode", "for new tokens", "sub", s->decode_s},
        {"time_s.collective", "waiting for other ranks", "sub", s->n_rank > 1 ? s->collective_s : NAN},
        {"time_s.sample", "Sampling", "", s->sample_s},
        {"time_s.host_wait", "Waiting for rows", "", s->host_wait_s},
        {"time_s.verify", "Running rows again, --verify", "", s->verifies ? s->verify_s : NAN},
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
        lb_html_time(out, t->key, t->seconds);
        lb_str_puts(out, "</td></tr>");
    }
    lb_str_puts(out, "</tbody></table></section>");
}

/* ---- rows ---- */

void lb_html_errors(struct lb_str *out, const struct lb_stats *s)
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
        lb_html_count(out, key, s->by_code[code], "");
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

void lb_html_slow(struct lb_str *out, const struct lb_view *v)
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

void lb_html_ranks(struct lb_str *out, const struct lb_stats *s)
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
        lb_html_count(out, key, k->rank, "");
        lb_str_puts(out, "</td><td class=\"wrap\">");
        lb_html_text(out, k->host);
        lb_str_puts(out, "</td><td class=\"n\">");
        snprintf(key, sizeof key, "ranks.%d.busy_s", i);
        lb_html_time(out, key, k->busy_s);
        lb_str_puts(out, "</td><td class=\"n\">");
        snprintf(key, sizeof key, "ranks.%d.idle_s", i);
        lb_html_time(out, key, k->idle_s);
        if (s->n_rank > 1) {
            lb_str_puts(out, "</td><td class=\"n\">");
            snprintf(key, sizeof key, "ranks.%d.collective_s", i);
            lb_html_time(out, key, k->collective_s);
        }
        lb_str_puts(out, "</td><td class=\"n\">");
        snprintf(key, sizeof key, "ranks.%d.peak_rss_bytes", i);
        lb_html_bytes(out, key, k->peak_rss_bytes);
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
    lb_html_count(out, "rows.stop", s->stop, "");
    label(out, "Ended at their limit of tokens");
    lb_html_count(out, "rows.length", s->length, "");
    label(out, "Finished by an earlier run");
    lb_html_count(out, "rows.resumed", s->resumed, "");
    label(out, "Written with the result of another row");
    lb_html_count(out, "rows.folded", s->folded, "");
    if (s->verifies) {
        label(out, "Run again for --verify");
        lb_html_count(out, "verify.rows", s->verified, "");
        label(out, "Came out otherwise");
        lb_html_count(out, "verify.differ", s->verify_differ, "");
    }
    close_numbers(out);
    open_numbers(out, "Tokens of this run");
    label(out, "Of prompts");
    lb_html_count(out, "tokens.prompt", s->prompt_tokens, "");
    label(out, "Of prompts, computed");
    lb_html_count(out, "tokens.prompt_computed", s->prompt_computed, "");
    label(out, "Of prompts, found in pages of other rows");
    lb_html_count(out, "tokens.prefix_hit", s->prefix_hit, "");
    label(out, "New");
    lb_html_count(out, "tokens.completion", s->completion_tokens, "");
    label(out, "Computed again after an eviction");
    lb_html_count(out, "tokens.recomputed", s->recomputed, "");
    label(out, "Of drafts");
    lb_html_count(out, "tokens.drafted", s->drafted, "");
    label(out, "Of drafts, those that gave a new token");
    lb_html_count(out, "tokens.accepted", s->accepted, "");
    label(out, "Padding");
    lb_html_count(out, "tokens.padding", s->padding, "");
    close_numbers(out);
}

static void put_latency(struct lb_str *out, const struct lb_stats *s)
{
    if (!s->n_latency)
        return;
    open_numbers(out, "Time of a row, first step to last token");
    label(out, "90 of 100 rows are faster than");
    lb_html_time(out, "latency_s.p90", s->latency_p90);
    label(out, "99 of 100 rows are faster than");
    lb_html_time(out, "latency_s.p99", s->latency_p99);
    label(out, "Slowest row");
    lb_html_time(out, "latency_s.max", s->latency_max);
    close_numbers(out);
}

static void put_scoring(struct lb_str *out, const struct lb_stats *s)
{
    if (s->scored_tokens == 0)
        return;
    open_numbers(out, "Prompts by the model");
    label(out, "Tokens with a log-probability");
    lb_html_count(out, "scoring.tokens", s->scored_tokens, "");
    label(out, "Sum of their negative log-probabilities");
    lb_str_putf(out, "<data data-key=\"scoring.nll\" value=\"%.10g\">", s->scored_nll);
    lb_html_real(out, s->scored_nll);
    lb_str_puts(out, "</data>");
    label(out, "Perplexity");
    lb_html_measure(out, "scoring.perplexity", exp(s->scored_nll / (double)s->scored_tokens), "");
    close_numbers(out);
}

static void put_speeds(struct lb_str *out, const struct lb_stats *s)
{
    open_numbers(out, "Rates");
    label(out, "Prompt tokens a second");
    lb_html_measure(out, "throughput.prompt_tok_s", lb_stats_rates(s).prompt, "");
    if (s->forward_s > 0 && s->n_param) {
        label(out, "Products of weights");
        lb_html_flops(out, "throughput.model_tflops", s->model_tflops);
    }
    close_numbers(out);
    open_numbers(out, "Steps and cache");
    label(out, "Steps");
    lb_html_count(out, "steps.count", s->steps, "");
    if (s->steps) {
        label(out, "Tokens a step");
        lb_html_measure(out, "steps.tokens_mean", s->tokens_mean, "");
        label(out, "Rows a step");
        lb_html_measure(out, "steps.seqs_mean", s->seqs_mean, "");
        label(out, "Share of the token budget used");
        lb_html_percent(out, "steps.fill", s->fill);
        label(out, "Empty cache slots a row");
        lb_html_measure(out, "kv.waste", s->waste, "");
    }
    label(out, "Cache pages in use, at most");
    lb_html_count(out, "kv.peak_pages", s->peak_pages, "");
    close_numbers(out);
}

void lb_html_numbers(struct lb_str *out, const struct lb_stats *s)
{
    lb_str_puts(out, "<section><h2>Numbers</h2><div class=\"two\"><div>");
    put_counts(out, s);
    put_scoring(out, s);
    lb_str_puts(out, "</div><div>");
    put_latency(out, s);
    put_speeds(out, s);
    lb_str_puts(out, "</div></div></section>");
}
