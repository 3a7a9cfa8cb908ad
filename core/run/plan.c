#include "core/run/plan.h"

#include "core/dist/shard.h"
#include "core/model/kv.h"

#define MAX_BATCH_TOKENS (1 << 20)
#define MAX_SEQS (1 << 20)
#define GIB 1073741824.0

static size_t elem_bytes(enum lb_dtype dtype)
{
    return dtype == LB_F32 ? 4 : 2;
}

/* KV heads on a rank: some are on more than one where query heads of a KV head are. */
static int64_t kv_heads(const struct lb_config *c, int tp)
{
    const struct lb_shard_shape shape = {c->n_seg, c->n_head, c->n_kv_head, 0};
    struct lb_slice slice;
    struct lb_err err = LB_ERR_INIT;
    if (tp <= 1 || lb_slice_init(&slice, &shape, 0, tp, &err) != LB_OK)
        return c->n_kv_head;
    return slice.n_kv_head;
}

size_t lb_plan_page_bytes(const struct lb_config *c, enum lb_dtype dtype, int tp)
{
    int64_t kv = c->n_layer * kv_heads(c, tp) * (c->head_dim + c->v_dim);
    return (size_t)((kv + lb_config_index_layers(c) * c->index.head_dim) * LK_PAGE_TOKENS) * elem_bytes(dtype);
}

/* What every rank holds whole in a layer: latents, routers, what an indexer needs. */
static double replicated(const struct lb_config *c, int64_t il)
{
    const struct lb_mla *m = &c->mla;
    const struct lb_index *x = &c->index;
    double dim = (double)c->dim, n = 0;
    if (m->kv_rank > 0)
        n += dim * (double)(m->q_rank + m->kv_rank + m->rope_dim);
    if (x->topk > 0 && !c->layer[il].index_shared)
        n += (double)(m->q_rank * x->n_head * x->head_dim) + dim * (double)(x->head_dim + x->n_head);
    return c->layer[il].moe ? n + dim * (double)c->moe.n_expert : n;
}

/* Layers behind the model's own (multi-token prediction) are never read. */
double lb_plan_weight_bytes(const struct lb_plan_spec *spec, int tp)
{
    const struct lb_wfile *w = spec->weights;
    const struct lb_config *c = spec->config;
    double sum = 0, whole = 0, kv = 0;
    for (size_t i = 0; i < w->n_tensor; i++) {
        double n = 1;
        if (lb_family_layer_of(c->family, c->gguf, w->tensor[i].name) >= c->n_layer)
            continue;
        for (int d = 0; d < w->tensor[i].n_dim; d++)
            n *= (double)w->tensor[i].dim[d];
        sum += n;
    }
    if (tp > 1) {
        for (int64_t il = 0; il < c->n_layer; il++)
            whole += replicated(c, il);
        if (c->mla.kv_rank == 0)
            kv = (double)(c->n_layer * 2 * c->head_dim) * (double)c->dim;
        double cut = sum - whole - kv * (double)c->n_kv_head;
        sum = (cut > 0 ? cut / tp : 0) + whole + kv * (double)kv_heads(c, tp);
    }
    return sum * (double)elem_bytes(spec->dtype);
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
    return (ranks_of(spec) < n_copy ? ranks_of(spec) : n_copy) * lb_plan_weight_bytes(spec, tp);
}

double lb_plan_moe_bytes(const struct lb_config *c, int64_t n_tok)
{
    const struct lb_moe_shape *m = &c->moe;
    if (m->n_expert == 0)
        return 0;
    /* of each choice its input, what is gated, its output; the router's input and logits; the shared expert's segments
     */
    double choice = 2 * (double)c->dim + (double)m->ffn_dim, shared = (double)c->n_seg * (double)c->dim;
    double token = (double)m->n_used * choice + (double)c->dim + (double)m->n_expert + (double)m->shared_dim + shared;
    return (double)n_tok * token * sizeof(float);
}

static int32_t score_tokens(int64_t batch_tokens)
{
    return (int32_t)(batch_tokens < LB_SCORE_TOKENS ? batch_tokens : LB_SCORE_TOKENS);
}

/* A row asks for its next token, and rows that are scored for tokens of their prompts. */
static int32_t max_out(int64_t batch_tokens, int64_t max_seqs)
{
    int64_t n = max_seqs + score_tokens(batch_tokens);
    return (int32_t)(n < batch_tokens ? n : batch_tokens);
}

double lb_plan_logit_bytes(const struct lb_config *c, int64_t batch_tokens, int64_t max_seqs)
{
    return (double)max_out(batch_tokens, max_seqs) * (double)c->n_vocab * sizeof(float);
}

