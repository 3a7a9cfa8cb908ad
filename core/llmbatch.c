#define _GNU_SOURCE
#include "core/llmbatch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/backend/backend.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/io/gguf.h"
#include "core/io/journal.h"
#include "core/io/jsonl_read.h"
#include "core/model/config.h"
#include "core/model/decoder.h"
#include "core/resume.h"
#include "core/run/pipeline.h"
#include "core/run/settings.h"
#include "core/run/survey.h"

struct lb_llm {
    struct lb_options o;
    struct lb_gen gen;
    enum lb_dtype dtype;
    double begin;

    const char *const *inputs; /* [n_input] o.inputs, or stdin */
    size_t n_input;
    struct lb_lines *lines; /* NULL with o.prompt */
    bool stream;
    int64_t input_bytes;

    struct lb_gguf gguf;
    struct lb_wfile safetensors;
    bool gguf_open, safetensors_open;
    struct lb_config config;
    bool config_known; /* always, where a model runs */
    struct lb_tok *tok;
    struct lb_chat *chat;
    struct lb_audit audit;
    struct lb_survey survey;
    struct lb_str plan_text;
    struct lb_backend *backend;
    struct lb_model *model;
    struct lb_plan plan;

    struct lb_resume resume;
    struct lb_str input_sizes; /* when the run began */
    struct lb_stats stats;
    bool closed; /* the reader of the output went away */
};

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
                             .dtype = "auto",
                             .batch_tokens = LB_DEFAULT_BATCH_TOKENS,
                             .max_seqs = LB_DEFAULT_MAX_SEQS,
                             .max_errors = -1,
                             .now = {.tm_mday = 1, .tm_year = 70, .tm_wday = 4},
                             .log = {.level = LB_LOG_WARN}};
}

/* No model is needed. */
static bool text_only(const struct lb_llm *llm)
{
    return llm->o.render || llm->o.plan;
}

/* ---- settings ---- */

