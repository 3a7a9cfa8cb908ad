#include "core/run/plan.h"

#include "core/model/kv.h"

#define MAX_BATCH_TOKENS (1 << 20)
#define MAX_SEQS (1 << 20)
#define GIB 1073741824.0

static size_t elem_bytes(enum lb_dtype dtype)
{
    return dtype == LB_F32 ? 4 : 2;
}

size_t lb_plan_page_bytes(const struct lb_config *c, enum lb_dtype dtype)
{
    int64_t kv = c->n_layer * c->n_kv_head * (c->head_dim + c->v_dim);
    return (size_t)((kv + lb_config_index_layers(c) * c->index.head_dim) * LK_PAGE_TOKENS) * elem_bytes(dtype);
}

/* Layers behind the model's own (multi-token prediction) are never read. */
static double weight_bytes(const struct lb_config *c, const struct lb_wfile *w, enum lb_dtype dtype)
{
    double sum = 0;
    for (size_t i = 0; i < w->n_tensor; i++) {
        double n = 1;
        if (lb_family_layer_of(c->family, c->gguf, w->tensor[i].name) >= c->n_layer)
            continue;
        for (int d = 0; d < w->tensor[i].n_dim; d++)
            n *= (double)w->tensor[i].dim[d];
        sum += n;
    }
    return sum * (double)elem_bytes(dtype);
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

    double weights = weight_bytes(spec->config, spec->weights, spec->dtype), room = (double)spec->free_bytes;
    double experts = lb_plan_moe_bytes(spec->config, p->batch_tokens);
    if (weights <= room && weights + experts > room)
        return lb_err_set(
            err, LB_E_DEVICE,
            "weights of %.1f GiB and %.1f GiB for the experts' rows of %lld tokens need more than the %.1f GiB "
            "that are free: fewer --batch-tokens need less",
            weights / GIB, experts / GIB, (long long)p->batch_tokens, room / GIB);
    if (weights > room)
        return lb_err_set(err, LB_E_DEVICE, "the weights need %.1f GiB of memory, %.1f GiB are free", weights / GIB,
                          room / GIB);
    room -= experts;
    double cache = room / 4 < room - weights ? room / 4 : room - weights;
    p->kv_memory = spec->kv_memory ? spec->kv_memory : (int64_t)cache;
    if (spec->kv_memory && (double)spec->kv_memory > room - weights)
        return lb_err_set(err, LB_E_DEVICE,
                          "--kv-memory of %.1f GiB and weights of %.1f GiB need more than the %.1f GiB that are free",
                          (double)spec->kv_memory / GIB, weights / GIB, room / GIB);
    return lb_plan_pages(p, lb_plan_page_bytes(spec->config, spec->dtype), err);
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
    p->max_out = (int32_t)n_seq;
    return LB_OK;
}
