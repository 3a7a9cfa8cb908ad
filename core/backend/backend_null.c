#include "core/backend/backend_null.h"

#include <math.h>

#include "core/base/mem.h"

/* A few ids stand out, one half of a logit behind the other; all others share the floor. */
#define N_RAISED 8
#define BEST 8.0f
#define STEP 0.5f
#define FLOOR (-16.0f)

/* What was made up for one output. */
struct made {
    int32_t id[N_RAISED]; /* best first */
    int32_t top_id[LK_TOP];
    float top_logit[LK_TOP];
    bool filled, raised; /* its logits are at the floor; but for `id` */
};

struct lb_null {
    struct lb_backend base; /* first: a struct lb_backend * is this */
    struct lb_arena arena;  /* touched only where logits are asked for */
    int32_t max_out, n_raised;
    int64_t n_vocab;
    double lse;
    int32_t *slot;        /* [max_out] */
    struct made *made;    /* [max_out] */
    struct lb_cand *cand; /* [max_out] */
    float *logits;        /* [max_out, n_vocab] */
    const struct lb_step *step;
    struct lb_err err;
};

static struct lb_null *null_of(struct lb_backend *be)
{
    return (struct lb_null *)be;
}

static void null_close(struct lb_backend *be)
{
    lb_arena_release(&null_of(be)->arena);
    lb_mem_free(be);
}

static enum lb_status null_reserve(struct lb_backend *be, struct lb_step_limits limit, int32_t max_out,
                                   const struct lk_cols *vocab, struct lb_err *err)
{
    struct lb_null *d = null_of(be);
    int64_t n_vocab = vocab->n_col;
    if (limit.n_tok < 1 || max_out < 1 || n_vocab < 1 || n_vocab > INT32_MAX)
        return lb_err_set(err, LB_E_USAGE, "a step of %d tokens, %d outputs cannot be reserved", limit.n_tok, max_out);
    size_t n = (size_t)max_out;
    size_t bytes = n * (sizeof *d->slot + sizeof *d->made + sizeof *d->cand + (size_t)n_vocab * sizeof *d->logits);
    LB_TRY(lb_arena_init(&d->arena, bytes + 4 * (size_t)64, err));
    d->slot = lb_arena_take(&d->arena, n * sizeof *d->slot);
    d->made = lb_arena_take(&d->arena, n * sizeof *d->made);
    d->cand = lb_arena_take(&d->arena, n * sizeof *d->cand);
    d->logits = lb_arena_take(&d->arena, n * (size_t)n_vocab * sizeof *d->logits);
    d->max_out = max_out;
    d->n_vocab = n_vocab;
    d->n_raised = (int32_t)((n_vocab + 1) / 2 < N_RAISED ? (n_vocab + 1) / 2 : N_RAISED);
    double sum = (double)(n_vocab - d->n_raised) * exp((double)FLOOR);
    for (int k = 0; k < d->n_raised; k++)
        sum += exp((double)(BEST - STEP * (float)k));
    d->lse = log(sum);
    return LB_OK;
}

/* What a page of a device with memory would take, so that a run is planned as it would be there. */
static size_t null_kv_page_bytes(const struct lb_backend *be, const struct lb_kv_spec *spec)
{
    int64_t kv = spec->n_layer * spec->n_kv_head * (spec->head_dim + spec->v_dim);
    size_t size = be->dtype == LB_F32 ? 4 : 2;
    return (size_t)((kv + spec->index.n_plane * spec->index.dim) * LK_PAGE_TOKENS) * size;
}

static void null_step_begin(struct lb_backend *be, const struct lb_step *step, struct lb_kv_mem *kv,
                            const struct lb_rope_args *rope, int64_t n_head)
{
    struct lb_null *d = null_of(be);
    (void)kv;
    (void)rope;
    (void)n_head;
    d->step = step;
    d->err = (struct lb_err){0};
    if (step->n_out < 0 || step->n_out > d->max_out)
        lb_err_set(&d->err, LB_E_USAGE, "step %lld: %d outputs of %d", (long long)step->number, step->n_out,
                   d->max_out);
}

