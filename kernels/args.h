/* One argument struct per op. A kernel gets its struct and a range of work items [begin, end); the op's `items`
 * function says how many items there are. Items may run in any order, on any thread, at the same time; results never
 * depend on how they were split. Pointers are lent for the call.
 *
 * Contract of every set: a row's numbers depend on that row alone, never on n_row, on the tile or on its neighbors.
 *
 * Abbreviations: n_tok tokens of the step, dim residual width, T the table's element type (f32 or bf16). */
#ifndef KERNELS_ARGS_H
#define KERNELS_ARGS_H

#include <stdbool.h>

#include "kernels/args_lora.h"
#include "kernels/args_packed.h"

/* x[t, :] = table[id[t], :], widened to f32. items: n_tok. */
struct lk_embed {
    float *x;          /* [n_tok, dim] f32, row-major */
    const void *table; /* [n_vocab, dim] T, row-major */
    const int32_t *id; /* [n_tok], each in [0, n_vocab) */
    int64_t n_tok, dim;
};

/* y[i, :] = round(x[r, :] / sqrt(mean(x[r, :]^2) + eps) * w), r = row ? row[i] : i; f32 inside, one rounding at the
 * end, after the weight (RMSNorm, Zhang & Sennrich 2019). Writes the zero columns of y too. */
struct lk_norm {
    struct lk_act y;    /* out: [n_row, dim] */
    const float *x;     /* [*, dim] f32, row-major */
    const int32_t *row; /* [y.n_row] rows of x to take, or NULL for 0, 1, 2, ... */
    const float *w;     /* [dim] f32 */
    float eps;
};

/* x[i, :] += y[i, :] / sqrt(mean(y[i, :]^2) + eps) * w, all in f32: a norm that stands before the residual. items:
 * n_row. */
struct lk_norm_add {
    float *x;       /* in and out: [n_row, dim] f32, row-major */
    const float *y; /* [n_row, dim] f32, row-major */
    const float *w; /* [dim] f32 */
    int64_t n_row, dim;
    float eps;
};

/* Packs one panel of `panel_cols` output columns of a weight matrix (weight[out, in], y = W x).
 * Panel p of a plain matrix holds source rows p * panel_cols ...; of a gate-up matrix (n_out = 2 * ffn, gate rows then
 * up rows) the first half of its columns are gate rows p * panel_cols / 2 ..., the second half the up rows of the same
 * index. Rows are read where they lie, as the file has them. */
struct lk_pack {
    void *w;                    /* the whole packed matrix, lk_cpu.weight_bytes long */
    int64_t panel;              /* which panel */
    const void *const *row;     /* [panel_cols] source rows [cols->n_col] of `type`, any alignment; NULL: zeros */
    enum lk_type type;          /* of the source rows, whatever the set's own */
    const struct lk_cols *cols; /* segments of K */
};

enum lk_epilogue {
    LK_EP_STORE,  /* y[i, j] = v + bias[j]                         f32 */
    LK_EP_ADD,    /* y[i, j] = y[i, j] + (v + bias[j])             f32: bias first, then the residual */
    LK_EP_SWIGLU, /* out[i, j] = round(silu(g + bias[j]) * (u + bias[ffn + j])), gate-up matrix; zero columns too */
    LK_EP_HEAD,   /* best[i, block] and, for rows that ask, logits */
};

/* The largest logit of a vocabulary block and its id, ties to the lower id. NaN never wins; a block without any
 * comparable number has id -1. `finite` is false when any logit of the block was NaN or infinite. */
struct lk_best {
    float value;
    int32_t id;
    bool finite;
};

/* Pages of a cache that are read soon: K and V of page[0], then of page[1], ... */
struct lk_soon {
    const char *k, *v;
    int64_t k_bytes, v_bytes; /* of a page, whole lines */
    const int32_t *page;
    int64_t n, first; /* n halves of pages, of which the product is to fetch those from `first` on */
};

/* v[i, j] = tree over segments s of (sum over k in s of a[i, k] * W[j, k]), each segment summed from zero in the order
 * that the set's instruction defines; the tree is balanced (s with s+1, then pairs of those) when n_seg is a power of
 * two, else left to right. */