static enum lb_status read_dtype(const char *name, enum lb_dtype *out, struct lb_err *err)
{
    if (!name || strcmp(name, "auto") == 0 || strcmp(name, "bf16") == 0 || strcmp(name, "bfloat16") == 0)
        *out = LB_BF16;
    else if (strcmp(name, "f32") == 0 || strcmp(name, "float32") == 0)
        *out = LB_F32;
    else
        return lb_err_set(err, LB_E_USAGE, "--dtype must be auto, f32 or bf16, not '%s'", name);
    return LB_OK;
}

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    if (strcmp(a, b) == 0)
        return true;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && S_ISREG(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A stats file must not replace an input or OUT, and its folder must be there when the run ends. */
static enum lb_status check_stats_path(const struct lb_llm *llm, struct lb_err *err)
{
    const char *path = llm->o.stats;
    if (!path)
        return LB_OK;
    for (size_t i = 0; i < llm->n_input; i++)
        if (same_file(path, llm->inputs[i]))
            return lb_err_set(err, LB_E_USAGE, "--stats '%s' is an input", path);
    if (llm->o.output && same_file(path, llm->o.output))
        return lb_err_set(err, LB_E_USAGE, "--stats '%s' is the output", path);
    if (lb_file_is_dir(path))
        return lb_err_set(err, LB_E_USAGE, "--stats '%s' is a directory", path);
    const char *slash = strrchr(path, '/');
    char *folder = slash ? lb_mem_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : lb_mem_strdup(".");
    if (!folder)
        return lb_err_memory(err, "a path", strlen(path));
    enum lb_status status = LB_OK;
    if (access(folder, W_OK) != 0)
        status = lb_err_set(err, LB_E_USAGE, "cannot write --stats '%s': %s", path, strerror(errno));
    lb_mem_free(folder);
    return status;
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
    if (o->render && o->plan)
        return lb_err_set(err, LB_E_USAGE, "--render and --plan exclude each other");
    if (o->threads < 0 || o->threads > INT_MAX)
        return lb_err_set(err, LB_E_USAGE, "--threads must be 0 to %d, not %lld", INT_MAX, (long long)o->threads);
    if (o->system && lb_utf8_valid_prefix(o->system, strlen(o->system)) != strlen(o->system))
        return lb_err_set(err, LB_E_USAGE, "--system is not valid UTF-8");
    LB_TRY(read_dtype(o->dtype, &llm->dtype, err));
    if (lb_gen_check(&o->gen, message, sizeof message) != LB_ROW_OK)
        return lb_err_set(err, LB_E_USAGE, "%s", message);
    LB_TRY(lb_gen_merge(&llm->gen, &o->gen, err));
    if (o->keep_special && !(llm->gen.set & LB_GEN_SKIP_SPECIAL)) {
        llm->gen.set |= LB_GEN_SKIP_SPECIAL;
        llm->gen.skip_special = false;
    }
    return LB_OK;
}

static enum lb_status open_backend(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    struct lb_backend_spec spec = {.device = o->device,
                                   .dtype = llm->dtype,
                                   .isa = llm->resume.isa[0] ? llm->resume.isa : o->isa,
                                   .n_thread = (int)o->threads,
                                   .log = &o->log};
    return text_only(llm) ? LB_OK : lb_backend_open(&llm->backend, &spec, err);
}

static struct lb_journal_spec journal_spec(const struct lb_llm *llm)
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

/* A plain file's size, for the progress; -1: not known. */
static int64_t plain_bytes(const char *path, bool *stream)
{
    static const uint8_t gzip[] = {0x1f, 0x8b}, zstd[] = {0x28, 0xb5, 0x2f, 0xfd};
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : -1;
    struct stat st;
    if ((standard ? fstat(fd, &st) : stat(path, &st)) != 0 || !S_ISREG(st.st_mode)) {
        *stream = true;
        return -1;
    }
    uint8_t head[4] = {0};
    if (!standard)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : pread(fd, head, sizeof head, 0);
    if (!standard && fd >= 0)
        close(fd);
    if (got < 0 || memcmp(head, gzip, sizeof gzip) == 0 || memcmp(head, zstd, sizeof zstd) == 0)
        return -1;
    return (int64_t)st.st_size;
}

static enum lb_status open_inputs(struct lb_llm *llm, struct lb_err *err)
{
    if (llm->o.prompt)
        return LB_OK;
    for (size_t i = 0; i < llm->n_input; i++) {
        int64_t bytes = plain_bytes(llm->inputs[i], &llm->stream);
        llm->input_bytes = bytes < 0 || llm->input_bytes < 0 ? -1 : llm->input_bytes + bytes;
    }
    return lb_lines_open(&llm->lines, llm->inputs, llm->n_input, err);
}

/* ---- model ---- */

/* Opening the tokenizer, which takes as long as packing a gigabyte of weights, goes on beside the weights. */
struct tok_job {
    const char *dir; /* NULL: vocab */
    const struct lb_vocab *vocab;
    struct lb_tok *tok;
    enum lb_status status;
    struct lb_err err;
    pthread_t thread;
    bool started;
};

static void *open_tokenizer(void *arg)
{
    struct tok_job *job = arg;
    job->status = job->dir ? lb_tok_open_dir(&job->tok, job->dir, &job->err)
                           : lb_tok_open_vocab(&job->tok, job->vocab, &job->err);
    return NULL;
}

/* Without a thread to be had it is opened here and now. */
static void tokenizer_begin(struct tok_job *job)
{
    job->started = pthread_create(&job->thread, NULL, open_tokenizer, job) == 0;
    if (!job->started)
        open_tokenizer(job);
}

static enum lb_status tokenizer_end(struct tok_job *job, struct lb_tok **out, struct lb_err *err)
{
    if (job->started)
        pthread_join(job->thread, NULL);
    *out = job->tok;
    return job->status == LB_OK ? LB_OK : lb_err_set(err, job->status, "%s", job->err.text);
}

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

static enum lb_status open_config(struct lb_llm *llm, struct tok_job *job, struct lb_err *err)
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
static enum lb_status open_chat(struct lb_llm *llm, const struct tok_job *job, struct lb_err *err)
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

static const struct lb_wfile *weights_of(const struct lb_llm *llm)
{
    return llm->gguf_open ? &llm->gguf.w : &llm->safetensors;
}

static enum lb_status open_headers(struct lb_llm *llm, struct lb_err *err)
{
    if (llm->gguf_open)
        return LB_OK;
    LB_TRY(lb_safetensors_open(&llm->safetensors, llm->o.model, err));
    llm->safetensors_open = true;
    return LB_OK;
}

static enum lb_status open_weights(struct lb_llm *llm, struct lb_err *err)
{
    const struct lb_options *o = &llm->o;
    const struct lb_wfile *weights = weights_of(llm);
    struct lb_plan_spec want = {.config = &llm->config,
                                .weights = weights,
                                .dtype = llm->dtype,
                                .batch_tokens = o->batch_tokens,
                                .max_seqs = o->max_seqs,
                                .kv_memory = o->kv_memory,
                                .max_model_len = o->max_model_len,
                                .free_bytes = lb_mem_available(),
                                .log = &o->log};
    LB_TRY(lb_plan_make(&llm->plan, &want, err));
    struct lb_model_spec spec = {.config = &llm->config, .weights = weights, .backend = llm->backend, .log = &o->log};
    LB_TRY(lb_model_open(&llm->model, &spec, err));
    LB_TRY(lb_plan_pages(&llm->plan, lb_model_page_bytes(llm->model), err));
    LB_TRY(lb_model_reserve(llm->model, llm->plan.limit, llm->plan.max_out, llm->plan.kv_pages, err));
    lb_model_set_hook(llm->model, o->hook);
    return LB_OK;
}

/* Finds out what is left to do, before the long part of opening a model. */
static enum lb_status settle(struct lb_llm *llm, const struct tok_job *job, struct lb_err *err)
{
    if (llm->o.plan)
        return LB_OK;
    struct lb_fingerprint_spec spec = {.o = &llm->o,
                                       .gen = &llm->gen,
                                       .inputs = llm->inputs,
                                       .n_input = llm->n_input,
                                       .dir = job->dir,
                                       .gguf = llm->gguf_open ? &llm->gguf : NULL};
    if (!text_only(llm)) {
        spec.weights = weights_of(llm);
        spec.device = llm->backend->device;
        spec.dtype = llm->dtype == LB_F32 ? "f32" : "bf16";
        spec.isa = llm->backend->isa;
    }
    LB_TRY(lb_resume_settle(&llm->resume, &spec, err));
    lb_fingerprint_put_inputs(&spec, &llm->input_sizes);
    llm->stats.fingerprint = llm->resume.print.data;
    return LB_OK;
}

/* A tokenizer that fails is what a person hears of, whatever the weights say: which of the two is first in time does
 * not decide. */
static enum lb_status open_model(struct lb_llm *llm, struct lb_err *err)
{
    struct tok_job job = {.err = LB_ERR_INIT};
    struct lb_err of_weights = LB_ERR_INIT;
    LB_TRY(open_config(llm, &job, err));
    LB_TRY(open_headers(llm, err));
    LB_TRY(settle(llm, &job, err));
    if (llm->resume.complete)
        return LB_OK;
    tokenizer_begin(&job);
    enum lb_status status = open_weights(llm, &of_weights);
    LB_TRY(tokenizer_end(&job, &llm->tok, err));
    if (status != LB_OK)
        return lb_err_set(err, status, "%s", of_weights.text);
    LB_TRY(join_tokenizer(llm, err));
    LB_TRY(open_chat(llm, &job, err));
    lb_config_log(&llm->config, &llm->o.log);
    return LB_OK;
}

/* What is needed where no model runs. */
static enum lb_status open_texts(struct lb_llm *llm, struct lb_err *err)
{
    struct tok_job job = {.err = LB_ERR_INIT};
    LB_TRY(open_config(llm, &job, err));
    LB_TRY(settle(llm, &job, err));
    if (llm->resume.complete)
        return LB_OK;
    open_tokenizer(&job);
    LB_TRY(tokenizer_end(&job, &llm->tok, err));
    LB_TRY(join_tokenizer(llm, err));
    struct lb_plan_spec want = {.config = &llm->config, .max_model_len = llm->o.max_model_len, .log = &llm->o.log};
    if (llm->config_known)
        LB_TRY(lb_plan_length(&llm->plan, &want, err));
    else
        llm->plan.max_model_len = llm->o.max_model_len;
    return open_chat(llm, &job, err);
}

static void fill_stats(struct lb_llm *llm)
{
    struct lb_stats *s = &llm->stats;
    static const struct lb_gen_defaults none;
    s->model_path = llm->o.model;
    s->architecture = llm->config_known ? llm->config.architecture : NULL;
    s->no_model = text_only(llm);
    s->audit = llm->o.audit == LB_AUDIT_OFF ? NULL : &llm->audit;
    lb_settings_describe(s, llm->config_known ? &llm->config.gen : &none, &llm->gen);
    if (s->no_model)
        return;
    s->dtype = llm->dtype == LB_F32 ? "f32" : "bf16";
    s->device = llm->backend->device;
    s->isa = llm->backend->isa;
    s->n_thread = llm->backend->n_thread;
    s->n_param = lb_model_size_of(llm->model).n_param;
    s->segments = llm->config.n_seg;
    s->batch_tokens = llm->plan.batch_tokens;
    s->max_seqs = llm->plan.max_seqs;
    s->kv_pages = llm->plan.kv_pages;
    for (int i = 0; i < s->n_setting; i++)
        lb_log_put(&llm->o.log, LB_LOG_INFO, "%s %s (%s)", s->setting[i].name, s->setting[i].value,
                   s->setting[i].origin);
    lb_log_put(&llm->o.log, LB_LOG_INFO, "%s on %s, kernels %s, %d threads; %lld KV pages of %d positions; load %.3g s",
               s->dtype, s->device, s->isa, s->n_thread, (long long)s->kv_pages, LK_PAGE_TOKENS, s->load_s);
}

enum lb_status lb_open(struct lb_llm **out, const struct lb_options *o, struct lb_err *err)
{
    *out = NULL;
    double begin = lb_now();
    struct lb_llm *llm = lb_mem_new(1, sizeof *llm);
    if (!llm)
        return lb_err_memory(err, "the engine", sizeof *llm);
    llm->o = *o;
    llm->begin = begin;
    llm->inputs = o->n_input ? o->inputs : stdin_input;
    llm->n_input = o->n_input ? o->n_input : o->prompt ? 0 : 1;
    lb_audit_init(&llm->audit, o->audit, &llm->o.log);
    struct lb_journal_spec journal = journal_spec(llm);
    enum lb_status status;
    LB_TRY_OUT(status, check_settings(llm, err));
    LB_TRY_OUT(status, check_stats_path(llm, err));
    if (!o->plan)
        LB_TRY_OUT(status, lb_resume_look(&llm->resume, &journal, &llm->o, err));
    LB_TRY_OUT(status, open_backend(llm, err));
    LB_TRY_OUT(status, open_inputs(llm, err));
    double load = lb_now();
    LB_TRY_OUT(status, text_only(llm) ? open_texts(llm, err) : open_model(llm, err));
    llm->stats.load_s = lb_now() - load;
    if (!llm->resume.complete)
        fill_stats(llm);
    *out = llm;
    return LB_OK;
out:
    lb_close(llm);
    return status;
}

void lb_close(struct lb_llm *llm)
{
    if (!llm)
        return;
    lb_lines_close(llm->lines);
    lb_model_free(llm->model);
    if (llm->backend)
        llm->backend->ops->close(llm->backend);
    lb_chat_free(llm->chat);
    lb_tok_free(llm->tok);
    lb_audit_release(&llm->audit);
    lb_survey_release(&llm->survey);
    lb_str_release(&llm->plan_text);
    lb_config_release(&llm->config);
    if (llm->safetensors_open)
        lb_wfile_close(&llm->safetensors);
    if (llm->gguf_open)
        lb_gguf_close(&llm->gguf);
    lb_gen_release(&llm->gen);
    lb_resume_release(&llm->resume);
    lb_str_release(&llm->input_sizes);
    lb_mem_free(llm);
}

/* ---- the run ---- */

/* What is known of a run when its files are closed. */
struct ending {
    struct lb_llm *llm;
    enum lb_status status;
    const char *stats_path; /* NULL: none */
    bool stats_written;
};

static enum lb_status write_stats(void *ctx, struct lb_err *err)
{
    struct ending *e = ctx;
    struct lb_stats *s = &e->llm->stats;
    s->total_s = lb_now() - e->llm->begin;
    s->exit_code = lb_exit_code(e->llm, e->status);
    if (!e->stats_path)
        return LB_OK;
    struct lb_str text = {0};
    lb_stats_put_json(s, e->llm->o.command, &text);
    enum lb_status status = text.failed ? lb_err_memory(err, "the statistics", text.len)
                                        : lb_file_replace(e->stats_path, text.data, text.len, err);
    lb_str_release(&text);
    e->stats_written = status == LB_OK;
    return status;
}

/* Closes the journal and writes the statistics: before OUT is renamed, and whatever happened. A failure on the way
 * changes the exit code that they hold. */
static enum lb_status finish(struct ending *e, struct lb_journal *j, bool complete, struct lb_err *err)
{
    struct lb_err late = LB_ERR_INIT;
    enum lb_status status = j ? lb_journal_finish(j, complete, write_stats, e, &late) : LB_OK;
    if (e->status == LB_OK && status != LB_OK) {
        e->status = lb_err_set(err, status, "%s", late.text);
        e->stats_written = false;
    }
    if (!e->stats_written) {
        struct lb_err again = LB_ERR_INIT;
        status = write_stats(e, &again);
        if (e->status == LB_OK && status != LB_OK)
            e->status = lb_err_set(err, status, "%s", again.text);
    }
    return e->status;
}

static struct lb_fingerprint_spec inputs_of(const struct lb_llm *llm)
{
    return (struct lb_fingerprint_spec){.o = &llm->o, .inputs = llm->inputs, .n_input = llm->n_input};
}

/* OUT is of what was read, whatever becomes of the files meanwhile. */
static void watch_inputs(const struct lb_llm *llm)
{
    struct lb_str now = {0};
    struct lb_fingerprint_spec spec = inputs_of(llm);
    lb_fingerprint_put_inputs(&spec, &now);
    if (!now.failed && !llm->input_sizes.failed && strcmp(now.data, llm->input_sizes.data) != 0)
        lb_log_put(&llm->o.log, LB_LOG_WARN,
                   "the inputs were changed during the run: the output is of the rows as they were read");
    lb_str_release(&now);
}

/* Inputs that can be read twice are compared with the rows that an earlier run finished before anything is done. */
static enum lb_status check_taken(const struct lb_llm *llm, const struct lb_taken *t, struct lb_err *err)
{
    struct lb_lines *lines;
    struct lb_line line = {0};
    if (t->n == 0 || llm->stream || !llm->lines)
        return LB_OK;
    LB_TRY(lb_lines_open(&lines, llm->inputs, llm->n_input, err));
    enum lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < t->n; i++) {
        status = lb_lines_next(lines, &line, err);
        bool same = line.data && (!t->hash[i] || t->hash[i] == lb_taken_hash(lb_hash64(line.data, line.len, 0)));
        if (status == LB_OK && !same)
            status = lb_err_set(err, LB_E_USAGE,
                                "the inputs have changed: row %zu is not the one that '%s.partial' holds; discard its "
                                "rows with --restart, or choose another output",
                                i, llm->resume.found.path);
    }
    lb_lines_close(lines);
    return status;
}

