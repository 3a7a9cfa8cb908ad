/* Files: read-only mappings, whole small files, and paths. */
#ifndef CORE_BASE_FILE_H
#define CORE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/str.h"

/* A read-only mapping of a whole regular file. data is NULL for an empty file. */
struct lb_map {
    const uint8_t *data;
    size_t size_bytes;
};

enum lb_status lb_map_open(struct lb_map *m, const char *path, struct lb_err *err);
void lb_map_close(struct lb_map *m);

/* Pages wholly inside data .. data + n, if that lies in the mapping, leave this process's memory until they are read
 * again. */
void lb_map_forget(const struct lb_map *m, const uint8_t *data, size_t n);

/* Appends a whole file of at most max_bytes to out. A missing file is LB_E_INPUT, naming the path. */
enum lb_status lb_file_read(const char *path, size_t max_bytes, struct lb_str *out, struct lb_err *err);

bool lb_file_exists(const char *path);
bool lb_file_is_dir(const char *path);

/* "DIR/NAME" (NAME alone for an empty DIR) in new memory (lb_mem_free), NULL without memory. */
char *lb_path_join(const char *dir, const char *name);

/* Writes everything, retrying short and interrupted writes; LB_E_DEVICE names `path` and the reason. */
enum lb_status lb_file_write_all(int fd, const void *data, size_t n, const char *path, struct lb_err *err);

#endif
