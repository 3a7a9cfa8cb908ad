#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/mem.h"
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

static void warn_name(void *ctx, int64_t index, const char *member, const char *known)
{
    struct lb_run *r = ctx;
    if (!atomic_exchange(&r->warned_name, true))
        lb_log_put(r->spec->log, LB_LOG_WARN, "row %lld: unknown member \"%s\" is ignored; did you mean \"%s\"?",
                   (long long)index, member, known);
}

/* ---- reader: lines -> rows ---- */

static enum lb_status hand_row(struct lb_run *r, int64_t index, const char *line, size_t n, bool *over,
                               struct lb_err *err)
{
    struct lb_row_spec spec = r->spec->rows;
    spec.close_name = warn_name;
    spec.ctx = r;
    struct lb_work *w = lb_work_new();
    if (!w)
        return lb_err_memory(err, "a row", sizeof *w);
    enum lb_status status = lb_row_parse(&w->row, &spec, index, line, n, err);
    w->time.read = lb_now();
    atomic_fetch_add(&r->bytes_read, (long long)n + 1);
    atomic_fetch_add(&r->rows_read, 1);
    if (status != LB_OK || !lb_queue_push(&r->raw, w)) {
        lb_work_free(w);
        *over = true;
    }
    return status;
}

/* `-p TEXT` is a row like any other. */
static enum lb_status read_prompt(struct lb_run *r, struct lb_err *err)
{
    const char *key = r->spec->rows.input_key ? r->spec->rows.input_key : "prompt";
    struct lb_str line = {0};
    bool over = false;
    lb_str_putc(&line, '{');
    lb_str_put_json(&line, key, strlen(key));
    lb_str_putc(&line, ':');
    lb_str_put_json(&line, r->spec->prompt, strlen(r->spec->prompt));
    lb_str_putc(&line, '}');
    enum lb_status status = line.failed ? lb_err_memory(err, "the prompt", strlen(r->spec->prompt))
                                        : hand_row(r, 0, line.data, line.len, &over, err);
    lb_str_release(&line);
    return status;
}

static enum lb_status read_lines(struct lb_run *r, struct lb_err *err)
{
    for (bool over = false; !over;) {
        struct lb_line line;
        LB_TRY(lb_lines_next(r->spec->lines, &line, err));
        if (!line.data)
            return LB_OK;
        LB_TRY(hand_row(r, line.index, line.data, line.len, &over, err));
    }
    return LB_OK;
}

void *lb_run_reader(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    lb_run_be_nice();
    enum lb_status status = r->spec->lines ? read_lines(r, &err) : read_prompt(r, &err);
    if (status != LB_OK && status != LB_E_INTERRUPTED)
        lb_run_fail(r, &err, status != LB_E_INPUT);
    atomic_store(&r->read_all, true);
    lb_queue_close(&r->raw);
    return NULL;
}

/* ---- tokenizer: text -> token ids, checks ---- */

struct encoder {
    struct lb_run *r;
    struct lb_tok_ctx *ctx;
    struct lb_ids ids; /* reused */
};

static enum lb_status encode(struct encoder *e, struct lb_work *w, struct lb_err *err)
{
    const struct lb_run_spec *spec = e->r->spec;
    const char *missing = lb_tok_missing(spec->tok);
    if (missing) {
        lb_row_fail(&w->row, LB_ROW_UNSUPPORTED, "the model's tokenizer (%s) is not built in: give prompt_token_ids",
                    missing);
        return LB_OK;
    }
    bool doubled = false;
    e->ids.n = 0;
    LB_TRY(lb_tok_encode(spec->tok, e->ctx, w->row.text, w->row.n_text, spec->add, &e->ids, &doubled, err));
    if (doubled && !atomic_exchange(&e->r->warned_bos, true))
        lb_log_put(spec->log, LB_LOG_WARN, "row %lld: the prompt begins with the BOS text already: none is added",
                   (long long)w->row.index);
    w->prompt = lb_mem_new(e->ids.n, sizeof *w->prompt);
    if (!w->prompt)
        return lb_err_memory(err, "token ids", e->ids.n * sizeof *w->prompt);
    if (e->ids.n)
        memcpy(w->prompt, e->ids.id, e->ids.n * sizeof *w->prompt);
    w->n_prompt = (int64_t)e->ids.n;
    lb_mem_free(w->row.text);
    w->row.text = NULL;
    w->row.n_text = 0;
    return LB_OK;
}

