/* Normalizers: a list of parts, each of which rewrites the text that the one before left (models.md 3.4). */
#include <string.h>

#include <utf8proc.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

enum lb_status lb_norm_add(struct lb_tok *t, struct lb_norm *o, struct lb_err *err)
{
    enum lb_status status = LB_OK;
    if (t->n_norm == LB_TOK_MAX_NORM)
        status = lb_err_set(err, LB_E_INPUT, "more than %d normalizers", LB_TOK_MAX_NORM);
    else if (!t->norm && !(t->norm = lb_mem_new(LB_TOK_MAX_NORM, sizeof *t->norm)))
        status = lb_err_memory(err, "a normalizer", LB_TOK_MAX_NORM * sizeof *t->norm);
    if (status == LB_OK)
        t->norm[t->n_norm++] = *o;
    else
        lb_norm_release(o);
    return status;
}

void lb_norm_release(struct lb_norm *o)
{
    lb_mem_free(o->find);
    lb_mem_free(o->text);
    pcre2_code_free(o->re);
    lb_charsmap_free(o->map);
    lb_added_release(&o->user);
    *o = (struct lb_norm){0};
}

/* First place at or after `from` where `find` stands, or the end. */
static size_t find_text(struct lb_bytes in, size_t from, const char *find, size_t n)
{
    while (from + n <= in.len) {
        const char *at = memchr(in.data + from, find[0], in.len - from - n + 1);
        if (!at)
            break;
        from = (size_t)(at - in.data);
        if (memcmp(at, find, n) == 0)
            return from;
        from++;
    }
    return in.len;
}

static void replace_text(const struct lb_norm *o, struct lb_bytes in, struct lb_str *out)
{
    for (size_t i = 0; i < in.len;) {
        size_t at = find_text(in, i, o->find, o->n_find);
        lb_str_put(out, in.data + i, at - i);
        if (at == in.len)
            break;
        lb_str_put(out, o->text, o->n_text);
        i = at + o->n_find;
    }
}

static enum lb_status replace_pattern(const struct lb_norm *o, const struct lb_tok_ctx *c, struct lb_bytes in,
                                      struct lb_str *out, struct lb_err *err)
{
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(c->match);
    size_t done = 0, from = 0, last = SIZE_MAX;
    while (from <= in.len) {
        int rc = pcre2_match(o->re, (PCRE2_SPTR)in.data, in.len, from, PCRE2_NO_UTF_CHECK, c->match, c->limits);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0 || range[0] < done || range[1] < range[0])
            return lb_err_set(err, LB_E_INPUT, "cannot tokenize a text of %zu bytes: the normalizer's pattern gave up",
                              in.len);
        size_t start = range[0], stop = range[1];
        int len = 1;
        if (stop < in.len)
            lb_utf8_decode(in.data + stop, in.len - stop, &len);
        from = stop > start ? stop : stop + (size_t)len;
        if (start == stop && stop == last) /* an empty match right behind a match does not count */
            continue;
        lb_str_put(out, in.data + done, start - done);
        lb_str_put(out, o->text, o->n_text);
        done = last = stop;
    }
    lb_str_put(out, in.data + done, in.len - done);
    return LB_OK;
}

void lb_norm_replace(const struct lb_norm *o, struct lb_bytes in, struct lb_str *out)
{
    if (!o->re) {
        replace_text(o, in, out);
        return;
    }
    struct lb_err err = LB_ERR_INIT;
    struct lb_tok_ctx c = {.match = pcre2_match_data_create(1, NULL)};
    if (!c.match)
        out->failed = true;
    else if (replace_pattern(o, &c, in, out, &err) != LB_OK)
        lb_str_put(out, in.data, in.len);
    pcre2_match_data_free(c.match);
}

static void put_lowercase(uint32_t cp, struct lb_str *out)
{
    if (cp == 0x130) { /* the one letter whose lower case is two characters (SpecialCasing.txt) */
        lb_str_puts(out, "i\xcc\x87");
        return;
    }
    lb_str_put_codepoint(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
}

/* The rules of nmt_nfkc beside NFKC: control characters vanish, other white space becomes a space. */
static void put_nmt(uint32_t cp, struct lb_str *out)
{
    static const uint32_t spaces[] = {9, 10, 12, 13, 0x1680, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD};
    if ((cp >= 1 && cp <= 8) || cp == 0xB || (cp >= 0xE && cp <= 0x1F) || cp == 0x7F || cp == 0x8F || cp == 0x9F)
        return;
    bool space = cp >= 0x200B && cp <= 0x200F;
    for (size_t i = 0; i < sizeof spaces / sizeof spaces[0]; i++)
        space = space || cp == spaces[i];
    lb_str_put_codepoint(out, space ? ' ' : cp);
}

static bool is_mark(uint32_t cp)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)cp);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
}

