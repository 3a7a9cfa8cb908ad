/* Tokenizers: text to token ids and back.
 *
 * A tokenizer is immutable after it is opened and may be used by several threads; what a thread changes while encoding
 * (word cache, match data) is in its struct lb_tok_ctx. A tokenizer of a kind that is not built in opens all the same:
 * lb_tok_missing then says what it is, encoding is refused and pieces are unknown. */
#ifndef CORE_TEXT_TOK_H
#define CORE_TEXT_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/str.h"
#include "core/base/vocab.h"

struct lb_tok;
struct lb_tok_ctx;

struct lb_ids {
    int32_t *id;
    size_t n, cap;
};

/* Reads tokenizer.json (and bos/eos/pad of tokenizer_config.json) of a directory. A directory without a tokenizer opens
 * as a missing kind; a file that is broken is LB_E_INPUT. */
enum lb_status lb_tok_open_dir(struct lb_tok **out, const char *dir, struct lb_err *err);
enum lb_status lb_tok_open_vocab(struct lb_tok **out, const struct lb_vocab *v, struct lb_err *err);
void lb_tok_free(struct lb_tok *t);

const char *lb_tok_missing(const struct lb_tok *t); /* NULL when text works, else what kind is not built in */
int64_t lb_tok_size(const struct lb_tok *t);        /* largest id + 1 */
int64_t lb_tok_bos(const struct lb_tok *t);         /* -1 when none */
int64_t lb_tok_eos(const struct lb_tok *t);
int64_t lb_tok_pad(const struct lb_tok *t);
int64_t lb_tok_unk(const struct lb_tok *t);

/* End tokens beyond lb_tok_eos that the file itself names (GGUF eot, eom); returns how many, at most 4. */
int lb_tok_more_eos(const struct lb_tok *t, int64_t id[4]);

enum lb_status lb_tok_ctx_new(struct lb_tok_ctx **out, const struct lb_tok *t, struct lb_err *err);
void lb_tok_ctx_free(struct lb_tok_ctx *c);

/* LB_TOK_AUTO: what the tokenizer's post-processor adds, but never a second BOS (prefix) where the text already begins
 * with it; *doubled then tells (may be NULL). LB_TOK_BOS: the BOS id alone. LB_TOK_PLAIN: nothing. */
enum lb_tok_add { LB_TOK_PLAIN, LB_TOK_AUTO, LB_TOK_BOS };

/* Appends the ids of text (valid UTF-8; special tokens in it are parsed). */
enum lb_status lb_tok_encode(const struct lb_tok *t, struct lb_tok_ctx *c, const char *text, size_t n,
                             enum lb_tok_add add, struct lb_ids *out, bool *doubled, struct lb_err *err);
void lb_ids_release(struct lb_ids *ids);

/* Bytes that an id decodes to; len 0 for ids without a token (padded vocabulary). */
struct lb_bytes lb_tok_piece(const struct lb_tok *t, int32_t id);
bool lb_tok_special(const struct lb_tok *t, int32_t id);

/* What is written for an id: of an added token its content ("<s>"), of another one its bytes; len 0 when there is
 * none. lb_tok_id is the way back for added tokens: -1 when no added token is written so. */
struct lb_bytes lb_tok_token_text(const struct lb_tok *t, int64_t id);
int64_t lb_tok_id(const struct lb_tok *t, const char *content, size_t n);

/* What the tokenizer's post-processor puts before and after a text. */
const struct lb_ids *lb_tok_prefix(const struct lb_tok *t);
const struct lb_ids *lb_tok_suffix(const struct lb_tok *t);

/* Incremental decoding: bytes are held back until they are whole characters. Feeding all ids and flushing gives the
 * same text as decoding at once, whatever the order of calls between. Zero-initialize, then set tok and skip_special.
 */
struct lb_detok {
    const struct lb_tok *tok;
    bool skip_special;
    struct lb_str held;  /* bytes of a character that is not whole yet, or a run of byte tokens */
    struct lb_str text;  /* scratch */
    uint64_t n_token;    /* how many tokens came before */
    uint32_t n_stripped; /* characters taken off the front */
    bool begun;          /* nothing is taken off any more */
};

void lb_detok_put(struct lb_detok *d, int32_t id, struct lb_str *out);
void lb_detok_flush(struct lb_detok *d, struct lb_str *out); /* what is held becomes U+FFFD; a new text may follow */
void lb_detok_release(struct lb_detok *d);

#endif
