#include "core/run/plan.h"

#include <stdio.h>

#include "core/model/kv.h"

#define MAX_BATCH_TOKENS (1 << 20)
#define MAX_SEQS (1 << 20)
#define GIB 1073741824.0
#define MIB 1048576.0
#define HOST_BYTES (200.0 * MIB) /* rows in flight, tokenizer, tables: what engine.md 4 allows them */
#define CACHE_SHARE 0.75         /* of what is left when all else has its memory: others may want some */
#define DEVICE_SHARE 0.9         /* the same of a device, which is the rank's alone */
#define STEP_SHARE 0.125         /* of free memory that steps of a chosen size may take */
#define LEAST_BATCH 64
#define STEPS_MOST 16 /* a run of fewer steps has no use for larger ones */
#define SLACK 4       /* rows at a time beyond those that the cache is expected to hold: admission looks closer */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Ranks of the host that are there, as numbers that are at least 1. */
static double ranks_of(const struct lb_plan_spec *spec)
{
    return spec->host_ranks > 1 ? spec->host_ranks : 1;
}

/* Weights on the host: each slice that its ranks need, once a NUMA node. */
static double host_weight_bytes(const struct lb_plan_spec *spec, int tp)
{
    double n_copy = (double)tp * (spec->host_nodes > 1 ? spec->host_nodes : 1);
    return (ranks_of(spec) < n_copy ? ranks_of(spec) : n_copy) * lb_plan_weight_bytes(spec, tp) +
           ranks_of(spec) * lb_plan_lora_bytes(spec); /* each rank has its own */
}

/* Buffers of steps on the host. Each running row may have a token whose logits are wanted,
 * and those whose prompts are scored or that take drafts more. */
static double host_step_bytes(const struct lb_plan_spec *spec, int tp, int64_t n_tok)
{
    int64_t n_out = spec->max_seqs ? least(spec->max_seqs + LB_SCORE_TOKENS + LB_DRAFT_TOKENS, n_tok) : n_tok;
    if (spec->device)
        return lb_plan_device_bytes(spec->config, spec->dtype, tp, n_tok, n_out);
    return ranks_of(spec) * (lb_plan_step_bytes(spec->config, spec->dtype, tp, n_tok, n_out) +
                             lb_plan_int8_bytes(spec, tp, n_tok) + lb_plan_lora_step_bytes(spec, n_tok));
}

enum lb_status lb_plan_length(struct lb_plan *p, const struct lb_plan_spec *spec, struct lb_err *err)
{
    const struct lb_rope *rope = &spec->config->rope;
    bool dynamic = rope->type == LB_ROPE_DYNAMIC;
    int64_t own = rope->max_position, longest = own;
    if (dynamic) {
        double grown = (double)own * (rope->factor > 1 ? rope->factor : 1);
        longest = grown < INT32_MAX ? (int64_t)grown : INT32_MAX;
        if (longest < LB_DYNAMIC_LEN)
            longest = LB_DYNAMIC_LEN;
    }
    p->max_model_len = spec->max_model_len > 0 ? spec->max_model_len : longest;
    if (p->max_model_len > INT32_MAX)
        p->max_model_len = INT32_MAX;
    if (p->max_model_len <= longest)
        return LB_OK;
    if (!dynamic)
        return lb_err_set(err, LB_E_USAGE, "--max-model-len %lld is more than the model's %lld",
                          (long long)p->max_model_len, (long long)own);
    lb_log_put(spec->log, LB_LOG_WARN,
               "--max-model-len %lld is more than %lld, what dynamic RoPE with factor %.6g is made for",
               (long long)p->max_model_len, (long long)longest, rope->factor);
    return LB_OK;
}

/* The largest steps that may be chosen, and those that are taken unless they are measured. */
static void choose_batch(struct lb_plan *p, const struct lb_plan_spec *spec, int tp, double room)
{
    double share = STEP_SHARE * room;
    p->batch_tokens = LB_DEFAULT_BATCH_TOKENS;
    while (p->batch_tokens > LEAST_BATCH && host_step_bytes(spec, tp, p->batch_tokens) > share)
        p->batch_tokens /= 2;
    p->batch_most = p->batch_tokens;
    while (p->batch_most < LB_MOST_BATCH_TOKENS && p->batch_tokens == LB_DEFAULT_BATCH_TOKENS &&
           host_step_bytes(spec, tp, 2 * p->batch_most) <= share &&
           (double)(2 * p->batch_most) * STEPS_MOST <= spec->expect.work_tokens)
        p->batch_most *= 2;
    const char *why = p->batch_most > p->batch_tokens             ? "not measured"
                      : p->batch_tokens < LB_DEFAULT_BATCH_TOKENS ? "as memory allows"
                      : spec->expect.work_tokens > 0              ? "the run is short"
                                                                  : "the run's length is not known";
    snprintf(p->why_batch, sizeof p->why_batch, "%s", why);
}

