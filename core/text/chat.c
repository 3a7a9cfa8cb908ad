/* One conversation through the chat template (models.md 5.1). */
#include "core/text/chat.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/text/chat_impl.h"

/* What transformers 5 puts behind the message that is to be continued, to find its end in the rendered text. */
static const char tag[] = "CONTINUE_FINAL_MESSAGE_TAG ";
#define TAG_BARE_BYTES (sizeof tag - 2) /* without the space */

/* Jansson counts references in const values too. */
static json_t *shared(const json_t *v)
{
    return json_incref((json_t *)(uintptr_t)v);
}

const char *lb_chat_source(const struct lb_chat *c)
{
    return c->source;
}

bool lb_chat_built_in(const struct lb_chat *c)
{
    return c->built_in;
}

bool lb_chat_is_guess(const struct lb_chat *c)
{
    return c->guess;
}

struct lb_bytes lb_chat_text(const struct lb_chat *c)
{
    return c->main.text ? (struct lb_bytes){c->main.text, c->main.n_text} : (struct lb_bytes){"", 0};
}

static const struct lb_chat_template *pick(const struct lb_chat *c, bool tools)
{
    return tools && c->tool_use.jinja ? &c->tool_use : &c->main;
}

bool lb_chat_names(const struct lb_chat *c, bool tools, const char *variable)
{
    const struct lb_chat_template *t = pick(c, tools);
    return t->jinja && lb_jinja_names(t->jinja, variable);
}

/* ---- messages as the template shall see them ---- */

static const char *const reasoning_names[] = {"reasoning_content", "thinking", "reasoning"};

static const json_t *reasoning_of(const json_t *message)
{
    for (size_t i = 0; i < sizeof reasoning_names / sizeof *reasoning_names; i++) {
        const json_t *v = json_object_get(message, reasoning_names[i]);
        if (v && !json_is_null(v))
            return v;
    }
    return NULL;
}

/* The text of a part, NULL when it is of another kind. */
static const json_t *part_text(const json_t *part)
{
    const json_t *text = json_is_object(part) ? json_object_get(part, "text") : part;
    return json_is_string(text) ? text : NULL;
}

/* Text parts with line feeds between them, as vLLM joins them; the list itself when a part is no text. NULL: memory. */
static json_t *join_parts(const json_t *content)
{
    struct lb_str s = {0};
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *text = part_text(json_array_get(content, i));
        if (!text) {
            lb_str_release(&s);
            return shared(content);
        }
        if (i)
            lb_str_putc(&s, '\n');
        lb_str_put(&s, json_string_value(text), json_string_length(text));
    }
    json_t *joined = s.failed ? NULL : json_stringn_nocheck(s.data ? s.data : "", s.len);
    lb_str_release(&s);
    return joined;
}

/* What is done to messages beside dropping nulls. */
struct change {
    bool flat, parse_arguments; /* struct lb_chat_row.api */
};

static bool has_calls(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role && strcmp(role, "assistant") == 0 && json_array_size(json_object_get(message, "tool_calls")) > 0;
}

static bool needs_change(const json_t *message, struct change how)
{
    const char *key;
    json_t *v;
    if ((how.flat && json_is_array(json_object_get(message, "content"))) || reasoning_of(message) ||
        (how.parse_arguments && has_calls(message)))
        return true;
    json_object_foreach((json_t *)(uintptr_t)message, key, v) if (json_is_null(v)) return true;
    return false;
}

/* Tool calls with arguments as objects; no arguments are an empty object, as in vLLM, and what is no JSON stays. */
static json_t *parsed_calls(const json_t *calls)
{
    json_t *copy = json_deep_copy(calls), *call;
    size_t i;
    json_array_foreach(copy, i, call)
    {
        json_t *function = json_object_get(call, "function"), *text = json_object_get(function, "arguments");
        json_t *parsed = NULL;
        if (!json_is_object(function))
            continue;
        if (!text || json_is_null(text) || (json_is_string(text) && json_string_length(text) == 0))
            parsed = json_object();
        else if (json_is_string(text))
            parsed = json_loadb(json_string_value(text), json_string_length(text), JSON_ALLOW_NUL, NULL);
        if (parsed && json_object_set_new(function, "arguments", parsed) != 0) {
            json_decref(copy);
            return NULL;
        }
    }
    return copy;
}

