/* The scheduler run over rows' lengths alone, without a model: the steps that a run would take. */
#ifndef CORE_RUN_SIMULATE_H
#define CORE_RUN_SIMULATE_H

#include <stddef.h>
#include <stdint.h>

#include "core/backend/step.h"
#include "core/base/err.h"
#include "core/run/plan.h"
#include "core/run/sched.h"

/* A sequence: so many prompt tokens, and so many new ones if it runs to its limit. */
struct lb_sim_row {
    int32_t n_prompt, n_new;
};

struct lb_sim_rows {
    struct lb_sim_row *row; /* [n], owned */
    size_t n, cap;
};

enum lb_status lb_sim_add(struct lb_sim_rows *rows, int64_t n_prompt, int64_t n_new, struct lb_err *err);
void lb_sim_release(struct lb_sim_rows *rows);

/* Who is told of each step when it is made; step and scheduler are lent for the call. A failure ends the simulation. */
struct lb_sim_watch {
    enum lb_status (*step)(void *ctx, const struct lb_sched *s, const struct lb_step *step, struct lb_err *err);
    void *ctx;
};

/* Runs rows from first to last, each to its limit, sharing no pages. Rows that the cache could never hold are left
 * out, as a run refuses them. *peak_pages: most pages in use at a time. */
enum lb_status lb_sim_run(const struct lb_sim_rows *rows, const struct lb_plan *plan, const struct lb_sim_watch *watch,
                          int64_t *peak_pages, struct lb_err *err);

/* Sorts as a run does: longest prompt first. */
void lb_sim_sort(struct lb_sim_rows *rows);

#endif
