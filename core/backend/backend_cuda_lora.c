/* Adapters of the CUDA backend: laid out for the kernels, and a step's tokens in tiles of one adapter. */
#include <string.h>

#include "core/backend/backend_cuda_parts.h"
#include "core/base/mem.h"

_Static_assert(LB_LORA_MAX_PART <= LK_ADAPT_PARTS, "kernels take as many modules as a matrix may have");

static void put(void *to, int64_t at, float x, bool f32)
{
    if (f32)
        ((float *)to)[at] = x;
    else
        ((uint16_t *)to)[at] = lb_bf16_round(x);
}

/* A turned over: a row for each packed column. */
static void lay_a(const struct lb_matrix *m, const struct lb_lora_spec *spec, const struct lk_adapter *p, void *to,
                  float *row)
{
    const struct lk_cols *c = &m->cols;
    for (int i = 0; i < spec->n_part; i++) {
        const struct lb_rows *a = spec->part[i].a;
        for (int64_t j = 0; j < a->n_row; j++) {
            a->get(a, j, 1, row);
            for (int s = 0; s < c->n_seg; s++)
                for (int64_t k = c->begin[s]; k < c->begin[s + 1]; k++)
                    put(to, (c->packed[s] + k - c->begin[s]) * p->n_u + p->part[i].begin + j, row[k], m->f32);
        }
    }
}

static void lay_b(const struct lb_matrix *m, const struct lb_lora_spec *spec, const struct lk_adapter *p, void *to,
                  float *row)
{
    for (int i = 0; i < spec->n_part; i++) {
        const struct lb_rows *b = spec->part[i].b;
        for (int64_t j = 0; j < b->n_row; j++) {
            b->get(b, j, 1, row);
            for (int64_t r = 0; r < b->n_col; r++)
                put(to, p->part[i].at + r * b->n_row + j, row[r], m->f32);
        }
    }
}

static void lay_scale(const struct lb_lora_spec *spec, const struct lk_adapter *p, float *to)
{
    for (int i = 0; i < spec->n_part; i++)
        for (int64_t j = 0; j < p->part[i].n_u; j++)
            to[p->part[i].begin + j] = spec->part[i].scale;
}

/* What the kernels take, but for the addresses; returns the numbers of all B. */
static int64_t shape_of(const struct lb_lora_spec *spec, struct lk_adapter *p)
{
    int64_t n_b = 0;
    *p = (struct lk_adapter){.n_part = spec->n_part};
    for (int i = 0; i < spec->n_part; i++) {
        const struct lb_lora_part *from = &spec->part[i];
        p->part[i] = (struct lk_adapter_part){from->first, from->b->n_row, p->n_u, from->a->n_row, n_b};
        p->n_u += from->a->n_row;
        n_b += from->a->n_row * from->b->n_row;
    }
    return n_b;
}

/* Host memory while one adapter's matrices are laid out: the widest row, and A, B or the scales. */
struct room {
    float *row;
    void *data;
};

static enum lb_status take_room(struct room *room, const struct lb_matrix *m, const struct lk_adapter *p, size_t bytes,
                                struct lb_err *err)
{
    size_t widest = (size_t)(m->cols.n_col > p->n_u ? m->cols.n_col : p->n_u);
    room->row = lb_mem_new(widest, sizeof *room->row);
    room->data = lb_mem_new(bytes, 1);
    return room->row && room->data ? LB_OK : lb_err_memory(err, "an adapter", bytes);
}

