#include "core/io/row.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/io/jsonl_read.h"
#include "core/io/row_impl.h"

/* Members of a row whose names are compared with the known ones; a hostile row may have millions. */
#define MAX_CLOSE_CHECKS 256

const char *lb_row_code_name(enum lb_row_code code)
{
    static const char *const names[LB_N_ROW_CODE] = {
        [LB_ROW_OK] = "",
        [LB_ROW_BAD_JSON] = "bad_json",
        [LB_ROW_BAD_UTF8] = "bad_utf8",
        [LB_ROW_BAD_ROW] = "bad_row",
        [LB_ROW_BAD_PARAM] = "bad_param",
        [LB_ROW_BAD_TEMPLATE] = "bad_template",
        [LB_ROW_BAD_TOKEN] = "bad_token",
        [LB_ROW_EMPTY_PROMPT] = "empty_prompt",
        [LB_ROW_TOO_LONG] = "too_long",
        [LB_ROW_NO_MEMORY] = "no_memory",
        [LB_ROW_UNSUPPORTED] = "unsupported",
        [LB_ROW_NOT_FINITE] = "not_finite",
    };
    return (unsigned)code < LB_N_ROW_CODE ? names[code] : "";
}

void lb_row_drop_prompt(struct lb_row *row)
{
    lb_mem_free(row->text);
    lb_mem_free(row->ids);
    row->text = NULL;
    row->ids = NULL;
    row->n_text = row->n_ids = 0;
    json_decref(row->chat.messages);
    json_decref(row->chat.tools);
    json_decref(row->chat.documents);
    json_decref(row->chat.kwargs);
    row->chat = (struct lb_row_chat){0};
}

void lb_row_take_prompt(struct lb_row *row, size_t i)
{
    struct lb_row_prompt *p = &row->more[i];
    lb_row_drop_prompt(row);
    row->text = p->text;
    row->n_text = p->n_text;
    row->ids = p->ids;
    row->n_ids = p->n_ids;
    *p = (struct lb_row_prompt){0};
}

static void free_prompts(struct lb_row *row)
{
    lb_row_drop_prompt(row);
    for (size_t i = 0; i < row->n_more; i++) {
        lb_mem_free(row->more[i].text);
        lb_mem_free(row->more[i].ids);
    }
    lb_mem_free(row->more);
    row->more = NULL;
    row->n_more = 0;
}

void lb_row_blame(struct lb_row *row, const char *param)
{
    if (row->api == LB_API_NATIVE)
        return;
    lb_mem_free(row->param);
    row->param = lb_mem_strdup(param); /* without memory none is named */
}

void lb_row_fail(struct lb_row *row, enum lb_row_code code, const char *fmt, ...)
{
    char text[LB_ROW_MESSAGE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *message = lb_mem_strdup(text); /* before the old one goes: fmt's arguments may point into it */
    lb_mem_free(row->message);
    row->message = message;
    row->code = code;
    free_prompts(row);
}

void lb_row_release(struct lb_row *row)
{
    free_prompts(row);
    lb_gen_release(&row->gen);
    lb_mem_free(row->model_json);
    lb_mem_free(row->param);
    lb_mem_free(row->id_json);
    lb_mem_free(row->kept_json);
    lb_mem_free(row->message);
    *row = (struct lb_row){0};
}

static enum lb_status set_id(struct lb_row *row, const char *json, size_t n, struct lb_err *err)
{
    char *copy = lb_mem_strndup(json, n);
    if (!copy)
        return lb_err_memory(err, "a row's id", n);
    lb_mem_free(row->id_json);
    row->id_json = copy;
    return LB_OK;
}

uint64_t lb_row_key(char tag, const char *data, size_t n)
{
    char text[LB_SHORT_KEY + 2] = {tag, ':'};
    memcpy(text + 2, data, n);
    return lb_hash64(text, n + 2, 0);
}

static enum lb_status set_key(struct lb_row *row, char tag, const char *data, size_t n, struct lb_err *err)
{
    struct lb_str s = {0};
    if (n <= LB_SHORT_KEY) {
        row->key = lb_row_key(tag, data, n);
        return LB_OK;
    }
    lb_str_putf(&s, "%c:", tag);
    lb_str_put(&s, data, n);
    if (!s.failed)
        row->key = lb_hash64(s.data, s.len, 0);
    enum lb_status status = s.failed ? lb_err_memory(err, "a row's key", n) : LB_OK;
    lb_str_release(&s);
    return status;
}

/* The row's number stands in for an id. */
enum lb_status lb_row_number_id(struct lb_row *row, const char *json, struct lb_err *err)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)row->index);
    LB_TRY(set_key(row, 'r', text, strlen(text), err));
    return set_id(row, json ? json : text, strlen(json ? json : text), err);
}

