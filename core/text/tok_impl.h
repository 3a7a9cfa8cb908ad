/* Inside of the tokenizer: what tok_*.c share. Nobody outside core/text and its tests includes this.
 *
 * Everything works on raw bytes. The 256 printable characters by which byte-level files write bytes (models.md 3.6) are
 * turned into bytes once, while loading, so that encoding and decoding never see them. */
#ifndef CORE_TEXT_TOK_IMPL_H
#define CORE_TEXT_TOK_IMPL_H

#include <jansson.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/base/mem.h"
#include "core/text/tok.h"
#include "core/text/tok_match.h"
#include "core/text/tok_scan.h"
#include "core/text/tok_words.h"

/* Ids at or above this are refused: no vocabulary is near it, and a file could ask for any amount of memory. */
#define LB_TOK_MAX_ID (1 << 24)
#define LB_TOK_MAX_STEP 32 /* pre-tokenizer steps */
#define LB_TOK_MAX_NEST 16 /* Sequence inside Sequence */
#define LB_TOK_MAX_TEXT ((size_t)1 << 30)

enum lb_token_flag {
    LB_TOKEN_PRESENT = 1,
    LB_TOKEN_PLAIN = 2, /* holds a character outside the byte map: bytes are its UTF-8, never met in a text's bytes */
    LB_TOKEN_SPECIAL = 4,
    LB_TOKEN_BYTE = 8,   /* decodes to one byte of a run */
    LB_TOKEN_JOINS = 16, /* takes part in merges that come from splits */
};

struct lb_token {
    uint64_t at; /* offset of its bytes in the pool */
    uint32_t len;
    uint32_t flags;
};

struct lb_vocab_slot {
    uint32_t tag; /* high half of the hash */
    int32_t id;   /* -1: free */
};

struct lb_merge {
    uint64_t key; /* left id << 32 | right id; UINT64_MAX: free */
    uint32_t rank;
    int32_t id; /* of the result */
};

/* What two bytes merge to: rank << 8, or INT32_MAX, and the id. */
struct lb_pair {
    int32_t key, id;
};

/* An added token (models.md 3.2). text is what is looked for: normalized when `normalized`. */
struct lb_added {
    char *text;
    size_t len;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

/* Added tokens that are looked for together, sorted by bytes once lb_added_sort was called. */
struct lb_added_set {
    struct lb_added *item;
    size_t n, cap;
    bool first[256]; /* bytes that begin one of them */
    bool one_first;  /* a single one */
};

enum lb_split_behavior {
    LB_SPLIT_REMOVED,
    LB_SPLIT_ISOLATED,
    LB_SPLIT_MERGED_PREVIOUS,
    LB_SPLIT_MERGED_NEXT,
    LB_SPLIT_CONTIGUOUS
};

/* What a step of another kind than these two does with a piece (tok_step.c); it calls lb_split_walk with the rest. */
enum lb_step_kind {
    LB_STEP_PATTERN,
    LB_STEP_METASPACE, /* spaces become "▁" or what the file says, one is put in front, the piece is cut there */
    LB_STEP_BYTES,     /* bytes become the characters that stand for them */
};
enum lb_prepend { LB_PREPEND_ALWAYS, LB_PREPEND_FIRST, LB_PREPEND_NEVER };

/* One pre-tokenizer step: a pattern whose matches cut the text, or (re NULL) a space in front of pieces without one. */
struct lb_step {
    enum lb_step_kind kind;
    enum lb_prepend prepend;
    uint32_t space; /* the character for spaces */
    bool cut;
    pcre2_code *re;
    bool jit, invert;
    enum lb_split_behavior behavior;
    enum lb_match_kind by_hand; /* cuts the text into the pieces that re and behavior give */
};

struct lb_tok {
    char *missing;
    int64_t n_id, bos, eos, pad, unk_token, more_eos[4];
    int n_more_eos;

