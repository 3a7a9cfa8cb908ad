#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/io/row_impl.h"

#define CHAT_URL "/v1/chat/completions"
#define COMPLETION_URL "/v1/completions"

__attribute__((format(printf, 4, 5))) static void refuse(struct lb_row *row, enum lb_row_code code, const char *param,
                                                         const char *fmt, ...)
{
    char text[LB_ROW_MESSAGE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    lb_row_fail(row, code, "%s", text);
    lb_row_blame(row, param);
}

static void refuse_type(struct lb_row *row, enum lb_row_code code, const char *param, const char *want, const json_t *v)
{
    char value[128];
    lb_json_show(value, sizeof value, v ? v : json_null());
    refuse(row, code, param, "%s must be %s, not %s", param, want, value);
}

/* url and method; the row's api is set even where something else is wrong with it, since it shapes the error row. */
static void read_endpoint(struct lb_row *row, const json_t *root)
{
    const json_t *url = lb_json_member(root, "url"), *method = lb_json_member(root, "method");
    const char *path = json_string_value(url);
    if (path && strcmp(path, CHAT_URL) == 0)
        row->api = LB_API_CHAT;
    else if (path && strcmp(path, COMPLETION_URL) == 0)
        row->api = LB_API_COMPLETION;
    if (row->code != LB_ROW_OK)
        return;
    if (!path)
        refuse_type(row, LB_ROW_BAD_ROW, "url", CHAT_URL " or " COMPLETION_URL, url);
    else if (row->api == LB_API_OPENAI)
        refuse(row, LB_ROW_UNSUPPORTED, "url", "url \"%.80s\" is not supported: it is " CHAT_URL " or " COMPLETION_URL,
               path);
    else if (method && (!json_is_string(method) || strcmp(json_string_value(method), "POST") != 0))
        refuse_type(row, LB_ROW_BAD_ROW, "method", "POST", method);
    else if (!json_is_object(json_object_get(root, "body")))
        refuse_type(row, LB_ROW_BAD_ROW, "body", "an object", lb_json_member(root, "body"));
}

static enum lb_status read_model(struct lb_row *row, const json_t *body, struct lb_err *err)
{
    const json_t *model = lb_json_member(body, "model");
    if (!model || row->code != LB_ROW_OK)
        return LB_OK;
    if (!json_is_string(model)) {
        refuse_type(row, LB_ROW_BAD_PARAM, "model", "a string", model);
        return LB_OK;
    }
    struct lb_str s = {0};
    lb_json_put(&s, model);
    if (s.failed) {
        lb_str_release(&s);
        return lb_err_memory(err, "a model's name", json_string_length(model));
    }
    row->model_json = s.data;
    return LB_OK;
}

static void set_logprobs(struct lb_row *row, int64_t k)
{
    row->gen.logprobs = k;
    row->gen.set |= LB_GEN_LOGPROBS;
}

/* Chat: logprobs says whether, top_logprobs how many; completions: logprobs says how many. */
static void read_logprobs(struct lb_row *row, const json_t *body)
{
    const json_t *v = lb_json_member(body, "logprobs"), *top = lb_json_member(body, "top_logprobs");
    const char *name = row->api == LB_API_CHAT ? "top_logprobs" : "logprobs";
    const json_t *count = row->api == LB_API_CHAT ? top : v;
    int64_t k = 0;
    if (row->code != LB_ROW_OK)
        return;
    if (row->api == LB_API_CHAT && v && !json_is_boolean(v)) {
        refuse_type(row, LB_ROW_BAD_PARAM, "logprobs", "true or false", v);
        return;
    }
    if (row->api == LB_API_COMPLETION && json_is_false(v))
        return;
    if (count && (!lb_json_int(count, &k) || k < 0 || k > LB_MAX_LOGPROBS)) {
        char want[48];
        snprintf(want, sizeof want, "an integer from 0 to %d", LB_MAX_LOGPROBS);
        refuse_type(row, LB_ROW_BAD_PARAM, name, want, count);
    } else if (row->api == LB_API_CHAT && !json_is_true(v) && k > 0) {
        refuse(row, LB_ROW_BAD_PARAM, "top_logprobs", "top_logprobs needs logprobs to be true");
    } else if (json_is_true(v) || (row->api == LB_API_COMPLETION && v)) {
        set_logprobs(row, k);
    }
}

static void read_echo(struct lb_row *row, const json_t *body)
{
    const json_t *v = lb_json_member(body, "echo");
    if (!v || json_is_false(v) || row->code != LB_ROW_OK)
        return;
    if (!json_is_true(v))
        refuse_type(row, LB_ROW_BAD_PARAM, "echo", "true or false", v);
    else if (row->api == LB_API_CHAT)
        refuse(row, LB_ROW_UNSUPPORTED, "echo", "echo (true) is not supported in chat");
    else
        row->echo = true;
}

/* ---- prompts of /v1/completions ---- */

static enum lb_status read_prompt(struct lb_row *row, const char *name, const json_t *v, struct lb_err *err)
{
    if (row->form == LB_FORM_IDS)
        return lb_row_read_ids(row, name, v, err);
    if (json_is_string(v))
        return lb_row_read_text(row, name, v, err);
    refuse_type(row, LB_ROW_BAD_ROW, name, "a string", v);
    return LB_OK;
}

/* A list of texts or of lists of ids: read from the back, so that the first one stays the row's prompt. */
static enum lb_status read_prompts(struct lb_row *row, const json_t *list, struct lb_err *err)
{
    size_t n = json_array_size(list);
    if (n > LB_MAX_CHOICES) {
        refuse(row, LB_ROW_BAD_PARAM, "prompt", "prompt holds %zu prompts; the most is %d", n, LB_MAX_CHOICES);
        return LB_OK;
    }
    row->form = json_is_string(json_array_get(list, 0)) ? LB_FORM_TEXT : LB_FORM_IDS;
    if (n > 1 && !(row->more = lb_mem_new(n - 1, sizeof *row->more)))
        return lb_err_memory(err, "prompts", n * sizeof *row->more);
    row->n_more = n - 1;
    for (size_t i = n; i-- > 0 && row->code == LB_ROW_OK;) {
        char name[32];
        snprintf(name, sizeof name, "prompt[%zu]", i);
        LB_TRY(read_prompt(row, name, json_array_get(list, i), err));
        if (i == 0 || row->code != LB_ROW_OK)
            continue;
        row->more[i - 1] = (struct lb_row_prompt){row->text, row->n_text, row->ids, row->n_ids};
        row->text = NULL;
        row->ids = NULL;
        row->n_text = row->n_ids = 0;
    }
    return LB_OK;
}

static enum lb_status read_completion(struct lb_row *row, const json_t *body, struct lb_err *err)
{
    const json_t *v = lb_json_member(body, "prompt"), *first = json_array_get(v, 0);
    if (!v) {
        refuse(row, LB_ROW_BAD_ROW, "prompt", "body has no prompt");
        return LB_OK;
    }
    enum lb_status status;
    if (json_is_string(first) || json_is_array(first)) {
        status = read_prompts(row, v, err);
    } else {
        row->form = json_is_array(v) ? LB_FORM_IDS : LB_FORM_TEXT;
        status = read_prompt(row, "prompt", v, err);
    }
    if (row->code != LB_ROW_OK)
        lb_row_blame(row, "prompt");
    return status;
}

/* ---- conversations ---- */

/* Templates want the arguments of a call as an object; the API holds them as a text of JSON. What is no object stays.
 */
static void open_arguments(json_t *function)
{
    const json_t *text = json_object_get(function, "arguments");
    if (!json_is_string(text))
        return;
    json_t *v = json_loadb(json_string_value(text), json_string_length(text), JSON_ALLOW_NUL, NULL);
    if (json_is_object(v))
        json_object_set(function, "arguments", v);
    json_decref(v);
}

static void open_calls(json_t *messages)
{
    size_t i, k;
    json_t *message, *call;
    json_array_foreach(messages, i, message)
    {
        json_array_foreach(json_object_get(message, "tool_calls"), k, call)
        {
            open_arguments(json_object_get(call, "function"));
        }
    }
}

static enum lb_status read_body(struct lb_row *row, const struct lb_row_spec *spec, const json_t *body,
                                struct lb_err *err)
{
    const json_t *messages = lb_json_member(body, "messages"), *prompt = lb_json_member(body, "prompt");
    bool chat = row->api == LB_API_CHAT;
    row->form = chat ? LB_FORM_CHAT : LB_FORM_TEXT;
    LB_TRY(read_model(row, body, err));
    LB_TRY(lb_row_read_settings(row, spec, body, chat ? "messages" : "prompt", err));
    read_logprobs(row, body);
    read_echo(row, body);
    if (row->code != LB_ROW_OK)
        return LB_OK;
    if (chat ? prompt != NULL : messages != NULL) {
        const char *name = chat ? "prompt" : "messages";
        refuse(row, LB_ROW_BAD_ROW, name, "body has '%s', which belongs to %s", name, chat ? COMPLETION_URL : CHAT_URL);
        return LB_OK;
    }
    if (!chat)
        return read_completion(row, body, err);
    if (!json_is_array(messages)) {
        refuse_type(row, LB_ROW_BAD_ROW, "messages", "a list of messages", messages);
        return LB_OK;
    }
    return lb_row_read_chat(row, spec, body, "messages", messages, err);
}

enum lb_status lb_row_read_request(struct lb_row *row, const struct lb_row_spec *spec, const json_t *root,
                                   struct lb_err *err)
{
    const json_t *id = lb_json_member(root, "custom_id");
    row->api = LB_API_OPENAI;
    LB_TRY(lb_row_number_id(row, "null", err));
    if (!id && !lb_json_member(root, "url") && !lb_json_member(root, "body")) {
        refuse(row, LB_ROW_BAD_ROW, "custom_id",
               "no request of the OpenAI batch format (custom_id, method, url, body), but --format is openai");
        return LB_OK;
    }
    if (id)
        LB_TRY(lb_row_read_id(row, "custom_id", id, err));
    if (row->code != LB_ROW_OK)
        lb_row_blame(row, "custom_id");
    read_endpoint(row, root);
    if (row->code != LB_ROW_OK)
        return LB_OK;
    return read_body(row, spec, json_object_get(root, "body"), err);
}

void lb_row_open_calls(struct lb_row *row)
{
    if (row->api == LB_API_CHAT && row->chat.messages)
        open_calls(row->chat.messages);
}
