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

static void free_prompt(struct lb_row *row)
{
    lb_mem_free(row->text);
    lb_mem_free(row->ids);
    row->text = NULL;
    row->ids = NULL;
    row->n_text = row->n_ids = 0;
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
    free_prompt(row);
}

void lb_row_release(struct lb_row *row)
{
    free_prompt(row);
    lb_gen_release(&row->gen);
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

/* The random numbers' key: the id with a tag of its type, so that 1 and "1" differ. */
static enum lb_status set_key(struct lb_row *row, char tag, const char *data, size_t n, struct lb_err *err)
{
    struct lb_str s = {0};
    lb_str_putf(&s, "%c:", tag);
    lb_str_put(&s, data, n);
    if (!s.failed)
        row->key = lb_hash64(s.data, s.len, 0);
    enum lb_status status = s.failed ? lb_err_memory(err, "a row's key", n) : LB_OK;
    lb_str_release(&s);
    return status;
}

/* The row's number stands in for an id. */
static enum lb_status number_id(struct lb_row *row, const char *json, struct lb_err *err)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)row->index);
    LB_TRY(set_key(row, 'r', text, strlen(text), err));
    return set_id(row, json ? json : text, strlen(json ? json : text), err);
}

static enum lb_status read_id(struct lb_row *row, const json_t *v, struct lb_err *err)
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
        return set_key(row, 's', json_string_value(v), json_string_length(v), err);
    }
    if (lb_json_int(v, &number)) {
        snprintf(text, sizeof text, "%lld", (long long)number);
        LB_TRY(set_id(row, text, strlen(text), err));
        return set_key(row, 'i', text, strlen(text), err);
    }
    lb_json_show(text, sizeof text, v);
    lb_row_fail(row, LB_ROW_BAD_ROW, "id must be a string or a 64-bit integer, not %s", text);
    return LB_OK;
}

/* A member's value, NULL when it is absent or null. */
static const json_t *member(const json_t *root, const char *name)
{
    const json_t *v = json_object_get(root, name);
    return json_is_null(v) ? NULL : v;
}

/* A request of the OpenAI batch format; a prompt beside an unrelated `body` is an ordinary row. */
static bool is_openai(const json_t *root)
{
    return json_is_object(member(root, "body")) && (member(root, "custom_id") || member(root, "url"));
}

/* Finds the one prompt of a row. */
static const json_t *find_prompt(struct lb_row *row, const struct lb_row_spec *spec, const json_t *root)
{
    const char *key = spec->input_key ? spec->input_key : "prompt";
    const json_t *text = member(root, key);
    const json_t *ids = strcmp(key, "prompt_token_ids") == 0 ? NULL : member(root, "prompt_token_ids");
    const json_t *chat = strcmp(key, "messages") == 0 ? NULL : member(root, "messages");
    bool openai = strcmp(key, "body") != 0 && is_openai(root);
    int n = (text != NULL) + (ids != NULL) + (chat != NULL) + openai;
    if (n == 0) {
        lb_row_fail(row, LB_ROW_BAD_ROW,
                    "no prompt: a row has either '%.100s' (--input-key names the member) or 'prompt_token_ids'", key);
    } else if (n > 1) {
        struct lb_str s = {0};
        lb_str_putf(&s, "%s%.100s%s%s%s%s", text ? "'" : "", text ? key : "", text ? "', " : "",
                    ids ? "'prompt_token_ids', " : "", chat ? "'messages', " : "", openai ? "'body', " : "");
        lb_row_fail(row, LB_ROW_BAD_ROW, "several prompts: %.*s; a row has one (--input-key names the text's member)",
                    (int)(s.len >= 2 ? s.len - 2 : 0), s.data ? s.data : "");
        lb_str_release(&s);
    } else if (chat) {
        lb_row_fail(row, LB_ROW_UNSUPPORTED, "messages (chat rows) are not supported by this version");
    } else if (openai) {
        lb_row_fail(row, LB_ROW_UNSUPPORTED, "body (OpenAI batch rows) is not supported by this version");
    } else {
        row->form = text ? LB_FORM_TEXT : LB_FORM_IDS;
    }
    return text ? text : ids;
}

