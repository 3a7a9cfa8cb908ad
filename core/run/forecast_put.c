/* The forecast of a run as text and as JSON. */
#include "core/run/forecast.h"

#define GIB 1073741824.0
#define MOST_TP 16

static void put_size(struct lb_str *out, double bytes)
{
    if (bytes < 10 * 1048576.0)
        lb_str_putf(out, "%.2f MiB", bytes / 1048576);
    else if (bytes < GIB)
        lb_str_putf(out, "%.0f MiB", bytes / 1048576);
    else
        lb_str_putf(out, "%.1f GiB", bytes / GIB);
}

static void put_time(struct lb_str *out, double s)
{
    if (s < 100)
        lb_str_putf(out, "%.3g s", s);
    else if (s < 6000)
        lb_str_putf(out, "%.0f min %02.0f s", (double)(long long)(s / 60), s - 60 * (double)(long long)(s / 60));
    else
        lb_str_putf(out, "%.1f h", s / 3600);
}

static void put_memory(struct lb_str *out, const struct lb_forecast *f, const struct lb_plan *p)
{
    const struct lb_need *n = &p->need;
    const struct {
        const char *what;
        double bytes;
    } part[] = {
        {"weights, packed", n->weights}, {"steps", n->steps}, {"KV cache", n->kv}, {"rows, tokenizer", n->host}};
    lb_str_puts(out, "memory      ");
    put_size(out, n->room);
    lb_str_puts(out, " are free\n");
    for (int i = 0; i < 4; i++) {
        lb_str_putf(out, "            %-16s ", part[i].what);
        put_size(out, part[i].bytes);
        if (i == 2) {
            lb_str_putf(out, ", %lld pages; the rows need ", (long long)p->kv_pages);
            put_size(out, (double)f->peak_pages * (double)p->page_bytes);
        }
        lb_str_putc(out, '\n');
    }
    if (f->n_never > 0)
        lb_str_putf(out, "            %lld rows need more pages than there are: no_memory\n", (long long)f->n_never);
}

static void put_times(struct lb_str *out, const struct lb_forecast *f)
{
    lb_str_puts(out, "time        ");
    if (!f->measured) {
        lb_str_putf(out, "%s\n", f->no_time);
        return;
    }
    lb_str_puts(out, "about ");
    put_time(out, f->run_s);
    lb_str_puts(out, " after loading, if each row goes to its limit\n            products ");
    put_time(out, f->linear_s);
    lb_str_puts(out, ", attention ");
    put_time(out, f->attend_s);
    lb_str_puts(out, ", head ");
    put_time(out, f->head_s);
    lb_str_putf(out, "\n            by %d of the steps on made-up weights, timed in %.1f s\n", f->n_sample,
                f->measure_s);
}

/* What a rank of a group would take; ranks are taken to have processors and memory like this one's. */
static void put_groups(struct lb_str *out, const struct lb_forecast *f, const struct lb_plan *p,
                       const struct lb_plan_spec *spec)
{
    const struct lb_config *c = spec->config;
    if (c->n_seg == 1)
        return;
    lb_str_puts(out, "ranks       as a group of ranks like this one, each with its own memory:\n");
    for (int tp = 1; tp <= MOST_TP && tp <= c->n_seg; tp++) {
        if (c->n_seg % tp != 0)
            continue;
        int64_t n_out = p->max_out;
        double need = lb_plan_weight_bytes(spec, tp) + lb_plan_lora_bytes(spec) +
                      lb_plan_step_bytes(c, spec->dtype, tp, p->batch_most, n_out) +
                      (double)f->peak_pages * (double)lb_plan_page_bytes(c, spec->dtype, tp);
        lb_str_putf(out, "            --tp %-3d ", tp);
        put_size(out, need);
        lb_str_puts(out, " each");
        if (need > p->need.room)
            lb_str_puts(out, ": does not fit");
        if (f->measured && need <= p->need.room) {
            lb_str_puts(out, ", about ");
            put_time(out, f->other_s + (f->run_s - f->other_s) / tp);
            lb_str_puts(out, tp > 1 ? " and what their sums take" : "");
        }
        lb_str_putc(out, '\n');
    }
}

void lb_forecast_put(const struct lb_forecast *f, const struct lb_plan *p, const struct lb_plan_spec *spec,
                     struct lb_str *out)
{
    put_memory(out, f, p);
    if (f->n_step > 0) {
        lb_str_putf(out, "steps       %lld of at most %lld tokens and %lld rows%s\n", (long long)f->n_step,
                    (long long)p->batch_tokens, (long long)p->max_seqs, p->auto_batch ? "; size by itself:" : "");
        if (p->auto_batch)
            lb_str_putf(out, "            %s\n", p->why_batch);
        lb_str_putf(out, "            %.1f tokens and %.1f rows each, %.0f %% full\n", f->tokens_mean, f->seqs_mean,
                    100 * f->fill);
        put_times(out, f);
    }
    put_groups(out, f, p, spec);
}

void lb_forecast_put_json(const struct lb_forecast *f, const struct lb_plan *p, struct lb_str *out)
{
    const struct lb_need *n = &p->need;
    lb_str_putf(out, "{\"batch_tokens\":%lld,\"max_seqs\":%lld,\"kv_pages\":%lld,\"peak_pages\":%lld",
                (long long)p->batch_tokens, (long long)p->max_seqs, (long long)p->kv_pages, (long long)f->peak_pages);
    lb_str_putf(out, ",\"bytes\":{\"free\":%.0f,\"weights\":%.0f,\"steps\":%.0f,\"kv\":%.0f,\"host\":%.0f}", n->room,
                n->weights, n->steps, n->kv, n->host);
    lb_str_putf(out, ",\"steps\":{\"count\":%lld", (long long)f->n_step);
    if (f->n_step > 0)
        lb_str_putf(out, ",\"tokens_mean\":%.6g,\"seqs_mean\":%.6g,\"fill\":%.6g", f->tokens_mean, f->seqs_mean,
                    f->fill);
    lb_str_putc(out, '}');
    if (f->measured)
        lb_str_putf(out, ",\"time_s\":{\"run\":%.6g,\"products\":%.6g,\"attention\":%.6g,\"head\":%.6g,\"other\":%.6g}",
                    f->run_s, f->linear_s, f->attend_s, f->head_s, f->other_s);
    lb_str_putc(out, '}');
}
