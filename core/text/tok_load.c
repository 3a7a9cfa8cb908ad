/* Tokenizers of Hugging Face directories: tokenizer.json and tokenizer_config.json (models.md 3.1 to 3.3). */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define MAX_FILE_BYTES ((size_t)1 << 29)

enum lb_status lb_tok_bad(const struct lb_tok_load *l, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return lb_err_set(l->err, LB_E_INPUT, "cannot use '%s': %s", l->path, text);
}

int32_t lb_tok_json_id(const json_t *v)
{
    double x = json_is_real(v) ? json_real_value(v) : -1;
    return x >= 0 && x < LB_TOK_MAX_ID && x == (double)(int32_t)x ? (int32_t)x : -1;
}

/* Parses a JSON object. Numbers become reals, because tokenizer_config.json often says model_max_length 1e30 in digits,
 * which no integer holds; ids are far below where reals lose whole numbers. */
static enum lb_status parse_json(const char *path, const struct lb_str *text, json_t **out, struct lb_err *err)
{
    json_error_t why;
    *out = json_loadb(text->data ? text->data : "", text->len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
    if (!*out) {
        for (char *c = why.text; *c; c++)
            if ((unsigned char)*c < ' ')
                *c = '?';
        return lb_err_set(err, LB_E_INPUT, "cannot use '%s': not valid JSON at line %d: %s", path, why.line, why.text);
    }
    if (!json_is_object(*out))
        return lb_err_set(err, LB_E_INPUT, "cannot use '%s': not a JSON object", path);
    return LB_OK;
}

static enum lb_status read_json(const char *path, json_t **out, struct lb_err *err)
{
    struct lb_str text = {0};
    enum lb_status status = lb_file_read(path, MAX_FILE_BYTES, &text, err);
    if (status == LB_OK)
        status = parse_json(path, &text, out, err);
    lb_str_release(&text);
    return status;
}

/* Reads DIR/NAME where there is such a file; *path is then its path (lb_mem_free), else NULL. */
static enum lb_status read_in_dir(const char *dir, const char *name, char **path, json_t **out, struct lb_err *err)
{
    *path = lb_path_join(dir, name);
    if (!*path)
        return lb_err_memory(err, name, strlen(dir));
    if (lb_file_exists(*path))
        return read_json(*path, out, err);
    lb_mem_free(*path);
    *path = NULL;
    return LB_OK;
}

/* Only byte-level BPE takes its vocabulary from the scan. */
static bool scan_serves(const json_t *root)
{
    const json_t *model = json_object_get(root, "model"), *type = json_object_get(model, "type");
    const char *name = type ? json_string_value(type) : "BPE";
    return name && strcmp(name, "BPE") == 0 && !json_is_true(json_object_get(model, "byte_fallback"));
}

/* tokenizer.json, without vocabulary and merges where these can be scanned. */
static enum lb_status read_tokenizer(struct lb_tok_load *l, const char *dir, char **path)
{
    struct lb_str text = {0};
    struct lb_err ignored = LB_ERR_INIT; /* it is for jansson to name the line of the whole file */
    *path = lb_path_join(dir, "tokenizer.json");
    if (l->whole || !*path || !lb_file_exists(*path)) {
        lb_mem_free(*path);
        return read_in_dir(dir, "tokenizer.json", path, &l->root, l->err);
    }
    enum lb_status status = lb_file_read(*path, MAX_FILE_BYTES, &text, l->err);
    bool scanned = status == LB_OK && lb_scan_cut(&l->scan, text.data ? text.data : "", text.len) &&
                   parse_json(*path, &l->scan.rest, &l->root, &ignored) == LB_OK && scan_serves(l->root);
    if (status == LB_OK && !scanned) {
        lb_scan_release(&l->scan);
        json_decref(l->root);
        status = parse_json(*path, &text, &l->root, l->err);
    }
    lb_str_release(&text);
    return status;
}

/* An added token as tokenizer.json and added_tokens_decoder write it. content is lent by v. */
static enum lb_status read_added(const struct lb_tok_load *l, const char *where, const json_t *v, struct lb_added *a)
{
    static const char *const keys[] = {"single_word", "lstrip", "rstrip", "special", "normalized"};
    bool *const flags[] = {&a->single_word, &a->lstrip, &a->rstrip, &a->special, &a->normalized};
    const json_t *content = json_object_get(v, "content");
    if (!json_is_string(content))
        return lb_tok_bad(l, "%s: a token without content", where);
    a->text = (char *)(uintptr_t)json_string_value(content);
    a->len = json_string_length(content);
    if (strlen(a->text) != a->len)
        return lb_tok_bad(l, "%s: the content of a token holds a zero byte", where);
    for (int i = 0; i < 5; i++) {
        const json_t *f = json_object_get(v, keys[i]);
        if (f && !json_is_boolean(f) && !json_is_null(f))
            return lb_tok_bad(l, "%s: %s of a token is not true or false", where, keys[i]);
        *flags[i] = json_is_boolean(f) ? json_is_true(f) : i == 4 && !a->special;
    }
    return LB_OK;
}

/* The id that is a member's name, or -1. */
static int32_t key_id(const char *key)
{
    char *end;
    if (key[0] < '0' || key[0] > '9')
        return -1;
    unsigned long v = strtoul(key, &end, 10);
    return *end == 0 && v < LB_TOK_MAX_ID ? (int32_t)v : -1;
}

static int32_t scanned_id(const struct lb_tok_load *l, const char *content)
{
    struct lb_str raw = {0};
    bool plain = !lb_tok_unmap(content, strlen(content), &raw);
    int32_t id = raw.failed ? -1 : lb_scan_find(&l->scan, raw.data ? raw.data : "", raw.len, plain);
    lb_str_release(&raw);
    return id;
}

/* Id of a token by its content, in any kind of tokenizer, or -1. */
static int64_t id_of(const struct lb_tok_load *l, const char *content)
{
    size_t i;
    const char *key;
    json_t *v;
    json_t *vocab = json_object_get(json_object_get(l->root, "model"), "vocab");
    int32_t id = json_is_object(vocab) ? lb_tok_json_id(json_object_get(vocab, content)) : -1;
    if (id < 0 && l->scan.n_token > 0)
        id = scanned_id(l, content);
    if (id >= 0)
        return id;
    json_array_foreach(json_object_get(l->root, "added_tokens"), i, v)
    {
        const char *text = json_string_value(json_object_get(v, "content"));
        if (text && strcmp(text, content) == 0)
            return lb_tok_json_id(json_object_get(v, "id"));
    }
    json_object_foreach(json_object_get(l->config, "added_tokens_decoder"), key, v)
    {
        const char *text = json_string_value(json_object_get(v, "content"));
        if (text && strcmp(text, content) == 0)
            return key_id(key);
    }
    return lb_tok_id(l->t, content, strlen(content));
}

/* Id of bos_token, eos_token or pad_token of tokenizer_config.json or special_tokens_map.json: a string or an object
 * with content. `otherwise` is the one that no file names. */
static int64_t named_id(const struct lb_tok_load *l, const char *name, int64_t otherwise)
{
    const json_t *v = json_object_get(l->config, name);
    if (!v)
        v = json_object_get(l->map, name);
    if (!v)
        return otherwise;
    const char *content = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    int64_t id = content ? id_of(l, content) : -1;
    return id < l->t->n_id ? id : -1;
}

/* Sets n_id from every id that the files name, and checks those ids. */
static enum lb_status find_size(struct lb_tok_load *l)
{
    json_t *vocab = json_object_get(json_object_get(l->root, "model"), "vocab"), *v;
    int32_t top = l->scan.n_token > 0 ? l->scan.top_id : -1, id;
    const char *key;
    size_t i;
    if (json_is_array(vocab)) /* Unigram: ids are places */
        top = (int32_t)(json_array_size(vocab) < LB_TOK_MAX_ID ? json_array_size(vocab) : LB_TOK_MAX_ID) - 1;
    json_object_foreach(vocab, key, v)
    {
        id = lb_tok_json_id(v);
        if (id < 0)
            return lb_tok_bad(l, "model.vocab: the id of %s is no whole number from 0 to %d",
                              lb_tok_shown(&l->shown, key, strlen(key)), LB_TOK_MAX_ID - 1);
        top = id > top ? id : top;
    }
    json_array_foreach(json_object_get(l->root, "added_tokens"), i, v)
    {
        id = lb_tok_json_id(json_object_get(v, "id"));
        if (id < 0)
            return lb_tok_bad(l, "added_tokens[%zu]: id is no whole number from 0 to %d", i, LB_TOK_MAX_ID - 1);
        top = id > top ? id : top;
    }
    json_object_foreach(json_object_get(l->config, "added_tokens_decoder"), key, v)
    {
        id = key_id(key);
        if (id < 0)
            return lb_tok_bad(l, "added_tokens_decoder of tokenizer_config.json: %s is no token id",
                              lb_tok_shown(&l->shown, key, strlen(key)));
        top = id > top ? id : top;
    }
    l->t->n_id = (int64_t)top + 1;
    return LB_OK;
}

static enum lb_status add_vocab(struct lb_tok_load *l, json_t *vocab)
{
    const char *key;
    json_t *v;
    json_object_foreach(vocab, key, v)
    {
        lb_str_clear(&l->text);
        int32_t id = lb_tok_json_id(v);
        uint32_t flags = lb_tok_unmap(key, strlen(key), &l->text) ? 0 : LB_TOKEN_PLAIN;
        if (!lb_tok_set(l->t, id, l->text.data ? l->text.data : "", l->text.len, flags, true))
            return lb_tok_bad(l, "model.vocab: %s has id %d, which another token has",
                              lb_tok_shown(&l->shown, key, strlen(key)), (int)id);
    }
    if (l->text.failed || l->t->pool.failed)
        return lb_err_memory(l->err, "the vocabulary", l->t->pool.len);
    return LB_OK;
}

/* A merge is "left right" or ["left", "right"]. */
bool lb_tok_read_merge(const json_t *v, struct lb_bytes *left, struct lb_bytes *right)
{
    if (json_is_array(v) && json_array_size(v) == 2) {
        const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
        *left = (struct lb_bytes){json_string_value(a), json_string_length(a)};
        *right = (struct lb_bytes){json_string_value(b), json_string_length(b)};
        return json_is_string(a) && json_is_string(b);
    }
    const char *text = json_string_value(v), *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' ') || strlen(text) != json_string_length(v))
        return false;
    *left = (struct lb_bytes){text, (size_t)(space - text)};
    *right = (struct lb_bytes){space + 1, strlen(space + 1)};
    return true;
}

