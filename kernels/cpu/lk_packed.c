#include "kernels/cpu/lk_packed.h"

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

/* The low halves of 8 bytes, the first one lowest. */
static uint32_t word_of_halves(const uint8_t q[8])
{
    uint64_t x;
    memcpy(&x, q, sizeof x);
    x &= 0x0f0f0f0f0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ff00ff00ffu;
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(x | x >> 16);
}

/* Word o of one column's block. */
static uint32_t word_of(int bits, const uint8_t q[LK_BLOCK], int o)
{
    uint32_t word;
    if (bits == 4)
        return word_of_halves(q + 8 * o);
    if (bits == 8) {
        memcpy(&word, q + 4 * o, sizeof word);
        return word;
    }
    const uint8_t *part = q + o / 3 * 16;
    word = (part[15] >> o % 3 * 2 & 3u) << 30;
    for (int i = 0; i < 5; i++)
        word |= (part[o % 3 * 5 + i] & 63u) << 6 * i;
    return word;
}

/* Where a block's codes of 4 bits are, by tile: column i of output j in the bits from `shift` on of the byte at
 * at + j * row + i * step, or with `halves` of that at at + j * row + i / 2, odd columns in the upper half. */
struct place {
    int64_t at, row, step;
    int shift;
    bool halves;
};

static struct place place_of(const struct lk_packed_panel *p, int64_t block)
{
    const int64_t n_block = lk_cols_packed(p->cols) / LK_BLOCK, whole = n_block / 4 * 4, at = block / 4 * 4;
    const int in = (int)(block % 4), pair = n_block - whole >= 2 ? 2 : 0;
    if (block < whole)
        return (struct place){at * p->code_bytes + in / 2, 64, 2, in % 2 * 4, false};
    if (in < pair)
        return (struct place){whole * p->code_bytes, 32, 1, in * 4, false};
    return (struct place){(whole + pair) * p->code_bytes, 16, 0, 0, true};
}

/* Of 6 bits by tile: the first of the three words for column i of output j, and which of the 16 numbers it is. */
static int64_t word_by_tile(const struct lk_packed_panel *p, int64_t block, int64_t j, int i, int *number)
{
    *number = (int)(2 * (j % 8)) + i / 16;
    return block * p->code_bytes + j / 8 * 192 + i % 16 * 4;
}

/* Of 8 bits by tile: column i of output j. */
static int64_t byte_by_tile(const struct lk_packed_panel *p, int64_t block, int64_t j, int i)
{
    return block * p->code_bytes + j / 16 * 16 * LK_BLOCK + i / 2 * 32 + j % 16 * 2 + i % 2;
}

static void put_by_tile(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block,
                        uint8_t *codes)
{
    const int bits = lk_packed_bits(p->q.kind);
    if (bits == 8) {
        for (int i = 0; i < LK_BLOCK; i++)
            codes[byte_by_tile(p, block, j, i)] = q[i];
        return;
    }
    if (bits == 4) {
        const struct place to = place_of(p, block);
        uint8_t *at = codes + to.at + j * to.row;
        for (int i = 0; i < LK_BLOCK && to.halves; i += 2)
            at[i / 2] = (uint8_t)((q[i] & 15) | q[i + 1] << 4);
        for (int i = 0; i < LK_BLOCK && !to.halves; i++)
            at[i * to.step] |= (uint8_t)((q[i] & 15) << to.shift);
        return;
    }
    for (int i = 0; i < LK_BLOCK; i++) {
        int n;
        uint8_t *at = codes + word_by_tile(p, block, j, i, &n);
        for (int w = 0; w < 3; w++, at += 64) {
            uint32_t word;
            memcpy(&word, at, sizeof word);
            word |= n == 15 ? (q[i] >> 2 * w & 3u) << 30 : n / 5 == w ? (q[i] & 63u) << n % 5 * 6 : 0;
            memcpy(at, &word, sizeof word);
        }
    }
}

/* Code i of column j. */
static unsigned code_by_tile(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j, int i)
{
    const int bits = lk_packed_bits(p->q.kind);
    if (bits == 8)
        return codes[byte_by_tile(p, block, j, i)];
    if (bits == 4) {
        const struct place from = place_of(p, block);
        const uint8_t *at = codes + from.at + j * from.row;
        const unsigned both = from.halves ? at[i / 2] : at[i * from.step];
        return both >> (from.halves ? i % 2 * 4 : from.shift) & 15u;
    }
    int n;
    uint32_t word[3];
    const uint8_t *at = codes + word_by_tile(p, block, j, i, &n);
    for (int w = 0; w < 3; w++)
        memcpy(&word[w], at + 64 * w, sizeof word[w]);
    return n == 15 ? word[0] >> 30 | word[1] >> 30 << 2 | word[2] >> 30 << 4 : word[n / 5] >> n % 5 * 6 & 63u;
}

/* By pair: word o of the even or odd numbers of column j's block. */
static int64_t word_by_pair(const struct lk_packed_panel *p, int64_t block, int64_t j, int o, int odd)
{
    return block * p->code_bytes + ((o * (p->width / 16) + j / 16) * 32 + j % 16 * 2 + odd) * 4;
}

static uint32_t turned_left(uint32_t x, int n)
{
    return n % 32 ? x << n % 32 | x >> (32 - n % 32) : x;
}

/* Where number i of a word of 4 or 8 bits begins. */
static int place_by_pair(int bits, int i)
{
    static const uint8_t place[8] = {12, 16, 4, 8, 20, 24, 28, 0};
    return bits == 4 ? place[i] : 4 + 8 * i;
}

