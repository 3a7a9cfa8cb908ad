/* The LM head: best of each block, logits where asked for, the same alone; log-sum-exp and the largest. */
#include "kernels/tests/check.h"

static int64_t n_blocks(int64_t n_vocab)
{
    return lk_ceil_div(n_vocab, LK_HEAD_BLOCK);
}

/* What a scan of the logits says. */
static struct lk_best scan(const float *x, int64_t begin, int64_t end)
{
    struct lk_best best = {-INFINITY, -1, true};
    for (int64_t j = begin; j < end; j++) {
        best.finite = best.finite && isfinite(x[j]);
        if (x[j] == x[j] && (best.id < 0 || x[j] > best.value))
            best = (struct lk_best){x[j], (int32_t)j, best.finite};
    }
    return best;
}

static void same_best(const struct lk_cpu *t, const struct lk_best *got, const struct lk_best *want)
{
    check_that(got->id == want->id && got->finite == want->finite && (want->id < 0 || got->value == want->value), t,
               "head", "best %d %g finite %d, not %d %g finite %d", got->id, (double)got->value, got->finite, want->id,
               (double)want->value, want->finite);
}

struct head_case {
    struct lk_cols cols;
    float *x, *norm_w, *w, *logits; /* rows, ones, matrix, [n_row, n_vocab] */
    void *packed;
    struct lk_best *best;
    int64_t n_row, n_vocab;
};

static void run(const struct lk_cpu *t, const struct head_case *c, struct lk_act act, const int32_t *row,
                float **logits)
{
    struct lk_norm norm = {.y = act, .x = c->x, .row = row, .w = c->norm_w, .eps = 0};
    t->norm(&norm, 0, t->norm_items(&norm));
    struct lk_linear args = {
        .a = act, .w = c->packed, .n_out = c->n_vocab, .epilogue = LK_EP_HEAD, .best = c->best, .logits = logits};
    CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
}

/* Weights: rows of few distinct values, so that many logits are equal; some rows NaN, infinite, all equal. */
static void make_weights(struct head_case *c, int mean)
{
    for (int64_t j = 0; j < c->n_vocab; j++) {
        float x = (float)(check_random() % 5) - 2;
        if (mean && check_random() % 50 == 0)
            x = check_random() % 2 ? NAN : check_random() % 2 ? INFINITY : -INFINITY;
        if (mean && j < 300)
            x = -INFINITY;
        if (mean && j >= 512 && j < 800)
            x = NAN;
        for (int64_t k = 0; k < c->cols.n_col; k++)
            c->w[j * c->cols.n_col + k] = k == 0 ? x : isfinite(x) ? x : 0;
    }
}

static void head_case(const struct lk_cpu *t, int64_t n_row, int64_t n_vocab, int mean)
{
    struct head_case c = {.n_row = n_row, .n_vocab = n_vocab};
    int64_t k = 40, n_block = n_blocks(n_vocab);
    check_even_cols(&c.cols, k, 1, 32);
    c.x = check_new((size_t)(n_row * k), sizeof *c.x);
    c.norm_w = check_new((size_t)k, sizeof *c.norm_w);
    c.w = check_new((size_t)(n_vocab * k), sizeof *c.w);
    c.logits = check_new((size_t)(n_row * n_vocab), sizeof *c.logits);
    c.best = check_new((size_t)(n_row * n_block), sizeof *c.best);
    check_fill(c.x, n_row * k, 0.5f, 1);
    check_fill(c.norm_w, k, 1, 1);
    make_weights(&c, mean);
    c.packed = check_pack(t, c.w, n_vocab, &c.cols, 0);
    float **logits = check_new((size_t)n_row, sizeof *logits);
    for (int64_t i = 0; i < n_row; i++)
        logits[i] = c.logits + i * n_vocab;
    struct lk_act act = check_act(t, n_row, &c.cols), one = check_act(t, 1, &c.cols);
    run(t, &c, act, NULL, logits);
    struct lk_best *all = check_new((size_t)(n_row * n_block), sizeof *all);
    memcpy(all, c.best, (size_t)(n_row * n_block) * sizeof *all);
    float *single = check_new((size_t)n_vocab, sizeof *single);
    for (int64_t i = 0; i < n_row; i++) {
        int32_t row = (int32_t)i;
        for (int64_t b = 0; b < n_block; b++) {
            struct lk_best want =
                scan(c.logits + i * n_vocab, b * LK_HEAD_BLOCK, lk_min(n_vocab, (b + 1) * LK_HEAD_BLOCK));
            same_best(t, &all[i * n_block + b], &want);
        }
        if (i % 5)
            continue;
        run(t, &c, one, &row, i % 2 ? &single : NULL);
        for (int64_t b = 0; b < n_block; b++)
            same_best(t, &c.best[b], &all[i * n_block + b]);
        if (i % 2)
            check_that(mean || memcmp(single, c.logits + i * n_vocab, (size_t)n_vocab * sizeof *single) == 0, t, "head",
                       "logits of row %lld differ alone", (long long)i);
    }
    free(c.x);
    free(c.norm_w);
    free(c.w);
    free(c.logits);
    free(c.best);
    free(c.packed);
    free(logits);
    free(act.data);
    free(one.data);
    free(all);
    free(single);
}

