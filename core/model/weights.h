/* A model's weights on a backend: found by the family's tensor names, checked against the configuration, fused as the
 * decoder multiplies them (Q, K, V in one matrix; gate and up in one), packed. */
#ifndef CORE_MODEL_WEIGHTS_H
#define CORE_MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/backend/backend.h"
#include "core/base/err.h"
#include "core/base/log.h"
#include "core/dist/shard.h"
#include "core/dist/share.h"
#include "core/io/wfile.h"
#include "core/model/config.h"
#include "core/model/lora.h"

/* Latent attention: see struct lb_mla and struct lk_latent. */
struct lb_layer_latent {
    const float *q_a_norm, *kv_a_norm; /* [q_rank], [kv_rank] */
    struct lb_matrix *wq_a;            /* [q_rank, dim], NULL where there is no latent of queries */
    struct lb_matrix *wq_b;            /* [n_head * (nope_dim + rope_dim), q_rank or dim] */
    struct lb_matrix *wkv_a;           /* [kv_rank + rope_dim, dim] */
    struct lb_matrix *w_uk;            /* for each head [kv_rank, nope_dim], f32: from a query to the latent's space */
    struct lb_matrix *w_uv;            /* for each head [v_dim, kv_rank]: from the latent to the head's values */
    const float *bq_a, *bkv_a;
    /* where the layer chooses positions */
    struct lb_matrix *w_index_q;               /* [index heads * index head_dim, q_rank] */
    struct lb_matrix *w_index_k;               /* [index head_dim + index heads, dim]: the key, the heads' weights */
    const float *index_norm, *index_norm_bias; /* [index head_dim] */
};

/* Matrices are [out, in], in sizes of the whole model: a rank has its slice of them. Biases and norms are f32 vectors
 * of the backend, NULL where the model has none. */
struct lb_layer {
    const float *attn_norm, *ffn_norm;           /* [dim] */
    const float *q_norm, *k_norm;                /* [head_dim] */
    const float *post_attn_norm, *post_ffn_norm; /* [dim], of what is added to the residual */
    struct lb_matrix *wqkv;        /* [(n_head + 2 n_kv_head) * head_dim, dim]: Q heads, K heads, V heads */
    struct lb_layer_latent latent; /* in place of wqkv */
    struct lb_matrix *wo;          /* [dim, n_head * out_dim] */
    struct lb_matrix *w_gate_up;   /* [2 * ffn_dim, dim]: gate rows, then up rows */
    struct lb_matrix *w_down;      /* [dim, ffn_dim] */
    const float *bqkv, *bo, *b_gate_up, *b_down;
    /* where lb_layer_kind.moe is set, in place of gate_up and down */
    struct lb_moe_weights moe;
    struct lb_matrix **expert; /* what moe's lists point into, owned */
};

struct lb_weights {
    struct lb_table *embed;      /* [n_vocab, dim] of the slice */
    struct lb_fused *embed_rows; /* of the file, which embed reads; owned */
    struct lb_fused *head_rows;  /* the head's, which the backend may read again; owned */
    const float *norm;           /* [dim] */
    struct lb_matrix *head;      /* [n_vocab, dim] of the slice */
    struct lb_layer *layer;      /* [n_layer], owned */
    int64_t n_layer;
    int64_t n_param; /* elements of the whole model; a tied head counts once */
    int64_t n_layer_product,
        n_head_product; /* elements of the matrices that a token meets in the layers, of the head */
};

/* How the summed dimension of products is cut (engine contract, section 2), and which slice of the model is here. The
 * columns of heads, ffn and shared are the slice's, counted from 0; they begin at heads_col, ffn_col, shared_col of the
 * model's. */
struct lb_model_cols {
    struct lb_slice slice;
    struct lk_cols dim;                   /* one segment: inputs of QKV, gate-up and head */
    struct lk_cols heads;                 /* n_head * out_dim, whole heads a segment */
    struct lk_cols ffn;                   /* ffn_dim, units of 32 columns */
    struct lk_cols shared;                /* the shared expert's columns, likewise; without one empty segments */
    struct lk_cols q_rank, kv_rank, nope; /* latent attention: one segment each */
    int64_t heads_col, ffn_col, shared_col;
    struct lk_cols vocab;         /* the model's whole vocabulary, units of 32 */
    int64_t vocab_begin, n_vocab; /* rows of embedding and head that are here */
};

/* The slice of rank `rank` of tp. LB_E_USAGE where tp does not divide the segments. */
enum lb_status lb_model_cols_init(struct lb_model_cols *cols, const struct lb_config *c, int rank, int tp,
                                  struct lb_err *err);

struct lb_weights_spec {
    const struct lb_config *config;
    const struct lb_wfile *file; /* stays open as long as the weights: an embedding table may be read from it */
    struct lb_backend *backend;
    const struct lb_model_cols *cols;
    const struct lb_log *log;  /* NULL: silent */
    struct lb_weight_mem *mem; /* NULL: the backend's own memory */
};

/* LB_E_INPUT names the tensor that is missing, has another shape, or is of a type that is not read. Tensors that the
 * model does not use are left alone. In bf16 mode every weight is rounded once, and the log says so. */
enum lb_status lb_weights_load(struct lb_weights *w, const struct lb_weights_spec *spec, struct lb_err *err);
/* Lays adapters out beside the matrices of weights that are loaded. LB_E_USAGE where the device has none. */
enum lb_status lb_weights_adapt(struct lb_weights *w, const struct lb_weights_spec *spec, const struct lb_lora_set *set,
                                struct lb_err *err);
void lb_weights_release(struct lb_weights *w); /* matrices belong to the backend */

/* The same into memory that ranks of one host with the same slice share: one of them packs. *shared stays as long as
 * the weights are used. spec->mem is not read. Collective. */
enum lb_status lb_weights_share(struct lb_weights *w, const struct lb_weights_spec *spec, struct lb_world *world,
                                struct lb_shared *shared, struct lb_err *err);

#endif
