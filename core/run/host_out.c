#include "core/base/mem.h"
#include "core/io/openai_write.h"
#include "core/run/fold.h"
#include "core/run/run.h"
#include "core/run/survey.h"

/* ---- writer: ids -> text, lines, OUT ---- */

struct formatter {
    struct lb_run *r;
    struct lb_detok detok;
    struct lb_str text, line; /* reused; text holds those of all sequences, one after another */
    struct lb_str echo;       /* reused: a prompt as its tokens write it */
    struct lb_result *choice;
    int64_t **choice_offset; /* [cap_choice] into offset */
    size_t cap_choice, cap_choice_offset;
    int64_t *offset; /* characters of the text before each new token */
    size_t cap_offset;
};

static struct lb_bytes piece_of(const void *tok, int32_t id)
{
    return lb_tok_piece(tok, id);
}

static int64_t count_chars(const struct lb_str *s, size_t from)
{
    int64_t n = 0;
    for (size_t i = from; i < s->len; i++)
        n += ((unsigned char)s->data[i] & 0xC0) != 0x80;
    return n;
}

/* Characters before a token's text: those that are out, and what was held back if the token does not go on with it. */
static int64_t chars_before(const struct formatter *f, int32_t id, int64_t n_char)
{
    struct lb_bytes b = lb_tok_piece(f->r->spec->tok, id);
    bool goes_on = b.len == 0 || ((unsigned char)b.data[0] & 0xC0) == 0x80;
    return n_char + (f->detok.held.len > 0 && !goes_on);
}

/* Appends a sequence's text to f->text. offset: [w->n_out] or NULL, from n_char on. */
static void make_text(struct formatter *f, const struct lb_work *w, int64_t *offset, int64_t n_char)
{
    int64_t n = w->n_out - (w->ended_by_id ? 1 : 0);
    size_t begin = f->text.len;
    f->detok.skip_special = w->set.skip_special;
    for (int64_t i = 0; i < w->n_out; i++) {
        size_t at = f->text.len;
        if (offset)
            offset[i] = chars_before(f, w->out[i], n_char);
        if (i >= n)
            break;
        lb_detok_put(&f->detok, w->out[i], &f->text);
        n_char += offset ? count_chars(&f->text, at) : 0;
    }
    lb_detok_flush(&f->detok, &f->text);
    if (w->stop_string && f->text.len - begin > w->text_bytes)
        f->text.len = begin + w->text_bytes;
}

/* A prompt's text: its own where it had one, else what its ids write. offset: [w->n_prompt] characters before each of
 * them, or NULL. Returns the characters of the text. */
static int64_t put_echo(struct formatter *f, const struct lb_work *w, int64_t *offset)
{
    size_t begin = f->text.len;
    int64_t n_char = 0;
    lb_str_clear(&f->echo);
    f->detok.skip_special = w->set.skip_special;
    for (int64_t i = 0; i < w->n_prompt && (offset || !w->echo); i++) {
        size_t at = f->echo.len;
        if (offset)
            offset[i] = chars_before(f, w->prompt[i], n_char);
        lb_detok_put(&f->detok, w->prompt[i], &f->echo);
        n_char += offset ? count_chars(&f->echo, at) : 0;
    }
    lb_detok_flush(&f->detok, &f->echo);
    if (w->echo)
        lb_str_put(&f->text, w->echo, w->n_echo);
    else
        lb_str_put(&f->text, f->echo.data, f->echo.len);
    n_char = count_chars(&f->text, begin);
    /* a tokenizer may write a text otherwise than it was */
    for (int64_t i = 0; offset && i < w->n_prompt; i++)
        offset[i] = offset[i] < n_char ? offset[i] : n_char;
    return n_char;
}

static struct lb_timing make_timing(struct lb_work *w)
{
    struct lb_times t = lb_work_times(w);
    int64_t steps = w->steps;
    for (int32_t i = 1; i < w->n_part; i++)
        steps = w->part[i]->steps > steps ? w->part[i]->steps : steps;
    return (struct lb_timing){.queue_s = t.admitted - t.read,
                              .prefill_s = t.first - t.admitted,
                              .decode_s = t.last - t.first,
                              .first_token_s = t.first - t.read,
                              .total_s = t.last - t.read,
                              .rank = w->rank,
                              .steps = steps};
}

