/* The CPU backend's mixture of experts. Tokens are grouped by expert, so that an expert is one product over exactly its
 * rows; the products of all experts are one run of the team, cut into units of about equal cost. */
#include "core/backend/backend_cpu_int8.h"

#define ROUTE_ROWS 24 /* tokens of a router item at most: some panels of every kernel set */
#define READ_ROWS 4   /* what reading a product's weights costs, in rows */

/* The rows of one expert in one op. */
struct part {
    union {
        struct lk_norm norm;
        struct lk_linear linear;
        struct lk_quantize quantize;
    } args;
    int64_t n_item, n_unit, first_unit;
    bool packed; /* quantized for weights that stay packed */
};

struct lb_cpu_moe {
    struct lb_moe_shape shape;
    int first_leaf, n_leaf, n_seg;    /* the leaves that are here, of n_seg */
    int64_t expert_begin, expert_end; /* their experts */
    int64_t dim;
    struct lk_cols in_cols, ffn_cols, shared_cols[LK_MAX_SEG]; /* one segment each */
    void *route_in;                                            /* [n_tok, dim] in f32 */
    float *logits;                                             /* [n_tok, n_expert] */
    int32_t *id, *row;                                         /* [n_tok, n_used] see struct lk_combine */
    float *weight;                                             /* [n_tok, n_used] */
    int32_t *tok;     /* [n_tok * n_used] the token of each choice, grouped by expert */
    int64_t *start;   /* [n_expert + 1] where an expert's choices begin; those of other ranks' experts are left out */
    void *in, *gated; /* [n_tok * n_used, dim], [.., ffn_dim] */
    float *y;         /* [n_tok * n_used, dim] */
    void *shared_gated[LK_MAX_SEG];
    float *shared_y[LK_MAX_SEG]; /* [n_tok, dim], NULL where the segment is empty */
    struct part *part;           /* [n_expert + n_leaf] */
    /* products in int8, else NULL */
    struct part *to_int8; /* [n_expert + n_leaf] */
    char *int8;           /* their inputs */
};

static void one_segment(struct lk_cols *cols, int64_t n)
{
    const int64_t begin[2] = {0, n};
    lb_cols_init(cols, 1, begin);
}

static void *take_act(struct lb_cpu *c, size_t n_row, const struct lk_cols *cols, struct lb_err *err)
{
    return lb_cpu_take(c, n_row * (size_t)cols->packed[1], c->lk.act_bytes, "activations of experts", err);
}

static enum lb_status reserve_shared(struct lb_cpu *c, struct lb_cpu_moe *m, const struct lk_cols *shared,
                                     struct lb_err *err)
{
    size_t n_tok = (size_t)c->limit.n_tok, n_row = n_tok * (size_t)m->dim;
    for (int r = 0; r < m->n_leaf; r++) {
        int64_t width = shared->begin[r + 1] - shared->begin[r];
        if (width == 0)
            continue;
        one_segment(&m->shared_cols[r], width);
        if ((m->shared_gated[r] = take_act(c, n_tok, &m->shared_cols[r], err)) == NULL ||
            (m->shared_y[r] = lb_cpu_take(c, n_row, sizeof(float), "rows of experts", err)) == NULL)
            return LB_E_DEVICE;
    }
    return LB_OK;
}

/* Of a row, however its expert is kept. */
static size_t int8_bytes(const struct lb_cpu *c, const struct lk_cols *cols)
{
    size_t by_row = c->lk.int8.act_bytes(1, cols), packed = c->lk.w4a8.linear ? c->lk.w4a8.act_bytes(1, cols) : 0;
    return by_row > packed ? by_row : packed;
}

/* Inputs of gate-up products are choices and the shared expert's, the same for all leaves; of down products what was
 * gated of them. */
static enum lb_status reserve_int8(struct lb_cpu *c, struct lb_cpu_moe *m, struct lb_err *err)
{
    size_t n_tok = (size_t)c->limit.n_tok, n_choice = n_tok * (size_t)m->shape.n_used, shared = 0;
    if (!c->base.int8)
        return LB_OK;
    for (int r = 0; r < m->n_leaf; r++)
        shared += m->shared_y[r] ? int8_bytes(c, &m->shared_cols[r]) : 0;
    size_t in = int8_bytes(c, &m->in_cols), gated = int8_bytes(c, &m->ffn_cols);
    /* the shared expert's leaves may be packed unlike each other */
    size_t up = n_choice * in + 2 * n_tok * in, down = n_choice * gated + n_tok * shared;
    if ((m->to_int8 = lb_cpu_take(c, (size_t)m->shape.n_expert + LK_MAX_SEG, sizeof *m->to_int8, "chosen experts",
                                  err)) == NULL ||
        (m->int8 = lb_cpu_take(c, 1, up > down ? up : down, "int8 activations of experts", err)) == NULL)
        return LB_E_DEVICE;
    return LB_OK;
}