void check_head(const struct lk_cpu *t)
{
    static const int64_t vocab[] = {1, 31, 256, 257, 1000, 2049};
    for (int64_t n_row = 1; n_row <= 16; n_row += 3)
        for (size_t v = 0; v < sizeof vocab / sizeof vocab[0]; v++)
            for (int mean = 0; mean < 2; mean++)
                head_case(t, n_row, vocab[v], mean);
    head_case(t, 130, 700, 0);
}

/* The log-sum-exp of one segment against a scan in double, and alone. */
static void top_segment(const struct lk_cpu *t, const float *x, int64_t n, double got)
{
    double max = -INFINITY, sum = 0, alone = 0;
    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? (double)x[i] : max;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    double want = max > -INFINITY ? max + log(sum) : -INFINITY;
    check_that(isnan(want) ? isnan(got) : got == want || fabs(got - want) <= 1e-12 * fabs(want) + 1e-12, t, "top",
               "lse %.17g, not %.17g", got, want);
    static int32_t id[LK_TOP];
    static float value[LK_TOP];
    struct lk_top args = {.n_row = 1, .n_vocab = n, .logits = &x, .seg = (int64_t[]){0, n}, .n_seg = 1};
    args.lse = &alone;
    args.id = id;
    args.value = value;
    t->top(&args, 0, 1);
    check_that(memcmp(&alone, &got, sizeof got) == 0 || isnan(got), t, "top", "lse %.17g is %.17g alone", got, alone);
}

/* One row: against a search for each place. */
static void top_row(const struct lk_cpu *t, const float *x, int64_t n)
{
    const float *rows[2] = {NULL, x};
    const int64_t seg[] = {0, n / 3 / 32 * 32, n / 3 / 32 * 32, n / 2 / 32 * 32, n};
    double lse[2 * 4] = {0};
    static int32_t id[2 * LK_TOP];
    static float value[2 * LK_TOP];
    struct lk_top args = {2, n, rows, seg, 4, lse, id, value};
    t->top(&args, 0, 2);
    for (int s = 0; s < 4; s++)
        top_segment(t, x + seg[s], seg[s + 1] - seg[s], lse[4 + s]);
    int64_t n_number = 0;
    for (int64_t i = 0; i < n; i++)
        n_number += x[i] == x[i];
    for (int i = 0; i < LK_TOP; i++) {
        int32_t got = id[LK_TOP + i];
        if (i >= n_number) {
            check_that(got == -1, t, "top", "place %d of %lld is taken", i, (long long)n);
            continue;
        }
        int64_t before = 0; /* numbers that stand before it */
        for (int64_t j = 0; got >= 0 && j < n; j++)
            before += x[j] > x[got] || (x[j] == x[got] && j < got);
        check_that(got >= 0 && got < n && before == i && x[got] == value[LK_TOP + i], t, "top",
                   "place %d of %lld: id %d is number %lld", i, (long long)n, got, (long long)before);
    }
}

void check_top(const struct lk_cpu *t)
{
    static const int64_t n_of[] = {1, 17, 255, 256, 257, 1000, 5003};
    static float x[5003];
    for (size_t v = 0; v < sizeof n_of / sizeof n_of[0]; v++) {
        for (int kind = 0; kind < 4; kind++) {
            for (int64_t i = 0; i < n_of[v]; i++)
                x[i] = kind == 0 ? check_uniform(-30, 30) : (float)(check_random() % 7);
            if (kind == 2)
                for (int64_t i = 0; i < n_of[v]; i += 3)
                    x[i] = -INFINITY;
            if (kind == 3)
                for (int64_t i = 0; i < n_of[v]; i += 4)
                    x[i] = NAN;
            top_row(t, x, n_of[v]);
        }
    }
}
