#define _GNU_SOURCE
#include "core/llmbatch.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/backend/backend_cuda_open.h"
#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/dist/nccl.h"
#include "core/llm.h"
#include "core/opening.h"
#include "core/other.h"
#include "core/outlook.h"
#include "core/run/probe.h"
#include "core/run/settings.h"

static const char *const stdin_input[] = {"-"};

const char *lb_version(void)
{
    return LB_VERSION;
}

const char *lb_isa_list(void)
{
    return lb_backend_isa_list();
}

void lb_options_init(struct lb_options *o)
{
    *o = (struct lb_options){.device = "cpu",
                             .n_shard = 1,
                             .dtype = "auto",
                             .kv_dtype = "auto",
                             .max_errors = -1,
                             .now = {.tm_mday = 1, .tm_year = 70, .tm_wday = 4},
                             .log = {.level = LB_LOG_WARN}};
}

/* ---- settings ---- */

static enum lb_status read_dtype(const char *option, const char *name, enum lb_dtype *out, struct lb_err *err)
{
    if (!name || strcmp(name, "auto") == 0 || strcmp(name, "bf16") == 0 || strcmp(name, "bfloat16") == 0)
        *out = LB_BF16;
    else if (strcmp(name, "f32") == 0 || strcmp(name, "float32") == 0)
        *out = LB_F32;
    else
        return lb_err_set(err, LB_E_USAGE, "--%s must be auto, f32 or bf16, not '%s'", option, name);
    return LB_OK;
}

static enum lb_status read_quantize(struct lb_llm *llm, struct lb_err *err)
{
    const char *name = llm->o.quantize ? llm->o.quantize : "none";
    llm->w4a8 = strcmp(name, "w4a8") == 0;
    llm->int8 = llm->w4a8 || strcmp(name, "int8") == 0;
    if (!llm->int8 && strcmp(name, "none") != 0)
        return lb_err_set(err, LB_E_USAGE, "--quantize must be none, int8 or w4a8, not '%s'", name);
    return LB_OK;
}

/* For records; NULL: nothing is quantized. */
static const char *quantization_of(const struct lb_llm *llm)
{
    return llm->w4a8 ? "w4a8" : llm->int8 ? "int8" : NULL;
}

/* The cache has the type of the weights. */
static enum lb_status check_kv_dtype(const struct lb_llm *llm, struct lb_err *err)
{
    const char *name = llm->o.kv_dtype;
    enum lb_dtype kv;
    if (!name || strcmp(name, "auto") == 0)
        return LB_OK;
    LB_TRY(read_dtype("kv-dtype", name, &kv, err));
    if (kv == llm->dtype)
        return LB_OK;
    if (llm->dtype == LB_F32)
        return lb_err_set(err, LB_E_USAGE,
                          "--kv-dtype bf16 and --dtype f32 exclude each other: f32 keeps everything "
                          "in float32, the cache too");
    return lb_err_set(err, LB_E_USAGE,
                      "a cache in float32 beside weights in bfloat16 is not built in: --kv-dtype auto "
                      "and bf16 work, and --dtype f32 has both in float32");
}

/* What speaks of weights has no meaning where there are none. */
static enum lb_status check_device(const struct lb_options *o, struct lb_err *err)
{
    if (!lb_makes_up(o))
        return LB_OK;
    if (o->tp > 1)
        return lb_err_set(err, LB_E_USAGE, "--tp %lld divides weights, and the null device has none", (long long)o->tp);
    if (o->isa)
        return lb_err_set(err, LB_E_USAGE, "--isa chooses kernels, and the null device has none");
    return LB_OK;
}

