/* int8: quantize and product against the definition in kernels/args_int8.h, whole numbers in 64 bits: the same bits in
 * every set, whatever stands beside a row and however items are cut. */
#include "kernels/tests/check.h"

/* The whole numbers of a segment; n columns become as many as there are in whole blocks. */
struct whole {
    int64_t n;
    float s;
    int8_t q[640];
};

struct problem {
    struct lk_cols cols;
    int64_t n_row, n_out;
    float *a, *w, *bias; /* [n_row, n_col] as the set has them, [n_out, n_col], [n_out] */
    struct lk_act act;
    struct whole *qa, *qw;   /* [n_row, n_seg], [n_out, n_seg] what becomes of them */
    struct adapter *adapter; /* NULL: none */
};

#define RANK 5 /* of an adapter, with zeros behind it */

/* An adapter of all rows but every third one; u is made up. */
struct adapter {
    struct lk_lora_pair pair;
    struct lk_lora lora;
    struct lk_lora_strip *strip;
    int32_t *of_row;
    float *u, *b; /* [n_row, n_seg, 8], [n_out, RANK] */
    void *packed;
};

static float any_number(int kind)
{
    float x = check_uniform(-1, 1);
    switch (kind) {
    case 0:
        return x * x * x; /* many small ones */
    case 1:
        return x < 0 ? -3.0f : 3.0f; /* all at the ends */
    case 2:
        return x * 0x1p-121f; /* too small */
    case 3:
        return x * 3e38f;
    case 4:
        return 0;
    case 5:
        return (float)(int)(x * 127) / 2; /* many halves between two whole numbers */
    default:
        return x;
    }
}

static void fill_rows(float *x, int64_t n_row, int64_t n_col)
{
    for (int64_t i = 0; i < n_row; i++) {
        int kind = check_random() % 3 ? 6 : (int)(check_random() % 6);
        for (int64_t k = 0; k < n_col; k++)
            x[i * n_col + k] = any_number(kind);
    }
}

static void problem_new(struct problem *p, const struct lk_cols *cols, int64_t n_row, int64_t n_out)
{
    int64_t k = cols->n_col;
    *p = (struct problem){.cols = *cols, .n_row = n_row, .n_out = n_out};
    p->a = check_new((size_t)(n_row * k), sizeof *p->a);
    p->w = check_new((size_t)(n_out * k), sizeof *p->w);
    p->bias = check_new((size_t)n_out, sizeof *p->bias);
    fill_rows(p->a, n_row, k);
    fill_rows(p->w, n_out, k);
    check_fill(p->bias, n_out, -1, 1);
}

/* Half of a Hadamard transform's numbers belong to each half of the block, the other one added or subtracted last. */
static void mix(float *x, int n)
{
    float half[2 * LK_INT8_BLOCK];
    if (n == 1)
        return;
    mix(x, n / 2);
    mix(x + n / 2, n / 2);
    for (int i = 0; i < n / 2; i++) {
        half[i] = x[i] + x[n / 2 + i];
        half[n / 2 + i] = x[i] - x[n / 2 + i];
    }
    memcpy(x, half, (size_t)n * sizeof *x);
}

static void whole_of(struct whole *to, const float *x, int64_t n)
{
    float mixed[640] = {0}, most = 0;
    to->n = lk_ceil_div(n, LK_INT8_BLOCK) * LK_INT8_BLOCK;
    memcpy(mixed, x, (size_t)n * sizeof *x);
    for (int64_t k = 0; k < to->n; k += LK_INT8_BLOCK)
        mix(mixed + k, LK_INT8_BLOCK);
    memset(to->q, 0, sizeof to->q);
    to->s = 0;
    for (int64_t k = 0; k < to->n; k++)
        most = isfinite(mixed[k]) ? fmaxf(most, fabsf(mixed[k])) : INFINITY;
    for (int64_t k = 0; k < to->n; k++)
        to->s = isfinite(mixed[k]) ? to->s : NAN;
    if (isnan(to->s) || most < 0x1p-120f)
        return;
    to->s = most / 127.0f;
    for (int64_t k = 0; k < to->n; k++)
        to->q[k] = (int8_t)nearbyintf(mixed[k] * (127.0f / most));
}

static void whole_rows(const struct lk_cols *c, const float *x, int64_t n_row, struct whole *to)
{
    for (int64_t i = 0; i < n_row; i++)
        for (int s = 0; s < c->n_seg; s++)
            whole_of(to++, x + i * c->n_col + c->begin[s], c->begin[s + 1] - c->begin[s]);
}

