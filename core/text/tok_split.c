/* Pre-tokenizers: cutting text into words with patterns, by hand or through PCRE2 (models.md 3.4, 3.5). */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define MAX_PATTERN_BYTES 65536

const char lb_pattern_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                                 " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char lb_pattern_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char lb_pattern_qwen35[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
                                 " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char lb_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Word characters of the reference's Oniguruma: as in Unicode (UTS 18), and outside of classes also the numbers of
 * Latin-1, which it takes from that character set's table. */
#define WORD_IN_CLASS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD_SET WORD_IN_CLASS "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"
#define WORD "[" WORD_SET "]"

/* What an escape of Oniguruma is in PCRE2: \s there is White_Space, PCRE2's own holds U+180E too; \h is a hexadecimal
 * digit. NULL: the same in both. */
static const char *escape(char c, bool in_class, const char **unsupported)
{
    switch (c) {
    case 's':
        return "\\p{White_Space}";
    case 'S':
        return "\\P{White_Space}";
    case 'w':
        return in_class ? WORD_IN_CLASS : WORD;
    case 'h':
        return in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
    case 'W':
    case 'H':
        if (in_class)
            *unsupported = "\\W or \\H in a class";
        return c == 'W' ? "[^" WORD_SET "]" : "[^0-9a-fA-F]";
    case 'b':
        return in_class ? NULL : "(?:(?<=" WORD ")(?!" WORD ")|(?<!" WORD ")(?=" WORD "))";
    case 'B':
        return in_class ? NULL : "(?:(?<=" WORD ")(?=" WORD ")|(?<!" WORD ")(?!" WORD "))";
    default:
        return NULL;
    }
}

/* Copies an Oniguruma pattern into PCRE2's language. */
static void translate(const char *p, struct lb_str *out, const char **unsupported)
{
    bool in_class = false;
    size_t class_at = 0;
    for (size_t i = 0; p[i]; i++) {
        if (p[i] == '\\' && p[i + 1]) {
            i++;
            const char *to = escape(p[i], in_class, unsupported);
            if (p[i] == 'u' && strspn(p + i + 1, "0123456789abcdefABCDEF") >= 4) {
                lb_str_putf(out, "\\x{%.4s}", p + i + 1);
                i += 4;
            } else if (to) {
                lb_str_puts(out, to);
            } else {
                lb_str_putc(out, '\\');
                lb_str_putc(out, p[i]);
            }
            continue;
        }
        if (in_class) {
            bool first = i == class_at + 1 || (i == class_at + 2 && p[class_at + 1] == '^');
            if (p[i] == '[' || (p[i] == '&' && p[i + 1] == '&'))
                *unsupported = "a class inside a class";
            if (p[i] == ']' && !first)
                in_class = false;
        } else if (p[i] == '[') {
            in_class = true;
            class_at = i;
        } else if (p[i] == '(' && p[i + 1] == '?' && strspn(p + i + 2, "imx-") > 0 &&
                   memchr(p + i + 2, 'm', strspn(p + i + 2, "imx-"))) {
            *unsupported = "the option (?m)";
        }
        lb_str_putc(out, p[i]);
    }
}

static enum lb_status compile(struct lb_step *s, const char *pattern, bool literal, struct lb_err *err)
{
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    if (!cc)
        return lb_err_memory(err, "a pattern", sizeof *s);
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_bsr(cc, PCRE2_BSR_UNICODE);
    pcre2_set_max_pattern_length(cc, MAX_PATTERN_BYTES);
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    int code;
    PCRE2_SIZE at;
    s->re = pcre2_compile((PCRE2_SPTR)pattern, strlen(pattern), options, &code, &at, cc);
    pcre2_compile_context_free(cc);
    if (!s->re) {
        PCRE2_UCHAR why[128] = {0};
        struct lb_str shown = {0};
        pcre2_get_error_message(code, why, sizeof why);
        enum lb_status status =
            lb_err_set(err, LB_E_INPUT, "the pattern %s does not compile: %s (at byte %zu)",
                       lb_tok_shown(&shown, pattern, strlen(pattern)), (const char *)why, (size_t)at);
        lb_str_release(&shown);
        return status;
    }
    s->jit = pcre2_jit_compile(s->re, PCRE2_JIT_COMPLETE) == 0; /* where JIT is forbidden, the interpreter serves */
    return LB_OK;
}

