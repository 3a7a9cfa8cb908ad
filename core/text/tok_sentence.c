/* Tokenizers from SentencePiece vocabularies: GGUF "llama" files and tokenizer.model (models.md 3.7). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define MAX_CODEPOINT 0x110000u
#define UNK_PENALTY 10.0f
#define MAX_UNUSED 128 /* bytes of an unused piece */

static int type_of(const struct lb_vocab *v, size_t i)
{
    return v->type ? v->type[i] : LB_VOCAB_NORMAL;
}

static bool is_ordinary(int type)
{
    return type == LB_VOCAB_NORMAL || type == LB_VOCAB_USER || type == LB_VOCAB_UNUSED;
}

static enum lb_status check_pieces(const struct lb_vocab *v, struct lb_err *err)
{
    if (v->n_token == 0)
        return lb_err_set(err, LB_E_INPUT, "the vocabulary has no pieces");
    if (v->n_token >= LB_TOK_MAX_ID)
        return lb_err_set(err, LB_E_INPUT, "%zu pieces are more than a tokenizer may have", v->n_token);
    if (!v->score)
        return lb_err_set(err, LB_E_INPUT, "the vocabulary has no scores");
    for (size_t i = 0; i < v->n_token; i++) {
        if (!isfinite(v->score[i]))
            return lb_err_set(err, LB_E_INPUT, "piece %zu: its score is no finite number", i);
        if (v->token[i].len > LB_TOK_MAX_PIECE && is_ordinary(type_of(v, i)))
            return lb_err_set(err, LB_E_INPUT, "piece %zu has %zu bytes: more than %d", i, v->token[i].len,
                              LB_TOK_MAX_PIECE);
    }
    return LB_OK;
}

/* Marks, in a map of code points, the characters of longer pieces that are no pieces themselves; returns how many. */
static size_t find_lacking(const struct lb_vocab *v, bool *lacking)
{
    size_t n = 0;
    int len;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < v->n_token; i++) {
            struct lb_bytes p = v->token[i];
            if (p.len == 0 || !is_ordinary(type_of(v, i)))
                continue;
            uint32_t cp = lb_utf8_decode(p.data, p.len, &len);
            bool single = (size_t)len == p.len;
            if (pass == 1 && single)
                lacking[cp] = false;
            for (size_t k = 0; pass == 0 && !single && k < p.len; k += (size_t)len)
                lacking[lb_utf8_decode(p.data + k, p.len - k, &len)] = true;
        }
    }
    for (size_t cp = 0; cp < MAX_CODEPOINT; cp++)
        n += lacking[cp];
    return n;
}

static enum lb_status add_named(struct lb_tok *t, const struct lb_sentence_spec *spec, const struct lb_added *a,
                                struct lb_err *err)
{
    if (a->special)
        t->token[a->id].flags |= LB_TOKEN_SPECIAL;
    if (spec->named)
        return lb_added_put(spec->named, a, err);
    LB_TRY(lb_added_put(&t->named, a, err));
    return lb_added_put(&t->raw, a, err);
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void set_byte(struct lb_tok *t, int32_t id, struct lb_bytes p)
{
    if (p.len == 6 && memcmp(p.data, "<0x", 3) == 0 && p.data[5] == '>' && hex(p.data[3]) >= 0 && hex(p.data[4]) >= 0)
        t->kind->byte_id[hex(p.data[3]) * 16 + hex(p.data[4])] = id;
}

static enum lb_status add_piece(struct lb_tok *t, const struct lb_vocab *v, struct lb_sentence_spec *spec, int32_t id,
                                struct lb_err *err)
{
    struct lb_bytes p = v->token[id];
    int type = type_of(v, (size_t)id);
    bool listed = is_ordinary(type) && p.len > 0 && lb_tok_find(t, p.data, p.len, false) < 0;
    bool joins = listed && type != LB_VOCAB_USER, special = type == LB_VOCAB_CONTROL || type == LB_VOCAB_UNKNOWN;
    struct lb_added a = {.text = (char *)(uintptr_t)p.data, .len = p.len, .id = id, .special = special};
    lb_tok_set(t, id, p.data, p.len, joins ? LB_TOKEN_JOINS : 0, listed);
    if (type == LB_VOCAB_BYTE)
        set_byte(t, id, p);
    if (type == LB_VOCAB_UNKNOWN && t->unk < 0)
        t->unk = id;
    if (special || (type == LB_VOCAB_USER && spec->user_added))
        return add_named(t, spec, &a, err);
    if (type != LB_VOCAB_USER)
        return LB_OK;
    LB_TRY(lb_added_put(&spec->norm.user, &a, err));
    return lb_added_put(&t->kind->user, &a, err);
}

/* Characters that only occur inside of pieces get ids from n_id on, for merges to name them. */
static void add_lacking(struct lb_tok *t, const bool *lacking, struct lb_str *scratch)
{
    int32_t id = (int32_t)t->n_id;
    for (uint32_t cp = 0; cp < MAX_CODEPOINT; cp++) {
        if (!lacking[cp])
            continue;
        lb_str_clear(scratch);
        lb_str_put_codepoint(scratch, cp);
        if (!scratch->failed)
            lb_tok_set(t, id++, scratch->data, scratch->len, LB_TOKEN_JOINS, true);
    }
}

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *x, const void *y)
{
    const struct scored *a = x, *b = y;
    if (a->score != b->score)
        return a->score < b->score ? 1 : -1;
    return (a->id > b->id) - (a->id < b->id);
}

