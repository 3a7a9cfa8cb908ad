/* Where chat templates and their variables come from (models.md 5.1, 5.3). */
#include "core/text/chat_impl.h"

#include <string.h>

#include "core/base/file.h"
#include "core/base/mem.h"

#define MAX_TEMPLATE_BYTES ((size_t)16 << 20)
#define MAX_CONFIG_BYTES ((size_t)1 << 29)

struct loading {
    struct lb_chat *c;
    const struct lb_chat_spec *spec;
    json_t *config; /* tokenizer_config.json, or NULL */
    struct lb_err *err;
};

static void clean(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ')
            *text = '?';
}

/* Reads DIR/NAME as a JSON object where there is such a file. Numbers become reals, because tokenizer_config.json often
 * says model_max_length 1e30 in digits, which no integer holds. */
static enum lb_status read_object(const char *dir, const char *name, json_t **out, struct lb_err *err)
{
    char *path = lb_path_join(dir, name);
    struct lb_str text = {0};
    json_error_t why;
    enum lb_status status = path ? LB_OK : lb_err_memory(err, name, strlen(dir));
    if (path && lb_file_exists(path)) {
        status = lb_file_read(path, MAX_CONFIG_BYTES, &text, err);
        if (status == LB_OK) {
            *out = json_loadb(text.data ? text.data : "", text.len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
            clean(why.text);
            if (!*out)
                status = lb_err_set(err, LB_E_INPUT, "cannot use '%s': not valid JSON at line %d: %s", path, why.line,
                                    why.text);
            else if (!json_is_object(*out))
                status = lb_err_set(err, LB_E_INPUT, "cannot use '%s': not a JSON object", path);
        }
    }
    lb_str_release(&text);
    lb_mem_free(path);
    return status;
}

/* ---- variables ---- */

static const char *const special_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                            "pad_token", "cls_token", "mask_token"};
#define N_SPECIAL (sizeof special_names / sizeof *special_names)

/* A token as tokenizer_config.json and special_tokens_map.json write it: a text or an object with content. */
static const char *token_text(const json_t *v)
{
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static enum lb_status set_text(struct loading *l, const char *name, const char *text, size_t n)
{
    json_t *v = text ? json_stringn(text, n) : NULL;
    if (text && !v)
        return LB_OK; /* not UTF-8: no text to show */
    if (text && json_object_set_new(l->c->special, name, v) != 0)
        return lb_err_memory(l->err, "special tokens", n);
    return LB_OK;
}

/* Named tokens of one file that no file before it named. */
static enum lb_status add_named(struct loading *l, const json_t *from)
{
    for (size_t i = 0; i < N_SPECIAL; i++) {
        const char *text = token_text(json_object_get(from, special_names[i]));
        if (text && !json_object_get(l->c->special, special_names[i]))
            LB_TRY(set_text(l, special_names[i], text, strlen(text)));
    }
    return LB_OK;
}

/* Further special tokens: a list is shown as additional_special_tokens, an object names them itself (image_token). */
static enum lb_status add_further(struct loading *l)
{
    static const char *const keys[] = {"additional_special_tokens", "extra_special_tokens"};
    const char *name;
    json_t *v, *list = json_array();
    size_t k;
    bool any = false, ok = list != NULL;
    for (size_t i = 0; ok && i < 2; i++) {
        json_t *from = json_object_get(l->config, keys[i]);
        json_array_foreach(from, k, v)
        {
            const char *text = token_text(v);
            any = true;
            ok = ok && (!text || json_array_append_new(list, json_string(text)) == 0);
        }
        json_object_foreach(from, name, v)
        {
            const char *text = token_text(v);
            ok = ok && (!text || json_object_set_new(l->c->special, name, json_string(text)) == 0);
        }
    }
    ok = ok && (!any || json_object_set(l->c->special, keys[0], list) == 0);
    json_decref(list);
    return ok ? LB_OK : lb_err_memory(l->err, "special tokens", 64);
}

/* Tokens that the classes of Llama's tokenizer have where no file names them. */
static enum lb_status add_class_defaults(struct loading *l)
{
    static const char *const llama[][2] = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}};
    const char *class = json_string_value(json_object_get(l->config, "tokenizer_class"));
    if (!class || strncmp(class, "LlamaTokenizer", 14) != 0)
        return LB_OK;
    for (size_t i = 0; i < 3; i++)
        if (!json_object_get(l->config, llama[i][0]) && !json_object_get(l->c->special, llama[i][0]))
            LB_TRY(set_text(l, llama[i][0], llama[i][1], strlen(llama[i][1])));
    return LB_OK;
}

