/* A model in C of the part of AMX that kernels/cpu/amx uses, under the intrinsics' own names (lk_amx_isa.h): Intel SDM,
 * volume 1, chapter on AMX; volume 2, LDTILECFG, TILELOADD, TILESTORED, TDPBF16PS, TDPBSSD. Where the processor would
 * raise an exception the program ends. A source file has its own tiles for each thread; kernels keep none between
 * calls. */
#ifndef KERNELS_TESTS_ISA_MODEL_AMX_MODEL_H
#define KERNELS_TESTS_ISA_MODEL_AMX_MODEL_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/tests/isa_model/model_types.h"

enum { LK_MODEL_TILES = 8, LK_MODEL_ROWS = 16, LK_MODEL_COLSB = 64 };

static _Thread_local struct lk_model_tiles {
    int configured;
    int rows[LK_MODEL_TILES], colsb[LK_MODEL_TILES];
    float at[LK_MODEL_TILES][LK_MODEL_ROWS][LK_MODEL_COLSB / 4];
} lk_model_tiles;

static inline void lk_model_need(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "amx_model: %s\n", what);
    abort();
}

/* Tile t, which must be configured. */
static inline float *lk_model_tile(int t)
{
    lk_model_need(lk_model_tiles.configured, "a tile without a configuration");
    lk_model_need(t >= 0 && t < LK_MODEL_TILES && lk_model_tiles.rows[t] > 0, "a tile without a shape");
    return lk_model_tiles.at[t][0];
}

static inline void _tile_loadconfig(const void *config)
{
    const uint8_t *byte = config;
    struct lk_model_tiles *m = &lk_model_tiles;
    lk_model_need(byte[0] == 1, "a palette that is not 1");
    for (int i = 1; i < 64; i++)
        lk_model_need(byte[i] == 0 || (i >= 16 && i < 32) || (i >= 48 && i < 56),
                      "a reserved byte of the configuration");
    memset(m, 0, sizeof *m);
    for (int t = 0; t < LK_MODEL_TILES; t++) {
        uint16_t colsb;
        memcpy(&colsb, byte + 16 + 2 * t, sizeof colsb);
        m->rows[t] = byte[48 + t];
        m->colsb[t] = colsb;
        lk_model_need(m->rows[t] <= LK_MODEL_ROWS && colsb <= LK_MODEL_COLSB, "a tile that is too large");
        lk_model_need((m->rows[t] == 0) == (colsb == 0), "a tile with rows or columns alone");
    }
    m->configured = 1;
}

static inline void _tile_release(void)
{
    memset(&lk_model_tiles, 0, sizeof lk_model_tiles);
}

static inline void _tile_zero(int t)
{
    memset(lk_model_tile(t), 0, sizeof lk_model_tiles.at[t]);
}

static inline void _tile_loadd(int t, const void *base, long stride)
{
    _tile_zero(t);
    for (int i = 0; i < lk_model_tiles.rows[t]; i++)
        memcpy(lk_model_tiles.at[t][i], (const char *)base + i * stride, (size_t)lk_model_tiles.colsb[t]);
}

static inline void _tile_stream_loadd(int t, const void *base, long stride)
{
    _tile_loadd(t, base, stride);
}

static inline void _tile_stored(int t, void *base, long stride)
{
    lk_model_tile(t);
    for (int i = 0; i < lk_model_tiles.rows[t]; i++)
        memcpy((char *)base + i * stride, lk_model_tiles.at[t][i], (size_t)lk_model_tiles.colsb[t]);
}

/* DAZ and FTZ: a subnormal is a zero of its sign. */
LK_MODEL_STEP float lk_model_ftz(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

/* Half h of a 32-bit element as f32. */
LK_MODEL_STEP float lk_model_half(float pair, int h)
{
    uint32_t u;
    float x;
    memcpy(&u, &pair, sizeof u);
    u = h ? u & 0xffff0000u : u << 16;
    memcpy(&x, &u, sizeof x);
    return lk_model_ftz(x);
}

/* What a product asks of its tiles; returns the elements of a row of a. */
LK_MODEL_STEP int lk_model_need_shapes(int c, int a, int b)
{
    const struct lk_model_tiles *m = &lk_model_tiles;
    int n_k = m->colsb[a] / 4;
    lk_model_need(c != a && c != b && a != b, "one tile as two operands");
    lk_model_tile(a), lk_model_tile(b), lk_model_tile(c);
    lk_model_need(m->colsb[a] % 4 == 0 && m->colsb[b] % 4 == 0, "a part of an element");
    lk_model_need(m->rows[c] == m->rows[a] && n_k == m->rows[b] && m->colsb[c] == m->colsb[b], "shapes that differ");
    return n_k;
}

/* c[m, n] += (sum over k of a[m, 2k] b[k, 2n]) + (sum over k of a[m, 2k + 1] b[k, 2n + 1]): each sum from zero by fused
 * multiply-adds in order of k, then two additions, all to nearest even. */
LK_MODEL void _tile_dpbf16ps(int c, int a, int b)
{
    struct lk_model_tiles *m = &lk_model_tiles;
    int n_k = lk_model_need_shapes(c, a, b), n_col = m->colsb[c] / 4;
    for (int i = 0; i < m->rows[c]; i++) {
        float sum[2][LK_MODEL_COLSB / 4] = {{0}};
        for (int k = 0; k < n_k; k++)
            for (int h = 0; h < 2; h++) {
                float x = lk_model_half(m->at[a][i][k], h);
                for (int n = 0; n < n_col; n++)
                    sum[h][n] = lk_model_ftz(fmaf(x, lk_model_half(m->at[b][k][n], h), sum[h][n]));
            }
        for (int n = 0; n < n_col; n++)
            m->at[c][i][n] = lk_model_ftz(lk_model_ftz(m->at[c][i][n]) + lk_model_ftz(sum[0][n] + sum[1][n]));
    }
}

LK_MODEL_STEP uint32_t lk_model_word(float element)
{
    uint32_t u;
    memcpy(&u, &element, sizeof u);
    return u;
}

/* c[m, n] += sum over k and b of byte b of a[m, k] times byte b of b[k, n], both with sign, modulo 2^32. */
LK_MODEL void _tile_dpbssd(int c, int a, int b)
{
    struct lk_model_tiles *m = &lk_model_tiles;
    int n_k = lk_model_need_shapes(c, a, b), n_col = m->colsb[c] / 4;
    for (int i = 0; i < m->rows[c]; i++) {
        for (int n = 0; n < n_col; n++) {
            uint32_t sum = lk_model_word(m->at[c][i][n]);
            for (int k = 0; k < n_k; k++) {
                uint32_t x = lk_model_word(m->at[a][i][k]), y = lk_model_word(m->at[b][k][n]);
                for (int shift = 0; shift < 32; shift += 8)
                    sum += (uint32_t)((int8_t)(x >> shift & 0xff) * (int8_t)(y >> shift & 0xff));
            }
            memcpy(&m->at[c][i][n], &sum, sizeof sum);
        }
    }
}

#endif
