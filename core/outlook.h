/* What --plan says of a run beside its rows: whether it fits, how many steps it takes, how long. */
#ifndef CORE_OUTLOOK_H
#define CORE_OUTLOOK_H

#include "core/llm.h"

/* Opens what is needed beside the tokenizer: the backend and the directory of the weights, which need not be there. */
enum lb_status lb_outlook_open(struct lb_llm *llm, struct lb_err *err);

/* After the rows were read: lines for people in *text, llm->plan_json. LB_E_DEVICE: the run does not fit; *text says so
 * too. */
enum lb_status lb_outlook_make(struct lb_llm *llm, struct lb_str *text, struct lb_err *err);

#endif
