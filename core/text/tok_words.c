/* The cache of words in front of byte-pair encoding. */
#include <assert.h>
#include <string.h>

#include "core/text/tok_impl.h"

#define CACHE_SLOTS ((size_t)1 << 16) /* of 32 bytes: at most 2 MiB a context, as far as it is used */

static inline uint64_t load8(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t load4(const char *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* A word of 1 to LB_WORD_BYTES bytes in three numbers that hold each of its bytes, and of which n tells the rest. */
struct word_bits {
    uint64_t v[3];
};

static inline struct word_bits word_bits(const char *w, size_t n)
{
    static_assert(LB_WORD_BYTES <= 24, "two numbers from the beginning, one at the end");
    if (n > 16)
        return (struct word_bits){{load8(w), load8(w + 8), load8(w + n - 8)}};
    if (n >= 8)
        return (struct word_bits){{load8(w), load8(w + n - 8)}};
    if (n >= 4)
        return (struct word_bits){{load4(w), load4(w + n - 4)}};
    return (struct word_bits){
        {(uint64_t)(unsigned char)w[0] << 16 | (uint64_t)(unsigned char)w[n / 2] << 8 | (unsigned char)w[n - 1]}};
}

static inline bool cached(const struct lb_word *w, struct word_bits bits, size_t n)
{
    if (w->n_byte != n)
        return false;
    struct word_bits b = word_bits(w->byte, n);
    return ((b.v[0] ^ bits.v[0]) | (b.v[1] ^ bits.v[1]) | (b.v[2] ^ bits.v[2])) == 0;
}

/* Hash for the cache alone, where a collision costs nothing but time: calling XXH3 would take as long as all the rest.
 */
static inline size_t word_slot(struct word_bits b, size_t n)
{
    uint64_t h = (b.v[0] ^ n) * 0x9E3779B97F4A7C15u;
    h = ((h ^ h >> 32) + b.v[1]) * 0xD6E8FEB86659FD93u;
    h = ((h ^ h >> 32) + b.v[2]) * 0x9E3779B97F4A7C15u;
    return (size_t)(h >> 40) & (CACHE_SLOTS - 1);
}

static void remember(struct lb_word *w, struct lb_word *other, const char *word, size_t n, const struct lb_ids *out,
                     size_t from)
{
    size_t n_id = out->n - from;
    if (n_id > LB_WORD_IDS)
        return;
    *other = *w; /* the newer of two words that share a slot stays */
    w->n_byte = (uint8_t)n;
    w->n_id = (uint8_t)n_id;
    memcpy(w->byte, word, n);
    if (n_id > 0)
        memcpy(w->id, out->id + from, n_id * sizeof *w->id);
}

/* One word of at most LB_WORD_BYTES bytes, whose slot is h. */
static enum lb_status word_ids(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes word, size_t h,
                               struct lb_ids *out, struct lb_err *err)
{
    size_t n = word.len;
    struct word_bits bits = word_bits(word.data, n);
    struct lb_word *w = &c->words.slot[h], *other = &c->words.slot[h ^ 1]; /* in one line of the processor's cache */
    const struct lb_word *hit = cached(w, bits, n) ? w : cached(other, bits, n) ? other : NULL;
    if (!hit) {
        size_t from = out->n;
        LB_TRY(lb_bpe_encode(t, c, word.data, n, out, err));
        remember(w, other, word.data, n, out, from);
        return LB_OK;
    }
    if (LB_WORD_IDS > out->cap - out->n)
        LB_TRY(lb_mem_grow((void **)&out->id, &out->cap, out->n + LB_WORD_IDS, sizeof *out->id, "token ids", err));
    memcpy(out->id + out->n, hit->id, sizeof hit->id); /* all of them, whose number the compiler knows */
    out->n += hit->n_id;
    return LB_OK;
}

enum lb_status lb_bpe_words(const struct lb_tok *t, struct lb_tok_ctx *c, const char *text, const size_t *cut,
                            int n_word, struct lb_ids *out, struct lb_err *err)
{
    size_t h[LB_BATCH];
    struct lb_words *w = &c->words;
    if (!w->slot) {
        LB_TRY(lb_arena_init_plain(&w->memory, CACHE_SLOTS * sizeof *w->slot, err));
        w->slot = lb_arena_take(&w->memory, CACHE_SLOTS * sizeof *w->slot);
    }
    for (int i = 0; i < n_word; i++) {
        size_t n = cut[i + 1] - cut[i];
        if (n > LB_WORD_BYTES)
            continue;
        h[i] = word_slot(word_bits(text + cut[i], n), n);
        __builtin_prefetch(&w->slot[h[i]]);
    }
    for (int i = 0; i < n_word; i++) {
        size_t n = cut[i + 1] - cut[i];
        if (n > LB_WORD_BYTES)
            LB_TRY(lb_bpe_encode(t, c, text + cut[i], n, out, err));
        else
            LB_TRY(word_ids(t, c, (struct lb_bytes){text + cut[i], n}, h[i], out, err));
    }
    return LB_OK;
}

enum lb_status lb_bpe_word(const struct lb_tok *t, struct lb_tok_ctx *c, const char *word, size_t n, struct lb_ids *out,
                           struct lb_err *err)
{
    return lb_bpe_words(t, c, word, (const size_t[2]){0, n}, 1, out, err);
}