static enum lb_status add_merges(struct lb_tok_load *l, json_t *merges)
{
    size_t i;
    json_t *v;
    uint32_t rank = 0;
    json_array_foreach(merges, i, v)
    {
        struct lb_bytes left, right;
        const char *text = json_string_value(v);
        if (text && strncmp(text, "#version", 8) == 0)
            continue;
        if (!lb_tok_read_merge(v, &left, &right))
            return lb_tok_bad(l, "model.merges[%zu] is not two tokens", i);
        if (lb_tok_add_merge(l->t, left, right, rank++, &l->text))
            continue;
        lb_str_clear(&l->text);
        lb_str_put(&l->text, left.data, left.len);
        lb_str_putc(&l->text, ' ');
        lb_str_put(&l->text, right.data, right.len);
        return lb_tok_bad(l, "model.merges[%zu] %s names a token that model.vocab lacks", i,
                          lb_tok_shown(&l->shown, l->text.data ? l->text.data : "", l->text.len));
    }
    return LB_OK;
}

/* l->text becomes the bytes of a token that is written so; false when a character stands for no byte. */
static bool take_bytes(struct lb_tok_load *l, const char *text, size_t n)
{
    if (!l->t->kind && !l->as_written)
        return lb_tok_unmap(text, n, &l->text);
    lb_str_put(&l->text, text, n);
    return true;
}

