/* The order in which rows run: rows that begin alike stand together, so that the beginning is computed once; apart from
 * that the longest comes first, so that no long row is left for the end. */
#ifndef CORE_RUN_ORDER_H
#define CORE_RUN_ORDER_H

#include <stddef.h>

#include "core/run/flow.h"

/* Sorts rows[n] and sets n_shared of each sequence: how many tokens from the beginning another one of these rows begins
 * with too. Groups are made of rows with the same adapter whose first page of tokens (32) is the same; the group with
 * the longest row comes first, inside a group the longest row; ties by row number. */
void lb_order_rows(struct lb_work **rows, size_t n);

#endif
