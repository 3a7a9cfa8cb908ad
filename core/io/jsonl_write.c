#include "core/io/jsonl_write.h"

#include <math.h>
#include <string.h>

static void put_ids(struct lb_str *out, const char *name, const int32_t *ids, int64_t n)
{
    lb_str_putf(out, ",\"%s\":[", name);
    for (int64_t i = 0; i < n; i++)
        lb_str_putf(out, i ? ",%d" : "%d", ids[i]);
    lb_str_putc(out, ']');
}

static void put_logprob(struct lb_str *out, const struct lb_logprob *lp)
{
    lb_str_putf(out, "{\"id\":%d,\"logprob\":", lp->id);
    lb_str_put_f32(out, lp->logprob);
    lb_str_putf(out, ",\"rank\":%lld", (long long)lp->rank);
    for (size_t k = 0; k < lp->n_top; k++) {
        lb_str_putf(out, k ? ",[%d," : ",\"top\":[[%d,", lp->top[k].id);
        lb_str_put_f32(out, lp->top[k].logprob);
        lb_str_putc(out, ']');
    }
    lb_str_puts(out, lp->n_top ? "]}" : "}");
}

static void put_logprobs(struct lb_str *out, const struct lb_logprob *lp, int64_t n)
{
    lb_str_puts(out, ",\"logprobs\":[");
    for (int64_t i = 0; i < n; i++) {
        if (i)
            lb_str_putc(out, ',');
        put_logprob(out, &lp[i]);
    }
    lb_str_putc(out, ']');
}

double lb_result_nll(const struct lb_result *r)
{
    double sum = 0;
    for (int64_t i = 0; r->prompt_logprobs && i < r->prompt_tokens - r->prompt_first; i++)
        sum -= (double)r->prompt_logprobs[i].logprob;
    return sum;
}

static void put_prompt_logprobs(struct lb_str *out, const struct lb_result *r)
{
    if (!r->prompt_logprobs)
        return;
    lb_str_puts(out, ",\"prompt_logprobs\":[");
    for (int64_t i = 0; i < r->prompt_tokens; i++) {
        if (i)
            lb_str_putc(out, ',');
        if (i < r->prompt_first)
            lb_str_puts(out, "null");
        else
            put_logprob(out, &r->prompt_logprobs[i - r->prompt_first]);
    }
    lb_str_puts(out, "],\"prompt_nll\":");
    lb_str_put_f32(out, (float)lb_result_nll(r));
}

static void put_timing(struct lb_str *out, const struct lb_timing *t)
{
    const struct {
        const char *name;
        double s;
    } times[] = {
        {"queue_s", t->queue_s},   {"prefill_s", t->prefill_s},
        {"decode_s", t->decode_s}, {"first_token_s", t->first_token_s},
        {"total_s", t->total_s},
    };
    lb_str_puts(out, ",\"timing\":{");
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        if (isfinite(times[i].s))
            lb_str_putf(out, "\"%s\":%.6g,", times[i].name, times[i].s);
    lb_str_putf(out, "\"rank\":%d,\"steps\":%lld}", t->rank, (long long)t->steps);
}

void lb_jsonl_put_extras(struct lb_str *out, const struct lb_result *r)
{
    if (r->cut_policy)
        lb_str_putf(out, ",\"cut\":{\"policy\":\"%s\",\"tokens\":%lld}", r->cut_policy, (long long)r->cut_tokens);
    if (r->timing)
        put_timing(out, r->timing);
    if (r->kept_json) {
        lb_str_puts(out, ",\"kept\":");
        lb_str_puts(out, r->kept_json);
    }
}

/* What a sample has before the row's counts, and behind the prompt's ids. */
static void put_end(struct lb_str *out, const struct lb_result *r)
{
    if (r->text) {
        lb_str_puts(out, ",\"text\":");
        lb_str_put_json(out, r->text, r->n_text);
    }
    lb_str_putf(out, ",\"finish_reason\":\"%s\"", r->finish == LB_FINISH_STOP ? "stop" : "length");
    if (r->has_stop_id) {
        lb_str_putf(out, ",\"stop_reason\":%d", r->stop_id);
    } else if (r->stop_string) {
        lb_str_puts(out, ",\"stop_reason\":");
        lb_str_put_json(out, r->stop_string, strlen(r->stop_string));
    }
}

static void put_tokens(struct lb_str *out, const struct lb_result *r)
{
    if (r->ids)
        put_ids(out, "token_ids", r->ids, r->completion_tokens);
    if (r->logprobs)
        put_logprobs(out, r->logprobs, r->completion_tokens);
}

static void put_choices(struct lb_str *out, const struct lb_result *r)
{
    lb_str_puts(out, ",\"choices\":[");
    for (size_t i = 0; i < r->n_choice; i++) {
        size_t begin = out->len;
        put_end(out, &r->choice[i]);
        lb_str_putf(out, ",\"completion_tokens\":%lld", (long long)r->choice[i].completion_tokens);
        put_tokens(out, &r->choice[i]);
        lb_str_putc(out, '}');
        if (out->failed)
            return;
        out->data[begin] = '{'; /* for the comma before its first member */
        if (i + 1 < r->n_choice)
            lb_str_putc(out, ',');
    }
    lb_str_putc(out, ']');
}

static void put_done(struct lb_str *out, const struct lb_result *r)
{
    if (r->choice) {
        put_choices(out, r);
        lb_str_putf(out, ",\"prompt_tokens\":%lld", (long long)r->prompt_tokens);
    } else {
        put_end(out, r);
        lb_str_putf(out, ",\"prompt_tokens\":%lld,\"completion_tokens\":%lld", (long long)r->prompt_tokens,
                    (long long)r->completion_tokens);
    }
    if (r->prompt_ids)
        put_ids(out, "prompt_token_ids", r->prompt_ids, r->prompt_tokens);
    if (!r->choice)
        put_tokens(out, r);
    put_prompt_logprobs(out, r);
    lb_jsonl_put_extras(out, r);
}

void lb_jsonl_put_result(struct lb_str *out, const struct lb_result *r)
{
    lb_str_putf(out, "{\"id\":%s,\"index\":%lld", r->id_json ? r->id_json : "null", (long long)r->index);
    if (r->finish == LB_FINISH_ERROR) {
        const char *message = r->message ? r->message : "";
        lb_str_putf(out,
                    ",\"finish_reason\":\"error\",\"error\":{\"code\":\"%s\",\"message\":", lb_row_code_name(r->code));
        lb_str_put_json(out, message, strlen(message));
        lb_str_putc(out, '}');
    } else {
        put_done(out, r);
    }
    lb_str_putc(out, '}');
}
