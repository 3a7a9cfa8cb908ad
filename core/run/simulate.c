#include "core/run/simulate.h"

#include <stdlib.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/run/order.h"

enum lb_status lb_sim_add(struct lb_sim_rows *rows, const int32_t *prompt, int64_t n_prompt, int64_t n_new,
                          struct lb_err *err)
{
    size_t n_page = prompt ? (size_t)(n_prompt / LK_PAGE_TOKENS) : 0;
    void *row = rows->row, *page = rows->page;
    enum lb_status status = lb_mem_grow(&row, &rows->cap, rows->n + 1, sizeof *rows->row, "lengths of rows", err);
    rows->row = row;
    LB_TRY(status);
    status = lb_mem_grow(&page, &rows->cap_page, rows->n_page + n_page, sizeof *rows->page, "beginnings of rows", err);
    rows->page = page;
    LB_TRY(status);
    rows->row[rows->n++] = (struct lb_sim_row){.n_prompt = (int32_t)n_prompt,
                                               .n_new = (int32_t)(n_new > 0 ? n_new : 1),
                                               .page = rows->n_page,
                                               .n_page = (int32_t)n_page};
    uint64_t key = 0;
    for (size_t i = 0; i < n_page; i++) {
        key = lb_hash64(prompt + i * LK_PAGE_TOKENS, LK_PAGE_TOKENS * sizeof *prompt, key);
        rows->page[rows->n_page++] = key;
    }
    return LB_OK;
}

void lb_sim_release(struct lb_sim_rows *rows)
{
    lb_mem_free(rows->row);
    lb_mem_free(rows->page);
    *rows = (struct lb_sim_rows){0};
}

/* ---- the order ---- */

/* A page that rows begin with: how many, and the longest prompt and course of those. */
struct page_use {
    uint64_t key;
    uint32_t n_row; /* 0: a free place */
    int32_t longest, course;
};

/* The place of a page in use[mask + 1], by its hash. */
static size_t place_of(const struct page_use *use, size_t mask, uint64_t key)
{
    size_t at = (size_t)key & mask;
    while (use[at].n_row > 0 && use[at].key != key)
        at = (at + 1) & mask;
    return at;
}

/* Hashes become places, which are as different as they are. */
static void count_pages(struct lb_sim_rows *rows, struct page_use *use, size_t mask)
{
    for (size_t i = 0; i < rows->n; i++) {
        const struct lb_sim_row *row = &rows->row[i];
        for (size_t k = row->page; k < row->page + (size_t)row->n_page; k++) {
            size_t at = place_of(use, mask, rows->page[k]);
            use[at].key = rows->page[k];
            use[at].n_row++;
            use[at].longest = row->n_prompt > use[at].longest ? row->n_prompt : use[at].longest;
            use[at].course = row->course > use[at].course ? row->course : use[at].course;
            rows->page[k] = at;
        }
    }
}

static int by_group(const void *x, const void *y)
{
    const struct lb_sim_row *a = x, *b = y;
    if (a->group_course != b->group_course)
        return a->group_course < b->group_course ? 1 : -1;
    if (a->group_len != b->group_len)
        return a->group_len < b->group_len ? 1 : -1;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    if (a->course != b->course)
        return a->course < b->course ? 1 : -1;
    if (a->n_prompt != b->n_prompt)
        return a->n_prompt < b->n_prompt ? 1 : -1;
    return (a->n_new < b->n_new) - (a->n_new > b->n_new);
}

enum lb_status lb_sim_order(struct lb_sim_rows *rows, bool by_course, struct lb_err *err)
{
    for (size_t i = 0; i < rows->n; i++)
        rows->row[i].course = by_course ? (int32_t)lb_row_course(rows->row[i].n_prompt, rows->row[i].n_new) : 0;
    size_t mask = 15;
    while (mask < 2 * rows->n_page)
        mask = 2 * mask + 1;
    struct page_use *use = lb_mem_new(mask + 1, sizeof *use);
    if (!use)
        return lb_err_memory(err, "beginnings of rows", mask * sizeof *use);
    count_pages(rows, use, mask);
    for (size_t i = 0; i < rows->n; i++) {
        struct lb_sim_row *row = &rows->row[i];
        const uint64_t *page = rows->page ? rows->page + row->page : NULL;
        while (row->n_shared < row->n_page && use[page[row->n_shared]].n_row > 1)
            row->n_shared++;
        bool alone = row->n_shared == 0;
        row->group = alone ? SIZE_MAX : (size_t)page[0];
        row->group_course = alone ? row->course : use[page[0]].course;
        row->group_len = alone ? row->n_prompt : use[page[0]].longest;
    }
    lb_mem_free(use);
    if (rows->n)
        qsort(rows->row, rows->n, sizeof *rows->row, by_group);
    return LB_OK;
}

/* ---- the run ---- */

/* Rows in flight: those that run, and those that were evicted. What their tokens are does not matter, apart from what
 * they share: so all have the same, and pages that are shared are made of their numbers. */
