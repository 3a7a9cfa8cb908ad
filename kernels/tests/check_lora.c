/* Adapters beside a product: bit for bit the leaf that kernels/args_lora.h tells, for rows of several adapters and of
 * none in one batch. The product's own numbers are small and whole, so that its sums are exact in any order. */
#include "kernels/tests/check.h"

#define N_PAIR 3
#define MOST_U 40

struct problem {
    const struct lk_cpu *t;
    struct lk_cols cols;
    int64_t n_row, n_out, n_strip;
    bool gate_up;
    float *x, *w; /* [n_row, n_col], [n_out, n_col] */
    struct lk_act act;
    void *packed;
    struct lk_lora_pair pair[N_PAIR];
    float *a[N_PAIR], *b[N_PAIR]; /* [n_u, n_col] and [n_out, n_u] as they are stored */
    struct lk_lora lora;
    int32_t *of_row, *row;
    int64_t n_adapted;
    float *u;               /* [n_row, n_seg, MOST_U] what a row is worth on its adapter's way down */
    int64_t *first[N_PAIR]; /* [n_out] the first number of u that an output row takes */
};

static void put(const struct lk_cpu *t, void *to, int64_t at, float x)
{
    if (t->type == LK_F32)
        ((float *)to)[at] = x;
    else
        ((uint16_t *)to)[at] = lk_round(x);
}

/* The source row of packed column j, -1: none. */
static int64_t source_of(const struct problem *p, int64_t j)
{
    int64_t pc = p->t->panel_cols, half = pc / 2, panel = j / pc, in = j % pc;
    if (!p->gate_up)
        return j < p->n_out ? j : -1;
    int64_t at = panel * half + in % half;
    return at < p->n_out / 2 ? (in < half ? 0 : p->n_out / 2) + at : -1;
}

static void new_pair(struct problem *p, int i, int32_t n_u)
{
    const struct lk_cpu *t = p->t;
    int64_t k = p->cols.n_col, n_k = lk_cols_packed(&p->cols);
    size_t elem = t->type == LK_F32 ? 4 : 2;
    float *a = check_new((size_t)(n_u * k), sizeof *a), *b = check_new((size_t)(p->n_out * n_u), sizeof *b);
    void *pa = check_new((size_t)(n_k * n_u), elem), *pb = check_new((size_t)(p->n_strip * (n_u + 1) * 8), elem);
    float *scale = check_new((size_t)n_u, sizeof *scale);
    struct lk_lora_strip *strip = check_new((size_t)p->n_strip, sizeof *strip);
    check_fill(scale, n_u, 0.25f, 3);
    for (int64_t j = 0; j < n_u * k; j++)
        a[j] = check_stored(t, check_uniform(-1, 1));
    for (int s = 0; s < p->cols.n_seg; s++)
        for (int64_t c = p->cols.begin[s]; c < p->cols.begin[s + 1]; c++)
            for (int64_t j = 0; j < n_u; j++)
                put(t, pa, lk_lora_at(t->type, n_u, p->cols.packed[s] + c - p->cols.begin[s], j), a[j * k + c]);
    for (int64_t q = 0, at = 0; q < p->n_strip; q++) {
        int32_t begin = (int32_t)(check_random() % (uint32_t)n_u), n = n_u - begin;
        if (q > 0 && check_random() % 4 != 0) { /* neighbors of one module take the same */
            begin = strip[q - 1].begin;
            n = n_u - begin;
        }
        strip[q] = (struct lk_lora_strip){begin, q % 5 == 3 ? 0 : n, at};
        for (int64_t j = 0; j < strip[q].n; j++)
            for (int64_t c = 0; c < 8; c++) {
                int64_t from = source_of(p, q * 8 + c);
                float x = from < 0 ? 0 : check_stored(t, check_uniform(-1, 1));
                put(t, pb, at + lk_lora_at(t->type, 8, j, c), x);
                if (from >= 0)
                    b[from * n_u + begin + j] = x;
            }
        at += (strip[q].n + 1) / 2 * 2 * 8;
    }
    p->a[i] = a;
    p->b[i] = b;
    p->pair[i] = (struct lk_lora_pair){pa, pb, strip, scale, n_u};
}

