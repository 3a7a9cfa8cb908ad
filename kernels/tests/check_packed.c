/* Products of packed weights: the bits of the same set's product of the numbers that the codes stand for, packed plain.
 * Those numbers are made here, in double by the formats' formulas: every term is exact there, and rounded once. */
#include "kernels/tests/check.h"

static const char *const kind_name[] = {"S4", "A4", "Z4", "K4", "K6", "S8", "Z8", "E4M3"};

struct matrix {
    struct lk_packed q;
    struct lk_cols cols;
    int64_t n_out, n_group, n_sub;
    uint8_t *code, *z, *sc, *mn; /* [n_out, n_col], [n_out, n_group], [n_out, n_sub] twice */
    uint32_t *d, *m;             /* [n_out, n_group] numbers of the scale's type */
    double *d_is, *m_is;         /* [n_out, n_group] what they stand for */
    float *w;                    /* [n_out, n_col] */
};

static double half(uint32_t h)
{
    int exponent = (int)(h >> 10 & 31);
    double size = exponent == 0    ? ldexp(h & 1023, -24)
                  : exponent == 31 ? INFINITY
                                   : ldexp((h & 1023) + 1024, exponent - 25);
    return h >> 15 & 1 ? -size : size;
}

static double scale(enum lk_scale type, uint32_t bits)
{
    return type == LK_SC_F16 ? half(bits) : (double)lk_float(type == LK_SC_BF16 ? bits << 16 : bits);
}

static double e4m3(unsigned q)
{
    int exponent = (int)(q >> 3 & 15);
    double size = exponent == 0 ? ldexp(q & 7, -9) : ldexp((q & 7) + 8, exponent - 10);
    size = (q & 127) == 127 ? NAN : size;
    return q & 128 ? -size : size;
}

static double formula(const struct matrix *x, int64_t j, int64_t k)
{
    const struct lk_packed *f = &x->q;
    int64_t n = f->kind == LK_PK_K6 ? 16 : 32, at = j * x->n_group + (f->first + k) / f->group - f->first / f->group;
    int64_t sub = j * x->n_sub + (f->first + k) / n - f->first / n;
    unsigned code = x->code[j * x->cols.n_col + k];
    double q = code, d = x->d_is[at];
    switch (f->kind) {
    case LK_PK_S4:
        return (q - 8) * d;
    case LK_PK_A4:
        return q * d + x->m_is[at];
    case LK_PK_K4:
        return d * x->sc[sub] * q - x->m_is[at] * x->mn[sub];
    case LK_PK_K6:
        return d * (int8_t)x->sc[sub] * (q - 32);
    case LK_PK_S8:
        return (q - 128) * d;
    case LK_PK_Z4:
    case LK_PK_Z8:
        return (q - x->z[at]) * d;
    default:
        return e4m3(code) * d;
    }
}

/* A scale as files have them: between 2^-14 and 2^-6, now and then zero, subnormal in f16, or far off. */
static uint32_t random_scale(enum lk_scale type, bool far)
{
    uint32_t r = check_random(), sign = r >> 7 & 1, pick = r % 64;
    if (type == LK_SC_F16)
        return sign << 15 | (far && pick == 0 ? 0x7c00
                             : pick == 1      ? 0
                             : pick == 2      ? r >> 8 & 1023
                                              : 1024 + (r >> 8) % 8192);
    uint32_t top = 0x3880 + (r >> 8) % 0x400; /* the upper half of 2^-14 and on */
    if (far && pick < 4)
        top = pick == 0 ? 0x7f00 : pick == 1 ? 0x0010 : pick == 2 ? 0x7f80 : 0x0400;
    top = pick == 5 ? 0 : top | sign << 15;
    return type == LK_SC_BF16 ? top : top << 16 | (check_random() & 0xffff);
}

/* In some outputs numbers whose first 16 bits and last one of 24 are set: where a quick way to round to 8 bits fails.
 */
static void put_odd_numbers(struct matrix *x)
{
    const struct lk_packed *f = &x->q;
    const bool fp8 = f->kind == LK_PK_E4M3 && f->scale == LK_SC_F32;
    if (!fp8 && (f->scale != LK_SC_F16 || (f->kind != LK_PK_A4 && f->kind != LK_PK_K4)))
        return;
    for (int64_t j = 0; j < x->n_out; j += 3) {
        for (int64_t g = j * x->n_group; g < (j + 1) * x->n_group; g++) {
            x->d[g] = fp8 ? 0x3b7fff01 + check_random() % 64 * 2 : 0x0426; /* 15 d + (2 - 2^-10) is 0x3fffff1d */
            x->m[g] = f->kind == LK_PK_A4 ? 0x3fff : 0xbfff;
        }
        memset(x->sc + j * x->n_sub, 1, (size_t)x->n_sub);
        memset(x->mn + j * x->n_sub, 1, (size_t)x->n_sub);
        for (int64_t k = j * x->cols.n_col; k < (j + 1) * x->cols.n_col; k += 2)
            x->code[k] = fp8 ? 0x38 : 15;
    }
}

