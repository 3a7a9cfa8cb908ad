#define _GNU_SOURCE
#include "core/run/stats.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "core/run/adapter.h"
#include "core/run/audit.h"
#include "kernels/types.h"

/* A comma unless the container has just begun, then the member's name. */
static void name(struct lb_str *out, const char *text)
{
    if (out->len && out->data[out->len - 1] != '{')
        lb_str_putc(out, ',');
    lb_str_put_json(out, text, strlen(text));
    lb_str_putc(out, ':');
}

static void put_int(struct lb_str *out, const char *key, int64_t value)
{
    name(out, key);
    lb_str_putf(out, "%lld", (long long)value);
}

/* Seconds and rates; what is no number was not measured. */
static void put_real(struct lb_str *out, const char *key, double value)
{
    if (!isfinite(value))
        return;
    name(out, key);
    lb_str_putf(out, "%.6g", value);
}

static void put_text(struct lb_str *out, const char *key, const char *value)
{
    if (!value)
        return;
    name(out, key);
    lb_str_put_json(out, value, strlen(value));
}

static void open_object(struct lb_str *out, const char *key)
{
    name(out, key);
    lb_str_putc(out, '{');
}

static void put_rows(struct lb_str *out, const struct lb_stats *s)
{
    open_object(out, "rows");
    put_int(out, "total", s->rows);
    put_int(out, "ok", s->ok);
    if (!s->no_model) {
        put_int(out, "stop", s->stop);
        put_int(out, "length", s->length);
    }
    put_int(out, "error", s->error);
    open_object(out, "errors_by_code");
    for (int code = LB_ROW_OK + 1; code < LB_N_ROW_CODE; code++)
        if (s->by_code[code])
            put_int(out, lb_row_code_name((enum lb_row_code)code), s->by_code[code]);
    lb_str_putc(out, '}');
    put_int(out, "resumed", s->resumed);
    if (!s->no_model)
        put_int(out, "folded", s->folded);
    lb_str_putc(out, '}');
}

static void put_scoring(struct lb_str *out, const struct lb_stats *s)
{
    if (s->scored_tokens == 0)
        return;
    open_object(out, "scoring");
    put_int(out, "tokens", s->scored_tokens);
    name(out, "nll");
    lb_str_putf(out, "%.10g", s->scored_nll); /* a sum of millions, whose mean is told to several places */
    put_real(out, "perplexity", exp(s->scored_nll / (double)s->scored_tokens));
    lb_str_putc(out, '}');
}

struct lb_rates lb_stats_rates(const struct lb_stats *s)
{
    double t = s->total_s - s->load_s - s->verify_s;
    if (!(t > 0) || s->no_model)
        return (struct lb_rates){NAN, NAN, NAN};
    return (struct lb_rates){(double)s->prompt_tokens / t, (double)s->completion_tokens / t,
                             (double)(s->prompt_tokens + s->completion_tokens) / t};
}

static void put_times(struct lb_str *out, const struct lb_stats *s)
{
    open_object(out, "time_s");
    put_real(out, "total", s->total_s);
    put_real(out, "load", s->load_s);
    if (s->no_model) {
        put_real(out, "write", s->write_s);
        lb_str_putc(out, '}');
        return;
    }
    put_real(out, "forward", s->forward_s);
    put_real(out, "prefill", s->prefill_s);
    put_real(out, "decode", s->decode_s);
    put_real(out, "sample", s->sample_s);
    if (s->n_rank > 1)
        put_real(out, "collective", s->collective_s);
    put_real(out, "host_wait", s->host_wait_s);
    put_real(out, "write", s->write_s);
    if (s->verifies)
        put_real(out, "verify", s->verify_s);
    lb_str_putc(out, '}');

    struct lb_rates rates = lb_stats_rates(s);
    open_object(out, "throughput");
    put_real(out, "prompt_tok_s", rates.prompt);
    put_real(out, "completion_tok_s", rates.completion);
    put_real(out, "total_tok_s", rates.total);
    if (s->forward_s > 0 && s->n_param)
        put_real(out, "model_tflops", s->model_tflops);
    lb_str_putc(out, '}');

    if (s->n_latency) {
        open_object(out, "latency_s");
        put_real(out, "p50", s->latency_p50);
        put_real(out, "p90", s->latency_p90);
        put_real(out, "p99", s->latency_p99);
        put_real(out, "max", s->latency_max);
        lb_str_putc(out, '}');
    }
}

