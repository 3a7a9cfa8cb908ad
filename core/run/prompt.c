#include "core/run/prompt.h"

#include <string.h>

#include "core/base/mem.h"

#define MAX_BEGINNING 8

struct lb_prompt_ctx {
    const struct lb_prompter *p;
    struct lb_tok_ctx *tok;
    struct lb_jinja_ctx *jinja;
    struct lb_ids ids;
    struct lb_str text;
    int32_t begin[MAX_BEGINNING]; /* [n_begin] */
    size_t n_begin;
    bool adds; /* the tokenizer adds it to raw text */
};

size_t lb_prompt_beginning(const struct lb_tok *tok, int32_t *id, size_t cap)
{
    static const char *const glm[2] = {"[gMASK]", "<sop>"};
    if (lb_tok_missing(tok))
        return 0;
    const struct lb_ids *prefix = lb_tok_prefix(tok);
    size_t n = prefix->n < cap ? prefix->n : cap;
    if (n)
        memcpy(id, prefix->id, n * sizeof *id);
    for (size_t i = 0; prefix->n == 0 && i < 2 && n < cap; i++) {
        int64_t found = lb_tok_id(tok, glm[i], strlen(glm[i]));
        if (found < 0)
            return 0;
        id[n++] = (int32_t)found;
    }
    return n;
}

void lb_prompt_put_ids(const struct lb_tok *tok, const int32_t *id, size_t n, struct lb_str *out)
{
    for (size_t i = 0; i < n; i++) {
        struct lb_bytes t = lb_tok_token_text(tok, id[i]);
        lb_str_put_utf8_lossy(out, t.data, t.len);
    }
}

enum lb_status lb_prompt_ctx_new(struct lb_prompt_ctx **out, const struct lb_prompter *p, struct lb_err *err)
{
    struct lb_prompt_ctx *c = *out = lb_mem_new(1, sizeof *c);
    if (!c)
        return lb_err_memory(err, "a prompt", sizeof *c);
    c->p = p;
    enum lb_status status = LB_OK;
    if (!lb_tok_missing(p->tok)) {
        status = lb_tok_ctx_new(&c->tok, p->tok, err);
        c->n_begin = lb_prompt_beginning(p->tok, c->begin, MAX_BEGINNING);
        c->adds = lb_tok_prefix(p->tok)->n > 0;
    }
    if (status == LB_OK && p->chat)
        status = lb_jinja_ctx_new(&c->jinja, err);
    if (status != LB_OK) {
        lb_prompt_ctx_free(c);
        *out = NULL;
    }
    return status;
}

void lb_prompt_ctx_free(struct lb_prompt_ctx *c)
{
    if (!c)
        return;
    lb_tok_ctx_free(c->tok);
    lb_jinja_ctx_free(c->jinja);
    lb_ids_release(&c->ids);
    lb_str_release(&c->text);
    lb_mem_free(c);
}

/* ---- raw text ---- */

/* Bytes at the start of text that write the beginning with spaces inside, 0 when none are or it is written as tokens
 * are, which the tokenizer finds itself. */
static size_t spaced_beginning(const struct lb_prompt_ctx *c, const char *text, size_t n)
{
    size_t at = 0;
    bool spaced = false;
    if (!c->adds || c->n_begin < 2)
        return 0;
    for (size_t i = 0; i < c->n_begin; i++) {
        struct lb_bytes t = lb_tok_token_text(c->p->tok, c->begin[i]);
        while (i > 0 && at < n && text[at] == ' ') {
            spaced = true;
            at++;
        }
        if (t.len == 0 || t.len > n - at || memcmp(text + at, t.data, t.len) != 0)
            return 0;
        at += t.len;
    }
    return spaced ? at : 0;
}

static bool begins(const struct lb_prompt_ctx *c, const int32_t *id, size_t n)
{
    return c->n_begin > 0 && n >= c->n_begin && memcmp(id, c->begin, c->n_begin * sizeof *id) == 0;
}

static bool has_special(const struct lb_tok *tok, const int32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (lb_tok_special(tok, id[i]))
            return true;
    return false;
}

/* The piece of the last id is spaces alone: the word that follows would have begun with one. */
static bool ends_in_space(const struct lb_prompt_ctx *c, const char *text, size_t n)
{
    if (n == 0 || text[n - 1] != ' ' || c->ids.n == 0)
        return false;
    struct lb_bytes piece = lb_tok_piece(c->p->tok, c->ids.id[c->ids.n - 1]);
    for (size_t i = 0; i < piece.len; i++)
        if (piece.data[i] != ' ')
            return false;
    return true;
}