struct lk_linear {
    struct lk_act a;
    const void *w;              /* packed, same cols as a */
    const struct lk_packed *q;  /* w is what pack_codes made of codes; NULL: what pack made of numbers */
    int64_t n_out;              /* output columns; 2 * ffn for LK_EP_SWIGLU */
    const struct lk_lora *lora; /* adapters of the rows, added to each segment's sum; NULL: none. u is made */
    enum lk_epilogue epilogue;
    const float *bias;    /* [n_out] f32 or NULL */
    float *y;             /* LK_EP_STORE, LK_EP_ADD: [a.n_row, n_out] f32, row-major, rows y_ld apart */
    int64_t y_ld;         /* n_out at least */
    struct lk_act out;    /* LK_EP_SWIGLU: [a.n_row, ffn] */
    struct lk_best *best; /* LK_EP_HEAD: [a.n_row, ceil(n_out / LK_HEAD_BLOCK)] */
    float *const *logits; /* LK_EP_HEAD: [a.n_row]; NULL where not asked for, else [n_out] f32 */
    /* Hints, on which results never depend. */
    int64_t l2_bytes;   /* a core's second cache; 0: unknown. The number of items depends on it */
    int64_t skip_items; /* other threads' items between the end of a range and what its thread is likely to get next */
    const struct lk_soon *soon; /* fetched beside the weights by sets that have room for it; NULL: nothing */
    bool near_rows; /* rows come to the first cache before their products: see near_rows_from of struct lk_cpu */
};

#define LK_MAX_EXPERT 1024

/* Chooses the experts of each token (DeepSeek-V3's router without auxiliary loss, DeepSeek-AI 2024;
 * spec/models.md 1.8). With s = 1 / (1 + e^-logit) and c = s + bias: a group of n_expert / n_group consecutive experts
 * scores the sum of its two largest c; of the n_group_used best groups the n_used experts with the largest c are
 * chosen. weight = s, divided by the sum of the chosen (+ 1e-20) where `normalize`, times scale. All in f32, sums by
 * ascending id. A NaN is larger than any number, so that it is chosen and shows; ties go to the lower id. items: n_tok.
 */
struct lk_route {
    const float *logits; /* [n_tok, n_expert] */
    const float *bias;   /* [n_expert] or NULL */
    int32_t *id;         /* out: [n_tok, n_used], ascending in each row */
    float *weight;       /* out: [n_tok, n_used] */
    int64_t n_tok;
    int64_t n_expert; /* <= LK_MAX_EXPERT, a multiple of n_group */
    int64_t n_used;   /* <= n_group_used * n_expert / n_group */
    int64_t n_group, n_group_used;
    float scale;
    bool normalize;
};

/* x[t, :] += tree over leaves r of (sum over the chosen experts i of group r, ascending, of weight[t, i] * y[row[t, i],
 * :]
 * + shared[r - first][t, :]), each leaf summed from zero, the tree as in struct lk_linear, all in f32. Group r of n_seg
 * begins with expert floor(r * n_expert / n_seg). The leaves are first .. first + n_leaf - 1: 0 and n_seg, or a rank's
 * subtree. items: n_tok. */
struct lk_combine {
    float *x;            /* in and out: [n_tok, dim] f32, row-major */
    const float *y;      /* [*, dim] f32: what experts gave, a row for each choice */
    const int32_t *id;   /* [n_tok, n_used] ascending, in [0, n_expert) */
    const int32_t *row;  /* [n_tok, n_used] rows of y; of experts in other leaves not read */
    const float *weight; /* [n_tok, n_used] */
    const float *const
        *shared; /* [n_leaf] each [n_tok, dim] f32: a segment of the shared expert's product; NULL: none */
    int64_t n_tok, n_used, n_expert, dim;
    int n_seg, first, n_leaf;
};

/* For each row with logits: the natural log of each segment's sum of exponentials, and the LK_TOP largest logits of the
 * row, by value, ties by lower id. items: n_row. A sum is relative to the segment's own largest number and runs in f64
 * over blocks of LK_HEAD_BLOCK columns in ascending order from the segment's first one, so that it is the same whoever
 * holds the segment. A segment without a number above -infinity has -infinity. */
struct lk_top {
    int64_t n_row, n_vocab;
    const float *const *logits; /* [n_row] each [n_vocab] or NULL (row is skipped) */
    const int64_t *seg;         /* [n_seg + 1] columns where the segments begin: 0 ... n_vocab */
    int n_seg;
    double *lse;  /* [n_row, n_seg] */
    int32_t *id;  /* [n_row, LK_TOP]; -1 beyond the vocabulary */
    float *value; /* [n_row, LK_TOP] */
};

/* Rotary angles: cos(a) * scale, sin(a) * scale with a = inv_freq[i] * (float)pos[t], in float32 (RoFormer, Su et al.
 * 2021). With dynamic NTK scaling (len not NULL) inv_freq is made anew from the base
 *   base * (factor * s / max_pos - (factor - 1))^(n_rot / (n_rot - 2)),  s = max(len[t], max_pos).
 * items: n_tok. */
struct lk_rope_table {
    float *cos, *sin;      /* out: [n_tok, n_rot / 2] f32 */
    const int32_t *pos;    /* [n_tok] */
    const float *inv_freq; /* [n_rot / 2] f32 */
    const int32_t *len;    /* [n_tok] or NULL */
    double base, factor;   /* read with len only */
    int64_t max_pos;       /* read with len only */
    int64_t n_tok, n_rot;
    float scale;
};

/* One layer's K and V planes. Page p of head h starts at k + (p * n_kv_head + h) * k_page_bytes, v likewise; what is
 * inside a page is the set's own order. Pages are zeroed when they are handed out. */