enum lb_status lb_cpu_moe_reserve(struct lb_backend *be, const struct lb_moe_shape *shape,
                                  const struct lb_moe_leaves *leaves, int64_t dim, struct lb_err *err)
{
    struct lb_cpu *c = lb_cpu_of(be);
    size_t n_tok = (size_t)c->limit.n_tok, n_choice = n_tok * (size_t)shape->n_used, n_expert = (size_t)shape->n_expert;
    struct lb_cpu_moe *m = lb_cpu_take(c, 1, sizeof *m, "a mixture of experts", err);
    if (!m)
        return LB_E_DEVICE;
    m->shape = *shape;
    m->n_seg = leaves->n_seg;
    m->first_leaf = leaves->first;
    m->n_leaf = leaves->shared->n_seg;
    m->expert_begin = m->first_leaf * shape->n_expert / m->n_seg;
    m->expert_end = (m->first_leaf + m->n_leaf) * shape->n_expert / m->n_seg;
    m->dim = dim;
    one_segment(&m->in_cols, dim);
    one_segment(&m->ffn_cols, shape->ffn_dim);
    size_t packed = (size_t)m->in_cols.packed[1];
    if ((m->route_in = lb_cpu_take(c, n_tok * packed, c->lk_f32.act_bytes, "a router's input", err)) == NULL ||
        (m->logits = lb_cpu_take(c, n_tok * n_expert, sizeof(float), "a router's logits", err)) == NULL ||
        (m->id = lb_cpu_take(c, n_choice, sizeof *m->id, "chosen experts", err)) == NULL ||
        (m->row = lb_cpu_take(c, n_choice, sizeof *m->row, "chosen experts", err)) == NULL ||
        (m->weight = lb_cpu_take(c, n_choice, sizeof *m->weight, "chosen experts", err)) == NULL ||
        (m->tok = lb_cpu_take(c, n_choice, sizeof *m->tok, "chosen experts", err)) == NULL ||
        (m->start = lb_cpu_take(c, n_expert + 1, sizeof *m->start, "chosen experts", err)) == NULL ||
        (m->part = lb_cpu_take(c, n_expert + LK_MAX_SEG, sizeof *m->part, "chosen experts", err)) == NULL ||
        (m->in = take_act(c, n_choice, &m->in_cols, err)) == NULL ||
        (m->gated = take_act(c, n_choice, &m->ffn_cols, err)) == NULL ||
        (m->y = lb_cpu_take(c, n_choice * (size_t)dim, sizeof(float), "rows of experts", err)) == NULL)
        return LB_E_DEVICE;
    LB_TRY(reserve_shared(c, m, leaves->shared, err));
    LB_TRY(reserve_int8(c, m, err));
    c->moe = m;
    return LB_OK;
}

struct route_job {
    const struct lb_cpu *c;
    const struct lb_moe_args *a;
    int64_t n_row; /* tokens of an item */
};

