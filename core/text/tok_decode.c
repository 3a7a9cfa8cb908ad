/* Incremental decoding, and what the decoders of tokenizer.json make of a token (models.md 3.4, 3.9). */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define REPLACEMENT "\xef\xbf\xbd"

void lb_decoder_release(struct lb_decoder *d)
{
    for (int i = 0; i < d->n_part; i++)
        lb_norm_release(&d->part[i].replace);
    *d = (struct lb_decoder){0};
}

static struct lb_bytes bytes_of(const struct lb_str *s)
{
    return (struct lb_bytes){s->data ? s->data : "", s->len};
}

static void put_stripped(const struct lb_decode *p, struct lb_bytes in, struct lb_str *out)
{
    int len = 1;
    for (int i = 0; i < p->start && in.len > 0 && lb_utf8_decode(in.data, in.len, &len) == p->cp; i++)
        in = (struct lb_bytes){in.data + len, in.len - (size_t)len};
    for (int i = 0; i < p->stop && in.len > 0; i++) {
        size_t at = in.len - 1;
        while (at > 0 && ((unsigned char)in.data[at] & 0xC0) == 0x80)
            at--;
        if (lb_utf8_decode(in.data + at, in.len - at, &len) != p->cp)
            break;
        in.len = at;
    }
    lb_str_put(out, in.data, in.len);
}

static void put_unmarked(const struct lb_decode *p, bool first, struct lb_bytes in, struct lb_str *out)
{
    int len;
    for (size_t i = 0; i < in.len; i += (size_t)len) {
        if (lb_utf8_decode(in.data + i, in.len - i, &len) != p->cp)
            lb_str_put(out, in.data + i, (size_t)len);
        else if (!first || !p->drop_first)
            lb_str_putc(out, ' ');
    }
}

/* Runs parts [from, to) on one token's text; in the end it is in *text. `other` is scratch. */
static void run_parts(const struct lb_decoder *d, int from, int to, bool first, struct lb_str *text,
                      struct lb_str *other)
{
    for (int i = from; i < to; i++) {
        const struct lb_decode *p = &d->part[i];
        lb_str_clear(other);
        if (p->kind == LB_DECODE_REPLACE)
            lb_norm_replace(&p->replace, bytes_of(text), other);
        else if (p->kind == LB_DECODE_STRIP)
            put_stripped(p, bytes_of(text), other);
        else
            put_unmarked(p, first, bytes_of(text), other);
        struct lb_str swap = *text;
        *text = *other;
        *other = swap;
    }
}

static struct lb_bytes written(const struct lb_tok *t, int32_t id)
{
    return (struct lb_bytes){t->pool.data + t->token[id].at, t->token[id].len};
}

