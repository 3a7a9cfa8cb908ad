#include "core/run/sched.h"

#include "core/base/mem.h"

enum lb_status lb_sched_init(struct lb_sched *s, struct lb_kv *kv, int64_t batch_tokens, int64_t max_seqs,
                             struct lb_err *err)
{
    *s = (struct lb_sched){.kv = kv, .batch_tokens = batch_tokens, .max_seqs = max_seqs};
    s->seq = lb_mem_new((size_t)max_seqs, sizeof *s->seq);
    s->out_seq = lb_mem_new((size_t)(max_seqs < batch_tokens ? max_seqs : batch_tokens), sizeof *s->out_seq);
    if (!s->seq || !s->out_seq) {
        lb_sched_release(s);
        return lb_err_memory(err, "the scheduler", (size_t)max_seqs * sizeof *s->seq);
    }
    return LB_OK;
}

void lb_sched_release(struct lb_sched *s)
{
    for (int64_t i = 0; s->seq && i < s->n_seq; i++)
        if (s->seq[i].work && lb_work_end(s->seq[i].work->lead, 1))
            lb_work_free(s->seq[i].work->lead);
    lb_mem_free(s->seq);
    lb_mem_free(s->out_seq);
    *s = (struct lb_sched){0};
}

static int32_t token_of(const struct lb_seq *q, const struct lb_step *step, int64_t pos)
{
    const struct lb_work *w = q->work;
    if (pos < w->n_prompt)
        return w->prompt[pos];
    if (pos == w->n_prompt + w->n_out - 1 && q->slot_step == step->number - 1)
        return ~q->slot;
    return w->out[pos - w->n_prompt];
}

/* The next n tokens of a row. Its pages were set aside, so extending cannot fail. */
static void put(struct lb_sched *s, struct lb_step *step, int64_t index, int64_t n)
{
    struct lb_seq *q = &s->seq[index];
    const struct lb_work *w = q->work;
    int64_t begin = q->n_fed, end = begin + n;
    lb_kv_extend(s->kv, q->kv_seq, end);
    const struct lb_kv_seq *pages = &s->kv->seq[q->kv_seq];
    step->seq_start[step->n_seq] = step->n_tok;
    step->page_start[step->n_seq] = step->n_page;
    step->n_seq++;
    for (int32_t i = 0; i < pages->n_page; i++)
        step->page[step->n_page++] = pages->page[i];
    for (int64_t pos = begin; pos < end; pos++) {
        int32_t t = step->n_tok++;
        step->tok[t] = token_of(q, step, pos);
        step->pos[t] = (int32_t)pos;
        step->tok_page[t] = pages->page[pos / LK_PAGE_TOKENS];
        step->rope_len[t] = (int32_t)(pos < w->n_prompt ? w->n_prompt : pos + 1);
    }
    if (end >= w->n_prompt) {
        s->out_seq[step->n_out] = (int32_t)index;
        step->out_tok[step->n_out] = step->n_tok - 1;
        step->out_flags[step->n_out] = lb_work_needs_logits(w) ? LB_OUT_LOGITS : 0;
        step->n_out++;
    }
    if (begin < w->n_prompt)
        s->n_prefill += n;
    else
        s->n_decode += n;
    q->n_fed = end;
    s->n_stored += n;
    q->work->steps++;
}

static int64_t room(const struct lb_sched *s, const struct lb_step *step)
{
    return s->batch_tokens - step->n_tok;
}

static void sweep(struct lb_sched *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_seq; i++) {
        if (s->seq[i].work)
            s->seq[n++] = s->seq[i];
    }
    s->n_seq = n;
}

static bool in_prompt(const struct lb_seq *q)
{
    return q->n_fed < q->work->n_prompt;
}

void lb_sched_begin(struct lb_sched *s, struct lb_step *step)
{
    sweep(s);
    lb_step_clear(step);
    s->n_prefill = s->n_decode = 0;
    for (int64_t i = 0; i < s->n_seq; i++)
        if (!in_prompt(&s->seq[i]))
            put(s, step, i, 1);
    for (int64_t i = 0; i < s->n_seq && room(s, step) > 0; i++) {
        if (!in_prompt(&s->seq[i]))
            continue;
        int64_t left = s->seq[i].work->n_prompt - s->seq[i].n_fed;
        put(s, step, i, left < room(s, step) ? left : room(s, step));
    }
}

bool lb_sched_admit(struct lb_sched *s, struct lb_step *step, struct lb_work *w)
{
    int64_t peak = lb_sched_peak_pages(w->n_prompt, w->set.max_tokens);
    if (s->n_seq == s->max_seqs || room(s, step) < 1 || s->n_page + peak > s->kv->n_page)
        return false;
    int32_t kv_seq = lb_kv_open(s->kv);
    if (kv_seq < 0)
        return false;
    s->n_page += peak;
    s->seq[s->n_seq++] = (struct lb_seq){.work = w, .kv_seq = kv_seq, .n_page = peak, .slot_step = -2};
    put(s, step, s->n_seq - 1, w->n_prompt < room(s, step) ? w->n_prompt : room(s, step));
    return true;
}

void lb_sched_end(struct lb_sched *s, struct lb_step *step)
{
    step->seq_start[step->n_seq] = step->n_tok;
    step->page_start[step->n_seq] = step->n_page;
    step->n_new = lb_kv_take_new(s->kv, step->new_page, step->limit.n_page);
}

struct lb_work *lb_sched_advance(struct lb_sched *s, const struct lb_step *step, int32_t j, int32_t id)
{
    struct lb_seq *q = &s->seq[s->out_seq[j]];
    q->work->out[q->work->n_out++] = id;
    q->slot = j;
    q->slot_step = step->number;
    return q->work;
}

void lb_sched_finish(struct lb_sched *s, int32_t j)
{
    struct lb_seq *q = &s->seq[s->out_seq[j]];
    lb_kv_close(s->kv, q->kv_seq);
    s->n_page -= q->n_page;
    s->n_stored -= q->n_fed;
    q->work = NULL;
}
