/* Made-up weights that are packed, and what their codes stand for by the formats' formulas, in double: every term is
 * exact there, and rounded once. */
#ifndef KERNELS_TESTS_CHECK_CODES_H
#define KERNELS_TESTS_CHECK_CODES_H

#include "kernels/tests/check.h"

extern const char *const check_kind_name[]; /* of enum lk_packing */

struct check_matrix {
    struct lk_packed q;
    struct lk_cols cols;
    int64_t n_out, n_group, n_sub;
    uint8_t *code, *z, *sc, *mn; /* [n_out, n_col], [n_out, n_group], [n_out, n_sub] twice */
    uint32_t *d, *m;             /* [n_out, n_group] numbers of the scale's type */
    double *d_is, *m_is;         /* [n_out, n_group] what they stand for */
    float *w;                    /* [n_out, n_col] */
};

/* far: some scales are infinite, or so large or small that arithmetic on them is out of the ordinary. */
void check_matrix_new(struct check_matrix *x, const struct lk_packed *q, const struct lk_cols *cols, int64_t n_out,
                      bool far);
void check_matrix_free(struct check_matrix *x);

/* As the set packs it; gate_up as check_pack. */
void *check_pack_codes(const struct lk_cpu *t, const struct check_matrix *x, int gate_up);

/* How a matrix may be packed, and cuts of its columns that begin where groups do. */
void check_random_packing(struct lk_packed *q, enum lk_packing kind);
void check_random_cols(struct lk_cols *cols, const struct lk_packed *q, int64_t most);

#endif
