/* Shapes and memory that the model hands to a backend. */
#ifndef CORE_BACKEND_TENSOR_H
#define CORE_BACKEND_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/args_packed.h"

enum lb_dtype { LB_F32 = LK_F32, LB_BF16 = LK_BF16 };

#define LB_MAX_RUN 3

/* Rows that stand one behind the other and are packed alike, or are plain numbers. */
struct lb_packed_run {
    int64_t n_row;
    bool packed; /* as `how` says, to be had by lb_rows.codes; else by get or at */
    struct lk_packed how;
};

/* A lazily read matrix [n_row, n_col]: the loader's view of one or several tensors of a file. `get` writes rows
 * row .. row+n-1 as f32, row-major, and may be called by several threads at once. */
struct lb_rows {
    void (*get)(const struct lb_rows *r, int64_t row, int64_t n, float *out);
    const void *ctx;
    int64_t n_row, n_col;
    /* Where the matrix lies row-major in memory that lives as long as the model, in `data_type`: its address, else
     * NULL. A backend may then borrow instead of copying. */
    const void *data;
    enum lb_dtype data_type;
    /* Where every row lies as f32 or bf16 numbers in such memory, if not one behind the other: the address of a row, of
     * `data_type`, any alignment. NULL: rows are had by `get` alone. */
    const void *(*at)(const struct lb_rows *r, int64_t row);
    /* Lets go of the file's pages that were read, which are read again when they are needed. NULL: there are none. */
    void (*forget)(const struct lb_rows *r);
    /* Which rows are to stay packed: runs that are all of the matrix. n_run 0: none. `codes` takes a row of a packed
     * run apart in `mem`, codes_bytes long, and may be called by several threads at once. */
    struct lb_packed_run run[LB_MAX_RUN];
    int n_run;
    size_t codes_bytes;
    void (*codes)(const struct lb_rows *r, int64_t row, uint8_t *mem, struct lk_codes *out);
};

/* A weight to be packed: rows in [out, in] order; cols cuts `in`. gate_up: rows are n_row/2 gate rows, then the up
 * rows, to be interleaved for the SwiGLU epilogue; such rows are one run, as are those of `f32`. */
struct lb_matrix_spec {
    const struct lb_rows *rows;
    const struct lk_cols *cols;
    bool gate_up;
    const char *name; /* for messages */
    bool f32;         /* kept and multiplied in f32 whatever the backend's type: a router, see struct lb_moe_weights */
    bool int8;        /* kept and multiplied in int8 (kernels/args_int8.h; of rows that stay packed args_w4a8.h); the
                       * backend is one with int8 */
    bool head;        /* an LM head: `rows` are lent as long as the backend lives */
};

/* Sizes of a mixture of experts, the same in all layers that are one, and how its router chooses (struct lk_route). */
struct lb_moe_shape {
    int64_t n_expert; /* 0: no layer is a mixture */
    int64_t n_used;   /* experts a token takes */
    int64_t n_group, n_group_used;
    int64_t ffn_dim;    /* of an expert */
    int64_t shared_dim; /* of the expert that every token takes besides; 0: there is none */
    float scale;        /* of the weights */
    bool normalize;     /* weights of a token are divided by their sum */
};

/* Fills a column map: n_seg segments with source bounds begin[0..n_seg]. n_seg in 1..LK_MAX_SEG. */
void lb_cols_init(struct lk_cols *c, int n_seg, const int64_t *begin);

/* bf16 as kernels/types.h has it, subnormals kept: float32 rounded to nearest even (a NaN stays one), and back. */
uint16_t lb_bf16_round(float x);
float lb_bf16_widen(uint16_t x);

/* x[n] as numbers of the type: f32 stay as they are. */
void lb_dtype_round(enum lb_dtype dtype, float *x, int64_t n);

#endif
