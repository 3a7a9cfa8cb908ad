/* Products of weights of 4 bits by activations of 8 against the definition in kernels/args_w4a8.h, from the codes as
 * they were before they were packed, whole numbers in 64 bits: the same bits in every set, whatever stands beside a row
 * and however items are cut. */
#include "kernels/tests/check_codes.h"

struct problem {
    struct check_matrix x;
    int64_t n_row;
    float *a, *bias;   /* [n_row, n_col] as the set has them, [n_out] */
    struct lk_act act; /* the same */
    float *want;       /* [n_row, n_out] */
};

/* Half a block of a row. */
struct piece {
    int8_t q[16];
    float s;
};

static struct piece piece_of(const float *x, int64_t n)
{
    struct piece p = {.s = 0};
    float most = 0;
    for (int64_t k = 0; k < n; k++) {
        if (!isfinite(x[k]))
            return (struct piece){.s = NAN};
        most = fmaxf(most, fabsf(x[k]));
    }
    if (most < 0x1p-120f)
        return p;
    p.s = most / 127.0f;
    for (int64_t k = 0; k < n; k++)
        p.q[k] = (int8_t)nearbyintf(x[k] * (127.0f / most));
    return p;
}

/* What output j makes of a run's p and u, whose last column is k. */
static float add_run(const struct check_matrix *x, int64_t j, int64_t k, const float run[2], float sum)
{
    const struct lk_packed *f = &x->q;
    const int64_t at = f->first + k, g = j * x->n_group + at / f->group - f->first / f->group;
    const int64_t sub = j * x->n_sub + at / 32 - f->first / 32;
    const float d = (float)x->d_is[g], m = (float)x->m_is[g];
    switch (f->kind) {
    case LK_PK_S4:
        return fmaf(run[0], d, sum);
    case LK_PK_K4:
        return fmaf(-(m * (float)x->mn[sub]), run[1], fmaf(run[0], d * (float)x->sc[sub], sum));
    case LK_PK_A4:
        return fmaf(m, run[1], fmaf(run[0], d, sum));
    default:
        return fmaf(-(d * (float)x->z[g]), run[1], fmaf(run[0], d, sum));
    }
}

static float segment_of(const struct problem *p, int64_t i, int64_t j, int s)
{
    const struct lk_cols *c = &p->x.cols;
    const struct lk_packed *f = &p->x.q;
    const int64_t size = f->kind == LK_PK_K4 ? 32 : f->group;
    float sum = 0, run[2] = {0, 0};
    for (int64_t k = c->begin[s], end; k < c->begin[s + 1]; k = end) {
        float scaled[2] = {0, 0};
        end = lk_min(k + 32, c->begin[s + 1]);
        for (int64_t from = k; from < end; from += 16) {
            const int64_t n = lk_min(16, end - from);
            const struct piece half = piece_of(p->a + i * c->n_col + from, n);
            int64_t dot = 0, all = 0;
            for (int64_t at = 0; at < n; at++) {
                dot += (p->x.code[j * c->n_col + from + at] - (f->kind == LK_PK_S4 ? 8 : 0)) * half.q[at];
                all += half.q[at];
            }
            run[0] = fmaf((float)dot, half.s, run[0]);
            scaled[(from - k) / 16] = half.s * (float)all;
        }
        run[1] += scaled[0] + scaled[1];
        if (end < c->begin[s + 1] && (f->first + k) / size == (f->first + end) / size)
            continue;
        sum = add_run(&p->x, j, end - 1, run, sum);
        run[0] = run[1] = 0;
    }
    return sum;
}

static float value_of(const struct problem *p, int64_t i, int64_t j)
{
    const struct lk_cols *c = &p->x.cols;
    float part[LK_MAX_SEG] = {0};
    for (int s = 0; s < c->n_seg; s++)
        part[s] = segment_of(p, i, j, s);
    return check_tree(c, part);
}

