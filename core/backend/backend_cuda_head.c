/* The CUDA backend's LM head: some rows at a time, whose blocks' best, log-sums, candidates and, where they are asked
 * for, logits come back to the host, which makes candidates of them as for any device (head.h). */
#include <string.h>

#include "core/backend/backend_cuda_parts.h"

#define HEAD_BYTES ((size_t)256 << 20)   /* of logits at a time */
#define PINNED_BYTES ((size_t)512 << 20) /* of the host's logits, at most: pinned, they come without a detour */

/* What a second step on its way has of its own, and the ids that it takes over and that both tell. */
static enum lb_status reserve_other(struct lb_cuda *c, size_t n_block, struct lb_err *err)
{
    struct lb_head *h = &c->other.head;
    const char *what = "the LM head";
    size_t n_out = (size_t)c->max_out;
    *h = c->head;
    bool taken = (h->best = lb_cuda_take(c, LB_CUDA_PINNED, n_out * n_block, sizeof *h->best, what, err)) != NULL &&
                 (h->logits_of = lb_cuda_take(c, LB_CUDA_HOST, n_out, sizeof *h->logits_of, what, err)) != NULL &&
                 (h->top_of = lb_cuda_take(c, LB_CUDA_HOST, n_out, sizeof *h->top_of, what, err)) != NULL &&
                 (h->cand = lb_cuda_take(c, LB_CUDA_HOST, n_out, sizeof *h->cand, what, err)) != NULL &&
                 (c->drawn = lb_cuda_take(c, LB_CUDA_PINNED, n_out, sizeof *c->drawn, what, err)) != NULL &&
                 (c->other.drawn = lb_cuda_take(c, LB_CUDA_PINNED, n_out, sizeof *c->drawn, what, err)) != NULL &&
                 (c->dev_head.slot = lb_cuda_take(c, LB_CUDA_DEVICE, n_out, sizeof *c->dev_head.slot, what, err));
    return taken ? LB_OK : LB_E_DEVICE;
}

enum lb_status lb_cuda_head_reserve(struct lb_cuda *c, const struct lk_cols *vocab, struct lb_err *err)
{
    struct lb_cuda_head *d = &c->dev_head;
    struct lb_head *h = &c->head;
    const char *what = "the LM head";
    size_t row_bytes = (size_t)h->ld_logits * sizeof(float), n_out = (size_t)c->max_out;
    size_t n_block = (size_t)lb_head_blocks(vocab->n_col), n_seg = (size_t)vocab->n_seg, n_bound = LK_MAX_SEG + 1;
    int64_t most = (int64_t)(HEAD_BYTES / row_bytes);
    d->rows = most < 1 ? 1 : most < c->max_out ? most : c->max_out;
    size_t rows = (size_t)d->rows, n_top = rows * LK_TOP;
    enum lb_cuda_place dev = LB_CUDA_DEVICE, pin = LB_CUDA_PINNED;
    if ((d->logits = lb_cuda_take(c, dev, rows, row_bytes, what, err)) == NULL ||
        (d->best = lb_cuda_take(c, dev, rows * n_block, sizeof *d->best, what, err)) == NULL ||
        (d->lse = lb_cuda_take(c, dev, rows * n_seg, sizeof *d->lse, what, err)) == NULL ||
        (d->top_id = lb_cuda_take(c, dev, n_top, sizeof *d->top_id, what, err)) == NULL ||
        (d->top_value = lb_cuda_take(c, dev, n_top, sizeof *d->top_value, what, err)) == NULL ||
        (d->row = lb_cuda_take(c, dev, n_out, sizeof *d->row, what, err)) == NULL ||
        (d->seg = lb_cuda_take(c, dev, 2 * n_bound, sizeof *d->seg, what, err)) == NULL ||
        (d->row_host = lb_cuda_take(c, pin, n_out, sizeof *d->row_host, what, err)) == NULL ||
        (h->best = lb_cuda_take(c, pin, n_out * n_block, sizeof *h->best, what, err)) == NULL ||
        (h->lse = lb_cuda_take(c, pin, n_out * n_seg, sizeof *h->lse, what, err)) == NULL ||
        (h->top_id = lb_cuda_take(c, pin, n_out * LK_TOP, sizeof *h->top_id, what, err)) == NULL ||
        (h->top_value = lb_cuda_take(c, pin, n_out * LK_TOP, sizeof *h->top_value, what, err)) == NULL)
        return LB_E_DEVICE;
    if (n_out * row_bytes <= PINNED_BYTES && (h->logits = lb_cuda_take(c, pin, n_out, row_bytes, what, err)) == NULL)
        return LB_E_DEVICE;
    if (c->base.n_ahead > 0)
        LB_TRY(reserve_other(c, n_block, err));
    LB_TRY(lb_cuda_upload(c, d->seg, vocab->begin, n_bound * sizeof *d->seg, what, err));
    return lb_cuda_loaded(c, err);
}

