/* GGUF v2 and v3 files (ggml docs/gguf.md): metadata, vocabulary, tensors. All lent until lb_gguf_close.
 *
 * Tensors of types that are not computed with are listed as LB_W_OTHER with the type's name; only a type whose size is
 * not known stops the open, since every later offset depends on it. Little-endian files on little-endian machines. */
#ifndef CORE_IO_GGUF_H
#define CORE_IO_GGUF_H

#include <stdbool.h>

#include "core/base/vocab.h"
#include "core/io/wfile.h"

enum lb_gguf_type {
    LB_GGUF_U8,
    LB_GGUF_I8,
    LB_GGUF_U16,
    LB_GGUF_I16,
    LB_GGUF_U32,
    LB_GGUF_I32,
    LB_GGUF_F32,
    LB_GGUF_BOOL,
    LB_GGUF_STRING,
    LB_GGUF_ARRAY,
    LB_GGUF_U64,
    LB_GGUF_I64,
    LB_GGUF_F64,
};

struct lb_gguf_kv {
    struct lb_bytes key;
    enum lb_gguf_type type, elem; /* elem: of an array */
    uint64_t n;                   /* elements of an array, else 1 */
    const uint8_t *data;          /* first value byte (a string: its length field); unaligned; inside the mapping */
};

struct lb_gguf {
    struct lb_wfile w;
    const char *path;      /* for messages */
    struct lb_gguf_kv *kv; /* [n_kv] sorted by key */
    size_t n_kv;
    struct lb_vocab vocab; /* its lists are owned */
};

/* Every length, count, offset and type is checked before it is used; LB_E_INPUT names the file and the key or tensor.
 * Split files (split.count > 1) are refused. */
enum lb_status lb_gguf_open(struct lb_gguf *g, const char *path, struct lb_err *err);
void lb_gguf_close(struct lb_gguf *g); /* also after a failed open */

/* The second half of lb_gguf_open: fills g->vocab from the tokenizer.* keys. */
enum lb_status lb_gguf_read_vocab(struct lb_gguf *g, struct lb_err *err);
/* Frees the vocabulary's lists, which are larger than the tables of the tokenizer that was made of them: g->vocab has
 * no tokens and no merges from now on. Its texts and ids stay. */
void lb_gguf_drop_vocab(struct lb_gguf *g);

const struct lb_gguf_kv *lb_gguf_find(const struct lb_gguf *g, const char *key); /* NULL when absent */

/* Scalars of any number type (bool is 0 or 1). false: absent, not a number, outside the result's range, or (i64) not a
 * whole number. */
bool lb_gguf_i64(const struct lb_gguf *g, const char *key, int64_t *out);
bool lb_gguf_f64(const struct lb_gguf *g, const char *key, double *out);
bool lb_gguf_str(const struct lb_gguf *g, const char *key, struct lb_bytes *out);

#endif