static enum lb_status check_settings(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    char message[256];
    if (!o->model)
        return lb_err_set(err, LB_E_USAGE, "no model is named (-m MODEL)");
    if (o->prompt && o->n_input)
        return lb_err_set(err, LB_E_USAGE, "a prompt and input files cannot be given together");
    if (o->restart && o->retry_errors)
        return lb_err_set(err, LB_E_USAGE, "--restart and --retry-errors exclude each other");
    if (o->n_shard < 1 || o->shard_index < 0 || o->shard_index >= o->n_shard)
        return lb_err_set(err, LB_E_USAGE, "there is no shard %lld of %lld", (long long)o->shard_index,
                          (long long)o->n_shard);
    if (o->prompt && o->n_shard > 1)
        return lb_err_set(err, LB_E_USAGE, "--shard divides input rows, and --prompt is one row");
    if (o->render && o->plan)
        return lb_err_set(err, LB_E_USAGE, "--render and --plan exclude each other");
    if ((o->render || o->plan) && (o->report || o->trace))
        return lb_err_set(err, LB_E_USAGE, "%s runs no model, so that there is nothing for %s to tell",
                          o->plan ? "--plan" : "--render", o->report ? "--report" : "--trace");
    if (o->threads < 0 || o->threads > INT_MAX)
        return lb_err_set(err, LB_E_USAGE, "--threads must be 0 to %d, not %lld", INT_MAX, (long long)o->threads);
    if (o->system && lb_utf8_valid_prefix(o->system, strlen(o->system)) != strlen(o->system))
        return lb_err_set(err, LB_E_USAGE, "--system is not valid UTF-8");
    LB_TRY(check_device(o, err));
    LB_TRY(read_dtype("dtype", o->dtype, &llm->dtype, err));
    LB_TRY(check_kv_dtype(llm, err));
    LB_TRY(read_quantize(llm, err));
    if (lb_gen_check(&o->gen, message, sizeof message) != LB_ROW_OK)
        return lb_err_set(err, LB_E_USAGE, "%s", message);
    LB_TRY(lb_gen_merge(&llm->gen, &o->gen, err));
    LB_TRY(lb_adapters_init(&llm->adapters, o->lora, o->n_lora, err));
    if (o->keep_special && !(llm->gen.set & LB_GEN_SKIP_SPECIAL)) {
        llm->gen.set |= LB_GEN_SKIP_SPECIAL;
        llm->gen.skip_special = false;
    }
    return LB_OK;
}

/* What rank 0 has found out holds for all: the clock of templates, and what an earlier run was done with. */
static enum lb_status share_settings(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_ranks *r = &llm->ranks;
    if (r->size == 1)
        return LB_OK;
    LB_TRY(lb_ranks_compare_options(r, &llm->o, err));
    LB_TRY(lb_ranks_same(r, &llm->o.now, sizeof llm->o.now, err));
    LB_TRY(lb_ranks_same(r, llm->resume.isa, sizeof llm->resume.isa, err));
    LB_TRY(lb_world_cpus(r->world, &llm->ranks.cpus, err));
    if (llm->ranks.cpus.why[0])
        lb_log_put(&llm->o.log, LB_LOG_INFO, "%s", llm->ranks.cpus.why);
    return LB_OK;
}

static enum lb_status open_backend_as(struct lb_llm *llm, const char *isa, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    struct lb_backend_spec spec = {.device = o->device,
                                   .dtype = llm->dtype,
                                   .int8 = llm->int8,
                                   .w4a8 = llm->w4a8,
                                   .isa = isa,
                                   .n_thread = o->threads ? (int)o->threads : llm->ranks.cpus.n_thread,
                                   .local_rank = llm->ranks.world->host_rank,
                                   .lt_weights = o->lt_weights,
                                   .cuda_library = o->cuda_library,
                                   .unpack = o->unpack,
                                   .no_ahead = o->no_ahead,
                                   .screens = o->screens,
                                   .graphs = o->graphs,
                                   .log = &o->log};
    return lb_backend_open(&llm->backend, &spec, err);
}

