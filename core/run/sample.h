/* One id from a row's logits. Filters in vLLM's order (models.md 6.2): temperature, min_p, top_k, top_p.
 *
 * Ids are ordered by logit, ties by lower id; each filter keeps a beginning of that order. min_p keeps ids whose
 * probability is at least min_p times the largest; top_k the first k; top_p an id while the share of those before it,
 * among what the others left, is below top_p. Then the first survivor in id order whose cumulative probability exceeds
 * u is taken (f64, over blocks of LK_HEAD_BLOCK ids).
 *
 * The largest LK_TOP logits answer most questions; where they do not, the whole row is read. Both ways give the same
 * id: the share for top_p is summed in integers, whose sum has no order, and blocks without survivors add nothing. No
 * memory is taken; any thread. */
#ifndef CORE_RUN_SAMPLE_H
#define CORE_RUN_SAMPLE_H

#include "core/backend/backend.h"
#include "core/run/flow.h"

/* c has logits (LB_OUT_LOGITS), all finite; s is not greedy; u in (0, 1). */
int32_t lb_sample_draw(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, double u);

/* The same of logits that were changed: c has their best and, in `top_…`, the n_top first of their order, which may be
 * few or none. -infinity is never drawn; the best is finite. */
int32_t lb_sample_draw_top(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, int n_top, double u);

/* The same by reading the whole row always: for tests. */
int32_t lb_sample_draw_whole(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, double u);

/* Fills out for the chosen id from the raw distribution (before temperature and filters): out->n_top pairs, best first,
 * are written to `top` (n_top at most LK_TOP). */
void lb_sample_logprob(const struct lb_cand *c, int64_t n_vocab, int32_t id, size_t n_top, struct lb_logprob_top *top,
                       struct lb_logprob *out);

#endif