/* An item is a block of tokens: normalized in f32, multiplied and chosen by one thread. */
static void route_blocks(void *ctx, int64_t begin, int64_t end)
{
    const struct route_job *job = ctx;
    const struct lb_cpu *c = job->c;
    const struct lb_cpu_moe *m = c->moe;
    const struct lb_moe_shape *s = &m->shape;
    const struct lk_cpu *lk = &c->lk_f32;
    size_t row_bytes = (size_t)m->in_cols.packed[1] * lk->act_bytes;
    for (int64_t i = begin; i < end; i++) {
        int64_t t = i * job->n_row, n = c->step->n_tok - t < job->n_row ? c->step->n_tok - t : job->n_row;
        struct lk_norm norm = {.y = {(char *)m->route_in + (size_t)t * row_bytes, n, &m->in_cols},
                               .x = job->a->x->data + t * m->dim,
                               .w = job->a->norm,
                               .eps = job->a->eps};
        lk->norm(&norm, 0, lk->norm_items(&norm));
        struct lk_linear product = {.a = norm.y,
                                    .w = job->a->w->router->w,
                                    .n_out = s->n_expert,
                                    .epilogue = LK_EP_STORE,
                                    .y = m->logits + t * s->n_expert,
                                    .y_ld = s->n_expert,
                                    .l2_bytes = c->l2_bytes};
        lk->linear(&product, 0, lk->linear_items(&product));
        struct lk_route route = {.logits = product.y,
                                 .bias = job->a->w->bias,
                                 .id = m->id + t * s->n_used,
                                 .weight = m->weight + t * s->n_used,
                                 .n_tok = n,
                                 .n_expert = s->n_expert,
                                 .n_used = s->n_used,
                                 .n_group = s->n_group,
                                 .n_group_used = s->n_group_used,
                                 .scale = s->scale,
                                 .normalize = s->normalize};
        lk->route(&route, 0, n);
    }
}

static void route(const struct lb_cpu *c, const struct lb_moe_args *a)
{
    int64_t n_tok = c->step->n_tok, n_row = n_tok / c->base.n_thread;
    n_row = n_row < 1 ? 1 : n_row > ROUTE_ROWS ? ROUTE_ROWS : n_row;
    struct route_job job = {c, a, n_row};
    lb_team_run(c->team, route_blocks, &job, (n_tok + n_row - 1) / n_row, 1);
}

static bool is_here(const struct lb_cpu_moe *m, int64_t expert)
{
    return expert >= m->expert_begin && expert < m->expert_end;
}

/* Choices sorted by expert, those of an expert by token. */
static void group_by_expert(struct lb_cpu_moe *m, int64_t n_tok)
{
    int64_t n_choice = n_tok * m->shape.n_used, n_expert = m->shape.n_expert, *start = m->start;
    for (int64_t e = 0; e <= n_expert; e++)
        start[e] = 0;
    for (int64_t i = 0; i < n_choice; i++)
        if (is_here(m, m->id[i]))
            start[m->id[i] + 1]++;
    for (int64_t e = 0; e < n_expert; e++)
        start[e + 1] += start[e];
    /* while rows are handed out, start[e] is the next row of e: afterwards it is where e + 1 begins */
    for (int64_t i = 0; i < n_choice; i++) {
        if (!is_here(m, m->id[i]))
            continue;
        int32_t row = (int32_t)start[m->id[i]]++;
        m->row[i] = row;
        m->tok[row] = (int32_t)(i / m->shape.n_used);
    }
    for (int64_t e = n_expert; e > 0; e--)
        start[e] = start[e - 1];
    start[0] = 0;
}

enum part_op { PART_NORM, PART_QUANTIZE, PART_PRODUCT, PART_INT8_PRODUCT };

struct parts_job {
    const struct lk_cpu *lk;
    struct part *part;
    int n_part;
    enum part_op op;
};

static void run_items(const struct lk_cpu *lk, const struct part *p, enum part_op op, int64_t begin, int64_t end)
{
    if (op == PART_NORM)
        lk->norm(&p->args.norm, begin, end);
    else if (op == PART_QUANTIZE)
        lb_cpu_int8_ops(lk, p->packed).quantize(&p->args.quantize, begin, end);
    else if (op == PART_PRODUCT)
        lk->linear(&p->args.linear, begin, end);
    else
        lb_cpu_int8_ops(lk, p->args.linear.q).linear(&p->args.linear, begin, end);
}

static int64_t part_items(const struct lk_cpu *lk, const struct part *p, enum part_op op)
{
    return op == PART_NORM       ? lk->norm_items(&p->args.norm)
           : op == PART_QUANTIZE ? lb_cpu_int8_ops(lk, p->packed).quantize_items(&p->args.quantize)
           : op == PART_PRODUCT  ? lk->linear_items(&p->args.linear)
                                 : lb_cpu_int8_ops(lk, p->args.linear.q).linear_items(&p->args.linear);
}