static float u_of(const struct problem *p, int64_t i, int of, int s, int64_t j)
{
    float sum[4] = {0};
    int64_t k = p->cols.n_col;
    for (int64_t c = p->cols.begin[s]; c < p->cols.begin[s + 1]; c++) {
        float x = p->x[i * k + c] * p->a[of][j * k + c];
        sum[(c - p->cols.begin[s]) % 4] += x;
    }
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) * p->pair[of].scale[j];
}

/* The first number of u that an output row takes. */
static int64_t begin_of(const struct problem *p, int of, int64_t row)
{
    for (int64_t c = 0; c < p->n_strip * 8; c++)
        if (source_of(p, c) == row)
            return p->pair[of].strip[c / 8].begin;
    return 0;
}

/* What every output is made of, once. */
static void know(struct problem *p)
{
    const int n_seg = p->cols.n_seg;
    p->u = check_new((size_t)(p->n_row * n_seg * MOST_U), sizeof *p->u);
    for (int64_t i = 0; i < p->n_row; i++)
        for (int s = 0; s < n_seg && p->of_row[i] >= 0; s++)
            for (int64_t q = 0; q < p->pair[p->of_row[i]].n_u; q++)
                p->u[(i * n_seg + s) * MOST_U + q] = u_of(p, i, p->of_row[i], s, q);
    for (int of = 0; of < 2; of++) {
        p->first[of] = check_new((size_t)p->n_out, sizeof *p->first[of]);
        for (int64_t j = 0; j < p->n_out; j++)
            p->first[of][j] = begin_of(p, of, j);
    }
}

static void problem_new(struct problem *p, int64_t n_row, int64_t n_out, bool gate_up)
{
    const struct lk_cpu *t = p->t;
    int64_t k = p->cols.n_col, n_panel = lk_ceil_div(n_out, t->panel_cols);
    p->n_row = n_row;
    p->n_out = n_out;
    p->gate_up = gate_up;
    p->n_strip = n_panel * t->panel_cols / 8;
    p->x = check_new((size_t)(n_row * k), sizeof *p->x);
    p->w = check_new((size_t)(n_out * k), sizeof *p->w);
    for (int64_t i = 0; i < n_row * k; i++)
        p->x[i] = (float)(check_random() % 9) - 4;
    for (int64_t i = 0; i < n_out * k; i++)
        p->w[i] = (float)(check_random() % 9) - 4;
    p->act = check_act(t, n_row, &p->cols);
    t->round(&(struct lk_round){p->act, p->x, k}, 0, n_row);
    p->packed = check_pack(t, p->w, n_out, &p->cols, gate_up);
    new_pair(p, 0, 8);
    new_pair(p, 1, MOST_U);
    p->pair[2] = (struct lk_lora_pair){0}; /* has nothing for this matrix */
    p->of_row = check_new((size_t)n_row, sizeof *p->of_row);
    p->row = check_new((size_t)n_row, sizeof *p->row);
    p->n_adapted = 0;
    for (int64_t i = 0; i < n_row; i++)
        p->of_row[i] = (int32_t)(check_random() % (N_PAIR + 1)) - 1;
    for (int32_t of = 0; of < 2; of++)
        for (int64_t i = 0; i < n_row; i++)
            if (p->of_row[i] == of)
                p->row[p->n_adapted++] = (int32_t)i;
    int64_t u_ld = MOST_U * p->cols.n_seg + 3;
    float *u = check_new((size_t)(n_row * u_ld), sizeof *u);
    p->lora = (struct lk_lora){p->pair, p->of_row, u, u_ld, 0};
    know(p);
}

static void problem_free(struct problem *p)
{
    for (int i = 0; i < 2; i++) {
        free(p->a[i]);
        free(p->b[i]);
        free((void *)p->pair[i].a);
        free((void *)p->pair[i].b);
        free((void *)p->pair[i].strip);
        free((void *)p->pair[i].scale);
        free(p->first[i]);
    }
    free(p->x);
    free(p->w);
    free(p->act.data);
    free(p->packed);
    free(p->of_row);
    free(p->row);
    free(p->lora.u);
    free(p->u);
}