enum lb_status lb_row_read_id(struct lb_row *row, const char *name, const json_t *v, struct lb_err *err)
{
    int64_t number;
    char text[128];
    if (json_is_string(v)) {
        struct lb_str s = {0};
        lb_str_put_json(&s, json_string_value(v), json_string_length(v));
        enum lb_status status =
            s.failed ? lb_err_memory(err, "a row's id", json_string_length(v)) : set_id(row, s.data, s.len, err);
        lb_str_release(&s);
        LB_TRY(status);
        row->has_id = true;
        return set_key(row, 's', json_string_value(v), json_string_length(v), err);
    }
    if (lb_json_int(v, &number)) {
        snprintf(text, sizeof text, "%lld", (long long)number);
        LB_TRY(set_id(row, text, strlen(text), err));
        row->has_id = true;
        return set_key(row, 'i', text, strlen(text), err);
    }
    lb_json_show(text, sizeof text, v);
    lb_row_fail(row, LB_ROW_BAD_ROW, "%s must be a string or a 64-bit integer, not %s", name, text);
    return LB_OK;
}

const json_t *lb_json_member(const json_t *object, const char *name)
{
    const json_t *v = json_object_get(object, name);
    return json_is_null(v) ? NULL : v;
}

static const char *key_of(const struct lb_row_spec *spec)
{
    return spec->input_key ? spec->input_key : "prompt";
}

/* The prompts that a row has in the native forms. */
struct prompts {
    const json_t *text, *ids, *chat;
    int n;
};

static struct prompts find_prompts(const json_t *root, const char *key)
{
    struct prompts p = {.text = lb_json_member(root, key)};
    p.ids = strcmp(key, "prompt_token_ids") == 0 ? NULL : lb_json_member(root, "prompt_token_ids");
    p.chat = strcmp(key, "messages") == 0 ? NULL : lb_json_member(root, "messages");
    p.n = (p.text != NULL) + (p.ids != NULL) + (p.chat != NULL);
    return p;
}

/* A request of the OpenAI batch format. A prompt beside an unrelated `body` is an ordinary row. */
static bool is_request(const json_t *root, const char *key, const struct prompts *p)
{
    bool custom = lb_json_member(root, "custom_id"), url = lb_json_member(root, "url");
    if (strcmp(key, "body") == 0 || !(custom || url))
        return false;
    return json_is_object(json_object_get(root, "body")) || (custom && url && p->n == 0);
}

/* The one prompt of a native row, whose form it sets. */
static const json_t *one_prompt(struct lb_row *row, const struct lb_row_spec *spec, const struct prompts *p,
                                bool request)
{
    const char *key = key_of(spec);
    int n = p->n + request;
    if (p->n == 0 && request) {
        lb_row_fail(row, LB_ROW_BAD_ROW, "a request of the OpenAI batch format (url, body); --format is native");
    } else if (n == 0) {
        lb_row_fail(row, LB_ROW_BAD_ROW,
                    "no prompt: a row has either '%.100s' (--input-key names the member), 'prompt_token_ids' or "
                    "'messages'",
                    key);
    } else if (n > 1) {
        struct lb_str s = {0};
        lb_str_putf(&s, "%s%.100s%s%s%s%s", p->text ? "'" : "", p->text ? key : "", p->text ? "', " : "",
                    p->ids ? "'prompt_token_ids', " : "", p->chat ? "'messages', " : "", request ? "'body', " : "");
        lb_row_fail(row, LB_ROW_BAD_ROW, "several prompts: %.*s; a row has one (--input-key names the text's member)",
                    (int)(s.len >= 2 ? s.len - 2 : 0), s.data ? s.data : "");
        lb_str_release(&s);
    } else if (p->chat || lb_row_is_conversation(p->text) || (spec->chat && json_is_string(p->text))) {
        row->form = LB_FORM_CHAT;
    } else {
        row->form = p->text ? LB_FORM_TEXT : LB_FORM_IDS;
    }
    return p->text ? p->text : p->ids ? p->ids : p->chat;
}

enum lb_status lb_row_read_text(struct lb_row *row, const char *name, const json_t *v, struct lb_err *err)
{
    char value[128];
    if (!json_is_string(v)) {
        lb_json_show(value, sizeof value, v);
        if (json_is_array(v) && json_is_number(json_array_get(v, 0)))
            snprintf(value, sizeof value, "token ids, which go into prompt_token_ids");
        lb_row_fail(row, LB_ROW_BAD_ROW, "%.100s must be a string, not %s (--input-key names another member)", name,
                    value);
        return LB_OK;
    }
    size_t n = json_string_length(v);
    if (n == 0) {
        lb_row_fail(row, LB_ROW_EMPTY_PROMPT, "%.100s is empty", name);
        return LB_OK;
    }
    row->text = lb_mem_strndup(json_string_value(v), n);
    row->n_text = n;
    return row->text ? LB_OK : lb_err_memory(err, "a prompt", n);
}

