/* Timed passes over made-up steps: what a model costs here, before or without running rows. */
#ifndef CORE_RUN_PROBE_H
#define CORE_RUN_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/backend/step.h"
#include "core/base/err.h"
#include "core/dist/world.h"
#include "core/model/decoder.h"
#include "core/run/plan.h"

/* A sequence's part in a step: n_tok tokens from position pos on; wanted: with the logits of the last one. */
struct lb_probe_seq {
    int32_t pos, n_tok;
    bool wanted;
};

/* Seconds of a pass by kind of op; total with what stands around the ops. */
struct lb_probe_time {
    double total, linear, attend, norm, head, collective;
};

/* All lent. With several ranks all make the same calls. */
struct lb_probe {
    struct lb_model *model; /* reserved for the plan */
    struct lb_backend *backend;
    struct lb_comm *comm; /* of the group */
    const struct lb_config *config;
    const struct lb_plan *plan;
};

/* Makes the step, within its limits. Pages that take tokens are their sequence's own; those in front of them, which are
 * only read, stand for several sequences where the cache is small. false: the step or the cache is too small. */
bool lb_probe_fill(struct lb_step *step, const struct lb_probe_seq *seq, int32_t n_seq, int64_t n_page);

/* One pass over layers first .. end - 1. What the backend counts is as before. */
enum lb_status lb_probe_pass(const struct lb_probe *p, const struct lb_step *step, int first, int end,
                             struct lb_probe_time *t, struct lb_err *err);

/* The i-th layer, from the last one back and round again, that is of the last one's kind and may stand first:
 * successive passes over one layer find its weights in memory, not in a cache. */
int lb_probe_layer(const struct lb_config *c, int i);

/* The size of steps for a run of about plan->expect.work_tokens: of 256, 512 ... plan->batch_most the smallest whose
 * layers take at most 3 % longer for a token than the best, by medians of rounds over all sizes. The measurement is to
 * take no more than a fiftieth of the run; where that is too little, plan->batch_tokens is what it was. Collective:
 * rank 0's figures decide. Changes *plan, which is the model's. */
enum lb_status lb_probe_choose_batch(const struct lb_probe *p, struct lb_world *world, struct lb_plan *plan,
                                     struct lb_err *err);

#endif
