/* The order in which rows run: rows that begin alike stand together, so that the beginning is computed once; apart from
 * that the longest comes first, so that no long row is left for the end, when steps read all weights for the few rows
 * that still run. */
#ifndef CORE_RUN_ORDER_H
#define CORE_RUN_ORDER_H

#include <stdbool.h>
#include <stddef.h>

#include "core/run/flow.h"

/* Steps that a row takes at most: one a new token, and those of its prompt, of the usual size. A limit beyond 4,096 new
 * tokens is none, and says nothing about a row. */
static inline int64_t lb_row_course(int64_t n_prompt, int64_t max_tokens)
{
    int64_t n_new = max_tokens > 1 ? max_tokens : 1;
    return (n_new < 4096 ? n_new : 4096) + n_prompt / 512;
}

/* Sorts rows[n] and sets n_shared of each sequence: how many tokens from the beginning another one of these rows begins
 * with too. Groups are made of rows with the same adapter whose first page of tokens (32) is the same; the group with
 * the longest course comes first, of those the one with the longest prompt; inside a group as well; ties by row
 * number. by_course false: courses do not count. They should where all rows run at once. Where some wait for others to
 * end, those of long courses would keep the rest from ending for long, and a run that is cut off would have few rows.
 */
void lb_order_rows(struct lb_work **rows, size_t n, bool by_course);

#endif
