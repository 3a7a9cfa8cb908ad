#include "core/outlook.h"

#include <string.h>

#include "core/run/forecast.h"

enum lb_status lb_outlook_open(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    struct lb_backend_spec spec = {.device = o->device,
                                   .dtype = llm->dtype,
                                   .int8 = llm->int8,
                                   .w4a8 = llm->w4a8,
                                   .unpack = o->unpack,
                                   .isa = o->isa,
                                   .n_thread = o->threads ? (int)o->threads : llm->ranks.cpus.n_thread,
                                   .local_rank = llm->ranks.world->host_rank,
                                   .cuda_library = o->cuda_library,
                                   .log = &o->log};
    struct lb_err why = LB_ERR_INIT;
    LB_TRY(lb_backend_open(&llm->backend, &spec, err));
    if (!lb_makes_up(&llm->o))
        LB_TRY(lb_lora_open(&llm->lora, llm->adapters.item, llm->adapters.n, &llm->config, err));
    if (llm->gguf_open || lb_makes_up(&llm->o))
        return LB_OK;
    llm->safetensors_open = lb_pack_open(&llm->safetensors, o->model, &llm->config.pack, &why) == LB_OK;
    if (!llm->safetensors_open)
        lb_log_put(&o->log, LB_LOG_WARN, "memory and time are not told without the weights' files: %s", why.text);
    return LB_OK;
}

/* Rows as they were read take the place of what was guessed. */
static struct lb_expect expect_of(const struct lb_survey *s)
{
    double n = (double)s->lengths.n;
    struct lb_expect e = {.n_row = (int64_t)s->lengths.n};
    for (size_t i = 0; i < s->lengths.n; i++)
        e.work_tokens += (double)s->lengths.row[i].n_prompt + (double)s->lengths.row[i].n_new;
    e.row_tokens = n > 0 ? e.work_tokens / n : 0;
    return e;
}

static struct lb_plan_spec spec_of(const struct lb_llm *llm)
{
    static const struct lb_log silent = {0};
    struct lb_plan_spec spec = lb_llm_plan_spec(llm);
    int tp = (int)llm->o.tp;
    spec.tp = tp > 0 && llm->config.n_seg % tp == 0 ? tp : 1;
    spec.expect = expect_of(&llm->survey);
    spec.log = &silent;
    return spec;
}

enum lb_status lb_outlook_make(struct lb_llm *llm, struct lb_str *text, struct lb_err *err)
{
    struct lb_plan plan;
    struct lb_forecast f;
    if (!llm->gguf_open && !llm->safetensors_open && !lb_makes_up(&llm->o))
        return LB_OK;
    struct lb_plan_spec want = spec_of(llm);
    struct lb_err why = LB_ERR_INIT;
    enum lb_status status = lb_plan_make(&plan, &want, &why);
    if (status == LB_OK)
        status = lb_plan_pages(&plan, lb_plan_device_page_bytes(&llm->config, llm->backend, (int)want.tp), &why);
    if (status != LB_OK) {
        lb_str_putf(text, "memory      does not fit: %s\n", why.text);
        return lb_err_set(err, status, "%s", why.text);
    }
    bool at_once = (int64_t)llm->survey.lengths.n <= plan.max_seqs; /* as a run orders (order.h) */
    LB_TRY(lb_sim_order(&llm->survey.lengths, at_once && llm->o.time_limit_s <= 0, err));
    if (llm->ranks.size > 1) /* the others do not measure with this one */
        lb_plan_take_batch(&plan, plan.batch_tokens);
    struct lb_forecast_spec spec = {.config = &llm->config,
                                    .header = want.weights,
                                    .backend = llm->backend,
                                    .world = llm->ranks.world,
                                    .rows = &llm->survey.lengths,
                                    .shares = !llm->o.no_prefix_cache,
                                    .layer_bytes = lb_plan_layer_bytes(&want),
                                    .log = &llm->o.log};
    LB_TRY(lb_forecast_make(&f, &spec, &plan, err));
    lb_str_putf(text, "engine      %s, %s, %s, threads %d\n", llm->backend->device,
                llm->backend->isa ? llm->backend->isa : "no kernels", llm->dtype == LB_F32 ? "f32" : "bf16",
                llm->backend->n_thread);
    lb_forecast_put(&f, &plan, &want, text);
    lb_forecast_put_json(&f, &plan, &llm->plan_json);
    llm->stats.plan = llm->plan_json.data;
    return text->failed || llm->plan_json.failed ? lb_err_memory(err, "the plan", text->len) : LB_OK;
}
