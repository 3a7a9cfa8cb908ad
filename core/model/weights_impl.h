/* Inside the weights' loader: matrices and vectors made of rows of the file's tensors, shared by the files weights*.c.
 * Nobody else includes it.
 *
 * A rank takes its slice of each tensor: rows of products whose output is cut, columns of those whose input is. */
#ifndef CORE_MODEL_WEIGHTS_IMPL_H
#define CORE_MODEL_WEIGHTS_IMPL_H

#include "core/model/weights.h"

#define LB_MAX_PART 3 /* tensors in a fused matrix */

/* Rows of one tensor inside a fused matrix. */
struct lb_part {
    const struct lb_wtensor *t;
    const uint8_t *data;  /* the first row taken, of t's type */
    size_t stride;        /* bytes from row to row */
    int64_t first;        /* the first row taken */
    int64_t n_row, col;   /* taken: columns from `col` on */
    struct lk_packed how; /* how the rows are packed, where they are kept so */
    int64_t paired;       /* rows of a head that GGUF stores in pairs (2i, 2i + 1), 0: as stored */
    int64_t kv_dim;       /* > 0: rows are of KV heads, so many each, and the slice says whose */
    const struct lb_slice *slice;
};

struct lb_fused {
    struct lb_rows rows;
    const struct lb_wfile *file; /* of the embedding table, which is read as long as the model lives */
    struct lb_part part[LB_MAX_PART];
    int n_part;
};

struct lb_loader {
    const struct lb_weights_spec *s;
    struct lb_weights *w;
    bool *used;            /* [file->n_tensor] */
    bool seen[LB_W_OTHER]; /* of plain types, and of others that are unpacked */
    int64_t n_kept[LB_W_OTHER], n_unpacked[LB_W_OTHER];
    const char *why[LB_W_OTHER]; /* the last one was unpacked */
    float *vector;               /* scratch for the widest bias or norm */
};

/* Rows of a tensor that has n_row of them: n_take from `row` on. paired and kv_dim as in struct lb_part; with kv_dim
 * `row` is where the KV heads begin, and n_take those of the rank's. */
struct lb_span {
    int64_t n_row, row, n_take, paired, kv_dim;
};

/* What a fused matrix or vector is made of. Matrices have n_col columns in the file, of which those from `col` on are
 * taken. */
struct lb_source {
    int layer, n_part;
    int64_t n_col, col;
    struct {
        enum lb_role role;
        struct lb_span span;
    } part[LB_MAX_PART];
};

static inline struct lb_span lb_span_all(int64_t n_row)
{
    return (struct lb_span){.n_row = n_row, .n_take = n_row};
}

/* All of one tensor. */
static inline struct lb_source lb_source_of(int layer, enum lb_role role, int64_t n_row, int64_t n_col)
{
    return (struct lb_source){layer, 1, n_col, 0, {{role, lb_span_all(n_row)}}};
}

/* The slice's rows and columns of a layer's matrices. fused: from one tensor, not from one for each part. */
struct lb_source lb_source_qkv(const struct lb_loader *ld, int il, bool fused);
struct lb_source lb_source_gate_up(const struct lb_loader *ld, int il, bool fused);
struct lb_source lb_source_o(const struct lb_loader *ld, int il);
struct lb_source lb_source_down(const struct lb_loader *ld, int il);
struct lb_source lb_source_q_b(const struct lb_loader *ld, int il); /* latent attention; or Q, without a latent of it */

/* Found tensors count as used. NULL, and err set, when one that must be there is not. */
const struct lb_wtensor *lb_load_find_name(struct lb_loader *ld, const char *name);
const struct lb_wtensor *lb_load_find(struct lb_loader *ld, enum lb_role role, int layer);
const struct lb_wtensor *lb_load_need(struct lb_loader *ld, enum lb_role role, int layer, const char *suffix,
                                      struct lb_err *err);

/* Whether the file has a tensor whose name in the family's table is whole. */
bool lb_load_has(const struct lb_loader *ld, enum lb_role role, int layer);

/* Type and shape, outermost dimension first. */
enum lb_status lb_load_check_shape(struct lb_loader *ld, const struct lb_wtensor *t, const int64_t *want, int n_dim,
                                   struct lb_err *err);
/* n_col 0 asks for a vector of n_row. */
enum lb_status lb_load_check(struct lb_loader *ld, const struct lb_wtensor *t, int64_t n_row, int64_t n_col,
                             struct lb_err *err);

/* A matrix, or a part of one, is made of a tensor of this type: kept packed (why NULL), or unpacked, and why. */
void lb_load_count(struct lb_loader *ld, enum lb_wtype type, const char *why);

/* Begins a matrix of n_col columns, adds rows of a checked tensor whose rows have `whole` columns, and packs it. */
void lb_fused_init(struct lb_fused *f, int64_t n_col);
void lb_fused_add(struct lb_loader *ld, struct lb_fused *f, const struct lb_wtensor *t, const struct lb_span *span,
                  int64_t whole, int64_t col);
enum lb_status lb_fused_pack(struct lb_loader *ld, struct lb_fused *f, struct lb_matrix_spec spec,
                             struct lb_matrix **out, struct lb_err *err);
void lb_fused_forget(const struct lb_rows *rows);
/* Where the rows lie one behind the other as numbers of a plain type. */
void lb_fused_lend_whole(struct lb_fused *f);

enum lb_status lb_load_matrix(struct lb_loader *ld, const struct lb_source *src, const struct lk_cols *cols,
                              struct lb_matrix **out, struct lb_err *err);
/* named false: the model has no such bias, and *out is NULL. */
enum lb_status lb_load_bias(struct lb_loader *ld, const struct lb_source *src, bool named, const float **out,
                            struct lb_err *err);
enum lb_status lb_load_norm(struct lb_loader *ld, int il, enum lb_role role, int64_t n, const float **out,
                            struct lb_err *err);
/* suffix ".weight" or ".bias" */
enum lb_status lb_load_vector(struct lb_loader *ld, const struct lb_source *src, const char *suffix, const float **out,
                              struct lb_err *err);

/* weights_mla.c, weights_moe.c */
enum lb_status lb_load_latent(struct lb_loader *ld, int il, struct lb_layer_latent *l, struct lb_err *err);
enum lb_status lb_load_moe(struct lb_loader *ld, int il, struct lb_layer *l, struct lb_err *err);

#endif