static enum lb_status add_special_of_dir(struct loading *l)
{
    json_t *map = NULL;
    enum lb_status status = add_named(l, l->config);
    if (status == LB_OK)
        status = read_object(l->spec->dir, "special_tokens_map.json", &map, l->err);
    if (status == LB_OK)
        status = add_named(l, map);
    json_decref(map);
    if (status == LB_OK)
        status = add_further(l);
    return status == LB_OK ? add_class_defaults(l) : status;
}

static enum lb_status add_special_of_gguf(struct loading *l)
{
    const struct lb_vocab *v = l->spec->v;
    const struct {
        const char *name;
        int64_t id;
    } tokens[] = {{"bos_token", v->bos}, {"eos_token", v->eos}, {"unk_token", v->unk}, {"pad_token", v->pad}};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        if (tokens[i].id >= 0 && (size_t)tokens[i].id < v->n_token)
            LB_TRY(set_text(l, tokens[i].name, v->token[tokens[i].id].data, v->token[tokens[i].id].len));
    return LB_OK;
}

static enum lb_status read_kwargs(struct loading *l)
{
    json_error_t why;
    const char *text = l->spec->kwargs;
    if (!text)
        return LB_OK;
    l->c->extra = json_loads(text, JSON_ALLOW_NUL, &why);
    clean(why.text);
    if (!l->c->extra)
        return lb_err_set(l->err, LB_E_USAGE, "--chat-template-kwargs: not valid JSON: %s", why.text);
    if (!json_is_object(l->c->extra))
        return lb_err_set(l->err, LB_E_USAGE,
                          "--chat-template-kwargs: not a JSON object, such as {\"enable_thinking\":false}");
    return LB_OK;
}

/* ---- templates ---- */

/* Compiles text into t. A template of the model that fails is noted for the rows that need it. */
static enum lb_status compile(struct loading *l, struct lb_chat_template *t, const char *text, size_t n,
                              const char *where)
{
    struct lb_err why = LB_ERR_INIT;
    t->text = lb_mem_new(n + 1, 1);
    if (!t->text)
        return lb_err_memory(l->err, "a chat template", n);
    memcpy(t->text, text, n);
    t->n_text = n;
    enum lb_status status = lb_jinja_compile(&t->jinja, t->text, n, &why);
    if (status == LB_OK)
        return LB_OK;
    if (status != LB_E_INPUT)
        return lb_err_set(l->err, status, "%s", why.text);
    if (l->spec->file)
        return lb_err_set(l->err, LB_E_USAGE, "--chat-template: '%s': %s", l->spec->file, why.text);
    struct lb_str note = {0};
    lb_str_putf(&note, "the chat template of the model (%s) cannot be used: %s; --chat-template FILE gives another",
                where, why.text);
    if (note.failed)
        return lb_err_memory(l->err, "a message", note.len);
    lb_mem_free(l->c->broken);
    l->c->broken = note.data;
    return LB_OK;
}

static enum lb_status set_source(struct loading *l, const char *source)
{
    l->c->source = lb_mem_strdup(source);
    return l->c->source ? LB_OK : lb_err_memory(l->err, "a name", strlen(source));
}