static json_t *changed_member(const json_t *message, const char *key, const json_t *v, struct change how)
{
    if (how.flat && json_is_array(v) && strcmp(key, "content") == 0)
        return join_parts(v);
    if (how.parse_arguments && strcmp(key, "tool_calls") == 0 && has_calls(message))
        return parsed_calls(v);
    return shared(v);
}

/* As transformers 5 does: members that are null are left out, a reasoning text stands first as `thinking` unless the
 * message has that, and as `reasoning_content`. */
static json_t *changed(const json_t *message, struct change how)
{
    const json_t *reasoning = reasoning_of(message);
    json_t *copy = json_object(), *v;
    const char *key;
    bool ok = copy != NULL;
    if (ok && reasoning)
        ok = json_object_set(copy, "thinking", (json_t *)(uintptr_t)reasoning) == 0;
    json_object_foreach((json_t *)(uintptr_t)message, key, v)
    {
        if (!json_is_null(v))
            ok = ok && json_object_set_new_nocheck(copy, key, changed_member(message, key, v, how)) == 0;
    }
    if (ok && reasoning)
        ok = json_object_set(copy, "reasoning_content", (json_t *)(uintptr_t)reasoning) == 0;
    if (ok)
        return copy;
    json_decref(copy);
    return NULL;
}

/* The row's messages as they are, referenced, when nothing is to change. NULL: failed. */
static json_t *messages_for(const json_t *messages, struct change how, struct lb_err *err)
{
    size_t n = json_array_size(messages), i;
    bool any = false;
    for (i = 0; i < n; i++) {
        if (!json_is_object(json_array_get(messages, i))) {
            lb_err_set(err, LB_E_INPUT, "message %zu is not an object", i);
            return NULL;
        }
        any = any || needs_change(json_array_get(messages, i), how);
    }
    if (!any)
        return shared(messages);
    json_t *list = json_array();
    for (i = 0; list && i < n; i++) {
        const json_t *m = json_array_get(messages, i);
        if (json_array_append_new(list, needs_change(m, how) ? changed(m, how) : shared(m)) != 0)
            break;
    }
    if (list && i == n)
        return list;
    json_decref(list);
    lb_err_memory(err, "messages", n * sizeof *list);
    return NULL;
}

/* ---- continue_final_message ---- */

