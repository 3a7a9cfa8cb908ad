#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/run/adapter.h"
#include "core/run/adjust.h"
#include "core/run/fold.h"
#include "core/run/order.h"
#include "core/run/overflow.h"
#include "core/run/run.h"
#include "core/run/settings.h"
#include "core/run/stop.h"

#define NICE 10

void lb_run_be_nice(void)
{
    int before = getpriority(PRIO_PROCESS, 0);
    int after = before + NICE < 19 ? before + NICE : 19;
    if (setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), after) != 0)
        return; /* slower beside other work, not wrong */
}

/* ---- tokenizer: text -> token ids, checks ---- */

struct encoder {
    struct lb_run *r;
    struct lb_prompt_ctx *ctx;
};

/* The row's prompt as token ids, in w->prompt; its text in w->echo, where it is written. */
static enum lb_status encode(struct encoder *e, struct lb_work *w, struct lb_err *err)
{
    const struct lb_run_spec *spec = e->r->spec;
    struct lb_row *row = &w->row;
    struct lb_prompt made;
    LB_TRY(lb_prompt_make(e->ctx, row, &made, err));
    if (row->code != LB_ROW_OK)
        return LB_OK;
    LB_TRY(lb_audit_prompt(spec->audit, &spec->prompter, row->index, &made, err));
    if (made.text && (row->echo || spec->mode != LB_RUN_MODEL)) {
        w->echo = lb_mem_new(made.n_text + 1, 1); /* may hold zero bytes */
        if (!w->echo)
            return lb_err_memory(err, "a prompt", made.n_text);
        memcpy(w->echo, made.text, made.n_text);
        w->n_echo = made.n_text;
    }
    w->n_prompt = (int64_t)made.n;
    w->n_begin = (int64_t)made.n_begin;
    if (row->form == LB_FORM_IDS) {
        w->prompt = row->ids;
        row->ids = NULL;
        row->n_ids = 0;
        return LB_OK;
    }
    w->prompt = lb_mem_new(made.n, sizeof *w->prompt);
    if (!w->prompt)
        return lb_err_memory(err, "token ids", made.n * sizeof *w->prompt);
    if (made.n)
        memcpy(w->prompt, made.id, made.n * sizeof *w->prompt);
    lb_row_drop_prompt(row);
    return LB_OK;
}

/* Makes a prompt and its new tokens fit. The text of a prompt that was cut is what its ids write. */
static void check_length(const struct lb_run_spec *spec, struct lb_work *w)
{
    if (spec->plan->max_model_len == 0) /* not known */
        return;
    lb_overflow_fit(w, spec->overflow, spec->plan->max_model_len);
    if (w->n_cut == 0 || spec->overflow == LB_OVERFLOW_SHORTEN)
        return;
    lb_mem_free(w->echo);
    w->echo = NULL;
    w->n_echo = 0;
}

/* What can only be known with the model at hand, of one prompt. */
static void check_prompt(const struct lb_run_spec *spec, struct lb_work *w)
{
    struct lb_row *row = &w->lead->row;
    for (int64_t i = 0; spec->config && i < w->n_prompt; i++) {
        if (w->prompt[i] < 0 || w->prompt[i] >= spec->config->n_vocab) {
            lb_row_fail(row, LB_ROW_BAD_TOKEN, "token id %d at place %lld is outside the vocabulary of %lld",
                        w->prompt[i], (long long)i, (long long)spec->config->n_vocab);
            return;
        }
    }
    if (w->n_prompt == 0) {
        lb_row_fail(row, LB_ROW_EMPTY_PROMPT, "the prompt has no tokens");
        return;
    }
    check_length(spec, w);
    if (row->code != LB_ROW_OK || spec->mode != LB_RUN_MODEL)
        return;
    int64_t pages = lb_sched_peak_pages(w->n_prompt, w->set.max_tokens);
    if (pages > spec->plan->kv_pages)
        lb_row_fail(row, LB_ROW_NO_MEMORY,
                    "%lld prompt tokens and %lld new ones need %lld pages of KV memory, there are %lld (--kv-memory%s)",
                    (long long)w->n_prompt, (long long)w->set.max_tokens, (long long)pages,
                    (long long)spec->plan->kv_pages, w->set.max_given ? "" : "; --max-tokens limits new tokens");
}