static enum lb_status send(struct lb_cuda *c, const struct lb_matrix *m, const struct lb_lora_spec *spec,
                           struct lk_adapter *p, struct lb_err *err)
{
    size_t n_b = (size_t)shape_of(spec, p), n_a = (size_t)(m->cols.packed[m->cols.n_seg] * p->n_u);
    size_t elem = lb_cuda_type_bytes(m->f32), bytes = (n_a > n_b ? n_a : n_b) * elem;
    void *a = lb_cuda_take(c, LB_CUDA_DEVICE, n_a, elem, spec->name, err);
    void *b = lb_cuda_take(c, LB_CUDA_DEVICE, n_b, elem, spec->name, err);
    float *scale = lb_cuda_take(c, LB_CUDA_DEVICE, (size_t)p->n_u, sizeof *scale, spec->name, err);
    struct room room = {0};
    if (!a || !b || !scale)
        return LB_E_DEVICE;
    p->a = a;
    p->b = b;
    p->scale = scale;
    size_t scale_bytes = (size_t)p->n_u * sizeof *scale;
    enum lb_status status = take_room(&room, m, p, bytes > scale_bytes ? bytes : scale_bytes, err);
    if (status == LB_OK) {
        lay_a(m, spec, p, room.data, room.row);
        status = lb_cuda_upload(c, a, room.data, n_a * elem, spec->name, err);
    }
    if (status == LB_OK) {
        lay_b(m, spec, p, room.data, room.row);
        status = lb_cuda_upload(c, b, room.data, n_b * elem, spec->name, err);
    }
    if (status == LB_OK) {
        lay_scale(spec, p, room.data);
        status = lb_cuda_upload(c, scale, room.data, scale_bytes, spec->name, err);
    }
    lb_mem_free(room.row);
    lb_mem_free(room.data);
    c->base.counts.weight_bytes += (int64_t)((n_a + n_b) * elem);
    return status;
}

/* Of adapters that have nothing for the matrix zeros stay. */
static enum lb_status new_table(struct lb_cuda *c, struct lb_matrix *m, int32_t n_adapter, struct lb_err *err)
{
    size_t n = (size_t)n_adapter;
    struct lk_adapter *all = lb_cuda_take(c, LB_CUDA_DEVICE, n, sizeof *all, "adapters", err);
    if (!all)
        return LB_E_DEVICE;
    c->loads = true;
    LB_TRY(
        lb_cuda_try((int)cudaMemsetAsync(all, 0, n * sizeof *all, c->load_stream), "cudaMemsetAsync", "adapters", err));
    m->lora = all;
    return LB_OK;
}

enum lb_status lb_cuda_lora_new(struct lb_backend *be, struct lb_matrix *m, const struct lb_lora_spec *spec,
                                struct lb_err *err)
{
    struct lb_cuda *c = lb_cuda_of(be);
    struct lk_adapter p;
    LB_TRY(lb_lora_spec_check(spec, m->cols.n_col, m->n_out, m->n_head, err));
    LB_TRY(send(c, m, spec, &p, err));
    if (!m->lora)
        LB_TRY(new_table(c, m, spec->n_adapter, err));
    LB_TRY(lb_cuda_upload(c, m->lora + spec->adapter, &p, sizeof p, spec->name, err));
    struct lb_cuda_lora *l = &c->lora;
    l->n_adapter = spec->n_adapter;
    m->lora_n_u = p.n_u > m->lora_n_u ? p.n_u : m->lora_n_u;
    l->u_ld = p.n_u * m->cols.n_seg > l->u_ld ? p.n_u * m->cols.n_seg : l->u_ld;
    return LB_OK;
}

enum lb_status lb_cuda_lora_reserve(struct lb_cuda *c, struct lb_err *err)
{
    struct lb_cuda_lora *l = &c->lora;
    size_t n_u = (size_t)c->limit.n_tok * (size_t)l->u_ld;
    if (l->n_adapter == 0)
        return LB_OK;
    if ((l->at = lb_cuda_take(c, LB_CUDA_HOST, (size_t)l->n_adapter + 1, sizeof *l->at, "adapters", err)) == NULL ||
        (l->u = lb_cuda_take(c, LB_CUDA_DEVICE, n_u, sizeof *l->u, "adapters of tokens", err)) == NULL)
        return LB_E_DEVICE;
    return LB_OK;
}

