/* The host's part of an LM head: memory for what a step says of its wanted tokens, and candidates made of it. Used by
 * backends that compute logits; the forward thread owns it, functions over rows may run on several threads. */
#ifndef CORE_BACKEND_HEAD_H
#define CORE_BACKEND_HEAD_H

#include "core/backend/op_args.h"
#include "core/base/err.h"
#include "core/base/mem.h"
#include "kernels/args.h"

struct lb_head {
    struct lb_arena arena; /* touched as rows ask */
    int64_t max_out, n_vocab, ld_logits;
    struct lk_cols vocab; /* the segments of the vocabulary */
    struct lk_best *best; /* [max_out, blocks of what is here] */
    float *logits;        /* [max_out, ld_logits] */
    float **logits_of;    /* [max_out] of rows that ask for anything */
    const float **top_of; /* [max_out] those whose candidates are looked for */
    double *lse;          /* [max_out, segments] */
    int32_t *top_id;      /* [max_out, LK_TOP] */
    float *top_value;     /* [max_out, LK_TOP] */
    struct lb_cand *cand; /* [max_out] */
};

static inline int64_t lb_head_blocks(int64_t n)
{
    return (n + LK_HEAD_BLOCK - 1) / LK_HEAD_BLOCK;
}

enum lb_status lb_head_reserve(struct lb_head *h, int64_t max_out, const struct lk_cols *vocab, struct lb_err *err);
void lb_head_release(struct lb_head *h);

/* Which of the two flags (LB_OUT_LOGITS, LB_OUT_TOP) a row goes by; 0: none. */
int32_t lb_head_kind(const struct lb_step *s, int64_t j);

/* Gives the step's rows the places of their logits: the i-th that asks for anything at i * ld_logits. */
void lb_head_place(struct lb_head *h, const struct lb_step *s);

/* Fills top_of: rows of which kinds get their candidates here. Returns how many they are. */
int64_t lb_head_list(struct lb_head *h, const struct lb_step *s, int32_t kinds);

/* ctx: the head. Candidates of rows begin .. end from the blocks of the whole vocabulary, lse and top. */
void lb_head_reduce_rows(void *ctx, int64_t begin, int64_t end);

/* Row j, whose best is known and whose logits and lse are here as a whole. */
void lb_head_whole(struct lb_head *h, int64_t j);

/* The segments that lie in ids first .. first + n - 1; an empty one between two parts is in both. */
void lb_head_own(const struct lb_head *h, int64_t first, int64_t n, struct lk_cols *own);

/* ctx of lb_head_put_rows: what is said of a part of the vocabulary, as struct lb_head_part has it. */
struct lb_head_put {
    const struct lb_head *head;
    const struct lb_step *step;
    int64_t first, n, n_block;
    struct lk_cols own;
    struct lb_out_counts count;
    uint8_t *out;
};
void lb_head_put_rows(void *ctx, int64_t begin, int64_t end);

/* ctx of lb_head_join_rows: candidates from all parts. Rows that ask for logits get these and their best alone. */
struct lb_head_join {
    struct lb_head *head;
    const struct lb_step *step;
    const struct lb_head_part *part;
    struct lb_out_counts count;
    int n_part;
};
void lb_head_join_rows(void *ctx, int64_t begin, int64_t end);

#endif
