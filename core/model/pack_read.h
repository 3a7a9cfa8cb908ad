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
    int64_t scale_rows;                     /* FP8: rows that share a scale */
    int64_t scale_row_step, scale_col_step; /* of a scale's index */
    bool fp8;
    int bits, zero, zero_add;
    bool paired_lanes; /* AWQ: lanes of a row are not in order */
    int row_log, col_log;
    int64_t row_words, col_words;
    int64_t zero_row_words, zero_group_words; /* the zero points' words, of 32 / bits rows each */
};

#endif
