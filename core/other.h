/* The model once more on the processor, beside a run on a device, to compare the two. */
#ifndef CORE_OTHER_H
#define CORE_OTHER_H

#include "core/llm.h"

/* ctx: the engine, which keeps what is opened until lb_other_close. LB_E_DEVICE: no memory for its weights, or ranks
 * whose devices hold a part each. */
enum lb_status lb_other_open(void *ctx, struct lb_step_limits limit, struct lb_model **out, struct lb_err *err);
void lb_other_close(struct lb_llm *llm);

#endif