/* Has the id this content already, though no text finds it (a control piece)? */
static bool is_written(const struct lb_tok *t, const struct lb_added *a)
{
    const struct lb_token *k = &t->token[a->id];
    return (k->flags & LB_TOKEN_PRESENT) && k->len == a->len && memcmp(t->pool.data + k->at, a->text, a->len) == 0;
}

/* Adds one added token: it has its vocabulary id where its content is in the vocabulary. `seen` maps contents to ids of
 * those added before; with `again` set, one that comes again is left out, else it must have the same id. */
static enum lb_status add_added(struct lb_tok_load *l, struct lb_added *a, json_t *seen, bool again,
                                struct lb_tok_ctx *c)
{
    struct lb_tok *t = l->t;
    const json_t *before = json_object_get(seen, a->text);
    const char *shown = lb_tok_shown(&l->shown, a->text, a->len);
    if (before && (again || lb_tok_json_id(before) == a->id))
        return LB_OK;
    if (before)
        return lb_tok_bad(l, "added token %s has two ids", shown);
    if (a->len == 0)
        return LB_OK;
    lb_str_clear(&l->text);
    bool plain = !take_bytes(l, a->text, a->len);
    /* pieces of SentencePiece are any bytes */
    if (l->text.failed || json_object_set_new_nocheck(seen, a->text, json_real(a->id)) != 0)
        return lb_err_memory(l->err, "added tokens", a->len);
    int32_t id = lb_tok_find(t, l->text.data, l->text.len, plain);
    if (id >= 0)
        a->id = id;
    else if (is_written(t, a))
        id = a->id;
    else if (!lb_tok_set(t, a->id, l->text.data, l->text.len, plain ? LB_TOKEN_PLAIN : 0, false))
        return lb_tok_bad(l, "added token %s has id %d, which another token has", shown, (int)a->id);
    if (a->special)
        t->token[a->id].flags |= LB_TOKEN_SPECIAL;
    LB_TRY(lb_added_put(&t->named, a, l->err));
    if (!a->normalized)
        return lb_added_put(&t->raw, a, l->err);
    struct lb_bytes text = {a->text, a->len};
    LB_TRY(lb_norm_run(t, c, &text, l->err));
    a->text = (char *)(uintptr_t)text.data;
    a->len = text.len;
    return lb_added_put(&t->normalized, a, l->err);
}

