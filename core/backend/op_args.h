/* What a backend's ops take and give: buffers of the step, an argument struct for each op that has many, candidates.
 * Pointers are lent for the call. */
#ifndef CORE_BACKEND_OP_ARGS_H
#define CORE_BACKEND_OP_ARGS_H

#include "core/backend/step.h"
#include "core/backend/tensor.h"

/* Where packed matrices and tables are put while it is given to a backend (weight_mem). `used` counts up from 0, the
 * same in every process that loads the same weights for the same kernel set. data NULL: nothing is read or packed, and
 * what loading hands out is NULL: so `used` says what is needed. reads false: the bytes are there already, or will be
 * before the first step: another process packs them. */
struct lb_weight_mem {
    uint8_t *data; /* [bytes], 64-byte aligned, lent for the backend's life */
    size_t bytes, used;
    bool reads;
};

struct lb_matrix; /* a packed weight */
struct lb_table;  /* an embedding table, row-major */
struct lb_kv_mem; /* pages of all layers */

/* f32 rows on the device: [max_row, width], the row count is the step's. */
struct lb_buf {
    float *data;
    int64_t width;
};

/* Packed activations: the input of products whose K is cut as `cols` says. n_head > 0: as many of them, one for each
 * head. f32: kept in f32 whatever the backend's type, for matrices that are (struct lb_matrix_spec). */
struct lb_actbuf {
    void *data;
    struct lk_cols cols;
    int64_t n_head;
    bool f32;
};

/* The indexer of sparse attention: a token that sees more than topk positions attends to the topk best. n_plane: layers
 * that choose, each with index keys of `dim` numbers a position; 0: attention is to all. */
struct lb_index_shape {
    int64_t n_plane, topk, n_head, dim;
};

/* head_dim: of a key; v_dim: of a value. */
struct lb_kv_spec {
    int64_t n_layer, n_kv_head, head_dim, v_dim, n_page;
    struct lb_index_shape index;
};

#define LB_LORA_MAX_PART 3 /* modules in a fused matrix */

/* One module's pair inside a matrix: rows first, first + 1, ... of W become W + scale * B A. Lent for the call. */
struct lb_lora_part {
    const struct lb_rows *a; /* [rank, columns of the matrix] */
    const struct lb_rows *b; /* [rows, rank] */
    int64_t first;
    float scale;
};

/* What one adapter of n_adapter has for a matrix; parts do not overlap. */
struct lb_lora_spec {
    const struct lb_lora_part *part;
    int n_part;
    int32_t adapter, n_adapter;
    const char *name; /* for messages */
};

/* Of a matrix [n_out, n_col], n_head of which lie together: LB_E_INPUT where the adapter does not fit it. tensor.c */
enum lb_status lb_lora_spec_check(const struct lb_lora_spec *spec, int64_t n_col, int64_t n_out, int64_t n_head,
                                  struct lb_err *err);

enum lb_epilogue { LB_STORE, LB_ADD, LB_SWIGLU };

/* One product. LB_STORE and LB_ADD write y_rows, LB_SWIGLU writes y_act; the other is NULL. */
struct lb_linear_args {
    struct lb_buf *y_rows;
    struct lb_actbuf *y_act;
    const struct lb_actbuf *a;
    const struct lb_matrix *w;
    const float *bias; /* [n_out] from vector_new, or NULL */
    enum lb_epilogue epilogue;
};

/* One product for each head, of its own activations with its own matrix: y[:, y_col + h * y_step ...] = W_h a_h. */
struct lb_heads_args {
    struct lb_buf *y;
    int64_t y_col, y_step;
    const struct lb_actbuf *a;
    const struct lb_matrix *w;
};

/* What absorbed latent attention lays out for attend: see struct lk_latent. */
struct lb_latent_args {
    struct lb_buf *qkv;      /* [n_tok, (n_head + 1) * (n_rot + kv_rank) + kv_rank] */
    const struct lb_buf *q;  /* [n_tok, n_head * (nope_dim + n_rot)] */
    const struct lb_buf *kv; /* [n_tok, kv_rank + n_rot] */
    const float *w;          /* [kv_rank] from vector_new */
    int64_t n_head, nope_dim, n_rot, kv_rank;
    float eps;
};

/* A layer's choice of positions, which its attention and that of later layers takes until the next choice. */
struct lb_index_args {
    struct lb_buf *q;              /* [n_tok, n_head * dim]; written over */
    const struct lb_buf *kw;       /* [n_tok, dim + n_head]: the key, then the heads' weights */
    const float *norm, *norm_bias; /* [dim] from vector_new */
    struct lb_kv_mem *kv;
    int plane; /* 0 .. n_plane - 1 */
    const struct lb_rope_args *rope;
    float eps;
};

