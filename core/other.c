#include "core/other.h"

#include "core/base/mem.h"
#include "core/model/kv.h"

static enum lb_status check_memory(const struct lb_llm *llm, struct lb_err *err)
{
    struct lb_plan_spec plan = lb_llm_plan_spec(llm);
    plan.device = false;
    double need = lb_plan_weight_bytes(&plan, 1), room = (double)lb_mem_available();
    if (need < 0.9 * room)
        return LB_OK;
    return lb_err_set(err, LB_E_DEVICE, "the weights need %.1f GiB of the host's memory, %.1f GiB are free",
                      need / 1073741824.0, room / 1073741824.0);
}

enum lb_status lb_other_open(void *ctx, struct lb_step_limits limit, struct lb_model **out, struct lb_err *err)
{
    struct lb_llm *llm = ctx;
    const struct lb_options *o = &llm->o;
    if (llm->ranks.size > 1)
        return lb_err_set(err, LB_E_DEVICE, "this is for a run of one rank");
    LB_TRY(check_memory(llm, err));
    struct lb_backend_spec be = {.device = "cpu",
                                 .dtype = llm->dtype,
                                 .n_thread = o->threads ? (int)o->threads : llm->ranks.cpus.n_thread,
                                 .unpack = true};
    LB_TRY(lb_backend_open(&llm->other_backend, &be, err));
    struct lb_model_spec spec = {.config = &llm->config,
                                 .weights = llm->gguf_open ? &llm->gguf.w : &llm->safetensors,
                                 .backend = llm->other_backend};
    LB_TRY(lb_model_open(&llm->other_model, &spec, err));
    *out = llm->other_model;
    return lb_model_reserve(llm->other_model, limit, limit.n_tok, limit.n_page, err);
}

void lb_other_close(struct lb_llm *llm)
{
    lb_model_free(llm->other_model);
    if (llm->other_backend)
        llm->other_backend->ops->close(llm->other_backend);
    llm->other_model = NULL;
    llm->other_backend = NULL;
}
