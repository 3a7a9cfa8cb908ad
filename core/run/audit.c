#include "core/run/audit.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

#define MAX_BEGINNING 8

const char *lb_severity_name(enum lb_severity s)
{
    static const char *const names[] = {[LB_HARMLESS] = "info", [LB_NOTED] = "note", [LB_CHANGES] = "warn"};
    return names[s];
}

void lb_audit_init(struct lb_audit *a, enum lb_audit_mode mode, const struct lb_log *log)
{
    *a = (struct lb_audit){.mode = mode, .log = log};
    pthread_mutex_init(&a->mutex, NULL);
}

void lb_audit_release(struct lb_audit *a)
{
    for (int i = 0; i < a->n; i++)
        lb_mem_free(a->item[i].message);
    a->n = 0;
    pthread_mutex_destroy(&a->mutex);
}

bool lb_audit_said(const struct lb_audit *a, const struct lb_finding *f)
{
    return a->chats || !f->of_chats;
}

static void say(const struct lb_audit *a, const struct lb_finding *f)
{
    lb_log_put(a->log, f->severity == LB_HARMLESS ? LB_LOG_INFO : LB_LOG_WARN, "audit: %s: %s", f->code, f->message);
}

/* Says a finding when it is its time, and keeps it. */
static enum lb_status keep(struct lb_audit *a, struct lb_finding f, struct lb_err *err)
{
    bool refused = a->mode == LB_AUDIT_ERROR && f.severity == LB_CHANGES;
    if (refused)
        lb_err_set(err, LB_E_USAGE, "--audit error: %s: %s", f.code, f.message);
    else if (lb_audit_said(a, &f))
        say(a, &f);
    f.message = lb_mem_strdup(f.message);
    if (!f.message)
        return lb_err_memory(err, "a finding", 64);
    f.of_chats = f.of_chats && !refused;
    if (a->n < LB_MAX_FINDING)
        a->item[a->n++] = f;
    else
        lb_mem_free(f.message);
    return refused ? LB_E_USAGE : LB_OK;
}

enum lb_status lb_audit_row(struct lb_audit *a, const char *code, enum lb_severity severity, struct lb_err *err,
                            const char *fmt, ...)
{
    char text[512];
    enum lb_status status = LB_OK;
    if (a->mode == LB_AUDIT_OFF)
        return LB_OK;
    pthread_mutex_lock(&a->mutex);
    int i = 0;
    while (i < a->n && (a->item[i].count == 0 || strcmp(a->item[i].code, code) != 0))
        i++;
    if (i < a->n) {
        a->item[i].count++;
    } else {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        status = keep(a, (struct lb_finding){.code = code, .severity = severity, .message = text, .count = 1}, err);
    }
    pthread_mutex_unlock(&a->mutex);
    return status;
}

/* ---- the model ---- */

struct probe {
    struct lb_audit *a;
    const struct lb_audit_spec *spec;
    struct lb_tok_ctx *tok;
    struct lb_jinja_ctx *jinja;
    struct lb_str text;
    struct lb_ids ids;
    struct lb_err *err;
};

__attribute__((format(printf, 4, 5))) static enum lb_status found(struct probe *p, const char *code,
                                                                  enum lb_severity severity, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct lb_finding f = {.code = code, .severity = severity, .message = text, .of_chats = p->text.len > 0};
    return keep(p->a, f, p->err);
}

/* What is written for ids, short enough for a message. */
static const char *shown(const struct lb_tok *tok, const int32_t *id, size_t n, char buf[static 96])
{
    struct lb_str s = {0};
    lb_prompt_put_ids(tok, id, n, &s);
    snprintf(buf, 96, "%.80s", s.failed || !s.data ? "?" : s.data);
    buf[lb_utf8_valid_prefix(buf, strlen(buf))] = 0;
    for (char *c = buf; *c; c++)
        if (iscntrl((unsigned char)*c))
            *c = ' ';
    lb_str_release(&s);
    return buf;
}

static bool ends_text(const struct lb_config *c, int64_t id)
{
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i].id == id)
            return true;
    return false;
}