static enum lb_status add_all_added(struct lb_tok_load *l, json_t *seen, struct lb_tok_ctx *c)
{
    const char *key;
    size_t i;
    json_t *v;
    struct lb_added a = {0};
    json_array_foreach(json_object_get(l->root, "added_tokens"), i, v)
    {
        LB_TRY(read_added(l, "added_tokens", v, &a));
        a.id = lb_tok_json_id(json_object_get(v, "id"));
        LB_TRY(add_added(l, &a, seen, false, c));
    }
    json_object_foreach(json_object_get(l->config, "added_tokens_decoder"), key, v)
    {
        LB_TRY(read_added(l, "added_tokens_decoder of tokenizer_config.json", v, &a));
        a.id = key_id(key);
        LB_TRY(add_added(l, &a, seen, true, c));
    }
    for (i = 0; i < l->extra.n; i++) {
        a = l->extra.item[i];
        if (a.id < l->t->n_id && strlen(a.text) == a.len)
            LB_TRY(add_added(l, &a, seen, true, c));
    }
    lb_added_sort(&l->t->raw);
    lb_added_sort(&l->t->normalized);
    lb_added_sort(&l->t->named);
    return l->t->pool.failed ? lb_err_memory(l->err, "added tokens", l->t->pool.len) : LB_OK;
}

static enum lb_status add_tokens(struct lb_tok_load *l)
{
    struct lb_tok_ctx *c = NULL;
    json_t *seen = json_object();
    enum lb_status status = seen ? lb_tok_ctx_new(&c, l->t, l->err) : lb_err_memory(l->err, "added tokens", 64);
    if (status == LB_OK)
        status = add_all_added(l, seen, c);
    lb_tok_ctx_free(c);
    json_decref(seen);
    return status;
}

static enum lb_status find_unknown(struct lb_tok_load *l, const json_t *unk)
{
    struct lb_tok *t = l->t;
    bool all = true;
    lb_tok_find_bytes(t);
    for (int b = 0; b < 256; b++)
        all = all && t->byte_id[b] >= 0;
    if (!json_is_string(unk) || all)
        return LB_OK;
    lb_str_clear(&l->text);
    bool plain = !lb_tok_unmap(json_string_value(unk), json_string_length(unk), &l->text);
    t->unk = lb_tok_find(t, l->text.data ? l->text.data : "", l->text.len, plain);
    return t->unk >= 0 ? LB_OK : lb_tok_bad(l, "model.unk_token is not in model.vocab");
}

