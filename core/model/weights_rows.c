/* Rows of tensors: found by name, checked, cut, fused, handed to the backend. */
#include <stdio.h>

#include "core/model/codes.h"
#include "core/model/quant.h"
#include "core/model/weights_impl.h"

#define SUPPORTED "F32, F16, BF16, and GGUF's Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL and IQ4_XS"

/* Where row `row` of a part lies behind its first one. llama.cpp stores Q and K with rows 2i + b of a head for row
 * b * (paired / 2) + i of Hugging Face's order (spec/models.md 2.2.4). */
static int64_t source_row(const struct lb_part *p, int64_t row)
{
    if (p->kv_dim > 0)
        row = lb_slice_kv_head(p->slice, row / p->kv_dim) * p->kv_dim + row % p->kv_dim;
    if (p->paired == 0)
        return row;
    int64_t half = p->paired / 2, at = row % p->paired;
    return row - at + 2 * (at % half) + at / half;
}

static void read_part(const struct lb_part *p, int64_t row, int64_t n, int64_t n_col, float *out)
{
    if (p->t->type == LB_W_PACKED && p->paired == 0 && p->kv_dim == 0) {
        lb_pack_read(p->t->pack, p->first + row, n, p->col, n_col, out);
        return;
    }
    if (p->paired == 0 && p->kv_dim == 0 && p->stride == lb_quant_bytes(p->t->type, n_col)) {
        lb_quant_read(p->t->type, p->data + (size_t)row * p->stride, n * n_col, out);
        return;
    }
    for (int64_t i = 0; i < n && p->t->type == LB_W_PACKED; i++)
        lb_pack_read(p->t->pack, p->first + source_row(p, row + i), 1, p->col, n_col, out + i * n_col);
    for (int64_t i = 0; i < n && p->t->type != LB_W_PACKED; i++)
        lb_quant_read_at(p->t->type, p->data + (size_t)source_row(p, row + i) * p->stride, p->col, n_col,
                         out + i * n_col);
}

static void fused_get(const struct lb_rows *r, int64_t row, int64_t n, float *out)
{
    const struct lb_fused *f = r->ctx;
    for (int i = 0; i < f->n_part && n > 0; i++) {
        const struct lb_part *p = &f->part[i];
        if (row < p->n_row) {
            int64_t here = p->n_row - row < n ? p->n_row - row : n;
            read_part(p, row, here, r->n_col, out);
            out += here * r->n_col;
            n -= here;
            row = 0;
        } else {
            row -= p->n_row;
        }
    }
}

/* Of plain types only, which have no blocks. */
static const uint8_t *row_at(const struct lb_part *p, int64_t row)
{
    return p->data + (size_t)source_row(p, row) * p->stride + lb_quant_bytes(p->t->type, p->col);
}

static const void *fused_at(const struct lb_rows *r, int64_t row)
{
    const struct lb_fused *f = r->ctx;
    const struct lb_part *p = f->part;
    for (; row >= p->n_row; p++)
        row -= p->n_row;
    return row_at(p, row);
}

/* Whether all rows are plain numbers of one type, which need not be turned into f32 first. */
static bool is_plain(const struct lb_fused *f, enum lb_dtype *type)
{
    enum lb_wtype first = f->part[0].t->type;
    bool plain = first == LB_W_F32 || first == LB_W_BF16;
    for (int i = 1; i < f->n_part; i++)
        plain = plain && f->part[i].t->type == first;
    *type = first == LB_W_F32 ? LB_F32 : LB_BF16;
    return plain;
}

static void fused_codes(const struct lb_rows *r, int64_t row, uint8_t *mem, struct lk_codes *out)
{
    const struct lb_fused *f = r->ctx;
    const struct lb_part *p = f->part;
    for (; row >= p->n_row; p++)
        row -= p->n_row;
    lb_codes_read(p->t, &p->how, p->first + source_row(p, row), r->n_col, mem, out);
}

static bool alike(const struct lk_packed *a, const struct lk_packed *b)
{
    return a->kind == b->kind && a->scale == b->scale && a->group == b->group && a->first == b->first;
}

