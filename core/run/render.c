/* Runs without a model (--render, --plan): the reader, tokenizer and writer threads alone. */
#include "core/run/run.h"
#include "core/run/stages.h"

#include <string.h>

#define WAIT_S 0.05 /* how long a stop may go unnoticed */

enum lb_status lb_run_wait(struct lb_run *r, struct lb_err *err)
{
    struct lb_work *none;
    for (enum lb_pop got = LB_POP_EMPTY; got != LB_POP_END;) {
        LB_TRY(lb_run_read(r, err));
        if (r->over)
            break;
        got = lb_queue_pop(&r->tokens, WAIT_S, &none);
        lb_run_progress(r, false);
    }
    return LB_OK;
}

/* What "%d" writes, without its cost: most of a row is ids. */
static void put_id(struct lb_str *out, int32_t id)
{
    char digits[16];
    size_t at = sizeof digits;
    int64_t left = id < 0 ? -(int64_t)id : id;
    do
        digits[--at] = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (id < 0)
        digits[--at] = '-';
    lb_str_put(out, digits + at, sizeof digits - at);
}

/* "prompt":...,"prompt_token_ids":[...] of one prompt; ids that no text stood for are decoded. */
static void put_prompt(const struct lb_run *r, const struct lb_work *w, struct lb_str *out)
{
    const struct lb_tok *tok = r->spec->tok;
    struct lb_str text = {0};
    struct lb_detok detok = {.tok = tok};
    if (w->echo) {
        lb_str_puts(out, "\"prompt\":");
        lb_str_put_json(out, w->echo, w->n_echo);
        lb_str_putc(out, ',');
    } else if (!lb_tok_missing(tok)) {
        for (int64_t i = 0; i < w->n_prompt; i++)
            lb_detok_put(&detok, w->prompt[i], &text);
        lb_detok_flush(&detok, &text);
        lb_str_puts(out, "\"prompt\":");
        lb_str_put_json(out, text.data ? text.data : "", text.len);
        lb_str_putc(out, ',');
    }
    lb_str_puts(out, "\"prompt_token_ids\":[");
    for (int64_t i = 0; i < w->n_prompt; i++) {
        if (i)
            lb_str_putc(out, ',');
        put_id(out, w->prompt[i]);
    }
    lb_str_putc(out, ']');
    out->failed = out->failed || text.failed;
    lb_detok_release(&detok);
    lb_str_release(&text);
}

void lb_run_put_rendered(const struct lb_run *r, struct lb_work *w, struct lb_str *out)
{
    const struct lb_row *row = &w->row;
    if (row->code != LB_ROW_OK) {
        struct lb_result failed = {.id_json = row->id_json,
                                   .index = row->index,
                                   .finish = LB_FINISH_ERROR,
                                   .code = row->code,
                                   .message = row->message};
        lb_jsonl_put_result(out, &failed);
        return;
    }
    lb_str_putf(out, "{\"id\":%s,\"index\":%lld,", row->id_json, (long long)row->index);
    if (w->n_part > 1)
        lb_str_puts(out, "\"prompts\":[");
    for (int32_t i = 0; i < w->n_part; i++) {
        lb_str_puts(out, w->n_part == 1 ? "" : i ? ",{" : "{");
        put_prompt(r, lb_work_part(w, i), out);
        lb_str_puts(out, w->n_part == 1 ? "" : "}");
    }
    lb_str_puts(out, w->n_part > 1 ? "]}" : "}");
}
