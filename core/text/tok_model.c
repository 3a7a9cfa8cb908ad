/* Models of tokenizer.json that are not byte-level BPE: BPE over characters and Unigram (models.md 3.3). */
#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define UNK_PENALTY 10.0

static enum lb_status copy_affix(const struct lb_tok_load *l, const json_t *model, const char *key, char **out,
                                 size_t *n)
{
    const json_t *v = json_object_get(model, key);
    if (!json_is_string(v) || json_string_length(v) == 0)
        return LB_OK;
    *n = json_string_length(v);
    *out = lb_mem_strndup(json_string_value(v), *n);
    return *out ? LB_OK : lb_err_memory(l->err, key, *n);
}

static enum lb_status add_vocab(struct lb_tok_load *l, json_t *vocab)
{
    for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
        const char *key = json_object_iter_key(it);
        size_t n = json_object_iter_key_len(it);
        int32_t id = lb_tok_json_id(json_object_iter_value(it));
        if (!lb_tok_set(l->t, id, key, n, 0, true))
            return lb_tok_bad(l, "model.vocab: %s has id %d, which another token has", lb_tok_shown(&l->shown, key, n),
                              (int)id);
    }
    return l->t->pool.failed ? lb_err_memory(l->err, "the vocabulary", l->t->pool.len) : LB_OK;
}

/* A merge's result is the left text and the right one without the prefix that both would have. */
static bool add_merge(struct lb_tok_load *l, struct lb_bytes left, struct lb_bytes right, uint32_t rank)
{
    struct lb_tok *t = l->t;
    size_t cut = t->kind->n_prefix < right.len ? t->kind->n_prefix : right.len;
    lb_str_clear(&l->text);
    lb_str_put(&l->text, left.data, left.len);
    lb_str_put(&l->text, right.data + cut, right.len - cut);
    int32_t a = lb_tok_find(t, left.data, left.len, false), b = lb_tok_find(t, right.data, right.len, false);
    int32_t c = l->text.failed ? -1 : lb_tok_find(t, l->text.data ? l->text.data : "", l->text.len, false);
    if (a < 0 || b < 0 || c < 0)
        return false;
    struct lb_merge m = {(uint64_t)(uint32_t)a << 32 | (uint32_t)b, rank, c};
    lb_tok_put_merge(t, &m);
    return true;
}

static enum lb_status add_merges(struct lb_tok_load *l, const json_t *merges)
{
    uint32_t rank = 0;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *v = json_array_get(merges, i);
        struct lb_bytes left, right;
        const char *text = json_string_value(v);
        if (text && strncmp(text, "#version", 8) == 0)
            continue;
        if (!lb_tok_read_merge(v, &left, &right))
            return lb_tok_bad(l, "model.merges[%zu] is not two tokens", i);
        if (!add_merge(l, left, right, rank++))
            return lb_tok_bad(l, "model.merges[%zu] names a token that model.vocab lacks", i);
    }
    return LB_OK;
}

static void find_byte_tokens(struct lb_tok *t)
{
    static const char hex[] = "0123456789ABCDEF";
    for (int b = 0; b < 256; b++) {
        char name[6] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};
        t->kind->byte_id[b] = lb_tok_find(t, name, sizeof name, false);
    }
}

static enum lb_status load_chars(struct lb_tok_load *l, const json_t *model)
{
    struct lb_tok *t = l->t;
    struct lb_kind *k = t->kind;
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    const json_t *unk = json_object_get(model, "unk_token");
    if (!json_is_object(vocab) || t->n_id == 0)
        return lb_tok_bad(l, "model.vocab is not an object with tokens");
    if (!json_is_array(merges))
        return lb_tok_bad(l, "model.merges is not an array");
    LB_TRY(copy_affix(l, model, "continuing_subword_prefix", &k->prefix, &k->n_prefix));
    LB_TRY(copy_affix(l, model, "end_of_word_suffix", &k->suffix, &k->n_suffix));
    if (k->n_prefix + k->n_suffix > LB_TOK_MAX_PIECE)
        return lb_tok_bad(l, "continuing_subword_prefix and end_of_word_suffix are longer than %d bytes",
                          LB_TOK_MAX_PIECE);
    LB_TRY(lb_tok_reserve(t, t->n_id, json_object_size(vocab), json_array_size(merges), l->err));
    LB_TRY(add_vocab(l, vocab));
    LB_TRY(add_merges(l, merges));
    find_byte_tokens(t);
    k->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    if (!json_is_string(unk))
        return LB_OK;
    t->unk = lb_tok_find(t, json_string_value(unk), json_string_length(unk), false);
    return t->unk >= 0 ? LB_OK : lb_tok_bad(l, "model.unk_token is not in model.vocab");
}

static enum lb_status add_piece(struct lb_tok_load *l, const json_t *v, size_t i, double *least)
{
    const json_t *text = json_array_get(v, 0), *score = json_array_get(v, 1);
    if (!json_is_string(text) || !json_is_real(score) || !isfinite(json_real_value(score)))
        return lb_tok_bad(l, "model.vocab[%zu] is not a string with a score", i);
    l->t->kind->score[i] = json_real_value(score);
    *least = i == 0 || json_real_value(score) < *least ? json_real_value(score) : *least;
    lb_tok_set(l->t, (int32_t)i, json_string_value(text), json_string_length(text), 0, true);
    return LB_OK;
}

static enum lb_status load_unigram(struct lb_tok_load *l, const json_t *model)
{
    struct lb_tok *t = l->t;
    struct lb_kind *k = t->kind;
    const json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_id");
    size_t n = json_array_size(vocab), n_bytes = 0;
    double least = 0;
    if (n == 0 || n >= LB_TOK_MAX_ID)
        return lb_tok_bad(l, "model.vocab is not an array with pieces");
    LB_TRY(lb_tok_reserve(t, t->n_id, n, 0, l->err));
    k->score = lb_mem_new((size_t)t->n_id, sizeof *k->score);
    if (!k->score)
        return lb_err_memory(l->err, "scores", (size_t)t->n_id * sizeof *k->score);
    for (size_t i = 0; i < n; i++) {
        LB_TRY(add_piece(l, json_array_get(vocab, i), i, &least));
        n_bytes += json_string_length(json_array_get(json_array_get(vocab, i), 0));
    }
    if (lb_trie_init(&k->trie, n_bytes, l->err) != LB_OK)
        return lb_err_where(l->err, "cannot use '%s': model.vocab", l->path);
    for (size_t i = 0; i < n; i++) {
        const json_t *text = json_array_get(json_array_get(vocab, i), 0);
        lb_trie_put(&k->trie, json_string_value(text), json_string_length(text), (int32_t)i);
    }
    k->unk_score = least - UNK_PENALTY;
    find_byte_tokens(t);
    k->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    if (!unk || json_is_null(unk))
        return LB_OK;
    t->unk = lb_tok_json_id(unk);
    return t->unk >= 0 && (size_t)t->unk < n ? LB_OK : lb_tok_bad(l, "model.unk_id is no place in model.vocab");
}

enum lb_status lb_tok_load_kind(struct lb_tok_load *l, const json_t *model)
{
    return l->t->kind->model == LB_MODEL_UNIGRAM ? load_unigram(l, model) : load_chars(l, model);
}