static bool given(const json_t *v)
{
    return v && !json_is_null(v) && !(json_is_string(v) && json_string_length(v) == 0);
}

/* Sets missing when the model is of a kind that is not built in. */
static enum lb_status check_model(struct lb_tok_load *l, const json_t *model, enum lb_model *kind, bool *plain)
{
    const json_t *type = json_object_get(model, "type");
    const char *name = type ? json_string_value(type) : "BPE";
    if (!json_is_object(model) || !name)
        return lb_tok_bad(l, "model is no object with a type");
    *kind = strcmp(name, "Unigram") == 0 ? LB_MODEL_UNIGRAM : LB_MODEL_CHARS;
    if (*kind != LB_MODEL_UNIGRAM && strcmp(name, "BPE") != 0)
        return lb_tok_set_missing(l->t, l->err, "%s model", lb_tok_shown(&l->shown, name, strlen(name)));
    if (given(json_object_get(model, "dropout")) && json_real_value(json_object_get(model, "dropout")) != 0)
        return lb_tok_set_missing(l->t, l->err, "BPE with dropout");
    *plain = *kind == LB_MODEL_CHARS && !json_is_true(json_object_get(model, "byte_fallback")) &&
             !given(json_object_get(model, "continuing_subword_prefix")) &&
             !given(json_object_get(model, "end_of_word_suffix"));
    return LB_OK;
}

static enum lb_status fill(struct lb_tok_load *l, json_t *vocab, json_t *merges)
{
    const struct lb_tok_scan *s = &l->scan;
    size_t n_token = s->n_token > 0 ? s->n_token : json_object_size(vocab);
    size_t n_merge = s->n_token > 0 ? s->n_merge : json_array_size(merges);
    LB_TRY(lb_tok_reserve(l->t, l->t->n_id, n_token, n_merge, l->err));
    if (s->n_token > 0) {
        l->refused = !lb_scan_fill(s, l->t);
        return l->refused ? LB_E_INPUT : LB_OK;
    }
    LB_TRY(add_vocab(l, vocab));
    return add_merges(l, merges);
}

static enum lb_status load_model(struct lb_tok_load *l)
{
    struct lb_tok *t = l->t;
    json_t *model = json_object_get(l->root, "model");
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    json_t *added = json_object_get(l->root, "added_tokens");
    enum lb_model kind = LB_MODEL_CHARS;
    bool plain = false;
    LB_TRY(check_model(l, model, &kind, &plain));
    if (added && !json_is_array(added) && !json_is_null(added))
        return lb_tok_bad(l, "added_tokens is not an array");
    LB_TRY(find_size(l));
    if (!t->missing)
        LB_TRY(lb_tok_pipeline(l, kind, plain));
    if (t->missing)
        return LB_OK;
    t->split_special = json_is_true(json_object_get(l->config, "split_special_tokens"));
    if (t->kind) {
        l->refused = l->scan.n_token > 0; /* its tokens are not written as bytes */
        if (l->refused)
            return LB_E_INPUT;
        LB_TRY(lb_tok_load_kind(l, model));
        LB_TRY(add_tokens(l));
        return lb_kind_finish(t, l->err);
    }
    if (!json_is_object(vocab) || t->n_id == 0)
        return lb_tok_bad(l, "model.vocab is not an object with tokens");
    if (!json_is_array(merges))
        return lb_tok_bad(l, "model.merges is not an array");
    LB_TRY(fill(l, vocab, merges));
    LB_TRY(find_unknown(l, json_object_get(model, "unk_token")));
    t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    return add_tokens(l);
}

