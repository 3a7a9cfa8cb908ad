/* Inside of the tokenizers that are not byte-level BPE, and the parts of all pipelines: normalizers, decoders,
 * SentencePiece models, Unigram. Tokens of these kinds are UTF-8 as the file writes them: a space is mostly "▁". */
#ifndef CORE_TEXT_TOK_KIND_H
#define CORE_TEXT_TOK_KIND_H

#include "core/text/tok_impl.h"

#define LB_TOK_MAX_NORM 32
#define LB_TOK_MAX_PIECE 1024 /* bytes of a token whose splits or prefixes are listed */
#define LB_TOK_MAX_DECODE 16  /* parts of a decoder */
#define LB_SPACE_MARK "\xe2\x96\x81"

/* The normalization rules of a SentencePiece model: a double array (Darts) from texts to places in `text`, where
 * zero-terminated replacements lie. Everything lives in `blob`. */
struct lb_charsmap {
    uint32_t *unit; /* [n_unit] */
    size_t n_unit;
    char *text;
    size_t n_text;
};
enum lb_status lb_charsmap_new(struct lb_charsmap **out, const char *blob, size_t n, struct lb_err *err);
void lb_charsmap_free(struct lb_charsmap *m);

/* The replacement of the shortest or longest rule that text begins with; data NULL: none. */
struct lb_bytes lb_charsmap_find(const struct lb_charsmap *m, struct lb_bytes text, bool longest, size_t *n_used);

enum lb_norm_kind {
    LB_NORM_NFC,
    LB_NORM_NFD,
    LB_NORM_NFKC,
    LB_NORM_NFKD,
    LB_NORM_LOWERCASE,
    LB_NORM_STRIP,
    LB_NORM_STRIP_ACCENTS,
    LB_NORM_NMT,
    LB_NORM_PREPEND,
    LB_NORM_REPLACE,
    LB_NORM_CHARSMAP,
    LB_NORM_BYTES,    /* bytes become the characters that stand for them */
    LB_NORM_SENTENCE, /* all that a SentencePiece model does with a text */
};

/* One part of a normalizer. */
struct lb_norm {
    enum lb_norm_kind kind;
    bool left, right;  /* STRIP */
    char *find, *text; /* REPLACE: find is NULL for a pattern; PREPEND: text */
    size_t n_find, n_text;
    pcre2_code *re;
    struct lb_charsmap *map;                    /* may be NULL for SENTENCE */
    bool dummy_prefix, squeeze, escape, at_end; /* SENTENCE: normalizer_spec, treat_whitespace_as_suffix */
    struct lb_added_set user;                   /* SENTENCE: left as they are */
};
enum lb_status lb_norm_add(struct lb_tok *t, struct lb_norm *o,
                           struct lb_err *err); /* takes what it owns, also on failure */
void lb_norm_release(struct lb_norm *o);
enum lb_status lb_norm_run(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes *text, struct lb_err *err);

/* Single parts, appended to out (empty before). *changed false: the text stays, out is not looked at. */
enum lb_status lb_norm_form(struct lb_tok_ctx *c, enum lb_norm_kind form, struct lb_bytes in, struct lb_str *out,
                            bool *changed, struct lb_err *err);
void lb_norm_replace(const struct lb_norm *o, struct lb_bytes in,
                     struct lb_str *out); /* by text, or by its own match */
void lb_norm_sentence(const struct lb_norm *o, struct lb_bytes in, struct lb_str *out);
void lb_norm_charsmap(const struct lb_norm *o, struct lb_bytes in, struct lb_str *out);
bool lb_space_char(uint32_t cp);                                /* White_Space of Unicode */
void lb_put_byte_chars(struct lb_str *out, struct lb_bytes in); /* bytes as the characters that stand for them */

/* One part of a decoder: works on each token's text. */
enum lb_decode_kind { LB_DECODE_REPLACE, LB_DECODE_STRIP, LB_DECODE_METASPACE };
struct lb_decode {
    enum lb_decode_kind kind;
    struct lb_norm replace;
    uint32_t cp;     /* STRIP, METASPACE */
    int start, stop; /* STRIP: at most so many */
    bool drop_first; /* METASPACE: in the first token the character vanishes */
};
struct lb_decoder {
    struct lb_decode part[LB_TOK_MAX_DECODE];
    int n_part;
    int fallback_at;   /* parts before this one come before ByteFallback; -1: there is none */
    bool spaced;       /* tokens are joined by a space */
    bool bytes;        /* ByteLevel joins them */
    bool joined;       /* Fuse or ByteLevel was met */
    uint32_t strip_cp; /* of the joined text, at its start */
    uint32_t n_strip;
};

/* Pieces by their bytes: a trie whose edges lie in a hash table. Node 0 is the root. */
struct lb_trie {
    uint64_t *edge; /* (node << 8 | byte) << 29 | child; 0: free */
    size_t mask;
    int32_t *id; /* [n_node] of the piece that ends there, or -1 */
    size_t n_node, cap;
    uint32_t root[256];
};
enum lb_status lb_trie_init(struct lb_trie *trie, size_t n_bytes, struct lb_err *err);
void lb_trie_put(struct lb_trie *trie, const char *text, size_t n, int32_t id);
void lb_trie_release(struct lb_trie *trie);

/* Best way to cut a text up to a byte. */
struct lb_path {
    double score;
    int32_t id, start; /* start -1: not reached */
};

enum lb_model { LB_MODEL_CHARS, LB_MODEL_SENTENCE, LB_MODEL_UNIGRAM };

