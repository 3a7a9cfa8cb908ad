#include "core/run/simulate.h"

#include <stdlib.h>

#include "core/base/mem.h"

enum lb_status lb_sim_add(struct lb_sim_rows *rows, int64_t n_prompt, int64_t n_new, struct lb_err *err)
{
    void *row = rows->row;
    LB_TRY(lb_mem_grow(&row, &rows->cap, rows->n + 1, sizeof *rows->row, "lengths of rows", err));
    rows->row = row;
    rows->row[rows->n++] = (struct lb_sim_row){(int32_t)n_prompt, (int32_t)n_new};
    return LB_OK;
}

void lb_sim_release(struct lb_sim_rows *rows)
{
    lb_mem_free(rows->row);
    *rows = (struct lb_sim_rows){0};
}

static int longest_first(const void *x, const void *y)
{
    const struct lb_sim_row *a = x, *b = y;
    if (a->n_prompt != b->n_prompt)
        return a->n_prompt < b->n_prompt ? 1 : -1;
    return (a->n_new < b->n_new) - (a->n_new > b->n_new);
}

void lb_sim_sort(struct lb_sim_rows *rows)
{
    if (rows->n)
        qsort(rows->row, rows->n, sizeof *rows->row, longest_first);
}

/* Rows in flight: those that run, and those that were evicted. What their tokens are does not matter, so all have the
 * same. */
struct simulation {
    struct lb_kv kv;
    struct lb_sched sched;
    struct lb_step step;
    struct lb_work *work; /* [n_work] */
    struct lb_work **free_work;
    size_t n_work, n_free;
    int32_t *ids; /* as many as the longest prompt or answer has, all 0 */
};

static enum lb_status begin(struct simulation *m, const struct lb_sim_rows *rows, const struct lb_plan *plan,
                            struct lb_err *err)
{
    int32_t longest = 1;
    for (size_t i = 0; i < rows->n; i++) {
        longest = rows->row[i].n_prompt > longest ? rows->row[i].n_prompt : longest;
        longest = rows->row[i].n_new > longest ? rows->row[i].n_new : longest;
    }
    m->n_work = m->n_free = 2 * (size_t)plan->max_seqs + 1;
    m->ids = lb_mem_new((size_t)longest, sizeof *m->ids);
    m->work = lb_mem_new(m->n_work, sizeof *m->work);
    m->free_work = lb_mem_new(m->n_work, sizeof(struct lb_work *));
    if (!m->ids || !m->work || !m->free_work)
        return lb_err_memory(err, "a simulation", m->n_work * sizeof *m->work);
    for (size_t i = 0; i < m->n_work; i++)
        m->free_work[i] = &m->work[i];
    LB_TRY(lb_kv_init(&m->kv, plan->kv_pages, (int32_t)plan->max_seqs, plan->max_model_len, err));
    struct lb_sched_spec spec = {.kv = &m->kv, .batch_tokens = plan->batch_tokens, .max_seqs = plan->max_seqs};
    LB_TRY(lb_sched_init(&m->sched, &spec, err));
    return lb_step_init(&m->step, plan->limit, err);
}

static void end(struct simulation *m)
{
    m->sched.n_seq = m->sched.n_evicted = 0; /* its rows are not the scheduler's to free */
    lb_sched_release(&m->sched);
    lb_kv_release(&m->kv);
    lb_step_release(&m->step);
    lb_mem_free(m->ids);
    lb_mem_free(m->work);
    lb_mem_free(m->free_work);
}

static bool admit(struct simulation *m, const struct lb_sim_row *row)
{
    if (m->n_free == 0)
        return false;
    struct lb_work *w = m->free_work[m->n_free - 1];
    *w = (struct lb_work){.prompt = m->ids, .out = m->ids, .n_prompt = row->n_prompt};
    w->set.max_tokens = row->n_new;
    w->set.sampling.greedy = true;
    w->set.logprobs = -1;
    if (!lb_sched_admit(&m->sched, &m->step, w))
        return false;
    m->n_free--;
    return true;
}

static void advance(struct simulation *m)
{
    for (int32_t j = 0; j < m->step.n_out; j++) {
        struct lb_work *w = lb_sched_advance(&m->sched, &m->step, j, 0);
        if (w->n_out < w->set.max_tokens)
            continue;
        lb_sched_finish(&m->sched, j);
        m->free_work[m->n_free++] = w;
    }
}

static enum lb_status run(struct simulation *m, const struct lb_sim_rows *rows, const struct lb_sim_watch *watch,
                          struct lb_err *err)
{
    for (size_t at = 0; at < rows->n || !lb_sched_idle(&m->sched);) {
        lb_sched_begin(&m->sched, &m->step);
        for (; at < rows->n; at++) {
            const struct lb_sim_row *row = &rows->row[at];
            bool never = lb_sched_peak_pages(row->n_prompt, row->n_new) > m->kv.n_page || row->n_new < 1;
            if (!never && !admit(m, row))
                break;
        }
        lb_sched_end(&m->sched, &m->step);
        if (m->step.n_tok == 0)
            break;
        LB_TRY(watch->step(watch->ctx, &m->sched, &m->step, err));
        advance(m);
    }
    return LB_OK;
}

enum lb_status lb_sim_run(const struct lb_sim_rows *rows, const struct lb_plan *plan, const struct lb_sim_watch *watch,
                          int64_t *peak_pages, struct lb_err *err)
{
    struct simulation m = {0};
    enum lb_status status = begin(&m, rows, plan, err);
    if (status == LB_OK)
        status = run(&m, rows, watch, err);
    *peak_pages = m.kv.peak_used;
    end(&m);
    return status;
}
