/* linear: against a product in double; the same bits alone, in any batch and however the items are cut; the
 * bits of the model of the set's instruction. */
#include "kernels/cpu/lk_ahead.h"
#include "kernels/tests/check.h"
#include "kernels/tests/isa_model/dpbf16.h"

struct problem {
    struct lk_cols cols;
    int64_t n_row, n_out;
    float *a, *w, *bias; /* [n_row, n_col], [n_out, n_col], [n_out] */
    struct lk_act act;
    void *packed;
};

static void problem_new(struct problem *p, const struct lk_cpu *t, const struct lk_cols *cols, int64_t n_row,
                        int64_t n_out)
{
    int64_t k = cols->n_col;
    *p = (struct problem){.cols = *cols, .n_row = n_row, .n_out = n_out};
    p->a = check_new((size_t)(n_row * k), sizeof *p->a);
    p->w = check_new((size_t)(n_out * k), sizeof *p->w);
    p->bias = check_new((size_t)n_out, sizeof *p->bias);
    for (int64_t i = 0; i < n_out * k; i++)
        p->w[i] = check_stored(t, check_uniform(-1, 1));
    check_fill(p->bias, n_out, -1, 1);
    p->act = check_random_act(t, n_row, &p->cols, p->a);
}

static void problem_free(struct problem *p)
{
    free(p->a);
    free(p->w);
    free(p->bias);
    free(p->act.data);
    free(p->packed);
}

/* The sum in double, and what it may be off by: K 2^-23 sum |a b|. */
static double exact(const struct problem *p, int64_t i, int64_t j, double *bound)
{
    double sum = 0, size = 0;
    for (int64_t k = 0; k < p->cols.n_col; k++) {
        double x = (double)p->a[i * p->cols.n_col + k] * (double)p->w[j * p->cols.n_col + k];
        sum += x;
        size += fabs(x);
    }
    *bound = (double)p->cols.n_col * 0x1p-23 * size + 1e-30;
    return sum;
}

/* One segment of a row and a column as a set's instruction adds it: a[n] and w[n] as the set stores them. */
static float mul_add_chain(const float *a, const float *w, int64_t n)
{
    float sum = 0;
    for (int64_t k = 0; k < n; k++) {
        float x = a[k] * w[k];
        sum += x;
    }
    return sum;
}

__attribute__((target("fma"))) static float fma_chain(const float *a, const float *w, int64_t n)
{
    float sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum = fmaf(a[k], w[k], sum);
    return sum;
}

static uint16_t rounded(const float *x, int64_t k, int64_t n)
{
    return k < n ? lk_round(x[k]) : 0;
}

/* Blocks of 32 columns, zeros behind the last one, which make +0 of a sum that is -0. */
static float dpbf16_chain(const float *a, const float *w, int64_t n)
{
    float sum = 0;
    for (int64_t k = 0; k < lk_ceil_div(n, 32) * 32; k += 2) {
        uint16_t x[2] = {rounded(a, k, n), rounded(a, k + 1, n)};
        uint16_t y[2] = {rounded(w, k, n), rounded(w, k + 1, n)};
        sum = lk_model_dpbf16(sum, x, y);
    }
    return sum;
}

/* The same blocks: one tdpbf16ps each. */
static float tdpbf16_chain(const float *a, const float *w, int64_t n)
{
    float sum = 0;
    for (int64_t k = 0; k < n; k += 32) {
        uint16_t x[32] = {0}, y[32] = {0};
        for (int64_t i = 0; i < lk_min(32, n - k); i++) {
            x[i] = lk_round(a[k + i]);
            y[i] = lk_round(w[k + i]);
        }
        sum = lk_model_tdpbf16(sum, x, y, 32);
    }
    return sum;
}

static const struct set_model {
    const char *set;
    enum lk_type type;
    float (*segment)(const float *a, const float *w, int64_t n);
} models[] = {
    {"ref", LK_F32, mul_add_chain},  {"ref", LK_BF16, mul_add_chain},   {"avx2", LK_F32, fma_chain},
    {"avx2", LK_BF16, fma_chain},    {"avx512bf16", LK_F32, fma_chain}, {"avx512bf16", LK_BF16, dpbf16_chain},
    {"amx", LK_BF16, tdpbf16_chain},
};

static const struct set_model *model_of(const struct lk_cpu *t)
{
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
        if (strcmp(models[i].set, t->name) == 0 && models[i].type == t->type)
            return &models[i];
    check_that(0, t, "linear", "there is no model of its instruction");
    return &models[0];
}