struct lk_kv {
    uint8_t *k, *v;
    int64_t k_page_bytes, v_page_bytes;
    int64_t n_kv_head, head_dim; /* head_dim: of Q and K */
    int64_t v_dim;               /* dimensions of a head of V */
};

/* Rotates the first n_rot dimensions of each head of Q and K, rounds Q, K, V once and stores them: Q into q (the set's
 * order), K and V into the cache page of each token. Before the rotation, where q_norm / k_norm are given, each head is
 * RMS-normalized in f32. items: n_tok. */
struct lk_rope_kv {
    const float *qkv;       /* [n_tok, (n_head + n_kv_head) * head_dim + n_kv_head * v_dim] f32: all Q heads, K, V */
    const float *cos, *sin; /* [n_tok, n_rot / 2] */
    void *q;                /* out: lk_cpu.q_bytes(n_tok, n_head, head_dim) */
    struct lk_kv kv;
    const int32_t *pos;  /* [n_tok]; the slot inside the page is pos % LK_PAGE_TOKENS */
    const int32_t *page; /* [n_tok] page that holds the token's position */
    int64_t n_tok, n_head, n_rot;
    bool interleaved;             /* pairs (2i, 2i+1) instead of (i, i + n_rot / 2) */
    const float *q_norm, *k_norm; /* [head_dim] f32 or NULL */
    float eps;
};

/* y[i, :] = round(x[i, :]), the zero columns too: f32 rows as the input of a product. items: y.n_row. */
struct lk_round {
    struct lk_act y; /* out: [n_row, dim] */
    const float *x;  /* [n_row, dim] f32, rows x_ld apart */
    int64_t x_ld;
};

/* What absorbed latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1) shares with the ordinary kind, as
 * lk_rope_kv reads it: one KV head whose key is the part that turns, then the normalized latent, and whose value is the
 * latent alone. Writes K, V and the turning part of every query head; what W_uk makes of the rest comes from a product.
 *   K[t] = [kv[t, kv_rank ...], c[t]],  V[t] = c[t],  c[t] = kv[t, :kv_rank] / sqrt(mean(its squares) + eps) * w
 * items: n_tok. */
struct lk_latent {
    float *qkv;      /* out: [n_tok, (n_head + 1) * (n_rot + kv_rank) + kv_rank] f32 */
    const float *q;  /* [n_tok, n_head, nope_dim + n_rot] f32 */
    const float *kv; /* [n_tok, kv_rank + n_rot] f32 */
    const float *w;  /* [kv_rank] f32 */
    int64_t n_tok, n_head, nope_dim, n_rot, kv_rank;
    float eps;
};

/* One piece of attention work: tokens tok .. tok + n_tok - 1 (consecutive positions of one sequence) and query heads
 * head .. head + n_head - 1 of one KV head: all of its heads where n_tok > 1. At most lk_cpu.attn_rows times.
 *
 * With n_shared > 0 the tokens are one of each of the sequences seq .. seq + n_tok - 1, which have their first n_shared
 * pages in common and lie behind them: those pages are read once for all, at most LK_SHARED_ROWS tokens times heads. */
struct lk_attn_item {
    int32_t seq, tok, n_tok, head, n_head, n_shared;
};

/* out[t, h, :] = softmax(scale * q[t, h] . K[b..pos[t]]) V, causal, K and V from the cache; b is 0, or with a window
 * max(0, pos[t] - window + 1). Blocks of LK_PAGE_TOKENS positions inside splits of LK_SPLIT_TOKENS, both counted from
 * position 0; one online softmax a split (Dao et al. 2022), started anew in each split; splits merged in order. Blocks
 * and splits without a visible position do not count, whoever else reads them. Probabilities are rounded to the cache's
 * type for the product with V and summed as rounded. items: n_item. Writes the zero columns of out too. */
struct lk_attend {
    /* [n_tok, n_head * v_dim], head h at source columns h * v_dim. With out_head_bytes > 0 each head has activations of
     * its own, [n_tok, v_dim], those of head h at out.data + h * out_head_bytes. */
    struct lk_act out;
    int64_t out_head_bytes;
    const void *q; /* from lk_rope_kv */
    struct lk_kv kv;
    const struct lk_attn_item *item; /* [n_item] */
    int64_t n_item, n_tok, n_head;
    int64_t skip_items; /* other threads' items between the end of a range and what its thread is likely to get next */
    const int32_t *pos; /* [n_tok] */
    const int32_t *page_start; /* [n_seq] index of a sequence's first page in `page` */
    const int32_t *page;       /* page ids, a sequence's in order of position */
    int64_t window;            /* 0: none */
    float scale;               /* above 0 */
    float *probs;              /* tests, ref only: [n_tok, n_head, probs_ld] f32 softmax; NULL as a rule */
    int64_t probs_ld;
};

#endif
