/* Adapters of the CPU backend: laid out for the kernels, and a step's tokens sorted by adapter. */
#include <string.h>

#include "core/backend/backend_cpu.h"

#define STRIP LK_LORA_STRIP

/* Numbers of u in front of each part, a multiple of eight in all. */
static int64_t layout(const struct lb_lora_spec *spec, int64_t first[LB_LORA_MAX_PART])
{
    int64_t n = 0;
    for (int i = 0; i < spec->n_part; i++) {
        first[i] = n;
        n += spec->part[i].a->n_row;
    }
    return (n + STRIP - 1) / STRIP * STRIP;
}

static void put(const struct lb_cpu *c, const void *to, int64_t at, float x)
{
    if (c->base.dtype == LB_F32)
        ((float *)(uintptr_t)to)[at] = x;
    else
        ((uint16_t *)(uintptr_t)to)[at] = lb_bf16_round(x);
}

/* A turned over: a row for each packed column. */
static void lay_a(const struct lb_cpu *c, const struct lb_matrix *m, const struct lk_lora_pair *pair,
                  const struct lb_rows *a, int64_t first, float *row)
{
    for (int64_t j = 0; j < a->n_row; j++) {
        a->get(a, j, 1, row);
        for (int s = 0; s < m->cols.n_seg; s++)
            for (int64_t k = m->cols.begin[s]; k < m->cols.begin[s + 1]; k++)
                put(c, pair->a, lk_lora_at(m->lk->type, pair->n_u, m->cols.packed[s] + k - m->cols.begin[s], first + j),
                    row[k]);
    }
}

int64_t lb_cpu_lora_strips(const struct lb_matrix *m)
{
    return (m->n_out + m->lk->panel_cols - 1) / m->lk->panel_cols * m->lk->panel_cols / STRIP;
}

static int64_t strips_of_all(const struct lb_matrix *m)
{
    int64_t n = 0;
    for (; m; m = m->next)
        n += lb_cpu_lora_strips(m);
    return n;
}

/* The output row that stands in packed column j, the matrices behind each other as they are packed; -1: none. */
static int64_t row_of_column(const struct lb_matrix *m, int64_t j)
{
    int64_t before = 0;
    for (; m->next && j >= lb_cpu_lora_strips(m) * STRIP; m = m->next) {
        j -= lb_cpu_lora_strips(m) * STRIP;
        before += m->n_out;
    }
    int64_t width = m->lk->panel_cols, half = width / 2, in = j % width;
    if (!m->gate_up)
        return j < m->n_out ? before + j : -1;
    int64_t at = j / width * half + in % half;
    return at < m->n_out / 2 ? (in < half ? 0 : m->n_out / 2) + at : -1;
}

/* The part whose B has output row j; -1: none has. */
static int part_of_row(const struct lb_lora_spec *spec, int64_t j)
{
    for (int i = 0; i < spec->n_part; i++)
        if (j >= spec->part[i].first && j < spec->part[i].first + spec->part[i].b->n_row)
            return i;
    return -1;
}

/* What of u each strip takes: from the first number of its columns' parts to behind the last. Returns the numbers of B
 * that this asks for. */
static int64_t lay_strips(const struct lb_matrix *m, const struct lb_lora_spec *spec, struct lk_lora_strip *strip,
                          int64_t n_strip)
{
    int64_t first[LB_LORA_MAX_PART], at = 0;
    layout(spec, first);
    for (int64_t q = 0; q < n_strip; q++) {
        int64_t begin = INT64_MAX, end = 0;
        for (int64_t i = 0; i < STRIP; i++) {
            int part = part_of_row(spec, row_of_column(m, q * STRIP + i));
            if (part < 0)
                continue;
            int64_t last = first[part] + spec->part[part].a->n_row;
            begin = first[part] < begin ? first[part] : begin;
            end = last > end ? last : end;
        }
        strip[q] = (struct lk_lora_strip){0, 0, at};
        if (end > 0)
            strip[q] = (struct lk_lora_strip){(int32_t)begin, (int32_t)(end - begin), at};
        at += (strip[q].n + 1) / 2 * 2 * STRIP;
    }
    return at;
}

static void lay_b(const struct lb_cpu *c, const struct lb_matrix *m, const struct lb_lora_spec *spec,
                  const struct lk_lora_pair *pair, float *row)
{
    int64_t first[LB_LORA_MAX_PART], n_column = strips_of_all(m) * STRIP;
    layout(spec, first);
    for (int64_t j = 0; j < n_column; j++) {
        int64_t out = row_of_column(m, j);
        int part = part_of_row(spec, out);
        if (part < 0)
            continue;
        const struct lb_rows *b = spec->part[part].b;
        const struct lk_lora_strip *strip = &pair->strip[j / STRIP];
        b->get(b, out - spec->part[part].first, 1, row);
        for (int64_t i = 0; i < b->n_col; i++)
            put(c, pair->b, strip->at + lk_lora_at(m->lk->type, STRIP, first[part] + i - strip->begin, j % STRIP),
                row[i]);
    }
}