/* Ranks whose processors differ are opened again with what all of them have. */
static enum lb_status open_backend(struct lb_llm *llm, struct lb_err *err)
{
    const char *isa = llm->resume.isa[0] ? llm->resume.isa : llm->o.isa;
    char common[sizeof llm->resume.isa];
    if (lb_text_only(llm))
        return LB_OK;
    LB_TRY(lb_llm_agree(llm, open_backend_as(llm, isa, err), err));
    LB_TRY(lb_ranks_isa(&llm->ranks, isa, &llm->o.log, common, sizeof common, err));
    if (!common[0])
        return LB_OK;
    llm->backend->ops->close(llm->backend);
    llm->backend = NULL;
    return lb_llm_agree(llm, open_backend_as(llm, common, err), err);
}

struct lb_journal_spec lb_llm_journal(const struct lb_llm *llm)
{
    const struct lb_options *o = &llm->o;
    return (struct lb_journal_spec){.path = o->output,
                                    .overwrite = o->overwrite || llm->resume.replace,
                                    .restart = o->restart,
                                    .retry_errors = o->retry_errors,
                                    .completion_order = o->order == LB_ORDER_COMPLETION,
                                    .inputs = llm->inputs,
                                    .n_input = llm->n_input,
                                    .log = &o->log};
}

/* ---- inputs ---- */

static enum lb_status open_inputs(struct lb_llm *llm, struct lb_err *err)
{
    if (llm->o.prompt) {
        llm->expect = lb_expect_of_prompt(llm->o.prompt, &llm->gen);
        return LB_OK;
    }
    for (size_t i = 0; i < llm->n_input; i++) {
        int64_t bytes = lb_plain_bytes(llm->inputs[i], &llm->stream);
        llm->input_bytes = bytes < 0 || llm->input_bytes < 0 ? -1 : llm->input_bytes + bytes;
    }
    llm->expect = lb_expect_of_inputs(llm->inputs, llm->n_input, llm->input_bytes, &llm->gen);
    return lb_lines_open(&llm->lines, llm->inputs, llm->n_input, err);
}

/* ---- model ---- */

/* --render goes without a configuration: lengths and ids are then not checked. */
static enum lb_status read_config(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_log *log = &llm->o.log;
    struct lb_err why = LB_ERR_INIT;
    enum lb_status status = llm->gguf_open ? lb_config_read_gguf(&llm->config, &llm->gguf, log, &why)
                                           : lb_config_read_dir(&llm->config, llm->o.model, log, &why);
    llm->config_known = status == LB_OK;
    if (status == LB_OK || (status == LB_E_INPUT && llm->o.render)) {
        if (status != LB_OK)
            lb_log_put(log, LB_LOG_INFO, "lengths and token ids are not checked: %s", why.text);
        return LB_OK;
    }
    return lb_err_set(err, status, "%s", why.text);
}

static enum lb_status open_config(struct lb_llm *llm, struct lb_tok_job *job, struct lb_err *err)
{
    const char *path = llm->o.model;
    struct stat st;
    if (stat(path, &st) != 0)
        return lb_err_set(err, LB_E_INPUT, "cannot open model '%s': %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        job->dir = path;
    } else {
        LB_TRY(lb_gguf_open(&llm->gguf, path, err));
        llm->gguf_open = true;
        job->vocab = &llm->gguf.vocab;
    }
    return read_config(llm, err);
}

/* End tokens that only the tokenizer knows join those of the configuration. */
static enum lb_status join_tokenizer(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_log *log = &llm->o.log;
    const char *origin = llm->gguf_open ? "gguf" : "tokenizer", *missing = lb_tok_missing(llm->tok);
    int64_t more[4], eos = lb_tok_eos(llm->tok);
    int n = lb_tok_more_eos(llm->tok, more);
    if (eos >= 0 && llm->config_known)
        lb_config_add_eos(&llm->config, eos, origin, log);
    for (int i = 0; i < n && llm->config_known; i++)
        lb_config_add_eos(&llm->config, more[i], origin, log);
    if (missing)
        lb_log_put(log, LB_LOG_WARN,
                   "the model's tokenizer (%s) is not built in: rows of token ids run, without \"text\"", missing);
    else if (llm->o.add_bos == LB_BOS_YES && lb_tok_bos(llm->tok) < 0)
        return lb_err_set(err, LB_E_USAGE, "--add-bos yes: the model's tokenizer has no BOS token");
    if (missing && llm->gen.n_stop)
        return lb_err_set(err, LB_E_USAGE, "--stop needs the model's tokenizer (%s), which is not built in", missing);
    return LB_OK;
}

