/* The CUDA backend's beginning of a step: the step is checked, its tables go to the device in one copy, pages are
 * copied and zeroed, rotary angles made, once for all layers. */
#include <string.h>

#include "core/backend/backend_cuda_parts.h"

/* ---- the step's block ---- */

static size_t padded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

size_t lb_cuda_block_bytes(const struct lb_cuda *c)
{
    size_t n_tok = (size_t)c->limit.n_tok, n_seq = (size_t)c->limit.n_seq, n_page = (size_t)c->limit.n_page;
    size_t tables = 5 * padded(n_tok * sizeof(int32_t)) + padded((n_seq + 1) * sizeof(int32_t)) +
                    padded(n_page * sizeof(int32_t)) + padded(n_tok * sizeof(struct lk_attn_item)) +
                    padded((size_t)c->max_out * sizeof(struct lk_draw));
    return tables + lb_cuda_lora_block_bytes(c) + lb_cuda_plan_bytes(c) + lb_cuda_index_block_bytes(c);
}

void *lb_cuda_block_take(struct lb_cuda *c, size_t bytes, void **device)
{
    size_t at = c->block_used;
    if (padded(bytes) > c->block_bytes - at) {
        lb_err_set(&c->err, LB_E_USAGE, "step %lld: its tables need more than the %zu bytes that were reserved",
                   (long long)c->step->number, c->block_bytes);
        return NULL;
    }
    c->block_used = at + padded(bytes);
    *device = c->block + at;
    return c->block_host + at;
}

void lb_cuda_block_send(struct lb_cuda *c, size_t from, const char *op)
{
    size_t n = c->block_used - from;
    if (n > 0)
        lb_cuda_ok(c, cudaMemcpyAsync(c->block + from, c->block_host + from, n, cudaMemcpyHostToDevice, c->stream),
                   "cudaMemcpyAsync", op);
}

/* Page tables differ in length from step to step: they have a place of their own in front of all else, so that the
 * other tables of steps with as many tokens, sequences and outputs lie at the same addresses. */
static size_t page_room(const struct lb_cuda *c)
{
    return padded((size_t)c->limit.n_page * sizeof(int32_t));
}

static void send_pages(struct lb_cuda *c, const struct lb_step *s)
{
    size_t n = (size_t)s->n_page * sizeof *s->page;
    c->t.page = (int32_t *)(void *)c->block;
    memcpy(c->block_host, s->page, n);
    if (n > 0)
        lb_cuda_ok(c, cudaMemcpyAsync(c->block, c->block_host, n, cudaMemcpyHostToDevice, c->stream), "cudaMemcpyAsync",
                   "a step's pages");
}

/* n numbers of a table. */
static int32_t *put(struct lb_cuda *c, const int32_t *from, int32_t n)
{
    void *device, *to = lb_cuda_block_take(c, (size_t)n * sizeof *from, &device);
    if (!to)
        return NULL;
    memcpy(to, from, (size_t)n * sizeof *from);
    return device;
}

/* Ids as rows of the table; those of other ranks' rows get the one behind the last. What the device knows alone stays
 * as it is. */
static bool put_ids(struct lb_cuda *c, const struct lb_step *s)
{
    const struct lb_step *older = c->other.step;
    void *device;
    int32_t *id = lb_cuda_block_take(c, (size_t)s->n_tok * sizeof *id, &device);
    if (!id || lb_step_resolve(s, older ? NULL : c->slot, older ? older->n_out : c->max_out, c->head.n_vocab, id,
                               &c->err) != LB_OK)
        return false;
    c->t.id = device;
    const struct lb_table *table = c->table;
    for (int32_t t = 0; t < s->n_tok && table; t++) {
        if (id[t] < 0)
            continue;
        int64_t row = id[t] - table->first;
        id[t] = (int32_t)(row >= 0 && row < table->n_row ? row : table->n_row);
    }
    return true;
}

int32_t lb_cuda_n_dense(const struct lb_cuda *c, int32_t is)
{
    const struct lb_step *s = c->step;
    int32_t t = s->seq_start[is], n = s->seq_start[is + 1] - t;
    int64_t topk = c->kv->spec.index.topk;
    if (!c->kv->index || (int64_t)s->pos[t] + n <= topk)
        return n;
    return s->pos[t] < topk ? (int32_t)(topk - s->pos[t]) : 0;
}

/* In f32 a block of threads takes all heads of a token. */
static bool put_items(struct lb_cuda *c, const struct lb_step *s, int32_t n_head)
{
    void *device;
    struct lk_attn_item *item = lb_cuda_block_take(c, (size_t)s->n_tok * sizeof *item, &device);
    if (!item)
        return false;
    c->t.item = device;
    c->t.n_item = 0;
    for (int32_t is = 0; is < s->n_seq; is++)
        for (int32_t t = s->seq_start[is], end = t + lb_cuda_n_dense(c, is); t < end; t++)
            item[c->t.n_item++] = (struct lk_attn_item){is, t, 1, 0, n_head, 0};
    return true;
}

