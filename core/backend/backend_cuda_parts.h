/* What the files of the CUDA backend have from each other, by file; the ops are those of struct lb_backend_ops. */
#ifndef CORE_BACKEND_BACKEND_CUDA_PARTS_H
#define CORE_BACKEND_BACKEND_CUDA_PARTS_H

#include "core/backend/backend_cuda.h"

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
/* Plans of the whole step for all windows that the model is known to have, with counts that are rounded; false: none
 * is known, or they do not fit. What was made stays and is found by the layers. */
bool lb_cuda_plan_all(struct lb_cuda *c);
void lb_cuda_attend(struct lb_backend *be, const struct lb_attend_args *args);

/* ---- backend_cuda_ops.c ---- */

/* Scratch memory that a product takes. */
size_t lb_cuda_scratch_of(const struct lk_linear *a, const struct lb_matrix *w);
/* A product with the matrix `head` of w, which fills in a->n_out, in pieces that the scratch memory has room for; false
 * where the step failed. */
bool lb_cuda_product(struct lb_cuda *c, struct lk_linear a, const struct lb_matrix *w, int64_t head);
/* The same with what adapters add to w's product. */
bool lb_cuda_product_adapted(struct lb_cuda *c, struct lk_linear a, const struct lb_matrix *w,
                             const struct lk_adapt *adapt);
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

/* ---- backend_cuda_lt.c, backend_cuda_choose.c ---- */
enum lb_status lb_cuda_lt_open(struct lb_cuda *c, struct lb_err *err);
size_t lb_cuda_lt_version(void);
void lb_cuda_lt_close(struct lb_cuda *c);
/* For each matrix the algorithms of its products; when all are loaded. */
enum lb_status lb_cuda_lt_choose(struct lb_cuda *c, struct lb_err *err);

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

/* ---- backend_cuda_graph.c ---- */
enum lb_status lb_cuda_graphs_init(struct lb_cuda *c, int most, struct lb_err *err);
void lb_cuda_graphs_close(struct lb_cuda *c);
bool lb_cuda_layers_begin(struct lb_backend *be);
bool lb_cuda_layers_end(struct lb_backend *be);

/* ---- backend_cuda_lora.c ---- */
enum lb_status lb_cuda_lora_new(struct lb_backend *be, struct lb_matrix *m, const struct lb_lora_spec *spec,
                                struct lb_err *err);
enum lb_status lb_cuda_lora_reserve(struct lb_cuda *c, struct lb_err *err);
/* Bytes of the step's block at most. */
size_t lb_cuda_lora_block_bytes(const struct lb_cuda *c);
/* The step's rows by adapter, into its block; false where the step failed. */
bool lb_cuda_lora_begin(struct lb_cuda *c, const struct lb_step *s);
/* Makes u of activations in front of w; *out says what to add to the product. False: nothing. */
bool lb_cuda_lora_down(struct lb_cuda *c, const struct lk_act *x, const struct lb_matrix *w, struct lk_adapt *out);

/* ---- backend_cuda_index.c ---- */
#define LB_CUDA_INDEX_TOKENS 32 /* that choose, at a time */
size_t lb_cuda_index_page_bytes(const struct lb_cuda *c, const struct lb_kv_spec *spec);
enum lb_status lb_cuda_index_new(struct lb_cuda *c, struct lb_kv_mem *kv, struct lb_err *err);
/* Bytes of the step's block that the indexer of this backend may need at most. */
size_t lb_cuda_index_block_bytes(const struct lb_cuda *c);
struct lb_cuda_planes lb_cuda_index_planes(const struct lb_cuda_index *x);
void lb_cuda_index_begin(struct lb_cuda *c, struct lb_cuda_index *x, const struct lb_step *s, int64_t n_head);
void lb_cuda_index(struct lb_backend *be, const struct lb_index_args *args);
/* Attention of those tokens; `all` is that of the others. */
void lb_cuda_attend_chosen(struct lb_cuda *c, struct lb_cuda_index *x, const struct lk_attend *all);

#endif
