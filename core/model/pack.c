/* Packed weights of a directory: their parts found, checked and joined. */
#include "core/model/pack.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/model/pack_read.h"

#define NAME_BYTES 256

struct joiner {
    struct lb_wfile *w;
    const struct lb_pack_format *f;
    bool *gone; /* [n_tensor] parts that are no tensors of their own any more */
    const struct lb_wtensor *main;
    char base[NAME_BYTES]; /* of the weight that is being joined: "model.layers.0.mlp.up_proj" */
};

const char *lb_pack_name(const struct lb_pack_format *f)
{
    static const char *const name[] = {"none", "GPTQ", "AWQ", "packed integers", "FP8"};
    return name[f->kind];
}

static enum lb_status refuse(const struct lb_wtensor *t, const char *what, struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    return lb_err_set(err, LB_E_INPUT, "%s: tensor '%s' %s", t->file, lb_wfile_show(shown, t->name, strlen(t->name)),
                      what);
}

/* The part with this suffix, which then counts as joined; NULL: there is none. */
static const struct lb_wtensor *find_part(struct joiner *j, const char *suffix)
{
    char name[NAME_BYTES + 32];
    snprintf(name, sizeof name, "%s%s", j->base, suffix);
    const struct lb_wtensor *t = lb_wfile_find(j->w, name);
    if (t)
        j->gone[t - j->w->tensor] = true;
    return t;
}

static enum lb_status need_part(struct joiner *j, const char *suffix, const struct lb_wtensor **out, struct lb_err *err)
{
    char shown[LB_SHOW_BYTES];
    *out = find_part(j, suffix);
    if (*out)
        return LB_OK;
    return lb_err_set(err, LB_E_INPUT, "%s: the model has no tensor '%s%s'", j->main->file,
                      lb_wfile_show(shown, j->base, strlen(j->base)), suffix);
}

/* type NULL: numbers of a plain type. */
static enum lb_status check(const struct lb_wtensor *t, const char *type, int64_t n_row, int64_t n_col,
                            struct lb_err *err)
{
    char what[160];
    bool fits = type ? strcmp(t->type_name, type) == 0 : t->type <= LB_W_BF16;
    if (!fits) {
        snprintf(what, sizeof what, "has type %s, not %s", t->type_name, type ? type : "F32, F16 or BF16");
        return refuse(t, what, err);
    }
    if (t->n_dim == 2 && t->dim[0] == n_row && t->dim[1] == n_col)
        return LB_OK;
    snprintf(what, sizeof what, "has another shape than [%lld, %lld], as the quantization_config asks for",
             (long long)n_row, (long long)n_col);
    return refuse(t, what, err);
}

static int log2_of(int n)
{
    int log = 0;
    while (1 << log < n)
        log++;
    return log;
}

/* Groups of act-order, each of them there; where they are the contiguous ones they are not looked up. */
static enum lb_status take_groups(struct joiner *j, struct lb_wpack *p, const char *suffix, int64_t n_group,
                                  struct lb_err *err)
{
    const struct lb_wtensor *t = find_part(j, suffix);
    if (!t)
        return LB_OK;
    if (t->n_dim != 1 || t->dim[0] != p->n_col || strcmp(t->type_name, "I32") != 0)
        return refuse(t, "is not a vector of one I32 for each input", err);
    bool contiguous = true;
    for (int64_t i = 0; i < p->n_col; i++) {
        int32_t g;
        memcpy(&g, t->data + 4 * i, sizeof g);
        if (g < 0 || g >= n_group)
            return refuse(t, "names a group that is not there", err);
        contiguous = contiguous && g == i / p->group;
    }
    p->g_idx = contiguous ? NULL : t->data;
    return LB_OK;
}

static void take_scales(struct lb_wpack *p, const struct lb_wtensor *t)
{
    p->scales = t->data;
    p->scale_type = t->type;
}

/* qweight: GPTQ packs inputs [in / per, out], AWQ outputs [in, out / per]; qzeros [groups, out / per], scales [groups,
 * out], g_idx [in]. */