/* The chat template, and what the audit finds between it, the tokenizer and the configuration. */
static enum lb_status open_chat(struct lb_llm *llm, const struct lb_tok_job *job, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    struct lb_chat_spec spec = {.file = o->chat_template,
                                .dir = job->dir,
                                .v = job->vocab,
                                .tok = llm->tok,
                                .kwargs = o->chat_template_kwargs,
                                .now = o->now};
    LB_TRY(lb_chat_open(&llm->chat, &spec, err));
    struct lb_audit_spec audit = {
        .tok = llm->tok, .chat = llm->chat, .config = llm->config_known ? &llm->config : NULL};
    return lb_audit_model(&llm->audit, &audit, err);
}

/* NULL: the device makes its logits up. */
static const struct lb_wfile *weights_of(const struct lb_llm *llm)
{
    if (lb_makes_up(&llm->o))
        return NULL;
    return llm->gguf_open ? &llm->gguf.w : &llm->safetensors;
}

/* A device that makes its logits up has no use for adapters. */
static enum lb_status open_headers(struct lb_llm *llm, struct lb_err *err)
{
    if (!lb_makes_up(&llm->o))
        LB_TRY(lb_lora_open(&llm->lora, llm->adapters.item, llm->adapters.n, &llm->config, err));
    if (llm->gguf_open || lb_makes_up(&llm->o))
        return LB_OK;
    LB_TRY(lb_pack_open(&llm->safetensors, llm->o.model, &llm->config.pack, err));
    llm->safetensors_open = true;
    return LB_OK;
}

struct lb_plan_spec lb_llm_plan_spec(const struct lb_llm *llm)
{
    const struct lb_options *o = &llm->o;
    const struct lb_backend *be = llm->backend;
    bool device = be && be->memory.total_bytes > 0;
    return (struct lb_plan_spec){.config = &llm->config,
                                 .weights = weights_of(llm),
                                 .lora = &llm->lora,
                                 .dtype = llm->dtype,
                                 .unpack = o->unpack || device,
                                 .int8 = llm->int8,
                                 .w4a8 = be && be->w4a8,
                                 .batch_tokens = o->batch_tokens,
                                 .max_seqs = o->max_seqs,
                                 .rows_enough = be ? be->rows_enough : 0,
                                 .kv_memory = o->kv_memory,
                                 .max_model_len = o->max_model_len,
                                 .free_bytes = device ? be->memory.free_bytes : lb_mem_available(),
                                 .device = device,
                                 .tp = llm->ranks.tp,
                                 .host_ranks = device ? 1 : llm->ranks.world->host_size,
                                 .expect = llm->expect,
                                 .log = &o->log};
}

/* A group whose partial results lie in its devices adds them up there. */
static enum lb_status open_nccl(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_backend *be = llm->backend;
    const struct lb_cuda_library *library;
    struct lb_comm *comm;
    if (!be->stream || llm->ranks.comm->size == 1)
        return LB_OK;
    LB_TRY(lb_cuda_library_open(&library, llm->o.cuda_library, err));
    struct lb_nccl_spec spec = {llm->ranks.comm, be->stream, llm->o.nccl_ring, &be->memory.free_bytes};
    LB_TRY(library->comm_open(&comm, &spec, err));
    llm->ranks.comm = comm;
    be->alive = library->comm_alive;
    be->alive_ctx = comm;
    return LB_OK;
}

