/* Vocabulary and merge tables, and byte-pair encoding of one word (models.md 3.3). */
#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/text/tok_kind.h"

#define SCAN_MAX 40        /* words up to this many symbols are merged by scanning */
#define BYTES_MAX 120      /* words up to this many bytes are merged in place, when all bytes are tokens */
#define RANK_MAX (1 << 23) /* ranks below this leave room for a place in an int32_t */
#define NO_PAIR INT32_MAX

/* A third of the slots stays free. Not a power of two: that would be up to twice as many, of memory that all of a
 * small model's tables are a good part of. */
static size_t table_slots(size_t n)
{
    return n + n / 2 + 64;
}

/* Where 32 bits of a hash begin to look: in proportion. There are fewer than 2^32 slots. */
static inline size_t first_slot(uint32_t hash, size_t n_slot)
{
    return (size_t)((uint64_t)hash * n_slot >> 32);
}

static inline size_t next_slot(size_t i, size_t n_slot)
{
    return i + 1 < n_slot ? i + 1 : 0;
}

enum lb_status lb_tok_reserve_merges(struct lb_tok *t, size_t n, struct lb_err *err)
{
    size_t n_pair = table_slots(n), merge_bytes = n_pair * sizeof *t->merge;
    int filter_log = 10; /* six bits a merge: one pair in eight or fewer that does not merge passes */
    while (((size_t)1 << filter_log) < 6 * n)
        filter_log++;
    size_t filter_bytes = ((size_t)1 << filter_log) / 8;
    lb_arena_release(&t->merges);
    LB_TRY(lb_arena_init(&t->merges, merge_bytes + filter_bytes + (size_t)2 * 64, err));
    t->merge = lb_arena_take(&t->merges, merge_bytes);
    t->filter = lb_arena_take(&t->merges, filter_bytes);
    t->filter_shift = 64 - filter_log;
    t->n_merge_slot = n_pair;
    t->max_rank = 0;
    for (size_t i = 0; i < n_pair; i++)
        t->merge[i].key = UINT64_MAX;
    return LB_OK;
}