static enum lb_status open_journal(struct lb_llm *llm, struct lb_journal **out, struct lb_err *err)
{
    struct lb_journal_spec spec = journal_spec(llm);
    struct lb_fingerprint_spec inputs = inputs_of(llm);
    LB_TRY(lb_resume_begin(&llm->resume, &inputs, err));
    LB_TRY(lb_journal_open(out, &spec, llm->resume.print.data, err));
    enum lb_status status = check_taken(llm, lb_journal_taken(*out), err);
    if (status != LB_OK) {
        struct lb_err later = LB_ERR_INIT;
        (void)lb_journal_finish(*out, false, NULL, NULL, &later); /* what the run failed of is said */
    }
    return status;
}

static struct lb_run_spec run_spec(struct lb_llm *llm, struct lb_journal *j)
{
    static const enum lb_tok_add add[] = {
        [LB_BOS_AUTO] = LB_TOK_AUTO, [LB_BOS_YES] = LB_TOK_BOS, [LB_BOS_NO] = LB_TOK_PLAIN};
    const struct lb_options *o = &llm->o;
    return (struct lb_run_spec){
        .mode = o->plan     ? LB_RUN_SURVEY
                : o->render ? LB_RUN_RENDER
                            : LB_RUN_MODEL,
        .config = llm->config_known ? &llm->config : NULL,
        .plan = &llm->plan,
        .model = llm->model,
        .backend = llm->backend,
        .tok = llm->tok,
        .prompter = {.tok = llm->tok, .chat = llm->chat, .add = add[o->add_bos]},
        .audit = &llm->audit,
        .survey = &llm->survey,
        .lines = llm->lines,
        .prompt = o->prompt,
        .rows = {.input_key = o->input_key,
                 .format = o->format,
                 .chat = o->chat,
                 .system = o->system,
                 .keep = o->keep,
                 .n_keep = o->n_keep,
                 .keep_all = o->keep_all},
        .stream = llm->stream,
        .input_bytes = llm->input_bytes,
        .gen = &llm->gen,
        .token_ids = o->token_ids,
        .timing = o->timing,
        .created = o->created,
        .journal = j,
        .log = &o->log,
        .progress = o->progress,
        .progress_ctx = o->progress_ctx,
        .stop = o->stop,
        .deadline = o->time_limit_s ? llm->begin + (double)o->time_limit_s : 0,
        .max_errors = o->max_errors,
    };
}

