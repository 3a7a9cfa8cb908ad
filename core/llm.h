/* The engine's insides, for llmbatch.c (what opens and closes it) and llm_run.c (what runs it) alone. */
#ifndef CORE_LLM_H
#define CORE_LLM_H

#include <string.h>

#include "core/backend/backend.h"
#include "core/io/gguf.h"
#include "core/io/journal.h"
#include "core/io/jsonl_read.h"
#include "core/io/trace.h"
#include "core/llmbatch.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/ranks.h"
#include "core/resume.h"
#include "core/run/adapter.h"
#include "core/run/pipeline.h"
#include "core/run/survey.h"

struct lb_llm {
    struct lb_options o;
    struct lb_ranks ranks;
    struct lb_rank_stats *rank_stats; /* [ranks.size] on rank 0 */
    struct lb_gen gen;
    enum lb_dtype dtype;
    bool int8, w4a8; /* o.quantize; the latter is the former too */
    double begin;

    const char *const *inputs; /* [n_input] o.inputs, or stdin */
    size_t n_input;
    struct lb_lines *lines; /* NULL with o.prompt */
    bool stream;
    int64_t input_bytes;
    struct lb_expect expect;

    struct lb_adapters adapters;
    struct lb_lora_set lora; /* their files, once a model is to run */
    struct lb_gguf gguf;
    struct lb_wfile safetensors;
    bool gguf_open, safetensors_open;
    struct lb_config config;
    bool config_known; /* always, where a model runs */
    struct lb_tok *tok;
    struct lb_chat *chat;
    struct lb_audit audit;
    struct lb_survey survey;
    struct lb_str plan_text, plan_json;
    struct lb_backend *backend;
    struct lb_model *model;
    struct lb_backend *other_backend; /* other.h; NULL: none */
    struct lb_model *other_model;
    struct lb_plan plan;

    struct lb_resume resume;
    struct lb_str input_sizes; /* when the run began */
    struct lb_stats stats;
    struct lb_watch *watch;       /* NULL without o.report */
    struct lb_timeline *timeline; /* NULL without o.trace */
    struct lb_trace *trace;       /* of rank 0, until it is finished */
    bool closed;                  /* the reader of the output went away */
    int exit_code;                /* of rank 0, once all have run */
};

/* No model is needed. */
static inline bool lb_text_only(const struct lb_llm *llm)
{
    return llm->o.render || llm->o.plan;
}

/* The device makes its logits up: no weights are read. */
static inline bool lb_makes_up(const struct lb_options *o)
{
    return o->device && strcmp(o->device, "null") == 0;
}

/* Rank 0 alone reads and writes. */
static inline bool lb_is_first(const struct lb_llm *llm)
{
    return llm->ranks.rank == 0;
}

static inline enum lb_status lb_llm_agree(struct lb_llm *llm, enum lb_status status, struct lb_err *err)
{
    return lb_ranks_agree(&llm->ranks, status, err);
}

struct lb_journal_spec lb_llm_journal(const struct lb_llm *llm);

/* What is asked of a plan: options, headers, free memory. */
struct lb_plan_spec lb_llm_plan_spec(const struct lb_llm *llm);

#endif