enum lb_status lb_tok_reserve(struct lb_tok *t, int64_t n_id, size_t n_token, size_t n_merge, struct lb_err *err)
{
    size_t n_slot = table_slots(n_token);
    size_t token_bytes = (size_t)n_id * sizeof *t->token, vocab_bytes = n_slot * sizeof *t->vocab;
    t->n_id = n_id;
    LB_TRY(lb_arena_init(&t->tokens, token_bytes + vocab_bytes + (size_t)2 * 64, err));
    t->token = lb_arena_take(&t->tokens, token_bytes);
    t->vocab = lb_arena_take(&t->tokens, vocab_bytes);
    t->n_vocab_slot = n_slot;
    for (size_t i = 0; i < n_slot; i++)
        t->vocab[i].id = -1;
    return lb_tok_reserve_merges(t, n_merge, err);
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

/* The upper half of the hash is the slot's tag, so the lower half says where it is. */
static inline size_t first_vocab_slot(const struct lb_tok *t, uint64_t h)
{
    return first_slot((uint32_t)h, t->n_vocab_slot);
}

/* Slot of these bytes: the one that holds them or the free one where they belong. */
static struct lb_vocab_slot *vocab_slot(const struct lb_tok *t, const char *bytes, size_t n, bool plain)
{
    uint64_t h = lb_hash64(bytes, n, plain);
    uint32_t tag = (uint32_t)(h >> 32);
    for (size_t i = first_vocab_slot(t, h);; i = next_slot(i, t->n_vocab_slot)) {
        struct lb_vocab_slot *s = &t->vocab[i];
        if (s->id < 0 || (s->tag == tag && same_token(t, s->id, bytes, n, plain))) {
            s->tag = tag;
            return s;
        }
    }
}

static int32_t find_hashed(const struct lb_tok *t, uint64_t h, const char *bytes, size_t n, bool plain)
{
    uint32_t tag = (uint32_t)(h >> 32);
    for (size_t i = first_vocab_slot(t, h);; i = next_slot(i, t->n_vocab_slot)) {
        const struct lb_vocab_slot *s = &t->vocab[i];
        if (s->id < 0)
            return -1;
        if (s->tag == tag && same_token(t, s->id, bytes, n, plain))
            return s->id;
    }
}

int32_t lb_tok_find(const struct lb_tok *t, const char *bytes, size_t n, bool plain)
{
    return find_hashed(t, lb_hash64(bytes, n, plain), bytes, n, plain);
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
    for (size_t i = 0; i < t->n_vocab_slot; i++)
        n += t->vocab[i].id >= 0;
    return n;
}

static uint64_t merge_hash(uint64_t key)
{
    return key * 0x9E3779B97F4A7C15u;
}

static inline size_t first_merge_slot(const struct lb_tok *t, uint64_t key)
{
    return first_slot((uint32_t)(merge_hash(key) >> 32), t->n_merge_slot);
}

static struct lb_merge *merge_slot(const struct lb_tok *t, uint64_t key)
{
    for (size_t i = first_merge_slot(t, key);; i = next_slot(i, t->n_merge_slot)) {
        struct lb_merge *m = &t->merge[i];
        if (m->key == key || m->key == UINT64_MAX)
            return m;
    }
}

static inline uint64_t merge_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The merge of two tokens, or NULL. Most pairs of a text do not merge: one bit a pair, in a table that the processor's
 * second cache holds, tells nearly all of them without a look into the large one. */
static inline const struct lb_merge *find_merge(const struct lb_tok *t, int32_t left, int32_t right)
{
    uint64_t key = merge_key(left, right), bit = merge_hash(key) >> t->filter_shift;
    if (!(t->filter[bit / 64] >> bit % 64 & 1))
        return NULL;
    const struct lb_merge *m = merge_slot(t, key);
    return m->key == key ? m : NULL;
}

void lb_tok_put_merge(struct lb_tok *t, const struct lb_merge *m)
{
    uint64_t bit = merge_hash(m->key) >> t->filter_shift;
    t->max_rank = m->rank > t->max_rank ? m->rank : t->max_rank;
    t->filter[bit / 64] |= (uint64_t)1 << bit % 64;
    *merge_slot(t, m->key) = *m;
}

const struct lb_merge *lb_tok_find_merge(const struct lb_tok *t, int32_t left, int32_t right)
{
    return find_merge(t, left, right);
}

static bool join(struct lb_tok *t, int32_t a, int32_t b, int32_t c, uint32_t rank)
{
    if (a < 0 || b < 0 || c < 0)
        return false;
    lb_tok_put_merge(t, &(struct lb_merge){merge_key(a, b), rank, c});
    return true;
}

static bool join_bytes(struct lb_tok *t, struct lb_bytes both, size_t n_left, bool plain, uint32_t rank)
{
    int32_t a = lb_tok_find(t, both.data, n_left, plain);
    int32_t b = lb_tok_find(t, both.data + n_left, both.len - n_left, plain);
    return join(t, a, b, lb_tok_find(t, both.data, both.len, plain), rank);
}

/* Slots, tokens and their bytes lie all over memory: they are asked for some merges ahead of their use. */
static void ask_token(const struct lb_tok *t, uint64_t h)
{
    int32_t id = t->vocab[first_vocab_slot(t, h)].id;
    if (id >= 0)
        __builtin_prefetch(&t->token[id]);
}

bool lb_tok_join_all(struct lb_tok *t, const char *bytes, const struct lb_scan_merge *merge, size_t n)
{
    enum { BLOCK = 16 };
    uint64_t h[BLOCK][3];
    int32_t id[BLOCK][3];
    for (size_t from = 0; from < n; from += BLOCK) {
        size_t m = n - from < BLOCK ? n - from : BLOCK;
        for (size_t i = 0; i < m; i++) {
            const struct lb_scan_merge *g = &merge[from + i];
            h[i][0] = lb_hash64(bytes + g->at, g->n_left, g->plain);
            h[i][1] = lb_hash64(bytes + g->at + g->n_left, g->n_right, g->plain);
            h[i][2] = lb_hash64(bytes + g->at, (size_t)g->n_left + g->n_right, g->plain);
            for (int k = 0; k < 3; k++)
                __builtin_prefetch(&t->vocab[first_vocab_slot(t, h[i][k])]);
        }
        for (size_t i = 0; i < m; i++)
            for (int k = 0; k < 3; k++)
                ask_token(t, h[i][k]);
        for (size_t i = 0; i < m; i++) {
            const struct lb_scan_merge *g = &merge[from + i];
            const char *left = bytes + g->at, *right = left + g->n_left;
            id[i][0] = find_hashed(t, h[i][0], left, g->n_left, g->plain);
            id[i][1] = find_hashed(t, h[i][1], right, g->n_right, g->plain);
            id[i][2] = find_hashed(t, h[i][2], left, (size_t)g->n_left + g->n_right, g->plain);
            __builtin_prefetch(&t->merge[first_merge_slot(t, merge_key(id[i][0], id[i][1]))]);
        }
        for (size_t i = 0; i < m; i++)
            if (!join(t, id[i][0], id[i][1], id[i][2], (uint32_t)(from + i)))
                return false;
    }
    return true;
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
        return join_bytes(t, (struct lb_bytes){data, s->len}, n_left, plain, rank);
    int32_t a = lb_tok_find(t, data, n_left, plain);
    int32_t b = lb_tok_find(t, data + n_left, s->len - n_left, plain_right);
    /* one side was turned into bytes, the whole is not: join the texts as they are written */
    lb_str_clear(s);
    lb_str_put(s, left.data, left.len);
    lb_str_put(s, right.data, right.len);
    return !s->failed && join(t, a, b, lb_tok_find(t, s->data ? s->data : "", s->len, true), rank);
}

void lb_tok_find_bytes(struct lb_tok *t)
{
    bool all = t->max_rank < RANK_MAX;
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        t->byte_id[b] = lb_tok_find(t, &c, 1, false);
        all = all && t->byte_id[b] >= 0;
    }
    if (!all)
        return;
    t->pair = lb_mem_new(256 * 256, sizeof *t->pair); /* without it words are merged another way */
    for (int i = 0; t->pair && i < 256 * 256; i++) {
        const struct lb_merge *m = find_merge(t, t->byte_id[i >> 8], t->byte_id[i & 255]);
        t->pair[i] = (struct lb_pair){m ? (int32_t)(m->rank << 8) : NO_PAIR, m ? m->id : -1};
    }
}

