#include "core/io/openai_write.h"

#include <math.h>
#include <string.h>

/* The API's way of saying that a token is next to impossible: JSON has no infinity. */
#define LEAST_LOGPROB (-9999.0f)

static void put_float(struct lb_str *out, float x)
{
    lb_str_put_f32(out, isfinite(x) ? x : LEAST_LOGPROB);
}

static struct lb_bytes piece_of(const struct lb_openai *o, int32_t id)
{
    return o->piece ? o->piece(o->ctx, id) : (struct lb_bytes){.data = ""};
}

static void put_piece(struct lb_str *out, const struct lb_openai *o, int32_t id)
{
    struct lb_bytes b = piece_of(o, id);
    lb_str_put_json(out, b.data ? b.data : "", b.len);
}

static void put_ids(struct lb_str *out, const char *name, const int32_t *ids, int64_t n)
{
    lb_str_putf(out, ",\"%s\":[", name);
    for (int64_t i = 0; i < n; i++)
        lb_str_putf(out, i ? ",%d" : "%d", ids[i]);
    lb_str_putc(out, ']');
}

/* ---- log-probabilities ---- */

/* {"token":...,"logprob":...,"bytes":[...] without the closing brace. */
static void put_token(struct lb_str *out, const struct lb_openai *o, int32_t id, float logprob)
{
    struct lb_bytes b = piece_of(o, id);
    lb_str_puts(out, "{\"token\":");
    put_piece(out, o, id);
    lb_str_puts(out, ",\"logprob\":");
    put_float(out, logprob);
    lb_str_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < b.len; i++)
        lb_str_putf(out, i ? ",%u" : "%u", (unsigned)(uint8_t)b.data[i]);
    lb_str_putc(out, ']');
}

static void put_chat_logprobs(struct lb_str *out, const struct lb_openai *o, const struct lb_result *c)
{
    lb_str_puts(out, "{\"content\":[");
    for (int64_t i = 0; i < c->completion_tokens; i++) {
        const struct lb_logprob *lp = &c->logprobs[i];
        if (i)
            lb_str_putc(out, ',');
        put_token(out, o, lp->id, lp->logprob);
        lb_str_puts(out, ",\"top_logprobs\":[");
        for (size_t k = 0; k < lp->n_top; k++) {
            if (k)
                lb_str_putc(out, ',');
            put_token(out, o, lp->top[k].id, lp->top[k].logprob);
            lb_str_putc(out, '}');
        }
        lb_str_puts(out, "]}");
    }
    lb_str_puts(out, "],\"refusal\":null}");
}

/* Whether two tokens are written the same. */
static bool same_text(const struct lb_openai *o, int32_t a, int32_t b)
{
    struct lb_bytes x = piece_of(o, a), y = piece_of(o, b);
    if (a == b || (x.len == y.len && (x.len == 0 || memcmp(x.data, y.data, x.len) == 0)))
        return true;
    if (lb_utf8_valid_prefix(x.data, x.len) == x.len || lb_utf8_valid_prefix(y.data, y.len) == y.len)
        return false;
    struct lb_str s = {0}, t = {0}; /* parts of characters, which become U+FFFD */
    lb_str_put_utf8_lossy(&s, x.data, x.len);
    lb_str_put_utf8_lossy(&t, y.data, y.len);
    bool same = s.failed || t.failed || (s.len == t.len && memcmp(s.data, t.data, s.len) == 0);
    lb_str_release(&s);
    lb_str_release(&t);
    return same;
}

/* The best tokens of a place and the chosen one, by their text; of those that are written the same the best stands. */
static void put_alternatives(struct lb_str *out, const struct lb_openai *o, const struct lb_logprob *lp)
{
    lb_str_putc(out, '{');
    for (size_t k = 0; k <= lp->n_top; k++) {
        struct lb_logprob_top it = {lp->id, lp->logprob};
        if (k < lp->n_top)
            it = lp->top[k];
        bool seen = false;
        for (size_t j = 0; j < k && !seen; j++)
            seen = same_text(o, it.id, lp->top[j].id);
        if (seen)
            continue;
        if (k)
            lb_str_putc(out, ',');
        put_piece(out, o, it.id);
        lb_str_putc(out, ':');
        put_float(out, it.logprob);
    }
    lb_str_putc(out, '}');
}