static enum lb_status read_text(struct lb_row *row, const char *key, const json_t *v, struct lb_err *err)
{
    char value[128];
    if (!json_is_string(v)) {
        lb_json_show(value, sizeof value, v);
        if (json_is_array(v) && json_is_number(json_array_get(v, 0)))
            snprintf(value, sizeof value, "token ids, which go into prompt_token_ids");
        lb_row_fail(row, LB_ROW_BAD_ROW, "%.100s must be a string, not %s (--input-key names another member)", key,
                    value);
        return LB_OK;
    }
    size_t n = json_string_length(v);
    if (n == 0) {
        lb_row_fail(row, LB_ROW_EMPTY_PROMPT, "%.100s is empty", key);
        return LB_OK;
    }
    row->text = lb_mem_strndup(json_string_value(v), n);
    row->n_text = n;
    return row->text ? LB_OK : lb_err_memory(err, "a prompt", n);
}

static enum lb_status read_ids(struct lb_row *row, const json_t *v, struct lb_err *err)
{
    char value[128];
    if (!json_is_array(v)) {
        lb_json_show(value, sizeof value, v);
        lb_row_fail(row, LB_ROW_BAD_ROW, "prompt_token_ids must be a list of integers, not %s", value);
        return LB_OK;
    }
    size_t n = json_array_size(v);
    if (n == 0) {
        lb_row_fail(row, LB_ROW_EMPTY_PROMPT, "prompt_token_ids is empty");
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
        lb_row_fail(row, LB_ROW_BAD_TOKEN, "prompt_token_ids[%zu] is %s, which is no token id", i, value);
        break;
    }
    return LB_OK;
}

/* Settings and members that are refused; speaks of names that are nearly known. */
static enum lb_status read_members(struct lb_row *row, const struct lb_row_spec *spec, const json_t *root,
                                   struct lb_err *err)
{
    const char *key = spec->input_key ? spec->input_key : "prompt", *name;
    char message[LB_ROW_MESSAGE_BYTES];
    json_t *v;
    int checks = 0;
    json_object_foreach((json_t *)(uintptr_t)root, name, v)
    {
        bool known = false;
        if (strcmp(name, key) == 0 || strcmp(name, "id") == 0 || strcmp(name, "prompt_token_ids") == 0 ||
            strcmp(name, "prompt") == 0 || strcmp(name, "messages") == 0 || json_is_null(v))
            continue;
        struct lb_gen none = {0};
        bool failed = row->code != LB_ROW_OK;
        enum lb_row_code code = lb_gen_read(failed ? &none : &row->gen, name, v, &known, message);
        lb_gen_release(&none);
        if (code == LB_ROW_NO_MEMORY)
            return lb_err_memory(err, name, 0);
        if (!known)
            code = lb_member_check(name, v, &known, message);
        if (code != LB_ROW_OK && !failed)
            lb_row_fail(row, code, "%s", message);
        if (!known && spec->close_name && checks++ < MAX_CLOSE_CHECKS) {
            const char *close = lb_member_close(name);
            if (close && !json_object_get(root, close))
                spec->close_name(spec->ctx, row->index, name, close);
        }
    }
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

static enum lb_status read_object(struct lb_row *row, const struct lb_row_spec *spec, const json_t *root,
                                  struct lb_err *err)
{
    LB_TRY(number_id(row, NULL, err));
    const json_t *id = member(root, "id");
    if (id && !(spec->input_key && strcmp(spec->input_key, "id") == 0))
        LB_TRY(read_id(row, id, err));
    const json_t *prompt = row->code == LB_ROW_OK ? find_prompt(row, spec, root) : NULL;
    LB_TRY(read_members(row, spec, root, err));
    if (row->code == LB_ROW_OK && row->form == LB_FORM_TEXT)
        LB_TRY(read_text(row, spec->input_key ? spec->input_key : "prompt", prompt, err));
    else if (row->code == LB_ROW_OK)
        LB_TRY(read_ids(row, prompt, err));
    if (row->code == LB_ROW_OK && (spec->keep_all || spec->n_keep))
        LB_TRY(keep_members(row, spec, root, err));
    return LB_OK;
}

static const char *kind(const json_t *v)
{
    return json_is_array(v) ? "an array" : json_is_string(v) ? "a string" : json_is_number(v) ? "a number" : "a word";
}

enum lb_status lb_row_parse(struct lb_row *row, const struct lb_row_spec *spec, int64_t index, const char *line,
                            size_t n, struct lb_err *err)
{
    *row = (struct lb_row){.index = index, .line_hash = lb_hash64(line, n, 0)};
    enum lb_status status = number_id(row, "null", err);
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
    else
        status = read_object(row, spec, root, err);
out:
    json_decref(root);
    if (status != LB_OK)
        lb_row_release(row);
    return status;
}