/* The finalizer of splitmix64. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The middle half of a vocabulary holds ordinary ids: special ones stand at its ends. */
static void choose(const struct lb_null *d, int32_t tok, int32_t pos, int32_t *id)
{
    uint64_t first = (uint64_t)d->n_vocab / 4, span = ((uint64_t)d->n_vocab + 1) / 2;
    uint64_t at = mix((uint64_t)(uint32_t)tok << 32 | (uint32_t)pos), step = span / (uint64_t)d->n_raised;
    for (int k = 0; k < d->n_raised; k++)
        id[k] = (int32_t)(first + (at % span + (uint64_t)k * step) % span);
}

static bool among(const int32_t *id, int n, int64_t one)
{
    for (int k = 0; k < n; k++)
        if (id[k] == one)
            return true;
    return false;
}

/* The best candidates: those that stand out, then the lowest ids of the floor. */
static void fill_top(const struct lb_null *d, struct made *m)
{
    int n = 0;
    for (; n < d->n_raised; n++) {
        m->top_id[n] = m->id[n];
        m->top_logit[n] = BEST - STEP * (float)n;
    }
    for (int64_t id = 0; n < LK_TOP && id < d->n_vocab; id++) {
        if (among(m->id, d->n_raised, id))
            continue;
        m->top_id[n] = (int32_t)id;
        m->top_logit[n++] = FLOOR;
    }
    for (; n < LK_TOP; n++) {
        m->top_id[n] = -1;
        m->top_logit[n] = -INFINITY;
    }
}

static void fill_logits(const struct lb_null *d, int32_t j, struct lb_cand *c)
{
    struct made *m = &d->made[j];
    c->logits = d->logits + (int64_t)j * d->n_vocab;
    for (int64_t i = 0; i < d->n_vocab && !m->filled; i++)
        c->logits[i] = FLOOR;
    m->filled = m->raised = true;
    for (int k = 0; k < d->n_raised; k++)
        c->logits[m->id[k]] = BEST - STEP * (float)k;
    fill_top(d, m);
    c->lse = d->lse;
    c->top_id = m->top_id;
    c->top_logit = m->top_logit;
}

static void null_head(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    struct lb_null *d = null_of(be);
    const struct lb_step *s = d->step;
    (void)a;
    (void)w;
    for (int32_t j = 0; d->err.status == LB_OK && j < s->n_out; j++) {
        struct made *m = &d->made[j];
        int32_t t = s->out_tok[j], tok = s->tok[t];
        for (int k = 0; m->raised && k < d->n_raised; k++)
            d->logits[(int64_t)j * d->n_vocab + m->id[k]] = FLOOR;
        m->raised = false;
        if (tok < 0 && ~tok >= d->max_out) {
            lb_err_set(&d->err, LB_E_USAGE, "step %lld: token %d is the sample of slot %d of %d", (long long)s->number,
                       t, ~tok, d->max_out);
            return;
        }
        choose(d, tok < 0 ? d->slot[~tok] : tok, s->pos[t], m->id);
        d->cand[j] = (struct lb_cand){.best = m->id[0], .best_logit = BEST, .finite = true};
        if (s->out_flags[j])
            fill_logits(d, j, &d->cand[j]);
    }
}

static enum lb_status null_step_end(struct lb_backend *be, const struct lb_cand **cand, struct lb_err *err)
{
    struct lb_null *d = null_of(be);
    *cand = d->cand;
    return d->err.status == LB_OK ? LB_OK : lb_err_set(err, d->err.status, "%s", d->err.text);
}

static int32_t *null_slots(struct lb_backend *be)
{
    return null_of(be)->slot;
}

static void null_parallel(struct lb_backend *be, void (*fn)(void *ctx, int64_t begin, int64_t end), void *ctx,
                          int64_t n_item)
{
    (void)be;
    fn(ctx, 0, n_item);
}

static const struct lb_backend_ops null_ops = {
    .close = null_close,
    .reserve = null_reserve,
    .kv_page_bytes = null_kv_page_bytes,
    .step_begin = null_step_begin,
    .head = null_head,
    .step_end = null_step_end,
    .slots = null_slots,
    .parallel = null_parallel,
};

enum lb_status lb_null_open(struct lb_backend **out, const struct lb_backend_spec *spec, struct lb_err *err)
{
    struct lb_null *d = lb_mem_new(1, sizeof *d);
    if (!d)
        return lb_err_memory(err, "the null device", sizeof *d);
    d->base = (struct lb_backend){
        .ops = &null_ops, .dtype = spec->dtype, .int8 = spec->int8, .device = "null", .n_thread = 1};
    *out = &d->base;
    return LB_OK;
}
