/* The tokenizer.* keys of a GGUF file as a neutral vocabulary (llama.cpp gguf-py/gguf/constants.py names them). */
#include <string.h>

#include "core/base/mem.h"
#include "core/io/gguf.h"

#define KEY "tokenizer.ggml."

static uint64_t load(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

static enum lb_status wrong_type(const struct lb_gguf *g, const char *key, const char *want, struct lb_err *err)
{
    return lb_err_set(err, LB_E_INPUT, "%s: key '%s': not %s", g->path, key, want);
}

/* *out NULL, *n 0 when the key is absent. Lengths were checked when the metadata was read. */
static enum lb_status read_strings(struct lb_gguf *g, const char *key, const struct lb_bytes **out, size_t *n,
                                   struct lb_err *err)
{
    const struct lb_gguf_kv *kv = lb_gguf_find(g, key);
    *out = NULL;
    *n = 0;
    if (!kv)
        return LB_OK;
    if (kv->type != LB_GGUF_ARRAY || kv->elem != LB_GGUF_STRING)
        return wrong_type(g, key, "an array of strings", err);
    struct lb_bytes *list = lb_mem_new((size_t)kv->n, sizeof *list);
    if (!list)
        return lb_err_memory(err, "a vocabulary", (size_t)kv->n * sizeof *list);
    const uint8_t *p = kv->data;
    for (size_t i = 0; i < kv->n; i++) {
        list[i] = (struct lb_bytes){(const char *)p + 8, (size_t)load(p, 8)};
        p += 8 + list[i].len;
    }
    *out = list;
    *n = (size_t)kv->n;
    return LB_OK;
}

/* Copies an array of four-byte numbers, one for each token, to aligned memory. *out NULL when the key is absent. */
static enum lb_status read_words(struct lb_gguf *g, const char *key, enum lb_gguf_type elem, const char *want,
                                 uint32_t **out, struct lb_err *err)
{
    const struct lb_gguf_kv *kv = lb_gguf_find(g, key);
    *out = NULL;
    if (!kv)
        return LB_OK;
    if (kv->type != LB_GGUF_ARRAY || kv->elem != elem)
        return wrong_type(g, key, want, err);
    if (kv->n != g->vocab.n_token)
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s': %llu elements for %zu tokens", g->path, key,
                          (unsigned long long)kv->n, g->vocab.n_token);
    uint32_t *list = lb_mem_new((size_t)kv->n, sizeof *list);
    if (!list)
        return lb_err_memory(err, "a vocabulary", (size_t)kv->n * sizeof *list);
    for (size_t i = 0; i < kv->n; i++)
        list[i] = (uint32_t)load(kv->data + 4 * i, 4);
    *out = list;
    return LB_OK;
}

static enum lb_status read_types(struct lb_gguf *g, struct lb_err *err)
{
    uint32_t *words;
    LB_TRY(read_words(g, KEY "token_type", LB_GGUF_I32, "an array of i32", &words, err));
    g->vocab.type = (const int32_t *)words;
    for (size_t i = 0; words && i < g->vocab.n_token; i++)
        if (words[i] > LB_VOCAB_BYTE)
            return lb_err_set(err, LB_E_INPUT, "%s: key '%s': token %zu has type %d, which is not known", g->path,
                              KEY "token_type", i, (int)words[i]);
    return LB_OK;
}

static enum lb_status read_scores(struct lb_gguf *g, struct lb_err *err)
{
    uint32_t *words;
    LB_TRY(read_words(g, KEY "scores", LB_GGUF_F32, "an array of f32", &words, err));
    if (!words)
        return LB_OK;
    float *score = lb_mem_new(g->vocab.n_token, sizeof *score);
    if (score)
        memcpy(score, words, g->vocab.n_token * sizeof *score);
    lb_mem_free(words);
    g->vocab.score = score;
    return score ? LB_OK : lb_err_memory(err, "a vocabulary", g->vocab.n_token * sizeof *score);
}