static enum lb_status open_weights(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    struct lb_plan_spec want = lb_llm_plan_spec(llm);
    LB_TRY(lb_llm_agree(llm, lb_plan_make(&llm->plan, &want, err), err));
    LB_TRY(lb_ranks_least(&llm->ranks, &llm->plan.batch_most, err));
    LB_TRY(lb_ranks_least(&llm->ranks, &llm->plan.batch_tokens, err));
    struct lb_model_spec spec = {.config = &llm->config,
                                 .weights = weights_of(llm),
                                 .backend = llm->backend,
                                 .log = &o->log,
                                 .comm = llm->ranks.comm,
                                 .lora = &llm->lora,
                                 .world = llm->ranks.world};
    LB_TRY(lb_llm_agree(llm, lb_model_open(&llm->model, &spec, err), err));
    LB_TRY(lb_llm_agree(llm, lb_plan_pages(&llm->plan, lb_model_page_bytes(llm->model), err), err));
    if (o->crowd_pages > 0 && o->crowd_pages < llm->plan.kv_pages)
        llm->plan.kv_pages = o->crowd_pages;
    /* a row that fits must fit wherever it is dealt to */
    LB_TRY(lb_ranks_least(&llm->ranks, &llm->plan.kv_pages, err));
    lb_plan_derive(&llm->plan);
    enum lb_status status = lb_model_reserve(llm->model, llm->plan.limit, llm->plan.max_out, llm->plan.kv_pages, err);
    LB_TRY(lb_llm_agree(llm, status, err));
    struct lb_probe probe = {llm->model, llm->backend, llm->ranks.comm, &llm->config, &llm->plan};
    if (!lb_makes_up(o))
        LB_TRY(lb_llm_agree(llm, lb_probe_choose_batch(&probe, llm->ranks.world, &llm->plan, err), err));
    lb_model_set_hook(llm->model, o->hook);
    return LB_OK;
}

static struct lb_fingerprint_spec fingerprint_spec(const struct lb_llm *llm, const struct lb_tok_job *job)
{
    struct lb_fingerprint_spec spec = {.o = &llm->o,
                                       .gen = &llm->gen,
                                       .inputs = llm->inputs,
                                       .n_input = llm->n_input,
                                       .dir = job->dir,
                                       .adapters = &llm->adapters,
                                       .gguf = llm->gguf_open ? &llm->gguf : NULL};
    if (!lb_text_only(llm)) {
        spec.weights = weights_of(llm);
        spec.lora = &llm->lora;
        spec.device = llm->backend->device;
        spec.dtype = llm->dtype == LB_F32 ? "f32" : "bf16";
        spec.quantization = quantization_of(llm);
        spec.isa = llm->backend->isa;
        spec.arch = llm->backend->arch;
        spec.build = llm->backend->build;
        spec.device_ranks = llm->backend->stream ? llm->ranks.size : 0;
    }
    return spec;
}

/* Finds out what is left to do, before the long part of opening a model. */
static enum lb_status settle(struct lb_llm *llm, const struct lb_tok_job *job, struct lb_err *err)
{
    if (llm->o.plan)
        return LB_OK;
    struct lb_fingerprint_spec spec = fingerprint_spec(llm, job);
    LB_TRY(lb_resume_settle(&llm->resume, &spec, err));
    lb_fingerprint_put_inputs(&spec, &llm->input_sizes);
    llm->stats.fingerprint = llm->resume.print.data;
    return LB_OK;
}

/* Every rank must have the files that rank 0 has. */
static enum lb_status compare_models(struct lb_llm *llm, const struct lb_tok_job *job, struct lb_err *err)
{
    /* what rank 0 alone reads, and what it tells the others */
    static const char *const ignored[] = {"inputs", "prompt", "chat_template", "created", "clock", NULL};
    struct lb_str print = {0};
    enum lb_status status = LB_OK;
    if (llm->ranks.size == 1)
        return LB_OK;
    if (!lb_is_first(llm)) {
        struct lb_fingerprint_spec spec = fingerprint_spec(llm, job);
        status = lb_fingerprint_make(&spec, &print, err);
    }
    LB_TRY(lb_ranks_same(&llm->ranks, &llm->resume.complete, sizeof llm->resume.complete, err));
    status = lb_llm_agree(llm, status, err);
    if (status == LB_OK)
        status = lb_ranks_compare(&llm->ranks, "settings or model files",
                                  lb_is_first(llm) ? llm->resume.print.data : print.data, ignored, err);
    lb_str_release(&print);
    return status;
}