static enum lb_status check_vocabulary(struct probe *p)
{
    const struct lb_tok *tok = p->spec->tok;
    const struct lb_config *c = p->spec->config;
    int64_t n = lb_tok_size(tok);
    if (!c || lb_tok_missing(tok))
        return LB_OK;
    if (n > c->n_vocab)
        return found(p, "vocab_larger", LB_CHANGES,
                     "the tokenizer has %lld tokens, the model %lld: ids from %lld on have no embedding, and rows that "
                     "hold one fail as bad_token",
                     (long long)n, (long long)c->n_vocab, (long long)c->n_vocab);
    if (n < c->n_vocab)
        return found(p, "vocab_padded", LB_HARMLESS,
                     "the model has %lld ids, the tokenizer %lld: ids from %lld on have no token and decode to nothing",
                     (long long)c->n_vocab, (long long)n, (long long)n);
    return LB_OK;
}

static enum lb_status check_pad(struct probe *p)
{
    char buf[96];
    const struct lb_tok *tok = p->spec->tok;
    const struct lb_config *c = p->spec->config;
    int64_t pad = c && c->pad >= 0 ? c->pad : lb_tok_pad(tok);
    int32_t id = (int32_t)pad;
    if (pad < 0 || (c ? !ends_text(c, pad) : pad != lb_tok_eos(tok)))
        return LB_OK;
    return found(p, "pad_is_end", LB_HARMLESS,
                 "the pad token %s (%lld) is an end token too: harmless here, where nothing is padded and lengths, not "
                 "ids, say where a text ends",
                 shown(tok, &id, 1, buf), (long long)pad);
}

static bool begins_with(const struct lb_ids *ids, const int32_t *id, size_t n)
{
    return n > 0 && ids->n >= n && memcmp(ids->id, id, n * sizeof *id) == 0;
}

/* A rendered chat against the beginning that the tokenizer would give a text. */
static enum lb_status check_beginning(struct probe *p)
{
    char buf[96];
    int32_t begin[MAX_BEGINNING];
    const struct lb_tok *tok = p->spec->tok;
    const char *source = lb_chat_source(p->spec->chat);
    size_t n = lb_prompt_beginning(tok, begin, MAX_BEGINNING);
    bool adds = lb_tok_prefix(tok)->n > 0;
    if (n == 0)
        return LB_OK;
    shown(tok, begin, n, buf);
    if (!begins_with(&p->ids, begin, n))
        return found(p, "beginning_missing", LB_CHANGES,
                     "the chat template (%s) does not write %s, which %s: chats are run without it, as transformers "
                     "does",
                     source, buf, adds ? "the tokenizer puts before a text" : "the model knows as a text's beginning");
    struct lb_ids rest = {.id = p->ids.id + n, .n = p->ids.n - n};
    if (begins_with(&rest, begin, n))
        return found(p, "beginning_twice", LB_CHANGES, "the chat template (%s) itself writes %s twice: it is kept so",
                     source, buf);
    if (adds)
        return found(p, "beginning_twice", LB_HARMLESS,
                     "the chat template (%s) writes %s and the tokenizer adds it too: harmless here, where nothing is "
                     "added to a rendered chat",
                     source, buf);
    return LB_OK;
}

static bool blank(struct lb_bytes s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!isspace((unsigned char)s.data[i]))
            return false;
    return true;
}

/* The first special token behind the assistant's text, when only white space is between. */
static enum lb_status check_end(struct probe *p, const char *answer)
{
    char buf[96];
    const struct lb_tok *tok = p->spec->tok;
    const struct lb_config *c = p->spec->config;
    const char *at = strstr(p->text.data, answer);
    if (!at || !c)
        return LB_OK;
    at += strlen(answer);
    p->ids.n = 0;
    LB_TRY(lb_tok_encode(tok, p->tok, at, strlen(at), LB_TOK_PLAIN, &p->ids, NULL, p->err));
    size_t i = 0;
    while (i < p->ids.n && !lb_tok_special(tok, p->ids.id[i]) && blank(lb_tok_piece(tok, p->ids.id[i])))
        i++;
    if (i == p->ids.n || !lb_tok_special(tok, p->ids.id[i]))
        return LB_OK;
    int32_t id = p->ids.id[i];
    if (id == lb_tok_bos(tok) || ends_text(c, id))
        return LB_OK;
    return found(p, "end_token", LB_CHANGES,
                 "the chat template (%s) puts %s (%d) after an answer, but neither generation_config.json nor "
                 "config.json nor the tokenizer lists it as an end token: answers may run on; --stop-token-ids %d ends "
                 "them there",
                 lb_chat_source(p->spec->chat), shown(tok, &id, 1, buf), id, id);
}