/* Bytes of the white space character (Python's str.strip) that begins at text, 0 when none does. */
static size_t space_at(const char *text, size_t n)
{
    int bytes = 1;
    if (n == 0)
        return 0;
    uint32_t c = lb_utf8_decode(text, n, &bytes);
    bool space = (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
                 (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
                 c == 0x3000;
    return space ? (size_t)bytes : 0;
}

/* Length of text without white space at its end. */
static size_t stripped_end(const char *text, size_t n)
{
    while (n > 0) {
        size_t at = n - 1;
        while (at > 0 && n - at < 4 && ((unsigned char)text[at] & 0xC0) == 0x80)
            at--;
        if (space_at(text + at, n - at) != n - at)
            break;
        n = at;
    }
    return n;
}

static struct lb_bytes stripped(struct lb_bytes s)
{
    size_t k;
    s.len = stripped_end(s.data, s.len);
    while ((k = space_at(s.data, s.len)) > 0) {
        s.data += k;
        s.len -= k;
    }
    return s;
}

/* Where the last (first) `what` stands in text, or -1. */
static int64_t find(struct lb_bytes text, struct lb_bytes what, bool last)
{
    int64_t found = -1;
    const char *at = text.data, *end = text.data + text.len;
    while (what.len <= (size_t)(end - at)) {
        if (what.len == 0)
            return last ? (int64_t)text.len : 0;
        at = memchr(at, what.data[0], (size_t)(end - at) - what.len + 1);
        if (!at)
            break;
        if (memcmp(at, what.data, what.len) == 0) {
            found = at - text.data;
            if (!last)
                break;
        }
        at++;
    }
    return found;
}

/* A text with the tag behind it. */
static json_t *tagged(const json_t *text)
{
    struct lb_str s = {0};
    lb_str_put(&s, json_string_value(text), json_string_length(text));
    lb_str_puts(&s, tag);
    json_t *v = s.failed ? NULL : json_stringn_nocheck(s.data, s.len);
    lb_str_release(&s);
    return v;
}

/* content with its last text tagged; *text lends that text. NULL without an error: there is no text. */
static json_t *tag_content(const json_t *content, const json_t **text, struct lb_err *err)
{
    json_t *made = NULL;
    *text = json_is_string(content) ? content : NULL;
    if (*text && !(made = tagged(content)))
        lb_err_memory(err, "a message", json_string_length(content));
    for (size_t i = json_array_size(content); !*text && i-- > 0;) {
        const json_t *part = json_array_get(content, i);
        *text = json_is_object(part) ? part_text(part) : NULL;
        if (!*text)
            continue;
        json_t *block = json_copy((json_t *)(uintptr_t)part), *list = json_copy((json_t *)(uintptr_t)content);
        json_t *new_text = tagged(*text);
        if (json_object_set_new_nocheck(block, "text", new_text) == 0 && json_array_set(list, i, block) == 0)
            made = json_incref(list);
        else
            lb_err_memory(err, "a message", json_string_length(*text));
        json_decref(block);
        json_decref(list);
    }
    return made;
}

/* Puts the tag into a copy of *messages, which it replaces. */
static enum lb_status tag_last(const struct lb_chat_template *t, json_t **messages, const json_t **text,
                               struct lb_err *err)
{
    size_t n = json_array_size(*messages);
    const json_t *last = n ? json_array_get(*messages, n - 1) : NULL, *content = json_object_get(last, "content");
    if (n == 0)
        return lb_err_set(err, LB_E_INPUT, "continue_final_message is set but the conversation is empty");
    if (!content)
        return lb_err_set(err, LB_E_INPUT,
                          "continue_final_message is set but the final message has no \"content\" to continue");
    if (find((struct lb_bytes){t->text, t->n_text}, (struct lb_bytes){"content", 7}, false) < 0)
        return lb_err_set(err, LB_E_INPUT, "continue_final_message is set but the chat template shows no \"content\"");
    json_t *new_content = tag_content(content, text, err);
    if (!new_content)
        return err->status != LB_OK
                   ? err->status
                   : lb_err_set(err, LB_E_INPUT,
                                "continue_final_message is set but the final message has no text to continue");
    json_t *list = json_copy(*messages), *message = json_copy((json_t *)(uintptr_t)last);
    bool ok =
        json_object_set_new_nocheck(message, "content", new_content) == 0 && json_array_set(list, n - 1, message) == 0;
    json_decref(message);
    if (!ok) {
        json_decref(list);
        return lb_err_memory(err, "a message", 64);
    }
    json_decref(*messages);
    *messages = list;
    return LB_OK;
}

/* Cuts what was rendered from `from` on at the tag. Where the template has trimmed the tag's space, the message's own
 * space at its end goes too, as in transformers. */
static enum lb_status cut_at_tag(struct lb_str *out, size_t from, const json_t *text, struct lb_err *err)
{
    struct lb_bytes made = {out->data + from, out->len - from};
    struct lb_bytes want = stripped((struct lb_bytes){json_string_value(text), json_string_length(text)});
    int64_t at = find(made, (struct lb_bytes){tag, TAG_BARE_BYTES}, true);
    if (at < 0 || find(made, want, false) < 0)
        return lb_err_set(err, LB_E_INPUT,
                          "continue_final_message is set but the final message does not appear in the chat after the "
                          "chat template was applied: the template may delete parts of it");
    bool whole = made.len - (size_t)at > TAG_BARE_BYTES && made.data[(size_t)at + TAG_BARE_BYTES] == ' ';
    size_t keep = whole ? (size_t)at : stripped_end(made.data, (size_t)at);
    out->len = from + keep;
    out->data[out->len] = 0;
    return LB_OK;
}

/* ---- rendering ---- */

struct vars {
    struct lb_jinja_var *v;
    size_t n, cap;
    struct lb_err *err;
};

static enum lb_status put(struct vars *a, const char *name, const json_t *value)
{
    void *v = a->v;
    enum lb_status status = lb_mem_grow(&v, &a->cap, a->n + 1, sizeof *a->v, "variables", a->err);
    a->v = v;
    if (status == LB_OK)
        a->v[a->n++] = (struct lb_jinja_var){name, value};
    return status;
}

static enum lb_status put_members(struct vars *a, const json_t *object)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)object, key, v) LB_TRY(put(a, key, v));
    return LB_OK;
}