static enum lb_status compile_file(struct loading *l, struct lb_chat_template *t, const char *path, const char *where)
{
    struct lb_str text = {0};
    enum lb_status status = lb_file_read(path, MAX_TEMPLATE_BYTES, &text, l->err);
    if (status == LB_OK) {
        /* as an editor on Windows leaves it */
        size_t skip = text.len >= 3 && memcmp(text.data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
        status = compile(l, t, text.data ? text.data + skip : "", text.len - skip, where);
    }
    lb_str_release(&text);
    return status;
}

/* Compiles DIR/NAME where there is such a file. */
static enum lb_status try_file(struct loading *l, struct lb_chat_template *t, const char *name, bool *found)
{
    char *path = lb_path_join(l->spec->dir, name);
    if (!path)
        return lb_err_memory(l->err, name, strlen(name));
    *found = lb_file_exists(path);
    enum lb_status status = *found ? compile_file(l, t, path, name) : LB_OK;
    lb_mem_free(path);
    return status;
}

/* chat_template of tokenizer_config.json: a text, or a list of {name, template}. */
static enum lb_status try_config(struct loading *l, bool *found)
{
    static const char where[] = "tokenizer_config.json";
    json_t *v = json_object_get(l->config, "chat_template"), *item;
    size_t i;
    *found = json_is_string(v) || json_array_size(v) > 0;
    if (json_is_string(v))
        return compile(l, &l->c->main, json_string_value(v), json_string_length(v), where);
    json_array_foreach(v, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        const json_t *text = json_object_get(item, "template");
        struct lb_chat_template *t = NULL;
        if (name && strcmp(name, "default") == 0)
            t = &l->c->main;
        else if (name && strcmp(name, "tool_use") == 0)
            t = &l->c->tool_use;
        if (t && !t->text && json_is_string(text))
            LB_TRY(compile(l, t, json_string_value(text), json_string_length(text), where));
    }
    if (!*found || l->c->main.text)
        return LB_OK;
    lb_mem_free(l->c->broken); /* of the template for tools */
    l->c->broken = lb_mem_strdup("the model has several chat templates (tokenizer_config.json) and none is named "
                                 "default; --chat-template FILE gives one");
    return l->c->broken ? LB_OK : lb_err_memory(l->err, "a message", 128);
}

static enum lb_status find_in_dir(struct loading *l)
{
    bool found = false, also = false;
    LB_TRY(try_file(l, &l->c->main, "chat_template.jinja", &found));
    if (found) {
        LB_TRY(try_file(l, &l->c->tool_use, "additional_chat_templates/tool_use.jinja", &also));
        return set_source(l, "chat_template.jinja");
    }
    LB_TRY(try_config(l, &found));
    return found ? set_source(l, "tokenizer_config.json") : LB_OK;
}

static enum lb_status find_built_in(struct loading *l)
{
    const struct lb_chat_builtin *b = l->spec->tok ? lb_chat_builtin_find(l->config, l->spec->tok) : NULL;
    struct lb_str source = {0};
    if (!b)
        return LB_OK;
    l->c->built_in = true;
    l->c->guess = b->guess;
    lb_str_putf(&source, "built in: %s", b->name);
    enum lb_status status = source.failed ? lb_err_memory(l->err, "a name", 64) : set_source(l, source.data);
    lb_str_release(&source);
    return status == LB_OK ? compile(l, &l->c->main, b->text, strlen(b->text), b->name) : status;
}

static enum lb_status find_templates(struct loading *l)
{
    const struct lb_chat_spec *spec = l->spec;
    if (spec->file) {
        LB_TRY(compile_file(l, &l->c->main, spec->file, spec->file));
        return set_source(l, spec->file);
    }
    if (spec->dir)
        LB_TRY(find_in_dir(l));
    if (!l->c->source && spec->v && spec->v->chat_template.len) {
        LB_TRY(compile(l, &l->c->main, spec->v->chat_template.data, spec->v->chat_template.len, "GGUF metadata"));
        LB_TRY(set_source(l, "GGUF metadata"));
    }
    return l->c->source ? LB_OK : find_built_in(l);
}

/* ---- content as a list of parts ---- */

/* True when the template fails with a list of parts, or prints it as Python would, but shows a text. */
static enum lb_status probe(const struct lb_chat *c, struct lb_chat_template *t, struct lb_jinja_ctx *ctx,
                            struct lb_err *err)
{
    json_t *text = json_pack("[{s:s,s:s}]", "role", "user", "content", "lbprobe");
    json_t *parts = json_pack("[{s:s,s:[{s:s,s:s}]}]", "role", "user", "content", "type", "text", "text", "lbprobe");
    struct lb_str out = {0};
    struct lb_err ignored = LB_ERR_INIT, ignored_too = LB_ERR_INIT;
    enum lb_status status = text && parts ? LB_OK : lb_err_memory(err, "a probe", 64);
    if (status == LB_OK) {
        struct lb_chat_row row = {.messages = parts, .add_generation_prompt = true};
        bool shown =
            lb_chat_run(c, t, ctx, &row, &out, &ignored) == LB_OK && strstr(out.data ? out.data : "", "lbprobe");
        bool raw = shown && (strstr(out.data, "'type'") || strstr(out.data, "\"type\""));
        lb_str_clear(&out);
        row.messages = text;
        t->flat = (!shown || raw) && lb_chat_run(c, t, ctx, &row, &out, &ignored_too) == LB_OK &&
                  strstr(out.data ? out.data : "", "lbprobe");
    }
    lb_str_release(&out);
    json_decref(text);
    json_decref(parts);
    return status;
}

static enum lb_status probe_all(struct loading *l)
{
    struct lb_jinja_ctx *ctx = NULL;
    enum lb_status status = lb_jinja_ctx_new(&ctx, l->err);
    if (status == LB_OK && l->c->main.jinja)
        status = probe(l->c, &l->c->main, ctx, l->err);
    if (status == LB_OK && l->c->tool_use.jinja)
        status = probe(l->c, &l->c->tool_use, ctx, l->err);
    lb_jinja_ctx_free(ctx);
    return status;
}

static enum lb_status load(struct loading *l)
{
    l->c->special = json_object();
    if (!l->c->special)
        return lb_err_memory(l->err, "special tokens", 64);
    LB_TRY(read_kwargs(l));
    if (l->spec->dir) {
        LB_TRY(read_object(l->spec->dir, "tokenizer_config.json", &l->config, l->err));
        LB_TRY(add_special_of_dir(l));
    }
    if (l->spec->v)
        LB_TRY(add_special_of_gguf(l));
    LB_TRY(find_templates(l));
    return probe_all(l);
}

enum lb_status lb_chat_open(struct lb_chat **out, const struct lb_chat_spec *spec, struct lb_err *err)
{
    *out = NULL;
    struct lb_chat *c = lb_mem_new(1, sizeof *c);
    if (!c)
        return lb_err_memory(err, "a chat", sizeof *c);
    c->now = spec->now;
    struct loading l = {.c = c, .spec = spec, .err = err};
    enum lb_status status = load(&l);
    json_decref(l.config);
    if (status != LB_OK)
        lb_chat_free(c);
    else
        *out = c;
    return status;
}

static void release_template(struct lb_chat_template *t)
{
    lb_jinja_free(t->jinja);
    lb_mem_free(t->text);
}

void lb_chat_free(struct lb_chat *c)
{
    if (!c)
        return;
    release_template(&c->main);
    release_template(&c->tool_use);
    json_decref(c->special);
    json_decref(c->extra);
    lb_mem_free(c->source);
    lb_mem_free(c->broken);
    lb_mem_free(c);
}