static void matrix_new(struct matrix *x, const struct lk_packed *q, const struct lk_cols *cols, int64_t n_out, bool far)
{
    int64_t n = q->kind == LK_PK_K6 ? 16 : 32, k = cols->n_col;
    *x = (struct matrix){.q = *q, .cols = *cols, .n_out = n_out};
    x->n_group = (q->first + k - 1) / q->group - q->first / q->group + 1;
    x->n_sub = (q->first + k - 1) / n - q->first / n + 1;
    x->code = check_new((size_t)(n_out * k), 1);
    x->z = check_new((size_t)(n_out * x->n_group), 1);
    x->sc = check_new((size_t)(n_out * x->n_sub), 1);
    x->mn = check_new((size_t)(n_out * x->n_sub), 1);
    x->d = check_new((size_t)(n_out * x->n_group), sizeof *x->d);
    x->m = check_new((size_t)(n_out * x->n_group), sizeof *x->m);
    x->d_is = check_new((size_t)(n_out * x->n_group), sizeof *x->d_is);
    x->m_is = check_new((size_t)(n_out * x->n_group), sizeof *x->m_is);
    x->w = check_new((size_t)(n_out * k), sizeof *x->w);
    unsigned bits = q->kind == LK_PK_K6 ? 6 : q->kind >= LK_PK_S8 ? 8 : 4;
    for (int64_t i = 0; i < n_out * k; i++) {
        x->code[i] = (uint8_t)(check_random() >> 4 & ((1u << bits) - 1));
        if (q->kind == LK_PK_E4M3 && (x->code[i] & 127) == 127 && (!far || check_random() % 8))
            x->code[i] ^= 1;
    }
    for (int64_t i = 0; i < n_out * x->n_group; i++) {
        x->z[i] = (uint8_t)(check_random() >> 4 & ((1u << bits) - 1));
        x->d[i] = random_scale(q->scale, far);
        x->m[i] = random_scale(q->scale, far);
    }
    for (int64_t i = 0; i < n_out * x->n_sub; i++) {
        x->sc[i] = (uint8_t)(check_random() >> 4 & (q->kind == LK_PK_K6 ? 255 : 63));
        x->mn[i] = (uint8_t)(check_random() >> 4 & 63);
    }
    if (n_out % 10 == 0)
        put_odd_numbers(x);
    for (int64_t i = 0; i < n_out * x->n_group; i++) {
        x->d_is[i] = scale(q->scale, x->d[i]);
        x->m_is[i] = scale(q->scale, x->m[i]);
    }
    for (int64_t i = 0; i < n_out * k; i++)
        x->w[i] = (float)formula(x, i / k, i % k);
}

static void matrix_free(struct matrix *x)
{
    free(x->code);
    free(x->z);
    free(x->sc);
    free(x->mn);
    free(x->d);
    free(x->m);
    free(x->d_is);
    free(x->m_is);
    free(x->w);
}

static void *pack_codes(const struct lk_cpu *t, const struct matrix *x, int gate_up)
{
    int64_t pc = t->panel_cols, size = x->q.scale == LK_SC_F32 ? 4 : 2;
    size_t bytes = t->packed_bytes(&x->q, x->n_out, &x->cols);
    void *to = check_new(bytes, 1);
    struct lk_codes *col = check_new((size_t)pc, sizeof *col);
    /* numbers of two bytes stand close together, as the kernel reads them */
    uint8_t *d = check_new((size_t)(x->n_out * x->n_group), 4), *m = check_new((size_t)(x->n_out * x->n_group), 4);
    for (int64_t i = 0; i < x->n_out * x->n_group; i++) {
        memcpy(d + i * size, &x->d[i], (size_t)size);
        memcpy(m + i * size, &x->m[i], (size_t)size);
    }
    memset(to, 0xff, bytes);
    for (int64_t p = 0; p * pc < x->n_out; p++) {
        for (int64_t j = 0; j < pc; j++) {
            int64_t row = p * pc + j, end = x->n_out;
            if (gate_up) {
                row = (j < pc / 2 ? 0 : x->n_out / 2) + p * (pc / 2) + j % (pc / 2);
                end = j < pc / 2 ? x->n_out / 2 : x->n_out;
            }
            col[j] = (struct lk_codes){.q = NULL};
            if (row < end)
                col[j] = (struct lk_codes){x->code + row * x->cols.n_col, d + row * x->n_group * size,
                                           m + row * x->n_group * size,   x->z + row * x->n_group,
                                           x->sc + row * x->n_sub,        x->mn + row * x->n_sub};
        }
        struct lk_pack_codes args = {to, p, col, &x->q, &x->cols};
        t->pack_codes(&args);
    }
    free(col);
    free(d);
    free(m);
    return to;
}

