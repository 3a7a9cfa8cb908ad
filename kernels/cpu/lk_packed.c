#include "kernels/cpu/lk_codes.h"

#include <math.h>

/* Beyond these a scale makes numbers that the sets' arithmetic does not round as the formulas say (subnormals, infinity
 * in between); such panels are marked as odd, and unpacked by lk_packed_numbers. */
#define LEAST_SCALE 0x1p-90f
#define MOST_SCALE 0x1p17f
#define MOST_FP8_SCALE 0x1p7f

bool lk_packed_fits(const struct lk_packed *q, const struct lk_cols *cols)
{
    int64_t sub = lk_packed_sub(q->kind);
    bool whole = q->group >= q->first + cols->n_col;
    int64_t unit = sub > 0 ? sub : whole ? 1 : LK_BLOCK;
    if ((q->scale == LK_SC_F32 && q->kind != LK_PK_E4M3) || q->group < 1 || q->first < 0 ||
        (!whole && q->group % LK_BLOCK != 0))
        return false;
    for (int s = 0; s < cols->n_seg; s++)
        if (cols->begin[s] < cols->begin[s + 1] && (q->first + cols->begin[s]) % unit != 0)
            return false;
    return true;
}

struct lk_packed_panel lk_packed_panel_of(const struct lk_packed *q, const struct lk_cols *cols, int64_t width)
{
    int64_t n_block = lk_cols_packed(cols) / LK_BLOCK;
    int64_t n_group = cols->n_col > 0 ? lk_packed_group(q, cols->n_col - 1) + 1 : 0;
    struct lk_packed_panel p = {.q = *q, .cols = cols, .width = width};
    p.group_bytes = width * (lk_scale_bytes(q->scale) * (1 + lk_packed_has_m(q->kind)) + lk_packed_has_z(q->kind));
    p.sub_bytes = lk_packed_sub(q->kind) > 0 ? 2 * width : 0;
    p.code_bytes = width * LK_BLOCK * lk_packed_bits(q->kind) / 8;
    p.sub_at = n_group * p.group_bytes;
    p.code_at = p.sub_at + n_block * p.sub_bytes;
    p.odd_at = p.code_at + n_block * p.code_bytes;
    p.bytes = lk_ceil_div(p.odd_at + 1, 64) * 64;
    return p;
}

size_t lk_packed_matrix_bytes(const struct lk_packed *q, int64_t n_out, const struct lk_cols *cols, int64_t width)
{
    return (size_t)(lk_ceil_div(n_out, width) * lk_packed_panel_of(q, cols, width).bytes);
}

/* IEEE half to single: exponent and fraction in place, one exact product for the bias. */
static float of_half(uint16_t h)
{
    uint32_t size = (uint32_t)(h & 0x7fff) << 13;
    uint32_t bits = size >= 0x0f800000u ? size | 0x7f800000u : lk_bits(lk_float(size) * 0x1p112f);
    return lk_float(bits | (uint32_t)(h & 0x8000) << 16);
}

static float scale_at(enum lk_scale type, const void *from, int64_t i)
{
    const uint8_t *at = (const uint8_t *)from + i * lk_scale_bytes(type);
    float x;
    uint16_t h;
    if (type == LK_SC_F32) {
        memcpy(&x, at, sizeof x);
        return x;
    }
    memcpy(&h, at, sizeof h);
    return type == LK_SC_BF16 ? lk_widen(h) : of_half(h);
}

static bool has_nan(const uint8_t q[LK_BLOCK])
{
    int n = 0;
    for (int i = 0; i < LK_BLOCK; i++)
        n |= (q[i] & 0x7f) == 0x7f;
    return n;
}

static float of_e4m3(unsigned q)
{
    float size = (q & 0x7f) == 0x7f ? NAN : lk_float((q & 0x7fu) << 20) * 0x1p120f;
    return lk_float(lk_bits(size) | (q & 0x80u) << 24);
}

static bool scale_is_odd(float x)
{
    return !(fabsf(x) <= MOST_SCALE) || (x != 0 && fabsf(x) < LEAST_SCALE);
}