/* What one sequence gave, its text aside. */
static void fill(const struct formatter *f, const struct lb_work *w, struct lb_result *out)
{
    out->finish = w->finish;
    out->prompt_tokens = w->n_prompt;
    out->completion_tokens = w->n_out;
    out->logprobs = w->logprob;
    out->prompt_logprobs = w->scored;
    out->prompt_first = lb_score_first(&w->set);
    out->has_stop_id = w->ended_by_id;
    out->stop_id = w->ended_by_id ? w->out[w->n_out - 1] : 0;
    out->stop_string = w->stop_string;
    if (f->r->spec->token_ids) {
        out->prompt_ids = w->prompt;
        out->ids = w->out;
    }
}

static enum lb_status grow_choices(struct formatter *f, struct lb_work *w, size_t n, bool offsets, struct lb_err *err)
{
    void *choice = f->choice, *list = f->choice_offset, *offset = f->offset;
    size_t n_out = 0;
    for (int32_t i = 0; i < w->n_part; i++)
        n_out += (size_t)(lb_work_part(w, i)->n_out + (w->row.echo ? lb_work_part(w, i)->n_prompt : 0));
    enum lb_status status = lb_mem_grow(&choice, &f->cap_choice, n, sizeof *f->choice, "samples", err);
    f->choice = choice;
    if (status == LB_OK)
        status = lb_mem_grow(&list, &f->cap_choice_offset, n, sizeof *f->choice_offset, "samples", err);
    f->choice_offset = list;
    if (status == LB_OK && offsets)
        status = lb_mem_grow(&offset, &f->cap_offset, n_out + 1, sizeof *f->offset, "places in a text", err);
    f->offset = offset;
    return status;
}

/* asked: the first sample of the prompt, which has what all of them have. */
static void fill_choice(struct formatter *f, const struct lb_work *w, const struct lb_work *asked, struct lb_result *c)
{
    *c = (struct lb_result){0};
    fill(f, w, c);
    c->prompt_logprobs = asked->scored;
    if (w->lead->row.echo && w->logprob)
        c->echo_ids = asked->prompt;
}

/* A sample's text, behind that of its prompt where that is asked for. */
static void put_choice(struct formatter *f, const struct lb_work *w, const struct lb_work *asked, int64_t *offset)
{
    int64_t n_char = 0;
    if (w->lead->row.echo) {
        n_char = put_echo(f, asked, offset);
        offset = offset ? offset + w->n_prompt : NULL;
    }
    make_text(f, w, offset, n_char);
}

/* The samples of a row: f->choice, in the order of prompts and samples. */
static enum lb_status make_choices(struct formatter *f, struct lb_work *w, struct lb_result *out, struct lb_err *err)
{
    bool offsets = w->row.api == LB_API_COMPLETION && w->logprob, has_text = !lb_tok_missing(f->r->spec->tok);
    size_t n = (size_t)w->n_part * (size_t)w->n_copy, at = 0;
    int64_t *offset = f->offset;
    LB_TRY(grow_choices(f, w, n, offsets, err));
    offset = f->offset;
    out->prompt_tokens = 0;
    const struct lb_work *asked = w; /* has the prompt of the sequences behind it */
    for (int32_t i = 0; i < w->n_part; i++) {
        const struct lb_work *p = lb_work_part(w, i);
        struct lb_result *c = &f->choice[i * w->n_copy];
        asked = p->prompt_lent ? asked : p;
        size_t begin = f->text.len;
        fill_choice(f, p, asked, c);
        int64_t n_before = w->row.echo && offsets ? p->n_prompt : 0;
        if (has_text)
            put_choice(f, p, asked, offsets ? offset : NULL);
        for (int64_t k = 0; offsets && !has_text && k < n_before + p->n_out; k++)
            offset[k] = 0;
        c->n_text = f->text.len - begin;
        out->prompt_tokens += p->prompt_lent ? 0 : p->n_prompt;
        for (int32_t k = 0; k < w->n_copy; k++) {
            c[k] = *c;
            f->choice_offset[i * w->n_copy + k] = offset;
        }
        offset += offsets ? n_before + p->n_out : 0;
    }
    /* The text has stopped moving. */
    for (size_t i = 0; i < n; i++) {
        f->choice[i].text = !has_text ? NULL : f->text.data ? f->text.data + at : "";
        if ((i + 1) % (size_t)w->n_copy == 0)
            at += f->choice[i].n_text;
    }
    out->choice = f->choice;
    out->n_choice = n;
    return LB_OK;
}