static bool copy_back(struct lb_cuda *c, void *to, const void *from, size_t bytes)
{
    return lb_cuda_ok(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, c->stream), "cudaMemcpyAsync",
                      "the LM head's results");
}

/* The bounds of the segments that are here, which are the same in all steps. */
static bool know_own(struct lb_cuda *c, int64_t first, int64_t n)
{
    struct lb_cuda_head *d = &c->dev_head;
    if (d->own_known && d->own_first == first && d->own.n_col == n)
        return true;
    lb_head_own(&c->head, first, n, &d->own);
    d->own_first = first;
    d->own_known = lb_cuda_upload(c, d->seg + LK_MAX_SEG + 1, d->own.begin, sizeof d->own.begin, "the LM head",
                                  &c->err) == LB_OK &&
                   lb_cuda_loaded(c, &c->err) == LB_OK;
    return d->own_known;
}

/* What the device found of n rows from `row` on, the first of them at `at` of its memory. */
static bool top_back(struct lb_cuda *c, int64_t row, int64_t at, int64_t n, int64_t n_seg)
{
    struct lb_cuda_head *d = &c->dev_head;
    struct lb_head *h = &c->head;
    size_t n_lse = (size_t)(n * n_seg), n_top = (size_t)n * LK_TOP;
    return copy_back(c, h->lse + row * n_seg, d->lse + at * n_seg, n_lse * sizeof *d->lse) &&
           copy_back(c, h->top_id + row * LK_TOP, d->top_id + at * LK_TOP, n_top * sizeof *d->top_id) &&
           copy_back(c, h->top_value + row * LK_TOP, d->top_value + at * LK_TOP, n_top * sizeof *d->top_value);
}

/* Log-sums and candidates of n rows from `row` on, those in top_of, whose logits lie in d->logits. The others' stay as
 * they are. */
static bool find_top(struct lb_cuda *c, int64_t row, int64_t n, const struct lk_cols *seg, const int64_t *bounds)
{
    struct lb_cuda_head *d = &c->dev_head;
    struct lb_head *h = &c->head;
    int64_t n_asked = 0;
    for (int64_t i = row; i < row + n; i++) {
        d->row_host[i] = h->top_of[i] ? d->logits + (i - row) * h->ld_logits : NULL;
        n_asked += h->top_of[i] != NULL;
    }
    if (n_asked == 0)
        return true;
    struct lk_top top = {.n_row = n,
                         .n_vocab = seg->n_col,
                         .logits = d->row + row,
                         .seg = bounds,
                         .n_seg = seg->n_seg,
                         .lse = d->lse,
                         .id = d->top_id,
                         .value = d->top_value};
    if (!lb_cuda_ok(c,
                    cudaMemcpyAsync(d->row + row, d->row_host + row, (size_t)n * sizeof *d->row, cudaMemcpyHostToDevice,
                                    c->stream),
                    "cudaMemcpyAsync", "the LM head's rows") ||
        !lb_cuda_ok(c, lk_cuda_top(&top, c->stream), "kernel", "top"))
        return false;
    for (int64_t i = 0, run; i < n; i += run) {
        bool asked = h->top_of[row + i] != NULL;
        for (run = 1; i + run < n && (h->top_of[row + i + run] != NULL) == asked;)
            run++;
        if (asked && !top_back(c, row + i, i, run, seg->n_seg))
            return false;
    }
    return true;
}

