/* embed, norm, round and latent; the vector exponential. */
#include "kernels/tests/check.h"

void check_embed(const struct lk_cpu *t)
{
    for (int64_t dim = 1; dim < 100; dim += 7) {
        enum { N_VOCAB = 9, N_TOK = 5 };
        static const int32_t id[N_TOK] = {3, 0, 8, 8, 1};
        float *values = check_new((size_t)(N_VOCAB * dim), sizeof *values), *x = check_new((size_t)(N_TOK * dim), 4);
        uint16_t *half = check_new((size_t)(N_VOCAB * dim), sizeof *half);
        for (int64_t i = 0; i < N_VOCAB * dim; i++) {
            values[i] = check_stored(t, check_uniform(-1, 1));
            half[i] = lk_round(values[i]);
        }
        struct lk_embed args = {x, t->type == LK_F32 ? (void *)values : (void *)half, id, N_TOK, dim};
        CHECK_SPLIT(t->embed, &args, N_TOK);
        for (int64_t i = 0; i < N_TOK * dim; i++)
            check_that(x[i] == values[id[i / dim] * dim + i % dim], t, "embed", "dim %lld: number %lld is %g",
                       (long long)dim, (long long)i, (double)x[i]);
        free(values);
        free(x);
        free(half);
    }
}

static void norm_case(const struct lk_cpu *t, int64_t n_row, const struct lk_cols *cols)
{
    int64_t dim = cols->n_col;
    float *x = check_new((size_t)(n_row * dim), sizeof *x), *w = check_new((size_t)dim, sizeof *w);
    float *got = check_new((size_t)dim, sizeof *got), *alone = check_new((size_t)dim, sizeof *alone);
    int32_t *row = check_new((size_t)n_row, sizeof *row);
    check_fill(x, n_row * dim, -3, 3);
    check_fill(w, dim, -2, 2);
    for (int64_t i = 0; i < n_row; i++)
        row[i] = (int32_t)(n_row - 1 - i);
    struct lk_norm args = {.y = check_act(t, n_row, cols), .x = x, .row = row, .w = w, .eps = 1e-5f};
    CHECK_SPLIT(t->norm, &args, t->norm_items(&args));
    struct lk_norm single = {.y = check_act(t, 1, cols), .x = x, .w = w, .eps = 1e-5f};
    for (int64_t i = 0; i < n_row; i++) {
        const float *from = x + row[i] * dim;
        double sum = 0;
        for (int64_t k = 0; k < dim; k++)
            sum += (double)from[k] * (double)from[k];
        t->act_row(&args.y, i, got);
        for (int64_t k = 0; k < dim; k++) {
            double want = (double)from[k] / sqrt(sum / (double)dim + 1e-5) * (double)w[k];
            double bound = (t->type == LK_F32 ? 0x1p-20 : 0x1.01p-8) * fabs(want) + 1e-30;
            check_that(fabs((double)got[k] - want) <= bound, t, "norm", "dim %lld row %lld column %lld: %g, not %g",
                       (long long)dim, (long long)i, (long long)k, (double)got[k], want);
        }
        single.row = &row[i];
        t->norm(&single, 0, t->norm_items(&single));
        t->act_row(&single.y, 0, alone);
        check_that(memcmp(got, alone, (size_t)dim * sizeof *got) == 0, t, "norm", "row %lld of %lld differs alone",
                   (long long)i, (long long)n_row);
    }
    check_that(t->act_rows(&args.y) == n_row, t, "norm", "%lld rows are padded", (long long)n_row);
    free(x);
    free(w);
    free(got);
    free(alone);
    free(row);
    free(args.y.data);
    free(single.y.data);
}

