/* The CPU backend's beginning of a step: the step is checked, slot references are resolved, new pages zeroed, rotary
 * angles and the list of attention work made, once for all layers. */
#include <string.h>

#include "core/backend/backend_cpu.h"

/* Up to here attention items are so few that threads wait for the last one. */
static int64_t few_items(const struct lb_cpu *c)
{
    return c->base.n_thread > 1 ? 2 * c->base.n_thread : 0;
}

/* No more than rows demand, unless items are few. */
int64_t lb_cpu_attn_parts(const struct lb_cpu *c, int64_t group, int64_t n_piece)
{
    int64_t rows = c->lk.attn_rows(c->kv->spec.v_dim), n = (group + rows - 1) / rows,
            few = few_items(c) / (n_piece > 0 ? n_piece : 1);
    return few <= n ? n : few < group ? few : group;
}

/* Sizes what depends on the model's heads, at the first step. */
static enum lb_status first_step(struct lb_cpu *c, const struct lb_rope_args *rope, int64_t n_head, struct lb_err *err)
{
    int64_t n_kv_head = c->kv->spec.n_kv_head, head_dim = c->kv->spec.head_dim;
    size_t n_tok = (size_t)c->limit.n_tok;
    if (c->q_head != n_head || c->q_head_dim != head_dim) {
        if ((c->q = lb_cpu_take(c, 1, c->lk.q_bytes(c->limit.n_tok, n_head, head_dim), "queries", err)) == NULL)
            return LB_E_DEVICE;
        c->q_head = n_head;
        c->q_head_dim = head_dim;
    }
    if (c->n_rot != rope->n_rot) {
        size_t n = n_tok * (size_t)(rope->n_rot / 2);
        if ((c->cos = lb_cpu_take(c, n, sizeof(float), "rotary angles", err)) == NULL ||
            (c->sin = lb_cpu_take(c, n, sizeof(float), "rotary angles", err)) == NULL)
            return LB_E_DEVICE;
        c->n_rot = rope->n_rot;
    }
    int64_t room = c->limit.n_tok * n_kv_head * lb_cpu_attn_parts(c, n_head / n_kv_head, INT32_MAX) + few_items(c);
    if (c->item_room < room) {
        if ((c->item = lb_cpu_take(c, (size_t)room, sizeof *c->item, "attention items", err)) == NULL)
            return LB_E_DEVICE;
        c->item_room = room;
    }
    if (!c->item_range && (c->item_range = lb_cpu_take(c, (size_t)c->base.n_thread + 1, sizeof *c->item_range,
                                                       "attention ranges", err)) == NULL)
        return LB_E_DEVICE;
    return LB_OK;
}

/* Items are layers: copies of a layer are made one after another, as a page may be copied that is itself a copy. */
static void copy_pages(void *ctx, int64_t begin, int64_t end)
{
    const struct lb_cpu *c = ctx;
    const struct lb_kv_mem *kv = c->kv;
    int64_t k_bytes = kv->k_page_bytes * kv->spec.n_kv_head, v_bytes = kv->v_page_bytes * kv->spec.n_kv_head;
    for (int64_t il = begin; il < end; il++) {
        for (int32_t i = 0; i < c->step->n_copy; i++) {
            int64_t from = il * kv->spec.n_page + c->step->copy_from[i];
            int64_t to = il * kv->spec.n_page + c->step->copy_to[i];
            memcpy(kv->k + to * k_bytes, kv->k + from * k_bytes, (size_t)k_bytes);
            memcpy(kv->v + to * v_bytes, kv->v + from * v_bytes, (size_t)v_bytes);
        }
    }
}

/* Items are (layer, new page). */
static void zero_pages(void *ctx, int64_t begin, int64_t end)
{
    const struct lb_cpu *c = ctx;
    const struct lb_kv_mem *kv = c->kv;
    int64_t k_bytes = kv->k_page_bytes * kv->spec.n_kv_head, v_bytes = kv->v_page_bytes * kv->spec.n_kv_head;
    for (int64_t i = begin; i < end; i++) {
        int64_t at = i / c->step->n_new * kv->spec.n_page + c->step->new_page[i % c->step->n_new];
        memset(kv->k + at * k_bytes, 0, (size_t)k_bytes);
        memset(kv->v + at * v_bytes, 0, (size_t)v_bytes);
    }
}

/* Order of work, a quarter of a power of two a bucket: larger costs have larger buckets. */
static int32_t cost_bucket(uint64_t cost)
{
    if (cost < 4)
        return (int32_t)cost;
    int log2 = 63 - __builtin_clzll(cost);
    return (int32_t)(4 * (log2 - 1) + (int)(cost >> (log2 - 2) & 3));
}

