/* Unigram models: the way to cut a word that has the best sum of scores (Viterbi), and the trie of pieces. */
#include <string.h>

#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define MAX_TRIE_BYTES ((size_t)1 << 26)

enum lb_status lb_trie_init(struct lb_trie *trie, size_t n_bytes, struct lb_err *err)
{
    size_t slots = 64;
    if (n_bytes > MAX_TRIE_BYTES)
        return lb_err_set(err, LB_E_INPUT, "%zu bytes of pieces: more than %zu", n_bytes, MAX_TRIE_BYTES);
    while (slots < 2 * n_bytes)
        slots *= 2;
    trie->cap = n_bytes + 1;
    trie->n_node = 1;
    trie->mask = slots - 1;
    trie->edge = lb_mem_new(slots, sizeof *trie->edge);
    trie->id = lb_mem_new(trie->cap, sizeof *trie->id);
    if (!trie->edge || !trie->id)
        return lb_err_memory(err, "pieces", slots * sizeof *trie->edge);
    for (size_t i = 0; i < trie->cap; i++)
        trie->id[i] = -1;
    return LB_OK;
}

void lb_trie_release(struct lb_trie *trie)
{
    lb_mem_free(trie->edge);
    lb_mem_free(trie->id);
    *trie = (struct lb_trie){0};
}

/* Slot of an edge: the one that holds it, or the free one where it belongs. Nodes are below 2^27, so that node and byte
 * fit 35 bits and the child the other 29. */
static uint64_t *edge_slot(const struct lb_trie *trie, uint32_t node, unsigned char byte)
{
    uint64_t key = (uint64_t)node << 8 | byte, h = key * 0x9E3779B97F4A7C15u;
    for (size_t i = (size_t)(h ^ h >> 32) & trie->mask;; i = (i + 1) & trie->mask) {
        uint64_t *e = &trie->edge[i];
        if (*e == 0 || *e >> 29 == key)
            return e;
    }
}

static uint32_t child_of(const struct lb_trie *trie, uint32_t node, unsigned char byte)
{
    if (node == 0)
        return trie->root[byte];
    return (uint32_t)(*edge_slot(trie, node, byte) & ((1u << 29) - 1));
}

void lb_trie_put(struct lb_trie *trie, const char *text, size_t n, int32_t id)
{
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        uint32_t child = child_of(trie, node, byte);
        if (child == 0) {
            child = (uint32_t)trie->n_node++;
            if (node == 0)
                trie->root[byte] = child;
            else
                *edge_slot(trie, node, byte) = ((uint64_t)node << 8 | byte) << 29 | child;
        }
        node = child;
    }
    if (n > 0)
        trie->id[node] = id;
}

static void reach(const struct lb_kind *k, struct lb_path *to, double score, int32_t id, size_t start)
{
    if (k->single)
        score = (double)(float)score;
    if (to->start >= 0 && score <= to->score)
        return;
    to->score = score;
    to->id = id;
    to->start = (int32_t)start;
}

/* Enters all pieces that begin at `start` (reached before), and the unknown character when no piece is that long. */
static void extend(const struct lb_tok *t, struct lb_path *path, struct lb_bytes word, size_t start, size_t n_char)
{
    const struct lb_kind *k = t->kind;
    double here = path[start].score;
    bool whole_char = false;
    uint32_t node = 0;
    for (size_t i = start; i < word.len; i++) {
        node = child_of(&k->trie, node, (unsigned char)word.data[i]);
        if (node == 0)
            break;
        int32_t id = k->trie.id[node];
        if (id < 0)
            continue;
        reach(k, &path[i + 1], k->score[id] + here, id, start);
        whole_char = whole_char || i + 1 - start == n_char;
    }
    if (!whole_char)
        reach(k, &path[start + n_char], k->unk_score + here, t->unk, start);
}

static enum lb_status put_piece(const struct lb_tok *t, struct lb_bytes text, int32_t id, struct lb_ids *out,
                                struct lb_err *err)
{
    const struct lb_kind *k = t->kind;
    if (id == t->unk && !k->single) { /* joined characters may be a piece that no way through them had */
        int32_t whole = lb_tok_find(t, text.data, text.len, false);
        if (whole >= 0)
            return lb_ids_put(out, whole, err);
    }
    bool all = id == t->unk && k->byte_fallback;
    for (size_t i = 0; i < text.len && all; i++)
        all = k->byte_id[(unsigned char)text.data[i]] >= 0;
    for (size_t i = 0; i < text.len && all; i++)
        LB_TRY(lb_ids_put(out, k->byte_id[(unsigned char)text.data[i]], err));
    if (all)
        return LB_OK;
    if (id < 0)
        return lb_err_set(err, LB_E_INPUT,
                          "cannot tokenize a text: it has characters that the vocabulary lacks, and "
                          "there is no unknown token");
    return lb_ids_put(out, id, err);
}

enum lb_status lb_unigram_word(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes word, struct lb_ids *out,
                               struct lb_err *err)
{
    size_t n = word.len;
    LB_TRY(lb_mem_grow((void **)&c->path, &c->path_cap, n + 1, sizeof *c->path, "a word", err));
    struct lb_path *path = c->path;
    for (size_t i = 0; i <= n; i++)
        path[i].start = -1;
    path[0].score = 0;
    int len;
    for (size_t i = 0; i < n; i += (size_t)len) {
        lb_utf8_decode(word.data + i, n - i, &len);
        extend(t, path, word, i, (size_t)len);
    }
    /* turn the way around: each place learns where its piece ends, which `id` of the place before no longer needs */
    int32_t end = (int32_t)n, next_id = -1, next_end = -1;
    while (end > 0) {
        int32_t start = path[end].start, id = path[end].id;
        path[end].id = next_id;
        path[end].start = next_end;
        next_id = id;
        next_end = end;
        end = start;
    }
    for (int32_t at = 0; next_end >= 0;) {
        int32_t id = next_id, stop = next_end;
        next_id = path[stop].id;
        next_end = path[stop].start;
        while (id == t->unk && next_end >= 0 && next_id == t->unk) { /* unknown characters in a row are one */
            stop = next_end;
            next_id = path[stop].id;
            next_end = path[stop].start;
        }
        LB_TRY(put_piece(t, (struct lb_bytes){word.data + at, (size_t)(stop - at)}, id, out, err));
        at = stop;
    }
    return LB_OK;
}