static float model(const struct set_model *m, const struct problem *p, int64_t i, int64_t j)
{
    float part[LK_MAX_SEG] = {0};
    const int64_t *begin = p->cols.begin, k = p->cols.n_col;
    int n = p->cols.n_seg;
    for (int s = 0; s < n; s++)
        part[s] = m->segment(p->a + i * k + begin[s], p->w + j * k + begin[s], begin[s + 1] - begin[s]);
    if (lk_cols_balanced(&p->cols)) {
        for (int step = 1; step < n; step *= 2)
            for (int s = 0; s < n; s += 2 * step)
                part[s] += part[s + step];
    } else {
        for (int s = 1; s < n; s++)
            part[0] += part[s];
    }
    return part[0];
}

static void against_model(const struct lk_cpu *t, const struct problem *p, const float *y)
{
    const struct set_model *m = model_of(t);
    int64_t step = 1 + p->n_row * p->n_out * p->cols.n_col / 400000;
    for (int64_t at = 0; at < p->n_row * p->n_out; at += step) {
        float want = model(m, p, at / p->n_out, at % p->n_out);
        check_that(lk_bits(y[at]) == lk_bits(want), t, "linear", "row %lld column %lld is %a, the model says %a",
                   (long long)(at / p->n_out), (long long)(at % p->n_out), (double)y[at], (double)want);
    }
}

/* The same product with 5 numbers between its rows, which stay as they are. */
static void rows_apart(const struct lk_cpu *t, const struct lk_linear *stored, const float *want)
{
    int64_t n_out = stored->n_out, n_row = stored->a.n_row, ld = n_out + 5;
    float *y = check_new((size_t)(n_row * ld), sizeof *y);
    for (int64_t i = 0; i < n_row * ld; i++)
        y[i] = 7;
    struct lk_linear args = *stored;
    args.epilogue = LK_EP_STORE;
    args.bias = NULL;
    args.y = y;
    args.y_ld = ld;
    CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
    for (int64_t i = 0; i < n_row * ld; i++) {
        float x = i % ld < n_out ? want[i / ld * n_out + i % ld] : 7;
        check_that(lk_bits(y[i]) == lk_bits(x), t, "linear", "rows apart: %a, not %a", (double)y[i], (double)x);
    }
    free(y);
}

