/* The page allocator of the KV cache: which pages of LK_PAGE_TOKENS positions belong to which sequence. The bytes of
 * the pages are the backend's (struct lb_kv_mem); page ids here index its planes.
 *
 * All memory is taken by lb_kv_init, so that admission and growth allocate nothing. A page is referenced by at least
 * one sequence, or is free, or idle: not referenced, but kept for sequences that begin with the same tokens
 * (prefix.h decides that). Idle pages are given out when no free ones are left, those first that have been idle
 * longest. One thread, the forward thread, uses an allocator. */
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
    int64_t n_page, n_free, peak_used; /* n_free: pages without references, idle ones too; peak_used: most at a time */
    int64_t n_entry;                   /* pages of all sequences together: a shared page counts for each */
    int64_t n_idle, max_idle;          /* max_idle: above it the oldest idle page is given up */
    int32_t max_seq, max_page;         /* max_page: pages of one sequence */
    int32_t n_new;
    struct lb_kv_seq *seq; /* [max_seq] */
    int32_t *seq_free;     /* [max_seq] stack of closed sequences */
    int32_t n_seq_free;
    int32_t *free_page;     /* [n_page] stack, n_free - n_idle entries */
    int32_t *refs;          /* [n_page] references */
    uint8_t *kept;          /* [n_page] goes to the idle list when nobody refers to it any more */
    int32_t *older, *newer; /* [n_page] the idle list; -1: none */
    int32_t oldest, newest;
    void (*forget)(void *ctx, int32_t page); /* an idle page is given up; NULL while no page is kept */
    void *forget_ctx;
    int32_t *copy_from, *copy_to; /* [max_seq] pages whose content goes to others, n_copy of them, in this order */
    int32_t n_copy;
    int32_t *fresh;    /* [n_page] pages handed out since the last lb_kv_take_new, n_new entries */
    uint8_t *is_fresh; /* [n_page] the page is in `fresh` */
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

/* Appends a page that is kept, and full of positions, to a sequence of full pages. false: the sequence is at its
 * longest. */
bool lb_kv_share(struct lb_kv *kv, int32_t seq, int32_t page);

/* A new sequence that begins with the n_tok positions of another: its full pages are shared; of the last one, where
 * that has room, the new sequence has a copy, which lb_kv_take_copies asks for. The number of the sequence; -1, with
 * nothing changed: no sequence, no page, or no room for another copy is left. */
int32_t lb_kv_fork(struct lb_kv *kv, int32_t seq);

/* The page, which a sequence refers to, is kept from now on. */
void lb_kv_keep(struct lb_kv *kv, int32_t page);

/* Drops the sequence's references; pages without any are idle or free at once. */
void lb_kv_close(struct lb_kv *kv, int32_t seq);

/* Moves the pages handed out since the last call, and still in use, to out (struct lb_step.new_page); returns how many.
 * Each page appears once. cap is the room in out; pages beyond it stay for the next call, so a caller gives room for
 * all pages in use (lb_kv_used). */
int32_t lb_kv_take_new(struct lb_kv *kv, int32_t *out, int32_t cap);

/* Moves the copies that forks ask for to from and to (struct lb_step): they are made in their order, and before new
 * pages are zeroed, since pages may have changed hands meanwhile. cap is the room, kv->n_copy at least. */
int32_t lb_kv_take_copies(struct lb_kv *kv, int32_t *from, int32_t *to, int32_t cap);

static inline int64_t lb_kv_used(const struct lb_kv *kv)
{
    return kv->n_page - kv->n_free;
}

/* Waste (engine contract, section 4): slots of pages in use that hold no position. n_tok is the sum of the sequences'
 * positions; a shared page is full, so that it adds nothing however often it is counted. */
static inline int64_t lb_kv_waste(const struct lb_kv *kv, int64_t n_tok)
{
    return kv->n_entry * LK_PAGE_TOKENS - n_tok;
}

#endif
