#include "kernels/tests/check.h"

#include <stdarg.h>

static int n_check, n_failed;

void check_that(int ok, const struct lk_cpu *t, const char *op, const char *format, ...)
{
    n_check++;
    if (ok || n_failed++ > 20)
        return;
    va_list args;
    va_start(args, format);
    printf("FAILED %s %s %s: ", t ? t->name : "", t && t->type == LK_F32 ? "f32" : "bf16", op);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

int check_failures(void)
{
    printf("%d checks, %d failed\n", n_check, n_failed);
    return n_failed;
}

void *check_new(size_t n, size_t size)
{
    size_t bytes = n * size;
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes ? bytes : 1) != 0) {
        fprintf(stderr, "checkkernels: no memory\n");
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}

int check_every = 1, check_cases = 1;

void check_sample(int modeled)
{
    const char *full = getenv("LB_TEST_FULL");
    if (full && strcmp(full, "1") == 0)
        return;
    check_cases = modeled ? 12 : 2;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    check_every = 29;
    check_cases = 24;
#endif
}

uint32_t check_random(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

float check_uniform(float low, float high)
{
    return low + (high - low) * (float)check_random() / 2147483648.0f;
}

void check_fill(float *x, int64_t n, float low, float high)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = check_uniform(low, high);
}

bool check_same_bits(float x, float y)
{
    return lk_bits(x) == lk_bits(y) || (isnan(x) && isnan(y));
}

float check_tree(const struct lk_cols *c, float *part)
{
    for (int step = 1; lk_cols_balanced(c) && step < c->n_seg; step *= 2)
        for (int s = 0; s < c->n_seg; s += 2 * step)
            part[s] += part[s + step];
    for (int s = 1; !lk_cols_balanced(c) && s < c->n_seg; s++)
        part[0] += part[s];
    return part[0];
}

float check_stored(const struct lk_cpu *t, float x)
{
    return t->type == LK_F32 ? x : lk_widen(lk_round(x));
}

void check_cols(struct lk_cols *c, int n_seg, const int64_t *begin)
{
    *c = (struct lk_cols){.n_col = begin[n_seg], .n_seg = n_seg};
    for (int s = 0; s <= n_seg; s++)
        c->begin[s] = begin[s];
    for (int s = 0; s < n_seg; s++)
        c->packed[s + 1] = c->packed[s] + lk_ceil_div(begin[s + 1] - begin[s], LK_SEG_ALIGN) * LK_SEG_ALIGN;
}

void check_even_cols(struct lk_cols *c, int64_t n_col, int n_seg, int64_t unit)
{
    int64_t begin[LK_MAX_SEG + 1], n_unit = lk_ceil_div(n_col, unit);
    for (int s = 0; s <= n_seg; s++)
        begin[s] = lk_min(n_col, unit * (s * n_unit / n_seg));
    check_cols(c, n_seg, begin);
}

struct lk_act check_act(const struct lk_cpu *t, int64_t n_row, const struct lk_cols *cols)
{
    size_t n = (size_t)(n_row * lk_cols_packed(cols)), elem = t->act_bytes;
    struct lk_act a = {check_new(n, elem), n_row, cols};
    memset(a.data, 0xff, n * elem); /* NaN: whoever leaves a column unwritten shows */
    return a;
}

struct lk_act check_random_act(const struct lk_cpu *t, int64_t n_row, const struct lk_cols *cols, float *values)
{
    struct lk_act a = check_act(t, n_row, cols);
    float *x = check_new((size_t)(n_row * cols->n_col), sizeof *x), *w = check_new((size_t)cols->n_col, sizeof *w);
    check_fill(x, n_row * cols->n_col, -2, 2);
    check_fill(w, cols->n_col, 0.5f, 1.5f);
    struct lk_norm args = {.y = a, .x = x, .w = w, .eps = 1e-5f};
    t->norm(&args, 0, t->norm_items(&args));
    for (int64_t i = 0; i < n_row; i++)
        t->act_row(&a, i, values + i * cols->n_col);
    free(x);
    free(w);
    return a;
}

void *check_pack(const struct lk_cpu *t, const float *w, int64_t n_out, const struct lk_cols *cols, int gate_up)
{
    int64_t pc = t->panel_cols, k = cols->n_col;
    void *to = check_new(t->weight_bytes(n_out, cols), 1);
    memset(to, 0xff, t->weight_bytes(n_out, cols));
    const void **row = check_new((size_t)pc, sizeof *row);
    for (int64_t p = 0; p * pc < n_out; p++) {
        for (int64_t j = 0; j < pc; j++) {
            int64_t half = pc / 2, from = p * pc + j, end = n_out;
            if (gate_up) {
                from = (j < half ? 0 : n_out / 2) + p * half + j % half;
                end = j < half ? n_out / 2 : n_out;
            }
            row[j] = from < end ? w + from * k : NULL;
        }
        struct lk_pack args = {to, p, row, LK_F32, cols};
        t->pack(&args);
    }
    free(row);
    return to;
}

int check_sets(struct lk_cpu t[CHECK_MAX_SETS])
{
    unsigned have = lk_cpu_detect(), bit;
    int n = 0;
    const char *name;
    for (int i = 0; (name = lk_cpu_set(i, &bit)) != NULL; i++) {
        for (int type = LK_F32; type <= LK_BF16; type++) {
            if ((have & bit) == 0)
                continue;
            lk_cpu_init(&t[n], (enum lk_type)type, bit);
            n += strcmp(t[n].name, name) == 0; /* else the set does not cover the type */
        }
        if ((have & bit) == 0)
            printf("%s: not on this processor, not checked\n", name);
    }
    return n;
}
