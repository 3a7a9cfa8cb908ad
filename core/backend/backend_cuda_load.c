/* The CUDA backend's weights: slice by slice through two pinned buffers, one of which is filled by the team while the
 * other one is on its way. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/backend/backend_cuda_lt.h"
#include "core/base/mem.h"

#define SLICE_BYTES ((size_t)16 << 20)

/* The next buffer, once the device has what was in it. */
static enum lb_status take_buffer(struct lb_cuda *c, uint8_t **out, const char *what, struct lb_err *err)
{
    int i = c->load_next;
    if (!c->load_buffer[i]) {
        c->load_buffer[i] = lb_cuda_take(c, LB_CUDA_PINNED, SLICE_BYTES, 1, "weights on their way", err);
        if (!c->load_buffer[i])
            return LB_E_DEVICE;
    } else {
        LB_TRY(lb_cuda_try(cudaEventSynchronize(c->load_event[i]), "cudaEventSynchronize", what, err));
    }
    *out = c->load_buffer[i];
    return LB_OK;
}

static enum lb_status send_buffer(struct lb_cuda *c, void *to, size_t bytes, const char *what, struct lb_err *err)
{
    int i = c->load_next;
    LB_TRY(lb_cuda_try(cudaMemcpyAsync(to, c->load_buffer[i], bytes, cudaMemcpyHostToDevice, c->load_stream),
                       "cudaMemcpyAsync", what, err));
    LB_TRY(lb_cuda_try(cudaEventRecord(c->load_event[i], c->load_stream), "cudaEventRecord", what, err));
    c->load_next = 1 - i;
    c->loads = true;
    return LB_OK;
}

enum lb_status lb_cuda_loaded(struct lb_cuda *c, struct lb_err *err)
{
    if (!c->loads)
        return LB_OK;
    c->loads = false;
    return lb_cuda_try(cudaStreamSynchronize(c->load_stream), "cudaStreamSynchronize", "loading", err);
}

enum lb_status lb_cuda_upload(struct lb_cuda *c, void *to, const void *from, size_t bytes, const char *what,
                              struct lb_err *err)
{
    for (size_t at = 0; at < bytes;) {
        size_t n = bytes - at < SLICE_BYTES ? bytes - at : SLICE_BYTES;
        uint8_t *buffer;
        LB_TRY(take_buffer(c, &buffer, what, err));
        memcpy(buffer, (const uint8_t *)from + at, n);
        LB_TRY(send_buffer(c, (uint8_t *)to + at, n, what, err));
        at += n;
    }
    return LB_OK;
}

/* Rows on their way into a buffer. */
struct slice {
    const struct lb_rows *rows;
    const struct lk_cols *cols;
    int64_t row; /* the first one */
    uint8_t *out;
    bool f32;
    _Atomic bool no_memory;
};

/* n numbers of either type at `from`, any alignment. */
static void convert(const uint8_t *from, enum lb_dtype type, int64_t n, uint8_t *to, bool f32)
{
    bool wide = type == LB_F32;
    if (wide == f32) {
        memcpy(to, from, (size_t)n * lb_cuda_type_bytes(f32));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        if (f32) {
            uint16_t x;
            memcpy(&x, from + 2 * i, sizeof x);
            float y = lb_bf16_widen(x);
            memcpy(to + 4 * i, &y, sizeof y);
        } else {
            float x;
            memcpy(&x, from + 4 * i, sizeof x);
            uint16_t y = lb_bf16_round(x);
            memcpy(to + 2 * i, &y, sizeof y);
        }
    }
}

/* Row `row` where it lies, as numbers of *type; NULL: it is had by `get` alone. */
static const uint8_t *row_of(const struct lb_rows *r, int64_t row, enum lb_dtype *type)
{
    *type = r->data_type;
    if (r->at)
        return r->at(r, row);
    if (r->data)
        return (const uint8_t *)r->data + (size_t)(row * r->n_col) * lb_cuda_type_bytes(*type == LB_F32);
    *type = LB_F32;
    return NULL;
}