static enum lb_status join_columns(struct joiner *j, struct lb_wpack *p, struct lb_err *err)
{
    const struct lb_wtensor *q = j->main, *scales, *zeros;
    const bool awq = j->f->kind == LB_PACK_AWQ;
    const int64_t per = 32 / j->f->bits;
    p->n_col = awq ? q->dim[0] : q->dim[0] * per;
    p->n_row = awq ? q->dim[1] * per : q->dim[1];
    p->group = j->f->group > 0 ? j->f->group : p->n_col;
    const int64_t n_group = (p->n_col - 1) / p->group + 1;
    LB_TRY(need_part(j, ".scales", &scales, err));
    LB_TRY(need_part(j, ".qzeros", &zeros, err));
    if (p->n_row % per != 0)
        return refuse(q, "has outputs that do not fill the words of its zero points", err);
    LB_TRY(check(scales, NULL, n_group, p->n_row, err));
    LB_TRY(check(zeros, "I32", n_group, p->n_row / per, err));
    take_scales(p, scales);
    p->zeros = zeros->data;
    p->zero_add = j->f->zero_less_one;
    p->scale_row_step = 1;
    p->scale_col_step = p->n_row;
    p->zero_row_words = 1;
    p->zero_group_words = p->n_row / per;
    p->paired_lanes = awq;
    p->row_log = awq ? log2_of((int)per) : 0;
    p->col_log = awq ? 0 : log2_of((int)per);
    p->row_words = 1;
    p->col_words = q->dim[1];
    return awq ? LB_OK : take_groups(j, p, ".g_idx", n_group, err);
}

/* weight_shape [out, in]; without it every word is full. */
static enum lb_status read_shape(struct joiner *j, struct lb_wpack *p, int64_t per, struct lb_err *err)
{
    const struct lb_wtensor *q = j->main, *t = find_part(j, ".weight_shape");
    int64_t shape[2] = {q->dim[0], q->dim[1] * per};
    if (t) {
        if (strcmp(t->type_name, "I64") != 0 || t->n_dim != 1 || t->dim[0] != 2)
            return refuse(t, "is not a vector of two I64", err);
        memcpy(shape, t->data, sizeof shape);
        if (shape[0] != q->dim[0] || shape[1] <= (q->dim[1] - 1) * per || shape[1] > q->dim[1] * per)
            return refuse(t, "names another shape than weight_packed has", err);
    }
    p->n_row = shape[0];
    p->n_col = shape[1];
    return LB_OK;
}

/* weight_packed [out, in / per] with weight_scale [out, groups], weight_zero_point [out / per, groups]. */
static enum lb_status join_rows(struct joiner *j, struct lb_wpack *p, struct lb_err *err)
{
    const struct lb_wtensor *scales, *zeros;
    const int64_t per = 32 / j->f->bits;
    LB_TRY(read_shape(j, p, per, err));
    p->group = j->f->group > 0 ? j->f->group : p->n_col;
    const int64_t n_group = (p->n_col - 1) / p->group + 1;
    LB_TRY(need_part(j, ".weight_scale", &scales, err));
    bool one = j->f->group == 0 && scales->n_dim == 1 && scales->dim[0] == 1 && scales->type <= LB_W_BF16;
    if (!one)
        LB_TRY(check(scales, NULL, p->n_row, n_group, err));
    take_scales(p, scales);
    p->scale_row_step = one ? 0 : n_group;
    p->scale_col_step = one ? 0 : 1;
    p->zero = 1 << (j->f->bits - 1);
    p->col_log = log2_of((int)per);
    p->row_words = j->main->dim[1];
    p->col_words = 1;
    if (j->f->zeros) {
        LB_TRY(need_part(j, ".weight_zero_point", &zeros, err));
        LB_TRY(check(zeros, "I32", (p->n_row - 1) / per + 1, n_group, err));
        p->zeros = zeros->data;
        p->zero_row_words = n_group;
        p->zero_group_words = 1;
    } else {
        find_part(j, ".weight_zero_point");
    }
    return take_groups(j, p, ".weight_g_idx", n_group, err);
}

/* F8_E4M3 [out, in] with weight_scale or weight_scale_inv, which both multiply: of blocks, rows or all. */
static enum lb_status join_fp8(struct joiner *j, struct lb_wpack *p, struct lb_err *err)
{
    const struct lb_wtensor *q = j->main, *t = find_part(j, ".weight_scale_inv");
    find_part(j, ".input_scale");
    find_part(j, ".output_scale");
    if (!t)
        LB_TRY(need_part(j, ".weight_scale", &t, err));
    int64_t n_scale = 1;
    for (int i = 0; i < t->n_dim; i++)
        n_scale *= t->dim[i];
    p->fp8 = true;
    p->n_row = q->dim[0];
    p->n_col = q->dim[1];
    p->group = p->n_col;
    p->scale_rows = n_scale == 1 ? p->n_row : 1;
    if (j->f->block[0] > 0) {
        p->scale_rows = j->f->block[0];
        p->group = j->f->block[1];
        LB_TRY(check(t, NULL, (p->n_row - 1) / p->scale_rows + 1, (p->n_col - 1) / p->group + 1, err));
    } else if (t->type > LB_W_BF16 || (n_scale != 1 && (n_scale != p->n_row || t->dim[0] != p->n_row))) {
        LB_TRY(check(t, NULL, p->n_row, 1, err));
    }
    take_scales(p, t);
    p->scale_row_step = (p->n_col - 1) / p->group + 1;
    p->scale_col_step = 1;
    return LB_OK;
}