static enum lb_status open_files(struct lb_llm *llm, struct lb_tok_job *job, struct lb_err *err)
{
    LB_TRY(open_config(llm, job, err));
    LB_TRY(open_headers(llm, err));
    return lb_is_first(llm) ? settle(llm, job, err) : LB_OK;
}

/* Nothing reads a GGUF file's metadata any more: its lists, and its pages, leave memory. */
static void forget_vocab(struct lb_llm *llm)
{
    if (llm->gguf_open) {
        lb_gguf_drop_vocab(&llm->gguf);
        lb_wfile_forget(&llm->gguf.w, llm->gguf.w.map[0].data, llm->gguf.w.map[0].size_bytes);
    }
    lb_mem_trim();
}

/* A tokenizer that fails is what a person hears of, whatever the weights say: which of the two is first in time does
 * not decide. */
static enum lb_status open_parts(struct lb_llm *llm, struct lb_tok_job *job, struct lb_err *err)
{
    struct lb_err of_weights = LB_ERR_INIT;
    bool leads = lb_ranks_leads(&llm->ranks);
    if (leads)
        lb_tok_job_begin(job);
    enum lb_status status = open_weights(llm, &of_weights), of_tok = LB_OK;
    if (leads)
        of_tok = lb_tok_job_end(job, &llm->tok, err);
    if (status != LB_OK) /* which all know */
        return of_tok != LB_OK ? of_tok : lb_err_set(err, status, "%s", of_weights.text);
    LB_TRY(lb_llm_agree(llm, of_tok, err));
    if (leads)
        LB_TRY(join_tokenizer(llm, err));
    if (lb_is_first(llm))
        LB_TRY(open_chat(llm, job, err));
    forget_vocab(llm);
    return LB_OK;
}

static enum lb_status open_model(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_tok_job job = {.err = LB_ERR_INIT};
    LB_TRY(lb_llm_agree(llm, open_files(llm, &job, err), err));
    LB_TRY(compare_models(llm, &job, err));
    if (llm->resume.complete)
        return LB_OK;
    struct lb_plan_spec want = lb_llm_plan_spec(llm);
    LB_TRY(lb_ranks_form(&llm->ranks, (int)llm->o.tp, &want, err));
    LB_TRY(lb_llm_agree(llm, open_nccl(llm, err), err));
    LB_TRY(lb_llm_agree(llm, open_parts(llm, &job, err), err));
    lb_config_log(&llm->config, &llm->o.log);
    return LB_OK;
}

/* What is needed where no model runs. */
static enum lb_status open_texts(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_tok_job job = {.err = LB_ERR_INIT};
    LB_TRY(open_config(llm, &job, err));
    LB_TRY(settle(llm, &job, err));
    if (llm->resume.complete)
        return LB_OK;
    lb_tok_job_begin(&job);
    LB_TRY(lb_tok_job_end(&job, &llm->tok, err));
    LB_TRY(join_tokenizer(llm, err));
    struct lb_plan_spec want = {.config = &llm->config, .max_model_len = llm->o.max_model_len, .log = &llm->o.log};
    if (llm->config_known)
        LB_TRY(lb_plan_length(&llm->plan, &want, err));
    else
        llm->plan.max_model_len = llm->o.max_model_len;
    if (llm->o.plan)
        LB_TRY(lb_outlook_open(llm, err));
    return open_chat(llm, &job, err);
}