static float want_of(const struct problem *p, int64_t i, int64_t j)
{
    float part[LK_MAX_SEG] = {0};
    int n = p->cols.n_seg, of = p->of_row[i];
    int64_t k = p->cols.n_col, first = of >= 0 && p->pair[of].n_u > 0 ? p->first[of][j] : 0;
    for (int s = 0; s < n; s++) {
        float delta[2] = {0};
        for (int64_t c = p->cols.begin[s]; c < p->cols.begin[s + 1]; c++)
            part[s] += p->x[i * k + c] * p->w[j * k + c];
        for (int64_t q = 0; of >= 0 && q < p->pair[of].n_u; q++) {
            float x = p->u[(i * n + s) * MOST_U + q] * p->b[of][j * p->pair[of].n_u + q];
            delta[(q - first) & 1] += x;
        }
        if (of >= 0 && p->pair[of].n_u > 0)
            part[s] += delta[0] + delta[1];
    }
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

static void stored(struct problem *p)
{
    const struct lk_cpu *t = p->t;
    float *y = check_new((size_t)(p->n_row * p->n_out), sizeof *y);
    struct lk_lora_down down = {p->act, p->lora, p->row};
    CHECK_SPLIT(t->lora_down, &down, p->n_adapted);
    struct lk_linear args = {
        .a = p->act, .w = p->packed, .lora = &p->lora, .n_out = p->n_out, .y = y, .y_ld = p->n_out};
    CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
    int64_t step = 1 + p->n_row * p->n_out * p->cols.n_col / 100000;
    for (int64_t at = 0; at < p->n_row * p->n_out; at += step) {
        float want = want_of(p, at / p->n_out, at % p->n_out);
        check_that(y[at] == want, t, "lora", "row %lld of %lld, adapter %d, column %lld: %a, not %a",
                   (long long)(at / p->n_out), (long long)p->n_row, p->of_row[at / p->n_out],
                   (long long)(at % p->n_out), (double)y[at], (double)want);
    }
    free(y);
}

/* The gate's columns stand beside those of up: against numbers in double. */
static void gated(struct problem *p)
{
    const struct lk_cpu *t = p->t;
    int64_t ffn = p->n_out / 2;
    struct lk_cols out_cols;
    check_even_cols(&out_cols, ffn, 1, 32);
    struct lk_act out = check_act(t, p->n_row, &out_cols);
    float *got = check_new((size_t)ffn, sizeof *got);
    struct lk_lora_down down = {p->act, p->lora, p->row};
    CHECK_SPLIT(t->lora_down, &down, p->n_adapted);
    struct lk_linear args = {
        .a = p->act, .w = p->packed, .lora = &p->lora, .n_out = p->n_out, .epilogue = LK_EP_SWIGLU, .out = out};
    CHECK_SPLIT(t->linear, &args, t->linear_items(&args));
    for (int64_t i = 0; i < p->n_row; i++) {
        t->act_row(&out, i, got);
        for (int64_t j = 0; j < ffn; j++) {
            double g = (double)want_of(p, i, j), u = (double)want_of(p, i, ffn + j), want = g / (1 + exp(-g)) * u;
            double bound = (t->type == LK_F32 ? 0x1p-17 : CHECK_SWIGLU_BF16) * fabs(want) + 1e-6;
            check_that(fabs((double)got[j] - want) <= bound, t, "lora", "swiglu row %lld column %lld: %g, not %g",
                       (long long)i, (long long)j, (double)got[j], want);
        }
    }
    free(got);
    free(out.data);
}

void check_lora(const struct lk_cpu *t)
{
    static const int64_t odd[] = {0, 5, 5, 70}, out_of[] = {1, 40, 100, 33};
    static const int seg_of[] = {1, 2, 8, 16};
    for (int64_t n_row = 1; n_row <= 34; n_row++) {
        struct problem p = {.t = t};
        if (n_row % 5 == 0)
            check_cols(&p.cols, 3, odd);
        else
            check_even_cols(&p.cols, 40 + n_row * 9, seg_of[n_row % 4], 32);
        problem_new(&p, n_row, out_of[n_row % 4], false);
        stored(&p);
        problem_free(&p);
    }
    for (int64_t n_row = 1; n_row <= 14; n_row += 13) {
        struct problem p = {.t = t};
        check_even_cols(&p.cols, 50, 1, 32);
        problem_new(&p, n_row, 2 * 37, true);
        gated(&p);
        problem_free(&p);
    }
}