static bool is_main(const struct joiner *j, const struct lb_wtensor *t, size_t *n_base)
{
    static const char *const suffix[] = {[LB_PACK_GPTQ] = ".qweight",
                                         [LB_PACK_AWQ] = ".qweight",
                                         [LB_PACK_INT] = ".weight_packed",
                                         [LB_PACK_FP8] = ".weight"};
    const char *end = suffix[j->f->kind];
    size_t n = strlen(t->name), n_end = strlen(end);
    *n_base = n - n_end;
    return n > n_end && strcmp(t->name + n - n_end, end) == 0 &&
           (j->f->kind != LB_PACK_FP8 || strcmp(t->type_name, "F8_E4M3") == 0);
}

static enum lb_status join_one(struct joiner *j, size_t n_base, struct lb_wtensor *out, struct lb_err *err)
{
    const struct lb_wtensor *t = j->main;
    if (n_base >= NAME_BYTES)
        return refuse(t, "has too long a name", err);
    memcpy(j->base, t->name, n_base);
    j->base[n_base] = 0;
    if (t->n_dim != 2 || t->dim[0] == 0 || t->dim[1] == 0 ||
        (j->f->kind != LB_PACK_FP8 && strcmp(t->type_name, "I32") != 0))
        return refuse(t, j->f->kind == LB_PACK_FP8 ? "is not a matrix" : "is not a matrix of I32", err);
    struct lb_wpack *p = lb_mem_new(1, sizeof *p);
    LB_TRY(lb_wfile_own(j->w, p, err));
    p->data = t->data;
    p->bits = j->f->bits;
    p->scale_rows = 1;
    LB_TRY(j->f->kind == LB_PACK_FP8   ? join_fp8(j, p, err)
           : j->f->kind == LB_PACK_INT ? join_rows(j, p, err)
                                       : join_columns(j, p, err));
    char *name = lb_mem_new(n_base + sizeof ".weight", 1);
    LB_TRY(lb_wfile_own(j->w, name, err));
    memcpy(name, j->base, n_base);
    memcpy(name + n_base, ".weight", sizeof ".weight");
    *out = *t;
    out->name = name;
    out->type = LB_W_PACKED;
    out->dim[0] = p->n_row;
    out->dim[1] = p->n_col;
    out->pack = p;
    return LB_OK;
}

enum lb_status lb_pack_join(struct lb_wfile *w, const struct lb_pack_format *f, struct lb_err *err)
{
    struct joiner j = {.w = w, .f = f};
    if (f->kind == LB_PACK_NONE || w->n_tensor == 0)
        return LB_OK;
    enum lb_status status = LB_OK;
    size_t n_base, n = 0;
    struct lb_wtensor *joined = lb_mem_new(w->n_tensor, sizeof *joined);
    j.gone = lb_mem_new(w->n_tensor, sizeof *j.gone);
    if (!joined || !j.gone) {
        status = lb_err_memory(err, "the directory of packed weights", w->n_tensor * sizeof *joined);
        goto out;
    }
    /* names are looked up in the sorted list, so it stays as it is until all have been found */
    for (size_t i = 0; i < w->n_tensor; i++) {
        j.main = &w->tensor[i];
        joined[i] = w->tensor[i];
        if (is_main(&j, j.main, &n_base))
            LB_TRY_OUT(status, join_one(&j, n_base, &joined[i], err));
    }
    for (size_t i = 0; i < w->n_tensor; i++)
        if (!j.gone[i])
            w->tensor[n++] = joined[i];
    w->n_tensor = n;
    status = lb_wfile_sort(w, err);
out:
    lb_mem_free(joined);
    lb_mem_free(j.gone);
    return status;
}

enum lb_status lb_pack_open(struct lb_wfile *w, const char *dir, const struct lb_pack_format *f, struct lb_err *err)
{
    LB_TRY(lb_safetensors_open(w, dir, err));
    enum lb_status status = lb_pack_join(w, f, err);
    if (status != LB_OK)
        lb_wfile_close(w);
    return status;
}