static void check_length(const struct lb_run_spec *spec, struct lb_work *w)
{
    int64_t limit = spec->plan->max_model_len, room = limit - w->n_prompt;
    if (room < 1)
        lb_row_fail(&w->row, LB_ROW_TOO_LONG,
                    "the prompt has %lld tokens; with at least one new token the limit is %lld", (long long)w->n_prompt,
                    (long long)limit);
    else if (w->set.max_tokens > room && w->set.max_given)
        lb_row_fail(&w->row, LB_ROW_TOO_LONG,
                    "prompt (%lld tokens) and max_tokens (%lld) together exceed the limit of %lld tokens",
                    (long long)w->n_prompt, (long long)w->set.max_tokens, (long long)limit);
    else if (w->set.max_tokens > room)
        w->set.max_tokens = room;
}

/* What can only be known with the model at hand. A failed row keeps its code. */
static void check_row(const struct lb_run_spec *spec, struct lb_work *w)
{
    for (int64_t i = 0; i < w->n_prompt; i++) {
        if (w->prompt[i] < 0 || w->prompt[i] >= spec->config->n_vocab) {
            lb_row_fail(&w->row, LB_ROW_BAD_TOKEN, "token id %d at place %lld is outside the vocabulary of %lld",
                        w->prompt[i], (long long)i, (long long)spec->config->n_vocab);
            return;
        }
    }
    if (w->n_prompt == 0) {
        lb_row_fail(&w->row, LB_ROW_EMPTY_PROMPT, "the prompt has no tokens");
        return;
    }
    if (w->set.n_stop && lb_tok_missing(spec->tok)) {
        lb_row_fail(&w->row, LB_ROW_UNSUPPORTED, "\"stop\" needs the model's tokenizer (%s), which is not built in",
                    lb_tok_missing(spec->tok));
        return;
    }
    if (w->set.max_tokens < 1) {
        lb_row_fail(&w->row, LB_ROW_UNSUPPORTED, "max_tokens must be at least 1");
        return;
    }
    check_length(spec, w);
    if (w->row.code != LB_ROW_OK)
        return;
    int64_t pages = lb_sched_peak_pages(w->n_prompt, w->set.max_tokens);
    if (pages > spec->plan->kv_pages)
        lb_row_fail(&w->row, LB_ROW_NO_MEMORY,
                    "%lld prompt tokens and %lld new ones need %lld pages of KV memory, there are %lld (--kv-memory)",
                    (long long)w->n_prompt, (long long)w->set.max_tokens, (long long)pages,
                    (long long)spec->plan->kv_pages);
}

static enum lb_status tokenize(struct encoder *e, struct lb_work *w, struct lb_err *err)
{
    const struct lb_run_spec *spec = e->r->spec;
    lb_settings_resolve(&w->set, &spec->config->gen, spec->gen, &w->row.gen);
    if (w->row.code != LB_ROW_OK)
        return LB_OK;
    if (w->row.form == LB_FORM_CHAT) {
        lb_row_fail(&w->row, LB_ROW_UNSUPPORTED, "messages (chat rows) are not supported by this version");
        return LB_OK;
    }
    if (w->row.form == LB_FORM_TEXT) {
        LB_TRY(encode(e, w, err));
    } else {
        w->prompt = w->row.ids;
        w->n_prompt = (int64_t)w->row.n_ids;
        w->row.ids = NULL;
        w->row.n_ids = 0;
    }
    if (w->row.code == LB_ROW_OK)
        check_row(spec, w);
    return LB_OK;
}