/* How the step's outputs draw, on the device; *draw NULL: none does. */
static bool send_draws(struct lb_cuda *c, const struct lk_draw **draw)
{
    const struct lb_step *s = c->step;
    int32_t n_draw = 0;
    size_t from = c->block_used;
    void *device;
    *draw = NULL;
    for (int32_t j = 0; j < s->n_out; j++)
        n_draw += (s->out_flags[j] & LB_OUT_DRAW) != 0;
    if (n_draw == 0 || !c->dev_head.slot)
        return true;
    struct lk_draw *to = lb_cuda_block_take(c, (size_t)s->n_out * sizeof *to, &device);
    if (!to)
        return false;
    for (int32_t j = 0; j < s->n_out; j++)
        to[j] = s->out_flags[j] & LB_OUT_DRAW ? s->draw[j] : (struct lk_draw){0};
    lb_cuda_block_send(c, from, "a step's draws");
    *draw = device;
    return c->err.status == LB_OK;
}

/* The ids that a step behind this one takes: the best, where rows do not draw. */
static bool find_ids(struct lb_cuda *c, int64_t row, int64_t n, const struct lk_draw *draw)
{
    struct lb_cuda_head *d = &c->dev_head;
    const struct lb_head *h = &c->head;
    const struct lk_pick pick = {d->best, n, lb_head_blocks(h->n_vocab), d->slot + row};
    struct lk_sample sample = {d->logits, h->ld_logits, n, h->n_vocab, d->best, NULL, d->slot + row};
    if (!d->slot)
        return true;
    if (!lb_cuda_ok(c, lk_cuda_pick(&pick, c->stream), "kernel", "pick"))
        return false;
    if (!draw)
        return true;
    sample.draw = draw + row;
    return lb_cuda_ok(c, lk_cuda_sample(&sample, c->stream), "kernel", "sample") &&
           copy_back(c, c->drawn + row, d->slot + row, (size_t)n * sizeof *c->drawn);
}

/* The product of rows row .. row + n - 1, and what is wanted of it; ids where w is whole. */
static bool some_rows(struct lb_cuda *c, const struct lb_actbuf *a, const struct lb_matrix *w, int64_t row, int64_t n,
                      const struct lk_draw *draw)
{
    struct lb_cuda_head *d = &c->dev_head;
    bool whole = w->n_out == c->head.n_vocab;
    struct lb_head *h = &c->head;
    int64_t n_block = lb_head_blocks(w->n_out);
    size_t act_bytes = (size_t)(row * a->cols.packed[a->cols.n_seg]) * lb_cuda_act_elem(c, a);
    struct lk_linear args = {.a = {(uint8_t *)a->data + act_bytes, n, &a->cols},
                             .epilogue = LK_EP_STORE,
                             .y = d->logits,
                             .y_ld = h->ld_logits};
    struct lk_blocks_best best = {d->logits, h->ld_logits, n, w->n_out, d->best};
    if (!lb_cuda_product(c, args, w, 0) || !lb_cuda_ok(c, lk_cuda_best(&best, c->stream), "kernel", "best") ||
        (whole && !find_ids(c, row, n, draw)) ||
        !copy_back(c, h->best + row * n_block, d->best, (size_t)(n * n_block) * sizeof *d->best) ||
        !find_top(c, row, n, whole ? &h->vocab : &d->own, whole ? d->seg : d->seg + LK_MAX_SEG + 1))
        return false;
    for (int64_t i = row; i < row + n; i++)
        if (h->logits_of[i] &&
            !copy_back(c, h->logits_of[i], d->logits + (i - row) * h->ld_logits, (size_t)w->n_out * sizeof(float)))
            return false;
    return true;
}

static bool all_rows(struct lb_cuda *c, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    const struct lk_draw *draw;
    if (!send_draws(c, &draw))
        return false;
    for (int64_t row = 0; row < c->step->n_out; row += c->dev_head.rows) {
        int64_t n = c->step->n_out - row < c->dev_head.rows ? c->step->n_out - row : c->dev_head.rows;
        if (!some_rows(c, a, w, row, n, draw))
            return false;
    }
    return true;
}

void lb_cuda_head(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c) || c->step->n_out == 0)
        return;
    if (w->n_out != c->head.n_vocab) {
        lb_err_set(&c->err, LB_E_USAGE, "the LM head has %lld rows, reserved were %lld", (long long)w->n_out,
                   (long long)c->head.n_vocab);
        return;
    }
    lb_head_place(&c->head, c->step);
    lb_head_list(&c->head, c->step, LB_OUT_LOGITS | LB_OUT_TOP);
    c->dev_head.whole = all_rows(c, a, w);
}

