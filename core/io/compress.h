/* Byte streams that are plain, gzip or zstd: readers recognize by content, writers by the path's suffix. */
#ifndef CORE_IO_COMPRESS_H
#define CORE_IO_COMPRESS_H

#include <stddef.h>

#include "core/base/err.h"

struct lb_source;
struct lb_sink;

/* Takes fd, closes it with the source, also on failure. name is for messages, lent. */
enum lb_status lb_source_open(struct lb_source **out, int fd, const char *name, struct lb_err *err);

/* The same; waiting for bytes ends with LB_E_INTERRUPTED once `wake` (lent, e.g. an eventfd) can be read. */
enum lb_status lb_source_open_until(struct lb_source **out, int fd, const char *name, int wake, struct lb_err *err);

/* Reads up to n bytes (n > 0); *got 0 at the end. Concatenated gzip members (RFC 1952) and zstd frames (RFC 8878) are
 * read through; zero bytes after the last gzip member are padding. LB_E_INPUT "NAME: ..." when the file cannot be read,
 * is damaged or ends early; what could be decoded before that has been handed out by earlier calls. */
enum lb_status lb_source_read(struct lb_source *s, void *buf, size_t n, size_t *got, struct lb_err *err);
void lb_source_close(struct lb_source *s); /* s may be NULL */

/* Takes fd, also on failure. `path` (lent) is for messages and chooses by its suffix: .gz (level 6), .zst (level 3,
 * with checksum), else plain. */
enum lb_status lb_sink_open(struct lb_sink **out, int fd, const char *path, struct lb_err *err);

/* Writes are gathered; LB_E_DEVICE names the path and the reason. After a failure every write fails. */
enum lb_status lb_sink_write(struct lb_sink *s, const void *data, size_t n, struct lb_err *err);

/* Hands gathered bytes of a plain stream to the system. A compressed stream is left alone: cutting its blocks would
 * cost its ratio. */
enum lb_status lb_sink_flush(struct lb_sink *s, struct lb_err *err);

/* errno of the system call that failed (EPIPE: the reader is gone), else 0. */
int lb_sink_errno(const struct lb_sink *s);

/* Ends the stream (flush); sync: also to the disk. Closes and frees in every case; after a
 * failure errno is lb_sink_errno's. s may be NULL. */
enum lb_status lb_sink_close(struct lb_sink *s, int sync, struct lb_err *err);

#endif