/* Settings that speak of the model's tokens. */
static void check_ids(const struct lb_config *config, struct lb_work *w)
{
    const struct lb_settings *set = &w->set;
    for (size_t i = 0; i < set->penalty.n_bias; i++) {
        int32_t id = set->penalty.bias[i].id;
        if (id < 0 || id >= config->n_vocab) {
            lb_row_fail(&w->row, LB_ROW_BAD_TOKEN, "logit_bias: token id %d is outside the vocabulary of %lld", id,
                        (long long)config->n_vocab);
            return;
        }
    }
    int64_t n_end = config->n_eos + (int64_t)set->n_stop_ids;
    if (set->min_tokens > 0 && n_end >= config->n_vocab)
        lb_row_fail(&w->row, LB_ROW_BAD_PARAM, "min_tokens cannot be had with %lld end tokens in a vocabulary of %lld",
                    (long long)n_end, (long long)config->n_vocab);
}

/* Which adapter a row runs with. */
static void choose_adapter(const struct lb_run_spec *spec, struct lb_work *w)
{
    const struct lb_gen *gen = &w->row.gen;
    w->set.adapter = spec->adapters->all;
    if (!(gen->set & LB_GEN_LORA) || w->row.code != LB_ROW_OK)
        return;
    w->set.adapter = lb_adapters_find(spec->adapters, gen->lora);
    if (w->set.adapter == 0)
        lb_row_fail(&w->row, LB_ROW_BAD_PARAM, "lora: no adapter is called \"%.80s\" (--lora NAME=DIR)", gen->lora);
}

/* The same of a row's settings. A failed row keeps its code. */
static void check_settings(const struct lb_run_spec *spec, struct lb_work *w)
{
    const struct lb_settings *set = &w->set;
    int64_t n_choice = set->n * (int64_t)(w->row.n_more + 1);
    if (set->n_stop && lb_tok_missing(spec->tok))
        lb_row_fail(&w->row, LB_ROW_UNSUPPORTED, "\"stop\" needs the model's tokenizer (%s), which is not built in",
                    lb_tok_missing(spec->tok));
    else if (set->prompt_from > 0 && set->prompt_logprobs < 0)
        lb_row_fail(&w->row, LB_ROW_BAD_PARAM, "prompt_logprobs_from says nothing without prompt_logprobs");
    else if (set->min_tokens > set->max_tokens)
        lb_row_fail(&w->row, LB_ROW_BAD_PARAM, "min_tokens (%lld) is above max_tokens (%lld)",
                    (long long)set->min_tokens, (long long)set->max_tokens);
    else if (n_choice > LB_MAX_CHOICES)
        lb_row_fail(&w->row, LB_ROW_BAD_PARAM, "%lld samples of %zu prompts are too many: %d are the most",
                    (long long)set->n, w->row.n_more + 1, LB_MAX_CHOICES);
    else if (spec->config)
        check_ids(spec->config, w);
}

/* The i-th further prompt of a row, whose first sample is w. */
static enum lb_status encode_more(struct encoder *e, struct lb_work *lead, size_t i, struct lb_work *w,
                                  struct lb_err *err)
{
    struct lb_work own = *lead;
    lead->echo = NULL;
    lead->prompt = NULL;
    lb_row_take_prompt(&lead->row, i);
    enum lb_status status = encode(e, lead, err);
    w->prompt = lead->prompt;
    w->n_prompt = lead->n_prompt;
    w->n_begin = lead->n_begin;
    w->echo = lead->echo;
    w->n_echo = lead->n_echo;
    lead->prompt = own.prompt;
    lead->n_prompt = own.n_prompt;
    lead->n_begin = own.n_begin;
    lead->echo = own.echo;
    lead->n_echo = own.n_echo;
    return status;
}

/* The row's further sequences: of each prompt as many as it has samples that can differ. */
static enum lb_status add_parts(struct encoder *e, struct lb_work *w, int64_t each, struct lb_err *err)
{
    size_t n = (w->row.n_more + 1) * (size_t)each;
    w->n_copy = (int32_t)(w->set.n / each);
    if (n == 1)
        return LB_OK;
    w->part = lb_mem_new(n, sizeof(struct lb_work *));
    if (!w->part)
        return lb_err_memory(err, "a row", n * sizeof *w);
    w->part[0] = w;
    for (size_t i = 1; i < n && w->row.code == LB_ROW_OK; i++) {
        struct lb_work *p = lb_work_new();
        if (!p)
            return lb_err_memory(err, "a row", n * sizeof *w);
        w->part[w->n_part++] = p;
        *p = (struct lb_work){.lead = w, .set = w->set, .n_copy = w->n_copy, .sample = (uint32_t)i, .time = w->time};
        if (i % (size_t)each == 0) {
            LB_TRY(encode_more(e, w, i / (size_t)each - 1, p, err));
            continue;
        }
        p->prompt_lent = true;
    }
    w->n_left = w->n_part;
    return LB_OK;
}

