/* The CUDA backend's ops that treat rows alone, and products: each fills a kernel's argument struct and enqueues it. */
#include <string.h>

#include "core/backend/backend_cuda_lt.h"
#include "core/base/mem.h"

static enum lk_weight_format format_of(const struct lb_matrix *w)
{
    return w->f32 ? LK_W_F32 : LK_W_BF16;
}

size_t lb_cuda_scratch_of(const struct lk_linear *a, const struct lb_matrix *w)
{
    return lk_cuda_linear_scratch(a, format_of(w));
}

/* Rows row .. row + n - 1 of a product. */
static struct lk_linear rows_of(const struct lk_linear *a, int64_t row, int64_t n, size_t elem)
{
    struct lk_linear part = *a;
    part.a.n_row = part.out.n_row = n;
    part.a.data = (uint8_t *)a->a.data + (size_t)(row * a->a.cols->packed[a->a.cols->n_seg]) * elem;
    if (a->epilogue == LK_EP_SWIGLU)
        part.out.data = (uint8_t *)a->out.data + (size_t)(row * a->out.cols->packed[a->out.cols->n_seg]) * elem;
    else
        part.y = a->y + row * a->y_ld;
    return part;
}

/* Rows `row` and on of a step's product, as many as `part` has. */
static bool some_rows(struct lb_cuda *c, const struct lk_linear *part, const struct lb_matrix *w,
                      const struct lk_weight *weight, const struct lk_adapt *adapt, int64_t row)
{
    const cublasLtMatmulAlgo_t *algo = lb_cuda_lt_algo(w, part->a.n_row);
    struct lb_cuda_call call = {w->shape, algo, weight->data, w->name, NULL, 0};
    if (!adapt)
        return algo ? lb_cuda_lt_product(c, part, call, &c->err) == LB_OK
                    : lb_cuda_ok(c, lk_cuda_linear(part, weight, c->scratch, c->stream), "product", w->name);
    enum lk_type type = w->f32 ? LK_F32 : LK_BF16;
    struct lk_adapt_sums sums = {c->scratch,  part->a.n_row * part->n_out, row, part->a.n_row,
                                 part->n_out, part->a.cols->n_seg};
    bool ok = algo ? lb_cuda_lt_sums(c, part, call, &c->err) == LB_OK
                   : lb_cuda_ok(c, lk_cuda_linear_sums(part, weight, c->scratch, c->stream), "product", w->name);
    return ok && lb_cuda_ok(c, lk_cuda_lora_up(adapt, &sums, type, c->stream), "adapters", w->name) &&
           lb_cuda_ok(c, lk_cuda_linear_finish(part, c->scratch, type, c->stream), "kernels behind", w->name);
}

static bool product(struct lb_cuda *c, struct lk_linear a, const struct lb_matrix *w, int64_t head,
                    const struct lk_adapt *adapt)
{
    const struct lk_weight weight = {.data = (const uint8_t *)w->w + (size_t)head * w->head_bytes,
                                     .format = format_of(w)};
    a.n_out = w->n_out;
    struct lk_linear one = rows_of(&a, 0, 1, 0);
    size_t own = lb_cuda_scratch_of(&one, w), all = w->shape || adapt ? lb_cuda_lt_scratch(&one) : 0;
    size_t row_scratch = own > all ? own : all;
    int64_t per = row_scratch > 0 ? (int64_t)(c->scratch_bytes / row_scratch) : a.a.n_row;
    if (per == 0) {
        lb_err_set(&c->err, LB_E_USAGE, "%s: a product ran for which no memory was reserved", w->name);
        return false;
    }
    for (int64_t row = 0; row < a.a.n_row; row += per) {
        int64_t n = a.a.n_row - row < per ? a.a.n_row - row : per;
        struct lk_linear part = rows_of(&a, row, n, lb_cuda_type_bytes(w->f32));
        if (!some_rows(c, &part, w, &weight, adapt, row))
            return false;
    }
    return true;
}