/* Those without a name have their directory alone. */
static void put_adapters(struct lb_str *out, const struct lb_adapters *a)
{
    if (!a || a->n == 0)
        return;
    name(out, "adapters");
    for (int32_t i = 0; i < a->n; i++) {
        lb_str_puts(out, i ? "," : "[");
        lb_str_putc(out, '{');
        put_text(out, "name", *a->item[i].name ? a->item[i].name : NULL);
        put_text(out, "path", a->item[i].dir);
        lb_str_putc(out, '}');
    }
    lb_str_putc(out, ']');
}

static void put_engine(struct lb_str *out, const struct lb_stats *s)
{
    open_object(out, "model");
    put_text(out, "path", s->model_path);
    put_text(out, "architecture", s->architecture);
    if (s->no_model) {
        lb_str_putc(out, '}');
        return;
    }
    if (s->n_param)
        put_int(out, "parameters", s->n_param);
    put_text(out, "dtype", s->dtype);
    put_text(out, "quantization", s->quantization);
    put_adapters(out, s->adapters);
    lb_str_putc(out, '}');
    open_object(out, "engine");
    put_text(out, "device", s->device);
    put_text(out, "isa", s->isa);
    put_int(out, "threads", s->n_thread);
    put_int(out, "ranks", s->tp * s->dp);
    put_int(out, "tp", s->tp);
    put_int(out, "dp", s->dp);
    put_int(out, "batch_tokens", s->batch_tokens);
    put_int(out, "max_seqs", s->max_seqs);
    put_int(out, "kv_pages", s->kv_pages);
    put_int(out, "page_tokens", LK_PAGE_TOKENS);
    put_int(out, "segments", s->segments);
    if (s->why_batch || s->why_seqs || s->why_kv) {
        open_object(out, "auto");
        put_text(out, "batch_tokens", s->why_batch);
        put_text(out, "max_seqs", s->why_seqs);
        put_text(out, "kv_pages", s->why_kv);
        lb_str_putc(out, '}');
    }
    lb_str_putc(out, '}');
    open_object(out, "sampling");
    for (int i = 0; i < s->n_setting; i++) {
        open_object(out, s->setting[i].name);
        name(out, "value");
        lb_str_puts(out, s->setting[i].value);
        put_text(out, "origin", s->setting[i].origin);
        lb_str_putc(out, '}');
    }
    lb_str_putc(out, '}');
}

/* Steps, cache and ranks of a run that had a model. */
static void put_run(struct lb_str *out, const struct lb_stats *s)
{
    open_object(out, "steps");
    put_int(out, "count", s->steps);
    if (s->steps) {
        put_real(out, "tokens_mean", s->tokens_mean);
        put_real(out, "seqs_mean", s->seqs_mean);
        put_real(out, "fill", s->fill);
    }
    lb_str_putc(out, '}');
    open_object(out, "kv");
    put_int(out, "peak_pages", s->peak_pages);
    if (s->steps)
        put_real(out, "waste", s->waste);
    lb_str_putc(out, '}');
    name(out, "ranks");
    lb_str_putc(out, '[');
    for (int i = 0; i < s->n_rank; i++) {
        const struct lb_rank_stats *k = &s->rank[i];
        lb_str_puts(out, i ? ",{" : "{");
        put_int(out, "rank", k->rank);
        put_text(out, "host", k->host);
        put_real(out, "busy_s", k->busy_s);
        put_real(out, "idle_s", k->idle_s);
        if (s->n_rank > 1)
            put_real(out, "collective_s", k->collective_s);
        if (k->peak_rss_bytes)
            put_int(out, "peak_rss_bytes", k->peak_rss_bytes);
        lb_str_putc(out, '}');
    }
    lb_str_putc(out, ']');
}

