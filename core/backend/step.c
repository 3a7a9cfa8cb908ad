#include "core/backend/step.h"

#include <stdbool.h>
#include <string.h>

#include "core/base/mem.h"

enum lb_status lb_step_init(struct lb_step *s, struct lb_step_limits limit, struct lb_err *err)
{
    *s = (struct lb_step){.limit = limit, .number = -1};
    if (limit.n_tok < 0 || limit.n_seq < 0 || limit.n_page < 0)
        return lb_err_set(err, LB_E_USAGE, "a step cannot hold %d tokens, %d sequences and %d pages", limit.n_tok,
                          limit.n_seq, limit.n_page);
    size_t n_tok = (size_t)limit.n_tok, n_seq = (size_t)limit.n_seq, n_page = (size_t)limit.n_page;
    size_t n = 6 * n_tok + 2 * (n_seq + 1) + 3 * n_seq + 2 * n_page;
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
    s->copy_from = s->new_page + n_page;
    s->copy_to = s->copy_from + n_seq;
    s->adapter = s->copy_to + n_seq;
    return LB_OK;
}

void lb_step_release(struct lb_step *s)
{
    lb_mem_free(s->block);
    *s = (struct lb_step){0};
}

void lb_step_clear(struct lb_step *s)
{
    s->n_tok = s->n_seq = s->n_page = s->n_out = s->n_new = s->n_copy = 0;
    s->number++;
}

size_t lb_step_pack_max(const struct lb_step *s)
{
    return s->block_bytes / sizeof(int32_t) + (size_t)s->limit.n_tok;
}

struct lb_out_counts lb_step_outputs(const struct lb_step *s)
{
    struct lb_out_counts n = {.n_out = s->n_out};
    for (int32_t j = 0; j < s->n_out; j++) {
        if (s->out_flags[j] & LB_OUT_LOGITS)
            n.n_row++;
        else if (s->out_flags[j] & LB_OUT_TOP)
            n.n_top++;
    }
    return n;
}

enum { N_TABLE = 14 };

/* Samples, then the tables in the order of struct lb_step, with the numbers of each that are in use. */
static void tables_of(const struct lb_step *s, int32_t *slot, int32_t n_slot, int32_t *table[N_TABLE],
                      int32_t count[N_TABLE])
{
    int32_t *const all[N_TABLE] = {slot,         s->tok,        s->pos,     s->tok_page, s->rope_len,
                                   s->seq_start, s->page_start, s->page,    s->new_page, s->out_tok,
                                   s->out_flags, s->copy_from,  s->copy_to, s->adapter};
    const int32_t n[N_TABLE] = {n_slot,    s->n_tok, s->n_tok, s->n_tok, s->n_tok,  s->n_seq + 1, s->n_seq + 1,
                                s->n_page, s->n_new, s->n_out, s->n_out, s->n_copy, s->n_copy,    s->n_seq};
    memcpy(table, all, sizeof all);
    memcpy(count, n, sizeof n);
}

void lb_step_pack(const struct lb_step *s, const int32_t *slot, int32_t n_slot, struct lb_step_head *head,
                  int32_t *ints)
{
    int32_t *table[N_TABLE], count[N_TABLE];
    int64_t at = 0;
    tables_of(s, NULL, n_slot, table, count);
    if (n_slot)
        memcpy(ints, slot, (size_t)n_slot * sizeof *ints);
    at += n_slot;
    for (int i = 1; i < N_TABLE; i++) {
        memcpy(ints + at, table[i], (size_t)count[i] * sizeof *ints);
        at += count[i];
    }
    *head = (struct lb_step_head){.number = s->number,
                                  .n_int = at,
                                  .n_tok = s->n_tok,
                                  .n_seq = s->n_seq,
                                  .n_page = s->n_page,
                                  .n_out = s->n_out,
                                  .n_new = s->n_new,
                                  .n_copy = s->n_copy,
                                  .n_slot = n_slot};
}

static bool within(int32_t n, int32_t limit)
{
    return n >= 0 && n <= limit;
}

enum lb_status lb_step_head_check(const struct lb_step *s, const struct lb_step_head *head, struct lb_err *err)
{
    const struct lb_step_limits *l = &s->limit;
    int64_t n = (int64_t)head->n_slot + 4 * (int64_t)head->n_tok + 2 * ((int64_t)head->n_seq + 1) +
                (int64_t)head->n_page + head->n_new + 2 * (int64_t)head->n_out + 2 * (int64_t)head->n_copy +
                head->n_seq;
    if (within(head->n_tok, l->n_tok) && within(head->n_seq, l->n_seq) && within(head->n_page, l->n_page) &&
        within(head->n_out, l->n_tok) && within(head->n_new, l->n_page) && within(head->n_slot, l->n_tok) &&
        within(head->n_copy, l->n_seq) && head->n_int == n)
        return LB_OK;
    return lb_err_set(err, LB_E_DEVICE, "step %lld of the group's first rank does not fit this rank's memory",
                      (long long)head->number);
}

void lb_step_unpack(struct lb_step *s, int32_t *slot, const struct lb_step_head *head, const int32_t *ints)
{
    int32_t *table[N_TABLE], count[N_TABLE];
    s->number = head->number;
    s->n_tok = head->n_tok;
    s->n_seq = head->n_seq;
    s->n_page = head->n_page;
    s->n_out = head->n_out;
    s->n_new = head->n_new;
    s->n_copy = head->n_copy;
    tables_of(s, slot, head->n_slot, table, count);
    for (int i = 0; i < N_TABLE; i++) {
        if (count[i])
            memcpy(table[i], ints, (size_t)count[i] * sizeof *ints);
        ints += count[i];
    }
}
