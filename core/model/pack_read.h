/* Inside pack*.c: a weight whose parts have been found and checked. */
#ifndef CORE_MODEL_PACK_READ_H
#define CORE_MODEL_PACK_READ_H

#include "core/io/wfile.h"

/* Element (row, col) of packed integers is in word (row >> row_log) * row_words + (col >> col_log) * col_words, in the
 * lane of its column, or with row_log > 0 of its row. Its group is that of g_idx, or col / group. */
struct lb_wpack {
    const uint8_t *data, *scales;
    const uint8_t *zeros; /* NULL: `zero` for all */
    const uint8_t *g_idx; /* NULL: groups are contiguous */
    enum lb_wtype scale_type;
    int64_t n_row, n_col;
    int64_t group;                          /* columns that share a scale */
    int64_t scale_rows;                     /* rows that share a scale */
    int64_t scale_row_step, scale_col_step; /* of a scale's index */
    bool fp8;
    int bits, zero, zero_add;
    bool paired_lanes; /* AWQ: lanes of a row are not in order */
    int row_log, col_log;
    int64_t row_words, col_words;
    int64_t zero_row_words, zero_group_words; /* the zero points' words, of 32 / bits rows each */
};

/* What W = (q - zero) * scale is formed of: q[n] = a byte a code of the row's columns from `col` on; address of the
 * scale, of scale_type, and the zero point of a group of columns. Groups are contiguous. */
void lb_pack_codes(const struct lb_wpack *p, int64_t row, int64_t col, int64_t n, uint8_t *q);
const uint8_t *lb_pack_scale(const struct lb_wpack *p, int64_t row, int64_t group);
int lb_pack_zero(const struct lb_wpack *p, int64_t row, int64_t group);

#endif