void lb_stats_join(struct lb_stats *s)
{
    double seqs = 0, waste = 0, flop = 0;
    int64_t n_fed = 0;
    int n = 0;
    for (int i = 0; i < s->n_rank; i++)
        n += s->rank[i].leads != 0;
    double share = n ? 1 / (double)n : 0;
    for (int i = 0; i < s->n_rank; i++) {
        const struct lb_rank_stats *k = &s->rank[i];
        s->peak_rss_bytes = k->peak_rss_bytes > s->peak_rss_bytes ? k->peak_rss_bytes : s->peak_rss_bytes;
        if (!k->leads)
            continue;
        s->forward_s += k->forward_s * share;
        s->prefill_s += k->prefill_s * share;
        s->decode_s += k->decode_s * share;
        s->sample_s += k->sample_s * share;
        s->host_wait_s += k->host_wait_s * share;
        s->collective_s += k->collective_s * share;
        s->steps += k->steps;
        s->prompt_computed += k->prompt_computed;
        s->prefix_hit += k->prefix_hit;
        s->recomputed += k->recomputed;
        s->drafted += k->drafted;
        s->accepted += k->accepted;
        s->padding += k->padding;
        s->peak_pages = k->peak_pages > s->peak_pages ? k->peak_pages : s->peak_pages;
        n_fed += k->n_fed;
        flop += k->flop;
        seqs += k->seqs_sum;
        waste += k->waste_sum;
    }
    if (s->forward_s > 0)
        s->model_tflops = 1e-12 * flop / s->forward_s;
    if (!s->steps)
        return;
    s->tokens_mean = (double)n_fed / (double)s->steps;
    s->seqs_mean = seqs / (double)s->steps;
    s->waste = waste / (double)s->steps;
    s->fill = s->tokens_mean / (double)s->batch_tokens;
}

void lb_stats_put_json(const struct lb_stats *s, const char *command, struct lb_str *out)
{
    lb_str_putc(out, '{');
    put_text(out, "version", LB_VERSION);
    if (s->fingerprint) {
        name(out, "fingerprint");
        lb_str_puts(out, s->fingerprint);
    }
    if (s->input_known) {
        name(out, "input_hash");
        lb_str_putf(out, "\"%016" PRIx64 "\"", s->input_hash);
    }
    put_text(out, "command", command);
    put_engine(out, s);
    put_rows(out, s);
    open_object(out, "tokens");
    put_int(out, "prompt", s->prompt_tokens);
    if (!s->no_model) {
        put_int(out, "prompt_computed", s->prompt_computed);
        put_int(out, "prefix_hit", s->prefix_hit);
        put_int(out, "completion", s->completion_tokens);
        put_int(out, "recomputed", s->recomputed);
        put_int(out, "drafted", s->drafted);
        put_int(out, "accepted", s->accepted);
        put_int(out, "padding", s->padding);
    }
    lb_str_putc(out, '}');
    put_scoring(out, s);
    put_times(out, s);
    if (!s->no_model)
        put_run(out, s);
    if (s->verifies) {
        open_object(out, "verify");
        put_int(out, "rows", s->verified);
        put_int(out, "differ", s->verify_differ);
        lb_str_putc(out, '}');
    }
    if (s->plan) {
        name(out, "plan");
        lb_str_puts(out, s->plan);
    }
    if (s->audit) {
        name(out, "audit");
        lb_audit_put_json(s->audit, out);
    }
    put_int(out, "exit_code", s->exit_code);
    lb_str_puts(out, "}\n");
}