void *lb_run_tokenizer(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    struct encoder e = {.r = r};
    struct lb_work *w;
    lb_run_be_nice();
    enum lb_status status = LB_OK;
    if (!lb_tok_missing(r->spec->tok))
        status = lb_tok_ctx_new(&e.ctx, r->spec->tok, &err);
    bool going = status == LB_OK;
    while (going && lb_queue_pop(&r->raw, -1, &w) == LB_POP_ROW) {
        status = tokenize(&e, w, &err);
        bool failed = w->row.code != LB_ROW_OK;
        if (status == LB_OK && !failed)
            atomic_fetch_add(&r->work_known, w->n_prompt + w->set.max_tokens);
        going = status == LB_OK && lb_queue_push(failed ? &r->done : &r->tokens, w);
        if (!going)
            lb_work_free(w);
    }
    if (status != LB_OK)
        lb_run_fail(r, &err, true);
    lb_ids_release(&e.ids);
    lb_tok_ctx_free(e.ctx);
    lb_queue_close(&r->tokens);
    return NULL;
}

/* ---- window: rows sorted longest first, with room for their output ---- */

static int longest_first(const void *a, const void *b)
{
    const struct lb_work *x = *(struct lb_work *const *)a, *y = *(struct lb_work *const *)b;
    if (x->n_prompt != y->n_prompt)
        return x->n_prompt < y->n_prompt ? 1 : -1;
    return (x->row.index > y->row.index) - (x->row.index < y->row.index);
}

static enum lb_status make_room(const struct lb_run *r, struct lb_work *w, struct lb_err *err)
{
    size_t n = (size_t)w->set.max_tokens, k = w->set.logprobs > 0 ? (size_t)w->set.logprobs : 0;
    bool ok = (w->out = lb_mem_new(n, sizeof *w->out)) != NULL;
    if (ok && w->set.logprobs >= 0)
        ok = (w->logprob = lb_mem_new(n, sizeof *w->logprob)) != NULL;
    if (ok && k)
        ok = (w->top = lb_mem_new(n * k, sizeof *w->top)) != NULL;
    if (ok && w->set.n_stop)
        ok = (w->stop_at = lb_stop_text_new(r->spec->tok, &w->set, r->room)) != NULL;
    return ok ? LB_OK : lb_err_memory(err, "a row's output", n * sizeof *w->out);
}

/* Gathers rows until the window is full, the input ends or, on a stream, nothing came for a while. */
static size_t gather(struct lb_run *r, struct lb_work **rows, bool *end)
{
    size_t n = 0;
    while (n < LB_WINDOW_ROWS) {
        double wait = n > 0 && r->spec->stream ? LB_WINDOW_WAIT_S : -1;
        enum lb_pop got = lb_queue_pop(&r->tokens, wait, &rows[n]);
        *end = got == LB_POP_END;
        if (got != LB_POP_ROW)
            break;
        n++;
    }
    return n;
}

void *lb_run_window(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    lb_run_be_nice();
    struct lb_work **rows = lb_mem_new(LB_WINDOW_ROWS, sizeof *rows);
    enum lb_status status = rows ? LB_OK : lb_err_memory(&err, "a window of rows", LB_WINDOW_ROWS * sizeof *rows);
    bool end = false, over = false;
    while (status == LB_OK && !end && !over) {
        size_t n = gather(r, rows, &end);
        qsort(rows, n, sizeof *rows, longest_first);
        for (size_t i = 0; i < n; i++) {
            if (status == LB_OK && !over)
                status = make_room(r, rows[i], &err);
            over = over || status != LB_OK || !lb_queue_push(&r->ready, rows[i]);
            if (over)
                lb_work_free(rows[i]);
        }
    }
    if (status != LB_OK)
        lb_run_fail(r, &err, true);
    lb_mem_free(rows);
    lb_queue_close(&r->ready);
    return NULL;
}
