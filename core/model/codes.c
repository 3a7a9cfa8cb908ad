#include "core/model/codes.h"

#include <string.h>

#include "core/model/pack_read.h"
#include "core/model/quant.h"
#include "core/model/quant_k.h"

#define BLOCK 32

/* Formats whose blocks lie in a row one behind the other. */
static bool of_blocks(enum lb_wtype type, enum lk_packing *kind)
{
    switch (type) {
    case LB_W_Q8_0:
        *kind = LK_PK_S8;
        return true;
    case LB_W_Q4_0:
        *kind = LK_PK_S4;
        return true;
    case LB_W_Q4_1:
        *kind = LK_PK_A4;
        return true;
    case LB_W_Q4_K:
        *kind = LK_PK_K4;
        return true;
    case LB_W_Q6_K:
        *kind = LK_PK_K6;
        return true;
    default:
        return false;
    }
}

static enum lk_scale scale_of(enum lb_wtype type)
{
    return type == LB_W_F16 ? LK_SC_F16 : type == LB_W_BF16 ? LK_SC_BF16 : LK_SC_F32;
}

bool lb_codes_of(const struct lb_wtensor *t, int64_t first, struct lk_packed *how)
{
    *how = (struct lk_packed){.scale = LK_SC_F16, .group = lb_quant_block(t->type), .first = first};
    if (t->type != LB_W_PACKED)
        return of_blocks(t->type, &how->kind);
    const struct lb_wpack *p = t->pack;
    how->scale = scale_of(p->scale_type);
    how->group = p->group;
    if (p->fp8)
        how->kind = LK_PK_E4M3;
    else if (p->zeros || p->bits == 2)
        how->kind = p->bits == 8 ? LK_PK_Z8 : LK_PK_Z4;
    else
        how->kind = p->bits == 8 ? LK_PK_S8 : LK_PK_S4;
    return !p->g_idx;
}

static int bits_of(enum lk_packing kind)
{
    return kind == LK_PK_K6 ? 6 : kind >= LK_PK_S8 ? 8 : 4;
}

double lb_codes_kept_bytes(const struct lb_wtensor *t)
{
    struct lk_packed how;
    if (t->n_dim < 2 || !lb_codes_of(t, 0, &how))
        return 0;
    bool two = how.kind == LK_PK_A4 || how.kind == LK_PK_K4, zeros = how.kind == LK_PK_Z4 || how.kind == LK_PK_Z8;
    double n = (double)lb_wtensor_elements(t), n_col = (double)t->dim[t->n_dim - 1];
    double scale = (how.scale == LK_SC_F32 ? 4 : 2) * (1 + two) + zeros;
    double groups = n / n_col * (double)((t->dim[t->n_dim - 1] - 1) / how.group + 1);
    double parts = how.kind == LK_PK_K4 || how.kind == LK_PK_K6 ? n / 16 : 0; /* two bytes for 32 columns */
    return n * bits_of(how.kind) / 8 + groups * scale + parts;
}

/* Where the parts of a row taken apart begin; codes come first, from the beginning of a group on. */
struct layout {
    int64_t n_group, skip; /* groups; columns of the first one that are not taken */
    size_t d, m, z, sc, mn, bytes;
};

static size_t up(size_t n)
{
    return (n + 15) / 16 * 16;
}

static struct layout lay_out(const struct lk_packed *how, int64_t n_col)
{
    struct layout l = {.skip = how->first % how->group};
    l.n_group = (l.skip + n_col - 1) / how->group + 1;
    size_t n = (size_t)l.n_group, codes = (size_t)(l.skip + n_col);
    if (how->group <= LB_SUPERBLOCK) /* blocks are taken apart whole */
        codes = n * (size_t)how->group;
    l.d = up(codes);
    l.m = up(l.d + 4 * n);
    l.z = up(l.m + 2 * n);
    l.sc = up(l.z + n);
    l.mn = up(l.sc + 16 * n);
    l.bytes = up(l.mn + 8 * n);
    return l;
}

size_t lb_codes_bytes(const struct lk_packed *how, int64_t n_col)
{
    return lay_out(how, n_col).bytes;
}

/* 32 numbers of four bits: the low halves of 16 bytes, then the high ones. */
static void halves(const uint8_t *qs, uint8_t *q)
{
    for (int j = 0; j < BLOCK / 2; j++) {
        q[j] = qs[j] & 15;
        q[j + BLOCK / 2] = qs[j] >> 4;
    }
}

