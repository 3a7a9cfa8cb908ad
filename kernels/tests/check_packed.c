/* Products of packed weights: the bits of the same set's product of the numbers that the codes stand for, packed plain.
 * Those numbers are made here, in double by the formats' formulas: every term is exact there, and rounded once. */
#include "kernels/tests/check_codes.h"

/* y as words, NaN all alike. */
static uint32_t bits_of(float x)
{
    return x != x ? 0x7fc00000u : lk_bits(x);
}

struct pair {
    const float *got, *want;
    const char *what;
};

static void same(const struct lk_cpu *t, const struct check_matrix *x, const struct pair *p, int64_t n)
{
    const float *got = p->got, *want = p->want;
    for (int64_t i = 0; i < n; i++)
        if (bits_of(got[i]) != bits_of(want[i])) {
            check_that(0, t, "packed", "%s %s, %lld of %lld columns, number %lld: %a, not %a",
                       check_kind_name[x->q.kind], p->what, (long long)x->n_out, (long long)x->cols.n_col, (long long)i,
                       (double)got[i], (double)want[i]);
            return;
        }
    check_that(1, t, "packed", "same");
}

/* An adapter of half of the rows, what it adds behind each segment made up. */
struct adapter {
    struct lk_lora_pair pair;
    struct lk_lora lora;
    struct lk_lora_strip *strip;
    int32_t *of_row;
    void *b;
};

static struct adapter adapter_new(const struct lk_cpu *t, const struct check_matrix *x, int64_t n_row)
{
    int64_t n_strip = lk_ceil_div(x->n_out, t->panel_cols) * t->panel_cols / LK_LORA_STRIP, u_ld = 8 * x->cols.n_seg;
    struct adapter d = {.strip = check_new((size_t)n_strip, sizeof *d.strip),
                        .of_row = check_new((size_t)n_row, sizeof *d.of_row),
                        .b = check_new((size_t)(n_strip * 64), t->type == LK_F32 ? 4 : 2)};
    float *u = check_new((size_t)(n_row * u_ld), sizeof *u);
    check_fill(u, n_row * u_ld, -1, 1);
    for (int64_t i = 0; i < n_strip; i++)
        d.strip[i] = (struct lk_lora_strip){0, 8, i * 64};
    for (int64_t i = 0; i < n_row; i++)
        d.of_row[i] = i % 2 ? -1 : 0;
    for (int64_t i = 0; i < n_strip * 64; i++) {
        float v = check_uniform(-1, 1);
        uint16_t half = lk_round(v);
        memcpy((char *)d.b + i * (t->type == LK_F32 ? 4 : 2), t->type == LK_F32 ? (void *)&v : &half,
               t->type == LK_F32 ? 4 : 2);
    }
    d.pair = (struct lk_lora_pair){NULL, d.b, d.strip, NULL, 8};
    d.lora = (struct lk_lora){NULL, d.of_row, u, u_ld, 0};
    return d;
}

static void adapter_free(struct adapter *d)
{
    free(d->strip);
    free(d->of_row);
    free(d->b);
    free(d->lora.u);
}

static void store_and_add(const struct lk_cpu *t, const struct check_matrix *x, const struct lk_act *a)
{
    int64_t n = a->n_row * x->n_out;
    float *bias = check_new((size_t)x->n_out, sizeof *bias);
    float *got = check_new((size_t)n, sizeof *got), *want = check_new((size_t)n, sizeof *want);
    void *plain = check_pack(t, x->w, x->n_out, &x->cols, 0), *packed = check_pack_codes(t, x, 0);
    struct adapter adapter = adapter_new(t, x, a->n_row);
    adapter.lora.pair = &adapter.pair;
    check_fill(bias, x->n_out, -1, 1);
    for (int add = 0; add < 2; add++) {
        struct lk_linear args = {.a = *a,
                                 .w = plain,
                                 .n_out = x->n_out,
                                 .epilogue = add ? LK_EP_ADD : LK_EP_STORE,
                                 .bias = add ? bias : NULL,
                                 .lora = a->n_row % 3 ? NULL : &adapter.lora,
                                 .y = want,
                                 .y_ld = x->n_out,
                                 .l2_bytes = 1 + check_random() % 600000,
                                 .skip_items = check_random() % 99,
                                 .near_rows = check_random() % 2};
        CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
        args.w = packed;
        args.q = &x->q;
        args.y = got;
        CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
        same(t, x, &(struct pair){got, want, add ? "added" : "stored"}, n);
    }
    adapter_free(&adapter);
    free(bias);
    free(got);
    free(want);
    free(plain);
    free(packed);
}

static void swiglu(const struct lk_cpu *t, const struct check_matrix *x, const struct lk_act *a)
{
    int64_t ffn = x->n_out / 2;
    struct lk_cols out_cols;
    check_even_cols(&out_cols, ffn, 3, 32);
    struct lk_act got = check_act(t, a->n_row, &out_cols), want = check_act(t, a->n_row, &out_cols);
    float *g = check_new((size_t)ffn, sizeof *g), *w = check_new((size_t)ffn, sizeof *w);
    void *plain = check_pack(t, x->w, x->n_out, &x->cols, 1), *packed = check_pack_codes(t, x, 1);
    struct lk_linear args = {.a = *a, .w = plain, .n_out = x->n_out, .epilogue = LK_EP_SWIGLU, .out = want};
    CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
    args.w = packed;
    args.q = &x->q;
    args.out = got;
    CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
    for (int64_t i = 0; i < a->n_row; i++) {
        t->act_row(&got, i, g);
        t->act_row(&want, i, w);
        same(t, x, &(struct pair){g, w, "swiglu"}, ffn);
    }
    free(got.data);
    free(want.data);
    free(g);
    free(w);
    free(plain);
    free(packed);
}