/* ---- a step ---- */

size_t lb_cuda_lora_block_bytes(const struct lb_cuda *c)
{
    size_t n_tok = (size_t)c->limit.n_tok; /* each may be a tile of its own */
    return c->lora.n_adapter > 0 ? n_tok * (sizeof(int32_t) + sizeof(struct lk_adapt_tile)) + 128 : 0;
}

/* Where the rows of each adapter begin, l->at[0 .. n_adapter]; returns how many tiles they are. */
static int64_t count_rows(struct lb_cuda_lora *l, const struct lb_step *s)
{
    int64_t n_tile = 0;
    int32_t at = 0;
    memset(l->at, 0, ((size_t)l->n_adapter + 1) * sizeof *l->at);
    for (int32_t is = 0; is < s->n_seq; is++)
        if (s->adapter[is] > 0)
            l->at[s->adapter[is]] += s->seq_start[is + 1] - s->seq_start[is];
    for (int32_t i = 1; i <= l->n_adapter; i++) {
        n_tile += (l->at[i] + LK_ADAPT_TILE - 1) / LK_ADAPT_TILE;
        at += l->at[i];
        l->at[i] = at;
    }
    return n_tile;
}

/* Rows by adapter, in order; before and afterwards l->at[i] is where those of adapter i end. */
static void put_rows(struct lb_cuda_lora *l, const struct lb_step *s, int32_t *row)
{
    for (int32_t i = l->n_adapter; i > 0; i--)
        l->at[i] = l->at[i - 1];
    for (int32_t is = 0; is < s->n_seq; is++)
        for (int32_t t = s->seq_start[is]; t < s->seq_start[is + 1] && s->adapter[is] > 0; t++)
            row[l->at[s->adapter[is]]++] = t;
}

static void put_tiles(const struct lb_cuda_lora *l, struct lk_adapt_tile *tile)
{
    for (int32_t i = 1, begin = 0; i <= l->n_adapter; begin = l->at[i++])
        for (int32_t at = begin; at < l->at[i]; at += LK_ADAPT_TILE)
            *tile++ = (struct lk_adapt_tile){i - 1, at, l->at[i] - at < LK_ADAPT_TILE ? l->at[i] - at : LK_ADAPT_TILE};
}

bool lb_cuda_lora_begin(struct lb_cuda *c, const struct lb_step *s)
{
    struct lb_cuda_lora *l = &c->lora;
    l->n_tile = 0;
    if (lb_step_check_adapters(s, l->n_adapter, &c->err) != LB_OK)
        return false;
    int64_t n_tile = l->n_adapter > 0 ? count_rows(l, s) : 0;
    if (n_tile == 0)
        return true;
    void *row_at, *tile_at;
    int32_t *row = lb_cuda_block_take(c, (size_t)l->at[l->n_adapter] * sizeof *row, &row_at);
    struct lk_adapt_tile *tile = lb_cuda_block_take(c, (size_t)n_tile * sizeof *tile, &tile_at);
    if (!row || !tile)
        return false;
    put_rows(l, s, row);
    put_tiles(l, tile);
    l->row = row_at;
    l->tile = tile_at;
    l->n_tile = n_tile;
    return true;
}

bool lb_cuda_lora_down(struct lb_cuda *c, const struct lk_act *x, const struct lb_matrix *w, struct lk_adapt *out)
{
    const struct lb_cuda_lora *l = &c->lora;
    if (!w->lora || l->n_tile == 0)
        return false;
    *out = (struct lk_adapt){.adapter = w->lora,
                             .row = l->row,
                             .tile = l->tile,
                             .n_tile = l->n_tile,
                             .n_u = w->lora_n_u,
                             .u = l->u,
                             .u_ld = l->u_ld};
    return lb_cuda_ok(c, lk_cuda_lora_down(out, x, w->f32 ? LK_F32 : LK_BF16, c->stream), "adapters", w->name);
}