static void run_units(void *ctx, int64_t begin, int64_t end)
{
    const struct parts_job *job = ctx;
    for (int64_t unit = begin; unit < end; unit++) {
        int low = 0, high = job->n_part; /* the part that holds the unit lies in [low, high) */
        while (high - low > 1) {
            int middle = (low + high) / 2;
            if (job->part[middle].first_unit <= unit)
                low = middle;
            else
                high = middle;
        }
        const struct part *p = &job->part[low];
        int64_t at = unit - p->first_unit, first = p->n_item * at / p->n_unit, last = p->n_item * (at + 1) / p->n_unit;
        run_items(job->lk, p, job->op, first, last);
    }
}

static double part_cost(const struct part *p, enum part_op op)
{
    const struct lk_linear *product = &p->args.linear;
    if (op == PART_NORM)
        return (double)p->args.norm.y.n_row;
    if (op == PART_QUANTIZE)
        return (double)p->args.quantize.a.n_row;
    return (double)(READ_ROWS + product->a.n_row) * (double)(product->n_out * product->a.cols->n_col);
}

/* Runs all parts at once. A unit is items of one part, at most the LB_CPU_CLAIMS-th share of a thread's work where an
 * item is no more. */
static void run_parts(struct lb_cpu *c, struct part *part, int n_part, enum part_op op)
{
    bool product = op == PART_PRODUCT || op == PART_INT8_PRODUCT;
    double sum = 0, share = (double)c->base.n_thread * LB_CPU_CLAIMS;
    int64_t n_unit = 0;
    for (int i = 0; i < n_part; i++) {
        part[i].n_item = part_items(&c->lk, &part[i], op);
        sum += part_cost(&part[i], op);
    }
    for (int i = 0; i < n_part; i++) {
        struct part *p = &part[i];
        int64_t n = (int64_t)(part_cost(p, op) * share / sum) + 1;
        p->n_unit = n < p->n_item ? n : p->n_item;
        p->first_unit = n_unit;
        n_unit += p->n_unit;
        if (!product)
            continue;
        p->args.linear.skip_items = (c->base.n_thread - 1) * (p->n_item / p->n_unit);
        c->base.counts.product_rows += c->lk.act_rows(&p->args.linear.a);
        c->base.counts.token_rows += p->args.linear.a.n_row;
    }
    struct parts_job job = {&c->lk, part, n_part, op};
    lb_team_run(c->team, run_units, &job, n_unit, 1);
}

/* The products of m->part, of inputs as norm and SwiGLU have written them. */
static void run_products(struct lb_cpu *c, int n_part)
{
    struct lb_cpu_moe *m = c->moe;
    if (!m->int8) {
        run_parts(c, m->part, n_part, PART_PRODUCT);
        return;
    }
    char *to = m->int8;
    struct {
        const void *from;
        void *q;
    } last[2] = {{NULL, NULL}, {NULL, NULL}}; /* by row, for packed weights */
    int n = 0;
    for (int i = 0; i < n_part; i++) {
        struct lk_act *a = &m->part[i].args.linear.a;
        const bool packed = m->part[i].args.linear.q;
        if (a->data != last[packed].from) {
            last[packed].from = a->data;
            last[packed].q = to;
            m->to_int8[n].packed = packed;
            m->to_int8[n++].args.quantize = (struct lk_quantize){to, *a};
            to += lb_cpu_int8_ops(&c->lk, packed).act_bytes(a->n_row, a->cols);
        }
        a->data = last[packed].q;
    }
    run_parts(c, m->to_int8, n, PART_QUANTIZE);
    run_parts(c, m->part, n_part, PART_INT8_PRODUCT);
}

/* Rows begin .. begin + n of packed activations. */
static struct lk_act rows_of(const struct lb_cpu *c, void *data, int64_t begin, int64_t n, const struct lk_cols *cols)
{
    size_t row_bytes = (size_t)cols->packed[cols->n_seg] * c->lk.act_bytes;
    return (struct lk_act){(char *)data + (size_t)begin * row_bytes, n, cols};
}

static void gather(struct lb_cpu *c, const struct lb_moe_args *a)
{
    struct lb_cpu_moe *m = c->moe;
    int n_part = 0;
    for (int64_t e = 0; e < m->shape.n_expert; e++) {
        int64_t begin = m->start[e], n = m->start[e + 1] - begin;
        if (n > 0)
            m->part[n_part++].args.norm = (struct lk_norm){.y = rows_of(c, m->in, begin, n, &m->in_cols),
                                                           .x = a->x->data,
                                                           .row = m->tok + begin,
                                                           .w = a->norm,
                                                           .eps = a->eps};
    }
    run_parts(c, m->part, n_part, PART_NORM);
}

