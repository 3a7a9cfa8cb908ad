/* Inside the CUDA backend: its state, shared by the files backend_cuda*.c. Nobody else includes it.
 *
 * Ops enqueue on one stream and wait for nothing; step_end waits. What the host writes for a step lies in one pinned
 * block that is filled while nothing runs, and is copied in pieces to the same places of a block on the device. */
#ifndef CORE_BACKEND_BACKEND_CUDA_H
#define CORE_BACKEND_BACKEND_CUDA_H

#include <cuda_runtime_api.h>

#include "core/backend/backend.h"
#include "core/backend/head.h"
#include "core/backend/team.h"
#include "kernels/cuda/lk_cuda.h"

#define LB_CUDA_NAME_BYTES 96

struct lb_matrix {
    void *w; /* device: [n_head * n_out, packed columns] */
    struct lk_cols cols;
    int64_t n_out;
    int64_t n_head;    /* matrices of this shape, one behind the other */
    size_t head_bytes; /* from one to the next */
    bool f32;
    char name[LB_CUDA_NAME_BYTES];
};

/* One row more than the vocabulary's part has: -0, for ids that are another rank's. */
struct lb_table {
    void *data; /* device: [n_row + 1, n_col] of the backend's type */
    int64_t first, n_row, n_col;
};

struct lb_cuda_index; /* backend_cuda_index.c */
struct lb_cuda_moe;   /* backend_cuda_moe.c */

struct lb_kv_mem {
    struct lb_kv_spec spec;
    uint8_t *k, *v;                     /* device: [n_layer, n_page, n_kv_head] pages */
    int64_t k_page_bytes, v_page_bytes; /* of one head */
    struct lb_cuda_index *index;        /* NULL without an indexer */
};

enum lb_cuda_place { LB_CUDA_HOST, LB_CUDA_PINNED, LB_CUDA_DEVICE };

/* Memory that close gives back. Device memory is taken from large pieces. */
struct lb_cuda_piece {
    struct lb_cuda_piece *next;
    void *data;
    size_t bytes, used;
    enum lb_cuda_place place;
};

/* A step's attention for one window, of sequences from `seq` on as far as the states of split positions have room: what
 * lk_attn_plan_step made. */
struct lb_cuda_plan {
    struct lk_attn_plan plan; /* device addresses */
    int64_t window;           /* -1: it is not found again */
    int32_t seq;
};

#define LB_CUDA_PLANS 16 /* plans of a step that are kept */

/* Device addresses of a step's tables. */
struct lb_cuda_tables {
    int32_t *id, *pos, *tok_page, *rope_len, *page_start, *page, *out_tok;
    struct lk_attn_item *item; /* f32: [n_item] */
    int64_t n_item;
};

/* Pinned memory for the host's part of an LM head, and its twin on the device for `rows` rows at a time. */
struct lb_cuda_head {
    int64_t rows;
    float *logits; /* device: [rows, ld_logits] */
    struct lk_best *best;
    double *lse;
    int32_t *top_id;
    float *top_value;
    const float **row;       /* device: [rows] where logits lie, NULL where nothing was asked */
    const float **row_host;  /* pinned: [max_out] */
    int64_t *seg, *seg_host; /* device, pinned: [2, LK_MAX_SEG + 1] bounds of all segments, of those here */
    struct lk_cols own;
    int64_t own_first;
    bool own_known;
    struct lb_head_put put; /* what step_end has to write; out NULL: nothing */
    bool whole;             /* step_end has to reduce */
};

struct lb_cuda {
    struct lb_backend base; /* first: a struct lb_backend * is this */
    int device;
    char name[256];
    size_t shared_bytes, most_pitch;
    cudaStream_t stream, load_stream;
    cudaEvent_t load_event[2]; /* a buffer of loading was copied */
    uint8_t *load_buffer[2];   /* pinned, NULL: nothing was loaded */
    int load_next;
    bool loads; /* something may be on its way on load_stream */
    struct lb_team *team;
    const struct lb_log *log;
    struct lb_cuda_piece *piece;
    struct lb_table *table;

    /* fixed by reserve */
    bool reserved;
    struct lb_step_limits limit;
    int64_t max_out;
    int32_t *slot; /* host: [max_out] */
    struct lb_head head;
    struct lb_cuda_head dev_head;
    uint8_t *block_host, *block; /* pinned, device: tables and plans of a step */
    size_t block_bytes, block_used;
    struct lk_attn_seq *seq;           /* host: [limit.n_seq] or one a token, whichever is more */
    float *scratch;                    /* device: sums of products, scratch_bytes */
    size_t scratch_bytes, row_scratch; /* row_scratch: what a row of the largest matrix needs */
    struct lb_cuda_moe *moe;