enum lb_status lb_row_read_ids(struct lb_row *row, const char *name, const json_t *v, struct lb_err *err)
{
    char value[128];
    if (!json_is_array(v)) {
        lb_json_show(value, sizeof value, v);
        lb_row_fail(row, LB_ROW_BAD_ROW, "%s must be a list of integers, not %s", name, value);
        return LB_OK;
    }
    size_t n = json_array_size(v);
    if (n == 0) {
        lb_row_fail(row, LB_ROW_EMPTY_PROMPT, "%s is empty", name);
        return LB_OK;
    }
    row->ids = lb_mem_new(n, sizeof *row->ids);
    if (!row->ids)
        return lb_err_memory(err, "a prompt", n * sizeof *row->ids);
    row->n_ids = n;
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (lb_json_int(json_array_get(v, i), &id) && id >= 0 && id <= INT32_MAX) {
            row->ids[i] = (int32_t)id;
            continue;
        }
        lb_json_show(value, sizeof value, json_array_get(v, i));
        lb_row_fail(row, LB_ROW_BAD_TOKEN, "%s[%zu] is %s, which is no token id", name, i, value);
        break;
    }
    return LB_OK;
}

/* Members that others than lb_row_read_settings read. */
static bool read_elsewhere(const struct lb_row *row, const char *key, const char *name)
{
    static const char *const native[] = {"id", "prompt_token_ids", "prompt", "messages"};
    static const char *const request[] = {"model", "prompt", "messages", "logprobs", "top_logprobs", "echo"};
    bool is_native = row->api == LB_API_NATIVE;
    const char *const *list = is_native ? native : request;
    size_t n = is_native ? sizeof native / sizeof *native : sizeof request / sizeof *request;
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, list[i]) == 0)
            return true;
    return strcmp(name, key) == 0 || (row->form == LB_FORM_CHAT && lb_row_chat_member(name));
}

/* The best of as many samples as are asked for are all of them. */
static void check_best_of(struct lb_row *row, const json_t *object)
{
    const json_t *best = lb_json_member(object, "best_of");
    int64_t n = row->gen.set & LB_GEN_N ? row->gen.n : 1;
    if (!best || row->code != LB_ROW_OK || (json_is_number(best) && json_number_value(best) == (double)n))
        return;
    char value[128];
    lb_json_show(value, sizeof value, best);
    lb_row_fail(row, LB_ROW_UNSUPPORTED, "best_of (%s) other than n is not supported by this version", value);
    lb_row_blame(row, "best_of");
}

enum lb_status lb_row_read_settings(struct lb_row *row, const struct lb_row_spec *spec, const json_t *object,
                                    const char *key, struct lb_err *err)
{
    const char *name;
    char message[LB_ROW_MESSAGE_BYTES];
    json_t *v;
    int checks = 0;
    json_object_foreach((json_t *)(uintptr_t)object, name, v)
    {
        bool known = false;
        if (json_is_null(v) || read_elsewhere(row, key, name))
            continue;
        struct lb_gen none = {0};
        bool failed = row->code != LB_ROW_OK;
        enum lb_row_code code = lb_gen_read(failed ? &none : &row->gen, name, v, &known, message);
        lb_gen_release(&none);
        if (code == LB_ROW_NO_MEMORY)
            return lb_err_memory(err, name, 0);
        if (!known)
            code = lb_member_check(name, v, row->api != LB_API_NATIVE, &known, message);
        if (code != LB_ROW_OK && !failed) {
            lb_row_fail(row, code, "%s", message);
            lb_row_blame(row, name);
        }
        if (!known && spec->close_name && checks++ < MAX_CLOSE_CHECKS) {
            const char *close = lb_member_close(name);
            if (close && !json_object_get(object, close))
                spec->close_name(spec->ctx, row->index, name, close);
        }
    }
    check_best_of(row, object);
    return LB_OK;
}

static bool wanted(const struct lb_row_spec *spec, const char *name)
{
    for (size_t i = 0; i < spec->n_keep; i++)
        if (strcmp(spec->keep[i], name) == 0)
            return true;
    return spec->keep_all;
}

