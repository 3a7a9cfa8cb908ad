#include "core/backend/step.h"

#include "core/base/mem.h"

enum lb_status lb_step_init(struct lb_step *s, struct lb_step_limits limit, struct lb_err *err)
{
    *s = (struct lb_step){.limit = limit, .number = -1};
    if (limit.n_tok < 0 || limit.n_seq < 0 || limit.n_page < 0)
        return lb_err_set(err, LB_E_USAGE, "a step cannot hold %d tokens, %d sequences and %d pages", limit.n_tok,
                          limit.n_seq, limit.n_page);
    size_t n_tok = (size_t)limit.n_tok, n_seq = (size_t)limit.n_seq, n_page = (size_t)limit.n_page;
    size_t n = 6 * n_tok + 2 * (n_seq + 1) + 2 * n_page;
    int32_t *at = lb_mem_new(n, sizeof *at);
    if (!at)
        return lb_err_memory(err, "a step", n * sizeof *at);
    s->block = (uint8_t *)at;
    s->block_bytes = n * sizeof *at;
    s->tok = at;
    s->pos = s->tok + n_tok;
    s->tok_page = s->pos + n_tok;
    s->rope_len = s->tok_page + n_tok;
    s->out_tok = s->rope_len + n_tok;
    s->out_flags = s->out_tok + n_tok;
    s->seq_start = s->out_flags + n_tok;
    s->page_start = s->seq_start + n_seq + 1;
    s->page = s->page_start + n_seq + 1;
    s->new_page = s->page + n_page;
    return LB_OK;
}

void lb_step_release(struct lb_step *s)
{
    lb_mem_free(s->block);
    *s = (struct lb_step){0};
}

void lb_step_clear(struct lb_step *s)
{
    s->n_tok = s->n_seq = s->n_page = s->n_out = s->n_new = 0;
    s->number++;
}