/* What depends on the length of a step, on one rank. */
static double step_bytes(const struct lb_plan_spec *spec)
{
    int64_t batch = spec->batch_tokens ? spec->batch_tokens : LB_DEFAULT_BATCH_TOKENS;
    int64_t seqs = spec->max_seqs ? spec->max_seqs : LB_DEFAULT_MAX_SEQS;
    return lb_plan_moe_bytes(spec->config, batch) + lb_plan_logit_bytes(spec->config, batch, seqs);
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

enum lb_status lb_plan_make(struct lb_plan *p, const struct lb_plan_spec *spec, struct lb_err *err)
{
    *p = (struct lb_plan){.batch_tokens = spec->batch_tokens ? spec->batch_tokens : LB_DEFAULT_BATCH_TOKENS,
                          .max_seqs = spec->max_seqs ? spec->max_seqs : LB_DEFAULT_MAX_SEQS};
    if (p->batch_tokens < 1 || p->batch_tokens > MAX_BATCH_TOKENS)
        return lb_err_set(err, LB_E_USAGE, "--batch-tokens must be 1 to %d, not %lld", MAX_BATCH_TOKENS,
                          (long long)p->batch_tokens);
    if (p->max_seqs < 1 || p->max_seqs > MAX_SEQS)
        return lb_err_set(err, LB_E_USAGE, "--max-seqs must be 1 to %d, not %lld", MAX_SEQS, (long long)p->max_seqs);
    if (spec->kv_memory < 0 || spec->max_model_len < 0)
        return lb_err_set(err, LB_E_USAGE, "--kv-memory and --max-model-len must not be negative");
    LB_TRY(lb_plan_length(p, spec, err));

    int tp = spec->tp > 1 ? spec->tp : 1;
    double weights = host_weight_bytes(spec, tp), room = (double)spec->free_bytes, n_rank = ranks_of(spec);
    double step = n_rank * step_bytes(spec);
    if (weights <= room && weights + step > room)
        return lb_err_set(
            err, LB_E_DEVICE,
            "weights of %.1f GiB and %.1f GiB for the logits and the experts' rows of %lld tokens need more than the "
            "%.1f GiB that are free: fewer --batch-tokens need less",
            weights / GIB, step / GIB, (long long)p->batch_tokens, room / GIB);
    if (weights > room)
        return lb_err_set(err, LB_E_DEVICE, "the weights need %.1f GiB of memory, %.1f GiB are free", weights / GIB,
                          room / GIB);
    room -= step;
    double cache = room / 4 < room - weights ? room / 4 : room - weights;
    p->kv_memory = spec->kv_memory ? spec->kv_memory : (int64_t)(cache / n_rank);
    if (spec->kv_memory && n_rank * (double)spec->kv_memory > room - weights)
        return lb_err_set(err, LB_E_DEVICE,
                          "--kv-memory of %.1f GiB%s and weights of %.1f GiB need more than the %.1f GiB that are free",
                          (double)spec->kv_memory / GIB, n_rank > 1 ? " for each rank of the host" : "", weights / GIB,
                          room / GIB);
    return lb_plan_pages(p, lb_plan_page_bytes(spec->config, spec->dtype, tp), err);
}

enum lb_status lb_plan_tp(const struct lb_plan_spec *spec, int n_rank, int *tp, struct lb_err *err)
{
    double room = (double)spec->free_bytes, least = 0, asked = ranks_of(spec) * (double)spec->kv_memory;
    int fits = 0;
    room -= ranks_of(spec) * step_bytes(spec);
    for (*tp = 1; *tp <= n_rank; (*tp)++) {
        if (n_rank % *tp != 0 || spec->config->n_seg % *tp != 0)
            continue;
        double weights = host_weight_bytes(spec, *tp);
        if (weights + (spec->kv_memory ? asked : room / 4) <= room)
            return LB_OK;
        if (fits == 0 && weights < room)
            fits = *tp;
        least = least == 0 || weights < least ? weights : least;
    }
    *tp = fits;
    if (fits > 0)
        return LB_OK;
    return lb_err_set(
        err, LB_E_DEVICE,
        "the weights need %.1f GiB of this host's memory however its %d ranks share them, %.1f GiB are free",
        least / GIB, n_rank, (double)spec->free_bytes / GIB);
}

enum lb_status lb_plan_pages(struct lb_plan *p, size_t page_bytes, struct lb_err *err)
{
    int64_t fit = page_bytes ? p->kv_memory / (int64_t)page_bytes : 0;
    int64_t of_row = lb_kv_pages_of(p->max_model_len);
    int64_t most = of_row > INT32_MAX / p->max_seqs ? INT32_MAX : of_row * p->max_seqs;
    if (fit < 1)
        return lb_err_set(err, LB_E_USAGE, "KV memory of %lld bytes holds not one page of %d positions, %zu bytes",
                          (long long)p->kv_memory, LK_PAGE_TOKENS, page_bytes);
    p->kv_pages = fit < most ? fit : most;
    /* shared pages stand in several tables */
    int64_t entries = (of_row < p->kv_pages ? of_row : p->kv_pages) * p->max_seqs;
    int64_t n_seq = p->max_seqs < p->batch_tokens ? p->max_seqs : p->batch_tokens;
    p->limit = (struct lb_step_limits){.n_tok = (int32_t)p->batch_tokens,
                                       .n_seq = (int32_t)n_seq,
                                       .n_page = (int32_t)(entries < INT32_MAX ? entries : INT32_MAX)};
    p->score_tokens = score_tokens(p->batch_tokens);
    p->max_out = max_out(p->batch_tokens, p->max_seqs);
    return LB_OK;
}
