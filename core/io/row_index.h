/* Where the rows of the inputs lie, so that they can be read in the order in which they run instead of that in which
 * they stand: rows that begin alike together, the group with the longest prompt first, inside a group the longest
 * first, ties by row number. A row takes 16 bytes. For plain files alone, which must stay as they are until their last
 * row is read: one that changes is noticed.
 *
 *     lb_row_index_new(&ix, paths, n_path, err);   before the first line is read
 *     lb_row_index_add(ix, &line, &look, hash, err);   each row that is to run, as lb_lines_next hands it out
 *     lb_row_index_sort(ix, err);
 *     lb_row_index_next(ix, &line, err);           as often as there are rows
 *
 * One thread uses an index. */
#ifndef CORE_IO_ROW_INDEX_H
#define CORE_IO_ROW_INDEX_H

#include "core/io/jsonl_read.h"
#include "core/io/row_scan.h"

struct lb_row_index;

/* paths [n_path] are lent for the index' life, and those of the lines. LB_E_INPUT: one cannot be looked at or is no
 * regular file. */
enum lb_status lb_row_index_new(struct lb_row_index **out, const char *const *paths, size_t n_path, struct lb_err *err);

/* line_hash: XXH3-64 of the line. LB_E_INPUT: the file is not the one that it was; LB_E_DEVICE: no memory. */
enum lb_status lb_row_index_add(struct lb_row_index *ix, const struct lb_line *line, const struct lb_row_look *look,
                                uint64_t line_hash, struct lb_err *err);

/* No row is added any more. Takes as much memory again for its time. */
enum lb_status lb_row_index_sort(struct lb_row_index *ix, struct lb_err *err);

/* The next row; data NULL behind the last one. Its number in the file is not known any more (0), nor its place there.
 * LB_E_INPUT "FILE:LINE: ...": the file was changed. */
enum lb_status lb_row_index_next(struct lb_row_index *ix, struct lb_line *out, struct lb_err *err);
void lb_row_index_free(struct lb_row_index *ix); /* ix may be NULL */

#endif
