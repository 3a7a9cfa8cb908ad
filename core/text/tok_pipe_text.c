/* Normalizer and decoder of tokenizer.json (models.md 3.4). */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define MAX_CHARSMAP_BYTES ((size_t)1 << 26)

static enum lb_status put_text(const struct lb_tok_load *l, const json_t *v, const char *what, char **out, size_t *n)
{
    if (!json_is_string(v))
        return lb_tok_bad(l, "%s is not a string", what);
    *n = json_string_length(v);
    *out = lb_mem_strndup(json_string_value(v), *n);
    return *out ? LB_OK : lb_err_memory(l->err, what, *n);
}

/* Replace {pattern: {String} or {Regex}, content}, as a normalizer and as a decoder. */
static enum lb_status read_replace(struct lb_tok_load *l, const json_t *v, struct lb_norm *o)
{
    const json_t *pattern = json_object_get(v, "pattern"), *regex = json_object_get(pattern, "Regex");
    const char *unsupported = NULL;
    o->kind = LB_NORM_REPLACE;
    LB_TRY(put_text(l, json_object_get(v, "content"), "Replace: content", &o->text, &o->n_text));
    if (!json_is_string(regex)) {
        LB_TRY(put_text(l, json_object_get(pattern, "String"), "Replace: pattern", &o->find, &o->n_find));
        return o->n_find > 0 ? LB_OK : lb_tok_bad(l, "Replace: pattern is empty");
    }
    if (strlen(json_string_value(regex)) != json_string_length(regex))
        return lb_tok_bad(l, "Replace: pattern holds a zero byte");
    if (lb_pattern_compile(json_string_value(regex), &o->re, &unsupported, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': Replace", l->path);
    if (unsupported)
        return lb_tok_set_missing(l->t, l->err, "Replace pattern with %s", unsupported);
    return LB_OK;
}

static int sextet(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

bool lb_base64_decode(const char *text, size_t n, struct lb_str *out)
{
    if (n >= 4 && n % 4 == 0 && text[n - 1] == '=')
        n -= text[n - 2] == '=' ? 2 : 1;
    uint32_t bits = 0;
    int n_bits = 0;
    for (size_t i = 0; i < n; i++) {
        int six = sextet(text[i]);
        if (six < 0)
            return false;
        bits = bits << 6 | (uint32_t)six;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            lb_str_putc(out, (char)(bits >> n_bits & 0xFF));
        }
    }
    return n % 4 != 1 && !out->failed;
}

static enum lb_status read_charsmap(struct lb_tok_load *l, const json_t *v, struct lb_norm *o)
{
    const json_t *text = json_object_get(v, "precompiled_charsmap");
    struct lb_str blob = {0};
    enum lb_status status;
    o->kind = LB_NORM_CHARSMAP;
    if (!json_is_string(text) || json_string_length(text) > MAX_CHARSMAP_BYTES ||
        !lb_base64_decode(json_string_value(text), json_string_length(text), &blob))
        status = lb_tok_bad(l, "normalizer: precompiled_charsmap is not base64");
    else if (lb_charsmap_new(&o->map, blob.data ? blob.data : "", blob.len, l->err) != LB_OK)
        status = lb_err_where(l->err, "cannot use '%s': normalizer", l->path);
    else
        status = LB_OK;
    lb_str_release(&blob);
    return status;
}

static enum lb_status read_normalizer(struct lb_tok_load *l, const json_t *v, const char *type, struct lb_norm *o)
{
    static const char *const plain[] = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"};
    static const enum lb_norm_kind kinds[] = {LB_NORM_NFC,       LB_NORM_NFD,           LB_NORM_NFKC, LB_NORM_NFKD,
                                              LB_NORM_LOWERCASE, LB_NORM_STRIP_ACCENTS, LB_NORM_NMT,  LB_NORM_BYTES};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (strcmp(type, plain[i]) == 0) {
            o->kind = kinds[i];
            return LB_OK;
        }
    }
    if (strcmp(type, "Replace") == 0)
        return read_replace(l, v, o);
    if (strcmp(type, "Precompiled") == 0)
        return read_charsmap(l, v, o);
    if (strcmp(type, "Prepend") == 0) {
        o->kind = LB_NORM_PREPEND;
        return put_text(l, json_object_get(v, "prepend"), "Prepend: prepend", &o->text, &o->n_text);
    }
    if (strcmp(type, "Strip") == 0) {
        o->kind = LB_NORM_STRIP;
        LB_TRY(lb_tok_flag(l, "normalizer", v, "strip_left", &o->left));
        return lb_tok_flag(l, "normalizer", v, "strip_right", &o->right);
    }
    return lb_tok_not_built(l, "normalizer", type);
}

enum lb_status lb_tok_load_normalizer(struct lb_tok_load *l, const json_t *v, int depth)
{
    const char *type = lb_tok_part_type(l, "normalizer", v);
    struct lb_norm o = {0};
    if (!type)
        return LB_E_INPUT;
    if (strcmp(type, "Sequence") == 0)
        return lb_tok_each(l, v, "normalizers", depth, lb_tok_load_normalizer);
    enum lb_status status = read_normalizer(l, v, type, &o);
    if (status != LB_OK || l->t->missing) {
        lb_norm_release(&o);
        return status;
    }
    if (lb_norm_add(l->t, &o, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s'", l->path);
    return LB_OK;
}

/* The one character of a field, or its default. */
static enum lb_status read_char(struct lb_tok_load *l, const json_t *v, const char *key, uint32_t *out)
{
    const json_t *text = json_object_get(v, key);
    int len = 0;
    if (json_is_string(text) && json_string_length(text) > 0)
        *out = lb_utf8_decode(json_string_value(text), json_string_length(text), &len);
    if (text && (len == 0 || (size_t)len != json_string_length(text)))
        return lb_tok_bad(l, "%s is not one character", key);
    return LB_OK;
}

enum lb_status lb_tok_read_metaspace(struct lb_tok_load *l, const json_t *v, uint32_t *space, enum lb_prepend *prepend,
                                     bool *split)
{
    static const char *const schemes[] = {"always", "first", "never"};
    const json_t *scheme = json_object_get(v, "prepend_scheme");
    bool add = true;
    int found = LB_PREPEND_ALWAYS;
    *space = 0x2581;
    *split = true;
    LB_TRY(read_char(l, v, "replacement", space));
    LB_TRY(lb_tok_flag(l, "Metaspace", v, "split", split));
    LB_TRY(lb_tok_flag(l, "Metaspace", v, "add_prefix_space", &add));
    if (scheme)
        for (found = 0; found < 3; found++)
            if (json_is_string(scheme) && strcmp(json_string_value(scheme), schemes[found]) == 0)
                break;
    if (found == 3)
        return lb_tok_bad(l, "Metaspace: prepend_scheme is not always, first or never");
    *prepend = add ? (enum lb_prepend)found : LB_PREPEND_NEVER;
    return LB_OK;
}

static int count_of(const json_t *v, const char *key)
{
    int32_t n = lb_tok_json_id(json_object_get(v, key));
    return n < 0 ? 0 : n;
}

static enum lb_status add_strip(struct lb_tok_load *l, const json_t *v)
{
    struct lb_decoder *d = l->decoder;
    uint32_t cp = ' ';
    int start = count_of(v, "start"), stop = count_of(v, "stop");
    LB_TRY(read_char(l, v, "content", &cp));
    if (d->joined) {
        if (stop > 0 || d->n_strip > 0 || d->bytes)
            return lb_tok_set_missing(l->t, l->err, "decoder Strip at the end of the joined text");
        d->strip_cp = cp;
        d->n_strip = (uint32_t)start;
        return LB_OK;
    }
    d->part[d->n_part++] = (struct lb_decode){.kind = LB_DECODE_STRIP, .cp = cp, .start = start, .stop = stop};
    return LB_OK;
}

static enum lb_status add_metaspace(struct lb_tok_load *l, const json_t *v)
{
    struct lb_decode p = {.kind = LB_DECODE_METASPACE};
    enum lb_prepend prepend = LB_PREPEND_NEVER;
    bool split = true;
    LB_TRY(lb_tok_read_metaspace(l, v, &p.cp, &prepend, &split));
    p.drop_first = prepend != LB_PREPEND_NEVER;
    l->decoder->part[l->decoder->n_part++] = p;
    return LB_OK;
}

static enum lb_status add_replace(struct lb_tok_load *l, const json_t *v)
{
    struct lb_decode *p = &l->decoder->part[l->decoder->n_part++];
    p->kind = LB_DECODE_REPLACE;
    return read_replace(l, v, &p->replace);
}

enum lb_status lb_tok_load_decoder(struct lb_tok_load *l, const json_t *v, int depth)
{
    struct lb_decoder *d = l->decoder;
    const char *type = lb_tok_part_type(l, "decoder", v);
    if (!type)
        return LB_E_INPUT;
    d->spaced = false;
    if (strcmp(type, "Sequence") == 0)
        return lb_tok_each(l, v, "decoders", depth, lb_tok_load_decoder);
    if (d->n_part == LB_TOK_MAX_DECODE)
        return lb_tok_bad(l, "more than %d decoders", LB_TOK_MAX_DECODE);
    if (strcmp(type, "Strip") == 0)
        return add_strip(l, v);
    if (strcmp(type, "Fuse") == 0) {
        d->joined = true;
        return LB_OK;
    }
    if (d->joined)
        return lb_tok_set_missing(l->t, l->err, "decoder %s on the joined text",
                                  lb_tok_shown(&l->shown, type, strlen(type)));
    if (strcmp(type, "ByteLevel") == 0 && d->fallback_at < 0) {
        d->joined = d->bytes = true;
        return LB_OK;
    }
    if (strcmp(type, "ByteFallback") == 0 && d->fallback_at < 0) {
        d->fallback_at = d->n_part;
        return LB_OK;
    }
    if (strcmp(type, "Metaspace") == 0)
        return add_metaspace(l, v);
    if (strcmp(type, "Replace") == 0)
        return add_replace(l, v);
    return lb_tok_not_built(l, "decoder", type);
}
