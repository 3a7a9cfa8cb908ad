#define _GNU_SOURCE
#include "core/fingerprint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/io/facts.h"

#define LONG_TEXT 80 /* bytes; of longer texts the hash stands in the fingerprint */

static void put_name(struct lb_str *out, const char *name)
{
    lb_str_putf(out, "%s\"%s\":", out->data[out->len - 1] == '{' ? "" : ",", name);
}

static void put_int(struct lb_str *out, const char *name, int64_t value)
{
    put_name(out, name);
    lb_str_putf(out, "%" PRId64, value);
}

/* Exact, whatever prints it. */
static void put_real(struct lb_str *out, const char *name, double value)
{
    put_name(out, name);
    lb_str_putf(out, "%.17g", value);
}

static void put_flag(struct lb_str *out, const char *name, bool value)
{
    if (!value)
        return;
    put_name(out, name);
    lb_str_puts(out, "true");
}

static void put_hash(struct lb_str *out, const char *name, uint64_t hash)
{
    put_name(out, name);
    lb_str_putf(out, "\"%016" PRIx64 "\"", hash);
}

static void put_value(struct lb_str *out, const char *text)
{
    size_t n = strlen(text);
    if (n > LONG_TEXT || lb_utf8_valid_prefix(text, n) < n)
        lb_str_putf(out, "\"%zu bytes, %016" PRIx64 "\"", n, lb_hash64(text, n, 0));
    else
        lb_str_put_json(out, text, n);
}

static void put_text(struct lb_str *out, const char *name, const char *text)
{
    if (!text)
        return;
    put_name(out, name);
    put_value(out, text);
}

static void put_texts(struct lb_str *out, const char *name, char *const *text, size_t n)
{
    put_name(out, name);
    lb_str_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        lb_str_puts(out, i ? "," : "");
        put_value(out, text[i]);
    }
    lb_str_putc(out, ']');
}

/* ---- files ---- */

/* Adds a file's content under a name to a sum, where there is such a file: the order of files does not matter. */
static enum lb_status add_file(uint64_t *sum, bool *found, const char *path, const char *name, struct lb_err *err)
{
    struct lb_map m;
    if (!lb_file_exists(path))
        return LB_OK;
    LB_TRY(lb_map_open(&m, path, err));
    *sum += lb_hash64(m.data, m.size_bytes, lb_hash64(name, strlen(name), 0));
    *found = true;
    lb_map_close(&m);
    return LB_OK;
}

static enum lb_status add_in_dir(uint64_t *sum, bool *found, const char *dir, const char *name, struct lb_err *err)
{
    char *path = lb_path_join(dir, name);
    if (!path)
        return lb_err_memory(err, name, strlen(dir));
    enum lb_status status = add_file(sum, found, path, name, err);
    lb_mem_free(path);
    return status;
}

static enum lb_status put_files(struct lb_str *out, const char *as, const char *dir, const char *const *names,
                                struct lb_err *err)
{
    uint64_t sum = 0;
    bool found = false;
    for (; *names; names++)
        LB_TRY(add_in_dir(&sum, &found, dir, *names, err));
    if (found)
        put_hash(out, as, sum);
    return LB_OK;
}

/* The headers of weight files: what lies before the first tensor's data, and the sizes. */
static uint64_t hash_weights(const struct lb_wfile *w)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < w->n_map; i++) {
        const uint8_t *begin = w->map[i].data;
        size_t size = w->map[i].size_bytes, head = size;
        for (size_t k = 0; k < w->n_tensor; k++) {
            uintptr_t at = (uintptr_t)w->tensor[k].data - (uintptr_t)begin; /* wraps for tensors of files before */
            head = at < head ? at : head;
        }
        uint64_t size64 = size;
        hash = lb_hash64(&size64, sizeof size64, lb_hash64(begin, head, hash));
    }
    return hash;
}

/* Adapters: names in the order of the command line, configuration and weights of each. Files of weights are read whole:
 * versions of one adapter differ in nothing else. */
