#include "kernels/tests/check_codes.h"

const char *const check_kind_name[] = {"S4", "A4", "Z4", "K4", "K6", "S8", "Z8", "E4M3"};

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

static double formula(const struct check_matrix *x, int64_t j, int64_t k)
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
static void put_odd_numbers(struct check_matrix *x)
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

void check_matrix_new(struct check_matrix *x, const struct lk_packed *q, const struct lk_cols *cols, int64_t n_out,
                      bool far)
{
    int64_t n = q->kind == LK_PK_K6 ? 16 : 32, k = cols->n_col;
    *x = (struct check_matrix){.q = *q, .cols = *cols, .n_out = n_out};
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

void check_matrix_free(struct check_matrix *x)
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

void *check_pack_codes(const struct lk_cpu *t, const struct check_matrix *x, int gate_up)
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

/* Cuts that begin where groups do, counted from column `first` of the tensor: multiples of 32 (16 for K6), except that
 * a scale of a whole row allows any. */
void check_random_cols(struct lk_cols *cols, const struct lk_packed *q, int64_t most)
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

void check_random_packing(struct lk_packed *q, enum lk_packing kind)
{
    static const int64_t groups[] = {32, 64, 128, 1 << 20};
    bool k = kind == LK_PK_K4 || kind == LK_PK_K6;
    *q = (struct lk_packed){kind, LK_SC_F16, k ? 256 : groups[check_random() % 4], 0};
    if (!k)
        q->scale = (enum lk_scale)(check_random() % (kind == LK_PK_E4M3 ? 3 : 2));
    if (check_random() % 2)
        q->first = (kind == LK_PK_K6 ? 16 : 32) * (check_random() % 20);
}