/* What stays packed in int8 has other bits than what does not, so that it must not depend on the slice: heads that are
 * no whole blocks begin inside a group on some ranks, though maybe not on this one. All else is cut at multiples of 32.
 */
static bool begins_anywhere(const struct lb_loader *ld, const struct lk_cols *cols)
{
    return cols == &ld->s->cols->heads && ld->s->config->out_dim % 32 != 0;
}

/* Why rows of a part do not stay packed, NULL: they do. */
static const char *why_not(const struct lb_loader *ld, struct lb_part *p, const struct lb_matrix_spec *spec)
{
    const struct lb_backend *be = ld->s->backend;
    if (spec->f32)
        return "routers are multiplied in f32";
    const char *why = NULL;
    if (be->unpack)
        why = "as asked for";
    else if (!be->ops->keeps || !lb_codes_of(p->t, p->col, &p->how))
        why = "no product takes them";
    else if (!be->ops->keeps(be, &p->how, spec->cols, spec->int8) || (spec->int8 && begins_anywhere(ld, spec->cols)))
        why = "a product begins inside a group";
    return why && spec->int8 ? "quantized to int8 by row" : why;
}

void lb_load_count(struct lb_loader *ld, enum lb_wtype type, const char *why)
{
    if (type < LB_W_Q8_0)
        return;
    ld->n_kept[type] += !why;
    ld->n_unpacked[type] += why != NULL;
    ld->seen[type] = ld->seen[type] || why;
    ld->why[type] = why ? why : ld->why[type];
}

/* Parts that stay packed, joined where they are packed alike. A matrix of gate and up is one run. */
static void find_runs(struct lb_loader *ld, struct lb_fused *f, const struct lb_matrix_spec *spec)
{
    struct lb_rows *r = &f->rows;
    const char *why[LB_MAX_PART];
    bool same = true;
    for (int i = 0; i < f->n_part; i++) {
        why[i] = why_not(ld, &f->part[i], spec);
        same = same && !why[i] && alike(&f->part[i].how, &f->part[0].how);
    }
    for (int i = 0; i < f->n_part; i++) {
        const struct lb_part *p = &f->part[i];
        if (spec->gate_up && !same && !why[i])
            why[i] = "gate and up are packed unlike each other";
        lb_load_count(ld, p->t->type, why[i]);
        struct lb_packed_run run = {p->n_row, !why[i], p->how}, *last = r->n_run > 0 ? &r->run[r->n_run - 1] : NULL;
        size_t bytes = run.packed ? lb_codes_bytes(&run.how, r->n_col) : 0;
        r->codes_bytes = bytes > r->codes_bytes ? bytes : r->codes_bytes;
        if (last && last->packed == run.packed && (!run.packed || alike(&last->how, &run.how)))
            last->n_row += run.n_row;
        else
            r->run[r->n_run++] = run;
    }
    r->codes = fused_codes;
}

void lb_fused_lend_whole(struct lb_fused *f)
{
    if (is_plain(f, &f->rows.data_type))
        f->rows.data = row_at(&f->part[0], 0);
}

static void put_shape(char *out, size_t n, const int64_t *dim, int n_dim)
{
    int at = snprintf(out, n, "[");
    for (int i = 0; i < n_dim && at > 0 && (size_t)at < n; i++)
        at += snprintf(out + at, n - (size_t)at, "%s%lld", i ? ", " : "", (long long)dim[i]);
    if (at > 0 && (size_t)at < n)
        snprintf(out + at, n - (size_t)at, "]");
}

const struct lb_wtensor *lb_load_find_name(struct lb_loader *ld, const char *name)
{
    const struct lb_wtensor *t = lb_wfile_find(ld->s->file, name);
    if (t)
        ld->used[t - ld->s->file->tensor] = true;
    return t;
}

static struct lb_tensor_name name_of(const struct lb_loader *ld, enum lb_role role, int layer, const char *suffix)
{
    return lb_family_tensor(ld->s->config->family, ld->s->config->gguf, role, layer, suffix);
}