    struct lb_arena tokens, merges; /* looked up at random, so huge pages matter where they are large */
    struct lb_token *token;         /* [n_id] */
    struct lb_str pool;
    struct lb_vocab_slot *vocab; /* raw bytes -> id, open addressing */
    size_t n_vocab_slot;
    struct lb_merge *merge; /* by the ids of the pair, open addressing */
    size_t n_merge_slot;
    uint64_t *filter; /* a bit for each pair that merges, by its hash >> filter_shift */
    int filter_shift;
    uint32_t max_rank;
    struct lb_pair *pair; /* [256 * 256] by first and second byte; NULL when a byte is no token */
    int32_t byte_id[256]; /* -1: the vocabulary lacks the byte */
    int32_t unk;          /* -1: missing bytes vanish */
    bool fuse_unk, ignore_merges, split_special;

    struct lb_norm *norm; /* [n_norm] normalizer */
    int n_norm;
    struct lb_kind *kind;                /* NULL: byte-level BPE */
    struct lb_added_set raw, normalized; /* looked for before and after the normalizer */
    struct lb_added_set named;           /* all added tokens as they are written; sorted by text */
    struct lb_step step[LB_TOK_MAX_STEP];
    int n_step;
    struct lb_ids prefix, suffix; /* what the post-processor adds */
};

/* A symbol of a word that is being merged; symbols form a list by index. rank and merged belong to the pair that it
 * forms with its right neighbor. */
struct lb_symbol {
    int32_t id, prev, next;
    uint32_t rank; /* LB_NO_RANK: the pair does not merge */
    int32_t merged;
};
#define LB_NO_RANK UINT32_MAX

struct lb_tok_ctx {
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    struct lb_words words;
    struct lb_symbol *symbol;
    size_t symbol_cap;
    uint64_t *heap; /* rank << 32 | position */
    size_t heap_cap, heap_n;
    int32_t *code; /* code points while normalizing */
    size_t code_cap;
    struct lb_str norm[2]; /* what a normalizer's part reads and writes */
    const char *first;     /* the piece that begins where the text does */
    struct lb_path *path;  /* of Unigram */
    size_t path_cap;
    struct lb_str spaced[LB_TOK_MAX_STEP]; /* pieces that got a space in front, by step */
};

/* Memory of a tokenizer (tok_bpe.c). Sizes are upper bounds; n_token counts entries of the vocabulary. */
enum lb_status lb_tok_reserve(struct lb_tok *t, int64_t n_id, size_t n_token, size_t n_merge, struct lb_err *err);

/* Appends raw bytes of a token as a file writes it; false when a character is outside the byte map (then its UTF-8). */
bool lb_tok_unmap(const char *text, size_t n, struct lb_str *out);

/* Gives an id its bytes, and with `listed` makes it findable by them. An id may be set once: false when it was. */
bool lb_tok_set(struct lb_tok *t, int32_t id, const char *bytes, size_t n, uint32_t flags, bool listed);
int32_t lb_tok_find(const struct lb_tok *t, const char *bytes, size_t n, bool plain); /* -1: none */
size_t lb_tok_n_listed(const struct lb_tok *t); /* different byte strings that are findable */

/* Adds the merge left + right of a rank; false when one of the three tokens is unknown. A pair that comes twice keeps
 * its later rank. The texts are as the file writes them; what scratch holds is lost. */
bool lb_tok_add_merge(struct lb_tok *t, struct lb_bytes left, struct lb_bytes right, uint32_t rank,
                      struct lb_str *scratch);

/* Merges that no file lists: room for n, and one of them. */
enum lb_status lb_tok_reserve_merges(struct lb_tok *t, size_t n, struct lb_err *err);
void lb_tok_put_merge(struct lb_tok *t, const struct lb_merge *m);
const struct lb_merge *lb_tok_find_merge(const struct lb_tok *t, int32_t left, int32_t right); /* NULL: none */

/* Merges c->symbol[*m] as far as it goes; *m becomes what is left. */
enum lb_status lb_bpe_merge(const struct lb_tok *t, struct lb_tok_ctx *c, size_t *m, struct lb_err *err);

/* Adds all merges of a scan, each of the rank that is its place. */
bool lb_tok_join_all(struct lb_tok *t, const char *bytes, const struct lb_scan_merge *merge, size_t n);
void lb_tok_find_bytes(struct lb_tok *t); /* fills byte_id and pair, after the merges */

enum lb_status lb_ids_put(struct lb_ids *ids, int32_t id, struct lb_err *err);

/* Added tokens (tok_added.c). lb_added_put takes no ownership of text; the set copies it. */
enum lb_status lb_added_put(struct lb_added_set *set, const struct lb_added *a, struct lb_err *err);
void lb_added_sort(struct lb_added_set *set);
const struct lb_added *lb_added_find(const struct lb_added_set *set, const char *text, size_t n); /* of a sorted set */
void lb_added_release(struct lb_added_set *set);

/* Calls `found` for each piece in order: id -1 for text between tokens. Empty pieces are left out. */
struct lb_added_sink {
    enum lb_status (*found)(void *arg, int32_t id, const char *text, size_t n, struct lb_err *err);
    void *arg;
    bool skip_special; /* text of special tokens is ordinary text */
};
enum lb_status lb_added_split(const struct lb_added_set *set, const char *text, size_t n,
                              const struct lb_added_sink *sink, struct lb_err *err);

const struct lb_added *lb_added_longest(const struct lb_added_set *set, const char *text, size_t n);

/* Pre-tokenizers (tok_split.c). A pattern that PCRE2 would read otherwise than the reference's Oniguruma makes
 * *unsupported say why (a static text) and adds nothing. */
enum lb_status lb_split_add(struct lb_tok *t, const char *pattern, bool literal, enum lb_split_behavior behavior,
                            bool invert, const char **unsupported, struct lb_err *err);
enum lb_status lb_split_add_space(struct lb_tok *t, struct lb_err *err);
enum lb_status lb_split_add_gpt2(struct lb_tok *t, struct lb_err *err);

/* Cuts text by the tokenizer's steps from `step` on and appends the ids of each word. */
enum lb_status lb_split_walk(const struct lb_tok *t, struct lb_tok_ctx *c, int step, struct lb_bytes text,
                             struct lb_ids *out, struct lb_err *err);

/* A pattern of the reference's Oniguruma; *unsupported as above. */
enum lb_status lb_pattern_compile(const char *pattern, pcre2_code **re, const char **unsupported, struct lb_err *err);

/* What loading one directory shares between tok_load.c and tok_pipe.c. */
struct lb_tok_load {
    struct lb_tok *t;
    const char *path; /* of the file that is being read, for messages */
    json_t *root, *config;
    json_t *map;                /* special_tokens_map.json */
    struct lb_tok_scan scan;    /* what root lacks, where n_token > 0 */
    bool whole;                 /* root must hold all of the file */
    bool refused;               /* what was scanned is not regular: all must be read anew, with `whole` */
    struct lb_decoder *decoder; /* that is being read */
    struct lb_added_set extra;  /* added tokens that no JSON file names */
    size_t n_more;              /* ids after the last piece that they take */
    int64_t n_piece;
    bool as_written;     /* tokens are written as their bytes are */
    struct lb_str text;  /* scratch */
    struct lb_str shown; /* scratch of lb_tok_shown */
    struct lb_err *err;
};

/* "cannot use 'FILE': ..." */
__attribute__((format(printf, 2, 3))) enum lb_status lb_tok_bad(const struct lb_tok_load *l, const char *fmt, ...);

/* A hostile text for a message: quoted, one line, short; lives until the next call. */
const char *lb_tok_shown(struct lb_str *scratch, const char *text, size_t n);

/* First call wins; a failed allocation is an error. */
__attribute__((format(printf, 3, 4))) enum lb_status lb_tok_set_missing(struct lb_tok *t, struct lb_err *err,
                                                                        const char *fmt, ...);

/* An id: a whole number from 0 to LB_TOK_MAX_ID - 1; -1 for anything else. */
int32_t lb_tok_json_id(const json_t *v);

#endif