/* Packs a, which then holds what the set made of it. */
static void problem_act(struct problem *p, const struct lk_cpu *t)
{
    p->act = check_act(t, p->n_row, &p->cols);
    struct lk_round args = {p->act, p->a, p->cols.n_col};
    t->round(&args, 0, p->n_row);
    for (int64_t i = 0; i < p->n_row; i++)
        t->act_row(&p->act, i, p->a + i * p->cols.n_col);
    size_t n_seg = (size_t)p->cols.n_seg;
    p->qa = check_new((size_t)p->n_row * n_seg, sizeof *p->qa);
    p->qw = check_new((size_t)p->n_out * n_seg, sizeof *p->qw);
    whole_rows(&p->cols, p->a, p->n_row, p->qa);
    whole_rows(&p->cols, p->w, p->n_out, p->qw);
}

static void problem_free(struct problem *p)
{
    free(p->a);
    free(p->w);
    free(p->bias);
    free(p->act.data);
    free(p->qa);
    free(p->qw);
}

/* A segment of a row and a column. */
static float segment_of(const struct whole *x, const struct whole *y)
{
    int64_t sum = 0;
    for (int64_t k = 0; k < x->n; k++)
        sum += x->q[k] * y->q[k];
    float both = x->s * (y->s / LK_INT8_BLOCK);
    return (float)sum * both;
}

/* What the adapter adds to it. */
static float added_to(const struct problem *p, int64_t i, int64_t j, int s)
{
    const float *u = p->adapter->u + (i * p->cols.n_seg + s) * 8, *b = p->adapter->b + j * RANK;
    return (u[0] * b[0] + u[2] * b[2] + u[4] * b[4]) + (u[1] * b[1] + u[3] * b[3]);
}

static float value_of(const struct problem *p, int64_t i, int64_t j)
{
    float part[LK_MAX_SEG] = {0};
    int n = p->cols.n_seg;
    for (int s = 0; s < n; s++)
        part[s] = segment_of(&p->qa[i * n + s], &p->qw[j * n + s]);
    for (int s = 0; p->adapter && p->adapter->of_row[i] >= 0 && s < n; s++)
        part[s] += added_to(p, i, j, s);
    return check_tree(&p->cols, part);
}

static void *pack_int8(const struct lk_cpu *t, const struct problem *p, int gate_up)
{
    struct lk_cpu as = *t; /* check_pack with the int8 order */
    as.weight_bytes = t->int8.weight_bytes;
    as.pack = t->int8.pack;
    return check_pack(&as, p->w, p->n_out, &p->cols, gate_up);
}

/* The product of p's activations as int8; `args` has the rest. */
static void multiply(const struct lk_cpu *t, const struct problem *p, struct lk_linear *args)
{
    size_t bytes = t->int8.act_bytes(p->n_row, &p->cols);
    check_that(bytes == (size_t)p->n_row * t->int8.act_bytes(1, &p->cols), t, "int8", "bytes of a row");
    struct lk_quantize quantize = {check_new(bytes, 1), p->act};
    memset(quantize.q, 0xff, bytes);
    CHECK_SPLIT(t->int8.quantize, &quantize, t->int8.quantize_items(&quantize));
    args->a = (struct lk_act){quantize.q, p->n_row, &p->cols};
    args->n_out = p->n_out;
    args->l2_bytes = 1 + check_random() % 65536;
    args->skip_items = check_random() % 99;
    args->near_rows = check_random() % 2;
    CHECK_SPLIT(t->int8.linear, args, t->int8.linear_items(args));
    free(quantize.q);
}