static enum lb_status make_done(struct formatter *f, struct lb_work *w, struct lb_result *out, struct lb_err *err)
{
    fill(f, w, out);
    out->kept_json = w->row.kept_json;
    for (int32_t i = 0; i < w->n_part; i++)
        out->cut_tokens += lb_work_part(w, i)->n_cut;
    out->cut_policy = out->cut_tokens ? lb_overflow_name(f->r->spec->overflow) : NULL;
    if (w->row.api != LB_API_NATIVE || w->set.n > 1)
        return make_choices(f, w, out, err);
    if (lb_tok_missing(f->r->spec->tok))
        return LB_OK;
    make_text(f, w, NULL, 0);
    out->text = f->text.data ? f->text.data : "";
    out->n_text = f->text.len;
    return LB_OK;
}

static enum lb_status format_row(struct formatter *f, struct lb_work *w, struct lb_err *err)
{
    const struct lb_run_spec *spec = f->r->spec;
    struct lb_result out = {.id_json = w->row.id_json,
                            .index = w->row.index,
                            .finish = LB_FINISH_ERROR,
                            .code = w->row.code,
                            .message = w->row.message};
    struct lb_timing timing;
    lb_str_clear(&f->text);
    lb_str_clear(&f->line);
    if (w->row.code == LB_ROW_OK)
        LB_TRY(make_done(f, w, &out, err));
    if (w->row.code == LB_ROW_OK && spec->timing) {
        timing = make_timing(w);
        out.timing = &timing;
    }
    if (w->row.api == LB_API_NATIVE) {
        lb_jsonl_put_result(&f->line, &out);
        return LB_OK;
    }
    const struct lb_openai o = {.api = w->row.api,
                                .model_json = w->row.model_json,
                                .param = w->row.param,
                                .created = spec->created,
                                .piece = lb_tok_missing(spec->tok) ? NULL : piece_of,
                                .ctx = spec->tok,
                                .prompt_logprobs =
                                    w->row.gen.set & LB_GEN_PROMPT_LOGPROBS || spec->gen->set & LB_GEN_PROMPT_LOGPROBS,
                                .text_offset = w->logprob ? f->choice_offset : NULL};
    lb_openai_put_result(&f->line, &o, &out);
    return LB_OK;
}

/* Log-probabilities of prompts. */
static void count_scored(struct lb_tally *t, struct lb_work *w)
{
    for (int32_t i = 0; i < w->n_part; i++) {
        const struct lb_work *p = lb_work_part(w, i);
        const struct lb_result r = {
            .prompt_logprobs = p->scored, .prompt_first = lb_score_first(&p->set), .prompt_tokens = p->n_prompt};
        t->scored_tokens += p->scored ? lb_work_n_scored(p) : 0;
        t->scored_nll += lb_result_nll(&r);
    }
}

static enum lb_status count_row(struct lb_run *r, struct lb_work *w, struct lb_err *err)
{
    struct lb_tally *t = &r->tally;
    t->rows++;
    if (w->row.code != LB_ROW_OK) {
        t->error++;
        t->by_code[w->row.code]++;
        return LB_OK;
    }
    bool stopped = true;
    for (int32_t i = 0; i < w->n_part; i++) {
        const struct lb_work *p = lb_work_part(w, i);
        stopped = stopped && p->finish == LB_FINISH_STOP;
        t->prompt_tokens += p->prompt_lent ? 0 : p->n_prompt;
        t->completion_tokens += p->n_out * p->n_copy;
    }
    if (r->spec->mode != LB_RUN_MODEL) {
        t->ok++;
        return LB_OK;
    }
    count_scored(t, w);
    void *latency = t->latency;
    enum lb_status status =
        lb_mem_grow(&latency, &t->cap_latency, t->n_latency + 1, sizeof *t->latency, "latencies", err);
    t->latency = latency;
    if (status != LB_OK)
        return status;
    struct lb_timing timing = make_timing(w);
    t->latency[t->n_latency++] = timing.total_s - timing.queue_s;
    t->ok++;
    t->stop += stopped;
    t->length += !stopped;
    return LB_OK;
}

