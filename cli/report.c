#include "cli/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/options.h"

#define LB_LINE_EVERY_S 60.0

void lb_report_init(struct lb_report *r, int progress_mode)
{
    pthread_mutex_init(&r->mutex, NULL);
    r->redraw = progress_mode == LB_PROGRESS_ON || (progress_mode == LB_PROGRESS_AUTO && isatty(STDERR_FILENO));
    r->drawn = false;
    r->next_line_s = LB_LINE_EVERY_S;
    r->place[0] = 0;
}

void lb_report_place(struct lb_report *r, int rank, const char *host)
{
    snprintf(r->place, sizeof r->place, "[%d@%s]", rank, host);
}

void lb_report_release(struct lb_report *r)
{
    lb_report_end(r);
    pthread_mutex_destroy(&r->mutex);
}

/* One write a text, so that lines of programs that share the stream do not mix. */
static void put(const struct lb_str *s)
{
    if (!s->failed && s->len)
        fwrite(s->data, 1, s->len, stderr);
}

static void clear_line(struct lb_report *r, struct lb_str *s)
{
    if (r->drawn)
        lb_str_puts(s, "\r\033[K");
    r->drawn = false;
}

void lb_report_message(void *ctx, enum lb_log_level level, const char *text)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    struct lb_report *r = ctx;
    struct lb_str s = {0};
    pthread_mutex_lock(&r->mutex);
    clear_line(r, &s);
    lb_str_putf(&s, "llmbatch%s: %s: ", r->place, names[level]);
    for (; *text; text++) /* a file name may hold a newline; a message is one line */
        lb_str_putc(&s, *text == '\n' || *text == '\r' ? ' ' : *text);
    lb_str_putc(&s, '\n');
    put(&s);
    pthread_mutex_unlock(&r->mutex);
    lb_str_release(&s);
}

static void put_duration(struct lb_str *s, double seconds)
{
    long long t = seconds < 1e9 ? (long long)(seconds + 0.5) : 1000000000;
    if (t >= 3600)
        lb_str_putf(s, "%lld:%02lld:%02lld", t / 3600, t / 60 % 60, t % 60);
    else
        lb_str_putf(s, "%lld:%02lld", t / 60, t % 60);
}

static void put_progress(struct lb_str *s, const struct lb_progress *p)
{
    lb_str_putf(s, "%lld", (long long)p->rows_done);
    if (p->rows_final)
        lb_str_putf(s, "/%lld", (long long)p->rows_read);
    lb_str_puts(s, " rows");
    double f = p->fraction > 1 ? 1 : p->fraction;
    if (f >= 0)
        lb_str_putf(s, ", %.0f %%", 100 * f);
    lb_str_putf(s, ", %.0f tok/s", p->tok_s);
    if (f > 0.001 && p->elapsed_s > 0) {
        lb_str_puts(s, ", ");
        put_duration(s, p->elapsed_s * (1 - f) / f);
        lb_str_puts(s, " left");
    }
}

void lb_report_progress(void *ctx, const struct lb_progress *p)
{
    struct lb_report *r = ctx;
    struct lb_str s = {0};
    pthread_mutex_lock(&r->mutex);
    if (r->redraw) {
        lb_str_puts(&s, "\r");
        put_progress(&s, p);
        lb_str_puts(&s, "\033[K");
        r->drawn = true;
    } else if (p->elapsed_s >= r->next_line_s) {
        lb_str_putf(&s, "llmbatch%s: info: ", r->place);
        put_progress(&s, p);
        lb_str_putc(&s, '\n');
        r->next_line_s = p->elapsed_s + LB_LINE_EVERY_S;
    }
    put(&s);
    pthread_mutex_unlock(&r->mutex);
    lb_str_release(&s);
}

void lb_report_end(struct lb_report *r)
{
    struct lb_str s = {0};
    pthread_mutex_lock(&r->mutex);
    clear_line(r, &s);
    put(&s);
    pthread_mutex_unlock(&r->mutex);
    lb_str_release(&s);
}

static void put_rows(struct lb_str *s, const struct lb_stats *st)
{
    lb_str_putf(s, "rows        %lld: %lld ok", (long long)st->rows, (long long)st->ok);
    if (!st->no_model)
        lb_str_putf(s, " (%lld stop, %lld length)", (long long)st->stop, (long long)st->length);
    lb_str_putf(s, ", %lld failed", (long long)st->error);
    const char *before = " (";
    for (int code = LB_ROW_OK + 1; code < LB_N_ROW_CODE; code++) {
        if (!st->by_code[code])
            continue;
        lb_str_putf(s, "%s%s %lld", before, lb_row_code_name((enum lb_row_code)code), (long long)st->by_code[code]);
        before = ", ";
    }
    lb_str_puts(s, st->error ? ")" : "");
    if (st->resumed)
        lb_str_putf(s, "; %lld of an earlier run", (long long)st->resumed);
    if (st->folded)
        lb_str_putf(s, "; %lld the same as others", (long long)st->folded);
    lb_str_putc(s, '\n');
}