enum lb_status lb_pattern_compile(const char *pattern, pcre2_code **re, const char **unsupported, struct lb_err *err)
{
    struct lb_str own = {0};
    struct lb_step s = {0};
    enum lb_status status = LB_OK;
    *unsupported = NULL;
    translate(pattern, &own, unsupported);
    if (own.failed)
        status = lb_err_memory(err, "a pattern", strlen(pattern));
    else if (!*unsupported)
        status = compile(&s, own.data ? own.data : "", false, err);
    *re = s.re;
    lb_str_release(&own);
    return status;
}

/* Where each match is a piece and so is each gap, or there are no gaps, the pieces are what the matcher finds. */
static enum lb_match_kind by_hand(const struct lb_step *s, const char *pattern)
{
    enum lb_match_kind kind = lb_match_find(pattern);
    bool cuts = s->behavior == LB_SPLIT_ISOLATED;
    bool keeps = s->behavior == LB_SPLIT_REMOVED && s->invert && kind != LB_MATCH_NUMBER;
    return cuts || keeps ? kind : LB_MATCH_PCRE2;
}

enum lb_status lb_split_add(struct lb_tok *t, const char *pattern, bool literal, enum lb_split_behavior behavior,
                            bool invert, const char **unsupported, struct lb_err *err)
{
    *unsupported = NULL;
    if (t->n_step == LB_TOK_MAX_STEP)
        return lb_err_set(err, LB_E_INPUT, "more than %d pre-tokenizer steps", LB_TOK_MAX_STEP);
    struct lb_step s = {.behavior = behavior, .invert = invert};
    struct lb_str own = {0};
    enum lb_status status = LB_OK;
    if (literal)
        lb_str_puts(&own, pattern);
    else
        translate(pattern, &own, unsupported);
    if (own.failed)
        status = lb_err_memory(err, "a pattern", strlen(pattern));
    else if (!*unsupported)
        status = compile(&s, own.data ? own.data : "", literal, err);
    if (status == LB_OK && !*unsupported) {
        if (!literal)
            s.by_hand = by_hand(&s, pattern);
        t->step[t->n_step++] = s;
    }
    lb_str_release(&own);
    return status;
}

enum lb_status lb_split_add_space(struct lb_tok *t, struct lb_err *err)
{
    if (t->n_step == LB_TOK_MAX_STEP)
        return lb_err_set(err, LB_E_INPUT, "more than %d pre-tokenizer steps", LB_TOK_MAX_STEP);
    t->step[t->n_step++] = (struct lb_step){0};
    return LB_OK;
}

enum lb_status lb_split_add_gpt2(struct lb_tok *t, struct lb_err *err)
{
    const char *unsupported;
    return lb_split_add(t, lb_pattern_gpt2, false, LB_SPLIT_ISOLATED, false, &unsupported, err);
}

/* Turns a step's matches and gaps, fed in order, into pieces. A piece that a later one may still join is held. */
struct splitter {
    const struct lb_tok *t;
    struct lb_tok_ctx *c;
    const char *text;
    struct lb_ids *out;
    int step;
    bool held, held_match; /* held_match: of the last thing fed */
    size_t start, stop;
};

static enum lb_status release(struct splitter *s, struct lb_err *err)
{
    if (!s->held)
        return LB_OK;
    s->held = false;
    return lb_split_walk(s->t, s->c, s->step + 1, (struct lb_bytes){s->text + s->start, s->stop - s->start}, s->out,
                         err);
}

static enum lb_status feed(struct splitter *s, size_t start, size_t stop, bool match, struct lb_err *err)
{
    const struct lb_step *step = &s->t->step[s->step];
    bool joins = false;
    match = match != step->invert;
    switch (step->behavior) {
    case LB_SPLIT_ISOLATED:
        return lb_split_walk(s->t, s->c, s->step + 1, (struct lb_bytes){s->text + start, stop - start}, s->out, err);
    case LB_SPLIT_REMOVED:
        if (match)
            return LB_OK;
        return lb_split_walk(s->t, s->c, s->step + 1, (struct lb_bytes){s->text + start, stop - start}, s->out, err);
    case LB_SPLIT_CONTIGUOUS:
        joins = match == s->held_match;
        break;
    case LB_SPLIT_MERGED_PREVIOUS:
        joins = match && !s->held_match;
        break;
    case LB_SPLIT_MERGED_NEXT:
        joins = !match && s->held_match;
        break;
    }
    s->held_match = match;
    if (s->held && joins) {
        s->stop = stop;
        return LB_OK;
    }
    LB_TRY(release(s, err));
    s->held = true;
    s->start = start;
    s->stop = stop;
    return LB_OK;
}

