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

#ifdef __cplusplus
}
#endif

#endif
