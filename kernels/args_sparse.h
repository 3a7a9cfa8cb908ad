/* Argument structs of sparse attention, as kernels/args.h has them for the rest: an indexer with keys of its own
 * (DeepSeek-V3.2; spec/models.md 1.10) chooses the positions that a token attends to; their K and V are gathered into
 * pages, over which attention is the ordinary one. One KV head. */
#ifndef KERNELS_ARGS_SPARSE_H
#define KERNELS_ARGS_SPARSE_H

#include "kernels/args.h"

/* One layer's index keys: page p at key + p * page_bytes, [dim, 32 positions] T. */
struct lk_index_plane {
    uint8_t *key;
    int64_t page_bytes, dim;
};

/* Key: LayerNorm(k), its first n_rot dimensions turned, rounded once into the plane. Query: each head turned and
 * rounded likewise, in place. items: n_tok. */
struct lk_index_key {
    float *q;       /* in and out: [n_tok, n_head, plane.dim] f32 */
    const float *k; /* [n_tok, plane.dim] f32, rows k_ld apart */
    int64_t k_ld;
    const float *norm, *norm_bias; /* [plane.dim] */
    const float *cos, *sin;        /* [n_tok, n_rot / 2] */
    struct lk_index_plane plane;
    const int32_t *pos, *page; /* [n_tok] as in struct lk_rope_kv */
    int64_t n_tok, n_head, n_rot;
    bool interleaved;
    float eps;
};

/* The factor n_head^-1/2 of the paper's sum changes no order and is left out. The topk positions s of 0 .. pos[t] with
 * the largest sum over heads of w_h * max(0, scale * q_h . key[s]), ties to the lower position, ascending, for each
 * item's first token; pos[t] >= topk - 1. A sum that is NaN is not taken while there are others. items: n_item. */
struct lk_index_select {
    const float *q; /* from lk_index_key */
    const float *w; /* [n_tok, n_head] f32, rows w_ld apart */
    int64_t w_ld;
    struct lk_index_plane plane;
    const struct lk_attn_item *item;
    const int32_t *pos, *page_start, *page; /* as in struct lk_attend */
    int64_t n_head, topk;
    float scale;
    int32_t *chosen; /* out: [n_tok, topk] */
    float *score;    /* scratch: [n_tok, topk] */
};

/* K and V of the chosen positions of each item's first token, in order: those of item i into pages i * n_page ... of
 * `to`, zeros behind the last. items: n_item * n_page. */
struct lk_gather {
    struct lk_kv from, to;
    const struct lk_attn_item *item;
    const int32_t *chosen;            /* [n_tok, topk] */
    const int32_t *page_start, *page; /* of `from`, as in struct lk_attend */
    int64_t topk, n_page;             /* n_page = ceil(topk / LK_PAGE_TOKENS) */
};

#endif
