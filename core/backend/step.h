/* The flat step: everything one forward pass takes, in one block of memory, so that a broadcast, an upload and a dump
 * are one copy each. Tokens of n_seq sequences stand one after another; there is no padding and no mask.
 *
 * The pack stage fills it (lb_step_init gives it its block once, sized for the plan's limits); backends read it.
 * Tokens of a sequence have consecutive positions. */
#ifndef CORE_BACKEND_STEP_H
#define CORE_BACKEND_STEP_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "kernels/mass.h"

struct lb_step_limits {
    int32_t n_tok, n_seq, n_page; /* n_page: entries of all page tables together */
};

/* out_flags. What a rank of a group says of its part of the vocabulary costs messages: LB_OUT_TOP leaves the logits
 * with the ranks, where they can be asked about (core/run/ask.h). One rank alone gives the same for both. LB_OUT_DRAW
 * stands alone, and is for a backend that runs ahead. */
enum {
    LB_OUT_LOGITS = 1, /* full logits, log-sum-exp and top candidates of this row */
    LB_OUT_TOP = 2,    /* log-sum-exp and top candidates */
    LB_OUT_DRAW = 4    /* the id that the step's `draw` draws */
};

struct lb_step {
    uint8_t *block; /* owned */
    size_t block_bytes;
    struct lb_step_limits limit;
    int64_t number; /* counts up from 0 */
    int32_t n_tok, n_seq, n_page, n_out, n_new, n_copy;
    int32_t n_later; /* outputs that running rows are expected to want behind this step, in the mean */

    int32_t *tok;        /* [n_tok] token id, or ~j: the sample of slot j of the previous step */
    int32_t *pos;        /* [n_tok] position in its sequence */
    int32_t *tok_page;   /* [n_tok] page that takes the token's K and V */
    int32_t *rope_len;   /* [n_tok] length that sets a dynamic RoPE base: prompt length in the prompt, else pos + 1 */
    int32_t *seq_start;  /* [n_seq + 1] first token of each sequence */
    int32_t *page_start; /* [n_seq + 1] first entry of each sequence's page table in `page` */
    int32_t *adapter;    /* [n_seq] the adapter of each sequence, from 1; 0: none */
    int32_t *page;       /* [n_page] pages in order of position, enough for the sequence's last token here */
    int32_t *copy_from;  /* [n_copy] pages whose content, over all layers, is copied before anything else is done ... */
    int32_t *copy_to;    /* [n_copy] ... to these, one copy after the other */
    int32_t *new_page;   /* [n_new] pages handed out since the last step: zeroed before use, and after the copies */
    int32_t *out_tok;    /* [n_out] token whose logits are wanted, ascending; output j becomes sample slot j */
    int32_t *out_flags;  /* [n_out] */
    struct lk_draw *draw; /* [n_out] of outputs with LB_OUT_DRAW; not sent to other ranks */
};

/* Takes the block: room for limit.n_tok tokens and outputs, limit.n_seq sequences and copies, limit.n_page page table
 * entries and as many new pages. number is -1 until the first lb_step_clear. LB_E_DEVICE without memory. */
enum lb_status lb_step_init(struct lb_step *s, struct lb_step_limits limit, struct lb_err *err);
void lb_step_release(struct lb_step *s);
void lb_step_clear(struct lb_step *s); /* all counts 0, number + 1 */

/* Wanted tokens, and those of them whose flags ask for candidates without logits, and for logits. */
struct lb_out_counts {
    int64_t n_out, n_top, n_row;
};
struct lb_out_counts lb_step_outputs(const struct lb_step *s);

/* A step on its way to the other ranks of a group: a head of fixed size, then n_int numbers: the samples of the step
 * before, which its `~j` tokens mean, and the used part of each table. Ranks run the same build, so that numbers travel
 * as they lie in memory. */
struct lb_step_head {
    int64_t number;
    int64_t n_int;
    int32_t n_tok, n_seq, n_page, n_out, n_new, n_slot;
    int32_t n_copy, n_later;
    int32_t over;  /* not 0: no step, the run has ended */
    int32_t n_ask; /* not 0: no step, so many questions about the last one (core/run/ask.h), n_int numbers in all */
};

/* Numbers behind the head at most, of steps within the limit. */
size_t lb_step_pack_max(const struct lb_step *s);

/* slot: [n_slot], no more than limit.n_tok. ints: [lb_step_pack_max]. */
void lb_step_pack(const struct lb_step *s, const int32_t *slot, int32_t n_slot, struct lb_step_head *head,
                  int32_t *ints);

/* Checks a head before its numbers are taken: LB_E_DEVICE when it does not fit the limit of s. */
enum lb_status lb_step_head_check(const struct lb_step *s, const struct lb_step_head *head, struct lb_err *err);

/* Fills s and slot[head->n_slot] from a head that was checked and its numbers. What the numbers mean is checked by who
 * takes the step (lb_model_forward). */
void lb_step_unpack(struct lb_step *s, int32_t *slot, const struct lb_step_head *head, const int32_t *ints);

/* For backends, before anything of a step is used. LB_E_USAGE: tables that do not fit each other, the limits, or a
 * cache of n_page pages. */
enum lb_status lb_step_check(const struct lb_step *s, const struct lb_step_limits *limit, int64_t max_out,
                             int64_t n_page, struct lb_err *err);

/* LB_E_USAGE: a sequence has an adapter that is none of n_adapter. */
enum lb_status lb_step_check_adapters(const struct lb_step *s, int32_t n_adapter, struct lb_err *err);

/* id_of[n_tok]: token ids, `~j` replaced by slot[j] of n_slot, or kept where slot is NULL. LB_E_USAGE: an id that the
 * vocabulary does not have. */
enum lb_status lb_step_resolve(const struct lb_step *s, const int32_t *slot, int64_t n_slot, int64_t n_vocab,
                               int32_t *id_of, struct lb_err *err);

#endif