/* The highest score merges first; equal scores are one rank. */
static enum lb_status add_merges(struct lb_tok *t, const struct lb_vocab *v, struct lb_err *err)
{
    size_t n = v->n_token, n_id = (size_t)t->n_id;
    struct scored *order = lb_mem_new(n, sizeof *order);
    uint32_t *rank = lb_mem_new(n_id, sizeof *rank);
    enum lb_status status = order && rank ? LB_OK : lb_err_memory(err, "merges", n * sizeof *order);
    for (size_t i = 0; i < n && status == LB_OK; i++)
        order[i] = (struct scored){v->score[i], (int32_t)i};
    if (status == LB_OK) {
        qsort(order, n, sizeof *order, by_score);
        for (size_t i = 0; i < n; i++)
            rank[order[i].id] = i > 0 && order[i].score == order[i - 1].score ? rank[order[i - 1].id] : (uint32_t)i;
        status = lb_tok_merges_from_splits(t, rank, true, err);
    }
    lb_mem_free(order);
    lb_mem_free(rank);
    return status;
}

/* What an unused piece is made of last: its own characters merged until they would become it. */
static void find_split(struct lb_tok *t, int32_t id)
{
    const char *text = t->pool.data + t->token[id].at;
    size_t n = t->token[id].len, m = 0;
    int32_t part[MAX_UNUSED];
    int len;
    for (size_t i = 0; i < n; i += (size_t)len) {
        lb_utf8_decode(text + i, n - i, &len);
        part[m++] = lb_tok_find(t, text + i, (size_t)len, false);
    }
    while (m > 1) {
        const struct lb_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < m; i++) {
            const struct lb_merge *pair = lb_tok_find_merge(t, part[i], part[i + 1]);
            if (pair && (!best || pair->rank < best->rank)) {
                best = pair;
                at = i;
            }
        }
        if (!best)
            return;
        if (best->id == id) {
            t->kind->split[2 * id] = part[at];
            t->kind->split[2 * id + 1] = part[at + 1];
            return;
        }
        part[at] = best->id;
        m--;
        memmove(part + at + 1, part + at + 2, (m - at - 1) * sizeof *part);
    }
}

static enum lb_status split_unused(struct lb_tok *t, const struct lb_vocab *v, struct lb_err *err)
{
    size_t n = v->n_token, n_unused = 0;
    for (size_t i = 0; i < n; i++)
        n_unused += type_of(v, i) == LB_VOCAB_UNUSED;
    if (n_unused == 0)
        return LB_OK;
    size_t n_split = 2 * (size_t)t->n_id;
    t->kind->split = lb_mem_new(n_split, sizeof *t->kind->split);
    if (!t->kind->split)
        return lb_err_memory(err, "unused pieces", n_split * sizeof *t->kind->split);
    for (size_t i = 0; i < n_split; i++)
        t->kind->split[i] = -1;
    for (size_t i = 0; i < n; i++) {
        if (type_of(v, i) != LB_VOCAB_UNUSED || !(t->token[i].flags & LB_TOKEN_JOINS))
            continue;
        if (t->token[i].len > MAX_UNUSED)
            return lb_err_set(err, LB_E_INPUT, "piece %zu is unused and has %u bytes: more than %d", i,
                              (unsigned)t->token[i].len, MAX_UNUSED);
        find_split(t, (int32_t)i);
    }
    return LB_OK;
}