/* Rotary position embedding as the backend needs it: see struct lk_rope_table. */
struct lb_rope_args {
    const float *inv_freq; /* [n_rot / 2], lent for the model's life */
    int64_t n_rot, max_pos;
    double base, factor;
    float scale;
    bool dynamic, interleaved;
};

/* Attention of one layer. */
struct lb_attend_args {
    struct lb_actbuf *out;    /* [n_tok, n_head * v_dim], or [n_tok, v_dim] for each head */
    const struct lb_buf *qkv; /* [n_tok, (n_head + n_kv_head) * head_dim + n_kv_head * v_dim] */
    struct lb_kv_mem *kv;
    int layer;
    int64_t n_head, n_kv_head, head_dim;
    int64_t window; /* positions that a token sees, its own among them; 0: all before it */
    float scale;
    const struct lb_rope_args *rope;
    const float *q_norm, *k_norm; /* vectors from vector_new, or NULL */
    float eps;
    float *probs; /* tests on the reference set: [n_tok, n_head, probs_ld], host memory; NULL as a rule */
    int64_t probs_ld;
};

/* A layer's mixture of experts: y = sum over the chosen experts of weight * down(swiglu(gate_up y)) + shared expert.
 * The shared expert comes cut into the contract's segments, each an expert of its own, NULL where a segment is empty.
 */
struct lb_moe_weights {
    const struct lb_matrix *router; /* [n_expert, dim], f32 */
    const float *bias;              /* [n_expert] f32 from vector_new, for choosing only; or NULL */
    /* [n_expert] each: [2 * ffn_dim, dim], [dim, ffn_dim]; NULL where the expert is another rank's */
    struct lb_matrix *const *gate_up, *const *down;
    struct lb_matrix *const *shared_gate_up, *const *shared_down; /* [leaves] each, widths as the segments' */
};

/* The leaves of a mixture's tree that are here: leaf `first` and those behind it, as many as `shared` has segments. */
struct lb_moe_leaves {
    const struct lk_cols *shared; /* how the shared expert's columns are cut, also where there are none */
    int first, n_seg;             /* of n_seg leaves in all */
};

struct lb_moe_args {
    struct lb_buf *x;          /* [n_tok, dim] residual stream; out too, unless `part` is given */
    struct lb_buf *part;       /* NULL, or out: [n_tok, dim] the tree of the leaves that are here, to be reduced */
    const struct lb_actbuf *h; /* [n_tok, dim] norm(x), the shared expert's input */
    const float *norm;         /* [dim], the norm that made h: experts and router take it again */
    float eps;
    const struct lb_moe_weights *w;
};

/* What the LM head says of one wanted token. Without out_flags only best and finite are set. */
struct lb_cand {
    int32_t best; /* id of the largest logit, ties to the lower id; -1 when none is a number */
    float best_logit;
    int32_t drawn;          /* LB_OUT_DRAW: the id; some id where not all logits are finite */
    bool finite;            /* every logit is a finite number */
    float *logits;          /* [n_vocab] or NULL; the caller may change them; valid until the next step_begin */
    double lse;             /* log of the sum of exp(logits) */
    const int32_t *top_id;  /* [LK_TOP] best first, -1 beyond the vocabulary; NULL where nothing was asked for */
    const float *top_logit; /* [LK_TOP] */
};

/* What one rank's part of the vocabulary says of a step's wanted tokens, in host memory: struct lb_head_best [n_out];
 * at the next multiple of 8 bytes struct lb_head_top of each token that asks for candidates alone; then the logits [n]
 * of each that asks for them. */
struct lb_head_best {
    float value;
    int32_t id;     /* of the whole vocabulary; -1 when none is a number */
    int32_t finite; /* every logit of the part is a finite number */
};

struct lb_head_top {
    double lse[LK_MAX_SEG]; /* of the segments that are here, -infinity behind them */
    int32_t id[LK_TOP];     /* of the whole vocabulary, best first, -1 behind the last */
    float value[LK_TOP];
};

struct lb_head_part {
    const void *data;
    int64_t begin, n; /* vocabulary ids begin .. begin + n - 1 */
};

static inline size_t lb_head_top_at(int64_t n_out)
{
    return ((size_t)n_out * sizeof(struct lb_head_best) + 7) / 8 * 8;
}

static inline size_t lb_head_row_at(const struct lb_out_counts *c)
{
    return lb_head_top_at(c->n_out) + (size_t)c->n_top * sizeof(struct lb_head_top);
}

static inline size_t lb_head_part_bytes(const struct lb_out_counts *c, int64_t n)
{
    return lb_head_row_at(c) + (size_t)(c->n_row * n) * sizeof(float);
}

#endif
