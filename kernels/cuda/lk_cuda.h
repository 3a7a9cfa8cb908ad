/* CUDA kernels, as C functions that launch them. An argument struct lies on the host, every pointer to numbers in it is
 * the device's; structs of kernels/args.h mean the same here, but for what only a CPU set has. Functions enqueue on
 * `stream` (a cudaStream_t) and return 0 or the runtime's error code; they allocate nothing and wait for nothing.
 *
 * Contract as for CPU sets: a row's numbers depend on that row alone. Layouts of the set:
 *   activations  [n_row, packed columns] row-major
 *   weights      [n_out, packed columns] row-major; of a gate-up matrix gate rows, then up rows
 *   Q            [n_tok, n_head, head_dim];  K page [32 positions, head_dim];  V page [32 positions, v_dim]
 * head_dim and v_dim are multiples of 8; pages and rows of activations are aligned to 16 bytes. */
#ifndef KERNELS_CUDA_LK_CUDA_H
#define KERNELS_CUDA_LK_CUDA_H

#include <stddef.h>

#include "kernels/args_sparse.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- rows ---- */

int lk_cuda_embed(const struct lk_embed *a, enum lk_type type, void *stream);
int lk_cuda_norm(const struct lk_norm *a, enum lk_type type, void *stream);
int lk_cuda_norm_add(const struct lk_norm_add *a, void *stream);
int lk_cuda_round(const struct lk_round *a, enum lk_type type, void *stream);

/* out[i, j] = round(silu(g) * u), g = x[i, j] + bias[j], u = x[i, ffn + j] + bias[ffn + j]; zero columns too. */
struct lk_swiglu {
    struct lk_act out; /* [n_row, ffn] */
    const float *x;    /* [n_row, 2 * ffn] f32 */
    const float *bias; /* [2 * ffn] or NULL */
};
int lk_cuda_swiglu(const struct lk_swiglu *a, enum lk_type type, void *stream);

/* v = tree over parts, balanced where n_part is a power of two, else left to right; y = v + bias, or y + (v + bias). */
struct lk_tree {
    float *y; /* [n_row, n_col] f32, rows y_ld apart */
    int64_t y_ld;
    const float *part; /* [n_part] each [n_row, n_col] f32, part_ld elements apart */
    int64_t part_ld;
    const float *bias; /* [n_col] or NULL */
    int64_t n_row, n_col;
    int n_part; /* 1 .. LK_MAX_SEG */
    bool add;
};
int lk_cuda_tree(const struct lk_tree *a, void *stream);

/* ---- positions and the cache ---- */

int lk_cuda_rope_table(const struct lk_rope_table *a, void *stream);
int lk_cuda_rope_kv(const struct lk_rope_kv *a, enum lk_type type, void *stream);
int lk_cuda_latent(const struct lk_latent *a, void *stream);
int lk_cuda_gather(const struct lk_gather *a, int64_t n_item, void *stream);

/* Index planes are [dim, 32 positions]. sum[n_item, sum_ld]: scratch for the sums of all positions, sum_ld
 * more than the last one; a->score is not used. */
struct lk_index_scratch {
    float *sum;
    int64_t sum_ld, n_item;
};
int lk_cuda_index_key(const struct lk_index_key *a, enum lk_type type, void *stream);
int lk_cuda_index_select(const struct lk_index_select *a, const struct lk_index_scratch *x, enum lk_type type,
                         void *stream);

/* ---- products ---- */

enum lk_weight_format { LK_W_BF16, LK_W_INT8, LK_W_INT4, LK_W_FP8, LK_W_F32 };

/* A weight matrix [n_out, packed columns]: bf16; int8; two 4-bit numbers a byte, the lower one first; E4M3; f32,
 * then activations are f32 too. Packed
 * formats are rounded to bf16 on their way into the product, from (q - zero) * scale + least in f32, each of these an
 * array [n_out, packed columns / 32] f32 or NULL (1, 0, 0). */
struct lk_weight {
    const void *data;
    enum lk_weight_format format;
    const float *scale, *zero, *least;
};

