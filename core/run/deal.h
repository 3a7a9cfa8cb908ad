/* Row traffic between ranks, on a thread of its own beside each forward thread.
 *
 * Rank 0 deals the rows that its window thread has ready to the leaders of groups, its own group among them. Each
 * leader asks for about two steps' worth of tokens ahead of its forward thread and asks again as those are taken, so
 * that a slow host gets fewer rows; of those who ask, the one with the fewest rows is served first. Rows stay at rank 0
 * (core/run/rowwire.h) and are filled in when results come back.
 *
 * A signal that reaches any rank is told to rank 0, which stops all of them. A leader that ends, for whatever reason,
 * says so after its last finished row, and rank 0 waits for that. */
#ifndef CORE_RUN_DEAL_H
#define CORE_RUN_DEAL_H

#include "core/run/run.h"

/* Bodies of the LB_T_DEAL thread (run is a struct lb_run): of rank 0, of another group's leader, of other ranks. */
void *lb_deal_rank0(void *run);
void *lb_deal_leader(void *run);
void *lb_deal_follower(void *run);

#endif