/* Word o of the 16 numbers q[0], q[2] ... */
static uint32_t pair_word(int bits, const uint8_t *q, int o)
{
    uint32_t word = 0;
    if (bits == 6) {
        word = (q[30] >> 2 * o & 3u) << 30;
        for (int i = 0; i < 5; i++)
            word |= (q[2 * (5 * o + i)] & 63u) << 6 * i;
    } else if (bits == 8) {
        for (int i = 0; i < 4; i++)
            word |= turned_left(q[2 * (4 * o + i)], place_by_pair(8, i));
    } else {
        for (int i = 0; i < 8; i++)
            word |= (q[2 * (8 * o + i)] & 15u) << place_by_pair(4, i);
    }
    return word;
}

static void put_by_pair(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block,
                        uint8_t *codes)
{
    const int bits = lk_packed_bits(p->q.kind);
    for (int o = 0; o < bits / 2; o++) {
        for (int odd = 0; odd < 2; odd++) {
            const uint32_t word = pair_word(bits, q + odd, o);
            memcpy(codes + word_by_pair(p, block, j, o, odd), &word, sizeof word);
        }
    }
}

/* Code k of column j. */
static unsigned code_by_pair(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j, int k)
{
    const int bits = lk_packed_bits(p->q.kind), i = k / 2, per = 32 / bits;
    uint32_t word[4];
    for (int o = 0; o < bits / 2; o++)
        memcpy(&word[o], codes + word_by_pair(p, block, j, o, k % 2), sizeof word[o]);
    if (bits != 6)
        return turned_left(word[i / per], 32 - place_by_pair(bits, i % per)) & ((1u << bits) - 1u);
    return i == 15 ? word[0] >> 30 | word[1] >> 30 << 2 | word[2] >> 30 << 4 : word[i / 5] >> i % 5 * 6 & 63u;
}

/* By byte: word o of column j. */
static int64_t word_by_byte(const struct lk_packed_panel *p, int64_t block, int64_t j, int o)
{
    return block * p->code_bytes + (o * p->width + j) * 4;
}

static void put_by_byte(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block,
                        uint8_t *codes)
{
    for (int o = 0; o < LK_BLOCK / 8; o++) {
        uint32_t low, up;
        memcpy(&low, q + 8 * o, sizeof low);
        memcpy(&up, q + 8 * o + 4, sizeof up);
        const uint32_t word = (low & 0x0f0f0f0fu) | (up & 0x0f0f0f0fu) << 4;
        memcpy(codes + word_by_byte(p, block, j, o), &word, sizeof word);
    }
}

static unsigned code_by_byte(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j, int k)
{
    return codes[word_by_byte(p, block, j, k / 8) + k % 4] >> k / 4 % 2 * 4 & 15u;
}

/* Codes of one column's block. */
static void put_codes(const struct lk_packed_panel *p, const uint8_t q[LK_BLOCK], int64_t j, int64_t block,
                      uint8_t *codes)
{
    static void (*const put[])(const struct lk_packed_panel *, const uint8_t *, int64_t, int64_t, uint8_t *) = {
        [LK_BY_TILE] = put_by_tile, [LK_BY_PAIR] = put_by_pair, [LK_BY_BYTE] = put_by_byte};
    if (p->order != LK_BY_WORD) {
        put[p->order](p, q, j, block, codes);
        return;
    }
    const int bits = lk_packed_bits(p->q.kind);
    for (int o = 0; o < bits; o++) {
        uint32_t word = word_of(bits, q, o);
        memcpy(codes + block * p->code_bytes + (o * p->width + j) * 4, &word, sizeof word);
    }
}

static uint32_t word_at(const struct lk_packed_panel *p, const uint8_t *codes, int64_t o, int64_t j)
{
    uint32_t word;
    memcpy(&word, codes + (o * p->width + j) * 4, sizeof word);
    return word;
}

/* The 32 codes of column j of a block. */
static void codes_of(const struct lk_packed_panel *p, const uint8_t *codes, int64_t block, int64_t j,
                     uint8_t q[LK_BLOCK])
{
    const int bits = lk_packed_bits(p->q.kind), per = 32 / bits;
    static unsigned (*const code[])(const struct lk_packed_panel *, const uint8_t *, int64_t, int64_t, int) = {
        [LK_BY_TILE] = code_by_tile, [LK_BY_PAIR] = code_by_pair, [LK_BY_BYTE] = code_by_byte};
    if (p->order != LK_BY_WORD) {
        for (int i = 0; i < LK_BLOCK; i++)
            q[i] = (uint8_t)code[p->order](p, codes, block, j, i);
        return;
    }
    codes += block * p->code_bytes;
    if (bits == 6)
        q[15] = q[31] = 0;
    for (int o = 0; o < bits; o++) {
        const uint32_t word = word_at(p, codes, o, j);
        uint8_t *to = q + (bits == 6 ? o / 3 * 16 + o % 3 * 5 : o * per);
        for (int i = 0; i < per; i++)
            to[i] = (uint8_t)(word >> i * bits & ((1u << bits) - 1u));
        if (bits == 6)
            q[o / 3 * 16 + 15] |= (uint8_t)(word >> 30 << o % 3 * 2);
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
                put_codes(&p, q, j, block, to + p.code_at);
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
    codes_of(p, at + p->code_at, kp / LK_BLOCK, j, out->code);
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
