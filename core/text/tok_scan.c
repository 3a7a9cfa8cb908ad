/* The two members of tokenizer.json that make nearly all of its size, model.vocab and model.merges, read without a
 * tree.
 *
 * jansson needs more time for 400,000 small values and their release than everything else that opening a tokenizer
 * does. So these two are read here, straight into arrays, and jansson reads the file with {} and [] in their places.
 * What is read here is read strictly, and only in the form in which files come; at anything else the scan gives up,
 * nothing of it counts, and jansson reads the whole file and says what is wrong with it. That jansson accepts the rest
 * shows that the two stood where they were taken to stand. */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_impl.h"

#define MAX_BYTES ((size_t)UINT32_MAX)

/* The text that is being read, and what comes of it. */
struct reader {
    const char *at, *end;
    struct lb_tok_scan *scan;
    const char *vocab[2], *merges[2]; /* where they begin and end; NULL until found */
    bool model;                       /* found */
};

static void skip_space(struct reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r'))
        r->at++;
}

/* Goes past space and one character, if it is c. */
static bool take(struct reader *r, char c)
{
    skip_space(r);
    if (r->at == r->end || *r->at != c)
        return false;
    r->at++;
    return true;
}

/* Goes past a string, whose opening quote was read. */
static bool skip_string(struct reader *r, bool *escapes)
{
    for (; r->at < r->end; r->at++) {
        if (*r->at == '"') {
            r->at++;
            return true;
        }
        if (*r->at == '\\') {
            *escapes = true;
            if (++r->at == r->end)
                return false;
        }
    }
    return false;
}

/* Goes past a value that jansson will read. */
static bool skip_value(struct reader *r)
{
    size_t depth = 0;
    bool escapes;
    skip_space(r);
    while (r->at < r->end) {
        char c = *r->at;
        if (depth == 0 && (c == ',' || c == '}' || c == ']'))
            return true;
        r->at++;
        if (c == '"' && !skip_string(r, &escapes))
            return false;
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
    }
    return false;
}

static bool hex4(const char *p, uint32_t *v)
{
    *v = 0;
    for (int i = 0; i < 4; i++) {
        unsigned c = (unsigned char)p[i], letter = c | 0x20;
        if (c >= '0' && c <= '9')
            *v = *v << 4 | (c - '0');
        else if (letter >= 'a' && letter <= 'f')
            *v = *v << 4 | (letter - 'a' + 10);
        else
            return false;
    }
    return true;
}

/* The code point that the escape behind a backslash stands for; 0 when it is not read here (\u0000 and surrogates). */
static uint32_t escaped(struct reader *r)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    uint32_t v;
    if (r->at == r->end)
        return 0;
    char c = *r->at++;
    if (c != 'u') {
        const char *p = c ? strchr(from, c) : NULL;
        return p ? (unsigned char)to[p - from] : 0;
    }
    if (r->end - r->at < 4 || !hex4(r->at, &v) || (v >= 0xD800 && v <= 0xDFFF))
        return 0;
    r->at += 4;
    return v;
}

/* A character of at least one byte at r->at that no quote is; 0 when it is not valid. */
static uint32_t character(struct reader *r)
{
    int len = 1;
    unsigned char c = (unsigned char)*r->at;
    if (c == '\\') {
        r->at++;
        return escaped(r);
    }
    if (c < 0x20)
        return 0;
    uint32_t cp = c < 0x80 ? c : lb_utf8_decode(r->at, (size_t)(r->end - r->at), &len);
    if (c >= 0x80 && len == 1)
        return 0;
    r->at += len;
    return cp;
}

/* Reads up to the quote (or, with `stop` a space, up to that) and appends the raw bytes that the characters stand for.
 * Where one stands for none, all are written as they are, and *plain is set. */
static bool read_bytes(struct reader *r, char stop, bool *plain)
{
    struct lb_str *out = &r->scan->bytes; /* has room: what is written is never longer than what is read */
    const char *begin = r->at;
    char *to = out->data + out->len;
    *plain = false;
    while (r->at < r->end && *r->at != '"' && *r->at != stop) {
        unsigned char c = (unsigned char)*r->at;
        if (c > ' ' && c < 127 && c != '\\') {
            *to++ = (char)c;
            r->at++;
            continue;
        }
        uint32_t cp = character(r);
        int byte = lb_tok_byte_of(cp);
        if (cp == 0)
            return false;
        if (byte < 0) {
            *plain = true;
            break;
        }
        *to++ = (char)byte;
    }
    if (!*plain) {
        out->len = (size_t)(to - out->data);
        return true;
    }
    r->at = begin;
    while (r->at < r->end && *r->at != '"' && *r->at != stop) {
        uint32_t cp = character(r);
        if (cp == 0 || (cp == ' ' && stop == ' ')) /* an escaped space would cut a merge too */
            return false;
        lb_str_put_codepoint(out, cp);
    }
    return true;
}

static bool read_id(struct reader *r, int32_t *id)
{
    int n = 0;
    int32_t v = 0;
    skip_space(r);
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9' && n < 9; n++)
        v = v * 10 + (*r->at++ - '0');
    *id = v;
    return n > 0 && n < 9 && (r->at[-n] != '0' || n == 1) && v < LB_TOK_MAX_ID;
}

static bool read_vocab(struct reader *r)
{
    struct lb_tok_scan *s = r->scan;
    struct lb_err err = LB_ERR_INIT;
    do {
        struct lb_scan_token k = {.at = (uint32_t)s->bytes.len};
        if (!take(r, '"') || !read_bytes(r, '"', &k.plain) || !take(r, '"') || !take(r, ':') || !read_id(r, &k.id) ||
            (s->n_token == s->token_cap &&
             lb_mem_grow((void **)&s->token, &s->token_cap, s->n_token + 1, sizeof k, "tokens", &err) != LB_OK))
            return false;
        k.len = (uint32_t)s->bytes.len - k.at;
        s->top_id = k.id > s->top_id ? k.id : s->top_id;
        s->token[s->n_token++] = k;
    } while (take(r, ','));
    return take(r, '}');
}