/* Tokens of a sequence that attend to all that they see; the indexer's tokens behind them choose positions. */
static int32_t n_dense(const struct lb_cpu *c, int32_t is)
{
    const struct lb_step *s = c->step;
    int32_t t = s->seq_start[is], n = s->seq_start[is + 1] - t;
    int64_t topk = c->kv->spec.index.topk;
    if (!c->kv->index || (int64_t)s->pos[t] + n <= topk)
        return n;
    return s->pos[t] < topk ? (int32_t)(topk - s->pos[t]) : 0;
}

static bool decodes(const struct lb_cpu *c, int32_t is)
{
    return c->step->seq_start[is + 1] - c->step->seq_start[is] == 1 && n_dense(c, is) == 1;
}

/* Pages that two sequences have in common, from the first on, and that end before the tokens of both. */
static int32_t n_common(const struct lb_step *s, int32_t is, int32_t other)
{
    const int32_t *a = s->page + s->page_start[is], *b = s->page + s->page_start[other];
    int32_t pos = s->pos[s->seq_start[is]], pos_other = s->pos[s->seq_start[other]], n = 0;
    for (int32_t most = (pos < pos_other ? pos : pos_other) / LK_PAGE_TOKENS; n < most && a[n] == b[n];)
        n++;
    return n;
}

/* How many sequences from `is` on, at most `most`, decode with the same pages at their beginning. One that has half as
 * many of them in common begins a run of its own. */
static int32_t shared_run(const struct lb_cpu *c, int32_t is, int64_t most, int32_t *n_shared)
{
    int32_t n = 1;
    *n_shared = 0;
    if (!decodes(c, is))
        return 1;
    for (; n < most && is + n < c->step->n_seq && decodes(c, is + n); n++) {
        int32_t common = n_common(c->step, is, is + n);
        if (common == 0 || common < *n_shared / 2)
            break;
        *n_shared = n == 1 || common < *n_shared ? common : *n_shared;
    }
    return n;
}

static void put_piece(struct lb_cpu *c, int32_t *n_piece, struct lb_cpu_piece p)
{
    p.cost = 0;
    for (int32_t t = p.tok; t < p.tok + p.n_tok; t++)
        p.cost += (uint64_t)c->step->pos[t] + 1;
    p.bucket = cost_bucket(p.cost);
    c->piece[(*n_piece)++] = p;
}

/* Cuts the step into pieces that take all heads or part of them; returns their number. */
static int32_t cut_pieces(struct lb_cpu *c, int32_t group)
{
    const struct lb_step *s = c->step;
    int64_t rows = c->lk.attn_rows(c->kv->spec.v_dim);
    int64_t fair = (int64_t)s->n_tok * c->kv->spec.n_kv_head / c->base.n_thread, share = fair / 3;
    int64_t most = group < rows ? rows / group : 1; /* tokens of one sequence */
    int64_t together = LK_SHARED_ROWS / group;      /* sequences that share pages */
    most = most < fair ? most : fair > 1 ? fair : 1;
    together = together < share ? together : share;
    int32_t n_piece = 0, n_shared;
    for (int32_t is = 0, n_seq; is < s->n_seq; is += n_seq) {
        n_seq = shared_run(c, is, together, &n_shared);
        int32_t t = s->seq_start[is], end = t + n_dense(c, is);
        if (n_seq > 1) {
            put_piece(c, &n_piece, (struct lb_cpu_piece){.seq = is, .tok = t, .n_tok = n_seq, .n_shared = n_shared});
            continue;
        }
        for (int32_t n; t < end; t += n) {
            n = end - t < most ? end - t : (int32_t)most;
            put_piece(c, &n_piece, (struct lb_cpu_piece){.seq = is, .tok = t, .n_tok = n});
        }
    }
    return n_piece;
}

/* Whether no piece is so much of the whole that other threads wait for whoever has it. */
static bool are_small(const struct lb_cpu *c, int32_t n_piece, uint64_t *sum)
{
    uint64_t most = 0;
    *sum = 0;
    for (int32_t i = 0; i < n_piece; i++) {
        const uint64_t cost = c->piece[i].cost;
        *sum += cost;
        most = cost > most ? cost : most;
    }
    return most <= *sum / (uint64_t)(LB_CPU_SMALL * c->base.n_thread);
}

/* Puts a piece's items where c->item[at] is, n_part for each KV head; returns where they end. */
static int64_t put_items(struct lb_cpu *c, const struct lb_cpu_piece *p, int32_t group, int32_t n_part, int64_t at)
{
    const int32_t n = p->n_tok > 1 ? 1 : n_part, n_kv_head = (int32_t)c->kv->spec.n_kv_head;
    for (int32_t ip = 0; ip < n_kv_head * n; ip++) {
        int32_t from = ip % n * group / n, to = (ip % n + 1) * group / n;
        c->item[at++] = (struct lk_attn_item){p->seq, p->tok, p->n_tok, ip / n * group + from, to - from, p->n_shared};
    }
    return at;
}

