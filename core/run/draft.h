/* Drafts: what a row may be about to say, taken from what it has said or read before. Its next step takes those ids
 * behind the newest one, and so gives several ids in the time of one where they come as expected. Prompt lookup: Yang
 * et al. 2023, arXiv:2304.04487; Saxena 2023, "Prompt Lookup Decoding".
 *
 * A token's logits are the same whatever stands beside it in a step (engine contract, section 2), and those of ids that
 * did not come as expected are dropped with their positions: so a row's ids are bit for bit those without drafts, and a
 * wrong draft costs its computation alone.
 *
 *     lb_draft_see(&q->draft, w, bold);             behind each new id
 *     n = lb_draft_worth(&q->draft, cheap, read);   for the next step
 *     lb_draft_ids(&q->draft, w, n, q->expected);
 *
 * The forward thread's; nothing is allocated. A search goes once over the row's ids, where an expected one did not
 * come. */
#ifndef CORE_RUN_DRAFT_H
#define CORE_RUN_DRAFT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/run/flow.h"

#define LB_DRAFT_MOST 8 /* ids of a draft at most */
#define LB_DRAFT_GRAM 3 /* ids before a place that are compared with the row's last ones: the more alike the better */

/* Of a row. Starts with `from` -1, and is seen to when its first id is there. */
struct lb_draft {
    int64_t from; /* position in prompt and output of the id that is expected next; -1: nothing is */
    int64_t hits; /* ids in a row that came as expected */
};

/* The row's newest id has been added to w->out. bold: for tests, something is expected behind any id,
 * also one that is new. */
void lb_draft_see(struct lb_draft *d, const struct lb_work *w, bool bold);

/* How many ids of a draft are worth what they cost where `cheap` of them cost next to nothing; LB_DRAFT_MOST at most. A
 * step's tokens of a row read the row's whole cache once, which takes `read` times as long as the products of a token:
 * n ids of a draft spare n of n + 1 such reads for as long as they come. Four times the hits that there were are
 * expected (found by trying: two to eight times are as good), and then half of a draft is for nothing: 4 hits read n /
 * (n + 1) - n / 2 is largest where (n + 1)^2 is 8 hits read. */
int64_t lb_draft_worth(const struct lb_draft *d, int64_t cheap, double read);

/* The n <= LB_DRAFT_MOST ids that are expected behind the newest one; something is expected. */
void lb_draft_ids(const struct lb_draft *d, const struct lb_work *w, int64_t n, int32_t *id);

#endif