static bool send_tables(struct lb_cuda *c, const struct lb_step *s, bool dynamic, int64_t n_head)
{
    struct lb_cuda_tables *t = &c->t;
    *t = (struct lb_cuda_tables){0};
    c->block_used = page_room(c);
    if (!put_ids(c, s) || (t->pos = put(c, s->pos, s->n_tok)) == NULL ||
        (t->tok_page = put(c, s->tok_page, s->n_tok)) == NULL ||
        (dynamic && (t->rope_len = put(c, s->rope_len, s->n_tok)) == NULL) ||
        (t->page_start = put(c, s->page_start, s->n_seq + 1)) == NULL ||
        (t->out_tok = put(c, s->out_tok, s->n_out)) == NULL)
        return false;
    if (c->base.dtype == LB_F32 && !put_items(c, s, (int32_t)n_head))
        return false;
    if (!lb_cuda_lora_begin(c, s))
        return false;
    lb_cuda_block_send(c, page_room(c), "a step's tables");
    send_pages(c, s);
    if (c->kv->index)
        lb_cuda_index_begin(c, c->kv->index, s, n_head);
    c->plan_base = c->block_used;
    return c->err.status == LB_OK;
}

/* ---- pages ---- */

/* Planes stand one behind the other, so that a page of every layer is one copy of two dimensions, unless they lie
 * further apart than such a copy can say: then it is `n` of one each. */
static int64_t at_once(const struct lb_cuda *c, const struct lb_cuda_planes *p, int64_t *n)
{
    bool one = (size_t)p->plane_bytes <= c->most_pitch;
    *n = one ? 1 : p->n_plane;
    return one ? p->n_plane : 1;
}

static bool copy_page(struct lb_cuda *c, const struct lb_cuda_planes *p, int32_t from, int32_t to)
{
    int64_t n, height = at_once(c, p, &n);
    for (int64_t i = 0; i < n; i++) {
        uint8_t *base = p->data + i * p->plane_bytes;
        if (!lb_cuda_ok(c,
                        cudaMemcpy2DAsync(base + to * p->page_bytes, (size_t)p->plane_bytes,
                                          base + from * p->page_bytes, (size_t)p->plane_bytes, (size_t)p->page_bytes,
                                          (size_t)height, cudaMemcpyDeviceToDevice, c->stream),
                        "cudaMemcpy2DAsync", "a copy of a page"))
            return false;
    }
    return true;
}

static bool zero_pages(struct lb_cuda *c, const struct lb_cuda_planes *p, int32_t first, int32_t n_page)
{
    int64_t n, height = at_once(c, p, &n);
    for (int64_t i = 0; i < n; i++)
        if (!lb_cuda_ok(c,
                        cudaMemset2DAsync(p->data + i * p->plane_bytes + first * p->page_bytes, (size_t)p->plane_bytes,
                                          0, (size_t)(n_page * p->page_bytes), (size_t)height, c->stream),
                        "cudaMemset2DAsync", "new pages"))
            return false;
    return true;
}

/* Copies one after another, as a page may be copied that is itself a copy; then new pages, neighbors at once. */
static bool prepare_planes(struct lb_cuda *c, const struct lb_step *s, const struct lb_cuda_planes *p)
{
    for (int32_t i = 0; i < s->n_copy; i++)
        if (!copy_page(c, p, s->copy_from[i], s->copy_to[i]))
            return false;
    for (int32_t i = 0, n; i < s->n_new; i += n) {
        for (n = 1; i + n < s->n_new && s->new_page[i + n] == s->new_page[i] + n;)
            n++;
        if (!zero_pages(c, p, s->new_page[i], n))
            return false;
    }
    return true;
}

static bool prepare_pages(struct lb_cuda *c, const struct lb_step *s)
{
    const struct lb_kv_mem *kv = c->kv;
    int64_t k_page = kv->k_page_bytes * kv->spec.n_kv_head, v_page = kv->v_page_bytes * kv->spec.n_kv_head;
    const struct lb_cuda_planes k = {kv->k, k_page * kv->spec.n_page, k_page, kv->spec.n_layer};
    const struct lb_cuda_planes v = {kv->v, v_page * kv->spec.n_page, v_page, kv->spec.n_layer};
    const struct lb_cuda_planes keys = kv->index ? lb_cuda_index_planes(kv->index) : (struct lb_cuda_planes){0};
    return prepare_planes(c, s, &k) && prepare_planes(c, s, &v) && (!kv->index || prepare_planes(c, s, &keys));
}

/* ---- sizes that the first step fixes ---- */

static enum lb_status size_rope(struct lb_cuda *c, const struct lb_rope_args *rope, struct lb_err *err)
{
    size_t n_freq = (size_t)(rope->n_rot / 2), n = (size_t)c->limit.n_tok * n_freq;
    if (c->n_rot == rope->n_rot)
        return LB_OK;
    if ((c->cos = lb_cuda_take(c, LB_CUDA_DEVICE, n, sizeof(float), "rotary angles", err)) == NULL ||
        (c->sin = lb_cuda_take(c, LB_CUDA_DEVICE, n, sizeof(float), "rotary angles", err)) == NULL ||
        (c->inv_freq = lb_cuda_take(c, LB_CUDA_DEVICE, n_freq, sizeof(float), "rotary angles", err)) == NULL)
        return LB_E_DEVICE;
    LB_TRY(lb_cuda_upload(c, c->inv_freq, rope->inv_freq, n_freq * sizeof(float), "rotary angles", err));
    LB_TRY(lb_cuda_loaded(c, err));
    c->n_rot = rope->n_rot;
    return LB_OK;
}

