/* What a warp does together. Fragments by PTX ISA 8.0, "Matrix fragments for mma.m16n8k16" and "ldmatrix". */
#include "kernels/tests/simt/simt_state.h"

static float widen(uint32_t half)
{
    uint32_t u = half << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static void shuffle(simt_fiber *lanes)
{
    uint32_t x[SIMT_LANES];
    for (int i = 0; i < SIMT_LANES; i++)
        x[i] = lanes[i].lane.x;
    for (int i = 0; i < SIMT_LANES; i++)
        lanes[i].lane.x = x[lanes[i].lane.from & (SIMT_LANES - 1)];
}

static void ballot(simt_fiber *lanes)
{
    uint32_t bits = 0;
    for (int i = 0; i < SIMT_LANES; i++)
        bits |= (lanes[i].lane.x ? 1u : 0u) << i;
    for (int i = 0; i < SIMT_LANES; i++)
        lanes[i].lane.x = bits;
}

/* Lane l holds rows l / 4 and l / 4 + 8 of A and C; its columns are pairs from 2 * (l % 4) on. Devices do not say in
 * which order and width they add: here the 16 products and C are added exactly enough (f64, ascending), then rounded.
 */
static void mma(simt_fiber *lanes)
{
    double a[16][16], b[16][8], sum[16][8] = {};
    for (int l = 0; l < SIMT_LANES; l++) {
        const simt_lane *x = &lanes[l].lane;
        int g = l / 4, k = 2 * (l % 4);
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++)
                a[g + i % 2 * 8][k + half + i / 2 * 8] = (double)widen(x->a[i] >> 16 * half & 0xffffu);
            for (int i = 0; i < 2; i++)
                b[k + half + i * 8][g] = (double)widen(x->b[i] >> 16 * half & 0xffffu);
        }
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 8; col++)
                sum[row][col] += a[row][k] * b[k][col];
    for (int l = 0; l < SIMT_LANES; l++) {
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + i / 2 * 8, col = 2 * (l % 4) + i % 2;
            lanes[l].lane.c[i] = (float)(sum[row][col] + (double)lanes[l].lane.c[i]);
        }
    }
}

/* Lanes 8m .. 8m + 7 have the addresses of the rows of matrix m. */
static void ldmatrix(simt_fiber *lanes)
{
    const simt_thread *last = simt_now;
    int n = lanes[0].lane.n;
    uint16_t m[4][8][8];
    for (int l = 0; l < 8 * n; l++) {
        simt_now = &lanes[l].self;
        simt_load(m[l / 8][l % 8], lanes[l].lane.row, 16);
    }
    simt_now = last;
    for (int l = 0; l < SIMT_LANES; l++) {
        for (int i = 0; i < n; i++) {
            int row = l / 4, col = 2 * (l % 4);
            uint32_t low = lanes[l].lane.transposed ? m[i][col][row] : m[i][row][col];
            uint32_t high = lanes[l].lane.transposed ? m[i][col + 1][row] : m[i][row][col + 1];
            lanes[l].lane.r[i] = low | high << 16;
        }
    }
}

void simt_warp_run(simt_fiber *lanes)
{
    switch (lanes[0].lane.op) {
    case SIMT_SHUFFLE:
        shuffle(lanes);
        break;
    case SIMT_BALLOT:
        ballot(lanes);
        break;
    case SIMT_MMA:
        mma(lanes);
        break;
    case SIMT_LDMATRIX:
        ldmatrix(lanes);
        break;
    case SIMT_SYNC: /* the one operation that orders memory */
        simt_the_block.warp[lanes[0].id / SIMT_LANES]++;
        break;
    case SIMT_NO_OP:
        break;
    }
}