/* "left right" or ["left", "right"] */
static bool read_merge(struct reader *r, struct lb_scan_merge *m)
{
    bool plain_left, plain_right, pair = take(r, '[');
    m->at = (uint32_t)r->scan->bytes.len;
    if (!take(r, '"'))
        return false;
    if (!pair && strncmp(r->at, "#version", 8) == 0) /* no merge */
        return false;
    if (!read_bytes(r, pair ? '"' : ' ', &plain_left))
        return false;
    m->n_left = (uint32_t)r->scan->bytes.len - m->at;
    if (pair ? !take(r, '"') || !take(r, ',') || !take(r, '"') : r->at == r->end || *r->at++ != ' ')
        return false;
    if (!read_bytes(r, pair ? '"' : ' ', &plain_right) || r->at == r->end || *r->at++ != '"')
        return false;
    m->n_right = (uint32_t)r->scan->bytes.len - m->at - m->n_left;
    m->plain = plain_left;
    return plain_left == plain_right && (!pair || take(r, ']'));
}

static bool read_merges(struct reader *r)
{
    struct lb_tok_scan *s = r->scan;
    struct lb_err err = LB_ERR_INIT;
    do {
        struct lb_scan_merge m;
        if (!read_merge(r, &m) ||
            (s->n_merge == s->merge_cap &&
             lb_mem_grow((void **)&s->merge, &s->merge_cap, s->n_merge + 1, sizeof m, "merges", &err) != LB_OK))
            return false;
        s->merge[s->n_merge++] = m;
    } while (take(r, ','));
    return take(r, ']');
}

/* Reads one of the two members, whose opening bracket is next; each may come once. */
static bool read_member(struct reader *r, const char *range[2], char open, bool (*read)(struct reader *r))
{
    skip_space(r);
    if (range[0])
        return false;
    range[0] = r->at;
    if (!take(r, open) || !read(r))
        return false;
    range[1] = r->at;
    return true;
}

/* Goes through the members of an object: the file's, or (in_model) the model's. */
static bool read_object(struct reader *r, bool in_model)
{
    if (!take(r, '{'))
        return false;
    do {
        bool escapes = false, ok;
        if (!take(r, '"'))
            return false;
        const char *key = r->at;
        if (!skip_string(r, &escapes) || escapes || !take(r, ':'))
            return false;
        if (in_model && strncmp(key, "vocab\"", 6) == 0)
            ok = read_member(r, r->vocab, '{', read_vocab);
        else if (in_model && strncmp(key, "merges\"", 7) == 0)
            ok = read_member(r, r->merges, '[', read_merges);
        else if (!in_model && strncmp(key, "model\"", 6) == 0) {
            ok = !r->model && read_object(r, true);
            r->model = true;
        } else {
            ok = skip_value(r);
        }
        if (!ok)
            return false;
    } while (take(r, ','));
    return take(r, '}');
}

bool lb_scan_cut(struct lb_tok_scan *s, const char *text, size_t n)
{
    struct reader r = {.at = text, .end = text + n, .scan = s};
    *s = (struct lb_tok_scan){.top_id = -1};
    if (n == 0 || n > MAX_BYTES)
        return false;
    s->bytes.data = lb_mem_new(n + 1, 1); /* touched only as far as it is used */
    s->bytes.cap = s->bytes.data ? n + 1 : 0;
    if (!s->bytes.data || !read_object(&r, false) || !r.vocab[1] || !r.merges[1] || s->bytes.failed)
        return false;
    bool vocab_first = r.vocab[0] < r.merges[0];
    const char *const *one = vocab_first ? r.vocab : r.merges, *const *two = vocab_first ? r.merges : r.vocab;
    lb_str_put(&s->rest, text, (size_t)(one[0] - text));
    lb_str_puts(&s->rest, vocab_first ? "{}" : "[]");
    lb_str_put(&s->rest, one[1], (size_t)(two[0] - one[1]));
    lb_str_puts(&s->rest, vocab_first ? "[]" : "{}");
    lb_str_put(&s->rest, two[1], (size_t)(text + n - two[1]));
    return !s->rest.failed;
}

bool lb_scan_fill(const struct lb_tok_scan *s, struct lb_tok *t)
{
    for (size_t i = 0; i < s->n_token; i++) {
        const struct lb_scan_token *k = &s->token[i];
        if (!lb_tok_set(t, k->id, s->bytes.data + k->at, k->len, k->plain ? LB_TOKEN_PLAIN : 0, true))
            return false;
    }
    if (t->pool.failed || lb_tok_n_listed(t) != s->n_token) /* a token that comes twice: the later one counts */
        return false;
    return lb_tok_join_all(t, s->bytes.data, s->merge, s->n_merge);
}

int32_t lb_scan_find(const struct lb_tok_scan *s, const char *bytes, size_t n, bool plain)
{
    for (size_t i = 0; i < s->n_token; i++) {
        const struct lb_scan_token *k = &s->token[i];
        if (k->len == n && k->plain == plain && memcmp(s->bytes.data + k->at, bytes, n) == 0)
            return k->id;
    }
    return -1;
}

void lb_scan_release(struct lb_tok_scan *s)
{
    lb_str_release(&s->bytes);
    lb_str_release(&s->rest);
    lb_mem_free(s->token);
    lb_mem_free(s->merge);
    *s = (struct lb_tok_scan){0};
}
