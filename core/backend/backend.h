/* A backend: memory for weights, cache and activations, and the ops of a forward pass, as a table of functions.
 *
 * One thread (the forward thread) calls a backend. Between step_begin and step_end the first failure sticks and later
 * ops do nothing; step_end reports it. Ops take device buffers; only step_end and the read functions give host
 * memory. Everything a backend hands out is freed by close. */
#ifndef CORE_BACKEND_BACKEND_H
#define CORE_BACKEND_BACKEND_H

#include "core/backend/step.h"
#include "core/backend/tensor.h"
#include "core/base/err.h"
#include "core/base/log.h"

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
    const struct lb_matrix *router;                 /* [n_expert, dim], f32 */
    const float *bias;                              /* [n_expert] f32 from vector_new, for choosing only; or NULL */
    struct lb_matrix *const *gate_up, *const *down; /* [n_expert] each: [2 * ffn_dim, dim], [dim, ffn_dim] */
    struct lb_matrix *const *shared_gate_up, *const *shared_down; /* [n_seg] each, widths as the segments' */
};

struct lb_moe_args {
    struct lb_buf *x;          /* in and out: [n_tok, dim] residual stream */
    const struct lb_actbuf *h; /* [n_tok, dim] norm(x), the shared expert's input */
    const float *norm;         /* [dim], the norm that made h: experts and router take it again */
    float eps;
    const struct lb_moe_weights *w;
};

/* What the LM head says of one wanted token. Without LB_OUT_LOGITS only best and finite are set. */
struct lb_cand {
    int32_t best; /* id of the largest logit, ties to the lower id; -1 when none is a number */
    float best_logit;
    bool finite;            /* every logit is a finite number */
    float *logits;          /* [n_vocab] or NULL; the caller may change them; valid until the next step_begin */
    double lse;             /* log of the sum of exp(logits) */
    const int32_t *top_id;  /* [LK_TOP] best first, -1 beyond the vocabulary; NULL without logits */
    const float *top_logit; /* [LK_TOP] */
};

struct lb_backend_counts {
    int64_t product_rows;                      /* rows that entered layer products, one count a product */
    int64_t token_rows;                        /* tokens that those products were asked for */
    double attend_s, linear_s, norm_s, head_s; /* seconds by kind of op, whole run */
};

struct lb_backend;

struct lb_backend_ops {
    void (*close)(struct lb_backend *be);

    /* loading; weights may be read by several threads of the backend's team */
    enum lb_status (*matrix_new)(struct lb_backend *be, const struct lb_matrix_spec *spec, struct lb_matrix **out,
                                 struct lb_err *err);
    /* n_head matrices of the same shape, whose rows stand one behind the other in spec->rows */
    enum lb_status (*heads_new)(struct lb_backend *be, const struct lb_matrix_spec *spec, int64_t n_head,
                                struct lb_matrix **out, struct lb_err *err);
    enum lb_status (*table_new)(struct lb_backend *be, const struct lb_rows *rows, struct lb_table **out,
                                struct lb_err *err);
    enum lb_status (*vector_new)(struct lb_backend *be, const float *host, int64_t n, const float **out,
                                 struct lb_err *err);

    /* memory of the step; max_row is fixed by reserve, called once after loading */
    enum lb_status (*reserve)(struct lb_backend *be, struct lb_step_limits limit, int32_t max_out, int64_t n_vocab,
                              struct lb_err *err);
    enum lb_status (*buf_new)(struct lb_backend *be, int64_t width, struct lb_buf *out, struct lb_err *err);
    enum lb_status (*act_new)(struct lb_backend *be, const struct lk_cols *cols, struct lb_actbuf *out,
                              struct lb_err *err);
    /* out's cols, n_head and f32 are set */
    enum lb_status (*head_acts_new)(struct lb_backend *be, struct lb_actbuf *out, struct lb_err *err);
    size_t (*kv_page_bytes)(const struct lb_backend *be, const struct lb_kv_spec *spec);
    enum lb_status (*kv_new)(struct lb_backend *be, const struct lb_kv_spec *spec, struct lb_kv_mem **out,
                             struct lb_err *err);
    /* memory of `moe`; shared: how the shared expert's columns are cut, S segments even where there is none */
    enum lb_status (*moe_reserve)(struct lb_backend *be, const struct lb_moe_shape *shape, const struct lk_cols *shared,
                                  int64_t dim, struct lb_err *err);

    /* the forward pass */
    void (*step_begin)(struct lb_backend *be, const struct lb_step *step, struct lb_kv_mem *kv,
                       const struct lb_rope_args *rope, int64_t n_head);
    void (*embed)(struct lb_backend *be, struct lb_buf *x, const struct lb_table *table);
    /* wanted: only the step's out_tok rows, in their order */
    void (*norm)(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, const float *w, float eps,
                 bool wanted);
    /* x += norm(y), f32 rows: a norm before the residual */
    void (*norm_add)(struct lb_backend *be, struct lb_buf *x, const struct lb_buf *y, const float *w, float eps);
    void (*linear)(struct lb_backend *be, const struct lb_linear_args *args);
    void (*linear_heads)(struct lb_backend *be, const struct lb_heads_args *args);
    /* y = columns x_col ... of x, rounded; where y has heads, those of head h are h * x_step columns further on */
    void (*round)(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, int64_t x_col, int64_t x_step);
    void (*latent)(struct lb_backend *be, const struct lb_latent_args *args);
    void (*index)(struct lb_backend *be, const struct lb_index_args *args);
    void (*attend)(struct lb_backend *be, const struct lb_attend_args *args);
    /* x += mixture of experts of norm(x): leaves and tree as struct lk_combine has them */
    void (*moe)(struct lb_backend *be, const struct lb_moe_args *args);
    /* the product behind the last norm: candidates for each wanted token */
    void (*head)(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w);
    /* waits for the pass; *cand is [step->n_out], lent until the next step_begin */
    enum lb_status (*step_end)(struct lb_backend *be, const struct lb_cand **cand, struct lb_err *err);

    /* Samples of the step just ended: slot j is what `~j` in the next step's tok means. [n_out], host-writable. */
    int32_t *(*slots)(struct lb_backend *be);

    /* tests: during a step; after a failure they write nothing */
    void (*read_rows)(struct lb_backend *be, const struct lb_buf *x, int64_t n_row, float *host);
    void (*read_act)(struct lb_backend *be, const struct lb_actbuf *a, int64_t n_row, float *host);

    /* Runs fn(ctx, begin, end) over [0, n_item) on the backend's threads: host work of the forward thread, such as
     * sampling. */
    void (*parallel)(struct lb_backend *be, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx,
                     int64_t n_item);
};

struct lb_backend {
    const struct lb_backend_ops *ops;
    enum lb_dtype dtype;
    const char *device; /* "cpu" */
    const char *isa;    /* kernel set in use: "ref", "avx512bf16" */
    int n_thread;
    struct lb_backend_counts counts;
};

struct lb_backend_spec {
    const char *device; /* "auto", "cpu" */
    enum lb_dtype dtype;
    const char *isa; /* list of sets that may be used, or NULL for what the processor has; unknown or missing on
                      * this processor: LB_E_USAGE naming it */
    int n_thread;    /* 0: the affinity mask's size */
    const struct lb_log *log;
};

/* Kernel sets of this processor, separated by spaces ("ref avx512bf16"). */
const char *lb_backend_isa_list(void);

enum lb_status lb_backend_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err);

#endif