/* Numbers of all sizes, blocks of nothing, of halves between whole numbers, and far too small ones. */
static void fill(float *x, int64_t n)
{
    int kind = 0;
    for (int64_t k = 0; k < n; k++) {
        if (k % 16 == 0)
            kind = check_random() % 8;
        float v = check_uniform(-1, 1);
        x[k] = kind == 0   ? 0
               : kind == 1 ? v * 0x1p-121f
               : kind == 2 ? (float)(int)(v * 254) / 2
               : kind == 3 ? v * v * v * 1e20f
                           : v;
    }
}

static void problem_new(struct problem *p, const struct lk_cpu *t, const struct lk_packed *q,
                        const struct lk_cols *cols, int64_t n_row, int64_t n_out)
{
    const int64_t n = cols->n_col;
    *p = (struct problem){.n_row = n_row};
    check_matrix_new(&p->x, q, cols, n_out, false);
    p->a = check_new((size_t)(n_row * n), sizeof *p->a);
    p->bias = check_new((size_t)n_out, sizeof *p->bias);
    fill(p->a, n_row * n);
    check_fill(p->bias, n_out, -1, 1);
    for (int64_t k = 2 * n; k < 3 * n && n_row > 2; k++)
        p->a[k] = check_uniform(-1, 1) * 0x1p-121f; /* too small to count */
    if (n_row > 4)
        p->a[3 * n + check_random() % n] = check_random() % 2 ? NAN : -INFINITY;
    p->act = check_act(t, n_row, cols);
    struct lk_round args = {p->act, p->a, n};
    t->round(&args, 0, n_row);
    for (int64_t i = 0; i < n_row; i++)
        t->act_row(&p->act, i, p->a + i * n);
    p->want = check_new((size_t)(n_row * n_out), sizeof *p->want);
    for (int64_t at = 0; at < n_row * n_out; at += check_every)
        p->want[at] = value_of(p, at / n_out, at % n_out);
}

static void problem_free(struct problem *p)
{
    check_matrix_free(&p->x);
    free(p->a);
    free(p->bias);
    free(p->act.data);
    free(p->want);
}

static void *pack(const struct lk_cpu *t, const struct problem *p, int gate_up)
{
    struct lk_cpu as = *t;
    as.pack_codes = t->w4a8.pack_codes;
    return check_pack_codes(&as, &p->x, gate_up);
}

static void multiply(const struct lk_cpu *t, const struct problem *p, struct lk_linear *args)
{
    const struct lk_cols *c = &p->x.cols;
    size_t bytes = t->w4a8.act_bytes(p->n_row, c);
    check_that(bytes == (size_t)p->n_row * t->w4a8.act_bytes(1, c), t, "w4a8", "bytes of a row");
    struct lk_quantize quantize = {check_new(bytes, 1), p->act};
    memset(quantize.q, 0xff, bytes);
    CHECK_SPLIT(t->w4a8.quantize, &quantize, t->w4a8.quantize_items(&quantize));
    args->a = (struct lk_act){quantize.q, p->n_row, c};
    args->q = &p->x.q;
    args->n_out = p->x.n_out;
    args->l2_bytes = 1 + check_random() % 65536;
    args->skip_items = check_random() % 99;
    args->near_rows = check_random() % 2;
    CHECK_SPLIT(t->w4a8.linear, args, t->w4a8.linear_items(args));
    free(quantize.q);
}