enum lb_status lb_ids_put(struct lb_ids *ids, int32_t id, struct lb_err *err)
{
    if (ids->n == ids->cap)
        LB_TRY(lb_mem_grow((void **)&ids->id, &ids->cap, ids->n + 1, sizeof *ids->id, "token ids", err));
    ids->id[ids->n++] = id;
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
    const struct lb_merge *m = find_merge(t, s->id, right);
    s->rank = m ? m->rank : LB_NO_RANK;
    s->merged = m ? m->id : -1;
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

/* Least of key[n]; n is a multiple of 8. */
static int32_t least(const int32_t *key, size_t n)
{
    int32_t m[8];
    memcpy(m, key, sizeof m);
    for (size_t i = 8; i < n; i += 8)
        for (size_t k = 0; k < 8; k++)
            m[k] = key[i + k] < m[k] ? key[i + k] : m[k];
    for (size_t k = 1; k < 8; k++)
        m[0] = m[k] < m[0] ? m[k] : m[0];
    return m[0];
}

/* A word whose symbols stay where their first byte is. key is rank << 8 | place of a symbol's pair with the next one,
 * so that the least key is the leftmost pair of the lowest rank; NO_PAIR where nothing merges. */
struct places {
    int32_t key[BYTES_MAX + 8], id[BYTES_MAX], merged[BYTES_MAX];
    uint8_t next[BYTES_MAX + 1], prev[BYTES_MAX + 1];
};

static inline void pair_at(const struct lb_tok *t, struct places *p, size_t at, size_t next)
{
    const struct lb_merge *m = find_merge(t, p->id[at], p->id[next]);
    p->key[at] = m ? (int32_t)(m->rank << 8 | at) : NO_PAIR;
    p->merged[at] = m ? m->id : -1;
}

/* Merges a word of n <= BYTES_MAX bytes, all of which are tokens, into id[n]; returns how many there are. */
static size_t merge_places(const struct lb_tok *t, const unsigned char *word, size_t n, int32_t *id)
{
    struct places p;
    for (size_t i = 0; i < n; i++) {
        p.id[i] = t->byte_id[word[i]];
        p.next[i] = (uint8_t)(i + 1);
        p.prev[i + 1] = (uint8_t)i;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        struct lb_pair pair = t->pair[word[i] << 8 | word[i + 1]];
        p.key[i] = pair.key == NO_PAIR ? NO_PAIR : pair.key | (int32_t)i;
        p.merged[i] = pair.id;
    }
    size_t n_key = (n + 7) / 8 * 8;
    for (size_t i = n - 1; i < n_key; i++)
        p.key[i] = NO_PAIR;
    for (int32_t best; (best = least(p.key, n_key)) != NO_PAIR;) {
        size_t at = (size_t)best & 255, gone = p.next[at], after = p.next[gone];
        p.id[at] = p.merged[at];
        p.key[gone] = NO_PAIR;
        p.next[at] = (uint8_t)after;
        p.prev[after] = (uint8_t)at;
        if (after < n)
            pair_at(t, &p, at, after);
        else
            p.key[at] = NO_PAIR;
        if (at > 0)
            pair_at(t, &p, p.prev[at], at);
    }
    size_t m = 0;
    for (size_t i = 0; i < n; i = p.next[i])
        id[m++] = p.id[i];
    return m;
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

enum lb_status lb_bpe_merge(const struct lb_tok *t, struct lb_tok_ctx *c, size_t *m, struct lb_err *err)
{
    if (*m > SCAN_MAX) {
        LB_TRY(lb_mem_grow((void **)&c->heap, &c->heap_cap, 3 * *m, sizeof *c->heap, "a word", err));
        *m = merge_long(t, c, *m);
    } else {
        *m = merge_short(t, c->symbol, *m);
    }
    return LB_OK;
}

enum lb_status lb_bpe_encode(const struct lb_tok *t, struct lb_tok_ctx *c, const char *word, size_t n,
                             struct lb_ids *out, struct lb_err *err)
{
    if (t->kind)
        return lb_kind_word(t, c, (struct lb_bytes){word, n}, out, err);
    if (t->ignore_merges) {
        int32_t id = lb_tok_find(t, word, n, false);
        if (id >= 0)
            return lb_ids_put(out, id, err);
    }
    if (t->pair && n <= BYTES_MAX) {
        if (n > out->cap - out->n)
            LB_TRY(lb_mem_grow((void **)&out->id, &out->cap, out->n + n, sizeof *out->id, "token ids", err));
        out->n += merge_places(t, (const unsigned char *)word, n, out->id + out->n);
        return LB_OK;
    }
    LB_TRY(lb_mem_grow((void **)&c->symbol, &c->symbol_cap, n, sizeof *c->symbol, "a word", err));
    size_t m = byte_ids(t, word, n, c->symbol);
    LB_TRY(lb_bpe_merge(t, c, &m, err));
    if (m > out->cap - out->n)
        LB_TRY(lb_mem_grow((void **)&out->id, &out->cap, out->n + m, sizeof *out->id, "token ids", err));
    for (size_t i = 0; i < m; i++)
        out->id[out->n++] = c->symbol[i].id;
    return LB_OK;
}