static void each_char(const struct lb_norm *o, struct lb_bytes in, struct lb_str *out)
{
    for (size_t i = 0; i < in.len;) {
        int len;
        uint32_t cp = lb_utf8_decode(in.data + i, in.len - i, &len);
        if (o->kind == LB_NORM_LOWERCASE)
            put_lowercase(cp, out);
        else if (o->kind == LB_NORM_NMT)
            put_nmt(cp, out);
        else if (!is_mark(cp))
            lb_str_put(out, in.data + i, (size_t)len);
        i += (size_t)len;
    }
}

static struct lb_bytes strip(const struct lb_norm *o, struct lb_bytes in)
{
    int len;
    while (o->left && in.len > 0 && lb_space_char(lb_utf8_decode(in.data, in.len, &len)))
        in = (struct lb_bytes){in.data + len, in.len - (size_t)len};
    while (o->right && in.len > 0) {
        size_t at = in.len - 1;
        while (at > 0 && ((unsigned char)in.data[at] & 0xC0) == 0x80)
            at--;
        if (!lb_space_char(lb_utf8_decode(in.data + at, in.len - at, &len)))
            break;
        in.len = at;
    }
    return in;
}

void lb_put_byte_chars(struct lb_str *out, struct lb_bytes in)
{
    for (size_t i = 0; i < in.len; i++) {
        unsigned b = (unsigned char)in.data[i];
        uint32_t cp = b <= 32                ? 256 + b
                      : b >= 127 && b <= 160 ? 256 + 33 + (b - 127)
                      : b == 173             ? 256 + 67
                                             : b; /* models.md 3.6 */
        lb_str_put_codepoint(out, cp);
    }
}

static enum lb_status run_one(const struct lb_norm *o, struct lb_tok_ctx *c, struct lb_bytes in, struct lb_str *out,
                              bool *changed, struct lb_err *err)
{
    switch (o->kind) {
    case LB_NORM_NFC:
    case LB_NORM_NFD:
    case LB_NORM_NFKC:
    case LB_NORM_NFKD:
        return lb_norm_form(c, o->kind, in, out, changed, err);
    case LB_NORM_LOWERCASE:
    case LB_NORM_STRIP_ACCENTS:
    case LB_NORM_NMT:
        each_char(o, in, out);
        return LB_OK;
    case LB_NORM_STRIP:
        in = strip(o, in);
        lb_str_put(out, in.data, in.len);
        return LB_OK;
    case LB_NORM_PREPEND:
        lb_str_put(out, o->text, in.len > 0 ? o->n_text : 0);
        lb_str_put(out, in.data, in.len);
        return LB_OK;
    case LB_NORM_REPLACE:
        if (o->re)
            return replace_pattern(o, c, in, out, err);
        replace_text(o, in, out);
        return LB_OK;
    case LB_NORM_CHARSMAP:
        lb_norm_charsmap(o, in, out);
        return LB_OK;
    case LB_NORM_BYTES:
        lb_put_byte_chars(out, in);
        return LB_OK;
    case LB_NORM_SENTENCE:
        lb_norm_sentence(o, in, out);
        return LB_OK;
    }
    return LB_OK;
}

enum lb_status lb_norm_run(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes *text, struct lb_err *err)
{
    int to = 0;
    for (int i = 0; i < t->n_norm; i++) {
        struct lb_str *out = &c->norm[to];
        bool changed = true;
        lb_str_clear(out);
        LB_TRY(run_one(&t->norm[i], c, *text, out, &changed, err));
        if (out->failed)
            return lb_err_memory(err, "a normalized text", text->len);
        if (!changed)
            continue;
        *text = (struct lb_bytes){out->data ? out->data : "", out->len};
        to ^= 1;
    }
    return LB_OK;
}