/* Scales of the groups; returns whether any is odd. */
static bool put_groups(const struct lk_packed_panel *p, const struct lk_codes *col, uint8_t *to)
{
    const struct lk_packed *f = &p->q;
    const int64_t size = lk_scale_bytes(f->scale), n_group = p->sub_at / p->group_bytes;
    bool odd = false;
    for (int64_t g = 0; g < n_group; g++, to += p->group_bytes) {
        for (int64_t j = 0; j < p->width; j++) {
            if (!col[j].q)
                continue;
            memcpy(to + j * size, (const uint8_t *)col[j].d + g * size, (size_t)size);
            float d = scale_at(f->scale, col[j].d, g);
            odd = odd || scale_is_odd(d) || (f->kind == LK_PK_E4M3 && fabsf(d) > MOST_FP8_SCALE);
            if (lk_packed_has_m(f->kind)) {
                memcpy(to + (p->width + j) * size, (const uint8_t *)col[j].m + g * size, (size_t)size);
                odd = odd || scale_is_odd(scale_at(f->scale, col[j].m, g));
            }
            if (lk_packed_has_z(f->kind))
                to[p->width * size + j] = col[j].z[g];
        }
    }
    return odd;
}

/* Subgroups of the block whose first source column is k: K4 sc[width], mn[width]; K6 sc of its halves. */
static void put_subs(const struct lk_packed_panel *p, const struct lk_codes *col, int64_t k, uint8_t *to)
{
    const int64_t n = lk_packed_sub(p->q.kind), first = p->q.first, c = p->cols->n_col;
    const int64_t g = (first + k) / n - first / n, last = (first + c - 1) / n - first / n;
    for (int64_t j = 0; j < p->width; j++) {
        if (!col[j].q)
            continue;
        to[j] = col[j].sc[g];
        to[p->width + j] = p->q.kind == LK_PK_K4 ? col[j].mn[g] : g < last ? col[j].sc[g + 1] : 0;
    }
}

/* By the published formulas; `sub` is read where there are subgroups. */
static struct lk_line line_of(const struct lk_packed_panel *p, const uint8_t *group, const uint8_t *sub, int64_t j)
{
    const struct lk_packed *f = &p->q;
    struct lk_line l = {.kind = f->kind, .d = scale_at(f->scale, group, j)};
    if (lk_packed_has_m(f->kind))
        l.m = scale_at(f->scale, group, p->width + j);
    if (lk_packed_has_z(f->kind))
        l.z = group[p->width * lk_scale_bytes(f->scale) + j];
    if (f->kind == LK_PK_S4 || f->kind == LK_PK_S8 || f->kind == LK_PK_K6)
        l.z = f->kind == LK_PK_S4 ? 8 : f->kind == LK_PK_S8 ? 128 : 32;
    if (f->kind == LK_PK_K6)
        l.d *= (float)(int8_t)sub[j];
    if (f->kind == LK_PK_K4) {
        l.d *= (float)sub[j];
        l.m *= -(float)sub[p->width + j];
    }
    return l;
}

static inline float number(const struct lk_line *l, unsigned code)
{
    if (l->kind == LK_PK_E4M3)
        return of_e4m3(code) * l->d;
    const float q = (float)code - l->z;
    return lk_packed_has_m(l->kind) ? fmaf(q, l->d, l->m) : q * l->d; /* q d may be beyond f32 where the sum is not */
}

/* Of 24 bits the last one is set, and the first 16. */
static bool number_is_odd(float x)
{
    return (lk_bits(x) & 0x7fff01u) >= 0x7fff01u;
}

/* Codes of 4 bits with m, whose sum may fill 24 bits; K6 and those without m have at most 24 less the lowest, or 20. */
static bool column_is_odd(const struct lk_packed_panel *p, const uint8_t *group, const uint8_t *sub, int64_t j)
{
    const float d = scale_at(p->q.scale, group, j), m = scale_at(p->q.scale, group, p->width + j);
    const float least = fminf(d != 0 ? fabsf(d) : INFINITY, m != 0 ? fabsf(m) : INFINITY);
    const bool k = p->q.kind == LK_PK_K4;
    /* the last bit of any sum is at least 2^-11 of `least` */
    if (fabsf(d) * (k ? 15 * 63 : 15) + fabsf(m) * (k ? 63 : 1) < least * 0x1p11f)
        return false;
    const struct lk_line line = line_of(p, group, sub, j);
    for (unsigned code = 0; code < 16; code++)
        if (number_is_odd(number(&line, code)))
            return true;
    return false;
}

