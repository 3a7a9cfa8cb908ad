/* What a warp does together. Fragments by PTX ISA 8.0, "Matrix fragments for mma.m16n8k16" and "ldmatrix". */
#include "kernels/tests/simt/simt_state.h"

/* One half of a pair of bf16. */
static double widen(uint32_t pair, int half)
{
    uint32_t u = half == 0 ? pair << 16 : pair & 0xffff0000u;
    float x;
    memcpy(&x, &u, sizeof x);
    return (double)x;
}

static bool is_finite(uint32_t pair)
{
    return (pair & 0x7f80u) != 0x7f80u && (pair & 0x7f800000u) != 0x7f800000u;
}

static void shuffle(simt_warp *w)
{
    for (int i = 0; i < SIMT_LANES; i++)
        w->y[i] = w->x[w->from[i] & (SIMT_LANES - 1)];
}

static void ballot(simt_warp *w)
{
    uint32_t bits = 0;
    for (int i = 0; i < SIMT_LANES; i++)
        bits |= w->x[i] << i;
    for (int i = 0; i < SIMT_LANES; i++)
        w->y[i] = bits;
}

/* Lane l holds rows l / 4 and l / 4 + 8 of A and C; its columns are pairs from 2 * (l % 4) on. Devices do not say in
 * which order and width they add: here the 16 products and C are added exactly enough (f64, ascending), then rounded.
 * Much of A is zeros, behind the last row or column of a matrix: their products are, unless B has infinities. */
static void mma(simt_warp *w)
{
    uint32_t a[16][8];
    double b[16][8], sum[16][8] = {};
    bool finite = true;
    for (int l = 0; l < SIMT_LANES; l++) {
        int g = l / 4, pair = l % 4;
        for (int i = 0; i < 4; i++)
            a[g + i % 2 * 8][pair + i / 2 * 4] = w->a[l][i];
        for (int i = 0; i < 2; i++) {
            uint32_t y = w->b[l][i];
            finite = finite && is_finite(y);
            b[2 * pair + i * 8][g] = widen(y, 0);
            b[2 * pair + i * 8 + 1][g] = widen(y, 1);
        }
    }
    for (int row = 0; row < 16; row++) {
        for (int pair = 0; pair < 8; pair++) {
            if ((a[row][pair] & 0x7fff7fffu) == 0 && finite)
                continue;
            double low = widen(a[row][pair], 0), high = widen(a[row][pair], 1);
            for (int col = 0; col < 8; col++)
                sum[row][col] += low * b[2 * pair][col];
            for (int col = 0; col < 8; col++)
                sum[row][col] += high * b[2 * pair + 1][col];
        }
    }
    for (int l = 0; l < SIMT_LANES; l++) {
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + i / 2 * 8, col = 2 * (l % 4) + i % 2;
            w->c[l][i] = (float)(sum[row][col] + (double)w->c[l][i]);
        }
    }
}

/* Lanes 8m .. 8m + 7 have the addresses of the rows of matrix m. */
static void ldmatrix(simt_warp *w)
{
    simt_fiber *last = simt_now.fiber, *lanes = last - last->id % SIMT_LANES;
    int n = w->kind & (SIMT_TRANSPOSED - 1);
    uint16_t m[4][8][8];
    for (int l = 0; l < 8 * n; l++) {
        simt_become(&lanes[l]);
        simt_load(m[l / 8][l % 8], w->row[l], 16);
    }
    simt_become(last);
    for (int l = 0; l < SIMT_LANES; l++) {
        for (int i = 0; i < n; i++) {
            int row = l / 4, col = 2 * (l % 4);
            uint32_t low = w->kind & SIMT_TRANSPOSED ? m[i][col][row] : m[i][row][col];
            uint32_t high = w->kind & SIMT_TRANSPOSED ? m[i][col + 1][row] : m[i][row][col + 1];
            w->r[l][i] = low | high << 16;
        }
    }
}

void simt_warp_run(simt_warp *w)
{
    switch (w->op) {
    case SIMT_SHUFFLE:
        shuffle(w);
        break;
    case SIMT_BALLOT:
        ballot(w);
        break;
    case SIMT_MMA:
        mma(w);
        break;
    case SIMT_LDMATRIX:
        ldmatrix(w);
        break;
    case SIMT_SYNC: /* the one operation that orders memory */
        w->time = simt_next_time();
        simt_become(simt_now.fiber);
        break;
    }
}