static void gate_up(struct lb_cpu *c, const struct lb_moe_args *a)
{
    struct lb_cpu_moe *m = c->moe;
    struct lk_linear product = {.epilogue = LK_EP_SWIGLU, .l2_bytes = c->l2_bytes};
    int n_part = 0;
    for (int r = 0; r < m->n_leaf; r++) {
        if (!m->shared_y[r])
            continue;
        product.a = (struct lk_act){a->h->data, c->step->n_tok, &a->h->cols};
        lb_cpu_set_weights(&product, a->w->shared_gate_up[r]);
        product.out = (struct lk_act){m->shared_gated[r], c->step->n_tok, &m->shared_cols[r]};
        m->part[n_part++].args.linear = product;
    }
    for (int64_t e = 0; e < m->shape.n_expert; e++) {
        int64_t begin = m->start[e], n = m->start[e + 1] - begin;
        if (n == 0)
            continue;
        product.a = rows_of(c, m->in, begin, n, &m->in_cols);
        lb_cpu_set_weights(&product, a->w->gate_up[e]);
        product.out = rows_of(c, m->gated, begin, n, &m->ffn_cols);
        m->part[n_part++].args.linear = product;
    }
    run_products(c, n_part);
}

static void down(struct lb_cpu *c, const struct lb_moe_args *a)
{
    struct lb_cpu_moe *m = c->moe;
    struct lk_linear product = {.epilogue = LK_EP_STORE, .y_ld = m->dim, .l2_bytes = c->l2_bytes};
    int n_part = 0;
    for (int r = 0; r < m->n_leaf; r++) {
        if (!m->shared_y[r])
            continue;
        product.a = (struct lk_act){m->shared_gated[r], c->step->n_tok, &m->shared_cols[r]};
        lb_cpu_set_weights(&product, a->w->shared_down[r]);
        product.y = m->shared_y[r];
        m->part[n_part++].args.linear = product;
    }
    for (int64_t e = 0; e < m->shape.n_expert; e++) {
        int64_t begin = m->start[e], n = m->start[e + 1] - begin;
        if (n == 0)
            continue;
        product.a = rows_of(c, m->gated, begin, n, &m->ffn_cols);
        lb_cpu_set_weights(&product, a->w->down[e]);
        product.y = m->y + begin * m->dim;
        m->part[n_part++].args.linear = product;
    }
    run_products(c, n_part);
}

struct combine_job {
    const struct lk_cpu *lk;
    struct lk_combine args;
    bool part; /* x is to hold the tree alone */
};

static void combine_rows(void *ctx, int64_t begin, int64_t end)
{
    const struct combine_job *job = ctx;
    for (int64_t i = begin * job->args.dim; job->part && i < end * job->args.dim; i++)
        job->args.x[i] = -0.0f; /* -0 + v is v, whatever v */
    job->lk->combine(&job->args, begin, end);
}

void lb_cpu_moe(struct lb_backend *be, const struct lb_moe_args *a)
{
    struct lb_cpu *c = lb_cpu_of(be);
    struct lb_cpu_moe *m = c->moe;
    if (lb_cpu_idle(c))
        return;
    if (!m) {
        lb_err_set(&c->err, LB_E_USAGE, "a mixture of experts ran before its memory was reserved");
        return;
    }
    double begin = lb_cpu_now();
    int64_t n_tok = c->step->n_tok;
    route(c, a);
    group_by_expert(m, n_tok);
    gather(c, a);
    gate_up(c, a);
    down(c, a);
    struct combine_job job = {&c->lk,
                              {.x = a->part ? a->part->data : a->x->data,
                               .y = m->y,
                               .id = m->id,
                               .row = m->row,
                               .weight = m->weight,
                               .shared = (const float *const *)m->shared_y,
                               .n_tok = n_tok,
                               .n_used = m->shape.n_used,
                               .n_expert = m->shape.n_expert,
                               .dim = m->dim,
                               .n_seg = m->n_seg,
                               .first = m->first_leaf,
                               .n_leaf = m->n_leaf},
                              a->part != NULL};
    lb_team_run(c->team, combine_rows, &job, n_tok, lb_cpu_grain(c, n_tok, 8));
    c->base.counts.linear_s += lb_cpu_now() - begin;
}
