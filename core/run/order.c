#include "core/run/order.h"

#include <stdlib.h>

#include "kernels/types.h"

static int64_t shorter(const struct lb_work *a, const struct lb_work *b)
{
    return a->n_prompt < b->n_prompt ? a->n_prompt : b->n_prompt;
}

/* Nothing, where adapters differ: their pages do. */
static int64_t n_alike(const struct lb_work *a, const struct lb_work *b)
{
    int64_t n = 0, most = a->set.adapter == b->set.adapter ? shorter(a, b) : 0;
    while (n < most && a->prompt[n] == b->prompt[n])
        n++;
    return n;
}

static int by_index(const struct lb_work *a, const struct lb_work *b)
{
    return (a->row.index > b->row.index) - (a->row.index < b->row.index);
}

static int by_tokens(const void *x, const void *y)
{
    const struct lb_work *a = *(struct lb_work *const *)x, *b = *(struct lb_work *const *)y;
    if (a->set.adapter != b->set.adapter)
        return a->set.adapter < b->set.adapter ? -1 : 1;
    int64_t n = n_alike(a, b);
    if (n < shorter(a, b))
        return a->prompt[n] < b->prompt[n] ? -1 : 1;
    if (a->n_prompt != b->n_prompt)
        return a->n_prompt < b->n_prompt ? -1 : 1;
    return by_index(a, b);
}

static int by_group(const void *x, const void *y)
{
    const struct lb_work *a = *(struct lb_work *const *)x, *b = *(struct lb_work *const *)y;
    if (a->group_course != b->group_course)
        return a->group_course < b->group_course ? 1 : -1;
    if (a->group_len != b->group_len)
        return a->group_len < b->group_len ? 1 : -1;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    if (a->course != b->course)
        return a->course < b->course ? 1 : -1;
    if (a->n_prompt != b->n_prompt)
        return a->n_prompt < b->n_prompt ? 1 : -1;
    return by_index(a, b);
}

static void make_group(struct lb_work **rows, size_t n)
{
    int64_t longest = 0, course = 0;
    for (size_t i = 0; i < n; i++) {
        longest = rows[i]->n_prompt > longest ? rows[i]->n_prompt : longest;
        course = rows[i]->course > course ? rows[i]->course : course;
    }
    for (size_t i = 0; i < n; i++) {
        rows[i]->group = rows[0]->row.index;
        rows[i]->group_course = course;
        rows[i]->group_len = longest;
    }
}

/* Rows in the order of their tokens: what two neighbors have in common is the most that either has with any row. */
static void compare_neighbors(struct lb_work **rows, size_t n)
{
    size_t first = 0;
    int64_t before = 0; /* what row i has in common with the one in front of it */
    for (size_t i = 0; i < n; i++) {
        int64_t after = i + 1 < n ? n_alike(rows[i], rows[i + 1]) : 0;
        rows[i]->n_shared = before > after ? before : after;
        if (after < LK_PAGE_TOKENS) {
            make_group(rows + first, i + 1 - first);
            first = i + 1;
        }
        before = after;
    }
}

/* Samples of one prompt share all of it; further prompts of a row are left to themselves. */
static void share_parts(struct lb_work *lead)
{
    for (int32_t i = 1; i < lead->n_part; i++) {
        struct lb_work *p = lead->part[i], *before = lead->part[i - 1];
        p->n_shared = p->prompt_lent ? p->n_prompt : 0;
        if (p->prompt_lent)
            before->n_shared = before->n_prompt;
    }
}

void lb_order_rows(struct lb_work **rows, size_t n, bool by_course)
{
    for (size_t i = 0; i < n; i++)
        rows[i]->course = by_course ? lb_row_course(rows[i]->n_prompt, rows[i]->set.max_tokens) : 0;
    qsort(rows, n, sizeof *rows, by_tokens);
    compare_neighbors(rows, n);
    for (size_t i = 0; i < n; i++)
        share_parts(rows[i]);
    qsort(rows, n, sizeof *rows, by_group);
}