/* Scores of a Unigram model as sentencepiece computes with them. */
static enum lb_status add_scores(struct lb_tok *t, const struct lb_vocab *v, struct lb_err *err)
{
    struct lb_kind *k = t->kind;
    float least = 0, most = 0;
    size_t n_bytes = 0;
    bool any = false;
    for (size_t i = 0; i < v->n_token; i++) {
        n_bytes += v->token[i].len;
        if (type_of(v, i) != LB_VOCAB_NORMAL)
            continue;
        least = !any || v->score[i] < least ? v->score[i] : least;
        most = !any || v->score[i] > most ? v->score[i] : most;
        any = true;
    }
    k->single = true;
    k->unk_score = (double)(least - UNK_PENALTY);
    k->score = lb_mem_new(v->n_token, sizeof *k->score);
    if (!k->score)
        return lb_err_memory(err, "scores", v->n_token * sizeof *k->score);
    LB_TRY(lb_trie_init(&k->trie, n_bytes, err));
    for (size_t i = 0; i < v->n_token; i++) {
        struct lb_bytes p = v->token[i];
        int type = type_of(v, i);
        k->score[i] = (double)v->score[i];
        if (type == LB_VOCAB_USER)
            k->score[i] = (double)((float)p.len * most - 0.1f);
        if ((type == LB_VOCAB_NORMAL || type == LB_VOCAB_USER) && lb_tok_find(t, p.data, p.len, false) == (int32_t)i)
            lb_trie_put(&k->trie, p.data, p.len, (int32_t)i);
    }
    return LB_OK;
}

static enum lb_status add_pieces(struct lb_tok *t, const struct lb_vocab *v, struct lb_sentence_spec *spec,
                                 struct lb_err *err)
{
    struct lb_str scratch = {0};
    enum lb_status status = LB_OK;
    bool *lacking = lb_mem_new(MAX_CODEPOINT, sizeof *lacking);
    if (!lacking)
        return lb_err_memory(err, "a vocabulary", MAX_CODEPOINT);
    size_t n = v->n_token, n_lacking = spec->unigram ? 0 : find_lacking(v, lacking);
    size_t n_id = spec->n_id > (int64_t)n ? (size_t)spec->n_id : n;
    LB_TRY_OUT(status, lb_tok_reserve(t, (int64_t)(n_id + n_lacking), n + n_lacking, 0, err));
    t->n_id = (int64_t)n_id;
    for (size_t i = 0; i < n; i++)
        LB_TRY_OUT(status, add_piece(t, v, spec, (int32_t)i, err));
    if (n_lacking > 0)
        add_lacking(t, lacking, &scratch);
    if (t->pool.failed || scratch.failed)
        status = lb_err_memory(err, "the vocabulary", t->pool.len);
out:
    lb_str_release(&scratch);
    lb_mem_free(lacking);
    return status;
}

/* "▁" is a space again, runs of byte tokens are text, and one space at the start is the one that was put there. */
static enum lb_status set_decoder(struct lb_tok *t, const struct lb_norm *norm, struct lb_err *err)
{
    struct lb_decoder *d = &t->kind->decoder;
    if (norm->escape) {
        struct lb_decode *p = &d->part[d->n_part++];
        p->kind = LB_DECODE_REPLACE;
        p->replace.kind = LB_NORM_REPLACE;
        p->replace.find = lb_mem_strdup(LB_SPACE_MARK);
        p->replace.text = lb_mem_strdup(" ");
        if (!p->replace.find || !p->replace.text)
            return lb_err_memory(err, "a decoder", 4);
        p->replace.n_find = 3;
        p->replace.n_text = 1;
    }
    d->fallback_at = d->n_part;
    d->joined = true;
    d->strip_cp = ' ';
    d->n_strip = norm->dummy_prefix && !norm->at_end;
    return LB_OK;
}

enum lb_status lb_sentence_build(struct lb_tok *t, const struct lb_vocab *v, struct lb_sentence_spec *spec,
                                 struct lb_err *err)
{
    LB_TRY(check_pieces(v, err));
    t->kind = lb_kind_new(spec->unigram ? LB_MODEL_UNIGRAM : LB_MODEL_SENTENCE);
    if (!t->kind)
        return lb_err_memory(err, "a tokenizer", sizeof *t->kind);
    t->kind->byte_fallback = spec->byte_fallback;
    t->fuse_unk = true;
    LB_TRY(add_pieces(t, v, spec, err));
    lb_added_sort(&spec->norm.user);
    lb_added_sort(&t->kind->user);
    LB_TRY(set_decoder(t, &spec->norm, err));
    struct lb_norm norm = spec->norm;
    spec->norm = (struct lb_norm){0};
    LB_TRY(lb_norm_add(t, &norm, err));
    if (spec->unigram) {
        LB_TRY(add_scores(t, v, err));
        return LB_OK;
    }
    LB_TRY(add_merges(t, v, err));
    return split_unused(t, v, err);
}
