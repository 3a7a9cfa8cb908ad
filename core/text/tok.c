/* The tokenizer's public functions: encoding whole texts, tokens and their pieces. */
#include "core/text/tok.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

/* Bounds on what one match may cost, far above what a sane pattern needs on a text of LB_TOK_MAX_TEXT. */
#define MATCH_LIMIT 20000000u
#define DEPTH_LIMIT 20000000u
#define HEAP_LIMIT_KIB (256u << 10)
#define JIT_STACK_BYTES ((size_t)64 << 20)

void lb_tok_free(struct lb_tok *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->n_step; i++)
        pcre2_code_free(t->step[i].re);
    lb_added_release(&t->raw);
    lb_added_release(&t->normalized);
    lb_added_release(&t->named);
    lb_ids_release(&t->prefix);
    lb_ids_release(&t->suffix);
    lb_str_release(&t->pool);
    lb_kind_free(t->kind);
    for (int i = 0; i < t->n_norm; i++)
        lb_norm_release(&t->norm[i]);
    lb_mem_free(t->norm);
    lb_arena_release(&t->tokens);
    lb_arena_release(&t->merges);
    lb_mem_free(t->pair);
    lb_mem_free(t->missing);
    lb_mem_free(t);
}

const char *lb_tok_missing(const struct lb_tok *t)
{
    return t->missing;
}

int64_t lb_tok_size(const struct lb_tok *t)
{
    return t->n_id;
}

int64_t lb_tok_bos(const struct lb_tok *t)
{
    return t->bos;
}

int64_t lb_tok_eos(const struct lb_tok *t)
{
    return t->eos;
}

int64_t lb_tok_pad(const struct lb_tok *t)
{
    return t->pad;
}

int64_t lb_tok_unk(const struct lb_tok *t)
{
    return t->unk_token;
}

const struct lb_ids *lb_tok_prefix(const struct lb_tok *t)
{
    return &t->prefix;
}

const struct lb_ids *lb_tok_suffix(const struct lb_tok *t)
{
    return &t->suffix;
}

int lb_tok_more_eos(const struct lb_tok *t, int64_t id[4])
{
    for (int i = 0; i < t->n_more_eos; i++)
        id[i] = t->more_eos[i];
    return t->n_more_eos;
}

enum lb_status lb_tok_set_missing(struct lb_tok *t, struct lb_err *err, const char *fmt, ...)
{
    char text[256];
    if (t->missing)
        return LB_OK;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    t->missing = lb_mem_strdup(text);
    return t->missing ? LB_OK : lb_err_memory(err, "a tokenizer", sizeof text);
}

const char *lb_tok_shown(struct lb_str *scratch, const char *text, size_t n)
{
    const size_t most = 60;
    lb_str_clear(scratch);
    if (n > most) {
        n = most;
        while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80)
            n--;
        lb_str_put_json(scratch, text, n);
        lb_str_puts(scratch, "...");
    } else {
        lb_str_put_json(scratch, text, n);
    }
    return scratch->failed ? "?" : scratch->data;
}

