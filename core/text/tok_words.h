/* From words to ids: the cache of words, and byte-pair encoding behind it (models.md 3.3). */
#ifndef CORE_TEXT_TOK_WORDS_H
#define CORE_TEXT_TOK_WORDS_H

#include "core/base/mem.h"
#include "core/text/tok.h"

#define LB_WORD_BYTES 18
#define LB_WORD_IDS 3
#define LB_BATCH 16 /* words that are looked up together, so that memory is waited for once */

/* A cached word: half a line of the processor's cache. n_byte 0: free. */
struct lb_word {
    uint8_t n_byte, n_id;
    char byte[LB_WORD_BYTES];
    int32_t id[LB_WORD_IDS];
};

struct lb_words {
    struct lb_arena memory;
    struct lb_word *slot; /* NULL before the first word */
};

/* Ids of one pre-token (models.md 3.3), through the context's cache of words. */
enum lb_status lb_bpe_word(const struct lb_tok *t, struct lb_tok_ctx *c, const char *word, size_t n, struct lb_ids *out,
                           struct lb_err *err);

/* The same for n_word <= LB_BATCH words, none empty: word i is text[cut[i], cut[i + 1]). */
enum lb_status lb_bpe_words(const struct lb_tok *t, struct lb_tok_ctx *c, const char *text, const size_t *cut,
                            int n_word, struct lb_ids *out, struct lb_err *err);

/* The same without the cache. */
enum lb_status lb_bpe_encode(const struct lb_tok *t, struct lb_tok_ctx *c, const char *word, size_t n,
                             struct lb_ids *out, struct lb_err *err);

#endif