/* Value of "<0xHH>", or -1. The reference reads the two digits as a number, so that a sign may stand for the first. */
static int byte_token(struct lb_bytes text)
{
    static const char digits[] = "0123456789abcdef";
    int value = 0;
    if (text.len != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    for (int i = text.data[3] == '+' ? 4 : 3; i < 5; i++) {
        char c = text.data[i];
        const char *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
        if (!at)
            return -1;
        value = value * 16 + (int)(at - digits);
    }
    return value;
}

static enum lb_status finish_piece(struct lb_tok *t, int32_t id, struct lb_str text[2], struct lb_err *err)
{
    const struct lb_decoder *d = &t->kind->decoder;
    struct lb_token *piece = &t->kind->piece[id];
    int byte = d->fallback_at >= 0 ? byte_token(written(t, id)) : -1;
    lb_str_clear(&text[0]);
    if (byte >= 0) {
        t->token[id].flags |= LB_TOKEN_BYTE;
        lb_str_putc(&text[0], (char)byte);
    } else {
        struct lb_bytes from = written(t, id);
        lb_str_put(&text[0], from.data, from.len);
        run_parts(d, 0, d->n_part, false, &text[0], &text[1]);
    }
    if (d->bytes) {
        lb_str_clear(&text[1]);
        lb_tok_unmap(bytes_of(&text[0]).data, text[0].len, &text[1]);
    }
    struct lb_bytes to = bytes_of(&text[d->bytes]);
    *piece = (struct lb_token){t->pool.len, (uint32_t)to.len, 0};
    lb_str_put(&t->pool, to.data, to.len);
    if (text[0].failed || text[1].failed || t->pool.failed || to.len > UINT32_MAX)
        return lb_err_memory(err, "the vocabulary", to.len);
    return LB_OK;
}

enum lb_status lb_decoder_finish(struct lb_tok *t, struct lb_err *err)
{
    struct lb_str text[2] = {{0}, {0}};
    enum lb_status status = LB_OK;
    t->kind->piece = lb_mem_new((size_t)t->n_id, sizeof *t->kind->piece);
    if (!t->kind->piece)
        return lb_err_memory(err, "the vocabulary", (size_t)t->n_id * sizeof *t->kind->piece);
    for (int64_t id = 0; id < t->n_id && status == LB_OK; id++)
        if (t->token[id].flags & LB_TOKEN_PRESENT)
            status = finish_piece(t, (int32_t)id, text, err);
    lb_str_release(&text[0]);
    lb_str_release(&text[1]);
    return status;
}

struct lb_bytes lb_kind_piece(const struct lb_tok *t, int32_t id)
{
    const struct lb_token *k = &t->kind->piece[id];
    return (struct lb_bytes){t->pool.data + k->at, k->len};
}

/* One token's decoded text goes out: the joining space, and what is taken off the front of the whole. */
static void emit(struct lb_detok *d, struct lb_bytes text, struct lb_str *out)
{
    const struct lb_decoder *dec = &d->tok->kind->decoder;
    if (dec->spaced && d->n_token > 0)
        lb_str_putc(out, ' ');
    d->n_token++;
    while (!d->begun && text.len > 0) {
        int len;
        uint32_t cp = lb_utf8_decode(text.data, text.len, &len);
        d->begun = d->n_stripped == dec->n_strip || cp != dec->strip_cp;
        if (d->begun)
            break;
        d->n_stripped++;
        text = (struct lb_bytes){text.data + len, text.len - (size_t)len};
    }
    lb_str_put_utf8_lossy(out, text.data, text.len);
}

/* A run of byte tokens is over: it is text, or each byte is U+FFFD. */
static void end_run(struct lb_detok *d, struct lb_str *out)
{
    const struct lb_decoder *dec = &d->tok->kind->decoder;
    if (d->held.len == 0)
        return;
    bool valid = lb_utf8_valid_prefix(d->held.data, d->held.len) == d->held.len;
    struct lb_str other = {0};
    size_t n = valid ? 1 : d->held.len;
    for (size_t i = 0; i < n; i++) {
        lb_str_clear(&d->text);
        lb_str_put(&d->text, valid ? d->held.data : REPLACEMENT, valid ? d->held.len : 3);
        if (dec->n_part > dec->fallback_at)
            run_parts(dec, dec->fallback_at, dec->n_part, d->n_token == 0, &d->text, &other);
        emit(d, bytes_of(&d->text), out);
    }
    out->failed = out->failed || d->text.failed || other.failed;
    lb_str_release(&other);
    lb_str_clear(&d->held);
}

/* In the first token a mark may vanish: its text is worked out anew. */
static void put_first(struct lb_detok *d, int32_t id, struct lb_str *out)
{
    const struct lb_decoder *dec = &d->tok->kind->decoder;
    struct lb_bytes from = written(d->tok, id);
    struct lb_str other = {0};
    lb_str_clear(&d->text);
    lb_str_put(&d->text, from.data, from.len);
    run_parts(dec, 0, dec->n_part, true, &d->text, &other);
    emit(d, bytes_of(&d->text), out);
    out->failed = out->failed || d->text.failed || other.failed;
    lb_str_release(&other);
}

static void put_text(struct lb_detok *d, int32_t id, struct lb_str *out)
{
    const struct lb_tok *t = d->tok;
    if (id < 0 || id >= t->n_id || !t->token || !(t->token[id].flags & LB_TOKEN_PRESENT))
        return;
    struct lb_bytes piece = lb_kind_piece(t, id);
    if (t->token[id].flags & LB_TOKEN_BYTE) {
        lb_str_put(&d->held, piece.data, piece.len);
        out->failed = out->failed || d->held.failed;
        return;
    }
    end_run(d, out);
    if (d->n_token == 0 && t->kind->decoder.n_part > 0)
        put_first(d, id, out);
    else
        emit(d, piece, out);
}

/* How many bytes at the end begin a character that later bytes may complete (0 to 3). */
static size_t open_tail(const char *text, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char lead = (unsigned char)text[n - k];
        if ((lead & 0xC0) == 0x80)
            continue;
        size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
        if (lead < 0xC2 || lead > 0xF4 || need <= k)
            return 0;
        /* only the second byte's range depends on the first: complete the rest with any continuation byte */
        char whole[4] = {(char)lead, (char)0x80, (char)0x80, (char)0x80};
        if (k == 1)
            return 1;
        memcpy(whole, text + n - k, k);
        return lb_utf8_valid_prefix(whole, need) == need ? k : 0;
    }
    return 0;
}

void lb_detok_put(struct lb_detok *d, int32_t id, struct lb_str *out)
{
    if (d->skip_special && lb_tok_special(d->tok, id))
        return;
    if (d->tok->kind && !d->tok->kind->decoder.bytes) {
        put_text(d, id, out);
        return;
    }
    struct lb_bytes piece = lb_tok_piece(d->tok, id);
    if (d->held.len == 0) {
        size_t whole = piece.len - open_tail(piece.data, piece.len);
        lb_str_put_utf8_lossy(out, piece.data, whole);
        lb_str_put(&d->held, piece.data + whole, piece.len - whole);
    } else {
        lb_str_put(&d->held, piece.data, piece.len);
        size_t n = d->held.len, whole = n - open_tail(d->held.data, n);
        lb_str_put_utf8_lossy(out, d->held.data, whole);
        memmove(d->held.data, d->held.data + whole, n - whole);
        d->held.len = n - whole;
    }
    out->failed = out->failed || d->held.failed;
}

void lb_detok_flush(struct lb_detok *d, struct lb_str *out)
{
    if (d->tok->kind && !d->tok->kind->decoder.bytes)
        end_run(d, out);
    else if (d->held.len > 0)
        lb_str_put_utf8_lossy(out, d->held.data, d->held.len);
    lb_str_clear(&d->held);
    d->n_token = 0;
    d->n_stripped = 0;
    d->begun = false;
}

void lb_detok_release(struct lb_detok *d)
{
    lb_str_release(&d->held);
    lb_str_release(&d->text);
}
