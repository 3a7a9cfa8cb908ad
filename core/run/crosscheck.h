/* --verify N on a device: the rows that were run again are scored by the model on the processor too, and by the device
 * once more, both given the same ids (teacher forcing): the log-probabilities of the new tokens must lie close
 * together. So a device, a driver or a library that computes something else is found, though it does so every time. */
#ifndef CORE_RUN_CROSSCHECK_H
#define CORE_RUN_CROSSCHECK_H

#include "core/run/flow.h"

struct lb_run;

/* Most that a log-probability may differ by, and what they may in the mean. Each sum of a bf16 model is rounded some
 * hundred times on its way, to 2^-9 relative; f32 differs by the order of sums alone. */
#define LB_CROSS_MOST_BF16 0.5
#define LB_CROSS_MEAN_BF16 0.05
#define LB_CROSS_MOST_F32 2e-3
#define LB_CROSS_MEAN_F32 2e-4

/* lead[n] are finished rows. The verdict is said at `info`, and rows that lie too far apart at `error`; these count as
 * rows that came out otherwise. What cannot be compared (no memory for the weights, several ranks) is said at `warn`.
 */
enum lb_status lb_cross_rows(struct lb_run *r, struct lb_work *const *lead, int64_t n, struct lb_err *err);

#endif