/* What is known of the i-th token of a completion whose prompt's tokens stand first, if they do: NULL where the prompt
 * was not looked at. */
static const struct lb_logprob *logprob_at(const struct lb_result *c, int64_t i)
{
    int64_t n_echo = c->echo_ids ? c->prompt_tokens : 0;
    if (i >= n_echo)
        return &c->logprobs[i - n_echo];
    return c->prompt_logprobs && i >= c->prompt_first ? &c->prompt_logprobs[i - c->prompt_first] : NULL;
}

static void put_text_logprobs(struct lb_str *out, const struct lb_openai *o, const struct lb_result *c,
                              const int64_t *offset)
{
    int64_t n_echo = c->echo_ids ? c->prompt_tokens : 0, n = n_echo + c->completion_tokens;
    lb_str_puts(out, "{\"tokens\":[");
    for (int64_t i = 0; i < n; i++) {
        if (i)
            lb_str_putc(out, ',');
        put_piece(out, o, i < n_echo ? c->echo_ids[i] : c->logprobs[i - n_echo].id);
    }
    lb_str_puts(out, "],\"token_logprobs\":[");
    for (int64_t i = 0; i < n; i++) {
        const struct lb_logprob *lp = logprob_at(c, i);
        if (i)
            lb_str_putc(out, ',');
        if (lp)
            put_float(out, lp->logprob);
        else
            lb_str_puts(out, "null");
    }
    lb_str_puts(out, "],\"top_logprobs\":[");
    for (int64_t i = 0; i < n; i++) {
        const struct lb_logprob *lp = logprob_at(c, i);
        if (i)
            lb_str_putc(out, ',');
        if (lp)
            put_alternatives(out, o, lp);
        else
            lb_str_puts(out, "null");
    }
    lb_str_puts(out, "],\"text_offset\":[");
    for (int64_t i = 0; i < n; i++)
        lb_str_putf(out, i ? ",%lld" : "%lld", (long long)offset[i]);
    lb_str_puts(out, "]}");
}

/* One token of vLLM's prompt_logprobs: "id":{"logprob","rank","decoded_token"}. */
static void put_by_id(struct lb_str *out, const struct lb_openai *o, struct lb_logprob_top it, long long rank)
{
    lb_str_putf(out, "\"%d\":{\"logprob\":", it.id);
    put_float(out, it.logprob);
    lb_str_putf(out, ",\"rank\":%lld,\"decoded_token\":", rank);
    put_piece(out, o, it.id);
    lb_str_putc(out, '}');
}

/* As vLLM has it: an object a token of the prompt, the token itself and then the best ones, by their ids. */
static void put_prompt_logprobs(struct lb_str *out, const struct lb_openai *o, const struct lb_result *c)
{
    lb_str_puts(out, ",\"prompt_logprobs\":[");
    for (int64_t i = 0; i < c->prompt_tokens; i++) {
        if (i)
            lb_str_putc(out, ',');
        if (i < c->prompt_first) {
            lb_str_puts(out, "null");
            continue;
        }
        const struct lb_logprob *lp = &c->prompt_logprobs[i - c->prompt_first];
        lb_str_putc(out, '{');
        put_by_id(out, o, (struct lb_logprob_top){lp->id, lp->logprob}, (long long)lp->rank);
        for (size_t k = 0; k < lp->n_top; k++) {
            if (lp->top[k].id == lp->id)
                continue;
            lb_str_putc(out, ',');
            put_by_id(out, o, lp->top[k], (long long)k + 1);
        }
        lb_str_putc(out, '}');
    }
    lb_str_putc(out, ']');
}

/* ---- bodies ---- */