static void store_and_add(const struct lk_cpu *t, struct problem *p)
{
    size_t n = (size_t)(p->n_row * p->n_out);
    float *y = check_new(n, sizeof *y), *z = check_new(n, sizeof *z), *x = check_new(n, sizeof *x);
    p->packed = check_pack(t, p->w, p->n_out, &p->cols, 0);
    struct lk_linear args = {.a = p->act, .w = p->packed, .n_out = p->n_out, .y = y, .y_ld = p->n_out};
    t->linear(&args, 0, t->linear_items(&args));
    against_model(t, p, y);
    args.y = z;
    args.bias = p->bias;
    args.epilogue = LK_EP_ADD;
    check_fill(x, (int64_t)n, -1, 1);
    memcpy(z, x, n * sizeof *z);
    CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
    int64_t step = 1 + (int64_t)n * p->cols.n_col / 2000000;
    for (int64_t at = 0; at < (int64_t)n; at++) {
        if (at % step == 0) {
            double bound, want = exact(p, at / p->n_out, at % p->n_out, &bound);
            check_that(fabs((double)y[at] - want) <= bound, t, "linear", "n_row %lld n_out %lld K %lld: %g, not %g",
                       (long long)p->n_row, (long long)p->n_out, (long long)p->cols.n_col, (double)y[at], want);
        }
        float sum = x[at] + (y[at] + p->bias[at % p->n_out]);
        check_that(lk_bits(z[at]) == lk_bits(sum), t, "linear", "add: %a, not %a", (double)z[at], (double)sum);
    }
    rows_apart(t, &args, y);
    free(x);
    free(y);
    free(z);
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static void swiglu(const struct lk_cpu *t, struct problem *p, const struct lk_cols *out_cols)
{
    int64_t ffn = p->n_out / 2;
    struct lk_act out = check_act(t, p->n_row, out_cols);
    float *got = check_new((size_t)ffn, sizeof *got);
    p->packed = check_pack(t, p->w, p->n_out, &p->cols, 1);
    struct lk_linear args = {
        .a = p->act, .w = p->packed, .n_out = p->n_out, .epilogue = LK_EP_SWIGLU, .bias = p->bias, .out = out};
    CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
    for (int64_t i = 0; i < p->n_row; i++) {
        t->act_row(&out, i, got);
        for (int64_t j = 0; j < ffn; j++) {
            double eg, eu, g = exact(p, i, j, &eg) + (double)p->bias[j];
            double u = exact(p, i, ffn + j, &eu) + (double)p->bias[ffn + j], want = silu(g) * u;
            double bound = (t->type == LK_F32 ? 0x1p-20 : CHECK_SWIGLU_BF16) * fabs(want) + 1.2 * eg * fabs(u) +
                           eu * fabs(silu(g)) + 1e-6 * (fabs(g) + fabs(u)) + 1e-30;
            check_that(fabs((double)got[j] - want) <= bound, t, "swiglu", "row %lld column %lld: %g, not %g",
                       (long long)i, (long long)j, (double)got[j], want);
        }
    }
    /* the zero columns: a product with ones in every packed column of that matrix must not meet a NaN there */
    float *w = check_new((size_t)ffn, sizeof *w), *y = check_new((size_t)p->n_row, sizeof *y);
    check_fill(w, ffn, 1, 1);
    void *ones = check_pack(t, w, 1, out_cols, 0);
    struct lk_linear sum = {.a = out, .w = ones, .n_out = 1, .y = y, .y_ld = 1};
    t->linear(&sum, 0, t->linear_items(&sum));
    for (int64_t i = 0; i < p->n_row; i++)
        check_that(y[i] == y[i], t, "swiglu", "row %lld has unwritten columns", (long long)i);
    free(w);
    free(y);
    free(ones);
    free(got);
    free(out.data);
}

/* Halves of pages that tiles fetch: K and V of each page in turn, whole, from the one that is next; then nothing. */
static void beside(const struct lk_cpu *t)
{
    enum { K = 320, V = 192, N_PAGE = 4 };
    static const int32_t page[N_PAGE] = {9, 0, 7, 7};
    static char k[10 * K], v[10 * V];
    const struct lk_soon soon = {k, v, K, V, page, 2 * N_PAGE, 3};
    const struct lk_linear args = {.soon = &soon}, none = {.soon = NULL};
    for (int64_t i = 0; i < 2 * N_PAGE; i++) {
        int64_t half = 3 + i;
        struct lk_beside b = lk_beside_of(&args, i, page);
        const char *want = half >= 2 * N_PAGE ? (const char *)page
                           : half % 2         ? v + page[half / 2] * V
                                              : k + page[half / 2] * K;
        int64_t bytes = half >= 2 * N_PAGE ? 0 : half % 2 ? V - 64 : K - 64;
        check_that(b.at == want && b.last == want + bytes, t, "linear", "half %lld of a page", (long long)half);
    }
    check_that(lk_beside_of(&none, 0, page).last == (const char *)page, t, "linear", "nothing to fetch");
}

/* Row r alone: the same activations by the same norm, one row. */
static void alone(const struct lk_cpu *t, const struct lk_cols *cols, int64_t n_row, int64_t n_out)
{
    int64_t k = cols->n_col;
    float *x = check_new((size_t)(n_row * k), sizeof *x), *w = check_new((size_t)k, sizeof *w);
    float *rows = check_new((size_t)(n_out * k), sizeof *rows), *y = check_new((size_t)(n_row * n_out), sizeof *y);
    float *one = check_new((size_t)n_out, sizeof *one);
    check_fill(x, n_row * k, -2, 2);
    check_fill(w, k, 0.5f, 1.5f);
    check_fill(rows, n_out * k, -1, 1);
    void *packed = check_pack(t, rows, n_out, cols, 0);
    struct lk_act all = check_act(t, n_row, cols), single = check_act(t, 1, cols);
    struct lk_norm norm = {.y = all, .x = x, .w = w, .eps = 1e-5f};
    t->norm(&norm, 0, t->norm_items(&norm));
    static const int32_t page[3] = {2, 0, 5};
    const struct lk_soon soon = {(char *)x, (char *)x,         128, 64, page,
                                 6,         check_random() % 9}; /* as good as any memory */
    struct lk_linear linear = {.a = all,
                               .w = packed,
                               .soon = check_random() % 2 ? &soon : NULL,
                               .n_out = n_out,
                               .y = y,
                               .y_ld = n_out,
                               .l2_bytes = 1 + check_random() % 65536,
                               .skip_items = check_random() % 99,
                               .near_rows = check_random() % 2};
    CHECK_SPLIT(t->linear, &linear, t->linear_items(&linear));
    for (int64_t i = 0; i < n_row; i++) {
        int32_t row = (int32_t)i;
        norm.y = linear.a = single;
        norm.row = &row;
        linear.y = one;
        linear.l2_bytes = linear.skip_items = 0;
        t->norm(&norm, 0, t->norm_items(&norm));
        CHECK_SPLIT(t->linear, &linear, t->linear_items(&linear));
        check_that(memcmp(one, y + i * n_out, (size_t)n_out * sizeof *one) == 0, t, "linear",
                   "row %lld of %lld has other bits alone", (long long)i, (long long)n_row);
    }
    free(x);
    free(w);
    free(rows);
    free(y);
    free(one);
    free(packed);
    free(all.data);
    free(single.data);
}

/* Products and sums among the subnormals: they are flushed as the model says. */
static void tiny(const struct lk_cpu *t)
{
    struct lk_cols cols;
    struct problem p;
    check_even_cols(&cols, 70, 2, 32);
    problem_new(&p, t, &cols, 13, 40);
    for (int64_t i = 0; i < p.n_out * cols.n_col; i++)
        p.w[i] = lk_widen(lk_round(p.w[i] * (i % 3 ? 1e-37f : 2e-39f)));
    float *y = check_new((size_t)(p.n_row * p.n_out), sizeof *y);
    p.packed = check_pack(t, p.w, p.n_out, &p.cols, 0);
    struct lk_linear args = {.a = p.act, .w = p.packed, .n_out = p.n_out, .y = y, .y_ld = p.n_out};
    t->linear(&args, 0, t->linear_items(&args));
    against_model(t, &p, y);
    free(y);
    problem_free(&p);
}

void check_linear(const struct lk_cpu *t)
{
    static const int64_t odd[][LK_MAX_SEG + 1] = {{0, 5, 5, 70}, {0, 33, 64, 65, 200}, {0, 0, 31, 32, 32}};
    static const int odd_n[] = {3, 4, 4}, seg_of[] = {1, 2, 3, 4, 8, 16};
    static const int64_t out_of[] = {1, 16, 31, 32, 33, 64, 100}, row_of[] = {100, 512};
    struct lk_cols cols, out_cols;
    beside(t);
    const int64_t step = check_every > 1 ? 5 : 1; /* with alone()'s all tiles but one */
    for (int64_t n_row = 1; n_row <= 42; n_row += step) {
        int64_t rows = n_row <= 40 ? n_row : row_of[n_row - 41];
        struct problem p;
        if (n_row % 4 == 0)
            check_cols(&cols, odd_n[n_row / 4 % 3], odd[n_row / 4 % 3]);
        else
            check_even_cols(&cols, 20 + n_row * 7, seg_of[n_row % 6], 32);
        problem_new(&p, t, &cols, rows, out_of[n_row % 7]);
        store_and_add(t, &p);
        problem_free(&p);
        int64_t ffn = 1 + n_row * 5 % 97;
        problem_new(&p, t, &cols, n_row <= 40 ? n_row : 60, 2 * ffn);
        if (n_row % 3 == 0) { /* odd cuts */
            int64_t begin[] = {0, ffn / 3, ffn / 2, ffn};
            check_cols(&out_cols, 3, begin);
        } else {
            check_even_cols(&out_cols, ffn, 1 + (int)(n_row % 4), 32);
        }
        swiglu(t, &p, &out_cols);
        problem_free(&p);
    }
    for (int64_t n_row = 1; n_row <= 21; n_row += 20) { /* a tile's columns are the last of a segment, half a block */
        struct problem p;
        check_even_cols(&cols, 70, 2, 32);
        check_even_cols(&out_cols, 48, 1, 32);
        problem_new(&p, t, &cols, n_row, 96);
        swiglu(t, &p, &out_cols);
        problem_free(&p);
    }
    check_even_cols(&cols, 250, 3, 32);
    for (int64_t n_row = 2; n_row <= 27; n_row += 5)
        alone(t, &cols, n_row, 75);
    check_even_cols(&cols, 192, 8, 32);
    alone(t, &cols, 100, 200);
    tiny(t);
}
