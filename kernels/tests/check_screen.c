/* Bounds of products in int8 (args_int8.h): the set's own products of both kinds never differ by more than the norms
 * say, numbers of any size among them, and the norms are near the true ones; what screening keeps is what the
 * definition keeps, in doubles, up to a rounding. */
#include "kernels/tests/check.h"

enum { N_ROW = 13, N_OUT = 70 };

struct operand {
    int64_t n;
    float *x; /* [n, n_col], numbers that the set has */
    struct lk_int8_norms *norms;
};

static void operand_new(struct operand *o, const struct lk_cpu *t, int64_t n, const struct lk_cols *c, double size)
{
    o->n = n;
    o->x = check_new((size_t)(n * c->n_col), sizeof *o->x);
    o->norms = check_new((size_t)n, sizeof *o->norms);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c->n_col; k++) {
            float u = check_uniform(-1, 1), far = i % 5 == 1 && k % 67 == 3 ? 100 : 1; /* some columns are far larger */
            float x = i % 5 == 2 ? u * u * u : i % 5 == 3 ? (u < 0 ? -1.0f : 1.0f) : i % 5 == 4 && k % 3 ? 0 : u;
            o->x[i * c->n_col + k] = check_stored(t, x * far * (float)size);
        }
    for (int64_t i = 0; i < n; i++)
        t->int8.norms(o->x + i * c->n_col, LK_F32, c, &o->norms[i]);
}

static void operand_free(struct operand *o)
{
    free(o->x);
    free(o->norms);
}

/* A bound's own part for what can hardly be seen in sums (args_int8.h). */
static double slack(int64_t n_col)
{
    return 0x1p-18 + (double)(n_col + 64) * 0x1p-23;
}

static void check_norms(const struct lk_cpu *t, const struct operand *o, const struct lk_cols *c)
{
    for (int64_t i = 0; i < o->n; i++) {
        const struct lk_int8_norms *got = &o->norms[i];
        double sum = 0;
        for (int64_t k = 0; k < c->n_col; k++)
            sum += (double)o->x[i * c->n_col + k] * (double)o->x[i * c->n_col + k];
        double exact = sqrt(sum), error = (double)got->error - slack(c->n_col) * (double)got->exact;
        check_that((double)got->exact >= exact && (double)got->exact <= exact * (1 + 0x1p-8) + 0x1p-49, t, "norms",
                   "of a row of %lld: %g, it is %g", (long long)c->n_col, (double)got->exact, exact);
        check_that((double)got->whole <= (double)got->exact * 1.05 + 0x1p-49 && error <= 0.05 * exact + 0x1p-49, t,
                   "norms", "int8 %g, error %g of %g", (double)got->whole, error, exact);
    }
}

static float *product_of(const struct lk_cpu *t, const struct lk_cols *c, const struct operand *a,
                         const struct operand *w, const struct lk_cols *cut)
{
    float *y = check_new((size_t)(N_ROW * N_OUT), sizeof *y);
    struct lk_cpu as = *t;
    struct lk_act act = check_act(t, N_ROW, c);
    const struct lk_round round = {act, a->x, c->n_col};
    t->round(&round, 0, N_ROW);
    struct lk_linear args = {.a = act, .n_out = N_OUT, .y = y, .y_ld = N_OUT};
    void *q = NULL;
    if (cut) { /* in int8 */
        as.weight_bytes = t->int8.weight_bytes;
        as.pack = t->int8.pack;
        as.linear_items = t->int8.linear_items;
        as.linear = t->int8.linear;
        q = check_new(t->int8.act_bytes(N_ROW, cut), 1);
        const struct lk_quantize quantize = {q, {act.data, N_ROW, cut}};
        t->int8.quantize(&quantize, 0, t->int8.quantize_items(&quantize));
        args.a = (struct lk_act){q, N_ROW, cut};
    }
    void *packed = check_pack(&as, w->x, N_OUT, cut ? cut : c, 0);
    args.w = packed;
    as.linear(&args, 0, as.linear_items(&args));
    free(packed);
    free(act.data);
    free(q);
    return y;
}

