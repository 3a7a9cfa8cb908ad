/* Byte-pair encoding over characters: files with byte_fallback or without ByteLevel (models.md 3.3), and
 * SentencePiece's BPE (3.7), whose scores became ranks while loading. */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

struct lb_kind *lb_kind_new(enum lb_model model)
{
    struct lb_kind *k = lb_mem_new(1, sizeof *k);
    if (!k)
        return NULL;
    k->model = model;
    k->decoder.fallback_at = -1;
    for (int b = 0; b < 256; b++)
        k->byte_id[b] = -1;
    return k;
}

void lb_kind_free(struct lb_kind *k)
{
    if (!k)
        return;
    lb_mem_free(k->prefix);
    lb_mem_free(k->suffix);
    lb_added_release(&k->user);
    lb_mem_free(k->split);
    lb_trie_release(&k->trie);
    lb_mem_free(k->score);
    lb_decoder_release(&k->decoder);
    lb_mem_free(k->piece);
    lb_mem_free(k);
}

/* The token's bytes. */
static struct lb_bytes bytes_of(const struct lb_tok *t, int64_t id)
{
    return (struct lb_bytes){t->pool.data + t->token[id].at, t->token[id].len};
}

static bool is_mark(const char *p)
{
    return memcmp(p, LB_SPACE_MARK, 3) == 0;
}

/* First place after the beginning where "▁" follows another character; the end when there is none. */
static size_t next_cut(struct lb_bytes text, size_t from)
{
    size_t i = from;
    while (i + 3 <= text.len && is_mark(text.data + i))
        i += 3;
    while (i + 3 <= text.len) {
        const char *at = memchr(text.data + i, LB_SPACE_MARK[0], text.len - i - 2);
        if (!at)
            break;
        i = (size_t)(at - text.data);
        if (i > from && is_mark(at))
            return i;
        i++;
    }
    return text.len;
}

/* A merge makes a token, so no merge crosses a place that no token has inside. "▁" must be a token itself, lest it
 * join a run of unknown characters. */
static bool may_cut(const struct lb_tok *t)
{
    if (lb_tok_find(t, LB_SPACE_MARK, 3, false) < 0 || t->ignore_merges || t->kind->prefix || t->kind->suffix ||
        t->kind->model == LB_MODEL_UNIGRAM)
        return false;
    for (int64_t id = 0; id < t->n_id; id++) {
        struct lb_bytes text = bytes_of(t, id);
        if ((t->token[id].flags & LB_TOKEN_PRESENT) && text.len > 3 && next_cut(text, 0) != text.len)
            return false;
    }
    for (size_t i = 0; i < t->kind->user.n; i++)
        if (next_cut((struct lb_bytes){t->kind->user.item[i].text, t->kind->user.item[i].len}, 0) <
            t->kind->user.item[i].len)
            return false;
    return true;
}

enum lb_status lb_kind_finish(struct lb_tok *t, struct lb_err *err)
{
    struct lb_kind *k = t->kind;
    for (int i = 0; i < 128; i++) {
        char c = (char)i;
        k->ascii_id[i] = lb_tok_find(t, &c, 1, false);
    }
    if (t->pool.failed)
        return lb_err_memory(err, "the vocabulary", t->pool.len);
    k->cut = may_cut(t);
    return lb_decoder_finish(t, err);
}

static int32_t char_id(const struct lb_tok *t, const char *text, size_t n)
{
    if (n == 1)
        return t->kind->ascii_id[text[0] & 0x7F];
    return lb_tok_find(t, text, n, false);
}

