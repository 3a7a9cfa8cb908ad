/* The prefix cache: which pages hold the beginning of a prompt, so that rows that begin alike compute it once.
 *
 *     struct lb_prefix_place at;
 *     n = lb_prefix_match(p, &at, seq, &text);           a new sequence takes the pages that are there
 *     ... feeds tokens, extends the sequence ...
 *     lb_prefix_add(p, &at, seq, &text, n_fed);          its own full pages can be taken by others
 *
 * A page is known by the page before it, its tokens (compared, not only hashed) and what else decides its numbers: the
 * variant. Pages are known as soon as the step that computes them is packed: in each layer a step writes all keys and
 * values before it reads any. The pages are the allocator's (kv.h), which gives up idle ones on its own and says so.
 * All memory is taken by lb_prefix_init. One thread, the forward thread, uses a cache. */
#ifndef CORE_MODEL_PREFIX_H
#define CORE_MODEL_PREFIX_H

#include <stdint.h>

#include "core/base/err.h"
#include "core/base/mem.h"
#include "core/model/kv.h"

struct lb_prefix_node; /* of a page */

struct lb_prefix {
    struct lb_arena arena;
    struct lb_kv *kv;
    struct lb_prefix_node *node; /* [n_page] */
    int32_t *tok;                /* [n_page, LK_PAGE_TOKENS] */
    int32_t *bucket;             /* [mask + 1] first page of a chain, -1: none */
    uint64_t mask, serial;
};

/* The beginning of a prompt that may be shared. */
struct lb_prefix_text {
    const int32_t *tok; /* [n_tok] */
    int64_t n_tok;
    uint64_t variant; /* 0, unless numbers of a page depend on more than tokens and positions */
};

/* How far a sequence's pages are known. Starts as zeros. */
struct lb_prefix_place {
    uint64_t parent; /* serial number of the last known page, 0: none */
    int32_t n_page;
};

/* kv is lent, fresh, and tells the cache from now on which pages it gives up. */
enum lb_status lb_prefix_init(struct lb_prefix *p, struct lb_kv *kv, struct lb_err *err);
void lb_prefix_release(struct lb_prefix *p);

/* Gives an empty sequence the pages of its text that are known, in order, and moves *at behind them: how many. Of a
 * text of n_tok tokens the full pages count. */
int32_t lb_prefix_match(struct lb_prefix *p, struct lb_prefix_place *at, int32_t seq,
                        const struct lb_prefix_text *text);

/* How many pages lb_prefix_match would give; *n_idle of them are idle. */
int32_t lb_prefix_look(const struct lb_prefix *p, const struct lb_prefix_text *text, int32_t *n_idle);

/* Makes the sequence's full pages known, as far as n_fed positions of its text are in them. */
void lb_prefix_add(struct lb_prefix *p, struct lb_prefix_place *at, int32_t seq, const struct lb_prefix_text *text,
                   int64_t n_fed);

#endif