/* Another sample of a prompt has it as the first one was made to fit. */
static void lend_prompt(const struct lb_work *before, struct lb_work *w)
{
    w->prompt = before->prompt;
    w->n_prompt = before->n_prompt;
    w->set.max_tokens = before->set.max_tokens;
    w->set.prompt_from = before->set.prompt_from;
}

static enum lb_status tokenize(struct encoder *e, struct lb_work *w, struct lb_err *err)
{
    static const struct lb_gen_defaults none;
    const struct lb_run_spec *spec = e->r->spec;
    lb_settings_resolve(&w->set, spec->config ? &spec->config->gen : &none, spec->gen, &w->row.gen);
    choose_adapter(spec, w);
    if (w->row.api == LB_API_CHAT && !w->set.max_given && spec->plan->max_model_len > 0)
        w->set.max_tokens = spec->plan->max_model_len; /* shortened to what the prompt leaves */
    /* the API's echo has log-probabilities of all that it writes */
    if (w->row.echo && w->set.logprobs > w->set.prompt_logprobs)
        w->set.prompt_logprobs = w->set.logprobs;
    if (w->row.code == LB_ROW_OK)
        check_settings(spec, w);
    if (w->row.code != LB_ROW_OK)
        return LB_OK;
    LB_TRY(encode(e, w, err));
    if (w->row.code != LB_ROW_OK)
        return LB_OK;
    int64_t each = w->set.sampling.greedy || spec->mode != LB_RUN_MODEL ? 1 : w->set.n;
    LB_TRY(add_parts(e, w, each, err));
    for (int32_t i = 0; i < w->n_part && w->row.code == LB_ROW_OK; i++) {
        struct lb_work *p = lb_work_part(w, i);
        if (i % each == 0)
            check_prompt(spec, p);
        else
            lend_prompt(w->part[i - 1], p);
    }
    return LB_OK;
}

/* Memory that a tokenized row takes while it waits, nearly. */
static int64_t bytes_of(const struct lb_work *w)
{
    size_t n = sizeof *w * (size_t)w->n_part + w->n_echo;
    for (int32_t i = 0; i < w->n_part; i++) {
        const struct lb_work *p = w->part ? w->part[i] : w;
        n += p->prompt_lent ? 0 : (size_t)p->n_prompt * sizeof *p->prompt;
    }
    return (int64_t)n;
}

int64_t lb_run_work_of(const struct lb_work *w)
{
    int64_t n = 0;
    for (int32_t i = 0; i < w->n_part; i++) {
        const struct lb_work *p = w->part ? w->part[i] : w;
        n += p->n_prompt + p->set.max_tokens;
    }
    return n;
}

void *lb_run_tokenizer(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    struct encoder e = {.r = r};
    struct lb_work *w;
    lb_run_be_nice();
    enum lb_status status = lb_prompt_ctx_new(&e.ctx, &r->spec->prompter, &err);
    bool going = status == LB_OK;
    while (going && lb_queue_pop(&r->raw, -1, &w) == LB_POP_ROW) {
        double begin = lb_now();
        status = lb_mem_blame(tokenize(&e, w, &err), "a prompt", &err);
        lb_timeline_work(r->spec->timeline, LB_TL_TOKENIZER, begin, lb_now(), 1);
        bool done = w->row.code != LB_ROW_OK || r->spec->mode != LB_RUN_MODEL;
        w->weight = bytes_of(w);
        if (status == LB_OK && !done)
            atomic_fetch_add(&r->work_known, lb_run_work_of(w));
        going = status == LB_OK && lb_queue_push(done ? &r->done : &r->tokens, w);
        if (!going)
            lb_work_free(w);
    }
    if (status != LB_OK)
        lb_run_fail(r, &err, true);
    lb_prompt_ctx_free(e.ctx);
    lb_queue_close(&r->tokens);
    return NULL;
}

/* ---- window: rows in the order in which they run, with room for their output ---- */

void lb_run_drop_helpers(struct lb_work *w)
{
    lb_stop_text_free(w->stop_at);
    lb_adjust_free(w->adjust);
    w->stop_at = NULL;
    w->adjust = NULL;
}

