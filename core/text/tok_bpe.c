/* Vocabulary and merge tables, and byte-pair encoding of one word (models.md 3.3). */
#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/text/tok_impl.h"

#define CACHE_SLOTS ((size_t)1 << 15) /* of 64 bytes: 2 MiB a context */
#define SCAN_MAX 40                   /* words up to this many symbols are merged by scanning */

static size_t table_slots(size_t n)
{
    size_t slots = 64;
    while (slots < n * 2)
        slots *= 2;
    return slots;
}

enum lb_status lb_tok_reserve(struct lb_tok *t, int64_t n_id, size_t n_token, size_t n_merge, struct lb_err *err)
{
    size_t n_slot = table_slots(n_token), n_pair = table_slots(n_merge);
    t->n_id = n_id;
    t->token = lb_mem_new((size_t)n_id, sizeof *t->token);
    t->vocab = lb_mem_new(n_slot, sizeof *t->vocab);
    t->merge = lb_mem_new(n_pair, sizeof *t->merge);
    if (!t->token || !t->vocab || !t->merge)
        return lb_err_memory(err, "the vocabulary",
                             (size_t)n_id * sizeof *t->token + n_slot * sizeof *t->vocab + n_pair * sizeof *t->merge);
    t->vocab_mask = n_slot - 1;
    t->merge_mask = n_pair - 1;
    for (size_t i = 0; i < n_slot; i++)
        t->vocab[i].id = -1;
    for (size_t i = 0; i < n_pair; i++)
        t->merge[i].key = UINT64_MAX;
    return LB_OK;
}

bool lb_tok_unmap(const char *text, size_t n, struct lb_str *out)
{
    size_t at = out->len;
    lb_str_put(out, text, n);
    if (out->failed || n == 0)
        return true;
    char *begin = out->data + at, *to = begin; /* what it stands for is never longer than what is written */
    for (size_t i = 0; i < n;) {
        int len = 1, byte = (unsigned char)text[i];
        if (byte < 33 || byte > 126)
            byte = lb_tok_byte_of(lb_utf8_decode(text + i, n - i, &len));
        if (byte < 0) {
            memcpy(begin, text, n);
            return false;
        }
        *to++ = (char)byte;
        i += (size_t)len;
    }
    *to = 0;
    out->len = at + (size_t)(to - begin);
    return true;
}

static bool same_token(const struct lb_tok *t, int32_t id, const char *bytes, size_t n, bool plain)
{
    const struct lb_token *k = &t->token[id];
    return k->len == n && ((k->flags & LB_TOKEN_PLAIN) != 0) == plain &&
           (n == 0 || memcmp(t->pool.data + k->at, bytes, n) == 0);
}

/* Slot of these bytes: the one that holds them or the free one where they belong. Half of the slots stay free. */
static struct lb_vocab_slot *vocab_slot(const struct lb_tok *t, const char *bytes, size_t n, bool plain)
{
    uint64_t h = lb_hash64(bytes, n, plain);
    uint32_t tag = (uint32_t)(h >> 32);
    for (size_t i = h & t->vocab_mask;; i = (i + 1) & t->vocab_mask) {
        struct lb_vocab_slot *s = &t->vocab[i];
        if (s->id < 0 || (s->tag == tag && same_token(t, s->id, bytes, n, plain))) {
            s->tag = tag;
            return s;
        }
    }
}

int32_t lb_tok_find(const struct lb_tok *t, const char *bytes, size_t n, bool plain)
{
    uint64_t h = lb_hash64(bytes, n, plain);
    uint32_t tag = (uint32_t)(h >> 32);
    for (size_t i = h & t->vocab_mask;; i = (i + 1) & t->vocab_mask) {
        const struct lb_vocab_slot *s = &t->vocab[i];
        if (s->id < 0)
            return -1;
        if (s->tag == tag && same_token(t, s->id, bytes, n, plain))
            return s->id;
    }
}

bool lb_tok_set(struct lb_tok *t, int32_t id, const char *bytes, size_t n, uint32_t flags, bool listed)
{
    struct lb_token *k = &t->token[id];
    if (k->flags & LB_TOKEN_PRESENT)
        return false;
    *k = (struct lb_token){t->pool.len, (uint32_t)n, flags | LB_TOKEN_PRESENT};
    lb_str_put(&t->pool, bytes, n);
    if (listed && !t->pool.failed)
        vocab_slot(t, bytes, n, (flags & LB_TOKEN_PLAIN) != 0)->id = id;
    return true;
}

size_t lb_tok_n_listed(const struct lb_tok *t)
{
    size_t n = 0;
    for (size_t i = 0; i <= t->vocab_mask; i++)
        n += t->vocab[i].id >= 0;
    return n;
}

void lb_tok_find_bytes(struct lb_tok *t)
{
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        t->byte_id[b] = lb_tok_find(t, &c, 1, false);
    }
}