static void check_norm_add(const struct lk_cpu *t, int64_t n_row, int64_t dim)
{
    size_t n = (size_t)(n_row * dim), row = (size_t)dim;
    float *x = check_new(n, sizeof *x), *y = check_new(n, sizeof *y), *w = check_new(row, sizeof *w);
    float *got = check_new(n, sizeof *got), *alone = check_new(row, sizeof *alone);
    check_fill(x, n_row * dim, -2, 2);
    check_fill(y, n_row * dim, -3, 3);
    check_fill(w, dim, 0.5f, 1.5f);
    memcpy(got, x, n * sizeof *x);
    struct lk_norm_add args = {.x = got, .y = y, .w = w, .n_row = n_row, .dim = dim, .eps = 1e-3f};
    CHECK_SPLIT(t->norm_add, &args, n_row);
    for (int64_t i = 0; i < n_row; i++) {
        const float *from = y + i * dim;
        double sum = 0;
        for (int64_t k = 0; k < dim; k++)
            sum += (double)from[k] * (double)from[k];
        for (int64_t k = 0; k < dim; k++) {
            double add = (double)from[k] / sqrt(sum / (double)dim + 1e-3) * (double)w[k];
            double want = (double)x[i * dim + k] + add;
            check_that(fabs((double)got[i * dim + k] - want) <= 0x1p-20 * (fabs(add) + fabs(want)), t, "norm_add",
                       "dim %lld row %lld column %lld: %g, not %g", (long long)dim, (long long)i, (long long)k,
                       (double)got[i * dim + k], want);
        }
        memcpy(alone, x + i * dim, row * sizeof *x);
        struct lk_norm_add single = {.x = alone, .y = from, .w = w, .n_row = 1, .dim = dim, .eps = 1e-3f};
        t->norm_add(&single, 0, 1);
        check_that(memcmp(alone, got + i * dim, row * sizeof *x) == 0, t, "norm_add", "row %lld differs alone",
                   (long long)i);
    }
    free(x);
    free(y);
    free(w);
    free(got);
    free(alone);
}

void check_norm(const struct lk_cpu *t)
{
    static const int64_t dim_of[] = {1, 31, 40, 64, 70, 576};
    struct lk_cols cols;
    for (int64_t n_row = 1; n_row <= 40; n_row++) {
        check_even_cols(&cols, dim_of[n_row % 6], 1, 32);
        norm_case(t, n_row, &cols);
    }
    check_even_cols(&cols, 90, 3, 32);
    norm_case(t, 100, &cols);
    for (int64_t dim = 1; dim < 80; dim += 13)
        check_norm_add(t, 1 + dim % 9, dim);
}

/* Every `every`-th float of [-104, 88.8]. */
void check_exp(const struct lk_cpu *t, int every)
{
    enum { N = 4096 };
    static float x[N], y[N];
    const uint32_t end[2] = {lk_bits(88.8f), lk_bits(104.0f)};
    double worst = 0, worst_16 = 0;
    for (int sign = 0; sign < 2; sign++) {
        for (uint64_t u = 0; u <= end[sign];) {
            int n = 0;
            for (; n < N && u <= end[sign]; n++, u += (uint64_t)every)
                x[n] = lk_float((uint32_t)u | (sign ? 0x80000000u : 0));
            t->exp(x, y, n);
            for (int i = 0; i < n; i++) {
                double want = exp((double)x[i]);
                if (want < 0x1p-126 || want > 0x1.fffffep127) /* one step of a subnormal; overflow */
                    check_that(want < 1 ? fabs((double)y[i] - want) <= 0x1p-18 * want + 0x1p-149 : y[i] > 0x1.fffp127f,
                               t, "exp", "e^%a is %a", (double)x[i], (double)y[i]);
                else
                    worst = fmax(worst, fabs((double)y[i] / want - 1));
                if (fabsf(x[i]) <= 16)
                    worst_16 = fmax(worst_16, fabs((double)y[i] / want - 1));
            }
        }
    }
    printf("%s exp: relative error at most 2^%.2f, 2^%.2f where |x| <= 16\n", t->name, log2(worst), log2(worst_16));
    check_that(worst < 0x1p-18 && worst_16 < 0x1p-20, t, "exp", "error %g, %g", worst, worst_16);
    float odd[4] = {INFINITY, -INFINITY, NAN, 0}, out[4];
    t->exp(odd, out, 4);
    check_that(out[0] == INFINITY && out[1] == 0 && out[2] != out[2] && out[3] == 1, t, "exp", "inf, NaN, 0");
}

