/* Tokenizers of GGUF files, from the neutral vocabulary (models.md 2.2.5). */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

static bool is(struct lb_bytes b, const char *text)
{
    return b.len == strlen(text) && memcmp(b.data, text, b.len) == 0;
}

/* An id that the file names, or -1: one outside the vocabulary can never be met. */
static int64_t named_id(const struct lb_vocab *v, int64_t id)
{
    return id >= 0 && (uint64_t)id < v->n_token ? id : -1;
}

static void take_ids(struct lb_tok *t, const struct lb_vocab *v)
{
    const int64_t more[2] = {named_id(v, v->eot), named_id(v, v->eom)};
    t->n_id = (int64_t)v->n_token;
    t->bos = named_id(v, v->bos);
    t->eos = named_id(v, v->eos);
    t->pad = named_id(v, v->pad);
    t->unk_token = named_id(v, v->unk);
    for (int i = 0; i < 2; i++)
        if (more[i] >= 0 && more[i] != t->eos && (t->n_more_eos == 0 || more[i] != t->more_eos[0]))
            t->more_eos[t->n_more_eos++] = more[i];
}

static int type_of(const struct lb_tok *t, const struct lb_vocab *v, size_t id)
{
    int64_t i = (int64_t)id;
    if (v->type)
        return v->type[id];
    if (i == t->bos || i == t->eos || i == t->pad || i == named_id(v, v->eot) || i == named_id(v, v->eom))
        return LB_VOCAB_CONTROL;
    return LB_VOCAB_NORMAL;
}

static enum lb_status add_token(struct lb_tok *t, int32_t id, struct lb_bytes text, struct lb_str *raw,
                                struct lb_err *err)
{
    lb_str_clear(raw);
    uint32_t flags = lb_tok_unmap(text.data, text.len, raw) ? 0 : LB_TOKEN_PLAIN;
    if (raw->failed)
        return lb_err_memory(err, "a token", text.len);
    lb_tok_set(t, id, raw->data ? raw->data : "", raw->len, flags, true);
    return LB_OK;
}

/* A control, user-defined or unknown token: written as it is, looked for in text. It is findable by its bytes where no
 * ordinary token has them, for merges that name it. */
static enum lb_status add_added(struct lb_tok *t, int32_t id, struct lb_bytes text, bool special, struct lb_err *err)
{
    struct lb_added a = {.text = (char *)(uintptr_t)text.data, .len = text.len, .id = id, .special = special};
    bool listed = lb_tok_find(t, text.data, text.len, false) < 0;
    lb_tok_set(t, id, text.data, text.len, special ? LB_TOKEN_SPECIAL : 0, listed);
    LB_TRY(lb_added_put(&t->named, &a, err));
    return lb_added_put(&t->raw, &a, err);
}

static enum lb_status add_tokens(struct lb_tok *t, const struct lb_vocab *v, struct lb_err *err)
{
    struct lb_str raw = {0};
    enum lb_status status = LB_OK;
    for (size_t i = 0; i < v->n_token && status == LB_OK; i++) {
        int type = type_of(t, v, i);
        if (v->token[i].len > INT32_MAX)
            status = lb_err_set(err, LB_E_INPUT, "tokenizer.ggml.tokens[%zu] is too long", i);
        else if (type == LB_VOCAB_NORMAL || type == LB_VOCAB_BYTE)
            status = add_token(t, (int32_t)i, v->token[i], &raw, err);
    }
    for (size_t i = 0; i < v->n_token && status == LB_OK; i++) {
        int type = type_of(t, v, i);
        if (type == LB_VOCAB_CONTROL || type == LB_VOCAB_USER || type == LB_VOCAB_UNKNOWN)
            status = add_added(t, (int32_t)i, v->token[i], type != LB_VOCAB_USER, err);
    }
    lb_str_release(&raw);
    if (status == LB_OK && t->pool.failed)
        status = lb_err_memory(err, "the vocabulary", t->pool.len);
    return status;
}

static enum lb_status add_merges(struct lb_tok *t, const struct lb_vocab *v, struct lb_err *err)
{
    struct lb_str text = {0};
    enum lb_status status = LB_OK;
    for (size_t i = 0; i < v->n_merge && status == LB_OK; i++) {
        struct lb_bytes m = v->merge[i];
        const char *space = m.len > 2 ? memchr(m.data + 1, ' ', m.len - 2) : NULL;
        struct lb_bytes left = {m.data, space ? (size_t)(space - m.data) : 0};
        struct lb_bytes right = {space ? space + 1 : m.data, space ? m.len - left.len - 1 : 0};
        if (space && lb_tok_add_merge(t, left, right, (uint32_t)i, &text))
            continue;
        status = lb_err_set(err, LB_E_INPUT, "tokenizer.ggml.merges[%zu] %s %s", i, lb_tok_shown(&text, m.data, m.len),
                            space ? "names a token that tokenizer.ggml.tokens lacks"
                                  : "is not two tokens with a space between");
    }
    lb_str_release(&text);
    return status;
}