/* add_bos_token and add_eos_token of tokenizer_config.json, where one is there, replace the post-processor. */
static enum lb_status replace_template(struct lb_tok_load *l)
{
    struct lb_tok *t = l->t;
    const json_t *bos = json_object_get(l->config, "add_bos_token"), *eos = json_object_get(l->config, "add_eos_token");
    if (t->missing || (!json_is_boolean(bos) && !json_is_boolean(eos)))
        return LB_OK;
    t->prefix.n = t->suffix.n = 0;
    const char *name = json_string_value(json_object_get(l->config, "tokenizer_class"));
    bool llama = name && strstr(name, "Llama"); /* that class adds BOS unless it is told not to */
    if ((json_is_true(bos) || (!bos && llama)) && t->bos >= 0)
        LB_TRY(lb_ids_put(&t->prefix, (int32_t)t->bos, l->err));
    if (json_is_true(eos) && t->eos >= 0)
        LB_TRY(lb_ids_put(&t->suffix, (int32_t)t->eos, l->err));
    return LB_OK;
}

/* Paths of the files that were read, for messages. */
struct paths {
    char *config, *map, *json, *model, *merges;
};

/* merges.txt as an array: a line is a merge, the first may be a version. */
static enum lb_status read_merges_file(struct lb_tok_load *l, const char *path, json_t **out)
{
    struct lb_str text = {0};
    enum lb_status status = lb_file_read(path, MAX_FILE_BYTES, &text, l->err);
    *out = status == LB_OK ? json_array() : NULL;
    for (size_t i = 0; *out && i < text.len;) {
        const char *end = memchr(text.data + i, '\n', text.len - i);
        size_t stop = end ? (size_t)(end - text.data) : text.len;
        size_t n = stop - i - (stop > i && text.data[stop - 1] == '\r');
        if (n > 0 && !(i == 0 && text.data[0] == '#')) {
            json_t *line = json_stringn(text.data + i, n);
            if (!line || json_array_append_new(*out, line) != 0)
                status = lb_err_set(l->err, LB_E_INPUT, "cannot use '%s': not UTF-8 at byte %zu", path, i);
        }
        i = status == LB_OK ? stop + 1 : text.len;
    }
    lb_str_release(&text);
    return status;
}

/* The pipeline that these classes of transformers make of vocab.json and merges.txt. */
static const char *pipeline_of(const struct lb_tok_load *l)
{
    const char *name = json_string_value(json_object_get(l->config, "tokenizer_class"));
    if (name && (strcmp(name, "Qwen2Tokenizer") == 0 || strcmp(name, "Qwen2TokenizerFast") == 0))
        return "{\"normalizer\":{\"type\":\"NFC\"},\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":"
               "\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{}},"
               "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}}";
    if (name && (strcmp(name, "GPT2Tokenizer") == 0 || strcmp(name, "GPT2TokenizerFast") == 0))
        return "{\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\","
               "\"add_prefix_space\":false,\"use_regex\":true}}";
    return NULL;
}

/* vocab.json and merges.txt as the tokenizer.json that they stand for; l->root stays NULL where they stand for none. */
static enum lb_status read_pair(struct lb_tok_load *l, const char *dir, struct paths *p)
{
    json_t *vocab = NULL, *merges = NULL, *root = NULL;
    const char *pipeline = pipeline_of(l);
    p->merges = lb_path_join(dir, "merges.txt");
    if (!p->merges)
        return lb_err_memory(l->err, "merges.txt", strlen(dir));
    if (!pipeline || !lb_file_exists(p->merges))
        return LB_OK;
    enum lb_status status = read_in_dir(dir, "vocab.json", &p->json, &vocab, l->err);
    if (status == LB_OK && vocab)
        status = read_merges_file(l, p->merges, &merges);
    if (status == LB_OK && vocab) {
        root = json_loads(pipeline, 0, NULL);
        json_t *split = json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"), 0);
        json_t *model = json_pack("{s:s,s:O,s:O}", "type", "BPE", "vocab", vocab, "merges", merges);
        if (split)
            json_object_set_new(json_object_get(split, "pattern"), "Regex", json_string(lb_pattern_qwen2));
        if (json_object_set_new(root, "model", model) != 0)
            status = lb_err_memory(l->err, "vocab.json", 64);
    }
    json_decref(vocab);
    json_decref(merges);
    l->root = root;
    return status;
}

