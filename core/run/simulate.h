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
    size_t page;    /* its first full page in lb_sim_rows.page */
    int32_t n_page; /* full pages of the prompt */
    /* by lb_sim_order */
    int32_t n_shared; /* pages that other rows begin with too */
    int32_t course, group_len, group_course;
    size_t group;
};

struct lb_sim_rows {
    struct lb_sim_row *row; /* [n], owned */
    size_t n, cap;
    uint64_t *page; /* [n_page], owned: hashes of pages with all that stands before them; then numbers of them */
    size_t n_page, cap_page;
};

/* prompt [n_prompt] is only looked at; NULL: it shares nothing. */
enum lb_status lb_sim_add(struct lb_sim_rows *rows, const int32_t *prompt, int64_t n_prompt, int64_t n_new,
                          struct lb_err *err);
void lb_sim_release(struct lb_sim_rows *rows);

/* Sorts as a run does (order.h), over all rows: those that begin with the same page together, the longest course first.
 * Called once, when all are there. */
enum lb_status lb_sim_order(struct lb_sim_rows *rows, bool by_course, struct lb_err *err);

/* Who is told of each step when it is made; step and scheduler are lent for the call. A failure ends the simulation. */
struct lb_sim_watch {
    enum lb_status (*step)(void *ctx, const struct lb_sched *s, const struct lb_step *step, struct lb_err *err);
    void *ctx;
};

/* Runs rows from first to last, each to its limit; shares: pages of equal beginnings. Rows that the cache could never
 * hold are left out, as a run refuses them. *peak_pages: most pages in use at a time. */
enum lb_status lb_sim_run(const struct lb_sim_rows *rows, const struct lb_plan *plan, bool shares,
                          const struct lb_sim_watch *watch, int64_t *peak_pages, struct lb_err *err);

#endif