static enum lb_status put_adapters(const struct lb_fingerprint_spec *spec, struct lb_str *out, struct lb_err *err)
{
    bool reads = spec->lora && spec->lora->n > 0;
    if (spec->adapters->n == 0)
        return LB_OK;
    put_name(out, "adapters");
    for (int32_t i = 0; i < spec->adapters->n; i++) {
        uint64_t sum = 0;
        bool found = false;
        if (reads) {
            const struct lb_wfile *w = &spec->lora->adapter[i].file;
            LB_TRY(add_in_dir(&sum, &found, spec->adapters->item[i].dir, "adapter_config.json", err));
            for (size_t k = 0; k < w->n_map; k++)
                sum = lb_hash64(w->map[k].data, w->map[k].size_bytes, sum);
        }
        lb_str_puts(out, i ? "," : "[");
        lb_str_puts(out, "{\"name\":");
        put_value(out, spec->adapters->item[i].name);
        put_hash(out, "files", sum);
        lb_str_putc(out, '}');
    }
    lb_str_putc(out, ']');
    return LB_OK;
}

static enum lb_status put_model(const struct lb_fingerprint_spec *spec, struct lb_str *out, struct lb_err *err)
{
    static const char *const config[] = {"config.json", "quantize_config.json", NULL};
    static const char *const generation[] = {"generation_config.json", NULL};
    static const char *const tokenizer[] = {
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",  "special_tokens_map.json",
        "merges.txt",     "vocab.txt",       "added_tokens.json",     "tekken.json", NULL};
    static const char *const templates[] = {"chat_template.jinja", "additional_chat_templates/tool_use.jinja", NULL};
    uint64_t sum = 0;
    bool found;
    if (spec->device) {
        put_text(out, "device", spec->device);
        put_text(out, "dtype", spec->dtype);
        put_text(out, "quantization", spec->quantization);
        put_text(out, "isa", spec->isa);
        if (spec->arch)
            put_text(out, "arch", spec->arch);
        if (spec->build)
            put_text(out, "build", spec->build);
        if (spec->ring_ranks > 1) { /* of whom how many add up is in the bits, and --tp 0 is chosen by the memory */
            put_int(out, "nccl_ring_tp", spec->o->tp);
            put_int(out, "nccl_ring_ranks", spec->ring_ranks);
        }
    }
    if (spec->weights)
        put_hash(out, "weights", hash_weights(spec->weights));
    else if (spec->gguf)
        put_hash(out, "weights", hash_weights(&spec->gguf->w));
    LB_TRY(put_adapters(spec, out, err));
    if (spec->dir) {
        LB_TRY(put_files(out, "config", spec->dir, config, err));
        LB_TRY(put_files(out, "generation_config", spec->dir, generation, err));
        LB_TRY(put_files(out, "tokenizer", spec->dir, tokenizer, err));
        if (!spec->o->chat_template)
            LB_TRY(put_files(out, "chat_template", spec->dir, templates, err));
    }
    if (spec->o->chat_template) {
        LB_TRY(add_file(&sum, &found, spec->o->chat_template, "", err));
        put_hash(out, "chat_template", sum);
    }
    return LB_OK;
}

void lb_fingerprint_put_inputs(const struct lb_fingerprint_spec *spec, struct lb_str *out)
{
    struct stat st;
    lb_str_putc(out, '[');
    for (size_t i = 0; i < spec->n_input; i++) {
        lb_str_puts(out, i ? "," : "");
        if (strcmp(spec->inputs[i], "-") != 0 && stat(spec->inputs[i], &st) == 0 && S_ISREG(st.st_mode))
            lb_str_putf(out, "%lld", (long long)st.st_size);
        else
            lb_str_puts(out, "\"stream\"");
    }
    lb_str_putc(out, ']');
}

/* ---- options ---- */

static void put_options(const struct lb_options *o, struct lb_str *out)
{
    static const char *const bos[] = {[LB_BOS_AUTO] = "auto", [LB_BOS_YES] = "yes", [LB_BOS_NO] = "no"};
    static const char *const formats[] = {
        [LB_FORMAT_AUTO] = "auto", [LB_FORMAT_NATIVE] = "native", [LB_FORMAT_OPENAI] = "openai"};
    put_flag(out, "render", o->render);
    if (o->n_shard > 1) {
        put_name(out, "shard");
        lb_str_putf(out, "\"%" PRId64 "/%" PRId64 "\"", o->shard_index, o->n_shard);
    }
    put_flag(out, "chat", o->chat);
    put_text(out, "system", o->system);
    put_text(out, "chat_template_kwargs", o->chat_template_kwargs);
    put_text(out, "input_key", o->input_key ? o->input_key : "prompt");
    put_text(out, "add_bos", bos[o->add_bos]);
    put_text(out, "overflow", lb_overflow_name(o->overflow));
    put_text(out, "format", formats[o->format]);
    if (o->max_model_len)
        put_int(out, "max_model_len", o->max_model_len);
    if (o->keep_all)
        put_text(out, "keep", "all");
    else if (o->n_keep)
        put_texts(out, "keep", o->keep, o->n_keep);
    put_flag(out, "keep_special", o->keep_special);
    put_flag(out, "timing", o->timing);
    put_flag(out, "token_ids", o->token_ids);
    put_int(out, "created", o->created);
    put_name(out, "clock");
    lb_str_putf(out, "\"%04d-%02d-%02d %02d:%02d:%02d\"", o->now.tm_year + 1900, o->now.tm_mon + 1, o->now.tm_mday,
                o->now.tm_hour, o->now.tm_min, o->now.tm_sec);
}