const struct lb_wtensor *lb_load_find(struct lb_loader *ld, enum lb_role role, int layer)
{
    return lb_load_find_name(ld, name_of(ld, role, layer, ".weight").text);
}

bool lb_load_has(const struct lb_loader *ld, enum lb_role role, int layer)
{
    const struct lb_config *c = ld->s->config;
    struct lb_tensor_name name = lb_family_tensor(c->family, c->gguf, role, layer, "");
    return name.text[0] && lb_wfile_find(ld->s->file, name.text);
}

const struct lb_wtensor *lb_load_need(struct lb_loader *ld, enum lb_role role, int layer, const char *suffix,
                                      struct lb_err *err)
{
    struct lb_tensor_name name = name_of(ld, role, layer, suffix);
    const struct lb_wtensor *t = lb_load_find_name(ld, name.text);
    if (!t)
        lb_err_set(err, LB_E_INPUT, "the model has no tensor '%s'", name.text);
    return t;
}

enum lb_status lb_load_check_shape(struct lb_loader *ld, const struct lb_wtensor *t, const int64_t *want, int n_dim,
                                   struct lb_err *err)
{
    int64_t n_row = 1, n_col = n_dim == 1 ? 1 : want[n_dim - 1];
    for (int i = 0; i < n_dim - (n_dim > 1); i++)
        n_row *= want[i];
    bool same = t->n_dim == n_dim;
    for (int i = 0; i < n_dim && same; i++)
        same = t->dim[i] == want[i];
    if (!same) {
        char is[96], expected[96];
        put_shape(is, sizeof is, t->dim, t->n_dim);
        put_shape(expected, sizeof expected, want, n_dim);
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has shape %s, the model's configuration asks for %s",
                          t->file, t->name, is, expected);
    }
    size_t row_bytes = lb_quant_bytes(t->type, n_col);
    if (t->type == LB_W_PACKED) /* lb_pack_join has checked its parts against its shape */
        return LB_OK;
    if (t->type >= LB_W_OTHER)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has type %s, which is not read here: %s are", t->file,
                          t->name, t->type_name, SUPPORTED);
    if (row_bytes == 0)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has rows of %lld: %s is read in whole blocks of %lld",
                          t->file, t->name, (long long)n_col, t->type_name, (long long)lb_quant_block(t->type));
    if (t->n_bytes / row_bytes < (size_t)n_row)
        return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' has %zu bytes, too few for its shape", t->file, t->name,
                          t->n_bytes);
    if (t->type < LB_W_Q8_0)
        ld->seen[t->type] = true;
    return LB_OK;
}

enum lb_status lb_load_check(struct lb_loader *ld, const struct lb_wtensor *t, int64_t n_row, int64_t n_col,
                             struct lb_err *err)
{
    const int64_t want[2] = {n_row, n_col};
    return lb_load_check_shape(ld, t, want, n_col == 0 ? 1 : 2, err);
}

void lb_fused_init(struct lb_fused *f, int64_t n_col)
{
    *f = (struct lb_fused){.rows = {.get = fused_get, .ctx = f, .n_col = n_col}};
}

void lb_fused_add(struct lb_loader *ld, struct lb_fused *f, const struct lb_wtensor *t, const struct lb_span *span,
                  int64_t whole, int64_t col)
{
    size_t stride = lb_quant_bytes(t->type, whole);
    f->part[f->n_part++] = (struct lb_part){.t = t,
                                            .data = t->data + (size_t)span->row * stride,
                                            .stride = stride,
                                            .first = span->row,
                                            .n_row = span->n_take,
                                            .col = col,
                                            .paired = span->paired,
                                            .kv_dim = span->kv_dim,
                                            .slice = &ld->s->cols->slice};
    f->rows.n_row += span->n_take;
}

