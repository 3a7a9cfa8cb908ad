#include "core/base/mem.h"
#include "core/run/run.h"
#include "core/run/survey.h"

/* ---- writer: ids -> text, lines, OUT ---- */

struct formatter {
    struct lb_run *r;
    struct lb_detok detok;
    struct lb_str text, line; /* reused */
};

static void make_text(struct formatter *f, const struct lb_work *w)
{
    int64_t n = w->n_out - (w->ended_by_id ? 1 : 0);
    lb_str_clear(&f->text);
    f->detok.skip_special = w->set.skip_special;
    for (int64_t i = 0; i < n; i++)
        lb_detok_put(&f->detok, w->out[i], &f->text);
    lb_detok_flush(&f->detok, &f->text);
    if (w->stop_string && f->text.len > w->text_bytes)
        f->text.len = w->text_bytes;
}

static struct lb_timing make_timing(const struct lb_work *w)
{
    const struct lb_times *t = &w->time;
    return (struct lb_timing){.queue_s = t->admitted - t->read,
                              .prefill_s = t->first - t->admitted,
                              .decode_s = t->last - t->first,
                              .first_token_s = t->first - t->read,
                              .total_s = t->last - t->read,
                              .steps = w->steps};
}

static void format_row(struct formatter *f, struct lb_work *w)
{
    const struct lb_run_spec *spec = f->r->spec;
    struct lb_result out = {.id_json = w->row.id_json,
                            .index = w->row.index,
                            .finish = LB_FINISH_ERROR,
                            .code = w->row.code,
                            .message = w->row.message};
    struct lb_timing timing;
    if (w->row.code == LB_ROW_OK) {
        bool has_text = !lb_tok_missing(spec->tok);
        out.finish = w->finish;
        out.prompt_tokens = w->n_prompt;
        out.completion_tokens = w->n_out;
        out.logprobs = w->logprob;
        out.kept_json = w->row.kept_json;
        out.has_stop_id = w->ended_by_id;
        out.stop_id = w->ended_by_id ? w->out[w->n_out - 1] : 0;
        out.stop_string = w->stop_string;
        if (has_text) {
            make_text(f, w);
            out.text = f->text.data ? f->text.data : "";
            out.n_text = f->text.len;
        }
        if (spec->token_ids) {
            out.prompt_ids = w->prompt;
            out.ids = w->out;
        }
        if (spec->timing) {
            timing = make_timing(w);
            out.timing = &timing;
        }
    }
    lb_str_clear(&f->line);
    lb_jsonl_put_result(&f->line, &out);
}

static enum lb_status count_row(struct lb_tally *t, const struct lb_work *w, struct lb_err *err)
{
    t->rows++;
    if (w->row.code != LB_ROW_OK) {
        t->error++;
        t->by_code[w->row.code]++;
        return LB_OK;
    }
    t->prompt_tokens += w->n_prompt;
    if (w->n_out == 0) { /* without a model */
        t->ok++;
        return LB_OK;
    }
    void *latency = t->latency;
    enum lb_status status =
        lb_mem_grow(&latency, &t->cap_latency, (size_t)t->ok + 1, sizeof *t->latency, "latencies", err);
    t->latency = latency;
    if (status != LB_OK)
        return status;
    t->latency[t->ok++] = w->time.last - w->time.admitted;
    t->stop += w->finish == LB_FINISH_STOP;
    t->length += w->finish == LB_FINISH_LENGTH;
    t->completion_tokens += w->n_out;
    return LB_OK;
}

static enum lb_status write_row(struct formatter *f, struct lb_work *w, bool *closed, struct lb_err *err)
{
    double begin = lb_now();
    if (w->fail != LB_ROW_OK)
        lb_row_fail(&w->row, w->fail, "the model's logits are not finite numbers after %lld new tokens",
                    (long long)w->n_out);
    const struct lb_run_spec *spec = f->r->spec;
    if (spec->mode == LB_RUN_SURVEY) {
        LB_TRY(lb_survey_row(spec->survey, w, err));
        return count_row(&f->r->tally, w, err);
    }
    if (spec->mode == LB_RUN_RENDER) {
        lb_str_clear(&f->line);
        lb_run_put_rendered(f->r, w, &f->line);
    } else {
        format_row(f, w);
    }
    if (f->line.failed || f->text.failed || f->detok.held.failed)
        return lb_err_memory(err, "an output row", f->line.len);
    enum lb_status status =
        lb_journal_put(spec->journal, w->row.index, w->row.line_hash, f->line.data, f->line.len, closed, err);
    if (status == LB_OK && !*closed)
        status = count_row(&f->r->tally, w, err);
    f->r->tally.write_s += lb_now() - begin;
    return status;
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
        status = write_row(&f, w, &closed, &err);
        lb_work_free(w);
        atomic_fetch_add(&r->rows_done, 1);
    }
    if (status != LB_OK)
        lb_run_fail(r, &err, true);
    if (closed)
        atomic_store(&r->closed, true);
    if (status != LB_OK || closed)
        lb_run_abort(r, true);
    lb_detok_release(&f.detok);
    lb_str_release(&f.text);
    lb_str_release(&f.line);
    return NULL;
}
