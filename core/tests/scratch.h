/* A scratch folder of a test program: made and removed by the group, emptied between tests. */
#ifndef CORE_TESTS_SCRATCH_H
#define CORE_TESTS_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/tests/folder.h"

static char scratch[128];

static inline int scratch_make(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/llmbatch-test-XXXXXX", tmp && strlen(tmp) < 64 ? tmp : "/tmp");
    return mkdtemp(scratch) ? 0 : -1;
}

static inline int scratch_empty(void **state)
{
    (void)state;
    folder_empty(scratch);
    return 0;
}

static inline int scratch_remove(void **state)
{
    scratch_empty(state);
    return rmdir(scratch);
}

/* Lent until the next call. */
static inline const char *scratch_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

static inline void scratch_write(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(scratch_path(name), "wb");
    if (!f || (n && fwrite(data, 1, n, f) != n) || fclose(f) != 0)
        abort();
}

#endif