static enum lb_status make_raw(struct lb_prompt_ctx *c, struct lb_row *row, struct lb_prompt *out, struct lb_err *err)
{
    const struct lb_prompter *p = c->p;
    const char *text = row->text ? row->text : "";
    size_t n = row->n_text, skip = p->add == LB_TOK_AUTO ? spaced_beginning(c, text, n) : 0;
    bool doubled = false;
    out->text = text;
    out->n_text = n;
    LB_TRY(lb_tok_encode(p->tok, c->tok, text + skip, n - skip, p->add, &c->ids, &doubled, err));
    bool begun = begins(c, c->ids.id, c->ids.n);
    size_t own = begun ? c->n_begin : 0;
    if (doubled || skip)
        out->notes |= LB_NOTE_BEGUN;
    /* a BOS that --add-bos no leaves out is not missed */
    if (!begun && c->n_begin && p->add != LB_TOK_PLAIN)
        out->notes |= LB_NOTE_NOT_BEGUN;
    if (ends_in_space(c, text, n))
        out->notes |= LB_NOTE_SPACE;
    if (p->chat && lb_chat_source(p->chat) && !lb_chat_built_in(p->chat) && c->ids.n > own &&
        !has_special(p->tok, c->ids.id + own, c->ids.n - own))
        out->notes |= LB_NOTE_RAW;
    return LB_OK;
}

/* ---- conversations ---- */

static enum lb_status make_chat(struct lb_prompt_ctx *c, struct lb_row *row, struct lb_prompt *out, struct lb_err *err)
{
    const struct lb_prompter *p = c->p;
    struct lb_err why = LB_ERR_INIT;
    struct lb_chat_row chat = {.messages = row->chat.messages,
                               .tools = row->chat.tools,
                               .documents = row->chat.documents,
                               .kwargs = row->chat.kwargs,
                               .add_generation_prompt = row->chat.add_generation_prompt,
                               .continue_final_message = row->chat.continue_final_message,
                               .api = row->api == LB_API_CHAT};
    if (!p->chat) {
        lb_row_fail(row, LB_ROW_BAD_TEMPLATE, "the model has no chat template; --chat-template FILE gives one");
        return LB_OK;
    }
    lb_str_clear(&c->text);
    enum lb_status status = lb_chat_render(p->chat, c->jinja, &chat, &c->text, &why);
    if (status == LB_E_INPUT) {
        lb_row_fail(row, LB_ROW_BAD_TEMPLATE, "%s", why.text);
        return LB_OK;
    }
    if (status != LB_OK)
        return lb_err_set(err, status, "%s", why.text);
    out->text = c->text.data ? c->text.data : "";
    out->n_text = c->text.len;
    out->notes |= LB_NOTE_CHAT;
    if (chat.tools && !lb_chat_names(p->chat, true, "tools"))
        out->notes |= LB_NOTE_TOOLS;
    LB_TRY(lb_tok_encode(p->tok, c->tok, out->text, out->n_text, LB_TOK_PLAIN, &c->ids, NULL, err));
    if (c->n_begin && !begins(c, c->ids.id, c->ids.n))
        out->notes |= LB_NOTE_NOT_BEGUN;
    return LB_OK;
}

enum lb_status lb_prompt_make(struct lb_prompt_ctx *c, struct lb_row *row, struct lb_prompt *out, struct lb_err *err)
{
    const char *missing = lb_tok_missing(c->p->tok);
    *out = (struct lb_prompt){0};
    c->ids.n = 0;
    if (row->form != LB_FORM_IDS && missing) {
        lb_row_fail(row, LB_ROW_UNSUPPORTED, "the model's tokenizer (%s) is not built in: give prompt_token_ids",
                    missing);
        return LB_OK;
    }
    if (row->form == LB_FORM_TEXT)
        LB_TRY(make_raw(c, row, out, err));
    else if (row->form == LB_FORM_CHAT)
        LB_TRY(make_chat(c, row, out, err));
    if (row->code != LB_ROW_OK)
        return LB_OK;
    out->id = row->form == LB_FORM_IDS ? row->ids : c->ids.id;
    out->n = row->form == LB_FORM_IDS ? row->n_ids : c->ids.n;
    out->n_begin = begins(c, out->id, out->n) ? c->n_begin : 0;
    if (out->n_begin && begins(c, out->id + c->n_begin, out->n - c->n_begin))
        out->notes |= LB_NOTE_TWICE;
    return LB_OK;
}