static void fill_rows(void *ctx, int64_t begin, int64_t end)
{
    struct slice *s = ctx;
    const struct lb_rows *r = s->rows;
    const struct lk_cols *c = s->cols;
    size_t elem = lb_cuda_type_bytes(s->f32), row_bytes = (size_t)c->packed[c->n_seg] * elem;
    float *scratch = lb_mem_new((size_t)r->n_col, sizeof *scratch);
    if (!scratch) {
        atomic_store(&s->no_memory, true);
        return;
    }
    for (int64_t i = begin; i < end; i++) {
        enum lb_dtype type;
        const uint8_t *from = row_of(r, s->row + i, &type);
        uint8_t *to = s->out + (size_t)i * row_bytes;
        if (!from) {
            r->get(r, s->row + i, 1, scratch);
            from = (const uint8_t *)scratch;
        }
        for (int is = 0; is < c->n_seg; is++) {
            int64_t n = c->begin[is + 1] - c->begin[is], room = c->packed[is + 1] - c->packed[is];
            uint8_t *seg = to + (size_t)c->packed[is] * elem;
            convert(from + (size_t)c->begin[is] * lb_cuda_type_bytes(type == LB_F32), type, n, seg, s->f32);
            memset(seg + (size_t)n * elem, 0, (size_t)(room - n) * elem);
        }
    }
    lb_mem_free(scratch);
}

/* All rows to m->w, as many as they are. */
static enum lb_status send_rows(struct lb_cuda *c, const struct lb_rows *rows, const struct lb_matrix *m,
                                struct lb_err *err)
{
    size_t row_bytes = (size_t)m->cols.packed[m->cols.n_seg] * lb_cuda_type_bytes(m->f32);
    if (row_bytes == 0)
        return LB_OK;
    if (row_bytes > SLICE_BYTES)
        return lb_err_set(err, LB_E_INPUT, "%s: rows of %lld columns are too long", m->name, (long long)m->cols.n_col);
    int64_t per = (int64_t)(SLICE_BYTES / row_bytes);
    for (int64_t row = 0; row < rows->n_row; row += per) {
        int64_t n = rows->n_row - row < per ? rows->n_row - row : per;
        struct slice s = {.rows = rows, .cols = &m->cols, .row = row, .f32 = m->f32};
        LB_TRY(take_buffer(c, &s.out, m->name, err));
        lb_team_run(c->team, fill_rows, &s, n, lb_cuda_grain(c, n, 4));
        if (atomic_load(&s.no_memory))
            return lb_err_memory(err, m->name, (unsigned long long)m->cols.n_col * sizeof(float));
        LB_TRY(send_buffer(c, (uint8_t *)m->w + (size_t)row * row_bytes, (size_t)n * row_bytes, m->name, err));
    }
    return LB_OK;
}

/* The scratch memory that a product's rows need each, whatever the epilogue. */
static void note_scratch(struct lb_cuda *c, const struct lb_matrix *m, bool gate_up)
{
    const struct lk_linear a = {
        .a = {NULL, 1, &m->cols}, .n_out = m->n_out, .epilogue = gate_up ? LK_EP_SWIGLU : LK_EP_STORE};
    size_t n = lb_cuda_scratch_of(&a, m), lt = lb_cuda_lt_scratch(&a);
    n = n > lt ? n : lt;
    c->row_scratch = n > c->row_scratch ? n : c->row_scratch;
}

