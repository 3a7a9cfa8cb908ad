/* The CPU backend's products in int8: activations are quantized once a product, into memory that all of a step's
 * products use in turn. */
#include "core/backend/backend_cpu.h"

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

struct quantize_job {
    const struct lk_cpu *lk;
    struct lk_quantize args;
};

static void run_quantize(void *ctx, int64_t begin, int64_t end)
{
    const struct quantize_job *job = ctx;
    job->lk->int8.quantize(&job->args, begin, end);
}

struct product_job {
    const struct lk_cpu *lk;
    struct lk_linear args;
};

static void run_product(void *ctx, int64_t begin, int64_t end)
{
    const struct product_job *job = ctx;
    job->lk->int8.linear(&job->args, begin, end);
}

void lb_cpu_run_int8(const struct lb_cpu *c, const struct lk_linear *args)
{
    struct quantize_job quantize = {&c->lk, {c->int8, args->a}};
    struct product_job job = {&c->lk, *args};
    int64_t n_item = c->lk.int8.quantize_items(&quantize.args);
    lb_team_run_even(c->team, run_quantize, &quantize, n_item, lb_cpu_grain(c, n_item, 4));
    job.args.a.data = c->int8;
    n_item = c->lk.int8.linear_items(&job.args);
    lb_team_run_even(c->team, run_product, &job, n_item, lb_cpu_grain(c, n_item, LB_CPU_CLAIMS));
}
