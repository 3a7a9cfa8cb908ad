#include "core/backend/step.h"

#include <stdbool.h>
#include <string.h>

#include "core/base/mem.h"
#include "kernels/types.h"

enum lb_status lb_step_init(struct lb_step *s, struct lb_step_limits limit, struct lb_err *err)
{
    *s = (struct lb_step){.limit = limit, .number = -1};
    if (limit.n_tok < 0 || limit.n_seq < 0 || limit.n_page < 0)
        return lb_err_set(err, LB_E_USAGE, "a step cannot hold %d tokens, %d sequences and %d pages", limit.n_tok,
                          limit.n_seq, limit.n_page);
    size_t n_tok = (size_t)limit.n_tok, n_seq = (size_t)limit.n_seq, n_page = (size_t)limit.n_page;
    size_t n = 6 * n_tok + 2 * (n_seq + 1) + 3 * n_seq + 2 * n_page;
    size_t draw_bytes = n_tok * sizeof *s->draw, bytes = draw_bytes + n * sizeof(int32_t);
    s->block = lb_mem_new(bytes, 1);
    if (!s->block)
        return lb_err_memory(err, "a step", bytes);
    s->block_bytes = bytes;
    s->draw = (struct lk_draw *)(void *)s->block;
    int32_t *at = (int32_t *)(void *)(s->block + draw_bytes);
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
    s->n_tok = s->n_seq = s->n_page = s->n_out = s->n_new = s->n_copy = s->n_later = 0;
    s->number++;
}

size_t lb_step_pack_max(const struct lb_step *s)
{
    size_t n_tok = (size_t)s->limit.n_tok;
    return (s->block_bytes - n_tok * sizeof *s->draw) / sizeof(int32_t) + n_tok;
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
                                  .n_later = s->n_later,
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
    s->n_later = head->n_later;
    tables_of(s, slot, head->n_slot, table, count);
    for (int i = 0; i < N_TABLE; i++) {
        if (count[i])
            memcpy(table[i], ints, (size_t)count[i] * sizeof *ints);
        ints += count[i];
    }
}

#define FAIL(...) return lb_err_set(err, LB_E_USAGE, __VA_ARGS__)

/* Whether the sequence's tokens and pages agree with each other and with the cache. */
static enum lb_status check_seq(const struct lb_step *s, int32_t is, int64_t n_page, struct lb_err *err)
{
    int32_t begin = s->seq_start[is], end = s->seq_start[is + 1];
    int32_t first = s->page_start[is], last = s->page_start[is + 1];
    if (begin < 0 || end <= begin || end > s->n_tok || first < 0 || last < first || last > s->n_page)
        FAIL("step %lld: sequence %d has tokens %d..%d and pages %d..%d", (long long)s->number, is, begin, end, first,
             last);
    if (s->pos[begin] < 0 || s->pos[begin] > INT32_MAX - (end - begin))
        FAIL("step %lld: sequence %d begins at position %d", (long long)s->number, is, s->pos[begin]);
    for (int32_t i = first; i < last; i++)
        if (s->page[i] < 0 || s->page[i] >= n_page)
            FAIL("step %lld: sequence %d: page %d of %lld", (long long)s->number, is, s->page[i], (long long)n_page);
    for (int32_t t = begin; t < end; t++) {
        int32_t at = s->pos[t] / LK_PAGE_TOKENS;
        if (s->pos[t] != s->pos[begin] + (t - begin) || at >= last - first || s->page[first + at] != s->tok_page[t])
            FAIL("step %lld: sequence %d: token %d has position %d and page %d", (long long)s->number, is, t, s->pos[t],
                 s->tok_page[t]);
    }
    return LB_OK;
}

enum lb_status lb_step_check(const struct lb_step *s, const struct lb_step_limits *limit, int64_t max_out,
                             int64_t n_page, struct lb_err *err)
{
    if (s->n_tok < 0 || s->n_tok > limit->n_tok || s->n_seq < 0 || s->n_seq > limit->n_seq || s->n_page < 0 ||
        s->n_page > limit->n_page || s->n_out < 0 || s->n_out > max_out || s->n_new < 0)
        FAIL("step %lld: %d tokens, %d sequences, %d pages, %d outputs are beyond %d, %d, %d, %lld",
             (long long)s->number, s->n_tok, s->n_seq, s->n_page, s->n_out, limit->n_tok, limit->n_seq, limit->n_page,
             (long long)max_out);
    if (s->seq_start[0] != 0 || s->seq_start[s->n_seq] != s->n_tok)
        FAIL("step %lld: the sequences do not cover the tokens", (long long)s->number);
    for (int32_t is = 0; is < s->n_seq; is++)
        LB_TRY(check_seq(s, is, n_page, err));
    for (int32_t j = 0; j < s->n_out; j++)
        if (s->out_tok[j] < 0 || s->out_tok[j] >= s->n_tok || (j > 0 && s->out_tok[j] <= s->out_tok[j - 1]))
            FAIL("step %lld: output %d asks for token %d of %d", (long long)s->number, j, s->out_tok[j], s->n_tok);
    if (s->n_copy < 0 || s->n_copy > limit->n_seq)
        FAIL("step %lld: %d copies are beyond %d", (long long)s->number, s->n_copy, limit->n_seq);
    for (int32_t i = 0; i < s->n_copy; i++)
        if (s->copy_from[i] < 0 || s->copy_from[i] >= n_page || s->copy_to[i] < 0 || s->copy_to[i] >= n_page ||
            s->copy_from[i] == s->copy_to[i])
            FAIL("step %lld: page %d of %lld is to be a copy of %d", (long long)s->number, s->copy_to[i],
                 (long long)n_page, s->copy_from[i]);
    for (int32_t i = 0; i < s->n_new; i++)
        if (s->new_page[i] < 0 || s->new_page[i] >= n_page)
            FAIL("step %lld: new page %d of %lld", (long long)s->number, s->new_page[i], (long long)n_page);
    return LB_OK;
}

enum lb_status lb_step_check_adapters(const struct lb_step *s, int32_t n_adapter, struct lb_err *err)
{
    for (int32_t is = 0; is < s->n_seq; is++)
        if (s->adapter[is] < 0 || s->adapter[is] > n_adapter)
            return lb_err_set(err, LB_E_USAGE, "step %lld: sequence %d has adapter %d of %d", (long long)s->number, is,
                              s->adapter[is], n_adapter);
    return LB_OK;
}

enum lb_status lb_step_resolve(const struct lb_step *s, const int32_t *slot, int64_t n_slot, int64_t n_vocab,
                               int32_t *id_of, struct lb_err *err)
{
    for (int32_t t = 0; t < s->n_tok; t++) {
        int32_t id = s->tok[t];
        if (id < 0) {
            if (~id >= n_slot)
                FAIL("step %lld: token %d is the sample of slot %d of %lld", (long long)s->number, t, ~id,
                     (long long)n_slot);
            id = slot ? slot[~id] : id;
        }
        if ((slot && id < 0) || id >= n_vocab)
            FAIL("step %lld: token %d has id %d, outside the vocabulary of %lld", (long long)s->number, t, id,
                 (long long)n_vocab);
        id_of[t] = id;
    }
    return LB_OK;
}
