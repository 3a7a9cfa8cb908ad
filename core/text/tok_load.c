/* Tokenizers of Hugging Face directories: tokenizer.json and tokenizer_config.json (models.md 3.1 to 3.3). */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/text/tok_impl.h"

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
    return -1;
}

/* Id of bos_token, eos_token or pad_token of tokenizer_config.json: a string or an object with content. */
static int64_t named_id(const struct lb_tok_load *l, const char *name)
{
    const json_t *v = json_object_get(l->config, name);
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
static bool read_merge(const json_t *v, struct lb_bytes *left, struct lb_bytes *right)
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
        if (!read_merge(v, &left, &right))
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
    bool plain = !lb_tok_unmap(a->text, a->len, &l->text);
    if (l->text.failed || json_object_set_new(seen, a->text, json_real(a->id)) != 0)
        return lb_err_memory(l->err, "added tokens", a->len);
    int32_t id = lb_tok_find(t, l->text.data, l->text.len, plain);
    if (id >= 0)
        a->id = id;
    else if (!lb_tok_set(t, a->id, l->text.data, l->text.len, plain ? LB_TOKEN_PLAIN : 0, false))
        return lb_tok_bad(l, "added token %s has id %d, which another token has", shown, (int)a->id);
    if (a->special)
        t->token[a->id].flags |= LB_TOKEN_SPECIAL;
    if (!a->normalized)
        return lb_added_put(&t->raw, a, l->err);
    if (t->nfc) {
        const char *text = a->text;
        LB_TRY(lb_tok_nfc(c, &text, &a->len, l->err));
        a->text = (char *)(uintptr_t)text;
    }
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
    lb_added_sort(&l->t->raw);
    lb_added_sort(&l->t->normalized);
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
static enum lb_status check_model(struct lb_tok_load *l, const json_t *model)
{
    const json_t *type = json_object_get(model, "type");
    const char *name = type ? json_string_value(type) : "BPE";
    if (!json_is_object(model) || !name)
        return lb_tok_bad(l, "model is no object with a type");
    if (strcmp(name, "BPE") != 0)
        return lb_tok_set_missing(l->t, l->err, "%s model", lb_tok_shown(&l->shown, name, strlen(name)));
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return lb_tok_set_missing(l->t, l->err, "SentencePiece BPE (byte_fallback)");
    if (given(json_object_get(model, "continuing_subword_prefix")))
        return lb_tok_set_missing(l->t, l->err, "BPE with continuing_subword_prefix");
    if (given(json_object_get(model, "end_of_word_suffix")))
        return lb_tok_set_missing(l->t, l->err, "BPE with end_of_word_suffix");
    if (given(json_object_get(model, "dropout")) && json_real_value(json_object_get(model, "dropout")) != 0)
        return lb_tok_set_missing(l->t, l->err, "BPE with dropout");
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
    LB_TRY(check_model(l, model));
    if (added && !json_is_array(added) && !json_is_null(added))
        return lb_tok_bad(l, "added_tokens is not an array");
    LB_TRY(find_size(l));
    if (!t->missing)
        LB_TRY(lb_tok_pipeline(l));
    if (t->missing)
        return LB_OK;
    if (!json_is_object(vocab) || t->n_id == 0)
        return lb_tok_bad(l, "model.vocab is not an object with tokens");
    if (!json_is_array(merges))
        return lb_tok_bad(l, "model.merges is not an array");
    LB_TRY(fill(l, vocab, merges));
    LB_TRY(find_unknown(l, json_object_get(model, "unk_token")));
    t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    t->split_special = json_is_true(json_object_get(l->config, "split_special_tokens"));
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
    if (json_is_true(bos) && t->bos >= 0)
        LB_TRY(lb_ids_put(&t->prefix, (int32_t)t->bos, l->err));
    if (json_is_true(eos) && t->eos >= 0)
        LB_TRY(lb_ids_put(&t->suffix, (int32_t)t->eos, l->err));
    return LB_OK;
}

/* What a directory without tokenizer.json has. */
static enum lb_status name_missing(struct lb_tok_load *l, const char *dir)
{
    static const char *const files[][2] = {{"tokenizer.model", "tokenizer.model"},
                                           {"tekken.json", "tekken.json"},
                                           {"vocab.json", "vocab.json without tokenizer.json"},
                                           {"vocab.txt", "vocab.txt without tokenizer.json"}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *path = lb_path_join(dir, files[i][0]);
        if (!path)
            return lb_err_memory(l->err, files[i][0], strlen(dir));
        bool there = lb_file_exists(path);
        struct lb_map m = {0};
        enum lb_status status = there && i == 0 ? lb_map_open(&m, path, l->err) : LB_OK;
        lb_mem_free(path);
        LB_TRY(status);
        if (!there)
            continue;
        if (i > 0)
            return lb_tok_set_missing(l->t, l->err, "%s", files[i][1]);
        /* a SentencePiece model begins with a length-delimited field 1; a tiktoken file is lines of text */
        bool spm = m.size_bytes > 0 && m.data[0] == 0x0A;
        lb_map_close(&m);
        return lb_tok_set_missing(l->t, l->err, "tokenizer.model of %s", spm ? "SentencePiece" : "tiktoken");
    }
    return lb_tok_set_missing(l->t, l->err, "no tokenizer files");
}

static enum lb_status load_dir(struct lb_tok_load *l, const char *dir, char **path, char **config_path)
{
    if (!lb_file_is_dir(dir))
        return lb_err_set(l->err, LB_E_INPUT, "cannot open '%s': not a directory", dir);
    LB_TRY(read_in_dir(dir, "tokenizer_config.json", config_path, &l->config, l->err));
    LB_TRY(read_tokenizer(l, dir, path));
    l->path = *path ? *path : *config_path ? *config_path : dir;
    if (l->root) {
        LB_TRY(load_model(l));
    } else {
        LB_TRY(find_size(l));
        LB_TRY(name_missing(l, dir));
    }
    l->t->bos = named_id(l, "bos_token");
    l->t->eos = named_id(l, "eos_token");
    l->t->pad = named_id(l, "pad_token");
    return replace_template(l);
}

/* One attempt to open a directory; *refused when only one with `whole` can tell what is wrong. */
static enum lb_status open_dir(struct lb_tok *t, const char *dir, bool whole, bool *refused, struct lb_err *err)
{
    t->bos = t->eos = t->pad = -1;
    t->unk = -1;
    struct lb_tok_load l = {.t = t, .whole = whole, .err = err};
    char *path = NULL, *config_path = NULL;
    enum lb_status status = load_dir(&l, dir, &path, &config_path);
    *refused = l.refused;
    json_decref(l.root);
    json_decref(l.config);
    lb_scan_release(&l.scan);
    lb_str_release(&l.text);
    lb_str_release(&l.shown);
    lb_mem_free(path);
    lb_mem_free(config_path);
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