enum lb_status lb_cuda_heads_new(struct lb_backend *be, const struct lb_matrix_spec *spec, int64_t n_head,
                                 struct lb_matrix **out, struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    const struct lb_rows *rows = spec->rows;
    *out = NULL;
    if (spec->cols->n_col != rows->n_col || rows->n_row % n_head != 0 ||
        (spec->gate_up && (n_head > 1 || rows->n_row % 2 != 0)))
        return lb_err_set(err, LB_E_INPUT, "%s: %lld rows of %lld columns do not fit %lld columns", spec->name,
                          (long long)rows->n_row, (long long)rows->n_col, (long long)spec->cols->n_col);
    struct lb_matrix *m = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *m, spec->name, err);
    if (!m)
        return LB_E_DEVICE;
    m->cols = *spec->cols;
    m->n_out = rows->n_row / n_head;
    m->n_head = n_head;
    m->f32 = spec->f32 || c->base.dtype == LB_F32;
    snprintf(m->name, sizeof m->name, "%s", spec->name);
    size_t row_bytes = (size_t)m->cols.packed[m->cols.n_seg] * lb_cuda_type_bytes(m->f32);
    m->head_bytes = (size_t)m->n_out * row_bytes;
    m->w = lb_cuda_take(c, LB_CUDA_DEVICE, (size_t)rows->n_row, row_bytes, spec->name, err);
    if (!m->w)
        return LB_E_DEVICE;
    LB_TRY(send_rows(c, rows, m, err));
    note_scratch(c, m, spec->gate_up);
    c->base.counts.weight_bytes += (int64_t)((size_t)rows->n_row * row_bytes);
    m->next = c->matrix;
    c->matrix = m;
    *out = m;
    return LB_OK;
}

enum lb_status lb_cuda_matrix_new(struct lb_backend *be, const struct lb_matrix_spec *spec, struct lb_matrix **out,
                                  struct lb_err *err)
{
    return lb_cuda_heads_new(be, spec, 1, out, err);
}

/* A row of -0 at `to`. */
static enum lb_status send_minus(struct lb_cuda *c, uint8_t *to, size_t row_bytes, struct lb_err *err)
{
    const char *what = "the embedding table";
    size_t elem = lb_cuda_elem_bytes(c);
    uint8_t *minus = lb_mem_new(row_bytes, 1);
    if (!minus)
        return lb_err_memory(err, what, row_bytes);
    for (size_t i = elem - 1; i < row_bytes; i += elem)
        minus[i] = 0x80;
    enum lb_status status = lb_cuda_upload(c, to, minus, row_bytes, what, err);
    lb_mem_free(minus);
    return status;
}

enum lb_status lb_cuda_table_new(struct lb_backend *be, const struct lb_rows *rows, int64_t first,
                                 struct lb_table **out, struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    const char *what = "the embedding table";
    size_t row_bytes = (size_t)rows->n_col * lb_cuda_elem_bytes(c), n_row = (size_t)rows->n_row;
    *out = NULL;
    struct lb_table *t = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *t, what, err);
    if (!t)
        return LB_E_DEVICE;
    *t = (struct lb_table){.first = first, .n_row = rows->n_row, .n_col = rows->n_col};
    if ((t->data = lb_cuda_take(c, LB_CUDA_DEVICE, n_row + 1, row_bytes, what, err)) == NULL)
        return LB_E_DEVICE;
    struct lb_matrix m = {.w = t->data,
                          .cols = {.n_col = t->n_col, .n_seg = 1, .begin = {0, t->n_col}, .packed = {0, t->n_col}},
                          .f32 = c->base.dtype == LB_F32};
    snprintf(m.name, sizeof m.name, "%s", what);
    LB_TRY(send_rows(c, rows, &m, err));
    LB_TRY(send_minus(c, (uint8_t *)t->data + n_row * row_bytes, row_bytes, err));
    c->base.counts.weight_bytes += (int64_t)(n_row * row_bytes);
    c->table = t;
    *out = t;
    return LB_OK;
}

enum lb_status lb_cuda_vector_new(struct lb_backend *be, const float *host, int64_t n, const float **out,
                                  struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    *out = NULL;
    float *copy = lb_cuda_take(c, LB_CUDA_DEVICE, (size_t)n, sizeof *copy, "a vector", err);
    if (!copy)
        return LB_E_DEVICE;
    LB_TRY(lb_cuda_upload(c, copy, host, (size_t)n * sizeof *copy, "a vector", err));
    *out = copy;
    return LB_OK;
}