static void adapter_new(struct problem *p, struct adapter *d, const struct lk_cpu *t)
{
    int64_t n_strip = lk_ceil_div(p->n_out, t->panel_cols) * t->panel_cols / LK_LORA_STRIP, u_ld = 8 * p->cols.n_seg;
    bool f32 = t->type == LK_F32;
    *d = (struct adapter){.strip = check_new((size_t)n_strip, sizeof *d->strip),
                          .of_row = check_new((size_t)p->n_row, sizeof *d->of_row),
                          .u = check_new((size_t)(p->n_row * u_ld), sizeof *d->u),
                          .b = check_new((size_t)(p->n_out * RANK), sizeof *d->b),
                          .packed = check_new((size_t)(n_strip * 8 * 8), f32 ? 4 : 2)};
    check_fill(d->u, p->n_row * u_ld, -9, 9);
    for (int64_t i = 0; i < n_strip; i++)
        d->strip[i] = (struct lk_lora_strip){0, RANK, i * 8 * 8};
    for (int64_t i = 0; i < p->n_row; i++)
        d->of_row[i] = i % 3 == 1 ? -1 : 0;
    memset(d->packed, 0, (size_t)(n_strip * 8 * 8) * (f32 ? 4 : 2));
    for (int64_t j = 0; j < p->n_out; j++)
        for (int64_t r = 0; r < RANK; r++) {
            uint16_t half = lk_round(check_uniform(-9, 9));
            int64_t at = j / 8 * 8 * 8 + lk_lora_at(t->type, 8, r, j % 8);
            d->b[j * RANK + r] = lk_widen(half);
            memcpy((char *)d->packed + at * (f32 ? 4 : 2), f32 ? (void *)&d->b[j * RANK + r] : &half, f32 ? 4 : 2);
        }
    d->pair = (struct lk_lora_pair){NULL, d->packed, d->strip, NULL, 8};
    d->lora = (struct lk_lora){&d->pair, d->of_row, d->u, u_ld, 0};
    p->adapter = d;
}

static void adapter_free(struct adapter *d)
{
    free(d->strip);
    free(d->of_row);
    free(d->u);
    free(d->b);
    free(d->packed);
}

static void store_and_add(const struct lk_cpu *t, const struct problem *p)
{
    int64_t ld = p->n_out + 5;
    size_t n = (size_t)(p->n_row * ld);
    float *y = check_new(n, sizeof *y), *z = check_new(n, sizeof *z);
    void *packed = pack_int8(t, p, 0);
    struct lk_linear store = {.w = packed, .y = y, .y_ld = ld};
    struct lk_linear add = {.w = packed, .y = z, .y_ld = ld, .bias = p->bias, .epilogue = LK_EP_ADD};
    store.lora = add.lora = p->adapter ? &p->adapter->lora : NULL;
    for (size_t i = 0; i < n; i++)
        y[i] = z[i] = 7;
    multiply(t, p, &store);
    multiply(t, p, &add);
    for (int64_t at = 0; at < (int64_t)n; at++) {
        int64_t i = at / ld, j = at % ld;
        if (j >= p->n_out) {
            check_that(y[at] == 7 && z[at] == 7, t, "int8", "numbers between the rows have changed");
            continue;
        }
        if ((i * p->n_out + j) % check_every != 0)
            continue;
        float want = value_of(p, i, j), sum = 7.0f + (want + p->bias[j]);
        check_that(check_same_bits(y[at], want), t, "int8", "n_row %lld row %lld column %lld: %a, not %a",
                   (long long)p->n_row, (long long)i, (long long)j, (double)y[at], (double)want);
        check_that(check_same_bits(z[at], sum), t, "int8", "add: %a, not %a", (double)z[at], (double)sum);
    }
    free(packed);
    free(y);
    free(z);
}

/* The gate and up sums are as exact as any; what becomes of them is the set's own SwiGLU. */
static void swiglu(const struct lk_cpu *t, const struct problem *p, const struct lk_cols *out_cols)
{
    int64_t ffn = p->n_out / 2;
    struct lk_act out = check_act(t, p->n_row, out_cols);
    float *got = check_new((size_t)ffn, sizeof *got);
    void *packed = pack_int8(t, p, 1);
    struct lk_linear args = {.w = packed, .epilogue = LK_EP_SWIGLU, .bias = p->bias, .out = out};
    multiply(t, p, &args);
    for (int64_t i = 0; i < p->n_row; i++) {
        t->act_row(&out, i, got);
        for (int64_t j = i % check_every; j < ffn; j += check_every) {
            double g = (double)(value_of(p, i, j) + p->bias[j]);
            double u = (double)(value_of(p, i, ffn + j) + p->bias[ffn + j]), want = g / (1 + exp(-g)) * u;
            double bound = (t->type == LK_F32 ? 0x1p-17 : CHECK_SWIGLU_BF16) * fabs(want) + 1e-30;
            check_that(fabs((double)got[j] - want) <= bound, t, "int8 swiglu", "row %lld column %lld: %g, not %g",
                       (long long)i, (long long)j, (double)got[j], want);
        }
    }
    free(got);
    free(packed);
    free(out.data);
}

