#include "core/io/row_scan.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/io/row_impl.h"

#define MAX_ID (LB_SHORT_KEY + 2) /* bytes of an id that is looked at, with its quotes */

struct span {
    const char *at; /* NULL: not there */
    size_t n;
};

/* Members of interest, as the line writes their values. Of several of a name the last counts, as in a parsed row. */
struct found {
    struct span prompt, ids, messages, id, custom_id, body;
};

struct cursor {
    const char *at, *end;
};

static void skip_space(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r'))
        c->at++;
}

/* From behind the opening quote to behind the closing one; false where there is none. */
static bool skip_string(struct cursor *c)
{
    const char *begin = c->at, *quote;
    while ((quote = memchr(c->at, '"', (size_t)(c->end - c->at))) != NULL) {
        const char *back = quote;
        while (back > begin && back[-1] == '\\')
            back--;
        c->at = quote + 1;
        if ((quote - back) % 2 == 0)
            return true;
        begin = c->at;
    }
    c->at = c->end;
    return false;
}

/* An array or object, from its opening bracket to behind the one that closes it. */
static bool skip_nested(struct cursor *c)
{
    int64_t depth = 0;
    while (c->at < c->end) {
        char ch = *c->at++;
        if (ch == '"') {
            if (!skip_string(c))
                return false;
        } else if (ch == '{' || ch == '[') {
            depth++;
        } else if ((ch == '}' || ch == ']') && --depth == 0) {
            return true;
        }
    }
    return false;
}

static bool skip_value(struct cursor *c)
{
    if (c->at == c->end)
        return false;
    if (*c->at == '"') {
        c->at++;
        return skip_string(c);
    }
    if (*c->at == '{' || *c->at == '[')
        return skip_nested(c);
    while (c->at < c->end && !strchr(",}] \t\r", *c->at))
        c->at++;
    return true;
}

static bool is(struct span s, const char *name)
{
    return s.n == strlen(name) && memcmp(s.at, name, s.n) == 0;
}

static struct span *member_of(struct found *f, const char *key, struct span name)
{
    if (is(name, key))
        return &f->prompt;
    if (is(name, "prompt_token_ids"))
        return &f->ids;
    if (is(name, "messages"))
        return &f->messages;
    if (is(name, "id"))
        return &f->id;
    if (is(name, "custom_id"))
        return &f->custom_id;
    return is(name, "body") ? &f->body : NULL;
}

/* The members of an object as far as it is well formed; true: to its end, behind which there is nothing. */
static bool scan_object(struct found *f, const char *key, struct span object)
{
    struct cursor c = {object.at, object.at + object.n};
    skip_space(&c);
    if (c.at == c.end || *c.at++ != '{')
        return false;
    for (;;) {
        skip_space(&c);
        if (c.at == c.end || *c.at++ != '"')
            return false;
        struct span name = {.at = c.at};
        if (!skip_string(&c))
            return false;
        name.n = (size_t)(c.at - name.at) - 1;
        skip_space(&c);
        if (c.at == c.end || *c.at++ != ':')
            return false;
        skip_space(&c);
        struct span value = {.at = c.at}, *member = member_of(f, key, name);
        bool whole = skip_value(&c);
        value.n = (size_t)(c.at - value.at);
        if (member && value.n > 0)
            *member = value;
        skip_space(&c);
        if (!whole || c.at == c.end)
            return false;
        if (*c.at++ == ',')
            continue;
        bool closed = c.at[-1] == '}';
        skip_space(&c);
        return closed && c.at == c.end;
    }
}

/* An integer of few digits in its one form: others, such as 8.0, are parsed. */
static bool plain_number(struct span s)
{
    size_t sign = s.n > 0 && s.at[0] == '-';
    if (s.n == sign || s.n > 18 + sign || (s.at[sign] == '0' && s.n > 1))
        return false;
    for (size_t i = sign; i < s.n; i++)
        if (s.at[i] < '0' || s.at[i] > '9')
            return false;
    return true;
}

static void look_at_id(struct lb_row_look *look, struct span id, bool whole)
{
    look->has_id = id.at && !is(id, "null");
    if (!look->has_id || id.n > MAX_ID || !whole)
        return;
    if (id.at[0] == '"' && id.n >= 2 && !memchr(id.at, '\\', id.n)) {
        look->plain_id = true;
        look->key = lb_row_key('s', id.at + 1, id.n - 2);
    } else if (plain_number(id)) {
        look->plain_id = true;
        look->key = lb_row_key('i', id.at, id.n);
    }
}

void lb_row_scan(struct lb_row_look *look, const struct lb_row_spec *spec, const char *line, size_t n)
{
    struct found f = {0}, inner = {0};
    bool whole = scan_object(&f, spec->input_key ? spec->input_key : "prompt", (struct span){line, n});
    struct span prompt = f.prompt.at ? f.prompt : f.ids.at ? f.ids : f.messages;
    bool request = !prompt.at && f.body.at;
    if (request) {
        scan_object(&inner, "prompt", f.body);
        prompt = inner.messages.at ? inner.messages : inner.prompt;
    }
    if (!prompt.at)
        prompt = (struct span){line, n};
    *look = (struct lb_row_look){.n = prompt.n};
    look->start = lb_hash64(prompt.at, prompt.n < LB_ROW_START_BYTES ? prompt.n : LB_ROW_START_BYTES, 0);
    look_at_id(look, request ? f.custom_id : f.id, whole);
}
