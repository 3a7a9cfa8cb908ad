/* One id from a row's logits. Filters in vLLM's order (models.md 6.2): temperature, min_p, top_k, top_p.
 *
 * Ids are ordered by logit, ties by lower id; each filter keeps a beginning of that order. min_p keeps ids whose
 * probability is at least min_p times the largest; top_k the first k; top_p an id while the share of those before it,
 * among what the others left, is below top_p. Then the first survivor in id order whose cumulative probability exceeds
 * u is taken.
 *
 * The largest LK_TOP logits answer most questions; where they do not, the whole row is read, or the ranks that hold its
 * parts are asked, or the device draws by itself (kernels/cuda/cuda_sample.cu). All ways give the same id: masses are
 * whole numbers, whose sum has no order (kernels/mass.h). No memory is taken; any thread. */
#ifndef CORE_RUN_SAMPLE_H
#define CORE_RUN_SAMPLE_H

#include "core/backend/backend.h"
#include "core/run/ask.h"
#include "core/run/flow.h"

#define LB_SAMPLE_ASKS (-2)

/* c has candidates, its logits are all finite; s is not greedy; u in (0, 1). Where c has no logits, q says what is
 * known, q->u is u, and LB_SAMPLE_ASKS means that q->next is to be answered first. */
int32_t lb_sample_draw(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, double u,
                       struct lb_asked *q);

/* The same of logits that were changed: c has their best and, in `top_…`, the n_top first of their order, which may be
 * few or none. -infinity is never drawn; the best is finite. */
int32_t lb_sample_draw_top(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, int n_top, double u,
                           struct lb_asked *q);

/* u of a sequence's next id, or of that which is `ahead` ids behind it. */
double lb_sample_u(const struct lb_work *w, int64_t ahead);

/* What a device is told that draws by itself. */
struct lk_draw lb_sample_draw_of(const struct lb_sampling *s, double u);

/* lb_sample_draw by reading the whole row always: for tests. */
int32_t lb_sample_draw_whole(const struct lb_sampling *s, const struct lb_cand *c, int64_t n_vocab, double u);

/* What is told of an id from the raw distribution (before temperature and filters): how many logits are at least this
 * one, -1 where neither candidates nor logits say it; and everything but id and rank, the n_top best (at most LK_TOP)
 * going to `top`. */
int64_t lb_sample_rank(const struct lb_cand *c, int64_t n_vocab, float logit);
void lb_sample_fill(const struct lb_cand *c, float logit, size_t n_top, struct lb_logprob_top *top,
                    struct lb_logprob *out);

#endif