/* Weights and steps must fit; what could be done is said. */
static enum lb_status check_room(const struct lb_plan *p, const struct lb_plan_spec *spec, int tp, struct lb_err *err)
{
    double weights = host_weight_bytes(spec, tp), room = (double)spec->free_bytes;
    double steps = host_step_bytes(spec, tp, p->batch_most);
    int64_t fit = p->batch_most;
    if (weights > room)
        return lb_err_set(err, LB_E_DEVICE, "the weights need %.1f GiB of %smemory, %.1f GiB are free", weights / GIB,
                          spec->device ? "device " : "", room / GIB);
    if (weights + steps <= room)
        return LB_OK;
    while (fit > 1 && weights + host_step_bytes(spec, tp, fit) > room)
        fit /= 2;
    return lb_err_set(err, LB_E_DEVICE,
                      "weights of %.1f GiB and %.1f GiB for steps of %lld tokens need more than the %.1f GiB that are "
                      "free: --batch-tokens %lld would fit",
                      weights / GIB, steps / GIB, (long long)p->batch_most, room / GIB, (long long)fit);
}

static enum lb_status choose_cache(struct lb_plan *p, const struct lb_plan_spec *spec, int tp, struct lb_err *err)
{
    double n_rank = ranks_of(spec), weights = host_weight_bytes(spec, tp);
    double room = (double)spec->free_bytes - weights - host_step_bytes(spec, tp, p->batch_most);
    double host = HOST_BYTES + n_rank * lb_plan_screen_bytes(spec, tp);
    double beside = spec->device ? 0 : host < room / 4 ? host : room / 4;
    double share = spec->device ? DEVICE_SHARE : CACHE_SHARE;
    p->kv_memory = spec->kv_memory ? spec->kv_memory : (int64_t)(share * (room - beside) / n_rank);
    p->need = (struct lb_need){.weights = weights,
                               .steps = host_step_bytes(spec, tp, p->batch_most),
                               .host = beside,
                               .room = (double)spec->free_bytes};
    if (!spec->kv_memory || n_rank * (double)spec->kv_memory <= room)
        return LB_OK;
    return lb_err_set(err, LB_E_DEVICE,
                      "--kv-memory of %.1f GiB%s and weights of %.1f GiB need more than the %.1f GiB that are free: "
                      "%.0f MiB would fit",
                      (double)spec->kv_memory / GIB, n_rank > 1 ? " for each rank of the host" : "", weights / GIB,
                      (double)spec->free_bytes / GIB, room / n_rank / MIB - 1 > 0 ? room / n_rank / MIB - 1 : 0);
}

enum lb_status lb_plan_make(struct lb_plan *p, const struct lb_plan_spec *spec, struct lb_err *err)
{
    int tp = spec->tp > 1 ? spec->tp : 1;
    *p = (struct lb_plan){.batch_tokens = spec->batch_tokens,
                          .batch_most = spec->batch_tokens,
                          .max_seqs = spec->max_seqs,
                          .auto_batch = spec->batch_tokens == 0,
                          .auto_seqs = spec->max_seqs == 0,
                          .rows_enough = spec->rows_enough,
                          .auto_kv = spec->kv_memory == 0,
                          .expect = spec->expect};
    if (spec->batch_tokens < 0 || spec->batch_tokens > MAX_BATCH_TOKENS)
        return lb_err_set(err, LB_E_USAGE, "--batch-tokens must be 1 to %d, not %lld", MAX_BATCH_TOKENS,
                          (long long)spec->batch_tokens);
    if (spec->max_seqs < 0 || spec->max_seqs > MAX_SEQS)
        return lb_err_set(err, LB_E_USAGE, "--max-seqs must be 1 to %d, not %lld", MAX_SEQS, (long long)spec->max_seqs);
    if (spec->kv_memory < 0 || spec->max_model_len < 0)
        return lb_err_set(err, LB_E_USAGE, "--kv-memory and --max-model-len must not be negative");
    LB_TRY(lb_plan_length(p, spec, err));
    if (p->auto_batch)
        choose_batch(p, spec, tp, (double)spec->free_bytes - host_weight_bytes(spec, tp));
    LB_TRY(check_room(p, spec, tp, err));
    LB_TRY(choose_cache(p, spec, tp, err));
    return lb_plan_pages(p, lb_plan_page_bytes(spec->config, spec->dtype, tp), err);
}

