/* Random numbers and the order of a row of logits, for tests of sampling. A program includes it once. */
#ifndef CORE_TESTS_RANDOMROW_H
#define CORE_TESTS_RANDOMROW_H

#include <stdint.h>

static uint64_t random_state;

static inline double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) / 9007199254740992.0;
}

static inline int64_t below(int64_t n)
{
    return (int64_t)(uniform() * (double)n);
}

static const float *sort_logits;

/* For qsort of ids: the larger of sort_logits first, ties by the lower id. */
static inline int by_order(const void *a, const void *b)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sort_logits[i] != sort_logits[j])
        return sort_logits[i] < sort_logits[j] ? 1 : -1;
    return (i > j) - (i < j);
}

#endif