/* One number that is none: its row, its column, and nothing else. */
static void not_finite(const struct lk_cpu *t, const struct lk_cols *cols)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    enum { N_ROW = 9, N_OUT = 40, ROW = 5, COL = 33 };
    for (int i = 0; i < 3; i++) {
        for (int in_weights = 0; in_weights < 2; in_weights++) {
            struct problem p;
            problem_new(&p, cols, N_ROW, N_OUT);
            check_fill(p.a, N_ROW * cols->n_col, -1, 1);
            check_fill(p.w, N_OUT * cols->n_col, -1, 1);
            int64_t at = check_random() % cols->n_col;
            (in_weights ? p.w + COL * cols->n_col : p.a + ROW * cols->n_col)[at] = odd[i];
            problem_act(&p, t);
            float y[N_ROW * N_OUT];
            void *packed = pack_int8(t, &p, 0);
            struct lk_linear args = {.w = packed, .y = y, .y_ld = N_OUT};
            multiply(t, &p, &args);
            for (int j = 0; j < N_ROW * N_OUT; j++) {
                bool hit = in_weights ? j % N_OUT == COL : j / N_OUT == ROW;
                check_that(hit == isnan(y[j]), t, "int8", "a number that is not finite: row %d column %d is %g",
                           j / N_OUT, j % N_OUT, (double)y[j]);
            }
            free(packed);
            problem_free(&p);
        }
    }
}

/* The definition itself: products of these whole numbers are about those of the numbers. */
static void is_the_product(const struct lk_cpu *t)
{
    struct lk_cols cols;
    struct problem p;
    check_even_cols(&cols, 500, 3, 32);
    problem_new(&p, &cols, 20, 50);
    check_fill(p.a, p.n_row * cols.n_col, -1, 1);
    check_fill(p.w, p.n_out * cols.n_col, -1, 1);
    for (int64_t i = 0; i < p.n_row; i++)
        p.a[i * cols.n_col + check_random() % cols.n_col] = 50; /* a column far larger than the others */
    problem_act(&p, t);
    double error = 0, size = 0;
    for (int64_t at = 0; at < p.n_row * p.n_out; at++) {
        double want = 0;
        for (int64_t k = 0; k < cols.n_col; k++)
            want += (double)p.a[at / p.n_out * cols.n_col + k] * (double)p.w[at % p.n_out * cols.n_col + k];
        double off = (double)value_of(&p, at / p.n_out, at % p.n_out) - want;
        error += off * off;
        size += want * want;
    }
    check_that(error < 4e-4 * size, t, "int8", "relative error %g", sqrt(error / size));
    problem_free(&p);
}

void check_int8(const struct lk_cpu *t)
{
    static const int64_t odd[][LK_MAX_SEG + 1] = {{0, 5, 5, 70}, {0, 33, 64, 65, 200}, {0, 0, 31, 32, 32}};
    static const int odd_n[] = {3, 4, 4}, seg_of[] = {1, 2, 3, 4, 8, 16};
    static const int64_t out_of[] = {1, 16, 31, 32, 33, 64, 100}, row_of[] = {100, 512};
    struct lk_cols cols, out_cols;
    for (int64_t n_row = 1; n_row <= 72; n_row += n_row < 70 ? check_cases : 1) {
        struct problem p;
        if (n_row % 4 == 0)
            check_cols(&cols, odd_n[n_row / 4 % 3], odd[n_row / 4 % 3]);
        else
            check_even_cols(&cols, 20 + n_row * 7, seg_of[n_row % 6], 32);
        problem_new(&p, &cols, n_row <= 70 ? n_row : row_of[n_row - 71], out_of[n_row % 7]);
        problem_act(&p, t);
        store_and_add(t, &p);
        if (n_row % 3 == 0 || n_row > 70) {
            struct adapter adapter;
            adapter_new(&p, &adapter, t);
            store_and_add(t, &p);
            adapter_free(&adapter);
        }
        problem_free(&p);
        if (n_row % 5 > 1)
            continue;
        int64_t ffn = 1 + n_row * 5 % 97;
        problem_new(&p, &cols, n_row, 2 * ffn);
        check_fill(p.a, n_row * cols.n_col, -3, 3);
        check_fill(p.w, p.n_out * cols.n_col, -1, 1);
        problem_act(&p, t);
        check_even_cols(&out_cols, ffn, 1 + (int)(n_row % 4), n_row % 3 ? 32 : 7);
        swiglu(t, &p, &out_cols);
        problem_free(&p);
    }
    not_finite(t, &cols);
    is_the_product(t);
}
