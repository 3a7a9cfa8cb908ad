#include <stdio.h>
#include <string.h>

#include "core/io/row_impl.h"

/* Names in a conversation that llmbatch-jsonl(5) gives a meaning. */
static const char *const members[] = {
    "tools",       "documents",        "chat_template_kwargs", "add_generation_prompt", "continue_final_message",
    "tool_choice", "reasoning_effort", "add_special_tokens",
};

bool lb_row_chat_member(const char *name)
{
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        if (strcmp(name, members[i]) == 0)
            return true;
    return false;
}

bool lb_row_is_conversation(const json_t *v)
{
    return json_is_array(v) && json_is_object(json_array_get(v, 0));
}

static void bad_type(struct lb_row *row, const char *name, const char *want, const json_t *v)
{
    char value[128];
    lb_json_show(value, sizeof value, v);
    lb_row_fail(row, LB_ROW_BAD_PARAM, "%s must be %s, not %s", name, want, value);
    lb_row_blame(row, name);
}

/* ---- messages ---- */

/* One part of a message's content: text alone has a meaning to a model of text. */
static bool check_part(struct lb_row *row, const char *where, const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!type) {
        lb_row_fail(row, LB_ROW_BAD_ROW, "%s must be an object with a \"type\"", where);
        return false;
    }
    if (strcmp(type, "text") != 0) {
        lb_row_fail(row, LB_ROW_UNSUPPORTED, "%s is of type \"%.40s\": only \"text\" is supported", where, type);
        return false;
    }
    if (json_is_string(json_object_get(part, "text")))
        return true;
    lb_row_fail(row, LB_ROW_BAD_ROW, "%s has no text", where);
    return false;
}

static bool check_content(struct lb_row *row, const char *where, const json_t *message)
{
    const json_t *content = lb_json_member(message, "content");
    char value[160];
    if (json_is_string(content))
        return true;
    if (!content && (lb_json_member(message, "tool_calls") || lb_json_member(message, "function_call")))
        return true;
    if (!json_is_array(content)) {
        lb_json_show(value, sizeof value, content ? content : json_null());
        lb_row_fail(row, LB_ROW_BAD_ROW, "%s: content must be a string or a list of parts, not %s", where, value);
        return false;
    }
    for (size_t i = 0; i < json_array_size(content); i++) {
        snprintf(value, sizeof value, "%.120s.content[%zu]", where, i);
        if (!check_part(row, value, json_array_get(content, i)))
            return false;
    }
    return true;
}

static bool check_messages(struct lb_row *row, const char *name, const json_t *v)
{
    char where[128], value[128];
    if (!json_is_array(v)) {
        lb_json_show(value, sizeof value, v);
        lb_row_fail(row, LB_ROW_BAD_ROW, "%.80s must be a list of messages, not %s", name, value);
        return false;
    }
    if (json_array_size(v) == 0) {
        lb_row_fail(row, LB_ROW_EMPTY_PROMPT, "%.80s is empty", name);
        return false;
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *message = json_array_get(v, i);
        snprintf(where, sizeof where, "%.80s[%zu]", name, i);
        if (!json_is_object(message) || !json_is_string(json_object_get(message, "role"))) {
            lb_row_fail(row, LB_ROW_BAD_ROW, "%s must be an object with a \"role\"", where);
            return false;
        }
        if (!check_content(row, where, message))
            return false;
    }
    return true;
}

/* A new message; NULL without memory. */
static json_t *new_message(const char *role, json_t *content)
{
    json_t *m = json_object();
    if (json_object_set_new(m, "content", content) != 0 || json_object_set_new(m, "role", json_string(role)) != 0) {
        json_decref(m);
        return NULL;
    }
    return m;
}

static bool has_system(const json_t *messages)
{
    const char *role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
    return role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0);
}

/* The list of messages that the row keeps: the value itself, or a list of its own. */
static json_t *keep_messages(const struct lb_row_spec *spec, const json_t *v)
{
    json_t *lent = (json_t *)(uintptr_t)v, *list;
    if (json_is_string(v)) {
        list = json_array();
        if (json_array_append_new(list, new_message("user", json_incref(lent))) != 0)
            goto failed;
    } else if (spec->system && !has_system(v)) {
        list = json_copy(lent);
    } else {
        return json_incref(lent);
    }
    if (spec->system && !has_system(list) &&
        json_array_insert_new(list, 0, new_message("system", json_string(spec->system))) != 0)
        goto failed;
    return list;
failed:
    json_decref(list);
    return NULL;
}

/* ---- what stands beside them ---- */

static bool read_flag(struct lb_row *row, const json_t *object, const char *name, bool *out)
{
    const json_t *v = lb_json_member(object, name);
    if (v && !json_is_boolean(v)) {
        bad_type(row, name, "true or false", v);
        return false;
    }
    if (v)
        *out = json_is_true(v);
    return true;
}