enum lb_status lb_plan_tp(const struct lb_plan_spec *spec, int n_rank, int *tp, struct lb_err *err)
{
    double room = (double)spec->free_bytes, fewest = 0, asked = ranks_of(spec) * (double)spec->kv_memory;
    int fits = 0;
    int64_t batch = spec->batch_tokens ? spec->batch_tokens : LEAST_BATCH;
    room -= host_step_bytes(spec, 1, batch);
    for (*tp = 1; *tp <= n_rank; (*tp)++) {
        if (n_rank % *tp != 0 || spec->config->n_seg % *tp != 0)
            continue;
        double weights = host_weight_bytes(spec, *tp);
        if (weights + (spec->kv_memory ? asked : room / 4) <= room)
            return LB_OK;
        if (fits == 0 && weights < room)
            fits = *tp;
        fewest = fewest == 0 || weights < fewest ? weights : fewest;
    }
    *tp = fits;
    if (fits > 0)
        return LB_OK;
    return lb_err_set(
        err, LB_E_DEVICE,
        "the weights need %.1f GiB of this host's memory however its %d ranks share them, %.1f GiB are free",
        fewest / GIB, n_rank, (double)spec->free_bytes / GIB);
}

/* Rows at a time at most, however many pages there are: as many as a step has tokens keep it full. */
static int64_t most_seqs(const struct lb_plan *p)
{
    return p->rows_enough > 0 ? least(p->rows_enough, p->batch_most) : p->batch_most;
}

/* What follows from pages and steps. */
void lb_plan_derive(struct lb_plan *p)
{
    int64_t of_row = lb_kv_pages_of(p->max_model_len);
    p->need.kv = (double)p->kv_pages * (double)p->page_bytes;
    if (p->auto_seqs) {
        int64_t row = lb_kv_pages_of(least((int64_t)p->expect.row_tokens, p->max_model_len));
        int64_t hold = SLACK * p->kv_pages / (row > 0 ? row : 1);
        p->max_seqs = hold < 1 ? 1 : least(hold, most_seqs(p));
        snprintf(p->why_seqs, sizeof p->why_seqs, "%s",
                 p->max_seqs == p->batch_most    ? "as many as a step has tokens"
                 : p->max_seqs == p->rows_enough ? "more would gain nothing"
                                                 : "as many as the KV cache may hold");
    }
    /* shared pages stand in several tables */
    int64_t entries = least(of_row, p->kv_pages) * p->max_seqs, n_seq = least(p->max_seqs, p->batch_most);
    p->limit = (struct lb_step_limits){
        .n_tok = (int32_t)p->batch_most, .n_seq = (int32_t)n_seq, .n_page = (int32_t)least(entries, INT32_MAX)};
    p->score_tokens = (int32_t)least(LB_SCORE_TOKENS, p->batch_most);
    p->draft_tokens = (int32_t)least(LB_DRAFT_TOKENS, p->batch_most);
    p->max_out = (int32_t)least(p->max_seqs + p->score_tokens + p->draft_tokens, p->batch_most);
}

void lb_plan_take_batch(struct lb_plan *p, int64_t batch_tokens)
{
    p->batch_tokens = p->batch_most = batch_tokens;
    lb_plan_derive(p);
}

enum lb_status lb_plan_pages(struct lb_plan *p, size_t page_bytes, struct lb_err *err)
{
    int64_t fit = page_bytes ? p->kv_memory / (int64_t)page_bytes : 0;
    int64_t of_row = lb_kv_pages_of(p->max_model_len), n = p->auto_seqs ? most_seqs(p) : p->max_seqs;
    bool few = p->expect.n_row > 0 && p->expect.n_row < n;
    n = few ? p->expect.n_row : n;
    int64_t most = of_row > INT32_MAX / n ? INT32_MAX : of_row * n;
    if (fit < 1)
        return lb_err_set(err, LB_E_USAGE, "KV memory of %lld bytes holds not one page of %d positions, %zu bytes",
                          (long long)p->kv_memory, LK_PAGE_TOKENS, page_bytes);
    p->kv_pages = fit < most ? fit : most;
    p->page_bytes = page_bytes;
    snprintf(p->why_kv, sizeof p->why_kv, "%s",
             !p->auto_kv  ? "given"
             : fit < most ? "as memory allows"
             : few        ? "as the rows can use"
                          : "as so many rows of full length can use");
    lb_plan_derive(p);
    return LB_OK;
}