/* Length of what looks like a special token ("<|im_end|>", with letters, digits, _, -, . inside) at s, or 0. */
static size_t token_like(const char *s)
{
    size_t n = 2;
    if (s[0] != '<' || s[1] != '|')
        return 0;
    while (isalnum((unsigned char)s[n]) || (s[n] && strchr("_-.", s[n])))
        n++;
    return n > 2 && s[n] == '|' && s[n + 1] == '>' ? n + 2 : 0;
}

/* Names in the rendered text that look like special tokens and are cut into pieces. */
static enum lb_status check_tokens(struct probe *p)
{
    const struct lb_tok *tok = p->spec->tok;
    for (const char *s = p->text.data; *s; s++) {
        size_t n = token_like(s);
        if (n == 0 || n > 80)
            continue;
        p->ids.n = 0;
        LB_TRY(lb_tok_encode(tok, p->tok, s, n, LB_TOK_PLAIN, &p->ids, NULL, p->err));
        if (p->ids.n > 1)
            return found(p, "token_split", LB_CHANGES,
                         "the chat template (%s) writes %.*s, which is no token of the tokenizer: it is cut into %zu "
                         "pieces; template and tokenizer are not of one model",
                         lb_chat_source(p->spec->chat), (int)n, s, p->ids.n);
    }
    return LB_OK;
}

static enum lb_status check_template(struct probe *p)
{
    static const char answer[] = "Lbanswer";
    static const struct lb_chat_turn turns[] = {{"user", "Lbask"}, {"assistant", answer}, {"user", "Lbgoon"}};
    struct lb_err why = LB_ERR_INIT;
    const struct lb_audit_spec *spec = p->spec;
    if (!spec->chat || !lb_chat_source(spec->chat) || lb_tok_missing(spec->tok))
        return LB_OK;
    LB_TRY(lb_tok_ctx_new(&p->tok, spec->tok, p->err));
    LB_TRY(lb_jinja_ctx_new(&p->jinja, p->err));
    /* a template that fails fails the rows that need it */
    if (lb_chat_render_turns(spec->chat, p->jinja, turns, 3, true, &p->text, &why) != LB_OK || !p->text.data)
        return why.status == LB_E_DEVICE ? lb_err_set(p->err, why.status, "%s", why.text) : LB_OK;
    LB_TRY(lb_tok_encode(spec->tok, p->tok, p->text.data, p->text.len, LB_TOK_PLAIN, &p->ids, NULL, p->err));
    LB_TRY(check_beginning(p));
    LB_TRY(check_end(p, answer));
    return check_tokens(p);
}

enum lb_status lb_audit_model(struct lb_audit *a, const struct lb_audit_spec *spec, struct lb_err *err)
{
    struct probe p = {.a = a, .spec = spec, .err = err};
    if (a->mode == LB_AUDIT_OFF)
        return LB_OK;
    pthread_mutex_lock(&a->mutex);
    enum lb_status status = check_vocabulary(&p);
    if (status == LB_OK)
        status = check_pad(&p);
    if (status == LB_OK)
        status = check_template(&p);
    pthread_mutex_unlock(&a->mutex);
    lb_tok_ctx_free(p.tok);
    lb_jinja_ctx_free(p.jinja);
    lb_str_release(&p.text);
    lb_ids_release(&p.ids);
    return status;
}

/* ---- rows ---- */

/* What was found of conversations, when the first one comes. */
static void say_of_chats(struct lb_audit *a)
{
    pthread_mutex_lock(&a->mutex);
    for (int i = 0; i < a->n && !a->chats; i++)
        if (a->item[i].of_chats)
            say(a, &a->item[i]);
    a->chats = true;
    pthread_mutex_unlock(&a->mutex);
}

static bool has(struct lb_audit *a, const char *code)
{
    bool found = false;
    pthread_mutex_lock(&a->mutex);
    for (int i = 0; i < a->n; i++)
        found = found || strcmp(a->item[i].code, code) == 0;
    pthread_mutex_unlock(&a->mutex);
    return found;
}