static bool make_score_room(struct lb_work *w)
{
    size_t n = (size_t)lb_work_n_scored(w), k = (size_t)w->set.prompt_logprobs;
    w->next_scored = lb_score_first(&w->set);
    w->scored = lb_mem_new(n, sizeof *w->scored);
    if (k)
        w->scored_top = lb_mem_new(n * k, sizeof *w->scored_top);
    return w->scored && (!k || w->scored_top);
}

enum lb_status lb_run_make_room(const struct lb_run *r, struct lb_work *w, struct lb_err *err)
{
    size_t n = (size_t)w->set.max_tokens, k = w->set.logprobs > 0 ? (size_t)w->set.logprobs : 0;
    bool ok = (w->out = lb_mem_new(n, sizeof *w->out)) != NULL;
    if (ok && w->set.logprobs >= 0)
        ok = (w->logprob = lb_mem_new(n, sizeof *w->logprob)) != NULL;
    if (ok && k)
        ok = (w->top = lb_mem_new(n * k, sizeof *w->top)) != NULL;
    if (ok && lb_work_scores(w))
        ok = make_score_room(w);
    if (ok && w->set.n_stop)
        ok = (w->stop_at = lb_stop_text_new(r->spec->tok, &w->set, r->room)) != NULL;
    if (ok && lb_adjust_wanted(&w->set))
        ok = (w->adjust = lb_adjust_new(&w->set, w->prompt, w->n_prompt, r->spec->config)) != NULL;
    return ok ? LB_OK : lb_err_memory(err, "a row's output", n * sizeof *w->out);
}

/* Gathers rows until the window is full, the input ends or, on a stream, nothing came for a while. */
static size_t gather(struct lb_run *r, struct lb_work **rows, bool *end)
{
    size_t n = 0;
    int64_t bytes = 0;
    while (n < LB_WINDOW_ROWS && bytes < LB_WINDOW_BYTES) {
        double wait = n > 0 && r->spec->stream ? LB_WINDOW_WAIT_S : -1;
        enum lb_pop got = lb_queue_pop(&r->tokens, wait, &rows[n]);
        *end = got == LB_POP_END;
        if (got != LB_POP_ROW)
            break;
        bytes += rows[n++]->weight;
    }
    return n;
}

/* Of rows that are the same one is left. */
static size_t fold(struct lb_run *r, struct lb_fold *f, struct lb_work **rows, size_t n)
{
    if (r->spec->no_fold)
        return n;
    n = lb_fold_rows(f, rows, n);
    for (size_t i = 0; i < n; i++)
        for (const struct lb_work *twin = rows[i]->twin; twin; twin = twin->twin)
            atomic_fetch_sub(&r->work_known, lb_run_work_of(twin));
    return n;
}

static int64_t n_sequences(struct lb_work *const *rows, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += rows[i]->n_part;
    return sum;
}

void *lb_run_window(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    struct lb_fold f = {0};
    lb_run_be_nice();
    struct lb_work **rows = lb_mem_new(LB_WINDOW_ROWS, sizeof *rows);
    enum lb_status status = rows ? LB_OK : lb_err_memory(&err, "a window of rows", LB_WINDOW_ROWS * sizeof *rows);
    if (status == LB_OK)
        status = lb_fold_init(&f, LB_WINDOW_ROWS, &err);
    struct lb_queue *to = r->deals ? &r->sorted : &r->ready;
    bool end = false, over = false;
    while (status == LB_OK && !end && !over) {
        size_t n = gather(r, rows, &end);
        double begin = lb_now();
        n = fold(r, &f, rows, n);
        lb_order_rows(rows, n, r->spec->deadline <= 0 && n_sequences(rows, n) <= r->spec->plan->max_seqs);
        lb_timeline_work(r->spec->timeline, LB_TL_WINDOW, begin, lb_now(), n);
        for (size_t i = 0; i < n; i++) {
            for (int32_t k = 0; k < rows[i]->n_part && status == LB_OK && !over; k++)
                status = lb_run_make_room(r, lb_work_part(rows[i], k), &err);
            over = over || status != LB_OK || !lb_queue_push(to, rows[i]);
            if (over)
                lb_work_free(rows[i]);
        }
    }
    if (status != LB_OK)
        lb_run_fail(r, &err, true);
    lb_mem_free(rows);
    lb_fold_release(&f);
    lb_queue_close(to);
    return NULL;
}