/* bf16 activations, or f32; a->w is not used, `best` neither: a head's logits are LK_EP_STORE. scratch: what is said.
 */
size_t lk_cuda_linear_scratch(const struct lk_linear *a, enum lk_weight_format format);
int lk_cuda_linear(const struct lk_linear *a, const struct lk_weight *w, float *scratch, void *stream);

/* The same in two parts, for what is done to the sums between them: the segments' sums alone, [n_seg] each [n_row,
 * n_out], and all that follows from them. With LK_EP_SWIGLU and several segments there is room for one more of them. */
int lk_cuda_linear_sums(const struct lk_linear *a, const struct lk_weight *w, float *sums, void *stream);
int lk_cuda_linear_finish(const struct lk_linear *a, float *sums, enum lk_type type, void *stream);

/* Rows of an expert in a tile of a grouped product. */
#define LK_GROUP_TILE 32

/* y[i, :] = w[e] a[row_of[i], :] for i in row_begin[e] .. row_begin[e + 1] - 1; tiles from lk_cuda_group. */
struct lk_grouped {
    const void *a;         /* [*, k] bf16, k packed columns of one segment */
    const void *const *w;  /* [n_expert] the device's array of matrices [n_out, k] bf16 */
    float *y;              /* [n_row, n_out] */
    const int32_t *row_of; /* [n_row] or NULL: i */
    const int32_t *row_begin, *tile_group, *tile_row;
    int64_t n_row, n_out, k, n_tile;
};
int lk_cuda_grouped(const struct lk_grouped *a, void *stream);

/* ---- experts ---- */

int lk_cuda_route(const struct lk_route *a, void *stream);
/* a->shared is the host's array of the device's pointers. */
int lk_cuda_combine(const struct lk_combine *a, void *stream);

/* Orders the choices of all tokens by expert, then token: choice i of token t becomes row[t * n_used + i] of the
 * grouped product, whose row r takes token row_of[r]. Experts outside [first, first + n_expert) are another rank's: row
 * -1. */
struct lk_group {
    const int32_t *id;              /* [n_tok, n_used] */
    int32_t *count;                 /* scratch: [n_expert] */
    int32_t *row_begin;             /* out: [n_expert + 1] */
    int32_t *row_of;                /* out: [n_tok * n_used], filled up to row_begin[n_expert] */
    int32_t *row;                   /* out: [n_tok, n_used] */
    int32_t *tile_group, *tile_row; /* out: [n_tile]; group -1: no tile */
    int64_t n_tok, n_used, first, n_expert, n_tile;
};
/* Tiles that a step can need: n_tile. */
int64_t lk_cuda_group_tiles(int64_t n_choice, int64_t n_expert);
int lk_cuda_group(const struct lk_group *a, void *stream);

/* ---- the vocabulary ---- */

/* The best of each block of LK_HEAD_BLOCK columns (struct lk_best): best[n_row, ceil(n_vocab / LK_HEAD_BLOCK)]. */
struct lk_blocks_best {
    const float *logits; /* [n_row, n_vocab], rows ld apart */
    int64_t ld, n_row, n_vocab;
    struct lk_best *best;
};
int lk_cuda_best(const struct lk_blocks_best *a, void *stream);

int lk_cuda_top(const struct lk_top *a, void *stream);

/* out[i, j] = logits[i, j] - lse[i] in f64, rounded; of id[i] its logprob and its rank: how many logits are not below.
 */
struct lk_logprobs {
    const float *logits; /* [n_row, n_vocab], rows ld apart */
    int64_t ld, n_row, n_vocab;
    const double *lse; /* [n_row] */
    float *out;        /* [n_row, n_vocab] or NULL */
    const int32_t *id; /* [n_row] or NULL */
    float *logprob;    /* [n_row], with id */
    int64_t *rank;     /* [n_row], with id */
};
int lk_cuda_logprobs(const struct lk_logprobs *a, void *stream);

#ifdef __cplusplus
}
#endif

#endif