void lb_fused_forget(const struct lb_rows *rows)
{
    const struct lb_fused *f = rows->ctx;
    for (int i = 0; i < f->n_part; i++) {
        const struct lb_part *p = &f->part[i];
        bool joined = p->t->type == LB_W_PACKED;
        lb_wfile_forget(f->file, joined ? p->t->data : p->data, joined ? p->t->n_bytes : (size_t)p->n_row * p->stride);
    }
}

enum lb_status lb_fused_pack(struct lb_loader *ld, struct lb_fused *f, struct lb_matrix_spec spec,
                             struct lb_matrix **out, struct lb_err *err)
{
    struct lb_backend *be = ld->s->backend;
    f->rows.at = is_plain(f, &f->rows.data_type) ? fused_at : NULL;
    find_runs(ld, f, &spec);
    spec.rows = &f->rows;
    spec.name = f->part[0].t->name;
    LB_TRY(be->ops->matrix_new(be, &spec, out, err));
    f->file = ld->s->file;
    if (!ld->s->mem || ld->s->mem->reads)
        lb_fused_forget(&f->rows);
    return LB_OK;
}

/* Parameters are those of the whole model, whatever is taken; *n counts them. */
static enum lb_status fuse(struct lb_loader *ld, struct lb_fused *f, const struct lb_source *src, const char *suffix,
                           int64_t *n, struct lb_err *err)
{
    const struct lb_wtensor *last = NULL;
    *n = 0;
    for (int i = 0; i < src->n_part; i++) {
        const struct lb_span *span = &src->part[i].span;
        const struct lb_wtensor *t = lb_load_need(ld, src->part[i].role, src->layer, suffix, err);
        if (!t)
            return err->status;
        LB_TRY(lb_load_check(ld, t, span->n_row, src->n_col, err));
        lb_fused_add(ld, f, t, span, src->n_col > 0 ? src->n_col : 1, src->col);
        if (t != last)
            *n += span->n_row * (src->n_col > 0 ? src->n_col : 1);
        last = t;
    }
    ld->w->n_param += *n;
    return LB_OK;
}

enum lb_status lb_load_matrix(struct lb_loader *ld, const struct lb_source *src, const struct lk_cols *cols,
                              struct lb_matrix **out, struct lb_err *err)
{
    struct lb_fused f;
    int64_t n;
    lb_fused_init(&f, cols->n_col);
    LB_TRY(fuse(ld, &f, src, ".weight", &n, err));
    ld->w->n_layer_product += n;
    enum lb_role role = src->part[0].role;
    struct lb_matrix_spec spec = {.cols = cols, .gate_up = role == LB_R_GATE || role == LB_R_GATE_UP};
    /* an indexer's products choose positions: they stay as they are, like a router's */
    spec.int8 = ld->s->backend->int8 && role != LB_R_INDEX_Q && role != LB_R_INDEX_K;
    return lb_fused_pack(ld, &f, spec, out, err);
}

enum lb_status lb_load_vector(struct lb_loader *ld, const struct lb_source *src, const char *suffix, const float **out,
                              struct lb_err *err)
{
    struct lb_source vector = *src;
    struct lb_fused f;
    struct lb_backend *be = ld->s->backend;
    int64_t n;
    vector.n_col = vector.col = 0;
    lb_fused_init(&f, 1);
    LB_TRY(fuse(ld, &f, &vector, suffix, &n, err));
    fused_get(&f.rows, 0, f.rows.n_row, ld->vector);
    lb_dtype_round(be->dtype, ld->vector, f.rows.n_row);
    return be->ops->vector_new(be, ld->vector, f.rows.n_row, out, err);
}

enum lb_status lb_load_bias(struct lb_loader *ld, const struct lb_source *src, bool named, const float **out,
                            struct lb_err *err)
{
    *out = NULL;
    return named ? lb_load_vector(ld, src, ".bias", out, err) : LB_OK;
}

enum lb_status lb_load_norm(struct lb_loader *ld, int il, enum lb_role role, int64_t n, const float **out,
                            struct lb_err *err)
{
    const struct lb_source src = lb_source_of(il, role, n, 0);
    return lb_load_vector(ld, &src, ".weight", out, err);
}