static size_t merge_hash(uint64_t key)
{
    key *= 0x9E3779B97F4A7C15u;
    return (size_t)(key ^ key >> 29);
}

static struct lb_merge *merge_slot(const struct lb_tok *t, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (size_t i = merge_hash(key) & t->merge_mask;; i = (i + 1) & t->merge_mask) {
        struct lb_merge *m = &t->merge[i];
        if (m->key == key || m->key == UINT64_MAX)
            return m;
    }
}

static bool join(struct lb_tok *t, int32_t a, int32_t b, int32_t c, uint32_t rank)
{
    if (a < 0 || b < 0 || c < 0)
        return false;
    *merge_slot(t, a, b) = (struct lb_merge){(uint64_t)(uint32_t)a << 32 | (uint32_t)b, rank, c};
    return true;
}

bool lb_tok_join(struct lb_tok *t, struct lb_bytes both, size_t n_left, bool plain, uint32_t rank)
{
    int32_t a = lb_tok_find(t, both.data, n_left, plain);
    int32_t b = lb_tok_find(t, both.data + n_left, both.len - n_left, plain);
    return join(t, a, b, lb_tok_find(t, both.data, both.len, plain), rank);
}

bool lb_tok_add_merge(struct lb_tok *t, struct lb_bytes left, struct lb_bytes right, uint32_t rank,
                      struct lb_str *scratch)
{
    struct lb_str *s = scratch;
    lb_str_clear(s);
    bool plain = !lb_tok_unmap(left.data, left.len, s);
    size_t n_left = s->len;
    bool plain_right = !lb_tok_unmap(right.data, right.len, s);
    const char *data = s->data ? s->data : "";
    if (s->failed)
        return false;
    if (plain == plain_right)
        return lb_tok_join(t, (struct lb_bytes){data, s->len}, n_left, plain, rank);
    int32_t a = lb_tok_find(t, data, n_left, plain);
    int32_t b = lb_tok_find(t, data + n_left, s->len - n_left, plain_right);
    /* one side was turned into bytes, the whole is not: join the texts as they are written */
    lb_str_clear(s);
    lb_str_put(s, left.data, left.len);
    lb_str_put(s, right.data, right.len);
    return !s->failed && join(t, a, b, lb_tok_find(t, s->data ? s->data : "", s->len, true), rank);
}

enum lb_status lb_ids_put(struct lb_ids *ids, int32_t id, struct lb_err *err)
{
    if (ids->n == ids->cap)
        LB_TRY(lb_mem_grow((void **)&ids->id, &ids->cap, ids->n + 1, sizeof *ids->id, "token ids", err));
    ids->id[ids->n++] = id;
    return LB_OK;
}

static enum lb_status put_ids(struct lb_ids *out, const int32_t *id, size_t n, struct lb_err *err)
{
    if (n == 0)
        return LB_OK;
    if (n > out->cap - out->n)
        LB_TRY(lb_mem_grow((void **)&out->id, &out->cap, out->n + n, sizeof *id, "token ids", err));
    memcpy(out->id + out->n, id, n * sizeof *id);
    out->n += n;
    return LB_OK;
}

/* One id a byte; bytes that the vocabulary lacks become unk (runs of them one, when fused) or vanish. */
static size_t byte_ids(const struct lb_tok *t, const char *word, size_t n, struct lb_symbol *s)
{
    size_t m = 0;
    bool run = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = t->byte_id[(unsigned char)word[i]];
        bool lacking = id < 0;
        if (lacking && (t->unk < 0 || (run && t->fuse_unk)))
            continue;
        run = lacking;
        s[m++].id = lacking ? t->unk : id;
    }
    return m;
}

static void look_up(const struct lb_tok *t, struct lb_symbol *s, int32_t right)
{
    const struct lb_merge *m = merge_slot(t, s->id, right);
    bool merges = m->key != UINT64_MAX;
    s->rank = merges ? m->rank : LB_NO_RANK;
    s->merged = m->id;
}

/* Merges a short word: the lowest rank is found by scanning, the leftmost first. Returns how many symbols are left. */
static size_t merge_short(const struct lb_tok *t, struct lb_symbol *s, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++)
        look_up(t, &s[i], s[i + 1].id);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (s[i].rank < s[best].rank)
                best = i;
        if (s[best].rank == LB_NO_RANK)
            break;
        s[best].id = s[best].merged;
        n--;
        memmove(&s[best + 1], &s[best + 2], (n - best - 1) * sizeof *s);
        if (best + 1 < n)
            look_up(t, &s[best], s[best + 1].id);
        if (best > 0)
            look_up(t, &s[best - 1], s[best].id);
    }
    return n;
}

static void heap_sink(uint64_t *heap, size_t n, size_t i)
{
    uint64_t v = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= v)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = v;
}