/* Whether a panel with ordinary scales may hold numbers that are odd. */
static bool has_odd_numbers(const struct lk_packed_panel *p, const uint8_t *at)
{
    const struct lk_cols *c = p->cols;
    if (p->q.kind == LK_PK_E4M3)
        for (int64_t g = 0; g < p->sub_at; g += p->group_bytes)
            for (int64_t i = 0; i < 8 * p->width; i++)
                if (number_is_odd(scale_at(p->q.scale, at + g, i / 8) * (float)(8 + i % 8)))
                    return true;
    if (!lk_packed_has_m(p->q.kind))
        return false;
    for (int s = 0; s < c->n_seg; s++) {
        for (int64_t kp = c->packed[s]; kp < c->packed[s + 1]; kp += LK_BLOCK) {
            int64_t n, k = lk_packed_col(c, s, kp, &n);
            if (n == 0)
                continue;
            const uint8_t *group = at + lk_packed_group(&p->q, k) * p->group_bytes;
            for (int64_t j = 0; j < p->width; j++)
                if (column_is_odd(p, group, at + p->sub_at + kp / LK_BLOCK * p->sub_bytes, j))
                    return true;
        }
    }
    return false;
}

void lk_packed_pack(const struct lk_pack_codes *a, int64_t width, enum lk_code_order order)
{
    struct lk_packed_panel p = lk_packed_panel_of(a->q, a->cols, width);
    p.order = order;
    const struct lk_cols *c = a->cols;
    uint8_t *to = (uint8_t *)a->w + a->panel * p.bytes;
    memset(to, 0, (size_t)p.bytes);
    bool odd = put_groups(&p, a->col, to);
    for (int s = 0; s < c->n_seg; s++) {
        for (int64_t kp = c->packed[s]; kp < c->packed[s + 1]; kp += LK_BLOCK) {
            int64_t n, k = lk_packed_col(c, s, kp, &n), block = kp / LK_BLOCK;
            if (n == 0)
                continue;
            if (p.sub_bytes > 0)
                put_subs(&p, a->col, k, to + p.sub_at + block * p.sub_bytes);
            for (int64_t j = 0; j < width; j++) {
                uint8_t q[LK_BLOCK] = {0};
                if (!a->col[j].q)
                    continue;
                memcpy(q, a->col[j].q + k, (size_t)n);
                odd |= p.q.kind == LK_PK_E4M3 && has_nan(q);
                lk_codes_put(&p, q, j, block, to + p.code_at);
            }
        }
    }
    to[p.odd_at] = odd ? LK_ODD_SCALES : has_odd_numbers(&p, to) ? LK_ODD_NUMBERS : 0;
}

/* Groups and subgroups begin at multiples of 32 columns, of K6 of 16 (lk_packed_fits): none begins inside a half. */
void lk_packed_block(const struct lk_packed_panel *p, const uint8_t *at, int s, int64_t kp, int64_t j,
                     struct lk_block_codes *out)
{
    int64_t n, k = lk_packed_col(p->cols, s, kp, &n);
    const uint8_t *sub = at + p->sub_at + kp / LK_BLOCK * p->sub_bytes;
    lk_codes_get(p, at + p->code_at, kp / LK_BLOCK, j, out->code);
    for (int half = 0; half < 2; half++) {
        int64_t group = lk_packed_group(&p->q, lk_min(k + 16 * half, p->cols->n_col - 1));
        out->line[half] =
            line_of(p, at + group * p->group_bytes, sub + (p->q.kind == LK_PK_K6 ? half * p->width : 0), j);
    }
}

void lk_packed_numbers(const struct lk_packed_panel *p, const uint8_t *at, int s, int64_t kp, float *out)
{
    int64_t n;
    lk_packed_col(p->cols, s, kp, &n);
    memset(out, 0, (size_t)(LK_BLOCK * p->width) * sizeof *out);
    for (int64_t j = 0; j < p->width; j++) {
        struct lk_block_codes b;
        lk_packed_block(p, at, s, kp, j, &b);
        for (int64_t i = 0; i < n; i++)
            out[i * p->width + j] = number(&b.line[i / 16], b.code[i]);
    }
}