static enum lb_status keep_members(struct lb_row *row, const struct lb_row_spec *spec, const json_t *root,
                                   struct lb_err *err)
{
    struct lb_str s = {0};
    const char *name;
    json_t *v;
    lb_str_putc(&s, '{');
    json_object_foreach((json_t *)(uintptr_t)root, name, v)
    {
        if (!wanted(spec, name))
            continue;
        if (s.len > 1)
            lb_str_putc(&s, ',');
        lb_str_put_json(&s, name, strlen(name));
        lb_str_putc(&s, ':');
        lb_json_put(&s, v);
    }
    lb_str_putc(&s, '}');
    if (s.failed) {
        lb_str_release(&s);
        return lb_err_memory(err, "kept members", s.len);
    }
    row->kept_json = s.data;
    return LB_OK;
}

static enum lb_status read_native(struct lb_row *row, const struct lb_row_spec *spec, const json_t *root,
                                  const json_t *prompt, struct lb_err *err)
{
    const char *key = key_of(spec);
    LB_TRY(lb_row_read_settings(row, spec, root, key, err));
    if (row->code != LB_ROW_OK)
        return LB_OK;
    if (row->form == LB_FORM_IDS)
        return lb_row_read_ids(row, "prompt_token_ids", prompt, err);
    if (row->form == LB_FORM_TEXT)
        return lb_row_read_text(row, key, prompt, err);
    return lb_row_read_chat(row, spec, root, json_object_get(root, key) == prompt ? key : "messages", prompt, err);
}

static enum lb_status read_object(struct lb_row *row, const struct lb_row_spec *spec, const json_t *root,
                                  struct lb_err *err)
{
    const char *key = key_of(spec);
    struct prompts p = find_prompts(root, key);
    bool request = is_request(root, key, &p);
    if (spec->format == LB_FORMAT_OPENAI || (spec->format == LB_FORMAT_AUTO && request && p.n == 0)) {
        LB_TRY(lb_row_read_request(row, spec, root, err));
    } else {
        LB_TRY(lb_row_number_id(row, NULL, err));
        const json_t *id = lb_json_member(root, "id");
        if (id && strcmp(key, "id") != 0)
            LB_TRY(lb_row_read_id(row, "id", id, err));
        const json_t *prompt = row->code == LB_ROW_OK ? one_prompt(row, spec, &p, request) : NULL;
        LB_TRY(read_native(row, spec, root, prompt, err));
    }
    if (row->code == LB_ROW_OK && (spec->keep_all || spec->n_keep))
        LB_TRY(keep_members(row, spec, root, err));
    lb_row_open_calls(row); /* after what is kept as it was */
    return LB_OK;
}

static const char *kind(const json_t *v)
{
    return json_is_array(v) ? "an array" : json_is_string(v) ? "a string" : json_is_number(v) ? "a number" : "a word";
}

uint64_t lb_row_chain(uint64_t before, uint64_t line_hash)
{
    return lb_hash64(&line_hash, sizeof line_hash, before);
}

enum lb_status lb_row_parse(struct lb_row *row, const struct lb_row_spec *spec, int64_t index, const char *line,
                            size_t n, struct lb_err *err)
{
    *row = (struct lb_row){.index = index, .line_hash = lb_hash64(line, n, 0), .unread = true};
    if (spec->format == LB_FORMAT_OPENAI)
        row->api = LB_API_OPENAI;
    enum lb_status status = lb_row_number_id(row, "null", err);
    json_t *root = NULL;
    if (status != LB_OK)
        goto out;
    size_t valid = n > LB_LINE_MAX_BYTES ? 0 : lb_utf8_valid_prefix(line, n);
    if (n > LB_LINE_MAX_BYTES) {
        lb_row_fail(row, LB_ROW_BAD_ROW, "the line is longer than %zu MiB", LB_LINE_MAX_BYTES >> 20);
        goto out;
    }
    if (valid != n) {
        lb_row_fail(row, LB_ROW_BAD_UTF8, "not valid UTF-8 at byte %zu of the line", valid + 1);
        goto out;
    }
    json_error_t why;
    bool memory = false;
    root = lb_json_load(line, n, &why, &memory);
    if (memory)
        status = lb_err_memory(err, "a row", n);
    else if (!root)
        lb_row_fail(row, LB_ROW_BAD_JSON, "not valid JSON at byte %d of the line: %s", why.position, why.text);
    else if (!json_is_object(root))
        lb_row_fail(row, LB_ROW_BAD_ROW, "a row is a JSON object, not %s", kind(root));
    else {
        row->unread = false;
        status = read_object(row, spec, root, err);
    }
out:
    json_decref(root);
    if (status != LB_OK)
        lb_row_release(row);
    return status;
}