static void take_q4_k(const uint8_t *src, uint8_t *q, uint8_t *sc, uint8_t *mn)
{
    const uint8_t *s = src + 4, *qs = src + 16;
    for (int j = 0; j < 8; j++)
        lb_scale_min(s, j, &sc[j], &mn[j]);
    for (int part = 0; part < 8; part++)
        for (int l = 0; l < 32; l++)
            q[32 * part + l] = qs[part / 2 * 32 + l] >> part % 2 * 4 & 15;
}

static void take_q6_k(const uint8_t *src, uint8_t *q, uint8_t *sc)
{
    memcpy(sc, src + 192, 16);
    for (int part = 0; part < 8; part++) {
        const uint8_t *ql = src + part / 4 * 64 + part % 2 * 32, *qh = src + 128 + part / 4 * 32;
        int low = part % 4 / 2 * 4, high = part % 4 * 2;
        for (int l = 0; l < 32; l++)
            q[32 * part + l] = (uint8_t)((ql[l] >> low & 15) | (qh[l] >> high & 3) << 4);
    }
}

/* Block i of those taken; lays of spec/models.md 2.2.1. */
static void take_block(const struct lb_wtensor *t, const uint8_t *src, int64_t i, const struct layout *l, uint8_t *mem)
{
    uint8_t *q = mem + i * lb_quant_block(t->type), *d = mem + l->d + 2 * i, *m = mem + l->m + 2 * i;
    const uint8_t *d_at = src;
    switch (t->type) {
    case LB_W_Q8_0:
        for (int j = 0; j < BLOCK; j++)
            q[j] = src[2 + j] ^ 0x80;
        break;
    case LB_W_Q4_0:
        halves(src + 2, q);
        break;
    case LB_W_Q4_1:
        memcpy(m, src + 2, 2);
        halves(src + 4, q);
        break;
    case LB_W_Q4_K:
        memcpy(m, src + 2, 2);
        take_q4_k(src, q, mem + l->sc + 8 * i, mem + l->mn + 8 * i);
        break;
    default: /* Q6_K */
        d_at = src + 208;
        take_q6_k(src, q, mem + l->sc + 16 * i);
        break;
    }
    memcpy(d, d_at, 2);
}

/* Rows of blocks begin with the block that column `first` is in; joined tensors have a scale and a zero point for each
 * group and a code for each column. */
static void read_joined(const struct lb_wpack *p, const struct lk_packed *how, int64_t row, int64_t n_col,
                        const struct layout *l, uint8_t *mem)
{
    size_t scale_bytes = lb_quant_bytes(p->scale_type, 1);
    lb_pack_codes(p, row, how->first, n_col, mem + l->skip);
    for (int64_t i = 0; i < l->n_group; i++) {
        int64_t g = how->first / how->group + i;
        memcpy(mem + l->d + (size_t)i * scale_bytes, lb_pack_scale(p, row, g), scale_bytes);
        mem[l->z + (size_t)i] = (uint8_t)lb_pack_zero(p, row, g);
    }
}

void lb_codes_read(const struct lb_wtensor *t, const struct lk_packed *how, int64_t row, int64_t n_col, uint8_t *mem,
                   struct lk_codes *out)
{
    const struct layout l = lay_out(how, n_col);
    int64_t sub = how->kind == LK_PK_K6 ? 16 : 32;
    if (t->type == LB_W_PACKED) {
        read_joined(t->pack, how, row, n_col, &l, mem);
    } else {
        size_t block_bytes = lb_quant_bytes(t->type, how->group);
        const uint8_t *src = t->data + (size_t)row * lb_quant_bytes(t->type, t->dim[t->n_dim - 1]);
        src += (size_t)(how->first / how->group) * block_bytes;
        for (int64_t i = 0; i < l.n_group; i++)
            take_block(t, src + (size_t)i * block_bytes, i, &l, mem);
    }
    *out = (struct lk_codes){.q = mem + l.skip,
                             .d = mem + l.d,
                             .m = mem + l.m,
                             .z = mem + l.z,
                             .sc = mem + l.sc + l.skip / sub,
                             .mn = mem + l.mn + l.skip / sub};
}