struct lb_kind {
    enum lb_model model;
    int32_t byte_id[256]; /* of "<0xHH>", -1: none */
    int32_t ascii_id[128];
    bool byte_fallback;
    bool cut;              /* no token has "▁" after another character: texts are cut there */
    char *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; may be NULL */
    size_t n_prefix, n_suffix;

    struct lb_added_set user; /* LB_MODEL_SENTENCE: pieces that never merge */
    int32_t *split;           /* [2 n_id] what an unused piece falls into, -1; NULL: there is none */

    struct lb_trie trie; /* LB_MODEL_UNIGRAM */
    double *score;       /* [n_id] */
    double unk_score;
    bool single; /* sums are rounded as sentencepiece has them, to float32 */

    struct lb_decoder decoder;
    struct lb_token *piece; /* [n_id] what a token decodes to by itself */
};

struct lb_kind *lb_kind_new(enum lb_model model); /* NULL without memory */
void lb_kind_free(struct lb_kind *k);

/* Fills the tables that follow from the vocabulary, and the pieces; after all tokens are set. */
enum lb_status lb_kind_finish(struct lb_tok *t, struct lb_err *err);

/* Ids of one word, through no cache. */
enum lb_status lb_kind_word(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes word, struct lb_ids *out,
                            struct lb_err *err);
enum lb_status lb_unigram_word(const struct lb_tok *t, struct lb_tok_ctx *c, struct lb_bytes word, struct lb_ids *out,
                               struct lb_err *err);
struct lb_bytes lb_kind_piece(const struct lb_tok *t, int32_t id);

/* A pre-tokenizer step that is no pattern. */
enum lb_status lb_step_walk(const struct lb_tok *t, struct lb_tok_ctx *c, int step, struct lb_bytes text,
                            struct lb_ids *out, struct lb_err *err);

/* Decoder (tok_decode.c): fills kind->piece. */
enum lb_status lb_decoder_finish(struct lb_tok *t, struct lb_err *err);
void lb_decoder_release(struct lb_decoder *d);

/* All ways to make a token of two others become merges: rank[id], lower first, equal ranks from the left. With `chars`
 * tokens are cut between characters only, and only tokens with the flag LB_TOKEN_JOINS take part. */
enum lb_status lb_tok_merges_from_splits(struct lb_tok *t, const uint32_t *rank, bool chars, struct lb_err *err);

/* A name of tokenizer.ggml.pre (tok_pre.c): its patterns, and what else follows from the name. */
#define LB_PRE_PATTERNS 6
struct lb_pre_kind {
    const char *name;
    bool ignore_merges, add_bos, nfc;
    const char *pattern[LB_PRE_PATTERNS];
};
const struct lb_pre_kind *lb_pre_find(struct lb_bytes name); /* NULL: not known */

/* A SentencePiece vocabulary: pieces, scores, types of v become tokens of t. */
struct lb_sentence_spec {
    bool unigram, byte_fallback;
    bool user_added;            /* user-defined pieces are added tokens (GGUF), not symbols */
    int64_t n_id;               /* at least so many ids */
    struct lb_norm norm;        /* of kind SENTENCE; given away */
    struct lb_added_set *named; /* gets the tokens to be looked for in text; NULL: they go to t itself */
};
enum lb_status lb_sentence_build(struct lb_tok *t, const struct lb_vocab *v, struct lb_sentence_spec *spec,
                                 struct lb_err *err);

/* Parts of tokenizer.json (models.md 3.4): normalizer, pre_tokenizer, decoder and post_processor into l->t, which gets
 * a kind unless it is byte-level BPE. A part that is not built in sets l->t->missing. */
enum lb_status lb_tok_pipeline(struct lb_tok_load *l, enum lb_model model, bool plain_bpe);
enum lb_status lb_tok_load_normalizer(struct lb_tok_load *l, const json_t *v, int depth);
enum lb_status lb_tok_load_decoder(struct lb_tok_load *l, const json_t *v, int depth);
enum lb_status lb_tok_read_metaspace(struct lb_tok_load *l, const json_t *v, uint32_t *space, enum lb_prepend *prepend,
                                     bool *split);
const char *lb_tok_part_type(const struct lb_tok_load *l, const char *part, const json_t *v); /* NULL after an error */
enum lb_status lb_tok_not_built(struct lb_tok_load *l, const char *part, const char *type);
enum lb_status lb_tok_flag(const struct lb_tok_load *l, const char *part, const json_t *v, const char *key, bool *out);
enum lb_status lb_tok_each(struct lb_tok_load *l, const json_t *v, const char *key, int depth,
                           enum lb_status (*visit)(struct lb_tok_load *l, const json_t *v, int depth));

/* The model of tokenizer.json where l->t has a kind. */
enum lb_status lb_tok_load_kind(struct lb_tok_load *l, const json_t *model);
bool lb_tok_read_merge(const json_t *v, struct lb_bytes *left, struct lb_bytes *right);

/* tokenizer.model (l->path) of either form: its tokens, and in l->extra those to be looked for in text. Afterwards what
 * goes before a text. */
enum lb_status lb_tok_load_model_file(struct lb_tok_load *l);
enum lb_status lb_tok_load_sentence(struct lb_tok_load *l, struct lb_bytes file);
enum lb_status lb_tok_load_tiktoken(struct lb_tok_load *l, struct lb_bytes file);
enum lb_status lb_tok_model_file_prefix(struct lb_tok_load *l);

bool lb_base64_decode(const char *text, size_t n, struct lb_str *out);

#endif
