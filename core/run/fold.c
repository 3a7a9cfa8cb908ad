#include "core/run/fold.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"

/* A new setting changes it: same_settings is to compare it, and lb_fold_lend to lend what it adds to a result. */
#define SETTINGS_BYTES 176
_Static_assert(sizeof(struct lb_settings) == SETTINGS_BYTES, "a setting that same_settings does not know");

enum lb_status lb_fold_init(struct lb_fold *f, size_t n_row, struct lb_err *err)
{
    size_t n = 16;
    while (n < 2 * n_row)
        n *= 2;
    f->slot = lb_mem_new(n, sizeof *f->slot);
    f->mask = n - 1;
    return f->slot ? LB_OK : lb_err_memory(err, "rows that are the same", n * sizeof *f->slot);
}

void lb_fold_release(struct lb_fold *f)
{
    lb_mem_free(f->slot);
    *f = (struct lb_fold){0};
}

/* Rows of several sequences are left alone. */
static bool may_fold(const struct lb_work *w)
{
    return w->n_part == 1 && w->set.sampling.greedy;
}

static bool same_stops(const struct lb_settings *a, const struct lb_settings *b)
{
    if (a->n_stop != b->n_stop || a->n_stop_ids != b->n_stop_ids)
        return false;
    for (size_t i = 0; i < a->n_stop; i++)
        if (strcmp(a->stop[i], b->stop[i]) != 0)
            return false;
    return a->n_stop_ids == 0 || memcmp(a->stop_ids, b->stop_ids, a->n_stop_ids * sizeof *a->stop_ids) == 0;
}

static bool same_penalty(const struct lb_penalty *a, const struct lb_penalty *b)
{
    if (a->repetition != b->repetition || a->presence != b->presence || a->frequency != b->frequency ||
        a->n_bias != b->n_bias)
        return false;
    for (size_t i = 0; i < a->n_bias; i++)
        if (a->bias[i].id != b->bias[i].id || a->bias[i].value != b->bias[i].value)
            return false;
    return true;
}

/* All that reaches beyond the choice of the largest logit; what only a draw asks for (seed, temperature) does not. */
static bool same_settings(const struct lb_settings *a, const struct lb_settings *b)
{
    return a->max_tokens == b->max_tokens && a->min_tokens == b->min_tokens && a->ignore_eos == b->ignore_eos &&
           a->skip_special == b->skip_special && a->include_stop == b->include_stop && a->logprobs == b->logprobs &&
           a->prompt_logprobs == b->prompt_logprobs && a->prompt_from == b->prompt_from && a->n == b->n &&
           a->adapter == b->adapter && same_penalty(&a->penalty, &b->penalty) && same_stops(a, b);
}

static bool same(const struct lb_work *a, const struct lb_work *b)
{
    return a->n_prompt == b->n_prompt && memcmp(a->prompt, b->prompt, (size_t)a->n_prompt * sizeof *a->prompt) == 0 &&
           same_settings(&a->set, &b->set);
}

static uint64_t hash_of(const struct lb_work *w)
{
    return lb_hash64(w->prompt, (size_t)w->n_prompt * sizeof *w->prompt, (uint64_t)w->set.max_tokens);
}

static void hang(struct lb_work *w, struct lb_work *on)
{
    lb_mem_free(w->prompt);
    w->prompt = NULL;
    w->twin = on->twin;
    on->twin = w;
}

size_t lb_fold_rows(struct lb_fold *f, struct lb_work **rows, size_t n)
{
    size_t left = 0;
    memset(f->slot, 0, (f->mask + 1) * sizeof *f->slot);
    for (size_t i = 0; i < n; i++) {
        struct lb_work *w = rows[i];
        rows[left++] = w;
        if (!may_fold(w))
            continue;
        size_t at = (size_t)hash_of(w) & f->mask;
        while (f->slot[at] && !same(rows[f->slot[at] - 1], w))
            at = (at + 1) & f->mask;
        if (f->slot[at]) {
            hang(w, rows[f->slot[at] - 1]);
            left--;
        } else {
            f->slot[at] = (uint32_t)left;
        }
    }
    return left;
}

void lb_fold_lend(struct lb_work *twin, const struct lb_work *ran)
{
    twin->prompt = ran->prompt;
    twin->out = ran->out;
    twin->n_out = ran->n_out;
    twin->logprob = ran->logprob;
    twin->top = ran->top;
    twin->scored = ran->scored;
    twin->scored_top = ran->scored_top;
    twin->fail = ran->fail;
    twin->finish = ran->finish;
    twin->ended_by_id = ran->ended_by_id;
    twin->stop_string = ran->stop_string;
    twin->text_bytes = ran->text_bytes;
    twin->time = ran->time;
    twin->steps = ran->steps;
    twin->rank = ran->rank;
}

void lb_fold_take_back(struct lb_work *twin)
{
    twin->prompt = NULL;
    twin->out = NULL;
    twin->logprob = NULL;
    twin->top = NULL;
    twin->scored = NULL;
    twin->scored_top = NULL;
}
