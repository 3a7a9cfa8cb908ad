/* The neutral vocabulary: what a GGUF file says of its tokenizer. io fills it, text reads it, llmbatch.c joins them.
 * All memory is lent: strings point into the mapped file, which outlives the tokenizer's construction. */
#ifndef CORE_BASE_VOCAB_H
#define CORE_BASE_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lb_bytes {
    const char *data; /* not zero-terminated */
    size_t len;
};

/* tokenizer.ggml.token_type (GGUF metadata) */
enum lb_vocab_type {
    LB_VOCAB_NORMAL = 1,
    LB_VOCAB_UNKNOWN = 2,
    LB_VOCAB_CONTROL = 3,
    LB_VOCAB_USER = 4,
    LB_VOCAB_UNUSED = 5,
    LB_VOCAB_BYTE = 6,
};

struct lb_vocab {
    struct lb_bytes model; /* "gpt2", "llama", ...; len 0 when the file has no tokenizer */
    struct lb_bytes pre;   /* pre-tokenizer name, "" when absent */
    size_t n_token, n_merge;
    const struct lb_bytes *token;         /* [n_token] */
    const int32_t *type;                  /* [n_token] enum lb_vocab_type, or NULL */
    const float *score;                   /* [n_token], or NULL */
    const struct lb_bytes *merge;         /* [n_merge] "left right" */
    int64_t bos, eos, eot, eom, unk, pad; /* ids, -1 when absent */
    int add_bos;                          /* 0, 1, or -1 when the file does not say */
    int add_space_prefix;                 /* 0, 1, or -1 */
    struct lb_bytes chat_template;        /* len 0 when absent */
};

#endif
