/* Inside the CUDA backend: products by cuBLASLt. */
#ifndef CORE_BACKEND_BACKEND_CUDA_LT_H
#define CORE_BACKEND_BACKEND_CUDA_LT_H

#include <cublasLt.h>

#include "core/backend/backend_cuda_parts.h"

#define LB_CUDA_RANGES 4 /* of rows: up to 4, up to 32, up to 256, more */

/* Matrices of one shape have the same algorithms. */
struct lb_cuda_shape {
    struct lb_cuda_shape *next;
    int64_t n_out;
    struct lk_cols cols;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t layout[3]; /* weights, activations, result */
    bool own[LB_CUDA_RANGES];         /* our own kernel is to be taken */
    cublasLtMatmulAlgo_t algo[LB_CUDA_RANGES];
};

struct lb_cuda_lt {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    void *workspace; /* device */
    size_t workspace_bytes;
    struct lb_cuda_shape *shape;
};

/* A product's matrix, and where its segments' sums go: [n_seg] each [rows, y_ld]. */
struct lb_cuda_call {
    struct lb_cuda_shape *shape;
    const cublasLtMatmulAlgo_t *algo;
    const void *w;
    const char *name;
    float *y; /* set by what is called, and y_ld */
    int64_t y_ld;
};

/* Makes a shape's descriptors. */
enum lb_status lb_cuda_lt_describe(struct lb_cuda_shape *s, struct lb_err *err);

/* The descriptors are of so many rows. */
enum lb_status lb_cuda_lt_rows(struct lb_cuda_shape *s, int64_t n_row, int64_t y_ld, struct lb_err *err);

int lb_cuda_lt_range(int64_t n_row);

/* NULL: our own kernel. */
const cublasLtMatmulAlgo_t *lb_cuda_lt_algo(const struct lb_matrix *w, int64_t n_row);

/* What a product takes of c->scratch, at most. */
size_t lb_cuda_lt_scratch(const struct lk_linear *a);

/* The segments' sums, to c->scratch. */
enum lb_status lb_cuda_lt_sums(struct lb_cuda *c, const struct lk_linear *a, struct lb_cuda_call call,
                               struct lb_err *err);

/* The whole product with its epilogue, all rows at once. */
enum lb_status lb_cuda_lt_product(struct lb_cuda *c, const struct lk_linear *a, struct lb_cuda_call call,
                                  struct lb_err *err);

#endif