static void head(const struct lk_cpu *t, const struct check_matrix *x, const struct lk_act *a)
{
    int64_t n = a->n_row * x->n_out, n_block = lk_ceil_div(x->n_out, LK_HEAD_BLOCK);
    float *logits[2] = {check_new((size_t)n, sizeof(float)), check_new((size_t)n, sizeof(float))};
    float **row = check_new((size_t)a->n_row, sizeof *row);
    struct lk_best *best[2];
    void *w[2] = {check_pack(t, x->w, x->n_out, &x->cols, 0), check_pack_codes(t, x, 0)};
    for (int i = 0; i < 2; i++) {
        best[i] = check_new((size_t)(a->n_row * n_block), sizeof *best[i]);
        for (int64_t r = 0; r < a->n_row; r++)
            row[r] = r % 3 == 1 ? NULL : logits[i] + r * x->n_out;
        struct lk_linear args = {.a = *a,
                                 .w = w[i],
                                 .q = i ? &x->q : NULL,
                                 .n_out = x->n_out,
                                 .epilogue = LK_EP_HEAD,
                                 .best = best[i],
                                 .logits = row};
        CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
    }
    same(t, x, &(struct pair){logits[1], logits[0], "logits"}, n);
    for (int64_t i = 0; i < a->n_row * n_block; i++)
        check_that(best[0][i].id == best[1][i].id && bits_of(best[0][i].value) == bits_of(best[1][i].value) &&
                       best[0][i].finite == best[1][i].finite,
                   t, "packed", "%s: another best logit", check_kind_name[x->q.kind]);
    for (int i = 0; i < 2; i++) {
        free(logits[i]);
        free(best[i]);
        free(w[i]);
    }
    free(row);
}

static void products(const struct lk_cpu *t, const struct check_matrix *x, int64_t n_row)
{
    float *values = check_new((size_t)(n_row * x->cols.n_col), sizeof *values);
    struct lk_act a = check_random_act(t, n_row, &x->cols, values);
    store_and_add(t, x, &a);
    if (n_row % 3 == 0 && x->n_out % 2 == 0)
        swiglu(t, x, &a);
    if (n_row % 3 == 1)
        head(t, x, &a);
    free(a.data);
    free(values);
}

static void fits(const struct lk_cpu *t)
{
    struct lk_cols cols;
    int64_t begin[] = {0, 48, 96};
    check_cols(&cols, 2, begin);
    struct lk_packed q = {LK_PK_S4, LK_SC_F16, 32, 0};
    check_that(!lk_packed_fits(&q, &cols), t, "packed", "a segment begins inside a group");
    q.first = 16;
    check_that(!lk_packed_fits(&q, &cols), t, "packed", "the first segment begins inside a group");
    q = (struct lk_packed){LK_PK_K6, LK_SC_F16, 256, 16};
    check_that(lk_packed_fits(&q, &cols), t, "packed", "a subgroup of 16");
    q = (struct lk_packed){LK_PK_Z4, LK_SC_BF16, 100, 5};
    check_that(!lk_packed_fits(&q, &cols), t, "packed", "groups are no multiple of 32");
    q.group = 101;
    check_that(lk_packed_fits(&q, &cols), t, "packed", "one group for a row");
    q.scale = LK_SC_F32;
    check_that(!lk_packed_fits(&q, &cols), t, "packed", "integers times f32");
    q = (struct lk_packed){LK_PK_E4M3, LK_SC_F32, 1000, 0};
    check_that(lk_packed_fits(&q, &cols), t, "packed", "FP8 times f32");
}

/* More columns than a set may keep of its rows in another order (amx: 8,192 of 16 rows). */
static void long_rows(const struct lk_cpu *t)
{
    const struct lk_packed q = {LK_PK_S8, LK_SC_F16, 32, 0};
    const int64_t begin[] = {0, 4128, 8800};
    struct lk_cols cols;
    struct check_matrix x;
    check_cols(&cols, 2, begin);
    check_matrix_new(&x, &q, &cols, 33, false);
    products(t, &x, 14);
    check_matrix_free(&x);
}

void check_packed(const struct lk_cpu *t)
{
    static const int64_t out_of[] = {1, 16, 30, 33, 64, 78, 100}, many[] = {97, 130, 200, 300};
    const bool ref = strcmp(t->name, "ref") == 0;
    fits(t);
    long_rows(t);
    for (int kind = LK_PK_S4; kind <= LK_PK_E4M3; kind++) {
        /* no divisor of what i decides; the reference unpacks at each product, and takes five times as long */
        const int64_t step = check_every > 1 ? 13 : ref ? lk_min(4 * check_cases - 3, 5) : lk_min(check_cases, 5);
        for (int64_t i = 1 + kind % step; i <= 74; i += step) {
            struct lk_packed q;
            struct lk_cols cols;
            struct check_matrix x;
            check_random_packing(&q, (enum lk_packing)kind);
            check_random_cols(&cols, &q, i % 8 == 0 ? 1500 : 300);
            check_that(lk_packed_fits(&q, &cols), t, "packed", "%s does not fit", check_kind_name[kind]);
            check_matrix_new(&x, &q, &cols, i % 16 == 1 ? 300 : out_of[i % 7], i % 10 == 9);
            products(t, &x, i <= 70 ? i : many[i - 71]);
            check_matrix_free(&x);
        }
    }
}
