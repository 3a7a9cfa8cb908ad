#include "core/dist/shard.h"

#include <stdio.h>

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

void lb_slice_list(int n_seg, char *out)
{
    int at = 0;
    for (int tp = 1; tp <= n_seg; tp++)
        if (n_seg % tp == 0)
            at += snprintf(out + at, (size_t)(LB_TP_LIST_BYTES - at), "%s%d",
                           at == 0       ? ""
                           : tp == n_seg ? " or "
                                         : ", ",
                           tp);
}

static void fill(struct lb_slice *s, const struct lb_shard_shape *shape, int rank, int tp)
{
    int64_t n_seg = shape->n_seg;
    *s = (struct lb_slice){.rank = rank, .tp = tp, .n_seg = shape->n_seg};
    s->seg_begin = shape->n_seg / tp * rank;
    s->seg_end = shape->n_seg / tp * (rank + 1);
    s->n_head = shape->n_head / tp;
    s->head_begin = s->n_head * rank;
    s->model_group = shape->n_head / shape->n_kv_head;
    s->kv_group = gcd(s->model_group, s->n_head);
    s->n_kv_head = s->n_head / s->kv_group;
    s->expert_begin = s->seg_begin * shape->n_expert / n_seg;
    s->expert_end = s->seg_end * shape->n_expert / n_seg;
}

void lb_slice_whole(struct lb_slice *s, const struct lb_shard_shape *shape)
{
    fill(s, shape, 0, 1);
}

enum lb_status lb_slice_init(struct lb_slice *s, const struct lb_shard_shape *shape, int rank, int tp,
                             struct lb_err *err)
{
    *s = (struct lb_slice){0};
    if (tp < 1 || shape->n_seg % tp != 0) {
        char list[LB_TP_LIST_BYTES];
        lb_slice_list(shape->n_seg, list);
        return lb_err_set(err, LB_E_USAGE, "tp %d does not divide the model's %d segments: %s would work", tp,
                          shape->n_seg, list);
    }
    if (rank < 0 || rank >= tp)
        return lb_err_set(err, LB_E_USAGE, "rank %d of a group of %d", rank, tp);
    fill(s, shape, rank, tp);
    return LB_OK;
}

int64_t lb_slice_kv_head(const struct lb_slice *s, int64_t j)
{
    return (s->head_begin + j * s->kv_group) / s->model_group;
}

void lb_slice_cols(const struct lb_slice *s, const struct lk_cols *whole, struct lk_cols *own)
{
    int64_t begin[LK_MAX_SEG + 1];
    for (int is = s->seg_begin; is <= s->seg_end; is++)
        begin[is - s->seg_begin] = whole->begin[is] - whole->begin[s->seg_begin];
    lb_cols_init(own, s->seg_end - s->seg_begin, begin);
}