/* A list, each item an object. An empty one in a request is none; in a native row the template sees it, as it does in
 * transformers. */
static bool read_list(struct lb_row *row, const json_t *object, const char *name, json_t **out)
{
    const json_t *v = lb_json_member(object, name);
    if (!v || (row->api != LB_API_NATIVE && json_is_array(v) && json_array_size(v) == 0))
        return true;
    if (!json_is_array(v)) {
        bad_type(row, name, "a list of objects", v);
        return false;
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        if (!json_is_object(json_array_get(v, i))) {
            bad_type(row, name, "a list of objects", json_array_get(v, i));
            return false;
        }
    }
    *out = json_incref((json_t *)(uintptr_t)v);
    return true;
}

/* tool_choice "none": the model is not shown the tools, so that it calls none. */
static bool read_tool_choice(struct lb_row *row, const json_t *object)
{
    const json_t *v = lb_json_member(object, "tool_choice");
    bool known;
    char message[LB_ROW_MESSAGE_BYTES];
    if (!v)
        return true;
    if (lb_member_check("tool_choice", v, true, &known, message) != LB_ROW_OK) {
        lb_row_fail(row, LB_ROW_UNSUPPORTED, "%s", message);
        lb_row_blame(row, "tool_choice");
        return false;
    }
    if (strcmp(json_string_value(v), "none") == 0) {
        json_decref(row->chat.tools);
        row->chat.tools = NULL;
    }
    return true;
}

/* Variables of the template; reasoning_effort is one more of them, unless they hold it already. */
static bool read_kwargs(struct lb_row *row, const json_t *object, bool *memory)
{
    json_t *v = (json_t *)(uintptr_t)lb_json_member(object, "chat_template_kwargs");
    json_t *effort = (json_t *)(uintptr_t)lb_json_member(object, "reasoning_effort");
    if (v && !json_is_object(v)) {
        bad_type(row, "chat_template_kwargs", "an object", v);
        return false;
    }
    if (effort && !json_is_string(effort)) {
        bad_type(row, "reasoning_effort", "a string", effort);
        return false;
    }
    if (!effort || json_object_get(v, "reasoning_effort")) {
        row->chat.kwargs = json_incref(v);
        return true;
    }
    row->chat.kwargs = v ? json_copy(v) : json_object();
    *memory = json_object_set(row->chat.kwargs, "reasoning_effort", effort) != 0;
    return !*memory;
}

static bool read_flags(struct lb_row *row, const json_t *object)
{
    struct lb_row_chat *c = &row->chat;
    bool special = false;
    c->add_generation_prompt = true;
    if (!read_flag(row, object, "continue_final_message", &c->continue_final_message))
        return false;
    c->add_generation_prompt = !c->continue_final_message;
    if (!read_flag(row, object, "add_generation_prompt", &c->add_generation_prompt) ||
        !read_flag(row, object, "add_special_tokens", &special))
        return false;
    if (c->add_generation_prompt && c->continue_final_message) {
        lb_row_fail(row, LB_ROW_BAD_PARAM, "continue_final_message and add_generation_prompt exclude each other");
        lb_row_blame(row, "continue_final_message");
        return false;
    }
    if (special) {
        lb_row_fail(row, LB_ROW_UNSUPPORTED,
                    "add_special_tokens (true) is not supported by this version: the template writes them");
        lb_row_blame(row, "add_special_tokens");
        return false;
    }
    return true;
}

enum lb_status lb_row_read_chat(struct lb_row *row, const struct lb_row_spec *spec, const json_t *object,
                                const char *name, const json_t *messages, struct lb_err *err)
{
    bool memory = false;
    bool text = json_is_string(messages) && strcmp(name, spec->input_key ? spec->input_key : "prompt") == 0;
    row->form = LB_FORM_CHAT;
    if (text && json_string_length(messages) == 0) {
        lb_row_fail(row, LB_ROW_EMPTY_PROMPT, "%.80s is empty", name);
        return LB_OK;
    }
    if (!text && !check_messages(row, name, messages)) {
        lb_row_blame(row, name);
        return LB_OK;
    }
    if (!read_flags(row, object) || !read_list(row, object, "tools", &row->chat.tools) ||
        !read_list(row, object, "documents", &row->chat.documents) || !read_tool_choice(row, object) ||
        !read_kwargs(row, object, &memory))
        return memory ? lb_err_memory(err, "a conversation", 0) : LB_OK;
    row->chat.messages = keep_messages(spec, messages);
    return row->chat.messages ? LB_OK : lb_err_memory(err, "a conversation", 0);
}
