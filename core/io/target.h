/* What an output path stands for: a regular file that is made beside its place and renamed, or a stream (stdout, a
 * descriptor's name, a FIFO, a device) that is written as it is and never removed, replaced or renamed. */
#ifndef CORE_IO_TARGET_H
#define CORE_IO_TARGET_H

#include <stdbool.h>

#include "core/base/err.h"

struct lb_target {
    char *path;   /* with links of the last component followed; NULL: stdout. Owned */
    int fd;       /* the descriptor that the path names (stdout, /dev/fd/3), lent; -1: none */
    bool regular; /* a regular file, or nothing yet */
    bool exists;
};

/* path: NULL and "-" are stdout. LB_E_USAGE: the path cannot be a file (a directory, a loop of links). */
enum lb_status lb_target_resolve(struct lb_target *t, const char *path, struct lb_err *err);
void lb_target_release(struct lb_target *t);

/* Whether the folder of a new file is there (LB_E_USAGE) and it, or the stream, can be written (LB_E_DEVICE). */
enum lb_status lb_target_writable(const struct lb_target *t, struct lb_err *err);

/* A descriptor of a stream, the caller's to close. */
enum lb_status lb_target_open(const struct lb_target *t, int *fd, struct lb_err *err);

/* For messages: the path, or "stdout". */
const char *lb_target_name(const struct lb_target *t);

/* "PATH" and a suffix in new memory (lb_mem_free), NULL without memory. */
char *lb_target_beside(const char *path, const char *suffix);

/* Makes PATH.tmp (`tmp`), with the access rights of `path` where that exists. The caller closes *fd. */
enum lb_status lb_target_create(const char *path, const char *tmp, int *fd, struct lb_err *err);

/* Makes the names in the folder of path durable. */
enum lb_status lb_target_sync_dir(const char *path, struct lb_err *err);

/* Whether two paths (`input` may be "-") are the same regular file. */
bool lb_target_is_input(const char *path, int fd, const char *input);

#endif
