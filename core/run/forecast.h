/* How long a run would take: the scheduler over the rows' lengths gives the steps; some of them, chosen so that each
 * stands for as much work as any other, are timed on a stand-in of the model. */
#ifndef CORE_RUN_FORECAST_H
#define CORE_RUN_FORECAST_H

#include "core/base/log.h"
#include "core/base/str.h"
#include "core/dist/world.h"
#include "core/io/wfile.h"
#include "core/run/plan.h"
#include "core/run/simulate.h"

/* All lent. */
struct lb_forecast_spec {
    const struct lb_config *config;
    const struct lb_wfile *header; /* of the weights, which are not read; NULL: there are none */
    struct lb_backend *backend;
    struct lb_world *world;   /* of one rank */
    struct lb_sim_rows *rows; /* in the order in which they run */
    bool shares;              /* pages of equal beginnings */
    double layer_bytes;
    const struct lb_log *log;
};

struct lb_forecast {
    int64_t n_step, n_tok, peak_pages;
    int64_t n_never; /* sequences that need more pages than there are: they would fail */
    double tokens_mean, seqs_mean, fill;
    bool measured; /* if not, no_time says why */
    char no_time[160];
    double run_s, linear_s, attend_s, head_s, other_s;
    double measure_s;
    int n_sample;
};

/* *plan: of the whole model; where its steps are to be measured, they are. LB_E_DEVICE without memory. */
enum lb_status lb_forecast_make(struct lb_forecast *f, const struct lb_forecast_spec *spec, struct lb_plan *plan,
                                struct lb_err *err);

/* Lines of 80 columns at most: memory, steps, time, groups of ranks. spec: what the plan was made of. */
void lb_forecast_put(const struct lb_forecast *f, const struct lb_plan *p, const struct lb_plan_spec *spec,
                     struct lb_str *out);

/* One JSON object, for the stats. */
void lb_forecast_put_json(const struct lb_forecast *f, const struct lb_plan *p, struct lb_str *out);

#endif
