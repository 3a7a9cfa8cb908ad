/* Attention on CUDA, with the conventions of lk_cuda.h. The host plans which blocks of threads do a step's attention
 * (lk_plan.c), once for all layers of a window. */
#ifndef KERNELS_CUDA_LK_CUDA_ATTEND_H
#define KERNELS_CUDA_LK_CUDA_ATTEND_H

#include "kernels/cuda/lk_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A row of attention work, all heads of a token; its state in split s is in slot + s. tok -1: nothing to merge. */
struct lk_attn_row {
    int32_t tok, slot;
};

enum lk_attn_kind {
    LK_ATTN_WHOLE, /* the pages are all that the rows see: results go out */
    LK_ATTN_STATE, /* pages of one split: the rows' states are kept */
    LK_ATTN_RESUME /* the same, from the states that an item of the first launch kept */
};

/* Rows row .. row + n_row - 1 against pages page_begin .. page_end - 1 of sequence seq, whose first pages they share.
 * No rows: the block of threads ends at once. */
struct lk_attn_work {
    int32_t row, n_row, seq, page_begin, page_end;
    enum lk_attn_kind kind;
};

/* What a step's attention does, made by lk_attn_plan_step on the host and copied to the device: items in tiles of many
 * rows, then (second launch) of few, then rows whose states are merged. The same for all layers of a window. */
struct lk_attn_plan {
    const struct lk_attn_work *item; /* [n_many + n_few] */
    int64_t n_many, n_few;
    const struct lk_attn_row *row; /* [n_row], from merge_row on those to merge */
    int64_t n_row, merge_row, n_merge;
    int64_t n_slot;
    float *state; /* scratch of lk_attn_state_bytes */
    size_t shared_bytes;
};

/* A sequence of the step: tokens tok .. tok + n_tok - 1 at positions pos ...; page is the host's list of its pages. */
struct lk_attn_seq {
    int32_t tok, n_tok, pos;
    const int32_t *page;
};

/* Most items and rows that a step can need; what the states take. */
int64_t lk_attn_plan_items(const struct lk_attn_seq *seq, int64_t n_seq);
int64_t lk_attn_plan_rows(const struct lk_attn_seq *seq, int64_t n_seq);
size_t lk_attn_state_bytes(int64_t n_slot, int64_t n_head, int64_t v_dim);

/* Shape that a plan is made for. */
struct lk_attn_shape {
    int64_t n_head, n_kv_head, v_dim, window;
    size_t shared_bytes; /* that a block of the device may have: 99 KB at least */
    bool rounds;         /* counts are rounded up with work that is none, so that a recorded launch serves more steps */
};

/* Fills item and row, and the counts of *plan. Neighboring sequences of one token that begin with the same pages read
 * these once, as many as fit into a tile. */
void lk_attn_plan_step(const struct lk_attn_seq *seq, int64_t n_seq, const struct lk_attn_shape *shape,
                       struct lk_attn_work *item, struct lk_attn_row *row, struct lk_attn_plan *plan);

/* Rows (tokens times heads of a KV head) that an item has at most. */
int lk_cuda_attn_rows(int64_t v_dim, size_t shared_bytes);

/* f32, v_dim <= 512; a->item is the device's. */
int lk_cuda_attend_f32(const struct lk_attend *a, void *stream);

/* bf16; a->item is not used. */
int lk_cuda_attend(const struct lk_attend *a, const struct lk_attn_plan *plan, void *stream);

#ifdef __cplusplus
}
#endif

#endif