    /* fixed by the first step */
    void *q;
    int64_t q_head, q_head_dim;
    float *cos, *sin, *inv_freq;
    int64_t n_rot;
    float *state;
    int64_t n_slot, state_head, state_dim;

    /* the step in progress */
    const struct lb_step *step;
    struct lb_kv_mem *kv;
    struct lb_cuda_tables t;
    struct lb_cuda_plan plan[LB_CUDA_PLANS];
    int n_plan;
    size_t plan_base;   /* of the block: where plans begin */
    bool forgets;       /* plans were more than are kept */
    struct lb_err err;  /* first failure since step_begin */
    struct lb_err late; /* one behind a step's end */
};

static inline struct lb_cuda *lb_cuda_of(struct lb_backend *be)
{
    return (struct lb_cuda *)be;
}

static inline enum lk_type lb_cuda_type(const struct lb_cuda *c)
{
    return (enum lk_type)c->base.dtype;
}

static inline size_t lb_cuda_type_bytes(bool f32)
{
    return f32 ? sizeof(float) : sizeof(uint16_t);
}

static inline size_t lb_cuda_elem_bytes(const struct lb_cuda *c)
{
    return lb_cuda_type_bytes(c->base.dtype == LB_F32);
}

static inline size_t lb_cuda_act_elem(const struct lb_cuda *c, const struct lb_actbuf *a)
{
    return lb_cuda_type_bytes(a->f32 || c->base.dtype == LB_F32);
}

/* Nothing to do: the step failed, or has no tokens. */
static inline bool lb_cuda_idle(const struct lb_cuda *c)
{
    return c->err.status != LB_OK || c->step->n_tok == 0;
}

/* ---- backend_cuda.c ---- */

/* True where a call of the runtime, or a kernel, went well; else the step's error names call and op. */
bool lb_cuda_ok(struct lb_cuda *c, int code, const char *call, const char *op);

/* The same outside of a step. */
enum lb_status lb_cuda_try(int code, const char *call, const char *what, struct lb_err *err);

/* Memory until close: host zeroed, device aligned to 256 bytes and not zeroed. NULL (and err set) without it. */
void *lb_cuda_take(struct lb_cuda *c, enum lb_cuda_place place, size_t n, size_t size, const char *what,
                   struct lb_err *err);

/* Items a claim of the team: about `per_thread` claims for each thread. */
int64_t lb_cuda_grain(const struct lb_cuda *c, int64_t n_item, int64_t per_thread);

/* ---- backend_cuda_load.c ---- */
enum lb_status lb_cuda_matrix_new(struct lb_backend *be, const struct lb_matrix_spec *spec, struct lb_matrix **out,
                                  struct lb_err *err);
enum lb_status lb_cuda_heads_new(struct lb_backend *be, const struct lb_matrix_spec *spec, int64_t n_head,
                                 struct lb_matrix **out, struct lb_err *err);
enum lb_status lb_cuda_table_new(struct lb_backend *be, const struct lb_rows *rows, int64_t first,
                                 struct lb_table **out, struct lb_err *err);
enum lb_status lb_cuda_vector_new(struct lb_backend *be, const float *host, int64_t n, const float **out,
                                  struct lb_err *err);
/* Host memory to the device, through the buffers of loading; on its way when this is back. */
enum lb_status lb_cuda_upload(struct lb_cuda *c, void *to, const void *from, size_t bytes, const char *what,
                              struct lb_err *err);
/* Waits until everything loaded is there. */
enum lb_status lb_cuda_loaded(struct lb_cuda *c, struct lb_err *err);

/* ---- backend_cuda_step.c ---- */

/* Bytes of the step's block at most. */
size_t lb_cuda_block_bytes(const struct lb_cuda *c);
/* Room in the step's block; the device's address of it. */
void *lb_cuda_block_take(struct lb_cuda *c, size_t bytes, void **device);
/* Copies the block's bytes from `from` on that were taken since. */
void lb_cuda_block_send(struct lb_cuda *c, size_t from, const char *op);
void lb_cuda_step_begin(struct lb_backend *be, const struct lb_step *step, struct lb_kv_mem *kv,
                        const struct lb_rope_args *rope, int64_t n_head);
/* Tokens of a sequence that attend to all that they see; the indexer's tokens behind them choose positions. */
int32_t lb_cuda_n_dense(const struct lb_cuda *c, int32_t is);

