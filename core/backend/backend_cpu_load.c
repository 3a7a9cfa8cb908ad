/* The CPU backend's weights: packed in parallel from rows that are read lazily. */
#include <stdatomic.h>
#include <string.h>

#include "core/backend/backend_cpu.h"

struct pack_job {
    const struct lb_cpu *c;
    const struct lb_matrix_spec *spec;
    const struct lb_matrix *m;
    _Atomic bool no_memory;
};

/* Rows begin .. begin + n of a part of the matrix that ends at row `limit`, NULL beyond it: where they lie, or read to
 * `scratch`, [n, n_col]. */
static void gather(const struct lb_rows *r, int64_t begin, int64_t limit, int64_t n, const void **row, float *scratch)
{
    int64_t real = limit - begin < n ? limit - begin : n;
    if (real > 0 && !r->at)
        r->get(r, begin, real, scratch);
    for (int64_t i = 0; i < n; i++)
        row[i] = i >= real ? NULL : r->at ? r->at(r, begin + i) : scratch + i * r->n_col;
}

/* Memory for what is packed. */
static void *weight_take(struct lb_cpu *c, size_t n, size_t size, const char *name, struct lb_err *err)
{
    struct lb_weight_mem *mem = c->weight_mem;
    if (!mem)
        return lb_cpu_take(c, n, size, name, err);
    size_t at = (mem->used + 63) / 64 * 64;
    if (at > mem->bytes || (size > 0 && n > (mem->bytes - at) / size)) {
        lb_err_set(err, LB_E_DEVICE, "%s: %zu bytes of shared memory are too few", name, mem->bytes);
        return NULL;
    }
    mem->used = at + n * size;
    return mem->data + at;
}

/* Counts where nothing else is to be done. */
static bool only_measures(const struct lb_cpu *c, size_t n, size_t size)
{
    struct lb_weight_mem *mem = c->weight_mem;
    if (!mem || mem->data)
        return false;
    mem->used = (mem->used + 63) / 64 * 64 + n * size;
    return true;
}

static bool packs(const struct lb_cpu *c)
{
    return !c->weight_mem || c->weight_mem->reads;
}

static size_t weight_bytes(const struct lk_cpu *lk, bool int8, int64_t n_out, const struct lk_cols *cols)
{
    return int8 ? lk->int8.weight_bytes(n_out, cols) : lk->weight_bytes(n_out, cols);
}

static int64_t panels_of(const struct lb_matrix *m)
{
    return (m->n_out + m->lk->panel_cols - 1) / m->lk->panel_cols;
}

static void pack_panels(void *ctx, int64_t begin, int64_t end)
{
    struct pack_job *job = ctx;
    const struct lb_rows *r = job->spec->rows;
    int64_t width = job->m->lk->panel_cols;
    const void **row = lb_mem_new((size_t)width, sizeof *row);
    float *scratch = r->at ? NULL : lb_mem_new((size_t)(width * r->n_col), sizeof *scratch);
    if (!row || (!scratch && !r->at)) {
        lb_mem_free(row);
        lb_mem_free(scratch);
        atomic_store(&job->no_memory, true);
        return;
    }
    int64_t n_panel = panels_of(job->m);
    for (int64_t i = begin; i < end; i++) {
        int64_t head = i / n_panel, p = i % n_panel, first = head * job->m->n_out;
        if (job->m->gate_up) {
            int64_t half = width / 2, ffn = r->n_row / 2;
            gather(r, p * half, ffn, half, row, scratch);
            gather(r, ffn + p * half, 2 * ffn, half, row + half, scratch ? scratch + half * r->n_col : NULL);
        } else {
            gather(r, first + p * width, first + job->m->n_out, width, row, scratch);
        }
        void *w = (char *)job->m->w + (size_t)head * job->m->head_bytes;
        struct lk_pack pack = {w, p, row, r->at ? (enum lk_type)r->data_type : LK_F32, &job->m->cols};
        if (job->m->int8)
            job->m->lk->int8.pack(&pack);
        else
            job->m->lk->pack(&pack);
    }
    lb_mem_free(row);
    lb_mem_free(scratch);
}

/* Panels of a claim: some megabytes of them where that leaves each thread several claims. Two threads that touch a
 * fresh huge page at the same time clear one each, and one of the two is thrown away. */
static int64_t pack_grain(const struct lb_cpu *c, const struct lb_matrix *m, int64_t n_panel)
{
    int64_t panel_bytes = (int64_t)weight_bytes(m->lk, m->int8, m->lk->panel_cols, &m->cols);
    int64_t wide = ((int64_t)8 << 20) / (panel_bytes + 1) + 1, fair = lb_cpu_grain(c, n_panel, 4);
    return wide < fair ? wide : fair;
}