static enum lb_status add_patterns(struct lb_tok *t, const struct lb_pre_kind *kind, struct lb_err *err)
{
    const char *unsupported;
    for (int i = 0; i < LB_PRE_PATTERNS && kind->pattern[i]; i++)
        LB_TRY(lb_split_add(t, kind->pattern[i], false, LB_SPLIT_ISOLATED, false, &unsupported, err));
    return LB_OK;
}

/* SentencePiece BPE as llama.cpp has it: every text between tokens gets a space in front, none is taken away. */
static enum lb_status fill_llama(struct lb_tok *t, const struct lb_vocab *v, struct lb_err *err)
{
    bool control[3] = {false, false, false}; /* <s> and </s>, where a file does not name them */
    for (size_t i = 1; i < 3 && v->type && i < v->n_token; i++)
        control[i] = v->type[i] == LB_VOCAB_CONTROL;
    if (v->bos < 0 && control[1])
        t->bos = 1;
    if (v->eos < 0 && control[2])
        t->eos = 2;
    struct lb_sentence_spec spec = {.byte_fallback = true, .user_added = true};
    spec.norm = (struct lb_norm){.kind = LB_NORM_SENTENCE, .dummy_prefix = v->add_space_prefix != 0, .escape = true};
    enum lb_status status = lb_sentence_build(t, v, &spec, err);
    lb_norm_release(&spec.norm);
    LB_TRY(status);
    if (t->unk_token < 0)
        t->unk_token = t->unk;
    lb_added_sort(&t->raw);
    lb_added_sort(&t->named);
    LB_TRY(lb_kind_finish(t, err));
    if (v->add_bos != 0 && t->bos >= 0)
        return lb_ids_put(&t->prefix, (int32_t)t->bos, err);
    return LB_OK;
}

static enum lb_status fill(struct lb_tok *t, const struct lb_vocab *v, struct lb_err *err)
{
    struct lb_str shown = {0};
    const struct lb_pre_kind *kind = lb_pre_find(v->pre);
    enum lb_status status;
    if (v->n_token >= LB_TOK_MAX_ID || v->n_merge >= INT32_MAX)
        return lb_err_set(err, LB_E_INPUT, "%zu tokens and %zu merges are more than a tokenizer may have", v->n_token,
                          v->n_merge);
    take_ids(t, v);
    if (v->model.len == 0)
        return lb_tok_set_missing(t, err, "no tokenizer in the GGUF file");
    if (is(v->model, "llama"))
        return fill_llama(t, v, err);
    if (!is(v->model, "gpt2")) {
        status = lb_tok_set_missing(t, err, "GGUF tokenizer %s", lb_tok_shown(&shown, v->model.data, v->model.len));
        goto out;
    }
    if (!kind) {
        status = lb_tok_set_missing(t, err, "GGUF pre-tokenizer %s", lb_tok_shown(&shown, v->pre.data, v->pre.len));
        goto out;
    }
    if (v->n_token == 0)
        return lb_err_set(err, LB_E_INPUT, "tokenizer.ggml.tokens is empty");
    LB_TRY_OUT(status, lb_tok_reserve(t, t->n_id, v->n_token, v->n_merge, err));
    t->ignore_merges = kind->ignore_merges;
    struct lb_norm nfc = {.kind = LB_NORM_NFC};
    if (kind->nfc)
        LB_TRY_OUT(status, lb_norm_add(t, &nfc, err));
    LB_TRY_OUT(status, add_tokens(t, v, err));
    LB_TRY_OUT(status, add_merges(t, v, err));
    LB_TRY_OUT(status, add_patterns(t, kind, err));
    lb_tok_find_bytes(t);
    lb_added_sort(&t->raw);
    lb_added_sort(&t->named);
    if ((v->add_bos < 0 ? kind->add_bos : v->add_bos != 0) && t->bos >= 0)
        status = lb_ids_put(&t->prefix, (int32_t)t->bos, err);
out:
    lb_str_release(&shown);
    return status;
}

enum lb_status lb_tok_open_vocab(struct lb_tok **out, const struct lb_vocab *v, struct lb_err *err)
{
    *out = NULL;
    struct lb_tok *t = lb_mem_new(1, sizeof *t);
    if (!t)
        return lb_err_memory(err, "a tokenizer", sizeof *t);
    t->bos = t->eos = t->pad = t->unk_token = -1;
    t->unk = -1;
    enum lb_status status = fill(t, v, err);
    if (status != LB_OK) {
        lb_tok_free(t);
        return lb_err_where(err, "cannot use the GGUF file's tokenizer");
    }
    *out = t;
    return LB_OK;
}
