/* The CPU backend's products in int8, of weights by row or of those that stay packed (args_w4a8.h): activations are
 * quantized once a product, into memory that all of a step's products use in turn. */
#include "core/backend/backend_cpu_int8.h"

enum lb_status lb_cpu_int8_check(const struct lb_matrix_spec *spec, struct lb_err *err)
{
    const struct lk_cols *c = spec->cols;
    for (int s = 0; s < c->n_seg; s++)
        if (c->begin[s + 1] - c->begin[s] > LK_INT8_COLS)
            return lb_err_set(err, LB_E_INPUT, "%s: int8 sums take %d columns at most, this has %lld: --quantize none",
                              spec->name, LK_INT8_COLS, (long long)(c->begin[s + 1] - c->begin[s]));
    return LB_OK;
}

enum lb_status lb_cpu_int8_reserve(struct lb_cpu *c, struct lb_err *err)
{
    if (c->int8_row_bytes == 0)
        return LB_OK;
    c->int8 = lb_cpu_take(c, (size_t)c->limit.n_tok, c->int8_row_bytes, "int8 activations", err);
    return c->int8 ? LB_OK : LB_E_DEVICE;
}

struct lb_int8_ops lb_cpu_int8_ops(const struct lk_cpu *lk, bool packed)
{
    const struct lk_int8 *i = &lk->int8;
    const struct lk_w4a8 *q = &lk->w4a8;
    if (packed)
        return (struct lb_int8_ops){q->act_bytes, q->quantize_items, q->quantize, q->linear_items, q->linear};
    return (struct lb_int8_ops){i->act_bytes, i->quantize_items, i->quantize, i->linear_items, i->linear};
}

struct quantize_job {
    const struct lb_int8_ops *ops;
    struct lk_quantize args;
};

static void run_quantize(void *ctx, int64_t begin, int64_t end)
{
    const struct quantize_job *job = ctx;
    job->ops->quantize(&job->args, begin, end);
}

struct product_job {
    const struct lb_int8_ops *ops;
    struct lk_linear args;
};

static void run_product(void *ctx, int64_t begin, int64_t end)
{
    const struct product_job *job = ctx;
    job->ops->linear(&job->args, begin, end);
}

void lb_cpu_run_int8(const struct lb_cpu *c, const struct lk_linear *args)
{
    const struct lb_int8_ops ops = lb_cpu_int8_ops(&c->lk, args->q);
    struct quantize_job quantize = {&ops, {c->int8, args->a}};
    struct product_job job = {&ops, *args};
    int64_t n_item = ops.quantize_items(&quantize.args);
    lb_team_run_even(c->team, run_quantize, &quantize, n_item, lb_cpu_grain(c, n_item, 4));
    job.args.a.data = c->int8;
    n_item = ops.linear_items(&job.args);
    lb_team_run_even(c->team, run_product, &job, n_item, lb_cpu_grain(c, n_item, LB_CPU_CLAIMS));
}
