/* The stages of the loop in pipeline.c, all on the forward thread. The work of reading, tokenizing, detokenizing and
 * writing itself is done beside it by the threads of flow.h; here the loop takes what they have ready and gives them
 * what is finished.
 *
 * Where the device runs a step ahead, a round launches a step and collects the one of the round before, so that the
 * device computes while ids become text, rows end and the next step is packed. Rows draw on the
 * device then; a step with an output that the host has to see first (log-probabilities, penalties, the first ids of
 * samples) is collected before the next one is packed. */
#ifndef CORE_RUN_STAGES_H
#define CORE_RUN_STAGES_H

#include "core/run/run.h"

/* Every row that was read has ended, or the run is to end now. */
bool lb_run_done(const struct lb_run *r);

enum lb_status lb_run_read(struct lb_run *r, struct lb_err *err);       /* stops and failures of the other threads */
enum lb_status lb_run_tokenize(struct lb_run *r, struct lb_err *err);   /* the next tokenized row; waits when idle */
enum lb_status lb_run_pack(struct lb_run *r, struct lb_err *err);       /* rows -> r->now */
enum lb_status lb_run_forward(struct lb_run *r, struct lb_err *err);    /* r->now or r->flying -> r->got, r->cand */
enum lb_status lb_run_sample(struct lb_run *r, struct lb_err *err);     /* r->cand -> r->drawn and the slots */
enum lb_status lb_run_detokenize(struct lb_run *r, struct lb_err *err); /* ids -> stops -> r->finished */
enum lb_status lb_run_write(struct lb_run *r, struct lb_err *err);      /* r->finished -> writer thread */

/* Behind the loop: waits for a step that still flies; nobody wants its outputs. */
enum lb_status lb_run_land(struct lb_run *r, struct lb_err *err);

/* Tells the progress if a second has passed, or now. */
void lb_run_progress(struct lb_run *r, bool now);

#endif