/* K whole for the set's product, cut at blocks for the one in int8, as an LM head is. */
static void bounds(const struct lk_cpu *t, int64_t n_col, int n_seg, double size)
{
    struct lk_cols whole, cut;
    struct operand a, w;
    check_cols(&whole, 1, (int64_t[]){0, n_col});
    check_even_cols(&cut, n_col, n_seg, LK_INT8_BLOCK);
    operand_new(&a, t, N_ROW, &cut, size);
    operand_new(&w, t, N_OUT, &cut, size);
    check_norms(t, &a, &cut);
    check_norms(t, &w, &cut);
    float *y = product_of(t, &whole, &a, &w, NULL), *z = product_of(t, &whole, &a, &w, &cut);
    for (int64_t i = 0; i < N_ROW; i++)
        for (int64_t j = 0; j < N_OUT; j++) {
            const struct lk_int8_norms *x = &a.norms[i], *of = &w.norms[j];
            double most = (double)of->whole * (double)x->error + (double)of->error * (double)x->exact + 0x1p-100;
            double is = fabs((double)y[i * N_OUT + j] - (double)z[i * N_OUT + j]);
            check_that(is <= most, t, "norms", "row %lld column %lld of %lld columns: %g, int8 %g, at most %g apart",
                       (long long)i, (long long)j, (long long)n_col, (double)y[i * N_OUT + j], (double)z[i * N_OUT + j],
                       most);
        }
    free(y);
    free(z);
    operand_free(&a);
    operand_free(&w);
}

static void not_finite(const struct lk_cpu *t)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, 0x1p110f};
    struct lk_cols c;
    check_cols(&c, 2, (int64_t[]){0, 128, 200});
    for (int i = 0; i < 5; i++) {
        float x[200];
        struct lk_int8_norms n;
        check_fill(x, 200, -1, 1);
        x[check_random() % 200] = odd[i];
        t->int8.norms(x, LK_F32, &c, &n);
        check_that(isinf(n.exact) && isinf(n.whole) && isinf(n.error), t, "norms", "%g among them: %g %g %g",
                   (double)odd[i], (double)n.exact, (double)n.whole, (double)n.error);
    }
}

/* What is kept of n columns, the best lower bound so far being `least`. */
static void screens(const struct lk_cpu *t, int64_t n, float least)
{
    float *y = check_new((size_t)n, sizeof *y), *whole = check_new((size_t)n, sizeof *whole);
    float *error = check_new((size_t)n, sizeof *error), got = least;
    struct lk_may may[LK_SCREEN_COLS];
    const struct lk_int8_norms row = {check_uniform(1, 50), 0, check_uniform(0, 1)};
    const float most_error = check_random() % 2 ? 0.1f : 0.001f;
    check_fill(y, n, -20, 20);
    check_fill(whole, n, 0.1f, 3);
    check_fill(error, n, 0, most_error);
    const struct lk_screen args = {y, whole, error, row, n, 1000};
    int64_t n_may = t->int8.screen(&args, &got, may);
    double far[LK_SCREEN_COLS], want = (double)least;
    for (int64_t i = 0; i < n; i++) {
        far[i] = (double)whole[i] * (double)row.error + (double)error[i] * (double)row.exact;
        want = fmax(want, (double)y[i] - far[i]);
    }
    check_that(fabs((double)got - want) <= 1e-5, t, "screen", "least %g, not %g", (double)got, want);
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        double most = (double)y[i] + far[i];
        bool kept = at < n_may && may[at].id == 1000 + i;
        check_that(kept ? most >= want - 1e-4 : most <= want + 1e-4, t, "screen", "column %lld of %lld: %g, least %g%s",
                   (long long)i, (long long)n, most, want, kept ? ", kept" : "");
        check_that(!kept || fabs((double)may[at].most - most) <= 1e-4, t, "screen", "most %g, not %g",
                   (double)may[at].most, most);
        at += kept;
    }
    check_that(at == n_may, t, "screen", "%lld columns, %lld of them in order", (long long)n_may, (long long)at);
    free(y);
    free(whole);
    free(error);
}

void check_screen(const struct lk_cpu *t)
{
    if (!t->int8.screen)
        return;
    static const double size[] = {1, 0x1p-10, 0x1p-70, 0x1p40};
    for (int i = 0; i < 4; i++) {
        bounds(t, 64, 1, size[i]);
        bounds(t, 200, 1, size[i]);
        bounds(t, 576, 1, size[i]);
        bounds(t, 1000, 2, size[i]);
        bounds(t, 33, 1, size[i]);
    }
    not_finite(t);
    for (int64_t n = 1; n <= LK_SCREEN_COLS; n += n < 70 ? 1 : 13)
        for (int i = 0; i < 4; i++)
            screens(t, n, i == 0 ? -INFINITY : i == 1 ? 25 : 15);
    screens(t, LK_SCREEN_COLS, -INFINITY);
}
