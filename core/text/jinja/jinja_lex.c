/* Tokens of a template as Jinja2's lexer cuts them, with trim_blocks and lstrip_blocks on (models.md 5.2). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/text/jinja/jinja_help.h"
#include "core/text/jinja/jinja_lex.h"

#define MAX_BRACKETS 1024

struct lexer {
    struct lb_jinja *t;
    const char *s; /* [n] */
    size_t n, at;
    int line;
    size_t counted; /* where `line` holds */
    struct lb_jtoken *token;
    size_t n_token, cap;
    char bracket[MAX_BRACKETS]; /* open ones, by what closes them */
    int n_bracket;
    bool line_starts; /* the text before `at` ends with a newline that a tag took, or there is none */
    struct lb_err *err;
};

/* at never goes back. */
static int line_at(struct lexer *x, size_t at)
{
    for (; x->counted < at; x->counted++)
        x->line += x->s[x->counted] == '\n';
    return x->line;
}

static enum lb_status fail(struct lexer *x, const char *what)
{
    return lb_err_set(x->err, LB_E_INPUT, "line %d: %s", line_at(x, x->at), what);
}

static enum lb_status put(struct lexer *x, enum lb_jtok type, size_t from, size_t n)
{
    if (x->n_token == x->cap) {
        void *data = x->token;
        LB_TRY(lb_mem_grow(&data, &x->cap, x->n_token + 1, sizeof *x->token, "a template's tokens", x->err));
        x->token = data;
    }
    x->token[x->n_token++] =
        (struct lb_jtoken){.type = (uint8_t)type, .line = line_at(x, from), .text = x->s + from, .n = n};
    return LB_OK;
}

static bool looking_at(const struct lexer *x, size_t at, const char *what)
{
    size_t n = strlen(what);
    return x->n - at >= n && !memcmp(x->s + at, what, n);
}

static size_t skip_space(const struct lexer *x, size_t at)
{
    while (at < x->n) {
        int n;
        uint32_t cp = lb_utf8_decode(x->s + at, x->n - at, &n);
        if (!lb_juni_is(cp, LB_JUNI_SPACE))
            break;
        at += (size_t)n;
    }
    return at;
}

/* End of the text [from, to) without the space at its end. */
static size_t trim_right(const struct lexer *x, size_t from, size_t to)
{
    while (to > from) {
        size_t at = to - 1;
        while (at > from && ((uint8_t)x->s[at] & 0xC0) == 0x80)
            at--;
        int n;
        if (!lb_juni_is(lb_utf8_decode(x->s + at, to - at, &n), LB_JUNI_SPACE))
            break;
        to = at;
    }
    return to;
}

/* Text before a tag: `-` takes all space before the tag, lstrip_blocks what stands between the tag and the beginning
 * of its line. */
static enum lb_status put_data(struct lexer *x, size_t from, size_t to, char sign, bool is_print)
{
    if (sign == '-') {
        to = trim_right(x, from, to);
    } else if (sign != '+' && !is_print) {
        size_t line = to;
        while (line > from && x->s[line - 1] != '\n')
            line--;
        if ((line > from || x->line_starts) && trim_right(x, line, to) == line)
            to = line;
    }
    return to > from ? put(x, LB_JT_DATA, from, to - from) : LB_OK;
}

/* The end of a tag or a comment, `close` is "%}" or "#}": 0 when there is none at `at`, or where the text goes on. */
static size_t tag_end(const struct lexer *x, size_t at, const char *close)
{
    if (x->s[at] == '+' && looking_at(x, at + 1, close))
        return at + 3;
    if (x->s[at] == '-' && looking_at(x, at + 1, close))
        return skip_space(x, at + 3);
    if (looking_at(x, at, close))
        return at + 2 + (at + 2 < x->n && x->s[at + 2] == '\n');
    return 0;
}

static size_t sign_at(const struct lexer *x, size_t at, char *sign)
{
    *sign = at < x->n && (x->s[at] == '-' || x->s[at] == '+') ? x->s[at] : 0;
    return at + (*sign != 0);
}

/* "{% raw %}" at `at`: where the raw text begins, 0 when it is another tag. */
static size_t raw_begin(const struct lexer *x, size_t at)
{
    char sign;
    size_t p = skip_space(x, sign_at(x, at + 2, &sign));
    if (!looking_at(x, p, "raw"))
        return 0;
    p = skip_space(x, p + 3);
    if (looking_at(x, p, "-%}"))
        return skip_space(x, p + 3);
    return looking_at(x, p, "%}") ? p + 2 : 0;
}

