/* Effective generation settings: the model's generation_config.json, then the command line, then the row. */
#ifndef CORE_RUN_SETTINGS_H
#define CORE_RUN_SETTINGS_H

#include "core/model/config.h"
#include "core/run/flow.h"
#include "core/run/stats.h"

#define LB_DEFAULT_MAX_TOKENS 256
#define LB_GREEDY_BELOW 1e-5 /* temperature */

/* The model's values count only where it says do_sample: true (temperature 1, top-k off where unwritten); else greedy.
 * A temperature from command line or row decides alone: above 0 samples. row NULL: the command line alone. */
void lb_settings_resolve(struct lb_settings *s, const struct lb_gen_defaults *model, const struct lb_gen *command,
                         const struct lb_gen *row);

/* The same for the command line alone as text with its origin, for the stats. */
void lb_settings_describe(struct lb_stats *stats, const struct lb_gen_defaults *model, const struct lb_gen *command);

#endif