static void round_case(const struct lk_cpu *t, int64_t n_row, const struct lk_cols *cols)
{
    int64_t dim = cols->n_col, ld = dim + 3;
    float *x = check_new((size_t)(n_row * ld), sizeof *x), *got = check_new((size_t)dim, sizeof *got);
    float *w = check_new((size_t)dim, sizeof *w), *y = check_new((size_t)n_row, sizeof *y);
    check_fill(x, n_row * ld, -3, 3);
    check_fill(w, dim, 1, 1);
    struct lk_round args = {check_act(t, n_row, cols), x, ld};
    memset(args.y.data, 0xff, (size_t)(n_row * lk_cols_packed(cols)) * t->act_bytes);
    CHECK_SPLIT(t->round, &args, n_row);
    for (int64_t i = 0; i < n_row; i++) {
        t->act_row(&args.y, i, got);
        for (int64_t k = 0; k < dim; k++)
            check_that(got[k] == check_stored(t, x[i * ld + k]), t, "round", "row %lld column %lld of %lld: %g",
                       (long long)i, (long long)k, (long long)dim, (double)got[k]);
    }
    /* a product with ones meets no NaN: the zero columns were written */
    void *ones = check_pack(t, w, 1, cols, 0);
    struct lk_linear sum = {.a = args.y, .w = ones, .n_out = 1, .y = y, .y_ld = 1};
    t->linear(&sum, 0, t->linear_items(&sum));
    for (int64_t i = 0; i < n_row; i++)
        check_that(y[i] == y[i], t, "round", "row %lld has unwritten columns", (long long)i);
    free(x);
    free(got);
    free(w);
    free(y);
    free(ones);
    free(args.y.data);
}

void check_round(const struct lk_cpu *t)
{
    for (int64_t n_row = 1; n_row < 40; n_row += 1 + n_row / 3) {
        struct lk_cols cols;
        for (int64_t dim = 1; dim < 200; dim += 13) {
            check_even_cols(&cols, dim, 1, dim);
            round_case(t, n_row, &cols);
        }
        check_even_cols(&cols, 80, 4, 20);
        round_case(t, n_row, &cols);
    }
}

void check_latent(const struct lk_cpu *t)
{
    enum { N_TOK = 5, N_HEAD = 3, NOPE = 7, ROT = 6, RANK = 21, Q = N_HEAD * (NOPE + ROT), KV = RANK + ROT };
    enum { OUT = (N_HEAD + 1) * KV + RANK };
    float q[N_TOK * Q], kv[N_TOK * KV], w[RANK], out[N_TOK * OUT];
    check_fill(q, N_TOK * Q, -2, 2);
    check_fill(kv, N_TOK * KV, -2, 2);
    check_fill(w, RANK, 0.5f, 2);
    for (int i = 0; i < N_TOK * OUT; i++)
        out[i] = 9;
    struct lk_latent args = {out, q, kv, w, N_TOK, N_HEAD, NOPE, ROT, RANK, 1e-3f};
    CHECK_SPLIT(t->latent, &args, N_TOK);
    for (int i = 0; i < N_TOK * OUT; i++) {
        int tok = i / OUT, at = i % OUT, head = at / KV, j = at % KV;
        const float *row = kv + tok * KV;
        double sum = 0, want;
        for (int k = 0; k < RANK; k++)
            sum += (double)row[k] * (double)row[k];
        double inv = 1 / sqrt(sum / RANK + 1e-3);
        if (head < N_HEAD) /* the part behind belongs to a product */
            want = j < ROT ? (double)q[tok * Q + head * (NOPE + ROT) + NOPE + j] : 9;
        else if (head == N_HEAD)
            want = j < ROT ? (double)row[RANK + j] : (double)row[j - ROT] * inv * (double)w[j - ROT];
        else
            want = (double)row[j] * inv * (double)w[j];
        check_that(fabs((double)out[i] - want) <= 1e-6 * fabs(want), t, "latent", "token %d, number %d: %g, not %g",
                   tok, at, (double)out[i], want);
    }
}