/* Bytes of what is no token, as symbols; false when one has no token. */
static bool put_bytes(const struct lb_kind *k, const char *text, size_t n, struct lb_symbol *s, size_t *m)
{
    for (size_t i = 0; i < n; i++)
        if (k->byte_id[(unsigned char)text[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        s[(*m)++].id = k->byte_id[(unsigned char)text[i]];
    return true;
}

/* One symbol a character, as the package tokenizers begins: an unknown one waits, so that those after it can join it,
 * and bytes pass it by. */
struct starter {
    const struct lb_tok *t;
    struct lb_symbol *s;
    size_t m;
    bool waiting;
};

static void start_char(struct starter *st, const char *text, size_t n)
{
    const struct lb_tok *t = st->t;
    int32_t id = char_id(t, text, n);
    if (id >= 0) {
        if (st->waiting)
            st->s[st->m++].id = t->unk;
        st->waiting = false;
        st->s[st->m++].id = id;
        return;
    }
    if (t->kind->byte_fallback && put_bytes(t->kind, text, n, st->s, &st->m))
        return;
    if (t->unk < 0)
        return;
    if (st->waiting && !t->fuse_unk)
        st->s[st->m++].id = t->unk;
    st->waiting = true;
}

static enum lb_status start_plain(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes word, size_t *m,
                                  struct lb_err *err)
{
    const struct lb_kind *k = t->kind;
    struct lb_str own = {0};
    size_t room = word.len * (1 + k->n_prefix) + k->n_suffix;
    int len;
    LB_TRY(lb_mem_grow((void **)&c->symbol, &c->symbol_cap, room, sizeof *c->symbol, "a word", err));
    struct starter st = {t, c->symbol, 0, false};
    for (size_t i = 0; i < word.len; i += (size_t)len) {
        lb_utf8_decode(word.data + i, word.len - i, &len);
        bool last = i + (size_t)len == word.len;
        if ((i == 0 || !k->prefix) && (!last || !k->suffix)) {
            start_char(&st, word.data + i, (size_t)len);
            continue;
        }
        lb_str_clear(&own);
        lb_str_put(&own, k->prefix, i > 0 ? k->n_prefix : 0);
        lb_str_put(&own, word.data + i, (size_t)len);
        lb_str_put(&own, k->suffix, last ? k->n_suffix : 0);
        if (!own.failed)
            start_char(&st, own.data, own.len);
    }
    if (st.waiting)
        st.s[st.m++].id = t->unk;
    *m = st.m;
    bool failed = own.failed;
    lb_str_release(&own);
    return failed ? lb_err_memory(err, "a word", word.len) : LB_OK;
}

/* Begins as sentencepiece does: user-defined pieces whole, characters of the vocabulary (or of its pieces alone: ids
 * from n_id on), else bytes or the unknown token. */
static enum lb_status start_sentence(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes word, size_t *m,
                                     struct lb_err *err)
{
    const struct lb_kind *k = t->kind;
    LB_TRY(lb_mem_grow((void **)&c->symbol, &c->symbol_cap, word.len, sizeof *c->symbol, "a word", err));
    *m = 0;
    for (size_t i = 0; i < word.len;) {
        const char *text = word.data + i;
        const struct lb_added *user = NULL;
        int len;
        if (k->user.n > 0 && k->user.first[(unsigned char)*text])
            user = lb_added_longest(&k->user, text, word.len - i);
        if (user) {
            c->symbol[(*m)++].id = user->id;
            i += user->len;
            continue;
        }
        lb_utf8_decode(text, word.len - i, &len);
        int32_t id = char_id(t, text, (size_t)len);
        if (id >= 0)
            c->symbol[(*m)++].id = id;
        else if ((!k->byte_fallback || !put_bytes(k, text, (size_t)len, c->symbol, m)) && t->unk >= 0)
            c->symbol[(*m)++].id = t->unk;
        i += (size_t)len;
    }
    return LB_OK;
}

static enum lb_status put_unknown(const struct lb_tok *t, int32_t id, struct lb_ids *out, struct lb_err *err)
{
    struct lb_bytes text = bytes_of(t, id);
    bool all = t->kind->byte_fallback;
    for (size_t i = 0; i < text.len && all; i++)
        all = t->kind->byte_id[(unsigned char)text.data[i]] >= 0;
    if (!all)
        return t->unk >= 0 ? lb_ids_put(out, t->unk, err) : LB_OK;
    for (size_t i = 0; i < text.len; i++)
        LB_TRY(lb_ids_put(out, t->kind->byte_id[(unsigned char)text.data[i]], err));
    return LB_OK;
}

/* A symbol's ids: unused pieces fall into what they were made of. Each part is shorter, at most LB_TOK_MAX_PIECE. */
static enum lb_status put_symbol(const struct lb_tok *t, int32_t id, struct lb_ids *out, struct lb_err *err)
{
    const int32_t *split = t->kind->split;
    while (split && id < t->n_id && split[2 * id] >= 0) {
        LB_TRY(put_symbol(t, split[2 * id], out, err));
        id = split[2 * id + 1];
    }
    return id >= t->n_id ? put_unknown(t, id, out, err) : lb_ids_put(out, id, err);
}

/* Runs of unknown characters are one unknown token. */
static enum lb_status put_sentence(const struct lb_tok *t, const struct lb_symbol *s, size_t m, struct lb_ids *out,
                                   struct lb_err *err)
{
    size_t from = out->n;
    for (size_t i = 0; i < m; i++) {
        size_t before = out->n;
        LB_TRY(put_symbol(t, s[i].id, out, err));
        if (t->fuse_unk && before > from && out->n == before + 1 && out->id[before] == t->unk &&
            out->id[before - 1] == t->unk)
            out->n = before;
    }
    return LB_OK;
}

static enum lb_status word_ids(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes word, struct lb_ids *out,
                               struct lb_err *err)
{
    size_t m;
    bool sentence = t->kind->model == LB_MODEL_SENTENCE;
    if (t->ignore_merges) {
        int32_t id = lb_tok_find(t, word.data, word.len, false);
        if (id >= 0)
            return lb_ids_put(out, id, err);
    }
    LB_TRY(sentence ? start_sentence(t, c, word, &m, err) : start_plain(t, c, word, &m, err));
    LB_TRY(lb_bpe_merge(t, c, &m, err));
    if (sentence)
        return put_sentence(t, c->symbol, m, out, err);
    for (size_t i = 0; i < m; i++)
        LB_TRY(lb_ids_put(out, c->symbol[i].id, err));
    return LB_OK;
}

enum lb_status lb_kind_word(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes word, struct lb_ids *out,
                            struct lb_err *err)
{
    if (t->kind->model == LB_MODEL_UNIGRAM)
        return lb_unigram_word(t, c, word, out, err);
    size_t stop = t->kind->cut ? next_cut(word, 0) : word.len;
    if (stop == word.len)
        return word_ids(t, c, word, out, err);
    for (size_t from = 0; from < word.len; from = stop, stop = next_cut(word, from))
        LB_TRY(lb_bpe_word(t, c, word.data + from, stop - from, out, err));
    return LB_OK;
}