static void put_gen(const struct lb_gen *g, struct lb_str *out)
{
    const struct {
        uint32_t bit;
        const char *name;
        int64_t value;
    } whole[] = {
        {LB_GEN_MAX_TOKENS, "max_tokens", g->max_tokens},
        {LB_GEN_MIN_TOKENS, "min_tokens", g->min_tokens},
        {LB_GEN_TOP_K, "top_k", g->top_k},
        {LB_GEN_SEED, "seed", g->seed},
        {LB_GEN_LOGPROBS, "logprobs", g->logprobs},
        {LB_GEN_PROMPT_LOGPROBS, "prompt_logprobs", g->prompt_logprobs},
        {LB_GEN_N, "n", g->n},
        {LB_GEN_IGNORE_EOS, "ignore_eos", g->ignore_eos},
        {LB_GEN_INCLUDE_STOP, "include_stop", g->include_stop},
    };
    const struct {
        uint32_t bit;
        const char *name;
        double value;
    } real[] = {
        {LB_GEN_TEMPERATURE, "temperature", g->temperature},
        {LB_GEN_TOP_P, "top_p", g->top_p},
        {LB_GEN_MIN_P, "min_p", g->min_p},
        {LB_GEN_REPETITION, "repetition_penalty", g->repetition},
        {LB_GEN_PRESENCE, "presence_penalty", g->presence},
        {LB_GEN_FREQUENCY, "frequency_penalty", g->frequency},
    };
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (g->set & whole[i].bit)
            put_int(out, whole[i].name, whole[i].value);
    for (size_t i = 0; i < sizeof real / sizeof *real; i++)
        if (g->set & real[i].bit)
            put_real(out, real[i].name, real[i].value);
    if (g->n_stop)
        put_texts(out, "stop", g->stop, g->n_stop);
    if (!g->n_stop_ids)
        return;
    put_name(out, "stop_token_ids");
    for (size_t i = 0; i < g->n_stop_ids; i++)
        lb_str_putf(out, "%c%d", i ? ',' : '[', g->stop_ids[i]);
    lb_str_putc(out, ']');
}

enum lb_status lb_fingerprint_make(const struct lb_fingerprint_spec *spec, struct lb_str *out, struct lb_err *err)
{
    lb_str_puts(out, "{\"version\":\"" LB_VERSION "\"");
    if (out->failed)
        return lb_err_memory(err, "the fingerprint", 64);
    put_text(out, "prompt", spec->o->prompt);
    put_name(out, "inputs");
    lb_fingerprint_put_inputs(spec, out);
    LB_TRY(put_model(spec, out, err));
    put_options(spec->o, out);
    put_gen(spec->gen, out);
    lb_str_putc(out, '}');
    return out->failed ? lb_err_memory(err, "the fingerprint", out->len) : LB_OK;
}

bool lb_fingerprint_clock(const char *fingerprint, struct tm *now)
{
    char text[32];
    struct tm t = {0};
    int end = 0;
    if (!lb_facts_text(fingerprint, "clock", text, sizeof text) ||
        sscanf(text, "%d-%d-%d %d:%d:%d%n", &t.tm_year, &t.tm_mon, &t.tm_mday, &t.tm_hour, &t.tm_min, &t.tm_sec,
               &end) != 6 ||
        text[end])
        return false;
    t.tm_year -= 1900;
    t.tm_mon--;
    struct tm same = t; /* with the day of the week and of the year; a time that is none moves */
    if (timegm(&same) == (time_t)-1 || same.tm_mday != t.tm_mday || same.tm_hour != t.tm_hour ||
        same.tm_min != t.tm_min)
        return false;
    *now = same;
    return true;
}