bool lb_cuda_product(struct lb_cuda *c, struct lk_linear a, const struct lb_matrix *w, int64_t head)
{
    return product(c, a, w, head, NULL);
}

bool lb_cuda_product_adapted(struct lb_cuda *c, struct lk_linear a, const struct lb_matrix *w,
                             const struct lk_adapt *adapt)
{
    return product(c, a, w, 0, adapt);
}

void lb_cuda_embed(struct lb_backend *be, struct lb_buf *x, const struct lb_table *table)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    struct lk_embed args = {
        .x = x->data, .table = table->data, .id = c->t.id, .n_tok = c->step->n_tok, .dim = table->n_col};
    lb_cuda_ok(c, lk_cuda_embed(&args, lb_cuda_type(c), c->stream), "kernel", "embed");
}

void lb_cuda_norm(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, const float *w, float eps,
                  bool wanted)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c) || (wanted && c->step->n_out == 0))
        return;
    struct lk_norm args = {.y = {y->data, wanted ? c->step->n_out : c->step->n_tok, &y->cols},
                           .x = x->data,
                           .row = wanted ? c->t.out_tok : NULL,
                           .w = w,
                           .eps = eps};
    lb_cuda_ok(c, lk_cuda_norm(&args, lb_cuda_type(c), c->stream), "kernel", "norm");
}

void lb_cuda_norm_add(struct lb_backend *be, struct lb_buf *x, const struct lb_buf *y, const float *w, float eps)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    struct lk_norm_add args = {
        .x = x->data, .y = y->data, .w = w, .dim = x->width, .n_row = c->step->n_tok, .eps = eps};
    lb_cuda_ok(c, lk_cuda_norm_add(&args, c->stream), "kernel", "norm_add");
}

void lb_cuda_linear(struct lb_backend *be, const struct lb_linear_args *a)
{
    static const enum lk_epilogue of[] = {[LB_STORE] = LK_EP_STORE, [LB_ADD] = LK_EP_ADD, [LB_SWIGLU] = LK_EP_SWIGLU};
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    int64_t n_tok = c->step->n_tok;
    if (a->w->cols.n_col == 0 && a->epilogue == LB_STORE && !a->bias) { /* a rank's segments may all be empty: +0 */
        size_t bytes = (size_t)(n_tok * a->w->n_out) * sizeof *a->y_rows->data;
        lb_cuda_ok(c, cudaMemsetAsync(a->y_rows->data, 0, bytes, c->stream), "cudaMemsetAsync", a->w->name);
        return;
    }
    struct lk_linear args = {
        .a = {a->a->data, n_tok, &a->a->cols}, .epilogue = of[a->epilogue], .bias = a->bias, .y_ld = a->w->n_out};
    if (a->epilogue == LB_SWIGLU)
        args.out = (struct lk_act){a->y_act->data, n_tok, &a->y_act->cols};
    else
        args.y = a->y_rows->data;
    struct lk_adapt adapt;
    if (lb_cuda_lora_down(c, &args.a, a->w, &adapt))
        lb_cuda_product_adapted(c, args, a->w, &adapt);
    else if (c->err.status == LB_OK)
        lb_cuda_product(c, args, a->w, 0);
    c->base.counts.product_rows += n_tok;
    c->base.counts.token_rows += n_tok;
}

void lb_cuda_finish(struct lb_backend *be, struct lb_buf *y, const struct lb_buf *part, const float *bias,
                    enum lb_epilogue epilogue)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    struct lk_tree args = {.y = y->data,
                           .y_ld = y->width,
                           .part = part->data,
                           .bias = bias,
                           .n_row = c->step->n_tok,
                           .n_col = y->width,
                           .n_part = 1,
                           .add = epilogue == LB_ADD};
    lb_cuda_ok(c, lk_cuda_tree(&args, c->stream), "kernel", "finish");
}

int64_t lb_cuda_head_bytes(const struct lb_cuda *c, const struct lb_actbuf *a)
{
    int64_t n = c->step->n_tok * a->cols.packed[a->cols.n_seg];
    return a->n_head > 0 ? n * (int64_t)lb_cuda_act_elem(c, a) : 0;
}