/* Text up to "{% endraw %}". */
static enum lb_status lex_raw(struct lexer *x)
{
    size_t from = x->at;
    if (from == x->n)
        return LB_OK; /* as the reference has it */
    for (const char *p; (p = memchr(x->s + x->at, '{', x->n - x->at)); x->at++) {
        x->at = (size_t)(p - x->s);
        char sign;
        if (!looking_at(x, x->at, "{%"))
            continue;
        size_t q = skip_space(x, sign_at(x, x->at + 2, &sign));
        if (!looking_at(x, q, "endraw"))
            continue;
        q = skip_space(x, q + 6);
        size_t end = q < x->n ? tag_end(x, q, "%}") : 0;
        if (!end)
            continue;
        LB_TRY(put_data(x, from, x->at, sign, false));
        x->at = end;
        return LB_OK;
    }
    x->at = from;
    return fail(x, "a raw block has no end");
}

static enum lb_status lex_comment(struct lexer *x)
{
    for (size_t at = x->at; at < x->n; at++) {
        size_t end = tag_end(x, at, "#}");
        if (end) {
            x->at = end;
            return LB_OK;
        }
    }
    return x->at == x->n ? LB_OK : fail(x, "a comment has no end");
}

static size_t scan_digits(const struct lexer *x, size_t at, const char *digits, bool lead)
{
    /* (_?digit)*; a leading digit is asked for where `lead` */
    if (lead && !(at < x->n && x->s[at] && strchr(digits, x->s[at])))
        return at;
    for (;;) {
        size_t p = at + (at < x->n && x->s[at] == '_');
        if (!(p < x->n && x->s[p] && strchr(digits, x->s[p])))
            return at;
        at = p + 1;
    }
}

/* Length of the number at x->at; *is_float; 0: none. */
static size_t scan_number(const struct lexer *x, bool *is_float)
{
    static const char dec[] = "0123456789";
    size_t at = x->at, whole = scan_digits(x, at, dec, true);
    *is_float = false;
    if (whole == at)
        return 0;
    if (at == 0 || x->s[at - 1] != '.') {
        size_t end = whole;
        if (end < x->n && x->s[end] == '.') {
            size_t frac = scan_digits(x, end + 1, dec, true);
            end = frac > end + 1 ? frac : end;
        }
        if (end < x->n && (x->s[end] == 'e' || x->s[end] == 'E')) {
            size_t e = end + 1 + (end + 1 < x->n && (x->s[end + 1] == '+' || x->s[end + 1] == '-'));
            size_t power = scan_digits(x, e, dec, true);
            end = power > e ? power : end;
        }
        *is_float = end > whole;
        if (*is_float)
            return end - at;
    }
    if (x->s[at] == '0') {
        char base = at + 1 < x->n ? (char)(x->s[at + 1] | 0x20) : 0;
        const char *digits = base == 'b' ? "01" : base == 'o' ? "01234567" : "0123456789abcdefABCDEF";
        if (base == 'b' || base == 'o' || base == 'x') {
            size_t end = scan_digits(x, at + 2, digits, false);
            if (end > at + 2)
                return end - at;
        }
        return scan_digits(x, at + 1, "0", false) - at;
    }
    return whole - at;
}