static void store_and_add(const struct lk_cpu *t, const struct problem *p)
{
    const int64_t n_out = p->x.n_out, ld = n_out + 5, n = p->n_row * ld;
    float *y = check_new((size_t)n, sizeof *y), *z = check_new((size_t)n, sizeof *z);
    void *packed = pack(t, p, 0);
    struct lk_linear store = {.w = packed, .y = y, .y_ld = ld};
    struct lk_linear add = {.w = packed, .y = z, .y_ld = ld, .bias = p->bias, .epilogue = LK_EP_ADD};
    for (int64_t i = 0; i < n; i++)
        y[i] = z[i] = 7;
    multiply(t, p, &store);
    multiply(t, p, &add);
    for (int64_t at = 0; at < n; at++) {
        const int64_t i = at / ld, j = at % ld;
        if (j >= n_out) {
            check_that(y[at] == 7 && z[at] == 7, t, "w4a8", "numbers between the rows have changed");
            continue;
        }
        if ((i * n_out + j) % check_every != 0)
            continue;
        const float want = p->want[i * n_out + j], sum = 7.0f + (want + p->bias[j]);
        check_that(check_same_bits(y[at], want), t, "w4a8",
                   "%s, %lld columns, %lld rows, row %lld column %lld: %a, not %a", check_kind_name[p->x.q.kind],
                   (long long)p->x.cols.n_col, (long long)p->n_row, (long long)i, (long long)j, (double)y[at],
                   (double)want);
        check_that(check_same_bits(z[at], sum), t, "w4a8", "%s, added: %a, not %a", check_kind_name[p->x.q.kind],
                   (double)z[at], (double)sum);
    }
    free(packed);
    free(y);
    free(z);
}

/* Of gate and up what the set's own SwiGLU makes of the stored sums. */
static void swiglu(const struct lk_cpu *t, const struct problem *p)
{
    const int64_t ffn = p->x.n_out / 2;
    struct lk_cols out_cols;
    check_even_cols(&out_cols, ffn, 3, 32);
    struct lk_act out = check_act(t, p->n_row, &out_cols);
    float *got = check_new((size_t)ffn, sizeof *got);
    void *packed = pack(t, p, 1);
    struct lk_linear args = {.w = packed, .epilogue = LK_EP_SWIGLU, .bias = p->bias, .out = out};
    multiply(t, p, &args);
    for (int64_t i = 0; i < p->n_row; i++) {
        t->act_row(&out, i, got);
        for (int64_t j = i % check_every; j < ffn; j += check_every) {
            const double g = (double)(value_of(p, i, j) + p->bias[j]);
            const double u = (double)(value_of(p, i, ffn + j) + p->bias[ffn + j]), want = g / (1 + exp(-g)) * u;
            if (!(fabs(g) < 80) || !(fabs(want) < 1e30))
                continue;
            const double bound = (t->type == LK_F32 ? 0x1p-17 : CHECK_SWIGLU_BF16) * fabs(want) + 1e-30;
            check_that(fabs((double)got[j] - want) <= bound, t, "w4a8", "%s swiglu, row %lld column %lld: %g, not %g",
                       check_kind_name[p->x.q.kind], (long long)i, (long long)j, (double)got[j], want);
        }
    }
    free(got);
    free(packed);
    free(out.data);
}

