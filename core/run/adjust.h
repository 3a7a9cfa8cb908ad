/* A sequence's logits as its settings change them before an id is chosen, in vLLM's order (models.md 6.2), in float32:
 *
 *     end tokens: -infinity while there are fewer than min_tokens new ids
 *     x += bias                                      clamped to the range of float32 from here on
 *     x = x < 0 ? x * repetition : x / repetition    of ids in the prompt or among the new ones
 *     x -= frequency * (times among the new ids)
 *     x -= presence                                  of ids among the new ones
 *
 * The ids that can change are kept in a table as large as the sequence can need. The window thread makes it; the
 * forward thread and its team use it, one thread at a time, and take no memory. */
#ifndef CORE_RUN_ADJUST_H
#define CORE_RUN_ADJUST_H

#include "core/backend/backend.h"
#include "core/model/config.h"
#include "core/run/ask.h"
#include "core/run/flow.h"

/* Whether anything can change. */
bool lb_adjust_wanted(const struct lb_settings *set);

/* The table of a sequence without new ids. prompt[n_prompt], biases and end tokens of the settings lie in the
 * vocabulary; stop ids need not. NULL without memory. */
struct lb_adjust *lb_adjust_new(const struct lb_settings *set, const int32_t *prompt, int64_t n_prompt,
                                const struct lb_config *config);
void lb_adjust_free(struct lb_adjust *a); /* NULL is allowed */

/* Chooses an id as `set` says, ties to the lower one. Logits are all finite; where c has them they are changed and put
 * back, else q is asked as in lb_sample_draw_top. u in (0, 1) for a draw. -1: no id is left. */
int32_t lb_adjust_draw(struct lb_adjust *a, const struct lb_settings *set, const struct lb_cand *c, double u,
                       struct lb_asked *q);

/* Whether id is one that can change; then what its logit was in the last draw. */
bool lb_adjust_raw(const struct lb_adjust *a, int32_t id, float *logit);

/* id is the sequence's next new one. */
void lb_adjust_count(struct lb_adjust *a, int32_t id);

#endif