static enum lb_status lex_number(struct lexer *x, bool *done)
{
    bool is_float;
    size_t n = scan_number(x, &is_float);
    *done = n > 0;
    if (!n)
        return LB_OK;
    char *text = lb_jpool_take(&x->t->pool, n + 1);
    if (!text)
        return lb_err_memory(x->err, "a template", n);
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (x->s[x->at + i] != '_')
            text[k++] = x->s[x->at + i];
    LB_TRY(put(x, LB_JT_NUMBER, x->at, n));
    struct lb_jval *v = &x->token[x->n_token - 1].value;
    if (is_float) {
        *v = lb_jfloat(strtod(text, NULL));
    } else {
        char base = text[0] == '0' ? (char)(text[1] | 0x20) : 0;
        int radix = base == 'b' ? 2 : base == 'o' ? 8 : base == 'x' ? 16 : 10;
        errno = 0;
        *v = lb_jint(strtoll(text + (radix == 10 ? 0 : 2), NULL, radix));
        if (errno)
            return fail(x, "an integer does not fit into 64 bits");
    }
    x->at += n;
    return LB_OK;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* One escape of a string literal, s[0] is the backslash. How many bytes of the source it takes, 0: not valid. */
static size_t unescape(const char *s, size_t n, struct lb_str *out)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *simple = n > 1 && s[1] ? strchr(from, s[1]) : NULL;
    if (simple) {
        lb_str_putc(out, to[simple - from]);
        return 2;
    }
    if (s[1] == '\n')
        return 2;
    size_t digits = s[1] == 'x' ? 2 : s[1] == 'u' ? 4 : s[1] == 'U' ? 8 : 0;
    uint32_t cp = 0;
    if (digits) {
        for (size_t i = 0; i < digits; i++) {
            int v = 2 + i < n ? hex_value(s[2 + i]) : -1;
            if (v < 0)
                return 0;
            cp = cp << 4 | (uint32_t)v;
        }
        /* halves of surrogate pairs are characters to Python, which then cannot print them */
        if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000))
            return 0;
        lb_str_put_codepoint(out, cp);
        return 2 + digits;
    }
    if (s[1] >= '0' && s[1] <= '7') {
        size_t i = 1;
        for (; i < 4 && i < n && s[i] >= '0' && s[i] <= '7'; i++)
            cp = cp << 3 | (uint32_t)(s[i] - '0');
        lb_str_put_codepoint(out, cp);
        return i;
    }
    if (s[1] == 'N')
        return 0;
    lb_str_putc(out, '\\');
    if ((uint8_t)s[1] < 0x80)
        return 1;
    /* the reference escapes such characters before it looks for escapes, and the backslash then escapes its escape */
    int bytes;
    cp = lb_utf8_decode(s + 1, n - 1, &bytes);
    lb_str_putf(out, cp < 0x100 ? "x%02x" : cp < 0x10000 ? "u%04x" : "U%08x", (unsigned)cp);
    return 1 + (size_t)bytes;
}

static enum lb_status lex_string(struct lexer *x)
{
    char quote = x->s[x->at];
    size_t from = x->at + 1, end = from;
    bool plain = true;
    while (end < x->n && x->s[end] != quote) {
        plain = plain && x->s[end] != '\\';
        end += x->s[end] == '\\' ? 2 : 1;
    }
    if (end >= x->n)
        return fail(x, "a string has no end");
    struct lb_str text = {0};
    for (size_t i = from; !plain && i < end;) {
        const char *p = memchr(x->s + i, '\\', end - i);
        size_t stop = p ? (size_t)(p - x->s) : end;
        lb_str_put(&text, x->s + i, stop - i);
        i = stop;
        if (p) {
            size_t n = unescape(x->s + i, end - i, &text);
            if (!n) {
                lb_str_release(&text);
                return fail(x, "a string has an escape that is not valid here");
            }
            i += n;
        }
    }
    struct lb_jval v = lb_jnone();
    if (plain) {
        v = lb_jinja_constant(x->t, x->s + from, end - from);
    } else if (!text.failed) {
        char *copy = lb_jpool_take(&x->t->pool, text.len + 1);
        if (copy) {
            if (text.len)
                memcpy(copy, text.data, text.len);
            v = lb_jinja_constant(x->t, copy, text.len);
        }
    }
    lb_str_release(&text);
    if (v.kind != LB_J_STR)
        return lb_err_memory(x->err, "a template", end - from);
    LB_TRY(put(x, LB_JT_STRING, x->at, end + 1 - x->at));
    x->token[x->n_token - 1].value = v;
    x->at = end + 1;
    return LB_OK;
}

/* Length of the name at x->at, 0: none. */
static size_t scan_name(const struct lexer *x)
{
    size_t at = x->at;
    while (at < x->n) {
        int n;
        uint32_t cp = lb_utf8_decode(x->s + at, x->n - at, &n);
        if (!lb_juni_is(cp, at == x->at ? LB_JUNI_ID_START : LB_JUNI_ID_CONTINUE))
            break;
        at += (size_t)n;
    }
    return at - x->at;
}