void lb_cuda_head_part(struct lb_backend *be, const struct lb_actbuf *a, const struct lb_matrix *w, int64_t first,
                       void *out)
{
    struct lb_cuda *c = lb_cuda_of(be);
    if (lb_cuda_idle(c) || c->step->n_out == 0)
        return;
    if (first < 0 || w->n_out > c->head.n_vocab - first) {
        lb_err_set(&c->err, LB_E_USAGE, "the LM head has rows %lld to %lld, reserved were %lld", (long long)first,
                   (long long)(first + w->n_out), (long long)c->head.n_vocab);
        return;
    }
    lb_head_place(&c->head, c->step);
    lb_head_list(&c->head, c->step, LB_OUT_TOP);
    if (!know_own(c, first, w->n_out) || !all_rows(c, a, w))
        return;
    c->dev_head.put = (struct lb_head_put){.head = &c->head,
                                           .step = c->step,
                                           .first = first,
                                           .n = w->n_out,
                                           .n_block = lb_head_blocks(w->n_out),
                                           .own = c->dev_head.own,
                                           .count = lb_step_outputs(c->step),
                                           .out = out};
}

void lb_cuda_head_end(struct lb_cuda *c)
{
    if (c->dev_head.whole)
        lb_team_run(c->team, lb_head_reduce_rows, &c->head, c->step->n_out, 16);
    for (int32_t j = 0; c->dev_head.whole && j < c->step->n_out; j++)
        if (c->step->out_flags[j] & LB_OUT_DRAW)
            c->head.cand[j].drawn = c->drawn[j];
    if (c->dev_head.put.out)
        lb_team_run(c->team, lb_head_put_rows, &c->dev_head.put, c->step->n_out, 16);
}

float *lb_cuda_part_logits(struct lb_backend *be, int64_t j)
{
    return lb_cuda_of(be)->head.logits_of[j];
}

/* Rows that came as a whole go back to the device: whoever computes them, their sums have one order. */
static bool top_of_merged(struct lb_cuda *c, const struct lb_step *step)
{
    struct lb_cuda_head *d = &c->dev_head;
    struct lb_head *h = &c->head;
    for (int64_t row = 0; row < step->n_out; row += d->rows) {
        int64_t n = step->n_out - row < d->rows ? step->n_out - row : d->rows;
        for (int64_t i = row; i < row + n; i++) {
            float *to = d->logits + (i - row) * h->ld_logits;
            size_t bytes = (size_t)h->n_vocab * sizeof *to;
            if (h->top_of[i] && lb_cuda_upload(c, to, h->top_of[i], bytes, "logits of all ranks", &c->err) != LB_OK)
                return false;
        }
        if (lb_cuda_loaded(c, &c->err) != LB_OK)
            return false;
        if (!find_top(c, row, n, &h->vocab, d->seg) || !lb_cuda_wait(c, "logits of all ranks"))
            return false;
    }
    return true;
}

const struct lb_cand *lb_cuda_head_merge(struct lb_backend *be, const struct lb_step *step,
                                         const struct lb_head_part *part, int n_part)
{
    struct lb_cuda *c = lb_cuda_of(be);
    struct lb_head *h = &c->head;
    lb_head_place(h, step);
    struct lb_head_join job = {h, step, part, lb_step_outputs(step), n_part};
    bool asked = job.count.n_top + job.count.n_row > 0;
    lb_team_run(c->team, lb_head_join_rows, &job, step->n_out, asked ? lb_cuda_grain(c, step->n_out, 4) : step->n_out);
    if (lb_head_list(h, step, LB_OUT_LOGITS) == 0)
        return h->cand;
    bool found = top_of_merged(c, step);
    if (!found)
        c->late = c->err; /* nobody asks now: the next step tells */
    for (int64_t j = 0; j < step->n_out; j++) {
        if (h->top_of[j] && found)
            lb_head_whole(h, j);
        else if (h->top_of[j])
            h->cand[j].finite = false;
    }
    return h->cand;
}