/* What was chosen, and why. */
static void fill_chosen(struct lb_llm *llm)
{
    const struct lb_plan *p = &llm->plan;
    struct lb_stats *s = &llm->stats;
    const struct lb_log *log = &llm->o.log;
    s->batch_tokens = p->batch_tokens;
    s->max_seqs = p->max_seqs;
    s->kv_pages = p->kv_pages;
    if (p->auto_batch) {
        s->why_batch = p->why_batch;
        lb_log_put(log, LB_LOG_INFO, "batch-tokens %lld: %s", (long long)p->batch_tokens, p->why_batch);
    }
    if (p->auto_seqs) {
        s->why_seqs = p->why_seqs;
        lb_log_put(log, LB_LOG_INFO, "max-seqs %lld: %s", (long long)p->max_seqs, p->why_seqs);
    }
    if (p->auto_kv) {
        s->why_kv = p->why_kv;
        lb_log_put(log, LB_LOG_INFO, "kv-memory %.0f MiB: %s", p->need.kv / 1048576, p->why_kv);
    }
}

static void log_adapters(const struct lb_llm *llm)
{
    for (int32_t i = 0; i < llm->lora.n; i++) {
        const struct lb_lora *l = &llm->lora.adapter[i];
        lb_log_put(&llm->o.log, LB_LOG_INFO, "adapter %s%s%s: %zu modules, rank up to %lld", l->name,
                   *l->name ? " = " : "", l->dir, l->n_module, (long long)l->max_rank);
    }
}

static void fill_stats(struct lb_llm *llm)
{
    struct lb_stats *s = &llm->stats;
    s->verifies = llm->o.verify > 0 && !lb_text_only(llm);
    static const struct lb_gen_defaults none;
    s->model_path = llm->o.model;
    s->architecture = llm->config_known ? llm->config.architecture : NULL;
    s->no_model = lb_text_only(llm);
    s->audit = llm->o.audit == LB_AUDIT_OFF ? NULL : &llm->audit;
    lb_settings_describe(s, llm->config_known ? &llm->config.gen : &none, &llm->gen);
    if (s->no_model)
        return;
    s->dtype = llm->dtype == LB_F32 ? "f32" : "bf16";
    s->quantization = quantization_of(llm);
    s->device = llm->backend->device;
    s->isa = llm->backend->isa ? llm->backend->isa : llm->backend->arch;
    s->n_thread = llm->backend->n_thread;
    s->adapters = &llm->adapters;
    s->n_param = lb_model_size_of(llm->model).n_param;
    s->segments = llm->config.n_seg;
    fill_chosen(llm);
    log_adapters(llm);
    s->tp = llm->ranks.tp;
    s->dp = llm->ranks.dp;
    for (int i = 0; i < s->n_setting; i++)
        lb_log_put(&llm->o.log, LB_LOG_INFO, "%s %s (%s)", s->setting[i].name, s->setting[i].value,
                   s->setting[i].origin);
    lb_log_put(&llm->o.log, LB_LOG_INFO, "%s on %s, kernels %s, %d threads; %lld KV pages of %d positions; load %.3g s",
               s->dtype, s->device, s->isa ? s->isa : "none", s->n_thread, (long long)s->kv_pages, LK_PAGE_TOKENS,
               s->load_s);
}

/* The files beside OUT: `stats` is where the statistics go, whether they were asked for or not. */
static enum lb_status check_sides(const struct lb_llm *llm, const char *stats, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    const struct lb_side_file side[] = {{"--stats", stats}, {"--report", o->report}, {"--trace", o->trace}};
    return lb_check_side_files(side, sizeof side / sizeof *side, o->output, llm->inputs, llm->n_input, err);
}