/* In the order in which the later wins. */
static enum lb_status put_all(struct vars *a, const struct lb_chat *c, const struct lb_chat_row *row,
                              const json_t *messages)
{
    bool generate = row->add_generation_prompt && !row->continue_final_message;
    LB_TRY(put_members(a, c->special));
    LB_TRY(put(a, "tools", json_null()));
    LB_TRY(put(a, "documents", json_null()));
    LB_TRY(put(a, "add_generation_prompt", json_boolean(generate)));
    LB_TRY(put_members(a, c->extra));
    LB_TRY(put_members(a, row->kwargs));
    if (row->tools)
        LB_TRY(put(a, "tools", row->tools));
    if (row->documents)
        LB_TRY(put(a, "documents", row->documents));
    if (row->continue_final_message)
        LB_TRY(put(a, "add_generation_prompt", json_false()));
    return put(a, "messages", messages);
}

enum lb_status lb_chat_run(const struct lb_chat *c, const struct lb_chat_template *t, struct lb_jinja_ctx *ctx,
                           const struct lb_chat_row *row, struct lb_str *out, struct lb_err *err)
{
    struct vars a = {.err = err};
    const json_t *text = NULL;
    size_t from = out->len;
    enum lb_status status = LB_OK;
    json_t *messages = messages_for(row->messages, (struct change){row->api && t->flat, row->api}, err);
    if (!messages)
        return err->status;
    if (row->continue_final_message)
        status = tag_last(t, &messages, &text, err);
    if (status == LB_OK)
        status = put_all(&a, c, row, messages);
    if (status == LB_OK) {
        struct lb_jinja_input in = {.var = a.v, .n_var = a.n, .now = &c->now};
        status = lb_jinja_render(t->jinja, ctx, &in, out, err);
    }
    if (status == LB_OK && out->failed)
        status = lb_err_memory(err, "a rendered chat", out->len);
    if (status == LB_OK && row->continue_final_message && !(out->data && out->len > from))
        status = lb_err_set(err, LB_E_INPUT, "continue_final_message is set but the chat template renders nothing");
    else if (status == LB_OK && row->continue_final_message)
        status = cut_at_tag(out, from, text, err);
    if (status != LB_OK && out->data) {
        out->len = from;
        out->data[from] = 0;
    }
    json_decref(messages);
    lb_mem_free(a.v);
    return status;
}

enum lb_status lb_chat_render(const struct lb_chat *c, struct lb_jinja_ctx *ctx, const struct lb_chat_row *row,
                              struct lb_str *out, struct lb_err *err)
{
    const struct lb_chat_template *t = pick(c, row->tools != NULL);
    if (!t->jinja)
        return lb_err_set(err, LB_E_INPUT, "%s",
                          c->broken ? c->broken : "the model has no chat template; --chat-template FILE gives one");
    return lb_chat_run(c, t, ctx, row, out, err);
}

enum lb_status lb_chat_render_turns(const struct lb_chat *c, struct lb_jinja_ctx *ctx, const struct lb_chat_turn *turn,
                                    size_t n, bool add_generation_prompt, struct lb_str *out, struct lb_err *err)
{
    json_t *messages = json_array();
    bool ok = messages != NULL;
    for (size_t i = 0; i < n; i++)
        ok = ok && json_array_append_new(messages,
                                         json_pack("{s:s,s:s}", "role", turn[i].role, "content", turn[i].content)) == 0;
    struct lb_chat_row row = {.messages = messages, .add_generation_prompt = add_generation_prompt};
    enum lb_status status = ok ? lb_chat_render(c, ctx, &row, out, err) : lb_err_memory(err, "messages", 64);
    json_decref(messages);
    return status;
}