static enum lb_status first_step(struct lb_cuda *c, const struct lb_rope_args *rope, int64_t n_head, struct lb_err *err)
{
    const struct lb_kv_spec *kv = &c->kv->spec;
    if (!c->block) {
        size_t bytes = lb_cuda_block_bytes(c);
        if (c->base.n_ahead > 0 &&
            (c->other.block_host = lb_cuda_take(c, LB_CUDA_PINNED, bytes, 1, "a step's tables", err)) == NULL)
            return LB_E_DEVICE;
        if ((c->block_host = lb_cuda_take(c, LB_CUDA_PINNED, bytes, 1, "a step's tables", err)) == NULL ||
            (c->block = lb_cuda_take(c, LB_CUDA_DEVICE, bytes, 1, "a step's tables", err)) == NULL)
            return LB_E_DEVICE;
        c->block_bytes = bytes;
    }
    if (c->q_head != n_head || c->q_head_dim != kv->head_dim) {
        size_t n = (size_t)c->limit.n_tok * (size_t)(n_head * kv->head_dim);
        if ((c->q = lb_cuda_take(c, LB_CUDA_DEVICE, n, lb_cuda_elem_bytes(c), "queries", err)) == NULL)
            return LB_E_DEVICE;
        c->q_head = n_head;
        c->q_head_dim = kv->head_dim;
    }
    if (c->base.dtype == LB_BF16 && (c->state_head != n_head || c->state_dim != kv->v_dim)) {
        c->n_slot = lb_cuda_plan_slots(c);
        size_t bytes = lk_attn_state_bytes(c->n_slot, n_head, kv->v_dim);
        if ((c->state = lb_cuda_take(c, LB_CUDA_DEVICE, bytes, 1, "states of attention", err)) == NULL)
            return LB_E_DEVICE;
        c->state_head = n_head;
        c->state_dim = kv->v_dim;
    }
    return size_rope(c, rope, err);
}

static void rope_table(struct lb_cuda *c, const struct lb_step *s, const struct lb_rope_args *rope)
{
    struct lk_rope_table args = {.cos = c->cos,
                                 .sin = c->sin,
                                 .pos = c->t.pos,
                                 .inv_freq = c->inv_freq,
                                 .len = c->t.rope_len,
                                 .base = rope->base,
                                 .factor = rope->factor,
                                 .max_pos = rope->max_pos,
                                 .n_tok = s->n_tok,
                                 .n_rot = rope->n_rot,
                                 .scale = rope->scale};
    lb_cuda_ok(c, lk_cuda_rope_table(&args, c->stream), "kernel", "rope_table");
}

/* Ids that the step before has left on the device. */
static bool resolve(struct lb_cuda *c, const struct lb_step *s)
{
    const struct lk_resolve args = {c->t.id, c->dev_head.slot, s->n_tok};
    return !c->other.step || s->n_tok == 0 || lb_cuda_ok(c, lk_cuda_resolve(&args, c->stream), "kernel", "resolve");
}

/* The step before, where it is on its way, becomes the older one. */
static bool begin_flight(struct lb_cuda *c, const struct lb_step *step)
{
    const struct lb_step *older = c->step;
    bool room = !c->other.step && (!older || c->base.n_ahead > 0);
    if (older && room) {
        lb_cuda_ok(c, (int)cudaEventRecord(c->end_event, c->stream), "cudaEventRecord", "a step");
        lb_cuda_swap(c);
    }
    c->err = older && room ? c->other.err : c->late;
    c->step = step;
    if (!room)
        lb_err_set(&c->err, LB_E_USAGE, "step %lld begins before an earlier one is ended", (long long)step->number);
    return room;
}

void lb_cuda_step_begin(struct lb_backend *be, const struct lb_step *step, struct lb_kv_mem *kv,
                        const struct lb_rope_args *rope, int64_t n_head)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (!begin_flight(c, step))
        return;
    c->kv = kv;
    c->n_plan = 0;
    c->forgets = false;
    c->block_used = 0;
    c->dev_head.whole = false;
    c->dev_head.put.out = NULL;
    if (!c->reserved) {
        lb_err_set(&c->err, LB_E_USAGE, "a step began before memory was reserved");
        return;
    }
    if (lb_step_check(step, &c->limit, c->max_out, kv->spec.n_page, &c->err) != LB_OK ||
        lb_cuda_loaded(c, &c->err) != LB_OK || first_step(c, rope, n_head, &c->err) != LB_OK ||
        !send_tables(c, step, rope->dynamic, n_head) || !resolve(c, step) || !prepare_pages(c, step))
        return;
    if (step->n_tok > 0)
        rope_table(c, step, rope);
}