/* Options, and the files around the run: nothing is touched. */
static enum lb_status check_first(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    struct lb_str stats = {0};
    LB_TRY(check_settings(llm, err));
    if (!lb_is_first(llm))
        return LB_OK;
    LB_TRY(check_sides(llm, o->stats, err));
    struct lb_journal_spec journal = lb_llm_journal(llm);
    if (o->plan)
        return LB_OK;
    LB_TRY(lb_resume_look(&llm->resume, &journal, &llm->o, err));
    if (o->stats || !llm->resume.found.path)
        return LB_OK;
    lb_str_putf(&stats, "%s.stats.json", llm->resume.found.path);
    enum lb_status status = stats.failed ? lb_err_memory(err, "a path", stats.len) : check_sides(llm, stats.data, err);
    lb_str_release(&stats);
    return status;
}

static enum lb_status open_all(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    llm->inputs = o->n_input ? o->inputs : stdin_input;
    llm->n_input = o->n_input ? o->n_input : o->prompt ? 0 : 1;
    lb_audit_init(&llm->audit, o->audit, &llm->o.log);
    LB_TRY(lb_llm_agree(llm, check_first(llm, err), err));
    LB_TRY(share_settings(llm, err));
    LB_TRY(open_backend(llm, err));
    LB_TRY(lb_llm_agree(llm, lb_is_first(llm) ? open_inputs(llm, err) : LB_OK, err));
    llm->expect.work_tokens /= (double)o->n_shard;
    LB_TRY(lb_ranks_same(&llm->ranks, &llm->expect, sizeof llm->expect, err));
    double load = lb_now();
    if (!lb_text_only(llm))
        LB_TRY(open_model(llm, err));
    else
        LB_TRY(lb_llm_agree(llm, lb_is_first(llm) ? open_texts(llm, err) : LB_OK, err));
    llm->stats.load_s = lb_now() - load;
    if (!llm->resume.complete && (lb_is_first(llm) || !lb_text_only(llm)))
        fill_stats(llm);
    return LB_OK;
}

enum lb_status lb_open(struct lb_llm **out, const struct lb_options *o, struct lb_err *err)
{
    double begin = lb_now();
    struct lb_err before = LB_ERR_INIT;
    (void)lb_mem_blame(LB_OK, "", &before); /* what this thread failed to get earlier was somebody else's */
    *out = NULL;
    lb_json_use_memory();
    struct lb_llm *llm = lb_mem_new(1, sizeof *llm);
    if (!llm)
        return lb_err_memory(err, "the engine", sizeof *llm);
    llm->o = *o;
    llm->begin = begin;
    enum lb_status status = lb_ranks_init(&llm->ranks, o->world, err);
    if (status == LB_OK)
        status = lb_llm_agree(llm, lb_mem_blame(open_all(llm, err), "opening the model", err), err);
    if (status == LB_OK)
        *out = llm;
    else
        lb_close(llm);
    return status;
}

void lb_close(struct lb_llm *llm)
{
    if (!llm)
        return;
    lb_lines_close(llm->lines);
    lb_other_close(llm);
    lb_model_free(llm->model);
    lb_ranks_part(&llm->ranks); /* its work is on the backend's stream */
    if (llm->backend)
        llm->backend->ops->close(llm->backend);
    lb_chat_free(llm->chat);
    lb_tok_free(llm->tok);
    lb_audit_release(&llm->audit);
    lb_survey_release(&llm->survey);
    lb_str_release(&llm->plan_text);
    lb_str_release(&llm->plan_json);
    lb_config_release(&llm->config);
    lb_lora_close(&llm->lora);
    lb_adapters_release(&llm->adapters);
    if (llm->safetensors_open)
        lb_wfile_close(&llm->safetensors);
    if (llm->gguf_open)
        lb_gguf_close(&llm->gguf);
    lb_gen_release(&llm->gen);
    lb_resume_release(&llm->resume);
    lb_str_release(&llm->input_sizes);
    lb_ranks_release(&llm->ranks);
    lb_mem_free(llm->rank_stats);
    lb_mem_free(llm->watch);
    if (llm->timeline)
        lb_timeline_release(llm->timeline);
    lb_mem_free(llm->timeline);
    struct lb_err late = LB_ERR_INIT;
    (void)lb_trace_finish(llm->trace, false, &late);
    lb_mem_free(llm);
}