/* What an adapter adds to a segment's sum: half of 1, 2 or 3. */
static void with_adapter(const struct lk_cpu *t, const struct problem *p)
{
    const int64_t n_out = p->x.n_out, u_ld = 8 * p->x.cols.n_seg;
    const int64_t n_strip = lk_ceil_div(n_out, t->panel_cols) * t->panel_cols / LK_LORA_STRIP;
    float *y = check_new((size_t)(p->n_row * n_out), sizeof *y);
    struct lk_lora_strip *strip = check_new((size_t)n_strip, sizeof *strip);
    int32_t *of_row = check_new((size_t)p->n_row, sizeof *of_row);
    float *u = check_new((size_t)(p->n_row * u_ld), sizeof *u);
    const size_t each = t->type == LK_F32 ? 4 : 2;
    char *b = check_new((size_t)(n_strip * 64), each);
    for (int64_t i = 0; i < n_strip; i++)
        strip[i] = (struct lk_lora_strip){0, 8, i * 64};
    for (int64_t i = 0; i < p->n_row; i++)
        of_row[i] = i % 3 == 1 ? -1 : 0;
    for (int64_t i = 0; i < p->n_row * u_ld; i++)
        u[i] = i % 8 == 0 ? (float)(1 + i / 8 % 3) : 0;     /* 1, 2 or 3 by segment */
    for (int64_t j = 0; j < n_strip * LK_LORA_STRIP; j++) { /* of rank 0 alone: 0.5 for every output */
        const float half = 0.5f;
        const uint16_t half16 = lk_round(half);
        memcpy(b + (size_t)(j / 8 * 64 + lk_lora_at(t->type, 8, 0, j % 8)) * each,
               t->type == LK_F32 ? (const void *)&half : &half16, each);
    }
    struct lk_lora_pair pair = {NULL, b, strip, NULL, 8};
    struct lk_lora lora = {&pair, of_row, u, u_ld, 0};
    void *packed = pack(t, p, 0);
    struct lk_linear args = {.w = packed, .y = y, .y_ld = n_out, .lora = &lora};
    multiply(t, p, &args);
    for (int64_t at = 0; at < p->n_row * n_out; at += check_every) {
        const int64_t i = at / n_out, j = at % n_out;
        const struct lk_cols *c = &p->x.cols;
        float part[LK_MAX_SEG] = {0};
        for (int s = 0; s < c->n_seg; s++)
            part[s] = segment_of(p, i, j, s) + (of_row[i] < 0 ? 0 : 0.5f * u[i * u_ld + 8 * s]);
        const float want = check_tree(c, part);
        check_that(check_same_bits(y[at], want) || y[at] == want, t, "w4a8", "%s, adapted: %a, not %a",
                   check_kind_name[p->x.q.kind], (double)y[at], (double)want);
    }
    free(packed);
    free(y);
    free(strip);
    free(of_row);
    free(u);
    free(b);
}

/* The definition itself: its products are about those of the numbers that codes stand for. */
static void is_the_product(const struct lk_cpu *t, enum lk_packing kind)
{
    const struct lk_packed q = {kind, LK_SC_F16, kind == LK_PK_K4 ? 256 : 64, 0};
    struct lk_cols cols;
    struct problem p;
    check_even_cols(&cols, 512, 2, 256);
    problem_new(&p, t, &q, &cols, 4, 50);
    check_fill(p.a, p.n_row * cols.n_col, -1, 1);
    double error = 0, size = 0;
    for (int64_t i = 0; i < p.n_row; i++) {
        p.a[i * cols.n_col + check_random() % cols.n_col] = 50; /* a column far larger than the others */
        for (int64_t j = 0; j < p.x.n_out; j++) {
            double want = 0;
            for (int64_t n = 0; n < cols.n_col; n++)
                want += (double)p.a[i * cols.n_col + n] * (double)p.x.w[j * cols.n_col + n];
            const double off = (double)value_of(&p, i, j) - want;
            error += off * off;
            size += want * want;
        }
    }
    check_that(error < 1e-3 * size, t, "w4a8", "%s: relative error %g", check_kind_name[kind], sqrt(error / size));
    problem_free(&p);
}

void check_w4a8(const struct lk_cpu *t)
{
    static const int64_t out_of[] = {1, 16, 30, 33, 64, 78, 100}, many[] = {97, 130, 200, 300};
    if (!t->w4a8.linear)
        return;
    for (int kind = LK_PK_S4; kind <= LK_PK_K4; kind++) {
        const int64_t step = check_every > 1 ? 13 : lk_min(check_cases, 5);
        is_the_product(t, (enum lk_packing)kind);
        for (int64_t i = 1 + kind % step; i <= 74; i += step) {
            struct lk_packed q;
            struct lk_cols cols;
            struct problem p;
            check_random_packing(&q, (enum lk_packing)kind);
            check_random_cols(&cols, &q, i % 8 == 0 ? 1500 : 300);
            problem_new(&p, t, &q, &cols, i <= 70 ? i : many[i - 71], out_of[i % 7]);
            store_and_add(t, &p);
            if (i % 3 == 0 && p.x.n_out % 2 == 0)
                swiglu(t, &p);
            if (i % 4 == 1)
                with_adapter(t, &p);
            problem_free(&p);
        }
    }
}