/* Next match at or after `from`; *found false when there is none. */
static enum lb_status next_match(const struct lb_step *step, struct lb_tok_ctx *c, struct lb_bytes text, size_t from,
                                 bool *found, struct lb_err *err)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text.data;
    int rc = step->jit ? pcre2_jit_match(step->re, subject, text.len, from, PCRE2_NO_UTF_CHECK, c->match, c->limits)
                       : pcre2_match(step->re, subject, text.len, from, PCRE2_NO_UTF_CHECK, c->match, c->limits);
    *found = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return LB_OK;
    PCRE2_UCHAR why[128] = {0};
    pcre2_get_error_message(rc, why, sizeof why);
    return lb_err_set(err, LB_E_INPUT, "cannot tokenize a text of %zu bytes: the tokenizer's pattern gave up: %s",
                      text.len, (const char *)why);
}

/* Length of the character at text[at], or 1 at the end. */
static size_t char_bytes(struct lb_bytes text, size_t at)
{
    int len = 1;
    if (at < text.len)
        lb_utf8_decode(text.data + at, text.len - at, &len);
    return (size_t)len;
}

static enum lb_status split(struct splitter *s, struct lb_bytes text, struct lb_err *err)
{
    const struct lb_step *step = &s->t->step[s->step];
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->c->match);
    size_t done = 0, from = 0, last = SIZE_MAX;
    while (from <= text.len) {
        bool found;
        LB_TRY(next_match(step, s->c, text, from, &found, err));
        if (!found)
            break;
        size_t start = range[0], stop = range[1];
        if (start < done || stop < start) /* \K can do this */
            return lb_err_set(err, LB_E_INPUT, "cannot tokenize: the tokenizer's pattern matches backward");
        if (start == stop && stop == last) { /* an empty match right behind a match does not count */
            from = stop + char_bytes(text, stop);
            continue;
        }
        if (done < start)
            LB_TRY(feed(s, done, start, false, err));
        LB_TRY(feed(s, start, stop, true, err));
        done = last = stop;
        from = stop > start ? stop : stop + char_bytes(text, stop);
    }
    if (done < text.len)
        LB_TRY(feed(s, done, text.len, false, err));
    return release(s, err);
}

static enum lb_status split_by_hand(const struct lb_tok *t, struct lb_tok_ctx *c, int step, struct lb_bytes text,
                                    struct lb_ids *out, struct lb_err *err)
{
    enum lb_match_kind kind = t->step[step].by_hand;
    size_t cut[LB_BATCH + 1] = {0};
    while (cut[0] < text.len) {
        int n = 0;
        for (; n < LB_BATCH && cut[n] < text.len; n++)
            cut[n + 1] = lb_match_next(kind, text.data, text.len, cut[n]);
        if (step + 1 == t->n_step)
            LB_TRY(lb_bpe_words(t, c, text.data, cut, n, out, err));
        else
            for (int i = 0; i < n; i++)
                LB_TRY(lb_split_walk(t, c, step + 1, (struct lb_bytes){text.data + cut[i], cut[i + 1] - cut[i]}, out,
                                     err));
        cut[0] = cut[n];
    }
    return LB_OK;
}

enum lb_status lb_split_walk(const struct lb_tok *t, struct lb_tok_ctx *c, int step, struct lb_bytes text,
                             struct lb_ids *out, struct lb_err *err)
{
    if (text.len == 0)
        return LB_OK;
    if (step == t->n_step)
        return lb_bpe_word(t, c, text.data, text.len, out, err);
    if (t->step[step].by_hand != LB_MATCH_PCRE2)
        return split_by_hand(t, c, step, text, out, err);
    if (t->step[step].re) {
        struct splitter s = {.t = t, .c = c, .text = text.data, .out = out, .step = step};
        return split(&s, text, err);
    }
    if (t->step[step].kind != LB_STEP_PATTERN)
        return lb_step_walk(t, c, step, text, out, err);
    if (text.data[0] == ' ')
        return lb_split_walk(t, c, step + 1, text, out, err);
    struct lb_str *spaced = &c->spaced[step];
    lb_str_clear(spaced);
    lb_str_putc(spaced, ' ');
    lb_str_put(spaced, text.data, text.len);
    if (spaced->failed)
        return lb_err_memory(err, "a text", text.len);
    c->first = text.data == c->first ? spaced->data : NULL;
    return lb_split_walk(t, c, step + 1, (struct lb_bytes){spaced->data, spaced->len}, out, err);
}
