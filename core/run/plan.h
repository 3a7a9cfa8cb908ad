/* Sizes of a run, worked out before a weight is read. */
#ifndef CORE_RUN_PLAN_H
#define CORE_RUN_PLAN_H

#include <stdint.h>

#include "core/backend/step.h"
#include "core/backend/tensor.h"
#include "core/base/log.h"
#include "core/io/wfile.h"
#include "core/model/config.h"
#include "core/model/lora.h"

#define LB_DEFAULT_BATCH_TOKENS 512
#define LB_MOST_BATCH_TOKENS 4096 /* that is ever chosen */
#define LB_SCORE_TOKENS 256       /* products over as many are nearly as fast as over more */
#define LB_DRAFT_TOKENS 256

/* What is known of a run's rows before they are read; 0: not known. */
struct lb_expect {
    int64_t n_row;                  /* sequences at most */
    double row_tokens, work_tokens; /* of a row, and of all: about so many, prompts and new ones */
};

/* Bytes on this host, of all its ranks together; kv: of one rank. */
struct lb_need {
    double weights, steps, kv, host; /* host: rows in flight, tokenizer, a head in int8 */
    double room;                     /* what is free */
};

/* What was asked for; 0 is `auto`, or the default. */
struct lb_plan_spec {
    const struct lb_config *config;
    const struct lb_wfile *weights; /* NULL: none are read */
    const struct lb_lora_set *lora; /* NULL: no adapters */
    enum lb_dtype dtype;
    bool unpack; /* no weights stay packed */
    bool int8;   /* the layers' matrices, */
    bool w4a8;   /* but for those that stay packed then */
    int64_t batch_tokens, max_seqs, kv_memory, max_model_len;
    int64_t rows_enough; /* rows at a time beyond which a token costs no less; 0: not known */
    size_t free_bytes;   /* memory that can be had on this host, or on the rank's device */
    bool device;         /* the latter */
    int tp;              /* ranks that hold one copy of the weights */
    int host_ranks;      /* ranks that share the host's memory */
    int host_nodes;      /* its NUMA nodes, in each of which they share one copy of what several of them need */
    struct lb_expect expect;
    const struct lb_log *log;
};

struct lb_plan {
    int64_t batch_tokens, max_seqs, max_model_len;
    int64_t batch_most; /* memory is made for so many; above batch_tokens: what is best is to be measured */
    int64_t kv_memory;  /* bytes for the cache of one rank */
    int64_t kv_pages;
    size_t page_bytes;
    struct lb_need need;
    struct lb_expect expect;
    bool auto_batch, auto_seqs, auto_kv;
    int64_t rows_enough;                           /* as asked for */
    char why_batch[128], why_seqs[64], why_kv[64]; /* what was chosen, for people */
    struct lb_step_limits limit;
    int32_t max_out;
    int32_t score_tokens; /* of prompts, whose logits a step can ask for */
    int32_t draft_tokens; /* of drafts */
};

/* tp for `auto` on this host, among the divisors of n_rank and of the model's segments: the smallest with which weights
 * leave a quarter of the memory to the cache, or what --kv-memory asks for; else the smallest with which they fit at
 * all. A run takes the largest of its ranks' answers. LB_E_DEVICE: none does. spec->tp is not read. */
enum lb_status lb_plan_tp(const struct lb_plan_spec *spec, int n_rank, int *tp, struct lb_err *err);

/* All of it; the size of pages the model knows better (lb_plan_pages). A batch or length out of range, or a length
 * beyond the model's, is LB_E_USAGE; what cannot fit free memory is LB_E_DEVICE with the numbers, and with what would
 * fit. The cache takes most of what weights, steps and the host's threads leave, but no more than rows can use. Dynamic
 * RoPE grows its base with the text, so such a model has no end of its own: its default length is factor times
 * max_position_embeddings, at least LB_DYNAMIC_LEN, and a longer one draws a warning. */
#define LB_DYNAMIC_LEN 2048
enum lb_status lb_plan_make(struct lb_plan *p, const struct lb_plan_spec *spec, struct lb_err *err);

/* max_model_len alone, which needs no weights. */
enum lb_status lb_plan_length(struct lb_plan *p, const struct lb_plan_spec *spec, struct lb_err *err);

/* Pages of page_bytes each: as kv_memory allows, no more than max_seqs rows of full length can use, or those that there
 * are. LB_E_USAGE when not one page fits. */
enum lb_status lb_plan_pages(struct lb_plan *p, size_t page_bytes, struct lb_err *err);

/* Rows at a time, and the limits of steps, when batch_most or kv_pages were changed. */
void lb_plan_derive(struct lb_plan *p);

/* Steps of so many tokens, no more than batch_most, are what the run takes. */
void lb_plan_take_batch(struct lb_plan *p, int64_t batch_tokens);

/* Bytes that one rank's buffers of a step take: n_tok tokens, of n_out of them the logits. */
double lb_plan_step_bytes(const struct lb_config *c, enum lb_dtype dtype, int tp, int64_t n_tok, int64_t n_out);

/* The same on a CUDA device, where logits and sums of products go through memory of limited size. */
double lb_plan_device_bytes(const struct lb_config *c, enum lb_dtype dtype, int tp, int64_t n_tok, int64_t n_out);

/* What int8 products take besides. */
double lb_plan_int8_bytes(const struct lb_plan_spec *spec, int tp, int64_t n_tok);

/* Bytes that a step of n_tok tokens takes for its mixtures of experts, at most: a kernel set may store fewer. */
double lb_plan_moe_bytes(const struct lb_config *c, int64_t n_tok);

/* Bytes of a page over all layers on one of tp ranks as the configuration gives it; a kernel set may need more. */
size_t lb_plan_page_bytes(const struct lb_config *c, enum lb_dtype dtype, int tp);

struct lb_backend;
/* The same as this device holds it. */
size_t lb_plan_device_page_bytes(const struct lb_config *c, const struct lb_backend *be, int tp);

/* Bytes of the weights that one of tp ranks holds, likewise; of a layer, in the mean. */
double lb_plan_weight_bytes(const struct lb_plan_spec *spec, int tp);

/* Bytes that a rank's adapters take, and those of a step's tokens for them, at most. */
double lb_plan_lora_bytes(const struct lb_plan_spec *spec);
/* The LM head in int8, which a rank makes where it screens (core/backend/backend_cpu_screen.c). */
double lb_plan_screen_bytes(const struct lb_plan_spec *spec, int tp);
double lb_plan_lora_step_bytes(const struct lb_plan_spec *spec, int64_t n_tok);
double lb_plan_layer_bytes(const struct lb_plan_spec *spec);

#endif
