/* The CPU backend's weights: packed in parallel from rows that are read lazily. */
#include <stdatomic.h>
#include <string.h>

#include "core/backend/backend_cpu_int8.h"

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

static int64_t panels_of(const struct lb_matrix *m)
{
    return (m->n_out + m->lk->panel_cols - 1) / m->lk->panel_cols;
}

struct pack_job {
    const struct lb_matrix_spec *spec;
    const struct lb_matrix *m;
    int64_t row; /* of spec's rows, where the matrix begins */
    _Atomic bool no_memory;
};

/* Rows begin .. begin + n of a part of the matrix that ends at row `limit`. */
struct span {
    int64_t begin, limit, n;
};

/* The rows of a panel: one span, or of a gate-up matrix gate rows and up rows. */
static int spans_of(const struct pack_job *job, int64_t item, struct span out[2])
{
    const struct lb_matrix *m = job->m;
    int64_t width = m->lk->panel_cols, n_panel = panels_of(m), p = item % n_panel;
    if (m->gate_up) {
        int64_t half = width / 2, ffn = m->n_out / 2;
        out[0] = (struct span){p * half, ffn, half};
        out[1] = (struct span){ffn + p * half, 2 * ffn, half};
        return 2;
    }
    int64_t first = job->row + item / n_panel * m->n_out;
    out[0] = (struct span){first + p * width, first + m->n_out, width};
    return 1;
}

/* A thread's room for the rows of a panel. */
struct room {
    const void **row; /* [width] where they lie, NULL beyond the last one */
    float *number;    /* [width, n_col] those that lie nowhere as numbers */
    struct lk_codes *col;
    uint8_t *code; /* [width, codes_bytes] taken apart */
};

static bool room_init(struct room *room, const struct pack_job *job)
{
    const struct lb_rows *r = job->spec->rows;
    size_t width = (size_t)job->m->lk->panel_cols;
    *room = (struct room){0};
    if (job->m->packed) {
        room->col = lb_mem_new(width, sizeof *room->col);
        room->code = lb_mem_new(width, r->codes_bytes);
        return room->col && room->code;
    }
    room->row = lb_mem_new(width, sizeof *room->row);
    room->number = r->at ? NULL : lb_mem_new(width * (size_t)r->n_col, sizeof *room->number);
    return room->row && (room->number || r->at);
}

static void room_release(struct room *room)
{
    lb_mem_free(room->row);
    lb_mem_free(room->number);
    lb_mem_free(room->col);
    lb_mem_free(room->code);
}

static void gather_numbers(const struct lb_rows *r, const struct span *s, const void **row, float *number)
{
    int64_t real = s->limit - s->begin < s->n ? s->limit - s->begin : s->n;
    if (real > 0 && !r->at)
        r->get(r, s->begin, real, number);
    for (int64_t i = 0; i < s->n; i++)
        row[i] = i >= real ? NULL : r->at ? r->at(r, s->begin + i) : number + i * r->n_col;
}

static void gather_codes(const struct lb_rows *r, const struct span *s, struct lk_codes *col, uint8_t *code)
{
    for (int64_t i = 0; i < s->n; i++) {
        col[i] = (struct lk_codes){0};
        if (s->begin + i < s->limit)
            r->codes(r, s->begin + i, code + (size_t)i * r->codes_bytes, &col[i]);
    }
}

static void pack_panel(const struct pack_job *job, int64_t item, const struct room *room)
{
    const struct lb_matrix *m = job->m;
    const struct lb_rows *r = job->spec->rows;
    struct span span[2];
    int n_span = spans_of(job, item, span);
    int64_t n_panel = panels_of(m), at = 0;
    void *w = (char *)m->w + (size_t)(item / n_panel) * m->head_bytes;
    for (int i = 0; i < n_span; at += span[i++].n) {
        if (m->packed)
            gather_codes(r, &span[i], room->col + at, room->code + (size_t)at * r->codes_bytes);
        else
            gather_numbers(r, &span[i], room->row + at, room->number ? room->number + at * r->n_col : NULL);
    }
    struct lk_pack numbers = {w, item % n_panel, room->row, r->at ? (enum lk_type)r->data_type : LK_F32, &m->cols};
    struct lk_pack_codes codes = {w, item % n_panel, room->col, &m->q, &m->cols};
    if (m->packed)
        (m->int8 ? m->lk->w4a8.pack_codes : m->lk->pack_codes)(&codes);
    else if (m->int8)
        m->lk->int8.pack(&numbers);
    else
        m->lk->pack(&numbers);
}

static void pack_panels(void *ctx, int64_t begin, int64_t end)
{
    struct pack_job *job = ctx;
    struct room room;
    if (!room_init(&room, job))
        atomic_store(&job->no_memory, true);
    else
        for (int64_t i = begin; i < end; i++)
            pack_panel(job, i, &room);
    room_release(&room);
}

/* Panels of a claim: some megabytes of them where that leaves each thread several claims. Two threads that touch a
 * fresh huge page at the same time clear one each, and one of the two is thrown away. */
static int64_t pack_grain(const struct lb_cpu *c, const struct lb_matrix *m, int64_t n_panel)
{
    int64_t panel_bytes = (int64_t)m->head_bytes / (panels_of(m) + 1);
    int64_t wide = ((int64_t)8 << 20) / (panel_bytes + 1) + 1, fair = lb_cpu_grain(c, n_panel, 4);
    return wide < fair ? wide : fair;
}

