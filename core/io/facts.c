#include "core/io/facts.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/io/json_try.h"
#include "core/io/wfile.h"

#define MAX_STATS_BYTES ((size_t)16 << 20)
#define SHOWN 40 /* bytes of a value in a message */

enum lb_status lb_json_try(json_t **out, const char *text, size_t n, size_t flags, struct lb_err *err)
{
    json_error_t why = {.text = ""};
    *out = json_loadb(text, n, flags, &why);
    if (*out || (why.text[0] && json_error_code(&why) != json_error_out_of_memory))
        return LB_OK;
    return lb_err_memory(err, "a JSON text", n);
}

void lb_json_use_memory(void)
{
    json_set_alloc_funcs(lb_mem_get, lb_mem_give_back);
}

static void put_value(struct lb_str *out, const json_t *v)
{
    char shown[LB_SHOW_BYTES];
    if (!v) {
        lb_str_puts(out, "not set");
        return;
    }
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text) {
        out->failed = true;
        return;
    }
    size_t n = strlen(text);
    lb_str_puts(out, lb_wfile_show(shown, text, n < SHOWN ? n : SHOWN));
    lb_str_puts(out, n < SHOWN ? "" : "...");
    lb_mem_give_back(text);
}

/* words: what stands behind the two values */
static void put_difference(struct lb_str *out, const char *const words[2], const char *name, const json_t *then,
                           const json_t *now)
{
    lb_str_puts(out, name);
    lb_str_puts(out, " (");
    put_value(out, then);
    lb_str_putf(out, " %s, ", words[0]);
    put_value(out, now);
    lb_str_putf(out, " %s)", words[1]);
}

static bool listed(const char *const *names, const char *name)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

static void compare(const json_t *then, const json_t *now, const char *const words[2], const char *const *ignored,
                    struct lb_str *out)
{
    size_t begin = out->len;
    const char *name;
    json_t *v, *lent_then = (json_t *)(uintptr_t)then, *lent_now = (json_t *)(uintptr_t)now;
    json_object_foreach(lent_now, name, v)
    {
        const json_t *was = json_object_get(then, name);
        if (json_equal(v, was) || listed(ignored, name))
            continue;
        lb_str_puts(out, out->len > begin ? ", " : "");
        put_difference(out, words, name, was, v);
    }
    json_object_foreach(lent_then, name, v)
    {
        if (json_object_get(now, name) || listed(ignored, name))
            continue;
        lb_str_puts(out, out->len > begin ? ", " : "");
        put_difference(out, words, name, v, NULL);
    }
}

enum lb_status lb_facts_differ(const char *then, const char *now, const char *const *ignored, struct lb_str *out,
                               struct lb_err *err)
{
    static const char *const words[2] = {"then", "now"};
    return lb_facts_differ_as(words, then, now, ignored, out, err);
}

enum lb_status lb_facts_differ_as(const char *const words[2], const char *then, const char *now,
                                  const char *const *ignored, struct lb_str *out, struct lb_err *err)
{
    json_t *a = NULL, *b = NULL;
    enum lb_status status = lb_json_try(&a, then, strlen(then), 0, err);
    if (status == LB_OK)
        status = lb_json_try(&b, now, strlen(now), 0, err);
    if (status == LB_OK && (!json_is_object(a) || !json_is_object(b)))
        status = lb_err_set(err, LB_E_INPUT, "a fingerprint cannot be read");
    else if (status == LB_OK)
        compare(a, b, words, ignored, out);
    json_decref(a);
    json_decref(b);
    if (status == LB_OK && out->failed)
        status = lb_err_memory(err, "a message", out->len);
    return status;
}

bool lb_facts_text(const char *facts, const char *name, char *out, size_t n)
{
    json_t *root = json_loads(facts, 0, NULL);
    const json_t *v = json_object_get(root, name);
    bool fits = json_is_string(v) && json_string_length(v) < n;
    if (fits)
        memcpy(out, json_string_value(v), json_string_length(v) + 1);
    json_decref(root);
    return fits;
}

static enum lb_status read_stats(struct lb_earlier *e, const json_t *root, struct lb_err *err)
{
    const json_t *print = json_object_get(root, "fingerprint"), *code = json_object_get(root, "exit_code");
    const json_t *rows = json_object_get(json_object_get(root, "rows"), "total");
    const char *hash = json_string_value(json_object_get(root, "input_hash"));
    if (!json_is_object(print) || !json_is_integer(code) || !json_is_integer(rows))
        return LB_OK;
    char *text = json_dumps(print, JSON_COMPACT), *end = NULL;
    e->fingerprint = text ? lb_mem_strdup(text) : NULL;
    lb_mem_give_back(text);
    e->exit_code = json_integer_value(code);
    e->rows = json_integer_value(rows);
    if (hash && strlen(hash) == 16)
        e->input_hash = strtoull(hash, &end, 16);
    e->has_input_hash = end && !*end;
    return e->fingerprint ? LB_OK : lb_err_memory(err, "a fingerprint", 0);
}

enum lb_status lb_earlier_read(struct lb_earlier *e, const char *path, struct lb_err *err)
{
    struct lb_str text = {0};
    json_t *root = NULL;
    *e = (struct lb_earlier){0};
    if (!lb_file_exists(path))
        return LB_OK;
    enum lb_status status = lb_file_read(path, MAX_STATS_BYTES, &text, err);
    if (status == LB_OK)
        status = lb_json_try(&root, text.data ? text.data : "", text.len, 0, err);
    if (status == LB_OK)
        status = read_stats(e, root, err);
    json_decref(root);
    lb_str_release(&text);
    return status;
}

void lb_earlier_release(struct lb_earlier *e)
{
    lb_mem_free(e->fingerprint);
    *e = (struct lb_earlier){0};
}
