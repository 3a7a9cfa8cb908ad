/* The decoder: a model's weights on a backend, and the forward pass over one flat step.
 *
 *     lb_model_open(&m, &spec, err);                 reads and packs the weights
 *     lb_model_reserve(m, limits, max_out, n_page, err);  memory of the step and the cache, once
 *     lb_model_forward(m, step, &cand, err);         as often as there are steps; or lb_model_launch, lb_model_collect
 *     lb_model_free(m);
 *
 * One thread, the forward thread, uses a model. Nothing is allocated after the first lb_model_forward, hooks aside.
 *
 * In a group of ranks each has a slice of the model (core/dist/shard.h) and all make the same calls with the same
 * steps, lb_model_forward together. Rank 0, the leader, gets what one rank alone would get, bit for bit. */
#ifndef CORE_MODEL_DECODER_H
#define CORE_MODEL_DECODER_H

#include <stdint.h>

#include "core/backend/backend.h"
#include "core/base/err.h"
#include "core/base/log.h"
#include "core/dist/comm.h"
#include "core/dist/world.h"
#include "core/io/wfile.h"
#include "core/model/config.h"
#include "core/model/lora.h"

struct lb_model;

/* Everything is lent and must outlive the model, apart from log. The weights' mapping stays in use: an embedding table
 * of the backend's own type is read from it. */
struct lb_model_spec {
    const struct lb_config *config;
    const struct lb_wfile *weights; /* NULL: the device makes up what the head would say of each token */
    struct lb_backend *backend;
    const struct lb_log *log;       /* NULL: silent */
    struct lb_comm *comm;           /* the group whose ranks hold a slice each; NULL: one rank that holds all */
    const struct lb_lora_set *lora; /* NULL: no adapters; not needed once the model is open */
    struct lb_world *world;         /* its ranks share memory where they pack the same; NULL: nothing is shared */
};

/* What a model weighs, all ranks of a group together. Numbers of parameters count a tied head once, in n_param. */
struct lb_model_size {
    int64_t n_param;         /* all parameters that were read */
    int64_t n_layer_product; /* weights of products that every token passes */
    int64_t n_head_product;  /* weights of the LM head: wanted tokens only */
};

/* Collective, where there is a world. A missing tensor, a shape that contradicts the configuration and a type that is
 * not read are LB_E_INPUT naming the tensor. NaN and infinities in weights are not looked for. */
enum lb_status lb_model_open(struct lb_model **out, const struct lb_model_spec *spec, struct lb_err *err);
void lb_model_free(struct lb_model *m); /* NULL is allowed; the backend stays open */

struct lb_model_size lb_model_size_of(const struct lb_model *m);

/* Bytes that one page of the cache takes over all layers, K and V; in a group the same on each rank. The other one: of
 * a model that is not open, a rank holding n_kv_head heads. */
size_t lb_model_page_bytes(const struct lb_model *m);
size_t lb_config_page_bytes(const struct lb_config *c, int64_t n_kv_head, const struct lb_backend *be);

/* Memory for steps within `limit`, max_out wanted tokens a step at most, and a cache of n_page pages. Called once. */
enum lb_status lb_model_reserve(struct lb_model *m, struct lb_step_limits limit, int32_t max_out, int64_t n_page,
                                struct lb_err *err);

/* One pass. *cand is [step->n_out], lent until the next call. A step with n_tok == 0 computes nothing. Steps beyond the
 * reserved limits, and token or page ids out of range, are LB_E_USAGE and leave the cache as it was. In a group *cand
 * is NULL on all ranks but the leader, and the leader gets the failure of any rank; the others, unless they are told by
 * their own, learn of it from the leader's next step. */
enum lb_status lb_model_forward(struct lb_model *m, const struct lb_step *step, const struct lb_cand **cand,
                                struct lb_err *err);

/* The two halves of lb_model_forward, which have its rules. Where lb_model_ahead is 1, another step can be launched
 * before a step is collected, and steps are collected in the order of their launches. A step is lent from its launch
 * until it is collected; failures are told then. `~j` of a step that is launched while another is on its way is the
 * id that that one's output j draws (LB_OUT_DRAW, which such a model alone may be asked for), else its best one; a step
 * that asks for logits is collected before another is launched. */
void lb_model_launch(struct lb_model *m, const struct lb_step *step);
enum lb_status lb_model_collect(struct lb_model *m, const struct lb_step *step, const struct lb_cand **cand,
                                struct lb_err *err);
int lb_model_ahead(const struct lb_model *m);

/* Where the next step's `~j` tokens are read: [max_out], written by the caller after lb_model_forward. */
int32_t *lb_model_slots(struct lb_model *m);

/* In a group, on each rank after a pass that succeeded: the rank's part of the logits of output j, the same pointer as
 * a backend's part_logits, and where the parts of all ranks begin, [ranks + 1] ids. */
float *lb_model_logits(struct lb_model *m, int64_t j);
const int64_t *lb_model_parts(const struct lb_model *m);

/* Flags that a rank tells its leader at the end of each step from now on, and, on the leader, those that any rank told
 * at the end of the last one. What they mean is the caller's. */
void lb_model_tell(struct lb_model *m, uint32_t flags);
uint32_t lb_model_told(const struct lb_model *m);

/* The next passes take layers first .. end - 1 alone: to time a part of the model. Their candidates mean nothing. The
 * first one must not share the positions that an earlier one chose. */
void lb_model_set_layers(struct lb_model *m, int first, int end);

/* Tests look into the running pass: each function may be NULL. Numbers are f32 rows in host memory, lent for the call.
 * Hooks cost time and memory. In a group heads are those of the rank. */
struct lb_hook {
    void *ctx;
    /* x[n_tok, dim]: the embedded tokens */
    void (*embedding)(void *ctx, const struct lb_step *step, const float *x);
    /* x[n_tok, dim]: the residual stream after layer il */
    void (*layer)(void *ctx, int il, const struct lb_step *step, const float *x);
    /* p[n_tok, n_head, ld]: attention probabilities of layer il, zeros beyond a token's position; kernel set ref only,
     * never called for the others */
    void (*probs)(void *ctx, int il, const struct lb_step *step, const float *p, int64_t ld);
    /* a[n_tok, n_head * out_dim]: attention output of layer il, before the output projection */
    void (*attn)(void *ctx, int il, const struct lb_step *step, const float *a);
};

/* hook is lent until it is replaced; NULL removes it. */
void lb_model_set_hook(struct lb_model *m, const struct lb_hook *hook);

#endif