/* "LABEL 1.23", after a comma unless it is the first of its line; nothing for what was not measured (not finite). */
static void put_value(struct lb_str *s, const char *label, double value, int digits)
{
    if (!isfinite(value))
        return;
    bool first = s->len == 0 || s->data[s->len - 1] == ' ';
    lb_str_putf(s, "%s%s %.*f", first ? "" : ", ", label, digits, value);
}

static void put_rates(struct lb_str *s, const struct lb_stats *st)
{
    lb_str_puts(s, "time        ");
    put_value(s, "total", st->total_s, 2);
    put_value(s, "load", st->load_s, 2);
    put_value(s, "forward", st->forward_s, 2);
    put_value(s, "prefill", st->prefill_s, 2);
    put_value(s, "decode", st->decode_s, 2);
    put_value(s, "sample", st->sample_s, 2);
    lb_str_puts(s, " s\nwaiting     ");
    put_value(s, "host", st->host_wait_s, 3);
    if (st->tp > 1)
        put_value(s, "other ranks", st->collective_s, 3);
    put_value(s, "write", st->write_s, 3);
    lb_str_puts(s, " s\n");
    struct lb_rates rates = lb_stats_rates(st);
    if (isfinite(rates.total) && st->steps > 0)
        lb_str_putf(s, "throughput  prompt %.1f, completion %.1f, together %.1f tok/s\n", rates.prompt,
                    rates.completion, rates.total);
    if (st->n_latency > 0) {
        lb_str_puts(s, "latency     ");
        put_value(s, "p50", st->latency_p50, 3);
        put_value(s, "p90", st->latency_p90, 3);
        put_value(s, "p99", st->latency_p99, 3);
        put_value(s, "longest", st->latency_max, 3);
        lb_str_puts(s, " s\n");
    }
}

/* --render */
static void put_rendered(struct lb_str *s, const struct lb_stats *st)
{
    put_rows(s, st);
    lb_str_putf(s, "tokens      prompt %lld\n", (long long)st->prompt_tokens);
    lb_str_puts(s, "time        ");
    put_value(s, "total", st->total_s, 2);
    put_value(s, "load", st->load_s, 2);
    put_value(s, "write", st->write_s, 2);
    lb_str_puts(s, " s\n");
}

static void put_locked(struct lb_report *r, struct lb_str *s)
{
    pthread_mutex_lock(&r->mutex);
    put(s);
    pthread_mutex_unlock(&r->mutex);
    lb_str_release(s);
}

void lb_report_summary(struct lb_report *r, const struct lb_stats *st)
{
    struct lb_str s = {0};
    if (!st || (st->rows == 0 && st->steps == 0))
        return;
    if (st->no_model) {
        put_rendered(&s, st);
        put_locked(r, &s);
        return;
    }
    put_rows(&s, st);
    lb_str_putf(&s, "tokens      prompt %lld", (long long)st->prompt_tokens);
    if (st->prefix_hit > 0)
        lb_str_putf(&s, " (%lld from shared beginnings)", (long long)st->prefix_hit);
    lb_str_putf(&s, ", completion %lld, recomputed %lld\n", (long long)st->completion_tokens,
                (long long)st->recomputed);
    if (st->drafted > 0)
        lb_str_putf(&s, "drafts      %lld tokens, %lld of them accepted\n", (long long)st->drafted,
                    (long long)st->accepted);
    if (st->scored_tokens > 0)
        lb_str_putf(&s, "scoring     %lld prompt tokens, nll %.6g, perplexity %.6g\n", (long long)st->scored_tokens,
                    st->scored_nll, exp(st->scored_nll / (double)st->scored_tokens));
    put_rates(&s, st);
    if (st->steps > 0)
        lb_str_putf(&s, "steps       %lld: %.1f tokens and %.1f rows each, %.0f %% of the budget\n",
                    (long long)st->steps, st->tokens_mean, st->seqs_mean, 100 * st->fill);
    lb_str_putf(&s, "KV cache    at most %lld of %lld pages", (long long)st->peak_pages, (long long)st->kv_pages);
    if (st->steps > 0)
        put_value(&s, "empty slots a row", st->waste, 1);
    lb_str_putc(&s, '\n');
    lb_str_putf(&s, "padding     %lld tokens\n", (long long)st->padding);
    if (st->architecture && st->dtype && st->n_param)
        lb_str_putf(&s, "model       %s, %.1f million parameters, %s%s%s\n", st->architecture,
                    (double)st->n_param / 1e6, st->dtype, st->quantization ? ", layers in " : "",
                    st->quantization ? st->quantization : "");
    if (st->device)
        lb_str_putf(&s, "engine      %s, %s%sthreads %d, memory %.0f MiB\n", st->device, st->isa ? st->isa : "",
                    st->isa ? ", " : "", st->n_thread, (double)st->peak_rss_bytes / (1 << 20));
    if (st->n_rank > 1)
        lb_str_putf(&s, "ranks       %d: %d groups of %d\n", st->n_rank, st->dp, st->tp);
    if (st->completion_tokens > 0 && (double)st->length > 0.05 * (double)st->ok)
        lb_str_putf(&s, "note        %.0f %% of the rows ended at their token limit (--max-tokens)\n",
                    100.0 * (double)st->length / (double)st->ok);
    put_locked(r, &s);
}