static enum lb_status make_plan_text(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_survey_view view = {.model = llm->o.model,
                                  .config = llm->config_known ? &llm->config : NULL,
                                  .tok = llm->tok,
                                  .chat = llm->chat,
                                  .audit = &llm->audit,
                                  .stats = &llm->stats,
                                  .max_model_len = llm->plan.max_model_len};
    lb_survey_put(&llm->survey, &view, &llm->plan_text);
    return llm->plan_text.failed ? lb_err_memory(err, "the plan", llm->plan_text.len) : LB_OK;
}

enum lb_status lb_run(struct lb_llm *llm, struct lb_err *err)
{
    struct lb_journal *j = NULL;
    if (llm->resume.complete)
        return LB_OK;
    if (!llm->o.plan)
        LB_TRY(open_journal(llm, &j, err));
    struct lb_str path = {0};
    if (llm->o.stats)
        lb_str_puts(&path, llm->o.stats);
    else if (j && lb_journal_regular(j))
        lb_str_putf(&path, "%s.stats.json", lb_journal_path(j));
    struct lb_run_spec spec = run_spec(llm, j);
    struct lb_run_end end = {0};
    enum lb_status status =
        path.failed ? lb_err_memory(err, "a path", path.len) : lb_run_rows(&spec, &llm->stats, &end, err);
    llm->closed = end.closed;
    if (end.complete && !llm->o.plan)
        watch_inputs(llm);
    if (end.complete && llm->stats.rows == 0)
        lb_log_put(&llm->o.log, LB_LOG_WARN, "the input holds no rows");
    if (status == LB_OK && llm->o.plan)
        status = make_plan_text(llm, err);
    struct ending e = {.llm = llm, .status = status, .stats_path = path.failed ? NULL : path.data};
    status = finish(&e, j, end.complete, err);
    lb_str_release(&path);
    return status;
}

int lb_exit_code(const struct lb_llm *llm, enum lb_status status)
{
    if (status != LB_OK || !llm)
        return (int)status;
    if (llm->resume.complete)
        return (int)llm->resume.done.exit_code;
    return llm->stats.error > 0 && !llm->closed ? 1 : 0;
}

const char *lb_complete_output(const struct lb_llm *llm)
{
    return llm->resume.complete ? llm->resume.found.path : NULL;
}

const struct lb_stats *lb_stats_of(const struct lb_llm *llm)
{
    return &llm->stats;
}

const char *lb_plan_text(const struct lb_llm *llm)
{
    return llm->plan_text.data ? llm->plan_text.data : "";
}
