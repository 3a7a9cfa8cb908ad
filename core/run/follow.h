/* The ranks of a group take the same steps: the leader packs each step, the others unpack and run it too. What the
 * forward thread of a leader does beyond a run alone is here, and the whole of the others' forward threads. */
#ifndef CORE_RUN_FOLLOW_H
#define CORE_RUN_FOLLOW_H

#include "core/run/run.h"

/* Memory for packed steps and questions, where the group has several ranks. */
enum lb_status lb_follow_init(struct lb_run *r, struct lb_err *err);

void lb_follow_release(struct lb_run *r);

/* Whether all ranks are ready to run: each calls it once, before its first step. */
enum lb_status lb_follow_agree(const struct lb_run_spec *spec, enum lb_status status, struct lb_err *err);

/* r->step and the samples of the step before go to the group; a failure shows when the step ends. */
void lb_follow_send(struct lb_run *r);

/* No more steps come. */
void lb_follow_end(struct lb_run *r);

/* What every rank knows of itself at the end. */
void lb_follow_count(const struct lb_run_spec *spec, struct lb_rank_stats *mine);

#endif