/* y as words, NaN all alike. */
static uint32_t bits_of(float x)
{
    return x != x ? 0x7fc00000u : lk_bits(x);
}

struct pair {
    const float *got, *want;
    const char *what;
};

static void same(const struct lk_cpu *t, const struct matrix *x, const struct pair *p, int64_t n)
{
    const float *got = p->got, *want = p->want;
    for (int64_t i = 0; i < n; i++)
        if (bits_of(got[i]) != bits_of(want[i])) {
            check_that(0, t, "packed", "%s %s, %lld of %lld columns, number %lld: %a, not %a", kind_name[x->q.kind],
                       p->what, (long long)x->n_out, (long long)x->cols.n_col, (long long)i, (double)got[i],
                       (double)want[i]);
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

static struct adapter adapter_new(const struct lk_cpu *t, const struct matrix *x, int64_t n_row)
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

static void store_and_add(const struct lk_cpu *t, const struct matrix *x, const struct lk_act *a)
{
    int64_t n = a->n_row * x->n_out;
    float *bias = check_new((size_t)x->n_out, sizeof *bias);
    float *got = check_new((size_t)n, sizeof *got), *want = check_new((size_t)n, sizeof *want);
    void *plain = check_pack(t, x->w, x->n_out, &x->cols, 0), *packed = pack_codes(t, x, 0);
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

static void swiglu(const struct lk_cpu *t, const struct matrix *x, const struct lk_act *a)
{
    int64_t ffn = x->n_out / 2;
    struct lk_cols out_cols;
    check_even_cols(&out_cols, ffn, 3, 32);
    struct lk_act got = check_act(t, a->n_row, &out_cols), want = check_act(t, a->n_row, &out_cols);
    float *g = check_new((size_t)ffn, sizeof *g), *w = check_new((size_t)ffn, sizeof *w);
    void *plain = check_pack(t, x->w, x->n_out, &x->cols, 1), *packed = pack_codes(t, x, 1);
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

static void head(const struct lk_cpu *t, const struct matrix *x, const struct lk_act *a)
{
    int64_t n = a->n_row * x->n_out, n_block = lk_ceil_div(x->n_out, LK_HEAD_BLOCK);
    float *logits[2] = {check_new((size_t)n, sizeof(float)), check_new((size_t)n, sizeof(float))};
    float **row = check_new((size_t)a->n_row, sizeof *row);
    struct lk_best *best[2];
    void *w[2] = {check_pack(t, x->w, x->n_out, &x->cols, 0), pack_codes(t, x, 0)};
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
                   t, "packed", "%s: another best logit", kind_name[x->q.kind]);
    for (int i = 0; i < 2; i++) {
        free(logits[i]);
        free(best[i]);
        free(w[i]);
    }
    free(row);
}

static void products(const struct lk_cpu *t, const struct matrix *x, int64_t n_row)
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

/* Cuts that begin where groups do, counted from column `first` of the tensor: multiples of 32 (16 for K6), except that
 * a scale of a whole row allows any. */
static void random_cols(struct lk_cols *cols, const struct lk_packed *q, int64_t most)
{
    int64_t begin[LK_MAX_SEG + 1] = {0}, unit = q->kind == LK_PK_K6 ? 16 : q->group > 100000 ? 1 : 32;
    int n_seg = 1 + (int)(check_random() % 5);
    for (int s = 1; s < n_seg; s++) {
        int64_t at = begin[s - 1] + unit * (check_random() % (uint32_t)(most / unit / n_seg + 1));
        begin[s] = at;
    }
    begin[n_seg] = begin[n_seg - 1] + 1 + check_random() % (uint32_t)(most / n_seg);
    check_cols(cols, n_seg, begin);
}

static void random_packing(struct lk_packed *q, enum lk_packing kind)
{
    static const int64_t groups[] = {32, 64, 128, 1 << 20};
    bool k = kind == LK_PK_K4 || kind == LK_PK_K6;
    *q = (struct lk_packed){kind, LK_SC_F16, k ? 256 : groups[check_random() % 4], 0};
    if (!k)
        q->scale = (enum lk_scale)(check_random() % (kind == LK_PK_E4M3 ? 3 : 2));
    if (check_random() % 2)
        q->first = (kind == LK_PK_K6 ? 16 : 32) * (check_random() % 20);
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
    struct matrix x;
    check_cols(&cols, 2, begin);
    matrix_new(&x, &q, &cols, 33, false);
    products(t, &x, 14);
    matrix_free(&x);
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
            struct matrix x;
            random_packing(&q, (enum lk_packing)kind);
            random_cols(&cols, &q, i % 8 == 0 ? 1500 : 300);
            check_that(lk_packed_fits(&q, &cols), t, "packed", "%s does not fit", kind_name[kind]);
            matrix_new(&x, &q, &cols, i % 16 == 1 ? 300 : out_of[i % 7], i % 10 == 9);
            products(t, &x, i <= 70 ? i : many[i - 71]);
            matrix_free(&x);
        }
    }
}