static enum lb_status audit_chat(struct lb_audit *a, const struct lb_prompter *p, int64_t index,
                                 const struct lb_prompt *made, const char *begin, struct lb_err *err)
{
    const char *source = lb_chat_source(p->chat);
    long long row = (long long)index;
    if (lb_chat_is_guess(p->chat))
        LB_TRY(lb_audit_row(a, "template_guessed", LB_CHANGES, err,
                            "row %lld: the model has no chat template; the format that fits its tokenizer is taken "
                            "(%s), but it may be a base model or another one; --chat-template FILE gives a template",
                            row, source));
    else if (lb_chat_built_in(p->chat))
        LB_TRY(lb_audit_row(a, "template_built_in", LB_HARMLESS, err,
                            "row %lld: the model has no chat template; its published format is taken (%s)", row,
                            source));
    /* said of the template already, unless that could not be tried */
    if ((made->notes & LB_NOTE_NOT_BEGUN) && !has(a, "beginning_missing"))
        LB_TRY(lb_audit_row(a, "beginning_missing_in_row", LB_CHANGES, err,
                            "row %lld: the rendered chat does not begin with %s: it is run so, as transformers does",
                            row, begin));
    if (made->notes & LB_NOTE_TOOLS)
        LB_TRY(lb_audit_row(a, "tools_not_shown", LB_CHANGES, err,
                            "row %lld: the row has tools, but the chat template (%s) does not show them to the model",
                            row, source));
    return LB_OK;
}

static enum lb_status audit_raw(struct lb_audit *a, const struct lb_prompter *p, int64_t index,
                                const struct lb_prompt *made, const char *begin, struct lb_err *err)
{
    long long row = (long long)index;
    if (made->notes & LB_NOTE_BEGUN)
        LB_TRY(lb_audit_row(a, "begun_already", LB_NOTED, err,
                            "row %lld: the prompt begins with %s already: none is added", row, begin));
    if (made->notes & LB_NOTE_NOT_BEGUN)
        LB_TRY(
            lb_audit_row(a, "beginning_missing_in_row", LB_CHANGES, err,
                         "row %lld: the prompt does not begin with %s, and this tokenizer does not add it: it is run "
                         "so; chat rows (--chat) have it where the chat template writes it",
                         row, begin));
    if (made->notes & LB_NOTE_RAW)
        LB_TRY(lb_audit_row(a, "raw_prompt", LB_CHANGES, err,
                            "row %lld: the model has a chat template (%s), but the prompt is given to it as it is; "
                            "--chat makes a user message of it",
                            row, lb_chat_source(p->chat)));
    if (made->notes & LB_NOTE_SPACE)
        LB_TRY(
            lb_audit_row(a, "space_at_end", LB_CHANGES, err,
                         "row %lld: the prompt ends in a space: words begin with theirs, so that the first new token "
                         "is a rare one; leave the space out",
                         row));
    return LB_OK;
}

enum lb_status lb_audit_prompt(struct lb_audit *a, const struct lb_prompter *p, int64_t index,
                               const struct lb_prompt *made, struct lb_err *err)
{
    char buf[96];
    int32_t begin[MAX_BEGINNING];
    if (a->mode == LB_AUDIT_OFF || made->notes == 0)
        return LB_OK;
    if (made->notes & LB_NOTE_CHAT)
        say_of_chats(a);
    shown(p->tok, begin, lb_prompt_beginning(p->tok, begin, MAX_BEGINNING), buf);
    if (made->notes & LB_NOTE_TWICE)
        LB_TRY(lb_audit_row(a, "beginning_twice_in_row", LB_CHANGES, err,
                            "row %lld: the prompt itself begins with %s twice: it is kept so", (long long)index, buf));
    return (made->notes & LB_NOTE_CHAT ? audit_chat : audit_raw)(a, p, index, made, buf, err);
}

int lb_audit_notes(const struct lb_audit *a, struct lb_note *out)
{
    int n = 0;
    for (int i = 0; i < a->n; i++) {
        const struct lb_finding *f = &a->item[i];
        if (lb_audit_said(a, f))
            out[n++] = (struct lb_note){f->code, lb_severity_name(f->severity), f->message, f->count};
    }
    return n;
}

void lb_audit_put_json(const struct lb_audit *a, struct lb_str *out)
{
    lb_str_putc(out, '[');
    size_t begin = out->len;
    for (int i = 0; i < a->n; i++) {
        const struct lb_finding *f = &a->item[i];
        if (!lb_audit_said(a, f))
            continue;
        lb_str_puts(out, out->len > begin ? "," : "");
        lb_str_putf(out, "{\"code\":\"%s\",\"severity\":\"%s\",\"message\":", f->code, lb_severity_name(f->severity));
        lb_str_put_json(out, f->message, strlen(f->message));
        if (f->count)
            lb_str_putf(out, ",\"count\":%lld", (long long)f->count);
        lb_str_putc(out, '}');
    }
    lb_str_putc(out, ']');
}
