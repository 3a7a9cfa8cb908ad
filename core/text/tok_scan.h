/* model.vocab and model.merges of tokenizer.json, read without jansson. Bytes are raw (models.md 3.6), in `bytes`. */
#ifndef CORE_TEXT_TOK_SCAN_H
#define CORE_TEXT_TOK_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/str.h"

struct lb_tok;

/* Byte that a code point stands for in byte-level files, or -1 (models.md 3.6). */
static inline int lb_tok_byte_of(uint32_t cp)
{
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172) || (cp >= 174 && cp <= 255))
        return (int)cp;
    if (cp < 256 || cp > 323)
        return -1;
    int nth = (int)cp - 256; /* among the 68 bytes that have no character of their own: 0..32, 127..160, 173 */
    return nth <= 32 ? nth : nth <= 66 ? nth + 94 : 173;
}

struct lb_scan_token {
    uint32_t at, len;
    int32_t id;
    bool plain; /* LB_TOKEN_PLAIN */
};
struct lb_scan_merge {
    uint32_t at, n_left, n_right;
    bool plain;
};
struct lb_tok_scan {
    struct lb_str bytes;
    struct lb_scan_token *token;
    size_t n_token, token_cap;
    struct lb_scan_merge *merge; /* [n_merge], by rank */
    size_t n_merge, merge_cap;
    int32_t top_id;
    struct lb_str rest; /* the file with {} and [] in their places */
};

/* False when the file is not of the usual form, or memory is out: jansson must then read all of it. text has a zero
 * byte at text[n]. Release *s in any case. */
bool lb_scan_cut(struct lb_tok_scan *s, const char *text, size_t n);

/* Fills vocabulary and merges of a tokenizer that lb_tok_reserve made; false as above, *t is then of no use. */
bool lb_scan_fill(const struct lb_tok_scan *s, struct lb_tok *t);
int32_t lb_scan_find(const struct lb_tok_scan *s, const char *bytes, size_t n, bool plain); /* id or -1 */
void lb_scan_release(struct lb_tok_scan *s);

#endif