void lb_cuda_linear_heads(struct lb_backend *be, const struct lb_heads_args *a)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    int64_t n_tok = c->step->n_tok, act_bytes = lb_cuda_head_bytes(c, a->a);
    for (int64_t h = 0; h < a->w->n_head; h++) {
        struct lk_linear args = {.a = {(uint8_t *)a->a->data + h * act_bytes, n_tok, &a->a->cols},
                                 .epilogue = LK_EP_STORE,
                                 .y = a->y->data + a->y_col + h * a->y_step,
                                 .y_ld = a->y->width};
        if (!lb_cuda_product(c, args, a->w, h))
            return;
    }
    c->base.counts.product_rows += n_tok;
    c->base.counts.token_rows += n_tok;
}

void lb_cuda_round(struct lb_backend *be, struct lb_actbuf *y, const struct lb_buf *x, int64_t x_col, int64_t x_step)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    enum lk_type type = y->f32 ? LK_F32 : lb_cuda_type(c);
    for (int64_t h = 0; h < (y->n_head > 0 ? y->n_head : 1); h++) {
        struct lk_round args = {{(uint8_t *)y->data + h * lb_cuda_head_bytes(c, y), c->step->n_tok, &y->cols},
                                x->data + x_col + h * x_step,
                                x->width};
        if (!lb_cuda_ok(c, lk_cuda_round(&args, type, c->stream), "kernel", "round"))
            return;
    }
}

void lb_cuda_latent(struct lb_backend *be, const struct lb_latent_args *a)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c))
        return;
    struct lk_latent args = {.qkv = a->qkv->data,
                             .q = a->q->data,
                             .kv = a->kv->data,
                             .w = a->w,
                             .n_tok = c->step->n_tok,
                             .n_head = a->n_head,
                             .nope_dim = a->nope_dim,
                             .n_rot = a->n_rot,
                             .kv_rank = a->kv_rank,
                             .eps = a->eps};
    lb_cuda_ok(c, lk_cuda_latent(&args, c->stream), "kernel", "latent");
}

/* ---- tests look at numbers ---- */

static bool read_back(struct lb_cuda *c, void *host, const void *from, size_t bytes, const char *op)
{
    return lb_cuda_ok(c, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, c->stream), "cudaMemcpyAsync",
                      op) &&
           lb_cuda_wait(c, op);
}

void lb_cuda_read_rows(struct lb_backend *be, const struct lb_buf *x, int64_t n_row, float *host)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (c->err.status == LB_OK)
        read_back(c, host, x->data, (size_t)(n_row * x->width) * sizeof *host, "reading rows");
}

void lb_cuda_read_act(struct lb_backend *be, const struct lb_actbuf *a, int64_t n_row, float *host)
{
    struct lb_cuda *c = lb_cuda_of(be);
    const struct lk_cols *cols = &a->cols;
    size_t n = (size_t)(n_row * cols->packed[cols->n_seg]), elem = lb_cuda_act_elem(c, a);
    if (c->err.status != LB_OK)
        return;
    uint8_t *copy = lb_mem_new(n, elem);
    if (!copy)
        lb_err_memory(&c->err, "a test hook", n * elem);
    if (copy && read_back(c, copy, a->data, n * elem, "reading activations")) {
        for (int64_t i = 0; i < n_row; i++)
            for (int is = 0; is < cols->n_seg; is++)
                for (int64_t k = cols->begin[is]; k < cols->begin[is + 1]; k++) {
                    int64_t at = i * cols->packed[cols->n_seg] + cols->packed[is] + k - cols->begin[is];
                    uint16_t x;
                    memcpy(&x, copy + 2 * at, sizeof x);
                    if (elem == 2)
                        host[i * cols->n_col + k] = lb_bf16_widen(x);
                    else
                        memcpy(&host[i * cols->n_col + k], copy + 4 * at, sizeof *host);
                }
    }
    lb_mem_free(copy);
}