enum lb_status lb_tok_ctx_new(struct lb_tok_ctx **out, const struct lb_tok *t, struct lb_err *err)
{
    *out = NULL;
    struct lb_tok_ctx *c = lb_mem_new(1, sizeof *c);
    if (!c)
        return lb_err_memory(err, "a tokenizer context", sizeof *c);
    bool any_jit = false;
    for (int i = 0; i < t->n_step; i++)
        any_jit = any_jit || t->step[i].jit;
    for (int i = 0; i < t->n_norm; i++)
        any_jit = any_jit || t->norm[i].re;
    c->match = pcre2_match_data_create(1, NULL);
    c->limits = pcre2_match_context_create(NULL);
    if (any_jit)
        c->stack = pcre2_jit_stack_create((size_t)64 << 10, JIT_STACK_BYTES, NULL);
    if (!c->match || !c->limits || (any_jit && !c->stack)) {
        lb_tok_ctx_free(c);
        return lb_err_memory(err, "a tokenizer context", JIT_STACK_BYTES);
    }
    pcre2_set_match_limit(c->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(c->limits, DEPTH_LIMIT);
    pcre2_set_heap_limit(c->limits, HEAP_LIMIT_KIB);
    if (c->stack)
        pcre2_jit_stack_assign(c->limits, NULL, c->stack);
    *out = c;
    return LB_OK;
}

void lb_tok_ctx_free(struct lb_tok_ctx *c)
{
    if (!c)
        return;
    pcre2_match_data_free(c->match);
    pcre2_match_context_free(c->limits);
    pcre2_jit_stack_free(c->stack);
    for (int i = 0; i < LB_TOK_MAX_STEP; i++)
        lb_str_release(&c->spaced[i]);
    lb_str_release(&c->norm[0]);
    lb_str_release(&c->norm[1]);
    lb_mem_free(c->path);
    lb_mem_free(c->code);
    lb_mem_free(c->symbol);
    lb_mem_free(c->heap);
    lb_arena_release(&c->words.memory);
    lb_mem_free(c);
}

void lb_ids_release(struct lb_ids *ids)
{
    lb_mem_free(ids->id);
    *ids = (struct lb_ids){0};
}

struct encoder {
    const struct lb_tok *t;
    struct lb_tok_ctx *c;
    struct lb_ids *out;
};

static enum lb_status put_normalized(void *arg, int32_t id, const char *text, size_t n, struct lb_err *err)
{
    struct encoder *e = arg;
    if (id >= 0)
        return lb_ids_put(e->out, id, err);
    return lb_split_walk(e->t, e->c, 0, (struct lb_bytes){text, n}, e->out, err);
}

static enum lb_status put_raw(void *arg, int32_t id, const char *text, size_t n, struct lb_err *err)
{
    struct encoder *e = arg;
    if (id >= 0)
        return lb_ids_put(e->out, id, err);
    struct lb_bytes piece = {text, n};
    LB_TRY(lb_norm_run(e->t, e->c, &piece, err));
    e->c->first = text == e->c->first ? piece.data : NULL;
    struct lb_added_sink sink = {put_normalized, e, e->t->split_special};
    return lb_added_split(&e->t->normalized, piece.data, piece.len, &sink, err);
}

static enum lb_status put_all(const struct lb_ids *from, struct lb_ids *out, struct lb_err *err)
{
    for (size_t i = 0; i < from->n; i++)
        LB_TRY(lb_ids_put(out, from->id[i], err));
    return LB_OK;
}

/* Does the text's own beginning, ids [0, n), hold the prefix or its BOS already? */
static bool begins_with_prefix(const struct lb_tok *t, const int32_t *id, size_t n)
{
    if (t->prefix.n == 0)
        return false;
    if (t->bos >= 0 && t->prefix.id[0] == t->bos && id[0] == t->bos)
        return true;
    return n >= t->prefix.n && memcmp(id, t->prefix.id, t->prefix.n * sizeof *id) == 0;
}

static enum lb_status encode(const struct encoder *e, struct lb_bytes text, enum lb_tok_add add, bool *doubled,
                             struct lb_err *err)
{
    const struct lb_tok *t = e->t;
    struct lb_ids *out = e->out;
    struct encoder own = *e;
    if (add == LB_TOK_AUTO)
        LB_TRY(put_all(&t->prefix, out, err));
    else if (add == LB_TOK_BOS && t->bos >= 0)
        LB_TRY(lb_ids_put(out, (int32_t)t->bos, err));
    size_t body = out->n;
    struct lb_added_sink sink = {put_raw, &own, t->split_special};
    LB_TRY(lb_added_split(&t->raw, text.data, text.len, &sink, err));
    if (add != LB_TOK_AUTO)
        return LB_OK;
    if (out->n > body && begins_with_prefix(t, out->id + body, out->n - body)) {
        memmove(out->id + body - t->prefix.n, out->id + body, (out->n - body) * sizeof *out->id);
        out->n -= t->prefix.n;
        *doubled = true;
    }
    return put_all(&t->suffix, out, err);
}

enum lb_status lb_tok_encode(const struct lb_tok *t, struct lb_tok_ctx *c, const char *text, size_t n,
                             enum lb_tok_add add, struct lb_ids *out, bool *doubled, struct lb_err *err)
{
    bool unused;
    if (!doubled)
        doubled = &unused;
    *doubled = false;
    if (t->missing)
        return lb_err_set(err, LB_E_INPUT, "cannot tokenize text: the model's tokenizer is of a kind not built in: %s",
                          t->missing);
    if (n > LB_TOK_MAX_TEXT)
        return lb_err_set(err, LB_E_INPUT, "cannot tokenize a text of %zu bytes: more than %zu", n, LB_TOK_MAX_TEXT);
    size_t valid = lb_utf8_valid_prefix(text, n);
    if (valid != n)
        return lb_err_set(err, LB_E_INPUT, "cannot tokenize text: not valid UTF-8 at byte %zu", valid);
    size_t from = out->n;
    struct encoder e = {t, c, out};
    c->first = text;
    enum lb_status status = encode(&e, (struct lb_bytes){text, n}, add, doubled, err);
    if (status != LB_OK)
        out->n = from;
    return status;
}

static const struct lb_token *token_of(const struct lb_tok *t, int32_t id)
{
    if (id < 0 || id >= t->n_id || !t->token || !(t->token[id].flags & LB_TOKEN_PRESENT))
        return NULL;
    return &t->token[id];
}

struct lb_bytes lb_tok_piece(const struct lb_tok *t, int32_t id)
{
    const struct lb_token *k = token_of(t, id);
    if (k && t->kind)
        return lb_kind_piece(t, id);
    return k && k->len > 0 ? (struct lb_bytes){t->pool.data + k->at, k->len} : (struct lb_bytes){"", 0};
}

bool lb_tok_special(const struct lb_tok *t, int32_t id)
{
    const struct lb_token *k = token_of(t, id);
    return k && (k->flags & LB_TOKEN_SPECIAL);
}

struct lb_bytes lb_tok_token_text(const struct lb_tok *t, int64_t id)
{
    for (size_t i = 0; i < t->named.n; i++)
        if (t->named.item[i].id == id)
            return (struct lb_bytes){t->named.item[i].text, t->named.item[i].len};
    const struct lb_token *k = id >= 0 && id < t->n_id ? token_of(t, (int32_t)id) : NULL;
    return k && k->len > 0 ? (struct lb_bytes){t->pool.data + k->at, k->len} : (struct lb_bytes){"", 0};
}

int64_t lb_tok_id(const struct lb_tok *t, const char *content, size_t n)
{
    const struct lb_added *a = lb_added_find(&t->named, content, n);
    return a ? a->id : -1;
}
