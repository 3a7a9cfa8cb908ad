/* Shard arithmetic: which part of a model one of `tp` ranks holds. Pure: numbers in, numbers out.
 *
 * The contract cuts every summed dimension into S segments, whose sums are added in a fixed tree (engine contract,
 * section 2). A rank holds S / tp of them that stand side by side, a whole subtree: S is a power of two, halved as
 * often as tp says, or a prime, whose leaves are added left to right one a rank. */
#ifndef CORE_DIST_SHARD_H
#define CORE_DIST_SHARD_H

#include <stdint.h>

#include "core/backend/tensor.h"
#include "core/base/err.h"

/* Of the whole model. n_head is a multiple of n_seg and of n_kv_head. */
struct lb_shard_shape {
    int n_seg;
    int64_t n_head, n_kv_head;
    int64_t n_expert; /* 0: no mixture */
};

struct lb_slice {
    int rank, tp;
    int seg_begin, seg_end, n_seg; /* segments seg_begin .. seg_end - 1 of n_seg */
    int64_t head_begin, n_head;    /* query heads */
    /* KV heads: as many query heads share one in the model; here each serves `kv_group` query heads that stand side by
     * side. A head of the model is here more than once where its query heads do not begin where the rank's do. */
    int64_t model_group, kv_group, n_kv_head;
    int64_t expert_begin, expert_end;
};

/* LB_E_USAGE where tp does not divide the segments, naming the numbers that do. */
enum lb_status lb_slice_init(struct lb_slice *s, const struct lb_shard_shape *shape, int rank, int tp,
                             struct lb_err *err);

/* The whole model, as tp 1 has it. */
void lb_slice_whole(struct lb_slice *s, const struct lb_shard_shape *shape);

/* "1, 2, 4 or 8": values of tp that divide n_seg. */
#define LB_TP_LIST_BYTES 64
void lb_slice_list(int n_seg, char *out /* [LB_TP_LIST_BYTES] */);

/* The model's KV head that stands at place j here. */
int64_t lb_slice_kv_head(const struct lb_slice *s, int64_t j);

/* The slice of columns that are cut into the model's segments: its own segments, counted from 0. They begin at column
 * whole->begin[seg_begin] of the model. */
void lb_slice_cols(const struct lb_slice *s, const struct lk_cols *whole, struct lk_cols *own);

#endif