struct simulation {
    const struct lb_sim_rows *rows;
    struct lb_kv kv;
    struct lb_prefix prefix;
    struct lb_sched sched;
    struct lb_step step;
    struct lb_work *work; /* [n_work] */
    struct lb_work **free_work;
    size_t n_work, n_free;
    int32_t *ids;         /* as many as the longest prompt or answer has, all 0 */
    struct lb_work *next; /* made of the row that waits; NULL: not yet */
};

static enum lb_status begin(struct simulation *m, const struct lb_plan *plan, bool shares, struct lb_err *err)
{
    const struct lb_sim_rows *rows = m->rows;
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
    if (shares)
        LB_TRY(lb_prefix_init(&m->prefix, &m->kv, err));
    m->kv.max_idle = plan->kv_pages / LB_IDLE_SHARE;
    struct lb_sched_spec spec = {.kv = &m->kv,
                                 .prefix = shares ? &m->prefix : NULL,
                                 .batch_tokens = plan->batch_tokens,
                                 .max_seqs = plan->max_seqs};
    LB_TRY(lb_sched_init(&m->sched, &spec, err));
    return lb_step_init(&m->step, plan->limit, err);
}

static void drop(const struct simulation *m, struct lb_work *w)
{
    if (w->prompt != m->ids)
        lb_mem_free(w->prompt);
    w->prompt = m->ids;
}

static void end(struct simulation *m)
{
    for (size_t i = 0; m->work && i < m->n_work; i++)
        drop(m, &m->work[i]);
    m->sched.n_seq = m->sched.n_evicted = 0; /* its rows are not the scheduler's to free */
    lb_sched_release(&m->sched);
    lb_prefix_release(&m->prefix);
    lb_kv_release(&m->kv);
    lb_step_release(&m->step);
    lb_mem_free(m->ids);
    lb_mem_free(m->work);
    lb_mem_free(m->free_work);
}

/* The row as m->next. */
static enum lb_status prepare(struct simulation *m, const struct lb_sim_row *row, struct lb_err *err)
{
    struct lb_work *w = m->free_work[--m->n_free];
    *w = (struct lb_work){.prompt = m->ids, .out = m->ids, .n_prompt = row->n_prompt};
    w->set.max_tokens = row->n_new;
    w->set.sampling.greedy = true;
    w->set.logprobs = w->set.prompt_logprobs = -1;
    m->next = w;
    if (row->n_shared == 0 || !m->sched.spec.prefix)
        return LB_OK;
    int32_t *ids = lb_mem_new((size_t)row->n_prompt, sizeof *ids);
    if (!ids)
        return lb_err_memory(err, "a simulation", (size_t)row->n_prompt * sizeof *ids);
    w->n_shared = (int64_t)row->n_shared * LK_PAGE_TOKENS;
    for (int64_t i = 0; i < w->n_shared; i++)
        ids[i] = (int32_t)(m->rows->page[row->page + (size_t)(i / LK_PAGE_TOKENS)] & INT32_MAX);
    w->prompt = ids;
    return LB_OK;
}

static void advance(struct simulation *m)
{
    for (int32_t j = 0; j < m->step.n_out; j++) {
        struct lb_work *w = lb_sched_advance(&m->sched, m->sched.outs, j, 0);
        if (w->n_out < w->set.max_tokens)
            continue;
        lb_sched_finish(&m->sched, m->sched.outs, j);
        drop(m, w);
        m->free_work[m->n_free++] = w;
    }
}

/* As many rows as there is room for, from *at on. */
static enum lb_status fill(struct simulation *m, size_t *at, struct lb_err *err)
{
    for (; *at < m->rows->n && (m->next || m->n_free > 0); (*at)++) {
        const struct lb_sim_row *row = &m->rows->row[*at];
        if (lb_sched_peak_pages(row->n_prompt, row->n_new) > m->kv.n_page)
            continue;
        if (!m->next)
            LB_TRY(prepare(m, row, err));
        if (!lb_sched_admit(&m->sched, &m->step, m->next))
            return LB_OK;
        m->next = NULL;
    }
    return LB_OK;
}

static enum lb_status run(struct simulation *m, const struct lb_sim_watch *watch, struct lb_err *err)
{
    for (size_t at = 0; at < m->rows->n || !lb_sched_idle(&m->sched);) {
        lb_sched_begin(&m->sched, &m->step);
        LB_TRY(fill(m, &at, err));
        lb_sched_end(&m->sched, &m->step);
        if (m->step.n_tok == 0)
            break;
        LB_TRY(watch->step(watch->ctx, &m->sched, &m->step, err));
        advance(m);
    }
    return LB_OK;
}

enum lb_status lb_sim_run(const struct lb_sim_rows *rows, const struct lb_plan *plan, bool shares,
                          const struct lb_sim_watch *watch, int64_t *peak_pages, struct lb_err *err)
{
    struct simulation m = {.rows = rows};
    enum lb_status status = begin(&m, plan, shares, err);
    if (status == LB_OK)
        status = run(&m, watch, err);
    *peak_pages = m.kv.peak_used;
    end(&m);
    return status;
}
