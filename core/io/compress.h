/* Byte streams that are plain, gzip or zstd: readers recognize by content, writers by the path's suffix. */
#ifndef CORE_IO_COMPRESS_H
#define CORE_IO_COMPRESS_H

#include <stddef.h>

#include "core/base/err.h"

struct lb_source;
struct lb_sink;

/* Takes fd, closes it with the source. name is for messages, lent. */
enum lb_status lb_source_open(struct lb_source **out, int fd, const char *name, struct lb_err *err);

/* Reads up to n bytes; *got 0 at the end. Concatenated gzip members and zstd frames are read through. */
enum lb_status lb_source_read(struct lb_source *s, void *buf, size_t n, size_t *got, struct lb_err *err);
void lb_source_close(struct lb_source *s);

/* Takes fd. `path` (lent) chooses by its suffix: .gz, .zst, else plain. */
enum lb_status lb_sink_open(struct lb_sink **out, int fd, const char *path, struct lb_err *err);
enum lb_status lb_sink_write(struct lb_sink *s, const void *data, size_t n, struct lb_err *err);

/* Ends the stream (flush); sync: also to the disk. Closes and frees in every case. */
enum lb_status lb_sink_close(struct lb_sink *s, int sync, struct lb_err *err);

#endif