/* Ends the run when more rows have failed than may; those that are finished are still written. */
static void watch_errors(struct lb_run *r)
{
    int64_t n = r->tally.error + (r->taken ? r->taken->error : 0);
    if (r->stopped || r->spec->max_errors < 0 || n <= r->spec->max_errors)
        return;
    struct lb_err err = LB_ERR_INIT;
    r->stopped = true;
    lb_err_set(&err, LB_E_STOPPED, "stopped: %lld rows have failed, more than --max-errors %lld allows", (long long)n,
               (long long)r->spec->max_errors);
    lb_run_fail(r, &err, true);
}

static enum lb_status write_row(struct formatter *f, struct lb_work *w, bool *closed, struct lb_err *err)
{
    double begin = lb_now();
    const struct lb_run_spec *spec = f->r->spec;
    if (spec->mode == LB_RUN_SURVEY) {
        LB_TRY(lb_survey_row(spec->survey, w, err));
        return count_row(f->r, w, err);
    }
    for (int32_t i = 0; i < w->n_part && w->row.code == LB_ROW_OK; i++) {
        const struct lb_work *p = lb_work_part(w, i);
        if (p->fail != LB_ROW_OK)
            lb_row_fail(&w->row, p->fail, "the model's logits are not finite numbers after %lld new tokens",
                        (long long)p->n_out);
    }
    if (spec->mode == LB_RUN_RENDER) {
        lb_str_clear(&f->line);
        lb_run_put_rendered(f->r, w, &f->line);
    } else {
        LB_TRY(format_row(f, w, err));
    }
    if (f->line.failed || f->text.failed || f->echo.failed || f->detok.held.failed)
        return lb_err_memory(err, "an output row", f->line.len);
    enum lb_status status = lb_journal_put(spec->journal, w->row.index / spec->n_shard, w->row.line_hash, f->line.data,
                                           f->line.len, closed, err);
    if (status == LB_OK && !*closed) {
        status = count_row(f->r, w, err);
        lb_watch_row(spec->watch, w);
        lb_timeline_row(spec->timeline, w);
    }
    double end = lb_now();
    lb_timeline_work(spec->timeline, LB_TL_WRITER, begin, end, 1);
    f->r->tally.write_s += end - begin;
    return status;
}

/* The row, and those that end as it did. */
static enum lb_status write_all(struct formatter *f, struct lb_work *w, bool *closed, struct lb_err *err)
{
    LB_TRY(write_row(f, w, closed, err));
    watch_errors(f->r);
    atomic_fetch_add(&f->r->rows_done, 1);
    for (struct lb_work *twin = w->twin; twin && !*closed; twin = twin->twin) {
        lb_fold_lend(twin, w);
        enum lb_status status = write_row(f, twin, closed, err);
        lb_fold_take_back(twin);
        if (status != LB_OK)
            return status;
        f->r->tally.folded += !*closed;
        watch_errors(f->r);
        atomic_fetch_add(&f->r->rows_done, 1);
    }
    return LB_OK;
}

void *lb_run_writer(void *run)
{
    struct lb_run *r = run;
    struct lb_err err = LB_ERR_INIT;
    struct formatter f = {.r = r, .detok = {.tok = r->spec->tok}};
    struct lb_work *w;
    lb_run_be_nice();
    enum lb_status status = LB_OK;
    bool closed = false;
    while (status == LB_OK && !closed && lb_queue_pop(&r->done, -1, &w) == LB_POP_ROW) {
        status = write_all(&f, w, &closed, &err);
        lb_verify_take(&r->verify, w, w->row.index / r->spec->n_shard);
    }
    if (status != LB_OK)
        lb_run_fail(r, &err, true);
    if (closed)
        atomic_store(&r->closed, true);
    if (status != LB_OK || closed)
        lb_run_abort(r, true);
    lb_detok_release(&f.detok);
    lb_str_release(&f.text);
    lb_str_release(&f.echo);
    lb_str_release(&f.line);
    lb_mem_free(f.choice);
    lb_mem_free(f.choice_offset);
    lb_mem_free(f.offset);
    return NULL;
}