/* -1, also as a u32, says that there is none. Without tokens an id is bounded by its type alone. */
static enum lb_status read_id(const struct lb_gguf *g, const char *key, int64_t *out, struct lb_err *err)
{
    int64_t limit = g->vocab.n_token ? (int64_t)g->vocab.n_token : INT32_MAX, v;
    *out = -1;
    if (!lb_gguf_find(g, key))
        return LB_OK;
    if (!lb_gguf_i64(g, key, &v))
        return wrong_type(g, key, "a whole number", err);
    if (v == -1 || v == UINT32_MAX)
        return LB_OK;
    if (v < 0 || v >= limit)
        return lb_err_set(err, LB_E_INPUT, "%s: key '%s': %lld is not the id of one of %lld tokens", g->path, key,
                          (long long)v, (long long)limit);
    *out = v;
    return LB_OK;
}

static enum lb_status read_flag(const struct lb_gguf *g, const char *key, int *out, struct lb_err *err)
{
    const struct lb_gguf_kv *kv = lb_gguf_find(g, key);
    *out = -1;
    if (!kv)
        return LB_OK;
    if (kv->type != LB_GGUF_BOOL)
        return wrong_type(g, key, "a bool", err);
    *out = kv->data[0];
    return LB_OK;
}

static enum lb_status read_text(const struct lb_gguf *g, const char *key, struct lb_bytes *out, struct lb_err *err)
{
    *out = (struct lb_bytes){"", 0};
    if (!lb_gguf_find(g, key))
        return LB_OK;
    return lb_gguf_str(g, key, out) ? LB_OK : wrong_type(g, key, "a string", err);
}

enum lb_status lb_gguf_read_vocab(struct lb_gguf *g, struct lb_err *err)
{
    struct lb_vocab *v = &g->vocab;
    LB_TRY(read_text(g, KEY "model", &v->model, err));
    LB_TRY(read_text(g, KEY "pre", &v->pre, err));
    LB_TRY(read_text(g, "tokenizer.chat_template", &v->chat_template, err));
    LB_TRY(read_strings(g, KEY "tokens", &v->token, &v->n_token, err));
    LB_TRY(read_strings(g, KEY "merges", &v->merge, &v->n_merge, err));
    if (v->n_token > INT32_MAX || v->n_merge > INT32_MAX)
        return lb_err_set(err, LB_E_INPUT, "%s: more than %d tokens or merges", g->path, INT32_MAX);
    LB_TRY(read_types(g, err));
    LB_TRY(read_scores(g, err));
    LB_TRY(read_id(g, KEY "bos_token_id", &v->bos, err));
    LB_TRY(read_id(g, KEY "eos_token_id", &v->eos, err));
    LB_TRY(read_id(g, KEY "eot_token_id", &v->eot, err));
    LB_TRY(read_id(g, KEY "eom_token_id", &v->eom, err));
    LB_TRY(read_id(g, KEY "unknown_token_id", &v->unk, err));
    LB_TRY(read_id(g, KEY "padding_token_id", &v->pad, err));
    LB_TRY(read_flag(g, KEY "add_bos_token", &v->add_bos, err));
    LB_TRY(read_flag(g, KEY "add_space_prefix", &v->add_space_prefix, err));
    if (v->n_token == 0)
        v->model = (struct lb_bytes){"", 0};
    return LB_OK;
}

void lb_gguf_drop_vocab(struct lb_gguf *g)
{
    struct lb_vocab *v = &g->vocab;
    lb_mem_free((void *)(uintptr_t)v->token);
    lb_mem_free((void *)(uintptr_t)v->merge);
    lb_mem_free((void *)(uintptr_t)v->type);
    lb_mem_free((void *)(uintptr_t)v->score);
    v->token = v->merge = NULL;
    v->type = NULL;
    v->score = NULL;
    v->n_token = v->n_merge = 0;
}