enum lb_status lb_cpu_heads_new(struct lb_backend *be, const struct lb_matrix_spec *spec, int64_t n_head,
                                struct lb_matrix **out, struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    *out = NULL;
    if (spec->cols->n_col != spec->rows->n_col || spec->rows->n_row % n_head != 0 ||
        (spec->gate_up && (n_head > 1 || spec->rows->n_row % 2 != 0)))
        return lb_err_set(err, LB_E_INPUT, "%s: %lld rows of %lld columns do not fit %lld columns", spec->name,
                          (long long)spec->rows->n_row, (long long)spec->rows->n_col, (long long)spec->cols->n_col);
    const struct lk_cpu *lk = spec->f32 ? &c->lk_f32 : &c->lk;
    size_t head_bytes = (weight_bytes(lk, spec->int8, spec->rows->n_row / n_head, spec->cols) + 63) / 64 * 64;
    if (spec->int8)
        LB_TRY(lb_cpu_int8_check(spec, err));
    if (only_measures(c, (size_t)n_head, head_bytes))
        return LB_OK;
    struct lb_matrix *m = lb_cpu_take(c, 1, sizeof *m, spec->name, err);
    if (!m)
        return LB_E_DEVICE;
    m->cols = *spec->cols;
    m->n_out = spec->rows->n_row / n_head;
    m->n_head = n_head;
    m->gate_up = spec->gate_up;
    m->int8 = spec->int8;
    m->lk = lk;
    m->head_bytes = head_bytes;
    m->w = weight_take(c, (size_t)n_head, head_bytes, spec->name, err);
    if (!m->w)
        return LB_E_DEVICE;
    *out = m;
    size_t row_bytes = spec->int8 ? lk->int8.act_bytes(1, spec->cols) : 0;
    c->int8_row_bytes = row_bytes > c->int8_row_bytes ? row_bytes : c->int8_row_bytes;
    c->base.counts.weight_bytes += n_head * (int64_t)m->head_bytes;
    if (!packs(c))
        return LB_OK;
    struct pack_job job = {c, spec, m, false};
    int64_t n_panel = panels_of(m) * n_head;
    lb_team_run(c->team, pack_panels, &job, n_panel, pack_grain(c, m, n_panel));
    if (atomic_load(&job.no_memory))
        return lb_err_memory(err, spec->name, (unsigned long long)(m->lk->panel_cols * m->cols.n_col) * sizeof(float));
    return LB_OK;
}

enum lb_status lb_cpu_matrix_new(struct lb_backend *be, const struct lb_matrix_spec *spec, struct lb_matrix **out,
                                 struct lb_err *err)
{
    return lb_cpu_heads_new(be, spec, 1, out, err);
}

struct convert_job {
    const struct lb_cpu *c;
    const struct lb_rows *rows;
    void *out;
    _Atomic bool no_memory;
};

static void convert_rows(void *ctx, int64_t begin, int64_t end)
{
    struct convert_job *job = ctx;
    const struct lb_rows *r = job->rows;
    if (job->c->base.dtype == LB_F32) {
        r->get(r, begin, end - begin, (float *)job->out + begin * r->n_col);
        return;
    }
    float *row = lb_mem_new((size_t)r->n_col, sizeof *row);
    if (!row) {
        atomic_store(&job->no_memory, true);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        uint16_t *to = (uint16_t *)job->out + i * r->n_col;
        r->get(r, i, 1, row);
        for (int64_t k = 0; k < r->n_col; k++)
            to[k] = lb_bf16_round(row[k]);
    }
    lb_mem_free(row);
}

enum lb_status lb_cpu_table_new(struct lb_backend *be, const struct lb_rows *rows, int64_t first, struct lb_table **out,
                                struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    *out = NULL;
    size_t elem = lb_cpu_elem_bytes(c), n = (size_t)rows->n_row * (size_t)rows->n_col;
    bool borrows = rows->data && rows->data_type == c->base.dtype && (uintptr_t)rows->data % elem == 0;
    if (only_measures(c, borrows ? 0 : n, elem))
        return LB_OK;
    struct lb_table *t = lb_cpu_take(c, 1, sizeof *t, "the embedding table", err);
    if (!t)
        return LB_E_DEVICE;
    t->first = first;
    t->n_row = rows->n_row;
    t->n_col = rows->n_col;
    *out = t;
    t->data = rows->data;
    if (borrows)
        return LB_OK;
    void *copy = weight_take(c, n, elem, "the embedding table", err);
    if (!copy)
        return LB_E_DEVICE;
    t->data = copy;
    c->base.counts.weight_bytes += (int64_t)(n * elem);
    if (!packs(c))
        return LB_OK;
    struct convert_job job = {c, rows, copy, false};
    lb_team_run(c->team, convert_rows, &job, rows->n_row, 64);
    if (atomic_load(&job.no_memory))
        return lb_err_memory(err, "a row of the embedding table", (unsigned long long)rows->n_col * sizeof(float));
    return LB_OK;
}

enum lb_status lb_cpu_vector_new(struct lb_backend *be, const float *host, int64_t n, const float **out,
                                 struct lb_err *err)
{
    *out = NULL;
    if (only_measures(lb_cpu_of(be), 0, 0)) /* each process has its own */
        return LB_OK;
    float *copy = lb_cpu_take(lb_cpu_of(be), (size_t)n, sizeof *copy, "a vector", err);
    if (!copy)
        return LB_E_DEVICE;
    memcpy(copy, host, (size_t)n * sizeof *copy);
    *out = copy;
    return LB_OK;
}
