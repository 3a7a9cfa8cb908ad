/* Lines of the inputs, one after another: plain, gzip or zstd by content, a path or stdin ("-"), optional BOM, LF or
 * CRLF. Blank lines (spaces and tabs only) are skipped and not counted. One thread uses a reader. */
#ifndef CORE_IO_JSONL_READ_H
#define CORE_IO_JSONL_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

#define LB_LINE_MAX_BYTES ((size_t)64 << 20)

struct lb_lines;

struct lb_line {
    const char *data; /* lent until the next call; NULL at the end of all inputs */
    size_t len;       /* without line ending */
    int64_t index;    /* counts non-blank lines over all inputs, from 0 */
    const char *file; /* "stdin" for "-" */
    size_t input;     /* which of the paths */
    int64_t number;   /* line in its file, from 1 */
    int64_t offset;   /* of data, in the bytes of the file once it is unpacked */
    bool too_long;    /* data holds LB_LINE_MAX_BYTES + 1 bytes, which lb_row_parse refuses; the rest was skipped */
};

/* paths [n_path], lent for the reader's life. Every path is tried at once, so that a missing file, a directory or a
 * file that may not be read is found before work begins: LB_E_INPUT. Files are then opened one after another (there may
 * be more of them than a process may have open; opening a FIFO waits for its writer). */
enum lb_status lb_lines_open(struct lb_lines **out, const char *const *paths, size_t n_path, struct lb_err *err);

/* Before the first lb_lines_next: waiting for input ends with LB_E_INTERRUPTED once fd (lent, e.g. an eventfd) can be
 * read. */
void lb_lines_wake_on(struct lb_lines *r, int fd);

/* Before the first lb_lines_next: of the lines only those whose index is `first` modulo `step` are handed out. */
void lb_lines_every(struct lb_lines *r, int64_t first, int64_t step);

/* The next non-blank line. A read error or a damaged or truncated compressed input is LB_E_INPUT naming the file and
 * its last whole line ("in.jsonl.gz: compressed data ends early after line 17"); lines before it have been handed out,
 * and later calls fail the same way. Memory stays below about 128 MiB whatever the input. */
enum lb_status lb_lines_next(struct lb_lines *r, struct lb_line *out, struct lb_err *err);
void lb_lines_close(struct lb_lines *r); /* r may be NULL */

#endif