static void heap_push(struct lb_tok_ctx *c, uint32_t rank, size_t at)
{
    uint64_t v = (uint64_t)rank << 32 | at;
    size_t i = c->heap_n++;
    while (i > 0 && c->heap[(i - 1) / 2] > v) {
        c->heap[i] = c->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    c->heap[i] = v;
}

/* Looks up the pair at `at` anew and queues it. */
static void queue_pair(const struct lb_tok *t, struct lb_tok_ctx *c, int32_t at)
{
    struct lb_symbol *s = &c->symbol[at];
    s->rank = LB_NO_RANK;
    if (s->next < 0)
        return;
    look_up(t, s, c->symbol[s->next].id);
    if (s->rank != LB_NO_RANK)
        heap_push(c, s->rank, (size_t)at);
}

/* Merges a long word with a heap keyed (rank, position): O(n log n). An entry counts while the pair at its position
 * still has its rank; a pair's rank decides its result, so that this is the rule of models.md 3.3. Each merge takes one
 * symbol and queues at most two pairs: 3 n entries suffice. */
static size_t merge_long(const struct lb_tok *t, struct lb_tok_ctx *c, size_t n)
{
    struct lb_symbol *s = c->symbol;
    c->heap_n = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = (int32_t)i - 1;
        s[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < n; i++)
        queue_pair(t, c, (int32_t)i);
    while (c->heap_n > 0) {
        uint64_t top = c->heap[0];
        c->heap[0] = c->heap[--c->heap_n];
        if (c->heap_n > 0)
            heap_sink(c->heap, c->heap_n, 0);
        int32_t at = (int32_t)(top & UINT32_MAX);
        if (s[at].rank != (uint32_t)(top >> 32))
            continue;
        int32_t gone = s[at].next;
        s[at].id = s[at].merged;
        s[at].next = s[gone].next;
        s[gone].rank = LB_NO_RANK;
        s[gone].id = -1;
        if (s[at].next >= 0)
            s[s[at].next].prev = at;
        if (s[at].prev >= 0)
            queue_pair(t, c, s[at].prev);
        queue_pair(t, c, at);
    }
    size_t m = 0;
    for (int32_t i = 0; i >= 0; i = s[i].next)
        s[m++].id = s[i].id;
    return m;
}

static enum lb_status encode_word(const struct lb_tok *t, struct lb_tok_ctx *c, const char *word, size_t n,
                                  struct lb_ids *out, struct lb_err *err)
{
    if (t->ignore_merges) {
        int32_t id = lb_tok_find(t, word, n, false);
        if (id >= 0)
            return lb_ids_put(out, id, err);
    }
    LB_TRY(lb_mem_grow((void **)&c->symbol, &c->symbol_cap, n, sizeof *c->symbol, "a word", err));
    size_t m = byte_ids(t, word, n, c->symbol);
    if (m > SCAN_MAX) {
        LB_TRY(lb_mem_grow((void **)&c->heap, &c->heap_cap, 3 * m, sizeof *c->heap, "a word", err));
        m = merge_long(t, c, m);
    } else {
        m = merge_short(t, c->symbol, m);
    }
    if (m > out->cap - out->n)
        LB_TRY(lb_mem_grow((void **)&out->id, &out->cap, out->n + m, sizeof *out->id, "token ids", err));
    for (size_t i = 0; i < m; i++)
        out->id[out->n++] = c->symbol[i].id;
    return LB_OK;
}

static bool cached(const struct lb_word *w, const char *word, size_t n)
{
    return w->n_byte == n && memcmp(w->byte, word, n) == 0;
}

enum lb_status lb_bpe_word(const struct lb_tok *t, struct lb_tok_ctx *c, const char *word, size_t n, struct lb_ids *out,
                           struct lb_err *err)
{
    if (n > LB_WORD_BYTES)
        return encode_word(t, c, word, n, out, err);
    if (!c->cache) {
        c->cache = lb_mem_new(CACHE_SLOTS, sizeof *c->cache);
        if (!c->cache)
            return lb_err_memory(err, "a cache of words", CACHE_SLOTS * sizeof *c->cache);
    }
    size_t h = lb_hash64(word, n, 0) & (CACHE_SLOTS - 1);
    struct lb_word *w = &c->cache[h], *other = &c->cache[h ^ 1];
    if (cached(w, word, n))
        return put_ids(out, w->id, w->n_id, err);
    if (cached(other, word, n))
        return put_ids(out, other->id, other->n_id, err);
    size_t from = out->n;
    LB_TRY(encode_word(t, c, word, n, out, err));
    if (out->n - from > LB_WORD_IDS)
        return LB_OK;
    *other = *w; /* the newer of two words that share a slot stays */
    w->n_byte = (uint8_t)n;
    w->n_id = (uint8_t)(out->n - from);
    memcpy(w->byte, word, n);
    if (w->n_id > 0)
        memcpy(w->id, out->id + from, w->n_id * sizeof *w->id);
    return LB_OK;
}
