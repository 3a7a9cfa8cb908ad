/* OUT.partial as bytes: what its first line and its records hold. The journal owns the file. */
#ifndef CORE_IO_PARTIAL_H
#define CORE_IO_PARTIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/log.h"
#include "core/base/str.h"
#include "core/io/row.h"

/* Where a row's output line lies in OUT.partial; len < 0: not there. */
struct lb_place {
    int64_t offset, len;
};

/* Rows that an earlier run finished. */
struct lb_taken {
    uint64_t *hash; /* [n] of their input lines, by row number; 0: not finished (lb_taken_hash) */
    size_t n;
    int64_t rows, ok, stop, length, error, by_code[LB_N_ROW_CODE];
};

/* The hash of a line as struct lb_taken keeps it, never 0. */
static inline uint64_t lb_taken_hash(uint64_t line_hash)
{
    return line_hash ? line_hash : 1;
}

/* What a finished row's output line says of it. */
struct lb_outcome {
    enum lb_row_code code;
    bool stopped, length; /* neither: no model ran */
    int64_t index;        /* row number; -1: the line does not say it */
};

/* *ok false: this is no output line. Memory alone fails. */
enum lb_status lb_outcome_read(struct lb_outcome *o, const char *line, size_t n, bool *ok, struct lb_err *err);

/* Appends a record: INDEX TAB HASH TAB, which the output line and LF follow. */
void lb_partial_put_record(struct lb_str *out, int64_t index, uint64_t line_hash);

void lb_partial_put_head(struct lb_str *out, const char *fingerprint_json);

/* Reads line 1. *fresh: there is no whole line yet and nothing else either, so that nothing is lost when the file is
 * begun anew. Else fingerprint gets the object's text, and *end the bytes of line 1. LB_E_USAGE: not such a file. */
enum lb_status lb_partial_head(int fd, const char *path, bool *fresh, struct lb_str *fingerprint, int64_t *end,
                               struct lb_err *err);

struct lb_partial_scan {
    const char *path; /* for messages */
    const struct lb_log *log;
    bool retry_errors; /* failed rows do not count as finished */
    int64_t begin;     /* bytes of line 1 */
    /* what was found; the caller releases place and taken */
    struct lb_place *place; /* [n_place] by row number */
    size_t n_place, cap_place;
    struct lb_taken taken;
    int64_t end; /* bytes up to the end of the last whole record; what is behind it is torn */
};

/* Reads all records; of several of a row the last counts. Damaged ones (a machine that lost its power) are left out and
 * their number is said. */
enum lb_status lb_partial_scan(int fd, struct lb_partial_scan *s, struct lb_err *err);
void lb_taken_release(struct lb_taken *t);

#endif
