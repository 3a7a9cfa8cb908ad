/* The page allocator of the KV cache: which pages of LK_PAGE_TOKENS positions belong to which sequence. The bytes of
 * the pages are the backend's (struct lb_kv_mem); page ids here index its planes.
 *
 * All memory is taken by lb_kv_init, so that admission and growth allocate nothing. A page is referenced by at least
 * one sequence or lies on the free list; the count of references is kept so that sequences can share full pages. One
 * thread, the forward thread, uses an allocator. */
#ifndef CORE_MODEL_KV_H
#define CORE_MODEL_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/mem.h"
#include "kernels/types.h"

struct lb_kv_seq {
    int32_t *page;  /* [max_page] in order of position */
    int32_t n_page; /* entries in use */
    int64_t n_tok;  /* positions asked for so far: n_page is ceil(n_tok / LK_PAGE_TOKENS) */
    bool open;
};

struct lb_kv {
    struct lb_arena arena;
    int64_t n_page, n_free, peak_used; /* peak_used: most pages in use at one time */
    int32_t max_seq, max_page;         /* max_page: pages of one sequence */
    int32_t n_new;
    struct lb_kv_seq *seq; /* [max_seq] */
    int32_t *seq_free;     /* [max_seq] stack of closed sequences */
    int32_t n_seq_free;
    int32_t *free_page; /* [n_page] stack, n_free entries */
    int32_t *refs;      /* [n_page] references */
    int32_t *fresh;     /* [n_page] pages handed out since the last lb_kv_take_new, n_new entries */
    uint8_t *is_fresh;  /* [n_page] the page is in `fresh` */
};

/* Pages a sequence of n_tok positions needs. */
int64_t lb_kv_pages_of(int64_t n_tok);

/* max_seq sequences at a time, each of at most max_len positions. LB_E_DEVICE without memory, LB_E_USAGE when a size is
 * not positive or beyond int32_t. */
enum lb_status lb_kv_init(struct lb_kv *kv, int64_t n_page, int32_t max_seq, int64_t max_len, struct lb_err *err);
void lb_kv_release(struct lb_kv *kv);

/* A new sequence without pages: its number in [0, max_seq), or -1 when all are in use. */
int32_t lb_kv_open(struct lb_kv *kv);

/* Makes the sequence at least n_tok positions long. false, with nothing changed: too few free pages, or n_tok is beyond
 * max_len. Never shrinks. */
bool lb_kv_extend(struct lb_kv *kv, int32_t seq, int64_t n_tok);

/* Drops the sequence's references; pages without any are free at once. */
void lb_kv_close(struct lb_kv *kv, int32_t seq);

/* Moves the pages handed out since the last call, and still in use, to out (struct lb_step.new_page); returns how many.
 * Each page appears once. cap is the room in out; pages beyond it stay for the next call, so a caller gives room for
 * all pages in use (lb_kv_used). */
int32_t lb_kv_take_new(struct lb_kv *kv, int32_t *out, int32_t cap);

static inline int64_t lb_kv_used(const struct lb_kv *kv)
{
    return kv->n_page - kv->n_free;
}

/* Waste (engine contract, section 4): slots of pages in use that hold no position, shared pages counted once. n_tok is
 * the number of positions stored in them. */
static inline int64_t lb_kv_waste(const struct lb_kv *kv, int64_t n_tok)
{
    return lb_kv_used(kv) * LK_PAGE_TOKENS - n_tok;
}

#endif