bool lb_cpu_keeps(const struct lb_backend *be, const struct lk_packed *how, const struct lk_cols *cols, bool int8)
{
    return !be->unpack && lk_packed_fits(how, cols) && (!int8 || (be->w4a8 && lk_w4a8_has(how->kind)));
}

/* Matrices of the spec's rows from `row` on, as many and as large as *m says, packed as it says. */
static enum lb_status matrix_pack(struct lb_cpu *c, const struct lb_matrix_spec *spec, int64_t row, struct lb_matrix *m,
                                  struct lb_err *err)
{
    m->w = weight_take(c, (size_t)m->n_head, m->head_bytes, spec->name, err);
    if (!m->w)
        return LB_E_DEVICE;
    c->base.counts.weight_bytes += m->n_head * (int64_t)m->head_bytes;
    if (!packs(c))
        return LB_OK;
    struct pack_job job = {spec, m, row, false};
    int64_t n_panel = panels_of(m) * m->n_head;
    lb_team_run(c->team, pack_panels, &job, n_panel, pack_grain(c, m, n_panel));
    if (atomic_load(&job.no_memory))
        return lb_err_memory(err, spec->name, (unsigned long long)(m->lk->panel_cols * m->cols.n_col) * sizeof(float));
    return LB_OK;
}

/* The rows of `run` from `row` on as matrices; *out stays NULL where memory is only measured. */
static enum lb_status run_new(struct lb_cpu *c, const struct lb_matrix_spec *spec, const struct lb_packed_run *run,
                              struct lb_matrix like, struct lb_matrix **out, struct lb_err *err)
{
    like.packed = run->packed;
    like.q = run->how;
    like.n_out = run->n_row / like.n_head;
    like.lk = spec->f32 ? &c->lk_f32 : &c->lk;
    size_t bytes = run->packed ? like.lk->packed_bytes(&run->how, like.n_out, spec->cols)
                   : like.int8 ? like.lk->int8.weight_bytes(like.n_out, spec->cols)
                               : like.lk->weight_bytes(like.n_out, spec->cols);
    like.head_bytes = (bytes + 63) / 64 * 64;
    if (only_measures(c, (size_t)like.n_head, like.head_bytes))
        return LB_OK;
    struct lb_matrix *m = lb_cpu_take(c, 1, sizeof *m, spec->name, err);
    if (!m)
        return LB_E_DEVICE;
    *m = like;
    *out = m;
    size_t row_bytes = m->int8 ? lb_cpu_int8_ops(m->lk, m->packed).act_bytes(1, spec->cols) : 0;
    c->int8_row_bytes = row_bytes > c->int8_row_bytes ? row_bytes : c->int8_row_bytes;
    return matrix_pack(c, spec, spec->rows->n_row / like.n_head - like.n_all, m, err);
}

enum lb_status lb_cpu_heads_new(struct lb_backend *be, const struct lb_matrix_spec *spec, int64_t n_head,
                                struct lb_matrix **out, struct lb_err *err)
{
    const struct lb_rows *r = spec->rows;
    const struct lb_packed_run plain = {.n_row = r->n_row}, *run = &plain;
    int n_run = 1;
    if (r->n_run > 0) {
        run = r->run;
        n_run = r->n_run;
    }
    *out = NULL;
    if (spec->cols->n_col != r->n_col || r->n_row % n_head != 0 ||
        (spec->gate_up && (n_head > 1 || r->n_row % 2 != 0)) ||
        ((spec->gate_up || spec->f32 || n_head > 1) && n_run > 1))
        return lb_err_set(err, LB_E_INPUT, "%s: %lld rows of %lld columns do not fit %lld columns", spec->name,
                          (long long)r->n_row, (long long)r->n_col, (long long)spec->cols->n_col);
    if (spec->int8)
        LB_TRY(lb_cpu_int8_check(spec, err));
    struct lb_matrix like = {.cols = *spec->cols,
                             .n_all = r->n_row / n_head,
                             .n_head = n_head,
                             .gate_up = spec->gate_up,
                             .int8 = spec->int8};
    for (int i = 0; i < n_run; i++) {
        LB_TRY(run_new(lb_cpu_of(be), spec, &run[i], like, out, err));
        like.n_all -= run[i].n_row;
        if (*out)
            out = &(*out)->next;
    }
    return LB_OK;
}

enum lb_status lb_cpu_matrix_new(struct lb_backend *be, const struct lb_matrix_spec *spec, struct lb_matrix **out,
                                 struct lb_err *err)
{
    const double begin = lb_cpu_now();
    LB_TRY(lb_cpu_heads_new(be, spec, 1, out, err));
    return *out ? lb_cpu_screen_offer(lb_cpu_of(be), spec, *out, lb_cpu_now() - begin, err) : LB_OK;
}

enum lb_status lb_cpu_table_new(struct lb_backend *be, const struct lb_rows *rows, int64_t first, struct lb_table **out,
                                struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    *out = NULL;
    if (only_measures(c, 0, 0)) /* each process reads the file */
        return LB_OK;
    struct lb_table *t = lb_cpu_take(c, 1, sizeof *t, "the embedding table", err);
    if (!t)
        return LB_E_DEVICE;
    bool borrows = rows->data && rows->data_type == c->base.dtype;
    *t = (struct lb_table){.data = borrows && (uintptr_t)rows->data % lb_cpu_elem_bytes(c) == 0 ? rows->data : NULL,
                           .rows = rows,
                           .first = first,
                           .n_row = rows->n_row,
                           .n_col = rows->n_col};
    *out = t;
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