/* ---- backend_cuda_attend.c ---- */

/* Bytes of the block that a step's plans take at most, and slots for the states of split positions. */
size_t lb_cuda_plan_bytes(const struct lb_cuda *c);
int64_t lb_cuda_plan_slots(const struct lb_cuda *c);
/* Makes a plan for sequences seq[n_seq] and sends it; false where the step failed. */
bool lb_cuda_plan_make(struct lb_cuda *c, const struct lk_attn_seq *seq, int64_t n_seq,
                       const struct lk_attn_shape *shape, struct lk_attn_plan *plan);
void lb_cuda_attend(struct lb_backend *be, const struct lb_attend_args *args);

/* ---- backend_cuda_ops.c ---- */

/* Scratch memory that a product takes. */
size_t lb_cuda_scratch_of(const struct lk_linear *a, const struct lb_matrix *w);
/* A product with the matrix `head` of w, which fills in a->n_out, in pieces that the scratch memory has room for; false
 * where the step failed. */
bool lb_cuda_product(struct lb_cuda *c, struct lk_linear a, const struct lb_matrix *w, int64_t head);
/* Bytes from one head's activations of this step to the next one's; 0 without heads. */
int64_t lb_cuda_head_bytes(const struct lb_cuda *c, const struct lb_actbuf *a);
void lb_cuda_embed(struct lb_backend *be, struct lb_buf *x, const struct lb_table *table);
void lb_cuda_norm(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, const float *w, float eps,
                  bool wanted);
void lb_cuda_norm_add(struct lb_backend *be, struct lb_buf *x, const struct lb_buf *y, const float *w, float eps);
void lb_cuda_linear(struct lb_backend *be, const struct lb_linear_args *args);
void lb_cuda_finish(struct lb_backend *be, struct lb_buf *y, const struct lb_buf *part, const float *bias,
                    enum lb_epilogue epilogue);
void lb_cuda_linear_heads(struct lb_backend *be, const struct lb_heads_args *args);
void lb_cuda_round(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, int64_t x_col, int64_t x_step);
void lb_cuda_latent(struct lb_backend *be, const struct lb_latent_args *args);
void lb_cuda_read_rows(struct lb_backend *be, const struct lb_buf *x, int64_t n_row, float *host);
void lb_cuda_read_act(struct lb_backend *be, const struct lb_actbuf *a, int64_t n_row, float *host);

/* ---- backend_cuda_head.c ---- */
enum lb_status lb_cuda_head_reserve(struct lb_cuda *c, const struct lk_cols *vocab, struct lb_err *err);
void lb_cuda_head(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w);
void lb_cuda_head_part(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w, int64_t first,
                       void *out);
/* The host's part of head and head_part, when the pass is through. */
void lb_cuda_head_end(struct lb_cuda *c);
const struct lb_cand *lb_cuda_head_merge(struct lb_backend *be, const struct lb_step *step,
                                         const struct lb_head_part *part, int n_part);
float *lb_cuda_part_logits(struct lb_backend *be, int64_t j);

/* ---- backend_cuda_moe.c ---- */
enum lb_status lb_cuda_moe_reserve(struct lb_backend *be, const struct lb_moe_shape *shape,
                                   const struct lb_moe_leaves *leaves, int64_t dim, struct lb_err *err);
void lb_cuda_moe(struct lb_backend *be, const struct lb_moe_args *args);

/* ---- backend_cuda_index.c ---- */
#define LB_CUDA_INDEX_TOKENS 32 /* that choose, at a time */
size_t lb_cuda_index_page_bytes(const struct lb_cuda *c, const struct lb_kv_spec *spec);
enum lb_status lb_cuda_index_new(struct lb_cuda *c, struct lb_kv_mem *kv, struct lb_err *err);
/* Bytes of the step's block that the indexer of this backend may need at most. */
size_t lb_cuda_index_block_bytes(const struct lb_cuda *c);
/* The keys' part of the step's copies of pages; the tokens that choose, into the step's block. */
void lb_cuda_index_copy(struct lb_cuda *c, struct lb_cuda_index *x, const struct lb_step *s);
void lb_cuda_index_begin(struct lb_cuda *c, struct lb_cuda_index *x, const struct lb_step *s, int64_t n_head);
void lb_cuda_index(struct lb_backend *be, const struct lb_index_args *args);
/* Attention of those tokens; `all` is that of the others. */
void lb_cuda_attend_chosen(struct lb_cuda *c, struct lb_cuda_index *x, const struct lk_attend *all);

#endif