static enum lb_status lex_operator(struct lexer *x)
{
    static const struct {
        char text[3];
        uint8_t type;
    } table[] = {{"//", LB_JT_FLOORDIV}, {"**", LB_JT_POW},     {"==", LB_JT_EQ},    {"!=", LB_JT_NE},
                 {">=", LB_JT_GE},       {"<=", LB_JT_LE},      {"+", LB_JT_ADD},    {"-", LB_JT_SUB},
                 {"/", LB_JT_DIV},       {"*", LB_JT_MUL},      {"%", LB_JT_MOD},    {"~", LB_JT_TILDE},
                 {"[", LB_JT_LBRACKET},  {"]", LB_JT_RBRACKET}, {"(", LB_JT_LPAREN}, {")", LB_JT_RPAREN},
                 {"{", LB_JT_LBRACE},    {"}", LB_JT_RBRACE},   {">", LB_JT_GT},     {"<", LB_JT_LT},
                 {"=", LB_JT_ASSIGN},    {".", LB_JT_DOT},      {":", LB_JT_COLON},  {"|", LB_JT_PIPE},
                 {",", LB_JT_COMMA},     {";", LB_JT_SEMICOLON}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (!looking_at(x, x->at, table[i].text))
            continue;
        char c = x->s[x->at];
        if (c == '(' || c == '[' || c == '{') {
            if (x->n_bracket == MAX_BRACKETS)
                return fail(x, "brackets are nested too deeply");
            x->bracket[x->n_bracket++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (!x->n_bracket || x->bracket[--x->n_bracket] != c)
                return lb_err_set(x->err, LB_E_INPUT, "line %d: unexpected '%c'", line_at(x, x->at), c);
        }
        size_t n = strlen(table[i].text);
        LB_TRY(put(x, table[i].type, x->at, n));
        x->at += n;
        return LB_OK;
    }
    int n;
    lb_utf8_decode(x->s + x->at, x->n - x->at, &n);
    return lb_err_set(x->err, LB_E_INPUT, "line %d: unexpected character '%.*s'", line_at(x, x->at), n, x->s + x->at);
}

/* Tokens of a tag up to and with its end. */
static enum lb_status lex_tag(struct lexer *x, bool is_print)
{
    for (;;) {
        if (x->at >= x->n)
            return put(x, LB_JT_END, x->n, 0);
        if (!x->n_bracket) {
            size_t end = 0;
            if (!is_print)
                end = tag_end(x, x->at, "%}");
            else if (looking_at(x, x->at, "-}}"))
                end = skip_space(x, x->at + 3);
            else if (looking_at(x, x->at, "}}"))
                end = x->at + 2;
            if (end) {
                LB_TRY(put(x, is_print ? LB_JT_PRINT_END : LB_JT_TAG_END, x->at, 2));
                x->at = end;
                return LB_OK;
            }
        }
        size_t next = skip_space(x, x->at), name;
        bool done = next > x->at;
        x->at = next;
        if (done)
            continue;
        LB_TRY(lex_number(x, &done));
        if (done)
            continue;
        if ((name = scan_name(x)) > 0) {
            LB_TRY(put(x, LB_JT_NAME, x->at, name));
            x->at += name;
        } else if (x->s[x->at] == '"' || x->s[x->at] == '\'') {
            LB_TRY(lex_string(x));
        } else {
            LB_TRY(lex_operator(x));
        }
    }
}

/* Text, then one tag, comment or raw block. */
static enum lb_status lex_part(struct lexer *x)
{
    size_t from = x->at, open = from;
    for (;; open++) {
        const char *p = memchr(x->s + open, '{', x->n - open);
        if (!p || (size_t)(p - x->s) + 1 >= x->n) {
            x->at = x->n;
            return put(x, LB_JT_DATA, from, x->n - from);
        }
        open = (size_t)(p - x->s);
        if (p[1] == '{' || p[1] == '%' || p[1] == '#')
            break;
    }
    char sign, kind = x->s[open + 1];
    size_t inside = sign_at(x, open + 2, &sign);
    LB_TRY(put_data(x, from, open, sign, kind == '{'));
    x->at = open;
    size_t raw = kind == '%' ? raw_begin(x, open) : 0;
    if (raw) {
        x->at = raw;
        x->line_starts = x->s[raw - 1] == '\n';
        LB_TRY(lex_raw(x));
    } else if (kind == '#') {
        x->at = inside;
        LB_TRY(lex_comment(x));
    } else {
        LB_TRY(put(x, kind == '{' ? LB_JT_PRINT_BEGIN : LB_JT_TAG_BEGIN, open, 2));
        x->at = inside;
        x->n_bracket = 0;
        LB_TRY(lex_tag(x, kind == '{'));
    }
    x->line_starts = x->at > 0 && x->s[x->at - 1] == '\n';
    return LB_OK;
}

enum lb_status lb_jinja_lex(struct lb_jinja *t, struct lb_jtoken **tokens, size_t *n_tokens, struct lb_err *err)
{
    struct lexer x = {.t = t, .s = t->source, .n = t->n_source, .line = 1, .line_starts = true, .err = err};
    enum lb_status status = LB_OK;
    while (status == LB_OK && x.at < x.n)
        status = lex_part(&x);
    if (status == LB_OK)
        status = put(&x, LB_JT_END, x.n, 0);
    if (status != LB_OK) {
        lb_mem_free(x.token);
        return status;
    }
    *tokens = x.token;
    *n_tokens = x.n_token;
    return LB_OK;
}