/* Items as the sequences lie, since so do their pages, a range a thread, each with the same work. */
static void put_in_ranges(struct lb_cpu *c, int32_t n_piece, uint64_t sum, int32_t group, int32_t n_part)
{
    const int n = c->base.n_thread;
    uint64_t before = 0;
    int64_t at = 0;
    int it = 0;
    for (int32_t i = 0; i < n_piece; i++) {
        for (; it < n && before * (uint64_t)n >= sum * (uint64_t)it; it++)
            c->item_range[it] = at;
        at = put_items(c, &c->piece[i], group, n_part, at);
        before += c->piece[i].cost;
    }
    for (; it <= n; it++)
        c->item_range[it] = at;
    c->n_item = at;
}

/* Most work first, so that threads finish together. A counting sort over buckets keeps it linear and free of
 * allocation. */
static void put_in_order(struct lb_cpu *c, int32_t n_piece, int32_t group, int32_t n_part)
{
    const int64_t n_kv_head = c->kv->spec.n_kv_head;
    int64_t count[LB_CPU_BUCKETS] = {0}, at[LB_CPU_BUCKETS];
    for (int32_t i = 0; i < n_piece; i++)
        count[c->piece[i].bucket] += n_kv_head * (c->piece[i].n_tok > 1 ? 1 : n_part);
    c->n_item = 0;
    for (int b = LB_CPU_BUCKETS - 1; b >= 0; b--) {
        at[b] = c->n_item;
        c->n_item += count[b];
    }
    for (int32_t i = 0; i < n_piece; i++) {
        int64_t *to = &at[c->piece[i].bucket];
        *to = put_items(c, &c->piece[i], group, n_part, *to);
    }
}

void lb_cpu_make_items(struct lb_cpu *c, int64_t n_head)
{
    int32_t n_kv_head = (int32_t)c->kv->spec.n_kv_head, group = (int32_t)(n_head / n_kv_head);
    int32_t n_piece = cut_pieces(c, group), n_many = 0;
    for (int32_t i = 0; i < n_piece; i++)
        n_many += c->piece[i].n_tok > 1;
    /* pieces of several tokens take all heads: where there are any, heads are cut no further than rows demand */
    int32_t n_part = (int32_t)lb_cpu_attn_parts(c, group, n_many > 0 ? INT32_MAX : (int64_t)n_piece * n_kv_head);
    uint64_t sum;
    c->in_ranges = are_small(c, n_piece, &sum);
    if (c->in_ranges)
        put_in_ranges(c, n_piece, sum, group, n_part);
    else
        put_in_order(c, n_piece, group, n_part);
}

struct rope_job {
    const struct lb_cpu *c;
    struct lk_rope_table args;
};

static void rope_rows(void *ctx, int64_t begin, int64_t end)
{
    struct rope_job *job = ctx;
    job->c->lk.rope_table(&job->args, begin, end);
}

void lb_cpu_step_begin(struct lb_backend *be, const struct lb_step *step, struct lb_kv_mem *kv,
                       const struct lb_rope_args *rope, int64_t n_head)
{
    struct lb_cpu *c = lb_cpu_of(be);
    c->err = (struct lb_err)LB_ERR_INIT;
    c->step = step;
    c->kv = kv;
    c->n_item = 0;
    c->soon.n = 0;
    c->soon_tune = NULL;
    if (!c->reserved) {
        lb_err_set(&c->err, LB_E_USAGE, "a step began before memory was reserved");
        return;
    }
    if (lb_step_check(step, &c->limit, c->max_out, kv->spec.n_page, &c->err) != LB_OK ||
        lb_step_resolve(step, c->slot, c->max_out, c->head.n_vocab, c->id, &c->err) != LB_OK ||
        lb_cpu_lora_begin(c, step, &c->err) != LB_OK || first_step(c, rope, n_head, &c->err) != LB_OK)
        return;
    if (step->n_copy > 0) {
        lb_team_run(c->team, copy_pages, c, kv->spec.n_layer, 1);
        if (kv->index)
            lb_cpu_index_copy(kv->index, step);
    }
    lb_team_run(c->team, zero_pages, c, (int64_t)step->n_new * kv->spec.n_layer, 4);
    lb_cpu_make_items(c, n_head);
    if (kv->index)
        lb_cpu_index_begin(kv->index, step);
    struct rope_job job = {c,
                           {.cos = c->cos,
                            .sin = c->sin,
                            .pos = step->pos,
                            .inv_freq = rope->inv_freq,
                            .len = rope->dynamic ? step->rope_len : NULL,
                            .base = rope->base,
                            .factor = rope->factor,
                            .max_pos = rope->max_pos,
                            .n_tok = step->n_tok,
                            .n_rot = rope->n_rot,
                            .scale = rope->scale}};
    lb_team_run(c->team, rope_rows, &job, step->n_tok, 16);
}