static void put_choice(struct lb_str *out, const struct lb_openai *o, const struct lb_result *r, size_t i)
{
    const struct lb_result *c = &r->choice[i];
    bool chat = o->api == LB_API_CHAT;
    lb_str_putf(out, "{\"index\":%zu,%s", i, chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    lb_str_put_json(out, c->text ? c->text : "", c->n_text);
    lb_str_puts(out, chat ? ",\"refusal\":null},\"logprobs\":" : ",\"logprobs\":");
    if (c->logprobs && chat)
        put_chat_logprobs(out, o, c);
    else if (c->logprobs && o->text_offset)
        put_text_logprobs(out, o, c, o->text_offset[i]);
    else
        lb_str_puts(out, "null");
    lb_str_putf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", c->finish == LB_FINISH_STOP ? "stop" : "length");
    if (c->has_stop_id)
        lb_str_putf(out, "%d", c->stop_id);
    else if (c->stop_string)
        lb_str_put_json(out, c->stop_string, strlen(c->stop_string));
    else
        lb_str_puts(out, "null");
    if (c->prompt_logprobs && o->prompt_logprobs && !chat)
        put_prompt_logprobs(out, o, c);
    if (c->prompt_ids && !chat)
        put_ids(out, "prompt_token_ids", c->prompt_ids, c->prompt_tokens);
    if (c->ids)
        put_ids(out, "token_ids", c->ids, c->completion_tokens);
    lb_str_putc(out, '}');
}

static void put_body(struct lb_str *out, const struct lb_openai *o, const struct lb_result *r)
{
    bool chat = o->api == LB_API_CHAT;
    long long completion = 0;
    lb_str_putf(out, "{\"id\":\"%s-%lld\",\"object\":\"%s\",\"created\":%lld,\"model\":%s,\"choices\":[",
                chat ? "chatcmpl" : "cmpl", (long long)r->index, chat ? "chat.completion" : "text_completion",
                (long long)o->created, o->model_json ? o->model_json : "\"\"");
    for (size_t i = 0; i < r->n_choice; i++) {
        if (i)
            lb_str_putc(out, ',');
        put_choice(out, o, r, i);
        completion += (long long)r->choice[i].completion_tokens;
    }
    lb_str_putf(out, "],\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld}",
                (long long)r->prompt_tokens, completion, (long long)r->prompt_tokens + completion);
    if (chat && r->n_choice && r->choice[0].prompt_logprobs && o->prompt_logprobs)
        put_prompt_logprobs(out, o, &r->choice[0]);
    if (chat && r->n_choice && r->choice[0].prompt_ids)
        put_ids(out, "prompt_token_ids", r->choice[0].prompt_ids, r->choice[0].prompt_tokens);
    lb_str_putc(out, '}');
}

static void put_error(struct lb_str *out, const struct lb_openai *o, const struct lb_result *r, bool ours)
{
    const char *message = r->message ? r->message : "";
    lb_str_puts(out, "{\"error\":{\"message\":");
    lb_str_put_json(out, message, strlen(message));
    lb_str_putf(out, ",\"type\":\"%s\",\"param\":", ours ? "server_error" : "invalid_request_error");
    if (o->param)
        lb_str_put_json(out, o->param, strlen(o->param));
    else
        lb_str_puts(out, "null");
    lb_str_putf(out, ",\"code\":\"%s\"}}", lb_row_code_name(r->code));
}

void lb_openai_put_result(struct lb_str *out, const struct lb_openai *o, const struct lb_result *r)
{
    bool failed = r->finish == LB_FINISH_ERROR;
    bool ours = failed && (r->code == LB_ROW_NO_MEMORY || r->code == LB_ROW_NOT_FINITE);
    long long index = (long long)r->index;
    lb_str_putf(
        out,
        "{\"id\":\"batch_req_%lld\",\"custom_id\":%s,\"response\":{\"status_code\":%d,\"request_id\":\"req_%lld\","
        "\"body\":",
        index, r->id_json ? r->id_json : "null",
        !failed ? 200
        : ours  ? 500
                : 400,
        index);
    if (failed)
        put_error(out, o, r, ours);
    else
        put_body(out, o, r);
    lb_str_puts(out, "},\"error\":null");
    if (!failed)
        lb_jsonl_put_extras(out, r);
    lb_str_putc(out, '}');
}