enum lb_status lb_cpu_lora_new(struct lb_backend *be, struct lb_matrix *m, const struct lb_lora_spec *spec,
                               struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    LB_TRY(lb_lora_spec_check(spec, m->cols.n_col, m->n_all, m->n_head, err));
    int64_t first[LB_LORA_MAX_PART], n_u = layout(spec, first), widest = m->cols.n_col;
    int64_t n_strip = strips_of_all(m);
    int64_t n_a = m->cols.packed[m->cols.n_seg] * n_u;
    size_t elem = lb_cpu_elem_bytes(c);
    float *scale = lb_cpu_take(c, (size_t)n_u, sizeof *scale, spec->name, err);
    struct lk_lora_strip *strip = lb_cpu_take(c, (size_t)n_strip, sizeof *strip, spec->name, err);
    struct lk_lora_pair *all = m->lora;
    if (!all)
        all = lb_cpu_take(c, (size_t)spec->n_adapter, sizeof *all, spec->name, err);
    if (!scale || !strip || !all)
        return LB_E_DEVICE;
    int64_t n_b = lay_strips(m, spec, strip, n_strip);
    struct lk_lora_pair pair = {
        .a = lb_cpu_take(c, (size_t)n_a, elem, spec->name, err),
        .b = lb_cpu_take(c, (size_t)n_b, elem, spec->name, err),
        .strip = strip,
        .scale = scale,
        .n_u = (int32_t)n_u,
    };
    if (!pair.a || !pair.b)
        return LB_E_DEVICE;
    for (int i = 0; i < spec->n_part; i++)
        widest = spec->part[i].a->n_row > widest ? spec->part[i].a->n_row : widest;
    float *row = lb_mem_new((size_t)widest, sizeof *row);
    if (!row)
        return lb_err_memory(err, spec->name, (unsigned long long)widest * sizeof *row);
    for (int i = 0; i < spec->n_part; i++) {
        lay_a(c, m, &pair, spec->part[i].a, first[i], row);
        for (int64_t j = 0; j < spec->part[i].a->n_row; j++)
            scale[first[i] + j] = spec->part[i].scale;
    }
    lay_b(c, m, spec, &pair, row);
    lb_mem_free(row);
    all[spec->adapter] = pair;
    m->lora = all;
    c->lora.n_adapter = spec->n_adapter;
    if (c->lora.u_ld < n_u * m->cols.n_seg)
        c->lora.u_ld = n_u * m->cols.n_seg;
    c->base.counts.weight_bytes += (n_a + n_b) * (int64_t)elem;
    return LB_OK;
}

enum lb_status lb_cpu_lora_reserve(struct lb_cpu *c, struct lb_err *err)
{
    struct lb_cpu_lora *l = &c->lora;
    size_t n_tok = (size_t)c->limit.n_tok;
    if (l->n_adapter == 0)
        return LB_OK;
    if ((l->of_row = lb_cpu_take(c, n_tok, sizeof *l->of_row, "adapters of tokens", err)) == NULL ||
        (l->row = lb_cpu_take(c, n_tok, sizeof *l->row, "adapters of tokens", err)) == NULL ||
        (l->at = lb_cpu_take(c, (size_t)l->n_adapter + 1, sizeof *l->at, "adapters", err)) == NULL ||
        (l->u = lb_cpu_take(c, n_tok * (size_t)l->u_ld, sizeof *l->u, "adapters of tokens", err)) == NULL)
        return LB_E_DEVICE;
    return LB_OK;
}

/* A counting sort of the tokens that have an adapter. */
enum lb_status lb_cpu_lora_begin(struct lb_cpu *c, const struct lb_step *s, struct lb_err *err)
{
    struct lb_cpu_lora *l = &c->lora;
    l->n_row = 0;
    LB_TRY(lb_step_check_adapters(s, l->n_adapter, err));
    if (l->n_adapter == 0)
        return LB_OK;
    memset(l->at, 0, ((size_t)l->n_adapter + 1) * sizeof *l->at);
    for (int32_t is = 0; is < s->n_seq; is++) {
        for (int32_t t = s->seq_start[is]; t < s->seq_start[is + 1]; t++)
            l->of_row[t] = s->adapter[is] - 1;
        if (s->adapter[is] > 0)
            l->at[s->adapter[is]] += s->seq_start[is + 1] - s->seq_start[is];
    }
    for (int32_t i = 1; i <= l->n_adapter; i++) {
        int32_t n = l->at[i];
        l->at[i] = (int32_t)l->n_row;
        l->n_row += n;
    }
    for (int32_t t = 0; t < s->n_tok; t++)
        if (l->of_row[t] >= 0)
            l->row[l->at[l->of_row[t] + 1]++] = t;
    return LB_OK;
}

struct down_job {
    const struct lk_cpu *lk;
    struct lk_lora_down args;
};

static void run_down(void *ctx, int64_t begin, int64_t end)
{
    struct down_job *job = ctx;
    job->lk->lora_down(&job->args, begin, end);
}

bool lb_cpu_lora_down(struct lb_cpu *c, const struct lk_act *a, const struct lb_matrix *m, struct lk_lora *out)
{
    const struct lb_cpu_lora *l = &c->lora;
    if (!m->lora || l->n_row == 0)
        return false;
    *out = (struct lk_lora){m->lora, l->of_row, l->u, l->u_ld, 0};
    struct down_job job = {&c->lk, {*a, *out, l->row}};
    lb_team_run(c->team, run_down, &job, l->n_row, lb_cpu_grain(c, l->n_row, 4));
    return true;
}
