/* How much of a test is run: all of it with LB_TEST_FULL=1, else a sample that is the same each time. */
#ifndef CORE_TESTS_WHOLE_H
#define CORE_TESTS_WHOLE_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool is_whole(void)
{
    const char *full = getenv("LB_TEST_FULL");
    return full && strcmp(full, "1") == 0;
}

/* Whether the sanitizers watch: there the question is what is read and written, which fewer cases answer. */
static inline bool is_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return false;
#endif
}

/* Steps from case to case: 1 through all of them, else every sample-th. */
static inline int whole_or(int sample)
{
    return is_whole() ? 1 : sample;
}

#endif