/* What a directory without tokenizer.json and tokenizer.model has. */
static enum lb_status name_missing(struct lb_tok_load *l, const char *dir)
{
    static const char *const files[][2] = {{"tekken.json", "tekken.json"},
                                           {"vocab.json", "vocab.json without tokenizer.json"},
                                           {"vocab.txt", "vocab.txt without tokenizer.json"}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *path = lb_path_join(dir, files[i][0]);
        if (!path)
            return lb_err_memory(l->err, files[i][0], strlen(dir));
        bool there = lb_file_exists(path);
        lb_mem_free(path);
        if (there)
            return lb_tok_set_missing(l->t, l->err, "%s", files[i][1]);
    }
    return lb_tok_set_missing(l->t, l->err, "no tokenizer files");
}

static void name_ids(struct lb_tok_load *l)
{
    struct lb_tok *t = l->t;
    t->bos = named_id(l, "bos_token", t->bos);
    t->eos = named_id(l, "eos_token", t->eos);
    t->pad = named_id(l, "pad_token", t->pad);
    t->unk_token = named_id(l, "unk_token", t->unk_token);
}

static enum lb_status load_model_file(struct lb_tok_load *l)
{
    struct lb_tok *t = l->t;
    LB_TRY(lb_tok_load_model_file(l));
    if (!t->missing) {
        t->split_special = json_is_true(json_object_get(l->config, "split_special_tokens"));
        LB_TRY(add_tokens(l));
        if (t->kind)
            LB_TRY(lb_kind_finish(t, l->err));
    }
    name_ids(l);
    return t->missing ? LB_OK : lb_tok_model_file_prefix(l);
}

static enum lb_status load_dir(struct lb_tok_load *l, const char *dir, struct paths *p)
{
    if (!lb_file_is_dir(dir))
        return lb_err_set(l->err, LB_E_INPUT, "cannot open '%s': not a directory", dir);
    LB_TRY(read_in_dir(dir, "tokenizer_config.json", &p->config, &l->config, l->err));
    LB_TRY(read_in_dir(dir, "special_tokens_map.json", &p->map, &l->map, l->err));
    LB_TRY(read_tokenizer(l, dir, &p->json));
    p->model = lb_path_join(dir, "tokenizer.model");
    if (!p->model)
        return lb_err_memory(l->err, "tokenizer.model", strlen(dir));
    if (!l->root && !lb_file_exists(p->model))
        LB_TRY(read_pair(l, dir, p));
    l->path = p->json ? p->json : p->config ? p->config : dir;
    if (l->root) {
        LB_TRY(load_model(l));
        name_ids(l);
        return replace_template(l);
    }
    LB_TRY(find_size(l));
    if (lb_file_exists(p->model)) {
        l->path = p->model;
        LB_TRY(load_model_file(l));
        return replace_template(l);
    }
    LB_TRY(name_missing(l, dir));
    name_ids(l);
    return LB_OK;
}

/* One attempt to open a directory; *refused when only one with `whole` can tell what is wrong. */
static enum lb_status open_dir(struct lb_tok *t, const char *dir, bool whole, bool *refused, struct lb_err *err)
{
    t->bos = t->eos = t->pad = t->unk_token = -1;
    t->unk = -1;
    struct lb_tok_load l = {.t = t, .whole = whole, .err = err};
    struct paths p = {0};
    enum lb_status status = load_dir(&l, dir, &p);
    *refused = l.refused;
    json_decref(l.root);
    json_decref(l.config);
    json_decref(l.map);
    lb_added_release(&l.extra);
    lb_scan_release(&l.scan);
    lb_str_release(&l.text);
    lb_str_release(&l.shown);
    lb_mem_free(p.config);
    lb_mem_free(p.map);
    lb_mem_free(p.json);
    lb_mem_free(p.model);
    lb_mem_free(p.merges);
    return status;
}

enum lb_status lb_tok_open_dir(struct lb_tok **out, const char *dir, struct lb_err *err)
{
    enum lb_status status = LB_E_INPUT;
    bool refused = true;
    *out = NULL;
    for (int whole = 0; whole < 2 && refused; whole++) {
        struct lb_tok *t = lb_mem_new(1, sizeof *t);
        if (!t)
            return lb_err_memory(err, "a tokenizer", sizeof *t);
        status = open_dir(t, dir, whole, &refused, err);
        if (status == LB_OK)
            *out = t;
        else
            lb_tok_free(t);
    }
    return status;
}
